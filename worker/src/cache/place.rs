//! A place where a cache is kept: some blobs, and a config that says what they are. It does not know what is in
//! a config.

use super::CacheError;
use kiln_oci::{Descriptor, Reference};
use std::fmt::Debug;
use std::fs::File;
use std::io;

/// The largest config that is read: 64 MiB.
pub(crate) const CONFIG_BYTES_MAX: u64 = 64 << 20;

/// How many blobs are written at once, where nothing else is said.
const UPLOADS: usize = 4;

/// Gives a blob's bytes from the start, as often as it is asked.
pub(crate) type OpenBlob<'a> = &'a (dyn Fn() -> io::Result<File> + Sync);

/// A place that a cache is read from, or written to. All methods block, may be called by several threads at once,
/// give up soon after the build is cancelled, and try again by themselves what is worth it (429, 5xx, broken
/// connections), a few times only.
pub(crate) trait CachePlace: Debug + Send + Sync {
    /// What it is called in messages, as `registry localhost:5000/app:cache` or `s3 bucket/prefix`.
    fn name(&self) -> String;

    /// How many blobs may be written at once.
    fn uploads(&self) -> usize {
        UPLOADS
    }

    /// The configs of the caches that it has: none if there is no cache (yet), several where it has several names.
    fn configs(&self) -> Result<Vec<Vec<u8>>, CacheError>;

    /// The image at a registry in whose repository its blobs are, if they are at a registry.
    fn image(&self) -> Option<&Reference> {
        None
    }

    /// Reads a blob that a config names. Whether the bytes are right is the caller's business.
    fn read(
        &self,
        blob: &Descriptor,
        on_bytes: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), CacheError>;

    /// Sees to it that the place has a blob; whether bytes were sent for it.
    fn write(&self, blob: &Descriptor, open: OpenBlob<'_>) -> Result<bool, CacheError>;

    /// Writes the config, once all blobs are there that it names: `layers`, in its order. What a reader saw until
    /// now is replaced at once. Gives the descriptor of what was written, where that has one.
    fn publish(&self, config: &[u8], layers: &[Descriptor]) -> Result<Option<Descriptor>, CacheError>;
}
