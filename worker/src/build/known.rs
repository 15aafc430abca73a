//! What is known of steps from before: records of the store, and their layers laid on what a step is built on.
//! It does not know what keys stand for.

use super::Build;
use crate::WorkerError;
use crate::layer::{Layer, Stack};
use crate::progress::Progress;
use kiln_solver::{CacheKey, Event, VertexId, bases};
use std::sync::Arc;

impl Build<'_> {
    /// A record all of whose layers are still here.
    pub(super) fn record(&self, key: &CacheKey) -> Result<Option<Vec<Vec<i64>>>, WorkerError> {
        let Some(outputs) = self.store.meta.record(key)? else { return Ok(None) };
        for id in outputs.iter().flatten() {
            let Some(row) = self.store.meta.layer(*id)? else { return Ok(None) };
            let snapshot = self.store.root.join("snapshots").join(row.snapshot.to_string());
            if !snapshot.join("index").exists() {
                // Somebody removed it by hand: nobody is to count on it.
                self.store.meta.forget_layer(*id)?;
                return Ok(None);
            }
        }
        Ok(Some(outputs))
    }

    pub(super) fn load(&self, vertex: VertexId, key: &CacheKey) -> Result<Event, WorkerError> {
        let Some(outputs) = self.record(key)? else { return Ok(Event::Loaded { vertex, outputs: None }) };
        let stacks = self.laid(vertex, &outputs)?;
        let contents = self.keep(vertex, stacks);
        self.journal.found(vertex, *key);
        self.progress.send(Progress::Cached { vertex, name: &self.vertex(vertex).metadata.name });
        Ok(Event::Loaded { vertex, outputs: Some(contents) })
    }

    /// What a step added, laid on what it was built on.
    pub fn laid(&self, vertex: VertexId, outputs: &[Vec<i64>]) -> Result<Vec<Stack>, WorkerError> {
        let bases = bases(&self.request.definition, vertex);
        let mut stacks = Vec::new();
        for (i, added) in outputs.iter().enumerate() {
            let base = bases.get(i).map_or_else(|| Ok(Stack::default()), |edge| self.base(*edge))?;
            let mut layers = Vec::new();
            for id in added {
                let row = self.store.meta.layer(*id)?;
                layers.push(Arc::new(Layer::made(
                    &row.ok_or_else(|| WorkerError::NoImage(format!("layer {id}")))?,
                )));
            }
            stacks.push(base.with(layers));
        }
        Ok(stacks)
    }
}
