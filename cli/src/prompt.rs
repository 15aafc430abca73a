//! Questions on the terminal, one of them without an echo. It does not know what the answers are for.

use crate::error::CommandError;
use kiln_worker::{CancelToken, WorkerError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};

const TERMINAL: &str = "/dev/tty";
const LINE_BYTES_MAX: usize = 64 * 1024;
/// How often it is looked whether the user gave up.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Puts the terminal back as it was.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// One line that the user types.
pub(crate) fn line(question: &str, cancel: &CancelToken) -> Result<String, CommandError> {
    let mut terminal = open(question)?;
    answer(&mut terminal, cancel)
}

/// The same, not shown while it is typed.
pub(crate) fn secret(question: &str, cancel: &CancelToken) -> Result<String, CommandError> {
    let mut terminal = open(question)?;
    let file = terminal.try_clone().map_err(CommandError::file("use", TERMINAL))?;
    let before = tcgetattr(&file).map_err(|e| CommandError::file("use", TERMINAL)(e.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&file, OptionalActions::Flush, &silent)
        .map_err(|e| CommandError::file("use", TERMINAL)(e.into()))?;
    let silent = Silent { terminal: &file, before };
    let typed = answer(&mut terminal, cancel);
    drop(silent);
    let _ = terminal.write_all(b"\n");
    typed
}

fn open(question: &str) -> Result<File, CommandError> {
    let opened = OpenOptions::new().read(true).write(true).open(TERMINAL);
    let mut terminal = opened.map_err(|_| {
        let reason = "there is no terminal to ask for it; pipe it in with --username USER --password-stdin";
        CommandError::usage("the password", reason)
    })?;
    terminal.write_all(question.as_bytes()).map_err(CommandError::file("write to", TERMINAL))?;
    Ok(terminal)
}

fn answer(terminal: &mut File, cancel: &CancelToken) -> Result<String, CommandError> {
    let mut typed = Vec::new();
    let mut byte = [0];
    while typed.len() < LINE_BYTES_MAX {
        if cancel.is_cancelled() {
            return Err(WorkerError::Canceled.into());
        }
        let ready = poll(&mut [PollFd::new(&*terminal, PollFlags::IN)], Some(&LOOK));
        if !matches!(ready, Ok(1..)) {
            continue;
        }
        match terminal.read(&mut byte).map_err(CommandError::file("read", TERMINAL))? {
            0 => break,
            _ if byte[0] == b'\n' => break,
            _ => typed.push(byte[0]),
        }
    }
    String::from_utf8(typed).map_err(|_| CommandError::usage("what was typed", "it is not UTF-8"))
}
