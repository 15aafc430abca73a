//! Where a result goes: names in the store, archives, folders, registries. Each appears whole or not at
//! all, and only while the user has not stopped the build. It does not know how layers become blobs.

mod archive;
mod files;
mod finished;
mod layout;
pub(crate) mod stopping;
mod whole;

pub(crate) use archive::{IMAGE_NAME, Member, REF_NAME, archive_of};
pub(crate) use files::{Part, to_tar};
pub(crate) use layout::layout_of;
pub(crate) use whole::whole;
pub use whole::write_whole;

use crate::WorkerError;
use crate::annotation::{Annotation, AnnotationLevel, annotations_of};
use crate::export::{Documents, Exporter, Release, config_bytes, mount_sources};
use crate::layer::Stack;
use crate::layer_form::{LayerForm, Spelling};
use crate::meta::ImageRow;
use crate::store::now_s;
use crate::worker::{BuildRequest, BuildResult, Target};
use archive::archive;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use finished::finished;
use kiln_oci::{DiffId, Digest, ImageConfig, MediaType, Reference};
use layout::layout;
use std::path::PathBuf;

/// Where the config of an image keeps a cache of what it was made from, as BuildKit's `type=inline`.
pub(crate) const INLINE_CACHE: &str = "moby.buildkit.cache.v0";

/// One output of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// What it is.
    pub form: Form,
    /// Names for the result: in the store, at registries, or in an archive.
    pub names: Vec<Reference>,
    /// Whether it is pushed by its digest alone, and the names get no tag.
    pub by_digest: bool,
    /// How layers become blobs.
    pub layers: LayerForm,
    /// Whose media types it has.
    pub spelling: Spelling,
    /// Annotations of this output; the request's go before them.
    pub annotations: Vec<Annotation>,
    /// Whether layers that are made here have no time after the source's date.
    pub rewrite_timestamp: bool,
    /// Whether each platform's files go into a folder of their own; unless said, they do in an index.
    pub platform_split: Option<bool>,
}

impl Output {
    /// An output as it is unless more is asked for.
    pub fn new(form: Form, names: Vec<Reference>) -> Output {
        let spelling = match form {
            Form::Docker(_) => Spelling::Docker,
            _ => Spelling::Oci,
        };
        Output {
            form,
            names,
            by_digest: false,
            layers: LayerForm::default(),
            spelling,
            annotations: Vec::new(),
            rewrite_timestamp: false,
            platform_split: None,
        }
    }
}

/// The forms of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// Names in the store.
    Store,
    /// Pushed to the registries of its names.
    Registry,
    /// An OCI layout in a tar; `None` is standard output.
    Oci(Option<PathBuf>),
    /// What `docker load` reads, which is an OCI layout too; `None` is standard output.
    Docker(Option<PathBuf>),
    /// An OCI layout in a folder, beside the images that are there.
    Layout(PathBuf),
    /// The files in a tar; `None` is standard output.
    Tar(Option<PathBuf>),
    /// The files in a folder.
    Local(PathBuf),
    /// Nowhere: only what was cached stays.
    CacheOnly,
}

/// An image of the result.
struct Built<'a> {
    target: &'a Target,
    stack: Stack,
    config: ImageConfig,
}

