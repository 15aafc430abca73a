//! Files that appear whole or not at all, wherever the user says: in a folder, through his own links, into
//! pipes and devices. It does not know what is written.

use super::stopping::{self, Stopping};
use crate::WorkerError;
use crate::keeping::is_full;
use kiln_runner::CancelToken;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;
/// What is collected before it goes to the file.
const BUFFER_BYTES: usize = 1 << 20;
/// How long another process may take to change a file, and how often it is looked whether it is done.
const CHANGE_MAX: Duration = Duration::from_secs(10);
const CHANGE_POLL: Duration = Duration::from_millis(5);
/// What the umask takes from.
const MODE: u32 = 0o666;
/// How a file is called that is about to get its name.
const PREFIX: &str = ".kiln-";

/// Where bytes really go.
enum Destination {
    StandardOutput,
    /// A pipe, a device, a descriptor of a process: it can't be replaced, only written to.
    Stream(PathBuf),
    /// A file that is or will be at a path which is no link.
    File(PathBuf),
}

/// A file without a name, or, where a file system has no such thing, with one that goes away.
enum Unfinished {
    Nameless(File),
    Named(tempfile::NamedTempFile),
}

/// Writes a small file that is there whole or not at all, as an output is.
pub fn write_whole(dest: &Path, bytes: &[u8]) -> Result<(), WorkerError> {
    whole(Some(dest), &CancelToken::new(), |out| out.write_all(bytes).map_err(WorkerError::io("write", dest)))
}

/// Changes a small file, of at most so many bytes, while no other process changes it by this function: `change` is
/// given what is in it, nothing if it is not there, and gives what is to be in it, nothing if it is to stay so.
/// It may be called again if somebody else came first.
///
/// The lock is on the file itself, which needs no second file beside it. Whoever waited for it and then sees another
/// file under the name begins anew. A new file gets its name only where there is none by then.
/// The user's own links are followed, as for an output: what they lead to is replaced, and they stay. What is no
/// file is refused.
pub fn change_whole<E: From<WorkerError>>(
    dest: &Path,
    max_bytes: u64,
    mut change: impl FnMut(Option<&[u8]>) -> Result<Option<Vec<u8>>, E>,
) -> Result<(), E> {
    let began = Instant::now();
    loop {
        let Destination::File(path) = destination(dest)? else {
            return Err(WorkerError::io("change", dest)(Errno::NODEV.into()).into());
        };
        let held = held(&path, dest, began)?;
        let before = match &held {
            Held::File(file) => {
                let mut bytes = Vec::new();
                file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(WorkerError::io("read", dest))?;
                if bytes.len() as u64 > max_bytes {
                    return Err(WorkerError::io("read", dest)(io::ErrorKind::FileTooLarge.into()).into());
                }
                Some(bytes)
            }
            Held::Nothing => None,
            Held::Gone => continue,
        };
        let Some(after) = change(before.as_deref())? else { return Ok(()) };
        let unfinished = Unfinished::for_file(&path, dest)?;
        if let Held::File(old) = &held {
            // root does not take over a user's file. Who is not root can give nothing away.
            let old = old.metadata().map_err(WorkerError::io("look at", dest))?;
            let _ = std::os::unix::fs::fchown(unfinished.file(), Some(old.uid()), Some(old.gid()));
        }
        unfinished.file().write_all(&after).map_err(WorkerError::io("write", dest))?;
        unfinished.file().sync_data().map_err(WorkerError::io("write", dest))?;
        let published = match held {
            Held::File(_) => unfinished.publish(&path),
            _ => unfinished.publish_new(&path),
        };
        match published {
            Err(e) if before.is_none() && e.kind() == io::ErrorKind::AlreadyExists => {}
            published => return Ok(published.map_err(WorkerError::io("create", dest))?),
        }
    }
}

/// What is under a name.
enum Held {
    /// A file that no other process changes now.
    File(File),
    Nothing,
    /// Another file than a moment ago.
    Gone,
}

