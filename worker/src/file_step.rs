//! COPY, ADD, WORKDIR and their like: actions on files, done on an overlay of the step's input.
//! It does not know patterns' rules or how a file is copied.

use crate::WorkerError;
use crate::build::Made;
use crate::build::{Build, STACK_BYTES};
use crate::error::CopyError;
use crate::layer::Stack;
use crate::progress::{Notice, Progress};
use crate::reads::Reads;
use crate::selection::{Filter, Looked, Match, Taken, matches};
use crate::view::View;
use kiln_oci::Digest;
use kiln_snapshotter::components;
use kiln_snapshotter::{
    Active, CommitOptions, CopyOptions, Earlier, ExtractOptions, ModeChange, Mount as Overlay, NodeStat,
    NodeType, Reuse, SnapshotError, SnapshotId, SourceModes, Tree, Verdict, copy_tree, extract_archive,
};
use kiln_solver::{
    CacheKey, Chown, CopyAction, FileActionKind, FileInput, FileOp, Op, Principal, StepInputs, VertexId,
};
use std::collections::HashMap;
use std::io::Read;

/// A user list that is longer is not read: 10 MiB.
const USER_LIST_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// A file system that actions change.
struct Work {
    below: Vec<SnapshotId>,
    active: Active,
    overlay: Overlay,
    tree: Tree,
}

/// Where an action is done, and for which step.
struct Place<'a> {
    build: &'a Build<'a>,
    vertex: VertexId,
    /// The action's number.
    action: usize,
    work: &'a Work,
    /// From where files may be taken over: only for the last that is done there.
    earlier: Option<&'a Earlier>,
}

impl Place<'_> {
    fn notice(&self, notice: Notice<'_>) {
        let lines = &self.build.vertex(self.vertex).metadata.lines;
        self.build.progress.send(Progress::Notice { vertex: self.vertex, lines, notice });
    }
}

/// What a step on files added to each of its outputs, and whether what it read of the user's folders is still what its
/// keys stand for.
type Acted = (Vec<Vec<Made>>, bool);

/// Does the actions and gives, for each output, what they added; and whether the user's folders are still as they were.
pub(crate) fn run(build: &Build<'_>, vertex: VertexId, file: &FileOp) -> Result<Acted, WorkerError> {
    let platform = build.vertex(vertex).platform.as_ref();
    let own = StepInputs { op: &Op::File(file.clone()), platform, inputs: &[] }.key();
    // The earlier layer is looked for again: it may be what was given up.
    build.store.with_space(|_| {
        let earlier = earlier(build, file, &own)?;
        match act(build, vertex, file, &own, earlier.as_ref()) {
            // The earlier layer is being removed, or one file has as many names as it may.
            Err(WorkerError::Snapshot(SnapshotError::NotReused(_))) => act(build, vertex, file, &own, None),
            done => done,
        }
    })
}

/// The layer that this step made last, on whatever input.
fn earlier(build: &Build<'_>, file: &FileOp, own: &CacheKey) -> Result<Option<Earlier>, WorkerError> {
    let copies = matches!(file.actions.last().map(|action| &action.kind), Some(FileActionKind::Copy(_)));
    let made = if copies { build.store.meta.last_made(own)? } else { None };
    let Some(layer) = made.map_or(Ok(None), |id| build.store.meta.layer(id))? else { return Ok(None) };
    // Without it all is copied.
    Ok(build.store.snapshots.earlier(&layer.snapshot).ok())
}

