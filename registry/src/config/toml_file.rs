//! TOML from a file, with the lines of what is wrong. It does not know what it means.

use super::wrong;
use crate::RegistryError;
use serde::de::DeserializeOwned;
use std::io::Read as _;
use std::path::Path;

const BYTES_MAX: u64 = 1024 * 1024;

/// The text of a file; `None` if there is no such file.
pub(super) fn read(file: &Path) -> Result<Option<String>, RegistryError> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    let opened = match std::fs::File::open(file) {
        Ok(opened) => opened,
        Err(e) if matches!(e.kind(), NotFound | NotADirectory) => return Ok(None),
        Err(e) => return Err(wrong(file, 1, format!("it cannot be read: {e}"))),
    };
    let mut text = String::new();
    opened
        .take(BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|e| wrong(file, 1, format!("it cannot be read: {e}")))?;
    if text.len() as u64 > BYTES_MAX {
        return Err(wrong(file, 1, format!("it is larger than {BYTES_MAX} bytes")));
    }
    Ok(Some(text))
}

/// What a text says.
pub(super) fn parse<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, RegistryError> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |span| line_of(text, span.start));
        wrong(file, line, e.message().lines().collect::<Vec<_>>().join(" "))
    })
}

/// The line, from 1 on, in which a byte stands.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count() + 1
}
