//! The edge of the listener: threat 10 behind a listed proxy, and the bounds that hold before a client is a partner.

use crate::harness::http2::{Http2, block_on};
use crate::harness::{DEADLINE, Dial, Gate, HOST, Setup, await_some, count};
use rustls::AlertDescription as Alert;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Instant;

const GOOD: &str = "GET /items HTTP/1.1\r\nHost: api.partner.test\r\n\r\n";
/// The load balancer; tests come from 127.0.0.1 where they come directly.
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const FOUR: &str = "PROXY TCP4 198.51.100.7 10.0.0.1 54321 443\r\n";
const ADDRESSES: [u8; 12] = [198, 51, 100, 7, 10, 0, 0, 1, 0xd4, 0x31, 0x01, 0xbb];

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, family][..], &length, rest].concat()
}

fn v2_six(source: &str) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    v2(1, 0x21, &[&octets(source)[..], &octets("2001:db8:ffff::1"), &[0xd4, 0x31, 0x01, 0xbb]].concat())
}

/// A gateway behind [`PROXY`], with acme at home in its office.
fn behind_a_proxy() -> Setup {
    let setup = Setup::new().set("partner.proxy_protocol.from", json!(["127.0.0.2", "192.0.2.0/24"]));
    let registry = setup
        .registry_text()
        .replacen("networks:\n", "networks:\n  office: {cidrs: [198.51.100.0/24, \"2001:db8::/48\"]}\n", 1)
        .replacen("networks: [loopback]", "networks: [office]", 1);
    setup.registry(&registry)
}

fn through(gate: &Gate, header: &[u8]) -> Dial {
    gate.dial().from(PROXY).first(header).identity(&gate.acme)
}

fn outcome(gate: &Gate, outcome: &str) -> f64 {
    gate.metric(&format!("partnergate_handshakes_total{{outcome=\"{outcome}\"}}"))
}

/// Says `bytes`, and waits until the gateway has closed the connection. Returns what it said first, and our port.
#[track_caller]
fn closed_after(mut tcp: TcpStream, bytes: &[u8]) -> (Vec<u8>, u16) {
    let port = tcp.local_addr().unwrap().port();
    // The gateway may close before it has taken everything.
    let _ = tcp.write_all(bytes);
    let mut answer = Vec::new();
    let end = tcp.read_to_end(&mut answer);
    assert!(!end.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock), "left open");
    (answer, port)
}

#[test]
fn announced_source_is_judged_recorded_and_forwarded() {
    let gate = behind_a_proxy().start();
    let with_additions = [&ADDRESSES[..], b"\x02\0\x03abc", b"\x04\0\0", b"\xea\0\x01x"].concat();
    for (header, ip) in [
        (FOUR.as_bytes().to_vec(), "198.51.100.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8:ffff::1 54321 443\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:198.51.100.7 2001:db8:ffff::1 54321 443\r\n".to_vec(), "198.51.100.7"),
        (v2(1, 0x11, &ADDRESSES), "198.51.100.7"),
        (v2(1, 0x11, &with_additions), "198.51.100.7"),
        (v2_six("2001:db8::7"), "2001:db8::7"),
        (v2_six("::ffff:198.51.100.7"), "198.51.100.7"),
    ] {
        let answer = through(&gate, &header).open().request(GOOD);
        let shown = String::from_utf8_lossy(&header).into_owned();
        answer.expect(200);
        let source = gate.record_of(answer.id())["input"]["source"].clone();
        assert_eq!(source, json!({"ip": ip, "port": 54321, "networks": ["any", "office"]}), "{shown}");
        let request = gate.upstream.connections().pop().unwrap_or_default();
        let request = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let announced = SocketAddr::new(ip.parse().unwrap(), 54321);
        assert!(request.contains(&format!("forwarded: for=\"{announced}\"")), "{shown}: {request}");
        assert!(!request.contains("127.0.0.2"), "{shown}: {request}");
    }
    let over_h2 = block_on(async { Http2::open(&through(&gate, FOUR.as_bytes())).await.get("/items").await });
    assert_eq!(gate.record_of(over_h2.expect(200).id())["input"]["source"]["ip"], "198.51.100.7");

    for (header, ip) in [
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 54321 443\r\n".to_vec(), "203.0.113.9"),
        (v2_six("2001:db8:1::7"), "2001:db8:1::7"),
    ] {
        let answer = through(&gate, &header).open().request(GOOD);
        assert_eq!(answer.expect(403).code(), "source-not-permitted");
        let record = gate.record_of(answer.id());
        assert_eq!((&record["reason"], &record["input"]["source"]["ip"]), (&json!("network-not-allowed"), &json!(ip)));
    }
    let directly = gate.dial().identity(&gate.acme).open().request(GOOD);
    directly.expect(403);
    assert_eq!(gate.record_of(directly.id())["input"]["source"]["ip"], "127.0.0.1");
}

