//! Copies a file or what is in a directory from one tree to another, with all that a file system
//! keeps of it.
//! It does not know which sources a COPY names, nor where a destination without a slash leads.

use crate::error::{SnapshotError, cannot, missing, shown};
use crate::mode::{ModeChange, SourceModes};
use crate::node::{self, Metadata, Xattrs};
use crate::reuse::Earlier;
use crate::tree::{NodeStat, NodeType, Tree, make_room};
use crate::view::components;
use kiln_oci::Digest;
use rustix::fs::{self, AtFlags, FileType, Mode, SeekFrom, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// How files are copied. [`CopyOptions::default`] keeps everything as it is.
#[derive(Clone, Copy)]
pub struct CopyOptions<'a> {
    /// The owner and group of every copy; `None` keeps the source's.
    pub owner: Option<(u32, u32)>,
    /// How the source's modes are seen.
    pub source_modes: SourceModes,
    /// What is changed in every copy's mode; symbolic links have none.
    pub mode: Option<&'a ModeChange>,
    /// What of a directory is copied: it gets the path beneath the source, and whether that is a
    /// directory. The source itself is never asked about.
    pub filter: &'a (dyn Fn(&[u8], bool) -> Verdict + 'a),
    /// The time of every copy and of every directory made on the way; `None` keeps the source's.
    pub mtime: Option<(i64, u32)>,
    /// Whether a source that is a symbolic link stands for what it leads to.
    pub follow_source: bool,
    /// From where a directory's files may be taken over instead. They are not there before the commit, which
    /// must be told: nothing but the commit may come after such a copy.
    pub reuse: Option<Reuse<'a>>,
}

/// What files may be taken over.
#[derive(Clone, Copy)]
pub struct Reuse<'a> {
    /// The layer that has them.
    pub earlier: &'a Earlier,
    /// What is known already of the file at a path beneath the source: how it was when it was looked at, and the
    /// digest of its bytes if it has no attributes. It is not looked at again; that it is still so is for the
    /// caller to see to, once the copy is done.
    pub seen: &'a Seen<'a>,
}

/// What a path beneath a source was when it was looked at.
pub type Seen<'a> = dyn Fn(&[u8]) -> Option<(NodeStat, Digest)> + 'a;

/// What becomes of one path beneath a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is copied.
    Include,
    /// Neither it nor anything in it is copied.
    Exclude,
    /// It is copied only if something in it is.
    ExcludeButDescend,
}

/// What has been copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files, links, devices and pipes.
    pub files: u64,
    /// Directories, made or merged.
    pub directories: u64,
    /// The bytes of the files.
    pub bytes: u64,
}

impl Default for CopyOptions<'_> {
    fn default() -> Self {
        CopyOptions {
            owner: None,
            source_modes: SourceModes::Exact,
            mode: None,
            filter: &|_, _| Verdict::Include,
            mtime: None,
            follow_source: false,
            reuse: None,
        }
    }
}

