//! Root file systems as layers: prepare, mount, commit, unpack, compare, index, copy and compress.
//! It does not know Dockerfiles, cache keys, registries, or who still needs a snapshot.

pub mod archive;
pub mod compress;

mod commit;
mod copy;
mod deferred;
mod error;
mod extract;
mod id;
mod index;
mod index_file;
mod layer_tar;
mod mode;
mod mount;
mod node;
mod reuse;
mod store;
#[cfg(test)]
mod testing;
mod tree;
mod unpack;
mod view;

pub use commit::CommitOptions;
pub use copy::{Copied, CopyOptions, Reuse, Seen, Verdict, copy_tree};
pub use deferred::{Begun, Digesting};
pub use error::SnapshotError;
pub use extract::{ExtractOptions, extract_archive};
pub use id::SnapshotId;
pub use index::{Entry, Kind, LayerIndex, path_order};
pub use mode::{Clause, ModeChange, SourceModes};
pub use mount::{MAX_LAYERS, Mount};
pub use node::Xattrs;
pub use reuse::Earlier;
pub use store::{Active, Committed, Snapshotter};
pub use tree::{NodeStat, NodeType, Tree};
pub use view::{Resolved, TreeView, Walk, components};
