from alpine:3.19 as build
run apk add --no-cache --virtual .build-deps gcc musl-dev make \
    && apk add --no-cache lua5.4
workdir /usr/src
add https://www.lua.org/ftp/lua-5.4.7.tar.gz lua.tar.gz
run tar xzf lua.tar.gz && make -C lua-5.4.7 linux && apk del .build-deps

from alpine:3.19
label maintainer="someone@example.com" version="1.0"
copy --from=0 /usr/src/lua-5.4.7/src/lua /usr/local/bin/
copy --from=build /usr/src/lua-5.4.7/src/luac /usr/local/bin/
env LUA_PATH "/usr/share/lua/?.lua;;"
user nobody
workdir scripts
entrypoint ["lua"]
cmd ["-i"]
