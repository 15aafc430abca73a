//! A step that must be done: it is done once, by one process, and what it made is noted under its keys. It does
//! not know how a process is run or a file is copied.

use super::known::{Added, Known};
use super::{Build, Performed};
use crate::WorkerError;
use crate::exec_step::add_layer;
use crate::export::Exporter;
use crate::layer::Layer;
use crate::meta::LayerRow;
use crate::progress::Progress;
use crate::reads::Reads;
use crate::store::{Lock, Sharing, now_s};
use kiln_oci::Digest;
use kiln_snapshotter::{Begun, Digesting};
use kiln_solver::{CacheKey, ContentId, Event, Op, VertexId};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// A layer that a step made.
#[derive(Debug)]
pub(crate) enum Made {
    /// All is known of it: its number in the store.
    Kept(i64),
    /// Its tar's digest is still to be worked out.
    Coming {
        digesting: Box<Digesting>,
        /// The key of the step, inputs aside.
        own: CacheKey,
        /// When it was made, in seconds since 1970.
        created_s: i64,
    },
}

/// A step whose result can be built on, but is not noted yet.
pub(super) struct Unfinished {
    vertex: VertexId,
    keys: Vec<CacheKey>,
    made: Vec<Vec<Made>>,
    layers: Added,
    /// Whether it is to be noted under the keys.
    is_recorded: bool,
    took: Duration,
    /// Other processes wait for it to be noted.
    #[expect(dead_code, reason = "it is held, not used")]
    alone: Lock,
}

/// How often a copy is done over because its source changed meanwhile.
const COPIES_MAX: usize = 4;

