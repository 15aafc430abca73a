//! What a copy takes from its source: which paths match, what of them is left out, and the digest that
//! stands for all of it in a step's key.
//!
//! The digest covers each match's name and, beneath it in order, path, type, mode, owner, link target,
//! device, extended attributes and bytes; never times. It does not copy anything.

use crate::WorkerError;
use crate::absence::Absence;
use crate::explain::{Listed, Listing, kind_byte};
use crate::local::joined;
use crate::view::{Node, View};
use kiln_oci::{Digest, Hasher};
use kiln_snapshotter::components;
use kiln_snapshotter::{NodeType, Verdict};
use kiln_solver::CopyAction;
use kiln_solver::pattern::{Matched, PatternList, check_wildcards, has_wildcard, wildcard_match};
use rayon::prelude::*;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// A path that a copy's source names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    /// Where it is, links followed as the copy says.
    pub path: Vec<u8>,
    /// Its own name, before the last link was followed: what it is called in a folder.
    pub name: Vec<u8>,
}

/// The include and exclude patterns of a copy.
#[derive(Debug)]
pub(crate) struct Filter {
    include: PatternList,
    exclude: PatternList,
}

impl Filter {
    /// Reads a copy's patterns.
    pub fn of(copy: &CopyAction) -> Result<Filter, WorkerError> {
        let parse = |list: &[String]| PatternList::parse(list).map_err(|e| WorkerError::Copy(e.into()));
        Ok(Filter { include: parse(&copy.include_patterns)?, exclude: parse(&copy.exclude_patterns)? })
    }

    /// What becomes of `path`, which is relative to what is copied; empty is that itself.
    pub fn verdict(&self, path: &[u8], is_dir: bool) -> Verdict {
        if path.is_empty() {
            return if self.include.is_empty() { Verdict::Include } else { Verdict::ExcludeButDescend };
        }
        let excluded = if is_dir { self.exclude.matches_folder(path) } else { Matched::No };
        match excluded {
            Matched::Whole => return Verdict::Exclude,
            Matched::Partly => return Verdict::ExcludeButDescend,
            Matched::No if !is_dir && self.exclude.matches(path) => return Verdict::Exclude,
            Matched::No => {}
        }
        if self.include.is_empty() || self.include.matches(path) {
            return Verdict::Include;
        }
        if is_dir && self.include.may_match_beneath(path) {
            Verdict::ExcludeButDescend
        } else {
            Verdict::Exclude
        }
    }
}

/// The paths that a copy's source names, in order. That a literal path is missing is an error; that a
/// pattern matches nothing is one only if the copy says so.
pub(crate) fn matches(view: &View, copy: &CopyAction) -> Result<Vec<Match>, WorkerError> {
    for path in &copy.required_paths {
        let resolved = view.resolve(path.as_bytes(), true)?;
        if view.node(&resolved)?.is_none() {
            return Err(missing(view, path, &resolved));
        }
    }
    if copy.allow_wildcard && has_wildcard(&copy.src) {
        let found = expand(view, copy)?;
        if found.is_empty() && !copy.allow_empty_wildcard {
            return Err(missing(view, &copy.src, copy.src.as_bytes()));
        }
        return Ok(found);
    }
    let written = if copy.allow_wildcard { unescaped(&copy.src) } else { copy.src.clone() };
    let clean = lexically_clean(written.as_bytes());
    let path = view.resolve(&clean, copy.follow_symlink)?;
    if view.node(&path)?.is_none() {
        return Err(missing(view, &copy.src, &path));
    }
    let name = components(&clean).next_back().unwrap_or_default().to_vec();
    Ok(vec![Match { path, name }])
}

fn missing(view: &View, path: &str, resolved: &[u8]) -> WorkerError {
    let shown = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let around = Box::new(Absence::of(view, resolved));
    WorkerError::NotFound { path: shown, place: view.place(), around }
}

/// Go's `path.Clean` of an absolute path: `..` is taken away with what is before it.
fn lexically_clean(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<&[u8]> = Vec::new();
    for component in components(path) {
        if component == b".." {
            out.pop();
        } else {
            out.push(component);
        }
    }
    out.join(&b'/')
}

fn unescaped(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    out
}

