//! Agents that steps and git may ask for signatures: the user's own, or one of kiln's that holds keys from files.
//! It does not know which steps ask.
//!
//! Keys are in memory alone. A socket for each owner and mode that steps want is in a private folder:
//! ```text
//! <root>/tmp/<name>/<n>
//! ```

mod key;
mod protocol;
mod server;
#[cfg(test)]
mod tests;

pub use key::{AgentKey, KeyError};

use crate::WorkerError;
use crate::store::Store;
use server::Server;
use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;

/// The longest path of a socket that a program can connect to.
const MAX_ADDRESS_BYTES: usize = 107;

/// An agent.
#[derive(Debug)]
pub enum SshAgent {
    /// One that listens already.
    Socket(PathBuf),
    /// One that is made of keys.
    Keys(KeyAgent),
}

/// Who may use a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketOwner {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

impl SocketOwner {
    /// kiln's own user alone.
    const SELF: SocketOwner = SocketOwner { uid: 0, gid: 0, mode: 0o600 };
}

impl SshAgent {
    /// The socket for steps that want it with this owner. The user's own is not changed.
    pub(crate) fn socket_for(&self, store: &Store, owner: SocketOwner) -> Result<PathBuf, WorkerError> {
        match self {
            SshAgent::Socket(socket) => Ok(socket.clone()),
            SshAgent::Keys(agent) => {
                agent.with_socket(store, owner, |home, name| home.folder.path().join(name))
            }
        }
    }

    /// What `SSH_AUTH_SOCK` is for programs of the host.
    pub(crate) fn address(&self, store: &Store) -> Result<PathBuf, WorkerError> {
        match self {
            SshAgent::Socket(socket) => Ok(socket.clone()),
            SshAgent::Keys(agent) => agent.with_socket(store, SocketOwner::SELF, Home::address),
        }
    }
}

/// An agent that has some keys, and listens from when it is first needed until it is dropped.
#[derive(Debug)]
pub struct KeyAgent {
    keys: Arc<[AgentKey]>,
    home: Mutex<Option<Home>>,
}

impl KeyAgent {
    /// An agent of these keys.
    pub fn new(keys: Vec<AgentKey>) -> KeyAgent {
        KeyAgent { keys: keys.into(), home: Mutex::default() }
    }

    /// Tells where the socket of an owner is, which is made if it is the first time.
    fn with_socket(
        &self,
        store: &Store,
        owner: SocketOwner,
        tell: impl FnOnce(&Home, &str) -> PathBuf,
    ) -> Result<PathBuf, WorkerError> {
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        let home = match &mut *home {
            Some(home) => home,
            none => none.insert(Home::new(store)?),
        };
        let place = home.sockets.iter().position(|(known, _)| *known == owner);
        let place = place.map_or_else(|| home.listen(owner, &self.keys), Ok)?;
        Ok(tell(home, &place.to_string()))
    }
}

/// Where an agent listens. The threads end before the folder goes.
#[derive(Debug)]
struct Home {
    sockets: Vec<(SocketOwner, Server)>,
    folder: TempDir,
    /// The folder, open, which keeps it from being swept too.
    lock: File,
}

impl Home {
    fn new(store: &Store) -> Result<Home, WorkerError> {
        let (folder, lock) = store.temporary_folder()?;
        let private = std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700));
        private.map_err(WorkerError::io("make private", folder.path()))?;
        Ok(Home { sockets: Vec::new(), folder, lock })
    }

    fn listen(&mut self, owner: SocketOwner, keys: &Arc<[AgentKey]>) -> Result<usize, WorkerError> {
        let place = self.sockets.len();
        let path = self.folder.path().join(place.to_string());
        let failed = || WorkerError::io("listen at", path.clone());
        // By the folder's descriptor: the store may be at a path that is too long for a socket.
        let by_folder = format!("/proc/self/fd/{}/{place}", self.lock.as_raw_fd());
        // It may be there from an attempt that failed.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(by_folder).map_err(failed())?;
        std::fs::set_permissions(&path, Permissions::from_mode(owner.mode & 0o777)).map_err(failed())?;
        std::os::unix::fs::chown(&path, Some(owner.uid), Some(owner.gid)).map_err(failed())?;
        let server = Server::start(listener, Arc::clone(keys)).map_err(failed())?;
        self.sockets.push((owner, server));
        Ok(place)
    }

    fn address(&self, name: &str) -> PathBuf {
        let path = std::path::absolute(self.folder.path().join(name)).unwrap_or_default();
        if (1..=MAX_ADDRESS_BYTES).contains(&path.as_os_str().as_bytes().len()) {
            return path;
        }
        Path::new("/proc")
            .join(std::process::id().to_string())
            .join(format!("fd/{}/{name}", self.lock.as_raw_fd()))
    }
}
