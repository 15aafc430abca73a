//! Registries without a store: logging in and out, and how an image would be pulled.
//! It does not know images.

use crate::WorkerError;
use kiln_oci::Reference;
use kiln_registry::{Client, Examination, FileLine, LoggedIn, LoggedOut, Options};
use tokio::runtime::Runtime;

/// A client of registries, with a thread of its own to wait on.
#[derive(Debug)]
pub struct Registries {
    client: Client,
    runtime: Runtime,
}

impl Registries {
    /// It has not connected to anything yet.
    pub fn new(options: Options) -> Result<Registries, WorkerError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(WorkerError::io("start the thread of", "the network"))?;
        Ok(Registries { client: Client::new(options)?, runtime })
    }

    /// How an image would be pulled, and what each place answers.
    pub fn examine(&self, reference: &Reference) -> Result<Examination, WorkerError> {
        Ok(self.runtime.block_on(self.client.examine(reference))?)
    }

    /// What a name is another name of, if it is an alias, and who says so.
    pub fn aliased(&self, written: &str) -> Result<Option<(String, FileLine)>, WorkerError> {
        Ok(self.client.aliased(written)?)
    }

    /// Checks credentials and keeps them.
    pub fn log_in(&self, registry: &str, username: &str, password: &str) -> Result<LoggedIn, WorkerError> {
        Ok(self.runtime.block_on(self.client.log_in(registry, username, password))?)
    }

    /// Forgets the credentials of a registry, or of all.
    pub fn log_out(&self, registry: Option<&str>) -> Result<LoggedOut, WorkerError> {
        Ok(self.runtime.block_on(self.client.log_out(registry))?)
    }
}
