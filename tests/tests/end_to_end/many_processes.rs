//! Many processes on one store: each step is run once, killed ones leave nothing locked, nobody loses a layer
//! to a collector. `KILN_ROUNDS` is how many rounds there are.

use super::on_busybox;
use kiln_tests::{Running, TestContext};
use rustix::process::Signal;
use std::time::Duration;

const PROCESSES: usize = 16;
/// No build of these tests may take so long, whatever else the machine does.
const LIMIT: Duration = Duration::from_secs(120);

fn rounds(default: usize) -> usize {
    std::env::var("KILN_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A step that takes a moment and counts itself in a cache mount, and one that copies what it made.
fn dockerfile(round: usize, which: usize) -> String {
    format!(
        "FROM @ AS a\nRUN --mount=type=cache,target=/count echo r{round}-{which} >> /count/n; sleep 0.2; echo {round}-{which} > /made\n\
         FROM @\nCOPY --from=a /made /copied\nRUN cat /copied > /seen\n"
    )
}

/// How often each step was run, by the counter in the cache mount.
fn counted(context: &TestContext, line: &str) -> usize {
    let caches = std::fs::read_dir(context.store().join("cache-mounts")).expect("caches").flatten();
    let texts = caches.filter_map(|c| std::fs::read_to_string(c.path().join("current/data/n")).ok());
    texts.map(|text| text.lines().filter(|l| *l == line).count()).sum()
}

fn start(context: &TestContext, name: &str, which: usize) -> Running {
    let file = context.text(&format!("ctx/Dockerfile.{which}"));
    context.building(["-t", name, "-f", &file]).start()
}

fn write_files(context: &TestContext, round: usize, count: usize) {
    for which in 0..count {
        let text = dockerfile(round, which).replace('@', &super::busybox());
        context.write(&format!("Dockerfile.{which}"), text);
    }
}

#[test]
fn sixteen_builds_at_once_run_each_step_once_whoever_is_killed() {
    let context = on_busybox("FROM @\n");
    let mut random = 12345u64;
    for round in 0..rounds(2) {
        // Four Dockerfiles, each built by four.
        write_files(&context, round, 4);
        let is_disturbed = round % 2 == 1;
        let running: Vec<_> =
            (0..PROCESSES).map(|i| (i, start(&context, &format!("r{}:{}", i % 4, i), i % 4))).collect();
        let mut left = Vec::new();
        for (i, process) in running {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            if is_disturbed && i % 2 == 0 {
                std::thread::sleep(Duration::from_millis((random >> 33) % 100));
                process.signal(Signal::KILL);
                drop(process);
            } else {
                left.push(process);
            }
        }
        for process in left {
            process.wait(LIMIT).success();
        }
        if !is_disturbed {
            for which in 0..4 {
                assert_eq!(counted(&context, &format!("r{round}-{which}")), 1, "round {round}");
            }
        }
        let file = context.text("ctx/Dockerfile.1");
        let image = context.image(["-f", &file]);
        image.file_is("/seen", &format!("{round}-1\n"));
    }
    context.kiln(["fsck", "--full"]).run().success();
}

#[test]
fn no_build_fails_beside_a_collector_that_takes_all_it_can() {
    let context = on_busybox("FROM @\n");
    for round in 0..rounds(2) {
        write_files(&context, round, 4);
        let mut builds: Vec<_> = (0..8).map(|i| start(&context, &format!("g{i}:1"), i % 4)).collect();
        let mut prunes = 0;
        while builds.iter_mut().any(|build| !build.has_ended()) {
            context.kiln(["prune", "--all", "-f"]).run().success();
            prunes += 1;
        }
        assert!(prunes > 0);
        for build in builds {
            build.wait(LIMIT).success();
        }
        let file = context.text("ctx/Dockerfile.2");
        context.image(["-f", &file]).file_is("/seen", &format!("{round}-2\n"));
    }
    context.kiln(["fsck", "--full"]).run().success();
}

#[test]
fn a_build_that_waits_says_for_whom() {
    let context = on_busybox("FROM @\nRUN sleep 4; echo done > /x\n");
    let first = context.building(super::NONE).start();
    let began = kiln_tests::wait_until(LIMIT, || first.stderr_so_far().contains("RUN sleep 4"));
    assert!(began, "{}", first.stderr_so_far());
    let process = first.pid().as_raw_nonzero();
    let second = context.building(super::NONE).start().wait(LIMIT).success();
    first.wait(LIMIT).success();
    second.says(&format!("which process {process} is building"));
}

#[test]
fn a_collector_that_is_killed_at_any_moment_leaves_nothing_behind() {
    let context = on_busybox("FROM @\n");
    for kill in 0..rounds(6) {
        let text = format!("FROM {}\nRUN echo {kill} > /made\nRUN echo next > /next\n", super::busybox());
        context.write("Dockerfile", text);
        context.build(["--output", "type=cacheonly"]).success();
        let prune = context.kiln(["prune", "--all", "-f"]).start();
        std::thread::sleep(Duration::from_millis(kill as u64 * 3 % 20));
        prune.signal(Signal::KILL);
    }
    context.image(super::NONE).file_is("/next", "next\n");
    context.kiln(["fsck", "--full"]).run().success();
    let noted = context.kiln(["du", "-v"]).run().success().stdout_text();
    assert!(!noted.contains("snapshots/"), "{noted}");
}
