//! Contexts and Dockerfiles from the web and from git, and Dockerfiles that lie elsewhere.

use super::NONE;
use kiln_tests::{FakeRegistry, Finished, ImageAssert, Reply, TestContext};
use std::process::{Child, Command, Stdio};

/// A web server with one file for each path.
fn web(files: Vec<(&'static str, Vec<u8>)>) -> FakeRegistry {
    FakeRegistry::start(move |_, target| match files.iter().find(|(path, _)| *path == target) {
        Some((_, bytes)) => Reply::new(200, bytes.clone()),
        None => Reply::new(404, ""),
    })
}

/// `kiln build ARGS… ADDRESS`, with the image beside the context.
fn build(context: &TestContext, args: &[&str], address: &str) -> Finished {
    let output = format!("type=oci,dest={}", context.text("image.tar"));
    let mut all = vec!["build", "--progress=plain", "-o", &output];
    all.extend(args);
    all.push(address);
    context.kiln(all).run()
}

fn image(context: &TestContext) -> ImageAssert {
    ImageAssert::of_archive(&context.path("image.tar"))
}

fn tar_of(context: &TestContext, flags: &[&str]) -> Vec<u8> {
    let mut tar = Command::new("tar");
    let output = tar.args(flags).args(["-cf", "-", "."]).current_dir(context.context()).output();
    output.expect("tar").stdout
}

#[test]
fn an_archive_on_the_web_is_the_context_whatever_its_compression() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY . /\n");
    context
        .write("sub/a.txt", "in a tar")
        .write("sub/b.txt", "ignored")
        .write(".dockerignore", "sub/b.txt\n");
    let flags: [&[&str]; 5] = [&[], &["-z"], &["-J"], &["-j"], &["--zstd"]];
    let paths = ["/plain", "/gz", "/xz", "/bz2", "/zst"];
    let web = web(paths.into_iter().zip(flags.map(|flags| tar_of(&context, flags))).collect());
    for path in paths {
        build(&context, &[], &format!("http://{}{path}", web.address())).success();
        image(&context).file_is("/sub/a.txt", "in a tar").lacks("/sub/b.txt");
    }
}

#[test]
fn a_file_on_the_web_that_is_no_archive_is_the_dockerfile() {
    let context = TestContext::new();
    context.write("a.txt", "local");
    let web = web(vec![
        ("/here", b"FROM scratch\nLABEL from=web\n".to_vec()),
        ("/docker/Copying.Dockerfile?x=1", b"FROM scratch\nCOPY a.txt /\n".to_vec()),
        ("/broken", b"FROM scratch\nNONSENSE x\n".to_vec()),
        ("/tar", tar_of(&context, &[])),
    ]);
    let url = |path: &str| format!("http://{}{path}", web.address());
    build(&context, &[], &url("/here")).success();
    assert_eq!(image(&context).config.config.labels.get("from").map(String::as_str), Some("web"));
    build(&context, &["-f", "other"], &url("/here")).fails_with(2).says("two Dockerfiles");
    // A Dockerfile by its address, and the files of a folder.
    build(&context, &["-f", &url("/docker/Copying.Dockerfile?x=1")], &context.text("ctx")).success();
    image(&context).file_is("/a.txt", "local");
    build(&context, &["-f", &url("/docker/Copying.Dockerfile?x=1")], &url("/tar")).success();
    image(&context).file_is("/a.txt", "local");
    let output = format!("type=oci,dest={}", context.text("image.tar"));
    let piped = ["build", "-o", &output, "-f", "-", &url("/tar")];
    context.kiln(piped).stdin("FROM scratch\nCOPY a.txt /piped.txt\n").run().success();
    image(&context).file_is("/piped.txt", "local");
    build(&context, &["-f", &url("/broken")], &context.text("ctx")).fails_with(2).says("broken:2");
    build(&context, &["-f", &url("/tar")], &context.text("ctx")).fails_with(2).says("an archive");
    build(&context, &["-f", &url("/none")], &context.text("ctx")).fails_with(1).says("404");
}

#[test]
fn a_dockerfile_outside_has_its_own_ignore_file_beside_it() {
    let context = TestContext::new();
    context.write("a.txt", "a").write("b.txt", "b").write(".dockerignore", "a.txt\n");
    let file =
        context.write_beside("docker/Other", "FROM scratch\nCOPY . /\n").to_string_lossy().into_owned();
    context.image(["-f", &file]).file_is("/b.txt", "b").lacks("/a.txt");
    context.write_beside("docker/Other.dockerignore", "b.txt\n");
    context.image(["-f", &file]).file_is("/a.txt", "a").lacks("/b.txt");
}

#[test]
fn a_file_named_for_an_archive_is_in_it() {
    let context = TestContext::with_dockerfile("NONSENSE\n");
    context.write("docker/Inside", "FROM scratch\nCOPY a.txt /\n").write("a.txt", "a");
    // Where the command is given lies another one of that name.
    context.write_beside("docker/Inside", "NONSENSE\n");
    let output = format!("type=oci,dest={}", context.text("image.tar"));
    let args = ["build", "-o", &output, "-f", "docker/Inside", "-"];
    context.kiln(args).stdin(tar_of(&context, &["-z"])).run().success();
    image(&context).file_is("/a.txt", "a");
    let web = web(vec![("/tar", tar_of(&context, &[]))]);
    build(&context, &["-f", "docker/Inside"], &format!("http://{}/tar", web.address())).success();
    image(&context).file_is("/a.txt", "a");
}

