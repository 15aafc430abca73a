# Each stage from the one before, by name, in other cases, and with names said twice.
FROM alpine:3.21 AS Base
ENV A=1
ARG STEP=0
FROM base AS one
ENV A=${A}1
ARG STEP
FROM one as two
ENV A=${A}2
LABEL step=$STEP
WORKDIR here
FROM two AS three
WORKDIR there
USER guest
CMD ["three"]
FROM three AS four
ENTRYPOINT ["/bin/four"]
FROM four AS five
CMD ["five"]
CMD ["five", "again"]
HEALTHCHECK --retries=1 CMD true
FROM five AS six
HEALTHCHECK NONE
RUN pwd && whoami && echo $A $STEP
FROM six AS two
RUN echo "another two"
FROM two
COPY --from=two /etc/hostname .
