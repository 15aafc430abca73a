//! The client against servers that misbehave. It does not know what a good registry does: that is in
//! another file.

mod support;

use kiln_oci::{Descriptor, Digest, MediaType, Reference};
use kiln_registry::{Client, Mismatch, PushedBlob, Refusal, RegistryError};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};
use support::{Faulty, Reply, Seen, client, client_with, opener};

const MANIFEST: &[u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
/// `kiln:s3cret` in base64.
const USER: &str = "a2lsbjpzM2NyZXQ=";

fn reference(server: &Faulty) -> Reference {
    format!("{}/a/b:1", server.address).parse().expect("a reference")
}

fn blob(bytes: &[u8]) -> Descriptor {
    Descriptor::of(MediaType::OciLayer, bytes)
}

async fn pulled(server: &Faulty, bytes: &[u8]) -> Result<Vec<u8>, RegistryError> {
    client().blob_bytes(&reference(server), &blob(bytes), 1 << 30).await
}

fn login(server: &Faulty) -> String {
    format!(r#"{{"auths":{{"{}":{{"auth":"{USER}"}}}}}}"#, server.address)
}

/// The part of `bytes` that a request asks for.
fn ranged(seen: &Seen, bytes: &[u8]) -> Reply {
    let Some(range) = seen.header("range") else { return Reply::new(200).body(bytes) };
    let start: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().expect("a range");
    let (last, all) = (bytes.len() - 1, bytes.len());
    Reply::new(206).header("Content-Range", &format!("bytes {start}-{last}/{all}")).body(&bytes[start..])
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_refused() {
    let server = Faulty::start(|_, _| Reply::new(200).body(b"wrong"));
    let error = pulled(&server, b"right").await.expect_err("an error");
    let mismatch = Mismatch::Digest { want: Digest::of(b"right"), got: Digest::of(b"wrong") };
    assert!(matches!(&error, RegistryError::Content { mismatch: m, .. } if *m == mismatch), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_body_is_refused_before_it_is_handed_over() {
    for announced in [true, false] {
        let server = Faulty::start(move |count, _| {
            let reply = Reply::new(200).body(b"right and more");
            // The second time it goes on where nothing more should be.
            if announced || count > 0 { reply } else { Reply::new(200).length(5).body(b"ri").broken_after(2) }
        });
        let error = pulled(&server, b"right").await.expect_err("an error");
        let longer = Mismatch::Longer { want: 5 };
        assert!(matches!(&error, RegistryError::Content { mismatch, .. } if *mismatch == longer), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_blob_than_described_is_refused() {
    let server = Faulty::start(|_, seen| match seen.header("range") {
        Some(_) => Reply::new(416),
        None => Reply::new(200).body(b"rig"),
    });
    let error = pulled(&server, b"right").await.expect_err("an error");
    let mismatch = Mismatch::Size { want: 5, got: 3 };
    assert!(matches!(&error, RegistryError::Content { mismatch: m, .. } if *m == mismatch), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_body_is_taken_up_where_it_broke() {
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let (whole, all) = (bytes.clone(), bytes.len());
    let server = Faulty::start(move |count, seen| {
        let reply = ranged(seen, &whole);
        if count < 6 { reply.broken_after(50_001) } else { reply }
    });
    assert_eq!(pulled(&server, &bytes).await.expect("pulled"), bytes);
    let ranges: Vec<String> =
        server.seen().iter().map(|s| s.header("range").unwrap_or("all").to_owned()).collect();
    assert_eq!(ranges[..3], ["all", "bytes=50001-", "bytes=100002-"], "of {all}");
}

/// The range that a request asks for of so many bytes: first and last.
fn asked_range(seen: &Seen, size: usize) -> Option<(usize, usize)> {
    let (first, last) = seen.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().unwrap_or(size - 1)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_is_right_whatever_becomes_of_its_pieces() {
    let bytes: Vec<u8> = (0..10_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let size = bytes.len();
    let piece = 8 << 20;
    let part = |bytes: &[u8], first: usize, last: usize| {
        let range = format!("bytes {first}-{last}/{}", bytes.len());
        Reply::new(206).header("Content-Range", &range).body(&bytes[first..=last])
    };
    type Answer = fn(usize, usize, usize) -> (u16, usize);
    let cases: [(&str, Answer); 4] = [
        ("ranges", |_, _, last| (206, last)),
        ("more than was asked for", |_, first, last| (206, if first > 0 { last + 1000 } else { last })),
        ("ranges at first only", |piece, first, last| (if first < piece { 206 } else { 200 }, last)),
        ("none", |_, _, last| (200, last)),
    ];
    for (name, answer) in cases {
        let whole = bytes.clone();
        let server = Faulty::start(move |_, seen| {
            let (first, last) = asked_range(seen, size).unwrap_or((0, size - 1));
            match answer(piece, first, last) {
                (206, last) if seen.header("range").is_some() => part(&whole, first, last.min(size - 1)),
                _ => Reply::new(200).body(&whole),
            }
        });
        assert!(pulled(&server, &bytes).await.expect(name) == bytes, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_is_wrong_or_gone_ends_the_pull() {
    let bytes = vec![7; 40 << 20];
    let size = bytes.len();
    for (status, total) in [(404, size), (206, size + 1), (403, size)] {
        let whole = bytes.clone();
        let server = Faulty::start(move |_, seen| {
            let (first, last) = asked_range(seen, size).unwrap_or((0, size - 1));
            let total = if first == 0 { size } else { total };
            let range = format!("bytes {first}-{last}/{total}");
            let reply = if first == 0 { Reply::new(206) } else { Reply::new(status) };
            reply.header("Content-Range", &range).body(&whole[first..=last])
        });
        let error = pulled(&server, &bytes).await.expect_err("an error");
        assert!(!error.is_transient() && !error.to_string().contains("digest is"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_is_read_again_from_the_start() {
    let server = Faulty::start(|count, _| {
        let reply = Reply::new(200).body(b"right");
        if count == 0 { reply.broken_after(3) } else { reply }
    });
    assert_eq!(pulled(&server, b"right").await.expect("pulled"), b"right");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_range_than_asked_for_is_refused() {
    let server = Faulty::start(|count, _| match count {
        0 => Reply::new(200).body(b"right").broken_after(3),
        _ => Reply::new(206).header("Content-Range", "bytes 2-4/5").body(b"ght"),
    });
    let error = pulled(&server, b"right").await.expect_err("an error");
    assert!(
        matches!(&error, RegistryError::Content { mismatch: Mismatch::Range { want: 3 }, .. }),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_taken_up_again() {
    let server = Faulty::start(|count, seen| {
        let reply = ranged(seen, b"right");
        if count == 0 { reply.broken_after(2).hang(Duration::from_secs(20)) } else { reply }
    });
    let start = Instant::now();
    assert_eq!(pulled(&server, b"right").await.expect("pulled"), b"right");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let server = Faulty::start(|_, _| Reply::new(0).hang(Duration::from_secs(20)));
    let start = Instant::now();
    let error = client().resolve(&reference(&server)).await.expect_err("an error");
    assert!(matches!(&error, RegistryError::Timeout { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_told_with_the_host() {
    let to: Reference = "127.0.0.1:1/a:1".parse().expect("a reference");
    let error = client().resolve(&to).await.expect_err("an error");
    assert!(matches!(&error, RegistryError::Unreachable { host, .. } if host == "127.0.0.1:1"), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_waited_for() {
    let server = Faulty::start(|count, _| match count {
        0 => Reply::new(429).header("Retry-After", "1"),
        _ => Reply::manifest(MANIFEST),
    });
    client().resolve(&reference(&server)).await.expect("resolved");
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[1].at - seen[0].at >= Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_requests_wait_when_one_is_told_to() {
    let server = Faulty::start(|count, _| match count {
        0 => Reply::new(429).header("Retry-After", "1"),
        _ => Reply::manifest(MANIFEST),
    });
    let client = client();
    let first = tokio::spawn({
        let (client, to) = (client.clone(), reference(&server));
        async move { client.resolve(&to).await.map(|_| ()) }
    });
    while server.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.resolve(&reference(&server)).await.expect("resolved");
    first.await.expect("no panic").expect("resolved");
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen[1..].iter().all(|later| later.at - seen[0].at >= Duration::from_secs(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_wants_a_long_pause_is_not_waited_for() {
    let body = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
    let server = Faulty::start(|_, _| Reply::new(429).header("Retry-After", "3600").body(body));
    let error = client().manifest(&reference(&server)).await.expect_err("an error");
    assert!(matches!(&error, RegistryError::Status { status: 429, .. }), "{error}");
    assert!(error.to_string().contains("slow down"), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_recovers_is_asked_again_and_one_that_does_not_is_given_up() {
    let recovers = |count, _: &Seen| if count < 2 { Reply::new(500) } else { Reply::manifest(MANIFEST) };
    let server = Faulty::start(recovers);
    let (descriptor, bytes) = client().manifest(&reference(&server)).await.expect("the manifest");
    assert_eq!((descriptor.digest, bytes.as_slice()), (Digest::of(MANIFEST), MANIFEST));
    let server = Faulty::start(|_, _| Reply::new(503));
    let error = client().manifest(&reference(&server)).await.expect_err("an error");
    assert!(matches!(&error, RegistryError::Status { status: 503, .. }), "{error}");
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_manifest_is_refused() {
    for announced in [100 << 20, 0] {
        let body = vec![b' '; 5 << 20];
        let length = if announced == 0 { body.len() } else { announced };
        let server = Faulty::start(move |_, _| Reply::new(200).length(length).body(&body));
        for error in [
            client().manifest(&reference(&server)).await.err(),
            client().resolve(&reference(&server)).await.err(),
        ] {
            assert!(matches!(&error, Some(RegistryError::TooLarge { .. })), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_must_have_the_digest_that_was_asked_for() {
    let server = Faulty::start(|_, _| Reply::manifest(MANIFEST));
    let pinned = reference(&server).with_digest(Digest::of(b"other"));
    for error in [client().manifest(&pinned).await.err(), client().resolve(&pinned).await.err()] {
        assert!(matches!(&error, Some(RegistryError::Content { .. })), "{error:?}");
    }
    let lies = Faulty::start(|_, _| {
        let digest = Digest::of(b"other").to_string();
        Reply::new(200).header("Docker-Content-Digest", &digest).body(MANIFEST)
    });
    let error = client().manifest(&reference(&lies)).await.expect_err("an error");
    assert!(matches!(&error, RegistryError::Content { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_head_or_types_is_understood() {
    let server = Faulty::start(|_, seen| match seen.method.as_str() {
        "HEAD" => Reply::new(405),
        _ => Reply::new(200)
            .header("Content-Type", "application/json")
            .body(br#"{"schemaVersion":2,"manifests":[]}"#),
    });
    let resolved = client().resolve(&reference(&server)).await.expect("resolved").descriptor;
    assert_eq!((resolved.media_type, resolved.size), (MediaType::OciIndex, 34));
    assert_eq!(server.lines(), ["HEAD /v2/a/b/manifests/1", "GET /v2/a/b/manifests/1"]);
}

/// A registry that gives tokens to whom `allows` lets in.
fn with_tokens(realm: &'static str, allows: fn(&Seen) -> bool) -> Faulty {
    Faulty::start(move |_, seen| {
        let own = format!("http://{}/token", seen.header("host").unwrap_or_default());
        let realm = if realm.is_empty() { &own } else { realm };
        if seen.path.starts_with("/token") {
            let body = br#"{"access_token":"T1","expires_in":300}"#;
            return if allows(seen) { Reply::new(200).body(body) } else { Reply::new(401) };
        }
        match seen.authorization() {
            Some("Bearer T1") => Reply::manifest(MANIFEST),
            _ => Reply::new(401)
                .header("WWW-Authenticate", &format!(r#"Bearer realm="{realm}",service="s",scope="x""#)),
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_once_and_used_again() {
    let server = with_tokens("", |seen| seen.authorization() == Some(concat!("Basic ", "a2lsbjpzM2NyZXQ=")));
    let (client, _folder) = client_with(&login(&server));
    for _ in 0..3 {
        client.resolve(&reference(&server)).await.expect("resolved");
    }
    let head = "HEAD /v2/a/b/manifests/1";
    let token = "GET /token?service=s&scope=repository%3Aa%2Fb%3Apull";
    assert_eq!(server.lines(), [head, token, head, head, head]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_fetch_one_token() {
    let server = with_tokens("", |_| true);
    let client = client();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (client, to) = (client.clone(), reference(&server));
            tokio::spawn(async move { client.resolve(&to).await.map(|_| ()) })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic").expect("resolved");
    }
    assert_eq!(server.lines().iter().filter(|line| line.contains("/token")).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_posted_and_else_shown_as_a_password() {
    let posts = with_tokens("", |seen| {
        let body = String::from_utf8_lossy(&seen.body);
        seen.method == "POST"
            && body.contains("grant_type=refresh_token")
            && body.contains("refresh_token=r%26t")
    });
    let config = |server: &Faulty| {
        format!(r#"{{"auths":{{"{}":{{"auth":"a2lsbjo=","identitytoken":"r&t"}}}}}}"#, server.address)
    };
    let (client, _folder) = client_with(&config(&posts));
    client.resolve(&reference(&posts)).await.expect("resolved");
    // `kiln:r&t` in base64.
    let gets =
        with_tokens("", |seen| seen.method == "GET" && seen.authorization() == Some("Basic a2lsbjpyJnQ="));
    let (client, _folder) = client_with(&config(&gets));
    client.resolve(&reference(&gets)).await.expect("resolved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_which_credentials_were_used() {
    let server = with_tokens("", |_| false);
    let error = client().resolve(&reference(&server)).await.expect_err("an error");
    assert!(matches!(&error, RegistryError::Unauthorized { .. }), "{error}");
    assert!(error.to_string().contains("kiln login"), "{error}");
    let (client, folder) = client_with(&login(&server));
    let error = client.resolve(&reference(&server)).await.expect_err("an error").to_string();
    assert!(error.contains(&folder.path().join("config.json").display().to_string()), "{error}");
    assert!(!error.contains(USER), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_no_longer_good_is_replaced_once() {
    let server = Faulty::start(|count, seen| {
        let realm = format!("http://{}/token", seen.header("host").unwrap_or_default());
        if seen.path.starts_with("/token") {
            return Reply::new(200).body(format!(r#"{{"token":"T{count}"}}"#).as_bytes());
        }
        // The token of request 1 is good for request 2 and no longer.
        match (count, seen.authorization()) {
            (2, Some("Bearer T1")) | (5, Some("Bearer T4")) => Reply::manifest(MANIFEST),
            _ => Reply::new(401).header("WWW-Authenticate", &format!(r#"Bearer realm="{realm}""#)),
        }
    });
    let client = client();
    client.resolve(&reference(&server)).await.expect("resolved");
    client.resolve(&reference(&server)).await.expect("resolved again");
    let error = client.resolve(&reference(&server)).await.expect_err("an error");
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error}");
    assert_eq!(server.seen().len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_do_not_go_to_a_token_server_elsewhere() {
    let thief = Faulty::start(|_, _| Reply::new(200).body(br#"{"token":"T1"}"#));
    let elsewhere: &'static str = format!("http://{}/token", thief.address).leak();
    for realm in [elsewhere, "https://evil.example.org/token", "file:///etc/passwd", "http://["] {
        let server = with_tokens(realm, |_| true);
        let (client, _folder) = client_with(&login(&server));
        let error = client.resolve(&reference(&server)).await.expect_err("an error");
        assert!(matches!(&error, RegistryError::Address { .. }), "{realm}: {error}");
    }
    assert!(thief.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_answer_has_a_limit() {
    let server = Faulty::start(|_, seen| {
        let realm = format!("http://{}/token", seen.header("host").unwrap_or_default());
        match seen.path.starts_with("/token") {
            true => Reply::new(200).body(&vec![b'x'; 3 << 20]),
            false => Reply::new(401).header("WWW-Authenticate", &format!("Bearer realm={realm}")),
        }
    });
    let error = client().resolve(&reference(&server)).await.expect_err("an error");
    assert!(matches!(&error, RegistryError::TooLarge { .. }), "{error}");
}

/// A registry that wants a password and then sends on to `to`.
fn redirecting(to: impl Fn(usize) -> String + Send + Sync + 'static) -> Faulty {
    Faulty::start(move |count, seen| match seen.authorization() {
        Some(_) => Reply::new(307).header("Location", &to(count)),
        None => Reply::new(401).header("WWW-Authenticate", "Basic realm=\"x\""),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_port_carries_no_credentials() {
    let store = Faulty::start(|_, _| Reply::new(200).body(b"right"));
    let address = store.address.clone();
    let server = redirecting(move |_| format!("http://{address}/signed?x=a%2Fb"));
    let (client, _folder) = client_with(&login(&server));
    client.blob_bytes(&reference(&server), &blob(b"right"), 100).await.expect("pulled");
    assert_eq!(store.lines(), ["GET /signed?x=a%2Fb"]);
    assert_eq!(store.seen()[0].authorization(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_asks_for_credentials_gets_none() {
    let store =
        Faulty::start(|_, _| Reply::new(401).header("WWW-Authenticate", "Basic realm=\"give me yours\""));
    let address = store.address.clone();
    let server = redirecting(move |_| format!("http://{address}/signed"));
    let (client, _folder) = client_with(&login(&server));
    let error = client.blob_bytes(&reference(&server), &blob(b"right"), 100).await.expect_err("an error");
    assert!(
        matches!(&error, RegistryError::Status { status: 401, host, .. } if *host == store.address),
        "{error}"
    );
    assert!(store.seen().iter().all(|seen| seen.authorization().is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_redirects_end() {
    let server = redirecting(|count| format!("/v2/{count}"));
    let (client, _folder) = client_with(&login(&server));
    let error = client.resolve(&reference(&server)).await.expect_err("an error");
    assert!(matches!(&error, RegistryError::Address { refusal: Refusal::TooManyRedirects, .. }), "{error}");
    assert_eq!(server.seen().len(), 12, "one without credentials, one with, ten redirects");
}

/// A registry without the blob that takes uploads at `location`.
fn uploading(location: impl Fn(&Seen) -> String + Send + Sync + 'static) -> Faulty {
    Faulty::start(move |_, seen| match (seen.method.as_str(), seen.authorization()) {
        (_, None) => Reply::new(401).header("WWW-Authenticate", "Basic realm=\"x\""),
        ("HEAD", _) => Reply::new(404),
        ("POST", _) => Reply::new(202).header("Location", &location(seen)),
        _ => Reply::new(201),
    })
}

async fn push(client: &Client, server: &Faulty, bytes: &[u8]) -> Result<PushedBlob, RegistryError> {
    client.push_blob(&reference(server), &blob(bytes), &[], &opener(bytes)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_where_the_registry_says_with_its_query() {
    let server = uploading(|_| "/up/1?_state=a%2Fb%3D".to_owned());
    let (client, _folder) = client_with(&login(&server));
    assert_eq!(push(&client, &server, b"right").await.expect("pushed"), PushedBlob::Uploaded);
    let seen = server.seen();
    let put = seen.last().expect("a request");
    assert_eq!(put.path, format!("/up/1?_state=a%2Fb%3D&digest={}", Digest::of(b"right")));
    assert_eq!((put.body.as_slice(), put.header("content-length")), (b"right".as_slice(), Some("5")));
    assert!(put.authorization().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_to_another_origin_carries_no_credentials() {
    let store = Faulty::start(|_, _| Reply::new(201));
    let address = store.address.clone();
    let server = uploading(move |_| format!("http://{address}/up"));
    let (client, _folder) = client_with(&login(&server));
    push(&client, &server, b"right").await.expect("pushed");
    assert_eq!((store.seen().len(), store.seen()[0].authorization()), (1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_registry_forgot_begins_anew_from_the_start_of_the_file() {
    for fault in [Reply::new(500), Reply::new(0), Reply::new(404), Reply::new(429).header("Retry-After", "0")]
    {
        let first = fault.clone();
        let server = Faulty::start(move |count, seen| match seen.method.as_str() {
            "HEAD" => Reply::new(404),
            "GET" => Reply::new(404),
            "POST" => Reply::new(202).header("Location", &format!("/up/{count}")),
            _ if count == 2 => first.clone(),
            _ => Reply::new(201),
        });
        let bytes = vec![7; 1_000_000];
        push(&client(), &server, &bytes).await.expect("pushed");
        let methods: Vec<String> = server.seen().into_iter().map(|seen| seen.method).collect();
        assert_eq!(methods, ["HEAD", "POST", "PUT", "HEAD", "GET", "POST", "PUT"], "{fault:?}");
        assert_eq!(server.seen()[6].body, bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_answer_is_lost_is_not_sent_again() {
    let server = Faulty::start(|count, seen| match seen.method.as_str() {
        "HEAD" if count == 0 => Reply::new(404),
        "HEAD" => Reply::new(200),
        "POST" => Reply::new(202).header("Location", "up"),
        _ => Reply::new(0),
    });
    assert_eq!(push(&client(), &server, b"right").await.expect("pushed"), PushedBlob::Uploaded);
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_without_an_address_or_a_place_is_an_error() {
    let server =
        Faulty::start(|_, seen| if seen.method == "HEAD" { Reply::new(404) } else { Reply::new(202) });
    let error = push(&client(), &server, b"right").await.expect_err("an error");
    assert!(matches!(&error, RegistryError::Protocol { .. }), "{error}");
    let server = uploading(|_| "http://user:pass@127.0.0.1:1/".to_owned());
    let (client, _folder) = client_with(&login(&server));
    let error = push(&client, &server, b"right").await.expect_err("an error");
    assert!(matches!(&error, RegistryError::Address { refusal: Refusal::UserInfo, .. }), "{error}");
    assert!(!error.to_string().contains("pass"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_too_large_for_the_registry_is_told() {
    let server = Faulty::start(|_, seen| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" => Reply::new(202).header("Location", "/up"),
        _ => Reply::new(413).body(b"too \x1b[31mbig"),
    });
    let error = push(&client(), &server, b"right").await.expect_err("an error");
    assert!(matches!(&error, RegistryError::Status { status: 413, .. }), "{error}");
    assert!(error.to_string().contains("too  [31mbig"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_is_not_allowed_becomes_an_upload() {
    let server = Faulty::start(|_, seen| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" if seen.path.contains("mount=") => Reply::new(403),
        "POST" => Reply::new(202).header("Location", "/up"),
        _ => Reply::new(201),
    });
    let from = ["x".to_owned(), "a/b".to_owned(), "bad&name".to_owned()];
    let to = reference(&server);
    let how = client().push_blob(&to, &blob(b"right"), &from, &opener(b"right")).await.expect("pushed");
    assert_eq!(how, PushedBlob::Uploaded);
    let mount = format!("POST /v2/a/b/blobs/uploads/?mount={}&from=x", Digest::of(b"right"));
    assert_eq!(server.lines()[1..3], [mount, "POST /v2/a/b/blobs/uploads/".to_owned()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn helpers_are_asked_and_a_slow_one_is_not_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, script) in [
        ("good", r#"read host; printf '{"ServerURL":"%s","Username":"kiln","Secret":"s3cret"}' "$host""#),
        ("none", "echo 'credentials not found in native keychain'; exit 1"),
        ("slow", "exec sleep 20"),
    ] {
        let file = folder.path().join(format!("docker-credential-{name}"));
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("made executable");
    }
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
    let output = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child_that_asks_helpers", "--ignored", "--nocapture"])
        .env("PATH", path)
        .output()
        .expect("the child starts");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is run by another test, in an environment of its own"]
async fn child_that_asks_helpers() {
    let basic = format!("Basic {USER}");
    let server = Faulty::start(move |_, seen| match seen.authorization() {
        Some(given) if given == basic => Reply::manifest(MANIFEST),
        _ => Reply::new(401).header("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let with = |config: &str| client_with(&config.replace("HOST", &server.address));
    let (client, _folder) = with(r#"{"credsStore":"none","credHelpers":{"HOST":"good"}}"#);
    client.resolve(&reference(&server)).await.expect("resolved");
    let (client, _folder) = with(r#"{"credsStore":"none"}"#);
    let error = client.resolve(&reference(&server)).await.expect_err("an error").to_string();
    assert!(error.contains("kiln login"), "{error}");
    let (client, _folder) = with(r#"{"credsStore":"slow"}"#);
    let start = Instant::now();
    let error = client.resolve(&reference(&server)).await.expect_err("an error").to_string();
    assert!(error.contains("docker-credential-slow failed"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_is_not_taken_for_a_wish_for_tls() {
    let server = Faulty::start(|_, _| Reply::new(400).body(b"odd"));
    let error = client().manifest(&reference(&server)).await.expect_err("an error");
    assert!(matches!(&error, RegistryError::Status { status: 400, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_lists_referrers_only_if_it_answers_with_an_index() {
    let index = "application/vnd.oci.image.index.v1+json";
    for (status, kind, want) in [
        (200, index, Some(true)),
        (200, "text/html", Some(false)),
        (404, "application/json", Some(false)),
        (405, "text/plain", Some(false)),
        (403, "application/json", None),
    ] {
        let server = Faulty::start(move |_, _| Reply::new(status).header("Content-Type", kind).body(b"{}"));
        let digest = Digest::of(b"");
        let lists = client().lists_referrers(&reference(&server), &digest).await;
        assert_eq!(lists.ok(), want, "{status} {kind}");
        assert!(server.seen()[0].path.ends_with(&format!("/v2/a/b/referrers/{digest}")));
    }
}
