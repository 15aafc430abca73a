FROM nginx:1.27.5 AS modules
# Build only the module: the version must be that of the base.
RUN <<-EOT
	set -eux
	apt-get update
	apt-get install -y --no-install-recommends git gcc libc6-dev make libpcre2-dev zlib1g-dev cmake
	git clone --recurse-submodules --depth 1 https://github.com/google/ngx_brotli /usr/src/ngx_brotli
	curl -fsSL "https://nginx.org/download/nginx-${NGINX_VERSION}.tar.gz" | tar -C /usr/src -xz
EOT
WORKDIR /usr/src/nginx-${NGINX_VERSION}
RUN ./configure --with-compat --add-dynamic-module=../ngx_brotli && make -j"$(nproc)" modules

FROM nginx:1.27.5
COPY --from=modules /usr/src/nginx-${NGINX_VERSION}/objs/*.so /usr/lib/nginx/modules/
COPY <<brotli.conf <<'gzip.conf' /etc/nginx/conf.d/
# written for nginx ${NGINX_VERSION}
brotli on;
brotli_types text/plain application/json;
brotli.conf
gzip on;
gzip_vary on; # $proxied stays as it is
gzip.conf
EXPOSE 80 443/tcp 443/UDP
