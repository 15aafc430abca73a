//! The files of images: what tells two apart, out into a tar, in from one.

use super::on_busybox;
use kiln_tests::{TestContext, members_of};
use serde_json::Value;

#[track_caller]
fn said(context: &TestContext, args: &[&str]) -> String {
    context.kiln(args).run().success().stdout_text()
}

/// Two images, `one:1` and `two:1`, on the same base.
fn two() -> TestContext {
    let context = on_busybox("FROM @\nENV A=1 B=2\nCOPY . /d/\nLABEL l=x\n");
    context.write("kept", "same").write("gone", "old").write("text", "ab").write("mode", "m");
    context.write(".dockerignore", "Dockerfile\n.dockerignore\n").chmod("mode", 0o644).link("link", "kept");
    context.build(["-t", "one:1"]).success();
    std::fs::remove_file(context.context().join("gone")).expect("a file");
    std::fs::remove_file(context.context().join("link")).expect("a link");
    context.write("text", "abc").write("new", "n").chmod("mode", 0o600).link("link", "text");
    let dockerfile = std::fs::read_to_string(context.context().join("Dockerfile")).expect("it");
    context.write(
        "Dockerfile",
        dockerfile
            .replace("A=1", "A=one")
            .replace("l=x", "l=x m=y")
            .replace("COPY . ", "COPY --chown=7:8 . "),
    );
    context.build(["-t", "two:1"]).success();
    context
}

#[test]
fn diff_tells_files_layers_and_settings() {
    let context = two();
    let text = said(&context, &["diff", "one:1", "two:1"]);
    for line in [
        "D /d/gone   3B",
        "A /d/new   1B",
        "C /d/text   size 2B -> 3B, content, owner 0:0 -> 7:8",
        "C /d/mode   mode 0644 -> 0600, owner 0:0 -> 7:8",
        "C /d/link   target kept -> text, owner 0:0 -> 7:8",
        "C Env.A: \"1\" -> \"one\"",
        "C Labels.m: nothing -> \"y\"",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert_eq!(text.lines().filter(|line| line.starts_with("- layer sha256:")).count(), 1, "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("+ layer sha256:")).count(), 1, "{text}");
    assert!(!text.contains("busybox") && !text.contains("Env.B"), "{text}");
    let config = said(&context, &["diff", "--only", "config", "one:1", "two:1"]);
    assert_eq!(config.lines().count(), 2, "{config}");
    let layers = said(&context, &["diff", "--only", "layers", "one:1", "two:1"]);
    assert_eq!(layers.lines().filter(|line| line.starts_with("= layer")).count(), 1, "{layers}");
    let json: Value =
        serde_json::from_str(&said(&context, &["diff", "--format", "json", "one:1", "two:1"])).expect("JSON");
    let file = json["files"]
        .as_array()
        .and_then(|all| all.iter().find(|file| file["path"] == "/d/text"))
        .expect("it");
    assert_eq!((&file["change"], &file["after"]["size"]), (&Value::from("C"), &Value::from(3)), "{file}");
    assert_eq!(file["what"], serde_json::json!(["size", "content", "owner"]));
}

#[test]
fn the_exit_code_of_diff_tells_whether_images_differ_if_it_is_to() {
    let context = two();
    context.kiln(["diff", "--exit-code", "one:1", "two:1"]).run().fails_with(1).does_not_say("ERROR");
    assert_eq!(said(&context, &["diff", "--exit-code", "one:1", "one:1"]), "");
    // One built a second time differs in times at most.
    context.build(["-t", "again:1", "--no-cache"]).success();
    context.kiln(["diff", "--exit-code", "--only", "files", "two:1", "again:1"]).run().success();
    context.kiln(["diff", "one:1", "localhost:1/none:1"]).run().fails_with(3);
    context.kiln(["diff", "--only", "nothing", "one:1", "one:1"]).run().fails_with(2);
}

#[test]
fn export_writes_the_files_and_import_makes_an_image_of_them() {
    let context = two();
    let file = context.text("root.tar");
    context.kiln(["export", "-o", &file, "one:1"]).run().success();
    let members = members_of(file.as_ref());
    assert_eq!(members["d/text"], b"ab");
    let changes =
        ["-c", "CMD [\"/bin/sh\", \"-c\", \"cat /d/text\"]", "-c", "ENV X=y", "--change", "WORKDIR /d"];
    let args = [&["import", "-m", "from a tar"][..], &changes, &[&file, "imported:1"]].concat();
    let id = said(&context, &args);
    let of = |format: &str| said(&context, &["inspect", "-f", format, "imported:1"]);
    assert_eq!(of("{{.Id}}"), id);
    assert_eq!(
        of("{{json .Config.Cmd}}{{.Config.WorkingDir}}{{len .RootFS.Layers}}{{.Comment}}"),
        "[\"/bin/sh\",\"-c\",\"cat /d/text\"]/d1from a tar\n"
    );
    assert!(of("{{.Config.Env}}").contains("X=y"));
    assert_eq!(said(&context, &["diff", "--only", "files", "one:1", "imported:1"]), "");
    context.write("Dockerfile", "FROM imported:1\nRUN cat /d/text > /seen\n");
    context.image(["--offline"]).file_is("/seen", "ab");
    // From a pipe, with a date.
    let tar = std::fs::read(&file).expect("the tar");
    let piped =
        context.kiln(["import", "-q", "-", "piped:1"]).stdin(tar).env("SOURCE_DATE_EPOCH", "1700000000");
    piped.run().success();
    assert_eq!(said(&context, &["inspect", "-f", "{{.Created}}", "piped:1"]), "2023-11-14T22:13:20Z\n");
}

#[test]
fn what_can_not_be_imported_says_why_and_gets_no_name() {
    let context = TestContext::new();
    let file = context.write_beside("bad.tar", vec![b'x'; 2000]);
    let file = file.to_string_lossy().into_owned();
    context.kiln(["import", &file, "bad:1"]).run().fails_with(1);
    context
        .kiln(["import", "-c", "RUN rm -rf /", &file, "bad:1"])
        .run()
        .fails_with(2)
        .says("begins with one of CMD");
    context
        .kiln(["import", "-c", "CMD [", "-c", "EXPOSE x/y/z", &file, "bad:1"])
        .run()
        .fails_with(2)
        .says("--change");
    context.kiln(["import", &context.text("nowhere.tar"), "bad:1"]).run().fails_with(1).says("nowhere.tar");
    context.kiln(["export", "-o", &context.text("x.tar"), "none:1"]).run().fails_with(1).says("none:1");
    assert_eq!(said(&context, &["images", "-q"]), "");
    assert!(!context.path("x.tar").exists());
}

#[test]
fn verify_builds_again_and_shows_what_is_not_the_same() {
    let context = two();
    let folder = context.text("ctx");
    let verify = |args: &[&str]| context.kiln([&["verify"][..], args, &["two:1", &folder]].concat()).run();
    assert_eq!(verify(&["--no-cache"]).success().stdout_text(), "");
    assert!(!said(&context, &["images"]).contains("kiln-verify"), "its own name is gone");
    context.write("text", "changed");
    let finished = verify(&[]).fails_with(1).does_not_say("ERROR");
    assert_eq!(finished.stdout_text(), "C /d/text   size 3B -> 7B, content\n");
    assert_eq!(verify(&["--only", "config"]).success().stdout_text(), "");
    verify(&["--tag", "x:1"]).fails_with(2).says("leave --tag");
    context.kiln(["verify", "none.example.invalid/x:1", &folder, "--offline"]).run().fails_with(1);
    assert!(!said(&context, &["images"]).contains("kiln-verify"));
}
