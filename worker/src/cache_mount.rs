//! What `RUN --mount=type=cache` keeps: which cache a mount means, who may use it at once, its first content.
//!
//! ```text
//! <root>/cache-mounts/<name>/current             a link to the generation that steps get
//! <root>/cache-mounts/<name>/<generation>/data   what steps see of it
//! ```
//! A generation is filled before `current` leads to it, and never emptied: a build that begins anew makes
//! another one, and steps that run keep theirs. Who uses a generation holds a shared lock on its folder; one
//! that is not `current` and not locked is garbage. Only who holds the lock `fill-<name>` makes or removes any.
//! Steps hold the lock `cache-<name>`, alone or together; who changes or removes a cache between steps holds it
//! alone. What a name stands for is in the metadata. It does not know how a process sees a mount.

mod chunks;
mod folder;
mod listing;
mod manifest;
mod merge;
mod pack;
mod scan;
mod unpack;

pub use folder::{MountsPlace, MovedMount};
pub(crate) use folder::{export, import};
pub use listing::CacheMount;
pub(crate) use listing::{find, list, remove};
pub use manifest::CacheMountError;
pub(crate) use pack::{PackedMount, pack};
pub use unpack::Taken;
pub(crate) use unpack::unpack;

use crate::WorkerError;
use crate::absence::Absence;
use crate::build::Build;
use crate::progress::Progress;
use crate::store::{Lock, Sharing, Store, leads_to, private_folder};
use kiln_oci::Digest;
use kiln_runner::{CancelToken, LogLine, MountSource, Stream};
use kiln_snapshotter::{CopyOptions, SnapshotError, Tree, Verdict, copy_tree};
use kiln_solver::{CacheSharing, Edge, ExecOp, Mount, MountKind, VertexId};
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::TempDir;

/// The most caches of one id that steps with `sharing=private` hold at once.
const PRIVATE_CACHES_MAX: usize = 1000;

/// The caches of one step, from before it runs until it has ended.
#[derive(Debug, Default)]
pub(crate) struct Caches {
    /// By the mount's place in the step.
    folders: HashMap<usize, PathBuf>,
    _generations: Vec<Generation>,
    _locks: Vec<Lock>,
}

/// A generation that is not removed while this is there.
#[derive(Debug)]
struct Generation {
    path: PathBuf,
    _lock: File,
}

/// One cache as a step wants it, with the places of the mounts that are it.
struct Wanted<'a> {
    mount: &'a Mount,
    input: Option<Edge>,
    id: &'a str,
    begins: String,
    is_locked: bool,
    places: Vec<usize>,
}

impl Caches {
    /// Waits for all caches of a step. Each is taken once, however often it is mounted, and all steps take
    /// theirs in the same order, so that nobody waits for somebody who waits for him.
    pub fn take(build: &Build<'_>, vertex: VertexId, exec: &ExecOp) -> Result<Caches, WorkerError> {
        let mut caches = Caches::default();
        // Private ones are last: they never wait, but take another if this step has the first already.
        let mut wanted: BTreeMap<(bool, String), Wanted<'_>> = BTreeMap::new();
        for (place, mount) in exec.mounts.iter().enumerate() {
            let MountKind::Cache { id, sharing } = &mount.kind else { continue };
            let input = mount.input.map(|i| build.vertex(vertex).inputs[i as usize]);
            let begins = begins(build, mount, input)?;
            let name = name(id, &begins);
            let is_private = *sharing == CacheSharing::Private;
            let new = Wanted { mount, input, id, begins, is_locked: false, places: Vec::new() };
            let entry = wanted.entry((is_private, name)).or_insert(new);
            entry.is_locked |= *sharing == CacheSharing::Locked;
            entry.places.push(place);
        }
        for ((is_private, name), wanted) in wanted {
            build.bring_mount(wanted.id)?;
            let started = Instant::now();
            let tell = |holder| tell_of_wait(build, vertex, wanted.id, holder, started);
            let (name, lock) = if is_private {
                private(build.store, name)?
            } else {
                let sharing = if wanted.is_locked { Sharing::Alone } else { Sharing::Shared };
                let lock = locked(build.store, &name, sharing, build.cancel, &tell)?;
                (name, lock)
            };
            caches._locks.push(lock);
            build.store.meta.use_cache_mount(&name, wanted.id, &wanted.begins)?;
            let generation = generation(build, &wanted, &name)?;
            for place in wanted.places {
                caches.folders.insert(place, generation.path.clone());
            }
            caches._generations.push(generation);
        }
        Ok(caches)
    }

