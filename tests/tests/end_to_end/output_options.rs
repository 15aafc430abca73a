//! The options of `--output`: media types, compression, annotations, folders, pushes without a tag; and what
//! is said of those that are none.

use super::{NONE, busybox, on_busybox};
use kiln_oci::{Digest, Index, Manifest, MediaType};
use kiln_tests::{ImageAssert, Registry, TestContext};
use serde_json::Value;
use std::process::Command;

const ALL_OCI: [MediaType; 3] = [MediaType::OciManifest, MediaType::OciConfig, MediaType::OciLayerGzip];
const ALL_DOCKER: [MediaType; 3] =
    [MediaType::DockerManifest, MediaType::DockerConfig, MediaType::DockerLayerGzip];

/// A layer of a base, and one of text that compresses better the harder it is tried.
fn context() -> TestContext {
    let context = on_busybox("FROM @\nCOPY text /\n");
    let mut state = 1_u64;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("word{} ", (state >> 40) % 5000)
    };
    let text: String = (0..100_000).map(|_| word()).collect();
    context.write("text", text);
    context
}

/// Builds to an archive with options, and reads it.
#[track_caller]
fn built(context: &TestContext, options: &str) -> ImageAssert {
    let archive = context.path("image.tar");
    context.build(["-o", &format!("dest={},{options}", archive.display())]).success();
    ImageAssert::of_archive(&archive)
}

/// The types of manifest, config and all layers, where these have one.
#[track_caller]
fn types(manifest: &Manifest) -> [MediaType; 3] {
    let layers = layer_types(manifest);
    assert!(layers.iter().all(|layer| *layer == layers[0]), "{layers:?}");
    let own = manifest.media_type.clone().expect("a manifest says its type");
    [own, manifest.config.media_type.clone(), layers[0].clone()]
}

fn layer_types(manifest: &Manifest) -> Vec<MediaType> {
    manifest.layers.iter().map(|layer| layer.media_type.clone()).collect()
}

fn layer_digests(image: &ImageAssert) -> Vec<Digest> {
    image.manifest.layers.iter().map(|layer| layer.digest).collect()
}

#[test]
fn media_types_are_those_of_the_type_or_those_asked_for() {
    let context = context();
    let first = built(&context, "type=oci");
    for (options, expect) in [
        ("type=oci", ALL_OCI),
        ("type=oci,oci-mediatypes=false", ALL_DOCKER),
        ("type=docker", ALL_DOCKER),
        ("type=docker,oci-mediatypes=true", ALL_OCI),
    ] {
        let image = built(&context, options);
        assert_eq!(types(&image.manifest), expect, "{options}");
        assert_eq!(image.descriptor.media_type, expect[0], "{options}");
        assert_eq!(layer_digests(&image), layer_digests(&first), "the bytes are the same: {options}");
        assert_eq!(image.manifest.config.digest, first.manifest.config.digest, "{options}");
    }
}

#[test]
fn an_index_has_dockers_types_too() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY a /\n");
    context.write("a", "a");
    let archive = context.path("index.tar");
    let output = format!("type=oci,dest={},oci-mediatypes=false", archive.display());
    context.build(["--platform", "linux/amd64,linux/arm64", "-o", &output]).success();
    let (top, images) = ImageAssert::all_of_archive(&archive);
    assert_eq!(top.media_type, MediaType::DockerManifestList);
    for image in &images {
        assert_eq!(types(&image.manifest), ALL_DOCKER);
        assert_eq!(image.descriptor.media_type, MediaType::DockerManifest);
    }
    // Docker's list has no place for what is said of a manifest.
    let output = format!("{output},annotation-manifest-descriptor.a=b");
    context.build(["--platform", "linux/amd64,linux/arm64", "-o", &output]).success();
    let (top, images) = ImageAssert::all_of_archive(&archive);
    assert_eq!(top.media_type, MediaType::OciIndex);
    assert!(images.iter().all(|image| image.descriptor.annotations["a"] == "b"));
}

#[test]
fn a_level_changes_the_size_and_nothing_of_what_is_in_the_layer() {
    let context = context();
    let size = |image: &ImageAssert| image.manifest.layers[1].size;
    let default = built(&context, "type=oci");
    for (compression, low, high) in [("gzip", 1, 9), ("zstd", 1, 22)] {
        let at = |level: i32| {
            built(&context, &format!("type=oci,compression={compression},compression-level={level}"))
        };
        let (low, high) = (at(low), at(high));
        assert!(size(&high) < size(&low), "{compression}: {} and {}", size(&low), size(&high));
        for image in [low, high] {
            assert_eq!(image.config.rootfs.diff_ids, default.config.rootfs.diff_ids, "{compression}");
            assert_eq!(image.manifest.layers[0], default.manifest.layers[0], "the base stays: {compression}");
        }
    }
    let stored = built(&context, "type=oci,compression-level=0");
    assert!(size(&stored) > stored.layers[1].len() as u64, "level 0 only wraps");
    let same = built(&context, "type=oci,compression-level=3");
    assert_eq!(same.digest, default.digest, "the default, said");
}

