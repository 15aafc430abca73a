//! Images: what a name stands for, in the store, at a registry or in a folder, and their layers brought here.
//! It does not know what a build does with them.

mod mirrors;
mod pieces;
mod resolve;
mod stored;
mod whole;

pub(crate) use resolve::Asked;
pub use resolve::{Aged, PullPolicy};
pub use stored::NamedImages;
pub(crate) use whole::Source;

use crate::at_once::at_once;
use crate::image_name::ImageName;
use crate::layer::{Layer, Origin, Stack};
use crate::meta::LayerRow;
use crate::output::stopping::stopped;
use crate::store::Store;
use crate::{Transfer, WorkerError};
use kiln_oci::{
    DOCUMENT_BYTES_MAX, Descriptor, DiffId, Digest, Document, ImageConfig, ImageFolder, LayoutError,
    LayoutReference, Manifest, MediaType, Platform,
};
use kiln_registry::Client;
use kiln_runner::CancelToken;
use kiln_snapshotter::compress::{Compression, decoder};
use kiln_snapshotter::{Committed, SnapshotId};
use pieces::Pieces;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Pieces of a blob that are between the network and the disk at once; each some ten kilobytes.
const PIECES_MAX: usize = 64;
/// Layers of one image that are fetched and unpacked at once.
const LAYERS_AT_ONCE: usize = 4;
/// How long an error waits at most for registries to be told of uploads that are given up.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
/// What is read of a blob at once, from a folder.
const PIECE_BYTES: usize = 64 << 10;

/// What a name stands for.
#[derive(Clone, Debug)]
pub struct Image {
    /// As it was asked for, normalised.
    pub name: ImageName,
    /// What it is pinned to: the manifest's digest, or the config's of an image that only the store has.
    pub digest: Digest,
    /// The digest of the index or manifest that the reference itself stands for.
    pub top: Digest,
    /// The config.
    pub config: ImageConfig,
    /// The digest of the config.
    pub config_digest: Digest,
    /// The manifest's own bytes and type, where there is one.
    pub manifest: Option<(MediaType, Vec<u8>)>,
    /// Where this is not what was said just now: since when it is known.
    pub aged: Option<Aged>,
    /// Whether a registry said that the name stands for it.
    pub is_of_registry: bool,
    layers: Vec<ImageLayer>,
}

/// A layer of an image, and where its blob is to be had, if it has one.
#[derive(Clone, Debug)]
struct ImageLayer {
    diff_id: DiffId,
    blob: Option<(Descriptor, ImageName)>,
}

/// Access to images.
pub(crate) struct Images<'a> {
    pub store: &'a Store,
    pub client: &'a Client,
    pub runtime: &'a Runtime,
    pub transfer: &'a (dyn Fn(Transfer<'_>) + Sync),
    pub cancel: &'a CancelToken,
    /// What this process has asked for; without it, everything is asked for anew.
    asked: Option<&'a Asked>,
    /// The flag, if there is one, for whose sake nobody is asked for anything.
    pub forbidden: Option<&'static str>,
    made: AtomicBool,
}

impl Image {
    /// Whether `name`, which is pinned, is a name of this image.
    pub fn is_called(&self, name: &ImageName) -> bool {
        name.digest() == Some(self.digest) && name.is_beside(&self.name)
    }

    /// Its layers, as a result of a step.
    pub(crate) fn stack(&self) -> Stack {
        let layer = |layer: &ImageLayer| {
            let (blob, origin) = layer.blob.clone().unzip();
            Arc::new(Layer::of_image(layer.diff_id, blob, origin))
        };
        self.layers.iter().map(layer).collect()
    }
}

