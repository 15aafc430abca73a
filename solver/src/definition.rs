//! The graph of a build in LLB's terms: vertices with operations, edges between them.
//!
//! Each operation has exactly the attributes of BuildKit's `pb.Op` (`solver/pb/ops.proto`), so that a
//! definition can be written as BuildKit's protobuf and read back. It does not know how an operation
//! is done, nor where the graph came from.

use crate::env::Env;
use kiln_oci::Platform;
use std::collections::BTreeMap;

/// The number of a vertex in its definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VertexId(pub u32);

impl VertexId {
    /// Its place in [`Definition::vertices`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One output of a vertex, used as an input of another or as the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// The vertex.
    pub vertex: VertexId,
    /// Which of its outputs, counted from 0.
    pub output: u32,
}

/// A graph. Inputs come before those that use them, so that it has no cycle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    vertices: Vec<Vertex>,
    seen: BTreeMap<(Vec<Edge>, u64), Vec<VertexId>>,
    /// What the build is for; `None` is an empty file system.
    pub target: Option<Edge>,
}

/// A vertex: an operation on inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vertex {
    /// What is done.
    pub op: Op,
    /// What it is done on.
    pub inputs: Vec<Edge>,
    /// The platform that it is done for; `None` where it does not matter (local files).
    pub platform: Option<Platform>,
    /// What does not count for what it is.
    pub metadata: Metadata,
}

/// What does not change what a vertex makes (`pb.OpMetadata`), and what people are shown of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The name in the progress, as `[build 2/5] RUN make`.
    pub name: String,
    /// The lines of the Dockerfile that it comes from, counted from 1; empty where there are none.
    pub lines: Vec<(u32, u32)>,
    /// The stage that it belongs to, for `--no-cache-filter`.
    pub stage: String,
    /// Whether what is known of it from before is not used.
    pub ignore_cache: bool,
    /// What is known of it from before is not used if it is older than this, in seconds.
    pub max_age_s: Option<u64>,
}

/// What a vertex does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Brings something in from outside.
    Source(SourceOp),
    /// Runs a process.
    Exec(Box<ExecOp>),
    /// Works on files.
    File(FileOp),
    /// Lays its inputs over each other, the first at the bottom.
    Merge,
    /// What the second input has and the first has not.
    Diff,
}

/// `pb.SourceOp`: an identifier and attributes.
///
/// Identifiers: `docker-image://REF@sha256:…`, `local://NAME` (`context`, `dockerfile` or a named
/// context), `git://…`, `https://…`, `http://…`, `oci-layout://…`.
/// Attributes are those of BuildKit: `local.excludepatterns`, `local.includepattern`,
/// `local.followpaths` (JSON arrays), `git.keepgitdir`, `git.fullurl`, `git.checksum`,
/// `git.skipsubmodules`, `git.mtime`, `http.checksum`, `http.filename`, `http.perm`, `http.uid`, `http.gid`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceOp {
    /// What is brought in, as a URL.
    pub identifier: String,
    /// How.
    pub attrs: BTreeMap<String, String>,
}

/// `pb.ExecOp`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExecOp {
    /// The process.
    pub meta: ExecMeta,
    /// What it sees mounted; the one at `/` is its root.
    pub mounts: Vec<Mount>,
    /// Its network.
    pub network: NetworkMode,
    /// Its confinement.
    pub security: SecurityMode,
    /// Secrets in its environment.
    pub secret_env: Vec<SecretEnv>,
    /// Devices (CDI) that it gets.
    pub devices: Vec<CdiDevice>,
}

