//! Unpacks an archive into a directory of a tree, as ADD does.
//! It does not know where the archive comes from, nor which sources of an ADD are unpacked.
//!
//! The destination is the root of all that an archive says: its names, the targets of its hard
//! links, and the symbolic links that a name leads through, whether the archive or the image made
//! them. Names that start with `.wh.` are names like others: only layers have whiteouts.

use crate::archive::{ArchiveError, LayerReader, OwnedEntry, OwnedKind, sniff};
use crate::compress::decoder;
use crate::error::{SnapshotError, cannot, missing, shown};
use crate::node::{self, Metadata, Xattrs};
use crate::tree::Tree;
use crate::view::components;
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

#[cfg(test)]
mod tests;

/// How much is remembered of directories whose times are set at the end. An archive with more is
/// read a second time instead.
const TIMES_BYTES_MAX: usize = 32 << 20;
/// What one remembered directory takes besides its path.
const TIME_BYTES: usize = 64;
const BUFFER_BYTES: usize = 128 << 10;
/// The last time that Docker's clock can hold, which counts nanoseconds since 1970 in 63 bits.
const LATEST: (i64, u32) = (i64::MAX / 1_000_000_000, (i64::MAX % 1_000_000_000) as u32);

/// How an archive is unpacked.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExtractOptions {
    /// The owner and group of every entry, and of directories made for the destination; `None`
    /// keeps those of the archive, and makes the destination for root.
    pub owner: Option<(u32, u32)>,
    /// The time of directories that are made without an entry; `None` leaves the present.
    pub mtime: Option<(i64, u32)>,
}

/// Unpacks `file` into the directory `dest` of `to`, symbolic links in `dest` followed inside the
/// tree. The directory is made with what is missing above it.
///
/// Returns whether the file is an archive: a tar, plain or compressed with gzip, bzip2, xz or zstd,
/// which its content alone decides. If it is none, nothing is done and `to` is not looked at. After
/// an error, entries before the bad one are in the tree.
pub fn extract_archive(
    file: File,
    to: &Tree,
    dest: &[u8],
    options: &ExtractOptions,
) -> Result<bool, SnapshotError> {
    let Some((mut archive, first)) = open_archive(&file)? else { return Ok(false) };
    let (dest, made) = make_dest(to, dest, options)?;
    let mut extractor = Extractor {
        root: to.subtree(&dest)?,
        dest,
        options,
        times: DirectoryTimes { known: BTreeMap::new(), bytes: 0, max: TIMES_BYTES_MAX, complete: true },
        buffer: vec![0; BUFFER_BYTES],
    };
    extractor.all(&mut archive, first)?;
    // A checksum stands behind all that it speaks of.
    drop(archive.finish().map_err(named)?);
    for path in made {
        let dir = to.open_listing(&path).map_err(missing("open", &path))?;
        let set = options.mtime.map_or(Ok(()), |mtime| node::set_mtime(&dir, mtime));
        set.map_err(cannot("change", &path))?;
    }
    extractor.set_times(&file)?;
    Ok(true)
}

type Archive<'a> = LayerReader<Box<dyn Read + Send + 'a>>;

/// The archive in a file, with its first entry, if the file is one. A start that no reader could
/// make sense of makes it a plain file; one that readers could understand differently is an error.
fn open_archive(file: &File) -> Result<Option<(Archive<'_>, Option<OwnedEntry>)>, SnapshotError> {
    let failed = |source| SnapshotError::Stream { action: "read the archive", source };
    let mut start = file;
    start.rewind().map_err(failed)?;
    if !sniff::is_archive(file).map_err(failed)? {
        return Ok(None);
    }
    let mut archive = reopen(file).map_err(failed)?;
    match archive.next() {
        Ok(first) => Ok(Some((archive, first))),
        Err(
            ArchiveError::Io(_)
            | ArchiveError::Truncated
            | ArchiveError::NotAHeader { .. }
            | ArchiveError::Number { .. }
            | ArchiveError::Record { .. }
            | ArchiveError::NulInPath
            | ArchiveError::Sparse { .. },
        ) => Ok(None),
        Err(
            error @ (ArchiveError::Contradiction { .. }
            | ArchiveError::TooLarge { .. }
            | ArchiveError::Unsupported { .. }),
        ) => Err(error.into()),
    }
}

/// Reads a file that is known to be an archive, from its start.
fn reopen(file: &File) -> io::Result<Archive<'_>> {
    let mut prefix = Vec::new();
    let mut start = file;
    start.rewind()?;
    start.take(sniff::PREFIX_BYTES as u64).read_to_end(&mut prefix)?;
    start.rewind()?;
    Ok(LayerReader::new(decoder(file, sniff::detect(&prefix))?))
}

