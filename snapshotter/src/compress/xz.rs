//! Decompresses xz: any number of streams of blocks with LZMA2, their sizes, checks and index verified.
//! The dictionary bounds the memory. It does not know how LZMA2 is coded, and no filter besides.
//!
//! ```text
//! stream: header | block … | index | footer, then zeros in fours
//! block:  header | LZMA2 | zeros to a multiple of four | check
//! ```

use super::lzma::Lzma2;
use flate2::Crc;
use kiln_oci::Hasher;
use std::io::{self, BufRead, Read};

/// The greatest dictionary: twice what `xz -9` makes.
pub(super) const DICTIONARY_BYTES_MAX: u64 = 128 << 20;
const DICTIONARY_BYTES_MIN: u64 = 4096;
const STREAM_MAGIC: [u8; 6] = *b"\xfd7zXZ\0";
const FOOTER_MAGIC: [u8; 2] = *b"YZ";
const LZMA2_FILTER: u64 = 0x21;

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged xz: {what}"))
}

fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("xz: {what}"))
}

/// The content of all streams, one after the other.
pub(super) struct XzReader<R> {
    input: Counted<R>,
    state: State,
    check: CheckKind,
    /// Length and hash of the blocks so far, to be compared with the index.
    blocks: BlockList,
}

enum State {
    /// Before a stream; whether one came before.
    Stream {
        first: bool,
    },
    /// Before a block or the index.
    Block,
    InBlock(Box<Open>),
    Ended,
    Failed,
}

/// The block that is being decoded.
struct Open {
    lzma: Lzma2,
    check: Check,
    header_bytes: u64,
    start: u64,
    size: u64,
    packed_expected: Option<u64>,
    size_expected: Option<u64>,
}

#[derive(Default)]
struct BlockList {
    count: u64,
    hasher: Hasher,
}

impl BlockList {
    fn push(&mut self, unpadded: u64, size: u64) {
        self.count += 1;
        self.hasher.update(&unpadded.to_le_bytes());
        self.hasher.update(&size.to_le_bytes());
    }
}

impl<R: BufRead> XzReader<R> {
    pub(super) fn new(stream: R) -> XzReader<R> {
        XzReader {
            input: Counted { inner: stream, count: 0, crc: Crc::new() },
            state: State::Stream { first: true },
            check: CheckKind::None,
            blocks: BlockList::default(),
        }
    }

    fn step(&mut self, state: State, buf: &mut [u8]) -> io::Result<(State, usize)> {
        Ok(match state {
            State::Stream { first } => (self.open_stream(first)?, 0),
            State::Block => (self.open_block()?, 0),
            State::InBlock(mut open) => {
                let n = open.lzma.take(buf);
                open.size += n as u64;
                open.check.update(&buf[..n]);
                if n > 0 || open.lzma.next_chunk(&mut self.input)? {
                    (State::InBlock(open), n)
                } else {
                    self.close_block(*open)?;
                    (State::Block, 0)
                }
            }
            State::Ended => (State::Ended, 0),
            State::Failed => return Err(damaged("it has failed before")),
        })
    }

    fn open_stream(&mut self, first: bool) -> io::Result<State> {
        if !first {
            while self.input.peek()? == Some(0) {
                if self.input.array::<4>()? != [0; 4] {
                    return Err(damaged("garbage between streams"));
                }
            }
            if self.input.peek()?.is_none() {
                return Ok(State::Ended);
            }
        }
        if self.input.array()? != STREAM_MAGIC {
            return Err(damaged("no stream header"));
        }
        self.input.crc.reset();
        let flags: [u8; 2] = self.input.array()?;
        self.input.expect_crc()?;
        if flags[0] != 0 {
            return Err(unsupported("unknown stream flags"));
        }
        self.check = CheckKind::of(flags[1])?;
        self.blocks = BlockList::default();
        Ok(State::Block)
    }

    fn open_block(&mut self) -> io::Result<State> {
        let start = self.input.count;
        self.input.crc.reset();
        let [size] = self.input.array()?;
        if size == 0 {
            self.close_stream(start)?;
            return Ok(State::Stream { first: false });
        }
        let header_bytes = (u64::from(size) + 1) * 4;
        let mut header = vec![0; header_bytes as usize - 5];
        self.input.read_exact(&mut header)?;
        self.input.expect_crc()?;
        let mut header = header.as_slice();
        let [flags] = take(&mut header)?;
        if flags & 0x3f != 0 {
            return Err(unsupported("filters other than LZMA2"));
        }
        let packed_expected = (flags & 0x40 != 0).then(|| multibyte(&mut header)).transpose()?;
        let size_expected = (flags & 0x80 != 0).then(|| multibyte(&mut header)).transpose()?;
        if multibyte(&mut header)? != LZMA2_FILTER || multibyte(&mut header)? != 1 {
            return Err(unsupported("filters other than LZMA2"));
        }
        let [bits] = take(&mut header)?;
        if header.iter().any(|&byte| byte != 0) {
            return Err(damaged("garbage in a block header"));
        }
        Ok(State::InBlock(Box::new(Open {
            lzma: Lzma2::new(dictionary(bits)?),
            check: Check::new(self.check),
            header_bytes,
            start: self.input.count,
            size: 0,
            packed_expected,
            size_expected,
        })))
    }

