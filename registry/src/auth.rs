//! What one registry was shown and will be shown: it answers challenges and remembers the answers.
//! It does not know requests or retries.

use crate::RegistryError;
use crate::challenge::Challenge;
use crate::credentials::{Credentials, Found, find};
use crate::token::{Scope, Token, basic, bearer, fetch};
use crate::transport::Transport;
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
    found: Option<Arc<Found>>,
    /// For every request.
    fixed: Option<HeaderValue>,
    tokens: HashMap<Scope, Token>,
}

/// Where credentials are and whom they are for.
pub(crate) struct Asker<'a> {
    pub(crate) transport: &'a Transport,
    pub(crate) docker_config: Option<&'a Path>,
    pub(crate) registry: &'a str,
    pub(crate) base: &'a Url,
}

impl Auth {
    /// The header for a request of this scope, if the registry is known to want one.
    pub(crate) async fn known(&self, scope: &Scope) -> Option<HeaderValue> {
        self.state.lock().await.known(scope)
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
        if let Some(known) = state.known(scope).filter(|known| Some(known) != used) {
            return Ok(Some(known));
        }
        let found = state.credentials(asker).await?;
        if let Some(challenge) = challenges.iter().find(|c| c.is("bearer")) {
            if let Credentials::RegistryToken(token) = &found.credentials {
                state.fixed = bearer(token);
                return Ok(state.fixed.clone().filter(|header| Some(header) != used));
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
        state.fixed = basic(username, password);
        Ok(state.fixed.clone().filter(|header| Some(header) != used))
    }

    /// What to tell a user whom the registry refuses.
    pub(crate) async fn hint(&self, registry: &str) -> String {
        match &self.state.lock().await.found {
            Some(found) => found.hint(registry),
            None => "it did not ask for credentials".to_owned(),
        }
    }
}

impl State {
    fn known(&self, scope: &Scope) -> Option<HeaderValue> {
        let now = Instant::now();
        // The token for just this, else one that is good for more.
        let exact = self.tokens.get(scope).filter(|token| token.until > now);
        let wider = || self.tokens.iter().find(|(have, token)| have.covers(scope) && token.until > now);
        let token = || exact.or_else(|| Some(wider()?.1)).map(|token| &token.header);
        self.fixed.as_ref().or_else(token).cloned()
    }

    async fn credentials(&mut self, asker: &Asker<'_>) -> Result<Arc<Found>, RegistryError> {
        if let Some(found) = &self.found {
            return Ok(Arc::clone(found));
        }
        let time = asker.transport.patience.idle;
        let found = Arc::new(find(asker.docker_config, asker.registry, time).await?);
        self.found = Some(Arc::clone(&found));
        Ok(found)
    }

    fn remember(&mut self, scope: &Scope, token: Token) {
        if self.tokens.len() >= TOKENS_MAX {
            self.tokens.clear();
        }
        self.tokens.insert(scope.clone(), token);
    }
}
