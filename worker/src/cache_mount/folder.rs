//! Cache mounts in a folder or a tar of the user's: an OCI layout whose index names their manifests, for CI's own
//! cache to keep. It does not know how they are packed.

use super::Waiting;
use super::listing::ids;
use super::manifest::{CacheMountError, MANIFEST_BYTES_MAX, MANIFEST_TYPE, Manifest};
use super::pack::{PackedMount, Packer};
use super::unpack::{Taken, unpack_telling};
use crate::WorkerError;
use crate::output::whole;
use crate::store::Store;
use kiln_oci::{DOCUMENT_BYTES_MAX, Descriptor, Digest, Index, Layout, MediaType};
use kiln_runner::CancelToken;
use kiln_snapshotter::archive::{Entry, EntryKind, LayerWriter};
use kiln_snapshotter::{ExtractOptions, Tree, extract_archive};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What an index says of a manifest: the id, and what tells same ids apart.
const ID: &str = "kiln.cache-mount.id";
const NAME: &str = "kiln.cache-mount.name";
const LAYOUT_FILE: &str = "oci-layout";
const INDEX_FILE: &str = "index.json";

/// Where cache mounts go, or come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountsPlace {
    /// A folder.
    Folder(PathBuf),
    /// A tar; standard output or input if it has no path.
    Tar(Option<PathBuf>),
}

/// A cache mount that went to a place, or came from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedMount {
    /// Its id.
    pub id: String,
    /// What tells it from others of that id.
    pub name: String,
    /// How many pieces it has.
    pub pieces: usize,
    /// How many of them were written or read.
    pub moved_pieces: usize,
    /// How many bytes these have, with the manifest.
    pub moved_bytes: u64,
    /// What became of one that came.
    pub taken: Option<Taken>,
}

/// What is told of waits: the id, and the process that holds the cache alone, if it is known.
pub(crate) type Tell<'a> = &'a (dyn Fn(&str, Option<u32>) + Sync);

/// Writes cache mounts to a place; all that can be packed if `wanted` is `None`. A folder keeps those that it has
/// besides, unless all are written.
pub(crate) fn export(
    store: &Store,
    wanted: Option<&[String]>,
    place: &MountsPlace,
    cancel: &CancelToken,
    tell: Tell<'_>,
) -> Result<Vec<MovedMount>, WorkerError> {
    let known = ids(store)?;
    if let Some(id) = wanted.unwrap_or_default().iter().find(|id| !known.contains(id)) {
        let nameless =
            super::listing::list(store)?.iter().any(|m| m.id.is_none() && m.name.starts_with(&**id));
        return Err(match nameless && !id.is_empty() {
            true => CacheMountError::Nameless(id.clone()),
            false => CacheMountError::NoMount(id.clone()),
        }
        .into());
    }
    let keeps_others = wanted.is_some();
    let wanted = wanted.map_or(known, <[String]>::to_vec);
    let waiting = Waiting { cancel, tell };
    match place {
        MountsPlace::Folder(folder) => {
            listed_for_writing(folder)?;
            std::fs::create_dir_all(folder).map_err(WorkerError::io("create", folder))?;
            // Two who write to it at once would remove each other's pieces.
            let lock = File::open(folder).map_err(WorkerError::io("open", folder))?;
            lock.lock().map_err(WorkerError::io("lock", folder))?;
            to_folder(store, &wanted, folder, keeps_others, &waiting)
        }
        MountsPlace::Tar(path) => {
            let (folder, _held) = store.temporary_folder()?;
            let moved = to_folder(store, &wanted, folder.path(), false, &waiting)?;
            whole(path.as_deref(), cancel, |out| write_tar(folder.path(), out))?;
            Ok(moved)
        }
    }
}

