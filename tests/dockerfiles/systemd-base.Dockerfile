FROM fedora:42
ENV container=docker
RUN dnf -y install systemd openssh-server && dnf clean all && \
(cd /lib/systemd/system/sysinit.target.wants/; for i in *; do [ $i == \
systemd-tmpfiles-setup.service ] || rm -f $i; done); \
rm -f /lib/systemd/system/multi-user.target.wants/*;\
rm -f /etc/systemd/system/*.wants/*;
VOLUME [ "/sys/fs/cgroup", "/run" ]
STOPSIGNAL SIGRTMIN+3
EXPOSE 22
COPY --chmod=600 sshd_config /etc/ssh/sshd_config
COPY <<EOF /etc/systemd/system/app.service
[Service]
ExecStart=/usr/bin/app --home \$HOME
[Install]
WantedBy=multi-user.target
EOF
RUN systemctl enable sshd app
CMD ["/usr/sbin/init"]
