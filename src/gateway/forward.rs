//! The head that the upstream receives: built from the canonical request, with the client's fields that may pass and
//! ours set — not the client's with things removed.

use super::certificate::{ChainField, xfcc};
use super::inflight::InFlight;
use super::read::API_KEY;
use crate::decision::Permit;
use crate::request::UpgradeWanted;
use crate::route::TokenUse;
use crate::token::{Asserted, Tokens};
use http::{HeaderMap, HeaderValue, Version, header};
use pingora_error::{Error, ErrorType};
use pingora_http::{RequestHeader, ResponseHeader};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

/// Room for the fields that the gateway sets.
const OURS: usize = 12;

/// `from` is pingora's copy of the client's head after its hop-by-hop rules (RFC 9110 section 7.6.1).
pub(super) fn build_head(
    from: &RequestHeader,
    flight: &InFlight,
    permit: &Permit,
    host: Option<&str>,
    via: &str,
    client_version: Version,
) -> pingora_error::Result<RequestHeader> {
    let request = flight.request();
    let canonical = &request.canonical;
    let target = canonical.target();
    let fields = Some(from.headers.len() + OURS);
    let mut head = RequestHeader::build(canonical.method.clone(), target.as_bytes(), fields)?;
    head.set_version(from.version);
    let parent = from.headers.get("traceparent").and_then(|v| v.to_str().ok());
    let (trace, continued) = traceparent(parent);
    let route = flight.route();
    let withheld = permit.narrowed().token.is_some() && route.is_none_or(|route| !route.forward.token);
    // A key is for the gateway, and says nothing to anybody else.
    let keyed = flight.tokens().is_some_and(|tokens| tokens.api_keys.is_some())
        && route.is_none_or(|route| route.api_key != TokenUse::Ignored);
    for (name, value) in &from.headers {
        let text = name.as_str();
        // pingora has taken them off; what an upgrade needs is set below.
        let hop = matches!(text, "connection" | "upgrade");
        // The state of a trace means nothing to another trace.
        let stray = text == "tracestate" && !continued;
        let token = withheld && name == header::AUTHORIZATION;
        let key = keyed && text == API_KEY;
        if name == header::HOST || is_reserved(text) || hop || stray || token || key {
            continue;
        }
        head.append_header(name.clone(), value.clone())?;
    }
    let client_host = canonical.host.as_str();
    head.insert_header(header::HOST, host.unwrap_or(client_host))?;
    if let UpgradeWanted::To(protocol) = &request.upgrade {
        head.insert_header(header::CONNECTION, "Upgrade")?;
        head.insert_header(header::UPGRADE, &**protocol)?;
    }

    head.insert_header("X-Partner-Id", permit.partner().as_str())?;
    head.insert_header("X-Partner-Grant", permit.grant().as_str())?;
    head.insert_header("X-Request-Id", &*request.id)?;
    head.insert_header("X-Forwarded-For", request.source.ip().to_string())?;
    head.insert_header("X-Forwarded-Host", client_host)?;
    head.insert_header("X-Forwarded-Proto", HeaderValue::from_static("https"))?;
    head.insert_header("Forwarded", forwarded(request.source, client_host))?;
    let protocol = match client_version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    head.append_header("Via", format!("{protocol} {via}"))?;
    head.insert_header("traceparent", trace)?;

    if let Some(route) = route {
        let (connection, metrics) = (flight.connection(), flight.metrics());
        if let (true, Some(value)) = (route.forward.client_cert, &connection.client_cert) {
            head.insert_header("Client-Cert", value.as_str())?;
            // Never without the certificate that it belongs to (RFC 9440 section 2.3).
            match &connection.client_cert_chain {
                ChainField::Value(chain) if route.forward.client_cert_chain => {
                    head.insert_header("Client-Cert-Chain", chain.as_str())?;
                }
                ChainField::TooLarge if route.forward.client_cert_chain => metrics.chain_omitted.inc(),
                _ => {}
            }
        }
        if route.forward.xfcc {
            match xfcc(&connection.peer.leaf) {
                Some(value) => {
                    let value = HeaderValue::from_bytes(value.as_bytes());
                    let value = value.map_err(|_| Error::new(ErrorType::InternalError))?;
                    head.insert_header("X-Forwarded-Client-Cert", value)?;
                }
                None => metrics.xfcc_omitted.inc(),
            }
        }
        if route.forward.assertion {
            let signed = flight.tokens().ok_or_else(|| "nothing signs it".to_owned());
            let value = signed.and_then(|tokens| assertion(tokens, flight, permit)).map_err(|e| {
                tracing::error!(error = e, "an assertion cannot be signed");
                Error::new(ErrorType::InternalError)
            })?;
            head.insert_header("X-Partner-Assertion", &*value)?;
        }
    }
    Ok(head)
}

