//! The earlier self of a step: what was kept of it, and which of the kept steps it most likely was. It does not know
//! what differs.

use crate::WorkerError;
use crate::explain::fields;
use crate::meta::{Meta, StepRow};
use kiln_oci::Digest;
use kiln_solver::{CacheKey, ContentId, InputKey, Op, Solver, StepInputs, Vertex, VertexId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// With more pairs of steps than this only steps are compared that are near each other in their stage.
const PAIRS_MAX: usize = 100_000;
/// How near.
const NEAR: usize = 16;
/// How many steps of the same name elsewhere are looked at.
const ELSEWHERE_MAX: usize = 8;

/// A step, as it is kept: all that can be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub name: String,
    pub stage: String,
    pub kind: StepKind,
    pub fields: Vec<(String, String)>,
    /// By what the inputs went into the key by how the step is made, and into the one by content, where it has one.
    pub chain: Vec<Input>,
    pub content: Vec<Input>,
}

/// What kind of step it is: only those of one kind are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum StepKind {
    Image,
    Source,
    Run,
    File,
    Layers,
}

/// By what an input of a step is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Input {
    Chain(Digest),
    Content(Digest),
    Selection(Digest),
}

/// A step of a place: which of a stage's steps of a kind it was, and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    pub stage: String,
    pub kind: StepKind,
    pub number: usize,
    pub key: Digest,
}

impl Slot {
    /// Which of a stage's steps of a kind it is.
    pub fn place(&self) -> (&str, StepKind, usize) {
        (&self.stage, self.kind, self.number)
    }
}

impl Input {
    fn of(key: &InputKey) -> Input {
        match key {
            // Which output it is says nothing about whether it is the same.
            InputKey::Chain(CacheKey(digest), _) => Input::Chain(*digest),
            InputKey::Content(ContentId(digest)) => Input::Content(*digest),
            InputKey::Selection(digest) => Input::Selection(*digest),
        }
    }
}

impl StepKind {
    pub fn of(vertex: &Vertex) -> StepKind {
        match &vertex.op {
            Op::Source(source) if source.identifier.starts_with("docker-image://") => StepKind::Image,
            Op::Source(source) if source.identifier.starts_with("oci-layout://") => StepKind::Image,
            Op::Source(_) => StepKind::Source,
            Op::Exec(_) => StepKind::Run,
            Op::File(_) => StepKind::File,
            Op::Merge | Op::Diff => StepKind::Layers,
        }
    }
}

impl Kept {
    /// What is kept of a vertex of a graph that was solved, under a name in which nothing is secret.
    pub fn of(solver: &Solver, id: VertexId, name: String) -> Kept {
        let vertex = solver.definition().vertex(id);
        let (chain, content) = solver.keyed_by(id);
        let inputs = StepInputs { op: &vertex.op, platform: vertex.platform.as_ref(), inputs: chain };
        Kept {
            name,
            stage: vertex.metadata.stage.clone(),
            kind: StepKind::of(vertex),
            fields: fields::kept(&inputs),
            chain: chain.iter().map(Input::of).collect(),
            content: content.iter().map(Input::of).collect(),
        }
    }

    /// The row of a step.
    pub fn row(&self, key: CacheKey, made_s: i64) -> StepRow {
        let inputs = serde_json::to_string(self).unwrap_or_default();
        StepRow { key, text: text_of(&self.name).to_owned(), made_s, inputs }
    }

    /// What a row has; nothing if it can't be read.
    pub fn read(row: &StepRow) -> Option<Kept> {
        serde_json::from_str(&row.inputs).ok()
    }

    /// How many fields and inputs differ.
    fn distance(&self, other: &Kept) -> usize {
        let fields: BTreeSet<&(String, String)> = self.fields.iter().collect();
        let others: BTreeSet<&(String, String)> = other.fields.iter().collect();
        let inputs = self.chain.iter().zip(&other.chain).filter(|(a, b)| a != b).count();
        fields.symmetric_difference(&others).count() + inputs + self.chain.len().abs_diff(other.chain.len())
    }
}

/// A step's name without its number: `RUN make` of `[build 2/5] RUN make`.
pub(super) fn text_of(name: &str) -> &str {
    match name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, text)) => text,
        None => name,
    }
}

/// The slots of all vertices that have a key, in the order of the graph.
pub(super) fn slots(solver: &Solver) -> Vec<(VertexId, Slot)> {
    let mut counts: BTreeMap<(&str, StepKind), usize> = BTreeMap::new();
    let mut out = Vec::new();
    for (i, vertex) in solver.definition().vertices().iter().enumerate() {
        let id = VertexId(i as u32);
        let (stage, kind) = (vertex.metadata.stage.as_str(), StepKind::of(vertex));
        let number = counts.entry((stage, kind)).or_default();
        *number += 1;
        if let Some(CacheKey(key)) = solver.key(id) {
            out.push((id, Slot { stage: stage.to_owned(), kind, number: *number, key }));
        }
    }
    out
}

