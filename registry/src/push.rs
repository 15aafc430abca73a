//! Blobs and manifests to a registry: what it has is not sent, what it has elsewhere is mounted.
//! It does not know which blobs a manifest needs: they are to be pushed before it.

use crate::answer::Answer;
use crate::client::Client;
use crate::host::{Host, Lane};
use crate::patience::Retry;
use crate::request::{Request, Target};
use crate::token::Scope;
use crate::transport::{Open, Payload};
use crate::{Mismatch, RegistryError};
use kiln_oci::{DOCUMENT_BYTES_MAX, Descriptor, Digest, MediaType, Reference};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};
use std::fs::File;
use std::io;
use std::sync::Arc;

/// How many repositories are asked for a blob before it is sent.
const MOUNTS_MAX: usize = 3;

/// How a blob came to be in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushedBlob {
    /// It was there.
    Existed,
    /// The registry took it from another of its repositories.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

impl Client {
    /// Makes sure that the repository has the blob: asks for it, then mounts it from one of the
    /// repositories `mount_from` of the same registry, then sends the file that `open` opens, which
    /// is called again for each attempt.
    pub async fn push_blob(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        mount_from: &[String],
        open: &(dyn Fn() -> io::Result<File> + Send + Sync),
    ) -> Result<PushedBlob, RegistryError> {
        let push = Push { client: self, host: self.host(repository), repository, descriptor };
        if push.exists().await? {
            return Ok(PushedBlob::Existed);
        }
        let mut session = match push.mount(mount_from).await? {
            Mounted::Yes => return Ok(PushedBlob::Mounted),
            Mounted::No(session) => session,
        };
        let patience = &self.transport().patience;
        let mut retry = Retry::default();
        loop {
            let address = match session.take() {
                Some(address) => address,
                None => push.start().await?,
            };
            let error = match push.put(address, open).await {
                Ok(answer) if matches!(answer.status(), 200 | 201 | 204) => {
                    return push.confirmed(&answer).map(|()| PushedBlob::Uploaded);
                }
                // The session was lost, which a new one mends.
                Ok(answer) if matches!(answer.status(), 404 | 416) => Failure::again(answer).await,
                Ok(answer) => Failure::of(answer).await,
                Err(error) => Failure { again: error.is_transient(), wait: None, error },
            };
            if !error.again || !retry.pause(patience, error.wait).await {
                return Err(error.error);
            }
            // The registry may have got it all, and only its answer was lost.
            if push.exists().await? {
                return Ok(PushedBlob::Uploaded);
            }
        }
    }

    /// Whether the repository has the blob, or the registry took it from one of the repositories
    /// `mount_from` just now. Nothing is sent.
    pub async fn take_blob(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        mount_from: &[String],
    ) -> Result<bool, RegistryError> {
        let push = Push { client: self, host: self.host(repository), repository, descriptor };
        if push.exists().await? {
            return Ok(true);
        }
        match push.mount(mount_from).await? {
            Mounted::Yes => Ok(true),
            Mounted::No(session) => {
                push.cancel(session).await;
                Ok(false)
            }
        }
    }

    /// Puts a manifest or an index under the reference's tag or, if it has none, its digest.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        bytes: &[u8],
    ) -> Result<Digest, RegistryError> {
        let (registry, repository) = (reference.registry(), reference.repository());
        let digest = Digest::of(bytes);
        let checked = |want: Option<Digest>, got: Digest| match want {
            Some(want) if want != got => Err(RegistryError::Content {
                host: registry.to_owned(),
                what: reference.to_string(),
                mismatch: Mismatch::Digest { want, got },
            }),
            _ => Ok(()),
        };
        checked(reference.digest(), digest)?;
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            let (host, what) = (registry.to_owned(), reference.to_string());
            return Err(RegistryError::TooLarge { host, what, max: DOCUMENT_BYTES_MAX });
        }
        let rest = match reference.tag() {
            Some(tag) => format!("manifests/{tag}"),
            None => format!("manifests/{digest}"),
        };
        let kind = HeaderValue::from_str(media_type.as_str()).map_err(|_| RegistryError::Protocol {
            host: registry.to_owned(),
            detail: format!("`{media_type}` cannot be sent to it as a media type"),
        })?;
        let mut request =
            Request::new(Method::PUT, repository, &rest, Scope::push(repository)).header(CONTENT_TYPE, kind);
        request.payload = Payload::Bytes(bytes);
        let answer = self.send(&self.host(reference), &request).await?;
        if !matches!(answer.status(), 200 | 201 | 202 | 204) {
            return Err(answer.into_error().await);
        }
        checked(Some(digest), answer.digest().unwrap_or(digest))?;
        Ok(digest)
    }
}

struct Push<'a> {
    client: &'a Client,
    host: Arc<Host>,
    repository: &'a Reference,
    descriptor: &'a Descriptor,
}

enum Mounted {
    Yes,
    /// The address of the upload that the registry began instead, if it did.
    No(Option<Url>),
}

struct Failure {
    error: RegistryError,
    again: bool,
    wait: Option<std::time::Duration>,
}

impl Failure {
    async fn of(answer: Answer) -> Failure {
        let wait = answer.told_to_wait();
        let error = answer.into_error().await;
        Failure { again: error.is_transient(), wait, error }
    }

