//! The nouns of the OCI image specification, and the content store in OCI-layout form.
//! It does not know the network, builds or mounts.

mod config;
mod descriptor;
mod digest;
mod image_folder;
mod layout;
mod manifest;
mod media_type;
mod platform;
mod reference;

pub use config::{Healthcheck, History, ImageConfig, RootFs, RuntimeConfig};
pub use descriptor::Descriptor;
pub use digest::{ChainId, DiffId, Digest, DigestError, Hasher, HashingWriter};
pub use image_folder::{ImageFolder, ImageFolderError, LAYOUT_SCHEME, LayoutReference, LayoutReferenceError};
pub use layout::{BlobWriter, Layout, LayoutError};
pub use manifest::{DOCUMENT_BYTES_MAX, Document, DocumentError, Index, Manifest};
pub use media_type::MediaType;
pub use platform::{Platform, PlatformError};
pub use reference::{DEFAULT_REGISTRY, Reference, ReferenceError};
