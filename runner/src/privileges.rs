//! What a process may do: its limits, its identity, its capabilities and its filter, taken on in the one order in
//! which the kernel allows it. It knows nothing of mounts and namespaces.

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::error::{RunError, set_up};
use crate::seccomp::Instruction;
use crate::spec::Security;
use crate::syscalls;
use crate::user::Identity;

/// The capabilities of a sandboxed step: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
/// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
const SANDBOX_CAPABILITIES: CapabilitySet = CapabilitySet::from_bits_retain(0xa804_25fb);
/// The numbers that a capability can have.
const CAPABILITY_NUMBERS: std::ops::Range<u32> = 0..64;

/// Sets the limits that were asked for; the others stay as they are.
pub(crate) fn set_limits(limits: &[(String, u64, u64)]) -> Result<(), RunError> {
    for (name, soft, hard) in limits {
        let limit = |value: u64| (value != u64::MAX).then_some(value);
        let wanted = Rlimit { current: limit(*soft), maximum: limit(*hard) };
        resource(name)
            .ok_or(Errno::INVAL)
            .and_then(|resource| rustix::process::setrlimit(resource, wanted))
            .map_err(|error| RunError::Limit { name: name.clone(), source: error.into() })?;
    }
    Ok(())
}

/// Takes on the identity with the privileges of `security`. The filter comes first, while that is still allowed
/// without "no new privileges".
pub(crate) fn take_on(who: &Identity, security: Security, filter: &[Instruction]) -> Result<(), RunError> {
    let callers = rustix::thread::capabilities(None).map_err(set_up("reading capabilities"))?.permitted;
    match security {
        Security::Sandbox => {
            syscalls::install_filter(filter).map_err(set_up("installing the system call filter"))?;
            limit_bounding_set(SANDBOX_CAPABILITIES).map_err(set_up("limiting capabilities"))?;
            become_user(who).map_err(set_up("becoming the user"))?;
            let kept = if who.uid == 0 { SANDBOX_CAPABILITIES & callers } else { CapabilitySet::empty() };
            rustix::thread::clear_ambient_capability_set()
                .map_err(set_up("clearing ambient capabilities"))?;
            let sets =
                CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
            rustix::thread::set_capabilities(None, sets).map_err(set_up("setting capabilities"))
        }
        Security::Insecure => {
            rustix::thread::set_keep_capabilities(true).map_err(set_up("keeping capabilities"))?;
            become_user(who).map_err(set_up("becoming the user"))?;
            let sets = CapabilitySets { effective: callers, permitted: callers, inheritable: callers };
            rustix::thread::set_capabilities(None, sets).map_err(set_up("setting capabilities"))?;
            for capability in callers.iter() {
                rustix::thread::configure_capability_in_ambient_set(capability, true)
                    .map_err(set_up("raising ambient capabilities"))?;
            }
            rustix::thread::set_keep_capabilities(false).map_err(set_up("keeping capabilities"))
        }
    }
}

fn become_user(who: &Identity) -> rustix::io::Result<()> {
    let groups: Vec<Gid> = who.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    let (uid, gid) = (Uid::from_raw(who.uid), Gid::from_raw(who.gid));
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

fn limit_bounding_set(kept: CapabilitySet) -> rustix::io::Result<()> {
    for number in CAPABILITY_NUMBERS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // The kernel has no capability of this number, nor of a higher one.
            Err(Errno::INVAL) => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}
