//! Waiting for a place, but no longer than the user does. It does not know what is waited for.

use super::CacheError;
use kiln_runner::CancelToken;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How often those who wait look whether the user has stopped the build.
const LOOK: Duration = Duration::from_millis(50);

/// What waiting needs.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub runtime: Handle,
    pub cancel: CancelToken,
}

impl Waiting {
    /// Waits until the work is done, the build is cancelled or, if there is a limit, the time is over.
    pub fn wait<T, E>(
        &self,
        limit: Option<Deadline>,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, CacheError>
    where
        CacheError: From<E>,
    {
        let given_up = async {
            loop {
                if let Err(error) = self.look(limit) {
                    return error;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                error = given_up => Err(error),
                done = work => Ok(done?),
            }
        })
    }

    /// Sleeps for a while, no longer than there is time.
    pub fn sleep(&self, time: Duration, limit: Option<Deadline>) -> Result<(), CacheError> {
        self.wait(limit, async {
            tokio::time::sleep(time).await;
            Ok::<(), CacheError>(())
        })
    }

    fn look(&self, limit: Option<Deadline>) -> Result<(), CacheError> {
        check(&self.cancel)?;
        match limit {
            Some(deadline) if deadline.is_over() => Err(CacheError::TimedOut(deadline.after.as_secs())),
            _ => Ok(()),
        }
    }
}

/// When something has to be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    began: Instant,
    after: Duration,
}

impl Deadline {
    /// So long from now.
    pub fn after(after: Duration) -> Deadline {
        Deadline { began: Instant::now(), after }
    }

    fn is_over(&self) -> bool {
        self.began.elapsed() >= self.after
    }
}

/// An error if the user has stopped the build.
pub(super) fn check(cancel: &CancelToken) -> Result<(), CacheError> {
    if cancel.is_cancelled() { Err(CacheError::Canceled) } else { Ok(()) }
}
