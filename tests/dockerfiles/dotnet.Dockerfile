# syntax=docker/dockerfile:1
FROM --platform=$BUILDPLATFORM mcr.microsoft.com/dotnet/sdk:9.0 AS build
ARG TARGETARCH
ARG BUILD_CONFIGURATION=Release
WORKDIR /src
COPY --parents *.sln Directory.*.props src/**/*.csproj ./
RUN --mount=type=cache,id=nuget,target=/root/.nuget/packages \
    dotnet restore Store.sln -a ${TARGETARCH/amd64/x64}
COPY src src
RUN --mount=type=cache,id=nuget,target=/root/.nuget/packages <<EOT
    dotnet publish src/Store.Web -c $BUILD_CONFIGURATION -a ${TARGETARCH/amd64/x64} \
        --no-restore -o /app /p:UseAppHost=false
EOT

FROM build AS test
COPY tests tests
ENTRYPOINT ["dotnet", "test", "--logger:trx"]

FROM mcr.microsoft.com/dotnet/aspnet:9.0-noble-chiseled AS final
WORKDIR /app
EXPOSE 8080
EXPOSE 8081
ENV ASPNETCORE_URLS=http://+:8080 DOTNET_EnableDiagnostics=0
COPY --from=build /app .
USER $APP_UID
ENTRYPOINT ["dotnet", "Store.Web.dll"]
