//! The state machine: what must be done next to get the target, given what is known.
//!
//! Demand flows back from the target. A vertex wants its *key* first; of a known step only the
//! *result* of what it is built on; the *files* of an input only if a step must really run. So a build
//! of which everything is known asks for nothing but look-ups.
//!
//! ```text
//! Idle ─► Keying ─ keys of inputs ─► Keyed ─► LookingUp ─ hit ─► Hit ─ bases' results ─► Loading ─► Done
//!                                                 │ miss
//!     Gathering (results; files of what is selected) ─► Selecting ─► LookingUpContent ─ hit ─► Hit …
//!                                                 │ miss
//!                      Preparing (files of all inputs) ─► Ready ─► Running ─► Done
//! Idle ─► Identifying ─► Identified ─ result wanted ─► Done ─ files wanted ─► Fetching ─► Done   (a source)
//! ```
//! In a dry run a vertex may end as `Foreseen` instead of `Done`: what it makes is not known, and what is built on it
//! is looked up by its chain key alone.
//! It does no I/O: [`Solver::next`] gives an action as plain data, [`Solver::apply`] takes what came of it.

mod foresee;

use crate::cache_key::{CacheKey, ContentId, InputKey, StepInputs};
use crate::definition::{Definition, Edge, Op, VertexId};
use crate::protocol::{Action, Event, Foresight, Progress};
use crate::reads::{bases, is_local, is_selected};
use kiln_oci::Digest;
use std::collections::VecDeque;

/// How much of a vertex is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Want {
    Nothing,
    Key,
    Result,
    Files,
}

/// Where a vertex stands. Each variant holds what only it needs.
#[derive(Clone, Debug)]
enum State {
    Idle,
    Identifying,
    Identified {
        key: CacheKey,
        content: ContentId,
    },
    Keying {
        selected: Vec<Option<Digest>>,
    },
    Keyed {
        key: CacheKey,
        inputs: Vec<InputKey>,
    },
    LookingUp {
        key: CacheKey,
        inputs: Vec<InputKey>,
    },
    Gathering {
        key: CacheKey,
        inputs: Vec<InputKey>,
    },
    Selecting {
        key: CacheKey,
        inputs: Vec<Option<InputKey>>,
    },
    LookingUpContent {
        keys: [CacheKey; 2],
    },
    /// `found` is the key that has a result; `otherwise` is where to go on should it be gone.
    Hit {
        key: CacheKey,
        found: CacheKey,
        otherwise: Box<State>,
    },
    Loading {
        key: CacheKey,
        otherwise: Box<State>,
    },
    Preparing {
        keys: Vec<CacheKey>,
    },
    Ready {
        keys: Vec<CacheKey>,
    },
    Running {
        key: CacheKey,
    },
    Fetching {
        key: CacheKey,
        outputs: Vec<ContentId>,
    },
    Done {
        key: Option<CacheKey>,
        outputs: Vec<ContentId>,
        files: bool,
    },
    /// Only in a dry run. `outputs` is there where the content is known and only the files are not.
    Foreseen {
        key: CacheKey,
        outputs: Vec<ContentId>,
        how: Foresight,
    },
}

/// Whether what is wanted of a vertex is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Here,
    /// It never will be in this run, which is a dry one.
    Foreseen,
    Awaited,
}

/// By what the inputs of a vertex went into its keys.
#[derive(Clone, Debug, Default)]
struct KeyedBy {
    chain: Vec<InputKey>,
    content: Vec<InputKey>,
}

/// Solves one definition.
#[derive(Debug)]
pub struct Solver {
    definition: Definition,
    states: Vec<State>,
    wants: Vec<Want>,
    keyed_by: Vec<KeyedBy>,
    dependants: Vec<Vec<VertexId>>,
    /// Whether what is known of a vertex by how it is made may be stale: it is to be done anew, or what it
    /// is made of is or may be, as its result may be too old.
    anew: Vec<bool>,
    actions: VecDeque<Action>,
    ready: VecDeque<VertexId>,
    touched: Vec<VertexId>,
    outstanding: usize,
    running: usize,
    jobs: usize,
    failed: Option<VertexId>,
    targets: Vec<Edge>,
}

impl Solver {
    /// A solver for `definition` that lets at most `jobs` steps run at once (at least one).
    pub fn new(definition: Definition, jobs: usize) -> Solver {
        let targets = definition.target.into_iter().collect();
        Solver::with_targets(definition, targets, jobs)
    }

