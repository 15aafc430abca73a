//! The messages of a FileOp: its actions and owners. They do not know files.

use super::{base64, is_default, one_of};
use serde::Serialize;

/// Works on files.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct FileOp {
    /// The actions, in order.
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub actions: Vec<FileAction>,
}

/// An action. Inputs are counted through: first those of the op, then the actions.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct FileAction {
    /// What is changed; -1 is an empty file system.
    #[prost(int64, tag = "1")]
    pub input: i64,
    /// What is copied from; -1 is an empty file system.
    #[prost(int64, tag = "2")]
    #[serde(rename = "secondaryInput")]
    pub secondary_input: i64,
    /// Which output of the op the result is; -1 is none.
    #[prost(int64, tag = "3")]
    pub output: i64,
    /// The change.
    #[prost(oneof = "Action", tags = "4, 5, 6, 7, 8")]
    #[serde(rename = "Action", serialize_with = "one_of")]
    pub action: Option<Action>,
}

/// What an action does.
#[derive(Clone, PartialEq, prost::Oneof, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Copies files.
    #[prost(message, tag = "4")]
    Copy(FileActionCopy),
    /// Makes a file.
    #[prost(message, tag = "5")]
    Mkfile(FileActionMkFile),
    /// Makes a folder.
    #[prost(message, tag = "6")]
    Mkdir(FileActionMkDir),
    /// Removes a path.
    #[prost(message, tag = "7")]
    Rm(FileActionRm),
    /// Makes a link.
    #[prost(message, tag = "8")]
    Symlink(FileActionSymlink),
}

/// Copies files.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct FileActionCopy {
    /// The path in the source.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub src: String,
    /// The path in the destination.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub dest: String,
    /// The new owner.
    #[prost(message, optional, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub owner: Option<ChownOpt>,
    /// The new mode; -1 keeps the source's.
    #[prost(int32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub mode: i32,
    /// Whether a link as the last component is followed.
    #[prost(bool, tag = "5")]
    #[serde(rename = "followSymlink", skip_serializing_if = "is_default")]
    pub follow_symlink: bool,
    /// Whether a folder's content is copied.
    #[prost(bool, tag = "6")]
    #[serde(rename = "dirCopyContents", skip_serializing_if = "is_default")]
    pub dir_copy_contents: bool,
    /// Whether archives are unpacked.
    #[prost(bool, tag = "7")]
    #[serde(rename = "attemptUnpackDockerCompatibility", skip_serializing_if = "is_default")]
    pub attempt_unpack_docker_compatibility: bool,
    /// Whether missing parents of the destination are made.
    #[prost(bool, tag = "8")]
    #[serde(rename = "createDestPath", skip_serializing_if = "is_default")]
    pub create_dest_path: bool,
    /// Whether the source is a pattern.
    #[prost(bool, tag = "9")]
    #[serde(rename = "allowWildcard", skip_serializing_if = "is_default")]
    pub allow_wildcard: bool,
    /// Whether the pattern may match nothing.
    #[prost(bool, tag = "10")]
    #[serde(rename = "allowEmptyWildcard", skip_serializing_if = "is_default")]
    pub allow_empty_wildcard: bool,
    /// The time in nanoseconds since 1970; -1 is none.
    #[prost(int64, tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub timestamp: i64,
    /// Only what matches these.
    #[prost(string, repeated, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub include_patterns: Vec<String>,
    /// Nothing that matches these.
    #[prost(string, repeated, tag = "13")]
    #[serde(skip_serializing_if = "is_default")]
    pub exclude_patterns: Vec<String>,
    /// Whether what is there is replaced whatever its type.
    #[prost(bool, tag = "14")]
    #[serde(rename = "alwaysReplaceExistingDestPaths", skip_serializing_if = "is_default")]
    pub always_replace_existing_dest_paths: bool,
    /// The new mode in chmod's symbols.
    #[prost(string, tag = "15")]
    #[serde(rename = "modeStr", skip_serializing_if = "is_default")]
    pub mode_str: String,
    /// Paths that must be there.
    #[prost(string, repeated, tag = "16")]
    #[serde(skip_serializing_if = "is_default")]
    pub required_paths: Vec<String>,
}

/// Makes a file.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct FileActionMkFile {
    /// Where.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// Its mode.
    #[prost(int32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub mode: i32,
    /// Its content.
    #[prost(bytes = "vec", tag = "3")]
    #[serde(skip_serializing_if = "is_default", serialize_with = "base64")]
    pub data: Vec<u8>,
    /// Its owner.
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub owner: Option<ChownOpt>,
    /// The time in nanoseconds since 1970; -1 is none.
    #[prost(int64, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub timestamp: i64,
}

/// Makes a folder.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct FileActionMkDir {
    /// Where.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// Its mode.
    #[prost(int32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub mode: i32,
    /// Whether missing parents are made.
    #[prost(bool, tag = "3")]
    #[serde(rename = "makeParents", skip_serializing_if = "is_default")]
    pub make_parents: bool,
    /// Its owner.
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub owner: Option<ChownOpt>,
    /// The time in nanoseconds since 1970; -1 is none.
    #[prost(int64, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub timestamp: i64,
}

/// Removes a path.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct FileActionRm {
    /// What.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// Whether it may be missing.
    #[prost(bool, tag = "2")]
    #[serde(rename = "allowNotFound", skip_serializing_if = "is_default")]
    pub allow_not_found: bool,
    /// Whether the path is a pattern.
    #[prost(bool, tag = "3")]
    #[serde(rename = "allowWildcard", skip_serializing_if = "is_default")]
    pub allow_wildcard: bool,
}

/// Makes a link.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct FileActionSymlink {
    /// The link's target.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub oldpath: String,
    /// Where.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub newpath: String,
    /// Its owner.
    #[prost(message, optional, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub owner: Option<ChownOpt>,
    /// The time in nanoseconds since 1970; -1 is none.
    #[prost(int64, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub timestamp: i64,
}

/// An owner.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct ChownOpt {
    /// The user.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub user: Option<UserOpt>,
    /// The group.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub group: Option<UserOpt>,
}

/// A user or a group.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct UserOpt {
    /// By name or by number.
    #[prost(oneof = "User", tags = "1, 2")]
    #[serde(rename = "User", serialize_with = "one_of")]
    pub user: Option<User>,
}

/// A user or a group by name or by number.
#[derive(Clone, PartialEq, prost::Oneof, Serialize)]
pub enum User {
    /// By name.
    #[prost(message, tag = "1")]
    #[serde(rename = "byName")]
    ByName(NamedUserOpt),
    /// By number.
    #[prost(uint32, tag = "2")]
    #[serde(rename = "byId")]
    ById(u32),
}

/// A user or a group by name.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct NamedUserOpt {
    /// The name.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Where it is looked up; -1 is an empty file system.
    #[prost(int64, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub input: i64,
}
