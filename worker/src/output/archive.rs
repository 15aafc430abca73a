//! An image, or an index of several, in one file: an OCI layout in a tar, which `docker load` reads too if it
//! is asked to. It does not know where the file goes.

use super::Output;
use super::whole::whole;
use crate::WorkerError;
use crate::attest::listed;
use crate::export::{Documents, Exporter, Release};
use kiln_oci::{Descriptor, DiffId, Digest, Hasher, Index, MediaType, Reference};
use kiln_snapshotter::archive::{Entry, EntryKind, LayerWriter};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::sync_channel;

/// Smaller blobs are hashed by whoever copies them: 4 MiB.
const HASHED_BESIDE_BYTES_MIN: u64 = 4 << 20;
/// How many pieces may wait to be hashed.
const PIECES_BESIDE: usize = 8;
/// What the file `oci-layout` says.
pub(super) const LAYOUT_FILE: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The annotation with a name as it is, and the one with its tag.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image, or an index, in an archive or folder.
pub(crate) struct Member<'r> {
    /// What `index.json` lists of it.
    pub entries: Vec<Descriptor>,
    /// What `docker load` calls it.
    pub names: Vec<Reference>,
    /// It, with all its blobs in the store.
    pub release: &'r Release,
    /// What refers to it and goes with it.
    pub referrers: &'r [Documents],
}

