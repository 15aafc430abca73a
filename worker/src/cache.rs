//! Caches that machines share: where they are kept, and what is taken from and brought to them. It does not know
//! how a step is done.

mod config;
mod documents;
mod error;
mod export;
mod gha;
mod import;
mod local;
mod memory_file;
mod network;
mod objects;
mod open;
mod options;
mod place;
mod registry;
#[cfg(test)]
mod test_server;
mod waiting;

pub(crate) use config::{About, SharedLayer, SharedMount};
pub use error::CacheError;
pub(crate) use export::{Exports, Learnt, inline, on_the_way};
pub(crate) use import::{Imports, ReadCache, SharedHit};
pub(crate) use network::Network;
pub(crate) use open::open;
pub use options::{
    AzureOptions, CacheExport, CacheImport, CacheKind, CacheMode, GhaOptions, LocalCache, MountsExport,
    S3Options,
};
pub(crate) use place::CachePlace;
