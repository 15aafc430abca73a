//! Manifests and indexes, and the strict reading of either. It does not know where they come from.

use crate::{Descriptor, MediaType};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A manifest, an index or a config that is larger is refused: 4 MiB.
pub const DOCUMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// An image with more layers is refused.
const LAYERS_MAX: usize = 1000;
/// An index with more manifests is refused.
const MANIFESTS_MAX: usize = 1000;

/// The manifest of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Its own type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The type of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers, from the lowest up.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// What this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A list of manifests, one for each platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Its own type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The manifests.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A document that a registry or a layout gives for a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// The manifest of one image.
    Manifest(Box<Manifest>),
    /// A list of manifests.
    Index(Index),
}

/// A document that is neither a manifest nor an index that can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// No JSON, or not of the right shape.
    #[error("the document is not a valid {kind}: {source}")]
    Json {
        /// What it should be.
        kind: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It has the fields of both, so that two readers could understand two things.
    #[error("the document is ambiguous: it has the fields of a manifest and of an index")]
    Ambiguous,
    /// Its own media type is not the one it was served with.
    #[error("the document says that it is `{own}` but was served as `{served}`")]
    MediaType {
        /// What it says of itself.
        own: MediaType,
        /// What it was served as.
        served: MediaType,
    },
    /// Schema 1, or something that is no image at all.
    #[error("the document is of the type `{0}`, which is not an image that kiln can read")]
    Unsupported(MediaType),
    /// Too many entries.
    #[error("the document lists {count} entries, more than the {max} that kiln accepts")]
    TooMany {
        /// How many it has.
        count: usize,
        /// How many are accepted.
        max: usize,
    },
}

impl Document {
    /// Reads `bytes` that were served as `served`. Strict: what is ambiguous is refused.
    pub fn parse(bytes: &[u8], served: &MediaType) -> Result<Document, DocumentError> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|source| DocumentError::Json { kind: "manifest", source })?;
        let has = |key: &str| value.get(key).is_some_and(|v| !v.is_null());
        if has("manifests") && (has("layers") || has("config")) || has("fsLayers") && has("layers") {
            return Err(DocumentError::Ambiguous);
        }
        let own = value.get("mediaType").and_then(Value::as_str).map(MediaType::parse);
        let kind = match (&own, served) {
            (Some(own), served) if (served.is_index() || served.is_manifest()) && own != served => {
                return Err(DocumentError::MediaType { own: own.clone(), served: served.clone() });
            }
            (Some(own), _) => own.clone(),
            (None, served) if served.is_index() || served.is_manifest() => served.clone(),
            (None, _) if has("manifests") => MediaType::OciIndex,
            (None, _) if has("layers") => MediaType::OciManifest,
            (None, served) => served.clone(),
        };
        if kind.is_index() {
            let index: Index = serde_json::from_value(value)
                .map_err(|source| DocumentError::Json { kind: "index", source })?;
            limited(index.manifests.len(), MANIFESTS_MAX)?;
            return Ok(Document::Index(index));
        }
        if kind.is_manifest() {
            let manifest: Manifest = serde_json::from_value(value)
                .map_err(|source| DocumentError::Json { kind: "manifest", source })?;
            limited(manifest.layers.len(), LAYERS_MAX)?;
            return Ok(Document::Manifest(Box::new(manifest)));
        }
        Err(DocumentError::Unsupported(kind))
    }
}

fn limited(count: usize, max: usize) -> Result<(), DocumentError> {
    if count > max { Err(DocumentError::TooMany { count, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":2}"#;

    #[test]
    fn a_document_of_two_minds_is_refused() {
        let text = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"manifests":[]}}"#);
        assert!(matches!(
            Document::parse(text.as_bytes(), &MediaType::OciManifest),
            Err(DocumentError::Ambiguous)
        ));
    }

    #[test]
    fn a_document_must_be_what_it_was_served_as() {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{CONFIG},"layers":[]}}"#,
            MediaType::DockerManifest
        );
        assert!(matches!(
            Document::parse(text.as_bytes(), &MediaType::OciManifest),
            Err(DocumentError::MediaType { .. })
        ));
        assert!(matches!(
            Document::parse(text.as_bytes(), &MediaType::DockerManifest),
            Ok(Document::Manifest(_))
        ));
    }

    #[test]
    fn a_negative_size_or_a_path_for_a_digest_is_refused() {
        for (from, to) in [("\"size\":2", "\"size\":-5"), ("sha256:00", "sha256:../../")] {
            let text = format!(r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#, CONFIG.replace(from, to));
            assert!(Document::parse(text.as_bytes(), &MediaType::OciManifest).is_err(), "{text}");
        }
    }
}
