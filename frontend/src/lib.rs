//! Lowers a parsed Dockerfile and the options of a build to a graph and an image config, and lints.
//! It does not know how images are fetched or files are read: it asks one function what a reference
//! is, and names everything else in the graph.

mod args;
mod config;
mod contexts;
mod copy;
mod dispatch;
mod env;
mod epoch;
mod error;
mod expose;
mod file_op;
mod git;
mod graph;
mod hints;
mod history;
mod lint;
mod lint_file;
mod lower;
mod mount;
mod options;
mod ownership;
mod path;
mod progress;
mod remote;
mod resolve;
mod run;
mod signal;
mod stage;
mod stage_context;
mod stage_graph;

pub use contexts::normal_context_name;
pub use epoch::{EpochSource, epoch_source};
pub use error::LowerError;
pub use kiln_solver::{NetworkMode, pb};
pub use lint::{LINTS, Lint};
pub use lower::{Checked, Lowered, Resolver, UnusedBuildArg, check, lower, lower_telling};
pub use mount::boolean;
pub use options::{BuildOptions, ImageRequest, NamedContext, ResolvedImage, Ulimit};
pub use remote::{RemoteContext, image_identifier, remote_context};
pub use stage_graph::{
    StageGraph, StageGraphEdge, StageGraphEdgeKind, StageGraphNode, StageGraphNodeKind, stage_graph,
};

/// The mark at the end of a history line that made a layer.
pub const HISTORY_MARK: &str = " # kiln";

/// The comment of each line of the history.
pub const HISTORY_COMMENT: &str = "kiln.dockerfile.v0";

#[cfg(test)]
mod tests;