/// Follows a pattern component by component, as Go's `filepath.Glob` beneath the root.
fn expand(view: &View, copy: &CopyAction) -> Result<Vec<Match>, WorkerError> {
    let clean = lexically_clean(copy.src.as_bytes());
    let parts: Vec<&[u8]> = components(&clean).collect();
    for part in &parts {
        check_wildcards(part).map_err(|e| WorkerError::Copy(e.into()))?;
    }
    let mut found = vec![Vec::new()];
    for (i, part) in parts.iter().enumerate() {
        let mut next = Vec::new();
        for folder in &found {
            let folder = view.resolve(folder, true)?;
            if !part.iter().any(|c| b"*?[\\".contains(c)) {
                next.push(joined(&folder, part));
                continue;
            }
            if view.node(&folder)?.is_none_or(|n| n.kind != NodeType::Directory) {
                continue;
            }
            let children = view.children(&folder)?;
            let more = i + 1 < parts.len();
            next.extend(
                children
                    .into_iter()
                    .filter(|(name, node)| {
                        let descends = matches!(node.kind, NodeType::Directory | NodeType::Symlink);
                        wildcard_match(part, name) && (!more || descends)
                    })
                    .map(|(name, _)| joined(&folder, &name)),
            );
        }
        found = next;
    }
    let mut out = Vec::new();
    for path in found {
        let name = path.rsplit(|&c| c == b'/').next().unwrap_or_default().to_vec();
        let path = view.resolve(&path, copy.follow_symlink)?;
        // A path after the last wildcard, or a link that leads nowhere, may not be there.
        if view.node(&path)?.is_some() {
            out.push(Match { path, name });
        }
    }
    Ok(out)
}

/// What a vertex takes of an input: all of a folder, or what a copy names in it.
#[derive(Clone, Debug)]
pub(crate) enum Wanted<'a> {
    All(Vec<u8>),
    Copy(&'a CopyAction),
}

impl Wanted<'_> {
    /// Lists what is taken. Nothing is read.
    pub fn look(&self, view: &View) -> Result<Vec<Looked>, WorkerError> {
        let (found, filter) = match self {
            Wanted::All(path) => {
                let all = Match { path: path.clone(), name: Vec::new() };
                (vec![all], Filter::of(&CopyAction::default())?)
            }
            Wanted::Copy(copy) => (matches(view, copy)?, Filter::of(copy)?),
        };
        let look = |found: Match| {
            let node = view.node(&found.path)?;
            let entries = node.map_or(Ok(Vec::new()), |node| gather(view, &found.path, node, &filter))?;
            Ok(Looked { found, entries })
        };
        found.into_iter().map(look).collect()
    }

    /// Reads what was listed, and gives what stands for it, which goes into `listing` too.
    pub fn read(
        &self,
        view: &View,
        looked: &mut [Looked],
        listing: &mut Listing,
    ) -> Result<Digest, WorkerError> {
        let everything = CopyAction { src: "/".to_owned(), ..CopyAction::default() };
        let mut hasher = Hasher::new();
        for part in looked {
            part.entries.par_iter_mut().with_min_len(32).try_for_each(|taken| {
                taken.digest = view.digest(&taken.path, &taken.node)?;
                Ok::<_, WorkerError>(())
            })?;
            let copy = match self {
                Wanted::All(_) => &everything,
                Wanted::Copy(copy) => {
                    put(&mut hasher, b"match");
                    put(&mut hasher, &part.found.name);
                    *copy
                }
            };
            put_tree(&mut hasher, part, copy, listing);
        }
        Ok(hasher.finish())
    }
}

/// The digest of all that is at and beneath a path: what a bind mount shows.
pub(crate) fn digest_of_all(view: &View, path: &[u8]) -> Result<Digest, WorkerError> {
    let wanted = Wanted::All(path.to_vec());
    wanted.read(view, &mut wanted.look(view)?, &mut Listing::default())
}

/// What was at one of the paths that a source names, when it was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Looked {
    pub found: Match,
    /// In order: what is in a folder stands behind it.
    pub entries: Vec<Taken>,
}

