//! The mutation test of keys: every attribute of every op is flipped alone. One that is an input must give
//! another key, and no two of them the same; one that is none must leave the key. A new field, op or kind does
//! not compile until it has rows of its own.

use super::*;
use crate::definition::{NetworkMode, SecurityMode};
use crate::env::Env;
use std::collections::{BTreeMap, HashMap};

/// All that a key is made of.
#[derive(Clone)]
struct Step {
    op: Op,
    platform: Option<Platform>,
    inputs: Vec<InputKey>,
}

impl Step {
    fn key(&self) -> CacheKey {
        StepInputs { op: &self.op, platform: self.platform.as_ref(), inputs: &self.inputs }.key()
    }
}

/// What came of the flips.
#[derive(Default)]
struct Table {
    /// What gave a key.
    seen: HashMap<CacheKey, String>,
    inputs: usize,
    missed: Vec<String>,
    others: usize,
    false_misses: Vec<String>,
}

impl Table {
    /// Flips something that is an input.
    fn counts(&mut self, name: &str, plain: &Step, flip: impl FnOnce(&mut Step)) {
        let mut step = plain.clone();
        flip(&mut step);
        let (before, after) = (plain.key(), step.key());
        self.inputs += 1;
        self.seen.entry(before).or_insert_with(|| "the step as it was".to_owned());
        let name = format!("{name} (row {})", self.inputs);
        if let Some(other) = self.seen.insert(after, name.clone()) {
            self.missed.push(format!("{name} has the key of {other}"));
        }
    }

    /// Flips something that is none.
    fn ignores(&mut self, name: &str, plain: &Step, flip: impl FnOnce(&mut Step)) {
        let mut step = plain.clone();
        flip(&mut step);
        self.others += 1;
        if step.key() != plain.key() {
            self.false_misses.push(name.to_owned());
        }
    }

    #[track_caller]
    #[expect(clippy::print_stdout, reason = "the table is what the test is for")]
    fn finish(self) {
        let Table { inputs, missed, others, false_misses, .. } = self;
        println!(
            "inputs flipped {inputs}, missed {}; non-inputs flipped {others}, false misses: {false_misses:?}",
            missed.len()
        );
        assert!(inputs + others > 0);
        assert!(missed.is_empty() && false_misses.is_empty(), "{missed:#?} {false_misses:#?}");
    }
}

fn apply<T>(value: &mut T, flip: fn(&mut T)) {
    flip(value);
}

/// Rows for each field of a structure, or of a variant: what flips it to another input, and what is no
/// input. A field that is left out does not compile.
macro_rules! fields {
    ($table:ident, $plain:expr, $reach:expr, $enum:ident :: $variant:ident {
        $($field:ident: counts [$($in:expr),* $(,)?] ignores [$($out:expr),* $(,)?]),* $(,)?
    }) => {{
        let _whole = |value: $enum| if let $enum::$variant { $($field: _),* } = value {};
        let reach: fn(&mut Step) -> &mut $enum = $reach;
        let plain: &Step = $plain;
        $(
            let name = concat!(stringify!($variant), ".", stringify!($field));
            $($table.counts(name, plain, |step| match reach(step) {
                $enum::$variant { $field, .. } => apply($field, $in),
                _ => unreachable!(),
            });)*
            $($table.ignores(name, plain, |step| match reach(step) {
                $enum::$variant { $field, .. } => apply($field, $out),
                _ => unreachable!(),
            });)*
            let _ = name;
        )*
    }};
    ($table:ident, $plain:expr, $reach:expr, $type:ident {
        $($field:ident: counts [$($in:expr),* $(,)?] ignores [$($out:expr),* $(,)?]),* $(,)?
    }) => {{
        let _whole = |value: $type| { let $type { $($field: _),* } = value; };
        let reach: fn(&mut Step) -> &mut $type = $reach;
        let plain: &Step = $plain;
        $(
            let name = concat!(stringify!($type), ".", stringify!($field));
            $($table.counts(name, plain, |step| apply(&mut reach(step).$field, $in));)*
            $($table.ignores(name, plain, |step| apply(&mut reach(step).$field, $out));)*
            let _ = name;
        )*
    }};
}

