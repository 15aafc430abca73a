//! The content store: blobs by digest, in the form of an OCI image layout.
//!
//! ```text
//! <root>/oci-layout                {"imageLayoutVersion":"1.0.0"}
//! <root>/index.json                no manifests: names live in the metadata store
//! <root>/blobs/sha256/<64 hex>     a blob, read-only
//! <root>/ingest/<random>           a blob that is being written
//! ```
//! A blob is written to `ingest` while it is hashed, then synced and renamed, so that a digest that
//! resolves always has its bytes. A file in `ingest` that nobody holds a lock on is garbage.
//! It does not know what the blobs are.

use crate::{Descriptor, Digest, Hasher};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A content store.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
    blobs: OwnedFd,
    ingest: OwnedFd,
}

/// What can go wrong with the content store.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The file system refused.
    #[error("{action} in the content store {root}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The store.
        root: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no such blob.
    #[error("blob {0} is not in the store")]
    Missing(Digest),
    /// The bytes are not what their descriptor says.
    #[error(
        "blob {expected} has the wrong content: got {got} with {got_bytes} bytes, expected {expected_bytes} bytes"
    )]
    Mismatch {
        /// The digest it should have.
        expected: Digest,
        /// The size it should have.
        expected_bytes: u64,
        /// The digest it has.
        got: Digest,
        /// The size it has.
        got_bytes: u64,
    },
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Layout {
    /// Opens the store at `root`, and makes it if it is not there.
    pub fn open(root: &Path) -> Result<Layout, LayoutError> {
        let fail = |action| {
            let root = root.to_owned();
            move |source: io::Error| LayoutError::Io { action, root, source }
        };
        for folder in ["blobs/sha256", "ingest"] {
            std::fs::create_dir_all(root.join(folder)).map_err(fail("create a folder"))?;
        }
        for (name, text) in [
            ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
            (
                "index.json",
                r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
            ),
        ] {
            let path = root.join(name);
            if !path.exists() {
                std::fs::write(path, text).map_err(fail("write a file"))?;
            }
        }
        let folder = |name: &str| {
            rustix::fs::open(
                root.join(name),
                OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY,
                Mode::empty(),
            )
            .map_err(io::Error::from)
            .map_err(fail("open a folder"))
        };
        Ok(Layout { root: root.to_owned(), blobs: folder("blobs/sha256")?, ingest: folder("ingest")? })
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The size of a blob in bytes, or `None` if it is not here.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        let stat = rustix::fs::statat(&self.blobs, digest.hex(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        u64::try_from(stat.st_size).ok()
    }

    /// Whether the blob is here with the descriptor's size.
    pub fn has(&self, descriptor: &Descriptor) -> bool {
        self.size(&descriptor.digest) == Some(descriptor.size)
    }

    /// Opens a blob for reading.
    pub fn blob(&self, digest: &Digest) -> Result<File, LayoutError> {
        match rustix::fs::openat(
            &self.blobs,
            digest.hex(),
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        ) {
            Ok(fd) => Ok(File::from(fd)),
            Err(rustix::io::Errno::NOENT) => Err(LayoutError::Missing(*digest)),
            Err(e) => Err(self.io("open a blob", e.into())),
        }
    }

    /// Reads a small blob whole, and checks its digest. `max_bytes` bounds what is read.
    pub fn read(&self, digest: &Digest, max_bytes: u64) -> Result<Vec<u8>, LayoutError> {
        let mut bytes = Vec::new();
        self.blob(digest)?
            .take(max_bytes + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| self.io("read a blob", e))?;
        let got = Digest::of(&bytes);
        if got != *digest {
            let got_bytes = bytes.len() as u64;
            return Err(LayoutError::Mismatch {
                expected: *digest,
                expected_bytes: got_bytes,
                got,
                got_bytes,
            });
        }
        Ok(bytes)
    }

    /// Starts a new blob.
    pub fn writer(&self) -> Result<BlobWriter<'_>, LayoutError> {
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&self.ingest, &name, flags, Mode::from_raw_mode(0o600));
        let fd = open().or_else(|e| {
            if e != rustix::io::Errno::EXIST {
                return Err(e);
            }
            // A dead process of the same id left it behind.
            rustix::fs::unlinkat(&self.ingest, &name, AtFlags::empty())?;
            open()
        });
        let file = File::from(fd.map_err(|e| self.io("create a blob", e.into()))?);
        // Held until the file is closed: so a sweep can tell a live blob from a dead one.
        file.lock_shared().map_err(|e| self.io("lock a blob", e))?;
        Ok(BlobWriter { layout: self, name, file, hasher: Hasher::new(), bytes: 0, done: false })
    }

    /// Stores `bytes` and gives their digest.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, LayoutError> {
        let digest = Digest::of(bytes);
        if self.size(&digest) == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        let mut writer = self.writer()?;
        writer.write_all(bytes).map_err(|e| self.io("write a blob", e))?;
        Ok(writer.commit()?.0)
    }

    /// Removes a blob; that it is not here is no error.
    pub fn remove(&self, digest: &Digest) -> Result<(), LayoutError> {
        match rustix::fs::unlinkat(&self.blobs, digest.hex(), AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(e) => Err(self.io("remove a blob", e.into())),
        }
    }

    /// The digests of all blobs here.
    pub fn digests(&self) -> Result<Vec<Digest>, LayoutError> {
        let entries = rustix::fs::Dir::read_from(&self.blobs).map_err(|e| self.io("list blobs", e.into()))?;
        let names = entries.flatten().filter_map(|e| e.file_name().to_str().ok().map(str::to_owned));
        Ok(names.filter_map(|n| Digest::from_hex(&n).ok()).collect())
    }

    /// Removes what dead writers left in `ingest`; gives the number of bytes freed.
    pub fn sweep(&self) -> Result<u64, LayoutError> {
        let mut freed = 0;
        let folder = self.root.join("ingest");
        for entry in std::fs::read_dir(&folder).map_err(|e| self.io("list unfinished blobs", e))?.flatten() {
            let Ok(file) = File::open(entry.path()) else { continue };
            if file.try_lock().is_ok() {
                freed += file.metadata().map_or(0, |m| m.len());
                std::fs::remove_file(entry.path()).map_err(|e| self.io("remove an unfinished blob", e))?;
            }
        }
        Ok(freed)
    }

    fn io(&self, action: &'static str, source: io::Error) -> LayoutError {
        LayoutError::Io { action, root: self.root.clone(), source }
    }
}

