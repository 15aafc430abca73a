//! Claims about git repositories.

use super::git_address::PROTOCOLS;
use super::git_program::{Git, Needs};
use super::*;
use kiln_snapshotter::{CopyOptions, copy_tree};

/// A git server on this machine, with the repositories that a script has made in its folder.
struct GitServer {
    folder: TempDir,
    address: String,
    daemon: Child,
}

/// A repository with two branches, tags with and without a message, a link and a program.
const REPO: &str = "
    git init -q -b main work; cd work
    mkdir sub; echo one > one; echo deep > sub/deep; ln -s /etc link; echo run > tool; chmod 755 tool
    git add .; git commit -q -m one; git tag v1; git tag -a -m message v2
    git checkout -q -b topic; echo two > two; git add .; git commit -q -m two; git checkout -q main
    cd ..; git clone -q --bare work repo.git";

impl GitServer {
    fn new(script: &str) -> GitServer {
        let folder = tempfile::tempdir().expect("a folder");
        run_script(folder.path(), script);
        let exec_path = Command::new("git").arg("--exec-path").output().expect("git").stdout;
        let exec_path = String::from_utf8(exec_path).expect("a path");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let daemon = Command::new(Path::new(exec_path.trim()).join("git-daemon"))
            .args(["--listen=127.0.0.1", &format!("--port={port}"), "--reuseaddr", "--export-all"])
            .arg(format!("--base-path={}", folder.path().display()))
            .stderr(Stdio::null())
            .spawn()
            .expect("git daemon");
        let address = format!("127.0.0.1:{port}");
        let answers = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            TcpStream::connect(&address).is_ok()
        });
        assert!(answers, "the git server answers");
        GitServer { folder, address, daemon }
    }

    fn url(&self, rest: &str) -> String {
        format!("git://{}/{rest}", self.address)
    }

    fn commit(&self, repository: &str, name: &str) -> String {
        let folder = self.folder.path().join(repository);
        let output = Command::new("git").arg("-C").arg(folder).args(["rev-parse", name]).output();
        String::from_utf8(output.expect("git").stdout).expect("a commit").trim().to_owned()
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[track_caller]
fn run_script(folder: &Path, script: &str) {
    let who = ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"];
    let done = Command::new("sh")
        .args(["-euc", script])
        .current_dir(folder)
        .envs(who.map(|name| (name, "a@b.c")))
        .env("GIT_AUTHOR_DATE", "1700000000 +0000")
        .env("GIT_COMMITTER_DATE", "1700000000 +0000")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", folder)
        .output()
        .expect("a shell");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn names_stand_for_commits_and_files_are_as_git_has_them() {
    let server = GitServer::new(REPO);
    let fixture = Fixture::new();
    let bring = |rest: &str| fixture.bring(&server.url(rest), &[]);
    let main = bring("repo.git").expect("the default branch");
    let expect = [("link", 0o777), ("one", 0o644), ("sub", 0o755), ("sub/deep", 0o644), ("tool", 0o755)];
    assert_eq!(fixture.paths(&main), expect.map(|(path, mode)| (path.to_owned(), mode)));
    assert!(fixture.index(&main).iter().all(|(_, e)| (e.uid, e.gid) == (0, 0)));
    let topic = bring("repo.git#topic").expect("a branch");
    assert!(fixture.names(&topic).contains(&"two".to_owned()));
    for name in ["main", "v1", "v2", "refs/heads/main", "refs/tags/v2", "HEAD"] {
        assert_eq!(bring(&format!("repo.git#{name}")).expect(name).content(), main.content(), "{name}");
    }
    let commit = server.commit("repo.git", "topic");
    assert_eq!(bring(&format!("repo.git#{commit}")).expect("a commit").content(), topic.content());
    assert_eq!(fixture.names(&bring("repo.git#main:sub").expect("a folder")), ["deep"]);
    // Nothing but the layers themselves is left.
    assert_eq!(fixture.snapshots(), 3);
}

#[test]
fn a_commit_that_is_known_is_not_fetched_again() {
    let server = GitServer::new(REPO);
    let fixture = Fixture::new();
    let commit = server.commit("repo.git", "main");
    let one = fixture.bring(&server.url(&format!("repo.git#{commit}")), &[]).expect("a commit");
    let branch = fixture.bring(&server.url("repo.git#main"), &[]).expect("a branch");
    assert_eq!((snapshot(&one), fixture.snapshots()), (snapshot(&branch), 1));
    let url = server.url(&format!("repo.git#{commit}"));
    drop(server);
    assert_eq!(snapshot(&fixture.bring(&url, &[]).expect("a commit without a server")), snapshot(&one));
}

#[test]
fn a_server_that_gives_no_single_commits_gives_all() {
    let server = GitServer::new(&format!(
        "{REPO}; cd work; echo three > three; git add .; git commit -q -m three; git push -q ../repo.git main"
    ));
    let fixture = Fixture::new();
    let commit = server.commit("repo.git", "main~1");
    let stack = fixture.bring(&server.url(&format!("repo.git#{commit}")), &[]).expect("a commit");
    assert!(!fixture.names(&stack).contains(&"three".to_owned()));
    let none = "0123456789012345678901234567890123456789";
    fails(fixture.bring(&server.url(&format!("repo.git#{none}")), &[]), &[none]);
}

#[test]
fn a_checksum_is_that_of_the_commit_or_its_beginning() {
    let server = GitServer::new(REPO);
    let fixture = Fixture::new();
    let (main, topic) = (server.commit("repo.git", "main"), server.commit("repo.git", "topic"));
    let bring = |checksum: &str| fixture.bring(&server.url("repo.git#topic"), &[("git.checksum", checksum)]);
    fails(bring(&main), &["expected checksum to match", &main, &topic]);
    bring(&topic).expect("the commit");
    bring(&topic[..11]).expect("its beginning");
    fails(bring(&main), &["expected checksum to match", &main, &topic]);
    let tag = server.commit("repo.git", "v2");
    fixture.bring(&server.url("repo.git#v2"), &[("git.checksum", &tag)]).expect("the tag's own");
}

#[test]
fn what_is_not_there_is_said() {
    let server = GitServer::new(REPO);
    let fixture = Fixture::new();
    let bring = |rest: &str| fixture.bring(&server.url(rest), &[]);
    fails(bring("repo.git#nothing"), &["does not contain ref nothing"]);
    fails(bring("repo.git#main:nosuchdir"), &["invalid subdir nosuchdir: no such file or directory"]);
    fails(bring("repo.git#main:one"), &["invalid subdir one: not a directory"]);
    fails(bring("none.git"), &[&server.url("none.git"), "git ls-remote failed"]);
    assert_eq!(fixture.snapshots(), 0);
}

#[test]
fn a_folder_is_not_reached_by_links_or_from_above() {
    let server = GitServer::new(&format!(
        "{REPO}; cd work; mkdir in; ln -s ../sub in/side; git add .; git commit -q -m x; git push -q ../repo.git main"
    ));
    let fixture = Fixture::new();
    for folder in ["link", "in/side", "..", "sub/../..", ".git", "sub/../.git"] {
        fails(fixture.bring(&server.url(&format!("repo.git#main:{folder}")), &[]), &["invalid subdir"]);
    }
}

#[test]
fn what_would_be_an_option_is_refused_before_git_runs() {
    let fixture = Fixture::new();
    fails(fixture.bring("git://127.0.0.1:9/r#--upload-pack=touch", &[]), &["can't be the name"]);
    for url in ["--upload-pack=touch x", "ext::sh -c x", "file:///etc", "ssh://-oProxyCommand=x/r"] {
        let result = fixture.bring("git://h/r", &[("git.fullurl", url)]);
        assert!(matches!(result, Err(WorkerError::Source { .. })), "{url}");
    }
    assert!(matches!(fixture.bring("git://h/r", &[("git.fullurl", "git@h:r")]), Err(WorkerError::Ssh(_))));
}

#[test]
fn git_is_kept_if_asked_and_tells_no_times() {
    let server = GitServer::new(REPO);
    let kept = [("git.keepgitdir", "true")];
    let (one, two) = (Fixture::new(), Fixture::new());
    let first = one.bring(&server.url("repo.git#topic"), &kept).expect("a branch");
    let second = two.bring(&server.url("repo.git#topic"), &kept).expect("a branch");
    let names = one.names(&first);
    for name in [".git/HEAD", ".git/objects", ".git/refs/heads/topic", "two"] {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
    assert!(!names.iter().any(|n| n.contains("/logs") || n.contains("hooks") || n.contains("FETCH_HEAD")));
    assert_eq!(first.content(), second.content());

    let mount = one.store.snapshots.mount_readonly(&[snapshot(&first)]).expect("a mount");
    let copy = tempfile::tempdir().expect("a folder");
    let tree = Tree::open(copy.path()).expect("a tree");
    copy_tree(&mount.root().expect("a root"), b"", &tree, b"", &CopyOptions::default()).expect("a copy");
    let git = program(tree, &one.cancel, Vec::new());
    let status = git.run(Needs::Disk, &["status", "--porcelain", "--branch"]);
    assert_eq!(status.expect("git status"), "## topic\n");
}

#[test]
fn files_are_as_old_as_the_commit_if_asked() {
    let server = GitServer::new(REPO);
    let fixture = Fixture::new();
    let stack = fixture.bring(&server.url("repo.git"), &[("git.mtime", "commit")]).expect("a commit");
    let times: Vec<_> = fixture.index(&stack).iter().map(|(_, e)| e.mtime_s).collect();
    assert_eq!(times, [1_700_000_000; 5]);
}

const SUBMODULES: &str = "
    git init -q -b main inner; cd inner; echo in > in; git add .; git commit -q -m in; cd ..
    git clone -q --bare inner inner.git; git init -q -b main outer; cd outer
    git -c protocol.file.allow=always submodule --quiet add ../inner mod
    git config -f .gitmodules submodule.mod.url \"$URL\"; echo out > out; git add .; git commit -q -m out; cd ..
    git clone -q --bare outer outer.git";

#[test]
fn submodules_come_along_unless_skipped() {
    let server = GitServer::new(&format!("URL=../inner.git; {SUBMODULES}"));
    let fixture = Fixture::new();
    let with = fixture.bring(&server.url("outer.git"), &[]).expect("both");
    assert_eq!(fixture.names(&with), [".gitmodules", "mod", "mod/in", "out"]);
    let without = fixture.bring(&server.url("outer.git"), &[("git.skipsubmodules", "true")]).expect("one");
    assert_eq!(fixture.names(&without), [".gitmodules", "mod", "out"]);
}

#[test]
fn a_submodule_is_no_way_to_files_programs_or_options() {
    for url in [
        "file://$PWD/inner.git",
        "$PWD/inner.git",
        "ext::sh -c touch% /tmp/canary",
        "-u./x",
        "--upload-pack=touch x",
    ] {
        let server = GitServer::new(&format!("URL=\"{url}\"; {SUBMODULES}"));
        let fixture = Fixture::new();
        let text = fails(fixture.bring(&server.url("outer.git"), &[]), &["git submodule failed"]);
        assert!(text.contains("not allowed") || text.contains("url"), "{url}: {text}");
    }
}

fn program(folder: Tree, cancel: &CancelToken, config: Vec<(String, String)>) -> Git<'_> {
    Git { folder, cancel, shown: "shown", url: "url", config, agent: None }
}

#[test]
fn no_hook_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let who = ["name", "email"].map(|key| (format!("user.{key}"), "a@b.c".to_owned()));
    let cancel = CancelToken::new();
    let git = program(Tree::open(folder.path()).expect("a tree"), &cancel, who.to_vec());
    git.run(Needs::Disk, &["init", "--quiet", "--template="]).expect("a repository");
    let (hook, canary) = (folder.path().join(".git/hooks/pre-commit"), folder.path().join("canary"));
    std::fs::create_dir_all(folder.path().join(".git/hooks")).expect("a folder");
    std::fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", canary.display())).expect("a hook");
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).expect("a program");
    git.run(Needs::Disk, &["commit", "--quiet", "--allow-empty", "-m", "x"]).expect("a commit");
    assert!(!canary.exists());
    run_script(folder.path(), "git commit -q --allow-empty -m y");
    assert!(canary.exists(), "the hook does run without our settings");
    assert!(!PROTOCOLS.contains("file") && !PROTOCOLS.contains("ext"));
}

