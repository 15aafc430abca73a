//! The helper process: the re-executed caller, which stays outside of the step's namespaces, waits for the step's
//! process, and kills it when the caller cancels or is gone. It knows nothing of what the step's surroundings are.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpid, getppid,
};
use rustix::thread::UnshareFlags;

use crate::error::{RunError, set_up};
use crate::spec::ExitStatus;
use crate::step;
use crate::syscalls;
use crate::wire::{self, Received, Reply};

/// The name that a helper process is called by; no user can come upon it by mistake.
pub(crate) const HELPER_NAME: &str = "kiln-runner-child";

/// Does the helper's work if this process is the helper, and never returns then; returns at once if it is not.
///
/// `main` must call this before anything else, and before any thread is started.
pub fn child_entry_point() {
    if std::env::args_os().next().is_some_and(|name| name == HELPER_NAME) {
        let code = match help() {
            Ok(()) => 0,
            Err(_) => 1,
        };
        syscalls::exit_now(code);
    }
}

/// Does the helper's work. An error that the caller can be told of has been told; others mean that it is gone.
fn help() -> std::io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Signals for the caller's process group are the caller's to handle.
    rustix::process::setsid()?;
    let control = rustix::io::fcntl_dupfd_cloexec(syscalls::standard_stream(0), 3)?;
    // Standard input is the reading end of a pipe that nobody writes to.
    let (input, _) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    syscalls::replace_standard_stream(0, &input)?;
    drop(input);
    let Some(received) = wire::receive_spec(control.as_fd())? else { return Ok(()) };
    match start(received, &control) {
        Ok(Some(watch)) => watch.until_the_end(control.as_fd()),
        Ok(None) => Ok(()),
        Err(error) => {
            wire::send_reply(control.as_fd(), &Reply::Failed { error, stubs: Vec::new() });
            Ok(())
        }
    }
}

/// What the helper looks at while the step runs.
struct Watch {
    step: OwnedFd,
    caller: OwnedFd,
}

/// Starts the step's process; gives nothing when the caller is gone already.
fn start(received: Received, control: &OwnedFd) -> Result<Option<Watch>, RunError> {
    let caller_pid = Pid::from_raw(received.spec.caller_pid);
    let Some(caller_pid) = caller_pid.filter(|_| getppid() == caller_pid) else { return Ok(None) };
    let open =
        |pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(set_up("opening a process"));
    let caller = open(caller_pid)?;
    // The number may have gone to another process between the two calls, but not if this is still the parent.
    if getppid() != Some(caller_pid) {
        return Ok(None);
    }
    let helper = open(getpid())?;
    syscalls::unshare(UnshareFlags::NEWPID).map_err(set_up("making a process namespace"))?;
    match syscalls::fork().map_err(set_up("forking"))? {
        None => step::become_it(received, control.as_fd(), helper.as_fd()),
        Some(pid) => {
            // The output must end with the step, so the helper lets go of it.
            for number in [1, 2] {
                syscalls::replace_standard_stream(number, syscalls::standard_stream(0))
                    .map_err(set_up("letting go of the output"))?;
            }
            Ok(Some(Watch { step: open(pid)?, caller }))
        }
    }
}

impl Watch {
    /// Waits until the step has ended, and tells how.
    fn until_the_end(self, control: BorrowedFd<'_>) -> std::io::Result<()> {
        let mut killed = false;
        loop {
            let mut events = vec![PollFd::new(&self.step, PollFlags::IN)];
            if !killed {
                events.push(PollFd::new(&self.caller, PollFlags::IN));
                // The caller says no more than that it wants the end: by closing its side.
                events.push(PollFd::from_borrowed_fd(control, PollFlags::IN | PollFlags::RDHUP));
            }
            match rustix::event::poll(&mut events, None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            let happened: Vec<bool> = events.iter().map(|event| !event.revents().is_empty()).collect();
            if happened[0] {
                break;
            }
            if happened[1..].contains(&true) {
                killed = true;
                // Process 1's end is the end of its whole namespace. It may have ended by itself meanwhile.
                let _ = rustix::process::pidfd_send_signal(&self.step, Signal::KILL);
            }
        }
        let status = rustix::process::waitid(WaitId::PidFd(self.step.as_fd()), WaitIdOptions::EXITED)?;
        let status = status.map_or(ExitStatus::Code(1), |status| exit_status(&status));
        wire::send_reply(control, &Reply::Exited(status));
        Ok(())
    }
}

fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(code),
        (None, Some(signal)) => ExitStatus::Signal(signal),
        (None, None) => ExitStatus::Code(1),
    }
}
