//! What names that move stood for when they were last asked for: tags of images, branches of repositories.
//! It does not know who was asked.

use super::Meta;
use crate::WorkerError;
use crate::store::now_s;
use rusqlite::{OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What version 2 adds. The documents that an answer leads to are in the content store, or no longer.
pub(super) const SECOND: &str = "
CREATE TABLE IF NOT EXISTS resolved (name TEXT PRIMARY KEY, answer TEXT NOT NULL, asked_s INTEGER NOT NULL)
    WITHOUT ROWID;
";

impl Meta {
    /// What a name stood for, and when it was asked for, in seconds since 1970.
    pub fn resolved<T: DeserializeOwned>(&self, name: &str) -> Result<Option<(T, i64)>, WorkerError> {
        let sql = "SELECT answer, asked_s FROM resolved WHERE name = ?1";
        let row = self.lock().query_row(sql, [name], |r| Ok((r.get::<_, String>(0)?, r.get(1)?))).optional();
        // An answer that can't be read is as good as none.
        let read = |(answer, asked_s): (String, i64)| Some((serde_json::from_str(&answer).ok()?, asked_s));
        Ok(row.map_err(|e| self.fail(e))?.and_then(read))
    }

    /// Remembers what a name stands for now.
    pub fn set_resolved<T: Serialize>(&self, name: &str, answer: &T) -> Result<(), WorkerError> {
        let sql = "INSERT OR REPLACE INTO resolved (name, answer, asked_s) VALUES (?1, ?2, ?3)";
        let answer = serde_json::json!(answer).to_string();
        self.lock().execute(sql, params![name, answer, now_s()]).map(drop).map_err(|e| self.fail(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_counts_and_one_that_cannot_be_read_is_none() -> Result<(), WorkerError> {
        let folder = tempfile::tempdir().map_err(WorkerError::io("create", "temp"))?;
        let meta = Meta::open(&folder.path().join("meta.db"))?;
        assert_eq!(meta.resolved::<String>("x")?, None);
        meta.set_resolved("x", &"old")?;
        meta.set_resolved("x", &"new")?;
        let (answer, asked_s) = meta.resolved::<String>("x")?.unwrap_or_default();
        assert!(answer == "new" && (now_s() - asked_s) < 60, "{answer} {asked_s}");
        assert_eq!(meta.resolved::<u32>("x")?, None);
        Ok(())
    }
}
