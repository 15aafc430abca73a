//! Cuts a large file where its content says so: a change in it, or more bytes somewhere, move the cuts around it
//! only. Compilers and package managers mostly keep files that never change; their large ones are archives and
//! packs (never changed), logs (which grow) and databases (changed in places), which all come out well.
//! It does not know what becomes of the pieces.

use std::io::{self, Read};

/// The least that is cut off, but at a file's end.
const BYTES_MIN: usize = 256 << 10;
/// The most.
pub(super) const BYTES_MAX: usize = 4 << 20;
/// So many of the rolling hash's upper bits must be zero at a cut: one byte in 2^20.
const CUT_BITS: u32 = 20;
/// A number for each byte, which must be the same for ever: other numbers, other cuts.
const GEAR: [u64; 256] = gear();

/// Reads a file in pieces.
pub(super) struct Chunks<R> {
    inner: R,
    /// What was read and not given.
    buffer: Vec<u8>,
    is_at_end: bool,
}

impl<R: Read> Chunks<R> {
    pub fn new(inner: R) -> Chunks<R> {
        Chunks { inner, buffer: Vec::new(), is_at_end: false }
    }

    /// The next piece; `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        while !self.is_at_end && self.buffer.len() < BYTES_MAX {
            let missing = (BYTES_MAX - self.buffer.len()) as u64;
            let read = self.inner.by_ref().take(missing).read_to_end(&mut self.buffer)?;
            self.is_at_end = (read as u64) < missing;
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let rest = self.buffer.split_off(cut(&self.buffer));
        Ok(Some(std::mem::replace(&mut self.buffer, rest)))
    }
}

/// Where the first piece ends.
fn cut(bytes: &[u8]) -> usize {
    let mut hash = 0u64;
    // Only the last 64 bytes count: each one's number is shifted out by those that follow.
    let begin = BYTES_MIN.saturating_sub(64);
    for (at, byte) in bytes.iter().enumerate().skip(begin) {
        hash = (hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
        if at + 1 >= BYTES_MIN && hash >> (64 - CUT_BITS) == 0 {
            return at + 1;
        }
    }
    bytes.len().min(BYTES_MAX)
}

/// The outputs of splitmix64, begun at 0.
const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let mut state = 0u64;
    let mut i = 0;
    while i < 256 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[i] = z ^ (z >> 31);
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    fn pieces(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut chunks = Chunks::new(bytes);
        std::iter::from_fn(|| chunks.next().expect("bytes in memory")).collect()
    }

    #[test]
    fn pieces_are_the_whole_and_within_their_limits() {
        for bytes in [noise(0), noise(5), noise(9 << 20), vec![0; 9 << 20]] {
            let all = pieces(&bytes);
            assert!(all.concat() == bytes);
            let (_, but_last) = all.split_last().map_or((&bytes, &[][..]), |(last, rest)| (last, rest));
            assert!(but_last.iter().all(|piece| (BYTES_MIN..=BYTES_MAX).contains(&piece.len())));
        }
    }

    #[test]
    fn more_bytes_in_the_middle_change_few_pieces() {
        let old = noise(24 << 20);
        let new = [&old[..12 << 20], b"seven!!", &old[12 << 20..]].concat();
        let known: HashSet<Vec<u8>> = pieces(&old).into_iter().collect();
        let changed: usize = pieces(&new).iter().filter(|p| !known.contains(*p)).map(Vec::len).sum();
        assert!(known.len() > 5 && changed <= 2 * BYTES_MAX, "{changed} bytes of {} pieces", known.len());
    }
}
