//! The tar of a layer, from its index and its files: what goes in, in which order, and reading the
//! files on several cores ahead of the one that writes.
//! It does not know how a tar is laid out, nor what is below the layer.

use crate::archive::{self, EntryKind, LayerWriter};
use crate::error::{SnapshotError, cannot, shown};
use crate::index::{Entry, Kind};
use crate::node::{self, Xattrs};
use kiln_oci::{DiffId, Digest, Hasher, HashingWriter};
use rayon::prelude::*;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Files up to this size are read whole, many at a time.
const SMALL: u64 = 512 << 10;
/// Larger ones come in pieces of this size.
const PIECE: usize = 512 << 10;
/// How much is read ahead at a time.
const BATCH_BYTES: u64 = 4 << 20;
const BATCH_FILES: usize = 512;
/// What `.wh.` in front of a name says in a tar: it is gone.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The file in a tar that makes its folder opaque.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// Stands for the digest of a file that was not read yet.
pub(crate) const UNREAD: [u8; 32] = [0; 32];

/// What was learnt of a file by reading it, by its position among the entries.
pub(crate) struct FileRead {
    pub at: usize,
    pub digest: Digest,
    pub xattrs: Xattrs,
}

/// A tar that has been written.
pub(crate) struct Written {
    pub diff_id: DiffId,
    pub bytes: u64,
    pub files: Vec<FileRead>,
}

/// Whether files are read for the first time, so that their digests and attributes are not known (but where
/// an entry has a digest already).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    First,
    Again,
}

/// Writes the tar of `entries`, whose files are beneath `fs`.
pub(crate) fn write_tar(
    fs: BorrowedFd<'_>,
    entries: &[(Box<[u8]>, Entry)],
    reading: Reading,
    out: &mut dyn Write,
) -> Result<Written, SnapshotError> {
    let plan = Plan::of(entries);
    let mut hashing = HashingWriter::new(out);
    let files = std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(4);
        let (entries, plan_ref) = (entries, &plan);
        let source = Source { fs, entries, plan: plan_ref, reading };
        let reader = scope.spawn(move || source.read_ahead(&sender));
        let written = write_entries(entries, &plan, receiver, &mut hashing);
        let files = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written?;
        // The last file may have grown after all of it that was expected had been written.
        match plan.files.get(files.len()) {
            Some(at) => Err(SnapshotError::Changed(shown(&entries[*at].0))),
            None => Ok(files),
        }
    })?;
    let (_, digest, bytes) = hashing.finish();
    Ok(Written { diff_id: DiffId(digest), bytes, files })
}

/// Which entries are files to read, and which are further names of one before.
struct Plan {
    /// The position of the first name, for every further one.
    links: HashMap<usize, usize>,
    /// The positions of the files to read, in order.
    files: Vec<usize>,
}

impl Plan {
    fn of(entries: &[(Box<[u8]>, Entry)]) -> Plan {
        let mut first: HashMap<u32, usize> = HashMap::new();
        let mut plan = Plan { links: HashMap::new(), files: Vec::new() };
        for (at, (_, entry)) in entries.iter().enumerate() {
            let Kind::File { link, .. } = &entry.kind else { continue };
            let known = link.map_or(at, |link| *first.entry(link).or_insert(at));
            if known == at {
                plan.files.push(at);
            } else {
                plan.links.insert(at, known);
            }
        }
        plan
    }
}

enum Message {
    Small { content: Vec<u8>, xattrs: Xattrs },
    Large { xattrs: Xattrs },
    Piece(Vec<u8>),
    Failed(SnapshotError),
}

struct Source<'a> {
    fs: BorrowedFd<'a>,
    entries: &'a [(Box<[u8]>, Entry)],
    plan: &'a Plan,
    reading: Reading,
}

