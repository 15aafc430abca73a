//! Images that move as they are: out of the store, into it, and from any place to any other. It does not know
//! builds.

use super::Worker;
use crate::WorkerError;
use crate::export::{Exporter, Release};
use crate::image_name::ImageName;
use crate::images::{Images, NamedImages, Source, is_image};
use crate::incoming::{ArchiveFlaw, Found, Incoming, What};
use crate::meta::ImageRow;
use crate::output::{Member, archive_of, layout_of, stopping};
use crate::progress::{Progress, ProgressSink, Transfer};
use crate::store::now_s;
use crate::transport::ImagePlace;
use kiln_oci::{Descriptor, DiffId, Digest, Index, LayoutReference, Platform, Reference};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Blobs that are brought at once.
const BLOBS_AT_ONCE: usize = 4;

/// What images of the store are saved as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// What `docker load` reads; `None` is standard output.
    Docker(Option<PathBuf>),
    /// An OCI layout in a tar.
    Oci(Option<PathBuf>),
    /// An OCI layout in a folder.
    Folder(PathBuf),
}

/// An image on its way.
pub(super) struct Parcel {
    pub release: Release,
    pub source: Source,
}

impl Worker {
    /// Writes images of the store to one archive or folder, each under its names. Docker's form has room for
    /// one platform: that, or this machine's; other forms have all unless one is asked for.
    pub fn save(
        &self,
        names: &[Reference],
        to: &Saved,
        platform: Option<&Platform>,
        progress: &ProgressSink<'_>,
    ) -> Result<(), WorkerError> {
        let _alive = self.store.mark_alive()?;
        let transfer = |t: Transfer<'_>| progress.send(Progress::Transfer(t));
        let images = self.images(&transfer, &self.cancel)?;
        let exporter = Exporter::new(&self.store, &images, progress);
        let host = Platform::host();
        let wanted = platform.or(Some(&host).filter(|_| matches!(to, Saved::Docker(_))));
        let mut releases: Vec<(Vec<Reference>, Release)> = Vec::new();
        for name in names {
            let named = images.named(name, self.row(name)?)?;
            let own: Vec<Reference> = named.row.name.parse().into_iter().collect();
            let release = release_for(
                &exporter,
                &named,
                wanted.filter(|_| platform.is_some() || named.row.index().is_some()),
            )?;
            match releases.iter_mut().find(|(_, other)| other.top().0.digest == release.top().0.digest) {
                Some((names, _)) => {
                    names.extend(own.into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>())
                }
                None => releases.push((own, release)),
            }
        }
        let members: Vec<Member<'_>> =
            releases.iter().map(|(names, release)| Member::named(names, release)).collect();
        exporter.task("saving", || match to {
            Saved::Docker(dest) => archive_of(&exporter, &members, dest.as_deref(), true),
            Saved::Oci(dest) => archive_of(&exporter, &members, dest.as_deref(), false),
            Saved::Folder(folder) => layout_of(&exporter, &members, folder),
        })
    }

    /// Takes the images of an archive into the store, verified and unpacked, under the names that it has for
    /// them, or under `tag` if it has but one. No name is given before all is there. Gives the names and ids.
    pub fn load(
        &self,
        shown: &str,
        stream: impl Read + Send,
        platform: Option<&Platform>,
        tag: Option<&Reference>,
        progress: &ProgressSink<'_>,
    ) -> Result<Vec<(Reference, Digest)>, WorkerError> {
        let _alive = self.store.mark_alive()?;
        let transfer = |t: Transfer<'_>| progress.send(Progress::Transfer(t));
        let images = self.images(&transfer, &self.cancel)?;
        let exporter = Exporter::new(&self.store, &images, progress);
        self.capped(progress, || {
            let incoming =
                exporter.task("reading", || Incoming::read(&self.store, shown, stream, &self.cancel))?;
            let mut found = incoming.images(&images)?;
            let fail = |flaw| WorkerError::Archive { archive: shown.to_owned(), flaw };
            if let Some(tag) = tag {
                found = vec![incoming.chosen(found, None)?];
                found[0].names = vec![tag.clone()];
            }
            let mut rows = Vec::new();
            for one in &found {
                let name = one.names.first().ok_or_else(|| fail(ArchiveFlaw::NoName))?;
                let parcel = match brought(&images, &incoming, one, platform) {
                    // `docker save` leaves out layers of platforms that it has not, though its index lists them.
                    Err(WorkerError::Archive { flaw: ArchiveFlaw::Missing(_), .. }) if platform.is_none() => {
                        brought(&images, &incoming, one, Some(&Platform::host()))?
                    }
                    brought => brought?,
                };
                let row = exporter.task(&format!("unpacking {}", name.familiar()), || {
                    self.kept(&images, &parcel, name, true)
                })?;
                // What docker wrote without a manifest gets one when it leaves.
                let is_made = matches!(one.what, What::Parts { .. });
                let manifest = row.manifest.clone().filter(|_| !is_made);
                let named = one.names.iter().map(|name| {
                    (
                        name.clone(),
                        ImageRow { name: name.to_string(), manifest: manifest.clone(), ..row.clone() },
                    )
                });
                rows.extend(named);
            }
            self.name_all(rows)
        })
    }

