//! The index of one layer: what each of its paths is, in the order of its tar.
//! It does not know where the files are, nor what lies below the layer.

use crate::node::Xattrs;
use kiln_oci::{DiffId, Digest, Hasher};
use std::cmp::Ordering;
use std::ops::Range;
use std::sync::OnceLock;

/// What a layer holds: paths (bytes, no slash in front, the root not among them) and what is there.
/// Every path's parents are in it too.
#[derive(Debug, PartialEq, Eq)]
pub struct LayerIndex {
    pub(crate) entries: Vec<(Box<[u8]>, Entry)>,
    /// Not there while it is still being worked out.
    pub(crate) tar: OnceLock<LayerTar>,
    /// Hard links of an unpacked tar whose target only a layer below can hold: path and target.
    pub(crate) unresolved_links: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The tar of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerTar {
    pub diff_id: DiffId,
    pub bytes: u64,
}

/// One path of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What is there.
    pub kind: Kind,
    /// The permission bits, with set-id and sticky bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was last written, in seconds since 1970.
    pub mtime_s: i64,
    /// The fraction of that second, in nanoseconds.
    pub mtime_ns: u32,
    /// The extended attributes, sorted by name, without those of the overlay itself.
    pub xattrs: Xattrs,
    /// A directory that the layer's tar did not name, so that it is as the layers below have it.
    pub implied: bool,
}

/// What a path of a layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// How many bytes.
        size: u64,
        /// The digest of these.
        digest: Digest,
        /// The number that all names of one file share, counted from 1 by first name;
        /// `None` for a file with one name.
        link: Option<u32>,
    },
    /// A directory.
    Directory {
        /// Whether it hides what the layers below have in it.
        opaque: bool,
    },
    /// A symbolic link.
    Symlink {
        /// What it says.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// Nothing: whatever the layers below have here is gone.
    Whiteout,
}

/// The order of paths in an index, a view and a tar: by folder, then by name, so that a folder
/// stands right before all that is in it.
pub fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    let common = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    match (a.get(common), b.get(common)) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(b'/'), Some(_)) => Ordering::Less,
        (Some(_), Some(b'/')) => Ordering::Greater,
        (Some(x), Some(y)) => x.cmp(y),
    }
}

impl LayerIndex {
    /// The entry at `path`, which is compared byte by byte.
    pub fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.position(path).map(|at| &self.entries[at].1)
    }

    /// All paths and entries, each folder before what is in it.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &Entry)> {
        self.entries.iter().map(|(path, entry)| (&**path, entry))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the layer changes nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The directories that the tar did not name.
    pub fn implied(&self) -> Vec<Vec<u8>> {
        self.iter().filter(|(_, entry)| entry.implied).map(|(path, _)| path.to_vec()).collect()
    }

    /// The digest of what the layer holds: of everything in it but times. Two layers with equal
    /// content are interchangeable on any stack.
    pub fn content(&self) -> Digest {
        let mut hasher = Hasher::new();
        let mut record = Vec::new();
        for (path, entry) in self.iter() {
            record.clear();
            push_bytes(&mut record, path);
            entry.push_identity(&mut record);
            hasher.update(&record);
        }
        for (path, target) in &self.unresolved_links {
            record.clear();
            record.push(0xff);
            push_bytes(&mut record, path);
            push_bytes(&mut record, target);
            hasher.update(&record);
        }
        hasher.finish()
    }

    pub(crate) fn position(&self, path: &[u8]) -> Option<usize> {
        self.entries.binary_search_by(|(other, _)| path_order(other, path)).ok()
    }

    /// The positions of all that is beneath the directory at `position`; of everything for `None`.
    pub(crate) fn beneath(&self, position: Option<usize>) -> Range<usize> {
        let Some(position) = position else { return 0..self.entries.len() };
        let folder = &self.entries[position].0;
        let inside = |(path, _): &(Box<[u8]>, Entry)| is_beneath(path, folder);
        let rest = &self.entries[position + 1..];
        // Most folders are small: the step doubles until it is past the end.
        let mut step = 1;
        while step < rest.len() && inside(&rest[step]) {
            step *= 2;
        }
        let sure = step / 2;
        let end = sure + rest[sure..step.min(rest.len())].partition_point(inside);
        position + 1..position + 1 + end
    }

    /// What an entry costs in memory, roughly.
    pub(crate) fn weight(&self) -> usize {
        self.entries.iter().map(|(path, _)| path.len() + size_of::<Entry>() + 32).sum()
    }
}

/// Whether `path` lies in the folder `folder`, at any depth.
pub(crate) fn is_beneath(path: &[u8], folder: &[u8]) -> bool {
    path.len() > folder.len() && path.starts_with(folder) && path[folder.len()] == b'/'
}

