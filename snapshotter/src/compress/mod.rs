//! Compression of layers, both ways, as streams whose bytes depend on neither threads nor processor.
//! It does not know tar, digests or stores.

mod blocks;
mod encode;
mod gunzip;
mod gzip;

pub use blocks::{Blocks, PackedBlock};
pub use encode::Encoder;
pub use gzip::GzipWriter;

use kiln_oci::MediaType;
use liblzma::bufread::XzDecoder;
use liblzma::stream::Stream;
use std::io::{self, BufReader, Read};

const BUFFER_BYTES: usize = 64 << 10;

/// An xz stream whose dictionary needs more memory is refused: 192 MiB, twice what `xz -9` needs.
const XZ_MEMORY_BYTES_MAX: u64 = 192 << 20;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
    /// bzip2; read only.
    Bzip2,
    /// xz; read only.
    Xz,
}

impl Compression {
    /// The level that is used when none is asked for.
    pub fn default_level(self) -> i32 {
        match self {
            Compression::Gzip => gzip::LEVEL_DEFAULT,
            Compression::Zstd => encode::ZSTD_LEVEL_DEFAULT,
            Compression::None | Compression::Bzip2 | Compression::Xz => 0,
        }
    }

    /// How a layer of this media type is compressed; `None` if it is no layer that can be unpacked.
    pub fn of_layer(media_type: &MediaType) -> Option<Compression> {
        match media_type {
            MediaType::OciLayer | MediaType::DockerLayer => Some(Compression::None),
            MediaType::OciLayerGzip | MediaType::DockerLayerGzip => Some(Compression::Gzip),
            MediaType::OciLayerZstd | MediaType::DockerLayerZstd => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// The OCI media type of a layer compressed this way; `None` if there is none.
    pub fn oci_layer(self) -> Option<MediaType> {
        match self {
            Compression::None => Some(MediaType::OciLayer),
            Compression::Gzip => Some(MediaType::OciLayerGzip),
            Compression::Zstd => Some(MediaType::OciLayerZstd),
            Compression::Bzip2 | Compression::Xz => None,
        }
    }

    /// Docker's media type of a layer compressed this way; `None` if there is none.
    pub fn docker_layer(self) -> Option<MediaType> {
        match self {
            Compression::None => Some(MediaType::DockerLayer),
            Compression::Gzip => Some(MediaType::DockerLayerGzip),
            Compression::Zstd => Some(MediaType::DockerLayerZstd),
            Compression::Bzip2 | Compression::Xz => None,
        }
    }

    /// The name of what compresses, with all that its bytes depend on but the level: part of the key under
    /// which a compressed layer is remembered.
    pub fn encoder_version(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => gzip::VERSION,
            Compression::Zstd => encode::ZSTD_VERSION,
            Compression::Bzip2 => "bzip2",
            Compression::Xz => "xz",
        }
    }
}

/// The uncompressed content of `stream`. Starts no threads; a truncated or damaged stream gives an error,
/// never a shorter content.
pub fn decoder<'a, R>(stream: R, compression: Compression) -> io::Result<Box<dyn Read + Send + 'a>>
where
    R: Read + Send + 'a,
{
    let stream = BufReader::with_capacity(BUFFER_BYTES, stream);
    Ok(match compression {
        Compression::None => Box::new(stream),
        Compression::Gzip => Box::new(gunzip::GunzipReader::new(stream)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(stream)?),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(stream)),
        Compression::Xz => {
            let streams = Stream::new_stream_decoder(XZ_MEMORY_BYTES_MAX, liblzma::stream::CONCATENATED)?;
            Box::new(XzDecoder::new_stream(stream, streams))
        }
    })
}

#[cfg(test)]
mod tests;
