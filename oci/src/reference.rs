//! Image references: `[registry/]repository[:tag][@digest]`, with Docker's defaults.
//! It does not know registries.

use crate::{Digest, DigestError};
use std::fmt;
use std::str::FromStr;

/// The registry of a reference that names none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
const TAG_CHARS_MAX: usize = 128;
const NAME_CHARS_MAX: usize = 255;

/// A reference to an image, normalised: `alpine` is `docker.io/library/alpine:latest`.
/// Follows the distribution project's `reference` grammar.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Empty.
    #[error("the image reference is empty")]
    Empty,
    /// Letters in upper case in the repository.
    #[error("invalid reference format: repository name `{0}` must be in lower case")]
    UpperCase(String),
    /// Not of the grammar.
    #[error("invalid reference format: `{0}`; write [registry/]repository[:tag][@sha256:digest]")]
    Format(String),
    /// The digest is none.
    #[error("invalid reference format: {0}")]
    Digest(#[from] DigestError),
}

impl Reference {
    /// The registry's host, and its port if it has one: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository: `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one was given or, where there is no digest, `latest`.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if it is pinned to one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same repository at a digest, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { digest: Some(digest), tag: None, ..self.clone() }
    }

    /// The same repository at a tag, without a digest.
    pub fn with_tag(&self, tag: &str) -> Result<Reference, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Format(tag.to_owned()));
        }
        Ok(Reference { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// As people write it: without `docker.io/` and `library/`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(short) = full.strip_prefix("docker.io/") else { return full };
        short.strip_prefix("library/").unwrap_or(short).to_owned()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let bad = || ReferenceError::Format(text.chars().take(300).collect());
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((host, rest))
                if host.contains(['.', ':']) || host == "localhost" || host.to_lowercase() != host =>
            {
                (host, rest)
            }
            _ => (DEFAULT_REGISTRY, name),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        if repository.to_lowercase() != repository {
            return Err(ReferenceError::UpperCase(repository.to_owned()));
        }
        if !is_host(registry)
            || !repository.split('/').all(is_component)
            || name.len() > NAME_CHARS_MAX
            || !tag.is_none_or(is_tag)
        {
            return Err(bad());
        }
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |d| write!(f, "@{d}"))
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let port_ok = port.is_none_or(|p| p.parse::<u16>().is_ok() && p.bytes().all(|c| c.is_ascii_digit()));
    if let Some(v6) = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        return port_ok && v6.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let part = |s: &str| {
        !s.is_empty()
            && !s.starts_with('-')
            && !s.ends_with('-')
            && s.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    port_ok && name.split('.').all(part)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    bytes.split(|&c| alphanumeric(c)).all(|gap| {
        matches!(gap, b"" | b"." | b"_" | b"__") || !gap.is_empty() && gap.iter().all(|&c| c == b'-')
    })
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`
fn is_tag(tag: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    tag.len() <= TAG_CHARS_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|c| word(c) || c == b'.' || c == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_normalised() {
        let d = format!("sha256:{}", "0".repeat(64));
        for (text, want) in [
            ("alpine".to_owned(), "docker.io/library/alpine:latest".to_owned()),
            ("a/b:1".into(), "docker.io/a/b:1".into()),
            ("localhost/x".into(), "localhost/x:latest".into()),
            ("127.0.0.1:5000/library/busybox".into(), "127.0.0.1:5000/library/busybox:latest".into()),
            (format!("x:1@{d}"), format!("docker.io/library/x:1@{d}")),
            (format!("[::1]:5000/x@{d}"), format!("[::1]:5000/x@{d}")),
            ("a--b/c__d.e".into(), "docker.io/a--b/c__d.e:latest".into()),
        ] {
            assert_eq!(text.parse::<Reference>().map(|r| r.to_string()), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            "Alpine",
            "a b",
            "a:",
            "a@sha256:12",
            "-a",
            "a//b",
            "a/../b",
            "a:b/c:d:e",
            "x:-",
            "host:99999/x",
            "a___b",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
