//! What can be wrong with a shared cache. None of it ends a build, unless the user wants it so.

use kiln_oci::{Digest, LayoutError};
use kiln_registry::RegistryError;
use std::path::PathBuf;
use thiserror::Error;

/// Why a cache could not be asked, or not be written.
#[derive(Debug, Error)]
pub enum CacheError {
    /// A registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A folder's layout is not as it should be.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A file can't be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The server answered with something that is no success.
    #[error("{request} was answered with {status}{}", if body.is_empty() { String::new() } else { format!(": {body}") })]
    Status {
        /// What was asked, as `GET https://host/path`; without secrets.
        request: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of what came with it.
        body: String,
    },
    /// The server could not be reached, or broke off.
    #[error("{request}: {reason}")]
    Unreachable {
        /// What was asked; without secrets.
        request: String,
        /// Why it failed.
        reason: String,
    },
    /// What came is not what it should be.
    #[error("{what}: {reason}")]
    Malformed {
        /// What was read.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The place does not have a blob that its cache names.
    #[error("the blob {0} is not there")]
    NoBlob(Digest),
    /// A setting is missing that neither the option nor the environment gives.
    #[error("{what} is not given: {help}")]
    Missing {
        /// Which.
        what: &'static str,
        /// How it is given.
        help: &'static str,
    },
    /// The build was cancelled.
    #[error("canceled")]
    Canceled,
    /// The time that there was for it is over.
    #[error("it took longer than {0} s")]
    TimedOut(u64),
}
