//! One request to a registry as all others use it: in turn, with credentials, redirects and retries.
//! It does not know what is asked for.

use crate::answer::Answer;
use crate::auth::Asker;
use crate::challenge::Challenge;
use crate::client::Client;
use crate::error::is_transient_status;
use crate::host::{Host, Lane};
use crate::origin::{Origin, authority, named_address, without_secrets};
use crate::patience::{Retry, retry_after};
use crate::token::Scope;
use crate::transport::{Outgoing, Payload, Wire};
use crate::{Refusal, RegistryError};
use reqwest::header::{
    AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, Url};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const REDIRECTS_MAX: usize = 10;

/// Where a request goes.
#[derive(Clone)]
pub(crate) enum Target {
    /// To the API: the part of the address after `/v2/`.
    Api(String),
    /// To an address that the registry named.
    Named(Url),
}

/// A request, before it is known how the host is reached and what it is shown.
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) payload: Payload<'a>,
    pub(crate) scope: Scope,
    pub(crate) repository: String,
    pub(crate) lane: Lane,
    /// Whether it may be sent again after a failure that passes.
    pub(crate) retried: bool,
}

impl<'a> Request<'a> {
    /// A question without a body.
    pub(crate) fn new(method: Method, repository: &str, rest: &str, scope: Scope) -> Request<'a> {
        Request {
            method,
            target: Target::Api(format!("{repository}/{rest}")),
            headers: Vec::new(),
            payload: Payload::None,
            scope,
            repository: repository.to_owned(),
            lane: Lane::Question,
            retried: true,
        }
    }

    /// With one more header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Request<'a> {
        self.headers.push((name, value));
        self
    }
}

impl Client {
    /// Sends a request until there is an answer that is worth looking at: of any status.
    pub(crate) async fn send(
        &self,
        host: &Arc<Host>,
        request: &Request<'_>,
    ) -> Result<Answer, RegistryError> {
        let turn = host.turn(request.lane).await;
        let patience = &self.transport().patience;
        let mut retry = Retry::default();
        loop {
            let outcome = self.attempt(host, request).await;
            let (again, wait) = match &outcome {
                Ok((_, response)) => {
                    (is_transient_status(response.status().as_u16()), told_to_wait(response))
                }
                Err(error) => (error.is_transient(), None),
            };
            if !again || !request.retried || !retry.pause(patience, wait).await {
                let (url, response) = outcome?;
                return Ok(Answer::new(self.clone(), Arc::clone(host), request, url, response, turn));
            }
        }
    }

    /// Once, or twice if the registry wants to know who asks.
    async fn attempt(
        &self,
        host: &Arc<Host>,
        request: &Request<'_>,
    ) -> Result<(Url, Response), RegistryError> {
        let used = host.auth.known(&request.repository, &request.scope).await;
        let (url, response) = self.follow(host, request, used.as_ref()).await?;
        let Some(base) = host.known_base() else { return Ok((url, response)) };
        if response.status().as_u16() != 401 || Origin::of(&url) != Origin::of(&base) {
            return Ok((url, response));
        }
        let lines = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<Challenge> =
            lines.filter_map(|line| line.to_str().ok()).flat_map(Challenge::parse_all).collect();
        let asker = Asker {
            transport: self.transport(),
            places: self.places(),
            docker_config: self.docker_config(),
            registry: &host.registry,
            repository: &request.repository,
            base: (&base, self.wire_to(host, &base)),
        };
        match host.auth.answer(&asker, &request.scope, &challenges, used.as_ref()).await? {
            Some(header) => self.follow(host, request, Some(&header)).await,
            None => Ok((url, response)),
        }
    }

