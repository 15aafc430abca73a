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
        let main = places.registries_files.first().filter(|_| places.are_registries_named);
        if let Some(missing) = main.filter(|file| !file.exists()) {
            return Err(wrong(missing, 1, "it is not there, and $CONTAINERS_REGISTRIES_CONF names it"));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(conf: &str) -> (Config, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("registries.conf");
        std::fs::write(&file, conf).expect("written");
        let places = Places { registries_files: vec![file], ..Places::default() };
        (Config::read(&places).expect("no mistake"), folder)
    }

    #[test]
    fn what_is_pulled_from_elsewhere_is_pushed_to_the_registry_of_its_name() {
        let conf = "[[registry]]\nprefix='a.io'\nlocation='b.io/a'\ninsecure=true\n[[registry]]\nlocation='c.io'\ninsecure=true\n";
        let (config, _folder) = config(conf);
        for (name, want) in [
            ("a.io/x", ("a.io", "x", Security::Usual)),
            ("c.io/x", ("c.io", "x", Security::Insecure)),
            ("d.io/x", ("d.io", "x", Security::Usual)),
        ] {
            let (to, _) = config.push_endpoint(&name.parse().expect("a name")).expect("a place");
            assert_eq!((to.host.as_str(), to.repository.as_str(), to.security), want);
        }
    }

    #[test]
    fn the_first_family_of_files_that_names_a_registry_decides() {
        let (mut config, folder) = config("[[registry]]\nprefix='a.io'\nlocation='first.io'\n");
        for host in ["a.io", "b.io"] {
            std::fs::create_dir(folder.path().join(host)).expect("a folder");
            std::fs::write(folder.path().join(host).join("hosts.toml"), "server='second.io'\n")
                .expect("written");
        }
        config.places.containerd_folders = vec![folder.path().to_owned()];
        for (name, want) in [("a.io/x", "first.io"), ("b.io/x", "second.io"), ("c.io/x", "c.io")] {
            let route = config.route(&name.parse().expect("a name")).expect("no mistake");
            assert_eq!(route.endpoints.last().map(|e| e.host.as_str()), Some(want));
        }
    }

    #[test]
    fn a_file_that_the_user_names_has_to_be_there() {
        let missing = Places {
            registries_files: vec![PathBuf::from("/nonexistent/r.conf")],
            are_registries_named: true,
            ..Places::default()
        };
        assert!(Config::read(&missing).is_err());
        assert!(Config::read(&Places { are_registries_named: false, ..missing }).is_ok());
    }
}
