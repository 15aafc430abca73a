//! `kiln debug`: the tree, the Definition in JSON and protobuf, the graph of the stages.

use super::on_busybox;
use kiln_tests::{Finished, TestContext};
use serde_json::Value;
use std::path::Path;

/// The values of a text that has one in each line.
#[track_caller]
fn lines(finished: &Finished) -> Vec<Value> {
    let text = finished.stdout_text();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn a_definition_in_protobuf_is_read_back_to_the_same_json() {
    let context = on_busybox(
        "FROM @ AS made\nRUN --mount=type=cache,target=/c --mount=type=secret,id=s echo made\n\
         FROM @\nCOPY --from=made --chown=1:2 --chmod=u+x /bin/sh /copied\nCOPY --link Dockerfile /\n",
    );
    let context_folder = context.text("ctx");
    let llb = |args: &[&str]| context.kiln(["debug", "llb"]).args(args).arg(&context_folder).run().success();
    let (json, protobuf) = (llb(&[]), llb(&["--format", "pb"]));
    let file = context.write_beside("llb.pb", &protobuf.stdout);
    let read = context.kiln(["debug", "llb", "--read"]).arg(file).run().success();
    assert_eq!(read.stdout_text(), json.stdout_text());
    assert_eq!(read.stderr, "", "kiln could build what it wrote");
    let piped = context.kiln(["debug", "llb", "--read=-"]).stdin(protobuf.stdout).run().success();
    assert_eq!(piped.stdout, read.stdout);

    let ops = lines(&json);
    let kinds: Vec<&str> = ops
        .iter()
        .map(|op| op["Op"]["Op"].as_object().expect("a kind").keys().next().map_or("", String::as_str))
        .collect();
    for kind in ["source", "exec", "file", "merge"] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
    let last = ops.last().expect("a target");
    let target = &last["Op"]["inputs"][0]["digest"];
    assert_eq!(last["Op"]["Op"], serde_json::json!({}));
    let is_link = |op: &&Value| op["Digest"] == *target && op["Op"]["Op"]["merge"].is_object();
    assert!(ops.iter().any(|op| is_link(&op)), "the target is the last COPY --link:\n{json}");
    let names = |op: &Value| op["OpMetadata"]["description"]["llb.customname"].clone();
    assert!(ops.iter().any(|op| names(op).as_str().is_some_and(|name| name.ends_with("echo made"))));
}

#[test]
fn the_definition_of_examples_app_is_read_back() {
    let context = TestContext::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/app");
    let tools = format!("--build-context=tools={}", context.tools().display());
    let llb = |args: &[&str]| context.kiln(["debug", "llb", &tools]).args(args).arg(&example).run().success();
    let (json, protobuf) = (llb(&[]), llb(&["--format=pb"]));
    let read = context.kiln(["debug", "llb", "--read=-"]).stdin(protobuf.stdout).run().success();
    assert_eq!(read.stdout_text(), json.stdout_text());
    assert_eq!(read.stderr, "", "kiln could build what it wrote");
    let runs = lines(&json).iter().filter(|op| op["Op"]["Op"]["exec"].is_object()).count();
    assert_eq!(runs, 4, "the RUNs of the example:\n{json}");
}

#[test]
fn what_is_no_definition_is_refused() {
    let context = TestContext::new();
    let read = |bytes: &[u8]| context.kiln(["debug", "llb", "--read=-"]).stdin(bytes).run();
    read(b"FROM scratch\n").fails_with(2).says("--read -").says("no definition in protobuf");
    read(b"\x0a\x01\xff").fails_with(2).says("op 0");
    // An op of BuildKit's that kiln can't do is shown all the same.
    let other = read(b"\x0a\x02\x2a\x00").success().says("note: kiln could not build this");
    assert_eq!(lines(&other)[0]["Op"]["Op"], serde_json::json!({ "build": {} }));
    context.kiln(["debug", "llb", "--read=/nowhere"]).run().fails_with(1).says("/nowhere");
}

#[test]
fn the_graph_of_the_stages_is_drawn_for_mermaid_and_graphviz() {
    let context = TestContext::with_dockerfile(
        "ARG V=1\nFROM golang:$V AS build\nCOPY . /src\nRUN --mount=type=cache,target=/c make\n\
         FROM build AS test\nFROM scratch\nCOPY --from=build /app /app\nCOPY --from=alpine /etc/ssl /etc/ssl\n\
         ADD https://example.com/x.tgz /\n",
    );
    let graph = |args: &[&str]| {
        context.kiln(["debug", "graph"]).args(args).arg(context.context()).run().success().stdout_text()
    };
    let mermaid = "flowchart LR
    n0[\"build\"]
    n1[\"test\"]
    n2([\"stage-2\"])
    n3[(\"golang:1\")]
    n4[/\"context\"/]
    n5[(\"alpine\")]
    n6{{\"https://example.com/x.tgz\"}}
    n3 -->|FROM| n0
    n4 -->|COPY| n0
    n0 -->|FROM| n1
    n0 -->|COPY| n2
    n5 -->|COPY| n2
    n6 -->|ADD| n2
    classDef notNeeded stroke-dasharray:4 4,opacity:0.5
    class n1 notNeeded
";
    assert_eq!(graph(&[]), mermaid);
    assert_eq!(graph(&["--format=mermaid"]), mermaid);
    let other = graph(&["--target=test", "--build-arg=V=2", "--build-context=golang:2=docker-image://x"]);
    assert!(other.contains("n1([\"test\"])") && other.contains("n3[/\"golang:2\"/]"), "{other}");
    let dot = graph(&["--format=dot"]);
    assert!(dot.starts_with("digraph stages {\n") && dot.ends_with("}\n"), "{dot}");
    assert!(dot.contains("n3 -> n0 [label=\"FROM\"];"), "{dot}");
    assert!(!context.store().exists(), "no store is needed for it");
}

#[test]
fn the_tree_has_every_word_with_its_place() {
    let text = "# syntax=docker/dockerfile:1\nFROM busybox AS b\nRUN <<EOF\necho hi\nEOF\n";
    let context = TestContext::new();
    let finished = context.kiln(["debug", "ast", "-f", "-"]).stdin(text).run().success();
    let tree: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    let stage = &tree["dockerfile"]["stages"][0];
    assert_eq!(tree["dockerfile"]["directives"]["syntax"]["raw"], "docker/dockerfile:1");
    assert_eq!(stage["name"], "b");
    assert_eq!(stage["from"]["kind"]["from"]["image"]["raw"], "busybox");
    assert_eq!(stage["from"]["kind"]["from"]["image"]["span"], serde_json::json!({ "start": 34, "end": 41 }));
    let run = &stage["instructions"][0];
    assert_eq!((&run["line"], &run["end_line"]), (&3.into(), &5.into()));
    assert_eq!(run["kind"]["run"]["heredocs"][0]["body"], "echo hi\n");
    assert_eq!(tree["diagnostics"], serde_json::json!([]));
    assert!(!context.store().exists(), "no store is needed for it");
}

#[test]
fn the_tree_of_a_broken_dockerfile_is_printed_and_its_mistakes_told() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOYP a b\nLABEL a=b\n");
    let finished = context.kiln(["debug", "ast", "ctx"]).run().fails_with(2).says("COYP").says("^");
    let tree: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    assert_eq!(tree["diagnostics"][0]["severity"], "error");
    assert_eq!(tree["diagnostics"][0]["line"], 2);
    assert_eq!(tree["dockerfile"]["stages"][0]["instructions"][0]["keyword"]["raw"], "LABEL");
    for command in ["llb", "graph"] {
        let finished = context.kiln(["debug", command, "ctx"]).run().fails_with(2).says("COYP").says("^");
        assert!(finished.stdout.is_empty(), "nothing half done is on stdout");
    }
}

#[test]
fn what_a_registry_does_not_have_fails_as_in_a_build() {
    let context = TestContext::with_dockerfile("FROM localhost:1/none\n");
    context.kiln(["debug", "llb", "ctx"]).run().fails_with(3).says("localhost:1/none");
    context.kiln(["debug", "graph", "ctx"]).run().success();
    context.kiln(["debug", "llb", "--platform=nonsense", "ctx"]).run().fails_with(2);
    context.kiln(["debug", "graph", "nowhere"]).run().fails_with(2).says("nowhere");
    context.kiln(["debug", "llb", "--read=x", "--format=pb"]).run().fails_with(2);
}
