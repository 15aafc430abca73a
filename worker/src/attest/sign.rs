//! Signatures as cosign keeps them (cosign, `specs/SIGNATURE_SPEC.md`): beside the image, under a tag made of its
//! digest, an image whose layers are what was signed. It does not know who trusts them.

use super::key::SigningKey;
use crate::WorkerError;
use crate::export::{Documents, Exporter, Release};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kiln_oci::{DEFAULT_REGISTRY, Descriptor, DiffId, Digest, ImageConfig, Manifest, MediaType, Reference};
use kiln_registry::RegistryError;
use serde_json::json;
use std::collections::BTreeMap;

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// More signatures of one image are not kept, so that nobody has to read without end.
const SIGNATURES_MAX: usize = 500;

/// Signs what a name stands for and pushes the signature, unless there is one by this key.
pub(crate) fn push_signature(
    exporter: &Exporter<'_>,
    name: &Reference,
    digest: &Digest,
    key: &SigningKey,
) -> Result<(), WorkerError> {
    let tag = name.with_tag(&format!("sha256-{}.sig", digest.hex()));
    let Ok(tag) = tag else { return Err(WorkerError::Unsupported(format!("a signature of {name}"))) };
    let payload = payload(name, digest);
    let mut layers = signatures_at(exporter, &tag)?;
    let blob = Descriptor::of(MediaType::parse(PAYLOAD), &payload);
    let is_ours = |layer: &Descriptor| {
        let signature = layer.annotations.get(SIGNATURE).and_then(|text| BASE64_STANDARD.decode(text).ok());
        layer.digest == blob.digest && signature.is_some_and(|signature| key.has_signed(&payload, &signature))
    };
    if layers.iter().any(is_ours) {
        return Ok(());
    }
    if layers.len() >= SIGNATURES_MAX {
        return Err(WorkerError::Unsupported(format!("more than {SIGNATURES_MAX} signatures of {name}")));
    }
    let signature = BASE64_STANDARD.encode(key.sign(&payload)?);
    layers.push(Descriptor { annotations: [(SIGNATURE.to_owned(), signature)].into(), ..blob });
    exporter.store.content.put(&payload)?;
    let release = Release::One(Box::new(signed(exporter, layers)?));
    exporter.push(&release, &tag, &[]).map(drop)
}

/// What is signed: which image, and what its signer calls it.
fn payload(name: &Reference, digest: &Digest) -> Vec<u8> {
    // As cosign calls Docker's own registry.
    let registry = if name.registry() == DEFAULT_REGISTRY { "index.docker.io" } else { name.registry() };
    let said = json!({
        "critical": {
            "identity": {"docker-reference": format!("{registry}/{}", name.repository())},
            "image": {"docker-manifest-digest": digest.to_string()},
            "type": "cosign container image signature",
        },
        "optional": null,
    });
    said.to_string().into_bytes()
}

/// The signatures that are there already.
fn signatures_at(exporter: &Exporter<'_>, tag: &Reference) -> Result<Vec<Descriptor>, WorkerError> {
    let images = exporter.images;
    images.may_ask(tag)?;
    match images.network(images.client.manifest_at_origin(tag)) {
        Ok((_, bytes)) => {
            let manifest: Manifest = serde_json::from_slice(&bytes)
                .map_err(|source| WorkerError::Config { reference: tag.to_string(), source })?;
            Ok(manifest.layers)
        }
        Err(WorkerError::Registry(RegistryError::NotFound { .. })) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn signed(exporter: &Exporter<'_>, layers: Vec<Descriptor>) -> Result<Documents, WorkerError> {
    let mut config = ImageConfig::default();
    config.rootfs.diff_ids = layers.iter().map(|layer| DiffId(layer.digest)).collect();
    let config = crate::export::config_bytes(&config);
    exporter.store.content.put(&config)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OciManifest),
        artifact_type: None,
        config: Descriptor::of(MediaType::OciConfig, &config),
        layers,
        subject: None,
        annotations: BTreeMap::new(),
    };
    let manifest_bytes = serde_json::to_vec(&manifest).unwrap_or_default();
    exporter.store.content.put(&manifest_bytes)?;
    Ok(Documents { manifest, manifest_bytes, diff_ids: Vec::new(), annotations: BTreeMap::new() })
}
