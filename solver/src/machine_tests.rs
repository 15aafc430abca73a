//! Claims about the solver: each builds a graph, answers its actions from a small fake world, and
//! asserts the log of what was asked. A cache hit is a shorter log.

use super::*;
use crate::definition::{
    CopyAction, ExecMeta, ExecOp, FileAction, FileOp, Metadata, Mount, NetworkMode, SecurityMode, SourceOp,
    Vertex,
};
use crate::definition::{FileActionKind, FileInput, MountKind};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What is outside: records by key, the contents of sources, and what steps make.
#[derive(Default)]
struct World {
    records: HashMap<CacheKey, Vec<ContentId>>,
    contents: HashMap<String, &'static str>,
    log: Vec<String>,
    made: HashMap<VertexId, Vec<ContentId>>,
    fails: BTreeSet<String>,
    /// Vertices whose source changes before they read it, and the hash of what they read then.
    changing: HashMap<String, &'static str>,
    most_at_once: usize,
    /// The time, and when records were made.
    now_s: u64,
    made_s: HashMap<CacheKey, u64>,
    /// Vertices whose files can't be looked into in a dry run.
    missing_files: BTreeSet<String>,
}

/// An order of answers, as Knuth's linear congruential generator gives it.
struct Order(u64);

impl Order {
    fn take<T>(&mut self, pending: &mut Vec<T>) -> Option<T> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let count = pending.len();
        (count > 0).then(|| pending.swap_remove((self.0 >> 33) as usize % count))
    }
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

#[derive(Default)]
struct Graph(Definition);

impl Graph {
    fn add(&mut self, name: &str, op: Op, inputs: &[VertexId]) -> VertexId {
        let inputs = inputs.iter().map(|v| Edge { vertex: *v, output: 0 }).collect();
        let metadata = Metadata { name: name.to_owned(), ..Metadata::default() };
        self.0.add(Vertex { op, inputs, platform: None, metadata })
    }

    fn source(&mut self, identifier: &str) -> VertexId {
        let op = Op::Source(SourceOp { identifier: identifier.to_owned(), attrs: BTreeMap::new() });
        self.add(identifier, op, &[])
    }

    fn run(&mut self, command: &str, on: VertexId) -> VertexId {
        let root = Mount {
            input: Some(0),
            selector: String::new(),
            dest: "/".into(),
            output: Some(0),
            readonly: false,
            kind: MountKind::Bind,
        };
        let exec = ExecOp {
            meta: ExecMeta { args: vec![command.to_owned()], ..ExecMeta::default() },
            mounts: vec![root],
            network: NetworkMode::Unset,
            security: SecurityMode::Sandbox,
            secret_env: Vec::new(),
            devices: Vec::new(),
        };
        self.add(command, Op::Exec(Box::new(exec)), &[on])
    }

    fn copy(&mut self, src: &str, from: VertexId, on: VertexId) -> VertexId {
        let copy = CopyAction { src: src.to_owned(), dest: "/".to_owned(), ..CopyAction::default() };
        let action = FileAction {
            input: FileInput::Input(0),
            secondary_input: Some(FileInput::Input(1)),
            output: Some(0),
            kind: FileActionKind::Copy(Box::new(copy)),
        };
        self.add(&format!("copy {src}"), Op::File(FileOp { actions: vec![action] }), &[on, from])
    }
}

impl World {
    fn name(definition: &Definition, vertex: VertexId) -> String {
        definition.vertex(vertex).metadata.name.clone()
    }

    /// What a step makes: by default its name says it all; a source's is given.
    fn content(&self, name: &str) -> ContentId {
        ContentId(digest(self.contents.get(name).copied().unwrap_or(name)))
    }

    fn young(&self, key: &CacheKey, max_age_s: Option<u64>) -> Option<Vec<ContentId>> {
        let made_s = self.made_s.get(key).copied().unwrap_or_default();
        let is_young = max_age_s.is_none_or(|age| self.now_s - made_s <= age);
        self.records.get(key).filter(|_| is_young).cloned()
    }

