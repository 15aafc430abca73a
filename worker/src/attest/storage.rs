//! Attestations as manifests: in an image's index, as BuildKit keeps them, or as artifacts that refer to the
//! image (image specification 1.1, "Guidelines for Artifact Usage"). It does not know what is attested.
//!
//! ```text
//! index ─┬─ linux/amd64       image manifest
//!        └─ unknown/unknown   attestation manifest; annotations vnd.docker.reference.{type,digest}
//!                               └─ layers: application/vnd.in-toto+json, one for each statement
//! ```

use super::statement::Statement;
use crate::WorkerError;
use crate::export::Documents;
use crate::layer_form::Spelling;
use crate::store::Store;
use kiln_oci::{Descriptor, DiffId, ImageConfig, Manifest, MediaType, Platform};
use std::collections::BTreeMap;

const STATEMENT: &str = "application/vnd.in-toto+json";
const ATTESTATION: &str = "application/vnd.docker.attestation.manifest.v1+json";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";

/// The platform that nothing is for.
pub(crate) fn no_platform() -> Platform {
    Platform::new("unknown", "unknown", None)
}

/// The attestation manifest of an image, for its index. As an artifact it names the image as its subject, else
/// it looks like an image.
pub(super) fn in_index(
    store: &Store,
    image: &Documents,
    statements: &[Statement],
    spelling: Spelling,
    as_artifact: bool,
) -> Result<Documents, WorkerError> {
    let layers = blobs(store, statements)?;
    let image = image.descriptor();
    let manifest = match as_artifact {
        true => artifact(store, &image, ATTESTATION, layers)?,
        false => {
            let platform = no_platform();
            let mut config = ImageConfig {
                architecture: platform.architecture,
                os: platform.os,
                ..ImageConfig::default()
            };
            config.rootfs.diff_ids = layers.iter().map(|layer| DiffId(layer.digest)).collect();
            let config = crate::export::config_bytes(&config);
            store.content.put(&config)?;
            Manifest {
                schema_version: 2,
                media_type: Some(spelling.manifest()),
                artifact_type: None,
                config: Descriptor::of(spelling.config(), &config),
                layers,
                subject: None,
                annotations: BTreeMap::new(),
            }
        }
    };
    let annotations = [
        (REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned()),
        (REFERENCE_DIGEST.to_owned(), image.digest.to_string()),
    ];
    documents(store, manifest, annotations.into())
}

/// The artifacts that refer to an image, one for each statement.
pub(super) fn referrers(
    store: &Store,
    image: &Documents,
    statements: &[Statement],
) -> Result<Vec<Documents>, WorkerError> {
    let image = image.descriptor();
    let one = |statement: &Statement| {
        let layers = blobs(store, std::slice::from_ref(statement))?;
        let mut manifest = artifact(store, &image, STATEMENT, layers)?;
        let kind = (PREDICATE_TYPE.to_owned(), statement.predicate.kind().to_owned());
        manifest.annotations.extend([kind]);
        let annotations = manifest.annotations.clone();
        documents(store, manifest, annotations)
    };
    statements.iter().map(one).collect()
}

/// The statements as blobs.
fn blobs(store: &Store, statements: &[Statement]) -> Result<Vec<Descriptor>, WorkerError> {
    let blob = |statement: &Statement| {
        store.content.put(&statement.bytes)?;
        let mut blob = Descriptor::of(MediaType::parse(STATEMENT), &statement.bytes);
        blob.annotations.insert(PREDICATE_TYPE.to_owned(), statement.predicate.kind().to_owned());
        Ok(blob)
    };
    statements.iter().map(blob).collect()
}

fn artifact(
    store: &Store,
    subject: &Descriptor,
    kind: &str,
    layers: Vec<Descriptor>,
) -> Result<Manifest, WorkerError> {
    store.content.put(EMPTY)?;
    Ok(Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OciManifest),
        artifact_type: Some(kind.to_owned()),
        config: Descriptor::of(MediaType::parse(EMPTY_TYPE), EMPTY),
        layers,
        subject: Some(Descriptor::new(subject.media_type.clone(), subject.digest, subject.size)),
        annotations: BTreeMap::new(),
    })
}

fn documents(
    store: &Store,
    manifest: Manifest,
    annotations: BTreeMap<String, String>,
) -> Result<Documents, WorkerError> {
    let manifest_bytes = serde_json::to_vec(&manifest).unwrap_or_default();
    store.content.put(&manifest_bytes)?;
    Ok(Documents { manifest, manifest_bytes, diff_ids: Vec::new(), annotations })
}
