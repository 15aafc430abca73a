//! The 512-byte block that opens each member: its fields, its numbers, its checksum.
//! It does not know what a member means, nor which block follows which.
//!
//! ```text
//! 0 name[100] | 100 mode[8] | 108 uid[8] | 116 gid[8] | 124 size[12] | 136 mtime[12] | 148 checksum[8]
//! 156 typeflag | 157 linkname[100] | 257 magic[6] version[2] | 265 uname[32] | 297 gname[32]
//! 329 devmajor[8] | 337 devminor[8] | 345 prefix[155] (old GNU: 386 sparse map, 482 extended, 483 size)
//! ```

use super::reader::ArchiveError;
use std::ops::Range;

/// The size of a block.
pub(crate) const BLOCK_BYTES: usize = 512;
/// The greatest length of a path in the name field alone.
pub(crate) const NAME_BYTES: usize = 100;
/// The greatest length of the directory part in the prefix field.
pub(crate) const PREFIX_BYTES: usize = 155;

/// A block of the archive.
pub(crate) type Block = [u8; BLOCK_BYTES];

/// A field of the header block.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    name: &'static str,
    start: usize,
    len: usize,
}

impl Field {
    const fn new(name: &'static str, start: usize, len: usize) -> Field {
        Field { name, start, len }
    }

    fn range(self) -> Range<usize> {
        self.start..self.start + self.len
    }
}

pub(crate) const NAME: Field = Field::new("name", 0, NAME_BYTES);
pub(crate) const MODE: Field = Field::new("mode", 100, 8);
pub(crate) const UID: Field = Field::new("uid", 108, 8);
pub(crate) const GID: Field = Field::new("gid", 116, 8);
pub(crate) const SIZE: Field = Field::new("size", 124, 12);
pub(crate) const MTIME: Field = Field::new("mtime", 136, 12);
const CHECKSUM: Field = Field::new("checksum", 148, 8);
const TYPEFLAG: usize = 156;
pub(crate) const LINKNAME: Field = Field::new("linkname", 157, 100);
const MAGIC: Range<usize> = 257..265;
const MAGIC_USTAR: &[u8; 8] = b"ustar\x0000";
const MAGIC_GNU: &[u8; 8] = b"ustar  \0";
pub(crate) const DEVMAJOR: Field = Field::new("devmajor", 329, 8);
pub(crate) const DEVMINOR: Field = Field::new("devminor", 337, 8);
pub(crate) const PREFIX: Field = Field::new("prefix", 345, PREFIX_BYTES);
const PREFIX_STAR: Field = Field::new("prefix", 345, 131);
const TRAILER_STAR: Range<usize> = 508..512;
const SPARSE_IN_HEADER: (usize, usize) = (386, 4);
const SPARSE_IN_EXTENSION: (usize, usize) = (0, 21);
const EXTENDED_IN_HEADER: usize = 482;
const EXTENDED_IN_EXTENSION: usize = 504;
const REAL_SIZE: Field = Field::new("real size", 483, 12);
const SPARSE_NUMBER_BYTES: usize = 12;

/// Whether `value` fits `field` in octal with its closing NUL.
pub(crate) fn fits_octal(field: Field, value: u64) -> bool {
    value < 1 << ((field.len - 1) * 3)
}

/// A header block under construction, in the form of POSIX's ustar.
pub(crate) struct HeaderBuilder(Block);

impl HeaderBuilder {
    /// A block whose fields are all zero.
    pub(crate) fn new(typeflag: u8) -> HeaderBuilder {
        let mut block = [0; BLOCK_BYTES];
        block[TYPEFLAG] = typeflag;
        HeaderBuilder(block)
    }

    /// Sets a number in octal; one that does not fit becomes zero, and stands in an extended header.
    pub(crate) fn number(&mut self, field: Field, value: u64) -> &mut HeaderBuilder {
        let value = if fits_octal(field, value) { value } else { 0 };
        write_octal(&mut self.0[field.range()], value);
        self
    }

