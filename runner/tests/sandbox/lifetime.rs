//! Claims about how a run goes: its output, its end, what is left of it, and how long it takes.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use kiln_runner::{CancelToken, ExitStatus, Network, ProcessSpec, RunError, Stream, run};

use crate::CALLER;
use crate::tree::{Tree, check, mount_of, output, run_it};

pub(crate) fn output_comes_line_by_line_and_the_code_is_told() {
    let tree = Tree::new();
    let (result, lines) = run_it(tree.spec("echo one; echo two >&2; sleep 0.1; printf last; exit 7"));
    assert_eq!(result.unwrap(), ExitStatus::Code(7));
    let of = |stream| {
        let lines = lines.iter().filter(move |line| line.stream == stream);
        lines.map(|line| String::from_utf8_lossy(&line.line).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of(Stream::Stdout), ["one", "last"]);
    assert_eq!(of(Stream::Stderr), ["two"]);
    assert!(lines[0].at < Duration::from_millis(100) || lines.last().unwrap().at > lines[0].at);
    let (_, lines) = run_it(tree.spec("head -c 1000000 /dev/zero"));
    assert_eq!(lines.iter().map(|line| line.line.len()).sum::<usize>(), 1_000_000);
    assert!(lines.iter().all(|line| line.line.len() <= kiln_runner::LONGEST_LINE));
}

pub(crate) fn a_death_by_signal_is_told() {
    // Process 1 cannot be killed from within, but a fault of its own ends it.
    let tree = Tree::new();
    let (result, _) = run_it(tree.spec("ulimit -t 1; while :; do :; done"));
    assert_eq!(result.unwrap(), ExitStatus::Signal(9));
    check("kill -TERM $$; kill -KILL $$; echo $$ alive", "1 alive");
}

pub(crate) fn a_missing_program_is_an_error_of_its_own() {
    let tree = Tree::new();
    fs::write(tree.at("script"), "#!/none\n").unwrap();
    fs::write(tree.at("text"), "text").unwrap();
    fs::set_permissions(tree.at("script"), fs::Permissions::from_mode(0o755)).unwrap();
    let error_of = |program: &str| {
        let mut spec = tree.spec("");
        spec.args = vec![program.into()];
        run_it(spec).0.unwrap_err()
    };
    let error = error_of("none");
    assert!(matches!(error, RunError::NotInPath { .. }), "{error}");
    assert_eq!(error.to_string(), "exec: \"none\": executable file not found in $PATH");
    for program in ["/none", "/script"] {
        let error = error_of(program);
        assert!(matches!(error, RunError::NotFound { .. }), "{error}");
    }
    let error = error_of("/text");
    assert!(matches!(error, RunError::PermissionDenied { .. }), "{error}");
    fs::set_permissions(tree.at("text"), fs::Permissions::from_mode(0o755)).unwrap();
    let error = error_of("/text");
    assert!(matches!(error, RunError::Exec { .. }), "{error}");
}

pub(crate) fn a_program_that_is_being_written_is_waited_for() {
    let tree = Tree::new();
    let writer = fs::OpenOptions::new().append(true).open(tree.at("bin/busybox")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(writer);
        });
        assert_eq!(output(tree.spec("echo ran")), "ran");
    });
}

pub(crate) fn background_dies_with_process_one() {
    let tree = Tree::new();
    let start = Instant::now();
    output(tree.spec("setsid sh -c 'trap \"\" TERM HUP; sleep 1; touch /late' & sleep 0.1"));
    assert!(start.elapsed() < Duration::from_millis(800));
    std::thread::sleep(Duration::from_millis(1200));
    assert!(!tree.at("late").exists());
}

/// Commands that ignore what can be ignored, in sessions of their own.
pub(crate) const STUBBORN: &str = "trap '' TERM INT HUP; setsid sh -c 'trap \"\" TERM HUP INT; echo up; while :; do sleep 4711; done' & \
    while :; do sleep 4711; done";

pub(crate) fn sleepers() -> usize {
    let is_one = |entry: &fs::DirEntry| {
        fs::read(entry.path().join("cmdline")).is_ok_and(|line| line.starts_with(b"sleep\x004711\0"))
    };
    fs::read_dir("/proc").unwrap().flatten().filter(is_one).count()
}