    /// Copies an image from one place to others, its documents byte for byte: all that an index lists, or
    /// the image for a platform. Gives the digest of what arrived.
    pub fn copy(
        &self,
        from: &ImagePlace,
        to: &[ImagePlace],
        platform: Option<&Platform>,
        progress: &ProgressSink<'_>,
    ) -> Result<Digest, WorkerError> {
        let _alive = self.store.mark_alive()?;
        let transfer = |t: Transfer<'_>| progress.send(Progress::Transfer(t));
        let images = self.images(&transfer, &self.cancel)?;
        let exporter = Exporter::new(&self.store, &images, progress);
        self.capped(progress, || {
            let parcel =
                exporter.task(&format!("looking at {from}"), || self.parcel(&exporter, from, platform))?;
            for place in to {
                exporter.task(&format!("copying to {place}"), || self.deliver(&exporter, &parcel, place))?;
            }
            Ok(parcel.release.top().0.digest)
        })
    }

    fn parcel(
        &self,
        exporter: &Exporter<'_>,
        from: &ImagePlace,
        platform: Option<&Platform>,
    ) -> Result<Parcel, WorkerError> {
        let images = exporter.images;
        let (name, host) = match from {
            ImagePlace::Registry(reference) => (ImageName::Registry(reference.clone()), Platform::host()),
            ImagePlace::Layout(path, tag) => {
                let path = path.to_string_lossy().into_owned();
                let layout = LayoutReference { path, tag: tag.clone(), digest: None };
                (ImageName::Layout(layout), Platform::host())
            }
            ImagePlace::Store(name) => {
                let named = images.named(name, self.row(name)?)?;
                let release = release_for(exporter, &named, platform)?;
                return Ok(Parcel { release, source: Source::Image(ImageName::Registry(name.clone())) });
            }
            ImagePlace::OciArchive(path, tag) | ImagePlace::DockerArchive(path, tag) => {
                let shown = path.display().to_string();
                let file = File::open(path).map_err(WorkerError::io("open", path))?;
                let incoming = Incoming::read(&self.store, &shown, file, &self.cancel)?;
                let found = incoming.chosen(incoming.images(images)?, tag.as_deref())?;
                let release = incoming.release(images, &found, platform)?;
                return Ok(Parcel { release, source: Source::Archive(shown) });
            }
        };
        let (top, bytes) = images.top(&name, platform.unwrap_or(&host))?;
        let source = Source::Image(name);
        Ok(Parcel { release: images.release(&source, top, bytes, platform)?, source })
    }

    fn deliver(&self, exporter: &Exporter<'_>, parcel: &Parcel, to: &ImagePlace) -> Result<(), WorkerError> {
        let (images, release) = (exporter.images, &parcel.release);
        if let ImagePlace::Registry(reference) = to {
            return send(exporter, parcel, reference).map(drop);
        }
        bring_all(images, parcel)?;
        let tagged = |tag: &Option<String>| match tag {
            Some(tag) => Member::tagged(tag, release),
            None => Member::named(&[], release),
        };
        match to {
            ImagePlace::Registry(_) => Ok(()),
            ImagePlace::Store(name) => {
                let row = self.kept(images, parcel, name, false)?;
                self.name_all(vec![(name.clone(), row)]).map(drop)
            }
            ImagePlace::Layout(folder, tag) => layout_of(exporter, &[tagged(tag)], folder),
            ImagePlace::OciArchive(file, tag) => archive_of(exporter, &[tagged(tag)], Some(file), false),
            ImagePlace::DockerArchive(..) if release.images().len() != 1 => {
                Err(WorkerError::Unsupported("docker-archive for several platforms".to_owned()))
            }
            ImagePlace::DockerArchive(file, name) => {
                let names: Vec<Reference> = name.iter().filter_map(|name| name.parse().ok()).collect();
                archive_of(exporter, &[Member::named(&names, release)], Some(file), true)
            }
        }
    }

