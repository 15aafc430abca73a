//! How an image would be pulled, and whether it can be: each place with what decides how it is reached.
//! It shows no secret.

use crate::RegistryError;
use crate::client::{Client, manifest_request};
use crate::config::{Endpoint, FileLine, Security, proxy_of};
use crate::credentials::{Credentials, Seeker, Source, find};
use crate::endpoints::moved;
use kiln_oci::{Digest, Reference};
use reqwest::{Method, Url};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How an image would be pulled.
#[derive(Clone, Debug, Serialize)]
pub struct Examination {
    /// Its full name.
    pub reference: String,
    /// Who forbids to ask for it.
    pub blocked_by: Option<FileLine>,
    /// The places, in the order in which they are asked.
    pub places: Vec<Examined>,
    /// What was read and has no effect.
    pub notes: Vec<String>,
}

/// One place, and what came of asking there.
#[derive(Clone, Debug, Serialize)]
pub struct Examined {
    /// What it is.
    pub role: Role,
    /// Registry and repository.
    pub location: String,
    /// Where the API is, as it was reached or would be reached first.
    pub address: String,
    /// Who names it.
    pub told_by: Option<FileLine>,
    /// Whether any certificate or plain HTTP is allowed.
    pub insecure: bool,
    /// Files with authorities that are trusted beside the system's.
    pub authorities: Vec<PathBuf>,
    /// The client's certificate.
    pub client_certificate: Option<PathBuf>,
    /// The proxy.
    pub proxy: Option<ProxyUsed>,
    /// Who asks.
    pub credentials: Identity,
    /// What the image is there.
    pub digest: Option<Digest>,
    /// Why it cannot be pulled from there.
    pub error: Option<String>,
    /// How long the answer took, in milliseconds.
    pub milliseconds: u64,
}

/// What a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It stands in for the registry.
    Mirror,
    /// The registry itself.
    Registry,
}

/// A proxy, without its password.
#[derive(Clone, Debug, Serialize)]
pub struct ProxyUsed {
    /// Scheme, host and port.
    pub address: String,
    /// The variable that names it.
    pub variable: &'static str,
}

/// Who asks, without what proves it.
#[derive(Clone, Debug, Serialize)]
pub struct Identity {
    /// `none`, `password`, `identity token` or `registry token`.
    pub kind: &'static str,
    /// The user's name.
    pub user: Option<String>,
    /// Where that comes from, or was looked for.
    pub source: String,
}

impl Examination {
    /// Whether it can be pulled from any of the places.
    pub fn can_be_pulled(&self) -> bool {
        self.places.iter().any(|place| place.digest.is_some())
    }
}

impl Client {
    /// Finds out how an image would be pulled, and asks every place once.
    pub async fn examine(&self, reference: &Reference) -> Result<Examination, RegistryError> {
        let config = self.config()?;
        let route = config.route(reference)?;
        let mut places = Vec::new();
        if route.blocked.is_none() {
            for endpoint in &route.endpoints {
                places.push(self.examine_at(reference, endpoint).await?);
            }
        }
        Ok(Examination {
            reference: reference.to_string(),
            blocked_by: route.blocked,
            places,
            notes: config.notes().to_vec(),
        })
    }

    async fn examine_at(
        &self,
        reference: &Reference,
        endpoint: &Endpoint,
    ) -> Result<Examined, RegistryError> {
        let host = self.host_of(endpoint);
        let begun = Instant::now();
        let outcome = self.ask_at(reference, endpoint).await;
        let milliseconds = milliseconds(begun.elapsed());
        let base = host.known_base();
        let credentials = self.identity(endpoint).await?;
        // What is wrong with certificates is in the outcome.
        let trust = base.as_ref().and_then(|base| self.transport().trust_at(base).ok()).unwrap_or_default();
        let proxy = base.as_ref().and_then(proxy_of);
        let insecure = endpoint.security != Security::Usual || self.transport().is_insecure(&endpoint.host);
        let (digest, error) = match outcome {
            Ok(digest) => (Some(digest), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(Examined {
            role: if endpoint.is_mirror { Role::Mirror } else { Role::Registry },
            location: format!("{}/{}", endpoint.host, endpoint.repository),
            address: base.map(Url::into).unwrap_or_default(),
            told_by: endpoint.at.clone(),
            insecure,
            authorities: trust.authorities,
            client_certificate: trust.client.map(|(certificate, _)| certificate),
            proxy: proxy.map(|proxy| ProxyUsed { address: proxy.address, variable: proxy.variable }),
            credentials,
            digest,
            error,
            milliseconds,
        })
    }

    async fn ask_at(&self, reference: &Reference, endpoint: &Endpoint) -> Result<Digest, RegistryError> {
        for method in [Method::HEAD, Method::GET] {
            let mut request = moved(&manifest_request(method, reference), &endpoint.repository);
            request.retried = false;
            let mut answer = self.send(&self.host_of(endpoint), &request).await?;
            match (answer.status(), answer.digest()) {
                (200, Some(digest)) => return Ok(digest),
                (404, _) => {
                    let pointer = reference.digest().map(|d| format!("@{d}"));
                    let pointer = pointer.or_else(|| Some(format!(":{}", reference.tag()?)));
                    let what = format!("{}{}", endpoint.repository, pointer.unwrap_or_default());
                    return Err(answer.not_found(what));
                }
                (200, None) if request.method == Method::GET => {
                    return Ok(Digest::of(&answer.body(kiln_oci::DOCUMENT_BYTES_MAX).await?));
                }
                (401 | 403, _) => return Err(answer.into_error().await),
                _ if request.method == Method::GET => return Err(answer.into_error().await),
                // A registry that does not do HEAD.
                _ => {}
            }
        }
        Err(RegistryError::Protocol { host: endpoint.host.clone(), detail: "it has no answer".to_owned() })
    }

    async fn identity(&self, endpoint: &Endpoint) -> Result<Identity, RegistryError> {
        let seeker = Seeker {
            places: self.places(),
            docker_config: self.docker_config(),
            registry: &endpoint.host,
            repository: &endpoint.repository,
        };
        let found = match find(seeker, self.transport().patience.idle).await {
            Ok(found) => found,
            Err(error) => return Ok(Identity { kind: "none", user: None, source: error.to_string() }),
        };
        let (kind, user) = match found.credentials {
            Credentials::Anonymous => ("none", None),
            Credentials::Basic { username, .. } => ("password", Some(username)),
            Credentials::IdentityToken { username, .. } => ("identity token", Some(username)),
            Credentials::RegistryToken(_) => ("registry token", None),
        };
        let source = match found.source {
            Source::File { file, key } => format!("{}, entry `{key}`", file.display()),
            Source::Helper { helper, file } => format!("{helper}, which {} names", file.display()),
            other => other.hint(&endpoint.host),
        };
        Ok(Identity { kind, user, source })
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
