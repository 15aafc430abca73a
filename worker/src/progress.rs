//! What a build tells while it goes on. It does not know terminals.

use crate::WorkerError;
use crate::cache::CacheError;
use crate::report::BuildReport;
use kiln_oci::Digest;
use kiln_runner::LogLine;
use kiln_solver::VertexId;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How many of a step's last lines are kept to be shown should it fail.
const TAIL_LINES: usize = 60;

/// Something that happened.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A step is being done.
    Started {
        /// The step.
        vertex: VertexId,
        /// Its name.
        name: &'a str,
    },
    /// A step's result was known.
    Cached {
        /// The step.
        vertex: VertexId,
        /// Its name.
        name: &'a str,
    },
    /// A step wrote a line.
    Log {
        /// The step.
        vertex: VertexId,
        /// Its line.
        line: &'a LogLine,
    },
    /// A step is done.
    Done {
        /// The step.
        vertex: VertexId,
        /// Its name.
        name: &'a str,
        /// How long it took.
        took: Duration,
    },
    /// Something outside of the graph: an export, a push.
    Task {
        /// What, as `exporting to oci archive`.
        name: &'a str,
        /// How long it took, once it is done.
        took: Option<Duration>,
    },
    /// Bytes of a blob came in.
    Transfer(Transfer<'a>),
    /// A shared cache is not what it was hoped to be. The build goes on.
    Cache {
        /// Which.
        place: &'a str,
        /// What is the matter.
        trouble: CacheTrouble<'a>,
    },
    /// The build is over: all that can be told of it.
    Report(&'a BuildReport),
    /// A step waits for another process, which does the same.
    Waiting {
        /// The step.
        vertex: VertexId,
        /// Its name.
        name: &'a str,
        /// The other process, if that is known.
        process: Option<u32>,
    },
    /// The store is larger than it may be, and everything in it is needed.
    OverCap {
        /// What it takes.
        bytes: u64,
        /// What it may take.
        max_bytes: u64,
    },
    /// A file of an image that should say which packages there are can't be read: the list is without them.
    Unlisted {
        /// The file's path in the image.
        path: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// A step goes on, but perhaps not as the user thinks.
    Notice {
        /// The step.
        vertex: VertexId,
        /// Its lines in the Dockerfile.
        lines: &'a [(u32, u32)],
        /// What it is.
        notice: Notice<'a>,
    },
}

/// What can be the matter with a shared cache.
#[derive(Clone, Copy, Debug)]
pub enum CacheTrouble<'a> {
    /// There is none yet.
    Missing,
    /// Another builder wrote it.
    Foreign,
    /// It could not be asked.
    Unread(&'a CacheError),
    /// A layer that it should have could not be had: what it made known has to be made anew.
    Lost(&'a WorkerError),
    /// It could not be written.
    Unwritten(&'a WorkerError),
}

/// What a step should be looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice<'a> {
    /// The image has no such user: as in BuildKit root is the owner.
    UnknownUser(&'a str),
    /// The image has no such group: as in BuildKit it is that of the user.
    UnknownGroup(&'a str),
    /// It failed while the store's disk was full: room was made there, and it runs once more.
    RunAgain,
}

/// Bytes of a blob that came in.
#[derive(Clone, Copy, Debug)]
pub struct Transfer<'a> {
    /// The blob.
    pub digest: &'a Digest,
    /// How many bytes are here.
    pub done_bytes: u64,
    /// How many there are.
    pub total_bytes: u64,
}

/// Takes in what happens and passes it on; keeps the end of each step's output.
pub struct ProgressSink<'a> {
    show: &'a (dyn Fn(Progress<'_>) + Sync),
    tails: Mutex<HashMap<VertexId, VecDeque<Vec<u8>>>>,
}

impl<'a> ProgressSink<'a> {
    /// A sink that passes everything to `show`.
    pub fn new(show: &'a (dyn Fn(Progress<'_>) + Sync)) -> ProgressSink<'a> {
        ProgressSink { show, tails: Mutex::default() }
    }

    pub(crate) fn send(&self, progress: Progress<'_>) {
        if let Progress::Log { vertex, line } = &progress {
            let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
            let tail = tails.entry(*vertex).or_default();
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(line.line.clone());
        }
        (self.show)(progress);
    }

    /// The last lines that a step wrote.
    pub(crate) fn tail(&self, vertex: VertexId) -> Vec<Vec<u8>> {
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        tails.remove(&vertex).map_or_else(Vec::new, |tail| tail.into_iter().collect())
    }
}

impl std::fmt::Debug for ProgressSink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProgressSink")
    }
}
