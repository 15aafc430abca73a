//! Puts a layer's tar into a snapshot: names and directories are made in the tar's order by one
//! thread, bytes and metadata are written by several, whiteouts take overlayfs's form.
//! It does not know where the tar comes from, how it was compressed, or what is below the layer.
//!
//! Nothing in a tar leads out of the snapshot: every path is looked up with the snapshot as root,
//! a symbolic link in it means a place in it, and an entry that means the root itself can at most
//! change its metadata.

use crate::archive::{LayerReader, OwnedEntry, OwnedKind};
use crate::commit::make_whiteout;
use crate::error::{SnapshotError, cannot, shown};
use crate::index::{LayerIndex, LayerTar, sorted};
use crate::layer_tar::{OPAQUE, WHITEOUT};
use crate::node::{self, Metadata, Xattrs};
use crate::store::{Active, Committed, Snapshotter};
use crate::tree::Tree;
use crate::view::components;
use census::Census;
use kiln_oci::{DiffId, Digest, Hasher};
use rustix::fs::{self, AtFlags, FileType, Mode};
use rustix::io::Errno;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};

mod census;
mod settle;
#[cfg(test)]
mod tests;

/// Files up to this size are handed to the writing threads whole.
const SMALL: u64 = 256 << 10;
/// The tar is hashed in pieces of this size.
const PIECE: usize = 256 << 10;
/// How many files wait for a thread at most.
const WAITING: usize = 32;

impl Snapshotter {
    /// Unpacks a layer from its tar, which must have the digest `diff_id` up to the stream's last
    /// byte. The directories that the tar does not name, and hard links to what only a layer below
    /// can hold, stay open until [`Snapshotter::settle`].
    pub fn unpack(&self, tar: &mut dyn Read, diff_id: &DiffId) -> Result<Committed, SnapshotError> {
        let mut active = self.prepare()?;
        let (census, digest, tar_bytes) = self.unpack_into(&active, tar)?;
        if DiffId(digest) != *diff_id {
            return Err(SnapshotError::WrongDiffId { expected: *diff_id, actual: DiffId(digest) });
        }
        let (entries, unresolved_links) = census.finish();
        let tar = OnceLock::from(LayerTar { diff_id: *diff_id, bytes: tar_bytes });
        self.finish(&mut active, Arc::new(LayerIndex { entries: sorted(entries), tar, unresolved_links }))
    }

    fn unpack_into(
        &self,
        active: &Active,
        tar: &mut dyn Read,
    ) -> Result<(Census, Digest, u64), SnapshotError> {
        let root = Tree::at(active.open_fs()?);
        let (jobs, waiting) = sync_channel::<Job>(WAITING);
        let waiting = Mutex::new(waiting);
        std::thread::scope(|scope| {
            let (pieces, to_hash) = sync_channel::<Vec<u8>>(8);
            let hashing = scope.spawn(move || hash(to_hash));
            let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 4);
            let writers: Vec<_> = (0..threads).map(|_| scope.spawn(|| write_files(&waiting))).collect();
            let mut unpacker = Unpacker {
                root: &root,
                opaque: self.marks.opaque(),
                census: Census::default(),
                jobs,
                parent: None,
            };
            let mut tee = Tee { inner: tar, pieces, piece: Vec::with_capacity(PIECE), bytes: 0 };
            let read = unpacker.all(&mut tee);
            let Unpacker { jobs, mut census, .. } = unpacker;
            drop(jobs);
            let mut failed = read.err();
            for writer in writers {
                match writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                    Ok(digests) => census.learn(digests),
                    Err(error) => failed = Some(failed.unwrap_or(error)),
                }
            }
            let bytes = tee.finish();
            let digest = hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if let Some(error) = failed {
                return Err(error);
            }
            census.directories(|path, entry| {
                let dir = root.open_listing(path).map_err(cannot("open", path))?;
                node::apply(&dir, &metadata(entry), &Vec::new()).map_err(cannot("change", path))
            })?;
            Ok((census, digest, bytes))
        })
    }
}

pub(crate) fn metadata(entry: &crate::index::Entry) -> Metadata {
    let (mode, uid, gid) = (entry.mode, entry.uid, entry.gid);
    Metadata { mode, uid, gid, mtime: (entry.mtime_s, entry.mtime_ns) }
}

/// Passes a stream on and sends a copy of it to be hashed.
struct Tee<'a> {
    inner: &'a mut dyn Read,
    pieces: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    bytes: u64,
}

impl Tee<'_> {
    fn finish(self) -> u64 {
        let _ = self.pieces.send(self.piece);
        self.bytes
    }
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.bytes += length as u64;
        self.piece.extend_from_slice(&buffer[..length]);
        if self.piece.len() >= PIECE {
            let full = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE * 2));
            self.pieces.send(full).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(length)
    }
}

