//! What is known of steps from before: records of the store, or of a shared cache, and their layers laid on what a step
//! is built on. It does not know what keys stand for.

use super::Build;
use crate::WorkerError;
use crate::cache::SharedHit;
use crate::keeping::fsck::verify_layer;
use crate::layer::{Layer, Stack};
use crate::meta::RecordRow;
use crate::progress::Progress;
use crate::store::now_s;
use kiln_oci::{Digest, Hasher};
use kiln_solver::{CacheKey, Event, VertexId, bases};
use std::sync::{Arc, PoisonError};

/// What a step is known to have made.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// A record of the store.
    Here(Arc<Record>),
    /// Layers that a shared cache has.
    Shared(SharedHit),
}

/// A record of the store, whose layers are leased.
#[derive(Debug)]
pub(crate) struct Record {
    /// When it was made, in seconds since 1970.
    made_s: i64,
    /// The content of what its step was built on, if that is known.
    laid_on: Option<Digest>,
    /// What the step added.
    added: Added,
}

/// What a step added to each of its outputs.
pub(crate) type Added = Vec<Vec<Arc<Layer>>>;

impl Build<'_> {
    /// What the store, or else a shared cache, knows under a key, if it is not older than it may be.
    pub(super) fn known(&self, key: &CacheKey, max_age_s: Option<u64>) -> Result<Option<Known>, WorkerError> {
        if let Some(record) = self.young_record(key, max_age_s)? {
            return Ok(Some(Known::Here(record)));
        }
        let hit = self.imports.look_up(key, self.progress)?;
        Ok(hit.filter(|hit| is_young(hit.record.made_s, max_age_s)).map(Known::Shared))
    }

    /// The same of the store alone.
    pub(super) fn young_record(
        &self,
        key: &CacheKey,
        max_age_s: Option<u64>,
    ) -> Result<Option<Arc<Record>>, WorkerError> {
        Ok(self.record(key)?.filter(|record| is_young(record.made_s, max_age_s)))
    }

    /// A record all of whose layers are still here. It is read once in a build: its layers are leased since then.
    pub(super) fn record(&self, key: &CacheKey) -> Result<Option<Arc<Record>>, WorkerError> {
        if let Some(found) = self.found.lock().unwrap_or_else(PoisonError::into_inner).get(key) {
            return Ok(Some(found.clone()));
        }
        let Some(RecordRow { outputs, made_s, laid_on }) = self.store.meta.record_row(key)? else {
            return Ok(None);
        };
        let mut added = Vec::new();
        for ids in &outputs {
            let mut layers = Vec::new();
            for id in ids {
                let Some(row) = self.store.meta.layer(*id)? else { return Ok(None) };
                let snapshot = self.store.root.join("snapshots").join(row.snapshot.to_string());
                if !snapshot.join("index").exists() {
                    // Somebody removed it by hand: nobody is to count on it.
                    self.store.meta.forget_layer(*id)?;
                    return Ok(None);
                }
                if self.request.verify_cache && verify_layer(self.store, &row.snapshot, true)?.is_some() {
                    // Its bytes are no longer those that were made: it is made anew.
                    self.store.meta.forget_layer(*id)?;
                    return Ok(None);
                }
                layers.push(Arc::new(Layer::made(&row)));
            }
            added.push(layers);
        }
        let record = Arc::new(Record { made_s, laid_on, added });
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(*key, record.clone());
        Ok(Some(record))
    }

    pub(super) fn look_up(
        &self,
        vertex: VertexId,
        key: &CacheKey,
        alias: Option<&CacheKey>,
        max_age_s: Option<u64>,
    ) -> Result<Event, WorkerError> {
        let known = self.known(key, max_age_s)?;
        if known.is_none() && self.store.meta.record(key)?.is_some() {
            match self.record(key)? {
                Some(_) => self.journal.too_old(vertex),
                None => self.journal.pruned(vertex),
            }
        }
        if let (Some(Known::Here(_)), Some(alias), false) = (&known, alias, self.request.dry_run) {
            self.store.meta.alias_record(key, alias)?;
        }
        Ok(Event::Found { vertex, hit: known.is_some() })
    }

    pub(super) fn load(&self, vertex: VertexId, key: &CacheKey) -> Result<Event, WorkerError> {
        let Some(known) = self.known(key, None)? else { return Ok(Event::Loaded { vertex, outputs: None }) };
        if !self.stands(vertex, &known)? {
            return Ok(Event::Loaded { vertex, outputs: None });
        }
        let added = known.added();
        let contents = self.keep_added(vertex, added)?;
        self.share(vertex);
        self.journal.found(vertex, *key);
        match &known {
            Known::Here(record) => self.journal.made(vertex, record.made_s),
            Known::Shared(hit) => self.journal.shared(vertex, hit.place.name(), hit.record.made_s),
        }
        self.progress.send(Progress::Cached { vertex, name: &self.vertex(vertex).metadata.name });
        Ok(Event::Loaded { vertex, outputs: Some(contents) })
    }

    /// Whether a record was made on what its step is built on now. A build that used nothing known may have
    /// made that otherwise since.
    pub(super) fn stands(&self, vertex: VertexId, known: &Known) -> Result<bool, WorkerError> {
        let made_on = match known {
            Known::Here(record) => record.laid_on,
            Known::Shared(hit) => hit.record.laid_on,
        };
        made_on.map_or(Ok(true), |content| Ok(content == self.laid_on(vertex)?))
    }

    /// The content of all that a step is built on.
    pub(super) fn laid_on(&self, vertex: VertexId) -> Result<Digest, WorkerError> {
        let mut hasher = Hasher::new();
        for edge in bases(&self.request.definition, vertex) {
            hasher.update(self.base(edge)?.content().0.as_bytes());
        }
        Ok(hasher.finish())
    }

    /// A layer of the store by its number.
    pub(super) fn layer_of(&self, id: i64) -> Result<Arc<Layer>, WorkerError> {
        let row = self.store.meta.layer(id)?;
        Ok(Arc::new(Layer::made(&row.ok_or_else(|| WorkerError::NoImage(format!("layer {id}")))?)))
    }

    /// Layers of the store by their numbers.
    pub(super) fn layers_of(&self, outputs: &[Vec<i64>]) -> Result<Added, WorkerError> {
        outputs.iter().map(|ids| ids.iter().map(|id| self.layer_of(*id)).collect()).collect()
    }

    /// Lays what a step added on what it was built on, and keeps the result.
    pub(super) fn keep_added(
        &self,
        vertex: VertexId,
        added: Added,
    ) -> Result<Vec<kiln_solver::ContentId>, WorkerError> {
        let bases = bases(&self.request.definition, vertex);
        let mut stacks = Vec::new();
        for (i, layers) in added.iter().enumerate() {
            let base = bases.get(i).map_or_else(|| Ok(Stack::default()), |edge| self.base(*edge))?;
            stacks.push(base.with(layers.iter().cloned()));
        }
        self.added.lock().unwrap_or_else(PoisonError::into_inner).insert(vertex, added);
        Ok(self.keep(vertex, stacks))
    }
}

impl Record {
    /// What the step added.
    pub(super) fn added(&self) -> Added {
        self.added.clone()
    }
}

impl Known {
    /// What its step added.
    pub(super) fn added(&self) -> Added {
        match self {
            Known::Here(record) => record.added.clone(),
            Known::Shared(hit) => shared_layers(hit),
        }
    }
}

/// Whether what was made then is not older than it may be. What is from the future is too old: its time can't be
/// trusted.
fn is_young(made_s: i64, max_age_s: Option<u64>) -> bool {
    let Some(limit) = max_age_s else { return true };
    u64::try_from(now_s() - made_s).is_ok_and(|age| age <= limit)
}

/// What a shared cache says that a step added.
fn shared_layers(hit: &SharedHit) -> Added {
    let layer = |layer| Arc::new(Layer::shared(layer, &hit.place));
    hit.record.outputs.iter().map(|output| output.iter().map(layer).collect()).collect()
}
