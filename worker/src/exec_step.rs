//! A RUN: its root, its mounts and its secrets made ready, the process run, what it changed committed.
//! It does not know how a process is isolated, nor how changes are found.

use crate::WorkerError;
use crate::absence::Absence;
use crate::build::{Build, Made};
use crate::cache_mount::Caches;
use crate::emulation;
use crate::layer::Stack;
use crate::meta::LayerRow;
use crate::progress::{Notice, Progress};
use crate::ssh_agent::SocketOwner;
use kiln_runner::{BindMount, ExitStatus, MountSource, Network, ProcessSpec, Security};
use kiln_snapshotter::{
    Active, Begun, CommitOptions, Committed, CopyOptions, Mount as Overlay, Tree, Verdict, copy_tree,
};
use kiln_solver::{Edge, ExecOp, Mount, MountKind, NetworkMode, Op, SecurityMode, StepInputs, VertexId};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What lives as long as the process: mounts, scratch snapshots, caches.
#[derive(Default)]
struct Held {
    overlays: Vec<Overlay>,
    scratch: Vec<Active>,
    caches: Caches,
}

/// Runs a step and gives, for each output, what it added. If it fails while the disk is full and room can be made,
/// it runs once more, on a new snapshot.
pub(crate) fn run(build: &Build<'_>, vertex: VertexId, exec: &ExecOp) -> Result<Vec<Vec<Made>>, WorkerError> {
    build.store.with_space(|again| {
        if again {
            let lines = &build.vertex(vertex).metadata.lines;
            build.progress.send(Progress::Notice { vertex, lines, notice: Notice::RunAgain });
            // What the first run wrote is no part of the second's failure.
            build.progress.tail(vertex);
        }
        run_once(build, vertex, exec)
    })
}

fn run_once(build: &Build<'_>, vertex: VertexId, exec: &ExecOp) -> Result<Vec<Vec<Made>>, WorkerError> {
    let mut held = Held { caches: Caches::take(build, vertex, exec)?, ..Held::default() };
    let root = exec.mounts.iter().find(|m| m.dest == "/");
    let stack = match root.and_then(|m| m.input) {
        Some(input) => build.base(build.vertex(vertex).inputs[input as usize])?,
        None => Stack::default(),
    };
    let below = build.images.unpacked(&stack)?;
    let snapshots = &build.store.snapshots;
    let active = snapshots.prepare()?;
    let mount = snapshots.mount(&below, &active)?;
    let spec = spec(build, vertex, exec, &mount, &mut held)?;
    let mut show = |line| build.progress.send(Progress::Log { vertex, line: &line });
    let platform = build.vertex(vertex).platform.as_ref();
    let status = match kiln_runner::run(spec, &mut show, build.cancel) {
        Ok(status) => status,
        Err(error) => return Err(emulation::explained(error, &mount.root()?, exec, platform)),
    };
    // Before anything is dropped, and with it what filled the disk.
    let disk = build.store.shortage();
    let caches = std::mem::take(&mut held.caches);
    drop(held);
    caches.release(build.store)?;
    drop(mount);
    let fine = match status {
        ExitStatus::Code(code) if exec.meta.valid_exit_codes.is_empty() => code == 0,
        ExitStatus::Code(code) => exec.meta.valid_exit_codes.contains(&code),
        ExitStatus::Signal(_) => false,
    };
    if !fine {
        return Err(WorkerError::Step { command: exec.meta.args.join(" "), status, disk });
    }
    if disk.is_some() {
        // A commit that fails half-way can't be gone on with: there should be room for what it writes.
        build.store.make_room(build.store.rounds());
    }
    let committed = snapshots.commit(active, &below, &CommitOptions::default())?;
    let op = Op::Exec(Box::new(exec.clone()));
    let own = StepInputs { op: &op, platform, inputs: &[] }.key();
    Ok(vec![vec![Made::of(build, &own, Begun::Done(committed))?]])
}

