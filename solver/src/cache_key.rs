//! What identifies a step: its inputs as one typed structure, and the key that is their hash.
//!
//! | op | counts | does not count |
//! | --- | --- | --- |
//! | Source | nothing here: the worker says what it is (image: ChainID and platform; git: commit and options; http: content and name; local: only what is selected of it) | names, tags, addresses |
//! | Exec | args, env, cwd, user, host name, ulimits, names of extra hosts, exit codes, network, security, devices, ids of secrets, of each mount: place, selector, read-only, kind and its settings; platform, with version and features | proxy variables, addresses of extra hosts, control group, contents of secrets and of cache mounts, id and sharing of a cache mount that is not the one of its own path, the path of a bind mount whose content counts |
//! | File | each action with its attributes, the times that it gives too | a source path that an input's selection stands for; the files' own times |
//! | Merge, Diff | the inputs in order | |
//! | any input | its chain key, or the content of its tree, or the content of what is selected of it | how it came about, where its content is known |
//!
//! Hashing and explaining go the same way over [`StepInputs`], with exhaustive destructuring, so that a
//! new field can't be left out of either. Each field is written as the lengths and bytes of its name
//! and its value. It does not know where keys are kept.

use crate::definition::{
    CacheSharing, CdiDevice, Chown, CopyAction, ExecMeta, ExecOp, FileAction, FileActionKind, FileInput,
    FileOp, Mount, MountKind, Op, Principal, SecretEnv, SecretMount, SourceOp, SshMount,
};
use kiln_oci::{Digest, Hasher, Platform};
use std::fmt;

/// Changes whenever what is hashed, or how, changes: old records are then not found.
const KEY_VERSION: &str = "kiln.key.v2";

/// The key of a step: equal keys, equal results.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey(pub Digest);

/// What a tree holds, however it came about; modification times don't count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId(pub Digest);

/// By what an input of a step is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputKey {
    /// By how it is made.
    Chain(CacheKey, u32),
    /// By its whole tree.
    Content(ContentId),
    /// By what the step reads of it.
    Selection(Digest),
}

/// All that counts for what a step makes.
#[derive(Clone, Debug)]
pub struct StepInputs<'a> {
    /// What is done.
    pub op: &'a Op,
    /// What it is done for.
    pub platform: Option<&'a Platform>,
    /// What it is done on.
    pub inputs: &'a [InputKey],
}

/// Takes a field's name and its value.
type Sink<'s> = &'s mut dyn FnMut(&str, &[u8]);

impl StepInputs<'_> {
    /// The step's key.
    pub fn key(&self) -> CacheKey {
        let mut hasher = Hasher::new();
        let mut put = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        };
        put(KEY_VERSION.as_bytes());
        self.walk(&mut |name, value| {
            put(name.as_bytes());
            put(value);
        });
        CacheKey(hasher.finish())
    }

    /// The same fields as text, to say what differs between two steps.
    pub fn fields(&self) -> Vec<(String, String)> {
        let mut out = Vec::new();
        self.walk(&mut |name, value| {
            out.push((name.to_owned(), String::from_utf8_lossy(value).into_owned()))
        });
        out
    }

    fn walk(&self, sink: Sink<'_>) {
        let StepInputs { op, platform, inputs } = self;
        match op {
            Op::Source(source) => walk_source(source, sink),
            Op::Exec(exec) => {
                walk_exec(exec, inputs, sink);
                if let Some(platform) = platform {
                    walk_platform(platform, sink);
                }
            }
            Op::File(file) => walk_file(file, inputs, sink),
            Op::Merge => sink("op", b"merge"),
            Op::Diff => sink("op", b"diff"),
        }
        number("inputs", inputs.len() as u64, sink);
        for input in *inputs {
            match input {
                InputKey::Chain(key, output) => {
                    sink("input.chain", key.0.to_string().as_bytes());
                    number("input.output", u64::from(*output), sink);
                }
                InputKey::Content(id) => sink("input.content", id.0.to_string().as_bytes()),
                InputKey::Selection(digest) => sink("input.selection", digest.to_string().as_bytes()),
            }
        }
    }
}

fn number(name: &str, value: u64, sink: Sink<'_>) {
    sink(name, value.to_string().as_bytes());
}

fn list<T: AsRef<str>>(name: &str, values: &[T], sink: Sink<'_>) {
    number(name, values.len() as u64, sink);
    for value in values {
        sink(name, value.as_ref().as_bytes());
    }
}

