//! Layers as tar streams: a deterministic writer, a strict reader, and the recognition of archives.
//! It does not know file systems, whiteouts or digests.

mod entry;
mod header;
mod pax;
pub mod reader;
pub mod sniff;
mod sparse;
pub mod writer;

pub use entry::{Entry, EntryKind, OwnedEntry, OwnedKind};
pub use reader::{ArchiveError, LayerReader};
pub use sparse::Segment;
pub use writer::LayerWriter;

#[cfg(test)]
mod tests;
