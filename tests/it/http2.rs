//! HTTP/2 between partner and gateway: threats 8, 11 to 13, 15, 18 and 19, and the lives of connections and streams.

use crate::harness::http2::{
    Answer, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, Http2, PING, PREFACE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, block_on, frame, get_fields, request, send_all, whole,
};
use crate::harness::{DEADLINE, Dial, Gate, HOST, Over, Setup, await_some, count, python, resident, run};
use futures::future::join_all;
use http::Request;
use serde_json::{Value, json};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PROTOCOL_ERROR: u32 = 1;
const MALFORMED: &str = "partnergate_malformed_total{reason=\"h2-protocol\"}";

fn acme(gate: &Gate) -> Dial {
    gate.dial().identity(&gate.acme)
}

/// A TLS connection of acme's over which HTTP/2 frames are sent by hand.
fn frames(gate: &Gate) -> Frames {
    Frames::open(&acme(gate), &[])
}

/// A new connection is served within the deadlines of any other test.
#[track_caller]
fn served(gate: &Gate) {
    block_on(async { Http2::open(&acme(gate)).await.get("/items/other").await }).expect(200);
}

fn malformed(records: &[Value]) -> Vec<&Value> {
    records.iter().filter(|r| r["kind"] == "malformed").collect()
}

const MIB: u64 = 1 << 20;

#[test]
fn curl_over_http2_is_answered_like_over_http1() {
    let gate = Gate::start();
    let allowed = gate.curl(Some(&gate.acme), "/items/7?a=1", &["--http2"]);
    allowed.expect(200);
    assert_eq!(allowed.version, "2");
    assert_eq!(allowed.json()["target"], "/items/7?a=1");
    let denied = gate.curl(Some(&gate.globex), "/items/7", &["--http2"]);
    denied.expect(403);
    assert_eq!((denied.version.as_str(), denied.header("content-type")), ("2", Some("application/problem+json")));
    assert_eq!(denied.header("cache-control"), Some("no-store"));
    assert_eq!(denied.json()["code"], "not-permitted");
    let upload = format!("@{}", gate.pki.write("upload", 0o600, &vec![b'x'; 5_000_000]).display());
    let large = gate.curl(Some(&gate.globex), "/items", &["--http2", "--data-binary", &upload]);
    large.expect(403);
    assert_eq!((large.exit, large.json()["code"].as_str()), (0, Some("not-permitted")), "{large:?}");
    let record = gate.record_of(denied.header("x-request-id").unwrap());
    assert_eq!((&record["reason"], &record["status"]), (&"operation-not-granted".into(), &403.into()), "{record}");
}

/// Each stream is a request of its own: what one may do says nothing about the next.
#[test]
fn streams_of_one_connection_are_decided_each_on_its_own() {
    let gate = Gate::start();
    let answers = block_on(async {
        let mut client = Http2::open(&acme(&gate)).await;
        let mut streams = Vec::new();
        for n in 0..60 {
            let (method, target) = match n % 3 {
                0 => ("GET", format!("/items/{n}?upstream_delay_ms=300")),
                1 => ("DELETE", format!("/items/{n}")),
                _ => ("GET", format!("/nothing/{n}")),
            };
            let (answer, _) = client.begin(request(method, &target), true).await;
            streams.push(async move { (n, whole(answer.await.unwrap()).await.unwrap(), Instant::now()) });
        }
        join_all(streams).await
    });
    let last = |class: fn(usize) -> bool| answers.iter().filter(|a| class(a.0)).map(|a| a.2).max().unwrap();
    for (n, answer, _) in &answers {
        if n % 3 == 0 {
            assert_eq!(answer.expect(200).json()["target"], format!("/items/{n}?upstream_delay_ms=300"));
        } else {
            assert_eq!(answer.expect(403).code(), "not-permitted");
        }
    }
    assert!(last(|n| n % 3 != 0) < last(|n| n % 3 == 0), "denials do not wait for slow siblings");
    let records = gate.settle();
    assert_eq!(count(&records, |r| r["result"] == "allow"), 20);
    assert_eq!(count(&records, |r| r["reason"] == "operation-not-granted"), 20);
    assert_eq!(count(&records, |r| r["reason"] == "operation-unknown"), 20);
    assert_eq!(records.len(), 60);
    let text = gate.upstream.text();
    assert_eq!(text.matches("GET /items/").count(), 20, "{text}");
    assert!(!text.contains("DELETE") && !text.contains("nothing"), "{text}");
}

#[test]
fn python_httpx_over_http2_sees_what_it_may_and_may_not() {
    let Some(python) = python(&["httpx", "h2"]) else { return };
    let script = r#"
import asyncio, httpx, ssl, sys, socket
port, ca, cert, key = sys.argv[1:]
plain = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: plain("127.0.0.1", *rest, **more)
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert, key)
async def main():
    base = f"https://api.partner.test:{port}"
    async with httpx.AsyncClient(http2=True, verify=context, trust_env=False, timeout=30, base_url=base) as client:
        calls = [client.get("/items/7"), client.delete("/items/7"), client.post("/items", content=b"x" * 50_000), client.get("/items")]
        answers = await asyncio.gather(*calls)
        answers.append(await client.get("/items"))
        print(*[f"{a.http_version}:{a.status_code}" for a in answers])
asyncio.run(main())
"#;
    let gate = Gate::start();
    for (who, expected) in [
        (&gate.acme, "HTTP/2:200 HTTP/2:403 HTTP/2:200 HTTP/2:200 HTTP/2:200"),
        (&gate.globex, "HTTP/2:403 HTTP/2:403 HTTP/2:403 HTTP/2:200 HTTP/2:200"),
    ] {
        let mut command = Command::new(&python);
        command.args(["-c", script, &gate.address().port().to_string()]).arg(&gate.server_ca.pem_file);
        command.arg(&who.chain_file).arg(&who.key_file);
        assert_eq!(run(&mut command, b"").ok().trim(), expected, "{}", who.name);
    }
}

/// Threat 8.
#[test]
fn authority_that_is_not_the_tls_name_is_misdirected() {
    let gate = Gate::start();
    let authority = |authority: &str| Request::get(format!("https://{authority}/items")).body(()).unwrap();
    let get =
        |dial: Dial, request: Request<()>| block_on(async { Http2::open(&dial).await.request(request, b"").await });
    for other in ["elsewhere.test", "localhost", "127.0.0.1", "api.partner.test.evil.test"] {
        let answer = get(acme(&gate), authority(other));
        assert_eq!(answer.expect(421).code(), "misdirected", "{other}");
        assert_eq!(gate.record_of(answer.id())["reason"], "host-mismatch", "{other}");
    }
    let answer = get(acme(&gate).sni(Some("localhost")), authority(HOST));
    answer.expect(421);
    gate.upstream.assert_untouched();
    for same in ["API.Partner.TEST", "api.partner.test:443", "api.partner.test.", "api.partner.test.:8443"] {
        get(acme(&gate), authority(same)).expect(200);
    }
}

