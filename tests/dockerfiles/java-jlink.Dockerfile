FROM eclipse-temurin:21-jdk-alpine AS jre
RUN apk add --no-cache binutils
RUN $JAVA_HOME/bin/jlink \
         --add-modules java.base,java.logging,java.naming,java.sql,jdk.unsupported \
         --strip-debug \
         --no-man-pages \
         --no-header-files \
         --compress=zip-6 \
         --output /javaruntime

FROM gradle:8.14-jdk21-alpine AS build
USER gradle
WORKDIR /home/gradle/src
COPY --chown=gradle:gradle settings.gradle.kts build.gradle.kts gradle.properties ./
COPY --chown=gradle:gradle gradle gradle
RUN --mount=type=cache,target=/home/gradle/.gradle/caches,uid=1000,gid=1000 gradle --no-daemon dependencies
COPY --chown=gradle:gradle src src
RUN --mount=type=cache,target=/home/gradle/.gradle/caches,uid=1000,gid=1000 gradle --no-daemon installDist

FROM alpine:3.21
ENV JAVA_HOME=/opt/java/openjdk
ENV PATH "${JAVA_HOME}/bin:${PATH}"
COPY --from=jre /javaruntime $JAVA_HOME
COPY --from=build /home/gradle/src/build/install/ledger /opt/ledger
RUN addgroup -S ledger && adduser -S ledger -G ledger && mkdir -p /var/ledger && chown ledger: /var/ledger
USER ledger
VOLUME /var/ledger
WORKDIR /var/ledger
STOPSIGNAL 15
CMD ["/opt/ledger/bin/ledger"]
