//! What a sandboxed step sees of `/proc` and `/sys` only covered or only to read. It knows nothing of how the two
//! are mounted.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, Result};
use rustix::mount::MountAttrFlags;

use crate::devices::NULL;
use crate::in_root;
use crate::mounts::{self, INERT};
use crate::system_files::PrivateFiles;

/// Covered by nothing: a file by the null device, a folder by an empty one.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Mounted over themselves to be read only.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The folder of each processor, and what of it is covered.
const PROCESSORS: &str = "/sys/devices/system/cpu";
const OF_A_PROCESSOR: &str = "thermal_throttle";

/// The folder that covers masked folders.
const EMPTY: &str = "empty";

/// Covers all that is to be covered; `files` must have the null device.
pub(crate) fn apply(root: BorrowedFd<'_>, files: &PrivateFiles) -> Result<()> {
    files.directory(EMPTY)?;
    for path in MASKED {
        mask(root, Path::new(path), files)?;
    }
    for number in 0.. {
        let processor = format!("{PROCESSORS}/cpu{number}");
        if in_root::open(root, &processor, OFlags::PATH).is_err() {
            break;
        }
        mask(root, &Path::new(&processor).join(OF_A_PROCESSOR), files)?;
    }
    READ_ONLY.iter().try_for_each(|path| make_read_only(root, Path::new(path)))
}

fn mask(root: BorrowedFd<'_>, path: &Path, files: &PrivateFiles) -> Result<()> {
    let target = match in_root::open(root, path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        result => result?,
    };
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let cover = match FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode) {
        FileType::Directory => files.mount_of(EMPTY, INERT | MountAttrFlags::MOUNT_ATTR_RDONLY)?,
        _ => files.mount_of(NULL, attributes)?,
    };
    mounts::attach(cover, target)
}

fn make_read_only(root: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let target = match in_root::open(root, path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        result => result?,
    };
    let mount = mounts::clone_of(&target, "", true)?;
    mounts::restrict(&mount, INERT | MountAttrFlags::MOUNT_ATTR_RDONLY, true)?;
    mounts::attach(mount, target)
}
