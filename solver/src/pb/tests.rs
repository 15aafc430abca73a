//! What is written is read back; what another program wrote is read; what is wrong is refused.

use super::*;
use crate::definition::*;
use kiln_oci::Platform;
use proptest::prelude::*;
use std::collections::BTreeMap;

mod any;

/// [`everything`], written by Google's protobuf for Python with the classes that it made of BuildKit's
/// own `ops.proto`, with the digests taken there.
const EVERYTHING: &[u8] = include_bytes!("testdata/everything.pb");
const DOCKERFILE: SourceFile<'_> = SourceFile { name: "Dockerfile", text: "FROM scratch\n" };

fn text(text: &str) -> String {
    text.to_owned()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn edge(vertex: VertexId, output: u32) -> Edge {
    Edge { vertex, output }
}

fn source(identifier: &str, attrs: &[(&str, &str)]) -> Op {
    let attrs = attrs.iter().map(|(key, value)| (text(key), text(value))).collect();
    Op::Source(SourceOp { identifier: text(identifier), attrs })
}

fn vertex(op: Op, inputs: Vec<Edge>, platform: Option<Platform>, name: &str) -> Vertex {
    Vertex { op, inputs, platform, metadata: Metadata { name: text(name), ..Metadata::default() } }
}

/// A graph with every kind of op, and in each op every field.
fn everything() -> Definition {
    let mut graph = Definition::new();
    let mut arm = Platform::new("linux", "arm", Some("v7"));
    arm.os_version = Some(text("6.12"));
    arm.os_features = texts(&["seccomp", "cgroups"]);
    let image = source("docker-image://docker.io/library/busybox@sha256:00", &[("image.layerlimit", "3")]);
    let image = Vertex {
        metadata: Metadata {
            name: text("[1/3] FROM busybox"),
            lines: vec![(1, 1), (3, 4)],
            stage: text("base"),
            ignore_cache: true,
            max_age_s: None,
        },
        ..vertex(image, Vec::new(), Some(arm.clone()), "")
    };
    let image = graph.add(image);
    let context = source("local://context", &[("local.excludepatterns", "[\"*.o\"]"), ("local.unique", "x")]);
    let context = graph.add(vertex(context, Vec::new(), None, ""));
    let run = Op::Exec(Box::new(exec()));
    let run = graph.add(vertex(run, vec![edge(image, 0), edge(context, 0)], Some(arm), "[2/3] RUN make"));
    let files = Op::File(FileOp { actions: actions() });
    let files = graph.add(vertex(files, vec![edge(run, 0), edge(run, 1)], None, "[3/3] COPY"));
    let merge = graph.add(vertex(Op::Merge, vec![edge(files, 1), edge(context, 0)], None, "merge"));
    let diff = graph.add(vertex(Op::Diff, vec![edge(image, 0), edge(merge, 0)], None, "diff"));
    graph.target = Some(edge(diff, 0));
    graph
}

fn exec() -> ExecOp {
    let proxies = [("HTTP_PROXY", "h:1"), ("http_proxy", "h:1"), ("NO_PROXY", "me"), ("no_proxy", "me")];
    let mount = |input, dest: &str, output, kind| Mount {
        input,
        selector: String::new(),
        dest: text(dest),
        output,
        readonly: false,
        kind,
    };
    let cache = |id: &str, sharing| MountKind::Cache { id: text(id), sharing };
    let secret = SecretMount { id: text("key"), uid: 1, gid: 2, mode: 0o400, optional: true };
    let agent = SshMount { id: text("default"), uid: 3, gid: 4, mode: 0o600, optional: true };
    ExecOp {
        meta: ExecMeta {
            args: texts(&["/bin/sh", "-c", "make"]),
            env: ["PATH=/bin", "A=b=c"].into_iter().collect(),
            cwd: text("/src"),
            user: text("me:us"),
            proxy_env: proxies.iter().map(|(name, value)| (text(name), text(value))).collect(),
            extra_hosts: vec![(text("db"), text("10.0.0.1"))],
            hostname: text("builder"),
            ulimits: vec![(text("nofile"), 1024, -1)],
            cgroup_parent: text("/builds"),
            valid_exit_codes: vec![0, 3, -1],
        },
        mounts: vec![
            mount(Some(0), "/", Some(0), MountKind::Bind),
            Mount { selector: text("/lib"), readonly: true, ..mount(Some(1), "/lib", None, MountKind::Bind) },
            mount(Some(1), "/out", Some(1), MountKind::Bind),
            mount(None, "/cache/a", None, cache("a", CacheSharing::Private)),
            mount(Some(1), "/cache/b", None, cache("b", CacheSharing::Locked)),
            mount(None, "/cache/c", None, cache("c", CacheSharing::Shared)),
            mount(None, "/tmp", None, MountKind::Tmpfs { size_bytes: 4096 }),
            mount(None, "/run/key", None, MountKind::Secret(secret)),
            mount(None, "/run/agent", None, MountKind::Ssh(agent)),
        ],
        network: NetworkMode::None,
        security: SecurityMode::Insecure,
        secret_env: vec![SecretEnv { id: text("token"), name: text("TOKEN"), optional: true }],
        devices: vec![CdiDevice { name: text("vendor.com/gpu=0"), optional: true }],
    }
}

fn name(name: &str) -> Option<Principal> {
    Some(Principal::Name(text(name)))
}

fn owner(user: Option<Principal>, group: Option<Principal>) -> Option<Chown> {
    Some(Chown { user, group })
}

fn copy() -> CopyAction {
    CopyAction {
        src: text("/a*"),
        dest: text("/b/"),
        owner: owner(name("web"), name("www")),
        mode: Some(text("4755")),
        follow_symlink: true,
        dir_copy_contents: true,
        attempt_unpack: true,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        timestamp_ns: Some(1_000_000_000),
        include_patterns: texts(&["*.c", "*.h"]),
        exclude_patterns: texts(&["x*"]),
        always_replace_existing_dest_paths: true,
        required_paths: texts(&["/a/x"]),
    }
}

fn actions() -> Vec<FileAction> {
    let symbolic = CopyAction {
        src: text("/s"),
        dest: text("/t"),
        mode: Some(text("u=rwX,go-w")),
        ..CopyAction::default()
    };
    let action = |input, secondary_input, output, kind| FileAction { input, secondary_input, output, kind };
    let copied = |copy| FileActionKind::Copy(Box::new(copy));
    vec![
        action(FileInput::Input(0), Some(FileInput::Input(1)), None, copied(copy())),
        action(FileInput::Action(0), Some(FileInput::Scratch), Some(1), copied(symbolic)),
        action(
            FileInput::Action(1),
            None,
            None,
            FileActionKind::Mkfile {
                path: text("/file"),
                mode: 0o644,
                data: vec![0, 255, 10],
                owner: owner(name("web"), None),
                timestamp_ns: Some(0),
            },
        ),
        action(
            FileInput::Scratch,
            None,
            None,
            FileActionKind::Mkdir {
                path: text("/folder"),
                mode: 0o1777,
                make_parents: true,
                owner: owner(Some(Principal::Id(0)), Some(Principal::Id(7))),
                timestamp_ns: Some(-5),
            },
        ),
        action(
            FileInput::Action(2),
            None,
            None,
            FileActionKind::Rm { path: text("/old*"), allow_not_found: true, allow_wildcard: true },
        ),
        action(
            FileInput::Action(4),
            None,
            Some(0),
            FileActionKind::Symlink {
                target: text("/file"),
                path: text("/link"),
                owner: owner(None, Some(Principal::Id(9))),
                timestamp_ns: None,
            },
        ),
    ]
}

#[test]
fn what_another_program_wrote_of_buildkits_schema_is_read_and_written_the_same() {
    assert_eq!(decode(EVERYTHING).expect("a definition"), everything());
    let ours = encode(&everything(), Some(DOCKERFILE));
    for (ours, theirs) in dump(&ours).expect("ours").iter().zip(dump(EVERYTHING).expect("theirs")) {
        assert_eq!(*ours, theirs);
    }
    // Every byte of every op; the maps around them are in another order there.
    let (ours, theirs) = (message(&ours).expect("ours"), message(EVERYTHING).expect("theirs"));
    assert!(ours == theirs, "other ops or other places");
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(graph in any::definition()) {
        let message = to_message(&graph, None);
        let bytes = encode(&graph, None);
        let back = decode(&bytes).expect("what was written");
        prop_assert_eq!(&encode(&back, None), &bytes);
        // Vertices that differ in ignore_cache alone are one op.
        let terminal = usize::from(!message.def.is_empty());
        if message.def.len() - terminal == graph.vertices().len() {
            prop_assert_eq!(back, graph);
        }
    }

    #[test]
    fn damaged_bytes_are_read_or_refused(at in 0_usize..4096, byte: u8, cut in 0_usize..4096) {
        let mut bytes = EVERYTHING.to_vec();
        let (at, cut) = (at % bytes.len(), cut % bytes.len());
        bytes[at] = byte;
        let _ = decode(&bytes);
        let _ = dump(&bytes);
        bytes.truncate(cut);
        let _ = decode(&bytes);
    }

    #[test]
    fn any_op_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode(&bytes);
        let target = messages::Input { digest: Digest::of(&bytes).to_string(), index: 0 };
        let target = messages::Op { inputs: vec![target], ..messages::Op::default() };
        let def = vec![bytes, target.encode_to_vec()];
        let _ = from_message(&messages::Definition { def, ..messages::Definition::default() });
    }
}

