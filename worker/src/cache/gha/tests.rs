//! Claims about a cache at GitHub Actions, against the fake that the end-to-end tests use too.

use super::*;
use crate::cache::test_server::{Fixture, TestServer, answer};
use gha_server::GhaServer;
use std::sync::atomic::{AtomicU32, Ordering};

#[path = "../../../../tests/src/gha_server.rs"]
mod gha_server;

const BRANCHES: [&str; 2] = ["refs/heads/x", "refs/heads/main"];

fn options(url: &str, token: &str, version: u8) -> GhaOptions {
    let (first, second) = if version == 1 { (Some(url), None) } else { (None, Some(url)) };
    GhaOptions {
        url: first.map(str::to_owned),
        url_v2: second.map(str::to_owned),
        token: Some(token.to_owned()),
        ..GhaOptions::default()
    }
}

fn place(fixture: &Fixture, server: &GhaServer, version: u8) -> GhaPlace {
    let options = options(&server.url(), server.token(), version);
    GhaPlace::new(&options, &fixture.network()).expect("a place")
}

fn read(place: &GhaPlace, blob: &Descriptor) -> Result<Vec<u8>, CacheError> {
    let mut bytes = Vec::new();
    let mut keep = |piece: &[u8]| -> io::Result<()> {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    place.read(blob, &mut keep)?;
    Ok(bytes)
}

#[test]
fn what_was_published_is_read_back_under_buildkits_names() {
    for version in [1, 2] {
        let (fixture, server) = (Fixture::new(), GhaServer::start(&BRANCHES));
        let place = place(&fixture, &server, version);
        let (blob, open) = fixture.blob(b"a layer");
        assert!(place.write(&blob, &open).expect("written"));
        assert!(!place.write(&blob, &open).expect("there"));
        for config in ["one", "two"] {
            place.publish(config.as_bytes(), std::slice::from_ref(&blob)).expect("published");
            assert_eq!(place.configs().expect("configs"), [config.as_bytes().to_vec()]);
        }
        assert_eq!(read(&place, &blob).expect("read"), b"a layer");
        let branch = &Digest::of(b"refs/heads/x").hex()[..8];
        let index = |number: u8| format!("index-buildkit-1-{branch}#{number}");
        assert_eq!(server.keys(), [format!("buildkit-blob-1-{}", blob.digest), index(1), index(2)]);
    }
}

#[test]
fn each_branch_that_the_token_opens_is_read() {
    let fixture = Fixture::new();
    let server = GhaServer::start(&["refs/heads/x", "refs/heads/main"]);
    let mut of_main = place(&fixture, &server, 2);
    place(&fixture, &server, 2).publish(b"of x", &[]).expect("published");
    of_main.token = only_main();
    of_main.publish(b"of main", &[]).expect("published");
    let configs = place(&fixture, &server, 2).configs().expect("configs");
    assert_eq!(configs, [b"of x".to_vec(), b"of main".to_vec()]);
    assert_eq!(of_main.configs().expect("configs"), [b"of main".to_vec()]);
}

/// What a token for the default branch alone says.
fn only_main() -> Token {
    let server = GhaServer::start(&["refs/heads/main"]);
    Token::parse(server.token()).expect("a token")
}

#[test]
fn scopes_have_nothing_to_do_with_each_other() {
    let (fixture, server) = (Fixture::new(), GhaServer::start(&BRANCHES));
    let other = GhaPlace { scope: "other".to_owned(), ..place(&fixture, &server, 2) };
    other.publish(b"{}", &[]).expect("published");
    assert_eq!(place(&fixture, &server, 2).configs().expect("configs"), Vec::<Vec<u8>>::new());
    assert_eq!(other.configs().expect("configs").len(), 1);
}

#[test]
fn large_blobs_go_in_pieces_and_come_back_whole() {
    for version in [1, 2] {
        let (fixture, server) = (Fixture::new(), GhaServer::start(&BRANCHES));
        let place = place(&fixture, &server, version);
        let bytes: Vec<u8> = (0..(70u32 << 20) / 4).flat_map(u32::to_le_bytes).collect();
        let (blob, open) = fixture.blob(&bytes);
        server.refuse(&[503, 429]);
        assert!(place.write(&blob, &open).expect("written"));
        let sent = server.requests();
        let pieces = sent.iter().filter(|r| r.starts_with(if version == 1 { "PATCH" } else { "PUT" }));
        // The second version has the list of the pieces as well.
        assert_eq!(pieces.count(), if version == 1 { 3 } else { 4 });
        assert!(read(&place, &blob).expect("read") == bytes, "version {version}");
    }
}

#[test]
fn with_githubs_list_no_blob_is_asked_for() {
    let (fixture, server) = (Fixture::new(), GhaServer::start(&BRANCHES));
    let (there, open) = fixture.blob(b"there");
    let (missing, open_missing) = fixture.blob(b"missing");
    let key = blob_key(&there.digest);
    let api = TestServer::start(move |asked| {
        assert_eq!(asked.header("authorization"), Some("Bearer ghs_x"));
        assert_eq!(
            (asked.path(), asked.query("key").as_deref()),
            ("/repos/o/r/actions/caches", Some(BLOB_PREFIX))
        );
        // The first page of the first branch is full.
        let is_full =
            asked.query("ref").as_deref() == Some(BRANCHES[0]) && asked.query("page").as_deref() == Some("1");
        let keys: Vec<String> =
            (0..if is_full { 99 } else { 0 }).map(|i| i.to_string()).chain([key.clone()]).collect();
        let entries: Vec<_> = keys.iter().map(|key| serde_json::json!({ "id": 1, "key": key })).collect();
        answer(200, serde_json::json!({ "total_count": 1, "actions_caches": entries }).to_string())
    });
    let (ghtoken, repository) = (Some("ghs_x".to_owned()), Some("o/r".to_owned()));
    let options = GhaOptions { ghtoken, repository, ..options(&server.url(), server.token(), 2) };
    let mut place = GhaPlace::new(&options, &fixture.network()).expect("a place");
    place.listing.as_mut().expect("a listing").api =
        format!("http://{}/", api.address).parse().expect("an address");
    assert!(!place.write(&there, &open).expect("listed"));
    assert!(place.write(&missing, &open_missing).expect("written"));
    assert!(
        !server.requests().iter().any(|r| r.contains("GetCacheEntryDownloadURL")),
        "{:?}",
        server.requests()
    );
    assert_eq!(api.asked().len(), 3);
}

#[test]
fn a_list_that_cannot_be_had_is_done_without() {
    let (fixture, server) = (Fixture::new(), GhaServer::start(&BRANCHES));
    let api = TestServer::start(|_| answer(403, r#"{"message":"no"}"#));
    let mut place = place(&fixture, &server, 1);
    let mut listing = Listing::of("o/r", "ghs_x").expect("a listing");
    listing.api = format!("http://{}/", api.address).parse().expect("an address");
    place.listing = Some(listing);
    let (blob, open) = fixture.blob(b"a layer");
    assert!(place.write(&blob, &open).expect("written"));
    assert!(!place.write(&blob, &open).expect("there"));
    for bad in ["", "o", "o/", "/r", "o/r/x", "../r", "o/r?x"] {
        assert!(Listing::of(bad, "x").is_none(), "{bad}");
    }
}

#[test]
fn an_empty_blob_can_be_kept() {
    for version in [1, 2] {
        let (fixture, server) = (Fixture::new(), GhaServer::start(&BRANCHES));
        let place = place(&fixture, &server, version);
        let (blob, open) = fixture.blob(b"");
        assert!(place.write(&blob, &open).expect("written"));
        assert_eq!(read(&place, &blob).expect("read"), b"");
    }
}

#[test]
fn what_is_not_there_is_no_cache() {
    for version in [1, 2] {
        let (fixture, server) = (Fixture::new(), GhaServer::start(&BRANCHES));
        let place = place(&fixture, &server, version);
        assert_eq!(place.configs().expect("no error"), Vec::<Vec<u8>>::new());
        let (blob, _) = fixture.blob(b"missing");
        assert!(matches!(read(&place, &blob), Err(CacheError::NoBlob(d)) if d == blob.digest));
    }
}

#[test]
fn a_service_that_is_busy_is_asked_again_a_few_times() {
    for version in [1, 2] {
        let (fixture, server) = (Fixture::new(), GhaServer::start(&BRANCHES));
        let place = place(&fixture, &server, version);
        server.refuse(&[429, 500, 503]);
        place.publish(b"{}", &[]).expect("published");
        server.refuse(&[429; 4]);
        let text = place.configs().expect_err("an error").to_string();
        assert!(
            text.contains("was answered with 429: refused") && text.contains("http://127.0.0.1"),
            "{text}"
        );
        assert!(!text.contains(server.token()), "{text}");
    }
}

#[test]
fn another_token_is_refused() {
    for version in [1, 2] {
        let (fixture, server) = (Fixture::new(), GhaServer::start(&BRANCHES));
        let token = only_main();
        let other = GhaServer::start(&["refs/heads/main"]);
        let options = options(&server.url(), other.token(), version);
        let place = GhaPlace::new(&options, &fixture.network()).expect("a place");
        assert_eq!(place.token, token);
        let text = place.configs().expect_err("an error").to_string();
        assert!(text.contains("401: no such token"), "{text}");
    }
}

#[test]
fn a_number_that_another_took_and_never_finished_is_passed_over() {
    for version in [1, 2] {
        let (fixture, server) = (Fixture::new(), GhaServer::start(&BRANCHES));
        let mut place = place(&fixture, &server, version);
        let key = place.index_key("refs/heads/x");
        let taken = place.service.reserve(&format!("{key}1"), place.deadline()).expect("an answer");
        assert!(taken.is_some());
        place.number_wait = Duration::from_millis(50);
        place.publish(b"{}", &[]).expect("published");
        assert_eq!(server.keys(), [format!("{key}2")]);
    }
}

#[test]
fn what_a_server_says_wrongly_is_an_error_and_never_a_panic() {
    let token = GhaServer::start(&BRANCHES).token().to_owned();
    for body in [
        "no JSON",
        "[]",
        "{}",
        r#"{"ok":true}"#,
        r#"{"ok":true,"matched_key":"x","signed_download_url":"x"}"#,
        r#"{"ok":true,"matched_key":"x","signed_download_url":"ftp://x"}"#,
        r#"{"ok":true,"matched_key":"x","signed_download_url":"http://127.0.0.1:1/"}"#,
        r#"{"cacheKey":"index-buildkit-1-","archiveLocation":"http://127.0.0.1:1/"}"#,
        r#"{"cacheId":-1}"#,
        r#"{"cacheId":18446744073709551615}"#,
    ] {
        for version in [1, 2] {
            let fixture = Fixture::new();
            let server = TestServer::start(move |_| answer(200, body));
            let options = options(&format!("http://{}", server.address), &token, version);
            let mut place = GhaPlace::new(&options, &fixture.network()).expect("a place");
            place.number_wait = Duration::ZERO;
            let (blob, open) = fixture.blob(b"a layer");
            let errors = [
                place.configs().err(),
                read(&place, &blob).err(),
                place.write(&blob, &open).err(),
                place.publish(b"{}", &[]).err(),
            ];
            // Some of these say that there is nothing, which is no error.
            assert!(body != "no JSON" || errors.iter().all(Option::is_some), "{errors:?}");
            for text in errors.into_iter().flatten().map(|e| e.to_string()) {
                let named =
                    ["127.0.0.1", "gha buildkit", "is not there"].iter().any(|name| text.contains(name));
                assert!(named, "{body}: {text}");
            }
        }
    }
}

#[test]
fn more_than_the_blob_should_have_is_refused() {
    let (fixture, server) = (Fixture::new(), GhaServer::start(&BRANCHES));
    let place = place(&fixture, &server, 2);
    let (blob, open) = fixture.blob(b"a layer");
    place.write(&blob, &open).expect("written");
    server.break_entry(&blob_key(&blob.digest), &[7; 100]);
    let text = read(&place, &blob).expect_err("an error").to_string();
    assert!(text.contains("larger than the 7 bytes"), "{text}");
}

#[test]
fn a_service_that_hangs_is_left_when_the_build_is_cancelled_or_the_time_is_over() {
    let token = GhaServer::start(&BRANCHES).token().to_owned();
    for (version, step) in [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)] {
        let (fixture, server) = (Fixture::new(), TestServer::start(|_| None));
        let options = options(&format!("http://{}", server.address), &token, version);
        let (blob, open) = fixture.blob(b"a layer");
        let tried = |timeout: Option<Duration>| {
            let options = GhaOptions { timeout, ..options.clone() };
            let place = GhaPlace::new(&options, &fixture.network())?;
            match step {
                0 => place.configs().map(drop),
                1 => read(&place, &blob).map(drop),
                2 => place.write(&blob, &open).map(drop),
                _ => place.publish(b"{}", &[]).map(drop),
            }
        };
        let late = tried(Some(Duration::from_millis(100)));
        assert!(matches!(late, Err(CacheError::TimedOut(_))), "{late:?}");
        fixture.cancelled_while(|| {
            let error = tried(None);
            assert!(matches!(error, Err(CacheError::Canceled)), "{error:?}");
        });
    }
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let token = GhaServer::start(&BRANCHES).token().to_owned();
    let fixture = Fixture::new();
    let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let (blob, _) = fixture.blob(&bytes);
    let key = blob_key(&blob.digest);
    let parts = AtomicU32::new(0);
    let server = TestServer::start(move |asked| {
        if asked.method == "POST" {
            let host = asked.header("host").unwrap_or_default();
            let found = format!(
                r#"{{"ok":true,"matched_key":"{key}","signed_download_url":"http://{host}/b?sig=1"}}"#
            );
            return answer(200, found);
        }
        assert_eq!(asked.header("authorization"), None);
        parts.fetch_add(1, Ordering::Relaxed);
        let from =
            asked.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let from: usize = from.unwrap_or(0);
        let rest = &bytes[from..];
        let headers = vec![
            ("content-length", rest.len().to_string()),
            ("content-range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
        ];
        let status = if from == 0 { 200 } else { 206 };
        Some((status, headers, rest[..rest.len().min(300_000)].to_vec()))
    });
    let options = options(&format!("http://{}", server.address), &token, 2);
    let place = GhaPlace::new(&options, &fixture.network()).expect("a place");
    let got = read(&place, &blob).expect("read");
    assert!(Digest::of(&got) == blob.digest);
    assert!(server.asked().iter().filter(|a| a.starts_with("GET")).count() >= 4);
}

#[test]
fn the_version_is_the_one_asked_for_or_that_of_the_address() {
    let fixture = Fixture::new();
    let token = GhaServer::start(&BRANCHES).token().to_owned();
    let (old, new) = (Some("http://old/".to_owned()), Some("http://new/".to_owned()));
    let results = Some("https://results-receiver.actions.githubusercontent.com/".to_owned());
    for (version, url, url_v2, want) in [
        (None, &old, &new, Version::Second),
        (None, &old, &None, Version::First),
        (None, &results, &None, Version::Second),
        (Some(1), &old, &new, Version::First),
        (Some(2), &old, &None, Version::Second),
    ] {
        let (url, url_v2, token) = (url.clone(), url_v2.clone(), Some(token.clone()));
        let options = GhaOptions { url, url_v2, token, version, ..GhaOptions::default() };
        let place = GhaPlace::new(&options, &fixture.network()).expect("a place");
        assert_eq!(place.service.version(), want, "{options:?}");
    }
}

#[test]
fn what_is_not_given_is_named_with_its_variable() {
    let fixture = Fixture::new();
    let new =
        |options: &GhaOptions| GhaPlace::new(options, &fixture.network()).map(drop).expect_err("an error");
    let text = new(&GhaOptions::default()).to_string();
    assert!(
        text.starts_with("the address of GitHub's cache service is not given")
            && text.contains("ACTIONS_RESULTS_URL")
    );
    let text = new(&GhaOptions { token: None, ..options("http://x", "", 2) }).to_string();
    assert!(text.starts_with("the token for GitHub's cache service is not given"), "{text}");
    let text = new(&options("http://x", "secret", 2)).to_string();
    assert!(text.contains("no JSON Web Token") && !text.contains("secret"), "{text}");
    let token = GhaServer::start(&BRANCHES).token().to_owned();
    let text = new(&options("x y", &token, 2)).to_string();
    assert!(text.contains("it is no HTTP address"), "{text}");
}
