//! The requests of the cache service of GitHub Actions: find, reserve, upload, commit, download. Its first version is
//! REST, with bytes sent to the service itself; its second is Twirp, with bytes sent to Azure's storage. It does not
//! know what an entry is for.

use super::azure;
use crate::cache::CacheError;
use crate::cache::place::OpenBlob;
use crate::cache::waiting::{Deadline, Waiting};
use kiln_oci::Digest;
use kiln_registry::{Client, RegistryError, WebAnswer, WebBody, WebRequest};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt;
use std::io::{self, Seek, SeekFrom};
use std::sync::atomic::{AtomicU64, Ordering};

/// What an answer may have for a body.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// What is sent in one request.
const CHUNK_BYTES: u64 = 32 << 20;
/// How many chunks of one blob are sent at once.
const CHUNKS_AT_ONCE: u64 = 4;
/// What the version of every entry is made of; it is the same for all that BuildKit's library writes.
const ENTRY_VERSION: &[u8] = b"|go-actionscache-1.0";
const TWIRP: &str = "twirp/github.actions.results.api.v1.CacheService/";

/// Which version is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    First,
    Second,
}

/// The service, as one job sees it.
pub(super) struct Service {
    pub client: Client,
    pub waiting: Waiting,
    base: Url,
    version: Version,
    authorization: HeaderValue,
    entry_version: String,
}

/// An entry that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its key, which begins with what was asked for.
    pub key: String,
    url: Url,
}

/// A key that is taken for an upload.
#[derive(Clone, Debug)]
pub(super) enum Reserved {
    First { id: u64 },
    Second { key: String, url: Url },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FoundFirst {
    #[serde(default)]
    cache_key: String,
    #[serde(default)]
    archive_location: String,
}

#[derive(Deserialize)]
struct FoundSecond {
    #[serde(default)]
    ok: bool,
    #[serde(default)]
    signed_download_url: String,
    #[serde(default)]
    matched_key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReservedFirst {
    // The library that BuildKit has writes it as `cacheID`, the service as `cacheId`.
    #[serde(alias = "cacheID", default)]
    cache_id: u64,
}

#[derive(Deserialize)]
struct ReservedSecond {
    #[serde(default)]
    ok: bool,
    #[serde(default)]
    signed_upload_url: String,
}

#[derive(Deserialize)]
struct Committed {
    #[serde(default)]
    ok: bool,
}

impl Service {
    /// The service at an address.
    pub fn new(
        client: Client,
        waiting: Waiting,
        url: &str,
        version: Version,
        token: &str,
    ) -> Result<Service, CacheError> {
        let bad = |what: &str, reason: &str| CacheError::Malformed {
            what: format!("the {what} of GitHub's cache service"),
            reason: reason.to_owned(),
        };
        let base = Url::parse(&format!("{}/", url.trim_end_matches('/')));
        let base = base.ok().filter(|base| matches!(base.scheme(), "http" | "https"));
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| bad("token", "it has characters that no token has"))?;
        authorization.set_sensitive(true);
        Ok(Service {
            client,
            waiting,
            base: base.ok_or_else(|| bad("address", "it is no HTTP address"))?,
            version,
            authorization,
            entry_version: Digest::of(ENTRY_VERSION).hex(),
        })
    }

