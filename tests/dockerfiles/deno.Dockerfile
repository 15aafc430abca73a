FROM denoland/deno:bin-2.3.3 AS bin
FROM denoland/deno:alpine-2.3.3
EXPOSE 8000
WORKDIR /app
USER deno
COPY deno.json deno.lock ./
COPY deps.ts .
RUN deno cache deps.ts
COPY --exclude=*.test.ts . .
RUN --mount=from=bin,source=/deno,target=/usr/local/bin/deno-check \
    deno-check check main.ts && \
    deno cache main.ts
USER root
RUN rm -rf /root/.cache
USER deno
ENV DENO_NO_UPDATE_CHECK=1 DENO_DEPLOYMENT_ID=$DENO_VERSION
CMD ["run", "--allow-net=:8000", "--allow-env", "main.ts"]
