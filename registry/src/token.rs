//! Tokens from a registry's token server. It does not know when one is needed.

use crate::challenge::Challenge;
use crate::credentials::{Credentials, Found};
use crate::error::{is_transient_status, printable};
use crate::origin::{Origin, authority, realm_address};
use crate::patience::Pace;
use crate::patience::Retry;
use crate::request::told_to_wait;
use crate::transport::{Outgoing, Payload, Transport, Wire, next_bytes};
use crate::{RegistryError, answer};
use base64::Engine as _;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

const TOKEN_BYTES_MAX: u64 = 1024 * 1024;
const LIFE_DEFAULT: Duration = Duration::from_secs(60);
const LIFE_MAX: Duration = Duration::from_secs(3600);
const CLIENT_ID: &str = "kiln";

/// What a token is to be good for: some repositories, and what is done with each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scope(BTreeSet<String>);

impl Scope {
    /// To read a repository.
    pub(crate) fn pull(repository: &str) -> Scope {
        Scope(BTreeSet::from([format!("repository:{repository}:pull")]))
    }

    /// To read and to write a repository.
    pub(crate) fn push(repository: &str) -> Scope {
        Scope(BTreeSet::from([format!("repository:{repository}:pull,push")]))
    }

    /// To read the list of all repositories.
    pub(crate) fn catalog() -> Scope {
        Scope(BTreeSet::from(["registry:catalog:*".to_owned()]))
    }

    /// The names of the repositories.
    fn repositories(&self) -> String {
        let names: Vec<&str> = self.0.iter().filter_map(|one| one.split(':').nth(1)).collect();
        names.join(", ")
    }

    /// Whether who may do this may also do that.
    pub(crate) fn covers(&self, other: &Scope) -> bool {
        let allows = |have: &str, want: &str| match (have.rsplit_once(':'), want.rsplit_once(':')) {
            (Some((whose, may)), Some((name, will))) => {
                whose == name && will.split(',').all(|one| may.split(',').any(|may| may == one))
            }
            _ => false,
        };
        other.0.iter().all(|want| self.0.iter().any(|have| allows(have, want)))
    }

    /// Both.
    pub(crate) fn and(mut self, other: Scope) -> Scope {
        self.0.extend(other.0);
        self
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, one) in self.0.iter().enumerate() {
            write!(f, "{}{one}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// A token, as a header, and until when it can be used.
pub(crate) struct Token {
    pub(crate) header: HeaderValue,
    pub(crate) until: Instant,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The `Authorization` header of a user.
pub(crate) fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    secret_header(&format!("Basic {text}"))
}

/// The `Authorization` header of a token.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    secret_header(&format!("Bearer {token}"))
}

/// Gets a token as the challenge of the registry, whose API is at `base`, says. The server that it names is asked
/// only if it may see the registry's credentials.
pub(crate) async fn fetch(
    transport: &Transport,
    (registry, (base, wire)): (&str, (&Url, Wire)),
    challenge: &Challenge,
    scope: &Scope,
    found: &Found,
) -> Result<Token, RegistryError> {
    let realm = realm_address(base, challenge.parameter("realm").unwrap_or_default())?;
    // The registry itself is reached as it is told; another host as all are.
    let wire = if Origin::of(&realm) == Origin::of(base) { wire } else { transport.wire_for(&realm) };
    let service = challenge.parameter("service");
    let told = match &found.credentials {
        Credentials::IdentityToken { username, token } => {
            let told = ask((transport, wire), || post(&realm, service, scope, token)).await?;
            // Servers from before OAuth2 know only GET.
            if matches!(told.0, 401 | 404 | 405) && !username.is_empty() {
                ask((transport, wire), || get(&realm, service, scope, basic(username, token))).await?
            } else {
                told
            }
        }
        Credentials::Basic { username, password } => {
            ask((transport, wire), || get(&realm, service, scope, basic(username, password))).await?
        }
        Credentials::Anonymous | Credentials::RegistryToken(_) => {
            ask((transport, wire), || get(&realm, service, scope, None)).await?
        }
    };
    read(&realm, told, scope, found, registry)
}

/// What a token server answered: the status and the body.
type Told = (u16, Vec<u8>);

async fn ask<'a>(
    (transport, wire): (&Transport, Wire),
    request: impl Fn() -> (Outgoing<'a>, Vec<u8>),
) -> Result<Told, RegistryError> {
    let mut retry = Retry::default();
    loop {
        let (mut outgoing, form) = request();
        if !form.is_empty() {
            outgoing.payload = Payload::Bytes(&form);
        }
        let (outcome, wait) = told((transport, wire), outgoing).await;
        let again = match &outcome {
            Ok((status, _)) => is_transient_status(*status),
            Err(error) => error.is_transient(),
        };
        if !again || !retry.pause(&transport.patience, wait).await {
            return outcome;
        }
    }
}

/// One question to a token server, with its answer's body, and what it says about when to ask again.
async fn told(
    (transport, wire): (&Transport, Wire),
    outgoing: Outgoing<'_>,
) -> (Result<Told, RegistryError>, Option<Duration>) {
    let host = authority(&outgoing.url);
    let mut response = match transport.exchange(wire, outgoing).await {
        Ok(response) => response,
        Err(error) => return (Err(error), None),
    };
    let wait = told_to_wait(&response);
    let (what, mut pace) = (|| "the token".to_owned(), Pace::default());
    let mut body = Vec::new();
    loop {
        let chunk = match next_bytes(&mut response, &mut pace, transport, &host, &what).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return (Ok((response.status().as_u16(), body)), wait),
            Err(error) => return (Err(error), wait),
        };
        let chunk = chunk.as_ref();
        if (body.len() + chunk.len()) as u64 > TOKEN_BYTES_MAX {
            return (Err(RegistryError::TooLarge { host, what: what(), max: TOKEN_BYTES_MAX }), wait);
        }
        body.extend_from_slice(chunk);
    }
}

fn get<'a>(
    realm: &Url,
    service: Option<&str>,
    scope: &Scope,
    user: Option<HeaderValue>,
) -> (Outgoing<'a>, Vec<u8>) {
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        query.extend_pairs(service.map(|service| ("service", service)));
        query.extend_pairs(scope.0.iter().map(|one| ("scope", one)));
    }
    let headers = user.map(|user| (AUTHORIZATION, user)).into_iter().collect();
    (Outgoing { method: Method::GET, url, headers, payload: Payload::None }, Vec::new())
}

