//! The mutation test of keys, from outside: one build with instructions of all kinds, and whatever can be
//! changed about it changed alone. What a step reads must run it again; what none reads must run nothing.

mod cases;

use super::busybox;
use super::remote_contexts::GitServer;
use cases::{NOT_READ, READ};
use kiln_tests::{FakeRegistry, Finished, ImageAssert, Invocation, Reply, TestContext};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

/// Tells whether it ran.
const RANDOM: &str = "cat /proc/sys/kernel/random/uuid";

const DOCKERFILE: &str = "\
ARG BASE=@
FROM $BASE AS copied
COPY dir /dir/
RUN RANDOM > /of-dir

FROM @ AS chosen
COPY --chmod=640 --chown=1:2 one.txt /one/
COPY --exclude=*.o dir /excluded/
COPY --link two.txt /linked/
COPY glob/*.txt /glob/
COPY <<E /heredoc/text
heredoc
E
ADD http://WEB/file /web/
ADD git://GIT/ctx#main /git/
ADD archive.tar /unpacked/

FROM @ AS ran
ARG VERSION=1
ENV SETTING=1
WORKDIR /work
RUN --mount=type=bind,source=bound,target=/bound RANDOM > /of-mount
RUN --mount=type=cache,id=shared,target=/cache RANDOM > /cache/file && RANDOM > /of-cache
RUN --mount=type=secret,id=token,target=/token RANDOM > /of-secret
RUN --mount=type=secret,id=token,env=TOKEN RANDOM > /of-variable
RUN --mount=type=ssh RANDOM > /of-agent
RUN --mount=type=tmpfs,target=/memory,size=1m RANDOM > /of-memory
RUN --network=none RANDOM > /of-network
RUN --security=sandbox RANDOM > /of-security
RUN <<E
RANDOM > /of-script
E
SHELL [\"/bin/sh\", \"-c\"]
RUN RANDOM > /of-shell
USER 1000
RUN RANDOM > /tmp/of-user

FROM @ AS other
RUN RANDOM > /other

FROM @ AS last
COPY --from=copied /of-dir /
COPY --from=chosen /one /glob /heredoc /web /git /unpacked /excluded /linked /
COPY --from=ran /of-mount /of-cache /of-secret /of-variable /of-agent /of-memory /of-network /
COPY --from=ran /of-security /of-script /of-shell /tmp/of-user /
";

/// All that a build depends on, as it is unless a case changes it.
struct World {
    context: TestContext,
    web: FakeRegistry,
    web_says: Arc<Mutex<&'static str>>,
    repository: TestContext,
    git: GitServer,
    dockerfile: String,
    args: Vec<String>,
    env: Vec<(&'static str, &'static str)>,
    folder: String,
    /// What is done in the process before it becomes kiln.
    before: &'static str,
}

/// What a build did.
struct Outcome {
    /// The steps that were not cached.
    ran: BTreeSet<String>,
    layers: Vec<String>,
    log: Finished,
}

impl World {
    fn new() -> World {
        let web_says = Arc::new(Mutex::new(""));
        let says = web_says.clone();
        let web = FakeRegistry::start(move |_, _| Reply::new(200, *says.lock().expect("no panic")));
        let repository = TestContext::new();
        repository.write("in-git.txt", "one");
        let git = GitServer::start(&repository);
        in_git(&repository.context(), &["tag", "first"]);
        let (context, dockerfile, folder) = (TestContext::new(), String::new(), String::new());
        let (args, env, before) = (Vec::new(), Vec::new(), "");
        World { context, web, web_says, repository, git, dockerfile, args, env, folder, before }
    }

    /// Makes everything as it was. The context is written anew: other inodes, other times.
    fn reset(&mut self) {
        let context = &self.context;
        std::fs::remove_dir_all(context.context()).expect("the context");
        std::fs::create_dir_all(context.context().join("dir/empty")).expect("a folder");
        context.write("dir/a.txt", "a").write("dir/sub/b.txt", "b").write("dir/c.o", "object");
        context.write("one.txt", "1").write("two.txt", "2").write("bound/file", "bound");
        context.write("glob/x.txt", "x").write("glob/y.md", "y").write("unread.txt", "nobody reads it");
        context.write("packed/in.txt", "packed").write(".dockerignore", "*.log\n").link("dir/link", "a.txt");
        pack(&context.context());
        context.write_beside("token", "secret");
        *self.web_says.lock().expect("no panic") = "from the web";
        in_git(&self.repository.context(), &["reset", "-q", "--hard", "first"]);
        let text = DOCKERFILE.replace("RANDOM", RANDOM).replace('@', &busybox());
        self.dockerfile = text.replace("WEB", self.web.address()).replace("GIT", &self.git.address);
        let secret = format!("id=token,src={}", context.text("token"));
        let agent = format!("default={}", key(context));
        let args = ["--secret", &secret, "--ssh", &agent, "--add-host", "db:10.0.0.1"];
        self.args = args.map(str::to_owned).to_vec();
        self.arg(&["--build-arg", "VERSION=2", "--build-arg", "SETTING=9"]);
        self.env = Vec::new();
        self.folder = self.context.text("ctx");
        self.before = "";
    }

    fn path(&self, name: &str) -> PathBuf {
        self.context.context().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        self.context.write(name, text);
    }

    fn chmod(&self, name: &str, mode: u32) {
        self.context.chmod(name, mode);
    }

    fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).expect("a file");
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).expect("a file");
    }

    /// Replaces a text of the Dockerfile.
    #[track_caller]
    fn say(&mut self, old: &str, new: &str) {
        let whole = |text: &str| text.replace("RANDOM", RANDOM).replace('@', &busybox());
        let old = whole(old);
        assert_eq!(self.dockerfile.matches(&old).count(), 1, "{old:?}");
        self.dockerfile = self.dockerfile.replace(&old, &whole(new));
    }

    fn arg(&mut self, words: &[&str]) {
        self.args.extend(words.iter().map(|word| (*word).to_owned()));
    }

    /// Replaces an argument.
    #[track_caller]
    fn instead(&mut self, beginning: &str, new: &str) {
        let arg = self.args.iter_mut().find(|arg| arg.starts_with(beginning)).expect("an argument");
        *arg = new.to_owned();
    }

    #[track_caller]
    fn build(&self) -> Outcome {
        std::fs::write(Path::new(&self.folder).join("Dockerfile"), &self.dockerfile).expect("a Dockerfile");
        let output = format!("type=oci,dest={}", self.context.text("image.tar"));
        let script = format!("{}\nexec {} \"$@\"", self.before, kiln_tests::kiln_program().display());
        let mut all = vec!["-ec", &script, "kiln", "build", "--progress=plain", "-o", &output];
        all.extend(self.args.iter().map(String::as_str));
        all.push(&self.folder);
        let mut running = Invocation::new("sh")
            .args(&all)
            .current_dir(&self.context.path(""))
            .env("KILN_ROOT", self.context.store())
            .env("HOME", self.context.path("home"))
            .env("DOCKER_CONFIG", self.context.path("home/.docker"))
            .env_remove("SOURCE_DATE_EPOCH");
        for (name, value) in &self.env {
            running = running.env(name, value);
        }
        let log = running.run().success();
        let image = ImageAssert::of_archive(&self.context.path("image.tar"));
        let layers = image.config.rootfs.diff_ids.iter().map(ToString::to_string).collect();
        Outcome { ran: steps_that_ran(&log.stderr), layers, log }
    }
}

fn key(context: &TestContext) -> String {
    let path = context.write_beside("key", include_str!("../../../worker/src/ssh_agent/tests/keys/ed25519"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    path.to_string_lossy().into_owned()
}

fn in_git(folder: &Path, args: &[&str]) {
    let who = ["-c", "user.name=test", "-c", "user.email=test@test"];
    let done = Command::new("git").args(who).args(args).current_dir(folder).env("HOME", folder).status();
    assert!(done.expect("git").success(), "{args:?}");
}

/// Packs the folder `packed` of a context, with the same bytes whenever it is done.
fn pack(context: &Path) {
    let flags = ["--sort=name", "--mtime=@1", "--owner=0", "--group=0", "-cf", "archive.tar", "packed"];
    assert!(Command::new("tar").args(flags).current_dir(context).status().expect("tar").success());
}

/// The names of steps that were not cached.
fn steps_that_ran(log: &str) -> BTreeSet<String> {
    let (mut names, mut ran, mut asked) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for line in log.lines() {
        let Some((number, rest)) = line.strip_prefix('#').and_then(|line| line.split_once(' ')) else {
            continue;
        };
        if let Some((_, instruction)) = rest.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            names.insert(number, instruction);
        } else if rest.starts_with("DONE")
            && let Some(name) = names.get(number)
            && !name.starts_with("FROM")
        {
            // What is on the web or in git is asked for each time, under the name of its ADD.
            let is_asked_for = name.starts_with("ADD http:") || name.starts_with("ADD git:");
            if !is_asked_for || !asked.insert(*name) {
                ran.insert((*name).to_owned());
            }
        }
    }
    ran
}

#[test]
#[expect(clippy::print_stdout, reason = "the table is what the test is for")]
fn whatever_a_step_reads_runs_it_again_and_nothing_else_does() {
    let mut world = World::new();
    world.reset();
    let first = world.build();
    assert!(first.ran.len() > 20, "{}", first.log);
    let (mut missed, mut false_misses) = (Vec::new(), Vec::new());
    for (name, flip) in NOT_READ {
        world.reset();
        flip(&mut world);
        let now = world.build();
        if !now.ran.is_empty() || now.layers != first.layers {
            false_misses.push(format!("{name}: {:?} ran, {:?}", now.ran, now.layers));
        }
    }
    for (name, step, flip) in READ {
        world.reset();
        flip(&mut world);
        let now = world.build();
        if !now.ran.iter().any(|ran| ran.contains(step)) || now.layers == first.layers {
            missed.push(format!("{name}: {step} did not run; what ran: {:?}", now.ran));
        }
    }
    println!(
        "inputs flipped {}, missed {}; non-inputs flipped {}, false misses: {}",
        READ.len(),
        missed.len(),
        NOT_READ.len(),
        false_misses.len()
    );
    assert!(missed.is_empty() && false_misses.is_empty(), "missed {missed:#?}, in vain {false_misses:#?}");
}

/// A clone of a repository, made with a umask.
fn cloned(context: &TestContext, umask: &str) -> String {
    let folder = context.text(&format!("clone-{umask}"));
    let _ = std::fs::remove_dir_all(&folder);
    let script = format!("umask {umask} && git clone -q {} {folder}", context.text("ctx"));
    let cloned = Command::new("sh").args(["-c", &script]).env("HOME", context.path("home")).status();
    assert!(cloned.expect("git").success(), "{umask}");
    folder
}

#[test]
fn the_same_commit_is_known_wherever_whenever_and_by_whomever_it_was_checked_out() {
    let text = format!("FROM {}\nCOPY . /src/\nRUN {RANDOM} > /random\n", busybox());
    let context = TestContext::with_dockerfile(&text);
    context.write(".dockerignore", ".git\n").write("sub/file", "text").write("sub/run", "#!/bin/sh\n");
    context.chmod("sub/run", 0o755).link("sub/link", "file");
    in_git(&context.context(), &["init", "-q"]);
    in_git(&context.context(), &["add", "-A"]);
    in_git(&context.context(), &["commit", "-q", "-m", "all"]);
    let build = |folder: &str, flags: &[&str]| {
        let output = format!("type=oci,dest={}", context.text("image.tar"));
        let all = [&["build", "--progress=plain", "-o", &output][..], flags, &[folder]].concat();
        let log = context.kiln(all).run().success();
        (steps_that_ran(&log.stderr), ImageAssert::of_archive(&context.path("image.tar")))
    };
    let (ran, exact) = build(&cloned(&context, "022"), &[]);
    assert_eq!(ran.len(), 2, "{ran:?}");
    // Later, elsewhere, by somebody else.
    let elsewhere = context.text("elsewhere");
    std::fs::rename(context.path("clone-022"), &elsewhere).expect("a folder");
    let again = cloned(&context, "022");
    let theirs = Command::new("chown").args(["-R", "1234:1234", &again]).status().expect("chown");
    assert!(theirs.success());
    for folder in [&elsewhere, &again] {
        let (ran, image) = build(folder, &[]);
        assert!(ran.is_empty(), "{folder}: {ran:?}");
        assert_eq!(image.config.rootfs, exact.config.rootfs, "{folder}");
    }
    for umask in ["022", "002", "077"] {
        let (ran, image) = build(&cloned(&context, umask), &["--context-mode", "git"]);
        assert!(ran.is_empty(), "umask {umask}: {ran:?}");
        image.is("/src/sub/file", 0o644, (0, 0)).is("/src/sub/run", 0o755, (0, 0));
        image.is("/src/sub", 0o755, (0, 0));
        assert_eq!(image.config.rootfs, exact.config.rootfs, "umask {umask}");
    }
    // The mode that BuildKit keeps is another one, so that it is another image.
    let (ran, image) = build(&cloned(&context, "077"), &[]);
    assert_eq!(ran.len(), 2, "{ran:?}");
    image.is("/src/sub/file", 0o600, (0, 0)).is("/src/sub", 0o700, (0, 0));
}

#[test]
fn what_is_copied_has_the_modes_that_were_asked_for_after_gits() {
    let context = TestContext::with_dockerfile(&format!(
        "FROM {}\nCOPY file run /plain/\nCOPY --chmod=go-r file run /changed/\n\
         RUN --mount=type=bind,target=/c stat -c %a /c/file /c/run /c/dir > /seen\n",
        busybox()
    ));
    context.write("file", "").write("run", "").write("dir/x", "");
    context.chmod("file", 0o660).chmod("run", 0o700).chmod("dir", 0o770);
    let image = context.image(["--context-mode=git"]);
    image.is("/plain/file", 0o644, (0, 0)).is("/plain/run", 0o755, (0, 0));
    image.is("/changed/file", 0o600, (0, 0)).is("/changed/run", 0o711, (0, 0));
    image.file_is("/seen", "644\n755\n755\n");
}
