//! Where a result goes: names in the store, archives, folders, registries. Each appears whole or not at
//! all, and only while the user has not stopped the build. It does not know how layers become blobs.

mod ahead;
mod archive;
mod daemon;
mod files;
mod finished;
mod layout;
pub(crate) mod stopping;
mod whole;

pub(crate) use ahead::Ahead;
pub(crate) use archive::{IMAGE_NAME, Member, REF_NAME, archive_of};
pub(crate) use files::{Part, to_tar};
pub(crate) use layout::layout_of;
pub(crate) use whole::whole;
pub use whole::{change_whole, write_whole};

use crate::WorkerError;
use crate::annotation::{Annotation, AnnotationLevel, annotations_of};
use crate::attest::{Attested, Attester, no_platform, push_referrers, push_signature};
use crate::docker_daemon::DockerHost;
use crate::export::{Documents, Exporter, Release, config_bytes};
use crate::layer::Stack;
use crate::layer_form::{Compress, LayerForm, Spelling};
use crate::meta::ImageRow;
use crate::store::now_s;
use crate::worker::{BuildRequest, BuildResult, Target};
use archive::archive;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use finished::finished;
use kiln_oci::{DiffId, Digest, ImageConfig, MediaType, Reference};
use layout::layout;
use std::collections::BTreeSet;
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
    /// Whether an attestation manifest is an artifact; unless said, it is with OCI's media types.
    pub attestation_artifact: Option<bool>,
    /// What the names of attestations begin with that lie beside files.
    pub attestation_prefix: String,
    /// Whether the registries of its names may be spoken to without TLS.
    pub insecure: bool,
    /// The date of its config, and with `rewrite_timestamp` of its layers, in seconds since 1970, whatever the build's is.
    pub source_date_epoch_s: Option<i64>,
    /// Whether the store has it by each name with its digest too.
    pub name_canonical: bool,
    /// The repository by which, with its digest, the store has it besides.
    pub dangling: Option<Reference>,
    /// Whether a folder loses what is not in the result.
    pub delete: bool,
}

impl Output {
    /// An output as it is unless more is asked for.
    pub fn new(form: Form, names: Vec<Reference>) -> Output {
        let spelling = match form {
            Form::Docker(_) | Form::Daemon(_) => Spelling::Docker,
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
            attestation_artifact: None,
            attestation_prefix: String::new(),
            insecure: false,
            source_date_epoch_s: None,
            name_canonical: false,
            dangling: None,
            delete: false,
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
    /// Loaded into a Docker daemon; `None` if there is none, which is said.
    Daemon(Option<DockerHost>),
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
    attester: &Attester<'_>,
    stacks: Vec<Stack>,
    records: &dyn Fn(&Stack) -> Option<Vec<u8>>,
) -> Result<BuildResult, WorkerError> {
    let (exporter, request) = (attester.exporter, attester.request);
    stopping::check(exporter.images.cancel)?;
    let built = images_of(exporter, &request.targets, stacks, records)?;
    let mut result = BuildResult::default();
    if let Some(last) = built.last().filter(|_| !request.is_index) {
        result.config_digest = Some(Digest::of(&config_bytes(&last.config)));
    }
    let mut refused = None;
    for output in &request.outputs {
        stopping::check(exporter.images.cancel)?;
        let annotations = output.annotations.iter().chain(&request.annotations).cloned().collect();
        let dated = dated(&request.targets, output.source_date_epoch_s);
        let redated = match &dated {
            None => None,
            Some(targets) => {
                let stacks = built.iter().map(|image| image.stack.clone()).collect();
                Some(images_of(exporter, targets, stacks, records)?)
            }
        };
        let built = redated.as_ref().unwrap_or(&built);
        let writer = Writer { exporter, request, attester, built, output, annotations };
        let release = match writer.write() {
            // What one registry does is no reason to keep the image from the others.
            Err(error @ WorkerError::Registry(_)) if matches!(output.form, Form::Registry) => {
                refused = refused.or(Some(error));
                continue;
            }
            written => written?,
        };
        let names = output.names.iter().map(|name| match &release {
            Some(release) if output.by_digest => name.with_digest(release.top().0.digest).to_string(),
            _ => name.to_string(),
        });
        for name in names {
            // A daemon and the store have the same names.
            if !(matches!(output.form, Form::Daemon(_)) && result.names.contains(&name)) {
                result.names.push(name);
            }
        }
        if let Some(release) = release {
            result.config_digest = match &release {
                // Of an image whose layers got other times it is another than that of the one kept here.
                Release::One(documents) => Some(documents.manifest.config.digest),
                Release::Several { .. } => None,
            };
            result.manifest = Some(release.top().0);
        }
    }
    refused.map_or(Ok(result), Err)
}

/// The images that stacks make, whose configs are in the content store then.
fn images_of<'t>(
    exporter: &Exporter<'_>,
    targets: &'t [Target],
    stacks: Vec<Stack>,
    records: &dyn Fn(&Stack) -> Option<Vec<u8>>,
) -> Result<Vec<Built<'t>>, WorkerError> {
    let with_config = |(target, stack)| {
        let mut config = finished(target, &stack)?;
        if let Some(records) = records(&stack) {
            config.extra.insert(INLINE_CACHE.to_owned(), BASE64_STANDARD.encode(records).into());
        }
        let bytes = config_bytes(&config);
        exporter.store.with_space(|_| Ok(exporter.store.content.put(&bytes)?))?;
        Ok(Built { target, stack, config })
    };
    targets.iter().zip(stacks).map(with_config).collect()
}

