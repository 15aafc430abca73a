//! One HTTP request and the head of its answer: connections, TLS, time-outs.
//! It does not know registries: no redirects, no retries, no credentials.

use crate::config::{Places, Trust, proxy_of};
use crate::error::chain;
use crate::origin::{api_host, authority, is_loopback};
use crate::patience::{Pace, SLOWEST_BYTES_PER_S};
use crate::{Patience, RegistryError};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue};
use reqwest::{Body, Method, Response, Url};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio_util::io::ReaderStream;

const UPLOAD_CHUNK_BYTES: usize = 256 * 1024;

/// How bytes travel to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wire {
    /// HTTP.
    Plain,
    /// HTTPS with a certificate that the system trusts.
    Verified,
    /// HTTPS with any certificate.
    Unverified,
}

impl Wire {
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Wire::Plain => "http",
            Wire::Verified | Wire::Unverified => "https",
        }
    }
}

/// Opens the file that is sent, where what is sent of it begins; called anew for each attempt.
pub(crate) type Open<'a> = dyn Fn() -> io::Result<File> + Send + Sync + 'a;

/// What a request carries.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    File { open: &'a Open<'a>, size: u64 },
}

/// A request.
pub(crate) struct Outgoing<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload<'a>,
}

/// The connections of this process to every host, made when they are first needed.
#[derive(Debug)]
pub(crate) struct Transport {
    /// One client for each way of TLS, for hosts that a proxy is not asked for, and for those with certificates of
    /// their own. Each keeps its connections by origin. Those without TLS never read the system's certificates.
    clients: Mutex<HashMap<(Wire, bool, Trust), reqwest::Client>>,
    /// Whom tables say to trust at a host.
    trusted: Mutex<HashMap<String, Trust>>,
    insecure: BTreeSet<String>,
    places: Places,
    pub(crate) patience: Patience,
}

impl Transport {
    pub(crate) fn new(insecure: BTreeSet<String>, places: Places, patience: Patience) -> Transport {
        Transport { clients: Mutex::default(), trusted: Mutex::default(), insecure, places, patience }
    }

    /// At this host these are trusted too.
    pub(crate) fn trust(&self, host: &str, trust: &Trust) {
        if !trust.is_empty() {
            let mut trusted = self.trusted.lock().unwrap_or_else(PoisonError::into_inner);
            trusted.insert(api_host(host).to_owned(), trust.clone());
        }
    }

    /// Whom to trust, and as whom to appear, at an address.
    pub(crate) fn trust_at(&self, url: &Url) -> Result<Trust, RegistryError> {
        let host = authority(url);
        let told = self.trusted.lock().unwrap_or_else(PoisonError::into_inner).get(&host).cloned();
        Ok(told.unwrap_or_default().and(Trust::at(&self.places, &host)?))
    }

    /// Whether the user allows plain HTTP, and certificates that nobody trusts, for this host and port.
    pub(crate) fn is_insecure(&self, authority: &str) -> bool {
        self.insecure.contains(&authority.to_ascii_lowercase())
    }

    /// How an address that a server named is reached.
    pub(crate) fn wire_for(&self, url: &Url) -> Wire {
        match url.scheme() {
            "http" => Wire::Plain,
            _ if self.is_insecure(&authority(url)) => Wire::Unverified,
            _ => Wire::Verified,
        }
    }