fn next_entry(archive: &mut Archive<'_>) -> Result<Option<OwnedEntry>, ArchiveError> {
    archive.next().map_err(named)
}

fn named(error: ArchiveError) -> ArchiveError {
    match error {
        ArchiveError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => ArchiveError::Truncated,
        ArchiveError::Io(error) => ArchiveError::Io(explained(error)),
        error => error,
    }
}

/// Says of an error that no operating system has made that the compressed bytes are wrong.
fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ArchiveError::Truncated.into(),
        kind @ (io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other)
            if error.raw_os_error().is_none() =>
        {
            io::Error::new(kind, format!("the archive is corrupt: {error}"))
        }
        _ => error,
    }
}

/// Makes the destination. Returns its path without links, and the paths of what was made, if their
/// time is to be set.
fn make_dest(
    to: &Tree,
    dest: &[u8],
    options: &ExtractOptions,
) -> Result<(Vec<u8>, Vec<Vec<u8>>), SnapshotError> {
    let mut made = Vec::new();
    if options.mtime.is_some() {
        let resolved = to.resolve(dest)?;
        let mut path = Vec::new();
        for name in components(&resolved) {
            path = below(&path, name);
            if matches!(to.stat(&path, false), Err(SnapshotError::NotFound(_))) {
                made.push(path.clone());
            }
        }
    }
    let owner = options.owner.unwrap_or((0, 0));
    Ok((to.make_dirs(dest, 0o755, Some(owner), options.mtime)?, made))
}

/// The times of directories, which making something in them would change.
struct DirectoryTimes {
    /// By path beneath the destination.
    known: BTreeMap<Vec<u8>, (i64, u32)>,
    bytes: usize,
    max: usize,
    complete: bool,
}

impl DirectoryTimes {
    fn remember(&mut self, path: Vec<u8>, mtime: (i64, u32)) {
        let more = path.len() + TIME_BYTES;
        if self.bytes + more > self.max {
            self.complete = false;
        } else if self.known.insert(path, mtime).is_none() {
            self.bytes += more;
        }
    }
}

struct Extractor<'a> {
    /// The destination.
    root: Tree,
    /// Its path, for messages.
    dest: Vec<u8>,
    options: &'a ExtractOptions,
    times: DirectoryTimes,
    buffer: Vec<u8>,
}

/// A name in a directory, where an entry goes.
struct Place<'a> {
    dir: OwnedFd,
    name: &'a [u8],
    /// Its path in the tree, for messages.
    path: Vec<u8>,
}

