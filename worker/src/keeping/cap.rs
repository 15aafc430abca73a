//! Keeps the store below a size while a build writes to it: looked at again and again, since nobody knows
//! beforehand how large a layer will be. It does not know what is written.

use super::Pruning;
use super::inventory::usage;
use super::prune::try_prune;
use crate::WorkerError;
use crate::progress::{Progress, ProgressSink};
use crate::store::Store;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the store is looked at, at most.
const LOOK: Duration = Duration::from_millis(100);
/// The share of the time that may go into looking: one part in so many.
const SHARE: u32 = 8;
/// Collecting goes below the cap by one part in so many, so that not every layer makes it begin again.
const SLACK: u64 = 10;

/// A cap that is held as long as somebody holds this.
#[derive(Debug)]
pub(crate) struct Cap<'a> {
    store: &'a Store,
    max_bytes: u64,
    told: AtomicBool,
    ended: Mutex<bool>,
    changed: Condvar,
}

impl<'a> Cap<'a> {
    /// A cap of `max_bytes` for a store.
    pub fn new(store: &'a Store, max_bytes: u64) -> Cap<'a> {
        let (told, ended, changed) = Default::default();
        Cap { store, max_bytes, told, ended, changed }
    }

    /// Holds the cap until [`Cap::end`]: for a thread of its own.
    pub fn watch(&self, progress: &ProgressSink<'_>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended {
            drop(ended);
            let started = Instant::now();
            // What can't be done now is tried again soon.
            let _ = self.hold(progress);
            let pause = LOOK.max(started.elapsed() * SHARE);
            ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            if !*ended {
                ended = self.changed.wait_timeout(ended, pause).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Ends the watch.
    pub fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Gives up what is worth least, if the store is larger than it may be. If all that is left is needed
    /// that is told, once.
    pub fn hold(&self, progress: &ProgressSink<'_>) -> Result<(), WorkerError> {
        let bytes = usage(self.store)?.bytes();
        if bytes <= self.max_bytes {
            return Ok(());
        }
        let keep_bytes = self.max_bytes - self.max_bytes / SLACK;
        let pruning = Pruning { all: true, keep_bytes, ..Pruning::default() };
        let Some(removed) = try_prune(self.store, &pruning)? else { return Ok(()) };
        if removed.left_bytes > self.max_bytes && !self.told.swap(true, Ordering::Relaxed) {
            let (bytes, max_bytes) = (removed.left_bytes, self.max_bytes);
            progress.send(Progress::OverCap { bytes, max_bytes });
        }
        Ok(())
    }
}
