//! Performs what the solver asks for, on threads, until the target's result is there.
//!
//! One thread owns the solver. Look-ups are done on it; what may wait (network, processes, hashing) gets
//! a thread of its own and reports back through one channel. It does not know Dockerfiles.

mod dry;
mod hands;
mod known;
mod mounts;
mod sharing;
mod step;

use crate::attest::Fetched;
use crate::cache::{Exports, Imports, on_the_way};
use crate::cdi::{Device, Granted};
use crate::explain::Journal;
use crate::images::{Image, Images};
use crate::layer::Stack;
use crate::local::LocalSource;
use crate::memo::Memo;
use crate::output::Ahead;
use crate::pins::Pins;
use crate::progress::{Progress, ProgressSink};
use crate::reads::Reads;
use crate::store::Store;
use crate::view::View;
use crate::{BuildRequest, LocalFolder, WorkerError};
use hands::Hands;
use kiln_oci::{ChainId, Digest, Hasher};
use kiln_runner::CancelToken;
use kiln_snapshotter::{CommitOptions, TreeView};
use kiln_solver::{
    Action, CacheKey, CdiDevice, ContentId, Edge, Event, Op, Progress as Solved, Solver, SourceOp, Vertex,
    VertexId, bases,
};
use known::{Added, Record};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};
pub(crate) use step::Made;
use step::Unfinished;

/// How long the loop waits before it looks whether the user has stopped the build.
const CANCEL_POLL: Duration = Duration::from_millis(50);
/// The stack of a thread that may walk a deep tree; only what is used of it is memory.
pub(crate) const STACK_BYTES: usize = 64 << 20;

/// A build that is going on.
pub(crate) struct Build<'a> {
    pub store: &'a Store,
    pub images: &'a Images<'a>,
    pub request: &'a BuildRequest,
    pub progress: &'a ProgressSink<'a>,
    pub cancel: &'a CancelToken,
    /// The shared caches that it reads, and those that it writes.
    pub imports: &'a Imports,
    pub exports: &'a Exports,
    /// What is done for the outputs while steps still run.
    pub ahead: Ahead,
    /// What the sources from the network are held to.
    pub pins: Arc<Pins>,
    /// What is noted of the steps, to tell of them at the end.
    pub journal: Arc<Journal>,
    /// The images that the graph names, by identifier.
    pub known_images: HashMap<String, Arc<Image>>,
    results: Mutex<HashMap<VertexId, Vec<Stack>>>,
    /// What steps added to their outputs.
    added: Mutex<HashMap<VertexId, Added>>,
    /// The records that were found.
    found: Mutex<HashMap<CacheKey, Arc<Record>>>,
    /// The cache mounts that were looked for in shared caches.
    brought_mounts: Mutex<HashSet<String>>,
    /// How long the steps took that ran.
    took: Mutex<HashMap<VertexId, Duration>>,
    /// What went wrong with a step on which others were built already.
    failed_late: Mutex<Option<(VertexId, WorkerError)>>,
    /// The keys of all steps by how they are made, where they came to be known.
    keys: Mutex<HashMap<VertexId, CacheKey>>,
    /// What steps added that read something else than their keys stood for.
    unrecorded: Mutex<HashMap<VertexId, Vec<Vec<i64>>>>,
    /// What was last read of the user's folders: by vertex and input.
    selected: Mutex<HashMap<(VertexId, usize), Arc<Reads>>>,
    locals: Mutex<HashMap<VertexId, Arc<LocalSource>>>,
    committed: AtomicBool,
    begun_caches: Mutex<HashSet<String>>,
    /// What sources from the network turned out to be, by their identifiers.
    fetched: Mutex<BTreeMap<String, Fetched>>,
    /// The devices of the steps that have some.
    devices: OnceLock<Granted>,
}

/// What a step added to its outputs, and what it read of the user's folders where that is not what its keys
/// stand for.
type Performed = (Vec<Vec<Made>>, Vec<(usize, Digest)>);

