//! What weighs layers and blobs: when they were used, what making them cost, what they take on disk. Nothing
//! that is asked here is leased. It does not know what is given up.

use super::{Meta, parsed};
use crate::WorkerError;
use crate::store::now_s;
use kiln_oci::{DiffId, Digest};
use kiln_snapshotter::SnapshotId;
use rusqlite::{Connection, Row, TransactionBehavior, params};

/// What version 2 adds: what made a layer, as its step is called.
pub(super) const SECOND: &str = "
ALTER TABLE layer ADD COLUMN made_by TEXT NOT NULL DEFAULT '';
";

/// A use is noted anew only if the last one is older, in seconds: an unchanged build writes nothing.
const NOTED_EVERY_S: i64 = 60;

/// A layer, with what it is weighed by.
#[derive(Clone, Debug)]
pub(crate) struct LayerUse {
    pub id: i64,
    pub diff_id: DiffId,
    pub snapshot: SnapshotId,
    pub used_s: i64,
    pub cost_ms: u64,
    /// 0 if nobody has measured it yet.
    pub disk_bytes: u64,
    pub made_by: String,
}

/// A blob of a layer.
#[derive(Clone, Debug)]
pub(crate) struct BlobUse {
    pub diff_id: DiffId,
    pub digest: Digest,
    /// Whether it is known where it can be had again.
    pub has_origin: bool,
}