    /// A solver for several targets of one definition, whatever its own is: it is done when all of them are.
    pub fn with_targets(definition: Definition, targets: Vec<Edge>, jobs: usize) -> Solver {
        let count = definition.vertices().len();
        let mut dependants = vec![Vec::new(); count];
        let mut anew = vec![false; count];
        for (i, vertex) in definition.vertices().iter().enumerate() {
            let may_change = |edge: &Edge| {
                let input = edge.vertex.index();
                anew[input] || definition.vertices()[input].metadata.max_age_s.is_some()
            };
            anew[i] = vertex.metadata.ignore_cache || vertex.inputs.iter().any(may_change);
            for edge in &vertex.inputs {
                let list: &mut Vec<VertexId> = &mut dependants[edge.vertex.index()];
                let id = VertexId(i as u32);
                if list.last() != Some(&id) {
                    list.push(id);
                }
            }
        }
        let mut solver = Solver {
            definition,
            states: vec![State::Idle; count],
            wants: vec![Want::Nothing; count],
            keyed_by: vec![KeyedBy::default(); count],
            dependants,
            anew,
            actions: VecDeque::new(),
            ready: VecDeque::new(),
            touched: Vec::new(),
            outstanding: 0,
            running: 0,
            jobs: jobs.max(1),
            failed: None,
            targets,
        };
        for at in 0..solver.targets.len() {
            solver.want(solver.targets[at].vertex, Want::Result);
        }
        solver.settle();
        solver
    }

    /// What it solves for.
    pub fn targets(&self) -> &[Edge] {
        &self.targets
    }

    /// The graph that it solves.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The next thing to do, or `None` if there is nothing until an event comes in.
    pub fn next_action(&mut self) -> Option<Action> {
        if self.failed.is_some() {
            return None;
        }
        if let Some(action) = self.actions.pop_front() {
            self.outstanding += 1;
            return Some(action);
        }
        if self.running >= self.jobs {
            return None;
        }
        let vertex = self.ready.pop_front()?;
        let State::Ready { keys } = &self.states[vertex.index()] else {
            unreachable!("only a ready vertex is queued")
        };
        let keys = keys.clone();
        self.set(vertex, State::Running { key: keys[0] });
        self.outstanding += 1;
        self.running += 1;
        let take = if self.definition.vertex(vertex).metadata.ignore_cache {
            None
        } else if self.anew[vertex.index()] {
            // By how it is made only what was made of the old inputs is known.
            keys.get(1).copied()
        } else {
            keys.first().copied()
        };
        Some(Action::Run { vertex, keys, take })
    }

    /// Takes in what came of an action.
    pub fn apply(&mut self, event: Event) {
        self.outstanding -= 1;
        match event {
            Event::Identified { vertex, key, content } => {
                self.set(vertex, State::Identified { key, content })
            }
            Event::Selected { vertex, input, digest } => self.selected(vertex, input, digest),
            Event::Found { vertex, hit } => self.found(vertex, hit),
            Event::Loaded { vertex, outputs } => self.loaded(vertex, outputs),
            Event::Fetched(vertex) => {
                if let State::Fetching { key, outputs } = &self.states[vertex.index()] {
                    let done = State::Done { key: Some(*key), outputs: outputs.clone(), files: true };
                    self.set(vertex, done);
                }
            }
            Event::Ran { vertex, outputs, changed } => {
                self.running -= 1;
                if let State::Running { key } = self.states[vertex.index()] {
                    let key =
                        if changed.is_empty() { key } else { self.rekeyed(vertex, &changed).unwrap_or(key) };
                    self.set(vertex, State::Done { key: Some(key), outputs, files: true });
                }
            }
            Event::Remembered(_) => {}
            Event::Foreseen(vertex) => self.foresee(vertex),
            Event::Failed(vertex) => {
                if matches!(self.states[vertex.index()], State::Running { .. }) {
                    self.running -= 1;
                }
                self.failed.get_or_insert(vertex);
            }
        }
        self.settle();
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let is_done = |edge: &Edge| {
            matches!(self.states[edge.vertex.index()], State::Done { .. } | State::Foreseen { .. })
        };
        match self.failed {
            Some(vertex) if self.outstanding == 0 => Progress::Failed(vertex),
            None if self.targets.iter().all(is_done) => Progress::Done,
            Some(_) | None => Progress::Waiting,
        }
    }