#[test]
fn an_empty_file_system_is_no_op_at_all() {
    assert_eq!(encode(&Definition::new(), None), b"");
    assert_eq!(decode(b"").expect("empty"), Definition::new());
}

#[test]
fn vertices_that_no_target_needs_stay() {
    let mut graph = everything();
    graph.target = None;
    assert_eq!(decode(&encode(&graph, None)).expect("no target"), graph);
}

#[test]
fn vertices_that_differ_only_in_ignoring_the_cache_are_one_op_that_ignores_it() {
    let mut graph = Definition::new();
    let plain = vertex(source("local://context", &[]), Vec::new(), None, "first");
    let mut anew = vertex(source("local://context", &[]), Vec::new(), None, "second");
    anew.metadata.ignore_cache = true;
    let (plain, anew) = (graph.add(plain), graph.add(anew));
    let both = vec![edge(plain, 0), edge(anew, 0)];
    let merge = graph.add(vertex(Op::Merge, both, None, ""));
    graph.target = Some(edge(merge, 0));
    let back = decode(&encode(&graph, None)).expect("a definition");
    let [one, merge] = back.vertices() else { panic!("{:?}", back.vertices()) };
    assert_eq!((one.metadata.name.as_str(), one.metadata.ignore_cache), ("first", true));
    assert_eq!(merge.inputs, [edge(VertexId(0), 0), edge(VertexId(0), 0)]);
}

