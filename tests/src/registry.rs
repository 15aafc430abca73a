//! A real registry, Debian's docker-registry, as a child process on a free port of 127.0.0.1.
//! It does not know images: it stores the bytes that it is given.

use crate::{BaseImage, Certificates, Response, request, wait_until};
use kiln_oci::{Digest, MediaType};
use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::OnceLock;
use std::time::Duration;

/// The user of [`Registry::with_password`].
pub const BASIC_USER: &str = "potter";
/// That user's password.
pub const BASIC_PASSWORD: &str = "open-sesame";
/// bcrypt of [`BASIC_PASSWORD`].
const BASIC_HASH: &str = "$2b$04$g6LTQYgA1HQCN5ER/HoGRusKfrQb8VgKyABRoxdX6wQ1/GirQKe1a";
const START_PATIENCE: Duration = Duration::from_secs(20);
/// `Basic` of user and password.
const BASIC_HEADER: &str = "Basic cG90dGVyOm9wZW4tc2VzYW1l";

/// A registry that runs as long as this value lives.
#[derive(Debug)]
pub struct Registry {
    address: String,
    password: bool,
    /// Its configuration and, in `data`, what it has.
    folder: PathBuf,
    keeper: Child,
}

/// How a second registry differs that has the same images.
#[derive(Clone, Copy, Debug, Default)]
pub struct Door<'a> {
    /// It speaks TLS alone, with the certificates of this folder.
    pub certificates: Option<&'a Certificates>,
    /// It wants a client's certificate.
    pub client: bool,
    /// It wants [`BASIC_USER`] and [`BASIC_PASSWORD`].
    pub password: bool,
}

impl Registry {
    /// An empty registry that asks for nothing.
    pub fn start() -> Registry {
        Registry::launch(Door::default(), None)
    }

    /// Another with the same images, for as long as this one lives.
    pub fn beside(&self, door: Door<'_>) -> Registry {
        Registry::launch(door, Some(&self.folder))
    }

    /// An empty registry that asks for [`BASIC_USER`] and [`BASIC_PASSWORD`].
    pub fn with_password() -> Registry {
        Registry::launch(Door { password: true, ..Door::default() }, None)
    }

    /// The registry that tests share which only need a base: it has `library/busybox`.
    pub fn shared() -> &'static Registry {
        static SHARED: OnceLock<Registry> = OnceLock::new();
        SHARED.get_or_init(|| {
            let registry = Registry::start();
            BaseImage::busybox().push(&registry, "library/busybox", "latest");
            registry
        })
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The reference of a name in it: `127.0.0.1:port/name`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The reference of [`Registry::shared`]'s busybox.
    pub fn busybox(&self) -> String {
        self.reference("library/busybox:latest")
    }

    /// One request. Panics if there is no answer.
    pub fn call(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut headers = headers.to_vec();
        if self.password {
            headers.push(("Authorization", BASIC_HEADER));
        }
        request(&self.address, method, target, &headers, body)
            .unwrap_or_else(|e| panic!("{method} {target} of {}: {e}", self.address))
    }

