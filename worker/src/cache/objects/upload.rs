//! Writes one blob: in one piece where it is small, else in parts, so that memory does not grow with it.
//! It does not know which store it is.

use super::{ObjectPlace, io_error};
use crate::cache::CacheError;
use crate::cache::place::OpenBlob;
use kiln_oci::Descriptor;
use object_store::path::Path as Key;
use object_store::{MultipartUpload, PutMultipartOptions, PutPayload};
use std::fs::File;
use std::io::Read;
use std::time::Duration;
use tokio::task::JoinSet;

/// The smallest part, and what is written in one piece. S3 takes none below 5 MiB but as the last.
const PART_BYTES: u64 = 8 << 20;
/// S3 takes 10,000 parts.
const PARTS_MAX: u64 = 9_000;
/// How many parts of a blob are on their way at once.
const PARTS_AT_ONCE: usize = 2;
/// How long it may take to say that an upload is given up.
const ABORT_MAX: Duration = Duration::from_millis(500);

impl ObjectPlace {
    pub(super) fn upload(&self, key: &Key, blob: &Descriptor, open: OpenBlob<'_>) -> Result<(), CacheError> {
        let mut file = open().map_err(io_error("open", blob))?;
        if blob.size <= PART_BYTES {
            let bytes = piece(&mut file, blob, PART_BYTES + 1)?;
            return self.wait(self.put(key, bytes));
        }
        let mut upload = self.wait(self.begin(key))?;
        let sent = self.wait(self.send(key, blob, &mut file, upload.as_mut()));
        if sent.is_err() {
            // Parts cost money until they are removed; but nobody waits long for that.
            let _ = self
                .waiting
                .runtime
                .block_on(async { tokio::time::timeout(ABORT_MAX, upload.abort()).await });
        }
        sent
    }

    async fn begin(&self, key: &Key) -> Result<Box<dyn MultipartUpload>, CacheError> {
        let options = PutMultipartOptions::default();
        let upload = self.stores.writing.put_multipart_opts(key, options).await;
        upload.map_err(|error| self.failed("POST", key, &error))
    }

    async fn send(
        &self,
        key: &Key,
        blob: &Descriptor,
        file: &mut File,
        upload: &mut dyn MultipartUpload,
    ) -> Result<(), CacheError> {
        let size = PART_BYTES.max(blob.size.div_ceil(PARTS_MAX));
        let mut parts = JoinSet::new();
        loop {
            let bytes = piece(file, blob, size)?;
            if bytes.is_empty() {
                break;
            }
            parts.spawn(upload.put_part(PutPayload::from(bytes)));
            if parts.len() >= PARTS_AT_ONCE {
                self.one_sent(key, &mut parts).await?;
            }
        }
        while !parts.is_empty() {
            self.one_sent(key, &mut parts).await?;
        }
        upload.complete().await.map(drop).map_err(|error| self.failed("POST", key, &error))
    }

    async fn one_sent(
        &self,
        key: &Key,
        parts: &mut JoinSet<object_store::Result<()>>,
    ) -> Result<(), CacheError> {
        match parts.join_next().await {
            Some(Ok(Err(error))) => Err(self.failed("PUT", key, &error)),
            Some(Err(error)) => Err(self.failed("PUT", key, &error)),
            Some(Ok(Ok(()))) | None => Ok(()),
        }
    }
}

/// The next bytes of a file: fewer than asked for only at its end.
fn piece(file: &mut File, blob: &Descriptor, size: u64) -> Result<Vec<u8>, CacheError> {
    let mut bytes = Vec::with_capacity(size.min(blob.size) as usize);
    file.take(size).read_to_end(&mut bytes).map_err(io_error("read", blob))?;
    Ok(bytes)
}