impl Extractor<'_> {
    fn all(&mut self, archive: &mut Archive<'_>, first: Option<OwnedEntry>) -> Result<(), SnapshotError> {
        let mut next = first;
        while let Some(entry) = next {
            self.entry(&entry, archive)?;
            next = next_entry(archive)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &OwnedEntry, content: &mut Archive<'_>) -> Result<(), SnapshotError> {
        let (names, anchored) = cleaned(&entry.path);
        let Some((name, above)) = names.split_last() else {
            return if anchored { self.destination(entry) } else { Ok(()) };
        };
        let place = Place { dir: self.parent(above)?, name, path: below(&self.dest, &names.join(&b'/')) };
        let is_directory = entry.kind == OwnedKind::Directory;
        let there = match node::stat_at(&place.dir, name) {
            Err(Errno::NOENT) => false,
            Err(error) => return Err(cannot("look at", &place.path)(error)),
            Ok(stat) if is_directory && node::type_of(&stat) == FileType::Directory => true,
            Ok(_) => {
                node::remove_all(&place.dir, name).map_err(cannot("replace", &place.path))?;
                false
            }
        };
        match &entry.kind {
            OwnedKind::Directory => self.directory(&place, there, names.join(&b'/'), entry),
            OwnedKind::File => self.file(&place, entry, content),
            OwnedKind::Hardlink { target } => self.hard_link(&place, target, entry),
            _ => self.special(&place, entry),
        }
    }

    /// An entry that means the destination. `.` has no say in it, but what is absolute or climbs
    /// out has.
    fn destination(&mut self, entry: &OwnedEntry) -> Result<(), SnapshotError> {
        if entry.kind != OwnedKind::Directory {
            return Err(SnapshotError::OntoDirectory(shown(&self.dest)));
        }
        let dir = self.root.open_listing(b"").map_err(cannot("open", &self.dest))?;
        self.finish(&dir, entry).map_err(cannot("change", &self.dest))?;
        self.times.remember(Vec::new(), mtime_of(entry));
        Ok(())
    }

    /// The directory of an entry. Symbolic links on the way lead somewhere beneath the destination;
    /// what is missing is made for root, whatever the owner of entries. A link to nowhere is not
    /// made somewhere.
    fn parent(&mut self, names: &[&[u8]]) -> Result<OwnedFd, SnapshotError> {
        let open = |root: &Tree, path: &[u8]| match root.open_listing(path) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(missing("open", &below(&self.dest, path))(error)),
        };
        let path = names.join(&b'/');
        if let Some(dir) = open(&self.root, &path)? {
            return Ok(dir);
        }
        let mut dir = self.root.open_listing(b"").map_err(missing("open", &self.dest))?;
        let mut path = Vec::new();
        for name in names {
            path = below(&path, name);
            dir = match open(&self.root, &path)? {
                Some(next) => next,
                None => {
                    let made = make_implied(&dir, name).map_err(cannot("make", &below(&self.dest, &path)))?;
                    if let Some(mtime) = self.options.mtime {
                        self.times.remember(path.clone(), mtime);
                    }
                    made
                }
            };
        }
        Ok(dir)
    }

    fn directory(
        &mut self,
        place: &Place<'_>,
        there: bool,
        path: Vec<u8>,
        entry: &OwnedEntry,
    ) -> Result<(), SnapshotError> {
        if !there {
            fs::mkdirat(&place.dir, place.name, Mode::from_raw_mode(0o700))
                .map_err(cannot("make", &place.path))?;
        }
        let dir = node::open_dir(&place.dir, place.name).map_err(cannot("open", &place.path))?;
        self.finish(&dir, entry).map_err(cannot("change", &place.path))?;
        self.times.remember(path, mtime_of(entry));
        Ok(())
    }

    fn file(
        &mut self,
        place: &Place<'_>,
        entry: &OwnedEntry,
        content: &mut Archive<'_>,
    ) -> Result<(), SnapshotError> {
        let path = &place.path;
        let file = node::create_file(&place.dir, place.name).map_err(cannot("make", path))?;
        let file = File::from(file);
        if entry.sparse {
            set_length(&file, entry.size_bytes).map_err(cannot("write", path))?;
        }
        loop {
            match content.read_data(&mut self.buffer) {
                Ok(None) => break,
                Ok(Some((at, length))) => {
                    file.write_all_at(&self.buffer[..length], at).map_err(cannot("write", path))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cannot("unpack", path)(explained(error))),
            }
        }
        self.finish(&file, entry).map_err(cannot("change", path))
    }

    /// Another name for what is at `target`, which the archive need not have made. Owner, mode and
    /// time of the entry become those of what both names mean.
    fn hard_link(&self, place: &Place<'_>, target: &[u8], entry: &OwnedEntry) -> Result<(), SnapshotError> {
        let dangling = || SnapshotError::DanglingHardlink {
            path: shown(&place.path),
            target: String::from_utf8_lossy(target).into_owned(),
        };
        let (names, _) = cleaned(target);
        let (name, above) = names.split_last().ok_or_else(dangling)?;
        let dir = match self.root.open_listing(&above.join(&b'/')) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(dangling()),
            dir => dir.map_err(cannot("link", &place.path))?,
        };
        match fs::linkat(&dir, *name, &place.dir, place.name, AtFlags::empty()) {
            Err(Errno::NOENT) => return Err(dangling()),
            made => made.map_err(cannot("link", &place.path))?,
        }
        self.finish_at(place, entry)
    }

    /// A symbolic link, a device or a pipe.
    fn special(&self, place: &Place<'_>, entry: &OwnedEntry) -> Result<(), SnapshotError> {
        let node =
            |kind, device| fs::mknodat(&place.dir, place.name, kind, Mode::from_raw_mode(0o600), device);
        let made = match &entry.kind {
            OwnedKind::Symlink { target } => fs::symlinkat(&**target, &place.dir, place.name),
            // On an overlay this is how a deleted file is stored, which the kernel refuses to make too.
            OwnedKind::CharDevice { major: 0, minor: 0 } => Err(Errno::PERM),
            OwnedKind::CharDevice { major, minor } => {
                node(FileType::CharacterDevice, fs::makedev(*major, *minor))
            }
            OwnedKind::BlockDevice { major, minor } => {
                node(FileType::BlockDevice, fs::makedev(*major, *minor))
            }
            _ => node(FileType::Fifo, 0),
        };
        made.map_err(cannot("make", &place.path))?;
        self.finish_at(place, entry)
    }

    /// Gives an open file or directory its owner, then what a change of owner clears.
    fn finish(&self, fd: impl AsFd, entry: &OwnedEntry) -> rustix::io::Result<()> {
        let Metadata { mode, uid, gid, mtime } = self.metadata(entry);
        let fd = fd.as_fd();
        node::set_owner(fd, uid, gid)?;
        for (name, value) in public(&entry.xattrs) {
            tolerate(fs::fsetxattr(fd, &**name, value, XattrFlags::empty()))?;
        }
        node::set_mode(fd, mode)?;
        node::set_mtime(fd, mtime)
    }

    /// The same for what can't be opened, or need not be what the entry is.
    fn finish_at(&self, place: &Place<'_>, entry: &OwnedEntry) -> Result<(), SnapshotError> {
        let Place { dir, name, path } = place;
        let metadata = self.metadata(entry);
        let set = || -> rustix::io::Result<()> {
            let is_link = node::type_of(&node::stat_at(dir, name)?) == FileType::Symlink;
            if is_link && matches!(entry.kind, OwnedKind::Hardlink { .. }) {
                let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
                fs::chownat(dir, *name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            } else {
                node::apply_at(dir, name, &metadata, &Xattrs::new())?;
            }
            public(&entry.xattrs)
                .try_for_each(|(key, value)| tolerate(node::set_xattr_at(dir, name, key, value)))
        };
        set().map_err(cannot("change", path))
    }

    fn metadata(&self, entry: &OwnedEntry) -> Metadata {
        let (uid, gid) = self.options.owner.unwrap_or((entry.uid, entry.gid));
        // For the kernel this number means no change, so that what was made stays root's.
        let known = |id| if id == u32::MAX { 0 } else { id };
        Metadata { mode: entry.mode, uid: known(uid), gid: known(gid), mtime: mtime_of(entry) }
    }

    fn set_times(&self, file: &File) -> Result<(), SnapshotError> {
        for (path, mtime) in &self.times.known {
            self.set_time(path, *mtime)?;
        }
        if self.times.complete {
            return Ok(());
        }
        let failed = |source| SnapshotError::Stream { action: "read the archive again", source };
        let mut archive = reopen(file).map_err(failed)?;
        while let Some(entry) = next_entry(&mut archive)? {
            let (names, anchored) = cleaned(&entry.path);
            if entry.kind == OwnedKind::Directory && (anchored || !names.is_empty()) {
                self.set_time(&names.join(&b'/'), mtime_of(&entry))?;
            }
        }
        Ok(())
    }

    /// Sets the time of a directory, unless a later entry has put something else in its place.
    fn set_time(&self, path: &[u8], mtime: (i64, u32)) -> Result<(), SnapshotError> {
        match self.root.look_up(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            dir => dir
                .and_then(|dir| node::set_mtime(&dir, mtime))
                .map_err(cannot("change", &below(&self.dest, path))),
        }
    }
}

