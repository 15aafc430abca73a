//! Performs each action of a build; keeps cache records and images; writes results where they must end.
//! It does not know Dockerfiles, flags or terminals.

mod build;
mod cache_mount;
mod error;
mod exec_step;
mod export;
mod file_step;
mod images;
mod layer;
mod local;
mod memo;
mod meta;
mod output;
mod progress;
mod reads;
mod remote;
mod selection;
mod store;
mod view;
mod worker;

pub use error::{CopyError, WorkerError};
pub use export::Compress;
pub use images::Image;
pub use kiln_registry::{Options as RegistryOptions, RegistryError};
pub use kiln_runner::CancelToken;
pub use meta::ImageRow;
pub use output::{Form, Output, write_whole};
pub use progress::{Progress, ProgressSink, Transfer};
pub use worker::{BuildRequest, BuildResult, LocalFolder, Worker};
