//! Whom a build asks for images, and what it does when nobody answers.

use super::NONE;
use kiln_oci::{Digest, MediaType};
use kiln_tests::{BaseImage, FakeRegistry, Parts, Reply, TestContext, wait_until};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// A registry that has one image under every name, as whatever tag.
pub(super) fn registry_of(parts: Parts) -> FakeRegistry {
    let digest = Digest::of(&parts.manifest).to_string();
    FakeRegistry::start(move |_, target| {
        if target == "/v2/" {
            return Reply::new(200, "{}");
        }
        if target.contains("/manifests/") && (!target.contains("sha256:") || target.contains(&digest)) {
            return Reply::new(200, parts.manifest.clone())
                .header("Content-Type", MediaType::OciManifest.as_str())
                .header("Docker-Content-Digest", digest.clone());
        }
        let blobs = parts.layers.iter().chain([&parts.config]);
        match blobs.into_iter().find(|blob| target.contains(&Digest::of(blob).hex())) {
            Some(blob) => Reply::new(200, blob.clone()).header("Content-Type", "application/octet-stream"),
            None => Reply::new(404, "{}"),
        }
    })
}

/// Takes a registry off the network; what is left is its address.
pub(super) fn cut(registry: FakeRegistry) -> String {
    let address = registry.address().to_owned();
    drop(registry);
    assert!(wait_until(Duration::from_secs(5), || TcpStream::connect(&address).is_err()));
    address
}

fn on(registry: &FakeRegistry) -> TestContext {
    TestContext::with_dockerfile(&format!("FROM {}/base:1\nRUN echo x > /x\n", registry.address()))
}

#[test]
fn a_build_whose_images_are_known_needs_no_network() {
    let registry = registry_of(BaseImage::busybox().parts());
    let context = on(&registry);
    let first = context.image(NONE);
    let address = cut(registry);
    let (again, log) = context.image_and_log(NONE);
    assert_eq!(first.digest, again.digest);
    log.says(&format!("cannot ask for {address}/base:1")).says("using what it was");
    for flags in [["--pull=newer"], ["--pull=missing"], ["--pull=never"], ["--pull=false"], ["--offline"]] {
        assert_eq!(first.digest, context.image(flags).digest, "{flags:?}");
    }
    for flags in [["--pull"], ["--pull=always"], ["--pull=true"]] {
        context.build(flags).fails_with(3).says(&address);
    }
}

#[test]
fn a_silent_registry_costs_two_seconds() {
    let registry = registry_of(BaseImage::busybox().parts());
    let context = on(&registry);
    let first = context.image(NONE);
    let address = cut(registry);
    let _silent = TcpListener::bind(&address).expect("the registry's own port");
    let (again, log) = context.image_and_log(NONE);
    assert_eq!(first.digest, again.digest);
    let log = log.says("using what it was").says("within 2 s");
    assert!(log.took < Duration::from_secs(5), "{log}");
}

#[test]
fn who_may_not_ask_names_what_is_missing() {
    let registry = registry_of(BaseImage::busybox().parts());
    let context = on(&registry);
    for (flag, word) in [("--pull=never", "--pull=never"), ("--offline", "--offline")] {
        context.build([flag]).fails_with(1).says(&format!("{}/base:1", registry.address())).says(word);
    }
    context.building(NONE).env("KILN_OFFLINE", "1").run().fails_with(1).says("KILN_OFFLINE");
    context.build(["--offline", "--pull"]).fails_with(2).says("--offline");
    context.build(["--pull=often"]).fails_with(2).says("never");
    assert_eq!(registry.requests(), Vec::<String>::new());
}

#[test]
fn offline_takes_what_the_web_gave_and_refuses_the_rest() {
    let web = FakeRegistry::start(|_, target| match target {
        "/file" => Reply::new(200, "from the web"),
        _ => Reply::new(404, ""),
    });
    let text = format!("FROM scratch\nADD http://{}/file /file\n", web.address());
    let context = TestContext::with_dockerfile(&text);
    context.build(["--offline"]).fails_with(1).says("--offline").says("/file");
    assert!(web.requests().is_empty(), "{:?}", web.requests());
    context.image(NONE).file_is("/file", "from the web");
    let asked = web.requests().len();
    context.image(["--offline"]).file_is("/file", "from the web");
    assert_eq!(web.requests().len(), asked);
}

#[test]
fn missing_and_never_do_not_ask_for_what_is_known() {
    let registry = registry_of(BaseImage::busybox().parts());
    let context = on(&registry);
    let _ = context.image(["--pull=missing"]);
    let asked = registry.requests().len();
    for flag in ["--pull=missing", "--pull=never", "--offline"] {
        let _ = context.image([flag]);
        assert_eq!(registry.requests().len(), asked, "{flag}: {:?}", registry.requests());
    }
    let _ = context.image(["--pull=newer"]);
    assert_eq!(registry.requests().len(), asked + 1, "{:?}", registry.requests());
}
