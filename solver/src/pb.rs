//! A [`Definition`] as BuildKit's protobuf (`solver/pb/ops.proto` of BuildKit 0.32), and back.
//!
//! ```text
//! pb.Definition
//!   def       each op's bytes; its inputs by the SHA-256 of their bytes. The last op has no kind: its one
//!             input is the target (no input: an empty file system)
//!   metadata  by the same digests: ignore_cache; what the reader must be able to do; a description:
//!               llb.customname  Metadata::name
//!               kiln.stage      Metadata::stage
//!               kiln.proxy      ExecMeta::proxy_env, where pb.ProxyEnv can't hold it
//!   Source    the Dockerfile, and each op's lines in it
//! ```
//! What is written and read back is the same definition, vertex for vertex, with one exception. In
//! protobuf an op *is* its digest, and whether it ignores the cache is no part of that: two vertices that
//! differ in nothing else are one op. As in BuildKit it then ignores the cache if either did, which may
//! cost time and is never wrong; name and lines are those of the first, as where a [`Definition`] itself
//! meets equal vertices.
//!
//! The capabilities are those that BuildKit's own client asks for, `file.base` for every file op too: it
//! means to ask for those of single actions, but does not, and servers refuse some of them.
//!
//! Reading takes any bytes. It reads past what does not change a result: export_cache, progress groups,
//! resources, content caches, the removal of mount stubs, other descriptions. What kiln can't do is an
//! error and never left out. It does not know files or networks.

mod caps;
mod decode;
mod encode;
mod limits;
pub mod messages;

pub use limits::DEFINITION_BYTES_MAX;

use crate::definition::Definition;
use kiln_oci::Digest;
use prost::Message;
use serde::Serialize;

/// The description that holds a vertex's name.
const NAME: &str = "llb.customname";
/// The description that holds a vertex's stage.
const STAGE: &str = "kiln.stage";
/// How old a known result may be, in seconds.
const MAX_AGE: &str = "kiln.max-age";
/// The description that holds proxies as they are, a JSON list of pairs.
const PROXY: &str = "kiln.proxy";

/// The file that a definition comes from.
#[derive(Clone, Copy, Debug)]
pub struct SourceFile<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its text.
    pub text: &'a str,
}

/// Why bytes are no definition that kiln can build. Ops are counted from 0.
#[derive(Debug, thiserror::Error)]
pub enum PbError {
    /// They are no protobuf of a definition.
    #[error("this is no definition in protobuf: {0}")]
    Malformed(#[source] prost::DecodeError),
    /// An op is no protobuf of an op.
    #[error("op {op} is no protobuf of an op: {source}")]
    MalformedOp {
        /// The op.
        op: usize,
        /// What is wrong.
        source: prost::DecodeError,
    },
    /// There is too much of it.
    #[error("the definition has {bytes} bytes, the limit is {DEFINITION_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// There is too much in it.
    #[error("the definition has more than {max} fields")]
    TooManyFields {
        /// The limit.
        max: usize,
    },
    /// The last op does not say what is to be built.
    #[error("the last op must have no kind and one input, the target")]
    NoTarget,
    /// An op does nothing, and is not the last.
    #[error("op {op} has no kind")]
    NoKind {
        /// The op.
        op: usize,
    },
    /// An op is there twice.
    #[error("op {op} is there a second time, as {digest}")]
    Duplicate {
        /// The second of them.
        op: usize,
        /// Its digest.
        digest: String,
    },
    /// An op has an input that is not there.
    #[error("op {op} has the input `{digest}`, which is not in the definition")]
    MissingInput {
        /// The op.
        op: usize,
        /// What is not there.
        digest: String,
    },
    /// An op needs itself, by whatever way round.
    #[error("op {op} needs itself")]
    Circle {
        /// The op.
        op: usize,
    },
    /// An index leads to nothing.
    #[error("op {op}: {field} is {value}, and there is nothing by that number")]
    Index {
        /// The op.
        op: usize,
        /// What has the index.
        field: &'static str,
        /// The index.
        value: i64,
    },
    /// An output is given twice.
    #[error("op {op} has the output {output} twice")]
    TwoOutputs {
        /// The op.
        op: usize,
        /// The output.
        output: u32,
    },
    /// A number can't be what it is for.
    #[error("op {op}: {field} can't be {value}")]
    Number {
        /// The op.
        op: usize,
        /// What has the number.
        field: &'static str,
        /// The number.
        value: i64,
    },
    /// A choice is none of those that there are.
    #[error("op {op}: {field} has the unknown value {value}")]
    Unknown {
        /// The op.
        op: usize,
        /// What is chosen.
        field: &'static str,
        /// The choice.
        value: i32,
    },
    /// Something must be said and is not.
    #[error("op {op} lacks {field}")]
    Missing {
        /// The op.
        op: usize,
        /// What is not said.
        field: &'static str,
    },
    /// BuildKit can do it, and kiln can't.
    #[error("op {op} is not supported: {what}")]
    Unsupported {
        /// The op.
        op: usize,
        /// What it is.
        what: &'static str,
    },
    /// A description of kiln's own is not as kiln writes it.
    #[error("op {op}: the description {key} is not as kiln writes it: {source}")]
    Description {
        /// The op.
        op: usize,
        /// The description.
        key: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// The bytes of a definition. `source` is the Dockerfile that it comes from.
pub fn encode(definition: &Definition, source: Option<SourceFile<'_>>) -> Vec<u8> {
    to_message(definition, source).encode_to_vec()
}

/// The message of a definition. `source` is the Dockerfile that it comes from.
pub fn to_message(definition: &Definition, source: Option<SourceFile<'_>>) -> messages::Definition {
    encode::definition(definition, source)
}

/// Reads a definition; any bytes may be given.
pub fn decode(bytes: &[u8]) -> Result<Definition, PbError> {
    from_message(&message(bytes)?)
}

/// Reads a definition's message, with whatever is in it.
pub fn from_message(message: &messages::Definition) -> Result<Definition, PbError> {
    decode::definition(message, &ops(message)?)
}

/// An op with its digest and what is said about it: a line of `buildctl debug dump-llb`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DumpedOp {
    /// The op.
    pub op: messages::Op,
    /// The digest of its bytes.
    pub digest: Digest,
    /// What is said about it.
    pub op_metadata: messages::OpMetadata,
}

/// The ops of a definition as they are, those that kiln can't do too.
pub fn dump(bytes: &[u8]) -> Result<Vec<DumpedOp>, PbError> {
    let mut message = message(bytes)?;
    let ops = ops(&message)?;
    let dumped = ops.into_iter().map(|(digest, op)| {
        let op_metadata = message.metadata.remove(&digest.to_string()).unwrap_or_default();
        DumpedOp { op, digest, op_metadata }
    });
    Ok(dumped.collect())
}

fn message(bytes: &[u8]) -> Result<messages::Definition, PbError> {
    limits::check_definition(bytes)?;
    messages::Definition::decode(bytes).map_err(PbError::Malformed)
}

/// The ops with their digests, in the order that they are in.
fn ops(message: &messages::Definition) -> Result<Vec<(Digest, messages::Op)>, PbError> {
    limits::check_ops(&message.def)?;
    let read = |(op, bytes): (usize, &Vec<u8>)| {
        let read = messages::Op::decode(bytes.as_slice());
        read.map(|message| (Digest::of(bytes), message)).map_err(|source| PbError::MalformedOp { op, source })
    };
    message.def.iter().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests;