/// What there are rows for: a new kind does not compile until somebody has looked here.
fn covered(op: &Op) -> &'static str {
    let mount = |kind: &MountKind| match kind {
        MountKind::Bind
        | MountKind::Cache { .. }
        | MountKind::Tmpfs { .. }
        | MountKind::Secret(_)
        | MountKind::Ssh(_) => {}
    };
    let action = |kind: &FileActionKind| match kind {
        FileActionKind::Copy(_)
        | FileActionKind::Mkfile { .. }
        | FileActionKind::Mkdir { .. }
        | FileActionKind::Rm { .. }
        | FileActionKind::Symlink { .. } => {}
    };
    match op {
        Op::Source(_) => "source",
        Op::Exec(exec) => {
            exec.mounts.iter().for_each(|m| mount(&m.kind));
            "exec"
        }
        Op::File(file) => {
            file.actions.iter().for_each(|a| action(&a.kind));
            "file"
        }
        Op::Merge => "merge",
        Op::Diff => "diff",
    }
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn chain(name: &str) -> InputKey {
    InputKey::Chain(CacheKey(Digest::of(name.as_bytes())), 0)
}

fn selection(name: &str) -> InputKey {
    InputKey::Selection(Digest::of(name.as_bytes()))
}

fn mount(dest: &str, kind: MountKind) -> Mount {
    Mount { input: None, selector: String::new(), dest: text(dest), output: None, readonly: false, kind }
}

/// A process with something of everything. Its first input is known by how it is made, its second by what
/// is read of it.
fn exec() -> Step {
    let cache = |id: &str, sharing| MountKind::Cache { id: text(id), sharing };
    let access = SecretMount { id: text("token"), uid: 1, gid: 2, mode: 0o400, optional: false };
    let agent = SshMount { id: text("default"), uid: 1, gid: 2, mode: 0o600, optional: false };
    let root = mount("/", MountKind::Bind);
    let bound = mount("/src", MountKind::Bind);
    let exec = ExecOp {
        meta: ExecMeta {
            args: ["sh", "-c", "make"].map(text).to_vec(),
            env: ["A=1", "B=2"].into_iter().collect(),
            cwd: text("/work"),
            user: text("me"),
            proxy_env: vec![(text("HTTP_PROXY"), text("http://a"))],
            extra_hosts: vec![(text("db"), text("10.0.0.1"))],
            hostname: text("host"),
            ulimits: vec![(text("nofile"), 1024, 2048)],
            cgroup_parent: text("/a"),
            valid_exit_codes: vec![0, 3],
        },
        mounts: vec![
            Mount { input: Some(0), selector: text("/a"), output: Some(0), ..root },
            Mount { input: Some(1), selector: text("/a"), readonly: true, ..bound },
            mount("/own", cache("//own", CacheSharing::Shared)),
            mount("/cache", cache("apt", CacheSharing::Locked)),
            mount("/tmp", MountKind::Tmpfs { size_bytes: 1 << 20 }),
            mount("/run/secrets/token", MountKind::Secret(access)),
            mount("/run/agent", MountKind::Ssh(agent)),
        ],
        network: NetworkMode::Unset,
        security: SecurityMode::Sandbox,
        secret_env: vec![SecretEnv { id: text("id"), name: text("NAME"), optional: false }],
        devices: vec![CdiDevice { name: text("vendor.com/class=one"), optional: false }],
    };
    let platform = Some(Platform::new("linux", "amd64", None));
    Step { op: Op::Exec(Box::new(exec)), platform, inputs: vec![chain("base"), selection("sources")] }
}

fn of_exec(step: &mut Step) -> &mut ExecOp {
    match &mut step.op {
        Op::Exec(exec) => exec,
        other => unreachable!("{}", covered(other)),
    }
}

fn action(kind: FileActionKind) -> FileAction {
    FileAction { input: FileInput::Input(0), secondary_input: None, output: Some(0), kind }
}

fn owner() -> Option<Chown> {
    Some(Chown { user: Some(Principal::Id(1)), group: Some(Principal::Name(text("staff"))) })
}

