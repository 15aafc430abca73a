//! The client: its options, and the questions that are answered by a document.
//! It does not know how a request is sent.

use crate::answer::Answer;
use crate::config::{Config, Places};
use crate::error::is_transient_status;
use crate::host::Host;
use crate::patience::Retry;
use crate::request::Request;
use crate::token::Scope;
use crate::transport::Transport;
use crate::{Mismatch, Patience, RegistryError};
use kiln_oci::{DOCUMENT_BYTES_MAX, Descriptor, Digest, Document, MediaType, Reference};
use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderValue};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

/// What a user decides about registries.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `host[:port]` of the registries that may speak plain HTTP, or HTTPS with any certificate.
    /// Loopback hosts may speak plain HTTP without being named.
    pub insecure_registries: Vec<String>,
    /// The folder that holds docker's `config.json`; without one, nobody is logged in.
    pub docker_config: Option<PathBuf>,
    /// Where other programs' settings and credentials are.
    pub places: Places,
    /// How long everything may take.
    pub patience: Patience,
}

/// A client of any number of registries. It is cheap to make, and a clone is the same client: it
/// connects, reads credentials and loads certificates only when a request needs it.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

/// What a reference points to now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The manifest or the index.
    pub descriptor: Descriptor,
}

#[derive(Debug)]
struct Shared {
    transport: Transport,
    docker_config: Option<PathBuf>,
    places: Places,
    config: Mutex<Option<Arc<Config>>>,
    hosts: Mutex<HashMap<String, Arc<Host>>>,
    /// What is told to registries beside what is waited for.
    farewells: Mutex<JoinSet<()>>,
}

impl Options {
    /// With docker's folder where the environment says it is: `$DOCKER_CONFIG`, else `~/.docker`.
    pub fn from_env() -> Options {
        let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let docker_config = named("DOCKER_CONFIG").or_else(|| Some(named("HOME")?.join(".docker")));
        Options { docker_config, places: Places::from_env(), ..Options::default() }
    }
}

impl Client {
    /// A client that has not connected to anything yet.
    pub fn new(options: Options) -> Result<Client, RegistryError> {
        let plain = |name: &String| {
            let name = name.strip_prefix("http://").or_else(|| name.strip_prefix("https://")).unwrap_or(name);
            name.trim_end_matches('/').to_ascii_lowercase()
        };
        let insecure: BTreeSet<String> = options.insecure_registries.iter().map(plain).collect();
        let transport = Transport::new(insecure, options.places.clone(), options.patience);
        let shared = Shared {
            transport,
            docker_config: options.docker_config,
            places: options.places,
            config: Mutex::default(),
            hosts: Mutex::default(),
            farewells: Mutex::default(),
        };
        Ok(Client { shared: Arc::new(shared) })
    }