/// For each step that was not known the earlier step that it most likely was, with that one's key.
///
/// First come those of the same place that do just the same, then those at the same number of their stage, then the
/// nearest of the stage; last a step of the same name anywhere. No earlier step is two.
pub(super) fn selves(
    meta: &Meta,
    before: &[Slot],
    now: &[(VertexId, Slot)],
    missed: &BTreeMap<VertexId, Kept>,
) -> Result<BTreeMap<VertexId, (CacheKey, Kept)>, WorkerError> {
    let known = |(id, slot): &(VertexId, Slot)| (!missed.contains_key(id)).then_some(slot.key);
    let mut taken: BTreeSet<Digest> = now.iter().filter_map(known).collect();
    let mut candidates: Vec<(&Slot, Kept)> = Vec::new();
    for slot in before.iter().filter(|slot| !taken.contains(&slot.key)) {
        if let Some(kept) = meta.step(&CacheKey(slot.key))?.as_ref().and_then(Kept::read) {
            candidates.push((slot, kept));
        }
    }
    candidates.sort_by(|(a, _), (b, _)| a.place().cmp(&b.place()));
    let is_large = candidates.len().saturating_mul(missed.len()) > PAIRS_MAX;
    let slots: BTreeMap<VertexId, &Slot> = now.iter().map(|(id, slot)| (*id, slot)).collect();
    let mut found = BTreeMap::new();
    for pass in [Pass::Same, Pass::Place, Pass::Stage] {
        for (id, kept) in missed {
            let Some(slot) = slots.get(id).filter(|_| !found.contains_key(id)) else { continue };
            let near = if is_large { near(&candidates, slot) } else { &candidates };
            let fits = near.iter().filter(|(old, earlier)| {
                !taken.contains(&old.key) && old.kind == slot.kind && pass.fits(slot, kept, old, earlier)
            });
            let best = fits.min_by_key(|(old, earlier)| {
                let is_renamed = text_of(&earlier.name) != text_of(&kept.name);
                (
                    old.stage != slot.stage,
                    is_renamed,
                    kept.distance(earlier),
                    old.number.abs_diff(slot.number),
                )
            });
            if let Some((old, earlier)) = best {
                taken.insert(old.key);
                found.insert(*id, (CacheKey(old.key), earlier.clone()));
            }
        }
    }
    for (id, kept) in missed.iter().filter(|(id, _)| !found.contains_key(*id)).collect::<Vec<_>>() {
        let rows = meta.steps_called(text_of(&kept.name), ELSEWHERE_MAX)?;
        let others = rows.iter().filter(|row| !taken.contains(&row.key.0));
        let others =
            others.filter_map(|row| Some((row.key, Kept::read(row)?))).filter(|(_, k)| k.kind == kept.kind);
        if let Some(best) = others.min_by_key(|(_, earlier)| kept.distance(earlier)) {
            found.insert(*id, best);
        }
    }
    Ok(found)
}

/// Those of the candidates, which are sorted, that are near a slot.
fn near<'c, 's>(candidates: &'c [(&'s Slot, Kept)], slot: &Slot) -> &'c [(&'s Slot, Kept)] {
    let (stage, kind, number) = slot.place();
    let first = (stage, kind, number.saturating_sub(NEAR));
    let start = candidates.partition_point(|(old, _)| old.place() < first);
    let end = candidates.partition_point(|(old, _)| old.place() <= (stage, kind, number + NEAR));
    &candidates[start..end]
}

/// How surely an earlier step is the same one.
#[derive(Clone, Copy)]
enum Pass {
    Same,
    Place,
    Stage,
}

impl Pass {
    fn fits(self, slot: &Slot, kept: &Kept, old: &Slot, earlier: &Kept) -> bool {
        match self {
            Pass::Same => old.key == slot.key || kept.fields == earlier.fields,
            Pass::Place => old.stage == slot.stage && old.number == slot.number && is_alike(kept, earlier),
            Pass::Stage => old.stage == slot.stage && is_alike(kept, earlier),
        }
    }
}

/// Whether two steps are done by the same instruction: a WORKDIR is no COPY, though both work on files.
fn is_alike(a: &Kept, b: &Kept) -> bool {
    let instruction =
        |kept: &Kept| text_of(&kept.name).split(' ').next().unwrap_or_default().to_ascii_uppercase();
    instruction(a) == instruction(b)
}