    async fn again(answer: Answer) -> Failure {
        Failure { again: true, ..Failure::of(answer).await }
    }
}

impl Push<'_> {
    fn scope(&self) -> Scope {
        Scope::push(self.repository.repository())
    }

    async fn exists(&self) -> Result<bool, RegistryError> {
        self.client.has_blob_in(self.repository, &self.descriptor.digest, self.scope()).await
    }

    async fn mount(&self, mount_from: &[String]) -> Result<Mounted, RegistryError> {
        let own = self.repository.repository();
        let mut session = None;
        let others = mount_from.iter().filter(|from| *from != own && is_repository(from));
        for from in others.take(MOUNTS_MAX) {
            let scope = self.scope().and(Scope::pull(from));
            // A repository's name and a digest need no escapes in a query.
            let rest = format!("blobs/uploads/?mount={}&from={from}", self.descriptor.digest);
            let request = Request::new(Method::POST, own, &rest, scope);
            // Whoever may not read the other repository sends the blob.
            let answer = match self.client.send(&self.host, &request).await {
                Ok(answer) => answer,
                Err(RegistryError::Unauthorized { .. }) => continue,
                Err(error) => return Err(error),
            };
            match answer.status() {
                201 => {
                    self.confirmed(&answer)?;
                    self.cancel(session.take()).await;
                    return Ok(Mounted::Yes);
                }
                202 => {
                    let begun = answer.location()?;
                    drop(answer);
                    self.cancel(session.replace(begun)).await;
                }
                _ => {}
            }
        }
        Ok(Mounted::No(session))
    }

    /// Begins an upload and gives its address.
    async fn start(&self) -> Result<Url, RegistryError> {
        let request =
            Request::new(Method::POST, self.repository.repository(), "blobs/uploads/", self.scope());
        let answer = self.client.send(&self.host, &request).await?;
        if answer.status() != 202 {
            return Err(answer.into_error().await);
        }
        answer.location()
    }

    async fn put(&self, session: Url, open: &Open<'_>) -> Result<Answer, RegistryError> {
        let (want, got) = (self.descriptor.size, file_size(open)?);
        if want != got {
            return Err(self.mismatch(Mismatch::Size { want, got }));
        }
        let mut request = self.named(Method::PUT, with_digest(session, &self.descriptor.digest));
        request.headers.push((CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")));
        request.lane = Lane::Transfer;
        if want > 0 {
            request.payload = Payload::File { open, size: want };
        } else {
            request.payload = Payload::Bytes(&[]);
        }
        self.client.send(&self.host, &request).await
    }

    /// Tells the registry that an upload will not be used. If that fails, it forgets it by itself.
    async fn cancel(&self, session: Option<Url>) {
        if let Some(session) = session {
            let _ = self.client.send(&self.host, &self.named(Method::DELETE, session)).await;
        }
    }

    fn named<'b>(&self, method: Method, address: Url) -> Request<'b> {
        let mut request = Request::new(method, self.repository.repository(), "", self.scope());
        request.target = Target::Named(address);
        request.retried = false;
        request
    }

    fn confirmed(&self, answer: &Answer) -> Result<(), RegistryError> {
        let want = self.descriptor.digest;
        match answer.digest() {
            Some(got) if got != want => Err(self.mismatch(Mismatch::Digest { want, got })),
            _ => Ok(()),
        }
    }

    fn mismatch(&self, mismatch: Mismatch) -> RegistryError {
        let host = self.repository.registry().to_owned();
        RegistryError::Content { host, what: self.descriptor.digest.to_string(), mismatch }
    }
}

fn file_size(open: &Open<'_>) -> Result<u64, RegistryError> {
    open().and_then(|file| file.metadata()).map(|m| m.len()).map_err(|source| RegistryError::Io {
        what: "the blob to upload cannot be opened".to_owned(),
        source,
    })
}

/// The address of an upload, whose query is the registry's own, with the digest that ends it.
fn with_digest(mut session: Url, digest: &Digest) -> Url {
    let query = match session.query() {
        Some(query) if !query.is_empty() => format!("{query}&digest={digest}"),
        _ => format!("digest={digest}"),
    };
    session.set_query(Some(&query));
    session
}

fn is_repository(name: &str) -> bool {
    let parsed = format!("localhost/{name}").parse::<Reference>();
    parsed.is_ok_and(|reference| reference.repository() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_an_upload_address_is_kept_as_it_is() {
        let digest = Digest::of(b"");
        for (address, want) in [
            ("https://r/u/1", "https://r/u/1?digest="),
            ("https://r/u/1?", "https://r/u/1?digest="),
            ("https://r/u/1?_state=a%2Fb%3D&x", "https://r/u/1?_state=a%2Fb%3D&x&digest="),
        ] {
            let address = Url::parse(address).expect("an address");
            assert_eq!(with_digest(address, &digest).as_str(), format!("{want}{digest}"));
        }
    }

    #[test]
    fn only_names_of_repositories_go_into_a_mount() {
        for (name, want) in
            [("a/b", true), ("library/x", true), ("a&b=c", false), ("A", false), ("a:b", false), ("", false)]
        {
            assert_eq!(is_repository(name), want, "{name}");
        }
    }
}
