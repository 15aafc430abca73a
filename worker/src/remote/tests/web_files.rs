//! Claims about files of the web.

use super::*;
use crate::pins::PinnedSources;

const MODIFIED: &str = "last-modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n";

fn only_file(fixture: &Fixture, stack: &Stack) -> (String, Entry) {
    let index = fixture.index(stack);
    let (path, entry) = index.iter().next().expect("a file");
    assert_eq!(index.len(), 1);
    (String::from_utf8_lossy(path).into_owned(), entry.clone())
}

#[test]
fn a_file_is_roots_and_private_and_as_old_as_the_server_says() {
    let server = WebServer::new(|_, _| answer("200 OK", MODIFIED, "hello"));
    let fixture = Fixture::new();
    let stack = fixture.bring(&server.url("/a/b.txt?x=1"), &[]).expect("a file");
    let (name, entry) = only_file(&fixture, &stack);
    assert_eq!((name.as_str(), entry.mode, entry.uid, entry.gid), ("b.txt", 0o600, 0, 0));
    assert_eq!(entry.mtime_s, 1_700_000_000);
    assert!(matches!(entry.kind, Kind::File { .. }));
}

#[test]
fn name_mode_and_owner_are_as_asked_for() {
    let server =
        WebServer::new(|_, _| answer("200 OK", "content-disposition: attachment; filename=no\r\n", "hello"));
    let fixture = Fixture::new();
    let attrs = [("http.filename", "yes"), ("http.perm", "0755"), ("http.uid", "7"), ("http.gid", "8")];
    let stack = fixture.bring(&server.url("/x"), &attrs).expect("a file");
    let (name, entry) = only_file(&fixture, &stack);
    assert_eq!((name.as_str(), entry.mode, entry.uid, entry.gid), ("yes", 0o755, 7, 8));
    assert_eq!(entry.mtime_s, 0);
    let stack = fixture.bring(&server.url("/x"), &[]).expect("a file");
    assert_eq!(only_file(&fixture, &stack).0, "no");
    fails(fixture.bring(&server.url("/x"), &[("http.filename", "..")]), &["can't be the name"]);
}

#[test]
fn a_tagged_file_is_asked_for_again_but_comes_once() {
    let server = WebServer::new(|head, _| match head.contains("if-none-match: \"tag\"\r\n") {
        true => answer("304 Not Modified", "", ""),
        false => answer("200 OK", "etag: \"tag\"\r\n", "hello"),
    });
    let fixture = Fixture::new();
    let one = fixture.bring(&server.url("/x"), &[]).expect("a file");
    let two = fixture.bring(&server.url("/x"), &[]).expect("a file");
    assert_eq!(snapshot(&one), snapshot(&two));
    assert_eq!(server.asked().len(), 2);
    fails(
        fixture.bring(&server.url("/x"), &[("http.checksum", &Digest::of(b"other").to_string())]),
        &["mismatch"],
    );
}

#[test]
fn a_time_of_change_is_believed_only_when_it_is_long_past() {
    for (date, conditional) in
        [("Tue, 14 Nov 2023 22:14:20 GMT", true), ("Tue, 14 Nov 2023 22:13:59 GMT", false)]
    {
        let headers = format!("{MODIFIED}date: {date}\r\n");
        let server = WebServer::new(move |_, _| answer("200 OK", &headers, "hello"));
        let fixture = Fixture::new();
        let one = fixture.bring(&server.url("/x"), &[]).expect("a file");
        let two = fixture.bring(&server.url("/x"), &[]).expect("a file");
        assert_eq!(
            server.asked()[1].contains("if-modified-since: tue, 14 nov 2023 22:13:20 gmt"),
            conditional
        );
        // It came again, but is the same.
        assert_eq!((snapshot(&one), fixture.snapshots()), (snapshot(&two), 1));
    }
}

#[test]
fn a_file_that_changed_has_another_content() {
    let server =
        WebServer::new(|_, count| answer("200 OK", "etag: \"x\"\r\n", if count == 1 { "a" } else { "b" }));
    let fixture = Fixture::new();
    let one = fixture.bring(&server.url("/x"), &[]).expect("a file").content();
    assert_ne!(fixture.bring(&server.url("/x"), &[]).expect("a file").content(), one);
}

#[test]
fn a_checksum_is_held_and_what_is_known_by_it_is_not_asked_for() {
    let server = WebServer::new(|_, _| answer("200 OK", "", "hello"));
    let fixture = Fixture::new();
    let (right, wrong) = (Digest::of(b"hello").to_string(), Digest::of(b"other").to_string());
    fails(
        fixture.bring(&server.url("/x"), &[("http.checksum", &wrong)]),
        &["checksum mismatch", &wrong, &right],
    );
    assert_eq!(fixture.snapshots(), 0);
    fixture.bring(&server.url("/x"), &[("http.checksum", &right)]).expect("a file");
    fixture.bring(&server.url("/x"), &[("http.checksum", &right)]).expect("a file");
    assert_eq!(server.asked().len(), 2);
    fails(fixture.bring(&server.url("/x"), &[("http.checksum", "md5:00")]), &["md5:00"]);
}

