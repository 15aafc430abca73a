//! How a result is written where it leaves: its layers' compression and level, and whose media types are
//! used. It does not know any layer.

use crate::estargz;
use kiln_oci::{Descriptor, MediaType};
use kiln_snapshotter::compress::Compression;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// How a layer's blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compress {
    /// Not at all.
    None,
    /// gzip: what everything can read.
    #[default]
    Gzip,
    /// Zstandard.
    Zstd,
    /// gzip in the form of eStargz, in which each file can be had by itself.
    Estargz,
}

/// How the layers of a result become blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LayerForm {
    /// How those are compressed that are made here.
    pub compress: Compress,
    /// How hard: one of [`Compress::levels`], or as hard as it is mostly worth.
    pub level: Option<u8>,
    /// Whether those that came in with another compression get this one too.
    pub force: bool,
}

/// Whose media types manifests, configs, layers and indexes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Spelling {
    /// Those of the OCI image specification.
    #[default]
    Oci,
    /// Those of Docker's schema 2.
    Docker,
}

impl Compress {
    /// The levels that can be asked for. Where nothing is compressed they all mean the same.
    pub fn levels(self) -> RangeInclusive<u8> {
        match self {
            Compress::Gzip | Compress::Estargz => 0..=9,
            Compress::Zstd | Compress::None => 0..=22,
        }
    }

    fn encoding(self) -> Compression {
        match self {
            Compress::None => Compression::None,
            Compress::Gzip | Compress::Estargz => Compression::Gzip,
            Compress::Zstd => Compression::Zstd,
        }
    }
}

impl LayerForm {
    /// What compresses.
    pub(crate) fn encoding(self) -> Compression {
        self.compress.encoding()
    }

    /// The level that the encoder works at. Those of zstd are in four classes, as BuildKit's encoder has
    /// no more.
    pub(crate) fn encoder_level(self) -> i32 {
        match (self.compress, self.level) {
            (Compress::None, _) | (_, None) => self.encoding().default_level(),
            (Compress::Gzip | Compress::Estargz, Some(level)) => i32::from(level),
            (Compress::Zstd, Some(level)) => match level {
                0..=2 => 1,
                3..=5 => 3,
                6..=9 => 7,
                _ => 11,
            },
        }
    }

    /// The name that a blob is remembered under: what makes its bytes is part of it.
    pub(crate) fn name(self) -> String {
        let version = match self.compress {
            Compress::Estargz => estargz::VERSION,
            _ => self.encoding().encoder_version(),
        };
        format!("{version} level {}", self.encoder_level())
    }

    /// The media type of a blob that is made so.
    pub(crate) fn media_type(self) -> MediaType {
        self.encoding().oci_layer().unwrap_or(MediaType::OciLayer)
    }

    /// Whether a blob that came in must be compressed anew. One that has the compression keeps its level.
    pub(crate) fn changes(self, blob: &Descriptor) -> bool {
        let lacks_toc =
            self.compress == Compress::Estargz && !blob.annotations.contains_key(estargz::TOC_DIGEST);
        self.force && (lacks_toc || Compression::of_layer(&blob.media_type) != Some(self.encoding()))
    }
}

impl Spelling {
    /// The media type of a manifest.
    pub(crate) fn manifest(self) -> MediaType {
        match self {
            Spelling::Oci => MediaType::OciManifest,
            Spelling::Docker => MediaType::DockerManifest,
        }
    }

    /// The media type of a config.
    pub(crate) fn config(self) -> MediaType {
        match self {
            Spelling::Oci => MediaType::OciConfig,
            Spelling::Docker => MediaType::DockerConfig,
        }
    }

    /// The media type of an index.
    pub(crate) fn index(self) -> MediaType {
        match self {
            Spelling::Oci => MediaType::OciIndex,
            Spelling::Docker => MediaType::DockerManifestList,
        }
    }

    /// What a manifest says of a layer's blob. Docker's knows no annotations.
    pub(crate) fn layer(self, blob: Descriptor) -> Descriptor {
        let compression = Compression::of_layer(&blob.media_type);
        let media_type = match self {
            Spelling::Oci => compression.and_then(Compression::oci_layer),
            Spelling::Docker => compression.and_then(Compression::docker_layer),
        };
        let annotations = match self {
            Spelling::Oci => blob.annotations,
            Spelling::Docker => BTreeMap::new(),
        };
        Descriptor { media_type: media_type.unwrap_or(blob.media_type), annotations, ..blob }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(compress: Compress, level: Option<u8>) -> LayerForm {
        LayerForm { compress, level, force: false }
    }

    #[test]
    fn levels_of_zstd_are_in_four_classes_and_those_of_gzip_are_its_own() {
        for (compress, level, expect) in [
            (Compress::Gzip, None, 3),
            (Compress::Gzip, Some(0), 0),
            (Compress::Gzip, Some(9), 9),
            (Compress::Zstd, None, 3),
            (Compress::Zstd, Some(0), 1),
            (Compress::Zstd, Some(5), 3),
            (Compress::Zstd, Some(9), 7),
            (Compress::Zstd, Some(22), 11),
            (Compress::None, Some(9), 0),
        ] {
            assert_eq!(form(compress, level).encoder_level(), expect, "{compress:?} {level:?}");
        }
    }

    #[test]
    fn the_default_level_when_asked_for_is_the_same_form() {
        assert_eq!(form(Compress::Gzip, Some(3)).name(), form(Compress::Gzip, None).name());
        assert_ne!(form(Compress::Gzip, Some(5)).name(), form(Compress::Gzip, None).name());
        assert_eq!(form(Compress::None, Some(5)).name(), form(Compress::None, None).name());
    }

    #[test]
    fn every_layer_has_a_spelling_on_both_sides() {
        let digest = kiln_oci::Digest::of(b"");
        for (oci, docker) in [
            (MediaType::OciLayer, MediaType::DockerLayer),
            (MediaType::OciLayerGzip, MediaType::DockerLayerGzip),
            (MediaType::OciLayerZstd, MediaType::DockerLayerZstd),
        ] {
            for from in [&oci, &docker] {
                let blob = Descriptor::new(from.clone(), digest, 0);
                assert_eq!(Spelling::Oci.layer(blob.clone()).media_type, oci);
                assert_eq!(Spelling::Docker.layer(blob).media_type, docker);
            }
        }
        let other = Descriptor::new(MediaType::parse("application/x"), digest, 0);
        assert_eq!(Spelling::Docker.layer(other.clone()), other);
    }

    #[test]
    fn only_force_changes_what_came_in_and_only_what_is_otherwise() {
        let gzip = Descriptor::new(MediaType::DockerLayerGzip, kiln_oci::Digest::of(b""), 0);
        let forced = |compress| LayerForm { compress, level: Some(9), force: true };
        assert!(forced(Compress::Zstd).changes(&gzip));
        assert!(forced(Compress::None).changes(&gzip));
        assert!(!forced(Compress::Gzip).changes(&gzip));
        assert!(!form(Compress::Zstd, None).changes(&gzip));
    }
}
