//! Reads a layer's tar as a stream, and refuses what two readers could understand differently.
//! Knows ustar, PAX, GNU's and the old form; memory is bounded by the named limits.
//! It does not know whether a path is safe to create.

use super::entry::{OwnedEntry, OwnedKind};
use super::header::{
    self, BLOCK_BYTES, Block, DEVMAJOR, DEVMINOR, GID, Header, LINKNAME, MODE, MTIME, SIZE, UID,
};
use super::pax::{self, Extended, METADATA_BYTES_MAX};
use super::sparse::{self, SEGMENTS_MAX, Segment};
use std::io::{self, BufReader, Read};

/// The greatest length of a path or of a link's target.
pub const PATH_BYTES_MAX: usize = 64 << 10;
const BUFFER_BYTES: usize = 64 << 10;
/// Twenty digits hold any number of a sparse map.
const MAP_LINE_BYTES_MAX: usize = 20;

/// Why an archive can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream below failed.
    #[error("cannot read the archive: {0}")]
    Io(#[from] io::Error),
    /// The stream ended inside of a member.
    #[error("the archive is truncated")]
    Truncated,
    /// A block is not a header.
    #[error("not a tar header at byte {offset}")]
    NotAHeader {
        /// Where the block starts.
        offset: u64,
    },
    /// A number is malformed, negative or too great.
    #[error("invalid {field} in the archive")]
    Number {
        /// The name of the number.
        field: &'static str,
    },
    /// A record of an extended header is malformed.
    #[error("invalid record in an extended header: {why}")]
    Record {
        /// What is wrong with it.
        why: &'static str,
    },
    /// A path holds a NUL.
    #[error("a path in the archive holds a NUL")]
    NulInPath,
    /// Two statements about a member contradict each other.
    #[error("the archive contradicts itself: {what}")]
    Contradiction {
        /// Which statements.
        what: &'static str,
    },
    /// The map of a sparse file is wrong.
    #[error("invalid sparse file in the archive: {why}")]
    Sparse {
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something is greater than the reader takes.
    #[error("{what} in the archive exceeds {max}")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// A kind of member that no layer holds, such as a part of a multi-volume archive.
    #[error("the archive holds a member of type {}, which is not supported", typeflag.escape_ascii())]
    Unsupported {
        /// The byte that says what the member is.
        typeflag: u8,
    },
}

impl From<ArchiveError> for io::Error {
    fn from(err: ArchiveError) -> io::Error {
        match err {
            ArchiveError::Io(err) => err,
            ArchiveError::Truncated => io::Error::new(io::ErrorKind::UnexpectedEof, err),
            _ => io::Error::new(io::ErrorKind::InvalidData, err),
        }
    }
}

/// Reads members one after the other; as `Read`, it gives the current file's content, holes as zeros.
pub struct LayerReader<R> {
    inner: BufReader<R>,
    /// Bytes taken from the stream.
    offset: u64,
    content: Content,
    state: State,
}

/// Where the stream stands between members.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Members,
    Ended,
    Failed,
}

/// What is left of the current file.
#[derive(Default)]
struct Content {
    size: u64,
    position: u64,
    segments: Vec<Segment>,
    /// The segment at or after `position`.
    current: usize,
    /// Stored bytes that were not yet taken.
    stored: u64,
    padding: u64,
}

/// What the headers before a member's own say about it.
#[derive(Default)]
struct Announced {
    extended: Option<Extended>,
    long_path: Option<Vec<u8>>,
    long_target: Option<Vec<u8>>,
}

impl Announced {
    fn is_empty(&self) -> bool {
        self.extended.is_none() && self.long_path.is_none() && self.long_target.is_none()
    }
}

impl<R: Read> LayerReader<R> {
    /// Reads from `inner`, which must give the uncompressed tar; the reader has a buffer of its own.
    pub fn new(inner: R) -> LayerReader<R> {
        let inner = BufReader::with_capacity(BUFFER_BYTES, inner);
        LayerReader { inner, offset: 0, content: Content::default(), state: State::Members }
    }

    /// The next member, or none at the archive's end. What is left of the content before is skipped.
    /// After an error there is no next.
    #[allow(clippy::should_implement_trait, reason = "an iterator could not lend the content")]
    pub fn next(&mut self) -> Result<Option<OwnedEntry>, ArchiveError> {
        match self.state {
            State::Members => {}
            State::Ended => return Ok(None),
            State::Failed => return Err(ArchiveError::Truncated),
        }
        self.state = State::Failed;
        let entry = self.next_member()?;
        self.state = if entry.is_some() { State::Members } else { State::Ended };
        Ok(entry)
    }

