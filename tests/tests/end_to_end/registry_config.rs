//! How kiln learns to reach registries: mirrors, other places, what is blocked, certificates, proxies, and what
//! `kiln registry check` says of it.

use super::NONE;
use kiln_oci::{Digest, Index, Manifest, MediaType};
use kiln_tests::{
    BASIC_PASSWORD, BASIC_USER, BaseImage, Certificates, Door, FakeRegistry, Proxy, Registry, Reply,
    TestContext, closed_port, request,
};

const AUTH: &str = "cG90dGVyOm9wZW4tc2VzYW1l";

/// A context that is built on `name`, with this `registries.conf` of the user's.
fn on(name: &str, registries_conf: &str) -> TestContext {
    let context = TestContext::with_dockerfile(&format!("FROM {name}\nRUN echo built > /built\n"));
    context.write_beside("home/.config/containers/registries.conf", registries_conf);
    context
}

/// The folder of the user's certificates for a host.
fn certificates_of(context: &TestContext, host: &str) -> std::path::PathBuf {
    context.path(&format!("home/.config/containers/certs.d/{host}"))
}

fn with_base() -> Registry {
    let registry = Registry::start();
    BaseImage::busybox().push(&registry, "library/base", "1");
    registry
}

fn check(context: &TestContext, name: &str) -> serde_json::Value {
    let finished = context.kiln(["registry", "check", "--format=json", name]).run();
    serde_json::from_slice(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished}"))
}

#[test]
fn a_mirror_serves_an_image_whose_registry_is_not_there() {
    let mirror = with_base();
    let name = format!("{}/team/base:1", closed_port());
    let conf = format!(
        "[[registry]]\nprefix = '{0}/team'\nlocation = '{0}/team'\n[[registry.mirror]]\nlocation = '{1}/library'\n",
        name.split('/').next().expect("a host"),
        mirror.address()
    );
    on(&name, &conf).image(NONE).file_is("/built", "built\n");
}

#[test]
fn a_mirror_that_is_down_or_fails_or_lacks_the_image_is_passed_over() {
    let (origin, empty) = (with_base(), Registry::start());
    let failing = FakeRegistry::start(|_, _| Reply::new(503, ""));
    let refusing = FakeRegistry::start(|_, _| Reply::new(401, "{}"));
    let mut conf = format!("[[registry]]\nprefix = 'r.test'\nlocation = '{}/library'\n", origin.address());
    for mirror in [&closed_port(), empty.address(), failing.address(), refusing.address()] {
        conf.push_str(&format!("[[registry.mirror]]\nlocation = '{mirror}'\n"));
    }
    let context = on("r.test/base:1", &conf);
    context.image(NONE).file_is("/built", "built\n");
    assert_eq!(failing.requests().len(), 1, "a mirror that fails is asked once: {:?}", failing.requests());
    assert!(!refusing.requests().is_empty());
    let found = check(&context, "r.test/base:1");
    let places = found["places"].as_array().expect("places");
    let can = |place: &serde_json::Value| place["digest"].is_string();
    assert_eq!(places.iter().map(can).collect::<Vec<_>>(), [false, false, false, false, true], "{found:#}");
    assert_eq!(places[1]["role"], "mirror");
    assert!(places[0]["told_by"]["line"].as_u64().is_some_and(|line| line == 4), "{found:#}");
}

#[test]
fn mirrors_are_for_digests_or_for_tags_as_they_are_told() {
    let origin = with_base();
    let lacking = || FakeRegistry::start(|_, _| Reply::new(404, "{}"));
    let (digests, tags) = (lacking(), lacking());
    let conf = format!(
        "[[registry]]\nprefix = 'r.test'\nlocation = '{}/library'\n\
         [[registry.mirror]]\nlocation = '{}'\npull-from-mirror = 'digest-only'\n\
         [[registry.mirror]]\nlocation = '{}'\npull-from-mirror = 'tag-only'\n",
        origin.address(),
        digests.address(),
        tags.address()
    );
    let context = on("r.test/base:1", &conf);
    context.kiln(["registry", "check", "r.test/base:1"]).run().success();
    assert_eq!((digests.requests().len(), tags.requests().len()), (0, 1));
    let digest = Digest::of(&origin.manifest("library/base", "1").expect("pushed"));
    context.kiln(["registry", "check", &format!("r.test/base@{digest}")]).run().success();
    assert_eq!((digests.requests().len(), tags.requests().len()), (1, 1));
}

