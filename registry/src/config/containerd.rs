//! containerd's `<folder>/<host>/hosts.toml`. It does not know requests.
//!
//! Of what such a file can say `header` and `dial_timeout` are not used.

use super::toml_file::{line_of, parse, read};
use super::{API_PATH, Endpoint, FileLine, Route, Security, Trust, wrong};
use crate::RegistryError;
use kiln_oci::Reference;
use reqwest::Url;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Spanned;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    server: Option<Spanned<String>>,
    host: BTreeMap<Spanned<String>, Host>,
    #[serde(flatten)]
    own: Host,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMore>,
    client: Option<Client>,
    skip_verify: bool,
    override_path: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(PathBuf),
    More(Vec<PathBuf>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    Both(PathBuf),
    Several(Vec<PathBuf>),
    Pairs(Vec<(PathBuf, PathBuf)>),
}

/// What the first folder that has a file for the registry says.
pub(super) fn route(folders: &[PathBuf], reference: &Reference) -> Result<Option<Route>, RegistryError> {
    let registry = reference.registry();
    // containerd takes `host_5000_` too, for file systems that know no colon.
    let names = [registry.to_owned(), registry.replacen(':', "_", 1) + "_"];
    for folder in folders {
        for name in names.iter().map(String::as_str).chain(["_default"]) {
            let file = folder.join(name).join("hosts.toml");
            if let Some(text) = read(&file)? {
                return Reader { file: &file, text: &text }.route(reference).map(Some);
            }
        }
    }
    Ok(None)
}

struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn route(&self, reference: &Reference) -> Result<Route, RegistryError> {
        let document: Document = parse(self.file, self.text)?;
        // The order of the tables in the file is the order of the mirrors.
        let mut hosts: Vec<(&Spanned<String>, &Host)> = document.host.iter().collect();
        hosts.sort_by_key(|(address, _)| address.span().start);
        let mut endpoints = Vec::new();
        for (address, host) in hosts {
            let can = |what: &str| host.capabilities.as_ref().is_none_or(|all| all.iter().any(|c| c == what));
            let is_asked = can("pull") && (reference.digest().is_some() || can("resolve"));
            let mut endpoint = self.endpoint(address, host, reference)?;
            endpoint.is_mirror = true;
            endpoints.extend(Some(endpoint).filter(|_| is_asked));
        }
        endpoints.push(match &document.server {
            Some(server) => self.endpoint(server, &document.own, reference)?,
            None => Endpoint {
                trust: self.trust(&document.own, 1)?,
                security: security(false, document.own.skip_verify),
                ..Endpoint::named(reference)
            },
        });
        Ok(Route { endpoints, blocked: None })
    }

    fn endpoint(
        &self,
        address: &Spanned<String>,
        host: &Host,
        reference: &Reference,
    ) -> Result<Endpoint, RegistryError> {
        let line = line_of(self.text, address.span().start);
        let text = address.get_ref();
        let whole = if text.contains("://") { text.clone() } else { format!("https://{text}") };
        let url = Url::parse(&whole).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
        });
        let Some(url) = url else {
            let text = crate::origin::without_secrets(text);
            return Err(wrong(self.file, line, format!("`{text}` is no address of a registry")));
        };
        let path = url.path().trim_end_matches('/');
        let path = match (host.override_path, path.ends_with(API_PATH)) {
            (true, _) | (_, true) => path.to_owned(),
            (false, false) => format!("{path}{API_PATH}"),
        };
        let authority = crate::origin::authority(&url);
        let docker_hub = [crate::origin::DOCKER_HUB_API, "index.docker.io"];
        let is_hub = docker_hub.contains(&authority.as_str());
        Ok(Endpoint {
            host: if is_hub { kiln_oci::DEFAULT_REGISTRY.to_owned() } else { authority },
            path,
            repository: reference.repository().to_owned(),
            security: security(url.scheme() == "http", host.skip_verify),
            trust: self.trust(host, line)?,
            is_mirror: false,
            at: Some(FileLine { file: self.file.to_owned(), line }),
        })
    }

    fn trust(&self, host: &Host, line: usize) -> Result<Trust, RegistryError> {
        // Paths are relative to the file.
        let beside = |path: &PathBuf| self.file.parent().unwrap_or(Path::new("/")).join(path);
        let authorities = match &host.ca {
            None => Vec::new(),
            Some(OneOrMore::One(path)) => vec![beside(path)],
            Some(OneOrMore::More(paths)) => paths.iter().map(beside).collect(),
        };
        let client = match &host.client {
            None => None,
            Some(Client::Both(file)) => Some((beside(file), beside(file))),
            Some(Client::Pairs(pairs)) => pairs.first().map(|(cert, key)| (beside(cert), beside(key))),
            Some(Client::Several(files)) => match files.as_slice() {
                [both] => Some((beside(both), beside(both))),
                [certificate, key] => Some((beside(certificate), beside(key))),
                _ => return Err(wrong(self.file, line, "`client` has to be a certificate and its key")),
            },
        };
        Ok(Trust { authorities, client })
    }
}