    /// Whether nothing is out and nothing is to be done, though the targets are not there: a defect of the
    /// solver, which must not be waited for.
    pub fn is_stuck(&self) -> bool {
        let idle = self.outstanding == 0 && self.actions.is_empty() && self.ready.is_empty();
        idle && matches!(self.progress(), Progress::Waiting)
    }

    /// The content of an output, once its vertex is done.
    pub fn content(&self, edge: Edge) -> Option<ContentId> {
        match &self.states[edge.vertex.index()] {
            State::Done { outputs, .. }
            | State::Fetching { outputs, .. }
            | State::Foreseen { outputs, .. } => outputs.get(edge.output as usize).copied(),
            State::Identified { content, .. } => Some(*content),
            _ => None,
        }
    }

    /// The key of a vertex that read something else than its key stood for. All that was worked out from
    /// the old one is forgotten.
    fn rekeyed(&mut self, vertex: VertexId, changed: &[(usize, Digest)]) -> Option<CacheKey> {
        let this = self.definition.vertex(vertex);
        let known = this.inputs.iter().enumerate().map(|(i, edge)| {
            let read = changed.iter().find(|(input, _)| *input == i);
            read.map(|(_, digest)| InputKey::Selection(*digest)).or_else(|| self.chain_key(edge))
        });
        let inputs = known.collect::<Option<Vec<InputKey>>>()?;
        let key = StepInputs { op: &this.op, platform: this.platform.as_ref(), inputs: &inputs }.key();
        self.keyed_by[vertex.index()].chain = inputs;
        self.actions.push_back(Action::Remember { vertex, key });
        let mut stale = self.dependants[vertex.index()].clone();
        while let Some(dependant) = stale.pop() {
            let state = &self.states[dependant.index()];
            if !matches!(
                state,
                State::Idle | State::Ready { .. } | State::Running { .. } | State::Done { .. }
            ) {
                stale.extend_from_slice(&self.dependants[dependant.index()]);
                self.set(dependant, State::Idle);
            }
        }
        Some(key)
    }

    fn selected(&mut self, vertex: VertexId, input: usize, digest: Digest) {
        match &mut self.states[vertex.index()] {
            State::Keying { selected } => selected[input] = Some(digest),
            State::Selecting { inputs, .. } => inputs[input] = Some(InputKey::Selection(digest)),
            _ => {}
        }
        self.touched.push(vertex);
    }

    fn found(&mut self, vertex: VertexId, hit: bool) {
        let (key, found, otherwise) = match &self.states[vertex.index()] {
            State::LookingUp { key, inputs } => {
                (*key, *key, State::Gathering { key: *key, inputs: inputs.clone() })
            }
            State::LookingUpContent { keys } => (keys[0], keys[1], State::Preparing { keys: keys.to_vec() }),
            _ => return,
        };
        let next = if hit { State::Hit { key, found, otherwise: Box::new(otherwise) } } else { otherwise };
        self.set(vertex, next);
    }

    fn loaded(&mut self, vertex: VertexId, outputs: Option<Vec<ContentId>>) {
        let State::Loading { key, otherwise } = &self.states[vertex.index()] else { return };
        let next = match outputs {
            Some(outputs) => State::Done { key: Some(*key), outputs, files: true },
            None => State::clone(otherwise),
        };
        self.set(vertex, next);
    }

    /// The only place where a state is written after the start: what waits for the vertex is looked at again.
    fn set(&mut self, vertex: VertexId, state: State) {
        if matches!(state, State::Ready { .. }) {
            self.ready.push_back(vertex);
        }
        self.states[vertex.index()] = state;
        self.touched.push(vertex);
        let wakes = matches!(
            self.states[vertex.index()],
            State::Identified { .. } | State::Keyed { .. } | State::Done { .. } | State::Foreseen { .. }
        );
        if wakes {
            self.touched.extend_from_slice(&self.dependants[vertex.index()]);
        }
    }

    fn want(&mut self, vertex: VertexId, want: Want) {
        if self.wants[vertex.index()] < want {
            self.wants[vertex.index()] = want;
            self.touched.push(vertex);
        }
    }

    /// Looks at each vertex for which something changed, until nothing changes any more.
    fn settle(&mut self) {
        while let Some(vertex) = self.touched.pop() {
            if self.failed.is_none() && self.wants[vertex.index()] > Want::Nothing {
                self.advance(vertex);
            }
        }
    }

