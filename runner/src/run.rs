//! The caller's side of a run: starts the helper, reads the output, waits for the end and clears up. It knows
//! nothing of namespaces; all of that is the helper's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use crate::cancel::CancelToken;
use crate::child::HELPER_NAME;
use crate::error::{RunError, set_up};
use crate::lines::LineCutter;
use crate::mounts;
use crate::seccomp;
use crate::spec::{ExitStatus, LogLine, ProcessSpec, Security, Stream};
use crate::stubs::{self, Stub};
use crate::wire::{self, Reply, WireSpec};

/// How long a helper may take to end, once it is asked to, before it is killed itself.
const LONGEST_END: Duration = Duration::from_secs(10);
/// How much output is read at once.
const READ_SIZE: usize = 64 << 10;

/// Runs a process to its end, hands over its output line by line, and tells how it ended.
///
/// Blocks; any number of runs can be under way in one process. Whatever the result is, when this returns no
/// process of the run is left, and of the mounts' targets that had to be made only those are left that the
/// process put something into. The calling process must have CAP_SYS_ADMIN, and its `main` must begin with
/// [`child_entry_point`](crate::child_entry_point).
pub fn run(
    spec: ProcessSpec,
    on_line: &mut dyn FnMut(LogLine),
    cancel: &CancelToken,
) -> Result<ExitStatus, RunError> {
    if cancel.is_cancelled() {
        return Err(RunError::Cancelled);
    }
    check(&spec)?;
    let start = Instant::now();
    let waker = cancel.waker().map_err(set_up("making a waker"))?;
    let (mut helper, outputs) = Helper::spawn()?;
    let (wire_spec, descriptors) = WireSpec::of(&spec);
    let filter = if spec.security == Security::Sandbox { seccomp::default_filter() } else { &[] };
    wire::send_spec(helper.control.as_fd(), &wire_spec, &descriptors, filter)
        .map_err(|source| RunError::SetUp { step: "sending the specification".to_owned(), source })?;
    drop(wire_spec);

    let mut reader = Reader { outputs, start, on_line };
    let ending = follow(&mut helper, &mut reader, &waker, cancel);
    let ended = helper.end();
    stubs::remove(spec.root.as_fd(), &helper.stubs);
    reader.finish();
    if cancel.is_cancelled() {
        return Err(RunError::Cancelled);
    }
    match ending? {
        Some(outcome) => outcome,
        None => Err(RunError::HelperDied { how: ended }),
    }
}

fn check(spec: &ProcessSpec) -> Result<(), RunError> {
    let wrong = |reason: &str| Err(RunError::InvalidSpec { reason: reason.to_owned() });
    if spec.args.is_empty() {
        return wrong("no program is given");
    }
    if spec.hostname.bytes().any(|byte| byte.is_ascii_control() || byte == b' ')
        || spec.extra_hosts.iter().any(|(name, _)| name.bytes().any(|byte| byte.is_ascii_control()))
    {
        return wrong("a host name has a control character");
    }
    Ok(())
}

/// The helper process and the socket to it. To drop it is to end it, and with it the step.
struct Helper {
    child: Child,
    control: OwnedFd,
    stubs: Vec<Stub>,
}

impl Helper {
    fn spawn() -> Result<(Self, [Output; 2]), RunError> {
        let socket =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (control, theirs) = socket.map_err(set_up("making a socket"))?;
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(set_up("making a pipe"));
        let ((out, out_end), (err, err_end)) = (pipe()?, pipe()?);
        let program = format!("/proc/self/fd/{}", own_program()?.as_raw_fd());
        let child = Command::new(program)
            .arg0(HELPER_NAME)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::from(out_end))
            .stderr(Stdio::from(err_end))
            .spawn()
            .map_err(|source| RunError::SetUp { step: "starting the helper".to_owned(), source })?;
        let outputs = [Output::new(Stream::Stdout, out)?, Output::new(Stream::Stderr, err)?];
        Ok((Helper { child, control, stubs: Vec::new() }, outputs))
    }

    /// Asks the helper to kill the step and end.
    fn ask_to_end(&self) {
        // A helper that is gone needs no asking.
        let _ = rustix::net::shutdown(&self.control, Shutdown::Write);
    }

    /// Ends the step and the helper, and says how the helper ended.
    fn end(&mut self) -> String {
        self.ask_to_end();
        // The helper's side of the socket is closed when it ends; a step that the kernel cannot kill delays that.
        let patience = Timespec { tv_sec: LONGEST_END.as_secs() as i64, tv_nsec: 0 };
        let mut closed = [PollFd::new(&self.control, PollFlags::RDHUP)];
        if let Ok(0) = rustix::event::poll(&mut closed, Some(&patience)) {
            let _ = self.child.kill();
        }
        match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.end();
    }
}

