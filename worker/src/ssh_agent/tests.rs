//! Claims about agents made of keys. The keys beside this file were made by ssh-keygen and openssl for it alone.

use super::protocol::{MAX_MESSAGE_BYTES, answer, first_message, take_string};
use super::server::MAX_CLIENTS;
use super::*;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const ED25519_KEY: &str = include_str!("tests/keys/ed25519");
const RSA_KEY: &str = include_str!("tests/keys/rsa");
const ED25519_PUBLIC: &str = include_str!("tests/keys/ed25519.pub");
const RSA_PUBLIC: &str = include_str!("tests/keys/rsa.pub");
const P256_PUBLIC: &str = include_str!("tests/keys/p256.pub");
const P384_PUBLIC: &str = include_str!("tests/keys/p384.pub");

fn key(text: &str) -> AgentKey {
    AgentKey::of_text(text).expect("a key")
}

/// What a line of ssh-keygen's has in the middle.
fn blob(line: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(line.split(' ').nth(1).expect("three words")).expect("base64")
}

fn framed(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    super::key::put_string(&mut out, &parts.concat());
    out
}

fn string(bytes: &[u8]) -> Vec<u8> {
    framed(&[bytes])
}

fn sign_request(public: &[u8], data: &[u8], flags: u32) -> Vec<u8> {
    framed(&[&[13], &string(public), &string(data), &flags.to_be_bytes()])
}

const LIST: [u8; 5] = [0, 0, 0, 1, 11];
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];

/// The strings of which some bytes consist.
fn strings(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    while let Some((string, rest)) = take_string(bytes) {
        out.push(string.to_vec());
        bytes = rest;
    }
    assert!(bytes.is_empty(), "nothing is left over");
    out
}

/// The signature in an answer: its name and its bytes.
#[track_caller]
fn signature(answer: &[u8]) -> (String, Vec<u8>) {
    assert_eq!(answer.get(4), Some(&14), "{answer:?}");
    let [signature] = strings(&answer[5..]).try_into().expect("one string");
    let [name, bytes] = strings(&signature).try_into().expect("two strings");
    (String::from_utf8(name).expect("a name"), bytes)
}

fn verifies(algorithm: &'static dyn VerificationAlgorithm, public: &[u8], data: &[u8], sign: &[u8]) -> bool {
    UnparsedPublicKey::new(algorithm, public).verify(data, sign).is_ok()
}

/// A number of the protocol in as many bytes as a curve has.
fn padded(number: &[u8], length: usize) -> Vec<u8> {
    let digits: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
    [vec![0; length - digits.len()], digits].concat()
}

#[test]
fn every_form_of_a_key_has_the_public_half_that_ssh_keygen_tells() {
    for (text, public) in [
        (ED25519_KEY, ED25519_PUBLIC),
        (RSA_KEY, RSA_PUBLIC),
        (include_str!("tests/keys/rsa.pem"), RSA_PUBLIC),
        (include_str!("tests/keys/rsa.pkcs8"), RSA_PUBLIC),
        (include_str!("tests/keys/p256"), P256_PUBLIC),
        (include_str!("tests/keys/p256.pem"), P256_PUBLIC),
        (include_str!("tests/keys/p256_short"), include_str!("tests/keys/p256_short.pub")),
        (include_str!("tests/keys/p256.pkcs8"), P256_PUBLIC),
        (include_str!("tests/keys/p384"), P384_PUBLIC),
        (include_str!("tests/keys/p384.pem"), P384_PUBLIC),
        (include_str!("tests/keys/p384.pkcs8"), P384_PUBLIC),
    ] {
        assert_eq!(key(text).public(), blob(public), "{}", text.lines().next().unwrap_or_default());
    }
    let openssl = "PcBOJOaMqU0wXqYQuAuoYmKynHlaeamO2mHCRo0pGcE=";
    let public = key(include_str!("tests/keys/ed25519.pkcs8")).public().to_vec();
    assert_eq!(BASE64_STANDARD.encode(&public[19..]), openssl);
}

#[test]
fn lines_that_a_ci_broke_elsewhere_do_not_matter() {
    let windows = format!("# a note\r\n{}\r\n", ED25519_KEY.trim().replace('\n', "\r\n"));
    assert_eq!(key(&windows).public(), blob(ED25519_PUBLIC));
    let (begin, end) = ("-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----");
    let body = ED25519_KEY.replace(begin, "").replace(end, "").replace('\n', "");
    assert_eq!(key(&format!("{begin} {body} {end}")).public(), blob(ED25519_PUBLIC));
}

