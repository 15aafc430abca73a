//! A file of the web as a layer: downloaded, or known from before.
//! It does not know how requests are made or repeated.

use super::web::{Body, Failure, Web};
use super::{
    alone, basic_authorization, commit, digest_of, file_name, header_secret, known, number, percent_decoded,
};
use crate::WorkerError;
use crate::build::Build;
use crate::meta::{FetchedRow, LayerRow};
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
pub(super) fn bring(build: &Build<'_>, source: &SourceOp) -> Result<(Digest, LayerRow), WorkerError> {
    let wanted = Wanted::of(source)?;
    let address = wanted.address();
    let _alone = alone(build, &format!("web-{}", Digest::of(address.as_bytes()).hex()))?;
    let before = known(build, &address)?;
    if let Some((row, layer)) = &before
        && wanted.checksum.as_ref() == Some(&row.digest)
    {
        return Ok((row.digest, layer.clone()));
    }
    if let Some(flag) = build.images.forbidden {
        let unknown = || WorkerError::NotAsked { what: wanted.url.to_string(), flag };
        let (row, layer) = before.ok_or_else(unknown)?;
        wanted.check(&row.digest)?;
        return Ok((row.digest, layer));
    }
    let web = Web {
        runtime: build.images.runtime,
        cancel: build.cancel,
        credentials: wanted.authorization(build)?,
    };
    let url = wanted.url.as_str();
    let downloaded = web.repeatedly(url, || wanted.download(build, &web, before.as_ref()))?;
    let Some(downloaded) = downloaded else {
        let (row, layer) = before.ok_or_else(|| wanted.failure("it is said to be unchanged since never"))?;
        wanted.check(&row.digest)?;
        return Ok((row.digest, layer));
    };
    wanted.check(&downloaded.digest)?;
    let Downloaded { active, digest, name, mtime_s, etag, modified } = downloaded;
    let layer = commit(build, active, &format!("{address} {mtime_s}"))?;
    build.store.meta.set_fetched(&address, &FetchedRow { etag, modified, digest, name, layer: layer.id })?;
    Ok((digest, layer))
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

    fn check(&self, got: &Digest) -> Result<(), WorkerError> {
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