    /// How many bytes of the tar it has gone by: those of the headers of the current member, and of its content as far as
    /// that was read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The pieces of the current file that hold data, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.content.segments
    }

    /// The next piece of data of the current file with its offset in the file, holes left out; `None` at
    /// the end.
    pub fn read_data(&mut self, buf: &mut [u8]) -> io::Result<Option<(u64, usize)>> {
        let Some(segment) = self.content.segments.get(self.content.current) else {
            self.content.position = self.content.size;
            return Ok(None);
        };
        let at = self.content.position.max(segment.offset);
        self.content.position = at;
        Ok(Some((at, self.read_stored(buf)?)))
    }

    /// Reads to the end of the stream, beyond the end of the archive too, so that one who hashes the stream
    /// sees all of it; gives back the stream.
    pub fn finish(mut self) -> Result<R, ArchiveError> {
        while self.next()?.is_some() {}
        io::copy(&mut self.inner, &mut io::sink())?;
        Ok(self.inner.into_inner())
    }

    fn next_member(&mut self) -> Result<Option<OwnedEntry>, ArchiveError> {
        if !self.skip_content()? {
            return Ok(None);
        }
        let mut announced = Announced::default();
        loop {
            let Some(block) = self.header_block()? else {
                return if announced.is_empty() { Ok(None) } else { Err(ArchiveError::Truncated) };
            };
            let offset = self.offset - BLOCK_BYTES as u64;
            let header = Header::verified(&block).ok_or(ArchiveError::NotAHeader { offset })?;
            match header.typeflag() {
                b'x' => announced.extended.once(pax::parse(&self.body(&header)?)?)?,
                b'g' => pax::check_global(&self.body(&header)?)?,
                b'L' => announced.long_path.once(self.long_name(&header)?)?,
                b'K' => announced.long_target.once(self.long_name(&header)?)?,
                _ => return self.member(&header, announced).map(Some),
            }
        }
    }

    /// The next header block; none at the end of the archive: two blocks of zeros, or the stream's end.
    fn header_block(&mut self) -> Result<Option<Block>, ArchiveError> {
        let mut block = [0; BLOCK_BYTES];
        if !self.fill(&mut block)? {
            return Ok(None);
        }
        if block != [0; BLOCK_BYTES] {
            return Ok(Some(block));
        }
        if self.fill(&mut block)? && block != [0; BLOCK_BYTES] {
            return Err(ArchiveError::NotAHeader { offset: self.offset - BLOCK_BYTES as u64 });
        }
        Ok(None)
    }

    /// The body of a header that speaks of the member after it. Its length is the one in its own block: no
    /// record speaks of it.
    fn body(&mut self, header: &Header<'_>) -> Result<Vec<u8>, ArchiveError> {
        let size = header.unsigned(SIZE)?;
        let size = usize::try_from(size)
            .ok()
            .filter(|&size| size <= METADATA_BYTES_MAX)
            .ok_or(ArchiveError::TooLarge { what: "extended header", max: METADATA_BYTES_MAX })?;
        let mut body = Vec::new();
        self.inner.by_ref().take(size as u64).read_to_end(&mut body)?;
        self.offset += body.len() as u64;
        if body.len() < size {
            return Err(ArchiveError::Truncated);
        }
        self.discard(padding(size as u64))?;
        Ok(body)
    }

    fn long_name(&mut self, header: &Header<'_>) -> Result<Vec<u8>, ArchiveError> {
        Ok(header::until_nul(&self.body(header)?).to_vec())
    }

    fn member(&mut self, header: &Header<'_>, announced: Announced) -> Result<OwnedEntry, ArchiveError> {
        let Announced { extended, long_path, long_target } = announced;
        let mut extended = extended.unwrap_or_default();
        let written = match long_path {
            None => extended.path.take(),
            Some(long) => Some(agreed(long, extended.path.take())?),
        };
        let target = match long_target {
            None => extended.linkpath.take().unwrap_or_else(|| header.text(LINKNAME).to_vec()),
            Some(long) => agreed(long, extended.linkpath.take())?,
        };
        let sparse_name = extended.sparse.name.take().filter(|name| !name.is_empty());
        let path = sparse_name.or(written).unwrap_or_else(|| header.path());
        if path.len().max(target.len()) > PATH_BYTES_MAX {
            return Err(ArchiveError::TooLarge { what: "path", max: PATH_BYTES_MAX });
        }
        let kind = kind(header, &path, target)?;
        let header_mtime = header.signed(MTIME);
        let (mtime_s, mtime_ns) = match extended.mtime {
            Some(time) => time,
            None => (header_mtime?, 0),
        };
        let sparse = self.open_content(header, &kind, &extended)?;
        Ok(OwnedEntry {
            path,
            mode: (header.unsigned(MODE)? & 0o7777) as u32,
            uid: extended.uid.map_or_else(|| header.word(UID), Ok)?,
            gid: extended.gid.map_or_else(|| header.word(GID), Ok)?,
            mtime_s,
            mtime_ns,
            xattrs: extended.xattrs,
            size_bytes: self.content.size,
            sparse,
            kind,
        })
    }

    /// Sets up the content of a member; says whether it is stored with holes. Only files have content:
    /// the size in the header of anything else says nothing about the stream, as in Go.
    fn open_content(
        &mut self,
        header: &Header<'_>,
        kind: &OwnedKind,
        extended: &Extended,
    ) -> Result<bool, ArchiveError> {
        self.content = Content::default();
        if *kind != OwnedKind::File {
            return Ok(false);
        }
        let stored = extended.size.map_or_else(|| header.unsigned(SIZE), Ok)?;
        let records = &extended.sparse;
        let old = header.typeflag() == b'S';
        let version = (records.major.unwrap_or(0), records.minor.unwrap_or(0));
        let announced = *records != pax::SparseRecords::default();
        let (size, left, segments) = if announced && (old || (version == (1, 0) && records.map.is_some())) {
            return Err(ArchiveError::Contradiction { what: "a sparse file has two maps" });
        } else if old {
            let (size, pairs) = (header.real_size()?, self.old_map(header)?);
            (size, stored, sparse::segments(pairs, size, stored)?)
        } else if version == (1, 0) {
            let size = records.size.ok_or(ArchiveError::Sparse { why: "no size" })?;
            let (taken, pairs) = self.stored_map(stored)?;
            (size, stored - taken, sparse::segments(pairs, size, stored - taken)?)
        } else if let Some(map) = records.map.as_ref().filter(|_| matches!(version, (0, 0 | 1))) {
            let size = records.size.ok_or(ArchiveError::Sparse { why: "no size" })?;
            if records.blocks.is_some_and(|blocks| blocks != map.len() as u64 / 2) {
                return Err(ArchiveError::Sparse { why: "its map is not as long as it says" });
            }
            (size, stored, sparse::segments(sparse::pairs(map)?, size, stored)?)
        } else if announced {
            return Err(ArchiveError::Sparse { why: "an unknown version, or no map" });
        } else {
            let whole = Segment { offset: 0, length: stored };
            (stored, stored, if stored > 0 { vec![whole] } else { Vec::new() })
        };
        let sparse = old || announced;
        self.content = Content { size, segments, stored: left, padding: padding(left), ..Content::default() };
        Ok(sparse)
    }

    /// The map of GNU's old form: in the header, then in blocks of its own.
    fn old_map(&mut self, header: &Header<'_>) -> Result<Vec<(u64, u64)>, ArchiveError> {
        let (mut pairs, mut more) = header.sparse_map()?;
        while more {
            let mut block = [0; BLOCK_BYTES];
            if !self.fill(&mut block)? {
                return Err(ArchiveError::Truncated);
            }
            let (next, extended) = header::sparse_extension(&block)?;
            if next.is_empty() && extended {
                return Err(ArchiveError::Sparse { why: "an empty block inside of its map" });
            }
            if pairs.len() + next.len() > SEGMENTS_MAX {
                return Err(ArchiveError::TooLarge { what: "map of a sparse file", max: SEGMENTS_MAX });
            }
            pairs.extend(next);
            more = extended;
        }
        Ok(pairs)
    }

    /// The map of the PAX form 1.0: lines of digits before the data, padded to a block, and their length.
    fn stored_map(&mut self, stored: u64) -> Result<(u64, Vec<(u64, u64)>), ArchiveError> {
        let bad = || ArchiveError::Sparse { why: "the map before its data is malformed" };
        let (mut numbers, mut line) = (Vec::new(), Vec::new());
        let (mut count, mut taken) = (None, 0);
        while count.is_none_or(|count: u64| (numbers.len() as u64) < count * 2) {
            if taken + BLOCK_BYTES as u64 > stored {
                return Err(bad());
            }
            let mut block = [0; BLOCK_BYTES];
            if !self.fill(&mut block)? {
                return Err(ArchiveError::Truncated);
            }
            taken += BLOCK_BYTES as u64;
            for &byte in &block {
                if count.is_some_and(|count| numbers.len() as u64 == count * 2) {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > MAP_LINE_BYTES_MAX {
                        return Err(bad());
                    }
                    continue;
                }
                let number = pax::decimal(&line, "sparse map")?;
                line.clear();
                match count {
                    None if number > SEGMENTS_MAX as u64 => {
                        let what = "map of a sparse file";
                        return Err(ArchiveError::TooLarge { what, max: SEGMENTS_MAX });
                    }
                    None => count = Some(number),
                    Some(_) => numbers.push(number),
                }
            }
        }
        Ok((taken, sparse::pairs(&numbers)?.collect()))
    }

    /// Skips to the next header; false if the stream ends where the last member's padding should be.
    fn skip_content(&mut self) -> Result<bool, ArchiveError> {
        let content = std::mem::take(&mut self.content);
        self.discard(content.stored)?;
        let padding = self.take_up_to(content.padding)?;
        if padding < content.padding && padding > 0 {
            return Err(ArchiveError::Truncated);
        }
        Ok(padding == content.padding)
    }

    fn discard(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        if self.take_up_to(bytes)? < bytes { Err(ArchiveError::Truncated) } else { Ok(()) }
    }

    fn take_up_to(&mut self, bytes: u64) -> Result<u64, ArchiveError> {
        let taken = io::copy(&mut self.inner.by_ref().take(bytes), &mut io::sink())?;
        self.offset += taken;
        Ok(taken)
    }

    /// Reads a whole block; false if the stream is at its end.
    fn fill(&mut self, block: &mut Block) -> Result<bool, ArchiveError> {
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(ArchiveError::Truncated),
                Ok(n) => filled += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err.into()),
            }
        }
        self.offset += BLOCK_BYTES as u64;
        Ok(true)
    }

    /// Reads data of the current segment, in which `position` lies.
    fn read_stored(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let content = &mut self.content;
        let segment = content.segments[content.current];
        let end = segment.offset + segment.length;
        let wanted = usize::try_from(end - content.position).map_or(buf.len(), |left| left.min(buf.len()));
        let n = self.inner.read(&mut buf[..wanted])?;
        if n == 0 && wanted > 0 {
            return Err(ArchiveError::Truncated.into());
        }
        self.offset += n as u64;
        content.position += n as u64;
        content.stored -= n as u64;
        if content.position == end {
            content.current += 1;
        }
        Ok(n)
    }
}

