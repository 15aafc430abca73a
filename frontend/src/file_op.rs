//! Puts a file operation together: actions one after another, and the inputs that they use. It does
//! not know instructions.

use kiln_solver::{Edge, FileAction, FileActionKind, FileInput, FileOp, Op};

/// A file operation under way.
pub(crate) struct FileOpBuilder {
    base: FileInput,
    inputs: Vec<Edge>,
    actions: Vec<FileAction>,
}

impl FileOpBuilder {
    /// An operation that changes a file system; `None` is an empty one.
    pub(crate) fn new(base: Option<Edge>) -> FileOpBuilder {
        let mut builder = FileOpBuilder { base: FileInput::Scratch, inputs: Vec::new(), actions: Vec::new() };
        builder.base = builder.input(base);
        builder
    }

    /// Adds an action on what the actions so far have made, perhaps with a second input.
    pub(crate) fn push(&mut self, kind: FileActionKind, source: Option<Option<Edge>>) {
        let secondary_input = source.map(|edge| self.input(edge));
        let input = match u32::try_from(self.actions.len()) {
            Ok(done @ 1..) => FileInput::Action(done - 1),
            _ => self.base,
        };
        self.actions.push(FileAction { input, secondary_input, output: None, kind });
    }

    /// The operation, whose output is what the last action made.
    pub(crate) fn finish(mut self) -> (Op, Vec<Edge>) {
        if let Some(last) = self.actions.last_mut() {
            last.output = Some(0);
        }
        (Op::File(FileOp { actions: self.actions }), self.inputs)
    }

    fn input(&mut self, edge: Option<Edge>) -> FileInput {
        edge.map_or(FileInput::Scratch, |edge| FileInput::Input(place_of(&mut self.inputs, edge)))
    }
}

/// The place of an edge among inputs, added where it is not there yet.
pub(crate) fn place_of(inputs: &mut Vec<Edge>, edge: Edge) -> u32 {
    let place = inputs.iter().position(|other| *other == edge).unwrap_or_else(|| {
        inputs.push(edge);
        inputs.len() - 1
    });
    u32::try_from(place).unwrap_or(u32::MAX)
}
