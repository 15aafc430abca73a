//! Claims about cache mounts that travel: what comes out is what went in, only what changed moves, and nothing
//! that is damaged or hostile gets in.

use super::super::manifest::PIECE_TYPE;
use super::super::pack::{PackedMount, pack};
use super::*;
use kiln_oci::MediaType;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

/// A store with one cache, `x`.
struct Side {
    _folder: tempfile::TempDir,
    store: Store,
    cancel: CancelToken,
}

impl Side {
    fn new() -> Side {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store")).expect("a store");
        Side { _folder: folder, store, cancel: CancelToken::new() }
    }

    /// What a step does first.
    fn used(self) -> Side {
        let parent = folder_of(&self.store, &name("x", ""));
        if current(&parent).expect("a cache").is_none() {
            let (folder, _lock) = begin(&parent).expect("a generation");
            fs::create_dir(folder.path().join("data")).expect("a folder");
            make_current(&parent, folder.path()).expect("a link");
            let _ = folder.keep();
        }
        self.store.meta.use_cache_mount(&name("x", ""), "x", "").expect("metadata");
        self
    }

    fn data(&self) -> PathBuf {
        let parent = folder_of(&self.store, &name("x", ""));
        parent.join("current").canonicalize().expect("a cache").join("data")
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.data().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    }

