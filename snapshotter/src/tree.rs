//! A directory that acts as root: every operation beneath it goes through descriptors, symbolic
//! links never lead out of it, and no path reaches the kernel but by openat2 from the root.
//! It does not know whether the tree is a mount, a build context or a snapshot.

use crate::error::{SnapshotError, cannot, missing, shown};
use crate::node::{self, Metadata, Xattrs};
use crate::view::components;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// How many symbolic links one path may lead through.
const MAX_LINKS: usize = 255;
/// How often a path is looked up again because something was renamed meanwhile.
const MAX_TRIES: usize = 1000;

/// A directory as root of all paths.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

/// What a node of a tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// What is known of a node without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeStat {
    /// What it is.
    pub kind: NodeType,
    /// The permission bits, with set-id and sticky bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// How many bytes.
    pub size: u64,
    /// When it was last written: seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// When it last changed in any way: seconds since 1970, and nanoseconds.
    pub ctime: (i64, u32),
    /// The file system that it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// How many names it has.
    pub links: u64,
    /// For a device: its major and minor number.
    pub special: (u32, u32),
}

impl From<FileType> for NodeType {
    fn from(kind: FileType) -> NodeType {
        match kind {
            FileType::Directory => NodeType::Directory,
            FileType::Symlink => NodeType::Symlink,
            FileType::CharacterDevice => NodeType::CharDevice,
            FileType::BlockDevice => NodeType::BlockDevice,
            FileType::Fifo => NodeType::Fifo,
            FileType::Socket => NodeType::Socket,
            FileType::RegularFile | FileType::Unknown => NodeType::File,
        }
    }
}

impl From<&Stat> for NodeStat {
    fn from(stat: &Stat) -> NodeStat {
        let Metadata { mode, uid, gid, mtime } = Metadata::of(stat);
        NodeStat {
            kind: node::type_of(stat).into(),
            mode,
            uid,
            gid,
            size: stat.st_size as u64,
            mtime,
            ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
            device: stat.st_dev,
            inode: stat.st_ino,
            links: links_of(stat),
            special: (fs::major(stat.st_rdev), fs::minor(stat.st_rdev)),
        }
    }
}

/// Its type is not the same on every processor.
#[allow(clippy::unnecessary_cast)]
fn links_of(stat: &Stat) -> u64 {
    stat.st_nlink as u64
}

