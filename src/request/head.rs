//! The raw HTTP/1 request head, judged before any parser that repairs what it reads (RFC 9112).
//!
//! A head that two parsers could read differently is refused here, whatever the library behind would make of it.

use super::Refusal;
use crate::reason::Reason;

/// Bounds on a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of request line and fields together.
    pub max_bytes: usize,
    pub max_fields: usize,
}

/// Names that all Connection fields may list together; pingora takes no more.
const MAX_NOMINATED: usize = 9;

/// Judges a complete head, up to and including its empty line. `pipelined` is how many bytes the client has already
/// sent behind it.
///
/// # Errors
/// The reason and the detail of the first rule that is broken.
pub fn judge_head(head: &[u8], pipelined: usize, limits: &HeadLimits) -> Result<(), Refusal> {
    let malformed = |detail: &str| Refusal::new(Reason::HeadMalformed, detail);
    if head.len() > limits.max_bytes {
        return Err(Refusal::new(
            Reason::HeadTooLarge,
            format!("{} bytes; {} are allowed", head.len(), limits.max_bytes),
        ));
    }
    let Some(body) = head.strip_suffix(b"\r\n\r\n") else {
        return Err(malformed("the head does not end in CR LF CR LF"));
    };
    let mut lines = Lines { rest: Some(body) };
    let request_line = lines.next().ok_or_else(|| malformed("empty"))??;
    let http_10 = judge_request_line(request_line)?;

    let mut fields = 0usize;
    let mut hosts = 0usize;
    let mut content_lengths = 0usize;
    let mut transfer_encodings = 0usize;
    let mut upgrade = false;
    let mut nominated = 0usize;
    for line in lines {
        let line = line?;
        fields += 1;
        if fields > limits.max_fields {
            return Err(Refusal::new(Reason::HeadTooManyFields, format!("more than {} fields", limits.max_fields)));
        }
        let (name, value) = judge_field(line)?;
        if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
            // pingora answers these itself, without a record.
            if value.contains(&b'@') {
                return Err(Refusal::new(Reason::HostMissing, "Host holds user information"));
            }
        } else if name.eq_ignore_ascii_case(b"connection") {
            nominated += judge_connection(value)?;
            if nominated > MAX_NOMINATED {
                return Err(malformed("Connection names too many fields"));
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            content_lengths += 1;
            if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
                return Err(Refusal::new(Reason::HeadAmbiguousFraming, "Content-Length is not a plain number"));
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            transfer_encodings += 1;
            if value != b"chunked" {
                return Err(Refusal::new(Reason::HeadAmbiguousFraming, "Transfer-Encoding is not exactly `chunked`"));
            }
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            upgrade = true;
        } else if name.eq_ignore_ascii_case(b"expect") && !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(Refusal::new(Reason::ExpectationUnknown, "Expect is not `100-continue`"));
        }
    }
    let ambiguous = |detail: &str| Err(Refusal::new(Reason::HeadAmbiguousFraming, detail));
    if hosts != 1 {
        return Err(Refusal::new(Reason::HostMissing, format!("{hosts} Host fields; exactly one is needed")));
    }
    if content_lengths > 1 {
        return ambiguous("Content-Length appears twice");
    }
    if transfer_encodings > 1 {
        return ambiguous("Transfer-Encoding appears twice");
    }
    if content_lengths > 0 && transfer_encodings > 0 {
        return ambiguous("Content-Length together with Transfer-Encoding");
    }
    if http_10 && transfer_encodings > 0 {
        return ambiguous("Transfer-Encoding in HTTP/1.0");
    }
    if upgrade && (pipelined > 0 || content_lengths + transfer_encodings > 0) {
        return ambiguous("bytes follow a request for an upgrade before it was answered");
    }
    Ok(())
}

/// Lines ended by CR LF. A CR or LF on its own is an error.
struct Lines<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        let end = rest.iter().position(|b| matches!(b, b'\r' | b'\n'));
        let Some(end) = end else { return Some(Ok(rest)) };
        let (line, tail) = rest.split_at(end);
        match tail.strip_prefix(b"\r\n") {
            Some(after) => {
                self.rest = Some(after);
                Some(Ok(line))
            }
            None => Some(Err(Refusal::new(Reason::HeadMalformed, "a bare CR or LF in the head"))),
        }
    }
}

