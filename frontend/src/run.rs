//! RUN: the process, and what it sees mounted. It does not know how a process is run.

use crate::config::with_shell;
use crate::error::{LowerError, Place};
use crate::file_op::{FileOpBuilder, place_of};
use crate::graph::{Command, NodeId};
use crate::hints;
use crate::lower::Lowering;
use crate::mount::{self, MountSpec, MountType};
use crate::path;
use crate::progress::shown;
use crate::stage::StageState;
use kiln_grammar::ast::{Command as Words, Heredoc, Run};
use kiln_grammar::expand::Lexer;
use kiln_grammar::suggest::nearest;
use kiln_solver::{
    CacheSharing, CdiDevice, Chown, Edge, ExecMeta, ExecOp, FileActionKind, Metadata, Mount, MountKind,
    NetworkMode, Op, Principal, SecretEnv, SecretMount, SecurityMode, SshMount,
};

/// Where a script with a `#!` line is mounted.
const SCRIPTS: &str = "/dev/pipes";

/// A RUN under way.
#[derive(Default)]
struct Parts {
    inputs: Vec<Edge>,
    mounts: Vec<Mount>,
    late_mounts: Vec<Mount>,
    secret_env: Vec<SecretEnv>,
    agents: u32,
    first_agent: Option<String>,
}

/// The command of a RUN.
struct CommandLine {
    args: Vec<String>,
    /// The script that it runs, where it is one of its own.
    script: Option<Heredoc>,
    /// What the name in the progress has behind it.
    remark: String,
}

