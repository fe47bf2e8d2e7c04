//! Path, query, host and method in the one form that is decided on and forwarded (RFC 3986, RFC 9110).

use super::Refusal;
use crate::reason::Reason;
use http::Method;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A host name in lower case without trailing dot and port, or an IP literal as in a URI.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(String);

impl Host {
    /// From a Host field, `:authority`, SNI or config; a port is dropped.
    ///
    /// # Errors
    /// What is wrong with it, for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{}` is not a host name", text.chars().take(80).collect::<String>().escape_default());
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or_else(bad)?;
            let address: Ipv6Addr = address.parse().map_err(|_| bad())?;
            if !(port.is_empty() || port.strip_prefix(':').is_some_and(is_port)) {
                return Err(bad());
            }
            return Ok(Host(format!("[{address}]")));
        }
        let name = match text.split_once(':') {
            Some((name, port)) if is_port(port) => name,
            Some(_) => return Err(bad()),
            None => text,
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if name.parse::<Ipv4Addr>().is_ok() {
            return Ok(Host(name));
        }
        let label = |l: &str| {
            !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        // A last label of digits only would be read as an address by some.
        let last_is_name = name.rsplit('.').next().is_some_and(|l| !l.bytes().all(|b| b.is_ascii_digit()));
        if name.len() <= 253 && name.split('.').all(label) && last_is_name { Ok(Host(name)) } else { Err(bad()) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_address(&self) -> bool {
        self.0.starts_with('[') || self.0.parse::<Ipv4Addr>().is_ok()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// A request whose meaning does not depend on who reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalRequest {
    pub method: Method,
    pub host: Host,
    /// Exactly the bytes that are forwarded, undecoded; starts with `/`.
    pub path: String,
    /// Exactly the bytes that are forwarded, undecoded, without `?`; `None` where there is no `?`.
    pub query: Option<String>,
}

impl CanonicalRequest {
    /// Path and query as forwarded.
    pub fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// The path with every character written as it is that need not be encoded (`%3A` as `:`): the other spelling in
    /// which a server may read it. `None` where there is no other.
    pub fn other_spelling(&self) -> Option<String> {
        if !self.path.contains('%') {
            return None;
        }
        let mut out = String::with_capacity(self.path.len());
        let mut rest = self.path.as_str();
        while let Some(at) = rest.find('%') {
            let (before, encoded) = rest.split_at(at);
            out.push_str(before);
            let (sequence, after) = encoded.split_at_checked(3).unwrap_or((encoded, ""));
            let byte = sequence.get(1..).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            match byte {
                Some(byte) if is_path_byte(byte) => out.push(char::from(byte)),
                _ => out.push_str(&sequence.to_ascii_uppercase()),
            }
            rest = after;
        }
        out.push_str(rest);
        (out != self.path).then_some(out)
    }

    /// The path's segments, undecoded; `/` is one empty segment, a trailing slash makes a last empty one.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.path.strip_prefix('/').unwrap_or(&self.path).split('/')
    }

    /// Keys and values of the query, undecoded, in order; a key without `=` has an empty value.
    pub fn query_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.query
            .as_deref()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }
}

/// The methods that are served.
pub const SERVED: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS];

/// Checks that a request has one reading.
///
/// `target` is path and query as received; `host` the Host field or `:authority`; `sni` the TLS server name.
///
/// # Errors
/// [`Reason::MethodNotServed`], [`Reason::TargetNotCanonical`], [`Reason::HostMissing`] or [`Reason::HostMismatch`].
pub fn canonicalise(
    method: &Method,
    target: &[u8],
    host: Option<&str>,
    sni: Option<&str>,
) -> Result<CanonicalRequest, Refusal> {
    if !SERVED.contains(method) {
        let shown: String = method.as_str().chars().take(20).collect();
        return Err(Refusal::new(Reason::MethodNotServed, shown));
    }
    let not_canonical = |detail: String| Refusal::new(Reason::TargetNotCanonical, detail);
    let target = std::str::from_utf8(target).map_err(|_| not_canonical("the target is not ASCII".into()))?;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    check_path(path).map_err(not_canonical)?;
    if let Some(query) = query {
        check_query(query).map_err(not_canonical)?;
    }
    let Some(host) = host else { return Err(Refusal::new(Reason::HostMissing, "no host")) };
    let host = Host::parse(host).map_err(|detail| Refusal::new(Reason::HostMissing, detail))?;
    if let Some(sni) = sni {
        // A client that connects by address sends no SNI (RFC 6066 section 3), so SNI and an address always disagree.
        let same = Host::parse(sni).is_ok_and(|sni| sni == host);
        if !same || host.is_address() {
            return Err(Refusal::new(
                Reason::HostMismatch,
                format!("TLS server name `{}`, host `{host}`", sni.escape_default()),
            ));
        }
    }
    Ok(CanonicalRequest { method: method.clone(), host, path: path.to_owned(), query: query.map(str::to_owned) })
}