fn post<'a>(realm: &Url, service: Option<&str>, scope: &Scope, token: &str) -> (Outgoing<'a>, Vec<u8>) {
    // An address is only the way to the encoding of a form.
    let mut form = realm.clone();
    form.query_pairs_mut()
        .clear()
        .append_pair("grant_type", "refresh_token")
        .extend_pairs(service.map(|service| ("service", service)))
        .append_pair("client_id", CLIENT_ID)
        .append_pair("scope", &scope.to_string())
        .append_pair("refresh_token", token);
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind)]);
    let form = form.query().unwrap_or_default().as_bytes().to_vec();
    (Outgoing { method: Method::POST, url: realm.clone(), headers, payload: Payload::None }, form)
}

fn read(
    realm: &Url,
    (status, body): Told,
    scope: &Scope,
    found: &Found,
    registry: &str,
) -> Result<Token, RegistryError> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
        expires_in: Option<f64>,
    }
    let host = authority(realm);
    if matches!(status, 401 | 403) {
        let message = answer::message(&body);
        let hint = format!("asked at {host}; {}", found.source.hint(registry));
        return Err(RegistryError::Unauthorized {
            host: registry.to_owned(),
            repository: scope.repositories(),
            message,
            hint,
        });
    }
    if status != 200 {
        let (method, path, message) = ("GET".to_owned(), printable(realm.path()), answer::message(&body));
        return Err(RegistryError::Status { host, method, path, status, message });
    }
    let malformed = || RegistryError::Protocol {
        host: authority(realm),
        detail: "the answer of its token server holds no token".to_owned(),
    };
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| malformed())?;
    let text = if answer.token.is_empty() { answer.access_token } else { answer.token };
    let header = Some(text).filter(|t| !t.is_empty()).and_then(|t| bearer(&t)).ok_or_else(malformed)?;
    Ok(Token { header, until: Instant::now() + life(answer.expires_in) })
}

/// How long a token is used: a little shorter than it lives.
fn life(expires_in: Option<f64>) -> Duration {
    let told = expires_in.and_then(|s| Duration::try_from_secs_f64(s).ok()).filter(|life| !life.is_zero());
    told.unwrap_or(LIFE_DEFAULT).min(LIFE_MAX).mul_f32(0.9)
}

fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_asks_for_both_repositories_in_one_token() {
        let scope = Scope::push("b/x").and(Scope::pull("a"));
        assert_eq!(scope.to_string(), "repository:a:pull repository:b/x:pull,push");
        let realm = Url::parse("https://r/t?account=x").expect("an address");
        let (asked, _) = get(&realm, Some("s s"), &scope, None);
        assert_eq!(
            asked.url.as_str(),
            "https://r/t?account=x&service=s+s&scope=repository%3Aa%3Apull&scope=repository%3Ab%2Fx%3Apull%2Cpush"
        );
    }

    #[test]
    fn a_token_for_more_is_good_for_less_and_not_the_other_way_round() {
        let wide = Scope::push("b").and(Scope::pull("a"));
        for narrow in [Scope::push("b"), Scope::pull("b"), Scope::pull("a"), wide.clone()] {
            assert!(wide.covers(&narrow), "{narrow}");
        }
        for other in [Scope::push("a"), Scope::pull("ab"), Scope::pull("c").and(Scope::pull("a"))] {
            assert!(!wide.covers(&other), "{other}");
        }
    }

    #[test]
    fn a_token_is_used_for_less_than_it_lives() {
        assert!(life(None) < LIFE_DEFAULT);
        assert!(life(Some(300.0)) < Duration::from_secs(300));
        for odd in [-1.0, f64::NAN, f64::INFINITY, 0.0] {
            assert!(life(Some(odd)) < LIFE_DEFAULT, "{odd}");
        }
        assert!(life(Some(1e9)) <= LIFE_MAX);
    }

    #[test]
    fn secrets_are_not_in_debug_output() {
        let header = basic("user", "hunter2").expect("a header");
        assert_eq!(format!("{header:?}"), "Sensitive");
        assert!(bearer("a\nb").is_none());
    }
}
