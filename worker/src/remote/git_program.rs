//! Runs the program `git`: with no settings but ours, no hooks, no questions, and an end.
//! It does not know what it is asked for.

use super::CANCEL_POLL;
use super::git_address::PROTOCOLS;
use crate::WorkerError;
use kiln_runner::CancelToken;
use kiln_snapshotter::Tree;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::ffi::OsString;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A command that needs the network and says nothing for so long is ended.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How often it is looked whether a command is done.
const DONE_POLL: Duration = Duration::from_millis(5);
/// More of a command's output is not kept: 4 MiB.
const OUTPUT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The end of what a failed command says is shown, so much of it.
const REASON_LINES_MAX: usize = 8;
const LINE_CHARS_MAX: usize = 300;

/// What of the caller's environment git needs: programs, proxies, certificates.
const ENV_KEPT: [&str; 14] = [
    "PATH",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
];

/// Settings of every command; there are no others.
const CONFIG: [(&str, &str); 15] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.logAllRefUpdates", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("credential.helper", ""),
    ("advice.detachedHead", "false"),
    ("init.defaultBranch", "main"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("protocol.ext.allow", "never"),
    ("protocol.file.allow", "user"),
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "30"),
];

/// How ssh runs for git: no settings, no keys but those of the agent that the user gave, no questions,
/// and no host whose key the user does not know.
const SSH: &str = "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none -o StrictHostKeyChecking=yes \
    -o UpdateHostKeys=no -o ConnectTimeout=10 -o ServerAliveInterval=15 -o ServerAliveCountMax=2";

/// What helps, where git says so.
const HINTS: [(&str, &str); 3] = [
    ("Host key verification failed", "add the key of the host to ~/.ssh/known_hosts"),
    ("could not read Username", "if it is private, use --secret id=GIT_AUTH_TOKEN"),
    ("Authentication failed", "use --secret id=GIT_AUTH_TOKEN with a token that may read it"),
];

/// The program in a folder.
pub(super) struct Git<'a> {
    pub folder: Tree,
    pub cancel: &'a CancelToken,
    /// The address of the repository in errors, and as it may stand in git's own.
    pub shown: &'a str,
    pub url: &'a str,
    /// More settings, which may be secret.
    pub config: Vec<(String, String)>,
    /// The socket of the agent that ssh asks.
    pub agent: Option<OsString>,
}

/// Whether a command waits for others than this machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Network,
    Disk,
}