impl<R: Read> Read for LayerReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let content = &mut self.content;
        let data = content.segments.get(content.current).map_or(content.size, |segment| segment.offset);
        if content.position >= data {
            return if content.position == content.size { Ok(0) } else { self.read_stored(buf) };
        }
        let hole = data - content.position;
        let n = usize::try_from(hole).map_or(buf.len(), |hole| hole.min(buf.len()));
        buf[..n].fill(0);
        content.position += n as u64;
        Ok(n)
    }
}

/// A thing that a member can be told once.
trait Once<T> {
    fn once(&mut self, value: T) -> Result<(), ArchiveError>;
}

impl<T> Once<T> for Option<T> {
    fn once(&mut self, value: T) -> Result<(), ArchiveError> {
        match self.replace(value) {
            None => Ok(()),
            Some(_) => Err(ArchiveError::Contradiction { what: "a member has two headers of one kind" }),
        }
    }
}

fn agreed(gnu: Vec<u8>, pax: Option<Vec<u8>>) -> Result<Vec<u8>, ArchiveError> {
    if pax.is_some_and(|pax| pax != gnu) {
        return Err(ArchiveError::Contradiction { what: "a member has two names" });
    }
    Ok(gnu)
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK_BYTES as u64
}

fn kind(header: &Header<'_>, path: &[u8], target: Vec<u8>) -> Result<OwnedKind, ArchiveError> {
    let device = || Ok::<_, ArchiveError>((header.word(DEVMAJOR)?, header.word(DEVMINOR)?));
    Ok(match header.typeflag() {
        // Archives from before there was a type for directories.
        0 if path.ends_with(b"/") => OwnedKind::Directory,
        0 | b'0' | b'7' | b'S' => OwnedKind::File,
        b'1' => OwnedKind::Hardlink { target },
        b'2' => OwnedKind::Symlink { target },
        b'3' => device().map(|(major, minor)| OwnedKind::CharDevice { major, minor })?,
        b'4' => device().map(|(major, minor)| OwnedKind::BlockDevice { major, minor })?,
        b'5' => OwnedKind::Directory,
        b'6' => OwnedKind::Fifo,
        typeflag => return Err(ArchiveError::Unsupported { typeflag }),
    })
}