/// Threat 8, what RFC 9113 section 8.3.1 calls malformed.
#[test]
fn host_field_that_contradicts_the_authority_is_refused() {
    let gate = Gate::start();
    let answers: Vec<Answer> = block_on(async {
        let mut client = Http2::open(&acme(&gate)).await;
        let mut answers = Vec::new();
        for host in ["elsewhere.test", "localhost", "api.partner.test.evil.test"] {
            let mut request = request("GET", "/items");
            request.headers_mut().insert("host", host.parse().unwrap());
            answers.push(client.request(request, b"").await);
        }
        let mut twice = request("GET", "/items");
        twice.headers_mut().append("host", HOST.parse().unwrap());
        twice.headers_mut().append("host", "elsewhere.test".parse().unwrap());
        answers.push(client.request(twice, b"").await);
        let mut same = request("GET", "/items");
        same.headers_mut().insert("host", HOST.parse().unwrap());
        client.request(same, b"").await.expect(200);
        answers
    });
    for answer in &answers {
        answer.expect(400);
    }
    let records = gate.settle();
    assert_eq!(malformed(&records).len(), answers.len(), "{records:#?}");
    assert_eq!(records.len(), answers.len() + 1);
    assert_eq!(gate.upstream.text().matches("GET /items").count(), 1);
}

/// Refusals by the library beneath, without a problem document: each ends its own stream, is counted, and is recorded.
#[test]
fn streams_that_break_the_rules_are_refused_counted_and_recorded() {
    let gate = Gate::start();
    let with = |name: &'static str, value: &'static str| {
        let mut fields = get_fields("/items");
        fields.push((name, value));
        fields
    };
    let without = |name: &str| get_fields("/items").into_iter().filter(|f| f.0 != name).collect::<Vec<_>>();
    let mut late = vec![("accept", "*/*")];
    late.extend(get_fields("/items"));
    let forms = [
        ("a pseudo-header behind a field", late),
        ("no :method", without(":method")),
        ("no :path", without(":path")),
        ("no :scheme", without(":scheme")),
        ("an empty :path", [&without(":path")[..], &[(":path", "")]].concat()),
        ("two :path", with(":path", "/items/7")),
        ("two :method", with(":method", "POST")),
        ("two :authority", with(":authority", "elsewhere.test")),
        ("an unknown pseudo-header", with(":forged", "x")),
        ("a response's pseudo-header", with(":status", "200")),
        ("upper case", with("X-Api-Version", "2")),
        ("connection", with("connection", "keep-alive")),
        ("keep-alive", with("keep-alive", "timeout=5")),
        ("proxy-connection", with("proxy-connection", "keep-alive")),
        ("transfer-encoding", with("transfer-encoding", "chunked")),
        ("upgrade", with("upgrade", "websocket")),
        ("te", with("te", "gzip")),
        ("a line break in a value", with("x-a", "b\r\nx-partner-id: forged")),
        ("a NUL in a value", with("x-a", "b\0c")),
        ("a line break in :path", [&without(":path")[..], &[(":path", "/items\r\nx: y")]].concat()),
        ("a space in :path", [&without(":path")[..], &[(":path", "/items 7")]].concat()),
        ("a length that is no number", with("content-length", "five")),
        ("two lengths", [&with("content-length", "5")[..], &[("content-length", "6")]].concat()),
    ];
    let mut good = 0;
    for (name, fields) in &forms {
        let mut conn = frames(&gate);
        let id = conn.headers(fields, true);
        let end = conn.await_frame(name, |f| f.kind == GOAWAY || f.stream == id);
        assert!(end.kind == HEADERS || end.error() == PROTOCOL_ERROR, "{name}: {end:?}");
        // What cannot even be read as fields ends the connection; all else only its stream.
        if end.kind != GOAWAY {
            let id = conn.headers(&get_fields("/items"), true);
            conn.await_frame("the answer of a good stream", |f| f.stream == id && f.flags & END_STREAM != 0);
            good += 1;
        }
    }
    assert!(good >= forms.len() - 4, "{good}");
    let records = gate.settle();
    for record in malformed(&records) {
        assert_eq!((&record["reason"], &record["result"]), (&"h2-protocol".into(), &"deny".into()), "{record}");
        assert_eq!(record["input"]["partner"]["id"], "acme", "{record}");
    }
    let refused = count(&records, |r| r["result"] == "deny");
    assert_eq!(refused, forms.len(), "one record for each: {records:#?}");
    assert_eq!(count(&records, |r| r["result"] == "allow"), good);
    assert_eq!(gate.metric(MALFORMED), malformed(&records).len() as f64);
    let text = gate.upstream.text();
    assert_eq!(text.matches(" HTTP/1.1\r\n").count(), good, "only the good ones: {text}");
    assert!(!text.contains("forged"), "{text}");
}

/// A client cannot have one connection fill the records with refusals.
#[test]
fn connection_that_keeps_breaking_the_rules_is_ended() {
    let gate = Gate::start();
    let mut conn = frames(&gate);
    let mut fields = get_fields("/items");
    fields.push(("host", "elsewhere.test"));
    let bytes: Vec<u8> =
        (0..500).flat_map(|n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block(&fields))).collect();
    let _ = conn.conn.try_send(bytes);
    conn.ended();
    let records = gate.settle();
    assert!(malformed(&records).len() <= 60, "{} records", malformed(&records).len());
    gate.upstream.assert_untouched();
    served(&gate);
}