fn act(
    build: &Build<'_>,
    vertex: VertexId,
    file: &FileOp,
    own: &CacheKey,
    earlier: Option<&Earlier>,
) -> Result<Acted, WorkerError> {
    // The copy leaves a core for this.
    let works = std::thread::scope(|scope| {
        let looking = earlier.map(|earlier| scope.spawn(|| earlier.is_intact()));
        let works = works(build, vertex, file, earlier);
        match looking.map_or(Ok(true), |thread| thread.join()) {
            Ok(true) => works,
            Ok(false) => Err(SnapshotError::NotReused("the earlier layer".to_owned()).into()),
            Err(_) => Err(WorkerError::Panicked),
        }
    })?;
    // Nothing is read of the folders any more: they are looked at again while the layers are made.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let looking = thread.spawn_scoped(scope, || build.is_unchanged(vertex));
        let added = commit(build, file, own, earlier, works);
        let unchanged = match looking {
            Ok(thread) => thread.join().unwrap_or(Err(WorkerError::Panicked)),
            Err(_) => build.is_unchanged(vertex),
        };
        Ok((added?, unchanged?))
    })
}

/// Does the actions, each on a file system of its own or on that of an earlier one.
fn works(
    build: &Build<'_>,
    vertex: VertexId,
    file: &FileOp,
    earlier: Option<&Earlier>,
) -> Result<Vec<Option<Work>>, WorkerError> {
    let mut works: Vec<Option<Work>> = Vec::new();
    for (at, action) in file.actions.iter().enumerate() {
        // An action that goes on where an earlier one ended takes its file system over.
        let taken = match action.input {
            FileInput::Action(i) => works.get_mut(i as usize).and_then(Option::take),
            FileInput::Input(_) | FileInput::Scratch => None,
        };
        let work = match (taken, action.input) {
            (Some(work), _) => work,
            (None, FileInput::Input(i)) => {
                begin(build, &build.base(build.vertex(vertex).inputs[i as usize])?)?
            }
            (None, _) => begin(build, &Stack::default())?,
        };
        let made = match action.secondary_input {
            Some(FileInput::Action(i)) => works.get(i as usize).and_then(Option::as_ref),
            _ => None,
        };
        // What is taken over is there from the commit on, and nothing may come after it.
        let earlier = earlier.filter(|_| at + 1 == file.actions.len());
        let place = Place { build, vertex, action: at, work: &work, earlier };
        perform(&place, action.secondary_input, made, &action.kind)?;
        works.push(Some(work));
    }
    Ok(works)
}

/// Makes layers of what the actions did, and gives those of each output.
fn commit(
    build: &Build<'_>,
    file: &FileOp,
    own: &CacheKey,
    earlier: Option<&Earlier>,
    works: Vec<Option<Work>>,
) -> Result<Vec<Vec<Made>>, WorkerError> {
    let mut outputs: Vec<(u32, Vec<Made>)> = Vec::new();
    let last = works.len();
    for ((action, work), at) in file.actions.iter().zip(works).zip(1..) {
        if let (Some(output), Some(work)) = (action.output, work) {
            let Work { below, active, overlay, tree } = work;
            drop((tree, overlay));
            let (options, earlier) = (CommitOptions::default(), earlier.filter(|_| at == last));
            let begun = build.store.snapshots.begin_commit(active, &below, &options, earlier)?;
            outputs.push((output, vec![Made::of(build, own, begun)?]));
        }
    }
    outputs.sort_by_key(|(output, _)| *output);
    Ok(outputs.into_iter().map(|(_, added)| added).collect())
}

fn begin(build: &Build<'_>, stack: &Stack) -> Result<Work, WorkerError> {
    let below = build.images.unpacked(stack)?;
    let active = build.store.snapshots.prepare()?;
    let overlay = build.store.snapshots.mount(&below, &active)?;
    let tree = overlay.root()?;
    Ok(Work { below, active, overlay, tree })
}

