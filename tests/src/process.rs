//! Runs the built binary as a process, with a time limit, and keeps what it said.
//! It does not know what the arguments mean.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long one process may take before it counts as hanging.
pub const TIME_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(2);

/// A process that has not started yet.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    stdin: Option<Vec<u8>>,
}

/// A process that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
    started: Instant,
    stdout: File,
    stderr: File,
}

/// A process that has ended, and what it said.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The command line.
    pub line: String,
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, and bytes that are no UTF-8 replaced.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Invocation {
    /// `program` with nothing on standard input.
    pub fn new(program: impl AsRef<std::ffi::OsStr>) -> Invocation {
        Invocation { command: Command::new(program), stdin: None }
    }

    /// Adds arguments.
    pub fn args<S: AsRef<std::ffi::OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Invocation {
        self.command.args(args);
        self
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Invocation {
        self.command.arg(arg);
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Invocation {
        self.command.env(name, value);
        self
    }

    /// Removes a variable of the environment.
    pub fn env_remove(mut self, name: &str) -> Invocation {
        self.command.env_remove(name);
        self
    }

    /// Sets the folder that it starts in.
    pub fn current_dir(mut self, folder: &Path) -> Invocation {
        self.command.current_dir(folder);
        self
    }

    /// Gives it `bytes` on standard input, through a pipe.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Invocation {
        self.stdin = Some(bytes.into());
        self
    }

    /// Makes it the leader of a process group of its own, as a shell does with a foreground job.
    pub fn own_group(mut self) -> Invocation {
        self.command.process_group(0);
        self
    }

    /// Starts it.
    #[track_caller]
    pub fn start(mut self) -> Running {
        let line = format!("{:?}", self.command);
        let (stdout, stderr) = (scratch(), scratch());
        self.command.stdout(stdout.try_clone().expect("a descriptor"));
        self.command.stderr(stderr.try_clone().expect("a descriptor"));
        self.command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("{line} did not start: {e}"));
        if let (Some(bytes), Some(mut pipe)) = (self.stdin, child.stdin.take()) {
            // A program that stops reading early is its own affair.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        Running { child, line, started: Instant::now(), stdout, stderr }
    }

    /// Runs it to its end.
    #[must_use = "whether it succeeded is known when its exit code is looked at"]
    #[track_caller]
    pub fn run(self) -> Finished {
        self.start().wait(TIME_LIMIT)
    }
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        // It may have ended a moment ago.
        let _ = rustix::process::kill_process(self.pid(), signal);
    }

    /// Sends a signal to its process group, as a terminal does.
    pub fn signal_group(&self, signal: rustix::process::Signal) {
        let _ = rustix::process::kill_process_group(self.pid(), signal);
    }

    /// What it has written to standard error so far.
    pub fn stderr_so_far(&self) -> String {
        String::from_utf8_lossy(&all_of(&self.stderr)).into_owned()
    }

    /// The most memory that it had so far, of its own program; `None` once it has ended. What the kernel counts at
    /// its end (`ru_maxrss`) would be no less than what the parent had when it made the process.
    pub fn memory_peak_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("its own child").is_some()
    }

    /// Waits for its end; if that does not come within `limit` it is killed and the test fails.
    #[must_use = "whether it succeeded is known when its exit code is looked at"]
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Finished {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("its own child") {
                return Finished {
                    line: self.line.clone(),
                    code: status.code(),
                    signal: status.signal(),
                    stdout: all_of(&self.stdout),
                    stderr: self.stderr_so_far(),
                    took: self.started.elapsed(),
                };
            }
            if Instant::now() > deadline {
                let said = self.stderr_so_far();
                panic!("{} still ran after {limit:?}; so far it said:\n{said}", self.line);
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Asserts that it succeeded.
    #[track_caller]
    pub fn success(self) -> Finished {
        assert!(self.code == Some(0), "this should succeed:\n{self}");
        self
    }

    /// Asserts that it failed with this exit code.
    #[track_caller]
    pub fn fails_with(self, code: i32) -> Finished {
        assert!(self.code == Some(code), "this should fail with {code}:\n{self}");
        assert!(
            !self.stderr.contains("panicked at"),
            "an error is not a panic, and should be told as one:\n{self}"
        );
        self
    }

    /// Asserts that standard error contains `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Finished {
        assert!(self.stderr.contains(text), "standard error should say {text:?}:\n{self}");
        self
    }

    /// Asserts that standard error contains one of `texts`, in letters of either case.
    #[track_caller]
    pub fn says_one_of(self, texts: &[&str]) -> Finished {
        let said = self.stderr.to_lowercase();
        let found = texts.iter().any(|text| said.contains(&text.to_lowercase()));
        assert!(found, "standard error should say one of {texts:?}:\n{self}");
        self
    }

    /// Asserts that standard error does not contain `text`.
    #[track_caller]
    pub fn does_not_say(self, text: &str) -> Finished {
        assert!(!self.stderr.contains(text), "standard error should not say {text:?}:\n{self}");
        self
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stdout = self.stdout_text();
        writeln!(f, "{}", self.line)?;
        writeln!(f, "exit code {:?}, signal {:?}, {:?}", self.code, self.signal, self.took)?;
        writeln!(f, "---- stdout\n{}\n---- stderr\n{}", tail(&stdout), tail(&self.stderr))
    }
}

/// The last part of a text: a failing test should not print megabytes.
fn tail(text: &str) -> &str {
    const BYTES_MAX: usize = 8000;
    let start = text.len().saturating_sub(BYTES_MAX);
    let start = (start..=text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text[start..].trim_end()
}

/// A file without a name. Pipes would not do: whoever inherits one can keep it open for ever.
fn scratch() -> File {
    tempfile::tempfile().expect("a temporary file")
}

fn all_of(file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    // The offset is the process's too: read by a path of its own.
    let mut own = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))
        .expect("the file that was just written");
    own.seek(SeekFrom::Start(0)).expect("a file");
    own.read_to_end(&mut bytes).expect("a readable file");
    bytes
}
