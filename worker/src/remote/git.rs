//! A commit of a git repository as a layer: its files, and `.git` where that is asked for.
//! It does not know how the program git is run.
//!
//! The repository is fetched into a snapshot of its own, which goes when the files have been copied out of
//! it; what commit made which layer is remembered, so that a second build only asks what a name stands for.

use super::git_address::{Remote, Way, folders, is_commit, is_name};
use super::git_program::{Git, Needs};
use super::{alone, commit, digest_of, header_secret, known, stack};
use crate::WorkerError;
use crate::attest::Fetched;
use crate::build::Build;
use crate::layer::Stack;
use crate::meta::FetchedRow;
use crate::pins::{AgedSource, GitPin, Pin};
use crate::store::now_s;
use kiln_oci::Digest;
use kiln_snapshotter::{Active, CopyOptions, ModeChange, NodeType, SnapshotError, Tree, Verdict, copy_tree};
use kiln_solver::SourceOp;

/// The folder of the scratch snapshot that the repository is in.
const WORK: &[u8] = b"work";
/// Files as git gives them whatever the caller's umask: 0644 or 0755, folders 0755.
const MODES: &str = "u=rwX,go=rX";

/// A commit that is wanted, and in which form.
#[derive(Debug)]
struct Wanted {
    remote: Remote,
    /// A branch, tag or commit; empty is the default branch.
    reference: String,
    subdir: String,
    checksum: Option<String>,
    keep_git_dir: bool,
    submodules: bool,
    commit_time: bool,
}

/// What a name stands for in the repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    commit: String,
    /// The tag's own object, which is the commit itself for a tag without a message.
    object: String,
    /// The name in full; empty for a commit that was named by its number.
    name: String,
}

/// Brings a commit's files here as a layer: of the commit that the name is pinned to, else of what it stands for.
pub(super) fn bring(build: &Build<'_>, source: &SourceOp) -> Result<Stack, WorkerError> {
    let wanted = Wanted::of(source)?;
    let pinned = wanted.pinned(build)?;
    let is_new = pinned.is_none() && !wanted.is_fixed();
    if is_new {
        build.pins.allow_new(&wanted.pin_name())?;
    }
    let (stack, found) = wanted.bring(build, pinned)?;
    build.note_fetched(source, Fetched::Commit(found.commit.clone()));
    if is_new {
        build.pins.learn(&wanted.pin_name(), Pin::Git(found.pin()))?;
    }
    Ok(stack)
}

/// What a name is called in a lock file.
pub(super) fn pin_name(source: &SourceOp) -> Result<String, WorkerError> {
    Ok(Wanted::of(source)?.pin_name())
}

/// What a name stands for now, and nothing is fetched.
pub(super) fn ask(build: &Build<'_>, source: &SourceOp) -> Result<GitPin, WorkerError> {
    let wanted = Wanted::of(source)?;
    if is_commit(&wanted.reference) {
        return Err(wanted.failure(format!("{} is a commit, which never moves", wanted.reference)));
    }
    let scratch = build.store.snapshots.prepare()?;
    let git = wanted.repository(build, &scratch)?;
    Ok(wanted.look_up(&git)?.pin())
}

impl Wanted {
    fn of(source: &SourceOp) -> Result<Wanted, WorkerError> {
        let (address, fragment) = source.identifier.split_once('#').unwrap_or((&source.identifier, ""));
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let attr = |name: &str| source.attrs.get(name).map(String::as_str);
        let invalid =
            |reason: &str| WorkerError::Source { address: address.to_owned(), reason: reason.to_owned() };
        let remote = Remote::parse(attr("git.fullurl").unwrap_or(address)).map_err(invalid)?;
        if !reference.is_empty() && !is_name(reference) {
            return Err(invalid(&format!("{reference:?} can't be the name of a branch, tag or commit")));
        }
        folders(subdir).map_err(|why| invalid(&format!("invalid subdir {subdir}: {why}")))?;
        Ok(Wanted {
            remote,
            reference: reference.to_owned(),
            subdir: subdir.to_owned(),
            checksum: attr("git.checksum").filter(|c| !c.is_empty()).map(str::to_ascii_lowercase),
            keep_git_dir: attr("git.keepgitdir") == Some("true"),
            submodules: attr("git.skipsubmodules") != Some("true"),
            commit_time: attr("git.mtime") == Some("commit"),
        })
    }