/// Writes a result to all outputs of a request: the stacks are those of its targets. What
/// `records` gives for a stack goes into the config of its image.
pub(crate) fn write_all(
    exporter: &Exporter<'_>,
    request: &BuildRequest,
    stacks: Vec<Stack>,
    records: &dyn Fn(&Stack) -> Option<Vec<u8>>,
    sync: bool,
) -> Result<BuildResult, WorkerError> {
    stopping::check(exporter.images.cancel)?;
    let with_config = |(target, stack)| {
        let mut config = finished(target, &stack)?;
        if let Some(records) = records(&stack) {
            config.extra.insert(INLINE_CACHE.to_owned(), BASE64_STANDARD.encode(records).into());
        }
        Ok(Built { target, stack, config })
    };
    let built = request.targets.iter().zip(stacks).map(with_config);
    let built = built.collect::<Result<Vec<Built<'_>>, WorkerError>>()?;
    let mut result = BuildResult::default();
    for image in &built {
        let digest = exporter.store.content.put(&config_bytes(&image.config))?;
        result.config_digest = Some(digest).filter(|_| !request.is_index);
    }
    if sync {
        // Names and archives are made only of what survives a loss of power.
        exporter.store.snapshots.sync()?;
        exporter.store.meta.mark_synced()?;
    }
    for output in &request.outputs {
        stopping::check(exporter.images.cancel)?;
        let annotations = output.annotations.iter().chain(&request.annotations).cloned().collect();
        let release = (Writer { exporter, request, built: &built, output, annotations }).write()?;
        let names = output.names.iter().map(|name| match &release {
            Some(release) if output.by_digest => name.with_digest(release.top().0.digest).to_string(),
            _ => name.to_string(),
        });
        result.names.extend(names);
        if let Some(release) = release {
            if let Release::One(documents) = &release {
                // Of an image whose layers got other times it is another than that of the one kept here.
                result.config_digest = Some(documents.manifest.config.digest);
            }
            result.manifest = Some(release.top().0);
        }
    }
    Ok(result)
}

/// Writes one output.
struct Writer<'a> {
    exporter: &'a Exporter<'a>,
    request: &'a BuildRequest,
    built: &'a [Built<'a>],
    output: &'a Output,
    /// What is put on the documents: the output's annotations, then those of all outputs.
    annotations: Vec<Annotation>,
}

