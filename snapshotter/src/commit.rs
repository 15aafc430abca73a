//! Turns what was written on top of a stack of layers into a layer: what differs from the layers
//! below, and nothing else.
//! It does not know what wrote it, nor how its tar is laid out.
//!
//! The rules are those of BuildKit's overlay differ. A file that was copied up but is as below is
//! not in the layer; a directory is in it if it differs or if anything in it does; sockets are
//! not. What an opaque directory hides becomes whiteouts, one for each name. The files of the
//! snapshot are brought into the same form, so that they are what the index says, on any stack.

use crate::error::{SnapshotError, cannot, shown};
use crate::id::SnapshotId;
use crate::index::{Entry, Kind, LayerIndex, LayerTar, path_order, sorted};
use crate::layer_tar::{self, Reading, write_tar};
use crate::node::{self, Metadata, Xattrs};
use crate::reuse::Earlier;
use crate::store::{Active, Committed, Snapshotter};
use crate::view::{Found, Level, TreeView};
use kiln_oci::{Digest, Hasher};
use rustix::fs::{self, AtFlags, FileType, Mode, Stat};
use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// The longest path that a layer may hold, as for any path of the kernel's.
const MAX_PATH_BYTES: usize = 4095;

/// How a layer is made of what was written.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// No time in the layer is later than this, in seconds since 1970.
    pub clamp_mtime_s: Option<i64>,
}

impl Snapshotter {
    /// Ends a snapshot: works out what differs from `layers_below` (from the lowest up), its index
    /// and the digest of its tar, for which each file is read once. Whatever was mounted on `active`
    /// must be gone. The snapshot never changes again; it survives a loss of power from the next
    /// [`Snapshotter::sync`] on.
    pub fn commit(
        &self,
        active: Active,
        layers_below: &[SnapshotId],
        options: &CommitOptions,
    ) -> Result<Committed, SnapshotError> {
        self.commit_reusing(active, layers_below, options, None)
    }

    /// As [`Snapshotter::commit`], with the files that copies have left to be taken over from `earlier`. That
    /// this could not be done is [`SnapshotError::NotReused`]: then all must be copied.
    pub fn commit_reusing(
        &self,
        active: Active,
        layers_below: &[SnapshotId],
        options: &CommitOptions,
        earlier: Option<&Earlier>,
    ) -> Result<Committed, SnapshotError> {
        let (root, entries) = self.differences(&active, layers_below, options, earlier)?;
        self.commit_entries(active, &root, entries)
    }

    /// What is in the layer, in order; files that were not read yet have no digest. The snapshot's files are brought
    /// into the same form.
    pub(crate) fn differences(
        &self,
        active: &Active,
        layers_below: &[SnapshotId],
        options: &CommitOptions,
        earlier: Option<&Earlier>,
    ) -> Result<(OwnedFd, Entries), SnapshotError> {
        let below = self.view(layers_below)?;
        let root = active.open_fs()?;
        if let Some(earlier) = earlier {
            earlier.link_into(root.as_fd())?;
        }
        let mut diff = Diff {
            fs: root.as_fd(),
            opaque: self.marks.opaque(),
            options,
            earlier,
            entries: Vec::new(),
            names: HashMap::new(),
        };
        diff.folder(&root, &mut Vec::new(), Some(below.root()).filter(|level| !level.is_empty()), false)?;
        let Diff { entries, names, .. } = diff;
        let mut entries = sorted(entries);
        number_links(&mut entries, names);
        Ok((root, entries))
    }

    /// Reads the files of a layer and finishes it.
    pub(crate) fn commit_entries(
        &self,
        mut active: Active,
        root: &OwnedFd,
        mut entries: Entries,
    ) -> Result<Committed, SnapshotError> {
        let written = write_tar(root.as_fd(), &entries, Reading::First, &mut io::sink())?;
        learn(&mut entries, written.files);
        let tar = OnceLock::from(LayerTar { diff_id: written.diff_id, bytes: written.bytes });
        self.finish(&mut active, Arc::new(LayerIndex { entries, tar, unresolved_links: Vec::new() }))
    }

