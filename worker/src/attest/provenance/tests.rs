//! Claims about what provenance tells, and what it never tells.

use super::*;
use kiln_oci::ImageConfig;
use kiln_solver::{Edge, Env, ExecMeta, ExecOp, Metadata, Mount, SecretMount, SecurityMode};

const SECRET: &str = "s3cr3t-canary";
const PASSWORD: &str = "pass-canary";

fn source(identifier: &str, attrs: &[(&str, &str)]) -> SourceOp {
    let attrs = attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    SourceOp { identifier: identifier.to_owned(), attrs }
}

fn vertex(op: Op, inputs: Vec<Edge>) -> Vertex {
    let metadata = Metadata { lines: vec![(2, 2)], ..Metadata::default() };
    Vertex { op, inputs, platform: None, metadata }
}

fn run(args: &str) -> ExecOp {
    let mount = |kind, dest: &str, input| Mount {
        input,
        selector: String::new(),
        dest: dest.to_owned(),
        output: input,
        readonly: false,
        kind,
    };
    let secret = SecretMount { id: "token".to_owned(), uid: 0, gid: 0, mode: 0o400, optional: false };
    ExecOp {
        meta: ExecMeta {
            args: vec![args.to_owned()],
            env: Env::default(),
            cwd: "/".to_owned(),
            proxy_env: vec![("http_proxy".to_owned(), format!("http://me:{PASSWORD}@proxy"))],
            ..ExecMeta::default()
        },
        mounts: vec![
            mount(MountKind::Bind, "/", Some(0)),
            mount(MountKind::Secret(secret), "/run/secrets/token", None),
        ],
        network: NetworkMode::Unset,
        security: SecurityMode::Sandbox,
        secret_env: Vec::new(),
        devices: Vec::new(),
    }
}

/// A repository, a folder, a step on them, and a source that the target does not need.
fn request() -> (BuildRequest, Target) {
    let mut request = BuildRequest::empty();
    let graph = &mut request.definition;
    let edge = |vertex| Edge { vertex, output: 0 };
    let url = format!("https://me:{PASSWORD}@host/a.git");
    let git = source("git://host/a.git#main", &[("git.fullurl", &url)]);
    let git = graph.add(vertex(Op::Source(git), Vec::new()));
    let local = graph.add(vertex(Op::Source(source("local://context", &[])), Vec::new()));
    graph.add(vertex(Op::Source(source("https://host/unused", &[])), Vec::new()));
    let made = graph.add(vertex(Op::Merge, vec![edge(git), edge(local)]));
    let ran = graph.add(vertex(Op::Exec(Box::new(run(&format!("echo {SECRET}")))), vec![edge(made)]));
    request.secrets.insert("token".to_owned(), format!("{SECRET}\n").into_bytes());
    let target = Target {
        platform: Platform::host(),
        edge: Some(edge(ran)),
        config: ImageConfig::default(),
        source_date_epoch_s: None,
    };
    (request, target)
}

fn wanted(mode: ProvenanceMode) -> ProvenanceRequest {
    let args = [("build-arg:A", "argument-canary"), ("label:l", "label-canary"), ("target", "release")];
    ProvenanceRequest {
        mode,
        builder_id: "https://ci/1".to_owned(),
        file: "provenance.json".to_owned(),
        reproducible: false,
        inline_only: false,
        context: None,
        dockerfile_path: "Dockerfile".to_owned(),
        dockerfile: format!("FROM x\nADD https://me:{PASSWORD}@host/y /\nRUN echo {SECRET}\n"),
        args: args.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    }
}

fn facts() -> Facts {
    let commit = Fetched::Commit("1".repeat(40));
    Facts {
        invocation: "i".to_owned(),
        started: Timestamp::UNIX_EPOCH,
        fetched: [("git://host/a.git#main".to_owned(), commit)].into(),
    }
}

fn made(wanted: &ProvenanceRequest) -> Value {
    let (request, target) = request();
    predicate(&request, wanted, &target, &facts()).unwrap_or_else(|e| panic!("{e}"))
}

/// All texts of a document, those in Base64 too.
fn all_text(value: &Value) -> String {
    use base64::Engine;
    let mut out = value.to_string();
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(all) => left.extend(all),
            Value::Object(all) => left.extend(all.values()),
            Value::String(text) => {
                if let Ok(bytes) = base64::prelude::BASE64_STANDARD.decode(text) {
                    out.push_str(&String::from_utf8_lossy(&bytes));
                }
            }
            _ => {}
        }
    }
    out
}

