//! What layers the store has: unpacked, as blobs, or only known to be had from somewhere. It does not know who
//! needs them.

use super::{Meta, parsed};
use crate::WorkerError;
use crate::lease::Leased;
use crate::store::now_s;
use kiln_oci::{Descriptor, DiffId, MediaType};
use kiln_snapshotter::{Committed, SnapshotId};
use kiln_solver::ContentId;
use rusqlite::{OptionalExtension, Row, params};
use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};

/// What version 2 adds: when a layer was last used, in seconds since 1970; how long making it took, in
/// milliseconds; what it takes on disk, in bytes.
pub(super) const SECOND: &str = "
ALTER TABLE layer ADD COLUMN used_s INTEGER NOT NULL DEFAULT 0;
ALTER TABLE layer ADD COLUMN cost_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE layer ADD COLUMN disk_bytes INTEGER NOT NULL DEFAULT 0;
";

/// A layer that is unpacked in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerRow {
    /// Its number in the store.
    pub id: i64,
    /// The digest of its tar.
    pub diff_id: DiffId,
    /// Where it is unpacked.
    pub snapshot: SnapshotId,
    /// What it holds.
    pub content: ContentId,
    /// The size of its tar.
    pub tar_bytes: u64,
    /// When it was made, in seconds since 1970.
    pub created_s: i64,
}

impl LayerRow {
    /// A layer that is unpacked now, without a number yet.
    pub fn of(committed: &Committed) -> LayerRow {
        LayerRow {
            id: 0,
            diff_id: committed.diff_id,
            snapshot: committed.id,
            content: ContentId(committed.content),
            tar_bytes: committed.tar_bytes,
            created_s: now_s(),
        }
    }
}

impl Meta {
    /// Notes a layer that was made or unpacked, and leases it.
    pub fn add_layer(&self, row: &LayerRow) -> Result<i64, WorkerError> {
        match &self.leases {
            Some(leases) => leases.make(|| self.insert_layer(row), |id| Leased::Layer(*id)),
            None => self.insert_layer(row),
        }
    }

    fn insert_layer(&self, row: &LayerRow) -> Result<i64, WorkerError> {
        let connection = self.lock();
        let sql = "INSERT INTO layer (id, diff_id, snapshot, content, tar_bytes, created_s, unsynced, used_s)
            VALUES (?7, ?1, ?2, ?3, ?4, ?5, ?6, ?8)";
        // Not the next number: that of a layer which is gone may stand in a record still.
        let id = (RandomState::new().build_hasher().finish() >> 2) as i64 + 1;
        let values = params![
            row.diff_id.to_string(),
            row.snapshot.to_string(),
            row.content.0.to_string(),
            row.tar_bytes as i64,
            row.created_s,
            self.boot,
            id,
            now_s()
        ];
        connection.prepare_cached(sql).and_then(|mut s| s.insert(values)).map_err(|e| self.fail(e))
    }

    /// Notes that all layers of this boot are on disk now.
    pub fn mark_synced(&self) -> Result<(), WorkerError> {
        let sql = "UPDATE layer SET unsynced = NULL WHERE unsynced = ?1";
        self.lock().execute(sql, [&self.boot]).map(drop).map_err(|e| self.fail(e))
    }

    /// A layer by its number. If it is here it is leased: it stays until this process ends.
    pub fn layer(&self, id: i64) -> Result<Option<LayerRow>, WorkerError> {
        match &self.leases {
            Some(leases) => leases.take(Leased::Layer(id), || self.row_of(id)),
            None => self.row_of(id),
        }
    }

