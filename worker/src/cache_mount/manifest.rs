//! What a packed cache mount is: a manifest of its tree, and pieces that hold the bytes of its files.
//!
//! The manifest is JSON in zstd. A *unit* is a run of pieces that, unpacked one after the other, are the contents
//! of its files one after the other: a large file alone in several pieces, or small files together in one. A
//! manifest that was read is checked: its paths stay beneath the root and lie in folders that it has itself.
//! It does not know where pieces are, nor how files become units.

use super::chunks;
use crate::WorkerError;
use kiln_oci::{Descriptor, Digest, Hasher, MediaType};
use kiln_snapshotter::compress::{Compression, Encoder, decoder};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::PathBuf;

/// The media type of a manifest.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.kiln.cache-mount.v1+zstd";
/// The media type of a piece.
pub(crate) const PIECE_TYPE: &str = "application/vnd.kiln.cache-mount.piece.v1+zstd";
/// A longer manifest is refused.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// The same of one that is unpacked.
const TEXT_BYTES_MAX: u64 = 512 << 20;
/// The most that a piece holds.
pub(super) const PIECE_BYTES_MAX: u64 = 2 * chunks::BYTES_MAX as u64;
/// What zstd may add to it.
const PIECE_SLACK_BYTES: u64 = 64 << 10;
const PATH_BYTES_MAX: usize = 4096;
const VERSION: u32 = 1;
/// Of every manifest and piece: with another level unchanged files would become other pieces.
const ZSTD_LEVEL: i32 = 3;

/// Why a cache mount could not be listed, removed, packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum CacheMountError {
    /// There is none of that id.
    #[error("no cache mount `{0}` in the store; `kiln cache-mount ls` lists them")]
    NoMount(String),
    /// It was made by a kiln that kept no ids.
    #[error("the cache mount {0} has no id yet: it gets one when a build uses it")]
    Nameless(String),
    /// A step uses it.
    #[error("the cache mount {id} is used by a step that runs{}: try again once that build has ended", by(.holder))]
    InUse {
        /// Its id.
        id: String,
        /// The process that holds it alone, if it is known.
        holder: Option<u32>,
    },
    /// A manifest can't be used.
    #[error("the manifest of a cache mount can't be used: {0}")]
    Manifest(&'static str),
    /// A manifest is no JSON, or not of the right shape.
    #[error("the manifest of a cache mount is not valid: {0}")]
    Shape(#[from] serde_json::Error),
    /// A piece or a file of it has other bytes than it should.
    #[error("the cache mount {id} is damaged: {what} has the wrong content")]
    Damaged {
        /// Its id.
        id: String,
        /// The digest of a piece, or the path of a file.
        what: String,
    },
    /// A folder for cache mounts has something else in it.
    #[error("{0} has other things in it than cache mounts: name another folder")]
    NotOurs(PathBuf),
    /// A folder of cache mounts has none of that id.
    #[error("{folder} has no cache mount `{id}`")]
    NotThere {
        /// The folder.
        folder: PathBuf,
        /// The id that was asked for.
        id: String,
    },
    /// What should be a tar is none.
    #[error("{0} is neither a folder of cache mounts nor a tar of one")]
    NotATar(PathBuf),
}

fn by(holder: &Option<u32>) -> String {
    holder.map_or_else(String::new, |holder| format!(" (process {holder})"))
}

/// A packed cache mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub version: u32,
    pub id: String,
    /// What it began with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub begins: String,
    /// The folder that is mounted.
    pub root: Node,
    pub units: Vec<Unit>,
    /// All that is no file.
    pub others: Vec<Other>,
}

/// Files, and the pieces that hold their contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unit {
    /// What stands for the contents of its files: see [`content_of`]. One for all, as digests are most of what a
    /// manifest has to say anew each time.
    pub content: Digest,
    pub pieces: Vec<Piece>,
    pub files: Vec<FileNode>,
}

/// A blob with a part of a unit's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    pub digest: Digest,
    /// Of the blob.
    pub size: u64,
    /// Of what it holds.
    pub holds: u64,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileNode {
    pub node: Node,
    pub size: u64,
}

/// Something that is no file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Other {
    pub node: Node,
    pub kind: OtherKind,
}

/// What something is that is no file. Devices and sockets are no part of a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OtherKind {
    Folder,
    /// With its target.
    Symlink(Bytes),
    /// Another name of this file.
    Hardlink(Bytes),
    Fifo,
}

/// What is known of anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    /// No slash at either end; empty for the root.
    pub path: Bytes,
    pub mode: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<(Bytes, Bytes)>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Bytes that are mostly text. In JSON they are text; `%` and what is no UTF-8 is `%` and two digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(self.0.len());
        for chunk in self.0.utf8_chunks() {
            text.push_str(&chunk.valid().replace('%', "%25"));
            for byte in chunk.invalid() {
                text.push_str(&format!("%{byte:02x}"));
            }
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut parts = text.split('%');
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            let code = part.get(..2).filter(|code| code.bytes().all(|c| c.is_ascii_hexdigit()));
            let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
            bytes.push(byte.ok_or_else(|| serde::de::Error::custom("a % without two digits"))?);
            bytes.extend_from_slice(&part.as_bytes()[2..]);
        }
        Ok(Bytes(bytes))
    }
}

impl Piece {
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(MediaType::Other(PIECE_TYPE.to_owned()), self.digest, self.size)
    }
}

impl Manifest {
    pub fn new(id: &str, begins: &str, root: Node) -> Manifest {
        let (id, begins) = (id.to_owned(), begins.to_owned());
        Manifest { version: VERSION, id, begins, root, units: Vec::new(), others: Vec::new() }
    }