#[test]
fn values_of_secrets_and_passwords_are_told_in_no_mode() {
    for mode in [ProvenanceMode::Min, ProvenanceMode::Max] {
        let path = format!("https://me:{PASSWORD}@host/Dockerfile");
        let told = all_text(&made(&ProvenanceRequest { dockerfile_path: path, ..wanted(mode) }));
        for canary in [SECRET, PASSWORD] {
            assert!(!told.contains(canary), "{mode:?}: {told}");
        }
        assert_eq!(told.contains("\"token\""), mode == ProvenanceMode::Max, "the id alone is told");
    }
}

#[test]
fn arguments_steps_and_the_dockerfile_are_told_only_by_max() {
    let told = made(&wanted(ProvenanceMode::Min));
    assert_eq!(
        told["buildDefinition"]["externalParameters"]["request"]["args"],
        json!({"target": "release"})
    );
    assert_eq!(told["runDetails"]["metadata"]["buildkit_completeness"]["request"], false);
    assert!(
        !all_text(&told).contains("canary")
            && told["buildDefinition"]["internalParameters"].get("buildConfig").is_none()
    );
    let told = made(&wanted(ProvenanceMode::Max));
    let asked = &told["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(asked["args"]["build-arg:A"], "argument-canary");
    assert_eq!(asked["secrets"], json!([{"id": "token"}]));
    assert_eq!(told["runDetails"]["metadata"]["buildkit_completeness"]["request"], true);
    assert!(all_text(&told).contains("ADD https://host/y /\n"));
}

#[test]
fn steps_name_earlier_steps_and_lead_to_their_lines() {
    let told = made(&wanted(ProvenanceMode::Max));
    let config = &told["buildDefinition"]["internalParameters"]["buildConfig"];
    let steps = config["llbDefinition"].as_array().cloned().unwrap_or_default();
    // Two sources, what lays them over each other, the step and the target; what is not needed is not there.
    assert_eq!(steps.len(), 5);
    for (number, step) in steps.iter().enumerate() {
        assert_eq!(step["id"], format!("step{number}"));
        for input in step["inputs"].as_array().into_iter().flatten() {
            let input =
                input.as_str().and_then(|input| input.strip_prefix("step")?.split(':').next()?.parse().ok());
            assert!(input.is_some_and(|input: usize| input < number), "{step}");
        }
    }
    assert_eq!(steps[4]["inputs"], json!(["step3:0"]));
    let args = &steps[3]["op"]["Op"]["exec"]["meta"]["args"];
    assert_eq!(args, &json!(["echo ***"]));
    // Only the folder's digest says nothing of a password.
    let mapping = config["digestMapping"].as_object().cloned().unwrap_or_default();
    assert_eq!(mapping.into_iter().map(|(_, step)| step).collect::<Vec<_>>(), ["step1"]);
    let locations = &told["runDetails"]["metadata"]["buildkit_metadata"]["source"]["locations"];
    assert_eq!(locations["step3"]["locations"][0]["ranges"][0]["start"]["line"], 2);
}

#[test]
fn what_was_fetched_is_told_with_its_digest_and_without_credentials() {
    let told = made(&wanted(ProvenanceMode::Min));
    let expect = json!([{"uri": "https://host/a.git#main", "digest": {"sha1": "1".repeat(40)}}]);
    assert_eq!(told["buildDefinition"]["resolvedDependencies"], expect);
    let metadata = &told["runDetails"]["metadata"];
    assert_eq!(metadata["buildkit_completeness"]["resolvedDependencies"], false, "a folder is no dependency");
    assert_eq!(metadata["buildkit_hermetic"], false);
}

#[test]
fn a_context_from_a_repository_is_where_the_dockerfile_comes_from() {
    let context = source("git://host/a.git#main", &[("git.fullurl", "https://host/a.git")]);
    let told = made(&ProvenanceRequest { context: Some(context), ..wanted(ProvenanceMode::Min) });
    let definition = &told["buildDefinition"];
    let expect =
        json!({"uri": "https://host/a.git#main", "digest": {"sha1": "1".repeat(40)}, "path": "Dockerfile"});
    assert_eq!(definition["externalParameters"]["configSource"], expect);
    assert_eq!(definition["externalParameters"]["request"]["locals"], json!([]));
    assert_eq!(told["runDetails"]["metadata"]["buildkit_completeness"]["resolvedDependencies"], true);
}