    fn answer(&mut self, solver: &Solver, action: Action) -> Event {
        let graph = solver.definition();
        match action {
            Action::Identify(vertex) => {
                let content = self.content(&Self::name(graph, vertex));
                Event::Identified { vertex, key: CacheKey(content.0), content }
            }
            Action::Select { vertex, input } => {
                let source = graph.vertex(vertex).inputs[input].vertex;
                let part = format!("{} of {}", Self::name(graph, vertex), Self::name(graph, source));
                self.log.push(format!("select {part}"));
                Event::Selected { vertex, input, digest: self.content(&part).0 }
            }
            Action::LookUp { vertex, key, alias, max_age_s } => {
                let outputs = self.young(&key, max_age_s);
                if let (Some(outputs), Some(alias)) = (&outputs, alias) {
                    self.records.insert(alias, outputs.clone());
                    self.made_s.insert(alias, self.made_s.get(&key).copied().unwrap_or_default());
                }
                Event::Found { vertex, hit: outputs.is_some() }
            }
            Action::Load { vertex, key } => {
                Event::Loaded { vertex, outputs: self.records.get(&key).cloned() }
            }
            Action::Remember { vertex, key } => {
                self.records.insert(key, self.made[&vertex].clone());
                Event::Remembered(vertex)
            }
            Action::Fetch(vertex) => {
                self.log.push(format!("fetch {}", Self::name(graph, vertex)));
                Event::Fetched(vertex)
            }
            Action::Run { vertex, keys, take } => {
                let name = Self::name(graph, vertex);
                let max_age_s = graph.vertex(vertex).metadata.max_age_s;
                if let Some(outputs) = take.and_then(|take| self.young(&take, max_age_s)) {
                    return Event::Ran { vertex, outputs, changed: Vec::new() };
                }
                self.log.push(format!("run {name}"));
                if self.fails.contains(&name) {
                    return Event::Failed(vertex);
                }
                let outputs = vec![self.content(&name)];
                self.made.insert(vertex, outputs.clone());
                let changed = self.changing.remove(&name).map(|read| (1, digest(read)));
                if changed.is_none() {
                    for key in keys {
                        self.made_s.insert(key, self.now_s);
                        self.records.insert(key, outputs.clone());
                    }
                }
                Event::Ran { vertex, outputs, changed: changed.into_iter().collect() }
            }
        }
    }

    /// Answers as in a dry run: nothing is run or fetched, and only the user's folders and results that are
    /// known can be looked into.
    fn foresee(&mut self, solver: &Solver, action: Action) -> Event {
        let graph = solver.definition();
        match action {
            Action::Run { vertex, .. } | Action::Fetch(vertex) => Event::Foreseen(vertex),
            Action::Select { vertex, input } => {
                let source = graph.vertex(vertex).inputs[input].vertex;
                match self.missing_files.contains(&Self::name(graph, source)) {
                    true => Event::Foreseen(vertex),
                    false => self.answer(solver, Action::Select { vertex, input }),
                }
            }
            other => self.answer(solver, other),
        }
    }

    /// What a dry run foresees, by name; what it does not name would not be done.
    fn dry(&mut self, graph: &Graph, target: VertexId, seed: u64) -> BTreeMap<String, Foresight> {
        let mut definition = graph.0.clone();
        definition.target = Some(Edge { vertex: target, output: 0 });
        let mut solver = Solver::new(definition, 4);
        let before = self.records.clone();
        let (mut pending, mut order) = (Vec::new(), Order(seed));
        loop {
            pending.extend(std::iter::from_fn(|| solver.next_action()));
            let Some(action) = order.take(&mut pending) else { break };
            let event = self.foresee(&solver, action);
            solver.apply(event);
        }
        assert_eq!(solver.progress(), Progress::Done, "order {seed}");
        assert_eq!(self.records.keys().count(), before.keys().count(), "nothing is made");
        let all = (0..graph.0.vertices().len()).map(|i| VertexId(i as u32));
        all.filter_map(|v| Some((Self::name(&graph.0, v), solver.foresight(v)?))).collect()
    }

