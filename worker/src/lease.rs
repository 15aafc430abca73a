//! Leases: what live processes count on, so that no collector takes it away.
//!
//! ```text
//! <root>/leases/           locked shared while something is leased, alone while a collector decides
//! <root>/leases/<random>   what one process counts on, a line each; locked as long as it lives
//! ```
//! Who leases appends a line and then looks whether the thing is (still) there; a collector reads all lines
//! of the living and gives up what none of them names. Between the two stands the lock of the folder, held
//! only for that moment. A dead process's lines count for nothing: its lock died with it.
//! It does not know what the things are for.

use crate::WorkerError;
use crate::store::private_folder;
use kiln_oci::Digest;
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Something that can be counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Leased {
    /// A layer, by its number.
    Layer(i64),
    /// A blob, by its digest.
    Blob(Digest),
}

/// The leases of one process.
#[derive(Debug)]
pub(crate) struct Leases {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The folder, to be locked; and the process's own file.
    files: Option<(File, File)>,
    own: PathBuf,
    held: HashSet<Leased>,
}

/// The right to take away: as long as it is there, nobody leases anything.
#[derive(Debug)]
pub(crate) struct Deciding {
    /// What the living count on.
    pub leased: HashSet<Leased>,
    _lock: File,
}

impl Leases {
    /// The leases of a store, of which this process has none yet.
    pub fn open(root: &Path) -> Result<Leases, WorkerError> {
        let folder = root.join("leases");
        private_folder(&folder)?;
        Ok(Leases { folder, state: Mutex::default() })
    }

    /// Leases a thing, and gives what `look` then finds of it.
    pub fn take<T>(
        &self,
        thing: Leased,
        look: impl FnOnce() -> Result<T, WorkerError>,
    ) -> Result<T, WorkerError> {
        {
            let mut state = self.state();
            if !state.held.contains(&thing) {
                let shared = self.shared(&mut state)?;
                let appended = self.append(&mut state, thing);
                let _ = shared.unlock();
                appended?;
            }
        }
        look()
    }

    /// Makes a thing and leases it, before any collector can see the one without the other.
    pub fn make<T>(
        &self,
        make: impl FnOnce() -> Result<T, WorkerError>,
        thing: impl FnOnce(&T) -> Leased,
    ) -> Result<T, WorkerError> {
        let mut state = self.state();
        let shared = self.shared(&mut state)?;
        let made = make().and_then(|made| self.append(&mut state, thing(&made)).map(|()| made));
        let _ = shared.unlock();
        made
    }

    /// The layers that this process counts on.
    pub fn layers(&self) -> Vec<i64> {
        let layer = |leased: &Leased| match leased {
            Leased::Layer(id) => Some(*id),
            Leased::Blob(_) => None,
        };
        self.state().held.iter().filter_map(layer).collect()
    }

    /// Stops all leasing, and gives what is leased now. To be dropped soon.
    pub fn decide(&self) -> Result<Deciding, WorkerError> {
        let folder = &self.folder;
        let lock = File::open(folder).map_err(WorkerError::io("open", folder))?;
        lock.lock().map_err(WorkerError::io("lock", folder))?;
        let mut leased = HashSet::new();
        for entry in std::fs::read_dir(folder).map_err(WorkerError::io("list", folder))?.flatten() {
            let path = entry.path();
            // Its holder may have ended since.
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock_shared().is_ok() {
                let _ = std::fs::remove_file(&path);
                continue;
            }
            let text = std::fs::read_to_string(&path).map_err(WorkerError::io("read", &path))?;
            leased.extend(text.lines().filter_map(Leased::parse));
        }
        Ok(Deciding { leased, _lock: lock })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the folder together with others; makes this process's file when it is first needed.
    fn shared(&self, state: &mut State) -> Result<File, WorkerError> {
        let failed = || WorkerError::io("lock", &self.folder);
        if let Some((folder, _)) = &state.files {
            folder.lock_shared().map_err(failed())?;
            return folder.try_clone().map_err(failed());
        }
        let folder = File::open(&self.folder).map_err(failed())?;
        folder.lock_shared().map_err(failed())?;
        let random = RandomState::new().build_hasher().finish();
        state.own = self.folder.join(format!("{random:016x}"));
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&state.own);
        let file = file.map_err(WorkerError::io("create", &state.own))?;
        file.lock().map_err(WorkerError::io("lock", &state.own))?;
        let shared = folder.try_clone().map_err(failed())?;
        state.files = Some((folder, file));
        Ok(shared)
    }

    fn append(&self, state: &mut State, thing: Leased) -> Result<(), WorkerError> {
        if let Some((_, file)) = &mut state.files {
            let line = format!("{thing}\n");
            file.write_all(line.as_bytes()).map_err(WorkerError::io("write", &state.own))?;
        }
        state.held.insert(thing);
        Ok(())
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        let state = self.state();
        if state.files.is_some() {
            // One that stays is that of a dead process.
            let _ = std::fs::remove_file(&state.own);
        }
    }
}

impl std::fmt::Display for Leased {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Leased::Layer(id) => write!(f, "layer {id}"),
            Leased::Blob(digest) => write!(f, "blob {}", digest.hex()),
        }
    }
}

impl Leased {
    fn parse(line: &str) -> Option<Leased> {
        match line.split_once(' ')? {
            ("layer", id) => Some(Leased::Layer(id.parse().ok()?)),
            ("blob", hex) => Some(Leased::Blob(Digest::from_hex(hex).ok()?)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_living_count_on_is_seen_and_what_the_dead_did_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (Leases::open(folder.path()), Leases::open(folder.path()));
        let (one, other) = (one.expect("leases"), other.expect("leases"));
        let blob = Leased::Blob(Digest::of(b"x"));
        assert!(one.take(Leased::Layer(7), || Ok(true)).expect("a lease"));
        assert!(other.take(blob, || Ok(true)).expect("a lease"));
        assert_eq!(one.decide().expect("a decision").leased, HashSet::from([Leased::Layer(7), blob]));
        drop(other);
        std::fs::write(folder.path().join("leases/dead"), "layer 9\n").expect("a file");
        assert_eq!(one.decide().expect("a decision").leased, HashSet::from([Leased::Layer(7)]));
        assert!(!folder.path().join("leases/dead").exists());
    }

    #[test]
    fn two_hundred_leases_are_nothing_to_wait_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let leases = Leases::open(folder.path()).expect("leases");
        let started = std::time::Instant::now();
        (0..200).for_each(|id| leases.take(Leased::Layer(id), || Ok(())).expect("a lease"));
        let took = started.elapsed();
        assert!(took < std::time::Duration::from_millis(100), "{took:?}");
        assert_eq!(leases.layers().len(), 200);
    }

    #[test]
    fn nothing_is_leased_while_somebody_decides() {
        let folder = tempfile::tempdir().expect("a folder");
        let leases = Leases::open(folder.path()).expect("leases");
        let deciding = leases.decide().expect("a decision");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| leases.take(Leased::Layer(1), || Ok(())));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!waiting.is_finished());
            drop(deciding);
            assert!(waiting.join().is_ok_and(|taken| taken.is_ok()));
        });
    }
}
