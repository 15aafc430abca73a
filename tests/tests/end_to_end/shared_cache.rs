//! Caches that machines share: two stores that have nothing in common, one of which builds and exports, the other
//! imports and builds. A RUN that writes a random number tells whether it ran.

use super::{busybox, on_busybox};
use kiln_tests::{
    Fate, GhaServer, ImageAssert, Passed, Registry, Relay, S3_BUCKET, S3_KEY_ID, S3_SECRET, S3Server,
    TestContext,
};
use std::path::Path;
use std::time::{Duration, Instant};

const RANDOM: &str = "cat /proc/sys/kernel/random/uuid";

/// A Dockerfile with a stage that the image only copies from.
fn dockerfile() -> String {
    format!(
        "FROM @ AS maker\nCOPY in.txt /\nRUN {RANDOM} > /made && sleep 0.2\n\
         FROM @\nRUN {RANDOM} > /random\nCOPY --from=maker /made /\nENV A=1\n"
    )
}

/// Another machine with the same context.
fn machine(text: &str) -> TestContext {
    let context = on_busybox(text);
    context.write("in.txt", "in").date(1_700_000_000);
    context
}

fn same(one: &ImageAssert, other: &ImageAssert) {
    for file in ["/random", "/made"] {
        assert_eq!(one.file(file), other.file(file), "{file} was made anew");
    }
    assert_eq!(one.digest, other.digest, "the same image to its last byte");
}

/// Layer bytes that were fetched of a repository.
fn blob_bytes(passed: &[Passed], repository: &str) -> usize {
    let of = format!("/v2/{repository}/blobs/");
    let fetched = passed.iter().filter(|p| p.method == "GET" && p.target.starts_with(&of));
    fetched.map(|p| p.answer_bytes).sum()
}

#[test]
fn a_registry_carries_a_cache_from_one_machine_to_another() {
    let registry = Registry::start();
    let relay = Relay::to(registry.address());
    let cache = relay.reference("cache/app:main");
    let (one, other) = (machine(&dockerfile()), machine(&dockerfile()));
    let built = one.image(["--cache-to", &format!("type=registry,ref={cache},mode=max")]);
    let manifest = registry.manifest("cache/app", "main").expect("the cache was pushed");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.buildkit.cacheconfig.v0");
    let digest = manifest["config"]["digest"].as_str().expect("a digest").parse().expect("a digest");
    let config: serde_json::Value =
        serde_json::from_slice(&registry.blob("cache/app", &digest).expect("its config")).expect("JSON");
    let named = |list: &serde_json::Value, field: &str| -> std::collections::BTreeSet<String> {
        let all = list.as_array().expect("layers").iter();
        all.map(|layer| layer[field].as_str().expect("a digest").to_owned()).collect()
    };
    let (listed, needed) = (named(&manifest["layers"], "digest"), named(&config["layers"], "blob"));
    assert_eq!(listed, needed, "the manifest has just the blobs of the config");
    relay.take_passed();
    // Only its config is read as long as no step needs a file.
    let log = other.build(["--cache-from", &cache, "--output", "type=cacheonly"]).success();
    assert!(log.stderr.matches("CACHED").count() >= 2 && !log.stderr.contains("sleep 0.2\n#"), "{log}");
    let config_bytes = serde_json::to_vec(&config).map_or(0, |v| v.len());
    let fetched = blob_bytes(&relay.take_passed(), "cache/app");
    assert!(fetched > 0 && fetched <= config_bytes, "{fetched} of {config_bytes} bytes");
    let (image, log) = other.image_and_log(["--cache-from", &cache]);
    assert!(!log.stderr.contains("WARNING"), "{log}");
    same(&built, &image);
}

