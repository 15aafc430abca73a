//! Where a result goes: names in the store, archives, folders, registries. Each appears whole or not at
//! all, and only while the user has not stopped the build. It does not know how layers become blobs.

mod archive;
mod files;
mod finished;
pub(crate) mod stopping;
mod whole;

pub use whole::write_whole;

use crate::WorkerError;
use crate::export::{Compress, Documents, Exporter, config_bytes, mount_sources};
use crate::layer::Stack;
use crate::meta::ImageRow;
use crate::store::now_s;
use crate::worker::{BuildRequest, BuildResult};
use archive::archive;
use finished::finished;
use kiln_oci::{ImageConfig, Reference};
use std::path::PathBuf;

/// One output of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// What it is.
    pub form: Form,
    /// Names for the result: in the store, at registries, or in an archive.
    pub names: Vec<Reference>,
    /// How layers that are made here are compressed.
    pub compress: Compress,
    /// Whether layers that are made here have no time after the source's date.
    pub rewrite_timestamp: bool,
}

/// The forms of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// Names in the store.
    Store,
    /// Pushed to the registries of its names.
    Registry,
    /// An OCI layout in a tar; `None` is standard output.
    Oci(Option<PathBuf>),
    /// What `docker load` reads, which is an OCI layout too; `None` is standard output.
    Docker(Option<PathBuf>),
    /// The files in a tar; `None` is standard output.
    Tar(Option<PathBuf>),
    /// The files in a folder.
    Local(PathBuf),
    /// Nowhere: only what was cached stays.
    CacheOnly,
}

/// Writes a result to all outputs of a request.
pub(crate) fn write_all(
    exporter: &Exporter<'_>,
    request: &BuildRequest,
    stack: &Stack,
    sync: bool,
) -> Result<BuildResult, WorkerError> {
    stopping::check(exporter.images.cancel)?;
    let config = finished(request, stack);
    let bytes = config_bytes(&config);
    let config_digest = exporter.store.content.put(&bytes)?;
    if sync {
        // Names and archives are made only of what survives a loss of power.
        exporter.store.snapshots.sync()?;
        exporter.store.meta.mark_synced()?;
    }
    let mut result = BuildResult { config_digest: Some(config_digest), ..BuildResult::default() };
    for output in &request.outputs {
        stopping::check(exporter.images.cancel)?;
        let made = write(exporter, output, &config, request, stack)?;
        if let Some(documents) = &made {
            result.manifest = Some(documents.descriptor());
        }
        result.names.extend(output.names.iter().map(Reference::to_string));
    }
    Ok(result)
}

fn write(
    exporter: &Exporter<'_>,
    output: &Output,
    config: &ImageConfig,
    request: &BuildRequest,
    stack: &Stack,
) -> Result<Option<Documents>, WorkerError> {
    let (annotations, epoch_s) = (&request.annotations, request.source_date_epoch_s);
    let documents = |docker: bool| {
        exporter.task("exporting layers", || {
            let latest_s = epoch_s.filter(|_| output.rewrite_timestamp);
            let blobs = exporter.blobs(stack, output.compress, docker, latest_s)?;
            let mut config = config.clone();
            config.rootfs.diff_ids = blobs.diff_ids;
            exporter.documents(&config, blobs.descriptors, docker, annotations.clone())
        })
    };
    match &output.form {
        Form::CacheOnly => Ok(None),
        Form::Store => {
            store_names(exporter, output, config, stack)?;
            Ok(None)
        }
        Form::Registry => {
            let documents = documents(false)?;
            for name in &output.names {
                let mounts = mount_sources(stack, name);
                exporter.task(&format!("pushing {name}"), || exporter.push(&documents, name, &mounts))?;
            }
            Ok(Some(documents))
        }
        Form::Oci(dest) => {
            let documents = documents(false)?;
            exporter.task("exporting to oci archive", || {
                archive(exporter, output, &documents, dest.as_deref(), false)
            })?;
            Ok(Some(documents))
        }
        Form::Docker(dest) => {
            let documents = documents(true)?;
            exporter.task("exporting to docker archive", || {
                archive(exporter, output, &documents, dest.as_deref(), true)
            })?;
            Ok(Some(documents))
        }
        Form::Tar(dest) => {
            exporter.task("exporting to tar", || files::to_tar(exporter, stack, dest.as_deref()))?;
            Ok(None)
        }
        Form::Local(dest) => {
            exporter.task("exporting to folder", || files::to_folder(exporter, stack, dest))?;
            Ok(None)
        }
    }
}

fn store_names(
    exporter: &Exporter<'_>,
    output: &Output,
    config: &ImageConfig,
    stack: &Stack,
) -> Result<(), WorkerError> {
    let digest = exporter.store.content.put(&config_bytes(config))?;
    exporter.images.remember_origins(stack)?;
    for name in &output.names {
        exporter.task(&format!("naming to {name}"), || {
            exporter.store.meta.set_image(&ImageRow {
                name: name.to_string(),
                config: digest,
                manifest: None,
                diff_ids: stack.diff_ids(),
                created_s: now_s(),
            })
        })?;
    }
    Ok(())
}
