//! Places that images are copied from and to, in skopeo's words. It does not know how one is copied.

use kiln_oci::{Reference, ReferenceError};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A place for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImagePlace {
    /// `[docker://]REFERENCE`
    Registry(Reference),
    /// `store:NAME`
    Store(Reference),
    /// `oci:FOLDER[:TAG]`
    Layout(PathBuf, Option<String>),
    /// `oci-archive:FILE[:TAG]`
    OciArchive(PathBuf, Option<String>),
    /// `docker-archive:FILE[:NAME]`
    DockerArchive(PathBuf, Option<String>),
}

/// A text that names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImagePlaceError {
    /// No reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// No path.
    #[error("no path is named: write {0}:PATH[:TAG]")]
    NoPath(&'static str),
    /// A transport that is not known.
    #[error(
        "there is no transport `{0}`; there are docker://, store:, oci:, oci-archive: and docker-archive:"
    )]
    Unknown(String),
}

/// The transports of skopeo and podman that are not there, whose names would pass for images.
const UNKNOWN: [&str; 6] = ["dir", "docker-daemon", "containers-storage", "ostree", "sif", "tarball"];

impl FromStr for ImagePlace {
    type Err = ImagePlaceError;

    /// A path ends at the first colon, as in skopeo: what follows is the tag, or a name that has one itself.
    fn from_str(text: &str) -> Result<ImagePlace, ImagePlaceError> {
        if let Some(reference) = text.strip_prefix("docker://") {
            return Ok(ImagePlace::Registry(reference.parse()?));
        }
        let Some((transport, rest)) = text.split_once(':') else {
            return Ok(ImagePlace::Registry(text.parse()?));
        };
        let path = |transport| match rest.split_once(':') {
            Some((path, tag)) if !path.is_empty() => {
                Ok((PathBuf::from(path), Some(tag.to_owned()).filter(|tag| !tag.is_empty())))
            }
            None if !rest.is_empty() => Ok((PathBuf::from(rest), None)),
            _ => Err(ImagePlaceError::NoPath(transport)),
        };
        match transport {
            "store" => Ok(ImagePlace::Store(rest.parse()?)),
            "oci" => path("oci").map(|(path, tag)| ImagePlace::Layout(path, tag)),
            "oci-archive" => path("oci-archive").map(|(path, tag)| ImagePlace::OciArchive(path, tag)),
            "docker-archive" => {
                path("docker-archive").map(|(path, tag)| ImagePlace::DockerArchive(path, tag))
            }
            other if UNKNOWN.contains(&other) => Err(ImagePlaceError::Unknown(other.to_owned())),
            _ => Ok(ImagePlace::Registry(text.parse()?)),
        }
    }
}

impl fmt::Display for ImagePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, tag) = match self {
            ImagePlace::Registry(reference) => return write!(f, "docker://{reference}"),
            ImagePlace::Store(reference) => return write!(f, "store:{}", reference.familiar()),
            ImagePlace::Layout(path, tag) => ("oci", path, tag),
            ImagePlace::OciArchive(path, tag) => ("oci-archive", path, tag),
            ImagePlace::DockerArchive(path, tag) => ("docker-archive", path, tag),
        };
        write!(f, "{transport}:{}", path.display())?;
        tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_skopeo_reads_them() {
        for (text, want) in [
            ("docker://busybox", "docker://docker.io/library/busybox:latest"),
            ("localhost:5000/a:1", "docker://localhost:5000/a:1"),
            ("app:1", "docker://docker.io/library/app:1"),
            ("store:app", "store:app:latest"),
            ("oci:/a/b", "oci:/a/b"),
            ("oci:a:1.0", "oci:a:1.0"),
            ("oci-archive:x.tar:host/app:1", "oci-archive:x.tar:host/app:1"),
            ("docker-archive:x.tar:app:1", "docker-archive:x.tar:app:1"),
        ] {
            let place = text.parse::<ImagePlace>();
            assert_eq!(place.map(|place| place.to_string()).as_deref(), Ok(want), "{text}");
        }
        assert_eq!("oci:".parse::<ImagePlace>(), Err(ImagePlaceError::NoPath("oci")));
        assert_eq!("dir:/x".parse::<ImagePlace>(), Err(ImagePlaceError::Unknown("dir".to_owned())));
        assert!("docker://Upper".parse::<ImagePlace>().is_err());
    }
}
