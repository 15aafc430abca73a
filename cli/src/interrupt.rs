//! Ctrl-C and its like: the first stops what is going on, the second ends the program at once.
//! It does not know what is going on.

use crate::error::CommandError;
use kiln_worker::CancelToken;
use nix::sys::signal::{SigSet, Signal};
use std::time::Duration;

/// The exit code of a program that was interrupted.
const INTERRUPTED: i32 = 130;
/// How long a stop may take before the program ends all the same; steps die with it.
const GRACE: Duration = Duration::from_secs(3);

/// Begins to listen. Must be called before other threads are started, which inherit what it blocks.
pub(crate) fn watch() -> Result<CancelToken, CommandError> {
    let cancel = CancelToken::new();
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    let failed = |e: nix::Error| CommandError::usage("signals", e.to_string());
    signals.thread_block().map_err(failed)?;
    let stopper = cancel.clone();
    std::thread::spawn(move || {
        if signals.wait().is_err() {
            return;
        }
        stopper.cancel();
        std::thread::spawn(|| {
            std::thread::sleep(GRACE);
            std::process::exit(INTERRUPTED);
        });
        if signals.wait().is_ok() {
            std::process::exit(INTERRUPTED);
        }
    });
    Ok(cancel)
}
