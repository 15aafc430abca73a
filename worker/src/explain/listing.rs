//! What a selection of files consists of, in few bytes, so that two can be compared later.
//!
//! ```text
//! for each file: shared (bytes of its path as before), rest (length and bytes), type, mode, owner, group,
//!                8 bytes of the digest of all else that counts
//! numbers are LEB128; a listing that would be too long ends with a file of type 255
//! ```
//! It does not know where files are, or why they are read.

use crate::report::FileChange;
use kiln_snapshotter::NodeType;
use std::collections::BTreeMap;

/// A longer listing is not kept whole.
const BYTES_MAX: usize = 8 << 20;
/// The type of the entry that says that more files are missing.
const CUT: u8 = 255;
/// What a path and its numbers may take at most besides the path itself.
const TAIL_BYTES: usize = 8;

/// A listing that is being written.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    bytes: Vec<u8>,
    last: Vec<u8>,
    is_cut: bool,
}

/// What counts of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rest: [u8; TAIL_BYTES],
}

/// A difference between two listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub path: String,
    pub change: FileChange,
    pub old: Option<String>,
    pub new: Option<String>,
}

impl Listing {
    /// Adds a file.
    pub fn add(&mut self, path: &[u8], file: Listed) {
        if self.is_cut {
            return;
        }
        if self.bytes.len() > BYTES_MAX {
            self.is_cut = true;
        }
        let shared = path.iter().zip(&self.last).take_while(|(a, b)| a == b).count();
        let kind = if self.is_cut { CUT } else { file.kind };
        number(&mut self.bytes, shared as u64);
        number(&mut self.bytes, (path.len() - shared) as u64);
        self.bytes.extend_from_slice(&path[shared..]);
        self.bytes.push(kind);
        for n in [file.mode, file.uid, file.gid] {
            number(&mut self.bytes, u64::from(n));
        }
        self.bytes.extend_from_slice(&file.rest);
        self.last.clear();
        self.last.extend_from_slice(path);
    }

    /// All of it.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The byte that stands for a type.
pub(crate) fn kind_byte(kind: NodeType) -> u8 {
    match kind {
        NodeType::File => b'-',
        NodeType::Directory => b'd',
        NodeType::Symlink => b'l',
        NodeType::CharDevice => b'c',
        NodeType::BlockDevice => b'b',
        NodeType::Fifo => b'p',
        NodeType::Socket => b's',
    }
}

fn kind_name(kind: u8) -> &'static str {
    match kind {
        b'-' => "file",
        b'd' => "folder",
        b'l' => "link",
        b'c' | b'b' => "device",
        b'p' => "pipe",
        _ => "socket",
    }
}

/// What differs between two listings, by path; `None` if they can't be compared to their ends.
pub(crate) fn differences(old: &[u8], new: &[u8]) -> Option<Vec<Difference>> {
    let (old, new) = (read(old)?, read(new)?);
    let mut out = Vec::new();
    for (path, file) in &new {
        match old.get(path) {
            None => out.push(difference(path, FileChange::Added, None, None)),
            Some(before) if before != file => out.push(changed(path, *before, *file)),
            Some(_) => {}
        }
    }
    let gone = old.keys().filter(|path| !new.contains_key(*path));
    out.extend(gone.map(|path| difference(path, FileChange::Removed, None, None)));
    out.sort_by(|a, b| a.path.cmp(&b.path));
    Some(out)
}

fn difference(path: &[u8], change: FileChange, old: Option<String>, new: Option<String>) -> Difference {
    Difference { path: String::from_utf8_lossy(path).into_owned(), change, old, new }
}

fn changed(path: &[u8], old: Listed, new: Listed) -> Difference {
    let of = |change, text: fn(Listed) -> String| difference(path, change, Some(text(old)), Some(text(new)));
    if old.kind != new.kind {
        of(FileChange::Type, |file| kind_name(file.kind).to_owned())
    } else if old.rest != new.rest {
        difference(path, FileChange::Changed, None, None)
    } else if old.mode != new.mode {
        of(FileChange::Mode, |file| format!("{:04o}", file.mode & 0o7777))
    } else {
        of(FileChange::Owner, |file| format!("{}:{}", file.uid, file.gid))
    }
}