impl Build<'_> {
    /// Does a step. Gives what it added and, where the user's folders have changed since its keys were made,
    /// what was read of them.
    pub(super) fn perform_step(&self, vertex: VertexId) -> Result<Performed, WorkerError> {
        match &self.vertex(vertex).op {
            Op::Exec(exec) => {
                let added = crate::exec_step::run(self, vertex, exec)?;
                if self.is_unchanged(vertex)? {
                    return Ok((added, Vec::new()));
                }
                // What a process saw of a folder while that changed, nobody knows: its key is like no other.
                Ok((added, self.read_of_folders(vertex, &now_s().to_be_bytes())))
            }
            Op::File(file) => {
                for copies in 0..COPIES_MAX {
                    let (added, is_unchanged) = crate::file_step::run(self, vertex, file)?;
                    if is_unchanged {
                        let read = if copies == 0 { Vec::new() } else { self.read_of_folders(vertex, b"") };
                        return Ok((added, read));
                    }
                }
                Err(WorkerError::Changing(self.vertex(vertex).metadata.name.clone()))
            }
            Op::Source(_) | Op::Merge | Op::Diff => {
                Err(WorkerError::Unsupported(self.vertex(vertex).metadata.name.clone()))
            }
        }
    }

    /// The digests of what a vertex last read of the user's folders; with `salt`, ones that nothing has.
    pub(super) fn read_of_folders(&self, vertex: VertexId, salt: &[u8]) -> Vec<(usize, Digest)> {
        let selected = self.selected.lock().unwrap_or_else(PoisonError::into_inner);
        let of_vertex =
            selected.iter().filter(|((v, _), _)| *v == vertex).map(|(at, reads)| (at, &reads.digest));
        let salted = |digest: &Digest| {
            if salt.is_empty() { *digest } else { Digest::of(&[digest.as_bytes(), salt].concat()) }
        };
        of_vertex.map(|((_, input), digest)| (*input, salted(digest))).collect()
    }

    /// Whether what a vertex reads of the user's folders is still what it was when its key was made. If
    /// not, the key no longer stands for what was read.
    pub(crate) fn is_unchanged(&self, vertex: VertexId) -> Result<bool, WorkerError> {
        for (input, edge) in self.vertex(vertex).inputs.iter().enumerate() {
            if !self.is_local(edge.vertex) {
                continue;
            }
            let before = self.reads(vertex, input);
            let seen =
                before.as_ref().map(|reads| reads.are_still(self.vertex(vertex), input, &self.view(*edge)?));
            if !seen.transpose()?.unwrap_or(false)
                && Some(self.select(vertex, input)?) != before.map(|reads| reads.digest)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What a vertex last read of an input, if that is a folder of the user's.
    pub(crate) fn reads(&self, vertex: VertexId, input: usize) -> Option<Arc<Reads>> {
        self.selected.lock().unwrap_or_else(PoisonError::into_inner).get(&(vertex, input)).cloned()
    }

    /// Does a step, or takes what another process makes of it meanwhile. What is left to be done of it comes beside
    /// the event, so that what is built on it need not wait for that.
    pub(super) fn run_step(
        &self,
        vertex: VertexId,
        keys: &[CacheKey],
        take: Option<&CacheKey>,
    ) -> Result<(Event, Option<Unfinished>), WorkerError> {
        let this = self.vertex(vertex);
        if matches!(this.op, Op::Diff) {
            return Ok((self.run_diff(vertex)?, None));
        }
        if matches!(this.op, Op::Merge) {
            let mut layers = Vec::new();
            for edge in &this.inputs {
                layers.extend(self.base(*edge)?.0.iter().cloned());
            }
            let outputs = self.keep(vertex, vec![layers.into_iter().collect()]);
            return Ok((Event::Ran { vertex, outputs, changed: Vec::new() }, None));
        }
        // Another process, or another step with the same key, may be at it: then its result is taken.
        let name = &this.metadata.name;
        let waiting = |process| self.progress.send(Progress::Waiting { vertex, name, process });
        let lock = format!("step-{}", keys[0].0.hex());
        let alone = self.store.lock_telling(&lock, Sharing::Alone, self.cancel, &waiting)?;
        if let Some(take) = take
            && let Some(record) = self.young_record(take, this.metadata.max_age_s)?
            && self.stands(vertex, &Known::Here(record.clone()))?
        {
            self.journal.awaited(vertex, keys[0]);
            self.progress.send(Progress::Cached { vertex, name: &this.metadata.name });
            let outputs = self.keep_added(vertex, record.added())?;
            self.share(vertex);
            return Ok((Event::Ran { vertex, outputs, changed: Vec::new() }, None));
        }
        self.progress.send(Progress::Started { vertex, name: &this.metadata.name });
        let started = Instant::now();
        self.journal.begun(vertex);
        let (made, changed) = self.perform_step(vertex)?;
        self.note_made();
        let took = started.elapsed();
        self.took.lock().unwrap_or_else(PoisonError::into_inner).insert(vertex, took);
        let layers = made.iter().map(|output| output.iter().map(|made| made.layer(self)).collect());
        let layers = layers.collect::<Result<Added, WorkerError>>()?;
        let is_recorded = changed.is_empty();
        let may_wait = is_recorded && made.iter().flatten().any(|made| matches!(made, Made::Coming { .. }));
        let unfinished = Unfinished {
            vertex,
            keys: keys.to_vec(),
            made,
            layers: layers.clone(),
            is_recorded,
            took,
            alone,
        };
        let unfinished =
            if may_wait { Some(unfinished) } else { self.finish_step(unfinished).map(|()| None)? };
        let outputs = self.keep_added(vertex, layers)?;
        if unfinished.is_none() {
            self.share(vertex);
        }
        self.progress.send(Progress::Done { vertex, name: &this.metadata.name, took });
        Ok((Event::Ran { vertex, outputs, changed }, unfinished))
    }

    /// Notes what a step made under its keys, once the digests of its layers' tars are known.
    pub(super) fn finish_step(&self, mut unfinished: Unfinished) -> Result<(), WorkerError> {
        let mut added = Vec::new();
        for (made, layers) in std::mem::take(&mut unfinished.made).into_iter().zip(&unfinished.layers) {
            let finished = made
                .into_iter()
                .zip(layers)
                .map(|(made, layer)| made.finished(self, unfinished.vertex, layer));
            added.push(finished.collect::<Result<Vec<i64>, WorkerError>>()?);
        }
        let Unfinished { vertex, keys, is_recorded, took, .. } = &unfinished;
        let ids: Vec<i64> = added.iter().flatten().copied().collect();
        let name = self.shown(&self.vertex(*vertex).metadata.name);
        self.store.meta.set_cost(&ids, took.as_millis() as u64, &name)?;
        self.journal.done(*vertex, &added);
        if *is_recorded {
            let laid_on = self.laid_on(*vertex)?;
            self.store.with_space(|_| {
                self.store.meta.add_record(keys, &added)?;
                self.store.meta.set_laid_on(keys, &laid_on)
            })?;
        } else {
            self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner).insert(*vertex, added);
        }
        Ok(())
    }

    pub(super) fn run_diff(&self, vertex: VertexId) -> Result<Event, WorkerError> {
        let inputs = &self.vertex(vertex).inputs;
        let (lower, upper) = (self.stack(inputs[0]), self.stack(inputs[1]));
        let count = lower.0.len();
        if !upper.diff_ids()?.starts_with(&lower.diff_ids()?) {
            return Err(WorkerError::Copy(crate::CopyError::Diff));
        }
        let outputs = self.keep(vertex, vec![upper.0[count..].iter().cloned().collect()]);
        Ok(Event::Ran { vertex, outputs, changed: Vec::new() })
    }
}

