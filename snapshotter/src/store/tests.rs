//! Claims about the folder of snapshots.

use super::*;
use crate::SnapshotError;
use crate::testing::{Bench, reach};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

#[test]
fn only_its_owner_enters_the_store() {
    let bench = Bench::new();
    assert_eq!(std::fs::metadata(&bench.store.path).unwrap().permissions().mode() & 0o7777, 0o700);
    let active = bench.store.prepare().unwrap();
    let folder = bench.store.path.join(active.id().to_string());
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(std::fs::metadata(folder.join("fs")).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn snapshots_are_spread_over_the_disk_where_the_file_system_can() {
    let bench = Bench::new();
    let plain = tempfile::tempdir_in(&bench.store.path).unwrap();
    let plain = std::fs::File::open(plain.path()).unwrap();
    let knows = fs::ioctl_getflags(&plain)
        .is_ok_and(|flags| fs::ioctl_setflags(&plain, flags | fs::IFlags::TOPDIR).is_ok());
    let has = fs::ioctl_getflags(&bench.store.dir).is_ok_and(|flags| flags.contains(fs::IFlags::TOPDIR));
    assert_eq!(has, knows);
}

#[test]
fn a_dropped_snapshot_leaves_nothing() {
    let bench = Bench::new();
    let active = bench.store.prepare().unwrap();
    let mount = bench.store.mount(&[], &active).unwrap();
    std::fs::create_dir_all(reach(&mount).join("a/b/c")).unwrap();
    drop(mount);
    drop(active);
    assert_eq!(std::fs::read_dir(&bench.store.path).unwrap().count(), 1);
}

#[test]
fn a_finished_snapshot_is_found_by_another_process_and_can_be_removed() {
    let bench = Bench::new();
    let layer = bench.run(&[], "mkdir d; echo x > d/f");
    let other = Snapshotter::open(&bench.store.path).unwrap();
    assert_eq!(other.ids(), [layer.id]);
    assert_eq!(other.index(&layer.id).unwrap(), layer.index);
    assert!(other.remove(&layer.id).unwrap() > 0);
    assert_eq!(other.ids(), []);
    assert!(matches!(other.index(&layer.id), Err(SnapshotError::Unknown(_))));
    assert!(matches!(other.mount_readonly(&[layer.id]), Err(SnapshotError::Unknown(_))));
    assert_eq!(other.remove(&layer.id).unwrap(), 0);
}

#[test]
fn a_damaged_index_is_an_error() {
    let bench = Bench::new();
    let layer = bench.run(&[], "echo x > f");
    let path = bench.store.path.join(layer.id.to_string()).join("index");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let other = Snapshotter::open(&bench.store.path).unwrap();
    assert!(matches!(other.index(&layer.id), Err(SnapshotError::Damaged { .. })));
}

#[test]
fn a_sweep_removes_what_the_dead_left_and_nothing_else() {
    let bench = Bench::new();
    let finished = bench.run(&[], "echo x > f");
    let alive = bench.store.prepare().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::a_process_to_be_killed", "--ignored"])
        .env("SNAPSHOTS", &bench.store.path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let written = || {
        let folders = std::fs::read_dir(&bench.store.path).unwrap();
        folders.flatten().any(|folder| folder.path().join("fs/ready").exists())
    };
    for _ in 0..1000 {
        if written() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(written(), "the child has begun");
    bench.store.sweep().unwrap();
    assert!(written(), "the child lives");
    child.kill().unwrap();
    child.wait().unwrap();
    let freed = bench.store.sweep().unwrap();
    assert!(!written(), "freed {freed}");
    assert!(freed >= 100_000, "freed {freed}");
    assert_eq!(bench.store.ids(), [finished.id]);
    bench.store.mount(&[finished.id], &alive).unwrap();
}

#[test]
#[ignore = "runs as a child of the test above"]
fn a_process_to_be_killed() {
    let Some(path) = std::env::var_os("SNAPSHOTS") else { return };
    let store = Snapshotter::open(Path::new(&path)).unwrap();
    let active = store.prepare().unwrap();
    let mount = store.mount(&[], &active).unwrap();
    std::fs::write(reach(&mount).join("written"), vec![1; 100_000]).unwrap();
    // Made last: the parent may kill this process as soon as it sees it.
    std::fs::create_dir(reach(&mount).join("ready")).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(60));
}
