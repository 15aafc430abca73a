FROM debian:bullseye
MAINTAINER "Ops" ops@example.com
ENV LANG C.UTF-8
ENV TZ Europe/Berlin
ENV APP_HOME /srv/app dir
RUN apt-get update
RUN apt-get install -y apache2 php libapache2-mod-php \
    php-mysql \
    php-gd   \
    php-xml

ADD ./site.conf /etc/apache2/sites-available/000-default.conf
ADD vendor.tar.gz /var/www/
COPY . /var/www/html
RUN a2enmod rewrite && chown -R www-data:www-data /var/www
VOLUME /var/log/apache2 /var/www/html/uploads
EXPOSE 80
EXPOSE 443
CMD /usr/sbin/apache2ctl -D FOREGROUND