    fn advance(&mut self, vertex: VertexId) {
        let want = self.wants[vertex.index()];
        match &self.states[vertex.index()] {
            State::Idle => self.begin(vertex),
            State::Keying { .. } => self.try_key(vertex),
            State::Keyed { .. } if want >= Want::Result => self.try_look_up(vertex),
            State::Identified { key, content } if want >= Want::Result => {
                let done = State::Done { key: Some(*key), outputs: vec![*content], files: false };
                self.set(vertex, done);
            }
            State::Gathering { .. } => self.try_gather(vertex),
            State::Selecting { .. } => self.try_content_key(vertex),
            State::Hit { .. } => self.try_load(vertex),
            State::Preparing { .. } => self.try_prepare(vertex),
            State::Done { key: Some(key), outputs, files: false } if want >= Want::Files => {
                let fetching = State::Fetching { key: *key, outputs: outputs.clone() };
                self.actions.push_back(Action::Fetch(vertex));
                self.set(vertex, fetching);
            }
            _ => {}
        }
    }

    fn begin(&mut self, vertex: VertexId) {
        let this = &self.definition.vertex(vertex);
        if is_local(&this.op) {
            let nothing = ContentId(Digest::of(b"local"));
            return self.set(vertex, State::Done { key: None, outputs: vec![nothing], files: true });
        }
        if matches!(this.op, Op::Source(_)) {
            self.actions.push_back(Action::Identify(vertex));
            return self.set(vertex, State::Identifying);
        }
        let inputs = this.inputs.clone();
        for (i, edge) in inputs.iter().enumerate() {
            self.want(edge.vertex, Want::Key);
            if is_local(&self.definition.vertex(edge.vertex).op) {
                self.actions.push_back(Action::Select { vertex, input: i });
            }
        }
        self.set(vertex, State::Keying { selected: vec![None; inputs.len()] });
    }

    /// The key of an input by how it is made, as soon as that is known.
    fn chain_key(&self, edge: &Edge) -> Option<InputKey> {
        let key = match &self.states[edge.vertex.index()] {
            State::Identified { key, .. }
            | State::Keyed { key, .. }
            | State::LookingUp { key, .. }
            | State::Gathering { key, .. }
            | State::Selecting { key, .. }
            | State::Running { key }
            | State::Hit { key, .. }
            | State::Loading { key, .. }
            | State::Fetching { key, .. }
            | State::Foreseen { key, .. }
            | State::Done { key: Some(key), .. } => *key,
            State::LookingUpContent { keys } => keys[0],
            State::Preparing { keys } | State::Ready { keys } => keys[0],
            State::Idle | State::Identifying | State::Keying { .. } | State::Done { key: None, .. } => {
                return None;
            }
        };
        Some(InputKey::Chain(key, edge.output))
    }

    fn try_key(&mut self, vertex: VertexId) {
        let State::Keying { selected } = &self.states[vertex.index()] else { return };
        let this = self.definition.vertex(vertex);
        let known = this.inputs.iter().zip(selected).map(|(edge, digest)| match digest {
            Some(digest) => Some(InputKey::Selection(*digest)),
            None => self.chain_key(edge),
        });
        let Some(inputs) = known.collect::<Option<Vec<InputKey>>>() else { return };
        let key = StepInputs { op: &this.op, platform: this.platform.as_ref(), inputs: &inputs }.key();
        self.keyed_by[vertex.index()].chain.clone_from(&inputs);
        self.set(vertex, State::Keyed { key, inputs });
    }

    fn try_look_up(&mut self, vertex: VertexId) {
        let bases = self.bases_standing(vertex);
        let this = self.definition.vertex(vertex);
        let State::Keyed { key, inputs } = &self.states[vertex.index()] else { return };
        let (key, inputs) = (*key, inputs.clone());
        if matches!(this.op, Op::Merge) {
            // Laying layers over each other is cheaper than looking for somebody who did.
            let (outputs, how) = (Vec::new(), Foresight::Perhaps);
            match bases {
                Standing::Here => self.set(vertex, State::Ready { keys: vec![key] }),
                Standing::Foreseen => self.set(vertex, State::Foreseen { key, outputs, how }),
                Standing::Awaited => {}
            }
        } else if self.anew[vertex.index()] {
            self.set(vertex, State::Gathering { key, inputs });
        } else {
            let max_age_s = this.metadata.max_age_s;
            self.actions.push_back(Action::LookUp { vertex, key, alias: None, max_age_s });
            self.set(vertex, State::LookingUp { key, inputs });
        }
    }

