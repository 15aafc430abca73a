//! The tree that a stack of layers makes, worked out from their indexes alone, with no mount:
//! the topmost layer wins, whiteouts and opaque directories hide what is below them.
//! It does not know where layers come from or where their files are.

use crate::error::{SnapshotError, shown};
use crate::index::{Entry, Kind, LayerIndex};
use std::collections::VecDeque;
use std::sync::Arc;

/// How many symbolic links one path may lead through.
const MAX_LINKS: usize = 255;

/// A stack of layers, looked at as one tree.
#[derive(Clone, Debug, Default)]
pub struct TreeView {
    layers: Vec<Arc<LayerIndex>>,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved<'a> {
    /// The path with every symbolic link on the way followed, no slash in front; empty for the root.
    pub path: Vec<u8>,
    /// What is there: `None` if nothing is, and for the root, which no layer describes.
    pub entry: Option<&'a Entry>,
}

impl TreeView {
    /// The tree of `layers`, which go from the lowest up.
    pub fn new(layers: Vec<Arc<LayerIndex>>) -> TreeView {
        TreeView { layers }
    }

    /// The layers, from the lowest up.
    pub fn layers(&self) -> &[Arc<LayerIndex>] {
        &self.layers
    }

    /// What is at `path`, in which no symbolic link is followed.
    pub fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.find(path).map(|found| found.entry)
    }

    /// Follows symbolic links inside the tree; the last one only if `follow_last`.
    /// What is missing is taken as it is written.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Resolved<'_>, SnapshotError> {
        let mut todo: VecDeque<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
        let mut levels: Vec<Option<Level<'_>>> = vec![Some(self.root())];
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut last = None;
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                if done.pop().is_some() {
                    levels.pop();
                }
                last = None;
                continue;
            }
            let found = levels.last().and_then(|level| level.as_ref()).and_then(|level| level.child(&name));
            if let Some(Found { entry: Entry { kind: Kind::Symlink { target }, .. }, .. }) = &found
                && (follow_last || !todo.is_empty())
            {
                links += 1;
                if links > MAX_LINKS {
                    return Err(SnapshotError::TooManyLinks(shown(path)));
                }
                if target.starts_with(b"/") {
                    levels.truncate(1);
                    done.clear();
                }
                for part in components(target).rev() {
                    todo.push_front(part.to_vec());
                }
                last = None;
                continue;
            }
            last = found.as_ref().map(|found| found.entry);
            levels.push(found.and_then(|found| found.inside));
            done.push(name);
        }
        let path = done.join(&b'/');
        let entry = last.or_else(|| self.get(&path));
        Ok(Resolved { path, entry })
    }

    /// The names in the directory at `path` and what they are, sorted by name; nothing if there is
    /// no directory.
    pub fn children(&self, path: &[u8]) -> Vec<(&[u8], &Entry)> {
        let Some(level) = self.level(path) else { return Vec::new() };
        level.children().into_iter().map(|(name, found)| (name, found.entry)).collect()
    }

    /// All that is beneath the directory at `path`, each folder before what is in it.
    pub fn walk(&self, path: &[u8]) -> Walk<'_> {
        let mut walk = Walk { pending: Vec::new() };
        if let Some(level) = self.level(path) {
            walk.push(components(path).collect::<Vec<_>>().join(&b'/'), &level);
        }
        walk
    }

    /// The layer that holds what is at `path`, counted from the lowest.
    pub fn layer_of(&self, path: &[u8]) -> Option<usize> {
        self.find(path).map(|found| found.layer)
    }

    /// The layer that holds what is at `path`, counted from the lowest, with its entry there.
    pub(crate) fn holder(&self, path: &[u8]) -> Option<(usize, &Entry)> {
        self.find(path).map(|found| (found.layer, found.entry))
    }

    pub(crate) fn root(&self) -> Level<'_> {
        let layers = self.layers.iter().enumerate().rev();
        let layers = layers.filter(|(_, layer)| !layer.is_empty());
        Level { layers: layers.map(|(number, layer)| Part { number, layer, at: None }).collect() }
    }

    fn find(&self, path: &[u8]) -> Option<Found<'_>> {
        let mut names = components(path);
        let mut found = self.root().child(names.next()?)?;
        for name in names {
            found = found.inside?.child(name)?;
        }
        Some(found)
    }

    fn level(&self, path: &[u8]) -> Option<Level<'_>> {
        let mut level = self.root();
        for name in components(path) {
            level = level.child(name)?.inside?;
        }
        Some(level)
    }
}

/// The names of a path, whatever slashes and dots are around them.
pub fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."))
}

/// One directory of a view: the layers that have a part in it, the topmost first.
#[derive(Clone, Debug)]
pub(crate) struct Level<'a> {
    layers: Vec<Part<'a>>,
}

/// A layer's part in a directory, by its position in that layer's index.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    number: usize,
    layer: &'a LayerIndex,
    at: Option<usize>,
}

/// What a name in a directory is.
pub(crate) struct Found<'a> {
    pub entry: &'a Entry,
    pub layer: usize,
    pub inside: Option<Level<'a>>,
}

