//! What devices give a process, put into what it is run with: variables, nodes, mounts, groups.
//! It does not know how devices are found or who may have them.

use super::spec::{Edits, MountSpec, NodeSpec};
use super::{Device, DeviceError};
use kiln_runner::{BindMount, DeviceKind, DeviceNode, MountSource, ProcessSpec};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The mode of a node whose specification has none.
const NODE_MODE: u32 = 0o666;

/// Gives `devices` to a process. What a specification says for all its devices comes before what it says for
/// one, and counts once.
pub(crate) fn apply(devices: &[Arc<Device>], to: &mut ProcessSpec) -> Result<(), DeviceError> {
    let mut seen: Vec<&Path> = Vec::new();
    for device in devices {
        let file = device.file.as_path();
        if !seen.contains(&file) {
            seen.push(file);
            Target { device, to }.apply(&device.spec.container_edits)?;
        }
        Target { device, to }.apply(device.edits())?;
    }
    Ok(())
}

/// A device, and the process that gets it.
struct Target<'a> {
    device: &'a Device,
    to: &'a mut ProcessSpec,
}

impl Target<'_> {
    fn apply(&mut self, edits: &Edits) -> Result<(), DeviceError> {
        let Edits { env, device_nodes, net_devices, hooks, mounts, intel_rdt, additional_gids } = edits;
        if let Some(hook) = hooks.first() {
            return Err(DeviceError::Hook {
                file: self.device.file.clone(),
                device: self.device.name.clone(),
                hook: hook.hook_name.clone(),
                program: hook.path.clone(),
            });
        }
        if !net_devices.is_empty() {
            return Err(self.unsupported("network devices"));
        }
        if intel_rdt.is_some() {
            return Err(self.unsupported("intelRdt"));
        }
        for pair in env {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            self.to.env.retain(|(known, _)| known != name);
            self.to.env.push((name.into(), value.into()));
        }
        for node in device_nodes {
            let node = self.node(node)?;
            self.to.devices.retain(|known| known.path != node.path);
            self.to.devices.push(node);
        }
        for mount in mounts {
            let mount = self.mount(mount)?;
            self.to.mounts.retain(|known| known.target != mount.target);
            self.to.mounts.push(mount);
        }
        // Root's group is no privilege to be given.
        self.to.additional_gids.extend(additional_gids.iter().filter(|gid| **gid != 0));
        Ok(())
    }

    /// A node. What its specification does not say of it is as on the host.
    fn node(&self, spec: &NodeSpec) -> Result<DeviceNode, DeviceError> {
        let host = PathBuf::from(spec.host_path.as_deref().filter(|p| !p.is_empty()).unwrap_or(&spec.path));
        let (major, minor) = (spec.major.unwrap_or(0), spec.minor.unwrap_or(0));
        let kind = match spec.kind.as_deref() {
            Some("c" | "u") => Some(DeviceKind::Character),
            Some("b") => Some(DeviceKind::Block),
            Some("p") => Some(DeviceKind::Fifo),
            _ => None,
        };
        let (kind, number) = match kind {
            Some(DeviceKind::Fifo) => (DeviceKind::Fifo, (0, 0)),
            Some(kind) if major != 0 => (kind, (major, minor)),
            kind => {
                let wrong = |reason: String| self.wrong(&host, reason);
                let stat = std::fs::metadata(&host).map_err(|e| wrong(e.to_string()))?;
                let own = match stat.file_type() {
                    own if own.is_char_device() => DeviceKind::Character,
                    own if own.is_block_device() => DeviceKind::Block,
                    own if own.is_fifo() => DeviceKind::Fifo,
                    _ => return Err(wrong("it is no device".to_owned())),
                };
                if kind.is_some_and(|kind| kind != own) {
                    let said = spec.kind.as_deref().unwrap_or_default();
                    return Err(wrong(format!("it is not of the type {said}, as its specification says")));
                }
                let number = (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
                (own, if major == 0 { number } else { (major, minor) })
            }
        };
        let (mode, uid, gid) = (spec.file_mode.unwrap_or(NODE_MODE), spec.uid, spec.gid);
        Ok(DeviceNode { path: PathBuf::from(&spec.path), kind, number, mode, uid, gid })
    }

    fn mount(&self, spec: &MountSpec) -> Result<BindMount, DeviceError> {
        let target = PathBuf::from(&spec.container_path);
        let (mut readonly, mut nosuid, mut noexec, mut recursive) = (false, false, false, false);
        for option in &spec.options {
            match option.as_str() {
                "ro" => readonly = true,
                "rw" => readonly = false,
                "nosuid" => nosuid = true,
                "suid" => nosuid = false,
                "noexec" => noexec = true,
                "exec" => noexec = false,
                "rbind" => recursive = true,
                // A step's mounts are private and without devices, whatever is said; the rest is about times.
                "bind" | "nodev" | "dev" | "private" | "rprivate" | "slave" | "rslave" | "shared"
                | "rshared" | "atime" | "noatime" | "diratime" | "nodiratime" | "relatime" | "norelatime"
                | "strictatime" | "nostrictatime" => {}
                other => return Err(self.unsupported(&format!("the mount option {other:?}"))),
            }
        }
        match spec.kind.as_deref() {
            None | Some("" | "none" | "bind") => {}
            Some("tmpfs") => {
                let source = MountSource::Tmpfs { size_bytes: None, mode: 0o1777 };
                return Ok(BindMount { target, source, readonly });
            }
            Some(other) => return Err(self.unsupported(&format!("the mount type {other:?}"))),
        }
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
        let host = Path::new(&spec.host_path);
        let mount = open_tree(CWD, host, flags)
            .map_err(|errno| self.wrong(host, std::io::Error::from(errno).to_string()))?;
        Ok(BindMount { target, source: MountSource::Host { mount, nosuid, noexec }, readonly })
    }

    fn unsupported(&self, what: &str) -> DeviceError {
        DeviceError::Unsupported {
            file: self.device.file.clone(),
            device: self.device.name.clone(),
            what: what.to_owned(),
        }
    }

    fn wrong(&self, path: &Path, reason: String) -> DeviceError {
        DeviceError::Host {
            file: self.device.file.clone(),
            device: self.device.name.clone(),
            path: path.to_owned(),
            reason,
        }
    }
}