#[test]
fn an_image_of_the_store_leaves_its_cached_layers_at_the_registry() {
    let registry = Registry::start();
    let relay = Relay::to(registry.address());
    let cache = relay.reference("cache/app:main");
    let (one, other) = (machine(&dockerfile()), machine(&dockerfile()));
    let built = one.image(["--cache-to", &cache]);
    relay.take_passed();
    other.build(["--cache-from", &format!("type=registry,ref={cache}"), "-t", "app:1"]).success();
    let config_only = blob_bytes(&relay.take_passed(), "cache/app");
    assert!(config_only < 4096, "{config_only} bytes");
    let pushed = relay.reference("app:1");
    other.kiln(["tag", "app:1", &pushed]).run().success();
    other.kiln(["push", &pushed]).run().success();
    let third = TestContext::with_dockerfile(&format!("FROM {pushed}\n"));
    third.image(super::NONE).file_is("/random", &built.file("/random"));
}

#[test]
fn a_folder_carries_a_cache() {
    let (one, other) = (machine(&dockerfile()), machine(&dockerfile()));
    let folder = one.text("cache");
    let built = one.image(["--cache-to", &format!("type=local,dest={folder},mode=max,compression=zstd")]);
    assert!(Path::new(&folder).join("index.json").is_file());
    let log =
        other.build(["--cache-from", &format!("type=local,src={folder}"), "-o", "type=cacheonly"]).success();
    assert!(!log.stderr.contains("DONE 0.2s"), "{log}");
    let (image, log) = other.image_and_log(["--cache-from", &format!("type=local,src={folder}")]);
    assert!(!log.stderr.contains("WARNING"), "{log}");
    for file in ["/random", "/made"] {
        assert_eq!(built.file(file), image.file(file));
    }
}

#[test]
fn an_image_carries_the_cache_of_its_own_layers() {
    let registry = Registry::start();
    let relay = Relay::to(registry.address());
    let name = relay.reference("app:1");
    let (one, other) = (machine(&dockerfile()), machine(&dockerfile()));
    let built = one.image(["--cache-to", "type=inline"]);
    one.build(["-t", &name, "--push", "--cache-to", "type=inline"]).success();
    relay.take_passed();
    let log =
        other.build(["--cache-from", &format!("type=registry,ref={name}"), "-o", "type=cacheonly"]).success();
    assert!(log.stderr.contains("CACHED"), "{log}");
    assert!(blob_bytes(&relay.take_passed(), "app") < 8192, "its config alone");
    let image = other.image(["--cache-from", &name]);
    assert_eq!(built.file("/random"), image.file("/random"));
}

/// What only the target needs goes with `mode=min`; the step of the other stage must run again.
#[test]
fn a_small_cache_has_the_steps_of_the_image_only() {
    let (one, other) = (machine(&dockerfile()), machine(&dockerfile()));
    let folder = one.text("cache");
    let built = one.image(["--cache-to", &format!("type=local,dest={folder}")]);
    other.write("in.txt", "changed");
    let image = other.image(["--cache-from", &format!("type=local,src={folder}")]);
    assert_eq!(built.file("/random"), image.file("/random"));
    assert_ne!(built.file("/made"), image.file("/made"));
}

/// What the store knows and this build did not have to look at is exported all the same.
#[test]
fn a_full_cache_has_the_steps_that_were_cached_too() {
    let (one, other) = (machine(&dockerfile()), machine(&dockerfile()));
    let folder = one.text("cache");
    let built = one.image(super::NONE);
    one.build(["-o", "type=cacheonly", "--cache-to", &format!("type=local,dest={folder},mode=max")])
        .success();
    let from = format!("type=local,src={folder}");
    other.write(
        "Dockerfile",
        format!("FROM {} AS maker\nCOPY in.txt /\nRUN {RANDOM} > /made && sleep 0.2\n", busybox()),
    );
    let image = other.image(["--cache-from", &from]);
    assert_eq!(built.file("/made"), image.file("/made"), "the stage that the image only copies from");
}

