//! The same work for several things, some at once, until the first failure. It does not know what is done.

use crate::WorkerError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Does `work` for each item, at most so many at once, and gives what came of it in the order of the items. After a
/// failure nothing more is begun, as nobody needs it; the failure of the first item that has one is given.
pub(crate) fn at_once<I: Sync, T: Send>(
    items: &[I],
    most: usize,
    work: impl Fn(&I) -> Result<T, WorkerError> + Sync,
) -> Result<Vec<T>, WorkerError> {
    let next = AtomicUsize::new(0);
    let some = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            let result = work(item);
            if result.is_err() {
                next.store(items.len(), Ordering::Relaxed);
            }
            done.push((at, result));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..items.len().min(most)).map(|_| scope.spawn(some)).collect();
        let results = threads.into_iter().map(|thread| thread.join().map_err(|_| WorkerError::Panicked));
        results.collect::<Result<Vec<_>, _>>()
    })?
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_a_failure_ends_it() {
        let items: Vec<u32> = (0..100).collect();
        let doubled = at_once(&items, 4, |n| Ok(n * 2)).expect("no failure");
        assert_eq!(doubled, items.iter().map(|n| n * 2).collect::<Vec<_>>());
        assert!(at_once(&[], 4, |n: &u32| Ok(*n)).expect("nothing to do").is_empty());
        let done = AtomicUsize::new(0);
        let failed = at_once(&items, 1, |n| match n {
            3 => Err(WorkerError::Canceled),
            _ => Ok(done.fetch_add(1, Ordering::Relaxed)),
        });
        assert!(matches!(failed, Err(WorkerError::Canceled)));
        assert_eq!(done.load(Ordering::Relaxed), 3);
        assert!(matches!(
            at_once(&[1], 1, |_| -> Result<(), WorkerError> { panic!() }),
            Err(WorkerError::Panicked)
        ));
    }
}
