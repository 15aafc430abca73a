# syntax=docker/dockerfile:1
# check=experimental=all;skip=JSONArgsRecommended

# PYTHON is the version of python, for all stages
ARG PYTHON=3.13
# The theme
ARG THEME=furo

# base holds what all others need
FROM python:${PYTHON}-alpine AS base
ARG THEME
RUN pip install --no-cache-dir sphinx "$THEME"
WORKDIR /docs

# makes html pages
FROM base AS html
COPY . .
# check=skip=UndefinedVar
ENV SPHINXOPTS=$EXTRA_OPTS
ENV OTHER=$SPHINXOPT
RUN sphinx-build -W -b html . /out

# linkcheck fails on dead links
FROM base AS linkcheck
COPY . .
RUN sphinx-build -b linkcheck . /out

FROM scratch AS export
COPY --from=html /out /

FROM nginx:alpine AS serve
COPY --from=html /out /usr/share/nginx/html
CMD nginx -g 'daemon off;'
