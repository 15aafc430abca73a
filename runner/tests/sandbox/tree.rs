//! A root with busybox in it, and the ways to run something there. It knows no claims.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use kiln_runner::{BindMount, CancelToken, ExitStatus, LogLine, MountSource, ProcessSpec, RunError, run};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

/// A folder with busybox in it, taken away at the end.
pub(crate) struct Tree(pub(crate) PathBuf);

impl Tree {
    /// An empty folder.
    pub(crate) fn empty() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let top = std::env::temp_dir().join(format!("kiln-runner-{}-{number}", std::process::id()));
        fs::create_dir(&top).unwrap();
        Tree(top)
    }

    /// A root with busybox, a user and a group.
    pub(crate) fn new() -> Self {
        let tree = Tree::empty();
        for folder in ["bin", "etc", "dev", "proc", "sys", "tmp", "home/app"] {
            fs::create_dir_all(tree.at(folder)).unwrap();
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let busybox = busybox.expect("a static busybox is installed");
        fs::copy(busybox, tree.at("bin/busybox")).unwrap();
        for applet in
            "sh cat echo ls grep id stat touch mkdir mknod rm rmdir mv ln kill sleep hostname mount pwd env true setsid \
             unshare readlink dd head chmod chown df cut tr ip wc sort find dirname awk umount"
                .split_whitespace()
        {
            symlink("busybox", tree.at(&format!("bin/{applet}"))).unwrap();
        }
        fs::write(tree.at("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
            .unwrap();
        fs::write(tree.at("etc/group"), "root:x:0:\nwheel:x:10:root\nwww:x:33:app\napp:x:1000:\n").unwrap();
        fs::set_permissions(tree.at("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        tree
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    pub(crate) fn mount(&self) -> OwnedFd {
        mount_of(&self.0)
    }

    pub(crate) fn spec(&self, script: &str) -> ProcessSpec {
        let args = ["/bin/sh", "-c", script].map(OsString::from).to_vec();
        ProcessSpec::new(self.mount(), args)
    }

    /// All that is in the tree: path to mode, owner, modification time and link target.
    pub(crate) fn listing(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.symlink_metadata().unwrap().is_dir() {
                    folders.push(path.clone());
                }
                found.insert(path.clone(), describe(&path));
            }
        }
        found.insert(self.0.clone(), describe(&self.0));
        found
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn describe(path: &Path) -> String {
    let stat = path.symlink_metadata().unwrap();
    let link = fs::read_link(path).unwrap_or_default();
    format!(
        "{:o} {}:{} {} {}.{} {}",
        stat.mode(),
        stat.uid(),
        stat.gid(),
        if stat.is_dir() { 0 } else { stat.size() },
        stat.mtime(),
        stat.mtime_nsec(),
        link.display()
    )
}

pub(crate) fn mount_of(path: &Path) -> OwnedFd {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, path, flags).expect("root may clone mounts")
}

pub(crate) fn run_it(spec: ProcessSpec) -> (Result<ExitStatus, RunError>, Vec<LogLine>) {
    let mut lines = Vec::new();
    let result = run(spec, &mut |line| lines.push(line), &CancelToken::new());
    (result, lines)
}

/// The output of a run that must succeed; both streams, which must be text.
pub(crate) fn output(spec: ProcessSpec) -> String {
    let (result, lines) = run_it(spec);
    let text: Vec<String> = lines.into_iter().map(|line| String::from_utf8(line.line).unwrap()).collect();
    let text = text.join("\n");
    match result {
        Ok(ExitStatus::Code(0)) => text,
        other => panic!("{other:?}\n{text}"),
    }
}

#[track_caller]
pub(crate) fn check(script: &str, expect: &str) {
    assert_eq!(output(Tree::new().spec(script)), expect, "{script}");
}

#[track_caller]
pub(crate) fn check_as(user: &str, script: &str, expect: &str) {
    let tree = Tree::new();
    let mut spec = tree.spec(script);
    spec.user = user.into();
    assert_eq!(output(spec), expect, "{script}");
}

pub(crate) fn bind(target: &str, source: MountSource) -> BindMount {
    BindMount { target: target.into(), source, readonly: false }
}

pub(crate) fn tmpfs(target: &str) -> BindMount {
    bind(target, MountSource::Tmpfs { size_bytes: None, mode: 0o1777 })
}

pub(crate) fn secret(target: &str, mode: u32) -> BindMount {
    let source = MountSource::Secret { data: b"hush".to_vec(), mode, uid: 0, gid: 0 };
    BindMount { target: target.into(), source, readonly: true }
}