#[test]
fn proxies_that_buildkit_has_no_words_for_are_kept() {
    for proxies in [
        vec![("no_proxy", "a"), ("http_proxy", "b")],
        vec![("HTTP_PROXY", "a"), ("http_proxy", "b")],
        vec![("GOPROXY", "direct")],
        vec![("http_proxy", "")],
    ] {
        let mut exec = exec();
        exec.meta.proxy_env = proxies.iter().map(|(name, value)| (text(name), text(value))).collect();
        let mut graph = Definition::new();
        let inputs: Vec<Edge> =
            ["a", "b"].map(|name| edge(graph.add(vertex(source(name, &[]), vec![], None, "")), 0)).into();
        let run = graph.add(vertex(Op::Exec(Box::new(exec)), inputs, None, ""));
        graph.target = Some(edge(run, 1));
        assert_eq!(decode(&encode(&graph, None)).expect("a definition"), graph);
    }
}

#[test]
fn ops_may_come_in_any_order() {
    let mut message = to_message(&everything(), Some(DOCKERFILE));
    let target = message.def.pop().expect("a target");
    message.def.reverse();
    message.def.push(target);
    let back = from_message(&message).expect("a definition");
    let names = |graph: &Definition| {
        let mut names: Vec<String> = graph.vertices().iter().map(|v| format!("{:?}", v.op)).collect();
        names.sort();
        names
    };
    assert_eq!(names(&back), names(&everything()));
    assert_eq!(back.vertices().last().map(|vertex| &vertex.op), Some(&Op::Diff));
}

/// The definition with one op that is changed and rebuilt: those that use it too.
fn changed(change: impl Fn(&mut messages::Op)) -> Result<Definition, PbError> {
    let message = to_message(&everything(), None);
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    let mut def = Vec::new();
    for bytes in &message.def {
        let mut op = messages::Op::decode(bytes.as_slice()).expect("an op");
        for input in &mut op.inputs {
            input.digest = renamed.get(&input.digest).unwrap_or(&input.digest).clone();
        }
        change(&mut op);
        let new = op.encode_to_vec();
        renamed.insert(Digest::of(bytes).to_string(), Digest::of(&new).to_string());
        def.push(new);
    }
    from_message(&messages::Definition { def, ..messages::Definition::default() })
}

#[track_caller]
fn refused(change: impl Fn(&mut messages::Op), expect: &str) {
    assert_eq!(changed(change).expect_err(expect).to_string(), expect);
}

