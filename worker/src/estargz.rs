//! Layers in the form of eStargz (containerd/stargz-snapshotter, docs/estargz.md): a gzip stream that everything
//! reads, and in which each file can be found and inflated by itself. It does not know stores or manifests.
//!
//! ```text
//! member: headers │ member: a file's content, what follows │ member: the next │ … │ member: TOC in a tar │ footer
//! ```
//! As BuildKit does it, the layer's tar is in it byte for byte, its end included, so that the TOC behind it is no file of
//! the layer. The digest of what a gunzip gives is another than the layer's, as it has the TOC too.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::{Compression, GzBuilder};
use jiff::Timestamp;
use kiln_oci::{Digest, Hasher};
use kiln_snapshotter::archive::{Entry, EntryKind, LayerReader, LayerWriter, OwnedEntry, OwnedKind};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;

/// Changes with anything that may change the bytes; a test pins them.
pub(crate) const VERSION: &str = "estargz zlib-rs 0.6.8 chunk 4194304";
/// The annotation of a layer with the digest of its TOC.
pub(crate) const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// The one with the length of what a gunzip gives.
pub(crate) const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// The name of the TOC, which no file of a layer may have.
const TOC_NAME: &str = "stargz.index.json";
/// A file is cut into pieces of this length.
const CHUNK_BYTES: usize = 4 << 20;
/// So much is compressed at once, and in memory.
const BATCH_BYTES: usize = 8 << 20;

/// What a layer became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Estargz {
    /// The digest of the TOC.
    pub toc: Digest,
    /// The digest and the length of what a gunzip gives.
    pub tar: Digest,
    pub tar_bytes: u64,
}

/// Writes the layer whose tar is `tar` to `out`, at a level of gzip.
pub(crate) fn write(tar: &mut dyn Read, out: &mut dyn Write, level: u32) -> io::Result<Estargz> {
    let raw = Rc::new(RefCell::new(Vec::new()));
    let mut reader = LayerReader::new(Recorder { inner: tar, raw: raw.clone() });
    let mut members = Members::new(out, level);
    let mut taken = 0;
    // What the reader has gone by since the last time, as it stands in the tar.
    let mut passed = |offset: u64| {
        let bytes: Vec<u8> = raw.borrow_mut().drain(..(offset - taken) as usize).collect();
        taken = offset;
        bytes
    };
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        members.add(&passed(reader.offset()))?;
        if entry.path == TOC_NAME.as_bytes() {
            return Err(refused("a file with the name of the TOC"));
        }
        if entry.sparse {
            return Err(refused("a sparse file"));
        }
        let first = entries.len();
        entries.push(Listed { said: said(&entry), member: None });
        if entry.kind != OwnedKind::File {
            continue;
        }
        let (mut whole, mut at) = (Hasher::new(), 0);
        while at < entry.size_bytes {
            let left = entry.size_bytes - at;
            let mut chunk = vec![0; left.min(CHUNK_BYTES as u64) as usize];
            reader.read_exact(&mut chunk)?;
            whole.update(&chunk);
            members.cut()?;
            if at > 0 {
                let said = json!({"name": entries[first].said["name"], "type": "chunk", "chunkOffset": at});
                entries.push(Listed { said, member: None });
            }
            if let Some(listed) = entries.last_mut() {
                listed.member = Some(members.count());
                listed.said["chunkDigest"] = Digest::of(&chunk).to_string().into();
                if left >= CHUNK_BYTES as u64 {
                    listed.said["chunkSize"] = CHUNK_BYTES.into();
                }
            }
            members.add(&passed(reader.offset()))?;
            at += chunk.len() as u64;
        }
        entries[first].said["digest"] = whole.finish().to_string().into();
    }
    reader.finish()?;
    let rest = std::mem::take(&mut *raw.borrow_mut());
    members.add(&rest)?;
    members.finish(entries)
}

/// What the TOC lists: an entry, and in which member its content is.
struct Listed {
    said: Value,
    member: Option<usize>,
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{what} can't be in an eStargz layer"))
}

/// What the TOC says of a member of the tar, but for its content.
fn said(entry: &OwnedEntry) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut out = Map::new();
    let (kind, link, device) = match &entry.kind {
        OwnedKind::File => ("reg", None, None),
        OwnedKind::Directory => ("dir", None, None),
        OwnedKind::Symlink { target } => ("symlink", Some(target), None),
        OwnedKind::Hardlink { target } => ("hardlink", Some(target), None),
        OwnedKind::CharDevice { major, minor } => ("char", None, Some((*major, *minor))),
        OwnedKind::BlockDevice { major, minor } => ("block", None, Some((*major, *minor))),
        OwnedKind::Fifo => ("fifo", None, None),
    };
    let mut set = |key: &str, value: Value| {
        // As Go leaves out what is nothing.
        if value != json!(0) {
            out.insert(key.to_owned(), value);
        }
    };
    set("name", text(&entry.path).into());
    set("type", kind.into());
    set("size", entry.size_bytes.into());
    set("mode", entry.mode.into());
    set("uid", entry.uid.into());
    set("gid", entry.gid.into());
    if let Ok(time) = Timestamp::from_second(entry.mtime_s) {
        set("modtime", time.to_string().into());
    }
    if let Some(target) = link {
        set("linkName", text(target).into());
    }
    if let Some((major, minor)) = device {
        set("devMajor", major.into());
        set("devMinor", minor.into());
    }
    if !entry.xattrs.is_empty() {
        let xattr = |(name, value): &(Vec<u8>, Vec<u8>)| (text(name), BASE64_STANDARD.encode(value).into());
        set("xattrs", Value::Object(entry.xattrs.iter().map(xattr).collect()));
    }
    out.into()
}

