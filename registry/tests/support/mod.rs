//! What the tests of this crate share: a real registry, and a small server that misbehaves as told.
//! It does not know what is claimed of the client.
#![allow(dead_code, reason = "each test program uses a part of it")]

use kiln_registry::{Client, Options, Patience};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A client that loses patience quickly.
pub fn hasty() -> Patience {
    Patience {
        connect: Duration::from_secs(2),
        idle: Duration::from_millis(300),
        commit: Duration::from_secs(5),
        attempts: 4,
        backoff: Duration::from_millis(5),
        retry_after_max: Duration::from_secs(3),
    }
}

pub fn client() -> Client {
    Client::new(Options { patience: hasty(), ..Options::default() }).expect("a client")
}

/// A client of a user who is logged in.
pub fn client_with(config: &str) -> (Client, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config.json"), config).expect("written");
    let docker_config = Some(folder.path().to_owned());
    (
        Client::new(Options { docker_config, patience: hasty(), ..Options::default() }).expect("a client"),
        folder,
    )
}

/// A file with these bytes, opened anew at each call.
pub fn opener(bytes: &[u8]) -> impl Fn() -> io::Result<File> + Send + Sync {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("written");
    move || File::open(file.path())
}

/// Debian's registry on a free port of this machine, gone when this is dropped.
pub struct RealRegistry {
    pub address: String,
    pub folder: tempfile::TempDir,
    child: Child,
}

impl RealRegistry {
    /// `extra` goes into its configuration.
    pub fn start(extra: &str, tls: Option<(&Path, &Path)>) -> RealRegistry {
        // Between the choice of a port and its use somebody else can take it: then another is tried.
        for _ in 0..5 {
            let registry = RealRegistry::launch(extra, tls);
            if let Some(registry) = registry.listens() {
                return registry;
            }
        }
        panic!("docker-registry does not listen on any port that was free");
    }

    fn launch(extra: &str, tls: Option<(&Path, &Path)>) -> RealRegistry {
        let folder = tempfile::tempdir().expect("a folder");
        let address = format!("127.0.0.1:{}", free_port());
        let data = folder.path().join("data");
        let tls = tls.map_or_else(String::new, |(certificate, key)| {
            format!("\n  tls:\n    certificate: {}\n    key: {}", certificate.display(), key.display())
        });
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}{tls}\n{extra}",
            data.display()
        );
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).expect("written");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry does not start: install the Debian package docker-registry");
        RealRegistry { address, folder, child }
    }

    /// The registry, once it listens; `None` if it ended, as it does where its port is taken.
    fn listens(mut self) -> Option<RealRegistry> {
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&self.address).is_err() {
            assert!(Instant::now() < end, "docker-registry does not listen on {}", self.address);
            std::thread::sleep(Duration::from_millis(20));
        }
        // It may be another who answers: then this one ends very soon.
        std::thread::sleep(Duration::from_millis(100));
        let has_ended = self.child.try_wait().is_ok_and(|status| status.is_some());
        (!has_ended).then_some(self)
    }
}

/// A port of 127.0.0.1 on which nobody listens just now, and that was not given to another test.
fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        if GIVEN.lock().expect("the ports").insert(port) {
            return port;
        }
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a key and a certificate for 127.0.0.1 that only itself vouches for.
pub fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let status = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=kiln test", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status()
        .expect("openssl does not start: install the Debian package openssl");
    assert!(status.success(), "openssl makes no certificate");
    (certificate, key)
}

/// A request that the small server got.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub at: Instant,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }
}

/// What the small server answers.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    length: Option<usize>,
    sent: Option<usize>,
    hang: Option<Duration>,
}

impl Reply {
    pub fn new(status: u16) -> Reply {
        Reply { status, ..Reply::default() }
    }

    pub fn body(mut self, body: &[u8]) -> Reply {
        self.body = body.to_vec();
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Announces another length than the body has.
    pub fn length(mut self, length: usize) -> Reply {
        self.length = Some(length);
        self
    }

    /// Sends only the first bytes of the body, then closes.
    pub fn broken_after(mut self, sent: usize) -> Reply {
        self.sent = Some(sent);
        self
    }

    /// Waits after what it sends of the body, before it closes.
    pub fn hang(mut self, time: Duration) -> Reply {
        self.hang = Some(time);
        self
    }

    /// An image manifest.
    pub fn manifest(body: &[u8]) -> Reply {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let digest = kiln_oci::Digest::of(body).to_string();
        Reply::new(200).header("Content-Type", kind).header("Docker-Content-Digest", &digest).body(body)
    }
}

/// A server on a free port of this machine that answers as a closure says; its number counts from 0
/// the requests before.
pub struct Faulty {
    pub address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Faulty {
    pub fn start(answer: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Faulty {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (log, answer) = (Arc::clone(&seen), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let _ = serve(&stream, &log, answer.as_ref());
                });
            }
        });
        Faulty { address, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("the log").clone()
    }

    /// `METHOD path` of each request.
    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(|s| format!("{} {}", s.method, s.path)).collect()
    }
}

fn serve(
    stream: &TcpStream,
    log: &Mutex<Vec<Seen>>,
    answer: &dyn Fn(usize, &Seen) -> Reply,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let Some(seen) = read_request(&mut reader)? else { return Ok(()) };
        let count = {
            let mut log = log.lock().expect("the log");
            log.push(seen.clone());
            log.len() - 1
        };
        let reply = answer(count, &seen);
        let mut out = stream;
        if reply.status == 0 {
            if let Some(time) = reply.hang {
                std::thread::sleep(time);
            }
            return Ok(());
        }
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", reply.length.unwrap_or(reply.body.len())));
        out.write_all(head.as_bytes())?;
        let sent = reply.sent.unwrap_or(reply.body.len());
        if seen.method != "HEAD" {
            out.write_all(&reply.body[..sent])?;
        }
        out.flush()?;
        if let Some(time) = reply.hang {
            std::thread::sleep(time);
        }
        if reply.sent.is_some() || reply.hang.is_some() {
            return Ok(());
        }
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Seen>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, path) =
        (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, v)| v.parse().ok());
    let mut body = Vec::new();
    if let Some(length) = length {
        reader.take(length).read_to_end(&mut body)?;
    } else if headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked") {
        panic!("a chunked request body is not expected");
    }
    Ok(Some(Seen { method, path, headers, body, at: Instant::now() }))
}
