//! Pulls from a registry that fails.

use super::{Case, MANIFEST, has_blob, hasty, image, is_clean, needed, serve, told_to_wait};
use kiln_oci::Digest;
use kiln_tests::{
    Asked, BaseImage, Fault, FaultyRegistry, Finished, LayerEntry, Nature, Parts, TestContext, Told,
};
use std::time::Duration;

/// A registry with an image whose layer has some 300 kB.
fn served() -> (FaultyRegistry, Parts) {
    let (registry, parts) = (FaultyRegistry::start(), image(300_000));
    serve(&registry, &parts);
    (registry, parts)
}

fn pull(context: &TestContext, registry: &FaultyRegistry) -> Finished {
    hasty(context.kiln(["pull", "-q", &registry.reference("a/b:1")])).run()
}

/// Pulls into an empty store, which must succeed.
#[track_caller]
fn pulls(name: &str, registry: &FaultyRegistry, parts: &Parts, at_most: f64) -> Finished {
    let context = TestContext::new();
    let finished = pull(&context, registry).success();
    Case { at_most, ..Case::new(name, registry, needed(parts)) }.ended(&finished);
    assert_eq!(finished.stdout_text().trim(), Digest::of(&parts.manifest).to_string(), "{name}");
    assert!(parts.layers.iter().all(|layer| has_blob(&context, layer)), "{name}");
    is_clean(&context);
    finished
}

/// Pulls into an empty store, which must fail with these words and spoil nothing: without the fault the same
/// store takes the image.
#[track_caller]
fn fails(name: &str, registry: &FaultyRegistry, parts: &Parts, words: &[&str]) -> Finished {
    let context = TestContext::new();
    let finished = pull(&context, registry).fails_with(3);
    Case::new(name, registry, needed(parts)).ended(&finished);
    for word in words {
        assert!(finished.stderr.contains(word), "{name}: no `{word}` in {finished}");
    }
    is_clean(&context);
    serve(registry, parts);
    registry.script(|_| None);
    pull(&context, registry).success();
    assert!(parts.layers.iter().all(|layer| has_blob(&context, layer)), "{name}");
    finished
}

fn is_layer(asked: &Asked, layer: &Digest) -> bool {
    asked.method == "GET" && asked.kind() == "blobs" && asked.target.contains(&layer.hex().to_string())
}

/// What is asked of one layer, its ranges.
fn ranges(registry: &FaultyRegistry, layer: &Digest) -> Vec<String> {
    let recorded = registry.recorded();
    let of_layer = recorded.iter().filter(|one| is_layer(&one.asked, layer));
    of_layer.map(|one| one.asked.header("range").unwrap_or("all").to_owned()).collect()
}

#[test]
fn a_pull_that_is_cut_at_any_byte_goes_on_at_that_byte() {
    let (registry, parts) = served();
    let layer = Digest::of(&parts.layers[0]);
    let size = parts.layers[0].len() as u64;
    for at in [0, 1, 7, 1000, 16_384, 65_536, size / 2, size - 1] {
        registry.script(move |asked| {
            let first = is_layer(asked, &layer) && asked.header("range").is_none() && asked.nth < 2;
            first.then_some(Fault::CutAfter(at))
        });
        pulls(&format!("pull, layer cut at byte {at}"), &registry, &parts, 1.1);
        let want = if at == 0 { "all".to_owned() } else { format!("bytes={at}-") };
        assert_eq!(ranges(&registry, &layer), ["all".to_owned(), want]);
    }
    registry.script(move |asked| is_layer(asked, &layer).then_some(Fault::CutAfter(40_000)));
    pulls("pull, layer cut after each 40000 bytes", &registry, &parts, 1.1);
    assert_eq!(ranges(&registry, &layer)[1..3], ["bytes=40000-", "bytes=80000-"]);
    for kind in ["manifests", "blobs"] {
        registry
            .script(move |asked| (asked.is("GET", kind) && asked.nth == 0).then_some(Fault::CutAfter(50)));
        pulls(&format!("pull, first of {kind} cut at byte 50"), &registry, &parts, 1.1);
    }
}

#[test]
fn a_server_without_ranges_is_read_again_from_the_start() {
    let (registry, parts) =
        (FaultyRegistry::of(Nature { ranges: false, ..Nature::default() }), image(300_000));
    serve(&registry, &parts);
    let layer = Digest::of(&parts.layers[0]);
    registry.script(move |asked| {
        (is_layer(asked, &layer) && asked.header("range").is_none()).then_some(Fault::CutAfter(100_000))
    });
    pulls("pull, no ranges, cut at byte 100000", &registry, &parts, 1.5);
    assert_eq!(ranges(&registry, &layer), ["all", "bytes=100000-"]);
}

