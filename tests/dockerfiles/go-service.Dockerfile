# syntax=docker/dockerfile:1

# The service, built on the machine's own platform for any other.
ARG GO_VERSION=1.24
ARG ALPINE_VERSION=3.21

FROM --platform=$BUILDPLATFORM golang:${GO_VERSION}-alpine${ALPINE_VERSION} AS base
WORKDIR /src
RUN apk add --no-cache git ca-certificates
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download -x

FROM base AS lint
COPY --from=golangci/golangci-lint:v2.1-alpine /usr/bin/golangci-lint /usr/local/bin/
RUN --mount=type=bind,target=. \
    --mount=type=cache,target=/root/.cache \
    --mount=type=cache,target=/go/pkg/mod \
    golangci-lint run ./...

FROM base AS test
RUN --mount=type=bind,target=. \
    --mount=type=cache,target=/root/.cache/go-build \
    --mount=type=cache,target=/go/pkg/mod <<EOT
  set -eu
  mkdir -p /out
  go test -race -coverprofile=/out/cover.txt -covermode=atomic ./...
  go tool cover -func=/out/cover.txt | tail -1
EOT

FROM scratch AS coverage
COPY --from=test /out/cover.txt /

FROM base AS build
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
ENV CGO_ENABLED=0 GOFLAGS=-trimpath
RUN --mount=type=bind,target=. \
    --mount=type=cache,target=/root/.cache/go-build \
    --mount=type=cache,target=/go/pkg/mod \
    GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -ldflags "-s -w -X main.version=${VERSION}" -o /out/api ./cmd/api

FROM gcr.io/distroless/static-debian12:nonroot
COPY --link --from=build /out/api /usr/local/bin/api
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=2s --start-period=5s CMD ["/usr/local/bin/api", "healthz"]
ENTRYPOINT ["/usr/local/bin/api"]
CMD ["serve"]