    /// Uploads a blob.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let begun = self.call("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], &[]);
        let location = begun.header("location").unwrap_or_else(|| panic!("no upload: {begun:?}")).to_owned();
        let target = location.split_once(&self.address).map_or(location.as_str(), |(_, target)| target);
        let mark = if target.contains('?') { '&' } else { '?' };
        let stream = [("Content-Type", "application/octet-stream")];
        let done = self.call("PUT", &format!("{target}{mark}digest={digest}"), &stream, bytes);
        assert_eq!(done.status, 201, "{}", String::from_utf8_lossy(&done.body));
        digest
    }

    /// Uploads a manifest or an index under a tag.
    pub fn put_manifest(&self, repository: &str, tag: &str, kind: &MediaType, bytes: &[u8]) -> Digest {
        let target = format!("/v2/{repository}/manifests/{tag}");
        let done = self.call("PUT", &target, &[("Content-Type", kind.as_str())], bytes);
        assert_eq!(done.status, 201, "{}", String::from_utf8_lossy(&done.body));
        Digest::of(bytes)
    }

    /// The manifest under a tag or a digest, if there is one.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Vec<u8>> {
        let accept = [MediaType::OciManifest, MediaType::OciIndex, MediaType::DockerManifest]
            .map(|kind| kind.to_string())
            .join(", ");
        let target = format!("/v2/{repository}/manifests/{reference}");
        let answer = self.call("GET", &target, &[("Accept", &accept)], &[]);
        (answer.status == 200).then_some(answer.body)
    }

    /// A blob, if it is there.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Vec<u8>> {
        let answer = self.call("GET", &format!("/v2/{repository}/blobs/{digest}"), &[], &[]);
        (answer.status == 200).then_some(answer.body)
    }

    fn launch(door: Door<'_>, other: Option<&Path>) -> Registry {
        // Between finding a free port and its use, another process can take it.
        for _ in 0..5 {
            let folder = tempfile::Builder::new().prefix("registry-").tempdir().expect("a temporary folder");
            let port = free_port();
            let config = configuration(folder.path(), other.unwrap_or(folder.path()), port, door);
            std::fs::write(folder.path().join("config.yml"), config).expect("the registry's configuration");
            let folder = folder.keep();
            let keeper = serve(&folder);
            let (address, password) = (format!("127.0.0.1:{port}"), door.password);
            let registry = Registry { address, password, folder, keeper };
            let is_there = || match door.certificates {
                Some(_) => TcpStream::connect(&registry.address).is_ok(),
                None => registry.answers(),
            };
            if wait_until(START_PATIENCE, is_there) {
                return registry;
            }
        }
        panic!("docker-registry does not answer: is Debian's package docker-registry there?")
    }

    fn answers(&self) -> bool {
        let auth = [("Authorization", BASIC_HEADER)];
        let headers: &[(&str, &str)] = if self.password { &auth } else { &[] };
        request(&self.address, "GET", "/v2/", headers, &[]).is_ok_and(|answer| answer.status == 200)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// A port of 127.0.0.1 on which nobody listens just now, and that was not given to another test.
fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of 127.0.0.1");
        let port = listener.local_addr().expect("its address").port();
        if GIVEN.lock().expect("the ports").insert(port) {
            return port;
        }
    }
}

fn configuration(folder: &Path, data: &Path, port: u16, door: Door<'_>) -> String {
    let (folder, data) = (folder.display(), data.display());
    let tls = door.certificates.map_or_else(String::new, |made| {
        let path = |name: &str| made.path(name).display().to_string();
        let client = if door.client { format!(", clientcas: [{}]", path("ca.crt")) } else { String::new() };
        format!(", tls: {{certificate: {}, key: {}{client}}}", path("server.crt"), path("server.key"))
    });
    let mut text = format!(
        "version: 0.1\nlog: {{level: error}}\n\
         storage: {{filesystem: {{rootdirectory: {data}/data}}, delete: {{enabled: true}}}}\n\
         http: {{addr: '127.0.0.1:{port}'{tls}}}\n"
    );
    if door.password {
        let line = format!("{BASIC_USER}:{BASIC_HASH}\n");
        std::fs::write(Path::new(&folder.to_string()).join("htpasswd"), line).expect("the password file");
        text.push_str(&format!("auth: {{htpasswd: {{realm: kiln-tests, path: {folder}/htpasswd}}}}\n"));
    }
    text
}

/// Runs docker-registry until standard input is closed, and removes the folder then.
const KEEPER: &str = r#"
    trap '' INT TERM HUP
    docker-registry serve "$1/config.yml" < /dev/null > /dev/null 2> "$1/log" &
    read -r _
    kill -KILL $!
    wait $!
    rm -rf "$1"
"#;

/// Starts the registry's keeper: a shell that ends it, and cleans up after it, when the pipe to the
/// shell is closed. That happens when the value is dropped, and also when this process dies, which
/// the registry of all tests depends on: nobody drops a static.
fn serve(folder: &Path) -> Child {
    Command::new("sh")
        .args(["-c", KEEPER, "sh"])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell")
}