#[test]
fn what_is_missing_is_asked_for_once_and_what_fails_again() {
    let server = WebServer::new(|head, count| match head.starts_with("get /gone") {
        true => answer("404 Not Found", "", ""),
        false if count < 4 => answer("503 Service Unavailable", "", ""),
        false => answer("200 OK", "", "hello"),
    });
    let fixture = Fixture::new();
    let url = server.url("/gone");
    fails(fixture.bring(&url, &[]), &[&url, "404"]);
    assert_eq!(server.asked().len(), 1);
    fixture.bring(&server.url("/x"), &[]).expect("a file");
    assert_eq!(server.asked().len(), 4);
}

#[test]
fn a_body_that_breaks_off_is_fetched_anew() {
    let server = WebServer::new(|_, count| match count {
        1 => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel".to_vec(),
        _ => answer("200 OK", "", "hello"),
    });
    let fixture = Fixture::new();
    let checksum = Digest::of(b"hello").to_string();
    fixture.bring(&server.url("/x"), &[("http.checksum", &checksum)]).expect("a file");
    assert_eq!((server.asked().len(), fixture.snapshots()), (2, 1));
}

#[test]
fn redirects_are_followed_to_the_web_only_and_not_for_ever() {
    let server = WebServer::new(|head, _| match head.split(' ').nth(1) {
        Some("/moved") => answer("302 Found", "location: /plain.txt\r\n", ""),
        Some("/loop") => answer("302 Found", "location: /loop\r\n", ""),
        Some("/file") => answer("302 Found", "location: file:///etc/passwd\r\n", ""),
        Some("/lost") => answer("302 Found", "", ""),
        _ => answer("200 OK", "", "hello"),
    });
    let fixture = Fixture::new();
    let stack = fixture.bring(&server.url("/moved"), &[]).expect("a file");
    // As in BuildKit the name is that of the address that was asked for.
    assert_eq!(only_file(&fixture, &stack).0, "moved");
    let before = server.asked().len();
    fails(fixture.bring(&server.url("/loop"), &[]), &["redirects"]);
    assert_eq!(server.asked().len() - before, 11);
    fails(fixture.bring(&server.url("/file"), &[]), &["redirect from http to file is not followed"]);
    fails(fixture.bring(&server.url("/lost"), &[]), &["302", "Location"]);
}

#[test]
fn credentials_stay_with_their_origin() {
    let other = WebServer::new(|_, _| answer("200 OK", "", "hello"));
    let to = other.url("/x");
    let server = WebServer::new(move |_, _| answer("302 Found", &format!("location: {to}\r\n"), ""));
    let fixture = Fixture::new().with_secret("HTTP_AUTH_TOKEN_127.0.0.1", "t0ken\n");
    fixture.bring(&server.url("/x"), &[]).expect("a file");
    assert!(server.asked()[0].contains("authorization: bearer t0ken\r\n"));
    assert!(!other.asked()[0].contains("authorization"));
    let with_user = other.url("/y").replace("http://", "http://me:secret@");
    fixture.bring(&with_user, &[]).expect("a file");
    assert!(other.asked()[1].contains("authorization: basic bwu6c2vjcmv0\r\n"));
    let gone = WebServer::new(|_, _| answer("404 Not Found", "", ""));
    let text = fails(fixture.bring(&gone.url("/y").replace("http://", "http://me:secret@"), &[]), &["404"]);
    assert!(!text.contains("secret"));
}

#[test]
fn the_end_of_the_build_ends_a_download() {
    let server = WebServer::new(|_, _| {
        std::thread::sleep(Duration::from_secs(20));
        Vec::new()
    });
    let fixture = Fixture::new();
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            fixture.cancel.cancel();
        });
        assert!(matches!(fixture.bring(&server.url("/x"), &[]), Err(WorkerError::Canceled)));
    });
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_pinned_file_is_what_it_was_or_is_refused() {
    let server = WebServer::new(|head, _| match head.contains("if-none-match: \"two\"\r\n") {
        true => answer("304 Not Modified", "", ""),
        false => answer("200 OK", "etag: \"two\"\r\n", "two"),
    });
    let (url, one, two) = (server.url("/x"), Digest::of(b"one"), Digest::of(b"two"));
    let held = |digest| {
        let sources = PinnedSources { web: [(url.clone(), digest)].into(), ..PinnedSources::default() };
        Fixture { pins: Arc::new(Pins::new("kiln.lock".to_owned(), sources, true)), ..Fixture::new() }
    };
    let good = held(two);
    good.bring(&url, &[]).expect("what is pinned");
    good.bring(&url, &[]).expect("what is pinned");
    assert_eq!(server.asked().len(), 1, "what is here is not asked for");
    let words = [&url, &one.to_string(), &two.to_string(), "kiln.lock", "kiln lock update"];
    fails(held(one).bring(&url, &[]), &words);
    // The same where the server only says that it is what came before.
    let mut known = Fixture::new();
    known.bring(&url, &[]).expect("a file");
    known.pins = held(one).pins;
    fails(known.bring(&url, &[]), &words);
    fails(held(one).bring(&url, &[("http.checksum", &two.to_string())]), &[&url, "the Dockerfile asks for"]);
}
