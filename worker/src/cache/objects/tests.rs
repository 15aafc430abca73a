//! Caches in a bucket of a real server, and in a container of a fake one.

mod fake_azure;
mod middle;
#[allow(dead_code, reason = "the tests of the whole program use the rest")]
#[path = "../../../../tests/src/s3_server.rs"]
mod s3_server;

use self::fake_azure::FakeAzure;
use self::middle::{Middle, Way};
use self::s3_server::{S3_BUCKET, S3_KEY_ID, S3_SECRET, S3Server};
use super::*;
use kiln_oci::{Digest, MediaType};
use std::fs::File;
use std::io::Write;
use std::time::{Instant, SystemTime};
use tokio::runtime::Builder;
use tokio::runtime::Runtime;

/// What a broken server may cost, on a machine that is busy.
const SOON: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads")
}

fn options(endpoint: String) -> S3Options {
    S3Options {
        bucket: S3_BUCKET.to_owned(),
        region: "us-east-1".to_owned(),
        prefix: "some/app/".to_owned(),
        endpoint_url: Some(endpoint),
        access_key_id: Some(S3_KEY_ID.to_owned()),
        secret_access_key: Some(S3_SECRET.to_owned()),
        use_path_style: true,
        ..S3Options::default()
    }
}

fn s3(options: &S3Options, runtime: &Runtime) -> ObjectPlace {
    ObjectPlace::s3(options, runtime.handle(), &CancelToken::new()).expect("the options are good")
}

/// Bytes that repeat nowhere in step with a part.
fn bytes_of(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

fn descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor::of(MediaType::OciLayerGzip, bytes)
}

fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("written");
    file
}

fn write(place: &ObjectPlace, bytes: &[u8]) -> Result<bool, CacheError> {
    let file = file_of(bytes);
    place.write(&descriptor(bytes), &|| File::open(file.path()))
}