    /// Writes the tar of a layer, byte for byte what its digest is of. An error says if it is
    /// another: `out` has then got bytes that are of no use.
    pub fn write_layer(&self, id: &SnapshotId, out: &mut dyn Write) -> Result<(), SnapshotError> {
        let index = self.index(id)?;
        let root = self.open_fs(id)?;
        let written = write_tar(root.as_fd(), &index.entries, Reading::Again, out)?;
        // Of one whose tar was never written before there is nothing to be compared with.
        match index.tar.get() {
            Some(LayerTar { diff_id, .. }) if written.diff_id != *diff_id => {
                let (expected, actual) = (*diff_id, written.diff_id);
                Err(SnapshotError::NotReproduced { id: *id, expected, actual })
            }
            _ => Ok(()),
        }
    }

    /// Writes the tar of a layer with no time after `latest_s`, in seconds since 1970, and gives the digest
    /// and the length of that tar.
    pub fn write_layer_clamped(
        &self,
        id: &SnapshotId,
        latest_s: i64,
        out: &mut dyn Write,
    ) -> Result<(kiln_oci::DiffId, u64), SnapshotError> {
        let mut entries = self.index(id)?.entries.clone();
        for (_, entry) in &mut entries {
            if entry.mtime_s >= latest_s {
                (entry.mtime_s, entry.mtime_ns) = (latest_s, 0);
            }
        }
        let root = self.open_fs(id)?;
        let written = write_tar(root.as_fd(), &entries, Reading::Again, out)?;
        Ok((written.diff_id, written.bytes))
    }

    /// The tree that finished layers make, from the lowest up.
    pub fn view(&self, layers: &[SnapshotId]) -> Result<TreeView, SnapshotError> {
        let indexes: Result<Vec<Arc<LayerIndex>>, SnapshotError> =
            layers.iter().map(|id| self.index(id)).collect();
        Ok(TreeView::new(indexes?))
    }
}

/// What a layer holds, in the order of its tar.
pub(crate) type Entries = Vec<(Box<[u8]>, Entry)>;

struct Diff<'a> {
    fs: BorrowedFd<'a>,
    opaque: &'static [u8],
    options: &'a CommitOptions,
    earlier: Option<&'a Earlier>,
    entries: Vec<(Box<[u8]>, Entry)>,
    /// The paths of each file that has several names, by its number on the file system.
    names: HashMap<u64, Vec<Box<[u8]>>>,
}

/// One name of the folder that is gone through.
struct Node<'a> {
    dir: &'a OwnedFd,
    name: &'a [u8],
    stat: Stat,
}

