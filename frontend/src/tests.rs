//! What Dockerfiles lower to, in a short form: the vertices, the config, the history, the warnings.

use super::*;
use kiln_oci::{Digest, ImageConfig, Platform};
use kiln_solver::{
    CopyAction, Definition, Edge, FileActionKind, FileInput, MountKind, Op, Principal, Vertex,
};
use std::fmt::Write as _;

mod copying;
mod running;
mod settings;
mod stages;

fn options() -> BuildOptions {
    BuildOptions::new(Platform::new("linux", "amd64", None))
}

/// The images that there are: `busybox`, `triggers` with ONBUILD, `arm` for another platform.
fn image(request: &ImageRequest) -> Result<ResolvedImage, String> {
    let name = request.reference.rsplit('/').next().unwrap_or_default();
    let name = name.split([':', '@']).next().unwrap_or_default();
    let mut config =
        ImageConfig { os: "linux".into(), architecture: "amd64".into(), ..ImageConfig::default() };
    config.config.env = vec!["PATH=/bin".into(), "BASE=base".into()];
    config.config.cmd = Some(vec!["sh".into()]);
    config.rootfs.diff_ids = vec![kiln_oci::DiffId(Digest::of(b"layer"))];
    config.history = vec![kiln_oci::History { created_by: "base".into(), ..Default::default() }];
    match name {
        "busybox" => {}
        "triggers" => {
            config.config.on_build =
                vec!["ARG T=t".into(), "RUN echo $T".into(), "COPY --from=more /x /x".into()];
        }
        "more" => {}
        "arm" => config.architecture = "arm64".into(),
        _ => return Err("not found".to_owned()),
    }
    Ok(ResolvedImage { digest: Digest::from_bytes([0; 32]), config, reference: request.reference.clone() })
}

fn lowered(dockerfile: &str, options: &BuildOptions) -> Result<Lowered, LowerError> {
    lower(&kiln_grammar::parse(dockerfile), options, &mut |requests| requests.iter().map(image).collect())
}

/// Checks what a Dockerfile lowers to; the parts of `expect` must all be in its short form.
fn check(dockerfile: &str, expect: &[&str]) {
    check_with(dockerfile, &options(), expect);
}

fn check_with(dockerfile: &str, options: &BuildOptions, expect: &[&str]) {
    let shown = match lowered(dockerfile, options) {
        Ok(lowered) => short(&lowered),
        Err(error) => format!("error {error}\n"),
    };
    for line in expect {
        assert!(shown.contains(line), "no `{line}` for\n{dockerfile}\nin\n{shown}");
    }
}

fn short(lowered: &Lowered) -> String {
    let mut out = String::new();
    let definition = &lowered.definition;
    for (i, vertex) in definition.vertices().iter().enumerate() {
        let _ = writeln!(out, "{i} {}", short_vertex(vertex));
    }
    let _ = writeln!(out, "target {}", definition.target.map_or("scratch".into(), edge));
    let config = serde_json::to_value(&lowered.config.config).unwrap_or_default();
    let _ = writeln!(out, "config {config}");
    for line in &lowered.config.history {
        let _ = writeln!(out, "history {}{}", line.created_by, if line.empty_layer { "" } else { " +" });
    }
    for warning in &lowered.warnings {
        let _ = writeln!(out, "warning {} {}: {}", warning.line, warning.rule.unwrap_or(""), warning.message);
    }
    out
}

fn edge(edge: Edge) -> String {
    format!("#{}", edge.vertex.0)
}

