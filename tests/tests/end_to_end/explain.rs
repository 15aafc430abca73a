//! Why steps ran or did not: `--explain`, `kiln explain`, `--report`, `--dry-run`. The lines are claimed word for word,
//! but for times, digests and the name of the base.

use super::{NONE, on_busybox};
use kiln_tests::{BaseImage, Finished, LayerEntry, Registry, TestContext};
use serde_json::Value;

/// What an explanation says, a step or reason for each line.
fn lines_of(text: &str) -> Vec<String> {
    let begins =
        |line: &&str| line.starts_with("explained: build ") || line.starts_with("what would be done:");
    let all = text.lines().skip_while(|line| !begins(line)).skip(1);
    all.take_while(|line| line.starts_with('[') || line.starts_with("    ")).map(plain).collect()
}

/// A line without what differs from run to run.
fn plain(line: &str) -> String {
    let mut line = line.to_owned();
    if let Some(at) = line.find(" FROM ")
        && !line.starts_with("    ")
        && let Some(end) = line.rfind(": ")
    {
        line.replace_range(at + 6..end, "@");
    }
    for word in [", made ", "pulled "] {
        if let Some(at) = line.find(word)
            && line[at + word.len()..].starts_with(|c: char| c.is_ascii_digit())
        {
            line.truncate(at + word.trim_end().trim_end_matches(", made").len());
        }
    }
    match line.rsplit_once(", ") {
        Some((before, last)) if last.ends_with('s') && last[..1].parse::<u8>().is_ok() => before.to_owned(),
        _ => line,
    }
}

#[track_caller]
fn explains(finished: &Finished, expect: &[&str]) {
    assert_eq!(lines_of(&finished.stderr), expect, "{finished}");
}

fn explained(context: &TestContext, args: &[&str], expect: &[&str]) -> Finished {
    let finished = context.build([&["--explain"], args].concat()).success();
    explains(&finished, expect);
    finished
}

const FOUR: &str =
    "FROM @\nARG VERSION=1\nCOPY src/ /src/\nRUN wc -c /src/* > /made\nRUN cat /made > /last\n";

fn four() -> TestContext {
    let context = on_busybox(FOUR);
    context.write("src/a.rs", "a").write("src/b.rs", "b").chmod("src/a.rs", 0o644).chmod("src/b.rs", 0o644);
    context
}

fn rewrite(context: &TestContext, text: &str) {
    context.write("Dockerfile", text.replace('@', &super::busybox()));
}

#[test]
fn the_first_build_and_one_without_a_change() {
    let context = four();
    explained(
        &context,
        &[],
        &[
            "[1/4] FROM @: pulled",
            "[2/4] COPY src/ /src/: miss",
            "    never built here before",
            "[3/4] RUN wc -c /src/* > /made: miss",
            "    never built here before",
            "[4/4] RUN cat /made > /last: miss",
            "    never built here before",
        ],
    );
    explained(
        &context,
        &[],
        &[
            "[1/4] FROM @: known, nothing pulled",
            "[2/4] COPY src/ /src/: hit",
            "[3/4] RUN wc -c /src/* > /made: hit",
            "[4/4] RUN cat /made > /last: hit",
        ],
    );
}

#[test]
fn files_that_changed_are_named() {
    let context = four();
    context.build(NONE).success();
    let after = [
        "[3/4] RUN wc -c /src/* > /made: miss",
        "    after step [2/4] COPY src/ /src/, which ran again",
        "[4/4] RUN cat /made > /last: miss",
        "    after step [3/4] RUN wc -c /src/* > /made, which ran again",
    ];
    let copied = |reason: &str, after: &[&str]| {
        let reason = format!("    COPY src/: {reason}");
        let head = ["[1/4] FROM @: known, nothing pulled", "[2/4] COPY src/ /src/: miss", &reason];
        explained(&context, &[], &[&head, after].concat());
    };
    context.write("src/a.rs", "changed");
    copied("src/a.rs changed", &after);
    // What the first RUN makes is the same: the second is known by its content.
    let same = [
        "[3/4] RUN wc -c /src/* > /made: miss",
        "    after step [2/4] COPY src/ /src/, which ran again",
        "[4/4] RUN cat /made > /last: hit, the same files were there before",
    ];
    context.chmod("src/a.rs", 0o755);
    let cut_off = &same[..2];
    let reason = "    COPY src/: src/a.rs mode 0644 → 0755";
    let finished = context.build(["--explain"]).success();
    let lines = lines_of(&finished.stderr);
    assert_eq!(lines[1..5], [&["[2/4] COPY src/ /src/: miss", reason], cut_off].concat(), "{finished}");
    std::fs::remove_file(context.context().join("src/b.rs")).expect("its own file");
    context.write("src/c.rs", "c").chmod("src/c.rs", 0o644).link("src/link", "a.rs");
    copied("src/b.rs removed, src/c.rs added, src/link added", &after);
    for n in 0..9 {
        context.write(&format!("src/n{n}"), "n");
    }
    copied("src/n0 added, src/n1 added, src/n2 added and 6 more", &after);
}