#[test]
fn a_mirror_that_sends_another_image_than_its_digest_is_passed_over() {
    let origin = with_base();
    let digest = Digest::of(&origin.manifest("library/base", "1").expect("pushed"));
    let other = BaseImage::busybox().with_config(|config| config.env.push("X=y".to_owned())).parts().manifest;
    for claims in [Digest::of(&other), digest] {
        let (body, claims) = (other.clone(), claims.to_string());
        let lying = FakeRegistry::start(move |_, target| match target.contains("/manifests/") {
            true => Reply::new(200, body.clone())
                .header("Content-Type", MediaType::OciManifest.as_str())
                .header("Docker-Content-Digest", claims.clone()),
            false => Reply::new(200, "wrong bytes"),
        });
        let conf = format!(
            "[[registry]]\nprefix = 'r.test'\nlocation = '{}/library'\n[[registry.mirror]]\nlocation = '{}'\n",
            origin.address(),
            lying.address()
        );
        on(&format!("r.test/base@{digest}"), &conf).image(NONE).file_is("/built", "built\n");
        assert!(!lying.requests().is_empty());
    }
}

/// A mirror that passes an image on, but spoils what is behind `/blobs/`.
fn spoiling(origin: &Registry, spoil: fn(&mut Vec<u8>)) -> FakeRegistry {
    let address = origin.address().to_owned();
    FakeRegistry::start(move |method, target| {
        let target = target.replace("/v2/", "/v2/library/");
        let accept = MediaType::OciManifest.to_string();
        let answer = request(&address, method, &target, &[("Accept", &accept)], b"").expect("an answer");
        let mut body = answer.body.clone();
        if target.contains("/blobs/") {
            spoil(&mut body);
        }
        let mut reply = Reply::new(answer.status, body);
        for name in ["Content-Type", "Docker-Content-Digest"] {
            if let Some(value) = answer.header(&name.to_lowercase()) {
                reply = reply.header(name, value);
            }
        }
        reply
    })
}

#[test]
fn a_mirror_that_sends_wrong_or_too_few_bytes_does_not_end_a_build() {
    let origin = with_base();
    let spoilers: [fn(&mut Vec<u8>); 4] = [
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        },
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes.extend_from_slice(b"more"),
        |bytes| *bytes = b"something else".to_vec(),
    ];
    for spoil in spoilers {
        let mirror = spoiling(&origin, spoil);
        let conf = format!(
            "[[registry]]\nprefix = 'r.test'\nlocation = '{}/library'\n[[registry.mirror]]\nlocation = '{}'\n",
            origin.address(),
            mirror.address()
        );
        on("r.test/base:1", &conf).image(NONE).file_is("/built", "built\n");
        let asked = mirror.requests();
        assert!(asked.iter().any(|r| r.contains("/blobs/")), "the mirror was used: {asked:?}");
    }
}

#[test]
fn nothing_is_pushed_to_a_mirror() {
    let origin = with_base();
    let mirror = FakeRegistry::start(|_, _| Reply::new(404, "{}"));
    let conf = format!(
        "[[registry]]\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{}'\n",
        origin.address(),
        mirror.address()
    );
    let context = on("scratch", &conf);
    context.write("Dockerfile", "FROM scratch\nLABEL a=b\n");
    context.build(["--push", "-t", &origin.reference("app:1")]).success();
    assert!(origin.manifest("app", "1").is_some());
    assert_eq!(mirror.requests(), Vec::<String>::new());
}

