# syntax=docker/dockerfile:1
FROM ubuntu:22.04
LABEL maintainer='CI Team <ci@example.com>' description="A runner\
  with a label of two lines"
ENV DEBIAN_FRONTEND="noninteractive" \
    RUNNER_HOME=/opt/runner \
    PATH=/opt/runner/bin:$PATH
RUN useradd -m -u 1001 runner \
    && usermod -aG sudo runner \
    && printf '%s ALL=(ALL) NOPASSWD: ALL\n' runner > /etc/sudoers.d/runner
WORKDIR ${RUNNER_HOME}
ARG RUNNER_VERSION=2.325.0
ARG TARGETARCH=amd64
RUN arch=$(test "$TARGETARCH" = amd64 && echo x64 || echo "$TARGETARCH"); \
    curl -fsSL https://github.com/actions/runner/releases/download/v${RUNNER_VERSION}/actions-runner-linux-${arch}-${RUNNER_VERSION}.tar.gz | tar xz
COPY --chown=runner --chmod=+x entrypoint.sh ./
COPY --chown=1001:runner --chmod=a=r,u+w config/ config/
USER runner:runner
WORKDIR work
ONBUILD USER root
ONBUILD RUN ["apt-get", "update"]
ENTRYPOINT ["./../entrypoint.sh"]
