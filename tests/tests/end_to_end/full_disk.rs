//! Builds in a store on a disk that is too small: what can be made anew goes, and it is tried once more. The disk is
//! a file system in memory, mounted where only the script sees it: it ends with the script.

use super::{busybox, on_busybox};
use kiln_tests::{Finished, Invocation, Registry, TestContext, kiln_program};

/// Builds what is left in the cache only: 35 MB on a disk of 64 MiB.
const OLD: &str = "RUN head -c 35000000 /dev/urandom > /old\n";

/// Runs a script that has a store on a disk of 64 MiB, `OLD` built in it and the image `kept:1` named. `k` is
/// kiln with this store, `$CTX` the context's folder.
fn on_a_small_disk(context: &TestContext, script: &str) -> Finished {
    let small = context.text("small");
    std::fs::create_dir_all(&small).expect("a folder");
    context.write_beside("old/Dockerfile", format!("FROM {}\n{OLD}", busybox()));
    context.write_beside("kept/Dockerfile", format!("FROM {}\nRUN echo kept > /kept\n", busybox()));
    let before = r#"
        mount -t tmpfs -o size=64m small "$SMALL" || exit 80
        k() { command=$1; shift; "$KILN" --root "$SMALL/store" "$command" "$@"; }
        b() { folder=$1; shift; k build --progress=plain "$@" "$folder"; }
        b "$KEPT" -t kept:1 || exit 81
        b "$OLD" -o type=cacheonly || exit 82
        echo "--- begin" >&2
    "#;
    Invocation::new("unshare")
        .args(["-m", "sh", "-c", &format!("{before}{script}")])
        .env("KILN", kiln_program())
        .env("SMALL", &small)
        .env("CTX", context.context())
        .env("OLD", context.path("old"))
        .env("KEPT", context.path("kept"))
        .env("HOME", context.path("home"))
        .run()
}

/// What was said after the disk was made ready.
fn said(finished: &Finished) -> String {
    let all = &finished.stderr;
    all.split_once("--- begin").map_or_else(String::new, |(_, rest)| rest.to_owned())
}

#[test]
fn a_build_on_a_full_disk_removes_what_is_least_worth_and_goes_on() {
    let context = on_busybox("FROM @\nCOPY big /big\n");
    context.write("big", vec![7u8; 30_000_000]);
    let finished = on_a_small_disk(
        &context,
        r#"
        b "$CTX" -t new:1 || exit 90
        b "$CTX" -t new:1 2>&1 | grep -q CACHED || exit 91
        b "$KEPT" -t kept:1 2>&1 | grep -q CACHED || exit 92
        k du -v | grep -q /old && exit 93
        k fsck --full || exit 94
    "#,
    );
    finished.success();
}

#[test]
fn a_run_that_filled_the_disk_is_run_again_after_room_was_made() {
    let context = on_busybox(
        "FROM @\nRUN echo att\"\"empt; test ! -e /half && touch /half && head -c 30000000 /dev/urandom > /new\n",
    );
    let finished = on_a_small_disk(
        &context,
        r#"
        b "$CTX" -t new:1 || exit 90
        b "$CTX" -t new:1 2>&1 | grep -q CACHED || exit 91
        k du -v | grep -q /old && exit 92
        k fsck --full || exit 93
    "#,
    )
    .success();
    let said = said(&finished);
    assert_eq!(said.matches("attempt").count(), 2, "{said}");
    assert_eq!(said.matches("WARNING: this step failed while").count(), 1, "{said}");
}

#[test]
fn a_run_that_fails_for_another_reason_is_not_run_again() {
    let context = on_busybox("FROM @\nRUN echo att\"\"empt; exit 7\n");
    let finished = on_a_small_disk(
        &context,
        r#"
        b "$CTX" -t new:1 && exit 90
        b "$OLD" -o type=cacheonly 2>&1 | grep -q CACHED || exit 91
    "#,
    )
    .success();
    let said = said(&finished);
    assert!(!said.contains("once more") && !said.contains("the disk of the store"), "{said}");
    assert!(said.contains("exit code: 7"), "{said}");
}

#[test]
fn a_disk_that_stays_full_is_told_with_figures() {
    let context = on_busybox("FROM @\nRUN echo att\"\"empt; head -c 90000000 /dev/urandom > /new\n");
    context.write("copy/big", vec![7u8; 90_000_000]);
    context.write("copy/Dockerfile", "FROM scratch\nCOPY big /big\n");
    let finished = on_a_small_disk(
        &context,
        r#"
        b "$CTX" && exit 90
        echo "--- copy" >&2
        b "$CTX/copy" && exit 91
        k images | grep -q kept || exit 92
        used=$(df -k "$SMALL" | awk 'NR == 2 { print $3 }')
        [ "$used" -lt 30000 ] || { echo "still $used KiB in use"; exit 93; }
    "#,
    )
    .success();
    let said = said(&finished);
    let (run, copy) = said.split_once("--- copy").expect("both were built");
    for told in [run, copy] {
        for word in ["the disk of the store", "of 67.1MB are free", "the store takes", "kiln prune", "--root"]
        {
            assert!(told.contains(word), "{word}: {told}");
        }
    }
}

#[test]
fn push_keeps_the_store_under_its_cap() {
    let registry = Registry::start();
    let context = on_busybox(OLD.replacen("RUN", "FROM @\nRUN", 1).as_str());
    context.build(["-o", "type=cacheonly"]).success();
    context.write("Dockerfile", format!("FROM {}\nRUN head -c 30000000 /dev/urandom > /pushed\n", busybox()));
    let name = registry.reference("tests/capped:1");
    context.build(["-t", &name]).success();
    // Both fit, but not together with the blob that the push makes.
    context.kiln(["push", "--store-max", "85MB", &name]).run().success();
    let shown = context.kiln(["du", "-v"]).run().success().stdout_text();
    assert!(shown.contains("/pushed") && !shown.contains("/old"), "{shown}");
}

#[test]
fn an_archive_that_has_no_room_is_named_and_nothing_is_left_of_it() {
    let context = on_busybox("FROM @\nRUN head -c 9000000 /dev/urandom > /big\n");
    let finished = on_a_small_disk(
        &context,
        r#"
        mkdir "$SMALL/out" && mount -t tmpfs -o size=4m out "$SMALL/out" || exit 90
        for type in oci tar docker; do
            b "$CTX" -o "type=$type,dest=$SMALL/out/image.$type" && exit 91
            [ -z "$(ls -A "$SMALL/out")" ] || { ls -la "$SMALL/out"; exit 92; }
        done
        b "$CTX" -o "type=local,dest=$SMALL/out/folder" && exit 94
        [ -z "$(ls -A "$SMALL/out")" ] || { ls -la "$SMALL/out"; exit 95; }
        b "$OLD" -o type=cacheonly 2>&1 | grep -q CACHED || exit 93
    "#,
    )
    .success();
    let said = said(&finished);
    for kind in ["oci", "tar", "docker"] {
        let file = format!("small/out/image.{kind}");
        let is_named = |line: &str| line.contains(&file) && line.contains("No space left");
        assert!(said.lines().any(|line| line.starts_with("ERROR") && is_named(line)), "{kind}: {said}");
    }
}
