//! A dry run: which actions are done all the same, since they change nothing, and which are only foreseen. It does
//! not know what comes of that.

use super::Build;
use crate::WorkerError;
use kiln_solver::{Action, Event, Op};

impl Build<'_> {
    /// The answer to an action that is not done in a dry run; `None` if it can be done, as it neither runs a step nor
    /// brings or makes a layer. What a source from the network is has to be found out: git and the web are asked.
    pub(super) fn foreseen(&self, action: &Action) -> Result<Option<Event>, WorkerError> {
        let (vertex, is_done) = match action {
            Action::Identify(vertex) => (*vertex, true),
            Action::LookUp { vertex, .. } | Action::Remember { vertex, .. } => (*vertex, true),
            Action::Select { vertex, input } => {
                let edge = self.vertex(*vertex).inputs[*input];
                (*vertex, self.is_local(edge.vertex) || self.images.are_here(&self.stack(edge))?)
            }
            // A folder that something is built on would become a layer.
            Action::Load { vertex, .. } => (*vertex, !self.stands_on_a_folder(*vertex)),
            Action::Fetch(vertex) => {
                let output = kiln_solver::Edge { vertex: *vertex, output: 0 };
                (*vertex, self.images.are_here(&self.stack(output))?)
            }
            Action::Run { vertex, .. } => {
                let is_list = matches!(self.vertex(*vertex).op, Op::Merge | Op::Diff);
                (*vertex, is_list && !self.stands_on_a_folder(*vertex))
            }
        };
        Ok((!is_done).then_some(Event::Foreseen(vertex)))
    }
}
