//! What can be asked about the store's cache mounts. It does not know how they are kept or packed.

use super::Worker;
use crate::WorkerError;
use crate::cache_mount::{self, CacheMount, MountsPlace, MovedMount};
use crate::progress::{Progress, ProgressSink};

impl Worker {
    /// The cache mounts of the store, by id.
    pub fn cache_mounts(&self) -> Result<Vec<CacheMount>, WorkerError> {
        cache_mount::list(&self.store)
    }

    /// The cache mounts that something means: all of an id, or one by its name or the start of that.
    pub fn find_cache_mounts(&self, wanted: &str) -> Result<Vec<CacheMount>, WorkerError> {
        cache_mount::find(&self.cache_mounts()?, wanted)
    }

    /// Removes a cache mount; not one that a step uses.
    pub fn remove_cache_mount(&self, mount: &CacheMount) -> Result<(), WorkerError> {
        cache_mount::remove(&self.store, mount)
    }

    /// Writes the cache mounts of these ids, or all, to a folder or tar. `tell` gets the id of one that is
    /// waited for, and the process that holds it alone, if it is known.
    pub fn export_cache_mounts(
        &self,
        wanted: Option<&[String]>,
        place: &MountsPlace,
        tell: &(dyn Fn(&str, Option<u32>) + Sync),
    ) -> Result<Vec<MovedMount>, WorkerError> {
        let _alive = self.store.mark_alive()?;
        cache_mount::export(&self.store, wanted, place, &self.cancel, tell)
    }

    /// Brings the cache mounts of these ids, or all if there is none, from a folder or tar.
    pub fn import_cache_mounts(
        &self,
        wanted: &[String],
        place: &MountsPlace,
        tell: &(dyn Fn(&str, Option<u32>) + Sync),
    ) -> Result<Vec<MovedMount>, WorkerError> {
        let alive = self.store.mark_alive()?;
        let silent = |_: Progress<'_>| {};
        let import = |_| cache_mount::import(&self.store, wanted, place, &self.cancel, tell);
        let moved = self.capped(&ProgressSink::new(&silent), || self.store.with_space(import));
        drop(alive);
        // What can't be swept now is left to the next build.
        let _ = self.store.sweep();
        moved
    }
}
