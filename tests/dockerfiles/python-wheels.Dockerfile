ARG PYTHON=3.12
FROM python:${PYTHON}-slim-bookworm as wheels
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt,sharing=locked \
    rm -f /etc/apt/apt.conf.d/docker-clean \
    && apt-get update && apt-get install -yq --no-install-recommends build-essential libpq-dev
COPY requirements*.txt /tmp/req/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --wheel-dir /wheels -r /tmp/req/requirements.txt

FROM python:${PYTHON}-slim-bookworm
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=off \
    PIP_DISABLE_PIP_VERSION_CHECK=on
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        # psycopg needs it
        libpq5 \
        # for the health check
        curl \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* /tmp/* /var/tmp/*
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-index --find-links=/wheels /wheels/*.whl
RUN groupadd -r app -g 10001 && useradd -r -u 10001 -g app -d /app app
WORKDIR /app
COPY --chown=app:app . .
USER app
EXPOSE 8000/tcp
HEALTHCHECK --start-period=20s --start-interval=1s CMD curl -fs http://localhost:8000/healthz || exit 1
ENTRYPOINT ["gunicorn"]
CMD ["--bind=0.0.0.0:8000", "--workers=4", "shop.wsgi:application"]