/// This program's file, mounted read-only, so that nothing that is run can reach a writable one through the
/// helper. Made once per process.
fn own_program() -> Result<&'static OwnedFd, RunError> {
    static PROGRAM: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program);
    }
    let program =
        mounts::clone_of(CWD, "/proc/self/exe", false).map_err(set_up("cloning the own program"))?;
    mounts::restrict(&program, MountAttrFlags::MOUNT_ATTR_RDONLY, false)
        .map_err(set_up("protecting the own program"))?;
    Ok(PROGRAM.get_or_init(|| program))
}

/// One stream of output.
struct Output {
    stream: Stream,
    pipe: Option<OwnedFd>,
    cutter: LineCutter,
}

impl Output {
    fn new(stream: Stream, pipe: OwnedFd) -> Result<Self, RunError> {
        rustix::io::ioctl_fionbio(&pipe, true).map_err(set_up("preparing a pipe"))?;
        Ok(Output { stream, pipe: Some(pipe), cutter: LineCutter::default() })
    }
}

struct Reader<'a> {
    outputs: [Output; 2],
    start: Instant,
    on_line: &'a mut dyn FnMut(LogLine),
}

impl Reader<'_> {
    /// Reads once from the output `number`; says whether there may be more.
    fn read(&mut self, number: usize, buffer: &mut [u8]) -> bool {
        let Output { stream, pipe, cutter } = &mut self.outputs[number];
        let Some(open) = pipe else { return false };
        match rustix::io::read(&*open, &mut *buffer) {
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            Ok(0) | Err(_) => {
                *pipe = None;
                false
            }
            Ok(length) => {
                let at = self.start.elapsed();
                cutter.push(&buffer[..length], &mut |line| {
                    (self.on_line)(LogLine { stream: *stream, line, at })
                });
                true
            }
        }
    }

    /// Reads what is left, now that nobody writes any more.
    fn finish(&mut self) {
        let mut buffer = vec![0; READ_SIZE];
        for number in 0..self.outputs.len() {
            while self.read(number, &mut buffer) {}
            let at = self.start.elapsed();
            let Output { stream, cutter, .. } = &mut self.outputs[number];
            cutter.finish(&mut |line| (self.on_line)(LogLine { stream: *stream, line, at }));
        }
    }
}

type Outcome = Option<Result<ExitStatus, RunError>>;

/// Reads output and answers until the helper has told the end, or is gone without telling.
fn follow(
    helper: &mut Helper,
    reader: &mut Reader<'_>,
    waker: &OwnedFd,
    cancel: &CancelToken,
) -> Result<Outcome, RunError> {
    let mut buffer = vec![0; READ_SIZE];
    let mut deadline: Option<Instant> = None;
    let mut failed = None;
    loop {
        let events = wait(helper, reader, waker, deadline).map_err(set_up("waiting for the step"))?;
        for (number, ready) in events.outputs.into_iter().enumerate() {
            if ready {
                reader.read(number, &mut buffer);
            }
        }
        if events.control {
            let lost =
                |source: io::Error| RunError::HelperDied { how: format!("its answer is lost: {source}") };
            match wire::receive_reply(helper.control.as_fd()).map_err(lost)? {
                None => return Ok(failed),
                Some(Reply::Ready { stubs }) => helper.stubs = stubs,
                Some(Reply::Failed { error, stubs }) => {
                    helper.stubs.extend(stubs);
                    failed = Some(Err(error));
                }
                Some(Reply::Exited(status)) => return Ok(failed.or(Some(Ok(status)))),
            }
        }
        if deadline.is_none() && cancel.is_cancelled() {
            deadline = Some(Instant::now() + LONGEST_END);
            helper.ask_to_end();
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            // Its death is the death of the step as well, as far as the kernel can.
            let _ = helper.child.kill();
            return Err(RunError::Cancelled);
        }
    }
}

struct Events {
    control: bool,
    outputs: [bool; 2],
}

fn wait(
    helper: &Helper,
    reader: &Reader<'_>,
    waker: &OwnedFd,
    deadline: Option<Instant>,
) -> rustix::io::Result<Events> {
    let mut polled = vec![PollFd::new(&helper.control, PollFlags::IN)];
    let mut numbers = Vec::new();
    for (number, output) in reader.outputs.iter().enumerate() {
        if let Some(pipe) = &output.pipe {
            numbers.push(number);
            polled.push(PollFd::new(pipe, PollFlags::IN));
        }
    }
    if deadline.is_none() {
        polled.push(PollFd::new(waker, PollFlags::IN));
    }
    let timeout = deadline.map(|deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos() as _ }
    });
    match rustix::event::poll(&mut polled, timeout.as_ref()) {
        Err(Errno::INTR) => return Ok(Events { control: false, outputs: [false; 2] }),
        result => result?,
    };
    let happened = |event: &PollFd<'_>| !event.revents().is_empty();
    let mut outputs = [false; 2];
    for (place, number) in numbers.into_iter().enumerate() {
        outputs[number] = happened(&polled[place + 1]);
    }
    Ok(Events { control: happened(&polled[0]), outputs })
}
