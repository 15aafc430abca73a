//! Where a result goes: names in the store, archives, folders, registries. Files appear whole or not at all.
//! It does not know how layers become blobs.

use crate::WorkerError;
use crate::export::{Compress, Documents, Exporter, config_bytes, mount_sources};
use crate::layer::Stack;
use crate::meta::ImageRow;
use crate::store::now_s;
use crate::worker::{BuildRequest, BuildResult};
use jiff::Timestamp;
use kiln_oci::{Descriptor, History, ImageConfig, Index, MediaType, Reference};
use kiln_snapshotter::archive::{Entry, EntryKind, LayerWriter};
use kiln_snapshotter::{CopyOptions, NodeType, Tree, Verdict, copy_tree};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// One output of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// What it is.
    pub form: Form,
    /// Names for the result: in the store, at registries, or in an archive.
    pub names: Vec<Reference>,
    /// How layers that are made here are compressed.
    pub compress: Compress,
    /// Whether layers that are made here have no time after the source's date.
    pub rewrite_timestamp: bool,
}

/// The forms of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// Names in the store.
    Store,
    /// Pushed to the registries of its names.
    Registry,
    /// An OCI layout in a tar; `None` is standard output.
    Oci(Option<PathBuf>),
    /// What `docker load` reads, which is an OCI layout too; `None` is standard output.
    Docker(Option<PathBuf>),
    /// The files in a tar; `None` is standard output.
    Tar(Option<PathBuf>),
    /// The files in a folder.
    Local(PathBuf),
    /// Nowhere: only what was cached stays.
    CacheOnly,
}

/// Writes a result to all outputs of a request.
pub(crate) fn write_all(
    exporter: &Exporter<'_>,
    request: &BuildRequest,
    stack: &Stack,
    sync: bool,
) -> Result<BuildResult, WorkerError> {
    let config = finished(request, stack);
    let bytes = config_bytes(&config);
    let config_digest = exporter.store.content.put(&bytes)?;
    if sync {
        // Names and archives are made only of what survives a loss of power.
        exporter.store.snapshots.sync()?;
        exporter.store.meta.mark_synced()?;
    }
    let mut result = BuildResult { config_digest: Some(config_digest), ..BuildResult::default() };
    for output in &request.outputs {
        let made = write(exporter, output, &config, request, stack)?;
        if let Some(documents) = &made {
            result.manifest = Some(documents.descriptor());
        }
        result.names.extend(output.names.iter().map(Reference::to_string));
    }
    Ok(result)
}

fn write(
    exporter: &Exporter<'_>,
    output: &Output,
    config: &ImageConfig,
    request: &BuildRequest,
    stack: &Stack,
) -> Result<Option<Documents>, WorkerError> {
    let (annotations, epoch_s) = (&request.annotations, request.source_date_epoch_s);
    let documents = |docker: bool| {
        exporter.task("exporting layers", || {
            let latest_s = epoch_s.filter(|_| output.rewrite_timestamp);
            let blobs = exporter.blobs(stack, output.compress, docker, latest_s)?;
            let mut config = config.clone();
            config.rootfs.diff_ids = blobs.diff_ids;
            exporter.documents(&config, blobs.descriptors, docker, annotations.clone())
        })
    };
    match &output.form {
        Form::CacheOnly => Ok(None),
        Form::Store => {
            store_names(exporter, output, config, stack)?;
            Ok(None)
        }
        Form::Registry => {
            let documents = documents(false)?;
            for name in &output.names {
                let mounts = mount_sources(stack, name);
                exporter.task(&format!("pushing {name}"), || exporter.push(&documents, name, &mounts))?;
            }
            Ok(Some(documents))
        }
        Form::Oci(dest) => {
            let documents = documents(false)?;
            exporter.task("exporting to oci archive", || {
                archive(exporter, output, &documents, dest.as_deref(), false)
            })?;
            Ok(Some(documents))
        }
        Form::Docker(dest) => {
            let documents = documents(true)?;
            exporter.task("exporting to docker archive", || {
                archive(exporter, output, &documents, dest.as_deref(), true)
            })?;
            Ok(Some(documents))
        }
        Form::Tar(dest) => {
            exporter.task("exporting to tar", || files_tar(exporter, stack, dest.as_deref()))?;
            Ok(None)
        }
        Form::Local(dest) => {
            exporter.task("exporting to folder", || files_folder(exporter, stack, dest))?;
            Ok(None)
        }
    }
}

