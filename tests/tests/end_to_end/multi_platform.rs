//! Builds for several platforms: indexes, what is shared, folders for each, and programs that can't be run.

use super::{NONE, busybox, on_busybox};
use kiln_oci::{Descriptor, Digest, Index, Manifest, MediaType, Platform};
use kiln_tests::{BaseImage, Finished, ImageAssert, LayerEntry, Registry, TestContext, members_of};
use serde_json::Value;
use std::collections::BTreeMap;

/// A Dockerfile that needs no process, so that it can be built for any platform.
const COPIES: &str =
    "FROM scratch\nARG TARGETARCH\nENV ARCH=$TARGETARCH\nCOPY a.txt /$TARGETARCH/a.txt\nCOPY a.txt /common\n";

const BOTH: &str = "linux/arm64,linux/amd64";

fn copies() -> TestContext {
    let context = TestContext::with_dockerfile(COPIES);
    context.write("a.txt", "a");
    context
}

/// Builds into an OCI archive, and reads the index and its images back.
#[track_caller]
fn index_of(context: &TestContext, args: &[&str]) -> (Descriptor, Vec<ImageAssert>, Finished) {
    let archive = context.path("index.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let finished = context.build([&["--output", &output], args].concat()).success();
    let (top, images) = ImageAssert::all_of_archive(&archive);
    (top, images, finished)
}

fn platforms_of(images: &[ImageAssert]) -> Vec<String> {
    let platform = |image: &ImageAssert| image.descriptor.platform.as_ref().map(Platform::to_string);
    images.iter().map(|image| platform(image).expect("an index says the platform")).collect()
}

/// The steps whose name contains `text`, as the progress names them.
fn steps<'f>(log: &'f str, text: &str) -> Vec<&'f str> {
    let names = log.lines().filter_map(|line| line.strip_prefix('#')?.split_once(' '));
    names.map(|(_, name)| name).filter(|name| name.starts_with('[') && name.contains(text)).collect()
}

#[test]
fn several_platforms_make_an_index_in_the_order_in_which_they_were_named() {
    let context = copies();
    let args = ["--platform", "linux/s390x,linux/aarch64", "--platform", "arm64", "--platform=linux/arm"];
    let (top, images, _) = index_of(&context, &args);
    assert_eq!(top.media_type, MediaType::OciIndex);
    assert_eq!(platforms_of(&images), ["linux/s390x", "linux/arm64", "linux/arm/v7"]);
    for (image, architecture) in images.iter().zip(["s390x", "arm64", "arm"]) {
        assert_eq!(image.config.architecture, architecture);
        assert!(image.config.config.env.contains(&format!("ARCH={architecture}")), "{architecture}");
        image.file_is(&format!("/{architecture}/a.txt"), "a");
    }
    assert_eq!(images[2].config.variant.as_deref(), Some("v7"));
}

#[test]
fn one_platform_makes_a_plain_manifest_unless_an_index_is_asked_for() {
    let context = copies();
    assert_eq!(context.image(["--platform", "linux/arm64"]).config.architecture, "arm64");
    let ask = |value: &str| format!("BUILDKIT_MULTI_PLATFORM={value}");
    let (_, images, _) = index_of(&context, &["--platform", "linux/arm64", "--build-arg", &ask("1")]);
    assert_eq!(platforms_of(&images), ["linux/arm64"]);
    let (_, images, _) = index_of(&context, &["--build-arg", &ask("true")]);
    assert_eq!(platforms_of(&images), [Platform::host().to_string()]);
    context.build(["--platform", BOTH, "--build-arg", &ask("false")]).fails_with(2).says(&ask("false"));
    context.build(["--build-arg", &ask("perhaps")]).fails_with(2).says(&ask("perhaps"));
}

#[test]
fn a_platform_that_is_none_is_told_with_its_flag() {
    let finished = copies().build(["--platform", "linux/amd64,amiga"]).fails_with(2);
    finished.says("--platform").says("`amiga`");
    let context = copies();
    let run = context.building(NONE).env("DOCKER_DEFAULT_PLATFORM", "linux/amd64,amiga").run();
    run.fails_with(2).says("DOCKER_DEFAULT_PLATFORM").says("`amiga`");
    let both = context.building(["-o", "type=cacheonly"]).env("DOCKER_DEFAULT_PLATFORM", BOTH).run();
    both.success().says("[linux/arm64 ").says("[linux/amd64 ");
}

