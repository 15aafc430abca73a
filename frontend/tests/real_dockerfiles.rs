//! Lowers the Dockerfiles of `tests/dockerfiles`, which have the shapes that real projects use, and
//! compares what comes out with the text beside each: `NAME.Dockerfile`, `NAME.lowered`. With
//! `UPDATE_GOLDEN=1` the texts are written anew. It does not know how anything is run.
//!
//! A text has the vertices with their inputs, the config, the history, the warnings by rule and line,
//! and which vertices are for which platform if another one is asked for. The environment of a RUN is
//! shown by name, not in its order.

use kiln_frontend::{BuildOptions, ImageRequest, LowerError, Lowered, ResolvedImage, lower};
use kiln_oci::{DiffId, Digest, History, ImageConfig, Platform};
use kiln_solver::{
    Chown, CopyAction, Edge, ExecOp, FileAction, FileActionKind, FileInput, Mount, MountKind, NetworkMode,
    Op, Principal, SecurityMode, Vertex,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What most images have, and what is not shown again for each RUN.
const USUAL_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an image that bases are made of says of itself.
#[derive(Default)]
struct Base {
    env: &'static [&'static str],
    entrypoint: &'static [&'static str],
    cmd: &'static [&'static str],
    user: &'static str,
    dir: &'static str,
    signal: &'static str,
    ports: &'static [&'static str],
    volumes: &'static [&'static str],
    triggers: &'static [&'static str],
}

/// The images that are not like any other, by a part of their name; the first that fits counts.
const BASES: &[(&str, Base)] = &[
    (
        "node-onbuild",
        Base {
            env: &[USUAL_PATH, "NODE_ENV=production"],
            dir: "/app",
            triggers: &[
                "ARG NPM_FLAGS=--omit=dev",
                "COPY package.json package-lock.json ./",
                "RUN npm ci $NPM_FLAGS",
                "COPY --chown=node:node . .",
                "USER node",
            ],
            cmd: &["npm", "start"],
            ..NONE
        },
    ),
    (
        "site-onbuild",
        Base {
            env: &[USUAL_PATH],
            dir: "/site",
            triggers: &["COPY --from=docker.io/library/alpine:3.20 /etc/mime.types /etc/", "ADD . /site"],
            cmd: &["serve"],
            ..NONE
        },
    ),
    (
        "golang",
        Base {
            env: &[
                "PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "GOLANG_VERSION=1.24.4",
                "GOTOOLCHAIN=local",
                "GOPATH=/go",
            ],
            dir: "/go",
            cmd: &["bash"],
            ..NONE
        },
    ),
    (
        "library/node",
        Base {
            env: &[USUAL_PATH, "NODE_VERSION=22.16.0"],
            entrypoint: &["docker-entrypoint.sh"],
            cmd: &["node"],
            ..NONE
        },
    ),
    ("library/python", Base { env: &[USUAL_PATH, "LANG=C.UTF-8"], cmd: &["python3"], ..NONE }),
    (
        "nginx-unprivileged",
        Base {
            env: &[USUAL_PATH],
            entrypoint: &["/docker-entrypoint.sh"],
            cmd: &["nginx", "-g", "daemon off;"],
            user: "101",
            signal: "SIGQUIT",
            ports: &["8080/tcp"],
            ..NONE
        },
    ),
    (
        "library/nginx",
        Base {
            env: &[USUAL_PATH, "NGINX_VERSION=1.27.5"],
            entrypoint: &["/docker-entrypoint.sh"],
            cmd: &["nginx", "-g", "daemon off;"],
            signal: "SIGQUIT",
            ports: &["80/tcp"],
            ..NONE
        },
    ),
    (
        "library/postgres",
        Base {
            env: &[USUAL_PATH, "PGDATA=/var/lib/postgresql/data"],
            entrypoint: &["docker-entrypoint.sh"],
            cmd: &["postgres"],
            signal: "SIGINT",
            ports: &["5432/tcp"],
            volumes: &["/var/lib/postgresql/data"],
            ..NONE
        },
    ),
    (
        "library/php",
        Base {
            env: &[USUAL_PATH, "PHP_INI_DIR=/usr/local/etc/php"],
            entrypoint: &["docker-php-entrypoint"],
            cmd: &["php-fpm"],
            dir: "/var/www/html",
            signal: "SIGQUIT",
            ports: &["9000/tcp"],
            ..NONE
        },
    ),
    (
        "jenkins",
        Base {
            env: &[USUAL_PATH, "JENKINS_HOME=/var/jenkins_home"],
            entrypoint: &["/usr/bin/tini", "--", "/usr/local/bin/jenkins.sh"],
            user: "jenkins",
            ports: &["50000/tcp", "8080/tcp"],
            volumes: &["/var/jenkins_home"],
            ..NONE
        },
    ),
    (
        "denoland/deno",
        Base {
            env: &[USUAL_PATH, "DENO_VERSION=2.3.3"],
            entrypoint: &["/tini", "--", "docker-entrypoint.sh"],
            ..NONE
        },
    ),
    ("dotnet/aspnet", Base { env: &[USUAL_PATH, "APP_UID=1654"], ..NONE }),
    ("distroless", Base { env: &[USUAL_PATH], user: "65532", dir: "/home/nonroot", ..NONE }),
    ("eclipse-temurin", Base { env: &[USUAL_PATH, "JAVA_HOME=/opt/java/openjdk"], cmd: &["jshell"], ..NONE }),
    ("", Base { env: &[USUAL_PATH], cmd: &["/bin/sh"], ..NONE }),
];

