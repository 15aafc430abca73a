//! A cache's config: which layers it has, and which keys lead to them. It has the shape of BuildKit's
//! (`cache/remotecache/v1/spec.go`); the keys are kiln's, and what only kiln needs is in a field `kiln` of each record,
//! which others don't read. A record without it was written by another builder. It does not know where a config is
//! kept.
//!
//! ```text
//! {"layers":  [{"blob": DIGEST, "parent": INDEX or -1, "annotations": {mediaType, diffID, size, createdAt}}],
//!  "records": [{"digest": KEY, "layers": [{"layer": INDEX, "createdAt"}],
//!               "kiln": {"outputs": [[{"layer": INDEX, "content": DIGEST}]], "tookMs", "laidOn"}}],
//!  "kilnMounts": [{"id", "name", "manifest": DESCRIPTOR, "pieces": [DESCRIPTOR]}]}
//! ```
//! A record's `layers` are the whole stack of its result, by the uppermost layer; `outputs` are what the step added.
//! In an image (`inline`) there are only the records, and a layer's index is its place in the image.

use super::CacheError;
use jiff::Timestamp;
use kiln_oci::{Descriptor, DiffId, Digest, MediaType};
use kiln_solver::{CacheKey, ContentId};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The annotations that BuildKit puts on the blobs of a cache.
const CREATED_AT: &str = "buildkit/createdat";
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// A layer of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SharedLayer {
    /// The digest of its tar.
    pub diff_id: DiffId,
    /// What it holds, times aside.
    pub content: ContentId,
    /// Its blob.
    pub blob: Descriptor,
    /// When it was made, in seconds since 1970.
    pub created_s: i64,
}

/// What a step made, as a cache knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SharedRecord {
    /// What it added to each of its outputs.
    pub outputs: Vec<Vec<SharedLayer>>,
    /// When it was made, in seconds since 1970.
    pub made_s: i64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The content of what its step was built on, if that is known.
    pub laid_on: Option<Digest>,
}

/// What is known of a result besides its layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    /// When it was made, in seconds since 1970.
    pub made_s: i64,
    /// How long that took, in milliseconds; 0 if nobody knows.
    pub took_ms: u64,
    /// The content of what its step was built on, if that is known.
    pub laid_on: Option<Digest>,
}

/// A cache mount in a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SharedMount {
    /// The id that steps call it by.
    pub id: String,
    /// What tells those of one id apart that begin with something else.
    pub name: String,
    /// What is in it.
    pub manifest: Descriptor,
    /// The bytes of its files.
    pub pieces: Vec<Descriptor>,
}

/// What a cache has.
#[derive(Debug, Default)]
pub(crate) struct SharedCache {
    /// By key.
    pub records: HashMap<CacheKey, SharedRecord>,
    /// Cache mounts.
    pub mounts: Vec<SharedMount>,
    /// How many records are another builder's.
    pub foreign: usize,
    /// The keys of each result.
    by_outputs: HashMap<Vec<Vec<DiffId>>, Vec<CacheKey>>,
}

