//! Images in folders of the OCI layout as contexts, and stages that stand for names.

use super::{NONE, busybox, on_busybox};
use kiln_oci::Descriptor;
use kiln_tests::{Finished, ImageAssert, TestContext};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds an image, and unpacks its archive into a folder beside the context.
fn layout(context: &TestContext, folder: &str, dockerfile: &str, args: &[&str]) -> PathBuf {
    let other = TestContext::with_dockerfile(&dockerfile.replace('@', &busybox()));
    let archive = context.text(&format!("{folder}.tar"));
    let mut all = vec!["-o".to_owned(), format!("type=oci,dest={archive}")];
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    other.build(all).success();
    let path = context.path(folder);
    std::fs::create_dir(&path).expect("a folder");
    let unpacked = Command::new("tar").args(["-xf", &archive, "-C"]).arg(&path).status().expect("tar");
    assert!(unpacked.success());
    path
}

fn named(name: &str, folder: &str) -> [String; 2] {
    ["--build-context".to_owned(), format!("{name}=oci-layout://{folder}")]
}

/// Every file of a folder with its bytes.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => files.push((path.clone(), std::fs::read(path).expect("a file"))),
            }
        }
    }
    files.sort();
    files
}

#[test]
fn an_image_in_a_folder_is_a_base_a_source_and_a_mount() {
    let context = TestContext::with_dockerfile(
        "FROM base\nCOPY --from=base /made /copied\nRUN --mount=from=base,target=/m cat /m/made > /mounted\n\
         RUN echo $NAME > /name\n",
    );
    let folder =
        layout(&context, "base", "FROM @\nENV NAME=layout\nRUN echo 1 > /made\n", &["-t", "app:1.0"]);
    let before = content(&folder);
    for address in ["base", "base:1.0", &context.text("base")] {
        let built = context.building(named("base", address));
        let output = format!("type=oci,dest={}", context.text("image.tar"));
        built.args(["--no-cache", "-o", &output]).run().success();
        let image = ImageAssert::of_archive(&context.path("image.tar"));
        image.file_is("/copied", "1\n").file_is("/mounted", "1\n").file_is("/name", "layout\n");
    }
    assert_eq!(content(&folder), before, "the folder was written to");
}

#[test]
fn a_digest_names_an_image_of_a_folder() {
    let context = TestContext::with_dockerfile("FROM base\nCOPY Dockerfile /\n");
    let folder = layout(&context, "base", "FROM @\nRUN echo 1 > /made\n", &["-t", "app:1.0"]);
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("index.json")).expect("an index")).expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
    context.image(named("base", &format!("base@{digest}"))).file_is("/made", "1\n");
    context.image(named("base", &format!("base:any@{digest}"))).file_is("/made", "1\n");
    let other = format!("base@sha256:{}", "0".repeat(64));
    context.build(named("base", &other)).fails_with(1).says("has no blob sha256:0000").says("base");
}

#[test]
fn the_image_of_a_folder_is_that_for_the_platform() {
    let context = TestContext::with_dockerfile("FROM base\nCOPY Dockerfile /\n");
    let parts = ["amd64", "arm64"].map(|name| {
        let text = format!("FROM scratch\nLABEL for={name}\nCOPY Dockerfile /made\n");
        let folder = layout(&context, name, &text, &["--platform", &format!("linux/{name}")]);
        let index = std::fs::read(folder.join("index.json")).expect("an index");
        let index: kiln_oci::Index = serde_json::from_slice(&index).expect("JSON");
        let platform = Some(kiln_oci::Platform::new("linux", name, None));
        Descriptor { platform, annotations: Default::default(), ..index.manifests[0].clone() }
    });
    let both = context.path("amd64");
    for (path, bytes) in content(&context.path("arm64")) {
        std::fs::write(both.join(path.strip_prefix(context.path("arm64")).expect("a path")), bytes)
            .expect("a copy");
    }
    let index = |manifests: &[Descriptor]| {
        let whole = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
        serde_json::to_vec(&whole).expect("JSON")
    };
    let inner = index(&parts);
    let nested = Descriptor::of(kiln_oci::MediaType::OciIndex, &inner);
    std::fs::write(both.join("blobs/sha256").join(nested.digest.hex()), &inner).expect("a blob");
    for top in [index(&[nested]), index(&parts)] {
        std::fs::write(both.join("index.json"), top).expect("an index");
        for name in ["amd64", "arm64"] {
            let platform = ["--platform".to_owned(), format!("linux/{name}")];
            let image = context.image([&platform[..], &named("base", "amd64")].concat());
            assert_eq!(image.config.config.labels.get("for").map(String::as_str), Some(name));
        }
        let other =
            [&["--platform".to_owned(), "linux/s390x".to_owned()][..], &named("base", "amd64")].concat();
        context
            .build(other)
            .fails_with(1)
            .says("nothing for the platform linux/s390x; it has linux/amd64, linux/arm64");
    }
}

