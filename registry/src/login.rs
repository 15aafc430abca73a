//! Credentials that are checked and kept, and forgotten again. It does not know who types them.

use crate::auth::Auth;
use crate::client::Client;
use crate::credentials::{Config, Credentials, TEXT_VARIABLE, files, key, read};
use crate::host::{Host, Lane};
use crate::request::{Request, Target};
use crate::token::Scope;
use crate::transport::Payload;
use crate::{RegistryError, json_text, keeping, keychain};
use base64::Engine as _;
use kiln_oci::Reference;
use reqwest::Method;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What became of credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    /// The file, or the program that the file names, which keeps them.
    pub kept_by: String,
    /// Whether they are kept in a file as they are, for anyone to read who can read it.
    pub is_plain: bool,
    /// Whether the registry wanted to see them at all.
    pub was_asked: bool,
    /// What is asked before, and has others for the same registry.
    pub hidden_by: Option<String>,
}

/// What was forgotten.
#[derive(Debug, Default)]
pub struct LoggedOut {
    /// The files and programs that had something.
    pub forgotten_by: Vec<String>,
    /// What could not be done.
    pub failures: Vec<RegistryError>,
    /// What still has credentials, as it is not kiln's to change.
    pub left: Option<String>,
}

impl Client {
    /// Asks the registry whether it takes these credentials and, only if it does, keeps them: where there are
    /// some for it already, else in docker's file, or the one that was named.
    pub async fn log_in(
        &self,
        registry: &str,
        username: &str,
        password: &str,
    ) -> Result<LoggedIn, RegistryError> {
        let was_asked = self.try_out(registry, username, password).await?;
        let all = files(self.places(), self.docker_config());
        let mut chosen = None;
        for file in &all {
            let Some(config) = read(file)? else { continue };
            if config.helper(registry).is_some() || !config.keys_of(registry).is_empty() {
                chosen = Some((file, config));
                break;
            }
        }
        let (file, config) = match (chosen, all.last()) {
            (Some(chosen), _) => chosen,
            (None, Some(last)) => (last, read(last)?.unwrap_or_default()),
            (None, None) => {
                let (file, reason) =
                    (PathBuf::from("config.json"), "there is no home to keep it in".to_owned());
                return Err(RegistryError::Keeping { file, reason });
            }
        };
        let hidden_by = self.text_names(registry)?;
        if let Some(helper) = config.helper(registry) {
            let time = self.transport().patience.idle;
            keychain::store(&helper, key(registry), (username, password), time)
                .await
                .map_err(|reason| self.helper_failed(&helper, file, reason))?;
            let kept_by = format!("{helper}, which {} names", file.display());
            return Ok(LoggedIn { kept_by, is_plain: false, was_asked, hidden_by });
        }
        write_entry(file, &config, registry, (username, password))?;
        Ok(LoggedIn { kept_by: file.display().to_string(), is_plain: true, was_asked, hidden_by })
    }

    /// Makes every file and program forget the credentials of a registry, or of all.
    pub async fn log_out(&self, registry: Option<&str>) -> Result<LoggedOut, RegistryError> {
        let mut done = LoggedOut::default();
        for file in files(self.places(), self.docker_config()) {
            let Some(config) = read(&file)? else { continue };
            let hosts: BTreeSet<String> = match registry {
                Some(registry) => BTreeSet::from([registry.to_owned()]),
                None => config.keys().chain(config.helper_hosts()).map(registry_of).collect(),
            };
            for host in &hosts {
                let Some(helper) = config.helper(host) else { continue };
                match keychain::erase(&helper, key(host), self.transport().patience.idle).await {
                    Ok(true) => done.add(format!("{helper}, which {} names", file.display())),
                    Ok(false) => {}
                    Err(reason) => done.failures.push(self.helper_failed(&helper, &file, reason)),
                }
            }
            let keys: Vec<&str> = match registry {
                Some(registry) => config.keys_of(registry),
                None => config.keys().collect(),
            };
            match keeping::change(&file, |text| without(text, &keys)) {
                Ok(true) => done.add(file.display().to_string()),
                Ok(false) => {}
                Err(error) => done.failures.push(error),
            }
        }
        done.left = match registry {
            Some(registry) => self.text_names(registry)?,
            None => None,
        };
        Ok(done)
    }

    /// Whether the registry wanted to see the credentials; an error, if it refuses them.
    async fn try_out(&self, registry: &str, username: &str, password: &str) -> Result<bool, RegistryError> {
        let any = format!("{registry}/x").parse::<Reference>().map_err(|_| RegistryError::Protocol {
            host: registry.to_owned(),
            detail: "it is no name of a registry".to_owned(),
        })?;
        // The state of this one host is used for nothing else.
        let known = self.host(&any)?;
        let credentials = Credentials::Basic { username: username.to_owned(), password: password.to_owned() };
        let host = Arc::new(Host::like(&known, Auth::of(credentials)));
        let request = Request {
            method: Method::GET,
            target: Target::Api(String::new()),
            headers: Vec::new(),
            payload: Payload::None,
            scope: Scope::default(),
            repository: String::new(),
            lane: Lane::Question,
            retried: true,
        };
        let answer = self.send(&host, &request).await?;
        if answer.status() != 200 {
            return Err(answer.into_error().await);
        }
        Ok(host.auth.known("", &Scope::default()).await.is_some())
    }

    /// The variable with credentials, if it has some for the registry.
    fn text_names(&self, registry: &str) -> Result<Option<String>, RegistryError> {
        let places = self.places();
        let (None, Some(text)) = (&places.auth_file, &places.auth_text) else { return Ok(None) };
        let config = crate::credentials::parse(Path::new(TEXT_VARIABLE), text)?;
        let names = !config.keys_of(registry).is_empty() || config.helper(registry).is_some();
        Ok(names.then(|| TEXT_VARIABLE.to_owned()))
    }

    fn helper_failed(&self, helper: &str, file: &Path, reason: String) -> RegistryError {
        RegistryError::Helper { helper: helper.to_owned(), file: file.to_owned(), reason }
    }
}

impl LoggedOut {
    fn add(&mut self, place: String) {
        if !self.forgotten_by.contains(&place) {
            self.forgotten_by.push(place);
        }
    }
}

fn write_entry(
    file: &Path,
    config: &Config,
    registry: &str,
    (username, password): (&str, &str),
) -> Result<(), RegistryError> {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    let entry = format!("{{\"auth\": \"{auth}\"}}");
    let name = key(registry);
    let others: Vec<&str> = config.keys_of(registry).into_iter().filter(|other| *other != name).collect();
    let mut is_object = true;
    keeping::change(file, |text| {
        let cleared = without(text, &others).unwrap_or_else(|| text.to_owned());
        let new = json_text::set(&cleared, "auths", name, &entry);
        is_object = new.is_some();
        new
    })?;
    if is_object {
        return Ok(());
    }
    let reason = "its `auths` is no object".to_owned();
    Err(RegistryError::Keeping { file: file.to_owned(), reason })
}

fn without(text: &str, keys: &[&str]) -> Option<String> {
    let removed = |text: Option<String>, key: &&str| {
        let text = text?;
        Some(json_text::remove(&text, "auths", key).unwrap_or(text))
    };
    keys.iter().fold(Some(text.to_owned()), removed)
}

/// The registry that a key of a file is for.
fn registry_of(key: &str) -> String {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    let host = key.split('/').next().unwrap_or(key);
    let is_hub = matches!(host, "index.docker.io" | "registry-1.docker.io");
    if is_hub { kiln_oci::DEFAULT_REGISTRY.to_owned() } else { host.to_owned() }
}
