//! Compresses gzip in parallel. The content is cut into blocks, each deflated on the rayon pool with the 32 KiB
//! before it as dictionary, and joined in order to one member. Where it is cut depends on the content alone, so the
//! bytes depend on neither the number of threads nor the sizes of writes; and what is equal in two streams is cut
//! alike in both, so that a block which was deflated once can be taken from there. It does not know what it
//! compresses, where the bytes go, nor who keeps blocks.
//!
//! ```text
//! header | block, sync flush | block, sync flush | … | END | CRC-32 | length
//! ```

use super::blocks::{Blocks, PackedBlock, looks_random};
use flate2::{Compress, Crc, FlushCompress};
use kiln_oci::{Digest, Hasher};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// The level that is used when none is asked for.
pub(super) const LEVEL_DEFAULT: i32 = 3;
/// Changes with anything that may change the bytes; a test pins them.
pub(super) const VERSION: &str = "gzip zlib-rs 0.6.8 block 262144 1048576 1024 dictionary 32768 stored";

/// A block is no shorter, but for the last one.
const BLOCK_BYTES_MIN: usize = 256 << 10;
/// A block is no longer.
const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Between the two it ends behind one in so many units, chosen by what is in them.
const UNITS_A_BLOCK: u64 = 1024;
/// What is looked at to choose: as a tar is made of such units, what moves in it moves by them.
const UNIT_BYTES: usize = 512;
/// How much of a unit is looked at.
const UNIT_HEAD_BYTES: usize = 64;
const DICTIONARY_BYTES: usize = 32 << 10;
/// No time, no name, no word on the level; the operating system is unknown: as Go writes it.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// An empty block of deflate with fixed codes, which is the last.
const END: [u8; 2] = [3, 0];
/// With an eighth of the content, more than deflate and its flush can add to what they can't compress.
const GROWTH_BYTES: usize = 4 << 10;
/// How many blocks of all streams are on their way at most, whatever the number of threads: 64 MiB in and out. A
/// stream that has none on its way may always begin one.
const ON_THEIR_WAY_MAX: usize = 32;
/// A shorter block is quicker deflated than looked for.
const REUSED_BYTES_MIN: usize = 64 << 10;
/// How long a thread of the pool that found nothing to do waits for a block before it looks again.
const IDLE: Duration = Duration::from_millis(1);

/// Compresses what is written to it. Must be finished; `flush` neither cuts a block nor waits for one.
///
/// Holds at most two blocks for each thread of the pool and two more, and all writers together some 64 MiB. Better
/// written to from a thread outside of the pool; on one of the pool's own it works on the pool's tasks while it waits.
pub struct GzipWriter<W> {
    inner: W,
    level: u32,
    known: Option<Arc<dyn Blocks>>,
    /// The dictionary for the next block, then its content so far.
    filling: Vec<u8>,
    dictionary_bytes: usize,
    /// How much of that content was looked at for its end.
    searched: usize,
    /// Blocks on their way, in order.
    queue: VecDeque<(Receiver<io::Result<Deflated>>, Ticket)>,
    queue_max: usize,
    /// Buffers for reuse.
    spare: Vec<Vec<u8>>,
    crc: Crc,
    /// How many bytes were given to the writer below.
    written: u64,
    blocks: Vec<PackedBlock>,
    failed: bool,
}

/// Counts a block that is on its way.
struct Ticket;

static TICKETS: AtomicUsize = AtomicUsize::new(0);

impl Ticket {
    fn take() -> Ticket {
        TICKETS.fetch_add(1, Ordering::Relaxed);
        Ticket
    }