#[test]
fn proxy_that_connects_on_its_own_behalf_keeps_its_own_address() {
    let gate = behind_a_proxy().start();
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 198.51.100.7 10.0.0.1 54321 443\r\n".to_vec(),
        v2(0, 0, &[]),
        v2(0, 0x11, &ADDRESSES),
    ] {
        let mut conn = through(&gate, &header).open();
        let port = conn.source().port();
        let answer = conn.request(GOOD);
        answer.expect(403);
        let source = gate.record_of(answer.id())["input"]["source"].clone();
        assert_eq!(source, json!({"ip": "127.0.0.2", "port": port, "networks": ["any"]}));
    }
}

/// Threat 10.
#[test]
fn header_of_a_listed_proxy_that_is_not_clear_closes_the_connection() {
    let gate = behind_a_proxy().start();
    let mut other_version = v2(1, 0x11, &ADDRESSES);
    other_version[12] = 0x31;
    let mut hello = Vec::new();
    gate.dial().identity(&gate.acme).state().write_tls(&mut hello).unwrap();
    let lying = [&ADDRESSES[..], b"\x02\0\xffabc"].concat();
    let headers: Vec<(&str, Vec<u8>, &str)> = vec![
        ("none", Vec::new(), "sent no PROXY header"),
        ("plain HTTP", GOOD.into(), "sent no PROXY header"),
        ("port too high", b"PROXY TCP4 198.51.100.7 10.0.0.1 65536 443\r\n".to_vec(), "malformed"),
        ("address of the other family", b"PROXY TCP4 2001:db8::7 2001:db8::1 54321 443\r\n".to_vec(), "malformed"),
        ("no end", [b"PROXY TCP4 198.51.100.7 ".to_vec(), vec![b'1'; 4000]].concat(), "larger than 107 bytes"),
        ("version 3", other_version, "malformed"),
        ("unknown command", v2(2, 0x11, &ADDRESSES), "malformed"),
        ("unknown family", v2(1, 0x41, &ADDRESSES), "malformed"),
        ("too short for its addresses", v2(1, 0x21, &ADDRESSES), "malformed"),
        ("an addition that lies", v2(1, 0x11, &lying), "malformed"),
        ("oversized", v2(1, 0x11, &[7; 60_000]), "larger than 4112 bytes"),
        ("UDP", v2(1, 0x12, &ADDRESSES), "no TCP connection"),
        ("unix socket", v2(1, 0x31, &[b'/'; 216]), "no TCP connection"),
        ("no address", v2(1, 0, &[]), "no TCP connection"),
        ("twice", FOUR.repeat(2).into(), "handshake-protocol"),
    ];
    for (name, header, detail) in &headers {
        let (answer, port) = closed_after(gate.dial().from(PROXY).tcp(), &[&header[..], &hello].concat());
        if *detail == "handshake-protocol" {
            // One header was good, and the other is no TLS.
            let record = gate.await_record(name, |r| r["reason"] == *detail);
            assert_eq!(record["input"]["source"]["ip"], "198.51.100.7", "{name}: {record}");
            continue;
        }
        assert_eq!(answer, b"", "{name}: not even an alert, since nothing of TLS has been read");
        let record = gate.await_record(name, |r| r["input"]["source"]["port"] == port);
        assert_eq!((&record["kind"], &record["result"]), (&json!("handshake"), &json!("deny")), "{name}: {record}");
        assert_eq!(record["reason"], "proxy-header-invalid", "{name}: {record}");
        assert!(record["detail"].as_str().unwrap().contains(detail), "{name}: {record}");
        assert_eq!(record["input"]["source"]["ip"], "127.0.0.2", "{name}: {record}");
    }
    let truncated = gate.dial().from(PROXY).tcp();
    truncated.shutdown(std::net::Shutdown::Write).unwrap();
    closed_after(truncated, b"");
    gate.await_record("a peer that leaves without a word", |r| r["reason"] == "handshake-aborted");
    for header in [&FOUR.as_bytes()[..20], &v2(1, 0x11, &ADDRESSES)[..20], b"P", b"\r"] {
        let mut tcp = gate.dial().from(PROXY).tcp();
        tcp.write_all(header).unwrap();
        tcp.shutdown(std::net::Shutdown::Write).unwrap();
        let (_, port) = closed_after(tcp, b"");
        let record = gate.await_record("a truncated header", |r| r["input"]["source"]["port"] == port);
        assert_eq!(record["reason"], "proxy-header-invalid", "{record}");
        assert!(record["detail"].as_str().unwrap().contains("ended within"), "{record}");
    }
    assert_eq!(outcome(&gate, "proxy-header-invalid"), (headers.len() - 1 + 4) as f64);
    assert_eq!(gate.settle().len(), headers.len() + 1 + 4);
    assert_eq!(gate.metric("partnergate_panics_total"), 0.0);
    gate.upstream.assert_untouched();
    through(&gate, FOUR.as_bytes()).open().request(GOOD).expect(200);
}

