FROM wordpress:6.8-php8.3-apache
LABEL com.example.team=web
LABEL com.example.tier=front com.example.owner="The \"Web\" team"
RUN { \
		echo 'upload_max_filesize = 64M'; \
		echo 'post_max_size = 64M'; \
	} > /usr/local/etc/php/conf.d/uploads.ini
COPY --chown=www-data:www-data wp-content/ /usr/src/wordpress/wp-content/
COPY --chown=33:33 ["my theme/", "/usr/src/wordpress/wp-content/themes/my theme/"]
ARG WP_CLI=2.12.0
ADD --chmod=0755 https://github.com/wp-cli/wp-cli/releases/download/v$WP_CLI/wp-cli-$WP_CLI.phar /usr/local/bin/wp
VOLUME ["/var/www/html/wp-content/uploads"]
EXPOSE 80 127.0.0.1:8443:443/tcp
ENV WORDPRESS_DB_PASSWORD_FILE=/run/secrets/db WORDPRESS_AUTH_KEY=unset
CMD apache2-foreground