#[test]
fn a_cache_that_is_not_there_yet_is_a_warning() {
    let registry = Registry::start();
    let context = machine(&dockerfile());
    let cache = registry.reference("cache/none:main");
    let log = context.build(["--cache-from", &cache]).success();
    assert_eq!(log.stderr.matches("WARNING").count(), 1, "{log}");
    assert!(log.stderr.contains(&format!("there is no cache registry {cache} yet")), "{log}");
    let strict = machine(&dockerfile());
    strict.build(["--cache-from", &cache, "--cache-strict"]).fails_with(4);
}

#[test]
fn a_cache_that_fails_is_one_warning_and_the_image_is_right() {
    let registry = Registry::start();
    let relay = Relay::to(registry.address());
    let cache = relay.reference("cache/app:main");
    machine(&dockerfile()).build(["--cache-to", &format!("type=registry,ref={cache},mode=max")]).success();
    for status in [500, 404, 429, 403] {
        relay.decide(move |_, _| Fate::Answered(status, vec![("Retry-After", "0".to_owned())]));
        let context = machine(&dockerfile());
        let both = ["--cache-from", &cache, "--cache-to", &cache];
        let (image, log) = context.image_and_log(both);
        image.is("/random", 0o644, (0, 0));
        let warnings: Vec<&str> = log.stderr.lines().filter(|line| line.starts_with("WARNING")).collect();
        assert_eq!(warnings.len(), 2, "{status}: one for reading, one for writing: {log}");
        let strict = machine(&dockerfile());
        strict.build(["--cache-from", &cache, "--cache-strict"]).fails_with(4);
    }
}

/// The config is there, the layers are not: what was taken for known runs after all.
#[test]
fn a_cache_whose_layers_are_gone_is_as_if_it_were_empty() {
    let registry = Registry::start();
    let relay = Relay::to(registry.address());
    let cache = relay.reference("cache/app:main");
    let one = machine(&dockerfile());
    one.build(["--cache-to", &format!("type=registry,ref={cache},mode=max")]).success();
    let manifest: serde_json::Value =
        serde_json::from_slice(&registry.manifest("cache/app", "main").expect("a cache")).expect("JSON");
    let config = manifest["config"]["digest"].as_str().expect("a digest").to_owned();
    for broken in [Fate::Answered(404, Vec::new()), Fate::Answered(500, Vec::new()), Fate::CutAfter(300)] {
        let (config, fate) = (config.clone(), broken.clone());
        relay.decide(move |method, target| {
            let is_layer = method == "GET" && target.contains("/blobs/") && !target.ends_with(&config);
            if is_layer { fate.clone() } else { Fate::Passes }
        });
        let other = machine(&dockerfile());
        let (image, log) = other.image_and_log(["--cache-from", &cache]);
        image.is("/made", 0o644, (0, 0));
        assert_eq!(log.stderr.matches("WARNING").count(), 1, "{broken:?}: {log}");
        let strict = machine(&dockerfile());
        let strict = strict.build(["--cache-from", &cache, "--cache-strict", "-o", "type=oci,dest=x.tar"]);
        strict.fails_with(4);
    }
}

#[test]
fn a_cache_that_hangs_is_waited_for_only_so_long() {
    let registry = Registry::start();
    let relay = Relay::to(registry.address());
    relay.decide(|_, _| Fate::Hangs);
    let context = machine(&dockerfile());
    let started = Instant::now();
    let log = context.build(["--cache-from", &relay.reference("cache/app:main")]).success();
    assert_eq!(log.stderr.matches("WARNING").count(), 1, "{log}");
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
}

#[test]
fn another_builders_cache_is_told_as_such() {
    let registry = Registry::start();
    let theirs = format!(r#"{{"layers":[],"records":[{{"digest":"{}"}}]}}"#, kiln_oci::Digest::of(b"x"));
    let config = registry.put_blob("cache/theirs", theirs.as_bytes());
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[],
            "config":{{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"{config}","size":{}}}}}"#,
        theirs.len()
    );
    registry.put_manifest("cache/theirs", "main", &kiln_oci::MediaType::OciManifest, text.as_bytes());
    let log =
        machine(&dockerfile()).build(["--cache-from", &registry.reference("cache/theirs:main")]).success();
    assert!(log.stderr.contains("written by another builder"), "{log}");
}

