//! Claims about tars that are unpacked: nothing leads out, whiteouts hide, odd archives work.

use super::*;
use crate::archive::{Entry, EntryKind, LayerWriter};
use crate::index::Kind;
use crate::testing::{Bench, names};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

mod breakouts;

/// One member of a tar that a test makes.
struct Member {
    path: String,
    kind: EntryKind<'static>,
    text: &'static str,
    mode: u32,
    owner: u32,
    mtime: i64,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn member(path: &str, kind: EntryKind<'static>) -> Member {
    Member { path: path.to_owned(), kind, text: "", mode: 0o755, owner: 0, mtime: 1000, xattrs: Vec::new() }
}

fn file(path: &str, text: &'static str) -> Member {
    Member { text, ..member(path, EntryKind::File { size_bytes: text.len() as u64 }) }
}

fn dir(path: &str) -> Member {
    member(path, EntryKind::Directory)
}

fn symlink(target: &'static str, path: &str) -> Member {
    member(path, EntryKind::Symlink { target: target.as_bytes() })
}

fn link(target: &'static str, path: &str) -> Member {
    member(path, EntryKind::Hardlink { target: target.as_bytes() })
}

/// Writes a tar whose paths and targets are exactly those given, however odd.
fn tar(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::new();
    for member in members {
        // The writer refuses odd paths: they are put into the header afterwards.
        let mut writer = LayerWriter::new(Vec::new());
        let kind = match member.kind {
            EntryKind::Symlink { .. } => EntryKind::Symlink { target: b"t" },
            EntryKind::Hardlink { .. } => EntryKind::Hardlink { target: b"t" },
            kind => kind,
        };
        let entry = Entry {
            path: b"p",
            kind,
            mode: member.mode,
            uid: member.owner,
            gid: member.owner,
            mtime_s: member.mtime,
            mtime_ns: 0,
            xattrs: &member.xattrs,
        };
        writer.append(&entry, &mut member.text.as_bytes()).unwrap();
        let mut bytes = writer.finish().unwrap();
        bytes.truncate(bytes.len() - 1024);
        // Extended headers come before it.
        let header = bytes.len() - 512 - member.text.len().div_ceil(512) * 512;
        let header = &mut bytes[header..][..512];
        header[..100].fill(0);
        header[..member.path.len()].copy_from_slice(member.path.as_bytes());
        if let EntryKind::Symlink { target } | EntryKind::Hardlink { target } = member.kind {
            header[157..257].fill(0);
            header[157..157 + target.len()].copy_from_slice(target);
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&bytes);
    }
    out.extend_from_slice(&[0; 1024]);
    out
}

fn unpack(bench: &Bench, members: &[Member]) -> Result<Committed, SnapshotError> {
    let bytes = tar(members);
    bench.store.unpack(&mut &bytes[..], &DiffId(Digest::of(&bytes)))
}

/// Everything beneath a folder, as it would show any change.
fn canary(folder: &Path) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(path) = todo.pop() {
        let data = std::fs::symlink_metadata(&path).unwrap();
        let text = if data.is_file() { std::fs::read_to_string(&path).unwrap() } else { String::new() };
        let line = format!(
            "{:o} {}:{} {}.{} {} {text}",
            data.mode(),
            data.uid(),
            data.gid(),
            data.ctime(),
            data.ctime_nsec(),
            data.nlink()
        );
        seen.insert(path.display().to_string(), line);
        if data.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    seen
}

/// Unpacks on top of a base with /etc/passwd and the like, and compares the tree (`path=text`,
/// `path->target`, `path/`), or finds that the tar is refused. A folder of the host with
/// files of the same names must come out untouched.
#[track_caller]
fn check(name: &str, members: &[Member], expect: Result<&str, &str>) {
    let bench = Bench::new();
    let outside = bench.folder.path().join("localetc");
    std::fs::create_dir(&outside).unwrap();
    for file in ["passwd", "group", "unbroken", "emptyfile"] {
        std::fs::write(outside.join(file), file).unwrap();
    }
    let before = canary(&outside);
    let host = canary(Path::new("/etc/passwd"));
    let result = unpack(&bench, members);
    assert_eq!(canary(&outside), before, "{name}");
    assert_eq!(canary(Path::new("/etc/passwd")), host, "{name}");
    let stray: Vec<_> =
        std::fs::read_dir(bench.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(stray.len(), 2, "{name}: {stray:?}");
    match (result, expect) {
        (Ok(layer), Ok(expect)) => {
            let shown = shown_tree(&bench, &layer);
            assert_eq!(shown, expect, "{name}");
            assert_eq!(bench.mounted(&[&layer]), bench.viewed(&[&layer]), "{name}");
        }
        (Err(error), Err(expect)) => {
            assert!(error.to_string().contains(expect), "{name}: {error}");
            assert_eq!(bench.store.ids(), [], "{name}");
            assert_eq!(std::fs::read_dir(&bench.store.path).unwrap().count(), 1, "{name}");
        }
        (result, expect) => panic!("{name}: {result:?}, not {expect:?}"),
    }
}

fn shown_tree(bench: &Bench, layer: &Committed) -> String {
    let tree = bench.store.mount_readonly(&[layer.id]).unwrap().root().unwrap();
    let line = |(path, entry): (&[u8], &crate::Entry)| {
        let name = String::from_utf8_lossy(path);
        match &entry.kind {
            Kind::File { link, .. } => {
                let mut text = String::new();
                tree.open_file(path).unwrap().read_to_string(&mut text).unwrap();
                format!("{name}={text}{}", link.map_or(String::new(), |link| format!("#{link}")))
            }
            Kind::Directory { .. } => format!("{name}/"),
            Kind::Symlink { target } => format!("{name}->{}", String::from_utf8_lossy(target)),
            other => format!("{name}:{other:?}"),
        }
    };
    layer.index.iter().map(line).collect::<Vec<_>>().join(" ")
}

#[test]
fn an_entry_that_means_the_root_never_replaces_it() {
    for path in ["./", "/", ".", "", "//", "a/.."] {
        check("symlink as root", &[symlink("/etc", path), file("f", "f")], Ok("f=f"));
        check("file as root", &[file(path, "x"), file("f", "f")], Ok("f=f"));
        check("link as root", &[file("f", "f"), link("f", path)], Ok("f=f"));
        check("folder as root", &[dir(path), file("f", "f")], Ok("f=f"));
    }
    check("link to the root", &[link("/", "l")], Err("does not exist"));
    check("link to a folder", &[dir("d/"), link("d", "l")], Err("does not exist"));
}

#[test]
fn later_entries_replace_earlier_ones() {
    check(
        "types",
        &[
            file("a", "1"),
            dir("a/"),
            file("a/x", "x"),
            symlink("b", "a"),
            file("a", "2"),
            file("b/c", "c"),
            file("b", "b"),
        ],
        Ok("a=2 b=b"),
    );
    check(
        "a replaced name leaves its other name",
        &[file("a", "1"), link("a", "b"), file("a", "2")],
        Ok("a=2 b=1"),
    );
    check("link to itself", &[file("a", "1"), link("a", "a")], Ok("a=1"));
    check(
        "a link that changes",
        &[dir("x/"), dir("y/"), symlink("x", "l"), file("l/1", ""), symlink("y", "l"), file("l/2", "")],
        Ok("l->y x/ x/1= y/ y/2="),
    );
    check(
        "a link that replaces itself",
        &[dir("d/"), symlink(".", "d/l"), file("d/l/l", "f"), file("d/l/x", "x")],
        Ok("d/ d/l/ d/l/x=x"),
    );
}

#[test]
fn metadata_is_taken_as_it_is() {
    let bench = Bench::new();
    let odd = |path: &str, kind| Member { mode: 0o4711, owner: 4_000_000, mtime: -5, ..member(path, kind) };
    let layer = unpack(
        &bench,
        &[
            Member { mode: 0o3700, owner: 7, mtime: 5, ..dir("d/") },
            Member { text: "x", ..odd("d/f", EntryKind::File { size_bytes: 1 }) },
            odd("d/c", EntryKind::CharDevice { major: 1, minor: 3 }),
            odd("d/b", EntryKind::BlockDevice { major: 8, minor: 300 }),
            odd("d/p", EntryKind::Fifo),
            odd("d/l", EntryKind::Symlink { target: b"\xff" }),
            odd("zero", EntryKind::CharDevice { major: 0, minor: 0 }),
        ],
    )
    .unwrap();
    assert_eq!(layer.index.get(b"zero").map(|entry| &entry.kind), Some(&Kind::Whiteout));
    assert_eq!(bench.mounted(&[&layer]), bench.viewed(&[&layer]));
    assert_eq!(layer.index.get(b"d/f").map(|entry| (entry.mode, entry.uid)), Some((0o4711, 4_000_000)));
}

#[test]
fn attributes_of_the_overlay_are_never_taken_from_a_tar() {
    let bench = Bench::new();
    let value = |text: &str| text.as_bytes().to_vec();
    let xattrs = vec![
        (
            value("security.capability"),
            b"\x01\x00\x00\x02\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".to_vec(),
        ),
        (value("trusted.overlay.opaque"), value("y")),
        (value("trusted.overlay.redirect"), value("/etc")),
        (value("user.kept"), value("a\nb=c")),
        (value("user.overlay.opaque"), value("y")),
    ];
    let members = [Member { xattrs: xattrs.clone(), ..dir("d/") }, Member { xattrs, ..file("d/f", "f") }];
    let base = unpack(&bench, &[dir("d/"), file("d/below", "b")]).unwrap();
    let layer = unpack(&bench, &members).unwrap();
    assert!(bench.mounted(&[&base, &layer]).contains_key("d/below"));
    let tree = bench.store.mount_readonly(&[layer.id]).unwrap().root().unwrap();
    let names = |path: &str| {
        tree.xattrs(path.as_bytes()).unwrap().into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    for path in ["d", "d/f"] {
        assert_eq!(names(path), [value("security.capability"), value("user.kept")], "{path}");
    }
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_of_their_own_layer() {
    let bench = Bench::new();
    let base = unpack(
        &bench,
        &[dir("d/"), file("d/a", ""), file("d/b", ""), dir("e/"), file("e/a", ""), file("f", "")],
    )
    .unwrap();
    let layer = unpack(
        &bench,
        &[
            dir("d/"),
            file("d/.wh.a", ""),
            file("d/c", ""),
            dir("e/"),
            file("e/n", ""),
            file("e/.wh..wh..opq", ""),
            file(".wh.f", ""),
            dir("f/"),
        ],
    )
    .unwrap();
    let stack = [&base, &layer];
    let shown: Vec<String> = bench.mounted(&stack).into_keys().collect();
    assert_eq!(shown, ["d", "d/b", "d/c", "e", "e/n", "f"]);
    assert_eq!(bench.mounted(&stack), bench.viewed(&stack));
}

#[test]
fn a_layer_comes_back_as_it_was_committed() {
    let bench = Bench::new();
    let base = bench.run(
        &[],
        "mkdir -p a/b home && echo x > a/b/x && echo y > y && echo z > a/z && touch -d @5 a/b/x y a/z",
    );
    let layer = bench.run(&[&base], "rm -r a && mkdir a && ln -s x a/s && rm y && echo h > home/h && ln home/h home/i && mkfifo p && touch -h -d @9 a/s a home/h home p");
    let mut bytes = Vec::new();
    bench.store.write_layer(&layer.id, &mut bytes).unwrap();
    let back = bench.store.unpack(&mut &bytes[..], &layer.diff_id).unwrap();
    assert_eq!(back.index, layer.index);
    assert_eq!((back.content, back.tar_bytes), (layer.content, layer.tar_bytes));
    assert_eq!(bench.mounted(&[&base, &back]), bench.mounted(&[&base, &layer]));
    let mut again = Vec::new();
    bench.store.write_layer(&back.id, &mut again).unwrap();
    assert!(again == bytes);
    assert_eq!(names(&back), names(&layer));
}

#[test]
fn every_byte_of_the_stream_counts() {
    let bench = Bench::new();
    let mut bytes = tar(&[file("f", "f")]);
    let digest = DiffId(Digest::of(&bytes));
    bytes.extend_from_slice(b"more");
    let error = bench.store.unpack(&mut &bytes[..], &digest).unwrap_err();
    assert!(matches!(error, SnapshotError::WrongDiffId { .. }), "{error}");
    assert!(bench.store.unpack(&mut &bytes[..], &DiffId(Digest::of(&bytes))).is_ok());
    for cut in [0, 100, 512, 600] {
        let error = bench.store.unpack(&mut &bytes[..cut], &digest);
        assert!(error.is_err(), "{cut}");
    }
    assert_eq!(bench.store.ids().len(), 1);
}

#[test]
fn implied_directories_and_links_to_below_are_settled() {
    let bench = Bench::new();
    let base = bench.run(&[], "mkdir -p var/lib && chmod 2750 var/lib && chown 3:4 var && echo t > var/t && touch -d @77 var/lib var var/t");
    let layer =
        unpack(&bench, &[file("var/lib/new", "n"), link("var/t", "var/u"), file("own/x", "")]).unwrap();
    assert_eq!(layer.implied, [b"own".to_vec(), b"var".to_vec(), b"var/lib".to_vec()]);
    let settled = bench.store.settle(&layer.id, &[base.id]).unwrap();
    let shown = bench.mounted(&[&base, &settled]);
    assert!(shown["var/lib"].starts_with("dir 2750 0:0 (77, 0)"), "{}", shown["var/lib"]);
    assert!(shown["var"].starts_with("dir 755 3:4 (77, 0)"), "{}", shown["var"]);
    assert!(shown["var/u"].starts_with(&Digest::of(b"t\n").to_string()), "{}", shown["var/u"]);
    assert_eq!(shown, bench.viewed(&[&base, &settled]));
    assert_eq!(bench.store.index(&layer.id).unwrap(), settled.index);
    let dangling = unpack(&bench, &[link("none", "l")]).unwrap();
    let error = bench.store.settle(&dangling.id, &[base.id]).unwrap_err();
    assert!(matches!(error, SnapshotError::DanglingHardlink { .. }), "{error}");
}

#[test]
fn archives_through_absolute_links_and_out_of_order_work() {
    check(
        "usr merge",
        &[
            symlink("/usr/lib", "lib"),
            file("lib/a.so", "a"),
            dir("usr/"),
            dir("usr/lib/"),
            link("lib/a.so", "usr/b.so"),
        ],
        Ok("lib->/usr/lib usr/ usr/b.so=a#1 usr/lib/ usr/lib/a.so=a#1"),
    );
    check("loop", &[symlink("loop", "loop"), file("loop/x", "")], Err("too many links"));
}

/// Another process renames and swaps in links while a layer is unpacked: nothing may get out.
#[test]
fn a_racing_renamer_leads_nothing_out() {
    let bench = Bench::new();
    let outside = bench.folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("f0"), "untouched").unwrap();
    let before = canary(&outside);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for id in std::fs::read_dir(&bench.store.path).unwrap().flatten() {
                    let folder = id.path().join("fs/d");
                    let away = id.path().join("fs/away");
                    if std::fs::rename(&folder, &away).is_ok() {
                        let _ = std::os::unix::fs::symlink(&outside, &folder);
                        let _ = std::fs::remove_file(&folder);
                        let _ = std::fs::rename(&away, &folder);
                    }
                }
            }
        });
        for _ in 0..60 {
            let mut members = vec![dir("d/"), dir("e/")];
            for n in 0..40 {
                members.push(file(&format!("d/f{n}"), "x"));
                members.push(file(&format!("e/g{n}"), "x"));
            }
            let _ = unpack(&bench, &members);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(canary(&outside), before);
}

/// Not a claim but a measure: `cargo test --release -- --ignored --nocapture speed`.
#[test]
#[ignore = "a measure, not a claim"]
#[allow(clippy::print_stderr)]
fn speed_of_unpack() {
    let bench = Bench::new();
    let active = bench.store.prepare().unwrap();
    let root = bench.store.path.join(active.id().to_string()).join("fs");
    for n in 0..7_600 {
        let folder = root.join(format!("d{}", n / 20));
        if n % 20 == 0 {
            std::fs::create_dir(&folder).unwrap();
        }
        std::fs::write(folder.join(format!("f{n}")), vec![n as u8; 20_400]).unwrap();
    }
    let layer = bench.store.commit(active, &[], &crate::CommitOptions::default()).unwrap();
    let mut bytes = Vec::new();
    bench.store.write_layer(&layer.id, &mut bytes).unwrap();
    for _ in 0..3 {
        let start = std::time::Instant::now();
        let back = bench.store.unpack(&mut &bytes[..], &layer.diff_id).unwrap();
        eprintln!("unpack of {} entries, {} bytes: {:?}", back.index.len(), bytes.len(), start.elapsed());
        bench.store.remove(&back.id).unwrap();
    }
}
