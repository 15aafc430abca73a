//! A folder of the user's as a source of files: read in place, seen through its ignore rules.
//! Owners don't count: everything belongs to root, but what an archive brought. It does not know what is copied where.

use crate::WorkerError;
use crate::memo::Memo;
use kiln_oci::{Digest, Hasher};
use kiln_snapshotter::{NodeStat, NodeType, SnapshotError, SourceModes, Tree};
use kiln_solver::pattern::{Matched, PatternList};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A local source.
#[derive(Debug)]
pub(crate) struct LocalSource {
    path: PathBuf,
    tree: Tree,
    excludes: PatternList,
    /// The same as they were given, to name one that leaves something out.
    patterns: Vec<String>,
    memo: Memo,
    keeps_owners: bool,
    modes: SourceModes,
}

impl LocalSource {
    /// Opens the folder at `path`; what `excludes` match is not in it. `keeps_owners` is for a folder that
    /// was unpacked from an archive, which has owners of its own. Modes are seen as `modes` says.
    pub fn open(
        path: &Path,
        excludes: &[String],
        memo: Memo,
        keeps_owners: bool,
        modes: SourceModes,
    ) -> Result<LocalSource, WorkerError> {
        let patterns = excludes.to_vec();
        let excludes = PatternList::parse(excludes).map_err(|e| WorkerError::Copy(e.into()))?;
        let path = path.to_owned();
        Ok(LocalSource { tree: Tree::open(&path)?, path, excludes, patterns, memo, keeps_owners, modes })
    }

    /// The files of a step that is going on, none of them ignored.
    pub fn of_tree(tree: Tree) -> LocalSource {
        LocalSource {
            path: PathBuf::new(),
            tree,
            excludes: PatternList::default(),
            patterns: Vec::new(),
            memo: Memo::default(),
            keeps_owners: true,
            modes: SourceModes::Exact,
        }
    }

    /// Its folder, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The owner of what is copied from it: root, or none where files keep their own.
    pub fn owner(&self) -> Option<(u32, u32)> {
        (!self.keeps_owners).then_some((0, 0))
    }

    /// How its files' modes are seen, which a copy of them must do alike.
    pub fn modes(&self) -> SourceModes {
        self.modes
    }

    /// Its files.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What it remembers of digests.
    pub fn memo(&self) -> &Memo {
        &self.memo
    }

    /// Whether the ignore rules leave `path` out. A folder of which only a part is left out is not.
    pub fn is_ignored(&self, path: &[u8], is_dir: bool) -> bool {
        if path.is_empty() || self.excludes.is_empty() {
            return false;
        }
        match self.excludes.matches_folder(path) {
            Matched::No => false,
            Matched::Whole => true,
            Matched::Partly => !is_dir || !self.holds_something(path),
        }
    }

    /// The last pattern that leaves out `path`, if something is there.
    pub fn excluded_by(&self, path: &[u8]) -> Option<String> {
        let stat = self.tree.stat(path, false).ok()?;
        if !self.is_ignored(path, stat.kind == NodeType::Directory) {
            return None;
        }
        let leaves_out = |pattern: &&String| {
            let alone = PatternList::parse([pattern.as_str()]);
            !pattern.starts_with('!') && alone.is_ok_and(|alone| alone.matches(path))
        };
        self.patterns.iter().rfind(leaves_out).cloned()
    }

    /// Whether something beneath an excluded folder is let in again.
    fn holds_something(&self, folder: &[u8]) -> bool {
        let Ok(entries) = self.tree.read_dir(folder) else { return false };
        entries.iter().any(|(name, kind)| {
            let path = joined(folder, name);
            !self.is_ignored(&path, *kind == NodeType::Directory)
        })
    }

    /// What is at `path`, not followed; `None` if nothing is, or it is ignored.
    pub fn stat(&self, path: &[u8]) -> Result<Option<NodeStat>, WorkerError> {
        match self.tree.stat(path, false) {
            Ok(stat) if self.is_ignored(path, stat.kind == NodeType::Directory) => Ok(None),
            Ok(stat) => Ok(Some(self.seen(stat))),
            Err(SnapshotError::NotFound(_)) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn seen(&self, stat: NodeStat) -> NodeStat {
        NodeStat { mode: self.modes.of(stat.mode, stat.kind), ..stat }
    }

    /// What is in the folder at `path` and not ignored, by name.
    pub fn scan(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, NodeStat)>, WorkerError> {
        let mut entries = self.tree.scan(path)?;
        entries.iter_mut().for_each(|(_, stat)| *stat = self.seen(*stat));
        if !self.excludes.is_empty() {
            entries.retain(|(name, stat)| {
                !self.is_ignored(&joined(path, name), stat.kind == NodeType::Directory)
            });
        }
        Ok(entries)
    }

    /// The digest of a file's bytes and extended attributes: remembered, if the file can't have changed
    /// since, or read.
    pub fn digest(&self, path: &[u8], stat: &NodeStat) -> Result<Digest, WorkerError> {
        if let Some(known) = self.memo.get(stat) {
            return Ok(known);
        }
        let mut file = self.tree.open_file(path)?;
        let content = digest_of(&mut file).map_err(WorkerError::io("read", self.host_path(path)))?;
        let xattrs = self.tree.xattrs(path)?;
        let digest = if xattrs.is_empty() { content } else { with_xattrs(&content, &xattrs) };
        self.memo.note(stat, digest);
        Ok(digest)
    }

    /// A path in it as the user knows it, for messages.
    pub fn host_path(&self, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.path.join(std::ffi::OsStr::from_bytes(path))
    }
}

/// `folder/name`, where an empty folder is the root.
pub(crate) fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(folder.len() + 1 + name.len());
    path.extend_from_slice(folder);
    if !folder.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn with_xattrs(content: &Digest, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(content.as_bytes());
    for part in xattrs.iter().flat_map(|(name, value)| [name, value]) {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finish()
}

fn digest_of(file: &mut dyn Read) -> std::io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}
