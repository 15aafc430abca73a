//! Adds to a cache what it has not: each file, or each folder that is new, gets there whole by one rename, and
//! what is there stays. It does not know where the new files came from.

use super::manifest::{Manifest, OtherKind, parent};
use crate::WorkerError;
use kiln_snapshotter::{NodeType, SnapshotError, Tree, path_order};
use rustix::fs::{RenameFlags, renameat_with};
use rustix::io::Errno;
use std::collections::HashSet;

/// Whether a tree has nothing at a path.
pub(super) fn is_missing(tree: &Tree, path: &[u8]) -> Result<bool, WorkerError> {
    match tree.stat(path, false) {
        Ok(_) => Ok(false),
        Err(SnapshotError::NotFound(_) | SnapshotError::NotADirectory(_)) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

/// Moves what `live` has not from `staged` to it. Nothing goes through links, and nothing into what is no folder.
pub(super) fn merge(staged: &Tree, live: &Tree, manifest: &Manifest) -> Result<(), WorkerError> {
    let others = || manifest.others.iter();
    let mut folders: Vec<&[u8]> =
        others().filter(|o| o.kind == OtherKind::Folder).map(|o| &*o.node.path.0).collect();
    folders.sort_by(|a, b| path_order(a, b));
    // The folders that both have.
    let mut shared: HashSet<&[u8]> = HashSet::from([&b""[..]]);
    for folder in folders {
        if !shared.contains(parent(folder)) {
            continue;
        }
        if is_missing(live, folder)? {
            rename(staged, live, folder)?;
        } else if live.stat(folder, false)?.kind == NodeType::Directory {
            shared.insert(folder);
        }
    }
    let files = manifest.units.iter().flat_map(|unit| &unit.files).map(|file| &*file.node.path.0);
    let rest = others().filter(|o| o.kind != OtherKind::Folder).map(|o| &*o.node.path.0);
    for path in files.chain(rest) {
        if shared.contains(parent(path)) && is_missing(live, path)? && !is_missing(staged, path)? {
            rename(staged, live, path)?;
        }
    }
    Ok(())
}

fn rename(staged: &Tree, live: &Tree, path: &[u8]) -> Result<(), WorkerError> {
    let folder = parent(path);
    let name = if folder.is_empty() { path } else { &path[folder.len() + 1..] };
    let (from, to) = (staged.subtree(folder)?, live.subtree(folder)?);
    match renameat_with(from.as_fd(), name, to.as_fd(), name, RenameFlags::NOREPLACE) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(WorkerError::io("move", String::from_utf8_lossy(path).into_owned())(e.into())),
    }
}