    /// Sends one request and waits for the head of the answer.
    pub(crate) async fn exchange(
        &self,
        wire: Wire,
        outgoing: Outgoing<'_>,
    ) -> Result<Response, RegistryError> {
        let host = authority(&outgoing.url);
        let what = format!("{} {}", outgoing.method, outgoing.url.path());
        let client = self.client(wire, &outgoing.url)?;
        let mut request = client
            .request(outgoing.method.clone(), outgoing.url)
            .headers(outgoing.headers)
            .header(ACCEPT_ENCODING, "identity");
        let sent = Arc::new(AtomicU64::new(0));
        let answered = Arc::new(AtomicBool::new(false));
        let mut size = 0;
        match outgoing.payload {
            Payload::None if outgoing.method == Method::POST => {
                request = request.header(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            Payload::None => {}
            Payload::Bytes(bytes) => request = request.body(bytes.to_vec()),
            Payload::File { open, size: length } => {
                size = length;
                let file = open().map_err(|source| RegistryError::Io {
                    what: "the blob to upload cannot be opened".to_owned(),
                    source,
                })?;
                let file = tokio::fs::File::from_std(file);
                let reader = CountingReader { file, sent: Arc::clone(&sent), answered: answered.clone() };
                request = request.header(CONTENT_LENGTH, HeaderValue::from(size)).body(Body::wrap_stream(
                    ReaderStream::with_capacity(reader.take(size), UPLOAD_CHUNK_BYTES),
                ));
            }
        }
        let answer = request.send();
        tokio::pin!(answer);
        loop {
            let before = sent.load(Ordering::Relaxed);
            let limit = if size > 0 && before >= size { self.patience.commit } else { self.patience.idle };
            match tokio::time::timeout(limit, &mut answer).await {
                Ok(answer) => {
                    answered.store(true, Ordering::Relaxed);
                    return answer.map_err(|e| self.failure(&host, &what, e));
                }
                Err(_) if sent.load(Ordering::Relaxed) != before => {}
                Err(_) => return Err(timed_out(&host, what, limit)),
            }
        }
    }

    /// Puts a failed request or a broken body in kiln's words.
    pub(crate) fn failure(&self, host: &str, what: &str, error: reqwest::Error) -> RegistryError {
        let source = error.without_url();
        if source.is_timeout() {
            let what = if source.is_connect() { "a connection".to_owned() } else { what.to_owned() };
            return timed_out(host, what, self.patience.connect);
        }
        match tls_cause(&source) {
            Some(cause) => tls_failure(host, cause),
            None => RegistryError::Unreachable { host: host.to_owned(), via: proxy_to(host), source },
        }
    }

    fn client(&self, wire: Wire, url: &Url) -> Result<reqwest::Client, RegistryError> {
        let loopback = is_loopback(url.host_str().unwrap_or_default());
        let trust = if wire == Wire::Plain { Trust::default() } else { self.trust_at(url)? };
        let key = (wire, loopback, trust);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        // A second call finds the provider in place; which one it is does not matter.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(self.patience.connect)
            .http1_only();
        if loopback {
            builder = builder.no_proxy();
        }
        builder = match wire {
            Wire::Plain => builder.tls_certs_only([]),
            Wire::Verified => builder,
            Wire::Unverified => builder.tls_danger_accept_invalid_certs(true),
        };
        builder = key.2.apply(builder)?;
        let client = builder.build().map_err(|e| RegistryError::Tls {
            host: authority(url),
            reason: chain(&e),
            hint: "install the package ca-certificates, or set SSL_CERT_FILE".to_owned(),
        })?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// An answer, or a part of one, that did not come in time.
pub(crate) fn timed_out(host: &str, what: String, limit: std::time::Duration) -> RegistryError {
    RegistryError::Timeout { host: host.to_owned(), what, seconds: limit.as_secs_f32() }
}

/// The next bytes of a body, within the limits of silence and of slowness. `what` says what is waited for.
pub(crate) async fn next_bytes(
    response: &mut Response,
    pace: &mut Pace,
    transport: &Transport,
    host: &str,
    what: &(dyn Fn() -> String + Sync),
) -> Result<Option<impl AsRef<[u8]> + use<>>, RegistryError> {
    let patience = &transport.patience;
    let asked = Instant::now();
    let chunk = match tokio::time::timeout(patience.idle, response.chunk()).await {
        Ok(chunk) => chunk.map_err(|e| transport.failure(host, &what(), e))?,
        Err(_) => return Err(timed_out(host, what(), patience.idle)),
    };
    let bytes = chunk.as_ref().map(|chunk| chunk.len());
    if bytes.is_some_and(|bytes| pace.is_too_slow(patience, asked.elapsed(), bytes)) {
        return Err(RegistryError::TooSlow {
            host: host.to_owned(),
            what: what(),
            bytes_per_s: SLOWEST_BYTES_PER_S,
            seconds: patience.idle.as_secs_f32() * 2.0,
        });
    }
    Ok(chunk)
}

/// A file that tells how much of it was read, so that a slow upload is not taken for a dead one.
struct CountingReader {
    file: tokio::fs::File,
    sent: Arc<AtomicU64>,
    /// Whether the answer came. What was not sent by then is not wanted, and the connection ends.
    answered: Arc<AtomicBool>,
}

impl AsyncRead for CountingReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.answered.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::Error::other("it was answered before it was sent")));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.file).poll_read(context, buffer);
        self.sent.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

/// The TLS library's own error inside another one, if there is one.
fn tls_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            // An I/O error hands out the cause of what it holds, not what it holds.
            if let Some(found) = io.get_ref().and_then(|inner| tls_cause(inner)) {
                return Some(found);
            }
        }
        next = error.source();
    }
    None
}

/// The proxy on the way to a host, for a message.
fn proxy_to(host: &str) -> Option<String> {
    let address = |scheme| Url::parse(&format!("{scheme}://{host}/")).ok();
    let proxy = ["https", "http"].into_iter().filter_map(address).find_map(|url| proxy_of(&url))?;
    Some(format!("{} ({})", proxy.address, proxy.variable))
}

fn tls_failure(host: &str, cause: &rustls::Error) -> RegistryError {
    let hint = match cause {
        rustls::Error::InvalidMessage(_) => {
            format!("if it speaks plain HTTP and that is acceptable, use --insecure-registry {host}")
        }
        rustls::Error::AlertReceived(
            rustls::AlertDescription::CertificateRequired
            | rustls::AlertDescription::BadCertificate
            | rustls::AlertDescription::UnknownCA,
        ) => format!(
            "it wants a client's certificate that it trusts: put it as client.cert, with client.key, into \
             ~/.config/containers/certs.d/{host}"
        ),
        _ => format!(
            "install its CA certificate in the system, name it in SSL_CERT_FILE, or put it as ca.crt into \
             ~/.config/containers/certs.d/{host}; to accept any certificate use --insecure-registry {host}"
        ),
    };
    RegistryError::Tls { host: host.to_owned(), reason: cause.to_string(), hint }
}
