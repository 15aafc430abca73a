//! Cache mounts that shared caches carry: brought here before the first step that uses them, sent when the build is
//! done. It does not know what is in them.

use super::Build;
use crate::WorkerError;
use crate::cache::{CachePlace, ReadCache, SharedMount};
use crate::cache_mount::{self, PackedMount};
use crate::export::Exporter;
use crate::progress::Progress;
use kiln_oci::Descriptor;
use kiln_solver::{Definition, MountKind, Op};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::PoisonError;
use std::time::Instant;

impl Build<'_> {
    /// Brings a cache mount here from the first shared cache that has it, unless steps of this machine have used one of
    /// that id already. Once in a build: who comes second waits for who came first.
    pub fn bring_mount(&self, id: &str) -> Result<(), WorkerError> {
        let mut brought = self.brought_mounts.lock().unwrap_or_else(PoisonError::into_inner);
        if !brought.insert(id.to_owned()) || cache_mount::is_used(self.store, id)? {
            return Ok(());
        }
        for (place, cache) in self.imports.all(self.progress)? {
            let mut mounts =
                cache.mounts.iter().filter(|mount| mount.id == cache_mount::familiar(id)).peekable();
            if mounts.peek().is_none() {
                continue;
            }
            let task = format!("importing cache mount {} from {}", cache_mount::familiar(id), place.name());
            let started = Instant::now();
            self.progress.send(Progress::Task { name: &task, took: None });
            for mount in mounts {
                match self.bring(&*place, mount) {
                    Err(WorkerError::Canceled) => return Err(WorkerError::Canceled),
                    Err(error) => self.imports.give_up(&place.name(), error, self.progress)?,
                    Ok(()) => {}
                }
            }
            self.progress.send(Progress::Task { name: &task, took: Some(started.elapsed()) });
            return Ok(());
        }
        Ok(())
    }

    fn bring(&self, place: &dyn CachePlace, mount: &SharedMount) -> Result<(), WorkerError> {
        let mut manifest = Vec::new();
        let mut file = self.brought(place, &mount.manifest)?;
        file.read_to_end(&mut manifest)
            .map_err(WorkerError::io("read", mount.manifest.digest.to_string()))?;
        let open = |piece: &Descriptor| -> Result<Box<dyn Read>, WorkerError> {
            Ok(Box::new(self.brought(place, piece)?))
        };
        cache_mount::unpack(self.store, &manifest, &open, self.cancel).map(drop)
    }

    /// A blob of a shared cache, here and verified.
    fn brought(&self, place: &dyn CachePlace, blob: &Descriptor) -> Result<File, WorkerError> {
        let content = &self.store.content;
        if !content.has(blob) {
            let mut writer = content.writer()?;
            let read = place.read(blob, &mut |bytes| writer.write_all(bytes));
            read.map_err(|error| error.of(&place.name()))?;
            writer.commit_verified_as(blob)?;
        }
        Ok(content.blob(&blob.digest)?)
    }

    /// Sends the cache mounts that the caches want. One that is not here, since nothing had to run, is passed on from
    /// the cache that has it.
    pub fn send_mounts(&self, exporter: &Exporter<'_>) -> Result<(), WorkerError> {
        if !self.exports.want_mounts() {
            return Ok(());
        }
        let used = ids_used(&self.request.definition);
        let shared = self.imports.all(self.progress)?;
        let mut packed: Vec<(String, Vec<PackedMount>)> = Vec::new();
        for id in self.exports.mounts_wanted(&used) {
            let task = format!("packing cache mount {id}");
            let mounts =
                exporter.task(&task, || cache_mount::pack(self.store, &id, &|_| false, self.cancel))?;
            packed.push((id, mounts));
        }
        for (id, mounts) in packed {
            let from = if mounts.is_empty() { first_with(&shared, &id) } else { None };
            let mounts: Vec<SharedMount> = match &from {
                Some((_, passed)) => passed.clone(),
                None => mounts.into_iter().map(SharedMount::from).collect(),
            };
            let open = |blob: &Descriptor| -> std::io::Result<File> {
                if let Some((place, _)) = &from {
                    return self.brought(&***place, blob).map_err(std::io::Error::other);
                }
                self.store.content.blob(&blob.digest).map_err(std::io::Error::other)
            };
            self.exports.send_mounts(&id, &used, &mounts, &open);
        }
        Ok(())
    }
}

/// The first cache that has a mount of an id, and all of that id that it has.
fn first_with<'c>(
    shared: &'c [ReadCache],
    id: &str,
) -> Option<(&'c std::sync::Arc<dyn CachePlace>, Vec<SharedMount>)> {
    shared.iter().find_map(|(place, cache)| {
        let of_id = |mount: &&SharedMount| mount.id == id;
        let mounts: Vec<SharedMount> = cache.mounts.iter().filter(of_id).cloned().collect();
        (!mounts.is_empty()).then_some((place, mounts))
    })
}

/// The ids of the cache mounts that steps of a graph have, as users write them.
fn ids_used(definition: &Definition) -> BTreeSet<String> {
    let execs = definition.vertices().iter().filter_map(|vertex| match &vertex.op {
        Op::Exec(exec) => Some(exec),
        _ => None,
    });
    let ids = execs.flat_map(|exec| &exec.mounts).filter_map(|mount| match &mount.kind {
        MountKind::Cache { id, .. } => Some(cache_mount::familiar(id).to_owned()),
        _ => None,
    });
    ids.collect()
}

impl From<PackedMount> for SharedMount {
    fn from(packed: PackedMount) -> SharedMount {
        let PackedMount { id, name, manifest, pieces } = packed;
        SharedMount { id, name, manifest, pieces }
    }
}
