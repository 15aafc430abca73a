# escape=\
FROM node:22-bookworm-slim AS deps

WORKDIR /usr/src/app
COPY package.json package-lock.json ./
RUN --mount=type=cache,target=/root/.npm,sharing=locked \
    npm ci --prefer-offline --no-audit

FROM deps AS build
COPY tsconfig.json ./
COPY src/ src/
RUN npm run build \
 && npm prune --omit=dev

FROM node:22-bookworm-slim
LABEL org.opencontainers.image.title="orders" \
      org.opencontainers.image.description="Takes orders and puts them in a queue" \
      # the year of the first release
      org.opencontainers.image.created="2021" \
      org.opencontainers.image.licenses=MIT
ENV NODE_ENV=production \
    NPM_CONFIG_LOGLEVEL=warn \
    PORT=3000
WORKDIR /usr/src/app
COPY --chown=node:node --from=build /usr/src/app/node_modules ./node_modules
COPY --chown=node:node --from=build /usr/src/app/dist ./dist
COPY --chown=node:node package.json .
USER node
EXPOSE $PORT
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=3s --retries=3 \
  CMD node -e "fetch('http://localhost:' + process.env.PORT + '/health').then(r => process.exit(r.ok ? 0 : 1))"
CMD ["node", "dist/server.js"]