#[test]
fn what_passes_is_waited_for() {
    let (registry, parts) = served();
    let pauses = |kind: &'static str, form: &'static str| {
        let (registry, parts) = served();
        registry.script(move |asked| {
            (asked.is("GET", kind) && asked.nth == 0).then(|| Fault::Answer(told_to_wait(form)))
        });
        let name = format!("pull, 429 for {kind}, Retry-After in {form}");
        let finished = pulls(&name, &registry, &parts, 1.1);
        assert!(finished.took >= Duration::from_secs(1), "{finished}");
        assert_eq!(registry.lines().iter().filter(|line| line.ends_with("429")).count(), 1);
    };
    std::thread::scope(|scope| {
        for kind in ["manifests", "blobs"] {
            for form in ["seconds", "a date"] {
                scope.spawn(move || pauses(kind, form));
            }
        }
    });
    for status in [408, 429, 500, 502, 503, 504, 522] {
        let burst = move |asked: &Asked| (asked.nth < 3).then_some(Fault::Answer(Told::status(status)));
        registry.script(burst);
        pulls(&format!("pull, three times {status} for all"), &registry, &parts, 1.1);
    }
    registry.script(|asked| (asked.nth < 2).then_some(Fault::Reset));
    pulls("pull, two resets for all", &registry, &parts, 1.1);
    registry.script(|asked| (asked.nth < 2).then_some(Fault::LoseAnswer));
    pulls("pull, two connections closed for all", &registry, &parts, 1.1);
}

#[test]
fn what_does_not_pass_ends_and_names_the_host() {
    let (registry, parts) = served();
    let host = registry.address().to_owned();
    registry.script(|_| Some(Fault::Answer(Told::status(503))));
    fails("pull, 503 for ever", &registry, &parts, &[&host, "answered 503 to HEAD /v2/a/b/manifests/1"]);
    registry.script(|_| Some(Fault::Answer(Told::status(501))));
    fails("pull, 501", &registry, &parts, &[&host, "answered 501"]);
    let slow = || Told::status(429).header("Retry-After", "3600");
    registry.script(move |asked| asked.is("GET", "blobs").then(|| Fault::Answer(slow())));
    let finished = fails("pull, 429 for an hour", &registry, &parts, &[&host, "answered 429"]);
    assert!(finished.took < Duration::from_secs(20), "{finished}");
    let layer = Digest::of(&parts.layers[0]);
    registry.script(move |asked| is_layer(asked, &layer).then_some(Fault::Answer(Told::status(404))));
    fails("pull, layer is gone", &registry, &parts, &[&host, &layer.to_string(), "is not in the registry"]);
}

#[test]
fn a_stall_times_out_and_the_transfer_goes_on() {
    let (registry, parts) = served();
    let layer = Digest::of(&parts.layers[0]);
    for (what, at) in [("layer", 100_000), ("manifest", 20)] {
        registry.script(move |asked| {
            let is_stalled = match what {
                "layer" => is_layer(asked, &layer) && asked.nth < 2 && asked.header("range").is_none(),
                _ => asked.is("GET", "manifests") && asked.nth == 0,
            };
            is_stalled.then_some(Fault::StallAfter(at))
        });
        let context = TestContext::new();
        let command = context.kiln(["pull", "--network-timeout", "1500ms", &registry.reference("a/b:1")]);
        let finished = command.env("KILN_RETRY_DELAY", "10ms").run().success();
        Case::new(&format!("pull, {what} stalls at byte {at}"), &registry, needed(&parts)).ended(&finished);
        assert!(finished.took < Duration::from_secs(20), "{finished}");
        assert!(has_blob(&context, &parts.layers[0]));
    }
}

