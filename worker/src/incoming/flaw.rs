//! What can be wrong with an archive of images. It does not know where one comes from.

use kiln_oci::Digest;

/// Why an archive of images can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveFlaw {
    /// It is no tar, breaks off, or can't be decompressed.
    #[error("it can't be read: {0}")]
    Unreadable(String),
    /// There are no images in it.
    #[error("there are no images in it: it has neither index.json nor manifest.json")]
    NoImages,
    /// A path leads out of it.
    #[error("its member `{0}` leads out of it")]
    Outside(String),
    /// A device, a pipe, or a file with holes.
    #[error("its member `{0}` is no ordinary file")]
    Special(String),
    /// More members than are read.
    #[error("it has more than {0} members")]
    TooMany(usize),
    /// A document is too large.
    #[error("its member `{0}` is larger than a document may be")]
    TooLarge(String),
    /// A document is not valid.
    #[error("its member `{member}` is not valid: {reason}")]
    Json {
        /// The document.
        member: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that it names is not in it.
    #[error("{0} is named in it, but is not in it")]
    Missing(String),
    /// A member has other bytes than its name or the config says.
    #[error("its member `{member}` has the wrong content: its digest is {got}")]
    Content {
        /// The member.
        member: String,
        /// The digest that it has.
        got: Digest,
    },
    /// The image that was asked for is not in it.
    #[error("it has no image `{wanted}`; {}", there(.has))]
    NoSuch {
        /// What was asked for.
        wanted: String,
        /// What it has.
        has: Vec<String>,
    },
    /// It has several images, and none was asked for.
    #[error("it has several images, and none was asked for; {}", there(.has))]
    Several {
        /// What it has.
        has: Vec<String>,
    },
    /// An image in it has no name.
    #[error("an image in it has no name: give it one with --tag NAME")]
    NoName,
}

fn there(names: &[String]) -> String {
    const SHOWN: usize = 20;
    match names {
        [] => "it names none".to_owned(),
        names => format!("it has {}", names[..names.len().min(SHOWN)].join(", ")),
    }
}
