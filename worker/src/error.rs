//! What can go wrong while actions are performed, as far as a caller can tell it apart.
//! It does not know exit codes or colours.

use crate::absence::Absence;
use crate::attest::SignKeyError;
use crate::cache::CacheError;
use crate::cache_mount::CacheMountError;
use crate::cdi::DeviceError;
use crate::docker_daemon::DockerError;
use crate::emulation::ForeignProgram;
use crate::incoming::ArchiveFlaw;
use crate::keeping::Shortage;
use crate::pins::PinError;
use kiln_oci::{Digest, DocumentError, ImageFolderError, LayoutError};
use kiln_registry::RegistryError;
use kiln_runner::{ExitStatus, RunError};
use kiln_snapshotter::SnapshotError;
use kiln_solver::VertexId;
use std::io;
use std::path::PathBuf;

/// A failure of the worker.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A file or folder of the user's, or of the store, could not be used.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried, as `read` or `create`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process is changing a file, and does not come to an end.
    #[error("{path} has been held by another process for {seconds} s")]
    Held {
        /// The file.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The store is of a version that this kiln can't read.
    #[error(
        "the store {root} has version {found}, this kiln reads version {known}: use another --root, or remove the store"
    )]
    StoreVersion {
        /// The store.
        root: PathBuf,
        /// Its version.
        found: String,
        /// The version that is read.
        known: &'static str,
    },
    /// The store belongs to somebody else, or others can write in it.
    #[error("the store {root} {flaw}: choose another with --root")]
    StoreUnsafe {
        /// The store.
        root: PathBuf,
        /// What is wrong with it.
        flaw: &'static str,
    },
    /// The metadata could not be read or written.
    #[error("the store's metadata {path}: {source}")]
    Metadata {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The content store failed.
    #[error(transparent)]
    Content(#[from] LayoutError),
    /// A folder of images could not be read.
    #[error(transparent)]
    ImageFolder(#[from] ImageFolderError),
    /// A snapshot failed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A shared cache could not be used.
    #[error("cache {place}: {error}")]
    Cache {
        /// Which.
        place: String,
        /// Why not.
        error: Box<CacheError>,
    },
    /// A shared cache does not have a layer as it said.
    #[error("cache {place}: {error}")]
    CacheLayer {
        /// Which.
        place: String,
        /// What is wrong.
        error: Box<WorkerError>,
    },
    /// A symbolic link that is not followed.
    #[error("{} is a symbolic link of somebody else's or in a layout, and is not written through: remove it, or name what it leads to", path.display())]
    Link {
        /// Where it is.
        path: PathBuf,
    },
    /// A Docker daemon could not be used.
    #[error("the Docker daemon at {host}: {error}")]
    Docker {
        /// Where it listens.
        host: String,
        /// Why not.
        error: DockerError,
    },
    /// A process could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A manifest or config could not be read.
    #[error("image {reference}: {source}")]
    Document {
        /// The image.
        reference: String,
        /// What is wrong.
        source: DocumentError,
    },
    /// An image's config could not be read.
    #[error("image {reference}: its config is not valid: {source}")]
    Config {
        /// The image.
        reference: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// An image's manifest and config don't fit each other.
    #[error("image {reference}: it has {layers} layers but its config names {diff_ids}")]
    LayerCount {
        /// The image.
        reference: String,
        /// Layers in the manifest.
        layers: usize,
        /// Layers in the config.
        diff_ids: usize,
    },
    /// An index has nothing for the platform.
    #[error("image {reference} has nothing for the platform {platform}; it has {}", available(.has))]
    NoPlatform {
        /// The image.
        reference: String,
        /// What was asked for.
        platform: String,
        /// What there is.
        has: Vec<String>,
    },
    /// There is no such image in the store.
    #[error("no image `{0}` in the store; `kiln images` lists them")]
    NoImage(String),
    /// Something is not here, and nobody may be asked for it.
    #[error("{what} is not here, and with {flag} nobody is asked for it: build once without {flag}")]
    NotAsked {
        /// What it is.
        what: String,
        /// The flag that says so.
        flag: &'static str,
    },
    /// A lock file does not allow it.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// An archive of images can't be used.
    #[error("{archive}: {flaw}")]
    Archive {
        /// Which.
        archive: String,
        /// What is wrong with it.
        flaw: ArchiveFlaw,
    },
    /// A step ended with a failure.
    #[error("process \"{command}\" did not complete successfully: {}{}", ended(.status), full(.disk.as_deref()))]
    Step {
        /// Its command.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What the store's disk lacked at that moment, if it was nearly full.
        disk: Option<Box<Shortage>>,
    },
    /// The store's disk is full, and nothing that is left could be given up.
    #[error("{error}: {shortage}")]
    NoRoom {
        /// What there is, and what is needed.
        shortage: Box<Shortage>,
        /// What could not be done.
        #[source]
        error: Box<WorkerError>,
    },
    /// What should be copied is not there.
    #[error("\"{path}\": not found in {place}")]
    NotFound {
        /// The path.
        path: String,
        /// Where it was looked for.
        place: String,
        /// What there is instead.
        around: Box<Absence>,
    },
    /// A copy can't be done.
    #[error("{0}")]
    Copy(CopyError),
    /// Files of two platforms would be at the same path of an output.
    #[error("/{path} is in the files for {first} and in those for {second}: leave out platform-split=false")]
    Clash {
        /// The path.
        path: String,
        /// The platform that has it.
        first: String,
        /// Another that has it.
        second: String,
    },
    /// A source could not be brought in.
    #[error("{address}: {reason}")]
    Source {
        /// Its address, without credentials.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// The checksum of a source is not the one that was asked for.
    #[error("{address}: checksum mismatch: expected {expected}, got {got}")]
    Checksum {
        /// The source.
        address: String,
        /// What was asked for.
        expected: String,
        /// What came.
        got: Digest,
    },
    /// The kernel can't run a program that is for another architecture.
    #[error(transparent)]
    Foreign(Box<ForeignProgram>),
    /// A secret was not given.
    #[error("secret {0}: not found; give it with --secret id={0},src=FILE or --secret id={0},env=NAME")]
    Secret(String),
    /// An agent was not given.
    #[error(
        "no ssh agent `{0}` was given: use --ssh {0} (with SSH_AUTH_SOCK set), --ssh {0}=SOCKET or --ssh {0}=KEYFILE"
    )]
    Ssh(String),
    /// An image could not be signed.
    #[error("the key of --sign-key: {0}")]
    Sign(#[from] SignKeyError),
    /// A device can't be given to a step.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A cache mount could not be listed, removed, packed or unpacked.
    #[error(transparent)]
    CacheMount(#[from] CacheMountError),
    /// A kind of source or option that can't be done.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A file of the user's changes all the time.
    #[error("{0} changed again and again while it was copied: build once it is quiet")]
    Changing(String),
    /// A thread of kiln's own panicked.
    #[error("a defect of kiln: a thread panicked; please report what it wrote above")]
    Panicked,
    /// The solver has nothing to do and is not done.
    #[error("a defect of kiln: it waits for a step that nobody does; please report it with the Dockerfile")]
    Stuck,
    /// The user stopped it.
    #[error("canceled")]
    Canceled,
    /// A step failed: where, and why.
    #[error("{error}")]
    Vertex {
        /// The step.
        vertex: VertexId,
        /// Its name in the progress.
        name: String,
        /// Its lines in the Dockerfile.
        lines: Vec<(u32, u32)>,
        /// The end of its output.
        log: Vec<Vec<u8>>,
        /// What went wrong.
        error: Box<WorkerError>,
    },
}

/// Why a copy can't be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// A user or group is not in the image.
    #[error("invalid user or group `{0}`: not found in the image")]
    Principal(String),
    /// A mode can't be read.
    #[error("invalid chmod parameter `{0}`: use octal digits up to 07777 or symbols as u=rwX,go=rX")]
    Mode(String),
    /// A pattern can't be read.
    #[error(transparent)]
    Pattern(#[from] kiln_solver::pattern::PatternError),
    /// Graphs that no Dockerfile makes.
    #[error("the lower input of a diff is not below its upper")]
    Diff,
}

impl WorkerError {
    /// An I/O failure on a path.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> WorkerError {
        let path = path.into();
        move |source| WorkerError::Io { action, path, source }
    }
}

fn available(platforms: &[String]) -> String {
    const SHOWN: usize = 20;
    if platforms.is_empty() { "none".to_owned() } else { platforms[..platforms.len().min(SHOWN)].join(", ") }
}

fn full(disk: Option<&Shortage>) -> String {
    disk.map_or_else(String::new, |shortage| format!("; {shortage}"))
}

fn ended(status: &ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exit code: {code}"),
        ExitStatus::Signal(signal) => {
            let hint = if *signal == 9 { " (killed; perhaps memory ran out)" } else { "" };
            format!("killed by signal {signal}{hint}; exit code: {}", 128 + signal)
        }
    }
}
