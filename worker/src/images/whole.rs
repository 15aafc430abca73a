//! Images that move as they are: their documents byte for byte, and their blobs, without unpacking any.
//! It does not know where they go.

use super::{Images, choose, document_error};
use crate::WorkerError;
use crate::export::{Documents, Release};
use crate::image_name::ImageName;
use crate::incoming::ArchiveFlaw;
use crate::layer::{Layer, Origin, Stack};
use kiln_oci::{DOCUMENT_BYTES_MAX, Descriptor, DiffId, Digest, Document, ImageConfig, Manifest, Platform};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where the documents and blobs of an image are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// At a registry or in a folder; what the store has is taken from there.
    Image(ImageName),
    /// In the store, where an archive of this name brought them.
    Archive(String),
}

impl Source {
    fn name(&self) -> String {
        match self {
            Source::Image(name) => name.to_string(),
            Source::Archive(name) => name.clone(),
        }
    }
}

impl Images<'_> {
    /// The document that a source's name stands for: at its registry now, or in its folder.
    pub fn top(&self, name: &ImageName, platform: &Platform) -> Result<(Descriptor, Vec<u8>), WorkerError> {
        match name {
            ImageName::Layout(layout) => self.document_of_layout(layout, platform),
            ImageName::Registry(reference) => {
                self.may_ask(name)?;
                let (descriptor, bytes) = self.network(self.client.manifest(reference))?;
                Document::parse(&bytes, &descriptor.media_type).map_err(|e| document_error(name, e))?;
                Ok((descriptor, bytes))
            }
        }
    }

    /// What a document stands for, with all documents below it: all of an index, or its image for a platform.
    /// Its documents are in the store then, its layers not yet.
    pub fn release(
        &self,
        source: &Source,
        top: Descriptor,
        bytes: Vec<u8>,
        platform: Option<&Platform>,
    ) -> Result<Release, WorkerError> {
        self.store.content.put(&bytes)?;
        let name = source.name();
        let parsed = Document::parse(&bytes, &top.media_type)
            .map_err(|source| WorkerError::Document { reference: name, source })?;
        let index = match parsed {
            Document::Manifest(manifest) => {
                let top = Descriptor { size: bytes.len() as u64, ..top };
                return Ok(Release::One(Box::new(self.documents_at(source, &top, *manifest, bytes)?)));
            }
            Document::Index(index) => index,
        };
        if let Some(platform) = platform {
            let chosen = choose(&source.name(), platform, &index.manifests)?;
            return Ok(Release::One(Box::new(self.listed(source, &chosen)?)));
        }
        let images = index.manifests.iter().map(|listed| self.listed(source, listed));
        let images = images.collect::<Result<Vec<_>, _>>()?;
        let descriptor = Box::new(Descriptor::of(top.media_type, &bytes));
        Ok(Release::Several { images, index: bytes, descriptor })
    }

    /// What an index lists, which must be a manifest.
    fn listed(&self, source: &Source, listed: &Descriptor) -> Result<Documents, WorkerError> {
        let (descriptor, bytes) = match source {
            Source::Image(name) => {
                self.fetched_document(&name.with_digest(listed.digest), &listed.media_type)?
            }
            Source::Archive(archive) => {
                let bytes = self.in_store(archive, &listed.digest)?;
                (Descriptor::of(listed.media_type.clone(), &bytes), bytes)
            }
        };
        self.store.content.put(&bytes)?;
        let unusable = |error| WorkerError::Document { reference: source.name(), source: error };
        match Document::parse(&bytes, &descriptor.media_type).map_err(unusable)? {
            Document::Manifest(manifest) => self.documents_at(source, &descriptor, *manifest, bytes),
            Document::Index(_) => Err(WorkerError::Unsupported("an index in an index".to_owned())),
        }
    }

    fn documents_at(
        &self,
        source: &Source,
        top: &Descriptor,
        manifest: Manifest,
        bytes: Vec<u8>,
    ) -> Result<Documents, WorkerError> {
        let config = match source {
            Source::Image(name) => self.small_blob(name, &manifest.config)?,
            Source::Archive(archive) => self.in_store(archive, &manifest.config.digest)?,
        };
        // What is no image but rides along with one has no layers that could be unpacked.
        let diff_ids = serde_json::from_slice(&config).map(|config: ImageConfig| config.rootfs.diff_ids);
        let manifest = Manifest { media_type: Some(top.media_type.clone()), ..manifest };
        let diff_ids = diff_ids.unwrap_or_default();
        Ok(Documents { manifest, manifest_bytes: bytes, diff_ids, annotations: BTreeMap::new() })
    }

    /// A small blob that an archive must have brought.
    pub fn in_store(&self, archive: &str, digest: &Digest) -> Result<Vec<u8>, WorkerError> {
        self.store.content.read(digest, DOCUMENT_BYTES_MAX).map_err(|error| match error {
            kiln_oci::LayoutError::Missing(digest) => {
                let (archive, flaw) = (archive.to_owned(), ArchiveFlaw::Missing(digest.to_string()));
                WorkerError::Archive { archive, flaw }
            }
            other => other.into(),
        })
    }

    /// Sees to it that a blob is in the store, verified.
    pub fn bring(&self, source: &Source, blob: &Descriptor) -> Result<(), WorkerError> {
        if self.store.content.has(blob) {
            return Ok(());
        }
        match source {
            Source::Image(name) => self.fetch(&Origin::Image(name.clone()), blob, None),
            Source::Archive(archive) => {
                let (archive, flaw) = (archive.clone(), ArchiveFlaw::Missing(blob.digest.to_string()));
                Err(WorkerError::Archive { archive, flaw })
            }
        }
    }

    /// The layers of an image whose blobs are here, which are remembered as what it came as.
    pub fn stack_here(&self, documents: &Documents, name: &ImageName) -> Result<Stack, WorkerError> {
        let (layers, diff_ids) = (&documents.manifest.layers, &documents.diff_ids);
        if layers.len() != diff_ids.len() {
            let (layers, diff_ids) = (layers.len(), diff_ids.len());
            return Err(WorkerError::LayerCount { reference: name.to_string(), layers, diff_ids });
        }
        let layer = |(diff_id, blob): (&DiffId, &Descriptor)| {
            Arc::new(Layer::of_image(*diff_id, Some(blob.clone()), Some(name.clone())))
        };
        Ok(diff_ids.iter().zip(layers).map(layer).collect())
    }
}
