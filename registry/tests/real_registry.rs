//! The client against a real registry. It does not know faults: those are in another file.

mod support;

use kiln_oci::{Descriptor, Digest, MediaType, Reference};
use kiln_registry::{Client, Options, PushedBlob, RegistryError};
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{RealRegistry, certificate, client, client_with, hasty, opener};

fn reference(registry: &RealRegistry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.address).parse().expect("a reference")
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..bytes).map(step).collect()
}

/// Pushes an image of one layer; says how its two blobs came there.
async fn push(client: &Client, to: &Reference, layer: &[u8], mount: &[String]) -> (Digest, [PushedBlob; 2]) {
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let layer_is = Descriptor::of(MediaType::OciLayer, layer);
    let config_is = Descriptor::of(MediaType::OciConfig, config);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        MediaType::OciManifest,
        json(&config_is),
        json(&layer_is)
    );
    let first = client.push_blob(to, &layer_is, mount, &opener(layer)).await.expect("the layer is pushed");
    let second =
        client.push_blob(to, &config_is, mount, &opener(config)).await.expect("the config is pushed");
    let digest = client.push_manifest(to, &MediaType::OciManifest, manifest.as_bytes()).await;
    (digest.expect("the manifest is pushed"), [first, second])
}

fn json(descriptor: &Descriptor) -> String {
    let Descriptor { media_type, digest, size, .. } = descriptor;
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_resolved_and_pulled() {
    let registry = RealRegistry::start("", None);
    let (client, to) = (client(), reference(&registry, "team/app:1.0"));
    let layer = noise(3_000_000);
    let (digest, how) = push(&client, &to, &layer, &[]).await;
    assert_eq!(how, [PushedBlob::Uploaded; 2]);

    let resolved = client.resolve(&to).await.expect("resolved").descriptor;
    assert_eq!((resolved.digest, &resolved.media_type), (digest, &MediaType::OciManifest));
    let by_digest = client.resolve(&to.with_digest(digest)).await.expect("resolved").descriptor;
    assert_eq!(by_digest, resolved);
    let (descriptor, bytes) = client.manifest(&to).await.expect("the manifest");
    assert_eq!((descriptor, bytes.len() as u64), (resolved.clone(), resolved.size));

    let layer_is = Descriptor::of(MediaType::OciLayer, &layer);
    let mut pulled = Vec::new();
    let mut keep = |part: &[u8]| -> io::Result<()> {
        pulled.extend_from_slice(part);
        Ok(())
    };
    client.pull_blob(&to, &layer_is, &mut keep).await.expect("pulled");
    assert_eq!(Digest::of(&pulled), layer_is.digest);
    assert!(client.has_blob(&to, &layer_is.digest).await.expect("an answer"));
    assert!(!client.has_blob(&to, &Digest::of(b"other")).await.expect("an answer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_push_moves_nothing_and_another_repository_mounts() {
    let registry = RealRegistry::start("", None);
    let layer = noise(100_000);
    let (digest, _) = push(&client(), &reference(&registry, "a:1"), &layer, &[]).await;
    let (again, how) = push(&client(), &reference(&registry, "a:2"), &layer, &[]).await;
    assert_eq!((again, how), (digest, [PushedBlob::Existed; 2]));
    let from = ["missing".to_owned(), "a".to_owned()];
    let (mounted, how) = push(&client(), &reference(&registry, "b/c:1"), &layer, &from).await;
    assert_eq!((mounted, how), (digest, [PushedBlob::Mounted; 2]));
    let from = ["missing".to_owned(), "d".to_owned()];
    let (_, how) = push(&client(), &reference(&registry, "d:1"), &noise(5), &from).await;
    assert_eq!(how[0], PushedBlob::Uploaded, "a mount that fails goes on in the upload that it began");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_blob_can_be_pushed_and_pulled() {
    let registry = RealRegistry::start("", None);
    let (client, to) = (client(), reference(&registry, "a:1"));
    let empty = Descriptor::of(MediaType::OciLayer, b"");
    let how = client.push_blob(&to, &empty, &[], &opener(b"")).await.expect("pushed");
    assert_eq!(how, PushedBlob::Uploaded);
    assert_eq!(client.blob_bytes(&to, &empty, 10).await.expect("pulled"), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named() {
    let registry = RealRegistry::start("", None);
    let to = reference(&registry, "none:1");
    for error in [client().resolve(&to).await.err(), client().manifest(&to).await.err()] {
        let error = error.expect("an error");
        assert!(matches!(&error, RegistryError::NotFound { .. }), "{error}");
        assert!(error.to_string().contains(&registry.address), "{error}");
    }
    let blob = Descriptor::of(MediaType::OciLayer, b"x");
    let error = client().blob_bytes(&to, &blob, 10).await.expect_err("an error");
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_the_blob_is_not_pushed() {
    let registry = RealRegistry::start("", None);
    let (client, to) = (client(), reference(&registry, "a:1"));
    let blob = Descriptor::of(MediaType::OciLayer, b"right");
    let error = client.push_blob(&to, &blob, &[], &opener(b"too long")).await.expect_err("an error");
    assert!(matches!(error, RegistryError::Content { .. }), "{error}");
    let error = client.push_blob(&to, &blob, &[], &opener(b"wrong")).await.expect_err("an error");
    assert!(matches!(error, RegistryError::Status { status: 400, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_logs_in_with_a_name_and_a_password() {
    // The bcrypt hash of `s3cret:x`.
    let users = "kiln:$2y$05$abcdefghijklmnopqrstuuWrm/5AoaKADYlqOe34LrWvaAncFaCxG\n";
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("htpasswd");
    std::fs::write(&file, users).expect("written");
    let extra = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display());
    let registry = RealRegistry::start(&extra, None);
    let to = reference(&registry, "a:1");

    let error = client().resolve(&to).await.expect_err("an error").to_string();
    assert!(error.contains("kiln login"), "{error}");
    let login = |auth: &str| format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.address);
    let (wrong, _folder) = client_with(&login("a2lsbjp3cm9uZw=="));
    let error = wrong.resolve(&to).await.expect_err("an error");
    assert!(matches!(&error, RegistryError::Unauthorized { .. }), "{error}");
    assert!(error.to_string().contains("config.json"), "{error}");

    let (client, _folder) = client_with(&login("a2lsbjpzM2NyZXQ6eA=="));
    let (digest, _) = push(&client, &to, &noise(1000), &[]).await;
    assert_eq!(client.resolve(&to).await.expect("resolved").descriptor.digest, digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_vouches_for_is_refused_unless_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = certificate(folder.path());
    let registry = RealRegistry::start("", Some((&certificate, &key)));
    let to = reference(&registry, "a:1");
    let error = client().resolve(&to).await.expect_err("an error");
    assert!(matches!(&error, RegistryError::Tls { .. }), "{error:?}");
    assert!(error.to_string().contains("--insecure-registry"), "{error}");

    let insecure_registries = vec![registry.address.clone()];
    let options = Options { insecure_registries, patience: hasty(), ..Options::default() };
    let allowed = Client::new(options).expect("a client");
    push(&allowed, &to, &noise(1000), &[]).await;

    let status = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child_that_trusts_a_certificate", "--ignored"])
        .env("SSL_CERT_FILE", &certificate)
        .env("KILN_TEST_REFERENCE", to.to_string())
        .output()
        .expect("the child starts");
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is run by another test, in an environment of its own"]
async fn child_that_trusts_a_certificate() {
    let to = std::env::var("KILN_TEST_REFERENCE").expect("a reference").parse().expect("a reference");
    client().resolve(&to).await.expect("resolved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_answer_from_this_machine_takes_milliseconds() {
    let registry = RealRegistry::start("", None);
    let to = reference(&registry, "a:1");
    push(&client(), &to, &noise(1000), &[]).await;
    let mut best = Duration::MAX;
    for _ in 0..10 {
        let start = Instant::now();
        let client = Client::new(Options::from_env()).expect("a client");
        client.resolve(&to).await.expect("resolved");
        best = best.min(start.elapsed());
    }
    assert!(best < Duration::from_millis(50), "{best:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_elsewhere_than_on_this_machine_must_be_allowed() {
    // To the client 0.0.0.0 is no loopback address; the system takes it for this machine.
    let registry = RealRegistry::start("", None);
    let address = registry.address.replace("127.0.0.1", "0.0.0.0");
    let to: Reference = format!("{address}/a:1").parse().expect("a reference");
    let error = client().resolve(&to).await.expect_err("an error");
    assert!(matches!(&error, RegistryError::Tls { .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("--insecure-registry {address}")), "{error}");
    let options = Options { insecure_registries: vec![address], patience: hasty(), ..Options::default() };
    let allowed = Client::new(options).expect("a client");
    push(&allowed, &to, &noise(1000), &[]).await;
}

#[test]
fn every_request_can_move_between_threads() {
    fn check(_: impl Send) {}
    let (client, to): (Client, Reference) = (client(), "localhost/a".parse().expect("a reference"));
    let (blob, open) = (Descriptor::of(MediaType::OciLayer, b""), opener(b""));
    let mut sink = |_: &[u8]| Ok(());
    check(client.push_blob(&to, &blob, &[], &open));
    check(client.pull_blob(&to, &blob, &mut sink));
    check(client.blob_bytes(&to, &blob, 1));
    check(client.push_manifest(&to, &MediaType::OciManifest, b""));
    check((client.resolve(&to), client.manifest(&to), client.has_blob(&to, &blob.digest)));
}