#[test]
fn a_server_that_drips_is_as_good_as_silent() {
    let (registry, parts) = served();
    let layer = Digest::of(&parts.layers[0]);
    let pull = |context: &TestContext| {
        let args = ["pull", "-q", "--network-timeout", "500ms", "--retry", "2"];
        let command = context.kiln(args.iter().copied().chain([registry.reference("a/b:1").as_str()]));
        command.env("KILN_RETRY_DELAY", "10ms").run()
    };
    let drip = Fault::DripAfter(100_000, Duration::from_millis(50));
    let first = drip.clone();
    registry.script(move |asked| {
        (is_layer(asked, &layer) && asked.header("range").is_none()).then(|| first.clone())
    });
    let context = TestContext::new();
    let finished = pull(&context).success();
    Case::new("pull, layer drips from byte 100000 on", &registry, needed(&parts)).ended(&finished);
    assert!(has_blob(&context, &parts.layers[0]));
    let asked = ranges(&registry, &layer);
    assert!(asked.len() == 2 && asked[1].starts_with("bytes=1000"), "it goes on there: {asked:?}");
    // At that pace it would take three hours, and it would not be silent once.
    let none = Fault::DripAfter(0, Duration::from_millis(50));
    for (what, always) in [("layer", drip), ("layer", none.clone()), ("manifests", none)] {
        registry.script(move |asked| {
            let is_meant = if what == "layer" { is_layer(asked, &layer) } else { asked.is("GET", what) };
            is_meant.then(|| match (&always, asked.header("range")) {
                (Fault::DripAfter(_, pause), Some(_)) => Fault::DripAfter(0, *pause),
                _ => always.clone(),
            })
        });
        let context = TestContext::new();
        let finished =
            pull(&context).fails_with(3).says("less than 1000 bytes a second").says(registry.address());
        Case::new(&format!("pull, {what} drips for ever"), &registry, needed(&parts)).ended(&finished);
        assert!(finished.took < Duration::from_secs(20), "{finished}");
        is_clean(&context);
    }
}

#[test]
fn a_mirror_that_breaks_in_the_middle_of_pieces_is_left_at_that_byte() {
    let parts = image(48 << 20);
    let (mirror, origin) = (FaultyRegistry::start(), FaultyRegistry::start());
    serve(&mirror, &parts);
    serve(&origin, &parts);
    let (layer, size) = (Digest::of(&parts.layers[0]), parts.layers[0].len() as u64);
    // The third piece ends in its middle, and so does all that comes after it.
    mirror.script(move |asked| match asked.header("range") {
        Some(range) if is_layer(asked, &layer) && range.starts_with("bytes=16777216-") => {
            Some(Fault::CutAfter(1_000_000))
        }
        _ => None,
    });
    let context = TestContext::new();
    let conf = format!(
        "[[registry]]\nprefix = 'r.test'\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{}'\n",
        origin.address(),
        mirror.address()
    );
    let file = context.write_beside("registries.conf", conf);
    let command = hasty(context.kiln(["pull", "-q", "r.test/a/b:1"]));
    let finished = command.env("CONTAINERS_REGISTRIES_CONF", &file).run().success();
    let name = "pull, a mirror breaks in the third piece";
    Case { elsewhere: Some(&mirror), ..Case::new(name, &origin, needed(&parts)) }.ended(&finished);
    assert!(has_blob(&context, &parts.layers[0]));
    is_clean(&context);
    let rest = ranges(&origin, &layer);
    assert!(rest.contains(&"bytes=17777216-25165823".to_owned()), "it goes on there: {rest:?}");
    let moved = mirror.moved() + origin.moved();
    assert!(moved >= size && mirror.moved() >= 17_777_216, "{moved}");
    let of_mirror = ranges(&mirror, &layer);
    assert!(!of_mirror.contains(&"bytes=17777216-25165823".to_owned()), "not asked again: {of_mirror:?}");
}

#[test]
fn a_body_that_is_not_what_it_should_be_is_refused_and_spoils_nothing() {
    let (registry, parts) = served();
    let (layer, bytes) = (Digest::of(&parts.layers[0]), parts.layers[0].clone());
    let named = layer.to_string();
    let spoiled = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut body = bytes.clone();
        change(&mut body);
        body
    };
    let flipped = spoiled(&|body| body[1000] ^= 1);
    let digest = Digest::of(&flipped).to_string();
    for (name, body, words) in [
        ("one bit", flipped, digest.as_str()),
        ("short", spoiled(&|body| body.truncate(1000)), "bytes, not"),
        ("long", spoiled(&|body| body.extend_from_slice(b"more")), "it is longer than its"),
        ("empty", Vec::new(), "it has 0 bytes, not"),
        ("a page", b"<html>sign in</html>".to_vec(), "bytes, not"),
    ] {
        registry.script(move |asked| is_layer(asked, &layer).then(|| Fault::Body(body.clone())));
        fails(&format!("pull, wrong body: {name}"), &registry, &parts, &[registry.address(), &named, words]);
    }
    let other = Fault::Header("Content-Range", "bytes 5-9/10".to_owned());
    registry.script(move |asked| match (is_layer(asked, &layer), asked.header("range")) {
        (true, None) => Some(Fault::CutAfter(1000)),
        (true, Some(_)) => Some(other.clone()),
        _ => None,
    });
    fails("pull, another part than asked for", &registry, &parts, &[&named, "another part came"]);
    registry.script(move |asked| match (is_layer(asked, &layer), asked.header("range")) {
        (true, None) => Some(Fault::CutAfter(1000)),
        (true, Some(_)) => Some(Fault::Answer(Told::status(416))),
        _ => None,
    });
    fails("pull, 416 for the rest", &registry, &parts, &[&named, "it has 1000 bytes, not"]);
}

