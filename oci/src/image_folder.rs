//! Images in a folder of the user's that has the OCI layout: found by tag or digest, their blobs read.
//! Nothing is written or locked there, and no byte is taken that has another digest than it should.
//! It does not know what is done with an image.

use crate::{DOCUMENT_BYTES_MAX, Descriptor, Digest, DigestError, Index};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What an address of an image in a folder begins with.
pub const LAYOUT_SCHEME: &str = "oci-layout://";
/// The tag of an address that has neither tag nor digest, if the folder has that tag.
const DEFAULT_TAG: &str = "latest";
/// The version of the layout that is read.
const VERSION: &str = "1.0.0";
/// The annotation that is an image's tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Opening a fifo must not wait for somebody to write into it.
const O_NONBLOCK: i32 = 0o4000;

/// The address of an image in a folder: `oci-layout://PATH[:TAG][@DIGEST]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayoutReference {
    /// The folder.
    pub path: String,
    /// The tag, if one was given.
    pub tag: Option<String>,
    /// The digest, if one was given; the tag then counts for nothing.
    pub digest: Option<Digest>,
}

/// A text that is no address of an image in a folder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutReferenceError {
    /// No folder is named.
    #[error("no folder is named: write oci-layout://PATH[:TAG][@DIGEST]")]
    NoPath,
    /// The digest is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl FromStr for LayoutReference {
    type Err = LayoutReferenceError;

    /// A path may have `@` and `:` in it: only what can be a digest, and a tag after the last slash, is
    /// taken off.
    fn from_str(text: &str) -> Result<LayoutReference, LayoutReferenceError> {
        let text = text.strip_prefix(LAYOUT_SCHEME).unwrap_or(text);
        let (rest, digest) = match text.rsplit_once('@') {
            Some((rest, digest)) if is_like_a_digest(digest) => (rest, Some(digest)),
            _ => (text, None),
        };
        let digest = digest.map(str::parse).transpose()?;
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.is_empty() && !tag.contains('/') => (path, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if path.is_empty() {
            return Err(LayoutReferenceError::NoPath);
        }
        Ok(LayoutReference { path: path.to_owned(), tag, digest })
    }
}

/// Whether a text is meant to be a digest, and is no part of a path.
fn is_like_a_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, rest)| algorithm.starts_with("sha") && !rest.contains('/'))
}

impl fmt::Display for LayoutReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{LAYOUT_SCHEME}{}", self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |d| write!(f, "@{d}"))
    }
}

/// A folder of the OCI layout.
#[derive(Debug)]
pub struct ImageFolder {
    folder: PathBuf,
    index: Index,
}