#[test]
fn force_compression_changes_the_bases_layers_too() {
    let context = context();
    let default = built(&context, "type=oci");
    for (options, expect) in [
        ("compression=zstd", [MediaType::OciLayerGzip, MediaType::OciLayerZstd]),
        ("compression=zstd,force-compression=true", [MediaType::OciLayerZstd, MediaType::OciLayerZstd]),
        ("compression=zstd,force-compression=false", [MediaType::OciLayerGzip, MediaType::OciLayerZstd]),
        ("force-compression=true,compression=uncompressed", [MediaType::OciLayer, MediaType::OciLayer]),
        (
            "compression=zstd,force-compression,oci-mediatypes=false",
            [MediaType::DockerLayerZstd, MediaType::DockerLayerZstd],
        ),
    ] {
        let image = built(&context, &format!("type=oci,{options}"));
        assert_eq!(layer_types(&image.manifest), expect, "{options}");
        assert_eq!(image.config.rootfs.diff_ids, default.config.rootfs.diff_ids, "{options}");
        let kept = image.manifest.layers[0].digest == default.manifest.layers[0].digest;
        assert_eq!(kept, expect[0] == MediaType::OciLayerGzip, "{options}");
    }
    let forced = built(&context, "type=oci,compression=gzip,compression-level=1,force-compression=true");
    assert_eq!(forced.manifest.layers[0], default.manifest.layers[0], "what is in gzip stays as it came");
}

