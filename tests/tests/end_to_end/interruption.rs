//! Builds that are interrupted, at any moment: no process, no mount, and the next build is right.

use super::{NONE, busybox, on_busybox};
use kiln_tests::{ImageAssert, TestContext, mounts_below, processes_naming, unique, wait_until};
use rustix::process::Signal;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(1);
const START: Duration = Duration::from_secs(30);
const KILLS: u32 = 20;

#[track_caller]
fn nothing_left(context: &TestContext, marker: &str) {
    let gone = wait_until(SOON, || processes_naming(marker).is_empty());
    assert!(gone, "processes are left: {:?}", processes_naming(marker));
    assert_eq!(mounts_below(&context.path("")), Vec::<String>::new(), "mounts are left");
}

/// A RUN that never ends, whose processes do what they can to survive.
fn endless(marker: &str) -> TestContext {
    on_busybox(&format!(
        "FROM @\nRUN trap '' INT TERM HUP; (setsid sh -c 'trap \"\" INT TERM HUP; sleep 300; : {marker}' &); sh -c 'sleep 300; : {marker}'\n"
    ))
}

#[track_caller]
fn interrupted_by(signal: Signal, to_the_group: bool) {
    let marker = unique("interrupted");
    let context = endless(&marker);
    let running = context.building(NONE).own_group().start();
    let started = || processes_naming(&marker).iter().filter(|line| line.contains("sleep 300;")).count() >= 2;
    assert!(wait_until(START, started), "{}", running.stderr_so_far());
    let at = Instant::now();
    if to_the_group {
        running.signal_group(signal)
    } else {
        running.signal(signal)
    }
    let finished = running.wait(Duration::from_secs(20));
    assert!(at.elapsed() < SOON, "it took {:?} to end: {finished}", at.elapsed());
    assert_ne!(finished.code, Some(0), "{finished}");
    nothing_left(&context, &marker);
    context.write("Dockerfile", format!("FROM {}\nRUN echo next > /next\n", busybox()));
    context.image(NONE).file_is("/next", "next\n");
}

#[test]
fn ctrl_c_in_a_run_ends_everything_at_once() {
    interrupted_by(Signal::INT, true);
}

#[test]
fn sigint_to_kiln_alone_ends_everything_at_once() {
    interrupted_by(Signal::INT, false);
}

#[test]
fn sigterm_ends_everything_at_once() {
    interrupted_by(Signal::TERM, false);
}

#[test]
fn a_terminal_that_closes_ends_everything_at_once() {
    interrupted_by(Signal::HUP, true);
}

#[test]
fn an_interrupted_build_says_so_and_gives_no_name() {
    let marker = unique("told");
    let context = endless(&marker);
    let running = context.building(["-t", "app:1"]).start();
    assert!(wait_until(START, || !processes_naming(&marker).is_empty()));
    running.signal(Signal::INT);
    let finished = running.wait(Duration::from_secs(20));
    finished.says_one_of(&["interrupt", "cancel", "ctrl-c"]);
    let listed = context.kiln(["images"]).run().success().stdout_text();
    assert!(!listed.contains("app"), "{listed}");
}

/// A number below `limit` that nobody can predict.
fn random_below(limit: u64) -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("/proc is mounted");
    u64::from_str_radix(&text[..8], 16).expect("hexadecimal digits") % limit
}

#[test]
fn kill_9_at_any_moment_leaves_nothing_and_the_next_build_is_right() {
    let marker = unique("kill9");
    let context = TestContext::new();
    let steps = format!(
        "ARG ROUND\nRUN : {marker}; for i in $(seq 100); do echo $i > /f$i; done; sleep 0.3; echo $ROUND > /round\n\
         RUN rm /f1 && echo {marker} > /second\n"
    );
    context.write("Dockerfile", format!("FROM {}\n{steps}", busybox()));
    context.build(["--build-arg", "ROUND=warm"]).success();
    for round in 0..KILLS {
        let argument = format!("ROUND={round}");
        let running = context.building(["--build-arg", &argument, "-t", "app:1"]).start();
        std::thread::sleep(Duration::from_millis(random_below(500)));
        running.signal(Signal::KILL);
        let killed = running.wait(Duration::from_secs(10));
        assert!(killed.signal == Some(9) || killed.code == Some(0), "{killed}");
        nothing_left(&context, &marker);
        let image = context.image(["--build-arg", &argument]);
        image.file_is("/round", &format!("{round}\n")).file_is("/f100", "100\n").lacks("/f1");
        image.file_is("/second", &format!("{marker}\n"));
    }
}

#[test]
fn sigint_at_any_moment_leaves_nothing_and_the_next_build_is_right() {
    let marker = unique("any-moment");
    for _ in 0..10 {
        let context = on_busybox(&format!("FROM @\nCOPY . /all/\nRUN : {marker}; sleep 0.2; echo x > /x\n"));
        context.write("big", vec![7; 4 << 20]);
        let archive = context.text("stopped.tar");
        let running = context.building(["-o", &format!("type=oci,dest={archive}"), "-t", "app:1"]).start();
        std::thread::sleep(Duration::from_millis(random_below(450)));
        running.signal(Signal::INT);
        let stopped = running.wait(SOON);
        assert!(!stopped.stderr.contains("panicked"), "{stopped}");
        assert_eq!(stopped.code == Some(0), context.path("stopped.tar").exists(), "{stopped}");
        nothing_left(&context, &marker);
        let image = context.image(["-t", "app:1"]);
        image.file_is("/x", "x\n").is("/all/big", 0o644, (0, 0));
    }
}

/// Killed while it pulls, unpacks and exports, not only in a RUN.
#[test]
fn kill_9_of_a_first_build_leaves_a_store_that_the_next_build_uses() {
    for round in 0..6 {
        let context = on_busybox("FROM @\nCOPY big /\nRUN echo x > /x\n");
        context.write("big", vec![round; 8 << 20]);
        let archive = context.text("killed.tar");
        let running = context.building(["-o", &format!("type=oci,dest={archive}")]).start();
        std::thread::sleep(Duration::from_millis(random_below(400)));
        running.signal(Signal::KILL);
        let finished = running.wait(Duration::from_secs(10));
        if context.path("killed.tar").exists() {
            // Panics at an archive that is half written.
            ImageAssert::of_archive(&context.path("killed.tar")).file_is("/x", "x\n");
        }
        assert!(finished.code == Some(0) || finished.signal == Some(9), "{finished}");
        let image = context.image(NONE);
        image.file_is("/x", "x\n");
        assert_eq!(mounts_below(&context.path("")), Vec::<String>::new());
    }
}
