//! What is changed, each alone: what steps read, and what none reads. It does not know what comes of it.

use super::{RANDOM, World, in_git, pack};
use crate::end_to_end::busybox;
use kiln_tests::{BaseImage, LayerEntry, Registry};
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What is changed, a part of the name of the step that reads it, and how it is changed.
pub(super) type Read = (&'static str, &'static str, fn(&mut World));

/// What is changed, and how.
pub(super) type NotRead = (&'static str, fn(&mut World));

pub(super) const READ: &[Read] = &[
    ("bytes of a file", "COPY dir", |w| w.write("dir/a.txt", "A")),
    ("bytes, but neither length nor time", "COPY dir", |w| {
        let path = w.path("dir/sub/b.txt");
        let before = path.metadata().and_then(|m| m.modified()).expect("a file");
        w.write("dir/sub/b.txt", "B");
        dated(&path, before);
    }),
    ("mode of a file", "COPY dir", |w| w.chmod("dir/a.txt", 0o600)),
    ("mode of a folder", "COPY dir", |w| w.chmod("dir/sub", 0o700)),
    ("set-id bit", "COPY dir", |w| w.chmod("dir/a.txt", 0o4644)),
    ("name of a file", "COPY dir", |w| w.rename("dir/a.txt", "dir/A.txt")),
    ("name of a folder", "COPY dir", |w| w.rename("dir/sub", "dir/Sub")),
    ("an added file", "COPY dir", |w| w.write("dir/new.txt", "")),
    ("a removed file", "COPY dir", |w| w.remove("dir/sub/b.txt")),
    ("an added empty folder", "COPY dir", |w| std::fs::create_dir(w.path("dir/more")).expect("a folder")),
    ("a removed empty folder", "COPY dir", |w| std::fs::remove_dir(w.path("dir/empty")).expect("a folder")),
    ("target of a link", "COPY dir", |w| {
        w.remove("dir/link");
        symlink("sub/b.txt", w.path("dir/link")).expect("a link");
    }),
    ("a link that becomes a file", "COPY dir", |w| {
        w.remove("dir/link");
        w.write("dir/link", "a");
    }),
    ("a file that becomes a pipe", "COPY dir", |w| {
        w.remove("dir/a.txt");
        assert!(Command::new("mkfifo").arg(w.path("dir/a.txt")).status().expect("mkfifo").success());
    }),
    ("extended attribute of a file", "COPY dir", |w| attribute(&w.path("dir/a.txt"))),
    ("extended attribute of a folder", "COPY dir", |w| attribute(&w.path("dir/sub"))),
    ("bytes of a file with --chmod", "COPY --chmod", |w| w.write("one.txt", "I")),
    ("a file that is not excluded", "COPY --exclude", |w| w.write("dir/d.c", "source")),
    ("bytes of a linked copy", "COPY --link", |w| w.write("two.txt", "II")),
    ("bytes of a file that a pattern matches", "COPY glob", |w| w.write("glob/x.txt", "X")),
    ("a file that a pattern matches too", "COPY glob", |w| w.write("glob/z.txt", "z")),
    ("bytes in an archive", "ADD archive.tar", |w| {
        w.write("packed/in.txt", "changed");
        pack(&w.context.context());
    }),
    ("bytes of a bind mount", "of-mount", |w| w.write("bound/file", "changed")),
    ("mode in a bind mount", "of-mount", |w| w.chmod("bound/file", 0o755)),
    ("an added file in a bind mount", "of-mount", |w| w.write("bound/more", "")),
    ("an ignore rule that hides a file", "COPY dir", |w| w.write(".dockerignore", "dir/a.txt\n")),
    ("bytes on the web", "/web/", |w| *w.web_says.lock().expect("no panic") = "changed"),
    ("commit of a repository", "ADD git", |w| {
        w.repository.write("in-git.txt", "two");
        in_git(&w.repository.context(), &["commit", "-aqm", "two"]);
    }),
    ("value of an argument", "of-mount", |w| w.instead("VERSION=", "VERSION=3")),
    ("default of an argument", "of-mount", |w| {
        w.instead("VERSION=", "NOTHING=1");
        w.say("ARG VERSION=1", "ARG VERSION=4");
    }),
    ("an argument that is declared", "of-shell", |w| w.say("SHELL", "ARG SETTLED=1\nSHELL")),
    ("value of a variable", "of-mount", |w| w.say("ENV SETTING=1", "ENV SETTING=2")),
    ("name of a variable", "of-mount", |w| w.say("ENV SETTING=1", "ENV SETTING_=1")),
    ("folder", "WORKDIR /elsewhere", |w| w.say("WORKDIR /work", "WORKDIR /elsewhere")),
    ("user", "of-user", |w| w.say("USER 1000", "USER 1001")),
    ("group", "of-user", |w| w.say("USER 1000", "USER 1000:7")),
    ("shell", "of-shell", |w| w.say("\"-c\"]", "\"-ec\"]")),
    ("command", "of-network", |w| w.say("RANDOM > /of-network", "RANDOM  > /of-network")),
    ("text of a heredoc that is copied", "COPY <<E", |w| w.say("\nheredoc\n", "\nhereDoc\n")),
    ("text of a script", "RUN <<E", |w| w.say("RANDOM > /of-script", "RANDOM  > /of-script")),
    ("--chmod", "COPY --chmod", |w| w.say("--chmod=640", "--chmod=600")),
    ("--chown", "COPY --chmod", |w| w.say("--chown=1:2", "--chown=1:3")),
    ("--exclude", "COPY --exclude", |w| w.say("--exclude=*.o", "--exclude=*.txt")),
    ("place of a linked copy", "COPY --link", |w| w.say("/linked/\n", "/linked/deeper/\n")),
    ("place of a copy", "COPY dir /dir/2/", |w| w.say("COPY dir /dir/", "COPY dir /dir/2/")),
    ("source of a copy", "COPY dir/sub", |w| w.say("COPY dir /dir/", "COPY dir/sub /dir/")),
    ("--parents", "COPY --parents", |w| w.say("COPY dir /dir/", "COPY --parents dir /dir/")),
    ("an archive that is not unpacked", "archive.tar", |w| w.say("ADD archive.tar", "COPY archive.tar")),
    ("place of a mount", "of-mount", |w| w.say("target=/bound", "target=/bounded")),
    ("source of a mount", "of-mount", |w| w.say("source=bound", "source=dir")),
    ("a mount that may be written", "of-mount", |w| w.say("target=/bound", "target=/bound,rw")),
    ("a mount less", "of-memory", |w| w.say("--mount=type=tmpfs,target=/memory,size=1m ", "")),
    ("place of a cache", "of-cache", |w| {
        w.say("target=/cache RANDOM", "target=/cache2 mkdir /cache; RANDOM")
    }),
    ("id of a secret", "of-secret", |w| {
        w.say("id=token,target=/token", "id=token2,target=/token");
        w.arg(&["--secret", &format!("id=token2,src={}", w.context.text("token"))]);
    }),
    ("place of a secret", "of-secret", |w| w.say("target=/token", "target=/token2")),
    ("mode of a secret", "of-secret", |w| w.say("target=/token", "target=/token,mode=0444")),
    ("a secret that must be there", "of-secret", |w| w.say("target=/token", "target=/token,required")),
    ("variable of a secret", "of-variable", |w| w.say("env=TOKEN", "env=TOKEN2")),
    ("mode of an agent", "of-agent", |w| w.say("type=ssh", "type=ssh,mode=0666")),
    ("size of memory", "of-memory", |w| w.say("size=1m", "size=2m")),
    ("network of a step", "of-network", |w| w.say("--network=none", "--network=default")),
    ("network of all steps", "of-mount", |w| w.arg(&["--network", "none"])),
    ("security", "of-security", |w| {
        w.say("--security=sandbox", "--security=insecure");
        w.arg(&["--allow", "security.insecure"]);
    }),
    ("name of an extra host", "of-mount", |w| w.instead("db:", "db2:10.0.0.1")),
    ("one more extra host", "of-mount", |w| w.arg(&["--add-host", "more:10.0.0.9"])),
    ("a limit", "of-mount", |w| w.arg(&["--ulimit", "nofile=512:512"])),
    ("size of shared memory", "of-mount", |w| w.arg(&["--shm-size", "32m"])),
    ("host name", "of-mount", |w| w.arg(&["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=other"])),
    ("order of instructions", "of-user", |w| {
        w.say("RUN --network=none RANDOM > /of-network\n", "");
        w.say("USER 1000\n", "RUN --network=none RANDOM > /of-network\nUSER 1000\n");
    }),
    ("content of the base", "COPY dir", |w| {
        let more = LayerEntry::File("more", 0o644, b"more".to_vec());
        w.base("content", &BaseImage::busybox().with_layer(&[more]));
    }),
    ("variables of the base", "of-dir", |w| {
        w.base("variables", &BaseImage::busybox().with_config(|c| c.env.push("MORE=1".to_owned())));
    }),
    ("user of the base", "of-dir", |w| {
        w.base("user", &BaseImage::busybox().with_config(|c| c.user = "0:0".to_owned()));
    }),
    ("platform", "of-mount", |w| {
        let other = BaseImage::busybox().with_platform("linux/386");
        other.push(Registry::shared(), "mutation/platform", "1");
        let name = Registry::shared().reference("mutation/platform:1");
        w.say("FROM @ AS ran", &format!("FROM --platform=linux/386 {name} AS ran"));
    }),
    ("stage", "> /other", |w| w.arg(&["--target", "other"])),
    ("time of the source", "WORKDIR", |w| w.env.push(("SOURCE_DATE_EPOCH", "1700000000"))),
];

pub(super) const NOT_READ: &[NotRead] = &[
    ("inodes of the context", |_| {}),
    ("times of modification", |w| _ = w.context.date(1_000_000_000)),
    ("time of a folder", |w| dated(&w.path("dir"), UNIX_EPOCH + Duration::from_secs(5))),
    ("time of the last change", |w| {
        w.chmod("dir/a.txt", 0o600);
        w.chmod("dir/a.txt", 0o644);
    }),
    ("time of the last access", |w| drop(std::fs::read(w.path("dir/a.txt")).expect("a file"))),
    ("owner of files", |w| {
        for name in ["dir", "dir/a.txt", "one.txt", "bound/file"] {
            chown(w.path(name), Some(12), Some(34)).expect("root");
        }
    }),
    ("place of the context", |w| {
        let elsewhere = w.context.text("elsewhere");
        assert!(Command::new("cp").args(["-a", &w.folder, &elsewhere]).status().expect("cp").success());
        w.folder = elsewhere;
    }),
    ("another name of a file, outside", |w| {
        std::fs::hard_link(w.path("dir/a.txt"), w.context.path("linked-to")).expect("a link");
    }),
    ("a file that nothing reads", |w| w.write("unread.txt", "changed")),
    ("a new file that nothing reads", |w| w.write("more/unread.txt", "new")),
    ("mode of the context's folder", |w| w.chmod(".", 0o700)),
    ("a file that a pattern does not match", |w| w.write("glob/y.md", "changed")),
    ("a file that is ignored", |w| w.write("dir.log", "ignored")),
    ("an ignore rule that hides nothing", |w| w.write(".dockerignore", "*.log\n# more\n*.tmp\n")),
    ("a link out of the context", |w| _ = w.context.link("outward", "/etc")),
    ("order of flags", |w| w.args.rotate_left(2)),
    ("order of build arguments", |w| {
        w.instead("VERSION=", "later");
        w.instead("SETTING=", "VERSION=2");
        w.instead("later", "SETTING=9");
    }),
    ("an argument that nothing declares", |w| w.arg(&["--build-arg", "UNUSED=1"])),
    ("an argument that a variable hides", |w| w.instead("SETTING=", "SETTING=10")),
    ("comments", |w| {
        w.dockerfile = format!("# one more\n{}", w.dockerfile.replace("\nRUN --", "\n# why\nRUN --"));
    }),
    ("blank lines", |w| w.dockerfile = w.dockerfile.replace("\nRUN", "\n\n\nRUN")),
    ("case of instructions", |w| w.dockerfile = w.dockerfile.replace("\nRUN", "\nrun")),
    ("a line that is continued", |w| w.say("COPY dir /dir/", "COPY \\\n  dir \\\n  /dir/")),
    ("names of stages", |w| w.dockerfile = w.dockerfile.replace("copied", "renamed")),
    ("a comment for kiln on what is young", |w| w.say("USER 1000\n", "USER 1000\n# kiln: max-age=9w\n")),
    ("labels", |w| w.dockerfile.push_str("LABEL a=b\n")),
    ("command, ports, volumes", |w| {
        w.dockerfile.push_str("CMD [\"x\"]\nEXPOSE 80\nENTRYPOINT [\"y\"]\nVOLUME /v\nSTOPSIGNAL 9\n");
    }),
    ("variables after the last step", |w| w.dockerfile.push_str("ENV LATE=1\nUSER 5\n")),
    ("a stage that the target does not need", |w| w.say("> /other\n", "> /other && true\n")),
    ("--label", |w| w.arg(&["--label", "x=y"])),
    ("proxies as arguments", |w| {
        w.arg(&["--build-arg", "NO_PROXY=*", "--build-arg", "HTTP_PROXY=http://127.0.0.1:9"]);
    }),
    ("proxies of the environment", |w| {
        w.env.extend([("NO_PROXY", "127.0.0.1"), ("HTTP_PROXY", "http://127.0.0.1:9")]);
    }),
    ("value of a secret", |w| drop(w.context.write_beside("token", "another secret"))),
    ("place of a secret's file", |w| {
        w.context.write_beside("token-elsewhere", "secret");
        w.instead("id=token", &format!("id=token,src={}", w.context.text("token-elsewhere")));
    }),
    ("place of an agent's key", |w| {
        std::fs::copy(w.context.path("key"), w.context.path("key-elsewhere")).expect("a key");
        w.instead("default=", &format!("default={}", w.context.text("key-elsewhere")));
    }),
    ("address of an extra host", |w| w.instead("db:", "db:10.0.0.2")),
    ("content of a cache", |w| {
        let step = format!("RUN --mount=type=cache,id=shared,target=/c {RANDOM} > /c/new");
        let text = format!("FROM {}\n{step}\n", busybox());
        let file = w.context.write_beside("Filling", text).to_string_lossy().into_owned();
        w.context.kiln(["build", "-f", &file, &w.context.text("home")]).run().success();
    }),
    // As BuildKit, for a cache that is not the one of its own path.
    ("name and sharing of a cache", |w| w.say("id=shared", "id=renamed,sharing=locked")),
    ("--progress", |w| w.arg(&["--progress", "plain"])),
    ("--jobs", |w| w.arg(&["--jobs", "1"])),
    ("name of the image", |w| w.arg(&["-t", "named:1"])),
    ("a further output", |w| w.arg(&["-o", &format!("type=tar,dest={}", w.context.text("files.tar"))])),
    ("--iidfile", |w| w.arg(&["--iidfile", &w.context.text("iid")])),
    ("--verify-cache", |w| w.arg(&["--verify-cache"])),
    ("umask of kiln", |w| w.before = "umask 077"),
    ("folder that kiln is started in", |w| w.before = "cd /"),
    ("limits of kiln", |w| w.before = "ulimit -n 900"),
    ("time zone and language", |w| {
        w.env.extend([("TZ", "Asia/Tokyo"), ("LANG", "de_DE.UTF-8"), ("LC_ALL", "C")]);
    }),
    ("environment of kiln", |w| w.env.extend([("VERSION", "77"), ("USER", "somebody")])),
    ("name of the base, with the same layers", |w| w.base("renamed", &BaseImage::busybox())),
    ("labels and command of the base", |w| {
        let change = |c: &mut kiln_oci::RuntimeConfig| {
            c.labels.insert("a".to_owned(), "b".to_owned());
            c.cmd = Some(vec!["other".to_owned()]);
        };
        w.base("labels", &BaseImage::busybox().with_config(change));
    }),
];

impl World {
    /// Gives the first stage another base.
    fn base(&mut self, name: &str, image: &BaseImage) {
        let repository = format!("mutation/{name}");
        image.push(Registry::shared(), &repository, "1");
        let name = Registry::shared().reference(&format!("{repository}:1"));
        self.arg(&["--build-arg", &format!("BASE={name}")]);
    }
}

fn dated(path: &Path, time: SystemTime) {
    std::fs::File::open(path).and_then(|file| file.set_modified(time)).expect("its own file");
}

fn attribute(path: &Path) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path, "user.colour", b"blue", flags).expect("a file system with attributes");
}
