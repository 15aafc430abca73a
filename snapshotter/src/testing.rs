//! A store in a temporary folder in which shell scripts make layers, for the tests of this crate.
//! It does not know what is asserted of them.

use crate::{CommitOptions, Committed, Entry, Kind, Mount, SnapshotId, Snapshotter, TreeView};
use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::Command;

pub(crate) struct Bench {
    pub store: Snapshotter,
    pub folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let store = Snapshotter::open(&folder.path().join("snapshots")).unwrap();
        Bench { store, folder }
    }

    /// Runs a script in the root that `below` makes and commits what it has changed.
    pub(crate) fn run(&self, below: &[&Committed], script: &str) -> Committed {
        let ids: Vec<SnapshotId> = below.iter().map(|layer| layer.id).collect();
        let active = self.store.prepare().unwrap();
        let mount = self.store.mount(&ids, &active).unwrap();
        shell(&mount, script);
        drop(mount);
        self.store.commit(active, &ids, &CommitOptions::default()).unwrap()
    }

    /// The tree of layers as a mount shows it.
    pub(crate) fn mounted(&self, layers: &[&Committed]) -> BTreeMap<String, String> {
        let ids: Vec<SnapshotId> = layers.iter().map(|layer| layer.id).collect();
        let tree = self.store.mount_readonly(&ids).unwrap().root().unwrap();
        let mut seen = BTreeMap::new();
        let mut todo = vec![Vec::new()];
        while let Some(folder) = todo.pop() {
            for (name, stat) in tree.scan(&folder).unwrap() {
                let path = if folder.is_empty() { name } else { [&folder, &b"/"[..], &name].concat() };
                let what = match stat.kind {
                    crate::NodeType::Directory => "dir".to_owned(),
                    crate::NodeType::Symlink => {
                        format!("-> {}", String::from_utf8_lossy(&tree.read_link(&path).unwrap()))
                    }
                    crate::NodeType::File => {
                        let mut text = Vec::new();
                        std::io::Read::read_to_end(&mut tree.open_file(&path).unwrap(), &mut text).unwrap();
                        kiln_oci::Digest::of(&text).to_string()
                    }
                    other => format!("{other:?} {:?}", stat.special),
                };
                let mode = if what.starts_with("->") { 0 } else { stat.mode };
                let line = format!("{what} {mode:o} {}:{} {:?}", stat.uid, stat.gid, stat.mtime);
                seen.insert(String::from_utf8_lossy(&path).into_owned(), line);
                if stat.kind == crate::NodeType::Directory {
                    todo.push(path);
                }
            }
        }
        seen
    }

    /// The same tree as the indexes alone show it.
    pub(crate) fn viewed(&self, layers: &[&Committed]) -> BTreeMap<String, String> {
        let view = TreeView::new(layers.iter().map(|layer| layer.index.clone()).collect());
        let line = |entry: &Entry| {
            let what = match &entry.kind {
                Kind::File { digest, .. } => digest.to_string(),
                Kind::Directory { .. } => "dir".to_owned(),
                Kind::Symlink { target } => format!("-> {}", String::from_utf8_lossy(target)),
                Kind::CharDevice { major, minor } => format!("CharDevice {:?}", (major, minor)),
                Kind::BlockDevice { major, minor } => format!("BlockDevice {:?}", (major, minor)),
                Kind::Fifo => "Fifo (0, 0)".to_owned(),
                Kind::Whiteout => "whiteout".to_owned(),
            };
            let mode = if what.starts_with("->") { 0 } else { entry.mode };
            format!("{what} {mode:o} {}:{} {:?}", entry.uid, entry.gid, (entry.mtime_s, entry.mtime_ns))
        };
        view.walk(b"")
            .map(|(path, entry)| (String::from_utf8_lossy(&path).into_owned(), line(entry)))
            .collect()
    }
}

/// Where the files of a mount can be reached by name.
pub(crate) fn reach(mount: &Mount) -> PathBuf {
    format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd()).into()
}

pub(crate) fn shell(mount: &Mount, script: &str) {
    let done = Command::new("sh").args(["-ec", script]).current_dir(reach(mount)).output().unwrap();
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The paths of a layer as its tar names them.
pub(crate) fn names(layer: &Committed) -> Vec<String> {
    let name = |(path, entry): (&[u8], &Entry)| {
        let path = String::from_utf8_lossy(path).into_owned();
        if entry.kind != Kind::Whiteout {
            return path;
        }
        match path.rsplit_once('/') {
            Some((folder, name)) => format!("{folder}/.wh.{name}"),
            None => format!(".wh.{path}"),
        }
    };
    let mut names: Vec<String> = layer.index.iter().map(name).collect();
    names.sort();
    names
}
