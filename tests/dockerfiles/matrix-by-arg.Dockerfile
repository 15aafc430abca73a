# syntax=docker/dockerfile:1
ARG DISTRO=debian
ARG VARIANT=release
ARG DEBIAN_TAG=bookworm-slim
ARG UBUNTU_TAG=noble
ARG FEDORA_TAG=42

FROM debian:${DEBIAN_TAG} AS base-debian
RUN apt-get update && apt-get install -y g++ cmake ninja-build

FROM ubuntu:${UBUNTU_TAG} AS base-ubuntu
RUN apt-get update && apt-get install -y g++ cmake ninja-build

FROM fedora:${FEDORA_TAG} AS base-fedora
RUN dnf install -y gcc-c++ cmake ninja-build

FROM base-${DISTRO} AS base
WORKDIR /src
COPY . .

FROM base AS build-release
RUN cmake -GNinja -B /b -DCMAKE_BUILD_TYPE=Release && ninja -C /b

FROM base AS build-debug
RUN cmake -GNinja -B /b -DCMAKE_BUILD_TYPE=Debug -DSANITIZE=ON && ninja -C /b

FROM build-${VARIANT} AS built

FROM built AS test
RUN ctest --test-dir /b --output-on-failure

FROM ${DISTRO}:${DEBIAN_TAG}
COPY --from=built /b/tool /usr/bin/tool
COPY --from=base-debian /etc/os-release /usr/share/built-on
CMD ["tool"]
