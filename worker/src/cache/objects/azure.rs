//! A container of Azure's blob storage: its address, its keys, its names, and how it is made.
//! It does not know what is in it.

use super::failure::answer;
use super::http::{Connector, Use, retries};
use super::{Keys, Stores};
use crate::cache::{AzureOptions, CacheError};
use object_store::azure::{AzureAuthorizer, AzureConfigKey, AzureCredentialProvider, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody};
use reqwest::Url;
use reqwest::header::HeaderValue;
use std::sync::Arc;
use std::time::Duration;

const CONTAINER: &str = "buildkit-cache";
const MANIFESTS_PREFIX: &str = "manifests";
const BLOBS_PREFIX: &str = "blobs";
/// For the cloud to give keys.
const KEYS_MAX: Duration = Duration::from_secs(5);
/// The status for what is there already.
const CONFLICT: u16 = 409;

/// Where a cloud says how a process in it gets keys.
const AMBIENT: [&str; 4] =
    ["AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE"];

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    /// Its address.
    pub url: String,
    account: String,
    name: String,
    prefix: String,
    blobs_prefix: String,
    manifests_prefix: String,
    credentials: AzureCredentialProvider,
    keys: Keys,
    client: HttpClient,
}

impl Container {
    /// The clients of a container, and the container.
    pub fn open(options: &AzureOptions) -> Result<(Stores, Container), CacheError> {
        let endpoint = options.account_url.trim_end_matches('/');
        if endpoint.is_empty() {
            return Err(CacheError::Missing {
                what: "the address of the account",
                help: "say account_url=https://NAME.blob.core.windows.net, or set BUILDKIT_AZURE_STORAGE_ACCOUNT_URL",
            });
        }
        let server = Url::parse(endpoint).map_err(|e| CacheError::Malformed {
            what: format!("account_url {endpoint}"),
            reason: e.to_string(),
        })?;
        let first = server.host_str().and_then(|host| host.split('.').next()).unwrap_or_default();
        let account = options.account_name.clone().unwrap_or_else(|| first.to_owned());
        let name = options.container.clone().unwrap_or_else(|| CONTAINER.to_owned());
        let (builder, keys) = with_keys(options);
        let builder = builder
            .with_account(&account)
            .with_container_name(&name)
            .with_endpoint(endpoint.to_owned())
            .with_allow_http(true)
            .with_retry(retries(None));
        let wrong =
            |error: object_store::Error| answer(&error).into_error(format!("azblob {account}/{name}"));
        let reading = Connector::new(Use::Reading, Some(&server));
        let writing = Connector::new(Use::Writing, Some(&server));
        let client = writing.connect(&Default::default()).map_err(wrong)?;
        let writing = builder.clone().with_http_connector(writing).build().map_err(wrong)?;
        let credentials = Arc::clone(writing.credentials());
        let reading = builder
            .with_credentials(Arc::clone(&credentials))
            .with_http_connector(reading)
            .build()
            .map_err(wrong)?;
        let or = |given: &Option<String>, usual: &str| given.clone().unwrap_or_else(|| usual.to_owned());
        let container = Container {
            url: format!("{endpoint}/{name}"),
            account,
            name,
            prefix: options.prefix.clone(),
            blobs_prefix: or(&options.blobs_prefix, BLOBS_PREFIX),
            manifests_prefix: or(&options.manifests_prefix, MANIFESTS_PREFIX),
            credentials,
            keys,
            client,
        };
        Ok((Stores { reading: Arc::new(reading), writing: Arc::new(writing) }, container))
    }

    /// The account, the container and the prefix.
    pub fn label(&self) -> String {
        format!("{}/{}/{}", self.account, self.name, self.prefix).trim_end_matches('/').to_owned()
    }

    pub fn blob_name(&self, digest: &str) -> String {
        joined([&self.prefix, &self.blobs_prefix, digest])
    }

    pub fn manifest_name(&self, name: &str) -> String {
        joined([&self.prefix, &self.manifests_prefix, name])
    }

    /// Sees whether there are keys, where nobody gave them.
    pub async fn check_keys(&self) -> Result<(), CacheError> {
        if self.keys == Keys::Given {
            return Ok(());
        }
        match (tokio::time::timeout(KEYS_MAX, self.credentials.get_credential()).await, self.keys) {
            (Ok(Ok(_)), _) => Ok(()),
            (_, Keys::Guessed | Keys::Given) => Err(CacheError::Missing {
                what: "the key of the account",
                help: "say secret_access_key=KEY, or run where Azure gives this machine an identity",
            }),
            (Ok(Err(error)), Keys::Named) => {
                Err(answer(&error).into_error("Azure's token, as AZURE_* in the environment say".to_owned()))
            }
            (Err(_), Keys::Named) => Err(CacheError::TimedOut(KEYS_MAX.as_secs())),
        }
    }

    /// Makes the container. That somebody else did is as good.
    pub async fn create(&self) -> Result<(), CacheError> {
        let asked = format!("PUT {}", self.url);
        let failed = |reason: String| CacheError::Unreachable { request: asked.clone(), reason };
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = reqwest::Method::PUT;
        *request.uri_mut() =
            format!("{}?restype=container", self.url).parse().map_err(|_| failed("no address".to_owned()))?;
        request.headers_mut().insert("content-length", HeaderValue::from_static("0"));
        let credential = self.credentials.get_credential().await.map_err(|e| failed(e.to_string()))?;
        AzureAuthorizer::new(&credential, &self.account)
            .try_authorize(&mut request)
            .map_err(|e| failed(e.to_string()))?;
        let answer = self.client.execute(request).await.map_err(|e| failed(e.to_string()))?;
        let status = answer.status().as_u16();
        if answer.status().is_success() || status == CONFLICT {
            return Ok(());
        }
        let body = answer.into_body().bytes().await.unwrap_or_default();
        let body = super::failure::told(&String::from_utf8_lossy(&body));
        Err(CacheError::Status { request: asked, status, body })
    }
}

fn with_keys(options: &AzureOptions) -> (MicrosoftAzureBuilder, Keys) {
    let mut builder = MicrosoftAzureBuilder::new();
    if let Some(key) = options.secret_access_key.as_ref().filter(|key| !key.is_empty()) {
        return (builder.with_access_key(key), Keys::Given);
    }
    let mut keys = Keys::Guessed;
    for name in AMBIENT {
        let Some(value) = std::env::var(name).ok().filter(|value| !value.is_empty()) else { continue };
        if let Ok(key) = name.to_ascii_lowercase().parse::<AzureConfigKey>() {
            builder = builder.with_config(key, value);
        }
        keys = Keys::Named;
    }
    (builder, keys)
}

/// A name out of its parts, one slash between two of them.
fn joined(parts: [&str; 3]) -> String {
    let parts = parts.iter().flat_map(|part| part.split('/')).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("/")
}
