//! The images in an archive that came in, by either of its two lists. It does not know what becomes of them.

use super::{ArchiveFlaw, Incoming, is_plain};
use crate::WorkerError;
use crate::export::{Documents, Release};
use crate::images::{Images, Source};
use crate::layer_form::Spelling;
use crate::output::{IMAGE_NAME, REF_NAME};
use kiln_oci::{Descriptor, ImageConfig, Index, Manifest, MediaType, Platform, Reference};
use serde::Deserialize;
use std::collections::BTreeMap;

/// An image or index in an archive.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// What it is called.
    pub names: Vec<Reference>,
    /// The text that OCI's list has of it.
    pub tag: Option<String>,
    pub what: What,
}

/// What there is of it.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A manifest or index.
    Document(Descriptor),
    /// A config and layers, of which docker knows no manifest.
    Parts { config: Descriptor, layers: Vec<Descriptor> },
}

/// One image of docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Incoming {
    /// The images in it. OCI's list goes before docker's: it alone has manifests.
    pub fn images(&self, images: &Images<'_>) -> Result<Vec<Found>, WorkerError> {
        let docker: Vec<DockerImage> = match self.documents.get("manifest.json") {
            Some(bytes) => self.json("manifest.json", bytes)?,
            None => Vec::new(),
        };
        let Some(bytes) = self.documents.get("index.json") else {
            if docker.is_empty() {
                return Err(self.fail(ArchiveFlaw::NoImages));
            }
            return docker.iter().map(|image| self.parts(image)).collect();
        };
        let index: Index = self.json("index.json", bytes)?;
        let mut found: Vec<Found> = Vec::new();
        for listed in index.manifests {
            let (names, tag) = names_of(&listed);
            let names = if names.is_empty() { self.dockers_names(images, &docker, &listed) } else { names };
            let what = Descriptor { annotations: BTreeMap::new(), ..listed };
            match found
                .iter_mut()
                .find(|other| matches!(&other.what, What::Document(d) if d.digest == what.digest))
            {
                Some(other) => other.names.extend(names),
                None => found.push(Found { names, tag, what: What::Document(what) }),
            }
        }
        if found.is_empty() { Err(self.fail(ArchiveFlaw::NoImages)) } else { Ok(found) }
    }

    /// The names that docker's list has of a manifest's config.
    fn dockers_names(
        &self,
        images: &Images<'_>,
        docker: &[DockerImage],
        listed: &Descriptor,
    ) -> Vec<Reference> {
        let manifest = images.in_store(&self.name, &listed.digest);
        let manifest: Option<Manifest> = manifest.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(manifest) = manifest else { return Vec::new() };
        let is_of = |image: &&DockerImage| {
            self.at(&image.config).is_ok_and(|config| config.digest == manifest.config.digest)
        };
        docker.iter().filter(is_of).flat_map(DockerImage::names).collect()
    }

    fn parts(&self, image: &DockerImage) -> Result<Found, WorkerError> {
        let config = self.at(&image.config)?.clone();
        let layers = image.layers.iter().flatten().map(|path| self.at(path).cloned());
        let layers = layers.collect::<Result<_, _>>()?;
        Ok(Found { names: image.names(), tag: None, what: What::Parts { config, layers } })
    }

    /// The image of a name or tag; the only one, without either.
    pub fn chosen(&self, mut all: Vec<Found>, wanted: Option<&str>) -> Result<Found, WorkerError> {
        let shown = |found: &Found| match (found.names.first(), &found.tag) {
            (Some(name), _) => name.familiar(),
            (None, tag) => tag.clone().unwrap_or_else(|| "one without a name".to_owned()),
        };
        let has = all.iter().map(shown).collect();
        let is_wanted = |wanted: &str, found: &Found| {
            let name = wanted.parse::<Reference>().ok();
            found.tag.as_deref() == Some(wanted) || name.is_some_and(|name| found.names.contains(&name))
        };
        match wanted {
            None if all.len() == 1 => all.pop().ok_or_else(|| self.fail(ArchiveFlaw::NoImages)),
            None => Err(self.fail(ArchiveFlaw::Several { has })),
            Some(wanted) => all.into_iter().find(|found| is_wanted(wanted, found)).ok_or_else(|| {
                self.fail(ArchiveFlaw::NoSuch { wanted: wanted.chars().take(200).collect(), has })
            }),
        }
    }

    /// An image with all its documents.
    pub fn release(
        &self,
        images: &Images<'_>,
        found: &Found,
        platform: Option<&Platform>,
    ) -> Result<Release, WorkerError> {
        let source = Source::Archive(self.name.clone());
        match &found.what {
            What::Document(top) => {
                let bytes = images.in_store(&self.name, &top.digest)?;
                images.release(&source, top.clone(), bytes, platform)
            }
            What::Parts { config, layers } => self.made(images, config, layers),
        }
    }

    /// A manifest around a config and layers, each of which must be what the config says.
    fn made(
        &self,
        images: &Images<'_>,
        config: &Descriptor,
        layers: &[Descriptor],
    ) -> Result<Release, WorkerError> {
        let bytes = images.in_store(&self.name, &config.digest)?;
        let parsed: ImageConfig = self.json(&config.digest.to_string(), &bytes)?;
        let diff_ids = parsed.rootfs.diff_ids;
        if diff_ids.len() != layers.len() {
            let (layers, diff_ids) = (layers.len(), diff_ids.len());
            return Err(WorkerError::LayerCount { reference: self.name.clone(), layers, diff_ids });
        }
        for (layer, diff_id) in layers.iter().zip(&diff_ids) {
            if is_plain(layer) && layer.digest != diff_id.0 {
                let (member, got) = (format!("layer {diff_id}"), layer.digest);
                return Err(self.fail(ArchiveFlaw::Content { member, got }));
            }
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MediaType::OciManifest),
            artifact_type: None,
            config: Descriptor { media_type: Spelling::Oci.config(), ..config.clone() },
            layers: layers.to_vec(),
            subject: None,
            annotations: BTreeMap::new(),
        };
        let manifest_bytes = serde_json::to_vec(&manifest).unwrap_or_default();
        images.store.content.put(&manifest_bytes)?;
        Ok(Release::One(Box::new(Documents {
            manifest,
            manifest_bytes,
            diff_ids,
            annotations: BTreeMap::new(),
        })))
    }
}

impl DockerImage {
    fn names(&self) -> Vec<Reference> {
        self.repo_tags.iter().flatten().filter_map(|name| name.parse().ok()).collect()
    }
}

/// The names that OCI's list has of an image, and its tag. A tag that is a whole name, as skopeo writes it, is one.
fn names_of(listed: &Descriptor) -> (Vec<Reference>, Option<String>) {
    let tag = listed.annotations.get(REF_NAME).cloned();
    let whole = tag.as_deref().filter(|tag| tag.contains([':', '/']));
    let name = listed.annotations.get(IMAGE_NAME).map(String::as_str).or(whole);
    (name.and_then(|name| name.parse().ok()).into_iter().collect(), tag)
}
