//! Addresses of git repositories, with branch, folder and the rest that may stand behind them.
//! It does not know git.

use kiln_solver::SourceOp;
use std::collections::BTreeMap;

/// A repository and what of it is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GitAddress {
    /// What git is given.
    pub remote: String,
    /// Host and path, without scheme and user.
    pub place: String,
    /// A branch, tag or commit; empty is the default branch.
    pub reference: String,
    /// The folder; empty is all.
    pub subdir: String,
    /// The commit that it must be.
    pub checksum: Option<String>,
    /// Whether `.git` is kept.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched.
    pub submodules: Option<bool>,
    /// Whether files have the commit's time.
    pub commit_time: bool,
    /// Whether the commit itself is fetched, rather than a branch.
    pub fetch_by_commit: bool,
}

/// Reads an address of a repository; `None` is something else. As in ADD, `github.com/x` is a path.
pub(crate) fn parse(text: &str) -> Option<Result<GitAddress, String>> {
    let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (remote, query) = address.split_once('?').unwrap_or((address, ""));
    let place = place(remote)?;
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let mut git = GitAddress {
        remote: remote.to_owned(),
        place,
        reference: reference.to_owned(),
        subdir: subdir.to_owned(),
        ..GitAddress::default()
    };
    Some(git.read_query(query).map(|()| git))
}

/// Reads the address of a context, where `github.com/x/y` is a repository too.
pub(crate) fn parse_context(text: &str) -> Option<Result<GitAddress, String>> {
    if text.starts_with("github.com/") { parse(&with_suffix(text)) } else { parse(text) }
}

fn with_suffix(text: &str) -> String {
    let end = text.find(['#', '?']).unwrap_or(text.len());
    let (path, rest) = text.split_at(end);
    let path = path.strip_suffix(".git").unwrap_or(path);
    format!("https://{path}.git{rest}")
}

/// Host and path of a remote, if it is one.
fn place(remote: &str) -> Option<String> {
    let without_user = |host: &str| host.rsplit_once('@').map_or(host, |(_, host)| host).to_owned();
    if let Some((scheme, rest)) = remote.split_once("://") {
        let is_git = match scheme {
            "git" | "ssh" => true,
            "http" | "https" => rest.ends_with(".git"),
            _ => false,
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        return is_git.then(|| format!("{}/{path}", without_user(host)));
    }
    let (user, rest) = remote.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let is_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let is_scp = is_name(user) && is_name(host) && !path.is_empty();
    is_scp.then(|| format!("{host}/{}", path.trim_start_matches('/')))
}

impl GitAddress {
    /// The source that brings it in.
    pub(crate) fn source(&self) -> SourceOp {
        let mut identifier = format!("git://{}", self.place);
        if !self.reference.is_empty() || !self.subdir.is_empty() {
            identifier.push('#');
            identifier.push_str(&self.reference);
        }
        if !self.subdir.is_empty() {
            identifier.push(':');
            identifier.push_str(&self.subdir);
        }
        let mut attrs = BTreeMap::from([("git.fullurl".to_owned(), self.remote.clone())]);
        let mut set = |name: &str, value: &str| attrs.insert(name.to_owned(), value.to_owned());
        if let Some(checksum) = &self.checksum {
            set("git.checksum", checksum);
        }
        if self.keep_git_dir == Some(true) {
            set("git.keepgitdir", "true");
        }
        if self.submodules == Some(false) {
            set("git.skipsubmodules", "true");
        }
        if self.commit_time {
            set("git.mtime", "commit");
        }
        if self.fetch_by_commit {
            set("git.fetchbycommit", "true");
        }
        SourceOp { identifier, attrs }
    }

    fn read_query(&mut self, query: &str) -> Result<(), String> {
        let mut seen: Vec<&str> = Vec::new();
        let (mut tag, mut branch) = (None, None);
        for field in query.split('&').filter(|field| !field.is_empty()) {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            if seen.contains(&key) {
                return Err(format!("query {key:?} has multiple values"));
            }
            seen.push(key);
            let value = decoded(value);
            if value.is_empty() && !["submodules", "keep-git-dir", "fetch-by-commit"].contains(&key) {
                return Err(format!("query {key:?} has no value"));
            }
            match key {
                "ref" => agree("ref", &mut self.reference, value)?,
                "subdir" => agree("subdir", &mut self.subdir, value)?,
                "tag" => tag = Some(value),
                "branch" => branch = Some(value),
                "checksum" | "commit" => self.checksum = Some(value),
                "keep-git-dir" => self.keep_git_dir = Some(truth(key, &value)?),
                "submodules" => self.submodules = Some(truth(key, &value)?),
                "fetch-by-commit" => self.fetch_by_commit = truth(key, &value)?,
                "mtime" if value == "commit" || value == "checkout" => self.commit_time = value == "commit",
                "mtime" => return Err(format!("invalid mtime value: {value:?}")),
                _ => return Err(format!("unexpected query {key:?}")),
            }
        }
        match (tag, branch) {
            (Some(_), Some(_)) => return Err("branch conflicts with tag".to_owned()),
            (Some(tag), None) => agree("ref", &mut self.reference, full_name("refs/tags/", tag))?,
            (None, Some(branch)) => agree("ref", &mut self.reference, full_name("refs/heads/", branch))?,
            (None, None) => {}
        }
        if let (Some(checksum), true) = (&self.checksum, self.reference.is_empty()) {
            self.reference.clone_from(checksum);
        }
        Ok(())
    }
}

fn full_name(prefix: &str, name: String) -> String {
    if name.starts_with(prefix) { name } else { format!("{prefix}{name}") }
}

fn agree(what: &str, have: &mut String, value: String) -> Result<(), String> {
    if !have.is_empty() && *have != value {
        return Err(format!("{what} conflicts: {have:?} vs {value:?}"));
    }
    *have = value;
    Ok(())
}

fn truth(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" => Ok(true),
        _ => crate::mount::boolean(value).ok_or_else(|| format!("invalid {key} value: {value:?}")),
    }
}