/// Keeps what is read until somebody takes it.
struct Recorder<'r> {
    inner: &'r mut dyn Read,
    raw: Rc<RefCell<Vec<u8>>>,
}

impl Read for Recorder<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.raw.borrow_mut().extend_from_slice(&buf[..n]);
        Ok(n)
    }
}

/// The members of the gzip stream, some of which are compressed at once.
struct Members<'w> {
    out: &'w mut dyn Write,
    level: Compression,
    /// Where the members begin that are written.
    begins: Vec<u64>,
    written: u64,
    waiting: Vec<Vec<u8>>,
    waiting_bytes: usize,
    current: Vec<u8>,
    hasher: Hasher,
    tar_bytes: u64,
}

impl<'w> Members<'w> {
    fn new(out: &'w mut dyn Write, level: u32) -> Members<'w> {
        Members {
            out,
            level: Compression::new(level),
            begins: Vec::new(),
            written: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
            current: Vec::new(),
            hasher: Hasher::new(),
            tar_bytes: 0,
        }
    }

    /// How many were begun, but for the current one if it is still empty: the number that it will have.
    fn count(&self) -> usize {
        self.begins.len() + self.waiting.len()
    }

    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.tar_bytes += bytes.len() as u64;
        self.current.extend_from_slice(bytes);
        if self.current.len() >= BATCH_BYTES { self.cut() } else { Ok(()) }
    }

    /// What comes next begins a member.
    fn cut(&mut self) -> io::Result<()> {
        if self.current.is_empty() {
            return Ok(());
        }
        self.waiting_bytes += self.current.len();
        self.waiting.push(std::mem::take(&mut self.current));
        if self.waiting_bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.waiting_bytes = 0;
        let level = self.level;
        let waiting = std::mem::take(&mut self.waiting);
        let packed: io::Result<Vec<Vec<u8>>> =
            waiting.into_par_iter().map(|bytes| member(&bytes, level)).collect();
        for bytes in packed? {
            self.begins.push(self.written);
            self.written += bytes.len() as u64;
            self.out.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Writes the TOC and the footer.
    fn finish(mut self, entries: Vec<Listed>) -> io::Result<Estargz> {
        self.cut()?;
        self.flush()?;
        let with_place = |Listed { mut said, member }: Listed| {
            match member.and_then(|number| self.begins.get(number)) {
                Some(0) | None => {}
                Some(begin) => said["offset"] = (*begin).into(),
            }
            said
        };
        let entries: Vec<Value> = entries.into_iter().map(with_place).collect();
        let toc = serde_json::to_vec(&json!({"version": 1, "entries": entries}))?;
        let at = self.written;
        let kind = EntryKind::File { size_bytes: toc.len() as u64 };
        let path = TOC_NAME.as_bytes();
        let entry = Entry { path, kind, mode: 0o444, uid: 0, gid: 0, mtime_s: 0, mtime_ns: 0, xattrs: &[] };
        let mut tar = LayerWriter::new(Vec::new());
        tar.append(&entry, &mut toc.as_slice())?;
        self.add(&tar.finish()?)?;
        self.cut()?;
        self.flush()?;
        self.out.write_all(&footer(at))?;
        Ok(Estargz { toc: Digest::of(&toc), tar: self.hasher.finish(), tar_bytes: self.tar_bytes })
    }
}

/// A member of its own: no time, no name; the operating system is unknown, as Go writes it.
fn member(bytes: &[u8], level: Compression) -> io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().operating_system(255).write(Vec::new(), level);
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// An empty member of 51 bytes that says in its extra field where the member with the TOC begins.
fn footer(toc_at: u64) -> Vec<u8> {
    let field = format!("{toc_at:016x}STARGZ");
    let mut out = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];
    out.extend((4 + field.len() as u16).to_le_bytes());
    out.extend(b"SG");
    out.extend((field.len() as u16).to_le_bytes());
    out.extend(field.as_bytes());
    // One stored block without content, which is the last; CRC-32 and length of nothing.
    out.extend([1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    out
}

#[cfg(test)]
mod tests;
