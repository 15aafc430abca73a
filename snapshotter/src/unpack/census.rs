//! What a layer that is being unpacked holds so far, from which its index is made at the end.
//! It does not know the file system: whoever changes that tells the census.

use crate::archive::{OwnedEntry, OwnedKind};
use crate::commit::whiteout;
use crate::error::SnapshotError;
use crate::index::{Entry, Kind, is_beneath, path_order};
use kiln_oci::Digest;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;

#[derive(Default)]
pub(super) struct Census {
    slots: BTreeMap<Key, Slot>,
    /// Paths at which this layer hides what is below, whatever has taken the whiteout's place.
    hidden: HashSet<Vec<u8>>,
    unresolved: Vec<(Vec<u8>, Vec<u8>)>,
    /// The digests of the files by number, as far as they are known.
    digests: Vec<Option<Digest>>,
    replaced: bool,
}

struct Slot {
    entry: Entry,
    /// The number of the file that is at this path, shared by all its names.
    number: usize,
}

/// A path, ordered as in an index.
#[derive(PartialEq, Eq)]
struct Key(Box<[u8]>);

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        path_order(&self.0, &other.0)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Census {
    pub(super) fn contains(&self, path: &[u8]) -> bool {
        self.slot(path).is_some()
    }

    pub(super) fn is_dir(&self, path: &[u8]) -> bool {
        path.is_empty() || self.slot(path).is_some_and(|slot| slot.entry.is_dir())
    }

    pub(super) fn is_whiteout(&self, path: &[u8]) -> bool {
        self.slot(path).is_some_and(|slot| slot.entry.kind == Kind::Whiteout)
    }

    pub(super) fn is_hidden(&self, path: &[u8]) -> bool {
        self.hidden.contains(path)
    }

    /// Whether anything has been removed since this was last asked.
    pub(super) fn take_replaced(&mut self) -> bool {
        std::mem::take(&mut self.replaced)
    }

    /// Forgets what is at `path` and beneath it. Tells whether there was anything.
    pub(super) fn remove(&mut self, path: &[u8]) -> bool {
        self.unresolved.retain(|(link, _)| link != path && !is_beneath(link, path));
        let Some(slot) = self.slots.remove(&Key(path.into())) else { return false };
        self.replaced = true;
        match slot.entry.kind {
            Kind::Whiteout | Kind::Directory { opaque: true } => {
                self.hidden.insert(path.to_vec());
            }
            _ => {}
        }
        if slot.entry.is_dir() {
            let start = Bound::Excluded(Key(path.into()));
            let beneath = self.slots.range((start, Bound::Unbounded)).map(|(key, _)| &key.0);
            let inside: Vec<Box<[u8]>> = beneath.take_while(|key| is_beneath(key, path)).cloned().collect();
            for key in inside {
                self.slots.remove(&Key(key));
            }
        }
        true
    }

    /// Adds anything but a directory or a hard link; its number is what its digest is known by.
    pub(super) fn add(&mut self, path: &[u8], entry: &OwnedEntry) -> usize {
        let kind = match &entry.kind {
            OwnedKind::Symlink { target } => Kind::Symlink { target: target.clone() },
            OwnedKind::CharDevice { major, minor } => Kind::CharDevice { major: *major, minor: *minor },
            OwnedKind::BlockDevice { major, minor } => Kind::BlockDevice { major: *major, minor: *minor },
            OwnedKind::Fifo => Kind::Fifo,
            _ => Kind::File { size: entry.size_bytes, digest: Digest::from_bytes([0; 32]), link: None },
        };
        let number = self.digests.len();
        self.digests.push(None);
        self.insert(path, described(kind, entry), number);
        number
    }

    pub(super) fn directory(&mut self, path: &[u8], entry: &OwnedEntry) {
        let was_opaque = matches!(
            self.slot(path),
            Some(Slot { entry: Entry { kind: Kind::Directory { opaque: true }, .. }, .. })
        );
        let opaque = was_opaque || self.is_hidden(path);
        self.insert(path, described(Kind::Directory { opaque }, entry), 0);
    }

    pub(super) fn implied(&mut self, path: &[u8]) {
        let opaque = self.is_hidden(path);
        let entry = Entry { kind: Kind::Directory { opaque }, ..Entry::implied_directory() };
        self.insert(path, entry, 0);
    }

    pub(super) fn whiteout(&mut self, path: &[u8]) {
        self.insert(path, whiteout(), 0);
    }

    pub(super) fn opaque(&mut self, path: &[u8]) {
        if let Some(slot) = self.slots.get_mut(&Key(path.into()))
            && let Kind::Directory { opaque } = &mut slot.entry.kind
        {
            *opaque = true;
        }
    }

    /// `path` is another name of what is at `target`.
    pub(super) fn link(&mut self, path: &[u8], target: &[u8]) {
        if let Some(slot) = self.slot(target) {
            let (entry, number) = (slot.entry.clone(), slot.number);
            self.insert(path, entry, number);
        }
    }

    /// `path` should be another name of `target`, which is not in this layer.
    pub(super) fn unresolved(&mut self, path: &[u8], target: &[u8]) {
        self.unresolved.push((path.to_vec(), target.to_vec()));
    }

    pub(super) fn learn(&mut self, digests: Vec<(usize, Digest)>) {
        for (number, digest) in digests {
            self.digests[number] = Some(digest);
        }
    }

    /// Calls `visit` for every directory, after those in it.
    pub(super) fn directories(
        &self,
        mut visit: impl FnMut(&[u8], &Entry) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let folders = self.slots.iter().rev().filter(|(_, slot)| slot.entry.is_dir());
        for (key, slot) in folders {
            visit(&key.0, &slot.entry)?;
        }
        Ok(())
    }

    /// All entries in order, and the links that are unresolved.
    #[allow(clippy::type_complexity, reason = "the two lists of an index")]
    pub(super) fn finish(self) -> (Vec<(Box<[u8]>, Entry)>, Vec<(Vec<u8>, Vec<u8>)>) {
        let mut names: HashMap<usize, u32> = HashMap::new();
        for slot in self.slots.values().filter(|slot| matches!(slot.entry.kind, Kind::File { .. })) {
            *names.entry(slot.number).or_default() += 1;
        }
        let mut groups: HashMap<usize, u32> = HashMap::new();
        let mut entries = Vec::with_capacity(self.slots.len());
        for (Key(path), Slot { mut entry, number }) in self.slots {
            if let Kind::File { digest, link, .. } = &mut entry.kind {
                if let Some(known) = self.digests[number] {
                    *digest = known;
                }
                if names[&number] > 1 {
                    let next = groups.len() as u32 + 1;
                    *link = Some(*groups.entry(number).or_insert(next));
                }
            }
            entries.push((path, entry));
        }
        (entries, self.unresolved)
    }

    fn slot(&self, path: &[u8]) -> Option<&Slot> {
        self.slots.get(&Key(path.into()))
    }

    fn insert(&mut self, path: &[u8], entry: Entry, number: usize) {
        self.slots.insert(Key(path.into()), Slot { entry, number });
    }
}

fn described(kind: Kind, entry: &OwnedEntry) -> Entry {
    let OwnedEntry { mode, uid, gid, mtime_s, mtime_ns, xattrs, .. } = entry;
    Entry {
        kind,
        mode: *mode,
        uid: *uid,
        gid: *gid,
        mtime_s: *mtime_s,
        mtime_ns: *mtime_ns,
        xattrs: xattrs.clone(),
        implied: false,
    }
}
