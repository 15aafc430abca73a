//! Images: what a reference stands for, in the store or at a registry, and their layers brought here.
//! It does not know what a build does with them.

use crate::layer::{Layer, Stack};
use crate::meta::{ImageRow, LayerRow};
use crate::store::Store;
use crate::{Transfer, WorkerError};
use kiln_oci::{
    DOCUMENT_BYTES_MAX, Descriptor, DiffId, Digest, Document, ImageConfig, Index, Manifest, MediaType,
    Platform, Reference,
};
use kiln_registry::Client;
use kiln_snapshotter::compress::{Compression, decoder};
use kiln_snapshotter::{Committed, SnapshotId};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::runtime::Runtime;

/// Pieces of a blob that are between the network and the disk at once; each some ten kilobytes.
const PIECES_MAX: usize = 64;

/// What a reference stands for.
#[derive(Clone, Debug)]
pub struct Image {
    /// As it was asked for, normalised.
    pub reference: Reference,
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
    layers: Vec<(DiffId, Option<Descriptor>)>,
}

/// Access to images.
pub(crate) struct Images<'a> {
    pub store: &'a Store,
    pub client: &'a Client,
    pub runtime: &'a Runtime,
    pub transfer: &'a (dyn Fn(Transfer<'_>) + Sync),
}

impl Image {
    /// Its layers, as a result of a step.
    pub(crate) fn stack(&self) -> Stack {
        let layer = |(diff_id, blob): &(DiffId, Option<Descriptor>)| {
            let origin = blob.is_some().then(|| self.reference.clone());
            Arc::new(Layer::of_image(*diff_id, blob.clone(), origin))
        };
        self.layers.iter().map(layer).collect()
    }
}

