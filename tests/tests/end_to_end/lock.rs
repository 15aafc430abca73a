//! `--lock FILE` and `kiln lock update`: tags that stay what they were until they are told to move.

use super::NONE;
use kiln_oci::Digest;
use kiln_tests::{BaseImage, Registry, TestContext};

fn base(registry: &Registry, version: &str) -> Digest {
    let image = BaseImage::busybox().with_config(|config| config.env.push(format!("VERSION={version}")));
    let digest = Digest::of(&image.parts().manifest);
    image.push(registry, "base", "1");
    digest
}

#[test]
fn a_locked_tag_moves_only_by_update() {
    let registry = Registry::start();
    let old = base(&registry, "old");
    let name = registry.reference("base:1");
    let context = TestContext::with_dockerfile(&format!("FROM {name}\nLABEL a=b\n"));
    let file = context.path("kiln.lock");
    let lock = context.text("kiln.lock");
    let env = |image: kiln_tests::ImageAssert| image.config.config.env.join(" ");
    assert!(env(context.image(["--lock", &lock])).contains("VERSION=old"));
    let text = std::fs::read_to_string(&file).expect("it was written");
    assert_eq!(
        text,
        format!("{{\n  \"images\": {{\n    \"{name}\": \"{old}\"\n  }},\n  \"version\": 1\n}}\n")
    );
    let new = base(&registry, "new");
    assert!(env(context.image(["--lock", &lock])).contains("VERSION=old"));
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), text);
    assert!(env(context.image(NONE)).contains("VERSION=new"));
    let update = || context.kiln(["lock", "update", "--lock", &lock]).run().success().stdout_text();
    assert_eq!(update(), format!("{name} {old} → {new}\n"));
    assert_eq!(update(), "");
    assert!(env(context.image(["--lock", &lock])).contains("VERSION=new"));
}

#[test]
fn a_lock_that_cannot_be_used_says_where_and_what() {
    let registry = Registry::start();
    base(&registry, "one");
    let name = registry.reference("base:1");
    let context = TestContext::with_dockerfile(&format!("FROM {name}\nLABEL a=b\n"));
    let lock = context.text("kiln.lock");
    context.write_beside("kiln.lock", "{\n  \"images\": [],\n");
    context.build(["--lock", &lock]).fails_with(2).says("kiln.lock:2").says("remove it");
    let gone = Digest::of(b"gone");
    let text = format!("{{\"images\": {{\"{name}\": \"{gone}\"}}, \"version\": 1}}");
    context.write_beside("kiln.lock", text);
    context.build(["--lock", &lock]).fails_with(3).says(&name).says(&gone.to_string());
}
