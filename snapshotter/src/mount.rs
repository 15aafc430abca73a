//! Overlay mounts that are in no mount namespace: a descriptor is all there is of them, so that a
//! process that dies leaves none.
//! It does not know what is in the layers, nor where a mount will be attached.

use crate::error::{SnapshotError, cannot};
use crate::id::SnapshotId;
use crate::node;
use crate::store::{Active, Marks, Snapshotter};
use crate::tree::Tree;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use rustix::thread::UnshareFlags;
use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many layers overlayfs can stack.
pub const MAX_LAYERS: usize = 500;

/// A mounted stack of layers. Dropped, it is unmounted, unless a copy of its descriptor lives on.
#[derive(Debug)]
pub struct Mount {
    fd: OwnedFd,
}

impl Mount {
    /// The root of the mount.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Another descriptor of the same mount.
    pub fn try_clone(&self) -> Result<OwnedFd, SnapshotError> {
        self.fd.try_clone().map_err(cannot("copy the descriptor of", b"/"))
    }

    /// The files in it. The mount stays for as long as the tree.
    pub fn root(&self) -> Result<Tree, SnapshotError> {
        self.try_clone().map(Tree::at)
    }
}

impl AsFd for Mount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Snapshotter {
    /// Mounts `layers`, from the lowest up, with `active` on top, into which all changes go.
    pub fn mount(&self, layers: &[SnapshotId], active: &Active) -> Result<Mount, SnapshotError> {
        let work = active.dir();
        // A volatile overlay marks its work folder as not to be used again; ours is made anew.
        node::remove_all(work, b"work").map_err(cannot("remove", b"work"))?;
        rustix::fs::mkdirat(work, "work", Mode::from_raw_mode(0o700)).map_err(cannot("make", b"work"))?;
        self.overlay(layers, Some(active))
    }

    /// Mounts `layers`, from the lowest up, so that nothing can be changed.
    pub fn mount_readonly(&self, layers: &[SnapshotId]) -> Result<Mount, SnapshotError> {
        self.overlay(layers, None)
    }

    fn overlay(&self, layers: &[SnapshotId], active: Option<&Active>) -> Result<Mount, SnapshotError> {
        let layers = &highest_only(layers);
        if layers.len() > MAX_LAYERS {
            return Err(SnapshotError::TooManyLayers { count: layers.len(), limit: MAX_LAYERS });
        }
        // Overlayfs wants a layer below an upper one, and two where nothing is to be written.
        let lowest: usize = if active.is_some() { 1 } else { 2 };
        let mut lower = Vec::with_capacity(layers.len() + 2);
        for id in layers.iter().rev() {
            lower.push(Folder { fd: self.open_fs(id)?, name: format!("{id}/fs") });
        }
        for name in ["empty/a", "empty/b"].into_iter().take(lowest.saturating_sub(layers.len())) {
            let fd = node::open_dir(&self.dir, name.as_bytes()).map_err(cannot("open", name.as_bytes()))?;
            lower.push(Folder { fd, name: name.to_owned() });
        }
        let upper = match active {
            Some(active) => {
                let part = |name: &str| -> Result<Folder, SnapshotError> {
                    let fd = node::open_dir(active.dir(), name.as_bytes())
                        .map_err(cannot("open", name.as_bytes()))?;
                    Ok(Folder { fd, name: format!("{}/{name}", active.id()) })
                };
                Some((part("fs")?, part("work")?))
            }
            None => None,
        };
        // A thread that takes the folder of the snapshots for its root: the kernel then writes down the
        // layers' names beneath that, and what is mounted does not tell where the store is.
        let nameless = std::thread::scope(|scope| {
            let mount = || -> Option<Mount> {
                own_root().ok()?;
                rustix::process::fchdir(&self.dir).ok()?;
                rustix::process::chroot(".").ok()?;
                let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
                self.configure(&context, &lower, upper.as_ref()).ok()
            };
            scope.spawn(mount).join().ok().flatten()
        });
        if let Some(mount) = nameless {
            return Ok(mount);
        }
        // What went wrong is told by doing it once more without; kernels before 6.13 know no other way.
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(cannot("mount", b"overlay"))?;
        self.configure(&context, &lower, upper.as_ref()).map_err(|source| SnapshotError::Overlay {
            layers: layers.len(),
            detail: kernel_words(&context),
            source: source.into(),
        })
    }

    fn configure(
        &self,
        context: &OwnedFd,
        lower: &[Folder],
        upper: Option<&(Folder, Folder)>,
    ) -> rustix::io::Result<Mount> {
        for folder in lower {
            self.set_folder(context, "lowerdir+", folder)?;
        }
        let mut attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
        if let Some((fs, work)) = upper {
            attributes = MountAttrFlags::empty();
            self.set_folder(context, "upperdir", fs)?;
            self.set_folder(context, "workdir", work)?;
            // Kernels before 5.10 sync at unmount instead.
            ignore_unknown(fsconfig_set_flag(context, "volatile"))?;
        }
        for (key, value) in [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off"), ("xino", "off")]
        {
            ignore_unknown(fsconfig_set_string(context, key, value))?;
        }
        if self.marks == Marks::User {
            fsconfig_set_flag(context, "userxattr")?;
        }
        fsconfig_create(context)?;
        let fd = fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        Ok(Mount { fd })
    }

    /// Names a folder by its descriptor, or for kernels before 6.13 by its path.
    fn set_folder(&self, context: &OwnedFd, key: &str, folder: &Folder) -> rustix::io::Result<()> {
        match fsconfig_set_fd(context, key, &folder.fd) {
            Err(Errno::INVAL) => fsconfig_set_string(context, key, self.path.join(&folder.name).as_os_str()),
            done => done,
        }
    }
}

/// The layers without the lower ones of those that come twice, which overlayfs refuses. The highest hides
/// all that the same layer further down could show.
fn highest_only(layers: &[SnapshotId]) -> Vec<SnapshotId> {
    let mut seen = HashSet::new();
    let mut kept: Vec<SnapshotId> = layers.iter().rev().filter(|id| seen.insert(**id)).copied().collect();
    kept.reverse();
    kept
}

/// Lets the calling thread have a root and a current folder of its own.
#[expect(unsafe_code, reason = "rustix cannot know which flags are harmless")]
fn own_root() -> rustix::io::Result<()> {
    // SAFETY: FS alone is unshared, no descriptors and no memory: nothing that another thread, or a value of
    // this one, relies on changes.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }
}

struct Folder {
    fd: OwnedFd,
    /// Its path beneath the store.
    name: String,
}

fn ignore_unknown(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::INVAL) => Ok(()),
        other => other,
    }
}

/// What the kernel wrote about a refused mount, after a colon.
fn kernel_words(context: &OwnedFd) -> String {
    let mut words = String::new();
    let mut line = [0; 512];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut line) {
        let text = String::from_utf8_lossy(&line[..length]);
        words.push_str(": ");
        words.push_str(text.trim_start_matches(['e', 'w', 'i']).trim());
    }
    words
}

impl Active {
    /// The files of the snapshot alone, without an overlay: for a layer that is made on nothing.
    pub fn tree(&self) -> Result<Tree, SnapshotError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(self.open_fs()?, ".", flags, Mode::empty()).map_err(cannot("open", b"/"))?;
        Ok(Tree::at(fd))
    }
}
