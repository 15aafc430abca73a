//! Requests to services that are no registries, over the same connections and with the same patience.
//! It does not know what any of them means, and shows nobody the credentials of a registry.

use crate::client::Client;
use crate::error::{is_transient_status, printable};
use crate::origin::{Origin, authority, named_address};
use crate::patience::Pace;
use crate::patience::Retry;
use crate::pull::range_start;
use crate::request::told_to_wait;
use crate::transport::{Outgoing, Payload, next_bytes};
use crate::{Mismatch, Refusal, RegistryError};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, Response, Url};
use std::fs::File;
use std::io;

const REDIRECTS_MAX: usize = 10;
/// A download that breaks off more often than this is given up, however much each part brought.
const PARTS_MAX: u32 = 64;

/// A request.
#[derive(Clone)]
pub struct WebRequest<'a> {
    /// The method.
    pub method: Method,
    /// The address. What its query says is shown in no message.
    pub url: Url,
    /// The headers; `Authorization` is for the address's own origin only.
    pub headers: HeaderMap,
    /// What it carries.
    pub body: WebBody<'a>,
}

/// What a request carries.
#[derive(Clone, Copy)]
pub enum WebBody<'a> {
    /// Nothing.
    Nothing,
    /// These bytes.
    Bytes(&'a [u8]),
    /// So many bytes of a file, from where it stands when it is opened; it is opened anew for each attempt.
    File {
        /// Opens it.
        open: &'a (dyn Fn() -> io::Result<File> + Send + Sync),
        /// How many bytes are sent.
        bytes: u64,
    },
}

/// An answer of any status, its body not read yet.
#[derive(Debug)]
pub struct WebAnswer {
    client: Client,
    method: Method,
    url: Url,
    response: Response,
    pace: Pace,
}

impl Client {
    /// Sends a request until there is an answer that is worth looking at: what may pass (408, 429, 5xx, a broken
    /// connection) is tried again, when the server says so or after a while. Questions follow redirects.
    pub async fn web(&self, request: &WebRequest<'_>) -> Result<WebAnswer, RegistryError> {
        let mut retry = Retry::default();
        loop {
            let outcome = self.web_once(request).await;
            let (again, wait) = match &outcome {
                Ok(answer) => (is_transient_status(answer.status()), told_to_wait(&answer.response)),
                Err(error) => (error.is_transient(), None),
            };
            if !again || !retry.pause(&self.transport().patience, wait).await {
                return outcome;
            }
        }
    }

    /// Downloads what an address has, and takes a broken transfer up again where it broke off. More than `max`
    /// bytes are refused. Gives the answer if its status is no success, for the caller to understand.
    pub async fn web_download(
        &self,
        request: &WebRequest<'_>,
        max: u64,
        on_bytes: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<Result<u64, WebAnswer>, RegistryError> {
        let mut received = 0;
        let mut retry = Retry::default();
        for _ in 0..PARTS_MAX {
            let mut part = request.clone();
            if received > 0
                && let Ok(range) = HeaderValue::from_str(&format!("bytes={received}-"))
            {
                part.headers.insert(RANGE, range);
            }
            let mut answer = self.web(&part).await?;
            let skip = match answer.status() {
                200 => received,
                206 if answer.header("content-range").and_then(range_start) == Some(received) => 0,
                206 => return Err(answer.mismatch(Mismatch::Range { want: received })),
                _ => return Ok(Err(answer)),
            };
            let before = received;
            let error = match answer.hand_over(skip, &mut received, max, on_bytes).await {
                Ok(()) => return Ok(Ok(received)),
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            if received > before && !error.is_standstill() {
                retry.reset();
            }
            if !retry.pause(&self.transport().patience, None).await {
                return Err(error);
            }
        }
        Err(RegistryError::Protocol {
            host: authority(&request.url),
            detail: format!("the transfer broke off {PARTS_MAX} times"),
        })
    }

    async fn web_once(&self, request: &WebRequest<'_>) -> Result<WebAnswer, RegistryError> {
        let mut url = request.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut headers = request.headers.clone();
            if Origin::of(&url) != Origin::of(&request.url) {
                headers.remove(AUTHORIZATION);
            }
            let payload = match request.body {
                WebBody::Nothing => Payload::None,
                WebBody::Bytes(bytes) => Payload::Bytes(bytes),
                WebBody::File { open, bytes } => Payload::File { open, size: bytes },
            };
            let method = request.method.clone();
            let outgoing = Outgoing { method: method.clone(), url: url.clone(), headers, payload };
            let response = self.transport().exchange(self.transport().wire_for(&url), outgoing).await?;
            let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            match response.headers().get(LOCATION).filter(|_| is_redirect && method == Method::GET) {
                Some(to) => url = named_address(&url, &String::from_utf8_lossy(to.as_bytes()))?,
                None => {
                    return Ok(WebAnswer {
                        client: self.clone(),
                        method,
                        url,
                        response,
                        pace: Pace::default(),
                    });
                }
            }
        }
        let (host, refusal) = (authority(&url), Refusal::TooManyRedirects);
        Err(RegistryError::Address { host, address: crate::origin::without_secrets(url.as_str()), refusal })
    }
}

impl WebAnswer {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header that is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// What was asked, for a message: as `GET https://host/path`, without the query.
    pub fn request(&self) -> String {
        format!("{} {}", self.method, crate::origin::without_secrets(self.url.as_str()))
    }

    /// The beginning of its body, at most so many bytes; a body that breaks off is used as far as it goes.
    pub async fn beginning(&mut self, max: usize) -> Vec<u8> {
        let mut body = Vec::new();
        while body.len() < max {
            let Ok(Some(chunk)) = self.chunk().await else { break };
            let chunk: &[u8] = chunk.as_ref();
            body.extend_from_slice(&chunk[..chunk.len().min(max - body.len())]);
        }
        body
    }

    /// What a failure's body says, fit for a terminal; nothing if it is a page.
    pub fn message(body: &[u8]) -> String {
        let text = String::from_utf8_lossy(body);
        if text.trim_start().starts_with('<') { String::new() } else { printable(&text) }
    }

    async fn hand_over(
        &mut self,
        mut skip: u64,
        received: &mut u64,
        max: u64,
        on_bytes: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), RegistryError> {
        while let Some(chunk) = self.chunk().await? {
            let chunk: &[u8] = chunk.as_ref();
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= skipped as u64;
            let chunk = &chunk[skipped..];
            *received += chunk.len() as u64;
            if *received > max {
                let (host, what) = (authority(&self.url), printable(self.url.path()));
                return Err(RegistryError::TooLarge { host, what, max });
            }
            if !chunk.is_empty() {
                let what = "what was downloaded cannot be stored".to_owned();
                on_bytes(chunk).map_err(|source| RegistryError::Io { what, source })?;
            }
        }
        Ok(())
    }

    async fn chunk(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>, RegistryError> {
        let host = authority(&self.url);
        let what =
            || format!("the body of {} {}", self.method, crate::origin::without_secrets(self.url.as_str()));
        let transport = self.client.transport();
        next_bytes(&mut self.response, &mut self.pace, transport, &host, &what).await
    }

    fn mismatch(&self, mismatch: Mismatch) -> RegistryError {
        RegistryError::Content { host: authority(&self.url), what: printable(self.url.path()), mismatch }
    }
}
