//! Indexes made by hand of images that are there, and what registries have. It does not know builds.

use super::Worker;
use super::moving::{Parcel, bring_all, release_for};
use crate::WorkerError;
use crate::export::{Exporter, Release};
use crate::image_name::ImageName;
use crate::images::{Images, Source};
use crate::progress::{Progress, ProgressSink, Transfer};
use kiln_oci::{DOCUMENT_BYTES_MAX, Descriptor, Digest, ImageConfig, Index, MediaType, Platform, Reference};
use std::collections::BTreeMap;

/// What is written over what an index says of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestEdit {
    /// The operating system.
    pub os: Option<String>,
    /// The architecture.
    pub architecture: Option<String>,
    /// The architecture's variant.
    pub variant: Option<String>,
    /// The version of the operating system.
    pub os_version: Option<String>,
    /// Annotations that are added.
    pub annotations: BTreeMap<String, String>,
}

impl Worker {
    /// Makes an index of images of the store or of registries, and names it. What is an index itself gives all
    /// its images. Gives its digest.
    pub fn create_index(
        &self,
        name: &Reference,
        members: &[Reference],
        annotations: BTreeMap<String, String>,
        progress: &ProgressSink<'_>,
    ) -> Result<Digest, WorkerError> {
        let _alive = self.store.mark_alive()?;
        let transfer = |t: Transfer<'_>| progress.send(Progress::Transfer(t));
        let images = self.images(&transfer, &self.cancel)?;
        let exporter = Exporter::new(&self.store, &images, progress);
        let (mut listed, mut documents) = (Vec::new(), Vec::new());
        self.capped(progress, || {
            for member in members {
                let (found, release) = self.listed_of(&exporter, member)?;
                listed.extend(found);
                match release {
                    Release::One(only) => documents.push(*only),
                    Release::Several { images, .. } => documents.extend(images),
                }
            }
            let (schema_version, media_type) = (2, Some(MediaType::OciIndex));
            let index = Index { schema_version, media_type, manifests: listed, annotations };
            self.name_index(&images, name, &index, documents)
        })
    }

    /// What an index lists of an image or of another index, whose blobs are here then.
    fn listed_of(
        &self,
        exporter: &Exporter<'_>,
        member: &Reference,
    ) -> Result<(Vec<Descriptor>, Release), WorkerError> {
        let images = exporter.images;
        let source = Source::Image(ImageName::Registry(member.clone()));
        let release = match self.row(member) {
            Ok(row) => release_for(exporter, &images.named(member, row)?, None)?,
            Err(WorkerError::NoImage(_)) => {
                let (top, bytes) = images.top(&member.clone().into(), &Platform::host())?;
                images.release(&source, top, bytes, None)?
            }
            Err(error) => return Err(error),
        };
        let parcel = Parcel { release, source };
        bring_all(images, &parcel)?;
        let (top, bytes) = parcel.release.top();
        let unusable = |source| WorkerError::Config { reference: member.to_string(), source };
        let listed = match &parcel.release {
            Release::Several { .. } => serde_json::from_slice::<Index>(bytes).map_err(unusable)?.manifests,
            Release::One(only) => {
                let config = self.store.content.read(&only.manifest.config.digest, DOCUMENT_BYTES_MAX)?;
                let config: ImageConfig = serde_json::from_slice(&config).map_err(unusable)?;
                vec![Descriptor { platform: Some(config.platform()), ..top }]
            }
        };
        Ok((listed, parcel.release))
    }

    fn name_index(
        &self,
        images: &Images<'_>,
        name: &Reference,
        index: &Index,
        documents: Vec<crate::export::Documents>,
    ) -> Result<Digest, WorkerError> {
        let bytes = serde_json::to_vec(index).unwrap_or_default();
        let digest = self.store.content.put(&bytes)?;
        let descriptor = Box::new(Descriptor::of(MediaType::OciIndex, &bytes));
        let release = Release::Several { images: documents, index: bytes, descriptor };
        let source = Source::Image(ImageName::Registry(name.clone()));
        let row = self.kept(images, &Parcel { release, source }, name, false)?;
        self.name_all(vec![(name.clone(), row)])?;
        Ok(digest)
    }

