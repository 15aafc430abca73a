//! Who sees credentials: redirects, addresses of uploads and token servers that lead elsewhere.

use super::{Case, has_blob, hasty, image, is_clean, logged_in, needed, noise, serve};
use kiln_tests::{Fault, FaultyRegistry, Let, Nature, Parts, Told};

const SIZE: usize = 300_000;

/// A registry that wants a password and sends on for blobs.
fn sending_to(storage: &str, parts: &Parts) -> FaultyRegistry {
    let registry = FaultyRegistry::of(Nature { lets: Let::User, ..Nature::default() });
    serve(&registry, parts);
    let storage = storage.replace("OWN", registry.port());
    registry.script(move |asked| {
        let digest = asked.target.rsplit('/').next().unwrap_or_default();
        let to = storage.replace("DIGEST", digest);
        let is_let_in = asked.header("authorization").is_some();
        (asked.is("GET", "blobs") && is_let_in)
            .then(|| Fault::Answer(Told::status(307).header("Location", to)))
    });
    registry
}

#[test]
fn a_redirect_to_another_name_port_or_scheme_carries_no_credentials() {
    let parts = image(SIZE);
    let elsewhere = FaultyRegistry::start();
    serve(&elsewhere, &parts);
    let (address, port) = (elsewhere.address(), elsewhere.port());
    for (name, storage, words) in [
        ("another port", format!("http://{address}/storage/DIGEST?sig=a%2Fb"), ""),
        ("another port and name", format!("http://localhost:{port}/storage/DIGEST"), ""),
        ("another name", "http://localhost:OWN/storage/DIGEST".to_owned(), ""),
        ("another spelling", "http://127.1:OWN/v2/a/b/blobs/DIGEST".to_owned(), "redirects"),
        ("another scheme", "https://127.0.0.1:OWN/storage/DIGEST".to_owned(), "tls handshake"),
        ("a file", "file:///etc/passwd".to_owned(), "not an HTTP address"),
        ("a user", "http://u:p@127.0.0.1:OWN/storage/DIGEST".to_owned(), "a user name"),
        ("itself", "/v2/a/b/blobs/DIGEST".to_owned(), "too many redirects"),
    ] {
        let registry = sending_to(&storage, &parts);
        elsewhere.script(|_| None);
        let context = logged_in(&registry);
        let finished = hasty(context.kiln(["pull", "-q", &registry.reference("a/b:1")])).run();
        let name = format!("pull, redirect to {name}");
        let case = Case::new(&name, &registry, needed(&parts));
        Case { elsewhere: Some(&elsewhere), ..case }.ended(&finished);
        if words.is_empty() {
            assert!(has_blob(&context, &parts.layers[0]), "{finished}");
            finished.success();
        } else {
            finished.fails_with(3).says(words).says("127.0.0.1").does_not_say("s3cret");
        }
        is_clean(&context);
    }
}

#[test]
fn a_token_server_elsewhere_gets_no_password() {
    let parts = image(SIZE);
    let elsewhere = FaultyRegistry::start();
    for realm in [
        format!("http://{}/token", elsewhere.address()),
        format!("http://localhost:{}/token", elsewhere.port()),
        "https://elsewhere.example/token".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        let registry = FaultyRegistry::of(Nature { lets: Let::TokenOf(realm.clone()), ..Nature::default() });
        serve(&registry, &parts);
        let context = logged_in(&registry);
        let finished = hasty(context.kiln(["pull", "-q", &registry.reference("a/b:1")])).run();
        let case = Case::new("pull, a token server elsewhere", &registry, 0);
        Case { elsewhere: Some(&elsewhere), ..case }.ended(&finished);
        finished.fails_with(3).says(registry.address());
        assert!(elsewhere.recorded().is_empty(), "{:?}", elsewhere.lines());
    }
}

#[test]
fn a_token_server_that_fails_is_asked_again() {
    let parts = image(SIZE);
    for (name, fault) in [
        ("500", Fault::Answer(Told::status(500))),
        ("429", Fault::Answer(Told::status(429).header("Retry-After", "1"))),
        ("a reset", Fault::Reset),
        ("a body that breaks off", Fault::CutAfter(5)),
        ("an answer that is lost", Fault::LoseAnswer),
    ] {
        let registry = FaultyRegistry::of(Nature { lets: Let::Token(1000), ..Nature::default() });
        serve(&registry, &parts);
        registry.script(move |asked| (asked.is("GET", "token") && asked.nth < 2).then(|| fault.clone()));
        let context = logged_in(&registry);
        let finished = hasty(context.kiln(["pull", "-q", &registry.reference("a/b:1")])).run().success();
        let name = format!("pull, the token server fails twice: {name}");
        Case::new(&name, &registry, needed(&parts)).ended(&finished);
        assert!(has_blob(&context, &parts.layers[0]));
    }
    let registry = FaultyRegistry::of(Nature { lets: Let::Token(1000), ..Nature::default() });
    serve(&registry, &parts);
    registry.script(|asked| asked.is("GET", "token").then(|| Fault::Body(b"{}".to_vec())));
    let finished = hasty(logged_in(&registry).kiln(["pull", "-q", &registry.reference("a/b:1")])).run();
    Case::new("pull, a token server without tokens", &registry, 0).ended(&finished);
    finished.fails_with(3).says(registry.address()).says("holds no token");
}

#[test]
fn an_upload_that_is_elsewhere_carries_no_credentials() {
    let elsewhere = FaultyRegistry::start();
    elsewhere
        .script(|asked| (asked.method == "PUT").then(|| Fault::AnswerAfter(u64::MAX, Told::status(201))));
    let location = format!("http://{}PATH?sig=x", elsewhere.address());
    let registry = FaultyRegistry::of(Nature { lets: Let::User, location, ..Nature::default() });
    registry.script(|asked| {
        asked.is("PUT", "manifests").then(|| Fault::AnswerAfter(u64::MAX, Told::status(201)))
    });
    let context = logged_in(&registry);
    context.write("Dockerfile", "FROM scratch\nCOPY data /data\n").write("data", noise(SIZE, 13));
    let target = registry.reference("a/b:1");
    let finished = hasty(context.building(["--push", "-t", &target])).run().success();
    let case = Case::new("build --push, uploads are elsewhere", &registry, SIZE as u64 + 2000);
    Case { elsewhere: Some(&elsewhere), ..case }.ended(&finished);
    let puts = elsewhere.recorded();
    assert_eq!(puts.len(), 2, "{:?}", elsewhere.lines());
    assert!(puts.iter().all(|one| one.asked.header("authorization").is_none()));
}
