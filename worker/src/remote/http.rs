//! A file of the web as a layer: downloaded, or known from before.
//! It does not know how requests are made or repeated.

use super::web::{Body, Failure, Web};
use super::{
    alone, basic_authorization, commit, digest_of, file_name, header_secret, known, number, percent_decoded,
};
use crate::WorkerError;
use crate::attest::Fetched;
use crate::build::Build;
use crate::layer::Stack;
use crate::meta::{FetchedRow, LayerRow};
use crate::pins::{AgedSource, Pin};
use crate::store::now_s;
use jiff::fmt::rfc2822;
use kiln_oci::{Digest, Hasher};
use kiln_snapshotter::Active;
use kiln_solver::SourceOp;
use reqwest::header::{
    CONTENT_DISPOSITION, DATE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED,
};
use reqwest::{StatusCode, Url};
use std::io::{self, Read};

const DEFAULT_MODE: u32 = 0o600;
/// A time of change tells two versions apart only if it was this long past when the server told it.
const MODIFIED_GRAIN_S: i64 = 60;

/// A file of the web, and how it is to be here.
struct Wanted {
    /// Its address, without credentials.
    url: Url,
    /// What the address has for credentials.
    credentials: Option<String>,
    name: Option<String>,
    checksum: Option<Digest>,
    mode: u32,
    owner: (u32, u32),
}

/// What a download gave, not a layer yet.
struct Downloaded {
    active: Active,
    digest: Digest,
    name: String,
    mtime_s: i64,
    etag: Option<String>,
    modified: Option<String>,
}

/// Brings a file here as a layer with it alone.
pub(super) fn bring(build: &Build<'_>, source: &SourceOp) -> Result<Stack, WorkerError> {
    let wanted = Wanted::of(source)?;
    let pinned = wanted.pinned(build)?;
    let is_new = pinned.is_none() && wanted.checksum.is_none();
    if is_new {
        build.pins.allow_new(wanted.url.as_str())?;
    }
    let (stack, digest) = wanted.bring(build, pinned)?;
    build.note_fetched(source, Fetched::File(digest));
    if is_new {
        build.pins.learn(wanted.url.as_str(), Pin::Web(digest))?;
    }
    Ok(stack)
}

/// What a file is called in a lock file.
pub(super) fn pin_name(source: &SourceOp) -> Result<String, WorkerError> {
    Ok(Wanted::of(source)?.url.into())
}

impl Wanted {
    fn of(source: &SourceOp) -> Result<Wanted, WorkerError> {
        let invalid =
            |reason: String| WorkerError::Source { address: without_user(&source.identifier), reason };
        let mut url: Url =
            source.identifier.parse().map_err(|e| invalid(format!("not a valid address: {e}")))?;
        let user = percent_decoded(url.username());
        let password = percent_decoded(url.password().unwrap_or_default());
        let credentials =
            (!user.is_empty() || !password.is_empty()).then(|| basic_authorization(&user, &password));
        // These fail only for addresses that have no host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_fragment(None);
        let name = match source.attrs.get("http.filename") {
            Some(name) => match file_name::checked(name) {
                Some(name) => Some(name.to_owned()),
                None => return Err(invalid(format!("{name:?} can't be the name of a file"))),
            },
            None => None,
        };
        let checksum = match source.attrs.get("http.checksum") {
            Some(text) => Some(text.parse().map_err(|e| invalid(format!("the checksum {text:?}: {e}")))?),
            None => None,
        };
        let mode = match source.attrs.get("http.perm") {
            Some(text) => u32::from_str_radix(text.trim_start_matches("0o"), 8)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .ok_or_else(|| WorkerError::Unsupported(format!("`{text}` as http.perm")))?,
            None => DEFAULT_MODE,
        };
        let owner = (number(source, "http.uid")?.unwrap_or(0), number(source, "http.gid")?.unwrap_or(0));
        Ok(Wanted { url, credentials, name, checksum, mode, owner })
    }

