//! Where an image goes: archives, folders, files with its digest; and that it is the same each time.

use super::{NONE, busybox, on_busybox};
use kiln_tests::{ImageAssert, TestContext, digest_in, members_of};
use serde_json::Value;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const STEPS: &str = "FROM @\nCOPY a.txt /\nRUN mkdir /d && echo run > /d/run && chmod 750 /d/run && ln -s run /d/link\nCMD [\"sh\"]\n";

/// When the files of a context were written, where it matters.
const FILES_DATE: u64 = 1_600_000_000;

fn context() -> TestContext {
    let context = on_busybox(STEPS);
    context.write("a.txt", "a");
    context
}

#[test]
fn a_docker_archive_is_what_docker_load_reads() {
    let context = context();
    let archive = context.path("docker.tar");
    let output = format!("type=docker,dest={}", archive.display());
    context.build(["-t", "example/app:1.0", "-o", &output]).success();
    let members = members_of(&archive);
    let manifest: Value = serde_json::from_slice(&members["manifest.json"]).expect("JSON");
    let image = &manifest[0];
    let tags: Vec<&str> =
        image["RepoTags"].as_array().expect("tags").iter().filter_map(Value::as_str).collect();
    assert!(tags.iter().any(|tag| tag.ends_with("example/app:1.0")), "{tags:?}");
    let config: Value =
        serde_json::from_slice(&members[image["Config"].as_str().expect("a config")]).expect("JSON");
    let layers = image["Layers"].as_array().expect("layers");
    assert_eq!(layers.len(), config["rootfs"]["diff_ids"].as_array().expect("diff IDs").len());
    for layer in layers {
        assert!(members.contains_key(layer.as_str().expect("a path")), "{layer} is not in the archive");
    }
}

#[test]
fn skopeo_reads_both_kinds_of_archive() {
    let context = context();
    for (kind, scheme) in [("oci", "oci-archive"), ("docker", "docker-archive")] {
        let archive = context.path(&format!("{kind}.tar"));
        context.build(["-t", "app:1", "-o", &format!("type={kind},dest={}", archive.display())]).success();
        let source = format!("{scheme}:{}", archive.display());
        let target = format!("oci:{}", context.text(&format!("{kind}-layout")));
        let copied = std::process::Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", &source, &target])
            .output()
            .expect("Debian's package skopeo");
        assert!(copied.status.success(), "{kind}: {}", String::from_utf8_lossy(&copied.stderr));
        let image = ImageAssert::of_layout(&context.path(&format!("{kind}-layout")));
        image.file_is("/d/run", "run\n").file_is("/a.txt", "a");
    }
}

#[test]
fn a_folder_gets_the_files_themselves() {
    let context = context();
    let out = context.path("out");
    context.build(["-o", &format!("type=local,dest={}", out.display())]).success();
    assert_eq!(std::fs::read_to_string(out.join("d/run")).expect("a file"), "run\n");
    let mode = out.join("d/run").metadata().expect("a file").permissions().mode();
    assert_eq!(mode & 0o7777, 0o750);
    assert_eq!(std::fs::read_link(out.join("d/link")).expect("a link").to_string_lossy(), "run");
    assert!(out.join("bin/busybox").metadata().expect("a file").size() > 100_000);
}

#[test]
fn a_folder_alone_means_type_local() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY a.txt /sub/\n");
    context.write("a.txt", "a");
    context.build(["-o", &context.text("out")]).success();
    assert_eq!(std::fs::read_to_string(context.path("out/sub/a.txt")).expect("a file"), "a");
}

#[test]
fn a_tar_gets_the_files_themselves() {
    let context = context();
    let archive = context.path("rootfs.tar");
    context.build(["-o", &format!("type=tar,dest={}", archive.display())]).success();
    let members = members_of(&archive);
    assert_eq!(members["d/run"], b"run\n");
    assert_eq!(members["a.txt"], b"a");
}

#[test]
fn an_archive_for_standard_output_goes_there_and_nothing_else_does() {
    let context = context();
    let finished = context.build(["-o", "type=oci,dest=-"]).success();
    let archive = context.write_beside("piped.tar", &finished.stdout);
    ImageAssert::of_archive(&archive).file_is("/a.txt", "a");
}

#[test]
fn several_outputs_come_of_one_build() {
    let context = context();
    let (one, two) = (context.path("one.tar"), context.path("two"));
    let outputs = [format!("type=oci,dest={}", one.display()), format!("type=local,dest={}", two.display())];
    context.build(["-o", &outputs[0], "-o", &outputs[1]]).success();
    ImageAssert::of_archive(&one).file_is("/a.txt", "a");
    assert!(two.join("a.txt").is_file());
}