    /// Solves; all actions that are given at once count as done at once. Gives the log.
    fn solve(&mut self, graph: &Graph, target: VertexId, jobs: usize) -> (Progress, Vec<String>) {
        let mut definition = graph.0.clone();
        definition.target = Some(Edge { vertex: target, output: 0 });
        self.finish(Solver::new(definition, jobs))
    }

    /// Solves for several targets at once.
    fn solve_all(&mut self, graph: &Graph, targets: &[VertexId], jobs: usize) -> (Progress, Vec<String>) {
        let targets = targets.iter().map(|vertex| Edge { vertex: *vertex, output: 0 }).collect();
        self.finish(Solver::with_targets(graph.0.clone(), targets, jobs))
    }

    fn finish(&mut self, mut solver: Solver) -> (Progress, Vec<String>) {
        self.log.clear();
        loop {
            let batch: Vec<Action> = std::iter::from_fn(|| solver.next_action()).collect();
            let runs = batch.iter().filter(|a| matches!(a, Action::Run { .. })).count();
            self.most_at_once = self.most_at_once.max(runs);
            if batch.is_empty() {
                return (solver.progress(), std::mem::take(&mut self.log));
            }
            for action in batch {
                let event = self.answer(&solver, action);
                solver.apply(event);
            }
        }
    }
}

#[test]
fn a_build_that_is_known_fetches_nothing_and_runs_nothing() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    let base = graph.source("docker-image://base");
    let one = graph.run("one", base);
    let two = graph.run("two", one);
    assert_eq!(
        world.solve(&graph, two, 4),
        (Progress::Done, vec!["fetch docker-image://base".into(), "run one".into(), "run two".into()])
    );
    assert_eq!(world.solve(&graph, two, 4), (Progress::Done, vec![]));
}

#[test]
fn only_what_the_target_needs_is_done() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    let base = graph.source("docker-image://base");
    let needed = graph.run("needed", base);
    let other = graph.source("docker-image://other");
    graph.run("not needed", other);
    let (_, log) = world.solve(&graph, needed, 4);
    assert_eq!(log, ["fetch docker-image://base", "run needed"]);
}

#[test]
fn what_several_targets_share_is_done_once() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    let base = graph.source("docker-image://base");
    let shared = graph.run("shared", base);
    let (one, two) = (graph.run("one", shared), graph.run("two", shared));
    let (progress, mut log) = world.solve_all(&graph, &[one, two], 4);
    log[2..].sort_unstable();
    let once = ["fetch docker-image://base", "run shared", "run one", "run two"];
    assert_eq!((progress, log), (Progress::Done, once.map(str::to_owned).to_vec()));
    assert_eq!(world.most_at_once, 2);
    assert_eq!(world.solve_all(&graph, &[one, two], 4), (Progress::Done, vec![]));
}

#[test]
fn one_target_that_fails_fails_them_all() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    let base = graph.source("docker-image://base");
    let (good, bad) = (graph.run("good", base), graph.run("bad", base));
    let never = graph.run("never", good);
    world.fails.insert("bad".to_owned());
    let (progress, log) = world.solve_all(&graph, &[bad, never], 2);
    assert_eq!(progress, Progress::Failed(bad));
    assert!(!log.contains(&"run never".to_owned()), "{log:?}");
}

#[test]
fn without_a_target_there_is_nothing_to_do() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    graph.source("docker-image://base");
    assert_eq!(world.solve_all(&graph, &[], 1), (Progress::Done, vec![]));
}

#[test]
fn a_stage_is_not_run_where_the_copy_of_it_is_known() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    let base = graph.source("docker-image://base");
    let builder = graph.run("make", base);
    let copy = graph.copy("/out", builder, base);
    world.solve(&graph, copy, 4);
    // The builder's own record is gone; the copy's is not.
    let kept: Vec<_> = world
        .records
        .iter()
        .filter(|(_, v)| **v == [world.content("copy /out")])
        .map(|(k, v)| (*k, v.clone()))
        .collect();
    world.records = kept.into_iter().collect();
    assert_eq!(world.solve(&graph, copy, 4), (Progress::Done, vec![]));
}