/// A copy, and one action of each other kind.
fn file() -> Step {
    let copy = CopyAction {
        src: text("/a*"),
        dest: text("/b/"),
        owner: owner(),
        mode: Some(text("644")),
        include_patterns: vec![text("*.c")],
        exclude_patterns: vec![text("*.o")],
        required_paths: vec![text("/a/x")],
        timestamp_ns: Some(1),
        ..CopyAction::default()
    };
    let copy = FileAction {
        secondary_input: Some(FileInput::Input(1)),
        output: None,
        ..action(FileActionKind::Copy(Box::new(copy)))
    };
    let (path, mode, timestamp_ns) = (text("/p"), 0o755, Some(1));
    let actions = vec![
        copy,
        action(FileActionKind::Mkfile {
            path: path.clone(),
            mode,
            data: vec![1, 2],
            owner: owner(),
            timestamp_ns,
        }),
        action(FileActionKind::Mkdir {
            path: path.clone(),
            mode,
            make_parents: true,
            owner: owner(),
            timestamp_ns,
        }),
        action(FileActionKind::Rm { path: path.clone(), allow_not_found: true, allow_wildcard: true }),
        action(FileActionKind::Symlink { target: text("/t"), path, owner: owner(), timestamp_ns }),
    ];
    let platform = Some(Platform::new("linux", "amd64", None));
    Step { op: Op::File(FileOp { actions }), platform, inputs: vec![chain("base"), chain("stage")] }
}

fn of_file(step: &mut Step) -> &mut FileOp {
    match &mut step.op {
        Op::File(file) => file,
        other => unreachable!("{}", covered(other)),
    }
}

fn of_copy(step: &mut Step) -> &mut CopyAction {
    match &mut of_file(step).actions[0].kind {
        FileActionKind::Copy(copy) => copy,
        _ => unreachable!("the first action is a copy"),
    }
}

#[test]
fn each_attribute_of_a_run_counts_as_the_table_says() {
    let (mut table, plain) = (Table::default(), exec());
    let plain = &plain;
    fields!(table, plain, of_exec, ExecOp {
        // Their fields have rows of their own below.
        meta: counts [] ignores [],
        mounts: counts [
            |m| drop(m.pop()),
            |m| m.swap(2, 3),
            |m| m.push(mount("/more", MountKind::Bind)),
        ] ignores [],
        network: counts [|n| *n = NetworkMode::Host, |n| *n = NetworkMode::None] ignores [],
        security: counts [|s| *s = SecurityMode::Insecure] ignores [],
        secret_env: counts [Vec::clear] ignores [],
        devices: counts [Vec::clear] ignores [],
    });
    fields!(table, plain, |step| &mut of_exec(step).meta, ExecMeta {
        args: counts [
            |a| a[2].push('x'),
            |a| *a = ["sh", "-cmake"].map(text).to_vec(),
            |a| a.push(String::new()),
        ] ignores [],
        env: counts [
            |e| e.set("A", "2"),
            |e| e.set("C", "3"),
            |e| *e = ["A=1B=2"].into_iter().collect(),
            |e| *e = Env::new(),
        ] ignores [|e| *e = ["A=9", "A=1", "B=2"].into_iter().collect()],
        cwd: counts [|c| c.push('x')] ignores [],
        user: counts [|u| u.push('x'), String::clear] ignores [],
        proxy_env: counts [] ignores [Vec::clear, |p| p[0].1.push('x'), |p| p[0].0.push('x')],
        extra_hosts: counts [|h| h[0].0.push('x'), Vec::clear] ignores [|h| h[0].1.push('2')],
        hostname: counts [|h| h.push('x')] ignores [],
        ulimits: counts [
            |u| u[0].0.push('x'),
            |u| u[0].1 += 1,
            |u| u[0].2 += 1,
            Vec::clear,
        ] ignores [],
        cgroup_parent: counts [] ignores [|c| c.push('x')],
        valid_exit_codes: counts [|c| c[1] = 4, Vec::clear] ignores [],
    });
    fields!(table, plain, |step| &mut of_exec(step).secret_env[0], SecretEnv {
        id: counts [|i| i.push('x')] ignores [],
        name: counts [|n| n.push('x')] ignores [],
        optional: counts [|o| *o = true] ignores [],
    });
    fields!(table, plain, |step| &mut of_exec(step).devices[0], CdiDevice {
        name: counts [|n| n.push('x')] ignores [],
        optional: counts [|o| *o = true] ignores [],
    });
    fields!(table, plain, |step| step.platform.as_mut().expect("it has one"), Platform {
        architecture: counts [|a| *a = text("arm64")] ignores [],
        os: counts [|o| *o = text("freebsd")] ignores [],
        os_version: counts [|v| *v = Some(text("10.0"))] ignores [],
        os_features: counts [|f| f.push(text("seccomp"))] ignores [],
        variant: counts [|v| *v = Some(text("v2"))] ignores [],
    });
    table.counts("no platform", plain, |step| step.platform = None);
    table.finish();
}

