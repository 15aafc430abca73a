//! Layers of bases stay at their registries until a step reads their files.

use super::NONE;
use super::pull_policy::registry_of;
use kiln_oci::Digest;
use kiln_tests::{BaseImage, TestContext};

#[test]
fn a_build_that_reads_no_file_of_its_base_asks_for_no_layer() {
    let parts = BaseImage::busybox().parts();
    let layer = Digest::of(&parts.layers[0]).hex();
    let registry = registry_of(parts);
    let from = format!("FROM {}/base:1\n", registry.address());
    for rest in ["ENV a=b\nLABEL c=d\nCMD [\"x\"]\n", "COPY --link new /new\n"] {
        let context = TestContext::with_dockerfile(&format!("{from}{rest}"));
        context.write("new", "new\n");
        context.build(["-t", "app:1"]).success();
        context.build(["-t", "app:1"]).success();
    }
    let layers = registry.requests().iter().filter(|request| request.contains(&layer)).count();
    assert_eq!(layers, 0, "{:?}", registry.requests());
    let context = TestContext::with_dockerfile(&format!("{from}RUN true\n"));
    context.build(NONE).success();
    assert!(registry.requests().iter().any(|request| request.contains(&layer)), "else this shows nothing");
}
