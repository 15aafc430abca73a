FROM alpine:3.21 AS zig
ARG ZIG_VERSION=0.14.1
ARG BUILDARCH
RUN apk add --no-cache curl xz minisign
RUN <<EOT
set -eu
case $BUILDARCH in amd64) a=x86_64;; arm64) a=aarch64;; esac
mkdir -p /opt/zig
curl -fL "https://ziglang.org/download/${ZIG_VERSION}/zig-$a-linux-${ZIG_VERSION}.tar.xz" |
  tar -xJ --strip-components=1 -C /opt/zig
EOT
ENV PATH=/opt/zig:$PATH

FROM zig AS build
ARG TARGETARCH TARGETVARIANT
WORKDIR /src
COPY --link build.zig build.zig.zon ./
COPY --link src/ ./src/
RUN --mount=type=cache,target=/root/.cache/zig \
    --mount=type=cache,target=.zig-cache \
    zig build -Doptimize=ReleaseSafe --prefix /out

FROM scratch
COPY --from=build --link /out/bin/ /bin/
ENTRYPOINT ["/bin/relay"]