/// Threat 10: only who is listed is believed, not who says so.
#[test]
fn header_of_a_peer_that_is_not_listed_is_no_tls() {
    let gate = behind_a_proxy().start();
    for header in [FOUR.as_bytes().to_vec(), v2(1, 0x11, &ADDRESSES), v2(0, 0, &[])] {
        let mut hello = Vec::new();
        gate.dial().identity(&gate.acme).state().write_tls(&mut hello).unwrap();
        let (answer, port) = closed_after(gate.dial().tcp(), &[&header[..], &hello].concat());
        assert!(answer.first().is_none_or(|kind| *kind == 21), "at most an alert: {answer:?}");
        let record = gate.await_record("the refusal", |r| r["input"]["source"]["port"] == port);
        assert_eq!(record["reason"], "handshake-protocol", "{record}");
        assert_eq!(record["input"]["source"]["ip"], "127.0.0.1", "{record}");
    }
    assert_eq!(outcome(&gate, "handshake-protocol"), 3.0);
    assert!(!gate.records_text().contains("198.51.100.7"));
    gate.upstream.assert_untouched();
}

#[test]
fn header_and_hello_in_single_bytes_are_served() {
    let gate = behind_a_proxy().start();
    for header in [FOUR.as_bytes().to_vec(), v2(1, 0x11, &ADDRESSES)] {
        let dial = gate.dial().from(PROXY).identity(&gate.acme);
        let (mut state, mut tcp) = (dial.state(), dial.tcp());
        let mut bytes = header;
        state.write_tls(&mut bytes).unwrap();
        for byte in bytes {
            tcp.write_all(&[byte]).unwrap();
        }
        let mut stream = rustls::StreamOwned::new(state, tcp);
        stream.write_all(GOOD.as_bytes()).unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    }
}

#[test]
fn header_that_never_ends_is_ended_at_the_deadline() {
    let gate = behind_a_proxy().set("partner.timeouts.handshake", "500ms").start();
    for first in [&b""[..], b"PROXY TCP4 198.51.100.7 ", &v2(1, 0x11, &ADDRESSES)[..20]] {
        let began = Instant::now();
        let (answer, port) = closed_after(gate.dial().from(PROXY).tcp(), first);
        assert_eq!(answer, b"");
        assert!(began.elapsed() < DEADLINE);
        let record = gate.await_record("the refusal", |r| r["input"]["source"]["port"] == port);
        assert_eq!(record["reason"], "handshake-timeout", "{record}");
        assert!(record["detail"].as_str().unwrap().contains("PROXY header"), "{record}");
        assert_eq!(record["input"]["source"]["ip"], "127.0.0.2", "{record}");
    }
}

