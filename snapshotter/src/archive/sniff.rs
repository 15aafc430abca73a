//! Recognises archives and compressed streams by their first bytes, as ADD does to decide what it unpacks.
//! It does not know names or media types.

use super::header::{BLOCK_BYTES, Header};
use crate::compress::Compression;
use std::io::{self, Read};

/// As many bytes from the start of a stream as `detect` looks at.
pub const PREFIX_BYTES: usize = 8;

const MAGICS: [(&[u8], Compression); 4] = [
    (b"\x1f\x8b\x08", Compression::Gzip),
    (b"BZh", Compression::Bzip2),
    (b"\xfd7zXZ\0", Compression::Xz),
    (b"\x28\xb5\x2f\xfd", Compression::Zstd),
];

/// How a stream that starts with `prefix` is compressed.
pub fn detect(prefix: &[u8]) -> Compression {
    let magic = MAGICS.iter().find(|(magic, _)| prefix.starts_with(magic));
    match magic {
        Some((_, compression)) => *compression,
        None if is_skippable_zstd(prefix) => Compression::Zstd,
        None => Compression::None,
    }
}

/// A frame that zstd skips may come before the first that it does not.
fn is_skippable_zstd(prefix: &[u8]) -> bool {
    prefix.len() >= 8 && prefix[0] & 0xf0 == 0x50 && prefix[1..4] == [0x2a, 0x4d, 0x18]
}

/// Whether an uncompressed stream that starts with `prefix` is a tar: its first block is a header with the
/// right checksum. An archive without members is none.
pub fn is_tar(prefix: &[u8]) -> bool {
    prefix
        .first_chunk::<BLOCK_BYTES>()
        .is_some_and(|block| *block != [0; BLOCK_BYTES] && Header::verified(block).is_some())
}

/// Whether `stream` is a tar, compressed or not: what ADD unpacks. A stream that can't be decompressed is
/// none.
pub fn is_archive<R: Read + Send>(mut stream: R) -> io::Result<bool> {
    let mut prefix = Vec::new();
    stream.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut prefix)?;
    let compression = detect(&prefix);
    if compression == Compression::None {
        return Ok(is_tar(&prefix));
    }
    let mut block = Vec::new();
    let plain = crate::compress::decoder(prefix.chain(stream), compression);
    let read = plain.and_then(|plain| plain.take(BLOCK_BYTES as u64).read_to_end(&mut block));
    Ok(read.is_ok() && is_tar(&block))
}
