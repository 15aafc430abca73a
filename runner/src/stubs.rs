//! Files and folders that were made only as a mount's target, and how they are taken away again without a
//! trace: only what was made here, only if nothing was put into it, and with the folder's time as it was. It knows
//! nothing of mounts.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT};
use serde::{Deserialize, Serialize};

use crate::wire::Bytes;

/// One file or folder that was made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stub {
    /// The folder that it was made in: the path from the root without any link.
    pub(crate) parent: Bytes,
    pub(crate) name: Bytes,
    pub(crate) inode: u64,
    /// The folder's time before it was made.
    pub(crate) before: (i64, i64),
    /// The folder's time when it had been made: still that means that nothing else happened in it.
    pub(crate) after: (i64, i64),
}

/// Takes away `stubs`, the last made first. What was changed meanwhile stays.
pub(crate) fn remove(root: BorrowedFd<'_>, stubs: &[Stub]) {
    for stub in stubs.iter().rev() {
        // Whatever hinders this is the step's own doing; then the stub is part of what it left.
        let _ = remove_one(root, stub);
    }
}

/// The time of a folder's last change, in the form that a stub keeps.
pub(crate) fn modified(folder: BorrowedFd<'_>) -> rustix::io::Result<(i64, i64)> {
    let stat = rustix::fs::fstat(folder)?;
    Ok((stat.st_mtime as i64, stat.st_mtime_nsec as i64))
}

fn remove_one(root: BorrowedFd<'_>, stub: &Stub) -> rustix::io::Result<()> {
    let folder = open_folder(root, stub.parent.as_bytes())?;
    let name = OsStr::from_bytes(stub.name.as_bytes());
    let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if stat.st_ino != stub.inode {
        return Ok(());
    }
    let now = modified(folder.as_fd())?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR)?,
        FileType::RegularFile if stat.st_size == 0 => rustix::fs::unlinkat(&folder, name, AtFlags::empty())?,
        _ => return Ok(()),
    }
    let (seconds, nanoseconds) = if now == stub.after { stub.before } else { now };
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ },
    };
    rustix::fs::futimens(&folder, &times)
}

/// Opens a folder by a path that must have no link and cross no mount.
fn open_folder(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(root, OsStr::from_bytes(path), flags, Mode::empty(), resolve)
}
