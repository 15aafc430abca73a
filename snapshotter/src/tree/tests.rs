//! Claims about trees: symbolic links mean places inside, and nothing else is touched.

use super::*;
use std::os::unix::fs::{MetadataExt as _, symlink};

/// A tree in `<folder>/root` with a secret beside it.
fn tree() -> (tempfile::TempDir, Tree) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir_all(root.join("dir/sub")).unwrap();
    std::fs::write(root.join("dir/file"), "inside").unwrap();
    std::fs::create_dir(folder.path().join("dir")).unwrap();
    std::fs::write(folder.path().join("dir/file"), "outside").unwrap();
    symlink("/dir", root.join("abs")).unwrap();
    symlink("../../../dir", root.join("dir/up")).unwrap();
    symlink(folder.path().join("dir"), root.join("out")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    symlink("dir/file", root.join("to-file")).unwrap();
    symlink("none/at/all", root.join("dead")).unwrap();
    let tree = Tree::open(&root).unwrap();
    (folder, tree)
}

fn read(tree: &Tree, path: &str) -> Result<String, SnapshotError> {
    let mut text = String::new();
    tree.open_file(path.as_bytes())?.read_to_string(&mut text).unwrap();
    Ok(text)
}

#[test]
fn links_are_followed_inside() {
    let (_folder, tree) = tree();
    for path in
        ["dir/file", "/dir/file", "abs/file", "dir/up/file", "../../dir/file", "to-file", "abs/up/up/file"]
    {
        assert_eq!(read(&tree, path).unwrap(), "inside", "{path}");
    }
    assert!(matches!(read(&tree, "out/file"), Err(SnapshotError::NotFound(_))));
    assert!(matches!(read(&tree, "loop/x"), Err(SnapshotError::TooManyLinks(_))));
    assert!(matches!(read(&tree, "dir"), Err(SnapshotError::NotAFile(_))));
    assert!(matches!(read(&tree, "dir/file/x"), Err(SnapshotError::NotADirectory(_))));
}

#[test]
fn a_path_is_resolved_as_far_as_it_exists() {
    let (_folder, tree) = tree();
    let resolve = |path: &str| tree.resolve(path.as_bytes()).map(|path| String::from_utf8(path).unwrap());
    assert_eq!(resolve("abs/up/new/../x").unwrap(), "dir/x");
    assert_eq!(resolve("dead/x").unwrap(), "none/at/all/x");
    assert_eq!(resolve("/../..").unwrap(), "");
    assert_eq!(resolve("dir/file/x").unwrap(), "dir/file/x");
    let error = resolve("loop").unwrap_err();
    assert!(error.to_string().contains("too many links"), "{error}");
}

#[test]
fn directories_are_made_through_links_and_kept_if_they_exist() {
    let (folder, tree) = tree();
    let made = tree.make_dirs(b"abs/up/one/two", 0o2750, Some((7, 8)), Some((1000, 5))).unwrap();
    assert_eq!(made, b"dir/one/two");
    let stat = tree.stat(b"dir/one/two", false).unwrap();
    assert_eq!(
        (stat.kind, stat.mode, stat.uid, stat.gid, stat.mtime),
        (NodeType::Directory, 0o2750, 7, 8, (1000, 5))
    );
    assert_eq!(tree.stat(b"dir", false).unwrap().uid, 0);
    assert_eq!(tree.make_dirs(b"dead/x", 0o755, None, None).unwrap(), b"none/at/all/x");
    assert!(matches!(tree.make_dirs(b"to-file/x", 0o755, None, None), Err(SnapshotError::NotADirectory(_))));
    tree.make_dirs(b"out/made", 0o755, None, None).unwrap();
    assert!(!folder.path().join("dir/made").exists());
}

#[test]
fn a_directory_is_dated_through_links_and_nothing_in_it_or_outside() {
    let (folder, tree) = tree();
    let file = tree.stat(b"dir/file", false).unwrap().mtime;
    let outside = folder.path().join("dir").metadata().unwrap().mtime();
    tree.set_directory_mtime(b"abs", (1000, 5)).unwrap();
    assert_eq!(tree.stat(b"dir", false).unwrap().mtime, (1000, 5));
    assert_eq!(tree.stat(b"dir/file", false).unwrap().mtime, file);
    assert_eq!(folder.path().join("dir").metadata().unwrap().mtime(), outside);
    tree.set_directory_mtime(b"", (-7, 0)).unwrap();
    assert_eq!(folder.path().join("root").metadata().unwrap().mtime(), -7);
    for path in ["none", "to-file", "out"] {
        assert!(tree.set_directory_mtime(path.as_bytes(), (1, 0)).is_err(), "{path}");
    }
}