/// A path with one reading: absolute; no empty, `.` or `..` segment; no `;`, `\` or other byte that servers treat in
/// their own way; percent-encoding only where it is needed, of valid UTF-8, and never of `/`, `\`, `%`-sequences or
/// control characters.
fn check_path(path: &str) -> Result<(), String> {
    let Some(rest) = path.strip_prefix('/') else { return Err("the path does not start with `/`".into()) };
    let last = rest.split('/').count().saturating_sub(1);
    for (n, segment) in rest.split('/').enumerate() {
        if segment.is_empty() && n < last {
            return Err("an empty path segment (`//`)".into());
        }
        if matches!(segment, "." | "..") {
            return Err("a `.` or `..` path segment".into());
        }
        // pchar of RFC 3986 without `;`, which some servers cut off with what follows.
        if segment.bytes().all(is_path_byte) {
            continue;
        }
        let decoded = check_encoding(segment, is_path_byte)?;
        for pair in &decoded {
            if pair.encoded && is_unreserved(pair.byte) {
                return Err(format!("`%{:02X}` encodes a character that is written as it is", pair.byte));
            }
            if pair.encoded && matches!(pair.byte, b'/' | b'\\' | b';') {
                return Err(format!("`%{:02X}` in the path", pair.byte));
            }
        }
        check_decoded(&decoded)?;
    }
    Ok(())
}

/// A query with one reading. Values may encode more than they need to. Keys may not, because policy compares keys: each
/// has one spelling, without spaces, with upper-case hex.
fn check_query(query: &str) -> Result<(), String> {
    // RFC 3986 without `;`, at which some servers split.
    let in_value = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$'()*+,:@/?=".contains(&b);
    let in_key = |b: u8| in_value(b) && !matches!(b, b'+' | b'=');
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key.bytes().all(in_key) && value.bytes().all(in_value) {
            continue;
        }
        let key_octets = check_encoding(key, in_key)?;
        if let Some(octet) = key_octets.iter().find(|o| o.encoded && (in_key(o.byte) || o.byte == b' ')) {
            return Err(format!("`%{:02X}` in a query key has another spelling", octet.byte));
        }
        if key.split('%').skip(1).any(|after| after.bytes().take(2).any(|b| b.is_ascii_lowercase())) {
            return Err("lower-case hex in a query key; write `%5B`, not `%5b`".into());
        }
        let value_octets = check_encoding(value, in_value)?;
        for part in [&key_octets, &value_octets] {
            if part.iter().any(|o| o.encoded && o.byte == 0) {
                return Err("`%00` in the query".into());
            }
            let bytes: Vec<u8> = part.iter().map(|o| o.byte).collect();
            if std::str::from_utf8(&bytes).is_err() {
                return Err("percent-encoding that is not UTF-8".into());
            }
        }
    }
    Ok(())
}

struct Octet {
    byte: u8,
    encoded: bool,
}

fn check_encoding(text: &str, allowed: impl Fn(u8) -> bool) -> Result<Vec<Octet>, String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
            let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
                return Err("`%` without two hex digits".into());
            };
            octets.push(Octet { byte: u8::try_from(high * 16 + low).unwrap_or_default(), encoded: true });
        } else if allowed(b) {
            octets.push(Octet { byte: b, encoded: false });
        } else {
            return Err(format!("byte 0x{b:02x} is not allowed here; percent-encode it"));
        }
    }
    Ok(octets)
}

/// The decoded segment: UTF-8 (overlong forms are not), no control characters, and nothing that a second decoding
/// would change.
fn check_decoded(octets: &[Octet]) -> Result<(), String> {
    let bytes: Vec<u8> = octets.iter().map(|o| o.byte).collect();
    let text = std::str::from_utf8(&bytes).map_err(|_| "percent-encoding that is not UTF-8".to_owned())?;
    if text.chars().any(char::is_control) {
        return Err("an encoded control character in the path".into());
    }
    let hex = |o: Option<&Octet>| o.is_some_and(|o| o.byte.is_ascii_hexdigit());
    for (n, octet) in octets.iter().enumerate() {
        if octet.byte == b'%' && hex(octets.get(n + 1)) && hex(octets.get(n + 2)) {
            return Err("double percent-encoding in the path".into());
        }
    }
    Ok(())
}

fn is_path_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&b)
}

fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(target: &str) -> Result<CanonicalRequest, Reason> {
        canonicalise(&Method::GET, target.as_bytes(), Some("api.example"), None).map_err(|r| r.reason)
    }

    #[test]
    fn ordinary_targets_pass_unchanged() {
        for target in [
            "/",
            "/v1/orders",
            "/v1/orders/",
            "/v1/o-1_2.json?x=1&y=%2F..&filter%5Bname%5D=a+b&z",
            "/caf%C3%A9",
            "/caf%c3%a9/a%20b",
            "/a:b@c",
            "/100%25",
            "/x?u=https://a/b?c=%252F&t=~%7E",
        ] {
            assert_eq!(run(target).map(|r| r.target()), Ok(target.to_owned()), "{target}");
        }
    }

    #[test]
    fn targets_with_two_readings_are_refused() {
        for target in [
            "",
            "v1",
            "*",
            "//",
            "/a//b",
            "/./a",
            "/a/..",
            "/a/../b",
            "/%2e%2e/b",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a;x=1",
            "/a%3bx",
            "/a%00b",
            "/a%0ab",
            "/%252e%252e/a",
            "/a%252fb",
            "/%c0%ae%c0%ae",
            "/%e0%80%af",
            "/%ff",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a b",
            "/a\tb",
            "/é",
            "/a#b",
            "/%61dmin",
            "/a?%61=1",
            "/a?x=%00",
            "/a?x=%ff",
            "/a?x=\"",
            "/a?x=<",
            "/a?x#y",
            "/a?x=1;y=2",
            "/a?f[x]=1",
            "/a?f%5bx=1",
            "/a?a+b=1",
            "/a?a%20b=1",
            "/a?a%3Ab=1",
            "/%7f",
        ] {
            assert_eq!(run(target), Err(Reason::TargetNotCanonical), "{target}");
        }
    }

    #[test]
    fn the_other_spelling_of_a_path_is_known() {
        let other = |target: &str| run(target).unwrap().other_spelling();
        assert_eq!(other("/orders/7%3Acancel").as_deref(), Some("/orders/7:cancel"));
        assert_eq!(other("/caf%c3%a9").as_deref(), Some("/caf%C3%A9"));
        assert_eq!(other("/a%20b"), None);
        assert_eq!(other("/orders/7:cancel"), None);
    }

    #[test]
    fn sni_and_host_are_compared_as_names() {
        let with =
            |host: &str, sni: &str| canonicalise(&Method::GET, b"/", Some(host), Some(sni)).map_err(|r| r.reason);
        for (host, sni) in
            [("api.example", "api.example"), ("API.example.", "api.example"), ("api.example:8443", "API.EXAMPLE")]
        {
            assert!(with(host, sni).is_ok(), "{host} {sni}");
        }
        assert_eq!(with("other.example", "api.example"), Err(Reason::HostMismatch));
        assert_eq!(with("127.0.0.1", "api.example"), Err(Reason::HostMismatch));
        for bad in
            ["", "a b", "api.example:x", "api..example", "[::1", "api.example:", "a/b", "1.2.3", "user@api.example"]
        {
            assert_eq!(with(bad, "api.example"), Err(Reason::HostMissing), "{bad}");
        }
    }

    #[test]
    fn methods_that_are_never_served() {
        for method in [Method::TRACE, Method::CONNECT, Method::from_bytes(b"PROPFIND").unwrap()] {
            let refused = canonicalise(&method, b"/", Some("a.example"), None).unwrap_err();
            assert_eq!(refused.reason, Reason::MethodNotServed);
        }
    }

    /// What common servers do to a path before they look at it.
    fn as_servers_read_it(path: &str) -> Vec<String> {
        let decode = |s: &str| {
            let mut out = Vec::new();
            let bytes = s.as_bytes();
            let mut n = 0;
            while n < bytes.len() {
                let pair = bytes
                    .get(n + 1..n + 3)
                    .and_then(|h| std::str::from_utf8(h).ok())
                    .and_then(|h| u8::from_str_radix(h, 16).ok());
                match (bytes[n], pair) {
                    (b'%', Some(b)) => {
                        out.push(b);
                        n += 3;
                    }
                    (b, _) => {
                        out.push(b);
                        n += 1;
                    }
                }
            }
            String::from_utf8_lossy(&out).into_owned()
        };
        let once = decode(path);
        let twice = decode(&once);
        let cut: String =
            once.split('/').map(|s| s.split(';').next().unwrap().to_owned()).collect::<Vec<_>>().join("/");
        vec![once.clone(), twice, cut, once.replace('\\', "/")]
    }

    fn dots_removed(path: &str) -> String {
        let mut out: Vec<&str> = Vec::new();
        for segment in path.split('/').filter(|s| !s.is_empty() && *s != ".") {
            if segment == ".." {
                out.pop();
            } else {
                out.push(segment);
            }
        }
        out.join("/")
    }

    proptest! {
        /// For every path that is let through, each server's reading has the same segments.
        #[test]
        fn accepted_paths_have_one_reading(path in "(/(%2e|%2E|%2f|%5c|%25|%00|%41|%c0|%af|%3b|\\.|\\.\\.|a|b;c|;|\\\\|~| |%C3%A9|2e|%|/){0,4}){1,4}") {
            if let Ok(request) = run(&path) {
                prop_assert_eq!(&request.path, &path);
                let plain = as_servers_read_it(&path)[0].clone();
                for reading in as_servers_read_it(&path) {
                    prop_assert_eq!(dots_removed(&reading), dots_removed(&plain));
                    prop_assert_eq!(reading.trim_end_matches('/').split('/').count(), path.trim_end_matches('/').split('/').count());
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), host in ".{0,20}") {
            let _ = canonicalise(&Method::GET, &bytes, Some(&host), Some(&host));
        }
    }
}
