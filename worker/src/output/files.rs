//! The files of a result, without the images around them: in a tar or in a folder. It does not know layers.

use super::stopping::{self, STOP_LOOK};
use super::whole::whole;
use crate::WorkerError;
use crate::export::Exporter;
use crate::layer::Stack;
use kiln_runner::CancelToken;
use kiln_snapshotter::archive::{Entry, EntryKind, LayerWriter};
use kiln_snapshotter::{CopyOptions, NodeStat, NodeType, SnapshotError, Tree, Verdict, copy_tree};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// The mode of a statement beside files, as BuildKit has it.
const STATEMENT_MODE: u32 = 0o600;

/// How a folder is called that is about to get its name, and what the umask takes from.
const UNFINISHED: &str = ".kiln-";
const FOLDER_MODE: u32 = 0o777;
/// How long the end of the file is waited for that is being copied when the user stops the build.
const LAST_FILE_MAX: Duration = Duration::from_secs(1);

/// The files of one image.
pub(crate) struct Part {
    /// What they are for.
    pub platform: String,
    pub stack: Stack,
    /// The folder that they go into; none of their own unless there is one.
    pub folder: Option<String>,
    /// The time of that folder in a tar, and of what is attested.
    pub time_s: i64,
    /// What is attested of the files, as files beside them: names and bytes.
    pub statements: Vec<(String, Vec<u8>)>,
}

/// Writes the files to a tar.
pub(crate) fn to_tar(
    exporter: &Exporter<'_>,
    parts: &[Part],
    dest: Option<&Path>,
) -> Result<(), WorkerError> {
    let trees = mounted(exporter, parts)?;
    whole(dest, exporter.images.cancel, |out| {
        let mut tar = FilesTar { tar: LayerWriter::new(out), folders: BTreeSet::new() };
        for (part, tree) in parts.iter().zip(&trees) {
            tar.part(part, tree)?;
        }
        tar.tar.finish().map(drop).map_err(WorkerError::io("write", "the tar"))
    })
}

/// Copies the files into a folder, which keeps what else it has, or with `delete` loses it once all is copied. Who is
/// not root owns what is written.
pub(super) fn to_folder(
    exporter: &Exporter<'_>,
    parts: &[Part],
    dest: &Path,
    delete: bool,
) -> Result<(), WorkerError> {
    let trees = mounted(exporter, parts)?;
    match std::fs::symlink_metadata(dest) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        _ => {
            std::fs::create_dir_all(dest).map_err(WorkerError::io("create", dest))?;
            return fill_folder(exporter, parts, trees, dest, delete);
        }
    }
    // A folder that is not there yet gets its name when it is whole.
    let parent = dest.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(WorkerError::io("create", parent))?;
    let mut unfinished = tempfile::Builder::new();
    let unfinished = unfinished.prefix(UNFINISHED).permissions(Permissions::from_mode(FOLDER_MODE));
    let unfinished = unfinished.tempdir_in(parent).map_err(WorkerError::io("create a folder in", parent))?;
    fill_folder(exporter, parts, trees, unfinished.path(), false)?;
    renameat_with(CWD, unfinished.path(), CWD, dest, RenameFlags::NOREPLACE)
        .map_err(|e| WorkerError::io("create", dest)(e.into()))?;
    let _ = unfinished.keep();
    Ok(())
}

fn fill_folder(
    exporter: &Exporter<'_>,
    parts: &[Part],
    trees: Vec<Tree>,
    dest: &Path,
    delete: bool,
) -> Result<(), WorkerError> {
    let (dest, cancel) = (Tree::open(dest)?, exporter.images.cancel.clone());
    let mut copies = Vec::new();
    for (part, tree) in parts.iter().zip(trees) {
        let to = match &part.folder {
            Some(name) => own_folder(&dest, name.as_bytes())?,
            None => dest.subtree(b"")?,
        };
        copies.push((tree, to, part.statements.clone()));
    }
    let expected = if delete { Some(all_paths(parts, copies.iter().map(|(from, ..)| from))?) } else { None };
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let copied = copies.iter().try_for_each(|(from, to, statements)| {
            copy_onto(from, to, &cancel)?;
            statements.iter().try_for_each(|(name, bytes)| write_statement(to, name, bytes))
        });
        let copied = copied.and_then(|()| match &expected {
            Some(expected) => remove_others(&dest, b"", expected, &cancel),
            None => Ok(()),
        });
        // Nobody listens any more where the user has stopped the build.
        let _ = sender.send(copied);
    });
    loop {
        match receiver.recv_timeout(STOP_LOOK) {
            Ok(copied) => return copied,
            // The end of a large file is not waited for for long.
            Err(RecvTimeoutError::Timeout) if exporter.images.cancel.is_cancelled() => {
                let _ = receiver.recv_timeout(LAST_FILE_MAX);
                return Err(WorkerError::Canceled);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(WorkerError::Panicked),
        }
    }
}

