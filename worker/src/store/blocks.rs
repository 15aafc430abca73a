//! Takes blocks of compressed layers from the blobs that are here. It does not know how a layer is cut.

use super::content::Content;
use crate::meta::Meta;
use kiln_oci::Digest;
use kiln_snapshotter::compress::Blocks;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The blocks of all blobs of a store.
#[derive(Debug)]
pub(super) struct KnownBlocks {
    pub content: Arc<Content>,
    pub meta: Arc<Meta>,
}

impl Blocks for KnownBlocks {
    /// What went wrong, as with a blob that is gone or was damaged, is as if the block had never been.
    fn find(&self, key: &Digest, bytes: &mut Vec<u8>) -> bool {
        let Ok(Some((blob, block))) = self.meta.block(key) else { return false };
        let Ok(file) = self.content.blob(&blob) else { return false };
        bytes.clear();
        bytes.resize(block.bytes as usize, 0);
        file.read_exact_at(bytes, block.at).is_ok() && block.is(bytes)
    }
}
