//! Credentials as docker, podman and kiln leave them: files, and the helper programs that these name.
//! It does not know how they are shown to a registry, and writes nothing.

use crate::config::Places;
use crate::{RegistryError, keychain};
use base64::Engine as _;
use kiln_oci::DEFAULT_REGISTRY;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Under what docker's configuration has the credentials of its own registry.
const DOCKER_HUB_KEY: &str = concat!("https:", "//", "index.docker.io/v1/");
/// The variable that holds the text of such a file.
pub(crate) const TEXT_VARIABLE: &str = "$DOCKER_AUTH_CONFIG";

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Nothing.
    Anonymous,
    /// A user's name and password.
    Basic { username: String, password: String },
    /// A refresh token of the registry's token server.
    IdentityToken { username: String, token: String },
    /// A token for the registry itself.
    RegistryToken(String),
}

/// Credentials and where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) credentials: Credentials,
    pub(crate) source: Source,
    /// Whether other repositories of the registry may have others.
    pub(crate) is_of_repository: bool,
}

/// Where credentials were looked for last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The user typed them.
    User,
    /// Nowhere: there is no file.
    None,
    /// They are in this file, or variable, under this name.
    File { file: PathBuf, key: String },
    /// These have none for the host.
    NotIn(Vec<PathBuf>),
    /// This helper, which the file names, has them.
    Helper { helper: String, file: PathBuf },
    /// This helper failed.
    HelperFailed { helper: String, file: PathBuf, reason: String },
}

/// Whose credentials are looked for, and where.
#[derive(Clone, Copy)]
pub(crate) struct Seeker<'a> {
    pub(crate) places: &'a Places,
    pub(crate) docker_config: Option<&'a Path>,
    pub(crate) registry: &'a str,
    pub(crate) repository: &'a str,
}

impl Source {
    /// What to tell a user whom the registry refuses.
    pub(crate) fn hint(&self, registry: &str) -> String {
        match self {
            Source::User => "the credentials that were given were used".to_owned(),
            Source::None => format!("no credentials were used; log in with `kiln login {registry}`"),
            Source::NotIn(files) => {
                let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
                let has = if names.len() == 1 { "has" } else { "have" };
                let names = names.join(" and ");
                format!("{names} {has} no credentials for it; log in with `kiln login {registry}`")
            }
            Source::File { file, .. } => format!("the credentials in {} were used", file.display()),
            Source::Helper { helper, .. } => format!("the credentials from {helper} were used"),
            Source::HelperFailed { helper, file, reason } => {
                let file = file.display();
                format!("no credentials were used, because {helper} failed: {reason}; {file} names it")
            }
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credentials::Anonymous => "Anonymous",
            Credentials::Basic { .. } => "Basic(…)",
            Credentials::IdentityToken { .. } => "IdentityToken(…)",
            Credentials::RegistryToken(_) => "RegistryToken(…)",
        })
    }
}

/// The credentials of the first place that has any. A helper gets `time` to answer.
pub(crate) async fn find(seeker: Seeker<'_>, time: Duration) -> Result<Found, RegistryError> {
    let registry = seeker.registry;
    let mut read = Vec::new();
    let mut is_of_repository = false;
    for document in Document::all(seeker.places, seeker.docker_config)? {
        let Document { file, config } = document;
        is_of_repository |= config.auths.keys().any(|key| is_scoped(key, registry));
        let found = |credentials, source| Ok(Found { credentials, source, is_of_repository });
        if let Some(helper) = config.helper(registry) {
            match keychain::get(&helper, key(registry), time).await {
                Ok(Some(credentials)) => return found(credentials, Source::Helper { helper, file }),
                Ok(None) => {}
                Err(reason) => {
                    return found(Credentials::Anonymous, Source::HelperFailed { helper, file, reason });
                }
            }
        }
        if let Some((key, entry)) = config.entry(registry, seeker.repository) {
            match entry.credentials() {
                Ok(Credentials::Anonymous) => {}
                Ok(credentials) => {
                    let key = key.to_owned();
                    return found(credentials, Source::File { file, key });
                }
                Err(reason) => {
                    let reason = format!("the entry for {key}: {reason}");
                    return Err(RegistryError::Credentials { file, reason });
                }
            }
        }
        read.push(file);
    }
    let source = if read.is_empty() { Source::None } else { Source::NotIn(read) };
    Ok(Found { credentials: Credentials::Anonymous, source, is_of_repository })
}