/// All paths that the parts have in the folder that they go into.
fn all_paths<'t>(
    parts: &[Part],
    trees: impl Iterator<Item = &'t Tree>,
) -> Result<BTreeSet<Vec<u8>>, WorkerError> {
    fn add(
        tree: &Tree,
        folder: &[u8],
        prefix: &[u8],
        all: &mut BTreeSet<Vec<u8>>,
    ) -> Result<(), WorkerError> {
        for (name, stat) in tree.scan(folder)? {
            let path = crate::local::joined(folder, &name);
            all.insert(crate::local::joined(prefix, &path));
            if stat.kind == NodeType::Directory {
                add(tree, &path, prefix, all)?;
            }
        }
        Ok(())
    }
    let mut all = BTreeSet::new();
    for (part, tree) in parts.iter().zip(trees) {
        let prefix = part.folder.as_deref().unwrap_or_default().as_bytes();
        all.extend(Some(prefix.to_vec()).filter(|prefix| !prefix.is_empty()));
        all.extend(part.statements.iter().map(|(name, _)| crate::local::joined(prefix, name.as_bytes())));
        add(tree, b"", prefix, &mut all)?;
    }
    Ok(all)
}

/// Removes from a folder of the user's what is not expected in it. Links are removed, never followed.
fn remove_others(
    dest: &Tree,
    folder: &[u8],
    expected: &BTreeSet<Vec<u8>>,
    cancel: &CancelToken,
) -> Result<(), WorkerError> {
    for (name, stat) in dest.scan(folder)? {
        stopping::check(cancel)?;
        let path = crate::local::joined(folder, &name);
        if !expected.contains(&path) {
            dest.remove(&path, true)?;
        } else if stat.kind == NodeType::Directory {
            remove_others(dest, &path, expected, cancel)?;
        }
    }
    Ok(())
}

/// Puts a statement in the place of whatever has its name.
fn write_statement(to: &Tree, name: &str, bytes: &[u8]) -> Result<(), WorkerError> {
    match to.stat(name.as_bytes(), false) {
        Ok(there) if there.kind != NodeType::Directory => to.remove(name.as_bytes(), false)?,
        _ => {}
    }
    let mut bytes = bytes;
    Ok(to.write_file(name.as_bytes(), STATEMENT_MODE, None, None, &mut bytes).map(drop)?)
}

/// A folder in the user's for one platform. A link in its place is not followed.
fn own_folder(dest: &Tree, name: &[u8]) -> Result<Tree, WorkerError> {
    match dest.stat(name, false) {
        Ok(there) if there.kind != NodeType::Directory => dest.remove(name, false)?,
        _ => {}
    }
    dest.make_dirs(name, 0o755, None, None)?;
    Ok(dest.subtree(name)?)
}

/// The files of the images, mounted to be read. Where several go into the same folder, no two may be at the
/// same path.
fn mounted(exporter: &Exporter<'_>, parts: &[Part]) -> Result<Vec<Tree>, WorkerError> {
    let mut trees = Vec::new();
    for part in parts {
        let layers = exporter.images.unpacked(&part.stack)?;
        trees.push(exporter.store.snapshots.mount_readonly(&layers)?.root()?);
    }
    if parts.len() > 1 && parts.iter().all(|part| part.folder.is_none()) {
        let mut taken = BTreeMap::new();
        for (part, tree) in parts.iter().zip(&trees) {
            take_paths(tree, b"", &part.platform, &mut taken)?;
        }
    }
    Ok(trees)
}

