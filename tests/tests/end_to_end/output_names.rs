//! What outputs have besides their bytes: names with digests, dates of their own, folders that lose what is old, and the
//! metadata file.

use super::on_busybox;
use base64::Engine as _;
use kiln_tests::{ImageAssert, TestContext};
use serde_json::Value;

fn text_context() -> TestContext {
    let context = on_busybox("FROM @\nARG WORD\nRUN echo $WORD > /word\nCOPY a.txt /\n");
    context.write("a.txt", "a");
    context
}

#[track_caller]
fn metadata(context: &TestContext, args: &[&str], env: &[(&str, &str)]) -> Value {
    let path = context.path("metadata.json");
    let args = args.iter().copied().chain(["--metadata-file", path.to_str().expect("a path")]);
    let build = env.iter().fold(context.building(args), |build, (name, value)| build.env(name, value));
    build.run().success();
    serde_json::from_slice(&std::fs::read(&path).expect("the metadata")).expect("JSON")
}

#[test]
fn the_metadata_file_tells_of_the_build_as_buildxs_does() {
    let context = text_context();
    let archive = format!("type=oci,dest={}", context.text("image.tar"));
    let args = ["-t", "app:1", "-o", &archive, "--build-arg", "WORD=hello"];
    let told = metadata(&context, &args, &[]);
    let image = ImageAssert::of_archive(&context.path("image.tar"));
    assert_eq!(told["containerimage.digest"], image.digest.to_string());
    assert_eq!(told["containerimage.descriptor"]["digest"], image.digest.to_string());
    assert_eq!(told["containerimage.config.digest"], image.manifest.config.digest.to_string());
    assert_eq!(told["image.name"], "docker.io/library/app:1");
    let reference = told["buildx.build.ref"].as_str().expect("a name");
    let parts: Vec<&str> = reference.split('/').collect();
    assert!(parts.len() == 3 && parts[2].len() == 32, "{reference}");
    let provenance = &told["buildx.build.provenance"];
    assert_eq!(provenance["runDetails"]["metadata"]["invocationID"], parts[2]);
    let definition = &provenance["buildDefinition"];
    assert!(definition["resolvedDependencies"][0]["uri"].as_str().is_some_and(|uri| uri.contains("busybox")));
    assert!(!definition.to_string().contains("hello"), "min tells no arguments: {definition}");
    assert!(image.manifest.layers.len() == 3, "it is not attested: the image is as it is without");
    let told = metadata(&context, &args, &[("BUILDX_METADATA_PROVENANCE", "max")]);
    assert!(told["buildx.build.provenance"].to_string().contains("hello"));
    for off in ["disabled", "false"] {
        let told = metadata(&context, &args, &[("BUILDX_METADATA_PROVENANCE", off)]);
        assert!(told.get("buildx.build.provenance").is_none(), "{told}");
    }
    let two = ["--platform", "linux/amd64,linux/arm64", "--target", "none", "-o", "type=cacheonly"];
    context.write("Dockerfile", "FROM scratch AS none\nCOPY a.txt /\n");
    let told = metadata(&context, &two, &[]);
    assert!(told.get("buildx.build.provenance/linux/arm64").is_some(), "{told}");
    assert!(told.get("buildx.build.provenance/linux/amd64").is_some(), "{told}");
}

#[test]
fn the_metadata_file_has_the_warnings_where_buildxs_would() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY a.txt /\nCMD echo a\n");
    context.write("a.txt", "a");
    let args = ["-o", "type=cacheonly"];
    assert!(metadata(&context, &args, &[]).get("buildx.build.warnings").is_none());
    let told = metadata(&context, &args, &[("BUILDX_METADATA_WARNINGS", "1")]);
    let warning = &told["buildx.build.warnings"][0];
    let decoded = |text: &Value| {
        let bytes = base64::prelude::BASE64_STANDARD.decode(text.as_str().expect("text")).expect("base64");
        String::from_utf8(bytes).expect("text")
    };
    assert!(decoded(&warning["short"]).starts_with("JSONArgsRecommended: "), "{warning}");
    assert_eq!(warning["range"][0]["start"], serde_json::json!({"line": 3, "character": 0}));
    assert!(warning["url"].as_str().is_some_and(|url| url.ends_with("json-args-recommended/")), "{warning}");
    assert!(decoded(&warning["sourceInfo"]["data"]).starts_with("FROM scratch"));
}

#[test]
fn the_store_has_an_image_by_its_digest_too_if_that_is_asked_for() {
    let context = text_context();
    let listed = || context.kiln(["images", "--no-trunc"]).run().success().stdout_text();
    let told = metadata(&context, &["-o", "type=image,name=app:1,name-canonical=true"], &[]);
    let digest = told["containerimage.digest"].as_str().expect("a digest").to_owned();
    let canonical = format!("app:1@{digest}");
    assert!(listed().contains(&canonical), "{}", listed());
    context.kiln(["inspect", &canonical]).run().success();
    context.kiln(["rmi", &canonical]).run().success();
    assert!(!listed().contains('@') && listed().contains("app:1"), "{}", listed());
    let dangling = "dangling-name-prefix=dangling";
    for (options, has_dangling) in [
        (format!("type=image,{dangling}"), true),
        (format!("type=image,name=b:1,{dangling}"), true),
        (format!("type=image,name=b:1,{dangling},danging-name-empty-only=true"), false),
    ] {
        context.build(["-o", &options]).success();
        assert_eq!(listed().contains(&format!("dangling@{digest}")), has_dangling, "{options}: {}", listed());
        if has_dangling {
            context.kiln(["rmi", &format!("dangling@{digest}")]).run().success();
        }
    }
}

