//! The caches that a build reads. They are asked all at once, in the background, and waited for only when a step is
//! not known here; only their configs are read until a layer is needed. One that does not answer in time, or badly,
//! is told of once and is as if it were empty. It does not know what a record is used for.

use super::config::{SharedCache, SharedRecord};
use super::{CacheError, CachePlace};
use crate::WorkerError;
use crate::progress::{CacheTrouble, Progress, ProgressSink};
use kiln_runner::CancelToken;
use kiln_solver::CacheKey;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the configs of all caches together may take, from the begin of a build.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often who waits looks whether the build was stopped.
const LOOK: Duration = Duration::from_millis(50);

/// The caches of one build.
#[derive(Debug)]
pub(crate) struct Imports {
    slots: Vec<Arc<Slot>>,
    started: Instant,
    strict: bool,
    /// How many of them could not be used.
    failures: AtomicUsize,
    cancel: CancelToken,
}

/// One of them, and what came of asking it.
#[derive(Debug)]
struct Slot {
    place: Arc<dyn CachePlace>,
    answer: Mutex<Answer>,
    answered: Condvar,
}

#[derive(Debug)]
enum Answer {
    /// None yet; whether somebody waits for it and has said so.
    Open { is_awaited: bool },
    /// What it has, not looked at yet.
    Came(Result<Option<SharedCache>, CacheError>),
    /// What it has.
    Known(Arc<SharedCache>),
    /// Nothing, or nothing that can be used.
    Nothing,
}

/// A cache that could be read.
pub(crate) type ReadCache = (Arc<dyn CachePlace>, Arc<SharedCache>);

/// What a cache knows of a step.
#[derive(Clone, Debug)]
pub(crate) struct SharedHit {
    /// Which cache.
    pub place: Arc<dyn CachePlace>,
    /// What it says.
    pub record: SharedRecord,
}

impl Imports {
    /// Begins to ask all places.
    pub fn begin(places: Vec<Arc<dyn CachePlace>>, strict: bool, cancel: &CancelToken) -> Imports {
        let slots = places.into_iter().map(|place| {
            let answer = Mutex::new(Answer::Open { is_awaited: false });
            Arc::new(Slot { place, answer, answered: Condvar::new() })
        });
        let slots: Vec<Arc<Slot>> = slots.collect();
        for slot in &slots {
            let asked = slot.clone();
            let thread = std::thread::Builder::new().spawn(move || asked.ask());
            if let Err(source) = thread {
                let path = slot.place.name().into();
                slot.set(Err(CacheError::Io { action: "start a thread for", path, source }));
            }
        }
        let failures = AtomicUsize::new(0);
        Imports { slots, started: Instant::now(), strict, failures, cancel: cancel.clone() }
    }

    /// No caches.
    pub fn none() -> Imports {
        Imports::begin(Vec::new(), false, &CancelToken::new())
    }

    /// Whether a look-up would not have to wait.
    pub fn are_settled(&self) -> bool {
        self.slots.iter().all(|slot| !matches!(*slot.lock(), Answer::Open { .. }))
    }

    /// What the first cache that knows a key says of it.
    pub fn look_up(
        &self,
        key: &CacheKey,
        progress: &ProgressSink<'_>,
    ) -> Result<Option<SharedHit>, WorkerError> {
        for slot in &self.slots {
            if let Some(cache) = self.cache_of(slot, progress)?
                && let Some(record) = cache.records.get(key)
            {
                return Ok(Some(SharedHit { place: slot.place.clone(), record: record.clone() }));
            }
        }
        Ok(None)
    }

    /// All caches that could be read.
    pub fn all(&self, progress: &ProgressSink<'_>) -> Result<Vec<ReadCache>, WorkerError> {
        let mut all = Vec::new();
        for slot in &self.slots {
            if let Some(cache) = self.cache_of(slot, progress)? {
                all.push((slot.place.clone(), cache));
            }
        }
        Ok(all)
    }

