//! Why a step was not known: its inputs now beside those that it had before. It does not know words.

use crate::WorkerError;
use crate::explain::earlier::{Input, Kept, StepKind};
use crate::explain::{Listings, fields, listing};
use crate::image_name::ImageName;
use crate::meta::Meta;
use crate::report::{Outcome, Reason};
use kiln_oci::Digest;
use kiln_solver::{CacheKey, Edge, Op, Solver, VertexId};
use std::collections::BTreeSet;

/// How many steps are named that a step comes after.
const AFTER_MAX: usize = 3;
/// How many files of a selection are named.
const FILES_MAX: usize = 500;

/// All that a reason may be found in.
pub(super) struct Finding<'a> {
    pub meta: &'a Meta,
    pub solver: &'a Solver,
    pub args: &'a BTreeSet<String>,
    /// What became of each vertex, and its name as it may be shown.
    pub outcomes: &'a [Outcome],
    pub names: &'a [String],
    pub listings: &'a Listings,
}

impl Finding<'_> {
    /// Why a step was not known. `earlier` is what it was before.
    pub fn reasons(
        &self,
        vertex: VertexId,
        now: &Kept,
        earlier: Option<&(CacheKey, Kept)>,
        (was_pruned, was_old): (bool, bool),
    ) -> Result<Vec<Reason>, WorkerError> {
        if self.solver.definition().vertex(vertex).metadata.ignore_cache {
            return Ok(vec![Reason::NoCache]);
        }
        if was_old {
            return Ok(vec![Reason::TooOld]);
        }
        if was_pruned {
            return Ok(vec![Reason::Pruned]);
        }
        let Some((key, earlier)) = earlier else { return Ok(vec![Reason::First]) };
        let mut reasons = fields::differences(&earlier.fields, &now.fields, self.args);
        let inputs = self.solver.definition().vertex(vertex).inputs.clone();
        if now.chain.len() != earlier.chain.len() {
            let count = |kept: &Kept| kept.chain.len().to_string();
            reasons.push(Reason::Setting {
                name: "number of inputs".to_owned(),
                old: count(earlier),
                new: count(now),
            });
        } else {
            for (i, edge) in inputs.iter().enumerate() {
                self.input(vertex, (i, *edge), now, earlier, &mut reasons)?;
            }
        }
        if reasons.is_empty() {
            reasons = self.inputs_that_ran(vertex);
        }
        if reasons.is_empty() {
            let is_same = self.solver.key(vertex) == Some(*key);
            reasons.push(if is_same { Reason::Forgotten } else { Reason::First });
        }
        let mut seen = Vec::new();
        reasons.retain(|reason| {
            let is_new = !seen.contains(reason);
            seen.push(reason.clone());
            is_new
        });
        Ok(reasons)
    }

    /// What differs about an input.
    fn input(
        &self,
        vertex: VertexId,
        (at, edge): (usize, Edge),
        now: &Kept,
        earlier: &Kept,
        reasons: &mut Vec<Reason>,
    ) -> Result<(), WorkerError> {
        let by_content = (earlier.content.get(at), now.content.get(at));
        let by_chain = (earlier.chain.get(at), now.chain.get(at));
        let (old, new) = match by_content {
            (Some(old), Some(new)) => (*old, *new),
            _ => match by_chain {
                (Some(old), Some(new)) => (*old, *new),
                _ => return Ok(()),
            },
        };
        if old == new {
            return Ok(());
        }
        if let (Input::Selection(old), Input::Selection(new)) = (old, new) {
            reasons.extend(self.files(vertex, at, &old, &new)?);
        }
        let old_chain = match by_chain.0 {
            Some(Input::Chain(key)) => Some(CacheKey(*key)),
            _ => None,
        };
        reasons.extend(self.blame(edge.vertex, old_chain)?);
        Ok(())
    }

    fn files(
        &self,
        vertex: VertexId,
        at: usize,
        old: &Digest,
        new: &Digest,
    ) -> Result<Vec<Reason>, WorkerError> {
        let kept = self.meta.selection(old)?;
        let now = self.listings.get(&(vertex, at)).filter(|(digest, _)| digest == new);
        let (Some(kept), Some((_, now))) = (kept, now) else { return Ok(vec![Reason::Files]) };
        let found = listing::differences(&kept, now).filter(|found| !found.is_empty());
        let Some(found) = found else { return Ok(vec![Reason::Files]) };
        let reason =
            |d: listing::Difference| Reason::File { change: d.change, path: d.path, old: d.old, new: d.new };
        let more = found.len().saturating_sub(FILES_MAX);
        let mut reasons: Vec<Reason> = found.into_iter().take(FILES_MAX).map(reason).collect();
        if more > 0 {
            reasons.push(Reason::MoreFiles { count: more });
        }
        Ok(reasons)
    }

    /// The input that is not what it was: a base image, or a step.
    fn blame(&self, input: VertexId, old: Option<CacheKey>) -> Result<Vec<Reason>, WorkerError> {
        let this = self.solver.definition().vertex(input);
        let kind = StepKind::of(this);
        match &this.op {
            Op::Source(source) if source.identifier.starts_with("local://") => return Ok(Vec::new()),
            Op::Merge | Op::Diff => {
                let ran = self.inputs_that_ran(input);
                return Ok(if ran.is_empty() { vec![self.after(input)] } else { ran });
            }
            Op::Source(_) | Op::Exec(_) | Op::File(_) => {}
        }
        if self.solver.key(input) == old && !self.outcomes[input.index()].is_miss() {
            return Ok(Vec::new());
        }
        let row = old.map(|key| self.meta.step(&key)).transpose()?.flatten();
        let earlier = row.as_ref().and_then(Kept::read);
        let is_image = |kept: &Kept| kept.kind == StepKind::Image;
        match (kind, earlier) {
            (StepKind::Image, Some(earlier)) if is_image(&earlier) => {
                let identifier = |fields: &[(String, String)]| {
                    let named = fields.iter().find(|(name, _)| name == "identifier");
                    named.map(|(_, value)| value.clone()).unwrap_or_default()
                };
                let Op::Source(source) = &this.op else { return Ok(Vec::new()) };
                Ok(vec![base_image(&identifier(&earlier.fields), &source.identifier)])
            }
            (StepKind::Image, Some(earlier)) => {
                let name = "base".to_owned();
                Ok(vec![Reason::Setting { name, old: earlier.name, new: self.names[input.index()].clone() }])
            }
            _ => Ok(vec![self.after(input)]),
        }
    }

    fn after(&self, step: VertexId) -> Reason {
        Reason::After { step: self.names[step.index()].clone(), outcome: self.outcomes[step.index()] }
    }

    /// The steps that a step is made from and that were done too, through layers that are only laid on each other.
    /// Of many those that lie on top.
    fn inputs_that_ran(&self, vertex: VertexId) -> Vec<Reason> {
        let (mut out, mut seen) = (Vec::new(), BTreeSet::new());
        let inputs =
            |vertex: VertexId| self.solver.definition().vertex(vertex).inputs.iter().map(|e| e.vertex);
        let mut open: Vec<VertexId> = inputs(vertex).collect();
        while let Some(input) = open.pop().filter(|_| out.len() < AFTER_MAX) {
            if !seen.insert(input) {
                continue;
            }
            if matches!(self.solver.definition().vertex(input).op, Op::Merge | Op::Diff) {
                open.extend(inputs(input));
            } else if self.outcomes[input.index()].is_miss() {
                out.push(self.after(input));
            }
        }
        out
    }
}

/// Another base image: the same name with another digest, or another name.
fn base_image(old: &str, new: &str) -> Reason {
    let name = |identifier: &str| {
        let text = identifier.split_once("://").map_or(identifier, |(_, rest)| rest);
        let (name, digest) = text.split_once('@').unwrap_or((text, ""));
        let shown = match name.parse::<ImageName>() {
            Ok(ImageName::Registry(reference)) => reference.familiar(),
            _ => name.to_owned(),
        };
        (shown, digest.to_owned())
    };
    let ((old_name, old_digest), (new_name, new_digest)) = (name(old), name(new));
    let moved = old_name == new_name;
    let of = |name: String, digest: String| if moved { digest } else { format!("{name}@{digest}") };
    Reason::BaseImage {
        image: new_name.clone(),
        old: of(old_name, old_digest),
        new: of(new_name, new_digest),
        moved,
    }
}
