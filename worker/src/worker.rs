//! A worker: the store and the registries of one process, and what can be asked of it.

mod building;
mod cache_mounts;
mod files;
mod indexes;
mod moving;
mod sources;

pub use files::Import;
pub use indexes::ManifestEdit;
pub use moving::Saved;
pub use sources::Access;

use crate::WorkerError;
use crate::annotation::Annotation;
use crate::attest::{Attest, Fetched};
use crate::cache::{CacheExport, CacheImport};
use crate::cdi::DeviceAccess;
use crate::explain::Place;
use crate::export::Exporter;
use crate::image_name::ImageName;
use crate::images::{Asked, Image, Images, NamedImages, PullPolicy};
use crate::keeping::{self, Damage, Pruning, Removed, Usage, cap::Cap};
use crate::meta::ImageRow;
use crate::output::Output;
use crate::pins::Pins;
use crate::progress::{Progress, ProgressSink, Transfer};
use crate::report::{self, BuildReport};
use crate::ssh_agent::SshAgent;
use crate::store::{Store, now_s, private_folder};
use kiln_oci::{DiffId, Digest, ImageConfig, MediaType, Platform, Reference};
use kiln_registry::Client;
use kiln_runner::CancelToken;
use kiln_snapshotter::{CopyOptions, ExtractOptions, SourceModes, Tree, Verdict, copy_tree, extract_archive};
use kiln_solver::{Definition, Edge};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::runtime::Runtime;

/// The store and the registries of one process.
#[derive(Debug)]
pub struct Worker {
    store: Store,
    client: Client,
    /// What was asked of registries.
    asked: Asked,
    /// The flag, if there is one, for whose sake nobody is asked for anything.
    forbidden: Option<&'static str>,
    /// What the sources from the network are held to.
    pins: Arc<Pins>,
    runtime: OnceLock<Runtime>,
    /// What keeps temporary folders from being swept.
    temporary: Mutex<Vec<File>>,
    /// What the user stops everything with.
    cancel: CancelToken,
    /// What the store may take at most, in bytes.
    store_max_bytes: Option<u64>,
    /// What contexts from the network turned out to be.
    fetched: Mutex<BTreeMap<String, Fetched>>,
}

/// A folder of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFolder {
    /// Where it is.
    pub path: PathBuf,
    /// Whether its files' owners count: only where an archive brought them.
    pub keeps_owners: bool,
    /// How its files' modes are seen.
    pub modes: SourceModes,
}

/// All that a build is made from.
#[derive(Debug)]
pub struct BuildRequest {
    /// The graph.
    pub definition: Definition,
    /// What is made of it: an image for each platform, in the order in which an index lists them.
    pub targets: Vec<Target>,
    /// Whether the result is an index, even of one image.
    pub is_index: bool,
    /// The images that the graph names, by the identifier of their source.
    pub images: HashMap<String, Image>,
    /// The folders of local sources, by name.
    pub locals: BTreeMap<String, LocalFolder>,
    /// Secrets, by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// The ssh agents, by id.
    pub ssh: BTreeMap<String, SshAgent>,
    /// Which of the host's devices steps may have.
    pub devices: DeviceAccess,
    /// How many steps run at once at most.
    pub jobs: usize,
    /// The size of `/dev/shm` in bytes; 0 is the default.
    pub shm_size_bytes: u64,
    /// Empties the cache mounts that the build uses.
    pub empty_caches: bool,
    /// Reads every file of the contexts, whatever is remembered of its digest; what is read is remembered
    /// anew. Layers of known steps are read too, and made anew where their bytes are others.
    pub verify_cache: bool,
    /// Annotations of the result's documents.
    pub annotations: Vec<Annotation>,
    /// Where the result goes.
    pub outputs: Vec<Output>,
    /// What is attested of the result.
    pub attest: Attest,
    /// The shared caches that are read; the first that knows a step answers.
    pub cache_imports: Vec<CacheImport>,
    /// The shared caches that are written.
    pub cache_exports: Vec<CacheExport>,
    /// Whether a shared cache that can't be read ends the build.
    pub cache_strict: bool,
    /// Which Dockerfile it is of, to explain its steps.
    pub place: Place,
    /// Whether it is only found out what would be done.
    pub dry_run: bool,
}

