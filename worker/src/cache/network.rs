//! What places at the network have in common: the client, the threads, and the user's wish to stop. It does not know
//! what is asked.

use super::CacheError;
use super::waiting::{Deadline, Waiting};
use kiln_registry::Client;
use kiln_runner::CancelToken;
use tokio::runtime::Handle;

/// The network of one build.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// The client of registries.
    pub client: Client,
    /// The threads of the network.
    pub runtime: Handle,
    /// What the user stops the build with.
    pub cancel: CancelToken,
}

impl Network {
    /// Waits until the work is done, the build is cancelled or, if there is a limit, the time is over.
    pub(super) fn wait<T, E>(
        &self,
        limit: Option<Deadline>,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, CacheError>
    where
        CacheError: From<E>,
    {
        self.waiting().wait(limit, work)
    }

    /// The same without the client.
    pub(super) fn waiting(&self) -> Waiting {
        Waiting { runtime: self.runtime.clone(), cancel: self.cancel.clone() }
    }
}
