//! LZMA2: the chunks inside of an xz block. Decodes a chunk at a time into a ring that holds the dictionary
//! and one chunk. It does not know xz's frame or checks.
//!
//! ```text
//! 0: end | 1, 2: size u16, stored bytes | 0x80…: size u16, packed size u16, [properties], packed bytes
//! ```

use std::io::{self, Read};

/// The greatest unpacked size of a chunk.
const CHUNK_BYTES_MAX: usize = 1 << 21;
const STATES: usize = 12;
const POSITIONS: usize = 16;
const MATCH_BYTES_MIN: usize = 2;
const PROBABILITY_BITS: u32 = 11;
const PROBABILITY_INIT: u16 = 1 << (PROBABILITY_BITS - 1);
const ADAPTATION: u16 = 5;
const RANGE_MIN: u32 = 1 << 24;
const LITERAL_PROBABILITIES: usize = 0x300;

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged xz: {what}"))
}

/// A decoder of one LZMA2 stream.
pub(super) struct Lzma2 {
    ring: Vec<u8>,
    dictionary_bytes: usize,
    /// Where the next byte goes.
    at: usize,
    /// Decoded bytes that nobody has taken yet; they end at `at`.
    unread: usize,
    /// Bytes since the dictionary was last reset.
    total: u64,
    model: Model,
    packed: Vec<u8>,
    needs: Needs,
}

/// What the next chunk must reset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Needs {
    Nothing,
    Properties,
    Dictionary,
}

impl Lzma2 {
    /// A decoder with a dictionary of this size; its memory is only touched as the content grows.
    pub(super) fn new(dictionary_bytes: usize) -> Lzma2 {
        Lzma2 {
            ring: vec![0; dictionary_bytes + CHUNK_BYTES_MAX],
            dictionary_bytes,
            at: 0,
            unread: 0,
            total: 0,
            model: Model::default(),
            packed: Vec::new(),
            needs: Needs::Dictionary,
        }
    }

    /// Moves decoded bytes to `buf`; zero if there are none.
    pub(super) fn take(&mut self, buf: &mut [u8]) -> usize {
        let start = (self.at + self.ring.len() - self.unread) % self.ring.len();
        let n = self.unread.min(buf.len()).min(self.ring.len() - start);
        buf[..n].copy_from_slice(&self.ring[start..start + n]);
        self.unread -= n;
        n
    }

    /// Reads and decodes the next chunk, all bytes before it having been taken; false at the end.
    pub(super) fn next_chunk(&mut self, stream: &mut impl Read) -> io::Result<bool> {
        let [control] = array(stream)?;
        if control == 0 {
            return Ok(false);
        }
        let size = usize::from(u16::from_be_bytes(array(stream)?));
        let resets_dictionary = control == 1 || control >= 0xe0;
        if resets_dictionary {
            self.total = 0;
            self.needs = Needs::Properties;
        } else if self.needs == Needs::Dictionary {
            return Err(damaged("its first chunk does not reset the dictionary"));
        }
        match control {
            1 | 2 => self.stored(size + 1, stream),
            3..0x80 => Err(damaged("unknown kind of chunk")),
            _ => self.compressed(control, (usize::from(control & 0x1f) << 16) + size + 1, stream),
        }?;
        Ok(true)
    }

    fn stored(&mut self, mut size: usize, stream: &mut impl Read) -> io::Result<()> {
        while size > 0 {
            let n = size.min(self.ring.len() - self.at);
            stream.read_exact(&mut self.ring[self.at..self.at + n])?;
            self.at = (self.at + n) % self.ring.len();
            self.unread += n;
            self.total += n as u64;
            size -= n;
        }
        Ok(())
    }