/// The assertion of this request; of several that are alike, one has the next one made aside.
fn assertion(tokens: &Arc<Tokens>, flight: &InFlight, permit: &Permit) -> Result<Arc<str>, String> {
    let asserted = Asserted {
        partner: permit.partner().clone(),
        grant: permit.grant().clone(),
        operation: permit.operation().clone(),
        upstream: permit.upstream().clone(),
        certificate: flight.connection().peer.leaf.fingerprint,
    };
    let now = flight.request().now;
    let (value, due) = tokens.assertions.get(&asserted, now)?;
    if due {
        let tokens = tokens.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = tokens.assertions.replace(asserted, now) {
                tracing::error!(error, "an assertion cannot be signed");
            }
        });
    }
    Ok(value)
}

/// What the client sees of the gateway in a response.
pub(super) fn finish_response(
    response: &mut ResponseHeader,
    flight: &InFlight,
    via: &str,
) -> pingora_error::Result<()> {
    // What concerns the connection to the upstream alone ends here (RFC 9110 section 7.6.1).
    let kept = |name: &str| ["close", "upgrade", "keep-alive"].iter().any(|kept| name.eq_ignore_ascii_case(kept));
    let named: Vec<String> = connection_names(&response.headers).filter(|n| !kept(n)).map(str::to_owned).collect();
    for name in named.iter().map(String::as_str).chain(["keep-alive", "proxy-connection"]) {
        response.remove_header(name);
    }
    response.insert_header("X-Request-Id", &*flight.request().id)?;
    let protocol = match response.version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    response.append_header("Via", format!("{protocol} {via}"))?;
    // A cache cannot know the certificate (RFC 9440 section 2.4).
    let varies = response
        .headers
        .get_all(header::VARY)
        .iter()
        .any(|v| v.to_str().is_ok_and(|v| v.split(',').any(|f| f.trim().eq_ignore_ascii_case("client-cert"))));
    if varies {
        response.insert_header(header::VARY, "*")?;
    }
    Ok(())
}

/// What Connection lists.
pub(super) fn connection_names(fields: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = fields.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).filter(|t| !t.is_empty())
}

/// Fields that state an identity, a source or another target; only the gateway sets them. Servers behind may read `_`
/// as `-`, so both count.
pub(super) fn is_reserved(name: &str) -> bool {
    let plain = name;
    let normal = |c: char| if matches!(c, '_' | '.') { '-' } else { c.to_ascii_lowercase() };
    let name = if plain.chars().all(|c| normal(c) == c) {
        Cow::Borrowed(plain)
    } else {
        Cow::Owned(plain.chars().map(normal).collect())
    };
    // `transfer_encoding` is a framing field to some servers, and would be one that nobody has judged.
    let framing = matches!(&*name, "transfer-encoding" | "content-length" | "host" | "connection" | "upgrade");
    if framing {
        return !plain.eq_ignore_ascii_case(&name);
    }
    match name.as_bytes().first() {
        Some(b'x') => RESERVED_X.contains(&&*name) || RESERVED_X_PREFIXES.iter().any(|p| name.starts_with(p)),
        Some(b'c' | b'f' | b'k' | b'p' | b's' | b't') => RESERVED.contains(&&*name) || name.starts_with("ssl-client"),
        _ => false,
    }
}

