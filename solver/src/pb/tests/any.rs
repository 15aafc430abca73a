//! Definitions at random: every kind of op with any value in each field, and only indices that lead
//! somewhere.

use crate::definition::*;
use kiln_oci::Platform;
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A vertex whose inputs are chosen later.
type Seed = (Op, Vec<(Index, Index)>, Option<Platform>, Metadata);

pub(super) fn definition() -> impl Strategy<Value = Definition> {
    (vec(seed(), 0..10), of((any::<Index>(), any::<Index>()))).prop_map(|(seeds, target)| {
        let mut graph = Definition::new();
        // Every output that there is so far.
        let mut edges: Vec<Edge> = Vec::new();
        for (op, picks, platform, metadata) in seeds {
            let inputs: Vec<Edge> = match (&op, edges.is_empty()) {
                (Op::Source(_), _) | (_, true) => Vec::new(),
                _ => picks.iter().map(|(edge, _)| *edge.get(&edges)).collect(),
            };
            let count = u32::try_from(inputs.len()).expect("few");
            let Some((op, outputs)) = fitted(op, count) else { continue };
            let known = graph.vertices().len();
            let vertex = graph.add(Vertex { op, inputs, platform, metadata });
            if vertex.index() == known {
                edges.extend(outputs.into_iter().map(|output| Edge { vertex, output }));
            }
        }
        graph.target = target.filter(|_| !edges.is_empty()).map(|(edge, _)| *edge.get(&edges));
        graph
    })
}

/// An op whose indices lead to one of so many inputs, and its outputs; nothing where it needs more.
fn fitted(op: Op, inputs: u32) -> Option<(Op, Vec<u32>)> {
    match op {
        Op::Source(_) => Some((op, vec![0])),
        Op::Merge => (inputs > 0).then_some((op, vec![0])),
        Op::Diff => (inputs == 2).then_some((op, vec![0])),
        Op::Exec(mut exec) => {
            exec.mounts[0].dest = "/".to_owned();
            let mut outputs = 0..;
            for mount in &mut exec.mounts {
                mount.input = mount.input.and_then(|input| input.checked_rem(inputs));
                let has_none = matches!(mount.kind, MountKind::Secret(_) | MountKind::Ssh(_));
                mount.output = mount.output.filter(|_| !has_none).and_then(|_| outputs.next());
            }
            let outputs = (0..outputs.start).collect();
            Some((Op::Exec(exec), outputs))
        }
        Op::File(mut file) => {
            let mut outputs = 0..;
            for (at, action) in file.actions.iter_mut().enumerate() {
                let before = u32::try_from(at).expect("few");
                let fit = |input: FileInput| match input {
                    FileInput::Input(input) => {
                        input.checked_rem(inputs).map_or(FileInput::Scratch, FileInput::Input)
                    }
                    FileInput::Action(action) => {
                        action.checked_rem(before).map_or(FileInput::Scratch, FileInput::Action)
                    }
                    FileInput::Scratch => FileInput::Scratch,
                };
                action.input = fit(action.input);
                let copies = matches!(action.kind, FileActionKind::Copy(_));
                action.secondary_input =
                    copies.then(|| fit(action.secondary_input.unwrap_or(FileInput::Scratch)));
                action.output = action.output.and_then(|_| outputs.next());
            }
            let outputs = (0..outputs.start).collect();
            Some((Op::File(file), outputs))
        }
    }
}

fn text() -> impl Strategy<Value = String> {
    "[a-c=:/é]{0,3}"
}

fn some_text() -> impl Strategy<Value = String> {
    "[a-z0-9/]{1,3}"
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..3)
}

fn seed() -> impl Strategy<Value = Seed> {
    let op = prop_oneof![
        3 => source(),
        3 => exec(),
        3 => vec(action(), 1..5).prop_map(|actions| Op::File(FileOp { actions })),
        1 => Just(Op::Merge),
        1 => Just(Op::Diff),
    ];
    (op, vec(any::<(Index, Index)>(), 0..4), of(platform()), metadata())
}

fn source() -> impl Strategy<Value = Op> {
    let scheme = select(vec!["docker-image://", "local://", "git://", "https://", "oci-layout://", "?"]);
    (scheme, text(), btree_map(text(), text(), 0..3)).prop_map(|(scheme, rest, attrs)| {
        Op::Source(SourceOp { identifier: format!("{scheme}{rest}"), attrs })
    })
}

fn platform() -> impl Strategy<Value = Platform> {
    (text(), text(), of(some_text()), texts(), of(some_text())).prop_map(
        |(architecture, os, os_version, os_features, variant)| Platform {
            architecture,
            os,
            os_version,
            os_features,
            variant,
        },
    )
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let line = || 1..=u32::try_from(i32::MAX).expect("positive");
    (text(), vec((line(), line()), 0..3), text(), any::<bool>(), of(any::<u64>())).prop_map(
        |(name, lines, stage, ignore_cache, max_age_s)| Metadata {
            name,
            lines,
            stage,
            ignore_cache,
            max_age_s,
        },
    )
}

fn exec() -> impl Strategy<Value = Op> {
    let network = select(vec![NetworkMode::Unset, NetworkMode::Host, NetworkMode::None]);
    let security = select(vec![SecurityMode::Sandbox, SecurityMode::Insecure]);
    let secret =
        (text(), text(), any::<bool>()).prop_map(|(id, name, optional)| SecretEnv { id, name, optional });
    let device = (text(), any::<bool>()).prop_map(|(name, optional)| CdiDevice { name, optional });
    let lists = (vec(secret, 0..3), vec(device, 0..3));
    (meta(), vec(mount(), 1..5), network, security, lists).prop_map(
        |(meta, mounts, network, security, (secret_env, devices))| {
            Op::Exec(Box::new(ExecOp { meta, mounts, network, security, secret_env, devices }))
        },
    )
}