#[test]
fn files_are_written_in_place_of_links() {
    let (folder, tree) = tree();
    let write = |path: &[u8]| tree.write_file(path, 0o640, Some((1, 2)), Some((9, 0)), &mut &b"new"[..]);
    write(b"abs/link").unwrap();
    std::fs::remove_file(folder.path().join("root/dir/link")).unwrap();
    symlink(folder.path().join("dir/file"), folder.path().join("root/dir/link")).unwrap();
    write(b"dir/link").unwrap();
    assert_eq!(read(&tree, "dir/link").unwrap(), "new");
    assert_eq!(std::fs::read_to_string(folder.path().join("dir/file")).unwrap(), "outside");
    let data = std::fs::metadata(folder.path().join("root/dir/link")).unwrap();
    assert_eq!((data.mode() & 0o7777, data.uid(), data.gid(), data.mtime()), (0o640, 1, 2, 9));
    assert!(matches!(write(b"dir"), Err(SnapshotError::OntoDirectory(_))));
    assert!(matches!(write(b"/"), Err(SnapshotError::OntoDirectory(_))));
}

#[test]
fn removal_does_not_follow_the_last_link() {
    let (folder, tree) = tree();
    tree.remove(b"abs", true).unwrap();
    assert!(folder.path().join("root/dir/file").exists());
    assert!(tree.remove(b"dir", false).is_err());
    tree.remove(b"dir", true).unwrap();
    assert!(!folder.path().join("root/dir").exists());
    assert!(matches!(tree.remove(b"dir", true), Err(SnapshotError::NotFound(_))));
    assert!(tree.remove(b"/", true).is_err());
    assert_eq!(std::fs::read_to_string(folder.path().join("dir/file")).unwrap(), "outside");
}

#[test]
fn a_very_deep_tree_is_removed() {
    let (_folder, tree) = tree();
    let path = ["deep"; 300].join("/");
    tree.make_dirs(path.as_bytes(), 0o755, None, None).unwrap();
    tree.remove(b"deep", true).unwrap();
    assert!(tree.stat(b"deep", false).is_err());
}

#[test]
fn a_fifo_is_no_file_and_is_not_waited_for() {
    let (_folder, tree) = tree();
    rustix::fs::mknodat(&tree.root, "pipe", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(matches!(read(&tree, "pipe"), Err(SnapshotError::NotAFile(_))));
}

#[test]
fn listings_are_sorted_and_typed() {
    let (_folder, tree) = tree();
    let names = tree.read_dir(b"abs").unwrap();
    let expect = [("file", NodeType::File), ("sub", NodeType::Directory), ("up", NodeType::Symlink)];
    assert_eq!(names, expect.map(|(name, kind)| (name.as_bytes().to_vec(), kind)));
    assert_eq!(tree.scan(b"dir").unwrap().len(), 3);
    assert_eq!(tree.read_link(b"dir/up").unwrap(), b"../../../dir");
    assert_eq!(tree.stat(b"to-file", true).unwrap().size, 6);
    assert_eq!(tree.stat(b"to-file", false).unwrap().kind, NodeType::Symlink);
}

#[test]
fn a_part_of_a_tree_is_mounted_by_itself() {
    let (_folder, tree) = tree();
    let dir = Tree::at(tree.open_subtree_mount(b"abs/up").unwrap());
    assert_eq!(read(&dir, "file").unwrap(), "inside");
    assert!(tree.open_subtree_mount(b"to-file").is_ok());
    assert!(matches!(tree.open_subtree_mount(b"out"), Err(SnapshotError::NotFound(_))));
    let bench = crate::testing::Bench::new();
    let layer = bench.run(&[], "mkdir d; echo x > d/f");
    let mounted = bench.store.mount_readonly(&[layer.id]).unwrap().root().unwrap();
    let part = Tree::at(mounted.open_subtree_mount(b"d").unwrap());
    assert_eq!(read(&part, "f").unwrap(), "x\n");
}
