FROM haskell:9.8.4-slim-bullseye AS setup
RUN stack --resolver lts-23.18 setup --system-ghc
WORKDIR /opt/build
COPY stack.yaml stack.yaml.lock package.yaml /opt/build/
RUN stack build --system-ghc --only-dependencies

FROM setup AS build
COPY app/ app/
COPY src/ src/
COPY test/ test/
RUN stack build --system-ghc --copy-bins --local-bin-path /opt/bin

FROM build AS test
RUN stack test --system-ghc

FROM debian:bullseye-slim
RUN apt-get update && apt-get install -y --no-install-recommends \
  libgmp10 \
  netbase \
  ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/bin/prices-exe /usr/local/bin/prices
COPY ./static /srv/static
EXPOSE 3000/tcp 3001/udp
ENTRYPOINT [ "/usr/local/bin/prices" ]
CMD [ "+RTS", "-N", "-RTS" ]