    /// What the reference points to now: its digest, size and media type. No body is moved if the
    /// registry can do without.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved, RegistryError> {
        let answer = self.ask_manifest(Method::HEAD, reference).await?;
        let status = answer.status();
        if status == 404 {
            return Err(answer.not_found(reference.to_string()));
        }
        if status == 401 || is_transient_status(status) {
            return Err(answer.into_error().await);
        }
        let kind = answer.media_type();
        let known = kind.is_index() || kind.is_manifest();
        if let (200, true, Some(digest), Some(size)) = (status, known, answer.digest(), answer.length()) {
            let wanted = check_digest(&answer, reference, reference.digest(), digest);
            if wanted.is_ok() && size <= DOCUMENT_BYTES_MAX {
                return Ok(Resolved { descriptor: Descriptor::new(kind, digest, size) });
            }
            if !answer.fail() {
                return Err(wanted.err().unwrap_or_else(|| too_large(&answer, reference)));
            }
        }
        drop(answer);
        // A registry that does not do HEAD, or says too little in its answer, gives the document; and so does
        // another, where a mirror's answer is wrong.
        Ok(Resolved { descriptor: self.manifest(reference).await?.0 })
    }

    /// The manifest or the index that the reference points to, verified against the digest.
    pub async fn manifest(&self, reference: &Reference) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        self.manifest_of(reference, false).await
    }

    /// The same of the registry itself, whatever mirrors it has: for what is read to be changed and written back.
    pub async fn manifest_at_origin(
        &self,
        reference: &Reference,
    ) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        self.manifest_of(reference, true).await
    }

    async fn manifest_of(
        &self,
        reference: &Reference,
        at_origin: bool,
    ) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        let mut retry = Retry::default();
        loop {
            let mut answer = match at_origin {
                true => self.send(&self.host(reference)?, &manifest_request(Method::GET, reference)).await?,
                false => self.ask_manifest(Method::GET, reference).await?,
            };
            match self.document(reference, &mut answer).await {
                // A body that broke off is asked for again.
                Err(DocumentFailure::Content(error)) if error.is_transient() => {
                    drop(answer);
                    if !retry.pause(&self.transport().patience, None).await {
                        return Err(error);
                    }
                }
                Err(DocumentFailure::Status) => return Err(answer.into_error().await),
                // What another place has may be right.
                Err(DocumentFailure::Content(_)) if answer.fail() => {}
                Err(DocumentFailure::Content(error)) => return Err(error),
                Ok(document) => return Ok(document),
            }
        }
    }

    /// How long is waited for what.
    pub fn patience(&self) -> &Patience {
        &self.transport().patience
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.shared.transport
    }

    pub(crate) fn docker_config(&self) -> Option<&Path> {
        self.shared.docker_config.as_deref()
    }

    pub(crate) fn places(&self) -> &Places {
        &self.shared.places
    }

    /// Waits, at most so long, until registries were told of uploads that were given up. What was not told by then
    /// is not told: a registry forgets such an upload by itself one day.
    pub async fn settle(&self, at_most: Duration) {
        let mut farewells = std::mem::take(&mut *self.farewells());
        let all = async { while farewells.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(at_most, all).await;
    }

    pub(crate) fn farewells(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.shared.farewells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the files say, read once.
    pub(crate) fn config(&self) -> Result<Arc<Config>, RegistryError> {
        let mut config = self.shared.config.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = &*config {
            return Ok(Arc::clone(config));
        }
        let read = Arc::new(Config::read(&self.shared.places)?);
        *config = Some(Arc::clone(&read));
        Ok(read)
    }

    /// The hosts that were spoken to, by how they are reached.
    pub(crate) fn hosts(&self) -> MutexGuard<'_, HashMap<String, Arc<Host>>> {
        self.shared.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask_manifest(&self, method: Method, reference: &Reference) -> Result<Answer, RegistryError> {
        self.send_any(reference, &manifest_request(method, reference)).await
    }

    async fn document(
        &self,
        reference: &Reference,
        answer: &mut Answer,
    ) -> Result<(Descriptor, Vec<u8>), DocumentFailure> {
        match answer.status() {
            200 => {}
            404 => return Err(DocumentFailure::Content(answer.not_found(reference.to_string()))),
            _ => return Err(DocumentFailure::Status),
        }
        let bytes = answer.body(DOCUMENT_BYTES_MAX).await?;
        let digest = Digest::of(&bytes);
        check_digest(answer, reference, reference.digest().or(answer.digest()), digest)?;
        let kind = document_type(&bytes, answer.media_type()).map_err(|source| RegistryError::Document {
            host: answer.host(),
            what: reference.to_string(),
            source,
        })?;
        Ok((Descriptor::new(kind, digest, bytes.len() as u64), bytes))
    }
}

/// The question what a reference points to.
pub(crate) fn manifest_request(method: Method, reference: &Reference) -> Request<'static> {
    let repository = reference.repository();
    let rest = format!("manifests/{}", pointer(reference));
    Request::new(method, repository, &rest, Scope::pull(repository))
        .header(ACCEPT, HeaderValue::from_static(ACCEPTED))
}

/// Why an answer is no document.
enum DocumentFailure {
    /// It is another answer.
    Status,
    /// It has not the right content.
    Content(RegistryError),
}

impl From<RegistryError> for DocumentFailure {
    fn from(error: RegistryError) -> DocumentFailure {
        DocumentFailure::Content(error)
    }
}

/// The digest, or else the tag.
fn pointer(reference: &Reference) -> String {
    let tag = || reference.tag().unwrap_or("latest").to_owned();
    reference.digest().map_or_else(tag, |digest| digest.to_string())
}

fn check_digest(
    answer: &Answer,
    reference: &Reference,
    want: Option<Digest>,
    got: Digest,
) -> Result<(), RegistryError> {
    match want {
        Some(want) if want != got => Err(RegistryError::Content {
            host: answer.host(),
            what: reference.to_string(),
            mismatch: Mismatch::Digest { want, got },
        }),
        _ => Ok(()),
    }
}

fn too_large(answer: &Answer, reference: &Reference) -> RegistryError {
    RegistryError::TooLarge { host: answer.host(), what: reference.to_string(), max: DOCUMENT_BYTES_MAX }
}

/// What a document was served as or, where that says nothing, what it is.
fn document_type(bytes: &[u8], served: MediaType) -> Result<MediaType, kiln_oci::DocumentError> {
    let says_nothing =
        matches!(served.as_str(), "" | "text/plain" | "application/json" | "application/octet-stream");
    if !says_nothing {
        return Ok(served);
    }
    Ok(match Document::parse(bytes, &served)? {
        Document::Manifest(manifest) => manifest.media_type.unwrap_or(MediaType::OciManifest),
        Document::Index(index) => index.media_type.unwrap_or(MediaType::OciIndex),
    })
}
