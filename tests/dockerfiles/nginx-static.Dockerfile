FROM node:22-alpine AS site
WORKDIR /site
COPY package*.json ./
RUN npm ci
COPY . .
RUN npm run build -- --base /

FROM nginxinc/nginx-unprivileged:1.27-alpine
USER root
RUN rm -rf /usr/share/nginx/html/*
COPY --chmod=u=rwX,go=rX --from=site /site/dist/ /usr/share/nginx/html/
COPY nginx.conf /etc/nginx/nginx.conf
COPY <<EOF /usr/share/nginx/html/version.json
{"name": "docs", "nginx": "${NGINX_VERSION:-unknown}"}
EOF
RUN find /usr/share/nginx/html -type f \( -name '*.js' -o -name '*.css' \) -exec gzip -k9 {} +
USER 101
HEALTHCHECK CMD wget -q --spider http://localhost:8080/ || exit 1
