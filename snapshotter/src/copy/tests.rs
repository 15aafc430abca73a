//! Claims about copies, each as BuildKit makes them.

use super::*;
use crate::testing::{Bench, shell};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Makes `from` and `to` with two scripts and copies; gives the tree that comes out, each path
/// with its mode, owner and what it is.
fn copied(
    from: &str,
    to: &str,
    source: &str,
    dest: &str,
    options: &CopyOptions<'_>,
) -> Result<String, SnapshotError> {
    let folder = tempfile::tempdir().unwrap();
    for (name, script) in [("from", from), ("to", to)] {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let done =
            std::process::Command::new("sh").args(["-ec", script]).current_dir(&path).status().unwrap();
        assert!(done.success(), "{script}");
    }
    let trees = ["from", "to"].map(|name| Tree::open(&folder.path().join(name)).unwrap());
    copy_tree(&trees[0], source.as_bytes(), &trees[1], dest.as_bytes(), options)?;
    let mut lines = Vec::new();
    show(&folder.path().join("to"), "", &mut lines);
    Ok(lines.join(" "))
}

fn show(folder: &Path, prefix: &str, lines: &mut Vec<String>) {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let path = folder.join(&name);
        let data = std::fs::symlink_metadata(&path).unwrap();
        let shown = format!("{prefix}{}", name.to_string_lossy());
        let meta = format!("{:o},{}:{}", data.mode() & 0o7777, data.uid(), data.gid());
        if data.is_symlink() {
            lines.push(format!("{shown}->{}", std::fs::read_link(&path).unwrap().display()));
        } else if data.is_dir() {
            lines.push(format!("{shown}/[{meta}]"));
            show(&path, &format!("{shown}/"), lines);
        } else {
            let text = if data.is_file() { std::fs::read_to_string(&path).unwrap() } else { "?".to_owned() };
            lines.push(format!("{shown}={}[{meta}]", text.trim()));
        }
    }
}

#[track_caller]
fn check(from: &str, to: &str, source: &str, dest: &str, options: &CopyOptions<'_>, expect: &str) {
    assert_eq!(copied(from, to, source, dest, options).unwrap(), expect);
}

#[test]
fn a_file_replaces_a_file_and_its_mode() {
    check("echo new > f", "echo old > t; chmod 4755 t", "f", "t", &CopyOptions::default(), "t=new[644,0:0]");
    check(
        "echo new > f",
        "echo old > o; ln -s o t",
        "f",
        "t",
        &CopyOptions::default(),
        "o=old[644,0:0] t=new[644,0:0]",
    );
}

#[test]
fn missing_parents_are_made_for_the_owner_given() {
    let plain = CopyOptions::default();
    check("echo x > f; chown 3:4 f", ":", "f", "a/b", &plain, "a/[755,0:0] a/b=x[644,3:4]");
    let owned = CopyOptions { owner: Some((7, 8)), ..plain };
    check("echo x > f; chown 3:4 f", ":", "f", "a/b", &owned, "a/[755,7:8] a/b=x[644,7:8]");
}

#[test]
fn a_directory_at_the_destination_keeps_its_metadata_and_those_in_it_do_not() {
    check(
        "mkdir -p d/www; echo x > d/www/f; chmod 711 d",
        "mkdir -p var/www var/lib; chown 33:33 var var/www; chmod 2770 var var/www",
        "d",
        "var",
        &CopyOptions::default(),
        "var/[2770,33:33] var/lib/[755,0:0] var/www/[755,0:0] var/www/f=x[644,0:0]",
    );
    check(
        "mkdir -m 700 d; echo x > d/f",
        ":",
        "d",
        "new",
        &CopyOptions::default(),
        "new/[755,0:0] new/f=x[644,0:0]",
    );
}

#[test]
fn directories_and_files_do_not_replace_each_other() {
    let message = |from: &str, to: &str, source: &str, dest: &str| {
        copied(from, to, source, dest, &CopyOptions::default()).unwrap_err().to_string()
    };
    assert!(message("echo x > f", "mkdir t", "f", "t").contains("cannot replace"));
    assert!(message("mkdir -p d/t", "echo x > t", "d/t", "t").contains("cannot copy to non-directory"));
    assert!(message("mkdir -p d/t", "echo x > t", "d", "/").contains("cannot copy to non-directory: /t"));
    assert!(
        message("mkdir d; echo x > d/t", "mkdir t", "d", "/")
            .contains("cannot replace directory /t with file")
    );
    assert!(message("mkdir -p d/t", "mkdir o; ln -s o t", "d", "/").contains("cannot copy to non-directory"));
    assert!(message(":", ":", "none", "t").contains("/none: not found"));
}

