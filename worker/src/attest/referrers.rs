//! Artifacts that refer to an image, at registries: those that list referrers themselves, and those for which
//! whoever pushes keeps a list under a tag (distribution specification 1.1, "Referrers Tag Schema"). It does not
//! know what the artifacts are.

use crate::WorkerError;
use crate::export::{Documents, Exporter, Release};
use kiln_oci::{Descriptor, Digest, Document, Index, MediaType, Reference};
use kiln_registry::RegistryError;
use std::collections::BTreeMap;

/// Pushes artifacts that refer to images which are there already.
pub(crate) fn push_referrers(
    exporter: &Exporter<'_>,
    name: &Reference,
    referrers: &[Documents],
) -> Result<(), WorkerError> {
    let mut of_images: BTreeMap<Digest, Vec<Descriptor>> = BTreeMap::new();
    for artifact in referrers {
        let Some(subject) = &artifact.manifest.subject else { continue };
        let descriptor = listed(artifact);
        let release = Release::One(Box::new(artifact.clone()));
        exporter.push(&release, &name.with_digest(descriptor.digest), &[])?;
        of_images.entry(subject.digest).or_default().push(descriptor);
    }
    for (image, artifacts) in of_images {
        let images = exporter.images;
        images.may_ask(name)?;
        if !images.network(images.client.lists_referrers(name, &image))? {
            add_to_list(exporter, name, &image, artifacts)?;
        }
    }
    Ok(())
}

/// What a list says of an artifact.
pub(crate) fn listed(artifact: &Documents) -> Descriptor {
    Descriptor { artifact_type: artifact.manifest.artifact_type.clone(), ..artifact.descriptor() }
}

/// Adds to the list under an image's tag.
fn add_to_list(
    exporter: &Exporter<'_>,
    name: &Reference,
    image: &Digest,
    artifacts: Vec<Descriptor>,
) -> Result<(), WorkerError> {
    let Ok(tag) = name.with_tag(&format!("sha256-{}", image.hex())) else {
        return Err(WorkerError::Unsupported(format!("a list of what refers to {name}")));
    };
    let images = exporter.images;
    let mut list = match images.network(images.client.manifest_at_origin(&tag)) {
        Ok((descriptor, bytes)) => match Document::parse(&bytes, &descriptor.media_type) {
            Ok(Document::Index(index)) => index,
            Ok(Document::Manifest(_)) => {
                return Err(WorkerError::Unsupported(format!("{tag}, which should be a list, as an image")));
            }
            Err(source) => return Err(WorkerError::Document { reference: tag.to_string(), source }),
        },
        Err(WorkerError::Registry(RegistryError::NotFound { .. })) => Index {
            schema_version: 2,
            media_type: Some(MediaType::OciIndex),
            manifests: Vec::new(),
            annotations: BTreeMap::new(),
        },
        Err(error) => return Err(error),
    };
    let known = list.manifests.len();
    for artifact in artifacts {
        if !list.manifests.iter().any(|known| known.digest == artifact.digest) {
            list.manifests.push(artifact);
        }
    }
    if list.manifests.len() == known {
        return Ok(());
    }
    let bytes = serde_json::to_vec(&list).unwrap_or_default();
    images.may_ask(name)?;
    images.network(images.client.push_manifest(&tag, &MediaType::OciIndex, &bytes)).map(drop)
}