/// Notes each path and whose it is; folders may be everybody's.
fn take_paths<'p>(
    tree: &Tree,
    folder: &[u8],
    platform: &'p str,
    taken: &mut BTreeMap<Vec<u8>, (&'p str, NodeType)>,
) -> Result<(), WorkerError> {
    for (name, stat) in tree.scan(folder)? {
        let path = crate::local::joined(folder, &name);
        let before = taken.insert(path.clone(), (platform, stat.kind));
        if let Some((first, kind)) = before
            && (kind, stat.kind) != (NodeType::Directory, NodeType::Directory)
        {
            let path = String::from_utf8_lossy(&path).into_owned();
            let (first, second) = (first.to_owned(), platform.to_owned());
            return Err(WorkerError::Clash { path, first, second });
        }
        if stat.kind == NodeType::Directory {
            take_paths(tree, &path, platform, taken)?;
        }
    }
    Ok(())
}

/// A tar of files, and the folders that are in it.
struct FilesTar<'w> {
    tar: LayerWriter<&'w mut dyn Write>,
    folders: BTreeSet<Vec<u8>>,
}

/// The paths in the tar that files with several names were first written at.
type Links = BTreeMap<(u64, u64), Vec<u8>>;

impl FilesTar<'_> {
    fn part(&mut self, part: &Part, tree: &Tree) -> Result<(), WorkerError> {
        let prefix = part.folder.as_deref().unwrap_or_default().as_bytes();
        if !prefix.is_empty() {
            let entry = Entry {
                path: prefix,
                kind: EntryKind::Directory,
                mode: 0o755,
                uid: 0,
                gid: 0,
                mtime_s: part.time_s,
                mtime_ns: 0,
                xattrs: &[],
            };
            self.tar.append(&entry, &mut io::empty()).map_err(WorkerError::io("write", "the tar"))?;
        }
        self.folder(tree, b"", prefix, &mut Links::new())?;
        for (name, bytes) in &part.statements {
            let path = crate::local::joined(prefix, name.as_bytes());
            let entry = Entry {
                path: &path,
                kind: EntryKind::File { size_bytes: bytes.len() as u64 },
                mode: STATEMENT_MODE,
                uid: 0,
                gid: 0,
                mtime_s: part.time_s,
                mtime_ns: 0,
                xattrs: &[],
            };
            let mut bytes = bytes.as_slice();
            self.tar.append(&entry, &mut bytes).map_err(WorkerError::io("write", "the tar"))?;
        }
        Ok(())
    }

    fn folder(
        &mut self,
        tree: &Tree,
        folder: &[u8],
        prefix: &[u8],
        links: &mut Links,
    ) -> Result<(), WorkerError> {
        for (name, stat) in tree.scan(folder)? {
            let path = crate::local::joined(folder, &name);
            let shown = crate::local::joined(prefix, &path);
            let is_folder = stat.kind == NodeType::Directory;
            if !is_folder || self.folders.insert(shown.clone()) {
                self.node(tree, &path, &shown, &stat, links)?;
            }
            if is_folder {
                self.folder(tree, &path, prefix, links)?;
            }
        }
        Ok(())
    }

    fn node(
        &mut self,
        tree: &Tree,
        path: &[u8],
        shown: &[u8],
        stat: &NodeStat,
        links: &mut Links,
    ) -> Result<(), WorkerError> {
        let may_be_linked = stat.links > 1 && stat.kind != NodeType::Directory;
        let inode = (stat.device, stat.inode);
        let known = may_be_linked.then(|| links.get(&inode).cloned()).flatten();
        let target = if stat.kind == NodeType::Symlink { tree.read_link(path)? } else { Vec::new() };
        let (major, minor) = stat.special;
        let kind = match (&known, stat.kind) {
            (Some(first), _) => EntryKind::Hardlink { target: first },
            (None, NodeType::File) => EntryKind::File { size_bytes: stat.size },
            (None, NodeType::Directory) => EntryKind::Directory,
            (None, NodeType::Symlink) => EntryKind::Symlink { target: &target },
            (None, NodeType::CharDevice) => EntryKind::CharDevice { major, minor },
            (None, NodeType::BlockDevice) => EntryKind::BlockDevice { major, minor },
            (None, NodeType::Fifo) => EntryKind::Fifo,
            (None, NodeType::Socket) => return Ok(()),
        };
        let xattrs = if known.is_none() { tree.xattrs(path)? } else { Vec::new() };
        let entry = Entry {
            path: shown,
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
            self.tar.append(&entry, &mut tree.open_file(path)?).map_err(failed)?;
        } else {
            self.tar.append(&entry, &mut io::empty()).map_err(failed)?;
        }
        if may_be_linked && known.is_none() {
            links.insert(inode, shown.to_owned());
        }
        Ok(())
    }
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
