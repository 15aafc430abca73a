//! The store on disk: content, snapshots, metadata and locks under one folder.
//!
//! ```text
//! <root>/version            2, written when all the rest was made
//! <root>/content/           blobs, an OCI layout
//! <root>/snapshots/<id>/    layers, unpacked
//! <root>/meta.db            what they are
//! <root>/cache-mounts/<id>/ what `RUN --mount=type=cache` keeps
//! <root>/locks/<name>       flocks: they die with the process that holds them
//! <root>/locks/alive-<n>    the lock of one who makes snapshots; if nobody holds it, he died
//! <root>/builds/<id>/       what is told of the newest builds
//! <root>/leases/            what live processes count on
//! <root>/tmp/<name>/        what one command needs for its time; locked as long as it lives
//! ```
//! Who gives up a lock removes its file while he holds it alone; who gets one looks whether the path still
//! leads to it.
//! It does not know graphs, images or registries.

use crate::WorkerError;
use crate::lease::Leases;
use crate::meta::Meta;
use blocks::KnownBlocks;
use kiln_runner::CancelToken;
use kiln_snapshotter::compress::Blocks;
use kiln_snapshotter::{SnapshotError, Snapshotter, Tree};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

mod blocks;
mod content;

pub(crate) use content::Content;

/// The version of the whole. One of version 1 is brought to it when it is opened.
const VERSION: &str = "2";
/// How long a wait for a lock pauses at first, and at last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// A wait for so long is worth a word.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// What the locks of [`Store::mark_alive`] are called.
const ALIVE: &str = "alive-";
/// A finished snapshot that is not noted for so long never will be.
const NOTED_WITHIN: Duration = Duration::from_hours(1);

/// An open store.
#[derive(Debug)]
pub(crate) struct Store {
    pub root: PathBuf,
    pub content: Arc<Content>,
    pub snapshots: Snapshotter,
    pub meta: Arc<Meta>,
    pub leases: Arc<Leases>,
    /// How often room was made on a full disk.
    pub rounds: Mutex<u64>,
}

/// A lock that is held. Its file is gone when nobody holds it any more.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
    sharing: Sharing,
}

