//! A fake of the cache service of GitHub Actions, both of its versions, and of the storage behind it. Plain HTTP on
//! 127.0.0.1, one request for each connection; entries can't be changed once they are there, and only who shows the
//! token learns of them. It does not know what is in an entry.

use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const FIRST: &str = "/_apis/artifactcache/";
const SECOND: &str = "/twirp/github.actions.results.api.v1.CacheService/";
const STORAGE: &str = "/storage/";

/// The service; it stops when it is dropped.
#[derive(Debug)]
pub struct GhaServer {
    address: String,
    token: String,
    stopped: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    /// With what the next requests are refused.
    refusals: VecDeque<u16>,
    requests: Vec<String>,
    token: String,
    address: String,
}

#[derive(Debug, Default)]
struct Entry {
    key: String,
    version: String,
    bytes: Vec<u8>,
    blocks: BTreeMap<String, Vec<u8>>,
    is_committed: bool,
}

struct Asked {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl GhaServer {
    /// Starts the service for a job that may read the caches of these branches, and write that of the first.
    pub fn start(branches: &[&str]) -> GhaServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of 127.0.0.1");
        let address = listener.local_addr().expect("its address").to_string();
        let token = token(branches);
        let state = State { token: token.clone(), address: address.clone(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let stopped = Arc::new(AtomicBool::new(false));
        let (stop, shared) = (stopped.clone(), state.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = shared.clone();
                std::thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        GhaServer { address, token, stopped, state }
    }

    /// Its address, for either version: `$ACTIONS_CACHE_URL` and `$ACTIONS_RESULTS_URL`.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The token that it wants to see: `$ACTIONS_RUNTIME_TOKEN`.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Refuses the next requests with these statuses, one after the other.
    pub fn refuse(&self, statuses: &[u16]) {
        locked(&self.state).refusals.extend(statuses);
    }

    /// The keys of the entries that are done, oldest first.
    pub fn keys(&self) -> Vec<String> {
        let state = locked(&self.state);
        state.entries.iter().filter(|e| e.is_committed).map(|e| e.key.clone()).collect()
    }

    /// The requests so far, each as `METHOD path`.
    pub fn requests(&self) -> Vec<String> {
        locked(&self.state).requests.clone()
    }

    /// Replaces the bytes of an entry, which the service itself never does.
    pub fn break_entry(&self, key: &str, bytes: &[u8]) {
        for entry in locked(&self.state).entries.iter_mut().filter(|e| e.key == key) {
            entry.bytes = bytes.to_vec();
        }
    }
}

impl Drop for GhaServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(&self.address));
    }
}

/// A token whose claims name the branches; nobody looks at its signature.
fn token(branches: &[&str]) -> String {
    let scope =
        |(at, branch): (usize, &&str)| json!({ "Scope": branch, "Permission": if at == 0 { 3 } else { 1 } });
    let scopes: Vec<Value> = branches.iter().enumerate().map(scope).collect();
    let claims = json!({ "ac": Value::Array(scopes).to_string(), "nbf": 1, "exp": 32_503_680_000_u64 });
    format!("e30.{}.c2ln", base64url(claims.to_string().as_bytes()))
}

fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
        for at in 0..=three.len() {
            text.push(char::from(LETTERS[(bits >> (18 - 6 * at) & 63) as usize]));
        }
    }
    text
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, headers: Vec::new(), body: body.into() }
    }

    fn json(status: u16, body: &Value) -> Answer {
        Answer {
            headers: vec![("Content-Type", "application/json".into())],
            ..Answer::new(status, body.to_string())
        }
    }
}