    fn row_of(&self, id: i64) -> Result<Option<LayerRow>, WorkerError> {
        let sql = "SELECT id, diff_id, snapshot, content, tar_bytes, created_s FROM layer
            WHERE id = ?1 AND (unsynced IS NULL OR unsynced = ?2)";
        let connection = self.lock();
        let row = connection
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row(params![id, self.boot], layer_row).optional());
        row.map_err(|e| self.fail(e))
    }

    /// An unpacked layer by its tar's digest: one that depends on nothing below it, or on just `below`.
    pub fn layer_of(&self, diff_id: &DiffId, below: &str) -> Result<Option<LayerRow>, WorkerError> {
        let sql = "SELECT id, diff_id, snapshot, content, tar_bytes, created_s FROM layer
            WHERE diff_id = ?1 AND (unsynced IS NULL OR unsynced = ?3) AND id NOT IN (SELECT layer FROM rebased WHERE diff_id = ?1 AND below <> ?2) LIMIT 1";
        let connection = self.lock();
        let values = params![diff_id.to_string(), below, self.boot];
        let row = connection.prepare_cached(sql).and_then(|mut s| s.query_row(values, layer_row).optional());
        drop(connection);
        match (row.map_err(|e| self.fail(e))?, &self.leases) {
            (Some(row), Some(_)) => self.layer(row.id),
            (row, _) => Ok(row),
        }
    }

    /// Any unpacked layer with this tar.
    pub fn any_layer_of(&self, diff_id: &DiffId) -> Result<Option<LayerRow>, WorkerError> {
        let sql = "SELECT id, diff_id, snapshot, content, tar_bytes, created_s FROM layer WHERE diff_id = ?1 LIMIT 1";
        let connection = self.lock();
        let row = connection
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row([diff_id.to_string()], layer_row).optional());
        row.map_err(|e| self.fail(e))
    }

    /// The snapshots of all layers.
    pub fn snapshots(&self) -> Result<HashSet<SnapshotId>, WorkerError> {
        let connection = self.lock();
        let read = |row: &Row<'_>| parsed(0, &row.get::<_, String>(0)?);
        let rows = connection
            .prepare_cached("SELECT snapshot FROM layer")
            .and_then(|mut s| s.query_map([], read)?.collect());
        rows.map_err(|e| self.fail(e))
    }

    /// Notes that a layer is right only on the layers that `below` stands for.
    pub fn add_rebased(&self, diff_id: &DiffId, below: &str, layer: i64) -> Result<(), WorkerError> {
        let sql = "INSERT OR REPLACE INTO rebased (diff_id, below, layer) VALUES (?1, ?2, ?3)";
        let values = params![diff_id.to_string(), below, layer];
        self.lock().execute(sql, values).map(drop).map_err(|e| self.fail(e))
    }

    /// Notes the blob that a layer is in one of its forms (`gzip`, `zstd`, `plain`, or `pulled`).
    pub fn add_blob(&self, diff_id: &DiffId, form: &str, blob: &Descriptor) -> Result<(), WorkerError> {
        let sql = "INSERT OR REPLACE INTO blob (diff_id, form, digest, size, media_type) VALUES (?1, ?2, ?3, ?4, ?5)";
        let values = params![
            diff_id.to_string(),
            form,
            blob.digest.to_string(),
            blob.size as i64,
            blob.media_type.as_str()
        ];
        self.lock().execute(sql, values).map(drop).map_err(|e| self.fail(e))
    }

    /// The blob that a layer is in a form.
    pub fn blob(&self, diff_id: &DiffId, form: &str) -> Result<Option<Descriptor>, WorkerError> {
        let sql = "SELECT digest, size, media_type FROM blob WHERE diff_id = ?1 AND form = ?2";
        let connection = self.lock();
        let read = |row: &Row<'_>| {
            let (digest, size, media_type): (String, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(Descriptor::new(MediaType::parse(&media_type), parsed(0, &digest)?, size as u64))
        };
        let values = params![diff_id.to_string(), form];
        let row = connection.prepare_cached(sql).and_then(|mut s| s.query_row(values, read).optional());
        row.map_err(|e| self.fail(e))
    }

    /// Notes the image at whose registry a layer's blob is to be had.
    pub fn set_origin(&self, diff_id: &DiffId, reference: &str) -> Result<(), WorkerError> {
        let sql = "INSERT OR REPLACE INTO origin (diff_id, reference) VALUES (?1, ?2)";
        self.lock().execute(sql, params![diff_id.to_string(), reference]).map(drop).map_err(|e| self.fail(e))
    }

    /// The image at whose registry a layer's blob is to be had.
    pub fn origin(&self, diff_id: &DiffId) -> Result<Option<String>, WorkerError> {
        let sql = "SELECT reference FROM origin WHERE diff_id = ?1";
        let row = self.lock().query_row(sql, [diff_id.to_string()], |r| r.get(0)).optional();
        row.map_err(|e| self.fail(e))
    }
}

fn layer_row(row: &Row<'_>) -> rusqlite::Result<LayerRow> {
    let (diff_id, snapshot, content): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
    Ok(LayerRow {
        id: row.get(0)?,
        diff_id: DiffId(parsed(1, &diff_id)?),
        snapshot: parsed(2, &snapshot)?,
        content: ContentId(parsed(3, &content)?),
        tar_bytes: row.get::<_, i64>(4)? as u64,
        created_s: row.get(5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_oci::Digest;

    #[test]
    fn a_layer_that_was_not_synced_is_gone_after_another_boot() -> Result<(), WorkerError> {
        let folder = tempfile::tempdir().map_err(WorkerError::io("create", "temp"))?;
        let mut meta = Meta::open(&folder.path().join("meta.db"))?;
        let row = |snapshot: &str| LayerRow {
            id: 0,
            diff_id: DiffId(Digest::of(snapshot.as_bytes())),
            snapshot: snapshot.parse().unwrap_or_else(|e| panic!("{e}")),
            content: ContentId(Digest::of(b"")),
            tar_bytes: 1,
            created_s: 1,
        };
        let synced = meta.add_layer(&row("0000000000000001"))?;
        meta.mark_synced()?;
        let unsynced = meta.add_layer(&row("0000000000000002"))?;
        assert!(meta.layer(synced)?.is_some() && meta.layer(unsynced)?.is_some());
        meta.boot = "another".to_owned();
        assert!(meta.layer(synced)?.is_some() && meta.layer(unsynced)?.is_none());
        assert!(meta.layer_of(&row("0000000000000002").diff_id, "")?.is_none());
        Ok(())
    }
}
