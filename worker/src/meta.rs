//! The metadata: which layers, records and images the store has.
//!
//! ```text
//! layer    id, diff_id, snapshot, content, tar_bytes, created_s, unsynced
//!                                                                   a layer that is unpacked here
//! rebased  diff_id, below, layer                                    one that depends on what is below
//! blob     diff_id, form, digest, size, media_type                  the same layer as a blob
//! origin   diff_id, reference                                       the image whose registry has that blob
//! record   key, outputs                                             what a step added: layer ids, as JSON
//! same     op, content, layer                                       what a command made before
//! image    name, config, manifest, media_type, layers, created_s    names of images and of indexes of them
//! memo     folder, entries                                          digests of a folder's files
//! fetched  address, etag, modified, digest, name, layer             what the web gave
//! ```
//! A layer that was not synced to disk yet carries the id of the machine's boot: after another boot, which
//! may have lost its files, it is as if it were not there.
//! SQLite in WAL mode: any number of processes; a write is one short immediate transaction.
//! It does not know what a key means or what a snapshot holds.

use crate::WorkerError;
use crate::store::now_s;
use kiln_oci::{Descriptor, DiffId, Digest, MediaType};
use kiln_snapshotter::{Committed, SnapshotId};
use kiln_solver::{CacheKey, ContentId};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS layer (id INTEGER PRIMARY KEY, diff_id TEXT NOT NULL, snapshot TEXT NOT NULL UNIQUE,
    content TEXT NOT NULL, tar_bytes INTEGER NOT NULL, created_s INTEGER NOT NULL, unsynced TEXT);
