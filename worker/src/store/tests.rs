//! Claims about the store: who may open it, how many at once, what a death leaves.

use super::*;
use std::os::unix::fs::PermissionsExt;

fn fixture() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("store");
    (folder, root)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_store_of_another_version_or_open_to_others_is_refused() {
    let (_folder, root) = fixture();
    assert!(Store::open(&root).is_ok());
    assert!(std::fs::write(root.join("version"), "99").is_ok());
    assert!(matches!(Store::open(&root), Err(WorkerError::StoreVersion { .. })));
    assert!(std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o777)).is_ok());
    assert!(matches!(Store::open(&root), Err(WorkerError::StoreUnsafe { .. })));
}

#[test]
fn many_may_open_a_store_for_the_first_time() {
    for _ in 0..5 {
        let (_folder, root) = fixture();
        std::thread::scope(|scope| {
            let opening: Vec<_> = (0..8).map(|_| scope.spawn(|| Store::open(&root).map(drop))).collect();
            for opened in opening {
                opened.join().expect("no panic").expect("a store");
            }
        });
        assert_eq!(names(&root.join("locks")), Vec::<String>::new());
    }
}

#[test]
fn a_store_whose_making_was_cut_short_is_made_whole() {
    let (_folder, root) = fixture();
    assert!(private_folder(&root).is_ok());
    assert!(std::fs::write(root.join("version"), b"").is_ok());
    assert!(Store::open(&root).is_ok_and(|store| store.meta.images().is_ok()));
    assert_eq!(
        std::fs::read_to_string(root.join("version")).ok().as_deref(),
        Some(format!("{VERSION}\n").as_str())
    );
    for name in ["meta.db", "meta.db-wal", "meta.db-shm"] {
        let _ = std::fs::remove_file(root.join(name));
    }
    assert!(Store::open(&root).is_ok_and(|store| store.meta.images().is_ok()));
}

#[test]
fn a_lock_that_nobody_holds_leaves_no_file() {
    let (_folder, root) = fixture();
    let (store, cancel) = (Store::open(&root).expect("a store"), CancelToken::new());
    let shared = || store.lock_telling("x", Sharing::Shared, &cancel, &|_| {});
    let (a, b) = (shared(), shared());
    assert!(a.is_ok() && b.is_ok());
    assert!(store.try_lock("x").is_ok_and(|lock| lock.is_none()));
    drop(a);
    assert_eq!(names(&root.join("locks")), ["x"]);
    drop(b);
    assert_eq!(names(&root.join("locks")), Vec::<String>::new());
    drop(store.lock("x", &cancel).expect("a lock"));
    assert_eq!(names(&root.join("locks")), Vec::<String>::new());
}

#[test]
fn a_lock_has_one_holder_though_its_file_comes_and_goes() {
    let (_folder, root) = fixture();
    let (store, cancel) = (Store::open(&root).expect("a store"), CancelToken::new());
    let holders = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let _lock = store.lock("x", &cancel).expect("a lock");
                    assert_eq!(holders.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    holders.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                }
            });
        }
    });
}

#[test]
fn a_cancelled_wait_for_a_lock_ends() {
    let (_folder, root) = fixture();
    let (store, cancel) = (Store::open(&root).expect("a store"), CancelToken::new());
    let _held = store.lock("x", &cancel).expect("a lock");
    cancel.cancel();
    let shared = store.lock_telling("x", Sharing::Shared, &cancel, &|_| {});
    assert!(matches!(shared, Err(WorkerError::Canceled)));
}

/// What a process leaves that dies in the middle of a build.
fn die(store: &Store) {
    assert!(std::fs::write(store.root.join("locks/alive-dead"), b"").is_ok());
    assert!(std::fs::write(store.root.join("locks/step-dead"), b"").is_ok());
    assert!(std::fs::create_dir_all(store.root.join("snapshots/00000000000000aa/fs/x")).is_ok());
    assert!(std::fs::write(store.root.join("content/ingest/dead"), b"dead").is_ok());
    assert!(std::fs::create_dir_all(store.root.join("tmp/dead/context")).is_ok());
}

fn committed(store: &Store) -> kiln_snapshotter::Committed {
    let active = store.snapshots.prepare().expect("a snapshot");
    let options = kiln_snapshotter::CommitOptions::default();
    store.snapshots.commit(active, &[], &options).expect("a snapshot")
}

#[test]
fn the_sweep_removes_what_the_dead_left_and_nothing_else() {
    let (_folder, root) = fixture();
    let store = Store::open(&root).expect("a store");
    let noted = committed(&store);
    assert!(store.meta.add_layer(&crate::meta::LayerRow::of(&noted)).is_ok());
    let unnoted = committed(&store);
    die(&store);
    let other = store.mark_alive().expect("a mark");
    let (live, _lock) = store.temporary_folder().expect("a folder");
    let being_made = store.snapshots.prepare().expect("a snapshot");
    assert!(store.sweep().is_ok());
    assert!(names(&root.join("content/ingest")).is_empty());
    assert!(live.path().is_dir() && !root.join("tmp/dead").exists());
    assert!(!root.join("snapshots/00000000000000aa").exists() && !root.join("locks/step-dead").exists());
    // The other may be about to note it: it is left to the next sweep.
    assert_eq!(store.snapshots.ids().len(), 2);
    drop(other);
    assert!(store.sweep().is_ok());
    assert_eq!(store.snapshots.ids(), [noted.id]);
    assert_ne!(noted.id, unnoted.id);
    assert!(root.join("snapshots").join(being_made.id().to_string()).is_dir());
    assert_eq!(names(&root.join("locks")), Vec::<String>::new());
}

#[test]
fn a_sweep_looks_at_no_snapshot_if_nobody_died() {
    let (_folder, root) = fixture();
    let store = Store::open(&root).expect("a store");
    committed(&store);
    drop(store.mark_alive().expect("a mark"));
    assert!(store.sweep().is_ok());
    assert_eq!(store.snapshots.ids().len(), 1);
}
