# syntax=docker/dockerfile:1.9
ARG CONFIG=RelWithDebInfo
FROM debian:trixie-slim AS toolchain
RUN --mount=target=/var/lib/apt/lists,type=cache,sharing=locked \
    --mount=target=/var/cache/apt,type=cache,sharing=locked \
    apt-get update && apt-get --no-install-recommends install -y \
      ccache clang-19 cmake lld-19 ninja-build \
      # headers only
      libboost-dev \
      zlib1g-dev
ENV CC=clang-19 CXX=clang++-19 \
    CCACHE_DIR=/ccache CCACHE_MAXSIZE=2G \
    CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache

FROM toolchain AS sources
ADD --keep-git-dir=true https://github.com/example/engine.git#v4.2.0:src /src
ADD --checksum=8f4a1c9d0e5b7a6c3f2e1d0c9b8a7f6e5d4c3b2a https://github.com/example/protos.git#main /src/protos
ADD git@github.com:example/assets.git /src/assets
ADD https://example.org/releases/fmt-11.tar.xz /tmp/
ADD patches/*.patch /src/patches/

FROM sources AS build
ARG CONFIG
RUN --mount=type=cache,target=/ccache,id=ccache-$CONFIG cmake -S /src -B /build -G Ninja \
      -DCMAKE_BUILD_TYPE=$CONFIG \
      -DCMAKE_EXE_LINKER_FLAGS="-fuse-ld=lld" && \
    cmake --build /build --parallel && ccache -s

FROM build AS fuzz
RUN --security=insecure --network=host /build/fuzz -max_total_time=60 /src/corpus

FROM scratch AS artifacts
COPY --from=build /build/engine /build/engine.debug /

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=artifacts --chmod=755 /engine /engine
ENTRYPOINT ["/engine"]
