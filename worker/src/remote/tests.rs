//! Claims about sources of the network, against servers on this machine that do as each claim needs.

use super::*;
use crate::BuildRequest;
use crate::cache::{Exports, Imports};
use crate::images::Images;
use crate::pins::Pins;
use crate::progress::ProgressSink;
use crate::store::Store;
use kiln_registry::Client;
use kiln_runner::CancelToken;
use kiln_snapshotter::{Entry, Kind, LayerIndex, SnapshotId, Tree};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use tempfile::TempDir;

mod git_repositories;
mod web_files;

/// A store, and what a build is given.
struct Fixture {
    folder: TempDir,
    store: Store,
    client: Client,
    runtime: tokio::runtime::Runtime,
    cancel: CancelToken,
    secrets: BTreeMap<String, Vec<u8>>,
    pins: Arc<Pins>,
}

impl Fixture {
    fn new() -> Fixture {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Fixture {
            store: Store::open(&folder.path().join("store")).expect("a store"),
            folder,
            client: Client::new(kiln_registry::Options::default()).expect("a client"),
            runtime: runtime.expect("threads"),
            cancel: CancelToken::new(),
            secrets: BTreeMap::new(),
            pins: Arc::default(),
        }
    }

    fn with_secret(mut self, id: &str, value: &str) -> Fixture {
        self.secrets.insert(id.to_owned(), value.as_bytes().to_vec());
        self
    }

    /// A new store, whose sources are held to what this one's turned out to be.
    fn held(&self, is_locked: bool) -> Fixture {
        let pins = Arc::new(Pins::new("kiln.lock".to_owned(), self.pins.learnt(), is_locked));
        Fixture { pins, ..Fixture::new() }
    }

    /// A new store, with an empty lock file.
    fn learning() -> Fixture {
        Fixture::new().held(false)
    }

    fn bring(&self, identifier: &str, attrs: &[(&str, &str)]) -> Result<Stack, WorkerError> {
        let silent = |_: crate::Transfer<'_>| {};
        let images = Images::new(&self.store, &self.client, &self.runtime, &silent, &self.cancel);
        let request = BuildRequest { secrets: self.secrets.clone(), ..BuildRequest::empty() };
        let show = |_: crate::Progress<'_>| {};
        let sink = ProgressSink::new(&show);
        let (imports, exports) = (Imports::none(), Exports::none());
        let build = Build::new(&self.store, &images, &request, &sink, &self.cancel, (&imports, &exports));
        let build = build.held_to(&self.pins);
        let attrs = attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        bring(&build, &SourceOp { identifier: identifier.to_owned(), attrs })
    }

    fn index(&self, stack: &Stack) -> Arc<LayerIndex> {
        self.store.snapshots.index(&snapshot(stack)).expect("an index")
    }

    /// The paths of a result, and their modes.
    fn paths(&self, stack: &Stack) -> Vec<(String, u32)> {
        let index = self.index(stack);
        index.iter().map(|(path, e)| (String::from_utf8_lossy(path).into_owned(), e.mode)).collect()
    }

    fn names(&self, stack: &Stack) -> Vec<String> {
        self.paths(stack).into_iter().map(|(path, _)| path).collect()
    }

    /// How many snapshots there are, finished or not.
    fn snapshots(&self) -> usize {
        let entries = std::fs::read_dir(self.folder.path().join("store/snapshots")).expect("snapshots");
        entries.flatten().filter(|e| e.file_name().len() == 16).count()
    }
}

/// Where the one layer of a result is.
fn snapshot(stack: &Stack) -> SnapshotId {
    let [layer] = &*stack.0 else { panic!("one layer") };
    *layer.snapshot.get().expect("an unpacked layer")
}

#[track_caller]
fn fails(result: Result<Stack, WorkerError>, words: &[&str]) -> String {
    let Err(error) = result else { panic!("a failure with {words:?}") };
    let text = error.to_string();
    assert!(words.iter().all(|w| text.contains(w)), "{words:?} in: {text}");
    text
}

/// A web server that answers as a function says, and remembers what it was asked.
struct WebServer {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl WebServer {
    fn new(answer: impl Fn(&str, usize) -> Vec<u8> + Send + 'static) -> WebServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let head = head_of(&stream);
                let count = {
                    let mut heard = heard.lock().expect("a lock");
                    heard.push(head.clone());
                    heard.len()
                };
                // A client that is gone is no concern of the server's.
                let _ = (&stream).write_all(&answer(&head, count));
            }
        });
        WebServer { address, asked }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("a lock").clone()
    }
}

fn head_of(mut stream: &TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).to_lowercase()
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
        .into_bytes()
}