/// A blob that is being written. Dropped without a commit, it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    layout: &'a Layout,
    name: String,
    file: File,
    hasher: Hasher,
    bytes: u64,
    done: bool,
}

impl BlobWriter<'_> {
    /// How many bytes were written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the blob: synced, named by its digest. Afterwards the content is stored, perhaps by
    /// another process that was faster. Gives digest and size.
    pub fn commit(mut self) -> Result<(Digest, u64), LayoutError> {
        let digest = std::mem::take(&mut self.hasher).finish();
        self.place(digest)?;
        Ok((digest, self.bytes))
    }

    /// Ends the blob if it is what `descriptor` says; otherwise drops it.
    pub fn commit_verified_as(mut self, descriptor: &Descriptor) -> Result<(), LayoutError> {
        let got = std::mem::take(&mut self.hasher).finish();
        if got != descriptor.digest || self.bytes != descriptor.size {
            return Err(LayoutError::Mismatch {
                expected: descriptor.digest,
                expected_bytes: descriptor.size,
                got,
                got_bytes: self.bytes,
            });
        }
        self.place(got)
    }

    fn place(&mut self, digest: Digest) -> Result<(), LayoutError> {
        let layout = self.layout;
        let io = |action| move |e: rustix::io::Errno| layout.io(action, e.into());
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(0o444)).map_err(io("protect a blob"))?;
        self.file.sync_data().map_err(|e| self.layout.io("sync a blob", e))?;
        let hex = digest.hex();
        let (from, to) = (&self.layout.ingest, &self.layout.blobs);
        rustix::fs::renameat_with(from, &self.name, to, &hex, RenameFlags::empty())
            .map_err(io("name a blob"))?;
        self.done = true;
        rustix::fs::fsync(&self.layout.blobs).map_err(io("sync the blobs' folder"))
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        if !self.done {
            // Nothing more can be done about a file that can't be removed; the sweep will find it.
            let _ = rustix::fs::unlinkat(&self.layout.ingest, &self.name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MediaType;

    fn store() -> (tempfile::TempDir, Layout) {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let layout = Layout::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
        (folder, layout)
    }

    #[test]
    fn a_blob_with_wrong_bytes_is_not_stored() -> Result<(), LayoutError> {
        let (folder, layout) = store();
        let mut writer = layout.writer()?;
        assert!(writer.write_all(b"wrong").is_ok());
        let descriptor = Descriptor::of(MediaType::OciLayer, b"right");
        assert!(matches!(writer.commit_verified_as(&descriptor), Err(LayoutError::Mismatch { .. })));
        assert!(matches!(layout.blob(&descriptor.digest), Err(LayoutError::Missing(_))));
        assert_eq!(std::fs::read_dir(folder.path().join("ingest")).map(Iterator::count).ok(), Some(0));
        Ok(())
    }

    #[test]
    fn a_blob_is_found_by_its_digest_and_stored_once() -> Result<(), LayoutError> {
        let (_folder, layout) = store();
        let digest = layout.put(b"content")?;
        assert_eq!(layout.put(b"content")?, digest);
        assert_eq!(layout.read(&digest, 100)?, b"content");
        assert_eq!(layout.digests()?, [digest]);
        Ok(())
    }

    #[test]
    fn the_sweep_removes_only_what_dead_writers_left() -> Result<(), LayoutError> {
        let (folder, layout) = store();
        let live = layout.writer()?;
        assert!(std::fs::write(folder.path().join("ingest/1-99"), b"dead").is_ok());
        assert_eq!(layout.sweep()?, 4);
        assert!(live.commit().is_ok());
        Ok(())
    }
}