/// The targets with the date of an output, if it has one of its own.
fn dated(targets: &[Target], date_s: Option<i64>) -> Option<Vec<Target>> {
    let date_s = date_s?;
    let dated = |target: &Target| Target { source_date_epoch_s: Some(date_s), ..target.clone() };
    Some(targets.iter().map(dated).collect())
}

/// Writes one output.
struct Writer<'a> {
    exporter: &'a Exporter<'a>,
    request: &'a BuildRequest,
    attester: &'a Attester<'a>,
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
            Form::Store if self.makes_index() || self.must_be_kept() => {
                let (release, _) = self.release()?;
                self.name_release(&release)?;
                Ok(Some(release))
            }
            Form::Store => self.name_image().map(|()| None),
            Form::Registry => {
                let (release, referrers) = self.release()?;
                self.push_all(&release, &referrers)?;
                Ok(Some(release))
            }
            Form::Oci(dest) => {
                let (release, referrers) = self.release()?;
                exporter.task("exporting to oci archive", || {
                    archive(exporter, output, (&release, &referrers), dest.as_deref(), false)
                })?;
                Ok(Some(release))
            }
            // What `docker load` reads has no word for platforms.
            Form::Docker(_) | Form::Daemon(Some(_)) if self.makes_index() => {
                Err(WorkerError::Unsupported("type=docker for several platforms or attestations".to_owned()))
            }
            Form::Docker(dest) => {
                let (release, referrers) = self.release()?;
                exporter.task("exporting to docker archive", || {
                    archive(exporter, output, (&release, &referrers), dest.as_deref(), true)
                })?;
                Ok(Some(release))
            }
            Form::Daemon(Some(host)) => self.load_into(host).map(|()| None),
            Form::Daemon(None) => {
                exporter.task("no Docker daemon is there: the image is in kiln's store", || Ok(None))
            }
            Form::Layout(dest) => {
                let (release, referrers) = self.release()?;
                exporter.task("exporting to oci layout", || {
                    layout(exporter, output, (&release, &referrers), dest)
                })?;
                Ok(Some(release))
            }
            Form::Tar(dest) => {
                let parts = self.parts()?;
                exporter.task("exporting to tar", || files::to_tar(exporter, &parts, dest.as_deref()))?;
                Ok(None)
            }
            Form::Local(dest) => {
                let parts = self.parts()?;
                let delete = output.delete;
                exporter.task("exporting to folder", || files::to_folder(exporter, &parts, dest, delete))?;
                Ok(None)
            }
        }
    }

    /// Pushes to all names, whatever becomes of the others; the first failure is told. A registry that is down is
    /// not tried for each of its names.
    fn push_all(&self, release: &Release, referrers: &[Documents]) -> Result<(), WorkerError> {
        let mut refused: Option<WorkerError> = None;
        let mut down = BTreeSet::new();
        for name in &self.output.names {
            if down.contains(name.registry()) {
                continue;
            }
            match self.push(name, release, referrers) {
                Ok(()) => {}
                Err(WorkerError::Registry(error)) => {
                    if error.is_transient() {
                        down.insert(name.registry());
                    }
                    refused = refused.or(Some(error.into()));
                }
                Err(error) => return Err(error),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Pushes to one name, with what refers to it: the manifest after its blobs, an index after its manifests.
    fn push(&self, name: &Reference, release: &Release, referrers: &[Documents]) -> Result<(), WorkerError> {
        let exporter = self.exporter;
        let stacks: Vec<Stack> = self.built.iter().map(|image| image.stack.clone()).collect();
        let digest = release.top().0.digest;
        let pinned = self.output.by_digest.then(|| name.with_digest(digest));
        let name = pinned.as_ref().unwrap_or(name);
        exporter.task(&format!("pushing {name}"), || {
            exporter.push(release, name, &stacks)?;
            push_referrers(exporter, name, referrers)
        })?;
        if let Some(key) = &self.request.attest.key {
            let task = format!("signing {name}");
            exporter.task(&task, || push_signature(exporter, name, &digest, key))?;
        }
        Ok(())
    }

    /// Whether the result is an index: of several platforms, or of an image and what is attested of it.
    fn makes_index(&self) -> bool {
        self.request.is_index || self.request.attest.makes_index()
    }

    /// The documents of the result, which are in the content store then, as the layers' blobs are; and those that
    /// refer to it.
    fn release(&self) -> Result<(Release, Vec<Documents>), WorkerError> {
        let (form, spelling) = (self.output.layers, self.spelling());
        let (mut images, mut attestations, mut referrers) = (Vec::new(), Vec::new(), Vec::new());
        for (number, Built { target, stack, config }) in self.built.iter().enumerate() {
            let task = match self.request.is_index {
                true => format!("exporting layers {}", target.platform),
                false => "exporting layers".to_owned(),
            };
            let documents = self.exporter.task(&task, || {
                let latest_s = target.source_date_epoch_s.filter(|_| self.output.rewrite_timestamp);
                let blobs = match self.output.form {
                    Form::Registry => self.exporter.blobs_to_push(stack, form, spelling, latest_s)?,
                    _ => self.exporter.blobs(stack, form, spelling, latest_s)?,
                };
                let mut config = config.clone();
                config.rootfs.diff_ids = blobs.diff_ids;
                let on = |level| annotations_of(&self.annotations, level, Some(&target.platform));
                let annotations = on(AnnotationLevel::Manifest);
                let made = self.exporter.documents(&config, blobs.descriptors, spelling, annotations)?;
                Ok(Documents { annotations: on(AnnotationLevel::ManifestDescriptor), ..made })
            })?;
            let of = Attested { number, target, stack, config };
            let form = (spelling, self.output.attestation_artifact.unwrap_or(spelling == Spelling::Oci));
            let attested = self.attester.of_image(of, &documents, &self.output.names, form)?;
            attestations.extend(attested.in_index.into_iter().map(|documents| (no_platform(), documents)));
            referrers.extend(attested.referrers);
            images.push((target.platform.clone(), documents));
        }
        if !self.makes_index()
            && images.len() == 1
            && let Some((_, only)) = images.pop()
        {
            return Ok((Release::One(Box::new(only)), referrers));
        }
        images.extend(attestations);
        let on = |level| annotations_of(&self.annotations, level, None);
        let mut release = Release::index(images, spelling, on(AnnotationLevel::Index));
        if let Release::Several { descriptor, .. } = &mut release {
            descriptor.annotations = on(AnnotationLevel::IndexDescriptor);
        }
        self.exporter.store.content.put(release.top().1)?;
        Ok((release, referrers))
    }

    /// Whose media types it has: annotations of anything but a manifest are OCI's alone, and so is a layer's.
    fn spelling(&self) -> Spelling {
        let is_plain = self.annotations.iter().all(|a| a.level == AnnotationLevel::Manifest);
        match is_plain && self.output.layers.compress != Compress::Estargz {
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
            || self.output.name_canonical
            || self.output.dangling.is_some()
            || (self.output.rewrite_timestamp && has_date())
    }

    /// The files of each image, and where they go.
    fn parts(&self) -> Result<Vec<Part>, WorkerError> {
        let is_split = self.output.platform_split.unwrap_or(self.request.is_index);
        let several = self.built.len() > 1;
        let part = |(number, Built { target, stack, config }): (usize, &Built<'_>)| {
            let platform = target.platform.to_string();
            let folder = platform.replace('/', "_");
            let own = (several && !is_split).then_some(folder.as_str());
            let statements = self.attester.of_files(Attested { number, target, stack, config })?;
            let statements = statements.into_iter().map(|statement| {
                (statement.file_name(&self.output.attestation_prefix, own), statement.bytes)
            });
            Ok(Part {
                statements: statements.collect(),
                stack: stack.clone(),
                time_s: target.source_date_epoch_s.unwrap_or_default(),
                folder: is_split.then_some(folder),
                platform,
            })
        };
        self.built.iter().enumerate().map(part).collect()
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
        let mut names: Vec<String> = self.output.names.iter().map(Reference::to_string).collect();
        if let Some((digest, _)) = &manifest {
            let plain = names.clone();
            names.extend(self.output.dangling.iter().map(|prefix| prefix.with_digest(*digest).to_string()));
            let canonical = plain.iter().map(|name| format!("{name}@{digest}"));
            names.extend(canonical.filter(|_| self.output.name_canonical));
        }
        for name in names {
            let (manifest, diff_ids) = (manifest.clone(), diff_ids.clone());
            self.exporter.task(&format!("naming to {name}"), || {
                let row = ImageRow { name, id, manifest, diff_ids, created_s: now_s() };
                let store = self.exporter.store;
                store.with_space(|_| store.meta.set_image(&row))
            })?;
        }
        Ok(())
    }
}
