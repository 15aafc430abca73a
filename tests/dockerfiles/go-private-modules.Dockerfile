# syntax=docker/dockerfile:1.10@sha256:865e5dd094beca432e8c0a1d5e1c465db5f998dca4e439981029b3b81fb39ed5
FROM golang:1.24 AS modules
ENV GOPRIVATE=git.example.com/*
RUN mkdir -p -m 0700 ~/.ssh && ssh-keyscan git.example.com >> ~/.ssh/known_hosts
RUN git config --global url."ssh://git@git.example.com/".insteadOf "https://git.example.com/"
WORKDIR /src
COPY go.* .
RUN --mount=type=ssh,required \
    --mount=type=secret,id=netrc,target=/root/.netrc,required=true,mode=0600 \
    --mount=type=secret,id=goproxy,env=GOPROXY \
    --mount=type=cache,id=gomod,target=/go/pkg/mod,sharing=locked \
    go mod download

FROM modules AS build
COPY ./ ./
RUN --network=none \
    --mount=type=cache,id=gomod,target=/go/pkg/mod,ro \
    --mount=type=tmpfs,target=/tmp,size=512m \
    CGO_ENABLED=0 go build -mod=readonly -o /bin/agent .

FROM scratch
COPY --from=modules /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /bin/agent /agent
USER 65534:65534
ENTRYPOINT ["/agent"]
