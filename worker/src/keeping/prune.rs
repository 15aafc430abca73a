//! Gives things up: chosen from the inventory, decided while nobody can lease anything, removed afterwards.
//! It does not know why space is wanted.

use super::inventory::{Pins, Place, usage};
use super::{Kind, Usage, UsageItem};
use crate::WorkerError;
use crate::store::{Store, now_s};
use kiln_runner::CancelToken;
use kiln_snapshotter::{SnapshotError, Tree};
use std::collections::HashSet;

/// A process must not wait for one that prunes: both would give up the same.
const COLLECTING: &str = "collect";

/// Which things are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those that were not used for so long, in seconds.
    pub unused_s: Option<i64>,
    /// Only those of these kinds; none means all.
    pub kinds: Vec<Kind>,
    /// Only those whose id begins so; none means all.
    pub ids: Vec<String>,
}

/// What is to be given up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruning {
    /// Cache mounts too.
    pub all: bool,
    /// Which things are meant.
    pub filter: Filter,
    /// Nothing more once the store is no larger than this, in bytes.
    pub keep_bytes: u64,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What was given up, and what is left.
#[derive(Clone, Debug, Default)]
pub struct Removed {
    /// The things.
    pub items: Vec<UsageItem>,
    /// What the store takes now, in bytes.
    pub left_bytes: u64,
}

impl Filter {
    fn takes(&self, item: &UsageItem, now: i64) -> bool {
        self.unused_s.is_none_or(|unused_s| now - item.used_s >= unused_s)
            && (self.kinds.is_empty() || self.kinds.contains(&item.kind))
            && (self.ids.is_empty()
                || self.ids.iter().any(|id| item.id.starts_with(id) || id.starts_with(&item.id)))
    }
}

/// Gives up what `pruning` says, the least worth first.
pub(crate) fn prune(store: &Store, pruning: &Pruning, cancel: &CancelToken) -> Result<Removed, WorkerError> {
    let _alone = store.lock(COLLECTING, cancel)?;
    if !pruning.dry_run {
        store.sweep()?;
    }
    let usage = usage(store)?;
    collected(store, pruning, &usage)
}

/// The same with an inventory that was just made; nothing if another process is at it.
pub(super) fn try_prune(store: &Store, pruning: &Pruning) -> Result<Option<Removed>, WorkerError> {
    let Some(_alone) = store.try_lock(COLLECTING)? else { return Ok(None) };
    let usage = usage(store)?;
    collected(store, pruning, &usage).map(Some)
}

/// Gives up all that can be made anew: the disk is full. How many bytes that were. Another process that is at it
/// is waited for.
pub(super) fn free_space(store: &Store) -> Result<u64, WorkerError> {
    let _alone = store.lock(COLLECTING, &CancelToken::new())?;
    let removed = collected(store, &Pruning::default(), &usage(store)?)?;
    Ok(removed.items.iter().map(|item| item.bytes).sum())
}

fn collected(store: &Store, pruning: &Pruning, usage: &Usage) -> Result<Removed, WorkerError> {
    let (now, total) = (now_s(), usage.bytes());
    // Without --all a cache mount goes only if it is asked for.
    let is_meant = |item: &&UsageItem| {
        let asked = pruning.all || !pruning.filter.kinds.is_empty() || !pruning.filter.ids.is_empty();
        item.is_reclaimable() && pruning.filter.takes(item, now) && (asked || item.kind != Kind::CacheMount)
    };
    let (mut left, mut chosen) = (total, Vec::new());
    for item in usage.items.iter().filter(is_meant) {
        if left <= pruning.keep_bytes {
            break;
        }
        left = left.saturating_sub(item.bytes);
        chosen.push(item.clone());
    }
    if pruning.dry_run || chosen.is_empty() {
        return Ok(Removed { items: chosen, left_bytes: left });
    }
    let items = remove(store, chosen)?;
    let gone: u64 = items.iter().map(|item| item.bytes).sum();
    Ok(Removed { items, left_bytes: total.saturating_sub(gone) })
}

/// Takes things away that nobody needs; those that were leased or named meanwhile stay.
fn remove(store: &Store, mut chosen: Vec<UsageItem>) -> Result<Vec<UsageItem>, WorkerError> {
    // Should this process die half-way, its mark tells that there is something to sweep.
    let _alive = store.mark_alive()?;
    // On a disk that is quite full not even a folder can be made: then the blobs wait for the next time.
    let trash = store.temporary_folder().ok();
    if trash.is_none() {
        chosen.retain(|item| item.kind != Kind::Blob);
    }
    let known: HashSet<i64> = chosen.iter().filter_map(layer_of).collect();
    let diff_ids = store.meta.layer_uses()?;
    let deciding = store.leases.decide()?;
    let pins = Pins::of(store)?;
    let pinned: HashSet<i64> = diff_ids
        .iter()
        .filter(|layer| known.contains(&layer.id) && pins.layers.contains_key(&layer.diff_id))
        .map(|layer| layer.id)
        .collect();
    chosen.retain(|item| match (&item.place, item.leased()) {
        (_, Some(leased)) if deciding.leased.contains(&leased) => false,
        (Place::Layer(id, _), _) => !pinned.contains(id),
        (Place::Blob(digest), _) => may_go(store, digest, &pins),
        _ => true,
    });
    let layers: Vec<i64> = chosen.iter().filter_map(layer_of).collect();
    let blobs = chosen.iter().filter_map(|item| match item.place {
        Place::Blob(digest) => Some(digest),
        _ => None,
    });
    let blobs: Vec<_> = blobs.collect();
    store.meta.forget(&layers, &blobs)?;
    for (digest, (trash, _)) in blobs.iter().zip(trash.iter().cycle()) {
        // Moving is quick however large it is; the folder goes with this function or with the next sweep.
        let path = store.root.join("content/blobs/sha256").join(digest.hex());
        let _ = std::fs::rename(path, trash.path().join(digest.hex()));
    }
    drop(deciding);
    // From here on nobody can find them any more.
    let mut gone = Vec::new();
    for item in chosen {
        if removed(store, &item)? {
            gone.push(item);
        }
    }
    if !layers.is_empty() {
        store.meta.forget_dead_records()?;
    }
    Ok(gone)
}

fn layer_of(item: &UsageItem) -> Option<i64> {
    match item.place {
        Place::Layer(id, _) => Some(id),
        _ => None,
    }
}

/// Whether a blob that was free when it was chosen still is: a name may need it since.
fn may_go(store: &Store, digest: &kiln_oci::Digest, pins: &Pins) -> bool {
    let again = |blob: &crate::meta::BlobUse| blob.digest == *digest && blob.has_origin;
    !pins.blobs.contains_key(digest) || store.meta.blob_uses().is_ok_and(|all| all.iter().any(again))
}

/// Removes what is not leased but locked, and what nobody finds any more; whether it is gone.
fn removed(store: &Store, item: &UsageItem) -> Result<bool, WorkerError> {
    let (folder, name) = match &item.place {
        Place::Layer(_, snapshot) => {
            store.snapshots.remove(snapshot)?;
            return Ok(true);
        }
        Place::Blob(_) => return Ok(true),
        Place::Fixed => return Ok(false),
        Place::CacheMount(name) => return crate::cache_mount::give_up(store, name),
        Place::Report(name) => ("builds", name),
    };
    match Tree::open(&store.root.join(folder))?.remove(name.as_bytes(), true) {
        Ok(()) | Err(SnapshotError::NotFound(_)) => Ok(true),
        Err(e) => Err(e.into()),
    }
}
