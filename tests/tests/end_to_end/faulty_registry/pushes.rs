//! Pushes to a registry that fails.

use super::{Case, LOGIN, MANIFEST, hasty, logged_in, noise, serve, told_to_wait};
use kiln_oci::{Digest, Manifest};
use kiln_tests::{Asked, BaseImage, Fault, FaultyRegistry, Finished, LayerEntry, Let, Nature, Told};
use kiln_tests::{TestContext, Uploads};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SIZE: usize = 300_000;

/// A store with an image of one layer, which every push of a test sends under another name.
struct Source {
    context: TestContext,
}

impl Source {
    fn new() -> Source {
        let context = TestContext::with_dockerfile("FROM scratch\nCOPY data /data\n");
        context.write("data", noise(SIZE, 7));
        context.build(["-t", "source:1"]).success();
        Source { context }
    }

    /// Pushes to a registry.
    fn push(&self, registry: &FaultyRegistry) -> Finished {
        let name = registry.reference("a/b:1");
        self.context.kiln(["tag", "source:1", &name]).run().success();
        hasty(self.context.kiln(["push", "-q", &name])).run()
    }

    /// Pushes, which must succeed, and gives the size of the layer's blob.
    #[track_caller]
    fn pushes(&self, name: &str, registry: &FaultyRegistry, at_most: f64) -> Finished {
        let finished = self.push(registry).success();
        let (manifest, bytes) = pushed(registry, name);
        let blobs: u64 = manifest.layers.iter().chain([&manifest.config]).map(|blob| blob.size).sum();
        Case { at_most, ..Case::new(name, registry, blobs + bytes) }.ended(&finished);
        finished
    }
}

/// The manifest that a registry has now, all of whose blobs must be right.
#[track_caller]
fn pushed(registry: &FaultyRegistry, name: &str) -> (Manifest, u64) {
    let bytes = registry.manifest("a/b", "1").unwrap_or_else(|| panic!("{name}: nothing was pushed"));
    let manifest: Manifest = serde_json::from_slice(&bytes).expect("a manifest");
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        let kept = registry.blob("a/b", &blob.digest.to_string()).expect("the blob");
        assert_eq!(Digest::of(&kept), blob.digest, "{name}");
    }
    (manifest, bytes.len() as u64)
}

/// Whether it carries bytes of the layer, which is the only large blob.
fn carries_layer(asked: &Asked) -> bool {
    asked.kind() == "uploads" && asked.header("content-length").is_some_and(|length| length.len() > 4)
}

/// The requests that carried bytes of the layer, or asked how much of it is there.
fn uploads(registry: &FaultyRegistry) -> Vec<String> {
    let recorded = registry.recorded();
    let about_layer = recorded.iter().filter(|one| {
        carries_layer(&one.asked) || one.asked.kind() == "uploads" && one.asked.method == "GET"
    });
    about_layer.map(|one| one.line()).collect()
}

#[test]
fn only_what_is_missing_is_sent_and_the_manifest_last() {
    let (source, registry) = (Source::new(), FaultyRegistry::start());
    source.pushes("push", &registry, 1.1);
    assert_eq!(registry.recorded().last().expect("requests").line(), "PUT manifests 201");
    registry.script(|_| None);
    let finished = source.push(&registry).success();
    let (_, bytes) = pushed(&registry, "again");
    Case::new("push again, all is there", &registry, bytes).ended(&finished);
    assert_eq!(registry.lines(), ["HEAD blobs 200", "HEAD blobs 200", "PUT manifests 201"]);
}

