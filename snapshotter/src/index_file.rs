//! The file of a layer's index: a version, varints, each path as what differs from the one before,
//! and a checksum at the end.
//! It does not know what a layer is for, nor where the file is.
//!
//! ```text
//! "kilnidx\x01"  diff id (32)  tar bytes  entries  links
//!   each entry: shared length, rest of path, tag, fields of the kind, mode, uid, gid, time, xattrs
//!   each link:  path, target
//! SHA-256 of all before (32)
//! ```

use crate::index::{Entry, Kind, LayerIndex, LayerTar, path_order};
use kiln_oci::{DiffId, Digest};
use std::cmp::Ordering;
use std::sync::OnceLock;

const MAGIC: &[u8; 8] = b"kilnidx\x01";
const IMPLIED: u8 = 0x80;
const OPAQUE: u8 = 0x40;

/// The bytes of the file.
pub(crate) fn encode(index: &LayerIndex, tar: &LayerTar) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + index.len() * 96);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(tar.diff_id.0.as_bytes());
    put(&mut out, tar.bytes);
    put(&mut out, index.entries.len() as u64);
    put(&mut out, index.unresolved_links.len() as u64);
    let mut before: &[u8] = b"";
    for (path, entry) in index.iter() {
        let shared = before.iter().zip(path).take_while(|(a, b)| a == b).count();
        put(&mut out, shared as u64);
        put_bytes(&mut out, &path[shared..]);
        put_entry(&mut out, entry);
        before = path;
    }
    for (path, target) in &index.unresolved_links {
        put_bytes(&mut out, path);
        put_bytes(&mut out, target);
    }
    let checksum = Digest::of(&out);
    out.extend_from_slice(checksum.as_bytes());
    out
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    let implied = if entry.implied { IMPLIED } else { 0 };
    match &entry.kind {
        Kind::File { size, digest, link } => {
            out.push(1);
            put(out, *size);
            out.extend_from_slice(digest.as_bytes());
            put(out, u64::from(link.unwrap_or(0)));
        }
        Kind::Directory { opaque } => out.push(2 | implied | if *opaque { OPAQUE } else { 0 }),
        Kind::Symlink { target } => {
            out.push(3);
            put_bytes(out, target);
        }
        Kind::CharDevice { major, minor } => {
            out.push(4);
            put(out, u64::from(*major));
            put(out, u64::from(*minor));
        }
        Kind::BlockDevice { major, minor } => {
            out.push(5);
            put(out, u64::from(*major));
            put(out, u64::from(*minor));
        }
        Kind::Fifo => out.push(6),
        Kind::Whiteout => out.push(7),
    }
    for number in [entry.mode, entry.uid, entry.gid] {
        put(out, u64::from(number));
    }
    // Zigzag: times before 1970 are small numbers too.
    put(out, ((entry.mtime_s << 1) ^ (entry.mtime_s >> 63)) as u64);
    put(out, u64::from(entry.mtime_ns));
    put(out, entry.xattrs.len() as u64);
    for (name, value) in &entry.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The index in `file`, or what is wrong with it.
pub(crate) fn decode(file: &[u8]) -> Result<LayerIndex, &'static str> {
    let (content, checksum) = file.split_last_chunk::<32>().ok_or("it is too short")?;
    if !content.starts_with(MAGIC) {
        return Err("it is not of this version");
    }
    if Digest::of(content).as_bytes() != checksum {
        return Err("its checksum does not match");
    }
    let mut input = Input(&content[MAGIC.len()..]);
    let diff_id = DiffId(input.digest()?);
    let tar = OnceLock::from(LayerTar { diff_id, bytes: input.number()? });
    let entries = input.number()?;
    let links = input.number()?;
    let mut index = LayerIndex { entries: Vec::new(), tar, unresolved_links: Vec::new() };
    let mut path = Vec::new();
    for _ in 0..entries {
        let shared = usize::try_from(input.number()?).map_err(|_| CUT)?;
        if shared > path.len() {
            return Err("a path is no path");
        }
        path.truncate(shared);
        path.extend_from_slice(input.bytes()?);
        if index.entries.last().is_some_and(|(before, _)| path_order(before, &path) != Ordering::Less) {
            return Err("its paths are out of order");
        }
        index.entries.push((path.as_slice().into(), input.entry()?));
    }
    for _ in 0..links {
        index.unresolved_links.push((input.bytes()?.to_vec(), input.bytes()?.to_vec()));
    }
    if input.0.is_empty() { Ok(index) } else { Err("it is too long") }
}

