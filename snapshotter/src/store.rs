//! The folder of all snapshots: making, finding, removing and sweeping them, and their indexes.
//! It does not know what is in a layer, nor who still needs a snapshot.
//!
//! ```text
//! <root>/empty/{a,b}/     what is mounted where there are too few layers for an overlay
//! <root>/<id>/fs          one layer in overlayfs's upper form: whiteouts are character devices
//!                         0:0, opaque directories are marked by trusted.overlay.opaque=y
//! <root>/<id>/work        overlayfs's own folder, only while the snapshot is being made
//! <root>/<id>/index       what is in fs; a snapshot is finished from the moment that it is there
//! ```
//! A folder without an index is unfinished: it belongs to the process that holds a lock on it, and
//! if none does, to nobody, so that [`Snapshotter::sweep`] removes it.

use crate::error::{SnapshotError, cannot};
use crate::id::SnapshotId;
use crate::index::{LayerIndex, LayerTar};
use crate::{index_file, node};
use kiln_oci::{DiffId, Digest};
use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// How many bytes of indexes are kept in memory.
const CACHED_INDEX_BYTES: usize = 128 << 20;

/// All snapshots beneath one folder. Any number of processes may have it open.
#[derive(Debug)]
pub struct Snapshotter {
    pub(crate) dir: OwnedFd,
    pub(crate) path: PathBuf,
    pub(crate) marks: Marks,
    /// Indexes with their weight in bytes, the one that was asked for last at the end.
    cache: Mutex<VecDeque<(SnapshotId, Arc<LayerIndex>, usize)>>,
    /// Those of layers whose tars are still being worked out.
    unfinished: Mutex<Vec<(SnapshotId, Weak<LayerIndex>)>>,
}

/// In which attributes the overlay keeps its own marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// As root of the machine.
    Trusted,
    /// As root of a user namespace only.
    User,
}

impl Marks {
    pub(crate) fn opaque(self) -> &'static [u8] {
        match self {
            Marks::Trusted => b"trusted.overlay.opaque",
            Marks::User => b"user.overlay.opaque",
        }
    }
}

/// A snapshot that is being made. Dropped before it is committed, it is removed.
#[derive(Debug)]
pub struct Active {
    id: SnapshotId,
    /// The snapshot's folder, which is locked through this descriptor.
    dir: OwnedFd,
    store: OwnedFd,
    finished: bool,
}

/// A finished snapshot.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its name.
    pub id: SnapshotId,
    /// The digest of its tar.
    pub diff_id: DiffId,
    /// How long that tar is.
    pub tar_bytes: u64,
    /// The digest of what it holds, times aside.
    pub content: Digest,
    /// What it holds.
    pub index: Arc<LayerIndex>,
    /// The directories that an unpacked tar did not name; always empty for a committed layer.
    pub implied: Vec<Vec<u8>>,
}

impl Committed {
    /// A layer whose tar is known.
    pub(crate) fn of(id: SnapshotId, index: Arc<LayerIndex>) -> Result<Committed, SnapshotError> {
        let LayerTar { diff_id, bytes } = *index.tar.get().ok_or(SnapshotError::Unknown(id))?;
        let (content, implied) = (index.content(), index.implied());
        Ok(Committed { id, diff_id, tar_bytes: bytes, content, implied, index })
    }

    /// Whether it is right only on certain layers: [`Snapshotter::settle`] must see what is below it.
    pub fn depends_on_below(&self) -> bool {
        !self.implied.is_empty() || !self.index.unresolved_links.is_empty()
    }
}

/// Asks ext4 to treat each folder in `dir` as the top of a hierarchy: it then puts each into a part of the disk
/// with few folders, not all beside each other. Making files beside those that were deleted a moment ago is slow:
/// it looks at each of their inodes anew for every file, as none may be used again so soon. File systems that
/// don't know the mark do without.
fn spread(dir: &OwnedFd) {
    if let Ok(flags) = fs::ioctl_getflags(dir)
        && !flags.contains(fs::IFlags::TOPDIR)
    {
        let _ = fs::ioctl_setflags(dir, flags | fs::IFlags::TOPDIR);
    }
}