fn on_exec(change: impl Fn(&mut messages::ExecOp)) -> impl Fn(&mut messages::Op) {
    move |op| {
        if let Some(messages::OpKind::Exec(exec)) = &mut op.op {
            change(exec);
        }
    }
}

fn on_actions(change: impl Fn(&mut [messages::FileAction])) -> impl Fn(&mut messages::Op) {
    move |op| {
        if let Some(messages::OpKind::File(file)) = &mut op.op {
            change(&mut file.actions);
        }
    }
}

#[test]
fn unsound_processes_are_refused() {
    changed(|_| ()).expect("nothing changed");
    refused(on_exec(|exec| exec.meta = None), "op 2 lacks ExecOp.meta");
    refused(on_exec(|exec| exec.mounts[0].dest = text("/x")), "op 2 lacks a mount at /");
    refused(on_exec(|exec| exec.network = 3), "op 2: ExecOp.network has the unknown value 3");
    refused(on_exec(|exec| exec.security = -1), "op 2: ExecOp.security has the unknown value -1");
    let mount =
        |at: usize, change: fn(&mut messages::Mount)| on_exec(move |exec| change(&mut exec.mounts[at]));
    refused(mount(0, |mount| mount.input = 2), "op 2: Mount.input is 2, and there is nothing by that number");
    refused(
        mount(0, |mount| mount.input = -2),
        "op 2: Mount.input is -2, and there is nothing by that number",
    );
    refused(
        mount(0, |mount| mount.output = i64::MAX),
        "op 2: Mount.output is 9223372036854775807, and there is nothing by that number",
    );
    refused(mount(2, |mount| mount.output = 0), "op 2 has the output 0 twice");
    refused(mount(1, |mount| mount.mount_type = 5), "op 2: Mount.mountType has the unknown value 5");
    refused(mount(1, |mount| mount.content_cache = 3), "op 2: Mount.contentCache has the unknown value 3");
    refused(
        mount(1, |mount| mount.result_id = text("x")),
        "op 2 is not supported: a mount of an earlier result",
    );
    refused(mount(3, |mount| mount.cache_opt = None), "op 2 lacks Mount.cacheOpt");
    refused(
        mount(3, |mount| mount.cache_opt.as_mut().expect("a cache").sharing = 9),
        "op 2: CacheOpt.sharing has the unknown value 9",
    );
    refused(
        mount(6, |mount| mount.tmpfs_opt = Some(messages::TmpfsOpt { size: -1 })),
        "op 2: TmpfsOpt.size can't be -1",
    );
    refused(mount(7, |mount| mount.secret_opt = None), "op 2 lacks Mount.secretOpt");
    refused(mount(8, |mount| mount.ssh_opt = None), "op 2 lacks Mount.SSHOpt");
    // What has no output or is not looked at may say what it likes.
    changed(mount(7, |mount| mount.output = 77)).expect("a secret's output");
    changed(mount(1, |mount| mount.content_cache = 2)).expect("a content cache");
}

#[test]
fn unsound_work_on_files_is_refused() {
    let nothing = |field: &str, value: i64| {
        format!("op 3: FileAction.{field} is {value}, and there is nothing by that number")
    };
    refused(on_actions(|actions| actions[0].input = 2), &nothing("input", 2));
    refused(on_actions(|actions| actions[0].secondary_input = -2), &nothing("secondaryInput", -2));
    refused(on_actions(|actions| actions[5].output = 6), &nothing("output", 6));
    refused(on_actions(|actions| actions[5].output = 1), "op 3 has the output 1 twice");
    refused(on_actions(|actions| actions[2].action = None), "op 3 lacks FileAction.action");
    let at = |at: usize, change: fn(&mut messages::Action)| {
        on_actions(move |actions| change(actions[at].action.as_mut().expect("an action")))
    };
    let named = |at: usize, input: i64| {
        on_actions(move |actions| {
            let Some(messages::Action::Mkfile(file)) = &mut actions[at].action else { return };
            let user = messages::User::ByName(messages::NamedUserOpt { name: text("x"), input });
            let user = Some(messages::UserOpt { user: Some(user) });
            file.owner = Some(messages::ChownOpt { user, group: None });
        })
    };
    let mode = |action: &mut messages::Action| match action {
        messages::Action::Copy(copy) => copy.mode = -2,
        messages::Action::Mkfile(file) => file.mode = -1,
        messages::Action::Mkdir(folder) => folder.mode = i32::MIN,
        _ => {}
    };
    refused(at(0, mode), "op 3: FileActionCopy.mode can't be -2");
    refused(at(2, mode), "op 3: FileActionMkFile.mode can't be -1");
    refused(at(3, mode), "op 3: FileActionMkDir.mode can't be -2147483648");
    refused(named(2, 1), "op 3 is not supported: an owner by a name of another input");
    changed(named(2, 0)).expect("the input that the actions before go back to");
    changed(named(2, 3)).expect("what the action before made");
    let nobody = |action: &mut messages::Action| {
        if let messages::Action::Mkdir(folder) = action {
            let user = Some(messages::UserOpt { user: None });
            folder.owner = Some(messages::ChownOpt { user, group: None });
        }
    };
    refused(at(3, nobody), "op 3 lacks UserOpt.user");
}

