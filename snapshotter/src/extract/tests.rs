//! Claims about unpacking: the results of BuildKit rebuilt with archives of other tools, and breakouts.

use super::*;
use crate::tree::NodeType;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;

/// What scripts that make an archive start with: `put` adds a member to `out`.
const PRELUDE: &str = r#"
import io, sys, tarfile
KINDS = {"file": b"0", "hard": b"1", "link": b"2", "char": b"3", "block": b"4", "dir": b"5", "fifo": b"6"}
out = tarfile.open(sys.argv[1], "w", format=tarfile.PAX_FORMAT)
def put(name, kind="file", body=b"", to="", mode=0o644, owner=0, when=1500000000, pax={}, device=(0, 0)):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode, member.mtime = KINDS[kind], to, mode, when
    member.uid = member.gid = owner
    member.size, member.pax_headers = len(body), pax
    member.devmajor, member.devminor = device
    out.addfile(member, io.BytesIO(body))
"#;

/// A folder with a tree `root`, and beside it what nothing may touch.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench { folder: tempfile::tempdir().unwrap() };
        bench.shell(
            "mkdir root outside; chmod 755 root outside; echo alive > outside/canary; chmod 640 outside/canary",
        );
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tree(&self) -> Tree {
        Tree::open(&self.path("root")).unwrap()
    }

    fn shell(&self, script: &str) {
        run(Command::new("sh").args(["-ec", script]).current_dir(self.folder.path()));
    }

    /// Makes the archive `a.tar` with Python's tarfile.
    fn python(&self, script: &str) {
        let script = format!("{PRELUDE}{script}\nout.close()\n");
        run(Command::new("python3").args(["-c", &script, "a.tar"]).current_dir(self.folder.path()));
    }

    /// What a script makes in a folder, packed with GNU tar.
    fn packed(&self, script: &str, name: &str) {
        self.shell(&format!("mkdir in; cd in; {script}"));
        self.shell(&format!("tar -C in --numeric-owner -caf {name} ."));
    }

    fn extract(&self, name: &str, dest: &str, options: &ExtractOptions) -> Result<bool, SnapshotError> {
        extract_archive(File::open(self.path(name)).unwrap(), &self.tree(), dest.as_bytes(), options)
    }

    fn add(&self, dest: &str) {
        assert!(self.extract("a.tar", dest, &ExtractOptions::default()).unwrap());
    }

    fn refusal(&self, dest: &str) -> String {
        self.extract("a.tar", dest, &ExtractOptions::default()).unwrap_err().to_string()
    }

    /// All of the tree, a line each: path, mode and owner, and the content.
    fn listing(&self) -> Vec<String> {
        let (tree, mut lines, mut todo) = (self.tree(), Vec::new(), vec![Vec::new()]);
        while let Some(folder) = todo.pop() {
            for (name, stat) in tree.scan(&folder).unwrap() {
                let path = below(&folder, &name);
                let what = match stat.kind {
                    NodeType::Directory => "dir".to_owned(),
                    NodeType::Symlink => {
                        format!("-> {}", String::from_utf8_lossy(&tree.read_link(&path).unwrap()))
                    }
                    NodeType::File => {
                        let mut text = String::new();
                        tree.open_file(&path).unwrap().read_to_string(&mut text).unwrap();
                        format!("`{text}`")
                    }
                    kind => format!("{kind:?} {:?}", stat.special),
                };
                let mode = if stat.kind == NodeType::Symlink { 0o777 } else { stat.mode };
                let path_text = String::from_utf8_lossy(&path);
                lines.push(format!("{path_text} {mode:o} {}:{} {what}", stat.uid, stat.gid));
                if stat.kind == NodeType::Directory {
                    todo.push(path);
                }
            }
        }
        lines.sort();
        lines
    }

    fn mtime(&self, path: &str) -> i64 {
        self.tree().stat(path.as_bytes(), false).unwrap().mtime.0
    }

    /// What would tell that the folder outside was touched: inode changes, names and content.
    fn outside(&self) -> String {
        let names = self.path("outside").read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        let names: Vec<_> = names.collect();
        let changed = ["outside", "outside/canary"].map(|name| {
            let stat = self.path(name).symlink_metadata().unwrap();
            (stat.ino(), stat.nlink(), stat.mode(), stat.uid(), stat.ctime(), stat.ctime_nsec())
        });
        format!("{names:?} {changed:?} {}", std::fs::read_to_string(self.path("outside/canary")).unwrap())
    }
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An image with links, as the conformance cases have it.
const RICH: &str = "cd root; mkdir -p data/real var/www opt; ln -s data/real link; ln -s /data/real abslink; \
    ln -s data/real/kept.txt filelink; ln -s nowhere/at/all dangling; ln -s loop loop; \
    echo kept > data/real/kept.txt; echo old > var/www/old.html; echo tool > opt/tool; \
    chmod 750 data/real; chmod 4755 opt/tool; chgrp 33 var/www; chmod 2775 var/www";

