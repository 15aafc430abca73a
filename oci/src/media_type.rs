//! Media types of manifests, configs and layers, in their OCI and Docker spellings.
//! It does not know how any of them is read.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A media type of the OCI image specification or of Docker's schema 2.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MediaType {
    /// An OCI image index.
    OciIndex,
    /// An OCI image manifest.
    OciManifest,
    /// An OCI image config.
    OciConfig,
    /// An OCI layer, not compressed.
    OciLayer,
    /// An OCI layer in gzip.
    OciLayerGzip,
    /// An OCI layer in zstd.
    OciLayerZstd,
    /// Docker's manifest list.
    DockerManifestList,
    /// Docker's manifest, schema 2.
    DockerManifest,
    /// Docker's image config.
    DockerConfig,
    /// A Docker layer, not compressed.
    DockerLayer,
    /// A Docker layer in gzip.
    DockerLayerGzip,
    /// A Docker layer in zstd.
    DockerLayerZstd,
    /// Any other.
    Other(String),
}

const SPELLINGS: [(MediaType, &str); 12] = [
    (MediaType::OciIndex, "application/vnd.oci.image.index.v1+json"),
    (MediaType::OciManifest, "application/vnd.oci.image.manifest.v1+json"),
    (MediaType::OciConfig, "application/vnd.oci.image.config.v1+json"),
    (MediaType::OciLayer, "application/vnd.oci.image.layer.v1.tar"),
    (MediaType::OciLayerGzip, "application/vnd.oci.image.layer.v1.tar+gzip"),
    (MediaType::OciLayerZstd, "application/vnd.oci.image.layer.v1.tar+zstd"),
    (MediaType::DockerManifestList, "application/vnd.docker.distribution.manifest.list.v2+json"),
    (MediaType::DockerManifest, "application/vnd.docker.distribution.manifest.v2+json"),
    (MediaType::DockerConfig, "application/vnd.docker.container.image.v1+json"),
    (MediaType::DockerLayer, "application/vnd.docker.image.rootfs.diff.tar"),
    (MediaType::DockerLayerGzip, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    (MediaType::DockerLayerZstd, "application/vnd.docker.image.rootfs.diff.tar.zstd"),
];

impl MediaType {
    /// Its spelling on the wire.
    pub fn as_str(&self) -> &str {
        if let MediaType::Other(text) = self {
            return text;
        }
        SPELLINGS.iter().find(|(kind, _)| kind == self).map_or("", |(_, text)| text)
    }

    /// The media type that `text` spells; parameters after a semicolon are dropped.
    pub fn parse(text: &str) -> MediaType {
        let text = text.split(';').next().unwrap_or_default().trim();
        SPELLINGS
            .iter()
            .find(|(_, spelling)| *spelling == text)
            .map_or_else(|| MediaType::Other(text.to_owned()), |(kind, _)| kind.clone())
    }

    /// Whether it lists manifests.
    pub fn is_index(&self) -> bool {
        matches!(self, MediaType::OciIndex | MediaType::DockerManifestList)
    }

    /// Whether it is a manifest of one image.
    pub fn is_manifest(&self) -> bool {
        matches!(self, MediaType::OciManifest | MediaType::DockerManifest)
    }

    /// Whether it is a layer that can be unpacked.
    pub fn is_layer(&self) -> bool {
        matches!(
            self,
            MediaType::OciLayer
                | MediaType::OciLayerGzip
                | MediaType::OciLayerZstd
                | MediaType::DockerLayer
                | MediaType::DockerLayerGzip
                | MediaType::DockerLayerZstd
        )
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MediaType, D::Error> {
        Ok(MediaType::parse(&String::deserialize(deserializer)?))
    }
}
