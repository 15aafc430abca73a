FROM eclipse-temurin:17-jdk-jammy
ENV ANDROID_HOME=/opt/android
ENV PATH=${PATH}:${ANDROID_HOME}/cmdline-tools/latest/bin:${ANDROID_HOME}/platform-tools
ARG CMDLINE_TOOLS=11076708
ADD --checksum=sha256:2d2d50857e4eb553af5a6dc3ad507a17adf43d115264b1afc116f95c92e5e258 https://dl.google.com/android/repository/commandlinetools-linux-${CMDLINE_TOOLS}_latest.zip /tmp/tools.zip
RUN <<EOT bash -e
  mkdir -p "$ANDROID_HOME/cmdline-tools"
  unzip -q /tmp/tools.zip -d "$ANDROID_HOME/cmdline-tools"
  mv "$ANDROID_HOME/cmdline-tools/cmdline-tools" "$ANDROID_HOME/cmdline-tools/latest"
EOT
RUN yes | sdkmanager --licenses > /dev/null ; sdkmanager "platforms;android-35" "build-tools;35.0.0"
RUN cat <<FILE1 > /etc/profile.d/a.sh && cat <<'FILE2' > /etc/profile.d/b.sh
export ANDROID_HOME=$ANDROID_HOME
FILE1
export GRADLE_OPTS='-Dorg.gradle.daemon=false'
FILE2
WORKDIR /project
CMD ["./gradlew", "assembleRelease"]
