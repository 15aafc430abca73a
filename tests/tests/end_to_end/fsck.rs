//! Damage in the store: found by its class, repaired, and the next build is right.

use super::on_busybox;
use kiln_tests::TestContext;
use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

fn built() -> TestContext {
    let context =
        on_busybox("FROM @\nRUN --mount=type=cache,target=/c echo content > /made; echo k > /c/k\n");
    context.build(["--output", "type=cacheonly"]).success();
    context.kiln(["fsck", "--full"]).run().success();
    context
}

/// The snapshot that has the file.
fn snapshot_with(context: &TestContext, file: &str) -> PathBuf {
    let snapshots = std::fs::read_dir(context.store().join("snapshots")).expect("snapshots").flatten();
    snapshots.map(|s| s.path()).find(|s| s.join("fs").join(file).exists()).expect("its snapshot")
}

fn flip(path: &Path) {
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).expect("a mode");
    let file = OpenOptions::new().write(true).open(path).expect("a file");
    file.write_all_at(b"~", 0).expect("a byte");
}

#[track_caller]
fn is_found_and_repaired(context: &TestContext, args: &[&str], told: &str) {
    let found = context.kiln([&["fsck"], args].concat()).run().fails_with(1);
    assert!(found.stdout_text().contains(told), "{found}");
    context.kiln([&["fsck", "--repair"], args].concat()).run().success();
    context.kiln(["fsck", "--full"]).run().success();
    context.image(super::NONE).file_is("/made", "content\n");
}

#[test]
fn bytes_of_a_file_are_found_by_full_alone() {
    let context = built();
    let path = snapshot_with(&context, "made").join("fs/made");
    flip(&path);
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("a mode");
    context.kiln(["fsck"]).run().success();
    is_found_and_repaired(&context, &["--full"], "/made has other bytes");
}

#[test]
fn a_file_an_index_and_a_snapshot_that_are_gone_are_found() {
    let context = built();
    std::fs::remove_file(snapshot_with(&context, "made").join("fs/made")).expect("the file");
    is_found_and_repaired(&context, &[], "/made is gone");
    std::fs::remove_file(snapshot_with(&context, "made").join("index")).expect("the index");
    is_found_and_repaired(&context, &[], "it has no index");
    flip(&snapshot_with(&context, "made").join("index"));
    is_found_and_repaired(&context, &[], "its index");
    std::fs::remove_dir_all(snapshot_with(&context, "made")).expect("the snapshot");
    is_found_and_repaired(&context, &[], "it has no index");
}

#[test]
fn a_blob_of_other_bytes_is_found_and_fetched_anew() {
    let context = built();
    let blobs = std::fs::read_dir(context.store().join("content/blobs/sha256")).expect("blobs").flatten();
    let largest = blobs.max_by_key(|b| b.metadata().map_or(0, |m| m.len())).expect("a blob").path();
    flip(&largest);
    is_found_and_repaired(&context, &[], "its bytes are others");
}

#[test]
fn a_database_that_cannot_be_read_is_begun_anew() {
    let context = built();
    std::fs::write(context.store().join("meta.db"), vec![b'x'; 8192]).expect("the database");
    is_found_and_repaired(&context, &[], "meta.db");
    assert!(context.store().join("meta.db.bad").exists());
}

#[test]
fn a_cache_mount_that_leads_nowhere_is_found() {
    let context = built();
    let caches = std::fs::read_dir(context.store().join("cache-mounts")).expect("caches").flatten();
    for cache in caches {
        std::fs::remove_dir_all(cache.path().join("current").canonicalize().expect("a folder"))
            .expect("gone");
    }
    is_found_and_repaired(&context, &[], "its content is gone");
}

/// A build that trusts nothing finds it too: the step runs again.
#[test]
fn verify_cache_reads_the_layers_that_are_known() {
    let context = built();
    let path = snapshot_with(&context, "made").join("fs/made");
    flip(&path);
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("a mode");
    let trusting = context.build(["--output", "type=cacheonly"]).success();
    assert!(trusting.stderr.contains("CACHED"), "{trusting}");
    context.image(["--verify-cache"]).file_is("/made", "content\n");
    context.image(super::NONE).file_is("/made", "content\n");
}