/// Threat 11.
#[test]
fn paths_that_can_be_read_in_two_ways_are_refused_on_their_stream_alone() {
    let gate = Gate::start();
    let targets = [
        "/items/%2e%2e/admin",
        "/items/.%2E/admin",
        "/items/a%2fb",
        "/items/a%5cb",
        "//items",
        "/items//7",
        "/./items",
        "/items/..",
        "/items/7;x=1",
        "/items/7%3bx",
        "/items/7%00",
        "/items/%252e%252e/admin",
        "/items/%c0%ae%c0%ae/admin",
        "/items/%ff",
        "/items/7%",
        "/items/%zz",
        "/%69tems",
        "/items?%78=1",
        "/items?x=%00",
        "/items?x=%ff",
        "*",
    ];
    let mut conn = frames(&gate);
    for target in targets {
        let id = conn.headers(&get_fields(target), true);
        let head = conn.await_frame(target, |f| f.stream == id && matches!(f.kind, RST_STREAM | HEADERS));
        assert_eq!(head.kind, HEADERS, "{target}: {head:?}");
    }
    let fine = "/items/caf%c3%a9?x=%2F..&y";
    let id = conn.headers(&get_fields(fine), true);
    conn.await_frame("a good one", |f| f.stream == id && f.flags & END_STREAM != 0);
    let records = gate.settle();
    for target in targets {
        let record = records.iter().find(|r| r["kind"] == "malformed");
        assert!(record.is_some(), "{target}");
    }
    let refused = count(&records, |r| r["reason"] == "target-not-canonical" && r["status"] == 400);
    assert_eq!(refused, targets.len(), "{records:#?}");
    let text = gate.upstream.text();
    assert_eq!(text.matches(" HTTP/1.1\r\n").count(), 1, "{text}");
    assert!(text.contains(&format!("GET {fine} HTTP/1.1\r\n")), "{text}");
}

/// Threat 11: whatever is no path, refused by the library beneath or by us, is on its stream alone and goes nowhere.
#[test]
fn targets_that_are_no_path_are_refused() {
    let gate = Gate::start();
    let mut conn = frames(&gate);
    let targets = [
        "items",
        "?x=1",
        "https://api.partner.test/items",
        "http://elsewhere.test/items",
        "//elsewhere.test/items",
        "/items/a\\b",
        "/items/.",
        "/items/../admin",
        "/items/%e0%80%af",
        "@elsewhere.test/items",
    ];
    for target in targets {
        let id = conn.headers(&get_fields(target), true);
        let end = conn.await_frame(target, |f| f.kind == GOAWAY || f.stream == id);
        assert!(matches!(end.kind, RST_STREAM | HEADERS), "{target}: {end:?}");
    }
    let id = conn.headers(&get_fields("/items"), true);
    conn.await_frame("a good one", |f| f.stream == id && f.flags & END_STREAM != 0);
    let records = gate.settle();
    let refused = |r: &Value| r["reason"] == "target-not-canonical" || r["reason"] == "h2-protocol";
    assert_eq!(count(&records, refused), targets.len(), "one record for each: {records:#?}");
    let text = gate.upstream.text();
    assert!(text.starts_with("GET /items HTTP/1.1\r\n") && text.matches(" HTTP/1.1\r\n").count() == 1, "{text}");
}

/// Threat 17: bytes that are no text are refused and not just unknown to policy, and so is white space that HTTP/1
/// would take off on the way to the upstream (RFC 9113 section 8.2.1): policy and upstream see one value, or none.
#[test]
fn values_that_policy_and_upstream_would_read_differently_are_refused() {
    for protocol in ["h1", "h2"] {
        let (setup, policies) = Setup::new().own_policies();
        std::fs::write(policies.join("reasons.yaml"), "reasons:\n  x-role: \"A test\"\n").unwrap();
        let rule = "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {\"reason\": \"x-role\"} if \
                    \"admin\" in input.request.headers[\"x-role\"]\n";
        std::fs::write(policies.join("custom/role.rego"), rule).unwrap();
        let gate = setup.set("policy.headers", json!(["x-role"])).set("upstreams.api.protocol", protocol).start();
        let ask = |name: &str, value: &[u8]| {
            let mut conn = frames(&gate);
            // The harness writes text; a byte that is none is put in afterwards.
            let mut fields = get_fields("/items");
            let place = "\u{1}".repeat(value.len());
            fields.push((name, &place));
            let mut block = block(&fields);
            let at = block.len() - value.len();
            block[at..].copy_from_slice(value);
            let id = conn.stream();
            conn.send(HEADERS, END_HEADERS | END_STREAM, id, &block);
            conn.await_frame("an end", |f| f.stream == id && (f.kind == RST_STREAM || f.flags & END_STREAM != 0));
            let records = gate.settle();
            records.last().unwrap().clone()
        };
        let spaced: [&[u8]; 6] = [b" admin", b"admin ", b"\tadmin", b"admin\t", b" ", b" user"];
        for name in ["x-role", "x-other"] {
            for value in spaced {
                let record = ask(name, value);
                assert_eq!((&record["reason"], &record["status"]), (&json!("head-malformed"), &json!(400)), "{record}");
            }
            for value in [&b"\xff\xfe"[..], b"adm\xc0\xaen", b"\xe9"] {
                let record = ask(name, value);
                assert_eq!((&record["reason"], &record["status"]), (&json!("head-not-utf8"), &json!(400)), "{record}");
            }
        }
        assert_eq!(ask("x-role", b"admin")["reason"], "x-role");
        gate.upstream.assert_untouched();
        let allowed = ask("x-role", b"not admin");
        assert_eq!(allowed["result"], "allow", "{allowed}");
        assert_eq!(allowed["input"]["request"]["headers"]["x-role"], json!(["not admin"]), "{allowed}");
        match protocol {
            "h1" => assert!(gate.upstream.text().to_lowercase().contains("\r\nx-role: not admin\r\n")),
            _ => assert!(gate.upstream.h2_events().iter().any(|e| e.to_string().contains("\"not admin\""))),
        }
    }
}

/// The library cuts a fragment off before anybody sees it; what is decided on and what is forwarded are still equal.
#[test]
fn fragment_is_neither_decided_on_nor_forwarded() {
    let gate = Gate::start();
    let mut conn = frames(&gate);
    let id = conn.headers(&get_fields("/items/7#/../admin"), true);
    conn.await_frame("an end", |f| f.stream == id && (f.kind == RST_STREAM || f.flags & END_STREAM != 0));
    gate.settle();
    let text = gate.upstream.text();
    assert!(!text.contains('#') && !text.contains("admin"), "{text}");
    assert!(text.is_empty() || text.starts_with("GET /items/7 HTTP/1.1\r\n"), "{text}");
}

/// Threat 15.
#[test]
fn methods_and_upgrades_that_are_never_served_are_refused() {
    let gate = Gate::start();
    let mut conn = frames(&gate);
    let head =
        |method: &'static str| [(":method", method), (":scheme", "https"), (":authority", HOST), (":path", "/events")];
    let mut refused = 0;
    for fields in [
        head("TRACE").to_vec(),
        head("PROPFIND").to_vec(),
        head("get").to_vec(),
        vec![(":method", "CONNECT"), (":authority", "elsewhere.test:443")],
        // Extended CONNECT (RFC 8441) was not offered.
        [&head("CONNECT")[..], &[(":protocol", "websocket")]].concat(),
    ] {
        let id = conn.headers(&fields, true);
        conn.await_frame("a refusal", |f| f.stream == id && matches!(f.kind, RST_STREAM | HEADERS));
        refused += 1;
    }
    let records = gate.settle();
    assert_eq!(count(&records, |r| r["result"] == "deny"), refused, "{records:#?}");
    gate.upstream.assert_untouched();
}

