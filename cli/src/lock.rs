//! The lock file: which digest each tag stands for, made to be committed.
//!
//! ```text
//! {
//!   "images": {
//!     "docker.io/library/alpine:3.20": "sha256:…"
//!   },
//!   "version": 1
//! }
//! ```
//! The digest is that of the index where there is one, so that it serves all platforms.
//! It does not know how registries are asked.

use crate::args::LockUpdateArgs;
use crate::error::CommandError;
use kiln_oci::{Digest, Reference};
use kiln_worker::{Image, ImageName, Worker, WorkerError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The version that is read and written.
const VERSION: u32 = 1;

/// A lock file that was read.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
    text: Text,
    is_changed: bool,
}

/// What is in the file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Text<D = Digest> {
    images: BTreeMap<String, D>,
    version: u32,
}

impl LockFile {
    /// Reads a file; one that is not there pins nothing yet.
    pub(crate) fn read_or_new(path: &Path) -> Result<LockFile, CommandError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => parse(path, &text)?,
            Err(e) if e.kind() == ErrorKind::NotFound => Text { images: BTreeMap::new(), version: VERSION },
            Err(e) => return Err(CommandError::file("read", path)(e)),
        };
        Ok(LockFile { path: path.to_owned(), text, is_changed: false })
    }

    /// The name with the digest that the file has for it.
    pub(crate) fn pinned(&self, name: ImageName) -> ImageName {
        let digest = match &name {
            ImageName::Registry(reference) if reference.digest().is_none() => {
                self.text.images.get(&reference.to_string()).map(|digest| reference.with_digest(*digest))
            }
            _ => None,
        };
        digest.map_or(name, ImageName::from)
    }

    /// Pins what a name stands for, if that came of a registry.
    pub(crate) fn add(&mut self, image: &Image) {
        if let ImageName::Registry(reference) = &image.name
            && reference.digest().is_none()
            && image.is_of_registry
        {
            self.set(reference, image.top);
        }
    }

    /// Pins a name. If that is new: what it was pinned to before, if it was.
    fn set(&mut self, reference: &Reference, digest: Digest) -> Option<Option<Digest>> {
        let old = self.text.images.insert(reference.to_string(), digest);
        let moved = old != Some(digest);
        self.is_changed |= moved;
        moved.then_some(old)
    }

    /// Writes the file, whole or not at all, if something in it is new.
    pub(crate) fn save(&mut self) -> Result<(), CommandError> {
        if !self.is_changed {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(&self.text).unwrap_or_default() + "\n";
        kiln_worker::write_whole(&self.path, text.as_bytes())?;
        self.is_changed = false;
        Ok(())
    }
}

fn parse(path: &Path, text: &str) -> Result<Text, CommandError> {
    let refused = |line: usize, what: String| {
        let argument = format!("--lock {}:{}", path.display(), line.max(1));
        CommandError::usage(argument, format!("{what}; mend it, or remove it to have it made anew"))
    };
    let read: Text<String> = serde_json::from_str(text).map_err(|e| refused(e.line(), e.to_string()))?;
    if read.version != VERSION {
        return Err(refused(1, format!("it has version {}, this kiln reads {VERSION}", read.version)));
    }
    let mut images = BTreeMap::new();
    for (name, digest) in read.images {
        let named = format!("\"{name}\"");
        let line = text.lines().position(|line| line.contains(&named)).map_or(1, |at| at + 1);
        let parsed = digest.parse().map_err(|e| refused(line, format!("{name}: {e}")))?;
        images.insert(name, parsed);
    }
    Ok(Text { images, version: VERSION })
}

/// Asks again for what the file has, or for what is named, and writes what moved.
pub(crate) fn update(
    args: &LockUpdateArgs,
    open: impl FnOnce(&[String]) -> Result<Worker, WorkerError>,
) -> Result<(), CommandError> {
    let mut lock = LockFile::read_or_new(&args.lock)?;
    let named = match args.references.as_slice() {
        [] => lock.text.images.keys().cloned().collect(),
        given => given.to_vec(),
    };
    let mut references = Vec::new();
    for name in named {
        match name.parse::<Reference>() {
            Ok(reference) if reference.digest().is_none() => references.push(reference),
            Ok(_) => return Err(CommandError::usage(name, "it has a digest, and never moves")),
            Err(e) => return Err(CommandError::usage(name, e.to_string())),
        }
    }
    let worker = open(&args.insecure_registry)?;
    let mut moved = String::new();
    for (reference, answer) in references.iter().zip(worker.ask(&references)) {
        let now = answer?;
        if let Some(old) = lock.set(reference, now) {
            let old = old.map_or_else(String::new, |old| format!("{old} → "));
            moved.push_str(&format!("{} {old}{now}\n", reference.familiar()));
        }
    }
    lock.save()?;
    let mut out = std::io::stdout();
    out.write_all(moved.as_bytes()).map_err(CommandError::file("write to", "standard output"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_is_named_with_its_line() {
        for (text, want) in [
            ("{\n  \"images\": {\n    \"a\": \"sha256:12\"\n  },\n  \"version\": 1\n}\n", "kiln.lock:3"),
            ("{\"images\": {}, \"version\": 2}", "it has version 2"),
            ("", "kiln.lock:1"),
            ("{\n\"webs\": {}}", "kiln.lock:2"),
        ] {
            let error = parse(Path::new("kiln.lock"), text).err().map(|e| e.to_string());
            assert!(error.as_ref().is_some_and(|e| e.contains(want)), "{text}: {error:?}");
        }
    }
}
