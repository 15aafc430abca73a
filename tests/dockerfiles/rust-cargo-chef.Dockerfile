# syntax=docker/dockerfile:1
FROM rust:1.87-slim-bookworm AS chef
WORKDIR /app
RUN cargo install cargo-chef --locked --version ^0.1

FROM chef AS planner
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS builder
ARG PROFILE=release
COPY --from=planner /app/recipe.json recipe.json
# Dependencies alone: this layer stays while Cargo.lock does.
RUN cargo chef cook --profile ${PROFILE} --recipe-path recipe.json
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --profile ${PROFILE} --bin gateway \
 && cp target/$( [ "$PROFILE" = dev ] && echo debug || echo "$PROFILE" )/gateway /gateway

FROM builder AS test
RUN cargo test --workspace

FROM debian:bookworm-slim AS runtime
RUN apt-get update && apt-get install -y --no-install-recommends libssl3 && rm -rf /var/lib/apt/lists/*
COPY --from=builder /gateway /usr/local/bin
ENV RUST_LOG=info,hyper=warn RUST_BACKTRACE=1
USER 1000:1000
ENTRYPOINT ["/usr/local/bin/gateway"]