    /// The same as a blob.
    pub fn to_blob(&self) -> Result<Vec<u8>, WorkerError> {
        let text = serde_json::to_vec(self).map_err(CacheMountError::Shape)?;
        compressed(&text)
    }

    /// Reads a blob.
    pub fn from_blob(blob: &[u8]) -> Result<Manifest, WorkerError> {
        let refuse = |reason| Err(CacheMountError::Manifest(reason).into());
        if blob.len() as u64 > MANIFEST_BYTES_MAX {
            return refuse("it is too large");
        }
        let mut text = Vec::new();
        let read =
            decoder(blob, Compression::Zstd).and_then(|d| d.take(TEXT_BYTES_MAX).read_to_end(&mut text));
        match read {
            Ok(read) if (read as u64) < TEXT_BYTES_MAX => {}
            Ok(_) => return refuse("it is too large"),
            Err(_) => return refuse("it is no zstd"),
        }
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let head: Head = serde_json::from_slice(&text).map_err(CacheMountError::Shape)?;
        if head.version != VERSION {
            return refuse("it is of another version");
        }
        let manifest: Manifest = serde_json::from_slice(&text).map_err(CacheMountError::Shape)?;
        manifest.check().map_err(CacheMountError::Manifest)?;
        Ok(manifest)
    }

    /// All pieces, each once.
    pub fn pieces(&self) -> Vec<Descriptor> {
        let mut seen = HashSet::new();
        let all = self.units.iter().flat_map(|unit| &unit.pieces);
        all.filter(|piece| seen.insert(piece.digest)).map(Piece::descriptor).collect()
    }

    fn check(&self) -> Result<(), &'static str> {
        let mut folders: HashSet<&[u8]> = HashSet::from([&b""[..]]);
        let mut paths: HashSet<&[u8]> = HashSet::new();
        let mut files: HashSet<&[u8]> = HashSet::new();
        for file in self.units.iter().flat_map(|unit| &unit.files) {
            file.node.check(&mut paths)?;
            files.insert(&file.node.path.0);
        }
        for Other { node, kind } in &self.others {
            node.check(&mut paths)?;
            match kind {
                OtherKind::Folder => drop(folders.insert(&node.path.0)),
                OtherKind::Hardlink(target) if !files.contains(&*target.0) => {
                    return Err("a link leads to no file of it");
                }
                OtherKind::Symlink(target) if target.0.contains(&0) || target.0.is_empty() => {
                    return Err("a link has no target");
                }
                OtherKind::Symlink(_) | OtherKind::Hardlink(_) | OtherKind::Fifo => {}
            }
        }
        if !paths.iter().all(|path| folders.contains(parent(path))) {
            return Err("something lies in what is no folder of it");
        }
        if !self.root.path.0.is_empty() || self.root.mode > 0o7777 {
            return Err("it has no root");
        }
        self.units.iter().try_for_each(Unit::check)
    }
}

impl Unit {
    fn check(&self) -> Result<(), &'static str> {
        let limits = |p: &Piece| p.holds <= PIECE_BYTES_MAX && p.size <= PIECE_BYTES_MAX + PIECE_SLACK_BYTES;
        if !self.pieces.iter().all(limits) {
            return Err("a piece is too large");
        }
        let held = self.pieces.iter().map(|piece| piece.holds).fold(0, u64::saturating_add);
        let wanted = self.files.iter().map(|file| file.size).fold(0, u64::saturating_add);
        if held == wanted { Ok(()) } else { Err("its pieces are not as long as its files") }
    }
}

impl Node {
    fn check<'a>(&'a self, paths: &mut HashSet<&'a [u8]>) -> Result<(), &'static str> {
        let path = &self.path.0;
        let is_name = |name: &[u8]| !name.is_empty() && name != b"." && name != b".." && !name.contains(&0);
        if path.len() > PATH_BYTES_MAX || !path.split(|c| *c == b'/').all(is_name) {
            return Err("a path leads out of it");
        }
        if self.mode > 0o7777 || self.mtime.1 >= 1_000_000_000 {
            return Err("a mode or time is none");
        }
        if paths.insert(path) { Ok(()) } else { Err("it has a path twice") }
    }
}

/// What stands for the contents of files that are packed together: the digest of their digests.
pub(super) fn content_of(digests: impl IntoIterator<Item = Digest>) -> Digest {
    let mut hasher = Hasher::new();
    digests.into_iter().for_each(|digest| hasher.update(digest.as_bytes()));
    hasher.finish()
}

/// The folder of a path.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|c| *c == b'/').map_or(b"", |at| &path[..at])
}

/// Some bytes as a blob, always the same.
pub(super) fn compressed(bytes: &[u8]) -> Result<Vec<u8>, WorkerError> {
    let encoder = Encoder::new(Vec::new(), Compression::Zstd, Some(ZSTD_LEVEL));
    let done = encoder.and_then(|mut encoder| encoder.write_all(bytes).and_then(|()| encoder.finish()));
    done.map_err(WorkerError::io("compress", "a piece of a cache mount"))
}

/// What a blob holds, if it is the piece that it should be.
pub(super) fn decompressed(blob: &[u8], piece: &Piece) -> Option<Vec<u8>> {
    if blob.len() as u64 != piece.size || Digest::of(blob) != piece.digest {
        return None;
    }
    let mut bytes = Vec::new();
    decoder(blob, Compression::Zstd).ok()?.take(piece.holds + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 == piece.holds).then_some(bytes)
}

#[cfg(test)]
mod tests;