impl Tree {
    /// The tree beneath a directory of the host. This path, and only this, is looked up as usual.
    pub fn open(path: &Path) -> Result<Tree, SnapshotError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            fs::open(path, flags, Mode::empty()).map_err(missing("open", path.as_os_str().as_bytes()))?;
        Ok(Tree { root })
    }

    pub(crate) fn at(root: OwnedFd) -> Tree {
        Tree { root }
    }

    /// What is at `path`; with `follow`, where a symbolic link there leads.
    pub fn stat(&self, path: &[u8], follow: bool) -> Result<NodeStat, SnapshotError> {
        let flags = if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
        let stat = self.look_up(path, flags).and_then(fs::fstat).map_err(missing("look at", path))?;
        Ok(NodeStat::from(&stat))
    }

    /// Opens a regular file for reading. A fifo or device in its place is not waited for.
    pub fn open_file(&self, path: &[u8]) -> Result<File, SnapshotError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match self.look_up(path, flags) {
            Err(Errno::NXIO) => return Err(SnapshotError::NotAFile(shown(path))),
            fd => fd.map_err(missing("open", path))?,
        };
        let stat = fs::fstat(&fd).map_err(cannot("look at", path))?;
        if node::type_of(&stat) != FileType::RegularFile {
            return Err(SnapshotError::NotAFile(shown(path)));
        }
        Ok(File::from(fd))
    }

    /// What the symbolic link at `path` says.
    pub fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, SnapshotError> {
        let link = self.look_up(path, OFlags::PATH | OFlags::NOFOLLOW).map_err(missing("open", path))?;
        let target = fs::readlinkat(&link, "", Vec::new()).map_err(missing("read the link", path))?;
        Ok(target.into_bytes())
    }

    /// The names in a directory with their types, sorted by name.
    pub fn read_dir(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, NodeType)>, SnapshotError> {
        let listed = self.open_listing(path).and_then(node::list).map_err(missing("list", path))?;
        Ok(listed.into_iter().map(|(name, kind)| (name, kind.into())).collect())
    }

    /// The names in a directory with all that is known of each, sorted by name.
    pub fn scan(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, NodeStat)>, SnapshotError> {
        let dir = self.open_listing(path).map_err(missing("list", path))?;
        let mut nodes = Vec::new();
        for (name, _) in node::list(&dir).map_err(cannot("list", path))? {
            match node::stat_at(&dir, &name) {
                Ok(stat) => nodes.push((name, NodeStat::from(&stat))),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(cannot("look at", path)(error)),
            }
        }
        Ok(nodes)
    }

    /// The extended attributes of what is at `path` itself, sorted by name, without those that
    /// belong to the overlay or to this machine's policy.
    pub fn xattrs(&self, path: &[u8]) -> Result<Xattrs, SnapshotError> {
        let read = match self.split(path)? {
            (dir, Some(name)) => node::xattrs_at(dir, &name),
            (dir, None) => node::xattrs_at(dir, b"."),
        };
        let mut xattrs = read.map_err(missing("read the attributes of", path))?;
        xattrs.retain(|(name, _)| !node::is_private_xattr(name));
        Ok(xattrs)
    }

    /// The path with every symbolic link followed inside the tree: no slash in front, empty for the
    /// root. What is missing is taken as it is written.
    pub fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, SnapshotError> {
        Ok(self.descend(path, None)?.0)
    }

    /// Makes `path` and what is missing above it directories, following symbolic links inside the
    /// tree. What exists stays as it is. Returns the path resolved.
    pub fn make_dirs(
        &self,
        path: &[u8],
        mode: u32,
        owner: Option<(u32, u32)>,
        mtime: Option<(i64, u32)>,
    ) -> Result<Vec<u8>, SnapshotError> {
        Ok(self.descend(path, Some(&NewDir { mode, owner, mtime }))?.0)
    }

    /// Sets the mode of a directory.
    pub fn set_directory_mode(&self, path: &[u8], mode: u32) -> Result<(), SnapshotError> {
        let dir = self.open_listing(path).map_err(missing("open", path))?;
        node::set_mode(&dir, mode).map_err(cannot("change", path))
    }

    /// Sets the modification time of a directory.
    pub fn set_directory_mtime(&self, path: &[u8], mtime: (i64, u32)) -> Result<(), SnapshotError> {
        let dir = self.open_listing(path).map_err(missing("open", path))?;
        node::set_mtime(&dir, mtime).map_err(cannot("change", path))
    }

    /// Writes a file, in place of whatever non-directory is there. Its directory must exist; a
    /// symbolic link at the end of the path is replaced, not followed.
    pub fn write_file(
        &self,
        path: &[u8],
        mode: u32,
        owner: Option<(u32, u32)>,
        mtime: Option<(i64, u32)>,
        content: &mut dyn Read,
    ) -> Result<(), SnapshotError> {
        let (dir, Some(name)) = self.split(path)? else {
            return Err(SnapshotError::OntoDirectory(shown(path)));
        };
        make_room(dir.as_fd(), &name, path)?;
        let file = node::create_file(&dir, &name).map_err(cannot("make", path))?;
        let mut file = File::from(file);
        std::io::copy(content, &mut file).map_err(cannot("write", path))?;
        let set = || -> rustix::io::Result<()> {
            if let Some((uid, gid)) = owner {
                node::set_owner(&file, uid, gid)?;
            }
            node::set_mode(&file, mode)?;
            mtime.map_or(Ok(()), |mtime| node::set_mtime(&file, mtime))
        };
        set().map_err(cannot("change", path))
    }

    /// Removes what is at `path` itself, a symbolic link not followed; a directory that is not
    /// empty only if `recursive`. That nothing is there is [`SnapshotError::NotFound`].
    pub fn remove(&self, path: &[u8], recursive: bool) -> Result<(), SnapshotError> {
        let (dir, Some(name)) = self.split(path)? else {
            return Err(cannot("remove", path)(Errno::BUSY));
        };
        let stat = node::stat_at(&dir, &name).map_err(missing("remove", path))?;
        let removed = match (node::type_of(&stat), recursive) {
            (FileType::Directory, false) => fs::unlinkat(&dir, &*name, AtFlags::REMOVEDIR),
            (_, false) => fs::unlinkat(&dir, &*name, AtFlags::empty()),
            (_, true) => node::remove_all(&dir, &name).map(drop),
        };
        removed.map_err(missing("remove", path))
    }

    /// A mount, attached nowhere, of the file or directory at `path`, symbolic links followed.
    pub fn open_subtree_mount(&self, path: &[u8]) -> Result<OwnedFd, SnapshotError> {
        let node = self.look_up(path, OFlags::PATH).map_err(missing("open", path))?;
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(&node, "", flags).map_err(cannot("mount", path))
    }

    /// The tree beneath the directory at `path`, symbolic links on the way followed.
    pub fn subtree(&self, path: &[u8]) -> Result<Tree, SnapshotError> {
        let root = self.look_up(path, OFlags::PATH | OFlags::DIRECTORY).map_err(missing("open", path))?;
        Ok(Tree { root })
    }

    /// The root itself.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(crate) fn open_listing(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        self.look_up(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The directory that holds what is at `path`, and its name there; no name for the root.
    pub(crate) fn split(&self, path: &[u8]) -> Result<(OwnedFd, Option<Vec<u8>>), SnapshotError> {
        let names: Vec<&[u8]> = components(path).collect();
        let (folder, name) = match names.split_last() {
            Some((&b"..", _)) => {
                let resolved = self.resolve(path)?;
                return if resolved.is_empty() { self.split(b"") } else { self.split(&resolved) };
            }
            Some((last, rest)) => (rest.join(&b'/'), Some(last.to_vec())),
            None => (Vec::new(), None),
        };
        let dir = self.open_listing(&folder).map_err(missing("open", &folder))?;
        Ok((dir, name))
    }

    /// The one way in: a path is looked up with the root as its root.
    pub(crate) fn look_up(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..MAX_TRIES {
            match fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
                done => return done,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Walks to `path` one name at a time, following symbolic links inside the tree; with `make`,
    /// makes what is missing. Returns the path resolved.
    fn descend(
        &self,
        path: &[u8],
        make: Option<&NewDir>,
    ) -> Result<(Vec<u8>, Option<OwnedFd>), SnapshotError> {
        let mut todo: VecDeque<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
        let mut done: Vec<Vec<u8>> = Vec::new();
        // The directories walked through; `None` stands for one that does not exist.
        let root = self.look_up(b"", OFlags::PATH | OFlags::DIRECTORY).map_err(cannot("open", b"/"))?;
        let mut dirs: Vec<Option<OwnedFd>> = vec![Some(root)];
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                if done.pop().is_some() {
                    dirs.pop();
                }
                continue;
            }
            let Some(Some(dir)) = dirs.last() else {
                done.push(name);
                dirs.push(None);
                continue;
            };
            match step(dir, &name, make).map_err(missing("open", path))? {
                Step::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(SnapshotError::TooManyLinks(shown(path)));
                    }
                    if target.starts_with(b"/") {
                        dirs.truncate(1);
                        done.clear();
                    }
                    for part in components(&target).rev() {
                        todo.push_front(part.to_vec());
                    }
                }
                Step::Other if make.is_some() => return Err(SnapshotError::NotADirectory(shown(path))),
                Step::Other | Step::Nothing => {
                    done.push(name);
                    dirs.push(None);
                }
                Step::Into(dir) => {
                    done.push(name);
                    dirs.push(Some(dir));
                }
            }
        }
        Ok((done.join(&b'/'), dirs.pop().flatten()))
    }
}

