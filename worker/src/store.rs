//! The store on disk: content, snapshots, metadata and locks under one folder.
//!
//! ```text
//! <root>/version            1
//! <root>/content/           blobs, an OCI layout
//! <root>/snapshots/<id>/    layers, unpacked
//! <root>/meta.db            what they are
//! <root>/cache-mounts/<id>/ what `RUN --mount=type=cache` keeps
//! <root>/locks/<name>       flocks: they die with the process that holds them
//! ```
//! It does not know graphs, images or registries.

use crate::WorkerError;
use crate::meta::Meta;
use kiln_oci::Layout;
use kiln_runner::CancelToken;
use kiln_snapshotter::Snapshotter;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const VERSION: &str = "1";
/// How long a wait for a lock pauses at first, and at last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// An open store.
#[derive(Debug)]
pub(crate) struct Store {
    pub root: PathBuf,
    pub content: Layout,
    pub snapshots: Snapshotter,
    pub meta: Meta,
}

/// A lock that is held. Its file is gone when nobody holds it any more.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
    sharing: Sharing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    Alone,
    Shared,
}

impl Store {
    /// Opens the store at `root`, and makes it if it is not there: for its owner's eyes only, whatever
    /// the umask.
    pub fn open(root: &Path) -> Result<Store, WorkerError> {
        private_folder(root)?;
        // Mount options and locks are told apart by path: it must not depend on the current folder.
        let root = &root.canonicalize().map_err(WorkerError::io("open", root))?;
        let own = rustix::process::geteuid().as_raw();
        let stat = std::fs::metadata(root).map_err(WorkerError::io("open", root))?;
        if stat.uid() != own {
            return Err(WorkerError::StoreUnsafe { root: root.clone(), flaw: "belongs to another user" });
        }
        if stat.mode() & 0o022 != 0 {
            return Err(WorkerError::StoreUnsafe { root: root.clone(), flaw: "can be written by others" });
        }
        for folder in ["snapshots", "cache-mounts", "locks"] {
            private_folder(&root.join(folder))?;
        }
        check_version(root)?;
        Ok(Store {
            content: Layout::open(&root.join("content"))?,
            snapshots: Snapshotter::open(&root.join("snapshots"))?,
            meta: Meta::open(&root.join("meta.db"))?,
            root: root.clone(),
        })
    }

    /// Waits for the lock `name` and holds it until it is dropped. A dead holder's lock is free.
    pub fn lock(&self, name: &str, cancel: &CancelToken) -> Result<Lock, WorkerError> {
        waited(cancel, || self.try_lock(name))
    }

    /// Waits until nobody holds the lock `name` alone, and holds it together with others.
    pub fn lock_shared(&self, name: &str, cancel: &CancelToken) -> Result<Lock, WorkerError> {
        waited(cancel, || Lock::take(self.lock_path(name), Sharing::Shared))
    }

    /// The lock `name`, if nobody holds it.
    pub fn try_lock(&self, name: &str) -> Result<Option<Lock>, WorkerError> {
        Lock::take(self.lock_path(name), Sharing::Alone)
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(name)
    }
}

impl Lock {
    fn take(path: PathBuf, sharing: Sharing) -> Result<Option<Lock>, WorkerError> {
        loop {
            let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
            let file = open.map_err(WorkerError::io("open", &path))?;
            let taken = match sharing {
                Sharing::Alone => file.try_lock(),
                Sharing::Shared => file.try_lock_shared(),
            };
            match taken {
                // Its last holder may have removed it between the two calls above.
                Ok(()) if leads_to(&path, &file) => return Ok(Some(Lock { file, path, sharing })),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(WorkerError::io("lock", path)(e)),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A shared lock is given up before it is taken alone: somebody else may have removed the file.
        let alone = match self.sharing {
            Sharing::Alone => true,
            Sharing::Shared => self.file.try_lock().is_ok() && leads_to(&self.path, &self.file),
        };
        if alone {
            // A file that stays is as good a lock as a new one.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether a path is that of an open file.
pub(crate) fn leads_to(path: &Path, file: &File) -> bool {
    let identity = |m: std::fs::Metadata| (m.dev(), m.ino());
    match (std::fs::symlink_metadata(path), file.metadata()) {
        (Ok(there), Ok(here)) => identity(there) == identity(here),
        _ => false,
    }
}

/// Tries until there is a lock, or the build is cancelled.
fn waited(
    cancel: &CancelToken,
    mut try_once: impl FnMut() -> Result<Option<Lock>, WorkerError>,
) -> Result<Lock, WorkerError> {
    let (mut pause, longest) = PAUSES;
    loop {
        if let Some(lock) = try_once()? {
            return Ok(lock);
        }
        if cancel.is_cancelled() {
            return Err(WorkerError::Canceled);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(longest);
    }
}

/// The seconds since 1970.
pub(crate) fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

pub(crate) fn private_folder(path: &Path) -> Result<(), WorkerError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(WorkerError::io("create", path))
}

fn check_version(root: &Path) -> Result<(), WorkerError> {
    let path = root.join("version");
    match std::fs::read_to_string(&path) {
        Ok(found) if found.trim() == VERSION => Ok(()),
        Ok(found) => {
            let found = found.trim().chars().take(20).collect();
            Err(WorkerError::StoreVersion { root: root.to_owned(), found, known: VERSION })
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::write(&path, format!("{VERSION}\n")).map_err(WorkerError::io("write", path))
        }
        Err(e) => Err(WorkerError::io("read", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_store_of_another_version_or_open_to_others_is_refused() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let root = folder.path().join("store");
        assert!(Store::open(&root).is_ok());
        assert!(std::fs::write(root.join("version"), "99").is_ok());
        assert!(matches!(Store::open(&root), Err(WorkerError::StoreVersion { .. })));
        assert!(std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o777)).is_ok());
        assert!(matches!(Store::open(&root), Err(WorkerError::StoreUnsafe { .. })));
    }
}
