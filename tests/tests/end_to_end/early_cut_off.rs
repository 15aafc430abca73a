//! Early cut-off of steps on files: one that is done again and gives the same keeps its old layer, and what follows
//! is cached; and files that an earlier layer has just so are taken over without a trace in the image.

use super::{NONE, on_busybox};
use kiln_oci::DiffId;
use kiln_tests::{ImageAssert, TestContext};
use std::process::Command;

const RANDOM: &str = "cat /proc/sys/kernel/random/uuid";

/// The layers on top, as many as asked for.
fn upper(image: &ImageAssert, count: usize) -> Vec<DiffId> {
    let layers = &image.config.rootfs.diff_ids;
    layers[layers.len() - count..].to_vec()
}

/// Runs a script in the context.
fn shell(context: &TestContext, script: &str) {
    let done = Command::new("sh").args(["-ec", script]).current_dir(context.context()).status();
    assert!(done.is_ok_and(|status| status.success()), "{script}");
}

#[test]
fn steps_on_files_keep_their_layers_on_another_base() {
    let context = on_busybox(
        "FROM @\nCOPY in.txt /\nWORKDIR /app/deep\nCOPY <<EOF /note\nhello\nEOF\nCOPY --chown=3:4 other /app/\n",
    );
    context.write("in.txt", "one").write("other", "other");
    let first = context.image(NONE);
    // The times of folders that are made would be others.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    context.write("in.txt", "two").write("other", "other");
    let second = context.image(NONE);
    second.file_is("/in.txt", "two");
    assert_ne!(first.digest, second.digest);
    assert_eq!(upper(&first, 3), upper(&second, 3), "what was made again is what it was");
}

#[test]
fn a_copy_of_a_rebuilt_stage_that_gives_the_same_keeps_its_layer_and_what_follows() {
    let context = on_busybox(&format!(
        "FROM @ AS maker\nCOPY in.txt /\nRUN mkdir /out && wc -l < /in.txt > /out/lines && chmod $(cat /in.txt) /out/lines\n\
         FROM @\nCOPY --from=maker --chmod=u=rw,go=r /out /out\nRUN {RANDOM} > /random\n"
    ));
    context.write("in.txt", "600");
    let first = context.image(NONE);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    // The source has another mode and other times, but the copy is given the mode.
    context.write("in.txt", "640");
    let (second, log) = context.image_and_log(NONE);
    assert_eq!(first.digest, second.digest, "{log}");
    assert_eq!(log.stderr.matches("CACHED").count(), 1, "{log}");
    context.write("in.txt", "644\n");
    assert_ne!(first.file("/random"), context.image(NONE).file("/random"));
}

#[test]
fn an_archive_that_was_packed_again_keeps_its_layer() {
    let context = on_busybox(&format!("FROM @\nADD things.tar /things/\nRUN {RANDOM} > /random\n"));
    let pack = |day: u32, text: &str| {
        let at = format!("--mtime=2020-01-0{day}");
        shell(&context, &format!("echo {text} > a; echo b > b; tar {at} -cf things.tar a b; rm a b"));
    };
    pack(1, "a");
    let first = context.image(NONE);
    pack(2, "a");
    let (second, log) = context.image_and_log(NONE);
    assert_eq!(first.digest, second.digest, "{log}");
    assert_eq!(log.stderr.matches("CACHED").count(), 1, "{log}");
    pack(2, "other");
    assert_ne!(upper(&first, 2), upper(&context.image(NONE), 2));
}

const TREE: &str = "mkdir -p src/a/b; for i in 1 2 3 4 5; do echo $i > src/f$i; echo $i > src/a/b/g$i; done; \
                    chmod 4755 src/f1; touch -d 2001-01-01 src/f2; ln -s f1 src/link; ln src/f3 src/f3-too; sleep 0.1";

/// What a store that knows nothing makes of the context.
fn afresh(context: &TestContext) -> ImageAssert {
    let archive = context.text("afresh.tar");
    let store = context.text("another-store");
    context.building(["--root", &store, "-o", &format!("type=oci,dest={archive}")]).run().success();
    ImageAssert::of_archive(archive.as_ref())
}

