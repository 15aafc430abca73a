//! What the solver asks for and what it is told, as plain data. It does not know states or how anything is
//! done.

use crate::cache_key::{CacheKey, ContentId};
use crate::definition::VertexId;
use kiln_oci::Digest;

/// Something to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Find out what a source is: answered by [`Event::Identified`].
    Identify(VertexId),
    /// Hash what a vertex reads of one of its inputs: answered by [`Event::Selected`].
    Select {
        /// The vertex that reads.
        vertex: VertexId,
        /// Which of its inputs.
        input: usize,
    },
    /// See whether the result of a key is known: answered by [`Event::Found`].
    LookUp {
        /// The vertex.
        vertex: VertexId,
        /// The key.
        key: CacheKey,
        /// A key under which a result that is found is to be known too.
        alias: Option<CacheKey>,
        /// An older result is as good as none, in seconds.
        max_age_s: Option<u64>,
    },
    /// Lay what is known under a key on the results of the vertex's bases: answered by [`Event::Loaded`].
    Load {
        /// The vertex.
        vertex: VertexId,
        /// The key under which it was found.
        key: CacheKey,
    },
    /// Bring a source's files here: answered by [`Event::Fetched`].
    Fetch(VertexId),
    /// Let what a vertex made be known under one more key: answered by [`Event::Remembered`].
    Remember {
        /// The vertex.
        vertex: VertexId,
        /// The key.
        key: CacheKey,
    },
    /// Do it: answered by [`Event::Ran`]. The result is to be known under the keys, unless what was read
    /// is no longer what they stand for.
    Run {
        /// The vertex.
        vertex: VertexId,
        /// Its keys: how it is made, and from what content.
        keys: Vec<CacheKey>,
        /// The one of them under which a result that somebody else has made meanwhile may be taken instead.
        take: Option<CacheKey>,
    },
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A source is identified.
    Identified {
        /// The source.
        vertex: VertexId,
        /// Its key.
        key: CacheKey,
        /// Its content.
        content: ContentId,
    },
    /// What is read of an input is hashed.
    Selected {
        /// The vertex that reads.
        vertex: VertexId,
        /// Which of its inputs.
        input: usize,
        /// The hash.
        digest: Digest,
    },
    /// A look-up is answered.
    Found {
        /// The vertex.
        vertex: VertexId,
        /// Whether there is a result.
        hit: bool,
    },
    /// A result that was found is laid on its bases.
    Loaded {
        /// The vertex.
        vertex: VertexId,
        /// The content of each of its outputs, or `None` if the result is gone.
        outputs: Option<Vec<ContentId>>,
    },
    /// A source's files are here.
    Fetched(VertexId),
    /// A vertex is done.
    Ran {
        /// The vertex.
        vertex: VertexId,
        /// The content of each of its outputs.
        outputs: Vec<ContentId>,
        /// Where a user's folder has changed since the key was made: for each input that is one, the hash
        /// of what was really read. Otherwise empty.
        changed: Vec<(usize, Digest)>,
    },
    /// What a vertex made is known under one more key.
    Remembered(VertexId),
    /// In a dry run: the action (a run, a fetch, a selection, a load) is not done, so that what comes of it
    /// is not known. What is built on it goes on as far as keys lead.
    Foreseen(VertexId),
    /// An action on a vertex failed. Nothing new is begun; what runs may end.
    Failed(VertexId),
}

/// What a dry run foresees of a vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foresight {
    /// Its result is known, but not what it would be laid on.
    Known,
    /// It would be done.
    Runs,
    /// It would be done, unless what it is made of comes out as it did before.
    Perhaps,
    /// What it is is known; its files would be brought here.
    Fetches,
}

/// How far the solver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Actions are out, and their events will tell.
    Waiting,
    /// The target's result is there.
    Done,
    /// A vertex failed and no action is out.
    Failed(VertexId),
}