/// An image that a build makes.
#[derive(Clone, Debug)]
pub struct Target {
    /// The platform that it is for.
    pub platform: Platform,
    /// The output of the graph that it is; `None` is an empty file system.
    pub edge: Option<Edge>,
    /// Its config: all but its layers and times.
    pub config: ImageConfig,
    /// The time that it says it was made, in seconds since 1970; `None` is when it was.
    pub source_date_epoch_s: Option<i64>,
}

impl BuildRequest {
    /// A request for nothing.
    pub(crate) fn empty() -> BuildRequest {
        BuildRequest {
            definition: Definition::new(),
            targets: Vec::new(),
            is_index: false,
            images: HashMap::new(),
            locals: BTreeMap::new(),
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            devices: DeviceAccess::default(),
            jobs: 1,
            shm_size_bytes: 0,
            empty_caches: false,
            verify_cache: false,
            annotations: Vec::new(),
            outputs: Vec::new(),
            attest: Attest::default(),
            cache_imports: Vec::new(),
            cache_exports: Vec::new(),
            cache_strict: false,
            place: Place::default(),
            dry_run: false,
        }
    }
}

/// What a build made.
#[derive(Clone, Debug, Default)]
pub struct BuildResult {
    /// The digest of the config, unless the result is an index.
    pub config_digest: Option<Digest>,
    /// The manifest or index, if an output made one: type, digest, size.
    pub manifest: Option<kiln_oci::Descriptor>,
    /// The names that it was given.
    pub names: Vec<String>,
    /// The manifests of the shared caches that were written, where they have one.
    pub cache_manifests: Vec<kiln_oci::Descriptor>,
    /// How many shared caches could not be read or written.
    pub cache_failures: usize,
    /// What the build calls itself: 32 hexadecimal digits, as in its provenance.
    pub invocation: String,
    /// Where each image comes from, if that was to be told: predicates of SLSA 1.0.
    pub provenance: Vec<(Platform, serde_json::Value)>,
}

impl BuildResult {
    /// The id: the config's digest, or the index's, which there is only if an output made it.
    pub fn id(&self) -> Option<Digest> {
        self.config_digest.or(self.manifest.as_ref().map(|manifest| manifest.digest))
    }
}

impl Worker {
    /// Opens the store at `root`. What waits or works stops soon after `cancel`.
    pub fn open(
        root: &Path,
        registries: kiln_registry::Options,
        cancel: &CancelToken,
    ) -> Result<Worker, WorkerError> {
        let client = Client::new(registries.clone())?;
        Ok(Worker {
            store: Store::open(root)?,
            client,
            asked: Asked::new(registries)?,
            forbidden: None,
            pins: Arc::default(),
            runtime: OnceLock::new(),
            cancel: cancel.clone(),
            temporary: Mutex::default(),
            store_max_bytes: None,
            fetched: Mutex::default(),
        })
    }

    /// What short names of images stand for, as the files of registries say. A file with a mistake says nothing
    /// here: whoever asks a registry is told.
    pub fn aliases(&self) -> BTreeMap<String, String> {
        self.client.aliases().unwrap_or_default()
    }

    /// The name of an image, or what it is an alias of.
    pub fn aliased(&self, written: &str) -> Result<String, WorkerError> {
        Ok(self.client.aliased(written)?.map_or_else(|| written.to_owned(), |(full, _)| full))
    }

    /// Asks nobody for anything from now on; `flag` is named where that makes something fail.
    pub fn go_offline(&mut self, flag: &'static str) {
        self.forbidden = Some(flag);
    }

    /// Holds the sources from the network to what a lock file says from now on.
    pub fn hold_to(&mut self, pins: Arc<Pins>) {
        self.pins = pins;
    }

