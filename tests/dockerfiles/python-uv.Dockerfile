# syntax=docker/dockerfile:1
FROM ghcr.io/astral-sh/uv:0.7 AS uv

FROM python:3.13-slim AS builder
COPY --from=uv /uv /uvx /bin/
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=0
WORKDIR /app
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=uv.lock,target=uv.lock \
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \
    uv sync --locked --no-install-project --no-dev
COPY . /app
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --locked --no-dev

FROM builder AS test
RUN --mount=type=cache,target=/root/.cache/uv uv sync --locked --group test
RUN uv run pytest -q

FROM python:3.13-slim
RUN ["groupadd", "--system", "--gid", "999", "nonroot"]
RUN ["useradd", "--system", "--gid", "999", "--uid", "999", "--create-home", "nonroot"]
COPY --from=builder --chown=nonroot:nonroot /app /app
ENV PATH="/app/.venv/bin:$PATH"
USER nonroot
WORKDIR /app
CMD ["fastapi", "run", "--host", "0.0.0.0", "src/service"]