#[test]
fn arguments_variables_and_settings_that_changed_are_named() {
    let text = "FROM @\nARG VERSION=1\nENV MODE=slow\nWORKDIR /one\nUSER app\nRUN echo $VERSION $MODE\n";
    let context = on_busybox(text);
    context.build(NONE).success();
    let check = |args: &[&str], workdir: &[&str], reasons: &[&str]| {
        let mut expect = vec!["[1/3] FROM @: known, nothing pulled".to_owned()];
        expect.extend(workdir.iter().map(|line| (*line).to_owned()));
        let finished = context.build([&["--explain"], args].concat()).success();
        let lines = lines_of(&finished.stderr);
        assert_eq!(lines[..expect.len()], expect, "{finished}");
        assert!(lines[expect.len()].starts_with("[3/3] RUN "), "{finished}");
        assert_eq!(lines[expect.len() + 1..], *reasons, "{finished}");
    };
    let one = ["[2/3] WORKDIR /one: hit"];
    check(&["--build-arg", "VERSION=2"], &one, &["    RUN: ARG VERSION 1 → 2"]);
    rewrite(&context, &text.replace("slow", "fast").replace("=1", "=2"));
    check(&[], &one, &["    RUN: ENV MODE slow → fast"]);
    rewrite(&context, &text.replace("slow", "fast").replace("=1", "=2").replace("app", "nobody"));
    check(&[], &one, &["    RUN: user app → nobody"]);
    let text = text.replace("slow", "fast").replace("=1", "=2").replace("app", "nobody");
    rewrite(&context, &text.replace("RUN", "RUN --network=none"));
    check(&[], &one, &["    RUN: network default → none"]);
    rewrite(&context, &text.replace("one", "two"));
    check(
        &[],
        &["[2/3] WORKDIR /two: miss", "    WORKDIR: path /one → /two"],
        &[
            "    RUN: network none → default",
            "    RUN: workdir /one → /two",
            "    after step [2/3] WORKDIR /two, which ran again",
        ],
    );
}

#[test]
fn a_command_that_changed_is_shown_and_a_new_step_blames_nobody() {
    let context = on_busybox("FROM @\nRUN echo one > /one\nRUN echo two > /two\n");
    context.build(NONE).success();
    rewrite(&context, "FROM @\nRUN echo 1 > /one\nRUN echo two > /two\n");
    explained(
        &context,
        &[],
        &[
            "[1/3] FROM @: known, nothing pulled",
            "[2/3] RUN echo 1 > /one: miss",
            "    RUN: command changed: `echo one > /one` → `echo 1 > /one`",
            "[3/3] RUN echo two > /two: miss",
            "    after step [2/3] RUN echo 1 > /one, which ran again",
        ],
    );
    rewrite(&context, "FROM @\nRUN echo 1 > /one\nRUN echo new > /new\nRUN echo two > /two\n");
    explained(
        &context,
        &[],
        &[
            "[1/4] FROM @: known, nothing pulled",
            "[2/4] RUN echo 1 > /one: hit",
            "[3/4] RUN echo new > /new: miss",
            "    never built here before",
            "[4/4] RUN echo two > /two: miss",
            "    after step [3/4] RUN echo new > /new, which is new",
        ],
    );
}

#[test]
fn a_tag_that_moved_is_told_with_both_digests() {
    let registry = Registry::shared();
    let marked = |text: &str| {
        let file = LayerEntry::File("mark", 0o644, text.into());
        BaseImage::busybox().with_layer(&[file]).push(registry, "explain-moved", "1")
    };
    let old = marked("old");
    let context = TestContext::with_dockerfile(&format!(
        "FROM {}\nRUN echo x > /x\n",
        registry.reference("explain-moved:1")
    ));
    context.build(NONE).success();
    let new = marked("new");
    let finished = context.build(["--explain", "--pull"]).success();
    let digits = |digest: kiln_oci::Digest| digest.to_string()[.."sha256:".len() + 12].to_owned();
    let moved = format!("    base image: tag moved ({} → {})", digits(old), digits(new));
    explains(&finished, &["[1/2] FROM @: pulled", "[2/2] RUN echo x > /x: miss", &moved]);
}

