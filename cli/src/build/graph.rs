//! The graphs of all platforms as one, in which equal steps are one step. It does not know what the
//! platforms are.

use kiln_frontend::{Lowered, UnusedBuildArg};
use kiln_grammar::Diagnostic;
use kiln_oci::Platform;
use kiln_worker::{Definition, Target};

/// What a Dockerfile was lowered to, for all platforms.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub definition: Definition,
    pub targets: Vec<Target>,
    /// The warnings in the order of the lines, each once.
    pub warnings: Vec<Diagnostic>,
    /// The build arguments that change nothing on any platform.
    pub unused: Vec<UnusedBuildArg>,
}

impl Graph {
    /// Adds what was lowered for a platform.
    pub(super) fn add(&mut self, platform: Platform, lowered: Lowered) {
        if self.targets.is_empty() {
            self.unused = lowered.unused_build_args;
        } else {
            self.unused.retain(|unused| lowered.unused_build_args.contains(unused));
        }
        add_warnings(&mut self.warnings, lowered.warnings);
        self.targets.push(Target {
            platform,
            edge: self.definition.merge(&lowered.definition),
            config: lowered.config,
            source_date_epoch_s: lowered.source_date_epoch,
        });
    }
}

/// Adds those warnings that are not there yet.
pub(super) fn add_warnings(warnings: &mut Vec<Diagnostic>, more: Vec<Diagnostic>) {
    for warning in more {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    warnings.sort_by_key(|warning| warning.line);
}
