//! The distribution protocol from a client's side: resolve, pull, push, mount, credentials.
//! It does not know builds, snapshots or what a layer holds.

mod answer;
mod auth;
mod catalog;
mod challenge;
mod client;
mod credentials;
mod error;
mod host;
mod origin;
mod patience;
mod pull;
mod push;
mod request;
mod token;
mod transport;
mod web;

pub use client::{Client, Options, Resolved};
pub use error::{Mismatch, Refusal, RegistryError};
pub use patience::Patience;
pub use push::PushedBlob;
pub use web::{WebAnswer, WebBody, WebRequest};
