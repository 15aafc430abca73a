//! Claims about a cache at a registry, against one that keeps in memory what it is given.

use super::*;
use crate::cache::test_server::{Answered, Asked, Fixture, TestServer, answer};
use kiln_oci::{Digest, MediaType};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Kept {
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    /// How many requests are refused before one is answered.
    busy: u32,
    hangs: bool,
}

type Shared = Arc<Mutex<Kept>>;

fn registry() -> (TestServer, Shared) {
    let kept = Shared::default();
    let shared = kept.clone();
    (TestServer::start(move |asked| respond(&mut shared.lock().expect("a lock"), asked)), kept)
}

fn respond(kept: &mut Kept, asked: &Asked) -> Answered {
    if kept.hangs {
        return None;
    }
    if kept.busy > 0 {
        kept.busy -= 1;
        return Some((429, vec![("retry-after", "0".to_owned())], Vec::new()));
    }
    let last = asked.path().rsplit('/').next().unwrap_or_default().to_owned();
    let is_manifest = asked.path().contains("/manifests/");
    match (asked.method.as_str(), is_manifest) {
        ("PUT", true) => {
            let kind = asked.header("content-type").unwrap_or_default().to_owned();
            let digest = Digest::of(&asked.body).to_string();
            kept.manifests.insert(digest, (kind.clone(), asked.body.clone()));
            kept.manifests.insert(last, (kind, asked.body.clone()));
            answer(201, "")
        }
        (_, true) => match kept.manifests.get(&last) {
            Some((kind, bytes)) => Some((200, vec![("content-type", kind.clone())], bytes.clone())),
            None => answer(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
        },
        ("POST", _) => Some((202, vec![("location", "/v2/app/blobs/uploads/1".to_owned())], Vec::new())),
        ("PUT", _) => {
            kept.blobs.insert(asked.query("digest").unwrap_or_default(), asked.body.clone());
            answer(201, "")
        }
        _ => kept.blobs.get(&last).map_or_else(|| answer(404, ""), |bytes| answer(200, bytes.clone())),
    }
}

fn place<T>(
    fixture: &Fixture,
    server: &TestServer,
    form: CacheForm,
    work: impl Fn(&RegistryPlace) -> T,
) -> T {
    let reference = format!("{}/app:cache", server.address).parse().expect("a reference");
    work(&RegistryPlace::new(fixture.network(), reference, form, Vec::new()))
}

fn put(kept: &Shared, name: &str, kind: &MediaType, bytes: &[u8]) {
    kept.lock().expect("a lock").manifests.insert(name.to_owned(), (kind.to_string(), bytes.to_vec()));
}

fn put_blob(kept: &Shared, bytes: &[u8]) {
    kept.lock().expect("a lock").blobs.insert(Digest::of(bytes).to_string(), bytes.to_vec());
}

fn document(kept: &Shared) -> Value {
    serde_json::from_slice(&kept.lock().expect("a lock").manifests["cache"].1).expect("a document")
}

#[test]
fn what_was_published_is_read_back_in_each_form() {
    for (form, kind, layer) in [
        (CacheForm::Manifest, MediaType::OciManifest, MediaType::OciLayerGzip),
        (CacheForm::Index, MediaType::OciIndex, MediaType::OciLayerGzip),
        (CacheForm::DockerList, MediaType::DockerManifestList, MediaType::DockerLayerGzip),
    ] {
        let (fixture, (server, kept)) = (Fixture::new(), registry());
        place(&fixture, &server, form, |place| {
            let (blob, open) = fixture.blob(b"a layer");
            assert!(place.write(&blob, &open).expect("written"));
            assert!(!place.write(&blob, &open).expect("there"));
            let published =
                place.publish(b"{\"records\":[]}", std::slice::from_ref(&blob)).expect("published");
            assert_eq!(published.map(|d| d.media_type), Some(kind.clone()));
            assert_eq!(place.configs().expect("configs"), [b"{\"records\":[]}".to_vec()]);
            let mut bytes = Vec::new();
            let mut keep = |piece: &[u8]| -> io::Result<()> {
                bytes.extend_from_slice(piece);
                Ok(())
            };
            place.read(&blob, &mut keep).expect("read");
            assert_eq!(bytes, b"a layer");
        });
        let document = document(&kept);
        assert_eq!(document["mediaType"], kind.as_str());
        let config =
            if form == CacheForm::Manifest { &document["config"] } else { &document["manifests"][1] };
        let first =
            if form == CacheForm::Manifest { &document["layers"][0] } else { &document["manifests"][0] };
        assert_eq!(config["mediaType"], "application/vnd.buildkit.cacheconfig.v0");
        assert_eq!(first["mediaType"], layer.as_str());
    }
}

#[test]
fn the_manifest_comes_last() {
    let (fixture, (server, _)) = (Fixture::new(), registry());
    place(&fixture, &server, CacheForm::Manifest, |place| place.publish(b"{}", &[]).expect("published"));
    let asked = server.asked();
    let puts: Vec<&String> = asked.iter().filter(|a| a.starts_with("PUT")).collect();
    assert!(
        puts.len() == 2 && puts[0].contains("/blobs/") && puts[1].ends_with("/manifests/cache"),
        "{puts:?}"
    );
}

#[test]
fn a_registry_without_the_image_has_no_cache() {
    let (fixture, (server, _)) = (Fixture::new(), registry());
    place(&fixture, &server, CacheForm::Manifest, |place| {
        assert_eq!(place.configs().expect("no error"), Vec::<Vec<u8>>::new());
        let (blob, _) = fixture.blob(b"missing");
        let missing = place.read(&blob, &mut |_| Ok(()));
        assert!(matches!(missing, Err(CacheError::NoBlob(d)) if d == blob.digest), "{missing:?}");
    });
}

/// An image with this field in its config, put at the registry; its manifest's descriptor.
fn image(kept: &Shared, inline: Option<&str>) -> Descriptor {
    let layer = Descriptor::of(MediaType::OciLayerGzip, b"its layer");
    let mut config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(b"its tar")] },
        "history": [{ "created": "2026-01-02T03:04:05Z" }, { "empty_layer": true }],
    });
    if let Some(inline) = inline {
        config["moby.buildkit.cache.v0"] = json!(inline);
    }
    let config = serde_json::to_vec(&config).expect("JSON");
    put_blob(kept, &config);
    let config = Descriptor::of(MediaType::OciConfig, &config);
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] }).to_string();
    let about = Descriptor::of(MediaType::OciManifest, manifest.as_bytes());
    put(kept, &about.digest.to_string(), &MediaType::OciManifest, manifest.as_bytes());
    put(kept, "cache", &MediaType::OciManifest, manifest.as_bytes());
    about
}

