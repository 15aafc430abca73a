//! Pushing to and pulling from registries: real ones, ones that ask for a password, and ones that
//! are down, talk nonsense or send wrong bytes.

use super::{NONE, on_busybox};
use kiln_oci::{Digest, Manifest, MediaType};
use kiln_tests::{
    BASIC_PASSWORD, BASIC_USER, BaseImage, FakeRegistry, Registry, Reply, TestContext, closed_port,
};
use std::time::Duration;

fn manifest_of(registry: &Registry, repository: &str, tag: &str) -> Option<(Digest, Manifest)> {
    let bytes = registry.manifest(repository, tag)?;
    Some((Digest::of(&bytes), serde_json::from_slice(&bytes).expect("a manifest")))
}

#[test]
fn a_build_is_pushed_and_pulled_by_its_digest() {
    let registry = Registry::start();
    let context = on_busybox("FROM @\nRUN echo pushed > /pushed\n");
    let name = registry.reference("tests/pushed:1");
    context.build(["-t", &name, "--push"]).success();
    let (digest, manifest) = manifest_of(&registry, "tests/pushed", "1").expect("it was pushed");
    assert!(manifest.media_type.is_some_and(|kind| kind.is_manifest()), "one platform is one manifest");
    for part in manifest.layers.iter().chain([&manifest.config]) {
        let bytes = registry.blob("tests/pushed", &part.digest).expect("the blob is there");
        assert_eq!((Digest::of(&bytes), bytes.len() as u64), (part.digest, part.size));
    }
    let other = TestContext::new();
    let by_digest = format!("{}@{digest}", registry.reference("tests/pushed"));
    other.kiln(["pull", &by_digest]).run().success();
    other.write("Dockerfile", format!("FROM {by_digest}\nRUN cat /pushed > /seen\n"));
    other.image(NONE).file_is("/seen", "pushed\n");
}

#[test]
fn push_sends_a_tagged_image_and_nothing_twice() {
    let registry = Registry::start();
    let context = on_busybox("FROM @\nRUN echo one > /one\n");
    let name = registry.reference("tests/app:1.0");
    context.build(["-t", &name]).success();
    assert!(manifest_of(&registry, "tests/app", "1.0").is_none(), "-t alone pushes nothing");
    context.kiln(["push", &name]).run().success();
    let first = manifest_of(&registry, "tests/app", "1.0").expect("it was pushed");
    context.kiln(["push", &name]).run().success();
    assert_eq!(Some(first), manifest_of(&registry, "tests/app", "1.0"));
}

#[test]
fn pull_then_build_needs_no_registry() {
    let registry = Registry::start();
    BaseImage::busybox().push(&registry, "base", "1");
    let name = registry.reference("base:1");
    let context = TestContext::with_dockerfile(&format!("FROM {name}\nRUN echo x > /x\n"));
    context.kiln(["pull", &name]).run().success();
    let images = context.kiln(["images"]).run().success().stdout_text();
    assert!(images.contains("base"), "{images}");
    context.image(NONE).file_is("/x", "x\n");
}

