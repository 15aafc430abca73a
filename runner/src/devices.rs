//! The `/dev` of a step. A sandboxed step may make device nodes but use none but the usual ones: its file systems
//! refuse devices, and the usual nodes are mounted one by one, as are those that it is given besides. An insecure
//! step has the host's devices as nodes.
//! It knows nothing of the other mounts.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode};
use rustix::io::Result;
use rustix::mount::MountAttrFlags;

use crate::error::{RunError, set_up};
use crate::mounts::{self, INERT, Planned, Whose};
use crate::spec::{DeviceKind, DeviceNode, Security};
use crate::system_files::PrivateFiles;
use crate::user::Identity;

/// The node that covers masked files.
pub(crate) const NULL: &str = "null";

/// The nodes of every step, all of them for everybody.
const NODES: [(&str, u32, u32); 6] =
    [(NULL, 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// The nodes that an insecure step has besides, if the host has them.
const HOST_NODES: [&str; 14] = [
    "kmsg",
    "cuse",
    "fuse",
    "kvm",
    "net/tun",
    "loop-control",
    "loop0",
    "loop1",
    "loop2",
    "loop3",
    "loop4",
    "loop5",
    "loop6",
    "loop7",
];

/// What of the host's devices a step gets to see.
pub(crate) struct HostDevices {
    has_kcore: bool,
    nodes: Vec<HostNode>,
}

/// A node of the host, as it is there.
struct HostNode {
    name: &'static str,
    mode: u32,
    device: u64,
}

/// Looks at the host's devices, before the old root goes away.
pub(crate) fn look_at_host(security: Security) -> HostDevices {
    let look = |name: &'static str| {
        let stat = rustix::fs::stat(format!("/dev/{name}")).ok()?;
        Some(HostNode { name, mode: stat.st_mode, device: stat.st_rdev })
    };
    let names = if security == Security::Insecure { &HOST_NODES[..] } else { &[] };
    HostDevices {
        has_kcore: Path::new("/proc/kcore").exists(),
        nodes: names.iter().copied().filter_map(look).collect(),
    }
}

/// Makes the nodes that a sandboxed step's are mounts of.
pub(crate) fn make_nodes(files: &PrivateFiles) -> Result<()> {
    NODES.iter().try_for_each(|(name, major, minor)| files.device(name, *major, *minor))
}

/// The mounts of `/dev` and below.
pub(crate) fn plan(
    files: &PrivateFiles,
    security: Security,
    host: &HostDevices,
    shm_size: u64,
) -> Result<Vec<Planned>> {
    let system = |target: &str, mount| Planned { target: target.into(), mount, whose: Whose::System };
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, security == Security::Sandbox);
    let dev = mounts::make("tmpfs", "tmpfs", &[("mode", "755"), ("size", "65536k")], attributes)?;
    fill(&dev, security, host)?;
    let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let no_programs = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mut planned = vec![
        system("/dev", dev),
        system("/dev/pts", mounts::make("devpts", "devpts", &pts, no_programs)?),
        system(
            "/dev/shm",
            mounts::make("tmpfs", "shm", &[("mode", "1777"), ("size", &shm_size.to_string())], INERT)?,
        ),
    ];
    match mounts::make("mqueue", "mqueue", &[], INERT) {
        Ok(queue) => planned.push(system("/dev/mqueue", queue)),
        // A kernel without message queues.
        Err(rustix::io::Errno::NODEV) => {}
        Err(error) => return Err(error),
    }
    if security == Security::Sandbox {
        for (name, ..) in NODES {
            planned.push(system(&format!("/dev/{name}"), files.mount_of(name, no_programs)?));
        }
    }
    Ok(planned)
}

/// The mounts of the nodes that a step is given besides.
pub(crate) fn plan_given(
    files: &PrivateFiles,
    given: &[DeviceNode],
    who: &Identity,
) -> std::result::Result<Vec<Planned>, RunError> {
    let no_programs = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mut planned = Vec::with_capacity(given.len());
    for (count, device) in given.iter().enumerate() {
        let name = format!("device-{count}");
        let kind = match device.kind {
            DeviceKind::Character => FileType::CharacterDevice,
            DeviceKind::Block => FileType::BlockDevice,
            DeviceKind::Fifo => FileType::Fifo,
        };
        let number = if device.kind == DeviceKind::Fifo { (0, 0) } else { device.number };
        let owner = (device.uid.unwrap_or(who.uid), device.gid.unwrap_or(who.gid));
        let mount = files
            .node(&name, kind, number, device.mode)
            .and_then(|()| files.give(&name, owner))
            .and_then(|()| files.mount_of(&name, no_programs))
            .map_err(set_up(format!("making the device {}", device.path.display())))?;
        planned.push(Planned { target: device.path.clone(), mount, whose: Whose::Callers });
    }
    Ok(planned)
}

fn fill(dev: &OwnedFd, security: Security, host: &HostDevices) -> Result<()> {
    for name in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(dev, name, Mode::from_bits_retain(0o755))?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, dev, name)?;
    }
    if host.has_kcore {
        rustix::fs::symlinkat("/proc/kcore", dev, "core")?;
    }
    let everybody = Mode::from_bits_retain(0o666);
    for (name, major, minor) in NODES {
        match security {
            Security::Sandbox => rustix::fs::mknodat(dev, name, FileType::RegularFile, everybody, 0)?,
            Security::Insecure => {
                let device = rustix::fs::makedev(major, minor);
                rustix::fs::mknodat(dev, name, FileType::CharacterDevice, everybody, device)?;
            }
        }
    }
    for node in &host.nodes {
        if let Some((folder, _)) = node.name.split_once('/') {
            rustix::fs::mkdirat(dev, folder, Mode::from_bits_retain(0o755))?;
        }
        let kind = FileType::from_raw_mode(node.mode);
        rustix::fs::mknodat(dev, node.name, kind, Mode::from_raw_mode(node.mode), node.device)?;
    }
    Ok(())
}