/// Threat 18.
#[test]
fn heads_with_too_many_or_too_large_fields_are_refused() {
    let gate = Gate::start();
    let mut conn = frames(&gate);
    let names: Vec<String> = (0..120).map(|n| format!("x-{n}")).collect();
    let mut many = get_fields("/items");
    many.extend(names.iter().map(|n| (n.as_str(), "y")));
    let large = "y".repeat(17_000);
    let mut big = get_fields("/items");
    big.push(("x-large", &large));
    for fields in [&many, &big] {
        let id = conn.stream();
        // In pieces of a frame's size.
        let block = block(fields);
        let (first, rest) = block.split_at(block.len().min(16_000));
        conn.send(HEADERS, END_STREAM | if rest.is_empty() { END_HEADERS } else { 0 }, id, first);
        if !rest.is_empty() {
            conn.send(CONTINUATION, END_HEADERS, id, rest);
        }
        conn.await_frame("a refusal", |f| f.stream == id && f.kind == HEADERS);
    }
    let id = conn.headers(&get_fields("/items"), true);
    conn.await_frame("a good one", |f| f.stream == id && f.flags & END_STREAM != 0);
    let records = gate.settle();
    assert_eq!(count(&records, |r| r["reason"] == "head-too-many-fields" && r["status"] == 431), 1, "{records:#?}");
    assert_eq!(count(&records, |r| r["reason"] == "h2-protocol"), 1, "{records:#?}");
    assert_eq!(gate.upstream.text().matches(" HTTP/1.1\r\n").count(), 1);
    // And what a client is told.
    let answer = block_on(async {
        let mut request = request("GET", "/items");
        for name in &names {
            request.headers_mut().insert(http::HeaderName::try_from(name.as_str()).unwrap(), "y".parse().unwrap());
        }
        Http2::open(&acme(&gate)).await.request(request, b"").await
    });
    assert_eq!(answer.expect(431).code(), "headers-too-large");
}

/// What arrives must be as long as the head says; the upstream never takes it for a whole request.
#[test]
fn body_of_another_length_than_stated_is_never_a_whole_request() {
    let gate = Gate::start();
    for (stated, sent) in [("5", "hello, more"), ("11", "hello")] {
        let mut conn = frames(&gate);
        let mut fields = vec![(":method", "POST"), (":scheme", "https"), (":authority", HOST), (":path", "/items")];
        fields.push(("content-length", stated));
        let id = conn.headers(&fields, false);
        conn.send(DATA, END_STREAM, id, sent.as_bytes());
        let end = conn.await_frame("a reset", |f| f.stream == id && matches!(f.kind, RST_STREAM | HEADERS));
        assert_eq!((end.kind, end.error()), (RST_STREAM, PROTOCOL_ERROR), "{stated}: {end:?}");
        let id = conn.headers(&get_fields("/items/7"), true);
        conn.await_frame("a sibling's answer", |f| f.stream == id && f.flags & END_STREAM != 0);
    }
    let records = gate.settle();
    let posts: Vec<_> = records.iter().filter(|r| r["input"]["request"]["method"] == "POST").collect();
    assert_eq!(posts.len(), 2, "{records:#?}");
    for post in posts {
        assert_ne!(post["result"], "allow", "{post}");
        assert_eq!(post["upstream"].get("answered"), None, "{post}");
    }
    let text = gate.upstream.text();
    assert!(!text.contains("more"), "{text}");
    // The witness answers whole requests only, and both of its answers were for the siblings.
    assert_eq!(count(&records, |r| r["status"] == 200), 2, "{records:#?}");
}

/// Threat 18.
#[test]
fn body_over_the_limit_is_refused() {
    let gate = Setup::new().set("routes.api.max_body", "100KiB").start();
    let body = vec![b'x'; 300_000];
    block_on(async {
        let mut client = Http2::open(&acme(&gate)).await;
        // Stated in advance: nothing of it is forwarded.
        let mut stated = request("POST", "/items");
        stated.headers_mut().insert("content-length", "300000".parse().unwrap());
        let (answer, mut stream) = client.begin(stated, false).await;
        let answer = whole(answer.await.unwrap()).await.unwrap();
        assert_eq!(answer.expect(413).code(), "body-too-large");
        let _ = send_all(&mut stream, &body).await;
        let untouched = gate.upstream.text();
        assert_eq!(untouched, "");
        // Seen only as it comes.
        let (answer, mut stream) = client.begin(request("POST", "/items"), false).await;
        let _ = send_all(&mut stream, &body).await;
        let answer = whole(answer.await.unwrap()).await.unwrap();
        assert_eq!(answer.expect(413).code(), "body-too-large");
        assert_eq!(gate.record_of(answer.id())["reason"], "body-too-large");
        client.request(request("POST", "/items"), &body[..100_000]).await.expect(200);
    });
    let records = gate.settle();
    assert_eq!(count(&records, |r| r["reason"] == "body-too-large" && r["status"] == 413), 2, "{records:#?}");
}

/// Threat 18.
#[test]
fn silent_body_is_ended_while_its_siblings_live() {
    let gate = Setup::new().set("partner.timeouts.body_progress", "400ms").start();
    block_on(async {
        let mut client = Http2::open(&acme(&gate)).await;
        client.get("/items").await.expect(200);
        let (slow, _) = client.begin(request("GET", "/items/8?upstream_delay_ms=1500"), true).await;
        let (silent, mut stream) = client.begin(request("POST", "/items"), false).await;
        stream.send_data("hello".into(), false).unwrap();
        let ended = match silent.await {
            Ok(answer) => answer.status() == 408,
            Err(e) => e.is_reset(),
        };
        assert!(ended);
        client.get("/items/9").await.expect(200);
        whole(slow.await.unwrap()).await.unwrap().expect(200);
    });
    let record = gate.await_record("the silent one", |r| r["input"]["request"]["method"] == "POST");
    assert_eq!((&record["result"], &record["reason"]), (&"error".into(), &"body-timeout".into()), "{record}");
    assert_eq!(record["bytes_in"], 5, "{record}");
    assert_eq!(gate.settle().len(), 4);
}