    fn are_all_taken() -> bool {
        TICKETS.load(Ordering::Relaxed) >= ON_THEIR_WAY_MAX
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        TICKETS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A block to be deflated: dictionary, then content.
struct Task {
    buffer: Vec<u8>,
    dictionary_bytes: usize,
    output: Vec<u8>,
    level: u32,
    known: Option<Arc<dyn Blocks>>,
}

struct Deflated {
    bytes: Vec<u8>,
    crc: Crc,
    /// What it is known by, if it is worth keeping.
    key: Option<Digest>,
    /// The task's buffer, no longer of use.
    buffer: Vec<u8>,
}

impl<W: Write> GzipWriter<W> {
    /// Compresses to `inner` at `level`, 0 to 9; starts with the header. Takes what was compressed before from
    /// `known`.
    pub fn new(mut inner: W, level: u32, known: Option<Arc<dyn Blocks>>) -> io::Result<GzipWriter<W>> {
        if level > 9 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "gzip has levels 0 to 9"));
        }
        inner.write_all(&HEADER)?;
        Ok(GzipWriter {
            inner,
            level,
            known,
            filling: Vec::new(),
            dictionary_bytes: 0,
            searched: 0,
            queue: VecDeque::new(),
            queue_max: 2 * rayon::current_num_threads() + 1,
            spare: Vec::new(),
            crc: Crc::new(),
            written: HEADER.len() as u64,
            blocks: Vec::new(),
            failed: false,
        })
    }

    /// Compresses the rest, waits for all blocks, and gives back the writer below, not flushed, and where in it the
    /// blocks are that can be taken another time.
    pub fn finish(mut self) -> io::Result<(W, Vec<PackedBlock>)> {
        self.check()?;
        if self.filling.len() > self.dictionary_bytes {
            self.submit(self.filling.len())?;
        }
        while !self.queue.is_empty() {
            self.collect()?;
        }
        self.inner.write_all(&END)?;
        self.inner.write_all(&self.crc.sum().to_le_bytes())?;
        self.inner.write_all(&self.crc.amount().to_le_bytes())?;
        Ok((self.inner, self.blocks))
    }

    #[cfg(test)]
    pub(super) fn on_their_way(&self) -> usize {
        self.queue.len()
    }

    fn check(&self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("the gzip stream has failed before"));
        }
        Ok(())
    }

    /// Where the block ends that is being filled, if it is known by now: a place in `filling`.
    fn end(&mut self) -> Option<usize> {
        let content = &self.filling[self.dictionary_bytes..];
        // What is before the least length need not be looked at.
        self.searched = self.searched.max(BLOCK_BYTES_MIN - UNIT_BYTES);
        while self.searched + UNIT_BYTES <= content.len() {
            let unit = &content[self.searched..self.searched + UNIT_HEAD_BYTES];
            self.searched += UNIT_BYTES;
            if self.searched == BLOCK_BYTES_MAX || is_end(unit) {
                return Some(self.dictionary_bytes + self.searched);
            }
        }
        None
    }

    /// Sends the content before `end` to be deflated; what is behind it begins the next block.
    fn submit(&mut self, end: usize) -> io::Result<()> {
        while self.queue.len() >= self.queue_max || (!self.queue.is_empty() && Ticket::are_all_taken()) {
            self.collect()?;
        }
        let mut next = self.spare.pop().unwrap_or_default();
        next.clear();
        next.reserve(DICTIONARY_BYTES + BLOCK_BYTES_MAX);
        let dictionary = end.saturating_sub(DICTIONARY_BYTES);
        next.extend_from_slice(&self.filling[dictionary..]);
        let dictionary_bytes = std::mem::replace(&mut self.dictionary_bytes, end - dictionary);
        let mut buffer = std::mem::replace(&mut self.filling, next);
        buffer.truncate(end);
        self.searched = 0;
        let output = self.spare.pop().unwrap_or_default();
        let known = self.known.clone();
        let task = Task { buffer, dictionary_bytes, output, level: self.level, known };
        let (sender, receiver): (SyncSender<_>, _) = sync_channel(1);
        rayon::spawn_fifo(move || {
            // Nobody waits for a block of a stream that was given up.
            let _ = sender.send(task.deflate());
        });
        self.queue.push_back((receiver, Ticket::take()));
        Ok(())
    }

    /// Waits for the oldest block and writes it.
    fn collect(&mut self) -> io::Result<()> {
        let Some((receiver, _ticket)) = self.queue.pop_front() else {
            return Ok(());
        };
        self.failed = true;
        let Deflated { bytes, crc, key, buffer } = wait(&receiver)??;
        self.inner.write_all(&bytes)?;
        self.crc.combine(&crc);
        self.blocks.extend(key.map(|key| PackedBlock::of(key, self.written, &bytes)));
        self.written += bytes.len() as u64;
        self.spare.extend([bytes, buffer]);
        self.failed = false;
        Ok(())
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.check()?;
        let room = self.dictionary_bytes + BLOCK_BYTES_MAX - self.filling.len();
        let n = room.min(buf.len());
        self.filling.extend_from_slice(&buf[..n]);
        while let Some(end) = self.end() {
            self.submit(end)?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.check()?;
        self.inner.flush()
    }
}

