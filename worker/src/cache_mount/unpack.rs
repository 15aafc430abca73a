//! Makes a cache mount of a manifest and pieces. What no step has used since it came that way is replaced; to
//! what a step has used only files are added that it has not.
//!
//! All is written and checked aside, in a generation of its own, and only then gets in the place of the current
//! one, or is moved into it file by file. Pieces of which every file is here already are not asked for.
//! It does not know where pieces come from.

use super::manifest::{
    Bytes, CacheMountError, FileNode, Manifest, Node, Other, OtherKind, Piece, Unit, content_of, decompressed,
};
use super::merge::{is_missing, merge};
use super::{Waiting, begin, current, familiar, folder_of, locked, make_current, name, own, remove_unused};
use crate::WorkerError;
use crate::output::stopping;
use crate::store::{Sharing, Store};
use kiln_oci::{Descriptor, Digest, Hasher};
use kiln_runner::CancelToken;
use kiln_snapshotter::archive::{Entry, EntryKind, LayerWriter};
use kiln_snapshotter::{ExtractOptions, Tree, extract_archive};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Cursor, Read};
use std::path::Path;

/// What became of a cache mount that came from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was here already.
    Left,
    /// There was none, or one that no step had used since it came.
    Whole,
    /// What was here stayed, and got so many files that it had not.
    Added(usize),
}

/// A cache mount that came from elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct ImportedMount {
    /// Its id.
    pub id: String,
    /// What tells it from others of that id.
    pub name: String,
    /// What became of it.
    pub taken: Taken,
    /// How many pieces were asked for.
    pub pieces: usize,
    /// How many bytes these have.
    pub bytes: u64,
}

/// How pieces are opened.
pub(crate) type Open<'a> = dyn Fn(&Descriptor) -> Result<Box<dyn Read>, WorkerError> + 'a;

/// Makes a cache mount of a manifest, and of the pieces that `open` gives. A cache that a step uses is waited for.
pub(crate) fn unpack(
    store: &Store,
    manifest: &[u8],
    open: &Open<'_>,
    cancel: &CancelToken,
) -> Result<ImportedMount, WorkerError> {
    unpack_telling(store, manifest, open, &Waiting::silent(cancel))
}

pub(super) fn unpack_telling(
    store: &Store,
    blob: &[u8],
    open: &Open<'_>,
    waiting: &Waiting<'_>,
) -> Result<ImportedMount, WorkerError> {
    let manifest = Manifest::from_blob(blob)?;
    let name = name(&manifest.id, &manifest.begins);
    let (digest, parent) = (Digest::of(blob), folder_of(store, &name));
    let tell = |holder| (waiting.tell)(familiar(&manifest.id), holder);
    let _held = locked(store, &name, Sharing::Alone, waiting.cancel, &tell)?;
    let row = store.meta.cache_mount(&name)?;
    let imported = row.as_ref().and_then(|row| row.imported);
    let live = current(&parent)?;
    let live =
        live.map(|live| Tree::open(&live.path)?.subtree(b"data").map(|tree| (live, tree))).transpose()?;
    let mut done = ImportedMount {
        id: familiar(&manifest.id).to_owned(),
        name,
        taken: Taken::Left,
        pieces: 0,
        bytes: 0,
    };
    if live.is_some() && imported == Some(digest) {
        return Ok(done);
    }
    let is_used = match &live {
        Some((_, tree)) => imported.is_none() && !tree.read_dir(b"")?.is_empty(),
        None => false,
    };
    let _filling = store.lock(&format!("fill-{}", done.name), waiting.cancel)?;
    let (folder, lock) = begin(&parent)?;
    let to = Tree::open(folder.path())?;
    to.make_dirs(b"data", 0o700, None, None)?;
    let to = to.subtree(b"data")?;
    let mut stage = Stage {
        manifest: &manifest,
        folder: folder.path(),
        to: &to,
        open,
        cancel: waiting.cancel,
        live: live.as_ref().map(|(_, tree)| tree),
        keeps_live: is_used,
        fetched: (0, 0),
        files: 0,
    };
    stage.fill()?;
    (done.pieces, done.bytes) = stage.fetched;
    let added = stage.files;
    rustix::fs::syncfs(&lock).map_err(|e| WorkerError::io("sync", folder.path())(e.into()))?;
    stopping::check(waiting.cancel)?;
    if let (true, Some((_, live))) = (is_used, &live) {
        merge(&to, live, &manifest)?;
        done.taken = if added == 0 { Taken::Left } else { Taken::Added(added) };
        if row.is_none() {
            store.meta.set_cache_mount(&done.name, &manifest.id, &manifest.begins, None)?;
        }
        return Ok(done);
    }
    done.taken = Taken::Whole;
    // A death right behind the next line must not leave the old manifest with the new files.
    store.meta.set_cache_mount(&done.name, &manifest.id, &manifest.begins, None)?;
    make_current(&parent, folder.path())?;
    let _ = folder.keep();
    store.meta.set_cache_mount(&done.name, &manifest.id, &manifest.begins, Some(&digest))?;
    drop((live, lock));
    // What can't be removed now is left to the sweep.
    let _ = remove_unused(&parent);
    Ok(done)
}