/// A denied upload is answered at once, its stream ends without an error, and the connection serves on.
#[test]
fn denied_upload_is_answered_at_once_and_the_connection_goes_on() {
    let gate = Gate::start();
    block_on(async {
        let mut client = Http2::open(&gate.dial().identity(&gate.globex)).await;
        for _ in 0..3 {
            let (answer, mut stream) = client.begin(request("POST", "/items"), false).await;
            let upload = async {
                let sent = send_all(&mut stream, &vec![b'x'; 5_000_000]).await;
                match sent {
                    Ok(()) => None,
                    Err(e) => e.reason(),
                }
            };
            let (answer, reset) = tokio::join!(async { whole(answer.await.unwrap()).await.unwrap() }, upload);
            assert_eq!(answer.expect(403).code(), "not-permitted");
            assert_eq!(reset, Some(h2::Reason::NO_ERROR), "RFC 9113 section 8.1");
            client.get("/items").await.expect(200);
        }
    });
    let records = gate.settle();
    assert_eq!(count(&records, |r| r["status"] == 403), 3);
    assert_eq!(records.len(), 6);
    let text = gate.upstream.text();
    assert!(!text.contains("POST"), "{text}");
}

/// Threat 16: whoever asks first is answered before anything of the body is sent, and the upstream hears only of what
/// is allowed.
#[test]
fn expectation_is_answered_after_the_decision_over_http2() {
    let gate = Gate::start();
    let post = || {
        let mut post = request("POST", "/items");
        post.headers_mut().insert("expect", "100-continue".parse().unwrap());
        post.headers_mut().insert("content-length", "5".parse().unwrap());
        post
    };
    block_on(async {
        let mut client = Http2::open(&gate.dial().identity(&gate.globex)).await;
        let (answer, _waiting) = client.begin(post(), false).await;
        assert_eq!(whole(answer.await.unwrap()).await.unwrap().expect(403).code(), "not-permitted");
        gate.upstream.assert_untouched();
        let mut client = Http2::open(&acme(&gate)).await;
        let (answer, mut stream) = client.begin(post(), false).await;
        stream.send_data("hello".into(), true).unwrap();
        let answer = whole(answer.await.unwrap()).await.unwrap();
        assert_eq!(answer.expect(200).json()["body_bytes"], 5);
    });
    let records = gate.settle();
    assert_eq!((count(&records, |r| r["result"] == "deny"), count(&records, |r| r["result"] == "allow")), (1, 1));
}

#[test]
fn preface_that_does_not_come_closes_the_connection() {
    let gate = Setup::new().set("partner.timeouts.h2_preface", "300ms").start();
    for part in [&b""[..], &PREFACE[..10], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut conn = acme(&gate).alpn(&["h2"]).open();
        conn.send(part);
        let mut frames = await_end(conn);
        frames.sort_unstable();
        assert!(frames.iter().all(|kind| matches!(*kind, SETTINGS | GOAWAY | WINDOW_UPDATE)), "{frames:?}");
    }
    let records = gate.settle();
    assert_eq!(malformed(&records).len(), 3, "{records:#?}");
    assert_eq!(gate.metric(MALFORMED), 3.0);
}

/// The kinds of all frames until the gateway closes.
#[track_caller]
fn await_end(mut conn: crate::harness::TlsConn) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Ok(head) = conn.take(9) {
        kinds.push(head[3]);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if conn.take(length).is_err() {
            break;
        }
    }
    kinds
}