    fn close_block(&mut self, open: Open) -> io::Result<()> {
        let packed = self.input.count - open.start;
        if open.packed_expected.is_some_and(|expected| expected != packed)
            || open.size_expected.is_some_and(|expected| expected != open.size)
        {
            return Err(damaged("a block has another size than its header says"));
        }
        self.input.expect_zeros(packed.wrapping_neg() % 4)?;
        let sum = open.check.finish();
        let mut stored = vec![0; sum.len()];
        self.input.read_exact(&mut stored)?;
        if stored != sum {
            return Err(damaged("a block's check does not match"));
        }
        self.blocks.push(open.header_bytes + packed + sum.len() as u64, open.size);
        Ok(())
    }

    /// Reads the index, whose first byte was read, and the footer.
    fn close_stream(&mut self, start: u64) -> io::Result<()> {
        let mut listed = BlockList::default();
        let count = multibyte(&mut self.input)?;
        if count != self.blocks.count {
            return Err(damaged("the index does not match the blocks"));
        }
        for _ in 0..count {
            listed.push(multibyte(&mut self.input)?, multibyte(&mut self.input)?);
        }
        let blocks = std::mem::take(&mut self.blocks);
        if listed.hasher.finish() != blocks.hasher.finish() {
            return Err(damaged("the index does not match the blocks"));
        }
        self.input.expect_zeros((self.input.count - start).wrapping_neg() % 4)?;
        self.input.expect_crc()?;
        let index_bytes = self.input.count - start;
        let crc: [u8; 4] = self.input.array()?;
        self.input.crc.reset();
        let backward = u64::from(u32::from_le_bytes(self.input.array()?));
        let flags: [u8; 2] = self.input.array()?;
        let matches = crc == self.input.crc.sum().to_le_bytes()
            && (backward + 1) * 4 == index_bytes
            && flags == [0, self.check as u8]
            && self.input.array()? == FOOTER_MAGIC;
        if matches { Ok(()) } else { Err(damaged("the footer does not match")) }
    }
}

impl<R: BufRead> Read for XzReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let state = std::mem::replace(&mut self.state, State::Failed);
            let (state, n) = self.step(state, buf)?;
            let ended = matches!(state, State::Ended);
            self.state = state;
            if n > 0 || ended {
                return Ok(n);
            }
        }
    }
}

/// A stream whose bytes are counted and summed.
struct Counted<R> {
    inner: R,
    count: u64,
    crc: Crc,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.crc.update(&buf[..n]);
        self.count += n as u64;
        Ok(n)
    }
}

impl<R: BufRead> Counted<R> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        take(self)
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.inner.fill_buf() {
                Ok(bytes) => return Ok(bytes.first().copied()),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
    }

    fn expect_zeros(&mut self, count: u64) -> io::Result<()> {
        for _ in 0..count {
            if self.array()? != [0] {
                return Err(damaged("padding that is not zero"));
            }
        }
        Ok(())
    }

    /// Reads the CRC of what was read since it was last reset.
    fn expect_crc(&mut self) -> io::Result<()> {
        let sum = self.crc.sum().to_le_bytes();
        if self.array()? == sum { Ok(()) } else { Err(damaged("a header's check does not match")) }
    }
}

fn take<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A number of up to nine bytes with seven bits each, the lowest first.
fn multibyte(input: &mut impl Read) -> io::Result<u64> {
    let mut value = 0;
    for at in 0..9 {
        let [byte] = take(input)?;
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return if byte == 0 && at > 0 { Err(damaged("a number is too long")) } else { Ok(value) };
        }
    }
    Err(damaged("a number is too long"))
}

/// The size of the dictionary that the filter's property stands for.
fn dictionary(bits: u8) -> io::Result<usize> {
    let size = match bits {
        0..40 => (2 | u64::from(bits & 1)) << (bits / 2 + 11),
        40 => u64::from(u32::MAX),
        _ => return Err(damaged("an impossible dictionary")),
    };
    if size > DICTIONARY_BYTES_MAX {
        return Err(unsupported("a dictionary of more than 128 MiB"));
    }
    Ok(size.max(DICTIONARY_BYTES_MIN) as usize)
}

/// How blocks are checked.
#[derive(Clone, Copy)]
enum CheckKind {
    None = 0,
    Crc32 = 1,
    Crc64 = 4,
    Sha256 = 10,
}

impl CheckKind {
    fn of(flag: u8) -> io::Result<CheckKind> {
        [CheckKind::None, CheckKind::Crc32, CheckKind::Crc64, CheckKind::Sha256]
            .into_iter()
            .find(|kind| *kind as u8 == flag)
            .ok_or_else(|| unsupported("an unknown check"))
    }
}

/// The check of a block in progress.
enum Check {
    None,
    Crc32(Crc),
    Crc64(u64),
    Sha256(Hasher),
}

impl Check {
    fn new(kind: CheckKind) -> Check {
        match kind {
            CheckKind::None => Check::None,
            CheckKind::Crc32 => Check::Crc32(Crc::new()),
            CheckKind::Crc64 => Check::Crc64(u64::MAX),
            CheckKind::Sha256 => Check::Sha256(Hasher::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Check::None => {}
            Check::Crc32(crc) => crc.update(bytes),
            Check::Crc64(sum) => *sum = crc64(*sum, bytes),
            Check::Sha256(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Check::None => Vec::new(),
            Check::Crc32(crc) => crc.sum().to_le_bytes().to_vec(),
            Check::Crc64(sum) => (!sum).to_le_bytes().to_vec(),
            Check::Sha256(hasher) => hasher.finish().as_bytes().to_vec(),
        }
    }
}

const CRC64_TABLE: [u64; 256] = crc64_table();

const fn crc64_table() -> [u64; 256] {
    const POLYNOMIAL: u64 = 0xc96c_5795_d787_0f42;
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
}

fn crc64(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, &byte| sum >> 8 ^ CRC64_TABLE[usize::from(sum as u8 ^ byte)])
}
