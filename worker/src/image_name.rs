//! What images are called: a reference to a registry, or the address of one in a folder.
//! It does not know how they are fetched.

use kiln_oci::{Digest, LAYOUT_SCHEME, LayoutReference, LayoutReferenceError, Reference, ReferenceError};
use std::fmt;
use std::str::FromStr;

/// The name of an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ImageName {
    /// In the store or at a registry.
    Registry(Reference),
    /// In a folder of the OCI layout.
    Layout(LayoutReference),
}

/// A text that is no name of an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageNameError {
    /// No reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// No address in a folder.
    #[error(transparent)]
    Layout(#[from] LayoutReferenceError),
}

impl ImageName {
    /// The same image at a digest.
    pub(crate) fn with_digest(&self, digest: Digest) -> ImageName {
        match self {
            ImageName::Registry(reference) => ImageName::Registry(reference.with_digest(digest)),
            ImageName::Layout(layout) => {
                ImageName::Layout(LayoutReference { digest: Some(digest), ..layout.clone() })
            }
        }
    }

    /// Whether `other` names the same place, whatever tag or digest either has.
    pub(crate) fn is_beside(&self, other: &ImageName) -> bool {
        match (self, other) {
            (ImageName::Registry(a), ImageName::Registry(b)) => {
                (a.registry(), a.repository()) == (b.registry(), b.repository())
            }
            (ImageName::Layout(a), ImageName::Layout(b)) => a.path == b.path,
            (ImageName::Registry(_) | ImageName::Layout(_), _) => false,
        }
    }

    /// The digest that it is pinned to, if it is.
    pub(crate) fn digest(&self) -> Option<Digest> {
        match self {
            ImageName::Registry(reference) => reference.digest(),
            ImageName::Layout(layout) => layout.digest,
        }
    }
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<ImageName, ImageNameError> {
        if text.starts_with(LAYOUT_SCHEME) {
            return Ok(ImageName::Layout(text.parse()?));
        }
        Ok(ImageName::Registry(text.parse()?))
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageName::Registry(reference) => reference.fmt(f),
            ImageName::Layout(layout) => layout.fmt(f),
        }
    }
}

impl From<Reference> for ImageName {
    fn from(reference: Reference) -> ImageName {
        ImageName::Registry(reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_reference_or_an_address_in_a_folder() {
        let name = |text: &str| text.parse::<ImageName>();
        assert_eq!(name("alpine").map(|n| n.to_string()).as_deref(), Ok("docker.io/library/alpine:latest"));
        assert_eq!(name("oci-layout://a/b:1").map(|n| n.to_string()).as_deref(), Ok("oci-layout://a/b:1"));
        assert!(name("oci-layout://").is_err());
        assert!(name("Upper").is_err());
    }

    #[test]
    fn names_are_of_one_place_whatever_their_tag() {
        let beside = |a: &str, b: &str| {
            let name = |text: &str| text.parse::<ImageName>().unwrap_or_else(|e| panic!("{e}"));
            name(a).is_beside(&name(b))
        };
        assert!(beside("alpine:1", "alpine:2"));
        assert!(beside("oci-layout://a:1", "oci-layout://a"));
        assert!(!beside("oci-layout://a", "oci-layout://b"));
        assert!(!beside("alpine", "oci-layout://alpine"));
    }
}
