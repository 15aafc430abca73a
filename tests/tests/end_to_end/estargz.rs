//! Layers in the form of eStargz: made, remembered, read back by kiln and by others, and built on.

use super::on_busybox;
use kiln_oci::{Digest, MediaType};
use kiln_tests::{ImageAssert, Registry, TestContext};
use std::process::Command;

const TOC: &str = "containerd.io/snapshot/stargz/toc.digest";
const SIZE: &str = "io.containers.estargz.uncompressed-size";

fn context() -> TestContext {
    let context = on_busybox("FROM @\nCOPY a.txt /\nRUN mkdir /d && echo run > /d/run && rm /etc/group\n");
    context.write("a.txt", "a");
    context
}

/// Whether a layer is described as one of this form.
fn is_described(image: &ImageAssert, at: usize) -> bool {
    let (layer, tar) = (&image.manifest.layers[at], &image.layers[at]);
    assert_eq!(image.config.rootfs.diff_ids[at].0, Digest::of(tar), "of what a gunzip gives");
    layer.media_type == MediaType::OciLayerGzip
        && layer.annotations.get(TOC).is_some_and(|toc| toc.parse::<Digest>().is_ok())
        && layer.annotations.get(SIZE) == Some(&tar.len().to_string())
}

#[test]
fn layers_made_here_are_estargz_and_those_of_the_base_if_forced() {
    let context = context();
    let built = |options: &str| {
        let archive = context.path("image.tar");
        let output = format!("type=oci,dest={},compression=estargz{options}", archive.display());
        context.build(["-o", &output]).success();
        ImageAssert::of_archive(&archive)
    };
    let image = built("");
    assert_eq!([0, 1, 2].map(|at| is_described(&image, at)), [false, true, true]);
    image.file_is("/a.txt", "a").file_is("/d/run", "run\n").lacks("/etc/group").lacks("/stargz.index.json");
    assert_eq!(built("").digest, image.digest, "it is remembered");
    let forced = built(",force-compression=true");
    assert_eq!([0, 1, 2].map(|at| is_described(&forced, at)), [true, true, true]);
    assert_eq!(forced.manifest.layers[1..], image.manifest.layers[1..]);
    assert_eq!(built(",force-compression=true").digest, forced.digest);
    // Docker's media types know no annotations.
    let spelled = built(",oci-mediatypes=false");
    assert!(is_described(&spelled, 1));
    assert_ne!(built(",compression-level=9").manifest.layers[2], image.manifest.layers[2]);
}

#[test]
fn others_read_it_and_it_can_be_built_on() {
    let (registry, context) = (Registry::start(), context());
    let name = registry.reference("estargz/app:1");
    let output = format!("type=registry,name={name},compression=estargz,rewrite-timestamp=true");
    context.building(["-o", &output]).env("SOURCE_DATE_EPOCH", "1600000000").run().success();
    let layout = context.text("layout");
    let copied = Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false"])
        .args([format!("docker://{name}"), format!("oci:{layout}")])
        .output()
        .expect("Debian's package skopeo");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let image = ImageAssert::of_layout(&context.path("layout"));
    assert!(is_described(&image, 2));
    assert_eq!(image.node("/d/run").mtime_s, 1_600_000_000);
    let next = TestContext::with_dockerfile(&format!(
        "FROM {name}\nRUN cat /a.txt /d/run > /seen && ! test -e /stargz.index.json\n"
    ));
    let built = next.image(super::NONE);
    built.file_is("/seen", "arun\n").lacks("/etc/group");
    assert_eq!(built.manifest.layers[..3], image.manifest.layers[..], "its layers stay as they came");
    // In the store too, and from there to a registry without being made again.
    let kept = registry.reference("estargz/kept:1");
    context.build(["-o", &format!("type=image,name={kept},compression=estargz")]).success();
    context.kiln(["push", &kept]).run().success();
    let manifest = registry.manifest("estargz/kept", "1").expect("a manifest");
    assert!(String::from_utf8_lossy(&manifest).contains(TOC));
}
