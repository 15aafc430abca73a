//! The tests' own tools are right: what they would overlook, they would wave through.

use kiln_tests::{BaseImage, ImageAssert, Invocation, Kind, Registry, TestContext, closed_port};
use kiln_tests::{mounts_below, processes_naming, request, unique, wait_until};
use std::time::Duration;

#[test]
fn another_tool_reads_the_base_image_and_it_is_read_back_the_same() {
    let registry = Registry::shared();
    let context = TestContext::new();
    let archive = context.path("base.tar");
    let copied = Invocation::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false"])
        .args([format!("docker://{}", registry.busybox()), format!("oci-archive:{}", archive.display())])
        .run();
    copied.success();
    let image = ImageAssert::of_archive(&archive);
    assert_eq!(image.manifest, serde_json::from_slice(&BaseImage::busybox().parts().manifest).expect("JSON"));
    assert_eq!(image.node("/bin/sh").kind, Kind::Link("busybox".to_owned()));
    image.is("/tmp", 0o1777, (0, 0)).is("/bin/busybox", 0o755, (0, 0)).lacks("/bin/no-such-program");
}

#[test]
fn a_registry_with_a_password_refuses_those_without() {
    let registry = Registry::with_password();
    let answer = request(registry.address(), "GET", "/v2/", &[], &[]).expect("an answer");
    assert_eq!(answer.status, 401);
    assert_eq!(registry.call("GET", "/v2/", &[], &[]).status, 200);
}

#[test]
fn a_registry_ends_with_its_value() {
    let registry = Registry::start();
    let address = registry.address().to_owned();
    drop(registry);
    let gone = wait_until(Duration::from_secs(5), || request(&address, "GET", "/v2/", &[], &[]).is_err());
    assert!(gone, "{address} still answers");
    assert!(request(&closed_port(), "GET", "/", &[], &[]).is_err());
}

#[test]
fn processes_and_mounts_that_are_left_are_found() {
    let marker = unique("left");
    let running = Invocation::new("sh").args(["-c", &format!("sleep 100; : {marker}")]).start();
    assert!(wait_until(Duration::from_secs(5), || processes_naming(&marker).len() == 1));
    drop(running);
    assert!(wait_until(Duration::from_secs(5), || processes_naming(&marker).is_empty()));
    assert!(!mounts_below("/proc".as_ref()).is_empty());
}

#[test]
fn a_process_that_hangs_fails_its_test() {
    let hung = std::panic::catch_unwind(|| {
        let running = Invocation::new("sleep").args(["100"]).start();
        running.wait(Duration::from_millis(50)).success();
    });
    assert!(hung.is_err());
}
