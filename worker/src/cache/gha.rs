//! A cache at the cache service of GitHub Actions, under BuildKit's names, spoken to in either of its versions.
//! It does not know what is in a config, and asks no environment.
//!
//! What the options leave out comes from variables that Actions sets for actions (a workflow has to hand them on):
//! `url` is `$ACTIONS_CACHE_URL`, `url_v2` is `$ACTIONS_RESULTS_URL`, `token` is `$ACTIONS_RUNTIME_TOKEN`, and
//! `version` is 2 if `$ACTIONS_CACHE_SERVICE_V2` is true.
//!
//! ```text
//! buildkit-blob-1-sha256:<hex>              a blob
//! index-<scope>-1-<branch>#<number>         a config; the one with the highest number counts
//! ```
//! `<branch>` is the beginning of the SHA-256 of the branch's reference. An entry can't be changed once it is there,
//! so a config gets the next number. The token tells which branches are read (the own one, the one that a request
//! is to be merged into, and the default one) and which one is written.

mod azure;
mod listing;
mod service;
mod token;

use super::CacheError;
use super::Network;
use super::memory_file::MemoryFile;
use super::options::GhaOptions;
use super::place::{CONFIG_BYTES_MAX, CachePlace, OpenBlob};
use super::waiting::{Deadline, check};
use kiln_oci::{Descriptor, Digest};
use listing::Listing;
use service::{Reserved, Service, Version};
use std::collections::BTreeSet;
use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use token::Token;

/// Where GitHub itself speaks the second version.
const RESULTS_HOST: &str = "results-receiver.actions.githubusercontent.com";
const BLOB_PREFIX: &str = "buildkit-blob-1-";
const DEFAULT_SCOPE: &str = "buildkit";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How long another that took a config's number has to finish it, before that number is passed over.
const NUMBER_WAIT: Duration = Duration::from_secs(15);
const NUMBER_LOOK: Duration = Duration::from_secs(2);
/// How many numbers that others took and never finished are passed over.
const NUMBERS_MAX: u64 = 100;

/// A cache at GitHub Actions.
#[derive(Debug)]
pub(crate) struct GhaPlace {
    service: Service,
    scope: String,
    token: Token,
    timeout: Duration,
    number_wait: Duration,
    listing: Option<Listing>,
    /// The keys of the blobs that are there, where GitHub lists them.
    listed: OnceLock<Option<BTreeSet<String>>>,
}

impl GhaPlace {
    /// The cache that the options tell of; they have all that the environment gives.
    pub fn new(options: &GhaOptions, network: &Network) -> Result<GhaPlace, CacheError> {
        let given = |value: &Option<String>| value.clone().filter(|v| !v.is_empty());
        let (url, version) = match (options.version, given(&options.url_v2), given(&options.url)) {
            (None | Some(2..), Some(url), _) => (url, Version::Second),
            // An address that is given for the first version may be of a server that speaks the second.
            (Some(2..), None, Some(url)) => (url, Version::Second),
            (None, None, Some(url)) if url.contains(RESULTS_HOST) => (url, Version::Second),
            (_, _, Some(url)) => (url, Version::First),
            (_, _, None) => {
                return Err(CacheError::Missing {
                    what: "the address of GitHub's cache service",
                    help: HELP,
                });
            }
        };
        let Some(token) = given(&options.token) else {
            return Err(CacheError::Missing { what: "the token for GitHub's cache service", help: HELP });
        };
        let waiting = network.waiting();
        Ok(GhaPlace {
            token: Token::parse(&token)?,
            service: Service::new(network.client.clone(), waiting, &url, version, &token)?,
            scope: given(&options.scope).unwrap_or_else(|| DEFAULT_SCOPE.to_owned()),
            timeout: options.timeout.unwrap_or(DEFAULT_TIMEOUT),
            number_wait: NUMBER_WAIT,
            listing: given(&options.repository)
                .zip(given(&options.ghtoken))
                .and_then(|(repository, token)| Listing::of(&repository, &token)),
            listed: OnceLock::new(),
        })
    }

    /// What the names of a branch's configs begin with.
    fn index_key(&self, branch: &str) -> String {
        let hex = Digest::of(branch.as_bytes()).hex();
        format!("index-{}-1-{}#", self.scope, &hex[..8])
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }

    /// Whether there is a blob of this key: by GitHub's list if that can be had, which is asked for once.
    fn has(&self, key: &str, deadline: Deadline) -> Result<bool, CacheError> {
        let listed = self.listed.get_or_init(|| {
            let (client, waiting) = (&self.service.client, &self.service.waiting);
            let listing = self.listing.as_ref()?;
            // It only saves questions: without it each blob is asked for.
            listing.keys(client, waiting, BLOB_PREFIX, self.token.read(), deadline).ok()
        });
        match listed {
            Some(listed) => Ok(listed.contains(key)),
            None => Ok(self.service.find(key, deadline)?.is_some_and(|found| found.key == key)),
        }
    }