/// Threat 18: no end of a head comes, and nothing at all or always a little more. There is no stream yet that could be
/// answered; the connection is idle, whatever is sent on it.
#[test]
fn head_that_never_ends_is_ended_at_the_idle_time() {
    let gate = Setup::new().set("partner.timeouts.h2_idle", "500ms").start();
    for second in [false, true] {
        for drips in [false, true] {
            let mut conn = frames(&gate);
            if second {
                let id = conn.headers(&get_fields("/items"), true);
                conn.await_frame("an answer", |f| f.stream == id && f.flags & END_STREAM != 0);
            }
            let began = Instant::now();
            let id = conn.stream();
            conn.send(HEADERS, END_STREAM, id, &block(&get_fields("/items/never")));
            // A write to a connection that has been closed fails sooner or later. Some empty pieces are too many as it is.
            while drips && began.elapsed() < DEADLINE {
                if conn.try_send(CONTINUATION, 0, id, b"").is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            conn.ended();
            assert!(began.elapsed() < DEADLINE, "second: {second}, drips: {drips}: left open");
            assert!(drips || began.elapsed() > Duration::from_millis(400), "second: {second}: ended early");
        }
    }
    gate.await_metric("partnergate_open_connections{protocol=\"h2\"}", 0.0);
    assert!(!gate.upstream.text().contains("never"), "{}", gate.upstream.text());
    served(&gate);
}

/// Also when the client never says anything again, not even to acknowledge.
#[test]
fn idle_connection_is_ended_with_goaway_before_and_after_its_first_request() {
    let gate = Setup::new().set("partner.timeouts.h2_idle", "400ms").start();
    for requests in [0, 1, 2] {
        let mut conn = frames(&gate);
        let began = Instant::now();
        for _ in 0..requests {
            // Longer than the idle time: a connection with an open stream is not idle.
            let id = conn.headers(&get_fields("/items?upstream_delay_ms=500"), true);
            conn.await_frame("an answer", |f| f.stream == id && f.flags & END_STREAM != 0);
        }
        let mut told = false;
        loop {
            match conn.next() {
                Ok(frame) => told |= frame.kind == GOAWAY && frame.error() == 0,
                Err(e) => {
                    assert!(e.kind() != std::io::ErrorKind::WouldBlock, "left open");
                    break;
                }
            }
        }
        assert!(told, "no GOAWAY after {requests} requests");
        assert!(began.elapsed() > Duration::from_millis(400 + 500 * requests), "{:?}", began.elapsed());
    }
    let records = gate.settle();
    assert_eq!(records.len(), 3, "silence is nothing malformed: {records:#?}");
}

/// Ends a connection in flight in some way: the request in flight is served to its end, GOAWAY says that no other one
/// will be, without an error, and the connection is closed.
#[track_caller]
fn drained(gate: &Gate, before: u32, trigger: impl FnOnce()) {
    let mut conn = frames(gate);
    for _ in 0..before {
        let id = conn.headers(&get_fields("/items"), true);
        conn.await_frame("an answer", |f| f.stream == id && f.flags & END_STREAM != 0);
    }
    let slow = conn.headers(&get_fields("/items/7?upstream_delay_ms=1500"), true);
    await_some("the request at the upstream", || gate.upstream.text().contains("/items/7").then_some(()));
    trigger();
    let (mut last, mut answered) = (None, false);
    loop {
        match conn.next() {
            Ok(frame) if frame.kind == GOAWAY => {
                assert_eq!(frame.error(), 0, "{frame:?}");
                last = Some(u32::from_be_bytes(frame.payload[..4].try_into().unwrap()));
            }
            // The connection may end before the answer to its last PING is there.
            Ok(frame) if frame.kind == PING && frame.flags == 0 => {
                let _ = conn.try_send(PING, 1, 0, &frame.payload);
            }
            Ok(frame) => answered |= frame.stream == slow && frame.flags & END_STREAM != 0,
            Err(e) => {
                assert_ne!(e.kind(), std::io::ErrorKind::WouldBlock, "left open");
                break;
            }
        }
    }
    assert_eq!((last, answered), (Some(slow), true), "last stream that was taken, and its answer");
    let record = gate.await_record("the one in flight", |r| r["input"]["request"]["operation"] == "items.read");
    assert_eq!((&record["result"], &record["status"]), (&"allow".into(), &200.into()), "{record}");
}

#[test]
fn connection_that_has_served_its_share_ends_with_goaway() {
    let gate = Setup::new().set("partner.limits.max_requests", 3).start();
    drained(&gate, 2, || {});
}

#[test]
fn connection_that_is_old_ends_with_goaway() {
    let gate = Setup::new().set("partner.limits.max_age", "1s").start();
    drained(&gate, 1, || {});
}

#[test]
fn drain_ends_connections_with_goaway_when_their_last_stream_is_done() {
    let mut gate = Setup::new().set("drain.grace", "20s").start();
    let began = Instant::now();
    drained(&gate, 1, || gate.signal("TERM"));
    assert!(gate.process.ended().success());
    assert!(began.elapsed() < Duration::from_secs(10), "it waited for the grace period: {:?}", began.elapsed());
}

/// A connection that is being ended cannot be kept open by a client that just stays.
#[test]
fn drain_does_not_wait_for_clients_that_ignore_goaway() {
    let mut gate = Setup::new().set("drain.grace", "20s").start();
    let mut conn = frames(&gate);
    let id = conn.headers(&get_fields("/items"), true);
    conn.await_frame("an answer", |f| f.stream == id && f.flags & END_STREAM != 0);
    let began = Instant::now();
    gate.signal("TERM");
    assert!(gate.process.ended().success());
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

/// One record for each stream, also when nobody waits for its answer any more.
#[test]
fn stream_that_its_client_resets_is_recorded_once() {
    let gate = Gate::start();
    block_on(async {
        let mut client = Http2::open(&acme(&gate)).await;
        // In the middle of its answer.
        let target = "/items/1?upstream_chunks=100&upstream_chunk_delay_ms=50&upstream_body_bytes=1000000";
        let (answer, mut stream) = client.begin(request("GET", target), true).await;
        let mut body = answer.await.unwrap().into_body();
        body.data().await.unwrap().unwrap();
        stream.send_reset(h2::Reason::CANCEL);
        drop(body);
        // Before its answer.
        let (answer, mut stream) = client.begin(request("GET", "/items/2?upstream_delay_ms=5000"), true).await;
        await_some("it at the upstream", || gate.upstream.text().contains("/items/2").then_some(()));
        stream.send_reset(h2::Reason::CANCEL);
        drop(answer);
        // In the middle of its body.
        let (answer, mut stream) = client.begin(request("POST", "/items"), false).await;
        stream.send_data("hello".into(), false).unwrap();
        await_some("it at the upstream", || gate.upstream.text().contains("hello").then_some(()));
        stream.send_reset(h2::Reason::CANCEL);
        drop(answer);
        client.get("/items/3").await.expect(200);
    });
    let records = gate.settle();
    let gone = |operation: &str| {
        count(&records, |r| {
            r["result"] == "aborted" && r["reason"] == "client-gone" && r["input"]["request"]["operation"] == operation
        })
    };
    assert_eq!((gone("items.read"), gone("items.create")), (2, 1), "{records:#?}");
    assert_eq!(records.len(), 4, "{records:#?}");
    gate.await_metric("partnergate_open_requests", 0.0);
}

/// A client that is gone without a goodbye has done nothing malformed.
#[test]
fn connection_that_just_breaks_off_is_nothing_malformed() {
    let gate = Gate::start();
    for reset in [false, true] {
        let mut conn = frames(&gate);
        let id = conn.headers(&get_fields("/items"), true);
        conn.await_frame("an answer", |f| f.stream == id && f.flags & END_STREAM != 0);
        if reset {
            // Unread bytes at the time of closing make the kernel send a reset.
            conn.send(PING, 0, 0, &[0; 8]);
            let id = conn.headers(&get_fields("/items?upstream_body_bytes=300000"), true);
            await_some("an answer to be left unread", || {
                (gate.upstream.text().matches("300000").count() == 1).then_some(id)
            });
        }
        let _ = conn.conn.tcp().shutdown(std::net::Shutdown::Both);
        drop(conn);
    }
    gate.await_metric("partnergate_open_connections{protocol=\"h2\"}", 0.0);
    let records = gate.settle();
    assert_eq!(malformed(&records).len(), 0, "{records:#?}");
    assert_eq!(gate.metric(MALFORMED), 0.0);
}

/// Threat 13: identity fields of the client, also with `_` and in trailers, to both kinds of upstream.
#[test]
fn identity_fields_of_a_client_never_arrive_over_http2() {
    for protocol in ["h1", "h2"] {
        let gate = Setup::new().set("upstreams.api.protocol", protocol).start();
        let names = [
            "client-cert",
            "client_cert",
            "x-forwarded-client-cert",
            "x_partner_id",
            "x-partner-grant",
            "x-forwarded-for",
            "forwarded",
            "x-request-id",
            "x-real-ip",
            "x-original-url",
            "x-http-method-override",
        ];
        block_on(async {
            let mut client = Http2::open(&acme(&gate)).await;
            let mut post = request("POST", "/items");
            let mut trailers = http::HeaderMap::new();
            for name in names {
                post.headers_mut().append(name, "forged".parse().unwrap());
                post.headers_mut().append(name, "forged".parse().unwrap());
                trailers.append(name, "forged-trailer".parse().unwrap());
            }
            let (answer, mut stream) = client.begin(post, false).await;
            stream.send_data("hello".into(), false).unwrap();
            stream.send_trailers(trailers).unwrap();
            let answer = whole(answer.await.unwrap()).await.unwrap();
            let seen = answer.expect(200).json();
            assert_eq!(seen["body_bytes"], 5, "{protocol}: {seen}");
            assert!(!seen.to_string().contains("forged"), "{protocol}: {seen}");
            let ours = seen["headers"].as_array().unwrap();
            let partner = |h: &&Value| h[0].as_str().unwrap().eq_ignore_ascii_case("x-partner-id") && h[1] == "acme";
            assert_eq!(ours.iter().filter(partner).count(), 1, "{protocol}: {seen}");
        });
    }
}

#[test]
fn http2_upstream_receives_what_was_decided_on() {
    let gate = Setup::new().set("upstreams.api.protocol", "h2").start();
    let mut over_h1 = acme(&gate).open();
    let one = over_h1.request(format!(
        "GET /items/caf%c3%a9?a=1 HTTP/1.1\r\nHost: {HOST}\r\nAccept: x/y\r\nConnection: close\r\n\r\n"
    ));
    one.expect(200);
    let answers = block_on(async {
        let mut client = Http2::open(&acme(&gate)).await;
        let mut streams = Vec::new();
        for n in 0..20 {
            let (answer, _) = client.begin(request("GET", &format!("/items/{n}?upstream_delay_ms=100")), true).await;
            streams.push(async move { whole(answer.await.unwrap()).await.unwrap() });
        }
        let answers = join_all(streams).await;
        client.request(request("POST", "/items"), &vec![b'x'; 2_000_000]).await.expect(200);
        let large = client.get("/items?upstream_body_bytes=3000000").await;
        assert_eq!(large.expect(200).body.len(), 3_000_000);
        client.request(request("DELETE", "/items/7"), b"").await.expect(403);
        answers
    });
    for answer in &answers {
        answer.expect(200);
    }
    let seen = one.json();
    assert_eq!((&seen["version"], &seen["target"]), (&"HTTP/2".into(), &"/items/caf%c3%a9?a=1".into()), "{seen}");
    let header = |name: &str| {
        let fields = seen["headers"].as_array().unwrap();
        fields.iter().filter(|f| f[0] == name).map(|f| f[1].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(header(":authority"), [HOST]);
    assert_eq!(header("accept"), ["x/y"]);
    assert_eq!(header("x-partner-id"), ["acme"]);
    assert_eq!(header("connection"), [""; 0]);
    let events = gate.upstream.h2_events();
    let heads = events.iter().filter(|e| e["event"] == "head").count();
    assert_eq!(heads, 23, "{heads} requests arrived");
    let created = events.iter().find(|e| e["event"] == "body" && e["method"] == "POST").unwrap();
    assert_eq!(created["body_bytes"], 2_000_000, "{created}");
    assert!(!events.iter().any(|e| e["method"] == "DELETE"));
}

/// Runs an attack on connections of its own, while another client is served all the time and memory stays within a
/// bound.
#[track_caller]
fn survived(gate: &Gate, bound: u64, attack: impl FnOnce()) {
    served(gate);
    let before = gate.memory();
    let (over, dial, id) = (AtomicBool::new(false), acme(gate), gate.process.id());
    let (worst, peak) = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let (mut worst, mut peak) = (Duration::ZERO, 0);
            loop {
                // Looked at before, so that the last round begins after the attack.
                let last = over.load(Ordering::SeqCst);
                let began = Instant::now();
                block_on(async { Http2::open(&dial).await.get("/items/other").await }).expect(200);
                worst = worst.max(began.elapsed());
                peak = peak.max(resident(id));
                if last {
                    return (worst, peak);
                }
            }
        });
        let until = Over(&over);
        attack();
        drop(until);
        other.join().unwrap()
    });
    assert!(peak < before + bound, "{} MiB, then {} MiB", before / MIB, peak / MIB);
    assert!(worst < Duration::from_secs(5), "another client waited {worst:?}");
}

