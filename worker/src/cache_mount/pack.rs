//! Packs cache mounts: small files together in groups, large ones cut, each a piece that has the same bytes
//! whenever and wherever its files have.
//!
//! Where a group ends depends on the path and the rough size of its last file alone, so that a file that
//! changes changes its own group, and one that is new at most splits one. What was packed before is not read
//! again: files are known by their times (see `memo`), groups and large files by the digests of their contents.
//! A file that is written to while it is read is read again, and at last left out. It does not know where pieces go.

use super::chunks::Chunks;
use super::manifest::{
    FileNode, MANIFEST_TYPE, Manifest, PIECE_BYTES_MAX, Piece, Unit, compressed, content_of,
};
use super::scan::{Found, node, scan, unless_gone};
use super::{Waiting, current, familiar, folder_of, locked, name};
use crate::WorkerError;
use crate::memo::Memo;
use crate::meta::CacheMountRow;
use crate::output::stopping;
use crate::store::{Sharing, Store};
use kiln_oci::{Descriptor, Digest, Hasher, Layout, MediaType};
use kiln_runner::CancelToken;
use kiln_snapshotter::{NodeStat, NodeType, Tree};
use rayon::prelude::*;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

/// From this size on a file is cut, and shares no piece with others.
const LARGE_BYTES: u64 = 1 << 20;
/// How many bytes a group has on average.
const GROUP_BYTES: u64 = 128 << 10;
/// What a file counts for besides its bytes.
const FILE_BYTES: u64 = 512;
/// How often a file that changes is read again.
const TRIES: usize = 3;

/// A packed cache mount.
#[derive(Clone, Debug)]
pub(crate) struct PackedMount {
    /// Its id, as the user wrote it.
    pub id: String,
    /// What tells it from others of that id, which begin with something else.
    pub name: String,
    /// What names all its pieces.
    pub manifest: Descriptor,
    /// The pieces.
    pub pieces: Vec<Descriptor>,
}

/// Packs all cache mounts of an id. Blobs are put into the store's content, unless `known` says that they are
/// where they go already. A cache that steps hold alone is waited for.
pub(crate) fn pack(
    store: &Store,
    id: &str,
    known: &(dyn Fn(&Digest) -> bool + Sync),
    cancel: &CancelToken,
) -> Result<Vec<PackedMount>, WorkerError> {
    let packer = Packer { store, content: store.content.layout(), known, waiting: &Waiting::silent(cancel) };
    packer.pack(id)
}

/// What packing needs.
pub(super) struct Packer<'a> {
    pub store: &'a Store,
    /// Where blobs go.
    pub content: &'a Layout,
    pub known: &'a (dyn Fn(&Digest) -> bool + Sync),
    pub waiting: &'a Waiting<'a>,
}

/// One cache on its way.
struct Packing<'a> {
    packer: &'a Packer<'a>,
    tree: Tree,
    memo: Memo,
    /// What contents became, to be remembered.
    new: Mutex<Vec<(Digest, String)>>,
}

/// What becomes a unit.
enum Part {
    Large(Found),
    Group(Vec<Found>),
}

impl Packer<'_> {
    pub fn pack(&self, id: &str) -> Result<Vec<PackedMount>, WorkerError> {
        let rows = self.store.meta.cache_mounts()?.into_iter();
        // What private steps had besides the first cache is only more of the same.
        let rows = rows.filter(|row| familiar(&row.id) == id && row.name == name(&row.id, &row.begins));
        rows.filter_map(|row| self.one(&row).transpose()).collect()
    }

    /// Packs one cache; `None` if it was removed.
    fn one(&self, row: &CacheMountRow) -> Result<Option<PackedMount>, WorkerError> {
        let tell = |holder| (self.waiting.tell)(familiar(&row.id), holder);
        let _held = locked(self.store, &row.name, Sharing::Shared, self.waiting.cancel, &tell)?;
        let Some(generation) = current(&folder_of(self.store, &row.name))? else { return Ok(None) };
        let tree = Tree::open(&generation.path)?.subtree(b"data")?;
        let stat = tree.stat(b"", false)?;
        let Some(root) = node(&tree, b"", &stat)? else { return Ok(None) };
        let remembered = self.store.meta.memo(&memo_name(&row.name))?.unwrap_or_default();
        let memo = Memo::from_bytes(&remembered);
        let packing = Packing { packer: self, tree, memo, new: Mutex::default() };
        let scanned = scan(&packing.tree, self.waiting.cancel)?;
        let mut manifest = Manifest::new(&row.id, &row.begins, root);
        let units: Vec<Option<Unit>> =
            parts(scanned.files).into_par_iter().map(|part| packing.unit(part)).collect::<Result<_, _>>()?;
        manifest.units = units.into_iter().flatten().collect();
        manifest.others = scanned.others;
        manifest.drop_lost_links();
        let new = packing.new.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.store.meta.set_packed(&new)?;
        if let Some(bytes) = packing.memo.to_bytes() {
            self.store.meta.set_memo(&memo_name(&row.name), &bytes)?;
        }
        let blob = manifest.to_blob()?;
        let descriptor = Descriptor::of(MediaType::Other(MANIFEST_TYPE.to_owned()), &blob);
        if !(self.known)(&descriptor.digest) {
            self.content.put(&blob)?;
        }
        let (id, name, pieces) = (familiar(&row.id).to_owned(), row.name.clone(), manifest.pieces());
        Ok(Some(PackedMount { id, name, manifest: descriptor, pieces }))
    }

    /// Puts some bytes where they go, unless they are there.
    fn put(&self, bytes: &[u8]) -> Result<Piece, WorkerError> {
        let blob = compressed(bytes)?;
        let piece = Piece { digest: Digest::of(&blob), size: blob.len() as u64, holds: bytes.len() as u64 };
        if !self.has(&piece) {
            self.content.put(&blob)?;
        }
        Ok(piece)
    }

    fn has(&self, piece: &Piece) -> bool {
        (self.known)(&piece.digest) || self.content.size(&piece.digest) == Some(piece.size)
    }
}

