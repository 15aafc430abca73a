//! Bytes as a file that can be opened again and again, without a place in any folder. It does not know what they are.

use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;

/// Some bytes.
pub(super) struct MemoryFile {
    file: File,
}

impl MemoryFile {
    /// These bytes.
    pub fn new(bytes: &[u8]) -> io::Result<MemoryFile> {
        let mut file = File::from(rustix::fs::memfd_create("kiln-cache-config", MemfdFlags::CLOEXEC)?);
        file.write_all(bytes)?;
        Ok(MemoryFile { file })
    }

    /// Opens them, from the start; several may read at once.
    pub fn open(&self) -> io::Result<File> {
        File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}
