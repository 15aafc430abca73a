//! What a registry has: its repositories and their tags, page by page. Not every registry tells.
//! It does not know what is looked for.

use crate::RegistryError;
use crate::client::Client;
use crate::request::{Request, Target};
use crate::token::Scope;
use kiln_oci::{DOCUMENT_BYTES_MAX, Reference};
use reqwest::Method;
use serde::Deserialize;

/// More pages of one list than this are not read.
const PAGES_MAX: usize = 1000;
/// How many names a page is asked to have.
const PAGE: &str = "n=1000";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Page {
    repositories: Option<Vec<String>>,
    tags: Option<Vec<String>>,
}

impl Client {
    /// The repositories of the registry of `any`, a page at a time, until `on_page` has enough.
    pub async fn catalog(
        &self,
        any: &Reference,
        on_page: &mut (dyn FnMut(Vec<String>) -> bool + Send),
    ) -> Result<(), RegistryError> {
        let first = format!("_catalog?{PAGE}");
        self.pages(any, first, Scope::catalog(), &mut |page| on_page(page.repositories.unwrap_or_default()))
            .await
    }

    /// The tags of a repository, likewise.
    pub async fn tags(
        &self,
        repository: &Reference,
        on_page: &mut (dyn FnMut(Vec<String>) -> bool + Send),
    ) -> Result<(), RegistryError> {
        let name = repository.repository();
        let first = format!("{name}/tags/list?{PAGE}");
        self.pages(repository, first, Scope::pull(name), &mut |page| on_page(page.tags.unwrap_or_default()))
            .await
    }

    async fn pages(
        &self,
        reference: &Reference,
        first: String,
        scope: Scope,
        on_page: &mut (dyn FnMut(Page) -> bool + Send),
    ) -> Result<(), RegistryError> {
        let mut next = Some(first);
        for _ in 0..PAGES_MAX {
            let Some(path) = next.take() else { break };
            let mut request = Request::new(Method::GET, reference.repository(), "", scope.clone());
            request.target = Target::Api(path.clone());
            let mut answer = self.send(&self.host(reference)?, &request).await?;
            match answer.status() {
                200 => {}
                404 => return Err(answer.not_found(path)),
                _ => return Err(answer.into_error().await),
            }
            next = answer.header("link").and_then(next_page).filter(|next| *next != path);
            let bytes = answer.body(DOCUMENT_BYTES_MAX).await?;
            let page: Page = serde_json::from_slice(&bytes).map_err(|e| RegistryError::Protocol {
                host: reference.registry().to_owned(),
                detail: format!("its list `{path}` is not valid: {e}"),
            })?;
            if !on_page(page) {
                break;
            }
        }
        Ok(())
    }
}

/// Where the next page is, beneath `/v2/`, of a header like `</v2/_catalog?last=x&n=9>; rel="next"`. Another
/// host that it may name is not asked.
fn next_page(link: &str) -> Option<String> {
    let (address, rest) = link.strip_prefix('<')?.split_once('>')?;
    let (_, path) = address.split_once("/v2/")?;
    rest.contains("next").then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_on_the_same_host() {
        for (link, want) in [
            ("</v2/_catalog?last=x&n=9>; rel=\"next\"", Some("_catalog?last=x&n=9")),
            ("<https://evil.org/v2/a/tags/list?last=b>; rel=\"next\"", Some("a/tags/list?last=b")),
            ("</v2/_catalog>; rel=\"prev\"", None),
            ("</other?last=x>; rel=\"next\"", None),
            ("nonsense", None),
        ] {
            assert_eq!(next_page(link).as_deref(), want, "{link}");
        }
    }
}
