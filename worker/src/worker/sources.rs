//! What a worker does with sources from the network outside of a build: contexts, times, what a lock file's names
//! stand for. It does not know how a source is brought.

use super::{BuildRequest, Worker, copy_all};
use crate::WorkerError;
use crate::build::Build;
use crate::cache::{Exports, Imports};
use crate::pins::{Pin, PinnedSources, Pins, SourceName};
use crate::progress::{Progress, ProgressSink, Transfer};
use crate::remote;
use crate::ssh_agent::SshAgent;
use crate::store::private_folder;
use kiln_snapshotter::{NodeType, Tree};
use kiln_solver::SourceOp;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, PoisonError};

/// What servers may want of who asks them.
#[derive(Debug, Default)]
pub struct Access {
    /// Secrets, by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// The ssh agents, by id.
    pub ssh: BTreeMap<String, SshAgent>,
}

impl Worker {
    /// What a source from the network is called in a lock file.
    pub fn source_name(source: &SourceOp) -> Result<SourceName, WorkerError> {
        remote::pin_name(source)
    }

    /// What names of a lock file stand for now, all asked at once. Of a repository nothing is fetched.
    pub fn ask_sources(&self, names: &[SourceName], access: Access) -> Vec<Result<Pin, WorkerError>> {
        let request = BuildRequest { secrets: access.secrets, ssh: access.ssh, ..BuildRequest::empty() };
        let pins = Arc::new(Pins::new(String::new(), PinnedSources::default(), false));
        let ask = |name: &SourceName| {
            let silent = |_: Progress<'_>| {};
            let sink = ProgressSink::new(&silent);
            let transfer = |_: Transfer<'_>| {};
            let images = self.images(&transfer, &self.cancel)?;
            let (imports, exports) = (Imports::none(), Exports::none());
            let build = Build::new(&self.store, &images, &request, &sink, &self.cancel, (&imports, &exports));
            remote::ask(&build.held_to(&pins), name)
        };
        let _alive = match self.store.mark_alive() {
            Ok(alive) => alive,
            Err(error) => return vec![Err(error)],
        };
        std::thread::scope(|scope| {
            let ask = &ask;
            let threads: Vec<_> = names.iter().map(|name| scope.spawn(move || ask(name))).collect();
            let lost = || Err(WorkerError::Panicked);
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| lost())).collect()
        })
    }

    /// Brings a context from the network to `dest`: a folder, or, if that is what the web has, a file.
    /// Whether it is a folder.
    pub fn bring_context(&self, source: &SourceOp, dest: &Path) -> Result<bool, WorkerError> {
        let _alive = self.store.mark_alive()?;
        let request = BuildRequest::empty();
        let silent = |_: Progress<'_>| {};
        let (sink, cancel) = (ProgressSink::new(&silent), &self.cancel);
        let transfer = |_: Transfer<'_>| {};
        let images = self.images(&transfer, cancel)?;
        let (imports, exports) = (Imports::none(), Exports::none());
        let build = Build::new(&self.store, &images, &request, &sink, cancel, (&imports, &exports));
        let build = build.held_to(&self.pins);
        let layers = images.unpacked(&remote::bring(&build, source)?)?;
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).extend(build.fetched());
        let tree = self.store.snapshots.mount_readonly(&layers)?.root()?;
        private_folder(dest)?;
        if source.identifier.starts_with("http") {
            let names = tree.read_dir(b"")?;
            let [(name, _)] = names.as_slice() else {
                return Err(WorkerError::NoImage(source.identifier.clone()));
            };
            let file = tree.open_file(name)?;
            if self.unpack_context(file, dest)? {
                return Ok(true);
            }
            std::fs::remove_dir(dest).map_err(WorkerError::io("remove", dest))?;
            let mut to = File::create(dest).map_err(WorkerError::io("create", dest))?;
            std::io::copy(&mut tree.open_file(name)?, &mut to).map_err(WorkerError::io("write", dest))?;
            return Ok(false);
        }
        copy_all(&tree, dest)?;
        Ok(true)
    }

    /// The time of a source from the network, in seconds since 1970: of the commit, or as the web server
    /// says, or else that of the newest file in an archive. A file without any has none.
    pub fn source_time(&self, source: &SourceOp) -> Result<Option<i64>, WorkerError> {
        let _alive = self.store.mark_alive()?;
        let request = BuildRequest::empty();
        let silent = |_: Progress<'_>| {};
        let sink = ProgressSink::new(&silent);
        let transfer = |_: Transfer<'_>| {};
        let images = self.images(&transfer, &self.cancel)?;
        let (imports, exports) = (Imports::none(), Exports::none());
        let build = Build::new(&self.store, &images, &request, &sink, &self.cancel, (&imports, &exports));
        let build = build.held_to(&self.pins);
        let mut source = source.clone();
        let is_git = source.identifier.starts_with("git://");
        if is_git {
            source.attrs.insert("git.mtime".to_owned(), "commit".to_owned());
        }
        let layers = images.unpacked(&remote::bring(&build, &source)?)?;
        let tree = self.store.snapshots.mount_readonly(&layers)?.root()?;
        let Some((name, first)) = tree.scan(b"")?.into_iter().next() else { return Ok(None) };
        // A download without a time of its own has the time 0.
        if is_git || first.mtime.0 != 0 {
            return Ok(Some(first.mtime.0));
        }
        let folder = self.temporary_folder()?;
        if !self.unpack_context(tree.open_file(&name)?, folder.path())? {
            return Ok(None);
        }
        newest_file(&Tree::open(folder.path())?, b"")
    }
}

/// The time of the file beneath a folder that was changed last, in seconds since 1970.
fn newest_file(tree: &Tree, folder: &[u8]) -> Result<Option<i64>, WorkerError> {
    let mut newest = None;
    for (name, stat) in tree.scan(folder)? {
        let path = crate::local::joined(folder, &name);
        newest = newest.max(match stat.kind {
            NodeType::Directory => newest_file(tree, &path)?,
            NodeType::File => Some(stat.mtime.0),
            _ => None,
        });
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn the_newest_file_is_looked_for_in_all_folders_and_they_do_not_count() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let newest = || {
            let tree = Tree::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
            newest_file(&tree, b"").unwrap_or_else(|e| panic!("{e}"))
        };
        let date = |path: &str, time_s: u64| {
            let path = folder.path().join(path);
            let file = File::options().append(true).create(true).open(path);
            let dated = file.and_then(|file| file.set_modified(UNIX_EPOCH + Duration::from_secs(time_s)));
            dated.unwrap_or_else(|e| panic!("{e}"));
        };
        assert!(std::fs::create_dir_all(folder.path().join("a/b")).is_ok());
        assert!(std::os::unix::fs::symlink("a", folder.path().join("link")).is_ok());
        assert_eq!(newest(), None);
        date("a/old", 7);
        assert_eq!(newest(), Some(7));
        date("a/b/new", 9);
        date("top", 8);
        assert_eq!(newest(), Some(9));
    }
}
