//! What runs again and what does not: a RUN that writes a random number tells whether it ran.

use super::{NONE, on_busybox};
use std::time::Duration;

const RANDOM: &str = "cat /proc/sys/kernel/random/uuid";

#[test]
fn a_build_without_a_change_runs_nothing() {
    let context =
        on_busybox(&format!("FROM @\nCOPY in.txt /\nRUN {RANDOM} > /random\nRUN {RANDOM} > /second\n"));
    context.write("in.txt", "in");
    let first = context.image(NONE);
    let (second, log) = context.image_and_log(NONE);
    assert_eq!(first.file("/random"), second.file("/random"));
    assert_eq!(first.digest, second.digest, "the same build is the same image");
    assert!(log.stderr.matches("CACHED").count() >= 3, "{log}");
}

#[test]
fn a_file_that_is_touched_but_not_changed_keeps_the_cache() {
    let context = on_busybox(&format!("FROM @\nCOPY in.txt /\nRUN {RANDOM} > /random\n"));
    context.write("in.txt", "in");
    let first = context.image(NONE);
    std::thread::sleep(Duration::from_millis(20));
    context.write("in.txt", "in");
    assert_eq!(first.file("/random"), context.image(NONE).file("/random"));
}

#[test]
fn a_file_that_changed_runs_what_follows_and_only_that() {
    let context =
        on_busybox(&format!("FROM @\nRUN {RANDOM} > /before\nCOPY in.txt /\nRUN {RANDOM} > /after\n"));
    context.write("in.txt", "one");
    let first = context.image(NONE);
    // Same length, and perhaps the same clock tick: content is what counts.
    context.write("in.txt", "two");
    let second = context.image(NONE);
    second.file_is("/in.txt", "two");
    assert_eq!(first.file("/before"), second.file("/before"));
    assert_ne!(first.file("/after"), second.file("/after"));
}

#[test]
fn a_mode_that_changed_is_a_change() {
    let context = on_busybox(&format!("FROM @\nCOPY in.txt /\nRUN {RANDOM} > /after\n"));
    context.write("in.txt", "one").chmod("in.txt", 0o644);
    let first = context.image(NONE);
    context.chmod("in.txt", 0o755);
    let second = context.image(NONE);
    second.is("/in.txt", 0o755, (0, 0));
    assert_ne!(first.file("/after"), second.file("/after"));
}

#[test]
fn a_file_that_the_build_does_not_read_changes_nothing() {
    let context = on_busybox(&format!("FROM @\nCOPY in.txt /\nRUN {RANDOM} > /random\n"));
    context.write("in.txt", "in").write("other.txt", "1");
    let first = context.image(NONE);
    context.write("other.txt", "2").write("new.txt", "3");
    assert_eq!(first.file("/random"), context.image(NONE).file("/random"));
}

#[test]
fn a_build_argument_counts_where_it_is_declared() {
    let context = on_busybox(&format!("FROM @\nRUN {RANDOM} > /before\nARG V=1\nRUN {RANDOM} > /after\n"));
    let first = context.image(NONE);
    let other = context.image(["--build-arg", "V=2"]);
    assert_eq!(first.file("/before"), other.file("/before"));
    assert_ne!(first.file("/after"), other.file("/after"));
    assert_eq!(first.file("/after"), context.image(["--build-arg", "V=1"]).file("/after"));
}

/// Early cut-off: what a step made is looked at, not that it ran.
#[test]
fn a_step_that_ran_again_and_gave_the_same_keeps_what_follows() {
    let context = on_busybox(&format!(
        "FROM @ AS maker\nCOPY in.txt /\nRUN wc -l < /in.txt > /lines\n\
         FROM @\nCOPY --from=maker /lines /\nRUN {RANDOM} > /random\n"
    ));
    context.write("in.txt", "one\n");
    let first = context.image(NONE);
    context.write("in.txt", "two\n");
    assert_eq!(first.file("/random"), context.image(NONE).file("/random"));
    context.write("in.txt", "one\ntwo\n");
    assert_ne!(first.file("/random"), context.image(NONE).file("/random"));
}

#[test]
fn no_cache_runs_everything() {
    let context = on_busybox(&format!("FROM @\nRUN {RANDOM} > /random\n"));
    let first = context.image(NONE);
    let (second, log) = context.image_and_log(["--no-cache"]);
    assert_ne!(first.file("/random"), second.file("/random"));
    log.does_not_say("CACHED");
}

#[test]
fn stages_that_do_not_need_each_other_run_at_the_same_time() {
    let context = on_busybox("FROM @\nRUN true\n");
    context.build(["-t", "warm:1"]).success();
    let text = "FROM @ AS one\nRUN sleep 1 && echo 1 > /1\nFROM @ AS two\nRUN sleep 1 && echo 2 > /2\n\
                FROM scratch\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n";
    context.write("Dockerfile", text.replace('@', &super::busybox()));
    let (image, log) = context.image_and_log(NONE);
    image.file_is("/1", "1\n").file_is("/2", "2\n");
    assert!(log.took < Duration::from_millis(1900), "two sleeps of one second took {:?}\n{log}", log.took);
}

#[test]
fn one_job_runs_one_step_at_a_time() {
    let context = on_busybox(
        "FROM @ AS one\nRUN sleep 0.4 && echo 1 > /1\nFROM @ AS two\nRUN sleep 0.4 && echo 2 > /2\n\
         FROM scratch\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n",
    );
    let (_, log) = context.image_and_log(["--jobs", "1"]);
    assert!(log.took > Duration::from_millis(800), "two sleeps of 0.4 s took {:?}\n{log}", log.took);
}

#[test]
fn a_stage_that_the_target_does_not_need_is_not_built() {
    let context = on_busybox("FROM @ AS unused\nRUN exit 7\nFROM @ AS wanted\nRUN echo ok > /ok\n");
    context.image(NONE).file_is("/ok", "ok\n");
}

#[test]
fn two_builds_at_once_share_one_store() {
    let context = on_busybox(&format!("FROM @\nRUN sleep 0.5; {RANDOM} > /random\n"));
    let archive = |n: u32| context.text(&format!("image-{n}.tar"));
    let running: Vec<_> =
        (0..3).map(|n| context.building(["-o", &format!("type=oci,dest={}", archive(n))]).start()).collect();
    for process in running {
        process.wait(kiln_tests::TIME_LIMIT).success();
    }
    let random = |n: u32| kiln_tests::ImageAssert::of_archive(archive(n).as_ref()).file("/random");
    assert_eq!(random(0), random(1), "the step ran once for all");
    assert_eq!(random(0), random(2), "the step ran once for all");
}

/// What is laid on other files than those that it was made on would be an image that nobody ever built.
#[test]
fn a_step_is_never_laid_on_other_files_than_it_was_made_on() {
    let context = on_busybox(&format!(
        "FROM @ AS deps\nRUN {RANDOM} > /deps\nFROM deps\nRUN cp /deps /seen && {RANDOM} > /made\n"
    ));
    let first = context.image(NONE);
    let anew = context.image(["--no-cache", "--target", "deps"]);
    let then = context.image(NONE);
    assert_eq!(then.file("/deps"), anew.file("/deps"));
    assert_eq!(then.file("/deps"), then.file("/seen"));
    assert_ne!(first.file("/made"), then.file("/made"));
    assert_eq!(then.config.rootfs, context.image(NONE).config.rootfs, "and then it is known");
}