const NONE: Base = Base {
    env: &[],
    entrypoint: &[],
    cmd: &[],
    user: "",
    dir: "",
    signal: "",
    ports: &[],
    volumes: &[],
    triggers: &[],
};

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The answer of a registry that has every image for every platform.
fn image(request: &ImageRequest) -> Result<ResolvedImage, String> {
    let reference = &request.reference;
    let base = BASES.iter().find(|(part, _)| reference.contains(part)).map_or(&NONE, |(_, base)| base);
    let architecture = &request.platform.architecture;
    let mut config = ImageConfig {
        os: request.platform.os.clone(),
        architecture: architecture.clone(),
        variant: (architecture == "arm64").then(|| "v8".to_owned()),
        ..ImageConfig::default()
    };
    let nothing = || serde_json::Value::Object(serde_json::Map::new());
    let words = |words: &[&str]| (!words.is_empty()).then(|| owned(words));
    let inner = &mut config.config;
    inner.env = owned(base.env);
    inner.entrypoint = words(base.entrypoint);
    inner.cmd = words(base.cmd);
    inner.user = base.user.to_owned();
    inner.working_dir = base.dir.to_owned();
    inner.stop_signal = base.signal.to_owned();
    inner.exposed_ports = base.ports.iter().map(|port| ((*port).to_owned(), nothing())).collect();
    inner.volumes = base.volumes.iter().map(|path| ((*path).to_owned(), nothing())).collect();
    inner.on_build = owned(base.triggers);
    config.rootfs.diff_ids = vec![DiffId(Digest::of(reference.as_bytes()))];
    config.history = vec![History { created_by: "base layer".to_owned(), ..History::default() }];
    let (_, pinned) = reference.split_once("@sha256:").unwrap_or_default();
    let own = Digest::of(format!("{reference} {}", request.platform).as_bytes());
    let digest = Digest::from_hex(pinned).unwrap_or(own);
    Ok(ResolvedImage { digest, config, reference: reference.clone() })
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/dockerfiles")
}

/// The Dockerfiles, by name.
fn dockerfiles() -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = files(".Dockerfile")
        .into_iter()
        .map(|name| {
            let path = folder().join(format!("{name}.Dockerfile"));
            (name, std::fs::read_to_string(path).expect("a Dockerfile"))
        })
        .collect();
    found.sort();
    found
}

