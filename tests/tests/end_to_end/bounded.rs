//! A store that stays below the size it may have, while builds write to it; and what can be said and taken
//! of it. `KILN_BUILDS` is how many random builds there are.

use super::on_busybox;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const CAP: u64 = 300_000_000;
/// What the largest step of these builds writes.
const STEP: u64 = 40 << 20;

/// What a folder takes on disk; a file of several names counts once.
fn disk_usage(path: &Path, seen: &mut HashSet<u64>) -> u64 {
    let Ok(stat) = path.symlink_metadata() else { return 0 };
    let mut bytes = if seen.insert(stat.ino()) { stat.blocks() * 512 } else { 0 };
    if stat.is_dir() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            bytes += disk_usage(&entry.path(), seen);
        }
    }
    bytes
}

fn layer_of(mib: u64, name: &str) -> String {
    format!("RUN head -c {} /dev/urandom > /{name}\n", mib << 20)
}

#[test]
fn random_builds_never_take_more_than_the_cap_and_one_step() {
    let count: usize = std::env::var("KILN_BUILDS").ok().and_then(|t| t.parse().ok()).unwrap_or(16);
    let context = on_busybox("FROM @\n");
    let (ended, most) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                most.fetch_max(disk_usage(&context.store(), &mut HashSet::new()), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let mut random = 42u64;
        for build in 0..count {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let mut text = format!("FROM {}\n", super::busybox());
            for step in 0..1 + (random >> 40) % 3 {
                let mib = 5 + (random >> (20 + step * 8)) % 35;
                text.push_str(&layer_of(mib, &format!("{}-{step}", build % 50)));
            }
            context.write("Dockerfile", text);
            // Two names: two images are held at any time.
            let name = format!("bounded:{}", build % 2);
            context.build(["--store-max", "300MB", "-t", &name]).success();
        }
        ended.store(true, Ordering::Relaxed);
    });
    let most = most.into_inner();
    assert!(most <= CAP + STEP, "the store took {most} bytes");
    assert!(count < 16 || most > CAP / 2, "the store was never filled: {most}");
    context.kiln(["fsck", "--full"]).run().success();
}

#[test]
fn what_images_need_stays_above_the_cap_and_that_is_told() {
    let context = on_busybox("FROM @\nRUN head -c 30000000 /dev/urandom > /x\n");
    context
        .build(["-t", "kept:1", "--store-max", "10MB"])
        .success()
        .says("more than the 10.0MB of --store-max");
    context.build(["-t", "kept:1"]).success().says("CACHED");
}

#[test]
fn prune_takes_what_no_image_needs_and_du_says_so_before() {
    let context = on_busybox("FROM @\nRUN head -c 20000000 /dev/urandom > /named\n");
    context.build(["-t", "named:1"]).success();
    let text = format!(
        "FROM {}\nRUN --mount=type=cache,target=/c head -c 10000000 /dev/urandom > /loose; echo 1 > /c/x\n",
        super::busybox()
    );
    context.write("Dockerfile", &text);
    context.build(["--output", "type=cacheonly"]).success();
    let shown = context.kiln(["du", "-v"]).run().success().stdout_text();
    assert!(shown.contains("RUN head -c 20000000") && shown.contains("named:1"), "{shown}");
    let dry = context.kiln(["prune", "--dry-run"]).run().success().stdout_text();
    assert!(dry.contains("/loose") && !dry.contains("/named") && !dry.contains("cache-mount"), "{dry}");
    let pruned = context.kiln(["prune", "-f"]).run().success().stdout_text();
    assert!(pruned.contains("/loose") && pruned.contains("Total reclaimed: "), "{pruned}");
    context.build(["--output", "type=cacheonly"]).success().does_not_say("CACHED");
    context.kiln(["prune", "--all", "-f", "--filter", "type=cache-mount"]).run().success();
    let all = context.kiln(["du", "--format", "json"]).run().success().stdout_text();
    assert!(!all.contains("cache-mount"), "{all}");
    context.write(
        "Dockerfile",
        format!("FROM {}\nRUN head -c 20000000 /dev/urandom > /named\n", super::busybox()),
    );
    context.build(super::NONE).success().says("CACHED");
}

#[test]
fn filters_hold_back_what_they_do_not_name() {
    let context = on_busybox("FROM @\nRUN echo x > /x\n");
    context.build(["--output", "type=cacheonly"]).success();
    for filter in ["until=24h", "type=cache-mount", "id=ffffffffffffffff"] {
        let said = context.kiln(["prune", "-f", "--filter", filter]).run().success().stdout_text();
        assert_eq!(said, "Total reclaimed: 0B\n", "{filter}");
    }
    let said = context.kiln(["prune", "-f", "--keep-storage", "1TB"]).run().success().stdout_text();
    assert_eq!(said, "Total reclaimed: 0B\n");
    for (args, told) in [
        (["prune", "--filter", "until=yesterday"], "duration"),
        (["prune", "--filter", "type=blobs"], "cache-mount"),
        (["prune", "--keep-storage", "much"], "--keep-storage"),
        (["du", "--store-max", "much"], "--store-max"),
    ] {
        context.kiln(args).run().fails_with(2).says(told);
    }
    context.kiln(["images"]).env("KILN_STORE_MAX", "1XB").run().fails_with(2).says("KILN_STORE_MAX");
    std::fs::write(context.store().join("settings.json"), "{\"store_max\": \"x\"}").expect("settings");
    context.kiln(["images"]).run().fails_with(2).says("settings.json");
}