#[test]
fn a_list_that_is_read_to_be_written_is_the_registrys_and_not_an_old_one_of_a_mirror() {
    let origin = Registry::start();
    let old = Index {
        schema_version: 2,
        media_type: Some(MediaType::OciIndex),
        manifests: Vec::new(),
        annotations: Default::default(),
    };
    let old = serde_json::to_vec(&old).expect("JSON");
    let mirror = FakeRegistry::start(move |_, target| match target.contains("/manifests/sha256-") {
        true => Reply::new(200, old.clone()).header("Content-Type", MediaType::OciIndex.as_str()),
        false => Reply::new(404, "{}"),
    });
    let conf = format!(
        "[[registry]]\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{}'\n",
        origin.address(),
        mirror.address()
    );
    let context = on("scratch", &conf);
    context.write("Dockerfile", "FROM scratch\nLABEL a=b\n");
    let name = origin.reference("app:1");
    for round in 1..=2 {
        let args = ["--sbom", "--provenance=mode=min", "--attest-as=referrers", "--push", "-t", &name];
        context.build(args).success();
        let image = Digest::of(&origin.manifest("app", "1").expect("it was pushed"));
        let list = origin.manifest("app", &format!("sha256-{}", image.hex())).expect("a list");
        let list: Index = serde_json::from_slice(&list).expect("an index");
        // The bill is the same each time; when it was built is not.
        assert_eq!(list.manifests.len(), 1 + round, "{list:?}");
    }
    let key = context.text("key.pem");
    for round in 1..=2 {
        let making = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key];
        assert!(
            std::process::Command::new("openssl").args(making).output().expect("openssl").status.success()
        );
        context.build(["--push", "-t", &name, "--sign-key", &key]).success();
        let image = Digest::of(&origin.manifest("app", "1").expect("it was pushed"));
        let signatures = origin.manifest("app", &format!("sha256-{}.sig", image.hex())).expect("signatures");
        let signatures: Manifest = serde_json::from_slice(&signatures).expect("a manifest");
        assert_eq!(signatures.layers.len(), round, "{signatures:?}");
    }
    assert_eq!(mirror.requests(), Vec::<String>::new());
}

#[test]
fn a_mirror_is_shown_its_own_credentials_and_never_the_registrys() {
    let origin = with_base();
    let guarded = origin.beside(Door { password: true, ..Door::default() });
    let mirror = FakeRegistry::start(|_, _| {
        Reply::new(401, "{}").header("WWW-Authenticate", "Basic realm=\"mirror\"")
    });
    let conf = format!(
        "[[registry]]\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{}'\n",
        guarded.address(),
        mirror.address()
    );
    let name = guarded.reference("library/base:1");
    let context = on(&name, &conf);
    let entry = |host: &str, auth: &str| format!("\"{host}\":{{\"auth\":\"{auth}\"}}");
    let auths = entry(guarded.address(), AUTH);
    context.write_beside("home/.docker/config.json", format!("{{\"auths\":{{{auths}}}}}"));
    context.image(NONE).file_is("/built", "built\n");
    assert!(mirror.authorizations().is_empty(), "{:?}", mirror.authorizations());
    let auths = format!("{auths},{}", entry(mirror.address(), "bWU6bWluZQ=="));
    context.write_beside("home/.docker/config.json", format!("{{\"auths\":{{{auths}}}}}"));
    let finished = context.kiln(["registry", "check", &name]).run().success();
    assert_eq!(mirror.authorizations(), ["Basic bWU6bWluZQ=="]);
    let said = format!("{}{}", finished.stdout_text(), finished.stderr);
    for secret in [BASIC_PASSWORD, AUTH, "mine", "bWU6bWluZQ=="] {
        assert!(!said.contains(secret), "{said}");
    }
    assert!(said.contains(&format!("password of {BASIC_USER}")), "{said}");
}

