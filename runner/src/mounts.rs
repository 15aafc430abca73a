//! Mounts by file descriptor: made detached, restricted, and put in their place in the root. It knows nothing of
//! what the mounts of a step are.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use crate::error::RunError;
use crate::in_root::{self, Kind};
use crate::stubs::Stub;
use crate::syscalls;

/// A mount that is ready to be put in its place.
pub(crate) struct Planned {
    pub(crate) target: PathBuf,
    pub(crate) mount: OwnedFd,
    pub(crate) whose: Whose,
}

/// Whose wish a mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Part of every step.
    System,
    /// Part of every step, but a step can do without it.
    Optional,
    /// The caller's.
    Callers,
}

/// The attributes of a mount that nothing can be done with but reading and writing.
pub(crate) const INERT: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// The magic numbers of the file systems in which the caller may mount nothing.
const PROC_MAGIC: u64 = 0x9fa0;
const SYSFS_MAGIC: u64 = 0x6265_6572;
/// Folders that are made for a system mount and left: container engines leave them too.
const LEFT_IN_ROOT: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

/// Makes a file system of type `kind`, detached.
pub(crate) fn make(
    kind: &str,
    source: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", source)?;
    for (option, value) in options {
        match *value {
            "" => rustix::mount::fsconfig_set_flag(&context, *option)?,
            value => rustix::mount::fsconfig_set_string(&context, *option, value)?,
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Clones the mount of what is at `path` below `folder`, detached.
pub(crate) fn clone_of(folder: impl AsFd, path: &str, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.is_empty());
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    rustix::mount::open_tree(folder, path, flags)
}

/// Adds attributes to a mount.
pub(crate) fn restrict(
    mount: &OwnedFd,
    attributes: MountAttrFlags,
    recursive: bool,
) -> rustix::io::Result<()> {
    syscalls::restrict_mount(mount.as_fd(), attributes.bits().into(), recursive)
}

/// Puts a detached mount on what `target` is a handle of.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
}

/// Puts all mounts in their places, the outer before the inner, and notes what was made for them.
pub(crate) fn attach_all(
    root: BorrowedFd<'_>,
    mut planned: Vec<Planned>,
    stubs: &mut Vec<Stub>,
) -> Result<(), RunError> {
    planned.sort_by_key(|mount| depth(&mount.target));
    for mount in &planned {
        let known = stubs.len();
        let done = attach_in_root(root, mount, stubs);
        if mount.whose == Whose::System {
            keep_in_root(stubs, known);
        }
        match done {
            Ok(()) => {}
            Err(_) if mount.whose == Whose::Optional => {}
            Err(refusal) => return Err(refused(mount, refusal)),
        }
    }
    Ok(())
}

/// Why a mount could not be put in its place.
enum Refusal {
    System(Errno),
    Root,
    KernelInterface,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Refusal::System(errno)
    }
}

fn attach_in_root(root: BorrowedFd<'_>, planned: &Planned, stubs: &mut Vec<Stub>) -> Result<(), Refusal> {
    if depth(&planned.target) == 0 {
        return Err(Refusal::Root);
    }
    let stat = rustix::fs::fstat(&planned.mount)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        _ => Kind::File,
    };
    let target = in_root::open_or_make(root, &planned.target, kind, (0, 0), stubs)?;
    if planned.whose == Whose::Callers {
        let magic = rustix::fs::fstatfs(&target)?.f_type as u64;
        if magic == PROC_MAGIC || magic == SYSFS_MAGIC {
            return Err(Refusal::KernelInterface);
        }
        let (at, top) = (rustix::fs::fstat(&target)?, rustix::fs::fstat(root)?);
        if (at.st_dev, at.st_ino) == (top.st_dev, top.st_ino) {
            return Err(Refusal::Root);
        }
    }
    Ok(attach(&planned.mount, &target)?)
}

fn refused(mount: &Planned, refusal: Refusal) -> RunError {
    let target = mount.target.clone();
    let reason = match refusal {
        Refusal::Root => "it is the root".to_owned(),
        Refusal::KernelInterface => "it is inside /proc or /sys".to_owned(),
        Refusal::System(errno) if mount.whose != Whose::Callers => {
            return RunError::SetUp { step: format!("mounting {}", target.display()), source: errno.into() };
        }
        Refusal::System(errno) => std::io::Error::from(errno).to_string(),
    };
    RunError::MountTarget { target, reason }
}

/// Forgets the stubs from `first` on that stay in the root.
fn keep_in_root(stubs: &mut Vec<Stub>, first: usize) {
    let added = stubs.split_off(first);
    stubs.extend(
        added.into_iter().filter(|stub| {
            !(stub.parent.as_bytes().is_empty() && LEFT_IN_ROOT.contains(&stub.name.as_bytes()))
        }),
    );
}

/// How many parts a path has, `..` resolved without a look at the root.
fn depth(path: &Path) -> usize {
    let mut depth = 0usize;
    for part in path.as_os_str().as_bytes().split(|&byte| byte == b'/').map(OsStr::from_bytes) {
        match part.as_bytes() {
            b"" | b"." => {}
            b".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    depth
}
