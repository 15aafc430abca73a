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
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

/// A transfer that breaks off more often than this is given up, however much each part brought.
const PARTS_MAX: u32 = 64;
/// So many mirrors may send wrong bytes for one small blob.
const PLACES_MAX: u32 = 8;
/// What is asked for at once of a large blob; such pieces are held in memory until it is their turn.
const PIECE_BYTES: u64 = 8 << 20;
/// A blob of which several pieces are fetched at once has at least so many of them.
const PIECES_MIN: u64 = 4;

/// Takes the bytes of a blob as they arrive.
type OnBytes<'a> = dyn FnMut(&[u8]) -> io::Result<()> + Send + 'a;

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
    ///
    /// Of a large blob several pieces are fetched at once, as long as the host has free turns and takes ranges.
    pub async fn pull_blob(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        on_bytes: &mut OnBytes<'_>,
    ) -> Result<(), RegistryError> {
        let mut hasher = Hasher::new();
        let mut hand_over = |bytes: &[u8]| {
            hasher.update(bytes);
            on_bytes(bytes)
        };
        let mut rest = Part::of(self, repository, descriptor);
        let begun = rest.take_pieces(&mut hand_over).await?;
        rest.take_all(begun, &mut hand_over).await?;
        let (want, got) = (descriptor.digest, hasher.finish());
        if want == got { Ok(()) } else { Err(rest.mismatch(Mismatch::Digest { want, got })) }
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

/// The bytes of a blob that are asked for together.
#[derive(Clone)]
struct Part {
    client: Client,
    repository: Reference,
    descriptor: Descriptor,
    /// The first byte that is still missing.
    at: u64,
    /// The byte after the last one.
    end: u64,
    /// Whether the caller has a turn at the host for it already.
    has_turn: bool,
    /// Who sent what there is, or the part of it that is in doubt.
    from: Option<Arc<Host>>,
}

/// An answer with bytes of a blob, of which the first are known if the server takes no ranges.
struct Begun {
    answer: Answer,
    skip: u64,
    /// The turn at the host, where the answer does not have it.
    turn: Option<OwnedSemaphorePermit>,
}

/// A piece that arrived, and the turn that it keeps until it is handed over: so there are never more
/// pieces in memory than a host has turns.
type Piece = (Part, Vec<u8>, OwnedSemaphorePermit);

impl Part {
    /// All of a blob.
    fn of(client: &Client, repository: &Reference, descriptor: &Descriptor) -> Part {
        let (client, repository, descriptor) = (client.clone(), repository.clone(), descriptor.clone());
        Part { client, repository, at: 0, end: descriptor.size, descriptor, has_turn: false, from: None }
    }

    /// Fetches the beginning of a large blob, several pieces at once, for as long as the host has free turns.
    /// What is left is for one request; its answer is given if it is there already.
    async fn take_pieces(&mut self, on_bytes: &mut OnBytes<'_>) -> Result<Option<Begun>, RegistryError> {
        if self.end / PIECE_BYTES < PIECES_MIN {
            return Ok(None);
        }
        // The registry's turns count, also for what a mirror sends in its place.
        let Ok(host) = self.client.host(&self.repository) else { return Ok(None) };
        let (Some(turn), Some(second)) = (host.free_turn(), host.free_turn()) else { return Ok(None) };
        drop(second);
        let mut first = Part { end: PIECE_BYTES, has_turn: true, ..self.clone() };
        let begun = match first.ask().await {
            Ok(begun) if begun.answer.status() == 206 => begun,
            Ok(begun) => return Ok(Some(Begun { turn: Some(turn), ..begun })),
            Err(error) if refuses_ranges(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut asked = first.end;
        let mut fetching = JoinSet::new();
        fetching.spawn(async move { first.fetch(Some(begun)).await.map(|bytes| (first, bytes, turn)) });
        let mut arrived: BTreeMap<u64, Piece> = BTreeMap::new();
        loop {
            while asked < self.end
                && let Some(turn) = host.free_turn()
            {
                let end = self.end.min(asked + PIECE_BYTES);
                let mut next = Part { at: asked, end, has_turn: true, ..self.clone() };
                asked = end;
                fetching.spawn(async move { next.fetch(None).await.map(|bytes| (next, bytes, turn)) });
            }
            // One piece after the other is slower than one request for all.
            let is_alone = fetching.len() + arrived.len() < 2 && asked < self.end;
            let Some(Ok(piece)) = fetching.join_next().await else { return Ok(None) };
            match piece {
                Ok(piece) => _ = arrived.insert(piece.0.end - piece.1.len() as u64, piece),
                Err(error) if refuses_ranges(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
            while let Some((part, bytes, _turn)) = arrived.remove(&self.at) {
                on_bytes(&bytes).map_err(|source| self.not_stored(source))?;
                self.at = part.end;
                self.sent_by(part.from);
            }
            if is_alone {
                return Ok(None);
            }
        }
    }

    /// Fetches a part into memory.
    async fn fetch(&mut self, begun: Option<Begun>) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.end - self.at).unwrap_or_default());
        let mut keep = |part: &[u8]| {
            bytes.extend_from_slice(part);
            Ok(())
        };
        self.take_all(begun, &mut keep).await?;
        Ok(bytes)
    }

    /// Fetches all that is missing, and goes on where the transfer breaks off.
    async fn take_all(
        &mut self,
        mut begun: Option<Begun>,
        on_bytes: &mut OnBytes<'_>,
    ) -> Result<(), RegistryError> {
        let mut retry = Retry::default();
        let mut parts = 0;
        while !self.is_full() || self.end == 0 && parts == 0 {
            parts += 1;
            let before = self.at;
            let begun = match begun.take() {
                Some(begun) => begun,
                // A request was already tried as often as it may be: only a body that breaks off counts here.
                None => self.ask().await?,
            };
            let error = match self.take(begun, on_bytes).await {
                Ok(()) if self.is_full() => return Ok(()),
                Ok(()) => self.mismatch(Mismatch::Size { want: self.descriptor.size, got: self.at }),
                // All is there; how the connection ended does not matter.
                Err(error) if error.is_transient() && before < self.at && self.is_full() => return Ok(()),
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            if self.at > before && !error.is_standstill() {
                retry.reset();
            }
            if parts == PARTS_MAX || !retry.pause(&self.client.transport().patience, None).await {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Asks for all that is still missing.
    async fn ask(&mut self) -> Result<Begun, RegistryError> {
        let (from, size) = (self.at, self.descriptor.size);
        let name = self.repository.repository();
        let rest = format!("blobs/{}", self.descriptor.digest);
        let mut request = Request::new(Method::GET, name, &rest, Scope::pull(name));
        request.lane = if self.has_turn { Lane::Taken } else { Lane::Transfer };
        if from > 0 || self.end < size {
            let last = if self.end < size { (self.end - 1).to_string() } else { String::new() };
            let range = HeaderValue::from_str(&format!("bytes={from}-{last}"));
            request.headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        let answer = self.client.send_any(&self.repository, &request).await?;
        self.sent_by(Some(Arc::clone(answer.registry())));
        // What a server sends again that does not know ranges.
        let skip = match answer.status() {
            // Nothing is wrong with it, and all of it is asked for in another way.
            200 if from > 0 && self.has_turn => {
                let what = self.descriptor.digest.to_string();
                let mismatch = Mismatch::Range { want: from };
                return Err(RegistryError::Content { host: answer.host(), what, mismatch });
            }
            200 => from,
            206 => match answer.header("content-range").and_then(content_range) {
                Some((start, all)) if start == from && all.is_none_or(|all| all == size) => 0,
                Some((start, Some(all))) if start == from => {
                    return Err(self.mismatch(Mismatch::Size { want: size, got: all }));
                }
                _ => return Err(self.mismatch(Mismatch::Range { want: from })),
            },
            404 => {
                return Err(answer.not_found(self.descriptor.digest.to_string()));
            }
            416 if from > 0 => return Err(self.mismatch(Mismatch::Size { want: size, got: from })),
            _ => return Err(answer.into_error().await),
        };
        if answer.length().is_some_and(|length| length.saturating_add(from - skip) > size) {
            return Err(self.mismatch(Mismatch::Longer { want: size }));
        }
        Ok(Begun { answer, skip, turn: None })
    }

    /// Notes who sent bytes. What a mirror that failed has sent may be wrong, whoever sends the rest.
    fn sent_by(&mut self, host: Option<Arc<Host>>) {
        if !self.from.as_ref().is_some_and(|from| from.has_failed() && self.at > 0) {
            self.from = host;
        }
    }

    /// Hands the bytes of an answer over, without those that are known.
    async fn take(&mut self, begun: Begun, on_bytes: &mut OnBytes<'_>) -> Result<(), RegistryError> {
        let size = self.descriptor.size;
        let Begun { mut answer, mut skip, turn: _turn } = begun;
        while let Some(chunk) = answer.chunk().await? {
            let chunk: &[u8] = chunk.as_ref();
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= skipped as u64;
            let chunk = &chunk[skipped..];
            if self.at + chunk.len() as u64 > size {
                return Err(self.mismatch(Mismatch::Longer { want: size }));
            }
            // A server may send more of a blob than the piece that it was asked for.
            let wanted = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(chunk.len());
            if wanted > 0 {
                self.at += wanted as u64;
                on_bytes(&chunk[..wanted]).map_err(|source| self.not_stored(source))?;
            }
            if self.is_full() && self.end < size {
                return Ok(());
            }
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.at == self.end
    }

    fn not_stored(&self, source: io::Error) -> RegistryError {
        RegistryError::Io { what: format!("the blob {} cannot be stored", self.descriptor.digest), source }
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

/// Whether a server answers so to who asks for a piece of a blob, though it may give the whole.
fn refuses_ranges(error: &RegistryError) -> bool {
    match error {
        RegistryError::Status { status, .. } => matches!(status, 400 | 405 | 416 | 501),
        RegistryError::Content { mismatch, .. } => matches!(mismatch, Mismatch::Range { .. }),
        _ => false,
    }
}

/// The first byte of `bytes 5-9/10`.
pub(crate) fn range_start(text: &str) -> Option<u64> {
    Some(content_range(text)?.0)
}

/// The first byte of `bytes 5-9/10` and the size of the whole, if it is there.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (unit, range) = text.trim().split_once(' ')?;
    let (start, rest) = range.split_once('-')?;
    let all = rest.split_once('/').and_then(|(_, all)| all.trim().parse().ok());
    (unit == "bytes").then_some((start.trim().parse().ok()?, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_tells_where_it_starts() {
        assert_eq!(range_start("bytes 5-9/10"), Some(5));
        assert_eq!(range_start("bytes 0-0/*"), Some(0));
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes */10", "items 5-9/10", "bytes", "bytes -1-2/3"] {
            assert_eq!(range_start(bad), None, "{bad}");
        }
    }
}
