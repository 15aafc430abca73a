//! What a vertex reads of one of its inputs, as a digest for its key. It does not know keys.

use crate::WorkerError;
use crate::absence::Absence;
use crate::explain::Listing;
use crate::selection;
use crate::view::View;
use kiln_oci::{Digest, Hasher};
use kiln_solver::{FileActionKind, FileInput, Op, Vertex};

/// The digest of all that `vertex` reads of its input number `input`, which `view` shows; and what it is of.
pub(crate) fn digest(vertex: &Vertex, input: usize, view: &View) -> Result<(Digest, Listing), WorkerError> {
    let mut listing = Listing::default();
    let is_this = |i: u32| i as usize == input;
    let mut digests = Vec::new();
    match &vertex.op {
        Op::File(file) => {
            if file.actions.iter().any(|a| matches!(a.input, FileInput::Input(i) if is_this(i))) {
                digests.push(selection::digest_of_all(view, b"", &mut listing)?);
            }
            for action in &file.actions {
                if let (Some(FileInput::Input(i)), FileActionKind::Copy(copy)) =
                    (action.secondary_input, &action.kind)
                    && is_this(i)
                {
                    digests.push(selection::digest(view, copy, &mut listing)?);
                }
            }
        }
        Op::Exec(exec) => {
            for mount in exec.mounts.iter().filter(|m| m.input.is_some_and(is_this)) {
                let path = view.resolve(mount.selector.as_bytes(), true)?;
                if view.node(&path)?.is_none() {
                    return Err(WorkerError::NotFound {
                        path: mount.selector.clone(),
                        place: view.place(),
                        around: Box::new(Absence::of(view, &path)),
                    });
                }
                digests.push(selection::digest_of_all(view, &path, &mut listing)?);
            }
        }
        Op::Source(_) | Op::Merge | Op::Diff => {}
    }
    let mut hasher = Hasher::new();
    for digest in &digests {
        hasher.update(digest.as_bytes());
    }
    Ok((hasher.finish(), listing))
}
