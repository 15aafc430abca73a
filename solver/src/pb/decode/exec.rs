//! Reads ExecOps. It does not know what runs.

use super::{PbError, Reader, pb};
use crate::definition::{
    CacheSharing, CdiDevice, ExecMeta, ExecOp, Mount, MountKind, NetworkMode, SecretEnv, SecretMount,
    SecurityMode, SshMount,
};
use crate::pb::encode::{NOTHING, proxy_pairs};

impl Reader {
    /// The op, and the outputs that it has.
    pub(super) fn exec(self, exec: &pb::ExecOp, inputs: usize) -> Result<(ExecOp, Vec<u32>), PbError> {
        let pb::ExecOp { meta, mounts, network, security, secretenv, cdi_devices } = exec;
        let meta = self.meta(meta.as_ref().ok_or_else(|| self.missing("ExecOp.meta"))?);
        let count = mounts.len();
        let mounts =
            mounts.iter().map(|mount| self.mount(mount, inputs, count)).collect::<Result<Vec<_>, _>>()?;
        if !mounts.iter().any(|mount| mount.dest == "/") {
            return Err(self.missing("a mount at /"));
        }
        let outputs = self.outputs(mounts.iter().map(|mount| mount.output))?;
        let network = match self.choice("ExecOp.network", *network)? {
            pb::NetMode::Unset => NetworkMode::Unset,
            pb::NetMode::Host => NetworkMode::Host,
            pb::NetMode::None => NetworkMode::None,
        };
        let security = match self.choice("ExecOp.security", *security)? {
            pb::SecurityMode::Sandbox => SecurityMode::Sandbox,
            pb::SecurityMode::Insecure => SecurityMode::Insecure,
        };
        let secret = |secret: &pb::SecretEnv| {
            let pb::SecretEnv { id, name, optional } = secret.clone();
            SecretEnv { id, name, optional }
        };
        let device = |device: &pb::CdiDevice| {
            let pb::CdiDevice { name, optional } = device.clone();
            CdiDevice { name, optional }
        };
        let secret_env = secretenv.iter().map(secret).collect();
        let devices = cdi_devices.iter().map(device).collect();
        Ok((ExecOp { meta, mounts, network, security, secret_env, devices }, outputs))
    }

    fn meta(self, meta: &pb::Meta) -> ExecMeta {
        let pb::Meta {
            args,
            env,
            cwd,
            user,
            proxy_env,
            extra_hosts,
            hostname,
            ulimit,
            cgroup_parent,
            // kiln does so in any case.
            remove_mount_stubs_recursive: _,
            valid_exit_codes,
        } = meta.clone();
        ExecMeta {
            args,
            env: env.into_iter().collect(),
            cwd,
            user,
            proxy_env: proxy_env.as_ref().map(proxy_pairs).unwrap_or_default(),
            extra_hosts: extra_hosts.into_iter().map(|host| (host.host, host.ip)).collect(),
            hostname,
            ulimits: ulimit.into_iter().map(|limit| (limit.name, limit.soft, limit.hard)).collect(),
            cgroup_parent,
            valid_exit_codes,
        }
    }

    fn mount(self, mount: &pb::Mount, inputs: usize, mounts: usize) -> Result<Mount, PbError> {
        let pb::Mount {
            input,
            selector,
            dest,
            output,
            readonly,
            mount_type,
            tmpfs_opt,
            cache_opt,
            secret_opt,
            ssh_opt,
            result_id,
            content_cache,
        } = mount;
        if !result_id.is_empty() {
            return Err(self.unsupported("a mount of an earlier result"));
        }
        // Only how its key is made, and never what comes of it.
        let _: pb::MountContentCache = self.choice("Mount.contentCache", *content_cache)?;
        let mut output = *output;
        let kind = match self.choice("Mount.mountType", *mount_type)? {
            pb::MountType::Bind => MountKind::Bind,
            pb::MountType::Cache => {
                let cache = cache_opt.as_ref().ok_or_else(|| self.missing("Mount.cacheOpt"))?;
                let sharing = match self.choice("CacheOpt.sharing", cache.sharing)? {
                    pb::CacheSharingOpt::Shared => CacheSharing::Shared,
                    pb::CacheSharingOpt::Private => CacheSharing::Private,
                    pb::CacheSharingOpt::Locked => CacheSharing::Locked,
                };
                MountKind::Cache { id: cache.id.clone(), sharing }
            }
            pb::MountType::Tmpfs => {
                let size_bytes = tmpfs_opt.unwrap_or_default().size;
                if size_bytes < 0 {
                    return Err(self.number("TmpfsOpt.size", size_bytes));
                }
                MountKind::Tmpfs { size_bytes }
            }
            pb::MountType::Secret => {
                let secret = secret_opt.clone().ok_or_else(|| self.missing("Mount.secretOpt"))?;
                let pb::SecretOpt { id, uid, gid, mode, optional } = secret;
                output = NOTHING;
                MountKind::Secret(SecretMount { id, uid, gid, mode, optional })
            }
            pb::MountType::Ssh => {
                let agent = ssh_opt.clone().ok_or_else(|| self.missing("Mount.SSHOpt"))?;
                let pb::SshOpt { id, uid, gid, mode, optional } = agent;
                output = NOTHING;
                MountKind::Ssh(SshMount { id, uid, gid, mode, optional })
            }
        };
        Ok(Mount {
            input: self.optional("Mount.input", *input, inputs)?,
            selector: selector.clone(),
            dest: dest.clone(),
            output: self.optional("Mount.output", output, mounts)?,
            readonly: *readonly,
            kind,
        })
    }

    /// A choice among those that there are.
    fn choice<T: TryFrom<i32>>(self, field: &'static str, value: i32) -> Result<T, PbError> {
        T::try_from(value).map_err(|_| PbError::Unknown { op: self.op, field, value })
    }
}