impl Lowering<'_> {
    pub(crate) fn run(
        &mut self,
        state: &mut StageState,
        command: &Command<'_>,
        run: &Run,
    ) -> Result<(), LowerError> {
        let place = Place::of(&command.instruction);
        if let Words::Shell(text) = &run.command
            && let Some(hint) = hints::broken_array(text)
        {
            let message = "this is no JSON array, so that the shell is given it as it is";
            self.lints.note(place, message.to_owned(), hint.to_owned());
        }
        let line = command_line(state, run, self.escape);
        let mut parts = Parts::default();
        let root = state.fs.map(|edge| place_of(&mut parts.inputs, edge));
        parts.mounts.push(bind(root, "/", Some(0), false));
        if let Some(script) = &line.script {
            let edge = self.script(state, script);
            let input = place_of(&mut parts.inputs, edge);
            parts.mounts.push(bind(Some(input), SCRIPTS, None, true));
        }
        let mut masked = Vec::new();
        for (index, mount) in run.mounts.iter().enumerate() {
            let at = place.at(&mount.value);
            let mut fields = Vec::with_capacity(mount.fields.len());
            for (key, value) in &mount.fields {
                let value = value.as_ref().map(|value| self.expand(state, value, at)).transpose()?;
                fields.push((key.as_str(), value));
            }
            let spec = mount::read(fields).map_err(|why| at.perhaps_hinted(why.message, why.hint))?;
            masked.extend(spec.env.clone());
            let source = command.sources.get(index).copied().flatten();
            self.mount(state, spec, source, at, &mut parts)?;
        }
        if self.options.shm_size_bytes > 0 {
            let kind = MountKind::Tmpfs { size_bytes: self.options.shm_size_bytes };
            parts.mounts.push(Mount { kind, ..bind(None, "/dev/shm", None, false) });
        }
        let name = self.run_name(state, command, &line, &masked);
        let args = line.args.join(" ");
        let op = self.exec(state, run, line, &mut parts, place)?;
        let metadata = self.metadata(state, name, place);
        let inputs = std::mem::take(&mut parts.inputs);
        let edge = self.vertex(op, inputs, Some(state.platform.clone()), metadata);
        state.fs = Some(edge);
        let created_by = format!("RUN {}{args}", state.declared.shown(&state.env));
        state.note_marked_layer(created_by);
        Ok(())
    }

    fn exec(
        &self,
        state: &StageState,
        run: &Run,
        line: CommandLine,
        parts: &mut Parts,
        place: Place,
    ) -> Result<Op, LowerError> {
        let mut env = state.env.of_process();
        if let (Some(agent), None) = (&parts.first_agent, state.env.get("SSH_AUTH_SOCK")) {
            env.set("SSH_AUTH_SOCK", agent);
        }
        let hostname =
            self.options.hostname.as_deref().or_else(|| self.options.build_arg("BUILDKIT_SANDBOX_HOSTNAME"));
        let ulimits = self.options.ulimits.iter().map(|limit| (limit.name.clone(), limit.soft, limit.hard));
        let meta = ExecMeta {
            args: line.args,
            env,
            cwd: path::rooted(state.dir()),
            user: state.image.config.user.clone(),
            proxy_env: self.proxies.clone(),
            extra_hosts: self.options.extra_hosts.clone(),
            hostname: hostname.unwrap_or_default().to_owned(),
            ulimits: ulimits.collect(),
            cgroup_parent: self.options.cgroup_parent.clone(),
            valid_exit_codes: Vec::new(),
        };
        let mut mounts = std::mem::take(&mut parts.mounts);
        mounts.sort_by(|a, b| a.dest.cmp(&b.dest));
        mounts.append(&mut parts.late_mounts);
        Ok(Op::Exec(Box::new(ExecOp {
            meta,
            mounts,
            network: self.network(run, place)?,
            security: self.security(run, place)?,
            secret_env: std::mem::take(&mut parts.secret_env),
            devices: devices(run, place)?,
        })))
    }

    fn network(&self, run: &Run, place: Place) -> Result<NetworkMode, LowerError> {
        let network = match run.network.as_ref().map(|word| word.raw.as_str()) {
            Some("none") => NetworkMode::None,
            Some("host") => NetworkMode::Host,
            _ => self.options.network,
        };
        if network == NetworkMode::Host && !self.options.allow_host_network {
            let hint = "give --allow network.host, if the Dockerfile is to be trusted";
            return Err(place.hinted("network.host is not allowed", hint));
        }
        Ok(network)
    }

    fn security(&self, run: &Run, place: Place) -> Result<SecurityMode, LowerError> {
        if run.security.as_ref().is_none_or(|word| word.raw != "insecure") {
            return Ok(SecurityMode::Sandbox);
        }
        if !self.options.allow_insecure {
            let hint = "give --allow security.insecure, if the Dockerfile is to be trusted";
            return Err(place.hinted("security.insecure is not allowed", hint));
        }
        Ok(SecurityMode::Insecure)
    }

    /// Adds a mount to a RUN.
    fn mount(
        &mut self,
        state: &StageState,
        spec: MountSpec,
        source: Option<NodeId>,
        place: Place,
        parts: &mut Parts,
    ) -> Result<(), LowerError> {
        match spec.kind {
            MountType::Secret => {
                parts.add_secret(spec, state.dir());
                return Ok(());
            }
            MountType::Ssh => {
                parts.add_agent(spec, state.dir());
                return Ok(());
            }
            MountType::Bind | MountType::Cache | MountType::Tmpfs => {}
        }
        let dest = in_dir(state.dir(), &spec.target);
        if dest == "/" || spec.target.is_empty() {
            let hint = "name the folder to mount it at, as in target=/src";
            return Err(place.hinted("invalid mount target \"/\"", hint));
        }
        let mut edge = match (spec.kind, source) {
            (MountType::Tmpfs, _) => None,
            (_, Some(source)) => self.source_edge(source).ok_or_else(|| {
                let message = format!(
                    "cannot mount from stage {:?} to {:?}, stage needs to be defined before current command",
                    spec.from, spec.target
                );
                place.perhaps_hinted(message, self.graph.names.stage(&spec.from, place.line))
            })?,
            (MountType::Cache, None) => None,
            (_, None) => self.main_context()?,
        };
        let mut selector = path::rooted(&spec.source);
        if selector == "/" {
            selector.clear();
            if spec.has_owner() {
                edge = Some(self.cache_folder(&spec, edge));
                selector = "/cache".to_owned();
            }
        }
        let kind = match spec.kind {
            MountType::Tmpfs => MountKind::Tmpfs { size_bytes: spec.size_bytes },
            MountType::Cache => self.cache(&spec),
            _ => MountKind::Bind,
        };
        let input = edge.map(|edge| place_of(&mut parts.inputs, edge));
        parts.mounts.push(Mount { selector, kind, ..bind(input, &dest, None, spec.readonly) });
        Ok(())
    }

    fn cache(&self, spec: &MountSpec) -> MountKind {
        let id = if spec.id.is_empty() { path::clean(&spec.target) } else { spec.id.clone() };
        let namespace = self.options.build_arg("BUILDKIT_CACHE_MOUNT_NS").unwrap_or_default();
        let sharing = spec.sharing.unwrap_or(CacheSharing::Shared);
        MountKind::Cache { id: format!("{namespace}/{id}"), sharing }
    }

    /// A folder with the owner and mode that a cache is to begin with.
    fn cache_folder(&mut self, spec: &MountSpec, base: Option<Edge>) -> Edge {
        let id = |id: Option<u32>| Some(Principal::Id(id.unwrap_or(0)));
        let mut folder = FileOpBuilder::new(base);
        let kind = FileActionKind::Mkdir {
            path: "/cache".to_owned(),
            mode: spec.mode.unwrap_or(0o755),
            make_parents: false,
            owner: Some(Chown { user: id(spec.uid), group: id(spec.gid) }),
            timestamp_ns: None,
        };
        folder.push(kind, None);
        let (op, inputs) = folder.finish();
        let name = "[internal] settings cache mount permissions".to_owned();
        self.vertex(op, inputs, None, Metadata { name, ..Metadata::default() })
    }

    /// The file of a script with a `#!` line.
    fn script(&mut self, state: &StageState, script: &Heredoc) -> Edge {
        let edge = (script.name.clone(), script.body.clone().into_bytes(), 0o755);
        self.document(state, edge)
    }

    /// A file system with one file in it.
    pub(crate) fn document(
        &mut self,
        state: &StageState,
        (name, data, mode): (String, Vec<u8>, u32),
    ) -> Edge {
        let mut file = FileOpBuilder::new(None);
        let path = path::rooted(&name);
        file.push(FileActionKind::Mkfile { path, mode, data, owner: None, timestamp_ns: None }, None);
        let (op, inputs) = file.finish();
        let name = "[internal] preparing inline document".to_owned();
        self.vertex(op, inputs, Some(state.platform.clone()), Metadata { name, ..Metadata::default() })
    }

    fn run_name(
        &self,
        state: &mut StageState,
        command: &Command<'_>,
        line: &CommandLine,
        masked: &[String],
    ) -> String {
        let lexer = Lexer { raw_quotes: true, skip_unset: true, ..Lexer::new(self.escape) };
        let look_up = |name: &str| match masked.iter().any(|other| other == name) {
            true => Some("****".to_owned()),
            false => state.env.get(name).map(str::to_owned),
        };
        let text = shown(&command.instruction.text, &lexer, &look_up) + &line.remark;
        state.steps.next(&text, &state.platform, &state.env)
    }
}