#[test]
fn copy_of_an_unchanged_file_is_cached_and_of_a_changed_one_is_not() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    let base = graph.source("docker-image://base");
    let context = graph.source("local://context");
    let copy = graph.copy("a", context, base);
    let run = graph.run("make", copy);
    world.solve(&graph, run, 4);
    assert_eq!(world.solve(&graph, run, 4).1, ["select copy a of local://context"]);
    world.contents.insert("copy a of local://context".into(), "edited");
    world.contents.insert("copy a".into(), "with the edit");
    assert_eq!(world.solve(&graph, run, 4).1[1..], ["fetch docker-image://base", "run copy a", "run make"]);
}

#[test]
fn a_step_that_makes_the_same_tree_again_leaves_what_follows_cached() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    let base = graph.source("docker-image://base");
    let first = graph.run("deps v1", base);
    let after = graph.run("make", first);
    world.contents.insert("deps v1".into(), "same");
    world.contents.insert("deps v2".into(), "same");
    world.solve(&graph, after, 4);
    let second = graph.run("deps v2", base);
    let after = graph.run("make", second);
    assert_eq!(world.solve(&graph, after, 4).1, ["fetch docker-image://base", "run deps v2"]);
    assert_eq!(world.solve(&graph, after, 4).1, [""; 0]);
}

#[test]
fn a_file_that_changes_during_the_build_spoils_no_key() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    let base = graph.source("docker-image://base");
    let context = graph.source("local://context");
    let copy = graph.copy("a", context, base);
    let run = graph.run("make", copy);
    let part = "copy a of local://context";
    world.contents.insert(part.into(), "one");
    world.changing.insert("copy a".into(), "two");
    world.contents.insert("copy a".into(), "with two");
    world.solve(&graph, run, 4);
    // With the old file again nothing of that build counts; with the new one all of it does.
    world.contents.insert("copy a".into(), "with one");
    assert_eq!(world.solve(&graph, run, 4).1[2..], ["run copy a", "run make"]);
    world.contents.insert(part.into(), "two");
    assert_eq!(world.solve(&graph, run, 4).1, ["select copy a of local://context"]);
}

#[test]
fn a_stage_that_made_the_same_file_leaves_the_copy_of_it_cached() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    let base = graph.source("docker-image://base");
    let first = graph.run("make v1", base);
    let copy = graph.copy("/out", first, base);
    world.contents.insert("copy /out of make v1".into(), "same");
    world.contents.insert("copy /out of make v2".into(), "same");
    world.solve(&graph, copy, 4);
    let second = graph.run("make v2", base);
    let copy = graph.copy("/out", second, base);
    let (_, log) = world.solve(&graph, copy, 4);
    assert_eq!(log, ["fetch docker-image://base", "run make v2", "select copy /out of make v2"]);
}

#[test]
fn independent_steps_run_at_once_within_the_limit() {
    for (jobs, most) in [(8, 4), (2, 2), (1, 1)] {
        let (mut graph, mut world) = (Graph::default(), World::default());
        let base = graph.source("docker-image://base");
        let mut last = graph.source("docker-image://scratch");
        for i in 0..4 {
            let stage = graph.run(&format!("stage {i}"), base);
            last = graph.copy("/out", stage, last);
        }
        let (progress, _) = world.solve(&graph, last, jobs);
        assert_eq!((progress, world.most_at_once), (Progress::Done, most), "{jobs} jobs");
    }
}

#[test]
fn the_first_failure_stops_new_work() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    let base = graph.source("docker-image://base");
    let bad = graph.run("bad", base);
    let after = graph.run("after", bad);
    world.fails.insert("bad".into());
    let (progress, log) = world.solve(&graph, after, 4);
    assert_eq!(progress, Progress::Failed(bad));
    assert_eq!(log, ["fetch docker-image://base", "run bad"]);
}

