//! Claims about what is in a layer, each as BuildKit makes it.

use super::*;
use crate::testing::{Bench, names, reach, shell};
use std::os::unix::fs::MetadataExt as _;

/// Runs one script after the other, each on the layers of those before, and compares what the
/// layers hold.
#[track_caller]
fn check(scripts: &[&str], expect: &[&str]) {
    let bench = Bench::new();
    let base = bench.run(&[], "mkdir -p home/app etc; echo g > etc/group; echo p > etc/passwd");
    let mut layers = vec![base];
    for (script, expect) in scripts.iter().zip(expect) {
        let below: Vec<&Committed> = layers.iter().collect();
        let layer = bench.run(&below, script);
        assert_eq!(names(&layer).join(" "), *expect, "{script}");
        layers.push(layer);
        let stack: Vec<&Committed> = layers.iter().collect();
        assert_eq!(bench.mounted(&stack), bench.viewed(&stack), "{script}");
    }
    for layer in &layers {
        let mut tar = Vec::new();
        bench.store.write_layer(&layer.id, &mut tar).unwrap();
        assert_eq!(DiffId(Digest::of(&tar)), layer.diff_id);
        assert_eq!(tar.len() as u64, layer.tar_bytes);
    }
}

use kiln_oci::DiffId;

#[test]
fn changed_owners_put_entries_in_the_layer() {
    check(
        &[
            "mkdir d && echo 1 > d/one && ln -s one d/l && echo 2 > f",
            "chown 5:6 f && chown 7 d && chown -h 8 d/l",
        ],
        &["d d/l d/one f", "d d/l f"],
    );
}

#[test]
fn a_removed_folder_is_one_whiteout() {
    check(
        &["mkdir -p d/e/f && echo x > d/e/f/x && echo y > d/y", "rm -r d home/app"],
        &["d d/e d/e/f d/e/f/x d/y", ".wh.d home home/.wh.app"],
    );
}

#[test]
fn a_folder_replaced_by_a_file_is_that_file() {
    check(&["mkdir -p d/e && echo x > d/e/x", "rm -r d && echo file > d"], &["d d/e d/e/x", "d"]);
    check(&["echo file > d", "rm d && mkdir -p d/e"], &["d", "d d/e"]);
}

#[test]
fn writing_to_one_of_two_names_parts_them() {
    check(&["echo first > a && ln a b", "echo second >> a"], &["a b", "a"]);
}

#[test]
fn a_folder_made_again_hides_its_old_names_one_by_one() {
    check(
        &[
            "mkdir -p d/s/t && echo 1 > d/keep && echo 2 > d/s/old && echo 3 > d/s/t/old",
            "rm -r d/s && mkdir -p d/s/t && echo 4 > d/s/t/new",
            "echo 5 > d/s/more",
        ],
        &[
            "d d/keep d/s d/s/old d/s/t d/s/t/old",
            "d d/s d/s/.wh.old d/s/t d/s/t/.wh.old d/s/t/new",
            "d d/s d/s/more",
        ],
    );
}

#[test]
fn what_is_made_and_removed_at_once_is_in_no_layer() {
    check(&["mkdir d && echo x > d/x && echo y > home/y && rm -r d home/y", "true"], &["", ""]);
}

#[test]
fn a_file_written_again_with_the_same_bytes_and_time_is_not_in_the_layer() {
    let write = "echo same > f && touch -d '2020-02-02 02:02:02' f";
    check(&[write, write, "echo sane > f && touch -d '2020-02-02 02:02:02' f"], &["f", "", "f"]);
}

#[test]
fn a_folder_made_again_as_it_was_is_not_in_the_layer() {
    let write = "rm -rf d && mkdir d && echo same > d/f && touch -d '2020-02-02 02:02:02' d/f";
    check(&[write, write], &["d d/f", ""]);
}

#[test]
fn metadata_alone_puts_the_whole_file_in_but_a_folder_without_its_content() {
    check(
        &["mkdir d && echo x > d/x && echo y > d/y", "chmod 600 d/x && chown 7:8 d"],
        &["d d/x d/y", "d d/x"],
    );
    check(&["echo x > home/x && chmod 700 home && chmod 755 home && rm home/x"], &[""]);
}

