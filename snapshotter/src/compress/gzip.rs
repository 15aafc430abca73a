//! Compresses gzip in parallel. The content is cut into blocks of 1 MiB, each deflated on the rayon pool
//! with the 32 KiB before it as dictionary, and joined in order to one member. The cuts depend on the
//! content's length alone, so the bytes depend on neither the number of threads nor the sizes of writes.
//! It does not know what it compresses, nor where the bytes go.
//!
//! ```text
//! header | block, sync flush | block, sync flush | … | the rest (may be empty), finish | CRC-32 | length
//! ```

use flate2::{Compress, Crc, FlushCompress, Status};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// The level that is used when none is asked for.
pub(super) const LEVEL_DEFAULT: i32 = 6;
/// Changes with anything that may change the bytes; a test pins them.
pub(super) const VERSION: &str = "gzip zlib-rs 0.6.8 block 1048576 dictionary 32768";

const BLOCK_BYTES: usize = 1 << 20;
const DICTIONARY_BYTES: usize = 32 << 10;
/// No time, no name, no word on the level; the operating system is unknown: as Go writes it.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// With an eighth of the content, more than deflate and its flush can add to what they can't compress.
const GROWTH_BYTES: usize = 4 << 10;
/// How long a thread of the pool that found nothing to do waits for a block before it looks again.
const IDLE: Duration = Duration::from_millis(1);

/// Compresses what is written to it. Must be finished; `flush` neither cuts a block nor waits for one.
///
/// Holds at most two blocks for each thread of the pool and two more. Better written to from a thread
/// outside of the pool; on one of the pool's own it works on the pool's tasks while it waits.
pub struct GzipWriter<W> {
    inner: W,
    level: u32,
    /// The dictionary for the next block, then its content so far.
    filling: Vec<u8>,
    dictionary_bytes: usize,
    /// Blocks on their way, in order.
    queue: VecDeque<Receiver<io::Result<Deflated>>>,
    queue_max: usize,
    /// Buffers for reuse.
    spare: Vec<Vec<u8>>,
    crc: Crc,
    failed: bool,
}

/// A block to be deflated: dictionary, then content.
struct Task {
    buffer: Vec<u8>,
    dictionary_bytes: usize,
    output: Vec<u8>,
    level: u32,
    last: bool,
}

struct Deflated {
    bytes: Vec<u8>,
    crc: Crc,
    /// The task's buffer, no longer of use.
    buffer: Vec<u8>,
}

impl<W: Write> GzipWriter<W> {
    /// Compresses to `inner` at `level`, 0 to 9; starts with the header.
    pub fn new(mut inner: W, level: u32) -> io::Result<GzipWriter<W>> {
        if level > 9 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "gzip has levels 0 to 9"));
        }
        inner.write_all(&HEADER)?;
        Ok(GzipWriter {
            inner,
            level,
            filling: Vec::new(),
            dictionary_bytes: 0,
            queue: VecDeque::new(),
            queue_max: 2 * rayon::current_num_threads() + 1,
            spare: Vec::new(),
            crc: Crc::new(),
            failed: false,
        })
    }

    /// Compresses the rest, waits for all blocks, and gives back the writer below, not flushed.
    pub fn finish(mut self) -> io::Result<W> {
        self.check()?;
        self.submit(true)?;
        while !self.queue.is_empty() {
            self.collect()?;
        }
        self.inner.write_all(&self.crc.sum().to_le_bytes())?;
        self.inner.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.inner)
    }

    fn check(&self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("the gzip stream has failed before"));
        }
        Ok(())
    }

    fn submit(&mut self, last: bool) -> io::Result<()> {
        while self.queue.len() >= self.queue_max {
            self.collect()?;
        }
        let mut next = self.spare.pop().unwrap_or_default();
        next.clear();
        let keep = self.filling.len().saturating_sub(DICTIONARY_BYTES);
        if !last {
            next.reserve(DICTIONARY_BYTES + BLOCK_BYTES);
            next.extend_from_slice(&self.filling[keep..]);
        }
        let dictionary_bytes = std::mem::replace(&mut self.dictionary_bytes, next.len());
        let buffer = std::mem::replace(&mut self.filling, next);
        let output = self.spare.pop().unwrap_or_default();
        let task = Task { buffer, dictionary_bytes, output, level: self.level, last };
        let (sender, receiver): (SyncSender<_>, _) = sync_channel(1);
        rayon::spawn_fifo(move || {
            // Nobody waits for a block of a stream that was given up.
            let _ = sender.send(task.deflate());
        });
        self.queue.push_back(receiver);
        Ok(())
    }

    /// Waits for the oldest block and writes it.
    fn collect(&mut self) -> io::Result<()> {
        let Some(receiver) = self.queue.pop_front() else {
            return Ok(());
        };
        self.failed = true;
        let Deflated { bytes, crc, buffer } = wait(&receiver)??;
        self.inner.write_all(&bytes)?;
        self.crc.combine(&crc);
        self.spare.extend([bytes, buffer]);
        self.failed = false;
        Ok(())
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.check()?;
        let room = self.dictionary_bytes + BLOCK_BYTES - self.filling.len();
        let n = room.min(buf.len());
        self.filling.extend_from_slice(&buf[..n]);
        if n == room {
            self.submit(false)?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.check()?;
        self.inner.flush()
    }
}

impl Task {
    fn deflate(self) -> io::Result<Deflated> {
        let Task { buffer, dictionary_bytes, mut output, level, last } = self;
        let (dictionary, content) = buffer.split_at(dictionary_bytes);
        let mut crc = Crc::new();
        crc.update(content);
        // A fresh one for each block: what a used one would do is not promised by anybody.
        let mut compress = Compress::new(flate2::Compression::new(level), false);
        if !dictionary.is_empty() {
            compress.set_dictionary(dictionary)?;
        }
        let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
        // The room is the same for the same content: level 0 cuts its blocks by it.
        output.resize(content.len() + content.len() / 8 + GROWTH_BYTES, 0);
        let status = compress.compress(content, &mut output, flush)?;
        let written = compress.total_out() as usize;
        let complete = if last {
            status == Status::StreamEnd
        } else {
            compress.total_in() as usize == content.len() && written < output.len()
        };
        if !complete {
            return Err(io::Error::other("deflate needs more room than its greatest growth"));
        }
        output.truncate(written);
        Ok(Deflated { bytes: output, crc, buffer })
    }
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