    /// The number of a config's entry.
    fn number(&self, key: &str, found: &str) -> Result<u64, CacheError> {
        let number = found.strip_prefix(key).and_then(|number| number.parse().ok());
        number.ok_or_else(|| CacheError::Malformed {
            what: self.name(),
            reason: format!("asked for `{key}…`, it has `{}`", found.chars().take(200).collect::<String>()),
        })
    }

    /// Takes the next number for a config. Somebody else who has it is given time to finish.
    fn next_number(&self, key: &str, deadline: Deadline) -> Result<Reserved, CacheError> {
        let waited_since = Instant::now();
        loop {
            let last = match self.service.find(key, deadline)? {
                Some(found) => self.number(key, &found.key)?,
                None => 0,
            };
            for number in last.saturating_add(1)..=last.saturating_add(NUMBERS_MAX) {
                if let Some(reserved) = self.service.reserve(&format!("{key}{number}"), deadline)? {
                    return Ok(reserved);
                }
                if waited_since.elapsed() < self.number_wait {
                    break;
                }
            }
            if waited_since.elapsed() >= self.number_wait {
                let reason = format!("{NUMBERS_MAX} entries after `{key}{last}` are taken and not finished");
                return Err(CacheError::Malformed { what: self.name(), reason });
            }
            self.service.waiting.sleep(NUMBER_LOOK.min(self.number_wait), Some(deadline))?;
        }
    }
}

const HELP: &str = "this works within GitHub Actions, where an action hands ACTIONS_RUNTIME_TOKEN and \
    ACTIONS_RESULTS_URL (or ACTIONS_CACHE_URL) on; or say token= and url_v2= (or url=)";

fn blob_key(digest: &Digest) -> String {
    format!("{BLOB_PREFIX}{digest}")
}

impl CachePlace for GhaPlace {
    fn name(&self) -> String {
        format!("gha {} at {}", self.scope, self.service.host())
    }

    fn configs(&self) -> Result<Vec<Vec<u8>>, CacheError> {
        let deadline = self.deadline();
        let mut configs = Vec::new();
        for branch in self.token.read() {
            let key = self.index_key(branch);
            let Some(found) = self.service.find(&key, deadline)? else { continue };
            // A server that looks for anything alike is no reason to read another's entry.
            self.number(&key, &found.key)?;
            let mut config = Vec::new();
            let mut keep = |piece: &[u8]| -> io::Result<()> {
                config.extend_from_slice(piece);
                Ok(())
            };
            self.service.download(&found, CONFIG_BYTES_MAX, &mut keep, deadline)?;
            configs.push(config);
        }
        Ok(configs)
    }

    fn read(
        &self,
        blob: &Descriptor,
        on_bytes: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), CacheError> {
        let (key, deadline) = (blob_key(&blob.digest), self.deadline());
        match self.service.find(&key, deadline)?.filter(|found| found.key == key) {
            Some(found) => self.service.download(&found, blob.size, on_bytes, deadline),
            None => Err(CacheError::NoBlob(blob.digest)),
        }
    }

    fn write(&self, blob: &Descriptor, open: OpenBlob<'_>) -> Result<bool, CacheError> {
        let (key, deadline) = (blob_key(&blob.digest), self.deadline());
        if self.has(&key, deadline)? {
            return Ok(false);
        }
        // Another may bring the same at this moment: it is theirs then.
        let Some(reserved) = self.service.reserve(&key, deadline)? else { return Ok(false) };
        self.service.upload(&reserved, blob.size, open, deadline)?;
        self.service.commit(&reserved, blob.size, deadline)?;
        Ok(true)
    }

    fn publish(&self, config: &[u8], _layers: &[Descriptor]) -> Result<Option<Descriptor>, CacheError> {
        check(&self.service.waiting.cancel)?;
        let deadline = self.deadline();
        let branch = self.token.written().ok_or_else(|| CacheError::Malformed {
            what: self.name(),
            reason: "its token allows nothing to be written".to_owned(),
        })?;
        let reserved = self.next_number(&self.index_key(branch), deadline)?;
        let file = MemoryFile::new(config).map_err(CacheError::io("keep", "the cache's config"))?;
        let size = config.len() as u64;
        let open = || file.open();
        self.service.upload(&reserved, size, &open, deadline)?;
        self.service.commit(&reserved, size, deadline)?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
