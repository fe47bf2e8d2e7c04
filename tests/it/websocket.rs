//! WebSockets: where an operation says so, and nowhere else; with an end of their own and a record at it.

use crate::harness::{Gate, HOST, Setup, TlsConn, await_some, count, python, run};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What RFC 6455 section 1.3 says belongs to the key.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub fn handshake(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// A text frame as a client sends it, masked with zeros.
pub fn text(message: &str) -> Vec<u8> {
    [&[0x81, 0x80 | u8::try_from(message.len()).unwrap(), 0, 0, 0, 0], message.as_bytes()].concat()
}

/// The next frame that the server sends: opcode and payload.
pub fn frame(conn: &mut TlsConn) -> (u8, Vec<u8>) {
    let head = conn.take(2).unwrap();
    let length = match head[1] {
        126 => u16::from_be_bytes(conn.take(2).unwrap().try_into().unwrap()).into(),
        n => usize::from(n),
    };
    (head[0] & 15, conn.take(length).unwrap())
}

#[track_caller]
pub fn open(gate: &Gate) -> TlsConn {
    let mut conn = gate.dial().identity(&gate.acme).open();
    let answer = conn.request(handshake("/events"));
    answer.expect(101);
    assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT), "{answer:?}");
    conn
}

#[track_caller]
pub fn echoes(conn: &mut TlsConn, message: &str) {
    conn.send(text(message));
    assert_eq!(frame(conn), (1, message.as_bytes().to_vec()));
}

fn record(gate: &Gate) -> Value {
    gate.await_record("the WebSocket's", |r| {
        r["kind"] == "request" && r["input"]["request"]["operation"] == "items.events"
    })
}

#[test]
fn python_websockets_client_is_echoed() {
    let Some(python) = python(&["websockets"]) else { return };
    let script = r#"
import asyncio, ssl, sys, websockets
port, ca, cert, key = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert, key)
async def main():
    url = "wss://api.partner.test/events"
    async with websockets.connect(url, ssl=context, host="127.0.0.1", port=int(port), proxy=None) as socket:
        for message in ["one", b"two", "x" * 60000]:
            await socket.send(message)
            assert await socket.recv() == message
        await (await socket.ping())
    print("closed", socket.close_code)
asyncio.run(main())
"#;
    let gate = Gate::start();
    let mut command = Command::new(python);
    command.args(["-c", script, &gate.address().port().to_string()]).arg(&gate.server_ca.pem_file);
    command.arg(&gate.acme.chain_file).arg(&gate.acme.key_file);
    assert_eq!(run(&mut command, b"").ok().trim(), "closed 1000");
    let record = record(&gate);
    assert_eq!((&record["result"], &record["status"]), (&"allow".into(), &101.into()), "{record}");
    for bytes in ["bytes_in", "bytes_out"] {
        assert!(record[bytes].as_u64().is_some_and(|n| (60_000..61_000).contains(&n)), "{bytes}: {record}");
    }
    // One when it was opened, and one at its end.
    let kinds: Vec<Value> = gate.settle().iter().map(|r| r["kind"].clone()).collect();
    assert_eq!(kinds, ["stream-open", "request"]);
}

#[test]
fn upstream_receives_the_handshake_with_our_fields_and_not_the_client_s() {
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    let forged = "X-Partner-Id: forged\r\nX-Forwarded-For: forged\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
    conn.request(handshake("/events").replace("\r\n\r\n", &format!("\r\n{forged}"))).expect(101);
    echoes(&mut conn, "hello");
    let text = gate.upstream.text();
    let head = text.split("\r\n\r\n").next().unwrap().to_ascii_lowercase();
    for field in [
        "connection: upgrade",
        "upgrade: websocket",
        "x-partner-id: acme",
        "sec-websocket-protocol: chat",
        "sec-websocket-version: 13",
    ] {
        assert_eq!(head.matches(&format!("\r\n{field}")).count(), 1, "{field}: {head}");
    }
    assert!(!head.contains("forged"), "{head}");
}

