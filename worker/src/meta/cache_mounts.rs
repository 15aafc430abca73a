//! What is known of cache mounts besides their files: ids, what they begin with, when they were used, and which
//! pieces files became when they were packed. It does not know where the files are.

use super::{Meta, parsed};
use crate::WorkerError;
use crate::store::now_s;
use kiln_oci::Digest;
use rusqlite::{OptionalExtension, Row, params};

/// What version 2 adds. `imported` is the manifest that a cache came from, until a step uses it.
pub(super) const SECOND: &str = "
CREATE TABLE cache_mount (name TEXT PRIMARY KEY, id TEXT NOT NULL, begins TEXT NOT NULL, used_s INTEGER NOT NULL,
    imported TEXT) WITHOUT ROWID;
CREATE TABLE packed (content TEXT PRIMARY KEY, pieces TEXT NOT NULL) WITHOUT ROWID;
";

/// A cache mount of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CacheMountRow {
    /// What its folder is called.
    pub name: String,
    /// Its id, as steps have it: behind a namespace and a slash.
    pub id: String,
    /// What it began with: content and path; empty for an empty folder.
    pub begins: String,
    /// When a step used it last, or it was brought in, in seconds since 1970.
    pub used_s: i64,
    /// The manifest that all of it came from, if no step used it since.
    pub imported: Option<Digest>,
}

impl Meta {
    /// Notes that a step uses a cache mount now.
    pub fn use_cache_mount(&self, name: &str, id: &str, begins: &str) -> Result<(), WorkerError> {
        self.set_cache_mount(name, id, begins, None)
    }

    /// Notes a cache mount, and the manifest that all of it came from.
    pub fn set_cache_mount(
        &self,
        name: &str,
        id: &str,
        begins: &str,
        imported: Option<&Digest>,
    ) -> Result<(), WorkerError> {
        let sql = "INSERT OR REPLACE INTO cache_mount (name, id, begins, used_s, imported)
            VALUES (?1, ?2, ?3, ?4, ?5)";
        let values = params![name, id, begins, now_s(), imported.map(Digest::to_string)];
        self.lock().execute(sql, values).map(drop).map_err(|e| self.fail(e))
    }

    /// What is known of cache mounts, by id.
    pub fn cache_mounts(&self) -> Result<Vec<CacheMountRow>, WorkerError> {
        let sql = "SELECT name, id, begins, used_s, imported FROM cache_mount ORDER BY id, name";
        let connection = self.lock();
        let mut statement = connection.prepare_cached(sql).map_err(|e| self.fail(e))?;
        let rows = statement.query_map([], cache_mount).and_then(Iterator::collect);
        rows.map_err(|e| self.fail(e))
    }

    /// What is known of one cache mount.
    pub fn cache_mount(&self, name: &str) -> Result<Option<CacheMountRow>, WorkerError> {
        let sql = "SELECT name, id, begins, used_s, imported FROM cache_mount WHERE name = ?1";
        self.lock().query_row(sql, [name], cache_mount).optional().map_err(|e| self.fail(e))
    }

    /// Forgets a cache mount.
    pub fn forget_cache_mount(&self, name: &str) -> Result<(), WorkerError> {
        let sql = "DELETE FROM cache_mount WHERE name = ?1";
        self.lock().execute(sql, [name]).map(drop).map_err(|e| self.fail(e))
    }

    /// What some content became when it was packed, as [`Meta::set_packed`] noted it.
    pub fn packed(&self, content: &Digest) -> Result<Option<String>, WorkerError> {
        let sql = "SELECT pieces FROM packed WHERE content = ?1";
        let connection = self.lock();
        let found = connection.prepare_cached(sql);
        let found = found.and_then(|mut s| s.query_row([content.to_string()], |r| r.get(0)).optional());
        found.map_err(|e| self.fail(e))
    }

    /// Notes what contents became when they were packed.
    pub fn set_packed(&self, all: &[(Digest, String)]) -> Result<(), WorkerError> {
        let mut connection = self.lock();
        let result = (|| {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for (content, pieces) in all {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO packed (content, pieces) VALUES (?1, ?2)")?
                    .execute(params![content.to_string(), pieces])?;
            }
            transaction.commit()
        })();
        result.map_err(|e| self.fail(e))
    }
}

fn cache_mount(row: &Row<'_>) -> rusqlite::Result<CacheMountRow> {
    let imported: Option<String> = row.get(4)?;
    Ok(CacheMountRow {
        name: row.get(0)?,
        id: row.get(1)?,
        begins: row.get(2)?,
        used_s: row.get(3)?,
        imported: imported.map(|text| parsed(4, &text)).transpose()?,
    })
}
