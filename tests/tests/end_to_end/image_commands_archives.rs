//! Images into archives and out of them, and archives that nobody should have to trust.

use super::on_busybox;
use kiln_tests::{BaseImage, ImageAssert, Registry, TestContext, members_of};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::Command;

fn built() -> TestContext {
    let context = on_busybox("FROM @\nCOPY a.txt /a.txt\nCMD [\"sh\"]\n");
    context.write("a.txt", "a");
    context.build(["-t", "app:1.0", "-t", "example.org/app:two"]).success();
    context
}

#[track_caller]
fn id(context: &TestContext, name: &str) -> String {
    context.kiln(["inspect", "-f", "{{.Id}}", name]).run().success().stdout_text()
}

#[track_caller]
fn skopeo(args: &[&str]) -> String {
    let done = Command::new("skopeo").args(args).output().expect("Debian's package skopeo");
    assert!(done.status.success(), "skopeo {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// A tar of files, whatever their paths.
fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.as_gnu_mut().expect("a GNU header").name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        tar.append(&header, *bytes).expect("a tar");
    }
    tar.into_inner().expect("a tar")
}

#[test]
fn what_is_saved_is_loaded_with_its_names_and_its_id() {
    let context = built();
    for format in ["docker-archive", "oci-archive"] {
        let file = context.text(&format!("{format}.tar"));
        let names = ["app:1.0", "example.org/app:two"];
        context.kiln([&["save", "--format", format, "-o", &file][..], &names[..]].concat()).run().success();
        let other = TestContext::new();
        let loaded = other.kiln(["load", "-i", &file]).run().success().stdout_text();
        assert_eq!(loaded, "Loaded image: app:1.0\nLoaded image: example.org/app:two\n", "{format}");
        assert_eq!(id(&other, "app:1.0"), id(&context, "app:1.0"), "{format}");
        other.write("Dockerfile", "FROM app:1.0\nRUN cat /a.txt > /b.txt\n");
        other.building(["--offline", "-t", "b:1"]).run().success();
    }
    let bytes = std::fs::read(context.path("docker-archive.tar")).expect("the archive");
    let members = members_of(&context.path("docker-archive.tar"));
    let repositories: Value = serde_json::from_slice(&members["repositories"]).expect("JSON");
    assert!(repositories["app"]["1.0"].is_string() && repositories["example.org/app"]["two"].is_string());
    // Through pipes, compressed.
    let piped = context.kiln(["save", "app:1.0", "example.org/app:two"]).run().success();
    assert_eq!(piped.stdout, bytes, "standard output gets the same");
    for program in ["gzip", "zstd"] {
        let mut child = Command::new(program)
            .arg("-c")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a compressor");
        let mut input = child.stdin.take().expect("its input");
        let plain = bytes.clone();
        let writer = std::thread::spawn(move || input.write_all(&plain));
        let compressed = child.wait_with_output().expect("its output").stdout;
        writer.join().expect("a writer").expect("written");
        let other = TestContext::new();
        other.kiln(["load"]).stdin(compressed).run().success();
        assert_eq!(id(&other, "app:1.0"), id(&context, "app:1.0"), "{program}");
    }
}

#[test]
fn skopeo_reads_what_is_saved() {
    let context = built();
    for (format, scheme) in
        [("docker-archive", "docker-archive"), ("oci-archive", "oci-archive"), ("oci-dir", "oci")]
    {
        let dest = context.text(&format!("saved-{format}"));
        context.kiln(["save", "--format", format, "-o", &dest, "app:1.0"]).run().success();
        let layout = context.path(&format!("layout-{format}"));
        let target = format!("oci:{}", layout.display());
        skopeo(&["copy", "--quiet", "--insecure-policy", &format!("{scheme}:{dest}"), &target]);
        ImageAssert::of_layout(&layout).file_is("/a.txt", "a");
    }
}

