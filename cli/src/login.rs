//! `kiln login` and `kiln logout`: who types what, and what is said of it. It does not know where it is kept.

use crate::error::CommandError;
use crate::prompt;
use crate::stderr::say;
use clap::Parser;
use kiln_oci::{DEFAULT_REGISTRY, Reference};
use kiln_worker::{CancelToken, Registries, RegistryOptions};
use std::io::Read as _;

const PASSWORD_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Parser)]
pub(crate) struct LoginArgs {
    /// The registry [default: docker.io]
    #[arg(value_name = "HOST")]
    pub host: Option<String>,
    /// The user's name
    #[arg(short, long, value_name = "USER")]
    pub username: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// Refused: others can read what stands on a command line
    #[arg(short, long, hide = true, num_args = 0..=1, default_missing_value = "")]
    pub password: Option<String>,
    /// Whether the registry must have a certificate that is trusted
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub tls_verify: bool,
    /// Registries that may be spoken to without TLS
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
}

#[derive(Debug, Parser)]
pub(crate) struct LogoutArgs {
    /// The registry [default: docker.io]
    #[arg(value_name = "HOST", conflicts_with = "all")]
    pub host: Option<String>,
    /// All registries
    #[arg(short, long)]
    pub all: bool,
}

pub(crate) fn log_in(
    args: &LoginArgs,
    options: impl Fn(&[String]) -> RegistryOptions,
    cancel: &CancelToken,
) -> Result<(), CommandError> {
    if args.password.is_some() {
        let reason = "a password on a command line is kept in the shell's history and shown to every user of this \
                      machine; use --password-stdin, or type it when asked";
        return Err(CommandError::usage("--password", reason));
    }
    let host = registry(args.host.as_deref())?;
    let mut insecure = args.insecure_registry.clone();
    insecure.extend((!args.tls_verify).then(|| host.clone()));
    let username = match &args.username {
        Some(username) => username.clone(),
        None if args.password_stdin => {
            return Err(CommandError::usage("--password-stdin", "it needs --username"));
        }
        None => prompt::line(&format!("Username for {host}: "), cancel)?,
    };
    if username.is_empty() || username.contains(':') {
        return Err(CommandError::usage("--username", "it may not be empty and may have no colon"));
    }
    let password = if args.password_stdin {
        password_from_stdin()?
    } else {
        prompt::secret(&format!("Password for {username} at {host}: "), cancel)?
    };
    if password.is_empty() {
        return Err(CommandError::usage("--password-stdin", "the password is empty"));
    }
    let done = Registries::new(options(&insecure))?.log_in(&host, &username, &password)?;
    if !done.was_asked {
        say(&format!("warning: {host} asks nobody for credentials, so that these were not checked"));
    }
    say(&format!("logged in to {host} as {username}; kept by {}", done.kept_by));
    if done.is_plain {
        say(
            "the password is there for all who can read that file; credsStore in it can name a program that keeps it",
        );
    }
    if let Some(other) = done.hidden_by {
        say(&format!("warning: {other} has credentials for {host} too and is asked before"));
    }
    Ok(())
}

pub(crate) fn log_out(args: &LogoutArgs, options: RegistryOptions) -> Result<(), CommandError> {
    let host = registry(args.host.as_deref())?;
    let wanted = (!args.all).then_some(host.as_str());
    let name = wanted.unwrap_or("all registries");
    let mut done = Registries::new(options)?.log_out(wanted)?;
    for place in &done.forgotten_by {
        say(&format!("logged out of {name}: forgotten by {place}"));
    }
    if let Some(other) = &done.left {
        say(&format!("warning: {other} still has credentials for {name}"));
    }
    match done.failures.pop() {
        Some(last) => {
            done.failures.iter().for_each(|failure| say(&format!("warning: {failure}")));
            Err(kiln_worker::WorkerError::from(last).into())
        }
        None => {
            if done.forgotten_by.is_empty() {
                say(&format!("not logged in to {name}"));
            }
            Ok(())
        }
    }
}

/// A registry as people write it: docker's login takes addresses too.
fn registry(written: Option<&str>) -> Result<String, CommandError> {
    let Some(written) = written else { return Ok(DEFAULT_REGISTRY.to_owned()) };
    let host =
        written.strip_prefix("https://").or_else(|| written.strip_prefix("http://")).unwrap_or(written);
    let path = host.split_once('/').map_or("", |(_, path)| path.trim_end_matches('/'));
    let host = host.split('/').next().unwrap_or(host);
    if !matches!(path, "" | "v1" | "v2") {
        return Err(CommandError::usage("HOST", "it has to be host[:port], without a path"));
    }
    if matches!(host, "index.docker.io" | "registry-1.docker.io") {
        return Ok(DEFAULT_REGISTRY.to_owned());
    }
    let named = format!("{host}/x").parse::<Reference>();
    match named {
        Ok(named) if named.registry() == host => Ok(host.to_owned()),
        _ => Err(CommandError::usage("HOST", format!("`{host}` is no name of a registry, as host[:port]"))),
    }
}

/// What is on standard input, without the end of its line.
fn password_from_stdin() -> Result<String, CommandError> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(PASSWORD_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(CommandError::file("read", "standard input"))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_may_be_written_as_an_address() {
        for (written, want) in [
            (None, Some("docker.io")),
            (Some("https://index.docker.io/v1/"), Some("docker.io")),
            (Some("r.io:5000"), Some("r.io:5000")),
            (Some("http://r.io/"), Some("r.io")),
            (Some("localhost"), Some("localhost")),
            (Some("r.io/team"), None),
            (Some("team"), None),
            (Some(""), None),
            (Some("u@r.io"), None),
        ] {
            assert_eq!(registry(written).ok().as_deref(), want, "{written:?}");
        }
    }
}
