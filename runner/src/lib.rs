//! One process in an isolated root: its output and its exit.
//!
//! [`run`] re-executes the calling program as a single-threaded helper, which builds namespaces, mounts and
//! privileges around the process and starts it as process 1 of its own process namespace. Everything lives in
//! those namespaces, so whatever way the caller ends, the kernel clears up: no process and no mount stays.
//!
//! The crate knows nothing of snapshots, digests, images or the network protocol.

mod cancel;
mod child;
mod devices;
mod environment;
mod error;
mod in_root;
mod lines;
mod masks;
mod mounts;
mod privileges;
mod run;
mod seccomp;
mod spec;
mod step;
mod stubs;
mod syscall_table;
mod syscalls;
mod system_files;
mod user;
mod wire;

pub use cancel::CancelToken;
pub use child::child_entry_point;
pub use error::RunError;
pub use lines::LONGEST_LINE;
pub use run::run;
pub use spec::{
    BindMount, DEFAULT_HOSTNAME, DEFAULT_SHM_SIZE, DeviceKind, DeviceNode, ExitStatus, LogLine, MountSource,
    Network, ProcessSpec, Security, Stream,
};
