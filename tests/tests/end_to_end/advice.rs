//! `# kiln:` comments: instructions that are done again in every build, or after a time.

use super::{NONE, on_busybox};
use std::time::Duration;

const RANDOM: &str = "cat /proc/sys/kernel/random/uuid";

#[test]
fn a_step_below_no_cache_runs_each_time_and_what_follows_is_kept_if_it_made_the_same() {
    let context = on_busybox(&format!(
        "FROM @ AS made\nRUN {RANDOM} > /before\n# kiln: no-cache\n# twice\nRUN cat /proc/uptime > /dev/null\n\
         RUN {RANDOM} > /kept\n# kiln: no-cache\nRUN {RANDOM} > /made\nRUN {RANDOM} > /after\n\
         FROM @\nCOPY --from=made /before /kept /made /after /\nCOPY --from=made /kept /copied\nRUN {RANDOM} > /last\n"
    ));
    let (first, second) = (context.image(NONE), context.image(NONE));
    for same in ["/before", "/kept", "/copied"] {
        assert_eq!(first.file(same), second.file(same), "{same}");
    }
    for other in ["/made", "/after", "/last"] {
        assert_ne!(first.file(other), second.file(other), "{other}");
    }
}

#[test]
fn a_step_below_max_age_runs_again_when_its_result_is_old() {
    let text = format!(
        "FROM @\n# kiln: max-age=4s\nRUN {RANDOM} > /made\nRUN {RANDOM} > /after\n\
         # kiln: max-age=1d\nRUN {RANDOM} > /late\n"
    );
    let context = on_busybox(&text);
    let first = context.image(NONE);
    let young = context.image(NONE);
    assert_eq!(first.config.rootfs, young.config.rootfs, "nothing is too old yet");
    std::thread::sleep(Duration::from_secs(5));
    let old = context.image(NONE);
    for path in ["/made", "/after", "/late"] {
        assert_ne!(first.file(path), old.file(path), "{path}");
    }
    assert_eq!(old.config.rootfs, context.image(NONE).config.rootfs, "it is new again");
    // Without the comment nothing is ever too old, and the last result is found.
    context.write("Dockerfile", text.replace("# kiln: max-age=4s\n", "").replace('@', &super::busybox()));
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(old.config.rootfs, context.image(NONE).config.rootfs);
}

#[test]
fn a_comment_that_changes_nothing_is_a_warning() {
    let context = on_busybox(
        "# kiln: no-cache\nFROM @\n# kiln: nocache\nRUN true\n# kiln: max-age=soon\nRUN true\n\
         # kiln: no-cache\n\nRUN true\n# kiln: no-cache\nENV a=b\n",
    );
    let log = context.build(NONE).success();
    log.says("`# kiln: no-cache` changes nothing above FROM")
        .says("did you mean no-cache?")
        .says("`soon` is no duration")
        .says("stands above no instruction")
        .says("changes nothing above this instruction")
        .says("5 warnings found");
    // It belongs to no rule, so that a check passes.
    context.build(["--check"]).success().says("did you mean no-cache?");
}

/// As in BuildKit: by name, in either case; an empty one is for all.
#[test]
fn stages_are_filtered_by_their_names() {
    let context = on_busybox(&format!(
        "FROM @ AS One\nRUN {RANDOM} > /one\nFROM @ AS two\nRUN {RANDOM} > /two\n\
         FROM @\nRUN {RANDOM} > /three\nCOPY --from=one /one /\nCOPY --from=two /two /\nRUN {RANDOM} > /last\n"
    ));
    let mut before = context.image(NONE);
    for (filter, ran) in [
        ("oNe", &["/one", "/last"][..]),
        ("one,two", &["/one", "/two", "/last"]),
        ("0", &[]),
        ("none", &[]),
        ("one,", &["/one", "/three", "/last"]),
        ("", &["/one", "/two", "/three", "/last"]),
    ] {
        let now = context.image(["--no-cache-filter", filter]);
        for path in ["/one", "/two", "/three", "/last"] {
            assert_eq!(before.file(path) != now.file(path), ran.contains(&path), "{path} of {filter:?}");
        }
        before = now;
    }
}