fn read(place: &ObjectPlace, blob: &Descriptor) -> Result<Vec<u8>, CacheError> {
    let mut all = Vec::new();
    place.read(blob, &mut |bytes| {
        all.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(all)
}

fn status(error: &CacheError) -> Option<u16> {
    match error {
        CacheError::Status { status, .. } => Some(*status),
        _ => None,
    }
}

#[test]
fn what_is_written_to_a_bucket_is_read_back() {
    let (server, runtime) = (S3Server::start(), runtime());
    let options = options(server.endpoint());
    let place = s3(&options, &runtime);
    assert_eq!(place.name(), "s3 cache/some/app");
    assert!(place.configs().expect("a bucket without a cache").is_empty());

    let bytes = bytes_of(100_000);
    let blob = descriptor(&bytes);
    assert!(write(&place, &bytes).expect("written"), "bytes were sent");
    assert!(!write(&place, &bytes).expect("there"), "nothing was sent again");
    assert!(place.configs().expect("blobs alone are no cache").is_empty());
    place.publish(b"{\"one\":1}", std::slice::from_ref(&blob)).expect("published");

    let other = s3(&options, &runtime);
    assert_eq!(other.configs().expect("the config"), [b"{\"one\":1}"]);
    assert_eq!(read(&other, &blob).expect("the blob"), bytes);
    other.publish(b"{\"two\":2}", &[]).expect("published");
    assert_eq!(place.configs().expect("the config"), [b"{\"two\":2}"]);
    assert!(server.object(&format!("some/app/blobs/{}", blob.digest)).is_file(), "BuildKit's name of a blob");
    assert!(server.object("some/app/manifests/buildkit").is_file(), "BuildKit's name of a config");
}

#[test]
fn an_empty_blob_and_one_that_is_not_there() {
    let (server, runtime) = (S3Server::start(), runtime());
    let place = s3(&options(server.endpoint()), &runtime);
    assert!(write(&place, b"").expect("written"));
    assert_eq!(read(&place, &descriptor(b"")).expect("read"), b"");
    let missing = descriptor(b"nobody wrote this");
    assert!(matches!(read(&place, &missing), Err(CacheError::NoBlob(digest)) if digest == missing.digest));
}

#[test]
fn a_cache_of_two_names_is_written_to_both_and_read_from_those_that_are_there() {
    let (server, runtime) = (S3Server::start(), runtime());
    let named = |names: &[&str]| {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        s3(
            &S3Options { names, manifests_prefix: Some("m-".to_owned()), ..options(server.endpoint()) },
            &runtime,
        )
    };
    named(&["main", "branch"]).publish(b"1", &[]).expect("published");
    named(&["branch"]).publish(b"2", &[]).expect("published");
    assert_eq!(named(&["branch", "gone", "main"]).configs().expect("configs"), [b"2", b"1"]);
    assert!(server.object("some/app/m-main").is_file());
}

#[test]
fn mistakes_are_told_from_a_cache_that_is_not_there() {
    let (server, runtime) = (S3Server::start(), runtime());
    let good = options(server.endpoint());
    // s3s-fs takes what is written to a bucket that is not there; Amazon says so.
    let amazon = Middle::start(server.address(), vec![Way::Say(404); 9]);
    let as_amazon = s3(&options(amazon.endpoint()), &runtime);
    for error in
        [as_amazon.configs().expect_err("no bucket"), write(&as_amazon, b"x").expect_err("no bucket")]
    {
        assert_eq!(status(&error), Some(404), "{error}");
        assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    }
    let wrong = s3(&S3Options { secret_access_key: Some("wrong".to_owned()), ..good.clone() }, &runtime);
    for error in [wrong.configs().expect_err("a wrong key"), write(&wrong, b"x").expect_err("a wrong key")] {
        assert_eq!(status(&error), Some(403), "{error}");
        assert!(!format!("{error} {error:?} {wrong:?}").contains("wrong"), "{error:?} {wrong:?}");
    }
    let half = S3Options { secret_access_key: None, ..good.clone() };
    for (bad, expect) in [
        (S3Options { bucket: String::new(), ..good.clone() }, "AWS_BUCKET"),
        (S3Options { region: String::new(), ..good.clone() }, "AWS_REGION"),
        (half, "AWS_SECRET_ACCESS_KEY"),
        (S3Options { endpoint_url: Some("ftp://x".to_owned()), use_path_style: false, ..good }, "http://"),
    ] {
        let error = ObjectPlace::s3(&bad, runtime.handle(), &CancelToken::new()).expect_err("a mistake");
        assert!(error.to_string().contains(expect), "{error}");
    }
}

#[test]
fn a_large_blob_goes_in_parts() {
    let (server, runtime) = (S3Server::start(), runtime());
    let place = s3(&options(server.endpoint()), &runtime);
    let bytes = bytes_of((28 << 20) + 5);
    let blob = descriptor(&bytes);
    assert!(write(&place, &bytes).expect("written"));
    let key = place.blob_key(&blob).expect("a key");
    let found = place.wait(place.head(&key)).expect("an answer").expect("the blob");
    // S3 counts the parts in the tag.
    assert!(found.e_tag.as_deref().is_some_and(|tag| tag.contains("-4")), "{found:?}");
    assert_eq!(read(&place, &blob).expect("the blob"), bytes);
}

#[test]
fn an_old_blob_is_made_young_and_keeps_its_bytes() {
    let (server, runtime) = (S3Server::start(), runtime());
    let place = s3(&options(server.endpoint()), &runtime);
    let bytes = bytes_of(1000);
    let blob = descriptor(&bytes);
    write(&place, &bytes).expect("written");
    let object = server.object(&format!("some/app/blobs/{}", blob.digest));
    let age = |back: Duration| {
        let file = File::options().write(true).open(&object).expect("the object");
        file.set_modified(SystemTime::now() - back).expect("aged");
    };
    let young = || {
        let modified = object.metadata().expect("the object").modified().expect("a time");
        modified.elapsed().unwrap_or_default() < Duration::from_secs(60)
    };
    age(DAY / 2);
    assert!(!write(&place, &bytes).expect("there"));
    assert!(!young(), "half a day is no age");
    age(DAY * 2);
    assert!(!write(&place, &bytes).expect("there"), "no bytes are sent for it");
    assert!(young(), "it was touched");
    assert_eq!(read(&place, &blob).expect("the blob"), bytes);
}

#[test]
fn a_server_that_dies_while_it_is_read_is_an_error_soon() {
    let (server, runtime) = (S3Server::start(), runtime());
    let place = s3(&options(server.endpoint()), &runtime);
    let bytes = bytes_of(40 << 20);
    write(&place, &bytes).expect("written");
    let start = Instant::now();
    let mut killed = false;
    let error = place.read(&descriptor(&bytes), &mut |_| {
        if !std::mem::replace(&mut killed, true) {
            server.kill();
        }
        Ok(())
    });
    assert!(matches!(error, Err(CacheError::Unreachable { .. })), "{error:?}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn a_server_that_dies_while_it_is_written_to_is_an_error_soon() {
    let (server, runtime) = (S3Server::start(), runtime());
    let place = s3(&options(server.endpoint()), &runtime);
    let bytes = bytes_of(80 << 20);
    let is_part = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().contains("part");
    let start = Instant::now();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            while start.elapsed() < SOON * 3 {
                let entries = std::fs::read_dir(server.folder()).into_iter().flatten();
                if entries.flatten().any(is_part) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            server.kill();
        });
        write(&place, &bytes)
    });
    assert!(matches!(error, Err(CacheError::Unreachable { .. })), "{error:?}");
    assert!(start.elapsed() < SOON * 2, "{:?}", start.elapsed());
}

#[test]
fn a_read_goes_on_where_the_connection_broke() {
    let (server, runtime) = (S3Server::start(), runtime());
    let bytes = bytes_of(4 << 20);
    write(&s3(&options(server.endpoint()), &runtime), &bytes).expect("written");
    let cut = Way::CutAfter(1 << 20);
    let middle = Middle::start(server.address(), vec![cut, cut]);
    let place = s3(&options(middle.endpoint()), &runtime);
    assert_eq!(read(&place, &descriptor(&bytes)).expect("the blob"), bytes);
    assert_eq!(middle.connections(), 3);
}

