//! Which of the places of an image is asked: its mirrors in their order, and then its registry.
//! It does not know what is asked for.

use crate::RegistryError;
use crate::answer::Answer;
use crate::client::Client;
use crate::config::{Endpoint, FileLine, Route};
use crate::host::Host;
use crate::origin::Origin;
use crate::request::{Request, Target};
use crate::token::Scope;
use crate::transport::Wire;
use kiln_oci::Reference;
use reqwest::Url;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Client {
    /// What a name as people write it, `fedora:41`, is another name of according to `[aliases]`, and who says so;
    /// `None` if it is none.
    pub fn aliased(&self, written: &str) -> Result<Option<(String, FileLine)>, RegistryError> {
        let name = written.split('@').next().unwrap_or(written);
        let folder = name.rfind('/').map_or(0, |slash| slash + 1);
        let name = name[folder..].find(':').map_or(name, |colon| &name[..folder + colon]);
        let config = self.config()?;
        let rest = &written[name.len()..];
        Ok(config.alias(name).map(|(full, at)| (format!("{full}{rest}"), at.clone())))
    }

    /// All short names and what they stand for.
    pub fn aliases(&self) -> Result<BTreeMap<String, String>, RegistryError> {
        Ok(self.config()?.aliases().map(|(short, full)| (short.to_owned(), full.to_owned())).collect())
    }

    /// The registry that a reference names, and all that is known of it: nothing is pushed elsewhere.
    pub(crate) fn host(&self, reference: &Reference) -> Result<Arc<Host>, RegistryError> {
        let (endpoint, blocked) = self.config()?.push_endpoint(reference)?;
        match blocked {
            Some(at) => Err(RegistryError::Blocked { reference: reference.to_string(), at }),
            None => Ok(self.host_of(&endpoint)),
        }
    }

    /// Where an image is pulled from.
    pub(crate) fn route(&self, reference: &Reference) -> Result<Route, RegistryError> {
        let route = self.config()?.route(reference)?;
        match route.blocked {
            Some(at) => Err(RegistryError::Blocked { reference: reference.to_string(), at }),
            None => Ok(route),
        }
    }

    pub(crate) fn host_of(&self, endpoint: &Endpoint) -> Arc<Host> {
        let Endpoint { host, path, repository: _, security, trust, is_mirror, at: _ } = endpoint;
        // What reaches a host in another way keeps another state: a mirror that failed may be a registry too.
        let key = format!("{host} {path} {security:?} {trust:?} {is_mirror}");
        let new = || {
            self.transport().trust(host, trust);
            Arc::new(Host::new(endpoint, self.transport().is_insecure(host)))
        };
        Arc::clone(self.hosts().entry(key).or_insert_with(new))
    }

    /// How an address that a registry named is reached: its own host as it is reached itself.
    pub(crate) fn wire_to(&self, host: &Host, url: &Url) -> Wire {
        let own = |wire: &&Wire| host.base(**wire).is_some_and(|base| Origin::of(&base) == Origin::of(url));
        host.wires().iter().find(own).copied().unwrap_or_else(|| self.transport().wire_for(url))
    }

    /// Whether wrong bytes came from a mirror, which is not asked any more: then another place may have the right ones.
    pub fn may_be_elsewhere(&self, reference: &Reference, error: &RegistryError) -> bool {
        let RegistryError::Content { host, .. } = error else { return false };
        let is_it = |e: &Endpoint| e.is_mirror && e.host == *host && self.host_of(e).has_failed();
        self.route(reference).is_ok_and(|route| route.endpoints.iter().any(is_it))
    }

    /// Sends a question about an image to its mirrors, each once, until one has an answer; else to its registry,
    /// as often as it takes.
    pub(crate) async fn send_any(
        &self,
        reference: &Reference,
        request: &Request<'_>,
    ) -> Result<Answer, RegistryError> {
        let mut endpoints = self.route(reference)?.endpoints;
        let last = endpoints.pop().unwrap_or_else(|| Endpoint::named(reference));
        for endpoint in endpoints {
            let host = self.host_of(&endpoint);
            if host.has_failed() {
                continue;
            }
            let mut moved = moved(request, &endpoint.repository);
            moved.retried = false;
            match self.send(&host, &moved).await {
                Ok(answer) if answer.status() < 300 => return Ok(answer),
                // It is there, and has not what was asked for, or not for this user.
                Ok(answer) if answer.status() < 500 && answer.status() != 429 => {}
                Ok(_) | Err(_) => {
                    host.fail();
                }
            }
        }
        self.send(&self.host_of(&last), &moved(request, &last.repository)).await
    }
}

/// The same question about another repository.
pub(crate) fn moved<'a>(request: &Request<'a>, repository: &str) -> Request<'a> {
    let target = match &request.target {
        Target::Api(path) => {
            let rest = path.strip_prefix(&request.repository).unwrap_or(path);
            Target::Api(format!("{repository}{rest}"))
        }
        Target::Named(url) => Target::Named(url.clone()),
    };
    Request {
        method: request.method.clone(),
        target,
        headers: request.headers.clone(),
        payload: request.payload,
        scope: Scope::pull(repository),
        repository: repository.to_owned(),
        lane: request.lane,
        retried: request.retried,
    }
}
