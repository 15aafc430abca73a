//! What is attested, as statements of in-toto. It does not know where they are kept.

use kiln_oci::Digest;
use serde_json::{Value, json};

/// What a statement says (in-toto's predicate types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Predicate {
    /// A bill of materials in SPDX.
    Sbom,
    /// Where the image comes from, in SLSA 1.0.
    Provenance,
}

impl Predicate {
    /// Its type's address.
    pub fn kind(self) -> &'static str {
        match self {
            Predicate::Sbom => "https://spdx.dev/Document",
            Predicate::Provenance => "https://slsa.dev/provenance/v1",
        }
    }
}

/// A statement about an image or about files.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// What it says.
    pub predicate: Predicate,
    /// How the file is called that it becomes beside files.
    pub file: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Statement {
    /// A statement of in-toto's first version about things by name and digest.
    pub fn new(predicate: Predicate, file: &str, subjects: &[(String, Digest)], body: &Value) -> Statement {
        let subject =
            |(name, digest): &(String, Digest)| json!({"name": name, "digest": {"sha256": digest.hex()}});
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": predicate.kind(),
            "subject": subjects.iter().map(subject).collect::<Vec<_>>(),
            "predicate": body,
        });
        let bytes = serde_json::to_vec_pretty(&statement).unwrap_or_default();
        Statement { predicate, file: file.to_owned(), bytes }
    }

    /// The name of its file, with what it begins with, and whose it is where several platforms' lie together.
    pub fn file_name(&self, prefix: &str, platform: Option<&str>) -> String {
        match (platform, self.file.rsplit_once('.')) {
            (None, _) => format!("{prefix}{}", self.file),
            (Some(platform), Some((stem, extension))) => format!("{prefix}{stem}.{platform}.{extension}"),
            (Some(platform), None) => format!("{prefix}{}.{platform}", self.file),
        }
    }
}
