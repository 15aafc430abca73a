//! Looks for damage in a store, and repairs it by forgetting what is damaged: it is then made or fetched anew.
//! It does not know how.

use super::inventory::Pins;
use crate::WorkerError;
use crate::store::Store;
use kiln_oci::{Digest, Hasher};
use kiln_snapshotter::{Kind, NodeType, SnapshotError, SnapshotId, Tree};
use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

/// What is read of a file at once.
const PIECE_BYTES: usize = 256 << 10;
/// What the file system calls a file that says: whatever is below is gone.
const WHITEOUT_DEVICE: (u32, u32) = (0, 0);

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A blob's bytes are not those of its name.
    Blob(Digest),
    /// A name needs a blob that is not here.
    MissingBlob {
        /// The name.
        name: String,
        /// The blob.
        digest: Digest,
    },
    /// A layer's files are not what they should be.
    Layer {
        /// Its snapshot.
        snapshot: String,
        /// What is wrong.
        flaw: String,
    },
    /// A snapshot that nothing names.
    Unnoted(String),
    /// So many records name layers that are gone.
    DeadRecords(usize),
    /// The database.
    Metadata(String),
    /// A cache mount whose content is gone.
    CacheMount(String),
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Damage::Blob(digest) => write!(f, "blob {digest}: its bytes are others than its name says"),
            Damage::MissingBlob { name, digest } => write!(f, "image {name}: its blob {digest} is gone"),
            Damage::Layer { snapshot, flaw } => write!(f, "layer in snapshots/{snapshot}: {flaw}"),
            Damage::Unnoted(snapshot) => write!(f, "snapshots/{snapshot}: nothing names it"),
            Damage::DeadRecords(count) => write!(f, "{count} records of steps name layers that are gone"),
            Damage::Metadata(flaw) => write!(f, "meta.db: {flaw}"),
            Damage::CacheMount(name) => write!(f, "cache-mounts/{name}: its content is gone"),
        }
    }
}

/// Looks at all of a store; with `full`, at every byte. With `repair`, what is damaged is forgotten.
pub(crate) fn check(store: &Store, full: bool, repair: bool) -> Result<Vec<Damage>, WorkerError> {
    let mut found: Vec<Damage> = store.meta.flaws()?.into_iter().map(Damage::Metadata).collect();
    if !found.is_empty() {
        // What a damaged database says of the rest proves nothing.
        return Ok(found);
    }
    // What the dead left is no damage.
    store.sweep()?;
    blobs(store, repair, &mut found)?;
    layers(store, full, repair, &mut found)?;
    cache_mounts(store, repair, &mut found)?;
    for (digest, name) in Pins::of(store)?.blobs {
        let known = store.meta.blob_uses()?;
        let again = known.iter().any(|blob| blob.digest == digest && blob.has_origin);
        if store.content.layout().size(&digest).is_none() && !again {
            found.push(Damage::MissingBlob { name, digest });
        }
    }
    let dead = store.meta.dead_records()?;
    if dead > 0 {
        found.push(Damage::DeadRecords(dead));
    }
    if repair {
        store.meta.forget_dead_records()?;
    }
    Ok(found)
}

fn blobs(store: &Store, repair: bool, found: &mut Vec<Damage>) -> Result<(), WorkerError> {
    for digest in store.content.layout().digests()? {
        // One that a collector took meanwhile is no damage.
        let Ok(mut file) = store.content.blob(&digest) else { continue };
        if digest_of(&mut file).ok() != Some(digest) {
            found.push(Damage::Blob(digest));
            if repair {
                store.content.layout().remove(&digest)?;
                store.meta.forget(&[], &[digest])?;
            }
        }
    }
    Ok(())
}

