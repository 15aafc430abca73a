//! A step that must be done: it is done once, by one process, and what it made is noted under its keys. It does
//! not know how a process is run or a file is copied.

use super::known::Known;
use super::{Build, Performed};
use crate::WorkerError;
use crate::progress::Progress;
use crate::store::{Sharing, now_s};
use kiln_oci::Digest;
use kiln_solver::{CacheKey, Event, Op, VertexId};
use std::sync::PoisonError;
use std::time::Instant;

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
        let of_vertex = selected.iter().filter(|((v, _), _)| *v == vertex);
        let salted = |digest: &Digest| {
            if salt.is_empty() { *digest } else { Digest::of(&[digest.as_bytes(), salt].concat()) }
        };
        of_vertex.map(|((_, input), digest)| (*input, salted(digest))).collect()
    }

    /// Whether what a vertex reads of the user's folders is still what it was when its key was made. If
    /// not, the key no longer stands for what was read.
    pub(crate) fn is_unchanged(&self, vertex: VertexId) -> Result<bool, WorkerError> {
        for (input, edge) in self.vertex(vertex).inputs.iter().enumerate() {
            let known = |b: &Self| {
                b.selected.lock().unwrap_or_else(PoisonError::into_inner).get(&(vertex, input)).copied()
            };
            let before = known(self);
            if self.is_local(edge.vertex) && Some(self.select(vertex, input)?) != before {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn run_step(
        &self,
        vertex: VertexId,
        keys: &[CacheKey],
        take: Option<&CacheKey>,
    ) -> Result<Event, WorkerError> {
        let this = self.vertex(vertex);
        if matches!(this.op, Op::Diff) {
            return self.run_diff(vertex);
        }
        if matches!(this.op, Op::Merge) {
            let mut layers = Vec::new();
            for edge in &this.inputs {
                layers.extend(self.base(*edge)?.0.iter().cloned());
            }
            let outputs = self.keep(vertex, vec![layers.into_iter().collect()]);
            return Ok(Event::Ran { vertex, outputs, changed: Vec::new() });
        }
        // Another process, or another step with the same key, may be at it: then its result is taken.
        let name = &this.metadata.name;
        let waiting = |process| self.progress.send(Progress::Waiting { vertex, name, process });
        let lock = format!("step-{}", keys[0].0.hex());
        let _alone = self.store.lock_telling(&lock, Sharing::Alone, self.cancel, &waiting)?;
        if let Some(take) = take
            && let Some(record) = self.young_record(take, this.metadata.max_age_s)?
            && self.stands(vertex, &Known::Here(record.clone()))?
        {
            self.journal.awaited(vertex, keys[0]);
            self.progress.send(Progress::Cached { vertex, name: &this.metadata.name });
            let outputs = self.keep_added(vertex, record.added())?;
            return Ok(Event::Ran { vertex, outputs, changed: Vec::new() });
        }
        self.progress.send(Progress::Started { vertex, name: &this.metadata.name });
        let started = Instant::now();
        self.journal.begun(vertex);
        let (added, changed) = self.perform_step(vertex)?;
        self.note_made();
        let ids: Vec<i64> = added.iter().flatten().copied().collect();
        self.store.meta.set_cost(&ids, started.elapsed().as_millis() as u64, &self.shown(name))?;
        self.journal.done(vertex, &added);
        let layers = self.layers_of(&added)?;
        if changed.is_empty() {
            let laid_on = self.laid_on(vertex)?;
            self.store.with_space(|_| {
                self.store.meta.add_record(keys, &added)?;
                self.store.meta.set_laid_on(keys, &laid_on)
            })?;
        } else {
            self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner).insert(vertex, added);
        }
        let took = started.elapsed();
        self.took.lock().unwrap_or_else(PoisonError::into_inner).insert(vertex, took);
        let outputs = self.keep_added(vertex, layers)?;
        self.progress.send(Progress::Done { vertex, name: &this.metadata.name, took });
        Ok(Event::Ran { vertex, outputs, changed })
    }

    pub(super) fn run_diff(&self, vertex: VertexId) -> Result<Event, WorkerError> {
        let inputs = &self.vertex(vertex).inputs;
        let (lower, upper) = (self.stack(inputs[0]), self.stack(inputs[1]));
        let count = lower.0.len();
        if !upper.diff_ids().starts_with(&lower.diff_ids()) {
            return Err(WorkerError::Copy(crate::CopyError::Diff));
        }
        let outputs = self.keep(vertex, vec![upper.0[count..].iter().cloned().collect()]);
        Ok(Event::Ran { vertex, outputs, changed: Vec::new() })
    }
}