/// A config that is being made.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    layers: Vec<LayerEntry>,
    contents: Vec<Digest>,
    descriptors: Vec<Descriptor>,
    known: HashMap<(Digest, i64), usize>,
    records: Vec<RecordEntry>,
    mounts: Vec<SharedMount>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Config {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<LayerEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    records: Vec<RecordEntry>,
    #[serde(rename = "kilnMounts", default, skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<SharedMount>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LayerEntry {
    blob: Digest,
    #[serde(default)]
    parent: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<LayerAnnotations>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayerAnnotations {
    #[serde(default)]
    media_type: String,
    #[serde(rename = "diffID", default, skip_serializing_if = "Option::is_none")]
    diff_id: Option<Digest>,
    #[serde(default)]
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RecordEntry {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<ResultEntry>,
    digest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kiln: Option<KilnEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResultEntry {
    layer: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KilnEntry {
    outputs: Vec<Vec<AddedEntry>>,
    #[serde(default)]
    took_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    laid_on: Option<Digest>,
}

#[derive(Debug, Serialize, Deserialize)]
struct AddedEntry {
    layer: usize,
    content: Digest,
}

impl Draft {
    /// Adds a layer that lies on another, and gives its index; the same one on the same is there once.
    pub fn layer(&mut self, layer: &SharedLayer, below: Option<usize>) -> usize {
        let parent = below.map_or(-1, |index| index as i64);
        let next = self.layers.len();
        let index = *self.known.entry((layer.blob.digest, parent)).or_insert(next);
        if index == next {
            let created_at = time_text(layer.created_s);
            let SharedLayer { diff_id, content, blob, .. } = layer;
            let mut described = Descriptor { annotations: Default::default(), ..blob.clone() };
            described.annotations.insert(CREATED_AT.to_owned(), created_at.clone());
            described.annotations.insert(UNCOMPRESSED.to_owned(), diff_id.to_string());
            self.layers.push(LayerEntry {
                blob: blob.digest,
                parent,
                annotations: Some(LayerAnnotations {
                    media_type: blob.media_type.as_str().to_owned(),
                    diff_id: Some(diff_id.0),
                    size: blob.size,
                    created_at: Some(created_at),
                }),
            });
            self.contents.push(content.0);
            self.descriptors.push(described);
        }
        index
    }

    /// Adds a record under each of its keys. `outputs` are indexes of layers; `top` is the uppermost layer of the
    /// first output.
    pub fn record(&mut self, keys: &[CacheKey], outputs: &[Vec<usize>], top: Option<usize>, about: &About) {
        let About { made_s, took_ms, laid_on } = *about;
        let added = |index: &usize| AddedEntry { layer: *index, content: self.contents[*index] };
        for key in keys {
            let outputs = outputs.iter().map(|output| output.iter().map(added).collect()).collect();
            let created_at = Some(time_text(made_s));
            self.records.push(RecordEntry {
                layers: top
                    .map(|layer| ResultEntry { layer: layer as i64, created_at })
                    .into_iter()
                    .collect(),
                digest: key.0,
                kiln: Some(KilnEntry { outputs, took_ms, laid_on }),
            });
        }
    }

    /// Adds a cache mount.
    pub fn mount(&mut self, mount: SharedMount) {
        self.mounts.push(mount);
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.mounts.is_empty()
    }

    /// The config, and the blobs that it names, each once.
    pub fn finish(mut self) -> (Vec<u8>, Vec<Descriptor>) {
        self.records.sort_by_key(|record| record.digest);
        self.mounts.sort_by(|a, b| (&a.id, &a.name).cmp(&(&b.id, &b.name)));
        let mut blobs: Vec<Descriptor> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let of_mounts =
            self.mounts.iter().flat_map(|mount| std::iter::once(&mount.manifest).chain(&mount.pieces));
        for blob in self.descriptors.iter().chain(of_mounts) {
            if seen.insert(blob.digest) {
                blobs.push(blob.clone());
            }
        }
        let config = Config { layers: self.layers, records: self.records, mounts: self.mounts };
        (serde_json::to_vec(&config).unwrap_or_default(), blobs)
    }

    /// The records alone, for the config of an image whose layers were added in its order.
    pub fn finish_inline(mut self) -> Vec<u8> {
        self.records.sort_by_key(|record| record.digest);
        serde_json::to_vec(&self.records).unwrap_or_default()
    }
}

impl SharedCache {
    /// Reads a config.
    pub fn parse(bytes: &[u8], place: &str) -> Result<SharedCache, CacheError> {
        let malformed =
            |reason: String| CacheError::Malformed { what: format!("the config of {place}"), reason };
        let config: Config = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        let layers = config.layers.iter().map(|entry| {
            let told = entry.annotations.as_ref()?;
            let blob = Descriptor::new(MediaType::parse(&told.media_type), entry.blob, told.size);
            Some((blob, DiffId(told.diff_id?), told.created_at.as_deref().and_then(time_of)))
        });
        let layers: Vec<Option<Listed>> = layers.collect();
        let mut cache = SharedCache::of_records(config.records, &layers).map_err(malformed)?;
        cache.mounts = config.mounts;
        Ok(cache)
    }

    /// Adds a record, unless there is one under the key.
    pub fn insert(&mut self, key: CacheKey, record: SharedRecord) {
        self.by_outputs.entry(diff_ids(&record)).or_default().push(key);
        self.records.entry(key).or_insert(record);
    }

    /// The keys that lead to the same layers.
    pub fn aliases(&self, record: &SharedRecord) -> Vec<CacheKey> {
        let outputs = diff_ids(record);
        // A step that adds nothing is not told by what it adds.
        if outputs.iter().all(Vec::is_empty) {
            return Vec::new();
        }
        self.by_outputs.get(&outputs).cloned().unwrap_or_default()
    }

    fn of_records(records: Vec<RecordEntry>, layers: &[Option<Listed>]) -> Result<SharedCache, String> {
        let mut cache = SharedCache::default();
        for RecordEntry { layers: results, digest, kiln } in records {
            let Some(KilnEntry { outputs, took_ms, laid_on }) = kiln else {
                cache.foreign += 1;
                continue;
            };
            let made = results.first().and_then(|result| result.created_at.as_deref());
            let made_s = made.and_then(time_of).unwrap_or_default();
            let layer = |AddedEntry { layer, content }: &AddedEntry| -> Result<SharedLayer, String> {
                let Some(Some((blob, diff_id, created_s))) = layers.get(*layer) else {
                    return Err(format!("the record {digest} names a layer {layer} that there is not"));
                };
                let (blob, diff_id, content) = (blob.clone(), *diff_id, ContentId(*content));
                Ok(SharedLayer { diff_id, content, blob, created_s: created_s.unwrap_or(made_s) })
            };
            let outputs = outputs.iter().map(|output| output.iter().map(layer).collect());
            let outputs = outputs.collect::<Result<Vec<Vec<SharedLayer>>, String>>()?;
            cache.insert(CacheKey(digest), SharedRecord { outputs, made_s, took_ms, laid_on });
        }
        Ok(cache)
    }
}

fn diff_ids(record: &SharedRecord) -> Vec<Vec<DiffId>> {
    let of_output = |output: &Vec<SharedLayer>| output.iter().map(|layer| layer.diff_id).collect();
    record.outputs.iter().map(of_output).collect()
}

/// A layer as a config lists it, and when it was made if that is said.
type Listed = (Descriptor, DiffId, Option<i64>);

fn time_text(s: i64) -> String {
    Timestamp::from_second(s).map_or_else(|_| String::new(), |time| time.to_string())
}

fn time_of(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str) -> SharedLayer {
        let digest = |kind: &str| Digest::of(format!("{kind} {name}").as_bytes());
        SharedLayer {
            diff_id: DiffId(digest("tar")),
            content: ContentId(digest("content")),
            blob: Descriptor::new(MediaType::OciLayerGzip, digest("blob"), 7),
            created_s: 1_700_000_000,
        }
    }

    fn about(made_s: i64, took_ms: u64) -> About {
        About { made_s, took_ms, laid_on: Some(Digest::of(b"below")) }
    }

    fn key(name: &str) -> CacheKey {
        CacheKey(Digest::of(name.as_bytes()))
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut draft = Draft::default();
        let (a, b) = (draft.layer(&layer("a"), None), draft.layer(&layer("b"), Some(0)));
        assert_eq!(draft.layer(&layer("b"), Some(0)), b, "the same on the same is there once");
        assert_ne!(draft.layer(&layer("b"), None), b, "on something else it is another");
        draft.record(&[key("1"), key("one")], &[vec![a]], Some(a), &about(5, 6));
        draft.record(&[key("2")], &[vec![b], vec![]], Some(b), &about(7, 8));
        let mount = SharedMount {
            id: "/root/.cache".to_owned(),
            name: "x".to_owned(),
            manifest: layer("m").blob,
            pieces: vec![layer("p").blob],
        };
        draft.mount(mount.clone());
        let (bytes, blobs) = draft.finish();
        let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
        assert_eq!(digests, ["a", "b", "m", "p"].map(|name| layer(name).blob.digest), "each blob once");
        assert_eq!(blobs[0].annotations[UNCOMPRESSED], layer("a").diff_id.to_string());
        let cache = SharedCache::parse(&bytes, "x").unwrap_or_else(|e| panic!("{e}"));
        let one = SharedRecord {
            outputs: vec![vec![layer("a")]],
            made_s: 5,
            took_ms: 6,
            laid_on: about(5, 6).laid_on,
        };
        assert_eq!(cache.records[&key("1")], one);
        assert_eq!(cache.records[&key("one")], one);
        assert_eq!(cache.records[&key("2")].outputs, [vec![layer("b")], vec![]]);
        assert_eq!((cache.mounts, cache.foreign), (vec![mount], 0));
    }

    #[test]
    fn records_in_an_image_name_its_layers_by_their_place() {
        let mut draft = Draft::default();
        let base = draft.layer(&layer("base"), None);
        let top = draft.layer(&layer("top"), Some(base));
        draft.record(&[key("1")], &[vec![top]], Some(top), &about(5, 6));
        let of_image = ["base", "top"].map(|name| (layer(name).blob, layer(name).diff_id));
        let records = String::from_utf8(draft.finish_inline()).unwrap_or_default();
        let whole = |layers: &[(Descriptor, DiffId)]| {
            let listed = layers.iter().map(|(blob, diff_id)| {
                let about =
                    format!(r#"{{"mediaType":"{}","diffID":"{}","size":7}}"#, blob.media_type, diff_id.0);
                format!(r#"{{"blob":"{}","annotations":{about}}}"#, blob.digest)
            });
            let listed: Vec<String> = listed.collect();
            let text = format!(r#"{{"layers":[{}],"records":{records}}}"#, listed.join(","));
            SharedCache::parse(text.as_bytes(), "x")
        };
        let cache = whole(&of_image).unwrap_or_else(|e| panic!("{e}"));
        let expected = SharedLayer { created_s: 5, ..layer("top") };
        assert_eq!(cache.records[&key("1")].outputs, [vec![expected]]);
        assert!(whole(&of_image[..1]).is_err(), "an image that has other layers");
    }

    #[test]
    fn what_another_builder_wrote_is_counted_and_left_alone() {
        let text = format!(
            r#"{{"layers":[{{"blob":"{0}","parent":-1}}],
                "records":[{{"layers":[{{"layer":0,"createdAt":"2024-01-01T00:00:00.5Z"}}],"digest":"{0}"}},
                           {{"digest":"{0}","inputs":[[{{"selector":"x","link":0}}]]}}]}}"#,
            Digest::of(b"x")
        );
        let cache = SharedCache::parse(text.as_bytes(), "x").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((cache.records.len(), cache.foreign), (0, 2));
    }

    #[test]
    fn what_is_no_config_says_so() {
        for text in ["", "7", "{\"layers\":1}", "{\"records\":[{\"digest\":\"sha256:x\"}]}"] {
            let error = SharedCache::parse(text.as_bytes(), "registry r/x:cache").expect_err(text);
            assert!(error.to_string().starts_with("the config of registry r/x:cache: "), "{error}");
        }
    }

    #[test]
    fn the_same_cache_has_the_same_bytes_in_whatever_order_it_was_made() {
        let made = |order: [&str; 2]| {
            let mut draft = Draft::default();
            let base = draft.layer(&layer("base"), None);
            for name in order {
                draft.record(&[key(name)], &[vec![base]], Some(base), &about(1, 1));
            }
            draft.finish().0
        };
        assert_eq!(made(["1", "2"]), made(["2", "1"]));
    }
}