#[test]
fn each_attribute_of_a_mount_counts_as_the_table_says() {
    let (mut table, plain) = (Table::default(), exec());
    let plain = &plain;
    fields!(table, plain, |step| &mut of_exec(step).mounts[0], Mount {
        input: counts [|i| *i = Some(1), |i| *i = None] ignores [],
        selector: counts [|s| s.push('x')] ignores [],
        dest: counts [|d| d.push('x')] ignores [],
        output: counts [|o| *o = Some(1), |o| *o = None] ignores [],
        readonly: counts [|r| *r = true] ignores [],
        kind: counts [|k| *k = MountKind::Tmpfs { size_bytes: 0 }] ignores [],
    });
    fields!(table, plain, |step| &mut of_exec(step).mounts[1], Mount {
        input: counts [|i| *i = Some(0), |i| *i = None] ignores [],
        // What is selected stands for where it is.
        selector: counts [] ignores [|s| s.push('x')],
        dest: counts [|d| d.push('x')] ignores [],
        output: counts [|o| *o = Some(1)] ignores [],
        readonly: counts [|r| *r = false] ignores [],
        kind: counts [|k| *k = MountKind::Tmpfs { size_bytes: 0 }] ignores [],
    });
    fields!(table, plain, |step| &mut of_exec(step).mounts[2].kind, MountKind::Cache {
        // The cache of its own path, shared by all, is another one when it is called otherwise.
        id: counts [|i| *i = text("other//own")] ignores [],
        sharing: counts [|s| *s = CacheSharing::Private] ignores [],
    });
    fields!(table, plain, |step| &mut of_exec(step).mounts[3].kind, MountKind::Cache {
        id: counts [] ignores [|i| i.push('x')],
        sharing: counts [] ignores [|s| *s = CacheSharing::Shared, |s| *s = CacheSharing::Private],
    });
    fields!(table, plain, |step| &mut of_exec(step).mounts[4].kind, MountKind::Tmpfs {
        size_bytes: counts [|s| *s += 1] ignores [],
    });
    let secret: fn(&mut Step) -> &mut SecretMount = |step| match &mut of_exec(step).mounts[5].kind {
        MountKind::Secret(secret) => secret,
        _ => unreachable!(),
    };
    fields!(table, plain, secret, SecretMount {
        id: counts [|i| i.push('x')] ignores [],
        uid: counts [|u| *u += 1] ignores [],
        gid: counts [|g| *g += 1] ignores [],
        mode: counts [|m| *m = 0o444] ignores [],
        optional: counts [|o| *o = true] ignores [],
    });
    let agent: fn(&mut Step) -> &mut SshMount = |step| match &mut of_exec(step).mounts[6].kind {
        MountKind::Ssh(agent) => agent,
        _ => unreachable!(),
    };
    fields!(table, plain, agent, SshMount {
        id: counts [|i| i.push('x')] ignores [],
        uid: counts [|u| *u += 1] ignores [],
        gid: counts [|g| *g += 1] ignores [],
        mode: counts [|m| *m = 0o666] ignores [],
        optional: counts [|o| *o = true] ignores [],
    });
    for at in 2..7 {
        let name = format!("place of mount {at}");
        table.counts(&name, plain, |step| of_exec(step).mounts[at].dest.push('x'));
        table.counts(&name, plain, |step| of_exec(step).mounts[at].readonly = true);
    }
    table.finish();
}