#[test]
fn no_cache_and_layers_that_are_gone_are_told() {
    let context = on_busybox("FROM @\nRUN cat /proc/sys/kernel/random/uuid > /x\n");
    context.build(NONE).success();
    let told = |args: &[&str], reason: &str| {
        let step = "[2/2] RUN cat /proc/sys/kernel/random/uuid > /x: miss";
        explained(&context, args, &["[1/2] FROM @: known, nothing pulled", step, &format!("    {reason}")]);
    };
    told(&["--no-cache"], "--no-cache");
    // All but the base, which is the only one that has a file bin/busybox.
    for entry in std::fs::read_dir(context.store().join("snapshots")).expect("snapshots").flatten() {
        if entry.path().join("index").exists() && !entry.path().join("fs/bin/busybox").exists() {
            std::fs::remove_dir_all(entry.path()).expect("its own store");
        }
    }
    told(&[], "the record is there, but its layers were removed (pruned)");
    explained(
        &context,
        &[],
        &["[1/2] FROM @: known, nothing pulled", "[2/2] RUN cat /proc/sys/kernel/random/uuid > /x: hit"],
    );
}

#[test]
fn stages_that_are_not_needed_and_files_of_stages_are_told() {
    let text = "FROM @ AS make\nCOPY in /in\nRUN head -c 1 /in > /out\nFROM @\nCOPY --from=make /out /\n";
    let context = on_busybox(text);
    context.write("in", "one");
    context.build(NONE).success();
    let base = "[make 1/3] FROM @: known, nothing pulled";
    explained(
        &context,
        &[],
        &[
            base,
            "[make 2/3] COPY in /in: not needed, what is made of it is known",
            "[make 3/3] RUN head -c 1 /in > /out: not needed, what is made of it is known",
            "[stage-1 2/2] COPY --from=make /out /: hit",
        ],
    );
    let ran = |reason: &'static str| {
        [
            "[make 2/3] COPY in /in: miss",
            reason,
            "[make 3/3] RUN head -c 1 /in > /out: miss",
            "    after step [make 2/3] COPY in /in, which ran again",
        ]
    };
    context.write("in", "other");
    explained(
        &context,
        &[],
        &[
            &[base],
            &ran("    COPY in: in changed")[..],
            &["[stage-1 2/2] COPY --from=make /out /: hit, the same files were there before"],
        ]
        .concat(),
    );
    context.write("in", "two");
    explained(
        &context,
        &[],
        &[
            &[base],
            &ran("    COPY in: in changed")[..],
            &[
                "[stage-1 2/2] COPY --from=make /out /: miss",
                "    COPY --from=make /out: out changed",
                "    after step [make 3/3] RUN head -c 1 /in > /out, which ran again",
            ],
        ]
        .concat(),
    );
}

#[test]
fn an_earlier_build_is_explained_again_and_a_failed_one_too() {
    let context = four();
    context.kiln(["explain"]).run().fails_with(2).says("nothing was built");
    context.build(NONE).success();
    context.write("src/a.rs", "changed");
    let said = lines_of(&context.build(["--explain"]).success().stderr);
    rewrite(&context, "FROM @\nRUN echo fine > /fine\nRUN echo bad; exit 7\nRUN echo never\n");
    let failed = context.build(["--explain"]).fails_with(1);
    let expect = [
        "[1/4] FROM @: known, nothing pulled",
        "[2/4] RUN echo fine > /fine: miss",
        "[3/4] RUN echo bad; exit 7: failed",
        "[4/4] RUN echo never: not reached",
    ];
    let lines = lines_of(&failed.stderr);
    let steps: Vec<&String> = lines.iter().filter(|line| line.starts_with('[')).collect();
    assert_eq!(steps, expect, "{failed}");
    let last = context.kiln(["explain"]).run().success();
    assert_eq!(lines_of(&last.stdout_text()), lines, "{last}");
    assert!(last.stdout_text().contains("it failed: "), "{last}");
    let listed = context.kiln(["explain", "ls"]).run().success().stdout_text();
    let ids: Vec<&str> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(ids.len(), 3, "{listed}");
    assert!(ids.is_sorted_by(|a, b| a > b), "the newest is first: {listed}");
    let second = context.kiln(["explain", ids[1]]).run().success();
    assert_eq!(lines_of(&second.stdout_text()), said, "{second}");
    context.kiln(["explain", "000000000"]).run().fails_with(2).says("kiln explain ls");
}