/// Whether a block ends behind the unit with this head.
fn is_end(head: &[u8]) -> bool {
    let mut state = 0_u64;
    for word in head.as_chunks::<8>().0 {
        state = (state.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    // The upper bits depend on all that came before.
    (state >> 40).is_multiple_of(UNITS_A_BLOCK)
}

impl Task {
    fn deflate(self) -> io::Result<Deflated> {
        let Task { buffer, dictionary_bytes, mut output, level, known } = self;
        let (dictionary, content) = buffer.split_at(dictionary_bytes);
        let mut crc = Crc::new();
        crc.update(content);
        let is_random = level > 0 && looks_random(content)?;
        let level = if is_random { 0 } else { level };
        let known = known.filter(|_| level > 0 && content.len() >= REUSED_BYTES_MIN);
        let key = known.as_ref().map(|_| key(level, dictionary, content));
        if let (Some(known), Some(key)) = (known, &key)
            && known.find(key, &mut output)
        {
            return Ok(Deflated { bytes: output, crc, key: Some(*key), buffer });
        }
        // A fresh one for each block: what a used one would do is not promised by anybody.
        let mut compress = Compress::new(flate2::Compression::new(level), false);
        if !dictionary.is_empty() && level > 0 {
            compress.set_dictionary(dictionary)?;
        }
        // The room is the same for the same content: level 0 cuts its blocks by it.
        output.clear();
        output.resize(content.len() + content.len() / 8 + GROWTH_BYTES, 0);
        compress.compress(content, &mut output, FlushCompress::Sync)?;
        let written = compress.total_out() as usize;
        if compress.total_in() as usize != content.len() || written >= output.len() {
            return Err(io::Error::other("deflate needs more room than its greatest growth"));
        }
        output.truncate(written);
        Ok(Deflated { bytes: output, crc, key, buffer })
    }
}

/// What a block is known by: all that its bytes depend on.
fn key(level: u32, dictionary: &[u8], content: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(VERSION.as_bytes());
    hasher.update(&level.to_le_bytes());
    hasher.update(&(dictionary.len() as u64).to_le_bytes());
    hasher.update(dictionary);
    hasher.update(content);
    hasher.finish()
}

/// Waits for a block without holding up the pool: a thread of the pool works on other tasks meanwhile.
fn wait<T>(receiver: &Receiver<T>) -> io::Result<T> {
    let gone = || io::Error::other("the compression of a block was given up");
    loop {
        match rayon::yield_now() {
            None => return receiver.recv().map_err(|_| gone()),
            Some(rayon::Yield::Executed) => match receiver.try_recv() {
                Ok(value) => return Ok(value),
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return Err(gone()),
                Err(std::sync::mpsc::TryRecvError::Empty) => {}
            },
            Some(rayon::Yield::Idle) => match receiver.recv_timeout(IDLE) {
                Ok(value) => return Ok(value),
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
                Err(RecvTimeoutError::Timeout) => {}
            },
        }
    }
}
