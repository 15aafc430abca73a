//! Makes room on a disk that is full, and has what failed done once more. Which disk: that of the store.
//! It does not know what is written there.

use super::inventory::usage;
use super::prune::free_space;
use super::{Kind, UsageItem};
use crate::WorkerError;
use crate::store::Store;
use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::PoisonError;

/// A file system with less than one part in so many is nearly full,
const SHARE: u64 = 50;
/// if it is also less than this. What fills a disk is mostly written in pieces, and the last one did not fit.
const NEARLY_BYTES: u64 = 16 << 20;
/// The same for the number of files.
const NEARLY_FILES: u64 = 100;

/// What a file system has and what of it is free, for users other than root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub bytes: u64,
    pub free_bytes: u64,
    /// 0 where files are not counted.
    pub files: u64,
    pub free_files: u64,
}

/// A disk with too little room for what had to be written, and what the store has to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The store's folder.
    pub root: PathBuf,
    /// What its file system has, in bytes.
    pub disk_bytes: u64,
    /// What of it was free.
    pub free_bytes: u64,
    /// How many more files it could have had; none where they are not counted.
    pub free_files: Option<u64>,
    /// What the store takes, if that could be found out.
    pub store_bytes: Option<u64>,
    /// What of it names and live processes need.
    pub needed_bytes: u64,
    /// What of it are cache mounts that nobody uses: only `kiln prune --all` gives them up.
    pub cache_mount_bytes: u64,
}

impl Space {
    /// Whether a program that failed may well have failed because of this.
    pub fn is_nearly_full(&self) -> bool {
        let short = |free: u64, all: u64, least: u64| all > 0 && free <= (all / SHARE).min(least);
        short(self.free_bytes, self.bytes, NEARLY_BYTES) || short(self.free_files, self.files, NEARLY_FILES)
    }
}

impl Store {
    /// What the store's file system has.
    pub fn space(&self) -> Result<Space, WorkerError> {
        let stat =
            rustix::fs::statvfs(&self.root).map_err(|e| WorkerError::io("look at", &self.root)(e.into()))?;
        Ok(Space {
            bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            files: stat.f_files,
            free_files: stat.f_ffree,
        })
    }

    /// The shortage that there is now, if the disk is nearly full.
    pub fn shortage(&self) -> Option<Box<Shortage>> {
        let space = self.space().ok().filter(Space::is_nearly_full)?;
        Some(Box::new(self.shortage_of(space)))
    }

    fn shortage_of(&self, space: Space) -> Shortage {
        Shortage {
            root: self.root.clone(),
            disk_bytes: space.bytes,
            free_bytes: space.free_bytes,
            free_files: (space.files > 0).then_some(space.free_files),
            store_bytes: None,
            needed_bytes: 0,
            cache_mount_bytes: 0,
        }
    }

    /// Does something that writes to the store; once more if the disk was full and there was something to give up.
    /// `work` must begin anew each time. It gets whether it is the second time.
    pub fn with_space<T>(
        &self,
        mut work: impl FnMut(bool) -> Result<T, WorkerError>,
    ) -> Result<T, WorkerError> {
        let before = self.rounds();
        let error = match work(false) {
            Err(error) if wants_room(&error) => error,
            done => return done,
        };
        // Looked at before anything goes: these are the figures of the failure.
        let space = self.space().ok();
        if self.make_room(before) {
            return work(true).map_err(|error| self.explained(error, None));
        }
        Err(self.explained(error, space))
    }