fn perform(
    place: &Place<'_>,
    secondary: Option<FileInput>,
    made: Option<&Work>,
    kind: &FileActionKind,
) -> Result<(), WorkerError> {
    let Place { build, vertex, work, .. } = *place;
    match kind {
        FileActionKind::Copy(copy) => {
            let source = match (secondary, made) {
                (Some(FileInput::Input(i)), _) => Source::of_input(build, vertex, i)?,
                (_, Some(made)) => Source::of_work(made)?,
                _ => Source::empty(build)?,
            };
            let reads = match secondary {
                Some(FileInput::Input(i)) => build.reads(vertex, i as usize),
                _ => None,
            };
            do_copy(place, &source, reads.as_deref(), copy)
        }
        FileActionKind::Mkfile { path, mode, data, owner, timestamp_ns } => {
            let owner = owner_ids(place, owner.as_ref())?.unwrap_or((0, 0));
            let mut data = data.as_slice();
            Ok(work.tree.write_file(path.as_bytes(), *mode, Some(owner), time(*timestamp_ns), &mut data)?)
        }
        FileActionKind::Mkdir { path, mode, make_parents: _, owner, timestamp_ns } => {
            let owner = owner_ids(place, owner.as_ref())?.unwrap_or((0, 0));
            work.tree.make_dirs(path.as_bytes(), *mode, Some(owner), time(*timestamp_ns))?;
            Ok(())
        }
        FileActionKind::Rm { path, allow_not_found, allow_wildcard: _ } => {
            match work.tree.remove(path.as_bytes(), true) {
                Err(SnapshotError::NotFound(_)) if *allow_not_found => Ok(()),
                result => Ok(result?),
            }
        }
        FileActionKind::Symlink { .. } => {
            Err(WorkerError::Unsupported("an action that makes a symbolic link".to_owned()))
        }
    }
}

fn time(timestamp_ns: Option<i64>) -> Option<(i64, u32)> {
    timestamp_ns.map(|ns| (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000) as u32))
}

/// What is copied from: a way to look at it, and its files.
struct Source {
    view: View,
    tree: SourceTree,
}

enum SourceTree {
    Local(std::sync::Arc<crate::local::LocalSource>),
    Mounted(Tree),
}

impl Source {
    fn of_input(build: &Build<'_>, vertex: VertexId, input: u32) -> Result<Source, WorkerError> {
        let edge = build.vertex(vertex).inputs[input as usize];
        let view = build.view(edge)?;
        if let View::Local(local) = &view {
            let tree = SourceTree::Local(local.clone());
            return Ok(Source { view, tree });
        }
        let layers = build.images.unpacked(&build.stack(edge))?;
        let overlay = build.store.snapshots.mount_readonly(&layers)?;
        Ok(Source { view, tree: SourceTree::Mounted(overlay.root()?) })
    }

    /// What an earlier action of the same step made, which has no layer of its own.
    fn of_work(work: &Work) -> Result<Source, WorkerError> {
        let local = crate::local::LocalSource::of_tree(work.overlay.root()?);
        Ok(Source {
            view: View::Local(std::sync::Arc::new(local)),
            tree: SourceTree::Mounted(work.overlay.root()?),
        })
    }

    fn empty(build: &Build<'_>) -> Result<Source, WorkerError> {
        let overlay = build.store.snapshots.mount_readonly(&[])?;
        let view = View::Layers(std::sync::Arc::default());
        Ok(Source { view, tree: SourceTree::Mounted(overlay.root()?) })
    }

    fn tree(&self) -> &Tree {
        match &self.tree {
            SourceTree::Local(local) => local.tree(),
            SourceTree::Mounted(tree) => tree,
        }
    }

    fn ignores(&self, path: &[u8], is_dir: bool) -> bool {
        matches!(&self.tree, SourceTree::Local(local) if local.is_ignored(path, is_dir))
    }
}