pub(crate) fn no_sleeper_after(longest: Duration) -> Duration {
    let start = Instant::now();
    while sleepers() > 0 {
        assert!(start.elapsed() < longest, "{} processes are left", sleepers());
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

pub(crate) fn cancelling_kills_everything_at_once() {
    let tree = Tree::new();
    let token = CancelToken::new();
    let cancelled = std::sync::Mutex::new(None);
    std::thread::scope(|scope| {
        let result = run(
            tree.spec(STUBBORN),
            &mut |_| {
                let token = token.clone();
                let cancelled = &cancelled;
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(50));
                    *cancelled.lock().unwrap() = Some(Instant::now());
                    token.cancel();
                });
            },
            &token,
        );
        let took = cancelled.lock().unwrap().unwrap().elapsed();
        assert!(matches!(result, Err(RunError::Cancelled)), "{result:?}");
        assert!(took < Duration::from_millis(200), "{took:?}");
        assert_eq!(sleepers(), 0);
    });
    assert!(matches!(run(tree.spec("echo"), &mut |_| {}, &token), Err(RunError::Cancelled)));
}

pub(crate) fn killing_the_caller_leaves_no_process() {
    // With the set-user-id bit on the shell's file, the kernel forgets the signal that would kill it.
    for (user, mode) in [("", 0o755), ("app", 0o755), ("app", 0o4755)] {
        let tree = Tree::new();
        fs::write(tree.at("user"), user).unwrap();
        fs::set_permissions(tree.at("bin/busybox"), fs::Permissions::from_mode(mode)).unwrap();
        let mut caller = Command::new("/proc/self/exe");
        let mut caller = caller.arg(CALLER).arg(&tree.0).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(caller.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "up");
        std::thread::sleep(Duration::from_millis(50));
        assert!(sleepers() >= 2);
        caller.kill().unwrap();
        caller.wait().unwrap();
        let took = no_sleeper_after(Duration::from_millis(500));
        println!("    everything was dead {took:?} after the caller");
        assert_eq!(mounts_below(&tree.0), 0);
    }
}

pub(crate) fn be_killed(root: &Path) -> ExitCode {
    let args = ["/bin/sh", "-c", STUBBORN].map(OsString::from).to_vec();
    let mut spec = ProcessSpec::new(mount_of(root), args);
    spec.user = fs::read_to_string(root.join("user")).unwrap();
    let result =
        run(spec, &mut |line| println!("{}", String::from_utf8_lossy(&line.line)), &CancelToken::new());
    eprintln!("the run ended: {result:?}");
    ExitCode::FAILURE
}

pub(crate) fn mounts_below(path: &Path) -> usize {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|line| line.contains(&path.display().to_string())).count()
}

pub(crate) fn many_runs_at_once_do_not_disturb_each_other() {
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                for round in 0..5 {
                    let text = format!("{number} {round}");
                    assert_eq!(output(Tree::new().spec(&format!("echo {text} > /own; cat /own"))), text);
                }
            });
        }
    });
}

pub(crate) fn the_helpers_program_cannot_be_written() {
    let tree = Tree::new();
    let mut flags = Vec::new();
    let mut look = |_| {
        let children = fs::read_to_string("/proc/thread-self/children").unwrap();
        for helper in children.split_whitespace() {
            flags.push(rustix::fs::statvfs(format!("/proc/{helper}/exe")).unwrap().f_flag);
        }
    };
    run(tree.spec("echo"), &mut look, &CancelToken::new()).unwrap();
    assert_eq!(flags.len(), 1);
    assert!(flags[0].contains(rustix::fs::StatVfsMountFlags::RDONLY), "{flags:?}");
}

pub(crate) fn measure() -> ExitCode {
    let tree = Tree::new();
    for network in [Network::Host, Network::None] {
        let mut times: Vec<Duration> = (0..200)
            .map(|_| {
                let mut spec = tree.spec("");
                spec.args = vec!["/bin/true".into()];
                spec.network = network;
                let start = Instant::now();
                run(spec, &mut |_| {}, &CancelToken::new()).unwrap();
                start.elapsed()
            })
            .collect();
        times.sort();
        println!("{network:?}: median {:?}, 90% {:?}, least {:?}", times[100], times[180], times[0]);
    }
    ExitCode::SUCCESS
}
