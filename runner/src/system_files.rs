//! The files that a step gets without having them in its image: hosts, resolv.conf, secrets, and the cgroup
//! tree. They are on one private file system in memory, which no path of the step leads to; each is mounted by
//! itself. It knows nothing of who asked for them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Result;
use rustix::mount::MountAttrFlags;

use crate::mounts::{self, INERT, Planned, Whose};

/// The private file system.
pub(crate) struct PrivateFiles {
    folder: OwnedFd,
}

/// The folder of the host that the private file system covers, in the step's mount namespace only. It must not be
/// the old root itself: that is to be unmounted with all that is on it, and a mount on top would be taken instead.
const COVERED: &str = "/proc";
/// The folder of the private file system that the new root is mounted on.
const PLACE_OF_ROOT: &str = "root";
/// The most of the caller's resolv.conf that is read.
const LARGEST_RESOLV_CONF: u64 = 1 << 20;
/// Where the caller's cgroups are, and what a unified tree says that it is.
const CGROUP: &str = "/sys/fs/cgroup";
const CGROUP2_MAGIC: u64 = 0x6367_7270;

impl PrivateFiles {
    /// Mounts it over a folder of the host, which nothing looks into any more.
    pub(crate) fn mount() -> Result<Self> {
        let folder = mounts::make("tmpfs", "tmpfs", &[], MountAttrFlags::empty())?;
        let covered = rustix::fs::open(COVERED, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        mounts::attach(&folder, covered)?;
        Ok(PrivateFiles { folder })
    }

    /// A handle of the folder for the new root.
    pub(crate) fn place_of_root(&self) -> Result<OwnedFd> {
        self.directory(PLACE_OF_ROOT)?;
        self.handle(PLACE_OF_ROOT)
    }

    /// Makes an empty folder.
    pub(crate) fn directory(&self, name: &str) -> Result<()> {
        rustix::fs::mkdirat(&self.folder, name, Mode::from_bits_retain(0o555))
    }

    /// Makes a character device that everybody may use.
    pub(crate) fn device(&self, name: &str, major: u32, minor: u32) -> Result<()> {
        self.node(name, FileType::CharacterDevice, (major, minor), 0o666)
    }

    /// Makes a node, without an owner of its own.
    pub(crate) fn node(&self, name: &str, kind: FileType, number: (u32, u32), mode: u32) -> Result<()> {
        let device = rustix::fs::makedev(number.0, number.1);
        rustix::fs::mknodat(&self.folder, name, kind, Mode::from_bits_retain(mode & 0o7777), device)
    }

    /// Gives what was made here to an owner.
    pub(crate) fn give(&self, name: &str, owner: (u32, u32)) -> Result<()> {
        let (user, group) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        rustix::fs::chownat(&self.folder, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Makes a file.
    pub(crate) fn file(&self, name: &str, content: &[u8], mode: u32, owner: (u32, u32)) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.folder, name, flags, Mode::from_bits_retain(0o600))?;
        let mut file = File::from(fd);
        file.write_all(content)
            .map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))?;
        rustix::fs::fchown(&file, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?;
        rustix::fs::fchmod(&file, Mode::from_bits_retain(mode & 0o7777))
    }

    /// A handle of what was made here.
    pub(crate) fn handle(&self, name: &str) -> Result<OwnedFd> {
        rustix::fs::openat(&self.folder, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    }

    /// A mount of what was made here.
    pub(crate) fn mount_of(&self, name: &str, attributes: MountAttrFlags) -> Result<OwnedFd> {
        let mount = mounts::clone_of(&self.folder, name, false)?;
        mounts::restrict(&mount, attributes, false)?;
        Ok(mount)
    }
}

/// The content of `/etc/hosts`.
pub(crate) fn hosts(hostname: &str, extra: &[(String, IpAddr)]) -> Vec<u8> {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text.into_bytes()
}

/// The caller's resolv.conf; empty when there is none.
pub(crate) fn resolv_conf() -> Vec<u8> {
    let mut content = Vec::new();
    if let Ok(file) = File::open("/etc/resolv.conf") {
        // Half a resolv.conf is as good as an unreadable one: names then are not resolved, and the step says so.
        let _ = file.take(LARGEST_RESOLV_CONF).read_to_end(&mut content);
    }
    content
}

/// The caller's cgroups, as far as they can be seen.
pub(crate) enum Cgroups {
    /// One unified tree.
    Unified,
    /// A tree for each controller: the name of its folder and a mount of the caller's own part of it.
    Split(Vec<(String, OwnedFd)>),
}

/// Looks at the caller's cgroups, before the old root goes away.
pub(crate) fn cgroups() -> Cgroups {
    if rustix::fs::statfs(CGROUP).is_ok_and(|stat| stat.f_type as u64 == CGROUP2_MAGIC) {
        return Cgroups::Unified;
    }
    let mut trees = Vec::new();
    for line in std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default().lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let name = controllers.strip_prefix("name=").unwrap_or(controllers);
        if name.is_empty() {
            continue;
        }
        if let Ok(tree) = mounts::clone_of(CWD, &format!("{CGROUP}/{name}{path}"), false) {
            trees.push((name.to_owned(), tree));
        }
    }
    Cgroups::Split(trees)
}

/// The mounts that show the cgroups in a step; nothing where the kernel does not let us.
pub(crate) fn plan_cgroups(cgroups: Cgroups, readonly: bool) -> Vec<Planned> {
    let mut attributes = INERT;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, readonly);
    let planned =
        |target: String, mount| Planned { target: PathBuf::from(target), mount, whose: Whose::Optional };
    let trees = match cgroups {
        Cgroups::Unified => {
            let mount = mounts::make("cgroup2", "cgroup", &[], attributes);
            return mount.into_iter().map(|mount| planned(CGROUP.to_owned(), mount)).collect();
        }
        Cgroups::Split(trees) => trees,
    };
    let Ok(top) = mounts::make("tmpfs", "cgroup", &[("mode", "755")], INERT) else { return Vec::new() };
    let mut all = Vec::new();
    for (name, tree) in trees {
        let made = rustix::fs::mkdirat(top.as_fd(), &name, Mode::from_bits_retain(0o555))
            .and_then(|()| mounts::restrict(&tree, attributes, false));
        for alias in name.split(',').filter(|alias| *alias != name) {
            // Only the usual second name is missing then.
            let _ = rustix::fs::symlinkat(&name, top.as_fd(), alias);
        }
        if made.is_ok() {
            all.push(planned(format!("{CGROUP}/{name}"), tree));
        }
    }
    if mounts::restrict(&top, attributes, false).is_ok() {
        all.insert(0, planned(CGROUP.to_owned(), top));
        return all;
    }
    Vec::new()
}