fn do_copy(
    place: &Place<'_>,
    source: &Source,
    reads: Option<&Reads>,
    copy: &CopyAction,
) -> Result<(), WorkerError> {
    let work = place.work;
    let (local_owner, source_modes) = match &source.tree {
        SourceTree::Local(local) => (local.owner(), local.modes()),
        SourceTree::Mounted(_) => (None, SourceModes::Exact),
    };
    let asked = owner_ids(place, copy.owner.as_ref())?;
    let mode = match &copy.mode {
        Some(text) => {
            Some(ModeChange::parse(text).map_err(|_| WorkerError::Copy(CopyError::Mode(text.clone())))?)
        }
        None => None,
    };
    let filter = Filter::of(copy)?;
    let mut made = Vec::new();
    let all = matches(&source.view, copy)?;
    for (at, found) in all.iter().enumerate() {
        if copy.timestamp_ns.is_some() {
            note_missing(&work.tree, copy.dest.as_bytes(), &mut made)?;
        }
        if copy.attempt_unpack && unpack(source, found, copy, asked, work)? {
            continue;
        }
        let dest = destination(source, copy, found, asked, mode.as_ref(), work)?;
        let verdict = |relative: &[u8], is_dir: bool| {
            let full = if relative.is_empty() {
                found.path.clone()
            } else {
                crate::local::joined(&found.path, relative)
            };
            if source.ignores(&full, is_dir) { Verdict::Exclude } else { filter.verdict(relative, is_dir) }
        };
        // Nothing is taken over for what an archive may have put there, or another match.
        let (earlier, looked) = match reads.and_then(|reads| reads.looked(place.action, &found.path)) {
            Some(looked) if at + 1 == all.len() => (place.earlier, seen(looked)),
            _ => (None, HashMap::new()),
        };
        let seen = |relative: &[u8]| looked.get(relative).copied();
        let options = CopyOptions {
            owner: asked.or(local_owner),
            source_modes,
            mode: mode.as_ref(),
            filter: &verdict,
            reuse: earlier.map(|earlier| Reuse { earlier, seen: &seen }),
            ..CopyOptions::default()
        };
        copy_tree(source.tree(), &found.path, &work.tree, &dest, &options)?;
    }
    // What was put into the folders that were made has changed their times.
    for (folder, mtime) in made.iter().rev().zip(std::iter::repeat(time(copy.timestamp_ns))) {
        if let (Some(mtime), Ok(stat)) = (mtime, work.tree.stat(folder, false))
            && stat.kind == NodeType::Directory
        {
            work.tree.set_directory_mtime(folder, mtime)?;
        }
    }
    Ok(())
}

/// The files that were read, by their paths beneath the source.
fn seen(looked: &Looked) -> HashMap<&[u8], (NodeStat, Digest)> {
    let file = |taken: &Taken| Some((*taken.node.stat()?, taken.digest?));
    let files = looked.entries.iter().filter_map(|taken| Some((&taken.relative[..], file(taken)?)));
    files.collect()
}

/// Notes the folders of a path that are not there yet.
fn note_missing(tree: &Tree, path: &[u8], made: &mut Vec<Vec<u8>>) -> Result<(), WorkerError> {
    let parts: Vec<&[u8]> = components(path).collect();
    for length in 1..=parts.len() {
        let folder = tree.resolve(&parts[..length].join(&b'/'))?;
        let is_missing = matches!(tree.stat(&folder, false), Err(SnapshotError::NotFound(_)));
        if is_missing && !made.contains(&folder) {
            made.push(folder);
        }
    }
    Ok(())
}