/// Notes a layer that a step made.
pub(crate) fn add_layer(build: &Build<'_>, committed: &Committed) -> Result<i64, WorkerError> {
    build.store.meta.add_layer(&LayerRow::of(committed))
}

fn spec(
    build: &Build<'_>,
    vertex: VertexId,
    exec: &ExecOp,
    root: &Overlay,
    held: &mut Held,
) -> Result<ProcessSpec, WorkerError> {
    let meta = &exec.meta;
    let mut spec = ProcessSpec::new(root.try_clone()?, meta.args.iter().map(OsString::from).collect());
    spec.env = meta.env.to_list().into_iter().map(split_env).collect();
    for (name, value) in &meta.proxy_env {
        spec.env.push((name.into(), value.into()));
    }
    for secret in &exec.secret_env {
        match build.request.secrets.get(&secret.id) {
            Some(value) => spec.env.push(((&secret.name).into(), os_string(value))),
            None if secret.optional => spec.env.push(((&secret.name).into(), OsString::new())),
            None => return Err(WorkerError::Secret(secret.id.clone())),
        }
    }
    spec.cwd = PathBuf::from(if meta.cwd.is_empty() { "/" } else { &meta.cwd });
    spec.user.clone_from(&meta.user);
    if !meta.hostname.is_empty() {
        spec.hostname.clone_from(&meta.hostname);
    }
    for (name, address) in &meta.extra_hosts {
        let parsed = address.trim_matches(['[', ']']).parse();
        let parsed = parsed
            .map_err(|_| WorkerError::Unsupported(format!("the address `{address}` of --add-host {name}")))?;
        spec.extra_hosts.push((name.clone(), parsed));
    }
    spec.network = if exec.network == NetworkMode::None { Network::None } else { Network::Host };
    spec.security = match exec.security {
        SecurityMode::Sandbox => Security::Sandbox,
        SecurityMode::Insecure => Security::Insecure,
    };
    if build.request.shm_size_bytes > 0 {
        spec.shm_size_bytes = build.request.shm_size_bytes;
    }
    let limit = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
    spec.ulimits =
        meta.ulimits.iter().map(|(name, soft, hard)| (name.clone(), limit(*soft), limit(*hard))).collect();
    for (place, mount) in exec.mounts.iter().enumerate().filter(|(_, m)| m.dest != "/") {
        if let Some(source) = mount_source(build, vertex, (place, mount), held)? {
            spec.mounts.push(BindMount {
                target: PathBuf::from(&mount.dest),
                source,
                readonly: mount.readonly,
            });
        }
    }
    crate::cdi::apply(build.devices_of(vertex), &mut spec)?;
    Ok(spec)
}

fn split_env(pair: &str) -> (OsString, OsString) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    (name.into(), value.into())
}

fn os_string(bytes: &[u8]) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec(bytes.to_vec())
}

fn mount_source(
    build: &Build<'_>,
    vertex: VertexId,
    (place, mount): (usize, &Mount),
    held: &mut Held,
) -> Result<Option<MountSource>, WorkerError> {
    let input = mount.input.map(|i| build.vertex(vertex).inputs[i as usize]);
    Ok(Some(match &mount.kind {
        MountKind::Bind => bind(build, mount, input, held)?,
        MountKind::Cache { .. } => return held.caches.source(place),
        MountKind::Tmpfs { size_bytes } => {
            let size_bytes = u64::try_from(*size_bytes).ok().filter(|n| *n > 0);
            MountSource::Tmpfs { size_bytes, mode: 0o1777 }
        }
        MountKind::Secret(secret) => match build.request.secrets.get(&secret.id) {
            Some(data) => MountSource::Secret {
                data: data.clone(),
                mode: secret.mode,
                uid: secret.uid,
                gid: secret.gid,
            },
            None if secret.optional => return Ok(None),
            None => return Err(WorkerError::Secret(secret.id.clone())),
        },
        MountKind::Ssh(ssh) => match build.request.ssh.get(&ssh.id) {
            Some(agent) => {
                let owner = SocketOwner { uid: ssh.uid, gid: ssh.gid, mode: ssh.mode };
                MountSource::Socket(socket_mount(&agent.socket_for(build.store, owner)?)?)
            }
            None if ssh.optional => return Ok(None),
            None => return Err(WorkerError::Ssh(ssh.id.clone())),
        },
    }))
}

