FROM jenkins/jenkins:2.504.1-lts-jdk21
USER root
RUN apt-get update -qq \
 && apt-get install -qqy apt-transport-https ca-certificates curl gnupg2 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=docker:28-cli /usr/local/bin/docker /usr/local/bin/docker
COPY --from=hashicorp/terraform:1.12 /bin/terraform /usr/local/bin/
USER jenkins
WORKDIR $JENKINS_HOME
COPY --chown=jenkins:jenkins plugins.txt /usr/share/jenkins/ref/plugins.txt
RUN jenkins-plugin-cli --plugin-file /usr/share/jenkins/ref/plugins.txt
COPY casc/*.yaml casc/
ENV JAVA_OPTS -Djenkins.install.runSetupWizard=false -Dhudson.footerURL=https://ci.example.com
ENV CASC_JENKINS_CONFIG=${JENKINS_HOME}/casc
ENV ADMIN_PASSWORD=changeme