/// `pb.Meta`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExecMeta {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The environment.
    pub env: Env,
    /// The folder to start in.
    pub cwd: String,
    /// User, or user and group, names or numbers; empty is root.
    pub user: String,
    /// Proxy settings, which are no part of any key.
    pub proxy_env: Vec<(String, String)>,
    /// More lines for `/etc/hosts`: name and address. The addresses are no part of any key.
    pub extra_hosts: Vec<(String, String)>,
    /// The host name, or empty for the default.
    pub hostname: String,
    /// Limits: name, soft, hard.
    pub ulimits: Vec<(String, i64, i64)>,
    /// The control group to be in.
    pub cgroup_parent: String,
    /// Exit codes that count as success; empty means 0.
    pub valid_exit_codes: Vec<i32>,
}

/// `pb.Mount`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mount {
    /// Which input of the vertex is mounted; `None` is an empty one.
    pub input: Option<u32>,
    /// The path in the input, or empty for all of it.
    pub selector: String,
    /// Where it is mounted.
    pub dest: String,
    /// Which output of the vertex holds it afterwards; `None` where changes are dropped.
    pub output: Option<u32>,
    /// Whether it can't be written.
    pub readonly: bool,
    /// What kind of mount it is.
    pub kind: MountKind,
}

/// `pb.MountType` with what belongs to each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MountKind {
    /// An input.
    Bind,
    /// A folder that outlives the build.
    Cache {
        /// Which one.
        id: String,
        /// Who may have it at once.
        sharing: CacheSharing,
    },
    /// Memory.
    Tmpfs {
        /// Its size in bytes; 0 is no limit.
        size_bytes: i64,
    },
    /// A secret as a file.
    Secret(SecretMount),
    /// An agent's socket.
    Ssh(SshMount),
}

/// `pb.CacheSharingOpt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheSharing {
    /// All at once.
    Shared,
    /// Each its own.
    Private,
    /// One after another.
    Locked,
}

/// `pb.SecretOpt`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretMount {
    /// Which secret.
    pub id: String,
    /// The file's owner.
    pub uid: u32,
    /// The file's group.
    pub gid: u32,
    /// The file's mode.
    pub mode: u32,
    /// Whether it may be missing.
    pub optional: bool,
}

/// `pb.SSHOpt`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SshMount {
    /// Which agent.
    pub id: String,
    /// The socket's owner.
    pub uid: u32,
    /// The socket's group.
    pub gid: u32,
    /// The socket's mode.
    pub mode: u32,
    /// Whether it may be missing.
    pub optional: bool,
}

/// `pb.SecretEnv`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretEnv {
    /// Which secret.
    pub id: String,
    /// The variable's name.
    pub name: String,
    /// Whether it may be missing.
    pub optional: bool,
}

/// `pb.CDIDevice`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CdiDevice {
    /// The device's full name.
    pub name: String,
    /// Whether it may be missing.
    pub optional: bool,
}

/// `pb.NetMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NetworkMode {
    /// The default.
    Unset,
    /// The builder's own.
    Host,
    /// None but the loopback device.
    None,
}

/// `pb.SecurityMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecurityMode {
    /// Confined.
    Sandbox,
    /// Not confined.
    Insecure,
}

/// `pb.FileOp`: actions, each on the vertex's inputs or on the result of an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileOp {
    /// The actions, in order.
    pub actions: Vec<FileAction>,
}

/// What an action works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileInput {
    /// An empty file system.
    Scratch,
    /// An input of the vertex.
    Input(u32),
    /// What an earlier action of the same vertex made.
    Action(u32),
}

/// `pb.FileAction`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileAction {
    /// The file system that is changed.
    pub input: FileInput,
    /// What is copied from, for a copy.
    pub secondary_input: Option<FileInput>,
    /// Which output of the vertex the result is; `None` for an intermediate one.
    pub output: Option<u32>,
    /// The change.
    pub kind: FileActionKind,
}