    /// Changes what an index of the store says of one of its images, which `image` names: by the digits of its
    /// digest, by its platform, or as an image of the store. Gives the new index's digest.
    pub fn annotate_index(
        &self,
        name: &Reference,
        image: &str,
        edit: &ManifestEdit,
        progress: &ProgressSink<'_>,
    ) -> Result<Digest, WorkerError> {
        let _alive = self.store.mark_alive()?;
        let transfer = |t: Transfer<'_>| progress.send(Progress::Transfer(t));
        let images = self.images(&transfer, &self.cancel)?;
        let row = self.row(name)?;
        let Some((digest, _)) = row.index() else {
            return Err(WorkerError::Unsupported(format!("{}, which is no index,", name.familiar())));
        };
        let bytes = self.store.content.read(&digest, DOCUMENT_BYTES_MAX)?;
        let unusable = |source| WorkerError::Config { reference: name.to_string(), source };
        let mut index: Index = serde_json::from_slice(&bytes).map_err(unusable)?;
        let by_name = image.parse::<Reference>().ok().and_then(|image| self.row(&image).ok()?.manifest);
        let hex = image.strip_prefix("sha256:").unwrap_or(image);
        let platform = image.parse::<Platform>().ok();
        let is_meant = |listed: &&mut Descriptor| {
            by_name.as_ref().is_some_and(|(digest, _)| *digest == listed.digest)
                || hex.len() >= 4 && listed.digest.hex().starts_with(hex)
                || platform.is_some() && listed.platform == platform
        };
        let listed = index.manifests.iter_mut().find(is_meant);
        edited(listed.ok_or_else(|| WorkerError::NoImage(format!("{image} in {}", name.familiar())))?, edit);
        let source = Source::Image(ImageName::Registry(name.clone()));
        let top = Descriptor::of(MediaType::OciIndex, &bytes);
        let Release::Several { images: documents, .. } = images.release(&source, top, bytes, None)? else {
            return Err(WorkerError::NoImage(name.to_string()));
        };
        self.name_index(&images, name, &index, documents)
    }

    /// The manifest or index of a name: of the store, where it has one, else of its registry. With `below`
    /// those too that an index lists.
    pub fn manifests(
        &self,
        name: &Reference,
        below: bool,
    ) -> Result<Vec<(Descriptor, Vec<u8>)>, WorkerError> {
        let _alive = self.store.mark_alive()?;
        let silent = |_: Transfer<'_>| {};
        let images = self.images(&silent, &self.cancel)?;
        let of_store = self.row(name).ok().and_then(|row| row.manifest);
        let (top, bytes) = match of_store {
            Some((digest, media_type)) => {
                let bytes = self.store.content.read(&digest, DOCUMENT_BYTES_MAX)?;
                (Descriptor::of(media_type, &bytes), bytes)
            }
            None => images.top(&name.clone().into(), &Platform::host())?,
        };
        let mut all = vec![(top.clone(), bytes.clone())];
        if below && top.media_type.is_index() {
            let unusable = |source| WorkerError::Config { reference: name.to_string(), source };
            let index: Index = serde_json::from_slice(&bytes).map_err(unusable)?;
            let source = Source::Image(ImageName::Registry(name.clone()));
            let release = images.release(&source, top, bytes, None)?;
            let documents = release.images().iter().map(|image| image.manifest_bytes.clone());
            all = index.manifests.into_iter().zip(documents).collect();
        }
        Ok(all)
    }

    /// The repositories of the registry of `any` whose names contain `term`, as many as `limit`.
    pub fn search(&self, any: &Reference, term: &str, limit: usize) -> Result<Vec<String>, WorkerError> {
        let mut found = Vec::new();
        let mut on_page = |page: Vec<String>| {
            found.extend(page.into_iter().filter(|name| name.contains(term)));
            found.len() < limit
        };
        let silent = |_: Transfer<'_>| {};
        let images = self.images(&silent, &self.cancel)?;
        images.may_ask(any)?;
        images.network(self.client.catalog(any, &mut on_page))?;
        found.truncate(limit);
        Ok(found)
    }

    /// The tags of a repository, as many as `limit`.
    pub fn tags(&self, repository: &Reference, limit: usize) -> Result<Vec<String>, WorkerError> {
        let mut found = Vec::new();
        let mut on_page = |page: Vec<String>| {
            found.extend(page);
            found.len() < limit
        };
        let silent = |_: Transfer<'_>| {};
        let images = self.images(&silent, &self.cancel)?;
        images.may_ask(repository)?;
        images.network(self.client.tags(repository, &mut on_page))?;
        // Not every registry has them in order.
        found.sort();
        found.truncate(limit);
        Ok(found)
    }
}

fn edited(listed: &mut Descriptor, edit: &ManifestEdit) {
    let ManifestEdit { os, architecture, variant, os_version, annotations } = edit;
    let platform = listed.platform.get_or_insert_with(|| Platform::new("linux", "", None));
    if let Some(os) = os {
        platform.os.clone_from(os);
    }
    if let Some(architecture) = architecture {
        platform.architecture.clone_from(architecture);
    }
    if variant.is_some() {
        platform.variant.clone_from(variant);
    }
    if os_version.is_some() {
        platform.os_version.clone_from(os_version);
    }
    listed.annotations.extend(annotations.clone());
}
