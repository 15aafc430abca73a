//! Archives of images that come in, of OCI's form or of what `docker save` writes: read once from end to end,
//! what can belong to an image put into the store as blobs. Nothing in one is trusted: no path of it is ever
//! opened, and blobs have the digests that they say. It does not know what the images are for.

mod flaw;
mod found;

pub use flaw::ArchiveFlaw;
pub(crate) use found::{Found, What};

use crate::WorkerError;
use crate::output::stopping;
use crate::store::Store;
use kiln_oci::{DOCUMENT_BYTES_MAX, Descriptor, Digest, MediaType};
use kiln_runner::CancelToken;
use kiln_snapshotter::archive::{ArchiveError, LayerReader, OwnedEntry, OwnedKind, sniff};
use kiln_snapshotter::compress::{Compression, decoder};
use std::collections::HashMap;
use std::io::{self, Read, Write};

/// More members than this are refused.
const MEMBERS_MAX: usize = 100_000;
/// So many links may lead from one to the next.
const LINKS_MAX: usize = 16;
/// What is read of a member at once.
const PIECE_BYTES: usize = 256 << 10;
/// The documents that say what is in an archive; they are no blobs.
const DOCUMENTS: [&str; 4] = ["oci-layout", "index.json", "manifest.json", "repositories"];
const BLOBS: &str = "blobs/";

/// An archive whose members are in the store.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// What it is called in messages.
    pub name: String,
    members: HashMap<String, Member>,
    documents: HashMap<String, Vec<u8>>,
}

/// What a member is.
#[derive(Clone, Debug)]
enum Member {
    Blob(Box<Descriptor>),
    Link(String),
}

impl Incoming {
    /// Reads an archive, compressed or not, to its end.
    pub fn read(
        store: &Store,
        name: &str,
        mut stream: impl Read + Send,
        cancel: &CancelToken,
    ) -> Result<Incoming, WorkerError> {
        let fail = |flaw| WorkerError::Archive { archive: name.to_owned(), flaw };
        let unreadable = |e: io::Error| fail(ArchiveFlaw::Unreadable(e.to_string()));
        let mut prefix = Vec::new();
        (&mut stream).take(sniff::PREFIX_BYTES as u64).read_to_end(&mut prefix).map_err(unreadable)?;
        let compression = sniff::detect(&prefix);
        let stream = decoder(io::Cursor::new(prefix).chain(stream), compression).map_err(unreadable)?;
        let mut tar = LayerReader::new(stream);
        let (members, documents) = (HashMap::new(), HashMap::new());
        let mut incoming = Incoming { name: name.to_owned(), members, documents };
        let broken = |e: ArchiveError| fail(ArchiveFlaw::Unreadable(e.to_string()));
        let mut count = 0;
        while let Some(entry) = tar.next().map_err(broken)? {
            stopping::check(cancel)?;
            count += 1;
            if count > MEMBERS_MAX {
                return Err(fail(ArchiveFlaw::TooMany(MEMBERS_MAX)));
            }
            incoming.member(store, &entry, &mut tar, cancel)?;
        }
        Ok(incoming)
    }

    fn fail(&self, flaw: ArchiveFlaw) -> WorkerError {
        WorkerError::Archive { archive: self.name.clone(), flaw }
    }

