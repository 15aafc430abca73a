# syntax=docker/dockerfile:1.20
FROM bufbuild/buf:1.54 AS buf

FROM golang:1.24-alpine AS tools
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build <<EOF
go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.6
go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1
EOF

FROM tools AS gen
COPY --from=buf /usr/local/bin/buf /usr/local/bin/buf
WORKDIR /api
COPY --parents ./api/./proto/**/*.proto ./api/./buf.yaml /api/
RUN buf generate --output /gen

FROM scratch AS update
COPY --parents --from=gen /gen/./**/*.pb.go /

FROM gen AS validate
RUN --mount=type=bind,target=/committed,source=gen <<EOT
#!/bin/sh
if ! diff -r /gen /committed; then
  echo >&2 'ERROR: generated code is out of date'
  exit 1
fi
EOT
