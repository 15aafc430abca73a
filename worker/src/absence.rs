//! What there is where something was looked for and not found, so that a message can say what was meant.
//! It does not know words for it.

use crate::local::joined;
use crate::view::View;
use kiln_snapshotter::{NodeType, components};
use std::collections::VecDeque;

/// How many names of a folder are told.
const SIBLINGS_MAX: usize = 2000;
/// How many entries are looked at for the same name elsewhere.
const LOOKED_AT_MAX: usize = 20_000;

/// What there is around a path that is not there. Paths begin with a slash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absence {
    /// The pattern of the ignore rules that leaves the path out, which is there otherwise.
    pub ignored_by: Option<String>,
    /// The deepest folder of the path that is there.
    pub folder: String,
    /// The first name of the path that is not there.
    pub missing: String,
    /// What is in that folder.
    pub siblings: Vec<String>,
    /// A path somewhere else with the same last name.
    pub elsewhere: Option<String>,
}

impl Absence {
    /// Looks around a path that a view has not. What can't be read counts as not there.
    pub(crate) fn of(view: &View, path: &[u8]) -> Absence {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut folder = Vec::new();
        let mut missing: &[u8] = b"";
        for name in components(path) {
            let next = joined(&folder, name);
            if !view.node(&next).is_ok_and(|node| node.is_some_and(|n| n.kind == NodeType::Directory)) {
                missing = name;
                break;
            }
            folder = next;
        }
        let siblings = view.children(&folder).unwrap_or_default();
        let last = components(path).next_back().unwrap_or_default();
        Absence {
            ignored_by: view.excluded_by(path),
            folder: format!("/{}", text(&folder)),
            missing: text(missing),
            siblings: siblings.iter().take(SIBLINGS_MAX).map(|(name, _)| text(name)).collect(),
            elsewhere: same_name(view, last).map(|path| format!("/{}", text(&path))),
        }
    }
}

/// The first path with that last name, those nearer to the root first.
fn same_name(view: &View, wanted: &[u8]) -> Option<Vec<u8>> {
    if wanted.is_empty() || wanted.iter().any(|c| b"*?[".contains(c)) {
        return None;
    }
    let mut folders = VecDeque::from([Vec::new()]);
    let mut left = LOOKED_AT_MAX;
    while let Some(folder) = folders.pop_front() {
        for (name, node) in view.children(&folder).unwrap_or_default() {
            left = left.checked_sub(1)?;
            let path = joined(&folder, &name);
            if name == wanted {
                return Some(path);
            }
            if node.kind == NodeType::Directory {
                folders.push_back(path);
            }
        }
    }
    None
}