/// A text with credentials.
pub(crate) struct Document {
    /// Where it is.
    pub(crate) file: PathBuf,
    pub(crate) config: Config,
}

impl Document {
    /// Those that there are, in the order in which they are asked.
    pub(crate) fn all(places: &Places, docker: Option<&Path>) -> Result<Vec<Document>, RegistryError> {
        let mut all = Vec::new();
        if let (None, Some(text)) = (&places.auth_file, &places.auth_text) {
            let file = PathBuf::from(TEXT_VARIABLE);
            all.push(Document { config: parse(&file, text)?, file });
        }
        for file in files(places, docker) {
            if let Some(config) = read(&file)? {
                all.push(Document { file, config });
            }
        }
        Ok(all)
    }
}

/// The files that may have credentials, in the order in which they are asked.
pub(crate) fn files(places: &Places, docker: Option<&Path>) -> Vec<PathBuf> {
    match &places.auth_file {
        Some(named) => vec![named.clone()],
        None => {
            let docker = docker.map(|folder| folder.join("config.json"));
            places.auth_files.iter().cloned().chain(docker).collect()
        }
    }
}

/// What such a text says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Entry {
    auth: String,
    username: String,
    password: String,
    #[serde(rename = "identitytoken")]
    identity_token: String,
    #[serde(rename = "registrytoken")]
    registry_token: String,
}

impl Config {
    /// The program that keeps the credentials of a registry.
    pub(crate) fn helper(&self, registry: &str) -> Option<String> {
        let own = keys(registry).into_iter().find_map(|key| self.helpers.get(&key));
        let name = own.unwrap_or(&self.store);
        (!name.is_empty()).then(|| format!("docker-credential-{name}"))
    }

    /// The entries of a registry as a whole, under whatever names.
    pub(crate) fn keys_of(&self, registry: &str) -> Vec<&str> {
        let keys = keys(registry);
        let is_own =
            |key: &&str| keys.iter().any(|k| k == key || k == host_of(key)) && !is_scoped(key, registry);
        self.auths.keys().map(String::as_str).filter(is_own).collect()
    }

    /// The keys of all entries.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.auths.keys().map(String::as_str)
    }

    /// The registries that have a program of their own.
    pub(crate) fn helper_hosts(&self) -> impl Iterator<Item = &str> {
        self.helpers.keys().map(String::as_str)
    }

    /// That of the repository, of the nearest folder above it, or of the registry.
    fn entry(&self, registry: &str, repository: &str) -> Option<(&str, &Entry)> {
        let mut name = format!("{registry}/{repository}");
        while name.len() > registry.len() {
            if let Some((key, entry)) = self.auths.get_key_value(&name) {
                return Some((key, entry));
            }
            name.truncate(name.rfind('/').unwrap_or_default());
        }
        let keys = keys(registry);
        let exact = keys.iter().find_map(|key| self.auths.get_key_value(key));
        let of_host = || self.auths.get_key_value(*self.keys_of(registry).first()?);
        exact.or_else(of_host).map(|(key, entry)| (key.as_str(), entry))
    }
}

impl Entry {
    fn credentials(&self) -> Result<Credentials, String> {
        let (mut username, mut password) = (self.username.clone(), self.password.clone());
        if !self.auth.is_empty() {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(self.auth.trim())
                .map_err(|_| "`auth` is not base64".to_owned())?;
            let text = String::from_utf8(bytes).map_err(|_| "`auth` is not UTF-8".to_owned())?;
            let (name, secret) =
                text.split_once(':').ok_or_else(|| "`auth` is not `user:password`".to_owned())?;
            username = name.to_owned();
            password = secret.trim_matches('\0').to_owned();
        }
        if !self.registry_token.is_empty() {
            return Ok(Credentials::RegistryToken(self.registry_token.clone()));
        }
        if !self.identity_token.is_empty() {
            return Ok(Credentials::IdentityToken { username, token: self.identity_token.clone() });
        }
        if username.is_empty() && password.is_empty() {
            return Ok(Credentials::Anonymous);
        }
        Ok(Credentials::Basic { username, password })
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry(…)")
    }
}

