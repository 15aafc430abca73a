# syntax=docker/dockerfile:1
ARG GO=1.24
ARG NODE=22
ARG OS=alpine
FROM golang:${GO}-${OS} AS go-base
WORKDIR /m
FROM node:${NODE}-${OS} AS node-base
WORKDIR /m
FROM alpine:3.21 AS run-base
RUN apk add --no-cache ca-certificates tzdata && adduser -D -u 10001 svc
FROM go-base AS go-deps
COPY go.work go.work.sum ./
COPY libs/go.mod libs/go.sum libs/
COPY svc/accounts/go.mod svc/accounts/go.sum svc/accounts/
COPY svc/billing/go.mod svc/billing/go.sum svc/billing/
COPY svc/catalog/go.mod svc/catalog/go.sum svc/catalog/
RUN --mount=type=cache,target=/go/pkg/mod go work sync && go mod download
FROM go-deps AS go-src
COPY libs libs
FROM go-src AS accounts-build
COPY svc/accounts svc/accounts
RUN --mount=type=cache,target=/root/.cache/go-build --mount=type=cache,target=/go/pkg/mod go build -o /accounts ./svc/accounts
FROM go-src AS billing-build
COPY svc/billing svc/billing
RUN --mount=type=cache,target=/root/.cache/go-build --mount=type=cache,target=/go/pkg/mod go build -o /billing ./svc/billing
FROM go-src AS catalog-build
COPY svc/catalog svc/catalog
RUN --mount=type=cache,target=/root/.cache/go-build --mount=type=cache,target=/go/pkg/mod go build -o /catalog ./svc/catalog
FROM node-base AS web-deps
COPY web/package.json web/package-lock.json ./
RUN --mount=type=cache,target=/root/.npm npm ci
FROM web-deps AS web-build
COPY web .
RUN npm run build
FROM web-build AS storybook-build
RUN npm run storybook:build
FROM run-base AS accounts
COPY --from=accounts-build /accounts /svc
USER svc
ENTRYPOINT ["/svc"]
FROM run-base AS billing
COPY --from=billing-build /billing /svc
USER svc
ENTRYPOINT ["/svc"]
FROM run-base AS catalog
COPY --from=catalog-build /catalog /svc
USER svc
ENTRYPOINT ["/svc"]
FROM nginx:alpine AS web
COPY --from=web-build /m/dist /usr/share/nginx/html
FROM nginx:alpine AS storybook
COPY --from=storybook-build /m/storybook-static /usr/share/nginx/html
FROM scratch AS all
COPY --from=accounts /svc /accounts
COPY --from=billing /svc /billing
COPY --from=catalog /svc /catalog
COPY --from=web /usr/share/nginx/html /web
