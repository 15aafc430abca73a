//! What the tests need to prove kiln from outside: a store and a context of their own, the built
//! binary as a process, a real registry, a registry that misbehaves, base images, and a reader of
//! what was built. It does not know the crates that kiln is made of, but for the nouns of `oci`.

mod base_image;
mod certificates;
mod context;
mod fake_docker;
mod fake_registry;
mod faulty_registry;
mod gha_server;
mod http;
mod image;
mod process;
mod program;
mod proxy;
mod registry;
mod relay;
mod s3_server;
mod traces;

pub use base_image::{BUSYBOX_PATH, BaseImage, LayerEntry, Parts};
pub use certificates::Certificates;
pub use context::TestContext;
pub use fake_docker::{FakeDocker, Loaded, Manner};
pub use fake_registry::{FakeRegistry, Reply, closed_port};
pub use faulty_registry::{Asked, Fault, FaultyRegistry, Let, Nature, Recorded, Told, Uploads};
pub use gha_server::GhaServer;
pub use http::{Response, request};
pub use image::{ImageAssert, Kind, Node, digest_in, members_of, tree_of};
pub use process::{Finished, Invocation, Running, TIME_LIMIT};
pub use program::kiln_program;
pub use proxy::Proxy;
pub use registry::{BASIC_PASSWORD, BASIC_USER, Door, Registry};
pub use relay::{Fate, Passed, Relay};
pub use s3_server::{S3_BUCKET, S3_KEY_ID, S3_SECRET, S3Server};
pub use traces::{mounts_below, processes_naming, unique, wait_until};