impl Source<'_> {
    /// Reads all files in order and sends them. That nobody listens any more is the end too.
    fn read_ahead(&self, sender: &SyncSender<VecDeque<Message>>) -> Vec<FileRead> {
        let mut learnt = Vec::new();
        let mut rest = &self.plan.files[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.batch(rest));
            rest = later;
            if now.is_empty() {
                let at = rest[0];
                rest = &rest[1..];
                match self.send_large(at, sender) {
                    Ok(Some(read)) => learnt.push(read),
                    Ok(None) => return learnt,
                    Err(error) => {
                        let _ = sender.send([Message::Failed(error)].into());
                        return learnt;
                    }
                }
                continue;
            }
            let read: Vec<_> = now.par_iter().with_min_len(16).map(|at| self.read_small(*at)).collect();
            let mut messages = VecDeque::with_capacity(read.len());
            for result in read {
                messages.push_back(match result {
                    Ok((content, read)) => {
                        let xattrs = read.xattrs.clone();
                        learnt.push(read);
                        Message::Small { content, xattrs }
                    }
                    Err(error) => Message::Failed(error),
                });
            }
            if sender.send(messages).is_err() {
                return learnt;
            }
        }
        learnt
    }

    /// How many of the files that come next are read at once: none if the first is large.
    fn batch(&self, files: &[usize]) -> usize {
        let mut bytes = 0;
        let fits = |at: &&usize| {
            let size = self.size(**at);
            bytes += size;
            size <= SMALL && bytes <= BATCH_BYTES
        };
        files.iter().take(BATCH_FILES).take_while(fits).count()
    }

    /// The digest of a file, where it need not be worked out.
    fn known(&self, at: usize) -> Option<Digest> {
        match self.entries[at].1.kind {
            Kind::File { digest, .. } if self.reading == Reading::Again || *digest.as_bytes() != UNREAD => {
                Some(digest)
            }
            _ => None,
        }
    }

    fn size(&self, at: usize) -> u64 {
        match self.entries[at].1.kind {
            Kind::File { size, .. } => size,
            _ => 0,
        }
    }

    fn read_small(&self, at: usize) -> Result<(Vec<u8>, FileRead), SnapshotError> {
        let (file, xattrs) = self.open(at)?;
        let path = &self.entries[at].0;
        let size = self.size(at) as usize;
        // One byte of room more tells a file that has grown.
        let mut content = vec![0; size + 1];
        let mut length = 0;
        while length < content.len() {
            match rustix::io::read(&file, &mut content[length..]) {
                Ok(more) => {
                    length += more;
                    // It had room to give more.
                    if length == size {
                        break;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(cannot("read", path)(error)),
            }
        }
        if length != size {
            return Err(SnapshotError::Changed(shown(path)));
        }
        content.truncate(size);
        let digest = self.known(at).unwrap_or_else(|| Digest::of(&content));
        Ok((content, FileRead { at, digest, xattrs }))
    }

    fn send_large(
        &self,
        at: usize,
        sender: &SyncSender<VecDeque<Message>>,
    ) -> Result<Option<FileRead>, SnapshotError> {
        let (file, xattrs) = self.open(at)?;
        let path = &self.entries[at].0;
        if sender.send([Message::Large { xattrs: xattrs.clone() }].into()).is_err() {
            return Ok(None);
        }
        let known = self.known(at);
        let mut hasher = Hasher::new();
        let mut left = self.size(at);
        loop {
            let mut piece = vec![0; PIECE];
            let length = match rustix::io::read(&file, &mut piece[..]) {
                Ok(0) => break,
                Ok(length) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(cannot("read", path)(error)),
            };
            piece.truncate(length);
            left = left.checked_sub(length as u64).ok_or_else(|| SnapshotError::Changed(shown(path)))?;
            if known.is_some() {
                if sender.send([Message::Piece(piece)].into()).is_err() {
                    return Ok(None);
                }
                continue;
            }
            // Another core hashes the tar while this one hashes the file.
            if sender.send([Message::Piece(piece.clone())].into()).is_err() {
                return Ok(None);
            }
            hasher.update(&piece);
        }
        if left != 0 {
            return Err(SnapshotError::Changed(shown(path)));
        }
        Ok(Some(FileRead { at, digest: known.unwrap_or_else(|| hasher.finish()), xattrs }))
    }

    fn open(&self, at: usize) -> Result<(OwnedFd, Xattrs), SnapshotError> {
        let (path, entry) = &self.entries[at];
        let file = open_beneath(self.fs, path).map_err(cannot("open", path))?;
        if self.known(at).is_some() {
            return Ok((file, entry.xattrs.clone()));
        }
        let mut xattrs = node::xattrs_of(&file).map_err(cannot("read the attributes of", path))?;
        xattrs.retain(|(name, _)| !node::is_private_xattr(name));
        Ok((file, xattrs))
    }
}

/// Opens a regular file of a snapshot, in which no path leads through a symbolic link.
pub(crate) fn open_beneath(fs: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(fs, path, flags, Mode::empty(), resolve)
}

fn write_entries(
    entries: &[(Box<[u8]>, Entry)],
    plan: &Plan,
    receiver: Receiver<VecDeque<Message>>,
    out: &mut dyn Write,
) -> Result<(), SnapshotError> {
    let mut writer = LayerWriter::new(out);
    let mut feed = Feed { receiver, waiting: VecDeque::new() };
    for (at, (path, entry)) in entries.iter().enumerate() {
        if entry.kind == Kind::Whiteout {
            append_marker(&mut writer, path, None)?;
            continue;
        }
        if let Some(first) = plan.links.get(&at) {
            let kind = EntryKind::Hardlink { target: &entries[*first].0 };
            writer.append_empty(&head(path, kind, entry, &[])).map_err(broken)?;
            continue;
        }
        let size_bytes = match &entry.kind {
            Kind::File { size, .. } => *size,
            other => {
                writer.append_empty(&head(path, tar_kind(other), entry, &entry.xattrs)).map_err(broken)?;
                if *other == (Kind::Directory { opaque: true }) {
                    append_marker(&mut writer, path, Some(OPAQUE))?;
                }
                continue;
            }
        };
        let kind = EntryKind::File { size_bytes };
        match feed.next()? {
            Message::Small { content, xattrs } => {
                writer.begin(&head(path, kind, entry, &xattrs)).map_err(broken)?;
                writer.write_content(&content).map_err(broken)?;
            }
            Message::Large { xattrs } => {
                writer.begin(&head(path, kind, entry, &xattrs)).map_err(broken)?;
                let mut left = size_bytes;
                while left > 0 {
                    let piece = match feed.next()? {
                        Message::Piece(piece) => piece,
                        Message::Failed(error) => return Err(error),
                        _ => return Err(SnapshotError::Changed(shown(path))),
                    };
                    left = left.saturating_sub(piece.len() as u64);
                    writer.write_content(&piece).map_err(broken)?;
                }
            }
            Message::Piece(_) => return Err(SnapshotError::Changed(shown(path))),
            Message::Failed(error) => return Err(error),
        }
        writer.end().map_err(broken)?;
    }
    writer.finish().map(drop).map_err(broken)
}

fn head<'a>(
    path: &'a [u8],
    kind: EntryKind<'a>,
    entry: &Entry,
    xattrs: &'a [(Vec<u8>, Vec<u8>)],
) -> archive::Entry<'a> {
    let Entry { mode, uid, gid, mtime_s, .. } = *entry;
    archive::Entry { path, kind, mode, uid, gid, mtime_s, mtime_ns: 0, xattrs }
}