#[test]
fn iidfile_and_metadata_file_name_the_image() {
    let context = context();
    let (iid, metadata) = (context.path("iid"), context.path("metadata.json"));
    let args = [
        "-t",
        "app:1.0",
        "--iidfile",
        &iid.to_string_lossy(),
        "--metadata-file",
        &metadata.to_string_lossy(),
    ];
    let image = context.image(args);
    let named = std::fs::read_to_string(&iid).expect("the file of --iidfile");
    let known = [image.digest.to_string(), image.manifest.config.digest.to_string()];
    assert!(known.contains(&named.trim().to_owned()), "{named} is none of {known:?}");
    let metadata: Value = serde_json::from_slice(&std::fs::read(&metadata).expect("a file")).expect("JSON");
    assert_eq!(metadata["containerimage.digest"], image.digest.to_string(), "{metadata}");
    assert_eq!(
        metadata["containerimage.config.digest"],
        image.manifest.config.digest.to_string(),
        "{metadata}"
    );
}

#[test]
fn quiet_prints_the_digest_and_nothing_else() {
    let context = context();
    let args = ["build", "--progress=quiet", "-t", "app:1.0", &context.text("ctx")];
    let finished = context.kiln(args).run().success();
    assert!(finished.stderr.is_empty(), "{finished}");
    assert!(digest_in(&finished.stdout_text()).is_some(), "{finished}");
    assert_eq!(finished.stdout_text().lines().count(), 1, "{finished}");
}

#[test]
fn the_same_input_gives_the_same_digest_in_another_store() {
    let digest = || {
        let context = context();
        context.date(FILES_DATE);
        let archive = context.text("image.tar");
        let output = format!("type=oci,dest={archive}");
        context.building(["-o", &output]).env("SOURCE_DATE_EPOCH", "1700000000").run().success();
        ImageAssert::of_archive(archive.as_ref()).config
    };
    let (first, second) = (digest(), digest());
    assert_eq!(first.created.as_deref(), Some("2023-11-14T22:13:20Z"), "created is SOURCE_DATE_EPOCH");
    assert_eq!(first.history, second.history);
    // What a RUN writes has the time at which it was written, unless the build is told otherwise:
    // the layers of COPY are the same all the same.
    assert_eq!(first.rootfs.diff_ids[..2], second.rootfs.diff_ids[..2]);
}

/// A folder that a step adds something to has a new time, as with any builder; the root's is in no layer.
#[test]
fn a_build_of_copies_only_has_one_digest_whenever_and_wherever_it_is_built() {
    let digest = |umask: &str, jobs: &str| {
        let context = TestContext::with_dockerfile(&format!(
            "FROM {}\nCOPY --chmod=644 a.txt /\nCOPY --chmod=750 b /\nENV A=1\n",
            busybox()
        ));
        context.write("a.txt", "a").write("b/c/d", "d".repeat(200_000)).date(FILES_DATE);
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        let archive = context.text("image.tar");
        let kiln = kiln_tests::kiln_program();
        let stored = context.text("store");
        let output = format!("type=oci,dest={archive}");
        let folder = context.text("ctx");
        let mut args = vec!["-c", &script, kiln.to_str().expect("a path")];
        args.extend(["--root", &stored, "build", "--jobs", jobs, "--progress=plain", "-o", &output, &folder]);
        let run = kiln_tests::Invocation::new("sh").args(args).env("SOURCE_DATE_EPOCH", "1700000000");
        run.run().success();
        ImageAssert::of_archive(archive.as_ref()).digest
    };
    let first = digest("022", "1");
    assert_eq!(first, digest("077", "4"));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(first, digest("000", "2"));
}

#[test]
fn a_failed_build_leaves_no_output() {
    let context = on_busybox("FROM @\nRUN exit 3\n");
    let (archive, iid) = (context.path("image.tar"), context.path("iid"));
    let output = format!("type=oci,dest={}", archive.display());
    context.build(["-o", &output, "--iidfile", &iid.to_string_lossy()]).fails_with(1);
    assert!(!archive.exists() && !iid.exists(), "a failed build wrote its outputs");
    let left: Vec<_> =
        std::fs::read_dir(context.path("")).expect("a folder").flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("image.tar")), "{left:?}");
}

#[test]
fn a_destination_that_can_not_be_written_is_named() {
    let context = TestContext::with_dockerfile("FROM scratch\nLABEL a=b\n");
    let finished = context.build(["-o", "type=oci,dest=/proc/no/such/place.tar"]);
    assert!(matches!(finished.code, Some(1 | 2)), "{finished}");
    finished.says("/proc/no/such");
    context.build(NONE).success();
}