    /// Follows the redirects of an answer. Only the registry's own origin sees the credentials.
    async fn follow(
        &self,
        host: &Host,
        request: &Request<'_>,
        credentials: Option<&HeaderValue>,
    ) -> Result<(Url, Response), RegistryError> {
        let (mut url, mut response) = match &request.target {
            Target::Api(path) => self.reach(host, request, path, credentials).await?,
            Target::Named(url) => {
                self.step(host, request, self.wire_to(host, url), url.clone(), credentials).await?
            }
        };
        for _ in 0..REDIRECTS_MAX {
            let Some(next) = redirected(&request.method, &url, &response)? else {
                return Ok((url, response));
            };
            (url, response) = self.step(host, request, self.wire_to(host, &next), next, credentials).await?;
        }
        match redirected(&request.method, &url, &response)? {
            None => Ok((url, response)),
            Some(next) => Err(RegistryError::Address {
                host: authority(&url),
                address: without_secrets(next.as_str()),
                refusal: Refusal::TooManyRedirects,
            }),
        }
    }

    /// Tries each way to a host that has not answered yet; the first that works is kept.
    async fn reach(
        &self,
        host: &Host,
        request: &Request<'_>,
        path: &str,
        credentials: Option<&HeaderValue>,
    ) -> Result<(Url, Response), RegistryError> {
        let wires = host.wires();
        let mut first_error = None;
        let mut first_answer = None;
        for (i, &wire) in wires.iter().enumerate() {
            let Some(url) = host.base(wire).and_then(|base| base.join(path).ok()) else { continue };
            let port_given = url.port().is_some();
            let is_last = i + 1 == wires.len();
            match self.step(host, request, wire, url, credentials).await {
                Ok(answer) if !is_last && wire == Wire::Plain && wants_tls(&answer.1) => {
                    first_answer = Some(answer);
                }
                Ok(answer) => {
                    host.choose(wire);
                    return Ok(answer);
                }
                Err(error) => {
                    let hopeless = is_hopeless(&error, wire, port_given);
                    first_error = first_error.or(Some(error));
                    if hopeless {
                        break;
                    }
                }
            }
        }
        if let Some(answer) = first_answer
            && !matches!(first_error, Some(RegistryError::Tls { .. } | RegistryError::Certificate { .. }))
        {
            return Ok(answer);
        }
        Err(first_error.unwrap_or_else(|| RegistryError::Protocol {
            host: host.registry.clone(),
            detail: "it is reached neither over HTTP nor over HTTPS".to_owned(),
        }))
    }

    async fn step(
        &self,
        host: &Host,
        request: &Request<'_>,
        wire: Wire,
        url: Url,
        credentials: Option<&HeaderValue>,
    ) -> Result<(Url, Response), RegistryError> {
        let mut headers: HeaderMap = request.headers.iter().cloned().collect();
        let mut bases = host.wires().iter().filter_map(|wire| host.base(*wire));
        let own = bases.any(|base| Origin::of(&base) == Origin::of(&url));
        if let Some(credentials) = credentials.filter(|_| own) {
            headers.insert(AUTHORIZATION, credentials.clone());
        }
        let outgoing =
            Outgoing { method: request.method.clone(), url: url.clone(), headers, payload: request.payload };
        Ok((url, self.transport().exchange(wire, outgoing).await?))
    }
}

/// What a `Retry-After` of an answer says.
pub(crate) fn told_to_wait(response: &Response) -> Option<Duration> {
    retry_after(response.headers().get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
}

/// Where an answer sends a question; requests that change something are not sent elsewhere.
fn redirected(method: &Method, from: &Url, response: &Response) -> Result<Option<Url>, RegistryError> {
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    if !is_redirect || !matches!(*method, Method::GET | Method::HEAD) {
        return Ok(None);
    }
    let Some(location) = response.headers().get(LOCATION) else { return Ok(None) };
    let location = String::from_utf8_lossy(location.as_bytes());
    named_address(from, &location).map(Some)
}

/// Whether no other way to the host can be better: it is silent, or nobody listens where the other
/// way leads to as well.
fn is_hopeless(error: &RegistryError, wire: Wire, port_given: bool) -> bool {
    match error {
        RegistryError::Timeout { .. } => true,
        RegistryError::Unreachable { source, .. } => port_given && wire == Wire::Plain && source.is_connect(),
        _ => false,
    }
}

/// Whether a server says by its answer that it speaks only HTTPS: a 400 without the header by which
/// every registry is known.
fn wants_tls(response: &Response) -> bool {
    response.status().as_u16() == 400 && !response.headers().contains_key("docker-distribution-api-version")
}