#[test]
fn each_attribute_of_an_action_on_files_counts_as_the_table_says() {
    let (mut table, plain) = (Table::default(), file());
    let plain = &plain;
    fields!(table, plain, of_file, FileOp {
        actions: counts [|a| a.swap(1, 2), |a| drop(a.pop())] ignores [],
    });
    fields!(table, plain, |step| &mut of_file(step).actions[0], FileAction {
        input: counts [
            |i| *i = FileInput::Scratch,
            |i| *i = FileInput::Input(1),
            |i| *i = FileInput::Action(0),
        ] ignores [],
        secondary_input: counts [
            |i| *i = None,
            |i| *i = Some(FileInput::Input(0)),
            |i| *i = Some(FileInput::Scratch),
        ] ignores [],
        output: counts [|o| *o = Some(0), |o| *o = Some(1)] ignores [],
        kind: counts [
            |k| *k = FileActionKind::Rm { path: text("/a"), allow_not_found: true, allow_wildcard: true },
        ] ignores [],
    });
    fields!(table, plain, |step| &mut of_file(step).actions[1].kind, FileActionKind::Mkfile {
        path: counts [|p| p.push('x')] ignores [],
        mode: counts [|m| *m = 0o600] ignores [],
        data: counts [|d| d.push(3), |d| d.clear()] ignores [],
        owner: counts [|o| *o = None] ignores [],
        timestamp_ns: counts [|t| *t = Some(2), |t| *t = None] ignores [],
    });
    fields!(table, plain, |step| &mut of_file(step).actions[2].kind, FileActionKind::Mkdir {
        path: counts [|p| p.push('x')] ignores [],
        mode: counts [|m| *m = 0o700] ignores [],
        make_parents: counts [|p| *p = false] ignores [],
        owner: counts [|o| *o = None] ignores [],
        timestamp_ns: counts [|t| *t = Some(2), |t| *t = None] ignores [],
    });
    fields!(table, plain, |step| &mut of_file(step).actions[3].kind, FileActionKind::Rm {
        path: counts [|p| p.push('x')] ignores [],
        allow_not_found: counts [|a| *a = false] ignores [],
        allow_wildcard: counts [|a| *a = false] ignores [],
    });
    fields!(table, plain, |step| &mut of_file(step).actions[4].kind, FileActionKind::Symlink {
        target: counts [|t| t.push('x')] ignores [],
        path: counts [|p| p.push('x')] ignores [],
        owner: counts [|o| *o = None] ignores [],
        timestamp_ns: counts [|t| *t = Some(2), |t| *t = None] ignores [],
    });
    table.finish();
}

#[test]
fn each_attribute_of_a_copy_counts_as_the_table_says() {
    let (mut table, plain) = (Table::default(), file());
    let mut selected = plain.clone();
    selected.inputs[1] = selection("files");
    fields!(table, &plain, of_copy, CopyAction {
        src: counts [|s| s.push('x')] ignores [],
        dest: counts [|d| d.push('x')] ignores [],
        owner: counts [|o| *o = None] ignores [],
        mode: counts [|m| *m = Some(text("600")), |m| *m = None] ignores [],
        follow_symlink: counts [|f| *f = true] ignores [],
        dir_copy_contents: counts [|f| *f = true] ignores [],
        attempt_unpack: counts [|f| *f = true] ignores [],
        create_dest_path: counts [|f| *f = true] ignores [],
        allow_wildcard: counts [|f| *f = true] ignores [],
        allow_empty_wildcard: counts [|f| *f = true] ignores [],
        timestamp_ns: counts [|t| *t = Some(2), |t| *t = None] ignores [],
        include_patterns: counts [|p| p.push(text("x")), |p| p[0].push('x'), Vec::clear] ignores [],
        exclude_patterns: counts [|p| p.push(text("x")), |p| p[0].push('x'), Vec::clear] ignores [],
        always_replace_existing_dest_paths: counts [|f| *f = true] ignores [],
        required_paths: counts [|p| p.push(text("x")), |p| p[0].push('x'), Vec::clear] ignores [],
    });
    fields!(table, &plain, |step| of_copy(step).owner.as_mut().expect("it has one"), Chown {
        user: counts [
            |u| *u = None,
            |u| *u = Some(Principal::Id(2)),
            |u| *u = Some(Principal::Name(text("1"))),
        ] ignores [],
        group: counts [|g| *g = None, |g| *g = Some(Principal::Name(text("x")))] ignores [],
    });
    // What is selected of the source has been through the patterns, and stands for where it is.
    fields!(table, &selected, of_copy, CopyAction {
        src: counts [] ignores [|s| s.push('x')],
        dest: counts [|d| d.push('x')] ignores [],
        owner: counts [|o| *o = None] ignores [],
        mode: counts [|m| *m = Some(text("600")), |m| *m = None] ignores [],
        follow_symlink: counts [|f| *f = true] ignores [],
        dir_copy_contents: counts [|f| *f = true] ignores [],
        attempt_unpack: counts [|f| *f = true] ignores [],
        create_dest_path: counts [|f| *f = true] ignores [],
        allow_wildcard: counts [|f| *f = true] ignores [],
        allow_empty_wildcard: counts [|f| *f = true] ignores [],
        timestamp_ns: counts [|t| *t = Some(2), |t| *t = None] ignores [],
        include_patterns: counts [] ignores [Vec::clear, |p| p.push(text("x"))],
        exclude_patterns: counts [] ignores [Vec::clear, |p| p.push(text("x"))],
        always_replace_existing_dest_paths: counts [|f| *f = true] ignores [],
        required_paths: counts [] ignores [Vec::clear, |p| p.push(text("x"))],
    });
    table.finish();
}