#[test]
fn an_output_may_have_a_date_of_its_own() {
    let context = text_context();
    let (dated, plain) = (context.text("dated.tar"), context.text("plain.tar"));
    let options =
        format!("type=oci,dest={dated},source-date-epoch=1600000000,rewrite-timestamp=true,name=dated:1");
    context
        .building(["-o", &options, "-o", &format!("type=oci,dest={plain}")])
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .run()
        .success();
    let created = |path: &str| ImageAssert::of_archive(&context.path(path)).config.created.expect("a date");
    assert_eq!(created("dated.tar"), "2020-09-13T12:26:40Z");
    assert_eq!(created("plain.tar"), "2023-11-14T22:13:20Z");
    let dated = ImageAssert::of_archive(&context.path("dated.tar"));
    assert_eq!(dated.node("/word").mtime_s, 1_600_000_000);
    assert_eq!(dated.config.rootfs.diff_ids.len(), 3);
}

#[test]
fn a_folder_loses_what_is_old_only_where_it_may() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY d /d\n");
    context.write("d/kept", "new");
    let out = context.path("out");
    let fill = || {
        std::fs::create_dir_all(out.join("d/old")).expect("a folder");
        std::fs::write(out.join("d/old/file"), "old").expect("a file");
        std::fs::write(out.join("top"), "old").expect("a file");
        let _ = std::os::unix::fs::symlink(context.context(), out.join("link"));
    };
    fill();
    let beneath = "type=local,dest=out,mode=delete";
    let build = |args: &[&str]| context.building(args.iter().copied()).current_dir(&context.path(".")).run();
    build(&["-o", "type=local,dest=out"]).success();
    assert!(out.join("top").exists() && out.join("d/kept").exists());
    build(&["-o", beneath]).success();
    assert_eq!(std::fs::read_to_string(out.join("d/kept")).expect("a file"), "new");
    assert!(!out.join("d/old").exists() && !out.join("top").exists() && !out.join("link").is_symlink());
    assert!(context.context().join("d/kept").exists(), "links are not followed");
    fill();
    let elsewhere = tempfile::tempdir().expect("a folder");
    std::fs::write(elsewhere.path().join("mine"), "mine").expect("a file");
    let outside = format!("type=local,dest={},mode=delete", elsewhere.path().display());
    for refused in [outside.as_str(), "type=local,dest=.,mode=delete"] {
        build(&["-o", refused]).fails_with(2).says("--allow buildx.local.delete");
    }
    assert!(elsewhere.path().join("mine").exists() && out.join("top").exists());
    build(&["-o", &outside, "--allow", "buildx.local.delete"]).success();
    assert!(!elsewhere.path().join("mine").exists() && elsewhere.path().join("d/kept").exists());
}

#[test]
fn two_outputs_of_one_kind_are_both_written() {
    let context = text_context();
    let (one, two) = (context.text("one.tar"), context.text("two.tar"));
    let layouts = ["x", "y"].map(|name| format!("type=oci,tar=false,dest={}", context.text(name)));
    let tars = [format!("type=tar,dest={one}"), format!("type=tar,dest={two}")];
    context.build(["-o", &tars[0], "-o", &tars[1], "-o", &layouts[0], "-o", &layouts[1]]).success();
    let bytes = |path: &str| std::fs::read(path).expect("a tar");
    assert!(!bytes(&one).is_empty() && bytes(&one) == bytes(&two));
    let digest = |name: &str| ImageAssert::of_layout(&context.path(name)).digest;
    assert_eq!(digest("x"), digest("y"));
}

#[test]
fn nothing_is_written_through_links_of_others_or_in_a_layout() {
    let context = text_context();
    let target = context.path("target");
    std::fs::write(&target, "mine").expect("a file");
    let archive = context.path("image.tar");
    std::os::unix::fs::symlink(&target, &archive).expect("a link");
    std::os::unix::fs::lchown(&archive, Some(1234), Some(1234)).expect("root gives it away");
    for kind in ["oci", "tar", "docker"] {
        let finished = context.build(["-o", &format!("type={kind},dest={}", archive.display())]);
        finished.fails_with(1).says("image.tar is a symbolic link of somebody else's");
    }
    assert_eq!(std::fs::read_to_string(&target).expect("a file"), "mine");
    // One's own is followed: what it leads to is replaced, and it stays.
    std::os::unix::fs::lchown(&archive, Some(0), Some(0)).expect("root takes it back");
    context.build(["-o", &format!("type=oci,dest={}", archive.display())]).success();
    assert!(archive.is_symlink() && std::fs::metadata(&target).expect("a file").len() > 1000);
    let (layout, elsewhere) = (context.path("layout"), context.path("elsewhere"));
    for part in ["blobs", "blobs/sha256", "index.json"] {
        let _ = std::fs::remove_dir_all(&layout);
        std::fs::create_dir_all(layout.join(part).parent().expect("a folder")).expect("a folder");
        std::fs::create_dir_all(&elsewhere).expect("a folder");
        std::os::unix::fs::symlink(&elsewhere, layout.join(part)).expect("a link");
        let finished = context.build(["-o", &format!("type=oci,tar=false,dest={}", layout.display())]);
        finished.fails_with(1).says("is a symbolic link");
        assert_eq!(std::fs::read_dir(&elsewhere).expect("a folder").count(), 0, "{part}");
    }
}