fn hash(pieces: Receiver<Vec<u8>>) -> Digest {
    let mut hasher = Hasher::new();
    for piece in pieces {
        hasher.update(&piece);
    }
    hasher.finish()
}

/// A file that has its name already, to be filled and finished by any thread.
struct Job {
    number: usize,
    file: OwnedFd,
    path: Vec<u8>,
    content: Content,
    metadata: Metadata,
    xattrs: Xattrs,
}

enum Content {
    Whole(Vec<u8>),
    /// The reading thread has written it.
    Written(Digest),
}

fn write_files(jobs: &Mutex<Receiver<Job>>) -> Result<Vec<(usize, Digest)>, SnapshotError> {
    let mut digests = Vec::new();
    let mut failed = None;
    loop {
        let next = jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
        let Ok(job) = next else { break };
        // After an error the rest is only taken, so that the reading thread never waits for ever.
        if failed.is_some() {
            continue;
        }
        match write_file(&job) {
            Ok(digest) => digests.push((job.number, digest)),
            Err(error) => failed = Some(cannot("write", &job.path)(error)),
        }
    }
    failed.map_or(Ok(digests), Err)
}

fn write_file(job: &Job) -> io::Result<Digest> {
    let digest = match &job.content {
        Content::Whole(content) => {
            write_all(&job.file, content, 0)?;
            Digest::of(content)
        }
        Content::Written(digest) => *digest,
    };
    node::apply(&job.file, &job.metadata, &job.xattrs)?;
    Ok(digest)
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], mut at: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, at) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
            Ok(length) => {
                bytes = &bytes[length..];
                at += length as u64;
            }
        }
    }
    Ok(())
}

struct Unpacker<'a> {
    root: &'a Tree,
    opaque: &'static [u8],
    census: Census,
    jobs: SyncSender<Job>,
    /// The directory of the entry before, for the next is most often in it too: the path in the
    /// tar, the path that this led to, and the directory.
    parent: Option<(Vec<u8>, Vec<u8>, OwnedFd)>,
}