    /// Ends the use of all of them. A generation that another build replaced meanwhile is removed by its last
    /// user; where a step fails, by the next sweep.
    pub fn release(self, store: &Store) -> Result<(), WorkerError> {
        let Caches { folders, _generations, _locks } = self;
        drop(_generations);
        for folder in folders.values() {
            let Some(parent) = folder.parent() else { continue };
            if std::fs::read_link(parent.join("current")).is_ok_and(|now| parent.join(now) != *folder) {
                let name = parent.file_name().unwrap_or_default().to_string_lossy();
                if let Some(_filling) = store.try_lock(&format!("fill-{name}"))? {
                    remove_unused(parent)?;
                }
            }
        }
        Ok(())
    }

    /// What is mounted at a place of the step, if that is a cache.
    pub fn source(&self, place: usize) -> Result<Option<MountSource>, WorkerError> {
        let Some(folder) = self.folders.get(&place) else { return Ok(None) };
        Ok(Some(MountSource::Detached(Tree::open(folder)?.open_subtree_mount(b"data")?)))
    }
}

/// Whether a step of this machine has used a cache of this id, so that what it kept goes before what others kept.
pub(crate) fn is_used(store: &Store, id: &str) -> Result<bool, WorkerError> {
    let rows = store.meta.cache_mounts()?;
    let mut rows = rows.iter().filter(|row| familiar(&row.id) == familiar(id) && row.imported.is_none());
    Ok(rows.any(|row| folder_of(store, &row.name).join("current").is_dir()))
}

/// Removes generations that nobody uses and no step will get.
pub(crate) fn sweep(store: &Store) -> Result<(), WorkerError> {
    let all = store.root.join("cache-mounts");
    for entry in std::fs::read_dir(&all).map_err(WorkerError::io("list", &all))?.flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if std::fs::read_dir(entry.path()).is_ok_and(|entries| entries.count() <= 2)
            && entry.path().join("current").is_dir()
        {
            continue;
        }
        if let Some(_filling) = store.try_lock(&format!("fill-{name}"))? {
            remove_unused(&entry.path())?;
            // Only an empty one goes: nothing was ever kept in it.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
    Ok(())
}

/// Gives up a cache that nobody uses, by its folder's name; whether it is gone.
pub(crate) fn give_up(store: &Store, name: &str) -> Result<bool, WorkerError> {
    let all = list(store)?;
    let Some(mount) = all.iter().find(|mount| mount.name == name) else {
        // Its link leads nowhere: nobody can be using it.
        let _filling = store.lock(&format!("fill-{name}"), &CancelToken::new())?;
        // Or it led nowhere because it was being filled.
        if folder_of(store, name).join("current/data").is_dir() {
            return Ok(false);
        }
        return match Tree::open(&store.root.join("cache-mounts"))?.remove(name.as_bytes(), true) {
            Ok(()) | Err(SnapshotError::NotFound(_)) => Ok(true),
            Err(e) => Err(e.into()),
        };
    };
    match remove(store, mount) {
        Err(WorkerError::CacheMount(CacheMountError::InUse { .. })) => Ok(false),
        removed => removed.map(|()| true),
    }
}

/// What a cache begins with: a content, and a path in it; nothing for an empty folder.
fn begins(build: &Build<'_>, mount: &Mount, input: Option<Edge>) -> Result<String, WorkerError> {
    Ok(match input {
        Some(edge) => format!("{} {}", build.base(edge)?.content().0, mount.selector),
        None => String::new(),
    })
}

/// What a cache is called: by its id, and by what it begins with.
fn name(id: &str, begins: &str) -> String {
    Digest::of(format!("{id}\0{begins}").as_bytes()).hex()
}

/// An id as the user wrote it. In an op it stands behind a namespace, mostly none, and a slash.
pub(crate) fn familiar(id: &str) -> &str {
    id.strip_prefix('/').unwrap_or(id)
}

/// What the lock of a cache is called.
fn lock_name(name: &str) -> String {
    format!("cache-{name}")
}

/// Whose waits end when, and who is told of them.
struct Waiting<'a> {
    cancel: &'a CancelToken,
    /// Gets the id, and the process that holds the cache alone, if it is known.
    tell: &'a (dyn Fn(&str, Option<u32>) + Sync),
}