    /// What the layer of a commit is known by.
    fn address(&self, found: &Found) -> String {
        // Only a kept `.git` tells by which name its commit was found.
        let name = if self.keep_git_dir { found.name.as_str() } else { "" };
        let flags = format!("{} {} {}", self.keep_git_dir, self.submodules, self.commit_time);
        let rest = digest_of(&[&self.remote.url, &found.commit, &self.subdir, &flags, name]).hex();
        format!("git {} {} {rest}", self.remote.shown, found.commit)
    }

    /// What the name is remembered by: without credentials, and different for different ones.
    fn name(&self) -> String {
        let rest = digest_of(&[&self.remote.url, &self.reference]).hex();
        format!("git {}#{} {rest}", self.remote.shown, self.reference)
    }

    /// What the name is called in a lock file.
    fn pin_name(&self) -> String {
        let shown = &self.remote.shown;
        if self.reference.is_empty() { shown.clone() } else { format!("{shown}#{}", self.reference) }
    }

    /// Whether the Dockerfile says itself which commit it is.
    fn is_fixed(&self) -> bool {
        is_commit(&self.reference) || self.checksum.as_deref().is_some_and(is_commit)
    }

    /// What a lock file pins the name to; it must be what the Dockerfile asks for.
    fn pinned(&self, build: &Build<'_>) -> Result<Option<Found>, WorkerError> {
        let name = self.pin_name();
        let found_for = |pin: &GitPin| Found {
            commit: pin.commit.clone(),
            object: pin.tag.clone().unwrap_or_else(|| pin.commit.clone()),
            name: pin.name.clone(),
        };
        if let Some(pin) = build.pins.held_git(&name) {
            let found = found_for(pin);
            let asked = self.checksum.iter().chain(is_commit(&self.reference).then_some(&self.reference));
            for asked in asked {
                if !found.commit.starts_with(asked) && !found.object.starts_with(asked) {
                    return Err(build.pins.disagrees(&name, found.commit, asked).into());
                }
            }
            return Ok((!is_commit(&self.reference)).then_some(found));
        }
        Ok(if self.is_fixed() { None } else { build.pins.git(&name).as_ref().map(found_for) })
    }

    /// The layer, and the commit that it is of.
    fn bring(&self, build: &Build<'_>, pinned: Option<Found>) -> Result<(Stack, Found), WorkerError> {
        let named = is_commit(&self.reference).then(|| Found::commit(&self.reference));
        if let Some(found) = pinned.as_ref().or(named.as_ref())
            && let Some(brought) = self.known(build, found)?
        {
            return Ok(brought);
        }
        if let Some(flag) = build.images.forbidden {
            return self.known_last(build, pinned, flag);
        }
        let scratch = build.store.snapshots.prepare()?;
        let git = self.repository(build, &scratch)?;
        // The object of a tag that has moved may be gone where its commit is not.
        let by_commit = pinned.is_some() && !self.keep_git_dir;
        let found = match pinned {
            Some(found) => found,
            None => {
                let found = self.look_up(&git)?;
                build.store.meta.set_resolved(&self.name(), &(&found.commit, &found.object, &found.name))?;
                found
            }
        };
        let address = self.address(&found);
        let _alone = alone(build, &format!("git-{}", Digest::of(address.as_bytes()).hex()))?;
        if let Some(brought) = self.known(build, &found)? {
            return Ok(brought);
        }
        let found = self.fetch(&git, found, by_commit)?;
        self.check(&found.commit, &found.object)?;
        let active = build.store.snapshots.prepare()?;
        self.check_out(&git, &found)?;
        self.copy_out(&git, &found, &active.tree()?)?;
        let layer = commit(build, active, &address)?;
        let digest = Digest::of(found.commit.as_bytes());
        let row =
            FetchedRow { etag: None, modified: None, digest, name: found.commit.clone(), layer: layer.id };
        build.store.meta.set_fetched(&address, &row)?;
        Ok((stack(&layer), found))
    }

    /// The layer of a commit, if it is here.
    fn known(&self, build: &Build<'_>, found: &Found) -> Result<Option<(Stack, Found)>, WorkerError> {
        let Some((row, layer)) = known(build, &self.address(found))? else { return Ok(None) };
        self.check(&row.name, &found.object)?;
        Ok(Some((stack(&layer), Found { commit: row.name, ..found.clone() })))
    }