#[test]
fn a_renamed_folder_is_its_content_again_and_a_whiteout() {
    check(
        &["mkdir a && echo 1 > a/one && mkdir a/s && echo 2 > a/s/two", "mv a b"],
        &["a a/one a/s a/s/two", ".wh.a b b/one b/s b/s/two"],
    );
}

#[test]
fn a_name_like_a_whiteouts_is_written_as_it_is() {
    check(&["echo 'not a whiteout' > home/.wh.app; test -d home/app"], &["home home/.wh.app"]);
}

#[test]
fn sockets_are_left_out() {
    let bench = Bench::new();
    let base = bench.run(&[], "mkdir home; echo x > home/old");
    let active = bench.store.prepare().unwrap();
    let mount = bench.store.mount(&[base.id], &active).unwrap();
    let home = reach(&mount).join("home");
    std::fs::remove_file(home.join("old")).unwrap();
    for name in ["new", "old"] {
        std::os::unix::net::UnixListener::bind(home.join(name)).unwrap();
    }
    drop(mount);
    let layer = bench.store.commit(active, &[base.id], &CommitOptions::default()).unwrap();
    assert_eq!(names(&layer), ["home", "home/.wh.old"]);
    assert_eq!(bench.mounted(&[&base, &layer]), bench.viewed(&[&base, &layer]));
}

