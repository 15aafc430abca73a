//! The blobs of a store, each leased by whoever asks for it, so that it stays until he ends. It does not know
//! what blobs hold.

use crate::WorkerError;
use crate::lease::{Leased, Leases};
use kiln_oci::{BlobWriter, Descriptor, Digest, Layout, LayoutError};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// The blobs.
#[derive(Debug)]
pub(crate) struct Content {
    layout: Layout,
    leases: Arc<Leases>,
}

/// A blob that is being written.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    inner: BlobWriter<'a>,
    leases: &'a Leases,
}

impl Content {
    pub fn open(root: &Path, leases: &Arc<Leases>) -> Result<Content, WorkerError> {
        Ok(Content { layout: Layout::open(root)?, leases: leases.clone() })
    }

    /// The blobs as they are, leased by nobody: for who looks at all of them.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether the blob is here with the descriptor's size. If so it stays.
    pub fn has(&self, descriptor: &Descriptor) -> bool {
        // Without a lease it may be gone at once: then it is as good as not here.
        self.layout.has(descriptor) && self.lease(&descriptor.digest).is_ok() && self.layout.has(descriptor)
    }

    /// Opens a blob for reading.
    pub fn blob(&self, digest: &Digest) -> Result<File, LayoutError> {
        self.layout.blob(digest)
    }

    /// Reads a small blob whole, and checks its digest.
    pub fn read(&self, digest: &Digest, max_bytes: u64) -> Result<Vec<u8>, LayoutError> {
        if self.layout.size(digest).is_none() {
            return Err(LayoutError::Missing(*digest));
        }
        // It is wanted as it is now; without a lease it is missed later at worst.
        let _ = self.lease(digest);
        self.layout.read(digest, max_bytes)
    }

    /// Starts a new blob.
    pub fn writer(&self) -> Result<Writer<'_>, LayoutError> {
        Ok(Writer { inner: self.layout.writer()?, leases: &self.leases })
    }

    /// Stores a small blob.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, LayoutError> {
        self.lease(&Digest::of(bytes))?;
        self.layout.put(bytes)
    }

    /// Removes what dead writers left.
    pub fn sweep(&self) -> Result<u64, LayoutError> {
        self.layout.sweep()
    }

    fn lease(&self, digest: &Digest) -> Result<(), LayoutError> {
        self.leases.take(Leased::Blob(*digest), || Ok(())).map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &WorkerError) -> LayoutError {
        let source = io::Error::other(error.to_string());
        LayoutError::Io { action: "lease a blob", root: self.layout.root().to_owned(), source }
    }
}

impl Writer<'_> {
    /// How many bytes were written.
    pub fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    /// Ends the blob, and leases it. Gives digest and size.
    pub fn commit(self) -> Result<(Digest, u64), WorkerError> {
        let Writer { inner, leases } = self;
        leases.make(|| Ok(inner.commit()?), |(digest, _)| Leased::Blob(*digest))
    }

    /// Ends the blob if it is what `descriptor` says, and leases it; otherwise drops it.
    pub fn commit_verified_as(self, descriptor: &Descriptor) -> Result<(), LayoutError> {
        let Writer { inner, leases } = self;
        // What can't be leased may be gone again: then it is missed, and nothing worse.
        let _ = leases.take(Leased::Blob(descriptor.digest), || Ok(()));
        inner.commit_verified_as(descriptor)
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
