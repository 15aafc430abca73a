//! Blobs and manifests to a registry: what it has is not sent, what it has elsewhere is mounted.
//! It does not know which blobs a manifest needs: they are to be pushed before it.

use crate::client::Client;
use crate::host::Host;
use crate::request::{Request, Target};
use crate::token::Scope;
use crate::transport::Payload;
use crate::upload::{Session, Upload, confirmed};
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
        let (push, offered) = self.offered(repository, descriptor, mount_from).await?;
        let begun = match offered {
            Offered::There(how) => return Ok(how),
            Offered::Wanted(session) => session,
        };
        let (host, scope) = (&push.host, &push.scope);
        Upload { client: self, host, repository, descriptor, scope, open }.run(begun).await?;
        Ok(PushedBlob::Uploaded)
    }

    /// The same as far as it needs no bytes; `None` if they have to be sent.
    pub async fn offer_blob(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        mount_from: &[String],
    ) -> Result<Option<PushedBlob>, RegistryError> {
        let (push, offered) = self.offered(repository, descriptor, mount_from).await?;
        match offered {
            Offered::There(how) => Ok(Some(how)),
            Offered::Wanted(session) => {
                push.cancel(session).await;
                Ok(None)
            }
        }
    }

    /// Tells a registry that an upload will not be used. If that fails, it forgets it by itself.
    pub(crate) async fn forget_upload(&self, host: &Arc<Host>, repository: &str, scope: Scope, address: Url) {
        let mut request = Request::new(Method::DELETE, repository, "", scope);
        request.target = Target::Named(address);
        request.retried = false;
        let _ = self.send(host, &request).await;
    }

    async fn offered<'a>(
        &'a self,
        repository: &'a Reference,
        descriptor: &'a Descriptor,
        mount_from: &[String],
    ) -> Result<(Push<'a>, Offered), RegistryError> {
        let own = repository.repository();
        let sources = mount_from.iter().map(String::as_str);
        let sources: Vec<&str> =
            sources.filter(|from| *from != own && is_repository(from)).take(MOUNTS_MAX).collect();
        // One token for all that is to come. A token server that refuses some of it may give less.
        let scope = sources.iter().fold(Scope::push(own), |all, from| all.and(Scope::pull(from)));
        let mut push = Push { client: self, host: self.host(repository)?, repository, descriptor, scope };
        let exists = match push.exists().await {
            Err(RegistryError::Unauthorized { .. }) if !sources.is_empty() => {
                push.scope = Scope::push(own);
                push.exists().await?
            }
            exists => exists?,
        };
        if exists {
            return Ok((push, Offered::There(PushedBlob::Existed)));
        }
        let offered = push.mount(&sources).await?;
        Ok((push, offered))
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
        let answer = self.send(&self.host(reference)?, &request).await?;
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
    scope: Scope,
}

enum Offered {
    There(PushedBlob),
    /// The bytes are wanted, in the upload that the registry began instead of a mount, if it did.
    Wanted(Option<Session>),
}

impl Push<'_> {
    async fn exists(&self) -> Result<bool, RegistryError> {
        self.client.has_blob_in(self.repository, &self.descriptor.digest, self.scope.clone()).await
    }

    async fn mount(&self, sources: &[&str]) -> Result<Offered, RegistryError> {
        let own = self.repository.repository();
        let mut session = None;
        for from in sources {
            let scope = self.scope.clone().and(Scope::pull(from));
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
                    confirmed(&answer, self.repository, &self.descriptor.digest)?;
                    self.cancel(session.take()).await;
                    return Ok(Offered::There(PushedBlob::Mounted));
                }
                202 => {
                    let begun = Session::of(&answer)?;
                    drop(answer);
                    self.cancel(session.replace(begun)).await;
                }
                _ => {}
            }
        }
        Ok(Offered::Wanted(session))
    }

    /// Tells the registry that an upload will not be used. If that fails, it forgets it by itself.
    async fn cancel(&self, session: Option<Session>) {
        let Some(session) = session else { return };
        let repository = self.repository.repository();
        self.client.forget_upload(&self.host, repository, self.scope.clone(), session.address()).await;
    }
}

fn is_repository(name: &str) -> bool {
    let parsed = format!("localhost/{name}").parse::<Reference>();
    parsed.is_ok_and(|reference| reference.repository() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_repositories_go_into_a_mount() {
        for (name, want) in
            [("a/b", true), ("library/x", true), ("a&b=c", false), ("A", false), ("a:b", false), ("", false)]
        {
            assert_eq!(is_repository(name), want, "{name}");
        }
    }
}
