//! What can be wrong with a shared cache. None of it ends a build, unless the user wants it so.

use crate::WorkerError;
use kiln_oci::{Digest, LayoutError};
use kiln_registry::RegistryError;
use std::io;
use std::path::{Path, PathBuf};
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
    /// Nobody is to be asked for anything.
    #[error("it is not asked: {0}")]
    NotAsked(&'static str),
    /// The time that there was for it is over.
    #[error("it took longer than {0} s")]
    TimedOut(u64),
    /// `image-manifest=true` with `oci-mediatypes=false`.
    #[error(
        "a cache with Docker's media types is no image manifest: leave out oci-mediatypes=false, \
         or add image-manifest=false"
    )]
    Form,
    /// More layers than a registry's manifest can have.
    #[error(
        "a manifest with {layers} layers has {bytes} bytes, more than the {max} that registries take; \
         with mode=min it has fewer"
    )]
    TooManyLayers {
        /// How many there are.
        layers: usize,
        /// How large it would be.
        bytes: u64,
        /// How large it may be.
        max: u64,
    },
}

impl CacheError {
    /// As an error of the worker's, of a cache that is called so.
    pub(crate) fn of(self, place: &str) -> WorkerError {
        match self {
            CacheError::Canceled => WorkerError::Canceled,
            error => WorkerError::Cache { place: place.to_owned(), error: Box::new(error) },
        }
    }

    /// For `map_err`: `action` was tried on `path`.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> CacheError {
        let path = path.as_ref().to_owned();
        move |source| CacheError::Io { action, path, source }
    }
}
