//! Files that an earlier layer has just as a new one is to have them: they are not copied, but get one more name.
//! It does not know which layer is the earlier one, nor what is copied.
//!
//! A copy notes what it leaves out, and the commit makes the names when all else is done: from then on nothing
//! is ever written to a layer, so that no change can come through to the earlier one. The new layer's index and
//! its tar know nothing of it: only names within one layer are hard links of each other.

use crate::error::{SnapshotError, cannot, shown};
use crate::id::SnapshotId;
use crate::index::{Entry, Kind, LayerIndex};
use crate::node::{self, Metadata};
use crate::store::Snapshotter;
use kiln_oci::Digest;
use rayon::prelude::*;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// An earlier layer, and which of its files a new one takes over.
#[derive(Debug)]
pub struct Earlier {
    index: Arc<LayerIndex>,
    fs: OwnedFd,
    /// For each of its entries, whether it is taken over.
    taken: Vec<AtomicBool>,
    /// The entry that was asked for last: the next one is mostly just behind it.
    last: AtomicUsize,
}

impl Snapshotter {
    /// A finished layer from which files may be taken over.
    pub fn earlier(&self, id: &SnapshotId) -> Result<Earlier, SnapshotError> {
        let (fs, index) = (self.open_fs(id)?, self.index(id)?);
        let taken = index.entries.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Earlier { index, fs, taken, last: AtomicUsize::new(0) })
    }
}

impl Earlier {
    /// Takes over the file at `path`, if it is just this there.
    pub(crate) fn take(&self, path: &[u8], size: u64, metadata: &Metadata, digest: &Digest) -> bool {
        let Some(at) = self.position(path) else { return false };
        let entry = &self.index.entries[at].1;
        let is_this = entry.kind == Kind::File { size, digest: *digest, link: None }
            && entry.xattrs.is_empty()
            && *metadata == metadata_of(entry);
        if is_this {
            self.taken[at].store(true, Ordering::Relaxed);
        }
        is_this
    }

    /// The entry of what was taken over for `path`.
    pub(crate) fn taken(&self, path: &[u8]) -> Option<&Entry> {
        let at = self.position(path).filter(|at| self.taken[*at].load(Ordering::Relaxed))?;
        Some(&self.index.entries[at].1)
    }

    /// Whether all files of the layer still are what its index says, as far as can be told without reading them. It is
    /// to be asked before [`Snapshotter::commit_reusing`], which looks at no file again; while things are copied
    /// there is time for it.
    pub fn is_intact(&self) -> bool {
        let files = self.index.entries.iter().filter(|(_, entry)| is_alone(entry));
        let mut folders: Vec<(&[u8], Vec<Named<'_>>)> = Vec::new();
        for (path, entry) in files {
            let (folder, name) = split(path);
            match folders.last_mut() {
                Some((last, names)) if *last == folder => names.push((name, entry)),
                _ => folders.push((folder, vec![(name, entry)])),
            }
        }
        folders.iter().all(|(folder, names)| {
            let Ok(dir) = open_folder(self.fs.as_fd(), folder) else { return false };
            let is_intact =
                |(name, entry): &Named<'_>| node::stat_at(&dir, name).is_ok_and(|s| is_as_it_was(entry, &s));
            names.iter().all(is_intact)
        })
    }

    fn position(&self, path: &[u8]) -> Option<usize> {
        let next = self.last.load(Ordering::Relaxed) + 1;
        let near = next..self.index.entries.len().min(next + 2);
        let is_it = |at: &usize| *self.index.entries[*at].0 == *path;
        let at = near.into_iter().find(is_it).or_else(|| self.index.position(path))?;
        self.last.store(at, Ordering::Relaxed);
        Some(at)
    }

    /// Gives all that was taken over its name beneath `root` too. The folders must be there.
    pub(crate) fn link_into(&self, root: BorrowedFd<'_>) -> Result<(), SnapshotError> {
        let mut folders: Vec<(&[u8], Vec<Named<'_>>)> = Vec::new();
        let taken = self.index.entries.iter().zip(&self.taken).filter(|(_, t)| t.load(Ordering::Relaxed));
        for ((path, entry), _) in taken {
            let (folder, name) = split(path);
            match folders.last_mut() {
                Some((last, names)) if *last == folder => names.push((name, entry)),
                _ => folders.push((folder, vec![(name, entry)])),
            }
        }
        // Those of one folder are one piece of work: its time is put right when all its names are there.
        folders.sort_by_key(|(folder, _)| *folder);
        let same_folder = folders.chunk_by(|a, b| a.0 == b.0).collect::<Vec<_>>();
        same_folder.par_iter().try_for_each(|parts| {
            let folder = parts[0].0;
            let names = parts.iter().flat_map(|(_, names)| names);
            self.link_folder(root, folder, names.copied()).map_err(|error| {
                if error.raw_os_error() == Errno::NOSPC.raw_os_error() {
                    cannot("link files in", folder)(error)
                } else {
                    SnapshotError::NotReused(shown(folder))
                }
            })
        })
    }

    fn link_folder<'n>(
        &self,
        root: BorrowedFd<'_>,
        folder: &[u8],
        names: impl Iterator<Item = Named<'n>>,
    ) -> rustix::io::Result<()> {
        let (from, to) = (open_folder(self.fs.as_fd(), folder)?, open_folder(root, folder)?);
        let before = Metadata::of(&fs::fstat(&to)?).mtime;
        for (name, _) in names {
            match fs::linkat(&from, name, &to, name, AtFlags::empty()) {
                // What the copy put away may have left a whiteout.
                Err(Errno::EXIST) => {
                    fs::unlinkat(&to, name, AtFlags::empty())?;
                    fs::linkat(&from, name, &to, name, AtFlags::empty())?;
                }
                linked => linked?,
            }
        }
        node::set_mtime(&to, before)
    }
}

/// A name in a folder, and what the index says of it.
type Named<'a> = (&'a [u8], &'a Entry);

/// A file with one name: others are never taken over.
fn is_alone(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::File { link: None, .. })
}

/// The folder of a path, and its name there.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    slash.map_or((&[], path), |at| (&path[..at], &path[at + 1..]))
}

/// Whether a file still is what its index says, as far as can be told without reading it.
fn is_as_it_was(entry: &Entry, stat: &Stat) -> bool {
    let is_long = matches!(entry.kind, Kind::File { size, .. } if size == stat.st_size as u64);
    is_long && node::type_of(stat) == FileType::RegularFile && Metadata::of(stat) == metadata_of(entry)
}

fn metadata_of(entry: &Entry) -> Metadata {
    let Entry { mode, uid, gid, mtime_s, mtime_ns, .. } = *entry;
    Metadata { mode, uid, gid, mtime: (mtime_s, mtime_ns) }
}

/// Opens a folder of a snapshot, in which no path leads through a symbolic link.
fn open_folder(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

#[cfg(test)]
pub(crate) mod tests;