#[test]
fn what_skopeo_wrote_is_loaded_and_can_be_pushed() {
    let context = built();
    let saved = context.text("saved.tar");
    context.kiln(["save", "-o", &saved, "app:1.0"]).run().success();
    let registry = Registry::start();
    for (number, scheme) in ["docker-archive", "oci-archive"].iter().enumerate() {
        let file = context.text(&format!("skopeo-{scheme}.tar"));
        let target = format!("{scheme}:{file}:docker.io/library/from-skopeo:1");
        skopeo(&["copy", "--quiet", "--insecure-policy", &format!("docker-archive:{saved}"), &target]);
        let other = TestContext::new();
        other.kiln(["load", "-q", "-i", &file]).run().success().stdout_text();
        // Of an OCI archive skopeo writes the config anew; the layers stay.
        let of = |context: &TestContext, name| {
            let format = if *scheme == "oci-archive" { "{{json .RootFS}}" } else { "{{.Id}}" };
            context.kiln(["inspect", "-f", format, name]).run().success().stdout_text()
        };
        assert_eq!(of(&other, "from-skopeo:1"), of(&context, "app:1.0"), "{scheme}");
        let name = registry.reference(&format!("loaded{number}:1"));
        other.kiln(["tag", "from-skopeo:1", &name]).run().success();
        other.kiln(["push", "-q", &name]).run().success();
        let third = TestContext::with_dockerfile(&format!("FROM {name}\nLABEL x=y\n"));
        third.image(super::NONE).file_is("/a.txt", "a");
    }
}

/// The layout that docker wrote until version 24: a folder for each layer, some of them links to others.
#[test]
fn an_archive_of_an_old_docker_is_loaded() {
    let context = built();
    let members = {
        let file = context.path("new.tar");
        context.kiln(["save", "-o", &file.to_string_lossy(), "app:1.0"]).run().success();
        members_of(&file)
    };
    let manifest: Value = serde_json::from_slice(&members["manifest.json"]).expect("JSON");
    let config = &members[manifest[0]["Config"].as_str().expect("a config")];
    let layers = manifest[0]["Layers"].as_array().expect("layers");
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes).expect("a member");
    };
    let image = ImageAssert::of_layout(&{
        let folder = context.path("dir");
        context
            .kiln(["save", "--format", "oci-dir", "-o", &folder.to_string_lossy(), "app:1.0"])
            .run()
            .success();
        folder
    });
    for (number, bytes) in image.layers.iter().enumerate() {
        put(&format!("layer{number}/layer.tar"), bytes);
        put(&format!("layer{number}/VERSION"), b"1.0");
    }
    put("abc.json", config);
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    tar.append_link(&mut link, "linked/layer.tar", "../layer0/layer.tar").expect("a link");
    let mut paths: Vec<String> = (0..layers.len()).map(|n| format!("layer{n}/layer.tar")).collect();
    paths[0] = "linked/layer.tar".to_owned();
    let list = json!([{"Config": "abc.json", "RepoTags": ["old:1"], "Layers": paths}]).to_string();
    let mut header = tar::Header::new_gnu();
    header.set_size(list.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "manifest.json", list.as_bytes()).expect("a member");
    let file = context.write_beside("old.tar", tar.into_inner().expect("a tar"));
    let other = TestContext::new();
    other.kiln(["load", "-i", &file.to_string_lossy()]).run().success();
    assert_eq!(id(&other, "old:1"), id(&context, "app:1.0"));
    other.write("Dockerfile", "FROM old:1\nLABEL x=y\n");
    other.image(["--offline"]).file_is("/a.txt", "a");
}

