//! The HTTP clients of object stores: their limits of time, and when to try again. It does not know what is asked.

use object_store::client::{HttpClient, HttpConnector};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use reqwest::Url;
use std::time::Duration;

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// For an answer, and between two bytes of one.
const READ_MAX: Duration = Duration::from_secs(15);
/// For one part of an upload and its answer: 70 kB/s are enough.
const WRITE_MAX: Duration = Duration::from_secs(120);
/// For what was sent to arrive: a server that takes no bytes is given up.
const TAKEN_MAX: Duration = Duration::from_secs(15);
/// How often one request is tried, in all.
const ATTEMPTS: u32 = 5;
/// After this it is not tried again.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What requests are for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    /// What is small on its way there.
    Reading,
    /// What may be large on its way there.
    Writing,
}

/// Makes clients for one server.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    /// What for.
    pub what: Use,
    /// Whether the server is on this machine, where no proxy is asked.
    pub is_loopback: bool,
}

impl Connector {
    pub fn new(what: Use, server: Option<&Url>) -> Connector {
        Connector { what, is_loopback: server.is_some_and(is_loopback) }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        // A second call finds the provider in place; which one it is does not matter.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
            // Signatures hold for one host only.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(CONNECT_MAX)
            .tcp_user_timeout(TAKEN_MAX)
            .http1_only();
        builder = match self.what {
            Use::Reading => builder.read_timeout(READ_MAX),
            Use::Writing => builder.timeout(WRITE_MAX),
        };
        if self.is_loopback {
            builder = builder.no_proxy();
        }
        let client = builder.build();
        client
            .map(HttpClient::new)
            .map_err(|error| object_store::Error::Generic { store: "HTTP", source: Box::new(error) })
    }
}

/// When a request is tried again: 429, 5xx, and what broke on its way.
pub(super) fn retries(attempts: Option<u32>) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: attempts.unwrap_or(ATTEMPTS).saturating_sub(1) as usize,
        retry_timeout: RETRY_MAX,
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
