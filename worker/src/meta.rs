//! The metadata: which layers, records and images the store has.
//!
//! ```text
//! layer    id, diff_id, snapshot, content, tar_bytes, created_s, unsynced, used_s, cost_ms, disk_bytes,
//!          made_by
//!                                                                   a layer that is unpacked here
//! rebased  diff_id, below, layer                                    one that depends on what is below
//! blob     diff_id, form, digest, size, media_type                  the same layer as a blob
//! origin   diff_id, reference                                       the image whose registry has that blob
//! record   key, outputs, made_s                                     what a step added: layer ids, as JSON
//! same     op, content, layer                                       what a command made before
//! image    name, config, manifest, media_type, layers, created_s    names of images and of indexes of them
//! memo     folder, entries                                          digests of a folder's files
//! step     id, key, text, made_s, inputs                            what a step was made from, to explain later ones
//! selection id, digest, bytes, entries                              the files that a step read
//! place    name, used_s, steps                                      the steps that a Dockerfile had the last time
//! cache_mount  name, id, begins, used_s, imported                   what `RUN --mount=type=cache` keeps
//! packed   content, pieces                                          what files of these became when packed
//! fetched  address, etag, modified, digest, name, layer             what the web gave
//! resolved name, answer, asked_s                                    what a tag or branch stood for
//! block    key, blob, begins, bytes, crc                            where a compressed piece of a layer is
//! ```
//! A layer that was not synced to disk yet carries the id of the machine's boot: after another boot, which
//! may have lost its files, it is as if it were not there.
//! SQLite in WAL mode: any number of processes; a write is one short immediate transaction.
//! It does not know what a key means or what a snapshot holds.

use crate::WorkerError;
use crate::lease::Leases;
use rusqlite::{Connection, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

mod blocks;
mod cache_mounts;
mod files;
mod images;
mod layers;
mod records;
mod resolved;
mod steps;
mod usage;

pub(crate) use cache_mounts::CacheMountRow;
pub(crate) use files::FetchedRow;
pub use images::ImageRow;
pub(crate) use layers::LayerRow;
pub(crate) use records::RecordRow;
pub(crate) use steps::{NewSteps, StepRow};
pub(crate) use usage::BlobUse;

/// The tables of version 1.
const FIRST: &str = "
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

/// What each version of the metadata adds to the one before; the last is the one that this kiln reads.
const VERSIONS: [&[&str]; 3] = [
    &[FIRST],
    &[layers::SECOND, records::SECOND, steps::SECOND, cache_mounts::SECOND, resolved::SECOND, usage::SECOND],
    &[blocks::THIRD],
];

/// The metadata of a store.
#[derive(Debug)]
pub(crate) struct Meta {
    path: PathBuf,
    connection: Mutex<Connection>,
    boot: String,
    leases: Option<Arc<Leases>>,
}

impl Meta {
    /// The same, for a process that counts on the layers that it asks for: they stay until it ends.
    pub fn open_leasing(path: &Path, leases: &Arc<Leases>) -> Result<Meta, WorkerError> {
        Ok(Meta { leases: Some(leases.clone()), ..Meta::open(path)? })
    }

    /// Opens the database, and makes it if it is not there.
    pub fn open(path: &Path) -> Result<Meta, WorkerError> {
        let fail = |source| WorkerError::Metadata { path: path.to_owned(), source };
        let mut connection = Connection::open(path).map_err(fail)?;
        connection.busy_timeout(Duration::from_secs(30)).map_err(fail)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(fail)?;
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(fail)?;
        upgrade(&mut connection, path)?;
        connection.set_prepared_statement_cache_capacity(64);
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(Meta { path: path.to_owned(), connection: Mutex::new(connection), boot, leases: None })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, source: rusqlite::Error) -> WorkerError {
        WorkerError::Metadata { path: self.path.clone(), source }
    }
}

/// Brings the tables to the version of this kiln. Two processes may be at it: who comes second has nothing to do.
fn upgrade(connection: &mut Connection, path: &Path) -> Result<(), WorkerError> {
    let fail = |source| WorkerError::Metadata { path: path.to_owned(), source };
    let version = |c: &Connection| c.pragma_query_value(None, "user_version", |r| r.get::<_, u32>(0));
    let known = VERSIONS.len() as u32;
    if version(connection).map_err(fail)? == known {
        return Ok(());
    }
    let upgraded = connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|all| {
        let found = version(&all)?;
        for text in VERSIONS.iter().skip(found as usize).flat_map(|texts| texts.iter()) {
            all.execute_batch(text)?;
        }
        if found < known {
            all.pragma_update(None, "user_version", known)?;
        }
        all.commit()?;
        Ok(found)
    });
    match upgraded.map_err(fail)? {
        found if found > known => {
            let root = path.parent().unwrap_or(path).to_owned();
            Err(WorkerError::StoreVersion { root, found: found.to_string(), known: "3" })
        }
        _ => Ok(()),
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
