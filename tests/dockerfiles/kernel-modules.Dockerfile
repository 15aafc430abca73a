FROM debian:bookworm AS build
ARG KERNEL=6.1.0-37
ARG FLAVOUR=amd64
RUN apt-get update -o "Acquire::Retries=3" && \
    # blank and comment lines inside of a command

    apt-get install -y \

      linux-headers-${KERNEL}-${FLAVOUR} \
      # dkms \
      build-essential
ADD driver-1.0.tar.gz driver-1.1.tar.gz /usr/src/
RUN cd /usr/src/driver-1.1 && make KVER=${KERNEL}-${FLAVOUR}

FROM scratch as modules
COPY --from=build /usr/src/driver-1.1/*.ko /lib/modules/extra/