impl<'a> Level<'a> {
    /// Whether no layer has a part in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    pub(crate) fn child(&self, name: &[u8]) -> Option<Found<'a>> {
        let mut path = Vec::new();
        let parts = self.layers.iter().filter_map(|part| {
            path.clear();
            if let Some(at) = part.at {
                path.extend_from_slice(&part.layer.entries[at].0);
                path.push(b'/');
            }
            path.extend_from_slice(name);
            part.layer.position(&path).map(|at| Part { at: Some(at), ..*part })
        });
        merge(parts)
    }

    pub(crate) fn children(&self) -> Vec<(&'a [u8], Found<'a>)> {
        let mut parts = Vec::new();
        for (rank, part) in self.layers.iter().enumerate() {
            let range = part.layer.beneath(part.at);
            let skip = part.at.map_or(0, |at| part.layer.entries[at].0.len() + 1);
            let mut at = range.start;
            while at < range.end {
                let name = &part.layer.entries[at].0[skip..];
                parts.push((name, rank, Part { at: Some(at), ..*part }));
                at = part.layer.beneath(Some(at)).end;
            }
        }
        parts.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        let groups = parts.chunk_by(|a, b| a.0 == b.0);
        groups.filter_map(|same| Some((same[0].0, merge(same.iter().map(|part| part.2))?))).collect()
    }
}

/// What the entries of one path, the topmost first, make together.
fn merge<'a>(parts: impl Iterator<Item = Part<'a>>) -> Option<Found<'a>> {
    let mut found: Option<Found<'a>> = None;
    for part in parts {
        let Some(at) = part.at else { break };
        let entry = &part.layer.entries[at].1;
        match (&entry.kind, &mut found) {
            (Kind::Directory { opaque }, slot) => {
                let found = slot.get_or_insert_with(|| Found { entry, layer: part.number, inside: None });
                if found.entry.implied {
                    found.entry = entry;
                }
                found.inside.get_or_insert_with(|| Level { layers: Vec::new() }).layers.push(part);
                if *opaque {
                    break;
                }
            }
            (Kind::Whiteout, _) | (_, Some(_)) => break,
            (_, None) => return Some(Found { entry, layer: part.number, inside: None }),
        }
    }
    found
}

/// Goes through a view; see [`TreeView::walk`].
pub struct Walk<'a> {
    pending: Vec<(Vec<u8>, Found<'a>)>,
}

impl<'a> Walk<'a> {
    fn push(&mut self, folder: Vec<u8>, level: &Level<'a>) {
        let children = level.children().into_iter().rev();
        self.pending.extend(children.map(|(name, found)| {
            let mut path = folder.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            (path, found)
        }));
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = (Vec<u8>, &'a Entry);

    fn next(&mut self) -> Option<(Vec<u8>, &'a Entry)> {
        let (path, found) = self.pending.pop()?;
        if let Some(level) = &found.inside {
            self.push(path.clone(), level);
        }
        Some((path, found.entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::{file, layer};

    fn with(kind: Kind) -> Entry {
        Entry { kind, implied: false, ..Entry::implied_directory() }
    }

    fn dir() -> Entry {
        with(Kind::Directory { opaque: false })
    }

    fn link(target: &str) -> Entry {
        with(Kind::Symlink { target: target.as_bytes().to_vec() })
    }

    fn view(layers: Vec<Vec<(&str, Entry)>>) -> TreeView {
        TreeView::new(layers.into_iter().map(|entries| Arc::new(layer(entries))).collect())
    }

    fn paths(view: &TreeView) -> Vec<String> {
        view.walk(b"").map(|(path, _)| String::from_utf8_lossy(&path).into_owned()).collect()
    }

    #[test]
    fn upper_layers_win_and_hide() {
        let view = view(vec![
            vec![
                ("a", dir()),
                ("a/one", file(b"1")),
                ("a/two", file(b"2")),
                ("b", dir()),
                ("b/x", file(b"")),
                ("c", dir()),
                ("c/x", file(b"")),
                ("f", file(b"")),
            ],
            vec![
                ("a", Entry { mode: 0o700, ..dir() }),
                ("a/one", with(Kind::Whiteout)),
                ("a/three", file(b"3")),
                ("b", with(Kind::Directory { opaque: true })),
                ("b/y", file(b"")),
                ("c", file(b"c")),
                ("f", dir()),
            ],
            vec![("a", Entry::implied_directory()), ("a/two", file(b"22"))],
        ]);
        assert_eq!(paths(&view), ["a", "a/three", "a/two", "b", "b/y", "c", "f"]);
        assert_eq!(view.get(b"/a").map(|entry| entry.mode), Some(0o700));
        assert_eq!(view.get(b"a//two"), Some(&file(b"22")));
        assert_eq!(view.get(b"a/one"), None);
        assert_eq!(view.get(b"c/x"), None);
        assert_eq!(view.children(b"a").len(), 2);
        assert_eq!(view.children(b"f").len(), 0);
    }

    #[test]
    fn links_are_followed_inside_the_tree() {
        let view = view(vec![vec![
            ("usr", dir()),
            ("usr/lib", dir()),
            ("usr/lib/so", file(b"")),
            ("lib", link("/usr/../../usr/lib")),
            ("up", link("../../../lib")),
            ("loop", link("loop")),
            ("last", link("lib/so")),
        ]]);
        let resolve = |path: &str, follow| view.resolve(path.as_bytes(), follow).map(|found| found.path);
        assert_eq!(resolve("/up/so", false).ok(), Some(b"usr/lib/so".to_vec()));
        assert_eq!(resolve("last", true).ok(), Some(b"usr/lib/so".to_vec()));
        assert_eq!(resolve("last", false).ok(), Some(b"last".to_vec()));
        assert_eq!(resolve("lib/none/../x", true).ok(), Some(b"usr/lib/x".to_vec()));
        assert_eq!(resolve("/../..", true).ok(), Some(Vec::new()));
        assert!(matches!(resolve("loop/x", true), Err(SnapshotError::TooManyLinks(_))));
        assert!(view.resolve(b"lib/so", true).is_ok_and(|found| found.entry.is_some()));
    }
}
