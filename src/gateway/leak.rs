//! API keys where they do not belong: whose they are, and nothing else of the request that has one, is written down.
//!
//! In: a head, or what came in the place of one. Out: why it is refused. Keys are looked for whether they are accepted or
//! not: somebody may rely on what one narrows, and no upstream gets one. Must never: put a key, or what stands beside it,
//! into a [`Refusal`].

use super::Connection;
use super::read::API_KEY;
use crate::partner::PartnerRecord;
use crate::reason::Reason;
use crate::record::Metrics;
use crate::request::Refusal;
use crate::snapshot::Snapshot;
use crate::token::find_key;
use data_encoding::BASE64;
use http::{HeaderValue, header};
use pingora_http::RequestHeader;
use std::sync::Arc;

/// Why a request with this head is refused before anything else of it is read.
pub(super) fn leaked(
    snapshot: &Snapshot,
    connection: &Connection,
    metrics: &Metrics,
    head: &RequestHeader,
) -> Option<Refusal> {
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = head.headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    let url = std::iter::once(head.raw_path()).chain(authority).chain(host);
    if let Some(key) = url.into_iter().find_map(find_key) {
        return Some(in_url(snapshot, connection, metrics, &key));
    }
    // In its own field a key is where it belongs, if that stands there once.
    let one = head.headers.get_all(API_KEY).iter().nth(1).is_none();
    let fields = head.headers.iter().filter(|(name, _)| !one || name.as_str() != API_KEY);
    let mut found = fields.filter_map(|(name, value)| {
        let value = value.as_bytes();
        let basic = || value.strip_prefix(b"Basic ").and_then(|code| BASE64.decode(code).ok());
        find_key(value).or_else(|| find_key(name.as_str())).or_else(|| find_key(basic()?))
    });
    found.next().map(|key| Refusal::new(Reason::ApiKeyAmbiguous, whose(snapshot, &key).1))
}

/// The same of the first line of what is no head: it has leaked all the same.
pub fn leaked_in_line(snapshot: &Snapshot, connection: &Connection, metrics: &Metrics, head: &[u8]) -> Option<Refusal> {
    let key = find_key(head.split(|c| *c == b'\r' || *c == b'\n').next()?)?;
    Some(in_url(snapshot, connection, metrics, &key))
}

fn in_url(snapshot: &Snapshot, connection: &Connection, metrics: &Metrics, key: &str) -> Refusal {
    let (owner, detail) = whose(snapshot, key);
    let peer = || snapshot.registry.matching(&connection.peer).into_iter().next().map(|(record, ..)| record);
    metrics.api_key_in_url(owner.or_else(peer).map(|record| &record.partner.id));
    Refusal::new(Reason::ApiKeyInUrl, detail)
}

/// The partner that has the key, and which one it is, for the operator.
fn whose<'a>(snapshot: &'a Snapshot, key: &str) -> (Option<&'a Arc<PartnerRecord>>, String) {
    let keys = snapshot.tokens.as_ref().and_then(|tokens| tokens.api_keys.as_ref());
    match keys.and_then(|keys| snapshot.registry.api_key(&keys.read(key)?)) {
        Some((record, own)) => (Some(record), format!("it is `{}` of `{}`: revoke it", own.id, record.partner.id)),
        None => (None, "it is no key of anybody, or a part of one".to_owned()),
    }
}
