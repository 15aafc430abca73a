//! Sources from the network that are no images: files of the web, git repositories.
//! It does not know what they are for.

use crate::WorkerError;
use crate::build::Build;
use crate::layer::Stack;
use kiln_solver::SourceOp;

/// Brings a source here as a layer.
pub(crate) fn bring(_build: &Build<'_>, source: &SourceOp) -> Result<Stack, WorkerError> {
    Err(WorkerError::Unsupported(source.identifier.clone()))
}