#[test]
fn a_stage_for_the_build_platform_runs_once_and_one_for_each_target_for_each() {
    let context = on_busybox(
        "FROM --platform=$BUILDPLATFORM @ AS tools\nRUN echo tool > /tool\n\
         FROM --platform=$BUILDPLATFORM @ AS build\nARG TARGETARCH\nCOPY --from=tools /tool /\n\
         RUN echo $TARGETARCH > /made\n\
         FROM scratch\nCOPY --from=build /made /\n",
    );
    let (first, images, finished) = index_of(&context, &["--platform", "linux/s390x,linux/riscv64"]);
    for (image, architecture) in images.iter().zip(["s390x", "riscv64"]) {
        image.file_is("/made", &format!("{architecture}\n"));
    }
    let (host, log) = (Platform::host(), finished.stderr);
    assert_eq!(steps(&log, "RUN echo tool"), [format!("[{host} tools 2/2] RUN echo tool > /tool")]);
    let mut made = steps(&log, "> /made");
    made.sort_unstable();
    let named = |target: &str| format!("[{host}->{target} build 3/3] RUN echo {target} > /made");
    assert_eq!(made, [named("riscv64"), named("s390x")], "{log}");
    let (top, _, finished) = index_of(&context, &["--platform", "linux/s390x,linux/riscv64"]);
    assert_eq!(top, first, "the same input gives the same index");
    assert_eq!(steps(&finished.stderr, "RUN"), [""; 0], "what is known is not run again");
}

