//! What a cache has in it, in an order that depends on names alone. It does not know what becomes of it.

use super::manifest::{Bytes, Node, Other, OtherKind};
use crate::WorkerError;
use crate::output::stopping;
use kiln_runner::CancelToken;
use kiln_snapshotter::{NodeStat, NodeType, SnapshotError, Tree, path_order};
use std::collections::HashMap;

/// A file to be packed.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub path: Vec<u8>,
    pub stat: NodeStat,
}

/// All that is in a cache.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// Files, each under its first name.
    pub files: Vec<Found>,
    /// All else but devices and sockets, which are no part of a cache.
    pub others: Vec<Other>,
}

/// Looks through a tree. What goes away meanwhile is not in it.
pub(super) fn scan(tree: &Tree, cancel: &CancelToken) -> Result<Scanned, WorkerError> {
    let mut all: Vec<Found> = Vec::new();
    let mut folders = vec![Vec::new()];
    while let Some(folder) = folders.pop() {
        stopping::check(cancel)?;
        let Some(names) = unless_gone(tree.scan(&folder))? else { continue };
        for (name, stat) in names {
            let path = if folder.is_empty() { name } else { [&folder, &b"/"[..], &name].concat() };
            if stat.kind == NodeType::Directory {
                folders.push(path.clone());
            }
            all.push(Found { path, stat });
        }
    }
    all.sort_by(|a, b| path_order(&a.path, &b.path));
    let mut scanned = Scanned::default();
    let mut linked: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    for found in all {
        let Found { path, stat } = &found;
        let kind = match stat.kind {
            NodeType::File if stat.links > 1 => match linked.get(&(stat.device, stat.inode)) {
                Some(first) => OtherKind::Hardlink(Bytes(first.clone())),
                None => {
                    linked.insert((stat.device, stat.inode), path.clone());
                    scanned.files.push(found);
                    continue;
                }
            },
            NodeType::File => {
                scanned.files.push(found);
                continue;
            }
            NodeType::Directory => OtherKind::Folder,
            NodeType::Symlink => match unless_gone(tree.read_link(path))? {
                Some(target) => OtherKind::Symlink(Bytes(target)),
                None => continue,
            },
            NodeType::Fifo => OtherKind::Fifo,
            NodeType::CharDevice | NodeType::BlockDevice | NodeType::Socket => continue,
        };
        if let Some(node) = node(tree, path, stat)? {
            scanned.others.push(Other { node, kind });
        }
    }
    Ok(scanned)
}

/// What is known of something; `None` if it is gone.
pub(super) fn node(tree: &Tree, path: &[u8], stat: &NodeStat) -> Result<Option<Node>, WorkerError> {
    let Some(xattrs) = unless_gone(tree.xattrs(path))? else { return Ok(None) };
    let xattrs = xattrs.into_iter().map(|(name, value)| (Bytes(name), Bytes(value))).collect();
    let NodeStat { mode, uid, gid, mtime, .. } = *stat;
    Ok(Some(Node { path: Bytes(path.to_vec()), mode, uid, gid, mtime, xattrs }))
}

/// What was asked for, or nothing where a step has removed it, or put something else there.
pub(super) fn unless_gone<T>(result: Result<T, SnapshotError>) -> Result<Option<T>, WorkerError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(SnapshotError::NotFound(_) | SnapshotError::NotADirectory(_) | SnapshotError::NotAFile(_)) => {
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}