impl Manifest {
    /// Leaves out names of files that were left out.
    fn drop_lost_links(&mut self) {
        use super::manifest::OtherKind;
        let files = self.units.iter().flat_map(|unit| &unit.files);
        let files: std::collections::HashSet<_> = files.map(|file| &file.node.path).collect();
        self.others.retain(|other| match &other.kind {
            OtherKind::Hardlink(target) => files.contains(target),
            _ => true,
        });
    }
}

/// Where the digests of a cache's files are remembered.
pub(super) fn memo_name(name: &str) -> String {
    format!("cache-mount:{name}")
}

/// Puts files together, in their order.
fn parts(files: Vec<Found>) -> Vec<Part> {
    let mut parts = Vec::new();
    let (mut group, mut bytes) = (Vec::new(), 0);
    for file in files {
        if file.stat.size >= LARGE_BYTES {
            parts.push(Part::Large(file));
            continue;
        }
        bytes += file.stat.size;
        let is_last = ends_group(&file) || bytes + LARGE_BYTES > PIECE_BYTES_MAX;
        group.push(file);
        if is_last {
            parts.push(Part::Group(std::mem::take(&mut group)));
            bytes = 0;
        }
    }
    if !group.is_empty() {
        parts.push(Part::Group(group));
    }
    parts
}

/// Whether a group ends behind a file: the more likely, the larger it is.
fn ends_group(file: &Found) -> bool {
    let digest = Digest::of(&file.path);
    let chance = digest.as_bytes().first_chunk().map_or(0, |bytes| u64::from(u32::from_be_bytes(*bytes)));
    // Rounded, so that a file that grows a little ends what it ended before.
    let weight = (file.stat.size + FILE_BYTES).next_power_of_two();
    chance < (weight << 32) / GROUP_BYTES
}

