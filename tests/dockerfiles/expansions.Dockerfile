FROM busybox:1.37
ARG VERSION=v2.14.3-rc.1+build.7
ARG EMPTY=
ENV FULL=${VERSION#v} \
    MAJOR=${VERSION%%.*} \
    WITHOUT_BUILD=${VERSION%+*} \
    TAIL=${VERSION##*-} \
    UNDERSCORED=${VERSION//-/_} \
    FIRST=${VERSION/./,} \
    DEFAULT="${EMPTY:-was empty}" \
    KEPT="${EMPTY-was unset}" \
    ALT=${VERSION:+set} \
    NESTED=${NOT_THERE:-${ALSO_NOT_THERE:-$VERSION}} \
    LITERAL='${VERSION}' \
    ESCAPED=\${VERSION} \
    QUOTED="a \"$VERSION\" b"
ENV SELF=1
ENV SELF=2 COPY_OF_SELF=$SELF
LABEL version=$VERSION "with space"="one two" multi="first\
 second" empty=""
LABEL com.example.note="it's \$5"
WORKDIR /opt/${MAJOR#v}/$SELF
WORKDIR lib/../share
COPY ${MAJOR}.txt file-$SELF.txt ./
ADD --chown=${UID:-1000}:${GID:-1000} --chmod=${MODE:-0640} [ "${MAJOR} x", "$FULL", "dir/" ]
USER ${USER_NAME:-app}:${GROUP:-staff}
EXPOSE ${PORT:-8080} ${PORTS:-9000-9002/udp}
VOLUME ["/data/${MAJOR}"]
STOPSIGNAL ${SIGNAL:-SIGUSR1}
RUN echo ${FULL} "$MAJOR" '$TAIL' \$HOME
CMD echo $FULL
