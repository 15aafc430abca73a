//! The caches that a build writes: layers are compressed and sent while steps still run, and the config at the end,
//! when all blobs are there that it names. A cache that can't be written is told of once, and the build goes on. It
//! does not know how a layer becomes a blob.

use super::config::{About, Draft, SharedLayer, SharedMount};
use super::place::OpenBlob;
use super::{CacheError, CacheExport, CachePlace, MountsExport};
use crate::WorkerError;
use crate::export::Exporter;
use crate::layer::{Layer, Stack};
use crate::layer_form::Spelling;
use crate::progress::{CacheTrouble, Progress};
use kiln_oci::{Descriptor, DiffId};
use kiln_solver::{CacheKey, Definition, Edge, VertexId, bases};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// The caches of one build. Those in the image itself are not among them.
#[derive(Debug)]
pub(crate) struct Exports {
    targets: Vec<Target>,
    sender: Mutex<Option<Sender<Job>>>,
    receiver: Mutex<Receiver<Job>>,
    /// Whether the build has failed, and nothing is written.
    unwanted: AtomicBool,
}

/// One of them.
#[derive(Debug)]
struct Target {
    place: Arc<dyn CachePlace>,
    options: CacheExport,
    /// The steps whose layers go there.
    wanted: HashSet<VertexId>,
    /// The layers that are there, or on their way.
    blobs: Mutex<HashMap<DiffId, Option<Descriptor>>>,
    failure: Mutex<Option<WorkerError>>,
    /// The cache mounts that are there.
    mounts: Mutex<Vec<SharedMount>>,
}

/// A layer to be sent.
#[derive(Debug)]
struct Job {
    target: usize,
    stack: Stack,
    at: usize,
}

/// What is known of a step at the end of a build.
#[derive(Clone, Debug)]
pub(crate) struct Learnt {
    /// The step.
    pub vertex: VertexId,
    /// The keys that lead to its result.
    pub keys: Vec<CacheKey>,
    /// What it added to each of its outputs.
    pub added: Vec<Vec<Arc<Layer>>>,
    /// What else is known of it.
    pub about: About,
}

impl Exports {
    /// Gets ready to write to all places.
    pub fn new(
        places: Vec<(Arc<dyn CachePlace>, CacheExport)>,
        wanted: impl Fn(&CacheExport) -> HashSet<VertexId>,
    ) -> Exports {
        let (sender, receiver) = channel();
        let target = |(place, options): (Arc<dyn CachePlace>, CacheExport)| Target {
            wanted: wanted(&options),
            place,
            options,
            blobs: Mutex::default(),
            failure: Mutex::default(),
            mounts: Mutex::default(),
        };
        Exports {
            targets: places.into_iter().map(target).collect(),
            sender: Mutex::new(Some(sender)),
            receiver: Mutex::new(receiver),
            unwanted: AtomicBool::new(false),
        }
    }

    /// No caches.
    pub fn none() -> Exports {
        Exports::new(Vec::new(), |_| HashSet::new())
    }

    /// How many layers are compressed or sent at once.
    pub fn senders(&self) -> usize {
        self.targets.iter().map(|target| target.place.uploads()).max().unwrap_or(0)
    }

    /// Whether there are none.
    pub fn are_none(&self) -> bool {
        self.targets.is_empty()
    }