const CUT: &str = "it ends too early";

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(CUT)?;
        self.0 = tail;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, &'static str> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number is too long")
    }

    fn small(&mut self) -> Result<u32, &'static str> {
        u32::try_from(self.number()?).map_err(|_| "a number is too large")
    }

    fn bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let length = usize::try_from(self.number()?).map_err(|_| CUT)?;
        self.take(length)
    }

    fn digest(&mut self) -> Result<Digest, &'static str> {
        let bytes = self.take(32)?;
        Ok(Digest::from_bytes(bytes.try_into().map_err(|_| CUT)?))
    }

    fn entry(&mut self) -> Result<Entry, &'static str> {
        let tag = self.byte()?;
        let kind = match tag & !(IMPLIED | OPAQUE) {
            1 => Kind::File {
                size: self.number()?,
                digest: self.digest()?,
                link: Some(self.small()?).filter(|link| *link != 0),
            },
            2 => Kind::Directory { opaque: tag & OPAQUE != 0 },
            3 => Kind::Symlink { target: self.bytes()?.to_vec() },
            4 => Kind::CharDevice { major: self.small()?, minor: self.small()? },
            5 => Kind::BlockDevice { major: self.small()?, minor: self.small()? },
            6 => Kind::Fifo,
            7 => Kind::Whiteout,
            _ => return Err("a tag is unknown"),
        };
        let (mode, uid, gid) = (self.small()?, self.small()?, self.small()?);
        let zigzag = self.number()?;
        let mtime_s = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        let mtime_ns = self.small()?;
        let mut xattrs = Vec::new();
        for _ in 0..self.number()? {
            xattrs.push((self.bytes()?.to_vec(), self.bytes()?.to_vec()));
        }
        Ok(Entry { kind, mode, uid, gid, mtime_s, mtime_ns, xattrs, implied: tag & IMPLIED != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::{file, layer};

    fn sample() -> LayerIndex {
        let with = |kind| Entry { kind, implied: false, ..Entry::implied_directory() };
        let mut index = layer(vec![
            ("dir", Entry { mtime_s: -5, mtime_ns: 999, ..with(Kind::Directory { opaque: true }) }),
            ("dir/file", Entry { xattrs: vec![(b"user.a".to_vec(), vec![0, 10])], ..file(b"x") }),
            ("dir/gone", with(Kind::Whiteout)),
            ("implied", Entry::implied_directory()),
            ("implied/null", with(Kind::CharDevice { major: 1, minor: 3 })),
            ("l", Entry { uid: u32::MAX, ..with(Kind::Symlink { target: b"../\xff".to_vec() }) }),
            ("p", with(Kind::Fifo)),
            ("sda", with(Kind::BlockDevice { major: 8, minor: 1 << 19 })),
        ]);
        index.unresolved_links.push((b"a".to_vec(), b"b".to_vec()));
        index
    }

    fn encoded(index: &LayerIndex) -> Vec<u8> {
        encode(index, index.tar.get().unwrap_or_else(|| panic!("a sample has a tar")))
    }

    #[test]
    fn an_index_is_read_as_it_was_written() {
        let index = sample();
        assert_eq!(decode(&encoded(&index)), Ok(index));
    }

    #[test]
    fn a_damaged_index_is_never_read() {
        let bytes = encoded(&sample());
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(decode(&flipped).is_err(), "byte {at} flipped");
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
