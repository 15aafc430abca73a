//! Layers to blobs, images to manifests, several of them to an index, and all of it to registries. It does
//! not know what forms there are for files on this machine.

mod lazy_form;

use crate::WorkerError;
use crate::at_once::at_once;
use crate::image_name::ImageName;
use crate::images::{Image, Images, NamedImages, Source};
use crate::layer::{Layer, Stack};
use crate::layer_form::{Compress, LayerForm, Spelling};
use crate::output::stopping::{self, Stopping};
use crate::progress::{Progress, ProgressSink};
use crate::store::Store;
use kiln_oci::{
    DOCUMENT_BYTES_MAX, Descriptor, DiffId, Digest, Hasher, ImageConfig, Index, LayoutError, Manifest,
    MediaType, Platform, Reference,
};
use kiln_snapshotter::Committed;
use kiln_snapshotter::compress::{Compression, Encoder, decoder};
use std::collections::{BTreeMap, HashSet};
use std::io::{BufWriter, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Blobs that are pushed at once.
const BLOBS_AT_ONCE: usize = 4;
/// What is read of a layer at once, to compress it anew.
const PIECE_BYTES: usize = 64 << 10;

/// What is needed to write a result anywhere.
pub(crate) struct Exporter<'a> {
    pub store: &'a Store,
    pub images: &'a Images<'a>,
    pub progress: &'a ProgressSink<'a>,
    /// The blobs that were pushed: to which repository, and which.
    pushed: Mutex<HashSet<(String, Digest)>>,
}

/// The layers of a result as blobs, from the lowest up.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    pub diff_ids: Vec<DiffId>,
    pub descriptors: Vec<Descriptor>,
}

/// An image, or what is attested of one, as documents: all but its layers' bytes, which are in the content store.
#[derive(Clone, Debug)]
pub(crate) struct Documents {
    pub manifest: Manifest,
    pub manifest_bytes: Vec<u8>,
    /// The digests of the layers' tars.
    pub diff_ids: Vec<DiffId>,
    /// What is put on the manifest's descriptor.
    pub annotations: BTreeMap<String, String>,
}

/// What leaves the machine under one name: an image, or an index of several.
#[derive(Debug)]
pub(crate) enum Release {
    One(Box<Documents>),
    Several { images: Vec<Documents>, index: Vec<u8>, descriptor: Box<Descriptor> },
}

impl Release {
    /// An index of images, in this order, with its annotations.
    pub fn index(
        images: Vec<(Platform, Documents)>,
        spelling: Spelling,
        annotations: BTreeMap<String, String>,
    ) -> Release {
        let listed = |(platform, documents): &(Platform, Documents)| Descriptor {
            platform: Some(platform.clone()),
            ..documents.descriptor()
        };
        let index = Index {
            schema_version: 2,
            media_type: Some(spelling.index()),
            manifests: images.iter().map(listed).collect(),
            annotations,
        };
        let index = serde_json::to_vec(&index).unwrap_or_default();
        let images = images.into_iter().map(|(_, documents)| documents).collect();
        let descriptor = Box::new(Descriptor::of(spelling.index(), &index));
        Release::Several { images, index, descriptor }
    }

    /// The descriptor of what the name stands for, and its bytes.
    pub fn top(&self) -> (Descriptor, &[u8]) {
        match self {
            Release::One(documents) => (documents.descriptor(), &documents.manifest_bytes),
            Release::Several { descriptor, index, .. } => (Descriptor::clone(descriptor), index),
        }
    }

    /// The images in it, and behind them what is attested of them.
    pub fn images(&self) -> &[Documents] {
        match self {
            Release::One(documents) => std::slice::from_ref(&**documents),
            Release::Several { images, .. } => images,
        }
    }

    /// Layers and configs of all images, each once.
    pub fn blobs(&self) -> BTreeMap<Digest, &Descriptor> {
        let manifests = self.images().iter().map(|documents| &documents.manifest);
        let named = manifests.flat_map(|manifest| manifest.layers.iter().chain([&manifest.config]));
        named.map(|blob| (blob.digest, blob)).collect()
    }
}

impl Documents {
    /// The manifest's descriptor.
    pub fn descriptor(&self) -> Descriptor {
        let media_type = self.manifest.media_type.clone().unwrap_or(MediaType::OciManifest);
        let annotations = self.annotations.clone();
        Descriptor { annotations, ..Descriptor::of(media_type, &self.manifest_bytes) }
    }
}

