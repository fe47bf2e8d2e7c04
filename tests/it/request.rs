//! The request as such: threats 11 to 18 over HTTP/1, each on the first and on the second request of a connection.

use crate::harness::http2::{Http2, block_on};
use crate::harness::{Gate, HOST, Response, Setup, await_some, count, node, python, run, same};
use serde_json::json;
use std::process::Command;
use std::time::{Duration, Instant};

const GOOD: &str = "GET /items HTTP/1.1\r\nHost: api.partner.test\r\n\r\n";

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into_bytes()
}

/// A head with these lines behind the request line and Host, and a body.
fn with(method: &str, lines: &str, body: &str) -> Vec<u8> {
    format!("{method} /items HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n{body}").into_bytes()
}

/// The upstream has received requests for the list and nothing else, so many of them.
#[track_caller]
fn only_good_ones(gate: &Gate, n: usize) {
    let text = gate.upstream.text();
    let heads: Vec<&str> = text.split_terminator("\r\n\r\n").collect();
    assert_eq!(heads.len(), n, "{text}");
    for head in heads {
        assert!(head.starts_with("GET /items HTTP/1.1\r\n"), "{head}");
    }
}

/// Sends something that must be refused (for one of the reasons between `|`), first on a new connection and then as the second request of another.
/// Afterwards the connection is closed, the upstream has seen nothing of it, and there is one record for each.
#[track_caller]
fn refused_and_closed(forms: &[(&str, Vec<u8>, u16, &str)]) {
    let gate = Gate::start();
    for (name, bytes, status, reason) in forms {
        for second in [false, true] {
            let mut conn = gate.dial().identity(&gate.acme).open();
            if second {
                conn.request(GOOD).expect(200);
            }
            conn.send(bytes);
            let what = format!("{name}, second: {second}");
            let answer = conn.try_response().unwrap_or_else(|e| panic!("{what}: no answer: {e}"));
            assert_eq!(answer.status, *status, "{what}: {answer:?}");
            assert!(answer.header("content-type") == Some("application/problem+json"), "{what}: {answer:?}");
            assert_problem(&answer);
            conn.assert_closed();
            let record = gate.record_of(answer.id());
            let given = record["reason"].as_str().unwrap();
            assert!(reason.split('|').any(|r| r == given), "{what}: {given}: {record}");
            assert_eq!(record["status"], *status, "{what}: {record}");
            assert_eq!(record["input"]["partner"]["id"], "acme", "{what}: {record}");
        }
    }
    let records = gate.settle();
    assert_eq!(count(&records, |r| r["result"] == "deny"), 2 * forms.len(), "one record for each");
    assert_eq!(count(&records, |r| r["result"] == "allow"), forms.len(), "one record for each good one");
    assert_eq!(records.len(), 3 * forms.len());
    only_good_ones(&gate, forms.len());
}

#[track_caller]
fn assert_problem(answer: &Response) {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status, "{answer:?}");
    assert_eq!(problem["request_id"], answer.id(), "{answer:?}");
}

/// Threat 11.
#[test]
fn targets_that_can_be_read_in_two_ways_are_refused() {
    let forms: Vec<_> = [
        "/items/%2e%2e/admin",
        "/items/%2E%2E/admin",
        "/items/.%2e/admin",
        "/items/a%2fb",
        "/items/a%2Fb",
        "/items/a%5cb",
        "/items/a\\b",
        "//items",
        "/items//7",
        "/./items",
        "/items/.",
        "/items/..",
        "/items/../admin",
        "/items/7;x=1",
        "/items/7%3bx",
        "/items/7%00",
        "/items/%252e%252e/admin",
        "/items/a%252fb",
        "/items/%c0%ae%c0%ae/admin",
        "/items/%e0%80%af",
        "/items/%ff",
        "/items/7%",
        "/items/7%4",
        "/items/7%zz",
        "/items/%0d%0aX:y",
        "/%69tems",
        "/items/7#fragment",
        "/items?x=1#fragment",
        "/items?%78=1",
        "/items?x=%00",
        "/items?x=%ff",
        "/items?x=\"",
        "/items/\u{e9}",
        "https://api.partner.test/items",
        "http://elsewhere.test/items",
        "*",
        "items",
        "?x=1",
        "@elsewhere.test/items",
        "api.partner.test:443",
    ]
    .iter()
    .map(|target| (*target, get(target), 400, "target-not-canonical"))
    .collect();
    refused_and_closed(&forms);
}

#[test]
fn request_lines_that_parsers_read_differently_are_refused() {
    let line = |line: &str| format!("{line}\r\nHost: {HOST}\r\n\r\n").into_bytes();
    let malformed = |name, bytes| (name, bytes, 400, "head-malformed");
    refused_and_closed(&[
        malformed("a space in the target", line("GET /items /7 HTTP/1.1")),
        malformed("a tab for a space", line("GET\t/items HTTP/1.1")),
        malformed("two spaces", line("GET  /items HTTP/1.1")),
        malformed("a leading space", line(" GET /items HTTP/1.1")),
        malformed("a trailing space", line("GET /items HTTP/1.1 ")),
        malformed("no version", line("GET /items")),
        malformed("HTTP/0.9", line("GET /items HTTP/0.9")),
        malformed("HTTP/1.2", line("GET /items HTTP/1.2")),
        malformed("HTTP/2.0", line("GET /items HTTP/2.0")),
        malformed("a version in lower case", line("GET /items http/1.1")),
        malformed("no method", line(" /items HTTP/1.1")),
        malformed("a method that is no token", line("G(T /items HTTP/1.1")),
        malformed("a NUL in the line", line("GET /items\0 HTTP/1.1\0")),
        malformed("not HTTP", b"\x16\x03\x01\x00\x05hello\r\n\r\n".to_vec()),
    ]);
}

