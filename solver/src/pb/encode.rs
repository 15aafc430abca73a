//! From a definition to its message. Every structure is taken apart field by field, so that a new field
//! can't be left out. It does not know what ops mean.

use super::{MAX_AGE, NAME, PROXY, STAGE, SourceFile, caps, messages as pb};
use crate::definition::{
    CacheSharing, CdiDevice, Chown, CopyAction, Definition, Edge, ExecMeta, ExecOp, FileAction,
    FileActionKind, FileInput, FileOp, Metadata, Mount, MountKind, NetworkMode, Op, Principal, SecretEnv,
    SecretMount, SecurityMode, SourceOp, SshMount, Vertex,
};
use kiln_oci::{Digest, Platform};
use prost::Message;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// No input, no output, no time.
pub(super) const NOTHING: i64 = -1;
/// No mode.
pub(super) const NO_MODE: i32 = -1;

pub(super) fn definition(definition: &Definition, source: Option<SourceFile<'_>>) -> pb::Definition {
    let mut writer = Writer::default();
    for vertex in definition.vertices() {
        writer.add(vertex);
    }
    let Some(target) = definition.target else {
        // Nothing at all is an empty file system too.
        if !writer.out.def.is_empty() {
            writer.out.def.push(Vec::new());
        }
        return writer.finish(source);
    };
    let inputs = vec![writer.input(target)];
    let bytes = pb::Op { inputs, ..pb::Op::default() }.encode_to_vec();
    let said: Vec<&pb::OpMetadata> = writer.out.metadata.values().collect();
    let caps = caps::of_target(
        said.iter().any(|metadata| metadata.ignore_cache),
        said.iter().any(|metadata| !metadata.description.is_empty()),
    );
    let digest = Digest::of(&bytes).to_string();
    writer.out.metadata.insert(digest, pb::OpMetadata { caps, ..pb::OpMetadata::default() });
    writer.out.def.push(bytes);
    writer.finish(source)
}

#[derive(Default)]
struct Writer {
    out: pb::Definition,
    /// The digests of the vertices so far.
    digests: Vec<String>,
    locations: BTreeMap<String, pb::Locations>,
}

impl Writer {
    fn add(&mut self, vertex: &Vertex) {
        let Vertex { op: kind, inputs, platform, metadata } = vertex;
        let message = pb::Op {
            inputs: inputs.iter().map(|edge| self.input(*edge)).collect(),
            op: Some(op(kind, inputs.len())),
            platform: platform.as_ref().map(of_platform),
            // BuildKit's client always has it here, with nothing in it.
            constraints: Some(pb::WorkerConstraints::default()),
        };
        let bytes = message.encode_to_vec();
        let digest = Digest::of(&bytes).to_string();
        self.digests.push(digest.clone());
        let Metadata { name, lines, stage, ignore_cache, max_age_s } = metadata;
        match self.out.metadata.entry(digest.clone()) {
            Entry::Occupied(mut known) => known.get_mut().ignore_cache |= ignore_cache,
            Entry::Vacant(new) => {
                let description = description(name, stage, *max_age_s, kind);
                let caps = caps::of_op(kind);
                new.insert(pb::OpMetadata {
                    ignore_cache: *ignore_cache,
                    description,
                    caps,
                    ..pb::OpMetadata::default()
                });
                self.out.def.push(bytes);
                if !lines.is_empty() {
                    let ranges = lines.iter().map(|(first, last)| range(*first, *last)).collect();
                    let location = pb::Location { source_index: 0, ranges };
                    self.locations.insert(digest, pb::Locations { locations: vec![location] });
                }
            }
        }
    }

    fn input(&self, Edge { vertex, output }: Edge) -> pb::Input {
        let digest = self.digests.get(vertex.index()).cloned().unwrap_or_default();
        pb::Input { digest, index: i64::from(output) }
    }