    /// The layer of what the name stood for last, where nobody may be asked and what is `pinned` is not here.
    fn known_last(
        &self,
        build: &Build<'_>,
        pinned: Option<Found>,
        flag: &'static str,
    ) -> Result<(Stack, Found), WorkerError> {
        let name = self.pin_name();
        if let Some(pinned) = pinned {
            return Err(build.pins.not_asked(name, Some(pinned.commit), flag));
        }
        let last = build.store.meta.resolved::<(String, String, String)>(&self.name())?;
        let known = match last {
            Some(((commit, object, name), asked_s)) => {
                self.known(build, &Found { commit, object, name })?.map(|brought| (brought, asked_s))
            }
            None => None,
        };
        match known {
            Some((brought, asked_s)) => {
                if !self.is_fixed() {
                    let (age_s, what) = (Some((now_s() - asked_s).max(0)), brought.1.commit.clone());
                    build.pins.note_age(&name, AgedSource { flag, age_s, what });
                }
                Ok(brought)
            }
            None if self.is_fixed() => Err(WorkerError::NotAsked { what: name, flag }),
            None => Err(build.pins.not_asked(name, None, flag)),
        }
    }

    fn failure(&self, reason: String) -> WorkerError {
        WorkerError::Source { address: self.remote.shown.clone(), reason }
    }

    fn check(&self, commit: &str, object: &str) -> Result<(), WorkerError> {
        match &self.checksum {
            Some(expected) if !commit.starts_with(expected) && !object.starts_with(expected) => {
                Err(self.failure(format!("expected checksum to match {expected}, got {commit}")))
            }
            _ => Ok(()),
        }
    }

