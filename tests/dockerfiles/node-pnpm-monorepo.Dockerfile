# syntax=docker/dockerfile:1.20
# check=skip=SecretsUsedInArgOrEnv
ARG NODE_VERSION="22.16.0"
ARG PNPM_VERSION=10.11.0

FROM node:${NODE_VERSION%%.*}-alpine AS base
ARG PNPM_VERSION
ENV PNPM_HOME=/pnpm
ENV PATH="$PNPM_HOME:$PATH"
RUN corepack enable && corepack prepare pnpm@${PNPM_VERSION} --activate
WORKDIR /repo

FROM base AS manifests
COPY --parents pnpm-lock.yaml pnpm-workspace.yaml package.json packages/*/package.json apps/*/package.json ./

FROM base AS deps
COPY --from=manifests /repo ./
RUN --mount=type=cache,id=pnpm,target=/pnpm/store pnpm install --frozen-lockfile

FROM deps AS sources
COPY --exclude=**/*.test.ts --exclude=**/dist --exclude=docs . .

FROM sources AS lint
RUN pnpm -r lint

FROM sources AS test
ENV CI=true
RUN pnpm -r test -- --reporter=junit

FROM sources AS build-shared
RUN pnpm --filter "./packages/*" build

FROM build-shared AS build-web
ARG API_KEY_NAME
RUN --mount=type=secret,id=sentry,env=SENTRY_AUTH_TOKEN pnpm --filter web build

FROM build-shared AS build-api
RUN pnpm --filter api build && pnpm deploy --filter=api --prod /out/api

FROM build-shared AS build-worker
RUN pnpm --filter worker build && pnpm deploy --filter=worker --prod /out/worker

FROM base AS runtime
RUN apk add --no-cache tini
ENTRYPOINT ["/sbin/tini", "--"]
USER 1000

FROM runtime AS api
COPY --link --from=build-api /out/api /app
WORKDIR /app
EXPOSE 4000
CMD ["node", "dist/main.js"]

FROM runtime AS worker
COPY --link --from=build-worker /out/worker /app
WORKDIR /app
CMD ["node", "dist/worker.js"]

FROM nginx:1.27-alpine AS web
COPY --link --from=build-web /repo/apps/web/dist /usr/share/nginx/html
COPY <<"CONF" /etc/nginx/conf.d/default.conf
server {
  listen 80;
  root /usr/share/nginx/html;
  location / { try_files $uri $uri/ /index.html; }
}
CONF

FROM scratch AS reports
COPY --from=test /repo/**/junit.xml /
