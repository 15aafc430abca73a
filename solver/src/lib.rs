//! What must run, in what order, and what is already known: a graph and a state machine.
//! It does not know how an operation is done; it has no threads, no clock and no disk.

mod definition;
pub mod pattern;

pub use definition::{
    CacheSharing, CdiDevice, Chown, CopyAction, Definition, Edge, ExecMeta, ExecOp, FileAction,
    FileActionKind, FileInput, FileOp, Metadata, Mount, MountKind, NetworkMode, Op, Principal, SecretEnv,
    SecretMount, SecurityMode, SourceOp, SshMount, Vertex, VertexId,
};
