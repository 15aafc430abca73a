//! Why steps were done or not: what is noted while a build goes on, and what becomes of it at its end. It does not
//! know how a step is done.

mod earlier;
mod fields;
mod finding;
mod listing;
mod telling;

pub(crate) use listing::{Listed, Listing, kind_byte};

use crate::report::Origin;
use kiln_oci::Digest;
use kiln_solver::{CacheKey, Solver, VertexId};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Which Dockerfile a build is of, and what has to be known of it to explain its steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The Dockerfile's name: builds of the same name are compared.
    pub name: String,
    /// The names of build arguments that it declares.
    pub args: BTreeSet<String>,
    /// Values that are not to be kept or shown.
    pub hidden: Vec<String>,
}

impl Place {
    /// The place of that name. Of the values that were given for build arguments those are hidden whose names are
    /// those of credentials.
    pub fn new(name: String, args: BTreeSet<String>, given: &[(String, Option<String>)]) -> Place {
        let hidden = given.iter().filter(|(name, _)| fields::is_credential(name));
        let hidden = hidden.filter_map(|(_, value)| value.clone()).collect();
        Place { name, args, hidden }
    }
}

/// What is noted of a step.
#[derive(Clone, Debug, Default)]
struct Note {
    /// The key under which its result was found.
    found: Option<CacheKey>,
    /// Where its result came from, if not from a record of the store that was there from the start.
    origin: Option<Origin>,
    /// Whether there was a record whose layers are gone.
    was_pruned: bool,
    /// Whether there was a record that is too old.
    was_old: bool,
    /// When it was begun, and how long it took if it came to its end.
    begun: Option<Instant>,
    took: Option<Duration>,
    /// The layers that it made.
    layers: Vec<i64>,
    /// When what was found was made.
    made_s: Option<i64>,
    /// The shared cache that has it, and since when.
    shared: Option<(String, i64)>,
}

/// By step and input: the digest, and what it is of.
type Listings = HashMap<(VertexId, usize), (Digest, Vec<u8>)>;

/// What is noted while a build goes on.
#[derive(Debug)]
pub(crate) struct Journal {
    started: (Instant, SystemTime),
    notes: Mutex<HashMap<VertexId, Note>>,
    /// What steps read of their inputs.
    listings: Mutex<Listings>,
    /// How many bytes of each blob came in.
    transfers: Mutex<HashMap<Digest, u64>>,
    solved: OnceLock<Solver>,
}

impl Default for Journal {
    fn default() -> Journal {
        Journal {
            started: (Instant::now(), SystemTime::now()),
            notes: Mutex::default(),
            listings: Mutex::default(),
            transfers: Mutex::default(),
            solved: OnceLock::new(),
        }
    }
}

impl Journal {
    fn note(&self, vertex: VertexId, change: impl FnOnce(&mut Note)) {
        change(lock(&self.notes).entry(vertex).or_default());
    }

    /// A step's result was found under a key.
    pub fn found(&self, vertex: VertexId, key: CacheKey) {
        self.note(vertex, |note| note.found = Some(key));
    }

    /// A step was done by somebody else, whose result is taken.
    pub fn awaited(&self, vertex: VertexId, key: CacheKey) {
        self.found(vertex, key);
        self.came_from(vertex, Origin::OtherProcess);
    }

    /// A step's result, which was found, came from there.
    pub fn came_from(&self, vertex: VertexId, origin: Origin) {
        self.note(vertex, |note| note.origin = Some(origin));
    }

    /// What was found was made then, in seconds since 1970.
    pub fn made(&self, vertex: VertexId, made_s: i64) {
        self.note(vertex, |note| note.made_s = Some(made_s));
    }

    /// What was found is of a shared cache, which has it since then, in seconds since 1970.
    pub fn shared(&self, vertex: VertexId, place: String, made_s: i64) {
        self.note(vertex, |note| note.shared = Some((place, made_s)));
    }

    /// A step's record was found, but its layers are gone.
    pub fn pruned(&self, vertex: VertexId) {
        self.note(vertex, |note| note.was_pruned = true);
    }

    /// A step's record was found, but is older than it may be.
    pub fn too_old(&self, vertex: VertexId) {
        self.note(vertex, |note| note.was_old = true);
    }

    /// A step was begun.
    pub fn begun(&self, vertex: VertexId) {
        self.note(vertex, |note| note.begun = Some(Instant::now()));
    }

    /// A step came to its end.
    pub fn done(&self, vertex: VertexId, layers: &[Vec<i64>]) {
        self.note(vertex, |note| {
            note.took = note.begun.map(|begun| begun.elapsed());
            note.layers = layers.concat();
        });
    }

    /// What a step reads of an input.
    pub fn read(&self, vertex: VertexId, input: usize, digest: Digest, listing: Listing) {
        lock(&self.listings).insert((vertex, input), (digest, listing.into_bytes()));
    }

    /// So many bytes of a blob are here.
    pub fn transferred(&self, blob: &Digest, bytes: u64) {
        lock(&self.transfers).insert(*blob, bytes);
    }

    /// The graph is solved, or as far as it will be.
    pub fn solved(&self, solver: Solver) {
        // There is one for each build.
        let _ = self.solved.set(solver);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
