//! The report of a build that is over, and what is kept of its steps for the next one. It does not know words.

use crate::WorkerError;
use crate::build::Build;
use crate::explain::earlier::{self, Kept, Slot, StepKind};
use crate::explain::finding::Finding;
use crate::explain::{Listings, Note, lock};
use crate::meta::{NewSteps, StepRow};
use crate::report::{BuildReport, BuildStatus, Origin, Outcome, REPORT_SCHEMA, StepReport, Totals};
use crate::store::now_s;
use crate::worker::BuildResult;
use kiln_oci::Digest;
use kiln_solver::{CacheKey, Definition, Foresight, Op, Solver, Vertex, VertexId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::UNIX_EPOCH;

/// What is worked out at a build's end.
struct Telling<'b> {
    build: &'b Build<'b>,
    solver: &'b Solver,
    notes: HashMap<VertexId, Note>,
    listings: Listings,
    transfers: HashMap<Digest, u64>,
    /// By vertex.
    outcomes: Vec<Outcome>,
    names: Vec<String>,
}

impl Build<'_> {
    /// What is to be told of the build, now that it is over. What can't be found out is left out.
    pub fn report(&self, result: Result<&BuildResult, &WorkerError>) -> BuildReport {
        let journal = &self.journal;
        let started_s = journal.started.1.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        let mut report = BuildReport {
            schema: REPORT_SCHEMA,
            started_s,
            dry_run: self.request.dry_run,
            place: self.shown(&self.request.place.name),
            platforms: self.request.targets.iter().map(|target| target.platform.to_string()).collect(),
            ..BuildReport::default()
        };
        match result {
            Ok(result) => {
                report.result = result.id().map(|digest| digest.to_string());
                report.names.clone_from(&result.names);
            }
            Err(WorkerError::Canceled) => report.status = BuildStatus::Canceled,
            Err(error) => {
                report.status = BuildStatus::Failed;
                report.error = Some(self.shown(&error.to_string()));
            }
        }
        if let Some(solver) = journal.solved.get() {
            let failed = match result {
                Err(WorkerError::Vertex { vertex, .. }) => Some(*vertex),
                _ => None,
            };
            Telling::new(self, solver, failed).fill(&mut report);
        }
        report.seconds = journal.started.0.elapsed().as_secs_f64();
        if !report.dry_run {
            // That it can't be kept is no reason to fail.
            let _ = report.keep(&self.store.root);
        }
        report
    }

    /// A text without what is not to be shown.
    pub(crate) fn shown(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for value in self.request.place.hidden.iter().filter(|value| value.len() > 3) {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), "****");
            }
        }
        super::fields::without_passwords(&text)
    }
}

