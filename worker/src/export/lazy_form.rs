//! Layers to blobs in the form of eStargz, which are other layers than those that they are made from: the digest of their
//! tar has the TOC in it. It does not know what such a blob looks like.

use super::Exporter;
use crate::WorkerError;
use crate::estargz::{self, Estargz};
use crate::layer::{Layer, Stack};
use crate::layer_form::LayerForm;
use crate::output::stopping::Stopping;
use kiln_oci::{Descriptor, DiffId, MediaType};
use kiln_snapshotter::SnapshotId;
use kiln_snapshotter::compress::{Compression, decoder};
use std::io::{self, BufReader, BufWriter, PipeWriter, Write};

/// What is between who writes the tar and who reads it, at most.
const BUFFER_BYTES: usize = 1 << 20;

/// Where a layer's tar comes from.
enum From<'d> {
    /// Its files, with no time after one.
    Snapshot(SnapshotId, Option<i64>),
    /// The blob that it came as.
    Blob(&'d Descriptor),
}

impl Exporter<'_> {
    /// The blob of a layer in this form, and the digest of what it decompresses to: of the layer's files, with no time
    /// after the first of the pair, or of the blob that it came as.
    pub(super) fn estargz_blob(
        &self,
        (stack, at): (&Stack, usize),
        form: LayerForm,
        (latest_s, came): (Option<i64>, Option<&Descriptor>),
    ) -> Result<(DiffId, Descriptor), WorkerError> {
        let layer = &stack.0[at];
        let diff_id = layer.diff_id()?;
        let suffix = latest_s.map_or_else(String::new, |s| format!(" until {s}"));
        let name = form.name() + &suffix;
        if let Some(known) = self.known_estargz(layer, &name)? {
            return Ok(known);
        }
        let _alone = self.store.lock(&format!("blob-{}", diff_id.0.hex()), self.images.cancel)?;
        if let Some(known) = self.known_estargz(layer, &name)? {
            return Ok(known);
        }
        let from = match (came, layer.snapshot.get()) {
            (Some(blob), _) => From::Blob(blob),
            (None, Some(id)) => From::Snapshot(*id, latest_s),
            (None, None) => From::Snapshot(self.images.unpacked(stack)?[at], latest_s),
        };
        let mut writer = self.store.content.writer()?;
        let made = self.task(&format!("compressing layer {}", &diff_id.0.hex()[..12]), || {
            let out = BufWriter::with_capacity(BUFFER_BYTES, &mut writer);
            let mut out = Stopping { inner: out, cancel: self.images.cancel };
            let made = self.pack(&from, &mut out, form.encoder_level().unsigned_abs())?;
            out.inner.flush().map_err(WorkerError::io("compress", "a layer"))?;
            Ok(made)
        })?;
        let (digest, size) = writer.commit()?;
        let blob = Descriptor::new(form.media_type(), digest, size);
        let Estargz { toc, tar, tar_bytes } = made;
        let meta = &self.store.meta;
        meta.add_blob(&diff_id, &toc_name(&name), &Descriptor::new(MediaType::OciLayer, toc, 0))?;
        meta.add_blob(&diff_id, &tar_name(&name), &Descriptor::new(MediaType::OciLayer, tar, tar_bytes))?;
        meta.add_blob(&diff_id, &name, &blob)?;
        Ok((DiffId(made.tar), annotated(blob, &made)))
    }

    fn known_estargz(&self, layer: &Layer, name: &str) -> Result<Option<(DiffId, Descriptor)>, WorkerError> {
        let known = |name: &str| self.store.meta.blob(&layer.diff_id()?, name);
        let (Some(blob), Some(tar), Some(toc)) =
            (known(name)?, known(&tar_name(name))?, known(&toc_name(name))?)
        else {
            return Ok(None);
        };
        let made = Estargz { toc: toc.digest, tar: tar.digest, tar_bytes: tar.size };
        Ok(self.store.content.has(&blob).then(|| (DiffId(made.tar), annotated(blob, &made))))
    }

    /// Writes the tar on a thread of its own while it is read here.
    fn pack(&self, from: &From<'_>, out: &mut dyn Write, level: u32) -> Result<Estargz, WorkerError> {
        let failed = || WorkerError::io("compress", "a layer");
        let (reader, pipe) = io::pipe().map_err(failed())?;
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || self.write_tar(from, pipe));
            let made = estargz::write(&mut BufReader::with_capacity(BUFFER_BYTES, reader), out, level);
            let written = writing.join().unwrap_or(Err(WorkerError::Panicked));
            match (made, written) {
                (Ok(made), Ok(())) => Ok(made),
                // Who reads no more breaks the pipe, and knows why.
                (Err(error), _) if error.kind() != io::ErrorKind::UnexpectedEof => Err(failed()(error)),
                (_, Err(error)) => Err(error),
                (Err(error), Ok(())) => Err(failed()(error)),
            }
        })
    }

    fn write_tar(&self, from: &From<'_>, pipe: PipeWriter) -> Result<(), WorkerError> {
        let mut pipe = BufWriter::with_capacity(BUFFER_BYTES, pipe);
        match from {
            From::Snapshot(id, None) => self.store.snapshots.write_layer(id, &mut pipe)?,
            From::Snapshot(id, Some(latest_s)) => {
                self.store.snapshots.write_layer_clamped(id, *latest_s, &mut pipe)?;
            }
            From::Blob(blob) => {
                let compression = Compression::of_layer(&blob.media_type).ok_or_else(|| {
                    WorkerError::Unsupported(format!("a layer of type {}", blob.media_type))
                })?;
                let failed = || WorkerError::io("decompress", blob.digest.to_string());
                let file = self.store.content.blob(&blob.digest)?;
                io::copy(&mut decoder(file, compression).map_err(failed())?, &mut pipe).map_err(failed())?;
            }
        }
        pipe.flush().map_err(WorkerError::io("compress", "a layer"))
    }
}

/// Under what the digest and the length of what it decompresses to are remembered.
fn tar_name(name: &str) -> String {
    format!("tar of {name}")
}

/// And the digest of the TOC.
fn toc_name(name: &str) -> String {
    format!("toc of {name}")
}

fn annotated(mut blob: Descriptor, made: &Estargz) -> Descriptor {
    blob.annotations.insert(estargz::TOC_DIGEST.to_owned(), made.toc.to_string());
    blob.annotations.insert(estargz::UNCOMPRESSED_SIZE.to_owned(), made.tar_bytes.to_string());
    blob
}