#[test]
fn a_copy_that_takes_files_over_is_the_copy_that_a_fresh_store_makes() {
    let context = on_busybox("FROM @\nCOPY src/ /srv/src/\n");
    shell(&context, TREE);
    shell(&context, "rm -rf .git; touch -d 2002-01-01 src src/a src/a/b");
    context.image(NONE);
    shell(
        &context,
        "echo changed > src/a/b/g3; rm src/f5; echo new > src/new; chmod 600 src/f4; touch -d 2002-01-01 src src/a src/a/b",
    );
    let (second, fresh) = (context.image(NONE), afresh(&context));
    let layer = |image: &ImageAssert| upper(image, 1);
    // The folder that is made on the way has the time of its making.
    second.file_is("/srv/src/a/b/g3", "changed\n").is("/srv/src/f1", 0o4755, (0, 0)).lacks("/srv/src/f5");
    second.is("/srv/src/f4", 0o600, (0, 0));
    assert_eq!(second.layer_paths(-1), fresh.layer_paths(-1));
    for path in second.paths() {
        let (a, b) = (second.node(path), fresh.node(path));
        assert_eq!(format!("{:?}", a.kind), format!("{:?}", b.kind), "{path}");
    }
    assert_eq!(layer(&second).len(), 1);
}

#[test]
fn what_later_steps_do_to_files_that_were_taken_over_does_not_come_through() {
    let context = on_busybox(
        "FROM @\nARG THEN=true\nCOPY src/ more/ /srv/\nRUN $THEN\nRUN stat -c '%n %a %u %Y' /srv/f* > /told; cat /srv/f* > /all\n",
    );
    shell(&context, TREE);
    shell(&context, "mkdir more; echo more > more/h; echo more > more/i; sleep 0.1");
    let first = context.image(NONE);
    shell(&context, "echo 2 > more/h");
    let second = context.image(["--build-arg", "THEN=chmod 777 /srv/f1 /srv/f2 /srv/h /srv/i"]);
    second.is("/srv/i", 0o777, (0, 0)).is("/srv/f1", 0o777, (0, 0));
    let third = context.image(["--build-arg", "THEN=truncate -s 0 /srv/f2 /srv/i"]);
    third.is("/srv/i", 0o644, (0, 0)).file_is("/srv/i", "");
    shell(&context, "echo more > more/h");
    let (again, log) = context.image_and_log(["--build-arg", "THEN=true"]);
    again.file_is("/srv/i", "more\n").is("/srv/i", 0o644, (0, 0)).is("/srv/f1", 0o4755, (0, 0));
    assert_eq!((first.file("/told"), first.file("/all")), (again.file("/told"), again.file("/all")), "{log}");
}

/// A context of which an edit leaves most as it is, so that its layer's tar is hashed while the next step runs.
const MOSTLY_ONE_FILE: &str =
    "mkdir src; yes kiln | head -c 20000000 > src/large; echo a > src/a; touch -d 2002-01-01 src; sleep 0.1";

#[test]
fn a_step_that_runs_while_the_layer_below_is_hashed_changes_nothing_of_it() {
    let context = on_busybox(
        "FROM @\nCOPY src/ /src/\nRUN chmod 600 /src/a && truncate -s 1 /src/large && touch -d 2003-01-01 /src/large /src /marks\n",
    );
    shell(&context, MOSTLY_ONE_FILE);
    context.image(NONE);
    shell(&context, "echo b > src/a; touch -d 2002-01-01 src src/a");
    let cache = context.text("cache");
    let second = context.image(["--cache-to", &format!("type=local,dest={cache},mode=max")]);
    let (third, log) = context.image_and_log(NONE);
    assert_eq!((log.stderr.matches("CACHED").count(), second.digest), (2, third.digest), "{log}");
    let fresh = afresh(&context);
    second.file_is("/src/a", "b\n").file_is("/src/large", "k").is("/src/a", 0o600, (0, 0));
    assert_eq!(upper(&second, 2)[0], upper(&fresh, 2)[0], "the copy is the copy that a fresh store makes");
    // What went to the cache is whole too.
    let store = context.text("other");
    let archive = context.text("other.tar");
    let (to, from) = (format!("type=oci,dest={archive}"), format!("type=local,src={cache}"));
    let log = context.building(["--root", &store, "-o", &to, "--cache-from", &from]).run().success();
    assert_eq!(log.stderr.matches("CACHED").count(), 2, "{log}");
    assert_eq!(ImageAssert::of_archive(archive.as_ref()).digest, second.digest);
}

#[test]
fn a_copy_is_known_though_the_step_that_ran_while_it_was_hashed_failed() {
    let context = on_busybox("FROM @\nARG THEN=true\nCOPY src/ /src/\nRUN $THEN\n");
    shell(&context, MOSTLY_ONE_FILE);
    context.image(NONE);
    shell(&context, "echo b > src/a; touch -d 2002-01-01 src src/a");
    context.building(["--build-arg", "THEN=false"]).run().fails_with(1);
    let (image, log) = context.image_and_log(["--build-arg", "THEN=cat /src/a"]);
    assert_eq!(log.stderr.matches("CACHED").count(), 1, "{log}");
    image.file_is("/src/a", "b\n");
}
