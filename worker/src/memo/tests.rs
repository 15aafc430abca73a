//! What is remembered of a file, when it is not, and what a build makes of it.

use super::*;
use crate::local::LocalSource;
use crate::worker::{LocalFolder, Target};
use crate::{BuildRequest, Form, Output, ProgressSink, SourceModes, Worker, WorkerError};
use kiln_oci::{ImageConfig, Platform};
use kiln_runner::CancelToken;
use kiln_solver::{
    CopyAction, Definition, Edge, FileAction, FileActionKind, FileInput, FileOp, Metadata, Op, SourceOp,
    Vertex,
};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

type Tested = Result<(), WorkerError>;

fn io<T>(result: std::io::Result<T>) -> Result<T, WorkerError> {
    result.map_err(WorkerError::io("prepare", "a test"))
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// Waits until the clock is past its grain.
fn past_the_grain() {
    std::thread::sleep(Duration::from_millis(50));
}

fn stat_of(folder: &Path, name: &str) -> Result<NodeStat, WorkerError> {
    let source = LocalSource::open(folder, &[], Memo::default(), false, SourceModes::Exact)?;
    Ok(source.tree().stat(name.as_bytes(), false)?)
}

#[test]
fn a_file_that_changed_within_the_grain_of_the_clock_is_not_remembered() -> Tested {
    let folder = io(tempfile::tempdir())?;
    io(std::fs::write(folder.path().join("f"), "one"))?;
    let stat = stat_of(folder.path(), "f")?;
    let changed_ns = i128::from(Stamp::of(&stat).ctime_ns);
    for (started_ns, is_remembered) in [
        (changed_ns - 1, false),
        (changed_ns, false),
        (changed_ns + GRAIN_NS, false),
        (changed_ns + GRAIN_NS + 1, true),
    ] {
        let memo = Memo { started_ns, ..Memo::default() };
        memo.note(&stat, digest("one"));
        assert_eq!(memo.get(&stat).is_some(), is_remembered, "{}", started_ns - changed_ns);
        assert_eq!(memo.to_bytes().is_some(), is_remembered);
    }
    Ok(())
}

#[test]
fn a_file_is_known_only_while_nothing_about_it_has_changed() -> Tested {
    let folder = io(tempfile::tempdir())?;
    io(std::fs::write(folder.path().join("f"), "one"))?;
    past_the_grain();
    let (stat, memo) = (stat_of(folder.path(), "f")?, Memo::from_bytes(&[]));
    memo.note(&stat, digest("one"));
    let memo = Memo::from_bytes(&memo.to_bytes().unwrap_or_default());
    assert_eq!(memo.get(&stat), Some(digest("one")));
    let (seconds, ns) = stat.mtime;
    for other in [
        NodeStat { device: stat.device + 1, ..stat },
        NodeStat { inode: stat.inode + 1, ..stat },
        NodeStat { size: stat.size + 1, ..stat },
        NodeStat { mtime: (seconds + 1, ns), ..stat },
        NodeStat { ctime: (stat.ctime.0, stat.ctime.1 ^ 1), ..stat },
    ] {
        assert_eq!(memo.get(&other), None, "{other:?}");
    }
    // Modes and owners are looked at each time, so that they are no part of it.
    assert_eq!(memo.get(&NodeStat { mode: 0, uid: 9, gid: 9, ..stat }), Some(digest("one")));
    Ok(())
}

/// A graph that copies one file of a folder.
fn copying() -> (Definition, Option<Edge>) {
    let mut graph = Definition::new();
    let op = Op::Source(SourceOp { identifier: "local://context".to_owned(), attrs: Default::default() });
    let vertex = |op, inputs| Vertex { op, inputs, platform: None, metadata: Metadata::default() };
    let local = Edge { vertex: graph.add(vertex(op, Vec::new())), output: 0 };
    let copy = CopyAction { src: "/f".to_owned(), dest: "/f".to_owned(), ..CopyAction::default() };
    let action = FileAction {
        input: FileInput::Scratch,
        secondary_input: Some(FileInput::Input(0)),
        output: Some(0),
        kind: FileActionKind::Copy(Box::new(copy)),
    };
    let copied = graph.add(vertex(Op::File(FileOp { actions: vec![action] }), vec![local]));
    (graph, Some(Edge { vertex: copied, output: 0 }))
}

fn request(context: &Path, out: &Path, verify_cache: bool) -> BuildRequest {
    let (definition, edge) = copying();
    let config = ImageConfig::default();
    let target = Target { platform: Platform::host(), edge, config, source_date_epoch_s: None };
    let folder = LocalFolder { path: context.to_owned(), keeps_owners: false, modes: SourceModes::Exact };
    BuildRequest {
        definition,
        targets: vec![target],
        locals: [("context".to_owned(), folder)].into_iter().collect(),
        outputs: vec![Output::new(Form::Local(out.to_owned()), Vec::new())],
        verify_cache,
        ..BuildRequest::empty()
    }
}

#[test]
fn a_file_that_changed_behind_the_memos_back_is_seen_when_everything_is_read_again() -> Tested {
    let folder = io(tempfile::tempdir())?;
    let path = |name: &str| folder.path().join(name);
    let (context, cancel) = (path("context"), CancelToken::new());
    let worker = Worker::open(&path("store"), crate::RegistryOptions::default(), &cancel)?;
    let built = |name: &str, verify_cache: bool| -> Result<String, WorkerError> {
        let request = request(&context, &path(name), verify_cache);
        worker.build(&request, &ProgressSink::new(&|_| {}), &cancel)?;
        io(std::fs::read_to_string(path(name).join("f")))
    };
    io(std::fs::create_dir(&context))?;
    io(std::fs::write(context.join("f"), "one"))?;
    let before = stat_of(&context, "f")?;
    past_the_grain();
    assert_eq!(built("first", false)?, "one");
    // Same size, and the time of modification is put back. The time of the change can't be: what is remembered
    // is told of it instead.
    io(std::fs::write(context.join("f"), "two"))?;
    let mtime = UNIX_EPOCH + Duration::new(before.mtime.0.unsigned_abs(), before.mtime.1);
    io(File::options().append(true).open(context.join("f")).and_then(|file| file.set_modified(mtime)))?;
    let now = stat_of(&context, "f")?;
    assert_eq!((now.size, now.mtime, now.inode), (before.size, before.mtime, before.inode));
    past_the_grain();
    let forged = Memo::from_bytes(&[]);
    forged.note(&now, digest("one"));
    worker.forge_memo(&context, &forged.to_bytes().unwrap_or_default())?;
    assert_eq!(built("trusting", false)?, "one", "the test would show nothing if the memo were not believed");
    assert_eq!(built("verifying", true)?, "two");
    assert_eq!(built("after", false)?, "two", "what was read is remembered in the place of what was wrong");
    Ok(())
}
