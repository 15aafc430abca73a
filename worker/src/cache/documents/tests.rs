//! Claims about the documents of a cache; what registries do with them is claimed beside the registry.

use super::*;

fn layer(at: usize) -> Descriptor {
    let mut layer = Descriptor::of(MediaType::OciLayerGzip, at.to_string().as_bytes());
    layer.size = 1 << 30;
    layer.annotations.insert("buildkit/createdat".to_owned(), "2026-11-22T20:11:44.123456789Z".to_owned());
    layer.annotations.insert("containerd.io/uncompressed".to_owned(), layer.digest.to_string());
    layer
}

#[test]
fn ten_thousand_layers_fit_and_what_does_not_is_said() {
    let many: Vec<Descriptor> = (0..20_000).map(layer).collect();
    let write = |count: usize| CacheForm::Manifest.document(config_descriptor(b"{}"), &many[..count]);
    assert!(write(10_000).is_ok());
    let text = write(20_000).map(drop).expect_err("too large").to_string();
    assert!(text.starts_with("a manifest with 20000 layers has ") && text.contains("mode=min"), "{text}");
}

#[test]
fn dockers_types_know_no_manifest_of_a_cache() {
    assert_eq!(CacheForm::of(true, true).ok(), Some(CacheForm::Manifest));
    assert_eq!(CacheForm::of(true, false).ok(), Some(CacheForm::Index));
    assert_eq!(CacheForm::of(false, false).ok(), Some(CacheForm::DockerList));
    assert!(matches!(CacheForm::of(false, true), Err(CacheError::Form)));
}

#[test]
fn a_layer_is_respelled_and_any_other_type_left_alone() {
    use MediaType::{DockerLayerZstd, OciLayerZstd, Other};
    assert_eq!(respelled(&OciLayerZstd, true), DockerLayerZstd);
    assert_eq!(respelled(&DockerLayerZstd, false), OciLayerZstd);
    assert_eq!(respelled(&Other("application/x".to_owned()), true), Other("application/x".to_owned()));
}

#[test]
fn documents_that_name_themselves_are_walked_once() {
    let one = Descriptor::of(MediaType::OciIndex, b"one");
    let index = serde_json::to_vec(&json!({ "manifests": [one, layer(1)] })).expect("JSON");
    let mut found = BTreeSet::new();
    let done = named(&one.digest, &|_| Some(index.clone()), &mut found);
    assert_eq!(done, Some(()));
    assert_eq!(found, BTreeSet::from([one.digest, layer(1).digest]));
    assert_eq!(named(&one.digest, &|_| Some(b"no JSON".to_vec()), &mut BTreeSet::new()), None);
}