#[test]
fn modes_are_changed_as_asked_but_not_that_of_an_existing_destination() {
    let octal = ModeChange::parse("1777").unwrap();
    let options = CopyOptions { mode: Some(&octal), ..CopyOptions::default() };
    check(
        "mkdir -p d/sub; echo x > d/sub/x",
        ":",
        "d",
        "t",
        &options,
        "t/[777,0:0] t/sub/[1777,0:0] t/sub/x=x[1777,0:0]",
    );
    check("mkdir -p d/sub", "mkdir t", "d", "t", &options, "t/[755,0:0] t/sub/[1777,0:0]");
    let symbolic = ModeChange::parse("go-rwx").unwrap();
    let options = CopyOptions { mode: Some(&symbolic), ..CopyOptions::default() };
    check(
        "mkdir -p d/shut; chmod 500 d/shut; echo x > d/run; chmod 740 d/run; ln -s run d/l",
        ":",
        "d",
        "t",
        &options,
        "t/[755,0:0] t/l->run t/run=x[700,0:0] t/shut/[500,0:0]",
    );
}

#[test]
fn what_is_excluded_is_not_copied_and_its_folder_only_if_needed() {
    let filter = |path: &[u8], _: bool| match path {
        b"out" => Verdict::Exclude,
        b"way" | b"empty" | b"way/off" => Verdict::ExcludeButDescend,
        _ => Verdict::Include,
    };
    let options = CopyOptions { filter: &filter, ..CopyOptions::default() };
    check(
        "mkdir -p d/out d/way/in d/empty; chmod 711 d/way; echo x | tee d/out/x d/way/in/y d/way/off > d/z",
        ":",
        "d",
        "t",
        &options,
        "t/[755,0:0] t/way/[711,0:0] t/way/in/[755,0:0] t/way/in/y=x[644,0:0] t/z=x[644,0:0]",
    );
}

#[test]
fn links_pipes_and_devices_are_copied_as_such() {
    check(
        "mkdir d; mkfifo -m 620 d/p; mknod d/n c 1 3; ln -s none d/l; chown -h 5:6 d/p",
        ":",
        "d",
        "t",
        &CopyOptions::default(),
        "t/[755,0:0] t/l->none t/n=?[644,0:0] t/p=?[620,5:6]",
    );
    check("mkfifo -m 620 p", ":", "p", "alone", &CopyOptions::default(), "alone=?[620,0:0]");
    check("echo x > f; ln -s f l", ":", "l", "t", &CopyOptions::default(), "t->f");
    let follow = CopyOptions { follow_source: true, ..CopyOptions::default() };
    check("echo x > f; ln -s /../f l", ":", "l", "t", &follow, "t=x[644,0:0]");
}

#[test]
fn a_socket_becomes_an_empty_file() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap();
    let tree = Tree::open(folder.path()).unwrap();
    copy_tree(&tree, b"s", &tree, b"t", &CopyOptions::default()).unwrap();
    assert_eq!(std::fs::metadata(folder.path().join("t")).unwrap().len(), 0);
    assert!(std::fs::metadata(folder.path().join("t")).unwrap().is_file());
}