    /// The host, for messages.
    pub fn host(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Which version is spoken.
    #[cfg(test)]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The newest entry whose key begins with this.
    pub fn find(&self, key: &str, deadline: Deadline) -> Result<Option<Found>, CacheError> {
        let (found, url) = match self.version {
            Version::First => {
                let mut at = self.first("cache")?;
                at.query_pairs_mut().append_pair("keys", key).append_pair("version", &self.entry_version);
                let Some(body) = self.ask(Method::GET, at, None, deadline)? else { return Ok(None) };
                // 204: there is none.
                if body.is_empty() {
                    return Ok(None);
                }
                let found: FoundFirst = self.understood("cache", &body)?;
                (found.cache_key, found.archive_location)
            }
            Version::Second => {
                let asked = json!({ "key": key, "restore_keys": [key], "version": self.entry_version });
                let Some(body) = self.call("GetCacheEntryDownloadURL", &asked, deadline)? else {
                    return Ok(None);
                };
                let found: FoundSecond = self.understood("GetCacheEntryDownloadURL", &body)?;
                if !found.ok {
                    return Ok(None);
                }
                (found.matched_key, found.signed_download_url)
            }
        };
        if found.is_empty() {
            return Ok(None);
        }
        Ok(Some(Found { key: found, url: self.signed(&url)? }))
    }

    /// Takes a key; `None` if somebody else has it.
    pub fn reserve(&self, key: &str, deadline: Deadline) -> Result<Option<Reserved>, CacheError> {
        let asked = json!({ "key": key, "version": self.entry_version });
        match self.version {
            Version::First => {
                let body = self.ask(Method::POST, self.first("caches")?, Some(&asked), deadline)?;
                let Some(body) = body else { return Ok(None) };
                let reserved: ReservedFirst = self.understood("caches", &body)?;
                match reserved.cache_id {
                    0 => Err(self.malformed("caches", "it gives no cacheId")),
                    id => Ok(Some(Reserved::First { id })),
                }
            }
            Version::Second => {
                let Some(body) = self.call("CreateCacheEntry", &asked, deadline)? else { return Ok(None) };
                let reserved: ReservedSecond = self.understood("CreateCacheEntry", &body)?;
                if !reserved.ok {
                    return Ok(None);
                }
                let url = self.signed(&reserved.signed_upload_url)?;
                Ok(Some(Reserved::Second { key: key.to_owned(), url }))
            }
        }
    }

    /// Sends the bytes of an entry, in pieces and several of them at once.
    pub fn upload(
        &self,
        to: &Reserved,
        size: u64,
        open: OpenBlob<'_>,
        deadline: Deadline,
    ) -> Result<(), CacheError> {
        let chunks = size.div_ceil(CHUNK_BYTES);
        if let (Reserved::Second { url, .. }, 0..=1) = (to, chunks) {
            return self.send(azure::whole(url), 0, size, open, deadline);
        }
        let next = AtomicU64::new(0);
        let send_some = || -> Result<(), CacheError> {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= chunks {
                    return Ok(());
                }
                let (from, bytes) = (at * CHUNK_BYTES, CHUNK_BYTES.min(size - at * CHUNK_BYTES));
                let request = match to {
                    Reserved::First { id } => self.chunk_first(*id, from, bytes)?,
                    Reserved::Second { url, .. } => azure::block(url, at),
                };
                let sent = self.send(request, from, bytes, open, deadline);
                // Where one fails nobody needs the others.
                sent.inspect_err(|_| next.store(chunks, Ordering::Relaxed))?;
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..chunks.min(CHUNKS_AT_ONCE)).map(|_| scope.spawn(send_some)).collect();
            let broken = || Err(self.malformed("the upload", "it broke off"));
            let results: Vec<_> =
                threads.into_iter().map(|t| t.join().unwrap_or_else(|_| broken())).collect();
            results.into_iter().collect::<Result<(), CacheError>>()
        })?;
        match to {
            Reserved::First { .. } => Ok(()),
            Reserved::Second { url, .. } => {
                let list = azure::list(chunks);
                let request = WebRequest { body: WebBody::Bytes(&list), ..azure::all_blocks(url) };
                self.answered(&request, deadline)?.map(drop).ok_or_else(|| self.taken("the list of blocks"))
            }
        }
    }