/// Makes a directory that no entry has asked for. As with mkdir, its parent's set-group-id bit
/// stays on it.
fn make_implied(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
    let made = node::open_dir(parent, name)?;
    let inherited = fs::fstat(&made)?.st_mode & 0o2000;
    node::set_owner(&made, 0, 0)?;
    node::set_mode(&made, 0o755 | inherited)?;
    Ok(made)
}

/// Makes a file with holes as long as it will be. One that would not fit if it had none is refused
/// at once: whoever reads it has to read them as zeros.
fn set_length(file: &File, bytes: u64) -> rustix::io::Result<()> {
    let space = fs::fstatvfs(file)?;
    if bytes > space.f_bavail.saturating_mul(space.f_frsize) {
        return Err(Errno::NOSPC);
    }
    fs::ftruncate(file, bytes)
}

/// The names of a path with `.` and `..` resolved as text, never above the root; and whether it is
/// more than a way to write `.`, because it is absolute or climbs out.
fn cleaned(path: &[u8]) -> (Vec<&[u8]>, bool) {
    let mut anchored = path.starts_with(b"/");
    let mut names = Vec::new();
    for name in components(path) {
        if name != b".." {
            names.push(name);
        } else if names.pop().is_none() {
            anchored = true;
        }
    }
    (names, anchored)
}

fn below(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match (folder, name) {
        (b"", _) => name.to_vec(),
        (_, b"") => folder.to_vec(),
        _ => [folder, b"/", name].concat(),
    }
}

/// The time of an entry; one that Docker's times can't hold is 1970.
fn mtime_of(entry: &OwnedEntry) -> (i64, u32) {
    let mtime = (entry.mtime_s, entry.mtime_ns);
    if mtime.0 < 0 || mtime > LATEST { (0, 0) } else { mtime }
}

fn public(xattrs: &Xattrs) -> impl Iterator<Item = &(Vec<u8>, Vec<u8>)> {
    xattrs.iter().filter(|(name, _)| !node::is_private_xattr(name))
}

/// Attributes that a file system does not have, or that are not for us to set, are left out. Any
/// other failure would lose what somebody has put into the archive.
fn tolerate(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOTSUP | Errno::PERM) => Ok(()),
        other => other,
    }
}