    fn compressed(&mut self, control: u8, size: usize, stream: &mut impl Read) -> io::Result<()> {
        let packed = usize::from(u16::from_be_bytes(array(stream)?)) + 1;
        if control >= 0xc0 {
            let [properties] = array(stream)?;
            self.model.set_properties(properties)?;
            self.needs = Needs::Nothing;
        } else if self.needs != Needs::Nothing {
            return Err(damaged("a chunk without properties"));
        }
        if control >= 0xa0 {
            self.model.reset();
        }
        let mut input = std::mem::take(&mut self.packed);
        input.resize(packed, 0);
        stream.read_exact(&mut input)?;
        let mut range = RangeDecoder::new(&input)?;
        let mut left = size;
        while left > 0 {
            left -= self.symbol(&mut range, left)?;
        }
        range.finish()?;
        self.packed = input;
        Ok(())
    }

    /// Decodes a literal or a match of at most `left` bytes; gives its length.
    fn symbol(&mut self, range: &mut RangeDecoder<'_>, left: usize) -> io::Result<usize> {
        let before = if self.total == 0 { 0 } else { self.back(1) };
        let distance = self.model.distances[0] as usize + 1;
        // Only looked at after a match, which has been checked.
        let matched = self.back(distance.min(self.ring.len()));
        let symbol = self.model.symbol(range, self.total, before, matched)?;
        if range.overrun {
            return Err(damaged("a chunk ends early"));
        }
        match symbol {
            Symbol::Literal(byte) => {
                self.push(byte);
                Ok(1)
            }
            Symbol::Match { distance, length } => {
                let distance = distance as usize + 1;
                if length > left || distance > self.dictionary_bytes || distance as u64 > self.total {
                    return Err(damaged("a match beyond its bounds"));
                }
                self.copy(distance, length);
                Ok(length)
            }
        }
    }

    fn back(&self, distance: usize) -> u8 {
        let at = if distance <= self.at { self.at - distance } else { self.at + self.ring.len() - distance };
        self.ring[at]
    }

    fn push(&mut self, byte: u8) {
        self.ring[self.at] = byte;
        self.at += 1;
        if self.at == self.ring.len() {
            self.at = 0;
        }
        self.unread += 1;
        self.total += 1;
    }

    fn copy(&mut self, distance: usize, length: usize) {
        if distance >= length && distance <= self.at && self.at + length < self.ring.len() {
            let from = self.at - distance;
            self.ring.copy_within(from..from + length, self.at);
            self.at += length;
            self.unread += length;
            self.total += length as u64;
            return;
        }
        for _ in 0..length {
            self.push(self.back(distance));
        }
    }
}

fn array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

enum Symbol {
    Literal(u8),
    Match { distance: u32, length: usize },
}

/// The adaptive model: what LZMA remembers besides the dictionary.
struct Model {
    literal_context_bits: u32,
    literal_position_mask: u64,
    position_mask: u64,
    state: usize,
    /// The last four distances, less one.
    distances: [u32; 4],
    is_match: [[u16; POSITIONS]; STATES],
    is_repeat: [u16; STATES],
    is_repeat_other: [u16; STATES],
    is_repeat_later: [u16; STATES],
    is_repeat_last: [u16; STATES],
    is_repeat_long: [[u16; POSITIONS]; STATES],
    slots: [[u16; 64]; 4],
    special: [u16; 115],
    align: [u16; 16],
    match_length: LengthModel,
    repeat_length: LengthModel,
    literals: Vec<u16>,
}

struct LengthModel {
    choice: [u16; 2],
    low: [[u16; 8]; POSITIONS],
    middle: [[u16; 8]; POSITIONS],
    high: [u16; 256],
}

impl Default for LengthModel {
    fn default() -> LengthModel {
        const P: u16 = PROBABILITY_INIT;
        LengthModel { choice: [P; 2], low: [[P; 8]; 16], middle: [[P; 8]; 16], high: [P; 256] }
    }
}

impl LengthModel {
    fn decode(&mut self, range: &mut RangeDecoder<'_>, position: usize) -> usize {
        if !range.bit(&mut self.choice[0]) {
            range.tree(&mut self.low[position], 3)
        } else if !range.bit(&mut self.choice[1]) {
            8 + range.tree(&mut self.middle[position], 3)
        } else {
            16 + range.tree(&mut self.high, 8)
        }
    }
}