#[test]
fn a_length_that_is_told_wrongly_harms_nothing() {
    let (registry, parts) = served();
    let (layer, size) = (Digest::of(&parts.layers[0]), parts.layers[0].len());
    for length in ["-5", "many", "99999999"] {
        registry.script(move |asked| is_layer(asked, &layer).then(|| Fault::Length(length.to_owned())));
        let context = TestContext::new();
        let finished = pull(&context, &registry).fails_with(3).says(registry.address());
        // The server sends what nobody takes from it.
        let case = Case::new("", &registry, needed(&parts));
        let name = format!("pull, Content-Length {length} of {size}");
        Case { name: &name, at_most: 7.0, ..case }.ended(&finished);
        is_clean(&context);
        registry.script(|_| None);
        pull(&context, &registry).success();
    }
    for (name, length) in [("10 less", size - 10), ("10 more", size + 10)] {
        registry.script(move |asked| {
            let is_first = is_layer(asked, &layer) && asked.header("range").is_none() && asked.nth < 2;
            is_first.then(|| Fault::Length(length.to_string()))
        });
        if length < size {
            pulls(&format!("pull, Content-Length {name}"), &registry, &parts, 1.1);
            assert_eq!(ranges(&registry, &layer), ["all".to_owned(), format!("bytes={length}-")]);
        } else {
            fails(&format!("pull, Content-Length {name}"), &registry, &parts, &["it is longer than its"]);
        }
    }
}

/// The manifest of an image with something replaced.
fn changed(parts: &Parts, from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(parts.manifest.clone()).expect("JSON");
    assert!(text.contains(from), "{text}");
    text.replace(from, to).into_bytes()
}

#[test]
fn a_manifest_that_lies_or_has_two_meanings_is_refused() {
    let (registry, parts) = served();
    let (layer, size) = (Digest::of(&parts.layers[0]).to_string(), parts.layers[0].len());
    let sized = format!("\"size\":{size}");
    let with_size = |size: i64| changed(&parts, &sized, &format!("\"size\":{size}"));
    let both = changed(&parts, "\"layers\":", "\"manifests\":[],\"layers\":");
    let huge = changed(&parts, "\"layers\":", &format!("\"x\":\"{}\",\"layers\":", "x".repeat(5 << 20)));
    let as_index = changed(
        &parts,
        &format!("\"mediaType\":\"{MANIFEST}\",\"config\""),
        &format!("\"mediaType\":\"{}\",\"config\"", super::INDEX),
    );
    let size = i64::try_from(size).expect("a size");
    for (name, manifest, words) in [
        ("a negative size", with_size(-5), vec!["not a valid manifest", "-5"]),
        ("a size of 10 less", with_size(size - 10), vec![&layer, "it is longer than its"]),
        ("a size of 10 more", with_size(size + 10), vec![&layer, "bytes, not"]),
        ("a size without end", with_size(i64::MAX), vec![&layer, "bytes, not"]),
        (
            "a digest that is a path",
            changed(&parts, &layer, "sha256:../../../etc/passwd"),
            vec!["not a valid"],
        ),
        ("the fields of an index too", both, vec!["ambiguous"]),
        ("another type than it is served as", as_index, vec!["but was served as"]),
        ("no JSON", b"<html>".to_vec(), vec!["not a valid manifest"]),
        ("5 MiB", huge, vec!["larger than"]),
    ] {
        registry.put_manifest("a/b", "1", MANIFEST, &manifest);
        registry.script(|_| None);
        fails(&format!("pull, a manifest with {name}"), &registry, &parts, &words);
    }
    let digest = Digest::of(&parts.manifest);
    registry.script(|asked| asked.is("GET", "manifests").then(|| Fault::Body(b"{}".to_vec())));
    fails("pull, a manifest of another digest", &registry, &parts, &[&digest.to_string(), "its digest is"]);
    registry.script(|asked| {
        asked.is("GET", "manifests").then(|| Fault::Header("Content-Type", super::INDEX.to_owned()))
    });
    fails("pull, a manifest served as an index", &registry, &parts, &["but was served as"]);
}

