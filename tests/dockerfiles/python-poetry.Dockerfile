FROM python:3.11-slim-bullseye AS python-base
MAINTAINER Platform Team <platform@example.com>

ENV PYTHONUNBUFFERED=1 \
    POETRY_VERSION=1.8.5 \
    POETRY_HOME="/opt/poetry" \
    POETRY_VIRTUALENVS_IN_PROJECT=true \
    POETRY_NO_INTERACTION=1 \
    PYSETUP_PATH="/opt/pysetup" \
    VENV_PATH="/opt/pysetup/.venv"
ENV PATH="$POETRY_HOME/bin:$VENV_PATH/bin:$PATH"

FROM python-base AS builder-base
RUN apt-get update && apt-get install --no-install-recommends -y curl build-essential
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN curl -sSL https://install.python-poetry.org | python3 -
WORKDIR $PYSETUP_PATH
COPY ./poetry.lock ./pyproject.toml ./
RUN poetry install --only main --no-root

FROM builder-base AS development
RUN poetry install
COPY ./docker/entrypoint.sh /docker-entrypoint.sh
RUN chmod +x /docker-entrypoint.sh
WORKDIR /app
COPY . .
EXPOSE 8000
ENTRYPOINT /docker-entrypoint.sh $0 $@
CMD uvicorn --reload --host=0.0.0.0 --port=8000 main:app

FROM python-base AS production
COPY --from=builder-base $VENV_PATH $VENV_PATH
COPY ./app /app/app
WORKDIR /app
CMD ["uvicorn", "app.main:app", "--host=0.0.0.0", "--port=8000"]