impl Unpacker<'_> {
    fn all(&mut self, tar: &mut Tee<'_>) -> Result<(), SnapshotError> {
        let mut reader = LayerReader::new(tar);
        while let Some(entry) = reader.next()? {
            self.entry(entry, &mut reader)?;
        }
        reader.finish()?;
        Ok(())
    }

    fn entry<R: Read>(
        &mut self,
        entry: OwnedEntry,
        content: &mut LayerReader<R>,
    ) -> Result<(), SnapshotError> {
        let path = cleaned(&entry.path);
        let Some((name, folder)) = path.split_last() else {
            return self.root_itself(&entry);
        };
        let (name, folder) = (name.to_vec(), folder.join(&b'/'));
        if self.parent.as_ref().is_none_or(|(known, _, _)| *known != folder) {
            self.parent = None;
            let (resolved, dir) = self.make_parent(&folder)?;
            self.parent = Some((folder, resolved, dir));
        }
        let Some((folder, resolved, dir)) = self.parent.take() else { return Ok(()) };
        let path = if resolved.is_empty() { name.clone() } else { [&resolved, &b"/"[..], &name].concat() };
        let done = match name.strip_prefix(WHITEOUT) {
            _ if name == OPAQUE => self.make_opaque(&dir, &resolved),
            Some(hidden) => self.hide(&dir, hidden, &resolved, &entry.path),
            None => self.place(&dir, &name, &path, entry, content),
        };
        // A folder that has been replaced is not the one that was remembered.
        let stale = self.census.take_replaced();
        if !stale {
            self.parent = Some((folder, resolved, dir));
        }
        done
    }

    /// An entry that means the root: a directory's metadata is taken, all else has no effect.
    fn root_itself(&mut self, entry: &OwnedEntry) -> Result<(), SnapshotError> {
        if entry.kind != OwnedKind::Directory {
            return Ok(());
        }
        let set = || -> rustix::io::Result<()> {
            node::set_owner(self.root.as_fd(), entry.uid, entry.gid)?;
            node::set_mode(self.root.as_fd(), entry.mode)
        };
        set().map_err(cannot("change", b"/"))
    }

    /// Opens the directory of an entry, symbolic links of this layer followed, and makes what is
    /// missing. What is in the way and is no directory is replaced, as a later entry replaces it.
    fn make_parent(&mut self, folder: &[u8]) -> Result<(Vec<u8>, OwnedFd), SnapshotError> {
        let resolved = self.root.resolve(folder)?;
        let mut prefix = Vec::new();
        for name in components(&resolved) {
            let parent = prefix.clone();
            if !prefix.is_empty() {
                prefix.push(b'/');
            }
            prefix.extend_from_slice(name);
            if self.census.is_dir(&prefix) {
                continue;
            }
            let dir = self.root.open_listing(&parent).map_err(cannot("open", &parent))?;
            self.clear(&dir, name, &prefix)?;
            fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)).map_err(cannot("make", &prefix))?;
            let implied = || {
                let made = node::open_dir(&dir, name)?;
                node::set_owner(&made, 0, 0)?;
                node::set_mode(&made, 0o755)
            };
            implied().map_err(cannot("change", &prefix))?;
            self.mark_if_hidden(&dir, name, &prefix)?;
            self.census.implied(&prefix);
        }
        let dir = self.root.open_listing(&resolved).map_err(cannot("open", &resolved))?;
        Ok((resolved, dir))
    }

    /// `.wh.name`: what the layers below have as `name` is gone. What this layer has stays.
    fn hide(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        folder: &[u8],
        written: &[u8],
    ) -> Result<(), SnapshotError> {
        if matches!(name, b"" | b"." | b"..") {
            return Err(SnapshotError::InvalidWhiteout(shown(written)));
        }
        let path = if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() };
        if self.census.is_dir(&path) {
            let inside = node::open_dir(dir, name).map_err(cannot("open", &path))?;
            return self.make_opaque(&inside, &path);
        }
        if self.census.contains(&path) {
            return Ok(());
        }
        make_whiteout(dir.as_fd(), name).map_err(cannot("remove", &path))?;
        self.census.whiteout(&path);
        Ok(())
    }

    /// `.wh..wh..opq`: what the layers below have in this directory is gone. For the root this is
    /// said by no mark that overlayfs knows, and means whatever is below: it is refused.
    fn make_opaque(&mut self, dir: &OwnedFd, path: &[u8]) -> Result<(), SnapshotError> {
        if path.is_empty() {
            return Err(SnapshotError::InvalidWhiteout(shown(OPAQUE)));
        }
        fs::fsetxattr(dir, self.opaque, b"y", fs::XattrFlags::empty()).map_err(cannot("change", path))?;
        self.census.opaque(path);
        Ok(())
    }

    /// A directory in place of a whiteout of this layer hides what is below, as the whiteout did.
    fn mark_if_hidden(&self, dir: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), SnapshotError> {
        if !self.census.is_hidden(path) {
            return Ok(());
        }
        let made = node::open_dir(dir, name).map_err(cannot("open", path))?;
        fs::fsetxattr(&made, self.opaque, b"y", fs::XattrFlags::empty()).map_err(cannot("change", path))
    }

    /// Removes what an earlier entry of this layer has put at a name.
    fn clear(&mut self, dir: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), SnapshotError> {
        if self.census.remove(path) {
            node::remove_all(dir, name).map_err(cannot("replace", path))?;
        }
        Ok(())
    }

    fn place<R: Read>(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        path: &[u8],
        mut entry: OwnedEntry,
        content: &mut LayerReader<R>,
    ) -> Result<(), SnapshotError> {
        entry.xattrs.retain(|(name, _)| !node::is_private_xattr(name));
        if entry.kind == OwnedKind::Directory {
            return self.directory(dir, name, path, &entry);
        }
        if let OwnedKind::Hardlink { target } = &entry.kind {
            return self.hard_link(dir, name, path, target);
        }
        self.clear(dir, name, path)?;
        let metadata = Metadata {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: (entry.mtime_s, entry.mtime_ns),
        };
        let number = self.census.add(path, &entry);
        let made = match &entry.kind {
            OwnedKind::File => return self.file(dir, name, path, number, metadata, entry, content),
            OwnedKind::Symlink { target } => fs::symlinkat(&**target, dir, name),
            OwnedKind::CharDevice { major, minor } => {
                // This is how overlayfs writes a whiteout, so that it can be nothing else here.
                if (*major, *minor) == (0, 0) {
                    self.census.whiteout(path);
                    return make_whiteout(dir.as_fd(), name).map_err(cannot("remove", path));
                }
                device(dir, name, FileType::CharacterDevice, *major, *minor)
            }
            OwnedKind::BlockDevice { major, minor } => {
                device(dir, name, FileType::BlockDevice, *major, *minor)
            }
            _ => fs::mknodat(dir, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0),
        };
        made.and_then(|()| node::apply_at(dir, name, &metadata, &entry.xattrs)).map_err(cannot("make", path))
    }

    fn directory(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        path: &[u8],
        entry: &OwnedEntry,
    ) -> Result<(), SnapshotError> {
        if !self.census.is_dir(path) {
            self.clear(dir, name, path)?;
            fs::mkdirat(dir, name, Mode::from_raw_mode(0o700)).map_err(cannot("make", path))?;
            self.mark_if_hidden(dir, name, path)?;
        }
        if !entry.xattrs.is_empty() {
            let made = node::open_dir(dir, name).map_err(cannot("open", path))?;
            for (key, value) in &entry.xattrs {
                let set = fs::fsetxattr(&made, &**key, value, fs::XattrFlags::empty());
                node::tolerate(set).map_err(cannot("change", path))?;
            }
        }
        // Mode, owner and time come last, when nothing is made in it any more.
        self.census.directory(path, entry);
        Ok(())
    }

    fn hard_link(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        path: &[u8],
        target: &[u8],
    ) -> Result<(), SnapshotError> {
        let target = cleaned(target).join(&b'/');
        let (folder, last) = match target.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&target[..slash], &target[slash + 1..]),
            None => (&b""[..], &target[..]),
        };
        // The target's folder may be reached through links of this layer; the target itself is what
        // it is, even a symbolic link.
        let folder = self.root.resolve(folder)?;
        let resolved = if folder.is_empty() { last.to_vec() } else { [&folder, &b"/"[..], last].concat() };
        if resolved == path {
            return Ok(());
        }
        if self.census.is_dir(&resolved) || last.is_empty() {
            return Err(SnapshotError::DanglingHardlink { path: shown(path), target: shown(&resolved) });
        }
        self.clear(dir, name, path)?;
        if !self.census.contains(&resolved) || self.census.is_whiteout(&resolved) {
            self.census.unresolved(path, &resolved);
            return Ok(());
        }
        let from = self.root.open_listing(&folder).map_err(cannot("open", &folder))?;
        fs::linkat(&from, last, dir, name, AtFlags::empty()).map_err(cannot("link", path))?;
        self.census.link(path, &resolved);
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "all parts of one entry, split once")]
    fn file<R: Read>(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        path: &[u8],
        number: usize,
        metadata: Metadata,
        entry: OwnedEntry,
        reader: &mut LayerReader<R>,
    ) -> Result<(), SnapshotError> {
        let file = node::create_file(dir, name).map_err(cannot("make", path))?;
        let size = entry.size_bytes;
        let content = if size <= SMALL && !entry.sparse {
            let mut content = Vec::with_capacity(size as usize);
            reader.read_to_end(&mut content).map_err(broken)?;
            Content::Whole(content)
        } else {
            Content::Written(copy_large(&file, path, &entry, reader)?)
        };
        let job = Job { number, file, path: path.to_vec(), content, metadata, xattrs: entry.xattrs };
        self.jobs.send(job).map_err(|_| broken(io::ErrorKind::BrokenPipe.into()))
    }
}