fn check(image: &str, archive: &str, dest: &str, expect: &[&str]) {
    let bench = Bench::new();
    bench.shell(image);
    let before = bench.listing();
    bench.python(archive);
    bench.add(dest);
    let mut changed = bench.listing();
    changed.retain(|line| !before.contains(line));
    assert_eq!(changed, expect, "{archive}");
}

#[test]
fn every_compression_is_recognised_by_content_alone() {
    for suffix in ["tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"] {
        let bench = Bench::new();
        let archive = format!("a.{suffix}");
        let files = "mkdir in; echo content > in/f.txt; ln -s f.txt in/l; chmod 640 in/f.txt; chmod 750 in; \
            chown -h 3:3 in in/f.txt in/l";
        bench.packed(files, &archive);
        bench.shell(&format!("mv {archive} picture.jpg"));
        assert!(bench.extract("picture.jpg", "/out/", &ExtractOptions::default()).unwrap(), "{suffix}");
        assert_eq!(
            bench.listing(),
            [
                "out 755 0:0 dir",
                "out/in 750 3:3 dir",
                "out/in/f.txt 640 3:3 `content\n`",
                "out/in/l 777 3:3 -> f.txt"
            ]
        );
    }
}

#[test]
fn what_is_no_archive_is_left_alone() {
    for make in [
        "echo hello | gzip > a.tar",
        "echo hello | xz > a.tar",
        "echo hello > a.tar",
        ": > a.tar",
        "head -c 10240 /dev/zero > a.tar",
        "printf 'PK\\003\\004 zip' > a.tar",
        // Too short for its first header, and for the extended header that it starts with.
        "mkdir in; tar -C in -cf - . | head -c 500 > a.tar",
        "mkdir in; tar -C in --format=pax --pax-option=a:=b -cf - . | head -c 600 > a.tar",
        "mkdir in; tar -C in -czf - . | head -c 30 > a.tar",
    ] {
        let bench = Bench::new();
        bench.shell(make);
        let archive = bench.extract("a.tar", "/out/", &ExtractOptions::default());
        assert!(!archive.unwrap(), "{make}");
        assert_eq!(bench.listing(), Vec::<String>::new(), "{make}");
    }
}

