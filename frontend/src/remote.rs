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
    /// The same, with the repository's `.git` folder unless the address itself says otherwise: what the build
    /// argument `BUILDKIT_CONTEXT_KEEP_GIT_DIR` asks for.
    #[must_use]
    pub fn keeping_git_dir(mut self, address: &str) -> RemoteContext {
        let said = git::parse_context(address).and_then(Result::ok).and_then(|git| git.keep_git_dir);
        if let (RemoteContext::Git(source), None) = (&mut self, said) {
            source.attrs.insert("git.keepgitdir".to_owned(), "true".to_owned());
        }
        self
    }

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

/// What the graph calls an image, if the vertex brings one: `docker-image://REFERENCE@DIGEST`, or the same
/// of an OCI layout.
pub fn image_identifier(vertex: &Vertex) -> Option<&str> {
    const SCHEMES: [&str; 2] = ["docker-image://", kiln_oci::LAYOUT_SCHEME];
    match &vertex.op {
        Op::Source(source) if SCHEMES.iter().any(|scheme| source.identifier.starts_with(scheme)) => {
            Some(&source.identifier)
        }
        _ => None,
    }
}