#[test]
fn the_cache_within_an_image_gets_the_layers_of_the_image() {
    let (fixture, (server, kept)) = (Fixture::new(), registry());
    // `[{"digest":"sha256:1"}]`
    image(&kept, Some("W3siZGlnZXN0Ijoic2hhMjU2OjEifV0="));
    place(&fixture, &server, CacheForm::Manifest, |place| {
        let configs = place.configs().expect("configs");
        let [config] = configs.as_slice() else { panic!("{configs:?}") };
        let config: Value = serde_json::from_slice(config).expect("JSON");
        let layer = Descriptor::of(MediaType::OciLayerGzip, b"its layer");
        let want = json!({
            "records": [{ "digest": "sha256:1" }],
            "layers": [{
                "blob": layer.digest,
                "parent": -1,
                "annotations": {
                    "mediaType": layer.media_type, "size": layer.size, "diffID": Digest::of(b"its tar"),
                    "createdAt": "2026-01-02T03:04:05Z",
                },
            }],
        });
        assert_eq!(config, want);
    });
}

#[test]
fn each_image_of_an_index_may_have_a_cache_within() {
    let (fixture, (server, kept)) = (Fixture::new(), registry());
    // `{"layers":[],"records":[]}`, whose layers are left as they are
    let with = image(&kept, Some("eyJsYXllcnMiOltdLCJyZWNvcmRzIjpbXX0="));
    let without = image(&kept, None);
    let mut attestation = Descriptor::of(MediaType::OciManifest, b"nowhere");
    attestation.annotations.insert("vnd.docker.reference.type".to_owned(), "attestation-manifest".to_owned());
    let index = json!({ "schemaVersion": 2, "manifests": [with, without, attestation] }).to_string();
    put(&kept, "cache", &MediaType::OciIndex, index.as_bytes());
    place(&fixture, &server, CacheForm::Manifest, |place| {
        let configs = place.configs().expect("configs");
        assert_eq!(configs, [br#"{"layers":[],"records":[]}"#.to_vec()]);
    });
}

#[test]
fn what_is_broken_is_an_error_that_names_the_place() {
    let (fixture, (server, kept)) = (Fixture::new(), registry());
    let large = json!({
        "config": { "mediaType": "application/vnd.buildkit.cacheconfig.v0", "digest": Digest::of(b"x"), "size": 1u64 << 40 },
    });
    for (broken, why) in [
        ("no JSON".to_owned(), "it is no manifest"),
        ("{}".to_owned(), "neither a manifest nor an index"),
        (r#"{"manifests":[],"config":{}}"#.to_owned(), "of a manifest and of an index"),
        (r#"{"config":{"mediaType":1}}"#.to_owned(), "its `config` is not valid"),
        (r#"{"manifests":3}"#.to_owned(), "its `manifests` is not valid"),
        (large.to_string(), "1099511627776 bytes, more than 67108864"),
    ] {
        put(&kept, "cache", &MediaType::OciManifest, broken.as_bytes());
        let error =
            place(&fixture, &server, CacheForm::Manifest, |place| place.configs()).expect_err("an error");
        let text = error.to_string();
        assert!(text.contains(why) && text.contains(&server.address), "{text}");
    }
    for inline in ["!", "W10", "Mw=="] {
        image(&kept, Some(inline));
        let error =
            place(&fixture, &server, CacheForm::Manifest, |place| place.configs()).expect_err("an error");
        assert!(error.to_string().contains("moby.buildkit.cache.v0"), "{error}");
    }
}

#[test]
fn a_registry_that_is_busy_is_asked_again() {
    let (fixture, (server, kept)) = (Fixture::new(), registry());
    place(&fixture, &server, CacheForm::Manifest, |place| {
        place.publish(b"{}", &[]).expect("published");
        kept.lock().expect("a lock").busy = 2;
        assert_eq!(place.configs().expect("configs").len(), 1);
    });
}

#[test]
fn a_registry_that_hangs_is_left_when_the_build_is_cancelled() {
    for step in 0..4 {
        let (fixture, (server, kept)) = (Fixture::new(), registry());
        kept.lock().expect("a lock").hangs = true;
        let (blob, open) = fixture.blob(b"a layer");
        fixture.cancelled_while(|| {
            let error = place(&fixture, &server, CacheForm::Manifest, |place| match step {
                0 => place.configs().map(drop),
                1 => place.read(&blob, &mut |_| Ok(())),
                2 => place.write(&blob, &open).map(drop),
                _ => place.publish(b"{}", &[]).map(drop),
            });
            assert!(matches!(error, Err(CacheError::Canceled)), "{step}: {error:?}");
        });
    }
}

#[test]
fn who_cannot_keep_the_bytes_ends_the_transfer() {
    let (fixture, (server, kept)) = (Fixture::new(), registry());
    let (blob, _) = fixture.blob(&vec![7; 1 << 20]);
    put_blob(&kept, &vec![7; 1 << 20]);
    place(&fixture, &server, CacheForm::Manifest, |place| {
        let error = place.read(&blob, &mut |_| Err(io::Error::from(io::ErrorKind::StorageFull)));
        assert!(
            matches!(&error, Err(CacheError::Io { source, .. }) if source.kind() == io::ErrorKind::StorageFull),
            "{error:?}"
        );
    });
}
