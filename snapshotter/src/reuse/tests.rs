//! Claims about files that are taken over: the new layer is as if they had been copied, the earlier one stays as it is.

use super::*;
use crate::testing::{Bench, names, shell};
use crate::{Active, CommitOptions, Committed, CopyOptions, Reuse, Tree, copy_tree};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

/// Commits a copy of a source that a script made at `d`, taking over what `earlier` has.
fn copied(bench: &Bench, script: &str, earlier: Option<&Committed>) -> Result<Committed, SnapshotError> {
    let (active, earlier) = copy_in(bench, script, earlier);
    bench.store.commit_reusing(active, &[], &CommitOptions::default(), earlier.as_ref())
}

/// Makes the source by a script and copies it to `d`, all but what `earlier` has.
pub(crate) fn copy_in(bench: &Bench, script: &str, earlier: Option<&Committed>) -> (Active, Option<Earlier>) {
    let source = bench.folder.path().join("source");
    std::fs::create_dir_all(&source).unwrap();
    let done = std::process::Command::new("sh").args(["-ec", script]).current_dir(&source).status().unwrap();
    assert!(done.success(), "{script}");
    let from = Tree::open(&source).unwrap();
    let active = bench.store.prepare().unwrap();
    let mount = bench.store.mount(&[], &active).unwrap();
    let earlier = earlier.map(|layer| bench.store.earlier(&layer.id).unwrap());
    // As a memo would: by what the file is now.
    let seen = |path: &[u8]| {
        let content = std::fs::read(source.join(std::ffi::OsStr::from_bytes(path))).unwrap();
        Some((from.stat(path, false).unwrap(), Digest::of(&content)))
    };
    let reuse = earlier.as_ref().map(|earlier| Reuse { earlier, seen: &seen });
    let options = CopyOptions { reuse, ..CopyOptions::default() };
    copy_tree(&from, b"", &mount.root().unwrap(), b"d", &options).unwrap();
    drop(mount);
    (active, earlier)
}

fn inode(bench: &Bench, layer: &Committed, path: &str) -> u64 {
    let file = bench.store.path.join(layer.id.to_string()).join("fs").join(path);
    file.symlink_metadata().unwrap().ino()
}

const MADE: &str = "mkdir -p s/t; echo a > a; echo b > s/b; echo c > s/t/c; chmod 4755 s/b";

#[test]
fn what_is_the_same_is_one_file_and_what_changed_is_another() {
    let bench = Bench::new();
    let first = copied(&bench, MADE, None).unwrap();
    let second = copied(&bench, "echo A > s/t/c; chmod 600 a", Some(&first)).unwrap();
    let is_shared = |path| inode(&bench, &first, path) == inode(&bench, &second, path);
    assert_eq!(["d/a", "d/s/b", "d/s/t/c"].map(is_shared), [false, true, false]);
    // The same copy with nothing taken over is the same layer, times of folders and tar and all.
    let plain = copied(&bench, ":", None).unwrap();
    assert_eq!((plain.diff_id, plain.content), (second.diff_id, second.content));
    assert_eq!(plain.index, second.index);
    assert_eq!(bench.mounted(&[&second]), bench.viewed(&[&second]));
}

#[test]
fn two_names_of_one_inode_in_two_layers_are_no_hard_links_in_the_tar() {
    let bench = Bench::new();
    let first = copied(&bench, MADE, None).unwrap();
    let second = copied(&bench, "echo new > new", Some(&first)).unwrap();
    assert_eq!(inode(&bench, &first, "d/a"), inode(&bench, &second, "d/a"));
    for layer in [&first, &second] {
        let links = layer.index.iter().filter(|(_, e)| matches!(e.kind, Kind::File { link: Some(_), .. }));
        assert_eq!(links.count(), 0);
        let mut tar = Vec::new();
        bench.store.write_layer(&layer.id, &mut tar).unwrap();
        let heads = tar.chunks(512).filter(|block| &block[257..262] == b"ustar");
        let kinds: Vec<u8> = heads.map(|block| block[156]).collect();
        assert!(kinds.contains(&b'0') && !kinds.contains(&b'1'), "{kinds:?}");
    }
}

#[test]
fn names_that_are_hard_links_in_the_source_stay_so() {
    let bench = Bench::new();
    let first = copied(&bench, "echo a > a; ln a b; echo c > c", None).unwrap();
    let second = copied(&bench, "echo new > new", Some(&first)).unwrap();
    assert_eq!(inode(&bench, &second, "d/a"), inode(&bench, &second, "d/b"));
    assert_ne!(inode(&bench, &first, "d/a"), inode(&bench, &second, "d/a"));
    let plain = copied(&bench, ":", None).unwrap();
    assert_eq!(plain.index, second.index);
}

#[test]
fn what_a_step_does_to_a_file_that_was_taken_over_stays_in_its_own_layer() {
    let bench = Bench::new();
    let first = copied(&bench, MADE, None).unwrap();
    let second = copied(&bench, "echo new > new", Some(&first)).unwrap();
    let before = (bench.mounted(&[&first]), bench.mounted(&[&second]));
    let third = bench.run(
        &[&second],
        "chmod 700 d/a; echo more >> d/s/b; chown 7:8 d/s/t/c; touch -d @5 d/new; truncate -s 0 d/s/t/c",
    );
    assert_eq!(names(&third), ["d", "d/a", "d/new", "d/s", "d/s/b", "d/s/t", "d/s/t/c"]);
    assert_eq!((bench.mounted(&[&first]), bench.mounted(&[&second])), before);
    assert_eq!(bench.mounted(&[&first]), bench.viewed(&[&first]));
    // Nor does removing the one take anything from the other.
    bench.store.remove(&first.id).unwrap();
    assert_eq!(bench.mounted(&[&second]), before.1);
}

#[test]
fn attributes_and_other_times_are_copied() {
    let bench = Bench::new();
    let first = copied(&bench, MADE, None).unwrap();
    let second = copied(&bench, "touch -d @9 a", Some(&first)).unwrap();
    assert_ne!(inode(&bench, &first, "d/a"), inode(&bench, &second, "d/a"));
    assert_eq!(second.index.get(b"d/a").map(|e| e.mtime_s), Some(9));
    assert_eq!(inode(&bench, &first, "d/s/b"), inode(&bench, &second, "d/s/b"));
}

#[test]
fn an_earlier_layer_with_a_file_that_is_not_what_its_index_says_is_not_intact() {
    let bench = Bench::new();
    let first = copied(&bench, MADE, None).unwrap();
    let is_intact = || bench.store.earlier(&first.id).unwrap().is_intact();
    assert!(is_intact());
    let store = bench.store.mount_readonly(&[first.id]).unwrap();
    shell(&store, "test -f d/a");
    drop(store);
    let file = bench.store.path.join(first.id.to_string()).join("fs/d/a");
    std::fs::write(&file, "longer than before").unwrap();
    assert!(!is_intact());
    std::fs::remove_file(&file).unwrap();
    assert!(!is_intact());
    let refused = copied(&bench, ":", Some(&first));
    assert!(matches!(refused, Err(SnapshotError::NotReused(_))), "{refused:?}");
}