/// Under which name a helper, and docker's file, know the registry.
pub(crate) fn key(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY { DOCKER_HUB_KEY } else { registry }
}

/// The names under which the file may know the registry, the surest first.
fn keys(registry: &str) -> Vec<String> {
    if registry == DEFAULT_REGISTRY {
        return [DOCKER_HUB_KEY, "index.docker.io", "docker.io", "registry-1.docker.io"]
            .map(str::to_owned)
            .to_vec();
    }
    let mut keys = vec![registry.to_owned()];
    for form in ["https://H", "https://H/", "https://H/v2/", "https://H/v1/", "http://H"] {
        keys.push(form.replace('H', registry));
    }
    keys
}

/// Whether a key of a file is for a part of the registry: without a scheme, and with a path.
fn is_scoped(key: &str, registry: &str) -> bool {
    let path = key.strip_prefix(registry).and_then(|rest| rest.strip_prefix('/'));
    path.is_some_and(|path| !matches!(path.trim_end_matches('/'), "" | "v1" | "v2"))
}

/// `host` of `https://host/v1/`.
fn host_of(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.split('/').next().unwrap_or(key)
}

/// What a file says; `None` if it is not there, or empty.
pub(crate) fn read(file: &Path) -> Result<Option<Config>, RegistryError> {
    read_text(file)?.map(|text| parse(file, &text)).transpose()
}

/// The text of a file; `None` if it is not there, or empty.
pub(crate) fn read_text(file: &Path) -> Result<Option<String>, RegistryError> {
    let bad = |reason: String| RegistryError::Credentials { file: file.to_owned(), reason };
    let opened = match std::fs::File::open(file) {
        Ok(opened) => opened,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(bad(e.to_string())),
    };
    if !opened.metadata().is_ok_and(|m| m.is_file()) {
        return Err(bad("it is not a regular file".to_owned()));
    }
    let mut text = String::new();
    opened.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text).map_err(|e| bad(e.to_string()))?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(bad(format!("it is larger than {CONFIG_BYTES_MAX} bytes")));
    }
    Ok(Some(text).filter(|text| !text.trim().is_empty()))
}

