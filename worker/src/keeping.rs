//! What the store keeps and what it gives up: how much there is, what is worth least, what is damaged.
//!
//! Worth is what making a thing anew costs for each KiB that it takes, halved for each day since it was last
//! used. What a name or a live process needs is never given up, cache mounts only after all else.
//! It does not know how anything is made.

pub(crate) mod cap;
pub(crate) mod fsck;
mod inventory;
mod prune;
mod room;

pub use fsck::Damage;
pub(crate) use fsck::check;
pub(crate) use inventory::usage;
pub use inventory::{Kind, Usage, UsageItem};
pub(crate) use prune::prune;
pub use prune::{Filter, Pruning, Removed};
pub use room::Shortage;
pub(crate) use room::is_full;

/// How fast blobs are taken to come in or to be compressed, in bytes for each millisecond.
const BLOB_BYTES_PER_MS: u64 = 20_000;
/// What even the quickest step costs, in milliseconds: a process, a mount, a commit.
const STEP_MS: u64 = 50;
/// After so long without use a thing is worth half.
const HALF_LIFE_S: f64 = 86_400.0;

/// The worth of a thing that costs `cost_ms` to make anew.
fn worth(cost_ms: u64, bytes: u64, unused_s: i64) -> f64 {
    let halvings = (unused_s.max(0) as f64 / HALF_LIFE_S).min(1000.0);
    (cost_ms + STEP_MS) as f64 / (bytes as f64 / 1024.0 + 4.0) * 0.5f64.powf(halvings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_long_is_worth_more_and_what_lies_idle_less() {
        const MIB: u64 = 1 << 20;
        assert!(worth(600_000, MIB, 0) > worth(100, MIB, 0));
        assert!(worth(1000, MIB, 0) > worth(1000, 100 * MIB, 0));
        assert!(worth(1000, MIB, 0) > worth(1000, MIB, 3600));
        assert!(worth(600_000, MIB, 86_400) > worth(100, MIB, 0));
        assert!(worth(100, MIB, i64::MAX) >= 0.0);
    }
}
