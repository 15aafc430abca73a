//! Claims about mounts: what a step sees of them, and that neither they nor their targets are left.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use kiln_runner::{BindMount, CancelToken, ExitStatus, MountSource, ProcessSpec, RunError, run};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use crate::tree::{Tree, bind, describe, mount_of, output, run_it, secret, tmpfs};

pub(crate) fn no_mount_is_seen_or_left_outside() {
    let tree = Tree::new();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut spec = tree.spec("echo");
    spec.mounts = vec![tmpfs("/t"), bind("/s", MountSource::Detached(mount_of(Path::new("/etc"))))];
    let mut during = String::new();
    run(spec, &mut |_| during = fs::read_to_string("/proc/self/mountinfo").unwrap(), &CancelToken::new())
        .unwrap();
    assert_eq!(during, before);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

pub(crate) fn an_empty_step_leaves_no_trace() {
    let tree = Tree::new();
    let before = tree.listing();
    output(tree.spec("touch /dev/made /dev/shm/made; true"));
    assert_eq!(tree.listing(), before);
    let bare = Tree::new();
    for folder in ["dev", "proc", "sys"] {
        fs::remove_dir(bare.at(folder)).unwrap();
    }
    fs::remove_dir_all(bare.at("etc")).unwrap();
    output(bare.spec("test -e /etc/hosts"));
    // Container engines leave these three.
    assert!(bare.at("dev").is_dir() && bare.at("proc").is_dir() && bare.at("sys").is_dir());
    assert!(!bare.at("etc").exists());
}

pub(crate) fn targets_are_taken_away_unless_used() {
    let tree = Tree::new();
    let before = tree.listing();
    let mut spec = tree.spec("test -d /a/b/c && touch /a/b/c/x && cat /run/secrets/one");
    spec.mounts = vec![tmpfs("/a/b/c"), tmpfs("/t/u"), secret("/run/secrets/one", 0o400)];
    assert_eq!(output(spec), "hush");
    assert_eq!(tree.listing(), before);
    let mut spec = tree.spec("touch /a/b/beside");
    spec.mounts = vec![tmpfs("/a/b/c")];
    output(spec);
    assert!(tree.at("a/b/beside").exists() && !tree.at("a/b/c").exists());
}

pub(crate) fn an_existing_target_stays() {
    let tree = Tree::new();
    fs::create_dir(tree.at("d")).unwrap();
    fs::write(tree.at("f"), "").unwrap();
    let before = tree.listing();
    let mut spec = tree.spec("touch /d/x; cat /f");
    spec.mounts = vec![tmpfs("/d"), secret("/f", 0o400)];
    assert_eq!(output(spec), "hush");
    assert_eq!(tree.listing(), before);
}

pub(crate) fn mounts_nest_whatever_their_order() {
    let tree = Tree::new();
    let mut spec = tree.spec("cat /t/sub/f && touch /t/sub/beside");
    spec.mounts = vec![secret("/t/sub/f", 0o400), tmpfs("/t")];
    assert_eq!(output(spec), "hush");
    assert!(!tree.at("t").exists());
}

pub(crate) fn bind_mounts_show_their_source() {
    let (tree, source) = (Tree::new(), Tree::new());
    fs::write(source.at("home/file"), "content").unwrap();
    let mount = || MountSource::Detached(mount_of(&source.at("home")));
    let mut spec =
        tree.spec("cat /ro/file; (touch /ro/x) 2>/dev/null || echo \" refused\"; touch /rw/y; cat /file");
    spec.mounts = vec![
        BindMount { target: "/ro".into(), source: mount(), readonly: true },
        bind("/rw", mount()),
        bind("/file", MountSource::Detached(mount_of(&source.at("home/file")))),
    ];
    assert_eq!(output(spec), "content refused\ncontent");
    assert!(source.at("home/y").exists() && !source.at("home/x").exists());
}

pub(crate) fn mounts_of_the_host_are_restricted() {
    let (tree, source) = (Tree::new(), Tree::new());
    let host = |target: &str, nosuid, noexec| BindMount {
        target: target.into(),
        source: MountSource::Host { mount: mount_of(&source.at("bin")), nosuid, noexec },
        readonly: true,
    };
    let script = "for m in a b; do grep \" /$m \" /proc/mounts | cut -d ' ' -f 4 | tr , '\\n' | \
        grep -E '^(ro|rw|nosuid|nodev|noexec)$' | sort | tr '\\n' ' '; /$m/busybox echo ran 2>/dev/null || echo refused; done";
    let mut spec = tree.spec(script);
    spec.mounts = vec![host("/a", false, false), host("/b", true, true)];
    assert_eq!(output(spec), "nodev ro ran\nnodev noexec nosuid ro refused");
}

pub(crate) fn secrets_are_in_memory_with_their_mode() {
    let tree = Tree::new();
    let script = "stat -c '%a %u:%g %F' /run/secrets/one; grep /run/secrets/one /proc/mounts | cut -d ' ' -f 3-4 | cut -d , -f 1-4; \
        (echo x > /run/secrets/one) 2>/dev/null || echo kept; ls -A /run/secrets";
    let mut spec = tree.spec(script);
    spec.mounts = vec![secret("/run/secrets/one", 0o400)];
    assert_eq!(output(spec), "400 0:0 regular file\ntmpfs ro,nosuid,nodev,noexec\nkept\none");
    let mut spec = tree.spec("cat /run/secrets/one");
    spec.mounts = vec![secret("/run/secrets/one", 0o400)];
    spec.user = "app".into();
    assert_eq!(run_it(spec).0.unwrap(), ExitStatus::Code(1));
}

pub(crate) fn the_root_and_kernel_file_systems_are_no_targets() {
    let tree = Tree::new();
    symlink("/proc/sys", tree.at("link")).unwrap();
    symlink("/", tree.at("top")).unwrap();
    for target in
        ["/", "/..", "/proc", "/proc/sys", "/sys", "/sys/kernel", "/link/kernel", "/top", "/proc/self/root"]
    {
        let mut spec = tree.spec("echo ran");
        spec.mounts = vec![tmpfs(target)];
        let (result, lines) = run_it(spec);
        assert!(matches!(result, Err(RunError::MountTarget { .. })), "{target}: {result:?}");
        assert!(lines.is_empty());
    }
}

pub(crate) fn links_in_the_root_do_not_lead_out() {
    for name in ["dev", "proc", "sys", "etc", "run", "home"] {
        let (tree, canary) = (Tree::new(), Tree::new());
        let before = canary.listing();
        let _ = fs::remove_dir_all(tree.at(name));
        symlink(&canary.0, tree.at(name)).unwrap();
        let mut spec = tree.spec("echo ran");
        spec.mounts = vec![secret("/run/secrets/one", 0o400), tmpfs("/home/x/y")];
        spec.cwd = "/home/z".into();
        let (result, _) = run_it(spec);
        assert!(matches!(result, Ok(ExitStatus::Code(0))), "{name}: {result:?}");
        assert_eq!(canary.listing(), before, "{name}");
    }
    for file in ["etc/hosts", "etc/resolv.conf", "dev/null", "dev/pts", "dev/shm"] {
        let (tree, canary) = (Tree::new(), Tree::new());
        let before = canary.listing();
        symlink(canary.at("etc/passwd"), tree.at(file)).unwrap();
        assert_eq!(output(tree.spec("echo ran")), "ran");
        assert_eq!(canary.listing(), before, "{file}");
    }
    for name in ["dev", "proc", "sys"] {
        let tree = Tree::new();
        fs::remove_dir(tree.at(name)).unwrap();
        fs::write(tree.at(name), "").unwrap();
        assert!(matches!(run_it(tree.spec("echo ran")).0, Err(RunError::SetUp { .. })), "{name}");
    }
}

pub(crate) fn a_swapped_parent_is_not_followed_at_the_end() {
    let (tree, canary) = (Tree::new(), Tree::new());
    fs::create_dir_all(canary.at("x/c")).unwrap();
    let before = canary.listing();
    let script = format!("mv /a /moved; ln -s {}/x /a; mv /f /g", canary.0.display());
    let mut spec = tree.spec(&script);
    spec.mounts = vec![tmpfs("/a/c")];
    let (result, _) = run_it(spec);
    assert!(result.is_ok());
    assert_eq!(canary.listing(), before);
    assert!(tree.at("a").symlink_metadata().unwrap().is_symlink() || tree.at("a").is_dir());
}

pub(crate) fn many_mounts_are_possible() {
    let tree = Tree::new();
    let mut spec = tree.spec("ls -d /m/* | wc -l");
    spec.mounts = (0..300)
        .map(|number| bind(&format!("/m/{number}"), MountSource::Detached(mount_of(&tree.at("tmp")))))
        .collect();
    assert_eq!(output(spec), "300");
    assert!(!tree.at("m").exists());
}

pub(crate) fn an_overlay_shows_no_trace_of_a_step() {
    let (lower, upper, work) = (Tree::new(), Tree::empty(), Tree::empty());
    let overlay = || {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        for (option, tree) in [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)] {
            fsconfig_set_string(&context, option, &tree.0).unwrap();
        }
        fsconfig_create(&context).unwrap();
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
    };
    let times = |tree: &Tree| (describe(&tree.0), describe(&tree.at("etc")));
    let before = lower.listing();
    let mut spec = ProcessSpec::new(
        overlay(),
        ["/bin/sh", "-c", "touch /run/secrets && cat /a/b"].map(Into::into).into(),
    );
    spec.mounts = vec![secret("/run/secrets/one", 0o400), secret("/a/b", 0o400)];
    assert_eq!(output(spec), "hush");
    assert_eq!(lower.listing(), before);
    let left: Vec<_> = upper.listing().into_keys().collect();
    assert_eq!(left, [upper.0.clone(), upper.at("etc")], "only a copy of the folder of hosts");
    assert_eq!(times(&upper).1, times(&lower).1);
    let spec = ProcessSpec::new(overlay(), ["/bin/sh", "-c", "touch /etc/made"].map(Into::into).into());
    output(spec);
    assert!(upper.at("etc/made").exists() && !upper.at("etc/hosts").exists());
    assert_ne!(times(&upper).1, times(&lower).1);
}
