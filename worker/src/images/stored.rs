//! Images under the names of the store: one, or several of an index. It does not know how they came there.

use super::{Image, ImageLayer, Images, document_error, is_image};
use crate::WorkerError;
use crate::image_name::ImageName;
use crate::meta::ImageRow;
use kiln_oci::{DOCUMENT_BYTES_MAX, Descriptor, DiffId, Digest, Document, MediaType, Platform, Reference};

/// A name of the store, and what it stands for.
#[derive(Debug)]
pub struct NamedImages {
    /// The name.
    pub row: ImageRow,
    /// The images, each with its platform: one, or those of an index in its order.
    pub images: Vec<(Platform, Image)>,
    /// Why they can't be read, if so.
    pub flaw: Option<WorkerError>,
}

impl Images<'_> {
    /// What the store has under a name for a platform.
    pub(super) fn stored(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<Image>, WorkerError> {
        let Some(row) = self.store.meta.image(&reference.to_string())? else { return Ok(None) };
        let Some((digest, media_type)) = row.index() else {
            let image = self.of_store(reference, &row)?;
            return Ok(platform.rank(&image.config.platform()).map(|_| image));
        };
        let bytes = self.store.content.read(&digest, DOCUMENT_BYTES_MAX)?;
        let top = Descriptor::of(media_type.clone(), &bytes);
        match self.read_document(&reference.clone().into(), platform, top, &bytes) {
            Err(WorkerError::NoPlatform { .. }) => Ok(None),
            found => found.map(Some),
        }
    }

    /// What a name of the store stands for.
    pub fn named(&self, reference: &Reference, row: ImageRow) -> Result<NamedImages, WorkerError> {
        let images = match row.index() {
            Some((digest, media_type)) => self.of_index(reference, &digest, media_type)?,
            None => {
                let image = self.of_store(reference, &row)?;
                vec![(image.config.platform(), image)]
            }
        };
        Ok(NamedImages { row, images, flaw: None })
    }

    fn of_index(
        &self,
        reference: &Reference,
        digest: &Digest,
        media_type: &MediaType,
    ) -> Result<Vec<(Platform, Image)>, WorkerError> {
        let name = ImageName::Registry(reference.clone());
        let bytes = self.store.content.read(digest, DOCUMENT_BYTES_MAX)?;
        let parsed = Document::parse(&bytes, media_type).map_err(|e| document_error(&name, e))?;
        let manifests = match parsed {
            Document::Index(index) => index.manifests,
            Document::Manifest(_) => return Err(WorkerError::NoImage(name.to_string())),
        };
        let mut images = Vec::new();
        for manifest in manifests.into_iter().filter(is_image) {
            let bytes = self.store.content.read(&manifest.digest, DOCUMENT_BYTES_MAX)?;
            let platform = manifest.platform.clone();
            let image = self.read_document(&name, &Platform::host(), manifest, &bytes)?;
            images.push((platform.unwrap_or_else(|| image.config.platform()), image));
        }
        Ok(images)
    }

    /// The one image that the store has under a name.
    fn of_store(&self, reference: &Reference, row: &ImageRow) -> Result<Image, WorkerError> {
        let name = ImageName::Registry(reference.clone());
        let config = self.config(&name, &self.store.content.read(&row.id, DOCUMENT_BYTES_MAX)?)?;
        let manifest = match &row.manifest {
            Some((digest, media_type)) => {
                Some((media_type.clone(), self.store.content.read(digest, DOCUMENT_BYTES_MAX)?))
            }
            None => None,
        };
        let blobs = match &manifest {
            Some((media_type, bytes)) => self.manifest(&name, media_type, bytes)?.layers,
            None => Vec::new(),
        };
        let mut layers = Vec::new();
        for (i, diff_id) in row.diff_ids.iter().enumerate() {
            let blob = match blobs.get(i) {
                Some(blob) => Some((blob.clone(), name.clone())),
                None => self.remembered(diff_id)?,
            };
            layers.push(ImageLayer { diff_id: *diff_id, blob });
        }
        let digest = row.manifest.as_ref().map_or(row.id, |m| m.0);
        Ok(Image {
            name,
            digest,
            top: digest,
            config,
            config_digest: row.id,
            manifest,
            aged: None,
            is_of_registry: false,
            layers,
        })
    }

    /// Where a layer of a named image was left, if it was.
    fn remembered(&self, diff_id: &DiffId) -> Result<Option<(Descriptor, ImageName)>, WorkerError> {
        let Some(blob) = self.store.meta.blob(diff_id, "pulled")? else { return Ok(None) };
        let origin = self.store.meta.origin(diff_id)?.and_then(|text| text.parse().ok());
        Ok(origin.map(|origin| (blob, origin)))
    }
}