    /// What the sources from the network are held to, and what they turned out to be.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The same, with a size in bytes that the store does not go above while this process writes to it, as far
    /// as there is something that nobody needs.
    pub fn with_store_max(self, store_max_bytes: Option<u64>) -> Worker {
        Worker { store_max_bytes, ..self }
    }

    /// Does something that writes to the store while its size is watched.
    fn capped<T>(
        &self,
        progress: &ProgressSink<'_>,
        work: impl FnOnce() -> Result<T, WorkerError>,
    ) -> Result<T, WorkerError> {
        let Some(max_bytes) = self.store_max_bytes else { return work() };
        let cap = Cap::new(&self.store, max_bytes);
        cap.hold(progress)?;
        let done = std::thread::scope(|scope| {
            scope.spawn(|| cap.watch(progress));
            let done = catch_unwind(AssertUnwindSafe(work));
            cap.end();
            done
        });
        cap.hold(progress)?;
        done.unwrap_or(Err(WorkerError::Panicked))
    }

    /// What the store has, how large it is and who needs it.
    pub fn usage(&self) -> Result<Usage, WorkerError> {
        keeping::usage(&self.store)
    }

    /// Gives up what nobody needs.
    pub fn prune(&self, pruning: &Pruning) -> Result<Removed, WorkerError> {
        keeping::prune(&self.store, pruning, &self.cancel)
    }

    /// Puts a damaged database aside, as `meta.db.bad`; the next to open the store begins with an empty one.
    pub fn renew_metadata(root: &Path) -> Result<(), WorkerError> {
        let path = root.join("meta.db");
        for name in ["meta.db-wal", "meta.db-shm"] {
            let _ = std::fs::remove_file(root.join(name));
        }
        std::fs::rename(&path, root.join("meta.db.bad")).map_err(WorkerError::io("put aside", path))
    }

    /// Looks for damage, and repairs it if that is wanted.
    pub fn check_store(&self, full: bool, repair: bool) -> Result<Vec<Damage>, WorkerError> {
        keeping::check(&self.store, full, repair)
    }