impl<'a> Exporter<'a> {
    /// Writes what is in `store` and in the images that `images` knows.
    pub fn new(store: &'a Store, images: &'a Images<'a>, progress: &'a ProgressSink<'a>) -> Exporter<'a> {
        Exporter { store, images, progress, pushed: Mutex::default() }
    }
}

impl Exporter<'_> {
    /// Does something that is shown as a task of its own.
    pub fn task<T>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T, WorkerError>,
    ) -> Result<T, WorkerError> {
        let started = Instant::now();
        self.progress.send(Progress::Task { name, took: None });
        stopping::check(self.images.cancel)?;
        let done = work().map_err(stopping::because_of(self.images.cancel))?;
        self.progress.send(Progress::Task { name, took: Some(started.elapsed()) });
        Ok(done)
    }

    /// The blobs of a result's layers and the digests of their tars; made where they are not here yet. With
    /// `latest_s`, layers that were made here have no time after it.
    pub fn blobs(
        &self,
        stack: &Stack,
        form: LayerForm,
        spelling: Spelling,
        latest_s: Option<i64>,
    ) -> Result<Blobs, WorkerError> {
        let mut all = Blobs::default();
        for at in 0..stack.0.len() {
            stopping::check(self.images.cancel)?;
            let (diff_id, blob) = self.blob(stack, at, form, latest_s)?;
            all.diff_ids.push(diff_id);
            all.descriptors.push(spelling.layer(blob));
        }
        Ok(all)
    }

    /// The same for a registry: blobs that are at one already are left there. [`Exporter::push`] brings those that
    /// it turns out to need.
    pub fn blobs_to_push(
        &self,
        stack: &Stack,
        form: LayerForm,
        spelling: Spelling,
        latest_s: Option<i64>,
    ) -> Result<Blobs, WorkerError> {
        let mut all = Blobs::default();
        for (at, layer) in stack.0.iter().enumerate() {
            stopping::check(self.images.cancel)?;
            let is_rewritten = latest_s.is_some() && layer.is_of_step();
            let is_left =
                |blob: &&Descriptor| !is_rewritten && !form.changes(blob) && layer.registry_image().is_some();
            let (diff_id, blob) = match layer.blob.as_ref().filter(is_left) {
                Some(blob) => (layer.diff_id()?, blob.clone()),
                None => self.blob(stack, at, form, latest_s)?,
            };
            all.diff_ids.push(diff_id);
            all.descriptors.push(spelling.layer(blob));
        }
        Ok(all)
    }

    /// The blob of one of a stack's layers, and the digest of its tar.
    pub fn blob(
        &self,
        stack: &Stack,
        at: usize,
        form: LayerForm,
        latest_s: Option<i64>,
    ) -> Result<(DiffId, Descriptor), WorkerError> {
        let layer = &stack.0[at];
        let diff_id = layer.diff_id()?;
        // The blob that a cache has of a step's layer has the times that it was made with.
        let is_rewritten = latest_s.is_some() && layer.is_of_step();
        let pulled = || if is_rewritten { Ok(None) } else { self.pulled_blob(layer) };
        self.store.with_space(|_| match pulled()? {
            Some(blob) if form.changes(&blob) && form.compress == Compress::Estargz => {
                self.estargz_blob((stack, at), form, (None, Some(&blob)))
            }
            None if form.compress == Compress::Estargz => {
                self.estargz_blob((stack, at), form, (latest_s, None))
            }
            Some(blob) if form.changes(&blob) => Ok((diff_id, self.changed_blob(layer, &blob, form)?)),
            Some(blob) => Ok((diff_id, blob)),
            None => self.made_blob(stack, at, form, latest_s),
        })
    }

    /// The blob that a layer came as.
    fn pulled_blob(&self, layer: &Layer) -> Result<Option<Descriptor>, WorkerError> {
        if let Some(blob) = self.images.blob_of(layer)? {
            return Ok(Some(blob));
        }
        let Some(blob) = self.store.meta.blob(&layer.diff_id()?, "pulled")? else { return Ok(None) };
        Ok(self.store.content.has(&blob).then_some(blob))
    }

    /// The blob of a layer that came in otherwise: the same tar, compressed anew.
    fn changed_blob(
        &self,
        layer: &Layer,
        came: &Descriptor,
        form: LayerForm,
    ) -> Result<Descriptor, WorkerError> {
        let name = form.name();
        if let Some(blob) = self.store.meta.blob(&layer.diff_id()?, &name)?
            && self.store.content.has(&blob)
        {
            return Ok(blob);
        }
        let compression = Compression::of_layer(&came.media_type)
            .ok_or_else(|| WorkerError::Unsupported(format!("a layer of type {}", came.media_type)))?;
        let failed = || WorkerError::io("decompress", came.digest.to_string());
        let what = layer.diff_id()?.0.hex()[..12].to_owned();
        let ((), blob) = self.compressed(&what, form, |out| {
            let file = self.store.content.blob(&came.digest)?;
            let mut tar = decoder(file, compression).map_err(failed())?;
            let (mut hasher, mut bytes) = (Hasher::new(), 0);
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                let n = tar.read(&mut piece).map_err(failed())?;
                if n == 0 {
                    break;
                }
                hasher.update(&piece[..n]);
                bytes += n as u64;
                out.write_all(&piece[..n]).map_err(WorkerError::io("compress", "a layer"))?;
            }
            let (expected, got) = (layer.diff_id()?.0, hasher.finish());
            if got != expected {
                let (expected_bytes, got_bytes) = (bytes, bytes);
                return Err(LayoutError::Mismatch { expected, expected_bytes, got, got_bytes }.into());
            }
            Ok(())
        })?;
        self.store.meta.add_blob(&layer.diff_id()?, &name, &blob)?;
        Ok(blob)
    }

    fn made_blob(
        &self,
        stack: &Stack,
        at: usize,
        form: LayerForm,
        latest_s: Option<i64>,
    ) -> Result<(DiffId, Descriptor), WorkerError> {
        let layer: &Arc<Layer> = &stack.0[at];
        let suffix = latest_s.map_or_else(String::new, |s| format!(" until {s}"));
        let (name, tar_name) = (form.name() + &suffix, "tar".to_owned() + &suffix);
        let known = || -> Result<Option<(DiffId, Descriptor)>, WorkerError> {
            let tar = match latest_s {
                Some(_) => self.store.meta.blob(&layer.diff_id()?, &tar_name)?.map(|tar| DiffId(tar.digest)),
                None => Some(layer.diff_id()?),
            };
            let (Some(diff_id), Some(blob)) = (tar, self.store.meta.blob(&layer.diff_id()?, &name)?) else {
                return Ok(None);
            };
            Ok(self.store.content.has(&blob).then_some((diff_id, blob)))
        };
        if let Some(known) = known()? {
            return Ok(known);
        }
        // A cache and an output may both want it, and another process too: one compresses it.
        let lock = format!("blob-{}", layer.diff_id()?.0.hex());
        let _alone = self.store.lock(&lock, self.images.cancel)?;
        if let Some(known) = known()? {
            return Ok(known);
        }
        let id = match layer.snapshot.get() {
            Some(id) => *id,
            None => self.images.unpacked(stack)?[at],
        };
        let what = layer.diff_id()?.0.hex()[..12].to_owned();
        let ((diff_id, tar_bytes), blob) = self.compressed(&what, form, |out| match latest_s {
            Some(latest_s) => Ok(self.store.snapshots.write_layer_clamped(&id, latest_s, out)?),
            None => {
                self.store.snapshots.write_layer(&id, out)?;
                Ok((layer.diff_id()?, 0))
            }
        })?;
        self.store.meta.add_blob(&layer.diff_id()?, &name, &blob)?;
        if latest_s.is_some() {
            let tar = Descriptor::new(MediaType::OciLayer, diff_id.0, tar_bytes);
            self.store.meta.add_blob(&layer.diff_id()?, &tar_name, &tar)?;
        }
        Ok((diff_id, blob))
    }

    /// Finishes a layer by `finish`, which writes its tar, and keeps its blob.
    pub fn finished(
        &self,
        what: &str,
        form: LayerForm,
        finish: impl FnOnce(&mut dyn Write) -> Result<Committed, WorkerError>,
    ) -> Result<Committed, WorkerError> {
        let (committed, blob) = self.compressed(what, form, finish)?;
        self.store.meta.add_blob(&committed.diff_id, &form.name(), &blob)?;
        Ok(committed)
    }

    /// A new blob of a layer whose tar `write` writes.
    fn compressed<T>(
        &self,
        what: &str,
        form: LayerForm,
        write: impl FnOnce(&mut dyn Write) -> Result<T, WorkerError>,
    ) -> Result<(T, Descriptor), WorkerError> {
        let mut writer = self.store.content.writer()?;
        let task = format!("compressing layer {what}");
        let (written, blocks) = self.task(&task, || {
            let failed = |e| WorkerError::io("compress", "a layer")(e);
            let buffered = BufWriter::with_capacity(1 << 20, &mut writer);
            let level = Some(form.encoder_level());
            let encoder = Encoder::reusing(buffered, form.encoding(), level, Some(self.store.blocks()));
            let encoder = encoder.map_err(failed)?;
            let mut out = Stopping { inner: encoder, cancel: self.images.cancel };
            let written = write(&mut out)?;
            let (mut rest, blocks) = out.inner.finish_telling().map_err(failed)?;
            rest.flush().map_err(failed)?;
            Ok((written, blocks))
        })?;
        let (digest, size) = writer.commit()?;
        // Only speed is lost if they can't be noted.
        let _ = self.store.meta.add_blocks(&digest, &blocks);
        Ok((written, Descriptor::new(form.media_type(), digest, size)))
    }

    /// The manifest and config of a result whose blobs are here.
    pub fn documents(
        &self,
        config: &ImageConfig,
        blobs: Vec<Descriptor>,
        spelling: Spelling,
        annotations: BTreeMap<String, String>,
    ) -> Result<Documents, WorkerError> {
        let config_bytes = config_bytes(config);
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(spelling.manifest()),
            artifact_type: None,
            config: Descriptor::of(spelling.config(), &config_bytes),
            layers: blobs,
            subject: None,
            annotations,
        };
        let manifest_bytes = serde_json::to_vec(&manifest).unwrap_or_default();
        self.store.content.put(&config_bytes)?;
        self.store.content.put(&manifest_bytes)?;
        let diff_ids = config.rootfs.diff_ids.clone();
        Ok(Documents { manifest, manifest_bytes, diff_ids, annotations: BTreeMap::new() })
    }

    /// The manifest of an image of the store that has none yet, around its config as it is. Layers that came
    /// in without compression get one.
    fn documents_of_store(&self, image: &Image) -> Result<Documents, WorkerError> {
        let stack = image.stack();
        let mut layers = Vec::new();
        for (at, layer) in stack.0.iter().enumerate() {
            stopping::check(self.images.cancel)?;
            let is_plain =
                |blob: &Descriptor| Compression::of_layer(&blob.media_type) == Some(Compression::None);
            // What a registry has is left there until it turns out to be needed.
            let is_left = |blob: &&Descriptor| !is_plain(blob) && layer.registry_image().is_some();
            if let Some(blob) = layer.blob.as_ref().filter(is_left) {
                layers.push(Spelling::Oci.layer(blob.clone()));
                continue;
            }
            let came = self.pulled_blob(layer)?;
            let form = LayerForm { force: came.as_ref().is_some_and(is_plain), ..LayerForm::default() };
            layers.push(Spelling::Oci.layer(self.blob(&stack, at, form, None)?.1));
        }
        let config = self.store.content.read(&image.config_digest, DOCUMENT_BYTES_MAX)?;
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
        self.store.content.put(&manifest_bytes)?;
        let diff_ids = image.config.rootfs.diff_ids.clone();
        Ok(Documents { manifest, manifest_bytes, diff_ids, annotations: BTreeMap::new() })
    }

    /// Pushes blobs, configs, the manifests that an index lists and, last of all, what the name stands for.
    /// Gives its digest. Layers of the stacks that are not here are fetched only if they can't be mounted.
    pub fn push(&self, release: &Release, to: &Reference, stacks: &[Stack]) -> Result<Digest, WorkerError> {
        let layers = stacks.iter().flat_map(|stack| stack.0.iter());
        let layers: BTreeMap<Digest, &Arc<Layer>> =
            layers.filter_map(|layer| Some((layer.blob.as_ref()?.digest, layer))).collect();
        let bring = |blob: &Descriptor| match layers.get(&blob.digest) {
            Some(layer) => self.images.blob_of(layer).map(drop),
            None => Ok(()),
        };
        self.push_bringing(release, to, &mount_sources(stacks, to), &bring)
    }

    /// The same with blobs that are not here brought by `bring`, if they can't be mounted from one of the repositories
    /// `mount_from`.
    pub fn push_bringing(
        &self,
        release: &Release,
        to: &Reference,
        mount_from: &[String],
        bring: &(dyn Fn(&Descriptor) -> Result<(), WorkerError> + Sync),
    ) -> Result<Digest, WorkerError> {
        let blobs: Vec<&Descriptor> = release.blobs().into_values().collect();
        at_once(&blobs, BLOBS_AT_ONCE, |blob| self.push_blob(blob, to, mount_from, bring))?;
        let put = |to: &Reference, descriptor: Descriptor, bytes: &[u8]| {
            self.images.may_ask(to)?;
            self.images.network(self.images.client.push_manifest(to, &descriptor.media_type, bytes))
        };
        if let Release::Several { images, .. } = release {
            for documents in images {
                let descriptor = documents.descriptor();
                put(&to.with_digest(descriptor.digest), descriptor, &documents.manifest_bytes)?;
            }
        }
        let (descriptor, bytes) = release.top();
        put(to, descriptor, bytes)
    }

    /// Pushes the blob of one of a stack's layers, which is here, before all of the result is known.
    pub fn push_layer(&self, blob: &Descriptor, to: &Reference, stack: &Stack) -> Result<(), WorkerError> {
        let mount_from = mount_sources(std::slice::from_ref(stack), to);
        self.push_blob(blob, to, &mount_from, &|_| Ok(()))
    }

    fn push_blob(
        &self,
        blob: &Descriptor,
        to: &Reference,
        mount_from: &[String],
        bring: &(dyn Fn(&Descriptor) -> Result<(), WorkerError> + Sync),
    ) -> Result<(), WorkerError> {
        let client = self.images.client;
        self.images.may_ask(to)?;
        let place = (format!("{}/{}", to.registry(), to.repository()), blob.digest);
        let pushed = || self.pushed.lock().unwrap_or_else(PoisonError::into_inner);
        if pushed().contains(&place) {
            return Ok(());
        }
        let is_here = self.store.content.has(blob);
        if is_here || self.images.network(client.offer_blob(to, blob, mount_from))?.is_none() {
            if !is_here {
                bring(blob)?;
            }
            let open = || self.store.content.blob(&blob.digest).map_err(std::io::Error::other);
            self.images.network(client.push_blob(to, blob, mount_from, &open))?;
        }
        pushed().insert(place);
        Ok(())
    }

    /// Pushes what the store has under a name: its manifests and its index as they are, where it has them.
    pub fn push_named(&self, named: &NamedImages, to: &Reference) -> Result<Digest, WorkerError> {
        let release = self.release_to_push(named)?;
        let stacks: Vec<Stack> = named.images.iter().map(|(_, image)| image.stack()).collect();
        self.task(&format!("pushing {to}"), || self.push(&release, to, &stacks))
    }

    /// What the store has under a name, with all its blobs here.
    pub fn release_of(&self, named: &NamedImages) -> Result<Release, WorkerError> {
        for (_, image) in &named.images {
            self.images.blobs(image)?;
        }
        self.release_to_push(named)
    }

    /// The same, with layers left where they are at a registry.
    fn release_to_push(&self, named: &NamedImages) -> Result<Release, WorkerError> {
        let name = &named.row.name;
        let Some((digest, media_type)) = named.row.index() else {
            let only = named.images.first().ok_or_else(|| WorkerError::NoImage(name.clone()))?;
            return Ok(Release::One(Box::new(self.documents_of(&only.1, name)?)));
        };
        let bytes = self.store.content.read(&digest, DOCUMENT_BYTES_MAX)?;
        let top = Descriptor::of(media_type.clone(), &bytes);
        let name = ImageName::Registry(name.parse().map_err(|_| WorkerError::NoImage(name.clone()))?);
        self.images.release(&Source::Image(name), top, bytes, None)
    }

    /// One image of the store, with all its blobs here.
    pub fn release_of_image(&self, image: &Image) -> Result<Release, WorkerError> {
        self.images.blobs(image)?;
        Ok(Release::One(Box::new(self.documents_of(image, &image.name.to_string())?)))
    }

    fn documents_of(&self, image: &Image, name: &str) -> Result<Documents, WorkerError> {
        let Some((media_type, bytes)) = &image.manifest else { return self.documents_of_store(image) };
        let manifest: Manifest = serde_json::from_slice(bytes)
            .map_err(|source| WorkerError::Config { reference: name.to_owned(), source })?;
        let manifest = Manifest { media_type: Some(media_type.clone()), ..manifest };
        let diff_ids = image.config.rootfs.diff_ids.clone();
        let manifest_bytes = bytes.clone();
        Ok(Documents { manifest, manifest_bytes, diff_ids, annotations: BTreeMap::new() })
    }
}

/// The repositories of a registry that layers of the stacks came from.
fn mount_sources(stacks: &[Stack], to: &Reference) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for origin in stacks.iter().flat_map(|stack| stack.0.iter()).filter_map(|l| l.registry_image()) {
        let name = origin.repository().to_owned();
        if origin.registry() == to.registry() && name != to.repository() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The config as it is stored: keys in order, so that the same config has the same digest.
pub(crate) fn config_bytes(config: &ImageConfig) -> Vec<u8> {
    serde_json::to_vec(config).unwrap_or_default()
}
