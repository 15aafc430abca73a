ARG REGISTRY
ARG BASE_TAG=3.21
ARG EXTRA="less  jq"
FROM ${REGISTRY:-docker.io}/library/alpine:${BASE_TAG} AS one
ARG REGISTRY EXTRA
ARG BASE_TAG
ARG HTTP_PROXY
ARG no_proxy=localhost
RUN apk add --no-cache $EXTRA && echo "from ${REGISTRY:-hub} at ${BASE_TAG}"

FROM one AS two
ARG EXTRA=overridden
ARG TARGETPLATFORM BUILDPLATFORM
RUN echo "$EXTRA: $BUILDPLATFORM to $TARGETPLATFORM" > /etc/built

FROM alpine:${BASE_TAG}@sha256:a8560b36e8b8210634f77d9f7f9efd7ffa463e380b75e2e74aff4511df3ef88c AS three
ARG TARGETSTAGE
ARG TARGETOS
ENV OS_AND_STAGE="${TARGETOS}/${TARGETSTAGE}"
COPY --from=two /etc/built /etc/
CMD ["cat", "/etc/built"]