#[test]
fn a_push_that_is_cut_at_any_byte_goes_on_at_that_byte() {
    let source = Source::new();
    for at in [0, 1, 2, 7, 1000, 65_536, 150_000, SIZE as u64] {
        let registry = FaultyRegistry::start();
        registry.script(move |asked| {
            let is_first = asked.method == "PUT" && carries_layer(asked) && asked.nth < 2;
            is_first.then_some(Fault::CutRequestAfter(at))
        });
        // Nobody can tell one byte from none: all is sent again, and refused, and sent once more.
        let at_most = if at == 1 { 2.1 } else { 1.1 };
        source.pushes(&format!("push, layer cut at byte {at}"), &registry, at_most);
        let sent = registry.lines();
        if at >= 2 {
            let rest = format!("PATCH uploads [{at}-");
            assert!(sent.iter().any(|line| line.starts_with(&rest)), "{sent:?}");
        }
    }
    let registry = FaultyRegistry::start();
    registry.script(move |asked| carries_layer(asked).then_some(Fault::CutRequestAfter(40_000)));
    source.pushes("push, layer cut after each 40000 bytes", &registry, 1.1);
}

#[test]
fn what_passes_is_waited_for() {
    let source = Source::new();
    let pauses = |(method, kind): (&'static str, &'static str), form: &'static str| {
        let registry = FaultyRegistry::start();
        registry.script(move |asked| {
            (asked.is(method, kind) && asked.nth == 0).then(|| Fault::Answer(told_to_wait(form)))
        });
        let name = format!("push, 429 to {method} {kind}, Retry-After in {form}");
        // What was on its way when the answer came counts as moved.
        let at_most = if (method, kind) == ("PUT", "uploads") { 2.1 } else { 1.1 };
        let finished = source.pushes(&name, &registry, at_most);
        assert!(finished.took >= Duration::from_secs(1), "{finished}");
    };
    std::thread::scope(|scope| {
        for what in [("POST", "uploads"), ("PUT", "uploads"), ("PUT", "manifests")] {
            for form in ["seconds", "a date"] {
                scope.spawn(move || pauses(what, form));
            }
        }
    });
    for status in [408, 500, 502, 503, 504] {
        let registry = FaultyRegistry::start();
        registry.script(move |asked| (asked.nth < 2).then_some(Fault::Answer(Told::status(status))));
        source.pushes(&format!("push, twice {status} for all"), &registry, 2.1);
    }
    let registry = FaultyRegistry::start();
    registry.script(|asked| (asked.nth < 2).then_some(Fault::Reset));
    source.pushes("push, two resets for all", &registry, 1.1);
    for kind in ["uploads", "manifests"] {
        let registry = FaultyRegistry::start();
        registry.script(move |asked| (asked.is("PUT", kind) && asked.nth < 2).then_some(Fault::LoseAnswer));
        source.pushes(&format!("push, the answer to PUT {kind} is lost"), &registry, 1.1);
    }
}

#[test]
fn an_upload_that_stalls_goes_on_at_the_byte_where_it_stopped() {
    let (source, registry) = (Source::new(), FaultyRegistry::start());
    registry.script(|asked| {
        let is_first = asked.method == "PUT" && carries_layer(asked) && asked.nth < 2;
        is_first.then_some(Fault::StallRequestAfter(120_000))
    });
    let name = registry.reference("a/b:1");
    source.context.kiln(["tag", "source:1", &name]).run().success();
    // All bytes are on their way, so that it may take ten times as long until the answer comes.
    let command = source.context.kiln(["push", "-q", "--network-timeout", "300ms", &name]);
    let finished = command.env("KILN_RETRY_DELAY", "10ms").run().success();
    pushed(&registry, "stalled");
    Case::new("push, stalls at byte 120000", &registry, SIZE as u64 + 1100).ended(&finished);
    let sent = registry.lines();
    assert!(sent.iter().any(|line| line.starts_with("PATCH uploads [120000-")), "{sent:?}");
}

#[test]
fn what_is_answered_early_is_not_sent_to_its_end() {
    const LARGE: usize = 64 << 20;
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY data /data\n");
    context.write("data", noise(LARGE, 17));
    let registry = FaultyRegistry::start();
    let target = registry.reference("a/b:1");
    context.build(["-t", &target]).success();
    registry.script(|asked| {
        let is_first = asked.method == "PUT" && carries_layer(asked) && asked.nth < 2;
        is_first.then_some(Fault::Answer(Told::status(503)))
    });
    let finished = hasty(context.kiln(["push", "-q", &target])).run().success();
    pushed(&registry, "answered early");
    let name = "push, 64 MiB, 503 before it is taken";
    Case::new(name, &registry, LARGE as u64).ended(&finished);
}

