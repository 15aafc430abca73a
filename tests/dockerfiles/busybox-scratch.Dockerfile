ARG ALPINE=alpine:3.21
FROM ${ALPINE} AS rootfs
RUN apk add --no-cache busybox-static tzdata ca-certificates-bundle
RUN mkdir -p /out/bin /out/etc /out/tmp /out/usr/share \
 && cp /bin/busybox.static /out/bin/busybox \
 && /out/bin/busybox --install -s /out/bin \
 && cp -a /usr/share/zoneinfo /out/usr/share/ \
 && chmod 1777 /out/tmp
COPY <<passwd <<group /out/etc/
root:x:0:0:root:/root:/bin/sh
app:x:1000:1000::/:/bin/sh
passwd
root:x:0:
app:x:1000:
group

FROM scratch
ADD rootfs-overlay.tar.xz /
COPY --from=rootfs /out/ /
ENV PATH=/bin TZ=UTC
USER 1000:1000
WORKDIR /home/app
CMD ["/bin/sh"]
