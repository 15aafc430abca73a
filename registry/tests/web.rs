//! The client with services that are no registries. It does not know what they are for.

mod support;

use kiln_registry::{RegistryError, WebBody, WebRequest};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use support::{Faulty, Reply, client};

fn request(method: Method, server: &Faulty, path: &str) -> WebRequest<'static> {
    let url = Url::parse(&format!("http://{}{path}", server.address)).expect("an address");
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer t0ken"));
    WebRequest { method, url, headers, body: WebBody::Nothing }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_again_with_its_body() {
    let server = Faulty::start(|count, _| match count {
        0 => Reply::new(429).header("Retry-After", "0"),
        1 => Reply::new(503),
        _ => Reply::new(201).body(b"done"),
    });
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    std::fs::write(&path, "0123456789").expect("a file");
    let open = || {
        let mut file = File::open(&path)?;
        file.seek(SeekFrom::Start(3))?;
        Ok(file)
    };
    let body = WebBody::File { open: &open, bytes: 4 };
    let request = WebRequest { body, ..request(Method::PUT, &server, "/x?sig=s3cret") };
    let mut answer = client().web(&request).await.expect("an answer");
    assert_eq!((answer.status(), answer.beginning(2).await), (201, b"do".to_vec()));
    assert_eq!(answer.request(), format!("PUT http://{}/x", server.address));
    let bodies: Vec<Vec<u8>> = server.seen().into_iter().map(|s| s.body).collect();
    assert_eq!(bodies, [b"3456"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_does_not_see_the_token() {
    let other = Faulty::start(|_, _| Reply::new(200));
    let address = other.address.clone();
    let server = Faulty::start(move |_, seen| match seen.path.as_str() {
        "/a" => Reply::new(307).header("Location", "/b"),
        _ => Reply::new(302).header("Location", &format!("http://{address}/c")),
    });
    let answer = client().web(&request(Method::GET, &server, "/a")).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let shown =
        |server: &Faulty| server.seen().iter().map(|s| s.authorization().is_some()).collect::<Vec<_>>();
    assert_eq!((shown(&server), shown(&other)), (vec![true, true], vec![false]));
    // What changes something is not sent elsewhere.
    let answer = client().web(&request(Method::PUT, &server, "/a")).await.expect("an answer");
    assert_eq!(answer.status(), 307);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_where_it_broke_off_and_has_a_limit() {
    const BYTES: &[u8] = b"0123456789";
    let server = Faulty::start(|count, seen| match (count, seen.header("range")) {
        (0, None) => Reply::new(200).length(10).body(BYTES).broken_after(4),
        (_, Some("bytes=4-")) => Reply::new(206).header("Content-Range", "bytes 4-9/10").body(&BYTES[4..]),
        _ => Reply::new(200).body(BYTES),
    });
    let mut got = Vec::new();
    let mut keep = |piece: &[u8]| {
        got.extend_from_slice(piece);
        Ok(())
    };
    let request = request(Method::GET, &server, "/x");
    let done = client().web_download(&request, 10, &mut keep).await.expect("a download");
    assert!(matches!(done, Ok(10)));
    assert_eq!(got, BYTES);
    let error = client().web_download(&request, 9, &mut |_| Ok(())).await.expect_err("too large");
    assert!(matches!(error, RegistryError::TooLarge { max: 9, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_success_is_given_to_the_caller() {
    let server = Faulty::start(|_, _| Reply::new(404).body(b"no such thing"));
    let request = request(Method::GET, &server, "/x");
    let Ok(Err(mut answer)) = client().web_download(&request, 9, &mut |_| Ok(())).await else {
        panic!("an answer")
    };
    assert_eq!((answer.status(), answer.beginning(100).await), (404, b"no such thing".to_vec()));
}
