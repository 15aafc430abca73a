//! Certificates for one host: whom to trust beside the system's, and as whom to appear.
//! It does not know connections.

use super::Places;
use crate::RegistryError;
use crate::origin::DOCKER_HUB_API;
use kiln_oci::DEFAULT_REGISTRY;
use std::path::{Path, PathBuf};

const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Files with certificates, as PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Trust {
    /// Authorities, beside those of the system.
    pub(crate) authorities: Vec<PathBuf>,
    /// A client's certificate and its key.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
}

impl Trust {
    /// What the first folder of certificates says that has one for this host.
    pub(crate) fn at(places: &Places, authority: &str) -> Result<Trust, RegistryError> {
        let mut names = vec![authority.to_owned()];
        if authority == DOCKER_HUB_API {
            names.push(DEFAULT_REGISTRY.to_owned());
        }
        if !authority.rsplit(']').next().unwrap_or(authority).contains(':') {
            names.push(format!("{authority}:443"));
        }
        for folder in &places.certificate_folders {
            for name in &names {
                if let Some(trust) = Trust::of_folder(&folder.join(name))? {
                    return Ok(trust);
                }
            }
        }
        Ok(Trust::default())
    }

    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.authorities.is_empty() && self.client.is_none()
    }

    /// What a folder as docker has it holds: `*.crt` are authorities, and `NAME.cert` a client's certificate whose
    /// key is `NAME.key`; the first by name is used. `None` if there is no such folder.
    pub(super) fn of_folder(folder: &Path) -> Result<Option<Trust>, RegistryError> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Ok(None) };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        let ends_in = |file: &&PathBuf, end: &str| file.extension().is_some_and(|e| e == end);
        let authorities = files.iter().filter(|file| ends_in(file, "crt")).cloned().collect();
        let beside = |file: &Path, end: &str| {
            let other = file.with_extension(end);
            let missing = || RegistryError::Certificate {
                file: file.to_owned(),
                reason: format!("{} is missing, which belongs to it", other.display()),
            };
            if other.is_file() { Ok(other.clone()) } else { Err(missing()) }
        };
        let mut client = None;
        for file in files.iter().filter(|file| ends_in(file, "cert")) {
            let key = beside(file, "key")?;
            client = client.or(Some((file.clone(), key)));
        }
        if let Some(key) = files.iter().find(|file| ends_in(file, "key")) {
            beside(key, "cert")?;
        }
        Ok(Some(Trust { authorities, client }))
    }

    /// Both together; what `self` has comes first.
    pub(crate) fn and(mut self, other: Trust) -> Trust {
        self.authorities.extend(other.authorities);
        self.client = self.client.or(other.client);
        self
    }

    /// A client that trusts these and appears as this one.
    pub(crate) fn apply(
        &self,
        mut builder: reqwest::ClientBuilder,
    ) -> Result<reqwest::ClientBuilder, RegistryError> {
        let bad = |file: &Path, reason: &str| RegistryError::Certificate {
            file: file.to_owned(),
            reason: reason.to_owned(),
        };
        for file in &self.authorities {
            let found = reqwest::Certificate::from_pem_bundle(&read(file)?).unwrap_or_default();
            if found.is_empty() {
                return Err(bad(file, "there is no certificate in it, as PEM"));
            }
            builder = builder.tls_certs_merge(found);
        }
        if let Some((certificate, key)) = &self.client {
            let mut pem = read(key)?;
            if certificate != key {
                pem.push(b'\n');
                pem.extend(read(certificate)?);
            }
            // The library's own words may quote the key.
            let identity = reqwest::Identity::from_pem(&pem)
                .map_err(|_| bad(certificate, "it and its key are no client's certificate, as PEM"))?;
            builder = builder.identity(identity);
        }
        Ok(builder)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, RegistryError> {
    let bad = |reason: String| RegistryError::Certificate { file: file.to_owned(), reason };
    let size = std::fs::metadata(file).map_err(|e| bad(e.to_string()))?.len();
    if size > BYTES_MAX {
        return Err(bad(format!("it is larger than {BYTES_MAX} bytes")));
    }
    std::fs::read(file).map_err(|e| bad(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_authorities_and_a_client() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        assert_eq!(Trust::of_folder(&path("none")).expect("no mistake"), None);
        for name in ["b.crt", "ca.crt", "z.cert", "z.key", "me.cert", "me.key", "README"] {
            std::fs::write(path(name), "").expect("written");
        }
        let want = Trust {
            authorities: vec![path("b.crt"), path("ca.crt")],
            client: Some((path("me.cert"), path("me.key"))),
        };
        assert_eq!(Trust::of_folder(folder.path()).expect("no mistake"), Some(want));
        std::fs::remove_file(path("z.key")).expect("removed");
        let error = Trust::of_folder(folder.path()).expect_err("half a pair").to_string();
        assert!(error.contains("z.cert") && error.contains("z.key is missing"), "{error}");
    }

    #[test]
    fn what_is_no_certificate_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ca.crt");
        std::fs::write(&file, "no certificate").expect("written");
        let trust = Trust { authorities: vec![file.clone()], client: None };
        let error = trust.apply(reqwest::Client::builder()).expect_err("no certificate").to_string();
        assert!(error.contains("ca.crt"), "{error}");
        let trust = Trust { authorities: Vec::new(), client: Some((file.clone(), file)) };
        assert!(trust.apply(reqwest::Client::builder()).is_err());
    }
}
