//! Between gateway and upstream: TLS, choice of endpoint, retries, health, deadlines, and the heads that pass.

use crate::harness::http2::{Http2, block_on, request, whole};
use crate::harness::{Authority, Gate, HOST, Identity, Response, Setup, Upstream, await_some, count};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

#[track_caller]
fn call(gate: &Gate, request: impl AsRef<[u8]>) -> Response {
    gate.dial().identity(&gate.acme).open().request(request)
}

/// The values that the upstream has received for a field, as it says in its answer.
fn received(answer: &Value, name: &str) -> Vec<String> {
    let fields = answer["headers"].as_array().unwrap();
    let fits = |f: &&Value| f[0].as_str().unwrap().eq_ignore_ascii_case(name);
    fields.iter().filter(fits).map(|f| f[1].as_str().unwrap().to_owned()).collect()
}

/// A refusal of the gateway, with its record.
#[track_caller]
fn refused(gate: &Gate, answer: &Response, status: u16, code: &str, reason: &str) -> Value {
    assert_eq!(answer.expect(status).code(), code);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let record = gate.record_of(answer.id());
    assert_eq!(record["result"], "error", "{record}");
    assert_eq!((&record["reason"], &record["status"]), (&reason.into(), &status.into()), "{record}");
    record
}

fn failures(gate: &Gate, reason: &str) -> f64 {
    gate.metric(&format!("partnergate_upstream_failures_total{{reason=\"{reason}\",upstream=\"api\"}}"))
}

fn retries(gate: &Gate) -> f64 {
    gate.metric("partnergate_upstream_retries_total{upstream=\"api\"}")
}

/// An address on which nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// An upstream whose connections are served by a function that is told the number of each; it counts what it is asked.
struct Scripted {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Scripted {
    fn start(serve: impl Fn(usize, &mut Asked) + Send + Sync + 'static) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, requests) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let (serve, counter) = (Arc::new(serve), requests.clone());
        std::thread::spawn(move || {
            for (n, stream) in listener.incoming().flatten().enumerate() {
                let (serve, requests) = (serve.clone(), counter.clone());
                std::thread::spawn(move || serve(n, &mut Asked { stream, head: String::new(), requests }));
            }
        });
        Scripted { address, requests }
    }

