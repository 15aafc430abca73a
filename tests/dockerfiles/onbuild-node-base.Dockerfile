# syntax=docker/dockerfile:1
FROM node:22-slim AS base
WORKDIR /app
ENV NODE_ENV=production

FROM base AS onbuild
ONBUILD ARG NPM_FLAGS=--omit=dev
ONBUILD COPY package.json package-lock.json ./
ONBUILD RUN --mount=type=cache,target=/root/.npm npm ci ${NPM_FLAGS}
ONBUILD COPY --chown=node:node . .
ONBUILD RUN <<EOT
  set -e
  node --check server.js
EOT
ONBUILD USER node
CMD ["npm", "start"]

# A service made from it, as a user of the image would write it.
FROM onbuild AS service
EXPOSE 3000
CMD ["node", "server.js"]

# The triggers do not go on to those made from the service.
FROM service AS debug
USER root
RUN npm install -g clinic
CMD ["clinic", "doctor", "--", "node", "server.js"]