/// A value of a query without its `%XX` and `+`.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match (bytes[i], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (_, Some(byte)) => {
                out.push(byte);
                i += 2;
            }
            (b'+', None) => out.push(b' '),
            (byte, None) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, identifier: &str, attrs: &[(&str, &str)]) {
        let source = match parse(text) {
            Some(Ok(git)) => git.source(),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(source.identifier, identifier);
        let got: Vec<(&str, &str)> = source.attrs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(got, attrs);
    }

    #[test]
    fn addresses_are_read() {
        check("git://h:1/r.git", "git://h:1/r.git", &[("git.fullurl", "git://h:1/r.git")]);
        check("https://u@h/r.git#a:b", "git://h/r.git#a:b", &[("git.fullurl", "https://u@h/r.git")]);
        check("git@h:o/r.git#main", "git://h/o/r.git#main", &[("git.fullurl", "git@h:o/r.git")]);
        check(
            "git://h/r?tag=v1&checksum=07&keep-git-dir=true&submodules=0&mtime=commit",
            "git://h/r#refs/tags/v1",
            &[
                ("git.checksum", "07"),
                ("git.fullurl", "git://h/r"),
                ("git.keepgitdir", "true"),
                ("git.mtime", "commit"),
                ("git.skipsubmodules", "true"),
            ],
        );
        check(
            "git://h/r?commit=0%37",
            "git://h/r#07",
            &[("git.checksum", "07"), ("git.fullurl", "git://h/r")],
        );
    }

    #[test]
    fn paths_and_pages_are_no_repositories() {
        for text in ["a/b", "./r.git", "https://h/file.tar", "github.com/a/b", "a:b", "@x:y"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(parse_context("github.com/a/b#c").is_some());
    }

    #[test]
    fn what_a_query_may_not_say_is_refused() {
        for text in
            ["git://h/r?x=1", "git://h/r?ref=a&ref=b", "git://h/r?ref=a#b", "git://h/r?tag=a&branch=b"]
        {
            assert!(matches!(parse(text), Some(Err(_))), "{text}");
        }
    }
}
