//! The names of images. It does not know where their layers are.

use super::{Meta, parsed};
use crate::WorkerError;
use kiln_oci::{DiffId, Digest, MediaType};
use rusqlite::{OptionalExtension, Row, params};

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

impl Meta {
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
