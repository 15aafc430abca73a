//! What one registry was shown and will be shown: it answers challenges and remembers the answers.
//! It does not know requests or retries.

use crate::RegistryError;
use crate::challenge::Challenge;
use crate::config::Places;
use crate::credentials::{Credentials, Found, Seeker, Source, find};
use crate::token::{Scope, Token, basic, bearer, fetch};
use crate::transport::{Transport, Wire};
use reqwest::Url;
use reqwest::header::HeaderValue;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Mutex;

const TOKENS_MAX: usize = 256;

/// The state of being known to one registry.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By repository; for all, where the name is empty.
    found: HashMap<String, Arc<Found>>,
    /// For every request, by repository as well.
    fixed: HashMap<String, HeaderValue>,
    tokens: HashMap<Scope, Token>,
}

/// Where credentials are and whom they are for.
pub(crate) struct Asker<'a> {
    pub(crate) transport: &'a Transport,
    pub(crate) places: &'a Places,
    pub(crate) docker_config: Option<&'a Path>,
    pub(crate) registry: &'a str,
    pub(crate) repository: &'a str,
    /// Where the registry's API is, and how it is reached.
    pub(crate) base: (&'a Url, Wire),
}

impl Auth {
    /// The header for a request of this scope, if the registry is known to want one.
    pub(crate) async fn known(&self, repository: &str, scope: &Scope) -> Option<HeaderValue> {
        self.state.lock().await.known(repository, scope)
    }

    /// The state of one who uses these credentials, whatever files say.
    pub(crate) fn of(credentials: Credentials) -> Auth {
        let found = Found { credentials, source: Source::User, is_of_repository: false };
        let found = HashMap::from([(String::new(), Arc::new(found))]);
        Auth { state: Mutex::new(State { found, ..State::default() }) }
    }

    /// The header that answers these challenges; `None` if there is no other than `used`.
    pub(crate) async fn answer(
        &self,
        asker: &Asker<'_>,
        scope: &Scope,
        challenges: &[Challenge],
        used: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        // Held while a token is fetched, so that many requests at once fetch one token.
        let mut state = self.state.lock().await;
        if let Some(known) = state.known(asker.repository, scope).filter(|known| Some(known) != used) {
            return Ok(Some(known));
        }
        let found = state.credentials(asker).await?;
        if let Some(challenge) = challenges.iter().find(|c| c.is("bearer")) {
            if let Credentials::RegistryToken(token) = &found.credentials {
                let header = bearer(token);
                return Ok(state.fix(asker.repository, &found, header).filter(|header| Some(header) != used));
            }
            let token =
                fetch(asker.transport, (asker.registry, asker.base), challenge, scope, &found).await?;
            let header = token.header.clone();
            state.remember(scope, token);
            return Ok(Some(header));
        }
        if !challenges.iter().any(|c| c.is("basic")) {
            return Ok(None);
        }
        let Credentials::Basic { username, password } = &found.credentials else { return Ok(None) };
        let header = basic(username, password);
        Ok(state.fix(asker.repository, &found, header).filter(|header| Some(header) != used))
    }

    /// What to tell a user whom the registry refuses.
    pub(crate) async fn hint(&self, registry: &str, repository: &str) -> String {
        match of(&self.state.lock().await.found, repository) {
            Some(found) => found.source.hint(registry),
            None => "it did not ask for credentials".to_owned(),
        }
    }
}

impl State {
    fn known(&self, repository: &str, scope: &Scope) -> Option<HeaderValue> {
        let token = || self.tokens.get(scope).filter(|t| t.until > Instant::now()).map(|t| &t.header);
        of(&self.fixed, repository).or_else(token).cloned()
    }

    async fn credentials(&mut self, asker: &Asker<'_>) -> Result<Arc<Found>, RegistryError> {
        if let Some(found) = of(&self.found, asker.repository) {
            return Ok(Arc::clone(found));
        }
        let Asker { places, docker_config, registry, repository, .. } = *asker;
        let seeker = Seeker { places, docker_config, registry, repository };
        let found = Arc::new(find(seeker, asker.transport.patience.idle).await?);
        self.found.insert(reach(repository, &found), Arc::clone(&found));
        Ok(found)
    }

    /// Keeps a header for all that the credentials are for.
    fn fix(&mut self, repository: &str, found: &Found, header: Option<HeaderValue>) -> Option<HeaderValue> {
        if let Some(header) = &header {
            self.fixed.insert(reach(repository, found), header.clone());
        }
        header
    }

    fn remember(&mut self, scope: &Scope, token: Token) {
        if self.tokens.len() >= TOKENS_MAX {
            self.tokens.clear();
        }
        self.tokens.insert(scope.clone(), token);
    }
}

/// The name under which something is kept that is for this repository, or for all.
fn reach(repository: &str, found: &Found) -> String {
    if found.is_of_repository { repository.to_owned() } else { String::new() }
}

fn of<'a, T>(kept: &'a HashMap<String, T>, repository: &str) -> Option<&'a T> {
    kept.get(repository).or_else(|| kept.get(""))
}
