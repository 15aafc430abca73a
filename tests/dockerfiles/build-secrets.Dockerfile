# syntax=docker/dockerfile:1.10
FROM python:3.12-slim
ARG PIP_INDEX_URL
ARG NPM_TOKEN
ENV AWS_SECRET_ACCESS_KEY="" \
    PUBLIC_KEY=/etc/keys/public.pem \
    KEY_FILE=/run/key
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,mode=0444,uid=0,gid=0 \
    pip install internal-sdk
RUN --mount=type=secret,id=aws,required --mount=type=secret,id=token,env=API_TOKEN,required=true \
    AWS_SHARED_CREDENTIALS_FILE=/run/secrets/aws python -m internal_sdk.fetch --token "$API_TOKEN"
RUN --mount=type=secret,source=kube,target=kube/config \
    --mount=type=secret,target=/root/.config/gcloud.json,env=GCLOUD \
    kubectl --kubeconfig kube/config get nodes
RUN --mount=type=ssh --mount=type=ssh,id=deploy,target=/tmp/agent.sock,mode=0666,uid=1000 \
    SSH_AUTH_SOCK=/tmp/agent.sock git ls-remote git@example.com:infra.git
RUN --mount=type=bind,source=scripts,target=scripts,rw \
    --mount=type=bind,from=alpine:3.21,target=/mnt/alpine \
    --mount=type=tmpfs,target=/scratch,size=1073741824 \
    --mount=type=tmpfs,dst=/run/lock \
    scripts/build.sh
