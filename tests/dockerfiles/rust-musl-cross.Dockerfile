# syntax=docker/dockerfile:1
ARG RUST_VERSION=1.87.0
FROM --platform=$BUILDPLATFORM rust:${RUST_VERSION%.*}-alpine AS build
RUN apk add --no-cache musl-dev clang lld
ARG TARGETARCH
ARG TARGETPLATFORM
ENV PLATFORM_SLUG=${TARGETPLATFORM//\//-}
WORKDIR /build
RUN <<EOF
case "$TARGETARCH" in
  amd64) triple=x86_64-unknown-linux-musl ;;
  arm64) triple=aarch64-unknown-linux-musl ;;
  *) echo "no triple for $TARGETPLATFORM" >&2; exit 1 ;;
esac
rustup target add "$triple"
printf '[build]\ntarget = "%s"\n[target.%s]\nlinker = "rust-lld"\n' "$triple" "$triple" > /usr/local/cargo/config.toml
EOF
RUN --mount=type=bind,source=.,target=.,rw \
    --mount=type=cache,target=/build/target,id=target-$TARGETARCH \
    --mount=type=cache,target=/usr/local/cargo/git/db \
    --mount=type=cache,target=/usr/local/cargo/registry/ \
    cargo build --locked --release && install -D target/*/release/hook /out/hook-$PLATFORM_SLUG

FROM scratch AS binary
COPY --from=build /out/hook-* /

FROM alpine:3.21 AS image
RUN adduser -D -u 1000 hook
COPY --link --chown=1000:1000 --from=binary /hook-* /usr/bin/hook
USER hook
ENTRYPOINT ["hook"]