/// What a thread reports: an event for the solver, or why there is none.
struct Report {
    vertex: VertexId,
    outcome: Result<Event, WorkerError>,
}

impl<'a> Build<'a> {
    /// A build of what `request` says.
    pub fn new(
        store: &'a Store,
        images: &'a Images<'a>,
        request: &'a BuildRequest,
        progress: &'a ProgressSink<'a>,
        cancel: &'a CancelToken,
        (imports, exports): (&'a Imports, &'a Exports),
    ) -> Build<'a> {
        let known_images = request
            .images
            .iter()
            .map(|(identifier, image)| (identifier.clone(), Arc::new(image.clone())))
            .collect();
        Build {
            store,
            images,
            request,
            progress,
            cancel,
            imports,
            exports,
            ahead: Ahead::of(request, on_the_way(&request.definition, &edges_of(request))),
            pins: Arc::default(),
            journal: Arc::default(),
            known_images,
            results: Mutex::default(),
            added: Mutex::default(),
            brought_mounts: Mutex::default(),
            found: Mutex::default(),
            took: Mutex::default(),
            failed_late: Mutex::default(),
            keys: Mutex::default(),
            unrecorded: Mutex::default(),
            selected: Mutex::default(),
            locals: Mutex::default(),
            committed: AtomicBool::new(false),
            begun_caches: Mutex::default(),
            fetched: Mutex::default(),
            devices: OnceLock::new(),
        }
    }

    /// Notes what a source from the network turned out to be.
    pub fn note_fetched(&self, source: &SourceOp, fetched: Fetched) {
        let mut all = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(source.identifier.clone(), fetched);
    }

    /// What sources from the network turned out to be so far, by their identifiers.
    pub fn fetched(&self) -> BTreeMap<String, Fetched> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Holds the sources from the network to `pins`.
    pub fn held_to(mut self, pins: &Arc<Pins>) -> Build<'a> {
        self.pins = pins.clone();
        self
    }

    /// Notes what happens in `journal`.
    pub fn noted_in(mut self, journal: &Arc<Journal>) -> Build<'a> {
        self.journal = journal.clone();
        self
    }

    /// Solves the graph and gives the layers of each target; nothing in a dry run. Where a shared cache turns out not
    /// to have what it said, it is solved again without it: what ran is known by then.
    pub fn run(&self) -> Result<Vec<Stack>, WorkerError> {
        loop {
            match self.solve() {
                Err(error) => self.without_cache_of(error)?,
                solved => return solved,
            }
        }
    }

    fn solve(&self) -> Result<Vec<Stack>, WorkerError> {
        let mut definition = self.request.definition.clone();
        // A step's key has the devices that it gets, and not the names that it asks for.
        for (vertex, devices) in self.grant_devices()? {
            let named = |device: &Arc<Device>| CdiDevice { name: device.name().to_owned(), optional: false };
            definition.set_devices(*vertex, devices.iter().map(named).collect());
        }
        let targets = self.request.targets.iter();
        let edges = targets.clone().filter_map(|target| target.edge).collect();
        let mut solver = Solver::with_targets(definition, edges, self.request.jobs);
        let (sender, receiver) = channel();
        let failed = std::thread::scope(|scope| self.drive(scope, &mut solver, &sender, &receiver));
        // What failed last may have failed all else.
        let failed = self.failed_late.lock().unwrap_or_else(PoisonError::into_inner).take().or(failed);
        self.remember_digests();
        self.note_keys(&solver);
        // A graph that is solved once more is told of then.
        if !failed.as_ref().is_some_and(|(_, error)| matches!(error, WorkerError::CacheLayer { .. })) {
            self.journal.solved(solver);
        }
        match failed {
            Some((vertex, error)) => Err(self.explained(vertex, error)),
            None if self.request.dry_run => Ok(Vec::new()),
            None => {
                let stack = |edge| self.base(edge);
                targets.map(|target| target.edge.map_or_else(|| Ok(Stack::default()), stack)).collect()
            }
        }
    }

    /// Finds the devices of all steps, before any runs.
    fn grant_devices(&self) -> Result<&Granted, WorkerError> {
        let granted = crate::cdi::grant(&self.request.definition, &self.request.devices);
        let granted = granted.map_err(|(vertex, error)| self.explained(vertex, error.into()))?;
        Ok(self.devices.get_or_init(|| granted))
    }

    /// The devices of a step.
    pub fn devices_of(&self, vertex: VertexId) -> &[Arc<Device>] {
        self.devices.get().and_then(|all| all.get(&vertex)).map_or(&[], Vec::as_slice)
    }

    /// Whether a layer was made or unpacked, so that the store must be synced before a name is given.
    pub fn made_something(&self) -> bool {
        self.committed.load(Ordering::Relaxed) || self.images.made_something()
    }

    /// Notes that a layer was made.
    pub fn note_made(&self) {
        self.committed.store(true, Ordering::Relaxed);
    }

    fn drive<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        solver: &mut Solver,
        sender: &Sender<Report>,
        receiver: &Receiver<Report>,
    ) -> Option<(VertexId, WorkerError)> {
        let mut failure: Option<(VertexId, WorkerError)> = None;
        let mut hands = Hands::new(scope, STACK_BYTES);
        loop {
            while let Some(action) = solver.next_action() {
                self.perform((scope, &mut hands), solver, action, sender);
            }
            match solver.progress() {
                Solved::Done => return None,
                Solved::Failed(_) => return failure,
                Solved::Waiting if solver.is_stuck() => {
                    let target = solver.targets().first().map_or(VertexId(0), |edge| edge.vertex);
                    return Some((target, WorkerError::Stuck));
                }
                Solved::Waiting => {}
            }
            let Some(Report { vertex, outcome }) = self.wait(receiver) else { continue };
            match outcome {
                Ok(event) => solver.apply(event),
                Err(error) => {
                    // The first failure is the one that is shown; those that follow come of stopping.
                    if failure.is_none() {
                        // What runs beside a cache that is no good is done all the same.
                        if !matches!(error, WorkerError::CacheLayer { .. }) {
                            self.cancel.cancel();
                        }
                        failure = Some((vertex, error));
                    }
                    solver.apply(Event::Failed(vertex));
                }
            }
        }
    }

    fn wait(&self, receiver: &Receiver<Report>) -> Option<Report> {
        receiver.recv_timeout(CANCEL_POLL).ok()
    }

    fn perform<'scope, 'env>(
        &'env self,
        (scope, hands): (&'scope Scope<'scope, 'env>, &mut Hands<'scope, 'env>),
        solver: &Solver,
        action: Action,
        sender: &Sender<Report>,
    ) {
        let vertex = match &action {
            Action::Identify(v) | Action::Fetch(v) => *v,
            Action::Select { vertex, .. }
            | Action::LookUp { vertex, .. }
            | Action::Load { vertex, .. }
            | Action::Remember { vertex, .. }
            | Action::Run { vertex, .. } => *vertex,
        };
        let inline = match &action {
            Action::LookUp { .. } => self.imports.are_settled(),
            Action::Remember { .. } => true,
            Action::Load { vertex, .. } => !self.stands_on_a_folder(*vertex),
            Action::Identify(v) => self.is_known_image(solver.definition().vertex(*v)),
            Action::Run { .. } | Action::Select { .. } | Action::Fetch(_) => false,
        };
        let is_reading = matches!(action, Action::Select { .. });
        let (sender, for_failure) = (sender.clone(), sender.clone());
        let work = move || {
            let answer =
                || if self.cancel.is_cancelled() { Err(WorkerError::Canceled) } else { self.answer(&action) };
            // A thread that ends without a report would be waited for in vain.
            let outcome = catch_unwind(AssertUnwindSafe(answer)).unwrap_or(Err(WorkerError::Panicked));
            let (outcome, unfinished) = match outcome {
                Ok((event, unfinished)) => (Ok(event), unfinished),
                Err(error) => (Err(error), None),
            };
            // The receiver outlives every thread of the scope.
            let _ = sender.send(Report { vertex, outcome });
            if let Some(unfinished) = unfinished {
                self.finish_later(vertex, unfinished);
            }
        };
        if inline {
            return work();
        }
        let begun = match is_reading {
            true => hands.take(work),
            false => {
                let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
                thread.spawn_scoped(scope, work).map(drop)
            }
        };
        if let Err(e) = begun {
            let outcome = Err(WorkerError::io("start a thread for", "a step")(e));
            let _ = for_failure.send(Report { vertex, outcome });
        }
    }

    /// Whether a vertex is built on a folder of the user's, which has to be read first.
    fn stands_on_a_folder(&self, vertex: VertexId) -> bool {
        bases(&self.request.definition, vertex).iter().any(|edge| self.is_local(edge.vertex))
    }

    fn is_local(&self, vertex: VertexId) -> bool {
        matches!(&self.vertex(vertex).op, Op::Source(source) if source.identifier.starts_with("local://"))
    }

    /// Finishes a step on which others are built already.
    fn finish_later(&self, vertex: VertexId, unfinished: Unfinished) {
        let finish = || self.finish_step(unfinished);
        match catch_unwind(AssertUnwindSafe(finish)).unwrap_or(Err(WorkerError::Panicked)) {
            Ok(()) => self.share(vertex),
            Err(error) => {
                self.cancel.cancel();
                let mut failed = self.failed_late.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert((vertex, error));
            }
        }
    }

    /// What is to be told the solver of an action, and what is left to be done of it then.
    fn answer(&self, action: &Action) -> Result<(Event, Option<Unfinished>), WorkerError> {
        if self.request.dry_run
            && let Some(event) = self.foreseen(action)?
        {
            return Ok((event, None));
        }
        let event = match action {
            Action::Identify(vertex) => self.identify(*vertex)?,
            Action::Select { vertex, input } => {
                let digest = self.select(*vertex, *input)?;
                Event::Selected { vertex: *vertex, input: *input, digest }
            }
            Action::LookUp { vertex, key, alias, max_age_s } => {
                self.look_up(*vertex, key, alias.as_ref(), *max_age_s)?
            }
            Action::Load { vertex, key } => self.load(*vertex, key)?,
            Action::Remember { vertex, key } => {
                let made = self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner).remove(vertex);
                if let Some(added) = made {
                    self.store.meta.add_record(&[*key], &added)?;
                }
                Event::Remembered(*vertex)
            }
            Action::Fetch(vertex) => self.fetch(*vertex)?,
            Action::Run { vertex, keys, take } => return self.run_step(*vertex, keys, take.as_ref()),
        };
        Ok((event, None))
    }

    fn keep(&self, vertex: VertexId, stacks: Vec<Stack>) -> Vec<ContentId> {
        let contents = stacks.iter().map(Stack::content).collect();
        self.results.lock().unwrap_or_else(PoisonError::into_inner).insert(vertex, stacks);
        contents
    }

    fn is_known_image(&self, vertex: &Vertex) -> bool {
        matches!(&vertex.op, Op::Source(source) if self.known_images.contains_key(&source.identifier))
    }

    fn identify(&self, vertex: VertexId) -> Result<Event, WorkerError> {
        let this = self.vertex(vertex);
        let Op::Source(source) = &this.op else {
            return Err(WorkerError::Unsupported(this.metadata.name.clone()));
        };
        if let Some(image) = self.known_images.get(&source.identifier) {
            let stack = image.stack();
            let chain = ChainId::of(&stack.diff_ids()?);
            let mut hasher = Hasher::new();
            hasher.update(b"image\0");
            hasher.update(chain.map_or_else(String::new, |c| c.to_string()).as_bytes());
            if let Some(platform) = &this.platform {
                hasher.update(platform.to_string().as_bytes());
            }
            let key = CacheKey(hasher.finish());
            let content = self.keep(vertex, vec![stack])[0];
            return Ok(Event::Identified { vertex, key, content });
        }
        self.progress.send(Progress::Started { vertex, name: &this.metadata.name });
        let started = Instant::now();
        self.journal.begun(vertex);
        let stack = crate::remote::bring(self, source)?;
        self.journal.done(vertex, &[]);
        self.progress.send(Progress::Done { vertex, name: &this.metadata.name, took: started.elapsed() });
        let content = self.keep(vertex, vec![stack])[0];
        Ok(Event::Identified { vertex, key: CacheKey(content.0), content })
    }

    fn fetch(&self, vertex: VertexId) -> Result<Event, WorkerError> {
        let this = self.vertex(vertex);
        let stack = self.stack(Edge { vertex, output: 0 });
        let started = Instant::now();
        self.progress.send(Progress::Started { vertex, name: &this.metadata.name });
        if !self.images.are_here(&stack)? {
            self.journal.begun(vertex);
            self.images.unpacked(&stack)?;
            self.journal.done(vertex, &[]);
        }
        self.progress.send(Progress::Done { vertex, name: &this.metadata.name, took: started.elapsed() });
        Ok(Event::Fetched(vertex))
    }

    fn select(&self, vertex: VertexId, input: usize) -> Result<Digest, WorkerError> {
        let view = self.view(self.vertex(vertex).inputs[input])?;
        let (reads, listing) = Reads::of(self.vertex(vertex), input, &view)?;
        let digest = reads.digest;
        self.journal.read(vertex, input, digest, listing);
        if matches!(view, View::Local(_)) {
            let mut selected = self.selected.lock().unwrap_or_else(PoisonError::into_inner);
            selected.insert((vertex, input), Arc::new(reads));
        }
        Ok(digest)
    }

    /// A vertex of the graph.
    pub fn vertex(&self, vertex: VertexId) -> &Vertex {
        self.request.definition.vertex(vertex)
    }

    /// The layers of an output; none of one that is not there.
    pub fn stack(&self, edge: Edge) -> Stack {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.get(&edge.vertex).and_then(|r| r.get(edge.output as usize)).cloned().unwrap_or_default()
    }

    /// The layers of an output that something is built on. A folder of the user's becomes a layer.
    pub fn base(&self, edge: Edge) -> Result<Stack, WorkerError> {
        if self.local(edge.vertex)?.is_none() {
            return Ok(self.stack(edge));
        }
        let known = self.stack(edge);
        if !known.0.is_empty() {
            return Ok(known);
        }
        let mut hasher = Hasher::new();
        let digest = crate::selection::digest_of_all(&self.view(edge)?, b"")?;
        hasher.update(b"local\0");
        hasher.update(digest.as_bytes());
        let key = CacheKey(hasher.finish());
        let _alone = self.store.lock(&format!("step-{}", key.0.hex()), self.cancel)?;
        let layers = match self.record(&key)? {
            Some(record) => record.added(),
            None => {
                let active = crate::exec_step::copy_of_local(self, edge, b"", b"")?;
                let again = crate::selection::digest_of_all(&self.view(edge)?, b"")?;
                if again != digest {
                    let place = self.view(edge)?.place();
                    return Err(WorkerError::Changing(place));
                }
                let committed = self.store.snapshots.commit(active, &[], &CommitOptions::default())?;
                let outputs = vec![vec![crate::exec_step::add_layer(self, &committed)?]];
                self.note_made();
                self.store.meta.add_record(&[key], &outputs)?;
                self.layers_of(&outputs)?
            }
        };
        self.keep(edge.vertex, layers.into_iter().map(|added| added.into_iter().collect()).collect());
        Ok(self.stack(edge))
    }

    /// A way to look at an output's files.
    pub fn view(&self, edge: Edge) -> Result<View, WorkerError> {
        if let Some(local) = self.local(edge.vertex)? {
            return Ok(View::Local(local));
        }
        let ids = self.images.unpacked(&self.stack(edge))?;
        let indexes = ids.iter().map(|id| self.store.snapshots.index(id)).collect::<Result<_, _>>()?;
        Ok(View::Layers(Arc::new(TreeView::new(indexes))))
    }

    /// The folder that a vertex stands for, if it is a local source.
    pub fn local(&self, vertex: VertexId) -> Result<Option<Arc<LocalSource>>, WorkerError> {
        let Op::Source(source) = &self.vertex(vertex).op else { return Ok(None) };
        let Some(name) = source.identifier.strip_prefix("local://") else { return Ok(None) };
        let mut locals = self.locals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(local) = locals.get(&vertex) {
            return Ok(Some(local.clone()));
        }
        let path = self.request.locals.get(name).ok_or_else(|| WorkerError::NotFound {
            path: name.to_owned(),
            place: "the contexts of this build".to_owned(),
            around: Box::default(),
        })?;
        let patterns = |key: &str| -> Vec<String> {
            source.attrs.get(key).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
        };
        let LocalFolder { path, keeps_owners, modes } = path;
        let remembered = match self.request.verify_cache {
            true => None,
            false => self.store.meta.memo(&folder_name(path))?,
        };
        let memo = Memo::from_bytes(&remembered.unwrap_or_default());
        let excludes = patterns("local.excludepatterns");
        let local = Arc::new(LocalSource::open(path, &excludes, memo, *keeps_owners, *modes)?);
        locals.insert(vertex, local.clone());
        Ok(Some(local))
    }

    /// Whether a cache mount is to be emptied: `--no-cache` does so, once in a build.
    pub fn begins_anew(&self, cache: &str) -> bool {
        let begun = self.begun_caches.lock().unwrap_or_else(PoisonError::into_inner);
        self.request.empty_caches && !begun.contains(cache)
    }

    /// Notes that a cache mount was emptied in this build.
    pub fn note_begun(&self, cache: &str) {
        self.begun_caches.lock().unwrap_or_else(PoisonError::into_inner).insert(cache.to_owned());
    }

    fn remember_digests(&self) {
        for local in self.locals.lock().unwrap_or_else(PoisonError::into_inner).values() {
            if let Some(bytes) = local.memo().to_bytes() {
                // Only speed is lost if it can't be kept.
                let _ = self.store.meta.set_memo(&folder_name(local.path()), &bytes);
            }
        }
    }

    /// An error, with where in the Dockerfile it came up.
    fn explained(&self, vertex: VertexId, error: WorkerError) -> WorkerError {
        if matches!(error, WorkerError::Canceled | WorkerError::Run(kiln_runner::RunError::Cancelled)) {
            return WorkerError::Canceled;
        }
        let this = self.vertex(vertex);
        WorkerError::Vertex {
            vertex,
            name: this.metadata.name.clone(),
            lines: this.metadata.lines.clone(),
            log: self.progress.tail(vertex),
            error: Box::new(error),
        }
    }
}

/// The results that a request asks for.
pub(crate) fn edges_of(request: &BuildRequest) -> Vec<Edge> {
    request.targets.iter().filter_map(|target| target.edge).collect()
}

/// What a folder is called in the memo: where it is does not count, only which it is.
pub(crate) fn folder_name(path: &std::path::Path) -> String {
    std::fs::metadata(path)
        .map_or_else(|_| path.display().to_string(), |m| format!("{}:{}", m.dev(), m.ino()))
}