/// The config with its layers and times. A time comes from when a layer was made, not from now: so the
/// same result has the same config.
fn finished(request: &BuildRequest, stack: &Stack) -> ImageConfig {
    let mut config = request.config.clone();
    config.rootfs.diff_ids = stack.diff_ids();
    let epoch = request.source_date_epoch_s;
    let text = |s: i64| Timestamp::from_second(s).map_or_else(|_| String::new(), |t| t.to_string());
    add_missing_history(&mut config, stack.0.len());
    let mut layers = stack.0.iter();
    let first_made = stack.0.iter().find_map(|l| l.created_s);
    let mut last = first_made;
    for line in &mut config.history {
        let made = if line.empty_layer { None } else { layers.next().and_then(|l| l.created_s) };
        if line.created.is_some() {
            continue;
        }
        last = made.or(last);
        line.created = epoch.or(last).map(text);
    }
    let of_history = config.history.iter().rev().find_map(|h| h.created.clone());
    config.created = epoch.map(text).or(of_history).or_else(|| Some(text(now_s())));
    for line in &mut config.history {
        if line.created.is_none() {
            line.created.clone_from(&config.created);
        }
    }
    config
}

/// Sees to it that each layer has its line in the history: a folder as a base has none of its own.
fn add_missing_history(config: &mut ImageConfig, layers: usize) {
    let told = config.history.iter().filter(|line| !line.empty_layer).count();
    let line = || History { created_by: "FROM context".to_owned(), ..History::default() };
    config.history.splice(0..0, std::iter::repeat_with(line).take(layers.saturating_sub(told)));
}

fn store_names(
    exporter: &Exporter<'_>,
    output: &Output,
    config: &ImageConfig,
    stack: &Stack,
) -> Result<(), WorkerError> {
    let digest = exporter.store.content.put(&config_bytes(config))?;
    exporter.images.remember_origins(stack)?;
    for name in &output.names {
        exporter.task(&format!("naming to {name}"), || {
            exporter.store.meta.set_image(&ImageRow {
                name: name.to_string(),
                config: digest,
                manifest: None,
                diff_ids: stack.diff_ids(),
                created_s: now_s(),
            })
        })?;
    }
    Ok(())
}

/// Writes to `dest` through a file beside it that takes its place when it is whole.
fn whole(
    dest: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<(), WorkerError>,
) -> Result<(), WorkerError> {
    let Some(dest) = dest else {
        let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
        write(&mut out)?;
        return out.flush().map_err(WorkerError::io("write to", "standard output"));
    };
    let is_special = std::fs::metadata(dest).is_ok_and(|m| !m.is_file());
    if is_special {
        // A pipe or a device can't be replaced.
        let mut file = File::options().write(true).open(dest).map_err(WorkerError::io("open", dest))?;
        return write(&mut file);
    }
    let folder = dest.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(".kiln-").tempfile_in(folder);
    let mut file = file.map_err(WorkerError::io("create a file in", folder))?;
    {
        let mut out = BufWriter::with_capacity(1 << 20, file.as_file_mut());
        write(&mut out)?;
        out.flush().map_err(WorkerError::io("write", dest))?;
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o666 & !umask());
    file.as_file().set_permissions(mode).map_err(WorkerError::io("set the mode of", dest))?;
    file.persist(dest).map_err(|e| WorkerError::Io {
        action: "create",
        path: dest.to_owned(),
        source: e.error,
    })?;
    Ok(())
}

/// The umask can only be read by setting it.
fn umask() -> u32 {
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::process::umask(old);
    old.as_raw_mode()
}

fn archive(
    exporter: &Exporter<'_>,
    output: &Output,
    documents: &Documents,
    dest: Option<&Path>,
    docker: bool,
) -> Result<(), WorkerError> {
    let top = documents.descriptor();
    let named = |name: &Reference| {
        let mut descriptor = top.clone();
        descriptor.annotations.insert("io.containerd.image.name".to_owned(), name.to_string());
        let tag = name.tag().unwrap_or("latest").to_owned();
        descriptor.annotations.insert("org.opencontainers.image.ref.name".to_owned(), tag);
        descriptor
    };
    let mut manifests: Vec<Descriptor> = output.names.iter().map(named).collect();
    if manifests.is_empty() {
        manifests.push(top.clone());
    }
    let index = Index {
        schema_version: 2,
        media_type: Some(MediaType::OciIndex),
        manifests,
        annotations: BTreeMap::new(),
    };
    whole(dest, |out| {
        let mut tar = Tar(LayerWriter::new(out));
        tar.folder("blobs")?;
        tar.folder("blobs/sha256")?;
        let mut blobs: BTreeMap<String, &Descriptor> = BTreeMap::new();
        for blob in documents.manifest.layers.iter().chain([&documents.manifest.config, &top]) {
            blobs.insert(blob.digest.hex(), blob);
        }
        for (hex, blob) in blobs {
            tar.blob(exporter, &format!("blobs/sha256/{hex}"), blob)?;
        }
        tar.file("index.json", &serde_json::to_vec(&index).unwrap_or_default())?;
        if docker {
            tar.file("manifest.json", &docker_manifest(output, documents))?;
        }
        tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.0.finish().map(drop).map_err(WorkerError::io("write", "the archive"))
    })
}