/// Copies `source` of the tree `from` to `dest` in the tree `to`: a directory's content into the
/// directory `dest`, anything else as `dest` itself.
///
/// Directories missing above `dest`, and `dest` itself for a directory, are made with mode 0755 or
/// that of an octal change, and with the owner given or root. A directory that is at `dest` already keeps
/// its metadata, but for its time; those within it that the source has too take the source's. A symbolic link at
/// the end of `dest` is not followed: see [`Tree::resolve`].
pub fn copy_tree(
    from: &Tree,
    source: &[u8],
    to: &Tree,
    dest: &[u8],
    options: &CopyOptions<'_>,
) -> Result<Copied, SnapshotError> {
    let source = if options.follow_source { from.resolve(source)? } else { source.to_vec() };
    let dest: Vec<&[u8]> = components(dest).collect();
    let mut copier = Copier {
        to,
        options,
        reuse: options.reuse,
        above: Vec::new(),
        links: HashMap::new(),
        buffer: vec![0; 256 << 10],
        reflinks: true,
        copied: Copied::default(),
    };
    let (parent, name) = from.split(&source)?;
    let name = name.unwrap_or_else(|| b".".to_vec());
    let stat = node::stat_at(&parent, &name).map_err(missing("copy", &source))?;
    let parent_mode = options.mode.map_or(0o755, ModeChange::for_new_parents);
    let owner = Some(options.owner.unwrap_or((0, 0)));
    if node::type_of(&stat) == FileType::Directory {
        let path = dest.join(&b'/');
        if let Ok(there) = to.stat(&path, false)
            && there.kind != NodeType::Directory
        {
            return Err(SnapshotError::OntoNonDirectory(shown(&path)));
        }
        to.make_dirs(&path, parent_mode, owner, options.mtime)?;
        let dir = node::open_dir(&parent, &name).map_err(missing("open", &source))?;
        let target = to.open_listing(&path).map_err(missing("open", &path))?;
        copier.copied.directories += 1;
        copier.above.push(Above {
            source: None,
            name: Vec::new(),
            target: Some(Rc::new(target)),
            merge: true,
            is_new: false,
        });
        copier.content(&dir, &mut Vec::new(), &path)?;
        // As BuildKit: of the folder's own metadata only the time goes to the destination.
        if let Some(Above { target: Some(target), .. }) = copier.above.pop() {
            let mtime = options.mtime.unwrap_or_else(|| Metadata::of(&stat).mtime);
            node::set_mtime(&target, mtime).map_err(cannot("change", &path))?;
        }
        return Ok(copier.copied);
    }
    let Some((last, folder)) = dest.split_last() else {
        return Err(SnapshotError::OntoDirectory(shown(b"")));
    };
    let folder = to.make_dirs(&folder.join(&b'/'), parent_mode, owner, options.mtime)?;
    let target = to.open_listing(&folder).map_err(missing("open", &folder))?;
    copier.reuse = None;
    let path = if folder.is_empty() { last.to_vec() } else { [&folder, &b"/"[..], last].concat() };
    copier.node(parent.as_fd(), &name, &stat, target.as_fd(), last, &path)?;
    Ok(copier.copied)
}

/// A directory on the way down, which is made when the first thing in it is.
struct Above {
    /// The source's metadata and attributes; none for the destination itself.
    source: Option<(Metadata, Xattrs)>,
    name: Vec<u8>,
    target: Option<Rc<OwnedFd>>,
    merge: bool,
    /// Whether it was made by this copy, so that nothing is in it but what was copied.
    is_new: bool,
}

struct Copier<'a> {
    to: &'a Tree,
    options: &'a CopyOptions<'a>,
    reuse: Option<Reuse<'a>>,
    above: Vec<Above>,
    /// Where the first name of a file with several was copied to.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    /// Whether the file systems are thought to share blocks: not any more once they have refused.
    reflinks: bool,
    copied: Copied,
}

