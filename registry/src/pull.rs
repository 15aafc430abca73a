//! Blobs from a registry: each byte counted and hashed on its way, and a broken transfer taken up again.
//! It does not know where the bytes go.

use crate::answer::Answer;
use crate::client::Client;
use crate::host::{Host, Lane};
use crate::patience::Retry;
use crate::request::Request;
use crate::token::Scope;
use crate::{Mismatch, RegistryError};
use kiln_oci::{Descriptor, Digest, Hasher, Reference};
use reqwest::Method;
use reqwest::header::{HeaderValue, RANGE};
use std::io;
use std::sync::Arc;

/// A transfer that breaks off more often than this is given up, however much each part brought.
const PARTS_MAX: u32 = 64;
/// So many mirrors may send wrong bytes for one small blob.
const PLACES_MAX: u32 = 8;

impl Client {
    /// A small blob, verified. More than `max_bytes` are refused.
    pub async fn blob_bytes(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        max_bytes: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        if descriptor.size > max_bytes {
            let host = repository.registry().to_owned();
            return Err(RegistryError::TooLarge {
                host,
                what: descriptor.digest.to_string(),
                max: max_bytes,
            });
        }
        let mut tries = 0;
        loop {
            let mut bytes = Vec::new();
            let mut keep = |part: &[u8]| {
                bytes.extend_from_slice(part);
                Ok(())
            };
            tries += 1;
            match self.pull_blob(repository, descriptor, &mut keep).await {
                Ok(()) => return Ok(bytes),
                // What another place has may be right.
                Err(error) if tries < PLACES_MAX && self.may_be_elsewhere(repository, &error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Hands a blob's bytes to `on_bytes`, in order and each once, while they arrive. What was handed
    /// over is to be trusted only after `Ok`: the digest is known at the end. `on_bytes` may block;
    /// its error ends the transfer.
    pub async fn pull_blob(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        on_bytes: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
    ) -> Result<(), RegistryError> {
        let mut pull =
            Pull { client: self, repository, descriptor, hasher: Hasher::new(), received: 0, from: None };
        let mut retry = Retry::default();
        for _ in 0..PARTS_MAX {
            let before = pull.received;
            // A request was already tried as often as it may be: only a body that breaks off counts here.
            let (answer, skip) = pull.ask().await?;
            let error = match pull.take(answer, skip, on_bytes).await {
                Ok(()) if pull.is_full() => return pull.finish(),
                Ok(()) => pull.mismatch(Mismatch::Size { want: descriptor.size, got: pull.received }),
                // All is there; how the connection ended does not matter.
                Err(error) if error.is_transient() && before < pull.received && pull.is_full() => {
                    return pull.finish();
                }
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            if pull.received > before {
                retry.reset();
            }
            if !retry.pause(&self.transport().patience, None).await {
                return Err(error);
            }
        }
        Err(pull.mismatch(Mismatch::Size { want: descriptor.size, got: pull.received }))
    }

    /// Whether the repository has the blob.
    pub async fn has_blob(&self, repository: &Reference, digest: &Digest) -> Result<bool, RegistryError> {
        let name = repository.repository();
        let request = Request::new(Method::HEAD, name, &format!("blobs/{digest}"), Scope::pull(name));
        has(self.send_any(repository, &request).await?).await
    }

    /// The same of the registry itself, with a token that is good for more.
    pub(crate) async fn has_blob_in(
        &self,
        repository: &Reference,
        digest: &Digest,
        scope: Scope,
    ) -> Result<bool, RegistryError> {
        let rest = format!("blobs/{digest}");
        let request = Request::new(Method::HEAD, repository.repository(), &rest, scope);
        has(self.send(&self.host(repository)?, &request).await?).await
    }
}

async fn has(answer: Answer) -> Result<bool, RegistryError> {
    match answer.status() {
        200 => Ok(true),
        404 => Ok(false),
        _ => Err(answer.into_error().await),
    }
}

struct Pull<'a> {
    client: &'a Client,
    repository: &'a Reference,
    descriptor: &'a Descriptor,
    hasher: Hasher,
    received: u64,
    /// Who sent them, or the part that is in doubt.
    from: Option<Arc<Host>>,
}

impl Pull<'_> {
    /// Asks for all that is still missing. Gives the answer, and how many of its bytes are known.
    async fn ask(&mut self) -> Result<(Answer, u64), RegistryError> {
        let (from, size) = (self.received, self.descriptor.size);
        let name = self.repository.repository();
        let rest = format!("blobs/{}", self.descriptor.digest);
        let mut request = Request::new(Method::GET, name, &rest, Scope::pull(name));
        request.lane = Lane::Transfer;
        if from > 0 {
            let range = HeaderValue::from_str(&format!("bytes={from}-"));
            request.headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        let answer = self.client.send_any(self.repository, &request).await?;
        // What a mirror that failed has sent may be wrong, whoever sends the rest.
        if !self.from.as_ref().is_some_and(|from| from.has_failed() && self.received > 0) {
            self.from = Some(Arc::clone(answer.registry()));
        }
        // What a server sends again that does not know ranges.
        let skip = match answer.status() {
            200 => from,
            206 if answer.header("content-range").and_then(range_start) == Some(from) => 0,
            206 => return Err(self.mismatch(Mismatch::Range { want: from })),
            404 => {
                return Err(answer.not_found(self.descriptor.digest.to_string()));
            }
            416 if from > 0 => return Err(self.mismatch(Mismatch::Size { want: size, got: from })),
            _ => return Err(answer.into_error().await),
        };
        if answer.length().is_some_and(|length| length.saturating_add(from - skip) > size) {
            return Err(self.mismatch(Mismatch::Longer { want: size }));
        }
        Ok((answer, skip))
    }

    /// Hands the bytes of an answer over, without those that are known.
    async fn take(
        &mut self,
        mut answer: Answer,
        mut skip: u64,
        on_bytes: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
    ) -> Result<(), RegistryError> {
        let size = self.descriptor.size;
        while let Some(chunk) = answer.chunk().await? {
            let chunk = chunk.as_ref();
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= skipped as u64;
            let chunk = &chunk[skipped..];
            if self.received + chunk.len() as u64 > size {
                return Err(self.mismatch(Mismatch::Longer { want: size }));
            }
            if chunk.is_empty() {
                continue;
            }
            self.hasher.update(chunk);
            self.received += chunk.len() as u64;
            on_bytes(chunk).map_err(|source| RegistryError::Io {
                what: format!("the blob {} cannot be stored", self.descriptor.digest),
                source,
            })?;
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.received == self.descriptor.size
    }

    fn finish(self) -> Result<(), RegistryError> {
        let (want, got) = (self.descriptor.digest, self.hasher.clone().finish());
        if want == got { Ok(()) } else { Err(self.mismatch(Mismatch::Digest { want, got })) }
    }

    fn mismatch(&self, mismatch: Mismatch) -> RegistryError {
        let host = match &self.from {
            Some(host) => {
                // What another place has may be right.
                host.fail();
                host.registry.clone()
            }
            None => self.repository.registry().to_owned(),
        };
        RegistryError::Content { host, what: self.descriptor.digest.to_string(), mismatch }
    }
}

/// The first byte of `bytes 5-9/10`.
pub(crate) fn range_start(content_range: &str) -> Option<u64> {
    let (unit, range) = content_range.trim().split_once(' ')?;
    let (start, _) = range.split_once('-')?;
    (unit == "bytes").then(|| start.trim().parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_tells_where_it_starts() {
        assert_eq!(range_start("bytes 5-9/10"), Some(5));
        assert_eq!(range_start("bytes 0-0/*"), Some(0));
        for bad in ["", "bytes */10", "items 5-9/10", "bytes", "bytes -1-2/3"] {
            assert_eq!(range_start(bad), None, "{bad}");
        }
    }
}
