//! Contexts that are not on this machine, and images, as the graph names them. It does not bring them.

use crate::contexts::{ContextSource, source_of};
use crate::git;
use crate::options::NamedContext;
use kiln_solver::{Op, SourceOp, Vertex};

/// A context that is to be brought here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteContext {
    /// A git repository.
    Git(SourceOp),
    /// A file or an archive on the web.
    Http(SourceOp),
}

impl RemoteContext {
    /// How to bring it.
    pub fn source(&self) -> &SourceOp {
        match self {
            RemoteContext::Git(source) | RemoteContext::Http(source) => source,
        }
    }
}

/// Reads the address of a context. The error says what is wrong with it.
pub fn remote_context(address: &str) -> Result<RemoteContext, String> {
    let is_git = match git::parse_context(address) {
        Some(parsed) => parsed.map(|_| true)?,
        None => false,
    };
    let context =
        if is_git { NamedContext::Git(address.to_owned()) } else { NamedContext::Http(address.to_owned()) };
    match source_of(&context)? {
        ContextSource::Plain(source) if is_git => Ok(RemoteContext::Git(source)),
        ContextSource::Plain(source) | ContextSource::Archive(source) => Ok(RemoteContext::Http(source)),
        _ => Err(format!("{address} is not a git repository or a web address")),
    }
}

/// What the graph calls an image, if the vertex brings one: `docker-image://REFERENCE@DIGEST`.
pub fn image_identifier(vertex: &Vertex) -> Option<&str> {
    match &vertex.op {
        Op::Source(source) if source.identifier.starts_with("docker-image://") => Some(&source.identifier),
        _ => None,
    }
}
