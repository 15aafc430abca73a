//! One file-system node at a time, always named by a directory's descriptor and one name in it:
//! look, list, extended attributes, metadata, removal.
//! It does not know of trees, layers or symbolic links to follow.

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Extended attributes: names and values, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What a node has besides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
}

impl Metadata {
    pub(crate) fn of(stat: &Stat) -> Metadata {
        Metadata {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        }
    }
}

pub(crate) fn type_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(crate) fn stat_at(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<Stat> {
    fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Opens a directory for listing, unless a symbolic link has taken its place.
pub(crate) fn open_dir(parent: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty())
}

/// Opens a regular file for reading; a device or fifo in its place is never waited for.
pub(crate) fn open_file(parent: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty())
}

/// Makes a file that did not exist, for writing.
pub(crate) fn create_file(parent: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
}

/// The names in a directory with their types, sorted by bytes. `dir` must be open for listing.
pub(crate) fn list(dir: impl AsFd) -> rustix::io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut names = Vec::new();
    let mut entries = RawDir::new(dir.as_fd(), buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        names.push((name.to_vec(), entry.file_type()));
    }
    for (name, kind) in &mut names {
        if *kind == FileType::Unknown {
            *kind = type_of(&stat_at(&dir, name)?);
        }
    }
    names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(names)
}

/// The way to a node for the calls that take no descriptor of a directory: through the process's
/// own table of descriptors, so that still no directory is looked up by name.
fn through(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

fn split_names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == 0).filter(|name| !name.is_empty())
}