    /// The digest that a lock file pins it to; it must be what the Dockerfile asks for.
    fn pinned(&self, build: &Build<'_>) -> Result<Option<Digest>, WorkerError> {
        let name = self.url.as_str();
        match (&self.checksum, build.pins.held_web(name)) {
            (Some(asked), Some(held)) if *asked != held => {
                Err(build.pins.disagrees(name, held.to_string(), &asked.to_string()).into())
            }
            (Some(_), _) => Ok(None),
            (None, _) => Ok(build.pins.web(name)),
        }
    }

    /// The layer, and the digest of the file.
    fn bring(&self, build: &Build<'_>, pinned: Option<Digest>) -> Result<(Stack, Digest), WorkerError> {
        let address = self.address();
        let _alone = alone(build, &format!("web-{}", Digest::of(address.as_bytes()).hex()))?;
        let before = known(build, &address)?;
        if let Some((row, layer)) = &before
            && self.checksum.or(pinned) == Some(row.digest)
        {
            return Ok((super::stack(layer), row.digest));
        }
        if let Some(flag) = build.images.forbidden {
            return self.known_last(build, before, pinned, flag);
        }
        let web = Web {
            runtime: build.images.runtime,
            cancel: build.cancel,
            credentials: self.authorization(build)?,
        };
        let url = self.url.as_str();
        let downloaded = web.repeatedly(url, || self.download(build, &web, before.as_ref()))?;
        let Some(downloaded) = downloaded else {
            let (row, layer) =
                before.ok_or_else(|| self.failure("it is said to be unchanged since never"))?;
            self.check(build, pinned, &row.digest)?;
            build.store.meta.set_resolved(&address, &row.digest)?;
            return Ok((super::stack(&layer), row.digest));
        };
        self.check(build, pinned, &downloaded.digest)?;
        let Downloaded { active, digest, name, mtime_s, etag, modified } = downloaded;
        let layer = commit(build, active, &format!("{address} {mtime_s}"))?;
        let row = FetchedRow { etag, modified, digest, name, layer: layer.id };
        build.store.meta.set_fetched(&address, &row)?;
        build.store.meta.set_resolved(&address, &digest)?;
        Ok((super::stack(&layer), digest))
    }

    /// What came before, where nobody may be asked and it is not what is pinned.
    fn known_last(
        &self,
        build: &Build<'_>,
        before: Option<(FetchedRow, LayerRow)>,
        pinned: Option<Digest>,
        flag: &'static str,
    ) -> Result<(Stack, Digest), WorkerError> {
        let name = self.url.to_string();
        if let Some(pinned) = pinned {
            return Err(build.pins.not_asked(name, Some(pinned.to_string()), flag));
        }
        let Some((row, layer)) = before else {
            return Err(match self.checksum {
                Some(_) => WorkerError::NotAsked { what: name, flag },
                None => build.pins.not_asked(name, None, flag),
            });
        };
        self.check(build, None, &row.digest)?;
        let asked = build.store.meta.resolved::<Digest>(&self.address())?;
        let age_s = asked.map(|(_, asked_s)| (now_s() - asked_s).max(0));
        if self.checksum.is_none() {
            build.pins.note_age(&name, AgedSource { flag, age_s, what: row.digest.to_string() });
        }
        Ok((super::stack(&layer), row.digest))
    }

    /// What it is known by: all that makes a difference in the layer, but not the checksum.
    fn address(&self) -> String {
        let credentials = self.credentials.as_deref().unwrap_or_default();
        let (mode, owner) = (self.mode.to_string(), format!("{:?}", self.owner));
        let name = self.name.as_deref().unwrap_or_default();
        let rest = digest_of(&[credentials, name, &mode, &owner]).hex();
        format!("{} {rest}", self.url)
    }

