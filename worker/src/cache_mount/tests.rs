//! Claims about caches: who waits for whom, what a build that begins anew leaves alone, what a death leaves.

use super::*;
use crate::BuildRequest;
use crate::cache::{Exports, Imports};
use crate::images::Images;
use crate::progress::{Progress, ProgressSink, Transfer};
use kiln_registry::Client;
use kiln_runner::CancelToken;
use kiln_solver::{ExecMeta, NetworkMode, SecurityMode};
use std::time::Duration;

/// A store whose builds have nothing but caches.
struct Fixture {
    folder: tempfile::TempDir,
    store: Store,
    client: Client,
    runtime: tokio::runtime::Runtime,
    cancel: CancelToken,
}

impl Fixture {
    fn new() -> Fixture {
        let folder = tempfile::tempdir().expect("a folder");
        Fixture {
            store: Store::open(&folder.path().join("store")).expect("a store"),
            folder,
            client: Client::new(kiln_registry::Options::default()).expect("a client"),
            runtime: tokio::runtime::Builder::new_current_thread().build().expect("threads"),
            cancel: CancelToken::new(),
        }
    }

    /// One build, `begins_anew` being `--no-cache`.
    fn build<T>(&self, begins_anew: bool, body: impl FnOnce(&Build<'_>) -> T) -> T {
        let silent = |_: Transfer<'_>| {};
        let images = Images::new(&self.store, &self.client, &self.runtime, &silent, &self.cancel);
        let request = BuildRequest { empty_caches: begins_anew, ..BuildRequest::empty() };
        let show = |_: Progress<'_>| {};
        let sink = ProgressSink::new(&show);
        let (imports, exports) = (Imports::none(), Exports::none());
        body(&Build::new(&self.store, &images, &request, &sink, &self.cancel, (&imports, &exports)))
    }

    fn generations(&self) -> usize {
        let all = self.folder.path().join("store/cache-mounts");
        let caches = std::fs::read_dir(all).expect("a folder").flatten();
        caches.map(|c| std::fs::read_dir(c.path()).expect("a cache").count() - 1).sum()
    }
}

fn step(mounts: &[(&str, CacheSharing)]) -> ExecOp {
    let mount = |(id, sharing): &(&str, CacheSharing)| Mount {
        input: None,
        selector: String::new(),
        dest: "/x".to_owned(),
        output: None,
        readonly: false,
        kind: MountKind::Cache { id: (*id).to_owned(), sharing: *sharing },
    };
    ExecOp {
        meta: ExecMeta::default(),
        mounts: mounts.iter().map(mount).collect(),
        network: NetworkMode::None,
        security: SecurityMode::Sandbox,
        secret_env: Vec::new(),
        devices: Vec::new(),
    }
}

fn take(build: &Build<'_>, mounts: &[(&str, CacheSharing)]) -> Result<Caches, WorkerError> {
    Caches::take(build, VertexId(0), &step(mounts))
}

use CacheSharing::{Locked, Private, Shared};

#[test]
fn a_step_gets_each_cache_once_however_often_it_is_mounted() {
    let fixture = Fixture::new();
    fixture.build(false, |build| {
        for both in [(Locked, Locked), (Shared, Locked), (Shared, Shared), (Private, Private)] {
            let caches = take(build, &[("x", both.0), ("x", both.1)]).expect("caches");
            assert_eq!(caches.folders[&0], caches.folders[&1], "{both:?}");
            assert!(matches!(caches.source(1), Ok(Some(_))));
            assert!(matches!(caches.source(2), Ok(None)));
        }
        let caches = take(build, &[("x", Private), ("x", Locked)]).expect("caches");
        assert_ne!(caches.folders[&0], caches.folders[&1]);
    });
    assert_eq!(std::fs::read_dir(fixture.store.root.join("locks")).map(Iterator::count).ok(), Some(0));
}

#[test]
fn steps_that_name_the_same_caches_in_another_order_do_not_wait_for_each_other() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for mounts in [[("p", Locked), ("q", Locked)], [("q", Locked), ("p", Locked)]] {
            let fixture = &fixture;
            scope.spawn(move || {
                fixture
                    .build(false, |build| (0..30).for_each(|_| drop(take(build, &mounts).expect("caches"))))
            });
        }
    });
}