    /// Ends an upload: from now on the entry is there, and can't be changed.
    pub fn commit(&self, what: &Reserved, size: u64, deadline: Deadline) -> Result<(), CacheError> {
        match what {
            Reserved::First { id } => {
                let at = self.first(&format!("caches/{id}"))?;
                let done = self.ask(Method::POST, at, Some(&json!({ "size": size })), deadline)?;
                done.map(drop).ok_or_else(|| self.taken("the upload"))
            }
            Reserved::Second { key, .. } => {
                let asked = json!({ "key": key, "size_bytes": size, "version": self.entry_version });
                let body = self.call("FinalizeCacheEntryUpload", &asked, deadline)?;
                let body = body.ok_or_else(|| self.taken("the upload"))?;
                let committed: Committed = self.understood("FinalizeCacheEntryUpload", &body)?;
                if committed.ok {
                    Ok(())
                } else {
                    Err(self.malformed("FinalizeCacheEntryUpload", "it says no"))
                }
            }
        }
    }

    /// Hands the bytes of an entry over; more than `max` are refused.
    pub fn download(
        &self,
        found: &Found,
        max: u64,
        on_bytes: &mut dyn FnMut(&[u8]) -> io::Result<()>,
        deadline: Deadline,
    ) -> Result<(), CacheError> {
        // The address is signed: no token is shown.
        let request = request(Method::GET, found.url.clone());
        let downloading = async {
            let done = self.client.web_download(&request, max, on_bytes).await;
            match done.map_err(|e| unreachable(&request, e))? {
                Ok(_) => Ok(()),
                Err(answer) => Err(status(answer).await.0),
            }
        };
        self.waiting.wait(Some(deadline), downloading)
    }

    /// An address of the first version.
    fn first(&self, rest: &str) -> Result<Url, CacheError> {
        self.at(&format!("_apis/artifactcache/{rest}"))
    }

    fn at(&self, rest: &str) -> Result<Url, CacheError> {
        self.base.join(rest).map_err(|_| self.malformed(rest, "it makes no address"))
    }

    fn chunk_first(&self, id: u64, from: u64, bytes: u64) -> Result<WebRequest<'static>, CacheError> {
        let mut request = request(Method::PATCH, self.first(&format!("caches/{id}"))?);
        let range = format!("bytes {from}-{}/*", (from + bytes).saturating_sub(1));
        let range = HeaderValue::from_str(&range).map_err(|_| self.malformed("the range", "it is none"))?;
        request.headers.insert(CONTENT_RANGE, range);
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        self.show_token(&mut request);
        Ok(request)
    }

    /// Sends a part of a file.
    fn send(
        &self,
        request: WebRequest<'_>,
        from: u64,
        bytes: u64,
        open: OpenBlob<'_>,
        deadline: Deadline,
    ) -> Result<(), CacheError> {
        let open = || {
            let mut file = open()?;
            file.seek(SeekFrom::Start(from))?;
            Ok(file)
        };
        let body = if bytes == 0 { WebBody::Bytes(&[]) } else { WebBody::File { open: &open, bytes } };
        let request = WebRequest { body, ..request };
        self.answered(&request, deadline)?.map(drop).ok_or_else(|| self.taken("the upload"))
    }

    /// Calls a method of the second version; `None` if what it is about exists already, or is not there.
    fn call(&self, method: &str, asked: &Value, deadline: Deadline) -> Result<Option<Vec<u8>>, CacheError> {
        self.ask(Method::POST, self.at(&format!("{TWIRP}{method}"))?, Some(asked), deadline)
    }

    fn ask(
        &self,
        method: Method,
        at: Url,
        asked: Option<&Value>,
        deadline: Deadline,
    ) -> Result<Option<Vec<u8>>, CacheError> {
        let asked = asked.map(Value::to_string);
        let mut request = request(method, at);
        if let Some(asked) = &asked {
            request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            request.body = WebBody::Bytes(asked.as_bytes());
        }
        let accept = match self.version {
            Version::First => "application/json;api-version=6.0-preview.1",
            Version::Second => "application/json",
        };
        request.headers.insert(ACCEPT, HeaderValue::from_static(accept));
        self.show_token(&mut request);
        self.answered(&request, deadline)
    }

    fn show_token(&self, request: &mut WebRequest<'_>) {
        request.headers.insert(AUTHORIZATION, self.authorization.clone());
    }

    /// The body of a good answer; `None` where the answer is that it exists already, or is not there.
    fn answered(&self, request: &WebRequest<'_>, deadline: Deadline) -> Result<Option<Vec<u8>>, CacheError> {
        self.waiting.wait(Some(deadline), async {
            let mut answer = self.client.web(request).await.map_err(|e| unreachable(request, e))?;
            if (200..300).contains(&answer.status()) {
                return Ok(Some(answer.beginning(ANSWER_BYTES_MAX).await));
            }
            match status(answer).await {
                (_, Failed::Known) => Ok(None),
                (error, Failed::Other) => Err(error),
            }
        })
    }

    fn understood<T: DeserializeOwned>(&self, what: &str, body: &[u8]) -> Result<T, CacheError> {
        serde_json::from_slice(body)
            .map_err(|e| self.malformed(what, &format!("its answer is not as it should be: {e}")))
    }

    /// An address that the service names.
    fn signed(&self, url: &str) -> Result<Url, CacheError> {
        let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| self.malformed("its answer", "it names no HTTP address"))?;
        if self.base.scheme() == "https" && url.scheme() == "http" {
            return Err(self.malformed("its answer", "it leads from HTTPS to plain HTTP"));
        }
        Ok(url)
    }

    fn taken(&self, what: &str) -> CacheError {
        self.malformed(what, "somebody else has ended it, or it is gone")
    }

    fn malformed(&self, what: &str, reason: &str) -> CacheError {
        CacheError::Malformed { what: format!("{what} at {}", self.host()), reason: reason.to_owned() }
    }
}

