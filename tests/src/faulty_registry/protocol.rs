//! What a registry answers when nothing goes wrong, by the distribution specification 1.1, and in which of the ways
//! that real registries differ. It does not know connections or faults.
//!
//! ```text
//! /v2/                                      whether there is an API
//! /v2/<name>/manifests/<tag or digest>      HEAD GET PUT
//! /v2/<name>/blobs/<digest>                 HEAD GET, with ranges
//! /v2/<name>/blobs/uploads/[?mount=&from=]  POST
//! /v2/<name>/blobs/uploads/<n>              GET PATCH PUT DELETE
//! /token                                    GET
//! /storage/<digest>                         GET, without credentials: a host of its own, in what it stands for
//! ```

use super::Told;
use super::wire::Head;
use kiln_oci::Digest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Whom the registry lets in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Let {
    /// Anybody.
    #[default]
    Anybody,
    /// `kiln` with the password `s3cret`.
    User,
    /// Who has a token of its own token server, which gives it to that user. A token is good for so many requests.
    Token(u32),
    /// Who has a token of the token server at this address.
    TokenOf(String),
}

/// How uploads are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploads {
    /// In any way; what broke off is kept.
    Any,
    /// In one request only: PATCH is refused, and nothing is kept.
    WholeOnly,
    /// In parts only: a PUT with a body is refused.
    PartsOnly,
    /// In requests of at most so many bytes.
    AtMost(u64),
    /// In any way, and each part but the last has at least so many bytes.
    AtLeast(u64),
}

/// In what the registry differs from others.
#[derive(Clone, Debug)]
pub struct Nature {
    /// Whom it lets in.
    pub lets: Let,
    /// How it takes uploads.
    pub uploads: Uploads,
    /// Whether it takes ranges.
    pub ranges: bool,
    /// Whether it mounts; else it begins an upload instead.
    pub mounts: bool,
    /// Where uploads are, with `ADDRESS` for its host and port and `PATH` for the path.
    pub location: String,
    /// Where blobs are sent on to, with `DIGEST` for the digest.
    pub storage: Option<String>,
}

impl Default for Nature {
    fn default() -> Nature {
        Nature {
            lets: Let::Anybody,
            uploads: Uploads::Any,
            ranges: true,
            mounts: true,
            location: "PATH".to_owned(),
            storage: None,
        }
    }
}

/// `kiln:s3cret` in base64.
const USER: &str = "Basic a2lsbjpzM2NyZXQ=";

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<(String, String), Arc<Vec<u8>>>,
    manifests: HashMap<(String, String), (String, Vec<u8>)>,
    uploads: HashMap<String, Vec<u8>>,
    begun: usize,
    /// The number of the last token, and how many requests it is still good for.
    token: (usize, u32),
}

/// A registry.
#[derive(Debug)]
pub(super) struct Registry {
    address: String,
    nature: Nature,
    state: Mutex<State>,
}

/// What a request is about.
pub(super) fn kind(target: &str) -> &str {
    let path = target.split('?').next().unwrap_or_default();
    for (part, kind) in [("/blobs/uploads/", "uploads"), ("/blobs/", "blobs"), ("/manifests/", "manifests")] {
        if path.starts_with("/v2/") && path.contains(part) {
            return kind;
        }
    }
    for kind in ["token", "storage"] {
        if path.trim_start_matches('/').starts_with(kind) {
            return kind;
        }
    }
    path
}

impl Registry {
    pub fn new(address: &str, nature: Nature) -> Registry {
        Registry { address: address.to_owned(), nature, state: Mutex::default() }
    }

    pub fn put_blob(&self, repository: &str, bytes: &[u8]) {
        let key = (repository.to_owned(), Digest::of(bytes).to_string());
        self.state().blobs.insert(key, Arc::new(bytes.to_vec()));
    }

    pub fn put_manifest(&self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) {
        for pointer in [tag.to_owned(), Digest::of(bytes).to_string()] {
            let key = (repository.to_owned(), pointer);
            self.state().manifests.insert(key, (kind.to_owned(), bytes.to_vec()));
        }
    }

    pub fn manifest(&self, repository: &str, pointer: &str) -> Option<(String, Vec<u8>)> {
        self.state().manifests.get(&(repository.to_owned(), pointer.to_owned())).cloned()
    }

    pub fn blob(&self, repository: &str, digest: &str) -> Option<Arc<Vec<u8>>> {
        self.state().blobs.get(&(repository.to_owned(), digest.to_owned())).cloned()
    }

