//! Reads an image back from an archive, checks what must hold of every image, and answers questions
//! about it. It does not know how the image was made, and shares no code with what made it.

use crate::base_image::piped;
use kiln_oci::{Descriptor, DiffId, Digest, ImageConfig, Index, Manifest};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

/// An image that was read back whole.
#[derive(Clone, Debug)]
pub struct ImageAssert {
    /// The digest of the manifest.
    pub digest: Digest,
    /// The descriptor that the index has of it.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The config.
    pub config: ImageConfig,
    /// The layers, uncompressed, from the lowest up.
    pub layers: Vec<Vec<u8>>,
    tree: BTreeMap<String, Node>,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Which kind of thing it is.
    pub kind: Kind,
    /// Its mode, without its type.
    pub mode: u32,
    /// Its owner and its group.
    pub owner: (u64, u64),
    /// Its time of modification, in seconds since 1970.
    pub mtime_s: u64,
}

/// The kinds of thing that a path can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file and its bytes.
    File(Vec<u8>),
    /// A symbolic link and its target.
    Link(String),
    /// A pipe or a device.
    Special,
}

impl ImageAssert {
    /// Reads an OCI archive of one image. Panics if a digest, a size or a diff ID is wrong, or if
    /// history and layers do not match.
    #[track_caller]
    pub fn of_archive(archive: &Path) -> ImageAssert {
        ImageAssert::of_members(&members_of(archive))
    }

    /// Reads an OCI archive of an index: what `index.json` has of it, and its images in its order.
    #[track_caller]
    pub fn all_of_archive(archive: &Path) -> (Descriptor, Vec<ImageAssert>) {
        let members = members_of(archive);
        let top = only_manifest(&members);
        assert!(top.media_type.is_index(), "an index is expected: {top:?}");
        let index: Index = serde_json::from_slice(&blob_in(&members, &top)).expect("an index");
        let images = index.manifests.into_iter().map(|listed| ImageAssert::of_descriptor(&members, listed));
        (top, images.collect())
    }

    /// Reads an OCI layout: a folder with `index.json` and `blobs`.
    #[track_caller]
    pub fn of_layout(folder: &Path) -> ImageAssert {
        let mut members = BTreeMap::new();
        let read = |path: &Path| std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        members.insert("index.json".to_owned(), read(&folder.join("index.json")));
        for entry in std::fs::read_dir(folder.join("blobs/sha256")).expect("a layout").flatten() {
            let name = format!("blobs/sha256/{}", entry.file_name().to_string_lossy());
            members.insert(name, read(&entry.path()));
        }
        ImageAssert::of_members(&members)
    }

    #[track_caller]
    fn of_members(members: &BTreeMap<String, Vec<u8>>) -> ImageAssert {
        let descriptor = only_manifest(members);
        assert!(descriptor.media_type.is_manifest(), "one platform is one plain manifest: {descriptor:?}");
        ImageAssert::of_descriptor(members, descriptor)
    }

    #[track_caller]
    fn of_descriptor(members: &BTreeMap<String, Vec<u8>>, descriptor: Descriptor) -> ImageAssert {
        let blob = |wanted: &Descriptor| blob_in(members, wanted);
        let manifest: Manifest = serde_json::from_slice(&blob(&descriptor)).expect("a manifest");
        let config: ImageConfig = serde_json::from_slice(&blob(&manifest.config)).expect("a config");
        let layers: Vec<Vec<u8>> = manifest.layers.iter().map(|layer| decompressed(blob(layer))).collect();
        let diff_ids: Vec<DiffId> = layers.iter().map(|bytes| DiffId(Digest::of(bytes))).collect();
        assert_eq!(config.rootfs.diff_ids, diff_ids, "the diff IDs are the layers' digests");
        let steps = config.history.iter().filter(|step| !step.empty_layer).count();
        assert_eq!(steps, layers.len(), "the history has a step for each layer: {:?}", config.history);
        let mut tree = BTreeMap::new();
        for layer in &layers {
            lay(&mut tree, layer);
        }
        ImageAssert { digest: descriptor.digest, descriptor, manifest, config, layers, tree }
    }

    /// What is at `path` in the image's root file system.
    #[track_caller]
    pub fn node(&self, path: &str) -> &Node {
        self.tree.get(path).unwrap_or_else(|| panic!("{path} is not in the image: {:?}", self.paths()))
    }

    /// Whether there is anything at `path`.
    pub fn has(&self, path: &str) -> bool {
        self.tree.contains_key(path)
    }

