//! The files of a result, without the image around them: in a tar or in a folder. It does not know layers.

use super::stopping::{self, STOP_LOOK};
use super::whole::whole;
use crate::WorkerError;
use crate::export::Exporter;
use crate::layer::Stack;
use kiln_runner::CancelToken;
use kiln_snapshotter::archive::{Entry, EntryKind, LayerWriter};
use kiln_snapshotter::{CopyOptions, NodeType, SnapshotError, Tree, Verdict, copy_tree};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};

/// Writes the files to a tar.
pub(super) fn to_tar(exporter: &Exporter<'_>, stack: &Stack, dest: Option<&Path>) -> Result<(), WorkerError> {
    let tree = mounted(exporter, stack)?;
    whole(dest, exporter.images.cancel, |out| {
        let mut tar = LayerWriter::new(out);
        let mut links = BTreeMap::new();
        tar_folder(&tree, b"", &mut tar, &mut links)?;
        tar.finish().map(drop).map_err(WorkerError::io("write", "the tar"))
    })
}

/// Copies the files into a folder, which keeps what else it has. Who is not root owns what is written.
pub(super) fn to_folder(exporter: &Exporter<'_>, stack: &Stack, dest: &Path) -> Result<(), WorkerError> {
    let tree = mounted(exporter, stack)?;
    std::fs::create_dir_all(dest).map_err(WorkerError::io("create", dest))?;
    let (to, cancel) = (Tree::open(dest)?, exporter.images.cancel.clone());
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        // Nobody listens any more where the user has stopped the build.
        let _ = sender.send(copy_onto(&tree, &to, &cancel));
    });
    loop {
        match receiver.recv_timeout(STOP_LOOK) {
            Ok(copied) => return copied,
            // The end of a large file is not waited for.
            Err(RecvTimeoutError::Timeout) => stopping::check(exporter.images.cancel)?,
            Err(RecvTimeoutError::Disconnected) => return Err(WorkerError::Panicked),
        }
    }
}

/// The files of a result, mounted to be read.
fn mounted(exporter: &Exporter<'_>, stack: &Stack) -> Result<Tree, WorkerError> {
    let layers = exporter.images.unpacked(stack)?;
    Ok(exporter.store.snapshots.mount_readonly(&layers)?.root()?)
}

fn tar_folder(
    tree: &Tree,
    folder: &[u8],
    tar: &mut LayerWriter<&mut dyn Write>,
    links: &mut BTreeMap<(u64, u64), Vec<u8>>,
) -> Result<(), WorkerError> {
    for (name, stat) in tree.scan(folder)? {
        let path = crate::local::joined(folder, &name);
        let known = (stat.links > 1 && stat.kind != NodeType::Directory)
            .then(|| links.get(&(stat.device, stat.inode)).cloned())
            .flatten();
        let target = if stat.kind == NodeType::Symlink { tree.read_link(&path)? } else { Vec::new() };
        let (major, minor) = stat.special;
        let kind = match (&known, stat.kind) {
            (Some(first), _) => EntryKind::Hardlink { target: first },
            (None, NodeType::File) => EntryKind::File { size_bytes: stat.size },
            (None, NodeType::Directory) => EntryKind::Directory,
            (None, NodeType::Symlink) => EntryKind::Symlink { target: &target },
            (None, NodeType::CharDevice) => EntryKind::CharDevice { major, minor },
            (None, NodeType::BlockDevice) => EntryKind::BlockDevice { major, minor },
            (None, NodeType::Fifo) => EntryKind::Fifo,
            (None, NodeType::Socket) => continue,
        };
        let xattrs = if known.is_none() { tree.xattrs(&path)? } else { Vec::new() };
        let entry = Entry {
            path: &path,
            kind,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            mtime_s: stat.mtime.0,
            mtime_ns: 0,
            xattrs: &xattrs,
        };
        let failed = WorkerError::io("write", "the tar");
        if known.is_none() && stat.kind == NodeType::File {
            tar.append(&entry, &mut tree.open_file(&path)?).map_err(failed)?;
        } else {
            tar.append(&entry, &mut io::empty()).map_err(failed)?;
        }
        if stat.links > 1 && known.is_none() {
            links.insert((stat.device, stat.inode), path.clone());
        }
        if stat.kind == NodeType::Directory {
            tar_folder(tree, &path, tar, links)?;
        }
    }
    Ok(())
}