    /// A new repository that knows where to fetch from.
    fn repository<'a>(&'a self, build: &'a Build<'_>, scratch: &Active) -> Result<Git<'a>, WorkerError> {
        let tree = scratch.tree()?;
        tree.make_dirs(WORK, 0o755, None, None)?;
        let git = Git {
            folder: tree.subtree(WORK)?,
            cancel: build.cancel,
            shown: &self.remote.shown,
            url: &self.remote.url,
            config: self.authorization(build)?,
            agent: match self.remote.way {
                Way::Ssh => {
                    let agent = build.request.ssh.get("default");
                    let agent = agent.ok_or_else(|| WorkerError::Ssh("default".to_owned()))?;
                    Some(agent.address(build.store)?.into_os_string())
                }
                _ => None,
            },
        };
        git.run(Needs::Disk, &["init", "--quiet", "--template="])?;
        git.run(Needs::Disk, &["remote", "add", "--", "origin", &self.remote.url])?;
        Ok(git)
    }

    /// The settings by which git sends what the user gave for the host, to that host alone.
    fn authorization(&self, build: &Build<'_>) -> Result<Vec<(String, String)>, WorkerError> {
        let Way::Web { origin, host, is_open } = &self.remote.way else { return Ok(Vec::new()) };
        let token = |id: &str| {
            let token = header_secret(build, id)?;
            Ok::<_, WorkerError>(token.map(|token| super::basic_authorization("x-access-token", &token)))
        };
        let mut found = self.remote.credentials.clone();
        if found.is_none() {
            found = header_secret(build, &format!("GIT_AUTH_HEADER.{host}"))?;
        }
        if found.is_none() {
            found = token(&format!("GIT_AUTH_TOKEN.{host}"))?;
        }
        // A secret for no host in particular is not told to everybody on the way.
        if found.is_none() && !is_open {
            found = header_secret(build, "GIT_AUTH_HEADER")?;
        }
        if found.is_none() && !is_open {
            found = token("GIT_AUTH_TOKEN")?;
        }
        let Some(value) = found else { return Ok(Vec::new()) };
        Ok(vec![
            (format!("http.{origin}.extraHeader"), format!("Authorization: {value}")),
            // git would send the header on to wherever it is redirected.
            ("http.followRedirects".to_owned(), "false".to_owned()),
        ])
    }

    /// What the name stands for now.
    fn look_up(&self, git: &Git<'_>) -> Result<Found, WorkerError> {
        if is_commit(&self.reference) {
            return Ok(Found::commit(&self.reference));
        }
        let names = candidates(&self.reference);
        let mut args = vec!["ls-remote", "--quiet", "--symref", "--", "origin"];
        args.extend(names.iter().map(String::as_str));
        let listed = git.run(Needs::Network, &args)?;
        let name = if self.reference.is_empty() { "HEAD" } else { &self.reference };
        found_in(&listed, &names)
            .ok_or_else(|| self.failure(format!("repository does not contain ref {name}")))
    }

    /// Gets the commit here: alone if the server allows it, else with everything.
    fn fetch(&self, git: &Git<'_>, found: Found, by_commit: bool) -> Result<Found, WorkerError> {
        let object = if by_commit { &found.commit } else { &found.object };
        let fetch = ["fetch", "--no-tags", "--no-write-fetch-head", "--progress"];
        let shallow = [&fetch[..], &["--depth=1", "--", "origin", object]].concat();
        match git.run(Needs::Network, &shallow) {
            Err(WorkerError::Source { .. }) => {
                let heads =
                    ["--", "origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
                git.run(Needs::Network, &[&fetch[..], &heads].concat())?;
            }
            done => drop(done?),
        }
        let commit = format!("{object}^{{commit}}");
        let missing = |_| self.failure(format!("repository does not contain the commit {object}"));
        let commit =
            git.run(Needs::Disk, &["rev-parse", "--verify", "--end-of-options", &commit]).map_err(missing)?;
        Ok(Found { commit: commit.trim().to_owned(), ..found })
    }

    /// Puts the commit's files next to `.git`.
    fn check_out(&self, git: &Git<'_>, found: &Found) -> Result<(), WorkerError> {
        git.run(Needs::Disk, &["checkout", "--quiet", "--detach", "--force", &found.commit, "--"])?;
        let has_modules = git.folder.stat(b".gitmodules", false).is_ok();
        if self.submodules && has_modules {
            let update =
                ["submodule", "update", "--init", "--recursive", "--force", "--depth=1", "--progress"];
            git.run(Needs::Network, &update)?;
        }
        if !self.keep_git_dir {
            return Ok(());
        }
        if let Some(name) = found.name.strip_prefix("refs/heads/") {
            git.run(Needs::Disk, &["update-ref", &format!("refs/heads/{name}"), &found.commit])?;
            git.run(Needs::Disk, &["symbolic-ref", "HEAD", &format!("refs/heads/{name}")])?;
        } else if found.name.starts_with("refs/tags/") {
            git.run(Needs::Disk, &["update-ref", &found.name, &found.object])?;
        }
        // The index with no times and inodes in it, which would be others on each checkout.
        git.run(Needs::Disk, &["read-tree", &found.commit])?;
        for name in [".git/ORIG_HEAD", ".git/FETCH_HEAD", ".git/logs"] {
            match git.folder.remove(name.as_bytes(), true) {
                Ok(()) | Err(SnapshotError::NotFound(_)) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Copies what is wanted into the layer.
    fn copy_out(&self, git: &Git<'_>, found: &Found, to: &Tree) -> Result<(), WorkerError> {
        let mtime = match self.commit_time {
            true => {
                let time = git.run(Needs::Disk, &["log", "-1", "--format=%ct", &found.commit, "--"])?;
                let time = time
                    .trim()
                    .parse()
                    .map_err(|_| self.failure(format!("its commit's time is {time:?}")))?;
                Some((time, 0))
            }
            false => None,
        };
        let source = self.folder_in(&git.folder)?;
        let filter = |path: &[u8], _: bool| {
            // No commit has such a name in it: all of them are git's own.
            let is_gits = path.rsplit(|c| *c == b'/').next() == Some(b".git");
            if is_gits && !self.keep_git_dir { Verdict::Exclude } else { Verdict::Include }
        };
        let modes = ModeChange::parse(MODES)?;
        let options = CopyOptions {
            owner: Some((0, 0)),
            mode: Some(&modes),
            filter: &filter,
            mtime,
            ..CopyOptions::default()
        };
        copy_tree(&git.folder, &source, to, b"", &options)?;
        Ok(())
    }

    /// The folder that is wanted: one that is there, and that no symbolic link leads to.
    fn folder_in(&self, tree: &Tree) -> Result<Vec<u8>, WorkerError> {
        let invalid = |why: &str| self.failure(format!("invalid subdir {}: {why}", self.subdir));
        let mut path = Vec::new();
        for name in folders(&self.subdir).map_err(invalid)? {
            path = if path.is_empty() { name.to_vec() } else { [&path, name].join(&b'/') };
            match tree.stat(&path, false) {
                Ok(stat) if stat.kind == NodeType::Directory => {}
                Ok(_) => return Err(invalid("not a directory")),
                Err(SnapshotError::NotFound(_)) => return Err(invalid("no such file or directory")),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(path)
    }
}

impl Found {
    fn commit(commit: &str) -> Found {
        Found { commit: commit.to_owned(), object: commit.to_owned(), name: String::new() }
    }

    fn pin(self) -> GitPin {
        let tag = (self.object != self.commit).then_some(self.object);
        GitPin { commit: self.commit, name: self.name, tag }
    }
}

/// What a short name may be in full, the best first.
fn candidates(reference: &str) -> Vec<String> {
    match reference {
        "" | "HEAD" => vec!["HEAD".to_owned()],
        full if full.starts_with("refs/") => vec![full.to_owned(), format!("{full}^{{}}")],
        short => {
            let tag = format!("refs/tags/{short}");
            let peeled = format!("{tag}^{{}}");
            let other = format!("refs/{short}");
            let other_peeled = format!("{other}^{{}}");
            vec![format!("refs/heads/{short}"), tag, peeled, other, other_peeled]
        }
    }
}

/// The first of the names that a server's list has. Nothing in the list is taken as it is: numbers must be
/// numbers, and the name of the default branch a name.
fn found_in(listed: &str, names: &[String]) -> Option<Found> {
    let lines = || listed.lines().filter_map(|line| line.split_once('\t'));
    let object_of = |name: &str| {
        let commit = lines().find(|(object, listed)| *listed == name && is_commit(object));
        commit.map(|(object, _)| object.to_owned())
    };
    let plain = names.iter().filter(|name| !name.ends_with("^{}"));
    let (name, object) = plain.filter_map(|name| object_of(name).map(|object| (name, object))).next()?;
    let commit = object_of(&format!("{name}^{{}}")).unwrap_or_else(|| object.clone());
    let branch = lines().find(|(to, listed)| *listed == "HEAD" && to.starts_with("ref: refs/heads/"));
    let branch =
        branch.map(|(to, _)| to.trim_start_matches("ref: ")).filter(|to| name == "HEAD" && is_name(to));
    Some(Found { commit, object, name: branch.unwrap_or(name).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    fn check(reference: &str, listed: &str, expect: Option<(&str, &str, &str)>) {
        let expect = expect.map(|(commit, object, name)| Found {
            commit: commit.to_owned(),
            object: object.to_owned(),
            name: name.to_owned(),
        });
        assert_eq!(found_in(listed, &candidates(reference)), expect, "{reference}");
    }

    #[test]
    fn a_branch_goes_before_a_tag_and_a_tag_stands_for_its_commit() {
        let both = format!("{ONE}\trefs/heads/x\n{TWO}\trefs/tags/x\n");
        check("x", &both, Some((ONE, ONE, "refs/heads/x")));
        check("refs/tags/x", &both, Some((TWO, TWO, "refs/tags/x")));
        let annotated = format!("{ONE}\trefs/tags/v\n{TWO}\trefs/tags/v^{{}}\n");
        check("v", &annotated, Some((TWO, ONE, "refs/tags/v")));
        check("refs/tags/v", &annotated, Some((TWO, ONE, "refs/tags/v")));
        check("pull/1/head", &format!("{ONE}\trefs/pull/1/head\n"), Some((ONE, ONE, "refs/pull/1/head")));
        check("x", &format!("{ONE}\trefs/heads/other/refs/heads/x\n"), None);
    }

    #[test]
    fn the_default_branch_has_a_name_only_if_the_server_gives_a_sane_one() {
        let list = |branch: &str| format!("ref: {branch}\tHEAD\n{ONE}\tHEAD\n");
        check("", &list("refs/heads/main"), Some((ONE, ONE, "refs/heads/main")));
        check("", &list("--upload-pack=touch x"), Some((ONE, ONE, "HEAD")));
        check("", &list("refs/heads/a b"), Some((ONE, ONE, "HEAD")));
        check("", "--upload-pack=touch x\tHEAD\n", None);
    }
}