impl<'b> Telling<'b> {
    fn new(build: &'b Build<'b>, solver: &'b Solver, failed: Option<VertexId>) -> Telling<'b> {
        let journal = &build.journal;
        let vertices = solver.definition().vertices();
        let mut telling = Telling {
            build,
            solver,
            notes: std::mem::take(&mut lock(&journal.notes)),
            listings: std::mem::take(&mut lock(&journal.listings)),
            transfers: std::mem::take(&mut lock(&journal.transfers)),
            outcomes: Vec::new(),
            names: vertices.iter().map(|vertex| build.shown(&vertex.metadata.name)).collect(),
        };
        let ids = (0..vertices.len()).map(|i| VertexId(i as u32));
        telling.outcomes = ids.map(|id| telling.outcome(id, failed)).collect();
        telling
    }

    fn outcome(&self, id: VertexId, failed: Option<VertexId>) -> Outcome {
        let vertex = self.solver.definition().vertex(id);
        let is_source = matches!(vertex.op, Op::Source(_));
        let note = self.notes.get(&id);
        match self.solver.foresight(id) {
            Some(Foresight::Known) => return Outcome::Hit,
            Some(Foresight::Runs) => return Outcome::WouldRun,
            Some(Foresight::Perhaps) => return Outcome::MightRun,
            Some(Foresight::Fetches) => return Outcome::WouldPull,
            None => {}
        }
        if failed == Some(id) {
            return Outcome::Failed;
        }
        match note {
            Some(note) if note.found.is_some() => Outcome::Hit,
            Some(Note { took: Some(_), .. }) if is_source => Outcome::Pulled,
            Some(Note { took: Some(_), .. }) => Outcome::Ran,
            Some(Note { begun: Some(_), .. }) => Outcome::Failed,
            _ if is_source && self.solver.key(id).is_some() => Outcome::Here,
            _ if self.solver.is_wanted(id) == (true, false) && failed.is_none() => Outcome::NotNeeded,
            _ => Outcome::NotReached,
        }
    }

    fn fill(self, report: &mut BuildReport) {
        let definition = self.solver.definition();
        let missed: BTreeMap<VertexId, Kept> = (0..definition.vertices().len())
            .map(|i| VertexId(i as u32))
            .filter(|id| self.outcomes[id.index()].is_miss() && self.solver.key(*id).is_some())
            .map(|id| (id, self.kept(id)))
            .collect();
        let slots = earlier::slots(self.solver);
        let before = self.slots_before();
        let mut selves = if missed.is_empty() {
            BTreeMap::new()
        } else {
            earlier::selves(&self.build.store.meta, &before, &slots, &missed).unwrap_or_default()
        };
        for (i, vertex) in definition.vertices().iter().enumerate() {
            let id = VertexId(i as u32);
            if !is_step(vertex) || !self.solver.is_wanted(id).0 {
                continue;
            }
            let mut step = self.step(id, vertex);
            if let Some(kept) = missed.get(&id) {
                let was = self.notes.get(&id).map_or((false, false), |note| (note.was_pruned, note.was_old));
                let found = self.finding().reasons(id, kept, selves.remove(&id).as_ref(), was);
                step.reasons = found.unwrap_or_default();
            }
            report.steps.push(step);
        }
        report.totals = self.totals(&report.steps);
        if !report.dry_run {
            // That it can't be kept is no reason to fail.
            let _ = self.keep(&before, &slots);
        }
    }

    fn finding(&self) -> Finding<'_> {
        Finding {
            meta: &self.build.store.meta,
            solver: self.solver,
            args: &self.build.request.place.args,
            outcomes: &self.outcomes,
            names: &self.names,
            listings: &self.listings,
        }
    }

    fn kept(&self, id: VertexId) -> Kept {
        Kept::of(self.solver, id, self.names[id.index()].clone())
    }

    fn step(&self, id: VertexId, vertex: &Vertex) -> StepReport {
        let outcome = self.outcomes[id.index()];
        let note = self.notes.get(&id).cloned().unwrap_or_default();
        let key = self.solver.key(id);
        let origin = match note.found {
            _ if outcome != Outcome::Hit => None,
            _ if note.shared.is_some() => Some(Origin::Cache),
            _ if note.origin.is_some() => note.origin.clone(),
            Some(found) if Some(found) != key => Some(Origin::Content),
            _ => Some(Origin::Chain),
        };
        let asked = || {
            let key = note.found.or(key).filter(|_| origin.is_some());
            key.and_then(|key| self.build.store.meta.made_s(&key).ok().flatten())
        };
        let made_s = note.made_s.or_else(asked);
        let took =
            note.took.or_else(|| note.begun.filter(|_| note.found.is_none()).map(|begun| begun.elapsed()));
        StepReport {
            name: self.names[id.index()].clone(),
            stage: vertex.metadata.stage.clone(),
            lines: vertex.metadata.lines.clone(),
            platform: vertex.platform.as_ref().map(ToString::to_string),
            key: key.map(|key| key.0.to_string()),
            outcome,
            origin,
            cache: note.shared.as_ref().map(|(place, _)| place.clone()),
            made_s: note.shared.map(|(_, made_s)| made_s).or(made_s).filter(|seconds| *seconds > 0),
            reasons: Vec::new(),
            seconds: took.map_or(0.0, |took| took.as_secs_f64()),
            layer_bytes: self.layer_bytes(&note.layers),
            pulled_bytes: self.pulled_bytes(id),
        }
    }

    fn layer_bytes(&self, layers: &[i64]) -> u64 {
        let bytes =
            |id: &i64| self.build.store.meta.layer(*id).ok().flatten().map_or(0, |layer| layer.tar_bytes);
        layers.iter().map(bytes).sum()
    }