    /// Offers what a step added: the uppermost layers of its result.
    pub fn offer(&self, vertex: VertexId, stack: &Stack, added: usize) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = sender.as_ref() else { return };
        for (target, this) in
            self.targets.iter().enumerate().filter(|(_, this)| this.wanted.contains(&vertex))
        {
            for at in stack.0.len().saturating_sub(added)..stack.0.len() {
                // Of one that has none the build tells.
                let Ok(diff_id) = stack.0[at].diff_id() else { continue };
                let mut blobs = this.blobs.lock().unwrap_or_else(PoisonError::into_inner);
                if let std::collections::hash_map::Entry::Vacant(new) = blobs.entry(diff_id) {
                    new.insert(None);
                    // The receiver lives as long as this.
                    let _ = sender.send(Job { target, stack: stack.clone(), at });
                }
            }
        }
    }

    /// No more is offered: who sends ends when all is sent, or at once if it is `wanted` no more.
    pub fn close(&self, wanted: bool) {
        self.unwanted.store(!wanted, Ordering::Relaxed);
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Sends what is offered, until no more will be.
    pub fn send_all(&self, exporter: &Exporter<'_>) {
        loop {
            let job = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Job { target, stack, at }) = job else { return };
            let this = &self.targets[target];
            if exporter.images.cancel.is_cancelled() || self.unwanted.load(Ordering::Relaxed) || this.failed()
            {
                continue;
            }
            let sent = stack.0[at].diff_id().and_then(|id| Ok((id, this.send(exporter, &stack, at)?)));
            match sent {
                Ok((diff_id, blob)) => {
                    let mut blobs = this.blobs.lock().unwrap_or_else(PoisonError::into_inner);
                    blobs.insert(diff_id, Some(blob));
                }
                Err(error) => this.fail(error),
            }
        }
    }

    /// Whether cache mounts go to any of them.
    pub fn want_mounts(&self) -> bool {
        self.targets.iter().any(|target| target.options.mounts != MountsExport::None)
    }

    /// The ids of the cache mounts that go to one of them; `used` are those of the build.
    pub fn mounts_wanted(&self, used: &BTreeSet<String>) -> BTreeSet<String> {
        self.targets.iter().flat_map(|target| target.mounts_wanted(used)).collect()
    }

    /// Notes that cache mounts could not be packed: the first cache that wants some tells it.
    pub fn fail_for_mounts(&self, error: WorkerError) {
        let mut wanting = self.targets.iter().filter(|target| target.options.mounts != MountsExport::None);
        if let Some(first) = wanting.next() {
            first.fail(error);
        }
    }

    /// Sends the cache mounts of an id to all that want them.
    pub fn send_mounts(
        &self,
        id: &str,
        used: &BTreeSet<String>,
        mounts: &[SharedMount],
        open: &(dyn Fn(&Descriptor) -> io::Result<File> + Sync),
    ) {
        let wanting = self.targets.iter().filter(|target| target.mounts_wanted(used).contains(id));
        for target in wanting.filter(|target| !target.failed()) {
            match target.send_mounts(mounts, open) {
                Ok(()) => {
                    let mut sent = target.mounts.lock().unwrap_or_else(PoisonError::into_inner);
                    sent.extend_from_slice(mounts);
                }
                Err(error) => target.fail(error),
            }
        }
    }

    /// Writes the configs, and tells of what can't be written. Gives the descriptors of what was written, and how many
    /// caches could not be.
    pub fn publish(
        &self,
        exporter: &Exporter<'_>,
        definition: &Definition,
        learnt: &[Learnt],
    ) -> Result<(Vec<Descriptor>, usize), WorkerError> {
        let (mut written, mut failures) = (Vec::new(), 0);
        for target in &self.targets {
            let place = target.place.name();
            let task = format!("exporting cache to {place}");
            let published = exporter.task(&task, || target.publish(definition, learnt));
            match published {
                Ok(descriptor) => written.extend(descriptor),
                Err(WorkerError::Canceled) => return Err(WorkerError::Canceled),
                Err(error) => {
                    if !target.options.ignore_error {
                        failures += 1;
                    }
                    let trouble = CacheTrouble::Unwritten(&error);
                    exporter.progress.send(Progress::Cache { place: &place, trouble });
                }
            }
        }
        Ok((written, failures))
    }
}

impl Target {
    fn failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The first failure is the one that is told.
    fn fail(&self, error: WorkerError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Sees to it that the place has a layer's blob.
    fn send(&self, exporter: &Exporter<'_>, stack: &Stack, at: usize) -> Result<Descriptor, WorkerError> {
        let layer = &stack.0[at];
        let form = self.options.form;
        let blob = match &layer.blob {
            // What came from a cache or an image and was not needed yet is fetched only if the place lacks it.
            Some(blob) if !form.changes(blob) => blob.clone(),
            _ => exporter.blob(stack, at, form, None)?.1,
        };
        let open = || {
            exporter.images.blob_of(layer).map_err(std::io::Error::other)?;
            exporter.store.content.blob(&blob.digest).map_err(std::io::Error::other)
        };
        let open: OpenBlob<'_> = &open;
        self.place.write(&blob, open).map_err(|error| self.error(error))?;
        Ok(blob)
    }

    fn mounts_wanted(&self, used: &BTreeSet<String>) -> BTreeSet<String> {
        match &self.options.mounts {
            MountsExport::None => BTreeSet::new(),
            MountsExport::Named(ids) => ids.iter().cloned().collect(),
            MountsExport::All => used.clone(),
        }
    }

    /// Sends blobs of cache mounts, several at once; the first failure ends it.
    fn send_mounts(
        &self,
        mounts: &[SharedMount],
        open: &(dyn Fn(&Descriptor) -> io::Result<File> + Sync),
    ) -> Result<(), WorkerError> {
        let blobs = mounts.iter().flat_map(|mount| mount.pieces.iter().chain([&mount.manifest]));
        let blobs: Vec<&Descriptor> = blobs.collect();
        let next = AtomicUsize::new(0);
        let send_some = || -> Result<(), WorkerError> {
            while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let sent = self.place.write(blob, &|| open(blob)).map_err(|error| self.error(error));
                sent.inspect_err(|_| next.store(blobs.len(), Ordering::Relaxed))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let count = self.place.uploads().min(blobs.len());
            let threads: Vec<_> = (0..count).map(|_| scope.spawn(send_some)).collect();
            let ended = threads.into_iter().map(|t| t.join().unwrap_or(Err(WorkerError::Panicked)));
            ended.collect::<Vec<_>>().into_iter().collect()
        })
    }