impl Snapshotter {
    /// Opens the folder `root`, which is made if need be and which only its owner may enter.
    pub fn open(root: &Path) -> Result<Snapshotter, SnapshotError> {
        let shown = root.as_os_str().as_bytes();
        std::fs::create_dir_all(root).map_err(cannot("make", shown))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = fs::open(root, flags, Mode::empty()).map_err(cannot("open", shown))?;
        node::set_mode(&dir, 0o700).map_err(cannot("close to others", shown))?;
        let path = std::fs::canonicalize(root).map_err(cannot("find", shown))?;
        spread(&dir);
        for name in ["empty", "empty/a", "empty/b"] {
            match fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => set_open_mode(&dir, name.as_bytes()).map_err(cannot("make", name.as_bytes()))?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(cannot("make", name.as_bytes())(error)),
            }
        }
        let marks = match fs::fsetxattr(&dir, "trusted.kiln", b"", fs::XattrFlags::empty()) {
            Err(Errno::PERM) => Marks::User,
            _ => Marks::Trusted,
        };
        // It was only to learn whether it can be set.
        let _ = fs::fremovexattr(&dir, "trusted.kiln");
        Ok(Snapshotter { dir, path, marks, cache: Mutex::default(), unfinished: Mutex::default() })
    }

    /// Begins a new, empty snapshot.
    pub fn prepare(&self) -> Result<Active, SnapshotError> {
        loop {
            let id = SnapshotId::random();
            let name = id.to_string();
            match fs::mkdirat(&self.dir, &name, Mode::from_raw_mode(0o700)) {
                Err(Errno::EXIST) => continue,
                made => made.map_err(cannot("make snapshot", name.as_bytes()))?,
            }
            let store =
                rustix::io::fcntl_dupfd_cloexec(&self.dir, 0).map_err(cannot("open", b"snapshots"))?;
            let Ok(dir) = node::open_dir(&self.dir, name.as_bytes()) else { continue };
            // A sweep may have taken the folder between the two calls above.
            let ours = fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok()
                && fs::fstat(&dir).is_ok_and(|stat| stat.st_nlink > 0);
            if !ours {
                continue;
            }
            let active = Active { id, dir, store, finished: false };
            for (part, mode) in [("fs", 0o755), ("work", 0o700)] {
                fs::mkdirat(&active.dir, part, Mode::from_raw_mode(mode))
                    .map_err(cannot("make snapshot", name.as_bytes()))?;
            }
            set_open_mode(&active.dir, b"fs").map_err(cannot("make snapshot", name.as_bytes()))?;
            // It is the root of what a step sees. Who may not give it to root can make no step either.
            let _ = node::open_dir(&active.dir, b"fs").and_then(|fs| node::set_owner(fs, 0, 0));
            return Ok(active);
        }
    }

    /// What the layer of a finished snapshot holds.
    pub fn index(&self, id: &SnapshotId) -> Result<Arc<LayerIndex>, SnapshotError> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = cache.iter().position(|(other, ..)| other == id)
            && let Some(entry) = cache.remove(at)
        {
            let index = Arc::clone(&entry.1);
            cache.push_back(entry);
            return Ok(index);
        }
        drop(cache);
        let unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        let found = unfinished.iter().find(|(other, _)| other == id).and_then(|(_, index)| index.upgrade());
        drop(unfinished);
        if let Some(index) = found {
            return Ok(index);
        }
        let index = Arc::new(self.read_index(id)?);
        self.remember(*id, &index);
        Ok(index)
    }

    /// Every finished snapshot, in no order.
    pub fn ids(&self) -> Vec<SnapshotId> {
        let finished = |id: &SnapshotId| node::stat_at(&self.dir, format!("{id}/index").as_bytes()).is_ok();
        self.folders().into_iter().filter(finished).collect()
    }

    /// Removes a finished snapshot and returns the bytes that this freed. The caller knows that
    /// nobody uses it.
    pub fn remove(&self, id: &SnapshotId) -> Result<u64, SnapshotError> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).retain(|(other, ..)| other != id);
        let name = id.to_string();
        let dir = match node::open_dir(&self.dir, name.as_bytes()) {
            Err(Errno::NOENT) => return Ok(0),
            dir => dir.map_err(cannot("open snapshot", name.as_bytes()))?,
        };
        // Without its index the snapshot is unfinished: a death from here on leaves work for a sweep.
        match fs::unlinkat(&dir, "index", AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(cannot("remove snapshot", name.as_bytes())(error)),
        }
        node::remove_all(&self.dir, name.as_bytes()).map_err(cannot("remove snapshot", name.as_bytes()))
    }

    /// Removes what dead processes left unfinished and returns the bytes that this freed.
    pub fn sweep(&self) -> Result<u64, SnapshotError> {
        let mut freed = 0;
        for id in self.folders() {
            let name = id.to_string();
            let Ok(dir) = node::open_dir(&self.dir, name.as_bytes()) else { continue };
            let abandoned = fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok()
                && node::stat_at(&dir, b"index").is_err();
            if abandoned {
                freed += node::remove_all(&self.dir, name.as_bytes())
                    .map_err(cannot("remove snapshot", name.as_bytes()))?;
            }
        }
        Ok(freed)
    }

    /// Makes all that was committed so far survive a loss of power. One call for any number of
    /// snapshots, before the first record of them is made.
    pub fn sync(&self) -> Result<(), SnapshotError> {
        fs::syncfs(&self.dir).map_err(cannot("sync", self.path.as_os_str().as_bytes()))
    }

    fn folders(&self) -> Vec<SnapshotId> {
        let listed = node::open_dir(&self.dir, b".").and_then(node::list).unwrap_or_default();
        listed.iter().filter_map(|(name, _)| std::str::from_utf8(name).ok()?.parse().ok()).collect()
    }

    /// Opens the layer's files.
    pub(crate) fn open_fs(&self, id: &SnapshotId) -> Result<OwnedFd, SnapshotError> {
        match node::open_dir(&self.dir, format!("{id}/fs").as_bytes()) {
            Err(Errno::NOENT) => Err(SnapshotError::Unknown(*id)),
            dir => dir.map_err(cannot("open snapshot", id.to_string().as_bytes())),
        }
    }

    fn read_index(&self, id: &SnapshotId) -> Result<LayerIndex, SnapshotError> {
        let name = format!("{id}/index");
        let file = match node::open_file(&self.dir, name.as_bytes()) {
            Err(Errno::NOENT) => return Err(SnapshotError::Unknown(*id)),
            file => file.map_err(cannot("open", name.as_bytes()))?,
        };
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut bytes)
            .map_err(cannot("read", name.as_bytes()))?;
        index_file::decode(&bytes).map_err(|reason| SnapshotError::Damaged { id: *id, reason })
    }

    pub(crate) fn write_index(
        &self,
        id: SnapshotId,
        dir: BorrowedFd<'_>,
        index: &Arc<LayerIndex>,
    ) -> Result<(), SnapshotError> {
        let tar = index.tar.get().ok_or(SnapshotError::Unknown(id))?;
        let name = format!("{id}/index");
        let written = (|| -> std::io::Result<()> {
            node::remove_all(dir, b"index.new")?;
            let mut file = std::fs::File::from(node::create_file(dir, b"index.new")?);
            file.write_all(&index_file::encode(index, tar))?;
            Ok(fs::renameat(dir, "index.new", dir, "index")?)
        })();
        written.map_err(cannot("write", name.as_bytes()))?;
        self.remember(id, index);
        Ok(())
    }

    /// Ends the making of `active`, whose files are those of `index`.
    pub(crate) fn finish(
        &self,
        active: &mut Active,
        index: Arc<LayerIndex>,
    ) -> Result<Committed, SnapshotError> {
        node::remove_all(&active.dir, b"work").map_err(cannot("remove", b"work"))?;
        self.write_index(active.id, active.dir.as_fd(), &index)?;
        active.finished = true;
        Committed::of(active.id, index)
    }

    /// Lets [`Snapshotter::index`] find the index of a layer that is not finished, as long as somebody has it.
    pub(crate) fn show_unfinished(&self, id: SnapshotId, index: &Arc<LayerIndex>) {
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        unfinished.retain(|(_, index)| index.strong_count() > 0);
        unfinished.push((id, Arc::downgrade(index)));
    }

    fn remember(&self, id: SnapshotId, index: &Arc<LayerIndex>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.retain(|(other, ..)| *other != id);
        cache.push_back((id, Arc::clone(index), index.weight()));
        let mut weight: usize = cache.iter().map(|(.., weight)| weight).sum();
        while weight > CACHED_INDEX_BYTES
            && let Some((.., oldest)) = cache.pop_front()
        {
            weight -= oldest;
        }
    }
}

/// Undoes what the process's umask took from a folder that others' images see.
fn set_open_mode(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    node::set_mode(node::open_dir(parent, name)?, 0o755)
}

impl Active {
    /// The name that the snapshot will have.
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// Opens its files as they lie in the store, with nothing below them.
    pub(crate) fn open_fs(&self) -> Result<OwnedFd, SnapshotError> {
        node::open_dir(&self.dir, b"fs").map_err(cannot("open snapshot", self.id.to_string().as_bytes()))
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if !self.finished {
            // What can't be removed now is unfinished and unlocked, and so a sweep's.
            let _ = node::remove_all(&self.store, self.id.to_string().as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