CREATE INDEX IF NOT EXISTS layer_by_diff_id ON layer (diff_id);
CREATE TABLE IF NOT EXISTS rebased (diff_id TEXT NOT NULL, below TEXT NOT NULL, layer INTEGER NOT NULL,
    PRIMARY KEY (diff_id, below)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blob (diff_id TEXT NOT NULL, form TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL,
    media_type TEXT NOT NULL, PRIMARY KEY (diff_id, form)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS origin (diff_id TEXT PRIMARY KEY, reference TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS record (key BLOB PRIMARY KEY, outputs TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS same (op BLOB NOT NULL, content TEXT NOT NULL, layer INTEGER NOT NULL,
    PRIMARY KEY (op, content)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image (name TEXT PRIMARY KEY, config TEXT NOT NULL, manifest TEXT, media_type TEXT,
    layers TEXT NOT NULL, created_s INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS memo (folder TEXT PRIMARY KEY, entries BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fetched (address TEXT PRIMARY KEY, etag TEXT, modified TEXT, digest TEXT NOT NULL,
    name TEXT NOT NULL, layer INTEGER NOT NULL) WITHOUT ROWID;
";

/// The metadata of a store.
#[derive(Debug)]
pub(crate) struct Meta {
    path: PathBuf,
    connection: Mutex<Connection>,
    boot: String,
}

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

/// An image's name and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRow {
    /// The name, a normalised reference.
    pub name: String,
    /// Its id: the digest of its config, or of the index where the name stands for several images.
    pub id: Digest,
    /// The digest and type of its manifest, where it has one: one that was pulled, pushed or exported. An
    /// index always has one, which is itself.
    pub manifest: Option<(Digest, MediaType)>,
    /// Its layers; of an index, those of all its images, each once.
    pub diff_ids: Vec<DiffId>,
    /// When the name was set, in seconds since 1970.
    pub created_s: i64,
}

impl ImageRow {
    /// The index that the name stands for, if it is one.
    pub fn index(&self) -> Option<(Digest, &MediaType)> {
        self.manifest.as_ref().filter(|(_, kind)| kind.is_index()).map(|(digest, kind)| (*digest, kind))
    }
}

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
    /// Opens the database, and makes it if it is not there.
    pub fn open(path: &Path) -> Result<Meta, WorkerError> {
        let fail = |source| WorkerError::Metadata { path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(fail)?;
        connection.busy_timeout(Duration::from_secs(30)).map_err(fail)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(fail)?;
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(fail)?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(fail)?;
        if version == 0 {
            connection.execute_batch(SCHEMA).map_err(fail)?;
            connection.pragma_update(None, "user_version", 1).map_err(fail)?;
        }
        connection.set_prepared_statement_cache_capacity(64);
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(Meta { path: path.to_owned(), connection: Mutex::new(connection), boot })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, source: rusqlite::Error) -> WorkerError {
        WorkerError::Metadata { path: self.path.clone(), source }
    }

    /// Notes a layer that was made or unpacked.
    pub fn add_layer(&self, row: &LayerRow) -> Result<i64, WorkerError> {
        let connection = self.lock();
        let sql = "INSERT INTO layer (diff_id, snapshot, content, tar_bytes, created_s, unsynced)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let values = params![
            row.diff_id.to_string(),
            row.snapshot.to_string(),
            row.content.0.to_string(),
            row.tar_bytes as i64,
            row.created_s,
            self.boot
        ];
        connection.prepare_cached(sql).and_then(|mut s| s.insert(values)).map_err(|e| self.fail(e))
    }

    /// Notes that all layers of this boot are on disk now.
    pub fn mark_synced(&self) -> Result<(), WorkerError> {
        let sql = "UPDATE layer SET unsynced = NULL WHERE unsynced = ?1";
        self.lock().execute(sql, [&self.boot]).map(drop).map_err(|e| self.fail(e))
    }

    /// A layer by its number.
    pub fn layer(&self, id: i64) -> Result<Option<LayerRow>, WorkerError> {
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
        row.map_err(|e| self.fail(e))
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
                    .prepare_cached("INSERT OR REPLACE INTO record (key, outputs) VALUES (?1, ?2)")?
                    .execute(params![key.0.as_bytes(), text])?;
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

    /// Notes the layer that a command made.
    pub fn add_same(&self, op: &CacheKey, content: &Digest, layer: i64) -> Result<(), WorkerError> {
        let sql = "INSERT OR REPLACE INTO same (op, content, layer) VALUES (?1, ?2, ?3)";
        let values = params![op.0.as_bytes(), content.to_string(), layer];
        self.lock().execute(sql, values).map(drop).map_err(|e| self.fail(e))
    }

    /// Gives an image a name, instead of what the name stood for before.
    pub fn set_image(&self, row: &ImageRow) -> Result<(), WorkerError> {
        let sql = "INSERT OR REPLACE INTO image (name, config, manifest, media_type, layers, created_s)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let layers = serde_json::json!(row.diff_ids).to_string();
        let values = params![
            row.name,
            row.id.to_string(),
            row.manifest.as_ref().map(|m| m.0.to_string()),
            row.manifest.as_ref().map(|m| m.1.as_str().to_owned()),
            layers,
            row.created_s
        ];
        self.lock().execute(sql, values).map(drop).map_err(|e| self.fail(e))
    }

    /// The images, by name.
    pub fn images(&self) -> Result<Vec<ImageRow>, WorkerError> {
        let sql = "SELECT name, config, manifest, media_type, layers, created_s FROM image ORDER BY name";
        let connection = self.lock();
        let rows = connection.prepare_cached(sql).and_then(|mut s| s.query_map([], image_row)?.collect());
        rows.map_err(|e| self.fail(e))
    }

    /// The image of a name.
    pub fn image(&self, name: &str) -> Result<Option<ImageRow>, WorkerError> {
        let sql = "SELECT name, config, manifest, media_type, layers, created_s FROM image WHERE name = ?1";
        self.lock().query_row(sql, [name], image_row).optional().map_err(|e| self.fail(e))
    }

    /// Takes a name away; whether it was there.
    pub fn remove_image(&self, name: &str) -> Result<bool, WorkerError> {
        let removed = self.lock().execute("DELETE FROM image WHERE name = ?1", [name]);
        removed.map(|n| n > 0).map_err(|e| self.fail(e))
    }

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

fn parsed<T: std::str::FromStr>(column: usize, text: &str) -> rusqlite::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e))
    })
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

fn image_row(row: &Row<'_>) -> rusqlite::Result<ImageRow> {
    let (config, layers): (String, String) = (row.get(1)?, row.get(4)?);
    let (manifest, media_type): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
    let manifest = match (manifest, media_type) {
        (Some(digest), Some(media_type)) => Some((parsed(2, &digest)?, MediaType::parse(&media_type))),
        _ => None,
    };
    let diff_ids = serde_json::from_str(&layers).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, Box::new(e))
    })?;
    Ok(ImageRow { name: row.get(0)?, id: parsed(1, &config)?, manifest, diff_ids, created_s: row.get(5)? })
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

    #[test]
    fn a_name_stands_for_the_last_image_that_got_it() -> Result<(), WorkerError> {
        let folder = tempfile::tempdir().map_err(WorkerError::io("create", "temp"))?;
        let meta = Meta::open(&folder.path().join("meta.db"))?;
        let mut row = ImageRow {
            name: "x".into(),
            id: Digest::of(b"1"),
            manifest: None,
            diff_ids: vec![],
            created_s: 1,
        };
        meta.set_image(&row)?;
        row.id = Digest::of(b"2");
        meta.set_image(&row)?;
        assert_eq!(meta.images()?, [row]);
        assert!(meta.remove_image("x")? && !meta.remove_image("x")?);
        Ok(())
    }
}
