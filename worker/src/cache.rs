//! Caches that machines share: where they are kept, and what is taken from and brought to them. It does not know
//! how a step is done.

mod config;
mod error;
mod import;
mod options;
mod place;

pub(crate) use config::SharedLayer;
pub use error::CacheError;
pub(crate) use import::{Imports, SharedHit};
pub use options::{
    AzureOptions, CacheExport, CacheImport, CacheKind, CacheMode, GhaOptions, LocalCache, MountsExport,
    S3Options,
};
pub(crate) use place::CachePlace;
