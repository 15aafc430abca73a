//! Blocks of a stream that were compressed before, and whether it is worth while to compress one at all. It does not
//! know how a stream is cut, nor where blocks are kept.

use flate2::{Compress, Compression, Crc, FlushCompress};
use kiln_oci::Digest;
use std::io;

/// How many pieces of a block are looked at.
const PIECES: usize = 8;
/// How long each is.
const PIECE_BYTES: usize = 8 << 10;
/// In what is quite random, every value of a byte comes equally often: then the squares of how often add up to the
/// least. What is above that by more than a twentieth has something that can be saved.
const SQUARES_ABOVE: u64 = 20;
/// Less than one part in so many saved is not worth the time.
const SAVED_MIN: usize = 64;

/// Compressed blocks that are kept somewhere.
pub trait Blocks: Send + Sync {
    /// Puts the bytes of a compressed block into `bytes`, in place of what is there; false if it isn't here whole.
    /// What `bytes` holds then does not matter.
    fn find(&self, key: &Digest, bytes: &mut Vec<u8>) -> bool;
}

/// A block in a compressed stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedBlock {
    /// What it is known by: all that its bytes depend on.
    pub key: Digest,
    /// Where in the stream it begins, in bytes.
    pub at: u64,
    /// How long it is, in bytes.
    pub bytes: u32,
    /// The CRC-32 of these bytes.
    pub check: u32,
}

impl PackedBlock {
    pub(super) fn of(key: Digest, at: u64, bytes: &[u8]) -> PackedBlock {
        PackedBlock { key, at, bytes: bytes.len() as u32, check: check(bytes) }
    }

    /// Whether these are its bytes.
    pub fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.bytes as usize && check(bytes) == self.check
    }
}

fn check(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Whether a block is so random, by some pieces of it, that deflating it would save next to nothing.
pub(super) fn looks_random(block: &[u8]) -> io::Result<bool> {
    if block.len() < 2 * PIECES * PIECE_BYTES {
        return Ok(false);
    }
    let step = block.len() / PIECES;
    let mut sample = Vec::with_capacity(PIECES * PIECE_BYTES);
    for piece in block.chunks_exact(step).take(PIECES) {
        sample.extend_from_slice(&piece[..PIECE_BYTES]);
    }
    let mut counts = [0_u64; 256];
    for byte in &sample {
        counts[usize::from(*byte)] += 1;
    }
    let length = sample.len() as u64;
    let squares: u64 = counts.iter().map(|count| count * count).sum();
    // Of random bytes: as much as if all came equally often, and as many again as there are.
    let least = length * length / 256 + length;
    if squares > least + least / SQUARES_ABOVE {
        return Ok(false);
    }
    let mut compress = Compress::new(Compression::fast(), false);
    let mut out = vec![0; sample.len() + sample.len() / 8];
    compress.compress(&sample, &mut out, FlushCompress::Finish)?;
    Ok(compress.total_out() as usize + sample.len() / SAVED_MIN > sample.len())
}