impl Copier<'_> {
    /// Copies what is in `dir`, which is at `relative` beneath the source and goes to `dest`.
    fn content(&mut self, dir: &OwnedFd, relative: &mut Vec<u8>, dest: &[u8]) -> Result<(), SnapshotError> {
        let names = node::list(dir).map_err(cannot("list", relative))?;
        let length = relative.len();
        for (name, kind) in names {
            relative.truncate(length);
            if !relative.is_empty() {
                relative.push(b'/');
            }
            relative.extend_from_slice(&name);
            let is_dir = kind == FileType::Directory;
            let verdict = (self.options.filter)(relative, is_dir);
            if verdict == Verdict::Exclude || (verdict == Verdict::ExcludeButDescend && !is_dir) {
                continue;
            }
            let target = if dest.is_empty() { name.clone() } else { [dest, b"/", &name].concat() };
            if kind == FileType::RegularFile && self.is_reused(relative, &target) {
                let (folder, is_new) = self.target(dest)?;
                if !is_new {
                    make_room(folder.as_fd(), &name, &target)?;
                }
                self.copied.files += 1;
                continue;
            }
            let stat = node::stat_at(dir, &name).map_err(missing("copy", relative))?;
            if node::type_of(&stat) != FileType::Directory {
                let (folder, _) = self.target(dest)?;
                self.node(dir.as_fd(), &name, &stat, folder.as_fd(), &name, &target)?;
                continue;
            }
            let child = node::open_dir(dir, &name).map_err(missing("open", relative))?;
            let xattrs = node::xattrs_of(&child).map_err(cannot("read the attributes of", relative))?;
            let source = Some((self.changed(&stat), public(xattrs)));
            let merge = verdict == Verdict::Include;
            self.above.push(Above { source, name, target: None, merge, is_new: false });
            if merge {
                self.target(&target)?;
            }
            self.content(&child, relative, &target)?;
            if let Some(Above { source: Some((metadata, xattrs)), target: Some(made), merge: true, .. }) =
                self.above.pop()
            {
                node::apply(&made, &metadata, &xattrs).map_err(cannot("change", &target))?;
                self.copied.directories += 1;
            }
        }
        relative.truncate(length);
        Ok(())
    }

    /// The directory that is copied into now, made with those above it if it is not there yet.
    /// `dest` is its path. Tells whether this copy made it.
    fn target(&mut self, dest: &[u8]) -> Result<(Rc<OwnedFd>, bool), SnapshotError> {
        let missing_from = self.above.iter().rposition(|above| above.target.is_some()).unwrap_or(0);
        for at in missing_from + 1..self.above.len() {
            let (before, rest) = self.above.split_at_mut(at);
            let (Some(Above { target: Some(parent), .. }), Some(above)) = (before.last(), rest.first_mut())
            else {
                break;
            };
            let made = match fs::mkdirat(parent, &*above.name, Mode::from_raw_mode(0o700)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(cannot("make", dest)(error)),
            };
            // One that is only on the way takes the source's metadata if it is new, else only its mode.
            above.merge |= made;
            match node::open_dir(parent, &above.name) {
                Ok(dir) => {
                    if let (false, Some((metadata, _))) = (made, &above.source) {
                        node::set_mode(&dir, metadata.mode).map_err(cannot("change", dest))?;
                    }
                    above.is_new = made;
                    above.target = Some(Rc::new(dir));
                }
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(SnapshotError::OntoNonDirectory(shown(dest))),
                Err(error) => return Err(cannot("open", dest)(error)),
            }
        }
        let last = self.above.last();
        let found = last.and_then(|above| Some((Rc::clone(above.target.as_ref()?), above.is_new)));
        found.ok_or_else(|| SnapshotError::NotFound(shown(dest)))
    }

    /// Copies one thing that is no directory; `path` is where it goes.
    fn node(
        &mut self,
        from: BorrowedFd<'_>,
        source: &[u8],
        stat: &Stat,
        folder: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), SnapshotError> {
        make_room(folder, name, path)?;
        self.copied.files += 1;
        let kind = node::type_of(stat);
        if kind == FileType::RegularFile {
            return self.file(from, source, stat, folder, name, path);
        }
        let metadata = self.changed(stat);
        let xattrs = node::xattrs_at(from, source).map_err(missing("copy", path))?;
        let made = match kind {
            FileType::Symlink => fs::readlinkat(from, source, Vec::new())
                .and_then(|target| fs::symlinkat(target.as_c_str(), folder, name)),
            // A socket without its listener is an empty file.
            FileType::Socket => node::create_file(folder, name).map(drop),
            FileType::CharacterDevice if stat.st_rdev == 0 => return Ok(()),
            _ => fs::mknodat(folder, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev),
        };
        made.map_err(cannot("make", path))?;
        node::apply_at(folder, name, &metadata, &public(xattrs)).map_err(cannot("change", path))
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        source: &[u8],
        stat: &Stat,
        folder: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), SnapshotError> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino))
                && let Ok((dir, Some(first))) = self.to.split(first)
                && fs::linkat(&dir, &*first, folder, name, AtFlags::empty()).is_ok()
            {
                return Ok(());
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        let input = node::open_file(from, source).map_err(missing("open", path))?;
        let stat = fs::fstat(&input).map_err(cannot("look at", path))?;
        if node::type_of(&stat) != FileType::RegularFile {
            return Err(SnapshotError::Changed(shown(path)));
        }
        let output = node::create_file(folder, name).map_err(cannot("make", path))?;
        self.copied.bytes += self.bytes(&input, &output, &stat).map_err(cannot("copy", path))?;
        let xattrs = node::xattrs_of(&input).map_err(cannot("read the attributes of", path))?;
        node::apply(&output, &self.changed(&stat), &public(xattrs)).map_err(cannot("change", path))
    }

    /// Whether the file at `relative` beneath the source is taken over from the earlier layer, to be at `path`.
    fn is_reused(&self, relative: &[u8], path: &[u8]) -> bool {
        let Some(Reuse { earlier, seen }) = self.reuse else { return false };
        let Some((stat, digest)) = seen(relative) else { return false };
        if stat.kind != NodeType::File || stat.links > 1 {
            return false;
        }
        let NodeStat { mode, uid, gid, mtime, .. } = stat;
        let metadata = self.changed_from(Metadata { mode, uid, gid, mtime }, NodeType::File);
        earlier.take(path, stat.size, &metadata, &digest)
    }

    /// Copies the bytes of a file, its holes as holes.
    fn bytes(&mut self, input: &OwnedFd, output: &OwnedFd, stat: &Stat) -> rustix::io::Result<u64> {
        let size = stat.st_size as u64;
        if size == 0 {
            return Ok(0);
        }
        if self.reflinks {
            match fs::ioctl_ficlone(output, input) {
                Ok(()) => return Ok(size),
                Err(_) => self.reflinks = false,
            }
        }
        if stat.st_blocks as u64 * 512 >= size {
            return self.range(input, output, 0, u64::MAX);
        }
        let mut at = 0;
        let mut copied = 0;
        while at < size {
            let data = match fs::seek(input, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL) => return self.range(input, output, 0, u64::MAX),
                data => data?,
            };
            let hole = fs::seek(input, SeekFrom::Hole(data))?;
            copied += self.range(input, output, data, hole - data)?;
            at = hole;
        }
        fs::ftruncate(output, size)?;
        Ok(copied)
    }

    /// Copies up to `length` bytes from `start` on, to the same place.
    fn range(
        &mut self,
        input: &OwnedFd,
        output: &OwnedFd,
        start: u64,
        length: u64,
    ) -> rustix::io::Result<u64> {
        let mut copied = 0;
        while copied < length {
            let wanted = usize::try_from(length - copied).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = match rustix::io::pread(input, &mut self.buffer[..wanted], start + copied) {
                Err(Errno::INTR) => continue,
                read => read?,
            };
            let mut rest = &self.buffer[..read];
            while !rest.is_empty() {
                let at = start + copied;
                let written = match rustix::io::pwrite(output, rest, at) {
                    Err(Errno::INTR) => continue,
                    written => written?,
                };
                rest = &rest[written..];
                copied += written as u64;
            }
            if read < wanted {
                break;
            }
        }
        Ok(copied)
    }

    /// The metadata that the copy of something gets.
    fn changed(&self, stat: &Stat) -> Metadata {
        self.changed_from(Metadata::of(stat), node::type_of(stat).into())
    }

    fn changed_from(&self, mut metadata: Metadata, kind: NodeType) -> Metadata {
        if let Some((uid, gid)) = self.options.owner {
            (metadata.uid, metadata.gid) = (uid, gid);
        }
        metadata.mode = self.options.source_modes.of(metadata.mode, kind);
        if let Some(change) = self.options.mode {
            metadata.mode = change.apply(metadata.mode, kind == NodeType::Directory);
        }
        if let Some(mtime) = self.options.mtime {
            metadata.mtime = mtime;
        }
        metadata
    }
}

fn public(mut xattrs: Xattrs) -> Xattrs {
    xattrs.retain(|(name, _)| !node::is_private_xattr(name));
    xattrs
}

#[cfg(test)]
mod tests;