#[test]
fn what_does_not_pass_leaves_no_manifest() {
    let source = Source::new();
    for (status, requests) in [(503, 6), (403, 1), (507, 1)] {
        let registry = FaultyRegistry::start();
        registry.script(move |asked| {
            asked.is("POST", "uploads").then_some(Fault::Answer(Told::status(status).body("no room")))
        });
        let finished = source.push(&registry).fails_with(3).says(registry.address()).says("no room");
        Case::new(&format!("push, {status} for ever"), &registry, 0).ended(&finished);
        let posts = registry.lines().iter().filter(|line| line.starts_with("POST")).count();
        assert!(posts == requests || posts == 2 * requests, "of one or two blobs: {:?}", registry.lines());
        assert!(registry.manifest("a/b", "1").is_none());
    }
}

#[test]
fn an_upload_that_is_given_up_is_deleted() {
    let source = Source::new();
    for status in [507, 503] {
        let registry = FaultyRegistry::start();
        registry.script(move |asked| {
            let is_meant = carries_layer(asked) && matches!(asked.method.as_str(), "PUT" | "PATCH");
            is_meant.then(|| Fault::AnswerAfter(1000, Told::status(status)))
        });
        // It is given a second, which a machine with much else to do may let pass.
        let is_deleted = || {
            source.push(&registry).fails_with(3).says(&status.to_string());
            registry.lines().contains(&"DELETE uploads 204".to_owned())
        };
        assert!((0..3).any(|_| is_deleted()), "{:?}", registry.lines());
        assert!(registry.manifest("a/b", "1").is_none());
    }
    // A registry that does not answer that either holds nobody up for long.
    let registry = FaultyRegistry::start();
    registry.script(|asked| match asked.method.as_str() {
        "DELETE" => Some(Fault::Late(Duration::from_secs(8))),
        _ => carries_layer(asked).then(|| Fault::AnswerAfter(1000, Told::status(507))),
    });
    let finished = source.push(&registry).fails_with(3).says("507");
    assert!(finished.took < Duration::from_secs(5), "{finished}");
}

#[test]
fn ctrl_c_in_an_upload_deletes_it() {
    let (source, registry) = (Source::new(), FaultyRegistry::start());
    registry.script(|asked| carries_layer(asked).then_some(Fault::StallRequestAfter(120_000)));
    let name = registry.reference("a/b:1");
    source.context.kiln(["tag", "source:1", &name]).run().success();
    let running = source.context.kiln(["push", "-q", &name]).start();
    let is_stalled = || registry.recorded().iter().any(|one| carries_layer(&one.asked));
    assert!(kiln_tests::wait_until(Duration::from_secs(20), is_stalled));
    running.signal(rustix::process::Signal::INT);
    let finished = running.wait(Duration::from_secs(20));
    assert_eq!(finished.code, Some(130), "{finished}");
    let sent = registry.lines();
    assert!(sent.iter().any(|line| line.starts_with("DELETE uploads")), "{sent:?}");
}