    /// The row of an image whose blobs are here; its layers are unpacked if they can be used here.
    pub(super) fn kept(
        &self,
        images: &Images<'_>,
        parcel: &Parcel,
        name: &Reference,
        unpack: bool,
    ) -> Result<ImageRow, WorkerError> {
        let (top, bytes) = parcel.release.top();
        let name = ImageName::Registry(name.clone());
        // An index may list what is no image.
        let listed: Vec<Descriptor> = match &parcel.release {
            Release::One(_) => vec![top.clone()],
            Release::Several { .. } => {
                let index: Result<Index, _> = serde_json::from_slice(bytes);
                let index =
                    index.map_err(|source| WorkerError::Config { reference: name.to_string(), source })?;
                index.manifests
            }
        };
        let mut diff_ids: Vec<DiffId> = Vec::new();
        for (listed, image) in listed.iter().zip(parcel.release.images()) {
            if !is_image(listed) {
                continue;
            }
            let stack = images.stack_here(image, &name)?;
            for (diff_id, blob) in image.diff_ids.iter().zip(&image.manifest.layers) {
                self.store.meta.add_blob(diff_id, "pulled", blob)?;
            }
            let is_own = listed.platform.as_ref().is_none_or(|p| Platform::host().rank(p).is_some());
            if unpack && is_own {
                images.unpacked(&stack)?;
            }
            diff_ids.extend(
                image.diff_ids.iter().filter(|id| !diff_ids.contains(id)).copied().collect::<Vec<_>>(),
            );
        }
        let id = match &parcel.release {
            Release::One(only) => {
                diff_ids.clone_from(&only.diff_ids);
                only.manifest.config.digest
            }
            Release::Several { .. } => top.digest,
        };
        let manifest = Some((top.digest, top.media_type));
        Ok(ImageRow { name: name.to_string(), id, manifest, diff_ids, created_s: now_s() })
    }

    /// Gives names, once all that they stand for survives a loss of power.
    pub(super) fn name_all(
        &self,
        rows: Vec<(Reference, ImageRow)>,
    ) -> Result<Vec<(Reference, Digest)>, WorkerError> {
        stopping::check(&self.cancel)?;
        self.store.snapshots.sync()?;
        self.store.meta.mark_synced()?;
        let mut named = Vec::new();
        for (name, row) in rows {
            self.store.meta.set_image(&ImageRow { name: name.to_string(), ..row.clone() })?;
            named.push((name, row.id));
        }
        Ok(named)
    }
}

/// What the store has under a name: all of it, or the image for a platform.
pub(super) fn release_for(
    exporter: &Exporter<'_>,
    named: &NamedImages,
    platform: Option<&Platform>,
) -> Result<Release, WorkerError> {
    let Some(wanted) = platform else { return exporter.release_of(named) };
    let ranked = named.images.iter().filter_map(|(platform, image)| Some((wanted.rank(platform)?, image)));
    match ranked.min_by_key(|(rank, _)| *rank) {
        Some((_, image)) => exporter.release_of_image(image),
        None => {
            let has = named.images.iter().map(|(platform, _)| platform.to_string()).collect();
            let (reference, platform) = (named.row.name.clone(), wanted.to_string());
            Err(WorkerError::NoPlatform { reference, platform, has })
        }
    }
}

/// An image of an archive, all of whose blobs are there.
fn brought(
    images: &Images<'_>,
    incoming: &Incoming,
    found: &Found,
    platform: Option<&Platform>,
) -> Result<Parcel, WorkerError> {
    let release = incoming.release(images, found, platform)?;
    let parcel = Parcel { release, source: Source::Archive(incoming.name.clone()) };
    bring_all(images, &parcel)?;
    Ok(parcel)
}

/// Brings all blobs into the store, several at once.
pub(super) fn bring_all(images: &Images<'_>, parcel: &Parcel) -> Result<(), WorkerError> {
    each_blob(parcel, &|blob| images.bring(&parcel.source, blob))
}

/// Sends an image to a registry. What that has, or can take from another of its repositories, goes nowhere.
fn send(exporter: &Exporter<'_>, parcel: &Parcel, to: &Reference) -> Result<Digest, WorkerError> {
    let images = exporter.images;
    let mounts: Vec<String> = match &parcel.source {
        Source::Image(ImageName::Registry(from)) if from.registry() == to.registry() => {
            vec![from.repository().to_owned()]
        }
        _ => Vec::new(),
    };
    let bring = |blob: &Descriptor| images.bring(&parcel.source, blob);
    exporter.push_bringing(&parcel.release, to, &mounts, &bring)
}

fn each_blob(
    parcel: &Parcel,
    work: &(dyn Fn(&Descriptor) -> Result<(), WorkerError> + Sync),
) -> Result<(), WorkerError> {
    let blobs: Vec<&Descriptor> = parcel.release.blobs().into_values().collect();
    let next = AtomicUsize::new(0);
    let some = || -> Result<(), WorkerError> {
        while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(blob).inspect_err(|_| next.store(blobs.len(), Ordering::Relaxed))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..blobs.len().min(BLOBS_AT_ONCE)).map(|_| scope.spawn(some)).collect();
        let results = threads.into_iter().map(|t| t.join().unwrap_or(Err(WorkerError::Panicked)));
        results.collect::<Vec<_>>().into_iter().collect()
    })
}