#[test]
fn hard_links_set_id_bits_devices_and_attributes_are_kept() {
    let bench = Bench::new();
    let active = bench.store.prepare().unwrap();
    let mount = bench.store.mount(&[], &active).unwrap();
    shell(
        &mount,
        "mkdir d && echo x > d/a && ln d/a d/b && ln d/a c && chmod 4755 c && mkfifo -m 640 p \
         && mknod n c 1 3 && ln -s none l && chown -h 7:8 l && mkdir -m 3777 s && touch -h -d @-5.25 l",
    );
    let c = std::fs::File::open(reach(&mount).join("c")).unwrap();
    for (name, value) in [("user.k", b"v\n"), ("user.overlay.opaque", b"y\n")] {
        rustix::fs::fsetxattr(&c, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    }
    drop((c, mount));
    let layer = bench.store.commit(active, &[], &CommitOptions::default()).unwrap();
    let get = |path: &str| layer.index.get(path.as_bytes()).unwrap();
    let link = |path: &str| match get(path).kind {
        Kind::File { link, .. } => link,
        _ => None,
    };
    assert_eq!((link("c"), link("d/a"), link("d/b")), (Some(1), Some(1), Some(1)));
    assert_eq!(get("d/b").mode, 0o4755);
    assert_eq!(get("d/b").xattrs, [(b"user.k".to_vec(), b"v\n".to_vec())]);
    assert_eq!((get("l").uid, get("l").gid, get("l").mtime_s, get("l").mtime_ns), (7, 8, -6, 750_000_000));
    assert_eq!(get("n").kind, Kind::CharDevice { major: 1, minor: 3 });
    assert_eq!((&get("p").kind, get("p").mode), (&Kind::Fifo, 0o640));
    assert_eq!(get("s").mode, 0o3777);
}

#[test]
fn equal_trees_have_equal_content_whatever_their_times() {
    let bench = Bench::new();
    let write = |time: &str| bench.run(&[], &format!("mkdir d && echo x > d/f && touch -d @{time} d/f d"));
    let (one, two) = (write("1"), write("2000000000"));
    assert_eq!(one.content, two.content);
    assert_ne!(one.diff_id, two.diff_id);
}

#[test]
fn no_time_is_later_than_the_clamp() {
    let bench = Bench::new();
    let active = bench.store.prepare().unwrap();
    let mount = bench.store.mount(&[], &active).unwrap();
    shell(&mount, "echo x > new; echo x > old; touch -d @5.5 old");
    drop(mount);
    let layer = bench.store.commit(active, &[], &CommitOptions { clamp_mtime_s: Some(1000) }).unwrap();
    assert_eq!(layer.index.get(b"new").map(|entry| (entry.mtime_s, entry.mtime_ns)), Some((1000, 0)));
    assert_eq!(layer.index.get(b"old").map(|entry| (entry.mtime_s, entry.mtime_ns)), Some((5, 500_000_000)));
}

#[test]
fn a_layer_lies_on_any_other() {
    let bench = Bench::new();
    let one = bench.run(&[], "mkdir -p a/b && echo 1 > a/b/f && echo 1 > a/g");
    let upper = bench.run(&[&one], "rm -r a && mkdir -p a/b && echo 2 > a/b/f");
    let other = bench.run(&[], "mkdir -p a/b && echo 3 > a/b/h && echo 3 > a/g");
    let stack = [&other, &upper];
    assert_eq!(bench.mounted(&stack), bench.viewed(&stack));
    assert!(bench.mounted(&stack).contains_key("a/b/h"));
    assert!(!bench.mounted(&stack).contains_key("a/g"));
}

#[test]
fn more_layers_than_overlayfs_takes_are_refused_by_number() {
    let bench = Bench::new();
    let active = bench.store.prepare().unwrap();
    let ids: Vec<SnapshotId> = (1..=501).map(|n| format!("{n:016x}").parse().unwrap()).collect();
    let error = bench.store.mount(&ids, &active).unwrap_err();
    assert!(matches!(error, SnapshotError::TooManyLayers { count: 501, limit: 500 }), "{error}");
    assert!(error.to_string().contains("500"));
}

#[test]
fn a_layer_that_comes_twice_is_mounted_once() {
    let bench = Bench::new();
    let below = bench.run(&[], "echo below > f; echo 1 > g").id;
    let above = bench.run(&[], "echo above > f").id;
    let active = bench.store.prepare().unwrap();
    let mount = bench.store.mount(&[below, above, below, below], &active).unwrap();
    assert_eq!(std::fs::read_to_string(reach(&mount).join("f")).unwrap(), "below\n");
    let mount = bench.store.mount_readonly(&[below, below, above]).unwrap();
    assert_eq!(std::fs::read_to_string(reach(&mount).join("f")).unwrap(), "above\n");
}

#[test]
fn five_hundred_layers_are_mounted() {
    let bench = Bench::new();
    let layers: Vec<Committed> =
        (0..500).map(|n| bench.run(&[], &format!("echo {n} > f{n}; echo {n} > top"))).collect();
    let ids: Vec<SnapshotId> = layers.iter().map(|layer| layer.id).collect();
    let active = bench.store.prepare().unwrap();
    let mount = bench.store.mount(&ids, &active).unwrap();
    assert_eq!(std::fs::read_to_string(reach(&mount).join("top")).unwrap(), "499\n");
    assert_eq!(std::fs::read_dir(reach(&mount)).unwrap().count(), 501);
}

#[test]
fn odd_characters_in_the_stores_path_are_no_options() {
    let folder = tempfile::tempdir().unwrap();
    let store = Snapshotter::open(&folder.path().join("a,lowerdir=b:c\\d\ne")).unwrap();
    let active = store.prepare().unwrap();
    let mount = store.mount(&[], &active).unwrap();
    shell(&mount, "echo x > f");
    drop(mount);
    let layer = store.commit(active, &[], &CommitOptions::default()).unwrap();
    assert_eq!(names(&layer), ["f"]);
    drop(store.mount_readonly(&[layer.id]).unwrap());
    drop(store.mount_readonly(&[]).unwrap());
}

#[test]
fn a_mount_leaves_no_trace_in_the_mount_table() {
    let bench = Bench::new();
    let layer = bench.run(&[], "echo x > f");
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = bench.store.mount_readonly(&[layer.id]).unwrap();
    assert_eq!(std::fs::read_to_string(reach(&mount).join("f")).unwrap(), "x\n");
    assert!(std::fs::write(reach(&mount).join("f"), "y").is_err());
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

#[test]
fn a_damaged_file_is_found_when_the_layer_is_written() {
    let bench = Bench::new();
    let layer = bench.run(&[], "echo right > f");
    let path = bench.store.path.join(layer.id.to_string()).join("fs/f");
    std::fs::write(&path, "wrong\n").unwrap();
    let error = bench.store.write_layer(&layer.id, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, SnapshotError::NotReproduced { .. }), "{error}");
    std::fs::write(&path, "longer than it was\n").unwrap();
    let error = bench.store.write_layer(&layer.id, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, SnapshotError::Changed(_)), "{error}");
}

