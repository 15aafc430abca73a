//! What a vertex reads of one of its inputs, and the digest of it for its key. It does not know keys.

use crate::WorkerError;
use crate::absence::Absence;
use crate::explain::Listing;
use crate::selection::{Looked, Wanted};
use crate::view::View;
use kiln_oci::{Digest, Hasher};
use kiln_solver::{FileActionKind, FileInput, Op, Vertex};

/// More than this is not kept once it was read.
const KEPT_MAX: usize = 200_000;

/// What a vertex took of an input.
#[derive(Debug)]
pub(crate) struct Reads {
    pub digest: Digest,
    /// What was looked at, if that isn't too much, for each of the parts that are taken.
    parts: Option<Vec<Part>>,
}

#[derive(Debug)]
struct Part {
    /// The number of the action that takes it.
    action: usize,
    looked: Vec<Looked>,
}

impl Reads {
    /// Reads all that `vertex` reads of its input number `input`, which `view` shows; and lists it.
    pub fn of(vertex: &Vertex, input: usize, view: &View) -> Result<(Reads, Listing), WorkerError> {
        let mut listing = Listing::default();
        let mut hasher = Hasher::new();
        let mut parts = Vec::new();
        for (action, wanted) in wanted(vertex, input, view)? {
            let mut looked = wanted.look(view)?;
            hasher.update(wanted.read(view, &mut looked, &mut listing)?.as_bytes());
            parts.push(Part { action, looked });
        }
        let count: usize =
            parts.iter().flat_map(|part| &part.looked).map(|looked| looked.entries.len()).sum();
        let parts = (count <= KEPT_MAX).then_some(parts);
        Ok((Reads { digest: hasher.finish(), parts }, listing))
    }

    /// Whether a look shows that all is still as it was read; not that it isn't, where it was too much to be kept.
    pub fn are_still(&self, vertex: &Vertex, input: usize, view: &View) -> Result<bool, WorkerError> {
        let Some(parts) = &self.parts else { return Ok(false) };
        for (part, (_, wanted)) in parts.iter().zip(wanted(vertex, input, view)?) {
            let again = wanted.look(view)?;
            if again.len() != part.looked.len() {
                return Ok(false);
            }
            for (before, now) in part.looked.iter().zip(&again) {
                if !before.is_still(now, view)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// What was seen at a path that an action takes.
    pub fn looked(&self, action: usize, path: &[u8]) -> Option<&Looked> {
        let part = self.parts.as_ref()?.iter().find(|part| part.action == action)?;
        part.looked.iter().find(|looked| looked.found.path == path)
    }
}

/// What `vertex` takes of an input, and which of its actions does.
fn wanted<'a>(
    vertex: &'a Vertex,
    input: usize,
    view: &View,
) -> Result<Vec<(usize, Wanted<'a>)>, WorkerError> {
    let is_this = |i: u32| i as usize == input;
    let mut wanted = Vec::new();
    match &vertex.op {
        Op::File(file) => {
            // As the base of an action all of it is taken.
            if file.actions.iter().any(|a| matches!(a.input, FileInput::Input(i) if is_this(i))) {
                wanted.push((usize::MAX, Wanted::All(b"".to_vec())));
            }
            for (at, action) in file.actions.iter().enumerate() {
                if let (Some(FileInput::Input(i)), FileActionKind::Copy(copy)) =
                    (action.secondary_input, &action.kind)
                    && is_this(i)
                {
                    wanted.push((at, Wanted::Copy(copy)));
                }
            }
        }
        Op::Exec(exec) => {
            for (at, mount) in exec.mounts.iter().enumerate().filter(|(_, m)| m.input.is_some_and(is_this)) {
                let path = view.resolve(mount.selector.as_bytes(), true)?;
                if view.node(&path)?.is_none() {
                    return Err(WorkerError::NotFound {
                        path: mount.selector.clone(),
                        place: view.place(),
                        around: Box::new(Absence::of(view, &path)),
                    });
                }
                wanted.push((at, Wanted::All(path)));
            }
        }
        Op::Source(_) | Op::Merge | Op::Diff => {}
    }
    Ok(wanted)
}
