//! Caches in object stores: S3's buckets and Azure's containers, with the names that BuildKit gives to what is in
//! them. It does not know what a config says, and not where the options come from.
//!
//! ```text
//! {prefix}{blobs_prefix}sha256:<hex>    a blob
//! {prefix}{manifests_prefix}<name>      the config, once for each name of the cache
//! ```
//!
//! A blob is there under its whole name or not at all, and the configs come last: a writer that dies leaves blobs
//! that the next one finds, and the old config.

mod azure;
mod failure;
mod http;
mod s3;
#[cfg(test)]
mod tests;
mod upload;

use self::azure::Container;
use self::failure::{Answer, answer};
use self::s3::Bucket;
use super::place::{CONFIG_BYTES_MAX, OpenBlob};
use super::waiting::Waiting;
use super::{AzureOptions, CacheError, CachePlace, S3Options};
use kiln_oci::Descriptor;
use kiln_runner::CancelToken;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, PutOptions, PutPayload};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncBufReadExt;
use tokio::runtime::Handle;
use tokio_util::io::StreamReader;

/// How many blobs are written at once if nothing is said.
const UPLOADS: usize = 4;
/// What a cache is called if nothing is said.
const NAME: &str = "buildkit";
/// How often the reading of one blob goes on where it broke off.
const RESUMES_MAX: u32 = 5;
/// How long to wait before it does.
const RESUME_PAUSE: Duration = Duration::from_millis(200);

/// A cache in an object store.
#[derive(Debug)]
pub(crate) struct ObjectPlace {
    waiting: Waiting,
    stores: Stores,
    kind: Kind,
    names: Vec<String>,
    uploads: usize,
}

/// One store by two clients.
#[derive(Clone, Debug)]
struct Stores {
    /// What answers soon, or is broken.
    reading: Arc<dyn ObjectStore>,
    /// With more time, for what must be sent first.
    writing: Arc<dyn ObjectStore>,
}

#[derive(Debug)]
enum Kind {
    S3(Bucket),
    Azure(Container),
}

/// Where the keys to a cloud are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// The user gave them.
    Given,
    /// The environment says who gives them.
    Named,
    /// They are asked for where machines of the cloud find them.
    Guessed,
}

impl ObjectPlace {
    /// A bucket of S3's kind. Nothing is asked of it yet; where no keys are given, the cloud that this machine may
    /// be in is asked for them.
    pub fn s3(
        options: &S3Options,
        runtime: &Handle,
        cancel: &CancelToken,
    ) -> Result<ObjectPlace, CacheError> {
        let (stores, bucket) = Bucket::open(options)?;
        let place = ObjectPlace {
            waiting: Waiting { runtime: runtime.clone(), cancel: cancel.clone() },
            stores,
            names: names(&options.names),
            uploads: options.upload_parallelism.unwrap_or(UPLOADS).max(1),
            kind: Kind::S3(bucket),
        };
        if let Kind::S3(bucket) = &place.kind {
            place.wait(bucket.check_keys())?;
        }
        Ok(place)
    }

    /// A container of Azure's blob storage; as [`ObjectPlace::s3`].
    pub fn azure(
        options: &AzureOptions,
        runtime: &Handle,
        cancel: &CancelToken,
    ) -> Result<ObjectPlace, CacheError> {
        let (stores, container) = Container::open(options)?;
        let place = ObjectPlace {
            waiting: Waiting { runtime: runtime.clone(), cancel: cancel.clone() },
            stores,
            names: names(&options.names),
            uploads: UPLOADS,
            kind: Kind::Azure(container),
        };
        if let Kind::Azure(container) = &place.kind {
            place.wait(container.check_keys())?;
        }
        Ok(place)
    }

    /// Waits for the network, but no longer than the user does.
    fn wait<T>(&self, work: impl Future<Output = Result<T, CacheError>>) -> Result<T, CacheError> {
        self.waiting.wait(None, work)
    }

    fn blob_key(&self, blob: &Descriptor) -> Result<Key, CacheError> {
        let digest = blob.digest.to_string();
        key(match &self.kind {
            Kind::S3(bucket) => bucket.blob_name(&digest),
            Kind::Azure(container) => container.blob_name(&digest),
        })
    }

    fn manifest_key(&self, name: &str) -> Result<Key, CacheError> {
        key(match &self.kind {
            Kind::S3(bucket) => bucket.manifest_name(name),
            Kind::Azure(container) => container.manifest_name(name),
        })
    }

    /// What is asked, for messages.
    fn asked(&self, what: &str, key: &Key) -> String {
        match &self.kind {
            Kind::S3(bucket) => format!("{what} s3://{}/{key}", bucket.name),
            Kind::Azure(container) => format!("{what} {}/{key}", container.url),
        }
    }

    fn failed(&self, what: &str, key: &Key, error: &(dyn std::error::Error + 'static)) -> CacheError {
        answer(error).into_error(self.asked(what, key))
    }

    /// What is under a key, from a byte on; `None` if nothing is.
    async fn get(&self, key: &Key, from: u64) -> Result<Option<GetResult>, CacheError> {
        let range = (from > 0).then_some(GetRange::Offset(from));
        let options = GetOptions { range, ..GetOptions::default() };
        match self.stores.reading.get_opts(key, options).await {
            Ok(found) => Ok(Some(found)),
            Err(error) => self.absent("GET", key, &error).map(|()| None),
        }
    }

    /// What is known of an object; `None` if it is not there.
    async fn head(&self, key: &Key) -> Result<Option<ObjectMeta>, CacheError> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.stores.reading.get_opts(key, options).await {
            Ok(found) => Ok(Some(found.meta)),
            Err(error) => self.absent("HEAD", key, &error).map(|()| None),
        }
    }