/// The files of the folder with an ending, without it.
fn files(ending: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder()).expect("tests/dockerfiles").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_suffix(ending).map(str::to_owned)).collect()
}

fn options(target_architecture: &str) -> BuildOptions {
    BuildOptions {
        build_platform: Platform::new("linux", "amd64", None),
        allow_insecure: true,
        allow_host_network: true,
        multi_platform: target_architecture != "amd64",
        ..BuildOptions::new(Platform::new("linux", target_architecture, None))
    }
}

fn lowered(text: &str, options: &BuildOptions) -> Result<Lowered, LowerError> {
    lower(&kiln_grammar::parse(text), options, &mut |requests| requests.iter().map(image).collect())
}

#[test]
fn real_dockerfiles_lower_to_what_is_written_beside_them() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = String::new();
    for (name, text) in dockerfiles() {
        let lowered = match lowered(&text, &options("amd64")) {
            Ok(lowered) => lowered,
            Err(error) => {
                let line = line_of(&error);
                let _ = writeln!(wrong, "{name}.Dockerfile:{line}: {error}");
                continue;
            }
        };
        let shown = show(&lowered) + &elsewhere(&text);
        let path = folder().join(format!("{name}.lowered"));
        if update {
            std::fs::write(&path, shown).expect("a written golden");
            continue;
        }
        match std::fs::read_to_string(&path) {
            Ok(expected) if expected == shown => {}
            Ok(expected) => wrong.push_str(&difference(&name, &expected, &shown)),
            Err(_) => {
                let _ = writeln!(wrong, "{name}.lowered is not there");
            }
        }
    }
    for extra in files(".lowered").difference(&files(".Dockerfile")) {
        let _ = writeln!(wrong, "{extra}.lowered has no Dockerfile");
    }
    assert!(wrong.is_empty(), "\n{wrong}\nUPDATE_GOLDEN=1 writes the texts anew");
}

#[test]
fn there_are_more_than_forty_real_dockerfiles() {
    let count = dockerfiles().len();
    assert!(count >= 45, "{count}");
}

