//! What can be said of a shared cache: `--cache-to` and `--cache-from` with BuildKit's words and defaults. It does not
//! know how they are written.

use crate::LayerForm;
use kiln_oci::{Digest, Reference};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where a cache is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheKind {
    /// As an image at a registry.
    Registry {
        /// The name of the image.
        reference: Reference,
        /// Whether it may be spoken to without TLS.
        insecure: bool,
    },
    /// In a folder of the user's, as an OCI layout.
    Local(LocalCache),
    /// In the config of the image that is built; it is read from an image at a registry.
    Inline,
    /// At the cache service of GitHub Actions.
    Gha(GhaOptions),
    /// In a bucket of S3's kind.
    S3(S3Options),
    /// In a container of Azure's blob storage.
    Azure(AzureOptions),
}

/// As it is called in messages; without secrets.
impl fmt::Display for CacheKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CacheKind::Registry { reference, .. } => write!(f, "registry {}", reference.familiar()),
            CacheKind::Local(local) => write!(f, "local {}", local.folder.display()),
            CacheKind::Inline => f.write_str("inline"),
            CacheKind::Gha(gha) => write!(f, "gha {}", gha.scope.as_deref().unwrap_or("buildkit")),
            CacheKind::S3(s3) => write!(f, "s3 {}/{}", s3.bucket, s3.prefix),
            CacheKind::Azure(azure) => write!(f, "azblob {}/{}", azure.account_url, azure.prefix),
        }
    }
}

/// A cache in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCache {
    /// The folder: `src` or `dest`.
    pub folder: PathBuf,
    /// The name in the folder's index; `latest` if nothing is said.
    pub tag: String,
    /// Which manifest to read, instead of the tag's.
    pub digest: Option<Digest>,
    /// Whether all blobs that no tag needs are removed once the new cache is there, however new they are.
    pub reset: bool,
}

/// A cache at GitHub Actions. What is not given comes from the environment that Actions sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GhaOptions {
    /// The scope; `buildkit` if nothing is said.
    pub scope: Option<String>,
    /// The address of the service's first version, instead of `$ACTIONS_CACHE_URL`.
    pub url: Option<String>,
    /// The address of its second version, instead of `$ACTIONS_RESULTS_URL`.
    pub url_v2: Option<String>,
    /// The token, instead of `$ACTIONS_RUNTIME_TOKEN`.
    pub token: Option<String>,
    /// A token for GitHub's own interface, by which it is asked what is there without a rate limit.
    pub ghtoken: Option<String>,
    /// The repository, for that.
    pub repository: Option<String>,
    /// Which version of the service to speak to; by the environment if nothing is said.
    pub version: Option<u8>,
    /// How long an export may take; ten minutes if nothing is said.
    pub timeout: Option<Duration>,
}

/// A cache in a bucket of S3's kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Options {
    /// The bucket.
    pub bucket: String,
    /// The region.
    pub region: String,
    /// What all names begin with.
    pub prefix: String,
    /// What names of manifests begin with, after that; `manifests/` if nothing is said.
    pub manifests_prefix: Option<String>,
    /// What names of blobs begin with; `blobs/` if nothing is said.
    pub blobs_prefix: Option<String>,
    /// The names of the cache; `buildkit` if there is none.
    pub names: Vec<String>,
    /// How old a blob may be before it is written again so that it is not removed as old; a day if nothing is said.
    pub touch_refresh: Option<Duration>,
    /// The server's address, unless it is Amazon's.
    pub endpoint_url: Option<String>,
    /// The key's id, instead of `$AWS_ACCESS_KEY_ID`.
    pub access_key_id: Option<String>,
    /// The key, instead of `$AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: Option<String>,
    /// The token of a session, instead of `$AWS_SESSION_TOKEN`.
    pub session_token: Option<String>,
    /// Whether the bucket is in the path, not in the host's name.
    pub use_path_style: bool,
    /// How many blobs are written at once; four if nothing is said.
    pub upload_parallelism: Option<usize>,
    /// How often a request is tried, in all; five times if nothing is said.
    pub retry_max_attempts: Option<u32>,
}

/// A cache in a container of Azure's blob storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AzureOptions {
    /// The account's address, as `https://NAME.blob.core.windows.net`.
    pub account_url: String,
    /// The account's name, unless the address has it.
    pub account_name: Option<String>,
    /// The account's key.
    pub secret_access_key: Option<String>,
    /// The container; `buildkit-cache` if nothing is said.
    pub container: Option<String>,
    /// What all names begin with.
    pub prefix: String,
    /// What names of manifests begin with, after that; `manifests/` if nothing is said.
    pub manifests_prefix: Option<String>,
    /// What names of blobs begin with; `blobs/` if nothing is said.
    pub blobs_prefix: Option<String>,
    /// The names of the cache; `buildkit` if there is none.
    pub names: Vec<String>,
}

/// A cache to read: one `--cache-from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheImport {
    /// Where it is kept.
    pub kind: CacheKind,
}

/// A cache to write: one `--cache-to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheExport {
    /// Where it is kept.
    pub kind: CacheKind,
    /// What goes into it.
    pub mode: CacheMode,
    /// How layers are compressed.
    pub form: LayerForm,
    /// Whether documents have OCI's media types, not Docker's.
    pub oci_mediatypes: bool,
    /// Whether it is an image manifest, not an index.
    pub image_manifest: bool,
    /// Whether a failure is not even an error under `--cache-strict`.
    pub ignore_error: bool,
    /// Which cache mounts go with it.
    pub mounts: MountsExport,
}

/// What goes into a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// The layers of the result only.
    #[default]
    Min,
    /// Those of every step.
    Max,
}

/// Which cache mounts a cache has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MountsExport {
    /// None.
    #[default]
    None,
    /// Those with these ids.
    Named(Vec<String>),
    /// All that the build used.
    All,
}
