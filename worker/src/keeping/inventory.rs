//! All that a store has: how large each thing is, what it is worth, who needs it. Takes nothing away.
//! It does not know what is given up.

use super::{BLOB_BYTES_PER_MS, worth};
use crate::WorkerError;
use crate::lease::Leased;
use crate::store::{Store, now_s};
use kiln_oci::{DOCUMENT_BYTES_MAX, DiffId, Digest};
use kiln_snapshotter::SnapshotId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// The size of a block as `stat` counts them.
const BLOCK_BYTES: u64 = 512;

/// The kinds of things in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A layer, unpacked.
    Layer,
    /// A manifest, a config, a compressed layer.
    Blob,
    /// What `RUN --mount=type=cache` keeps.
    CacheMount,
    /// What is told of a build.
    Report,
    /// The database.
    Metadata,
    /// What is being written, or was left by the dead.
    Other,
}

/// One thing.
#[derive(Clone, Debug)]
pub struct UsageItem {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub id: String,
    /// What it takes on disk.
    pub bytes: u64,
    /// When it was last used, in seconds since 1970.
    pub used_s: i64,
    /// How long making it anew would take, in milliseconds.
    pub cost_ms: u64,
    /// What made it, if that is known.
    pub made_by: String,
    /// The name of the image that needs it, or that something live does.
    pub needed_by: Option<String>,
    pub(super) place: Place,
}

/// What has to be taken away of a thing.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Layer(i64, SnapshotId),
    Blob(Digest),
    CacheMount(String),
    Report(String),
    Fixed,
}

/// All things.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// The things, those that are worth least first.
    pub items: Vec<UsageItem>,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] =
        [Kind::Layer, Kind::Blob, Kind::CacheMount, Kind::Report, Kind::Metadata, Kind::Other];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Layer => "layer",
            Kind::Blob => "blob",
            Kind::CacheMount => "cache-mount",
            Kind::Report => "report",
            Kind::Metadata => "metadata",
            Kind::Other => "other",
        }
    }
}

impl Usage {
    /// The size of all.
    pub fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).sum()
    }
}

impl UsageItem {
    /// Whether it may be given up.
    pub fn is_reclaimable(&self) -> bool {
        self.needed_by.is_none() && !matches!(self.place, Place::Fixed)
    }

    pub(super) fn leased(&self) -> Option<Leased> {
        match &self.place {
            Place::Layer(id, _) => Some(Leased::Layer(*id)),
            Place::Blob(digest) => Some(Leased::Blob(*digest)),
            _ => None,
        }
    }

    /// Cache mounts are last: nothing can make them anew.
    fn order(&self, now: i64) -> (bool, f64) {
        (self.kind == Kind::CacheMount, worth(self.cost_ms, self.bytes, now - self.used_s))
    }
}

/// What names need.
#[derive(Debug, Default)]
pub(super) struct Pins {
    pub layers: HashMap<DiffId, String>,
    pub blobs: HashMap<Digest, String>,
}

impl Pins {
    /// What the names of a store need: all that their documents name, and their layers.
    pub fn of(store: &Store) -> Result<Pins, WorkerError> {
        let mut pins = Pins::default();
        for row in store.meta.images()? {
            let mut left: Vec<Digest> = vec![row.id];
            left.extend(row.manifest.as_ref().map(|(digest, _)| *digest));
            while let Some(digest) = left.pop() {
                if pins.blobs.insert(digest, row.name.clone()).is_none() {
                    left.extend(named_in(store, &digest));
                }
            }
            for diff_id in &row.diff_ids {
                pins.layers.insert(*diff_id, row.name.clone());
            }
        }
        Ok(pins)
    }
}