#[test]
fn a_platform_that_fails_fails_the_build_and_leaves_no_output() {
    let context = on_busybox(
        "FROM --platform=$BUILDPLATFORM @ AS build\nARG TARGETARCH\nRUN test $TARGETARCH = arm64\n\
         FROM scratch\nCOPY --from=build /etc/passwd /\n",
    );
    let archive = context.path("image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let finished = context.build(["--platform", "linux/arm64,linux/s390x", "-o", &output]).fails_with(1);
    finished.says(">>> RUN test $TARGETARCH = arm64").says("->s390x build");
    assert!(!archive.exists());
}

#[test]
fn a_warning_that_all_platforms_have_is_shown_once() {
    let context = TestContext::with_dockerfile("FROM scratch as lower\nLABEL a=b\n");
    let finished = context.build(["--platform", BOTH, "--build-arg", "NOBODY=1"]).success();
    finished.says("1 warning found").says("no ARG declares the build argument NOBODY");
    let checked = context.build(["--platform", BOTH, "--check"]).fails_with(1);
    checked.says("Check complete, 1 warning has been found!");
}

/// A base for two platforms; busybox runs here whatever it says it is for.
fn push_base(registry: &Registry) -> String {
    let base = |platform: &str| {
        let path = LayerEntry::File("etc/platform", 0o644, platform.as_bytes().to_vec());
        BaseImage::busybox().with_layer(&[path]).with_platform(platform)
    };
    BaseImage::push_index(&[base("linux/amd64"), base("linux/arm64")], registry, "base", "1");
    registry.reference("base:1")
}

#[test]
fn each_platform_has_its_own_base_and_its_own_named_contexts() {
    let registry = Registry::start();
    let name = push_base(&registry);
    let context = TestContext::with_dockerfile(&format!(
        "FROM {name}\nRUN cat /etc/platform > /seen\nCOPY --from=extra f /extra\n"
    ));
    for folder in ["any", "for-arm64"] {
        context.write_beside(&format!("{folder}/f"), folder);
    }
    let contexts = [
        format!("extra={}", context.text("any")),
        format!("extra::linux/arm64={}", context.text("for-arm64")),
    ];
    let args = ["--platform", BOTH, "--build-context", &contexts[0], "--build-context", &contexts[1]];
    let (_, images, _) = index_of(&context, &args);
    images[0].file_is("/seen", "linux/arm64").file_is("/extra", "for-arm64");
    images[1].file_is("/seen", "linux/amd64").file_is("/extra", "any");
    let missing = context.build(["--platform", "linux/amd64,linux/s390x", "--build-context", &contexts[0]]);
    missing.fails_with(3).says("nothing for the platform linux/s390x");
}

#[test]
fn the_files_of_each_platform_go_into_a_folder_of_their_own() {
    let context = copies();
    let out = context.path("out");
    std::fs::create_dir_all(context.path("elsewhere")).expect("a folder");
    std::fs::create_dir_all(&out).expect("a folder");
    std::os::unix::fs::symlink(context.path("elsewhere"), out.join("linux_arm64")).expect("a link");
    context.build(["--platform", BOTH, "-o", &context.text("out")]).success();
    for architecture in ["arm64", "amd64"] {
        let file = out.join(format!("linux_{architecture}/{architecture}/a.txt"));
        assert_eq!(std::fs::read_to_string(&file).expect("a file"), "a", "{}", file.display());
    }
    assert!(!context.path("elsewhere/common").exists(), "a link in the folder was followed");
    let tar = context.path("files.tar");
    context.build(["--platform", BOTH, "-o", &format!("type=tar,dest={}", tar.display())]).success();
    let mut paths: Vec<String> = members_of(&tar).into_keys().collect();
    paths.sort_unstable();
    let expect =
        ["linux_amd64/amd64/a.txt", "linux_amd64/common", "linux_arm64/arm64/a.txt", "linux_arm64/common"];
    assert_eq!(paths, expect);
    let single = format!("type=local,dest={},platform-split=true", context.text("single"));
    context.build(["--platform", "linux/arm64", "-o", &single]).success();
    assert!(context.path("single/linux_arm64/common").is_file());
}

#[test]
fn files_that_are_not_split_may_not_be_at_one_path() {
    let context = copies();
    for form in ["local,dest=", "tar,dest="] {
        let output = format!("type={form}{},platform-split=false", context.text("merged"));
        let finished = context.build(["--platform", BOTH, "-o", &output]).fails_with(1);
        finished.says("/common").says("linux/arm64").says("linux/amd64");
        assert!(!context.path("merged").exists());
    }
    context.write("Dockerfile", COPIES.replace("COPY a.txt /common\n", ""));
    let output = format!("type=local,dest={},platform-split=false", context.text("merged"));
    context.build(["--platform", BOTH, "-o", &output]).success();
    assert!(context.path("merged/arm64/a.txt").is_file() && context.path("merged/amd64/a.txt").is_file());
    let wrong = context.build(["-o", &format!("type=local,dest={},platform-split=2", context.text("x"))]);
    wrong.fails_with(2).says("platform-split");
}

#[test]
fn what_docker_load_reads_holds_no_index() {
    let context = copies();
    let output = format!("type=docker,dest={}", context.text("image.tar"));
    let finished = context.build(["--platform", BOTH, "-o", &output]).fails_with(2);
    finished.says("type=docker").does_not_say("COPY");
    assert!(!context.path("image.tar").exists());
}

#[test]
fn annotations_stand_where_they_were_put() {
    let context = copies();
    let mut args = vec!["--platform", BOTH];
    let all = [
        "a=plain",
        "manifest[linux/amd64]:a=amd64",
        "index:b=index",
        "manifest-descriptor[linux/arm64]:c=listed",
    ];
    all.iter().for_each(|text| args.extend(["--annotation", text]));
    args.extend(["--annotation", "index-descriptor:d=top"]);
    let (top, images, _) = index_of(&context, &args);
    let on = |annotations: &BTreeMap<String, String>, name: &str| {
        annotations.get(name).cloned().unwrap_or_default()
    };
    assert_eq!(
        images.iter().map(|i| on(&i.manifest.annotations, "a")).collect::<Vec<_>>(),
        ["plain", "amd64"]
    );
    assert_eq!(images.iter().map(|i| on(&i.descriptor.annotations, "c")).collect::<Vec<_>>(), ["listed", ""]);
    assert_eq!(on(&top.annotations, "d"), "top");
    let members = members_of(&context.path("index.tar"));
    let bytes = &members[&format!("blobs/sha256/{}", top.digest.hex())];
    let index: Index = serde_json::from_slice(bytes).expect("an index");
    assert_eq!(index.annotations, BTreeMap::from([("b".to_owned(), "index".to_owned())]));
    let finished = context.build(["--annotation", "index:b=c"]).fails_with(2);
    finished.says("--annotation index:b=c");
}

#[test]
fn an_index_is_pushed_whole_and_pulled_by_platform() {
    let registry = Registry::start();
    let context = copies();
    let (iid, metadata) = (context.text("iid"), context.text("metadata.json"));
    let name = registry.reference("tests/multi:1");
    let files = ["--iidfile", &iid, "--metadata-file", &metadata];
    context.build([&["--platform", BOTH, "-t", &name, "--push"][..], &files].concat()).success();
    let bytes = registry.manifest("tests/multi", "1").expect("it was pushed");
    let (digest, index) = (Digest::of(&bytes).to_string(), serde_json::from_slice(&bytes));
    let index: Index = index.expect("an index");
    for listed in &index.manifests {
        let bytes = registry.manifest("tests/multi", &listed.digest.to_string()).expect("it was pushed");
        let manifest: Manifest = serde_json::from_slice(&bytes).expect("a manifest");
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            assert!(registry.blob("tests/multi", &blob.digest).is_some(), "{blob:?}");
        }
    }
    assert_eq!(std::fs::read_to_string(&iid).expect("the file of --iidfile"), digest);
    let told: Value = serde_json::from_slice(&std::fs::read(&metadata).expect("a file")).expect("JSON");
    assert_eq!(told["containerimage.digest"], digest);
    assert_eq!(told["containerimage.descriptor"]["mediaType"], MediaType::OciIndex.as_str());
    assert_eq!(told["containerimage.descriptor"]["digest"], digest);
    assert_eq!(told["containerimage.config.digest"], Value::Null);
    for (listed, platform) in index.manifests.iter().zip(["linux/arm64", "linux/amd64"]) {
        let other = TestContext::with_dockerfile(&format!("FROM {name}\nLABEL a=b\n"));
        let pulled = other.kiln(["pull", "-q", "--platform", platform, &name]).run().success();
        assert_eq!(pulled.stdout_text().trim(), listed.digest.to_string());
        let image = other.image(["--platform", platform]);
        assert_eq!(image.config.platform().to_string(), platform);
    }
}