#[test]
fn a_blocked_registry_is_refused_with_file_and_line() {
    let registry = with_base();
    let conf = format!("# nobody\n[[registry]]\nlocation = '{}'\nblocked = true\n", registry.address());
    let context = on(&registry.reference("library/base:1"), &conf);
    let place = format!("{}:2", context.text("home/.config/containers/registries.conf"));
    context.build(NONE).fails_with(3).says(&place).says("blocks");
    let name = registry.reference("library/base:1");
    context.kiln(["pull", &name]).run().fails_with(3).says(&place);
    context.kiln(["registry", "check", &name]).run().fails_with(3).says(&place);
    context.write("Dockerfile", "FROM scratch\nLABEL a=b\n");
    context.build(["--push", "-t", &registry.reference("app:1")]).fails_with(3).says(&place);
}

#[test]
fn a_mistake_in_a_file_is_told_with_its_line() {
    let context = on("r.test/x", "[[registry]]\nlocation = 'https://r.test'\n");
    context.kiln(["pull", "r.test/x"]).run().fails_with(3).says("registries.conf:2: ").says("scheme");
    let missing = context.kiln(["pull", "r.test/x"]).env("CONTAINERS_REGISTRIES_CONF", "/nonexistent/r.conf");
    missing.run().fails_with(3).says("/nonexistent/r.conf").says("is not there");
}

#[test]
fn a_short_name_may_be_an_alias() {
    let registry = with_base();
    let conf = format!("[aliases]\n\"mine\" = \"{}\"\n", registry.reference("library/base"));
    let context = on("scratch", &conf);
    let finished = context.kiln(["registry", "check", "mine:1"]).run().success();
    let said = finished.stdout_text();
    assert!(said.contains("mine:1 is an alias: ") && said.contains("registries.conf:2"), "{said}");
    context.kiln(["pull", "mine:1"]).run().success();
    context.write("Dockerfile", "FROM mine:1\nCOPY --from=mine:1 /bin/busybox /copied\n");
    assert!(context.image(NONE).has("/copied"));
}

#[test]
fn an_authority_of_ones_own_is_trusted_for_its_host() {
    let certificates = Certificates::make();
    let plain = with_base();
    let registry = plain.beside(Door { certificates: Some(&certificates), ..Door::default() });
    let name = registry.reference("library/base:1");
    let context = on(&name, "");
    context.build(NONE).fails_with(3).says(registry.address()).says("certs.d");
    certificates.trust_in(&certificates_of(&context, "127.0.0.1:1"));
    context.build(NONE).fails_with(3);
    certificates.trust_in(&certificates_of(&context, registry.address()));
    context.build(["--push", "-t", &registry.reference("app:1")]).success();
    assert!(plain.manifest("app", "1").is_some());
    let found = check(&context, &name);
    assert!(
        found["places"][0]["authorities"][0].as_str().is_some_and(|file| file.ends_with("ca.crt")),
        "{found:#}"
    );
    assert!(found["places"][0]["address"].as_str().is_some_and(|a| a.starts_with("https://")), "{found:#}");
}

#[test]
fn ssl_cert_file_is_for_all_hosts() {
    let certificates = Certificates::make();
    let plain = with_base();
    let registry = plain.beside(Door { certificates: Some(&certificates), ..Door::default() });
    let context = on(&registry.reference("library/base:1"), "");
    let trusting = context.building(NONE).env("SSL_CERT_FILE", certificates.path("ca.crt"));
    trusting.run().success();
}

#[test]
fn a_client_appears_with_the_certificate_of_the_host() {
    let certificates = Certificates::make();
    let door = Door { certificates: Some(&certificates), client: true, ..Door::default() };
    let plain = with_base();
    let registry = plain.beside(door);
    let context = on(&registry.reference("library/base:1"), "");
    let folder = certificates_of(&context, registry.address());
    certificates.trust_in(&folder);
    context.build(NONE).fails_with(3).says(registry.address()).says("client.cert");
    certificates.appear_in(&folder);
    context.build(["--push", "-t", &registry.reference("app:1")]).success();
    std::fs::remove_file(folder.join("client.key")).expect("removed");
    context.kiln(["pull", &registry.reference("app:1")]).run().fails_with(3).says("client.key is missing");
    let check = context.kiln(["registry", "check", &registry.reference("app:1")]).run().fails_with(3);
    assert!(check.stdout_text().contains("client.key is missing"), "{check}");
}

