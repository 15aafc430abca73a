//! Performs each action of a build; keeps cache records and images; writes results where they must end.
//! It does not know Dockerfiles, flags or terminals.

mod absence;
mod annotation;
mod at_once;
mod attest;
mod build;
mod cache;
mod cache_mount;
mod cdi;
mod difference;
mod docker_daemon;
mod emulation;
mod error;
mod estargz;
mod exec_step;
mod explain;
mod export;
mod file_step;
mod image_name;
mod images;
mod incoming;
mod keeping;
mod layer;
mod layer_form;
mod lease;
mod local;
mod memo;
mod meta;
mod output;
mod pins;
mod progress;
mod reads;
mod registries;
mod remote;
mod report;
mod selection;
mod ssh_agent;
mod store;
mod transport;
mod view;
mod worker;

pub use absence::Absence;
pub use annotation::{Annotation, AnnotationLevel};
pub use attest::{Attest, AttestPlace, ProvenanceMode, ProvenanceRequest, SignKeyError, SigningKey};
pub use cache::{
    AzureOptions, CacheError, CacheExport, CacheImport, CacheKind, CacheMode, GhaOptions, LocalCache,
    MountsExport, S3Options,
};
pub use cache_mount::{CacheMount, CacheMountError, MountsPlace, MovedMount, Taken};
pub use cdi::{DEFAULT_SPEC_DIRS, DeviceAccess, DeviceError};
pub use difference::{Aspect, Difference, FileDifference, FileState, LayerDifference, SettingDifference};
pub use docker_daemon::{DockerError, DockerHost};
pub use emulation::{ForeignProgram, NoEmulator};
pub use error::{CopyError, WorkerError};
pub use explain::Place;
pub use image_name::{ImageName, ImageNameError};
pub use images::{Aged, Image, NamedImages, PullPolicy};
pub use incoming::ArchiveFlaw;
pub use keeping::{Damage, Filter, Kind, Pruning, Removed, Shortage, Usage, UsageItem};
pub use kiln_registry::{
    Examination, Examined, FileLine, LoggedIn, LoggedOut, Options as RegistryOptions, Patience,
    RegistryError, Role as PlaceRole,
};
pub use kiln_runner::{CancelToken, ExitStatus, RunError};
pub use kiln_snapshotter::SourceModes;
pub use kiln_solver::{Definition, SourceOp};
pub use layer_form::{Compress, LayerForm, Spelling};
pub use meta::ImageRow;
pub use output::{Form, Output, change_whole, write_whole};
pub use pins::{AgedSource, GitPin, Pin, PinError, PinnedSources, Pins, SourceName};
pub use progress::{CacheTrouble, Notice, Progress, ProgressSink, Transfer};
pub use registries::Registries;
pub use report::{
    BuildReport, BuildStatus, FileChange, Origin, Outcome, REPORT_SCHEMA, Reason, StepReport, Totals,
};
pub use ssh_agent::{AgentKey, KeyAgent, KeyError, SshAgent};
pub use transport::{ImagePlace, ImagePlaceError};
pub use worker::{
    Access, BuildRequest, BuildResult, Import, LocalFolder, ManifestEdit, Saved, Target, Worker,
};