impl Entry {
    /// A directory that exists only because something is in it.
    pub(crate) fn implied_directory() -> Entry {
        Entry {
            kind: Kind::Directory { opaque: false },
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime_s: 0,
            mtime_ns: 0,
            xattrs: Vec::new(),
            implied: true,
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }

    /// Appends all that tells this entry from another, but its times, to `out`: every field with
    /// its length or of fixed length, after a tag, so that no two entries give the same bytes.
    pub fn push_identity(&self, out: &mut Vec<u8>) {
        let Entry { kind, mode, uid, gid, mtime_s: _, mtime_ns: _, xattrs, implied } = self;
        match kind {
            Kind::File { size, digest, link } => {
                out.push(1);
                out.extend_from_slice(&size.to_le_bytes());
                out.extend_from_slice(digest.as_bytes());
                out.extend_from_slice(&link.unwrap_or(0).to_le_bytes());
            }
            Kind::Directory { opaque } => out.extend_from_slice(&[2, u8::from(*opaque)]),
            Kind::Symlink { target } => {
                out.push(3);
                push_bytes(out, target);
            }
            Kind::CharDevice { major, minor } => push_device(out, 4, *major, *minor),
            Kind::BlockDevice { major, minor } => push_device(out, 5, *major, *minor),
            Kind::Fifo => out.push(6),
            Kind::Whiteout => return out.push(7),
        }
        if *implied {
            return out.push(1);
        }
        out.push(0);
        for number in [mode, uid, gid] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&(xattrs.len() as u64).to_le_bytes());
        for (name, value) in xattrs {
            push_bytes(out, name);
            push_bytes(out, value);
        }
    }
}

fn push_device(out: &mut Vec<u8>, tag: u8, major: u32, minor: u32) {
    out.push(tag);
    out.extend_from_slice(&major.to_le_bytes());
    out.extend_from_slice(&minor.to_le_bytes());
}

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Puts entries in order and drops all but the last of each path.
pub(crate) fn sorted(mut entries: Vec<(Box<[u8]>, Entry)>) -> Vec<(Box<[u8]>, Entry)> {
    entries.sort_by(|a, b| path_order(&a.0, &b.0));
    entries
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn file(text: &[u8]) -> Entry {
        Entry {
            kind: Kind::File { size: text.len() as u64, digest: Digest::of(text), link: None },
            implied: false,
            ..Entry::implied_directory()
        }
    }

    pub(crate) fn layer(entries: Vec<(&str, Entry)>) -> LayerIndex {
        let entries = entries.into_iter().map(|(path, entry)| (path.as_bytes().into(), entry)).collect();
        LayerIndex {
            entries: sorted(entries),
            tar: OnceLock::from(LayerTar { diff_id: DiffId(Digest::of(b"")), bytes: 0 }),
            unresolved_links: Vec::new(),
        }
    }

    #[test]
    fn a_folder_stands_right_before_what_is_in_it() {
        let mut paths: Vec<&[u8]> = vec![b"a/b", b"a.txt", b"a", b"a/b/c", b"a-", b"ab", b"a/b!"];
        paths.sort_by(|a, b| path_order(a, b));
        assert_eq!(paths, [&b"a"[..], b"a/b", b"a/b/c", b"a/b!", b"a-", b"a.txt", b"ab"]);
    }

    #[test]
    fn what_is_beneath_a_folder_is_found_whatever_stands_around_it() {
        let names: Vec<String> = (0..100).map(|n| format!("d/{n:03}")).collect();
        let mut entries = vec![("a", file(b"")), ("d", Entry::implied_directory()), ("d.x", file(b""))];
        entries.extend(names.iter().map(|name| (name.as_str(), file(b"x"))));
        let index = layer(entries);
        let folder = index.position(b"d");
        assert_eq!(index.beneath(folder), 2..102);
        assert_eq!(index.beneath(index.position(b"a")), 1..1);
        assert_eq!(index.beneath(index.position(b"d.x")), 103..103);
        assert_eq!(index.beneath(None), 0..103);
    }

    #[test]
    fn content_ignores_times_and_sees_everything_else() {
        let plain = layer(vec![("f", file(b"x"))]).content();
        let changed = |change: &dyn Fn(&mut Entry)| {
            let mut entry = file(b"x");
            change(&mut entry);
            layer(vec![("f", entry)]).content()
        };
        assert_eq!(plain, changed(&|entry| (entry.mtime_s, entry.mtime_ns) = (7, 8)));
        assert_ne!(plain, changed(&|entry| entry.mode = 0o600));
        assert_ne!(plain, changed(&|entry| entry.uid = 1));
        assert_ne!(plain, changed(&|entry| entry.gid = 1));
        assert_ne!(plain, changed(&|entry| entry.xattrs = vec![(b"user.a".to_vec(), Vec::new())]));
        assert_ne!(plain, changed(&|entry| entry.kind = Kind::Whiteout));
        assert_ne!(plain, layer(vec![("g", file(b"x"))]).content());
        assert_ne!(plain, layer(vec![("f", file(b"y"))]).content());
    }
}