#[test]
fn large_and_sparse_files_come_through() {
    let bench = Bench::new();
    let layer = bench.run(
        &[],
        "head -c 3000000 /dev/urandom > big; truncate -s 5M sparse; printf end >> sparse; : > empty; ln big big2; \
         head -c 524288 /dev/zero > edge; head -c 524289 /dev/zero > edge2",
    );
    let mut tar = Vec::new();
    bench.store.write_layer(&layer.id, &mut tar).unwrap();
    assert_eq!(DiffId(Digest::of(&tar)), layer.diff_id);
    let mount = bench.store.mount_readonly(&[layer.id]).unwrap();
    for name in ["big", "sparse", "edge", "edge2", "big2"] {
        let bytes = std::fs::read(reach(&mount).join(name)).unwrap();
        let Some(Kind::File { digest, size, .. }) = layer.index.get(name.as_bytes()).map(|entry| &entry.kind)
        else {
            panic!("{name} is no file")
        };
        assert_eq!((Digest::of(&bytes), bytes.len() as u64), (*digest, *size), "{name}");
    }
}

/// Random operations on random stacks: what the indexes say is what the kernel shows.
#[test]
fn the_view_of_random_layers_is_the_mounted_one() {
    let mut seed = 7_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..12 {
        let bench = Bench::new();
        let mut layers: Vec<Committed> = Vec::new();
        for _ in 0..6 {
            let mut script = String::new();
            for _ in 0..14 {
                let mut path = || {
                    (0..=random(3))
                        .map(|_| ["a", "b", "c.d", "e"][random(4) as usize])
                        .collect::<Vec<_>>()
                        .join("/")
                };
                let (one, two) = (path(), path());
                script += &match random(8) {
                    0 | 1 => format!("mkdir -p {one} 2>/dev/null || :\n"),
                    2 => format!("echo {one} > {two} 2>/dev/null || :\n"),
                    3 => format!("rm -rf {one} 2>/dev/null || :\n"),
                    4 => format!("mv -T {one} {two} 2>/dev/null || :\n"),
                    5 => format!("ln -sfn {one} {two} 2>/dev/null || :\n"),
                    6 => format!("rm -rf {one} && mkdir -p {one} 2>/dev/null || :\n"),
                    _ => format!("chmod 7{}5 {one} 2>/dev/null || :\n", random(8)),
                };
            }
            let below: Vec<&Committed> = layers.iter().collect();
            let layer = bench.run(&below, &script);
            layers.push(layer);
            let stack: Vec<&Committed> = layers.iter().collect();
            assert_eq!(bench.mounted(&stack), bench.viewed(&stack), "{script}");
        }
    }
}

#[test]
fn a_committed_folder_keeps_the_time_it_had() {
    let bench = Bench::new();
    let base = bench.run(&[], "mkdir d && echo x > d/f");
    let layer = bench.run(&[&base], "rm -r d && mkdir d && touch -d @1000 d");
    assert_eq!(layer.index.get(b"d").map(|entry| entry.mtime_s), Some(1000));
    let fs = bench.store.path.join(layer.id.to_string()).join("fs/d");
    assert_eq!(std::fs::metadata(fs).unwrap().mtime(), 1000);
}

/// Not a claim but a measure: `cargo test --release -- --ignored --nocapture speed`.
#[test]
#[ignore = "a measure, not a claim"]
#[allow(clippy::print_stderr)]
fn speed_of_commit() {
    for (files, bytes, big) in [(20_000, 3_000, 0), (0, 0, 500_000_000)] {
        let bench = Bench::new();
        let active = bench.store.prepare().unwrap();
        let root = bench.store.path.join(active.id().to_string()).join("fs");
        for n in 0..files {
            let folder = root.join(format!("d{}", n / 100));
            if n % 100 == 0 {
                std::fs::create_dir(&folder).unwrap();
            }
            std::fs::write(folder.join(format!("f{n}")), vec![n as u8; bytes]).unwrap();
        }
        if big > 0 {
            std::fs::write(root.join("big"), vec![1; big]).unwrap();
        }
        let start = std::time::Instant::now();
        let layer = bench.store.commit(active, &[], &CommitOptions::default()).unwrap();
        eprintln!("commit of {} entries: {:?}", layer.index.len(), start.elapsed());
        let start = std::time::Instant::now();
        bench.store.write_layer(&layer.id, &mut io::sink()).unwrap();
        eprintln!("writing it again: {:?}", start.elapsed());
        let start = std::time::Instant::now();
        bench.store.sync().unwrap();
        eprintln!("sync: {:?}", start.elapsed());
    }
}