/// Sends as much of an endless stream of bytes as the gateway takes within a bound; whether it ended the connection.
fn flood(conn: &mut Frames, piece: &[u8], most: usize) -> bool {
    // What it answers is not read, as an attacker would.
    let tcp = conn.conn.tcp();
    tcp.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut sent = 0;
    while sent < most {
        if conn.conn.try_send(piece).is_err() {
            return true;
        }
        sent += piece.len();
    }
    false
}

/// Threat 19 (CVE-2023-44487).
#[test]
fn rapid_reset_ends_the_connection_and_others_are_served() {
    let gate = Gate::start();
    survived(&gate, 60 * MIB, || {
        for _ in 0..4 {
            let mut conn = frames(&gate);
            let mut bytes = Vec::new();
            for _ in 0..1000 {
                let id = conn.stream();
                bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &block(&get_fields("/items"))));
                bytes.extend(frame(RST_STREAM, 0, id, &8u32.to_be_bytes()));
            }
            let _ = conn.conn.try_send(&bytes);
            let goaway = conn.ended();
            assert!(goaway.is_none_or(|g| g.error() == 11), "ENHANCE_YOUR_CALM");
        }
    });
    gate.await_metric("partnergate_open_requests", 0.0);
    let records = gate.settle();
    assert!(!malformed(&records).is_empty(), "{} records", records.len());
}

/// Threat 19 (CVE-2024-27316).
#[test]
fn continuation_flood_ends_the_connection_and_others_are_served() {
    let gate = Gate::start();
    survived(&gate, 60 * MIB, || {
        for size in [0, 1, 16_000] {
            let mut conn = frames(&gate);
            let id = conn.stream();
            conn.send(HEADERS, END_STREAM, id, &block(&get_fields("/items")));
            let name = "x".repeat(size / 2);
            let fields = if size == 0 { Vec::new() } else { block(&[("x-a", &name)]) };
            let piece = frame(CONTINUATION, 0, id, &fields).repeat(if size > 100 { 10 } else { 1000 });
            assert!(flood(&mut conn, &piece, 100_000_000), "{size}: never ended");
        }
    });
    let text = gate.upstream.text();
    assert!(!text.contains("GET /items HTTP/1.1"), "{text}");
}

/// Threat 19.
#[test]
fn floods_of_control_frames_are_answered_within_bounds() {
    let gate = Gate::start();
    survived(&gate, 60 * MIB, || {
        let settings = [0u8, 3, 0, 0, 0, 100].repeat(10);
        for piece in [
            frame(PING, 0, 0, &[7; 8]).repeat(1000),
            frame(SETTINGS, 0, 0, &settings).repeat(200),
            frame(SETTINGS, 0, 0, &[]).repeat(1000),
            frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()).repeat(1000),
            // Priorities (RFC 7540) of streams that do not exist.
            frame(2, 0, 0x7fff_fff1, &[0, 0, 0, 1, 16]).repeat(1000),
            // Of a type that nobody knows.
            frame(0xfa, 0, 0, &[1; 100]).repeat(100),
        ] {
            flood(&mut frames(&gate), &piece, 2_000_000);
        }
    });
}

