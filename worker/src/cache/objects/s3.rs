//! A bucket of S3's kind: its address, its keys, its names, and how an object in it is kept young.
//! It does not know blobs.

use super::failure::answer;
use super::http::{Connector, Use, retries};
use super::{Keys, Stores};
use crate::cache::{CacheError, S3Options};
use object_store::ObjectMeta;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody};
use object_store::path::Path as Key;
use reqwest::Url;
use reqwest::header::HeaderValue;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const MANIFESTS_PREFIX: &str = "manifests/";
const BLOBS_PREFIX: &str = "blobs/";
const TOUCH_REFRESH: Duration = Duration::from_secs(24 * 3600);
/// What S3 copies in one request.
const COPY_BYTES_MAX: u64 = 5 << 30;
/// For the cloud to give keys.
const KEYS_MAX: Duration = Duration::from_secs(5);

/// Where a cloud says how a process in it gets keys.
const AMBIENT: [&str; 6] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// A bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Its name.
    pub name: String,
    /// The address of what is in it.
    url: String,
    region: String,
    prefix: String,
    blobs_prefix: String,
    manifests_prefix: String,
    touch_refresh: Duration,
    credentials: AwsCredentialProvider,
    keys: Keys,
    client: HttpClient,
}

impl Bucket {
    /// The clients of a bucket, and the bucket.
    pub fn open(options: &S3Options) -> Result<(Stores, Bucket), CacheError> {
        let url = address(options)?;
        let server = Url::parse(&url).map_err(|e| CacheError::Malformed {
            what: format!("endpoint_url {url}"),
            reason: e.to_string(),
        })?;
        let (builder, keys) = with_keys(options)?;
        let builder = builder
            .with_bucket_name(&options.bucket)
            .with_region(&options.region)
            .with_endpoint(&url)
            // The address has the bucket already, whichever way it is written.
            .with_virtual_hosted_style_request(true)
            .with_allow_http(true)
            .with_retry(retries(options.retry_max_attempts));
        let wrong = |error: object_store::Error| answer(&error).into_error(format!("s3 {}", options.bucket));
        let reading = Connector::new(Use::Reading, Some(&server));
        let writing = Connector::new(Use::Writing, Some(&server));
        let client = writing.connect(&Default::default()).map_err(wrong)?;
        let writing = builder.clone().with_http_connector(writing).build().map_err(wrong)?;
        let credentials = Arc::clone(writing.credentials());
        // One provider of keys for both: they are asked for once.
        let reading = builder
            .with_credentials(Arc::clone(&credentials))
            .with_http_connector(reading)
            .build()
            .map_err(wrong)?;
        let or = |given: &Option<String>, usual: &str| given.clone().unwrap_or_else(|| usual.to_owned());
        let bucket = Bucket {
            name: options.bucket.clone(),
            url,
            region: options.region.clone(),
            prefix: options.prefix.clone(),
            blobs_prefix: or(&options.blobs_prefix, BLOBS_PREFIX),
            manifests_prefix: or(&options.manifests_prefix, MANIFESTS_PREFIX),
            touch_refresh: options.touch_refresh.unwrap_or(TOUCH_REFRESH),
            credentials,
            keys,
            client,
        };
        Ok((Stores { reading: Arc::new(reading), writing: Arc::new(writing) }, bucket))
    }

    /// The bucket and its prefix.
    pub fn label(&self) -> String {
        format!("{}/{}", self.name, self.prefix).trim_end_matches('/').to_owned()
    }

    pub fn blob_name(&self, digest: &str) -> String {
        format!("{}{}{digest}", self.prefix, self.blobs_prefix)
    }

    pub fn manifest_name(&self, name: &str) -> String {
        format!("{}{}{name}", self.prefix, self.manifests_prefix)
    }

    /// Sees whether there are keys, where nobody gave them.
    pub async fn check_keys(&self) -> Result<(), CacheError> {
        if self.keys == Keys::Given {
            return Ok(());
        }
        match (tokio::time::timeout(KEYS_MAX, self.credentials.get_credential()).await, self.keys) {
            (Ok(Ok(_)), _) => Ok(()),
            (_, Keys::Guessed | Keys::Given) => Err(no_keys()),
            (Ok(Err(error)), Keys::Named) => {
                Err(answer(&error).into_error("the cloud's keys, as AWS_* in the environment say".to_owned()))
            }
            (Err(_), Keys::Named) => Err(CacheError::TimedOut(KEYS_MAX.as_secs())),
        }
    }