    fn finish(mut self, source: Option<SourceFile<'_>>) -> pb::Definition {
        if source.is_some() || !self.locations.is_empty() {
            // Locations name the file by its number, so that there must be one.
            let SourceFile { name, text } = source.unwrap_or(SourceFile { name: "", text: "" });
            let info = pb::SourceInfo {
                filename: name.to_owned(),
                data: text.as_bytes().to_vec(),
                definition: None,
                language: "Dockerfile".to_owned(),
            };
            self.out.source = Some(pb::Source { locations: self.locations, infos: vec![info] });
        }
        self.out
    }
}

fn range(first: u32, last: u32) -> pb::Range {
    let position = |line| pb::Position { line: i32::try_from(line).unwrap_or(i32::MAX), character: 0 };
    pb::Range { start: Some(position(first)), end: Some(position(last)) }
}

fn description(name: &str, stage: &str, max_age_s: Option<u64>, op: &Op) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (key, value) in [(NAME, name), (STAGE, stage)] {
        if !value.is_empty() {
            out.insert(key.to_owned(), value.to_owned());
        }
    }
    out.extend(max_age_s.map(|age| (MAX_AGE.to_owned(), age.to_string())));
    if let Op::Exec(exec) = op {
        let proxies = &exec.meta.proxy_env;
        if *proxies != proxy_pairs(&proxy_env(proxies).unwrap_or_default()) {
            out.insert(PROXY.to_owned(), serde_json::json!(proxies).to_string());
        }
    }
    out
}

fn of_platform(platform: &Platform) -> pb::Platform {
    let Platform { architecture, os, os_version, os_features, variant } = platform.clone();
    pb::Platform {
        architecture,
        os,
        variant: variant.unwrap_or_default(),
        os_version: os_version.unwrap_or_default(),
        os_features,
    }
}

fn op(op: &Op, inputs: usize) -> pb::OpKind {
    let numbers = || (0_i64..).take(inputs);
    match op {
        Op::Source(SourceOp { identifier, attrs }) => {
            pb::OpKind::Source(pb::SourceOp { identifier: identifier.clone(), attrs: attrs.clone() })
        }
        Op::Exec(exec) => pb::OpKind::Exec(Box::new(of_exec(exec))),
        Op::File(FileOp { actions }) => {
            let number = i64::try_from(inputs).unwrap_or(i64::MAX);
            let actions = (0..actions.len()).map(|at| action(actions, at, number)).collect();
            pb::OpKind::File(pb::FileOp { actions })
        }
        Op::Merge => {
            let inputs = numbers().map(|input| pb::MergeInput { input }).collect();
            pb::OpKind::Merge(pb::MergeOp { inputs })
        }
        Op::Diff => {
            let mut numbers = numbers();
            pb::OpKind::Diff(pb::DiffOp {
                lower: Some(pb::LowerDiffInput { input: numbers.next().unwrap_or(NOTHING) }),
                upper: Some(pb::UpperDiffInput { input: numbers.next().unwrap_or(NOTHING) }),
            })
        }
    }
}

fn of_exec(exec: &ExecOp) -> pb::ExecOp {
    let ExecOp { meta, mounts, network, security, secret_env, devices } = exec;
    let network = match network {
        NetworkMode::Unset => pb::NetMode::Unset,
        NetworkMode::Host => pb::NetMode::Host,
        NetworkMode::None => pb::NetMode::None,
    };
    let security = match security {
        SecurityMode::Sandbox => pb::SecurityMode::Sandbox,
        SecurityMode::Insecure => pb::SecurityMode::Insecure,
    };
    let secret = |secret: &SecretEnv| {
        let SecretEnv { id, name, optional } = secret.clone();
        pb::SecretEnv { id, name, optional }
    };
    let device = |device: &CdiDevice| {
        let CdiDevice { name, optional } = device.clone();
        pb::CdiDevice { name, optional }
    };
    pb::ExecOp {
        meta: Some(of_meta(meta)),
        mounts: mounts.iter().map(of_mount).collect(),
        network: network.into(),
        security: security.into(),
        secretenv: secret_env.iter().map(secret).collect(),
        cdi_devices: devices.iter().map(device).collect(),
    }
}