#[test]
fn the_end_of_the_build_ends_git() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("git://{}/r.git", listener.local_addr().expect("an address"));
    let fixture = Fixture::new();
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            fixture.cancel.cancel();
        });
        assert!(matches!(fixture.bring(&url, &[]), Err(WorkerError::Canceled)));
    });
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(fixture.snapshots(), 0);
}

#[test]
fn a_secret_goes_to_its_host_alone_and_into_no_message() {
    let other = WebServer::new(|_, _| answer("404 Not Found", "", ""));
    let to = other.url("");
    let server = WebServer::new(move |head, _| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        match path.starts_with("/moved") {
            true => answer("302 Found", &format!("location: {to}{path}\r\n"), ""),
            false => answer("403 Forbidden", "", ""),
        }
    });
    let fixture = Fixture::new().with_secret("GIT_AUTH_TOKEN", "t0ken\n");
    let bring = |url: String| fixture.bring("git://h/r", &[("git.fullurl", &url)]);
    let text = fails(bring(server.url("/r.git")), &["403"]);
    // x-access-token:t0ken, in lower case as the server remembers it
    let basic = basic_authorization("x-access-token", "t0ken").to_lowercase();
    assert!(server.asked()[0].contains(&format!("authorization: {basic}\r\n")), "{:?}", server.asked());
    assert!(!text.contains("t0ken") && !text.to_lowercase().contains(&basic));
    fails(bring(server.url("/moved/r.git")), &["git ls-remote failed"]);
    assert_eq!(other.asked().len(), 0);
    let text = fails(bring(server.url("/r.git").replace("http://", "http://me:s3cret@")), &["403"]);
    assert!(!text.contains("s3cret"));
}