#[test]
fn hard_links_times_attributes_and_holes_survive() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(path("d/sub")).unwrap();
    std::fs::write(path("d/one"), "x").unwrap();
    for name in ["d/two", "d/sub/three"] {
        std::fs::hard_link(path("d/one"), path(name)).unwrap();
    }
    let sparse = std::fs::File::create(path("d/sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"mid", 4 << 20).unwrap();
    fs::fsetxattr(&sparse, "user.k", b"v", fs::XattrFlags::empty()).unwrap();
    node::set_mtime(&sparse, (1_000, 123_456_789)).unwrap();
    node::set_mtime(std::fs::File::open(path("d/sub")).unwrap(), (-5, 7)).unwrap();
    let tree = Tree::open(folder.path()).unwrap();
    let count = copy_tree(&tree, b"d", &tree, b"t", &CopyOptions::default()).unwrap();
    assert_eq!((count.files, count.directories), (4, 2));
    let stat = |name: &str| tree.stat(name.as_bytes(), false).unwrap();
    assert_eq!(stat("t/one").inode, stat("t/sub/three").inode);
    assert_eq!((stat("t/two").links, stat("t/sparse").mtime), (3, (1_000, 123_456_789)));
    assert_eq!(stat("t/sub").mtime, (-5, 7));
    assert_eq!(tree.xattrs(b"t/sparse").unwrap(), [(b"user.k".to_vec(), b"v".to_vec())]);
    let copy = std::fs::metadata(path("t/sparse")).unwrap();
    assert!(copy.blocks() < 64, "{} blocks", copy.blocks());
    assert_eq!(std::fs::read(path("t/sparse")).unwrap(), std::fs::read(path("d/sparse")).unwrap());
    let fixed = CopyOptions { mtime: Some((9, 0)), owner: Some((1, 2)), ..CopyOptions::default() };
    copy_tree(&tree, b"d", &tree, b"u/v", &fixed).unwrap();
    for name in ["u", "u/v/sub", "u/v/sparse", "u/v/two"] {
        assert_eq!((stat(name).uid, stat(name).gid), (1, 2), "{name}");
    }
    assert_eq!((stat("u/v/sub").mtime, stat("u/v/sparse").mtime), ((9, 0), (9, 0)));
}

#[test]
fn a_copy_into_a_mount_is_in_the_layer() {
    let bench = Bench::new();
    let source =
        bench.run(&[], "mkdir -p d/sub; echo linked > d/one; ln d/one d/sub/two; mkdir -m 700 d/shut");
    let base = bench.run(&[], "mkdir -p data/real; ln -s data/real link; ln -s loop loop");
    let from = bench.store.mount_readonly(&[source.id]).unwrap().root().unwrap();
    let active = bench.store.prepare().unwrap();
    let mount = bench.store.mount(&[base.id], &active).unwrap();
    let to = mount.root().unwrap();
    let dest = to.resolve(b"link").unwrap();
    copy_tree(&from, b"d", &to, &dest, &CopyOptions::default()).unwrap();
    assert!(to.resolve(b"loop").unwrap_err().to_string().contains("too many links"));
    shell(&mount, "test data/real/one -ef data/real/sub/two");
    drop((to, mount));
    let layer = bench.store.commit(active, &[base.id], &crate::CommitOptions::default()).unwrap();
    let names = crate::testing::names(&layer).join(" ");
    assert_eq!(names, "data data/real data/real/one data/real/shut data/real/sub data/real/sub/two");
}

/// Not a claim but a measure: `cargo test --release -- --ignored --nocapture speed`.
#[test]
#[ignore = "a measure, not a claim"]
#[allow(clippy::print_stderr)]
fn speed_of_copy() {
    let bench = Bench::new();
    let context = bench.folder.path().join("context");
    for n in 0..7_600 {
        let folder = context.join(format!("d{}", n / 20));
        if n % 20 == 0 {
            std::fs::create_dir_all(&folder).unwrap();
        }
        std::fs::write(folder.join(format!("f{n}")), vec![n as u8; 20_400]).unwrap();
    }
    let from = Tree::open(&context).unwrap();
    for _ in 0..2 {
        let active = bench.store.prepare().unwrap();
        let mount = bench.store.mount(&[], &active).unwrap();
        let start = std::time::Instant::now();
        let count = copy_tree(&from, b"", &mount.root().unwrap(), b"", &CopyOptions::default()).unwrap();
        eprintln!("copy of {count:?}: {:?}", start.elapsed());
        drop(mount);
        let start = std::time::Instant::now();
        bench.store.commit(active, &[], &crate::CommitOptions::default()).unwrap();
        eprintln!("its commit: {:?}", start.elapsed());
    }
    let mut spent = [std::time::Duration::ZERO; 3];
    for _ in 0..100 {
        let start = std::time::Instant::now();
        let active = bench.store.prepare().unwrap();
        spent[0] += start.elapsed();
        let mount = bench.store.mount(&[], &active).unwrap();
        spent[1] += start.elapsed();
        drop(mount);
        drop(active);
        spent[2] += start.elapsed();
    }
    let [prepared, mounted, dropped] = spent.map(|sum| sum / 100);
    eprintln!("prepare: {prepared:?}, mount: {:?}, drop: {:?}", mounted - prepared, dropped - mounted);
}
