# escape=`
# syntax=docker/dockerfile:1
FROM mcr.microsoft.com/powershell:7.5-ubuntu-24.04 AS build
SHELL ["pwsh", "-NoLogo", "-Command", "$ErrorActionPreference = 'Stop';"]
ARG MODULE_VERSION=5.7.1
ENV STORE="C:\modules\store" `
    # a path with a backslash in it
    TOOLS=C:\tools\bin
WORKDIR /build
COPY module.psd1 `
     module.psm1 `
     ./
RUN Install-Module Pester -RequiredVersion $env:MODULE_VERSION -Force; `
    Invoke-Pester -Path ./tests; `
    Write-Host "stored in $env:STORE"
RUN Write-Output 'literal' > /etc/literal

FROM mcr.microsoft.com/powershell:7.5-ubuntu-24.04
SHELL ["pwsh", "-Command"]
COPY --from=build /build /opt/microsoft/powershell/7/Modules/Module
ENV PS1=`$PROMPT
HEALTHCHECK --interval=1m30s CMD Test-Connection localhost
CMD Import-Module Module; Start-Service
