//! A cache that is kept in a folder of the user's, as an OCI layout. It does not know what is in a config.
//!
//! ```text
//! <folder>/oci-layout            {"imageLayoutVersion":"1.0.0"}
//! <folder>/index.json            a manifest for each tag; replaced as a whole
//! <folder>/index.json.lock       locked by whoever replaces it, as BuildKit does
//! <folder>/blobs/sha256/<hex>    blobs; the folder itself is locked, shared, by whoever writes into it
//! <folder>/ingest/<random>       a blob that is being written
//! ```
//! Whoever is done with an export takes away what nothing names any more, but only if nobody else writes.
//! Blobs are copied, not linked: who changes a file in the folder must not change kiln's own.

use super::CacheError;
use super::documents::{CacheForm, config_descriptor, configs, named};
use super::options::LocalCache;
use super::place::{CONFIG_BYTES_MAX, CachePlace, OpenBlob};
use super::waiting::check;
use crate::store::leads_to;
use kiln_oci::{DOCUMENT_BYTES_MAX, Descriptor, Digest, Index, Layout, MediaType};
use kiln_runner::CancelToken;
use rustix::fs::OFlags;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// The annotation that is a manifest's tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What is copied between two looks at whether the build was cancelled.
const PIECE_BYTES: usize = 1 << 20;
/// How often a lock is tried.
const LOCK_LOOK: Duration = Duration::from_millis(20);
/// What nothing names may be another's that is not done yet, who does not lock as we do, unless it is older.
const UNNAMED_AGE: Duration = Duration::from_secs(60 * 60);

/// A cache in a folder.
#[derive(Debug)]
pub(crate) struct LocalPlace {
    at: LocalCache,
    form: CacheForm,
    cancel: CancelToken,
    writing: Mutex<Option<Writing>>,
}

/// The folder, from the first blob to the end of an export.
#[derive(Debug)]
struct Writing {
    layout: Arc<Layout>,
    /// Held so that nobody sweeps meanwhile.
    blobs: File,
}

/// Who may be beside who holds a lock.
#[derive(Clone, Copy)]
enum Sharing {
    Alone,
    Shared,
}

impl LocalPlace {
    /// The cache in this folder, which is written in this form. Nothing is read or made yet.
    pub fn new(at: LocalCache, form: CacheForm, cancel: CancelToken) -> LocalPlace {
        LocalPlace { at, form, cancel, writing: Mutex::default() }
    }

    fn path_of(&self, digest: &Digest) -> PathBuf {
        self.at.folder.join("blobs/sha256").join(digest.hex())
    }

    fn index_path(&self) -> PathBuf {
        self.at.folder.join("index.json")
    }

    /// The folder's index; `None` if there is none.
    fn index(&self) -> Result<Option<Index>, CacheError> {
        let path = self.index_path();
        let bytes = match open_regular(&path).and_then(|file| limited(file, DOCUMENT_BYTES_MAX)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(CacheError::io("read", path)(e)),
        };
        let bad = |e: serde_json::Error| CacheError::Malformed {
            what: path.display().to_string(),
            reason: format!("it is no index: {e}"),
        };
        Ok(Some(serde_json::from_slice(&bytes).map_err(bad)?))
    }

