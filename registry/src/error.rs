//! What can go wrong between kiln and a registry, in words that name the host and what to do.
//! It does not know exit codes.

use crate::config::FileLine;
use kiln_oci::{Digest, DocumentError};
use std::path::PathBuf;

/// A request to a registry that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Nothing answered, or the connection broke too often.
    #[error("the registry {host} cannot be reached{}: {}", through(via), chain(source))]
    Unreachable {
        /// The host.
        host: String,
        /// The proxy on the way, without its password, and the variable that names it.
        via: Option<String>,
        /// Why.
        source: reqwest::Error,
    },
    /// The registry answered with a status that is no success.
    #[error("{host} answered {status} to {method} {path}{}", after_colon(message))]
    Status {
        /// The host that answered.
        host: String,
        /// The request's method.
        method: String,
        /// The request's path, without its query.
        path: String,
        /// The HTTP status.
        status: u16,
        /// What the registry says about it, or nothing.
        message: String,
    },
    /// The registry does not have it.
    #[error("{what} is not in the registry {host}")]
    NotFound {
        /// The host.
        host: String,
        /// The reference or the digest.
        what: String,
    },
    /// The registry wants other credentials, or any.
    #[error("{host} refuses access{}{}; {hint}", to(repository), after_colon(message))]
    Unauthorized {
        /// The host.
        host: String,
        /// The repository that was asked for.
        repository: String,
        /// What the registry says about it, or nothing.
        message: String,
        /// Which credentials were used and what to do.
        hint: String,
    },
    /// What arrived, or what is to be sent, is not what was announced.
    #[error("{what} at {host} is not what it should be: {mismatch}")]
    Content {
        /// The host.
        host: String,
        /// The reference or the digest.
        what: String,
        /// In what it differs.
        mismatch: Mismatch,
    },
    /// A manifest that cannot be read.
    #[error("{what} at {host}: {source}")]
    Document {
        /// The host.
        host: String,
        /// The reference.
        what: String,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// More bytes than kiln accepts.
    #[error("{what} at {host} is larger than the {max} bytes that kiln accepts")]
    TooLarge {
        /// The host.
        host: String,
        /// What is too large.
        what: String,
        /// The limit.
        max: u64,
    },
    /// No secure connection.
    #[error("no secure connection to {host}: {reason}; {hint}")]
    Tls {
        /// The host.
        host: String,
        /// What the TLS library says.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// An answer, or its next byte, did not come in time.
    #[error("{host} did not go on within {seconds} s: {what}")]
    Timeout {
        /// The host.
        host: String,
        /// What was waited for.
        what: String,
        /// How long.
        seconds: f32,
    },
    /// An answer came, but so slowly that it could take for ever.
    #[error("{host} sent less than {bytes_per_s} bytes a second for {seconds} s: {what}")]
    TooSlow {
        /// The host.
        host: String,
        /// What was waited for.
        what: String,
        /// The least that it should have sent.
        bytes_per_s: u64,
        /// How long.
        seconds: f32,
    },
    /// The registry sent kiln to an address where it does not go.
    #[error("{host} sends to the address `{address}`, which kiln refuses: {refusal}")]
    Address {
        /// The host.
        host: String,
        /// The address, without its query.
        address: String,
        /// Why it is refused.
        refusal: Refusal,
    },
    /// An answer without something that the protocol demands.
    #[error("{host} broke the protocol: {detail}")]
    Protocol {
        /// The host.
        host: String,
        /// What is missing or wrong.
        detail: String,
    },
    /// A file with settings has a mistake.
    #[error("{at}: {reason}")]
    Config {
        /// Where.
        at: FileLine,
        /// What is wrong.
        reason: String,
    },
    /// The user's settings forbid the registry.
    #[error("{reference} is not to be asked for: {at} blocks its registry")]
    Blocked {
        /// The reference.
        reference: String,
        /// Who says so.
        at: FileLine,
    },
    /// A file with a certificate, or with the key of one, cannot be used.
    #[error("the certificate file {} cannot be used: {reason}", file.display())]
    Certificate {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A program that keeps credentials did not do as it was told.
    #[error("{helper}, which {} names, failed: {reason}", file.display())]
    Helper {
        /// The program.
        helper: String,
        /// The file that names it.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file with credentials cannot be changed.
    #[error("the credentials file {} cannot be changed: {reason}", file.display())]
    Keeping {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file with the credentials cannot be used.
    #[error("the credentials file {} cannot be read: {reason}", file.display())]
    Credentials {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The caller's side of a transfer failed.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// In what some content differs from its description.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// In the bytes.
    #[error("its digest is {got}, not {want}")]
    Digest {
        /// The digest that it should have.
        want: Digest,
        /// The digest that it has.
        got: Digest,
    },
    /// In the number of bytes.
    #[error("it has {got} bytes, not {want}")]
    Size {
        /// How many it should have.
        want: u64,
        /// How many it has.
        got: u64,
    },
    /// It goes on after its last byte.
    #[error("it is longer than its {want} bytes")]
    Longer {
        /// How many it should have.
        want: u64,
    },
    /// It is another part than the one that was asked for.
    #[error("another part came than the one from byte {want} on")]
    Range {
        /// The first byte that was asked for.
        want: u64,
    },
}

/// Why an address that a registry names is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// From HTTPS to HTTP.
    #[error(
        "it leads from HTTPS to plain HTTP (a reverse proxy in front of the registry has to set X-Forwarded-Proto)"
    )]
    Downgrade,
    /// A token server that has nothing to do with the registry.
    #[error("credentials go only to the registry itself, or over HTTPS to a host of the same domain")]
    ForeignRealm,
    /// A redirect after too many.
    #[error("there were too many redirects before it")]
    TooManyRedirects,
    /// No HTTP address, or one that cannot be understood.
    #[error("it is not an HTTP address")]
    NotHttp,
    /// With a user name or a password in it.
    #[error("it contains a user name")]
    UserInfo,
}

impl RegistryError {
    /// Whether the same request may succeed when it is sent again.
    pub fn is_transient(&self) -> bool {
        match self {
            RegistryError::Unreachable { .. }
            | RegistryError::Timeout { .. }
            | RegistryError::TooSlow { .. } => true,
            RegistryError::Status { status, .. } => is_transient_status(*status),
            _ => false,
        }
    }
}

impl RegistryError {
    /// Whether what came before it is no progress: it was too little.
    pub(crate) fn is_standstill(&self) -> bool {
        matches!(self, RegistryError::TooSlow { .. })
    }
}

/// Whether an answer with this status may be another one a little later.
pub(crate) fn is_transient_status(status: u16) -> bool {
    // What a server cannot do (501, 505), has no room for (507) or wants a login page for (511) stays so.
    matches!(status, 408 | 425 | 429 | 500..=599) && !matches!(status, 501 | 505 | 507 | 511)
}

/// A text from outside, fit for a terminal: no control characters, not long.
pub(crate) fn printable(text: &str) -> String {
    const CHARS_MAX: usize = 500;
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().map(clean).collect();
    text.trim().chars().take(CHARS_MAX).collect()
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

fn through(via: &Option<String>) -> String {
    via.as_ref().map_or_else(String::new, |via| format!(" through the proxy {via}"))
}

fn to(repository: &str) -> String {
    if repository.is_empty() { String::new() } else { format!(" to `{repository}`") }
}

fn after_colon(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_from_outside_cannot_steer_the_terminal() {
        assert_eq!(printable(" \u{1b}]52;c;x\u{7}ok\r\n"), "]52;c;x ok");
        assert_eq!(printable(&"ä".repeat(9000)).chars().count(), 500);
    }

    #[test]
    fn only_what_may_pass_is_transient() {
        let status = |status| RegistryError::Status {
            host: String::new(),
            method: String::new(),
            path: String::new(),
            status,
            message: String::new(),
        };
        for (code, want) in [
            (408, true),
            (429, true),
            (500, true),
            (503, true),
            (522, true),
            (404, false),
            (501, false),
            (507, false),
        ] {
            assert_eq!(status(code).is_transient(), want, "{code}");
        }
    }
}
