//! How a specification gets from the caller to the helper process and how answers come back: one packet socket.
//! The specification is JSON in a sealed memory file, followed by the filter's instructions; the memory file and
//! the mounts' descriptors travel as packets' ancillary data. It knows nothing of what a specification means.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::error::RunError;
use crate::seccomp::Instruction;
use crate::spec::{DeviceNode, ExitStatus, MountSource, Network, ProcessSpec, Security};
use crate::stubs::Stub;

/// A specification as it is sent; descriptors are in a list beside it, the root's first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireSpec {
    pub(crate) caller_pid: i32,
    pub(crate) args: Vec<Bytes>,
    pub(crate) env: Vec<(Bytes, Bytes)>,
    pub(crate) cwd: Bytes,
    pub(crate) user: String,
    pub(crate) mounts: Vec<WireMount>,
    pub(crate) network: Network,
    pub(crate) security: Security,
    pub(crate) hostname: String,
    pub(crate) extra_hosts: Vec<(String, IpAddr)>,
    pub(crate) shm_size_bytes: u64,
    pub(crate) ulimits: Vec<(String, u64, u64)>,
    pub(crate) devices: Vec<DeviceNode>,
    pub(crate) additional_gids: Vec<u32>,
}

/// A mount as it is sent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireMount {
    pub(crate) target: Bytes,
    pub(crate) readonly: bool,
    pub(crate) source: WireSource,
}

/// A mount's source as it is sent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum WireSource {
    /// The next descriptor of the list.
    Descriptor,
    /// The same, of something of the host's.
    Host {
        nosuid: bool,
        noexec: bool,
    },
    Tmpfs {
        size_bytes: Option<u64>,
        mode: u32,
    },
    Secret {
        data: Bytes,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// Bytes that are mostly text.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Bytes {
    Text(String),
    Raw(Vec<u8>),
}

/// What the helper tells the caller.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Everything is set up and the program is about to start; these stubs are to be taken away at the end.
    Ready { stubs: Vec<Stub> },
    /// The set-up failed; these stubs are to be taken away now.
    Failed { error: RunError, stubs: Vec<Stub> },
    /// The process has ended, and with it all that it started.
    Exited(ExitStatus),
}

/// A specification as it arrives in the helper.
pub(crate) struct Received {
    pub(crate) spec: WireSpec,
    pub(crate) filter: Vec<Instruction>,
    pub(crate) root: OwnedFd,
    /// The descriptors of the mounts that have one, in order.
    pub(crate) mounts: Vec<OwnedFd>,
}

/// The most descriptors that the kernel takes with one packet.
const DESCRIPTORS_PER_PACKET: usize = 253;
/// The largest answer; a few stubs and an error are far smaller.
const LARGEST_REPLY: usize = 128 << 10;

impl Bytes {
    /// The bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Bytes::Text(text) => text.as_bytes(),
            Bytes::Raw(raw) => raw,
        }
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Bytes::Text(text.to_owned()),
            Err(_) => Bytes::Raw(bytes.to_owned()),
        }
    }
}

impl From<Bytes> for OsString {
    fn from(bytes: Bytes) -> Self {
        match bytes {
            Bytes::Text(text) => text.into(),
            Bytes::Raw(raw) => OsString::from_vec(raw),
        }
    }
}

impl WireSpec {
    /// Parts `spec` into what can be written and its descriptors, the root's first.
    pub(crate) fn of(spec: &ProcessSpec) -> (WireSpec, Vec<BorrowedFd<'_>>) {
        let bytes = |text: &OsString| Bytes::from(text.as_bytes());
        let mut descriptors = vec![spec.root.as_fd()];
        let mut mounts = Vec::new();
        for mount in &spec.mounts {
            let source = match &mount.source {
                MountSource::Detached(fd) | MountSource::Socket(fd) => {
                    descriptors.push(fd.as_fd());
                    WireSource::Descriptor
                }
                MountSource::Host { mount, nosuid, noexec } => {
                    descriptors.push(mount.as_fd());
                    WireSource::Host { nosuid: *nosuid, noexec: *noexec }
                }
                MountSource::Tmpfs { size_bytes, mode } => {
                    WireSource::Tmpfs { size_bytes: *size_bytes, mode: *mode }
                }
                MountSource::Secret { data, mode, uid, gid } => {
                    WireSource::Secret { data: Bytes::from(&data[..]), mode: *mode, uid: *uid, gid: *gid }
                }
            };
            let target = Bytes::from(mount.target.as_os_str().as_bytes());
            mounts.push(WireMount { target, readonly: mount.readonly, source });
        }
        let wire = WireSpec {
            caller_pid: rustix::process::getpid().as_raw_nonzero().get(),
            args: spec.args.iter().map(bytes).collect(),
            env: spec.env.iter().map(|(name, value)| (bytes(name), bytes(value))).collect(),
            cwd: Bytes::from(spec.cwd.as_os_str().as_bytes()),
            user: spec.user.clone(),
            mounts,
            network: spec.network,
            security: spec.security,
            hostname: spec.hostname.clone(),
            extra_hosts: spec.extra_hosts.clone(),
            shm_size_bytes: spec.shm_size_bytes,
            ulimits: spec.ulimits.clone(),
            devices: spec.devices.clone(),
            additional_gids: spec.additional_gids.clone(),
        };
        (wire, descriptors)
    }
}

