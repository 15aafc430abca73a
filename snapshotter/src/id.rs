//! The name of a snapshot: 16 hexadecimal digits, made at random and parsed strictly, since it is
//! a folder's name.
//! It does not know what the snapshot holds.

use crate::error::SnapshotError;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::str::FromStr;

/// Names one snapshot of a store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(u64);

impl SnapshotId {
    /// A new one. It need not be unique: making its folder is what decides.
    pub(crate) fn random() -> SnapshotId {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        SnapshotId(hasher.finish())
    }
}

impl FromStr for SnapshotId {
    type Err = SnapshotError;

    fn from_str(text: &str) -> Result<SnapshotId, SnapshotError> {
        let digits = text.len() == 16 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(text, 16) {
            Ok(number) if digits => Ok(SnapshotId(number)),
            _ => Err(SnapshotError::BadId(text.chars().take(40).collect())),
        }
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sixteen_lower_case_digits_are_an_id() {
        let id = SnapshotId::random();
        assert_eq!(id.to_string().parse::<SnapshotId>().ok(), Some(id));
        for bad in
            ["", "..", "0", "+000000000000001", "ABCDEF0123456789", "0123456789abcdef0", "../../../../../.."]
        {
            assert!(bad.parse::<SnapshotId>().is_err(), "{bad}");
        }
    }
}