#[test]
fn one_registry_that_fails_does_not_keep_the_image_from_the_others() {
    let (bad, good, third) = (FaultyRegistry::start(), FaultyRegistry::start(), FaultyRegistry::start());
    let context = TestContext::with_dockerfile("FROM scratch\nARG TARGETARCH\nCOPY data /$TARGETARCH\n");
    context.write("data", noise(SIZE, 9));
    let names = [("a/x", "1"), ("a/x", "latest"), ("b/y", "2")];
    let refuse = |registry: &FaultyRegistry| {
        registry.script(|asked| {
            asked.is("PUT", "manifests").then(|| Fault::Answer(Told::status(403).body("no room")))
        });
    };
    refuse(&bad);
    let reference =
        |registry: &FaultyRegistry, (name, tag): (&str, &str)| registry.reference(&format!("{name}:{tag}"));
    // One build with tags at several registries, the bad one first.
    let tags = names.iter().flat_map(|name| [&bad, &good].map(|registry| reference(registry, *name)));
    let mut args: Vec<String> = tags.flat_map(|tag| ["-t".to_owned(), tag]).collect();
    args.extend(["--push", "--platform", "linux/amd64,linux/arm64"].map(str::to_owned));
    hasty(context.building(&args)).run().fails_with(3).says(bad.address());
    for (repository, tag) in names {
        assert!(good.manifest(repository, tag).is_some(), "{repository}:{tag}");
        assert!(bad.manifest(repository, tag).is_none(), "{repository}:{tag}");
    }
    is_in_order(&good, "a/x");
    is_in_order(&good, "b/y");
    // The same as outputs of their own.
    let output =
        |registry: &FaultyRegistry| format!("type=registry,name={}", reference(registry, ("c/z", "1")));
    let args = ["-o", &output(&bad), "-o", &output(&third), "--platform", "linux/amd64,linux/arm64"];
    hasty(context.building(args)).run().fails_with(3).says(bad.address());
    assert!(third.manifest("c/z", "1").is_some() && bad.manifest("c/z", "1").is_none());
    is_in_order(&third, "c/z");
    // One that is down is named, and not waited for once for each of its names.
    let closed = kiln_tests::closed_port();
    let (one, other) = (format!("{closed}/a:1"), format!("{closed}/b:1"));
    let last = third.reference("d/w:1");
    let finished = hasty(context.building(["-t", &one, "-t", &other, "-t", &last, "--push"])).run();
    finished.fails_with(3).says(&closed);
    assert!(third.manifest("d/w", "1").is_some());
}

/// Whether the blobs of a repository went before its first manifest, and the index after what it lists.
#[track_caller]
fn is_in_order(registry: &FaultyRegistry, repository: &str) {
    let of = |target: &str| target.starts_with(&format!("/v2/{repository}/"));
    let recorded = registry.recorded();
    let puts: Vec<&str> = recorded
        .iter()
        .filter(|one| one.asked.method == "PUT" && of(&one.asked.target))
        .map(|one| one.asked.target.as_str())
        .collect();
    let first = puts.iter().position(|target| target.contains("/manifests/")).expect("manifests");
    assert!(puts[first..].iter().all(|target| target.contains("/manifests/")), "{puts:?}");
    let (children, tops): (Vec<&str>, Vec<&str>) =
        puts[first..].iter().partition(|target| target.contains("/manifests/sha256:"));
    assert!(children.len() >= 2 && !tops.is_empty(), "{puts:?}");
    assert!(puts[first].contains("sha256:") && !puts[puts.len() - 1].contains("sha256:"), "{puts:?}");
    let tops_before = puts[first..].iter().take_while(|target| target.contains("sha256:")).count();
    assert!(tops_before >= 2, "the index is last: {puts:?}");
}

#[test]
fn a_token_that_ends_in_the_middle_is_renewed_and_the_upload_goes_on() {
    let registry = FaultyRegistry::of(Nature { lets: Let::Token(1000), ..Nature::default() });
    let source = Source::new();
    let login = format!("{{\"auths\":{{\"{}\":{{\"auth\":\"{LOGIN}\"}}}}}}", registry.address());
    source.context.write_beside("home/.docker/config.json", login);
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"x\"", registry.address());
    let was_told = AtomicBool::new(false);
    registry.script(move |asked| {
        let told = Told::status(401).header("WWW-Authenticate", realm.clone());
        let is_first =
            asked.method == "PUT" && carries_layer(asked) && !was_told.swap(true, Ordering::Relaxed);
        is_first.then_some(Fault::AnswerAfter(100_000, told))
    });
    source.pushes("push, 401 after 100000 bytes", &registry, 1.1);
    let sent = uploads(&registry);
    assert!(sent.contains(&"GET uploads 204".to_owned()), "{sent:?}");
    // The config goes beside it, and may be asked about as well.
    assert!(sent.iter().any(|line| line.starts_with("PATCH uploads [100000-")), "{sent:?}");
    assert_eq!(registry.lines().iter().filter(|line| line.contains("token")).count(), 2);
    let registry = FaultyRegistry::of(Nature { lets: Let::Token(6), ..Nature::default() });
    let login = format!("{{\"auths\":{{\"{}\":{{\"auth\":\"{LOGIN}\"}}}}}}", registry.address());
    source.context.write_beside("home/.docker/config.json", login);
    // Where the layer's own request is the one that comes too late, all of it may be on its way when that is said.
    source.pushes("push, a token is good for 6 requests", &registry, 2.1);
}

