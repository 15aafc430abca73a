//! An answer of a registry: its head, its body within limits, and the error that it amounts to.
//! It does not know what was asked for.

use crate::RegistryError;
use crate::client::Client;
use crate::error::printable;
use crate::host::Host;
use crate::origin::{Origin, authority, named_address};
use crate::patience::Pace;
use crate::request::{Attempt, Request, told_to_wait};
use crate::transport::next_bytes;
use kiln_oci::{Digest, MediaType};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Response, Url};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

const ERROR_BYTES_MAX: usize = 64 * 1024;

/// An answer whose body was not read yet. It keeps its turn at the host until it is dropped.
pub(crate) struct Answer {
    client: Client,
    host: Arc<Host>,
    method: String,
    repository: String,
    url: Url,
    response: Response,
    pace: Pace,
    is_renewed: bool,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Answer {
    pub(crate) fn new(
        client: Client,
        host: Arc<Host>,
        request: &Request<'_>,
        attempt: Attempt,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Answer {
        let (method, repository) = (request.method.to_string(), request.repository.clone());
        let Attempt { url, response, is_renewed } = attempt;
        Answer {
            client,
            host,
            method,
            repository,
            url,
            response,
            pace: Pace::default(),
            is_renewed,
            _turn: turn,
        }
    }

    /// Whether it refuses credentials that were replaced meanwhile: the next request shows others.
    pub(crate) fn is_renewed(&self) -> bool {
        self.is_renewed
    }

    /// The registry that was asked.
    pub(crate) fn registry(&self) -> &Arc<Host> {
        &self.host
    }

    /// If a mirror gave it, it is not asked any more; says whether it is one.
    pub(crate) fn fail(&self) -> bool {
        self.host.fail()
    }

    /// The error that something is not there.
    pub(crate) fn not_found(&self, what: String) -> RegistryError {
        RegistryError::NotFound { host: self.host.registry.clone(), what }
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The host that answered, which after a redirect is not the registry.
    pub(crate) fn host(&self) -> String {
        authority(&self.url)
    }

    /// A header that is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The length that the body, or for HEAD the body of a GET, is said to have.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH.as_str())?.trim().parse().ok()
    }

    /// The media type.
    pub(crate) fn media_type(&self) -> MediaType {
        MediaType::parse(self.header(CONTENT_TYPE.as_str()).unwrap_or_default())
    }

    /// The digest that the registry says it is.
    pub(crate) fn digest(&self) -> Option<Digest> {
        self.header("docker-content-digest")?.trim().parse().ok()
    }

    /// What the registry says about when to try again.
    pub(crate) fn told_to_wait(&self) -> Option<Duration> {
        told_to_wait(&self.response)
    }

    /// Where the registry sends on to.
    pub(crate) fn location(&self) -> Result<Url, RegistryError> {
        let location = self.header(LOCATION.as_str()).ok_or_else(|| RegistryError::Protocol {
            host: self.host(),
            detail: format!("its answer {} to {} has no Location", self.status(), self.what()),
        })?;
        named_address(&self.url, location)
    }

    /// The next bytes of the body, within the time limit.
    pub(crate) async fn chunk(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>, RegistryError> {
        let host = self.host();
        let (method, path) = (self.method.as_str(), self.url.path());
        let what = || format!("the body of {method} {}", printable(path));
        let transport = self.client.transport();
        let chunk = next_bytes(&mut self.response, &mut self.pace, transport, &host, &what).await;
        // What a mirror did not send to its end another place has.
        chunk.inspect_err(|_| {
            self.host.fail();
        })
    }

    /// The whole body, if it is not larger than `max`.
    pub(crate) async fn body(&mut self, max: u64) -> Result<Vec<u8>, RegistryError> {
        let too_large = |answer: &Answer| RegistryError::TooLarge {
            host: answer.host(),
            what: format!("the answer to {}", answer.what()),
            max,
        };
        if self.length().is_some_and(|length| length > max) {
            return Err(too_large(self));
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            let chunk = chunk.as_ref();
            if (body.len() + chunk.len()) as u64 > max {
                return Err(too_large(self));
            }
            body.extend_from_slice(chunk);
        }
        Ok(body)
    }

    /// The error that this answer amounts to.
    pub(crate) async fn into_error(mut self) -> RegistryError {
        let mut body = Vec::new();
        // A body that breaks off is used as far as it goes.
        while body.len() < ERROR_BYTES_MAX {
            let Ok(Some(chunk)) = self.chunk().await else { break };
            let room = ERROR_BYTES_MAX - body.len();
            body.extend_from_slice(chunk.as_ref().get(..room).unwrap_or(chunk.as_ref()));
        }
        let message = message(&body);
        let own = self.host.known_base().is_some_and(|base| Origin::of(&base) == Origin::of(&self.url));
        if own && matches!(self.status(), 401 | 403) {
            let registry = &self.host.registry;
            return RegistryError::Unauthorized {
                host: registry.clone(),
                hint: self.host.auth.hint(registry, &self.repository).await,
                repository: self.repository,
                message,
            };
        }
        let (host, status, path) = (self.host(), self.status(), printable(self.url.path()));
        RegistryError::Status { host, method: self.method, path, status, message }
    }

    fn what(&self) -> String {
        format!("{} {}", self.method, printable(self.url.path()))
    }
}

/// What the body of a failure says, in the protocol's form or, if it is a short text, as it stands.
pub(crate) fn message(body: &[u8]) -> String {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Failure {
        errors: Vec<Detail>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Detail {
        code: String,
        message: String,
    }
    if let Ok(Failure { errors }) = serde_json::from_slice::<Failure>(body) {
        let texts: Vec<String> = errors.iter().map(|e| format!("{} {}", e.code, e.message)).collect();
        return printable(&texts.join("; "));
    }
    let text = String::from_utf8_lossy(body);
    let is_page = text.trim_start().starts_with('<');
    if is_page { String::new() } else { printable(&text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_in_the_words_of_the_registry() {
        for (body, want) in [
            (r#"{"errors":[{"code":"DENIED","message":"no"},{"code":"X"}]}"#, "DENIED no; X"),
            (r#"{"errors":[]}"#, ""),
            ("quota exceeded\n", "quota exceeded"),
            ("<html>gateway</html>", ""),
            ("", ""),
        ] {
            assert_eq!(message(body.as_bytes()), want, "{body}");
        }
    }
}