    /// Sets a text, cut to the field. A text that was cut never ends in a slash there: some readers take
    /// that for a directory, whatever the extended header says.
    pub(crate) fn text(&mut self, field: Field, text: &[u8]) -> &mut HeaderBuilder {
        let slot = &mut self.0[field.range()];
        let len = text.len().min(slot.len());
        slot[..len].copy_from_slice(&text[..len]);
        if text.len() > slot.len() && slot[slot.len() - 1] == b'/' {
            let keep = slot.iter().rposition(|&c| c != b'/').map_or(0, |at| at + 1);
            slot[keep] = 0;
        }
        self
    }

    /// The block with magic and checksum.
    pub(crate) fn finish(&mut self) -> &Block {
        self.0[MAGIC].copy_from_slice(MAGIC_USTAR);
        let (unsigned, _) = sums(&self.0);
        let slot = &mut self.0[CHECKSUM.range()];
        write_octal(&mut slot[..7], unsigned);
        slot[7] = b' ';
        &self.0
    }
}

/// Digits with leading zeros and a closing NUL.
fn write_octal(slot: &mut [u8], mut value: u64) {
    let digits = slot.len() - 1;
    slot[digits] = 0;
    for at in (0..digits).rev() {
        slot[at] = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}

/// The sums of a block's bytes as unsigned and as signed, its checksum field taken as blanks.
fn sums(block: &Block) -> (u64, i64) {
    let mut unsigned = 0;
    let mut signed = 0;
    for (at, &byte) in block.iter().enumerate() {
        let byte = if CHECKSUM.range().contains(&at) { b' ' } else { byte };
        unsigned += u64::from(byte);
        signed += i64::from(byte as i8);
    }
    (unsigned, signed)
}

/// Which dialect a header block is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Before POSIX: no prefix, no device numbers.
    V7,
    /// POSIX, which PAX extends.
    Ustar,
    /// Schilling's: a shorter prefix.
    Star,
    /// GNU's own.
    Gnu,
}

/// A header block that was read and whose checksum holds.
pub(crate) struct Header<'a>(&'a Block);

impl<'a> Header<'a> {
    /// The header in `block`, if its checksum holds as a sum of unsigned or of signed bytes.
    pub(crate) fn verified(block: &'a Block) -> Option<Header<'a>> {
        let stored = octal(&block[CHECKSUM.range()])?;
        let (unsigned, signed) = sums(block);
        (stored == unsigned || i64::try_from(stored) == Ok(signed)).then_some(Header(block))
    }

    /// The byte that says what the member is.
    pub(crate) fn typeflag(&self) -> u8 {
        self.0[TYPEFLAG]
    }

    /// The dialect, from the magic.
    pub(crate) fn dialect(&self) -> Dialect {
        let magic = &self.0[MAGIC];
        if magic == MAGIC_GNU {
            Dialect::Gnu
        } else if !magic.starts_with(b"ustar\0") {
            Dialect::V7
        } else if &self.0[TRAILER_STAR] == b"tar\0" {
            Dialect::Star
        } else {
            Dialect::Ustar
        }
    }

    /// A text field up to its first NUL.
    pub(crate) fn text(&self, field: Field) -> &'a [u8] {
        until_nul(&self.0[field.range()])
    }

    /// The path from prefix and name.
    pub(crate) fn path(&self) -> Vec<u8> {
        let prefix = match self.dialect() {
            Dialect::V7 | Dialect::Gnu => &[],
            Dialect::Ustar => self.text(PREFIX),
            Dialect::Star => self.text(PREFIX_STAR),
        };
        let mut path = prefix.to_vec();
        if !prefix.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(self.text(NAME));
        path
    }

    /// A number that may be negative.
    pub(crate) fn signed(&self, field: Field) -> Result<i64, ArchiveError> {
        number(&self.0[field.range()]).ok_or(ArchiveError::Number { field: field.name })
    }

    /// A number that may not be negative.
    pub(crate) fn unsigned(&self, field: Field) -> Result<u64, ArchiveError> {
        u64::try_from(self.signed(field)?).map_err(|_| ArchiveError::Number { field: field.name })
    }

    /// A number of 32 bits that may not be negative.
    pub(crate) fn word(&self, field: Field) -> Result<u32, ArchiveError> {
        u32::try_from(self.signed(field)?).map_err(|_| ArchiveError::Number { field: field.name })
    }