/// Three jobs on cold machines, each of which builds one stage; the fourth has nothing to run.
#[test]
fn caches_of_several_jobs_come_together() {
    let text = format!(
        "FROM @ AS a\nRUN {RANDOM} > /a\nFROM @ AS b\nRUN {RANDOM} > /b\nFROM @ AS c\nRUN {RANDOM} > /c\n\
         FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\nCOPY --from=c /c /\n"
    );
    let keeper = TestContext::new();
    let mut from = Vec::new();
    for stage in ["c", "a", "b"] {
        let folder = keeper.text(stage);
        let to = format!("type=local,dest={folder},mode=max");
        on_busybox(&text).build(["--target", stage, "-o", "type=cacheonly", "--cache-to", &to]).success();
        from.extend(["--cache-from".to_owned(), format!("type=local,src={folder}")]);
    }
    let (first, second) = (on_busybox(&text).image(&from), on_busybox(&text).image(&from));
    for file in ["/a", "/b", "/c"] {
        assert_eq!(first.file(file), second.file(file), "{file} was made anew");
    }
}

/// A layer is on its way while a later step still runs.
#[test]
fn layers_leave_while_the_build_still_runs() {
    let registry = Registry::start();
    let relay = Relay::to(registry.address());
    let cache = relay.reference("cache/app:main");
    let context = on_busybox("FROM @\nRUN echo first > /first\nRUN sleep 4\n");
    let running = context.building(["--cache-to", &format!("type=registry,ref={cache},mode=max")]).start();
    let early = kiln_tests::wait_until(Duration::from_secs(3), || {
        relay.take_passed().iter().any(|p| p.request_bytes > 0 && p.target.contains("/blobs/uploads/"))
    });
    running.wait(kiln_tests::TIME_LIMIT).success();
    assert!(early, "no layer came while the second step slept");
}

/// A compiler's cache is warm on another machine, though nothing of the step itself can be reused.
#[test]
fn cache_mounts_travel_with_a_cache() {
    let registry = Registry::start();
    let relay = Relay::to(registry.address());
    let text = "FROM @\nCOPY in.txt /\nRUN --mount=type=cache,id=compiled,target=/c cat /c/* > /found; \
                cp /in.txt /c/$(wc -l < /found)\n";
    let folder = TestContext::new();
    for (place, from) in [
        (
            format!("type=registry,ref={}", relay.reference("cache/mounts:1")),
            relay.reference("cache/mounts:1"),
        ),
        (format!("type=local,dest={}", folder.text("c")), format!("type=local,src={}", folder.text("c"))),
    ] {
        let (one, other) = (machine(text), machine(text));
        one.write("in.txt", "one\n");
        one.build(["-o", "type=cacheonly", "--cache-to", &format!("{place},mode=max,mounts=all")]).success();
        other.write("in.txt", "two\n");
        relay.take_passed();
        let (image, log) =
            other.image_and_log(["--cache-from", &from, "--cache-to", &format!("{place},mounts=compiled")]);
        image.file_is("/found", "one\n");
        assert!(log.stderr.contains("importing cache mount compiled"), "{log}");
        // A third machine has what both kept; and one on which nothing runs passes it on.
        let (third, fourth) = (machine(text), machine(text));
        third.write("in.txt", "two\n");
        third
            .build([
                "-o",
                "type=cacheonly",
                "--cache-from",
                &from,
                "--cache-to",
                &format!("{place},mounts=all"),
            ])
            .success();
        fourth.write("in.txt", "three\n");
        fourth.image(["--cache-from", &from]).file_is("/found", "one\ntwo\n");
    }
}

