//! Layers as results of steps: what stack of them a vertex's output is.
//! It does not know how they came about.

use crate::WorkerError;
use crate::cache::{CachePlace, SharedLayer};
use crate::image_name::ImageName;
use crate::meta::LayerRow;
use kiln_oci::{ChainId, Descriptor, DiffId, Hasher, Reference};
use kiln_snapshotter::SnapshotId;
use kiln_solver::ContentId;
use std::sync::{Arc, OnceLock};

/// A layer of a result: unpacked here, or to be fetched when its files are needed.
#[derive(Debug)]
pub(crate) struct Layer {
    /// The digest of its tar, once it is known; none if it never will be.
    diff_id: OnceLock<Option<DiffId>>,
    /// What it holds: of a fetched layer its tar, of a made one its index without times.
    pub content: ContentId,
    /// Its snapshot, as soon as it is unpacked.
    pub snapshot: OnceLock<SnapshotId>,
    /// Its blob where it comes from.
    pub blob: Option<Descriptor>,
    /// Where it comes from.
    pub origin: Option<Origin>,
    /// When it was made.
    pub created_s: Option<i64>,
    /// Its number in the store, if it was made here.
    row: OnceLock<i64>,
}

/// Where a layer's blob is to be had.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// Beside an image.
    Image(ImageName),
    /// In a shared cache.
    Cache(Arc<dyn CachePlace>),
}

impl Origin {
    /// What it is called in messages.
    pub fn name(&self) -> String {
        match self {
            Origin::Image(name) => name.to_string(),
            Origin::Cache(place) => place.name(),
        }
    }

    /// The image at a registry in whose repository the blob is.
    pub fn registry_image(&self) -> Option<&Reference> {
        match self {
            Origin::Image(ImageName::Registry(reference)) => Some(reference),
            Origin::Image(ImageName::Layout(_)) => None,
            Origin::Cache(place) => place.image(),
        }
    }
}

impl Layer {
    /// A layer that was made here.
    pub fn made(row: &LayerRow) -> Layer {
        Layer {
            diff_id: OnceLock::from(Some(row.diff_id)),
            content: row.content,
            snapshot: OnceLock::from(row.snapshot),
            blob: None,
            origin: None,
            created_s: Some(row.created_s),
            row: OnceLock::from(row.id),
        }
    }

    /// A layer that was made here at a time, whose tar is still being worked out.
    pub fn coming(snapshot: SnapshotId, content: ContentId, created_s: i64) -> Layer {
        Layer {
            diff_id: OnceLock::new(),
            content,
            snapshot: OnceLock::from(snapshot),
            blob: None,
            origin: None,
            created_s: Some(created_s),
            row: OnceLock::new(),
        }
    }

    /// Notes the digest of the tar of such a layer and its number in the store; or that neither will come.
    pub fn came(&self, made: Option<(DiffId, i64)>) {
        if let Some((_, row)) = made {
            let _ = self.row.set(row);
        }
        let _ = self.diff_id.set(made.map(|(diff_id, _)| diff_id));
    }

    /// The digest of its tar. Waits while that is worked out; an error if it could not be, of which the build tells.
    pub fn diff_id(&self) -> Result<DiffId, WorkerError> {
        (*self.diff_id.wait()).ok_or(WorkerError::Canceled)
    }

    /// Its number in the store, if it was made here and is finished.
    pub fn row(&self) -> Option<i64> {
        self.row.get().copied()
    }

    /// A layer of an image, not looked for here yet.
    pub fn of_image(diff_id: DiffId, blob: Option<Descriptor>, origin: Option<ImageName>) -> Layer {
        let content = ContentId(diff_id.0);
        let origin = origin.map(Origin::Image);
        let diff_id = OnceLock::from(Some(diff_id));
        let (snapshot, row) = (OnceLock::new(), OnceLock::new());
        Layer { diff_id, content, snapshot, blob, origin, created_s: None, row }
    }

    /// A layer that a shared cache has.
    pub fn shared(layer: &SharedLayer, place: &Arc<dyn CachePlace>) -> Layer {
        Layer {
            diff_id: OnceLock::from(Some(layer.diff_id)),
            content: layer.content,
            snapshot: OnceLock::new(),
            blob: Some(layer.blob.clone()),
            origin: Some(Origin::Cache(place.clone())),
            created_s: Some(layer.created_s),
            row: OnceLock::new(),
        }
    }

    /// Whether a step made it, here or where a shared cache was filled; no layer of an image that is built on.
    pub fn is_of_step(&self) -> bool {
        self.created_s.is_some()
    }

    /// The image at a registry in whose repository its blob is.
    pub fn registry_image(&self) -> Option<&Reference> {
        self.origin.as_ref()?.registry_image()
    }
}

/// A result: layers from the lowest up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stack(pub Arc<[Arc<Layer>]>);

impl Stack {
    /// The same with more layers on it.
    pub fn with(&self, more: impl IntoIterator<Item = Arc<Layer>>) -> Stack {
        Stack(self.0.iter().cloned().chain(more).collect())
    }

    /// What the whole stack holds.
    pub fn content(&self) -> ContentId {
        let mut hasher = Hasher::new();
        for layer in self.0.iter() {
            hasher.update(layer.content.0.as_bytes());
        }
        ContentId(hasher.finish())
    }

    /// The tars' digests.
    pub fn diff_ids(&self) -> Result<Vec<DiffId>, WorkerError> {
        self.0.iter().map(|layer| layer.diff_id()).collect()
    }

    /// What stands for the lowest `count` layers, where a layer depends on them.
    pub fn below(&self, count: usize) -> Result<String, WorkerError> {
        let ids: Vec<DiffId> =
            self.0[..count].iter().map(|layer| layer.diff_id()).collect::<Result<_, _>>()?;
        Ok(ChainId::of(&ids).map_or_else(String::new, |chain| chain.0.hex()))
    }
}

impl FromIterator<Arc<Layer>> for Stack {
    fn from_iter<T: IntoIterator<Item = Arc<Layer>>>(layers: T) -> Stack {
        Stack(layers.into_iter().collect())
    }
}