    fn member<R: Read>(
        &mut self,
        store: &Store,
        entry: &OwnedEntry,
        tar: &mut LayerReader<R>,
        cancel: &CancelToken,
    ) -> Result<(), WorkerError> {
        let shown = || String::from_utf8_lossy(&entry.path).chars().take(200).collect::<String>();
        let outside = || self.fail(ArchiveFlaw::Outside(shown()));
        let path = inside("", &entry.path).ok_or_else(outside)?;
        let link = match &entry.kind {
            OwnedKind::Directory => return Ok(()),
            OwnedKind::File => None,
            OwnedKind::Symlink { target } => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                Some(inside(folder, target).ok_or_else(outside)?)
            }
            OwnedKind::Hardlink { target } => Some(inside("", target).ok_or_else(outside)?),
            _ => return Err(self.fail(ArchiveFlaw::Special(shown()))),
        };
        if let Some(target) = link {
            self.members.insert(path, Member::Link(target));
            return Ok(());
        }
        if entry.sparse {
            return Err(self.fail(ArchiveFlaw::Special(shown())));
        }
        if DOCUMENTS.contains(&path.as_str()) {
            if entry.size_bytes > DOCUMENT_BYTES_MAX {
                return Err(self.fail(ArchiveFlaw::TooLarge(path)));
            }
            let mut bytes = Vec::new();
            let read = tar.read_to_end(&mut bytes);
            read.map_err(|e| self.fail(ArchiveFlaw::Unreadable(e.to_string())))?;
            self.documents.insert(path, bytes);
        } else if path.starts_with(BLOBS) || path.ends_with(".json") || path.ends_with(".tar") {
            let blob = self.blob(store, &path, tar, cancel)?;
            self.members.insert(path, Member::Blob(Box::new(blob)));
        }
        Ok(())
    }

    /// Puts a member into the store. One that is named after its digest must have it.
    fn blob(
        &self,
        store: &Store,
        path: &str,
        content: &mut dyn Read,
        cancel: &CancelToken,
    ) -> Result<Descriptor, WorkerError> {
        let mut writer = store.content.writer()?;
        let (mut hasher, mut head) = (kiln_oci::Hasher::new(), Vec::new());
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            stopping::check(cancel)?;
            let n =
                content.read(&mut piece).map_err(|e| self.fail(ArchiveFlaw::Unreadable(e.to_string())))?;
            if n == 0 {
                break;
            }
            head.extend(piece[..n].iter().take(sniff::PREFIX_BYTES - head.len()));
            hasher.update(&piece[..n]);
            writer.write_all(&piece[..n]).map_err(WorkerError::io("keep", path))?;
        }
        let got = hasher.finish();
        if let Some(named) = path.strip_prefix("blobs/sha256/")
            && Digest::from_hex(named).ok() != Some(got)
        {
            return Err(self.fail(ArchiveFlaw::Content { member: path.to_owned(), got }));
        }
        let (digest, size) = writer.commit()?;
        let layer = sniff::detect(&head).oci_layer();
        Ok(Descriptor::new(layer.unwrap_or(MediaType::OciLayer), digest, size))
    }

    /// The blob at a path, whatever links lead to it; its type is that of a layer.
    fn at(&self, path: &str) -> Result<&Descriptor, WorkerError> {
        let missing = || self.fail(ArchiveFlaw::Missing(path.chars().take(200).collect()));
        let mut now = inside("", path.as_bytes()).ok_or_else(missing)?;
        for _ in 0..LINKS_MAX {
            match self.members.get(&now).ok_or_else(missing)? {
                Member::Blob(blob) => return Ok(blob),
                Member::Link(target) => now.clone_from(target),
            }
        }
        Err(missing())
    }

    fn json<T: serde::de::DeserializeOwned>(&self, member: &str, bytes: &[u8]) -> Result<T, WorkerError> {
        serde_json::from_slice(bytes).map_err(|e| {
            let (member, reason) = (member.to_owned(), e.to_string());
            self.fail(ArchiveFlaw::Json { member, reason })
        })
    }
}

/// Whether a layer's blob is a tar as it is.
fn is_plain(blob: &Descriptor) -> bool {
    Compression::of_layer(&blob.media_type) == Some(Compression::None)
}

/// A path in an archive, cleaned; none if it leads out of it or is no text.
fn inside(folder: &str, path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    if path.starts_with('/') {
        return None;
    }
    let mut names: Vec<&str> = folder.split('/').filter(|name| !name.is_empty()).collect();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    Some(names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_an_archive() {
        for (folder, path, want) in [
            ("", "./a/b", Some("a/b")),
            ("a", "../b.tar", Some("b.tar")),
            ("a", "../../b.tar", None),
            ("", "../x", None),
            ("", "a/../../x", None),
            ("", "/etc/passwd", None),
            ("a/b", "c/./d", Some("a/b/c/d")),
        ] {
            assert_eq!(inside(folder, path.as_bytes()).as_deref(), want, "{folder} {path}");
        }
        assert_eq!(inside("", b"\xff"), None);
    }
}