#[test]
fn real_dockerfiles_lower_for_another_platform_than_that_of_the_builder() {
    let mut wrong = String::new();
    for (name, text) in dockerfiles() {
        match lowered(&text, &options("arm64")) {
            Ok(lowered) if lowered.platform.architecture == "arm64" => {}
            Ok(lowered) => {
                let _ = writeln!(wrong, "{name}: made for {}", lowered.platform);
            }
            Err(error) => {
                let _ = writeln!(wrong, "{name}.Dockerfile:{}: {error}", line_of(&error));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn every_named_stage_of_a_real_dockerfile_can_be_a_target() {
    let mut wrong = String::new();
    let mut stages = 0;
    for (name, text) in dockerfiles() {
        for stage in kiln_grammar::parse(&text).dockerfile.stages.into_iter().filter_map(|stage| stage.name) {
            stages += 1;
            let options = BuildOptions { target: Some(stage.clone()), ..options("amd64") };
            match lowered(&text, &options) {
                Ok(lowered) if lowered.stage == stage || lowered.stage.is_empty() => {}
                Ok(lowered) => {
                    let _ = writeln!(wrong, "{name}: {stage} was asked for, {} lowered", lowered.stage);
                }
                Err(error) => {
                    let _ = writeln!(wrong, "{name} --target {stage}: {error}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(stages > 100, "{stages}");
}

fn line_of(error: &LowerError) -> u32 {
    match error {
        LowerError::Diagnostic(diagnostic) => diagnostic.line,
        LowerError::Image { line, .. } => *line,
        LowerError::Lint { warnings, .. } => warnings.first().map_or(0, |warning| warning.line),
    }
}

/// The lines that differ, with two lines around them.
fn difference(name: &str, expected: &str, shown: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), shown.lines().collect());
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - same;
    let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let mut out = format!("{name}.lowered:{}: - is written there, + is what comes out\n", same + 1);
    let mut line = |mark: char, text: &str| {
        let _ = writeln!(out, "    {mark} {text}");
    };
    old[same.saturating_sub(2)..same].iter().for_each(|text| line(' ', text));
    old[same..old.len() - tail].iter().for_each(|text| line('-', text));
    new[same..new.len() - tail].iter().for_each(|text| line('+', text));
    new[new.len() - tail..].iter().take(2).for_each(|text| line(' ', text));
    out
}

/// What a Dockerfile was lowered to, as text.
fn show(lowered: &Lowered) -> String {
    let mut out = String::new();
    let (definition, stage) = (&lowered.definition, &lowered.stage);
    let target = definition.target.map_or("scratch".to_owned(), edge);
    let stage = if stage.is_empty() { "(the only one)" } else { stage };
    let _ = writeln!(out, "{}, stage {stage}, target {target}\n", lowered.platform);
    for (number, vertex) in definition.vertices().iter().enumerate() {
        show_vertex(&mut out, number, vertex);
    }
    show_config(&mut out, &lowered.config);
    let _ = writeln!(out, "\nhistory ({} of the base)", lowered.base_history_len);
    for line in &lowered.config.history {
        let mark = if line.empty_layer { ' ' } else { '+' };
        let _ = writeln!(out, "  {mark} {}", indented(&line.created_by, "      | "));
    }
    let _ = writeln!(out, "\nwarnings");
    for warning in &lowered.warnings {
        let _ = writeln!(out, "  line {} {}", warning.line, warning.rule.unwrap_or("-"));
    }
    out
}

/// Which vertices are for which platform, where the target is another than the builder's.
fn elsewhere(text: &str) -> String {
    let mut out = "\nfor linux/arm64 on linux/amd64\n".to_owned();
    let Ok(lowered) = lowered(text, &options("arm64")) else { return out + "  error\n" };
    let mut by_platform: BTreeMap<String, String> = BTreeMap::new();
    for (number, vertex) in lowered.definition.vertices().iter().enumerate() {
        let platform = vertex.platform.as_ref().map_or("any".to_owned(), ToString::to_string);
        let _ = write!(by_platform.entry(platform).or_default(), " #{number}");
    }
    for (platform, numbers) in by_platform {
        let _ = writeln!(out, "  {platform}{numbers}");
    }
    out
}

/// A text whose second and further lines have something before them, and no blanks at their ends.
fn indented(text: &str, before: &str) -> String {
    let lines: Vec<&str> = text.split('\n').collect();
    let shown = |(at, line): (usize, &&str)| format!("{}{line}", if at == 0 { "" } else { before });
    let lines: Vec<String> = lines.iter().enumerate().map(|pair| shown(pair).trim_end().to_owned()).collect();
    lines.join("\n")
}

fn show_config(out: &mut String, config: &ImageConfig) {
    let _ = writeln!(out, "config {}/{}", config.os, config.architecture);
    let inner = &config.config;
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(out, "  {name} {}", indented(&value, "    | "));
        }
    };
    let words = |words: &Option<Vec<String>>| words.as_ref().map(|w| format!("{w:?}")).unwrap_or_default();
    line("author", config.author.clone());
    line("variant", config.variant.clone().unwrap_or_default());
    line("user", inner.user.clone());
    line("dir", inner.working_dir.clone());
    line("entrypoint", words(&inner.entrypoint));
    line("cmd", words(&inner.cmd));
    line("shell", if inner.shell.is_empty() { String::new() } else { format!("{:?}", inner.shell) });
    line("signal", inner.stop_signal.clone());
    line("ports", inner.exposed_ports.keys().cloned().collect::<Vec<_>>().join(" "));
    line("volumes", inner.volumes.keys().cloned().collect::<Vec<_>>().join(" "));
    for pair in &inner.env {
        line("env", pair.clone());
    }
    for (key, value) in &inner.labels {
        line("label", format!("{key}={value}"));
    }
    for trigger in &inner.on_build {
        line("onbuild", trigger.clone());
    }
    if let Some(check) = &inner.healthcheck {
        let [interval, timeout, start, start_interval] =
            [check.interval, check.timeout, check.start_period, check.start_interval]
                .map(|ns| format!("{}ms", ns / 1_000_000));
        line(
            "health",
            format!(
                "{:?} every {interval} timeout {timeout} start {start}/{start_interval} retries {}",
                check.test, check.retries
            ),
        );
    }
}

fn edge(edge: Edge) -> String {
    format!("#{}", edge.vertex.0)
}

/// A digest in a text with its first twelve digits only.
fn short_digests(text: &str) -> String {
    let mut parts = text.split("@sha256:");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (hex, rest) = part.split_at(part.len().min(64));
        let _ = write!(out, "@sha256:{}…{rest}", &hex[..hex.len().min(12)]);
    }
    out
}

fn show_vertex(out: &mut String, number: usize, vertex: &Vertex) {
    let name = indented(&short_digests(&vertex.metadata.name), "    | ");
    let _ = writeln!(out, "#{number} {name}");
    let inputs: Vec<String> = vertex.inputs.iter().map(|input| edge(*input)).collect();
    let platform = vertex.platform.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut facts = Vec::new();
    if !inputs.is_empty() {
        facts.push(format!("on {}", inputs.join(" ")));
    }
    if !platform.is_empty() {
        facts.push(format!("for {platform}"));
    }
    if let [(first, last), ..] = vertex.metadata.lines.as_slice() {
        facts.push(format!("lines {first}-{last}"));
    }
    if !facts.is_empty() {
        let _ = writeln!(out, "  {}", facts.join(", "));
    }
    match &vertex.op {
        Op::Source(source) => {
            let _ = writeln!(out, "  source {}", short_digests(&source.identifier));
            for (name, value) in &source.attrs {
                let _ = writeln!(out, "    {name}={value}");
            }
        }
        Op::Merge => out.push_str("  merge\n"),
        Op::Diff => out.push_str("  diff\n"),
        Op::File(file) => file.actions.iter().for_each(|action| show_action(out, action)),
        Op::Exec(exec) => show_exec(out, exec),
    }
    out.push('\n');
}

fn show_exec(out: &mut String, exec: &ExecOp) {
    let meta = &exec.meta;
    let (script, program) = meta.args.split_last().expect("a command");
    if script.contains([' ', '\n']) && !program.is_empty() {
        let _ = writeln!(out, "  exec {program:?}");
        let _ = writeln!(out, "    | {}", indented(script, "    | "));
    } else {
        let _ = writeln!(out, "  exec {:?}", meta.args);
    }
    let user = if meta.user.is_empty() { "root" } else { &meta.user };
    let _ = write!(out, "    in {} as {user}", meta.cwd);
    match exec.network {
        NetworkMode::Unset => {}
        NetworkMode::Host => out.push_str(", network host"),
        NetworkMode::None => out.push_str(", network none"),
    }
    if exec.security == SecurityMode::Insecure {
        out.push_str(", insecure");
    }
    out.push('\n');
    let mut env: Vec<&str> = meta.env.to_list().into_iter().filter(|pair| *pair != USUAL_PATH).collect();
    env.sort();
    for pair in env {
        let _ = writeln!(out, "    env {}", indented(pair, "      | "));
    }
    for secret in &exec.secret_env {
        let must = if secret.optional { "" } else { ", required" };
        let _ = writeln!(out, "    env {} is the secret {}{must}", secret.name, secret.id);
    }
    for device in &exec.devices {
        let must = if device.optional { "" } else { ", required" };
        let _ = writeln!(out, "    device {}{must}", device.name);
    }
    exec.mounts.iter().for_each(|mount| show_mount(out, mount));
}

fn show_mount(out: &mut String, mount: &Mount) {
    let from = mount.input.map_or("nothing".to_owned(), |i| format!("in{i}"));
    let what = match &mount.kind {
        MountKind::Bind => format!("bind of {from}{}", mount.selector),
        MountKind::Cache { id, sharing } => format!("cache {id} {sharing:?} over {from}{}", mount.selector),
        MountKind::Tmpfs { size_bytes } => format!("tmpfs of {size_bytes}"),
        MountKind::Secret(s) => format!("secret {} {}", s.id, file_facts(s.uid, s.gid, s.mode, s.optional)),
        MountKind::Ssh(s) => format!("ssh {} {}", s.id, file_facts(s.uid, s.gid, s.mode, s.optional)),
    };
    let readonly = if mount.readonly { ", read-only" } else { "" };
    let output = if mount.output.is_some() { ", kept" } else { "" };
    let _ = writeln!(out, "    mount {} {what}{readonly}{output}", mount.dest);
}

fn file_facts(uid: u32, gid: u32, mode: u32, optional: bool) -> String {
    format!("{uid}:{gid} {mode:04o}{}", if optional { "" } else { ", required" })
}

fn show_action(out: &mut String, action: &FileAction) {
    let on = input(action.input);
    let _ = match &action.kind {
        FileActionKind::Copy(copy) => {
            let from = action.secondary_input.map_or("nothing".to_owned(), input);
            writeln!(out, "  copy {from}:{} to {on}:{}{}", copy.src, copy.dest, copy_facts(copy))
        }
        FileActionKind::Mkfile { path, mode, data, .. } => {
            let text = String::from_utf8_lossy(data);
            writeln!(out, "  mkfile {on}:{path} {mode:04o}\n    | {}", indented(&text, "    | "))
        }
        FileActionKind::Mkdir { path, mode, make_parents, owner, .. } => {
            let parents = if *make_parents { " parents" } else { "" };
            writeln!(out, "  mkdir {on}:{path} {mode:04o}{parents}{}", owned_by(owner.as_ref()))
        }
        other => writeln!(out, "  {other:?}"),
    };
}

fn copy_facts(copy: &CopyAction) -> String {
    let mut out = owned_by(copy.owner.as_ref());
    if let Some(mode) = &copy.mode {
        let _ = write!(out, " mode {mode}");
    }
    let flags = [
        (copy.attempt_unpack, "unpack"),
        (copy.follow_symlink, "follow"),
        (copy.dir_copy_contents, "contents"),
        (copy.create_dest_path, "parents"),
        (copy.allow_wildcard, "wild"),
        (copy.allow_empty_wildcard, "or-none"),
        (copy.always_replace_existing_dest_paths, "replace"),
    ];
    for (_, name) in flags.iter().filter(|(on, _)| *on) {
        let _ = write!(out, " {name}");
    }
    let lists = [
        ("include", &copy.include_patterns),
        ("exclude", &copy.exclude_patterns),
        ("required", &copy.required_paths),
    ];
    for (name, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
        let _ = write!(out, " {name} {list:?}");
    }
    out
}

fn owned_by(owner: Option<&Chown>) -> String {
    let who = |who: &Option<Principal>| match who {
        None => "-".to_owned(),
        Some(Principal::Id(id)) => id.to_string(),
        Some(Principal::Name(name)) => format!("{name:?}"),
    };
    owner.map(|owner| format!(" owner {}:{}", who(&owner.user), who(&owner.group))).unwrap_or_default()
}

fn input(input: FileInput) -> String {
    match input {
        FileInput::Scratch => "scratch".to_owned(),
        FileInput::Input(i) => format!("in{i}"),
        FileInput::Action(i) => format!("act{i}"),
    }
}
