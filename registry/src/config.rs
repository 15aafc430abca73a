//! What other programs' files say of registries: where an image really is, its mirrors, and who is trusted.
//! It reads files and asks nobody.
//!
//! Of the three families of files the first that says something of a registry decides where its images are:
//! `registries.conf` (podman, skopeo), containerd's `hosts.toml`, BuildKit's `buildkitd.toml`.

mod buildkitd;
mod certificates;
mod containerd;
mod places;
mod proxy;
mod registries;
mod toml_file;

pub use places::Places;

pub(crate) use certificates::Trust;
pub(crate) use proxy::proxy_of;

use crate::RegistryError;
use kiln_oci::Reference;
use registries::Registries;
use std::fmt;
use std::path::{Path, PathBuf};

/// The folder of the API on a registry.
pub(crate) const API_PATH: &str = "/v2";

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct FileLine {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1 on.
    pub line: usize,
}

impl fmt::Display for FileLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// How much a connection must prove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Security {
    /// A certificate that is trusted; plain HTTP for this machine.
    #[default]
    Usual,
    /// Any certificate, or plain HTTP.
    Insecure,
    /// Plain HTTP and nothing else.
    Plain,
}

/// One place where an image may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Host, and port if it is not the usual one.
    pub(crate) host: String,
    /// The folder of the API, with a slash before it and none behind.
    pub(crate) path: String,
    pub(crate) repository: String,
    pub(crate) security: Security,
    /// Whom the same table says to trust, beside what the folders of certificates say.
    pub(crate) trust: Trust,
    pub(crate) is_mirror: bool,
    /// Who says so; nobody, where it is the registry that the reference names.
    pub(crate) at: Option<FileLine>,
}

/// Where an image is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The mirrors in their order, and behind them the registry.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Who forbids it.
    pub(crate) blocked: Option<FileLine>,
}

impl Endpoint {
    /// The registry that a reference names.
    pub(crate) fn named(reference: &Reference) -> Endpoint {
        Endpoint {
            host: reference.registry().to_owned(),
            path: API_PATH.to_owned(),
            repository: reference.repository().to_owned(),
            ..Endpoint::default()
        }
    }
}

/// All that was read.
#[derive(Debug)]
pub(crate) struct Config {
    places: Places,
    registries: Registries,
    buildkit: buildkitd::Buildkitd,
}

impl Config {
    /// Reads the files that are for all registries. Those of one registry are read when it is asked for.
    pub(crate) fn read(places: &Places) -> Result<Config, RegistryError> {
        Ok(Config {
            registries: Registries::read(&places.registries_files)?,
            buildkit: buildkitd::Buildkitd::read(&places.buildkitd_files)?,
            places: places.clone(),
        })
    }

    /// Where the image is pulled from.
    pub(crate) fn route(&self, reference: &Reference) -> Result<Route, RegistryError> {
        if let Some(route) = self.registries.route(reference) {
            return Ok(route);
        }
        if let Some(route) = containerd::route(&self.places.containerd_folders, reference)? {
            return Ok(route);
        }
        let route = self.buildkit.route(reference);
        Ok(route.unwrap_or_else(|| Route { endpoints: vec![Endpoint::named(reference)], blocked: None }))
    }

    /// Where the image is pushed to: the registry that it names and no other, as it was told how to reach that one.
    pub(crate) fn push_endpoint(
        &self,
        reference: &Reference,
    ) -> Result<(Endpoint, Option<FileLine>), RegistryError> {
        let named = Endpoint::named(reference);
        let route = self.route(reference)?;
        let same =
            |e: &&Endpoint| !e.is_mirror && (&e.host, &e.repository) == (&named.host, &named.repository);
        let endpoint = route.endpoints.iter().find(same).cloned();
        Ok((endpoint.unwrap_or(named), route.blocked))
    }

    /// What a short name, as `fedora`, is another name of, and who says so.
    pub(crate) fn alias(&self, name: &str) -> Option<(&str, &FileLine)> {
        self.registries.alias(name)
    }

    /// All short names and what they stand for.
    pub(crate) fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.registries.aliases()
    }

    /// What was read and has no effect here.
    pub(crate) fn notes(&self) -> &[String] {
        &self.registries.notes
    }
}

/// `host` and `repository` of `host/repository`.
fn split_name(name: &str) -> Option<(&str, &str)> {
    name.split_once('/').filter(|(host, repository)| !host.is_empty() && !repository.is_empty())
}

/// A mistake in a file.
fn wrong(file: &Path, line: usize, reason: impl Into<String>) -> RegistryError {
    RegistryError::Config { at: FileLine { file: file.to_owned(), line }, reason: reason.into() }
}
