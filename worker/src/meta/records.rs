//! What steps made: by the key of each, and by what commands made before. It does not know what a key means.

use super::Meta;
use crate::WorkerError;
use crate::store::now_s;
use kiln_oci::Digest;
use kiln_solver::CacheKey;
use rusqlite::{OptionalExtension, params};

/// What version 2 adds: when a record was made, in seconds since 1970; the content of what its step was built
/// on, empty where that is not known.
pub(super) const SECOND: &str = "
ALTER TABLE record ADD COLUMN made_s INTEGER NOT NULL DEFAULT 0;
CREATE INDEX IF NOT EXISTS record_by_outputs ON record (outputs);
ALTER TABLE record ADD COLUMN laid_on BLOB NOT NULL DEFAULT x'';
";

/// What is known under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordRow {
    /// What a step added to each of its outputs: numbers of layers.
    pub outputs: Vec<Vec<i64>>,
    /// When it was made, in seconds since 1970.
    pub made_s: i64,
    /// The content of what the step was built on, if that is known.
    pub laid_on: Option<Digest>,
}

impl Meta {
    /// What a step added to each of its outputs: numbers of layers.
    pub fn record(&self, key: &CacheKey) -> Result<Option<Vec<Vec<i64>>>, WorkerError> {
        let sql = "SELECT outputs FROM record WHERE key = ?1";
        let connection = self.lock();
        let row: Result<Option<String>, _> = connection
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row([key.0.as_bytes()], |r| r.get(0)).optional());
        let text = row.map_err(|e| self.fail(e))?;
        // A record that can't be read is as good as none.
        Ok(text.and_then(|t| serde_json::from_str(&t).ok()))
    }

    /// A record with all that is known of it.
    pub fn record_row(&self, key: &CacheKey) -> Result<Option<RecordRow>, WorkerError> {
        let sql = "SELECT outputs, made_s, laid_on FROM record WHERE key = ?1";
        let connection = self.lock();
        let read = |row: &rusqlite::Row<'_>| {
            let outputs: String = row.get(0)?;
            let laid_on: Vec<u8> = row.get(2)?;
            let laid_on = laid_on.try_into().ok().map(Digest::from_bytes);
            // A record that can't be read is as good as none.
            let outputs = serde_json::from_str(&outputs).ok();
            let made_s = row.get(1)?;
            Ok(outputs.map(|outputs| RecordRow { outputs, made_s, laid_on }))
        };
        let row =
            connection.prepare_cached(sql).and_then(|mut s| s.query_row([key.0.as_bytes()], read).optional());
        Ok(row.map_err(|e| self.fail(e))?.flatten())
    }

    /// The keys under which just these outputs are known.
    pub fn keys_of(&self, outputs: &[Vec<i64>]) -> Result<Vec<CacheKey>, WorkerError> {
        let text = serde_json::json!(outputs).to_string();
        let connection = self.lock();
        let read = |row: &rusqlite::Row<'_>| row.get::<_, [u8; 32]>(0);
        let rows: Result<Vec<[u8; 32]>, _> = connection
            .prepare_cached("SELECT key FROM record WHERE outputs = ?1")
            .and_then(|mut s| s.query_map([text], read)?.collect());
        let keys = rows.map_err(|e| self.fail(e))?;
        Ok(keys.into_iter().map(|key| CacheKey(Digest::from_bytes(key))).collect())
    }

    /// When a record was made, in seconds since 1970.
    pub fn record_made_s(&self, key: &CacheKey) -> Result<Option<i64>, WorkerError> {
        let sql = "SELECT made_s FROM record WHERE key = ?1";
        self.lock().query_row(sql, [key.0.as_bytes()], |r| r.get(0)).optional().map_err(|e| self.fail(e))
    }

    /// Lets what is known under a key be known under one more. It stays as old as it is.
    pub fn alias_record(&self, key: &CacheKey, alias: &CacheKey) -> Result<(), WorkerError> {
        let sql = "INSERT OR REPLACE INTO record (key, outputs, made_s, laid_on) \
                   SELECT ?2, outputs, made_s, laid_on FROM record WHERE key = ?1";
        let values = [key.0.as_bytes(), alias.0.as_bytes()];
        self.lock().execute(sql, values).map(drop).map_err(|e| self.fail(e))
    }

    /// Notes what a step added, under all its keys.
    pub fn add_record(&self, keys: &[CacheKey], outputs: &[Vec<i64>]) -> Result<(), WorkerError> {
        let text = serde_json::json!(outputs).to_string();
        let mut connection = self.lock();
        let result = (|| {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for key in keys {
                transaction
                    .prepare_cached(
                        "INSERT OR REPLACE INTO record (key, outputs, made_s) VALUES (?1, ?2, ?3)",
                    )?
                    .execute(params![key.0.as_bytes(), text, now_s()])?;
            }
            transaction.commit()
        })();
        result.map_err(|e| self.fail(e))
    }

    /// The content of what a record's step was built on, if it is known.
    pub fn laid_on(&self, key: &CacheKey) -> Result<Option<Digest>, WorkerError> {
        let sql = "SELECT laid_on FROM record WHERE key = ?1 AND laid_on <> x''";
        let read = |row: &rusqlite::Row<'_>| row.get::<_, [u8; 32]>(0);
        let found = self.lock().query_row(sql, [key.0.as_bytes()], read).optional();
        found.map(|bytes| bytes.map(Digest::from_bytes)).map_err(|e| self.fail(e))
    }

    /// Notes the content of what the step of some records was built on.
    pub fn set_laid_on(&self, keys: &[CacheKey], content: &Digest) -> Result<(), WorkerError> {
        let connection = self.lock();
        for key in keys {
            connection
                .prepare_cached("UPDATE record SET laid_on = ?2 WHERE key = ?1")
                .and_then(|mut s| s.execute(params![key.0.as_bytes(), content.as_bytes()]))
                .map_err(|e| self.fail(e))?;
        }
        Ok(())
    }

    /// The layer that a command made before, if it had this content.
    pub fn same(&self, op: &CacheKey, content: &Digest) -> Result<Option<i64>, WorkerError> {
        let sql = "SELECT layer FROM same WHERE op = ?1 AND content = ?2";
        let values = params![op.0.as_bytes(), content.to_string()];
        self.lock().query_row(sql, values, |r| r.get(0)).optional().map_err(|e| self.fail(e))
    }

    /// The layer that a command made last.
    pub fn last_made(&self, op: &CacheKey) -> Result<Option<i64>, WorkerError> {
        let sql = "SELECT max(layer) FROM same WHERE op = ?1";
        self.lock().query_row(sql, [op.0.as_bytes()], |r| r.get(0)).map_err(|e| self.fail(e))
    }

    /// Notes the layer that a command made.
    pub fn add_same(&self, op: &CacheKey, content: &Digest, layer: i64) -> Result<(), WorkerError> {
        let sql = "INSERT OR REPLACE INTO same (op, content, layer) VALUES (?1, ?2, ?3)";
        let values = params![op.0.as_bytes(), content.to_string(), layer];
        self.lock().execute(sql, values).map(drop).map_err(|e| self.fail(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_under_all_its_keys() -> Result<(), WorkerError> {
        let folder = tempfile::tempdir().map_err(WorkerError::io("create", "temp"))?;
        let meta = Meta::open(&folder.path().join("meta.db"))?;
        let keys = [CacheKey(Digest::of(b"a")), CacheKey(Digest::of(b"b"))];
        meta.add_record(&keys, &[vec![1, 2], vec![]])?;
        assert_eq!(meta.record(&keys[1])?, Some(vec![vec![1, 2], vec![]]));
        let other = CacheKey(Digest::of(b"c"));
        assert_eq!(meta.record(&other)?, None);
        meta.lock().execute("UPDATE record SET made_s = 7", []).map_err(|e| meta.fail(e))?;
        meta.alias_record(&keys[0], &other)?;
        assert_eq!(meta.record(&other)?, Some(vec![vec![1, 2], vec![]]));
        assert_eq!(meta.record_made_s(&other)?, Some(7), "one more key makes it no younger");
        Ok(())
    }
}
