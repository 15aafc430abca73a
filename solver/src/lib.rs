//! What must run, in what order, and what is already known: a graph and a state machine.
//! It does not know how an operation is done; it has no threads, no clock and no disk.

mod cache_key;
mod definition;
mod env;
mod machine;
pub mod pattern;
pub mod pb;
mod protocol;
mod reads;

pub use cache_key::{CacheKey, ContentId, InputKey, StepInputs};
pub use definition::{
    CacheSharing, CdiDevice, Chown, CopyAction, Definition, Edge, ExecMeta, ExecOp, FileAction,
    FileActionKind, FileInput, FileOp, Metadata, Mount, MountKind, NetworkMode, Op, Principal, SecretEnv,
    SecretMount, SecurityMode, SourceOp, SshMount, Vertex, VertexId,
};
pub use env::Env;
pub use machine::Solver;
pub use protocol::{Action, Event, Foresight, Progress};
pub use reads::bases;