    /// The bytes that came in of the blobs of a source.
    fn pulled_bytes(&self, id: VertexId) -> u64 {
        if self.transfers.is_empty() || !matches!(self.solver.definition().vertex(id).op, Op::Source(_)) {
            return 0;
        }
        let stack = self.build.stack(kiln_solver::Edge { vertex: id, output: 0 });
        let blobs = stack.0.iter().filter_map(|layer| layer.blob.as_ref());
        blobs.filter_map(|blob| self.transfers.get(&blob.digest)).sum()
    }

    fn totals(&self, steps: &[StepReport]) -> Totals {
        let count = |is: fn(Outcome) -> bool| steps.iter().filter(|step| is(step.outcome)).count();
        Totals {
            steps: steps.len(),
            hits: count(|outcome| outcome == Outcome::Hit),
            misses: count(Outcome::is_miss),
            not_needed: count(|outcome| outcome == Outcome::NotNeeded),
            layer_bytes: steps.iter().map(|step| step.layer_bytes).sum(),
            pulled_bytes: self.transfers.values().sum(),
        }
    }

    fn slots_before(&self) -> Vec<Slot> {
        let text = self.build.store.meta.place(&self.build.request.place.name).ok().flatten();
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Keeps what the next build is to be explained with, if anything is new.
    fn keep(&self, before: &[Slot], slots: &[(VertexId, Slot)]) -> Result<(), WorkerError> {
        let meta = &self.build.store.meta;
        // What failed or was not reached is not a step's earlier self.
        let is_made =
            |id: &VertexId| !matches!(self.outcomes[id.index()], Outcome::Failed | Outcome::NotReached);
        let made: Vec<&(VertexId, Slot)> = slots.iter().filter(|(id, _)| is_made(id)).collect();
        let mut place: Vec<Slot> = made.iter().map(|(_, slot)| slot.clone()).collect();
        // Stages that this build's target did not need, and steps that it did not come to, stay as they were.
        let is_cut_short = made.len() < slots.len();
        let places: BTreeSet<_> = made.iter().map(|(_, slot)| slot.place()).collect();
        let stages: BTreeSet<&str> = made.iter().map(|(_, slot)| slot.stage.as_str()).collect();
        let stays = |old: &&Slot| {
            !places.contains(&old.place()) && (is_cut_short || !stages.contains(old.stage.as_str()))
        };
        let rest: Vec<Slot> = before.iter().filter(stays).cloned().collect();
        place.extend(rest);
        place.sort_by(|a, b| a.place().cmp(&b.place()));
        let ran = made.iter().any(|(id, _)| self.outcomes[id.index()] == Outcome::Ran);
        if place == before && !ran {
            return Ok(());
        }
        let mut new = NewSteps::default();
        for (id, slot) in made {
            let key = CacheKey(slot.key);
            let is_new = self.outcomes[id.index()] == Outcome::Ran || meta.step(&key)?.is_none();
            if is_new && slot.kind != StepKind::Layers {
                new.steps.push(self.kept_row(*id, key));
                self.keep_selections(*id, &mut new)?;
            }
        }
        let text = serde_json::to_string(&place).unwrap_or_default();
        new.place = Some((self.build.request.place.name.clone(), text));
        meta.keep_steps(&new)
    }

    fn kept_row(&self, id: VertexId, key: CacheKey) -> StepRow {
        self.kept(id).row(key, now_s())
    }

    fn keep_selections(&self, id: VertexId, new: &mut NewSteps) -> Result<(), WorkerError> {
        let definition: &Definition = self.solver.definition();
        for at in 0..definition.vertex(id).inputs.len() {
            let Some((digest, entries)) = self.listings.get(&(id, at)) else { continue };
            if !self.build.store.meta.has_selection(digest)? {
                new.selections.push((*digest, entries.clone()));
            }
        }
        Ok(())
    }
}

/// Whether a vertex is told of: neither a folder of the user's nor layers that are only laid on each other.
fn is_step(vertex: &Vertex) -> bool {
    match &vertex.op {
        Op::Source(source) => !source.identifier.starts_with("local://"),
        Op::Exec(_) | Op::File(_) => true,
        Op::Merge | Op::Diff => false,
    }
}