#[test]
fn a_name_of_the_store_can_stand_for_an_index() {
    let registry = Registry::start();
    let context = copies();
    let name = registry.reference("tests/stored:1");
    let built = context.kiln(["build", "-q", "--platform", BOTH, "-t", &name, &context.text("ctx")]).run();
    let id = built.success().stdout_text().trim().to_owned();
    let list = context.kiln(["images"]).run().success().stdout_text();
    let line = list.lines().find(|line| line.starts_with(&name)).expect("a line").to_owned();
    assert!(line.contains("linux/arm64,linux/amd64") && line.contains(&id[7..19]), "{line}");
    let shown: Value =
        serde_json::from_str(&context.kiln(["inspect", &name]).run().success().stdout_text()).expect("JSON");
    let architectures: Vec<&str> = (0..2).filter_map(|i| shown[i]["Architecture"].as_str()).collect();
    assert_eq!(architectures, ["arm64", "amd64"], "{shown}");
    assert_eq!((&shown[0]["Index"], &shown[1]["Index"]), (&Value::from(&*id), &Value::from(&*id)));
    let second = registry.reference("tests/second:1");
    context.kiln(["tag", &id[7..19], &second]).run().success();
    let pushed = context.kiln(["push", "-q", &second]).run().success();
    assert_eq!(pushed.stdout_text().trim(), id, "it goes out as it was made");
    let bytes = registry.manifest("tests/second", "1").expect("it was pushed");
    assert_eq!(Digest::of(&bytes).to_string(), id);
    // The registry does not have the first name: it is the store's images that are built on.
    context.write("Dockerfile", format!("FROM {name}\nCOPY a.txt /more\n"));
    let (_, images, _) = index_of(&context, &["--platform", BOTH]);
    images[0].file_is("/arm64/a.txt", "a").file_is("/more", "a");
    images[1].file_is("/amd64/a.txt", "a").file_is("/more", "a");
    for name in [&name, &second] {
        context.kiln(["rmi", name]).run().success();
    }
    assert_eq!(context.kiln(["images", "-q"]).run().success().stdout_text(), "");
}

/// A program for an architecture that no emulator is made for: 31-bit S/390.
fn foreign_program() -> Vec<u8> {
    let mut program = b"\x7fELF\x01\x02\x01".to_vec();
    program.resize(16, 0);
    program.extend([0, 2, 0, 22, 0, 0, 0, 1]);
    program.resize(512, 0);
    program
}

#[test]
fn a_program_that_the_kernel_cannot_run_is_told_with_its_platform_and_what_to_do() {
    let registry = Registry::start();
    let shell = [LayerEntry::Folder("bin", 0o755), LayerEntry::File("bin/sh", 0o755, foreign_program())];
    BaseImage::of(&shell).with_platform("linux/s390").push(&registry, "foreign", "1");
    let name = registry.reference("foreign:1");
    let context = TestContext::with_dockerfile(&format!("FROM {name}\nRUN echo never\n"));
    let finished = context.build(["--platform", "linux/s390"]).fails_with(1);
    finished
        .says(">>> RUN echo never")
        .says("exec /bin/sh")
        .says("linux/s390")
        .says("binfmt_misc")
        .says("apt-get install qemu-user-static");
}

#[test]
fn an_image_that_is_wrong_about_its_platform_is_run_all_the_same() {
    let registry = Registry::start();
    BaseImage::busybox().with_platform("linux/s390").push(&registry, "wrong", "1");
    let name = registry.reference("wrong:1");
    let context = TestContext::with_dockerfile(&format!("FROM {name}\nRUN echo ran > /ran\n"));
    context.image(["--platform", "linux/s390"]).file_is("/ran", "ran\n");
    // It is known that the base is not what was asked for, and told.
    let context = TestContext::with_dockerfile(&format!("FROM {}\nRUN echo ran > /ran\n", busybox()));
    context.image_and_log(["--platform", "linux/s390"]).1.says("InvalidBaseImagePlatform");
}