#[test]
fn registries_that_take_uploads_in_one_way_only_get_them_so() {
    let source = Source::new();
    let of = |uploads| FaultyRegistry::of(Nature { uploads, ..Nature::default() });
    let cut = |asked: &Asked| {
        (asked.method == "PUT" && carries_layer(asked) && asked.nth < 2)
            .then_some(Fault::CutRequestAfter(90_000))
    };
    let registry = of(Uploads::WholeOnly);
    registry.script(cut);
    // What was sent is lost there, whatever one does.
    source.pushes("push, nothing is kept, cut at byte 90000", &registry, 1.4);
    assert!(uploads(&registry).contains(&"GET uploads 404".to_owned()), "{:?}", uploads(&registry));
    let registry = FaultyRegistry::start();
    registry.script(move |asked| match asked.method.as_str() {
        "PATCH" => Some(Fault::Answer(Told::status(405))),
        _ => cut(asked),
    });
    source.pushes("push, no PATCH, cut at byte 90000", &registry, 2.4);
    let registry = of(Uploads::PartsOnly);
    source.pushes("push, no PUT with a body", &registry, 2.1);
    assert!(
        uploads(&registry).iter().any(|line| line.starts_with("PATCH uploads [0-")),
        "{:?}",
        uploads(&registry)
    );
    for (name, uploads_most, is_ok) in [("70000", 70_000, true), ("1000", 1000, false)] {
        let registry = of(Uploads::AtMost(uploads_most));
        if is_ok {
            source.pushes(&format!("push, at most {name} bytes at once"), &registry, 2.6);
            assert!(uploads(&registry).iter().any(|line| line.contains("PATCH uploads [65536-131071] 202")));
        } else {
            let finished = source.push(&registry).fails_with(3).says("413").says(registry.address());
            let name = format!("push, at most {name} bytes at once");
            Case { at_most: 3.0, ..Case::new(&name, &registry, SIZE as u64) }.ended(&finished);
        }
    }
    let registry = of(Uploads::AtLeast(100_000));
    registry.script(|asked| {
        let is_large =
            asked.header("content-length").is_some_and(|n| n.parse().is_ok_and(|n: u64| n > 150_000));
        (is_large && asked.kind() == "uploads").then_some(Fault::Answer(Told::status(413)))
    });
    source.pushes("push, at least 100000, at most 150000 at once", &registry, 2.6);
    let sent = uploads(&registry);
    assert!(sent.iter().any(|line| line.contains("PATCH uploads [0-") && line.ends_with("202")), "{sent:?}");
}

#[test]
fn a_part_that_does_not_fit_is_sent_from_where_the_registry_is() {
    let (source, registry) = (Source::new(), FaultyRegistry::start());
    registry.script(|asked| match (asked.method.as_str(), asked.nth) {
        ("PUT", 0 | 1) if carries_layer(asked) => Some(Fault::CutRequestAfter(50_000)),
        ("PATCH", 0) => Some(Fault::Answer(Told::status(416))),
        _ => None,
    });
    source.pushes("push, 416 for the rest", &registry, 2.1);
    let sent = uploads(&registry);
    assert!(
        sent.iter().any(|line| line.starts_with("PATCH uploads [50000-") && line.ends_with("202")),
        "{sent:?}"
    );
    let registry = FaultyRegistry::start();
    registry.script(|asked| match (asked.method.as_str(), asked.nth) {
        ("PUT", 0 | 1) if carries_layer(asked) => Some(Fault::CutRequestAfter(50_000)),
        // It says that it has more than it has.
        ("GET", 0) if asked.kind() == "uploads" => Some(Fault::Header("Range", "0-59999".to_owned())),
        _ => None,
    });
    source.pushes("push, a Range that is wrong", &registry, 2.1);
}