fn walk_platform(platform: &Platform, sink: Sink<'_>) {
    let Platform { architecture: _, os: _, variant: _, os_version, os_features } = platform;
    sink("platform", platform.to_string().as_bytes());
    if let Some(version) = os_version {
        sink("platform.version", version.as_bytes());
    }
    for feature in os_features {
        sink("platform.feature", feature.as_bytes());
    }
}

fn walk_source(source: &SourceOp, sink: Sink<'_>) {
    let SourceOp { identifier, attrs } = source;
    sink("op", b"source");
    sink("identifier", identifier.as_bytes());
    for (name, value) in attrs {
        sink("attr.name", name.as_bytes());
        sink("attr.value", value.as_bytes());
    }
}

fn walk_exec(exec: &ExecOp, inputs: &[InputKey], sink: Sink<'_>) {
    let ExecOp { meta, mounts, network, security, secret_env, devices } = exec;
    sink("op", b"exec");
    walk_meta(meta, sink);
    number("mounts", mounts.len() as u64, sink);
    for mount in mounts {
        walk_mount(mount, inputs, sink);
    }
    sink("network", format!("{network:?}").as_bytes());
    sink("security", format!("{security:?}").as_bytes());
    number("secret_env", secret_env.len() as u64, sink);
    for SecretEnv { id, name, optional } in secret_env {
        sink("secret_env.id", id.as_bytes());
        sink("secret_env.name", name.as_bytes());
        number("secret_env.optional", u64::from(*optional), sink);
    }
    number("devices", devices.len() as u64, sink);
    for CdiDevice { name, optional } in devices {
        sink("device.name", name.as_bytes());
        number("device.optional", u64::from(*optional), sink);
    }
}

fn walk_meta(meta: &ExecMeta, sink: Sink<'_>) {
    let ExecMeta {
        args,
        env,
        cwd,
        user,
        proxy_env: _,
        extra_hosts,
        hostname,
        ulimits,
        cgroup_parent: _,
        valid_exit_codes,
    } = meta;
    list("args", args, sink);
    list("env", &env.to_list(), sink);
    sink("cwd", cwd.as_bytes());
    sink("user", user.as_bytes());
    number("extra_hosts", extra_hosts.len() as u64, sink);
    for (name, _address) in extra_hosts {
        sink("extra_host", name.as_bytes());
    }
    sink("hostname", hostname.as_bytes());
    number("ulimits", ulimits.len() as u64, sink);
    for (name, soft, hard) in ulimits {
        sink("ulimit", format!("{name}={soft}:{hard}").as_bytes());
    }
    number("exit_codes", valid_exit_codes.len() as u64, sink);
    for code in valid_exit_codes {
        sink("exit_code", code.to_string().as_bytes());
    }
}

fn walk_mount(mount: &Mount, inputs: &[InputKey], sink: Sink<'_>) {
    let Mount { input, selector, dest, output, readonly, kind } = mount;
    sink("mount.input", format!("{input:?}").as_bytes());
    // Where the content of what is selected stands for it, its path does not count.
    let selected =
        input.and_then(|i| inputs.get(i as usize)).is_some_and(|key| matches!(key, InputKey::Selection(_)));
    if !selected {
        sink("mount.selector", selector.as_bytes());
    }
    sink("mount.dest", dest.as_bytes());
    sink("mount.output", format!("{output:?}").as_bytes());
    number("mount.readonly", u64::from(*readonly), sink);
    match kind {
        MountKind::Bind => sink("mount.kind", b"bind"),
        MountKind::Cache { id, sharing } => {
            sink("mount.kind", b"cache");
            // As BuildKit: that it is the cache of its own path, shared by all, is told apart from others.
            let is_default = *sharing == CacheSharing::Shared && id.ends_with(&format!("/{dest}"));
            sink("mount.cache", if is_default { id.as_bytes() } else { b"" });
        }
        MountKind::Tmpfs { size_bytes } => {
            sink("mount.kind", b"tmpfs");
            sink("mount.size_bytes", size_bytes.to_string().as_bytes());
        }
        MountKind::Secret(SecretMount { id, uid, gid, mode, optional }) => {
            sink("mount.kind", b"secret");
            sink("mount.secret", id.as_bytes());
            sink("mount.access", format!("{uid}:{gid}:{mode:o}:{optional}").as_bytes());
        }
        MountKind::Ssh(SshMount { id, uid, gid, mode, optional }) => {
            sink("mount.kind", b"ssh");
            sink("mount.ssh", id.as_bytes());
            sink("mount.access", format!("{uid}:{gid}:{mode:o}:{optional}").as_bytes());
        }
    }
}