impl State {
    fn answer(&mut self, asked: &Asked) -> Answer {
        self.requests.push(format!("{} {}", asked.method, asked.path));
        if let Some(status) = self.refusals.pop_front() {
            let headers = vec![("Retry-After", "0".to_owned())];
            return Answer { headers, ..Answer::new(status, "refused") };
        }
        let shown = asked.headers.get("authorization");
        if let Some(rest) = asked.path.strip_prefix(STORAGE) {
            // An address there is signed: a token has no business with it.
            return if shown.is_some() { Answer::new(403, "a token") } else { self.storage(rest, asked) };
        }
        if shown != Some(&format!("Bearer {}", self.token)) {
            return Answer::json(401, &json!({ "message": "no such token" }));
        }
        let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        if let Some(rest) = asked.path.strip_prefix(FIRST) {
            return self.first(rest, asked, &body);
        }
        match asked.path.strip_prefix(SECOND) {
            Some(method) => self.second(method, &body),
            None => Answer::new(404, "no such address"),
        }
    }

    fn first(&mut self, rest: &str, asked: &Asked, body: &Value) -> Answer {
        match (asked.method.as_str(), rest.split_once('/')) {
            ("GET", None) if rest == "cache" => {
                let of = |name: &str| asked.query.get(name).map_or("", String::as_str);
                match self.newest(of("keys"), of("version")) {
                    Some((at, key)) => {
                        let url = self.signed(at, "down");
                        Answer::json(200, &json!({ "cacheKey": key, "archiveLocation": url, "scope": "x" }))
                    }
                    None => Answer::new(204, ""),
                }
            }
            ("POST", None) if rest == "caches" => match self.reserve(body) {
                Some(at) => Answer::json(201, &json!({ "cacheId": at + 1 })),
                None => Answer::json(
                    409,
                    &json!({ "typeKey": "ArtifactCacheItemAlreadyExistsException", "message": "it already exists" }),
                ),
            },
            (method, Some(("caches", id))) => {
                let at = id.parse::<usize>().unwrap_or(0).wrapping_sub(1);
                let Some(entry) = self.entries.get_mut(at).filter(|e| !e.is_committed) else {
                    return Answer::new(404, "no such upload");
                };
                match method {
                    "PATCH" => entry.patch(asked),
                    _ if body["size"] == entry.bytes.len() => {
                        entry.is_committed = true;
                        Answer::new(204, "")
                    }
                    _ => Answer::json(400, &json!({ "message": "the size is another" })),
                }
            }
            _ => Answer::new(404, "no such address"),
        }
    }

    fn second(&mut self, method: &str, body: &Value) -> Answer {
        let of = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        match method {
            "GetCacheEntryDownloadURL" => match self.newest(&of("key"), &of("version")) {
                Some((at, key)) => {
                    let url = self.signed(at, "down");
                    Answer::json(200, &json!({ "ok": true, "signed_download_url": url, "matched_key": key }))
                }
                None => Answer::json(200, &json!({ "ok": false })),
            },
            "CreateCacheEntry" => match self.reserve(body) {
                Some(at) => {
                    Answer::json(200, &json!({ "ok": true, "signed_upload_url": self.signed(at, "up") }))
                }
                None => Answer::json(409, &json!({ "code": "already_exists", "msg": "it exists" })),
            },
            "FinalizeCacheEntryUpload" => {
                let (key, version) = (of("key"), of("version"));
                let is_it = |e: &Entry| e.key == key && e.version == version && !e.is_committed;
                match self.entries.iter_mut().find(|e| is_it(e)) {
                    Some(entry) if body["size_bytes"] == entry.bytes.len() => {
                        entry.is_committed = true;
                        Answer::json(200, &json!({ "ok": true, "entry_id": "1" }))
                    }
                    Some(_) => Answer::json(
                        400,
                        &json!({ "code": "invalid_argument", "msg": "the size is another" }),
                    ),
                    None => Answer::json(404, &json!({ "code": "not_found", "msg": "no such upload" })),
                }
            }
            _ => Answer::json(404, &json!({ "code": "bad_route", "msg": "no such method" })),
        }
    }

