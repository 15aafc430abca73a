//! Caches that machines share: where they are kept, and what is taken from and brought to them. It does not know
//! how a step is done.

#[cfg_attr(not(test), allow(dead_code, reason = "the build comes next"))]
mod documents;
mod error;
#[cfg_attr(not(test), allow(dead_code, reason = "the build comes next"))]
mod gha;
#[cfg_attr(not(test), allow(dead_code, reason = "the build comes next"))]
mod local;
#[cfg_attr(not(test), allow(dead_code, reason = "the build comes next"))]
mod memory_file;
mod options;
#[cfg_attr(not(test), allow(dead_code, reason = "the build comes next"))]
mod place;
#[cfg_attr(not(test), allow(dead_code, reason = "the build comes next"))]
mod registry;
#[cfg(test)]
mod test_server;
#[cfg_attr(not(test), allow(dead_code, reason = "the build comes next"))]
mod waiting;

pub use error::CacheError;
pub use options::{
    AzureOptions, CacheExport, CacheImport, CacheKind, CacheMode, GhaOptions, LocalCache, MountsExport,
    S3Options,
};
#[expect(unused_imports, reason = "the places come next")]
pub(crate) use place::{CONFIG_BYTES_MAX, CachePlace, OpenBlob};
