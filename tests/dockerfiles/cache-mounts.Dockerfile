# syntax=docker/dockerfile:1
FROM alpine:3.21 AS seed
RUN mkdir -p /seed/a && date > /seed/a/when

FROM alpine:3.21
ARG CACHE_ID=v1
WORKDIR /w
RUN --mount=type=cache,target=/var/cache/apk ln -s /var/cache/apk /etc/apk/cache && apk add make
RUN --mount=type=cache,target=rel/dir/../x echo relative
RUN --mount=type=cache,id=seeded-$CACHE_ID,target=/c,from=seed,source=/seed ls /c
RUN --mount=type=cache,id=owned,target=/c,mode=0770,uid=1000,gid=1000 ls -ld /c
RUN --mount=type=cache,id=owned-seeded,target=/c,from=seed,uid=1000 ls -ld /c
RUN --mount=type=cache,id=ro,target=/c,readonly ls /c
RUN --mount=type=cache,id=private,target=/c,sharing=private --mount=type=cache,id=locked,target=/d,sharing=locked true
RUN --mount=type=cache,\"target=/with,comma\",id=comma true
RUN --mount=type=bind,target=/src,from=seed,source=seed/a,readwrite touch /src/x
