//! Layers as results of steps: what stack of them a vertex's output is.
//! It does not know how they came about.

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
    /// The digest of its tar.
    pub diff_id: DiffId,
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
    pub row: Option<i64>,
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
            diff_id: row.diff_id,
            content: row.content,
            snapshot: OnceLock::from(row.snapshot),
            blob: None,
            origin: None,
            created_s: Some(row.created_s),
            row: Some(row.id),
        }
    }

    /// A layer of an image, not looked for here yet.
    pub fn of_image(diff_id: DiffId, blob: Option<Descriptor>, origin: Option<ImageName>) -> Layer {
        let content = ContentId(diff_id.0);
        let origin = origin.map(Origin::Image);
        Layer { diff_id, content, snapshot: OnceLock::new(), blob, origin, created_s: None, row: None }
    }

    /// A layer that a shared cache has.
    pub fn shared(layer: &SharedLayer, place: &Arc<dyn CachePlace>) -> Layer {
        Layer {
            diff_id: layer.diff_id,
            content: layer.content,
            snapshot: OnceLock::new(),
            blob: Some(layer.blob.clone()),
            origin: Some(Origin::Cache(place.clone())),
            created_s: Some(layer.created_s),
            row: None,
        }
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
    pub fn diff_ids(&self) -> Vec<DiffId> {
        self.0.iter().map(|l| l.diff_id).collect()
    }

    /// What stands for the lowest `count` layers, where a layer depends on them.
    pub fn below(&self, count: usize) -> String {
        let ids: Vec<DiffId> = self.0[..count].iter().map(|l| l.diff_id).collect();
        ChainId::of(&ids).map_or_else(String::new, |chain| chain.0.hex())
    }
}

impl FromIterator<Arc<Layer>> for Stack {
    fn from_iter<T: IntoIterator<Item = Arc<Layer>>>(layers: T) -> Stack {
        Stack(layers.into_iter().collect())
    }
}