impl Default for Model {
    fn default() -> Model {
        const P: u16 = PROBABILITY_INIT;
        Model {
            literal_context_bits: 0,
            literal_position_mask: 0,
            position_mask: 0,
            state: 0,
            distances: [0; 4],
            is_match: [[P; POSITIONS]; STATES],
            is_repeat: [P; STATES],
            is_repeat_other: [P; STATES],
            is_repeat_later: [P; STATES],
            is_repeat_last: [P; STATES],
            is_repeat_long: [[P; POSITIONS]; STATES],
            slots: [[P; 64]; 4],
            special: [P; 115],
            align: [P; 16],
            match_length: LengthModel::default(),
            repeat_length: LengthModel::default(),
            literals: Vec::new(),
        }
    }
}

impl Model {
    fn set_properties(&mut self, properties: u8) -> io::Result<()> {
        let lc = u32::from(properties % 9);
        let lp = u32::from(properties / 9 % 5);
        let pb = u32::from(properties / 45);
        if pb > 4 || lc + lp > 4 {
            return Err(damaged("invalid properties"));
        }
        self.literal_context_bits = lc;
        self.literal_position_mask = (1 << lp) - 1;
        self.position_mask = (1 << pb) - 1;
        self.literals.resize(LITERAL_PROBABILITIES << (lc + lp), PROBABILITY_INIT);
        Ok(())
    }

    fn reset(&mut self) {
        let mut literals = std::mem::take(&mut self.literals);
        literals.fill(PROBABILITY_INIT);
        *self = Model {
            literal_context_bits: self.literal_context_bits,
            literal_position_mask: self.literal_position_mask,
            position_mask: self.position_mask,
            literals,
            ..Model::default()
        };
    }

    fn symbol(
        &mut self,
        range: &mut RangeDecoder<'_>,
        total: u64,
        before: u8,
        matched: u8,
    ) -> io::Result<Symbol> {
        let position = (total & self.position_mask) as usize;
        let state = self.state;
        if !range.bit(&mut self.is_match[state][position]) {
            return Ok(Symbol::Literal(self.literal(range, total, before, matched)));
        }
        if range.bit(&mut self.is_repeat[state]) {
            let length = self.repeat(range, position);
            return Ok(Symbol::Match { distance: self.distances[0], length });
        }
        let length = self.match_length.decode(range, position) + MATCH_BYTES_MIN;
        let distance = self.distance(range, length);
        if distance == u32::MAX {
            return Err(damaged("an end marker inside of a chunk"));
        }
        self.distances = [distance, self.distances[0], self.distances[1], self.distances[2]];
        self.state = if state < 7 { 7 } else { 10 };
        Ok(Symbol::Match { distance, length })
    }

    fn literal(&mut self, range: &mut RangeDecoder<'_>, total: u64, before: u8, matched: u8) -> u8 {
        let high = usize::from(before) >> (8 - self.literal_context_bits);
        let low = (total & self.literal_position_mask) as usize;
        let start = LITERAL_PROBABILITIES * ((low << self.literal_context_bits) + high);
        let probabilities = &mut self.literals[start..start + LITERAL_PROBABILITIES];
        let mut symbol = 1;
        if self.state >= 7 {
            let mut matched = usize::from(matched);
            while symbol < 0x100 {
                let expected = (matched >> 7) & 1;
                matched <<= 1;
                let bit = usize::from(range.bit(&mut probabilities[((1 + expected) << 8) + symbol]));
                symbol = symbol << 1 | bit;
                if bit != expected {
                    break;
                }
            }
        }
        while symbol < 0x100 {
            symbol = symbol << 1 | usize::from(range.bit(&mut probabilities[symbol]));
        }
        self.state = match self.state {
            0..4 => 0,
            state @ 4..10 => state - 3,
            state => state - 6,
        };
        symbol as u8
    }