impl<'a> Waiting<'a> {
    /// Nobody is told.
    fn silent(cancel: &'a CancelToken) -> Waiting<'a> {
        Waiting { cancel, tell: &|_, _| {} }
    }
}

/// Waits for a cache.
fn locked(
    store: &Store,
    name: &str,
    sharing: Sharing,
    cancel: &CancelToken,
    tell: &dyn Fn(Option<u32>),
) -> Result<Lock, WorkerError> {
    store.lock_telling(&lock_name(name), sharing, cancel, tell)
}

/// What is said of a wait for a cache.
fn wait_text(id: &str, holder: Option<u32>) -> String {
    let id = familiar(id);
    match holder {
        Some(holder) if holder == std::process::id() => {
            format!("waiting for the cache mount {id}, which another step of this build uses")
        }
        Some(holder) => {
            format!("waiting for the cache mount {id}, which another build uses (process {holder})")
        }
        None => format!("waiting for the cache mount {id}, which other steps use"),
    }
}

fn tell_of_wait(build: &Build<'_>, vertex: VertexId, id: &str, holder: Option<u32>, started: Instant) {
    let line = wait_text(id, holder).into_bytes();
    let line = LogLine { stream: Stream::Stderr, line, at: started.elapsed() };
    build.progress.send(Progress::Log { vertex, line: &line });
}

/// The first cache of an id that nobody has.
fn private(store: &Store, name: String) -> Result<(String, Lock), WorkerError> {
    for i in 0..PRIVATE_CACHES_MAX {
        let name = if i == 0 { name.clone() } else { format!("{name}-{i}") };
        if let Some(lock) = store.try_lock(&lock_name(&name))? {
            // A dead one's signature must not stay.
            lock.sign();
            return Ok((name, lock));
        }
    }
    Err(WorkerError::Unsupported(format!("more than {PRIVATE_CACHES_MAX} private caches of one id at once")))
}

/// Where a cache is.
fn folder_of(store: &Store, name: &str) -> PathBuf {
    store.root.join("cache-mounts").join(name)
}

/// The generation that a step gets: the current one, or a new one if there is none or the build begins anew.
fn generation(build: &Build<'_>, wanted: &Wanted<'_>, name: &str) -> Result<Generation, WorkerError> {
    let parent = folder_of(build.store, name);
    let usable = || if build.begins_anew(name) { Ok(None) } else { current(&parent) };
    if let Some(current) = usable()? {
        return Ok(current);
    }
    // Two steps that share it may both be the first: one of them fills it.
    let _filling = build.store.lock(&format!("fill-{name}"), build.cancel)?;
    if let Some(current) = usable()? {
        return Ok(current);
    }
    let (folder, lock) = begin(&parent)?;
    fill(build, wanted, folder.path())?;
    make_current(&parent, folder.path())?;
    build.note_begun(name);
    let generation = Generation { path: folder.keep(), _lock: lock };
    // What can't be removed now is left to the sweep.
    let _ = remove_unused(&parent);
    Ok(generation)
}

/// A new generation, held, and removed again unless it is kept.
fn begin(parent: &Path) -> Result<(TempDir, File), WorkerError> {
    private_folder(parent)?;
    let folder = tempfile::tempdir_in(parent).map_err(WorkerError::io("create a folder in", parent))?;
    let lock = File::open(folder.path()).map_err(WorkerError::io("open", folder.path()))?;
    lock.lock_shared().map_err(WorkerError::io("lock", folder.path()))?;
    Ok((folder, lock))
}

/// The current generation of a cache, held; `None` if there is none.
fn current(parent: &Path) -> Result<Option<Generation>, WorkerError> {
    let link = parent.join("current");
    loop {
        let target = match std::fs::read_link(&link) {
            Ok(target) => target,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(WorkerError::io("read", link)(e)),
        };
        let is_still = || std::fs::read_link(&link).is_ok_and(|now| now == target);
        let path = parent.join(&target);
        let file = match File::open(&path) {
            Ok(file) => file,
            // Removed by hand, or only since the link was read.
            Err(e) if e.kind() == ErrorKind::NotFound && is_still() => return Ok(None),
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(WorkerError::io("open", path)(e)),
        };
        match file.try_lock_shared() {
            Ok(()) if is_still() && leads_to(&path, &file) => {
                return Ok(Some(Generation { path, _lock: file }));
            }
            // It is being removed, and so no longer current.
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(WorkerError::io("lock", path)(e)),
        }
    }
}

fn make_current(parent: &Path, generation: &Path) -> Result<(), WorkerError> {
    let (new, link) = (parent.join("current.new"), parent.join("current"));
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(WorkerError::io("remove", new)(e)),
        _ => {}
    }
    symlink(generation.file_name().unwrap_or_default(), &new).map_err(WorkerError::io("create", &new))?;
    std::fs::rename(&new, &link).map_err(WorkerError::io("create", link))
}