/// The changes that an action can make.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FileActionKind {
    /// Copies files.
    Copy(Box<CopyAction>),
    /// Makes a file.
    Mkfile {
        /// Where.
        path: String,
        /// Its mode.
        mode: u32,
        /// Its content.
        data: Vec<u8>,
        /// Its owner.
        owner: Option<Chown>,
        /// Its modification time in nanoseconds since 1970; `None` is now.
        timestamp_ns: Option<i64>,
    },
    /// Makes a folder.
    Mkdir {
        /// Where.
        path: String,
        /// Its mode, and that of the parents made on the way.
        mode: u32,
        /// Whether missing parents are made, and an existing folder is no error.
        make_parents: bool,
        /// Its owner.
        owner: Option<Chown>,
        /// Its modification time in nanoseconds since 1970; `None` is now.
        timestamp_ns: Option<i64>,
    },
    /// Removes a path.
    Rm {
        /// What.
        path: String,
        /// Whether it may be missing.
        allow_not_found: bool,
        /// Whether the path is a pattern.
        allow_wildcard: bool,
    },
    /// Makes a symbolic link.
    Symlink {
        /// The link's target.
        target: String,
        /// Where.
        path: String,
        /// Its owner.
        owner: Option<Chown>,
        /// Its modification time in nanoseconds since 1970; `None` is now.
        timestamp_ns: Option<i64>,
    },
}

/// `pb.FileActionCopy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CopyAction {
    /// The path in the source, perhaps a pattern.
    pub src: String,
    /// The path in the destination; a slash at its end means a folder.
    pub dest: String,
    /// The new owner; `None` keeps the source's.
    pub owner: Option<Chown>,
    /// The new mode: octal digits (`pb`'s `mode`) or chmod's symbols (`pb`'s `modeStr`).
    pub mode: Option<String>,
    /// Whether a link as the last component of `src` is followed.
    pub follow_symlink: bool,
    /// Whether a folder's content is copied rather than the folder.
    pub dir_copy_contents: bool,
    /// Whether archives are unpacked, as ADD does.
    pub attempt_unpack: bool,
    /// Whether missing parents of `dest` are made.
    pub create_dest_path: bool,
    /// Whether `src` is a pattern.
    pub allow_wildcard: bool,
    /// Whether a pattern may match nothing.
    pub allow_empty_wildcard: bool,
    /// The modification time of folders made for `dest`, in nanoseconds since 1970; `None` is now. What is
    /// copied keeps its own.
    pub timestamp_ns: Option<i64>,
    /// Only what matches these is copied (none: everything).
    pub include_patterns: Vec<String>,
    /// What matches these is not copied.
    pub exclude_patterns: Vec<String>,
    /// Whether what is there is replaced whatever its type.
    pub always_replace_existing_dest_paths: bool,
    /// Paths in the source that must be there (`COPY --parents`).
    pub required_paths: Vec<String>,
}

/// `pb.ChownOpt`: a user and a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chown {
    /// The user.
    pub user: Option<Principal>,
    /// The group.
    pub group: Option<Principal>,
}

/// `pb.UserOpt`: by number, or by a name that the input's `/etc/passwd` or `/etc/group` has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A number.
    Id(u32),
    /// A name, looked up in what the action changes.
    Name(String),
}

impl Definition {
    /// An empty graph.
    pub fn new() -> Definition {
        Definition::default()
    }

    /// The vertices; inputs come before those that use them.
    pub fn vertices(&self) -> &[Vertex] {
        &self.vertices
    }