/// `METHOD SP target SP HTTP/1.x`. Returns whether it is HTTP/1.0.
fn judge_request_line(line: &[u8]) -> Result<bool, Refusal> {
    let malformed = |detail: &str| Refusal::new(Reason::HeadMalformed, detail);
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed("the request line is not `METHOD target HTTP/1.1` with single spaces"));
    };
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) {
        return Err(malformed("the method is not a token"));
    }
    let http_10 = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ => return Err(malformed("the version is not HTTP/1.1 or HTTP/1.0")),
    };
    if method == b"CONNECT" {
        return Err(Refusal::new(Reason::MethodNotServed, "CONNECT"));
    }
    if !target.starts_with(b"/") {
        return Err(Refusal::new(
            Reason::TargetNotCanonical,
            "the target is not in origin form: it must start with `/`",
        ));
    }
    if http::uri::PathAndQuery::try_from(target).is_err() && target.is_ascii() && !target.contains(&b'#') {
        return Err(Refusal::new(Reason::TargetNotCanonical, "a character in the target must be percent-encoded"));
    }
    if let Some(bad) = target.iter().find(|b| !b.is_ascii_graphic() || **b == b'#') {
        return Err(Refusal::new(Reason::TargetNotCanonical, format!("byte 0x{bad:02x} in the target")));
    }
    Ok(http_10)
}

/// `name: value`. Returns the name and the value without surrounding white space.
fn judge_field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let malformed = |detail: &str| Refusal::new(Reason::HeadMalformed, detail);
    if line.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
        return Err(malformed("a folded field line"));
    }
    let Some(colon) = line.iter().position(|b| *b == b':') else {
        return Err(malformed("a field line without a colon"));
    };
    let (name, value) = line.split_at(colon);
    let value = value.get(1..).unwrap_or_default();
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return Err(malformed("a field name is empty or not a token (a space before the colon?)"));
    }
    if value.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f) {
        return Err(malformed("a control character in a field value"));
    }
    if std::str::from_utf8(value).is_err() {
        return Err(Refusal::new(Reason::HeadNotUtf8, "a field value is not UTF-8"));
    }
    Ok((name, value.trim_ascii()))
}

/// The names that Connection lists, as many as there are: tokens, and none that proxies set. pingora breaks off at
/// others only when the request is allowed already.
fn judge_connection(value: &[u8]) -> Result<usize, Refusal> {
    let malformed = |detail: &str| Err(Refusal::new(Reason::HeadMalformed, detail));
    let mut names = 0;
    for name in value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
        names += 1;
        if !name.iter().all(|b| is_token(*b)) {
            return malformed("Connection names something that is not a token");
        }
        let protected: [&[u8]; 4] = [b"host", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"];
        if protected.iter().any(|p| name.eq_ignore_ascii_case(p)) {
            return malformed("Connection names a field that cannot be dropped");
        }
    }
    Ok(names)
}

/// tchar of RFC 9110 section 5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits { max_bytes: 16_384, max_fields: 100 };

    fn judge(head: &str) -> Result<(), Reason> {
        judge_head(head.as_bytes(), 0, &LIMITS).map_err(|r| r.reason)
    }

    #[test]
    fn an_ordinary_head_passes() {
        assert_eq!(judge("GET /v1/orders?page=2 HTTP/1.1\r\nHost: api.example\r\nAccept: */*\r\nX-E:\r\n\r\n"), Ok(()));
        assert_eq!(
            judge("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"),
            Ok(())
        );
    }

    #[test]
    fn what_parsers_read_differently_is_refused() {
        for (head, reason) in [
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", Reason::HeadMalformed),
            ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", Reason::HeadMalformed),
            ("GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", Reason::HeadMalformed),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Reason::HeadMalformed),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", Reason::HeadMalformed),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::HeadMalformed),
            ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Reason::HeadMalformed),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Reason::HeadMalformed),
            ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Reason::TargetNotCanonical),
            ("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Reason::TargetNotCanonical),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Reason::TargetNotCanonical),
            ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", Reason::MethodNotServed),
            ("GET / HTTP/1.1\r\nX: y\r\n\r\n", Reason::HostMissing),
            ("GET / HTTP/1.0\r\n\r\n", Reason::HostMissing),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Reason::HostMissing),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
                Reason::HeadAmbiguousFraming,
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", Reason::HeadAmbiguousFraming),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", Reason::HeadAmbiguousFraming),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                Reason::HeadAmbiguousFraming,
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Reason::HeadAmbiguousFraming),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", Reason::HeadAmbiguousFraming),
            ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Reason::HeadAmbiguousFraming),
            ("GET / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n", Reason::ExpectationUnknown),
        ] {
            assert_eq!(judge(head), Err(reason), "{head:?}");
        }
    }

    #[test]
    fn a_value_that_is_not_utf8_is_refused() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\r\n\r\n";
        assert_eq!(judge_head(head, 0, &LIMITS).unwrap_err().reason, Reason::HeadNotUtf8);
    }

    #[test]
    fn bytes_behind_an_upgrade_request_are_refused() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert!(judge_head(head, 0, &LIMITS).is_ok());
        assert_eq!(judge_head(head, 1, &LIMITS).unwrap_err().reason, Reason::HeadAmbiguousFraming);
    }

    #[test]
    fn counts_and_sizes_have_bounds() {
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100));
        assert_eq!(judge(&many), Err(Reason::HeadTooManyFields));
        let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(16_384));
        assert_eq!(judge(&large), Err(Reason::HeadTooLarge));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = judge_head(&bytes, 0, &LIMITS);
        }
    }
}
