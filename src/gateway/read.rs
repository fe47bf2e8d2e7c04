//! A request's facts, from the head that pingora has parsed: what could be read in two ways is refused.

use super::forward;
use crate::clock::UnixNanos;
use crate::operation::parse_upgrade;
use crate::reason::Reason;
use crate::request::{Brought, Refusal, RequestFacts, TlsFacts, UpgradeWanted, canonicalise};
use crate::snapshot::RequestSettings;
use crate::token::find_key;
use http::{HeaderMap, header};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use std::net::SocketAddr;
use std::sync::Arc;

/// The field that API keys come in.
pub(super) const API_KEY: &str = "x-api-key";

/// How a request has come.
pub(super) struct Arrival<'a> {
    pub source: SocketAddr,
    pub tls: &'a Arc<TlsFacts>,
    pub http2: bool,
}

/// Whether the head says that no body follows. In HTTP/1 one is announced by its length or its coding (RFC 9112 section
/// 6.3); in HTTP/2 the head ends the stream (RFC 9113 section 8.1).
pub(super) fn is_bodyless(session: &Session) -> bool {
    match session.as_http2() {
        Some(stream) => stream.is_body_empty(),
        None => {
            let fields = &session.req_header().headers;
            !fields.contains_key(header::CONTENT_LENGTH) && !fields.contains_key(header::TRANSFER_ENCODING)
        }
    }
}

