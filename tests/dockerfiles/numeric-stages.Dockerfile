FROM golang:1.22
WORKDIR /go/src/app
COPY . .
RUN go build -o /app .

FROM node:20
WORKDIR /ui
COPY ui/ .
RUN yarn && yarn build

FROM alpine:3.20
RUN apk --no-cache add ca-certificates
COPY --from=0 /app /usr/local/bin/app
COPY --from=1 /ui/dist /srv/ui
RUN adduser -D app
USER app
CMD ["app"]