fn to_folder(
    store: &Store,
    wanted: &[String],
    folder: &Path,
    keeps_others: bool,
    waiting: &Waiting<'_>,
) -> Result<Vec<MovedMount>, WorkerError> {
    let old = listed_for_writing(folder)?;
    let content = Layout::open(folder)?;
    content.sweep()?;
    let before: HashSet<Digest> = content.digests()?.into_iter().collect();
    let known = |_: &Digest| false;
    let packer = Packer { store, content: &content, known: &known, waiting };
    let mut packed = Vec::new();
    for id in wanted {
        packed.extend(packer.pack(id)?);
    }
    let mut manifests: Vec<Descriptor> = packed.iter().map(described).collect();
    if keeps_others {
        let is_new = |old: &Descriptor| packed.iter().any(|new| old.annotations.get(ID) == Some(&new.id));
        manifests.extend(old.into_iter().filter(|old| !is_new(old)));
        manifests.sort_by(|a, b| a.annotations.cmp(&b.annotations));
    }
    let mut named: HashSet<Digest> = HashSet::new();
    for manifest in &manifests {
        named.insert(manifest.digest);
        let blob = content.read(&manifest.digest, MANIFEST_BYTES_MAX)?;
        named.extend(Manifest::from_blob(&blob)?.pieces().iter().map(|piece| piece.digest));
    }
    let media_type = Some(MediaType::OciIndex);
    let index = Index { schema_version: 2, media_type, manifests, annotations: BTreeMap::new() };
    let path = folder.join(INDEX_FILE);
    let text = serde_json::to_vec(&index).unwrap_or_default();
    whole(Some(&path), waiting.cancel, |out| out.write_all(&text).map_err(WorkerError::io("write", &path)))?;
    // Only now nothing leads to them any more.
    for digest in content.digests()?.iter().filter(|digest| !named.contains(digest)) {
        content.remove(digest)?;
    }
    drop(content);
    let _ = std::fs::remove_dir(folder.join("ingest"));
    Ok(packed.iter().map(|packed| moved(packed, &before)).collect())
}

fn described(packed: &PackedMount) -> Descriptor {
    let mut manifest = packed.manifest.clone();
    manifest.annotations.insert(ID.to_owned(), packed.id.clone());
    manifest.annotations.insert(NAME.to_owned(), packed.name.clone());
    manifest
}

fn moved(packed: &PackedMount, before: &HashSet<Digest>) -> MovedMount {
    let new: Vec<&Descriptor> = packed.pieces.iter().filter(|p| !before.contains(&p.digest)).collect();
    let manifest = if before.contains(&packed.manifest.digest) { 0 } else { packed.manifest.size };
    MovedMount {
        id: packed.id.clone(),
        name: packed.name.clone(),
        pieces: packed.pieces.len(),
        moved_pieces: new.len(),
        moved_bytes: manifest + new.iter().map(|piece| piece.size).sum::<u64>(),
        taken: None,
    }
}

/// What a folder lists that is to be written to. One with other things in it is refused: they would be lost.
fn listed_for_writing(folder: &Path) -> Result<Vec<Descriptor>, WorkerError> {
    let mut entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(WorkerError::io("list", folder)(e)),
    };
    if entries.next().is_none() {
        return Ok(Vec::new());
    }
    let other = || CacheMountError::NotOurs(folder.to_owned()).into();
    if !folder.join(LAYOUT_FILE).is_file() {
        return Err(other());
    }
    let all = listed(folder)?;
    if all.iter().all(is_mount) { Ok(all) } else { Err(other()) }
}

fn is_mount(descriptor: &Descriptor) -> bool {
    descriptor.media_type.as_str() == MANIFEST_TYPE && descriptor.annotations.contains_key(ID)
}

/// What the index of a folder lists.
fn listed(folder: &Path) -> Result<Vec<Descriptor>, WorkerError> {
    let path = folder.join(INDEX_FILE);
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(DOCUMENT_BYTES_MAX).read_to_end(&mut bytes));
    read.map_err(WorkerError::io("read", &path))?;
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|e| WorkerError::io("read", &path)(e.into()))?;
    Ok(index.manifests)
}

/// Brings cache mounts from a place: those of these ids, or all.
pub(crate) fn import(
    store: &Store,
    wanted: &[String],
    place: &MountsPlace,
    cancel: &CancelToken,
    tell: Tell<'_>,
) -> Result<Vec<MovedMount>, WorkerError> {
    let waiting = Waiting { cancel, tell };
    let (path, file) = match place {
        MountsPlace::Folder(folder) => return from_folder(store, wanted, folder, folder, &waiting),
        MountsPlace::Tar(Some(path)) => {
            (path.clone(), File::open(path).map_err(WorkerError::io("open", path))?)
        }
        MountsPlace::Tar(None) => (PathBuf::from("standard input"), spooled(store)?),
    };
    let (folder, _held) = store.temporary_folder()?;
    if !extract_archive(file, &Tree::open(folder.path())?, b"", &ExtractOptions::default())? {
        return Err(CacheMountError::NotATar(path).into());
    }
    from_folder(store, wanted, folder.path(), &path, &waiting)
}

