//! The files of images: compared, written to a tar, made from one. It does not know builds.

use super::Worker;
use crate::WorkerError;
use crate::difference::{self, Difference};
use crate::export::{Exporter, config_bytes};
use crate::image_name::ImageName;
use crate::images::{Image, Images, PullPolicy};
use crate::incoming::ArchiveFlaw;
use crate::layer::{Layer, Stack};
use crate::layer_form::LayerForm;
use crate::meta::ImageRow;
use crate::output::{Part, to_tar};
use crate::progress::{Progress, ProgressSink, Transfer};
use crate::store::now_s;
use jiff::Timestamp;
use kiln_oci::{Descriptor, DiffId, Digest, Hasher, History, ImageConfig, Platform, Reference};
use kiln_snapshotter::TreeView;
use kiln_snapshotter::archive::sniff;
use kiln_snapshotter::compress::{Encoder, decoder};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// What is read of a tar at once.
const PIECE_BYTES: usize = 256 << 10;

/// A root file system that becomes an image.
#[derive(Clone, Debug)]
pub struct Import {
    /// What a container gets, and the platform.
    pub config: ImageConfig,
    /// What the history says of it.
    pub message: String,
    /// The time that it says it was made, in seconds since 1970; `None` is now.
    pub source_date_epoch_s: Option<i64>,
}

impl Worker {
    /// What tells two images apart. Those that the store has not are asked for at their registries. With
    /// `times`, times count too.
    pub fn diff(
        &self,
        before: &ImageName,
        after: &ImageName,
        platform: &Platform,
        times: bool,
        progress: &ProgressSink<'_>,
    ) -> Result<Difference, WorkerError> {
        let _alive = self.store.mark_alive()?;
        let transfer = |t: Transfer<'_>| progress.send(Progress::Transfer(t));
        let images = self.images(&transfer, &self.cancel)?;
        let (before, after) = (self.any(&images, before, platform)?, self.any(&images, after, platform)?);
        let layers = |image: &Image| -> Result<Vec<(DiffId, u64)>, WorkerError> {
            let diff_ids = image.config.rootfs.diff_ids.iter();
            diff_ids.map(|diff_id| Ok((*diff_id, self.size_bytes(&[*diff_id])?))).collect()
        };
        self.capped(progress, || {
            let (old, new) = (self.view(&images, &before)?, self.view(&images, &after)?);
            Ok(Difference {
                files: difference::files(&old, &new, times),
                layers: difference::layers(&layers(&before)?, &layers(&after)?),
                config: difference::settings(&before.config, &after.config, times),
            })
        })
    }

    /// An image of the store by its name or id, else as a build would find it.
    fn any(&self, images: &Images<'_>, name: &ImageName, platform: &Platform) -> Result<Image, WorkerError> {
        let ImageName::Registry(reference) = name else {
            return images.resolve(name, platform, PullPolicy::Usual);
        };
        let row = match self.row(reference) {
            Ok(row) => row,
            Err(WorkerError::NoImage(_)) => return images.resolve(name, platform, PullPolicy::Usual),
            Err(error) => return Err(error),
        };
        let mut named = images.named(reference, row)?;
        if named.row.index().is_none()
            && let Some((_, image)) = named.images.pop()
        {
            return Ok(image);
        }
        let has = named.images.iter().map(|(platform, _)| platform.to_string()).collect();
        let ranked = named.images.into_iter().filter_map(|(has, image)| Some((platform.rank(&has)?, image)));
        let (reference, platform) = (reference.to_string(), platform.to_string());
        let best = ranked.min_by_key(|(rank, _)| *rank).map(|(_, image)| image);
        best.ok_or(WorkerError::NoPlatform { reference, platform, has })
    }

    fn view(&self, images: &Images<'_>, image: &Image) -> Result<TreeView, WorkerError> {
        let layers = images.unpacked(&image.stack())?;
        let indexes = layers.iter().map(|id| self.store.snapshots.index(id));
        Ok(TreeView::new(indexes.collect::<Result<_, _>>()?))
    }

