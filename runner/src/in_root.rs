//! Paths in a root file system that nobody trusts: opened, or made where they are missing, without ever leaving
//! the root, whatever links are on the way. It knows nothing of what is opened or why.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, StatxFlags, Uid};
use rustix::io::{Errno, Result};

use crate::stubs::{Stub, modified};
use crate::wire::Bytes;

/// What to make when a path's last part is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

/// How many links may be on the way, as in the kernel.
const MOST_LINKS: usize = 40;
/// How often a look-up is tried again that the kernel gave up because of a rename elsewhere.
const MOST_RETRIES: usize = 128;
/// The mode of folders that are made.
const DIRECTORY_MODE: Mode = Mode::from_bits_retain(0o755);
/// The mode of files that are made.
const FILE_MODE: Mode = Mode::from_bits_retain(0o644);

/// Opens what exists at `path` in the root, links resolved within it.
pub(crate) fn open(root: BorrowedFd<'_>, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..MOST_RETRIES {
        match rustix::fs::openat2(root, path.as_ref(), flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens `path` as a mere handle; makes what is missing. What is made on the root's own mount is added to
/// `stubs`; folders and files are given to `owner`.
pub(crate) fn open_or_make(
    root: BorrowedFd<'_>,
    path: &Path,
    kind: Kind,
    owner: (u32, u32),
    stubs: &mut Vec<Stub>,
) -> Result<OwnedFd> {
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let mut walk = Walk {
        root,
        root_mount: mount_id(root)?,
        folders: Vec::new(),
        pending: parts(path.as_os_str().as_bytes()).collect(),
        links: 0,
        owner,
        stubs,
    };
    walk.finish(kind)
}

/// A look-up part by part. Each part is opened by its bare name without following links, and `..` goes back to a
/// folder that is still open, so nothing that happens meanwhile can lead out.
struct Walk<'a> {
    root: BorrowedFd<'a>,
    root_mount: u64,
    folders: Vec<(OsString, OwnedFd)>,
    pending: VecDeque<OsString>,
    links: usize,
    owner: (u32, u32),
    stubs: &'a mut Vec<Stub>,
}

impl Walk<'_> {
    fn finish(&mut self, kind: Kind) -> Result<OwnedFd> {
        while let Some(name) = self.pending.pop_front() {
            if name == ".." {
                self.folders.pop();
                continue;
            }
            let wanted = if self.pending.is_empty() { kind } else { Kind::Directory };
            let found = match self.child(&name) {
                Err(Errno::NOENT) => {
                    self.make(&name, wanted)?;
                    self.child(&name)?
                }
                result => result?,
            };
            match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
                FileType::Symlink => self.follow(&found)?,
                FileType::Directory => self.folders.push((name, found)),
                _ if self.pending.is_empty() => return Ok(found),
                _ => return Err(Errno::NOTDIR),
            }
        }
        match self.folders.pop() {
            Some((_, folder)) => Ok(folder),
            None => open(self.root, ".", OFlags::PATH),
        }
    }

    fn child(&self, name: &OsStr) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(self.folder(), name, flags, Mode::empty(), resolve)
    }

    fn folder(&self) -> BorrowedFd<'_> {
        self.folders.last().map_or(self.root, |(_, folder)| folder.as_fd())
    }

    fn follow(&mut self, link: &OwnedFd) -> Result<()> {
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(Errno::LOOP);
        }
        let target = rustix::fs::readlinkat(link, "", Vec::new())?;
        if target.as_bytes().starts_with(b"/") {
            self.folders.clear();
        }
        for part in parts(target.as_bytes()).rev() {
            self.pending.push_front(part);
        }
        Ok(())
    }

    fn make(&mut self, name: &OsStr, kind: Kind) -> Result<()> {
        let folder = self.folder();
        let before = modified(folder)?;
        let made = match kind {
            Kind::Directory => rustix::fs::mkdirat(folder, name, DIRECTORY_MODE),
            Kind::File => rustix::fs::mknodat(folder, name, FileType::RegularFile, FILE_MODE, 0),
        };
        match made {
            Err(Errno::EXIST) => return Ok(()),
            result => result?,
        }
        let (uid, gid) = self.owner;
        let maker = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        if (uid, gid) != maker {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if mount_id(folder)? != self.root_mount {
            return Ok(());
        }
        let after = modified(folder)?;
        let inode = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
        let parent: Vec<&[u8]> = self.folders.iter().map(|(name, _)| name.as_bytes()).collect();
        let parent = Bytes::from(&parent.join(&b'/')[..]);
        self.stubs.push(Stub { parent, name: Bytes::from(name.as_bytes()), inode, before, after });
        Ok(())
    }
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = OsString> {
    path.split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| OsString::from_vec(part.to_owned()))
}

fn mount_id(of: BorrowedFd<'_>) -> Result<u64> {
    Ok(rustix::fs::statx(of, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}