    /// Uses a cache no longer: a layer of it was not to be had. An error if that must not be.
    pub fn give_up(
        &self,
        place: &str,
        error: WorkerError,
        progress: &ProgressSink<'_>,
    ) -> Result<(), WorkerError> {
        if self.strict {
            return Err(WorkerError::CacheLayer { place: place.to_owned(), error: Box::new(error) });
        }
        for slot in self.slots.iter().filter(|slot| slot.place.name() == place) {
            *slot.lock() = Answer::Nothing;
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        progress.send(Progress::Cache { place, trouble: CacheTrouble::Lost(&error) });
        Ok(())
    }

    /// How many caches could not be used.
    pub fn failures(&self) -> usize {
        self.failures.load(Ordering::Relaxed)
    }

    /// What a cache has; waits for it, and tells what is the matter with it the first time that it is known.
    fn cache_of(
        &self,
        slot: &Slot,
        progress: &ProgressSink<'_>,
    ) -> Result<Option<Arc<SharedCache>>, WorkerError> {
        let mut answer = self.awaited(slot, progress)?;
        match &*answer {
            Answer::Known(cache) => return Ok(Some(cache.clone())),
            Answer::Nothing => return Ok(None),
            Answer::Open { .. } | Answer::Came(_) => {}
        }
        let came = match std::mem::replace(&mut *answer, Answer::Nothing) {
            Answer::Came(came) => came,
            _ => Err(CacheError::TimedOut(PATIENCE.as_secs())),
        };
        let place = slot.place.name();
        match came {
            Ok(Some(cache)) if !cache.records.is_empty() || !cache.mounts.is_empty() => {
                let cache = Arc::new(cache);
                *answer = Answer::Known(cache.clone());
                return Ok(Some(cache));
            }
            Ok(Some(cache)) if cache.foreign > 0 => {
                progress.send(Progress::Cache { place: &place, trouble: CacheTrouble::Foreign });
            }
            // One that is there and has nothing in it is no trouble.
            Ok(Some(_)) => {}
            Ok(None) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                progress.send(Progress::Cache { place: &place, trouble: CacheTrouble::Missing });
            }
            Err(CacheError::Canceled) => return Err(WorkerError::Canceled),
            Err(error) if self.strict => return Err(error.of(&place)),
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                progress.send(Progress::Cache { place: &place, trouble: CacheTrouble::Unread(&error) });
            }
        }
        Ok(None)
    }

    /// The answer of a cache, or none when the time is over.
    fn awaited<'a>(
        &self,
        slot: &'a Slot,
        progress: &ProgressSink<'_>,
    ) -> Result<MutexGuard<'a, Answer>, WorkerError> {
        let mut answer = slot.lock();
        let Answer::Open { is_awaited } = &mut *answer else {
            return Ok(answer);
        };
        let task = format!("importing cache from {}", slot.place.name());
        let is_first = !std::mem::replace(is_awaited, true);
        if is_first {
            progress.send(Progress::Task { name: &task, took: None });
        }
        while matches!(*answer, Answer::Open { .. }) && self.started.elapsed() < PATIENCE {
            if self.cancel.is_cancelled() {
                return Err(WorkerError::Canceled);
            }
            let waited = slot.answered.wait_timeout(answer, LOOK);
            answer = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if is_first {
            progress.send(Progress::Task { name: &task, took: Some(self.started.elapsed()) });
        }
        Ok(answer)
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, came: Result<Option<SharedCache>, CacheError>) {
        let mut answer = self.lock();
        if matches!(*answer, Answer::Open { .. }) {
            *answer = Answer::Came(came);
        }
        self.answered.notify_all();
    }

    fn ask(&self) {
        let asked = catch_unwind(AssertUnwindSafe(|| self.read()));
        let broken = || CacheError::Malformed {
            what: self.place.name(),
            reason: "its answer could not be understood".to_owned(),
        };
        self.set(asked.unwrap_or_else(|_| Err(broken())));
    }

    /// All that the place has, in one.
    fn read(&self) -> Result<Option<SharedCache>, CacheError> {
        let mut all: Option<SharedCache> = None;
        for config in self.place.configs()? {
            let SharedCache { records, mounts, foreign, .. } =
                SharedCache::parse(&config, &self.place.name())?;
            let all = all.get_or_insert_default();
            // The first name that is given goes before the others.
            for (key, record) in records {
                all.insert(key, record);
            }
            all.mounts.extend(mounts);
            all.foreign += foreign;
        }
        Ok(all)
    }
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