impl Made {
    /// Takes in a layer that the step with the key `own`, inputs aside, made. One that made just this before keeps its
    /// old layer, and what follows stays cached.
    pub(crate) fn of(build: &Build<'_>, own: &CacheKey, begun: Begun) -> Result<Made, WorkerError> {
        let store = build.store;
        let content = match &begun {
            Begun::Done(committed) => committed.content,
            Begun::Digesting(digesting) => digesting.content(),
        };
        let old = store.meta.same(own, &content)?;
        match (old, begun) {
            (Some(old), begun) if store.meta.layer(old)?.is_some() => {
                if let Begun::Done(committed) = begun {
                    store.snapshots.remove(&committed.id)?;
                }
                Ok(Made::Kept(old))
            }
            (_, Begun::Done(committed)) => {
                let id = add_layer(build, &committed)?;
                store.meta.add_same(own, &content, id)?;
                Ok(Made::Kept(id))
            }
            (_, Begun::Digesting(digesting)) => {
                Ok(Made::Coming { digesting: Box::new(digesting), own: *own, created_s: now_s() })
            }
        }
    }

    fn layer(&self, build: &Build<'_>) -> Result<Arc<Layer>, WorkerError> {
        match self {
            Made::Kept(id) => build.layer_of(*id),
            Made::Coming { digesting, created_s, .. } => {
                let content = ContentId(digesting.content());
                Ok(Arc::new(Layer::coming(digesting.id(), content, *created_s)))
            }
        }
    }

    /// The number of the layer in the store, when all is known of it; `layer` learns it too.
    fn finished(self, build: &Build<'_>, vertex: VertexId, layer: &Layer) -> Result<i64, WorkerError> {
        let (mut digesting, own, created_s) = match self {
            Made::Kept(id) => return Ok(id),
            Made::Coming { digesting, own, created_s } => (digesting, own, created_s),
        };
        let snapshots = &build.store.snapshots;
        let exporter = Exporter::new(build.store, build.images, build.progress);
        let name = &build.vertex(vertex).metadata.name;
        let compressed = build.ahead.finishing(vertex, |form| {
            exporter.finished(name, form, |out| Ok(snapshots.complete(&mut digesting, Some(out))?))
        });
        let committed = match compressed {
            Some(Ok(committed)) => committed,
            Some(Err(WorkerError::Canceled)) => return Err(WorkerError::Canceled),
            // Whoever writes the output tells of what can't be compressed.
            Some(Err(_)) | None => {
                build.store.with_space(|_| Ok(snapshots.complete(&mut digesting, None)?))?
            }
        };
        let row = LayerRow { created_s, ..LayerRow::of(&committed) };
        let id = build.store.meta.add_layer(&row)?;
        build.store.meta.add_same(&own, &committed.content, id)?;
        layer.came(Some((committed.diff_id, id)));
        Ok(id)
    }
}

impl Drop for Unfinished {
    /// Nobody waits for what will not come.
    fn drop(&mut self) {
        self.layers.iter().flatten().for_each(|layer| layer.came(None));
    }
}
