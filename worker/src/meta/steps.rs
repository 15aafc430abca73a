//! What is kept to explain a later build: of each step its inputs, of each selection of files what it holds, and
//! which steps a Dockerfile had the last time. It does not know what any of it says.

use super::Meta;
use crate::WorkerError;
use crate::store::now_s;
use kiln_oci::Digest;
use kiln_solver::CacheKey;
use rusqlite::{OptionalExtension, Row, TransactionBehavior, params};

/// What version 2 adds. The highest numbers are the newest rows.
pub(super) const SECOND: &str = "
CREATE TABLE step (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, text TEXT NOT NULL, made_s INTEGER NOT NULL,
    inputs TEXT NOT NULL);
CREATE INDEX step_by_text ON step (text);
CREATE TABLE selection (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, bytes INTEGER NOT NULL, entries BLOB NOT NULL);
CREATE TABLE place (name TEXT PRIMARY KEY, used_s INTEGER NOT NULL, steps TEXT NOT NULL) WITHOUT ROWID;
";

/// How many steps are remembered.
const STEPS_MAX: i64 = 5_000;
/// How many bytes the selections of files have together.
const SELECTION_BYTES_MAX: u64 = 32 << 20;
/// How many Dockerfiles are remembered.
const PLACES_MAX: i64 = 200;

/// A step that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StepRow {
    /// Its key by how it is made.
    pub key: CacheKey,
    /// What it is called, without its number.
    pub text: String,
    /// When it was made, in seconds since 1970.
    pub made_s: i64,
    /// Its inputs.
    pub inputs: String,
}

/// All that a build adds.
#[derive(Debug, Default)]
pub(crate) struct NewSteps {
    pub steps: Vec<StepRow>,
    /// Selections: the digest of each and what it holds.
    pub selections: Vec<(Digest, Vec<u8>)>,
    /// The name of the Dockerfile and its steps.
    pub place: Option<(String, String)>,
}

impl Meta {
    /// A step by its key.
    pub fn step(&self, key: &CacheKey) -> Result<Option<StepRow>, WorkerError> {
        let sql = "SELECT key, text, made_s, inputs FROM step WHERE key = ?1";
        let connection = self.lock();
        let row = connection
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row([key.0.as_bytes()], step_row).optional());
        row.map_err(|e| self.fail(e))
    }

    /// The newest steps that are called so.
    pub fn steps_called(&self, text: &str, most: usize) -> Result<Vec<StepRow>, WorkerError> {
        let sql = "SELECT key, text, made_s, inputs FROM step WHERE text = ?1 ORDER BY id DESC LIMIT ?2";
        let connection = self.lock();
        let rows = connection
            .prepare_cached(sql)
            .and_then(|mut s| s.query_map(params![text, most as i64], step_row)?.collect());
        rows.map_err(|e| self.fail(e))
    }

    /// Whether a selection is kept.
    pub fn has_selection(&self, digest: &Digest) -> Result<bool, WorkerError> {
        let sql = "SELECT 1 FROM selection WHERE digest = ?1";
        let connection = self.lock();
        let row = connection
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row([digest.as_bytes()], |_| Ok(())).optional());
        row.map(|row| row.is_some()).map_err(|e| self.fail(e))
    }

    /// What a selection holds.
    pub fn selection(&self, digest: &Digest) -> Result<Option<Vec<u8>>, WorkerError> {
        let sql = "SELECT entries FROM selection WHERE digest = ?1";
        self.lock().query_row(sql, [digest.as_bytes()], |r| r.get(0)).optional().map_err(|e| self.fail(e))
    }

    /// The steps that a Dockerfile had the last time.
    pub fn place(&self, name: &str) -> Result<Option<String>, WorkerError> {
        let sql = "SELECT steps FROM place WHERE name = ?1";
        self.lock().query_row(sql, [name], |r| r.get(0)).optional().map_err(|e| self.fail(e))
    }

    /// When a step's record was made, in seconds since 1970.
    pub fn made_s(&self, key: &CacheKey) -> Result<Option<i64>, WorkerError> {
        let sql = "SELECT made_s FROM record WHERE key = ?1";
        let connection = self.lock();
        let row = connection
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row([key.0.as_bytes()], |r| r.get(0)).optional());
        row.map_err(|e| self.fail(e))
    }

    /// Keeps what a build adds, and lets go of what is too old.
    pub fn keep_steps(&self, new: &NewSteps) -> Result<(), WorkerError> {
        let mut connection = self.lock();
        let result = (|| {
            let all = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for StepRow { key, text, made_s, inputs } in &new.steps {
                let sql = "INSERT OR REPLACE INTO step (key, text, made_s, inputs) VALUES (?1, ?2, ?3, ?4)";
                all.prepare_cached(sql)?.execute(params![key.0.as_bytes(), text, made_s, inputs])?;
            }
            for (digest, entries) in &new.selections {
                let sql = "INSERT OR REPLACE INTO selection (digest, bytes, entries) VALUES (?1, ?2, ?3)";
                all.execute(sql, params![digest.as_bytes(), entries.len() as i64, entries])?;
            }
            if let Some((name, steps)) = &new.place {
                let sql = "INSERT OR REPLACE INTO place (name, used_s, steps) VALUES (?1, ?2, ?3)";
                all.execute(sql, params![name, now_s(), steps])?;
                let old = "DELETE FROM place WHERE name IN (SELECT name FROM place ORDER BY used_s DESC LIMIT -1 OFFSET ?1)";
                all.execute(old, [PLACES_MAX])?;
            }
            all.execute("DELETE FROM step WHERE id <= (SELECT max(id) FROM step) - ?1", [STEPS_MAX])?;
            if !new.selections.is_empty() {
                forget_old_selections(&all)?;
            }
            all.commit()
        })();
        result.map_err(|e| self.fail(e))
    }

    /// Lets go of a layer whose files are gone.
    pub fn forget_layer(&self, id: i64) -> Result<(), WorkerError> {
        self.lock().execute("DELETE FROM layer WHERE id = ?1", [id]).map(drop).map_err(|e| self.fail(e))
    }
}