/// Reads the request's facts.
///
/// # Errors
/// Why it cannot be read in one way.
pub(super) fn read(
    head: &RequestHeader,
    bodyless: bool,
    arrival: &Arrival<'_>,
    settings: &RequestSettings,
    id: Arc<str>,
    now: UnixNanos,
) -> Result<RequestFacts, Refusal> {
    check_fields(&head.headers, settings.head.max_fields)?;
    if arrival.http2 && head.uri.scheme_str().is_some_and(|s| s != "https") {
        return Err(Refusal::new(Reason::HeadMalformed, "`:scheme` is not `https`"));
    }
    if !arrival.http2 && speaks_grpc(head) {
        return Err(Refusal::new(Reason::HeadMalformed, "gRPC is spoken over HTTP/2 only"));
    }
    let host = host_of(head, arrival.http2)?;
    let canonical = canonicalise(&head.method, head.raw_path(), Some(host), arrival.tls.sni.as_deref())?;
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    let content_length = match (lengths.next(), lengths.next()) {
        (None, _) => bodyless.then_some(0),
        (Some(_), Some(_)) => {
            return Err(Refusal::new(Reason::HeadAmbiguousFraming, "Content-Length appears twice"));
        }
        (Some(value), None) => match value.to_str().ok().and_then(|v| v.parse().ok()) {
            Some(n) => Some(n),
            None => return Err(Refusal::new(Reason::HeadAmbiguousFraming, "Content-Length is not a plain number")),
        },
    };
    let mut headers = Vec::new();
    for name in &settings.policy_headers {
        for value in head.headers.get_all(name.as_str()) {
            headers.push((name.clone(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        }
    }
    Ok(RequestFacts {
        id,
        canonical,
        source: arrival.source,
        tls: arrival.tls.clone(),
        headers,
        content_length,
        upgrade: upgrade_of(head),
        bearer: if settings.bearer { bearer_of(&head.headers) } else { Brought::None },
        api_key: api_key_of(&head.headers, settings.api_key),
        now,
    })
}

/// Names and values that no later reader may see differently. HTTP/1 heads were judged in the raw already; for
/// HTTP/2 this is the first look.
fn check_fields(fields: &HeaderMap, max: usize) -> Result<(), Refusal> {
    if fields.len() > max {
        return Err(Refusal::new(Reason::HeadTooManyFields, format!("more than {max} fields")));
    }
    for value in fields.values() {
        let bytes = value.as_bytes();
        if std::str::from_utf8(bytes).is_err() {
            return Err(Refusal::new(Reason::HeadNotUtf8, "a field value is not UTF-8"));
        }
        // RFC 9113 section 8.2.1. HTTP/1 would take it off on the way, and policy would have seen another value.
        if bytes.trim_ascii().len() != bytes.len() {
            return Err(Refusal::new(Reason::HeadMalformed, "white space around a field value"));
        }
    }
    check_connection(fields)?;
    if let Some(expect) = fields.get(header::EXPECT) {
        if !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") {
            return Err(Refusal::new(Reason::ExpectationUnknown, "Expect is not `100-continue`"));
        }
    }
    Ok(())
}

/// A field that Connection names ends here (RFC 9110 section 7.6.1), after policy has seen it. So only what concerns the
/// connection, what never passes, and what is not there may be named.
fn check_connection(fields: &HeaderMap) -> Result<(), Refusal> {
    for value in fields.get_all(header::CONNECTION) {
        for token in value.to_str().unwrap_or("?").split(',').map(str::trim) {
            let usual = ["close", "keep-alive", "upgrade", "te"].iter().any(|t| token.eq_ignore_ascii_case(t));
            if usual || token.is_empty() {
                continue;
            }
            let named = http::HeaderName::from_bytes(token.as_bytes()).map_err(|_| {
                Refusal::new(Reason::HeadMalformed, "Connection holds something that is not a field name")
            })?;
            if fields.contains_key(&named) && !forward::is_reserved(named.as_str()) {
                return Err(Refusal::new(
                    Reason::HeadAmbiguousFraming,
                    format!("Connection names the field `{named}`"),
                ));
            }
        }
    }
    Ok(())
}

/// Host of an HTTP/1 request; `:authority` of an HTTP/2 request, which a Host field must not contradict.
fn host_of(head: &RequestHeader, http2: bool) -> Result<&str, Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let field = match (hosts.next(), hosts.next()) {
        (None, _) => None,
        (Some(value), None) => {
            Some(value.to_str().map_err(|_| Refusal::new(Reason::HostMissing, "Host is not printable ASCII"))?)
        }
        (Some(_), Some(_)) => return Err(Refusal::new(Reason::HostMissing, "several Host fields")),
    };
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    match (http2, authority, field) {
        (true, Some(authority), Some(field)) if !authority.eq_ignore_ascii_case(field) => {
            Err(Refusal::new(Reason::HostMismatch, "`:authority` and Host disagree"))
        }
        (true, Some(authority), _) => Ok(authority),
        (_, _, Some(field)) => Ok(field),
        _ => Err(Refusal::new(Reason::HostMissing, "no Host and no `:authority`")),
    }
}

/// One protocol, asked for with a GET of HTTP/1.1 whose Connection names the field (RFC 9110 section 7.8, RFC 6455
/// section 4.1); everything else that mentions an upgrade is unclear.
fn upgrade_of(head: &RequestHeader) -> UpgradeWanted {
    let mut values = head.headers.get_all(header::UPGRADE).iter();
    let wanted = match (values.next(), values.next()) {
        (None, _) => return UpgradeWanted::No,
        (Some(value), None)
            if head.version == http::Version::HTTP_11
                && head.method == http::Method::GET
                && forward::connection_names(&head.headers).any(|t| t.eq_ignore_ascii_case("upgrade")) =>
        {
            value.to_str().ok().and_then(|text| parse_upgrade(text).ok())
        }
        _ => None,
    };
    wanted.map_or(UpgradeWanted::Unclear, UpgradeWanted::To)
}

/// RFC 6750 section 2.1; the scheme is compared without case (RFC 9110 section 11.1).
fn bearer_of(fields: &HeaderMap) -> Brought {
    let mut values = fields.get_all(header::AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Brought::None,
        (Some(_), Some(_)) => return Brought::Unclear("there are several Authorization fields"),
        (Some(value), None) => String::from_utf8_lossy(value.as_bytes()),
    };
    let end = value.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(value.len());
    let (scheme, text) = value.split_at(end);
    if scheme.eq_ignore_ascii_case("bearer") {
        return Brought::Text(text.trim().into());
    }
    // Somebody behind may find one there: in a list, behind something, under another scheme.
    let is_jwt = |word: &str| word.starts_with("eyJ") && word.matches('.').count() >= 2;
    let mut words = value.split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
    if value.to_ascii_lowercase().contains("bearer") || words.any(is_jwt) {
        return Brought::Unclear(
            "an access token is in Authorization, and not as its only credential of the scheme Bearer",
        );
    }
    Brought::None
}

/// One field. Where nobody has keys, what is in it is the upstream's business, unless it is a key all the same.
fn api_key_of(fields: &HeaderMap, wanted: bool) -> Brought {
    let mut values = fields.get_all(API_KEY).iter();
    let text = match (values.next(), values.next()) {
        (None, _) => return Brought::None,
        (Some(value), None) => String::from_utf8_lossy(value.as_bytes()),
        (Some(_), Some(_)) if wanted => return Brought::Unclear("there are several X-API-Key fields"),
        (Some(_), Some(_)) => return Brought::None,
    };
    if wanted || find_key(text.as_bytes()).is_some() { Brought::Text(text.into()) } else { Brought::None }
}

pub(super) fn is_grpc(head: &RequestHeader) -> bool {
    head.version == http::Version::HTTP_2 && speaks_grpc(head)
}

/// `application/grpc`, alone or with a message format; gRPC-Web is another protocol, made for HTTP/1.1.
fn speaks_grpc(head: &RequestHeader) -> bool {
    let rest = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}