/// What can go wrong with a folder of images.
#[derive(Debug, thiserror::Error)]
pub enum ImageFolderError {
    /// It is none.
    #[error("{folder} is no OCI layout: {reason}")]
    NotALayout {
        /// The folder.
        folder: PathBuf,
        /// Why it is none.
        reason: String,
    },
    /// It has no image of that tag.
    #[error("the OCI layout {folder} has no tag `{tag}`; {}", there(.has))]
    Tag {
        /// The folder.
        folder: PathBuf,
        /// The tag that was asked for.
        tag: String,
        /// The tags that it has.
        has: Vec<String>,
    },
    /// It has several images, and none was asked for.
    #[error("the OCI layout {folder} has several images, and no tag was given; {}", there(.has))]
    Several {
        /// The folder.
        folder: PathBuf,
        /// The tags that it has.
        has: Vec<String>,
    },
    /// A blob is not there.
    #[error("the OCI layout {folder} has no blob {digest}")]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The blob.
        digest: Digest,
    },
    /// A blob has other bytes than its digest says.
    #[error("in the OCI layout {folder} the blob {digest} has the wrong content: its digest is {got}")]
    Mismatch {
        /// The folder.
        folder: PathBuf,
        /// The digest that it should have.
        digest: Digest,
        /// The digest that it has.
        got: Digest,
    },
    /// A file could not be read.
    #[error("{path} could not be read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl ImageFolder {
    /// Opens a folder, and reads what images it has.
    pub fn open(folder: &Path) -> Result<ImageFolder, ImageFolderError> {
        let none = |reason: String| ImageFolderError::NotALayout { folder: folder.to_owned(), reason };
        match std::fs::metadata(folder) {
            Ok(stat) if stat.is_dir() => {}
            Ok(_) => return Err(none("it is not a folder".to_owned())),
            Err(e) => return Err(none(e.to_string())),
        }
        let document = |name: &str| -> Result<Vec<u8>, ImageFolderError> {
            let read = open_regular(&folder.join(name)).and_then(|file| limited(file, DOCUMENT_BYTES_MAX));
            read.map_err(|e| none(format!("its file {name} could not be read: {e}")))
        };
        let marker: serde_json::Value = serde_json::from_slice(&document("oci-layout")?)
            .map_err(|e| none(format!("its file oci-layout is not valid: {e}")))?;
        let version = marker.get("imageLayoutVersion").and_then(|v| v.as_str()).unwrap_or_default();
        if version != VERSION {
            return Err(none(format!("it has the version \"{version}\", and only {VERSION} can be read")));
        }
        let index = serde_json::from_slice(&document("index.json")?)
            .map_err(|e| none(format!("its file index.json is not valid: {e}")))?;
        Ok(ImageFolder { folder: folder.to_owned(), index })
    }

    /// Its images with a tag: one, or the same for several platforms. Without a tag it is `latest`, or all
    /// that there is if that can only be one image.
    pub fn find(&self, tag: Option<&str>) -> Result<Vec<Descriptor>, ImageFolderError> {
        let all = &self.index.manifests;
        let wanted = tag.unwrap_or(DEFAULT_TAG);
        let tagged: Vec<Descriptor> = all.iter().filter(|d| tag_of(d) == Some(wanted)).cloned().collect();
        if !tagged.is_empty() {
            return Ok(tagged);
        }
        let nameless = all.iter().all(|d| tag_of(d).is_none());
        if !all.is_empty() && (nameless || tag.is_none() && all.len() == 1) {
            return Ok(all.clone());
        }
        let (folder, has) = (self.folder.clone(), self.tags());
        Err(match tag {
            None if !all.is_empty() => ImageFolderError::Several { folder, has },
            _ => ImageFolderError::Tag { folder, tag: wanted.to_owned(), has },
        })
    }

    /// What it says of an image by its digest, if it is one of those that it lists.
    pub fn listed(&self, digest: &Digest) -> Option<&Descriptor> {
        self.index.manifests.iter().find(|d| d.digest == *digest)
    }

    /// Opens a blob. Whoever reads it must look at its digest.
    pub fn blob(&self, digest: &Digest) -> Result<File, ImageFolderError> {
        let path = self.path_of(digest);
        open_regular(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => self.missing(digest),
            _ => ImageFolderError::Io { path, source },
        })
    }

    /// Reads a small blob whole, and checks its digest.
    pub fn read(&self, digest: &Digest, max_bytes: u64) -> Result<Vec<u8>, ImageFolderError> {
        let file = self.blob(digest)?;
        let bytes = limited(file, max_bytes)
            .map_err(|source| ImageFolderError::Io { path: self.path_of(digest), source })?;
        match Digest::of(&bytes) {
            got if got == *digest => Ok(bytes),
            got => Err(self.mismatch(digest, got)),
        }
    }

    /// Where a blob is.
    pub fn path_of(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    /// That a blob has the wrong bytes.
    pub fn mismatch(&self, digest: &Digest, got: Digest) -> ImageFolderError {
        ImageFolderError::Mismatch { folder: self.folder.clone(), digest: *digest, got }
    }

    fn missing(&self, digest: &Digest) -> ImageFolderError {
        ImageFolderError::Missing { folder: self.folder.clone(), digest: *digest }
    }

    fn tags(&self) -> Vec<String> {
        let mut tags: Vec<String> =
            self.index.manifests.iter().filter_map(tag_of).map(str::to_owned).collect();
        tags.sort_unstable();
        tags.dedup();
        tags
    }
}

fn tag_of(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations.get(REF_NAME).map(String::as_str)
}

fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

fn limited(file: File, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::other(format!("it is larger than {max_bytes} bytes")));
    }
    Ok(bytes)
}

