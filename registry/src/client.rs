//! The client: its options, and the questions that are answered by a document.
//! It does not know how a request is sent.

use crate::answer::Answer;
use crate::error::is_transient_status;
use crate::host::Host;
use crate::request::Request;
use crate::token::Scope;
use crate::transport::Transport;
use crate::{Mismatch, Patience, RegistryError};
use kiln_oci::{DOCUMENT_BYTES_MAX, Descriptor, Digest, Document, MediaType, Reference};
use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderValue};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

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
    hosts: Mutex<HashMap<String, Arc<Host>>>,
}

impl Options {
    /// With docker's folder where the environment says it is: `$DOCKER_CONFIG`, else `~/.docker`.
    pub fn from_env() -> Options {
        let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let docker_config = named("DOCKER_CONFIG").or_else(|| Some(named("HOME")?.join(".docker")));
        Options { docker_config, ..Options::default() }
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
        let transport = Transport::new(insecure, options.patience);
        let shared = Shared { transport, docker_config: options.docker_config, hosts: Mutex::default() };
        Ok(Client { shared: Arc::new(shared) })
    }

    /// What the reference points to now: its digest, size and media type. No body is moved if the
    /// registry can do without.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved, RegistryError> {
        let answer = self.ask_manifest(Method::HEAD, reference).await?;
        let status = answer.status();
        if status == 404 {
            return Err(self.not_found(reference, reference.to_string()));
        }
        if status == 401 || is_transient_status(status) {
            return Err(answer.into_error().await);
        }
        let kind = answer.media_type();
        let known = kind.is_index() || kind.is_manifest();
        if let (200, true, Some(digest), Some(size)) = (status, known, answer.digest(), answer.length()) {
            check_digest(&answer, reference, reference.digest(), digest)?;
            if size > DOCUMENT_BYTES_MAX {
                return Err(too_large(&answer, reference));
            }
            return Ok(Resolved { descriptor: Descriptor::new(kind, digest, size) });
        }
        drop(answer);
        // A registry that does not do HEAD, or says too little in its answer, gives the document.
        Ok(Resolved { descriptor: self.document(reference).await?.0 })
    }

    /// The manifest or the index that the reference points to, verified against the digest.
    pub async fn manifest(&self, reference: &Reference) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        self.document(reference).await
    }

    /// The registry of a reference, and all that is known of it.
    pub(crate) fn host(&self, reference: &Reference) -> Arc<Host> {
        let registry = reference.registry();
        let mut hosts = self.shared.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let insecure = || self.shared.transport.is_insecure(registry);
        let host =
            hosts.entry(registry.to_owned()).or_insert_with(|| Arc::new(Host::new(registry, insecure())));
        Arc::clone(host)
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.shared.transport
    }

    pub(crate) fn docker_config(&self) -> Option<&Path> {
        self.shared.docker_config.as_deref()
    }

    pub(crate) fn not_found(&self, reference: &Reference, what: String) -> RegistryError {
        RegistryError::NotFound { host: reference.registry().to_owned(), what }
    }

    async fn ask_manifest(&self, method: Method, reference: &Reference) -> Result<Answer, RegistryError> {
        self.send(&self.host(reference), &about_manifest(method, reference)).await
    }

    async fn document(&self, reference: &Reference) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        let request = about_manifest(Method::GET, reference);
        let (answer, bytes) = self.send_for_body(&self.host(reference), &request, DOCUMENT_BYTES_MAX).await?;
        let Some(bytes) = bytes else {
            return Err(match answer.status() {
                404 => self.not_found(reference, reference.to_string()),
                _ => answer.into_error().await,
            });
        };
        let digest = Digest::of(&bytes);
        check_digest(&answer, reference, reference.digest().or(answer.digest()), digest)?;
        let kind = document_type(&bytes, answer.media_type()).map_err(|source| RegistryError::Document {
            host: answer.host(),
            what: reference.to_string(),
            source,
        })?;
        Ok((Descriptor::new(kind, digest, bytes.len() as u64), bytes))
    }
}

fn about_manifest<'a>(method: Method, reference: &Reference) -> Request<'a> {
    let repository = reference.repository();
    let rest = format!("manifests/{}", pointer(reference));
    Request::new(method, repository, &rest, Scope::pull(repository))
        .header(ACCEPT, HeaderValue::from_static(ACCEPTED))
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
