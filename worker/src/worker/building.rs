//! One build from its request to its outputs, with the caches that it reads and writes. It does not know how a step
//! is done or an output is written.

use super::{BuildRequest, BuildResult, Worker};
use crate::WorkerError;
use crate::attest::{Attester, Facts};
use crate::build::{Build, edges_of};
use crate::cache::{
    CacheError, CacheExport, CacheKind, CacheMode, CachePlace, Exports, Imports, Learnt, Network, inline,
    on_the_way, open,
};
use crate::explain::Journal;
use crate::export::Exporter;
use crate::layer::Stack;
use crate::output::{self, Ahead};
use crate::progress::{CacheTrouble, Progress, ProgressSink, Transfer};
use jiff::Timestamp;
use kiln_runner::CancelToken;
use kiln_solver::VertexId;
use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

impl Worker {
    /// Builds, and writes the result to its outputs.
    pub fn build(
        &self,
        request: &BuildRequest,
        progress: &ProgressSink<'_>,
        cancel: &CancelToken,
    ) -> Result<BuildResult, WorkerError> {
        let alive = self.store.mark_alive()?;
        let result = self.capped(progress, || self.build_alive(request, progress, cancel));
        // Only what is given up first hangs on this.
        let _ = self.store.meta.note_used(&self.store.leases.layers());
        drop(alive);
        // What can't be swept now is left to the next build.
        let _ = self.store.sweep();
        result
    }

    fn build_alive(
        &self,
        request: &BuildRequest,
        progress: &ProgressSink<'_>,
        cancel: &CancelToken,
    ) -> Result<BuildResult, WorkerError> {
        let journal = Arc::new(Journal::default());
        let transfer = |t: Transfer<'_>| {
            journal.transferred(t.digest, t.done_bytes);
            progress.send(Progress::Transfer(t));
        };
        let images = self.images(&transfer, cancel)?;
        let (imports, unread) = self.imports(request, progress, cancel)?;
        let (exports, unwritten) = self.exports(request, progress, cancel)?;
        let build = Build::new(&self.store, &images, request, progress, cancel, (&imports, &exports));
        let build = build.noted_in(&journal).held_to(&self.pins);
        let fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let facts = Facts { invocation: crate::attest::invocation(), started: Timestamp::now(), fetched };
        let exporter = Exporter::new(&self.store, &images, progress);
        let result = Self::build_and_share(&build, &exporter, request, &facts);
        let result = result.map(|result| BuildResult {
            cache_failures: result.cache_failures + unread + unwritten,
            ..result
        });
        progress.send(Progress::Report(&build.report(result.as_ref())));
        result
    }

    /// Builds and writes, while layers go to the caches that are written, and then their configs.
    fn build_and_share(
        build: &Build<'_>,
        exporter: &Exporter<'_>,
        request: &BuildRequest,
        facts: &Facts,
    ) -> Result<BuildResult, WorkerError> {
        if request.dry_run {
            build.run()?;
            return Ok(BuildResult::default());
        }
        let exports = build.exports;
        let (mut result, learnt) = std::thread::scope(|scope| {
            for _ in 0..exports.senders() {
                scope.spawn(|| exports.send_all(exporter));
            }
            let written = solve_and_write(build, exporter, request, facts);
            exports.close(written.is_ok());
            written
        })?;
        match build.send_mounts(exporter) {
            Err(WorkerError::Canceled) => return Err(WorkerError::Canceled),
            Err(error) => exports.fail_for_mounts(error),
            Ok(()) => {}
        }
        let (manifests, failed) = exports.publish(exporter, &request.definition, &learnt)?;
        build.keep_records(&learnt)?;
        result.cache_manifests = manifests;
        result.cache_failures = failed + build.imports.failures();
        Ok(result)
    }

    /// The caches to read, already asked; and how many can't be.
    fn imports(
        &self,
        request: &BuildRequest,
        progress: &ProgressSink<'_>,
        cancel: &CancelToken,
    ) -> Result<(Imports, usize), WorkerError> {
        let (mut places, mut failures) = (Vec::new(), 0);
        for import in &request.cache_imports {
            match self.opened(&import.kind, None, cancel)? {
                Ok(place) => places.push(place),
                Err(error) if request.cache_strict => {
                    return Err(error.of(&import.kind.to_string()));
                }
                Err(error) => {
                    failures += 1;
                    let trouble = CacheTrouble::Unread(&error);
                    progress.send(Progress::Cache { place: &import.kind.to_string(), trouble });
                }
            }
        }
        Ok((Imports::begin(places, request.cache_strict, cancel), failures))
    }

    /// The caches to write, and how many can't be.
    fn exports(
        &self,
        request: &BuildRequest,
        progress: &ProgressSink<'_>,
        cancel: &CancelToken,
    ) -> Result<(Exports, usize), WorkerError> {
        let (mut places, mut failures) = (Vec::new(), 0);
        for export in request.cache_exports.iter().filter(|export| export.kind != CacheKind::Inline) {
            match self.opened(&export.kind, Some(export), cancel)? {
                Ok(place) => places.push((place, export.clone())),
                Err(error) => {
                    failures += usize::from(!export.ignore_error);
                    let place = export.kind.to_string();
                    let error = error.of(&place);
                    progress
                        .send(Progress::Cache { place: &place, trouble: CacheTrouble::Unwritten(&error) });
                }
            }
        }
        let wanted = |export: &CacheExport| match export.mode {
            CacheMode::Min => on_the_way(&request.definition, &edges_of(request)),
            CacheMode::Max => (0..request.definition.vertices().len() as u32).map(VertexId).collect(),
        };
        Ok((Exports::new(places, wanted), failures))
    }

    /// The place of a cache, or why it can't be used.
    fn opened(
        &self,
        kind: &CacheKind,
        export: Option<&CacheExport>,
        cancel: &CancelToken,
    ) -> Result<Result<Arc<dyn CachePlace>, CacheError>, WorkerError> {
        if let Some(flag) = self.forbidden.filter(|_| !matches!(kind, CacheKind::Local(_))) {
            return Ok(Err(CacheError::NotAsked(flag)));
        }
        Ok(open(kind, export, &self.network(cancel)?))
    }

    fn network(&self, cancel: &CancelToken) -> Result<Network, WorkerError> {
        let (client, runtime) = (self.client.clone(), self.runtime()?.handle().clone());
        Ok(Network { client, runtime, cancel: cancel.clone() })
    }
}

