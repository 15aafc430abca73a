//! Uploads to a signed address of Azure's storage: in one piece, or in blocks that a list puts together. It does not
//! know who signed it.

use super::service::request;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kiln_registry::WebRequest;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};

/// One request for all.
pub(super) fn whole(url: &Url) -> WebRequest<'static> {
    let mut request = put(url.clone());
    request.headers.insert("x-ms-blob-type", HeaderValue::from_static("BlockBlob"));
    request
}

/// The request for one block.
pub(super) fn block(url: &Url, at: u64) -> WebRequest<'static> {
    let mut url = url.clone();
    url.query_pairs_mut().append_pair("comp", "block").append_pair("blockid", &id(at));
    put(url)
}

/// The request that carries the list.
pub(super) fn all_blocks(url: &Url) -> WebRequest<'static> {
    let mut url = url.clone();
    url.query_pairs_mut().append_pair("comp", "blocklist");
    let mut request = put(url);
    request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    request
}

/// The list of so many blocks.
pub(super) fn list(blocks: u64) -> Vec<u8> {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
    for at in 0..blocks {
        text.push_str(&format!("<Latest>{}</Latest>", id(at)));
    }
    text.push_str("</BlockList>");
    text.into_bytes()
}

/// All ids of a blob's blocks have one length.
fn id(at: u64) -> String {
    STANDARD.encode(format!("{at:012}"))
}

fn put(url: Url) -> WebRequest<'static> {
    let mut request = request(Method::PUT, url);
    request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    request
}
