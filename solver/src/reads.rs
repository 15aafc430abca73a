//! What an operation does with its inputs: which it builds on, and of which it reads only a part.
//! It does not know states or keys.

use crate::definition::{Definition, Edge, FileActionKind, FileInput, MountKind, Op, VertexId};

/// Whether it is a folder of the user's, of which only what is selected counts.
pub(crate) fn is_local(op: &Op) -> bool {
    matches!(op, Op::Source(source) if source.identifier.starts_with("local://"))
}

/// The inputs whose layers go into the result: it can't be named before they are known.
pub fn bases(definition: &Definition, vertex: VertexId) -> Vec<Edge> {
    let this = definition.vertex(vertex);
    let edge = |i: &u32| this.inputs.get(*i as usize).copied();
    match &this.op {
        Op::Source(_) => Vec::new(),
        Op::Merge | Op::Diff => this.inputs.clone(),
        Op::Exec(exec) => exec
            .mounts
            .iter()
            .filter(|m| m.output.is_some())
            .filter_map(|m| m.input.as_ref().and_then(edge))
            .collect(),
        Op::File(file) => {
            let inputs = file.actions.iter().filter_map(|action| match &action.input {
                FileInput::Input(i) => edge(i),
                FileInput::Scratch | FileInput::Action(_) => None,
            });
            inputs.collect()
        }
    }
}

/// Whether a vertex reads only a part of an input, so that the part's content stands for it.
pub(crate) fn is_selected(definition: &Definition, vertex: VertexId, input: usize) -> bool {
    let this = definition.vertex(vertex);
    let is_this = |i: u32| i as usize == input;
    match &this.op {
        Op::Source(_) | Op::Merge | Op::Diff => false,
        Op::Exec(exec) => {
            let mut uses = exec.mounts.iter().filter(|m| m.input.is_some_and(is_this)).peekable();
            uses.peek().is_some()
                && uses
                    .all(|m| m.readonly && m.output.is_none() && m.dest != "/" && m.kind == MountKind::Bind)
        }
        Op::File(file) => {
            let reads = file.actions.iter().any(|a| {
                matches!(a.secondary_input, Some(FileInput::Input(i)) if is_this(i))
                    && matches!(a.kind, FileActionKind::Copy(_))
            });
            let changes = file.actions.iter().any(|a| matches!(a.input, FileInput::Input(i) if is_this(i)));
            reads && !changes
        }
    }
}
