//! Which place an option stands for. It does not know what is kept there.

use super::documents::CacheForm;
use super::gha::GhaPlace;
use super::local::LocalPlace;
use super::objects::ObjectPlace;
use super::registry::RegistryPlace;
use super::{CacheError, CacheExport, CacheKind, CachePlace, Network};
use std::sync::Arc;

/// The place of a cache; `export` says how it is written.
pub(crate) fn open(
    kind: &CacheKind,
    export: Option<&CacheExport>,
    network: &Network,
) -> Result<Arc<dyn CachePlace>, CacheError> {
    let form = match export {
        Some(export) => CacheForm::of(export.oci_mediatypes, export.image_manifest)?,
        None => CacheForm::Manifest,
    };
    match kind {
        CacheKind::Registry { reference, .. } => {
            Ok(Arc::new(RegistryPlace::new(network.clone(), reference.clone(), form, Vec::new())))
        }
        CacheKind::Local(local) => Ok(Arc::new(LocalPlace::new(local.clone(), form, network.cancel.clone()))),
        CacheKind::Gha(gha) => Ok(Arc::new(GhaPlace::new(gha, network)?)),
        CacheKind::S3(s3) => Ok(Arc::new(ObjectPlace::s3(s3, &network.runtime, &network.cancel)?)),
        CacheKind::Azure(azure) => {
            Ok(Arc::new(ObjectPlace::azure(azure, &network.runtime, &network.cancel)?))
        }
        CacheKind::Inline => Err(CacheError::Missing {
            what: "the image",
            help: "a cache in an image is read by type=registry,ref=IMAGE",
        }),
    }
}