/// Removes the oldest selections, those that are more than may be kept.
fn forget_old_selections(connection: &rusqlite::Connection) -> rusqlite::Result<()> {
    let mut query = connection.prepare("SELECT id, bytes FROM selection ORDER BY id DESC")?;
    let mut rows = query.query([])?;
    let mut kept_bytes = 0_u64;
    while let Some(row) = rows.next()? {
        kept_bytes += row.get::<_, i64>(1)?.unsigned_abs();
        if kept_bytes > SELECTION_BYTES_MAX {
            let sql = "DELETE FROM selection WHERE id <= ?1";
            return connection.execute(sql, [row.get::<_, i64>(0)?]).map(drop);
        }
    }
    Ok(())
}

fn step_row(row: &Row<'_>) -> rusqlite::Result<StepRow> {
    let key: [u8; 32] = row.get(0)?;
    Ok(StepRow {
        key: CacheKey(Digest::from_bytes(key)),
        text: row.get(1)?,
        made_s: row.get(2)?,
        inputs: row.get(3)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: usize) -> Digest {
        Digest::of(&n.to_be_bytes())
    }

    fn step(n: usize, text: &str) -> StepRow {
        StepRow { key: CacheKey(digest(n)), text: text.to_owned(), made_s: n as i64, inputs: n.to_string() }
    }

    #[test]
    fn steps_are_found_by_key_and_by_what_they_are_called() -> Result<(), WorkerError> {
        let folder = tempfile::tempdir().map_err(WorkerError::io("create", "temp"))?;
        let meta = Meta::open(&folder.path().join("meta.db"))?;
        let steps = vec![step(1, "RUN a"), step(2, "RUN b"), step(3, "RUN a")];
        let place = Some(("here".to_owned(), "three".to_owned()));
        meta.keep_steps(&NewSteps { steps, place, ..NewSteps::default() })?;
        assert_eq!(meta.step(&CacheKey(digest(2)))?, Some(step(2, "RUN b")));
        assert_eq!(meta.steps_called("RUN a", 9)?, [step(3, "RUN a"), step(1, "RUN a")]);
        assert_eq!(meta.steps_called("RUN a", 1)?, [step(3, "RUN a")]);
        assert_eq!((meta.place("here")?.as_deref(), meta.place("there")?), (Some("three"), None));
        Ok(())
    }

    #[test]
    fn only_the_newest_are_kept() -> Result<(), WorkerError> {
        let folder = tempfile::tempdir().map_err(WorkerError::io("create", "temp"))?;
        let meta = Meta::open(&folder.path().join("meta.db"))?;
        let steps = (0..STEPS_MAX as usize + 10).map(|n| step(n, "RUN a")).collect();
        let mib = |n: usize| (digest(n), vec![0_u8; 1 << 20]);
        let selections = (0..40).map(mib).collect();
        meta.keep_steps(&NewSteps { steps, selections, place: None })?;
        assert!(meta.step(&CacheKey(digest(9)))?.is_none() && meta.step(&CacheKey(digest(10)))?.is_some());
        assert!(!meta.has_selection(&digest(7))? && meta.has_selection(&digest(8))?);
        assert_eq!(meta.selection(&digest(39))?.map(|entries| entries.len()), Some(1 << 20));
        Ok(())
    }
}
