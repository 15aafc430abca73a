//! Which Docker daemon an image is loaded into, as the environment says it. It does not know how.

use crate::error::CommandError;
use kiln_worker::DockerHost;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Where a daemon listens unless it was told otherwise.
const SOCKET: &str = "/var/run/docker.sock";

/// The daemon of `DOCKER_HOST`; else that of the usual socket, if it is there.
pub(super) fn daemon() -> Result<Option<DockerHost>, CommandError> {
    let from_env = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let is_there = |path: &Path| path.metadata().is_ok_and(|found| found.file_type().is_socket());
    choose(from_env, is_there)
}

fn choose(
    from_env: impl Fn(&str) -> Option<String>,
    is_there: impl Fn(&Path) -> bool,
) -> Result<Option<DockerHost>, CommandError> {
    let Some(named) = from_env("DOCKER_HOST") else {
        return Ok(is_there(Path::new(SOCKET)).then(|| DockerHost::Unix(SOCKET.into())));
    };
    let host = DockerHost::parse(&named).map_err(|e| CommandError::usage("DOCKER_HOST", e.to_string()))?;
    if matches!(host, DockerHost::Tcp(_)) && from_env("DOCKER_TLS_VERIFY").is_some() {
        let problem = format!("kiln speaks to a daemon without TLS, and DOCKER_TLS_VERIFY is set for {host}");
        return Err(CommandError::usage("DOCKER_HOST", problem));
    }
    Ok(Some(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_the_named_one_else_that_of_the_usual_socket_if_it_is_there() {
        let shown = |host: Option<&str>, tls: Option<&str>, there: bool| {
            let from_env = |name: &str| match name {
                "DOCKER_HOST" => host.map(str::to_owned),
                _ => tls.map(str::to_owned),
            };
            let chosen = choose(from_env, |path| there && path == Path::new(SOCKET));
            chosen.map(|host| host.map(|host| host.to_string())).map_err(|e| e.to_string())
        };
        assert_eq!(shown(None, None, false), Ok(None));
        assert_eq!(shown(None, None, true), Ok(Some("unix:///var/run/docker.sock".to_owned())));
        assert_eq!(shown(Some("unix:///a"), None, true), Ok(Some("unix:///a".to_owned())));
        assert_eq!(shown(Some("tcp://a:1"), None, false), Ok(Some("tcp://a:1".to_owned())));
        assert!(shown(Some("tcp://a:1"), Some("1"), true).is_err_and(|e| e.contains("without TLS")));
        assert!(shown(Some("ssh://a"), None, true).is_err_and(|e| e.contains("ssh://a")));
    }
}