#[test]
fn hostile_archives_are_refused_and_leave_no_name() {
    let empty = json!([]).to_string();
    let config =
        json!({"rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "1".repeat(64))]}}).to_string();
    let list = json!([{"Config": "c.json", "RepoTags": ["bad:1"], "Layers": ["l/layer.tar"]}]).to_string();
    let blob = format!("blobs/sha256/{}", "0".repeat(64));
    let up = json!([{"Config": "../../etc/passwd", "RepoTags": ["bad:1"], "Layers": []}]).to_string();
    let mut huge = tar_of(&[("c.json", b"{}")]);
    huge[124..136].copy_from_slice(b"77777777777\0");
    huge[148..156].copy_from_slice(b"        ");
    let sum: u32 = huge[..512].iter().map(|byte| u32::from(*byte)).sum();
    huge[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut link = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    link.append_link(&mut header, "c.json", "/etc/passwd").expect("a link");
    for (bytes, says) in [
        (tar_of(&[("../escape.json", b"{}")]), "leads out of it"),
        (tar_of(&[("/etc/cron.d/x.json", b"{}")]), "leads out of it"),
        (link.into_inner().expect("a tar"), "leads out of it"),
        (huge, "can't be read"),
        (tar_of(&[(&blob, b"other bytes")]), "wrong content"),
        (tar_of(&[("manifest.json", up.as_bytes())]), "is not in it"),
        (
            tar_of(&[("manifest.json", list.as_bytes()), ("c.json", config.as_bytes())]),
            "l/layer.tar is named in it",
        ),
        (
            tar_of(&[
                ("manifest.json", list.as_bytes()),
                ("c.json", config.as_bytes()),
                ("l/layer.tar", b"x"),
            ]),
            "wrong content",
        ),
        (tar_of(&[("manifest.json", empty.as_bytes())]), "no images"),
        (tar_of(&[("manifest.json", b"{")]), "not valid"),
        (tar_of(&[("readme", b"x")]), "no images"),
        (b"no tar at all, but long enough to be looked at".to_vec(), "can't be read"),
        (Vec::new(), "no images"),
    ] {
        let context = TestContext::new();
        context.kiln(["load"]).stdin(bytes).run().fails_with(1).says(says).says("standard input");
        assert_eq!(context.kiln(["images", "-q"]).run().success().stdout_text(), "");
        let left = std::fs::read_dir(context.store().join("content/ingest")).expect("the store").count();
        assert_eq!(left, 0, "{says}: nothing half-written stays");
    }
    assert!(!Path::new("/escape.json").exists());
}

#[test]
fn an_index_is_saved_and_loaded_whole_and_docker_gets_one_platform() {
    let registry = Registry::start();
    let images = ["linux/amd64", "linux/arm64"].map(|p| BaseImage::busybox().with_platform(p));
    BaseImage::push_index(&images, &registry, "multi", "1");
    let context =
        TestContext::with_dockerfile(&format!("FROM {}\nLABEL a=b\n", registry.reference("multi:1")));
    context.build(["--platform", "linux/amd64,linux/arm64", "-t", "both:1"]).success();
    let index = |context: &TestContext| {
        context.kiln(["inspect", "-f", "{{.Index}}", "both:1"]).run().success().stdout_text()
    };
    let (oci, docker) = (context.text("oci.tar"), context.text("docker.tar"));
    context.kiln(["save", "--format", "oci-archive", "-o", &oci, "both:1"]).run().success();
    let other = TestContext::new();
    other.kiln(["load", "-i", &oci]).run().success();
    assert_eq!(index(&other), index(&context));
    context.kiln(["save", "--platform", "linux/arm64", "-o", &docker, "both:1"]).run().success();
    let other = TestContext::new();
    other.kiln(["load", "-i", &docker]).run().success();
    let shown = other.kiln(["inspect", "-f", "{{.Architecture}}", "both:1"]).run().success().stdout_text();
    assert_eq!(shown, "arm64\n");
}

#[test]
fn an_archive_without_a_name_wants_one() {
    let context = built();
    let file = context.text("nameless.tar");
    context.build(["-o", &format!("type=oci,dest={file}")]).success();
    let other = TestContext::new();
    other.kiln(["load", "-i", &file]).run().fails_with(1).says("--tag NAME");
    let loaded = other.kiln(["load", "-i", &file, "--tag", "given:1"]).run().success().stdout_text();
    assert_eq!(loaded, "Loaded image: given:1\n");
    assert_eq!(id(&other, "given:1"), id(&context, "app:1.0"));
}

/// As docker writes it where it has only one platform of an index.
#[test]
fn an_archive_without_the_layers_of_other_platforms_gives_this_machines_image() {
    let registry = Registry::start();
    let host = kiln_oci::Platform::host().to_string();
    let other_layer = [kiln_tests::LayerEntry::File("only-there", 0o644, b"s390x".to_vec())];
    let images = [
        BaseImage::busybox().with_platform(&host),
        BaseImage::busybox().with_layer(&other_layer).with_platform("linux/s390x"),
    ];
    BaseImage::push_index(&images, &registry, "multi", "1");
    let context = TestContext::new();
    let archive = context.path("whole.tar");
    let to = format!("oci-archive:{}:app:1", archive.display());
    context.kiln(["copy", "-q", "--all", &registry.reference("multi:1"), &to]).run().success();
    let gone = kiln_oci::Digest::of(&images[1].parts().layers[1]).hex();
    let mut members = members_of(&archive);
    members.remove(&format!("blobs/sha256/{gone}")).expect("the layer");
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in members.iter().filter(|(path, _)| !path.ends_with('/')) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes.as_slice()).expect("a member");
    }
    let bytes = tar.into_inner().expect("a tar");
    // In a store that has nothing of it.
    let context = TestContext::new();
    context.kiln(["load"]).stdin(bytes.clone()).run().success();
    let shown = context.kiln(["inspect", "-f", "{{.Os}}/{{.Architecture}}", "app:1"]).run().success();
    assert_eq!(shown.stdout_text().trim(), host);
    let wanted = context.kiln(["load", "--platform", "linux/s390x"]).stdin(bytes).run();
    wanted.fails_with(1).says(&gone).says("is not in it");
}