#[test]
fn annotations_of_an_output_are_its_own() {
    let context = context();
    let (one, two) = (context.path("one.tar"), context.path("two.tar"));
    let first = format!(
        "type=oci,dest={},annotation.a=first,\"annotation-manifest.b=x,y\",annotation-manifest-descriptor.c=z",
        one.display()
    );
    let second = format!("type=docker,dest={}", two.display());
    context.build(["-o", &first, "-o", &second, "--annotation", "a=all"]).success();
    let (one, two) = (ImageAssert::of_archive(&one), ImageAssert::of_archive(&two));
    let text = |image: &ImageAssert| format!("{:?}", image.manifest.annotations);
    assert_eq!(text(&one), r#"{"a": "all", "b": "x,y"}"#, "--annotation goes before");
    assert_eq!(text(&two), r#"{"a": "all"}"#);
    assert_eq!(one.descriptor.annotations["c"], "z");
    assert_eq!(types(&two.manifest), ALL_DOCKER);
    let finished = context.build(["-o", "type=oci,dest=x.tar,annotation-index.a=b"]).fails_with(2);
    finished.says("there is an index only where several platforms are built");
}

/// What skopeo says of an image.
#[track_caller]
fn inspected(name: &str) -> Value {
    let done = Command::new("skopeo").args(["inspect", name]).output().expect("Debian's package skopeo");
    assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("JSON")
}

#[test]
fn a_layout_in_a_folder_is_read_by_others_and_by_kiln() {
    let context = context();
    let folder = context.path("layout");
    let output = format!("type=oci,tar=false,dest={}", folder.display());
    context.build(["-o", &output]).success();
    let image = ImageAssert::of_layout(&folder);
    assert!(image.has("/text"));
    assert_eq!(image.digest, built(&context, "type=oci").digest);
    let read = inspected(&format!("oci:{}", folder.display()));
    assert_eq!(read["Layers"].as_array().map(Vec::len), Some(2), "{read}");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["blobs", "index.json", "oci-layout"]);
    context.write("Dockerfile", "FROM base\nRUN wc -c < /text > /size\n");
    let base = format!("base=oci-layout://{}", folder.display());
    context.image(["--build-context", &base]).file_is("/size", &format!("{}\n", image.file("/text").len()));
}

#[test]
fn a_layout_keeps_the_images_that_have_other_names() {
    let context = TestContext::new();
    let folder = context.path("layout");
    let output = format!("type=oci,tar=false,dest={}", folder.display());
    for (text, tag) in [("one", "app:1"), ("two", "app:2"), ("three", "app:1")] {
        context.write("Dockerfile", format!("FROM {}\nLABEL said={text}\n", busybox()));
        context.build(["-o", &output, "-t", tag]).success();
    }
    let index: Index =
        serde_json::from_slice(&std::fs::read(folder.join("index.json")).expect("a file")).expect("an index");
    assert_eq!(index.manifests.len(), 2, "{index:?}");
    for (tag, text) in [("1", "three"), ("2", "two")] {
        let read = inspected(&format!("oci:{}:{tag}", folder.display()));
        assert_eq!(read["Labels"]["said"], text, "{read}");
    }
}

#[test]
fn what_is_no_layout_is_left_as_it_is() {
    let context = TestContext::with_dockerfile("FROM scratch\nLABEL a=b\n");
    let index = context.write_beside("site/index.json", "{\"pages\": []}");
    let folder = context.path("site");
    let output = format!("type=oci,tar=false,dest={}", folder.display());
    context.build(["-o", &output]).fails_with(1).says("index.json");
    assert_eq!(std::fs::read_to_string(&index).expect("a file"), "{\"pages\": []}");
    assert!(!folder.join("oci-layout").exists());
}

#[test]
fn what_is_kept_with_options_is_pushed_as_it_is() {
    let registry = Registry::start();
    let context = context();
    let name = registry.reference("tests/kept:1");
    let options = "oci-mediatypes=false,compression=zstd,force-compression=true,annotation.a=b";
    context.build(["-o", &format!("type=image,name={name},{options}")]).success();
    assert!(registry.manifest("tests/kept", "1").is_none(), "type=image pushes nothing");
    context.kiln(["push", &name]).run().success();
    let bytes = registry.manifest("tests/kept", "1").expect("it was pushed");
    let manifest: Manifest = serde_json::from_slice(&bytes).expect("a manifest");
    let expect = [MediaType::DockerManifest, MediaType::DockerConfig, MediaType::DockerLayerZstd];
    assert_eq!(types(&manifest), expect);
    assert_eq!(manifest.annotations["a"], "b");
    // Here, and anywhere else, it is a base like others.
    context.write("Dockerfile", format!("FROM {name}\nRUN wc -w < /text > /words\n"));
    context.image(NONE).file_is("/words", "100000\n");
    let other = TestContext::with_dockerfile(&format!("FROM {name}\nRUN wc -w < /text > /words\n"));
    other.image(["--pull"]).file_is("/words", "100000\n");
}

#[test]
fn a_push_by_digest_gives_no_tag() {
    let registry = Registry::start();
    let context = context();
    let metadata = context.path("metadata.json");
    let output = "type=image,push-by-digest=true,name-canonical=true,push=true";
    let name = registry.reference("tests/pinned");
    let args = ["-t", &name, "-o", output, "--metadata-file", &metadata.to_string_lossy()];
    context.build(args).success();
    let metadata: Value = serde_json::from_slice(&std::fs::read(&metadata).expect("a file")).expect("JSON");
    let digest = metadata["containerimage.digest"].as_str().expect("a digest").to_owned();
    assert!(registry.manifest("tests/pinned", &digest).is_some(), "{metadata}");
    assert!(registry.manifest("tests/pinned", "latest").is_none());
    assert_eq!(metadata["image.name"], format!("{name}@{digest}"));
    let tagged = context.build(["-t", &registry.reference("tests/pinned:1"), "-o", output]).fails_with(2);
    tagged.says("can't be pushed by digest");
}

#[test]
fn several_names_are_one_quoted_option() {
    let registry = Registry::start();
    let context = context();
    let (one, two) = (registry.reference("tests/one:1"), registry.reference("tests/two:2"));
    context.build(["-o", &format!("type=registry,\"name={one},{two}\"")]).success();
    let manifest = registry.manifest("tests/one", "1").expect("it was pushed");
    assert_eq!(registry.manifest("tests/two", "2"), Some(manifest));
}

#[test]
fn what_is_wrong_with_an_output_is_told_before_anything_is_built() {
    let context = on_busybox("FROM @\nRUN echo built\n");
    for (options, expect) in [
        ("compresion=zstd", "unknown option `compresion`; did you mean compression?"),
        ("force-compression=yes", "force-compression is true or false, not `yes`"),
        ("compression-level=10", "compression-level is 0 to 9 for gzip, not `10`"),
        ("compression=estargzip", "did you mean estargz?"),
        ("annotation-images.a=b", "there is no level `images`"),
        ("tar=false", "tar=false needs dest=FOLDER"),
    ] {
        let finished = context.build(["-o", &format!("type=oci,{options}")]).fails_with(2);
        finished.says(expect).says(options).does_not_say("RUN echo");
    }
}
