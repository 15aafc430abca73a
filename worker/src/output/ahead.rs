//! Work on a result's layers while its build still runs: each is compressed, and sent to the registries that it will be
//! pushed to, as soon as it is known. Nothing hangs on it: what fails here is done again when the outputs are written,
//! which tells of it. It does not know how a layer becomes a blob, nor when a result is whole.

use super::{Form, Output};
use crate::export::Exporter;
use crate::layer::Stack;
use crate::layer_form::{Compress, LayerForm};
use crate::worker::BuildRequest;
use kiln_oci::{DiffId, Reference};
use kiln_solver::VertexId;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

/// Layers that are sent somewhere at once.
const SENT_AT_ONCE: usize = 4;

/// What is done ahead for one build.
#[derive(Debug)]
pub(crate) struct Ahead {
    kinds: Vec<Kind>,
    /// The steps whose layers are in the result.
    wanted: HashSet<VertexId>,
    offered: Mutex<HashSet<DiffId>>,
    sender: Mutex<Option<Sender<Job>>>,
    receiver: Mutex<Receiver<Job>>,
    /// Held by who compresses. One layer keeps all cores busy, and what the next has in common with it is taken from
    /// it once it is whole.
    compressing: Mutex<()>,
    /// Whether the build has failed, and nothing more is begun.
    unwanted: AtomicBool,
}

/// A way in which layers leave.
#[derive(Debug)]
struct Kind {
    form: LayerForm,
    /// What no time in a layer is after, in seconds since 1970.
    latest_s: Option<i64>,
    /// Where they are pushed to. Once that fails, it is left to the end.
    names: Vec<(Reference, AtomicBool)>,
}

/// A layer of a result.
#[derive(Debug)]
struct Job {
    stack: Stack,
    at: usize,
}

impl Ahead {
    /// What can be done for the outputs of `request`, in whose result are the layers of the steps `wanted`.
    pub fn of(request: &BuildRequest, wanted: HashSet<VertexId>) -> Ahead {
        let mut kinds: Vec<Kind> = Vec::new();
        for output in request.outputs.iter().filter(|output| has_blobs(&output.form)) {
            let Some(latest_s) = latest(request, output) else { continue };
            let form = output.layers;
            let is_same = |kind: &Kind| kind.form == form && kind.latest_s == latest_s;
            let at = kinds.iter().position(is_same).unwrap_or_else(|| {
                kinds.push(Kind { form, latest_s, names: Vec::new() });
                kinds.len() - 1
            });
            if output.form == Form::Registry {
                let known = |name: &Reference, kind: &Kind| {
                    let is_known = |(other, _): &(Reference, AtomicBool)| {
                        (other.registry(), other.repository()) == (name.registry(), name.repository())
                    };
                    kind.names.iter().any(is_known)
                };
                for name in &output.names {
                    if !known(name, &kinds[at]) {
                        kinds[at].names.push((name.clone(), AtomicBool::new(false)));
                    }
                }
            }
        }
        let (sender, receiver) = channel();
        Ahead {
            sender: Mutex::new((!kinds.is_empty()).then_some(sender)),
            kinds,
            wanted,
            offered: Mutex::default(),
            receiver: Mutex::new(receiver),
            compressing: Mutex::default(),
            unwanted: AtomicBool::new(false),
        }
    }

    /// How many layers are worked on at once; none if there is nothing to do.
    pub fn workers(&self) -> usize {
        match self.kinds.iter().any(|kind| !kind.names.is_empty()) {
            true => SENT_AT_ONCE,
            false => self.kinds.len().min(1),
        }
    }

    /// Offers what a step added: the uppermost layers of its result.
    pub fn offer(&self, vertex: VertexId, stack: &Stack, added: usize) {
        if !self.wanted.contains(&vertex) {
            return;
        }
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = sender.as_ref() else { return };
        for at in stack.0.len().saturating_sub(added)..stack.0.len() {
            // Of one that has none the build tells.
            let Ok(diff_id) = stack.0[at].diff_id() else { continue };
            if self.offered.lock().unwrap_or_else(PoisonError::into_inner).insert(diff_id) {
                // The receiver lives as long as this.
                let _ = sender.send(Job { stack: stack.clone(), at });
            }
        }
    }

    /// No more is offered: who works ends when all is done, or at once if it is `wanted` no more.
    pub fn close(&self, wanted: bool) {
        self.unwanted.store(!wanted, Ordering::Relaxed);
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Does `finish` with the form in which the layer that a step just made leaves, if it is known that it will.
    pub fn finishing<T>(&self, vertex: VertexId, finish: impl FnOnce(LayerForm) -> T) -> Option<T> {
        let is_open = self.sender.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let is_of_its_tar = |kind: &&Kind| kind.latest_s.is_none() && kind.form.compress != Compress::Estargz;
        let kind = self.kinds.iter().find(is_of_its_tar)?;
        if !is_open || !self.wanted.contains(&vertex) {
            return None;
        }
        let _alone = self.compressing.lock().unwrap_or_else(PoisonError::into_inner);
        Some(finish(kind.form))
    }

    /// Works on what is offered, until no more will be.
    pub fn work(&self, exporter: &Exporter<'_>) {
        loop {
            let job = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Job { stack, at }) = job else { return };
            for kind in &self.kinds {
                if !exporter.images.cancel.is_cancelled() && !self.unwanted.load(Ordering::Relaxed) {
                    kind.work(exporter, (&stack, at), &self.compressing);
                }
            }
        }
    }
}

impl Kind {
    fn work(&self, exporter: &Exporter<'_>, (stack, at): (&Stack, usize), compressing: &Mutex<()>) {
        // One that a registry has is looked at when all is known of the result.
        let layer = &stack.0[at];
        if layer.blob.is_some() && layer.registry_image().is_some() {
            return;
        }
        let alone = compressing.lock().unwrap_or_else(PoisonError::into_inner);
        let made = exporter.blob(stack, at, self.form, self.latest_s);
        drop(alone);
        let Ok((_, blob)) = made else { return };
        for (name, has_failed) in &self.names {
            if !has_failed.load(Ordering::Relaxed) && exporter.push_layer(&blob, name, stack).is_err() {
                has_failed.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Whether an output consists of blobs.
fn has_blobs(form: &Form) -> bool {
    match form {
        Form::Registry | Form::Oci(_) | Form::Docker(_) | Form::Layout(_) => true,
        // A daemon may have them all.
        Form::Daemon(_) | Form::Store | Form::Tar(_) | Form::Local(_) | Form::CacheOnly => false,
    }
}

/// What no time in a layer may be after; `None` if that is not the same for all that is built.
fn latest(request: &BuildRequest, output: &Output) -> Option<Option<i64>> {
    if !output.rewrite_timestamp {
        return Some(None);
    }
    if output.source_date_epoch_s.is_some() {
        return Some(output.source_date_epoch_s);
    }
    let mut dates = request.targets.iter().map(|target| target.source_date_epoch_s);
    let first = dates.next()?;
    dates.all(|date| date == first).then_some(first)
}