fn walk_file(file: &FileOp, inputs: &[InputKey], sink: Sink<'_>) {
    let FileOp { actions } = file;
    sink("op", b"file");
    number("actions", actions.len() as u64, sink);
    for FileAction { input, secondary_input, output, kind } in actions {
        sink("action.input", format!("{input:?}").as_bytes());
        sink("action.secondary", format!("{secondary_input:?}").as_bytes());
        sink("action.output", format!("{output:?}").as_bytes());
        let selected = match secondary_input {
            Some(FileInput::Input(i)) => matches!(inputs.get(*i as usize), Some(InputKey::Selection(_))),
            _ => false,
        };
        walk_action(kind, selected, sink);
    }
}

fn walk_action(kind: &FileActionKind, selected: bool, sink: Sink<'_>) {
    match kind {
        FileActionKind::Copy(copy) => walk_copy(copy, selected, sink),
        FileActionKind::Mkfile { path, mode, data, owner, timestamp_ns } => {
            sink("action", b"mkfile");
            sink("path", path.as_bytes());
            number("mode", u64::from(*mode), sink);
            sink("data", data);
            walk_owner(owner.as_ref(), sink);
            walk_time(*timestamp_ns, sink);
        }
        FileActionKind::Mkdir { path, mode, make_parents, owner, timestamp_ns } => {
            sink("action", b"mkdir");
            sink("path", path.as_bytes());
            number("mode", u64::from(*mode), sink);
            number("make_parents", u64::from(*make_parents), sink);
            walk_owner(owner.as_ref(), sink);
            walk_time(*timestamp_ns, sink);
        }
        FileActionKind::Rm { path, allow_not_found, allow_wildcard } => {
            sink("action", b"rm");
            sink("path", path.as_bytes());
            number("allow_not_found", u64::from(*allow_not_found), sink);
            number("allow_wildcard", u64::from(*allow_wildcard), sink);
        }
        FileActionKind::Symlink { target, path, owner, timestamp_ns } => {
            sink("action", b"symlink");
            sink("target", target.as_bytes());
            sink("path", path.as_bytes());
            walk_owner(owner.as_ref(), sink);
            walk_time(*timestamp_ns, sink);
        }
    }
}

fn walk_copy(copy: &CopyAction, selected: bool, sink: Sink<'_>) {
    let CopyAction {
        src,
        dest,
        owner,
        mode,
        follow_symlink,
        dir_copy_contents,
        attempt_unpack,
        create_dest_path,
        allow_wildcard,
        allow_empty_wildcard,
        timestamp_ns,
        include_patterns,
        exclude_patterns,
        always_replace_existing_dest_paths,
        required_paths,
    } = copy;
    sink("action", b"copy");
    if !selected {
        // What a selection holds has been through these already.
        sink("src", src.as_bytes());
        list("include", include_patterns, sink);
        list("exclude", exclude_patterns, sink);
        list("required", required_paths, sink);
    }
    sink("dest", dest.as_bytes());
    walk_owner(owner.as_ref(), sink);
    walk_time(*timestamp_ns, sink);
    sink("mode", mode.as_deref().unwrap_or("as it is").as_bytes());
    let flags = [
        follow_symlink,
        dir_copy_contents,
        attempt_unpack,
        create_dest_path,
        allow_wildcard,
        allow_empty_wildcard,
        always_replace_existing_dest_paths,
    ];
    sink("flags", flags.map(|set| if *set { b'1' } else { b'0' }).as_slice());
}

fn walk_time(timestamp_ns: Option<i64>, sink: Sink<'_>) {
    sink("time", timestamp_ns.map_or_else(|| "now".to_owned(), |ns| ns.to_string()).as_bytes());
}

fn walk_owner(owner: Option<&Chown>, sink: Sink<'_>) {
    let mut principal = |name: &str, value: Option<&Principal>| match value {
        None => sink(name, b"none"),
        Some(Principal::Id(id)) => sink(name, format!("id {id}").as_bytes()),
        Some(Principal::Name(text)) => sink(name, format!("name {text}").as_bytes()),
    };
    match owner {
        None => principal("owner", None),
        Some(Chown { user, group }) => {
            principal("owner.user", user.as_ref());
            principal("owner.group", group.as_ref());
        }
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {:?}", self.0)
    }
}

#[cfg(test)]
mod tests;