impl<'a> Images<'a> {
    /// Access for one command.
    pub fn new(
        store: &'a Store,
        client: &'a Client,
        runtime: &'a Runtime,
        transfer: &'a (dyn Fn(Transfer<'_>) + Sync),
        cancel: &'a CancelToken,
    ) -> Images<'a> {
        let made = AtomicBool::new(false);
        Images { store, client, runtime, transfer, cancel, asked: None, forbidden: None, made }
    }

    /// The same, with what was asked so far, and the flag, if any, for whose sake nobody is asked.
    pub fn knowing(self, asked: &'a Asked, forbidden: Option<&'static str>) -> Images<'a> {
        Images { asked: Some(asked), forbidden, ..self }
    }
}

impl Images<'_> {
    /// Waits for the network, but no longer than the user does.
    pub fn network<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, WorkerError>
    where
        WorkerError: From<E>,
    {
        self.runtime.block_on(async {
            let done = tokio::select! {
                biased;
                () = stopped(self.cancel) => Err(WorkerError::Canceled),
                done = work => Ok(done?),
            };
            if done.is_err() {
                self.client.settle(FAREWELL_MAX).await;
            }
            done
        })
    }

    /// The manifest or index of an image in a folder.
    fn document_of_layout(
        &self,
        layout: &LayoutReference,
        platform: &Platform,
    ) -> Result<(Descriptor, Vec<u8>), WorkerError> {
        let folder = ImageFolder::open(Path::new(&layout.path))?;
        if let Some(digest) = layout.digest {
            let bytes = folder.read(&digest, DOCUMENT_BYTES_MAX)?;
            let listed = folder.listed(&digest).map(|descriptor| descriptor.media_type.clone());
            return Ok((Descriptor::of(listed.unwrap_or_else(|| own_media_type(&bytes)), &bytes), bytes));
        }
        let found = match <[Descriptor; 1]>::try_from(folder.find(layout.tag.as_deref())?) {
            Ok([only]) => only,
            Err(manifests) => choose(layout, platform, &manifests)?,
        };
        let bytes = folder.read(&found.digest, DOCUMENT_BYTES_MAX)?;
        Ok((Descriptor { size: bytes.len() as u64, ..found }, bytes))
    }

    fn fetched_document(
        &self,
        name: &ImageName,
        known: &MediaType,
    ) -> Result<(Descriptor, Vec<u8>), WorkerError> {
        let pinned = match name {
            ImageName::Registry(reference) => reference,
            ImageName::Layout(layout) => {
                let digest = layout.digest.ok_or_else(|| WorkerError::NoImage(name.to_string()))?;
                let bytes = ImageFolder::open(Path::new(&layout.path))?.read(&digest, DOCUMENT_BYTES_MAX)?;
                return Ok((Descriptor::of(known.clone(), &bytes), bytes));
            }
        };
        if let Some(digest) = pinned.digest()
            && let Ok(bytes) = self.store.content.read(&digest, DOCUMENT_BYTES_MAX)
        {
            return Ok((Descriptor::of(known.clone(), &bytes), bytes));
        }
        self.may_ask(name)?;
        let (descriptor, bytes) = self.network(self.client.manifest(pinned))?;
        // Checked before it is kept: a bad answer must not be found here later.
        Document::parse(&bytes, &descriptor.media_type).map_err(|e| document_error(name, e))?;
        self.store.content.put(&bytes)?;
        Ok((descriptor, bytes))
    }

    fn read_document(
        &self,
        name: &ImageName,
        platform: &Platform,
        top: Descriptor,
        bytes: &[u8],
    ) -> Result<Image, WorkerError> {
        let parsed = Document::parse(bytes, &top.media_type).map_err(|e| document_error(name, e))?;
        let (descriptor, bytes, manifest) = match parsed {
            Document::Manifest(manifest) => (top.clone(), bytes.to_vec(), *manifest),
            Document::Index(index) => {
                let chosen = choose(&name, platform, &index.manifests)?;
                let pinned = name.with_digest(chosen.digest);
                let (descriptor, bytes) = self.fetched_document(&pinned, &chosen.media_type)?;
                let manifest = self.manifest(name, &descriptor.media_type, &bytes)?;
                (descriptor, bytes, manifest)
            }
        };
        let config_bytes = self.small_blob(name, &manifest.config)?;
        let config = self.config(name, &config_bytes)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            let (layers, diff_ids) = (manifest.layers.len(), diff_ids.len());
            return Err(WorkerError::LayerCount { reference: name.to_string(), layers, diff_ids });
        }
        let layer = |(diff_id, blob): (&DiffId, &Descriptor)| {
            let blob = Some((blob.clone(), name.clone()));
            ImageLayer { diff_id: *diff_id, blob }
        };
        let layers = diff_ids.iter().zip(&manifest.layers).map(layer).collect();
        let config_digest = manifest.config.digest;
        let manifest = Some((descriptor.media_type.clone(), bytes));
        let (name, digest) = (name.clone(), descriptor.digest);
        Ok(Image {
            name,
            digest,
            top: top.digest,
            config,
            config_digest,
            manifest,
            aged: None,
            is_of_registry: false,
            layers,
        })
    }

    fn manifest(
        &self,
        name: &ImageName,
        media_type: &MediaType,
        bytes: &[u8],
    ) -> Result<Manifest, WorkerError> {
        match Document::parse(bytes, media_type).map_err(|e| document_error(name, e))? {
            Document::Manifest(manifest) => Ok(*manifest),
            Document::Index(_) => {
                let source = kiln_oci::DocumentError::Unsupported(media_type.clone());
                Err(document_error(name, source))
            }
        }
    }

    fn config(&self, name: &ImageName, bytes: &[u8]) -> Result<ImageConfig, WorkerError> {
        serde_json::from_slice(bytes)
            .map_err(|source| WorkerError::Config { reference: name.to_string(), source })
    }

    fn small_blob(&self, name: &ImageName, descriptor: &Descriptor) -> Result<Vec<u8>, WorkerError> {
        if self.store.content.has(descriptor)
            && let Ok(bytes) = self.store.content.read(&descriptor.digest, DOCUMENT_BYTES_MAX)
        {
            return Ok(bytes);
        }
        let bytes = match name {
            ImageName::Registry(reference) => {
                self.may_ask(name)?;
                self.network(self.client.blob_bytes(reference, descriptor, DOCUMENT_BYTES_MAX))?
            }
            ImageName::Layout(layout) => {
                ImageFolder::open(Path::new(&layout.path))?.read(&descriptor.digest, DOCUMENT_BYTES_MAX)?
            }
        };
        self.store.content.put(&bytes)?;
        Ok(bytes)
    }

    /// Sees to it that every layer of a stack is unpacked, all at once, and gives their snapshots.
    pub fn unpacked(&self, stack: &Stack) -> Result<Vec<SnapshotId>, WorkerError> {
        let mut missing = Vec::new();
        for (i, layer) in stack.0.iter().enumerate() {
            if layer.snapshot.get().is_none() && !self.known(stack, i)? {
                missing.push(i);
            }
        }
        if !missing.is_empty() {
            self.unpack_missing(stack, &missing)?;
        }
        Ok(stack.0.iter().filter_map(|l| l.snapshot.get().cloned()).collect())
    }

    /// Whether all layers of a stack are unpacked here.
    pub fn are_here(&self, stack: &Stack) -> Result<bool, WorkerError> {
        for (at, layer) in stack.0.iter().enumerate() {
            if layer.snapshot.get().is_none() && !self.known(stack, at)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn known(&self, stack: &Stack, at: usize) -> Result<bool, WorkerError> {
        let layer = &stack.0[at];
        let Some(row) = self.store.meta.layer_of(&layer.diff_id()?, &stack.below(at)?)? else {
            return Ok(false);
        };
        // Another thread may have set the same.
        let _ = layer.snapshot.set(row.snapshot);
        Ok(true)
    }

    fn unpack_missing(&self, stack: &Stack, missing: &[usize]) -> Result<(), WorkerError> {
        // One process at a time for each layer: others find it when they get the lock. All take the locks
        // in the same order, so that nobody waits for somebody who waits for him.
        let name = |at: &usize| Ok(format!("layer-{}", stack.0[*at].diff_id()?.0.hex()));
        let names: BTreeSet<String> = missing.iter().map(name).collect::<Result<_, WorkerError>>()?;
        let mut held = Vec::new();
        for name in &names {
            held.push(self.store.lock(name, self.cancel)?);
        }
        let mut left = Vec::new();
        for at in missing {
            if !self.known(stack, *at)? {
                left.push(*at);
            }
        }
        let unpack = |at: &usize| {
            let started = Instant::now();
            let committed = self.store.with_space(|_| self.unpack(&stack.0[*at]))?;
            Ok((*at, committed, started.elapsed()))
        };
        // A layer that is there twice is fetched once: the second time its blob is here.
        let mut seen = BTreeSet::new();
        let is_first = |at: &usize| stack.0[*at].blob.as_ref().is_none_or(|blob| seen.insert(blob.digest));
        let (left, again): (Vec<usize>, Vec<usize>) = left.into_iter().partition(is_first);
        let mut unpacked = at_once(&left, LAYERS_AT_ONCE, unpack)?;
        unpacked.extend(at_once(&again, LAYERS_AT_ONCE, unpack)?);
        unpacked.sort_by_key(|(at, ..)| *at);
        for (at, committed, took) in unpacked {
            self.record(stack, at, committed, took)?;
            self.made.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether a layer was unpacked, so that the store must be synced before a name is given.
    pub fn made_something(&self) -> bool {
        self.made.load(Ordering::Relaxed)
    }

    /// Remembers where the layers of a stack that were left at their registries are to be had. Those that
    /// were left in a folder are brought here: folders come and go.
    pub fn remember_origins(&self, stack: &Stack) -> Result<(), WorkerError> {
        for layer in stack.0.iter() {
            if let (Some(blob), Some(origin)) = (&layer.blob, &layer.origin) {
                if layer.snapshot.get().is_none() && layer.registry_image().is_none() {
                    self.blob_of(layer)?;
                }
                self.store.meta.add_blob(&layer.diff_id()?, "pulled", blob)?;
                if let Origin::Image(name) = origin {
                    self.store.meta.set_origin(&layer.diff_id()?, &name.to_string())?;
                } else if let Some(image) = origin.registry_image() {
                    self.store.meta.set_origin(&layer.diff_id()?, &image.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// Notes an unpacked layer; those below it are noted already.
    fn record(
        &self,
        stack: &Stack,
        at: usize,
        unpacked: Committed,
        took: Duration,
    ) -> Result<(), WorkerError> {
        let layer = &stack.0[at];
        let depends = unpacked.depends_on_below();
        let committed = if depends {
            let below: Vec<SnapshotId> =
                stack.0[..at].iter().filter_map(|l| l.snapshot.get().copied()).collect();
            self.store.snapshots.settle(&unpacked.id, &below)?
        } else {
            unpacked
        };
        let row = LayerRow::of(&committed);
        // What a shared cache has was made when it says, not now: else the same image had another config here.
        let created_s = layer.created_s.unwrap_or(row.created_s);
        let id = self.store.meta.add_layer(&LayerRow { created_s, ..row })?;
        let from = layer.origin.as_ref().map_or_else(|| "an image".to_owned(), Origin::name);
        self.store.meta.set_cost(&[id], took.as_millis() as u64, &format!("FROM {from}"))?;
        if depends {
            self.store.meta.add_rebased(&committed.diff_id, &stack.below(at)?, id)?;
        }
        if let Some(blob) = &layer.blob {
            self.store.meta.add_blob(&committed.diff_id, "pulled", blob)?;
        }
        // Another thread may have set the same.
        let _ = layer.snapshot.set(committed.id);
        Ok(())
    }

    /// Fetches a layer if it is not here as a blob, and unpacks it while it comes in.
    fn unpack(&self, layer: &Layer) -> Result<Committed, WorkerError> {
        self.retried(layer.origin.as_ref(), || self.try_unpack(layer)).map_err(|error| lost(layer, error))
    }

    fn try_unpack(&self, layer: &Layer) -> Result<Committed, WorkerError> {
        let (Some(blob), Some(origin)) = (&layer.blob, &layer.origin) else {
            return Err(WorkerError::NoImage(layer.diff_id()?.to_string()));
        };
        let compression = compression_of(origin, &blob.media_type)?;
        if self.store.content.has(blob) {
            let file = self.store.content.blob(&blob.digest)?;
            let mut tar =
                decoder(file, compression).map_err(WorkerError::io("decompress", blob.digest.to_string()))?;
            return Ok(self.store.snapshots.unpack(&mut tar, &layer.diff_id()?)?);
        }
        let (sender, receiver) = sync_channel::<Vec<u8>>(PIECES_MAX);
        std::thread::scope(|scope| {
            let fetching = scope.spawn(move || self.fetch(origin, blob, Some(sender)));
            let unpacked = decoder(Pieces::new(receiver), compression)
                .map_err(WorkerError::io("decompress", blob.digest.to_string()))
                .and_then(|mut tar| Ok(self.store.snapshots.unpack(&mut tar, &layer.diff_id()?)?));
            match fetching.join() {
                // What is wrong with the blob explains what is wrong with the tar in it.
                Ok(fetched) => fetched.and(unpacked),
                Err(_) => unpacked,
            }
        })
    }

    /// Fetches a blob into the content store, verified; its bytes go to `copy` as well.
    fn fetch(
        &self,
        origin: &Origin,
        blob: &Descriptor,
        copy: Option<SyncSender<Vec<u8>>>,
    ) -> Result<(), WorkerError> {
        let mut writer = self.store.content.writer()?;
        let mut copy = copy;
        let mut on_bytes = |bytes: &[u8]| -> io::Result<()> {
            writer.write_all(bytes)?;
            (self.transfer)(Transfer {
                digest: &blob.digest,
                done_bytes: writer.bytes(),
                total_bytes: blob.size,
            });
            // Nobody reads any more when the tar has ended or was bad; the blob is fetched all the same.
            if copy.as_ref().is_some_and(|c| c.send(bytes.to_vec()).is_err()) {
                copy = None;
            }
            Ok(())
        };
        match origin {
            Origin::Cache(place) => {
                let read = place.read(blob, &mut on_bytes);
                read.map_err(|error| error.of(&place.name()))?;
                Ok(writer.commit_verified_as(blob)?)
            }
            Origin::Image(ImageName::Registry(reference)) => {
                self.may_ask(&format_args!("layer {} of {reference}", blob.digest))?;
                self.network(self.client.pull_blob(reference, blob, &mut on_bytes))?;
                Ok(writer.commit_verified_as(blob)?)
            }
            Origin::Image(ImageName::Layout(layout)) => {
                let folder = ImageFolder::open(Path::new(&layout.path))?;
                let path = folder.path_of(&blob.digest);
                let mut file = folder.blob(&blob.digest)?;
                let mut piece = vec![0; PIECE_BYTES];
                loop {
                    if self.cancel.is_cancelled() {
                        return Err(WorkerError::Canceled);
                    }
                    match file.read(&mut piece).map_err(WorkerError::io("read", &path))? {
                        0 => break,
                        n => on_bytes(&piece[..n]).map_err(WorkerError::io("keep", &path))?,
                    }
                }
                writer.commit_verified_as(blob).map_err(|error| match error {
                    LayoutError::Mismatch { got, .. } => folder.mismatch(&blob.digest, got).into(),
                    other => other.into(),
                })
            }
        }
    }

    /// Sees to it that the blobs of an image's layers are here, without unpacking them.
    pub fn blobs(&self, image: &Image) -> Result<(), WorkerError> {
        let blobs = image.layers.iter().filter_map(|layer| layer.blob.as_ref());
        // The same layer may be there twice.
        let missing: BTreeMap<Digest, _> = blobs
            .filter(|(blob, _)| !self.store.content.has(blob))
            .map(|(blob, origin)| (blob.digest, (blob, origin)))
            .collect();
        let missing: Vec<_> = missing.into_values().collect();
        let fetch = |(blob, origin): &(&Descriptor, &ImageName)| {
            let origin = Origin::Image((*origin).clone());
            self.retried(Some(&origin), || self.fetch(&origin, blob, None))
        };
        at_once(&missing, LAYERS_AT_ONCE, fetch).map(|_| ())
    }

    /// Brings a layer's blob here that was left at its registry.
    pub fn blob_of(&self, layer: &Layer) -> Result<Option<Descriptor>, WorkerError> {
        let Some(blob) = &layer.blob else { return Ok(None) };
        if !self.store.content.has(blob) {
            let Some(origin) = &layer.origin else { return Ok(None) };
            let fetched = self.retried(Some(origin), || self.fetch(origin, blob, None));
            fetched.map_err(|error| lost(layer, error))?;
        }
        Ok(Some(blob.clone()))
    }
}

/// What went wrong with a layer of a shared cache is the cache's fault, and no reason for a build to fail.
fn lost(layer: &Layer, error: WorkerError) -> WorkerError {
    match (&layer.origin, error) {
        (_, WorkerError::Canceled) => WorkerError::Canceled,
        (Some(Origin::Cache(place)), error) => {
            WorkerError::CacheLayer { place: place.name(), error: Box::new(error) }
        }
        (_, error) => error,
    }
}

fn document_error(name: &ImageName, source: kiln_oci::DocumentError) -> WorkerError {
    WorkerError::Document { reference: name.to_string(), source }
}

fn own_media_type(bytes: &[u8]) -> MediaType {
    let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    match value.get("mediaType").and_then(|v| v.as_str()) {
        Some(text) => MediaType::parse(text),
        None if value.get("manifests").is_some() => MediaType::OciIndex,
        None => MediaType::OciManifest,
    }
}

/// Whether what an index lists is an image. Attestations are none, and nothing that is said to be an artifact.
pub(crate) fn is_image(listed: &Descriptor) -> bool {
    let is_artifact = listed.artifact_type.as_deref().is_some_and(|kind| {
        !matches!(MediaType::parse(kind), MediaType::OciConfig | MediaType::DockerConfig)
    });
    listed.media_type.is_manifest()
        && !is_artifact
        && !listed.annotations.contains_key("vnd.docker.reference.type")
}

/// The one of several manifests that serves a platform best.
fn choose(
    name: &dyn std::fmt::Display,
    platform: &Platform,
    manifests: &[Descriptor],
) -> Result<Descriptor, WorkerError> {
    let images = manifests.iter().filter(|d| is_image(d));
    let best = images
        .clone()
        .filter_map(|d| Some((d.platform.as_ref().map_or(Some(100), |have| platform.rank(have))?, d)))
        .min_by_key(|(rank, _)| *rank);
    match best {
        Some((_, descriptor)) => Ok(descriptor.clone()),
        None => {
            let has = images.filter_map(|d| d.platform.as_ref()).map(Platform::to_string).collect();
            Err(WorkerError::NoPlatform { reference: name.to_string(), platform: platform.to_string(), has })
        }
    }
}

fn compression_of(origin: &Origin, media_type: &MediaType) -> Result<Compression, WorkerError> {
    Compression::of_layer(media_type).ok_or_else(|| WorkerError::Document {
        reference: origin.name(),
        source: kiln_oci::DocumentError::Unsupported(media_type.clone()),
    })
}