/// Waits until nobody else changes the file.
fn held(path: &Path, name: &Path, began: Instant) -> Result<Held, WorkerError> {
    // Reading is enough for the lock, and a file that may not be written can still be replaced.
    let file = match rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(Held::Nothing),
        Err(Errno::LOOP) => return Ok(Held::Gone),
        Err(e) => return Err(WorkerError::io("read", name)(e.into())),
    };
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK | Errno::INTR) if began.elapsed() < CHANGE_MAX => {
                std::thread::sleep(CHANGE_POLL)
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(WorkerError::Held { path: name.to_owned(), seconds: CHANGE_MAX.as_secs() });
            }
            // A file system without locks: the rename is all that there is against others.
            Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::BADF) => break,
            Err(e) => return Err(WorkerError::io("lock", name)(e.into())),
        }
    }
    let locked = file.metadata().map_err(WorkerError::io("look at", name))?;
    Ok(match std::fs::symlink_metadata(path) {
        Ok(now) if (now.dev(), now.ino()) == (locked.dev(), locked.ino()) => Held::File(file),
        _ => Held::Gone,
    })
}

/// Writes to `dest`, or to standard output if that is `None`. A file takes the place of what was there
/// only once it is whole and on the disk, and never after the token was cancelled.
pub(crate) fn whole(
    dest: Option<&Path>,
    cancel: &CancelToken,
    write: impl FnOnce(&mut dyn Write) -> Result<(), WorkerError>,
) -> Result<(), WorkerError> {
    let name = dest.unwrap_or(Path::new("standard output"));
    match dest.map_or(Ok(Destination::StandardOutput), destination)? {
        Destination::StandardOutput => {
            let out = io::stdout().as_fd().try_clone_to_owned();
            let out = File::from(out.map_err(WorkerError::io("write to", name))?);
            filled(&out, name, cancel, write)
        }
        Destination::Stream(path) => {
            // A file that a descriptor leads to goes on where it ends.
            let out = File::options().append(true).open(path).map_err(WorkerError::io("open", name))?;
            filled(&out, name, cancel, write)
        }
        Destination::File(path) => {
            let unfinished = Unfinished::for_file(&path, name)?;
            filled(unfinished.file(), name, cancel, write)?;
            unfinished.file().sync_data().map_err(WorkerError::io("write", name))?;
            stopping::check(cancel)?;
            unfinished.publish(&path).map_err(WorkerError::io("create", name))
        }
    }
}

fn filled(
    out: &File,
    name: &Path,
    cancel: &CancelToken,
    write: impl FnOnce(&mut dyn Write) -> Result<(), WorkerError>,
) -> Result<(), WorkerError> {
    stopping::check(cancel)?;
    let mut out = Stopping { inner: BufWriter::with_capacity(BUFFER_BYTES, out), cancel };
    let written = write(&mut out).and_then(|()| out.inner.flush().map_err(WorkerError::io("write to", name)));
    if written.is_err() {
        // What is still held back would be written when it is dropped.
        let _ = out.inner.into_parts();
    }
    written.map_err(|error| stopping::because_of(cancel)(of_disk(error, name)))
}

/// The store tells of its own disk: else it is the output's that is full, whatever was being written.
fn of_disk(error: WorkerError, name: &Path) -> WorkerError {
    if !is_full(&error) {
        return error;
    }
    WorkerError::io("write", name)(Errno::NOSPC.into())
}

