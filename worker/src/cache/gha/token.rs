//! What the token of a job in GitHub Actions says of itself: which branches' caches it opens. Its signature is the
//! server's business. It does not know how it is shown.

use crate::cache::CacheError;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use std::time::{SystemTime, UNIX_EPOCH};

const WRITE: u64 = 2;
/// How many branches are asked for a cache.
const SCOPES_MAX: usize = 16;

/// The branches that a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    scopes: Vec<Scope>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Scope {
    #[serde(rename = "Scope")]
    branch: String,
    #[serde(rename = "Permission")]
    permission: u64,
}

#[derive(Deserialize)]
struct Claims {
    ac: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

impl Token {
    /// Reads a JSON Web Token that is good now.
    pub fn parse(token: &str) -> Result<Token, CacheError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        parsed(token, now).map_err(|reason| CacheError::Malformed {
            what: "the token for GitHub's cache service".to_owned(),
            reason,
        })
    }

    /// The references of the branches whose caches may be read, each once.
    pub fn read(&self) -> impl Iterator<Item = &str> {
        self.scopes.iter().map(|scope| scope.branch.as_str())
    }

    /// The reference of the branch whose cache may be written.
    pub fn written(&self) -> Option<&str> {
        self.scopes.iter().rfind(|scope| scope.permission & WRITE != 0).map(|scope| scope.branch.as_str())
    }
}

fn parsed(token: &str, now: f64) -> Result<Token, String> {
    let mut parts = token.trim().split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("it is no JSON Web Token".to_owned());
    };
    let claims = URL_SAFE_NO_PAD
        .decode(claims.trim_end_matches('='))
        .map_err(|_| "its claims are no base64".to_owned())?;
    let claims: Claims =
        serde_json::from_slice(&claims).map_err(|_| "its claims are not valid".to_owned())?;
    if claims.exp.is_some_and(|exp| exp < now) {
        return Err("it has expired; a job has to get a new one".to_owned());
    }
    if claims.nbf.is_some_and(|nbf| nbf > now + 60.0) {
        return Err("it is not good yet; this machine's clock may be wrong".to_owned());
    }
    let scopes =
        claims.ac.ok_or_else(|| "it has no `ac`, which names the caches that it opens".to_owned())?;
    let mut scopes: Vec<Scope> =
        serde_json::from_str(&scopes).map_err(|_| "its `ac` is not valid".to_owned())?;
    let mut seen = std::collections::BTreeSet::new();
    scopes.retain(|scope| seen.insert(scope.branch.clone()));
    scopes.truncate(SCOPES_MAX);
    Ok(Token { scopes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn the_branches_are_in_the_token() {
        let ac = r#"[{\"Scope\":\"refs/heads/x\",\"Permission\":3},{\"Scope\":\"refs/heads/main\",\"Permission\":1}]"#;
        let token = parsed(&token(&format!(r#"{{"ac":"{ac}","exp":100,"nbf":10}}"#)), 50.0).expect("a token");
        assert_eq!(token.read().collect::<Vec<_>>(), ["refs/heads/x", "refs/heads/main"]);
        assert_eq!(token.written(), Some("refs/heads/x"));
    }

    #[test]
    fn a_token_that_opens_nothing_says_why() {
        for (text, why) in [
            ("secret".to_owned(), "no JSON Web Token"),
            ("a.b.c.d".to_owned(), "no JSON Web Token"),
            ("a.!.c".to_owned(), "no base64"),
            (token("no JSON"), "claims are not valid"),
            (token("{}"), "no `ac`"),
            (token(r#"{"ac":"x"}"#), "`ac` is not valid"),
            (token(r#"{"ac":"[]","exp":49}"#), "expired"),
            (token(r#"{"ac":"[]","nbf":500}"#), "not good yet"),
        ] {
            let reason = parsed(&text, 50.0).expect_err("a reason");
            assert!(reason.contains(why) && !reason.contains("secret"), "{reason}");
        }
        assert_eq!(parsed(&token(r#"{"ac":"[]"}"#), 50.0).expect("a token").written(), None);
    }
}
