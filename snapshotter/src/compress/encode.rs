//! One face for all compressions that a layer is written in. It does not know what it compresses.

use super::Compression;
use super::blocks::{Blocks, PackedBlock};
use super::gzip::GzipWriter;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread::available_parallelism;

/// The level that is used when none is asked for.
pub(super) const ZSTD_LEVEL_DEFAULT: i32 = 3;
/// Changes with anything that may change the bytes; a test pins them.
pub(super) const ZSTD_VERSION: &str = "zstd 1.5.7 workers job 4194304 checksum";
/// Part of the bytes, as the cuts between jobs are.
const ZSTD_JOB_BYTES: u32 = 4 << 20;
/// More would cost memory for jobs that nobody feeds fast enough.
const ZSTD_WORKERS_MAX: u32 = 8;

/// Compresses what is written to it. Must be finished; `flush` does not cut blocks.
pub struct Encoder<W: Write>(Kind<W>);

enum Kind<W: Write> {
    None(W),
    Gzip(Box<GzipWriter<W>>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Compresses to `inner`; `level` is the compression's own default if `None`.
    pub fn new(inner: W, compression: Compression, level: Option<i32>) -> io::Result<Encoder<W>> {
        Encoder::reusing(inner, compression, level, None)
    }

    /// The same, and takes blocks that were compressed before from `known`: only gzip has any.
    pub fn reusing(
        inner: W,
        compression: Compression,
        level: Option<i32>,
        known: Option<Arc<dyn Blocks>>,
    ) -> io::Result<Encoder<W>> {
        let level = level.unwrap_or(compression.default_level());
        let unsupported = |text| io::Error::new(io::ErrorKind::Unsupported, text);
        Ok(Encoder(match compression {
            Compression::None => Kind::None(inner),
            Compression::Gzip => {
                let level = u32::try_from(level).map_err(|_| unsupported("gzip has levels 0 to 9"))?;
                Kind::Gzip(Box::new(GzipWriter::new(inner, level, known)?))
            }
            Compression::Zstd if !(1..=22).contains(&level) => {
                return Err(unsupported("zstd has levels 1 to 22"));
            }
            Compression::Zstd => {
                let workers = available_parallelism().map_or(1, |n| n.get() as u32).min(ZSTD_WORKERS_MAX);
                Kind::Zstd(zstd_encoder(inner, level, workers)?)
            }
            Compression::Bzip2 | Compression::Xz => {
                return Err(unsupported("layers are not written in bzip2 or xz"));
            }
        }))
    }

    /// Compresses the rest and gives back the writer below, not flushed.
    pub fn finish(self) -> io::Result<W> {
        self.finish_telling().map(|(inner, _)| inner)
    }

    /// The same, and where in what was written the blocks are that can be taken another time.
    pub fn finish_telling(self) -> io::Result<(W, Vec<PackedBlock>)> {
        match self.0 {
            Kind::None(inner) => Ok((inner, Vec::new())),
            Kind::Gzip(gzip) => gzip.finish(),
            Kind::Zstd(zstd) => Ok((zstd.finish()?, Vec::new())),
        }
    }
}

/// At least one worker: without any, zstd goes another way, and gives other bytes.
pub(super) fn zstd_encoder<W: Write>(
    inner: W,
    level: i32,
    workers: u32,
) -> io::Result<zstd::Encoder<'static, W>> {
    let mut encoder = zstd::Encoder::new(inner, level)?;
    encoder.multithread(workers.max(1))?;
    encoder.set_parameter(zstd::zstd_safe::CParameter::JobSize(ZSTD_JOB_BYTES))?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::None(inner) => inner.write(buf),
            Kind::Gzip(gzip) => gzip.write(buf),
            Kind::Zstd(zstd) => zstd.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Kind::None(inner) => inner.flush(),
            Kind::Gzip(gzip) => gzip.flush(),
            // Its flush would end a block.
            Kind::Zstd(zstd) => zstd.get_mut().flush(),
        }
    }
}