impl Git<'_> {
    /// Runs a command and gives what it wrote.
    pub fn run(&self, needs: Needs, args: &[&str]) -> Result<String, WorkerError> {
        let mut child = self.command(args).spawn().map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                self.failure("the program `git` is needed for it, and not installed".to_owned())
            }
            _ => WorkerError::io("start", "git")(e),
        })?;
        let heard = AtomicU64::new(0);
        let pipes = (child.stdout.take(), child.stderr.take());
        let (status, output, words) = std::thread::scope(|scope| {
            let output = scope.spawn(|| pipes.0.map_or(Ok(Vec::new()), |pipe| drain(pipe, &heard)));
            let words = scope.spawn(|| pipes.1.map_or(Ok(Vec::new()), |pipe| drain(pipe, &heard)));
            let status = self.wait(&mut child, needs, &heard);
            (status, joined(output.join()), joined(words.join()))
        });
        let (status, output) = (status?, output.map_err(WorkerError::io("read from", "git"))?);
        if status.success() {
            return Ok(String::from_utf8_lossy(&output).into_owned());
        }
        let words = words.map_err(WorkerError::io("read from", "git"))?;
        let command = args.first().copied().unwrap_or_default();
        Err(self.failure(format!("git {command} failed: {}", self.reason(&words))))
    }

    /// An error of the repository.
    pub fn failure(&self, reason: String) -> WorkerError {
        WorkerError::Source { address: self.shown.to_owned(), reason }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.args(args).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Its own group, so that all of it can be ended at once.
        command.process_group(0);
        // The descriptor is looked up in the child, before it is closed by the start of git.
        command.current_dir(format!("/proc/self/fd/{}", self.folder.as_fd().as_raw_fd()));
        for name in ENV_KEPT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if let (Some(file), None) = (std::env::var_os("SSL_CERT_FILE"), std::env::var_os("GIT_SSL_CAINFO")) {
            command.env("GIT_SSL_CAINFO", file);
        }
        command.env("LC_ALL", "C").env("HOME", "/dev/null").env("XDG_CONFIG_HOME", "/dev/null");
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1");
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_ASKPASS", "false").env("SSH_ASKPASS", "false");
        command
            .env("GIT_ALLOW_PROTOCOL", PROTOCOLS)
            .env("GIT_SSH_COMMAND", SSH)
            .env("GIT_SSH_VARIANT", "ssh");
        if let Some(agent) = &self.agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
        let own = CONFIG.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let config: Vec<(String, String)> = own.chain(self.config.iter().cloned()).collect();
        command.env("GIT_CONFIG_COUNT", config.len().to_string());
        for (i, (key, value)) in config.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{i}"), key).env(format!("GIT_CONFIG_VALUE_{i}"), value);
        }
        command
    }

    /// Waits for the end, which comes early if the user or too long a silence demands it.
    fn wait(&self, child: &mut Child, needs: Needs, heard: &AtomicU64) -> Result<ExitStatus, WorkerError> {
        let ended = self.wait_for_end(child, needs, heard);
        // What it has started is not left behind, and holds no pipe open. The group's number is its own
        // until the child is waited for.
        if let Some(group) = pid(child) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let status = child.wait().map_err(WorkerError::io("wait for", "git"));
        ended.and(status)
    }

    fn wait_for_end(&self, child: &Child, needs: Needs, heard: &AtomicU64) -> Result<(), WorkerError> {
        let (mut bytes, mut since, mut looked) = (0, Instant::now(), Instant::now());
        loop {
            if has_ended(child).map_err(WorkerError::io("wait for", "git"))? {
                return Ok(());
            }
            if looked.elapsed() > CANCEL_POLL {
                looked = Instant::now();
                if self.cancel.is_cancelled() {
                    return Err(WorkerError::Canceled);
                }
                let now = heard.load(Ordering::Relaxed);
                if now != bytes {
                    (bytes, since) = (now, looked);
                }
                if needs == Needs::Network && since.elapsed() > SILENCE_MAX {
                    return Err(self.failure(format!("no sign of the server in {} s", SILENCE_MAX.as_secs())));
                }
            }
            std::thread::sleep(DONE_POLL);
        }
    }

    /// The end of what git said, fit to be shown.
    fn reason(&self, words: &[u8]) -> String {
        let text = String::from_utf8_lossy(words).replace(self.url, self.shown);
        // Progress overwrites its line again and again: only what stands there at last is of interest.
        let lines =
            text.lines().map(|line| line.rsplit('\r').find(|part| !part.is_empty()).unwrap_or_default());
        let visible =
            |line: &str| line.chars().filter(|c| !c.is_control()).take(LINE_CHARS_MAX).collect::<String>();
        let mut lines: Vec<String> = lines.map(visible).filter(|line| !line.trim().is_empty()).collect();
        lines.drain(..lines.len().saturating_sub(REASON_LINES_MAX));
        let hint = HINTS.iter().find(|(words, _)| lines.iter().any(|line| line.contains(words)));
        lines.extend(hint.map(|(_, hint)| (*hint).to_owned()));
        lines.join("; ")
    }
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Whether a child has ended; it is not waited for, and keeps its number.
fn has_ended(child: &Child) -> io::Result<bool> {
    let Some(pid) = pid(child) else { return Ok(true) };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(pid), options)?.is_some())
}

/// What a thread that reads gave; one that panicked has read nothing of use.
fn joined(read: std::thread::Result<io::Result<Vec<u8>>>) -> io::Result<Vec<u8>> {
    read.unwrap_or_else(|_| Err(io::Error::from(ErrorKind::BrokenPipe)))
}

/// Reads to the end and keeps the last bytes; counts all.
fn drain(mut pipe: impl Read, heard: &AtomicU64) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(kept),
            Ok(count) => {
                heard.fetch_add(count as u64, Ordering::Relaxed);
                kept.extend_from_slice(&buffer[..count]);
                let surplus = kept.len().saturating_sub(OUTPUT_BYTES_MAX);
                kept.drain(..surplus);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