/// Where a source goes: its folder is made, and a file gets its own name in a folder that is there.
fn destination(
    source: &Source,
    copy: &CopyAction,
    found: &Match,
    owner: Option<(u32, u32)>,
    mode: Option<&ModeChange>,
    work: &Work,
) -> Result<Vec<u8>, WorkerError> {
    let dest = copy.dest.as_bytes();
    let as_folder = dest.ends_with(b"/") || dest.is_empty();
    let folder_mode = mode.map_or(0o755, ModeChange::for_new_parents);
    // Whoever kiln runs as: what nobody asked for is root's.
    let (owner, time) = (Some(owner.unwrap_or((0, 0))), time(copy.timestamp_ns));
    let parts: Vec<&[u8]> = components(dest).collect();
    let made = if as_folder { &parts[..] } else { &parts[..parts.len().saturating_sub(1)] };
    if copy.create_dest_path && !made.is_empty() {
        work.tree.make_dirs(&made.join(&b'/'), folder_mode, owner, time)?;
    }
    let is_dir = source.view.node(&found.path)?.is_some_and(|n| n.kind == NodeType::Directory);
    let resolved = work.tree.resolve(&parts.join(&b'/'))?;
    let there = match work.tree.stat(&resolved, false) {
        Ok(stat) => Some(stat.kind),
        Err(SnapshotError::NotFound(_)) => None,
        Err(e) => return Err(e.into()),
    };
    let own_name =
        if is_dir { !copy.dir_copy_contents && there.is_some() } else { there == Some(NodeType::Directory) };
    if own_name && !found.name.is_empty() {
        return Ok(crate::local::joined(&resolved, &found.name));
    }
    if is_dir && copy.dir_copy_contents && there.is_none() && copy.create_dest_path {
        work.tree.make_dirs(&resolved, folder_mode, owner, time)?;
    }
    Ok(resolved)
}

/// Unpacks a source that is an archive, as ADD does; whether it was one.
fn unpack(
    source: &Source,
    found: &Match,
    copy: &CopyAction,
    owner: Option<(u32, u32)>,
    work: &Work,
) -> Result<bool, WorkerError> {
    if source.view.node(&found.path)?.is_none_or(|n| n.kind != NodeType::File) {
        return Ok(false);
    }
    let file = source.tree().open_file(&found.path)?;
    let options = ExtractOptions { owner, mtime: time(copy.timestamp_ns) };
    Ok(extract_archive(file, &work.tree, copy.dest.as_bytes(), &options)?)
}

/// The numbers of an owner, names looked up in the tree that is changed. As in BuildKit a user that the
/// tree's list lacks is root, and a group that it lacks is the user's own; but there must be a list.
fn owner_ids(place: &Place<'_>, owner: Option<&Chown>) -> Result<Option<(u32, u32)>, WorkerError> {
    let Some(Chown { user, group }) = owner else { return Ok(None) };
    let (uid, own_group) = match user {
        None => (0, 0),
        Some(Principal::Id(id)) => (*id, *id),
        Some(Principal::Name(name)) => {
            let fields = look_up(place.work, b"etc/passwd", name)?;
            if fields.is_empty() {
                place.notice(Notice::UnknownUser(name));
            }
            (number(&fields, 2).unwrap_or(0), number(&fields, 3).unwrap_or(0))
        }
    };
    let gid = match group {
        None => own_group,
        Some(Principal::Id(id)) => *id,
        Some(Principal::Name(name)) if name.is_empty() => 0,
        Some(Principal::Name(name)) => {
            let fields = look_up(place.work, b"etc/group", name)?;
            if fields.is_empty() {
                place.notice(Notice::UnknownGroup(name));
            }
            number(&fields, 2).unwrap_or(own_group)
        }
    };
    Ok(Some((uid, gid)))
}

fn number(fields: &[String], at: usize) -> Option<u32> {
    fields.get(at)?.parse().ok()
}

/// The fields of a name's line in a user or group list; none if it has no such line.
fn look_up(work: &Work, list: &[u8], name: &str) -> Result<Vec<String>, WorkerError> {
    if work.below.is_empty() {
        return Err(WorkerError::Copy(CopyError::Principal(name.to_owned())));
    }
    let Ok(file) = work.tree.open_file(list) else { return Ok(Vec::new()) };
    let mut text = Vec::new();
    file.take(USER_LIST_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(WorkerError::io("read", String::from_utf8_lossy(list).into_owned()))?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|l| l.split(':').next() == Some(name));
    Ok(line.map_or_else(Vec::new, |l| l.split(':').map(str::to_owned).collect()))
}
