//! Which proxy a request goes through, told without its password. The HTTP client asks the same matcher.
//! It does not know requests.

use crate::origin::is_loopback;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// Scheme, host and port.
    pub(crate) address: String,
    /// The variable that names it.
    pub(crate) variable: &'static str,
}

/// The proxy for an address, if the environment names one. This machine is reached without any.
pub(crate) fn proxy_of(url: &Url) -> Option<Proxy> {
    if is_loopback(url.host_str().unwrap_or_default()) {
        return None;
    }
    let found = Matcher::from_env().intercept(&url.as_str().parse().ok()?)?;
    let uri = found.uri();
    // What may stand before the host is a user and a password.
    let authority = uri.authority()?.as_str();
    let authority = authority.rsplit('@').next().unwrap_or(authority);
    let address = format!("{}://{authority}", uri.scheme_str().unwrap_or("http"));
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let variable = variables(url.scheme()).iter().find(|name| is_set(name)).copied()?;
    Some(Proxy { address, variable })
}

/// The variables that may name a proxy, in the order in which they count.
fn variables(scheme: &str) -> &'static [&'static str] {
    match scheme {
        "https" => &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        _ => &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    }
}