    /// The bytes of a file as text.
    #[track_caller]
    pub fn file(&self, path: &str) -> String {
        match &self.node(path).kind {
            Kind::File(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("{path} is no file but {other:?}"),
        }
    }

    /// All paths, without the many of a userland below /bin.
    pub fn paths(&self) -> Vec<&str> {
        self.tree.keys().map(String::as_str).filter(|path| !path.starts_with("/bin/")).collect()
    }

    /// The paths in one layer; from the top if `index` is negative.
    pub fn layer_paths(&self, index: isize) -> Vec<String> {
        let count = self.layers.len() as isize;
        let index = if index < 0 { count + index } else { index };
        let layer = &self.layers[usize::try_from(index).expect("a layer")];
        let mut archive = tar::Archive::new(layer.as_slice());
        archive.entries().expect("a tar").map(|entry| path_of(&entry.expect("a tar"))).collect()
    }

    /// Each history step's command, without the builder's mark.
    pub fn history(&self) -> Vec<String> {
        let commands = self.config.history.iter().map(|step| step.created_by.as_str());
        commands.map(|text| text.split(" # ").next().unwrap_or_default().to_owned()).collect()
    }

    /// Asserts that a file has this text.
    #[track_caller]
    pub fn file_is(&self, path: &str, text: &str) -> &ImageAssert {
        assert_eq!(self.file(path), text, "the text of {path}");
        self
    }

    /// Asserts that there is nothing at `path`.
    #[track_caller]
    pub fn lacks(&self, path: &str) -> &ImageAssert {
        assert!(!self.has(path), "{path} should not be in the image");
        self
    }

    /// Asserts mode and owner of what is at `path`.
    #[track_caller]
    pub fn is(&self, path: &str, mode: u32, owner: (u64, u64)) -> &ImageAssert {
        let node = self.node(path);
        assert_eq!((format!("{:o}", node.mode), node.owner), (format!("{mode:o}"), owner), "{path}");
        self
    }
}

/// The one thing that an archive's `index.json` names.
#[track_caller]
fn only_manifest(members: &BTreeMap<String, Vec<u8>>) -> Descriptor {
    let index: Index = serde_json::from_slice(&members["index.json"]).expect("an index");
    assert_eq!(index.manifests.len(), 1, "the archive is of one thing: {index:?}");
    index.manifests[0].clone()
}

/// A blob of an archive, which must be what its descriptor says.
#[track_caller]
fn blob_in(members: &BTreeMap<String, Vec<u8>>, wanted: &Descriptor) -> Vec<u8> {
    let name = format!("blobs/sha256/{}", wanted.digest.hex());
    let bytes = members.get(&name).unwrap_or_else(|| panic!("{name} is not in the archive"));
    assert_eq!(Digest::of(bytes), wanted.digest, "the name of {name} is not its digest");
    assert_eq!(bytes.len() as u64, wanted.size, "the size of {name}");
    bytes.clone()
}

/// The files of a tar archive by name, each with its bytes.
#[track_caller]
pub fn members_of(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(archive).unwrap_or_else(|e| panic!("{}: {e}", archive.display()));
    let mut members = BTreeMap::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().expect("a tar") {
        let mut entry = entry.expect("a tar");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("memory");
        if entry.header().entry_type().is_file() {
            members.insert(path_of(&entry).trim_start_matches('/').to_owned(), content);
        }
    }
    members
}

/// The tree that the layers make when they are laid on each other.
pub fn tree_of(layers: &[Vec<u8>]) -> BTreeMap<String, Node> {
    let mut tree = BTreeMap::new();
    for layer in layers {
        lay(&mut tree, layer);
    }
    tree
}

/// The first digest in a text, as `sha256:…`.
pub fn digest_in(text: &str) -> Option<String> {
    let start = text.find("sha256:")?;
    let hex: String = text[start + 7..].chars().take_while(char::is_ascii_hexdigit).collect();
    (hex.len() == 64).then(|| format!("sha256:{hex}"))
}

fn path_of<R: Read>(entry: &tar::Entry<'_, R>) -> String {
    let bytes = entry.path_bytes();
    let text = String::from_utf8_lossy(&bytes);
    format!("/{}", text.trim_start_matches("./").trim_matches('/'))
}

fn decompressed(bytes: Vec<u8>) -> Vec<u8> {
    match bytes.as_slice() {
        [0x1f, 0x8b, ..] => piped("gzip", &["-dc"], &bytes),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => piped("zstd", &["-qdc"], &bytes),
        _ => bytes,
    }
}

/// Lays one layer over a tree: first what it removes, then what it has.
fn lay(tree: &mut BTreeMap<String, Node>, layer: &[u8]) {
    let (mut found, mut links, mut removed) = (Vec::new(), Vec::new(), BTreeSet::new());
    for entry in tar::Archive::new(layer).entries().expect("a tar") {
        let mut entry = entry.expect("a tar");
        let path = path_of(&entry);
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if name == ".wh..wh..opq" {
            removed.insert((format!("{folder}/"), false));
        } else if let Some(gone) = name.strip_prefix(".wh.") {
            removed.insert((format!("{folder}/{gone}"), true));
        } else if entry.header().entry_type().is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default().into_owned();
            let target =
                String::from_utf8_lossy(&target).trim_start_matches("./").trim_matches('/').to_owned();
            links.push((path, format!("/{target}")));
        } else {
            let node = node_of(&mut entry);
            found.push((path, node));
        }
    }
    tree.retain(|path, _| {
        !removed.iter().any(|(gone, itself)| {
            path.strip_prefix(gone.as_str()).is_some_and(|rest| {
                if *itself { rest.is_empty() || rest.starts_with('/') } else { !rest.is_empty() }
            })
        })
    });
    for (path, node) in found {
        if node.kind != Kind::Folder {
            let below = format!("{path}/");
            tree.retain(|other, _| !other.starts_with(&below));
        }
        tree.insert(path, node);
    }
    for (path, target) in links {
        let node = tree
            .get(&target)
            .unwrap_or_else(|| panic!("{path} is a hard link to {target}, which is not there"));
        tree.insert(path, node.clone());
    }
}

fn node_of<R: Read>(entry: &mut tar::Entry<'_, R>) -> Node {
    let header = entry.header().clone();
    let kind = match header.entry_type() {
        tar::EntryType::Directory => Kind::Folder,
        tar::EntryType::Symlink => {
            let target = entry.link_name_bytes().unwrap_or_default().into_owned();
            Kind::Link(String::from_utf8_lossy(&target).into_owned())
        }
        kind if kind.is_file() => {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("memory");
            Kind::File(bytes)
        }
        _ => Kind::Special,
    };
    let number = |value: std::io::Result<u64>| value.expect("a number in a tar header");
    Node {
        kind,
        mode: header.mode().expect("a mode") & 0o7777,
        owner: (number(header.uid()), number(header.gid())),
        mtime_s: number(header.mtime()),
    }
}