    /// What the user gave for the host: in the address, or as a secret named after it.
    fn authorization(&self, build: &Build<'_>) -> Result<Option<HeaderValue>, WorkerError> {
        let host = self.url.host_str().unwrap_or_default();
        let with_port = self.url.port().map(|port| format!("{host}:{port}"));
        let mut found = self.credentials.clone();
        for host in with_port.iter().map(String::as_str).chain([host]) {
            if found.is_none() {
                found = header_secret(build, &format!("HTTP_AUTH_HEADER_{host}"))?;
            }
            if found.is_none() {
                let token = header_secret(build, &format!("HTTP_AUTH_TOKEN_{host}"))?;
                found = token.map(|token| format!("Bearer {token}"));
            }
        }
        let Some(text) = found else { return Ok(None) };
        let mut value =
            HeaderValue::from_str(&text).map_err(|_| self.failure("its secret can't be a header"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// One attempt; nothing if it is what it was before.
    fn download(
        &self,
        build: &Build<'_>,
        web: &Web<'_>,
        before: Option<&(FetchedRow, LayerRow)>,
    ) -> Result<Option<Downloaded>, Failure> {
        let response = web.get(&self.url, &before.map_or_else(HeaderMap::new, |(row, _)| conditions(row)))?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let headers = response.headers();
        let modified_s = header(headers, LAST_MODIFIED).as_deref().and_then(seconds);
        let date_s = header(headers, DATE).as_deref().and_then(seconds);
        let settled = matches!((modified_s, date_s), (Some(m), Some(d)) if d - m >= MODIFIED_GRAIN_S);
        let etag = header(headers, ETAG);
        let modified = header(headers, LAST_MODIFIED).filter(|_| settled);
        let disposition = header(headers, CONTENT_DISPOSITION);
        let in_answer = || file_name::of_answer(disposition.as_deref(), self.url.path());
        let name = self.name.clone().unwrap_or_else(in_answer);
        let mtime_s = modified_s.unwrap_or(0);
        let mut body = Hashed { body: web.body(response), hasher: Hasher::new() };
        let own = |e| Failure::Own(WorkerError::Snapshot(e));
        let active = build.store.snapshots.prepare().map_err(own)?;
        let tree = active.tree().map_err(own)?;
        let written =
            tree.write_file(name.as_bytes(), self.mode, Some(self.owner), Some((mtime_s, 0)), &mut body);
        if let Err(error) = written {
            return Err(body.body.failure.unwrap_or_else(|| own(error)));
        }
        let digest = body.hasher.finish();
        Ok(Some(Downloaded { active, digest, name, mtime_s, etag, modified }))
    }

    fn check(&self, build: &Build<'_>, pinned: Option<Digest>, got: &Digest) -> Result<(), WorkerError> {
        if let Some(pinned) = pinned.filter(|pinned| pinned != got) {
            return Err(build.pins.moved(self.url.as_str(), pinned.to_string(), got.to_string()).into());
        }
        match &self.checksum {
            Some(expected) if expected != got => Err(WorkerError::Checksum {
                address: self.url.to_string(),
                expected: expected.to_string(),
                got: *got,
            }),
            _ => Ok(()),
        }
    }

    fn failure(&self, reason: &str) -> WorkerError {
        WorkerError::Source { address: self.url.to_string(), reason: reason.to_owned() }
    }
}

/// A body whose digest is worked out as it is read.
struct Hashed<'a> {
    body: Body<'a>,
    hasher: Hasher,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// The headers that ask for a file only if it is not what it was.
fn conditions(row: &FetchedRow) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [(IF_NONE_MATCH, &row.etag), (IF_MODIFIED_SINCE, &row.modified)] {
        if let Some(value) = value.as_ref().and_then(|v| HeaderValue::from_str(v).ok()) {
            headers.insert(name, value);
        }
    }
    headers
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let value = headers.get(name)?.as_bytes();
    String::from_utf8(value.to_vec()).ok().filter(|text| !text.is_empty())
}

/// A date of HTTP in seconds since 1970.
fn seconds(date: &str) -> Option<i64> {
    rfc2822::DateTimeParser::new().parse_timestamp(date).ok().map(|time| time.as_second())
}

/// An address that can't be read, without what may be credentials in it.
fn without_user(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}", &rest[host..])
}
