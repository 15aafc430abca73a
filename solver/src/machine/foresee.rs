//! What can be asked of a solver besides the next action: by what a vertex is keyed, and in a dry run what is foreseen
//! of it. It does not decide what is done next.

use super::{KeyedBy, Solver, State, Want};
use crate::cache_key::{CacheKey, InputKey};
use crate::definition::{Edge, VertexId};
use crate::protocol::Foresight;

impl Solver {
    /// The key of a vertex by how it is made, as soon as it is known.
    pub fn key(&self, vertex: VertexId) -> Option<CacheKey> {
        match self.chain_key(&Edge { vertex, output: 0 })? {
            InputKey::Chain(key, _) => Some(key),
            InputKey::Content(_) | InputKey::Selection(_) => None,
        }
    }

    /// By what a vertex's inputs went into its key by how it is made, and into the one by their content; none
    /// as long as there is no such key.
    pub fn keyed_by(&self, vertex: VertexId) -> (&[InputKey], &[InputKey]) {
        let KeyedBy { chain, content } = &self.keyed_by[vertex.index()];
        (chain, content)
    }

    /// Whether anything is wanted of a vertex, and whether that is more than its key.
    pub fn is_wanted(&self, vertex: VertexId) -> (bool, bool) {
        let want = self.wants[vertex.index()];
        (want > Want::Nothing, want > Want::Key)
    }

    /// What a dry run foresees of a vertex that it would have to do.
    pub fn foresight(&self, vertex: VertexId) -> Option<Foresight> {
        match &self.states[vertex.index()] {
            State::Foreseen { how, .. } => Some(*how),
            _ => None,
        }
    }

    pub(super) fn foresee(&mut self, vertex: VertexId) {
        let nothing = Vec::new();
        let (key, outputs, how) = match &self.states[vertex.index()] {
            State::Running { key } => {
                self.running -= 1;
                (*key, nothing, Foresight::Runs)
            }
            State::Fetching { key, outputs } => (*key, outputs.clone(), Foresight::Fetches),
            State::Loading { key, .. } => (*key, nothing, Foresight::Known),
            State::Selecting { key, .. } => (*key, nothing, self.foresight_of_gathered(vertex)),
            // More of what it selects is not here than was answered for already.
            _ => return,
        };
        self.set(vertex, State::Foreseen { key, outputs, how });
    }

    /// What is foreseen of a vertex that is not known by how it is made, and whose inputs' contents are not known.
    pub(super) fn foresight_of_gathered(&self, vertex: VertexId) -> Foresight {
        let is_new = self.definition.vertex(vertex).metadata.ignore_cache;
        if is_new { Foresight::Runs } else { Foresight::Perhaps }
    }
}
