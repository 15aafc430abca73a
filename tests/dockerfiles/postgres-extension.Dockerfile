# syntax=docker/dockerfile:1
ARG PG_MAJOR=17
FROM postgres:${PG_MAJOR}-bookworm AS build
ARG PG_MAJOR
RUN apt-get update && apt-get install -y --no-install-recommends build-essential postgresql-server-dev-${PG_MAJOR}
ADD https://github.com/pgvector/pgvector.git#v0.8.0 /src
WORKDIR /src
RUN make OPTFLAGS="" && make install DESTDIR=/stage

FROM postgres:${PG_MAJOR}-bookworm
COPY --link --from=build /stage /
COPY --chmod=755 <<"EOF" /docker-entrypoint-initdb.d/10-extensions.sh
#!/bin/bash
set -e
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<-SQL
	CREATE EXTENSION IF NOT EXISTS vector;
SQL
EOF
COPY <<-EOF /etc/postgresql/postgresql.conf
	listen_addresses = '*'
	# data is in ${PGDATA}
	shared_buffers = 512MB
EOF
ENV POSTGRES_INITDB_ARGS="--data-checksums --locale-provider=icu --icu-locale=und"
STOPSIGNAL SIGINT
HEALTHCHECK --interval=10s --timeout=5s --retries=6 --start-period=30s \
  CMD pg_isready -U "${POSTGRES_USER:-postgres}" || exit 1
CMD ["postgres", "-c", "config_file=/etc/postgresql/postgresql.conf"]
