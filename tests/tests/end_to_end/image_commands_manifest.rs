//! Indexes made by hand, and what registries say that they have.

use kiln_oci::{Digest, Index};
use kiln_tests::{BaseImage, FakeRegistry, Registry, Reply, TestContext};
use serde_json::Value;

#[track_caller]
fn said(context: &TestContext, args: &[&str]) -> String {
    context.kiln(args).run().success().stdout_text()
}

#[test]
fn an_index_is_made_changed_shown_and_pushed() {
    let registry = Registry::start();
    for platform in ["amd64", "arm64"] {
        BaseImage::busybox().with_platform(&format!("linux/{platform}")).push(&registry, platform, "1");
    }
    let context = TestContext::new();
    let name = registry.reference("both:1");
    let (amd64, arm64) = (registry.reference("amd64:1"), registry.reference("arm64:1"));
    context.kiln(["pull", "-q", &amd64]).run().success();
    let created = said(&context, &["manifest", "create", "--annotation", "a=b", &name, &amd64, &arm64]);
    let shown = said(&context, &["manifest", "inspect", &name]);
    assert_eq!(format!("{}\n", Digest::of(shown.as_bytes())), created, "it is shown byte for byte");
    let index: Index = serde_json::from_str(&shown).expect("an index");
    assert_eq!(index.annotations.get("a").map(String::as_str), Some("b"));
    let platforms: Vec<String> =
        index.manifests.iter().filter_map(|d| Some(d.platform.as_ref()?.to_string())).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    let changed = said(
        &context,
        &["manifest", "annotate", "--variant", "v9", "--annotation", "x=y", &name, "linux/arm64"],
    );
    assert_ne!(changed, created);
    assert_eq!(said(&context, &["manifest", "push", &name]), changed);
    let bytes = registry.manifest("both", "1").expect("it was pushed");
    let index: Index = serde_json::from_slice(&bytes).expect("an index");
    assert_eq!(index.manifests[1].platform.as_ref().and_then(|p| p.variant.as_deref()), Some("v9"));
    assert_eq!(index.manifests[1].annotations.get("x").map(String::as_str), Some("y"));
    // Who has nothing of it sees it at the registry.
    let other = TestContext::new();
    let all: Value =
        serde_json::from_str(&said(&other, &["manifest", "inspect", "-v", &name])).expect("JSON");
    assert_eq!(all.as_array().map(Vec::len), Some(2), "{all}");
    assert!(all[0]["Manifest"]["layers"].is_array() && all[0]["Descriptor"]["digest"].is_string(), "{all}");
    context
        .kiln(["manifest", "annotate", "--os", "x", &name, "linux/s390x"])
        .run()
        .fails_with(1)
        .says("linux/s390x");
    context
        .kiln(["manifest", "annotate", "--os", "x", &amd64, "linux/amd64"])
        .run()
        .fails_with(1)
        .says("no index");
    context
        .kiln(["manifest", "create", "--annotation", "a", &name, &amd64])
        .run()
        .fails_with(2)
        .says("NAME=VALUE");
}

#[test]
fn search_finds_repositories_and_tags() {
    let registry = Registry::start();
    for (repository, tag) in [("team/app", "1"), ("team/app", "2"), ("team/tool", "1"), ("other", "1")] {
        BaseImage::busybox().push(&registry, repository, tag);
    }
    let context = TestContext::new();
    let of = |args: &[&str], term: &str| {
        said(
            &context,
            &[&["search", "--format", "{{.Name}}"][..], args, &[&registry.reference(term)]].concat(),
        )
    };
    assert_eq!(of(&[], "team"), format!("{0}/team/app\n{0}/team/tool\n", registry.address()));
    assert_eq!(of(&["--limit", "1"], "").lines().count(), 1);
    let tags =
        said(&context, &["search", "--list-tags", "--format", "json", &registry.reference("team/app")]);
    let lines: Vec<Value> = tags.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.iter().filter_map(|line| line["Tag"].as_str()).collect::<Vec<_>>(), ["1", "2"]);
    let table = said(&context, &["search", &registry.reference("tool")]);
    assert_eq!(table, format!("NAME\n{}/team/tool\n", registry.address()));
    context.kiln(["search", "--list-tags", &registry.reference("none")]).run().fails_with(3);
}

#[test]
fn a_catalogue_of_pages_is_read_to_its_end_and_one_that_there_is_not_is_told() {
    let pages = FakeRegistry::start(|_, target| match target {
        "/v2/_catalog?n=1000" => Reply::new(200, r#"{"repositories":["a/one"]}"#)
            .header("Link", "</v2/_catalog?n=1000&last=a%2Fone>; rel=\"next\""),
        "/v2/_catalog?n=1000&last=a%2Fone" => Reply::new(200, r#"{"repositories":["b/one"]}"#),
        _ => Reply::new(404, "{}"),
    });
    let context = TestContext::new();
    let found = said(&context, &["search", "--format", "{{.Name}}", &format!("{}/one", pages.address())]);
    assert_eq!(found, format!("{0}/a/one\n{0}/b/one\n", pages.address()));
    let none =
        FakeRegistry::start(|_, _| Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#));
    let finished = context.kiln(["search", &format!("{}/x", none.address())]).run().fails_with(3);
    finished.says("does not tell which repositories it has").says("--list-tags");
}
