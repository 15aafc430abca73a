//! What is remembered of a folder's files from one build to the next: the digest of each, by device,
//! inode, size and the times of its last changes. Paths don't count.
//!
//! A file whose last change is within the clock's grain of when it was read is not remembered: it could
//! change once more without a sign (git's racy rule). On disk: 72 bytes for each file, after a version.
//! It does not know folders.

use kiln_oci::Digest;
use kiln_snapshotter::NodeStat;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

const VERSION: &[u8; 8] = b"kilnmem2";
const ENTRY_BYTES: usize = 72;
/// The kernel's clock for file times may be this much behind, in nanoseconds.
const GRAIN_NS: i128 = 20_000_000;
/// More files than this are not remembered.
const ENTRIES_MAX: usize = 4_000_000;

/// What tells whether a file is still what it was.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
}

/// The digests of files, old and new.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    known: HashMap<Stamp, Digest>,
    new: Mutex<HashMap<Stamp, Digest>>,
    used: AtomicBool,
    started_ns: i128,
}

impl Stamp {
    fn of(stat: &NodeStat) -> Stamp {
        let ns = |(s, ns): (i64, u32)| s.saturating_mul(1_000_000_000).saturating_add(i64::from(ns));
        Stamp {
            dev: stat.device,
            ino: stat.inode,
            size: stat.size,
            mtime_ns: ns(stat.mtime),
            ctime_ns: ns(stat.ctime),
        }
    }
}

impl Memo {
    /// What was remembered, as [`Memo::to_bytes`] wrote it; what can't be read is forgotten.
    pub fn from_bytes(bytes: &[u8]) -> Memo {
        let mut memo = Memo { started_ns: now_ns(), ..Memo::default() };
        let Some(entries) = bytes.strip_prefix(VERSION) else { return memo };
        let number = |entry: &[u8], at: usize| {
            entry.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes)
        };
        memo.known.reserve(entries.len() / ENTRY_BYTES);
        for entry in entries.chunks_exact(ENTRY_BYTES) {
            let stamp = Stamp {
                dev: number(entry, 0),
                ino: number(entry, 8),
                size: number(entry, 16),
                mtime_ns: number(entry, 24) as i64,
                ctime_ns: number(entry, 32) as i64,
            };
            let Ok(digest) = <[u8; 32]>::try_from(&entry[40..72]) else { continue };
            memo.known.insert(stamp, Digest::from_bytes(digest));
        }
        memo
    }

    /// The digest of a file, if it is known to be what it was.
    pub fn get(&self, stat: &NodeStat) -> Option<Digest> {
        let stamp = Stamp::of(stat);
        let noted = || self.new.lock().unwrap_or_else(PoisonError::into_inner).get(&stamp).copied();
        self.known.get(&stamp).copied().or_else(noted)
    }

    /// Whether a change of a file since the memo was opened would show in its times.
    pub fn shows_changes(&self, stat: &NodeStat) -> bool {
        i128::from(Stamp::of(stat).ctime_ns) + GRAIN_NS < self.started_ns
    }

    /// Remembers the digest of a file that was looked at before it was read.
    pub fn note(&self, stat: &NodeStat, digest: Digest) {
        if self.shows_changes(stat) {
            self.used.store(true, Ordering::Relaxed);
            self.new.lock().unwrap_or_else(PoisonError::into_inner).insert(Stamp::of(stat), digest);
        }
    }

    /// All of it, to be kept; `None` if nothing is new.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        if !self.used.swap(false, Ordering::Relaxed) {
            return None;
        }
        let new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        // A file that changed leaves its old stamp behind: one inode, one entry.
        let mut all: HashMap<(u64, u64), (&Stamp, &Digest)> = HashMap::new();
        for (stamp, digest) in self.known.iter().chain(new.iter()).take(ENTRIES_MAX) {
            all.insert((stamp.dev, stamp.ino), (stamp, digest));
        }
        let mut out = Vec::with_capacity(VERSION.len() + all.len() * ENTRY_BYTES);
        out.extend_from_slice(VERSION);
        for (stamp, digest) in all.values() {
            let Stamp { dev, ino, size, mtime_ns, ctime_ns } = stamp;
            for number in [*dev, *ino, *size, *mtime_ns as u64, *ctime_ns as u64] {
                out.extend_from_slice(&number.to_be_bytes());
            }
            out.extend_from_slice(digest.as_bytes());
        }
        Some(out)
    }
}

fn now_ns() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i128)
}

#[cfg(test)]
mod tests;