fn meta() -> impl Strategy<Value = ExecMeta> {
    let proxy = select(vec!["HTTP_PROXY", "http_proxy", "no_proxy", "all_proxy", "FTP_PROXY", "other"]);
    let proxies = vec((proxy.prop_map(str::to_owned), text()), 0..4);
    let limits = vec((text(), any::<i64>(), any::<i64>()), 0..3);
    let first = (texts(), texts(), text(), text(), proxies);
    let second = (vec((text(), text()), 0..3), text(), limits, text(), vec(any::<i32>(), 0..3));
    (first, second).prop_map(
        |(
            (args, env, cwd, user, proxy_env),
            (extra_hosts, hostname, ulimits, cgroup_parent, valid_exit_codes),
        )| ExecMeta {
            args,
            env: env.into_iter().collect(),
            cwd,
            user,
            proxy_env,
            extra_hosts,
            hostname,
            ulimits,
            cgroup_parent,
            valid_exit_codes,
        },
    )
}

fn mount() -> impl Strategy<Value = Mount> {
    let sharing = select(vec![CacheSharing::Shared, CacheSharing::Private, CacheSharing::Locked]);
    let owned = || (text(), any::<u32>(), any::<u32>(), any::<u32>(), any::<bool>());
    let kind = prop_oneof![
        Just(MountKind::Bind),
        (text(), sharing).prop_map(|(id, sharing)| MountKind::Cache { id, sharing }),
        (0..i64::MAX).prop_map(|size_bytes| MountKind::Tmpfs { size_bytes }),
        owned().prop_map(|(id, uid, gid, mode, optional)| {
            MountKind::Secret(SecretMount { id, uid, gid, mode, optional })
        }),
        owned().prop_map(|(id, uid, gid, mode, optional)| {
            MountKind::Ssh(SshMount { id, uid, gid, mode, optional })
        }),
    ];
    (of(any::<u32>()), text(), text(), of(any::<u32>()), any::<bool>(), kind).prop_map(
        |(input, selector, dest, output, readonly, kind)| Mount {
            input,
            selector,
            dest,
            output,
            readonly,
            kind,
        },
    )
}

fn action() -> impl Strategy<Value = FileAction> {
    let input = || {
        prop_oneof![
            Just(FileInput::Scratch),
            any::<u32>().prop_map(FileInput::Input),
            any::<u32>().prop_map(FileInput::Action),
        ]
    };
    (input(), of(input()), of(any::<u32>()), action_kind()).prop_map(
        |(input, secondary_input, output, kind)| FileAction { input, secondary_input, output, kind },
    )
}

/// A time; -1 stands for none in BuildKit, and no whole second is that.
fn time() -> impl Strategy<Value = Option<i64>> {
    of(any::<i64>().prop_filter("that is none", |time| *time != -1))
}

fn owner() -> impl Strategy<Value = Option<Chown>> {
    let principal =
        || of(prop_oneof![any::<u32>().prop_map(Principal::Id), text().prop_map(Principal::Name)]);
    of((principal(), principal()).prop_map(|(user, group)| Chown { user, group }))
}

fn action_kind() -> impl Strategy<Value = FileActionKind> {
    let mode = || 0..0o10_0000_u32;
    prop_oneof![
        copy().prop_map(|copy| FileActionKind::Copy(Box::new(copy))),
        (text(), mode(), vec(any::<u8>(), 0..4), owner(), time()).prop_map(
            |(path, mode, data, owner, timestamp_ns)| FileActionKind::Mkfile {
                path,
                mode,
                data,
                owner,
                timestamp_ns,
            }
        ),
        (text(), mode(), any::<bool>(), owner(), time()).prop_map(
            |(path, mode, make_parents, owner, timestamp_ns)| FileActionKind::Mkdir {
                path,
                mode,
                make_parents,
                owner,
                timestamp_ns,
            }
        ),
        (text(), any::<bool>(), any::<bool>()).prop_map(|(path, allow_not_found, allow_wildcard)| {
            FileActionKind::Rm { path, allow_not_found, allow_wildcard }
        }),
        (text(), text(), owner(), time()).prop_map(|(target, path, owner, timestamp_ns)| {
            FileActionKind::Symlink { target, path, owner, timestamp_ns }
        }),
    ]
}

fn copy() -> impl Strategy<Value = CopyAction> {
    let mode = prop_oneof!["[0-7]{1,5}", "[ugo]=[rwX]{1,2}", Just("99999999999".to_owned())];
    let first = (text(), text(), owner(), of(mode), time());
    (first, any::<[bool; 7]>(), (texts(), texts(), texts())).prop_map(
        |((src, dest, owner, mode, timestamp_ns), flags, (include, exclude, required_paths))| CopyAction {
            src,
            dest,
            owner,
            mode,
            follow_symlink: flags[0],
            dir_copy_contents: flags[1],
            attempt_unpack: flags[2],
            create_dest_path: flags[3],
            allow_wildcard: flags[4],
            allow_empty_wildcard: flags[5],
            timestamp_ns,
            include_patterns: include,
            exclude_patterns: exclude,
            always_replace_existing_dest_paths: flags[6],
            required_paths,
        },
    )
}
