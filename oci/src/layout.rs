//! The content store: blobs by digest, in the form of an OCI image layout.
//!
//! ```text
//! <root>/oci-layout                {"imageLayoutVersion":"1.0.0"}
//! <root>/index.json                no manifests: names live in the metadata store
//! <root>/blobs/sha256/<64 hex>     a blob, read-only
//! <root>/ingest/<random>           a blob that is being written
//! ```
//! A blob is written to `ingest` while it is hashed, then synced and renamed, so that a digest that
//! resolves always has its bytes. A file in `ingest` that nobody holds a lock on is garbage. Its name is
//! random: processes that share a store need not share the numbers of their processes.
//! It does not know what the blobs are.

use crate::{Descriptor, Digest, Hasher};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, Hasher as _, RandomState};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

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

const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const EMPTY_INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

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
        let folder = |name: &str| {
            rustix::fs::open(
                root.join(name),
                OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY,
                Mode::empty(),
            )
            .map_err(io::Error::from)
            .map_err(fail("open a folder"))
        };
        let (blobs, ingest) = (folder("blobs/sha256")?, folder("ingest")?);
        let layout = Layout { root: root.to_owned(), blobs, ingest };
        layout.describe()?;
        Ok(layout)
    }

    /// Writes what says that the folder is an OCI layout, if it is not there.
    fn describe(&self) -> Result<(), LayoutError> {
        for (name, text) in [("oci-layout", OCI_LAYOUT), ("index.json", EMPTY_INDEX)] {
            let path = self.root.join(name);
            if std::fs::metadata(&path).is_ok_and(|m| m.len() > 0) {
                continue;
            }
            let (temporary, mut file) = self.begin()?;
            let written = file.write_all(text.as_bytes());
            written
                .and_then(|()| std::fs::rename(self.root.join("ingest").join(temporary), path))
                .map_err(|e| self.io("write a file", e))?;
        }
        Ok(())
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
        let (name, file) = self.begin()?;
        Ok(BlobWriter { layout: self, name, file, hasher: Hasher::new(), bytes: 0, done: false })
    }

    /// A new, locked file in `ingest`, and its name.
    fn begin(&self) -> Result<(String, File), LayoutError> {
        loop {
            let name = random_name();
            if let Some(file) = self.begin_as(&name)? {
                return Ok((name, file));
            }
        }
    }

    /// A new, locked file of this name; `None` if the name is taken, or a sweep took the file.
    fn begin_as(&self, name: &str) -> Result<Option<File>, LayoutError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.ingest, name, flags, Mode::from_raw_mode(0o600)) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::EXIST) => return Ok(None),
            Err(e) => return Err(self.io("create a blob", e.into())),
        };
        // Held until the file is closed: so a sweep can tell a live blob from a dead one.
        match file.try_lock_shared() {
            Ok(()) => Ok(self.leads_to(name, &file).then_some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(self.io("lock a blob", e)),
        }
    }

    /// Whether a name in `ingest` is that of this file.
    fn leads_to(&self, name: &str, file: &File) -> bool {
        let there = rustix::fs::statat(&self.ingest, name, AtFlags::SYMLINK_NOFOLLOW);
        match (there, rustix::fs::fstat(file)) {
            (Ok(there), Ok(here)) => (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino),
            _ => false,
        }
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
            let name = entry.file_name();
            let dead = file.try_lock().is_ok() && name.to_str().is_some_and(|n| self.leads_to(n, &file));
            if dead {
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
        // Another's bytes must never get this blob's name.
        if !layout.leads_to(&self.name, &self.file) {
            return Err(io("name a blob")(rustix::io::Errno::NOENT));
        }
        rustix::fs::renameat(&layout.ingest, &self.name, &layout.blobs, digest.hex())
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
        if !self.done && self.layout.leads_to(&self.name, &self.file) {
            // Nothing more can be done about a file that can't be removed; the sweep will find it.
            let _ = rustix::fs::unlinkat(&self.layout.ingest, &self.name, AtFlags::empty());
        }
    }
}

/// A name that nobody else has: making its file is what decides.
fn random_name() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
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
    fn a_name_that_is_taken_is_left_to_its_writer() -> Result<(), LayoutError> {
        let (folder, layout) = store();
        let other = Layout::open(folder.path())?;
        let mut live = layout.writer()?;
        assert!(live.write_all(b"mine").is_ok());
        assert!(other.begin_as(&live.name)?.is_none());
        let (digest, _) = live.commit()?;
        assert_eq!(other.read(&digest, 100)?, b"mine");
        Ok(())
    }

    #[test]
    fn bytes_that_took_the_place_of_a_blobs_own_get_no_digest() -> Result<(), LayoutError> {
        let (folder, layout) = store();
        let mut writer = layout.writer()?;
        assert!(writer.write_all(b"mine").is_ok());
        let path = folder.path().join("ingest").join(&writer.name);
        assert!(std::fs::remove_file(&path).and_then(|()| std::fs::write(&path, b"other")).is_ok());
        assert!(writer.commit().is_err());
        assert_eq!(layout.digests()?, []);
        assert_eq!(std::fs::read(&path).ok().as_deref(), Some(&b"other"[..]));
        Ok(())
    }

    #[test]
    fn writers_of_many_processes_never_share_a_file() -> Result<(), LayoutError> {
        let (folder, _) = store();
        std::thread::scope(|scope| {
            for i in 0..8u8 {
                let root = folder.path();
                scope.spawn(move || {
                    let layout = Layout::open(root).unwrap_or_else(|e| panic!("{e}"));
                    for j in 0..20u8 {
                        let digest = layout.put(&[i, j]).unwrap_or_else(|e| panic!("{e}"));
                        assert!(layout.sweep().is_ok());
                        assert_eq!(layout.read(&digest, 10).ok().as_deref(), Some(&[i, j][..]));
                    }
                });
            }
        });
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
