ARG SBT_IMAGE=sbtscala/scala-sbt:eclipse-temurin-21.0.6_7_1.10.11_3.6.4
FROM ${SBT_IMAGE} AS sbt
WORKDIR /build
COPY project/build.properties project/plugins.sbt project/
COPY build.sbt .
RUN --mount=type=cache,target=/root/.ivy2 \
    --mount=type=cache,target=/root/.cache/coursier \
    --mount=type=cache,target=/root/.sbt \
    sbt update

FROM sbt AS stage
COPY . .
RUN --mount=type=cache,target=/root/.ivy2 --mount=type=cache,target=/root/.cache/coursier --mount=type=cache,target=/root/.sbt sbt Docker/stage
RUN ["chmod", "-R", "u=rX,g=rX", "/build/target/docker/stage/4/opt/docker"]
RUN ["chmod", "u+x,g+x", "/build/target/docker/stage/4/opt/docker/bin/bidder"]

FROM eclipse-temurin:21-jre AS mainstage
USER root
RUN id -u demiourgos728 1>/dev/null 2>&1 || (( getent group 0 1>/dev/null 2>&1 || groupadd -g 0 root ) && useradd --system --create-home --uid 1001 --gid 0 demiourgos728 )
WORKDIR /opt/docker
COPY --from=stage --chown=demiourgos728:root /build/target/docker/stage/2/opt/docker /opt/docker
COPY --from=stage --chown=demiourgos728:root /build/target/docker/stage/4/opt/docker /opt/docker
USER 1001:0
ENTRYPOINT ["/opt/docker/bin/bidder"]
CMD []
