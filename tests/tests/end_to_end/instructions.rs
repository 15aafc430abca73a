//! What the instructions of a Dockerfile put into an image: files, config and history.

use super::{NONE, on_busybox};
use kiln_tests::{BaseImage, Kind, LayerEntry, Registry, TestContext};

#[test]
fn a_build_gives_the_config_that_its_instructions_say() {
    let context = on_busybox(
        "ARG WHO=nobody\nFROM @ AS base\nARG WHO\nARG COLOUR=red\nENV WHO=$WHO COLOUR=${COLOUR:-none}\n\
         LABEL a=1 b=\"two words\"\nEXPOSE 8080 53/udp\nVOLUME /data\nWORKDIR /srv/app\nUSER app:staff\n\
         STOPSIGNAL SIGQUIT\nHEALTHCHECK --interval=5s --retries=3 CMD true\nENTRYPOINT [\"/bin/echo\"]\nCMD [\"hello\"]\n",
    );
    let image = context.image(["--build-arg", "WHO=me", "--label", "c=3"]);
    let config = &image.config.config;
    assert!(config.env.contains(&"WHO=me".to_owned()), "{:?}", config.env);
    assert!(config.env.contains(&"COLOUR=red".to_owned()), "{:?}", config.env);
    assert!(config.env[0].starts_with("PATH="), "{:?}", config.env);
    assert_eq!(config.user, "app:staff");
    assert_eq!(config.working_dir, "/srv/app");
    assert_eq!(config.entrypoint, Some(vec!["/bin/echo".to_owned()]));
    assert_eq!(config.cmd, Some(vec!["hello".to_owned()]));
    assert_eq!(config.stop_signal, "SIGQUIT");
    assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "8080/tcp"]);
    assert_eq!(config.volumes.keys().collect::<Vec<_>>(), ["/data"]);
    let labels: Vec<_> = config.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(labels, ["a=1", "b=two words", "c=3"]);
    let health = config.healthcheck.as_ref().expect("a health check");
    assert_eq!((health.interval, health.retries), (5_000_000_000, 3));
    assert_eq!(image.config.os, "linux");
    image.is("/srv/app", 0o755, (0, 0));
}

#[test]
fn run_changes_files_as_the_user_and_in_the_folder_that_were_set() {
    let context = on_busybox(
        "FROM @\nWORKDIR /home/app\nRUN chown app:app .\nUSER app\nENV WORD=blue\n\
         RUN echo \"$(id -u):$(id -g) $PWD $WORD\" > note\nRUN [\"touch\", \"exec form\"]\n\
         RUN <<EOF\necho heredoc > here\numask > mask\nEOF\n",
    );
    let image = context.image(NONE);
    image.file_is("/home/app/note", "1000:1000 /home/app blue\n");
    image.is("/home/app/note", 0o644, (1000, 1000));
    image.file_is("/home/app/exec form", "").file_is("/home/app/here", "heredoc\n");
    image.file_is("/home/app/mask", "0022\n");
}

#[test]
fn copy_takes_files_from_the_context_with_their_modes_and_roots_ownership() {
    let context = on_busybox(
        "FROM @\nCOPY a.txt /one/\nCOPY folder /two\nCOPY --chown=app:staff --chmod=640 a.txt /three\nCOPY *.txt /four/\n",
    );
    context.write("a.txt", "a").write("b.txt", "b").write("folder/sub/c.txt", "c");
    context.chmod("folder/sub/c.txt", 0o600).chmod("a.txt", 0o755).link("folder/link", "sub/c.txt");
    let image = context.image(NONE);
    image.file_is("/one/a.txt", "a").is("/one/a.txt", 0o755, (0, 0));
    image.file_is("/two/sub/c.txt", "c").is("/two/sub/c.txt", 0o600, (0, 0));
    assert_eq!(image.node("/two/link").kind, Kind::Link("sub/c.txt".to_owned()));
    image.is("/three", 0o640, (1000, 50));
    image.file_is("/four/a.txt", "a").file_is("/four/b.txt", "b");
}

#[test]
fn what_dockerignore_names_never_reaches_the_image() {
    let context = on_busybox("FROM @\nCOPY . /all/\n");
    context.write(".dockerignore", "# notes\n*.log\nsecret\n**/deep.tmp\n!keep.log\nDockerfile\n");
    for name in ["a.log", "keep.log", "secret/key", "x/y/deep.tmp", "x/y/stays", "plain"] {
        context.write(name, name);
    }
    let image = context.image(NONE);
    image
        .file_is("/all/keep.log", "keep.log")
        .file_is("/all/x/y/stays", "x/y/stays")
        .file_is("/all/plain", "plain");
    for gone in ["/all/a.log", "/all/secret", "/all/secret/key", "/all/x/y/deep.tmp", "/all/Dockerfile"] {
        image.lacks(gone);
    }
}

#[test]
fn copy_from_a_stage_takes_only_what_it_names_and_keeps_its_owner() {
    let context = on_busybox(
        "FROM @ AS maker\nRUN mkdir -p /out/sub && echo made > /out/made && echo left > /left && chown 7:8 /out/made\n\
         FROM scratch\nCOPY --from=maker /out /\n",
    );
    let image = context.image(NONE);
    image.file_is("/made", "made\n").is("/made", 0o644, (7, 8)).lacks("/left").lacks("/bin/sh");
    assert_eq!(image.layers.len(), 1);
}