/// Builds and writes, and once more where a shared cache turns out not to have a layer that an output needs.
fn solve_and_write(
    build: &Build<'_>,
    exporter: &Exporter<'_>,
    request: &BuildRequest,
    facts: &Facts,
) -> Result<(BuildResult, Vec<Learnt>), WorkerError> {
    let is_inline = request.cache_exports.iter().any(|export| export.kind == CacheKind::Inline);
    let shares = !request.cache_imports.is_empty() || !request.cache_exports.is_empty();
    let wanted = if is_inline { on_the_way(&request.definition, &edges_of(request)) } else { HashSet::new() };
    loop {
        let stacks = solve_and_work_ahead(build, exporter)?;
        let learnt = if shares { build.learnt()? } else { Vec::new() };
        let records = |stack: &Stack| if is_inline { inline(&learnt, stack, &wanted) } else { None };
        let mut facts = facts.clone();
        facts.fetched.extend(build.fetched());
        let attester = Attester::new(exporter, request, &facts);
        match output::write_all(&attester, stacks, &records) {
            Ok(result) => {
                let (invocation, provenance) = (attester.invocation().to_owned(), attester.told()?);
                return Ok((BuildResult { invocation, provenance, ..result }, learnt));
            }
            Err(error) => build.without_cache_of(error)?,
        }
    }
}

/// Builds, while finished layers of the result are already compressed and sent. All that the build made is on the disk
/// then: names and archives are made only of what survives a loss of power.
fn solve_and_work_ahead(build: &Build<'_>, exporter: &Exporter<'_>) -> Result<Vec<Stack>, WorkerError> {
    let ahead = &build.ahead;
    std::thread::scope(|scope| {
        for _ in 0..ahead.workers() {
            scope.spawn(|| ahead.work(exporter));
        }
        // Whatever happens, nobody waits for more layers.
        let closing = Closing(ahead);
        let stacks = build.run()?;
        closing.0.close(true);
        std::mem::forget(closing);
        if build.made_something() {
            exporter.store.snapshots.sync()?;
            exporter.store.meta.mark_synced()?;
        }
        Ok(stacks)
    })
}

/// Ends the work ahead of a build that has failed.
struct Closing<'a>(&'a Ahead);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close(false);
    }
}