fn read(bytes: &[u8]) -> Option<BTreeMap<Vec<u8>, Listed>> {
    let (mut rest, mut files) = (bytes, BTreeMap::new());
    let mut path: Vec<u8> = Vec::new();
    while !rest.is_empty() {
        let shared = usize::try_from(take_number(&mut rest)?).ok()?;
        let len = usize::try_from(take_number(&mut rest)?).ok()?;
        path.truncate(shared);
        path.extend_from_slice(rest.get(..len)?);
        rest = &rest[len..];
        let (kind, after) = rest.split_first()?;
        rest = after;
        let mut next = || u32::try_from(take_number(&mut rest)?).ok();
        let (mode, uid, gid) = (next()?, next()?, next()?);
        let tail = rest.get(..TAIL_BYTES)?.try_into().ok()?;
        rest = &rest[TAIL_BYTES..];
        if *kind == CUT {
            return None;
        }
        files.insert(path.clone(), Listed { kind: *kind, mode, uid, gid, rest: tail });
    }
    Some(files)
}

fn number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn take_number(from: &mut &[u8]) -> Option<u64> {
    let mut n = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Listed = Listed { kind: b'-', mode: 0o644, uid: 0, gid: 0, rest: [1; 8] };

    fn listing(files: &[(&str, Listed)]) -> Vec<u8> {
        let mut listing = Listing::default();
        for (path, file) in files {
            listing.add(path.as_bytes(), *file);
        }
        listing.into_bytes()
    }

    fn differ(old: &[(&str, Listed)], new: &[(&str, Listed)]) -> Vec<String> {
        let found = differences(&listing(old), &listing(new)).unwrap_or_default();
        let show = |d: Difference| {
            let text = |t: Option<String>| t.map_or_else(String::new, |t| format!(" {t}"));
            format!("{} {:?}{}{}", d.path, d.change, text(d.old), text(d.new))
        };
        found.into_iter().map(show).collect()
    }

    #[test]
    fn each_kind_of_difference_is_told_apart() {
        let before = [("a", FILE), ("d/one", FILE), ("d/two", FILE), ("z", FILE)];
        assert_eq!(differ(&before, &before), [""; 0]);
        let now = |change: fn(&mut Listed)| {
            let mut file = FILE;
            change(&mut file);
            differ(&before, &[before[0], ("d/one", file), before[2], before[3]])
        };
        assert_eq!(now(|f| f.rest[7] = 2), ["d/one Changed"]);
        assert_eq!(now(|f| f.mode = 0o4755), ["d/one Mode 0644 4755"]);
        assert_eq!(now(|f| f.gid = 1000), ["d/one Owner 0:0 0:1000"]);
        assert_eq!(now(|f| f.kind = b'l'), ["d/one Type file link"]);
        assert_eq!(
            differ(&before, &[before[0], ("b", FILE), before[1]]),
            ["b Added", "d/two Removed", "z Removed"]
        );
    }

    #[test]
    fn twenty_thousand_files_take_little_and_what_is_too_long_is_not_guessed_at() {
        let paths: Vec<String> =
            (0..20_000).map(|n| format!("packages/{}/src/file-{n}.rs", n / 100)).collect();
        let files: Vec<(&str, Listed)> = paths.iter().map(|path| (path.as_str(), FILE)).collect();
        let bytes = listing(&files);
        assert!(bytes.len() < 20_000 * 24, "{}", bytes.len());
        assert_eq!(differences(&bytes, &bytes), Some(Vec::new()));
        let mut long = Listing::default();
        for n in 0..800_000 {
            long.add(format!("{n:07}").as_bytes(), FILE);
        }
        assert_eq!(differences(&long.into_bytes(), &bytes), None);
    }

    #[test]
    fn what_is_cut_short_is_no_listing() {
        let bytes = listing(&[("some/path", FILE), ("some/other", FILE)]);
        let half = listing(&[("some/path", FILE)]).len();
        for end in (1..bytes.len()).filter(|end| *end != half) {
            assert_eq!(read(&bytes[..end]), None, "{end}");
        }
    }
}
