//! The documents that hold a cache together at a registry or in a folder: an image manifest or an index in
//! BuildKit's shape, and what is read of an image that has its cache within. It does not know where they are kept.

use super::CacheError;
use super::place::CONFIG_BYTES_MAX;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kiln_oci::{DOCUMENT_BYTES_MAX, Descriptor, Digest, ImageConfig, Index, Manifest, MediaType};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The media type of a cache's config.
pub(crate) const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// The field of an image's config that has a cache: base64 of JSON.
pub(crate) const INLINE_KEY: &str = "moby.buildkit.cache.v0";
/// How many images of an index are looked at for a cache.
const IMAGES_MAX: usize = 100;
/// How deep documents name documents.
const DEPTH_MAX: usize = 4;

/// The shape of the document that names a cache's config and its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheForm {
    /// An image manifest, which all registries take.
    Manifest,
    /// An OCI image index that lists layers.
    Index,
    /// A manifest list of Docker's that lists layers.
    DockerList,
}

/// What a document is.
enum Shape {
    /// A cache with this config.
    Cache(Descriptor),
    /// An image.
    Image { config: Descriptor, layers: Vec<Descriptor> },
    /// Images for several platforms.
    Images(Vec<Descriptor>),
}

/// Gives the bytes of a document or a blob of the place, verified.
pub(super) type Fetch<'a> = &'a dyn Fn(&Descriptor) -> Result<Vec<u8>, CacheError>;

impl CacheForm {
    /// What `oci-mediatypes` and `image-manifest` mean together; Docker's types know no manifest of a cache.
    pub fn of(oci_mediatypes: bool, image_manifest: bool) -> Result<CacheForm, CacheError> {
        match (oci_mediatypes, image_manifest) {
            (true, true) => Ok(CacheForm::Manifest),
            (true, false) => Ok(CacheForm::Index),
            (false, false) => Ok(CacheForm::DockerList),
            (false, true) => Err(CacheError::Form),
        }
    }

    /// The document of a cache, and its media type.
    pub fn document(
        self,
        config: Descriptor,
        layers: &[Descriptor],
    ) -> Result<(MediaType, Vec<u8>), CacheError> {
        let spelled = layers.iter().map(|layer| {
            let media_type = respelled(&layer.media_type, self == CacheForm::DockerList);
            Descriptor { media_type, ..layer.clone() }
        });
        let (media_type, written) = match self {
            CacheForm::Manifest => {
                let manifest = Manifest {
                    schema_version: 2,
                    media_type: Some(MediaType::OciManifest),
                    artifact_type: None,
                    config,
                    layers: spelled.collect(),
                    subject: None,
                    annotations: BTreeMap::new(),
                };
                (MediaType::OciManifest, serde_json::to_vec(&manifest))
            }
            CacheForm::Index | CacheForm::DockerList => {
                let docker = self == CacheForm::DockerList;
                let media_type = if docker { MediaType::DockerManifestList } else { MediaType::OciIndex };
                let index = Index {
                    schema_version: 2,
                    media_type: Some(media_type.clone()),
                    manifests: spelled.chain([config]).collect(),
                    annotations: BTreeMap::new(),
                };
                (media_type, serde_json::to_vec(&index))
            }
        };
        let bytes = written.unwrap_or_default();
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(CacheError::TooManyLayers {
                layers: layers.len(),
                bytes: bytes.len() as u64,
                max: DOCUMENT_BYTES_MAX,
            });
        }
        Ok((media_type, bytes))
    }
}

/// The config's descriptor.
pub(super) fn config_descriptor(config: &[u8]) -> Descriptor {
    Descriptor::of(MediaType::Other(CONFIG_TYPE.to_owned()), config)
}

/// The configs of the caches that a document leads to: its own, or those within an image, or within each of an
/// index's images. None if there is none.
pub(super) fn configs(place: &str, document: &[u8], fetch: Fetch<'_>) -> Result<Vec<Vec<u8>>, CacheError> {
    let bad = |reason: String| CacheError::Malformed { what: place.to_owned(), reason };
    match shape(document).map_err(bad)? {
        Shape::Cache(config) => {
            if config.size > CONFIG_BYTES_MAX {
                let reason = format!("its config has {} bytes, more than {CONFIG_BYTES_MAX}", config.size);
                return Err(bad(reason));
            }
            Ok(vec![fetch(&config)?])
        }
        Shape::Image { config, layers } => {
            Ok(inline(&fetch(&config)?, &layers).map_err(bad)?.into_iter().collect())
        }
        Shape::Images(listed) => {
            let mut found = Vec::new();
            for image in listed.iter().take(IMAGES_MAX) {
                if let Shape::Image { config, layers } = shape(&fetch(image)?).map_err(bad)? {
                    found.extend(inline(&fetch(&config)?, &layers).map_err(bad)?);
                }
            }
            Ok(found)
        }
    }
}

