//! Caches that machines share: where they are kept, and what is taken from and brought to them. It does not know
//! how a step is done.

mod error;
mod options;
mod place;

pub use error::CacheError;
pub use options::{
    AzureOptions, CacheExport, CacheImport, CacheKind, CacheMode, GhaOptions, LocalCache, MountsExport,
    S3Options,
};
#[expect(unused_imports, reason = "the places come next")]
pub(crate) use place::{CONFIG_BYTES_MAX, CachePlace, OpenBlob};
