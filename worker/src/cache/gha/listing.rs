//! The list of all entries of a repository from GitHub's own interface, which has other limits than the cache
//! service: one question for a hundred blobs. It does not know what is done with it.

use super::service::request;
use crate::cache::CacheError;
use crate::cache::waiting::{Deadline, Waiting};
use kiln_registry::{Client, WebAnswer};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use std::collections::BTreeSet;

/// Where GitHub's interface is.
pub(super) const API: &str = "https://api.github.com/";
const PAGE: usize = 100;
const PAGES_MAX: usize = 100;
const PAGE_BYTES_MAX: usize = 1 << 20;

/// What is asked, and of whom.
#[derive(Debug)]
pub(super) struct Listing {
    pub api: Url,
    repository: String,
    authorization: HeaderValue,
}

#[derive(Deserialize)]
struct Page {
    actions_caches: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    key: String,
}

impl Listing {
    /// The entries of this repository; `None` where it is no repository's name or the token is none.
    pub fn of(repository: &str, token: &str) -> Option<Listing> {
        let (owner, name) = repository.split_once('/')?;
        let is_word = |word: &str| {
            !word.is_empty()
                && !word.starts_with('.')
                && word.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
        };
        let mut authorization = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        authorization.set_sensitive(true);
        let is_good = is_word(owner) && is_word(name);
        let api = Url::parse(API).ok().filter(|_| is_good)?;
        Some(Listing { api, repository: repository.to_owned(), authorization })
    }

    /// The keys that begin with `prefix`, of these branches.
    pub fn keys<'b>(
        &self,
        client: &Client,
        waiting: &Waiting,
        prefix: &str,
        branches: impl Iterator<Item = &'b str>,
        deadline: Deadline,
    ) -> Result<BTreeSet<String>, CacheError> {
        let mut keys = BTreeSet::new();
        for branch in branches {
            for page in 1..=PAGES_MAX {
                let found = self.page(client, waiting, prefix, branch, page, deadline)?;
                let count = found.len();
                keys.extend(found);
                if count < PAGE {
                    break;
                }
            }
        }
        Ok(keys)
    }

    fn page(
        &self,
        client: &Client,
        waiting: &Waiting,
        prefix: &str,
        branch: &str,
        page: usize,
        deadline: Deadline,
    ) -> Result<Vec<String>, CacheError> {
        let bad =
            |reason: String| CacheError::Malformed { what: "GitHub's list of caches".to_owned(), reason };
        let at = self.api.join(&format!("repos/{}/actions/caches", self.repository));
        let mut at = at.map_err(|e| bad(e.to_string()))?;
        at.query_pairs_mut()
            .append_pair("per_page", &PAGE.to_string())
            .append_pair("page", &page.to_string())
            .append_pair("key", prefix)
            .append_pair("ref", branch);
        let mut asked = request(Method::GET, at);
        asked.headers.insert(ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
        asked.headers.insert("x-github-api-version", HeaderValue::from_static("2022-11-28"));
        asked.headers.insert(AUTHORIZATION, self.authorization.clone());
        let body = waiting.wait(Some(deadline), async {
            let mut answer = client.web(&asked).await?;
            let body = answer.beginning(PAGE_BYTES_MAX).await;
            if answer.status() == 200 {
                return Ok(body);
            }
            let (request, status) = (answer.request(), answer.status());
            Err(CacheError::Status { request, status, body: WebAnswer::message(&body) })
        })?;
        let page: Page = serde_json::from_slice(&body).map_err(|e| bad(e.to_string()))?;
        Ok(page.actions_caches.into_iter().map(|entry| entry.key).collect())
    }
}