fn layers(store: &Store, full: bool, repair: bool, found: &mut Vec<Damage>) -> Result<(), WorkerError> {
    // In this order: one that is made meanwhile is in the second list only.
    let finished = store.snapshots.ids();
    let mut noted = HashSet::new();
    for layer in store.meta.layer_uses()? {
        noted.insert(layer.snapshot);
        let Some(flaw) = verify_layer(store, &layer.snapshot, full)? else { continue };
        found.push(Damage::Layer { snapshot: layer.snapshot.to_string(), flaw });
        if repair {
            store.meta.forget(&[layer.id], &[])?;
            store.snapshots.remove(&layer.snapshot)?;
        }
    }
    let others = store.others_live()?;
    for id in finished.iter().filter(|id| !noted.contains(*id) && !others) {
        found.push(Damage::Unnoted(id.to_string()));
        if repair {
            store.snapshots.remove(id)?;
        }
    }
    Ok(())
}

fn cache_mounts(store: &Store, repair: bool, found: &mut Vec<Damage>) -> Result<(), WorkerError> {
    let all = store.root.join("cache-mounts");
    for entry in std::fs::read_dir(&all).map_err(WorkerError::io("list", &all))?.flatten() {
        let link = entry.path().join("current");
        if std::fs::symlink_metadata(&link).is_ok() && !link.join("data").is_dir() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if repair {
                crate::cache_mount::give_up(store, &name)?;
            }
            found.push(Damage::CacheMount(name));
        }
    }
    Ok(())
}

/// Compares a layer's files with its index: names, modes, owners and sizes; with `full` their bytes too.
/// Gives the first that is not as it should be.
pub(crate) fn verify_layer(
    store: &Store,
    snapshot: &SnapshotId,
    full: bool,
) -> Result<Option<String>, WorkerError> {
    // Not from memory: what is on the disk counts.
    let fresh = kiln_snapshotter::Snapshotter::open(&store.root.join("snapshots"))?;
    let index = match fresh.index(snapshot) {
        Ok(index) => index,
        Err(SnapshotError::Unknown(_)) => return Ok(Some("it has no index".to_owned())),
        Err(SnapshotError::Damaged { reason, .. }) => return Ok(Some(format!("its index: {reason}"))),
        Err(e) => return Err(e.into()),
    };
    let folder = store.root.join("snapshots").join(snapshot.to_string()).join("fs");
    let Ok(tree) = Tree::open(Path::new(&folder)) else { return Ok(Some("its files are gone".to_owned())) };
    for (path, entry) in index.iter() {
        let shown = || String::from_utf8_lossy(path).into_owned();
        let Ok(stat) = tree.stat(path, false) else { return Ok(Some(format!("/{} is gone", shown()))) };
        let is_right = match &entry.kind {
            Kind::File { size, .. } => stat.kind == NodeType::File && stat.size == *size,
            Kind::Directory { .. } => stat.kind == NodeType::Directory,
            Kind::Symlink { target } => tree.read_link(path).is_ok_and(|found| found == *target),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                stat.special == (*major, *minor)
            }
            Kind::Whiteout => stat.special == WHITEOUT_DEVICE,
            Kind::Fifo => true,
        };
        let is_owned = matches!(entry.kind, Kind::Whiteout)
            || entry.implied
            || (stat.uid, stat.gid) == (entry.uid, entry.gid);
        let is_open_as_before = matches!(entry.kind, Kind::Whiteout | Kind::Symlink { .. })
            || entry.implied
            || stat.mode == entry.mode;
        if !is_right || !is_owned || !is_open_as_before {
            return Ok(Some(format!("/{} is not what it was", shown())));
        }
        if let (true, Kind::File { digest, .. }) = (full, &entry.kind)
            && tree.open_file(path).ok().and_then(|mut file| digest_of(&mut file).ok()) != Some(*digest)
        {
            return Ok(Some(format!("/{} has other bytes", shown())));
        }
    }
    Ok(None)
}

fn digest_of(file: &mut impl Read) -> std::io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&piece[..n]),
        }
    }
}
