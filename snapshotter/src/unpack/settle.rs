//! Finishes an unpacked layer with what only the layers below it can tell: the metadata of
//! directories that its tar did not name, and hard links to files of theirs.
//! It does not know tars.

use crate::copy::{CopyOptions, copy_tree};
use crate::error::{SnapshotError, cannot, shown};
use crate::id::SnapshotId;
use crate::index::{Entry, Kind, LayerIndex, sorted};
use crate::node;
use crate::store::{Committed, Snapshotter};
use crate::tree::Tree;
use crate::unpack::metadata;
use crate::view::TreeView;
use std::sync::Arc;

impl Snapshotter {
    /// Gives the implied directories of an unpacked layer the metadata that they have in the layers
    /// below (from the lowest up), and copies up the files there that it links to. A layer that has
    /// neither is left as it is. What comes back is the layer as it now is.
    pub fn settle(&self, id: &SnapshotId, layers_below: &[SnapshotId]) -> Result<Committed, SnapshotError> {
        let mut index = self.index(id)?;
        let root = Tree::at(self.open_fs(id)?);
        if !index.unresolved_links.is_empty() {
            index = self.link(id, &index, &root, layers_below)?;
        }
        let implied = index.implied();
        if !implied.is_empty() {
            let below = self.view(layers_below)?;
            for path in implied.iter().rev() {
                settle_directory(&root, path, &below)?;
            }
        }
        Ok(Committed { implied, ..Committed::of(*id, index)? })
    }

    /// Copies the files up that the layer's links mean, and writes the index anew.
    fn link(
        &self,
        id: &SnapshotId,
        index: &LayerIndex,
        root: &Tree,
        layers_below: &[SnapshotId],
    ) -> Result<Arc<LayerIndex>, SnapshotError> {
        let below = self.view(layers_below)?;
        let mut entries = index.entries.clone();
        for (path, target) in &index.unresolved_links {
            let dangling = || SnapshotError::DanglingHardlink { path: shown(path), target: shown(target) };
            let resolved = below.resolve(target, false)?.path;
            let (layer, entry) =
                below.holder(&resolved).filter(|(_, entry)| !entry.is_dir()).ok_or_else(dangling)?;
            let from = Tree::at(self.open_fs(&layers_below[layer])?);
            copy_tree(&from, &resolved, root, path, &CopyOptions::default())?;
            let mut entry = entry.clone();
            if let Kind::File { link, .. } = &mut entry.kind {
                *link = None;
            }
            entries.push((path.as_slice().into(), entry));
            let folder = &path[..path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)];
            if let Some(entry) = index.get(folder) {
                apply(root, folder, entry)?;
            }
        }
        let settled =
            LayerIndex { entries: sorted(entries), tar: index.tar.clone(), unresolved_links: Vec::new() };
        let dir = node::open_dir(&self.dir, id.to_string().as_bytes());
        let dir = dir.map_err(cannot("open snapshot", id.to_string().as_bytes()))?;
        let settled = Arc::new(settled);
        self.write_index(*id, std::os::fd::AsFd::as_fd(&dir), &settled)?;
        Ok(settled)
    }
}

fn settle_directory(root: &Tree, path: &[u8], below: &TreeView) -> Result<(), SnapshotError> {
    match below.get(path) {
        Some(entry) if entry.is_dir() => apply(root, path, entry),
        _ => Ok(()),
    }
}

fn apply(root: &Tree, path: &[u8], entry: &Entry) -> Result<(), SnapshotError> {
    let dir = root.open_listing(path).map_err(cannot("open", path))?;
    node::apply(&dir, &metadata(entry), &entry.xattrs).map_err(cannot("change", path))
}
