//! One blob's bytes on their way to a registry: whole where it takes them so, in chunks where it does not, and from
//! the byte on that it lacks when they broke off. It does not know whether the blob is needed there.
//!
//! ```text
//! POST uploads/ ─► PUT all ─► done                          what every registry takes
//!                    │ broke off, 5xx, 429, 401
//!                    ├─► GET upload: Range 0-N ─► PATCH N+1… ─► PUT nothing ─► done
//!                    │           └─ it is gone ─► POST uploads/ …
//!                    └ 413, 405, UNSUPPORTED ─► PATCH chunk ─► PATCH chunk … ─► PUT nothing ─► done
//! ```

use crate::answer::Answer;
use crate::client::Client;
use crate::host::{Host, Lane};
use crate::patience::Retry;
use crate::request::{Request, Target};
use crate::token::Scope;
use crate::transport::{Open, Payload};
use crate::{Mismatch, RegistryError};
use kiln_oci::{Descriptor, Digest, Reference};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;

/// The first size of a chunk. Half of the registries that want chunks have a proxy with a limit in front.
const CHUNK_BYTES: u64 = 16 << 20;
/// No chunk gets smaller than this, whatever is refused.
const CHUNK_BYTES_MIN: u64 = 64 << 10;
/// An upload that breaks off more often than this is given up, however much each part brought.
const BREAKS_MAX: u32 = 64;

/// How a registry takes a blob; found out once for all blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Manner {
    /// In one request.
    #[default]
    Whole,
    /// In requests of at most so many bytes each.
    Chunks(u64),
}

/// What is known of a registry's uploads.
#[derive(Debug, Default)]
pub(crate) struct Manners(Mutex<Manner>);

/// An upload that the registry began.
#[derive(Debug)]
pub(crate) struct Session {
    address: Url,
    /// Chunks before the last must have so many bytes.
    chunk_min: u64,
}

/// A blob that is sent.
pub(crate) struct Upload<'a> {
    pub(crate) client: &'a Client,
    pub(crate) host: &'a Arc<Host>,
    pub(crate) repository: &'a Reference,
    pub(crate) descriptor: &'a Descriptor,
    pub(crate) scope: &'a Scope,
    pub(crate) open: &'a Open<'a>,
}

/// An upload on its way.
struct Course {
    session: Session,
    /// The registry has the bytes before this one.
    at: u64,
    manner: Manner,
    /// Whether the registry is asked how far it came.
    is_resumable: bool,
    /// Whether it went on after a break, so that what the registry has may be something else.
    is_mended: bool,
    /// Who tells the registry if it is given up.
    farewell: Option<Farewell>,
}

/// What it takes to tell a registry that an upload was given up.
struct Farewell {
    client: Client,
    host: Arc<Host>,
    repository: String,
    scope: Scope,
}

enum Sent {
    Done,
    /// The registry has the bytes before this one.
    Onward(u64),
    Refused(Failure),
}

struct Failure {
    error: RegistryError,
    again: bool,
    wait: Option<Duration>,
}

impl Manners {
    fn get(&self) -> Manner {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, manner: Manner) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }
}

impl Session {
    /// The upload that an answer says was begun.
    pub(crate) fn of(answer: &Answer) -> Result<Session, RegistryError> {
        Ok(Session { address: answer.location()?, chunk_min: chunk_min(answer) })
    }

    /// Where it is.
    pub(crate) fn address(self) -> Url {
        self.address
    }

    /// The registry may move an upload with each answer.
    fn follow(&mut self, answer: &Answer) {
        if let Ok(address) = answer.location() {
            self.address = address;
        }
    }
}

impl Failure {
    async fn of(answer: Answer) -> Failure {
        let (wait, renewed, status) = (answer.told_to_wait(), answer.is_renewed(), answer.status());
        let error = answer.into_error().await;
        // A session that was lost or is elsewhere is mended by asking where it is.
        let again = renewed || error.is_transient() || matches!(status, 404 | 416);
        Failure { error, again, wait }
    }

    fn from_error(error: RegistryError) -> Failure {
        Failure { again: error.is_transient(), wait: None, error }
    }

    fn status(&self) -> u16 {
        match &self.error {
            RegistryError::Status { status, .. } => *status,
            _ => 0,
        }
    }

