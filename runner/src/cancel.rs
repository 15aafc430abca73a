//! A token by which any thread can end a run. It knows nothing of what a run is: it keeps a flag and wakes
//! those who wait.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::event::{EventfdFlags, eventfd};

/// Cancels the runs that it was given to; clones are the same token.
#[derive(Debug, Clone, Default)]
pub struct CancelToken {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    cancelled: AtomicBool,
    wakers: Mutex<Vec<Weak<OwnedFd>>>,
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels, once and for all.
    pub fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::SeqCst);
        let wakers = self.shared.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        for waker in wakers.iter().filter_map(Weak::upgrade) {
            wake(&waker);
        }
    }

    /// Whether the token was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::SeqCst)
    }

    /// A descriptor that becomes readable at the time of cancelling; kept only as long as it is held.
    pub(crate) fn waker(&self) -> rustix::io::Result<Arc<OwnedFd>> {
        let waker = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        {
            let mut wakers = self.shared.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            wakers.retain(|known| known.strong_count() > 0);
            wakers.push(Arc::downgrade(&waker));
        }
        // Cancelled before the descriptor was known: nobody else will wake it.
        if self.is_cancelled() {
            wake(&waker);
        }
        Ok(waker)
    }
}

fn wake(waker: &OwnedFd) {
    // The counter can only overflow when it is readable already.
    let _ = rustix::io::write(waker.as_fd(), &1u64.to_ne_bytes());
}
