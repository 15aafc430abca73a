//! Images into a Docker daemon: what is sent, and what is said when it is not taken.

use super::{NONE, on_busybox};
use kiln_tests::{FakeDocker, Finished, Loaded, Manner, TestContext};
use serde_json::Value;

fn context() -> TestContext {
    let context = on_busybox("FROM @\nCOPY a.txt /\nCOPY b.txt /\n");
    context.write("a.txt", "a").write("b.txt", "first");
    context
}

fn load(context: &TestContext, docker: &FakeDocker, more: &[&str]) -> Finished {
    let args = ["--load", "-t", "me/app:1"].iter().chain(more);
    context.building(args).env("DOCKER_HOST", docker.host()).run()
}

/// How many of the layers that it names an archive has, and how many it names.
fn layers(archive: &Loaded) -> (usize, usize) {
    let manifest: Value = serde_json::from_slice(&archive["manifest.json"]).expect("JSON");
    let named = manifest[0]["Layers"].as_array().expect("layers");
    let has = named.iter().filter(|path| archive.contains_key(path.as_str().expect("a path")));
    (has.count(), named.len())
}

fn sent(docker: &FakeDocker) -> Vec<(usize, usize)> {
    docker.loads().iter().map(layers).collect()
}

#[test]
fn only_the_layers_that_a_daemon_lacks_are_sent() {
    let context = context();
    let docker = FakeDocker::start(&context.path("docker.sock"), Manner::Classic);
    load(&context, &docker, &[]).success().says("all 3 layers");
    context.write("b.txt", "second");
    load(&context, &docker, &[]).success().says("1 of 3 layers");
    load(&context, &docker, &[]).success().says("0 of 3 layers");
    assert_eq!(sent(&docker), [(3, 3), (1, 3), (0, 3)]);
    assert_eq!(docker.tags(), ["me/app:1"; 3]);
    let posts: Vec<String> = docker.requests().into_iter().filter(|head| head.starts_with("POST")).collect();
    let is_chunked = |head: &String| head.to_lowercase().contains("transfer-encoding: chunked");
    assert!(posts.len() == 3 && posts.iter().all(is_chunked), "{posts:?}");
    context.kiln(["images"]).run().success();
    assert!(context.kiln(["images"]).run().stdout_text().contains("me/app:1"));
}

#[test]
fn a_daemon_that_wants_whole_images_gets_them() {
    for (manner, expect) in [
        (Manner::Containerd, vec![(3, 3), (3, 3)]),
        // It is asked with less first, and refuses that.
        (Manner::WantsAll, vec![(3, 3), (1, 3), (3, 3)]),
    ] {
        let context = context();
        let docker = FakeDocker::start(&context.path("docker.sock"), manner);
        load(&context, &docker, &[]).success();
        context.write("b.txt", "second");
        load(&context, &docker, &[]).success().says("all 3 layers");
        assert_eq!(sent(&docker), expect, "{manner:?}");
        assert_eq!(docker.tags().len(), 2, "{manner:?}");
    }
}

#[test]
fn what_a_daemon_says_against_an_image_is_told_with_its_socket() {
    let context = context();
    let docker = FakeDocker::start(&context.path("docker.sock"), Manner::Refuses);
    load(&context, &docker, &[]).fails_with(1).says(&docker.host()).says("no space left on device");
    let args = ["--load", "-t", "me/app:1"];
    let nowhere = format!("unix://{}", context.text("nowhere.sock"));
    context.building(args).env("DOCKER_HOST", &nowhere).run().fails_with(1).says(&nowhere);
    context.building(args).env("DOCKER_HOST", "ssh://host").run().fails_with(2).says("ssh://host");
}

#[test]
fn a_daemon_that_stands_still_is_given_up() {
    let context = context();
    context.write("b.txt", vec![0; 100]);
    let docker = FakeDocker::start(&context.path("docker.sock"), Manner::Stalls);
    load(&context, &docker, &["--network-timeout=1s"]).fails_with(1).says("nothing has moved for");
}

#[test]
fn an_output_of_type_docker_goes_into_the_daemon_that_its_context_says() {
    let context = context();
    let docker = FakeDocker::start(&context.path("docker.sock"), Manner::Classic);
    let building = |output: &str| context.building(["-t", "me/app:2", "-o", output]);
    let into = "type=docker,context=default";
    building(into).env("DOCKER_HOST", docker.host()).run().success();
    assert_eq!((sent(&docker), docker.tags()), (vec![(3, 3)], vec!["me/app:2".to_owned()]));
    let both = "type=docker,context=default,dest=x.tar";
    building(both).env("DOCKER_HOST", docker.host()).run().fails_with(2).says("without dest");
    building("type=docker,context=other").run().fails_with(2).says("other");
    // Without it, standard output has the archive, whatever daemon is there.
    let piped = building("type=docker").env("DOCKER_HOST", docker.host()).run().success();
    assert!(piped.stdout.windows(13).any(|window| window == b"manifest.json"));
    assert_eq!(docker.loads().len(), 1);
}

#[test]
fn a_daemon_gets_no_index() {
    let context = context();
    let docker = FakeDocker::start(&context.path("docker.sock"), Manner::Classic);
    load(&context, &docker, &["--provenance=mode=min"]).fails_with(2).says("--load");
    assert_eq!(docker.loads().len(), 0);
    context.build(NONE).success();
}