#[test]
fn no_cache_runs_a_step_again_but_its_result_is_remembered() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    let base = graph.source("docker-image://base");
    let run = graph.run("make", base);
    world.solve(&graph, run, 4);
    let mut anew = graph.0.vertex(run).clone();
    anew.metadata.ignore_cache = true;
    let anew = graph.0.add(anew);
    assert_eq!(world.solve(&graph, anew, 4).1, ["fetch docker-image://base", "run make"]);
    assert_eq!(world.solve(&graph, run, 4).1, [""; 0]);
}

#[test]
fn a_stage_that_is_done_anew_is_not_passed_over_by_a_copy_of_it() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    let base = graph.source("docker-image://base");
    let make = graph.run("make", base);
    let copy = graph.copy("/out", make, base);
    world.solve(&graph, copy, 4);
    let mut anew = graph.0.vertex(make).clone();
    anew.metadata.ignore_cache = true;
    let anew = graph.0.add(anew);
    let copy = graph.copy("/out", anew, base);
    let log = world.solve(&graph, copy, 4).1;
    assert_eq!(log, ["fetch docker-image://base", "run make", "select copy /out of make"]);
    world.contents.insert("copy /out of make".into(), "other");
    assert_eq!(world.solve(&graph, copy, 4).1.last().map(String::as_str), Some("run copy /out"));
}

#[test]
fn a_result_that_is_too_old_is_made_again_and_what_follows_is_kept_if_it_is_the_same() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    let base = graph.source("docker-image://base");
    let make = graph.run("make", base);
    let mut young = graph.0.vertex(make).clone();
    young.metadata.max_age_s = Some(60);
    let young = graph.0.add(young);
    let after = graph.run("after", young);
    let copy = graph.copy("/out", young, base);
    let targets = [after, copy];
    world.solve_all(&graph, &targets, 4);
    world.now_s = 60;
    let kept = ["select copy /out of make"];
    assert_eq!(world.solve_all(&graph, &targets, 4).1, kept, "nothing is too old yet");
    world.now_s = 61;
    let again = ["fetch docker-image://base", "run make", kept[0]];
    assert_eq!(world.solve_all(&graph, &targets, 4).1, again, "it gave the same");
    world.now_s = 121;
    assert_eq!(world.solve_all(&graph, &targets, 4).1, kept, "it has the time of the second run");
    world.now_s = 122;
    world.contents.insert("make".into(), "made otherwise");
    let (_, log) = world.solve(&graph, after, 4);
    assert_eq!(log, ["fetch docker-image://base", "run make", "run after"], "not found by the old result");
    assert_eq!(world.solve(&graph, after, 4).1, [""; 0]);
    world.now_s = 999;
    let plain = graph.run("after", make);
    assert_eq!(world.solve(&graph, plain, 4).1, [""; 0], "without the comment nothing is too old");
}

#[test]
fn a_thousand_vertices_are_solved_at_once() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    let mut last = graph.source("docker-image://base");
    for i in 0..10_000 {
        last = graph.run(&format!("step {i}"), last);
    }
    let (progress, log) = world.solve(&graph, last, 4);
    assert_eq!((progress, log.len()), (Progress::Done, 10_001));
}

/// Solves with the answers in an order that a number chooses; whether it came to its end.
fn ends_in_some_order(graph: &Graph, target: VertexId, seed: u64) -> bool {
    let mut definition = graph.0.clone();
    definition.target = Some(Edge { vertex: target, output: 0 });
    let mut solver = Solver::new(definition, 4);
    let (mut world, mut pending, mut order) = (World::default(), Vec::new(), Order(seed));
    loop {
        while let Some(action) = solver.next_action() {
            pending.push(action);
        }
        match solver.progress() {
            Progress::Done => return true,
            Progress::Waiting if !solver.is_stuck() => {}
            _ => return false,
        }
        let Some(action) = order.take(&mut pending) else { return false };
        let event = world.answer(&solver, action);
        solver.apply(event);
    }
}