impl fmt::Debug for Service {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("base", &self.base.as_str()).field("version", &self.version).finish()
    }
}

/// A request that carries nothing yet.
pub(super) fn request(method: Method, url: Url) -> WebRequest<'static> {
    WebRequest { method, url, headers: HeaderMap::new(), body: WebBody::Nothing }
}

/// What a failure is.
enum Failed {
    /// The entry exists already, or is not there.
    Known,
    Other,
}

async fn status(mut answer: WebAnswer) -> (CacheError, Failed) {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Said {
        code: String,
        type_key: String,
        message: String,
        msg: String,
    }
    let body = answer.beginning(ANSWER_BYTES_MAX).await;
    // The first version may put a byte order mark before it.
    let said: Said =
        serde_json::from_slice(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&body)).unwrap_or_default();
    let exists = answer.status() == 409
        || said.code == "already_exists"
        || said.type_key.contains("AlreadyExists")
        || said.message.to_lowercase().contains("already exists");
    let missing = said.code == "not_found";
    let failed = if exists || missing { Failed::Known } else { Failed::Other };
    let words = [said.message, said.msg].into_iter().find(|words| !words.is_empty());
    let body = WebAnswer::message(words.as_deref().map_or(body.as_slice(), str::as_bytes));
    (CacheError::Status { request: answer.request(), status: answer.status(), body }, failed)
}

/// What keeps a request from an answer, in words that speak of no registry.
fn unreachable(request: &WebRequest<'_>, error: RegistryError) -> CacheError {
    let asked = format!("{} {}", request.method, request.url.origin().ascii_serialization());
    let reason = match error {
        RegistryError::Unreachable { host, source, .. } => {
            format!("{host} cannot be reached: {}", innermost(&source))
        }
        RegistryError::Tls { reason, .. } => format!("no secure connection: {reason}"),
        RegistryError::Io { source, .. } => {
            return CacheError::Io { action: "take or give the bytes of", path: asked.into(), source };
        }
        other => other.to_string(),
    };
    CacheError::Unreachable { request: asked, reason }
}

/// The cause of an error that says what is wrong.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}