/// Threat 12.
#[test]
fn heads_whose_framing_is_ambiguous_are_refused() {
    let ambiguous = |name, bytes| (name, bytes, 400, "head-ambiguous-framing");
    let smuggled = format!("0\r\n\r\nGET /items/smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let te = |value: &str| with("POST", &format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n");
    refused_and_closed(&[
        ambiguous("length and chunked", with("POST", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", &smuggled)),
        ambiguous("chunked and length", with("POST", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", &smuggled)),
        ambiguous("two lengths", with("POST", "Content-Length: 5\r\nContent-Length: 6\r\n", "hello!")),
        ambiguous("two equal lengths", with("POST", "Content-Length: 5\r\nContent-Length: 5\r\n", "hello")),
        ambiguous("a list of lengths", with("POST", "Content-Length: 5, 5\r\n", "hello")),
        ambiguous("a signed length", with("POST", "Content-Length: +5\r\n", "hello")),
        ambiguous("a negative length", with("POST", "Content-Length: -1\r\n", "")),
        ambiguous("a hex length", with("POST", "Content-Length: 0x5\r\n", "hello")),
        ambiguous("an empty length", with("POST", "Content-Length:\r\n", "")),
        ambiguous("a length beyond numbers", with("POST", "Content-Length: 99999999999999999999\r\n", "")),
        ambiguous("gzip, chunked", te("gzip, chunked")),
        ambiguous("chunked, identity", te("chunked, identity")),
        ambiguous("identity", te("identity")),
        ambiguous("Chunked", te("Chunked")),
        ambiguous("xchunked", te("xchunked")),
        ambiguous("chunked with a parameter", te("chunked;x=1")),
        ambiguous("quoted chunked", te("\"chunked\"")),
        ambiguous("an empty one", te("")),
        ambiguous(
            "two transfer encodings",
            with("POST", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        ambiguous(
            "chunked in HTTP/1.0",
            format!("POST /items HTTP/1.0\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").into_bytes(),
        ),
        ambiguous(
            "a second request behind an upgrade",
            [with("GET", "Connection: upgrade\r\nUpgrade: websocket\r\n", ""), get("/items/smuggled")].concat(),
        ),
        ambiguous(
            "an upgrade with a body",
            with("GET", "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", "hello"),
        ),
    ]);
}

/// Threats 12 and 17.
#[test]
fn fields_that_parsers_read_differently_are_refused() {
    let malformed = |name, bytes| (name, bytes, 400, "head-malformed");
    let host = |lines: &str| format!("GET /items HTTP/1.1\r\n{lines}\r\n").into_bytes();
    refused_and_closed(&[
        malformed("a folded line", with("GET", "X-A: b\r\n folded\r\n", "")),
        malformed("a line folded with a tab", with("GET", "X-A: b\r\n\tfolded\r\n", "")),
        malformed("a space before the colon", with("POST", "Content-Length : 5\r\n", "hello")),
        malformed("a tab before the colon", with("POST", "Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n")),
        malformed("no colon", with("GET", "X-A\r\n", "")),
        malformed("no name", with("GET", ": b\r\n", "")),
        malformed("a name that is no token", with("GET", "X(A): b\r\n", "")),
        malformed("a bare CR", with("GET", "X-A: b\rX-B: c\r\n", "")),
        malformed("a bare LF", with("GET", "X-A: b\nX-B: c\r\n", "")),
        malformed(
            "a bare LF behind the request line",
            format!("GET /items HTTP/1.1\nHost: {HOST}\r\n\r\n").into_bytes(),
        ),
        malformed("bare LFs only", format!("GET /items HTTP/1.1\nHost: {HOST}\n\n").into_bytes()),
        malformed("a bare LF at the end", format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\n").into_bytes()),
        malformed("a NUL in a value", with("GET", "X-A: b\0c\r\n", "")),
        malformed("an escape in a value", with("GET", "X-A: \x1b[31m\r\n", "")),
        malformed("a NUL in a name", with("GET", "X\0A: b\r\n", "")),
        (
            "bytes that are not UTF-8",
            [&GOOD.as_bytes()[..GOOD.len() - 2], b"X-A: \xff\xfe\r\n\r\n"].concat(),
            400,
            "head-not-utf8",
        ),
        (
            "an overlong form",
            [&GOOD.as_bytes()[..GOOD.len() - 2], b"X-A: \xc0\xae\r\n\r\n"].concat(),
            400,
            "head-not-utf8",
        ),
        ("no Host", host("X-A: b\r\n"), 400, "host-missing"),
        ("two Hosts", host(&format!("Host: {HOST}\r\nHost: {HOST}\r\n")), 400, "host-missing"),
        ("two different Hosts", host(&format!("Host: {HOST}\r\nhost: elsewhere.test\r\n")), 400, "host-missing"),
        ("a list of Hosts", host(&format!("Host: {HOST}, elsewhere.test\r\n")), 400, "host-missing"),
        ("an empty Host", host("Host:\r\n"), 400, "host-missing"),
        ("a Host with a user", host(&format!("Host: user@{HOST}\r\n")), 400, "host-missing"),
        ("a Host with a path", host(&format!("Host: {HOST}/x\r\n")), 400, "host-missing"),
        ("HTTP/1.0 without Host", b"GET /items HTTP/1.0\r\n\r\n".to_vec(), 400, "host-missing"),
        ("an unknown expectation", with("GET", "Expect: a-miracle\r\n", ""), 400, "expectation-unknown"),
    ]);
}

/// Threat 18.
#[test]
fn heads_that_are_too_large_are_refused() {
    let field = |n: usize| format!("X-Filler: {}\r\n", "y".repeat(n));
    let many: String = (0..101).map(|n| format!("X-{n}: y\r\n")).collect();
    refused_and_closed(&[
        ("too many fields", with("GET", &many, ""), 431, "head-too-many-fields"),
        ("a field that is too large", with("GET", &field(20_000), ""), 431, "head-too-large"),
        ("a field of a mebibyte", with("GET", &field(1 << 20), ""), 431, "head-too-large"),
        ("fields that are too large together", with("GET", &field(1_000).repeat(20), ""), 431, "head-too-large"),
        ("a target that is too large", get(&format!("/items/{}", "7".repeat(20_000))), 431, "head-too-large"),
    ]);
}

/// Chunked bodies are read by a library; what it takes must still have one reading at the upstream.
#[test]
fn malformed_chunks_never_become_a_second_request() {
    let gate = Gate::start();
    let smuggled = format!("GET /items/smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for chunks in [
        "zz\r\nhello\r\n0\r\n\r\n".to_owned(),
        "-5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "0x5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "5\r\nhelloXX0\r\n\r\n".to_owned(),
        "5\nhello\n0\n\n".to_owned(),
        "5;x=\n1\r\nhello\r\n0\r\n\r\n".to_owned(),
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n".to_owned(),
        " 5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "5 \r\nhello\r\n0\r\n\r\n".to_owned(),
        "5\rhello\r\n0\r\n\r\n".to_owned(),
    ] {
        let mut conn = gate.dial().identity(&gate.acme).open();
        conn.send(with("POST", "Transfer-Encoding: chunked\r\n", &chunks));
        let _ = conn.try_send(&smuggled);
        // What follows may be answered, or the connection closed; here it only matters what reaches the upstream.
        while conn.try_response().is_ok() {}
    }
    let records = gate.settle();
    for bytes in gate.upstream.connections() {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // The second request may only ever arrive as one that was decided: with our identity in its head.
        for at in text.match_indices("GET /items/smuggled").map(|(at, _)| at) {
            assert!(text[at..].split("\r\n\r\n").next().unwrap().contains("X-Partner-Id: acme"), "{text}");
        }
        let bodies = text.matches("\r\nTransfer-Encoding: chunked\r\n").count();
        let endings = text.matches("\r\n0\r\n\r\n").count();
        assert!(endings <= bodies, "an end of a body that the gateway did not write: {text}");
    }
    let answered = count(&records, |r| r["input"]["request"]["method"] == "POST");
    assert_eq!(answered, 10, "one record for each: {records:#?}");
}

/// Threat 11: what is let through arrives as it was sent.
#[test]
fn accepted_targets_arrive_byte_for_byte() {
    let gate = Gate::start();
    let targets = [
        "/items",
        "/items?",
        "/items?a=1&b=2&a=3",
        "/items?x=%2F..&filter%5Bname%5D=a+b&z",
        "/items?u=https://a/b?c=%252F&t=~%7E",
        "/items?&&a",
        "/items/7",
        "/items/caf%C3%A9",
        "/items/caf%c3%a9",
        "/items/a%20b",
        "/items/100%25",
        "/items/a:b@c",
        "/items/!$&'()*+,=",
        "/items/...",
        "/items/.well-known",
        "/items/~user_name-1",
        "/pairs/a/b?c=d/e",
        "/pairs/x%20y/%E2%82%AC",
    ];
    let mut conn = gate.dial().identity(&gate.acme).open();
    for target in targets {
        let answer = conn.request(get(target));
        answer.expect(200);
        assert_eq!(answer.json()["target"], target);
    }
    let text = gate.upstream.text();
    let arrived: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1")).collect();
    assert_eq!(arrived, targets);
}

/// Threat 11: `%3A` and `:` are the same to many servers. Where the two spellings of a path are two operations, nobody
/// gets the one by writing the other; where they are one, the path arrives as it was written.
#[test]
fn other_spelling_of_a_path_never_names_another_operation() {
    let setup = Setup::new();
    let mut operations = setup.config()["routes"]["api"]["operations"].clone();
    for (id, path) in
        [("items.cancel", "/items/{id}:cancel"), ("groups.list", "/groups/@all"), ("groups.read", "/groups/{id}")]
    {
        operations.as_array_mut().unwrap().push(json!({"id": id, "method": "GET", "path": path}));
    }
    let registry = setup
        .registry_text()
        .replace("operations: [items.list], ends", "operations: [items.cancel, groups.list], ends");
    let registry = registry.replace("pairs.read], ends", "pairs.read, groups.read], ends");
    let gate = setup.set("routes.api.operations", operations).registry(&registry).start();
    let cases = [
        // acme may read, and not cancel; globex the other way round.
        (&gate.acme, "/items/7", None),
        (&gate.acme, "/items/7:cancel", Some("operation-not-granted")),
        (&gate.acme, "/items/7%3Acancel", Some("operation-unknown")),
        (&gate.acme, "/items/7%3acancel", Some("operation-unknown")),
        (&gate.acme, "/items/%37:cancel", Some("target-not-canonical")),
        (&gate.acme, "/items/7:%63ancel", Some("target-not-canonical")),
        (&gate.acme, "/items/7%3Aother", None),
        (&gate.acme, "/items/7%3aother", None),
        (&gate.acme, "/groups/%40all", Some("operation-unknown")),
        (&gate.acme, "/groups/@all", Some("operation-not-granted")),
        (&gate.acme, "/groups/%40one", None),
        (&gate.globex, "/items/7:cancel", None),
        (&gate.globex, "/items/7%3Acancel", Some("operation-unknown")),
        (&gate.globex, "/groups/@all", None),
        (&gate.globex, "/groups/%40all", Some("operation-unknown")),
    ];
    let mut forwarded = Vec::new();
    for (who, target, refused) in cases {
        let over_h1 = gate.dial().identity(who).open().request(get(target));
        let over_h2 = block_on(async { Http2::open(&gate.dial().identity(who)).await.get(target).await });
        for (status, id) in [(over_h1.status, over_h1.id()), (over_h2.status, over_h2.id())] {
            let record = gate.record_of(id);
            match refused {
                None => {
                    assert_eq!(status, 200, "{target}: {record}");
                    forwarded.push(target);
                }
                Some(reason) => {
                    assert!(matches!(status, 400 | 403), "{target}: {status}");
                    assert_eq!(record["reason"], reason, "{target}: {record}");
                }
            }
        }
    }
    gate.settle();
    let text = gate.upstream.text();
    let mut arrived: Vec<&str> =
        text.lines().filter_map(|l| l.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1")).collect();
    // The order of connections is not that of requests.
    arrived.sort_unstable();
    forwarded.sort_unstable();
    assert_eq!(arrived, forwarded, "as it was written, and nothing else");
}

/// Threat 13.
#[test]
fn identity_fields_of_a_client_never_arrive() {
    let gate = Gate::start();
    let names = [
        "Client-Cert",
        "CLIENT-CERT",
        "client_cert",
        "Client-Cert-Chain",
        "Client_Cert_Chain",
        "X-Forwarded-Client-Cert",
        "x_forwarded_client_cert",
        "X-Forwarded_Client-Cert",
        "X-Partner-Id",
        "x-partner-id",
        "X_PARTNER_ID",
        "X-Partner_Id",
        "X-Partner-Grant",
        "x_partner_grant",
        "X-Partner-Anything",
        "X-Request-Id",
        "x_request_id",
        "X-SSL-Client-DN",
        "SSL-Client-Cert",
        "X-Client-Cert",
        "X-Client-Verify",
    ];
    let fields: String =
        names.iter().enumerate().map(|(n, name)| format!("{name}: forged-{n}\r\n{name}: forged-again\r\n")).collect();
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.request(with("GET", &fields, "")).expect(200);
    conn.request(with("GET", &format!("Connection: X-Partner-Id, Client-Cert, close-not\r\n{fields}"), "")).expect(200);
    let chunked = "Transfer-Encoding: chunked\r\nTrailer: X-Partner-Id, Client-Cert\r\n";
    let trailers = "5\r\nhello\r\n0\r\nX-Partner-Id: forged-trailer\r\nclient_cert: forged-trailer\r\n\r\n";
    conn.request(with("POST", chunked, trailers)).expect(200);
    let text = gate.upstream.text();
    assert!(!text.contains("forged"), "{text}");
    let lower = text.to_ascii_lowercase();
    assert_eq!(lower.matches("x-partner-id: acme\r\n").count(), 3, "ours is there once in each: {text}");
    assert_eq!(lower.matches("x-partner-id:").count(), 3, "{text}");
    assert_eq!(lower.matches("x-partner-grant: acme-items\r\n").count(), 3, "{text}");
    assert_eq!(lower.matches("x-request-id:").count(), 3, "{text}");
    assert!(!lower.contains("client-cert") && !lower.contains("client_cert"), "{text}");
}

#[test]
fn fields_that_the_client_names_in_connection_cannot_take_ours_away() {
    let gate = Gate::start();
    let ours = "X-Partner-Id, X-Partner-Grant, X-Request-Id, Forwarded, Via, traceparent";
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.request(with("GET", &format!("Connection: {ours}\r\n"), "")).expect(200);
    let lower = gate.upstream.text().to_ascii_lowercase();
    for name in ["x-partner-id: acme", "x-partner-grant: acme-items", "x-request-id: ", "forwarded: for=", "via: 1.1 "]
    {
        assert_eq!(lower.matches(&format!("\r\n{name}")).count(), 1, "{name}: {lower}");
    }
    assert!(lower.contains(&format!("\r\nhost: {HOST}\r\n")), "{lower}");
}

/// A field that policy has looked at cannot be dropped afterwards: what the upstream receives is what was decided on.
#[test]
fn fields_that_policy_has_seen_cannot_be_taken_away_by_connection() {
    let (setup, policies) = Setup::new().own_policies();
    let reasons = "reasons:\n  x-tenant-missing: \"A test\"\n  x-role: \"A test\"\n";
    std::fs::write(policies.join("reasons.yaml"), reasons).unwrap();
    let rule = "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {\"reason\": \"x-tenant-missing\"} if not \
                input.request.headers[\"x-tenant\"]\n\ndeny contains {\"reason\": \"x-role\"} if \"admin\" in \
                input.request.headers[\"x-role\"]\n";
    std::fs::write(policies.join("custom/tenant.rego"), rule).unwrap();
    let gate = setup.set("policy.headers", json!(["x-tenant", "x-role"])).start();
    let ask = |lines: &str| {
        let answer = gate.dial().identity(&gate.acme).open().request(with("GET", lines, ""));
        (answer.status, gate.record_of(answer.id())["reason"].as_str().unwrap_or_default().to_owned())
    };
    let reason = |status: u16, reason: &str| (status, reason.to_owned());
    assert_eq!(ask(""), reason(403, "x-tenant-missing"));
    for connection in ["x-tenant", "X-Tenant", "close, x-tenant", "keep-alive,\tX-TENANT ,te", "x-role, x-tenant"] {
        for lines in [
            format!("X-Tenant: t\r\nConnection: {connection}\r\n"),
            format!("Connection: {connection}\r\nX-Tenant: t\r\n"),
            format!("Connection: close\r\nX-Tenant: t\r\nConnection: {connection}\r\n"),
        ] {
            assert_eq!(ask(&lines), reason(400, "head-ambiguous-framing"), "{lines}");
        }
    }
    // Nor one that policy has not been shown: the upstream may look at it.
    assert_eq!(
        ask("X-Tenant: t\r\nAuthorization: x\r\nConnection: authorization\r\n"),
        reason(400, "head-ambiguous-framing")
    );
    // White space around a value is no part of it, for anybody.
    for value in ["admin", " admin", "admin ", "\tadmin\t", "  \t admin \t "] {
        assert_eq!(ask(&format!("X-Tenant: t\r\nX-Role:{value}\r\n")), reason(403, "x-role"), "{value:?}");
    }
    gate.settle();
    gate.upstream.assert_untouched();
    // Naming what is not there takes nothing away.
    let answer = gate.dial().identity(&gate.acme).open().request(with(
        "GET",
        "X-Tenant: \t t \r\nX-Role: user\r\nConnection: x-absent, close\r\n",
        "",
    ));
    answer.expect(200);
    let seen = &gate.record_of(answer.id())["input"]["request"]["headers"];
    assert_eq!((&seen["x-tenant"], &seen["x-role"]), (&json!(["t"]), &json!(["user"])));
    let text = gate.upstream.text().to_ascii_lowercase();
    assert!(text.contains("\r\nx-tenant: t\r\n") && text.contains("\r\nx-role: user\r\n"), "{text}");
}

/// What no proxy may drop, what is no name, and more names than anybody needs.
#[test]
fn connection_that_names_what_it_may_not_is_refused() {
    let many = (0..20).map(|n| format!("x-{n}")).collect::<Vec<_>>().join(", ");
    let connection = |name, value: &str| {
        (name, with("GET", &format!("Connection: {value}\r\n"), ""), 400, "head-malformed|head-ambiguous-framing")
    };
    refused_and_closed(&[
        connection("Host", "Host"),
        connection("Host beside others", "keep-alive, hOsT"),
        connection("X-Forwarded-For", "x-forwarded-for"),
        connection("X-Forwarded-Host", "X-Forwarded-Host"),
        connection("X-Forwarded-Proto", "X-Forwarded-Proto"),
        connection("a pseudo-header", ":authority"),
        connection("a quoted name", "\"X-Forwarded-For\""),
        connection("two names without a comma", "close keep-alive"),
        connection("twenty names", &many),
    ]);
}

#[test]
fn certificate_of_the_client_is_forwarded_only_where_the_route_says_so() {
    let gate = Setup::new().set("routes.api.client_cert", true).set("routes.api.xfcc", true).start();
    let forged = "Client-Cert: :AAAA:\r\nclient_cert: :AAAA:\r\nX-Forwarded-Client-Cert: Hash=forged\r\n";
    gate.dial().identity(&gate.acme).open().request(with("GET", forged, "")).expect(200);
    let text = gate.upstream.text();
    let der = data_encoding::BASE64.encode(gate.acme.leaf());
    assert!(text.contains(&format!("Client-Cert: :{der}:\r\n")), "RFC 9440 section 2.2: {text}");
    assert!(text.contains(&format!("X-Forwarded-Client-Cert: Hash={};", gate.acme.fingerprint())), "{text}");
    assert!(!text.contains("AAAA") && !text.contains("forged"), "{text}");
}

/// RFC 9440 section 2.3: what lies between the client and the anchor, in this order, and nothing that was sent besides.
#[test]
fn chain_of_the_client_is_forwarded_without_leaf_and_anchor() {
    let setup = Setup::new().set("routes.api.client_cert", true).set("routes.api.client_cert_chain", true);
    let gate = setup.start();
    let upper = gate.pki.intermediate(&gate.acme_ca, "upper", |_| {});
    let lower = gate.pki.intermediate(&upper, "lower", |_| {});
    let named = |p: &mut rcgen::CertificateParams| {
        p.subject_alt_names = vec![rcgen::SanType::URI("spiffe://acme.example/client".try_into().unwrap())];
    };
    let below = gate.pki.client(&lower, "below", named);
    let [leaf, first, second] = below.chain.as_slice() else { panic!("{} certificates", below.chain.len()) };
    let beside = gate.pki.authority("beside").der;
    let sent = vec![leaf.clone(), beside, second.clone(), gate.acme_ca.der.clone(), first.clone()];
    let who = gate.pki.identity("in-disorder", sent, below.key.clone());
    let forged = "Client-Cert-Chain: :AAAA:\r\nclient_cert_chain: :AAAA:\r\n";
    gate.dial().identity(&who).open().request(with("GET", forged, "")).expect(200);
    let text = gate.upstream.text();
    let sequence = |der: &[u8]| format!(":{}:", data_encoding::BASE64.encode(der));
    assert!(text.contains(&format!("Client-Cert: {}\r\n", sequence(leaf))), "{text}");
    assert!(text.contains(&format!("Client-Cert-Chain: {}, {}\r\n", sequence(first), sequence(second))), "{text}");
    assert!(!text.contains("AAAA:"), "{text}");
    // Nothing lies between: no field, and none of the client's either.
    let before = gate.upstream.text().matches("Client-Cert-Chain").count();
    gate.dial().identity(&gate.acme).open().request(with("GET", forged, "")).expect(200);
    assert_eq!(gate.upstream.text().matches("Client-Cert-Chain").count(), before);
    assert_eq!(gate.metric("partnergate_client_cert_chain_omitted_total"), 0.0);
}

#[test]
fn chain_and_names_that_are_too_large_for_a_field_are_left_out_and_counted() {
    let setup = Setup::new().set("routes.api.client_cert", true).set("routes.api.client_cert_chain", true);
    let gate = setup.set("routes.api.xfcc", true).start();
    let fill = vec![0x04, 0x82, 0x30, 0x00].into_iter().chain(vec![0; 0x3000]).collect::<Vec<u8>>();
    let issuing = gate.pki.intermediate(&gate.acme_ca, "fat-ca", |p| {
        let fat = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55555, 2], fill);
        p.custom_extensions.push(fat);
    });
    let uri = || rcgen::SanType::URI("spiffe://acme.example/client".try_into().unwrap());
    let who = gate.pki.client(&issuing, "below-fat", |p| p.subject_alt_names = vec![uri()]);
    let forged = "Client-Cert-Chain: :AAAA:\r\n";
    gate.dial().identity(&who).open().request(with("GET", forged, "")).expect(200);
    let text = gate.upstream.text();
    let der = data_encoding::BASE64.encode(who.leaf());
    assert!(text.contains(&format!("Client-Cert: :{der}:\r\n")), "{text}");
    assert!(!text.contains("Client-Cert-Chain") && text.contains("X-Forwarded-Client-Cert: Hash="), "{text}");
    assert_eq!(gate.metric("partnergate_client_cert_chain_omitted_total"), 1.0);

    let many = gate.pki.client(&gate.acme_ca, "many-names", |p| {
        p.subject_alt_names = (0..190)
            .map(|n| rcgen::SanType::DnsName(format!("n{n}.{}.example", "x".repeat(60)).try_into().unwrap()))
            .chain([uri()])
            .collect();
    });
    let before = gate.upstream.text().matches("X-Forwarded-Client-Cert").count();
    gate.dial().identity(&many).open().request(with("GET", "", "")).expect(200);
    assert_eq!(gate.upstream.text().matches("X-Forwarded-Client-Cert").count(), before);
    assert_eq!(gate.metric("partnergate_xfcc_omitted_total"), 1.0);
    assert_eq!(gate.metric("partnergate_client_cert_chain_omitted_total"), 1.0);
}

#[test]
fn chain_without_the_certificate_is_refused_in_the_config() {
    let (exit, said) = Setup::new().set("routes.api.client_cert_chain", true).start_expecting_failure();
    assert_eq!(exit, Some(3), "{said}");
    assert!(said.contains("client_cert_chain") && said.contains("client_cert: true"), "{said}");
}

/// Threat 14.
#[test]
fn fields_that_change_method_target_or_source_never_arrive() {
    let gate = Gate::start();
    let names = [
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "x_http_method_override",
        "X-Original-URL",
        "x_original_url",
        "X-Rewrite-URL",
        "X-Original-Host",
        "X-Forwarded-For",
        "x_forwarded_for",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Forwarded-Anything",
        "Forwarded",
        "FORWARDED",
        "X-Real-IP",
        "x_real_ip",
        "True-Client-IP",
        "X-Client-IP",
        "X-Cluster-Client-IP",
        "X-Host",
        "X-Envoy-External-Address",
    ];
    let fields: String = names.iter().map(|name| format!("{name}: forged\r\n{name}: forged\r\n")).collect();
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.request(with("GET", &fields, "")).expect(200);
    let text = gate.upstream.text();
    assert!(!text.contains("forged"), "{text}");
    let source = conn.source();
    for ours in [
        "X-Forwarded-For: 127.0.0.1".to_owned(),
        format!("X-Forwarded-Host: {HOST}"),
        "X-Forwarded-Proto: https".to_owned(),
        format!("Forwarded: for=\"{source}\";host=\"{HOST}\";proto=https"),
        "Via: 1.1 partnergate".to_owned(),
    ] {
        assert_eq!(text.matches(&format!("\r\n{ours}\r\n")).count(), 1, "{ours}: {text}");
    }
}

#[test]
fn other_fields_arrive_as_they_were_sent() {
    let gate = Gate::start();
    let fields = "Accept: */*\r\nAuthorization: Bearer abc.def\r\nCookie: a=b; c=d\r\nX-Api-Version: 2\r\nX-Api-Version: \
                  3\r\nIdempotency-Key: 7\r\nX-Empty:\r\nX-Text: gr\u{fc}n\r\n";
    gate.dial().identity(&gate.acme).open().request(with("GET", fields, "")).expect(200);
    let text = gate.upstream.text();
    for field in fields.split_terminator("\r\n").filter(|f| !f.ends_with(':')) {
        assert!(text.to_ascii_lowercase().contains(&field.to_ascii_lowercase()), "{field}: {text}");
    }
}

/// Threat 15.
#[test]
fn methods_that_are_never_served_are_refused() {
    let gate = Gate::start();
    for method in ["TRACE", "PROPFIND", "PURGE", "DEBUG", "get", "Post", "X", "M-SEARCH", "PRI"] {
        let mut conn = gate.dial().identity(&gate.acme).open();
        let answer = conn.request(format!("{method} /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        answer.expect(405);
        assert_eq!(answer.code(), "method-not-served", "{method}");
        assert!(answer.header("allow").is_some_and(|a| a.contains("GET")), "RFC 9110 section 15.5.6: {answer:?}");
        assert_eq!(gate.record_of(answer.id())["reason"], "method-not-served", "{method}");
    }
    for target in [format!("{HOST}:443"), "/items".into()] {
        let mut conn = gate.dial().identity(&gate.acme).open();
        let answer = conn.request(format!("CONNECT {target} HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n"));
        answer.expect(405);
        conn.assert_closed();
    }
    gate.settle();
    gate.upstream.assert_untouched();
}

/// Threat 15.
#[test]
fn upgrade_without_an_operation_for_it_is_refused() {
    let gate = Gate::start();
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \
                     AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    for (name, lines) in [
        ("websocket", websocket),
        ("h2c", "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
        ("tls", "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n"),
        ("two", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"),
        ("repeated", "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n"),
        ("without Connection", "Upgrade: websocket\r\n"),
    ] {
        let mut conn = gate.dial().identity(&gate.acme).open();
        let answer = conn.request(with("GET", lines, ""));
        answer.expect(403);
        assert_eq!(answer.code(), "not-permitted", "{name}");
        assert_eq!(gate.record_of(answer.id())["reason"], "upgrade-not-allowed", "{name}");
    }
    // globex has no grant for the operation that has one.
    let mut conn = gate.dial().identity(&gate.globex).open();
    let answer = conn.request(format!("GET /events HTTP/1.1\r\nHost: {HOST}\r\n{websocket}\r\n"));
    answer.expect(403);
    assert_eq!(gate.record_of(answer.id())["reason"], "operation-not-granted");
    gate.settle();
    gate.upstream.assert_untouched();
    // And where it is granted, it is one.
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.request(format!("GET /events HTTP/1.1\r\nHost: {HOST}\r\n{websocket}\r\n")).expect(101);
}

/// Threat 16.
#[test]
fn expectation_is_answered_after_the_decision() {
    let gate = Gate::start();
    let lines = "Content-Length: 5\r\nExpect: 100-continue\r\n";
    let mut denied = gate.dial().identity(&gate.globex).open();
    let answer = denied.request(with("POST", lines, ""));
    answer.expect(403);
    assert_problem(&answer);
    denied.assert_closed();
    gate.settle();
    gate.upstream.assert_untouched();

    let mut allowed = gate.dial().identity(&gate.acme).open();
    allowed.request(with("POST", lines, "")).expect(100);
    let answer = allowed.request("hello");
    answer.expect(200);
    assert_eq!(answer.json()["body_bytes"], 5);
    let record = gate.record_of(answer.id());
    assert_eq!((&record["result"], &record["status"]), (&"allow".into(), &200.into()), "{record}");
    if answer.header("connection") == Some("close") {
        allowed.assert_closed();
    } else {
        allowed.request(GOOD).expect(200);
    }
}

/// Threat 16: a client that has announced much is not listened to for long.
#[test]
fn denied_body_is_not_read_to_its_end() {
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.globex).open();
    let answer = conn.request(with("POST", "Content-Length: 10000000000\r\n", "the first bytes"));
    answer.expect(403);
    conn.assert_closed();
    let record = gate.record_of(answer.id());
    assert_eq!((&record["status"], &record["reason"]), (&403.into(), &"operation-not-granted".into()), "{record}");
}

/// Threat 18.
#[test]
fn body_over_the_limit_is_refused() {
    let gate = Setup::new().set("routes.api.max_body", "64KiB").start();
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));

    let mut fits = gate.dial().identity(&gate.acme).open();
    let answer = fits.request(with("POST", "Content-Length: 65536\r\n", &"x".repeat(65_536)));
    assert_eq!(answer.expect(200).json()["body_bytes"], 65_536);
    let answer = fits.request(with("POST", "Transfer-Encoding: chunked\r\n", &(chunk.repeat(4) + "0\r\n\r\n")));
    assert_eq!(answer.expect(200).json()["body_bytes"], 65_536);
    let before = gate.upstream.bytes().len();

    let mut stated = gate.dial().identity(&gate.acme).open();
    let answer = stated.request(with("POST", "Content-Length: 65537\r\n", "x"));
    answer.expect(413);
    assert_eq!(answer.code(), "body-too-large");
    assert_problem(&answer);
    stated.assert_closed();
    assert_eq!(gate.record_of(answer.id())["reason"], "body-too-large");
    gate.settle();
    assert_eq!(gate.upstream.bytes().len(), before, "a stated length is refused before anything is sent on");

    let mut unstated = gate.dial().identity(&gate.acme).open();
    unstated.send(with("POST", "Transfer-Encoding: chunked\r\n", &chunk.repeat(5)));
    let answer = unstated.response();
    answer.expect(413);
    assert_eq!(answer.code(), "body-too-large");
    unstated.assert_closed();
    let record = gate.record_of(answer.id());
    assert_eq!((&record["status"], &record["reason"]), (&413.into(), &"body-too-large".into()), "{record}");
    let third = gate.upstream.connections().last().unwrap().clone();
    assert!(!third.ends_with(b"\r\n0\r\n\r\n"), "the upstream must not take the part for the whole");
}

/// Threat 18: from the first byte to the last, on the first request and on the second.
#[test]
fn head_that_takes_too_long_is_refused() {
    let gate = Setup::new().set("partner.timeouts.head", "400ms").start();
    for second in [false, true] {
        for drips in [false, true] {
            let mut conn = gate.dial().identity(&gate.acme).open();
            if second {
                conn.request(GOOD).expect(200);
            }
            let began = Instant::now();
            conn.send("GET /items HTTP/1.1\r\nHost: ");
            while drips && conn.is_silent(Duration::from_millis(50)) {
                assert!(conn.try_send("x").is_err() || began.elapsed() < Duration::from_secs(10), "never ended");
            }
            let answer = conn.response();
            assert_eq!(answer.expect(408).code(), "request-timeout", "second: {second}, drips: {drips}");
            assert!(began.elapsed() >= Duration::from_millis(350), "after {:?}", began.elapsed());
            conn.assert_closed();
            assert_eq!(gate.record_of(answer.id())["reason"], "head-timeout");
        }
    }
    assert_eq!(gate.settle().len(), 6);
    only_good_ones(&gate, 2);
}

/// Threat 18.
#[test]
fn body_that_stops_is_refused() {
    let gate = Setup::new().set("partner.timeouts.body_progress", "400ms").start();
    for second in [false, true] {
        for (name, lines, part) in [
            ("length", "Content-Length: 100\r\n", "only this"),
            ("chunked", "Transfer-Encoding: chunked\r\n", "9\r\nonly this\r\n"),
        ] {
            let mut conn = gate.dial().identity(&gate.acme).open();
            if second {
                conn.request(GOOD).expect(200);
            }
            let answer = conn.request(with("POST", lines, part));
            assert_eq!(answer.expect(408).code(), "body-timeout", "{name}, second: {second}");
            conn.assert_closed();
            let record = gate.record_of(answer.id());
            assert_eq!((&record["status"], &record["reason"]), (&408.into(), &"body-timeout".into()), "{record}");
        }
    }
    assert_eq!(gate.settle().len(), 6);
}

/// Threat 18: always some progress, never an end.
#[test]
fn body_that_drips_is_refused() {
    let gate = Setup::new().set("partner.timeouts.body_progress", "300ms").set("request.min_body_rate", 1000).start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.send(with("POST", "Content-Length: 100000\r\n", "x"));
    let began = Instant::now();
    while conn.is_silent(Duration::from_millis(50)) {
        assert!(conn.try_send("x").is_err() || began.elapsed() < Duration::from_secs(10), "never ended");
    }
    let answer = conn.response();
    answer.expect(408);
    conn.assert_closed();
    assert_eq!(gate.record_of(answer.id())["reason"], "body-timeout");
}

#[test]
fn silent_connection_is_closed_without_a_word() {
    let gate = Setup::new().set("partner.timeouts.idle", "300ms").start();
    for second in [false, true] {
        let mut conn = gate.dial().identity(&gate.acme).open();
        if second {
            conn.request(GOOD).expect(200);
        }
        conn.assert_closed();
    }
    assert_eq!(gate.settle().len(), 1, "silence is no request");
}

#[test]
fn denial_without_a_body_keeps_the_connection() {
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for _ in 0..3 {
        let answer = conn.request(format!("DELETE /items/7 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        answer.expect(403);
        assert_problem(&answer);
        conn.request(get("/nothing")).expect(403);
        conn.request(GOOD).expect(200);
    }
    let length = "Content-Length: 0\r\n";
    conn.request(format!("DELETE /items/7 HTTP/1.1\r\nHost: {HOST}\r\n{length}\r\n")).expect(403);
    conn.request(GOOD).expect(200);
    only_good_ones(&gate, 4);
}

#[test]
fn refusal_of_head_has_no_body() {
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.send(format!("HEAD /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    conn.response_head().expect(403);
    // The next bytes are the next answer.
    conn.request(GOOD).expect(200);
}

/// A probe learns nothing from the difference between what does not exist and what is not granted.
#[test]
fn what_is_not_permitted_always_looks_the_same() {
    let gate = Gate::start();
    let mut seen: Vec<String> = Vec::new();
    for request in [
        get("/nothing/here"),
        format!("DELETE /items/7 HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into_bytes(),
        format!("PATCH /items/7 HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into_bytes(),
        format!("OPTIONS /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into_bytes(),
        with("GET", "Connection: upgrade\r\nUpgrade: websocket\r\n", ""),
        get("/"),
        get("/items/"),
        get("/healthz"),
        get("/metrics"),
    ] {
        let answer = gate.dial().identity(&gate.acme).open().request(&request);
        answer.expect(403);
        assert_eq!(answer.code(), "not-permitted");
        let without_date: String =
            answer.head.lines().filter(|l| !l.to_ascii_lowercase().starts_with("date:")).collect();
        seen.push(same(&format!("{without_date}{}", answer.text()), answer.id()));
    }
    for answer in &seen {
        assert_eq!(answer, &seen[0]);
    }
    gate.settle();
    gate.upstream.assert_untouched();
}

/// A client that is still sending five megabytes sees the 403, not a broken pipe.
fn five_megabytes(gate: &Gate) -> std::path::PathBuf {
    gate.pki.write("five-megabytes", 0o600, &vec![b'x'; 5_000_000])
}

#[test]
fn curl_sees_the_denial_of_a_large_post() {
    let gate = Gate::start();
    let body = format!("@{}", five_megabytes(&gate).display());
    for expect in ["Expect:", "Expect: 100-continue", "Transfer-Encoding: chunked"] {
        let answer = gate.curl(Some(&gate.globex), "/items", &["--data-binary", &body, "-H", expect]);
        answer.expect(403);
        assert_eq!(answer.json()["code"], "not-permitted", "{expect}");
        // 0, or 55 and 56 for a send or receive that failed after the answer had come.
        assert_eq!(answer.exit, 0, "{expect}: {}", answer.stderr);
    }
    gate.settle();
    gate.upstream.assert_untouched();
    gate.curl(Some(&gate.acme), "/items", &["--data-binary", &body]).expect(200);
}

#[test]
fn python_requests_sees_the_denial_of_a_large_post() {
    let Some(python) = python(&["requests"]) else { return };
    let script = r#"
import requests, sys, socket
port, ca, cert, key = sys.argv[1:]
plain = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: plain("127.0.0.1", *rest, **more)
with requests.Session() as session:
    session.trust_env = False
    answer = session.post(f"https://api.partner.test:{port}/items", data=b"x" * 5_000_000, verify=ca, cert=(cert, key), timeout=30)
    print(answer.status_code, answer.json()["code"])
"#;
    large_post(&Gate::start(), Command::new(python).args(["-c", script]));
}

#[test]
fn python_httpx_sees_the_denial_of_a_large_post() {
    let Some(python) = python(&["httpx"]) else { return };
    let script = r#"
import httpx, ssl, sys, socket
port, ca, cert, key = sys.argv[1:]
plain = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: plain("127.0.0.1", *rest, **more)
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert, key)
with httpx.Client(verify=context, trust_env=False, timeout=30) as client:
    answer = client.post(f"https://api.partner.test:{port}/items", content=b"x" * 5_000_000)
    print(answer.status_code, answer.json()["code"])
"#;
    large_post(&Gate::start(), Command::new(python).args(["-c", script]));
}

#[test]
fn node_sees_the_denial_of_a_large_post() {
    let Some(node) = node() else { return };
    let script = r#"
const https = require("https"), fs = require("fs");
const [port, ca, cert, key] = process.argv.slice(1);
const [tlsCa, tlsCert, tlsKey] = [ca, cert, key].map((file) => fs.readFileSync(file));
const request = https.request({
  host: "127.0.0.1", port, servername: "api.partner.test", path: "/items", method: "POST",
  headers: { host: "api.partner.test", "content-length": 5000000 }, ca: tlsCa, cert: tlsCert, key: tlsKey,
}, (answer) => {
  let text = "";
  answer.on("data", (piece) => (text += piece));
  answer.on("end", () => { console.log(answer.statusCode, JSON.parse(text).code); process.exit(0); });
});
request.on("error", (error) => { console.error(error); process.exit(1); });
request.end(Buffer.alloc(5000000, "x"));
"#;
    large_post(&Gate::start(), Command::new(node).args(["-e", script]));
}

/// Runs a client with port, CA, certificate and key of `globex`, which may not create items.
#[track_caller]
fn large_post(gate: &Gate, command: &mut Command) {
    let who = &gate.globex;
    command.arg(gate.address().port().to_string()).arg(&gate.server_ca.pem_file);
    command.arg(&who.chain_file).arg(&who.key_file);
    assert_eq!(run(command, b"").ok().trim(), "403 not-permitted");
    gate.settle();
    gate.upstream.assert_untouched();
}

/// Pipelining (RFC 9112 section 9.3.2): answers in order, each with a decision of its own.
#[test]
fn requests_that_do_not_wait_for_the_answer_are_each_decided() {
    let gate = Gate::start();
    let delete = format!("DELETE /items/7 HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.send([GOOD.as_bytes(), delete.as_bytes(), &get("/items/%2e%2e/8"), GOOD.as_bytes()].concat());
    let answers: Vec<u16> = (0..3).map(|_| conn.response().status).collect();
    assert_eq!(answers, [200, 403, 400]);
    // Behind what could not be read, nothing is.
    conn.assert_closed();
    assert_eq!(gate.settle().len(), 3);
    only_good_ones(&gate, 1);
}

/// One that comes while the first is still being served does not harm the first.
#[test]
fn request_that_comes_early_does_not_take_the_answer_away() {
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.send(get("/items?upstream_delay_ms=300"));
    await_some("the first request at the upstream", || (!gate.upstream.bytes().is_empty()).then_some(()));
    conn.send(get("/items/8"));
    let answer = conn.response();
    answer.expect(200);
    assert_eq!(gate.record_of(answer.id())["result"], "allow");
    assert_eq!(conn.response().expect(200).json()["target"], "/items/8");
}

#[test]
fn connection_is_closed_after_its_last_request() {
    let gate = Setup::new().set("partner.limits.max_requests", 3).start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for _ in 0..2 {
        conn.request(GOOD).expect(200);
    }
    let last = conn.request(GOOD);
    last.expect(200);
    assert_eq!(last.header("connection"), Some("close"), "{last:?}");
    conn.assert_closed();
}

#[test]
fn connection_is_closed_at_its_age() {
    let gate = Setup::new().set("partner.limits.max_age", "1s").start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    let began = Instant::now();
    while conn.try_send(GOOD).is_ok() && conn.try_response().is_ok_and(|a| a.status == 200) {
        assert!(began.elapsed() < Duration::from_secs(10), "still open");
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "closed after {:?}", began.elapsed());
}

/// What the config may say, the gateway can do: the library behind has bounds of its own.
#[test]
fn as_many_fields_are_served_as_the_config_allows() {
    let setup = Setup::new().set("request.max_fields", 256).set("request.max_head", "64KiB");
    let gate = setup.start();
    let fields = |n: usize| (0..n).map(|n| format!("X-{n}: y\r\n")).collect::<String>();
    gate.dial().identity(&gate.acme).open().request(with("GET", &fields(255), "")).expect(200);
    gate.dial().identity(&gate.acme).open().request(with("GET", &fields(256), "")).expect(431);
    let (exit, said) = Setup::new().set("request.max_fields", 257).start_expecting_failure();
    assert_eq!(exit, Some(3), "{said}");
    assert!(said.contains("request.max_fields"), "{said}");
}