    /// The length with holes of a file in GNU's old sparse form.
    pub(crate) fn real_size(&self) -> Result<u64, ArchiveError> {
        self.unsigned(REAL_SIZE)
    }

    /// The part of the sparse map in this header, and whether a block with more of it follows.
    pub(crate) fn sparse_map(&self) -> Result<(Vec<(u64, u64)>, bool), ArchiveError> {
        sparse_pairs(self.0, SPARSE_IN_HEADER, EXTENDED_IN_HEADER)
    }
}

/// The part of the sparse map in an extension block, and whether another follows.
pub(crate) fn sparse_extension(block: &Block) -> Result<(Vec<(u64, u64)>, bool), ArchiveError> {
    sparse_pairs(block, SPARSE_IN_EXTENSION, EXTENDED_IN_EXTENSION)
}

fn sparse_pairs(
    block: &Block,
    (start, count): (usize, usize),
    extended: usize,
) -> Result<(Vec<(u64, u64)>, bool), ArchiveError> {
    let bad = || ArchiveError::Number { field: "sparse map" };
    let at = |index: usize| {
        let start = start + index * SPARSE_NUMBER_BYTES;
        &block[start..start + SPARSE_NUMBER_BYTES]
    };
    let mut pairs = Vec::with_capacity(count);
    for pair in 0..count {
        let (offset, length) = (at(pair * 2), at(pair * 2 + 1));
        if offset[0] == 0 {
            break;
        }
        let offset = number(offset).and_then(|n| u64::try_from(n).ok()).ok_or_else(bad)?;
        let length = number(length).and_then(|n| u64::try_from(n).ok()).ok_or_else(bad)?;
        pairs.push((offset, length));
    }
    Ok((pairs, block[extended] != 0))
}

/// `bytes` up to the first NUL.
pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&c| c == 0).next().unwrap_or_default()
}

/// A number in octal, or in GNU's base 256 if the first bit is set.
fn number(bytes: &[u8]) -> Option<i64> {
    if bytes.first()? & 0x80 != 0 { base_256(bytes) } else { octal(bytes)?.try_into().ok() }
}

/// Two's complement, most significant byte first, without the bit that marks the form.
fn base_256(bytes: &[u8]) -> Option<i64> {
    let negative = bytes.first()? & 0x40 != 0;
    let flip = if negative { 0xff } else { 0 };
    let mut value: i64 = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let byte = if at == 0 { (byte ^ flip) & 0x7f } else { byte ^ flip };
        value = value.checked_mul(256)?.checked_add(i64::from(byte))?;
    }
    Some(if negative { !value } else { value })
}

/// Octal digits between blanks and NULs; none at all is zero.
fn octal(bytes: &[u8]) -> Option<u64> {
    let blank = |c: &u8| matches!(c, b' ' | 0);
    let start = bytes.iter().position(|c| !blank(c)).unwrap_or(bytes.len());
    let digits = bytes[start..].split(blank).next()?;
    if !bytes[start + digits.len()..].iter().all(blank) {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, &c| {
        let digit = matches!(c, b'0'..=b'7').then(|| u64::from(c - b'0'))?;
        value.checked_mul(8)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256_and_never_overflow() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777777"), Some(0o77777777777));
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\x02"), Some(258));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), Some(i64::MAX));
        assert_eq!(number(b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0"), Some(i64::MIN));
        for bad in [&b"\x80\0\0\0\x80\0\0\0\0\0\0\0"[..], b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
        {
            assert_eq!(number(bad), None);
        }
        for bad in [&b"0000648\0"[..], b"-000001\0", b"12 34 \0\0", b"0x12\0\0\0\0"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_sum_of_signed_bytes_is_a_checksum_too() {
        let mut builder = HeaderBuilder::new(b'0');
        builder.text(NAME, b"caf\xe9").number(MODE, 0o644);
        let mut block = *builder.finish();
        assert!(Header::verified(&block).is_some());
        let (unsigned, signed) = sums(&block);
        assert_ne!(unsigned as i64, signed);
        write_octal(&mut block[148..155], signed as u64);
        assert!(Header::verified(&block).is_some());
        write_octal(&mut block[148..155], unsigned + 1);
        assert!(Header::verified(&block).is_none());
    }
}