impl Packing<'_> {
    fn unit(&self, part: Part) -> Result<Option<Unit>, WorkerError> {
        stopping::check(self.packer.waiting.cancel)?;
        match part {
            Part::Large(file) => self.large(&file),
            Part::Group(files) => self.group(&files),
        }
    }

    fn group(&self, found: &[Found]) -> Result<Option<Unit>, WorkerError> {
        if let Some(unit) = self.known_group(found)? {
            return Ok(Some(unit));
        }
        let (mut bytes, mut files, mut digests) = (Vec::new(), Vec::new(), Vec::new());
        for file in found {
            if let Some((node, own)) = self.small(file)? {
                digests.push(Digest::of(&own));
                bytes.extend_from_slice(&own);
                files.push(node);
            }
        }
        if files.is_empty() {
            return Ok(None);
        }
        let pieces = if bytes.is_empty() { Vec::new() } else { vec![self.packer.put(&bytes)?] };
        let content = content_of(digests);
        self.remember(content, &pieces);
        Ok(Some(Unit { content, pieces, files }))
    }

    /// A group of which nothing must be read.
    fn known_group(&self, found: &[Found]) -> Result<Option<Unit>, WorkerError> {
        let Some(digests) = found.iter().map(|f| self.memo.get(&f.stat)).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let content = content_of(digests);
        let Some(pieces) = self.known_pieces(content)? else { return Ok(None) };
        let mut files = Vec::new();
        for file in found {
            let Some(node) = node(&self.tree, &file.path, &file.stat)? else { return Ok(None) };
            files.push(FileNode { node, size: file.stat.size });
        }
        Ok(Some(Unit { content, pieces, files }))
    }

    /// What some content became, if all of it is where it goes.
    fn known_pieces(&self, content: Digest) -> Result<Option<Vec<Piece>>, WorkerError> {
        let text = self.packer.store.meta.packed(&content)?;
        // What can't be read is forgotten.
        let pieces: Option<Vec<Piece>> = text.and_then(|text| serde_json::from_str(&text).ok());
        Ok(pieces.filter(|pieces| pieces.iter().all(|piece| self.packer.has(piece))))
    }

    fn remember(&self, content: Digest, pieces: &[Piece]) {
        let text = serde_json::json!(pieces).to_string();
        self.new.lock().unwrap_or_else(PoisonError::into_inner).push((content, text));
    }

    /// A file with its bytes; `None` if it is gone, or changes all the time.
    fn small(&self, found: &Found) -> Result<Option<(FileNode, Vec<u8>)>, WorkerError> {
        for _ in 0..TRIES {
            let Some((file, stat)) = self.open(found)? else { return Ok(None) };
            let mut bytes = Vec::new();
            // What has become large since must not make a piece too large; it is taken the next time.
            let read = (&file).take(LARGE_BYTES).read_to_end(&mut bytes);
            read.map_err(WorkerError::io("read", String::from_utf8_lossy(&found.path).into_owned()))?;
            if bytes.len() as u64 == stat.size && is_still(&file, &stat) {
                self.memo.note(&stat, Digest::of(&bytes));
                return Ok(self.file(found, &stat)?.map(|file| (file, bytes)));
            }
        }
        Ok(None)
    }

    fn large(&self, found: &Found) -> Result<Option<Unit>, WorkerError> {
        for _ in 0..TRIES {
            let Some((file, stat)) = self.open(found)? else { return Ok(None) };
            if let Some(digest) = self.memo.get(&stat)
                && let Some(pieces) = self.known_pieces(content_of([digest]))?
            {
                let content = content_of([digest]);
                let file = self.file(found, &stat)?;
                return Ok(file.map(|file| Unit { content, pieces, files: vec![file] }));
            }
            let (mut pieces, mut hasher) = (Vec::new(), Hasher::new());
            let mut chunks = Chunks::new((&file).take(stat.size));
            let shown = || String::from_utf8_lossy(&found.path).into_owned();
            while let Some(chunk) = chunks.next().map_err(WorkerError::io("read", shown()))? {
                stopping::check(self.packer.waiting.cancel)?;
                hasher.update(&chunk);
                pieces.push(self.packer.put(&chunk)?);
            }
            let held: u64 = pieces.iter().map(|piece| piece.holds).sum();
            if held == stat.size && is_still(&file, &stat) {
                let digest = hasher.finish();
                self.memo.note(&stat, digest);
                let content = content_of([digest]);
                self.remember(content, &pieces);
                let file = self.file(found, &stat)?;
                return Ok(file.map(|file| Unit { content, pieces, files: vec![file] }));
            }
        }
        Ok(None)
    }

    fn file(&self, found: &Found, stat: &NodeStat) -> Result<Option<FileNode>, WorkerError> {
        let node = node(&self.tree, &found.path, stat)?;
        Ok(node.map(|node| FileNode { node, size: stat.size }))
    }

    fn open(&self, found: &Found) -> Result<Option<(File, NodeStat)>, WorkerError> {
        let Some(file) = unless_gone(self.tree.open_file(&found.path))? else { return Ok(None) };
        let Ok(metadata) = file.metadata() else { return Ok(None) };
        let stat = stat_of(&metadata);
        Ok(Some((file, stat)))
    }
}

/// Whether nobody wrote to a file since it was looked at.
fn is_still(file: &File, stat: &NodeStat) -> bool {
    file.metadata().is_ok_and(|metadata| {
        let now = stat_of(&metadata);
        (now.size, now.mtime, now.ctime) == (stat.size, stat.mtime, stat.ctime)
    })
}

/// The same as a tree says of a file.
pub(super) fn stat_of(metadata: &Metadata) -> NodeStat {
    NodeStat {
        kind: NodeType::File,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: metadata.size(),
        mtime: (metadata.mtime(), metadata.mtime_nsec() as u32),
        ctime: (metadata.ctime(), metadata.ctime_nsec() as u32),
        device: metadata.dev(),
        inode: metadata.ino(),
        links: metadata.nlink(),
        special: (0, 0),
    }
}
