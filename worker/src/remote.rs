//! Sources from the network that are no images: files of the web, git repositories. Each becomes one layer.
//! It does not know what they are for.

mod file_name;
mod git;
mod git_address;
mod git_program;
mod http;
#[cfg(test)]
mod tests;
mod web;

pub(crate) use git_address::{is_commit, is_name as is_ref_name};

use crate::WorkerError;
use crate::build::Build;
use crate::exec_step::add_layer;
use crate::layer::{Layer, Stack};
use crate::meta::{FetchedRow, LayerRow};
use crate::pins::{Pin, SourceName};
use crate::store::Lock;
use kiln_oci::{Digest, Hasher};
use kiln_snapshotter::{Active, CommitOptions};
use kiln_solver::{CacheKey, SourceOp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a wait goes on before it looks whether the user has stopped the build.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// Brings a source here as a layer.
pub(crate) fn bring(build: &Build<'_>, source: &SourceOp) -> Result<Stack, WorkerError> {
    match source.identifier.split_once("://") {
        Some(("git", _)) => git::bring(build, source),
        Some(("http" | "https", _)) => http::bring(build, source),
        _ => Err(WorkerError::Unsupported(source.identifier.clone())),
    }
}

/// What a source is called in a lock file.
pub(crate) fn pin_name(source: &SourceOp) -> Result<SourceName, WorkerError> {
    match source.identifier.split_once("://") {
        Some(("git", _)) => git::pin_name(source).map(SourceName::Git),
        Some(("http" | "https", _)) => http::pin_name(source).map(SourceName::Web),
        _ => Err(WorkerError::Unsupported(source.identifier.clone())),
    }
}

/// What a name of a lock file stands for now.
pub(crate) fn ask(build: &Build<'_>, name: &SourceName) -> Result<Pin, WorkerError> {
    match name {
        SourceName::Git(name) => {
            let (address, reference) = name.split_once('#').unwrap_or((name, ""));
            let attrs = [("git.fullurl".to_owned(), address.to_owned())].into();
            git::ask(build, &SourceOp { identifier: format!("git://{address}#{reference}"), attrs })
                .map(Pin::Git)
        }
        SourceName::Web(url) => {
            let source = SourceOp { identifier: url.clone(), attrs: BTreeMap::new() };
            http::bring(build, &source)?;
            let digest = build.pins.web(&http::pin_name(&source)?);
            digest.map(Pin::Web).ok_or_else(|| WorkerError::Unsupported(url.clone()))
        }
    }
}

/// What was fetched before under an address, if its layer is still here.
fn known(build: &Build<'_>, address: &str) -> Result<Option<(FetchedRow, LayerRow)>, WorkerError> {
    let Some(row) = build.store.meta.fetched(address)? else { return Ok(None) };
    Ok(build.store.meta.layer(row.layer)?.map(|layer| (row, layer)))
}

/// The only holder of the lock `name`: what another process fetches is not fetched a second time.
fn alone(build: &Build<'_>, name: &str) -> Result<Lock, WorkerError> {
    build.store.lock(name, build.cancel)
}

/// Ends a snapshot of what `origin` stands for. If it held the same before, the old layer is kept.
fn commit(build: &Build<'_>, active: Active, origin: &str) -> Result<LayerRow, WorkerError> {
    let committed = build.store.snapshots.commit(active, &[], &CommitOptions::default())?;
    let origin = CacheKey(Digest::of(origin.as_bytes()));
    if let Some(old) = build.store.meta.same(&origin, &committed.content)?
        && let Some(row) = build.store.meta.layer(old)?
    {
        build.store.snapshots.remove(&committed.id)?;
        return Ok(row);
    }
    let id = add_layer(build, &committed)?;
    build.note_made();
    build.store.meta.add_same(&origin, &committed.content, id)?;
    let row = build.store.meta.layer(id)?;
    row.ok_or_else(|| WorkerError::NoImage(format!("layer {id}")))
}

fn stack(row: &LayerRow) -> Stack {
    Stack::from_iter([Arc::new(Layer::made(row))])
}

/// What stands for several texts, none of which can be taken for a part of its neighbour.
fn digest_of(parts: &[&str]) -> Digest {
    let mut hasher = Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finish()
}

/// An attribute that is a number.
fn number<T: std::str::FromStr>(source: &SourceOp, attr: &str) -> Result<Option<T>, WorkerError> {
    let Some(text) = source.attrs.get(attr) else { return Ok(None) };
    let parsed = text.parse().map_err(|_| WorkerError::Unsupported(format!("`{text}` as {attr}")))?;
    Ok(Some(parsed))
}

/// The user and password in an address as the value of an `Authorization` header.
fn basic_authorization(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let pair = format!("{user}:{password}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// A text of an address without its `%XX`; what is no UTF-8 then stays as it is.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match hex.filter(|h| h.bytes().all(|c| c.is_ascii_hexdigit())).map(|h| u8::from_str_radix(h, 16)) {
            Some(Ok(byte)) => {
                out.push(byte);
                i += 3;
            }
            _ => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// A secret as the value of a header: without the newline at its end, and without any other.
fn header_secret(build: &Build<'_>, id: &str) -> Result<Option<String>, WorkerError> {
    let Some(bytes) = build.request.secrets.get(id) else { return Ok(None) };
    let text = std::str::from_utf8(bytes).ok().map(str::trim_end).filter(|t| !t.contains(char::is_control));
    match text {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(WorkerError::Unsupported(format!("the secret {id}, which is not one line of text,"))),
    }
}
