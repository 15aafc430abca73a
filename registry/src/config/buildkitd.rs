//! The `[registry."host"]` tables of BuildKit's `buildkitd.toml`. It does not know what else is in that file.

use super::toml_file::{line_of, parse, read};
use super::{API_PATH, Endpoint, FileLine, Route, Security, Trust};
use crate::RegistryError;
use kiln_oci::Reference;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct Buildkitd {
    registries: BTreeMap<String, (Registry, FileLine)>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    registry: BTreeMap<Spanned<String>, Registry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Registry {
    mirrors: Vec<String>,
    http: bool,
    insecure: bool,
    ca: Vec<PathBuf>,
    keypair: Vec<KeyPair>,
}

#[derive(Debug, Deserialize)]
struct KeyPair {
    key: PathBuf,
    cert: PathBuf,
}

impl Buildkitd {
    /// Reads the first of the files that is there.
    pub(super) fn read(files: &[PathBuf]) -> Result<Buildkitd, RegistryError> {
        for file in files {
            if let Some(text) = read(file)? {
                return Buildkitd::of(file, &text);
            }
        }
        Ok(Buildkitd::default())
    }

    fn of(file: &Path, text: &str) -> Result<Buildkitd, RegistryError> {
        let document: Document = parse(file, text)?;
        let at = |start| FileLine { file: file.to_owned(), line: line_of(text, start) };
        let registries = document.registry.into_iter();
        let registries = registries.map(|(host, r)| (host.get_ref().clone(), (r, at(host.span().start))));
        Ok(Buildkitd { registries: registries.collect() })
    }

    /// Where the image is, if there is a table for its registry.
    pub(super) fn route(&self, reference: &Reference) -> Option<Route> {
        let (own, at) = self.registries.get(reference.registry())?;
        let mut endpoints = Vec::new();
        for mirror in &own.mirrors {
            let (host, path) = mirror.trim_end_matches('/').split_once('/').unwrap_or((mirror, ""));
            let repository = [path, reference.repository()];
            let repository =
                repository.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
            let named =
                Endpoint { host: host.to_owned(), repository, is_mirror: true, ..Endpoint::default() };
            endpoints.push(self.reached(named, at));
        }
        endpoints.push(self.reached(Endpoint::named(reference), at));
        Some(Route { endpoints, blocked: None })
    }

    /// An endpoint as its own table says it is reached.
    fn reached(&self, endpoint: Endpoint, at: &FileLine) -> Endpoint {
        let own = self.registries.get(&endpoint.host);
        let security = match own {
            Some((own, _)) if own.http => Security::Plain,
            Some((own, _)) if own.insecure => Security::Insecure,
            _ => Security::Usual,
        };
        let trust = own.map_or_else(Trust::default, |(own, _)| Trust {
            authorities: own.ca.clone(),
            client: own.keypair.first().map(|pair| (pair.cert.clone(), pair.key.clone())),
        });
        Endpoint { security, trust, path: API_PATH.to_owned(), at: Some(at.clone()), ..endpoint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_reached_as_their_own_tables_say() {
        let text = r#"
root = "/x"
[registry."docker.io"]
  mirrors = ["m.local:5000/hub", "n.local"]
[registry."m.local:5000"]
  http = true
[registry."n.local"]
  insecure = true
  ca = ["/ca.pem"]
  [[registry."n.local".keypair]]
    key = "/k.pem"
    cert = "/c.pem"
"#;
        let read = Buildkitd::of(Path::new("/b.toml"), text).expect("read");
        let route = read.route(&"alpine".parse().expect("a name")).expect("a table");
        let text = |e: &Endpoint| format!("{}/{} {:?}", e.host, e.repository, e.security);
        assert_eq!(
            route.endpoints.iter().map(text).collect::<Vec<_>>(),
            [
                "m.local:5000/hub/library/alpine Plain",
                "n.local/library/alpine Insecure",
                "docker.io/library/alpine Usual"
            ]
        );
        assert_eq!(route.endpoints[1].trust.authorities, [Path::new("/ca.pem")]);
        assert_eq!(route.endpoints[1].at.as_ref().map(ToString::to_string), Some("/b.toml:3".to_owned()));
        assert!(read.route(&"r.io/x".parse().expect("a name")).is_none());
    }
}
