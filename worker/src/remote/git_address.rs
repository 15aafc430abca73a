//! The address of a repository and the names in it: which of them git may see at all.
//! It does not run git.

use super::web::is_loopback;
use super::{basic_authorization, percent_decoded};
use reqwest::Url;

/// The ways to a repository; nothing on this machine's disk and no program is one.
pub(super) const PROTOCOLS: &str = "git:http:https:ssh";
/// What may stand in the name of a branch or tag, letters and digits aside.
const NAME_SIGNS: &str = "._-/+@=,%#!&";

/// Where a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remote {
    /// What git is given, without a password.
    pub url: String,
    /// What people are shown: without any user of HTTP.
    pub shown: String,
    /// The value of `Authorization` for the user and password that were in the address.
    pub credentials: Option<String>,
    /// How it is reached.
    pub way: Way,
}

/// How a repository is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By git's own protocol.
    Git,
    /// By HTTP or HTTPS.
    Web {
        /// Scheme, host and port, with a slash at the end.
        origin: String,
        /// Host, and port if it is not the usual one.
        host: String,
        /// Whether others may read what is sent.
        is_open: bool,
    },
    /// By ssh.
    Ssh,
}

impl Remote {
    /// Reads an address; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Remote, &'static str> {
        if text.contains(|c: char| c.is_control() || c == ' ') || text.starts_with('-') {
            return Err("not a valid address");
        }
        match text.split_once("://") {
            Some(("http" | "https", _)) => Remote::of_web(text),
            Some((scheme @ ("git" | "ssh"), rest)) => {
                let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
                check_place(place, path)?;
                let way = if scheme == "git" { Way::Git } else { Way::Ssh };
                Ok(Remote { url: text.to_owned(), shown: text.to_owned(), credentials: None, way })
            }
            Some(_) => Err("repositories are reached by git, http, https or ssh only"),
            None => {
                let (place, path) = text.split_once(':').ok_or("not the address of a repository")?;
                let is_place = place.contains('@') && !place.contains('/');
                if !is_place {
                    return Err("not the address of a repository");
                }
                check_place(place, path)?;
                Ok(Remote { url: text.to_owned(), shown: text.to_owned(), credentials: None, way: Way::Ssh })
            }
        }
    }

    fn of_web(text: &str) -> Result<Remote, &'static str> {
        let mut url: Url = text.parse().map_err(|_| "not a valid address")?;
        let user = url.username().to_owned();
        let mut credentials = None;
        if let Some(password) = url.password() {
            credentials = Some(basic_authorization(&percent_decoded(&user), &percent_decoded(password)));
            // These fail only for addresses that have no host.
            let _ = url.set_username("");
        }
        let _ = url.set_password(None);
        let host = url.host_str().unwrap_or_default();
        check_place(host, "")?;
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let origin = format!("{}://{host}/", url.scheme());
        let is_open = url.scheme() == "http" && !is_loopback(&url);
        let given = url.to_string();
        let _ = url.set_username("");
        Ok(Remote { url: given, shown: url.into(), credentials, way: Way::Web { origin, host, is_open } })
    }
}

/// No part of an address may be taken for an option, by git or by ssh.
fn check_place(place: &str, path: &str) -> Result<(), &'static str> {
    let host = place.rsplit('@').next().unwrap_or_default();
    if host.is_empty() {
        return Err("not a valid address: it has no host");
    }
    if host.starts_with('-') || place.starts_with('-') || path.starts_with('-') {
        return Err("not a valid address: a part of it begins with `-`");
    }
    Ok(())
}

/// Whether a name can be that of a branch or tag, and can't be taken for anything else.
pub(crate) fn is_name(name: &str) -> bool {
    let is_sign = |c: char| c.is_alphanumeric() || NAME_SIGNS.contains(c);
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    !name.starts_with('-')
        && !name.ends_with('.')
        && name != "@"
        && !name.contains("..")
        && name.chars().all(is_sign)
        && name.split('/').all(is_part)
}

/// Whether a name is a commit in full.
pub(crate) fn is_commit(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// The folders that a path in a repository leads through; the error says what is wrong with one.
pub(super) fn folders(subdir: &str) -> Result<Vec<&[u8]>, &'static str> {
    let parts = || subdir.split('/').filter(|part| !matches!(*part, "" | "."));
    if parts().any(|part| part == "..") {
        return Err("`..` is not allowed");
    }
    if parts().any(|part| part.eq_ignore_ascii_case(".git")) {
        return Err("no such file or directory");
    }
    Ok(parts().map(str::as_bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_told_apart() {
        for (text, expect) in [
            ("git://h:1/r.git", Way::Git),
            ("ssh://git@h/r.git", Way::Ssh),
            ("git@h:o/r.git", Way::Ssh),
            ("https://h/r.git", Way::Web { origin: "https://h/".into(), host: "h".into(), is_open: false }),
            (
                "http://h:81/r.git",
                Way::Web { origin: "http://h:81/".into(), host: "h:81".into(), is_open: true },
            ),
        ] {
            assert_eq!(Remote::parse(text).map(|r| r.way), Ok(expect), "{text}");
        }
    }

    #[test]
    fn passwords_are_taken_out_of_addresses() {
        let remote = Remote::parse("https://me:pass%21@h/r.git").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((remote.url.as_str(), remote.shown.as_str()), ("https://h/r.git", "https://h/r.git"));
        assert_eq!(remote.credentials.as_deref(), Some("Basic bWU6cGFzcyE="));
        let remote = Remote::parse("https://token@h/r.git").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            (remote.url.as_str(), remote.shown.as_str()),
            ("https://token@h/r.git", "https://h/r.git")
        );
    }

    #[test]
    fn what_git_would_take_for_an_option_a_program_or_a_file_is_refused() {
        for text in [
            "--upload-pack=touch x",
            "-oProxyCommand=x@h:r",
            "ssh://-oProxyCommand=x/r.git",
            "ssh://git@-oProxyCommand=x/r.git",
            "git@-h:r",
            "git@h:-r",
            "git://-h/r",
            "ext::sh -c touch% x",
            "file:///etc",
            "/etc",
            "a:b",
            "git://h/r\n--x",
            "git://",
        ] {
            assert!(Remote::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_that_could_be_anything_else_are_refused() {
        for name in ["main", "v1.2.3", "refs/pull/1/head", "feature/x_y", "größe", "release@2", "a-b"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "--upload-pack=x",
            "-x",
            "",
            "a b",
            "a\nb",
            "a..b",
            "a:b",
            "a^{tree}",
            "a~1",
            "a*",
            "@",
            "a@{1}",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a.",
            "+\\",
        ] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn folders_stay_in_the_repository() {
        assert_eq!(folders("/a/./b/"), Ok(vec![b"a".as_slice(), b"b"]));
        assert_eq!(folders(""), Ok(vec![]));
        for path in ["..", "a/../..", ".git", "a/.GIT/hooks"] {
            assert!(folders(path).is_err(), "{path}");
        }
    }
}
