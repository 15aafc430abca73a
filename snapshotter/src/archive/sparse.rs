//! Files with holes: where their data lies, from the maps of GNU's old form and of the PAX forms 0.0, 0.1
//! and 1.0. It does not know headers or streams.

use super::reader::ArchiveError;

/// The greatest number of pieces of data in one file.
pub const SEGMENTS_MAX: usize = 1 << 18;

/// A piece of a file's data; what lies between two is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts in the file.
    pub offset: u64,
    /// Its length.
    pub length: u64,
}

/// Checks that the pieces are in order, inside of the file, and together as long as what is stored.
pub(crate) fn segments(
    pairs: impl IntoIterator<Item = (u64, u64)>,
    size: u64,
    stored: u64,
) -> Result<Vec<Segment>, ArchiveError> {
    let mut out = Vec::new();
    let (mut end, mut total) = (0_u64, 0_u64);
    for (offset, length) in pairs {
        if out.len() == SEGMENTS_MAX {
            return Err(ArchiveError::TooLarge { what: "map of a sparse file", max: SEGMENTS_MAX });
        }
        let next = offset.checked_add(length).filter(|&next| offset >= end && next <= size);
        end = next.ok_or(ArchiveError::Sparse { why: "its pieces overlap or lie beyond its end" })?;
        total += length;
        // GNU tar closes a map with an empty piece at the file's end.
        if length > 0 {
            out.push(Segment { offset, length });
        }
    }
    if total != stored {
        return Err(ArchiveError::Sparse { why: "its pieces are not as long as what is stored" });
    }
    Ok(out)
}

/// The numbers of a map, offset and length in turn, as pairs.
pub(crate) fn pairs(numbers: &[u64]) -> Result<impl Iterator<Item = (u64, u64)>, ArchiveError> {
    if !numbers.len().is_multiple_of(2) {
        return Err(ArchiveError::Sparse { why: "an offset without a length" });
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_in_order_and_exhausts_what_is_stored() {
        let check =
            |pairs: &[(u64, u64)], size, stored| segments(pairs.iter().copied(), size, stored).is_ok();
        assert!(check(&[(0, 5), (10, 5), (20, 0)], 20, 10));
        assert!(check(&[], 20, 0));
        assert!(!check(&[(0, 5), (4, 5)], 20, 10));
        assert!(!check(&[(10, 5), (0, 5)], 20, 10));
        assert!(!check(&[(0, 21)], 20, 21));
        assert!(!check(&[(u64::MAX, 2)], 20, 2));
        assert!(!check(&[(0, 5)], 20, 6));
        assert!(!check(&[], 20, 1));
    }
}
