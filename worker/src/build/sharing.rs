//! What a build gives to shared caches and takes from them: layers are offered as soon as they are made, records when
//! all is known. It does not know where a cache is kept.

use super::Build;
use super::known::Added;
use crate::WorkerError;
use crate::cache::{About, Learnt, ReadCache};
use crate::layer::Stack;
use crate::store::now_s;
use kiln_solver::{CacheKey, Edge, Op, Solver, VertexId};
use std::sync::PoisonError;

impl Build<'_> {
    /// Offers what a step added to the caches that are written, and to what works ahead for the outputs.
    pub(super) fn share(&self, vertex: VertexId) {
        if self.exports.are_none() && self.ahead.workers() == 0 {
            return;
        }
        let added = self.added.lock().unwrap_or_else(PoisonError::into_inner).get(&vertex).cloned();
        for (i, layers) in added.unwrap_or_default().iter().enumerate() {
            let stack = self.stack(Edge { vertex, output: i as u32 });
            self.exports.offer(vertex, &stack, layers.len());
            self.ahead.offer(vertex, &stack, layers.len());
        }
    }

    pub(super) fn note_keys(&self, solver: &Solver) {
        let ids = (0..solver.definition().vertices().len() as u32).map(VertexId);
        let keys = ids.filter_map(|vertex| Some((vertex, solver.key(vertex)?)));
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).extend(keys);
    }

    /// Gives a cache up that does not have a layer as it said, so that the build can go on without it. Any other error
    /// is one still.
    pub fn without_cache_of(&self, error: WorkerError) -> Result<(), WorkerError> {
        let lost = match error {
            WorkerError::Vertex { error, .. } if matches!(*error, WorkerError::CacheLayer { .. }) => *error,
            other => other,
        };
        let WorkerError::CacheLayer { place, error } = lost else { return Err(lost) };
        self.imports.give_up(&place, *error, self.progress)?;
        self.results.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.added.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    /// All that is known at the end, of steps that had to be loaded and of those that had not: inputs before what is
    /// made of them. What was not offered yet is offered.
    pub fn learnt(&self) -> Result<Vec<Learnt>, WorkerError> {
        let shared = self.imports.all(self.progress)?;
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all = Vec::new();
        for (i, vertex) in self.request.definition.vertices().iter().enumerate() {
            let id = VertexId(i as u32);
            let (Op::Exec(_) | Op::File(_), Some(key)) = (&vertex.op, keys.get(&id)) else { continue };
            let known = self.added.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
            let added = match known {
                Some(added) => added,
                None => match self.known(key, None)? {
                    Some(known) => known.added(),
                    None => continue,
                },
            };
            for layers in &added {
                let stack: Stack = layers.iter().cloned().collect();
                self.exports.offer(id, &stack, layers.len());
            }
            all.push(self.of_step(id, *key, added, &shared)?);
        }
        Ok(all)
    }

    fn of_step(
        &self,
        vertex: VertexId,
        key: CacheKey,
        added: Added,
        shared: &[ReadCache],
    ) -> Result<Learnt, WorkerError> {
        let mut keys = vec![key];
        if let Some(outputs) = rows(&added) {
            // A step that adds nothing is not told by what it adds.
            if outputs.iter().any(|output| !output.is_empty()) {
                keys.extend(self.store.meta.keys_of(&outputs)?);
            }
        }
        let record = shared.iter().find_map(|(_, cache)| Some((cache, cache.records.get(&key)?)));
        keys.extend(record.iter().flat_map(|(cache, record)| cache.aliases(record)));
        keys.sort();
        keys.dedup();
        let took = self.took.lock().unwrap_or_else(PoisonError::into_inner).get(&vertex).copied();
        let of_record = record.map_or(0, |(_, record)| record.took_ms);
        // A step that made again what it made before keeps its old layer, but is known since now.
        let known_s = self.store.meta.record_made_s(&key)?.or(record.map(|(_, record)| record.made_s));
        let made_s = known_s.or_else(|| added.iter().flatten().filter_map(|layer| layer.created_s).max());
        let laid_on = self.store.meta.laid_on(&key)?.or(record.and_then(|(_, record)| record.laid_on));
        let made_s = made_s.unwrap_or_else(now_s);
        let took_ms = took.map_or(of_record, |took| took.as_millis() as u64);
        Ok(Learnt { vertex, keys, added, about: About { made_s, took_ms, laid_on } })
    }

    /// Notes what shared caches knew and what was brought here of it: the next build needs no cache for that.
    pub fn keep_records(&self, learnt: &[Learnt]) -> Result<(), WorkerError> {
        for step in learnt.iter().filter(|step| rows(&step.added).is_none()) {
            let mut outputs = Vec::new();
            for layers in &step.added {
                let mut ids = Vec::new();
                for layer in layers {
                    let Some(snapshot) = layer.snapshot.get() else { break };
                    let row = self.store.meta.any_layer_of(&layer.diff_id()?)?;
                    ids.extend(row.filter(|row| row.snapshot == *snapshot).map(|row| row.id));
                }
                if ids.len() == layers.len() {
                    outputs.push(ids);
                }
            }
            if outputs.len() == step.added.len() {
                self.store.meta.add_record(&step.keys, &outputs)?;
                if let Some(laid_on) = &step.about.laid_on {
                    self.store.meta.set_laid_on(&step.keys, laid_on)?;
                }
            }
        }
        Ok(())
    }
}

/// The numbers of layers, if all of them are of the store.
fn rows(added: &Added) -> Option<Vec<Vec<i64>>> {
    added.iter().map(|layers| layers.iter().map(|layer| layer.row()).collect()).collect()
}
