//! A writer that fails as soon as the user has stopped the build, however much is left to write. It does
//! not know what it writes.

use crate::WorkerError;
use kiln_runner::CancelToken;
use std::io::{self, Write};
use std::time::Duration;

/// How often those who wait look whether the user has stopped the build.
pub(crate) const STOP_LOOK: Duration = Duration::from_millis(50);

/// Passes on what is written until the token is cancelled; then every write is an error.
pub(crate) struct Stopping<'c, W> {
    pub inner: W,
    pub cancel: &'c CancelToken,
}

impl<W: Write> Write for Stopping<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            // Not `Interrupted`, after which everybody tries again.
            return Err(io::Error::other("canceled"));
        }
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Ends when the user has stopped the build.
pub(crate) async fn stopped(cancel: &CancelToken) {
    while !cancel.is_cancelled() {
        tokio::time::sleep(STOP_LOOK).await;
    }
}

/// An error if the user has stopped the build.
pub(crate) fn check(cancel: &CancelToken) -> Result<(), WorkerError> {
    if cancel.is_cancelled() { Err(WorkerError::Canceled) } else { Ok(()) }
}

/// What fails once the user has stopped the build fails because of that.
pub(crate) fn because_of(cancel: &CancelToken) -> impl FnOnce(WorkerError) -> WorkerError {
    let is_cancelled = cancel.is_cancelled();
    move |error| if is_cancelled { WorkerError::Canceled } else { error }
}