/// Writes a file that is too large for memory, what is zero throughout as holes if the tar has it so.
fn copy_large<R: Read>(
    file: &OwnedFd,
    path: &[u8],
    entry: &OwnedEntry,
    reader: &mut LayerReader<R>,
) -> Result<Digest, SnapshotError> {
    let mut hasher = Hasher::new();
    let mut piece = vec![0; PIECE];
    let zeros = vec![0; if entry.sparse { PIECE } else { 0 }];
    let mut at = 0;
    while let Some((offset, length)) = reader.read_data(&mut piece).map_err(broken)? {
        hash_zeros(&mut hasher, &zeros, offset - at);
        if length == 0 {
            break;
        }
        hasher.update(&piece[..length]);
        write_all(file, &piece[..length], offset).map_err(cannot("write", path))?;
        at = offset + length as u64;
    }
    hash_zeros(&mut hasher, &zeros, entry.size_bytes - at);
    if entry.sparse {
        fs::ftruncate(file, entry.size_bytes).map_err(cannot("write", path))?;
    }
    Ok(hasher.finish())
}

fn hash_zeros(hasher: &mut Hasher, zeros: &[u8], mut count: u64) {
    while count > 0 && !zeros.is_empty() {
        let length = count.min(zeros.len() as u64);
        hasher.update(&zeros[..length as usize]);
        count -= length;
    }
}

fn broken(source: io::Error) -> SnapshotError {
    SnapshotError::Stream { action: "unpack the layer", source }
}

fn device(dir: &OwnedFd, name: &[u8], kind: FileType, major: u32, minor: u32) -> rustix::io::Result<()> {
    fs::mknodat(dir, name, kind, Mode::from_raw_mode(0o600), fs::makedev(major, minor))
}

/// The names of a path in a tar as `filepath.Clean` leaves them below a root: `..` takes the name
/// before it away and never leads above the root.
fn cleaned(path: &[u8]) -> Vec<&[u8]> {
    let mut names = Vec::new();
    for name in components(path) {
        if name == b".." {
            names.pop();
        } else {
            names.push(name);
        }
    }
    names
}