#[test]
fn what_is_no_usable_key_is_told_apart() {
    let refused = |text: &str| AgentKey::of_text(text).expect_err("it is refused");
    for text in [
        include_str!("tests/keys/encrypted"),
        include_str!("tests/keys/encrypted.pem"),
        include_str!("tests/keys/encrypted.pkcs8"),
    ] {
        assert!(matches!(refused(text), KeyError::Encrypted), "{text}");
    }
    assert!(matches!(refused(include_str!("tests/keys/p521")), KeyError::Unsupported));
    assert!(matches!(refused(ED25519_PUBLIC), KeyError::Public));
    assert!(matches!(refused("hello"), KeyError::NoKey));
    assert!(matches!(refused(""), KeyError::NoKey));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key");
    assert!(matches!(AgentKey::read(&file), Err(KeyError::Read(_))));
    std::fs::write(&file, vec![b'x'; 100 * 1024 + 1]).expect("a file");
    assert!(matches!(AgentKey::read(&file), Err(KeyError::TooLarge)));
    std::fs::write(&file, [0xff, 0xfe]).expect("a file");
    assert!(matches!(AgentKey::read(&file), Err(KeyError::NoKey)));
}

#[test]
fn a_key_that_is_cut_or_changed_never_panics() {
    for text in
        [ED25519_KEY, RSA_KEY, include_str!("tests/keys/p256.pem"), include_str!("tests/keys/rsa.pkcs8")]
    {
        for length in (0..text.len() - 40).step_by(7) {
            assert!(AgentKey::of_text(&text[..length]).is_err(), "{length}");
        }
        for place in (40..text.len() - 40).step_by(11) {
            let mut changed = text.as_bytes().to_vec();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            // It may be the comment that was hit.
            let _ = AgentKey::of_text(std::str::from_utf8(&changed).expect("text"));
        }
    }
    let (begin, end) = ("-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----");
    for text in [ED25519_KEY, include_str!("tests/keys/p256")] {
        let body = text.replace(begin, "").replace(end, "").replace('\n', "");
        let bytes = BASE64_STANDARD.decode(body).expect("base64");
        // Beyond the middle there may be only the comment and what fills up.
        for length in 0..bytes.len() / 2 {
            let cut = format!("{begin}\n{}\n{end}\n", BASE64_STANDARD.encode(&bytes[..length]));
            assert!(matches!(AgentKey::of_text(&cut), Err(KeyError::Damaged)), "{length}");
        }
    }
}

#[test]
fn a_key_shows_nothing_but_its_public_half() {
    let shown = format!("{:?}", key(ED25519_KEY));
    assert_eq!(
        shown,
        format!("AgentKey {{ public: {:?}, .. }}", BASE64_STANDARD.encode(blob(ED25519_PUBLIC)))
    );
}

#[test]
fn identities_are_listed_in_order_and_without_comments() {
    let keys = [key(RSA_KEY), key(ED25519_KEY)];
    let answer = answer(&keys, &LIST);
    assert_eq!(first_message(&answer), Ok(Some(answer.len())));
    assert_eq!(answer[4..9], [12, 0, 0, 0, 2]);
    assert_eq!(strings(&answer[9..]), [blob(RSA_PUBLIC), vec![], blob(ED25519_PUBLIC), vec![]]);
}

#[test]
fn an_ed25519_key_signs_as_openssh_does() {
    let answer = answer(&[key(ED25519_KEY)], &sign_request(&blob(ED25519_PUBLIC), b"to be signed", 0));
    let (name, bytes) = signature(&answer);
    assert_eq!(name, "ssh-ed25519");
    let openssh = "0BodK3sw9jS4AcygLEXzImQnTBmsvpKKXccbvmY5ynfvMI5RR8WojI4ENWQpwSAcH/fryAU+0ag5+wP6orF2Bw==";
    assert_eq!(BASE64_STANDARD.encode(&bytes), openssh);
    assert!(verifies(&ED25519, &blob(ED25519_PUBLIC)[19..], b"to be signed", &bytes));
}

