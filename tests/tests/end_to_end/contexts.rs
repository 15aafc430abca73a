//! Where a build's files come from: a folder, standard input, named contexts, other Dockerfiles.

use super::{NONE, busybox, on_busybox};
use kiln_tests::{Finished, ImageAssert, TestContext};
use std::process::Command;

/// `kiln build ARGS… -` with `stdin` on standard input.
fn from_stdin(context: &TestContext, args: &[&str], stdin: Vec<u8>) -> Finished {
    let output = format!("type=oci,dest={}", context.text("image.tar"));
    let mut all = vec!["build", "--progress=plain", "-o", &output];
    all.extend(args);
    all.push("-");
    context.kiln(all).stdin(stdin).run()
}

fn image(context: &TestContext) -> ImageAssert {
    ImageAssert::of_archive(&context.path("image.tar"))
}

fn tar_of(context: &TestContext, flags: &str) -> Vec<u8> {
    let output = Command::new("tar").args([flags, "-", "."]).current_dir(context.context()).output();
    output.expect("tar").stdout
}

#[test]
fn a_dockerfile_on_standard_input_needs_no_context() {
    let context = TestContext::new();
    let text = format!("FROM {}\nRUN echo piped > /piped\n", busybox());
    from_stdin(&context, &[], text.into_bytes()).success();
    image(&context).file_is("/piped", "piped\n");
}

#[test]
fn a_tar_on_standard_input_is_the_context() {
    for flags in ["-cf", "-czf"] {
        let context = on_busybox("FROM @\nCOPY sub/a.txt /\n");
        context.write("sub/a.txt", "in a tar");
        from_stdin(&context, &[], tar_of(&context, flags)).success();
        image(&context).file_is("/a.txt", "in a tar");
    }
}

#[test]
fn a_dockerfile_of_the_tar_is_named_with_f() {
    let context = TestContext::new();
    context.write("docker/Other", "FROM scratch\nCOPY a.txt /\n").write("a.txt", "a");
    from_stdin(&context, &["-f", "docker/Other"], tar_of(&context, "-cf")).success();
    image(&context).file_is("/a.txt", "a");
}

#[test]
fn nothing_on_standard_input_is_refused() {
    let context = TestContext::new();
    from_stdin(&context, &[], Vec::new()).fails_with(2);
}

#[test]
fn another_dockerfile_is_named_with_f() {
    let context = TestContext::with_dockerfile("NONSENSE\n");
    context.write("Other", "FROM scratch\nCOPY a.txt /\n").write("a.txt", "a");
    let inside = context.context().join("Other");
    context.image(["-f", &inside.to_string_lossy()]).file_is("/a.txt", "a");
    let beside = context.write_beside("outside.Dockerfile", "FROM scratch\nCOPY a.txt /b.txt\n");
    context.image(["--file", &beside.to_string_lossy()]).file_is("/b.txt", "a");
}

#[test]
fn a_dockerfile_on_standard_input_has_the_contexts_files() {
    let context = TestContext::new();
    context.write("a.txt", "a");
    let output = format!("type=oci,dest={}", context.text("image.tar"));
    let text = "FROM scratch\nCOPY a.txt /\n";
    context.building(["-f", "-", "-o", &output]).stdin(text).run().success();
    image(&context).file_is("/a.txt", "a");
}

#[test]
fn target_picks_a_stage_by_its_name() {
    let context = on_busybox("FROM @ AS one\nRUN echo 1 > /one\nFROM one AS two\nRUN echo 2 > /two\n");
    context.image(["--target", "one"]).file_is("/one", "1\n").lacks("/two");
    context.image(["--target", "ONE"]).file_is("/one", "1\n").lacks("/two");
    context.build(["--target", "0"]).fails_with(2).says("0");
    context.image(NONE).file_is("/one", "1\n").file_is("/two", "2\n");
}

#[test]
fn build_arguments_come_from_the_flag_or_from_the_environment() {
    let context = on_busybox("FROM @\nARG A=default\nARG B\nRUN echo \"$A $B\" > /args\n");
    context.image(NONE).file_is("/args", "default \n");
    context.image(["--build-arg", "A=x", "--build-arg", "B=y z"]).file_is("/args", "x y z\n");
    let output = format!("type=oci,dest={}", context.text("image.tar"));
    context.building(["--build-arg", "B", "-o", &output]).env("B", "from outside").run().success();
    image(&context).file_is("/args", "default from outside\n");
}

#[test]
fn a_named_context_is_a_folder_to_copy_from() {
    let context = TestContext::with_dockerfile(
        "FROM scratch\nCOPY --from=tools busybox /bin/sh\nRUN echo no registry > /note\n",
    );
    let tools = format!("tools={}", context.tools().display());
    context.image(["--build-context", &tools]).file_is("/note", "no registry\n").is("/bin/sh", 0o755, (0, 0));
}

#[test]
fn a_named_context_takes_the_place_of_an_image() {
    let context = TestContext::with_dockerfile("FROM no.such.host/base:1\nRUN echo ok > /ok\n");
    let named = format!("no.such.host/base:1=docker-image://{}", busybox());
    context.image(["--build-context", &named]).file_is("/ok", "ok\n");
}

#[test]
fn a_context_that_is_not_there_is_named() {
    let context = TestContext::new();
    context.kiln(["build", "no-such-folder"]).run().fails_with(2).says("no-such-folder");
    let missing = format!("tools={}", context.text("missing-tools"));
    context.write("Dockerfile", "FROM scratch\nCOPY --from=tools x /\n");
    context.build(["--build-context", &missing]).fails_with(2).says("missing-tools");
    let file = context.write_beside("a-file", "no folder");
    context.kiln(["build".as_ref(), file.as_os_str()]).run().fails_with(2).says("a-file");
}

#[test]
fn a_file_that_copy_names_and_is_not_there_is_named_with_its_line() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY missing.txt /\n");
    let finished = context.build(NONE);
    assert!(matches!(finished.code, Some(1 | 2)), "{finished}");
    finished.says("missing.txt").does_not_say("panicked");
}

#[test]
fn a_link_out_of_the_context_leads_nowhere() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY folder/passwd /\n");
    context.link("folder", "/etc");
    let finished = context.build(["-o", &format!("type=local,dest={}", context.text("out"))]);
    assert_ne!(finished.code, Some(0), "the host's /etc/passwd came into an image:\n{finished}");
}

#[test]
fn special_files_in_the_context_do_not_hang_a_build() {
    let context = on_busybox("FROM @\nCOPY a.txt /\n");
    context.write("a.txt", "a");
    let made = Command::new("mkfifo").arg(context.context().join("pipe")).status().expect("mkfifo");
    assert!(made.success());
    context.image(NONE).file_is("/a.txt", "a");
}

#[test]
fn a_file_that_can_not_be_read_is_named() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY . /\n");
    context.write("open.txt", "open").write("closed/secret.txt", "closed").chmod("closed/secret.txt", 0);
    // The superuser reads everything, but for one without these two capabilities.
    let finished = kiln_tests::Invocation::new("setpriv")
        .args(["--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"])
        .arg(kiln_tests::kiln_program())
        .args(["--root", &context.text("store"), "build", "--progress=plain", &context.text("ctx")])
        .env("HOME", context.path("home"))
        .run();
    assert!(matches!(finished.code, Some(1 | 2)), "{finished}");
    finished.says("closed/secret.txt").says_one_of(&["permission denied"]).does_not_say("panicked");
    context.chmod("closed/secret.txt", 0o600);
    context.image(NONE).file_is("/closed/secret.txt", "closed");
}
