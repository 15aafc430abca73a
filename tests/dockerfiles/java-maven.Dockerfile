FROM maven:3.9-eclipse-temurin-21 AS build
WORKDIR /workspace
COPY pom.xml ./
COPY core/pom.xml core/
COPY web/pom.xml web/
RUN --mount=type=cache,target=/root/.m2,id=maven mvn -B -q dependency:go-offline
COPY core/src core/src
COPY web/src web/src
RUN --mount=type=cache,target=/root/.m2,id=maven mvn -B -q package -DskipTests

FROM eclipse-temurin:21-jre
ARG JAR=web/target/*.jar
ENV JAVA_TOOL_OPTIONS="-XX:MaxRAMPercentage=75 -XX:+ExitOnOutOfMemoryError"
RUN groupadd --system spring && useradd --system --gid spring spring
COPY --from=build /workspace/${JAR} /app/app.jar
USER spring:spring
EXPOSE 8080 8081
HEALTHCHECK --interval=1m --timeout=5s --retries=5 \
    CMD wget -qO- http://127.0.0.1:8081/actuator/health | grep -q UP
ENTRYPOINT exec java $JAVA_OPTS -jar /app/app.jar
