//! What can go wrong in a run, in variants that a caller can tell apart. The helper process sends the same type
//! back as JSON, so an error reads alike wherever it came up. It knows no exit codes and no terminals.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Why a process could not be run to its end.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum RunError {
    /// The run was cancelled; all its processes are dead.
    #[error("the run was cancelled")]
    Cancelled,
    /// The user name is not in the root's passwd file.
    #[error("unable to find user {user}: no matching entries in passwd file")]
    UnknownUser {
        /// The name as given.
        user: String,
    },
    /// The group name is not in the root's group file.
    #[error("unable to find group {group}: no matching entries in group file")]
    UnknownGroup {
        /// The name as given.
        group: String,
    },
    /// A numeric user or group is out of range.
    #[error("invalid user {user:?}: uids and gids must be in range 0-4294967294")]
    InvalidUser {
        /// The user as given.
        user: String,
    },
    /// passwd or group of the root is no regular file, or larger than what is read.
    #[error("{path:?} of the root can't be used: {reason}")]
    UserFile {
        /// The file's path in the root.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A mount's target is not allowed or cannot be used.
    #[error("invalid mount target {target:?}: {reason}")]
    MountTarget {
        /// The target as given.
        target: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The working directory cannot be made or entered.
    #[error("working directory {cwd:?}: {source}")]
    WorkingDirectory {
        /// The directory as given.
        cwd: PathBuf,
        /// What the system said.
        #[serde(with = "errno")]
        source: io::Error,
    },
    /// A resource limit has a name that is not known, or cannot be set.
    #[error("resource limit {name:?}: {source}")]
    Limit {
        /// The limit's name.
        name: String,
        /// What the system said.
        #[serde(with = "errno")]
        source: io::Error,
    },
    /// The program is in no folder of `$PATH`.
    #[error("exec: {program:?}: executable file not found in $PATH")]
    NotInPath {
        /// The program as given.
        program: String,
    },
    /// The program, or the interpreter that it names, does not exist.
    #[error("exec: {program:?}: stat {program}: no such file or directory")]
    NotFound {
        /// The program as given.
        program: String,
    },
    /// The program may not be executed by the user.
    #[error("exec: {program:?}: permission denied")]
    PermissionDenied {
        /// The program as given.
        program: String,
    },
    /// The program could not be executed for another reason, such as a format that the kernel does not know.
    #[error("exec {program}: {source}")]
    Exec {
        /// The program as given.
        program: String,
        /// What the system said.
        #[serde(with = "errno")]
        source: io::Error,
    },
    /// The specification itself is wrong: no arguments, a byte that an argument cannot hold.
    #[error("invalid process specification: {reason}")]
    InvalidSpec {
        /// What is wrong.
        reason: String,
    },
    /// A step of setting up the isolation failed.
    #[error("setting up the sandbox: {step}: {source}")]
    SetUp {
        /// What was being done.
        step: String,
        /// What the system said.
        #[serde(with = "errno")]
        source: io::Error,
    },
    /// The helper process ended without saying how the process ended; all its processes are dead.
    #[error("the sandbox's helper process died: {how}")]
    HelperDied {
        /// How it ended.
        how: String,
    },
}

/// Gives the function that wraps a system error with what was being done.
pub(crate) fn set_up(step: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> RunError {
    let step = step.into();
    move |errno| RunError::SetUp { step, source: errno.into() }
}

mod errno {
    //! A system error as its number; an error without one is written as EIO.
    use std::io;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(error: &io::Error, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i32(error.raw_os_error().unwrap_or(libc::EIO))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<io::Error, D::Error> {
        Ok(io::Error::from_raw_os_error(i32::deserialize(from)?))
    }
}