    /// Whether an object is so old that it may be removed soon.
    pub fn is_old(&self, found: &ObjectMeta) -> bool {
        let written = SystemTime::from(found.last_modified);
        SystemTime::now().duration_since(written).is_ok_and(|age| age > self.touch_refresh)
    }

    /// Makes an object young by copying it onto itself; whether that was done. S3 wants its metadata to change for
    /// that, which the library's own copy does not ask for.
    pub async fn touch(&self, key: &Key, size: u64) -> bool {
        size < COPY_BYTES_MAX && self.copy_onto_itself(key).await.unwrap_or(false)
    }

    async fn copy_onto_itself(&self, key: &Key) -> Option<bool> {
        let path = encoded(key.as_ref());
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = reqwest::Method::PUT;
        *request.uri_mut() = format!("{}/{path}", self.url).parse().ok()?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let source = format!("{}/{path}", self.name);
        for (name, value) in [
            ("content-length", "0"),
            ("x-amz-copy-source", &source),
            ("x-amz-metadata-directive", "REPLACE"),
            ("x-amz-meta-updated-at", &now.to_string()),
        ] {
            request.headers_mut().insert(name, HeaderValue::from_str(value).ok()?);
        }
        let credential = self.credentials.get_credential().await.ok()?;
        AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(&mut request, None).ok()?;
        let answer = self.client.execute(request).await.ok()?;
        let is_success = answer.status().is_success();
        // A copy that takes long is answered with 200 before it is known whether it succeeds.
        let said = answer.into_body().bytes().await.ok()?;
        Some(is_success && !String::from_utf8_lossy(&said).contains("<Error>"))
    }
}

/// The address of what is in a bucket, without a slash at its end.
pub(super) fn address(options: &S3Options) -> Result<String, CacheError> {
    let missing = |what, help| Err(CacheError::Missing { what, help });
    let (bucket, region) = (&options.bucket, &options.region);
    if bucket.is_empty() {
        return missing("the bucket", "say bucket=NAME, or set AWS_BUCKET");
    }
    if region.is_empty() {
        return missing("the region of the bucket", "say region=NAME, or set AWS_REGION");
    }
    let Some(endpoint) = options.endpoint_url.as_deref().filter(|url| !url.is_empty()) else {
        // No certificate holds for a bucket with a dot in its name.
        return Ok(if bucket.contains('.') {
            format!("https://s3.{region}.amazonaws.com/{bucket}")
        } else {
            format!("https://{bucket}.s3.{region}.amazonaws.com")
        });
    };
    let endpoint = endpoint.trim_end_matches('/');
    if options.use_path_style {
        return Ok(format!("{endpoint}/{bucket}"));
    }
    match endpoint.split_once("://") {
        Some((scheme @ ("http" | "https"), host)) => Ok(format!("{scheme}://{bucket}.{host}")),
        _ => Err(CacheError::Malformed {
            what: format!("endpoint_url {endpoint}"),
            reason: "it must begin with http:// or https://".to_owned(),
        }),
    }
}

fn with_keys(options: &S3Options) -> Result<(AmazonS3Builder, Keys), CacheError> {
    let mut builder = AmazonS3Builder::new();
    let given = |key: &Option<String>| key.clone().filter(|key| !key.is_empty());
    match (given(&options.access_key_id), given(&options.secret_access_key)) {
        (Some(id), Some(secret)) => {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
            if let Some(token) = given(&options.session_token) {
                builder = builder.with_token(token);
            }
            return Ok((builder, Keys::Given));
        }
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => return Err(no_keys()),
    }
    let mut keys = Keys::Guessed;
    for name in AMBIENT {
        let Some(value) = std::env::var(name).ok().filter(|value| !value.is_empty()) else { continue };
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
        if name != "AWS_ROLE_SESSION_NAME" && name != "AWS_ROLE_ARN" {
            keys = Keys::Named;
        }
    }
    let is_off = std::env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|v| v.eq_ignore_ascii_case("true"));
    if keys == Keys::Guessed && is_off {
        return Err(no_keys());
    }
    Ok((builder, keys))
}

fn no_keys() -> CacheError {
    CacheError::Missing {
        what: "the key of the bucket",
        help: "say access_key_id=ID and secret_access_key=KEY, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    }
}

/// A key as it stands in an address.
fn encoded(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => out.push(byte.into()),
            // Writing to a text can't fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}
