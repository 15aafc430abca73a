//! Decompresses gzip of any number of members, then nothing but zeros.
//! It does not know what it decompresses.

use flate2::bufread::GzDecoder;
use std::io::{self, BufRead, Read};

/// The content of all members, one after the other.
pub(super) struct GunzipReader<R> {
    /// Absent only while one member follows another, and after an error.
    member: Option<GzDecoder<R>>,
    ended: bool,
}

impl<R: BufRead> GunzipReader<R> {
    pub(super) fn new(stream: R) -> GunzipReader<R> {
        GunzipReader { member: Some(GzDecoder::new(stream)), ended: false }
    }

    /// Goes on to the member after the one that has ended, if there is one.
    fn next_member(&mut self) -> io::Result<()> {
        let Some(member) = self.member.take() else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the gzip stream has failed before"));
        };
        let mut stream = member.into_inner();
        match first(&mut stream)? {
            None => self.ended = true,
            Some(0) => {
                drain_zeros(&mut stream)?;
                self.ended = true;
            }
            Some(_) => self.member = Some(GzDecoder::new(stream)),
        }
        Ok(())
    }
}

impl<R: BufRead> Read for GunzipReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        while !self.ended {
            if let Some(member) = &mut self.member {
                let n = member.read(buf)?;
                if n > 0 {
                    return Ok(n);
                }
            }
            self.next_member()?;
        }
        Ok(0)
    }
}

fn first<R: BufRead>(stream: &mut R) -> io::Result<Option<u8>> {
    loop {
        match stream.fill_buf() {
            Ok(bytes) => return Ok(bytes.first().copied()),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

/// Tapes and some tools pad with zeros; anything else behind the last member is damage.
fn drain_zeros<R: BufRead>(stream: &mut R) -> io::Result<()> {
    while first(stream)?.is_some() {
        let bytes = stream.fill_buf()?;
        if bytes.iter().any(|&byte| byte != 0) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "garbage after the last gzip member"));
        }
        let n = bytes.len();
        stream.consume(n);
    }
    Ok(())
}
