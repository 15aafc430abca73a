//! What refers to a manifest (distribution specification 1.1, "Listing Referrers"). It does not know how lists are
//! kept where a registry keeps none.

use crate::RegistryError;
use crate::client::Client;
use crate::request::Request;
use crate::token::Scope;
use kiln_oci::{Digest, MediaType, Reference};
use reqwest::Method;

impl Client {
    /// Whether the registry lists what refers to a manifest by itself. One that does has a list for every digest.
    pub async fn lists_referrers(
        &self,
        repository: &Reference,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        let name = repository.repository();
        let request = Request::new(Method::GET, name, &format!("referrers/{digest}"), Scope::pull(name));
        let answer = self.send(&self.host(repository)?, &request).await?;
        match answer.status() {
            200 => Ok(answer.media_type() == MediaType::OciIndex),
            // A registry that knows no such address may call it anything.
            400 | 404 | 405 | 501 => Ok(false),
            _ => Err(answer.into_error().await),
        }
    }
}
