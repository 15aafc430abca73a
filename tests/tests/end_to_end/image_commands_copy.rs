//! Images from place to place: what arrives is what was there, byte for byte.

use super::on_busybox;
use kiln_oci::Digest;
use kiln_tests::{BaseImage, ImageAssert, Registry, TestContext};
use std::process::Command;

#[track_caller]
fn copied(context: &TestContext, args: &[&str]) -> String {
    context.kiln([&["copy", "-q"][..], args].concat()).run().success().stdout_text().trim().to_owned()
}

#[test]
fn a_copy_between_registries_has_the_same_digest_and_needs_no_unpacking() {
    let (one, two) = (Registry::start(), Registry::start());
    let digest = BaseImage::busybox().push(&one, "from/here", "1").to_string();
    let context = TestContext::new();
    let from = format!("docker://{}", one.reference("from/here:1"));
    let (there, beside) = (two.reference("to/there:2"), one.reference("to/beside:3"));
    assert_eq!(copied(&context, &[&from, &format!("docker://{there}"), &beside]), digest);
    for (registry, repository, tag) in [(&two, "to/there", "2"), (&one, "to/beside", "3")] {
        let bytes = registry.manifest(repository, tag).expect("it arrived");
        assert_eq!(Digest::of(&bytes).to_string(), digest);
        let manifest: kiln_oci::Manifest = serde_json::from_slice(&bytes).expect("a manifest");
        for part in manifest.layers.iter().chain([&manifest.config]) {
            assert_eq!(registry.blob(repository, &part.digest).map(|b| Digest::of(&b)), Some(part.digest));
        }
    }
    let snapshots = std::fs::read_dir(context.store().join("snapshots")).expect("the store");
    assert_eq!(snapshots.count(), 1, "nothing is unpacked: only the empty folder is there");
    assert_eq!(context.kiln(["images", "-q"]).run().success().stdout_text(), "", "no name is given");
}

#[test]
fn what_one_registry_has_in_another_repository_is_mounted() {
    let registry = Registry::start();
    BaseImage::busybox().push(&registry, "from", "1");
    let context = TestContext::new();
    copied(&context, &[&registry.reference("from:1"), &registry.reference("to:1")]);
    let blobs = std::fs::read_dir(context.store().join("content/blobs/sha256")).expect("the store").flatten();
    let bytes: u64 = blobs.map(|blob| blob.metadata().map_or(0, |m| m.len())).sum();
    assert!(bytes < 20_000, "no layer was fetched: {bytes}");
}

#[test]
fn an_index_is_copied_whole_or_for_one_platform() {
    let registry = Registry::start();
    let images = ["linux/amd64", "linux/s390x"].map(|p| BaseImage::busybox().with_platform(p));
    let index = BaseImage::push_index(&images, &registry, "multi", "1").to_string();
    let context = TestContext::new();
    let (from, to) = (registry.reference("multi:1"), registry.reference("copied:1"));
    assert_eq!(copied(&context, &["--all", &from, &to]), index);
    let bytes = registry.manifest("copied", "1").expect("it arrived");
    assert_eq!(Digest::of(&bytes).to_string(), index);
    let folder = context.text("layout");
    copied(&context, &["--platform", "linux/s390x", &from, &format!("oci:{folder}:s390x")]);
    let image = ImageAssert::of_layout(folder.as_ref());
    assert_eq!(image.config.architecture, "s390x");
    context
        .kiln(["copy", "--platform", "linux/riscv64", &from, &to])
        .run()
        .fails_with(3)
        .says("linux/riscv64")
        .says("linux/amd64, linux/s390x");
}

#[test]
fn every_transport_gives_on_what_it_got() {
    let context = on_busybox("FROM @\nCOPY a.txt /a.txt\n");
    context.write("a.txt", "a");
    context.build(["-t", "app:1"]).success();
    let (folder, oci, docker) = (context.text("folder"), context.text("oci.tar"), context.text("docker.tar"));
    let digest = copied(&context, &["store:app:1", &format!("oci:{folder}:1.0")]);
    assert_eq!(copied(&context, &[&format!("oci:{folder}:1.0"), &format!("oci-archive:{oci}:x")]), digest);
    assert_eq!(
        copied(&context, &[&format!("oci-archive:{oci}:x"), &format!("docker-archive:{docker}:y:1")]),
        digest
    );
    let other = TestContext::new();
    assert_eq!(copied(&other, &[&format!("docker-archive:{docker}:y:1"), "store:z:1"]), digest);
    let id = |context: &TestContext, name: &str| {
        context.kiln(["inspect", "-f", "{{.Id}} {{.Digest}}", name]).run().success().stdout_text()
    };
    assert!(id(&other, "z:1").ends_with(&format!("{digest}\n")));
    other.write("Dockerfile", "FROM z:1\nLABEL a=b\n");
    other.image(["--offline"]).file_is("/a.txt", "a");
    let listed =
        Command::new("skopeo").args(["inspect", &format!("oci-archive:{oci}:x")]).output().expect("skopeo");
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&digest), "{listed:?}");
    other.kiln(["copy", &format!("oci-archive:{oci}:none"), "store:a"]).run().fails_with(1).says("it has x");
    other.kiln(["copy", "dir:/tmp/x", "store:a"]).run().fails_with(2).says("no transport `dir`");
    other.kiln(["copy", "oci:", "store:a"]).run().fails_with(2).says("no path");
    other.kiln(["copy", "store:nothing", "store:a"]).run().fails_with(1).says("nothing");
}