/// Whose certificate it was and where it came from, and through which of several proxies.
#[test]
fn refused_handshake_through_a_proxy_is_recorded_with_both_addresses() {
    let gate = behind_a_proxy().start();
    let who = gate.pki.self_signed("nobody", |_| {});
    let dial = gate.dial().from(PROXY).first(FOUR.as_bytes()).identity(&who);
    assert_eq!(dial.refused(), Some(Alert::UnknownCA));
    let record = gate.await_record("the refusal", |r| r["kind"] == "handshake");
    assert_eq!(record["input"]["source"], json!({"ip": "198.51.100.7", "port": 54321}), "{record}");
    assert!(record["detail"].as_str().unwrap().contains("(through 127.0.0.2:"), "{record}");
    assert_eq!(record["input"]["credential"]["fingerprint_sha256"], who.fingerprint(), "{record}");
}

#[test]
fn list_of_proxies_follows_a_reload() {
    let gate = Setup::new().start();
    let header = b"PROXY TCP4 127.0.0.1 10.0.0.1 54321 443\r\n";
    let dial = || gate.dial().from(PROXY).identity(&gate.acme);
    dial().first(header).refused();
    let mut config = gate.config().clone();
    config["partner"]["proxy_protocol"] = json!({"from": ["127.0.0.2/32"]});
    std::fs::write(gate.config_file(), config.to_string()).unwrap();
    gate.reload();
    let answer = dial().first(header).open().request(GOOD);
    assert_eq!(gate.record_of(answer.expect(200).id())["input"]["source"]["port"], 54321);
    // A change of the registry takes nothing away from it.
    gate.apply(&gate.registry_text().replace("name: Acme GmbH", "name: Acme AG"));
    dial().first(header).open().request(GOOD).expect(200);
    dial().refused();
    gate.await_record("the refusal", |r| r["reason"] == "proxy-header-invalid");
}

/// RFC 8446 names, and which way they went; that what is said to be sent is what arrives, `handshake.rs` tests for
/// every refusal.
#[test]
fn alert_that_a_client_sends_is_recorded() {
    let gate = Gate::start();
    let unknown = gate.pki.authority("unknown-ca");
    let arguments = ["-ign_eof", "-verify_return_error", "-CAfile", unknown.pem_file.to_str().unwrap()];
    gate.s_client(Some(&gate.acme), &arguments, b"");
    let record = gate.await_record("the refusal", |r| r["kind"] == "handshake");
    assert_eq!(record["alert"], json!({"received": "unknown_ca"}), "{record}");
    assert_eq!(record["reason"], "handshake-aborted", "{record}");
}

/// A flood of refused handshakes writes a bounded number of records, and no evidence is lost without being counted.
#[test]
fn records_of_refused_handshakes_are_bounded_in_rate_and_say_what_is_missing() {
    let gate = Setup::new().set("record.handshakes_per_second", 1).start();
    let began = Instant::now();
    for _ in 0..300 {
        closed_after(gate.dial().tcp(), GOOD.as_bytes());
    }
    let most = 10 + began.elapsed().as_secs() as usize + 2;
    await_some("the whole count in the records", || {
        let mut told = 0;
        for r in gate.records() {
            assert!(r["kind"] == "handshake" || (r["kind"] == "suppressed" && r["of"] == "handshake"), "{r}");
            told += u64::from(r["kind"] == "handshake") + r["suppressed"].as_u64().unwrap_or(0);
        }
        (told == 300).then_some(())
    });
    let written = count(&gate.records(), |r| r["kind"] == "handshake");
    assert!((10..=most).contains(&written), "{written} records");
    let suppressed = gate.metric("partnergate_handshake_records_suppressed_total{kind=\"handshake\"}");
    assert_eq!(suppressed as usize, 300 - written);
    assert_eq!(outcome(&gate, "handshake-protocol"), 300.0, "outcomes stay exact");
    assert_eq!(gate.metric("partnergate_records_lost_total"), 0.0);
    // What strangers do hides nothing that partners do.
    gate.dial().identity(&gate.acme).open().request("GET /items HTTP/1.1\nHost: x\n\n").expect(400);
    gate.await_record("a malformed request", |r| r["kind"] == "malformed");
    gate.dial().identity(&gate.acme).open().request(GOOD).expect(200);
}

