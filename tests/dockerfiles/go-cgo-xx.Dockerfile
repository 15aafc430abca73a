# syntax=docker/dockerfile:1.7
FROM --platform=$BUILDPLATFORM tonistiigi/xx:1.6.1 AS xx

FROM --platform=$BUILDPLATFORM golang:1.24-bookworm AS build
COPY --from=xx / /
RUN apt-get update && apt-get install -y --no-install-recommends clang lld
WORKDIR /src
ARG TARGETPLATFORM
ARG TARGETOS TARGETARCH TARGETVARIANT
RUN xx-apt-get install -y libc6-dev libsqlite3-dev gcc
COPY . .
ENV CGO_ENABLED=1
RUN --mount=type=cache,target=/root/.cache,id=go-build-$TARGETPLATFORM,sharing=private <<'EOT'
#!/bin/bash
set -euo pipefail
if [ "$TARGETARCH" = arm ]; then
  export GOARM="${TARGETVARIANT#v}"
fi
xx-go build -tags "sqlite_fts5 libsqlite3" -o /out/indexer ./cmd/indexer
xx-verify /out/indexer
EOT

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends libsqlite3-0 ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build --chmod=0755 /out/indexer /usr/bin/
VOLUME /var/lib/indexer
USER nobody:nogroup
CMD indexer --data /var/lib/indexer
