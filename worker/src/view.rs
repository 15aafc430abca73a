//! One way to look at files, wherever they are: a folder of the user's, or the layers of a result.
//! It does not know what is looked for.

use crate::WorkerError;
use crate::local::{LocalSource, joined};
use kiln_oci::Digest;
use kiln_snapshotter::{Entry, Kind, NodeStat, NodeType, SnapshotError, TreeView, components};
use std::collections::VecDeque;
use std::sync::Arc;

const LINKS_MAX: usize = 255;

/// Files to look at.
#[derive(Clone, Debug)]
pub(crate) enum View {
    /// A folder of the user's.
    Local(Arc<LocalSource>),
    /// The layers of a result.
    Layers(Arc<TreeView>),
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub kind: NodeType,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// A link's target.
    pub target: Vec<u8>,
    /// A device's numbers.
    pub device: (u32, u32),
    /// Extended attributes; those of a user's file are part of its digest instead.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What all names of a file with several have in common.
    pub link: Option<(u64, u64)>,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    None,
    Known(Digest),
    ToRead(NodeStat),
}

impl Node {
    /// How a user's file is, by which one sees later whether it changed.
    pub fn stat(&self) -> Option<&NodeStat> {
        match &self.content {
            Content::ToRead(stat) => Some(stat),
            Content::None | Content::Known(_) => None,
        }
    }
}

impl View {
    /// Whether a file that is as `stat` says can't have changed any more since the build began, or it would show.
    pub fn shows_changes(&self, stat: &NodeStat) -> bool {
        match self {
            View::Local(local) => local.memo().shows_changes(stat),
            View::Layers(_) => true,
        }
    }

    /// What is at `path`, links not followed; `None` if nothing is. The root is a folder like others.
    pub fn node(&self, path: &[u8]) -> Result<Option<Node>, WorkerError> {
        match self {
            View::Local(local) => match local.stat(path)? {
                Some(stat) => Ok(Some(local_node(local, path, &stat)?)),
                None => Ok(None),
            },
            View::Layers(_) if path.is_empty() => Ok(Some(root_node())),
            View::Layers(view) => Ok(view.get(path).and_then(layer_node)),
        }
    }

    /// What is in the folder at `path`, by name.
    pub fn children(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Node)>, WorkerError> {
        match self {
            View::Local(local) => {
                let entries = local.scan(path)?;
                let nodes = entries.into_iter().map(|(name, stat)| {
                    let node = local_node(local, &joined(path, &name), &stat)?;
                    Ok((name, node))
                });
                nodes.collect()
            }
            View::Layers(view) => {
                let children = view.children(path);
                Ok(children
                    .into_iter()
                    .filter_map(|(name, entry)| Some((name.to_vec(), layer_node(entry)?)))
                    .collect())
            }
        }
    }

    /// The digest of the bytes of the file at `path`.
    pub fn digest(&self, path: &[u8], node: &Node) -> Result<Option<Digest>, WorkerError> {
        match (&node.content, self) {
            (Content::None, _) | (Content::ToRead(_), View::Layers(_)) => Ok(None),
            (Content::Known(digest), _) => Ok(Some(*digest)),
            (Content::ToRead(stat), View::Local(local)) => local.digest(path, stat).map(Some),
        }
    }

    /// Where `path` leads, links inside followed, the last one only if `follow_last`; `..` does not leave
    /// the root. What is missing is taken as it is written.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Vec<u8>, WorkerError> {
        if let View::Layers(view) = self {
            return Ok(view.resolve(path, follow_last)?.path);
        }
        let mut todo: VecDeque<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                done.pop();
                continue;
            }
            done.push(name);
            if todo.is_empty() && !follow_last {
                break;
            }
            let here = done.join(&b'/');
            let Some(Node { kind: NodeType::Symlink, target, .. }) = self.node(&here)? else { continue };
            links += 1;
            if links > LINKS_MAX {
                let path = String::from_utf8_lossy(path).into_owned();
                return Err(SnapshotError::TooManyLinks(path).into());
            }
            done.pop();
            if target.starts_with(b"/") {
                done.clear();
            }
            for component in components(&target).rev() {
                todo.push_front(component.to_vec());
            }
        }
        Ok(done.join(&b'/'))
    }

    /// Where it is, for messages.
    pub fn place(&self) -> String {
        match self {
            View::Local(local) => format!("the context {}", local.path().display()),
            View::Layers(_) => "the file system that is copied from".to_owned(),
        }
    }

    /// The pattern of the ignore rules that hides a path which is there otherwise.
    pub fn excluded_by(&self, path: &[u8]) -> Option<String> {
        match self {
            View::Local(local) => local.excluded_by(path),
            View::Layers(_) => None,
        }
    }
}

/// Tells the groups of links of different layers apart, as far as their contents differ.
fn first_bytes(digest: &Digest) -> u64 {
    digest.as_bytes().iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn local_node(local: &LocalSource, path: &[u8], stat: &NodeStat) -> Result<Node, WorkerError> {
    let target = if stat.kind == NodeType::Symlink { local.tree().read_link(path)? } else { Vec::new() };
    let content = if stat.kind == NodeType::File { Content::ToRead(*stat) } else { Content::None };
    let NodeStat { kind, mode, special, .. } = *stat;
    let xattrs = if kind == NodeType::Directory { local.tree().xattrs(path)? } else { Vec::new() };
    let link = (kind == NodeType::File && stat.links > 1).then_some((stat.device, stat.inode));
    let (uid, gid) = local.owner().unwrap_or((stat.uid, stat.gid));
    Ok(Node { kind, mode, uid, gid, target, device: special, xattrs, link, content })
}

fn root_node() -> Node {
    Node {
        kind: NodeType::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        target: Vec::new(),
        device: (0, 0),
        xattrs: Vec::new(),
        link: None,
        content: Content::None,
    }
}

fn layer_node(entry: &Entry) -> Option<Node> {
    let mut node = Node {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        xattrs: entry.xattrs.clone(),
        ..root_node()
    };
    match &entry.kind {
        Kind::File { digest, link, .. } => {
            node.link = link.map(|group| (u64::from(group), first_bytes(digest)));
            node.kind = NodeType::File;
            node.content = Content::Known(*digest);
        }
        Kind::Directory { .. } => {}
        Kind::Symlink { target } => {
            node.kind = NodeType::Symlink;
            node.target.clone_from(target);
        }
        Kind::CharDevice { major, minor } => {
            node.kind = NodeType::CharDevice;
            node.device = (*major, *minor);
        }
        Kind::BlockDevice { major, minor } => {
            node.kind = NodeType::BlockDevice;
            node.device = (*major, *minor);
        }
        Kind::Fifo => node.kind = NodeType::Fifo,
        Kind::Whiteout => return None,
    }
    Some(node)
}