/// Standard input as a file that can be read twice.
fn spooled(store: &Store) -> Result<File, WorkerError> {
    let folder = store.root.join("tmp");
    let mut file = tempfile::tempfile_in(&folder).map_err(WorkerError::io("create a file in", &folder))?;
    io::copy(&mut io::stdin().lock(), &mut file).map_err(WorkerError::io("read", "standard input"))?;
    Ok(file)
}

fn from_folder(
    store: &Store,
    wanted: &[String],
    folder: &Path,
    shown: &Path,
    waiting: &Waiting<'_>,
) -> Result<Vec<MovedMount>, WorkerError> {
    let all: Vec<Descriptor> = listed(folder)?.into_iter().filter(is_mount).collect();
    let id = |descriptor: &Descriptor| descriptor.annotations.get(ID).cloned().unwrap_or_default();
    if let Some(lost) = wanted.iter().find(|wanted| !all.iter().any(|d| id(d) == **wanted)) {
        let (folder, id) = (shown.to_owned(), lost.clone());
        return Err(CacheMountError::NotThere { folder, id }.into());
    }
    let blobs = Tree::open(folder)?;
    let blob = |digest: &Digest| blobs.open_file(format!("blobs/sha256/{}", digest.hex()).as_bytes());
    let mut moved = Vec::new();
    for descriptor in all.iter().filter(|d| wanted.is_empty() || wanted.contains(&id(d))) {
        let mut manifest = Vec::new();
        let read = blob(&descriptor.digest)?.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut manifest);
        read.map_err(WorkerError::io("read", descriptor.digest.to_string()))?;
        if Digest::of(&manifest) != descriptor.digest {
            let what = descriptor.digest.to_string();
            return Err(CacheMountError::Damaged { id: id(descriptor), what }.into());
        }
        let open =
            |piece: &Descriptor| -> Result<Box<dyn Read>, WorkerError> { Ok(Box::new(blob(&piece.digest)?)) };
        let done = unpack_telling(store, &manifest, &open, waiting)?;
        moved.push(MovedMount {
            id: done.id,
            name: done.name,
            pieces: Manifest::from_blob(&manifest)?.pieces().len(),
            moved_pieces: done.pieces,
            moved_bytes: done.bytes,
            taken: Some(done.taken),
        });
    }
    Ok(moved)
}

/// One member of a tar.
fn member<'e>(path: &'e str, kind: EntryKind<'e>) -> Entry<'e> {
    let mode = if kind == EntryKind::Directory { 0o755 } else { 0o644 };
    Entry { path: path.as_bytes(), kind, mode, uid: 0, gid: 0, mtime_s: 0, mtime_ns: 0, xattrs: &[] }
}

/// Writes a folder of cache mounts as a tar.
fn write_tar(folder: &Path, out: &mut dyn Write) -> Result<(), WorkerError> {
    let fail = || WorkerError::io("write", "the archive");
    let mut tar = LayerWriter::new(out);
    for name in ["blobs", "blobs/sha256"] {
        tar.append_empty(&member(name, EntryKind::Directory)).map_err(fail())?;
    }
    let mut names: Vec<String> =
        Layout::open(folder)?.digests()?.iter().map(|d| format!("blobs/sha256/{}", d.hex())).collect();
    names.sort_unstable();
    names.extend([INDEX_FILE, LAYOUT_FILE].map(str::to_owned));
    for name in names {
        let mut file = File::open(folder.join(&name)).map_err(WorkerError::io("open", &name))?;
        let size_bytes = file.metadata().map_err(WorkerError::io("open", &name))?.len();
        tar.append(&member(&name, EntryKind::File { size_bytes }), &mut file).map_err(fail())?;
    }
    tar.finish().map(drop).map_err(fail())
}