    /// How often room was made by this process.
    pub fn rounds(&self) -> u64 {
        *self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up all that can be made anew. Whether there is more room than when [`Store::rounds`] was `before`:
    /// threads that fail together need it only once.
    pub fn make_room(&self, before: u64) -> bool {
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        if *rounds == before && free_space(self).is_ok_and(|freed| freed > 0) {
            *rounds += 1;
        }
        *rounds > before
    }

    /// An error with the figures of the disk, if it is one of a full disk.
    fn explained(&self, error: WorkerError, space: Option<Space>) -> WorkerError {
        if !wants_room(&error) {
            return error;
        }
        let (command, status, mut shortage) = match error {
            WorkerError::Step { command, status, disk: Some(disk) } => (command, status, disk),
            error => {
                let Some(space) = space.or_else(|| self.space().ok()) else { return error };
                let mut shortage = self.shortage_of(space);
                self.count(&mut shortage);
                return WorkerError::NoRoom { shortage: Box::new(shortage), error: Box::new(error) };
            }
        };
        self.count(&mut shortage);
        WorkerError::Step { command, status, disk: Some(shortage) }
    }

    fn count(&self, shortage: &mut Shortage) {
        let Ok(usage) = usage(self) else { return };
        shortage.store_bytes = Some(usage.bytes());
        let sum = |is_meant: &dyn Fn(&UsageItem) -> bool| -> u64 {
            usage.items.iter().filter(|item| is_meant(item)).map(|item| item.bytes).sum()
        };
        shortage.needed_bytes = sum(&|item| !item.is_reclaimable());
        shortage.cache_mount_bytes = sum(&|item| item.is_reclaimable() && item.kind == Kind::CacheMount);
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| format!("{}.{}MB", bytes / 1_000_000, bytes / 100_000 % 10);
        let (free, all) = (mb(self.free_bytes), mb(self.disk_bytes));
        write!(f, "the disk of the store {} is full: {free} of {all} are free", self.root.display())?;
        if let Some(files) = self.free_files.filter(|files| *files <= NEARLY_FILES) {
            write!(f, ", for {files} more files")?;
        }
        if let Some(bytes) = self.store_bytes {
            let (bytes, needed) = (mb(bytes), mb(self.needed_bytes));
            write!(f, "; the store takes {bytes}, of which names and running builds need {needed}")?;
        }
        if self.cache_mount_bytes > 0 {
            let bytes = mb(self.cache_mount_bytes);
            write!(f, "; kiln prune --all gives up cache mounts too ({bytes})")?;
        }
        write!(
            f,
            "; make room (kiln rmi and kiln prune, or a smaller --store-max), or put the store on another disk with --root"
        )
    }
}

/// Whether an error is of a kind that more room may help against.
fn wants_room(error: &WorkerError) -> bool {
    matches!(error, WorkerError::Step { disk: Some(_), .. }) || is_full(error)
}

/// Whether an error says that the disk is full, and room was not yet made for it.
pub(crate) fn is_full(error: &WorkerError) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if matches!(error.downcast_ref(), Some(WorkerError::NoRoom { .. })) {
            return false;
        }
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
            return true;
        }
        let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
        if code == Some(rusqlite::ErrorCode::DiskFull) {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_disk_is_nearly_full_by_its_share_and_never_with_much_left() {
        for (free, all, want) in [
            (0, 64 * MIB, true),
            (MIB, 64 * MIB, true),
            (2 * MIB, 64 * MIB, false),
            (16 * MIB, 1 << 40, true),
            (17 * MIB, 1 << 40, false),
            (0, 0, false),
        ] {
            let space = Space { bytes: all, free_bytes: free, files: 0, free_files: 0 };
            assert_eq!(space.is_nearly_full(), want, "{free} of {all}");
        }
        for (free, all, want) in [(0, 1000, true), (20, 1000, true), (21, 1000, false), (101, 1 << 30, false)]
        {
            let space = Space { bytes: 1 << 40, free_bytes: 1 << 39, files: all, free_files: free };
            assert_eq!(space.is_nearly_full(), want, "{free} of {all} files");
        }
    }

    #[test]
    fn full_disks_quotas_and_databases_are_told_from_other_failures() {
        let of_kind = |kind| WorkerError::io("write", "/x")(io::Error::from(kind));
        assert!(is_full(&of_kind(ErrorKind::StorageFull)));
        assert!(is_full(&of_kind(ErrorKind::QuotaExceeded)));
        assert!(!is_full(&of_kind(ErrorKind::PermissionDenied)));
        let sqlite = |code| {
            let source = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            WorkerError::Metadata { path: "meta.db".into(), source }
        };
        assert!(is_full(&sqlite(rusqlite::ffi::SQLITE_FULL)));
        assert!(!is_full(&sqlite(rusqlite::ffi::SQLITE_BUSY)));
    }
}