    /// Reads a small blob whole, and checks its digest.
    fn small(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, CacheError> {
        let path = self.path_of(digest);
        let bytes = match open_regular(&path).and_then(|file| limited(file, max)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(CacheError::NoBlob(*digest)),
            Err(e) => return Err(CacheError::io("read", path)(e)),
        };
        match Digest::of(&bytes) {
            got if got == *digest => Ok(bytes),
            got => {
                let (what, reason) = (path.display().to_string(), format!("its digest is {got}"));
                Err(CacheError::Malformed { what, reason })
            }
        }
    }

    fn fetch(&self, wanted: &Descriptor) -> Result<Vec<u8>, CacheError> {
        let is_cache = wanted.media_type == config_descriptor(b"").media_type;
        self.small(&wanted.digest, if is_cache { CONFIG_BYTES_MAX } else { DOCUMENT_BYTES_MAX })
    }

    /// The folder, made if it is not there, with nobody sweeping it from now on.
    fn layout(&self) -> Result<Arc<Layout>, CacheError> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writing) = &*writing {
            return Ok(writing.layout.clone());
        }
        let folder = self.at.folder.join("blobs/sha256");
        std::fs::create_dir_all(&folder).map_err(CacheError::io("create", &folder))?;
        let blobs = self.locked(&|| locked_folder(&folder))?;
        // It makes an empty index where there is none, which must not replace one that is just written.
        let _held = self.locked_index()?;
        let marker = self.at.folder.join("oci-layout");
        let is_new = !marker.exists();
        let layout = Arc::new(Layout::open(&self.at.folder)?);
        if is_new {
            // The store's is for its owner alone; this one is for whoever may see the folder.
            let open_to_all = Permissions::from_mode(0o644);
            std::fs::set_permissions(&marker, open_to_all).map_err(CacheError::io("open up", &marker))?;
        }
        *writing = Some(Writing { layout: layout.clone(), blobs });
        Ok(layout)
    }

    fn locked_index(&self) -> Result<IndexLock, CacheError> {
        let path = self.at.folder.join("index.json.lock");
        let file = self.locked(&|| {
            let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = open.map_err(CacheError::io("open", &path))?;
            // Its last holder may have removed it before the lock was taken.
            Ok(locked(&file, Sharing::Alone, &path)?.then_some(file).filter(|file| leads_to(&path, file)))
        })?;
        Ok(IndexLock { _file: file, path })
    }

    fn locked(&self, try_once: &dyn Fn() -> Result<Option<File>, CacheError>) -> Result<File, CacheError> {
        loop {
            check(&self.cancel)?;
            if let Some(file) = try_once()? {
                return Ok(file);
            }
            std::thread::sleep(LOCK_LOOK);
        }
    }

    /// Gives the tag to the manifest, and tells which manifests had it.
    fn retag(&self, manifest: &Descriptor) -> Result<Vec<Digest>, CacheError> {
        let empty = || Index {
            schema_version: 2,
            media_type: Some(MediaType::OciIndex),
            manifests: Vec::new(),
            annotations: std::collections::BTreeMap::new(),
        };
        let mut index = self.index()?.unwrap_or_else(empty);
        let (old, mut kept): (Vec<Descriptor>, Vec<Descriptor>) =
            index.manifests.into_iter().partition(|d| tag_of(d) == Some(&self.at.tag));
        let mut tagged = manifest.clone();
        tagged.annotations.insert(REF_NAME.to_owned(), self.at.tag.clone());
        kept.push(tagged);
        index.manifests = kept;
        let bytes = serde_json::to_vec(&index).unwrap_or_default();
        self.replace_index(&bytes).map_err(CacheError::io("write", self.index_path()))?;
        Ok(old.into_iter().map(|d| d.digest).collect())
    }

    fn replace_index(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(self.at.folder.join("ingest"))?;
        file.write_all(bytes)?;
        file.as_file().sync_data()?;
        file.persist(self.index_path())?;
        File::open(&self.at.folder)?.sync_all()
    }

    /// Removes what no manifest of the index names any more: what those named that were `replaced`, what is old,
    /// and with `reset` all of it. Nothing if the index leads to something that cannot be understood.
    fn sweep(&self, layout: &Layout, replaced: &[Digest]) -> Result<(), CacheError> {
        let read = |digest: &Digest| self.small(digest, DOCUMENT_BYTES_MAX).ok();
        let (mut needed, mut dropped) = (BTreeSet::new(), BTreeSet::new());
        for manifest in self.index()?.iter().flat_map(|index| &index.manifests) {
            if named(&manifest.digest, &read, &mut needed).is_none() {
                return Ok(());
            }
        }
        for manifest in replaced {
            // As far as it goes.
            let _ = named(manifest, &read, &mut dropped);
        }
        for digest in layout.digests()?.iter().filter(|digest| !needed.contains(digest)) {
            check(&self.cancel)?;
            if self.at.reset || dropped.contains(digest) || is_old(&self.path_of(digest)) {
                layout.remove(digest)?;
            }
        }
        // What another program keeps there may not be what we can remove.
        let _ = layout.sweep();
        Ok(())
    }
}