#[test]
fn a_wait_for_a_cache_ends_when_the_build_is_cancelled() {
    let fixture = Fixture::new();
    fixture.build(false, |build| {
        let _held = take(build, &[("x", Locked)]).expect("caches");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| take(build, &[("x", Shared)]));
            std::thread::sleep(Duration::from_millis(20));
            fixture.cancel.cancel();
            assert!(matches!(waiting.join(), Ok(Err(WorkerError::Canceled))));
        });
    });
}

#[test]
fn a_build_that_begins_anew_leaves_running_steps_their_cache() {
    let fixture = Fixture::new();
    let first = fixture.build(false, |build| take(build, &[("x", Shared)]).expect("caches"));
    let old = first.folders[&0].join("data/file");
    assert!(std::fs::write(&old, b"old").is_ok());
    fixture.build(true, |build| {
        let anew = take(build, &[("x", Shared)]).expect("caches");
        let new = anew.folders[&0].join("data/file");
        assert!(old.exists() && !new.exists());
        assert!(std::fs::write(&new, b"new").is_ok());
        // It begins anew once: its later steps find what its first ones left.
        let later = take(build, &[("x", Shared)]).expect("caches");
        assert!(later.folders[&0].join("data/file") == new && new.exists());
    });
}

#[test]
fn an_old_generation_is_gone_once_nobody_uses_it() {
    let fixture = Fixture::new();
    let first = fixture.build(false, |build| take(build, &[("x", Shared)]).expect("caches"));
    let second = fixture.build(true, |build| {
        let caches = take(build, &[("x", Shared)]).expect("caches");
        assert_eq!(take(build, &[("x", Shared)]).expect("caches").folders, caches.folders);
        caches
    });
    assert_eq!(fixture.generations(), 2);
    assert!(first.release(&fixture.store).is_ok());
    assert_eq!(fixture.generations(), 1);
    assert!(second.folders[&0].join("data").is_dir());
}

#[test]
fn a_cache_that_is_being_filled_is_not_taken_for_a_broken_one() {
    let fixture = Fixture::new();
    let name = name("x", "");
    let parent = folder_of(&fixture.store, &name);
    let filling = fixture.store.lock(&format!("fill-{name}"), &fixture.cancel).expect("a lock");
    let (folder, held) = begin(&parent).expect("a generation");
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| give_up(&fixture.store, &name));
        std::thread::sleep(Duration::from_millis(100));
        std::fs::create_dir(folder.path().join("data")).expect("a folder");
        make_current(&parent, folder.path()).expect("a cache");
        drop(filling);
        assert!(matches!(collector.join(), Ok(Ok(false))));
    });
    assert!(folder.path().join("data").is_dir());
    // Without its files it is broken, and goes.
    std::fs::remove_dir(folder.path().join("data")).expect("removed");
    drop(held);
    assert!(give_up(&fixture.store, &name).expect("given up") && !parent.exists());
}

#[test]
fn a_death_while_a_cache_is_filled_leaves_it_as_it_was() {
    let fixture = Fixture::new();
    let taken = fixture.build(false, |build| take(build, &[("x", Shared)]).expect("caches"));
    let folder = taken.folders[&0].clone();
    let parent = folder.parent().expect("a cache").to_owned();
    drop(taken);
    // Died while it filled a new one, and while it removed an old one.
    assert!(std::fs::create_dir_all(parent.join(".tmpdead/da")).is_ok());
    assert!(symlink(".tmpdead", parent.join("current.new")).is_ok());
    let again = fixture.build(false, |build| take(build, &[("x", Shared)]).expect("caches"));
    assert_eq!(again.folders[&0], folder);
    assert!(sweep(&fixture.store).is_ok());
    assert_eq!(fixture.generations(), 1);
    // The current one was removed by hand.
    drop(again);
    assert!(std::fs::remove_dir_all(&folder).is_ok());
    let anew = fixture.build(false, |build| take(build, &[("x", Shared)]).expect("caches"));
    assert!(anew.folders[&0].join("data").is_dir() && anew.folders[&0] != folder);
}