    /// The threads of the network, begun when first needed.
    fn runtime(&self) -> Result<&Runtime, WorkerError> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let built = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
        let built = built.map_err(WorkerError::io("start the threads of", "the network"))?;
        Ok(self.runtime.get_or_init(|| built))
    }

    fn images<'a>(
        &'a self,
        transfer: &'a (dyn Fn(Transfer<'_>) + Sync),
        cancel: &'a CancelToken,
    ) -> Result<Images<'a>, WorkerError> {
        let images = Images::new(&self.store, &self.client, self.runtime()?, transfer, cancel);
        Ok(images.knowing(&self.asked, self.forbidden))
    }

    /// What names stand for, all asked at once.
    pub fn resolve(
        &self,
        wanted: &[(ImageName, Platform)],
        pull: PullPolicy,
    ) -> Vec<Result<Image, WorkerError>> {
        let silent = |_: Transfer<'_>| {};
        let images = match self.images(&silent, &self.cancel) {
            Ok(images) => images,
            Err(e) => return vec![Err(e)],
        };
        if let [(name, platform)] = wanted {
            return vec![images.resolve(name, platform, pull)];
        }
        std::thread::scope(|scope| {
            let ask = |(name, platform): &(ImageName, Platform)| images.resolve(name, platform, pull);
            let threads: Vec<_> = wanted.iter().map(|w| scope.spawn(move || ask(w))).collect();
            let lost = || Err(WorkerError::Panicked);
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| lost())).collect()
        })
    }

    /// What tags stand for at their registries now, all asked at once.
    pub fn ask(&self, references: &[Reference]) -> Vec<Result<Digest, WorkerError>> {
        let silent = |_: Transfer<'_>| {};
        let images = match self.images(&silent, &self.cancel) {
            Ok(images) => images,
            Err(e) => return vec![Err(e)],
        };
        std::thread::scope(|scope| {
            let ask = |reference| images.ask(reference).map(|now| now.digest);
            let threads: Vec<_> = references.iter().map(|r| scope.spawn(move || ask(r))).collect();
            let lost = || Err(WorkerError::Panicked);
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| lost())).collect()
        })
    }

    /// The reports of the newest builds, the oldest first.
    pub fn reports(&self) -> Result<Vec<BuildReport>, WorkerError> {
        let ids = report::kept_ids(&self.store.root)?;
        let read = ids.iter().filter_map(|id| report::read(&self.store.root, id).transpose());
        read.collect()
    }

    /// The report of a build, or of the last one that has one.
    pub fn report(&self, id: Option<&str>) -> Result<Option<BuildReport>, WorkerError> {
        match id {
            Some(id) => report::read(&self.store.root, id),
            None => Ok(self.reports()?.pop()),
        }
    }

    /// A folder that is gone when it is dropped, for what is needed during one build.
    pub fn temporary_folder(&self) -> Result<tempfile::TempDir, WorkerError> {
        let (folder, lock) = self.store.temporary_folder()?;
        self.temporary.lock().unwrap_or_else(PoisonError::into_inner).push(lock);
        Ok(folder)
    }

    /// Unpacks a tar, perhaps compressed, into a folder; whether it was one.
    pub fn unpack_context(&self, mut file: File, folder: &Path) -> Result<bool, WorkerError> {
        let to = Tree::open(folder)?;
        let start = file.stream_position().map_err(WorkerError::io("read", "the context"))?;
        self.store.with_space(|_| {
            // What was unpacked before is written over.
            file.seek(SeekFrom::Start(start)).map_err(WorkerError::io("read", "the context"))?;
            let file = file.try_clone().map_err(WorkerError::io("read", "the context"))?;
            Ok(extract_archive(file, &to, b"", &ExtractOptions::default())?)
        })
    }

    /// Brings the files of an image to a new folder, `dest`.
    pub fn bring_files(&self, name: &ImageName, platform: &Platform, dest: &Path) -> Result<(), WorkerError> {
        let _alive = self.store.mark_alive()?;
        let transfer = |_: Transfer<'_>| {};
        let images = self.images(&transfer, &self.cancel)?;
        let layers = images.unpacked(&images.resolve(name, platform, PullPolicy::Usual)?.stack())?;
        let tree = self.store.snapshots.mount_readonly(&layers)?.root()?;
        private_folder(dest)?;
        copy_all(&tree, dest)
    }

    /// Pulls an image and gives it its own name in the store. The layers' blobs come too.
    pub fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        progress: &ProgressSink<'_>,
    ) -> Result<Image, WorkerError> {
        let _alive = self.store.mark_alive()?;
        let transfer = |t: Transfer<'_>| progress.send(Progress::Transfer(t));
        let images = self.images(&transfer, &self.cancel)?;
        let image = images.resolve(&reference.clone().into(), platform, PullPolicy::Always)?;
        self.capped(progress, || {
            images.unpacked(&image.stack())?;
            self.store.with_space(|_| images.blobs(&image))
        })?;
        self.store.snapshots.sync()?;
        self.store.meta.mark_synced()?;
        self.set_name(&reference.to_string(), &image)?;
        Ok(image)
    }

    fn set_name(&self, name: &str, image: &Image) -> Result<(), WorkerError> {
        self.store.meta.set_image(&ImageRow {
            name: name.to_owned(),
            id: image.config_digest,
            manifest: image.manifest.as_ref().map(|(media_type, _)| (image.digest, media_type.clone())),
            diff_ids: image.config.rootfs.diff_ids.clone(),
            created_s: now_s(),
        })
    }

    /// Pushes an image or index of the store to the registry that `to` names. Gives the digest of what the
    /// name stands for there.
    pub fn push(
        &self,
        name: &Reference,
        to: &Reference,
        progress: &ProgressSink<'_>,
    ) -> Result<Digest, WorkerError> {
        let _alive = self.store.mark_alive()?;
        let transfer = |t: Transfer<'_>| progress.send(Progress::Transfer(t));
        let images = self.images(&transfer, &self.cancel)?;
        let named = images.named(name, self.row(name)?)?;
        let exporter = Exporter::new(&self.store, &images, progress);
        let digest = self.capped(progress, || exporter.push_named(&named, to))?;
        let row = named.row;
        if row.manifest.is_none() {
            let manifest = Some((digest, MediaType::OciManifest));
            self.store.meta.set_image(&ImageRow { manifest, ..row })?;
        }
        Ok(digest)
    }

    /// The names of the store, and what each stands for.
    /// One that can't be read has no images, and says why.
    pub fn list(&self) -> Result<Vec<NamedImages>, WorkerError> {
        let rows = self.store.meta.images()?;
        let silent = |_: Transfer<'_>| {};
        let images = self.images(&silent, &self.cancel)?;
        let with_images = |row: ImageRow| {
            let reference: Reference =
                row.name.parse().map_err(|_| WorkerError::NoImage(row.name.clone()))?;
            match images.named(&reference, row.clone()) {
                Ok(named) => Ok(named),
                Err(flaw) => Ok(NamedImages { row, images: Vec::new(), flaw: Some(flaw) }),
            }
        };
        rows.into_iter().map(with_images).collect()
    }

    /// The size of layers in bytes: of their tars, or of the blobs of those that are not here yet.
    pub fn size_bytes(&self, diff_ids: &[DiffId]) -> Result<u64, WorkerError> {
        let mut bytes = 0;
        for diff_id in diff_ids {
            bytes += match self.store.meta.any_layer_of(diff_id)? {
                Some(layer) => layer.tar_bytes,
                None => self.store.meta.blob(diff_id, "pulled")?.map_or(0, |blob| blob.size),
            };
        }
        Ok(bytes)
    }

    /// What the store has under a name, or under the first digits of an id.
    pub fn find(&self, name: &Reference) -> Result<NamedImages, WorkerError> {
        let silent = |_: Transfer<'_>| {};
        self.images(&silent, &self.cancel)?.named(name, self.row(name)?)
    }

    fn row(&self, name: &Reference) -> Result<ImageRow, WorkerError> {
        self.store.meta.image(&name.to_string())?.map_or_else(|| self.by_id(name), Ok)
    }

    fn by_id(&self, name: &Reference) -> Result<ImageRow, WorkerError> {
        let familiar = name.familiar();
        let id = familiar.strip_suffix(":latest").unwrap_or(&familiar);
        let unknown = || WorkerError::NoImage(familiar.clone());
        if id.len() < 4 || !id.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        let mut rows = self.store.meta.images()?;
        rows.retain(|row| row.id.hex().starts_with(id));
        let same = rows.windows(2).all(|w| w[0].id == w[1].id);
        rows.into_iter().next().filter(|_| same).ok_or_else(unknown)
    }

    /// Gives an image of the store one more name.
    pub fn tag(&self, name: &Reference, new: &Reference) -> Result<(), WorkerError> {
        let row = self.row(name)?;
        self.store.meta.set_image(&ImageRow { name: new.to_string(), created_s: now_s(), ..row })
    }

    /// Takes a name away from an image. Its layers stay, as what builds know.
    pub fn untag(&self, name: &Reference) -> Result<ImageRow, WorkerError> {
        let row = self.row(name)?;
        self.store.meta.remove_image(&row.name)?;
        Ok(row)
    }
}

/// Copies a whole tree into a folder.
fn copy_all(tree: &Tree, dest: &Path) -> Result<(), WorkerError> {
    let all = |_: &[u8], _: bool| Verdict::Include;
    let options = CopyOptions { filter: &all, ..CopyOptions::default() };
    copy_tree(tree, b"", &Tree::open(dest)?, b"", &options)?;
    Ok(())
}

#[cfg(test)]
impl Worker {
    /// Puts something into the place of what is remembered of a folder's files.
    pub(crate) fn forge_memo(&self, folder: &Path, bytes: &[u8]) -> Result<(), WorkerError> {
        self.store.meta.set_memo(&crate::build::folder_name(folder), bytes)
    }
}