#[test]
fn layers_come_four_at_once_and_no_more() {
    let entry = |i: u64| LayerEntry::File("data", 0o644, super::noise(1000, i));
    let image = (1..12).fold(BaseImage::of(&[entry(0)]), |image, i| image.with_layer(&[entry(i)]));
    let parts = image.parts();
    let registry = FaultyRegistry::start();
    serve(&registry, &parts);
    let wait = Duration::from_millis(300);
    registry.script(move |asked| asked.is("GET", "blobs").then_some(Fault::Late(wait)));
    let finished = pulls("pull, 12 layers, each late by 300 ms", &registry, &parts, 1.1);
    assert_eq!(registry.at_once(), 4);
    assert!(finished.took < wait * 8, "{finished}");
}

#[test]
fn a_build_on_a_base_that_comes_in_parts_is_right() {
    let (registry, parts) = served();
    let layer = Digest::of(&parts.layers[0]);
    registry.script(move |asked| match (is_layer(asked, &layer), asked.header("range"), asked.nth) {
        (true, None, _) => Some(Fault::CutAfter(70_000)),
        (true, Some(_), 0..3) => Some(Fault::Reset),
        (false, _, 0) => Some(Fault::Answer(Told::status(500))),
        _ => None,
    });
    let context = TestContext::with_dockerfile(&format!(
        "FROM {} AS base\nFROM scratch\nCOPY --from=base /data /copied\n",
        registry.reference("a/b:1")
    ));
    let finished = hasty(context.building(["--output", "type=local,dest=out"])).run().success();
    Case::new("build, the base's layer comes in parts", &registry, needed(&parts)).ended(&finished);
    assert!(std::fs::read(context.path("out/copied")).expect("the file") == super::noise(300_000, 300_000));
    is_clean(&context);
}

#[test]
fn a_layer_that_an_image_has_twice_comes_once() {
    let entry = LayerEntry::File("data", 0o644, super::noise(300_000, 5));
    let parts = BaseImage::of(std::slice::from_ref(&entry)).with_layer(std::slice::from_ref(&entry)).parts();
    let registry = FaultyRegistry::start();
    serve(&registry, &parts);
    let context = TestContext::new();
    let finished = pull(&context, &registry).success();
    let once = needed(&parts) - parts.layers[0].len() as u64;
    Case::new("pull, the same layer twice", &registry, once).ended(&finished);
    assert_eq!(ranges(&registry, &Digest::of(&parts.layers[0])), ["all"]);
}

#[test]
fn a_large_layer_comes_in_several_pieces_at_once() {
    let (registry, parts) = (FaultyRegistry::start(), image(36 << 20));
    serve(&registry, &parts);
    let layer = Digest::of(&parts.layers[0]);
    pulls("pull, 36 MiB in pieces", &registry, &parts, 1.1);
    let asked = ranges(&registry, &layer);
    assert_eq!(asked[0], "bytes=0-8388607", "{asked:?}");
    assert!(asked.len() >= 5, "{asked:?}");
    registry.script(move |asked| {
        let is_whole_piece = asked.header("range").is_some_and(|range| range.contains("8388608-"));
        (is_layer(asked, &layer) && is_whole_piece).then_some(Fault::CutAfter(1_000_000))
    });
    pulls("pull, 36 MiB in pieces, one is cut", &registry, &parts, 1.1);
    let asked = ranges(&registry, &layer);
    assert!(asked.contains(&"bytes=9388608-16777215".to_owned()), "{asked:?}");
    let nature = Nature { ranges: false, ..Nature::default() };
    let plain = FaultyRegistry::of(nature);
    serve(&plain, &parts);
    pulls("pull, 36 MiB, no ranges", &plain, &parts, 1.1);
    assert_eq!(ranges(&plain, &layer), ["bytes=0-8388607"]);
}