    fn pack(&self) -> PackedMount {
        let mut all = pack(&self.store, "x", &|_| false, &self.cancel).expect("a cache");
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    /// Takes over what another store packed; gives that, and what was asked for.
    fn take(&self, from: &Side, packed: &PackedMount) -> (ImportedMount, Vec<Digest>) {
        let asked = RefCell::new(Vec::new());
        let open = |piece: &Descriptor| -> Result<Box<dyn Read>, WorkerError> {
            asked.borrow_mut().push(piece.digest);
            Ok(Box::new(from.store.content.blob(&piece.digest)?))
        };
        let blob = from.store.content.read(&packed.manifest.digest, 1 << 30).expect("a manifest");
        let done = unpack(&self.store, &blob, &open, &self.cancel).expect("a cache");
        (done, asked.into_inner())
    }

    /// All that a user of the cache can see of it, by path.
    fn seen(&self) -> BTreeMap<Vec<u8>, String> {
        let tree = Tree::open(&self.data()).expect("a tree");
        let (mut all, mut folders) = (BTreeMap::new(), vec![self.data()]);
        let mut inodes: Vec<u64> = Vec::new();
        while let Some(folder) = folders.pop() {
            let path = folder.strip_prefix(self.data()).expect("beneath").as_os_str().as_bytes().to_vec();
            let stat = fs::symlink_metadata(&folder).expect("a node");
            let content = match stat.is_file() {
                true => Digest::of(&fs::read(&folder).expect("a file")).to_string(),
                false => fs::read_link(&folder).map_or_else(|_| String::new(), |t| format!("{t:?}")),
            };
            let link = if stat.nlink() > 1 && !stat.is_dir() {
                let at = inodes.iter().position(|inode| *inode == stat.ino());
                at.unwrap_or_else(|| (inodes.len(), inodes.push(stat.ino())).0)
            } else {
                usize::MAX
            };
            let xattrs = tree.xattrs(&path).expect("attributes");
            let (mode, uid, gid) = (stat.mode(), stat.uid(), stat.gid());
            let time = (stat.mtime(), stat.mtime_nsec());
            all.insert(path, format!("{mode:o} {uid} {gid} {time:?} {link} {xattrs:?} {content}"));
            if stat.is_dir() {
                let mut names: Vec<_> = fs::read_dir(&folder).expect("a folder").flatten().collect();
                names.sort_by_key(fs::DirEntry::file_name);
                folders.extend(names.into_iter().map(|entry| entry.path()));
            }
        }
        all
    }
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

fn bytes_of(pieces: &[Descriptor]) -> u64 {
    pieces.iter().map(|piece| piece.size).sum()
}

#[test]
fn what_comes_out_is_what_went_in() {
    let from = Side::new().used();
    from.write("a/b/small", b"small");
    from.write("a/empty", b"");
    from.write("large", &noise(5 << 20, 1));
    from.write("zeros", &vec![0; 3 << 20]);
    from.write("readonly/in", b"in");
    let data = from.data();
    let odd = std::ffi::OsStr::from_bytes(b"a/\xff%41\n");
    fs::write(data.join(odd), b"odd").expect("a file");
    fs::hard_link(data.join("a/b/small"), data.join("z-second-name")).expect("a link");
    symlink("/etc/passwd", data.join("a/absolute")).expect("a link");
    symlink("../../..", data.join("a/up")).expect("a link");
    std::os::unix::fs::chown(data.join("a/empty"), Some(7), Some(8)).expect("an owner");
    let mode = |path: &str, mode| {
        fs::set_permissions(data.join(path), fs::Permissions::from_mode(mode)).expect("a mode");
    };
    mode("a/empty", 0o4751);
    mode("readonly", 0o555);
    mode("", 0o1777);
    for path in ["large", "a"] {
        let set = rustix::fs::setxattr(data.join(path), "user.k", b"v\0", rustix::fs::XattrFlags::empty());
        // Not every file system has them.
        assert!(set.is_ok() || set == Err(rustix::io::Errno::OPNOTSUPP), "{set:?}");
    }
    let packed = from.pack();
    let to = Side::new();
    assert_eq!(to.take(&from, &packed).0.taken, Taken::Whole);
    assert_eq!(to.seen(), from.seen());
    // The same again is the same blobs, and nothing to do.
    assert_eq!(to.pack().manifest, packed.manifest);
    let (again, asked) = to.take(&from, &packed);
    assert_eq!((again.taken, asked.len()), (Taken::Left, 0));
}

#[test]
fn one_file_of_a_thousand_moves_alone() {
    let from = Side::new().used();
    let file = |n: u64| (format!("d{}/f{n}", n % 10), noise(16 << 10, n));
    (0..1000).map(file).for_each(|(path, bytes)| from.write(&path, &bytes));
    let first = from.pack();
    from.write("d7/f17", &noise(16 << 10, 5000));
    let second = from.pack();
    let new: Vec<Descriptor> = second.pieces.iter().filter(|p| !first.pieces.contains(p)).cloned().collect();
    assert_eq!(new.len(), 1, "of {}", second.pieces.len());
    assert!(bytes_of(&first.pieces) > 1000 * (16 << 10));
    assert!(bytes_of(&new) <= 64 * (16 << 10), "{} bytes", bytes_of(&new));
    let to = Side::new();
    to.take(&from, &first);
    let (done, asked) = to.take(&from, &second);
    assert_eq!((done.taken, asked.len(), done.pieces), (Taken::Whole, 1, 1));
    assert_eq!(to.seen(), from.seen());
}

#[test]
fn a_change_in_a_large_file_moves_its_surroundings() {
    let from = Side::new().used();
    let mut database = noise(24 << 20, 1);
    from.write("db", &database);
    let first = from.pack();
    database[12 << 20] ^= 1;
    database.extend_from_slice(b"appended");
    from.write("db", &database);
    let second = from.pack();
    let new: Vec<Descriptor> = second.pieces.iter().filter(|p| !first.pieces.contains(p)).cloned().collect();
    assert!(bytes_of(&new) < 12 << 20 && new.len() < second.pieces.len(), "{} bytes", bytes_of(&new));
}

#[test]
fn what_was_packed_is_not_read_again() {
    let from = Side::new().used();
    from.write("small", b"small");
    from.write("large", &noise(2 << 20, 1));
    // Files that have just changed are not trusted.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let first = from.pack();
    // Bytes that change behind everybody's back: who reads them, sees it.
    for (path, bytes) in [("small", b"SMALL".to_vec()), ("large", noise(2 << 20, 2))] {
        let path = from.data().join(path);
        let then = fs::metadata(&path).and_then(|m| m.modified()).expect("a time");
        fs::write(&path, bytes).expect("a file");
        fs::File::open(&path).and_then(|file| file.set_modified(then)).expect("a time");
    }
    let seen = from.pack();
    assert_ne!(seen.manifest, first.manifest, "the time of the change of a file counts too");
    assert_ne!(seen.pieces, first.pieces);
    std::thread::sleep(std::time::Duration::from_millis(50));
    let second = from.pack();
    let memo = from.store.meta.memo(&super::super::pack::memo_name(&second.name)).expect("metadata");
    assert!(memo.is_some_and(|memo| memo.len() > 72), "digests are remembered");
    // With the digests remembered and the pieces known to be where they go, no blob is made anew.
    for piece in second.pieces.iter().chain([&second.manifest]) {
        from.store.content.layout().remove(&piece.digest).expect("removed");
    }
    let third = pack(&from.store, "x", &|_| true, &from.cancel).expect("a cache");
    assert_eq!(third[0].manifest, second.manifest);
    assert!(
        from.store.content.layout().digests().expect("blobs").iter().all(|d| first
            .pieces
            .iter()
            .any(|p| p.digest == *d)
            || *d == first.manifest.digest)
    );
}

#[test]
fn a_cache_that_steps_used_gets_only_what_it_has_not() {
    let from = Side::new().used();
    for (path, bytes) in [("same", b"theirs"), ("d/new", b"new in"), ("e/f/new", b"folder")] {
        from.write(path, bytes);
    }
    from.write("link/file", b"through");
    from.write("in-file/x", b"x");
    fs::hard_link(from.data().join("same"), from.data().join("other-name")).expect("a link");
    let packed = from.pack();
    let to = Side::new().used();
    to.write("same", b"own");
    to.write("d/own", b"own");
    to.write("in-file", b"a file");
    let outside = tempfile::tempdir().expect("a folder");
    symlink(outside.path(), to.data().join("link")).expect("a link");
    let before = to.data();
    let (done, _) = to.take(&from, &packed);
    assert!(matches!(done.taken, Taken::Added(_)), "{done:?}");
    assert_eq!(to.data(), before);
    let read = |path: &str| fs::read_to_string(before.join(path)).unwrap_or_default();
    assert_eq!(["same", "d/own", "d/new", "e/f/new"].map(read), ["own", "own", "new in", "folder"]);
    assert_eq!(["other-name", "in-file"].map(read), ["theirs", "a file"]);
    assert_eq!(fs::read_dir(outside.path()).map(Iterator::count).ok(), Some(0));
    // What is aside is gone.
    let parent = folder_of(&to.store, &done.name);
    assert_eq!(fs::read_dir(parent).map(Iterator::count).ok(), Some(2));
}

#[test]
fn a_cache_that_no_step_used_is_replaced() {
    let from = Side::new().used();
    from.write("old", b"old");
    let first = from.pack();
    let to = Side::new().used();
    assert_eq!(to.take(&from, &first).0.taken, Taken::Whole, "an empty one is as good as none");
    fs::remove_file(from.data().join("old")).expect("removed");
    from.write("new", b"new");
    let second = from.pack();
    assert_eq!(to.take(&from, &second).0.taken, Taken::Whole);
    assert_eq!(to.seen(), from.seen());
    let to = to.used();
    assert_eq!(to.take(&from, &first).0.taken, Taken::Added(1));
    assert!(to.data().join("old").exists() && to.data().join("new").exists());
}

#[test]
fn damaged_pieces_leave_the_cache_as_it_was() {
    let from = Side::new().used();
    from.write("large", &noise(3 << 20, 1));
    from.write("small", b"small");
    let packed = from.pack();
    let blob = from.store.content.read(&packed.manifest.digest, 1 << 30).expect("a manifest");
    let spoils: [fn(&mut Vec<u8>); 4] =
        [|blob| blob[10] ^= 1, |blob| blob.truncate(10), |blob| blob.push(0), Vec::clear];
    for spoil in spoils {
        let to = Side::new();
        let open = |piece: &Descriptor| -> Result<Box<dyn Read>, WorkerError> {
            assert_eq!(piece.media_type, MediaType::Other(PIECE_TYPE.to_owned()));
            let mut bytes = from.store.content.read(&piece.digest, 1 << 30)?;
            spoil(&mut bytes);
            Ok(Box::new(Cursor::new(bytes)))
        };
        let done = unpack(&to.store, &blob, &open, &to.cancel);
        assert!(matches!(&done, Err(WorkerError::CacheMount(CacheMountError::Damaged { .. }))), "{done:?}");
        assert!(current(&folder_of(&to.store, &packed.name)).expect("a folder").is_none());
    }
}

#[test]
fn files_that_are_written_to_all_the_time_are_whole_or_left_out() {
    let from = Side::new().used();
    from.write("still", b"still");
    let path = from.data().join("busy");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0u64.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                fs::write(&path, noise(64 << 10, n)).expect("a file");
            }
        });
        for _ in 0..10 {
            let packed = from.pack();
            let to = Side::new();
            // What does not have its digest would be an error.
            assert_eq!(to.take(&from, &packed).0.taken, Taken::Whole);
            assert!(to.data().join("still").exists());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