#[test]
fn records_of_malformed_requests_are_bounded_as_well() {
    let gate = Setup::new().set("record.handshakes_per_second", 1).start();
    for _ in 0..100 {
        gate.dial().identity(&gate.acme).open().request("GET /items HTTP/1.1\nHost: x\n\n").expect(400);
    }
    await_some("the whole count in the records", || {
        let of = |r: &Value| u64::from(r["kind"] == "malformed") + r["suppressed"].as_u64().unwrap_or(0);
        let told: u64 = gate.records().iter().map(of).sum();
        (told == 100).then_some(())
    });
    assert_eq!(gate.metric("partnergate_malformed_total{reason=\"head-malformed\"}"), 100.0);
    assert!(gate.metric("partnergate_handshake_records_suppressed_total{kind=\"malformed\"}") > 0.0);
}

#[test]
fn handshakes_of_one_source_are_bounded_in_rate_and_others_are_served() {
    let gate = behind_a_proxy().set("partner.limits.handshakes_per_source", 5).start();
    let elsewhere = IpAddr::from([127, 0, 0, 3]);
    for (name, ip) in [("directly", "127.0.0.3"), ("announced", "2001:db8:0:1::")] {
        let open = |n: usize| match name {
            "directly" => gate.dial().from(elsewhere).tcp(),
            // Each from another address of one /64.
            _ => gate.dial().from(PROXY).first(&v2_six(&format!("2001:db8:0:1::{n:x}"))).tcp(),
        };
        let held: Vec<TcpStream> = (1..=200).map(open).collect();
        let through = through(&gate, FOUR.as_bytes());
        through.open().request(GOOD).expect(200);
        let refused = |r: &Value| {
            r["reason"] == "handshake-rate" && r["input"]["source"]["ip"].as_str().is_some_and(|i| i.starts_with(ip))
        };
        // At most five in each second that this has taken.
        await_some(name, || (count(&gate.records(), refused) >= 100).then_some(()));
        drop(held);
    }
    await_some("all are counted", || {
        let records = count(&gate.records(), |r| r["reason"] == "handshake-rate");
        (outcome(&gate, "handshake-rate") == records as f64).then_some(())
    });
}

#[test]
fn connections_of_one_partner_are_capped_and_others_are_served() {
    let gate = Setup::new().set("partner.limits.connections_per_partner", 2).start();
    let acme = || gate.dial().identity(&gate.acme);
    let mut held = [acme().open(), acme().alpn(&["http/1.1"]).tls12().open()];
    for conn in &mut held {
        conn.request(GOOD).expect(200);
    }
    for dial in [acme(), acme().tls12(), acme().alpn(&["h2"])] {
        let mut conn = dial.open();
        let port = conn.source().port();
        // It may have been closed already.
        let _ = conn.try_send(GOOD);
        conn.assert_closed();
        let record = gate.await_record("the refusal", |r| r["input"]["source"]["port"] == port);
        assert_eq!((&record["kind"], &record["result"]), (&json!("handshake"), &json!("deny")), "{record}");
        assert_eq!(record["reason"], "partner-connection-limit", "{record}");
        assert_eq!(record["alert"], json!({"sent": "close_notify"}), "{record}");
        assert_eq!(record["input"]["tls"]["sni"], HOST, "{record}");
        assert_eq!(record["input"]["credential"]["fingerprint_sha256"], gate.acme.fingerprint(), "{record}");
        assert!(record["detail"].as_str().unwrap().contains("`acme`"), "{record}");
    }
    assert_eq!(outcome(&gate, "partner-connection-limit"), 3.0);
    for conn in &mut held {
        conn.request(GOOD).expect(200);
    }
    assert_eq!(gate.metric("partnergate_partner_open_connections{partner=\"acme\"}"), 2.0);
    gate.dial().identity(&gate.globex).open().request(GOOD).expect(200);
    // Identities that nobody knows have one share together.
    let strangers: Vec<_> = (0..2).map(|n| gate.pki.client(&gate.acme_ca, &format!("stranger-{n}"), |_| {})).collect();
    let mut unknown: Vec<_> = strangers.iter().map(|who| gate.dial().identity(who).open()).collect();
    for conn in &mut unknown {
        conn.request(GOOD).expect(403);
    }
    gate.dial().identity(&strangers[0]).open().assert_closed();
    assert_eq!(gate.metric("partnergate_partner_open_connections{partner=\"unknown\"}"), 2.0);
    drop(held);
    gate.await_metric("partnergate_open_connections{protocol=\"http/1.1\"}", 2.0);
    gate.await_metric("partnergate_partner_open_connections{partner=\"acme\"}", 0.0);
    acme().open().request(GOOD).expect(200);
}