#[test]
fn add_unpacks_archives_and_copy_does_not() {
    let context = on_busybox("FROM @\nADD things.tar.gz /added/\nCOPY things.tar.gz /copied/\n");
    context.write("things/inner.txt", "inside");
    let folder = context.context();
    let made = std::process::Command::new("tar")
        .args(["-czf", "things.tar.gz", "things"])
        .current_dir(&folder)
        .status()
        .expect("tar");
    assert!(made.success());
    let image = context.image(NONE);
    image.file_is("/added/things/inner.txt", "inside").lacks("/copied/things");
    assert!(image.has("/copied/things.tar.gz"));
}

#[test]
fn a_layer_holds_only_what_its_step_changed() {
    let context = on_busybox(
        "FROM @\nRUN mkdir /d && echo 1 > /d/one && echo 2 > /d/two\nRUN echo 3 > /d/three\nRUN rm /d/one\nRUN true\n",
    );
    let image = context.image(NONE);
    assert_eq!(image.layer_paths(-3), ["/d", "/d/three"]);
    assert_eq!(image.layer_paths(-2), ["/d", "/d/.wh.one"]);
    assert_eq!(image.layer_paths(-1), Vec::<String>::new());
    image.lacks("/d/one").file_is("/d/two", "2\n").file_is("/d/three", "3\n");
}

#[test]
fn gnu_tar_reads_every_layer() {
    let context = on_busybox(&format!(
        "FROM @\nRUN mkdir -p /long/{0}/{0} && echo x > /long/{0}/{0}/file && ln -s /{0}{0} /symlink && mkfifo /pipe\n\
         RUN ln /symlink /hard; touch 'a name with spaces' && chmod 4755 /pipe\n",
        "abcdefghij".repeat(12)
    ));
    let image = context.image(NONE);
    for (i, layer) in image.layers.iter().enumerate() {
        let path = context.write_beside(&format!("layer-{i}.tar"), layer);
        let listed = std::process::Command::new("tar").arg("-tvf").arg(&path).output().expect("tar");
        assert!(listed.status.success() && listed.stderr.is_empty(), "{listed:?}");
    }
    image.is("/pipe", 0o4755, (0, 0));
}

#[test]
fn history_says_what_each_step_was() {
    let context = on_busybox("FROM @\nENV A=1\nRUN echo hi > /hi\nCOPY Dockerfile /\nCMD [\"sh\"]\n");
    let image = context.image(NONE);
    let history = image.history();
    assert_eq!(
        history[1..],
        ["ENV A=1", "RUN /bin/sh -c echo hi > /hi", "COPY Dockerfile /", "CMD [\"sh\"]"].map(str::to_owned)
    );
    let empty: Vec<bool> = image.config.history.iter().map(|step| step.empty_layer).collect();
    assert_eq!(empty, [false, true, false, false, true]);
}

#[test]
fn the_bases_config_is_inherited_and_its_triggers_run() {
    let registry = Registry::shared();
    let base = BaseImage::busybox()
        .with_layer(&[
            LayerEntry::Folder("srv", 0o755),
            LayerEntry::File("srv/base.txt", 0o644, b"base".to_vec()),
        ])
        .with_config(|config| {
            config.env.push("FROM_BASE=yes".to_owned());
            config.working_dir = "/srv".to_owned();
            config.on_build = vec!["RUN echo triggered > trigger.txt".to_owned()];
        });
    base.push(registry, "tests/triggers", "1");
    let context = TestContext::with_dockerfile(&format!(
        "FROM {}\nRUN echo \"$FROM_BASE $(cat base.txt)\" > seen.txt\n",
        registry.reference("tests/triggers:1")
    ));
    let image = context.image(NONE);
    image.file_is("/srv/seen.txt", "yes base\n").file_is("/srv/trigger.txt", "triggered\n");
    assert!(image.config.config.on_build.is_empty(), "a trigger fires once");
}

#[test]
fn a_run_sees_its_sandbox_and_not_the_host() {
    let context = on_busybox(
        "FROM @\nRUN grep CapEff /proc/self/status > /caps; grep Seccomp: /proc/self/status >> /caps; \
         hostname > /host; ls /proc/self/fd | wc -l > /fds; echo $$ > /pid; \
         env | sort > /env; cat > /stdin\n",
    );
    context
        .building(["-o", &format!("type=oci,dest={}", context.text("image.tar"))])
        .env("KILN_TEST_SECRET", "not for the build")
        .run()
        .success();
    let image = kiln_tests::ImageAssert::of_archive(&context.path("image.tar"));
    let caps = image.file("/caps");
    assert!(caps.contains("00000000a80425fb") && caps.contains("Seccomp:\t2"), "{caps}");
    image.file_is("/pid", "1\n").file_is("/stdin", "");
    // ls has a descriptor of its own for the folder.
    image.file_is("/fds", "4\n");
    assert!(!image.file("/env").contains("KILN"), "the builder's environment leaks:\n{}", image.file("/env"));
    image.lacks("/etc/resolv.conf").lacks("/etc/hosts").lacks("/dev/null");
}

#[test]
fn a_run_does_not_learn_where_the_store_is() {
    let context = on_busybox("FROM @\nRUN cat /proc/self/mountinfo > /mounts\n");
    let mounts = context.image(NONE).file("/mounts");
    assert!(!mounts.contains(&context.text("store")), "the store's place leaks:\n{mounts}");
}
