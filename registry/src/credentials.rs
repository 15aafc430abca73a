//! Credentials as `docker login` leaves them: `config.json` and the helper programs that it names.
//! It does not know how they are shown to a registry.

use crate::RegistryError;
use crate::error::printable;
use base64::Engine as _;
use kiln_oci::DEFAULT_REGISTRY;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;
const HELPER_BYTES_MAX: u64 = 1024 * 1024;
/// Under what docker's configuration has the credentials of its own registry.
const DOCKER_HUB_KEY: &str = concat!("https:", "//", "index.docker.io/v1/");
/// The user name under which helpers give an identity token.
const TOKEN_USER: &str = "<token>";

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
}

/// Where credentials were looked for last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nowhere: there is no file.
    None,
    /// They are in this file.
    File(PathBuf),
    /// This file has none for the host.
    NotIn(PathBuf),
    /// This helper has them.
    Helper(String),
    /// This helper failed.
    HelperFailed { helper: String, reason: String },
}

impl Found {
    fn anonymous(source: Source) -> Found {
        Found { credentials: Credentials::Anonymous, source }
    }

    /// What to tell a user whom the registry refuses.
    pub(crate) fn hint(&self, registry: &str) -> String {
        match &self.source {
            Source::None => format!("no credentials were used; log in with `docker login {registry}`"),
            Source::NotIn(file) => {
                let file = file.display();
                format!("{file} has no credentials for it; log in with `docker login {registry}`")
            }
            Source::File(file) => format!("the credentials in {} were used", file.display()),
            Source::Helper(helper) => format!("the credentials from {helper} were used"),
            Source::HelperFailed { helper, reason } => {
                format!("no credentials were used, because {helper} failed: {reason}")
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

/// The credentials for a registry according to `folder/config.json`. A helper gets `time` to answer.
pub(crate) async fn find(
    folder: Option<&Path>,
    registry: &str,
    time: Duration,
) -> Result<Found, RegistryError> {
    let Some(folder) = folder else { return Ok(Found::anonymous(Source::None)) };
    let file = folder.join("config.json");
    let Some(config) = read(&file)? else { return Ok(Found::anonymous(Source::None)) };
    if let Some(name) = config.helper(registry) {
        let helper = format!("docker-credential-{name}");
        match ask(&helper, key(registry), time).await {
            Ok(Some(credentials)) => return Ok(Found { credentials, source: Source::Helper(helper) }),
            Ok(None) => {}
            Err(reason) => return Ok(Found::anonymous(Source::HelperFailed { helper, reason })),
        }
    }
    let Some(entry) = config.entry(registry) else { return Ok(Found::anonymous(Source::NotIn(file))) };
    match entry.credentials() {
        Ok(Credentials::Anonymous) => Ok(Found::anonymous(Source::NotIn(file))),
        Ok(credentials) => Ok(Found { credentials, source: Source::File(file) }),
        Err(reason) => {
            Err(RegistryError::Credentials { file, reason: format!("the entry for {registry}: {reason}") })
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    #[serde(rename = "identitytoken")]
    identity_token: String,
    #[serde(rename = "registrytoken")]
    registry_token: String,
}

impl Config {
    fn helper(&self, registry: &str) -> Option<&str> {
        let own = keys(registry).into_iter().find_map(|key| self.helpers.get(&key));
        own.or(Some(&self.store)).map(String::as_str).filter(|name| !name.is_empty())
    }

    fn entry(&self, registry: &str) -> Option<&Entry> {
        let keys = keys(registry);
        let exact = keys.iter().find_map(|key| self.auths.get(key));
        let of_host = || {
            let found = self.auths.iter().find(|(key, _)| keys.iter().any(|k| k == host_of(key)));
            found.map(|(_, entry)| entry)
        };
        exact.or_else(of_host)
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

/// Under which name a helper knows the registry.
fn key(registry: &str) -> &str {
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

/// `host` of `https://host/v1/`.
fn host_of(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.split('/').next().unwrap_or(key)
}

fn read(file: &Path) -> Result<Option<Config>, RegistryError> {
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
    if text.trim().is_empty() {
        return Ok(None);
    }
    // A JSON error's own text may quote a secret: only its place is told.
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|e| bad(format!("it is not valid at line {}, column {}", e.line(), e.column())))
}

/// Asks a helper program. `None`: it has nothing for this registry.
async fn ask(helper: &str, key: &str, time: Duration) -> Result<Option<Credentials>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        username: String,
        secret: String,
    }
    if helper.contains('/') {
        return Err("its name contains a slash".to_owned());
    }
    let asked = tokio::time::timeout(time, talk(helper, key)).await;
    let (succeeded, output) = match asked {
        Ok(Ok(answer)) => answer,
        Ok(Err(e)) => return Err(e.to_string()),
        Err(_) => return Err(format!("it did not answer within {} s", time.as_secs_f32())),
    };
    if !succeeded {
        let message = printable(&String::from_utf8_lossy(&output));
        let none = message.contains("credentials not found") || message.contains("no credentials server URL");
        return if none { Ok(None) } else { Err(message) };
    }
    let Ok(answer) = serde_json::from_slice::<Answer>(&output) else {
        return Err("its answer cannot be read".to_owned());
    };
    Ok(match answer {
        Answer { username, secret } if username.is_empty() && secret.is_empty() => None,
        Answer { username, secret } if username == TOKEN_USER => {
            Some(Credentials::IdentityToken { username, token: secret })
        }
        Answer { username, secret } => Some(Credentials::Basic { username, password: secret }),
    })
}

/// Whether the helper succeeded, and what it printed. It is killed when this is dropped.
async fn talk(helper: &str, key: &str) -> std::io::Result<(bool, Vec<u8>)> {
    let mut child = tokio::process::Command::new(helper)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut output = Vec::new();
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input may answer all the same.
        let _ = stdin.write_all(key.as_bytes()).await;
    }
    if let Some(stdout) = child.stdout.take() {
        stdout.take(HELPER_BYTES_MAX).read_to_end(&mut output).await?;
    }
    Ok((child.wait().await?.success(), output))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(5);

    async fn look_up(config: &str, registry: &str) -> Result<Found, RegistryError> {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("config.json"), config).expect("written");
        find(Some(folder.path()), registry, TIME).await
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
        let found = find(Some(Path::new("/nonexistent")), "r.io", TIME).await.expect("no error");
        assert_eq!(found.source, Source::None);
        assert!(found.hint("r.io").contains("docker login r.io"));
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
        assert!(found.hint("r.io").contains("docker-credential-kiln-missing failed"), "{found:?}");
        let found = look_up(r#"{"credsStore":"../../evil"}"#, "r.io").await.expect("no error");
        assert!(matches!(found.source, Source::HelperFailed { .. }));
    }
}