#[test]
fn each_attribute_of_a_source_counts() {
    let (mut table, identifier) = (Table::default(), text("https://a/b"));
    let attrs = BTreeMap::from([(text("http.checksum"), text("sha256:1"))]);
    let plain = Step { op: Op::Source(SourceOp { identifier, attrs }), platform: None, inputs: Vec::new() };
    let source: fn(&mut Step) -> &mut SourceOp = |step| match &mut step.op {
        Op::Source(source) => source,
        other => unreachable!("{}", covered(other)),
    };
    fields!(table, &plain, source, SourceOp {
        identifier: counts [|i| i.push('x')] ignores [],
        attrs: counts [
            BTreeMap::clear,
            |a| drop(a.insert(text("http.checksum"), text("sha256:2"))),
            |a| drop(a.insert(text("http.uid"), text("1"))),
        ] ignores [],
    });
    table.finish();
}

#[test]
fn each_form_of_each_input_counts() {
    let mut table = Table::default();
    let two = vec![chain("a"), chain("b")];
    let merge = Step { op: Op::Merge, platform: None, inputs: two };
    let diff = Step { op: Op::Diff, ..merge.clone() };
    for plain in [&merge, &diff, &exec(), &file()] {
        let name = covered(&plain.op);
        let other = Digest::of(b"other");
        table.counts(name, plain, |step| step.inputs.swap(0, 1));
        table.counts(name, plain, |step| step.inputs.truncate(1));
        table.counts(name, plain, |step| step.inputs.push(chain("c")));
        // The same digest is something else in another form.
        for form in [
            InputKey::Chain(CacheKey(other), 0),
            InputKey::Content(ContentId(other)),
            InputKey::Selection(other),
        ] {
            table.counts(name, plain, |step| step.inputs[0] = form);
        }
        table.counts(name, plain, |step| step.inputs[0] = InputKey::Chain(CacheKey(other), 1));
        table.counts(name, plain, |step| step.inputs[0] = InputKey::Content(ContentId(Digest::of(b"2"))));
        table.counts(name, plain, |step| step.inputs[0] = InputKey::Selection(Digest::of(b"2")));
    }
    table.finish();
}

#[test]
fn a_merge_and_an_action_on_files_are_the_same_on_every_platform() {
    let merge = Step { op: Op::Merge, platform: None, inputs: vec![chain("a")] };
    for plain in [merge, file()] {
        let mut table = Table::default();
        table.ignores("platform", &plain, |step| step.platform = Some(Platform::new("linux", "arm64", None)));
        table.finish();
    }
}

#[test]
fn the_fields_that_are_told_are_those_that_are_hashed() {
    let fields = |step: &Step| {
        let Step { op, platform, inputs } = step;
        StepInputs { op, platform: platform.as_ref(), inputs }.fields()
    };
    let (plain, mut other) = (exec(), exec());
    of_exec(&mut other).meta.cwd = text("/elsewhere");
    let differ: Vec<_> = fields(&plain).into_iter().zip(fields(&other)).filter(|(a, b)| a != b).collect();
    assert_eq!(differ, [((text("cwd"), text("/work")), (text("cwd"), text("/elsewhere")))]);
}
