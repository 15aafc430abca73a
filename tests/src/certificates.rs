//! An authority of a test's own, a server's certificate for 127.0.0.1 and `registry.test`, and a client's.
//! It does not know who uses them.

use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A folder with `ca`, `server` and `client`, each as `.crt` and `.key`.
#[derive(Debug)]
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// Makes them, with Debian's openssl.
    pub fn make() -> Certificates {
        let folder = tempfile::Builder::new().prefix("certificates-").tempdir().expect("a temporary folder");
        let made = Certificates { folder };
        made.sign("ca", &["basicConstraints=critical,CA:TRUE"], false);
        let names = "subjectAltName=IP:127.0.0.1,DNS:registry.test";
        made.sign(
            "server",
            &["basicConstraints=critical,CA:FALSE", names, "extendedKeyUsage=serverAuth"],
            true,
        );
        made.sign("client", &["basicConstraints=critical,CA:FALSE", "extendedKeyUsage=clientAuth"], true);
        made
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts the authority's certificate into a folder that docker or podman would read.
    pub fn trust_in(&self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("a folder");
        std::fs::copy(self.path("ca.crt"), folder.join("ca.crt")).expect("copied");
    }

    /// The same with the client's certificate and key.
    pub fn appear_in(&self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("a folder");
        std::fs::copy(self.path("client.crt"), folder.join("client.cert")).expect("copied");
        std::fs::copy(self.path("client.key"), folder.join("client.key")).expect("copied");
    }

    fn sign(&self, name: &str, extensions: &[&str], by_authority: bool) {
        let path = |name: &str| self.path(name).to_string_lossy().into_owned();
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        command.args(["-days", "2", "-subj", &format!("/CN=kiln test {name}")]);
        command.args(["-keyout", &path(&format!("{name}.key")), "-out", &path(&format!("{name}.crt"))]);
        for extension in extensions {
            command.args(["-addext", extension]);
        }
        if by_authority {
            command.args(["-CA", &path("ca.crt"), "-CAkey", &path("ca.key")]);
        }
        let done = command.output().expect("Debian's package openssl");
        assert!(done.status.success(), "openssl: {}", String::from_utf8_lossy(&done.stderr));
    }
}