impl Looked {
    /// Whether `again`, which was looked at later and not read, is just the same. What could have changed in
    /// between without a sign is read once more.
    pub fn is_still(&self, again: &Looked, view: &View) -> Result<bool, WorkerError> {
        if self.found != again.found || self.entries.len() != again.entries.len() {
            return Ok(false);
        }
        for (before, now) in self.entries.iter().zip(&again.entries) {
            let is_alike = before.path == now.path && before.node == now.node;
            let shows_changes = now.node.stat().is_none_or(|stat| view.shows_changes(stat));
            if !is_alike || !shows_changes && view.digest(&now.path, &now.node)? != before.digest {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn put_tree(
    hasher: &mut Hasher,
    Looked { found, entries }: &Looked,
    copy: &CopyAction,
    listing: &mut Listing,
) {
    let mut links: HashMap<(u64, u64), &[u8]> = HashMap::new();
    for Taken { path, relative, node, digest } in entries {
        if relative.is_empty()
            && node.kind == NodeType::Directory
            && (copy.dir_copy_contents || found.path.is_empty())
        {
            // Of a folder only what is in it is taken: its own mode and owner go nowhere.
            put(hasher, b"a folder");
            continue;
        }
        put_node(hasher, relative, node, *digest, copy);
        listing.add(path, listed(node, digest.as_ref(), copy));
        // Only other names within what is taken count: one elsewhere changes nothing.
        let first = node.link.and_then(|link| match links.entry(link) {
            Entry::Occupied(first) => Some(*first.get()),
            Entry::Vacant(new) => {
                new.insert(relative);
                None
            }
        });
        hasher.update(&[u8::from(first.is_some())]);
        if let Some(first) = first {
            put(hasher, first);
        }
    }
}

/// One thing that is taken.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    /// Where it is.
    path: Vec<u8>,
    /// The same below the root of the copy.
    pub relative: Vec<u8>,
    pub node: Node,
    /// Of a file, once it was read.
    pub digest: Option<Digest>,
}

/// One path that is looked at, and which of the others are in it.
struct Seen {
    path: Vec<u8>,
    relative: Vec<u8>,
    node: Node,
    verdict: Verdict,
    inside: std::ops::Range<usize>,
}

/// Lists what is taken at and beneath `path`, in order.
/// All folders of one depth are listed at once, on all cores.
fn gather(view: &View, path: &[u8], node: Node, filter: &Filter) -> Result<Vec<Taken>, WorkerError> {
    let see = |path: Vec<u8>, relative: Vec<u8>, node: Node| {
        let verdict = filter.verdict(&relative, node.kind == NodeType::Directory);
        let seen = Seen { path, relative, node, verdict, inside: 0..0 };
        (verdict != Verdict::Exclude).then_some(seen)
    };
    let mut all: Vec<Seen> = see(path.to_vec(), Vec::new(), node).into_iter().collect();
    let mut done = 0;
    while done < all.len() {
        let level = all.len();
        let list = |folder: &Seen| -> Result<Vec<Seen>, WorkerError> {
            if folder.node.kind != NodeType::Directory {
                return Ok(Vec::new());
            }
            let of = |(name, node): (Vec<u8>, Node)| {
                see(joined(&folder.path, &name), joined(&folder.relative, &name), node)
            };
            Ok(view.children(&folder.path)?.into_iter().filter_map(of).collect())
        };
        let listed: Vec<Vec<Seen>> = all[done..].par_iter().map(list).collect::<Result<_, _>>()?;
        for (at, inside) in (done..level).zip(listed) {
            all[at].inside = all.len()..all.len() + inside.len();
            all.extend(inside);
        }
        done = level;
    }
    // A folder that is only on the way is taken if anything in it is; what is in it stands behind it.
    let mut taken = vec![false; all.len()];
    for (at, seen) in all.iter().enumerate().rev() {
        taken[at] = seen.verdict == Verdict::Include || taken[seen.inside.clone()].contains(&true);
    }
    let mut todo: Vec<usize> = (0..all.len().min(1)).collect();
    let mut order = Vec::with_capacity(all.len());
    while let Some(at) = todo.pop() {
        if taken[at] {
            order.push(at);
        }
        todo.extend(all[at].inside.clone().rev());
    }
    let mut all: Vec<Option<Seen>> = all.into_iter().map(Some).collect();
    let seen = order.into_iter().filter_map(|at| all[at].take());
    Ok(seen.map(|Seen { path, relative, node, .. }| Taken { path, relative, node, digest: None }).collect())
}

fn put(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}

/// A mode in digits that the copy gives hides what the source has.
fn hides_mode(copy: &CopyAction) -> bool {
    copy.mode.as_ref().is_some_and(|mode| mode.bytes().all(|c| c.is_ascii_digit()))
}

/// What a listing has of a file: just what counts for the digest.
fn listed(node: &Node, digest: Option<&Digest>, copy: &CopyAction) -> Listed {
    let (uid, gid) = if copy.owner.is_none() { (node.uid, node.gid) } else { (0, 0) };
    let rest = match digest {
        Some(digest) if node.xattrs.is_empty() => *digest,
        digest => {
            let mut hasher = Hasher::new();
            put_rest(&mut hasher, node, digest.copied());
            hasher.finish()
        }
    };
    let mut first = [0; 8];
    first.copy_from_slice(&rest.as_bytes()[..8]);
    let mode = if hides_mode(copy) { 0 } else { node.mode };
    Listed { kind: kind_byte(node.kind), mode, uid, gid, rest: first }
}

fn put_node(hasher: &mut Hasher, relative: &[u8], node: &Node, digest: Option<Digest>, copy: &CopyAction) {
    put(hasher, relative);
    put(hasher, format!("{:?}", node.kind).as_bytes());
    // So does an owner.
    if !hides_mode(copy) {
        put(hasher, &node.mode.to_be_bytes());
    }
    if copy.owner.is_none() {
        put(hasher, &node.uid.to_be_bytes());
        put(hasher, &node.gid.to_be_bytes());
    }
    put_rest(hasher, node, digest);
}

/// All but path, type, mode and owner.
fn put_rest(hasher: &mut Hasher, node: &Node, digest: Option<Digest>) {
    put(hasher, &node.target);
    put(hasher, &node.device.0.to_be_bytes());
    put(hasher, &node.device.1.to_be_bytes());
    hasher.update(&(node.xattrs.len() as u64).to_be_bytes());
    for (name, value) in &node.xattrs {
        put(hasher, name);
        put(hasher, value);
    }
    put(hasher, digest.as_ref().map_or(&[], |d| d.as_bytes().as_slice()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::LocalSource;
    use crate::memo::Memo;
    use kiln_snapshotter::SourceModes;
    use std::sync::Arc;

    fn view(files: &[&str], excludes: &[&str]) -> (tempfile::TempDir, View) {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        for file in files {
            let path = folder.path().join(file);
            assert!(path.parent().is_some_and(|p| std::fs::create_dir_all(p).is_ok()));
            assert!(std::fs::write(path, file).is_ok());
        }
        let excludes: Vec<String> = excludes.iter().map(|s| (*s).to_owned()).collect();
        let local = LocalSource::open(folder.path(), &excludes, Memo::default(), false, SourceModes::Exact)
            .unwrap_or_else(|e| panic!("{e}"));
        (folder, View::Local(Arc::new(local)))
    }

    fn copy(src: &str) -> CopyAction {
        CopyAction {
            src: src.to_owned(),
            allow_wildcard: true,
            allow_empty_wildcard: true,
            follow_symlink: true,
            ..CopyAction::default()
        }
    }

    fn names(view: &View, src: &str) -> Vec<String> {
        let found = matches(view, &copy(src)).unwrap_or_else(|e| panic!("{e}"));
        found.iter().map(|m| String::from_utf8_lossy(&m.path).into_owned()).collect()
    }

    #[test]
    fn sources_are_found_as_they_are_written_or_by_wildcards() {
        let (_folder, view) = view(&["a.txt", "b.txt", "d1/x", "d2/x", "d2/y"], &["b.txt", "d2", "!d2/y"]);
        assert_eq!(names(&view, "/a.txt"), ["a.txt"]);
        assert_eq!(names(&view, "*.txt"), ["a.txt"]);
        assert_eq!(names(&view, "d*/x"), ["d1/x"]);
        assert_eq!(names(&view, "../../d1"), ["d1"]);
        assert_eq!(names(&view, "no*"), [""; 0]);
        assert!(matches!(matches(&view, &copy("d[")), Err(WorkerError::Copy(_))));
    }

    #[test]
    fn what_is_missing_is_looked_for_around_it() {
        let (_folder, view) =
            view(&["Docs/Read.me", "src/main.rs", "src/b.sh", "a.sh"], &["*.sh", "**/*.sh", "!a"]);
        let around = |src: &str| match matches(&view, &copy(src)) {
            Err(WorkerError::NotFound { around, .. }) => *around,
            other => panic!("{other:?}"),
        };
        assert_eq!(around("a.sh").ignored_by.as_deref(), Some("**/*.sh"));
        assert_eq!(around("src/b.sh").ignored_by.as_deref(), Some("**/*.sh"));
        let docs = around("docs/Read.me");
        assert_eq!((docs.folder.as_str(), docs.missing.as_str()), ("/", "docs"));
        assert_eq!(docs.siblings, ["Docs", "src"]);
        assert_eq!(docs.elsewhere.as_deref(), Some("/Docs/Read.me"));
        assert_eq!(around("nothing"), Absence { missing: "nothing".to_owned(), elsewhere: None, ..docs });
    }

    #[test]
    fn a_digest_changes_with_content_and_mode_and_not_with_times() -> std::io::Result<()> {
        let (folder, view) = view(&["d/a", "d/b", "other"], &[]);
        let now = || {
            let (copy, listing) = (copy("d"), &mut Listing::default());
            let wanted = Wanted::Copy(&copy);
            let digest = wanted.look(&view).and_then(|mut looked| wanted.read(&view, &mut looked, listing));
            digest.unwrap_or_else(|e| panic!("{e}"))
        };
        let first = now();
        std::fs::write(folder.path().join("other"), "changed")?;
        std::fs::write(folder.path().join("d/a"), "d/a")?;
        assert_eq!(now(), first);
        std::fs::write(folder.path().join("d/a"), "d/A")?;
        assert_ne!(now(), first);
        std::fs::write(folder.path().join("d/a"), "d/a")?;
        std::fs::set_permissions(
            folder.path().join("d/a"),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )?;
        assert_ne!(now(), first);
        Ok(())
    }
}
