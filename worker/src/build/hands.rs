//! Threads that are used again: a build may have hundreds of small things to read, and a thread for each costs more than
//! the reading. It does not know what is done.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

/// How many of them there are at most.
const HANDS_MAX: usize = 8;

/// Something to be done.
type Job<'scope> = Box<dyn FnOnce() + Send + 'scope>;

/// Threads of a scope, begun as they are needed, that end when this is dropped.
pub(super) struct Hands<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    stack_bytes: usize,
    jobs: Sender<Job<'scope>>,
    queue: Arc<Mutex<Receiver<Job<'scope>>>>,
    /// How many jobs nobody has begun, and how many threads have none.
    waiting: Arc<AtomicUsize>,
    idle: Arc<AtomicUsize>,
    count: usize,
}

impl<'scope, 'env> Hands<'scope, 'env> {
    /// None yet; each will have a stack of so many bytes.
    pub fn new(scope: &'scope Scope<'scope, 'env>, stack_bytes: usize) -> Hands<'scope, 'env> {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        Hands { scope, stack_bytes, jobs, queue, waiting: Arc::default(), idle: Arc::default(), count: 0 }
    }

    /// Has a job done soon. An error only if there is no thread at all for it.
    pub fn take(&mut self, job: impl FnOnce() + Send + 'scope) -> std::io::Result<()> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed) + 1;
        if waiting > self.idle.load(Ordering::Relaxed) && self.count < HANDS_MAX {
            match self.begin() {
                Err(e) if self.count == 0 => return Err(e),
                begun => self.count += usize::from(begun.is_ok()),
            }
        }
        // The queue is open as long as this is there.
        let _ = self.jobs.send(Box::new(job));
        Ok(())
    }

    fn begin(&self) -> std::io::Result<()> {
        let (queue, waiting, idle) = (self.queue.clone(), self.waiting.clone(), self.idle.clone());
        let work = move || {
            loop {
                idle.fetch_add(1, Ordering::Relaxed);
                let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                idle.fetch_sub(1, Ordering::Relaxed);
                let Ok(job) = job else { return };
                waiting.fetch_sub(1, Ordering::Relaxed);
                job();
            }
        };
        std::thread::Builder::new().stack_size(self.stack_bytes).spawn_scoped(self.scope, work).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Barrier;

    #[test]
    fn every_job_is_done_by_few_threads_and_some_at_once() {
        let (done, threads) = (AtomicUsize::new(0), Mutex::new(HashSet::new()));
        let met = Barrier::new(2);
        std::thread::scope(|scope| {
            let mut hands = Hands::new(scope, 1 << 20);
            // Two that wait for each other: one thread alone would never end.
            for _ in 0..2 {
                let meet = || {
                    met.wait();
                };
                assert!(hands.take(meet).is_ok());
            }
            for _ in 0..1000 {
                let job = || {
                    threads
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(std::thread::current().id());
                    done.fetch_add(1, Ordering::Relaxed);
                };
                assert!(hands.take(job).is_ok());
            }
        });
        assert_eq!(done.into_inner(), 1000);
        let threads = threads.into_inner().unwrap_or_else(PoisonError::into_inner);
        assert!((1..=HANDS_MAX).contains(&threads.len()), "{}", threads.len());
    }
}