#[test]
fn an_index_is_read_by_platform() {
    let registry = Registry::start();
    let of = |architecture: &str| {
        let parts = BaseImage::busybox()
            .with_config(|config| config.env.push(format!("ARCH={architecture}")))
            .parts();
        let config = String::from_utf8(parts.config).expect("JSON");
        let host = format!("\"architecture\":\"{}\"", kiln_oci::Platform::host().architecture);
        let config = config.replace(&host, &format!("\"architecture\":\"{architecture}\"")).into_bytes();
        let mut manifest: Manifest = serde_json::from_slice(&parts.manifest).expect("a manifest");
        manifest.config = kiln_oci::Descriptor::of(MediaType::OciConfig, &config);
        for bytes in parts.layers.iter().chain([&config]) {
            registry.put_blob("multi", bytes);
        }
        let bytes = serde_json::to_vec(&manifest).expect("JSON");
        registry.put_manifest("multi", architecture, &MediaType::OciManifest, &bytes);
        let mut descriptor = kiln_oci::Descriptor::of(MediaType::OciManifest, &bytes);
        descriptor.platform = Some(kiln_oci::Platform::new("linux", architecture, None));
        descriptor
    };
    let manifests = vec![of("amd64"), of("arm64")];
    let index = kiln_oci::Index {
        schema_version: 2,
        media_type: Some(MediaType::OciIndex),
        manifests,
        annotations: Default::default(),
    };
    let bytes = serde_json::to_vec(&index).expect("JSON");
    registry.put_manifest("multi", "latest", &MediaType::OciIndex, &bytes);
    let context = TestContext::with_dockerfile(&format!("FROM {}\nLABEL a=b\n", registry.reference("multi")));
    for architecture in ["amd64", "arm64"] {
        let image = context.image(["--platform", &format!("linux/{architecture}")]);
        assert!(
            image.config.config.env.contains(&format!("ARCH={architecture}")),
            "{:?}",
            image.config.config.env
        );
        assert_eq!(image.config.architecture, architecture);
    }
}

#[test]
fn a_password_is_read_from_dockers_config() {
    let registry = Registry::with_password();
    let base = BaseImage::busybox();
    base.push(&registry, "private/base", "1");
    let name = registry.reference("private/base:1");
    let context = TestContext::with_dockerfile(&format!("FROM {name}\nRUN echo in > /in\n"));
    let refused = context.build(NONE).fails_with(3).says(registry.address());
    refused.says_one_of(&["401", "unauthorized", "denied", "credentials", "log in", "login"]);
    let auth = "cG90dGVyOm9wZW4tc2VzYW1l";
    let config = format!("{{\"auths\":{{\"{}\":{{\"auth\":\"{auth}\"}}}}}}", registry.address());
    context.write_beside("home/.docker/config.json", config);
    let target = registry.reference("private/app:1");
    let finished = context.build(["-t", &target, "--push"]).success();
    for secret in [BASIC_PASSWORD, auth] {
        assert!(!finished.stderr.contains(secret), "a password is in the log: {finished}");
    }
    assert!(registry.manifest("private/app", "1").is_some(), "{BASIC_USER} may push");
}

#[test]
fn a_registry_that_is_down_is_named() {
    let address = closed_port();
    let context = TestContext::with_dockerfile(&format!("FROM {address}/base:1\nRUN true\n"));
    let finished = context.build(NONE).fails_with(3).says(&address);
    assert!(finished.took < Duration::from_secs(30), "{finished}");
    context.write("Dockerfile", "FROM scratch\nLABEL a=b\n");
    let target = format!("{address}/app:1");
    context.build(["-t", &target]).success();
    context.kiln(["push", &target]).run().fails_with(3).says(&address);
    context.kiln(["pull", &target]).run().fails_with(3).says(&address);
}

#[test]
fn a_registry_that_answers_nonsense_is_named() {
    let page = "<html><body>Welcome to nginx!</body></html>";
    let cases: [fn(&str) -> Reply; 4] = [
        |page| Reply::new(200, page).header("Content-Type", "text/html"),
        |_| Reply::new(200, "{\"schemaVersion\":").header("Content-Type", MediaType::OciManifest.as_str()),
        |_| Reply::new(200, "{}").header("Content-Type", MediaType::OciManifest.as_str()),
        |page| Reply::new(418, page).header("Content-Type", "text/html"),
    ];
    for reply in cases {
        let fake = FakeRegistry::start(move |_, _| reply(page));
        let context = TestContext::with_dockerfile(&format!("FROM {}/base:1\nRUN true\n", fake.address()));
        context.build(NONE).fails_with(3).says(fake.address());
        assert!(!fake.requests().is_empty());
    }
}

#[test]
fn an_image_that_is_not_there_is_named() {
    let name = Registry::shared().reference("tests/no-such-image:7");
    let context = TestContext::with_dockerfile(&format!("FROM {name}\nRUN true\n"));
    context.build(NONE).fails_with(3).says("no-such-image").says_one_of(&[
        "not found",
        "no such",
        "404",
        "unknown",
        "not in",
    ]);
}