#[test]
fn a_step_that_is_too_old_for_its_comment_is_not_taken_from_a_cache_either() {
    let text = format!("FROM @\n# kiln: max-age=2s\nRUN {RANDOM} > /random\n");
    let (one, other) = (machine(&text), machine(&text));
    let folder = one.text("cache");
    let built = one.image(["--cache-to", &format!("type=local,dest={folder}")]);
    std::thread::sleep(Duration::from_secs(3));
    let image = other.image(["--cache-from", &format!("type=local,src={folder}")]);
    assert_ne!(built.file("/random"), image.file("/random"));
}

#[test]
fn what_a_cache_knew_is_explained_so() {
    let (one, other) = (machine(&dockerfile()), machine(&dockerfile()));
    let folder = one.text("cache");
    one.build(["-o", "type=cacheonly", "--cache-to", &format!("type=local,dest={folder},mode=max")])
        .success();
    let from = format!("type=local,src={folder}");
    let log = other.build(["--explain", "-o", "type=cacheonly", "--cache-from", &from]).success();
    assert!(log.stderr.contains(&format!("hit in the cache local {folder}")), "{log}");
}

/// One machine's store is lost between two builds, and the cache is at GitHub Actions or in a bucket.
#[test]
fn other_services_carry_a_cache_too() {
    let server = GhaServer::start(&["refs/heads/main"]);
    let s3 = S3Server::start();
    let gha = ["ACTIONS_RESULTS_URL", "ACTIONS_RUNTIME_TOKEN"];
    let bucket = format!(
        "type=s3,bucket={S3_BUCKET},region=us-east-1,endpoint_url={},use_path_style=true,\
         access_key_id={S3_KEY_ID},secret_access_key={S3_SECRET}",
        s3.endpoint()
    );
    for option in ["type=gha,scope=x".to_owned(), bucket] {
        let (one, other) = (machine(&dockerfile()), machine(&dockerfile()));
        let with = |context: &TestContext, args: &[&str]| {
            let output = format!("type=oci,dest={}", context.text("image.tar"));
            let mut all = vec!["--output", &output];
            all.extend(args);
            let build = context.building(all).env(gha[0], server.url()).env(gha[1], server.token());
            let log = build.run().success();
            assert!(!log.stderr.contains("WARNING"), "{log}");
            ImageAssert::of_archive(&context.path("image.tar"))
        };
        let built = with(&one, &["--cache-to", &format!("{option},mode=max")]);
        let image = with(&other, &["--cache-from", &option]);
        same(&built, &image);
    }
}

/// The server is gone between the first layer and the last: the image is right, and one line says what was not written.
#[test]
fn a_cache_server_that_dies_in_the_middle_of_a_build_is_one_warning() {
    let registry = Registry::start();
    let relay = Relay::to(registry.address());
    let cache = relay.reference("cache/app:main");
    let context = on_busybox("FROM @\nRUN echo first > /first\nRUN sleep 3; echo second > /second\n");
    let output = format!("type=oci,dest={}", context.text("image.tar"));
    let to = format!("type=registry,ref={cache},mode=max");
    let running = context.building(["--cache-from", &cache, "--cache-to", &to, "--output", &output]).start();
    let sent = kiln_tests::wait_until(Duration::from_secs(20), || {
        relay.take_passed().iter().any(|p| p.request_bytes > 0 && p.target.contains("/blobs/uploads/"))
    });
    assert!(sent, "no layer came while the second step slept");
    drop(relay);
    let log = running.wait(kiln_tests::TIME_LIMIT).success();
    let unwritten = log.stderr.lines().filter(|line| line.starts_with("WARNING: cannot write the cache"));
    assert_eq!(unwritten.count(), 1, "{log}");
    ImageAssert::of_archive(&context.path("image.tar"))
        .file_is("/first", "first\n")
        .file_is("/second", "second\n");
}