    fn asked(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

struct Asked {
    stream: TcpStream,
    /// The last head that came.
    head: String,
    requests: Arc<AtomicUsize>,
}

impl Asked {
    /// Waits for a request head; false at the end of the connection.
    fn next(&mut self) -> bool {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match self.stream.read(&mut byte) {
                Ok(1) => head.extend(byte),
                _ => return false,
            }
        }
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.head = String::from_utf8_lossy(&head).into_owned();
        true
    }

    fn answer(&mut self, bytes: &str) {
        let _ = self.stream.write_all(bytes.as_bytes());
    }

    fn fine(&mut self) {
        self.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }
}

fn before(scripted: &Scripted) -> Gate {
    Setup::new().set("upstreams.api.endpoints", json!([scripted.address.to_string()])).start()
}

/// An upstream with TLS for `upstream.test`, its CA, and more arguments.
struct Tls {
    ca: Authority,
    upstream: Upstream,
}

fn tls(setup: &Setup, arguments: &[&str]) -> Tls {
    let ca = setup.pki.authority("upstream-ca");
    let server = setup.pki.server(&ca, "upstream", &["upstream.test"]);
    let (chain, key) = (server.chain_file.to_str().unwrap(), server.key_file.to_str().unwrap());
    let arguments = [&["--tls-cert", chain, "--tls-key", key], arguments].concat();
    Tls { upstream: Upstream::start(setup.dir.path(), "tls-upstream", &arguments), ca }
}

fn to_tls(setup: Setup, tls: &Tls, settings: Value) -> Setup {
    setup.set("upstreams.api.endpoints", json!([tls.upstream.address().to_string()])).set("upstreams.api.tls", settings)
}

#[test]
fn upstream_with_the_right_name_and_ca_is_used() {
    for (protocol, alpn) in [("h1", "http/1.1"), ("h2", "h2")] {
        let setup = Setup::new().set("upstreams.api.protocol", protocol);
        let tls = tls(&setup, &[]);
        let gate = to_tls(setup, &tls, json!({"server_name": "upstream.test", "ca": tls.ca.pem_file})).start();
        let mut conn = gate.dial().identity(&gate.acme).open();
        for _ in 0..3 {
            let seen = conn.request(get("/items/7")).expect(200).json();
            assert_eq!((&seen["tls"]["server_name"], &seen["tls"]["alpn"]), (&"upstream.test".into(), &alpn.into()));
            assert_eq!(seen["connection"], 1, "the connection is kept: {seen}");
        }
    }
}

/// Threat 33.
#[test]
fn upstream_with_a_wrong_name_or_ca_is_sent_nothing() {
    for protocol in ["h1", "h2"] {
        for wrong_name in [true, false] {
            let setup = Setup::new().set("upstreams.api.protocol", protocol);
            let tls = tls(&setup, &[]);
            let other = setup.pki.authority("other-ca");
            let settings = match wrong_name {
                true => json!({"server_name": "elsewhere.test", "ca": tls.ca.pem_file}),
                false => json!({"server_name": "upstream.test", "ca": other.pem_file}),
            };
            let gate = to_tls(setup, &tls, settings).start();
            let answer = call(&gate, get("/items/7"));
            let record = refused(&gate, &answer, 502, "upstream-failed", "upstream-tls");
            assert_eq!(record["upstream"]["address"], tls.upstream.address().to_string(), "{record}");
            assert!(failures(&gate, "upstream-tls") >= 1.0);
            tls.upstream.assert_untouched();
        }
    }
}

/// Without `ca` it is the platform's trust store that counts, and a test's CA is not in it.
#[test]
fn upstream_of_an_unknown_ca_is_sent_nothing() {
    let setup = Setup::new();
    let tls = tls(&setup, &[]);
    let gate = to_tls(setup, &tls, json!({"server_name": "upstream.test"})).start();
    refused(&gate, &call(&gate, get("/items/7")), 502, "upstream-failed", "upstream-tls");
    tls.upstream.assert_untouched();
}

#[test]
fn plain_upstream_where_tls_is_expected_is_sent_nothing() {
    let setup = Setup::new();
    let ca = setup.pki.authority("upstream-ca");
    let gate = setup.set("upstreams.api.tls", json!({"server_name": "upstream.test", "ca": ca.pem_file})).start();
    let answer = call(&gate, get("/items/secret"));
    assert_eq!(answer.expect(502).code(), "upstream-failed");
    assert!(!gate.upstream.text().contains("secret"), "{}", gate.upstream.text());
}

#[test]
fn certificate_of_the_gateway_reaches_an_upstream_that_wants_one() {
    let setup = Setup::new();
    let gateways = setup.pki.authority("gateway-ca");
    let tls = tls(&setup, &["--tls-client-ca", gateways.pem_file.to_str().unwrap()]);
    let own = setup.pki.client(&gateways, "gateway", |_| {});
    let plain = json!({"server_name": "upstream.test", "ca": tls.ca.pem_file});
    let mut with = plain.clone();
    with["client_chain"] = json!(own.chain_file);
    with["client_key"] = json!(format!("file:{}", own.key_file.display()));
    let gate = to_tls(setup, &tls, with).start();
    let seen = call(&gate, get("/items/7")).expect(200).json();
    assert_eq!(seen["tls"]["client_certificate_sha256"], own.fingerprint());
    // A change of it is a change of the connection: none that was opened with it is used without it.
    rewrite(&gate, |config| config["upstreams"]["api"]["tls"] = plain);
    let answer = call(&gate, get("/items/secret"));
    assert_eq!(answer.expect(502).code(), "upstream-failed");
    assert!(!tls.upstream.text().contains("secret"), "{}", tls.upstream.text());
}

/// Changes the config file and waits until the change is live.
#[track_caller]
fn rewrite(gate: &Gate, change: impl FnOnce(&mut Value)) {
    let mut config = gate.config().clone();
    change(&mut config);
    std::fs::write(gate.config_file(), serde_json::to_string_pretty(&config).unwrap()).unwrap();
    gate.reload();
    assert_eq!(gate.metric("partnergate_config_last_reload_successful"), 1.0, "{}", gate.log());
}

/// Threat 33.
#[test]
fn connections_that_another_ca_vouched_for_are_abandoned() {
    for protocol in ["h1", "h2"] {
        let setup = Setup::new().set("upstreams.api.protocol", protocol);
        let tls = tls(&setup, &[]);
        let other = setup.pki.authority("other-ca");
        let bundle = setup.pki.write("bundle.pem", 0o644, &std::fs::read(&tls.ca.pem_file).unwrap());
        let gate = to_tls(setup, &tls, json!({"server_name": "upstream.test", "ca": bundle})).start();
        let mut conn = gate.dial().identity(&gate.acme).open();
        conn.request(get("/items/1")).expect(200);
        // The same path, other content: the file is what counts.
        gate.pki.write("bundle.pem", 0o644, &std::fs::read(&other.pem_file).unwrap());
        rewrite(&gate, |_| {});
        let answer = conn.request(get("/items/secret"));
        refused(&gate, &answer, 502, "upstream-failed", "upstream-tls");
        assert!(!tls.upstream.text().contains("secret") && tls.upstream.h2_events().len() <= 2, "{protocol}");
        gate.pki.write("bundle.pem", 0o644, &std::fs::read(&tls.ca.pem_file).unwrap());
        rewrite(&gate, |_| {});
        call(&gate, get("/items/3")).expect(200);
    }
}

#[test]
fn connections_of_an_upstream_that_did_not_change_are_kept_over_a_reload() {
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    assert_eq!(conn.request(get("/items/1")).expect(200).json()["connection"], 1);
    rewrite(&gate, |config| config["request"] = json!({"via": "other"}));
    assert_eq!(conn.request(get("/items/2")).expect(200).json()["connection"], 1);
}

#[test]
fn tls_without_a_server_name_is_a_config_error() {
    let setup = Setup::new();
    let ca = setup.pki.authority("upstream-ca");
    for (tls, key) in [
        (json!({"ca": ca.pem_file}), "server_name"),
        (json!({"server_name": "", "ca": ca.pem_file}), "server_name"),
        (json!({"server_name": "a b", "ca": ca.pem_file}), "server_name"),
        (json!({"server_name": "upstream.test", "client_chain": ca.pem_file}), "client_chain"),
    ] {
        let mut config = setup.config().clone();
        config["upstreams"]["api"]["tls"] = tls.clone();
        let (code, said) = setup.start_text_expecting_failure(&serde_json::to_string_pretty(&config).unwrap());
        assert_ne!(code, Some(0));
        assert!(said.contains(&format!("upstreams.api.tls.{key}")), "{tls}: {said}");
    }
}

#[test]
fn endpoints_are_used_in_turn() {
    let setup = Setup::new();
    let others: Vec<Upstream> =
        ["second", "third"].iter().map(|name| Upstream::start(setup.dir.path(), name, &[])).collect();
    let all = [&setup.upstream, &others[0], &others[1]].map(|u| u.address().to_string());
    let gate = setup.set("upstreams.api.endpoints", json!(all)).start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for n in 0..12 {
        conn.request(get(&format!("/items/{n}"))).expect(200);
    }
    for upstream in [&gate.upstream, &others[0], &others[1]] {
        assert_eq!(upstream.text().matches("GET /items/").count(), 4);
    }
    let records = gate.settle();
    for address in all {
        assert_eq!(count(&records, |r| r["upstream"]["address"] == address), 4, "{address}");
    }
}

/// Nothing was sent, so another endpoint is tried for every method; after some failures this one is left out for a while.
#[test]
fn endpoint_that_is_down_is_passed_over() {
    let setup = Setup::new();
    let endpoints = json!([nobody(), setup.upstream.address().to_string()]);
    let gate = setup.set("upstreams.api.endpoints", endpoints).set("upstreams.api.eject_for", "1m").start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for n in 0..10 {
        conn.request(get(&format!("/items/{n}"))).expect(200);
        conn.request(format!("POST /items HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\nhello")).expect(200);
    }
    assert_eq!(failures(&gate, "upstream-connect"), 3.0, "three, then it is left out");
    assert_eq!(retries(&gate), 3.0);
    let records = gate.settle();
    assert_eq!(count(&records, |r| r["result"] == "allow"), 20);
    assert_eq!(records.len(), 20, "a retry is no second request");
    assert_eq!(gate.upstream.text().matches("hello").count(), 10);
}

#[test]
fn upstream_that_is_down_is_an_answer_like_any_other() {
    let gate = Setup::new().set("upstreams.api.endpoints", json!([nobody(), nobody()])).start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for _ in 0..5 {
        let answer = conn.request(get("/items/7"));
        refused(&gate, &answer, 502, "upstream-failed", "upstream-connect");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        if answer.header("connection") == Some("close") {
            conn = gate.dial().identity(&gate.acme).open();
        }
    }
    assert_eq!(failures(&gate, "upstream-connect"), 10.0, "two attempts each, and no more");
    block_on(async {
        let mut client = Http2::open(&gate.dial().identity(&gate.acme)).await;
        for _ in 0..3 {
            assert_eq!(client.get("/items/7").await.expect(502).code(), "upstream-failed");
        }
    });
    assert_eq!(gate.metric("partnergate_requests_total{outcome=\"failed\",partner=\"acme\"}"), 8.0);
}

/// A connection that the upstream closes at the moment it is used again: the request may be tried once more when that
/// is safe, and only then.
#[test]
fn request_on_a_connection_that_is_just_closed_is_repeated_only_when_that_is_safe() {
    let scripted = Scripted::start(|_, conn| {
        if conn.next() {
            conn.fine();
        }
        // The second request of each connection finds it closed.
        conn.next();
    });
    let gate = before(&scripted);
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.request(get("/items/1")).expect(200);
    conn.request(get("/items/2")).expect(200);
    assert_eq!((scripted.asked(), retries(&gate)), (3, 1.0));
    // The connection of the retry is in the pool now. For a POST it may be too late already.
    let answer = conn.request(format!("POST /items HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n"));
    refused(&gate, &answer, 502, "upstream-failed", "upstream-protocol");
    assert_eq!((scripted.asked(), retries(&gate)), (4, 1.0));
    let records = gate.settle();
    assert_eq!(records.len(), 3, "{records:#?}");
}

/// What has begun to be answered has been done.
#[test]
fn request_that_the_upstream_has_begun_to_answer_is_not_repeated() {
    let scripted = Scripted::start(|_, conn| {
        if conn.next() {
            conn.fine();
        }
        if conn.next() {
            conn.answer("HTTP/1.1 200 OK\r\nconte");
        }
    });
    let gate = before(&scripted);
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.request(get("/items/1")).expect(200);
    let answer = conn.request(get("/items/2"));
    refused(&gate, &answer, 502, "upstream-failed", "upstream-protocol");
    assert_eq!((scripted.asked(), retries(&gate)), (2, 0.0));
}

#[test]
fn request_is_repeated_once_and_no_more() {
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    // On a new connection it is not repeated at all: the upstream has seen it.
    let answer = conn.request(get("/items/1?upstream_close=before"));
    refused(&gate, &answer, 502, "upstream-failed", "upstream-protocol");
    assert_eq!((gate.upstream.text().matches("GET /items/1").count(), retries(&gate)), (1, 0.0));
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.request(get("/items/2")).expect(200);
    let answer = conn.request(get("/items/3?upstream_close=before"));
    refused(&gate, &answer, 502, "upstream-failed", "upstream-protocol");
    assert_eq!((gate.upstream.text().matches("GET /items/3").count(), retries(&gate)), (2, 1.0));
}

#[test]
fn answer_that_does_not_come_is_a_timeout() {
    for protocol in ["h1", "h2"] {
        let setup = Setup::new().set("upstreams.api.timeouts.read", "400ms").set("upstreams.api.protocol", protocol);
        let gate = setup.start();
        let began = Instant::now();
        let answer = call(&gate, get("/items/7?upstream_delay_ms=10000"));
        refused(&gate, &answer, 504, "upstream-timeout", "upstream-timeout");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(failures(&gate, "upstream-timeout"), 1.0);
        assert_eq!(retries(&gate), 0.0);
        assert_eq!(gate.upstream.connections().len(), 1);
    }
}

/// A connection that never comes about: nothing is listening behind a full backlog.
#[test]
fn connection_that_does_not_come_about_is_a_timeout() {
    // TLS to somebody who accepts and says nothing.
    let silent = Scripted::start(|_, conn| while conn.next() {});
    let setup = Setup::new();
    let ca = setup.pki.authority("upstream-ca");
    let gate = setup
        .set("upstreams.api.endpoints", json!([silent.address.to_string()]))
        .set("upstreams.api.tls", json!({"server_name": "upstream.test", "ca": ca.pem_file}))
        .set("upstreams.api.timeouts.connect", "300ms")
        .start();
    let began = Instant::now();
    refused(&gate, &call(&gate, get("/items/7")), 504, "upstream-timeout", "upstream-timeout");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// The client must not take half an answer for a whole one.
#[test]
fn answer_that_breaks_off_is_broken_for_the_client_too() {
    for protocol in ["h1", "h2"] {
        let gate = Setup::new().set("upstreams.api.protocol", protocol).start();
        let sized = "/items/1?upstream_close=body&upstream_body_bytes=200000";
        let streamed = "/items/2?upstream_close=body&upstream_chunks=10&upstream_body_bytes=200000";
        for target in [sized, streamed] {
            let mut conn = gate.dial().identity(&gate.acme).open();
            conn.send(get(target));
            match conn.try_response() {
                Ok(answer) => panic!("{protocol} {target}: a whole answer: {} {}", answer.head, answer.body.len()),
                Err(e) => assert_ne!(e.kind(), std::io::ErrorKind::WouldBlock, "{protocol} {target}"),
            }
            block_on(async {
                let mut client = Http2::open(&gate.dial().identity(&gate.acme)).await;
                let (answer, _) = client.begin(request("GET", target), true).await;
                let answer = answer.await.unwrap();
                let error = whole(answer).await.expect_err("not whole");
                assert!(error.is_reset(), "{protocol} {target}: {error}");
                client.get("/items/3").await.expect(200);
            });
        }
        let records = gate.settle();
        let broken =
            count(&records, |r| r["result"] == "error" && r["reason"] == "upstream-protocol" && r["status"] == 200);
        assert_eq!(broken, 4, "{protocol}: {records:#?}");
        assert_eq!(retries(&gate), 0.0, "{protocol}: an answer had begun");
    }
}

#[test]
fn answer_that_is_not_http_is_refused() {
    for bytes in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 999999 X\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX: y\r\n folded: z\r\nContent-Length",
        "",
    ] {
        let scripted = Scripted::start(move |_, conn| {
            if conn.next() {
                conn.answer(bytes);
            }
        });
        let gate = before(&scripted);
        let answer = call(&gate, get("/items/7"));
        refused(&gate, &answer, 502, "upstream-failed", "upstream-protocol");
    }
}

/// An answer may come before the request is whole, and is the client's.
#[test]
fn early_answer_reaches_the_client() {
    let scripted = Scripted::start(|_, conn| {
        if conn.next() {
            conn.answer("HTTP/1.1 409 Conflict\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy");
            // A client that goes on sending is not answered with a reset.
            let _ = std::io::copy(&mut conn.stream, &mut std::io::sink());
        }
    });
    let gate = before(&scripted);
    let body = gate.pki.write("body", 0o600, &vec![b'x'; 3_000_000]);
    let answer = gate.curl(Some(&gate.acme), "/items", &["--data-binary", &format!("@{}", body.display())]);
    answer.expect(409);
    assert_eq!(answer.text(), "busy");
    block_on(async {
        let mut client = Http2::open(&gate.dial().identity(&gate.acme)).await;
        let (answer, mut stream) = client.begin(request("POST", "/items"), false).await;
        stream.send_data("hello".into(), false).unwrap();
        assert_eq!(whole(answer.await.unwrap()).await.unwrap().expect(409).body, b"busy");
    });
}

#[test]
fn endpoint_that_fails_its_check_is_taken_out_and_back() {
    let setup = Setup::new();
    let ill = setup.dir.path().join("ill");
    let flag = ill.to_str().unwrap().to_owned();
    let second = Upstream::start(setup.dir.path(), "second", &["--unhealthy-when", &flag]);
    let endpoints = json!([setup.upstream.address().to_string(), second.address().to_string()]);
    let gate = setup
        .set("upstreams.api.endpoints", endpoints)
        .set("upstreams.api.health", json!({"path": "/healthz", "interval": "100ms", "timeout": "1s"}))
        .start();
    let state = |state: &str| format!("partnergate_upstream_endpoints{{state=\"{state}\",upstream=\"api\"}}");
    gate.await_metric(&state("healthy"), 2.0);
    std::fs::write(&ill, "").unwrap();
    gate.await_metric(&state("healthy"), 1.0);
    assert_eq!(gate.metric(&state("unhealthy")), 1.0);
    let mut conn = gate.dial().identity(&gate.acme).open();
    for n in 0..6 {
        conn.request(get(&format!("/items/{n}"))).expect(200);
    }
    assert_eq!(gate.upstream.text().matches("GET /items/").count(), 6);
    assert_eq!(second.text().matches("GET /items/").count(), 0);
    std::fs::remove_file(&ill).unwrap();
    gate.await_metric(&state("healthy"), 2.0);
    for n in 0..6 {
        conn.request(get(&format!("/items/{n}"))).expect(200);
    }
    assert_eq!(second.text().matches("GET /items/").count(), 3);
    assert!(second.text().starts_with("GET /healthz HTTP/1.1\r\n"), "{}", second.text());
}

#[test]
fn upstream_without_a_healthy_endpoint_is_unavailable() {
    for protocol in ["h1", "h2"] {
        let setup = Setup::new();
        let ill = setup.dir.path().join("ill");
        let flag = ill.to_str().unwrap().to_owned();
        std::fs::write(&ill, "").unwrap();
        let only = Upstream::start(setup.dir.path(), "only", &["--unhealthy-when", &flag]);
        let gate = setup
            .set("upstreams.api.protocol", protocol)
            .set("upstreams.api.endpoints", json!([only.address().to_string()]))
            .set("upstreams.api.health", json!({"path": "/healthz", "interval": "100ms"}))
            .start();
        let healthy = "partnergate_upstream_endpoints{state=\"unhealthy\",upstream=\"api\"}";
        gate.await_metric(healthy, 1.0);
        let answer = call(&gate, get("/items/7"));
        refused(&gate, &answer, 503, "upstream-unavailable", "upstream-unavailable");
        std::fs::remove_file(&ill).unwrap();
        gate.await_metric(healthy, 0.0);
        call(&gate, get("/items/7")).expect(200);
    }
}

/// RFC 9440 section 2.4, RFC 9110 section 7.6.3.
#[test]
fn answers_name_the_request_and_the_gateway_and_hide_the_certificate_from_caches() {
    for (protocol, via) in [("h1", "1.1 partnergate"), ("h2", "2 partnergate")] {
        let gate = Setup::new().set("upstreams.api.protocol", protocol).start();
        for (vary, expected) in [
            ("Client-Cert", "*"),
            ("accept,%20client-cert", "*"),
            ("Accept-Encoding", "Accept-Encoding"),
            ("X-Client-Cert-Not", "X-Client-Cert-Not"),
        ] {
            let target = format!("/items/7?upstream_header=Vary:{vary}&upstream_header=X-Request-Id:forged");
            let answer = call(&gate, get(&target));
            assert_eq!(answer.expect(200).header("vary"), Some(expected), "{vary}");
            assert_eq!(answer.head.matches("forged").count(), 0, "{answer:?}");
            assert_eq!(answer.header("via"), Some(via), "{answer:?}");
            assert_eq!(gate.record_of(answer.id())["result"], "allow");
        }
    }
}

#[test]
fn fields_of_one_hop_stay_there() {
    let gate = Gate::start();
    let hops = "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nTE: trailers\r\n\
                Connection: close, TE\r\nTrailer: X-Late\r\nX-Kept: yes\r\n";
    let answer = call(
        &gate,
        format!(
            "GET /items/7?upstream_header=Keep-Alive:x&upstream_header=X-Hop:x&upstream_header=Connection:x-hop&upstream_header=X-Kept:yes HTTP/1.1\r\nHost: {HOST}\r\n{hops}\r\n"
        ),
    );
    let seen = answer.expect(200).json();
    for name in ["keep-alive", "proxy-connection", "proxy-authorization", "te", "connection", "upgrade"] {
        assert_eq!(received(&seen, name), [""; 0], "{name}: {seen}");
    }
    assert_eq!(received(&seen, "x-kept"), ["yes"]);
    assert_eq!(answer.header("x-kept"), Some("yes"));
    for name in ["keep-alive", "x-hop"] {
        assert_eq!(answer.header(name), None, "{name}: {answer:?}");
    }
}

#[test]
fn host_is_the_client_s_or_the_one_of_the_upstream() {
    for protocol in ["h1", "h2"] {
        let name = if protocol == "h1" { "host" } else { ":authority" };
        let gate = Setup::new().set("upstreams.api.protocol", protocol).start();
        let with_port = get("/items/7").replace(HOST, &format!("{}:8443", HOST.to_uppercase()));
        let seen = call(&gate, with_port).expect(200).json();
        assert_eq!(received(&seen, name), [HOST], "{protocol}: what was decided on: {seen}");
        let gate = Setup::new()
            .set("upstreams.api.protocol", protocol)
            .set("upstreams.api.host", "billing.internal:81")
            .start();
        for over_h2 in [false, true] {
            let seen = match over_h2 {
                false => call(&gate, get("/items/7")).expect(200).json(),
                true => block_on(async {
                    Http2::open(&gate.dial().identity(&gate.acme)).await.get("/items/7").await.expect(200).json()
                }),
            };
            assert_eq!(received(&seen, name), ["billing.internal:81"], "{protocol}: {seen}");
            assert_eq!(received(&seen, "x-forwarded-host"), [HOST], "{protocol}: {seen}");
        }
    }
}

#[test]
fn upstream_is_told_who_calls_from_where() {
    let gate = Setup::new().set("partner.listen", json!(["127.0.0.1:0", "[::1]:0"])).start();
    for (n, ip, node) in [(0, "127.0.0.1", "127.0.0.1"), (1, "::1", "[::1]")] {
        let mut conn = gate.dial().identity(&gate.acme).to(gate.addresses()[n]).open();
        let port = conn.source().port();
        let answer = conn.request(get("/items/7"));
        let seen = answer.expect(200).json();
        for (name, value) in [
            ("x-partner-id", "acme".to_owned()),
            ("x-partner-grant", "acme-items".to_owned()),
            ("x-request-id", answer.id().to_owned()),
            ("x-forwarded-for", ip.to_owned()),
            ("x-forwarded-host", HOST.to_owned()),
            ("x-forwarded-proto", "https".to_owned()),
            ("forwarded", format!("for=\"{node}:{port}\";host=\"{HOST}\";proto=https")),
            ("via", "1.1 partnergate".to_owned()),
        ] {
            assert_eq!(received(&seen, name), [value], "{name}: {seen}");
        }
    }
    let seen = block_on(async {
        let mut with_via = request("GET", "/items/7");
        with_via.headers_mut().insert("via", "1.1 partner-proxy".parse().unwrap());
        Http2::open(&gate.dial().identity(&gate.acme)).await.request(with_via, b"").await.expect(200).json()
    });
    assert_eq!(received(&seen, "via"), ["1.1 partner-proxy", "2 partnergate"], "{seen}");
}

/// RFC 9440 section 2: the DER of the leaf in base64 between colons, whatever else the client says.
#[test]
fn certificate_is_forwarded_byte_for_byte_where_the_route_says_so() {
    for protocol in ["h1", "h2"] {
        let setup = Setup::new().set("routes.api.client_cert", true).set("routes.api.xfcc", true);
        let gate = setup.set("upstreams.api.protocol", protocol).start();
        let expect = |who: &Identity, seen: &Value| {
            let der = data_encoding::BASE64.encode(who.leaf());
            assert_eq!(received(seen, "client-cert"), [format!(":{der}:")], "{protocol}: {seen}");
            let xfcc = format!(
                "Hash={};Subject=\"CN={},O=Tests\";URI=\"spiffe://{}.example/client\"",
                who.fingerprint(),
                who.name,
                who.name
            );
            assert_eq!(received(seen, "x-forwarded-client-cert"), [xfcc], "{protocol}: {seen}");
        };
        for who in [&gate.acme, &gate.globex] {
            let forged =
                get("/items").replace("\r\n\r\n", "\r\nClient-Cert: :AAAA:\r\nX-Forwarded-Client-Cert: x\r\n\r\n");
            expect(who, &gate.dial().identity(who).open().request(forged).expect(200).json());
        }
        // A resumed session carries no certificate on the wire; it is still the same one.
        let dial = gate.dial().identity(&gate.acme).resuming();
        dial.open().request(get("/items")).expect(200);
        let mut again = dial.open();
        let seen = again.request(get("/items")).expect(200).json();
        assert_eq!(again.state().handshake_kind(), Some(rustls::HandshakeKind::Resumed));
        expect(&gate.acme, &seen);
    }
}

/// W3C Trace Context.
#[test]
fn trace_is_continued_or_started() {
    let gate = Gate::start();
    let with = |parent: &str| {
        let lines = format!("\r\ntraceparent: {parent}\r\ntracestate: a=b\r\n\r\n");
        call(&gate, get("/items/7").replace("\r\n\r\n", &lines)).expect(200).json()
    };
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let seen = with(&format!("00-{trace}-00f067aa0ba902b7-01"));
    let parent = received(&seen, "traceparent").concat();
    assert!(parent.starts_with(&format!("00-{trace}-")) && parent.ends_with("-01"), "{parent}");
    assert!(!parent.contains("00f067aa0ba902b7") && parent.len() == 55, "a span of ours: {parent}");
    assert_eq!(received(&seen, "tracestate"), ["a=b"]);
    for bad in ["nonsense", "00-0-0-0", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"] {
        let seen = with(bad);
        let parent = received(&seen, "traceparent").concat();
        assert!(parent.len() == 55 && parent.starts_with("00-") && !parent.contains(trace), "{bad}: {parent}");
        assert_eq!(received(&seen, "tracestate"), [""; 0], "{bad}: the state of a trace that is not continued");
    }
    let seen = call(&gate, get("/items/7")).expect(200).json();
    assert_eq!(received(&seen, "traceparent").len(), 1);
}

#[test]
fn endpoints_may_be_names() {
    let setup = Setup::new();
    let port = setup.upstream.address().port();
    let gate = setup.set("upstreams.api.endpoints", json!([format!("localhost:{port}")])).start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for n in 0..4 {
        conn.request(get(&format!("/items/{n}"))).expect(200);
    }
}

#[test]
fn name_that_does_not_resolve_is_unavailable() {
    let gate = Setup::new().set("upstreams.api.endpoints", json!(["no-such-host.invalid:80"])).start();
    let answer = call(&gate, get("/items/7"));
    refused(&gate, &answer, 503, "upstream-unavailable", "upstream-unavailable");
    await_some("a word about it", || gate.log().contains("does not resolve").then_some(()));
}

/// Answers of every shape pass as they are.
#[test]
fn answers_pass_unchanged() {
    for protocol in ["h1", "h2"] {
        let gate = Setup::new().set("upstreams.api.protocol", protocol).start();
        let mut conn = gate.dial().identity(&gate.acme).open();
        for status in [200, 201, 204, 304, 404, 418, 500, 503] {
            let answer = conn.request(get(&format!("/items/7?upstream_status={status}")));
            answer.expect(status);
            assert_eq!(gate.record_of(answer.id())["result"], "allow", "an answer is an answer: {status}");
        }
        let large = conn.request(get("/items/7?upstream_body_bytes=3000000"));
        assert_eq!(large.expect(200).body.len(), 3_000_000);
        let streamed =
            conn.request(get("/items/7?upstream_body_bytes=300000&upstream_chunks=7&upstream_chunk_delay_ms=5"));
        assert_eq!(streamed.expect(200).body.len(), 300_000);
        let record = gate.record_of(large.id());
        assert_eq!(record["bytes_out"], 3_000_000, "{record}");
    }
}

/// Another protocol than WebSocket: where the operation names it, and only when the upstream answers with it.
#[test]
fn upgrade_is_to_the_protocol_that_the_operation_names() {
    let scripted = Scripted::start(|_, asked| {
        while asked.next() {
            let named = if asked.head.contains("/other") { "else/2" } else { "Echo/2" };
            asked.answer(&format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {named}\r\n\r\n"
            ));
            let mut piece = [0; 100];
            while let Ok(n @ 1..) = asked.stream.read(&mut piece) {
                asked.stream.write_all(&piece[..n]).unwrap();
            }
        }
    });
    let gate = Setup::new()
        .set("upstreams.api.endpoints", json!([scripted.address.to_string()]))
        .set("routes.api.operations.2.upgrade", "echo/2")
        .start();
    let ask = |target: &str, protocol: &str| {
        let mut conn = gate.dial().identity(&gate.acme).open();
        let head =
            format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n");
        let answer = conn.request(head);
        (conn, answer)
    };
    for (target, protocol) in
        [("/items", "echo/2"), ("/items/7", "echo"), ("/items/7", "websocket"), ("/events", "echo/2")]
    {
        let (_, answer) = ask(target, protocol);
        assert_eq!(answer.expect(403).code(), "not-permitted", "{target} {protocol}");
        assert_eq!(gate.record_of(answer.id())["reason"], "upgrade-not-allowed", "{target} {protocol}");
    }
    assert_eq!(scripted.asked(), 0);
    let (mut conn, answer) = ask("/items/7", "ECHO/2");
    assert_eq!(answer.expect(101).header("upgrade"), Some("Echo/2"));
    for message in ["one", "two"] {
        conn.send(message);
        assert_eq!(conn.take(3).unwrap(), message.as_bytes());
    }
    // Not what was asked for.
    let (_, answer) = ask("/items/other", "echo/2");
    answer.expect(502);
    // And it ends with the right to it.
    gate.apply(&gate.registry_text().replace("name: Acme GmbH", "name: Acme GmbH\n    state: suspended"));
    conn.assert_closed();
}
