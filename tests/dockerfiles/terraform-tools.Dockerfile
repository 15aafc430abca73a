# syntax=docker/dockerfile:1
FROM alpine:3.21 AS fetch
RUN apk add --no-cache curl unzip
WORKDIR /dl
ARG TARGETARCH
ARG TERRAFORM=1.12.1 KUBECTL=1.33.1 HELM=3.18.0

FROM fetch AS terraform
RUN curl -fsSLO https://releases.hashicorp.com/terraform/${TERRAFORM}/terraform_${TERRAFORM}_linux_${TARGETARCH}.zip && unzip terraform_*.zip

FROM fetch AS kubectl
ADD --chmod=0755 https://dl.k8s.io/release/v${KUBECTL}/bin/linux/${TARGETARCH}/kubectl kubectl

FROM fetch AS helm
ADD --link https://get.helm.sh/helm-v${HELM}-linux-${TARGETARCH}.tar.gz?download=1#x helm.tgz
RUN tar xzf helm.tgz --strip-components=1

FROM alpine:3.21
RUN --mount=type=cache,target=/etc/apk/cache apk add bash git jq openssh-client
COPY --link --from=terraform /dl/terraform /usr/local/bin/
COPY --link --from=kubectl   /dl/kubectl   /usr/local/bin/
COPY --link --from=helm      /dl/helm      /usr/local/bin/
COPY --link --from=alpine/git:latest /usr/bin/git-lfs /usr/local/bin/
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN terraform version | head -1; kubectl version --client; helm version
WORKDIR /work
ENTRYPOINT ["/bin/bash"]