#[test]
fn what_kiln_cannot_do_is_refused() {
    let filter = |op: &mut messages::Op| {
        if op.op.is_some() {
            op.constraints = Some(messages::WorkerConstraints { filter: texts(&["x"]) });
        }
    };
    refused(filter, "op 0 is not supported: constraints on who runs it");
    let kind = |at: &'static str, kind: messages::OpKind| {
        move |op: &mut messages::Op| {
            let is_it = match &op.op {
                Some(messages::OpKind::Merge(_)) => at == "merge",
                Some(messages::OpKind::Diff(_)) => at == "diff",
                _ => false,
            };
            if is_it {
                op.op = Some(kind.clone());
            }
        }
    };
    let build = messages::OpKind::Build(messages::BuildOp::default());
    refused(kind("diff", build), "op 5 is not supported: a BuildOp, a build in a build");
    let pass = messages::OpKind::Passthrough(vec![1]);
    refused(kind("diff", pass), "op 5 is not supported: a PassthroughOp");
    let merge =
        |input| messages::OpKind::Merge(messages::MergeOp { inputs: vec![messages::MergeInput { input }] });
    refused(kind("merge", merge(2)), "op 4: MergeInput.input is 2, and there is nothing by that number");
    refused(
        kind("merge", messages::OpKind::Merge(messages::MergeOp::default())),
        "op 4 lacks MergeOp.inputs",
    );
    let diff = |lower, upper| {
        let lower = Some(messages::LowerDiffInput { input: lower });
        let upper = Some(messages::UpperDiffInput { input: upper });
        messages::OpKind::Diff(messages::DiffOp { lower, upper })
    };
    refused(kind("diff", diff(0, -1)), "op 5 is not supported: a DiffOp of an empty file system");
    refused(
        kind("diff", diff(-3, 0)),
        "op 5: LowerDiffInput.input is -3, and there is nothing by that number",
    );
    let swapped = changed(kind("diff", diff(1, 0))).expect("its inputs the other way round");
    assert_eq!(swapped.vertices()[5].inputs, [edge(VertexId(4), 0), edge(VertexId(0), 0)]);
    let source = messages::OpKind::Source(messages::SourceOp::default());
    refused(kind("merge", source), "op 4 lacks SourceOp.identifier");
}

#[test]
fn graphs_that_do_not_hang_together_are_refused() {
    let message = to_message(&everything(), None);
    let refused = |change: &dyn Fn(&mut messages::Definition), expect: &str| {
        let mut message = message.clone();
        change(&mut message);
        let shown = from_message(&message).expect_err(expect).to_string();
        assert!(shown.contains(expect), "{shown}");
    };
    refused(&|m| drop(m.def.pop()), "the last op must have no kind");
    refused(&|m| m.def.insert(1, m.def[0].clone()), "op 1 is there a second time");
    refused(&|m| drop(m.def.remove(0)), "which is not in the definition");
    refused(&|m| m.def[5] = vec![0xff], "op 5 is no protobuf of an op");
    refused(&|m| m.def.insert(0, Vec::new()), "op 0 has no kind");
    let target = |index| {
        let digest = Digest::of(&message.def[5]).to_string();
        messages::Op { inputs: vec![messages::Input { digest, index }], ..messages::Op::default() }
    };
    for index in [1, -1, i64::MAX] {
        let last = target(index).encode_to_vec();
        refused(&|m| m.def[6].clone_from(&last), &format!("op 6: Input.index is {index}"));
    }
    let twice = messages::Op { inputs: vec![messages::Input::default(); 2], ..messages::Op::default() };
    refused(&|m| m.def[6] = twice.encode_to_vec(), "the last op must have no kind and one input");
    let run = Digest::of(&message.def[2]).to_string();
    refused(
        &|m| {
            let said = m.metadata.get_mut(&run).expect("metadata");
            said.description.insert(text("kiln.proxy"), text("{"));
        },
        "op 2: the description kiln.proxy is not as kiln writes it",
    );
    let image = Digest::of(&message.def[0]).to_string();
    refused(
        &|m| {
            let places = &mut m.source.as_mut().expect("places").locations;
            let range = &mut places.get_mut(&image).expect("its places").locations[0].ranges[0];
            range.start = Some(messages::Position { line: -1, character: 0 });
        },
        "op 0: Position.line can't be -1",
    );
}