/// What a document names; nothing if the blob is none.
fn named_in(store: &Store, digest: &Digest) -> Vec<Digest> {
    let layout = store.content.layout();
    if layout.size(digest).is_none_or(|size| size > DOCUMENT_BYTES_MAX) {
        return Vec::new();
    }
    let Ok(bytes) = layout.read(digest, DOCUMENT_BYTES_MAX) else { return Vec::new() };
    if bytes.first() != Some(&b'{') {
        return Vec::new();
    }
    let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let lists = ["manifests", "layers"].into_iter().filter_map(|key| document.get(key)?.as_array());
    let named = lists.flatten().chain(document.get("config"));
    named.filter_map(|d| d.get("digest")?.as_str()?.parse().ok()).collect()
}

/// Looks at all that a store has. Layers that nobody measured yet are measured now.
pub(crate) fn usage(store: &Store) -> Result<Usage, WorkerError> {
    let (now, pins) = (now_s(), Pins::of(store)?);
    let leased = store.leases.decide()?.leased;
    let mut usage = Usage::default();
    add_layers(store, &pins, &leased, &mut usage)?;
    add_blobs(store, &pins, &leased, &mut usage)?;
    add_folders(store, "cache-mounts", Kind::CacheMount, &mut usage);
    add_folders(store, "builds", Kind::Report, &mut usage);
    for (kind, names) in [
        (Kind::Metadata, &["meta.db", "meta.db-wal", "meta.db-shm", "version", "settings.json"][..]),
        (Kind::Other, &["content/ingest", "tmp", "locks", "leases"]),
    ] {
        for name in names {
            let (bytes, used_s) = weighed(&store.root.join(name));
            usage.items.push(fixed(kind, (*name).to_owned(), bytes, used_s));
        }
    }
    usage.items.retain(|item| item.bytes > 0 || !matches!(item.place, Place::Fixed));
    usage.items.sort_by(|a, b| {
        let (a, b) = (a.order(now), b.order(now));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    Ok(usage)
}

fn fixed(kind: Kind, id: String, bytes: u64, used_s: i64) -> UsageItem {
    let (made_by, needed_by) = (String::new(), Some("the store itself".to_owned()));
    UsageItem { kind, id, bytes, used_s, cost_ms: 0, made_by, needed_by, place: Place::Fixed }
}

fn needed(pin: Option<&String>, leased: bool) -> Option<String> {
    pin.cloned().or_else(|| leased.then(|| "a process that runs".to_owned()))
}

fn add_layers(
    store: &Store,
    pins: &Pins,
    leased: &HashSet<Leased>,
    usage: &mut Usage,
) -> Result<(), WorkerError> {
    // In this order: one that is noted meanwhile is counted with those that are not.
    let mut folders: HashSet<String> = names_in(&store.root.join("snapshots"));
    let (mut measured, mut known) = (Vec::new(), HashSet::new());
    for layer in store.meta.layer_uses()? {
        let name = layer.snapshot.to_string();
        let mut bytes = layer.disk_bytes;
        if bytes == 0 {
            bytes = weighed(&store.root.join("snapshots").join(&name)).0;
            measured.push((layer.id, bytes));
        }
        folders.remove(&name);
        known.insert(name);
        usage.items.push(UsageItem {
            kind: Kind::Layer,
            id: layer.diff_id.0.hex()[..12].to_owned(),
            bytes,
            used_s: layer.used_s,
            cost_ms: layer.cost_ms,
            made_by: layer.made_by,
            needed_by: needed(pins.layers.get(&layer.diff_id), leased.contains(&Leased::Layer(layer.id))),
            place: Place::Layer(layer.id, layer.snapshot),
        });
    }
    if !measured.is_empty() {
        store.meta.set_disk_bytes(&measured)?;
    }
    for name in folders {
        let (bytes, used_s) = weighed(&store.root.join("snapshots").join(&name));
        usage.items.push(fixed(Kind::Other, format!("snapshots/{name}"), bytes, used_s));
    }
    Ok(())
}

fn add_blobs(
    store: &Store,
    pins: &Pins,
    leased: &HashSet<Leased>,
    usage: &mut Usage,
) -> Result<(), WorkerError> {
    let layers: HashSet<DiffId> = store.meta.layer_uses()?.into_iter().map(|layer| layer.diff_id).collect();
    let mut of_layers: BTreeMap<Digest, (DiffId, bool)> = BTreeMap::new();
    for blob in store.meta.blob_uses()? {
        let again = blob.has_origin && layers.contains(&blob.diff_id);
        let entry = of_layers.entry(blob.digest).or_insert((blob.diff_id, again));
        entry.1 |= again;
    }
    for digest in store.content.layout().digests()? {
        let path = store.root.join("content/blobs/sha256").join(digest.hex());
        let Ok(stat) = std::fs::symlink_metadata(&path) else { continue };
        let of_layer = of_layers.get(&digest);
        let mut pin = pins.blobs.get(&digest);
        // A layer that is unpacked needs no blob that can be had again; one that is not has nothing else.
        match of_layer {
            Some((_, true)) => pin = None,
            Some((diff_id, false)) if !layers.contains(diff_id) => pin = pin.or(pins.layers.get(diff_id)),
            _ => {}
        }
        let bytes = stat.blocks() * BLOCK_BYTES;
        usage.items.push(UsageItem {
            kind: Kind::Blob,
            id: digest.hex()[..12].to_owned(),
            bytes,
            used_s: stat.mtime(),
            cost_ms: bytes / BLOB_BYTES_PER_MS,
            made_by: of_layer
                .map(|(diff_id, _)| format!("layer {}", &diff_id.0.hex()[..12]))
                .unwrap_or_default(),
            needed_by: needed(pin, leased.contains(&Leased::Blob(digest))),
            place: Place::Blob(digest),
        });
    }
    Ok(())
}

fn add_folders(store: &Store, folder: &str, kind: Kind, usage: &mut Usage) {
    for name in names_in(&store.root.join(folder)) {
        let (bytes, used_s) = weighed(&store.root.join(folder).join(&name));
        let place = match kind {
            Kind::CacheMount => Place::CacheMount(name.clone()),
            _ => Place::Report(name.clone()),
        };
        let id = name.get(..12).unwrap_or(&name).to_owned();
        let (made_by, needed_by) = (String::new(), None);
        usage.items.push(UsageItem { kind, id, bytes, used_s, cost_ms: 0, made_by, needed_by, place });
    }
}

fn names_in(folder: &Path) -> HashSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name != "empty").collect()
}

