//! The least of Azure's Blob service: containers, blobs in one piece or of blocks, ranges; it checks SharedKey
//! signatures. It is written after the service's description, and is no proof of how the service behaves.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

pub(super) const ACCOUNT: &str = "kilntest";
/// The account's key.
pub(super) const KEY: &str = "a2lsbi10ZXN0cy1henVyZS1rZXk=";

#[derive(Debug, Default)]
struct State {
    containers: Vec<String>,
    blobs: BTreeMap<String, Vec<u8>>,
    blocks: BTreeMap<(String, String), Vec<u8>>,
}

/// A server, as long as the process lives.
#[derive(Debug)]
pub(super) struct FakeAzure {
    port: u16,
    state: Arc<Mutex<State>>,
}

/// A request: its method, path, query and headers (names in lower case).
struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl FakeAzure {
    pub fn start() -> FakeAzure {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(client, &state));
            }
        });
        FakeAzure { port, state }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The names of all blobs, without the container's.
    pub fn names(&self) -> Vec<String> {
        let state = self.state.lock().expect("the state");
        state.blobs.keys().filter_map(|name| Some(name.split_once('/')?.1.to_owned())).collect()
    }

    /// How many blocks came.
    pub fn blocks(&self) -> usize {
        self.state.lock().expect("the state").blocks.len()
    }
}

fn serve(client: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(client.try_clone().expect("a clone"));
    let mut client = client;
    while let Some(request) = request(&mut reader) {
        let (status, headers, body) = if is_signed(&request) {
            answer(&request, &mut state.lock().expect("the state"))
        } else {
            refusal(403, "AuthenticationFailed")
        };
        let length = if request.method == "HEAD" && status == 200 {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let head = format!("HTTP/1.1 {status} Answer\r\n{length}{headers}\r\n");
        let body = if request.method == "HEAD" { Vec::new() } else { body };
        if client.write_all(head.as_bytes()).and_then(|()| client.write_all(&body)).is_err() {
            return;
        }
    }
}

fn request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or_default();
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = query.map(|(name, value)| (name.to_owned(), decoded(value))).collect();
    Some(Request { method, path: path.to_owned(), query, headers, body })
}

fn decoded(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                out.push(code);
                rest = &tail[2..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether `Authorization` is the account's SharedKey over the request.
fn is_signed(request: &Request) -> bool {
    let header = |name: &str| request.headers.get(name).map_or("", String::as_str);
    let length = if header("content-length") == "0" { "" } else { header("content-length") };
    let mut text = format!("{}\n", request.method);
    for value in [
        header("content-encoding"),
        header("content-language"),
        length,
        header("content-md5"),
        header("content-type"),
        header("date"),
        header("if-modified-since"),
        header("if-match"),
        header("if-none-match"),
        header("if-unmodified-since"),
        header("range"),
    ] {
        text.push_str(&format!("{value}\n"));
    }
    for (name, value) in request.headers.iter().filter(|(name, _)| name.starts_with("x-ms-")) {
        text.push_str(&format!("{name}:{value}\n"));
    }
    text.push_str(&format!("/{ACCOUNT}{}", request.path));
    for (name, value) in &request.query {
        text.push_str(&format!("\n{name}:{value}"));
    }
    let key = STANDARD.decode(KEY).expect("base64");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let tag = STANDARD.encode(ring::hmac::sign(&key, text.as_bytes()));
    header("authorization") == format!("SharedKey {ACCOUNT}:{tag}")
}

fn refusal(status: u16, code: &str) -> (u16, String, Vec<u8>) {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
    (status, format!("x-ms-error-code: {code}\r\n"), body.into_bytes())
}

fn answer(request: &Request, state: &mut State) -> (u16, String, Vec<u8>) {
    const DONE: &str = "ETag: \"0x1\"\r\nLast-Modified: Mon, 02 Nov 2026 10:00:00 GMT\r\n";
    let name = decoded(request.path.trim_start_matches('/'));
    let query = |key: &str| request.query.get(key).map(String::as_str);
    let container = name.split('/').next().unwrap_or_default().to_owned();
    if query("restype") == Some("container") {
        state.containers.push(container);
        return (201, DONE.to_owned(), Vec::new());
    }
    if !state.containers.contains(&container) {
        return refusal(404, "ContainerNotFound");
    }
    match (request.method.as_str(), query("comp")) {
        ("PUT", Some("block")) => {
            let id = query("blockid").unwrap_or_default().to_owned();
            state.blocks.insert((name, id), request.body.clone());
            (201, DONE.to_owned(), Vec::new())
        }
        ("PUT", Some("blocklist")) => {
            let list = String::from_utf8_lossy(&request.body).into_owned();
            let ids = list.split('<').filter_map(|part| part.split_once('>')).map(|(_, id)| id.trim());
            let mut whole = Vec::new();
            for id in ids.filter(|id| !id.is_empty()) {
                let Some(block) = state.blocks.get(&(name.clone(), id.to_owned())) else {
                    return refusal(400, "InvalidBlockList");
                };
                whole.extend_from_slice(block);
            }
            state.blobs.insert(name, whole);
            (201, DONE.to_owned(), Vec::new())
        }
        ("PUT", None) if request.headers.get("x-ms-blob-type").is_some_and(|kind| kind == "BlockBlob") => {
            state.blobs.insert(name, request.body.clone());
            (201, DONE.to_owned(), Vec::new())
        }
        ("GET" | "HEAD", None) => match state.blobs.get(&name) {
            None => refusal(404, "BlobNotFound"),
            Some(bytes) if request.method == "HEAD" => {
                (200, format!("{DONE}Content-Length: {}\r\n", bytes.len()), Vec::new())
            }
            Some(bytes) => (200, DONE.to_owned(), bytes.clone()),
        },
        _ => refusal(400, "InvalidHeaderValue"),
    }
}