    /// Whether a failure only says that there is no such object. A bucket that is not there is a mistake of the
    /// user's; a container comes with the first export.
    fn absent(&self, what: &str, key: &Key, error: &object_store::Error) -> Result<(), CacheError> {
        let answer = answer(error);
        match answer {
            Answer::Status { status: 404, .. } if !answer.says("NoSuchBucket") => Ok(()),
            answer => Err(answer.into_error(self.asked(what, key))),
        }
    }

    async fn config(&self, name: &str) -> Result<Option<Vec<u8>>, CacheError> {
        let key = self.manifest_key(name)?;
        let Some(found) = self.get(&key, 0).await? else { return Ok(None) };
        if found.meta.size > CONFIG_BYTES_MAX {
            let reason = format!("it has {} bytes, and {CONFIG_BYTES_MAX} are read at most", found.meta.size);
            return Err(CacheError::Malformed { what: self.asked("GET", &key), reason });
        }
        let bytes = found.bytes().await.map_err(|error| self.failed("GET", &key, &error))?;
        Ok(Some(bytes.into()))
    }

    /// Reads a blob to its end, and goes on where the connection broke.
    async fn pull(
        &self,
        blob: &Descriptor,
        on_bytes: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), CacheError> {
        let key = self.blob_key(blob)?;
        let (mut at, mut resumes) = (0, 0);
        loop {
            let Some(found) = self.get(&key, at).await? else { return Err(CacheError::NoBlob(blob.digest)) };
            if found.meta.size != blob.size {
                let reason = format!("it has {} bytes, and should have {}", found.meta.size, blob.size);
                return Err(CacheError::Malformed { what: self.asked("GET", &key), reason });
            }
            let begun = at;
            let mut reader = StreamReader::new(found.into_stream());
            let broken = loop {
                let taken = match reader.fill_buf().await {
                    Ok([]) => return Ok(()),
                    Ok(bytes) => {
                        on_bytes(bytes).map_err(io_error("keep", blob))?;
                        bytes.len()
                    }
                    Err(error) => break error,
                };
                reader.consume(taken);
                at += taken as u64;
            };
            // All is there, and only the end of the connection went wrong.
            if at >= blob.size {
                return Ok(());
            }
            resumes += 1;
            if resumes > RESUMES_MAX || at == begun {
                return Err(self.failed("GET", &key, &broken));
            }
            tokio::time::sleep(RESUME_PAUSE * resumes).await;
        }
    }

    /// Keeps an object that was written long ago from being removed as old; `false` if it must be written again.
    async fn touched(&self, key: &Key, found: &ObjectMeta) -> bool {
        match &self.kind {
            Kind::S3(bucket) if bucket.is_old(found) => bucket.touch(key, found.size).await,
            Kind::S3(_) | Kind::Azure(_) => true,
        }
    }

    async fn put(&self, key: &Key, bytes: Vec<u8>) -> Result<(), CacheError> {
        let payload = PutPayload::from(bytes);
        let mut put = self.stores.writing.put_opts(key, payload.clone(), PutOptions::default()).await;
        if let (Kind::Azure(container), Err(error)) = (&self.kind, &put)
            && answer(error).says("ContainerNotFound")
        {
            container.create().await?;
            put = self.stores.writing.put_opts(key, payload, PutOptions::default()).await;
        }
        put.map(drop).map_err(|error| self.failed("PUT", key, &error))
    }
}

impl CachePlace for ObjectPlace {
    fn name(&self) -> String {
        match &self.kind {
            Kind::S3(bucket) => format!("s3 {}", bucket.label()),
            Kind::Azure(container) => format!("azblob {}", container.label()),
        }
    }

    fn uploads(&self) -> usize {
        self.uploads
    }

    fn configs(&self) -> Result<Vec<Vec<u8>>, CacheError> {
        let found = self.names.iter().map(|name| self.wait(self.config(name)));
        Ok(found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    fn read(
        &self,
        blob: &Descriptor,
        on_bytes: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), CacheError> {
        self.wait(self.pull(blob, on_bytes))
    }

    fn write(&self, blob: &Descriptor, open: OpenBlob<'_>) -> Result<bool, CacheError> {
        let key = self.blob_key(blob)?;
        let is_there = self.wait(async {
            match self.head(&key).await? {
                Some(found) if found.size == blob.size => Ok(self.touched(&key, &found).await),
                _ => Ok(false),
            }
        })?;
        if !is_there {
            self.upload(&key, blob, open)?;
        }
        Ok(!is_there)
    }

    fn publish(&self, config: &[u8], _layers: &[Descriptor]) -> Result<Option<Descriptor>, CacheError> {
        for name in &self.names {
            let key = self.manifest_key(name)?;
            self.wait(self.put(&key, config.to_vec()))?;
        }
        Ok(None)
    }
}

/// The names of a cache. Of empty ones nothing is known.
fn names(given: &[String]) -> Vec<String> {
    let names: Vec<String> = given.iter().filter(|name| !name.is_empty()).cloned().collect();
    if names.is_empty() { vec![NAME.to_owned()] } else { names }
}

fn key(name: String) -> Result<Key, CacheError> {
    Key::parse(&name).map_err(|error| CacheError::Malformed {
        what: format!("the name {name}"),
        reason: error.to_string(),
    })
}

/// What makes a [`CacheError`] of a file's error.
fn io_error(action: &'static str, blob: &Descriptor) -> impl FnOnce(io::Error) -> CacheError + use<> {
    let path = PathBuf::from(format!("the blob {}", blob.digest));
    move |source| CacheError::Io { action, path, source }
}
