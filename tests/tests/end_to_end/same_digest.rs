//! The same input gives the same digest: one context with everything in it that tempts, built in many settings that
//! have no say in what comes out.

use super::remote_contexts::GitServer;
use super::{busybox, on_busybox};
use kiln_oci::Digest;
use kiln_tests::{Finished, Invocation, Registry, TestContext, kiln_program};
use std::fs::{File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};
use tar::{EntryType, Header};

/// All that is made or changed after it has this time.
const EPOCH: u64 = 1_600_000_000;
/// The time of the context's files, in most settings.
const FILES_TIME: u64 = 1_700_000_000;

const DOCKERFILE: &str = r#"# syntax=docker/dockerfile:1
FROM @ AS maker
ARG STEP=here
WORKDIR /work/deep/
COPY files/ ./files
ADD odd.tar /odd/
RUN <<EOF
  echo "how it came about: $STEP" > /dev/null
  mkdir -p b/2 b/1 a && for i in 9 3 7 1; do echo $i > b/f$i; done
  ln b/f9 a/hard && ln -s ../b/f3 a/soft && chmod 4711 b/f7 && chown 12:34 b/1 && chmod 1777 b/2
  mkfifo a/pipe && rm -rf files/sub && mkdir files/sub && date > /dev/null
  rm /etc/group
EOF
RUN (umask; env | sort; id; hostname; pwd; ulimit -c; cat /etc/hosts) > /facts

FROM @ AS image
COPY --from=maker --chown=1000:1000 /work /work
COPY --from=maker /odd /odd
COPY --from=maker /facts /
COPY --chmod=2750 --chown=app files/run.sh /bin/
COPY --link files /linked/
COPY <<EOF <<"RAW" /here/
A=$A
EOF
$A
RAW
WORKDIR /new/folder
RUN rm -r /linked/sub && mkdir /linked/sub && cd /linked/sub && echo x > x && ln x a && touch -d "1999-01-01 00:00:00" old
ENV A=1 B="two words"
LABEL z=1 a=2