/// Copies all of a tree into another. What is in the way of a folder goes, above all a link that leads
/// elsewhere; a folder of the user's is never in the way of a file.
fn copy_onto(from: &Tree, to: &Tree, cancel: &CancelToken) -> Result<(), WorkerError> {
    let failure: RefCell<Option<SnapshotError>> = RefCell::default();
    let each = |path: &[u8], is_folder: bool| {
        if cancel.is_cancelled() || failure.borrow().is_some() {
            return Verdict::Exclude;
        }
        let in_the_way = is_folder && to.stat(path, false).is_ok_and(|s| s.kind != NodeType::Directory);
        if in_the_way && let Err(e) = to.remove(path, false) {
            failure.replace(Some(e));
            return Verdict::Exclude;
        }
        Verdict::Include
    };
    copy_tree(from, b"", to, b"", &CopyOptions { filter: &each, ..CopyOptions::default() })?;
    stopping::check(cancel)?;
    failure.into_inner().map_or(Ok(()), |e| Err(e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn links_in_the_folder_that_lead_out_of_it_are_replaced_and_not_followed() {
        let here = tempfile::tempdir().expect("a folder");
        let path = |name: &str| here.path().join(name);
        for folder in ["from/etc", "to", "outside"] {
            fs::create_dir_all(path(folder)).expect("a folder");
        }
        fs::write(path("outside/canary"), "alive").expect("a file");
        fs::write(path("from/etc/canary"), "new").expect("a file");
        fs::write(path("from/passwd"), "new").expect("a file");
        fs::set_permissions(path("from/passwd"), fs::Permissions::from_mode(0o640)).expect("a mode");
        fs::File::options()
            .write(true)
            .open(path("from/passwd"))
            .expect("a file")
            .set_modified(std::time::UNIX_EPOCH)
            .expect("a time");
        symlink(path("outside"), path("to/etc")).expect("a link");
        symlink(path("outside/canary"), path("to/passwd")).expect("a link");
        fs::write(path("to/kept"), "kept").expect("a file");
        let tree = |name| Tree::open(&path(name)).expect("a tree");
        copy_onto(&tree("from"), &tree("to"), &CancelToken::new()).expect("copied");
        let read = |name| fs::read_to_string(path(name)).expect("a file");
        assert_eq!(read("outside/canary"), "alive");
        assert_eq!((read("to/etc/canary"), read("to/passwd")), ("new".to_owned(), "new".to_owned()));
        assert!(!path("to/etc").is_symlink() && !path("to/passwd").is_symlink());
        assert_eq!(read("to/kept"), "kept");
        let made = fs::metadata(path("to/passwd")).expect("a file");
        assert_eq!((made.mode() & 0o777, made.mtime()), (0o640, 0));
    }

    #[test]
    fn a_cancelled_copy_copies_nothing_more() {
        let here = tempfile::tempdir().expect("a folder");
        let (from, to) = (here.path().join("from"), here.path().join("to"));
        for folder in [&from, &to] {
            fs::create_dir(folder).expect("a folder");
        }
        fs::write(from.join("file"), "").expect("a file");
        let cancel = CancelToken::new();
        cancel.cancel();
        let trees = (Tree::open(&from).expect("a tree"), Tree::open(&to).expect("a tree"));
        assert!(matches!(copy_onto(&trees.0, &trees.1, &cancel), Err(WorkerError::Canceled)));
        assert!(!to.join("file").exists());
    }
}