impl Writer<'_> {
    fn write(&self) -> Result<Option<Release>, WorkerError> {
        let (exporter, output) = (self.exporter, self.output);
        match &output.form {
            Form::CacheOnly => Ok(None),
            Form::Store if self.request.is_index || self.must_be_kept() => {
                let release = self.release()?;
                self.name_release(&release)?;
                Ok(Some(release))
            }
            Form::Store => self.name_image().map(|()| None),
            Form::Registry => {
                let release = self.release()?;
                let stacks: Vec<Stack> = self.built.iter().map(|image| image.stack.clone()).collect();
                let digest = release.top().0.digest;
                for name in &output.names {
                    let pinned = output.by_digest.then(|| name.with_digest(digest));
                    let name = pinned.as_ref().unwrap_or(name);
                    let mounts = mount_sources(&stacks, name);
                    exporter.task(&format!("pushing {name}"), || exporter.push(&release, name, &mounts))?;
                }
                Ok(Some(release))
            }
            Form::Oci(dest) => {
                let release = self.release()?;
                exporter.task("exporting to oci archive", || {
                    archive(exporter, output, &release, dest.as_deref(), false)
                })?;
                Ok(Some(release))
            }
            // What `docker load` reads has no word for platforms.
            Form::Docker(_) if self.request.is_index => {
                Err(WorkerError::Unsupported("type=docker for several platforms".to_owned()))
            }
            Form::Docker(dest) => {
                let release = self.release()?;
                exporter.task("exporting to docker archive", || {
                    archive(exporter, output, &release, dest.as_deref(), true)
                })?;
                Ok(Some(release))
            }
            Form::Layout(dest) => {
                let release = self.release()?;
                exporter.task("exporting to oci layout", || layout(exporter, output, &release, dest))?;
                Ok(Some(release))
            }
            Form::Tar(dest) => {
                let parts = self.parts();
                exporter.task("exporting to tar", || files::to_tar(exporter, &parts, dest.as_deref()))?;
                Ok(None)
            }
            Form::Local(dest) => {
                let parts = self.parts();
                exporter.task("exporting to folder", || files::to_folder(exporter, &parts, dest))?;
                Ok(None)
            }
        }
    }

    /// The documents of the result, which are in the content store then, as the layers' blobs are.
    fn release(&self) -> Result<Release, WorkerError> {
        let (form, spelling) = (self.output.layers, self.spelling());
        let mut images = Vec::new();
        for Built { target, stack, config } in self.built {
            let task = match self.request.is_index {
                true => format!("exporting layers {}", target.platform),
                false => "exporting layers".to_owned(),
            };
            let documents = self.exporter.task(&task, || {
                let latest_s = target.source_date_epoch_s.filter(|_| self.output.rewrite_timestamp);
                let blobs = self.exporter.blobs(stack, form, spelling, latest_s)?;
                let mut config = config.clone();
                config.rootfs.diff_ids = blobs.diff_ids;
                let on = |level| annotations_of(&self.annotations, level, Some(&target.platform));
                let annotations = on(AnnotationLevel::Manifest);
                let made = self.exporter.documents(&config, blobs.descriptors, spelling, annotations)?;
                Ok(Documents { annotations: on(AnnotationLevel::ManifestDescriptor), ..made })
            })?;
            images.push((target.platform.clone(), documents));
        }
        if !self.request.is_index
            && images.len() == 1
            && let Some((_, only)) = images.pop()
        {
            return Ok(Release::One(Box::new(only)));
        }
        let on = |level| annotations_of(&self.annotations, level, None);
        let mut release = Release::index(images, spelling, on(AnnotationLevel::Index));
        if let Release::Several { descriptor, .. } = &mut release {
            descriptor.annotations = on(AnnotationLevel::IndexDescriptor);
        }
        self.exporter.store.content.put(release.top().1)?;
        Ok(release)
    }

    /// Whose media types it has: annotations of anything but a manifest are OCI's alone.
    fn spelling(&self) -> Spelling {
        match self.annotations.iter().all(|a| a.level == AnnotationLevel::Manifest) {
            true => self.output.spelling,
            false => Spelling::Oci,
        }
    }

    /// Whether an image that is only named has more than its config and layers say, so that its manifest
    /// must be made now.
    fn must_be_kept(&self) -> bool {
        let has_date = || self.built.iter().any(|image| image.target.source_date_epoch_s.is_some());
        self.spelling() != Spelling::Oci
            || self.output.layers != LayerForm::default()
            || !self.annotations.is_empty()
            || (self.output.rewrite_timestamp && has_date())
    }

    /// The files of each image, and where they go.
    fn parts(&self) -> Vec<Part> {
        let is_split = self.output.platform_split.unwrap_or(self.request.is_index);
        let part = |Built { target, stack, .. }: &'_ Built<'_>| Part {
            platform: target.platform.to_string(),
            stack: stack.clone(),
            folder: is_split.then(|| target.platform.to_string().replace('/', "_")),
            time_s: target.source_date_epoch_s.unwrap_or_default(),
        };
        self.built.iter().map(part).collect()
    }

    /// Gives the image its names. It has no manifest until it leaves.
    fn name_image(&self) -> Result<(), WorkerError> {
        for Built { stack, config, .. } in self.built {
            self.exporter.images.remember_origins(stack)?;
            self.name(Digest::of(&config_bytes(config)), None, stack.diff_ids()?)?;
        }
        Ok(())
    }

    /// Gives an image or an index its names, with all that it consists of: nothing else could hold an
    /// index's images together.
    fn name_release(&self, release: &Release) -> Result<(), WorkerError> {
        let (top, _) = release.top();
        let manifest = Some((top.digest, top.media_type));
        if let Release::One(documents) = release {
            return self.name(documents.manifest.config.digest, manifest, documents.diff_ids.clone());
        }
        let mut diff_ids: Vec<DiffId> = Vec::new();
        for layer in self.built.iter().flat_map(|image| image.stack.0.iter()) {
            let diff_id = layer.diff_id()?;
            if !diff_ids.contains(&diff_id) {
                diff_ids.push(diff_id);
            }
        }
        self.name(top.digest, manifest, diff_ids)
    }

    fn name(
        &self,
        id: Digest,
        manifest: Option<(Digest, MediaType)>,
        diff_ids: Vec<DiffId>,
    ) -> Result<(), WorkerError> {
        for name in &self.output.names {
            let (name, manifest, diff_ids) = (name.to_string(), manifest.clone(), diff_ids.clone());
            self.exporter.task(&format!("naming to {name}"), || {
                let created_s = now_s();
                self.exporter.store.meta.set_image(&ImageRow { name, id, manifest, diff_ids, created_s })
            })?;
        }
        Ok(())
    }
}
