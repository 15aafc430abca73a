//! Layers of which all is known but the digest of their tar: whoever builds on them can begin, while that is worked out.
//! It does not know who waits for it.

use crate::CommitOptions;
use crate::commit::learn;
use crate::error::SnapshotError;
use crate::id::SnapshotId;
use crate::index::{Entry, Kind, LayerIndex, LayerTar};
use crate::layer_tar::{self, Reading, write_tar};
use crate::reuse::Earlier;
use crate::store::{Active, Committed, Snapshotter};
use kiln_oci::Digest;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// What there is to hash before it is worth while to put it off: 8 MiB.
const PUT_OFF_BYTES_MIN: u64 = 8 << 20;

/// A layer that was made: all of it, or all but its tar's digest.
#[derive(Debug)]
pub enum Begun {
    /// All is known.
    Done(Committed),
    /// [`Snapshotter::complete`] is still to come.
    Digesting(Digesting),
}

/// A layer whose tar's digest is not known yet. It can be mounted and looked at, but it is not finished: dropped, it is
/// removed, and another process takes it for unfinished.
#[derive(Debug)]
pub struct Digesting {
    active: Active,
    root: OwnedFd,
    index: Arc<LayerIndex>,
    content: Digest,
}

impl Digesting {
    /// The name that the snapshot will have.
    pub fn id(&self) -> SnapshotId {
        self.active.id()
    }

    /// The digest of what it holds, times aside.
    pub fn content(&self) -> Digest {
        self.content
    }
}

impl Snapshotter {
    /// As [`Snapshotter::commit_reusing`]; but where most of the layer need not be read to know what it holds, its tar
    /// is left for [`Snapshotter::complete`].
    pub fn begin_commit(
        &self,
        active: Active,
        layers_below: &[SnapshotId],
        options: &CommitOptions,
        earlier: Option<&Earlier>,
    ) -> Result<Begun, SnapshotError> {
        let (root, mut entries) = self.differences(&active, layers_below, options, earlier)?;
        if !is_worth_while(&entries) {
            return self.commit_entries(active, &root, entries).map(Begun::Done);
        }
        read_the_unread(root.as_fd(), &mut entries)?;
        let index = Arc::new(LayerIndex { entries, tar: OnceLock::new(), unresolved_links: Vec::new() });
        self.show_unfinished(active.id(), &index);
        let content = index.content();
        Ok(Begun::Digesting(Digesting { active, root, index, content }))
    }

    /// Works the digest of a layer's tar out, for which all of it is read, and finishes the layer; the tar goes to `out`
    /// too. After an error it can be done again.
    pub fn complete(
        &self,
        layer: &mut Digesting,
        out: Option<&mut dyn Write>,
    ) -> Result<Committed, SnapshotError> {
        let Digesting { active, root, index, content: _ } = layer;
        if out.is_some() || index.tar.get().is_none() {
            let mut nowhere = io::sink();
            let out = out.unwrap_or(&mut nowhere);
            let written = write_tar(root.as_fd(), &index.entries, Reading::Again, out)?;
            let (expected, actual) = (index.tar.get().map(|tar| tar.diff_id), written.diff_id);
            if let Some(expected) = expected.filter(|expected| *expected != actual) {
                return Err(SnapshotError::NotReproduced { id: active.id(), expected, actual });
            }
            let _ = index.tar.set(LayerTar { diff_id: actual, bytes: written.bytes });
        }
        self.finish(active, index.clone())
    }
}

/// Whether much is to be read for the tar, and little of it for the index.
fn is_worth_while(entries: &[(Box<[u8]>, Entry)]) -> bool {
    let (mut known, mut unread) = (0, 0);
    for (_, entry) in entries {
        if let Kind::File { size, digest, .. } = &entry.kind {
            *if *digest.as_bytes() == layer_tar::UNREAD { &mut unread } else { &mut known } += size;
        }
    }
    known >= PUT_OFF_BYTES_MIN && unread <= known / 4
}

/// Reads the files whose digests are not known, as if they alone were the layer.
fn read_the_unread(root: BorrowedFd<'_>, entries: &mut [(Box<[u8]>, Entry)]) -> Result<(), SnapshotError> {
    let is_unread = |entry: &Entry| matches!(&entry.kind, Kind::File { digest, .. } if *digest.as_bytes() == layer_tar::UNREAD);
    let all = entries.iter().enumerate();
    let (places, alone): (Vec<usize>, Vec<_>) =
        all.filter(|(_, (_, entry))| is_unread(entry)).map(|(at, entry)| (at, entry.clone())).unzip();
    let mut files = write_tar(root, &alone, Reading::First, &mut io::sink())?.files;
    for file in &mut files {
        file.at = places[file.at];
    }
    learn(entries, files);
    Ok(())
}

#[cfg(test)]
mod tests;
