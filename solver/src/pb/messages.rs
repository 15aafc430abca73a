//! The messages of BuildKit's `solver/pb/ops.proto`, field by field: what a Definition looks like to
//! BuildKit, in protobuf and in the JSON of `buildctl debug dump-llb`. They hold what was written, sound
//! or not; they do not know what kiln makes of it.
//!
//! All messages are here, those that kiln neither writes nor runs too, so that whoever speaks BuildKit's
//! API can pass them on. Maps are sorted, so that equal messages are equal bytes, as in BuildKit.

mod exec;
mod file;

pub use exec::{
    CacheOpt, CacheSharingOpt, CdiDevice, ExecOp, HostIp, Meta, Mount, MountContentCache, MountType, NetMode,
    ProxyEnv, SecretEnv, SecretOpt, SecurityMode, SshOpt, TmpfsOpt, Ulimit,
};
pub use file::{
    Action, ChownOpt, FileAction, FileActionCopy, FileActionMkDir, FileActionMkFile, FileActionRm,
    FileActionSymlink, FileOp, NamedUserOpt, User, UserOpt,
};

use serde::Serialize;
use std::collections::BTreeMap;

/// A graph: marshalled [`Op`]s, each known by the digest of its bytes.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Definition {
    /// The ops. The last has no kind: its only input is what the graph is for.
    #[prost(bytes = "vec", repeated, tag = "1")]
    #[serde(skip_serializing_if = "is_default", serialize_with = "base64_list")]
    pub def: Vec<Vec<u8>>,
    /// What is said about ops, by their digests.
    #[prost(btree_map = "string, message", tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub metadata: BTreeMap<String, OpMetadata>,
    /// Where ops come from.
    #[prost(message, optional, tag = "3")]
    #[serde(rename = "Source", skip_serializing_if = "is_default")]
    pub source: Option<Source>,
}

/// A vertex.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Op {
    /// What it is done on.
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub inputs: Vec<Input>,
    /// What is done; nothing in the last op of a definition.
    #[prost(oneof = "OpKind", tags = "2, 3, 4, 5, 6, 7, 8")]
    #[serde(rename = "Op", serialize_with = "one_of")]
    pub op: Option<OpKind>,
    /// What it is done for.
    #[prost(message, optional, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub platform: Option<Platform>,
    /// Who may do it.
    #[prost(message, optional, tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub constraints: Option<WorkerConstraints>,
}

/// What an op does.
#[derive(Clone, PartialEq, prost::Oneof, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum OpKind {
    /// Runs a process.
    #[prost(message, tag = "2")]
    Exec(Box<ExecOp>),
    /// Brings something in.
    #[prost(message, tag = "3")]
    Source(SourceOp),
    /// Works on files.
    #[prost(message, tag = "4")]
    File(FileOp),
    /// Builds what an input says.
    #[prost(message, tag = "5")]
    Build(BuildOp),
    /// Lays inputs over each other.
    #[prost(message, tag = "6")]
    Merge(MergeOp),
    /// Takes one input from another.
    #[prost(message, tag = "7")]
    Diff(DiffOp),
    /// Hands inputs on; kept as it came.
    #[prost(bytes = "vec", tag = "8")]
    Passthrough(#[serde(serialize_with = "base64")] Vec<u8>),
}

/// A platform of the image specification.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Platform {
    /// The processor.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub architecture: String,
    /// The operating system.
    #[prost(string, tag = "2")]
    #[serde(rename = "OS", skip_serializing_if = "is_default")]
    pub os: String,
    /// The processor's variant.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub variant: String,
    /// The version of the operating system.
    #[prost(string, tag = "4")]
    #[serde(rename = "OSVersion", skip_serializing_if = "is_default")]
    pub os_version: String,
    /// What the operating system must have.
    #[prost(string, repeated, tag = "5")]
    #[serde(rename = "OSFeatures", skip_serializing_if = "is_default")]
    pub os_features: Vec<String>,
}

/// An output of another op.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Input {
    /// The digest of that op's bytes.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub digest: String,
    /// Which of its outputs.
    #[prost(int64, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub index: i64,
}

/// Brings something in from outside.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct SourceOp {
    /// What, as a URL.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub identifier: String,
    /// How.
    #[prost(btree_map = "string, string", tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub attrs: BTreeMap<String, String>,
}

/// Builds a definition that an input holds.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct BuildOp {
    /// The input that builds.
    #[prost(int64, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub builder: i64,
    /// Its own inputs.
    #[prost(btree_map = "string, message", tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub inputs: BTreeMap<String, BuildInput>,
    /// What is built, if it is known.
    #[prost(message, optional, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub def: Option<Definition>,
    /// How.
    #[prost(btree_map = "string, string", tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub attrs: BTreeMap<String, String>,
}

/// An input of a [`BuildOp`].
#[derive(Clone, Copy, PartialEq, prost::Message, Serialize)]
pub struct BuildInput {
    /// Which input of the op.
    #[prost(int64, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub input: i64,
}

