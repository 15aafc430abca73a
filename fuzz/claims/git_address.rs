//! The claims about the addresses of contexts: what is taken for a repository says what it was given, and
//! what is not is left as it is. It does not know git and the network.

use crate::memory::{self, Held};
use crate::meter::peak_of;
use crate::tree::text_of;
use kiln_frontend::{RemoteContext, remote_context};

/// Fails if a claim does not hold of the address.
pub fn check(data: &[u8]) {
    let address = text_of(data);
    let (outcome, peak) = peak_of(|| remote_context(&address));
    memory::check(Held { what: "address", peak, input: address.len(), things: 0 });
    assert!(outcome == remote_context(&address), "two readings differ");
    match outcome {
        Err(why) => assert!(!why.is_empty()),
        Ok(RemoteContext::Http(source)) => assert_eq!(source.identifier, address),
        Ok(RemoteContext::Git(source)) => {
            let remote = source.attrs.get("git.fullurl").map(String::as_str).unwrap_or_default();
            assert!(source.identifier.starts_with("git://") && !remote.is_empty(), "{source:?}");
            assert!(!remote.contains(['#', '?']), "{remote}");
            if !address.starts_with("github.com/") {
                assert!(address.starts_with(remote), "{remote} is not the beginning of {address}");
            }
            let known = [
                "git.fullurl",
                "git.checksum",
                "git.keepgitdir",
                "git.skipsubmodules",
                "git.mtime",
                "git.fetchbycommit",
            ];
            assert!(source.attrs.keys().all(|key| known.contains(&key.as_str())), "{source:?}");
        }
    }
}
