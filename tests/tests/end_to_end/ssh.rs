//! `--ssh`: agents that are made of key files, as steps and git see them.

use super::on_busybox;
use kiln_tests::{Running, TestContext};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Made by ssh-keygen for tests alone.
const KEY: &str = include_str!("../../../worker/src/ssh_agent/tests/keys/ed25519");
const PUBLIC: &str = include_str!("../../../worker/src/ssh_agent/tests/keys/ed25519.pub");
const ENCRYPTED: &str = include_str!("../../../worker/src/ssh_agent/tests/keys/encrypted");

/// The message that asks for the keys.
const LIST: [u8; 5] = [0, 0, 0, 1, 11];

const LIMIT: Duration = Duration::from_secs(60);

/// The public half as the agent sends it, from what ssh-keygen wrote in base64.
fn public_bytes() -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = PUBLIC.split(' ').nth(1).expect("three words").trim_end_matches('=');
    let (mut out, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for letter in text.bytes() {
        let value = alphabet.iter().position(|known| *known == letter).expect("base64");
        bits = bits << 6 | u32::try_from(value).expect("six bits");
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    out
}

/// What an agent with the key alone answers: its public half, and no comment.
fn expected_list() -> Vec<u8> {
    let public = public_bytes();
    let length = u32::try_from(public.len()).expect("a short key").to_be_bytes();
    let body = [&[12, 0, 0, 0, 1][..], &length, &public, &[0; 4]].concat();
    [&u32::try_from(body.len()).expect("a short list").to_be_bytes()[..], &body].concat()
}

fn list(socket: &Path) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).expect("an agent");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream.write_all(&LIST).expect("to be heard");
    stream.shutdown(std::net::Shutdown::Write).expect("to be heard to the end");
    let mut came = Vec::new();
    stream.read_to_end(&mut came).expect("an answer");
    came
}

/// The root of the process whose arguments have `word`, as it sees it: busybox has nothing that talks to a socket,
/// so the test goes into the step's own root to do so.
fn root_of_step(word: &str, running: &mut Running) -> PathBuf {
    let start = Instant::now();
    loop {
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let root = entry.path().join("root");
            let args = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let args: Vec<&[u8]> = args.split(|byte| *byte == 0).collect();
            if args.first().is_some_and(|program| program.ends_with(b"sleep"))
                && args.contains(&word.as_bytes())
                && root.join("bin/busybox").exists()
            {
                return root;
            }
        }
        assert!(!running.has_ended(), "it ended early: {}", running.stderr_so_far());
        assert!(start.elapsed() < LIMIT, "no step: {}", running.stderr_so_far());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn key_beside(context: &TestContext) -> String {
    context.write_beside("key", KEY);
    context.text("key")
}

#[test]
fn a_step_has_an_agent_with_the_keys_of_the_files() {
    // A number of seconds that no other test sleeps for.
    let seconds = (1_000_000 + std::process::id()).to_string();
    let context = on_busybox(&format!(
        "FROM @\nUSER 1000:1000\nRUN --mount=type=ssh,id=ci,uid=1000,gid=1001,mode=0640,target=/agent \
         stat -c '%F %a %u:%g' /agent > /tmp/out; sleep {seconds} & \
         while [ ! -e /tmp/go ]; do usleep 20000; done; rm /tmp/go; kill $!\n"
    ));
    let key = key_beside(&context);
    let archive = format!("type=oci,dest={}", context.text("image.tar"));
    let args = ["--ssh".to_owned(), format!("ci={key}"), "-o".to_owned(), archive];
    let mut running = context.building(args).start();
    let root = root_of_step(&seconds, &mut running);
    let came = list(&root.join("agent"));
    let folder = std::fs::read_dir(context.store().join("tmp")).expect("the store").flatten().count();
    std::fs::write(root.join("tmp/go"), "").expect("the step's root");
    running.wait(LIMIT).success();
    assert_eq!(came, expected_list());
    assert_eq!(folder, 1, "the agent's folder");
    let left = std::fs::read_dir(context.store().join("tmp")).expect("the store").count();
    assert_eq!(left, 0, "the socket went with the build");
    kiln_tests::ImageAssert::of_archive(&context.path("image.tar"))
        .file_is("/tmp/out", "socket 640 1000:1001\n");
}

#[test]
fn git_is_given_the_agent_with_the_keys_of_the_files() {
    let context = TestContext::with_dockerfile("FROM scratch\nADD git@host.invalid:some/repository.git /\n");
    let key = key_beside(&context);
    let seen = context.text("seen");
    // It stands in for ssh: tells where the agent is, and waits until it was asked.
    let program = format!(
        "#!/bin/sh\necho \"$SSH_AUTH_SOCK\" > {seen}.new && mv {seen}.new {seen}\n\
         while [ ! -e {seen}.done ]; do sleep 0.05; done\nexit 255\n"
    );
    let ssh = context.write_beside("bin/ssh", program);
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let path = std::env::var("PATH").unwrap_or_default();
    let args = ["--ssh".to_owned(), format!("default={key}"), "-o".to_owned(), "type=tar,dest=-".to_owned()];
    let mut running = context.building(args).env("PATH", format!("{}:{path}", context.text("bin"))).start();
    let start = Instant::now();
    while !Path::new(&seen).exists() {
        assert!(!running.has_ended() && start.elapsed() < LIMIT, "{}", running.stderr_so_far());
        std::thread::sleep(Duration::from_millis(20));
    }
    let came = list(Path::new(std::fs::read_to_string(&seen).expect("an address").trim_end()));
    context.write_beside("seen.done", "");
    running.wait(LIMIT).fails_with(1).says("git@host.invalid");
    assert_eq!(came, expected_list());
}

#[test]
fn files_that_are_no_usable_keys_are_refused_by_name() {
    let context = TestContext::with_dockerfile("FROM scratch\n");
    let key = key_beside(&context);
    let socket = context.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    context.write_beside("encrypted", ENCRYPTED);
    context.write_beside("words", "no key\n");
    context.write_beside("key.pub", PUBLIC);
    let text = |name: &str| context.text(name);
    for (value, words) in [
        (text("encrypted"), "encrypted is encrypted: add it to an agent with ssh-add, and give --ssh ci"),
        (text("words"), "words is neither a socket nor a private key"),
        (text("key.pub"), "key.pub is a public key: give the private one"),
        (text("none"), "none cannot be read: No such file or directory"),
        (format!("{key},{}", text("socket")), "socket is a socket, which stands alone"),
    ] {
        let argument = format!("ci={value}");
        let refused = context.build(["--ssh", &argument]).fails_with(2);
        refused.says(&format!("--ssh {argument}: ")).says(words);
    }
    let bare = context.building(["--ssh", "default"]).env_remove("SSH_AUTH_SOCK").run();
    bare.fails_with(2).says("--ssh default: SSH_AUTH_SOCK is not set");
}
