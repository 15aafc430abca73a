//! `--ssh`: the user's agents by their sockets, and those made of key files. It does not know who asks them.

use crate::error::CommandError;
use kiln_worker::{AgentKey, KeyAgent, KeyError, SshAgent};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The agents, by id: of each ID[=PATH[,PATH…]].
pub(crate) fn of(texts: &[String]) -> Result<BTreeMap<String, SshAgent>, CommandError> {
    of_words(texts, std::env::var_os("SSH_AUTH_SOCK"))
}

fn of_words(
    texts: &[String],
    auth_socket: Option<OsString>,
) -> Result<BTreeMap<String, SshAgent>, CommandError> {
    let mut out = BTreeMap::new();
    for text in texts {
        let usage = |problem: String| CommandError::usage(format!("--ssh {text}"), problem);
        let (id, paths) = text.split_once('=').unwrap_or((text, ""));
        let id = if id.is_empty() { "default" } else { id };
        let paths = if paths.is_empty() {
            let socket = auth_socket.clone().filter(|socket| !socket.is_empty());
            let unset = || format!("SSH_AUTH_SOCK is not set; write {id}=SOCKET or {id}=KEYFILE");
            vec![PathBuf::from(socket.ok_or_else(|| usage(unset()))?)]
        } else {
            paths.split(',').map(PathBuf::from).collect()
        };
        let agent = agent(id, &paths).map_err(usage)?;
        if out.insert(id.to_owned(), agent).is_some() {
            return Err(usage(format!("there is an agent `{id}` already")));
        }
    }
    Ok(out)
}

/// One socket, or keys.
fn agent(id: &str, paths: &[PathBuf]) -> Result<SshAgent, String> {
    let mut keys = Vec::new();
    for path in paths {
        let shown = path.display();
        if path.as_os_str().is_empty() {
            return Err("a path is empty".to_owned());
        }
        if is_socket(path).map_err(|e| format!("{shown} cannot be read: {e}"))? {
            if paths.len() > 1 {
                return Err(format!("{shown} is a socket, which stands alone: no keys or sockets beside it"));
            }
            // git runs in a folder of its own.
            let path = std::path::absolute(path).map_err(|e| format!("{shown}: {e}"))?;
            return Ok(SshAgent::Socket(path));
        }
        keys.push(AgentKey::read(path).map_err(|error| match error {
            KeyError::Encrypted => {
                format!("{shown} is encrypted: add it to an agent with ssh-add, and give --ssh {id}")
            }
            KeyError::Unsupported => {
                format!("{shown} {error}: add it to an agent with ssh-add, and give --ssh {id}")
            }
            error => format!("{shown} {error}"),
        })?);
    }
    Ok(SshAgent::Keys(KeyAgent::new(keys)))
}

fn is_socket(path: &Path) -> std::io::Result<bool> {
    Ok(std::fs::metadata(path)?.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str, auth_socket: Option<&str>) -> String {
        let of = of_words(&[text.to_owned()], auth_socket.map(OsString::from));
        of.expect_err("it is refused").to_string()
    }

    #[test]
    fn an_agent_without_a_path_is_that_of_the_environment() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("agent");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        for text in ["default", "default=", "", "="] {
            let agents = of_words(&[text.to_owned()], Some(socket.clone().into())).expect("an agent");
            assert!(matches!(&agents["default"], SshAgent::Socket(path) if *path == socket), "{text}");
            let unset = "SSH_AUTH_SOCK is not set; write default=SOCKET or default=KEYFILE";
            assert_eq!(refusal(text, None), format!("--ssh {text}: {unset}"));
            assert!(refusal(text, Some("")).ends_with(unset));
        }
    }

    #[test]
    fn sockets_stand_alone_and_ids_are_given_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("agent");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let key = concat!(env!("CARGO_MANIFEST_DIR"), "/../worker/src/ssh_agent/tests/keys/ed25519");
        let socket = socket.display();
        for pair in [format!("{key},{socket}"), format!("{socket},{key}"), format!("{socket},{socket}")] {
            assert!(refusal(&format!("x={pair}"), None).contains(&format!("{socket} is a socket")), "{pair}");
        }
        let twice = [format!("x={key},{key}"), format!("x={socket}")];
        let refused = of_words(&twice, None).expect_err("it is refused").to_string();
        assert_eq!(refused, format!("--ssh x={socket}: there is an agent `x` already"));
        assert!(refusal(&format!("x={key},"), None).ends_with("a path is empty"));
    }
}