const RESERVED: &[&str] = &[
    "client-cert",
    "client-cert-chain",
    "forwarded",
    "front-end-https",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "traceparent",
    "true-client-ip",
];
const RESERVED_X: &[&str] = &[
    "x-request-id",
    "x-real-ip",
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-host",
    "x-url-scheme",
    "x-client-ip",
    "x-cluster-client-ip",
];
const RESERVED_X_PREFIXES: &[&str] = &[
    "x-partner-",
    "x-forwarded-",
    "x-ssl-",
    "x-client-cert",
    "x-client-dn",
    "x-client-verify",
    "x-envoy-",
    "x-original-",
];

/// RFC 7239.
fn forwarded(source: SocketAddr, host: &str) -> String {
    let node = match source {
        SocketAddr::V4(v4) => v4.to_string(),
        SocketAddr::V6(v6) => format!("[{}]:{}", v6.ip(), v6.port()),
    };
    format!("for=\"{node}\";host=\"{host}\";proto=https")
}

/// W3C Trace Context: the client's trace goes on with a span of ours (true), or one is started.
fn traceparent(parent: Option<&str>) -> (String, bool) {
    // Its last half, where the counter and the random bits are.
    let fresh = uuid::Uuid::now_v7().simple().to_string();
    let span = fresh.get(16..).unwrap_or_default();
    let hex_of = |text: &str, len: usize| {
        text.len() == len
            && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
            && text.bytes().any(|c| c != b'0')
    };
    let parts: Vec<&str> = parent.unwrap_or_default().split('-').collect();
    match parts.as_slice() {
        ["00", trace, id, flags]
            if hex_of(trace, 32) && hex_of(id, 16) && flags.len() == 2 && hex::decode(flags).is_ok() =>
        {
            (format!("00-{trace}-{span}-{flags}"), true)
        }
        _ => (format!("00-{}-{span}-00", uuid::Uuid::now_v7().simple()), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_fields_are_reserved_in_every_spelling() {
        for name in [
            "X-Partner-Id",
            "x_partner_id",
            "X-FORWARDED-FOR",
            "x_forwarded-client_cert",
            "Client-Cert",
            "client_cert",
            "Forwarded",
            "X-Original-URL",
            "X_HTTP_Method_Override",
            "X-Real-IP",
            "x.partner.id",
            "transfer_encoding",
            "Content_Length",
        ] {
            assert!(is_reserved(name), "{name}");
        }
        for name in RESERVED.iter().chain(RESERVED_X).chain(RESERVED_X_PREFIXES).chain(&["ssl-client-dn"]) {
            assert!(is_reserved(name) && is_reserved(&name.replace('-', "_")), "{name}");
        }
        for name in ["accept", "authorization", "content-type", "x-api-version", "idempotency-key", "x-partnership"] {
            assert!(!is_reserved(name), "{name}");
        }
    }

    #[test]
    fn a_trace_goes_on_or_is_started() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let (next, continued) = traceparent(Some(parent));
        assert!(continued);
        assert!(
            next.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && next.ends_with("-01") && next != parent,
            "{next}"
        );
        for bad in [
            None,
            Some(""),
            Some("00-0-0-0"),
            Some("00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
            Some("x\r\ny"),
        ] {
            let (started, continued) = traceparent(bad);
            assert!(!continued && started.len() == 55, "{started}");
        }
    }

    #[test]
    fn forwarded_quotes_ipv6() {
        assert_eq!(
            forwarded("[2001:db8::1]:4711".parse().unwrap(), "api.example"),
            "for=\"[2001:db8::1]:4711\";host=\"api.example\";proto=https"
        );
    }
}