impl Diff<'_> {
    /// Goes through the folder at `path`, which the layers below have as `below`; `replaced` if it
    /// hides what they have in it. Tells whether anything in it is in the layer.
    fn folder(
        &mut self,
        dir: &OwnedFd,
        path: &mut Vec<u8>,
        below: Option<Level<'_>>,
        replaced: bool,
    ) -> Result<bool, SnapshotError> {
        let names = node::list(dir).map_err(cannot("list", path))?;
        let length = path.len();
        let mut any = false;
        for (name, _) in &names {
            path.truncate(length);
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            if path.len() > MAX_PATH_BYTES {
                return Err(cannot("commit", path)(rustix::io::Errno::NAMETOOLONG));
            }
            let found = below.as_ref().and_then(|level| level.child(name));
            if let Some(entry) = self.earlier.and_then(|earlier| earlier.taken(path)) {
                any |= self.reused((dir, name), path, entry, found)?;
                continue;
            }
            let stat = node::stat_at(dir, name).map_err(cannot("look at", path))?;
            any |= self.node(Node { dir, name, stat }, path, found, replaced)?;
        }
        if let (true, Some(level)) = (replaced, &below) {
            for (name, _) in level.children() {
                if names.binary_search_by(|(other, _)| other.as_slice().cmp(name)).is_ok() {
                    continue;
                }
                path.truncate(length);
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                make_whiteout(dir.as_fd(), name).map_err(cannot("remove", path))?;
                self.entries.push((path.as_slice().into(), whiteout()));
                any = true;
            }
        }
        path.truncate(length);
        Ok(any)
    }

    /// Takes one name into the layer, or removes it from the snapshot. Tells whether it is in.
    fn node(
        &mut self,
        node: Node<'_>,
        path: &mut Vec<u8>,
        found: Option<Found<'_>>,
        replaced: bool,
    ) -> Result<bool, SnapshotError> {
        let kind = node::type_of(&node.stat);
        if kind == FileType::Directory {
            return self.directory(&node, path, found, replaced);
        }
        let gone = kind == FileType::Socket || (kind == FileType::CharacterDevice && node.stat.st_rdev == 0);
        if gone {
            if kind == FileType::Socket || found.is_none() {
                node.remove(path)?;
            }
            if found.is_some() {
                if kind == FileType::Socket {
                    make_whiteout(node.dir.as_fd(), node.name).map_err(cannot("remove", path))?;
                }
                self.entries.push((path.as_slice().into(), whiteout()));
                return Ok(true);
            }
            return Ok(false);
        }
        let entry = self.entry(&node, path, kind)?;
        if let Some(below) = &found
            && self.is_same(&entry, below.entry, path)?
        {
            node.remove(path)?;
            return Ok(false);
        }
        if kind == FileType::RegularFile && node.stat.st_nlink > 1 {
            self.names.entry(node.stat.st_ino).or_default().push(path.as_slice().into());
        }
        self.entries.push((path.as_slice().into(), self.clamped(entry)));
        Ok(true)
    }

    /// Takes a file over into the layer, of which all is known.
    fn reused(
        &mut self,
        (dir, name): (&OwnedFd, &[u8]),
        path: &[u8],
        entry: &Entry,
        found: Option<Found<'_>>,
    ) -> Result<bool, SnapshotError> {
        if let Some(below) = &found
            && self.is_same(entry, below.entry, path)?
        {
            fs::unlinkat(dir, name, AtFlags::empty()).map_err(cannot("tidy", path))?;
            return Ok(false);
        }
        self.entries.push((path.into(), self.clamped(entry.clone())));
        Ok(true)
    }

    fn directory(
        &mut self,
        node: &Node<'_>,
        path: &mut Vec<u8>,
        found: Option<Found<'_>>,
        replaced: bool,
    ) -> Result<bool, SnapshotError> {
        let dir = node::open_dir(node.dir, node.name).map_err(cannot("open", path))?;
        let mut xattrs = node::xattrs_of(&dir).map_err(cannot("read the attributes of", path))?;
        if xattrs.iter().any(|(name, _)| name.ends_with(b".overlay.redirect")) {
            return Err(SnapshotError::Redirected(shown(path)));
        }
        let marked = xattrs.iter().any(|(name, value)| name == self.opaque && value == b"y");
        xattrs.retain(|(name, _)| !node::is_private_xattr(name));
        let entry = entry_of(Kind::Directory { opaque: false }, &node.stat, xattrs);
        let (same, inside) = match found {
            Some(found) => (alike(&entry, found.entry), found.inside),
            None => (false, None),
        };
        let any = self.folder(&dir, path, inside, replaced || marked)?;
        if marked {
            fs::fremovexattr(&dir, self.opaque).map_err(cannot("change", path))?;
        }
        if same && !any {
            fs::unlinkat(node.dir, node.name, AtFlags::REMOVEDIR).map_err(cannot("tidy", path))?;
            return Ok(false);
        }
        // What was removed from it or added as whiteout has changed its time.
        node::set_mtime(&dir, (entry.mtime_s, entry.mtime_ns)).map_err(cannot("change", path))?;
        let entry = self.clamped(entry);
        self.entries.push((path.as_slice().into(), entry));
        Ok(true)
    }

    fn entry(&self, node: &Node<'_>, path: &[u8], kind: FileType) -> Result<Entry, SnapshotError> {
        let (major, minor) = (fs::major(node.stat.st_rdev), fs::minor(node.stat.st_rdev));
        let kind = match kind {
            // What a file holds and its attributes are read later, by several threads.
            FileType::RegularFile => {
                let unread = Digest::from_bytes(layer_tar::UNREAD);
                let kind = Kind::File { size: node.stat.st_size as u64, digest: unread, link: None };
                return Ok(entry_of(kind, &node.stat, Vec::new()));
            }
            FileType::Symlink => {
                let target = fs::readlinkat(node.dir, node.name, Vec::new()).map_err(cannot("read", path))?;
                Kind::Symlink { target: target.into_bytes() }
            }
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            _ => Kind::Fifo,
        };
        let mut xattrs =
            node::xattrs_at(node.dir, node.name).map_err(cannot("read the attributes of", path))?;
        xattrs.retain(|(name, _)| !node::is_private_xattr(name));
        Ok(entry_of(kind, &node.stat, xattrs))
    }

    /// Whether a file of the snapshot is the one that is below already. Only if all else is equal
    /// is it read.
    fn is_same(&self, entry: &Entry, below: &Entry, path: &[u8]) -> Result<bool, SnapshotError> {
        if (entry.mtime_s, entry.mtime_ns) != (below.mtime_s, below.mtime_ns) {
            return Ok(false);
        }
        let (Kind::File { size, .. }, Kind::File { size: size_below, digest, .. }) =
            (&entry.kind, &below.kind)
        else {
            return Ok(alike(entry, below) && entry.kind == below.kind);
        };
        if size != size_below || !alike_but_xattrs(entry, below) {
            return Ok(false);
        }
        let file = layer_tar::open_beneath(self.fs, path).map_err(cannot("open", path))?;
        let mut xattrs = node::xattrs_of(&file).map_err(cannot("read the attributes of", path))?;
        xattrs.retain(|(name, _)| !node::is_private_xattr(name));
        Ok(xattrs == below.xattrs && digest_of(file).map_err(cannot("read", path))? == *digest)
    }

    fn clamped(&self, mut entry: Entry) -> Entry {
        if let Some(latest) = self.options.clamp_mtime_s
            && entry.mtime_s >= latest
        {
            (entry.mtime_s, entry.mtime_ns) = (latest, 0);
        }
        entry
    }
}