fn broken(source: io::Error) -> SnapshotError {
    SnapshotError::Stream { action: "write the layer", source }
}

/// Writes the empty file that stands for a whiteout of `path`, or for what `name` in it says.
fn append_marker<W: Write>(
    writer: &mut LayerWriter<W>,
    path: &[u8],
    name: Option<&[u8]>,
) -> Result<(), SnapshotError> {
    let marker = match name {
        Some(name) => [path, b"/", name].concat(),
        None => {
            let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            [&path[..start], WHITEOUT, &path[start..]].concat()
        }
    };
    let nobodys = Entry { mode: 0, ..Entry::implied_directory() };
    let kind = EntryKind::File { size_bytes: 0 };
    writer.append_empty(&head(&marker, kind, &nobodys, &[])).map_err(broken)
}

fn tar_kind(kind: &Kind) -> EntryKind<'_> {
    match kind {
        Kind::File { size, .. } => EntryKind::File { size_bytes: *size },
        Kind::Directory { .. } => EntryKind::Directory,
        Kind::Symlink { target } => EntryKind::Symlink { target },
        Kind::CharDevice { major, minor } => EntryKind::CharDevice { major: *major, minor: *minor },
        Kind::BlockDevice { major, minor } => EntryKind::BlockDevice { major: *major, minor: *minor },
        Kind::Fifo => EntryKind::Fifo,
        Kind::Whiteout => EntryKind::File { size_bytes: 0 },
    }
}

/// What has been read ahead, in order.
struct Feed {
    receiver: Receiver<VecDeque<Message>>,
    waiting: VecDeque<Message>,
}

impl Feed {
    fn next(&mut self) -> Result<Message, SnapshotError> {
        loop {
            if let Some(message) = self.waiting.pop_front() {
                return Ok(message);
            }
            self.waiting = self.receiver.recv().map_err(|_| SnapshotError::Stream {
                action: "read the layer's files",
                source: io::ErrorKind::BrokenPipe.into(),
            })?;
        }
    }
}