/// Sends a specification with its descriptors and the filter.
pub(crate) fn send_spec(
    socket: BorrowedFd<'_>,
    spec: &WireSpec,
    descriptors: &[BorrowedFd<'_>],
    filter: &[Instruction],
) -> std::io::Result<()> {
    let memory = rustix::fs::memfd_create("kiln-spec", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    let json = serde_json::to_vec(spec)?;
    let mut content = Vec::with_capacity(8 + json.len() + filter.len() * 8);
    content.extend((json.len() as u64).to_ne_bytes());
    content.extend(&json);
    for Instruction { code, if_true, if_false, value } in filter {
        content.extend(code.to_ne_bytes());
        content.extend([*if_true, *if_false]);
        content.extend(value.to_ne_bytes());
    }
    file.write_all(&content)?;
    let all: Vec<BorrowedFd<'_>> = std::iter::once(file.as_fd()).chain(descriptors.iter().copied()).collect();
    let count = (all.len() as u64).to_ne_bytes();
    for batch in all.chunks(DESCRIPTORS_PER_PACKET) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_PACKET))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(batch));
        rustix::net::sendmsg(socket, &[IoSlice::new(&count)], &mut ancillary, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

/// Receives what [`send_spec`] sent; nothing when the caller went away before.
pub(crate) fn receive_spec(socket: BorrowedFd<'_>) -> std::io::Result<Option<Received>> {
    let mut descriptors = Vec::new();
    loop {
        let mut count = [0; 8];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_PACKET))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut count)];
        let got = rustix::net::recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        if got.bytes == 0 {
            return Ok(None);
        }
        if got.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Errno::MFILE.into());
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        if descriptors.len() as u64 >= u64::from_ne_bytes(count) {
            break;
        }
    }
    let mut descriptors = descriptors.into_iter();
    let (Some(memory), Some(root)) = (descriptors.next(), descriptors.next()) else {
        return Err(Errno::PROTO.into());
    };
    let (spec, filter) = read_spec(memory)?;
    Ok(Some(Received { spec, filter, root, mounts: descriptors.collect() }))
}

fn read_spec(memory: OwnedFd) -> std::io::Result<(WireSpec, Vec<Instruction>)> {
    let mut file = File::from(memory);
    file.rewind()?;
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    let (length, rest) = content.split_first_chunk::<8>().ok_or(Errno::PROTO)?;
    let (json, code) = rest.split_at_checked(u64::from_ne_bytes(*length) as usize).ok_or(Errno::PROTO)?;
    let filter = code.as_chunks::<8>().0.iter().map(|&[a, b, if_true, if_false, c, d, e, f]| Instruction {
        code: u16::from_ne_bytes([a, b]),
        if_true,
        if_false,
        value: u32::from_ne_bytes([c, d, e, f]),
    });
    Ok((serde_json::from_slice(json)?, filter.collect()))
}

/// Sends an answer. The caller may be gone, so nobody can be told of a failure.
pub(crate) fn send_reply(socket: BorrowedFd<'_>, reply: &Reply) {
    if let Ok(json) = serde_json::to_vec(reply) {
        let _ = rustix::net::send(socket, &json, SendFlags::NOSIGNAL);
    }
}

/// Receives an answer; nothing when the helper is gone.
pub(crate) fn receive_reply(socket: BorrowedFd<'_>) -> std::io::Result<Option<Reply>> {
    let mut packet = vec![0; LARGEST_REPLY];
    let (length, _) = rustix::net::recv(socket, &mut packet[..], RecvFlags::empty())?;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&packet[..length])?))
}
