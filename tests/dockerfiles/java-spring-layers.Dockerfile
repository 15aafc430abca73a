FROM eclipse-temurin:17-jdk AS extract
WORKDIR /extracted
ADD target/*-SNAPSHOT.jar app.jar
RUN java -Djarmode=tools -jar app.jar extract --layers --launcher

FROM gcr.io/distroless/java17-debian12:nonroot
WORKDIR /application
COPY --from=extract /extracted/app/dependencies/ ./
COPY --from=extract /extracted/app/spring-boot-loader/ ./
COPY --from=extract /extracted/app/snapshot-dependencies/ ./
COPY --from=extract /extracted/app/application/ ./
ENV SPRING_PROFILES_ACTIVE=prod
EXPOSE 8080
EXPOSE 8443
LABEL "com.example.framework"='spring boot'
ENTRYPOINT ["java", "org.springframework.boot.loader.launch.JarLauncher"]
