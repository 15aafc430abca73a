//! For the tests of the places: a web server that answers as a function says, one request for each connection, and
//! what a place needs of a build.

use crate::cache::Network;
use kiln_oci::{Descriptor, MediaType};
use kiln_registry::{Client, Options, Patience};
use kiln_runner::CancelToken;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// An answer; none at all for a server that hangs.
pub(super) type Answered = Option<(u16, Vec<(&'static str, String)>, Vec<u8>)>;

/// The server; it lives as long as the process.
pub(super) struct TestServer {
    pub address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

/// What a place needs.
pub(super) struct Fixture {
    pub folder: tempfile::TempDir,
    pub client: Client,
    pub runtime: tokio::runtime::Runtime,
    pub cancel: CancelToken,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A value of the query, its escapes undone as far as tests need.
    pub fn query(&self, name: &str) -> Option<String> {
        let query = self.target.split_once('?')?.1;
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.replace("%23", "#").replace("%3A", ":").replace("%3D", "=").replace("%2F", "/"))
    }
}

/// An answer without headers of its own.
pub(super) fn answer(status: u16, body: impl Into<Vec<u8>>) -> Answered {
    Some((status, Vec::new(), body.into()))
}

impl TestServer {
    pub fn start(answer: impl Fn(&Asked) -> Answered + Send + Sync + 'static) -> TestServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (heard, answer) = (asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heard, answer) = (heard.clone(), answer.clone());
                // A client that is gone is no concern of the server's.
                std::thread::spawn(move || drop(serve(stream, &heard, answer.as_ref())));
            }
        });
        TestServer { address, asked }
    }

    /// What was asked so far, each as `METHOD target`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(
    mut stream: TcpStream,
    heard: &Mutex<Vec<String>>,
    answer: &(dyn Fn(&Asked) -> Answered + Send + Sync),
) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut asked =
        Asked { method: method.into(), target: target.into(), headers: Vec::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        asked.headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let length = asked.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    reader.take(length).read_to_end(&mut asked.body)?;
    let told = format!("{} {}", asked.method, asked.target);
    heard.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    let Some((status, headers, body)) = answer(&asked) else {
        std::thread::sleep(Duration::from_secs(60));
        return Ok(());
    };
    let mut head = format!("HTTP/1.1 {status} Told\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !head.contains("content-length") {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if asked.method != "HEAD" {
        stream.write_all(&body)?;
    }
    Ok(())
}

impl Fixture {
    pub fn new() -> Fixture {
        let folder = tempfile::tempdir().expect("a folder");
        let backoff = Duration::from_millis(1);
        let patience = Patience { backoff, attempts: 4, ..Patience::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Fixture {
            client: Client::new(Options { patience, ..Options::default() }).expect("a client"),
            runtime: runtime.expect("threads"),
            cancel: CancelToken::new(),
            folder,
        }
    }

    pub fn network(&self) -> Network {
        let (client, runtime) = (self.client.clone(), self.runtime.handle().clone());
        Network { client, runtime, cancel: self.cancel.clone() }
    }

    /// Cancels the build a little later; what `work` does has to end within a second of it.
    pub fn cancelled_while(&self, work: impl FnOnce()) {
        const LATER: Duration = Duration::from_millis(200);
        let cancel = self.cancel.clone();
        std::thread::spawn(move || {
            std::thread::sleep(LATER);
            cancel.cancel();
        });
        let began = Instant::now();
        work();
        assert!(began.elapsed() < LATER + Duration::from_secs(1), "{:?}", began.elapsed());
    }

    /// A blob in a file, its descriptor and what opens it.
    pub fn blob(&self, bytes: &[u8]) -> (Descriptor, impl Fn() -> io::Result<File> + Sync + use<>) {
        let about = Descriptor::of(MediaType::OciLayerGzip, bytes);
        let path = self.folder.path().join(about.digest.hex());
        std::fs::write(&path, bytes).expect("a file");
        (about, move || File::open(Path::new(&path)))
    }
}