/// The digests that a document names, and its own; all the way down, as far as `read` gives documents. `None` if
/// one of them cannot be understood.
pub(super) fn named(
    document: &Digest,
    read: &dyn Fn(&Digest) -> Option<Vec<u8>>,
    into: &mut BTreeSet<Digest>,
) -> Option<()> {
    fn walk(
        document: &Digest,
        read: &dyn Fn(&Digest) -> Option<Vec<u8>>,
        into: &mut BTreeSet<Digest>,
        depth: usize,
    ) -> Option<()> {
        if !into.insert(*document) {
            return Some(());
        }
        // One that is gone names nothing any more.
        let Some(bytes) = read(document) else { return Some(()) };
        let value: Value = serde_json::from_slice(&bytes).ok()?;
        let listed =
            ["layers", "manifests"].into_iter().filter_map(|key| value.get(key)?.as_array()).flatten();
        let single = ["config", "subject"].into_iter().filter_map(|key| value.get(key));
        for named in listed.chain(single).filter(|v| !v.is_null()) {
            let named: Descriptor = serde_json::from_value(named.clone()).ok()?;
            if named.media_type.is_manifest() || named.media_type.is_index() {
                (depth < DEPTH_MAX).then_some(())?;
                walk(&named.digest, read, into, depth + 1)?;
            } else {
                into.insert(named.digest);
            }
        }
        Some(())
    }
    walk(document, read, into, 0)
}

fn shape(document: &[u8]) -> Result<Shape, String> {
    let value: Value = serde_json::from_slice(document).map_err(|e| format!("it is no manifest: {e}"))?;
    let part = |key: &str| value.get(key).filter(|v| !v.is_null()).cloned();
    let list = |key: &str| -> Result<Vec<Descriptor>, String> {
        let listed = part(key).unwrap_or_else(|| Value::Array(Vec::new()));
        serde_json::from_value(listed).map_err(|e| format!("its `{key}` is not valid: {e}"))
    };
    match (part("manifests"), part("config")) {
        (Some(_), Some(_)) => Err("it has the fields of a manifest and of an index".to_owned()),
        (None, None) => Err("it is neither a manifest nor an index".to_owned()),
        (Some(_), None) => {
            let listed = list("manifests")?;
            if let Some(config) = listed.iter().rfind(|d| d.media_type.as_str() == CONFIG_TYPE) {
                return Ok(Shape::Cache(config.clone()));
            }
            let is_image = |d: &Descriptor| {
                d.media_type.is_manifest() && !d.annotations.contains_key("vnd.docker.reference.type")
            };
            Ok(Shape::Images(listed.into_iter().filter(is_image).collect()))
        }
        (None, Some(config)) => {
            let config: Descriptor =
                serde_json::from_value(config).map_err(|e| format!("its `config` is not valid: {e}"))?;
            if config.media_type.as_str() == CONFIG_TYPE {
                return Ok(Shape::Cache(config));
            }
            Ok(Shape::Image { config, layers: list("layers")? })
        }
    }
}

/// The cache within an image, made whole: what is in the image leaves out the layers where they are the image's own.
fn inline(config: &[u8], layers: &[Descriptor]) -> Result<Option<Vec<u8>>, String> {
    let config: ImageConfig =
        serde_json::from_slice(config).map_err(|e| format!("the image's config is not valid: {e}"))?;
    let Some(text) = config.extra.get(INLINE_KEY).filter(|v| !v.is_null()) else { return Ok(None) };
    let bad = |why: String| format!("the image's `{INLINE_KEY}` is not valid: {why}");
    let text = text.as_str().ok_or_else(|| bad("it is no text".to_owned()))?;
    let bytes = STANDARD.decode(text).map_err(|e| bad(e.to_string()))?;
    let mut whole = match serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))? {
        Value::Array(records) => Map::from_iter([("records".to_owned(), Value::Array(records))]),
        Value::Object(whole) => whole,
        _ => return Err(bad("it is neither a list nor an object".to_owned())),
    };
    if whole.get("layers").is_none_or(Value::is_null) {
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != layers.len() {
            let (layers, diff_ids) = (layers.len(), diff_ids.len());
            return Err(format!("the image has {layers} layers but its config names {diff_ids}"));
        }
        let mut made = config.history.iter().filter(|h| !h.empty_layer).map(|h| h.created.as_deref());
        let list = layers.iter().zip(diff_ids).enumerate().map(|(at, (layer, diff_id))| {
            let mut about = json!({ "mediaType": layer.media_type, "diffID": diff_id, "size": layer.size });
            if let Some(created) = made.next().flatten() {
                about["createdAt"] = json!(created);
            }
            let mut entry = json!({ "blob": layer.digest, "annotations": about });
            // BuildKit leaves out a parent that is the first layer.
            match at {
                0 => entry["parent"] = json!(-1),
                1 => {}
                _ => entry["parent"] = json!(at - 1),
            }
            entry
        });
        whole.insert("layers".to_owned(), list.collect());
    }
    serde_json::to_vec(&whole).map(Some).map_err(|e| bad(e.to_string()))
}

/// The same layer's type in the other spelling.
fn respelled(media_type: &MediaType, docker: bool) -> MediaType {
    use MediaType::{DockerLayer, DockerLayerGzip, DockerLayerZstd, OciLayer, OciLayerGzip, OciLayerZstd};
    match media_type {
        OciLayer | DockerLayer if docker => DockerLayer,
        OciLayerGzip | DockerLayerGzip if docker => DockerLayerGzip,
        OciLayerZstd | DockerLayerZstd if docker => DockerLayerZstd,
        OciLayer | DockerLayer => OciLayer,
        OciLayerGzip | DockerLayerGzip => OciLayerGzip,
        OciLayerZstd | DockerLayerZstd => OciLayerZstd,
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests;