#[test]
fn a_pinned_name_is_its_commit_wherever_the_name_has_gone() {
    let server = GitServer::new(REPO);
    let kept = [("git.keepgitdir", "true")];
    for (name, attrs) in [("main", &[][..]), ("main", &kept), ("v2", &[]), ("v2", &kept), ("", &kept)] {
        let url = server.url(&format!("repo.git#{name}"));
        let first = Fixture::learning();
        let before = first.bring(&url, attrs).expect(name);
        assert_eq!(first.bring(&url, attrs).expect(name).content(), before.content());
        let held = first.held(true);
        run_script(
            server.folder.path(),
            "cd work; date +%N > new; git add .; git commit -q -m new; git tag -f -a -m message v2 > /dev/null
            git push -q -f ../repo.git main v2",
        );
        assert_eq!(held.bring(&url, attrs).expect(name).content(), before.content(), "{name} {attrs:?}");
        let now = Fixture::new().bring(&url, attrs).expect(name);
        assert_ne!(now.content(), before.content(), "{name} {attrs:?}");
    }
}

#[test]
fn two_sources_of_one_name_are_one_commit_under_a_lock_file() {
    let server = GitServer::new(REPO);
    let fixture = Fixture::learning();
    let one = fixture.bring(&server.url("repo.git#main"), &[]).expect("a branch");
    run_script(
        server.folder.path(),
        "cd work; rm one; git commit -q -a -m less; git push -q ../repo.git main",
    );
    let two = fixture.bring(&server.url("repo.git#main:sub"), &[]).expect("a folder");
    assert_eq!(fixture.names(&two), ["deep"]);
    let again = fixture.bring(&server.url("repo.git#main"), &[("git.mtime", "commit")]).expect("a branch");
    assert_eq!(fixture.names(&again), fixture.names(&one));
    let held = fixture.held(true);
    fails(held.bring(&server.url("repo.git#topic"), &[]), &["no entry", "repo.git#topic", "--locked"]);
}