/// Lays its inputs over each other, the first at the bottom.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct MergeOp {
    /// The inputs.
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub inputs: Vec<MergeInput>,
}

/// An input of a [`MergeOp`].
#[derive(Clone, Copy, PartialEq, prost::Message, Serialize)]
pub struct MergeInput {
    /// Which input of the op.
    #[prost(int64, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub input: i64,
}

/// What the upper input has and the lower has not.
#[derive(Clone, Copy, PartialEq, prost::Message, Serialize)]
pub struct DiffOp {
    /// The lower.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub lower: Option<LowerDiffInput>,
    /// The upper.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub upper: Option<UpperDiffInput>,
}

/// The lower input of a [`DiffOp`].
#[derive(Clone, Copy, PartialEq, prost::Message, Serialize)]
pub struct LowerDiffInput {
    /// Which input of the op; -1 is an empty file system.
    #[prost(int64, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub input: i64,
}

/// The upper input of a [`DiffOp`].
#[derive(Clone, Copy, PartialEq, prost::Message, Serialize)]
pub struct UpperDiffInput {
    /// Which input of the op; -1 is an empty file system.
    #[prost(int64, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub input: i64,
}

/// What is said about an op that does not change what it makes.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct OpMetadata {
    /// Whether what is known of it from before is not used.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub ignore_cache: bool,
    /// Words for people and for those who made it.
    #[prost(btree_map = "string, string", tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub description: BTreeMap<String, String>,
    /// Whether its result is exported with the cache.
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub export_cache: Option<ExportCache>,
    /// What whoever does it must be able to.
    #[prost(btree_map = "string, bool", tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub caps: BTreeMap<String, bool>,
    /// Under what it is shown.
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub progress_group: Option<ProgressGroup>,
    /// What it may use; kept as it came.
    #[prost(bytes = "vec", optional, tag = "7")]
    #[serde(skip_serializing_if = "is_default", serialize_with = "base64_option")]
    pub linux_resources: Option<Vec<u8>>,
}

/// Whether a result is exported with the cache.
#[derive(Clone, Copy, PartialEq, prost::Message, Serialize)]
pub struct ExportCache {
    /// Whether it is.
    #[prost(bool, tag = "1")]
    #[serde(rename = "Value", skip_serializing_if = "is_default")]
    pub value: bool,
}

/// Steps that are shown as one.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct ProgressGroup {
    /// Which one.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub id: String,
    /// Its name.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Whether a step may be shown on its own all the same.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub weak: bool,
}

/// Who may do an op.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct WorkerConstraints {
    /// containerd's filters.
    #[prost(string, repeated, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub filter: Vec<String>,
}

/// Where ops come from.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Source {
    /// Places, by the ops' digests.
    #[prost(btree_map = "string, message", tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub locations: BTreeMap<String, Locations>,
    /// The files.
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub infos: Vec<SourceInfo>,
}

/// The places of an op.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Locations {
    /// The places.
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub locations: Vec<Location>,
}

/// A file that ops come from.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct SourceInfo {
    /// Its name.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub filename: String,
    /// Its text.
    #[prost(bytes = "vec", tag = "2")]
    #[serde(skip_serializing_if = "is_default", serialize_with = "base64")]
    pub data: Vec<u8>,
    /// What brings it in.
    #[prost(message, optional, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub definition: Option<Definition>,
    /// What it is written in.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub language: String,
}

/// Places in one file.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Location {
    /// Which of the files.
    #[prost(int32, tag = "1")]
    #[serde(rename = "sourceIndex", skip_serializing_if = "is_default")]
    pub source_index: i32,
    /// The places.
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub ranges: Vec<Range>,
}

/// A place in a file.
#[derive(Clone, Copy, PartialEq, prost::Message, Serialize)]
pub struct Range {
    /// Where it begins.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub start: Option<Position>,
    /// Where it ends.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub end: Option<Position>,
}

/// A line and a character in it.
#[derive(Clone, Copy, PartialEq, prost::Message, Serialize)]
pub struct Position {
    /// The line, counted from 1.
    #[prost(int32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub line: i32,
    /// The character, counted from 0.
    #[prost(int32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub character: i32,
}

/// What Go's JSON leaves out.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A choice as Go's JSON of these messages writes it: an object with the one that was made, or none.
fn one_of<T: Serialize, S: serde::Serializer>(choice: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;
    match choice {
        Some(made) => made.serialize(to),
        None => to.serialize_map(Some(0))?.end(),
    }
}

fn encoded(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn base64<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&encoded(bytes))
}

fn base64_option<S: serde::Serializer>(bytes: &Option<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
    bytes.as_deref().map(encoded).serialize(to)
}

fn base64_list<S: serde::Serializer>(list: &[Vec<u8>], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(list.iter().map(|bytes| encoded(bytes)))
}
