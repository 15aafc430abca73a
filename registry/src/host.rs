//! One registry host: how it is reached, what it was shown, and how many requests it gets at once.
//! It does not know what is asked of it.

use crate::auth::Auth;
use crate::config::{Endpoint, Security};
use crate::origin::{api_host, is_loopback};
use crate::transport::Wire;
use reqwest::Url;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const TRANSFERS_MAX: usize = 4;
const QUESTIONS_MAX: usize = 4;

/// Whether a request moves a blob. Small ones do not queue behind large ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Question,
    Transfer,
}

/// A registry, as references name it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) registry: String,
    pub(crate) auth: Auth,
    path: String,
    is_mirror: bool,
    has_failed: AtomicBool,
    wires: Vec<Wire>,
    chosen: OnceLock<Wire>,
    transfers: Arc<Semaphore>,
    questions: Arc<Semaphore>,
}

impl Host {
    /// A registry that nothing is known of yet. `insecure`: the user allows plain HTTP to it, whatever files say.
    pub(crate) fn new(endpoint: &Endpoint, insecure: bool) -> Host {
        let registry = endpoint.host.as_str();
        let insecure = insecure || endpoint.security == Security::Insecure;
        let loopback = host_name(registry).is_some_and(|name| is_loopback(&name));
        let wires = match (loopback, insecure) {
            (true, false) => vec![Wire::Plain, Wire::Verified],
            (true, true) => vec![Wire::Plain, Wire::Unverified],
            (false, true) => vec![Wire::Unverified, Wire::Plain],
            (false, false) => vec![Wire::Verified],
        };
        let wires = if endpoint.security == Security::Plain { vec![Wire::Plain] } else { wires };
        Host {
            registry: registry.to_owned(),
            auth: Auth::default(),
            path: endpoint.path.clone(),
            is_mirror: endpoint.is_mirror,
            has_failed: AtomicBool::new(false),
            wires,
            chosen: OnceLock::new(),
            transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        }
    }

    /// One that is reached in the same way, and was shown something else.
    pub(crate) fn like(other: &Host, auth: Auth) -> Host {
        Host {
            registry: other.registry.clone(),
            auth,
            path: other.path.clone(),
            is_mirror: other.is_mirror,
            has_failed: AtomicBool::new(false),
            wires: other.wires.clone(),
            chosen: OnceLock::new(),
            transfers: Arc::clone(&other.transfers),
            questions: Arc::clone(&other.questions),
        }
    }

    /// The ways to reach it, in the order in which they are tried: one alone once it has answered.
    pub(crate) fn wires(&self) -> &[Wire] {
        self.chosen.get().map_or(&self.wires, std::slice::from_ref)
    }

    /// From now on it is reached in this way only.
    pub(crate) fn choose(&self, wire: Wire) {
        let _ = self.chosen.set(wire);
    }

    /// Where its API is, when it is reached in this way.
    pub(crate) fn base(&self, wire: Wire) -> Option<Url> {
        Url::parse(&format!("{}://{}{}/", wire.scheme(), api_host(&self.registry), self.path)).ok()
    }

    /// Where its API is, once it has answered.
    pub(crate) fn known_base(&self) -> Option<Url> {
        self.base(*self.wires().first()?)
    }

    /// Whether it stands in for another registry, and did not do well.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// If it stands in for another registry it is not asked any more; says whether it does.
    pub(crate) fn fail(&self) -> bool {
        self.has_failed.fetch_or(self.is_mirror, Ordering::Relaxed);
        self.is_mirror
    }

    /// Waits for a turn.
    pub(crate) async fn turn(&self, lane: Lane) -> Option<OwnedSemaphorePermit> {
        let lane = match lane {
            Lane::Question => &self.questions,
            Lane::Transfer => &self.transfers,
        };
        // It is never closed; without a permit the request would merely not be counted.
        Arc::clone(lane).acquire_owned().await.ok()
    }
}

fn host_name(registry: &str) -> Option<String> {
    Url::parse(&format!("http://{}/", api_host(registry))).ok()?.host_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::API_PATH;

    fn endpoint(registry: &str) -> Endpoint {
        Endpoint { host: registry.to_owned(), path: API_PATH.to_owned(), ..Endpoint::default() }
    }

    #[test]
    fn only_a_mirror_is_given_up() {
        for is_mirror in [false, true] {
            let host = Host::new(&Endpoint { is_mirror, ..endpoint("r.io") }, false);
            assert_eq!((host.fail(), host.has_failed()), (is_mirror, is_mirror));
        }
    }

    #[test]
    fn a_table_may_demand_plain_http_and_another_folder() {
        let endpoint =
            Endpoint { security: Security::Plain, path: "/v2/proxy".to_owned(), ..endpoint("r.io:5000") };
        let host = Host::new(&endpoint, true);
        let bases: Vec<String> =
            host.wires().iter().filter_map(|w| host.base(*w)).map(String::from).collect();
        assert_eq!(bases, ["http://r.io:5000/v2/proxy/"]);
    }

    #[test]
    fn plain_http_is_for_this_machine_and_for_what_the_user_names() {
        for (registry, insecure, want) in [
            ("docker.io", false, "https://registry-1.docker.io/v2/"),
            ("r.io:5000", false, "https://r.io:5000/v2/"),
            ("localhost:5000", false, "http://localhost:5000/v2/ https://localhost:5000/v2/"),
            ("[::1]:5000", false, "http://[::1]:5000/v2/ https://[::1]:5000/v2/"),
            ("127.1.2.3", false, "http://127.1.2.3/v2/ https://127.1.2.3/v2/"),
            ("r.io:5000", true, "https://r.io:5000/v2/ http://r.io:5000/v2/"),
            ("localhost.evil.org", false, "https://localhost.evil.org/v2/"),
        ] {
            let host = Host::new(&endpoint(registry), insecure);
            let bases: Vec<String> =
                host.wires().iter().filter_map(|w| host.base(*w)).map(String::from).collect();
            assert_eq!(bases.join(" "), want);
        }
    }

    #[test]
    fn a_host_that_answered_is_never_asked_in_another_way() {
        let host = Host::new(&endpoint("r.io"), true);
        host.choose(Wire::Unverified);
        host.choose(Wire::Plain);
        assert_eq!(host.wires(), [Wire::Unverified]);
    }
}