#[test]
fn a_report_has_all_of_it_as_json() {
    let context = four();
    context.build(NONE).success();
    context.write("src/a.rs", "changed");
    let file = context.text("report.json");
    context.build(["--report", &file, "-t", "app:1"]).success();
    let read = |file: &str| -> Value {
        let bytes = std::fs::read(file).expect("a report");
        serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{e}"))
    };
    let report = read(&file);
    assert_eq!(
        (&report["schema"], &report["status"], &report["dry_run"]),
        (&1.into(), &"done".into(), &false.into())
    );
    let steps = report["steps"].as_array().expect("steps");
    let outcomes: Vec<&str> = steps.iter().filter_map(|step| step["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["here", "ran", "ran", "ran"], "{report}");
    let file_reason = serde_json::json!({"kind": "file", "change": "changed", "path": "src/a.rs"});
    assert_eq!(steps[1]["reasons"], serde_json::json!([file_reason]), "{report}");
    assert_eq!(steps[2]["reasons"][0]["kind"], "after", "{report}");
    assert_eq!(steps[1]["lines"], serde_json::json!([[3, 3]]), "{report}");
    assert!(
        steps[1]["layer_bytes"].as_u64() > Some(1000) && steps[1]["seconds"].as_f64() > Some(0.0),
        "{report}"
    );
    assert_eq!((&report["totals"]["misses"], &report["totals"]["hits"]), (&3.into(), &0.into()), "{report}");
    assert!(report["result"].as_str().is_some_and(|id| id.starts_with("sha256:")), "{report}");
    let printed = context.build(["--report", "-", "--explain"]).success();
    let report: Value = serde_json::from_slice(&printed.stdout).unwrap_or_else(|e| panic!("{e}: {printed}"));
    assert_eq!(report["steps"][3]["origin"], "chain", "{report}");
    assert_eq!(context.kiln(["explain", "--format=json"]).run().success().stdout, printed.stdout);
    // What fails before there is a step is reported too.
    context.write("Dockerfile", "FROM scratch\nCOPPY a b\n");
    context.build(["--report", &file]).fails_with(2);
    assert_eq!(read(&file)["status"], "failed");
    assert!(read(&file)["error"].as_str().is_some_and(|text| text.contains("COPPY")), "{}", read(&file));
    context.build(["--report", "-", "-o", "type=tar,dest=-"]).fails_with(2).says("--report -");
}

#[test]
fn what_may_be_a_credential_is_nowhere_kept() {
    let context = on_busybox("FROM @\nARG API_TOKEN\nRUN echo $API_TOKEN | wc -c > /x\n");
    let build =
        |token: &str| context.build(["--explain", "--build-arg", &format!("API_TOKEN={token}")]).success();
    build("swordfish-one");
    let second = build("swordfish-two").says("RUN: ARG API_TOKEN changed (its values are not kept)");
    let (_, explanation) = second.stderr.split_once("explained: build").unwrap_or_default();
    assert!(!explanation.contains("swordfish"), "{second}");
    let mut folders = vec![context.store().join("builds")];
    let mut files = vec![context.store().join("meta.db"), context.store().join("meta.db-wal")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            if entry.path().is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    for file in files.iter().filter(|file| file.exists()) {
        let bytes = std::fs::read(file).expect("a file of the store");
        assert!(!String::from_utf8_lossy(&bytes).contains("swordfish-two"), "{}", file.display());
    }
}

#[test]
fn a_dry_run_says_what_would_run_and_makes_nothing() {
    let context = four();
    let snapshots = || std::fs::read_dir(context.store().join("snapshots")).map_or(0, Iterator::count);
    let dry = |expect: &[&str]| {
        let before =
            (snapshots(), std::fs::read_dir(context.store().join("builds")).map_or(0, Iterator::count));
        let finished = context.build(["--dry-run", "-t", "dry:1"]).success();
        explains(&finished, expect);
        let now = (snapshots(), std::fs::read_dir(context.store().join("builds")).map_or(0, Iterator::count));
        if before.0 > 0 {
            assert_eq!(now, before, "nothing is made: {finished}");
        }
        context.kiln(["inspect", "dry:1"]).run().fails_with(1);
    };
    let unless = [
        "[3/4] RUN wc -c /src/* > /made: might run",
        "    after step [2/4] COPY src/ /src/, unless that makes what it made before",
        "[4/4] RUN cat /made > /last: might run",
        "    after step [3/4] RUN wc -c /src/* > /made, unless that makes what it made before",
    ];
    let finished = context.build(["--dry-run"]).success();
    let lines = lines_of(&finished.stderr);
    assert_eq!(
        lines[..2],
        ["[1/4] FROM @: would be pulled", "[2/4] COPY src/ /src/: would run"],
        "{finished}"
    );
    context.build(NONE).success();
    dry(&[
        "[1/4] FROM @: known, nothing pulled",
        "[2/4] COPY src/ /src/: hit",
        "[3/4] RUN wc -c /src/* > /made: hit",
        "[4/4] RUN cat /made > /last: hit",
    ]);
    context.write("src/a.rs", "changed");
    let head = [
        "[1/4] FROM @: known, nothing pulled",
        "[2/4] COPY src/ /src/: would run",
        "    COPY src/: src/a.rs changed",
    ];
    dry(&[&head[..], &unless].concat());
    // It has changed nothing: the same again, and then the build does it.
    dry(&[&head[..], &unless].concat());
    let printed = context.build(["--dry-run", "--report=-"]).success();
    let report: Value = serde_json::from_slice(&printed.stdout).unwrap_or_else(|e| panic!("{e}: {printed}"));
    let outcomes: Vec<&Value> =
        report["steps"].as_array().into_iter().flatten().map(|s| &s["outcome"]).collect();
    assert_eq!(outcomes, ["here", "would-run", "might-run", "might-run"], "{report}");
    context.build(["--explain"]).success().says("COPY src/: src/a.rs changed");
}

#[test]
fn linked_copies_and_mounted_files_are_told_of_too() {
    let text = "FROM @\nCOPY --link a /a\nRUN --mount=type=bind,target=/here cat /here/b > /b\n";
    let context = on_busybox(text);
    context.write("a", "1").write("b", "1");
    context.build(NONE).success();
    context.write("a", "2");
    explained(
        &context,
        &[],
        &[
            "[stage-0 1/3] FROM @: known, nothing pulled",
            "[stage-0 2/3] COPY --link a /a: miss",
            "    COPY --link a: a changed",
            "[stage-0 3/3] RUN --mount=type=bind,target=/here cat /here/b > /b: miss",
            "    after step [stage-0 2/3] COPY --link a /a, which ran again",
            "    RUN: a changed",
        ],
    );
    context.write("b", "2");
    explained(
        &context,
        &[],
        &[
            "[stage-0 1/3] FROM @: known, nothing pulled",
            "[stage-0 2/3] COPY --link a /a: hit",
            "[stage-0 3/3] RUN --mount=type=bind,target=/here cat /here/b > /b: miss",
            "    RUN: b changed",
        ],
    );
}

#[test]
fn the_same_dockerfile_in_another_folder_is_compared_with_the_first() {
    let context = four();
    context.build(NONE).success();
    let other = context.path("other");
    std::fs::create_dir_all(other.join("src")).expect("a folder");
    for name in ["Dockerfile", "src/a.rs", "src/b.rs"] {
        std::fs::copy(context.context().join(name), other.join(name)).expect("a copy");
    }
    std::fs::write(other.join("src/b.rs"), "changed").expect("its own file");
    let finished = context.kiln(["build", "--explain", "other"]).run().success();
    let lines = lines_of(&finished.stderr);
    assert_eq!(lines[1..3], ["[2/4] COPY src/ /src/: miss", "    COPY src/: src/b.rs changed"], "{finished}");
}

#[test]
fn a_step_that_another_process_did_meanwhile_is_told_as_such() {
    let context = on_busybox("FROM @\nRUN echo begun; sleep 1.5\n");
    let first = context.building(NONE).start();
    let started = std::time::Instant::now();
    while !first.stderr_so_far().contains(" begun") && started.elapsed().as_secs() < 20 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let second = context.build(["--explain"]).success();
    let first = first.wait(kiln_tests::TIME_LIMIT).success();
    first.does_not_say("CACHED");
    explains(
        &second,
        &[
            "[1/2] FROM @: known, nothing pulled",
            "[2/2] RUN echo begun; sleep 1.5: hit, another process has just done it",
        ],
    );
}

#[test]
fn builds_of_other_targets_do_not_make_a_step_forget_its_earlier_self() {
    let text = "FROM @ AS one\nCOPY in /in\nFROM @ AS two\nRUN echo 2 > /two\n";
    let context = on_busybox(text);
    context.write("in", "1");
    context.build(["--target=one"]).success();
    context.build(["--target=two"]).success();
    context.write("in", "2");
    explained(
        &context,
        &["--target=one"],
        &[
            "[one 1/2] FROM @: known, nothing pulled",
            "[one 2/2] COPY in /in: miss",
            "    COPY in: in changed",
        ],
    );
}