impl Meta {
    /// All layers.
    pub fn layer_uses(&self) -> Result<Vec<LayerUse>, WorkerError> {
        let sql =
            "SELECT id, diff_id, snapshot, max(used_s, created_s), cost_ms, disk_bytes, made_by FROM layer";
        let read = |row: &Row<'_>| {
            let (diff_id, snapshot): (String, String) = (row.get(1)?, row.get(2)?);
            Ok(LayerUse {
                id: row.get(0)?,
                diff_id: DiffId(parsed(1, &diff_id)?),
                snapshot: parsed(2, &snapshot)?,
                used_s: row.get(3)?,
                cost_ms: row.get::<_, i64>(4)?.max(0) as u64,
                disk_bytes: row.get::<_, i64>(5)?.max(0) as u64,
                made_by: row.get(6)?,
            })
        };
        let connection = self.lock();
        let rows = connection.prepare_cached(sql).and_then(|mut s| s.query_map([], read)?.collect());
        rows.map_err(|e| self.fail(e))
    }

    /// The blobs of all layers.
    pub fn blob_uses(&self) -> Result<Vec<BlobUse>, WorkerError> {
        let sql = "SELECT b.diff_id, b.digest, o.diff_id IS NOT NULL AND b.form = 'pulled'
            FROM blob b LEFT JOIN origin o ON o.diff_id = b.diff_id";
        let read = |row: &Row<'_>| {
            let (diff_id, digest): (String, String) = (row.get(0)?, row.get(1)?);
            let (diff_id, digest) = (DiffId(parsed(0, &diff_id)?), parsed(1, &digest)?);
            Ok(BlobUse { diff_id, digest, has_origin: row.get(2)? })
        };
        let connection = self.lock();
        let rows = connection.prepare_cached(sql).and_then(|mut s| s.query_map([], read)?.collect());
        rows.map_err(|e| self.fail(e))
    }

    /// Notes what layers take on disk.
    pub fn set_disk_bytes(&self, measured: &[(i64, u64)]) -> Result<(), WorkerError> {
        self.written(|c| {
            let mut sql = c.prepare_cached("UPDATE layer SET disk_bytes = ?2 WHERE id = ?1")?;
            measured.iter().try_for_each(|(id, bytes)| sql.execute(params![id, *bytes as i64]).map(drop))
        })
    }

    /// Notes what made layers, and how long that took; of those that are older that is known already.
    pub fn set_cost(&self, layers: &[i64], cost_ms: u64, made_by: &str) -> Result<(), WorkerError> {
        let sql = "UPDATE layer SET cost_ms = ?2, made_by = ?3 WHERE id = ?1 AND made_by = ''";
        self.written(|c| {
            let mut sql = c.prepare_cached(sql)?;
            layers.iter().try_for_each(|id| sql.execute(params![id, cost_ms as i64, made_by]).map(drop))
        })
    }

    /// Notes that layers were used now, in one transaction; none if that was noted a moment ago.
    pub fn note_used(&self, layers: &[i64]) -> Result<(), WorkerError> {
        let now = now_s();
        let stale = |c: &Connection| -> rusqlite::Result<Vec<i64>> {
            // One from the future was noted by a clock that was wrong.
            let sql = "SELECT 1 FROM layer WHERE id = ?1 AND (used_s < ?2 OR used_s > ?3)";
            let mut sql = c.prepare_cached(sql)?;
            let mut all = Vec::new();
            for id in layers {
                if sql.exists(params![id, now - NOTED_EVERY_S, now])? {
                    all.push(*id);
                }
            }
            Ok(all)
        };
        let stale = stale(&self.lock()).map_err(|e| self.fail(e))?;
        if stale.is_empty() {
            return Ok(());
        }
        self.written(|c| {
            let mut sql = c.prepare_cached("UPDATE layer SET used_s = ?2 WHERE id = ?1")?;
            stale.iter().try_for_each(|id| sql.execute(params![id, now]).map(drop))
        })
    }

    /// Forgets layers and blobs, and what names these layers but records.
    pub fn forget(&self, layers: &[i64], blobs: &[Digest]) -> Result<(), WorkerError> {
        self.written(|c| {
            for table in ["DELETE FROM layer WHERE id", "DELETE FROM rebased WHERE layer"] {
                let mut sql = c.prepare_cached(&format!("{table} = ?1"))?;
                layers.iter().try_for_each(|id| sql.execute([id]).map(drop))?;
            }
            let mut sql = c.prepare_cached(
                "DELETE FROM blob WHERE digest = ?1
                AND NOT EXISTS (SELECT 1 FROM origin o WHERE o.diff_id = blob.diff_id AND form = 'pulled')",
            )?;
            blobs.iter().try_for_each(|digest| sql.execute([digest.to_string()]).map(drop))?;
            let mut sql = c.prepare_cached("DELETE FROM block WHERE blob = ?1")?;
            blobs.iter().try_for_each(|digest| sql.execute([digest.to_string()]).map(drop))
        })
    }

    /// Forgets what names layers that are gone; how many records those were.
    pub fn forget_dead_records(&self) -> Result<usize, WorkerError> {
        let mut count = 0;
        self.written(|c| {
            count = c.execute(
                "DELETE FROM record WHERE NOT json_valid(outputs) OR EXISTS (SELECT 1 FROM json_tree(outputs) j
                WHERE j.type = 'integer' AND j.value NOT IN (SELECT id FROM layer))",
                [],
            )?;
            for table in ["same", "rebased", "fetched"] {
                c.execute(&format!("DELETE FROM {table} WHERE layer NOT IN (SELECT id FROM layer)"), [])?;
            }
            Ok(())
        })?;
        Ok(count)
    }

    /// How many records name layers that are gone.
    pub fn dead_records(&self) -> Result<usize, WorkerError> {
        let sql = "SELECT count(*) FROM record WHERE NOT json_valid(outputs) OR EXISTS (SELECT 1 FROM json_tree(outputs) j
            WHERE j.type = 'integer' AND j.value NOT IN (SELECT id FROM layer))";
        let count = self.lock().query_row(sql, [], |row| row.get::<_, i64>(0));
        count.map(|n| n as usize).map_err(|e| self.fail(e))
    }

    /// What SQLite finds wrong with the database; nothing if it is whole.
    pub fn flaws(&self) -> Result<Vec<String>, WorkerError> {
        let connection = self.lock();
        let rows: rusqlite::Result<Vec<String>> = connection
            .prepare("PRAGMA quick_check")
            .and_then(|mut s| s.query_map([], |r| r.get(0))?.collect());
        Ok(match rows {
            Ok(rows) => rows.into_iter().filter(|line| line != "ok").collect(),
            Err(e) => vec![e.to_string()],
        })
    }

    pub(super) fn written(
        &self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<(), WorkerError> {
        let mut connection = self.lock();
        let result = connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|all| {
            write(&all)?;
            all.commit()
        });
        result.map_err(|e| self.fail(e))
    }
}