    /// Writes the files of an image of the store to a tar; `None` is standard output.
    pub fn export(
        &self,
        name: &Reference,
        platform: &Platform,
        dest: Option<&Path>,
        progress: &ProgressSink<'_>,
    ) -> Result<(), WorkerError> {
        let _alive = self.store.mark_alive()?;
        let transfer = |t: Transfer<'_>| progress.send(Progress::Transfer(t));
        let images = self.images(&transfer, &self.cancel)?;
        let exporter = Exporter::new(&self.store, &images, progress);
        self.row(name)?;
        let image = self.any(&images, &name.clone().into(), platform)?;
        let (platform, statements) = (platform.to_string(), Vec::new());
        let part = Part { platform, stack: image.stack(), folder: None, time_s: 0, statements };
        self.capped(progress, || exporter.task("exporting to tar", || to_tar(&exporter, &[part], dest)))
    }

    /// Makes a tar of a root file system, compressed or not, an image of one layer. Gives its id.
    pub fn import(
        &self,
        shown: &str,
        stream: impl Read + Send,
        import: Import,
        name: &Reference,
        progress: &ProgressSink<'_>,
    ) -> Result<Digest, WorkerError> {
        let _alive = self.store.mark_alive()?;
        let transfer = |t: Transfer<'_>| progress.send(Progress::Transfer(t));
        let images = self.images(&transfer, &self.cancel)?;
        let exporter = Exporter::new(&self.store, &images, progress);
        self.capped(progress, || {
            let (diff_id, blob) = exporter.task("reading", || self.layer_of(shown, stream))?;
            let layer = Layer::of_image(diff_id, Some(blob.clone()), Some(name.clone().into()));
            let stack: Stack = std::iter::once(Arc::new(layer)).collect();
            exporter.task("unpacking", || images.unpacked(&stack).map(drop))?;
            let Import { mut config, message, source_date_epoch_s } = import;
            let time = Timestamp::from_second(source_date_epoch_s.unwrap_or_else(now_s)).ok();
            config.created = time.map(|time| time.to_string());
            config.rootfs.diff_ids = vec![diff_id];
            config.history =
                vec![History { created: config.created.clone(), comment: message, ..History::default() }];
            let id = self.store.content.put(&config_bytes(&config))?;
            self.store.meta.add_blob(&diff_id, "pulled", &blob)?;
            self.store.snapshots.sync()?;
            self.store.meta.mark_synced()?;
            let (name, diff_ids, created_s) = (name.to_string(), vec![diff_id], now_s());
            self.store.meta.set_image(&ImageRow { name, id, manifest: None, diff_ids, created_s })?;
            Ok(id)
        })
    }

    /// A tar as the blob of a layer, and its digest before it was compressed.
    fn layer_of(
        &self,
        shown: &str,
        mut stream: impl Read + Send,
    ) -> Result<(DiffId, Descriptor), WorkerError> {
        let unreadable = |e: io::Error| {
            let (archive, flaw) = (shown.to_owned(), ArchiveFlaw::Unreadable(e.to_string()));
            WorkerError::Archive { archive, flaw }
        };
        let mut prefix = Vec::new();
        (&mut stream).take(sniff::PREFIX_BYTES as u64).read_to_end(&mut prefix).map_err(unreadable)?;
        let compression = sniff::detect(&prefix);
        let mut tar = decoder(io::Cursor::new(prefix).chain(stream), compression).map_err(unreadable)?;
        let form = LayerForm::default();
        let mut writer = self.store.content.writer()?;
        let kept = || WorkerError::io("keep", shown);
        let mut out =
            Encoder::new(&mut writer, form.encoding(), Some(form.encoder_level())).map_err(kept())?;
        let mut hasher = Hasher::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            crate::output::stopping::check(&self.cancel)?;
            let n = tar.read(&mut piece).map_err(unreadable)?;
            if n == 0 {
                break;
            }
            hasher.update(&piece[..n]);
            out.write_all(&piece[..n]).map_err(kept())?;
        }
        out.finish().and_then(|writer| writer.flush()).map_err(kept())?;
        let (digest, size) = writer.commit()?;
        Ok((DiffId(hasher.finish()), Descriptor::new(form.media_type(), digest, size)))
    }
}