#[test]
fn containerds_files_name_mirrors_too() {
    let certificates = Certificates::make();
    let plain = with_base();
    let mirror = plain.beside(Door { certificates: Some(&certificates), ..Door::default() });
    let context = on("r.test/library/base:1", "");
    let ca = certificates.path("ca.crt");
    let text = format!("[host.\"https://{}\"]\nca = '{}'\n", mirror.address(), ca.display());
    context.write_beside("home/.config/containerd/certs.d/r.test/hosts.toml", text);
    context.image(NONE).file_is("/built", "built\n");
}

#[test]
fn buildkits_settings_name_mirrors_too() {
    let mirror = with_base();
    let context = on("r.test/base:1", "");
    let text = format!("[registry.\"r.test\"]\nmirrors = ['{}/library']\n", mirror.address());
    context.write_beside("home/.config/buildkit/buildkitd.toml", text);
    context.image(NONE).file_is("/built", "built\n");
}

#[test]
fn a_registry_is_reached_through_a_proxy_with_a_password() {
    let certificates = Certificates::make();
    let plain = with_base();
    let registry = plain.beside(Door { certificates: Some(&certificates), ..Door::default() });
    for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let proxy = Proxy::to(registry.address());
        let context = on("registry.test/library/base:1", "");
        certificates.trust_in(&certificates_of(&context, "registry.test"));
        let address = proxy.address(Proxy::PASSWORD);
        context.building(NONE).env(variable, &address).run().success();
        assert!(
            proxy.asked().iter().all(|asked| asked == "CONNECT registry.test:443"),
            "{:?}",
            proxy.asked()
        );
        assert!(!proxy.asked().is_empty());
        let check = ["registry", "check", "registry.test/library/base:1"];
        let said = context.kiln(check).env(variable, &address).run().success().stdout_text();
        assert!(said.contains(&format!("http://{} ({variable})", proxy.host())), "{said}");
        let wrong = context.kiln(check).env(variable, proxy.address("not-the-secret")).run().fails_with(3);
        let words = format!("cannot be reached through the proxy http://{} ({variable})", proxy.host());
        assert!(wrong.stdout_text().contains(&words), "{wrong}");
        for text in [said, wrong.stdout_text(), wrong.stderr] {
            assert!(!text.contains(Proxy::PASSWORD) && !text.contains("not-the-secret"), "{text}");
        }
    }
}

#[test]
fn plain_http_goes_through_its_own_proxy_and_no_proxy_is_obeyed() {
    let registry = with_base();
    let proxy = Proxy::to(registry.address());
    let context = on("registry.test/library/base:1", "");
    let address = proxy.address(Proxy::PASSWORD);
    let args = ["--insecure-registry", "registry.test"];
    context.building(args).env("HTTP_PROXY", &address).run().success();
    assert!(
        proxy.asked().iter().any(|asked| asked.starts_with("GET http://registry.test/v2/")),
        "{:?}",
        proxy.asked()
    );
    let before = proxy.asked().len();
    let check = ["registry", "check", "--insecure-registry=registry.test", "registry.test/library/base:1"];
    context.kiln(check).env("HTTP_PROXY", &address).env("NO_PROXY", "other,.test").run().fails_with(3);
    context
        .kiln(["registry", "check", &registry.reference("library/base:1")])
        .env("HTTP_PROXY", &address)
        .run()
        .success();
    assert_eq!(proxy.asked().len(), before, "NO_PROXY, or loopback: {:?}", proxy.asked());
}