    /// Wants the results of what the vertex is built on; whether they are there.
    fn bases_standing(&mut self, vertex: VertexId) -> Standing {
        let mut all = Standing::Here;
        for base in bases(&self.definition, vertex) {
            self.want(base.vertex, Want::Result);
            all = all.max(self.standing(base.vertex, Want::Result));
        }
        all
    }

    fn try_load(&mut self, vertex: VertexId) {
        let bases = self.bases_standing(vertex);
        let State::Hit { key, found, otherwise } = &self.states[vertex.index()] else { return };
        match bases {
            Standing::Awaited => {}
            Standing::Foreseen => {
                let (outputs, how) = (Vec::new(), Foresight::Known);
                let foreseen = State::Foreseen { key: *key, outputs, how };
                self.set(vertex, foreseen);
            }
            Standing::Here => {
                let action = Action::Load { vertex, key: *found };
                let loading = State::Loading { key: *key, otherwise: otherwise.clone() };
                self.actions.push_back(action);
                self.set(vertex, loading);
            }
        }
    }

    fn try_gather(&mut self, vertex: VertexId) {
        let this = self.definition.vertex(vertex);
        let edges = this.inputs.clone();
        let selects: Vec<bool> = (0..edges.len()).map(|i| is_selected(&self.definition, vertex, i)).collect();
        let mut all = Standing::Here;
        for (edge, selected) in edges.iter().zip(&selects) {
            let want = if *selected { Want::Files } else { Want::Result };
            self.want(edge.vertex, want);
            all = all.max(self.standing(edge.vertex, want));
        }
        let State::Gathering { key, inputs } = &self.states[vertex.index()] else { return };
        let (key, chain) = (*key, inputs.clone());
        match all {
            Standing::Awaited => return,
            Standing::Foreseen => {
                let how = self.foresight_of_gathered(vertex);
                return self.set(vertex, State::Foreseen { key, outputs: Vec::new(), how });
            }
            Standing::Here => {}
        }
        let mut inputs = Vec::with_capacity(edges.len());
        for (i, edge) in edges.iter().enumerate() {
            inputs.push(match (chain[i], selects[i]) {
                (InputKey::Selection(digest), _) => Some(InputKey::Selection(digest)),
                (_, true) => {
                    self.actions.push_back(Action::Select { vertex, input: i });
                    None
                }
                (_, false) => self.content(*edge).map(InputKey::Content),
            });
        }
        self.set(vertex, State::Selecting { key, inputs });
    }

    fn try_content_key(&mut self, vertex: VertexId) {
        let State::Selecting { key, inputs } = &self.states[vertex.index()] else { return };
        let Some(inputs) = inputs.iter().copied().collect::<Option<Vec<InputKey>>>() else { return };
        let (first, this) = (*key, self.definition.vertex(vertex));
        let key = StepInputs { op: &this.op, platform: this.platform.as_ref(), inputs: &inputs }.key();
        self.keyed_by[vertex.index()].content = inputs;
        if this.metadata.ignore_cache {
            return self.set(vertex, State::Preparing { keys: vec![first, key] });
        }
        let max_age_s = this.metadata.max_age_s;
        self.actions.push_back(Action::LookUp { vertex, key, alias: Some(first), max_age_s });
        self.set(vertex, State::LookingUpContent { keys: [first, key] });
    }

    fn try_prepare(&mut self, vertex: VertexId) {
        let edges = self.definition.vertex(vertex).inputs.clone();
        let mut all = Standing::Here;
        for edge in edges {
            self.want(edge.vertex, Want::Files);
            all = all.max(self.standing(edge.vertex, Want::Files));
        }
        let State::Preparing { keys } = &self.states[vertex.index()] else { return };
        // In a dry run nobody reads the files.
        if all != Standing::Awaited {
            let ready = State::Ready { keys: keys.clone() };
            self.set(vertex, ready);
        }
    }

    fn standing(&self, vertex: VertexId, want: Want) -> Standing {
        let here = match &self.states[vertex.index()] {
            State::Done { files, .. } => *files || want < Want::Files,
            State::Fetching { .. } => want < Want::Files,
            State::Foreseen { outputs, .. } if outputs.is_empty() || want >= Want::Files => {
                return Standing::Foreseen;
            }
            State::Foreseen { .. } => true,
            _ => false,
        };
        if here { Standing::Here } else { Standing::Awaited }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
