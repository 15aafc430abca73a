//! Ctrl-C and its like: the first stops what is going on, the second ends the program at once.
//! It does not know what is going on.

use crate::error::CommandError;
use crate::stderr;
use kiln_worker::CancelToken;
use nix::sys::signal::{SigSet, Signal};
use std::time::Duration;

/// The exit code of a program that was interrupted.
const INTERRUPTED: i32 = 130;
/// How long a stop may take before the program ends all the same; steps die with it.
const GRACE: Duration = Duration::from_secs(3);

/// Begins to listen. Must be called before other threads are started, which inherit what it blocks.
/// What was ignored from the start, as by nohup or for a script's job with `&`, stays ignored.
pub(crate) fn watch() -> Result<CancelToken, CommandError> {
    let cancel = CancelToken::new();
    let ignored = ignored(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        if ignored >> (signal as i32 - 1) & 1 == 0 {
            signals.add(signal);
        }
    }
    signals.thread_block().map_err(CommandError::Signals)?;
    let stopper = cancel.clone();
    std::thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        stopper.cancel();
        std::thread::spawn(|| {
            std::thread::sleep(GRACE);
            std::process::exit(INTERRUPTED);
        });
        stderr::say(&format!("canceled by {signal}; once more ends at once"));
        if signals.wait().is_ok() {
            std::process::exit(INTERRUPTED);
        }
    });
    Ok(cancel)
}

/// The signals that a process ignores, a bit for each from 1 on, as its `/proc/…/status` has them.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        for (status, want) in [
            ("Name:\tkiln\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000000003\nSigCgt:\t0\n", 3),
            ("SigIgn:\t0000000000001000\n", 0x1000),
            ("Name:\tkiln\n", 0),
            ("SigIgn:\tx\n", 0),
        ] {
            assert_eq!(ignored(status), want, "{status}");
        }
    }
}
