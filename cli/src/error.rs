//! Errors as people see them: words, hints and exit codes. It does not know how they came about.

use crate::stderr;
use kiln_oci::LayoutError;
use kiln_worker::WorkerError;
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
    /// Ctrl-C and its like can't be listened for.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] nix::Error),
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
    /// The store's image is not for the platform.
    #[error("image {reference} has nothing for the platform {platform}; it has {}", has.join(", "))]
    NoPlatform { reference: String, platform: String, has: Vec<String> },
    /// Two images differ, and that is to be told by the exit code alone.
    #[error("the images differ")]
    Different,
    /// The store is damaged.
    #[error(
        "the store has {count} damaged things: kiln fsck --repair forgets them; build or pull named images again"
    )]
    Damaged { count: usize },
    /// A command is there to ask, and may not.
    #[error(
        "{command} asks what names stand for now, and with {flag} nobody is asked: run it without {flag}"
    )]
    Offline { command: &'static str, flag: &'static str },
    /// A step failed; `text` shows where.
    #[error("{text}")]
    Step { text: String, error: Box<WorkerError> },
    /// All is built, but shared caches could not be used, and that must not be.
    #[error("--cache-strict: {count} of the caches could not be used, as told above; the image is built")]
    Caches { count: usize },
    /// The worker failed.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

impl CommandError {
    /// 1 the build failed, 2 usage or Dockerfile, 3 registry, 4 cache under `--cache-strict`, 130 stopped by the user.
    pub fn exit_code(&self) -> u8 {
        match self {
            CommandError::Usage { .. }
            | CommandError::NoStore
            | CommandError::Context(_)
            | CommandError::Dockerfile { .. } => 2,
            CommandError::Damaged { .. }
            | CommandError::Different
            | CommandError::NoPlatform { .. }
            | CommandError::Offline { .. }
            | CommandError::Signals(_)
            | CommandError::File { .. }
            | CommandError::Findings { .. } => 1,
            CommandError::Image { registry: true, .. } => 3,
            CommandError::Image { registry: false, .. } => 1,
            CommandError::Caches { .. } => 4,
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
        // What a registry answers: an error, or an image that can't be used.
        WorkerError::Registry(_)
        | WorkerError::Document { .. }
        | WorkerError::Config { .. }
        | WorkerError::LayerCount { .. }
        | WorkerError::Content(LayoutError::Mismatch { .. }) => 3,
        // An image in a folder comes of no registry.
        WorkerError::NoPlatform { reference, .. } if !reference.starts_with(kiln_oci::LAYOUT_SCHEME) => 3,
        WorkerError::Cache { .. } | WorkerError::CacheLayer { .. } => 4,
        WorkerError::Canceled => 130,
        WorkerError::Vertex { error, .. } => worker_code(error),
        _ => 1,
    }
}

/// Whether an error came of a registry.
pub(crate) fn is_registry(error: &WorkerError) -> bool {
    worker_code(error) == 3
}

/// Tells of an error on standard error.
pub(crate) fn report(error: &CommandError) {
    match error {
        CommandError::Dockerfile { text } | CommandError::Findings { text } => stderr::write(text),
        CommandError::Different => {}
        other => stderr::say(&format!("ERROR: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_cannot_be_used_is_the_fault_of_its_registry() {
        let reference = "example.com/x".to_owned();
        let digest = kiln_oci::Digest::of(b"x");
        for (error, want) in [
            (WorkerError::LayerCount { reference: reference.clone(), layers: 1, diff_ids: 2 }, 3),
            (
                WorkerError::Config {
                    reference,
                    source: serde_json::from_str::<bool>("{").expect_err("no JSON"),
                },
                3,
            ),
            (
                WorkerError::Content(LayoutError::Mismatch {
                    expected: digest,
                    expected_bytes: 1,
                    got: digest,
                    got_bytes: 2,
                }),
                3,
            ),
            (WorkerError::Content(LayoutError::Missing(digest)), 1),
            (WorkerError::Canceled, 130),
        ] {
            let words = error.to_string();
            assert_eq!(CommandError::Worker(error).exit_code(), want, "{words}");
        }
    }
}