/// A cache that is being made aside.
struct Stage<'a> {
    manifest: &'a Manifest,
    folder: &'a Path,
    to: &'a Tree,
    open: &'a Open<'a>,
    cancel: &'a CancelToken,
    /// What is here already.
    live: Option<&'a Tree>,
    /// Whether that stays, so that only what it has not is needed.
    keeps_live: bool,
    /// How many pieces were asked for, and their bytes.
    fetched: (usize, u64),
    /// How many files were written.
    files: usize,
}

impl<'a> Stage<'a> {
    fn fill(&mut self) -> Result<(), WorkerError> {
        let folders = || self.manifest.others.iter().filter(|other| other.kind == OtherKind::Folder);
        let mut first = Late::new(self.folder)?;
        for other in folders() {
            // Written into before it gets its own mode.
            first.other(&Other { node: Node { mode: 0o700, ..other.node.clone() }, ..other.clone() })?;
        }
        first.extract(self.to)?;
        let mut late = Late::new(self.folder)?;
        let needed = self.needed()?;
        for unit in &self.manifest.units {
            stopping::check(self.cancel)?;
            self.unit(unit, &needed, &mut late)?;
        }
        for other in &self.manifest.others {
            if other.kind == OtherKind::Folder || needed.contains(&other.node.path) {
                late.other(other)?;
            }
        }
        late.extract(self.to)?;
        let root = &self.manifest.root;
        own(&self.folder.join("data"), root.mode, root.uid, root.gid)?;
        Ok(self.to.set_directory_mtime(b"", root.mtime)?)
    }

    /// The paths of all that is to be written, but folders.
    fn needed(&self) -> Result<HashSet<&'a Bytes>, WorkerError> {
        let mut needed = HashSet::new();
        let is_needed = |path: &Bytes| match self.live {
            Some(live) if self.keeps_live => is_missing(live, &path.0),
            _ => Ok(true),
        };
        for file in self.manifest.units.iter().flat_map(|unit| &unit.files) {
            if is_needed(&file.node.path)? {
                needed.insert(&file.node.path);
            }
        }
        for other in self.manifest.others.iter().filter(|other| other.kind != OtherKind::Folder) {
            if !is_needed(&other.node.path)? {
                continue;
            }
            needed.insert(&other.node.path);
            if let OtherKind::Hardlink(target) = &other.kind {
                // Its bytes come with the first name.
                needed.insert(target);
            }
        }
        Ok(needed)
    }

    fn unit(&mut self, unit: &Unit, needed: &HashSet<&Bytes>, late: &mut Late) -> Result<(), WorkerError> {
        let wanted: Vec<&FileNode> = unit.files.iter().filter(|f| needed.contains(&f.node.path)).collect();
        if wanted.is_empty() || self.reuse(unit, late)? {
            return Ok(());
        }
        let to = self.to;
        let mut content =
            Content { stage: self, pieces: unit.pieces.iter(), now: Cursor::default(), failed: None };
        let mut digests = Vec::new();
        for file in &unit.files {
            let mut hashing = Hashing { inner: (&mut content).take(file.size), hasher: Hasher::new() };
            let written = if needed.contains(&file.node.path) {
                write(file, &mut hashing, late, to)
            } else {
                let skipped = io::copy(&mut hashing, &mut io::sink());
                skipped.map(drop).map_err(WorkerError::io("read", "a piece of a cache mount"))
            };
            digests.push(hashing.hasher.finish());
            if let Some(error) = content.failed.take() {
                return Err(error);
            }
            written?;
        }
        if content_of(digests) != unit.content {
            return Err(self.damaged(&wanted[0].node.path));
        }
        self.files += wanted.len();
        Ok(())
    }

    /// Takes the files of a unit from what is here, if all of them are.
    fn reuse(&mut self, unit: &Unit, late: &mut Late) -> Result<bool, WorkerError> {
        let Some(live) = self.live.filter(|_| !self.keeps_live) else { return Ok(false) };
        let open = |file: &FileNode| live.open_file(&file.node.path.0).ok();
        let digest = |file: &FileNode| {
            let mut hashing = Hashing { inner: open(file)?, hasher: Hasher::new() };
            let read = io::copy(&mut (&mut hashing).take(file.size + 1), &mut io::sink());
            read.is_ok_and(|read| read == file.size).then(|| hashing.hasher.finish())
        };
        let here: Option<Vec<Digest>> = unit.files.iter().map(digest).collect();
        if here.map(content_of) != Some(unit.content) {
            return Ok(false);
        }
        let mut digests = Vec::new();
        for file in &unit.files {
            let Some(there) = open(file) else { return Err(self.damaged(&file.node.path)) };
            let mut hashing = Hashing { inner: there.take(file.size), hasher: Hasher::new() };
            write(file, &mut hashing, late, self.to)?;
            digests.push(hashing.hasher.finish());
        }
        if content_of(digests) != unit.content {
            return Err(self.damaged(&unit.files[0].node.path));
        }
        self.files += unit.files.len();
        Ok(true)
    }

    fn piece(&mut self, piece: &Piece) -> Result<Vec<u8>, WorkerError> {
        stopping::check(self.cancel)?;
        let mut blob = Vec::new();
        let read = (self.open)(&piece.descriptor())?.take(piece.size + 1).read_to_end(&mut blob);
        read.map_err(WorkerError::io("read", piece.digest.to_string()))?;
        self.fetched = (self.fetched.0 + 1, self.fetched.1 + blob.len() as u64);
        let damaged = || CacheMountError::Damaged {
            id: familiar(&self.manifest.id).to_owned(),
            what: piece.digest.to_string(),
        };
        decompressed(&blob, piece).ok_or_else(|| damaged().into())
    }

    fn damaged(&self, path: &Bytes) -> WorkerError {
        let what = String::from_utf8_lossy(&path.0).into_owned();
        CacheMountError::Damaged { id: familiar(&self.manifest.id).to_owned(), what }.into()
    }
}