    /// The answer to a request with so much of its body, which may have broken off.
    pub fn answer(&self, head: &Head, body: &[u8], is_whole: bool) -> Told {
        let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
        if path == "/token" {
            return self.give_token(head);
        }
        if let Some(digest) = path.strip_prefix("/storage/") {
            let found = self.state().blobs.iter().find(|((_, d), _)| d == digest).map(|(_, b)| b.clone());
            return found.map_or_else(|| Told::status(404), |bytes| self.part_of(head, &bytes));
        }
        let Some(path) = path.strip_prefix("/v2/") else { return Told::status(404) };
        if path.is_empty() {
            return Told::status(200).body("{}");
        }
        if let Some((name, pointer)) = path.split_once("/manifests/") {
            return self.about_manifest(head, name, pointer, body);
        }
        if let Some((name, upload)) = path.split_once("/blobs/uploads/") {
            return self.about_upload(head, (name, upload, query), body, is_whole);
        }
        match path.split_once("/blobs/") {
            Some((name, digest)) => self.about_blob(head, name, digest),
            None => Told::status(404),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic in the registry")
    }

    /// What a request is told that is not even read: because of who sends it, or how much it carries.
    pub fn refused(&self, head: &Head) -> Option<Told> {
        if !head.target.starts_with("/v2/") {
            return None;
        }
        self.refusal(head).or_else(|| self.untaken(head).filter(|_| kind(&head.target) == "uploads"))
    }

    fn refusal(&self, head: &Head) -> Option<Told> {
        let given = head.header("authorization");
        let realm = match &self.nature.lets {
            Let::Anybody => return None,
            Let::User if given == Some(USER) => return None,
            Let::User => return Some(challenge("Basic realm=\"kiln-tests\"")),
            Let::Token(_) => format!("http://{}/token", self.address),
            Let::TokenOf(realm) => realm.clone(),
        };
        let mut state = self.state();
        let (number, left) = state.token;
        if number > 0 && given == Some(&format!("Bearer token-{number}")) && left > 0 {
            state.token.1 -= 1;
            return None;
        }
        Some(challenge(&format!("Bearer realm=\"{realm}\",service=\"kiln-tests\"")))
    }

    fn give_token(&self, head: &Head) -> Told {
        let Let::Token(good_for) = self.nature.lets else { return Told::status(404) };
        if head.header("authorization") != Some(USER) {
            return Told::status(401);
        }
        let mut state = self.state();
        state.token = (state.token.0 + 1, good_for);
        Told::status(200).body(format!("{{\"token\":\"token-{}\",\"expires_in\":300}}", state.token.0))
    }

    fn about_manifest(&self, head: &Head, name: &str, pointer: &str, body: &[u8]) -> Told {
        if head.method == "PUT" {
            let digest = Digest::of(body).to_string();
            if let Some(missing) = self.missing(name, body) {
                let text = format!(
                    "{{\"errors\":[{{\"code\":\"MANIFEST_BLOB_UNKNOWN\",\"message\":\"{missing}\"}}]}}"
                );
                return Told::status(400).body(text);
            }
            self.put_manifest(name, pointer, head.header("content-type").unwrap_or_default(), body);
            return Told::status(201).header("Docker-Content-Digest", digest);
        }
        let Some((kind, bytes)) = self.manifest(name, pointer) else { return Told::status(404) };
        let digest = Digest::of(&bytes).to_string();
        Told::status(200).header("Content-Type", kind).header("Docker-Content-Digest", digest).body(bytes)
    }

    /// What a manifest or index names that is not there: so nobody can push in the wrong order.
    fn missing(&self, name: &str, manifest: &[u8]) -> Option<String> {
        let value: serde_json::Value = serde_json::from_slice(manifest).unwrap_or_default();
        let listed = |key: &str| value[key].as_array().cloned().unwrap_or_default();
        let digest = |one: &serde_json::Value| one["digest"].as_str().map(str::to_owned);
        let blobs =
            listed("layers").iter().filter_map(digest).chain(digest(&value["config"])).collect::<Vec<_>>();
        let manifests: Vec<String> = listed("manifests").iter().filter_map(digest).collect();
        let no_blob = blobs.into_iter().find(|digest| self.blob(name, digest).is_none());
        no_blob.or_else(|| manifests.into_iter().find(|digest| self.manifest(name, digest).is_none()))
    }

    fn about_blob(&self, head: &Head, name: &str, digest: &str) -> Told {
        let Some(bytes) = self.blob(name, digest) else { return Told::status(404) };
        match &self.nature.storage {
            Some(storage) if head.method == "GET" => {
                Told::status(307).header("Location", storage.replace("DIGEST", digest))
            }
            _ => self.part_of(head, &bytes).header("Docker-Content-Digest", digest),
        }
    }

    /// The range of a blob that is asked for, or all of it.
    fn part_of(&self, head: &Head, bytes: &[u8]) -> Told {
        let range = head.header("range").filter(|_| self.nature.ranges);
        let Some((first, last)) = range.and_then(|r| r.strip_prefix("bytes=")?.split_once('-')) else {
            return Told::status(200).body(bytes);
        };
        let first: usize = first.parse().unwrap_or_default();
        let end = last.parse().map_or(bytes.len(), |last: usize| bytes.len().min(last + 1));
        if first >= bytes.len() {
            return Told::status(416).header("Content-Range", format!("bytes */{}", bytes.len()));
        }
        let range = format!("bytes {first}-{}/{}", end - 1, bytes.len());
        Told::status(206).header("Content-Range", range).body(&bytes[first..end])
    }

    fn about_upload(
        &self,
        head: &Head,
        (name, upload, query): (&str, &str, &str),
        body: &[u8],
        is_whole: bool,
    ) -> Told {
        let parameter = |key: &str| {
            query.split('&').find_map(|one| one.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
        };
        if head.method == "POST" {
            if let (Some(digest), Some(from)) = (parameter("mount"), parameter("from"))
                && self.nature.mounts
                && let Some(bytes) = self.blob(&from, &digest)
            {
                self.put_blob(name, &bytes);
                return Told::status(201).header("Docker-Content-Digest", digest);
            }
            let mut state = self.state();
            state.begun += 1;
            let upload = state.begun.to_string();
            state.uploads.insert(upload.clone(), Vec::new());
            return self.at(Told::status(202), name, &upload, 0);
        }
        let have = self.state().uploads.get(upload).map(Vec::len);
        let Some(have) = have else { return Told::status(404).body(error("BLOB_UPLOAD_UNKNOWN")) };
        match head.method.as_str() {
            "GET" => self.at(Told::status(204), name, upload, have),
            "DELETE" => {
                self.state().uploads.remove(upload);
                Told::status(204)
            }
            "PATCH" => self.add(head, (name, upload, have), body),
            _ => self.end((name, upload, have), body, is_whole, parameter("digest")),
        }
    }

    /// Whether a request with so many bytes is not taken, and what is said to it.
    fn untaken(&self, head: &Head) -> Option<Told> {
        match (self.nature.uploads, head.method.as_str()) {
            (Uploads::AtMost(most), _) if head.length() > most => Some(Told::status(413)),
            (Uploads::WholeOnly, "PATCH") => Some(Told::status(405).body(error("UNSUPPORTED"))),
            (Uploads::PartsOnly, "PUT") if head.length() > 0 => {
                Some(Told::status(400).body(error("UNSUPPORTED")))
            }
            _ => None,
        }
    }

    fn add(&self, head: &Head, (name, upload, have): (&str, &str, usize), body: &[u8]) -> Told {
        let first = head.header("content-range").and_then(|range| range.split('-').next()?.parse().ok());
        if first.is_some_and(|first: usize| first != have) {
            return self.at(Told::status(416), name, upload, have);
        }
        let have = have + body.len();
        self.keep(upload, body);
        self.at(Told::status(202), name, upload, have)
    }

    fn end(
        &self,
        (name, upload, have): (&str, &str, usize),
        body: &[u8],
        is_whole: bool,
        digest: Option<String>,
    ) -> Told {
        if have > 0 && !body.is_empty() {
            return self.at(Told::status(416), name, upload, have);
        }
        if !is_whole && self.nature.uploads == Uploads::WholeOnly {
            // As distribution 2.8 does it: an upload that breaks off is forgotten.
            self.state().uploads.remove(upload);
        }
        self.keep(upload, body);
        if !is_whole {
            // Nobody hears this.
            return Told::status(500);
        }
        let bytes = self.state().uploads.remove(upload).unwrap_or_default();
        if digest != Some(Digest::of(&bytes).to_string()) {
            return Told::status(400).body(error("DIGEST_INVALID"));
        }
        self.put_blob(name, &bytes);
        Told::status(201).header("Docker-Content-Digest", digest.unwrap_or_default())
    }

    fn keep(&self, upload: &str, body: &[u8]) {
        let mut state = self.state();
        if let Some(kept) = state.uploads.get_mut(upload) {
            kept.extend_from_slice(body);
        }
    }

    /// An answer that says where an upload is and how much of it is there.
    fn at(&self, told: Told, name: &str, upload: &str, have: usize) -> Told {
        let path = format!("/v2/{name}/blobs/uploads/{upload}");
        let location = self.nature.location.replace("ADDRESS", &self.address).replace("PATH", &path);
        let told = match self.nature.uploads {
            Uploads::AtLeast(least) => told.header("OCI-Chunk-Min-Length", least.to_string()),
            _ => told,
        };
        told.header("Location", location).header("Range", format!("0-{}", have.saturating_sub(1)))
    }
}

fn challenge(text: &str) -> Told {
    Told::status(401).header("WWW-Authenticate", text).body(error("UNAUTHORIZED"))
}

fn error(code: &str) -> String {
    format!("{{\"errors\":[{{\"code\":\"{code}\"}}]}}")
}