    /// Whether it says that the request was bad, and not why: who answers before he has read all may have hung up, and
    /// what he said is lost then.
    fn is_unexplained(&self) -> bool {
        matches!(&self.error, RegistryError::Status { status: 400, message, .. } if message.is_empty())
    }

    /// Whether the registry does not do this at all.
    fn is_unsupported(&self) -> bool {
        match &self.error {
            RegistryError::Status { status: 405 | 411 | 415 | 501, .. } => true,
            RegistryError::Status { status: 400, message, .. } => message.starts_with("UNSUPPORTED"),
            _ => false,
        }
    }
}

impl Upload<'_> {
    /// Sends the blob, into an upload that was begun already if there is one.
    pub(crate) async fn run(&self, begun: Option<Session>) -> Result<(), RegistryError> {
        self.check_size()?;
        let session = match begun {
            Some(session) => session,
            None => self.start().await?,
        };
        let manner = self.host.manners.get();
        let farewell = Some(Farewell {
            client: self.client.clone(),
            host: Arc::clone(self.host),
            repository: self.repository.repository().to_owned(),
            scope: self.scope.clone(),
        });
        let mut course = Course { session, at: 0, manner, is_resumable: true, is_mended: false, farewell };
        let mut retry = Retry::default();
        let (mut breaks, mut misfits) = (0, 0);
        loop {
            let failure = match self.step(&mut course).await {
                Sent::Done => {
                    course.farewell = None;
                    return Ok(());
                }
                Sent::Onward(at) if at > course.at => {
                    course.at = at;
                    retry.reset();
                    continue;
                }
                Sent::Onward(_) => Failure { again: true, wait: None, error: self.stuck() },
                Sent::Refused(failure) => failure,
            };
            if let Some(changed) = course.otherwise(&failure, self.descriptor.size) {
                self.host.manners.set(course.manner);
                self.place(&mut course, changed).await?;
                continue;
            }
            breaks += 1;
            let patience = &self.client.transport().patience;
            if !failure.again || breaks > BREAKS_MAX || !retry.pause(patience, failure.wait).await {
                return Err(failure.error);
            }
            // The registry may have got it all, and only its answer was lost.
            if self.client.has_blob_in(self.repository, &self.descriptor.digest, self.scope.clone()).await? {
                course.farewell = None;
                return Ok(());
            }
            let before = course.at;
            self.place(&mut course, Anew::IfGone).await?;
            if failure.status() == 416 && course.at == before {
                misfits += 1;
                // It refuses what goes on where it says that it is: a single byte, for which there is no word, or worse.
                if misfits > 1 || before == 0 {
                    self.place(&mut course, Anew::Always).await?;
                }
            }
            if course.at > before {
                retry.reset();
            }
        }
    }

    /// Begins an upload.
    async fn start(&self) -> Result<Session, RegistryError> {
        let name = self.repository.repository();
        let request = Request::new(Method::POST, name, "blobs/uploads/", self.scope.clone());
        let answer = self.client.send(self.host, &request).await?;
        if answer.status() != 202 {
            return Err(answer.into_error().await);
        }
        Session::of(&answer)
    }

    /// Finds out from which byte on the registry lacks the blob, or begins anew.
    async fn place(&self, course: &mut Course, anew: Anew) -> Result<(), RegistryError> {
        let found = match anew {
            Anew::IfGone if course.is_resumable => self.position(&mut course.session).await,
            _ => None,
        };
        match found {
            Some(at) => {
                course.at = at;
                course.is_mended |= at > 0;
            }
            None => {
                (course.at, course.is_mended) = (0, false);
                let lost = std::mem::replace(&mut course.session, self.start().await?);
                if let (Anew::Always, Some(farewell)) = (anew, &course.farewell) {
                    farewell.say(lost.address);
                }
            }
        }
        Ok(())
    }

    /// How many bytes of an upload the registry has; `None` if it does not know it.
    async fn position(&self, session: &mut Session) -> Option<u64> {
        let mut request = self.named(Method::GET, session.address.clone());
        request.retried = true;
        let answer = self.client.send(self.host, &request).await.ok()?;
        if !matches!(answer.status(), 200 | 202 | 204) {
            return None;
        }
        session.follow(&answer);
        let at = answer.header("range").map_or(Some(0), received)?;
        (at <= self.descriptor.size).then_some(at)
    }

    /// Sends the next bytes.
    async fn step(&self, course: &mut Course) -> Sent {
        let size = self.descriptor.size;
        let outcome = match course.manner {
            Manner::Whole if course.at == 0 => self.put(&course.session, size).await,
            _ if course.at == size => self.put(&course.session, 0).await,
            Manner::Whole => self.patch(course, size - course.at).await,
            Manner::Chunks(bytes) => {
                let bytes = bytes.max(course.session.chunk_min).min(size - course.at);
                self.patch(course, bytes).await
            }
        };
        outcome.unwrap_or_else(|error| Sent::Refused(Failure::from_error(error)))
    }

    /// Ends an upload, with all bytes of the blob or with none.
    async fn put(&self, session: &Session, bytes: u64) -> Result<Sent, RegistryError> {
        let address = with_digest(session.address.clone(), &self.descriptor.digest);
        let open = || (self.open)();
        let request = self.carrying(Method::PUT, address, &open, bytes);
        let answer = self.client.send(self.host, &request).await?;
        if !matches!(answer.status(), 200 | 201 | 204) {
            return Ok(Sent::Refused(Failure::of(answer).await));
        }
        confirmed(&answer, self.repository, &self.descriptor.digest)?;
        Ok(Sent::Done)
    }

    /// Adds bytes to an upload.
    async fn patch(&self, course: &mut Course, bytes: u64) -> Result<Sent, RegistryError> {
        let (from, to) = (course.at, course.at + bytes);
        let open = || -> io::Result<File> {
            let mut file = (self.open)()?;
            file.seek(SeekFrom::Start(from))?;
            Ok(file)
        };
        let mut request = self.carrying(Method::PATCH, course.session.address.clone(), &open, bytes);
        let range = HeaderValue::from_str(&format!("{from}-{}", to.saturating_sub(1)));
        request.headers.extend(range.ok().map(|range| (CONTENT_RANGE, range)));
        let answer = self.client.send(self.host, &request).await?;
        if !matches!(answer.status(), 200 | 201 | 202 | 204) {
            return Ok(Sent::Refused(Failure::of(answer).await));
        }
        course.session.follow(&answer);
        course.session.chunk_min = course.session.chunk_min.max(chunk_min(&answer));
        let at = answer.header("range").and_then(received).unwrap_or(to);
        if at < from || at > to {
            return Err(RegistryError::Protocol {
                host: answer.host(),
                detail: format!("it says that it has {at} bytes of an upload of which it was sent {to}"),
            });
        }
        Ok(Sent::Onward(at))
    }

    fn carrying<'b>(&self, method: Method, address: Url, open: &'b Open<'b>, bytes: u64) -> Request<'b> {
        let mut request = self.named(method, address);
        request.headers.push((CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")));
        request.lane = Lane::Transfer;
        request.payload = if bytes > 0 { Payload::File { open, size: bytes } } else { Payload::Bytes(&[]) };
        request
    }

    fn named<'b>(&self, method: Method, address: Url) -> Request<'b> {
        let mut request = Request::new(method, self.repository.repository(), "", self.scope.clone());
        request.target = Target::Named(address);
        request.retried = false;
        request
    }

    fn check_size(&self) -> Result<(), RegistryError> {
        let size = (self.open)().and_then(|file| file.metadata()).map(|m| m.len());
        let (want, got) = (
            self.descriptor.size,
            size.map_err(|source| RegistryError::Io {
                what: "the blob to upload cannot be opened".to_owned(),
                source,
            })?,
        );
        let mismatch = Mismatch::Size { want, got };
        if want == got { Ok(()) } else { Err(self.mismatch(mismatch)) }
    }

    fn mismatch(&self, mismatch: Mismatch) -> RegistryError {
        let host = self.repository.registry().to_owned();
        RegistryError::Content { host, what: self.descriptor.digest.to_string(), mismatch }
    }

    fn stuck(&self) -> RegistryError {
        RegistryError::Protocol {
            host: self.repository.registry().to_owned(),
            detail: format!("the upload of {} does not get on", self.descriptor.digest),
        }
    }
}

/// Where an upload goes on.
#[derive(Clone, Copy)]
enum Anew {
    /// Where it is, and from the start only if the registry does not know it any more.
    IfGone,
    /// In an upload of its own.
    Always,
}

impl Farewell {
    /// Says so beside what goes on; [`Client::settle`] waits for it.
    fn say(&self, address: Url) {
        let Farewell { client, host, repository, scope } = self;
        let (own, host, repository, scope) =
            (client.clone(), Arc::clone(host), repository.clone(), scope.clone());
        if let Ok(runtime) = Handle::try_current() {
            let saying = async move { own.forget_upload(&host, &repository, scope, address).await };
            client.farewells().spawn_on(saying, &runtime);
        }
    }
}

/// However an upload ends, by an error or because nobody waits for it any more.
impl Drop for Course {
    fn drop(&mut self) {
        if let Some(farewell) = self.farewell.take() {
            farewell.say(self.session.address.clone());
        }
    }
}

impl Course {
    /// What a refusal changes about the way that the bytes are sent, if it does: then it is tried at once.
    fn otherwise(&mut self, failure: &Failure, size: u64) -> Option<Anew> {
        if self.is_mended && failure.status() == 400 && !failure.is_unsupported() {
            // What was put together from parts was not the blob.
            self.is_resumable = false;
            return Some(Anew::Always);
        }
        match self.manner {
            Manner::Whole if self.at > 0 && failure.is_unsupported() => {
                // It takes no parts at all.
                self.is_resumable = false;
                Some(Anew::Always)
            }
            Manner::Whole if failure.status() == 413 && size > CHUNK_BYTES_MIN => {
                self.manner = Manner::Chunks(smaller(CHUNK_BYTES * 4, size).max(CHUNK_BYTES_MIN));
                Some(Anew::IfGone)
            }
            Manner::Whole if self.is_resumable && (failure.is_unsupported() || failure.is_unexplained()) => {
                self.manner = Manner::Chunks(CHUNK_BYTES);
                Some(Anew::IfGone)
            }
            Manner::Chunks(bytes) if failure.status() == 413 => {
                let least = CHUNK_BYTES_MIN.max(self.session.chunk_min);
                let next = smaller(bytes, size - self.at).max(least);
                (next < bytes.min(size - self.at)).then(|| {
                    self.manner = Manner::Chunks(next);
                    Anew::IfGone
                })
            }
            _ => None,
        }
    }
}

/// Makes sure that the digest in an answer, if there is one, is the blob's.
pub(crate) fn confirmed(answer: &Answer, repository: &Reference, want: &Digest) -> Result<(), RegistryError> {
    match answer.digest() {
        Some(got) if got != *want => Err(RegistryError::Content {
            host: repository.registry().to_owned(),
            what: want.to_string(),
            mismatch: Mismatch::Digest { want: *want, got },
        }),
        _ => Ok(()),
    }
}

/// The size of a chunk after one of at most `refused` bytes, of `left`, was too large.
fn smaller(refused: u64, left: u64) -> u64 {
    refused.min(left.next_power_of_two()) / 4
}

/// How many bytes a registry has by the `Range` of an upload: `0-9` is ten of them. `0-0` is none: no
/// registry has another way to say so, and no upload that breaks off leaves just one byte.
fn received(range: &str) -> Option<u64> {
    let range = range.trim().trim_start_matches("bytes").trim_start_matches(['=', ' ']);
    let (first, last) = range.split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    (first.trim() == "0").then(|| if last == 0 { 0 } else { last.saturating_add(1) })
}

fn chunk_min(answer: &Answer) -> u64 {
    answer.header("oci-chunk-min-length").and_then(|text| text.trim().parse().ok()).unwrap_or(0)
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
    fn a_range_of_an_upload_says_how_many_bytes_are_there() {
        for (range, want) in [
            ("0-9", Some(10)),
            ("bytes=0-9", Some(10)),
            ("bytes 0-9", Some(10)),
            ("0-0", Some(0)),
            ("5-9", None),
            ("0--1", None),
            ("-1", None),
            ("", None),
            ("0-x", None),
            ("0-99999999999999999999", None),
        ] {
            assert_eq!(received(range), want, "{range}");
        }
    }

    #[test]
    fn chunks_get_smaller_until_there_is_nothing_to_gain() {
        assert_eq!(smaller(64 << 20, 1 << 30), 16 << 20);
        assert_eq!(smaller(64 << 20, 3_000_000), 1 << 20);
        assert_eq!(smaller(16 << 20, 1 << 30), 4 << 20);
        assert!(smaller(CHUNK_BYTES_MIN, 1 << 30) < CHUNK_BYTES_MIN);
    }
}
