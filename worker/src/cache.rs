//! Caches that machines share: where they are kept, and what is taken from and brought to them. It does not know
//! how a step is done.

mod error;
#[allow(dead_code, reason = "whoever makes places of options comes next")]
mod objects;
mod options;
#[allow(dead_code, reason = "whoever writes and reads caches comes next")]
mod place;

pub use error::CacheError;
#[allow(unused_imports, reason = "whoever makes places of options comes next")]
pub(crate) use objects::ObjectPlace;
pub use options::{
    AzureOptions, CacheExport, CacheImport, CacheKind, CacheMode, GhaOptions, LocalCache, MountsExport,
    S3Options,
};
#[allow(unused_imports, reason = "whoever writes and reads caches comes next")]
pub(crate) use place::{CONFIG_BYTES_MAX, CachePlace, OpenBlob};