#[test]
fn a_layout_takes_the_place_of_images_and_stages() {
    let context = on_busybox(
        "FROM no.such.host/base:1 AS one\nFROM @ AS two\nRUN false\nFROM one\nCOPY --from=two /made /two\n",
    );
    layout(&context, "base", "FROM @\nRUN echo 1 > /made\n", &["-t", "app:1.0"]);
    let both = [named("no.such.host/base:1", "base"), named("two", "base")].concat();
    context.image(both).file_is("/made", "1\n").file_is("/two", "1\n");
}

#[test]
fn what_is_wrong_with_a_layout_is_told_with_its_folder() {
    let context = TestContext::with_dockerfile("FROM base\nCOPY Dockerfile /\n");
    let text = "FROM scratch\nCOPY Dockerfile /made\n";
    let folder = layout(&context, "base", text, &["-t", "app:1.0"]);
    let fails = |address: &str| -> Finished { context.build(named("base", address)).fails_with(1) };
    fails("base:2.0").says("has no tag `2.0`; it has 1.0").says("FROM base");
    fails("nowhere").says("nowhere is no OCI layout").says_one_of(&["No such file"]);
    fails("ctx").says("ctx is no OCI layout").says("oci-layout");
    let mut layers = content(&folder).into_iter().filter(|(path, _)| path.starts_with(folder.join("blobs")));
    let (layer, bytes) = layers.rfind(|(_, bytes)| !bytes.starts_with(b"{")).expect("a layer");
    std::fs::write(&layer, [&bytes[..bytes.len() - 1], b"x"].concat()).expect("a blob");
    fails("base").says("has the wrong content").says("in the OCI layout base");
    std::fs::remove_file(&layer).expect("a blob");
    fails("base").says("base has no blob sha256:");
    context.build(["--build-context", "base=oci-layout://"]).fails_with(2).says("no folder is named");
}

#[test]
fn the_files_of_an_image_in_a_folder_are_the_main_context() {
    let context = TestContext::new();
    let text = "FROM @\nWORKDIR /src\nRUN echo 1 > /src/made && chown 5:6 /src/made && \
        printf 'FROM scratch\\nCOPY src /\\n' > /Dockerfile && echo src/hidden > /.dockerignore && echo > /src/hidden\n";
    layout(&context, "base", text, &["-t", "app:1.0"]);
    let output = format!("type=oci,dest={}", context.text("image.tar"));
    let build = |address: &str| context.kiln(["build", "--progress=plain", "-o", &output, address]).run();
    build("oci-layout://base:1.0").success();
    ImageAssert::of_archive(&context.path("image.tar")).is("/made", 0o644, (5, 6)).lacks("/hidden");
    build("oci-layout://nowhere").fails_with(2).says("nowhere is no OCI layout");
}

#[test]
fn an_image_that_was_built_on_a_layout_outlives_it() {
    let context = TestContext::with_dockerfile("FROM base\nLABEL a=b\n");
    let folder = layout(&context, "base", "FROM @\nRUN echo 1 > /made\n", &["-t", "app:1.0"]);
    context.build([&named("base", "base")[..], &["-t".to_owned(), "mine:1".to_owned()]].concat()).success();
    std::fs::remove_dir_all(folder).expect("the layout");
    let next = TestContext::with_dockerfile("FROM mine:1\nRUN cat /made > /again\n");
    let output = format!("type=oci,dest={}", context.text("next.tar"));
    context.kiln(["build", "-o", &output, &next.text("ctx")]).run().success();
    ImageAssert::of_archive(&context.path("next.tar")).file_is("/again", "1\n");
}

#[test]
fn a_stage_stands_for_a_name() {
    let context = on_busybox(
        "FROM no.such.host/base:1 AS app\nCOPY --from=tools /made /copied\n\
         RUN --mount=from=tools,target=/m cat /m/made /made > /mounted\n\
         FROM @ AS dev\nRUN echo dev > /made\nFROM app\n",
    );
    let stages = ["--build-context", "no.such.host/base:1=target:dev", "--build-context", "tools=target:dev"];
    context.image(stages).file_is("/copied", "dev\n").file_is("/mounted", "dev\ndev\n");
    context
        .build(["--build-context", "tools=target:deb"])
        .fails_with(2)
        .says("deb")
        .says("did you mean dev?");
    context
        .build(["--build-context", "dev=target:app", "--build-context", "tools=target:app"])
        .fails_with(2)
        .says("circular dependency");
    context.build(["--build-context", "tools=target:"]).fails_with(2).says("NAME=target:STAGE");
    context.build(NONE).fails_with(3);
}