#[test]
fn ecdsa_keys_make_signatures_that_verify() {
    let p256: &dyn VerificationAlgorithm = &ECDSA_P256_SHA256_FIXED;
    for (text, public, algorithm, length, name) in [
        (include_str!("tests/keys/p256"), P256_PUBLIC, p256, 32, "ecdsa-sha2-nistp256"),
        (include_str!("tests/keys/p256.pem"), P256_PUBLIC, p256, 32, "ecdsa-sha2-nistp256"),
        (
            include_str!("tests/keys/p384.pkcs8"),
            P384_PUBLIC,
            &ECDSA_P384_SHA384_FIXED,
            48,
            "ecdsa-sha2-nistp384",
        ),
        (include_str!("tests/keys/p384"), P384_PUBLIC, &ECDSA_P384_SHA384_FIXED, 48, "ecdsa-sha2-nistp384"),
    ] {
        let keys = [key(text)];
        let point = strings(&blob(public)).pop().expect("a point");
        // Numbers with leading zeros come up among so many.
        for round in 0..300u32 {
            let data = round.to_be_bytes();
            let (told, bytes) = signature(&answer(&keys, &sign_request(&blob(public), &data, 0)));
            assert_eq!(told, name);
            let numbers = strings(&bytes);
            assert!(numbers.iter().all(|number| number[0] < 0x80), "positive");
            let fixed: Vec<u8> = numbers.iter().flat_map(|number| padded(number, length)).collect();
            assert!(verifies(algorithm, &point, &data, &fixed));
            assert!(!verifies(algorithm, &point, b"another", &fixed));
        }
    }
}

#[test]
fn rsa_keys_sign_with_the_hash_of_the_flags_and_never_with_sha_1() {
    let [name, e, n] = strings(&blob(RSA_PUBLIC)).try_into().expect("three strings");
    assert_eq!(name, b"ssh-rsa");
    let public = RsaPublicKeyComponents { n: padded(&n, 256), e };
    for text in [RSA_KEY, include_str!("tests/keys/rsa.pem"), include_str!("tests/keys/rsa.pkcs8")] {
        let keys = [key(text)];
        for (flags, name, algorithm) in [
            (2, "rsa-sha2-256", &RSA_PKCS1_2048_8192_SHA256),
            (4, "rsa-sha2-512", &RSA_PKCS1_2048_8192_SHA512),
            (6, "rsa-sha2-256", &RSA_PKCS1_2048_8192_SHA256),
        ] {
            let (told, bytes) = signature(&answer(&keys, &sign_request(&blob(RSA_PUBLIC), b"data", flags)));
            assert_eq!(told, name);
            assert!(public.verify(algorithm, b"data", &bytes).is_ok());
            assert!(public.verify(algorithm, b"date", &bytes).is_err());
        }
        assert_eq!(answer(&keys, &sign_request(&blob(RSA_PUBLIC), b"data", 0)), FAILURE);
    }
}

#[test]
fn all_else_is_a_failure() {
    let keys = [key(ED25519_KEY)];
    let public = blob(ED25519_PUBLIC);
    // Adding, removing, locking, extensions; and what has no meaning.
    for kind in (0..=255).filter(|kind| ![11, 13].contains(kind)) {
        assert_eq!(answer(&keys, &framed(&[&[kind], &string(&public)])), FAILURE, "{kind}");
    }
    assert_eq!(answer(&keys, &sign_request(&blob(RSA_PUBLIC), b"", 2)), FAILURE);
    assert_eq!(answer(&[], &sign_request(&public, b"", 0)), FAILURE);
    let whole = sign_request(&public, b"data", 0);
    for length in 0..whole.len() {
        assert_eq!(answer(&keys, &whole[..length]), FAILURE, "{length}");
    }
    assert_eq!(answer(&keys, &framed(&[&[13], &[0xff; 4]])), FAILURE);
    assert_eq!(answer(&keys, &[whole, vec![0]].concat()), FAILURE);
}

#[test]
fn a_message_has_a_length_within_the_limit() {
    assert_eq!(first_message(&[]), Ok(None));
    assert_eq!(first_message(&[0, 0, 0]), Ok(None));
    assert_eq!(first_message(&[0, 0, 0, 2, 11]), Ok(None));
    assert_eq!(first_message(&[0, 0, 0, 1, 11, 7]), Ok(Some(5)));
    assert!(first_message(&[0; 4]).is_err());
    let most = u32::try_from(MAX_MESSAGE_BYTES).expect("256 KiB");
    assert_eq!(first_message(&most.to_be_bytes()), Ok(None));
    assert!(first_message(&(most + 1).to_be_bytes()).is_err());
}

