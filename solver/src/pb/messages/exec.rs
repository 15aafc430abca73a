//! The messages of an ExecOp: the process, its mounts, secrets and devices. They do not know what runs.

use super::is_default;
use serde::Serialize;

/// Runs a process.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct ExecOp {
    /// The process.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub meta: Option<Meta>,
    /// What it sees mounted.
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub mounts: Vec<Mount>,
    /// Its network.
    #[prost(enumeration = "NetMode", tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub network: i32,
    /// Its confinement.
    #[prost(enumeration = "SecurityMode", tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub security: i32,
    /// Secrets in its environment.
    #[prost(message, repeated, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub secretenv: Vec<SecretEnv>,
    /// Its devices.
    #[prost(message, repeated, tag = "6")]
    #[serde(rename = "cdiDevices", skip_serializing_if = "is_default")]
    pub cdi_devices: Vec<CdiDevice>,
}

/// A process.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Meta {
    /// The program and its arguments.
    #[prost(string, repeated, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub args: Vec<String>,
    /// The environment.
    #[prost(string, repeated, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub env: Vec<String>,
    /// The folder to start in.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub cwd: String,
    /// The user.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub user: String,
    /// Proxies.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub proxy_env: Option<ProxyEnv>,
    /// More lines for `/etc/hosts`.
    #[prost(message, repeated, tag = "6")]
    #[serde(rename = "extraHosts", skip_serializing_if = "is_default")]
    pub extra_hosts: Vec<HostIp>,
    /// The host name.
    #[prost(string, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: String,
    /// Limits.
    #[prost(message, repeated, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub ulimit: Vec<Ulimit>,
    /// The control group.
    #[prost(string, tag = "10")]
    #[serde(rename = "cgroupParent", skip_serializing_if = "is_default")]
    pub cgroup_parent: String,
    /// Whether folders that were made only to mount on are removed, those above them too.
    #[prost(bool, tag = "11")]
    #[serde(rename = "removeMountStubsRecursive", skip_serializing_if = "is_default")]
    pub remove_mount_stubs_recursive: bool,
    /// The exit codes that count as success.
    #[prost(int32, repeated, tag = "12")]
    #[serde(rename = "validExitCodes", skip_serializing_if = "is_default")]
    pub valid_exit_codes: Vec<i32>,
}

/// Proxies of a process.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct ProxyEnv {
    /// For HTTP.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub http_proxy: String,
    /// For HTTPS.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub https_proxy: String,
    /// For FTP.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub ftp_proxy: String,
    /// Hosts without one.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub no_proxy: String,
    /// For all.
    #[prost(string, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub all_proxy: String,
}

/// A host's address.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct HostIp {
    /// The host.
    #[prost(string, tag = "1")]
    #[serde(rename = "Host", skip_serializing_if = "is_default")]
    pub host: String,
    /// The address.
    #[prost(string, tag = "2")]
    #[serde(rename = "IP", skip_serializing_if = "is_default")]
    pub ip: String,
}

/// A limit.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Ulimit {
    /// Its name.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// The soft limit.
    #[prost(int64, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub soft: i64,
    /// The hard limit.
    #[prost(int64, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub hard: i64,
}

/// A secret in the environment.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct SecretEnv {
    /// Which secret.
    #[prost(string, tag = "1")]
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub id: String,
    /// The variable.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Whether it may be missing.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub optional: bool,
}

/// A device.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct CdiDevice {
    /// Its full name.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Whether it may be missing.
    #[prost(bool, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub optional: bool,
}

/// A mount.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Mount {
    /// Which input of the op; -1 is an empty one.
    #[prost(int64, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub input: i64,
    /// The path in the input.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub selector: String,
    /// Where it is mounted.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub dest: String,
    /// Which output of the op it is afterwards; -1 is none.
    #[prost(int64, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub output: i64,
    /// Whether it can't be written.
    #[prost(bool, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub readonly: bool,
    /// What kind it is.
    #[prost(enumeration = "MountType", tag = "6")]
    #[serde(rename = "mountType", skip_serializing_if = "is_default")]
    pub mount_type: i32,
    /// Of a tmpfs.
    #[prost(message, optional, tag = "19")]
    #[serde(rename = "TmpfsOpt", skip_serializing_if = "is_default")]
    pub tmpfs_opt: Option<TmpfsOpt>,
    /// Of a cache.
    #[prost(message, optional, tag = "20")]
    #[serde(rename = "cacheOpt", skip_serializing_if = "is_default")]
    pub cache_opt: Option<CacheOpt>,
    /// Of a secret.
    #[prost(message, optional, tag = "21")]
    #[serde(rename = "secretOpt", skip_serializing_if = "is_default")]
    pub secret_opt: Option<SecretOpt>,
    /// Of an agent.
    #[prost(message, optional, tag = "22")]
    #[serde(rename = "SSHOpt", skip_serializing_if = "is_default")]
    pub ssh_opt: Option<SshOpt>,
    /// A result that was made before.
    #[prost(string, tag = "23")]
    #[serde(rename = "resultID", skip_serializing_if = "is_default")]
    pub result_id: String,
    /// Whether its content counts.
    #[prost(enumeration = "MountContentCache", tag = "24")]
    #[serde(rename = "contentCache", skip_serializing_if = "is_default")]
    pub content_cache: i32,
}

/// Of a tmpfs.
#[derive(Clone, Copy, PartialEq, prost::Message, Serialize)]
pub struct TmpfsOpt {
    /// Its size; 0 is no limit.
    #[prost(int64, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub size: i64,
}

/// Of a cache.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct CacheOpt {
    /// Which one.
    #[prost(string, tag = "1")]
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub id: String,
    /// Who may have it at once.
    #[prost(enumeration = "CacheSharingOpt", tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub sharing: i32,
}

/// Of a secret.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct SecretOpt {
    /// Which one.
    #[prost(string, tag = "1")]
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub id: String,
    /// The file's owner.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub uid: u32,
    /// The file's group.
    #[prost(uint32, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub gid: u32,
    /// The file's mode.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub mode: u32,
    /// Whether it may be missing.
    #[prost(bool, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub optional: bool,
}

/// Of an agent.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct SshOpt {
    /// Which one.
    #[prost(string, tag = "1")]
    #[serde(rename = "ID", skip_serializing_if = "is_default")]
    pub id: String,
    /// The socket's owner.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub uid: u32,
    /// The socket's group.
    #[prost(uint32, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub gid: u32,
    /// The socket's mode.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub mode: u32,
    /// Whether it may be missing.
    #[prost(bool, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub optional: bool,
}

/// The network of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum NetMode {
    /// The default.
    Unset = 0,
    /// The builder's own.
    Host = 1,
    /// None.
    None = 2,
}

/// The confinement of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SecurityMode {
    /// Confined.
    Sandbox = 0,
    /// Not confined.
    Insecure = 1,
}

/// The kind of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum MountType {
    /// An input.
    Bind = 0,
    /// A secret as a file.
    Secret = 1,
    /// An agent's socket.
    Ssh = 2,
    /// A folder that outlives the build.
    Cache = 3,
    /// Memory.
    Tmpfs = 4,
}

/// Whether the content of a mount counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum MountContentCache {
    /// As it is best.
    Default = 0,
    /// It does.
    On = 1,
    /// It does not.
    Off = 2,
}

/// Who may have a cache at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum CacheSharingOpt {
    /// All.
    Shared = 0,
    /// Each its own.
    Private = 1,
    /// One after another.
    Locked = 2,
}
