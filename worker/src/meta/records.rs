//! What steps made: by the key of each, and by what commands made before. It does not know what a key means.

use super::Meta;
use crate::WorkerError;
use crate::store::now_s;
use kiln_oci::Digest;
use kiln_solver::CacheKey;
use rusqlite::{OptionalExtension, params};

/// What version 2 adds: when a record was made, in seconds since 1970.
pub(super) const SECOND: &str = "
ALTER TABLE record ADD COLUMN made_s INTEGER NOT NULL DEFAULT 0;
";

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
        assert_eq!(meta.record(&CacheKey(Digest::of(b"c")))?, None);
        Ok(())
    }
}