#[test]
fn the_destination_is_a_folder_with_or_without_slash() {
    for dest in ["x/noslash", "/x/noslash/", "./x/../x/noslash"] {
        let made = ["x 755 0:0 dir", "x/noslash 755 0:0 dir", "x/noslash/f 644 9:9 `dest`"];
        check(":", r#"put("f", body=b"dest", owner=9)"#, dest, &made);
    }
    check(":", r#"put("f", body=b"dest", owner=9)"#, "/", &["f 644 9:9 `dest`"]);
}

#[test]
fn a_destination_that_is_a_file_is_an_error() {
    let bench = Bench::new();
    bench.shell(RICH);
    bench.python(r#"put("f")"#);
    for dest in ["/opt/tool", "/filelink", "/opt/tool/below"] {
        assert!(bench.refusal(dest).ends_with("not a directory"), "{dest}");
    }
}

#[test]
fn the_owner_given_holds_for_all_entries_and_the_destination_but_not_for_implied_folders() {
    let bench = Bench::new();
    bench.python(
        r#"
put("d", "dir", mode=0o755, owner=3); put("d/f", body=b"chown", owner=4, mode=0o4711); put("l", "link", to="d")
put("h", "hard", to="d/f"); put("no/entry/f")"#,
    );
    let options = ExtractOptions { owner: Some((1000, 50)), ..ExtractOptions::default() };
    assert!(bench.extract("a.tar", "/new/out/", &options).unwrap());
    assert_eq!(
        bench.listing(),
        [
            "new 755 1000:50 dir",
            "new/out 755 1000:50 dir",
            "new/out/d 755 1000:50 dir",
            "new/out/d/f 644 1000:50 `chown`",
            "new/out/h 644 1000:50 `chown`",
            "new/out/l 777 1000:50 -> d",
            "new/out/no 755 0:0 dir",
            "new/out/no/entry 755 0:0 dir",
            "new/out/no/entry/f 644 1000:50 ``",
        ]
    );
}

#[test]
fn an_entry_dot_has_no_say_in_the_destination_but_a_slash_has() {
    let unchanged = ["new 755 0:0 dir", "new/f 644 0:0 `dot`"];
    for dot in [".", "./", "a/..", "./."] {
        let archive = format!(r#"put("{dot}", "dir", mode=0o2711, owner=21); put("./f", body=b"dot")"#);
        check(":", &archive, "/new/", &unchanged);
    }
    check(":", r#"put(".", "link", to="/etc"); put("f", body=b"dot")"#, "/new/", &unchanged);
    for root in ["/", "..", "/.", "../..", "//"] {
        let archive = format!(r#"put("{root}", "dir", mode=0o2711, owner=21, when=77)"#);
        check(":", &archive, "/new/", &["new 2711 21:21 dir"]);
    }
}

#[test]
fn a_destination_is_never_replaced() {
    for kind in [r#""link", to="/""#, r#""file", body=b"x""#, r#""hard", to="f""#, r#""fifo""#] {
        let bench = Bench::new();
        bench.python(&format!(r#"put("f"); put("/", {kind})"#));
        assert_eq!(bench.refusal("/out"), "cannot replace directory /out with file");
        assert_eq!(bench.listing(), ["out 755 0:0 dir", "out/f 644 0:0 ``"]);
    }
}

#[test]
fn names_that_climb_out_stay_below_the_destination() {
    let archive = r#"put("ok", body=b"1"); put("../up", body=b"2"); put("a/../../../b", body=b"3"); put("/abs", body=b"4")"#;
    let inside = [
        "out 755 0:0 dir",
        "out/abs 644 0:0 `4`",
        "out/b 644 0:0 `3`",
        "out/ok 644 0:0 `1`",
        "out/up 644 0:0 `2`",
    ];
    check(":", archive, "/out/", &inside);
}

#[test]
fn a_later_archive_replaces_the_files_of_an_earlier_one() {
    let bench = Bench::new();
    for archive in [r#"put("both", body=b"a"); put("a")"#, r#"put("both", body=b"b"); put("b")"#] {
        bench.python(archive);
        bench.add("/out/");
    }
    let both = ["out 755 0:0 dir", "out/a 644 0:0 ``", "out/b 644 0:0 ``", "out/both 644 0:0 `b`"];
    assert_eq!(bench.listing(), both);
}

#[test]
fn entries_go_through_a_link_of_the_image_and_so_does_the_destination() {
    check(RICH, r#"put("link/g", body=b"too")"#, "/", &["data/real/g 644 0:0 `too`"]);
    let below = ["data/real/link 755 0:0 dir", "data/real/link/f 644 0:0 `through`"];
    check(RICH, r#"put("link/f", body=b"through")"#, "/abslink/", &below);
    check(
        RICH,
        r#"put("f")"#,
        "/dangling",
        &[
            "nowhere 755 0:0 dir",
            "nowhere/at 755 0:0 dir",
            "nowhere/at/all 755 0:0 dir",
            "nowhere/at/all/f 644 0:0 ``",
        ],
    );
}

#[test]
fn a_link_in_the_destination_takes_the_destination_for_its_root() {
    let image = "mkdir -p root/out/etc root/etc; ln -s /etc root/out/link";
    check(image, r#"put("link/f")"#, "/out", &["out/etc/f 644 0:0 ``"]);
}

#[test]
fn a_folder_entry_replaces_a_link_to_a_folder() {
    let archive = r#"put("link/", "dir", mode=0o711); put("link/f", body=b"below")"#;
    check(RICH, archive, "/", &["link 711 0:0 dir", "link/f 644 0:0 `below`"]);
}

#[test]
fn entries_below_a_link_to_nowhere_are_an_error() {
    for name in ["dangling/f", "dangling/a/f", "loop/f", "filelink/f", "opt/tool/f"] {
        let bench = Bench::new();
        bench.shell(RICH);
        let before = bench.listing();
        bench.python(&format!(r#"put("{name}")"#));
        bench.refusal("/");
        assert_eq!(bench.listing(), before, "{name}");
    }
}

#[test]
fn an_entry_replaces_what_has_another_type() {
    let archive = r#"
put("filelink", body=b"file over link"); put("opt/tool", "link", to="new")
put("data/real/kept.txt", "dir", mode=0o755); put("var/www", body=b"file over folder")"#;
    let changed = [
        "data/real/kept.txt 755 0:0 dir",
        "filelink 644 0:0 `file over link`",
        "opt/tool 777 0:0 -> new",
        "var/www 644 0:0 `file over folder`",
    ];
    check(RICH, archive, "/", &changed);
    let repeated = r#"
put("x"); put("x", "dir", mode=0o700); put("x/y"); put("x", "link", to="f"); put("x", "fifo"); put("x", body=b"last")"#;
    check(":", repeated, "/", &["x 644 0:0 `last`"]);
}

#[test]
fn a_folder_that_is_there_takes_the_metadata_of_its_entry_and_keeps_its_content() {
    let archive = r#"put("var/www", "dir", mode=0o1700, owner=5, when=99)"#;
    check(RICH, archive, "/", &["var/www 1700 5:5 dir"]);
}

#[test]
fn implied_folders_are_made_for_root_and_keep_an_inherited_group_bit() {
    let made = ["var/www/new 2755 0:0 dir", "var/www/new/deep 2755 0:0 dir", "var/www/new/deep/f 644 0:0 ``"];
    check(RICH, r#"put("var/www/new/deep/f")"#, "/", &made);
    check(
        ":",
        r#"put("a/b/c", "dir", mode=0o700)"#,
        "/",
        &["a 755 0:0 dir", "a/b 755 0:0 dir", "a/b/c 700 0:0 dir"],
    );
}

#[test]
fn special_modes_links_devices_and_pipes_are_kept() {
    let archive = r#"
put("suid", mode=0o4755, owner=7); put("sgid", "dir", mode=0o2775); put("sticky", "dir", mode=0o1777)
put("hard", "hard", to="./suid", mode=0o4755, owner=7); put("abs", "link", to="/etc/../x", owner=8)
put("climbing", "link", to="../../..", owner=8); put("tty", "char", device=(5, 0), mode=0o620)
put("disk", "block", device=(8, 1), mode=0o660); put("pipe", "fifo", mode=0o600)
put("linklink", "hard", to="abs", owner=9, mode=0o777)"#;
    let made = [
        "abs 777 9:9 -> /etc/../x",
        "climbing 777 8:8 -> ../../..",
        "disk 660 0:0 BlockDevice (8, 1)",
        "hard 4755 7:7 ``",
        "linklink 777 9:9 -> /etc/../x",
        "pipe 600 0:0 Fifo (0, 0)",
        "sgid 2775 0:0 dir",
        "sticky 1777 0:0 dir",
        "suid 4755 7:7 ``",
        "tty 620 0:0 CharDevice (5, 0)",
    ];
    check(":", archive, "/", &made);
}

#[test]
fn a_hard_link_may_mean_a_file_of_the_image_but_none_that_is_missing() {
    let bench = Bench::new();
    bench.shell(RICH);
    bench.python(r#"put("h", "hard", to="/opt/../opt/tool", mode=0o600, owner=6)"#);
    bench.add("/");
    let (tool, link) =
        (bench.tree().stat(b"opt/tool", false).unwrap(), bench.tree().stat(b"h", false).unwrap());
    assert_eq!((tool.inode, tool.mode, tool.uid, tool.links), (link.inode, 0o600, 6, 2));
    for target in ["absent", "opt/absent", "absent/tool", "opt/tool/x", "h2", "..", "."] {
        bench.python(&format!(r#"put("h2", "hard", to="{target}")"#));
        assert_eq!(bench.refusal("/"), format!("`/h2` is a hard link to `{target}`, which does not exist"));
    }
    bench.python(r#"put("h2", "hard", to="opt")"#);
    assert!(bench.refusal("/").starts_with("cannot link /h2: Operation not permitted"));
}

#[test]
fn what_overlayfs_takes_for_a_deleted_file_is_not_made() {
    let bench = Bench::new();
    bench.python(r#"put("f"); put("gone", "char", device=(0, 0))"#);
    assert!(bench.refusal("/").starts_with("cannot make /gone: "));
    assert_eq!(bench.listing(), ["f 644 0:0 ``"]);
}

#[test]
fn names_of_whiteouts_are_names_like_others() {
    let archive = r#"put(".wh.opt"); put("var/www/.wh..wh..opq"); put("var/.wh...")"#;
    let made = [".wh.opt 644 0:0 ``", "var/.wh... 644 0:0 ``", "var/www/.wh..wh..opq 644 0:0 ``"];
    check(RICH, archive, "/", &made);
}

#[test]
fn times_are_those_of_the_archive_also_of_folders_that_grow_later() {
    let bench = Bench::new();
    bench.python(
        r#"
put("d", "dir", when=1000000001); put("d/e", "dir", when=1000000002); put("d/f", when=1000000003.25)
put("l", "link", to="d", when=1000000004); put("d/e/late"); put("d/late"); put("early", when=-5)
put("far", when=9223372037); put("gone", "dir", when=5); put("gone", body=b"now a file", when=6)"#,
    );
    bench.add("/");
    let times = ["d", "d/e", "d/f", "l", "early", "far", "gone"].map(|path| bench.mtime(path));
    assert_eq!(times, [1_000_000_001, 1_000_000_002, 1_000_000_003, 1_000_000_004, 0, 0, 6]);
    assert_eq!(bench.tree().stat(b"d/f", false).unwrap().mtime.1, 250_000_000);
}

#[test]
fn a_time_given_is_that_of_folders_made_without_an_entry() {
    let bench = Bench::new();
    bench.shell("mkdir root/there; touch -d @5 root/there");
    bench.python(r#"put("implied/deep/f"); put("own", "dir", when=9); put("own/f"); put("own/too/f")"#);
    let options = ExtractOptions { mtime: Some((7, 0)), ..ExtractOptions::default() };
    assert!(bench.extract("a.tar", "/there/x/y", &options).unwrap());
    let times = ["x", "x/y", "x/y/implied", "x/y/implied/deep", "x/y/own/too", "x/y/own", "x/y/own/f"];
    let times = times.map(|path| bench.mtime(&format!("there/{path}")));
    assert_eq!(times, [7, 7, 7, 7, 7, 9, 1_500_000_000]);
    assert!(bench.mtime("there") > 7);
}

#[test]
fn more_folders_than_are_remembered_get_their_times_from_a_second_reading() {
    let bench = Bench::new();
    bench.python(
        r#"
for i in range(20): put("d%d" % i, "dir", when=100 + i)
for i in range(20): put("d%d/f" % i)
put("./", "dir", when=3)"#,
    );
    let (file, options) = (File::open(bench.path("a.tar")).unwrap(), ExtractOptions::default());
    let (mut archive, first) = open_archive(&file).unwrap().unwrap();
    let times = DirectoryTimes { known: BTreeMap::new(), bytes: 0, max: 3 * TIME_BYTES, complete: true };
    let mut extractor =
        Extractor { root: bench.tree(), dest: Vec::new(), options: &options, times, buffer: vec![0; 512] };
    extractor.all(&mut archive, first).unwrap();
    assert_eq!((extractor.times.known.len(), extractor.times.complete), (2, false));
    extractor.set_times(&file).unwrap();
    for i in 0..20 {
        assert_eq!(bench.mtime(&format!("d{i}")), 100 + i);
    }
    assert!(bench.mtime("") > 3);
}

#[test]
fn extended_attributes_are_kept_but_for_those_of_the_overlay() {
    let bench = Bench::new();
    bench.python(
        r#"
x = {"SCHILY.xattr.user.note": "kept", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.nowhere": "x"}
put("d", "dir", pax=x); put("f", pax=x, mode=0o400); put("l", "link", to="f", pax=x); put("p", "fifo", pax=x)
cap = bytes([1, 0, 0, 2, 0, 4] + [0] * 14).decode()
put("ping", owner=5, mode=0o755, pax={"SCHILY.xattr.security.capability": cap})"#,
    );
    bench.add("/");
    let tree = bench.tree();
    let kept = vec![(b"user.note".to_vec(), b"kept".to_vec())];
    let raw = |path: &[u8]| {
        let (dir, name) = tree.split(path).unwrap();
        node::xattrs_at(dir, &name.unwrap()).unwrap()
    };
    assert_eq!((raw(b"d"), raw(b"f"), raw(b"l"), raw(b"p")), (kept.clone(), kept, vec![], vec![]));
    assert_eq!(raw(b"ping").len(), 1);
    bench.python(r#"put("ping", pax={"SCHILY.xattr.security.capability": "no"})"#);
    assert!(bench.refusal("/").starts_with("cannot change /ping: "));
}

#[test]
fn files_with_holes_keep_them() {
    for format in ["gnu --sparse", "pax --sparse --sparse-version=0.0", "pax --sparse --sparse-version=1.0"] {
        let bench = Bench::new();
        bench.shell("mkdir in; truncate -s 3M in/f; printf end >> in/f; truncate -s 5M in/f; : > in/g");
        bench.shell(&format!("tar -C in --format={format} -cf a.tar f g"));
        bench.add("/");
        let stat = bench.path("root/f").metadata().unwrap();
        assert!(stat.size() == 5 << 20 && stat.blocks() * 512 < 1 << 20, "{format}");
        bench.shell("cmp in/f root/f");
    }
    let bench = Bench::new();
    bench.python(
        r#"
put("huge", pax={"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 62)})"#,
    );
    assert!(bench.refusal("/").starts_with("cannot write /huge: No space left"));
}

#[test]
fn an_archive_that_ends_too_early_is_an_error_that_says_so() {
    let whole = Bench::new();
    whole.shell("head -c 3000000 /dev/urandom > f; tar -cf whole.tar f");
    let whole = std::fs::read(whole.path("whole.tar")).unwrap();
    for pack in ["cat", "gzip", "bzip2", "xz", "zstd -q"] {
        let bench = Bench::new();
        std::fs::write(bench.path("whole.tar"), &whole).unwrap();
        bench.shell(&format!("{pack} < whole.tar > packed; head -c 2000000 packed > a.tar"));
        assert_eq!(bench.refusal("/out"), "cannot unpack /out/f: the archive is truncated", "{pack}");
    }
    let bench = Bench::new();
    bench.python(r#"put("f", body=b"x" * 100); put("g", body=b"y" * 100)"#);
    bench.shell("truncate -s 1300 a.tar");
    assert_eq!(bench.refusal("/out"), "the archive is truncated");
}

#[test]
fn damage_in_the_compressed_bytes_is_an_error_that_says_so() {
    for pack in ["gzip", "bzip2", "xz", "zstd -q"] {
        let bench = Bench::new();
        bench.shell("head -c 3000000 /dev/urandom | base64 > f; tar -cf whole.tar f");
        bench.shell(&format!("{pack} < whole.tar > a.tar"));
        bench.shell("dd if=/dev/zero of=a.tar bs=1000 seek=2000 count=1 conv=notrunc status=none");
        let refusal = bench.refusal("/out");
        assert!(refusal.contains("the archive is corrupt: "), "{pack}: {refusal}");
    }
    let bench = Bench::new();
    bench.shell("echo content > f; tar -czf a.tar f; truncate -s -4 a.tar");
    assert_eq!(bench.refusal("/out"), "the archive is truncated");
    bench.shell("tar -cf a.tar f; echo behind the end >> a.tar");
    bench.add("/out");
}

#[test]
fn a_pax_header_for_all_members_is_no_member() {
    let bench = Bench::new();
    bench.shell("mkdir in; touch in/f; tar -C in --format=pax --pax-option=comment=x -cf a.tar f");
    bench.add("/");
    assert_eq!(bench.listing().len(), 1);
}

#[test]
fn names_need_not_be_text() {
    let bench = Bench::new();
    bench.packed(r#"touch "$(printf 'caf\351')"; touch "$(printf 'line\nfeed')""#, "a.tar");
    bench.add("/");
    let names = bench.tree().read_dir(b"").unwrap();
    assert_eq!(names.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), [&b"caf\xe9"[..], b"line\nfeed"]);
}

/// The ways out that containerd's tests know by these names, and some of umoci's; `{}` is a folder
/// outside, and `UP` more than enough to climb to it.
const BREAKOUTS: &[(&str, &str)] = &[
    ("SymlinkAbsolute", r#"put("e", "link", to="{}"); put("e/canary", body=b"dead")"#),
    ("SymlinkUpAndOut", r#"put("e", "link", to=UP + "{}"); put("e/canary", body=b"dead")"#),
    (
        "SymlinkMultipleAbsolute",
        r#"put("a", "link", to="{}"); put("b", "link", to="/a"); put("b/canary", body=b"dead")"#,
    ),
    (
        "SymlinkMultipleRelative",
        r#"put("a", "link", to=UP + "{}"); put("b", "link", to="./a"); put("b/canary", body=b"dead")"#,
    ),
    ("SymlinkEmptyFile", r#"put("e", "link", to="{}/new"); put("e", body=b"")"#),
    (
        "HardlinkRelative",
        r#"put("l", "link", to=UP + "{}"); put("h", "hard", to="l/canary"); put("h", body=b"dead")"#,
    ),
    ("HardlinkDownAndOut", r#"put("d", "dir"); put("h", "hard", to="d/" + UP + "{}/canary", mode=0o777)"#),
    ("HardlinkAbsolute", r#"put("l", "link", to="{}"); put("h", "hard", to="l/canary", mode=0o777)"#),
    (
        "HardlinkRelativeLong",
        r#"put("d/l", "link", to="../" + UP + "{}"); put("h", "hard", to="d/l/canary", owner=7)"#,
    ),
    ("HardlinkRelativeUpAndOut", r#"put("h", "hard", to=UP + "{}/canary", owner=7)"#),
    ("HardlinkDirectRelative", r#"put("h", "hard", to="../outside/canary", mode=0o777)"#),
    ("HardlinkDirectAbsolute", r#"put("h", "hard", to="{}/canary", mode=0o777)"#),
    ("SymlinkParentDirectory", r#"put("..", "link", to="{}"); put("../canary", body=b"dead")"#),
    ("SymlinkEmptyFilename", r#"put("", "link", to="{}"); put("canary", body=b"dead")"#),
    ("SymlinkParentRelative", r#"put("d/../..", "link", to="{}"); put("x/../../canary", body=b"dead")"#),
    ("SymlinkSlashEnded", r#"put("e/", "link", to="{}/"); put("e/canary", body=b"dead")"#),
    (
        "SymlinkOverrideDirectory",
        r#"put("e", "dir"); put("e", "link", to="{}"); put("e/canary", body=b"dead")"#,
    ),
    (
        "SymlinkOverrideDirectoryRelative",
        r#"put("a/e", "dir"); put("a/e", "link", to="../" + UP + "{}"); put("a/e/canary", body=b"dead")"#,
    ),
    ("DirectoryOverrideSymlink", r#"put("e", "link", to="{}"); put("e", "dir", mode=0o777, owner=7)"#),
    (
        "DirectoryOverrideSymlinkAndHardlink",
        r#"put("e", "link", to="{}"); put("h", "hard", to="e"); put("h", "dir", mode=0o777); put("e", "dir", owner=7)"#,
    ),
    ("WhiteoutRootParent", r#"put(".wh...")"#),
    ("WhiteoutParent", r#"put("e/.wh...")"#),
    ("WhiteoutRoot", r#"put(".wh..")"#),
    ("WhiteoutCurrentDirectory", r#"put("e/.wh..")"#),
    ("WhiteoutSymlink", r#"put("e", "link", to="{}/canary"); put(".wh.e")"#),
    ("WhiteoutSymlinkPath", r#"put("e", "link", to="{}"); put("e/.wh.canary")"#),
    ("WhiteoutDirectoryName", r#"put(".wh.dir/canary"); put("{}/.wh.canary")"#),
    ("WhiteoutDeadSymlinkParent", r#"put("e", "link", to="nowhere"); put("e/.wh.canary")"#),
    ("WhiteoutRelativePath", r#"put("e/" + UP + "{}/.wh.canary")"#),
    (
        "SymlinkOverridePath",
        r#"put("e/x"); put("e", "link", to="{}"); put("e/x/y"); put("e/canary", body=b"dead")"#,
    ),
    (
        "HardlinkSymlinkBeforeCreateTarget",
        r#"put("l", "link", to="{}/new"); put("h", "hard", to="l"); put("h", body=b"dead")"#,
    ),
    (
        "HardlinkSymlinkRelative",
        r#"put("l", "link", to=UP + "{}/canary"); put("h", "hard", to="l", mode=0o777, owner=7)"#,
    ),
    (
        "HardlinkSymlinkAbsolute",
        r#"put("l", "link", to="{}/canary"); put("h", "hard", to="l", owner=7, when=1)"#,
    ),
    (
        "HardlinkSymlinkChmod",
        r#"put("l", "link", to="{}/canary"); put("h", "hard", to="l", mode=0o4777, pax={"SCHILY.xattr.user.x": "y"})"#,
    ),
    ("RootAsSymlink", r#"put("/", "link", to="{}"); put("/canary", body=b"dead")"#),
    ("DotAsSymlink", r#"put(".", "link", to="{}"); put("./canary", body=b"dead")"#),
    ("DotAsHardlink", r#"put(".", "hard", to="{}/canary")"#),
    ("LinkMadeAFolderByTimes", r#"put("d", "dir", when=1); put("d", "link", to="{}", when=2)"#),
    (
        "FolderAboveMadeALink",
        r#"put("a/outside", "dir", when=1); put("a", "link", to="..", when=2); put("b", "link", to="{}/.."); put("b/outside/canary", body=b"dead")"#,
    ),
    ("Proc", r#"put("e", "link", to="/proc/self/root"); put("e/{}/canary", body=b"dead"); put("e/x")"#),
];

#[test]
fn no_archive_leads_out_of_the_tree() {
    let bench = Bench::new();
    let outside = bench.path("outside").display().to_string();
    let mut scripts = "UP = '../' * 30\n".to_owned();
    for (at, (_, script)) in BREAKOUTS.iter().enumerate() {
        let script = script.replace("{}", &outside);
        scripts += &format!(
            "out.close(); out = tarfile.open('{at}.tar', 'w', format=tarfile.PAX_FORMAT)\n{script}\n"
        );
    }
    bench.python(&scripts);
    let names = || bench.folder.path().read_dir().unwrap().count();
    let before = (bench.outside(), names());
    for (at, (name, _)) in BREAKOUTS.iter().enumerate() {
        for dest in ["/", "/out", "/link"] {
            std::fs::remove_dir_all(bench.path("root")).unwrap();
            std::fs::create_dir(bench.path("root")).unwrap();
            std::os::unix::fs::symlink(&outside, bench.path("root/link")).unwrap();
            let done = bench.extract(&format!("{at}.tar"), dest, &ExtractOptions::default());
            assert_eq!((bench.outside(), names()), before, "{name} to {dest}: {done:?}");
        }
    }
}

#[test]
fn over_layers_an_archive_changes_only_what_it_names() {
    let store = crate::testing::Bench::new();
    let rich = store.run(&[], &format!("mkdir root; {RICH}; cd ..; mv root/* .; rmdir root"));
    let bench = Bench::new();
    bench.python(
        r#"
put("filelink", body=b"file over link"); put("opt/tool", "link", to="new"); put("var/www", body=b"file over folder")
put("data/real/kept.txt", "dir", mode=0o755); put("link/", "dir", mode=0o711); put("link/f", body=b"below")
put("abslink/g"); put("hard", "hard", to="data/real/g")"#,
    );
    let active = store.store.prepare().unwrap();
    let mount = store.store.mount(&[rich.id], &active).unwrap();
    let file = File::open(bench.path("a.tar")).unwrap();
    assert!(extract_archive(file, &mount.root().unwrap(), b"/", &ExtractOptions::default()).unwrap());
    drop(mount);
    let options = crate::CommitOptions::default();
    let layer = store.store.commit(active, &[rich.id], &options).unwrap();
    let changed = crate::testing::names(&layer);
    let parents = ["data", "data/real", "opt", "var"];
    let expect =
        ["data/real/g", "data/real/kept.txt", "filelink", "hard", "link", "link/f", "opt/tool", "var/www"];
    let mut expect: Vec<&str> = [&expect[..], &parents].concat();
    expect.sort_unstable();
    assert_eq!(changed, expect);
    assert_eq!(store.viewed(&[&rich, &layer]), store.mounted(&[&rich, &layer]));
}