/// Follows the user's own links, to write beside what they lead to and not to replace them.
fn destination(dest: &Path) -> Result<Destination, WorkerError> {
    let mut path = dest.to_owned();
    for _ in 0..=LINKS_MAX {
        if let Some(number) = descriptor(&path) {
            let own_output = number == "1" && folder_of(&path).canonicalize().ok() == own_descriptors();
            return Ok(if own_output { Destination::StandardOutput } else { Destination::Stream(path) });
        }
        let there = match std::fs::symlink_metadata(&path) {
            Ok(there) => there,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Destination::File(path)),
            Err(e) => return Err(WorkerError::io("look at", dest)(e)),
        };
        if there.is_file() {
            return Ok(Destination::File(path));
        }
        if !there.is_symlink() {
            return Ok(Destination::Stream(path));
        }
        // Nobody else says where this process writes. What is root's is the machine's.
        let own = rustix::process::geteuid().as_raw();
        if there.uid() != own && there.uid() != 0 {
            return Err(WorkerError::Link { path: path.clone() });
        }
        let target = std::fs::read_link(&path).map_err(WorkerError::io("read the link", dest))?;
        path = folder_of(&path).join(target);
    }
    Err(WorkerError::io("follow", dest)(Errno::LOOP.into()))
}

/// The number, if a path is that of a descriptor of a process, which looks like a link but is none.
fn descriptor(path: &Path) -> Option<&str> {
    let number = path.file_name()?.to_str().filter(|name| name.bytes().all(|c| c.is_ascii_digit()))?;
    let folder = folder_of(path).canonicalize().ok()?;
    (folder.starts_with("/proc") && folder.ends_with("fd")).then_some(number)
}

fn own_descriptors() -> Option<PathBuf> {
    Path::new("/proc/self/fd").canonicalize().ok()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Unfinished {
    /// A file on the file system of `path`, with the mode of the file that it will replace; that of a new
    /// file is what the umask leaves.
    fn for_file(path: &Path, name: &Path) -> Result<Unfinished, WorkerError> {
        let folder = folder_of(path);
        let mode = std::fs::symlink_metadata(path).ok().map(|there| there.mode() & 0o777);
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let unfinished = match rustix::fs::open(folder, flags, Mode::from_raw_mode(MODE)) {
            Ok(fd) if own_descriptors().is_some() => Unfinished::Nameless(File::from(fd)),
            Ok(_) | Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let mut named = tempfile::Builder::new();
                let named = named.prefix(PREFIX).permissions(Permissions::from_mode(MODE));
                Unfinished::Named(named.tempfile_in(folder).map_err(WorkerError::io("create", name))?)
            }
            Err(e) => return Err(WorkerError::io("create", name)(e.into())),
        };
        if let Some(mode) = mode {
            let set = unfinished.file().set_permissions(Permissions::from_mode(mode));
            set.map_err(WorkerError::io("set the mode of", name))?;
        }
        Ok(unfinished)
    }

    /// Gives the file a name that nothing has; else it is an error.
    fn publish_new(self, path: &Path) -> io::Result<()> {
        match self {
            Unfinished::Named(file) => drop(file.persist_noclobber(path).map_err(|e| e.error)?),
            Unfinished::Nameless(file) => link(&file, path)?,
        }
        let _ = File::open(folder_of(path)).and_then(|folder| folder.sync_all());
        Ok(())
    }

    fn file(&self) -> &File {
        match self {
            Unfinished::Nameless(file) => file,
            Unfinished::Named(file) => file.as_file(),
        }
    }

    /// Gives the file its name, at once and for all.
    fn publish(self, path: &Path) -> io::Result<()> {
        let folder = folder_of(path);
        match self {
            Unfinished::Named(file) => {
                file.persist(path).map_err(|e| e.error)?;
            }
            Unfinished::Nameless(file) => match link(&file, path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    // Only a rename can replace: for that it needs a name.
                    let mut named = tempfile::Builder::new();
                    let named = named.prefix(PREFIX).make_in(folder, |beside| link(&file, beside))?;
                    named.persist(path).map_err(|e| e.error)?;
                }
                linked => linked?,
            },
        }
        // It is there and whole; a folder that can't be synced is one of a file system without that.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

fn link(file: &File, path: &Path) -> io::Result<()> {
    let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, nameless, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(test)]
mod tests;