/// Threat 19: clients that ask for large answers and never take them.
#[test]
fn answers_that_nobody_takes_cost_little_and_end() {
    let gate = Setup::new().set("partner.timeouts.body_progress", "2s").start();
    let mut held = Vec::new();
    survived(&gate, 150 * MIB, || {
        for _ in 0..4 {
            // An initial window of zero: no byte of a body may be sent.
            let mut conn = Frames::open(&acme(&gate), &[(4, 0)]);
            for _ in 0..50 {
                conn.headers(&get_fields("/items?upstream_body_bytes=20000000"), true);
            }
            held.push(conn);
        }
        await_some("two hundred open requests", || (gate.metric("partnergate_open_requests") >= 200.0).then_some(()));
    });
    // The writes make no progress, so the streams end.
    gate.await_metric("partnergate_open_requests", 0.0);
    assert_eq!(
        count(&gate.settle(), |r| r["input"]["request"]["operation"] == "items.list" && r["result"] != "allow"),
        200
    );
    drop(held);
}

/// Threat 19: whoever is refused and does not take the refusal holds no place for records, which all partners share.
#[test]
fn refusals_that_nobody_takes_hold_no_place_for_records() {
    const PLACES: usize = 100;
    let gate = Setup::new().set("record.buffer", PLACES).set("partner.timeouts.body_progress", "1m").start();
    let stranger = gate.pki.client(&gate.acme_ca, "stranger", |_| {});
    let mut held = Vec::new();
    for (who, reason) in [(&stranger, "identity-unknown"), (&gate.globex, "operation-not-granted")] {
        for _ in 0..3 {
            // An initial window of zero: the head of a refusal comes, and not a byte of its body.
            let mut conn = Frames::open(&gate.dial().identity(who), &[(4, 0)]);
            let streams: Vec<u32> = (0..70).map(|_| conn.headers(&get_fields("/items/7"), true)).collect();
            for _ in &streams {
                let frame = conn.await_frame("a head", |f| matches!(f.kind, HEADERS | DATA | RST_STREAM | GOAWAY));
                assert!(frame.kind == HEADERS && frame.flags & END_STREAM == 0, "{frame:?}");
            }
            held.push(conn);
            let so_far = 70 * held.len();
            await_some("a record of each", || {
                (count(&gate.records(), |r| r["result"] == "deny") == so_far).then_some(())
            });
            assert!(gate.records().iter().any(|r| r["reason"] == reason));
            // The others are served, and none of what is held has been let go.
            served(&gate);
        }
    }
    gate.await_metric("partnergate_record_slots_free", PLACES as f64);
    assert_eq!(gate.metric("partnergate_records_lost_total"), 0.0);
    assert_eq!(gate.metric("partnergate_denials_total{reason=\"record-unavailable\"}"), 0.0);
    assert_eq!(gate.metric("partnergate_open_connections{protocol=\"h2\"}"), held.len() as f64);
}

/// An allowed request holds a place for its record until it has ended. A partner who lets none of them end has a quarter
/// of the places, and not those of the others.
#[test]
fn requests_that_one_partner_does_not_let_end_leave_places_to_the_others() {
    let gate = Setup::new().set("record.buffer", 200).set("partner.timeouts.body_progress", "1m").start();
    let mut held: Vec<Frames> = (0..2).map(|_| Frames::open(&gate.dial().identity(&gate.acme), &[(4, 0)])).collect();
    for conn in &mut held {
        for _ in 0..60 {
            conn.headers(&get_fields("/items/7"), true);
        }
        for _ in 0..60 {
            conn.await_frame("a head", |f| f.kind == HEADERS);
        }
    }
    gate.await_metric("partnergate_denials_total{reason=\"record-unavailable\"}", 70.0);
    let globex = gate.dial().identity(&gate.globex);
    block_on(async { Http2::open(&globex).await.get("/items").await }).expect(200);
    // What is denied is recorded all the same: nobody makes its own denials disappear.
    let records = gate.records();
    assert_eq!(count(&records, |r| r["reason"] == "record-unavailable"), 70);
    block_on(async { Http2::open(&acme(&gate)).await.get("/nowhere").await }).expect(403);
    await_some("the record", || gate.records().iter().any(|r| r["reason"] == "operation-unknown").then_some(()));
    assert_eq!(gate.metric("partnergate_records_lost_total"), 0.0);
    gate.await_metric("partnergate_record_slots_free", 150.0);
    drop(held);
    gate.await_metric("partnergate_record_slots_free", 200.0);
    served(&gate);
}

/// As many as are announced, and no more.
#[test]
fn streams_over_the_limit_are_refused_and_the_others_go_on() {
    let gate = Setup::new().set("partner.limits.h2_max_streams", 5).start();
    let mut conn = frames(&gate);
    let settings = conn.await_frame("settings", |f| f.kind == SETTINGS && f.flags == 0);
    assert!(settings.payload.chunks(6).any(|s| s == [0, 3, 0, 0, 0, 5]), "{settings:?}");
    let ids: Vec<u32> = (0..8).map(|_| conn.headers(&get_fields("/items?upstream_delay_ms=500"), true)).collect();
    let (mut answered, mut refused) = (0, 0);
    while answered + refused < ids.len() {
        let end = conn.await_frame("an end", |f| f.kind == RST_STREAM || (f.stream != 0 && f.flags & END_STREAM != 0));
        if end.kind == RST_STREAM {
            assert_eq!(end.error(), 7, "REFUSED_STREAM: {end:?}");
            refused += 1;
        } else {
            answered += 1;
        }
    }
    assert_eq!((answered, refused), (5, 3));
    let records = gate.settle();
    assert_eq!(count(&records, |r| r["result"] == "allow"), 5);
    assert_eq!(records.len(), 8, "the refused ones are recorded too: {records:#?}");
}

/// A stream's body waits for the upstream, and its siblings do not wait for it.
#[test]
fn slow_reader_does_not_hold_up_its_siblings() {
    let gate = Gate::start();
    block_on(async {
        let mut settings = h2::client::Builder::new();
        settings.initial_window_size(64 * 1024).initial_connection_window_size(8 * 1024 * 1024);
        let mut client = Http2::with(&acme(&gate), &settings).await;
        let (slow, _) = client.begin(request("GET", "/items?upstream_body_bytes=3000000"), true).await;
        let slow = slow.await.unwrap();
        for n in 0..5 {
            client.get(&format!("/items/{n}")).await.expect(200);
        }
        let body = async { whole(slow).await.unwrap() };
        assert_eq!(body.await.body.len(), 3_000_000);
    });
    assert_eq!(count(&gate.settle(), |r| r["result"] == "allow"), 6);
}