impl Parts {
    fn add_secret(&mut self, spec: MountSpec, dir: &str) {
        let id = match (spec.source.as_str(), spec.id.as_str()) {
            ("", "") => path::base(&spec.target).to_owned(),
            ("", id) => id.to_owned(),
            (source, _) => source.to_owned(),
        };
        let optional = !spec.required;
        let has_env = spec.env.is_some();
        if let Some(name) = spec.env {
            self.secret_env.push(SecretEnv { id: id.clone(), name, optional });
        }
        if has_env && spec.target.is_empty() {
            return;
        }
        let dest = match spec.target.as_str() {
            "" => format!("/run/secrets/{}", path::base(&id)),
            target => in_dir(dir, target),
        };
        let kind = MountKind::Secret(SecretMount {
            id,
            uid: spec.uid.unwrap_or(0),
            gid: spec.gid.unwrap_or(0),
            mode: spec.mode.unwrap_or(0o400),
            optional,
        });
        self.late_mounts.push(Mount { kind, ..bind(None, &dest, None, true) });
    }

    fn add_agent(&mut self, spec: MountSpec, dir: &str) {
        let dest = match spec.target.as_str() {
            "" => format!("/run/buildkit/ssh_agent.{}", self.agents),
            target => in_dir(dir, target),
        };
        self.agents += 1;
        self.first_agent.get_or_insert_with(|| dest.clone());
        let kind = MountKind::Ssh(SshMount {
            id: if spec.id.is_empty() { "default".to_owned() } else { spec.id },
            uid: spec.uid.unwrap_or(0),
            gid: spec.gid.unwrap_or(0),
            mode: spec.mode.unwrap_or(0o600),
            optional: !spec.required,
        });
        self.late_mounts.push(Mount { kind, ..bind(None, &dest, None, true) });
    }
}