    /// The storage: what was signed for going up or for coming down.
    fn storage(&mut self, rest: &str, asked: &Asked) -> Answer {
        let query = |name: &str| asked.query.get(name).map_or("", String::as_str);
        let (comp, sig) = (query("comp"), query("sig"));
        let at = rest.parse::<usize>().unwrap_or(usize::MAX);
        let Some(entry) = self.entries.get_mut(at) else { return Answer::new(404, "no such blob") };
        match (asked.method.as_str(), sig, comp) {
            ("GET", "down", _) if entry.is_committed => entry.part(asked),
            ("PUT", "up", "block") => {
                entry.blocks.insert(query("blockid").to_owned(), asked.body.clone());
                Answer::new(201, "")
            }
            ("PUT", "up", "blocklist") => {
                let text = String::from_utf8_lossy(&asked.body);
                let ids = text.split("<Latest>").skip(1).filter_map(|part| part.split_once("</Latest>"));
                match ids.map(|(id, _)| entry.blocks.get(id).cloned()).collect::<Option<Vec<_>>>() {
                    Some(blocks) => {
                        entry.bytes = blocks.concat();
                        Answer::new(201, "")
                    }
                    None => Answer::new(400, "<Error><Code>InvalidBlockList</Code></Error>"),
                }
            }
            ("PUT", "up", "") if asked.headers.get("x-ms-blob-type").is_some_and(|t| t == "BlockBlob") => {
                entry.bytes.clone_from(&asked.body);
                Answer::new(201, "")
            }
            _ => Answer::new(403, "<Error><Code>AuthenticationFailed</Code></Error>"),
        }
    }

    fn reserve(&mut self, body: &Value) -> Option<usize> {
        let of = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let (key, version) = (of("key"), of("version"));
        if key.is_empty() || self.entries.iter().any(|e| e.key == key && e.version == version) {
            return None;
        }
        self.entries.push(Entry { key, version, ..Entry::default() });
        Some(self.entries.len() - 1)
    }

    /// The entry of this key, or else the newest whose key begins with it.
    fn newest(&self, key: &str, version: &str) -> Option<(usize, String)> {
        let done =
            || self.entries.iter().enumerate().rev().filter(|(_, e)| e.is_committed && e.version == version);
        let found =
            done().find(|(_, e)| e.key == key).or_else(|| done().find(|(_, e)| e.key.starts_with(key)))?;
        Some((found.0, found.1.key.clone()))
    }

    fn signed(&self, at: usize, what_for: &str) -> String {
        format!("http://{}{STORAGE}{at}?sig={what_for}", self.address)
    }
}

impl Entry {
    /// Takes a chunk of the first version.
    fn patch(&mut self, asked: &Asked) -> Answer {
        let range = asked.headers.get("content-range").and_then(|range| {
            let (from, to) = range.strip_prefix("bytes ")?.strip_suffix("/*")?.split_once('-')?;
            Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?))
        });
        match range {
            Some((from, to)) if to + 1 - from == asked.body.len() => {
                self.bytes.resize(self.bytes.len().max(to + 1), 0);
                self.bytes[from..=to].copy_from_slice(&asked.body);
                Answer::new(204, "")
            }
            _ => Answer::new(400, "the range is another"),
        }
    }

    fn part(&self, asked: &Asked) -> Answer {
        let from = asked
            .headers
            .get("range")
            .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match from {
            None => Answer::new(200, self.bytes.clone()),
            Some(from) if from < self.bytes.len() => {
                let range = format!("bytes {from}-{}/{}", self.bytes.len() - 1, self.bytes.len());
                let headers = vec![("Content-Range", range)];
                Answer { headers, ..Answer::new(206, &self.bytes[from..]) }
            }
            Some(_) => Answer::new(416, ""),
        }
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut words = first.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = pairs.map(|(name, value)| (name.to_owned(), unescaped(value))).collect();
    let asked = Asked { method: method.to_owned(), path: path.to_owned(), query, headers, body };
    let answer = locked(state).answer(&asked);
    let mut head = format!("HTTP/1.1 {} Told\r\nConnection: close\r\n", answer.status);
    // 204 has no body, and says so by itself.
    if answer.status != 204 {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(&answer.body)
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (byte, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_in_the_specification() {
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg")] {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn escapes_of_a_query_are_undone() {
        assert_eq!(unescaped("a%23b+c%zz"), "a#b c%zz");
    }
}
