//! What is remembered of files outside of the store: digests of folders' files, what the web gave for an address.
//! It does not know what they are for.

use super::{Meta, parsed};
use crate::WorkerError;
use kiln_oci::Digest;
use rusqlite::{OptionalExtension, Row, params};

/// What the web gave for an address.
#[derive(Clone, Debug)]
pub(crate) struct FetchedRow {
    pub etag: Option<String>,
    pub modified: Option<String>,
    pub digest: Digest,
    pub name: String,
    pub layer: i64,
}

impl Meta {
    /// The remembered digests of a folder's files.
    pub fn memo(&self, folder: &str) -> Result<Option<Vec<u8>>, WorkerError> {
        let sql = "SELECT entries FROM memo WHERE folder = ?1";
        self.lock().query_row(sql, [folder], |r| r.get(0)).optional().map_err(|e| self.fail(e))
    }

    /// Remembers the digests of a folder's files.
    pub fn set_memo(&self, folder: &str, entries: &[u8]) -> Result<(), WorkerError> {
        let sql = "INSERT OR REPLACE INTO memo (folder, entries) VALUES (?1, ?2)";
        self.lock().execute(sql, params![folder, entries]).map(drop).map_err(|e| self.fail(e))
    }

    /// Forgets the digests of a folder's files.
    pub fn forget_memo(&self, folder: &str) -> Result<(), WorkerError> {
        let sql = "DELETE FROM memo WHERE folder = ?1";
        self.lock().execute(sql, [folder]).map(drop).map_err(|e| self.fail(e))
    }

    /// What the web gave for an address the last time.
    pub fn fetched(&self, address: &str) -> Result<Option<FetchedRow>, WorkerError> {
        let sql = "SELECT etag, modified, digest, name, layer FROM fetched WHERE address = ?1";
        let read = |row: &Row<'_>| {
            let digest: String = row.get(2)?;
            let digest = parsed(2, &digest)?;
            Ok(FetchedRow {
                etag: row.get(0)?,
                modified: row.get(1)?,
                digest,
                name: row.get(3)?,
                layer: row.get(4)?,
            })
        };
        self.lock().query_row(sql, [address], read).optional().map_err(|e| self.fail(e))
    }

    /// Notes what the web gave for an address.
    pub fn set_fetched(&self, address: &str, row: &FetchedRow) -> Result<(), WorkerError> {
        let sql = "INSERT OR REPLACE INTO fetched (address, etag, modified, digest, name, layer)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let values = params![address, row.etag, row.modified, row.digest.to_string(), row.name, row.layer];
        self.lock().execute(sql, values).map(drop).map_err(|e| self.fail(e))
    }
}