/// A mount's target, which begins at the folder that the step works in.
fn in_dir(dir: &str, target: &str) -> String {
    if target.starts_with('/') { path::clean(target) } else { path::rooted(&format!("{dir}/{target}")) }
}

fn bind(input: Option<u32>, dest: &str, output: Option<u32>, readonly: bool) -> Mount {
    Mount { input, selector: String::new(), dest: dest.to_owned(), output, readonly, kind: MountKind::Bind }
}

/// The arguments of the process, heredocs put in their place.
fn command_line(state: &StageState, run: &Run, escape: char) -> CommandLine {
    let text = match &run.command {
        Words::Exec(words) => {
            return CommandLine { args: words.clone(), script: None, remark: String::new() };
        }
        Words::Shell(text) => text,
    };
    let Some(first) = run.heredocs.first() else {
        return CommandLine { args: with_shell(state, text), script: None, remark: String::new() };
    };
    if !is_lone_mark(text, escape) {
        let mut whole = text.clone();
        for heredoc in &run.heredocs {
            whole.push('\n');
            whole.push_str(&heredoc.raw_body);
            whole.push_str(&heredoc.name);
        }
        return CommandLine { args: with_shell(state, &whole), script: None, remark: String::new() };
    }
    let trimmed = first.raw_body.trim();
    let summary = trimmed.lines().next().unwrap_or_default();
    let more = if trimmed.lines().nth(1).is_some() { "..." } else { "" };
    let remark = format!(" ({summary}{more})");
    if first.body.starts_with("#!") && state.image.os != "windows" {
        let args = with_shell(state, &format!("{SCRIPTS}/{}", first.name));
        return CommandLine { args, script: Some(first.clone()), remark };
    }
    CommandLine { args: with_shell(state, &first.body), script: None, remark }
}

/// Whether a command line is the mark of one heredoc and nothing else.
fn is_lone_mark(text: &str, escape: char) -> bool {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(rest) = rest.strip_prefix("<<") else { return false };
    let rest = rest.strip_prefix('-').unwrap_or(rest).trim();
    let lexer = Lexer { raw_quotes: true, raw_escapes: true, skip_unset: true, ..Lexer::new(escape) };
    !rest.contains('<') && lexer.expand(rest, &|_| None).is_ok_and(|expanded| expanded.words.len() == 1)
}

/// The devices: a name each, and perhaps that it must be there.
fn devices(run: &Run, place: Place) -> Result<Vec<CdiDevice>, LowerError> {
    run.devices.iter().map(|word| device(&word.raw, place.at(word))).collect()
}

/// One device. Its name has an equals sign of its own: `vendor.com/class=name`.
fn device(text: &str, place: Place) -> Result<CdiDevice, LowerError> {
    let mut device = CdiDevice { name: String::new(), optional: true };
    for field in text.split(',') {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        match (key.to_lowercase().as_str(), value) {
            ("required", None) => device.optional = false,
            ("required", Some(value)) => {
                let is_required = mount::boolean(value)
                    .ok_or_else(|| place.error(format!("invalid value for required: {value}")))?;
                device.optional = !is_required;
            }
            ("name", Some(_)) if !device.name.is_empty() => {
                return Err(place.error(format!("device name already set to {}", device.name)));
            }
            ("name", Some(name)) => name.clone_into(&mut device.name),
            _ if device.name.is_empty() => field.clone_into(&mut device.name),
            (_, None) => {
                return Err(place.error(format!("invalid field '{field}' must be a key=value pair")));
            }
            (key, Some(_)) => {
                let message = format!("unexpected key '{key}' in '{field}'");
                let hint = nearest(key, ["name", "required"]).map(|near| format!("did you mean {near}?"));
                return Err(place.perhaps_hinted(message, hint));
            }
        }
    }
    if device.name.is_empty() {
        let hint = "name one of the host's, as in --device=vendor.com/class=name";
        return Err(place.hinted("--device names no device", hint));
    }
    Ok(device)
}