/// What a text says.
pub(crate) fn parse(file: &Path, text: &str) -> Result<Config, RegistryError> {
    // A JSON error's own text may quote a secret: only its place is told.
    serde_json::from_str(text).map_err(|e| RegistryError::Credentials {
        file: file.to_owned(),
        reason: format!("it is not valid at line {}, column {}", e.line(), e.column()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(5);

    async fn look_up(config: &str, registry: &str) -> Result<Found, RegistryError> {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("config.json"), config).expect("written");
        look_up_in(&Places::default(), folder.path(), registry, "x").await
    }

    async fn look_up_in(
        places: &Places,
        docker: &Path,
        registry: &str,
        repository: &str,
    ) -> Result<Found, RegistryError> {
        find(Seeker { places, docker_config: Some(docker), registry, repository }, TIME).await
    }

    async fn check(config: &str, registry: &str, want: Credentials) {
        let found = look_up(config, registry).await.expect(config);
        assert_eq!(found.credentials, want, "{config} {registry}");
    }

    fn basic(username: &str, password: &str) -> Credentials {
        Credentials::Basic { username: username.to_owned(), password: password.to_owned() }
    }

    #[tokio::test]
    async fn a_host_is_found_under_each_key_that_docker_writes() {
        for key in ["r.io:5000", "https://r.io:5000", "https://r.io:5000/v1/", "http://r.io:5000/v2/x"] {
            let config = format!(r#"{{"auths":{{"{key}":{{"auth":"dTpwOnE="}}}}}}"#);
            check(&config, "r.io:5000", basic("u", "p:q")).await;
            check(&config, "r.io", Credentials::Anonymous).await;
            check(&config, "r.io:500", Credentials::Anonymous).await;
        }
        for key in [DOCKER_HUB_KEY, "docker.io", "index.docker.io"] {
            let config = format!(r#"{{"auths":{{"{key}":{{"username":"u","password":"p"}}}}}}"#);
            check(&config, "docker.io", basic("u", "p")).await;
        }
    }

    #[tokio::test]
    async fn the_exact_key_wins() {
        let config = r#"{"auths":{"http://r.io/a":{"auth":"YTpi"},"r.io":{"auth":"Yzpk"}}}"#;
        check(config, "r.io", basic("c", "d")).await;
    }

    #[tokio::test]
    async fn tokens_come_before_passwords() {
        let token = Credentials::IdentityToken { username: "u".to_owned(), token: "i".to_owned() };
        check(r#"{"auths":{"r.io":{"auth":"dTo=","identitytoken":"i"}}}"#, "r.io", token).await;
        let token = Credentials::RegistryToken("t".to_owned());
        check(r#"{"auths":{"r.io":{"auth":"dTpw","registrytoken":"t"}}}"#, "r.io", token).await;
    }

    #[tokio::test]
    async fn no_file_or_an_empty_one_is_nobody() {
        check("", "r.io", Credentials::Anonymous).await;
        check("{}", "r.io", Credentials::Anonymous).await;
        check(r#"{"auths":{"r.io":{}}}"#, "r.io", Credentials::Anonymous).await;
        let found =
            look_up_in(&Places::default(), Path::new("/nonexistent"), "r.io", "x").await.expect("no error");
        assert_eq!(found.source, Source::None);
        assert!(found.source.hint("r.io").contains("kiln login r.io"));
    }

    #[tokio::test]
    async fn a_broken_file_is_an_error_that_tells_no_secret() {
        for config in ["{", r#"{"auths":{"r.io":{"auth":"%%secret"}}}"#, r#"{"auths":{"r.io":"secret"}}"#] {
            let error = look_up(config, "r.io").await.expect_err(config).to_string();
            assert!(error.contains("config.json") && !error.contains("secret"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_helper_that_is_missing_is_nobody_and_is_told() {
        let config = r#"{"credHelpers":{"r.io":"kiln-missing"},"auths":{"r.io":{"auth":"YTpi"}}}"#;
        let found = look_up(config, "r.io").await.expect("no error");
        assert_eq!(found.credentials, Credentials::Anonymous);
        assert!(found.source.hint("r.io").contains("docker-credential-kiln-missing failed"), "{found:?}");
        let found = look_up(r#"{"credsStore":"../../evil"}"#, "r.io").await.expect("no error");
        assert!(matches!(found.source, Source::HelperFailed { .. }));
    }

    #[tokio::test]
    async fn the_nearest_part_of_a_registry_wins() {
        let config = r#"{"auths":{"r.io":{"auth":"YTpi"},"r.io/team":{"auth":"Yzpk"},"r.io/team/app":{"auth":"ZTpm"}}}"#;
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("config.json"), config).expect("written");
        for (repository, want) in
            [("x", "a"), ("team/x", "c"), ("team/app", "e"), ("team/app/x", "e"), ("teams", "a")]
        {
            let found =
                look_up_in(&Places::default(), folder.path(), "r.io", repository).await.expect("read");
            assert!(found.is_of_repository);
            assert!(
                matches!(found.credentials, Credentials::Basic { username, .. } if username == want),
                "{repository}"
            );
        }
        check(r#"{"auths":{"r.io/v1/":{"auth":"YTpi"}}}"#, "r.io", basic("a", "b")).await;
        check(r#"{"auths":{"r.io/other":{"auth":"YTpi"}}}"#, "r.io", Credentials::Anonymous).await;
    }

    #[tokio::test]
    async fn the_first_place_that_has_any_wins_and_a_named_one_is_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let entry = |auth: &str| format!(r#"{{"auths":{{"r.io":{{"auth":"{auth}"}}}}}}"#);
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("written");
            folder.path().join(name)
        };
        write("config.json", &entry("YTpi"));
        let auth = write("auth.json", &entry("Yzpk"));
        let other = write("named.json", r#"{"auths":{"other.io":{"auth":"Yzpk"}}}"#);
        let user = async |places: &Places| {
            let found = look_up_in(places, folder.path(), "r.io", "x").await.expect("read");
            match found.credentials {
                Credentials::Basic { username, .. } => username,
                _ => "nobody".to_owned(),
            }
        };
        let mut places = Places::default();
        assert_eq!(user(&places).await, "a");
        places.auth_files = vec![folder.path().join("missing.json"), other.clone(), auth];
        assert_eq!(user(&places).await, "c");
        places.auth_text = Some(entry("ZTpm"));
        assert_eq!(user(&places).await, "e");
        places.auth_file = Some(other);
        assert_eq!(user(&places).await, "nobody");
    }
}
