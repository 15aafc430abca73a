//! A cache that is kept as an image at a registry, or within an image there. It does not know what is in a config.

use super::documents::{CacheForm, config_descriptor, configs};
use super::memory_file::MemoryFile;
use super::place::{CONFIG_BYTES_MAX, CachePlace, OpenBlob};
use super::{CacheError, CacheError::Malformed, Network};
use kiln_oci::{DOCUMENT_BYTES_MAX, Descriptor, Reference};
use kiln_registry::{PushedBlob, RegistryError};
use std::fmt;
use std::io;
use std::sync::mpsc::sync_channel;

/// Pieces of a blob that are between the network and its reader at once; each some ten kilobytes.
const PIECES_MAX: usize = 64;

/// A cache at a registry. Whether it may be spoken to without TLS is the client's business.
pub(crate) struct RegistryPlace {
    network: Network,
    reference: Reference,
    form: CacheForm,
    mount_from: Vec<String>,
}

impl RegistryPlace {
    /// The cache of this name, which is written in this form. Blobs are taken from the repositories `mount_from` of
    /// the same registry where they have them.
    pub fn new(
        network: Network,
        reference: Reference,
        form: CacheForm,
        mount_from: Vec<String>,
    ) -> RegistryPlace {
        RegistryPlace { network, reference, form, mount_from }
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, RegistryError>>) -> Result<T, CacheError> {
        self.network.wait(None, work)
    }

    /// A document or a config, whole.
    fn fetch(&self, wanted: &Descriptor) -> Result<Vec<u8>, CacheError> {
        let client = &self.network.client;
        if wanted.media_type.is_manifest() {
            let pinned = self.reference.with_digest(wanted.digest);
            return Ok(self.wait(client.manifest(&pinned))?.1);
        }
        let is_cache = wanted.media_type == config_descriptor(b"").media_type;
        let max = if is_cache { CONFIG_BYTES_MAX } else { DOCUMENT_BYTES_MAX };
        self.wait(client.blob_bytes(&self.reference, wanted, max))
    }

    fn push(&self, blob: &Descriptor, open: OpenBlob<'_>) -> Result<bool, CacheError> {
        let open = || open();
        let pushing = self.network.client.push_blob(&self.reference, blob, &self.mount_from, &open);
        Ok(self.wait(pushing)? == PushedBlob::Uploaded)
    }
}

impl fmt::Debug for RegistryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryPlace").field("reference", &self.reference).field("form", &self.form).finish()
    }
}

impl CachePlace for RegistryPlace {
    fn name(&self) -> String {
        format!("registry {}", self.reference.familiar())
    }

    fn image(&self) -> Option<&Reference> {
        Some(&self.reference)
    }

    fn configs(&self) -> Result<Vec<Vec<u8>>, CacheError> {
        let document = match self.wait(self.network.client.manifest(&self.reference)) {
            Ok((_, document)) => document,
            Err(CacheError::Registry(RegistryError::NotFound { .. })) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        configs(&self.name(), &document, &|wanted| self.fetch(wanted))
    }

    fn read(
        &self,
        blob: &Descriptor,
        on_bytes: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), CacheError> {
        let (sender, receiver) = sync_channel::<Vec<u8>>(PIECES_MAX);
        let (pulled, taken) = std::thread::scope(|scope| {
            let pulling = scope.spawn(move || {
                // Who no longer takes anything has said why.
                let mut give = |piece: &[u8]| {
                    sender.send(piece.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
                };
                self.wait(self.network.client.pull_blob(&self.reference, blob, &mut give))
            });
            let mut taken = Ok(());
            while let Ok(piece) = receiver.recv() {
                taken = on_bytes(&piece);
                if taken.is_err() {
                    break;
                }
            }
            drop(receiver);
            let reason = "its reader broke off".to_owned();
            let broken = Malformed { what: self.name(), reason };
            (pulling.join().unwrap_or(Err(broken)), taken)
        });
        taken.map_err(CacheError::io("keep the blob", blob.digest.to_string()))?;
        match pulled {
            Err(CacheError::Registry(RegistryError::NotFound { .. })) => Err(CacheError::NoBlob(blob.digest)),
            other => other,
        }
    }

    fn write(&self, blob: &Descriptor, open: OpenBlob<'_>) -> Result<bool, CacheError> {
        self.push(blob, open)
    }

    fn publish(&self, config: &[u8], layers: &[Descriptor]) -> Result<Option<Descriptor>, CacheError> {
        let about = config_descriptor(config);
        let (media_type, document) = self.form.document(about.clone(), layers)?;
        let file = MemoryFile::new(config).map_err(CacheError::io("keep", "the cache's config"))?;
        let open = || file.open();
        self.push(&about, &open)?;
        self.wait(self.network.client.push_manifest(&self.reference, &media_type, &document))?;
        Ok(Some(Descriptor::of(media_type, &document)))
    }
}

#[cfg(test)]
mod tests;
