//! Errors as people see them: words, hints and exit codes. It does not know how they came about.

use kiln_worker::{RegistryError, WorkerError};
use std::io;
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// An argument can't be used.
    #[error("{argument}: {problem}")]
    Usage { argument: String, problem: String },
    /// There is no place for the store.
    #[error("there is no folder for the store: set --root, KILN_ROOT or HOME")]
    NoStore,
    /// A file can't be read or written.
    #[error("cannot {action} {path}: {source}")]
    File { action: &'static str, path: PathBuf, source: io::Error },
    /// The context can't be used.
    #[error("unable to prepare context: {0}")]
    Context(String),
    /// The Dockerfile has mistakes; `text` shows them.
    #[error("{text}")]
    Dockerfile { text: String },
    /// `--check` has found something; `text` shows it.
    #[error("{text}")]
    Findings { text: String },
    /// An image that the Dockerfile names is not to be had.
    #[error("{text}")]
    Image { text: String, registry: bool },
    /// A step failed; `text` shows where.
    #[error("{text}")]
    Step { text: String, error: Box<WorkerError> },
    /// The worker failed.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

impl CommandError {
    /// 1 the build failed, 2 usage or Dockerfile, 3 registry, 130 stopped by the user.
    pub fn exit_code(&self) -> u8 {
        match self {
            CommandError::Usage { .. }
            | CommandError::NoStore
            | CommandError::Context(_)
            | CommandError::Dockerfile { .. } => 2,
            CommandError::File { .. } | CommandError::Findings { .. } => 1,
            CommandError::Image { registry, .. } => {
                if *registry {
                    3
                } else {
                    1
                }
            }
            CommandError::Step { error, .. } => worker_code(error),
            CommandError::Worker(error) => worker_code(error),
        }
    }

    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> CommandError {
        let path = path.into();
        move |source| CommandError::File { action, path, source }
    }

    pub fn usage(argument: impl Into<String>, problem: impl Into<String>) -> CommandError {
        CommandError::Usage { argument: argument.into(), problem: problem.into() }
    }
}

fn worker_code(error: &WorkerError) -> u8 {
    match error {
        WorkerError::Registry(_) | WorkerError::NoPlatform { .. } | WorkerError::Document { .. } => 3,
        WorkerError::Canceled => 130,
        WorkerError::Vertex { error, .. } => worker_code(error),
        _ => 1,
    }
}

/// Whether an error came of a registry.
pub(crate) fn is_registry(error: &WorkerError) -> bool {
    worker_code(error) == 3
}

/// What a registry says of an image, in the words of the field.
pub(crate) fn image_words(error: &WorkerError) -> String {
    match error {
        WorkerError::Registry(RegistryError::NotFound { .. }) => format!("{error}"),
        other => other.to_string(),
    }
}

/// Tells of an error on standard error.
#[expect(clippy::print_stderr, reason = "this is where errors are shown")]
pub(crate) fn report(error: &CommandError) {
    match error {
        CommandError::Dockerfile { text } | CommandError::Findings { text } => eprint!("{text}"),
        other => eprintln!("ERROR: {other}"),
    }
}
