//! Where blocks of compressed layers are that may be had again: in which blob, and where in it. It does not know
//! how a layer is cut into blocks.

use super::{Meta, parsed};
use crate::WorkerError;
use kiln_oci::Digest;
use kiln_snapshotter::compress::PackedBlock;
use rusqlite::{OptionalExtension, Row, params};

/// What version 3 adds. `begins` is a place in the blob and `bytes` a length, both in bytes; `crc` is of these bytes.
pub(super) const THIRD: &str = "
CREATE TABLE block (key BLOB PRIMARY KEY, blob TEXT NOT NULL, begins INTEGER NOT NULL, bytes INTEGER NOT NULL,
    crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX block_by_blob ON block (blob);
";

impl Meta {
    /// Notes blocks of a blob. What is in several is taken from the one that came last.
    pub fn add_blocks(&self, blob: &Digest, blocks: &[PackedBlock]) -> Result<(), WorkerError> {
        if blocks.is_empty() {
            return Ok(());
        }
        let blob = blob.to_string();
        self.written(|c| {
            let sql =
                "INSERT OR REPLACE INTO block (key, blob, begins, bytes, crc) VALUES (?1, ?2, ?3, ?4, ?5)";
            let mut sql = c.prepare_cached(sql)?;
            for PackedBlock { key, at, bytes, check } in blocks {
                sql.execute(params![&key.as_bytes()[..], blob, *at as i64, bytes, check])?;
            }
            Ok(())
        })
    }

    /// The blob in which a block is, and where.
    pub fn block(&self, key: &Digest) -> Result<Option<(Digest, PackedBlock)>, WorkerError> {
        let read = |row: &Row<'_>| {
            let (blob, at): (String, i64) = (row.get(0)?, row.get(1)?);
            let block = PackedBlock { key: *key, at: at as u64, bytes: row.get(2)?, check: row.get(3)? };
            Ok((parsed(0, &blob)?, block))
        };
        let connection = self.lock();
        let row = connection
            .prepare_cached("SELECT blob, begins, bytes, crc FROM block WHERE key = ?1")
            .and_then(|mut s| s.query_row([&key.as_bytes()[..]], read).optional());
        row.map_err(|e| self.fail(e))
    }
}