#[test]
fn a_server_that_is_busy_is_asked_again_but_not_for_ever() {
    let (server, runtime) = (S3Server::start(), runtime());
    let middle = Middle::start(server.address(), vec![Way::Say(503), Way::Say(429)]);
    let place = s3(&options(middle.endpoint()), &runtime);
    place.publish(b"{}", &[]).expect("at the third try");
    assert_eq!(place.configs().expect("the config"), [b"{}"]);

    let broken = Middle::start(server.address(), vec![Way::Say(500); 100]);
    let start = Instant::now();
    let error = s3(&options(broken.endpoint()), &runtime).configs().expect_err("always 500");
    assert_eq!(status(&error), Some(500), "{error}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(broken.connections(), 5);
    let once = S3Options { retry_max_attempts: Some(1), ..options(broken.endpoint()) };
    s3(&once, &runtime).configs().expect_err("always 500");
    assert_eq!(broken.connections(), 6);
}

#[test]
fn a_server_that_hangs_is_given_up_and_a_cancelled_build_does_not_wait_for_it() {
    let runtime = runtime();
    let silent = Middle::start(String::new(), vec![Way::Hang; 10]);
    let start = Instant::now();
    let error = s3(&options(silent.endpoint()), &runtime).configs().expect_err("no answer");
    assert!(matches!(error, CacheError::Unreachable { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());

    let cancel = CancelToken::new();
    let place =
        ObjectPlace::s3(&options(silent.endpoint()), runtime.handle(), &cancel).expect("good options");
    let elapsed = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            cancel.cancel();
        });
        let start = Instant::now();
        assert!(matches!(write(&place, b"x"), Err(CacheError::Canceled)));
        start.elapsed()
    });
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
}

#[test]
fn addresses_of_buckets_are_as_buildkit_makes_them() {
    let at = |bucket: &str, endpoint: Option<&str>, use_path_style| {
        let options = S3Options {
            bucket: bucket.to_owned(),
            endpoint_url: endpoint.map(str::to_owned),
            use_path_style,
            ..options(String::new())
        };
        s3::address(&options).expect("an address")
    };
    for (bucket, endpoint, use_path_style, expect) in [
        ("b", None, false, "https://b.s3.us-east-1.amazonaws.com"),
        ("b.c", None, false, "https://s3.us-east-1.amazonaws.com/b.c"),
        ("b", Some("https://s3.example:9000/"), true, "https://s3.example:9000/b"),
        ("b", Some("http://s3.example:9000"), false, "http://b.s3.example:9000"),
    ] {
        assert_eq!(at(bucket, endpoint, use_path_style), expect);
    }
}

fn azure(server: &FakeAzure, key: &str, runtime: &Runtime) -> Result<ObjectPlace, CacheError> {
    let options = AzureOptions {
        account_url: server.url(),
        account_name: Some(fake_azure::ACCOUNT.to_owned()),
        secret_access_key: Some(key.to_owned()),
        prefix: "app".to_owned(),
        names: vec!["a".to_owned(), "b".to_owned()],
        ..AzureOptions::default()
    };
    ObjectPlace::azure(&options, runtime.handle(), &CancelToken::new())
}

#[test]
fn what_is_written_to_a_container_is_read_back() {
    let (server, runtime) = (FakeAzure::start(), runtime());
    let place = azure(&server, fake_azure::KEY, &runtime).expect("good options");
    assert_eq!(place.name(), "azblob kilntest/buildkit-cache/app");
    assert!(place.configs().expect("no container is no cache").is_empty());
    let (small, large) = (bytes_of(1000), bytes_of(20 << 20));
    for bytes in [&small, &large] {
        assert!(write(&place, bytes).expect("the container is made"));
        assert!(!write(&place, bytes).expect("there"));
        assert_eq!(&read(&place, &descriptor(bytes)).expect("the blob"), bytes);
    }
    place.publish(b"{}", &[]).expect("published");
    assert_eq!(place.configs().expect("configs"), [b"{}", b"{}"]);
    let digest = Digest::of(&small);
    assert_eq!(
        server
            .names()
            .iter()
            .filter(|name| !name.contains(&Digest::of(&large).to_string()))
            .collect::<Vec<_>>(),
        [&format!("app/blobs/{digest}"), "app/manifests/a", "app/manifests/b"]
    );
    assert_eq!(server.blocks(), 3, "the large one went in parts");
}

#[test]
fn a_wrong_key_of_a_container_is_an_error() {
    let (server, runtime) = (FakeAzure::start(), runtime());
    let place = azure(&server, "d3Jvbmc=", &runtime).expect("a key that could be right");
    let error = place.configs().expect_err("a wrong key");
    assert_eq!(status(&error), Some(403), "{error}");
    let error = azure(&server, "%%%", &runtime).expect_err("not base64");
    assert!(!error.to_string().contains("%%%"), "{error}");
}