impl CachePlace for LocalPlace {
    fn name(&self) -> String {
        let tag = if self.at.tag == "latest" { String::new() } else { format!(":{}", self.at.tag) };
        format!("local {}{tag}", self.at.folder.display())
    }

    fn configs(&self) -> Result<Vec<Vec<u8>>, CacheError> {
        let digests: Vec<Digest> = match self.at.digest {
            Some(digest) => vec![digest],
            None => {
                let index = self.index()?;
                let tagged = index.iter().flat_map(|index| &index.manifests);
                tagged.filter(|d| tag_of(d) == Some(&self.at.tag)).map(|d| d.digest).collect()
            }
        };
        let mut found = Vec::new();
        for digest in digests {
            let document = self.small(&digest, DOCUMENT_BYTES_MAX)?;
            found.extend(configs(&self.name(), &document, &|wanted| self.fetch(wanted))?);
        }
        Ok(found)
    }

    fn read(
        &self,
        blob: &Descriptor,
        on_bytes: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), CacheError> {
        let path = self.path_of(&blob.digest);
        let mut file = match open_regular(&path) {
            Ok(file) => file.take(blob.size.saturating_add(1)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(CacheError::NoBlob(blob.digest)),
            Err(e) => return Err(CacheError::io("read", path)(e)),
        };
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            check(&self.cancel)?;
            match file.read(&mut piece).map_err(CacheError::io("read", &path))? {
                0 => return Ok(()),
                n => on_bytes(&piece[..n]).map_err(CacheError::io("keep what is read of", &path))?,
            }
        }
    }

    fn write(&self, blob: &Descriptor, open: OpenBlob<'_>) -> Result<bool, CacheError> {
        let layout = self.layout()?;
        if layout.has(blob) {
            return Ok(false);
        }
        let from = blob.digest.to_string();
        let mut file = open().map_err(CacheError::io("open the blob", &from))?;
        let mut writer = layout.writer()?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            check(&self.cancel)?;
            match file.read(&mut piece).map_err(CacheError::io("read the blob", &from))? {
                0 => break,
                n => writer.write_all(&piece[..n]).map_err(CacheError::io("write into", &self.at.folder))?,
            }
        }
        writer.commit_verified_as(blob)?;
        Ok(true)
    }

    fn publish(&self, config: &[u8], layers: &[Descriptor]) -> Result<Option<Descriptor>, CacheError> {
        let layout = self.layout()?;
        let (media_type, document) = self.form.document(config_descriptor(config), layers)?;
        check(&self.cancel)?;
        layout.put(config)?;
        layout.put(&document)?;
        let about = Descriptor::of(media_type, &document);
        let _held = self.locked_index()?;
        let replaced = self.retag(&about)?;
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Writing { blobs, .. }) = writing.take()
            && locked(&blobs, Sharing::Alone, &self.at.folder)?
        {
            self.sweep(&layout, &replaced)?;
        }
        Ok(Some(about))
    }
}

/// The lock of an index. As BuildKit's it goes with its holder.
struct IndexLock {
    _file: File,
    path: PathBuf,
}

impl Drop for IndexLock {
    fn drop(&mut self) {
        // A file that stays is as good a lock as a new one.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A folder that nobody sweeps as long as it is open; `None` if somebody does.
fn locked_folder(folder: &Path) -> Result<Option<File>, CacheError> {
    let file = File::open(folder).map_err(CacheError::io("open", folder))?;
    Ok(locked(&file, Sharing::Shared, folder)?.then_some(file))
}

/// Whether the file is locked now.
fn locked(file: &File, sharing: Sharing, path: &Path) -> Result<bool, CacheError> {
    let taken = match sharing {
        Sharing::Alone => file.try_lock(),
        Sharing::Shared => file.try_lock_shared(),
    };
    match taken {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(CacheError::io("lock", path)(e)),
    }
}

fn tag_of(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations.get(REF_NAME).map(String::as_str)
}

fn is_old(path: &Path) -> bool {
    let written = std::fs::symlink_metadata(path).and_then(|m| m.modified());
    written.is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|age| age > UNNAMED_AGE))
}

/// Opens what is a file; a fifo must not make anybody wait.
fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

fn limited(file: File, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::other(format!("it is larger than {max} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