/// Reads all attributes with the two calls given, each of which is tried again with more room.
fn read_xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Xattrs> {
    let mut small = [0; 512];
    let grown;
    let names = match list(&mut small[..]) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(length) => &small[..length],
        Err(Errno::RANGE) => {
            let mut large = vec![0; 65536];
            let length = list(&mut large)?;
            large.truncate(length);
            grown = large;
            &grown[..]
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    let mut value = vec![0; 256];
    for name in split_names(names) {
        let length = match get(name, &mut value) {
            Err(Errno::RANGE) => {
                value.resize(65536, 0);
                get(name, &mut value)
            }
            other => other,
        };
        match length {
            Ok(length) => found.push((name.to_vec(), value[..length].to_vec())),
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The attributes of an open file or directory.
pub(crate) fn xattrs_of(fd: impl AsFd) -> rustix::io::Result<Xattrs> {
    let fd = fd.as_fd();
    read_xattrs(|buffer| fs::flistxattr(fd, buffer), |name, buffer| fs::fgetxattr(fd, name, buffer))
}

/// The attributes of a node that can't be opened, such as a symbolic link.
pub(crate) fn xattrs_at(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<Xattrs> {
    let path = through(dir.as_fd(), name);
    read_xattrs(|buffer| fs::llistxattr(&*path, buffer), |name, buffer| fs::lgetxattr(&*path, name, buffer))
}

/// Sets an attribute of a node that can't be opened.
pub(crate) fn set_xattr_at(dir: impl AsFd, name: &[u8], key: &[u8], value: &[u8]) -> rustix::io::Result<()> {
    fs::lsetxattr(&*through(dir.as_fd(), name), key, value, XattrFlags::empty())
}

/// Whether an attribute belongs to the overlay or to this machine's policy rather than to the file.
pub(crate) fn is_private_xattr(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") || name == b"security.selinux"
}

fn times(mtime: (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: mtime.0, tv_nsec: i64::from(mtime.1) as _ };
    Timestamps { last_access: time, last_modification: time }
}

pub(crate) fn set_owner(fd: impl AsFd, uid: u32, gid: u32) -> rustix::io::Result<()> {
    fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

pub(crate) fn set_mode(fd: impl AsFd, mode: u32) -> rustix::io::Result<()> {
    fs::fchmod(fd, Mode::from_raw_mode(mode & 0o7777))
}

pub(crate) fn set_mtime(fd: impl AsFd, mtime: (i64, u32)) -> rustix::io::Result<()> {
    fs::futimens(fd, &times(mtime))
}

/// Gives an open file or directory its owner, then its mode (a change of owner clears set-id bits),
/// then its attributes (which a change of owner clears too), and at last its time.
pub(crate) fn apply(fd: impl AsFd, metadata: &Metadata, xattrs: &Xattrs) -> rustix::io::Result<()> {
    let fd = fd.as_fd();
    set_owner(fd, metadata.uid, metadata.gid)?;
    set_mode(fd, metadata.mode)?;
    for (name, value) in xattrs {
        tolerate(fs::fsetxattr(fd, &**name, value, XattrFlags::empty()))?;
    }
    set_mtime(fd, metadata.mtime)
}

/// Gives a node that can't be opened its metadata. A symbolic link has no mode of its own.
pub(crate) fn apply_at(
    dir: impl AsFd,
    name: &[u8],
    metadata: &Metadata,
    xattrs: &Xattrs,
) -> rustix::io::Result<()> {
    let dir = dir.as_fd();
    let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
    fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    set_mode_at(dir, name, metadata.mode)?;
    for (key, value) in xattrs {
        tolerate(set_xattr_at(dir, name, key, value))?;
    }
    fs::utimensat(dir, name, &times(metadata.mtime), AtFlags::SYMLINK_NOFOLLOW)
}

/// Changes the mode of what `name` is itself; of a symbolic link nothing.
fn set_mode_at(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> rustix::io::Result<()> {
    let node = fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if type_of(&fs::fstat(&node)?) == FileType::Symlink {
        return Ok(());
    }
    let path = format!("/proc/self/fd/{}", node.as_raw_fd());
    fs::chmod(path, Mode::from_raw_mode(mode & 0o7777))
}

/// Attributes that a file system or a namespace does not take are left out.
pub(crate) fn tolerate(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::NOSPC | Errno::TOOBIG) => {
            Ok(())
        }
        other => other,
    }
}

/// Removes a node and, if it is a directory, all beneath it; that it is gone already is fine.
/// Returns the bytes that it took on disk.
pub(crate) fn remove_all(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<u64> {
    let dir = dir.as_fd();
    let stat = match stat_at(dir, name) {
        Err(Errno::NOENT) => return Ok(0),
        other => other?,
    };
    let mut freed = if stat.st_nlink > 1 { 0 } else { stat.st_blocks as u64 * 512 };
    if type_of(&stat) != FileType::Directory {
        gone(fs::unlinkat(dir, name, AtFlags::empty()))?;
        return Ok(freed);
    }
    match fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        other => return gone(other).map(|()| freed),
    }
    freed += remove_content(dir, name)?;
    gone(fs::unlinkat(dir, name, AtFlags::REMOVEDIR))?;
    Ok(freed)
}

fn remove_content(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<u64> {
    let mut freed = 0;
    // Descriptors, not calls, hold the way down: a tree may be deeper than a thread's stack.
    let mut open = vec![(open_dir(dir, name)?, Vec::new())];
    let mut last = list(&open[0].0)?;
    open[0].1.append(&mut last);
    while let Some((fd, names)) = open.last_mut() {
        let Some((name, _)) = names.last() else {
            open.pop();
            if let Some((parent, names)) = open.last_mut()
                && let Some((name, _)) = names.pop()
            {
                gone(fs::unlinkat(&*parent, &*name, AtFlags::REMOVEDIR))?;
            }
            continue;
        };
        let Ok(stat) = stat_at(&*fd, name) else {
            names.pop();
            continue;
        };
        freed += if stat.st_nlink > 1 && type_of(&stat) != FileType::Directory {
            0
        } else {
            stat.st_blocks as u64 * 512
        };
        if type_of(&stat) == FileType::Directory {
            let child = open_dir(&*fd, name)?;
            let content = list(&child)?;
            open.push((child, content));
        } else {
            gone(fs::unlinkat(&*fd, &**name, AtFlags::empty()))?;
            names.pop();
        }
    }
    Ok(freed)
}

fn gone(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}
