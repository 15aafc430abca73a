# Both bases have triggers: the first installs and copies, the second brings files of a third image.
FROM hub.example.com/platform/node-onbuild:3 AS app
EXPOSE 3000
HEALTHCHECK CMD ["node", "healthcheck.js"]
CMD ["node", "server.js"]

FROM hub.example.com/platform/site-onbuild:1 AS site
ARG BASE_URL=https://www.example.com/
RUN site-generator --strict --base "$BASE_URL" /site

FROM nginx:1.27-alpine
COPY --from=site /site/public /usr/share/nginx/html
COPY --from=app /app/assets /usr/share/nginx/html/assets
COPY --from=app /app/package.json /usr/share/nginx/html/build.json
RUN nginx -t