/// Who makes snapshots, or did so until he died.
#[derive(Debug, Default)]
struct Marks {
    live: usize,
    dead: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
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
        if is_set_up(root)? {
            return Store::open_parts(root);
        }
        // The version is written last, so that a store that has one is whole.
        private_folder(&root.join("locks"))?;
        let open = root.join("locks/open");
        let _setting_up = waited(&CancelToken::new(), || Lock::take(open.clone(), Sharing::Alone))?;
        let is_whole = is_set_up(root)?;
        let store = Store::open_parts(root)?;
        if !is_whole {
            let (new, path) = (root.join("version.new"), root.join("version"));
            std::fs::write(&new, format!("{VERSION}\n")).map_err(WorkerError::io("write", &new))?;
            std::fs::rename(&new, &path).map_err(WorkerError::io("write", path))?;
        }
        Ok(store)
    }

    fn open_parts(root: &Path) -> Result<Store, WorkerError> {
        for folder in ["snapshots", "cache-mounts", "locks", "tmp"] {
            private_folder(&root.join(folder))?;
        }
        let leases = Arc::new(Leases::open(root)?);
        Ok(Store {
            content: Arc::new(Content::open(&root.join("content"), &leases)?),
            snapshots: Snapshotter::open(&root.join("snapshots"))?,
            meta: Arc::new(Meta::open_leasing(&root.join("meta.db"), &leases)?),
            leases,
            rounds: Mutex::default(),
            root: root.to_owned(),
        })
    }

    /// The blocks of compressed layers that are here.
    pub fn blocks(&self) -> Arc<dyn Blocks> {
        Arc::new(KnownBlocks { content: self.content.clone(), meta: self.meta.clone() })
    }

    /// To be held by all that makes snapshots. What a dead holder leaves of it tells that there is
    /// something to sweep.
    pub fn mark_alive(&self) -> Result<Lock, WorkerError> {
        loop {
            let random = RandomState::new().build_hasher().finish();
            if let Some(lock) = self.try_lock(&format!("{ALIVE}{random:016x}"))? {
                return Ok(lock);
            }
        }
    }

    /// A folder that is gone when it is dropped, and the lock that keeps it from being swept until then.
    pub fn temporary_folder(&self) -> Result<(TempDir, File), WorkerError> {
        let parent = self.root.join("tmp");
        loop {
            let folder =
                tempfile::tempdir_in(&parent).map_err(WorkerError::io("create a folder in", &parent))?;
            // A sweep may have taken it before it was locked.
            if let Ok(file) = File::open(folder.path())
                && file.try_lock().is_ok()
                && leads_to(folder.path(), &file)
            {
                return Ok((folder, file));
            }
        }
    }

    /// Removes what dead processes left behind. Looks at snapshots only if one died, since there may be many.
    pub fn sweep(&self) -> Result<(), WorkerError> {
        let Some(_alone) = self.try_lock("sweep")? else { return Ok(()) };
        self.content.sweep()?;
        self.sweep_temporary()?;
        let dead = self.marks()?.dead;
        if dead.is_empty() {
            return Ok(());
        }
        self.snapshots.sweep()?;
        crate::cache_mount::sweep(self)?;
        self.sweep_locks()?;
        // Whoever decides removes what the dead counted on.
        drop(self.leases.decide()?);
        self.meta.forget_dead_records()?;
        if self.sweep_unnoted()? {
            for mark in dead {
                std::fs::remove_file(&mark).map_err(WorkerError::io("remove", mark))?;
            }
        }
        Ok(())
    }

    fn sweep_temporary(&self) -> Result<(), WorkerError> {
        let parent = self.root.join("tmp");
        let tree = Tree::open(&parent)?;
        for entry in std::fs::read_dir(&parent).map_err(WorkerError::io("list", &parent))?.flatten() {
            let Ok(file) = File::open(entry.path()) else { continue };
            if file.try_lock().is_ok() && leads_to(&entry.path(), &file) {
                match tree.remove(entry.file_name().as_bytes(), true) {
                    Ok(()) | Err(SnapshotError::NotFound(_)) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(())
    }

    /// Removes the files of locks whose holders died; but not what tells that somebody died.
    fn sweep_locks(&self) -> Result<(), WorkerError> {
        let folder = self.root.join("locks");
        for entry in std::fs::read_dir(&folder).map_err(WorkerError::io("list", &folder))?.flatten() {
            let is_mark = entry.file_name().as_bytes().starts_with(ALIVE.as_bytes());
            let Ok(file) = File::open(entry.path()) else { continue };
            if !is_mark && file.try_lock().is_ok() {
                drop(Lock { file, path: entry.path(), sharing: Sharing::Shared });
            }
        }
        Ok(())
    }

    /// Removes snapshots whose maker died before it noted them; whether none is left that may be one.
    fn sweep_unnoted(&self) -> Result<bool, WorkerError> {
        // In this order: who makes a snapshot of the list is seen alive, or has noted it.
        let finished = self.snapshots.ids();
        let others = self.marks()?.live;
        let noted = self.meta.snapshots()?;
        let mut is_clean = true;
        for id in finished.iter().filter(|id| !noted.contains(id)) {
            let made = std::fs::metadata(self.root.join("snapshots").join(id.to_string()));
            let age = made.and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            if others == 0 || age.is_some_and(|age| age > NOTED_WITHIN) {
                self.snapshots.remove(id)?;
            } else {
                is_clean = false;
            }
        }
        Ok(is_clean)
    }

    /// Whether other processes make snapshots now.
    pub fn others_live(&self) -> Result<bool, WorkerError> {
        Ok(self.marks()?.live > 0)
    }

    fn marks(&self) -> Result<Marks, WorkerError> {
        let folder = self.root.join("locks");
        let mut marks = Marks::default();
        for entry in std::fs::read_dir(&folder).map_err(WorkerError::io("list", &folder))?.flatten() {
            if !entry.file_name().as_bytes().starts_with(ALIVE.as_bytes()) {
                continue;
            }
            match File::open(entry.path()).map(|file| file.try_lock()) {
                Ok(Ok(())) => marks.dead.push(entry.path()),
                Ok(Err(_)) => marks.live += 1,
                // Its holder has ended since.
                Err(_) => {}
            }
        }
        Ok(marks)
    }

    /// Waits for the lock `name` and holds it until it is dropped. A dead holder's lock is free.
    pub fn lock(&self, name: &str, cancel: &CancelToken) -> Result<Lock, WorkerError> {
        waited(cancel, || self.try_lock(name))
    }

    /// The same as [`Store::lock`], alone or together with others, for who tells the user of long waits: after a
    /// second `tell` is called, once, with the id of the process that holds it alone, as far as it is known.
    pub fn lock_telling(
        &self,
        name: &str,
        sharing: Sharing,
        cancel: &CancelToken,
        tell: &dyn Fn(Option<u32>),
    ) -> Result<Lock, WorkerError> {
        let path = self.lock_path(name);
        let (started, mut told) = (Instant::now(), false);
        let lock = waited(cancel, || {
            let lock = Lock::take(path.clone(), sharing)?;
            if lock.is_none() && !told && started.elapsed() >= TOLD_AFTER {
                told = true;
                tell(holder(&path));
            }
            Ok(lock)
        })?;
        lock.sign();
        Ok(lock)
    }

    /// The lock `name`, if nobody holds it.
    pub fn try_lock(&self, name: &str) -> Result<Option<Lock>, WorkerError> {
        Lock::take(self.lock_path(name), Sharing::Alone)
    }

    /// The process that holds the lock `name` alone, if it told.
    pub fn holder(&self, name: &str) -> Option<u32> {
        holder(&self.lock_path(name))
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

impl Lock {
    /// Writes into the file who holds it. It is only a hint: what can't be written is not known.
    pub fn sign(&self) {
        let holder = match self.sharing {
            Sharing::Alone => std::process::id().to_string(),
            Sharing::Shared => String::new(),
        };
        if self.file.set_len(0).is_ok() {
            let _ = self.file.write_all_at(holder.as_bytes(), 0);
        }
    }
}

/// Who holds a lock alone, as he wrote it.
fn holder(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.parse().ok()
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

/// Whether a store is there and whole. An empty version is that of a store whose making was cut short.
fn is_set_up(root: &Path) -> Result<bool, WorkerError> {
    let path = root.join("version");
    let found = match std::fs::read_to_string(&path) {
        Ok(found) => found,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(WorkerError::io("read", path)(e)),
    };
    match found.trim() {
        "" => Ok(false),
        "1" => Ok(false),
        VERSION => Ok(std::fs::metadata(root.join("meta.db")).is_ok_and(|m| m.len() > 0)),
        other => {
            let found = other.chars().take(20).collect();
            Err(WorkerError::StoreVersion { root: root.to_owned(), found, known: VERSION })
        }
    }
}

#[cfg(test)]
mod tests;