impl Images<'_> {
    /// What `reference` stands for on `platform`: in the store, unless `pull` says to ask the registry, or
    /// at its registry.
    pub fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        pull: bool,
    ) -> Result<Image, WorkerError> {
        if !pull && let Some(row) = self.store.meta.image(&reference.to_string())? {
            let image = self.of_store(reference, &row)?;
            if platform.rank(&image.config.platform()).is_some() {
                return Ok(image);
            }
        }
        let (descriptor, bytes) = self.document(reference)?;
        self.read_document(reference, platform, descriptor, &bytes)
    }

    /// An image that the store has under a name.
    pub fn of_store(&self, reference: &Reference, row: &ImageRow) -> Result<Image, WorkerError> {
        let config = self.config(reference, &self.store.content.read(&row.config, DOCUMENT_BYTES_MAX)?)?;
        let manifest = match &row.manifest {
            Some((digest, media_type)) => {
                Some((media_type.clone(), self.store.content.read(digest, DOCUMENT_BYTES_MAX)?))
            }
            None => None,
        };
        let blobs = match &manifest {
            Some((media_type, bytes)) => self.manifest(reference, media_type, bytes)?.layers,
            None => Vec::new(),
        };
        let layers = row.diff_ids.iter().enumerate().map(|(i, d)| (*d, blobs.get(i).cloned())).collect();
        let digest = row.manifest.as_ref().map_or(row.config, |m| m.0);
        let reference = reference.clone();
        Ok(Image { reference, digest, top: digest, config, config_digest: row.config, manifest, layers })
    }

    /// The manifest or index of a reference: only its digest is asked for where the store has the bytes.
    fn document(&self, reference: &Reference) -> Result<(Descriptor, Vec<u8>), WorkerError> {
        let pinned = reference.digest().and_then(|digest| {
            let bytes = self.store.content.read(&digest, DOCUMENT_BYTES_MAX).ok()?;
            Some((Descriptor::of(own_media_type(&bytes), &bytes), bytes))
        });
        if let Some(found) = pinned {
            return Ok(found);
        }
        let now = self.runtime.block_on(self.client.resolve(reference))?.descriptor;
        if let Ok(bytes) = self.store.content.read(&now.digest, DOCUMENT_BYTES_MAX) {
            return Ok((Descriptor { size: bytes.len() as u64, ..now }, bytes));
        }
        self.fetched_document(&reference.with_digest(now.digest), &now.media_type)
    }

    fn fetched_document(
        &self,
        pinned: &Reference,
        known: &MediaType,
    ) -> Result<(Descriptor, Vec<u8>), WorkerError> {
        if let Some(digest) = pinned.digest()
            && let Ok(bytes) = self.store.content.read(&digest, DOCUMENT_BYTES_MAX)
        {
            return Ok((Descriptor::of(known.clone(), &bytes), bytes));
        }
        let (descriptor, bytes) = self.runtime.block_on(self.client.manifest(pinned))?;
        // Checked before it is kept: a bad answer must not be found here later.
        Document::parse(&bytes, &descriptor.media_type).map_err(|e| document_error(pinned, e))?;
        self.store.content.put(&bytes)?;
        Ok((descriptor, bytes))
    }

    fn read_document(
        &self,
        reference: &Reference,
        platform: &Platform,
        top: Descriptor,
        bytes: &[u8],
    ) -> Result<Image, WorkerError> {
        let parsed = Document::parse(bytes, &top.media_type).map_err(|e| document_error(reference, e))?;
        let (descriptor, bytes, manifest) = match parsed {
            Document::Manifest(manifest) => (top.clone(), bytes.to_vec(), *manifest),
            Document::Index(index) => {
                let chosen = choose(reference, platform, &index)?;
                let pinned = reference.with_digest(chosen.digest);
                let (descriptor, bytes) = self.fetched_document(&pinned, &chosen.media_type)?;
                let manifest = self.manifest(reference, &descriptor.media_type, &bytes)?;
                (descriptor, bytes, manifest)
            }
        };
        let config_bytes = self.small_blob(reference, &manifest.config)?;
        let config = self.config(reference, &config_bytes)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            let (layers, diff_ids) = (manifest.layers.len(), diff_ids.len());
            return Err(WorkerError::LayerCount { reference: reference.to_string(), layers, diff_ids });
        }
        let layers = diff_ids.iter().copied().zip(manifest.layers.iter().cloned().map(Some)).collect();
        let config_digest = manifest.config.digest;
        let manifest = Some((descriptor.media_type.clone(), bytes));
        let (reference, digest) = (reference.clone(), descriptor.digest);
        Ok(Image { reference, digest, top: top.digest, config, config_digest, manifest, layers })
    }

    fn manifest(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        bytes: &[u8],
    ) -> Result<Manifest, WorkerError> {
        match Document::parse(bytes, media_type).map_err(|e| document_error(reference, e))? {
            Document::Manifest(manifest) => Ok(*manifest),
            Document::Index(_) => {
                let source = kiln_oci::DocumentError::Unsupported(media_type.clone());
                Err(document_error(reference, source))
            }
        }
    }

    fn config(&self, reference: &Reference, bytes: &[u8]) -> Result<ImageConfig, WorkerError> {
        serde_json::from_slice(bytes)
            .map_err(|source| WorkerError::Config { reference: reference.to_string(), source })
    }

    fn small_blob(&self, reference: &Reference, descriptor: &Descriptor) -> Result<Vec<u8>, WorkerError> {
        if self.store.content.has(descriptor)
            && let Ok(bytes) = self.store.content.read(&descriptor.digest, DOCUMENT_BYTES_MAX)
        {
            return Ok(bytes);
        }
        let bytes =
            self.runtime.block_on(self.client.blob_bytes(reference, descriptor, DOCUMENT_BYTES_MAX))?;
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

    fn known(&self, stack: &Stack, at: usize) -> Result<bool, WorkerError> {
        let layer = &stack.0[at];
        let Some(row) = self.store.meta.layer_of(&layer.diff_id, &stack.below(at))? else { return Ok(false) };
        // Another thread may have set the same.
        let _ = layer.snapshot.set(row.snapshot);
        Ok(true)
    }

    fn unpack_missing(&self, stack: &Stack, missing: &[usize]) -> Result<(), WorkerError> {
        // One process at a time for each image: others find the layers when they get the lock.
        let top = missing.last().copied().unwrap_or_default();
        let _alone = self.store.lock(&format!("unpack-{}", stack.below(top + 1)))?;
        let mut left = Vec::new();
        for at in missing {
            if !self.known(stack, *at)? {
                left.push(*at);
            }
        }
        let unpacked: Vec<Result<(usize, Committed), WorkerError>> = std::thread::scope(|scope| {
            let run = |at: usize| move || Ok((at, self.unpack(&stack.0[at])?));
            let threads: Vec<_> = left.iter().map(|at| scope.spawn(run(*at))).collect();
            threads.into_iter().filter_map(|t| t.join().ok()).collect()
        });
        if unpacked.len() != left.len() {
            return Err(WorkerError::Unsupported("a layer whose unpacking panicked".to_owned()));
        }
        for result in unpacked {
            let (at, committed) = result?;
            self.record(stack, at, committed)?;
        }
        Ok(())
    }

    /// Notes an unpacked layer; those below it are noted already.
    fn record(&self, stack: &Stack, at: usize, unpacked: Committed) -> Result<(), WorkerError> {
        let layer = &stack.0[at];
        let depends = unpacked.depends_on_below();
        let committed = if depends {
            let below: Vec<SnapshotId> =
                stack.0[..at].iter().filter_map(|l| l.snapshot.get().copied()).collect();
            self.store.snapshots.settle(&unpacked.id, &below)?
        } else {
            unpacked
        };
        let id = self.store.meta.add_layer(&LayerRow::of(&committed))?;
        if depends {
            self.store.meta.add_rebased(&committed.diff_id, &stack.below(at), id)?;
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
        let (Some(blob), Some(origin)) = (&layer.blob, &layer.origin) else {
            return Err(WorkerError::NoImage(layer.diff_id.to_string()));
        };
        let compression = compression_of(origin, &blob.media_type)?;
        if self.store.content.has(blob) {
            let file = self.store.content.blob(&blob.digest)?;
            let mut tar =
                decoder(file, compression).map_err(WorkerError::io("decompress", blob.digest.to_string()))?;
            return Ok(self.store.snapshots.unpack(&mut tar, &layer.diff_id)?);
        }
        let (sender, receiver) = sync_channel::<Vec<u8>>(PIECES_MAX);
        std::thread::scope(|scope| {
            let fetching = scope.spawn(move || self.fetch(origin, blob, Some(sender)));
            let unpacked = decoder(Pieces::new(receiver), compression)
                .map_err(WorkerError::io("decompress", blob.digest.to_string()))
                .and_then(|mut tar| Ok(self.store.snapshots.unpack(&mut tar, &layer.diff_id)?));
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
        origin: &Reference,
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
        self.runtime.block_on(self.client.pull_blob(origin, blob, &mut on_bytes))?;
        Ok(writer.commit_verified_as(blob)?)
    }

    /// Sees to it that the blobs of an image's layers are here, without unpacking them.
    pub fn blobs(&self, image: &Image) -> Result<(), WorkerError> {
        for (_, blob) in &image.layers {
            if let Some(blob) = blob
                && !self.store.content.has(blob)
            {
                self.fetch(&image.reference, blob, None)?;
            }
        }
        Ok(())
    }

    /// Brings a layer's blob here that was left at its registry.
    pub fn blob_of(&self, layer: &Layer) -> Result<Option<Descriptor>, WorkerError> {
        let Some(blob) = &layer.blob else { return Ok(None) };
        if !self.store.content.has(blob) {
            let Some(origin) = &layer.origin else { return Ok(None) };
            self.fetch(origin, blob, None)?;
        }
        Ok(Some(blob.clone()))
    }
}

fn document_error(reference: &Reference, source: kiln_oci::DocumentError) -> WorkerError {
    WorkerError::Document { reference: reference.to_string(), source }
}

fn own_media_type(bytes: &[u8]) -> MediaType {
    let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    match value.get("mediaType").and_then(|v| v.as_str()) {
        Some(text) => MediaType::parse(text),
        None if value.get("manifests").is_some() => MediaType::OciIndex,
        None => MediaType::OciManifest,
    }
}

/// The manifest of an index that serves a platform best. Attestations are no images.
fn choose(reference: &Reference, platform: &Platform, index: &Index) -> Result<Descriptor, WorkerError> {
    let images = index
        .manifests
        .iter()
        .filter(|d| d.media_type.is_manifest() && !d.annotations.contains_key("vnd.docker.reference.type"));
    let best = images
        .clone()
        .filter_map(|d| Some((d.platform.as_ref().map_or(Some(100), |have| platform.rank(have))?, d)))
        .min_by_key(|(rank, _)| *rank);
    match best {
        Some((_, descriptor)) => Ok(descriptor.clone()),
        None => {
            let has = images.filter_map(|d| d.platform.as_ref()).map(Platform::to_string).collect();
            Err(WorkerError::NoPlatform {
                reference: reference.to_string(),
                platform: platform.to_string(),
                has,
            })
        }
    }
}

fn compression_of(origin: &Reference, media_type: &MediaType) -> Result<Compression, WorkerError> {
    match media_type {
        MediaType::OciLayer | MediaType::DockerLayer => Ok(Compression::None),
        MediaType::OciLayerGzip | MediaType::DockerLayerGzip => Ok(Compression::Gzip),
        MediaType::OciLayerZstd => Ok(Compression::Zstd),
        other => Err(document_error(origin, kiln_oci::DocumentError::Unsupported(other.clone()))),
    }
}

/// Reads the pieces that a channel brings.
struct Pieces {
    receiver: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Pieces {
    fn new(receiver: Receiver<Vec<u8>>) -> Pieces {
        Pieces { receiver, piece: Vec::new(), at: 0 }
    }
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.receiver.recv() {
                Ok(piece) => (self.piece, self.at) = (piece, 0),
                Err(_) => return Ok(0),
            }
        }
        let n = buf.len().min(self.piece.len() - self.at);
        buf[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
