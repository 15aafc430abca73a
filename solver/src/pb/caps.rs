//! What a reader of an op must be able to do, in BuildKit's names (`solver/pb/caps.go`), op by op as
//! BuildKit's client asks for it (`client/llb`). It does not know who reads.

use crate::definition::{ExecMeta, ExecOp, MountKind, NetworkMode, Op, SecurityMode, SourceOp};
use std::collections::BTreeMap;

/// What an op asks for.
pub(super) fn of_op(op: &Op) -> BTreeMap<String, bool> {
    let mut caps = Vec::new();
    match op {
        Op::Source(source) => of_source(source, &mut caps),
        Op::Exec(exec) => of_exec(exec, &mut caps),
        Op::File(_) => caps.push("file.base"),
        Op::Merge => caps.push("mergeop"),
        Op::Diff => caps.push("diffop"),
    }
    named(caps)
}

/// What the whole definition asks for.
pub(super) fn of_target(ignores_cache: bool, has_descriptions: bool) -> BTreeMap<String, bool> {
    let mut caps = vec!["constraints", "platform"];
    if ignores_cache {
        caps.push("meta.ignorecache");
    }
    if has_descriptions {
        caps.push("meta.description");
    }
    named(caps)
}

fn named(caps: Vec<&str>) -> BTreeMap<String, bool> {
    caps.into_iter().map(|cap| (cap.to_owned(), true)).collect()
}

/// Attributes of a source, and what each asks for.
type OfAttrs = &'static [(&'static str, &'static str)];

/// By the beginning of the identifier: what is always asked for, and what for an attribute. The spelling
/// of the one for uid and gid is BuildKit's.
const SOURCES: [(&str, &str, OfAttrs); 6] = [
    (
        "docker-image://",
        "source.image",
        &[("image.layerlimit", "source.image.layerlimit"), ("image.checksum", "source.image.checksum")],
    ),
    (
        "local://",
        "source.local",
        &[
            ("local.session", "source.local.sessionid"),
            ("local.unique", "source.local.unique"),
            ("local.includepattern", "source.local.includepatterns"),
            ("local.followpaths", "source.local.followpaths"),
            ("local.excludepatterns", "source.local.excludepatterns"),
            ("local.sharedkeyhint", "source.local.sharedkeyhint"),
        ],
    ),
    (
        "git://",
        "source.git",
        &[
            ("git.keepgitdir", "source.git.keepgitdir"),
            ("git.fullurl", "source.git.fullurl"),
            ("git.mountsshsock", "source.git.mountsshsock"),
            ("git.knownsshhosts", "source.git.knownsshhosts"),
            ("git.checksum", "source.git.checksum"),
            ("git.skipsubmodules", "source.git.skipsubmodules"),
            ("git.mtime", "source.git.mtime"),
        ],
    ),
    ("http://", "source.http", OF_WEB),
    ("https://", "source.http", OF_WEB),
    ("oci-layout://", "source.ocilayout", &[]),
];

const OF_WEB: OfAttrs = &[
    ("http.checksum", "source.http.checksum"),
    ("http.perm", "source.http.perm"),
    ("http.uid", "soruce.http.uidgid"),
    ("http.gid", "soruce.http.uidgid"),
];

fn of_source(source: &SourceOp, caps: &mut Vec<&str>) {
    let SourceOp { identifier, attrs } = source;
    for (scheme, cap, of_attrs) in SOURCES {
        if identifier.starts_with(scheme) {
            caps.push(cap);
            caps.extend(of_attrs.iter().filter(|(attr, _)| attrs.contains_key(*attr)).map(|(_, cap)| *cap));
        }
    }
}

fn of_exec(exec: &ExecOp, caps: &mut Vec<&str>) {
    let ExecOp { meta, mounts, network, security, secret_env, devices } = exec;
    let ExecMeta { proxy_env, ulimits, valid_exit_codes, .. } = meta;
    let has_secret_file = mounts.iter().any(|mount| matches!(mount.kind, MountKind::Secret(_)));
    caps.extend(["exec.meta.base", "exec.meta.setsdefaultpath"]);
    let asked = [
        (!proxy_env.is_empty(), "exec.meta.proxyenv"),
        (!ulimits.is_empty(), "exec.meta.ulimit"),
        (!valid_exit_codes.is_empty(), "exec.validexitcode"),
        (*network != NetworkMode::Unset, "exec.meta.network"),
        (*security != SecurityMode::Sandbox, "exec.meta.security"),
        (has_secret_file || !secret_env.is_empty(), "exec.mount.secret"),
        (!secret_env.is_empty(), "exec.secretenv"),
        (!devices.is_empty(), "exec.meta.cdi"),
    ];
    caps.extend(asked.iter().filter(|(is_asked, _)| *is_asked).map(|(_, cap)| *cap));
    for mount in mounts {
        if !mount.selector.is_empty() {
            caps.push("exec.mount.selector");
        }
        match &mount.kind {
            MountKind::Bind if mount.input.is_some() => caps.push("exec.mount.bind"),
            MountKind::Cache { .. } => caps.extend(["exec.mount.cache", "exec.mount.cache.sharing"]),
            MountKind::Tmpfs { size_bytes } => {
                caps.push("exec.mount.tmpfs");
                if *size_bytes > 0 {
                    caps.push("exec.mount.tmpfs.size");
                }
            }
            MountKind::Ssh(_) => caps.push("exec.mount.ssh"),
            MountKind::Bind | MountKind::Secret(_) => {}
        }
    }
}
