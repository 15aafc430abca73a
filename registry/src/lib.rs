//! The distribution protocol from a client's side: resolve, pull, push, mount, credentials.
//! It does not know builds, snapshots or what a layer holds.

mod answer;
mod auth;
mod catalog;
mod challenge;
mod client;
mod config;
mod credentials;
mod endpoints;
mod error;
mod examine;

mod host;
mod json_text;
mod keeping;
mod keychain;
mod login;
mod origin;
mod patience;
mod pull;
mod push;
mod referrers;
mod request;
mod token;
mod transport;
mod upload;
mod web;

pub use client::{Client, Options, Resolved};
pub use config::{FileLine, Places};
pub use error::{Mismatch, Refusal, RegistryError};
pub use examine::{Examination, Examined, Identity, ProxyUsed, Role};
pub use login::{LoggedIn, LoggedOut};
pub use patience::Patience;
pub use push::PushedBlob;
pub use web::{WebAnswer, WebBody, WebRequest};