#[test]
fn a_graph_is_solved_in_whatever_order_the_answers_come() {
    let mut graph = Graph::default();
    let image = graph.source("docker-image://base");
    let context = graph.source("local://context");
    // The same image is built on and copied from: its files are asked for while it is looked at.
    let (a, b) = (graph.run("a", image), graph.run("b", image));
    let from_image = graph.copy("/x", image, a);
    let from_stage = graph.copy("/y", b, from_image);
    let target = graph.copy("/z", context, from_stage);
    for seed in 0..500 {
        assert!(ends_in_some_order(&graph, target, seed), "order {seed}");
    }
}

/// A graph with all kinds of inputs: the same image is built on and copied from, a stage is copied from.
fn tangled() -> (Graph, VertexId) {
    let mut graph = Graph::default();
    let image = graph.source("docker-image://base");
    let context = graph.source("local://context");
    let (a, b) = (graph.run("a", image), graph.run("b", image));
    let from_image = graph.copy("/x", image, a);
    let from_stage = graph.copy("/y", b, from_image);
    let from_context = graph.copy("/z", context, from_stage);
    let target = graph.run("last", from_context);
    (graph, target)
}

#[test]
fn a_dry_run_foresees_the_same_in_whatever_order_the_answers_come() {
    use Foresight::{Fetches, Known, Perhaps, Runs};
    let (graph, target) = tangled();
    let named = |all: &[(&str, Foresight)]| -> BTreeMap<String, Foresight> {
        all.iter().map(|(name, how)| ((*name).to_owned(), *how)).collect()
    };
    let mut built = World::default();
    let (progress, _) = built.solve(&graph, target, 4);
    assert_eq!(progress, Progress::Done);
    let lost = |what: &[&str]| {
        let lost: Vec<ContentId> = what.iter().map(|name| built.content(name)).collect();
        let kept = built.records.iter().filter(|(_, outputs)| !lost.contains(&outputs[0]));
        kept.map(|(key, outputs)| (*key, outputs.clone())).collect::<HashMap<_, _>>()
    };
    for seed in 0..300 {
        let mut world = World::default();
        let nothing_known = [
            ("docker-image://base", Fetches),
            ("a", Runs),
            ("b", Runs),
            ("copy /x", Perhaps),
            ("copy /y", Perhaps),
            ("copy /z", Perhaps),
            ("last", Perhaps),
        ];
        assert_eq!(world.dry(&graph, target, seed), named(&nothing_known), "order {seed}");
        world.records = built.records.clone();
        assert_eq!(world.dry(&graph, target, seed), BTreeMap::new(), "order {seed}");
        // What is built on something that is not known any more, but is known itself.
        world.records = lost(&["a"]);
        let kept = [
            ("docker-image://base", Fetches),
            ("a", Runs),
            ("copy /x", Known),
            ("copy /y", Known),
            ("copy /z", Known),
            ("last", Known),
        ];
        assert_eq!(world.dry(&graph, target, seed), named(&kept), "order {seed}");
        // A file of the context changed: what is before it is known.
        world.records = built.records.clone();
        world.contents.insert("copy /z of local://context".into(), "edited");
        let edited = [("copy /z", Runs), ("last", Perhaps)];
        assert_eq!(world.dry(&graph, target, seed), named(&edited), "order {seed}");
        // The same, where the last step's files can't be looked into.
        world.records = lost(&["copy /y", "copy /z", "last"]);
        world.missing_files.insert("b".to_owned());
        let hidden = [("copy /y", Perhaps), ("copy /z", Perhaps), ("last", Perhaps)];
        assert_eq!(world.dry(&graph, target, seed), named(&hidden), "order {seed}");
    }
}

#[test]
fn a_dry_run_foresees_that_what_is_done_anew_runs() {
    let (mut graph, mut world) = (Graph::default(), World::default());
    let base = graph.source("docker-image://base");
    let run = graph.run("make", base);
    world.solve(&graph, run, 4);
    let mut anew = graph.0.vertex(run).clone();
    anew.metadata.ignore_cache = true;
    let anew = graph.0.add(anew);
    let after = graph.run("after", anew);
    let foreseen = world.dry(&graph, after, 0);
    assert_eq!(foreseen["make"], Foresight::Runs);
    assert_eq!(foreseen["after"], Foresight::Perhaps);
}