/// How a directory is made.
struct NewDir {
    mode: u32,
    owner: Option<(u32, u32)>,
    mtime: Option<(i64, u32)>,
}

enum Step {
    Link(Vec<u8>),
    Into(OwnedFd),
    Other,
    Nothing,
}

fn step(dir: &OwnedFd, name: &[u8], make: Option<&NewDir>) -> rustix::io::Result<Step> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = match (fs::openat(dir, name, flags, Mode::empty()), make) {
        (Err(Errno::NOENT), None) => return Ok(Step::Nothing),
        (Err(Errno::NOENT), Some(new)) => {
            match fs::mkdirat(dir, name, Mode::from_raw_mode(0o700)) {
                Ok(()) => {}
                // Somebody was faster: it is as if it had been there.
                Err(Errno::EXIST) => return step(dir, name, make),
                Err(error) => return Err(error),
            }
            let made = node::open_dir(dir, name)?;
            if let Some((uid, gid)) = new.owner {
                node::set_owner(&made, uid, gid)?;
            }
            // In a folder with the set-group-id bit a new one has it too.
            let inherited = fs::fstat(&made)?.st_mode & 0o2000;
            node::set_mode(&made, new.mode | inherited)?;
            if let Some(mtime) = new.mtime {
                node::set_mtime(&made, mtime)?;
            }
            return Ok(Step::Into(made));
        }
        (node, _) => node?,
    };
    match node::type_of(&fs::fstat(&node)?) {
        FileType::Directory => Ok(Step::Into(node)),
        FileType::Symlink => Ok(Step::Link(fs::readlinkat(&node, "", Vec::new())?.into_bytes())),
        _ => Ok(Step::Other),
    }
}

/// Removes whatever non-directory is at a name.
pub(crate) fn make_room(dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), SnapshotError> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) if is_dir(dir, name) => {
            Err(SnapshotError::OntoDirectory(shown(path)))
        }
        Err(error) => Err(cannot("replace", path)(error)),
    }
}

fn is_dir(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    node::stat_at(dir, name).is_ok_and(|stat| node::type_of(&stat) == FileType::Directory)
}

#[cfg(test)]
mod tests;
