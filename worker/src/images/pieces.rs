//! A blob's bytes as they come, one piece after the other, for who reads them. It does not know where they come from.

use std::io::{self, Read};
use std::sync::mpsc::Receiver;

/// Reads the pieces that a channel brings.
pub(super) struct Pieces {
    receiver: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Pieces {
    /// What `receiver` brings, until nobody sends any more.
    pub fn new(receiver: Receiver<Vec<u8>>) -> Pieces {
        Pieces { receiver, piece: Vec::new(), at: 0 }
    }
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.receiver.recv() {
                Ok(piece) => (self.piece, self.at) = (piece, 0),
                Err(_) => return Ok(0),
            }
        }
        let n = buf.len().min(self.piece.len() - self.at);
        buf[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
