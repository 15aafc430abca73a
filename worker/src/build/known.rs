//! What is known of steps from before: records of the store, and their layers laid on what a step is built on.
//! It does not know what keys stand for.

use super::Build;
use crate::WorkerError;
use crate::layer::{Layer, Stack};
use crate::progress::Progress;
use crate::store::now_s;
use kiln_oci::{Digest, Hasher};
use kiln_solver::{CacheKey, Event, VertexId, bases};
use std::sync::Arc;

impl Build<'_> {
    /// A record all of whose layers are still here.
    pub(super) fn record(&self, key: &CacheKey) -> Result<Option<Vec<Vec<i64>>>, WorkerError> {
        let Some(outputs) = self.store.meta.record(key)? else { return Ok(None) };
        for id in outputs.iter().flatten() {
            if self.store.meta.layer(*id)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(outputs))
    }

    /// The same, if it is not older than it may be. One from the future is too old: its time can't be trusted.
    pub(super) fn young_record(
        &self,
        key: &CacheKey,
        max_age_s: Option<u64>,
    ) -> Result<Option<Vec<Vec<i64>>>, WorkerError> {
        if let Some(limit) = max_age_s {
            let made_s = self.store.meta.record_made_s(key)?;
            let age = made_s.and_then(|made_s| u64::try_from(now_s() - made_s).ok());
            if age.is_none_or(|age| age > limit) {
                return Ok(None);
            }
        }
        self.record(key)
    }

    pub(super) fn load(&self, vertex: VertexId, key: &CacheKey) -> Result<Event, WorkerError> {
        let Some(outputs) = self.record(key)? else { return Ok(Event::Loaded { vertex, outputs: None }) };
        if !self.stands(vertex, key)? {
            return Ok(Event::Loaded { vertex, outputs: None });
        }
        let stacks = self.laid(vertex, &outputs)?;
        let contents = self.keep(vertex, stacks);
        self.progress.send(Progress::Cached { vertex, name: &self.vertex(vertex).metadata.name });
        Ok(Event::Loaded { vertex, outputs: Some(contents) })
    }

    /// Whether a record was made on what its step is built on now. A build that used nothing known may have
    /// made that otherwise since.
    pub(super) fn stands(&self, vertex: VertexId, key: &CacheKey) -> Result<bool, WorkerError> {
        match self.store.meta.laid_on(key)? {
            Some(content) => Ok(content == self.laid_on(vertex)?.as_bytes()),
            None => Ok(true),
        }
    }

    /// The content of all that a step is built on.
    pub(super) fn laid_on(&self, vertex: VertexId) -> Result<Digest, WorkerError> {
        let mut hasher = Hasher::new();
        for edge in bases(&self.request.definition, vertex) {
            hasher.update(self.base(edge)?.content().0.as_bytes());
        }
        Ok(hasher.finish())
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
