//! Claims on reading caches, with places that answer late, badly or never.

use super::super::config::{About, Draft, SharedLayer};
use super::super::place::OpenBlob;
use super::*;
use kiln_oci::{Descriptor, DiffId, Digest, MediaType};
use kiln_solver::ContentId;
use std::io;

#[derive(Debug)]
struct Place {
    name: &'static str,
    late: Duration,
    answer: fn() -> Result<Vec<Vec<u8>>, CacheError>,
}

impl CachePlace for Place {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn configs(&self) -> Result<Vec<Vec<u8>>, CacheError> {
        std::thread::sleep(self.late);
        (self.answer)()
    }

    fn read(&self, blob: &Descriptor, _: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), CacheError> {
        Err(CacheError::NoBlob(blob.digest))
    }

    fn write(&self, _: &Descriptor, _: OpenBlob<'_>) -> Result<bool, CacheError> {
        Ok(false)
    }

    fn publish(&self, _: &[u8], _: &[Descriptor]) -> Result<Option<Descriptor>, CacheError> {
        Ok(None)
    }
}

fn key(name: &str) -> CacheKey {
    CacheKey(Digest::of(name.as_bytes()))
}

fn config(name: &str) -> Vec<u8> {
    let digest = Digest::of(b"layer");
    let blob = Descriptor::new(MediaType::OciLayerGzip, digest, 1);
    let layer = SharedLayer { diff_id: DiffId(digest), content: ContentId(digest), blob, created_s: 1 };
    let mut draft = Draft::default();
    let index = draft.layer(&layer, None);
    draft.record(&[key(name)], &[vec![index]], Some(index), &About::default());
    draft.finish().0
}

fn place(
    name: &'static str,
    late_ms: u64,
    answer: fn() -> Result<Vec<Vec<u8>>, CacheError>,
) -> Arc<dyn CachePlace> {
    Arc::new(Place { name, late: Duration::from_millis(late_ms), answer })
}

/// What look-ups of keys found, in which place; and what was told meanwhile.
fn found(places: Vec<Arc<dyn CachePlace>>, keys: &[&str]) -> (Vec<Option<String>>, Vec<String>) {
    let told = Mutex::new(Vec::new());
    let show = |progress: Progress<'_>| {
        if let Progress::Cache { place, trouble } = progress {
            told.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{place} {trouble:?}"));
        }
    };
    let sink = ProgressSink::new(&show);
    let imports = Imports::begin(places, false, &CancelToken::new());
    let look_up = |name: &&str| {
        let hit = imports.look_up(&key(name), &sink).unwrap_or_else(|e| panic!("{e}"));
        hit.map(|hit| hit.place.name())
    };
    let hits = keys.iter().map(look_up).collect();
    drop(sink);
    (hits, told.into_inner().unwrap_or_else(PoisonError::into_inner))
}

#[test]
fn the_first_cache_that_knows_a_key_answers_however_late_it_is() {
    let places = vec![
        place("late", 120, || Ok(vec![config("a"), config("b")])),
        place("early", 0, || Ok(vec![config("b"), config("c")])),
    ];
    let some = |name: &str| Some(name.to_owned());
    let (hits, told) = found(places, &["a", "b", "c", "d"]);
    assert_eq!(hits, [some("late"), some("late"), some("early"), None]);
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn caches_are_asked_all_at_once() {
    let places = (0..4).map(|_| place("slow", 200, || Ok(vec![config("a")]))).collect();
    let started = Instant::now();
    found(places, &["b"]);
    assert!(started.elapsed() < Duration::from_millis(600), "{:?}", started.elapsed());
}

#[test]
fn what_cannot_be_used_is_a_miss_and_told_once() {
    let places = vec![
        place("none", 0, || Ok(Vec::new())),
        place("broken", 0, || Ok(vec![b"{".to_vec()])),
        place("down", 0, || Err(CacheError::TimedOut(7))),
        place("panics", 0, || panic!("a place must not do this")),
        place("empty", 0, || Ok(vec![b"{}".to_vec()])),
        place("good", 0, || Ok(vec![config("a")])),
    ];
    let (hits, told) = found(places, &["a", "a", "b"]);
    assert_eq!(hits, [Some("good".to_owned()), Some("good".to_owned()), None]);
    let names: Vec<&str> = told.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["none", "broken", "down", "panics"]);
}

#[test]
fn another_builders_cache_is_told_as_such() {
    let foreign = || {
        let text = format!(r#"{{"records":[{{"digest":"{}"}}]}}"#, Digest::of(b"x"));
        Ok(vec![text.into_bytes()])
    };
    let (_, told) = found(vec![place("theirs", 0, foreign)], &["a"]);
    assert_eq!(told, ["theirs Foreign"]);
}

#[test]
fn a_strict_build_fails_on_a_cache_that_is_down_and_a_stopped_one_does_not_wait() {
    let sink = |_: Progress<'_>| {};
    let sink = ProgressSink::new(&sink);
    let down = || place("down", 0, || Err(CacheError::TimedOut(7)));
    let strict = Imports::begin(vec![down()], true, &CancelToken::new());
    let error = strict.look_up(&key("a"), &sink).expect_err("it is strict");
    assert!(matches!(&error, WorkerError::Cache { place, .. } if place == "down"), "{error}");
    let cancel = CancelToken::new();
    let imports = Imports::begin(vec![place("hangs", 3000, || Ok(Vec::new()))], false, &cancel);
    cancel.cancel();
    let started = Instant::now();
    assert!(matches!(imports.look_up(&key("a"), &sink), Err(WorkerError::Canceled)));
    assert!(started.elapsed() < Duration::from_secs(1));
}