#[test]
fn both_from_standard_input_are_one_too_many() {
    let context = TestContext::new();
    context
        .kiln(["build", "-f", "-", "-"])
        .stdin("FROM scratch\n")
        .run()
        .fails_with(2)
        .says("standard input");
    context.kiln(["build", "-f", "x", "-"]).stdin("FROM scratch\n").run().fails_with(2).says("no tar");
}

#[test]
fn links_lead_to_the_context_and_to_the_dockerfile() {
    let context = TestContext::new();
    context.write("real/Dockerfile", "FROM scratch\nCOPY a.txt /\n").write("a.txt", "a");
    context.link("Dockerfile", "real/Dockerfile");
    context.image(NONE).file_is("/a.txt", "a");
    let outside = context.write_beside("outside", "FROM scratch\nCOPY a.txt /b.txt\n");
    context.link("Leading", &outside.to_string_lossy());
    context.image(["-f", &context.context().join("Leading").to_string_lossy()]).file_is("/b.txt", "a");
    std::os::unix::fs::symlink("ctx", context.path("linked")).expect("a link");
    build(&context, &[], &context.text("linked")).success();
    image(&context).file_is("/a.txt", "a");
    let output = format!("type=oci,dest={}", context.text("image.tar"));
    context.kiln(["build", "-o", &output, "."]).current_dir(&context.context()).run().success();
    image(&context).file_is("/a.txt", "a");
}

#[test]
fn a_dockerfile_of_an_archive_does_not_lead_out_of_it() {
    let context = TestContext::new();
    let secret = context.write_beside("secret", "FROM scratch\nLABEL secret=1\n");
    context.link("Dockerfile", &secret.to_string_lossy()).write("a.txt", "a");
    let piped = |bytes| context.kiln(["build", "-"]).stdin(bytes).run();
    piped(tar_of(&context, &[])).fails_with(2).says("leads out of the context").does_not_say("LABEL");
    std::fs::remove_file(context.context().join("Dockerfile")).expect("the link");
    context.write("Dockerfile", "FROM scratch\nCOPY a.txt /\n");
    context.link(".dockerignore", &secret.to_string_lossy());
    piped(tar_of(&context, &[])).fails_with(2).says(".dockerignore leads out of the context");
}

/// A git server, until it is dropped.
pub(super) struct GitServer {
    daemon: Child,
    pub(super) address: String,
}

impl GitServer {
    /// Serves the context as a repository with the branch `main`, in which its files are.
    pub(super) fn start(context: &TestContext) -> GitServer {
        let git = |args: &[&str]| {
            let who = ["-c", "user.name=test", "-c", "user.email=test@test"];
            let mut command = Command::new("git");
            command.args(who).args(args).current_dir(context.context()).env("HOME", context.path("home"));
            let done = command.output().expect("git");
            assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
            String::from_utf8_lossy(&done.stdout).trim().to_owned()
        };
        git(&["init", "-q", "-b", "main"]);
        git(&["add", "-A"]);
        git(&["commit", "-q", "-m", "all"]);
        let program = format!("{}/git-daemon", git(&["--exec-path"]));
        let port = kiln_tests::closed_port();
        let (_, number) = port.rsplit_once(':').expect("a port");
        let daemon = Command::new(program)
            .args(["--reuseaddr", "--export-all", "--listen=127.0.0.1", &format!("--port={number}")])
            .arg(format!("--base-path={}", context.text("")))
            .stderr(Stdio::null())
            .spawn()
            .expect("git daemon");
        let address = format!("127.0.0.1:{number}");
        let limit = std::time::Duration::from_secs(10);
        assert!(kiln_tests::wait_until(limit, || std::net::TcpStream::connect(&address).is_ok()));
        GitServer { daemon, address }
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[test]
fn a_repository_and_a_folder_of_it_are_contexts() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY a.txt /\n");
    context.write("a.txt", "top").write("sub/Dockerfile", "FROM scratch\nCOPY a.txt /\n");
    context.write("sub/a.txt", "below").write("sub/Other", "FROM scratch\nCOPY a.txt /other.txt\n");
    let server = GitServer::start(&context);
    let address = |rest: &str| format!("git://{}/ctx{rest}", server.address);
    build(&context, &[], &address("")).success();
    image(&context).file_is("/a.txt", "top").lacks("/.git");
    build(&context, &[], &address("#main:sub")).success();
    image(&context).file_is("/a.txt", "below");
    build(&context, &["-f", "Other"], &address("#:sub")).success();
    image(&context).file_is("/other.txt", "below");
    build(&context, &[], &address("#main:none")).fails_with(1).says("none");
    let named = format!("code={}", address("#main:sub"));
    let other = TestContext::with_dockerfile("FROM scratch\nCOPY --from=code a.txt /\n");
    other.image(["--build-context", &named]).file_is("/a.txt", "below");
}