    /// A vertex by its number.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.index()]
    }

    /// Gives a process the devices that its own stand for where it is run.
    pub fn set_devices(&mut self, id: VertexId, devices: Vec<CdiDevice>) {
        if let Op::Exec(exec) = &mut self.vertices[id.index()].op {
            exec.devices = devices;
        }
    }

    /// Adds a vertex and gives its number; an equal one that is there already is given instead.
    ///
    /// # Panics
    /// If an input is not in the graph yet: a mistake of the caller, and never of a user's.
    pub fn add(&mut self, vertex: Vertex) -> VertexId {
        let next = VertexId(u32::try_from(self.vertices.len()).unwrap_or(u32::MAX));
        assert!(vertex.inputs.iter().all(|e| e.vertex < next), "an input must be added before what uses it");
        let key = (vertex.inputs.clone(), quick_hash(&vertex));
        let alike = self.seen.entry(key).or_default();
        let same = |v: &Vertex| {
            v.op == vertex.op
                && v.platform == vertex.platform
                && v.metadata.ignore_cache == vertex.metadata.ignore_cache
                && v.metadata.max_age_s == vertex.metadata.max_age_s
        };
        if let Some(id) = alike.iter().find(|id| same(&self.vertices[id.index()])) {
            return *id;
        }
        alike.push(next);
        self.vertices.push(vertex);
        next
    }

    /// Adds all of another graph, in which what is there already becomes one with it, and gives where the
    /// other's target is now. Its own target stays.
    pub fn merge(&mut self, other: &Definition) -> Option<Edge> {
        let mut numbers: Vec<VertexId> = Vec::with_capacity(other.vertices.len());
        let moved =
            |numbers: &[VertexId], edge: &Edge| Edge { vertex: numbers[edge.vertex.index()], ..*edge };
        for vertex in &other.vertices {
            let inputs = vertex.inputs.iter().map(|edge| moved(&numbers, edge)).collect();
            numbers.push(self.add(Vertex { inputs, ..vertex.clone() }));
        }
        other.target.as_ref().map(|edge| moved(&numbers, edge))
    }
}

/// Narrows the search for an equal vertex; never leaves this process.
fn quick_hash(vertex: &Vertex) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    vertex.op.hash(&mut hasher);
    vertex.platform.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str) -> Vertex {
        let op = Op::Source(SourceOp { identifier: format!("local://{name}"), attrs: BTreeMap::new() });
        Vertex { op, inputs: Vec::new(), platform: None, metadata: Metadata::default() }
    }

    #[test]
    fn equal_vertices_are_one() {
        let mut graph = Definition::new();
        let a = graph.add(source("a"));
        let named = Metadata { name: "shown differently".to_owned(), ..Metadata::default() };
        assert_eq!(graph.add(Vertex { metadata: named, ..source("a") }), a);
        assert_ne!(graph.add(source("b")), a);
        assert_eq!(graph.vertices().len(), 2);
    }

    #[test]
    fn merged_graphs_share_what_is_equal_and_keep_what_is_not() {
        let on = |graph: &mut Definition, inputs: &[VertexId]| {
            let inputs = inputs.iter().map(|vertex| Edge { vertex: *vertex, output: 0 }).collect();
            graph.add(Vertex { op: Op::Merge, inputs, platform: None, metadata: Metadata::default() })
        };
        let (mut one, mut other) = (Definition::new(), Definition::new());
        let (a, b) = (one.add(source("a")), one.add(source("b")));
        on(&mut one, &[a, b]);
        let (c, a) = (other.add(source("c")), other.add(source("a")));
        let top = on(&mut other, &[a, c]);
        other.target = Some(Edge { vertex: top, output: 0 });
        let moved = one.merge(&other).expect("the other has a target");
        assert_eq!(one.vertices().len(), 5, "a is there once");
        let inputs = &one.vertex(moved.vertex).inputs;
        assert_eq!(one.vertex(inputs[0].vertex), &source("a"));
        assert_eq!(one.vertex(inputs[1].vertex), &source("c"));
        assert_eq!(one.merge(&other), Some(moved), "what is there is found again");
        assert_eq!((one.vertices().len(), one.target), (5, None));
    }

    #[test]
    fn a_vertex_that_ignores_the_cache_is_its_own() {
        let mut graph = Definition::new();
        let a = graph.add(source("a"));
        let anew = Metadata { ignore_cache: true, ..Metadata::default() };
        assert_ne!(graph.add(Vertex { metadata: anew, ..source("a") }), a);
        let young = Metadata { max_age_s: Some(60), ..Metadata::default() };
        assert_ne!(graph.add(Vertex { metadata: young, ..source("a") }), a);
    }
}