/// What a file or folder takes on disk, and when something in it was last written. Of a file with names
/// elsewhere too only its share counts. What goes away meanwhile takes nothing.
pub(super) fn weighed(path: &Path) -> (u64, i64) {
    let (mut shared, mut bytes, mut newest) = (HashMap::new(), 0, 0);
    let mut folders = Vec::new();
    let mut count = |stat: &Metadata| {
        newest = newest.max(stat.mtime());
        if stat.nlink() > 1 && !stat.is_dir() {
            let names = shared.entry((stat.dev(), stat.ino())).or_insert((0u64, stat.nlink(), stat.blocks()));
            names.0 += 1;
        } else {
            bytes += stat.blocks() * BLOCK_BYTES;
        }
    };
    match std::fs::symlink_metadata(path) {
        Ok(stat) if stat.is_dir() => {
            count(&stat);
            folders.push(path.to_owned());
        }
        Ok(stat) => count(&stat),
        Err(_) => {}
    }
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            // Of a link it is the link's own.
            let Ok(stat) = entry.metadata() else { continue };
            count(&stat);
            if stat.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    let of_share = |(here, all, blocks): &(u64, u64, u64)| blocks * BLOCK_BYTES * (*here).min(*all) / all;
    let bytes = bytes + shared.values().map(of_share).sum::<u64>();
    let now = UNIX_EPOCH.elapsed().map_or(newest, |d| d.as_secs() as i64);
    (bytes, newest.min(now))
}
