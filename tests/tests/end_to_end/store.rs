//! The images in the store: listed, inspected, named, unnamed.

use super::on_busybox;
use kiln_tests::{TestContext, digest_in};
use serde_json::Value;

fn built() -> TestContext {
    let context = on_busybox("FROM @\nENV A=1\nRUN echo x > /x\nCMD [\"sh\", \"-c\", \"true\"]\n");
    let finished = context.build(["-t", "app:1.0", "-t", "example.org/team/app:two"]).success();
    assert!(finished.stdout.is_empty(), "standard output is for data: {finished}");
    context
}

fn images(context: &TestContext) -> String {
    context.kiln(["images"]).run().success().stdout_text()
}

#[test]
fn images_lists_every_name() {
    let context = TestContext::new();
    assert!(!images(&context).contains("app"), "an empty store");
    let context = built();
    let listed = images(&context);
    assert!(listed.lines().any(|line| line.contains("app") && line.contains("1.0")), "{listed}");
    assert!(
        listed.lines().any(|line| line.contains("example.org/team/app") && line.contains("two")),
        "{listed}"
    );
}

#[test]
fn inspect_prints_json() {
    let context = built();
    let finished = context.kiln(["inspect", "app:1.0"]).run().success();
    let value: Value = serde_json::from_slice(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished}"));
    let image = if value.is_array() { &value[0] } else { &value };
    let text = image.to_string();
    assert!(text.contains("A=1") && text.contains("\"sh\""), "{text}");
    assert_eq!(image["Os"], "linux", "{text}");
    assert!(digest_in(image["Id"].as_str().unwrap_or_default()).is_some(), "{text}");
}

#[test]
fn tag_gives_another_name_and_rmi_takes_one_away() {
    let context = built();
    context.kiln(["tag", "app:1.0", "app:latest"]).run().success();
    assert!(images(&context).contains("latest"));
    context.kiln(["rmi", "app:1.0"]).run().success();
    let listed = images(&context);
    assert!(listed.contains("latest") && !listed.contains("1.0"), "{listed}");
    let inspected = context.kiln(["inspect", "app:latest"]).run().success();
    assert!(inspected.stdout_text().contains("A=1"));
    context.kiln(["rmi", "app:latest", "example.org/team/app:two"]).run().success();
    assert!(!images(&context).contains("app"));
}

#[test]
fn a_name_that_is_not_there_is_named() {
    let context = TestContext::new();
    for args in [
        vec!["inspect", "nothing:1"],
        vec!["rmi", "nothing:1"],
        vec!["tag", "nothing:1", "b:1"],
        vec!["push", "nothing:1"],
    ] {
        let finished = context.kiln(args).run();
        assert!(matches!(finished.code, Some(1..=3)), "{finished}");
        finished.says("nothing:1");
    }
}

#[test]
fn a_second_build_of_a_name_moves_it() {
    let context = built();
    let id = |context: &TestContext| context.kiln(["inspect", "app:1.0"]).run().success().stdout_text();
    let before = id(&context);
    context.write("Dockerfile", format!("FROM {}\nENV A=2\n", super::busybox()));
    context.build(["-t", "app:1.0"]).success();
    let after = id(&context);
    assert!(before.contains("A=1") && after.contains("A=2"), "{after}");
}

#[test]
fn root_names_the_store_too() {
    let context = on_busybox("FROM @\nRUN true\n");
    let elsewhere = context.text("elsewhere");
    let folder = context.text("ctx");
    context.kiln(["--root", &elsewhere, "build", "--progress=plain", "-t", "a:1", &folder]).run().success();
    let listed = context.kiln(["--root", &elsewhere, "images"]).run().success().stdout_text();
    assert!(listed.contains('a'), "{listed}");
    assert!(!context.store().join("content").exists(), "--root goes before KILN_ROOT");
}

#[test]
fn the_store_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let context = built();
    let mode = context.store().metadata().expect("the store").permissions().mode();
    assert_eq!(mode & 0o077, 0, "mode {mode:o}");
}
