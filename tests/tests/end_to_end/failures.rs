//! Builds that fail: the error is the right one, nothing is left behind, and the next build works.

use super::{NONE, busybox, on_busybox};
use kiln_tests::{Invocation, TestContext, kiln_program, mounts_below, processes_naming, unique, wait_until};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(1);

#[track_caller]
fn nothing_left(context: &TestContext, marker: &str) {
    let gone = wait_until(SOON, || processes_naming(marker).is_empty());
    assert!(gone, "processes are left: {:?}", processes_naming(marker));
    assert_eq!(mounts_below(&context.path("")), Vec::<String>::new(), "mounts are left");
}

#[test]
fn a_run_that_fails_shows_its_output_and_its_exit_code() {
    let context = on_busybox("FROM @\nRUN echo before\nRUN echo told you; echo and this >&2; exit 42\n");
    let finished = context.build(NONE).fails_with(1);
    finished.says("told you").says("and this").says("42").says("exit 42");
}

#[test]
fn the_first_failure_stops_the_build_and_is_the_one_that_is_shown() {
    let marker = unique("slow");
    let context = on_busybox(&format!(
        "FROM @ AS bad\nRUN sleep 0.2; echo the real reason; exit 9\n\
         FROM @ AS slow\nRUN : {marker}; sleep 60 # {marker}\n\
         FROM scratch\nCOPY --from=slow /x /\nCOPY --from=bad /y /\n"
    ));
    let finished = context.build(["--jobs", "4"]).fails_with(1).says("the real reason");
    assert!(finished.took < Duration::from_secs(10), "it waited for the other stage: {finished}");
    let error = finished.stderr.rfind("exit code: 9").or_else(|| finished.stderr.rfind("exit code 9"));
    let error = error.or_else(|| finished.stderr.rfind(" 9"));
    assert!(error.is_some(), "{finished}");
    nothing_left(&context, &marker);
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let context = on_busybox("FROM @\nRUN [\"/no/such/program\"]\n");
    context.build(NONE).fails_with(1).says("/no/such/program");
}

#[test]
fn a_user_that_is_not_there_is_named() {
    let context = on_busybox("FROM @\nUSER ghost\nRUN true\n");
    context.build(NONE).fails_with(1).says("ghost");
}

#[test]
fn a_run_that_a_signal_ends_has_failed() {
    let context = on_busybox("FROM @\nRUN sh -c 'kill -KILL $$'; exit $?\n");
    context.build(NONE).fails_with(1).says("137");
}

#[test]
fn a_run_that_is_killed_from_outside_has_failed() {
    let marker = unique("killed");
    let context = on_busybox(&format!("FROM @\nRUN exec sh -c 'sleep 60; : {marker}'\n"));
    let running = context.building(NONE).start();
    let found = || processes_naming(&marker).into_iter().find(|line| line.contains("sh -c sleep 60"));
    assert!(wait_until(Duration::from_secs(20), || found().is_some()), "{}", running.stderr_so_far());
    let pid = found().and_then(|line| line.split(':').next()?.parse().ok()).expect("a process");
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it can be killed");
    let finished = running.wait(Duration::from_secs(10)).fails_with(1);
    finished.says_one_of(&["137", "signal", "killed"]);
    nothing_left(&context, &marker);
}

#[test]
fn what_a_run_leaves_in_the_background_ends_with_it() {
    let marker = unique("background");
    let context = on_busybox(&format!(
        "FROM @\nRUN (exec sh -c 'sleep 300; : {marker}') & (setsid nohup sh -c 'sleep 300; : {marker}' > /log 2>&1 &) ; echo done > /done\n"
    ));
    let (image, log) = context.image_and_log(NONE);
    image.file_is("/done", "done\n");
    assert!(log.took < Duration::from_secs(20), "it waited for a process in the background: {log}");
    nothing_left(&context, &marker);
}

#[test]
fn a_failed_build_does_not_spoil_the_next_one() {
    let context = on_busybox("FROM @\nRUN echo 1 > /one\nRUN echo half > /half; exit 1\n");
    context.build(NONE).fails_with(1);
    context.write("Dockerfile", format!("FROM {}\nRUN echo 1 > /one\nRUN echo 2 > /two\n", busybox()));
    let (image, log) = context.image_and_log(NONE);
    image.file_is("/one", "1\n").file_is("/two", "2\n").lacks("/half");
    log.says("CACHED");
    assert_eq!(mounts_below(&context.path("")), Vec::<String>::new());
}

#[test]
fn a_name_is_only_given_to_an_image_that_was_built() {
    let context = on_busybox("FROM @\nRUN exit 1\n");
    context.build(["-t", "app:1"]).fails_with(1);
    let listed = context.kiln(["images"]).run().success().stdout_text();
    assert!(!listed.contains("app"), "{listed}");
}

/// The store on a file system of 64 MiB, mounted where only the builds see it.
#[test]
fn a_full_disk_is_told_and_its_space_is_given_back() {
    let context = on_busybox("FROM @\nRUN dd if=/dev/zero of=/big bs=1M count=200\n");
    let small = context.text("small");
    std::fs::create_dir_all(&small).expect("a folder");
    context.write_beside("next/Dockerfile", format!("FROM {}\nRUN echo small > /small\n", busybox()));
    let script = r#"
        mount -t tmpfs -o size=64m small "$SMALL"
        "$KILN" --root "$SMALL/store" build --progress=plain -t big:1 "$BIG" && exit 90
        echo "first: $?"
        "$KILN" --root "$SMALL/store" images | grep -q big && exit 91
        "$KILN" --root "$SMALL/store" build --progress=plain -t next:1 -o "type=oci,dest=$OUT" "$NEXT" || exit 92
        used=$(df -k "$SMALL" | awk 'NR == 2 { print $3 }')
        [ "$used" -lt 30000 ] || { echo "still $used KiB in use"; exit 93; }
        grep -c "$SMALL/" /proc/self/mountinfo && exit 94
        umount "$SMALL"
    "#;
    let finished = Invocation::new("unshare")
        .args(["-m", "sh", "-c", script])
        .env("KILN", kiln_program())
        .env("SMALL", &small)
        .env("BIG", context.context())
        .env("NEXT", context.path("next"))
        .env("OUT", context.path("image.tar"))
        .env("HOME", context.path("home"))
        .run()
        .success();
    assert!(finished.stdout_text().contains("first: 1"), "{finished}");
    finished.says_one_of(&["no space left", "full"]);
    kiln_tests::ImageAssert::of_archive(&context.path("image.tar")).file_is("/small", "small\n");
}

#[test]
fn a_store_that_can_not_be_made_is_named() {
    let context = TestContext::with_dockerfile("FROM scratch\nLABEL a=b\n");
    let folder = context.text("ctx");
    let finished = context.kiln(["--root", "/proc/no-store", "build", "--progress=plain", &folder]).run();
    assert!(matches!(finished.code, Some(1 | 2)), "{finished}");
    finished.says("/proc/no-store").does_not_say("panicked");
}
