//! Downloads: requests with redirects, time-outs and repeated attempts, and bodies as streams.
//! It does not know where a file goes, nor what is known of it.

use super::CANCEL_POLL;
use crate::WorkerError;
use kiln_runner::CancelToken;
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Response, StatusCode, Url};
use std::future::Future;
use std::io::{self, Read};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How many redirects are followed.
const REDIRECTS_MAX: usize = 10;
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// For an answer, and between two pieces of one.
const IDLE_MAX: Duration = Duration::from_secs(30);
const ATTEMPTS_MAX: u32 = 4;
/// The wait after the first failed attempt; it doubles with each.
const BACKOFF: Duration = Duration::from_millis(250);

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may work the next time.
    Passing(String),
    /// It will not.
    Lasting(String),
    /// It has nothing to do with the server.
    Own(WorkerError),
}

/// What makes requests.
pub(super) struct Web<'a> {
    pub runtime: &'a Runtime,
    pub cancel: &'a CancelToken,
    /// The value of `Authorization`, for the origin of the first address only.
    pub credentials: Option<HeaderValue>,
}

impl Web<'_> {
    /// Repeats what failed for a passing reason. `shown` is the address in the error.
    pub fn repeatedly<T>(
        &self,
        shown: &str,
        attempt: impl Fn() -> Result<T, Failure>,
    ) -> Result<T, WorkerError> {
        let mut failures = 0;
        loop {
            let reason = match attempt() {
                Ok(done) => return Ok(done),
                Err(Failure::Own(error)) => return Err(error),
                Err(Failure::Lasting(reason)) => reason,
                Err(Failure::Passing(reason)) => {
                    failures += 1;
                    if failures < ATTEMPTS_MAX {
                        self.sleep(BACKOFF * 2_u32.pow(failures - 1))?;
                        continue;
                    }
                    format!("{reason} (tried {failures} times)")
                }
            };
            return Err(WorkerError::Source { address: shown.to_owned(), reason });
        }
    }

    /// Asks for `url` and follows redirects, until there is an answer of 200 or 304.
    pub fn get(&self, url: &Url, headers: &HeaderMap) -> Result<Response, Failure> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut headers = headers.clone();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            if let Some(credentials) = self.credentials.as_ref().filter(|_| at.origin() == url.origin()) {
                headers.insert(AUTHORIZATION, credentials.clone());
            }
            let request = client(&at)?.get(at.clone()).headers(headers).send();
            let answer = self.wait("an answer", request)?.map_err(|e| failed(&at, e))?;
            let status = answer.status();
            match status.as_u16() {
                200 | 304 => return Ok(answer),
                301 | 302 | 303 | 307 | 308 => at = redirected(&at, &answer)?,
                408 | 429 | 500..=599 => return Err(Failure::Passing(refusal(status))),
                _ => return Err(Failure::Lasting(refusal(status))),
            }
        }
        Err(Failure::Lasting(format!("more than {REDIRECTS_MAX} redirects")))
    }

    /// What an answer carries.
    pub fn body(&self, response: Response) -> Body<'_> {
        Body { web: self, response, piece: Vec::new(), given: 0, failure: None }
    }

    /// Waits for the network, no longer than is patient and not beyond the end of the build.
    fn wait<T>(&self, what: &str, future: impl Future<Output = T>) -> Result<T, Failure> {
        let began = Instant::now();
        self.runtime.block_on(async {
            tokio::pin!(future);
            loop {
                if let Ok(done) = tokio::time::timeout(CANCEL_POLL, &mut future).await {
                    return Ok(done);
                }
                if self.cancel.is_cancelled() {
                    return Err(Failure::Own(WorkerError::Canceled));
                }
                if began.elapsed() > IDLE_MAX {
                    return Err(Failure::Passing(format!("no sign of {what} in {} s", IDLE_MAX.as_secs())));
                }
            }
        })
    }

    fn sleep(&self, time: Duration) -> Result<(), WorkerError> {
        let began = Instant::now();
        while began.elapsed() < time {
            if self.cancel.is_cancelled() {
                return Err(WorkerError::Canceled);
            }
            std::thread::sleep(CANCEL_POLL);
        }
        Ok(())
    }
}

/// The bytes of an answer as they come in.
pub(super) struct Body<'a> {
    web: &'a Web<'a>,
    response: Response,
    piece: Vec<u8>,
    given: usize,
    /// Why the last read failed.
    pub failure: Option<Failure>,
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.piece.len() {
            let next = self.web.wait("more of the file", self.response.chunk());
            let url = self.response.url();
            match next.and_then(|piece| piece.map_err(|e| failed(url, e))) {
                Ok(Some(piece)) => (self.piece, self.given) = (piece.into(), 0),
                Ok(None) => return Ok(0),
                Err(failure) => {
                    self.failure = Some(failure);
                    return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
                }
            }
        }
        let count = buffer.len().min(self.piece.len() - self.given);
        buffer[..count].copy_from_slice(&self.piece[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

fn refusal(status: StatusCode) -> String {
    format!("invalid response status {status}")
}

/// A client for one address. Only HTTPS needs the system's certificates, which take a while to read.
fn client(url: &Url) -> Result<reqwest::Client, Failure> {
    // A second call finds the provider in place; which one it is does not matter.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(CONNECT_MAX)
        .http1_only();
    if is_loopback(url) {
        builder = builder.no_proxy();
    }
    if url.scheme() == "http" {
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|e| Failure::Lasting(chain(&e)))
}

/// Whether an address is on this machine, where no proxy is asked and nobody listens.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn redirected(from: &Url, answer: &Response) -> Result<Url, Failure> {
    let location = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok());
    let reason = match location.map(|location| target(from, location)) {
        Some(Ok(target)) => return Ok(target),
        Some(Err(reason)) => reason,
        None => "it names no Location".to_owned(),
    };
    Err(Failure::Lasting(format!("{}: {reason}", refusal(answer.status()))))
}

/// Where a redirect leads: to the web, and never from HTTPS to plain HTTP.
fn target(from: &Url, location: &str) -> Result<Url, String> {
    let mut target = from.join(location).map_err(|e| format!("its Location is not valid: {e}"))?;
    match (from.scheme(), target.scheme()) {
        (_, "https") | ("http", "http") => {}
        (from, to) => return Err(format!("a redirect from {from} to {to} is not followed")),
    }
    // An address that a server names brings no credentials.
    let _ = target.set_username("");
    let _ = target.set_password(None);
    Ok(target)
}

fn failed(url: &Url, error: reqwest::Error) -> Failure {
    let host = url.host_str().unwrap_or_default();
    let reason = format!("{host}: {}", chain(&error.without_url()));
    Failure::Passing(reason)
}

/// An error and what is behind it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_to_the_web_and_to_no_less_safety() {
        let leads = |from: &str, location: &str| {
            let from = from.parse().unwrap_or_else(|e| panic!("{e}"));
            target(&from, location).ok().map(String::from)
        };
        assert_eq!(leads("http://a/x/y", "../z"), Some("http://a/z".to_owned()));
        assert_eq!(leads("http://a/x", "https://b/"), Some("https://b/".to_owned()));
        assert_eq!(leads("https://a/x", "//b/y"), Some("https://b/y".to_owned()));
        assert_eq!(leads("https://a/x", "https://me:pass@b/y"), Some("https://b/y".to_owned()));
        for location in ["http://a/x", "file:///etc/passwd", "ftp://b/", "data:text/plain,x", "https://"] {
            assert_eq!(leads("https://a/x", location), None, "{location}");
        }
    }
}
