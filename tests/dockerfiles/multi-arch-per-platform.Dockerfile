# syntax=docker/dockerfile:1
ARG TARGETARCH
FROM alpine:3.21 AS base-amd64
ENV MARCH=x86-64-v3
FROM alpine:3.21 AS base-arm64
ENV MARCH=armv8-a
FROM base-${TARGETARCH} AS base
ARG TARGETARCH
ARG TARGETVARIANT
RUN apk add --no-cache build-base
WORKDIR /src
COPY . .
RUN make CFLAGS="-O2 -march=$MARCH" ARCH=${TARGETARCH}${TARGETVARIANT}

FROM --platform=linux/amd64 alpine:3.21 AS qemu
RUN apk add --no-cache qemu-aarch64

FROM --platform=$TARGETPLATFORM alpine:3.21
COPY --from=base /src/a.out /usr/bin/
COPY --from=qemu /usr/bin/qemu-aarch64 /usr/bin/