fn of_meta(meta: &ExecMeta) -> pb::Meta {
    let ExecMeta {
        args,
        env,
        cwd,
        user,
        proxy_env: proxies,
        extra_hosts,
        hostname,
        ulimits,
        cgroup_parent,
        valid_exit_codes,
    } = meta.clone();
    pb::Meta {
        args,
        env: env.to_list().into_iter().map(str::to_owned).collect(),
        cwd,
        user,
        proxy_env: proxy_env(&proxies),
        extra_hosts: extra_hosts.into_iter().map(|(host, ip)| pb::HostIp { host, ip }).collect(),
        hostname,
        ulimit: ulimits.into_iter().map(|(name, soft, hard)| pb::Ulimit { name, soft, hard }).collect(),
        cgroup_parent,
        // kiln always does so, as BuildKit when its client asks for it, which it does.
        remove_mount_stubs_recursive: true,
        valid_exit_codes,
    }
}

/// Proxies by their names, which may be in upper or lower case; the last of a name counts.
fn proxy_env(proxies: &[(String, String)]) -> Option<pb::ProxyEnv> {
    if proxies.is_empty() {
        return None;
    }
    let value = |name: &str| {
        let found = proxies.iter().rev().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    Some(pb::ProxyEnv {
        http_proxy: value("http_proxy"),
        https_proxy: value("https_proxy"),
        ftp_proxy: value("ftp_proxy"),
        no_proxy: value("no_proxy"),
        all_proxy: value("all_proxy"),
    })
}

/// Proxies as a process gets them: each in upper and in lower case.
pub(super) fn proxy_pairs(proxies: &pb::ProxyEnv) -> Vec<(String, String)> {
    let pb::ProxyEnv { http_proxy, https_proxy, ftp_proxy, no_proxy, all_proxy } = proxies;
    let named = [
        ("http_proxy", http_proxy),
        ("https_proxy", https_proxy),
        ("ftp_proxy", ftp_proxy),
        ("no_proxy", no_proxy),
        ("all_proxy", all_proxy),
    ];
    let given = named.into_iter().filter(|(_, value)| !value.is_empty());
    given
        .flat_map(|(name, value)| {
            [(name.to_ascii_uppercase(), value.clone()), (name.to_owned(), value.clone())]
        })
        .collect()
}

fn of_mount(mount: &Mount) -> pb::Mount {
    let Mount { input, selector, dest, output, readonly, kind } = mount;
    let mut out = pb::Mount {
        input: input.map_or(NOTHING, i64::from),
        selector: selector.clone(),
        dest: dest.clone(),
        output: output.map_or(NOTHING, i64::from),
        readonly: *readonly,
        ..pb::Mount::default()
    };
    let mount_type = match kind {
        MountKind::Bind => pb::MountType::Bind,
        MountKind::Cache { id, sharing } => {
            let sharing = match sharing {
                CacheSharing::Shared => pb::CacheSharingOpt::Shared,
                CacheSharing::Private => pb::CacheSharingOpt::Private,
                CacheSharing::Locked => pb::CacheSharingOpt::Locked,
            };
            out.cache_opt = Some(pb::CacheOpt { id: id.clone(), sharing: sharing.into() });
            pb::MountType::Cache
        }
        MountKind::Tmpfs { size_bytes } => {
            out.tmpfs_opt = Some(pb::TmpfsOpt { size: *size_bytes });
            pb::MountType::Tmpfs
        }
        MountKind::Secret(secret) => {
            let SecretMount { id, uid, gid, mode, optional } = secret.clone();
            out.secret_opt = Some(pb::SecretOpt { id, uid, gid, mode, optional });
            // It has no output; BuildKit's client leaves the number out.
            out.output = 0;
            pb::MountType::Secret
        }
        MountKind::Ssh(agent) => {
            let SshMount { id, uid, gid, mode, optional } = agent.clone();
            out.ssh_opt = Some(pb::SshOpt { id, uid, gid, mode, optional });
            out.output = 0;
            pb::MountType::Ssh
        }
    };
    out.mount_type = mount_type.into();
    out
}

fn action(actions: &[FileAction], at: usize, inputs: i64) -> pb::FileAction {
    let FileAction { input, secondary_input, output, kind } = &actions[at];
    let base = base_input(*input, &actions[..at]);
    let owner = |owner: &Option<Chown>| owner.as_ref().map(|owner| chown(owner, base));
    let action = match kind {
        FileActionKind::Copy(copy) => pb::Action::Copy(of_copy(copy, base)),
        FileActionKind::Mkfile { path, mode, data, owner: by, timestamp_ns } => {
            pb::Action::Mkfile(pb::FileActionMkFile {
                path: path.clone(),
                mode: mode.cast_signed(),
                data: data.clone(),
                owner: owner(by),
                timestamp: timestamp_ns.unwrap_or(NOTHING),
            })
        }
        FileActionKind::Mkdir { path, mode, make_parents, owner: by, timestamp_ns } => {
            pb::Action::Mkdir(pb::FileActionMkDir {
                path: path.clone(),
                mode: mode.cast_signed(),
                make_parents: *make_parents,
                owner: owner(by),
                timestamp: timestamp_ns.unwrap_or(NOTHING),
            })
        }
        FileActionKind::Rm { path, allow_not_found, allow_wildcard } => pb::Action::Rm(pb::FileActionRm {
            path: path.clone(),
            allow_not_found: *allow_not_found,
            allow_wildcard: *allow_wildcard,
        }),
        FileActionKind::Symlink { target, path, owner: by, timestamp_ns } => {
            pb::Action::Symlink(pb::FileActionSymlink {
                oldpath: target.clone(),
                newpath: path.clone(),
                owner: owner(by),
                timestamp: timestamp_ns.unwrap_or(NOTHING),
            })
        }
    };
    let number = |input: FileInput| match input {
        FileInput::Scratch => NOTHING,
        FileInput::Input(input) => i64::from(input),
        FileInput::Action(action) => inputs.saturating_add(i64::from(action)),
    };
    pb::FileAction {
        input: number(*input),
        secondary_input: secondary_input.map_or(NOTHING, number),
        output: output.map_or(NOTHING, i64::from),
        action: Some(action),
    }
}

/// The input of the op that `input` goes back to, over the actions before: names of owners are looked up
/// there.
pub(super) fn base_input(input: FileInput, before: &[FileAction]) -> i64 {
    let (mut input, mut before) = (input, before);
    loop {
        match input {
            FileInput::Scratch => return NOTHING,
            FileInput::Input(input) => return i64::from(input),
            FileInput::Action(at) => {
                let Some((earlier, [action, ..])) = before.split_at_checked(at as usize) else {
                    return NOTHING;
                };
                (input, before) = (action.input, earlier);
            }
        }
    }
}

fn of_copy(copy: &CopyAction, base: i64) -> pb::FileActionCopy {
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
    } = copy.clone();
    let mode = mode.unwrap_or_default();
    let octal = i32::from_str_radix(&mode, 8).ok().filter(|number| format!("{number:o}") == mode);
    pb::FileActionCopy {
        src,
        dest,
        owner: owner.map(|owner| chown(&owner, base)),
        mode: octal.unwrap_or(NO_MODE),
        mode_str: if octal.is_some() { String::new() } else { mode },
        follow_symlink,
        dir_copy_contents,
        attempt_unpack_docker_compatibility: attempt_unpack,
        create_dest_path,
        allow_wildcard,
        allow_empty_wildcard,
        timestamp: timestamp_ns.unwrap_or(NOTHING),
        include_patterns,
        exclude_patterns,
        always_replace_existing_dest_paths,
        required_paths,
    }
}

fn chown(owner: &Chown, base: i64) -> pb::ChownOpt {
    let Chown { user, group } = owner;
    let principal = |principal: &Principal| {
        let user = match principal {
            Principal::Id(id) => pb::User::ById(*id),
            Principal::Name(name) => pb::User::ByName(pb::NamedUserOpt { name: name.clone(), input: base }),
        };
        pb::UserOpt { user: Some(user) }
    };
    pb::ChownOpt { user: user.as_ref().map(principal), group: group.as_ref().map(principal) }
}