    fn error(&self, error: CacheError) -> WorkerError {
        error.of(&self.place.name())
    }

    fn publish(&self, definition: &Definition, learnt: &[Learnt]) -> Result<Option<Descriptor>, WorkerError> {
        if let Some(error) = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        let spelling = if self.options.oci_mediatypes { Spelling::Oci } else { Spelling::Docker };
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = |layer: &Layer| -> Option<SharedLayer> {
            let diff_id = layer.diff_id().ok()?;
            let blob = blobs.get(&diff_id)?.clone()?;
            Some(SharedLayer {
                diff_id,
                content: layer.content,
                blob: spelling.layer(blob),
                created_s: layer.created_s.unwrap_or_default(),
            })
        };
        let mut draft = Draft::default();
        let wanted = learnt.iter().filter(|step| self.wanted.contains(&step.vertex));
        let mut tops: HashMap<Edge, Option<usize>> = HashMap::new();
        for step in wanted {
            add(&mut draft, definition, step, &mut tops, shared);
        }
        for mount in self.mounts.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            draft.mount(mount);
        }
        if draft.is_empty() {
            return Ok(None);
        }
        let (config, layers) = draft.finish();
        self.place.publish(&config, &layers).map_err(|error| self.error(error))
    }
}

/// Adds a step and its layers, each on what is below it; nothing of a step that has a layer which is not there.
fn add(
    draft: &mut Draft,
    definition: &Definition,
    step: &Learnt,
    tops: &mut HashMap<Edge, Option<usize>>,
    shared: impl Fn(&Layer) -> Option<SharedLayer>,
) {
    let layers = |output: &Vec<Arc<Layer>>| output.iter().map(|layer| shared(layer)).collect();
    let Some(outputs) = step.added.iter().map(layers).collect::<Option<Vec<Vec<SharedLayer>>>>() else {
        return;
    };
    let bases = bases(definition, step.vertex);
    let mut indexes = Vec::new();
    for (i, layers) in outputs.iter().enumerate() {
        let mut top = bases.get(i).and_then(|edge| tops.get(edge).copied().flatten());
        let mut added = Vec::new();
        for layer in layers {
            let index = draft.layer(layer, top);
            added.push(index);
            top = Some(index);
        }
        tops.insert(Edge { vertex: step.vertex, output: i as u32 }, top);
        indexes.push(added);
    }
    let top = tops.get(&Edge { vertex: step.vertex, output: 0 }).copied().flatten();
    draft.record(&step.keys, &indexes, top, &step.about);
}

/// The records that go into the config of an image whose layers are `stack`.
pub(crate) fn inline(learnt: &[Learnt], stack: &Stack, wanted: &HashSet<VertexId>) -> Option<Vec<u8>> {
    let mut draft = Draft::default();
    let mut places: HashMap<DiffId, usize> = HashMap::new();
    let mut below = None;
    for layer in stack.0.iter() {
        let (diff_id, content) = (layer.diff_id().ok()?, layer.content);
        // An image's records say nothing of blobs: its manifest does.
        let blob = Descriptor::new(kiln_oci::MediaType::OciLayer, diff_id.0, 0);
        let created_s = layer.created_s.unwrap_or_default();
        let index = draft.layer(&SharedLayer { diff_id, content, blob, created_s }, below);
        places.insert(diff_id, index);
        below = Some(index);
    }
    for step in learnt.iter().filter(|step| wanted.contains(&step.vertex)) {
        let place = |layer: &Arc<Layer>| places.get(&layer.diff_id().ok()?).copied();
        let outputs = step.added.iter().map(|output| output.iter().map(place).collect());
        let Some(outputs) = outputs.collect::<Option<Vec<Vec<usize>>>>() else { continue };
        let top = outputs.iter().flatten().max().copied();
        draft.record(&step.keys, &outputs, top, &step.about);
    }
    (!draft.is_empty()).then(|| draft.finish_inline())
}

/// The steps that a target's layers come from.
pub(crate) fn on_the_way(definition: &Definition, targets: &[Edge]) -> HashSet<VertexId> {
    let mut found = HashSet::new();
    let mut left: Vec<VertexId> = targets.iter().map(|edge| edge.vertex).collect();
    while let Some(vertex) = left.pop() {
        if found.insert(vertex) {
            left.extend(bases(definition, vertex).iter().map(|edge| edge.vertex));
        }
    }
    found
}