/// Removes all generations but the current one and those that are in use.
fn remove_unused(parent: &Path) -> Result<(), WorkerError> {
    use std::os::unix::ffi::OsStrExt;
    let current = std::fs::read_link(parent.join("current")).ok();
    let tree = Tree::open(parent)?;
    for entry in std::fs::read_dir(parent).map_err(WorkerError::io("list", parent))?.flatten() {
        let name = entry.file_name();
        if name == "current" || current.as_ref().is_some_and(|c| c.as_os_str() == name) {
            continue;
        }
        let is_link = entry.file_type().is_ok_and(|t| t.is_symlink());
        let lock = if is_link { None } else { File::open(entry.path()).ok() };
        if is_link || lock.is_some_and(|file| file.try_lock().is_ok()) {
            tree.remove(name.as_bytes(), true)?;
        }
    }
    Ok(())
}

/// Gives a new generation its first content: that of its input, or an empty folder.
fn fill(build: &Build<'_>, wanted: &Wanted<'_>, parent: &Path) -> Result<(), WorkerError> {
    let to = Tree::open(parent)?;
    let data = parent.join("data");
    let Some(edge) = wanted.input else {
        to.make_dirs(b"data", 0o755, Some((0, 0)), None)?;
        return own(&data, 0o755, 0, 0);
    };
    let selector = wanted.mount.selector.as_bytes();
    let view = build.view(edge)?;
    let path = view.resolve(selector, true)?;
    if view.node(&path)?.is_none() {
        return Err(WorkerError::NotFound {
            path: wanted.mount.selector.clone(),
            place: view.place(),
            around: Box::new(Absence::of(&view, &path)),
        });
    }
    let layers = build.images.unpacked(&build.base(edge)?)?;
    let overlay = build.store.snapshots.mount_readonly(&layers)?;
    let root = overlay.root()?;
    let all = |_: &[u8], _: bool| Verdict::Include;
    let options = CopyOptions { filter: &all, ..CopyOptions::default() };
    let path = root.resolve(selector)?;
    copy_tree(&root, &path, &to, b"data", &options)?;
    let stat = root.stat(&path, true)?;
    own(&data, stat.mode, stat.uid, stat.gid)
}

fn own(path: &Path, mode: u32, uid: u32, gid: u32) -> Result<(), WorkerError> {
    chown(path, Some(uid), Some(gid)).map_err(WorkerError::io("set the owner of", path))?;
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).map_err(WorkerError::io("set the mode of", path))
}

#[cfg(test)]
mod tests;