FROM scratch AS plain
ARG TARGETARCH
COPY files /files
COPY --chown=1:2 --chmod=640 files/*.txt /$TARGETARCH/
ADD odd.tar /
COPY --from=maker /work /work
WORKDIR /w/$TARGETARCH
"#;

/// How the files of the context come to be.
#[derive(Clone, Copy)]
struct Files {
    backwards: bool,
    /// Whether the files have names outside of the context too, as those of `cp -al`.
    linked: bool,
    owner: u32,
    time: u64,
    /// Taken from the modes, as a umask takes from a checkout's.
    umask: u32,
}

const FILES: Files = Files { backwards: false, linked: false, owner: 0, time: FILES_TIME, umask: 0 };

/// An archive of which the build unpacks everything that an archive can have.
fn odd_tar() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |kind: EntryType, path: &str, mode: u32, link: &str, bytes: &[u8]| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(70_000);
        header.set_mtime(if path.contains("new") { FILES_TIME + 5 } else { EPOCH - 5 });
        header.set_size(bytes.len() as u64);
        if kind == EntryType::Char {
            header.set_device_major(1).and_then(|()| header.set_device_minor(3)).expect("ustar");
        }
        if path.ends_with("xattr") {
            let pax = [("SCHILY.xattr.user.b", b"2".as_slice()), ("SCHILY.xattr.user.a", b"1")];
            archive.append_pax_extensions(pax).expect("memory");
        }
        let done = match link {
            "" => archive.append_data(&mut header, path, bytes),
            link => archive.append_link(&mut header, path, link),
        };
        done.expect("memory");
    };
    add(EntryType::Directory, "tree", 0o1777, "", b"");
    add(EntryType::Regular, "tree/suid", 0o4755, "", b"suid");
    add(EntryType::Link, "tree/a-hard-new", 0o4755, "tree/suid", b"");
    add(EntryType::Symlink, "tree/soft-new", 0o777, "suid", b"");
    add(EntryType::Regular, "tree/new-xattr", 0o600, "", b"with attributes");
    add(EntryType::Regular, "tree/\u{e9} long name", 0o444, "", &[0; 3000]);
    add(EntryType::Fifo, "tree/pipe-new", 0o620, "", b"");
    add(EntryType::Char, "tree/null", 0o666, "", b"");
    archive.into_inner().expect("memory")
}

/// Writes the context into a folder.
fn write_context(folder: &Path, files: Files) {
    let dockerfile = DOCKERFILE.replace('@', &busybox());
    let mut all: Vec<(String, u32, Vec<u8>)> = vec![
        ("Dockerfile".to_owned(), 0o644, dockerfile.into_bytes()),
        ("odd.tar".to_owned(), 0o644, odd_tar()),
        ("files/run.sh".to_owned(), 0o755, b"#!/bin/sh\n".to_vec()),
        ("files/large.bin".to_owned(), 0o644, (0..600_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect()),
        ("files/same.txt".to_owned(), 0o644, b"text 1".to_vec()),
    ];
    for i in 0..40 {
        all.push((format!("files/sub/{}/{i}.txt", i % 3), 0o644, format!("text {i}").into_bytes()));
        all.push((format!("files/{i}.txt"), 0o644, format!("text {i}").into_bytes()));
    }
    if files.backwards {
        all.reverse();
    }
    for (name, mode, bytes) in &all {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, bytes).expect("a file");
        std::fs::set_permissions(&path, Permissions::from_mode(mode & !files.umask)).expect("a mode");
    }
    if files.linked {
        // Of no other file of the context: such links are an input of their own.
        let other = folder.with_extension("linked");
        std::fs::create_dir(&other).expect("a folder");
        for (i, (name, ..)) in all.iter().enumerate() {
            std::fs::hard_link(folder.join(name), other.join(i.to_string())).expect("a link");
        }
    }
    symlink("sub/../run.sh", folder.join("files/link")).expect("a link");
    symlink("/nowhere", folder.join("files/dangling")).expect("a link");
    settle(folder, files);
}

/// Gives everything in a folder its owner, time and, if it is a folder, mode. The time of a link can't be set so.
fn settle(path: &Path, files: Files) {
    if path.is_symlink() {
        return std::os::unix::fs::lchown(path, Some(files.owner), Some(files.owner)).expect("root may");
    }
    chown(path, Some(files.owner), Some(files.owner)).expect("root may");
    if path.is_dir() {
        std::fs::set_permissions(path, Permissions::from_mode(0o755 & !files.umask)).expect("a mode");
        for entry in std::fs::read_dir(path).expect("a folder") {
            settle(&entry.expect("an entry").path(), files);
        }
    }
    let time = UNIX_EPOCH + Duration::from_secs(files.time);
    File::open(path).and_then(|file| file.set_modified(time)).expect("its own file");
}

/// One setting: a world of its own, and what is before and after the words of the command.
struct Setting {
    name: &'static str,
    world: TestContext,
    wrapper: Vec<String>,
    env: Vec<(&'static str, String)>,
    flags: Vec<String>,
    context: String,
    stdin: Option<Vec<u8>>,
    folder: Option<String>,
}

impl Setting {
    fn new(name: &'static str) -> Setting {
        Setting::of(name, FILES)
    }

    fn of(name: &'static str, files: Files) -> Setting {
        let world = TestContext::new();
        write_context(&world.context(), files);
        let context = world.text("ctx");
        let (wrapper, env, flags) = Default::default();
        Setting { name, world, wrapper, env, flags, context, stdin: None, folder: None }
    }

    fn wrapped(mut self, words: &[&str]) -> Setting {
        self.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    fn shell(self, text: &str) -> Setting {
        self.wrapped(&["sh", "-c", &format!("{text}; exec \"$@\""), "sh"])
    }

    fn env(mut self, name: &'static str, value: impl Into<String>) -> Setting {
        self.env.push((name, value.into()));
        self
    }

    fn flags(mut self, flags: &[&str]) -> Setting {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// `kiln build` of one stage, to an archive with gzip's layers and one with zstd's.
    fn building(&self, stage: &str) -> Invocation {
        let mut words = self.wrapper.clone();
        words.push(kiln_program().to_string_lossy().into_owned());
        words.extend(["build", "-t", "same.example/digest:1", "--target", stage].map(str::to_owned));
        if stage == "plain" {
            words.push("--platform=linux/amd64,linux/arm64/v8,linux/arm/v7".to_owned());
        }
        for kind in ["gzip", "zstd"] {
            let dest = self.archive(stage, kind);
            let output = format!(
                "-otype=oci,dest={dest},compression={kind},force-compression=true,rewrite-timestamp=true"
            );
            words.push(output);
        }
        words.extend(self.flags.iter().cloned());
        words.push(self.context.clone());
        let mut invocation = Invocation::new(&words[0])
            .args(&words[1..])
            .current_dir(Path::new(self.folder.as_deref().unwrap_or("/")))
            .env("KILN_ROOT", self.world.store())
            .env("HOME", self.world.path("home"))
            .env("DOCKER_CONFIG", self.world.path("home/.docker"))
            .env("SOURCE_DATE_EPOCH", EPOCH.to_string());
        for (name, value) in &self.env {
            invocation = invocation.env(name, value);
        }
        match &self.stdin {
            Some(bytes) => invocation.stdin(bytes.clone()),
            None => invocation,
        }
    }

    fn archive(&self, stage: &str, kind: &str) -> String {
        self.world.text(&format!("{stage}-{kind}.tar"))
    }

    #[track_caller]
    fn build(&self, stage: &str) -> Finished {
        self.building(stage).run()
    }

    /// The digests of all that it writes.
    #[track_caller]
    fn digests(&self) -> Vec<(String, Digest)> {
        let mut digests = Vec::new();
        for stage in ["image", "plain"] {
            let finished = self.build(stage);
            assert!(finished.code == Some(0), "{}: {finished}", self.name);
            for kind in ["gzip", "zstd"] {
                let archive = std::fs::read(self.archive(stage, kind)).expect("an archive");
                digests.push((format!("{stage} {kind}"), Digest::of(&archive)));
            }
        }
        digests
    }
}

fn tar_of(folder: &Path) -> Vec<u8> {
    Command::new("tar").args(["-cf", "-", "."]).current_dir(folder).output().expect("tar").stdout
}

/// Capabilities that kiln needs of a user who is not root.
fn capabilities() -> String {
    let names = [
        "chown",
        "dac_override",
        "dac_read_search",
        "fowner",
        "fsetid",
        "kill",
        "setgid",
        "setuid",
        "setpcap",
        "net_bind_service",
        "net_admin",
        "net_raw",
        "sys_chroot",
        "sys_ptrace",
        "sys_admin",
        "mknod",
        "audit_write",
        "setfcap",
    ];
    names.map(|name| format!("+{name}")).join(",")
}

/// Settings that differ in who builds, and with which limits.
fn people() -> Vec<Setting> {
    let caps = capabilities();
    let user = Setting::new("another user with capabilities");
    for name in ["", "ctx", "home"] {
        chown(user.world.path(name), Some(1234), Some(1234)).expect("root may");
    }
    let (inherited, ambient) = (format!("--inh-caps={caps}"), format!("--ambient-caps={caps}"));
    let user =
        user.wrapped(&["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", &inherited, &ambient]);
    vec![
        user,
        Setting::new("another group").wrapped(&["setpriv", "--regid=1234", "--groups=7,8,9"]),
        Setting::new("umask 000").shell("umask 000"),
        Setting::new("umask 022").shell("umask 022"),
        Setting::new("umask 077").shell("umask 077"),
        Setting::new("TZ, LANG and LC_ALL")
            .env("TZ", "Pacific/Kiritimati")
            .env("LANG", "tr_TR.UTF-8")
            .env("LC_ALL", "tr_TR.UTF-8"),
        Setting::new("TZ west, C").env("TZ", "XXX+11:30").env("LC_ALL", "C").env("LANGUAGE", "de"),
        Setting::new("no home, no terminal")
            .env("HOME", "/nonexistent")
            .env("TERM", "dumb")
            .env("NO_COLOR", "1")
            .env("CI", "true"),
        Setting::new("nice").wrapped(&["nice", "-n", "10"]),
        Setting::new("few open files").shell("ulimit -n 256"),
        Setting::new("many open files").shell("ulimit -n 4096"),
        Setting::new("no core files, small stack").shell("ulimit -c 0; ulimit -s 2048"),
        Setting::new("one core").wrapped(&["taskset", "-c", "0"]),
        Setting::new("one thread, one job").env("RAYON_NUM_THREADS", "1").flags(&["--jobs", "1"]),
        Setting::new("seven threads, two jobs").env("RAYON_NUM_THREADS", "7").flags(&["--jobs", "2"]),
    ]
}

/// Settings that differ in where things are, and how they came there.
fn places() -> Vec<Setting> {
    let spaced = Setting::new("a store with spaces");
    let store = spaced.world.text("a store/with  spaces/and \u{fc}");
    let long = Setting::new("a store far down");
    let far = long.world.text(&["a-folder-with-a-name-that-is-long"; 10].join("/"));
    let deep = Setting::new("a context elsewhere, in its folder");
    let inside = deep.world.text("elsewhere/on the/disk");
    std::fs::create_dir_all(deep.world.path("elsewhere/on the")).expect("a folder");
    std::fs::rename(deep.world.context(), &inside).expect("moved");
    let deep = Setting { context: ".".to_owned(), folder: Some(inside), ..deep };
    let piped = Setting::new("a tar on standard input");
    let tar = tar_of(&piped.world.context());
    let piped = Setting { context: "-".to_owned(), stdin: Some(tar), ..piped };
    let owned = Files { owner: 4321, ..FILES };
    vec![
        spaced.env("KILN_ROOT", store),
        long.env("KILN_ROOT", far),
        deep,
        piped,
        Setting::of("files of another user", owned),
        Setting::of("files made in another order", Files { backwards: true, ..FILES }),
        Setting::of("files of `cp -al`", Files { linked: true, ..FILES }),
        Setting::of("files of other times", Files { time: 2_200_000_000, ..FILES }),
        Setting::of("files of the time itself", Files { time: EPOCH, ..FILES }),
        Setting::of("modes of another umask", Files { umask: 0o077, ..FILES }).flags(&["--context-mode=git"]),
        Setting::new("progress plain").flags(&["--progress=plain"]),
        Setting::new("progress tty").flags(&["--progress=tty"]).env("TERM", "xterm").env("COLUMNS", "40"),
        Setting::new("quiet").flags(&["-q"]),
    ]
}

#[track_caller]
fn all_same(settings: Vec<Setting>) {
    let want = Setting::new("as it is").digests();
    let different: Vec<String> = settings
        .iter()
        .flat_map(|setting| {
            let pairs = setting.digests().into_iter().zip(&want).collect::<Vec<_>>();
            let differ = pairs.into_iter().filter(|(got, want)| got != *want);
            differ.map(|(got, _)| format!("{}: {}", setting.name, got.0)).collect::<Vec<_>>()
        })
        .collect();
    assert!(different.is_empty(), "other bytes: {different:#?}");
}

#[test]
fn who_builds_and_with_which_limits_has_no_say_in_the_digest() {
    all_same(people());
}

#[test]
fn where_things_are_has_no_say_in_the_digest() {
    all_same(places());
}

#[test]
fn a_store_in_memory_and_a_context_from_git_give_the_same_digest() {
    let memory = tempfile::Builder::new().prefix("kiln-test-").tempdir_in("/dev/shm").expect("a tmpfs");
    let in_memory = Setting::new("a store on tmpfs").env("KILN_ROOT", memory.path().to_string_lossy());
    let cloned = Setting::new("a context from git");
    let server = GitServer::start(&cloned.world);
    let address = format!("git://{}/ctx#main", server.address);
    let git = |setting: Setting| Setting { context: address.clone(), ..setting };
    let masked = git(Setting::new("a context from git, umask 077").shell("umask 077"));
    all_same(vec![in_memory, git(cloned), masked]);
}

#[test]
fn what_is_known_has_no_say_in_the_digest() {
    let want = Setting::new("cold").digests();
    let warm = Setting::new("warm");
    assert_eq!(warm.digests(), want);
    assert!(warm.build("image").success().stderr.contains("CACHED"));
    assert_eq!(warm.digests(), want, "warm");
    warm.world.kiln(["prune", "--all", "-f"]).run().success();
    assert_eq!(warm.digests(), want, "after prune");
    let warm = warm.flags(&["--no-cache"]);
    assert_eq!(warm.digests(), want, "without cache");
    // Another step that makes the same: what follows is known by its content, and keeps what was made before.
    let cut = Setting::new("cut off");
    let other = cut.world.context().join("Other");
    let text = DOCKERFILE.replace('@', &busybox()).replace("STEP=here", "STEP=elsewhere");
    std::fs::write(&other, text).expect("a Dockerfile");
    let other = other.to_string_lossy().into_owned();
    cut.world.build(["-f", &other, "--target", "image", "-o", "type=cacheonly"]).success();
    let log = cut.build("image").success();
    assert!(log.stderr.contains("CACHED"), "{log}");
    assert_eq!(cut.digests(), want, "after an early cut-off");
}

#[test]
fn a_cache_from_a_registry_gives_the_same_digest() {
    let registry = Registry::start();
    let cache = registry.reference("cache:1");
    let export = format!("--cache-to=type=registry,ref={cache},mode=max");
    let made = Setting::new("exports its cache").flags(&[&export]);
    let finished = made.build("image").success();
    let taken = Setting::new("imports a cache").flags(&[&format!("--cache-from=type=registry,ref={cache}")]);
    let log = taken.build("image").success();
    assert!(log.stderr.contains("CACHED"), "{log}");
    let same = |log: &Finished| {
        for kind in ["gzip", "zstd"] {
            let archives =
                [&made, &taken].map(|one| std::fs::read(one.archive("image", kind)).expect("there"));
            assert!(archives[0] == archives[1], "{kind}: {finished} {log}");
        }
    };
    same(&log);
    // What came from the cache is in the store now.
    same(&taken.build("image").success());
}

#[test]
fn verify_says_same_or_names_what_differs() {
    let registry = Registry::start();
    let name = registry.reference("verified:1");
    let setting = Setting::new("verified");
    let world = &setting.world;
    let output = "type=registry,rewrite-timestamp=true";
    let dated = |invocation: Invocation| invocation.env("SOURCE_DATE_EPOCH", EPOCH.to_string());
    dated(world.building(["-t", &name, "--target", "image", "-o", output])).run().success();
    let verify = |reference: &str, stage: &str| {
        let elsewhere = TestContext::new();
        let words = ["verify", "--no-cache", "--pull=always", "--target", stage, reference, &setting.context]
            .map(str::to_owned);
        dated(elsewhere.kiln(words)).run()
    };
    assert_eq!(verify(&name, "image").success().stdout_text(), "");
    // Somebody put something of his own into it.
    let tampered = registry.reference("tampered:1");
    let other =
        TestContext::with_dockerfile(&format!("FROM {name}\nCOPY x /linked/1.txt\nRUN rm /facts\nENV A=2\n"));
    other.write("x", "evil");
    other.build(["-t", &tampered, "--push"]).success();
    let said = verify(&tampered, "image").fails_with(1).does_not_say("ERROR").stdout_text();
    for line in ["C /linked/1.txt", "A /facts"] {
        assert!(said.contains(line), "no `{line}` in\n{said}");
    }
    assert!(said.contains("C Env.A"), "{said}");
    // Something that is another each time.
    let random = on_busybox("FROM @\nRUN cat /proc/sys/kernel/random/uuid > /id && echo same > /same\n");
    random.build(["-t", "random:1"]).success();
    let words = ["verify", "--no-cache", "random:1", &random.text("ctx")].map(str::to_owned);
    let said = random.kiln(words).run().fails_with(1).stdout_text();
    assert!(said.contains("C /id") && !said.contains("/same"), "{said}");
}
