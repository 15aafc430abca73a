//! A Docker daemon that keeps what is loaded into it: the few requests of the Engine API that a load needs, on a
//! socket. As Docker's own does, it takes a layer that it has for granted. It runs nothing.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// How the daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As Docker's with its own store.
    Classic,
    /// As Docker's with containerd's store.
    Containerd,
    /// It refuses archives that lack a layer, although it has it.
    WantsAll,
    /// It refuses everything.
    Refuses,
    /// It reads nothing of what is loaded.
    Stalls,
}

/// What was loaded once: the members of the archive.
pub type Loaded = BTreeMap<String, Vec<u8>>;

/// A daemon, until the process ends.
#[derive(Debug)]
pub struct FakeDocker {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    loads: Vec<Loaded>,
    /// The digests of each image's tars.
    images: Vec<Value>,
    tags: Vec<String>,
    requests: Vec<String>,
}

impl FakeDocker {
    /// Listens at a path.
    pub fn start(socket: &Path, manner: Manner) -> FakeDocker {
        let listener = UnixListener::bind(socket).expect("a socket");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &shared, manner));
            }
        });
        FakeDocker { socket: socket.to_owned(), state }
    }

    /// What `DOCKER_HOST` is to be.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The archives that came, also those that were refused.
    pub fn loads(&self) -> Vec<Loaded> {
        self.state.lock().expect("no panic in the daemon").loads.clone()
    }

    /// The names of images that it has.
    pub fn tags(&self) -> Vec<String> {
        self.state.lock().expect("no panic in the daemon").tags.clone()
    }

    /// The heads of the requests.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().expect("no panic in the daemon").requests.clone()
    }
}

fn serve(mut stream: UnixStream, state: &Mutex<State>, manner: Manner) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line).ok()? > 2 {
        head.push_str(&std::mem::take(&mut line));
    }
    let mut words = head.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    state.lock().ok()?.requests.push(head.clone());
    if manner == Manner::Stalls && method == "POST" {
        std::thread::sleep(std::time::Duration::from_secs(60));
        return None;
    }
    let (status, body) = match (method.as_str(), target.as_str()) {
        ("POST", "/images/load?quiet=0") => {
            let mut archive = Vec::new();
            while chunk(&mut reader, &mut archive)? {}
            load(&mut *state.lock().ok()?, &archive, manner)
        }
        ("GET", target) => asked(&*state.lock().ok()?, target, manner),
        _ => (404, json!({"message": "page not found"})),
    };
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).ok()
}

/// Reads a chunk; whether there is another.
fn chunk(reader: &mut impl BufRead, into: &mut Vec<u8>) -> Option<bool> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let size = u64::from_str_radix(line.trim(), 16).ok()?;
    reader.by_ref().take(size).read_to_end(into).ok()?;
    reader.read_line(&mut line).ok()?;
    Some(size > 0)
}

fn asked(state: &State, target: &str, manner: Manner) -> (u16, Value) {
    if target == "/info" {
        let kind = if manner == Manner::Containerd { "io.containerd.snapshotter.v1" } else { "extfs" };
        return (200, json!({"DriverStatus": [["driver-type", kind]]}));
    }
    if target == "/images/json" {
        let all = (0..state.images.len()).map(|at| json!({"Id": format!("sha256:{at}")}));
        return (200, all.collect());
    }
    let name = target.strip_prefix("/images/").and_then(|rest| rest.strip_suffix("/json"));
    let at = name.and_then(|name| name.strip_prefix("sha256:")).and_then(|at| at.parse::<usize>().ok());
    match at.and_then(|at| state.images.get(at)) {
        Some(layers) => (200, json!({"RootFS": {"Type": "layers", "Layers": layers}})),
        None => (404, json!({"message": "No such image"})),
    }
}

fn load(state: &mut State, archive: &[u8], manner: Manner) -> (u16, Value) {
    let mut members = Loaded::new();
    let mut tar = tar::Archive::new(archive);
    for mut entry in tar.entries().expect("a tar").map(|entry| entry.expect("a member")) {
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("its bytes");
        members.insert(name, bytes);
    }
    state.loads.push(members.clone());
    if manner == Manner::Refuses {
        return (500, json!({"message": "no space left on device"}));
    }
    let manifest: Value = serde_json::from_slice(&members["manifest.json"]).expect("a manifest");
    let image = &manifest[0];
    let config = &members[image["Config"].as_str().expect("a config")];
    let config: Value = serde_json::from_slice(config).expect("JSON");
    let diff_ids = config["rootfs"]["diff_ids"].as_array().expect("digests");
    let paths = image["Layers"].as_array().expect("layers");
    assert_eq!(diff_ids.len(), paths.len());
    for (at, path) in paths.iter().enumerate() {
        let has = |image: &Value| image.as_array().is_some_and(|has| has.starts_with(&diff_ids[..=at]));
        let is_known = manner != Manner::WantsAll && state.images.iter().any(has);
        if !is_known && !members.contains_key(path.as_str().expect("a path")) {
            // A failure after the head was sent, as Docker tells of it.
            return (200, json!({"errorDetail": {"message": "no such file"}, "error": "no such file"}));
        }
    }
    state.images.push(Value::from(diff_ids.clone()));
    state.tags.extend(
        image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned),
    );
    (200, json!({"stream": "Loaded image\n"}))
}
