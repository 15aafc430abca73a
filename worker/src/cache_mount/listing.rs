//! Which cache mounts a store has, and how one is removed. It does not know what is in them.

use super::manifest::CacheMountError;
use super::pack::memo_name;
use super::scan::unless_gone;
use super::{current, familiar, folder_of, lock_name};
use crate::WorkerError;
use crate::meta::CacheMountRow;
use crate::store::Store;
use kiln_snapshotter::{NodeType, Tree};
use std::collections::{HashMap, HashSet};

/// How many characters of a name are enough to mean it.
const NAME_CHARS_MIN: usize = 12;

/// A cache mount of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMount {
    /// Its id; `None` for one that was made by a kiln that kept none.
    pub id: Option<String>,
    /// What its folder is called: 64 digits, and behind them `-1` or more for what private steps had besides.
    pub name: String,
    /// Content and path that it began with; empty for an empty folder.
    pub begins: String,
    /// How many bytes its files have.
    pub bytes: u64,
    /// When a step used it last, or it was brought in, in seconds since 1970.
    pub used_s: Option<i64>,
}

impl CacheMount {
    /// The number among those that private steps of one id had besides the first.
    pub fn fork(&self) -> Option<u32> {
        self.name.split_once('-').and_then(|(_, number)| number.parse().ok())
    }
}

/// The cache mounts of a store, by id.
pub(crate) fn list(store: &Store) -> Result<Vec<CacheMount>, WorkerError> {
    let rows = store.meta.cache_mounts()?;
    let mut rows: HashMap<String, CacheMountRow> = rows.into_iter().map(|r| (r.name.clone(), r)).collect();
    let mut all = Vec::new();
    let folder = store.root.join("cache-mounts");
    for entry in std::fs::read_dir(&folder).map_err(WorkerError::io("list", &folder))?.flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        // Held, so that nobody removes it while it is looked at.
        let Some(generation) = current(&entry.path())? else { continue };
        let bytes = size_bytes(&Tree::open(&generation.path)?)?;
        let row = rows.remove(&name);
        let used_s = row.as_ref().map(|row| row.used_s);
        let (id, begins) =
            row.map_or((None, String::new()), |row| (Some(familiar(&row.id).to_owned()), row.begins));
        all.push(CacheMount { id, name, begins, bytes, used_s });
    }
    let number = |mount: &CacheMount| mount.fork().unwrap_or(0);
    all.sort_by(|a, b| {
        let key = |m: &CacheMount| (m.id.is_none(), m.id.clone(), m.name.get(..64).map(str::to_owned));
        key(a).cmp(&key(b)).then(number(a).cmp(&number(b)))
    });
    Ok(all)
}

/// The ids of all cache mounts that can be packed.
pub(crate) fn ids(store: &Store) -> Result<Vec<String>, WorkerError> {
    let rows = store.meta.cache_mounts()?.into_iter();
    let rows = rows.filter(|row| folder_of(store, &row.name).join("current").is_dir());
    let mut ids: Vec<String> = rows.map(|row| familiar(&row.id).to_owned()).collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The cache mounts that `wanted` means: all of an id, or one by its name or the start of that.
pub(crate) fn find(all: &[CacheMount], wanted: &str) -> Result<Vec<CacheMount>, WorkerError> {
    let of_id = |m: &&CacheMount| m.id.as_deref() == Some(wanted);
    let found: Vec<CacheMount> = all.iter().filter(of_id).cloned().collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let (digits, fork) = wanted.split_once('-').map_or((wanted, None), |(d, n)| (d, Some(n)));
    let is_meant = |mount: &&CacheMount| {
        let (name, number) = mount.name.split_once('-').map_or((&*mount.name, None), |(d, n)| (d, Some(n)));
        digits.len() >= NAME_CHARS_MIN && name.starts_with(digits) && number == fork
    };
    let found: Vec<CacheMount> = all.iter().filter(is_meant).cloned().collect();
    match found.as_slice() {
        [_] => Ok(found),
        _ => Err(CacheMountError::NoMount(wanted.to_owned()).into()),
    }
}

/// Removes a cache mount; not one that a step uses.
pub(crate) fn remove(store: &Store, mount: &CacheMount) -> Result<(), WorkerError> {
    let name = &mount.name;
    let in_use = || {
        let id = mount.id.clone().unwrap_or_else(|| name.clone());
        CacheMountError::InUse { id, holder: store.holder(&lock_name(name)) }
    };
    let _held = store.try_lock(&lock_name(name))?.ok_or_else(in_use)?;
    let _filling = store.try_lock(&format!("fill-{name}"))?.ok_or_else(in_use)?;
    let folder = folder_of(store, name);
    let tree = Tree::open(&store.root.join("cache-mounts"))?;
    // Without the link all the rest is garbage, whatever happens meanwhile.
    unless_gone(tree.remove([name.as_bytes(), b"/current"].concat().as_slice(), false))?;
    store.meta.forget_cache_mount(name)?;
    store.meta.forget_memo(&memo_name(name))?;
    super::remove_unused(&folder)?;
    // Somebody may look at a generation just now; the sweep finds it.
    let _ = std::fs::remove_dir(&folder);
    Ok(())
}

/// The bytes of all files of a tree, each counted once.
fn size_bytes(tree: &Tree) -> Result<u64, WorkerError> {
    let (mut bytes, mut linked) = (0, HashSet::new());
    let mut folders = vec![Vec::new()];
    while let Some(folder) = folders.pop() {
        let Some(names) = unless_gone(tree.scan(&folder))? else { continue };
        for (name, stat) in names {
            if stat.kind == NodeType::Directory {
                folders.push([&folder, &b"/"[..], &name].concat());
            } else if stat.links < 2 || linked.insert((stat.device, stat.inode)) {
                bytes += stat.size;
            }
        }
    }
    Ok(bytes)
}