fn short_vertex(vertex: &Vertex) -> String {
    let inputs: Vec<String> = vertex.inputs.iter().map(|input| edge(*input)).collect();
    let what = match &vertex.op {
        Op::Source(source) => {
            let attrs: Vec<String> = source.attrs.iter().map(|(k, v)| format!(" {k}={v}")).collect();
            format!("{}{}", source.identifier, attrs.concat())
        }
        Op::Merge => "merge".to_owned(),
        Op::Diff => "diff".to_owned(),
        Op::File(file) => {
            let actions = file.actions.iter().map(|action| {
                let from =
                    action.secondary_input.map(|from| format!(" from {}", place(from))).unwrap_or_default();
                format!("{}{from} on {}", short_action(&action.kind), place(action.input))
            });
            actions.collect::<Vec<_>>().join("; ")
        }
        Op::Exec(exec) => {
            let mut out = format!("exec {:?} in {} as {:?}", exec.meta.args, exec.meta.cwd, exec.meta.user);
            let _ = write!(out, " env {:?} {:?} {:?}", exec.meta.env, exec.network, exec.security);
            for mount in &exec.mounts {
                let _ = write!(out, " | {}", short_mount(mount));
            }
            for secret in &exec.secret_env {
                let _ = write!(out, " | ${}={}", secret.name, secret.id);
            }
            for device in &exec.devices {
                let _ = write!(out, " | device {}", device.name);
                out.push_str(if device.optional { "" } else { " required" });
            }
            out
        }
    };
    let anew = if vertex.metadata.ignore_cache { " anew" } else { "" };
    format!("{} <{}>{anew} `{}`", inputs.join(" "), what, vertex.metadata.name)
}

fn place(input: FileInput) -> String {
    match input {
        FileInput::Scratch => "scratch".to_owned(),
        FileInput::Input(i) => format!("in{i}"),
        FileInput::Action(i) => format!("act{i}"),
    }
}

fn owner(owner: Option<&kiln_solver::Chown>) -> String {
    let who = |who: &Option<Principal>| match who {
        None => "-".to_owned(),
        Some(Principal::Id(id)) => id.to_string(),
        Some(Principal::Name(name)) => format!("{name:?}"),
    };
    owner.map(|owner| format!(" owner {}:{}", who(&owner.user), who(&owner.group))).unwrap_or_default()
}

fn short_action(kind: &FileActionKind) -> String {
    match kind {
        FileActionKind::Copy(copy) => short_copy(copy),
        FileActionKind::Mkfile { path, mode, data, .. } => {
            format!("mkfile {path} {mode:o} {:?}", String::from_utf8_lossy(data))
        }
        FileActionKind::Mkdir { path, mode, owner: who, timestamp_ns, .. } => {
            let time = timestamp_ns.map(|time| format!(" at {time}")).unwrap_or_default();
            format!("mkdir {path} {mode:o}{}{time}", owner(who.as_ref()))
        }
        other => format!("{other:?}"),
    }
}

fn short_copy(copy: &CopyAction) -> String {
    let mut out = format!("copy {} to {}{}", copy.src, copy.dest, owner(copy.owner.as_ref()));
    let flags = [
        (copy.follow_symlink, "follow"),
        (copy.dir_copy_contents, "contents"),
        (copy.attempt_unpack, "unpack"),
        (copy.create_dest_path, "create"),
        (copy.allow_wildcard && copy.allow_empty_wildcard, "wild"),
    ];
    for (_, name) in flags.iter().filter(|(on, _)| *on) {
        let _ = write!(out, " {name}");
    }
    for (name, list) in [
        ("mode", copy.mode.iter().cloned().collect()),
        ("include", copy.include_patterns.clone()),
        ("exclude", copy.exclude_patterns.clone()),
        ("required", copy.required_paths.clone()),
    ] {
        if !list.is_empty() {
            let _ = write!(out, " {name} {}", list.join(","));
        }
    }
    out
}

fn short_mount(mount: &kiln_solver::Mount) -> String {
    let input = mount.input.map_or("empty".to_owned(), |i| format!("in{i}"));
    let kind = match &mount.kind {
        MountKind::Bind => "bind".to_owned(),
        MountKind::Cache { id, sharing } => format!("cache {id} {sharing:?}"),
        MountKind::Tmpfs { size_bytes } => format!("tmpfs {size_bytes}"),
        MountKind::Secret(s) => {
            format!("secret {} {}:{} {:o} optional={}", s.id, s.uid, s.gid, s.mode, s.optional)
        }
        MountKind::Ssh(s) => format!("ssh {} {}:{} {:o} optional={}", s.id, s.uid, s.gid, s.mode, s.optional),
    };
    let readonly = if mount.readonly { " ro" } else { "" };
    let output = mount.output.map(|o| format!(" out{o}")).unwrap_or_default();
    format!("{} {kind} {input}{}{readonly}{output}", mount.dest, mount.selector)
}

fn names(definition: &Definition) -> Vec<&str> {
    definition.vertices().iter().map(|vertex| vertex.metadata.name.as_str()).collect()
}
