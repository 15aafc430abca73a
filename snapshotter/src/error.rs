//! What can go wrong with snapshots, as a caller can tell it apart.
//! It does not know how an error is shown, nor which exit code it becomes.

use crate::id::SnapshotId;
use kiln_oci::DiffId;
use std::io;

/// An operation on a snapshot, a mount or a tree that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The operating system refused an operation on a file.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file, as far as it can be shown.
        path: String,
        /// Why it was refused.
        source: io::Error,
    },
    /// Reading a tar or writing one failed.
    #[error("cannot {action}: {source}")]
    Stream {
        /// What was tried, as a verb.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A tar is not well formed.
    #[error(transparent)]
    Archive(#[from] crate::archive::ArchiveError),
    /// The kernel would not make an overlay mount.
    #[error("cannot mount {layers} layers as overlay: {source}{detail}")]
    Overlay {
        /// How many layers it was to have.
        layers: usize,
        /// The kernel's own words, preceded by a colon, or nothing.
        detail: String,
        /// Its error number.
        source: io::Error,
    },
    /// More layers than overlayfs can stack.
    #[error("{count} layers are too many: overlayfs stacks at most {limit}")]
    TooManyLayers {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// There is no such snapshot, or it was never finished.
    #[error("there is no snapshot {0}")]
    Unknown(SnapshotId),
    /// A text that is no snapshot id.
    #[error("`{0}` is not a snapshot id (16 digits 0-9a-f)")]
    BadId(String),
    /// The index of a snapshot is damaged.
    #[error("the index of snapshot {id} is damaged: {reason}")]
    Damaged {
        /// The snapshot.
        id: SnapshotId,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A tar is another one than its digest says.
    #[error("the layer's content is {actual}, not {expected}")]
    WrongDiffId {
        /// What was promised.
        expected: DiffId,
        /// What came.
        actual: DiffId,
    },
    /// A snapshot's tar comes out otherwise than it was: its files have changed on disk, or it was
    /// unpacked from a tar that another tool wrote.
    #[error("the tar of snapshot {id} comes out as {actual}, not {expected}")]
    NotReproduced {
        /// The snapshot.
        id: SnapshotId,
        /// The digest of the layer.
        expected: DiffId,
        /// The digest of what was written.
        actual: DiffId,
    },
    /// A whiteout in a tar that names no entry of its folder.
    #[error("`{0}` is not a valid whiteout")]
    InvalidWhiteout(String),
    /// A hard link in a tar whose target exists neither in the layer nor below it.
    #[error("`{path}` is a hard link to `{target}`, which does not exist")]
    DanglingHardlink {
        /// The link.
        path: String,
        /// What it should be another name of.
        target: String,
    },
    /// A file could not be taken over from an earlier layer, or is not any more what that layer's index says.
    #[error("{0} can't be taken over from an earlier layer")]
    NotReused(String),
    /// A file changed while it was read.
    #[error("{0} changed while it was read")]
    Changed(String),
    /// Symbolic links lead in a circle, or through too many of them.
    #[error("{0}: too many links")]
    TooManyLinks(String),
    /// There is no such file.
    #[error("{0}: not found")]
    NotFound(String),
    /// Something on the way to a path is no directory.
    #[error("{0}: not a directory")]
    NotADirectory(String),
    /// Something else than a regular file where one is needed.
    #[error("{0}: not a regular file")]
    NotAFile(String),
    /// A directory was to be copied to where something else is.
    #[error("cannot copy to non-directory: {0}")]
    OntoNonDirectory(String),
    /// A file was to be copied to where a directory is.
    #[error("cannot replace directory {0} with file")]
    OntoDirectory(String),
    /// A text that changes no mode.
    #[error("`{0}` is not a file mode, neither octal (0 to 07777) nor symbolic (such as u=rwX,go=rX)")]
    BadMode(String),
    /// An overlay that renames directories by reference has no layer of its own.
    #[error("{0} was renamed by reference (redirect_dir), which no layer can hold")]
    Redirected(String),
}

/// Makes a closure that wraps an error of the operating system about `path`.
pub(crate) fn cannot<E: Into<io::Error>>(
    action: &'static str,
    path: &[u8],
) -> impl FnOnce(E) -> SnapshotError {
    let path = shown(path);
    move |error| SnapshotError::Io { action, path, source: error.into() }
}

/// Makes a closure like [`cannot`], but with names of their own for what a caller asks about most.
pub(crate) fn missing<E: Into<io::Error>>(
    action: &'static str,
    path: &[u8],
) -> impl FnOnce(E) -> SnapshotError {
    let path = shown(path);
    move |error| {
        let source: io::Error = error.into();
        match source.kind() {
            io::ErrorKind::NotFound => SnapshotError::NotFound(path),
            io::ErrorKind::NotADirectory => SnapshotError::NotADirectory(path),
            _ if source.raw_os_error() == Some(libc::ELOOP) => SnapshotError::TooManyLinks(path),
            _ => SnapshotError::Io { action, path, source },
        }
    }
}

/// A path of bytes as a person may read it: one leading slash.
pub(crate) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    if text.starts_with('/') { text.into_owned() } else { format!("/{text}") }
}