    /// A match at one of the last distances, which becomes the first; gives its length.
    fn repeat(&mut self, range: &mut RangeDecoder<'_>, position: usize) -> usize {
        let state = self.state;
        if !range.bit(&mut self.is_repeat_other[state]) {
            if !range.bit(&mut self.is_repeat_long[state][position]) {
                self.state = if state < 7 { 9 } else { 11 };
                return 1;
            }
        } else {
            let which = if !range.bit(&mut self.is_repeat_later[state]) {
                1
            } else {
                2 + usize::from(range.bit(&mut self.is_repeat_last[state]))
            };
            self.distances[..=which].rotate_right(1);
        }
        self.state = if state < 7 { 8 } else { 11 };
        self.repeat_length.decode(range, position) + MATCH_BYTES_MIN
    }

    fn distance(&mut self, range: &mut RangeDecoder<'_>, length: usize) -> u32 {
        let slot = range.tree(&mut self.slots[(length - MATCH_BYTES_MIN).min(3)], 6);
        if slot < 4 {
            return slot as u32;
        }
        let bits = (slot >> 1) as u32 - 1;
        let base = (2 | (slot as u32 & 1)) << bits;
        if slot < 14 {
            return base + range.reverse_tree(&mut self.special[base as usize - slot..], bits);
        }
        let high = range.direct(bits - 4) << 4;
        base.wrapping_add(high).wrapping_add(range.reverse_tree(&mut self.align, 4))
    }
}

/// Decodes bits from a chunk's packed bytes.
struct RangeDecoder<'a> {
    input: &'a [u8],
    at: usize,
    range: u32,
    code: u32,
    /// Whether bytes were asked for beyond the end; they are zeros.
    overrun: bool,
}

impl<'a> RangeDecoder<'a> {
    fn new(input: &'a [u8]) -> io::Result<RangeDecoder<'a>> {
        let Some((&[0, a, b, c, d], _)) = input.split_first_chunk::<5>() else {
            return Err(damaged("a chunk starts wrong"));
        };
        let code = u32::from_be_bytes([a, b, c, d]);
        Ok(RangeDecoder { input, at: 5, range: u32::MAX, code, overrun: false })
    }

    fn finish(mut self) -> io::Result<()> {
        self.normalize();
        if self.overrun || self.at != self.input.len() || self.code != 0 {
            return Err(damaged("a chunk is longer than its content"));
        }
        Ok(())
    }

    #[inline]
    fn normalize(&mut self) {
        if self.range < RANGE_MIN {
            self.range <<= 8;
            let byte = self.input.get(self.at).copied();
            self.overrun |= byte.is_none();
            self.code = self.code << 8 | u32::from(byte.unwrap_or(0));
            self.at += 1;
        }
    }

    #[inline]
    fn bit(&mut self, probability: &mut u16) -> bool {
        self.normalize();
        let bound = (self.range >> PROBABILITY_BITS) * u32::from(*probability);
        if self.code < bound {
            self.range = bound;
            *probability += ((1 << PROBABILITY_BITS) - *probability) >> ADAPTATION;
            false
        } else {
            self.range -= bound;
            self.code -= bound;
            *probability -= *probability >> ADAPTATION;
            true
        }
    }

    #[inline]
    fn tree(&mut self, probabilities: &mut [u16], bits: u32) -> usize {
        let mut symbol = 1;
        for _ in 0..bits {
            symbol = symbol << 1 | usize::from(self.bit(&mut probabilities[symbol]));
        }
        symbol - (1 << bits)
    }

    fn reverse_tree(&mut self, probabilities: &mut [u16], bits: u32) -> u32 {
        let (mut symbol, mut value) = (1, 0);
        for at in 0..bits {
            let bit = self.bit(&mut probabilities[symbol]);
            symbol = symbol << 1 | usize::from(bit);
            value |= u32::from(bit) << at;
        }
        value
    }

    fn direct(&mut self, bits: u32) -> u32 {
        let mut value = 0;
        for _ in 0..bits {
            self.normalize();
            self.range >>= 1;
            let bit = self.code >= self.range;
            if bit {
                self.code -= self.range;
            }
            value = value << 1 | u32::from(bit);
        }
        value
    }
}