/// A store and an agent that has the ed25519 key.
fn listening() -> (TempDir, Store, SshAgent) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("store")).expect("a store");
    (folder, store, SshAgent::Keys(KeyAgent::new(vec![key(ED25519_KEY)])))
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("an agent");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
    stream
}

fn expected_list() -> Vec<u8> {
    answer(&[key(ED25519_KEY)], &LIST)
}

#[track_caller]
fn answers(stream: &mut UnixStream) {
    stream.write_all(&LIST).expect("to be heard");
    let mut came = vec![0; expected_list().len()];
    stream.read_exact(&mut came).expect("an answer");
    assert_eq!(came, expected_list());
}

#[test]
fn sockets_have_the_owners_that_are_asked_for_in_a_folder_for_nobody_else() {
    let (_folder, store, agent) = listening();
    let owner = SocketOwner { uid: 7, gid: 8, mode: 0o640 };
    let socket = agent.socket_for(&store, owner).expect("a socket");
    let facts = std::fs::symlink_metadata(&socket).expect("it is there");
    assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o7777), (7, 8, 0o640));
    let folder = socket.parent().expect("a folder").to_owned();
    assert_eq!(folder.metadata().expect("it is there").mode() & 0o7777, 0o700);
    assert_eq!(agent.socket_for(&store, owner).expect("a socket"), socket);
    let own = agent.address(&store).expect("an address");
    assert_ne!(own, socket);
    answers(&mut connect(&socket));
    answers(&mut connect(&own));
    let mut open = connect(&own);
    drop(agent);
    assert!(!folder.exists());
    assert_eq!(open.read(&mut [0]).ok(), Some(0), "who is connected is let go");
}

#[test]
fn a_store_at_a_long_path_has_agents_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("x".repeat(120))).expect("a store");
    let agent = SshAgent::Keys(KeyAgent::new(vec![key(ED25519_KEY)]));
    let address = agent.address(&store).expect("an address");
    assert!(address.as_os_str().len() <= MAX_ADDRESS_BYTES, "{address:?}");
    answers(&mut connect(&address));
}

#[test]
fn messages_may_come_in_pieces_and_many_at_once() {
    let (_folder, store, agent) = listening();
    let mut stream = connect(&agent.address(&store).expect("an address"));
    for byte in LIST {
        stream.write_all(&[byte]).expect("to be heard");
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut came = vec![0; expected_list().len()];
    stream.read_exact(&mut came).expect("an answer");
    // More than the buffers of a socket hold: it writes only when it is read.
    let mut writer = stream.try_clone().expect("a stream");
    let count = 20_000;
    let writing = std::thread::spawn(move || {
        writer.write_all(&LIST.repeat(count)).and_then(|()| writer.shutdown(std::net::Shutdown::Write))
    });
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("answers");
    assert!(writing.join().expect("no panic").is_ok());
    assert_eq!(all.len(), count * came.len());
    assert!(all.chunks(came.len()).all(|answer| answer == came));
}

#[test]
fn the_silent_the_dead_and_the_mad_keep_nobody_from_an_answer() {
    let (_folder, store, agent) = listening();
    let socket = agent.address(&store).expect("an address");
    let mut mad = connect(&socket);
    mad.write_all(&[0xff; 64]).expect("to be heard");
    assert!(matches!(mad.read(&mut [0; 8]), Ok(0) | Err(_)), "it is let go");
    let mut crowd = Vec::new();
    for number in 0..1000 {
        let mut stream = connect(&socket);
        match number % 4 {
            0 => drop(stream),
            1 => {
                let _ = stream.write_all(&[0, 0, 1]);
                crowd.push(stream);
            }
            2 => {
                let _ = stream.write_all(&LIST);
                drop(stream);
            }
            _ => crowd.push(stream),
        }
        // A thousand descriptors may be more than this process has.
        if crowd.len() > 2 * MAX_CLIENTS {
            crowd.remove(0);
        }
    }
    answers(&mut connect(&socket));
    let start = Instant::now();
    drop(agent);
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(crowd);
}

#[test]
fn who_never_reads_its_answers_holds_up_nobody_and_not_the_end() {
    let (_folder, store, agent) = listening();
    let socket = agent.address(&store).expect("an address");
    let mut deaf = connect(&socket);
    deaf.set_nonblocking(true).expect("a stream");
    while deaf.write(&LIST.repeat(1000)).is_ok() {}
    answers(&mut connect(&socket));
    drop(agent);
    drop(deaf);
}