impl<'r> Member<'r> {
    /// Under its names; without one if there are none.
    pub fn named(names: &[Reference], release: &'r Release) -> Member<'r> {
        Member { entries: top_entries(names, release), names: names.to_vec(), release, referrers: &[] }
    }

    /// Under a tag alone, which has to be in no form.
    pub fn tagged(tag: &str, release: &'r Release) -> Member<'r> {
        let mut entry = release.top().0;
        entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        Member { entries: vec![entry], names: Vec::new(), release, referrers: &[] }
    }
}

/// Writes the result to `dest`; for `docker` with what that looks for.
pub(super) fn archive(
    exporter: &Exporter<'_>,
    output: &Output,
    (release, referrers): (&Release, &[Documents]),
    dest: Option<&Path>,
    docker: bool,
) -> Result<(), WorkerError> {
    archive_of(exporter, &[Member { referrers, ..Member::named(&output.names, release) }], dest, docker)
}

/// Writes images to one archive. What several of them have is in it once.
pub(crate) fn archive_of(
    exporter: &Exporter<'_>,
    members: &[Member<'_>],
    dest: Option<&Path>,
    docker: bool,
) -> Result<(), WorkerError> {
    whole(dest, exporter.images.cancel, |out| write_archive(exporter, members, docker, out))
}

/// Writes the same to whoever reads it.
pub(super) fn write_archive(
    exporter: &Exporter<'_>,
    members: &[Member<'_>],
    docker: bool,
    out: &mut dyn Write,
) -> Result<(), WorkerError> {
    let mut entries: Vec<Descriptor> =
        members.iter().flat_map(|member| member.entries.iter().cloned()).collect();
    entries.extend(members.iter().flat_map(|member| member.referrers).map(listed));
    let index = serde_json::to_vec(&index_of(entries)).unwrap_or_default();
    let blobs: BTreeMap<Digest, u64> =
        members.iter().flat_map(|member| all_blobs(member.release, member.referrers)).collect();
    let mut tar = Tar(LayerWriter::new(out));
    tar.folder("blobs")?;
    tar.folder("blobs/sha256")?;
    for (digest, size_bytes) in &blobs {
        tar.blob(exporter, digest, *size_bytes)?;
    }
    tar.file("index.json", &index)?;
    if docker {
        tar.file("manifest.json", &docker_manifest(members))?;
    }
    tar.file("oci-layout", LAYOUT_FILE)?;
    if docker && let Some(repositories) = repositories(members) {
        tar.file("repositories", &repositories)?;
    }
    tar.0.finish().map(drop).map_err(WorkerError::io("write", "the archive"))
}

/// Writes what `docker load` needs of an image whose lowest layers it has: `layers` are those above them. For what
/// it has it looks at the config alone, so the names of those are names of nothing.
pub(super) fn write_thin(
    exporter: &Exporter<'_>,
    names: &[Reference],
    (config, diff_ids): (&[u8], &[DiffId]),
    layers: &[Descriptor],
    out: &mut dyn Write,
) -> Result<(), WorkerError> {
    let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let had = diff_ids[..diff_ids.len() - layers.len()].iter().map(|diff_id| path(&diff_id.0));
    let paths: Vec<String> = had.chain(layers.iter().map(|layer| path(&layer.digest))).collect();
    let names: Vec<String> = names.iter().map(Reference::familiar).collect();
    let config_path = path(&Digest::of(config));
    let manifest = serde_json::json!([{"Config": config_path, "RepoTags": names, "Layers": paths}]);
    let mut tar = Tar(LayerWriter::new(out));
    tar.folder("blobs")?;
    tar.folder("blobs/sha256")?;
    tar.file(&config_path, config)?;
    let each: BTreeMap<Digest, u64> = layers.iter().map(|layer| (layer.digest, layer.size)).collect();
    for (digest, size_bytes) in &each {
        tar.blob(exporter, digest, *size_bytes)?;
    }
    tar.file("manifest.json", manifest.to_string().as_bytes())?;
    tar.0.finish().map(drop).map_err(WorkerError::io("write", "the archive"))
}

/// What `index.json` lists: what the result's names stand for, once for each; without a name if it has none.
fn top_entries(names: &[Reference], release: &Release) -> Vec<Descriptor> {
    let (top, _) = release.top();
    let named = |name: &Reference| {
        let mut descriptor = top.clone();
        descriptor.annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
        let tag = name.tag().unwrap_or("latest").to_owned();
        descriptor.annotations.insert(REF_NAME.to_owned(), tag);
        descriptor
    };
    let entries: Vec<Descriptor> = names.iter().map(named).collect();
    if entries.is_empty() { vec![top] } else { entries }
}

/// What `index.json` is.
pub(super) fn index_of(manifests: Vec<Descriptor>) -> Index {
    let media_type = Some(MediaType::OciIndex);
    Index { schema_version: 2, media_type, manifests, annotations: BTreeMap::new() }
}

/// All blobs of a result and of what refers to it with their sizes: layers, configs, manifests, the index.
pub(super) fn all_blobs(release: &Release, referrers: &[Documents]) -> BTreeMap<Digest, u64> {
    let mut all: BTreeMap<Digest, u64> =
        release.blobs().into_iter().map(|(digest, blob)| (digest, blob.size)).collect();
    for manifest in referrers.iter().map(|documents| &documents.manifest) {
        all.extend(manifest.layers.iter().chain([&manifest.config]).map(|blob| (blob.digest, blob.size)));
    }
    let documents = release.images().iter().chain(referrers).map(Documents::descriptor);
    let documents = documents.chain([release.top().0]);
    all.extend(documents.map(|document| (document.digest, document.size)));
    all
}

/// Copies a blob of the store, and sees that its bytes are still those of its digest.
pub(super) fn copy_verified(
    exporter: &Exporter<'_>,
    digest: &Digest,
    write: impl FnOnce(&mut dyn Read) -> io::Result<()>,
) -> Result<(), WorkerError> {
    let mut file = exporter.store.content.blob(digest)?;
    let bytes = file.metadata().map_or(0, |stat| stat.len());
    let failed = || WorkerError::io("write", digest.to_string());
    let got = if bytes < HASHED_BESIDE_BYTES_MIN {
        let mut hasher = Hasher::new();
        write(&mut Told { inner: &mut file, tell: |piece: &[u8]| hasher.update(piece) }).map_err(failed())?;
        hasher.finish()
    } else {
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel::<Vec<u8>>(PIECES_BESIDE);
            let hashing = scope.spawn(move || {
                let mut hasher = Hasher::new();
                receiver.iter().for_each(|piece| hasher.update(&piece));
                hasher.finish()
            });
            // Whoever hashes listens until no more comes.
            let tell = |piece: &[u8]| drop(sender.send(piece.to_vec()));
            let written = write(&mut Told { inner: &mut file, tell }).map_err(failed());
            drop(sender);
            let got = hashing.join().map_err(|_| WorkerError::Panicked);
            written.and(got)
        })?
    };
    if got == *digest {
        return Ok(());
    }
    let (expected, expected_bytes, got_bytes) = (*digest, bytes, bytes);
    Err(kiln_oci::LayoutError::Mismatch { expected, expected_bytes, got, got_bytes }.into())
}

/// What `docker load` looks for.
fn docker_manifest(members: &[Member<'_>]) -> Vec<u8> {
    let path = |d: &Descriptor| format!("blobs/sha256/{}", d.digest.hex());
    let image = |member: &Member<'_>, Documents { manifest, .. }: &Documents| {
        let layers: Vec<String> = manifest.layers.iter().map(path).collect();
        let names: Vec<String> = member.names.iter().map(Reference::familiar).collect();
        serde_json::json!({"Config": path(&manifest.config), "RepoTags": names, "Layers": layers})
    };
    let all =
        members.iter().flat_map(|member| member.release.images().iter().map(move |one| image(member, one)));
    serde_json::Value::from(all.collect::<Vec<_>>()).to_string().into_bytes()
}

/// What dockers of old look for: each name and its topmost layer. None without a name.
fn repositories(members: &[Member<'_>]) -> Option<Vec<u8>> {
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for member in members {
        let top = member.release.images().first().and_then(|image| image.manifest.layers.last());
        for name in &member.names {
            let (Some(tag), Some(top)) = (name.tag(), top) else { continue };
            let familiar = name.familiar();
            let repository = familiar.strip_suffix(&format!(":{tag}")).unwrap_or(&familiar);
            all.entry(repository.to_owned()).or_default().insert(tag.to_owned(), top.digest.hex());
        }
    }
    (!all.is_empty()).then(|| serde_json::json!(all).to_string().into_bytes())
}

struct Tar<W: Write>(LayerWriter<W>);

impl<W: Write> Tar<W> {
    fn entry<'e>(path: &'e str, kind: EntryKind<'e>, mode: u32) -> Entry<'e> {
        Entry { path: path.as_bytes(), kind, mode, uid: 0, gid: 0, mtime_s: 0, mtime_ns: 0, xattrs: &[] }
    }

    fn folder(&mut self, path: &str) -> Result<(), WorkerError> {
        let entry = Self::entry(path, EntryKind::Directory, 0o755);
        self.0.append(&entry, &mut io::empty()).map_err(WorkerError::io("write", "the archive"))
    }

    fn file(&mut self, path: &str, content: &[u8]) -> Result<(), WorkerError> {
        let entry = Self::entry(path, EntryKind::File { size_bytes: content.len() as u64 }, 0o644);
        let mut content = content;
        self.0.append(&entry, &mut content).map_err(WorkerError::io("write", "the archive"))
    }

    fn blob(&mut self, exporter: &Exporter<'_>, digest: &Digest, size_bytes: u64) -> Result<(), WorkerError> {
        let path = format!("blobs/sha256/{}", digest.hex());
        let entry = Self::entry(&path, EntryKind::File { size_bytes }, 0o644);
        copy_verified(exporter, digest, |blob| self.0.append(&entry, blob))
    }
}

/// Reads, and tells of each piece.
struct Told<R, F> {
    inner: R,
    tell: F,
}

impl<R: Read, F: FnMut(&[u8])> Read for Told<R, F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        (self.tell)(&buf[..n]);
        Ok(n)
    }
}