fn socket_mount(socket: &Path) -> Result<std::os::fd::OwnedFd, WorkerError> {
    use std::os::unix::ffi::OsStrExt;
    let folder = socket.parent().unwrap_or(Path::new("/"));
    let name = socket.file_name().unwrap_or_default();
    Ok(Tree::open(folder)?.open_subtree_mount(name.as_bytes())?)
}

fn bind(
    build: &Build<'_>,
    mount: &Mount,
    input: Option<Edge>,
    held: &mut Held,
) -> Result<MountSource, WorkerError> {
    let selector = mount.selector.as_bytes();
    if let Some(edge) = input
        && build.local(edge.vertex)?.is_some()
    {
        let copied = copy_of_local(build, edge, selector, b"bound")?;
        let source = copied.tree()?.open_subtree_mount(b"bound")?;
        held.scratch.push(copied);
        return Ok(MountSource::Detached(source));
    }
    let stack = input.map_or_else(Stack::default, |edge| build.stack(edge));
    let layers = build.images.unpacked(&stack)?;
    let snapshots = &build.store.snapshots;
    let overlay = if mount.readonly {
        snapshots.mount_readonly(&layers)?
    } else {
        // What is written goes into a snapshot that is dropped with the step.
        let scratch = snapshots.prepare()?;
        let overlay = snapshots.mount(&layers, &scratch)?;
        held.scratch.push(scratch);
        overlay
    };
    let source = overlay.root()?.open_subtree_mount(selector);
    held.overlays.push(overlay);
    match source {
        Ok(source) => Ok(MountSource::Detached(source)),
        Err(kiln_snapshotter::SnapshotError::NotFound(_)) => {
            let view = input.and_then(|edge| build.view(edge).ok());
            let around = view.map(|view| Absence::of(&view, selector)).unwrap_or_default();
            let (path, place) = (mount.selector.clone(), "what is mounted".to_owned());
            Err(WorkerError::NotFound { path, place, around: Box::new(around) })
        }
        Err(e) => Err(e.into()),
    }
}

/// A copy of a part of a local source at `dest` of a new snapshot: ignored files are not in it, and all belongs to root.
pub(crate) fn copy_of_local(
    build: &Build<'_>,
    edge: Edge,
    selector: &[u8],
    dest: &[u8],
) -> Result<Active, WorkerError> {
    let view = build.view(edge)?;
    let Some(local) = build.local(edge.vertex)? else {
        return Err(WorkerError::Unsupported("bind".to_owned()));
    };
    let path = view.resolve(selector, true)?;
    let scratch = build.store.snapshots.prepare()?;
    if view.node(&path)?.is_none() {
        return Err(WorkerError::NotFound {
            path: String::from_utf8_lossy(selector).into_owned(),
            place: view.place(),
            around: Box::new(Absence::of(&view, &path)),
        });
    }
    let filter = |relative: &[u8], is_dir: bool| {
        let full = if relative.is_empty() { path.clone() } else { crate::local::joined(&path, relative) };
        if local.is_ignored(&full, is_dir) { Verdict::Exclude } else { Verdict::Include }
    };
    let (owner, source_modes) = (local.owner(), local.modes());
    let options = CopyOptions { owner, source_modes, filter: &filter, ..CopyOptions::default() };
    let tree = scratch.tree()?;
    copy_tree(local.tree(), &path, &tree, dest, &options)?;
    // What is copied into a folder leaves its mode; a mounted folder has that of its source.
    if let Some(node) = view
        .node(&path)?
        .filter(|node| node.kind == kiln_snapshotter::NodeType::Directory && !path.is_empty())
    {
        tree.set_directory_mode(dest, node.mode)?;
    }
    Ok(scratch)
}