impl Node<'_> {
    fn remove(&self, path: &[u8]) -> Result<(), SnapshotError> {
        fs::unlinkat(self.dir, self.name, AtFlags::empty()).map_err(cannot("tidy", path))
    }
}

fn digest_of(file: OwnedFd) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match rustix::io::read(&file, &mut piece[..]) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(length) => hasher.update(&piece[..length]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn entry_of(kind: Kind, stat: &Stat, xattrs: Xattrs) -> Entry {
    let Metadata { mode, uid, gid, mtime: (mtime_s, mtime_ns) } = Metadata::of(stat);
    Entry { kind, mode, uid, gid, mtime_s, mtime_ns, xattrs, implied: false }
}

pub(crate) fn whiteout() -> Entry {
    Entry { kind: Kind::Whiteout, mode: 0, implied: false, ..Entry::implied_directory() }
}

pub(crate) fn make_whiteout(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
}

fn alike(a: &Entry, b: &Entry) -> bool {
    alike_but_xattrs(a, b) && a.xattrs == b.xattrs
}

/// Whether two entries are of one type and have the same mode and owner.
fn alike_but_xattrs(a: &Entry, b: &Entry) -> bool {
    let same_type = std::mem::discriminant(&a.kind) == std::mem::discriminant(&b.kind);
    same_type && (a.mode, a.uid, a.gid) == (b.mode, b.uid, b.gid)
}

/// Gives all names of one file the same number. A name that stands alone is a file like any other.
fn number_links(entries: &mut [(Box<[u8]>, Entry)], names: HashMap<u64, Vec<Box<[u8]>>>) {
    let mut groups: Vec<Vec<Box<[u8]>>> = names.into_values().filter(|names| names.len() > 1).collect();
    for names in &mut groups {
        names.sort_by(|a, b| path_order(a, b));
    }
    groups.sort_by(|a, b| path_order(&a[0], &b[0]));
    for (number, names) in (1..).zip(groups) {
        for name in names {
            let at = entries.binary_search_by(|(path, _)| path_order(path, &name));
            if let Ok(at) = at
                && let Kind::File { link, .. } = &mut entries[at].1.kind
            {
                *link = Some(number);
            }
        }
    }
}

/// Takes in what reading the files has told.
pub(crate) fn learn(entries: &mut [(Box<[u8]>, Entry)], files: Vec<layer_tar::FileRead>) {
    let mut groups: HashMap<u32, (Digest, Xattrs)> = HashMap::new();
    for file in files {
        let entry = &mut entries[file.at].1;
        if let Kind::File { digest, link, .. } = &mut entry.kind {
            *digest = file.digest;
            if let Some(link) = link {
                groups.insert(*link, (file.digest, file.xattrs.clone()));
            }
        }
        entry.xattrs = file.xattrs;
    }
    if groups.is_empty() {
        return;
    }
    for (_, entry) in entries {
        if let Kind::File { digest, link: Some(link), .. } = &mut entry.kind
            && let Some((known, xattrs)) = groups.get(link)
        {
            *digest = *known;
            entry.xattrs.clone_from(xattrs);
        }
    }
}

#[cfg(test)]
mod tests;
