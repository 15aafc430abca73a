# syntax=docker/dockerfile:1
FROM composer:2 AS vendor
WORKDIR /app
COPY composer.json composer.lock ./
RUN --mount=type=cache,target=/tmp/cache \
    --mount=type=secret,id=composer_auth,target=/tmp/auth.json \
    composer install --no-dev --no-scripts --no-interaction --prefer-dist

FROM node:22-alpine AS assets
WORKDIR /app
COPY package*.json vite.config.js ./
RUN --mount=type=cache,target=/root/.npm npm ci
COPY resources resources
RUN npm run build

FROM php:8.4-fpm-alpine AS php
ENV PHP_OPCACHE_VALIDATE_TIMESTAMPS="0"
RUN apk add --no-cache --virtual .build $PHPIZE_DEPS icu-dev libzip-dev postgresql-dev \
 && docker-php-ext-install -j$(nproc) intl opcache pdo_pgsql zip \
 && apk add --no-cache $(scanelf --needed --nobanner --format '%n#p' -r /usr/local/lib/php/extensions \
      | tr ',' '\n' | sort -u | awk 'system("[ -e /usr/local/lib/" $1 " ]") == 0 { next } { print "so:" $1 }') \
 && apk del .build
COPY --from=vendor /app/vendor vendor
COPY . .
COPY --from=assets /app/public/build public/build
COPY <<INI $PHP_INI_DIR/conf.d/zz-app.ini
memory_limit = 256M
opcache.enable = 1
opcache.validate_timestamps = ${PHP_OPCACHE_VALIDATE_TIMESTAMPS}
INI
RUN chown -R www-data:www-data storage bootstrap/cache
USER www-data
HEALTHCHECK NONE

FROM nginx:1.27-alpine AS web
COPY docker/nginx.conf /etc/nginx/templates/default.conf.template
COPY --from=php /var/www/html/public /var/www/html/public
ENV PHP_HOST=php PHP_PORT=9000