/// What a registry that sends wrong bytes answers: the right documents, and blobs of another content.
fn serving(parts: kiln_tests::Parts, spoil: fn(&mut Vec<u8>)) -> FakeRegistry {
    let digest = Digest::of(&parts.manifest).to_string();
    FakeRegistry::start(move |_, target| {
        if target == "/v2/" {
            return Reply::new(200, "{}");
        }
        if target.contains("/manifests/") {
            return Reply::new(200, parts.manifest.clone())
                .header("Content-Type", MediaType::OciManifest.as_str())
                .header("Docker-Content-Digest", digest.clone());
        }
        if target.contains(&Digest::of(&parts.config).hex()) {
            return Reply::new(200, parts.config.clone()).header("Content-Type", "application/octet-stream");
        }
        let wanted = parts.layers.iter().find(|layer| target.contains(&Digest::of(layer).hex()));
        if let Some(layer) = wanted {
            let mut bytes = layer.clone();
            spoil(&mut bytes);
            return Reply::new(200, bytes).header("Content-Type", "application/octet-stream");
        }
        Reply::new(404, "{}")
    })
}

#[test]
fn wrong_bytes_are_refused_and_do_not_spoil_the_right_ones() {
    let registry = Registry::start();
    let base = BaseImage::busybox();
    base.push(&registry, "base", "1");
    let spoilers: [fn(&mut Vec<u8>); 3] = [
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        },
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes.extend_from_slice(b"more"),
    ];
    let context = TestContext::new();
    for spoil in spoilers {
        let fake = serving(base.parts(), spoil);
        context.write("Dockerfile", format!("FROM {}/base:1\nRUN echo ok > /ok\n", fake.address()));
        context.build(NONE).fails_with(3).says(fake.address());
    }
    context.write("Dockerfile", format!("FROM {}\nRUN echo ok > /ok\n", registry.reference("base:1")));
    context.image(NONE).file_is("/ok", "ok\n");
}

#[test]
fn a_manifest_that_is_not_what_its_digest_says_is_refused() {
    let parts = BaseImage::busybox().parts();
    let wanted = Digest::of(b"something else");
    let fake = serving(parts, |_| {});
    let text = format!("FROM {}/base@{wanted}\nRUN true\n", fake.address());
    let context = TestContext::with_dockerfile(&text);
    context.build(NONE).fails_with(3).says(fake.address());
}

#[test]
fn a_push_that_fails_leaves_no_tag() {
    let fake = FakeRegistry::start(|method, target| match method {
        "GET" | "HEAD" if target == "/v2/" => Reply::new(200, "{}"),
        "HEAD" | "GET" => Reply::new(404, "{}"),
        _ => Reply::new(403, "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"read only\"}]}"),
    });
    let context = on_busybox("FROM @\nRUN echo x > /x\n");
    let target = format!("{}/app:1", fake.address());
    let finished = context.build(["-t", &target, "--push"]).fails_with(3).says(fake.address());
    finished.says_one_of(&["denied", "403", "read only"]);
    assert!(fake.requests().iter().all(|r| !r.starts_with("PUT /v2/app/manifests")), "{:?}", fake.requests());
}

/// What a registry with all of an image answers, by the requests that it got.
#[test]
fn a_cached_build_pulls_no_layer() {
    let parts = BaseImage::busybox().parts();
    let layer = Digest::of(&parts.layers[0]).hex();
    let fake = serving(parts, |_| {});
    let context = TestContext::with_dockerfile(&format!("FROM {}/base:1\nRUN echo x > /x\n", fake.address()));
    let first = context.image(NONE);
    let pulls = |fake: &FakeRegistry| {
        fake.requests().iter().filter(|r| r.starts_with("GET") && r.contains(&layer)).count()
    };
    assert_eq!(pulls(&fake), 1, "{:?}", fake.requests());
    let second = context.image(["--pull"]);
    assert_eq!(first.digest, second.digest);
    assert_eq!(pulls(&fake), 1, "{:?}", fake.requests());
}