/// Writes a file: at once, or, with attributes, as a part of the archive.
fn write(file: &FileNode, content: &mut dyn Read, late: &mut Late, to: &Tree) -> Result<(), WorkerError> {
    let Node { path, mode, uid, gid, mtime, xattrs } = &file.node;
    if xattrs.is_empty() {
        return Ok(to.write_file(&path.0, *mode, Some((*uid, *gid)), Some(*mtime), content)?);
    }
    late.add(&file.node, EntryKind::File { size_bytes: file.size }, content)
}

/// What pieces hold, one after the other.
struct Content<'c, 'a, 'p> {
    stage: &'c mut Stage<'a>,
    pieces: std::slice::Iter<'p, Piece>,
    now: Cursor<Vec<u8>>,
    /// Why a read failed.
    failed: Option<WorkerError>,
}

impl Read for Content<'_, '_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.now.read(buf)?;
            if read > 0 || buf.is_empty() {
                return Ok(read);
            }
            let Some(piece) = self.pieces.next() else { return Ok(0) };
            match self.stage.piece(piece) {
                Ok(bytes) => self.now = Cursor::new(bytes),
                Err(error) => {
                    self.failed = Some(error);
                    return Err(io::Error::other("no piece"));
                }
            }
        }
    }
}

/// Passes bytes on, and knows their digest.
struct Hashing<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.hasher.update(&buf[..read]);
        Ok(read)
    }
}

/// An archive of what can't be written as a plain file.
struct Late {
    tar: LayerWriter<BufWriter<File>>,
    is_empty: bool,
}

impl Late {
    fn new(folder: &Path) -> Result<Late, WorkerError> {
        let file = tempfile::tempfile_in(folder).map_err(WorkerError::io("create a file in", folder))?;
        Ok(Late { tar: LayerWriter::new(BufWriter::new(file)), is_empty: true })
    }

    fn other(&mut self, other: &Other) -> Result<(), WorkerError> {
        let kind = match &other.kind {
            OtherKind::Folder => EntryKind::Directory,
            OtherKind::Symlink(target) => EntryKind::Symlink { target: &target.0 },
            OtherKind::Hardlink(target) => EntryKind::Hardlink { target: &target.0 },
            OtherKind::Fifo => EntryKind::Fifo,
        };
        self.add(&other.node, kind, &mut io::empty())
    }

    fn add(&mut self, node: &Node, kind: EntryKind<'_>, content: &mut dyn Read) -> Result<(), WorkerError> {
        let xattrs: Vec<(Vec<u8>, Vec<u8>)> =
            node.xattrs.iter().map(|(name, value)| (name.0.clone(), value.0.clone())).collect();
        let Node { path, mode, uid, gid, mtime, .. } = node;
        let (mtime_s, mtime_ns) = *mtime;
        let entry = Entry {
            path: &path.0,
            kind,
            mode: *mode,
            uid: *uid,
            gid: *gid,
            mtime_s,
            mtime_ns,
            xattrs: &xattrs,
        };
        self.is_empty = false;
        let written = self.tar.append(&entry, content);
        written.map_err(WorkerError::io("write", String::from_utf8_lossy(&path.0).into_owned()))
    }

    fn extract(self, to: &Tree) -> Result<(), WorkerError> {
        if self.is_empty {
            return Ok(());
        }
        let fail = || WorkerError::io("write", "the archive of a cache mount");
        let file = self.tar.finish().map_err(fail())?.into_inner();
        let file = file.map_err(|e| fail()(e.into_error()))?;
        match extract_archive(file, to, b"", &ExtractOptions::default())? {
            true => Ok(()),
            false => Err(CacheMountError::Manifest("it names what no archive holds").into()),
        }
    }
}

#[cfg(test)]
mod tests;