/// Threat 15.
#[test]
fn upgrade_is_refused_where_the_operation_has_none() {
    let gate = Gate::start();
    for target in ["/items", "/items/7"] {
        let mut conn = gate.dial().identity(&gate.acme).open();
        let answer = conn.request(handshake(target));
        assert_eq!(answer.expect(403).code(), "not-permitted");
        assert_eq!(gate.record_of(answer.id())["reason"], "upgrade-not-allowed", "{target}");
    }
    // Not granted is not granted, upgrade or no.
    let answer = gate.dial().identity(&gate.globex).open().request(handshake("/events"));
    answer.expect(403);
    assert_eq!(gate.record_of(answer.id())["reason"], "operation-not-granted");
    gate.upstream.assert_untouched();
}

/// Threat 15.
#[test]
fn other_upgrades_are_refused_everywhere() {
    let gate = Gate::start();
    for (token, more) in [
        ("h2c", "HTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
        ("h2c", ""),
        ("TLS/1.0", ""),
        ("websocket, h2c", ""),
        ("connect-udp", ""),
        ("websocketx", ""),
    ] {
        let request = handshake("/events").replace("Upgrade: websocket\r\n", &format!("Upgrade: {token}\r\n{more}"));
        let mut conn = gate.dial().identity(&gate.acme).open();
        let answer = conn.request(request);
        assert!(matches!(answer.status, 400 | 403), "{token}: {answer:?}");
        let record = gate.record_of(answer.id());
        assert_eq!(record["result"], "deny", "{token}: {record}");
    }
    gate.upstream.assert_untouched();
}

/// Without the request for it, there is no upgrade.
#[test]
fn request_without_an_upgrade_does_not_become_one() {
    let gate = Gate::start();
    for broken in [
        handshake("/events").replace("Connection: Upgrade\r\n", ""),
        handshake("/events").replace("Upgrade: websocket\r\n", ""),
        handshake("/events").replace("GET", "POST"),
        handshake("/events").replace("HTTP/1.1", "HTTP/1.0"),
    ] {
        let mut conn = gate.dial().identity(&gate.acme).open();
        conn.send(&broken);
        let answer = conn.response();
        assert_ne!(answer.status, 101, "{broken}\n{answer:?}");
        assert!(!gate.upstream.text().to_ascii_lowercase().contains("upgrade: websocket"), "{broken}");
    }
}

/// Threat 12: what is sent behind the request, before there is an answer, is nobody's to interpret.
#[test]
fn bytes_behind_an_upgrade_request_are_refused() {
    let gate = Gate::start();
    for behind in [text("early"), format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into_bytes()] {
        let mut conn = gate.dial().identity(&gate.acme).open();
        conn.send([handshake("/events").as_bytes(), &behind].concat());
        let answer = conn.response();
        assert_eq!(answer.expect(400).code(), "bad-request");
        conn.assert_closed();
    }
    gate.upstream.assert_untouched();
}

#[test]
fn silent_connection_is_closed_and_recorded() {
    let gate = Setup::new().set("routes.api.stream_idle", "500ms").start();
    let mut conn = open(&gate);
    echoes(&mut conn, "hello");
    let began = Instant::now();
    while conn.more().is_ok() {}
    assert!(began.elapsed() >= Duration::from_millis(400) && began.elapsed() < Duration::from_secs(5));
    let record = record(&gate);
    assert_eq!((&record["result"], &record["reason"]), (&"error".into(), &"stream-idle".into()), "{record}");
    assert_eq!((&record["bytes_in"], &record["status"]), (&11.into(), &101.into()), "{record}");
    gate.await_metric("partnergate_open_requests", 0.0);
    assert_eq!(gate.metric("partnergate_upstream_failures_total{reason=\"stream-idle\",upstream=\"api\"}"), 0.0);
}

/// Active for much longer than the idle time, than a body may be silent, and than the deadlines of the upstream.
#[test]
fn active_connection_stays_open() {
    let gate = Setup::new()
        .set("routes.api.stream_idle", "1s")
        .set("partner.timeouts.body_progress", "300ms")
        .set("partner.timeouts.idle", "300ms")
        .set("partner.timeouts.head", "300ms")
        .set("upstreams.api.timeouts.read", "300ms")
        .set("request.min_body_rate", 1_000_000)
        .start();
    let mut conn = open(&gate);
    for n in 0..6 {
        assert!(conn.is_silent(Duration::from_millis(400)), "closed after {n}");
        echoes(&mut conn, &format!("message {n}"));
    }
    drop(conn);
    assert_eq!(record(&gate)["status"], 101);
}

/// A WebSocket is no request body: it has no size and no pace.
#[test]
fn limits_of_request_bodies_are_not_those_of_a_connection() {
    let gate = Setup::new().set("routes.api.max_body", "1KiB").start();
    let mut conn = open(&gate);
    for n in 0..40 {
        echoes(&mut conn, &format!("{n:0100}"));
    }
    conn.send([0x88, 0x82, 0, 0, 0, 0, 3, 232]);
    while conn.more().is_ok() {}
    let record = record(&gate);
    assert_eq!((&record["result"], &record["bytes_in"]), (&"allow".into(), &(40 * 106 + 8).into()), "{record}");
}

#[test]
fn end_of_a_connection_is_recorded_whoever_ends_it() {
    let gate = Gate::start();
    // The server answers a close with one, and ends the connection.
    let mut conn = open(&gate);
    conn.send([0x88, 0x82, 0, 0, 0, 0, 3, 232]);
    assert_eq!(frame(&mut conn), (8, vec![3, 232]));
    conn.assert_closed();
    assert_eq!(record(&gate)["result"], "allow");
    // The client is gone without a word.
    let conn = open(&gate);
    let _ = conn.tcp().shutdown(std::net::Shutdown::Both);
    drop(conn);
    // The upstream is.
    let mut last = open(&gate);
    echoes(&mut last, "hello");
    gate.await_metric("partnergate_open_requests", 1.0);
    gate.upstream.process.signal("KILL");
    while last.more().is_ok() {}
    gate.await_metric("partnergate_open_requests", 0.0);
    let records = gate.settle();
    let sockets: Vec<&Value> = records
        .iter()
        .filter(|r| r["kind"] == "request" && r["input"]["request"]["operation"] == "items.events")
        .collect();
    assert_eq!(sockets.len(), 3, "{records:#?}");
    assert!(sockets.iter().all(|r| r["status"] == 101), "{sockets:#?}");
}

/// Whatever follows on the wire after an upgrade belongs to the WebSocket, whether it looks like HTTP or not.
#[test]
fn request_after_an_upgrade_is_no_request() {
    let gate = Gate::start();
    let mut conn = open(&gate);
    let _ = conn.try_send(format!("GET /items/smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let mut answers = Vec::new();
    while let Ok(bytes) = conn.take(1) {
        answers.extend(bytes);
    }
    assert!(!String::from_utf8_lossy(&answers).contains("HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answers));
    let records = gate.settle();
    assert_eq!(count(&records, |r| r["kind"] == "request"), 1, "one request, one record: {records:#?}");
}

/// An upstream that answers the handshake with a page has not upgraded anything, and the connection goes on as HTTP.
#[test]
fn upgrade_that_the_upstream_declines_is_an_ordinary_answer() {
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for status in [200, 404, 426] {
        conn.request(handshake(&format!("/events?upstream_status={status}"))).expect(status);
    }
    conn.request(format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).expect(200);
    let records = gate.settle();
    assert_eq!(count(&records, |r| r["result"] == "allow"), 4, "{records:#?}");
}

#[test]
fn drain_ends_when_the_last_connection_does() {
    let mut gate = Setup::new().set("drain.grace", "20s").start();
    let mut conn = open(&gate);
    gate.signal("TERM");
    await_some("the end of the listener", || std::net::TcpStream::connect(gate.address()).is_err().then_some(()));
    echoes(&mut conn, "still here");
    let began = Instant::now();
    conn.send([0x88, 0x82, 0, 0, 0, 0, 3, 232]);
    while conn.more().is_ok() {}
    assert!(gate.process.ended().success());
    assert!(began.elapsed() < Duration::from_secs(8), "it waited for the grace period");
}

/// The upstream answers at once, and the gateway must not take the end of the (empty) request for the stream's.
#[test]
fn connection_is_still_there_after_it_was_opened_however_quick_the_upstream_is() {
    let gate = Gate::start();
    let batches: Vec<Vec<TlsConn>> = std::thread::scope(|s| {
        let open = || (0..40).map(|_| open(&gate)).collect();
        let workers: Vec<_> = (0..4).map(|_| s.spawn(open)).collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    for mut conn in batches.into_iter().flatten() {
        echoes(&mut conn, "still there");
    }
}