/// What `docker load` looks for.
fn docker_manifest(output: &Output, documents: &Documents) -> Vec<u8> {
    let path = |d: &Descriptor| format!("blobs/sha256/{}", d.digest.hex());
    let names: Vec<String> = output.names.iter().map(Reference::familiar).collect();
    let layers: Vec<String> = documents.manifest.layers.iter().map(path).collect();
    let value = serde_json::json!([{"Config": path(&documents.manifest.config), "RepoTags": names, "Layers": layers}]);
    value.to_string().into_bytes()
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

    fn blob(&mut self, exporter: &Exporter<'_>, path: &str, blob: &Descriptor) -> Result<(), WorkerError> {
        let entry = Self::entry(path, EntryKind::File { size_bytes: blob.size }, 0o644);
        let file = exporter.store.content.blob(&blob.digest)?;
        let mut verified = Verified { file, hasher: kiln_oci::Hasher::new(), expected: blob.digest };
        self.0.append(&entry, &mut verified).map_err(WorkerError::io("write", "the archive"))?;
        verified.check()
    }
}

/// Reads a blob and sees that its bytes are still those of its digest.
struct Verified {
    file: File,
    hasher: kiln_oci::Hasher,
    expected: kiln_oci::Digest,
}

impl Read for Verified {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }
}

impl Verified {
    fn check(self) -> Result<(), WorkerError> {
        let got = self.hasher.finish();
        if got == self.expected {
            return Ok(());
        }
        let bytes = self.file.metadata().map_or(0, |m| m.len());
        let (expected, expected_bytes) = (self.expected, bytes);
        Err(kiln_oci::LayoutError::Mismatch { expected, expected_bytes, got, got_bytes: bytes }.into())
    }
}

/// The files of a result, mounted to be read.
fn mounted(exporter: &Exporter<'_>, stack: &Stack) -> Result<Tree, WorkerError> {
    let layers = exporter.images.unpacked(stack)?;
    Ok(exporter.store.snapshots.mount_readonly(&layers)?.root()?)
}

fn files_tar(exporter: &Exporter<'_>, stack: &Stack, dest: Option<&Path>) -> Result<(), WorkerError> {
    let tree = mounted(exporter, stack)?;
    whole(dest, |out| {
        let mut tar = LayerWriter::new(out);
        let mut links = BTreeMap::new();
        tar_folder(&tree, b"", &mut tar, &mut links)?;
        tar.finish().map(drop).map_err(WorkerError::io("write", "the tar"))
    })
}

fn tar_folder(
    tree: &Tree,
    folder: &[u8],
    tar: &mut LayerWriter<&mut dyn Write>,
    links: &mut BTreeMap<(u64, u64), Vec<u8>>,
) -> Result<(), WorkerError> {
    for (name, stat) in tree.scan(folder)? {
        let path = crate::local::joined(folder, &name);
        let known = (stat.links > 1 && stat.kind != NodeType::Directory)
            .then(|| links.get(&(stat.device, stat.inode)).cloned())
            .flatten();
        let target = if stat.kind == NodeType::Symlink { tree.read_link(&path)? } else { Vec::new() };
        let (major, minor) = stat.special;
        let kind = match (&known, stat.kind) {
            (Some(first), _) => EntryKind::Hardlink { target: first },
            (None, NodeType::File) => EntryKind::File { size_bytes: stat.size },
            (None, NodeType::Directory) => EntryKind::Directory,
            (None, NodeType::Symlink) => EntryKind::Symlink { target: &target },
            (None, NodeType::CharDevice) => EntryKind::CharDevice { major, minor },
            (None, NodeType::BlockDevice) => EntryKind::BlockDevice { major, minor },
            (None, NodeType::Fifo) => EntryKind::Fifo,
            (None, NodeType::Socket) => continue,
        };
        let xattrs = if known.is_none() { tree.xattrs(&path)? } else { Vec::new() };
        let entry = Entry {
            path: &path,
            kind,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            mtime_s: stat.mtime.0,
            mtime_ns: 0,
            xattrs: &xattrs,
        };
        let failed = WorkerError::io("write", "the tar");
        if known.is_none() && stat.kind == NodeType::File {
            tar.append(&entry, &mut tree.open_file(&path)?).map_err(failed)?;
        } else {
            tar.append(&entry, &mut io::empty()).map_err(failed)?;
        }
        if stat.links > 1 && known.is_none() {
            links.insert((stat.device, stat.inode), path.clone());
        }
        if stat.kind == NodeType::Directory {
            tar_folder(tree, &path, tar, links)?;
        }
    }
    Ok(())
}

/// Copies the files into a folder, which keeps what else it has. Who is not root owns what is written.
fn files_folder(exporter: &Exporter<'_>, stack: &Stack, dest: &Path) -> Result<(), WorkerError> {
    let tree = mounted(exporter, stack)?;
    std::fs::create_dir_all(dest).map_err(WorkerError::io("create", dest))?;
    let to = Tree::open(dest)?;
    let all = |_: &[u8], _: bool| Verdict::Include;
    let options = CopyOptions { filter: &all, ..CopyOptions::default() };
    copy_tree(&tree, b"", &to, b"", &options)?;
    Ok(())
}
