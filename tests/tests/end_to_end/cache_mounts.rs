//! What RUN --mount=type=cache keeps: listed, removed, carried from one store to another, and held by many
//! processes at once.

use super::{NONE, on_busybox};
use kiln_tests::{TestContext, processes_naming, unique, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

/// A context whose one RUN has the cache `id` at `/c`.
fn with_cache(options: &str, command: &str) -> TestContext {
    on_busybox(&format!("FROM @\nARG N\nRUN --mount=type=cache,target=/c,{options} {command}\n"))
}

fn build(context: &TestContext, number: &str) {
    context.build(["--build-arg", &format!("N={number}")]).success();
}

fn listed(context: &TestContext) -> Vec<Value> {
    let text = context.kiln(["cache-mount", "ls", "--format", "json"]).run().success().stdout_text();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Where the files of a cache mount are, the only one with this number among private ones.
fn data(context: &TestContext, private: Option<u64>) -> PathBuf {
    let mounts = listed(context);
    let mount = mounts.iter().find(|m| m["private"].as_u64() == private).expect("a cache mount");
    let name = mount["name"].as_str().expect("a name");
    context.store().join("cache-mounts").join(name).join("current/data")
}

fn blobs(folder: &Path) -> Vec<(String, u64)> {
    let all = fs::read_dir(folder.join("blobs/sha256")).expect("a layout").flatten();
    let mut all: Vec<(String, u64)> = all
        .map(|e| (e.file_name().to_string_lossy().into_owned(), e.metadata().expect("a blob").len()))
        .collect();
    all.sort();
    all
}

#[test]
fn cache_mounts_are_listed_by_id_with_size_and_use_and_removed() {
    let context = on_busybox(
        "FROM @ AS base\nRUN mkdir /first && echo seed > /first/f\nFROM @\n\
         RUN --mount=type=cache,id=plain,target=/c head -c 5000 /dev/zero > /c/f\n\
         RUN --mount=type=cache,id=seeded,target=/c,from=base,source=/first cat /c/f\n",
    );
    assert!(listed(&context).is_empty());
    context.build(NONE).success();
    let all = listed(&context);
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!((all[0]["id"].as_str(), all[0]["size"].as_u64()), (Some("plain"), Some(5000)));
    assert_eq!((all[0]["begins"].as_str(), all[1]["size"].as_u64()), (Some(""), Some(5)));
    assert!(all[1]["begins"].as_str().is_some_and(|begins| begins.ends_with(" /first")), "{all:?}");
    assert!(all[0]["used"].as_u64() > Some(1_600_000_000));
    let table = context.kiln(["cache-mount", "ls"]).run().success().stdout_text();
    assert!(table.starts_with("ID") && table.contains("plain ") && table.contains("5.0kB"), "{table}");
    assert!(table.contains(":/first") && table.contains(" ago"), "{table}");
    let name = all[1]["name"].as_str().expect("a name").to_owned();
    context.kiln(["cache-mount", "rm", "nothing"]).run().fails_with(1).says("no cache mount `nothing`");
    context.kiln(["cache-mount", "rm"]).run().fails_with(2).says("<ID>");
    context.kiln(["cache-mount", "rm", &name[..12]]).run().success();
    assert_eq!(listed(&context).len(), 1);
    context.kiln(["cache-mount", "rm", "--all"]).run().success();
    assert!(listed(&context).is_empty());
    let left = fs::read_dir(context.store().join("cache-mounts")).expect("a folder").count();
    assert_eq!(left, 0, "nothing is left on disk");
}

#[test]
fn a_cache_mount_without_an_id_in_the_metadata_is_shown_by_its_name() {
    let context = TestContext::new();
    assert!(listed(&context).is_empty());
    let name = "ab".repeat(32);
    let folder = context.store().join("cache-mounts").join(&name);
    fs::create_dir_all(folder.join("g1/data")).expect("a folder");
    fs::write(folder.join("g1/data/f"), "old").expect("a file");
    std::os::unix::fs::symlink("g1", folder.join("current")).expect("a link");
    let table = context.kiln(["cache-mount", "ls"]).run().success().stdout_text();
    assert!(table.contains("-    abababababab"), "{table}");
    let dest = context.text("out");
    let export = context.kiln(["cache-mount", "export", &name, "-o", &dest]).run();
    export.fails_with(1).says("gets one when a build uses it");
    context.kiln(["cache-mount", "rm", &name]).run().success();
    assert!(!folder.exists());
}

#[test]
fn a_cache_mount_that_a_step_uses_is_not_removed() {
    let marker = unique("in-use");
    let context = with_cache("id=x", &format!("echo kept > /c/f; sleep 300; : {marker}"));
    let running = context.building(NONE).start();
    assert!(wait_until(SOON, || !processes_naming(&marker).is_empty()), "{}", running.stderr_so_far());
    context.kiln(["cache-mount", "rm", "x"]).run().fails_with(1).says("used by a step that runs");
    context.kiln(["cache-mount", "rm", "--all"]).run().fails_with(1).says("used by a step that runs");
    assert_eq!(fs::read_to_string(data(&context, None).join("f")).ok().as_deref(), Some("kept\n"));
    running.signal(Signal::KILL);
    drop(running);
    context.kiln(["cache-mount", "rm", "x"]).run().success();
}

#[test]
fn a_cache_is_warm_on_another_machine_and_only_changes_move() {
    let command = "if [ -e /c/f1 ]; then echo warm > /was; else echo cold > /was; \
         for i in $(seq 1000); do head -c 16384 /dev/urandom > /c/f$i; done; fi";
    let (a, b) = (with_cache("id=x", command), with_cache("id=x", command));
    let was = |context: &TestContext, n: &str, text: &str| {
        context.image(["--build-arg", &format!("N={n}")]).file_is("/was", text);
    };
    was(&a, "1", "cold\n");
    let dest = a.text("out");
    let export = |ids: &[&str]| {
        let args = ["cache-mount", "export"].iter().chain(ids).copied().chain(["-o", &dest]);
        a.kiln(args.collect::<Vec<_>>()).run().success()
    };
    let first = export(&["x"]);
    assert!(first.stdout.is_empty(), "{first}");
    let before = blobs(Path::new(&dest));
    let total: u64 = before.iter().map(|(_, bytes)| bytes).sum();
    assert!(total > 16_000_000, "{total}");
    export(&["x"]).says("exported x: 0 of ").says(", 0 bytes written");
    assert_eq!(blobs(Path::new(&dest)), before);

    b.kiln(["cache-mount", "import", &dest]).run().success().says("imported x");
    was(&b, "2", "warm\n");

    fs::write(data(&a, None).join("f500"), vec![7; 16384]).expect("a file");
    export(&["--all"]);
    let after = blobs(Path::new(&dest));
    let moved: u64 = after.iter().filter(|blob| !before.contains(blob)).map(|(_, bytes)| bytes).sum();
    // A group of files and the manifest.
    assert!(moved > 0 && moved < 40 * 16384, "{moved} of {total} bytes moved");
    let gone = before.iter().filter(|blob| !after.contains(blob)).count();
    assert_eq!(gone, 2, "what nothing names is removed");

    // A store that had the first one and no step since asks for the change alone.
    let c = TestContext::new();
    c.kiln(["cache-mount", "import", &dest]).run().success();
    fs::write(data(&a, None).join("f700"), vec![8; 16384]).expect("a file");
    export(&["x"]);
    c.kiln(["cache-mount", "import", &dest, "x"]).run().success().says("imported x: 1 of ");
    for file in ["f1", "f500", "f700", "f1000"] {
        let read = |context: &TestContext| fs::read(data(context, None).join(file)).expect("a file");
        assert!(read(&a) == read(&c), "{file}");
    }
}

#[test]
fn a_tar_of_cache_mounts_goes_through_pipes() {
    let a = with_cache("id=/odd-id%", "echo $N > /c/f; ln -s f /c/l");
    build(&a, "kept");
    let tar = a.kiln(["cache-mount", "export", "--all", "-o", "-"]).run().success();
    let file = a.text("x.tar");
    a.kiln(["cache-mount", "export", "/odd-id%", "-o", &file]).run().success();
    assert!(fs::read(&file).expect("a tar") == tar.stdout, "the same cache is the same tar");
    let b = TestContext::new();
    b.kiln(["cache-mount", "import", "-"]).stdin(tar.stdout).run().success().says("imported /odd-id%");
    b.kiln(["cache-mount", "import", &file]).run().success().says("all of it was there");
    assert_eq!(fs::read_to_string(data(&b, None).join("l")).ok().as_deref(), Some("kept\n"));
}

#[test]
fn exports_and_imports_that_are_killed_leave_what_was_there() {
    const KILLS: u64 = 8;
    let a = with_cache("id=x", "for i in $(seq 400); do head -c 40000 /dev/urandom > /c/f$i; done");
    build(&a, "1");
    let dest = a.text("out");
    let killed = |context: &TestContext, args: &[&str], n: u64| {
        let running = context.kiln(args).start();
        std::thread::sleep(Duration::from_millis(15 + 40 * n));
        running.signal(Signal::KILL);
        let ended = running.wait(SOON);
        assert!(ended.signal.is_some() || ended.code == Some(0), "{ended}");
    };
    let export = ["cache-mount", "export", "x", "-o", &dest];
    (0..KILLS).for_each(|n| killed(&a, &export, n));
    a.kiln(export).run().success();
    let count = blobs(Path::new(&dest)).len();
    fs::write(data(&a, None).join("f7"), "changed").expect("a file");
    (0..KILLS).for_each(|n| killed(&a, &export, n));
    a.kiln(export).run().success();
    assert!(blobs(Path::new(&dest)).len() <= count + 1, "nothing piles up");
    let b = TestContext::new();
    let import = ["cache-mount", "import", &dest];
    (0..KILLS).for_each(|n| killed(&b, &import, n));
    b.kiln(import).run().success();
    for n in 1..=400 {
        let read = |context: &TestContext| fs::read(data(context, None).join(format!("f{n}")));
        assert!(n % 40 != 7 || read(&a).ok() == read(&b).ok(), "f{n}");
    }
    let entries = |folder: PathBuf| fs::read_dir(folder).map(Iterator::count).ok();
    assert_eq!(entries(data(&b, None)), Some(400));
    assert_eq!(entries(data(&b, None).join("../..")), Some(2), "the generations of the killed are gone");
}

#[test]
fn mistakes_with_cache_mounts_are_named() {
    let context = with_cache("id=x", "echo > /c/f");
    build(&context, "1");
    let ctx = context.text("ctx");
    let kiln = |args: &[&str]| context.kiln([&["cache-mount"], args].concat()).run();
    kiln(&["export", "x"]).fails_with(2).says("--output");
    kiln(&["export", "-o", "d"]).fails_with(2).says("<ID>");
    kiln(&["export", "y", "-o", "d"]).fails_with(1).says("no cache mount `y`");
    kiln(&["export", "x", "-o", &ctx]).fails_with(1).says("has other things in it");
    assert!(context.context().join("Dockerfile").exists());
    kiln(&["import", "nowhere"]).fails_with(1).says("nowhere");
    kiln(&["import", &ctx]).fails_with(1).says("index.json");
    let dockerfile = context.context().join("Dockerfile");
    kiln(&["import", &dockerfile.to_string_lossy()]).fails_with(1).says("neither a folder of cache mounts");
    kiln(&["export", "x", "-o", "d"]).success();
    kiln(&["import", "d", "y"]).fails_with(1).says("has no cache mount `y`");
    // One byte of the only piece is another.
    let dest = context.path("d/blobs/sha256");
    for (name, _) in blobs(&context.path("d")) {
        let mut bytes = fs::read(dest.join(&name)).expect("a blob");
        bytes[8] ^= 1;
        fs::remove_file(dest.join(&name)).expect("removed");
        fs::write(dest.join(&name), bytes).expect("a blob");
    }
    TestContext::new()
        .kiln(["cache-mount", "import", &context.text("d")])
        .run()
        .fails_with(1)
        .says("damaged");
}

#[test]
fn what_a_cache_mount_holds_does_not_count_for_a_step() {
    let context = with_cache("id=x", "cat /c/f > /seen || true");
    build(&context, "1");
    fs::write(data(&context, None).join("f"), "other").expect("a file");
    let finished = context.build(["--build-arg", "N=1"]).success();
    finished.says("CACHED");
    let changed = context.image(["--build-arg", "N=2"]);
    changed.file_is("/seen", "other");
}

#[test]
fn locked_caches_lose_nothing_whoever_dies() {
    const PROCESSES: usize = 16;
    let command = "cp /c/all /tmp/all 2>/dev/null; sleep 0.1; echo $N >> /tmp/all; cp /tmp/all /c/new; mv /c/new /c/all";
    let context = with_cache("id=x,sharing=locked", command);
    build(&context, "first");
    let started: Vec<_> =
        (0..PROCESSES).map(|n| context.building(["--build-arg", &format!("N=n{n}.")]).start()).collect();
    // Every fourth dies at some moment of its own.
    for (n, running) in started.iter().enumerate().filter(|(n, _)| n % 4 == 1) {
        std::thread::sleep(Duration::from_millis(100 + 70 * n as u64));
        running.signal(Signal::KILL);
    }
    let ended: Vec<_> = started.into_iter().map(|running| running.wait(Duration::from_secs(240))).collect();
    let all = fs::read_to_string(data(&context, None).join("all")).expect("a file");
    for (n, finished) in ended.iter().enumerate() {
        assert!(finished.code == Some(0) || n % 4 == 1, "{finished}");
        let count = all.lines().filter(|line| *line == format!("n{n}.")).count();
        assert!(count == 1 || (count == 0 && finished.code.is_none()), "n{n} is there {count} times:\n{all}");
    }
    assert!(all.starts_with("first\n"), "{all}");
}

#[test]
fn a_wait_for_a_cache_names_who_has_it_and_ends_with_him() {
    let marker = unique("holder");
    let holder = with_cache("id=x,sharing=locked", &format!("sleep 300; : {marker}"));
    let running = holder.building(NONE).start();
    assert!(wait_until(SOON, || !processes_naming(&marker).is_empty()), "{}", running.stderr_so_far());
    let pid = running.pid().as_raw_nonzero();
    holder.write("Dockerfile", with_cache_of("id=x,sharing=locked", "echo mine > /c/f"));
    let waiting = holder.building(NONE).start();
    let text = format!("waiting for the cache mount x, which another build uses (process {pid})");
    assert!(wait_until(SOON, || waiting.stderr_so_far().contains(&text)), "{}", waiting.stderr_so_far());
    let refused = holder.kiln(["cache-mount", "rm", "x"]).run().fails_with(1);
    refused.says(&format!("(process {pid})"));
    running.signal(Signal::KILL);
    let at = Instant::now();
    waiting.wait(SOON).success();
    assert!(at.elapsed() < Duration::from_secs(20), "{:?}", at.elapsed());
}

fn with_cache_of(options: &str, command: &str) -> String {
    let base = super::busybox();
    format!("FROM {base}\nARG N\nRUN --mount=type=cache,target=/c,{options} {command}\n")
}

#[test]
fn shared_caches_are_used_at_once_and_private_ones_apart() {
    // Each waits for the other's file: only those who share a cache, at the same time, ever see it.
    let meet = "echo > /c/$N; i=0; until [ -e /c/a ] && [ -e /c/b ]; do sleep 0.1; i=$((i+1)); \
         [ $i -lt LIMIT ] || { echo alone > /how; exit 0; }; done; echo together > /how";
    for (sharing, limit, want) in [("shared", "600", "together\n"), ("private", "30", "alone\n")] {
        let context = with_cache(&format!("id=x,sharing={sharing}"), &meet.replace("LIMIT", limit));
        let start = |n: &str| {
            let dest = context.text(&format!("{n}.tar"));
            let output = format!("type=oci,dest={dest}");
            context.building(["--build-arg", &format!("N={n}"), "--output", &output]).start()
        };
        for running in [start("a"), start("b")] {
            running.wait(Duration::from_secs(120)).success();
        }
        for n in ["a", "b"] {
            let image = kiln_tests::ImageAssert::of_archive(&context.path(&format!("{n}.tar")));
            image.file_is("/how", want);
        }
        let forks: Vec<Option<u64>> = listed(&context).iter().map(|m| m["private"].as_u64()).collect();
        let expect: &[Option<u64>] = if sharing == "private" { &[None, Some(1)] } else { &[None] };
        assert_eq!(forks, expect, "{sharing}");
    }
}