#[test]
fn more_than_can_be_meant_is_refused_before_it_is_made() {
    // Two bytes each, and hundreds in memory.
    let mounts = [0x12_u8, 0].repeat(1 << 20);
    let op = [[0x12_u8].as_slice(), &varint(mounts.len()), &mounts].concat();
    let bytes = messages::Definition { def: vec![op], ..messages::Definition::default() }.encode_to_vec();
    assert!(matches!(decode(&bytes), Err(PbError::TooManyFields { .. })));
    // An empty group before them, which prost reads over.
    let grouped = [[0xa3_u8, 6, 0xa4, 6].as_slice(), &[0x0a_u8, 0].repeat(1 << 20)].concat();
    assert!(matches!(decode(&grouped), Err(PbError::TooManyFields { .. })));
    let infos = [0x12_u8, 0].repeat(1 << 20);
    let mut nested = [[0x1a_u8].as_slice(), &varint(infos.len()), &infos].concat();
    assert!(matches!(decode(&nested), Err(PbError::TooManyFields { .. })));
    for _ in 0..200 {
        let info = [[0x1a_u8].as_slice(), &varint(nested.len()), &nested].concat();
        let source = [[0x12_u8].as_slice(), &varint(info.len()), &info].concat();
        nested = [[0x1a_u8].as_slice(), &varint(source.len()), &source].concat();
    }
    assert!(matches!(decode(&nested), Err(PbError::Malformed(_) | PbError::TooManyFields { .. })));
    assert!(matches!(decode(&vec![0; DEFINITION_BYTES_MAX + 1]), Err(PbError::TooLarge { .. })));
    // A long text is one field, whatever its letters are.
    let text = " ".repeat(3 << 20);
    let file = SourceFile { name: "Dockerfile", text: &text };
    decode(&encode(&everything(), Some(file))).expect("a long Dockerfile");
}

fn varint(number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encode_length_delimiter(number, &mut out).expect("a buffer that grows");
    out
}

#[test]
fn a_dump_is_the_json_of_buildctl() {
    let dumped = dump(EVERYTHING).expect("a definition");
    let json = serde_json::to_value(&dumped).expect("JSON");
    assert_eq!(json[1]["Op"]["Op"]["source"]["attrs"]["local.unique"], "x");
    assert_eq!(json[1]["Digest"], dumped[1].digest.to_string());
    let run = &json[2]["Op"];
    assert_eq!(run["inputs"][0], serde_json::json!({ "digest": json[0]["Digest"] }));
    assert_eq!(run["platform"]["OSVersion"], "6.12");
    assert_eq!(run["constraints"], serde_json::json!({}));
    assert_eq!(run["Op"]["exec"]["network"], 2);
    assert_eq!(run["Op"]["exec"]["mounts"][1]["output"], -1);
    assert_eq!(run["Op"]["exec"]["mounts"][8]["SSHOpt"]["gid"], 4);
    assert!(run["Op"]["exec"]["mounts"][0].get("input").is_none(), "zeros are left out");
    let file = &json[3]["Op"]["Op"]["file"]["actions"];
    assert_eq!(file[0]["Action"]["copy"]["owner"]["user"]["User"]["byName"]["name"], "web");
    assert_eq!(file[3]["Action"]["mkdir"]["owner"]["group"]["User"]["byId"], 7);
    assert_eq!((&file[3]["input"], &file[3]["secondaryInput"]), (&(-1).into(), &(-1).into()));
    assert_eq!(file[2]["Action"]["mkfile"]["data"], "AP8K");
    assert_eq!(json[0]["OpMetadata"]["ignore_cache"], true);
    assert_eq!(json[0]["OpMetadata"]["description"]["llb.customname"], "[1/3] FROM busybox");
    assert_eq!(json[6]["Op"]["Op"], serde_json::json!({}));
}