fn there(tags: &[String]) -> String {
    const SHOWN: usize = 20;
    match tags {
        [] => "it names no tags".to_owned(),
        tags => format!("it has {}", tags[..tags.len().min(SHOWN)].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MediaType;
    use std::collections::BTreeMap;

    /// A layout with these images: tag and content of the manifest each.
    fn layout(images: &[(Option<&str>, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap_or(folder.path()))
                .and_then(|()| std::fs::write(&path, bytes))
                .unwrap_or_else(|e| panic!("{e}"));
        };
        put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        let manifests = images.iter().map(|(tag, bytes)| {
            let descriptor = Descriptor::of(MediaType::OciManifest, bytes);
            put(&format!("blobs/sha256/{}", descriptor.digest.hex()), bytes);
            let tag = tag.map(|tag| (REF_NAME.to_owned(), tag.to_owned()));
            Descriptor { annotations: tag.into_iter().collect(), ..descriptor }
        });
        let index = Index {
            schema_version: 2,
            media_type: None,
            manifests: manifests.collect(),
            annotations: BTreeMap::new(),
        };
        put("index.json", &serde_json::to_vec(&index).unwrap_or_default());
        folder
    }

    fn open(folder: &tempfile::TempDir) -> ImageFolder {
        ImageFolder::open(folder.path()).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn addresses_have_a_path_a_tag_and_a_digest() {
        let d = format!("sha256:{}", "0".repeat(64));
        for (text, path, tag, digest) in [
            ("oci-layout:///a/b".to_owned(), "/a/b", None, false),
            ("oci-layout://../x:1.0".to_owned(), "../x", Some("1.0"), false),
            (format!("oci-layout:///a:t@{d}"), "/a", Some("t"), true),
            (format!("oci-layout:///a@{d}"), "/a", None, true),
            ("oci-layout:///user@host/c:d/e".to_owned(), "/user@host/c:d/e", None, false),
            ("oci-layout:///user@host:1".to_owned(), "/user@host", Some("1"), false),
        ] {
            let read: LayoutReference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((read.path.as_str(), read.tag.as_deref()), (path, tag), "{text}");
            assert_eq!(read.digest.is_some(), digest, "{text}");
            assert_eq!(read.to_string(), text);
        }
        assert_eq!("oci-layout://".parse::<LayoutReference>(), Err(LayoutReferenceError::NoPath));
        assert_eq!("oci-layout://:1".parse::<LayoutReference>(), Err(LayoutReferenceError::NoPath));
        assert!("oci-layout:///a@sha256:12".parse::<LayoutReference>().is_err());
    }

    #[test]
    fn an_image_is_found_by_its_tag() {
        let folder = layout(&[(Some("latest"), b"one"), (Some("2"), b"two")]);
        let folder = open(&folder);
        let digest =
            |tag: Option<&str>| folder.find(tag).map(|found| found.iter().map(|d| d.digest).collect());
        assert_eq!(digest(None).ok(), Some(vec![Digest::of(b"one")]));
        assert_eq!(digest(Some("2")).ok(), Some(vec![Digest::of(b"two")]));
        let message = digest(Some("3")).map_err(|e: ImageFolderError| e.to_string());
        assert!(
            message.as_ref().is_err_and(|m| m.ends_with("has no tag `3`; it has 2, latest")),
            "{message:?}"
        );
    }

    #[test]
    fn without_a_tag_it_is_the_only_image() {
        let of = |images: &[(Option<&str>, &[u8])]| open(&layout(images)).find(None).map(|found| found.len());
        assert_eq!(of(&[(Some("1"), b"one")]).ok(), Some(1));
        assert_eq!(of(&[(None, b"for amd64"), (None, b"for arm64")]).ok(), Some(2));
        assert!(matches!(
            of(&[(Some("1"), b"one"), (Some("2"), b"two")]),
            Err(ImageFolderError::Several { .. })
        ));
        assert!(matches!(of(&[]), Err(ImageFolderError::Tag { .. })));
    }

    #[test]
    fn a_blob_with_wrong_bytes_or_none_is_refused() {
        let folder = layout(&[(None, b"one")]);
        let digest = Digest::of(b"one");
        assert_eq!(open(&folder).read(&digest, 10).ok().as_deref(), Some(&b"one"[..]));
        assert!(std::fs::write(open(&folder).path_of(&digest), "two").is_ok());
        assert!(matches!(open(&folder).read(&digest, 10), Err(ImageFolderError::Mismatch { .. })));
        assert!(std::fs::remove_file(open(&folder).path_of(&digest)).is_ok());
        assert!(matches!(open(&folder).blob(&digest), Err(ImageFolderError::Missing { .. })));
    }

    #[test]
    fn a_folder_that_is_no_layout_says_why() {
        let folder = layout(&[(None, b"one")]);
        let path = folder.path();
        let why = || match ImageFolder::open(path) {
            Err(ImageFolderError::NotALayout { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).is_ok());
        assert!(why().contains("2.0.0"), "{}", why());
        assert!(std::fs::remove_file(path.join("oci-layout")).is_ok());
        assert!(why().contains("oci-layout"), "{}", why());
        assert!(ImageFolder::open(&path.join("nowhere")).is_err());
    }
}