#[test]
fn an_upload_is_where_the_registry_says() {
    let source = Source::new();
    for location in ["PATH", "http://ADDRESSPATH", "PATH?_state=a%2Fb%3D&x=1", "//ADDRESSPATH"] {
        let location = location.to_owned();
        let name = format!("push, Location {location}");
        let registry = FaultyRegistry::of(Nature { location: location.clone(), ..Nature::default() });
        source.pushes(&name, &registry, 1.1);
        let query = location.split_once('?').map_or("", |(_, query)| query);
        let recorded = registry.recorded();
        let puts = recorded.iter().filter(|one| one.asked.is("PUT", "uploads"));
        assert!(puts.clone().count() == 2 && puts.clone().all(|one| one.asked.target.contains(query)));
    }
}

#[test]
fn a_layer_is_mounted_from_where_its_base_came() {
    let base = BaseImage::of(&[LayerEntry::File("data", 0o644, noise(SIZE, 9))]).parts();
    for (name, mounts) in [("push, mounted", true), ("push, the mount becomes an upload", false)] {
        let registry = FaultyRegistry::of(Nature { lets: Let::Token(1000), mounts, ..Nature::default() });
        serve(&registry, &base);
        let context = logged_in(&registry);
        context.write("Dockerfile", format!("FROM {}\nLABEL a=b\n", registry.reference("a/b:1")));
        let target = registry.reference("c/d:1");
        hasty(context.building(["-t", &target])).run().success();
        registry.script(|_| None);
        let finished = hasty(context.kiln(["push", &target])).run().success();
        let bytes = registry.manifest("c/d", "1").expect("it was pushed");
        let layer = Digest::of(&base.layers[0]).to_string();
        assert!(registry.blob("c/d", &layer).is_some());
        // The base's layer was never here: it comes, and goes there, only if it can't be mounted.
        let layers = if mounts { 0 } else { 2 * base.layers[0].len() as u64 };
        let sent = 2000 + bytes.len() as u64;
        Case { at_most: 1.3, ..Case::new(name, &registry, layers + sent) }.ended(&finished);
        let lines = registry.lines();
        let tokens: Vec<String> = registry
            .recorded()
            .iter()
            .filter(|one| one.asked.kind() == "token" && one.asked.target.contains("c%2Fd"))
            .map(|one| one.asked.target.clone())
            .collect();
        assert_eq!(tokens.len(), 1, "one token for all: {lines:#?}");
        assert!(
            tokens[0].contains("a%2Fb%3Apull") && tokens[0].contains("c%2Fd%3Apull%2Cpush"),
            "{tokens:?}"
        );
    }
}

#[test]
fn an_index_goes_after_its_manifests_also_when_all_fails_at_first() {
    let registry = FaultyRegistry::start();
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY data /data\n");
    context.write("data", noise(SIZE, 11));
    registry.script(|asked| match asked.nth {
        0 => Some(Fault::Answer(Told::status(500))),
        1 => Some(Fault::Reset),
        _ => None,
    });
    let target = registry.reference("a/b:1");
    let platforms = "--platform=linux/amd64,linux/arm64";
    let finished = hasty(context.building([platforms, "--push", "-t", &target])).run().success();
    let index = registry.manifest("a/b", "1").expect("it was pushed");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
    let listed: Vec<&str> = index["manifests"]
        .as_array()
        .expect("manifests")
        .iter()
        .filter_map(|one| one["digest"].as_str())
        .collect();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|digest| registry.manifest("a/b", digest).is_some()));
    let case = Case::new("build --push of an index, 500 and a reset for all", &registry, SIZE as u64 + 3000);
    Case { at_most: 2.2, ..case }.ended(&finished);
    assert_eq!(index["manifests"][0]["mediaType"], MANIFEST);
}