fn security(plain: bool, skip_verify: bool) -> Security {
    match (plain, skip_verify) {
        (true, _) => Security::Plain,
        (_, true) => Security::Insecure,
        _ => Security::Usual,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, name: &str, want: &[&str]) -> Route {
        let folder = tempfile::tempdir().expect("a folder");
        let of_host = folder.path().join("r.io:5000");
        std::fs::create_dir(&of_host).expect("a folder");
        std::fs::write(of_host.join("hosts.toml"), text).expect("written");
        let found = route(&[folder.path().to_owned()], &name.parse().expect("a name"));
        let found = found.expect("no mistake").expect("a file");
        let text = |e: &Endpoint| format!("{}{} {:?}", e.host, e.path, e.security);
        assert_eq!(found.endpoints.iter().map(text).collect::<Vec<_>>(), want);
        found
    }

    const FILE: &str = r#"
server = "https://r.io:5000"
[host."http://z.local:5001"]
capabilities = ["pull", "resolve"]
[host."https://a.local/v2/proxy"]
capabilities = ["pull"]
override_path = true
skip_verify = true
ca = "ca.pem"
client = [["c.pem", "/k.pem"]]
[host."https://p.local"]
capabilities = ["push"]
"#;

    #[test]
    fn mirrors_come_in_the_order_of_the_file_and_before_the_server() {
        check(FILE, "r.io:5000/x", &["z.local:5001/v2 Plain", "r.io:5000/v2 Usual"]);
        let digest = format!("r.io:5000/x@sha256:{}", "0".repeat(64));
        let want = ["z.local:5001/v2 Plain", "a.local/v2/proxy Insecure", "r.io:5000/v2 Usual"];
        let found = check(FILE, &digest, &want);
        let trust = &found.endpoints[1].trust;
        assert!(trust.authorities[0].ends_with("r.io:5000/ca.pem"), "{trust:?}");
        assert!(trust.client.as_ref().is_some_and(|(c, k)| c.ends_with("c.pem") && k == Path::new("/k.pem")));
        assert_eq!(found.endpoints[1].at.as_ref().map(|at| at.line), Some(5));
    }

    #[test]
    fn a_file_without_a_server_leaves_the_registry_as_it_is() {
        check("skip_verify = true\n", "r.io:5000/x", &["r.io:5000/v2 Insecure"]);
        check("[host.\"m.local\"]\n", "r.io:5000/x", &["m.local/v2 Usual", "r.io:5000/v2 Usual"]);
    }

    #[test]
    fn an_address_that_is_none_is_told_without_its_secrets() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("_default")).expect("a folder");
        let text = "\n[host.\"https://u:hunter2@m.local\"]\n";
        std::fs::write(folder.path().join("_default/hosts.toml"), text).expect("written");
        let error = route(&[folder.path().to_owned()], &"r.io/x".parse().expect("a name"));
        let error = error.expect_err("a mistake").to_string();
        assert!(error.contains("hosts.toml:2: `https://m.local`") && !error.contains("hunter2"), "{error}");
    }
}
