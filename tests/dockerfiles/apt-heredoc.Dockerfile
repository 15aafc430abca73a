# syntax=docker/dockerfile:1
FROM ubuntu:24.04 AS docker-cli

ARG DEBIAN_FRONTEND=noninteractive
SHELL ["/bin/bash", "-euxo", "pipefail", "-c"]

RUN \
  --mount=type=cache,target=/var/cache/apt,sharing=locked \
  --mount=type=cache,target=/var/lib/apt,sharing=locked \
<<EOT
rm -f /etc/apt/apt.conf.d/docker-clean
echo 'Binary::apt::APT::Keep-Downloaded-Packages "true";' > /etc/apt/apt.conf.d/keep-cache
apt-get update
apt-get install -y --no-install-recommends \
  ca-certificates \
  curl \
  gnupg
EOT

ADD --chmod=644 https://download.docker.com/linux/ubuntu/gpg /etc/apt/keyrings/docker.asc
COPY --chmod=0644 <<EOT /etc/apt/sources.list.d/docker.sources
Types: deb
URIs: https://download.docker.com/linux/ubuntu
Suites: noble
Components: stable
Signed-By: /etc/apt/keyrings/docker.asc
EOT

RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt,sharing=locked \
    apt-get update && apt-get install -y docker-ce-cli docker-buildx-plugin

RUN python3 <<PY || true
import sys
print("no python here", file=sys.stderr)
PY

# With the user that continuous integration runs as.
FROM docker-cli AS shell
RUN <<EOT
groupadd --gid 1500 ci
useradd --uid 1500 --gid ci --create-home ci
EOT
USER ci
WORKDIR /home/ci
CMD ["bash", "-l"]
