//! Claims about manifests: what is refused, and that bytes stay what they are.

use super::*;

fn node(path: &[u8]) -> Node {
    Node { path: Bytes(path.to_vec()), mode: 0o644, uid: 0, gid: 0, mtime: (1, 2), xattrs: Vec::new() }
}

fn folder(path: &[u8]) -> Other {
    Other { node: node(path), kind: OtherKind::Folder }
}

fn unit(path: &[u8]) -> Unit {
    let piece = Piece { digest: Digest::of(b"blob"), size: 10, holds: 3 };
    Unit {
        content: content_of([Digest::of(b"abc")]),
        pieces: vec![piece],
        files: vec![FileNode { node: node(path), size: 3 }],
    }
}

fn manifest(units: Vec<Unit>, others: Vec<Other>) -> Manifest {
    let root = Node { path: Bytes(Vec::new()), mode: 0o755, ..node(b"") };
    Manifest { units, others, ..Manifest::new("x", "", root) }
}

fn read(manifest: &Manifest) -> Result<Manifest, WorkerError> {
    Manifest::from_blob(&manifest.to_blob().expect("a blob"))
}

#[test]
fn a_manifest_is_read_as_it_was_written() {
    let path = b"d/100% \xff\xc3\xbc\n";
    let other = Other { node: node(b"l"), kind: OtherKind::Symlink(Bytes(b"/\xfe".to_vec())) };
    let mut written = manifest(vec![unit(path)], vec![folder(b"d"), other]);
    written.units[0].files[0].node.xattrs = vec![(Bytes(b"user.a".to_vec()), Bytes(vec![0, 255, b'%']))];
    assert_eq!(read(&written).expect("a manifest"), written);
    assert_eq!(written.to_blob().expect("a blob"), written.to_blob().expect("a blob"));
}

#[test]
fn paths_that_lead_out_are_refused() {
    for path in [&b""[..], b"/a", b"a/", b"..", b"../a", b"d/../../a", b"d//a", b".", b"d/./a", b"a\0b"] {
        for hostile in [
            manifest(vec![unit(path)], vec![folder(b"d")]),
            manifest(Vec::new(), vec![folder(b"d"), folder(path)]),
        ] {
            assert!(read(&hostile).is_err(), "{}", path.escape_ascii());
        }
    }
    assert!(read(&manifest(vec![unit(b"d/a")], vec![folder(b"d")])).is_ok());
}

#[test]
fn nothing_lies_in_a_link() {
    let link = Other { node: node(b"d"), kind: OtherKind::Symlink(Bytes(b"/etc".to_vec())) };
    assert!(read(&manifest(vec![unit(b"d/a")], vec![link.clone()])).is_err());
    assert!(read(&manifest(vec![unit(b"d/a")], vec![link, folder(b"d")])).is_err(), "a path twice");
    assert!(read(&manifest(vec![unit(b"a"), unit(b"a/b")], Vec::new())).is_err(), "a file is no folder");
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let changed = |change: &dyn Fn(&mut Unit)| {
        let mut unit = unit(b"a");
        change(&mut unit);
        read(&manifest(vec![unit], Vec::new())).is_ok()
    };
    assert!(changed(&|_| {}));
    assert!(!changed(&|unit| unit.files[0].size = 4));
    assert!(!changed(&|unit| unit.pieces[0].holds = 4));
    assert!(!changed(&|unit| unit.pieces[0].size = 1 << 40));
    assert!(!changed(&|unit| {
        unit.pieces[0].holds = 1 << 40;
        unit.files[0].size = 1 << 40;
    }));
    let dangling = Other { node: node(b"l"), kind: OtherKind::Hardlink(Bytes(b"nothing".to_vec())) };
    assert!(read(&manifest(vec![unit(b"a")], vec![dangling])).is_err());
}

#[test]
fn what_is_no_manifest_is_refused() {
    let mut other = manifest(Vec::new(), Vec::new());
    other.version = 2;
    assert!(read(&other).is_err());
    assert!(Manifest::from_blob(b"").is_err());
    assert!(Manifest::from_blob(b"{}").is_err());
    assert!(Manifest::from_blob(&compressed(b"[]").expect("a blob")).is_err());
    let whole = manifest(vec![unit(b"a")], Vec::new()).to_blob().expect("a blob");
    assert!(Manifest::from_blob(&whole[..whole.len() - 1]).is_err());
}

#[test]
fn a_piece_holds_what_it_says_and_no_more() {
    let blob = compressed(b"abc").expect("a blob");
    let piece = Piece { digest: Digest::of(&blob), size: blob.len() as u64, holds: 3 };
    assert_eq!(decompressed(&blob, &piece).as_deref(), Some(&b"abc"[..]));
    for holds in [2, 4] {
        assert_eq!(decompressed(&blob, &Piece { holds, ..piece }), None);
    }
    let mut damaged = blob.clone();
    damaged[blob.len() / 2] ^= 1;
    assert_eq!(decompressed(&damaged, &piece), None);
}
