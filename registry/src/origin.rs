//! Addresses: where a registry's API is, what an origin is, and which addresses named by a server are used.
//! It does not know requests.

use crate::{Refusal, RegistryError};
use kiln_oci::DEFAULT_REGISTRY;
use reqwest::Url;
use std::net::IpAddr;

/// Where the API of docker.io is.
pub(crate) const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// Scheme, host and port: what a credential belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of an HTTP address.
    pub(crate) fn of(url: &Url) -> Origin {
        Origin {
            scheme: url.scheme().to_owned(),
            host: url.host_str().unwrap_or_default().to_owned(),
            port: url.port_or_known_default().unwrap_or_default(),
        }
    }
}

/// The host, and the port if there is one, where a registry's API is.
pub(crate) fn api_host(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY { DOCKER_HUB_API } else { registry }
}

/// The host of an address, with its port if it is not the scheme's own.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether a host, as it stands in an address, is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The address that a server at `from` names in `Location`: absolute or relative, its query kept.
pub(crate) fn named_address(from: &Url, location: &str) -> Result<Url, RegistryError> {
    let refused = |refusal| RegistryError::Address {
        host: authority(from),
        address: without_secrets(location),
        refusal,
    };
    let to = from.join(location).map_err(|_| refused(Refusal::NotHttp))?;
    if !matches!(to.scheme(), "http" | "https") || to.host_str().is_none_or(str::is_empty) {
        return Err(refused(Refusal::NotHttp));
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err(refused(Refusal::UserInfo));
    }
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err(refused(Refusal::Downgrade));
    }
    Ok(to)
}

/// The token server that the registry at `base` names, if credentials for the registry may go there.
/// Over plain HTTP it must be the registry's own host and port; over HTTPS a host of the same domain will do.
pub(crate) fn realm_address(base: &Url, realm: &str) -> Result<Url, RegistryError> {
    let refused =
        |refusal| RegistryError::Address { host: authority(base), address: without_secrets(realm), refusal };
    let to = Url::parse(realm).map_err(|_| refused(Refusal::NotHttp))?;
    let to = named_address(base, to.as_str())?;
    let allowed = match to.scheme() {
        "https" => same_domain(host(base), host(&to)),
        _ => Origin::of(base) == Origin::of(&to),
    };
    if allowed { Ok(to) } else { Err(refused(Refusal::ForeignRealm)) }
}

/// An address for a message: without its query, which may hold a signature, and without a user.
pub(crate) fn without_secrets(address: &str) -> String {
    let address = address.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = address.split_once("//").unwrap_or(("", address));
    let bare = rest.rsplit_once('@').map_or(rest, |(_, bare)| bare);
    crate::error::printable(&if scheme.is_empty() { bare.to_owned() } else { format!("{scheme}//{bare}") })
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default()
}

/// Whether two hosts are of one registrable domain. There is no list of public suffixes here; names
/// such as `co.uk` are known by their form, so that the answer is rather no than yes.
fn same_domain(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let is_address = |h: &str| h.starts_with('[') || h.parse::<IpAddr>().is_ok();
    if is_address(a) || is_address(b) {
        return false;
    }
    match (domain(a), domain(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

fn domain(host: &str) -> Option<&str> {
    const SECOND_LEVEL: [&str; 8] = ["co", "com", "org", "net", "gov", "edu", "ac", "or"];
    let host = host.trim_end_matches('.');
    let labels: Vec<&str> = host.split('.').collect();
    let [.., second, top] = labels.as_slice() else { return None };
    let wanted = if top.len() == 2 && SECOND_LEVEL.contains(second) { 3 } else { 2 };
    let first = labels.len().checked_sub(wanted)?;
    let start: usize = labels[..first].iter().map(|label| label.len() + 1).sum();
    Some(&host[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("an address")
    }

    #[test]
    fn this_machine_is_known_by_every_spelling() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.8.7", "[::1]", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.evil.org", "128.0.0.1", "10.0.0.1", "[::2]", "127.0.0.1.nip.io", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let of = |text| Origin::of(&url(text));
        assert_eq!(of("https://a/x?y"), of("https://a:443/"));
        for other in ["http://a/", "https://a:444/", "https://b/"] {
            assert_ne!(of("https://a/"), of(other), "{other}");
        }
    }

    #[test]
    fn a_location_is_absolute_or_relative_and_keeps_its_query() {
        let from = url("https://r.io/v2/x/blobs/uploads/");
        for (location, want) in [
            ("/up/1?s=a%2Fb&t=1", "https://r.io/up/1?s=a%2Fb&t=1"),
            ("1?s=2", "https://r.io/v2/x/blobs/uploads/1?s=2"),
            ("https://store.org/u?sig=x", "https://store.org/u?sig=x"),
            ("//other:99/u", "https://other:99/u"),
        ] {
            assert_eq!(named_address(&from, location).expect(location).as_str(), want);
        }
        for location in ["http://r.io/", "file:///etc/passwd", "ftp://r.io/", "https://u:p@r.io/", "https://"]
        {
            assert!(named_address(&from, location).is_err(), "{location}");
        }
    }

    #[test]
    fn an_address_in_a_message_holds_no_secret() {
        for (address, want) in [
            ("https://r.io/x?sig=1#2", "https://r.io/x"),
            ("https://u:p@r.io/x", "https://r.io/x"),
            ("https://u:p/@r.io/x", "https://r.io/x"),
            ("/x?sig=1", "/x"),
            ("\u{1b}[31m", "[31m"),
        ] {
            assert_eq!(without_secrets(address), want);
        }
    }

    #[test]
    fn a_token_server_must_belong_to_the_registry() {
        for (base, realm, allowed) in [
            ("https://registry-1.docker.io/v2/", "https://auth.docker.io/token", true),
            ("https://images.example.com/v2/", "https://example.com/jwt/auth", true),
            ("https://ghcr.io/v2/", "https://ghcr.io/token", true),
            ("https://r.example.co.uk/v2/", "https://auth.example.co.uk/t", true),
            ("https://r.example.co.uk/v2/", "https://auth.other.co.uk/t", false),
            ("https://r.io/v2/", "https://evil.org/t", false),
            ("https://r.io/v2/", "https://xr.io/t", false),
            ("https://r.io/v2/", "http://r.io/t", false),
            ("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5000/t", true),
            ("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5001/t", false),
            ("http://127.0.0.1:5000/v2/", "https://127.0.0.1:5001/t", true),
            ("http://127.0.0.1:5000/v2/", "https://128.0.0.1:5000/t", false),
            ("http://localhost:5000/v2/", "http://127.0.0.1:5000/t", false),
            ("https://r.io/v2/", "/token", false),
            ("https://r.io/v2/", "https://u:p@r.io/t", false),
            ("https://r.io/v2/", "", false),
        ] {
            assert_eq!(realm_address(&url(base), realm).is_ok(), allowed, "{base} {realm}");
        }
    }
}
