//! The nouns of a run: what to run, in which root, with which mounts, and what comes out of it. It knows
//! nothing of how any of it is done.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The host name of a run that asks for no other.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// The size of `/dev/shm` in bytes when a run asks for no other.
pub const DEFAULT_SHM_SIZE: u64 = 64 << 20;

/// A process to run and the surroundings that it gets.
///
/// Mounts given as file descriptors are used up by the run: they end with its mount namespace.
#[derive(Debug)]
pub struct ProcessSpec {
    /// A detached mount (of `fsmount` or `open_tree`) that becomes the root file system.
    pub root: OwnedFd,
    /// The program and its arguments; a program without a slash is looked up in `PATH` inside the root.
    pub args: Vec<OsString>,
    /// The environment in order; `PATH` and `HOME` are added when missing.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory; missing parts are made with mode 0755 and belong to the user.
    pub cwd: PathBuf,
    /// Nothing, `name`, `uid`, `name:group`, `uid:gid`…, resolved in the root's passwd and group files.
    pub user: String,
    /// What is mounted over the root, in order.
    pub mounts: Vec<BindMount>,
    /// Which network the process sees.
    pub network: Network,
    /// How much the process may do.
    pub security: Security,
    /// The host name, [`DEFAULT_HOSTNAME`] when empty.
    pub hostname: String,
    /// Further lines of `/etc/hosts`.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// The size of `/dev/shm`; [`DEFAULT_SHM_SIZE`] when 0.
    pub shm_size_bytes: u64,
    /// Resource limits by name (`nofile`, `nproc`, …), soft and hard; `u64::MAX` is no limit. What is not named
    /// is inherited.
    pub ulimits: Vec<(String, u64, u64)>,
    /// Device nodes besides the usual ones; in any step, they can be used.
    pub devices: Vec<DeviceNode>,
    /// Groups that the process is in besides those of its user.
    pub additional_gids: Vec<u32>,
}

impl ProcessSpec {
    /// A run of `args` in `root` with the defaults for all the rest.
    pub fn new(root: OwnedFd, args: Vec<OsString>) -> Self {
        ProcessSpec {
            root,
            args,
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            user: String::new(),
            mounts: Vec::new(),
            network: Network::Host,
            security: Security::Sandbox,
            hostname: DEFAULT_HOSTNAME.to_owned(),
            extra_hosts: Vec::new(),
            shm_size_bytes: DEFAULT_SHM_SIZE,
            ulimits: Vec::new(),
            devices: Vec::new(),
            additional_gids: Vec::new(),
        }
    }
}

/// A device node that a process gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Where, as an absolute path in the root; it is mounted there, and no part of the root.
    pub path: PathBuf,
    /// What kind of node it is.
    pub kind: DeviceKind,
    /// The major and the minor number; of a fifo they count for nothing.
    pub number: (u32, u32),
    /// Its permissions.
    pub mode: u32,
    /// Its owner; the process's user when none is given.
    pub uid: Option<u32>,
    /// Its group; that of the process's user when none is given.
    pub gid: Option<u32>,
}

/// The kinds of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A pipe with a name.
    Fifo,
}

/// One mount over the root.
#[derive(Debug)]
pub struct BindMount {
    /// Where, as an absolute path in the root; made if missing and taken away again afterwards.
    pub target: PathBuf,
    /// What.
    pub source: MountSource,
    /// Whether writing is refused.
    pub readonly: bool,
}

/// What is mounted.
#[derive(Debug)]
pub enum MountSource {
    /// A detached mount of a directory or a file.
    Detached(OwnedFd),
    /// A fresh file system in memory.
    Tmpfs {
        /// Its limit; none is the kernel's default.
        size_bytes: Option<u64>,
        /// The mode of its root.
        mode: u32,
    },
    /// A file in memory, never on disk.
    Secret {
        /// Its content.
        data: Vec<u8>,
        /// Its mode.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// A detached mount of a socket.
    Socket(OwnedFd),
    /// A detached mount of something of the host's.
    Host {
        /// The mount.
        mount: OwnedFd,
        /// Whether programs there gain nothing from their set-uid bits.
        nosuid: bool,
        /// Whether nothing there can be executed.
        noexec: bool,
    },
}

/// Which network a process sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The caller's.
    Host,
    /// A new one with only the loopback interface.
    None,
}

/// How much a process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// The container engines' usual default: 14 capabilities, a system call filter, masked paths, no devices.
    Sandbox,
    /// All of the caller's capabilities, no filter, no masked path, the host's devices.
    Insecure,
}

/// The stream that a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Where it was written to.
    pub stream: Stream,
    /// Its bytes without the newline; at most [`LONGEST_LINE`](crate::LONGEST_LINE), longer ones come in pieces.
    pub line: Vec<u8>,
    /// When it was read, counted from the start of the run.
    pub at: Duration,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl ExitStatus {
    /// Whether the process ended by itself with code 0.
    pub fn success(self) -> bool {
        self == ExitStatus::Code(0)
    }

    /// The code as a shell tells it: that of the process, or 128 and the signal's number.
    pub fn shell_code(self) -> i32 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => 128 + signal,
        }
    }
}
