//! What is written down: threats 24 to 27, one record for each request whatever becomes of it, and its form.

use crate::harness::http2::{Http2, block_on, request, whole};
use crate::harness::{DEADLINE, Gate, HOST, Setup, await_some, count};
use serde_json::Value;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::time::Instant;

const GOOD: &str = "GET /items HTTP/1.1\r\nHost: api.partner.test\r\n\r\n";

fn get(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n")
}

/// Threat 24.
#[test]
fn metric_labels_never_come_from_a_request() {
    let gate = Gate::start();
    let before: HashSet<String> = series(&gate);
    for n in 0..20 {
        let mut conn = gate.dial().identity(&gate.acme).open();
        conn.request(get(&format!("/evil-path-{n}?evil-query-{n}=1"), &format!("X-Evil-{n}: evil-value-{n}\r\n")));
        conn.request(format!("EVIL{n} /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        let mut conn = gate.dial().identity(&gate.acme).open();
        conn.request(format!("GET /items HTTP/1.1\r\nHost: evil-host-{n}.test\r\n\r\n"));
        let _ = gate.dial().sni(Some(&format!("evil-name-{n}.test"))).identity(&gate.acme).refused();
        let unknown = gate.pki.client(&gate.acme_ca, &format!("evil-subject-{n}"), |_| {});
        gate.dial().identity(&unknown).open().request(GOOD).expect(403);
    }
    gate.settle();
    let metrics = gate.metrics().to_ascii_lowercase();
    assert!(!metrics.contains("evil"), "{metrics}");
    // What appeared are outcomes and reasons; another twenty of each would add nothing.
    let new = series(&gate).difference(&before).count();
    assert!(new < 60, "{new} new series\n{metrics}");
}

fn series(gate: &Gate) -> HashSet<String> {
    let metrics = gate.metrics();
    metrics.lines().filter(|l| !l.starts_with('#')).filter_map(|l| Some(l.rsplit_once(' ')?.0.to_owned())).collect()
}

/// Threat 24: with more partners than series, the rest is `other`.
#[test]
fn partners_over_the_bound_are_counted_together() {
    let setup = Setup::new();
    let mut registry = "environment: test\nanchors:\n".to_owned();
    let names: Vec<String> = (0..14).map(|n| format!("partner-{n:02}")).collect();
    let _ = std::fmt::Write::write_fmt(
        &mut registry,
        format_args!("  acme-ca: {{certificate: acme-ca.pem, partners: [{}]}}\npartners:\n", names.join(", ")),
    );
    for name in &names {
        registry += &format!(
            "  {name}:\n    name: {name}\n    owner: team\n    engagement: {{starts: 2020-01-01T00:00:00Z, ends: \
             2100-01-01T00:00:00Z}}\n    networks: [any]\n    credentials:\n      {name}: {{anchor: acme-ca, match: \
             {{uri: \"spiffe://{name}.example/x\"}}}}\n"
        );
    }
    let gate = setup.set("metrics.max_series", 10).registry(&registry).start();
    for name in &names {
        let who = gate.pki.client(&gate.acme_ca, name, |p| {
            p.subject_alt_names = vec![rcgen::SanType::URI(format!("spiffe://{name}.example/x").try_into().unwrap())];
        });
        gate.dial().identity(&who).open().request(GOOD).expect(403);
    }
    await_some("all requests counted", || {
        let metrics = gate.metrics();
        let counts = metrics.lines().filter(|l| l.starts_with("partnergate_requests_total{outcome=\"denied\""));
        let sum: f64 = counts.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok()).sum();
        (sum == 14.0).then_some(())
    });
    let labels = gate.metrics().matches("partnergate_requests_total{outcome=\"denied\",partner=\"partner-").count();
    assert!(labels <= 10, "{labels} partners have a series of their own");
    assert!(gate.metric("partnergate_requests_total{outcome=\"denied\",partner=\"other\"}") >= 4.0);
    assert!(gate.metric("partnergate_metrics_series_folded_total") >= 4.0);
}

/// Threat 24: pairs are counted only where the config asks for them, of configured ids only, and within the same bound.
#[test]
fn pairs_of_partner_and_operation_are_counted_where_asked_for_and_within_the_bound() {
    const PAIRS: &str = "partnergate_partner_operation_requests_total";
    let ask = |gate: &Gate| {
        for (who, target) in
            [(&gate.acme, "/items"), (&gate.acme, "/items/7"), (&gate.globex, "/items/7"), (&gate.acme, "/evil-path")]
        {
            gate.dial().identity(who).open().request(get(target, ""));
        }
        gate.settle();
    };
    let quiet = Gate::start();
    ask(&quiet);
    assert!(!quiet.metrics().contains(&format!("{PAIRS}{{")), "{}", quiet.metrics());

    let gate = Setup::new().set("metrics.partner_operation", true).start();
    ask(&gate);
    for (operation, outcome, partner) in [
        ("items.list", "allowed", "acme"),
        ("items.read", "allowed", "acme"),
        ("items.read", "denied", "globex"),
        ("other", "denied", "acme"),
    ] {
        let series = format!("{PAIRS}{{operation=\"{operation}\",outcome=\"{outcome}\",partner=\"{partner}\"}}");
        assert!(gate.metric(&series) >= 1.0, "{series}\n{}", gate.metrics());
    }
    assert!(!gate.metrics().contains("evil"), "{}", gate.metrics());

    let mut operations = quiet.config()["routes"]["api"]["operations"].clone();
    for n in 0..15 {
        let one = serde_json::json!({"id": format!("many.op-{n}"), "method": "GET", "path": format!("/many/{n}")});
        operations.as_array_mut().unwrap().push(one);
    }
    let registry = quiet.registry_text().replace("pairs.read], ends", "\"many.*\"], ends");
    let gate = Setup::new()
        .set("routes.api.operations", operations)
        .set("metrics.partner_operation", true)
        .set("metrics.max_series", 10)
        .registry(&registry)
        .start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for n in 0..15 {
        conn.request(get(&format!("/many/{n}"), "")).expect(200);
    }
    gate.settle();
    let metrics = gate.metrics();
    assert!(metrics.matches(&format!("{PAIRS}{{operation=\"many.")).count() <= 10, "{metrics}");
    let rest = format!("{PAIRS}{{operation=\"other\",outcome=\"allowed\",partner=\"other\"}}");
    assert!(gate.metric(&rest) >= 5.0, "{metrics}");
    let times = metrics.lines().filter(|l| l.starts_with("partnergate_request_duration_seconds_count{")).count();
    assert!(times <= 11, "operations have the same bound: {metrics}");
    assert!(gate.metric("partnergate_metrics_series_folded_total") >= 5.0);
}

/// Threat 25: whatever a client sends, it is one line of JSON, and a terminal that shows it obeys nobody.
#[test]
fn nothing_of_a_client_breaks_a_line_or_moves_a_cursor() {
    let setup = Setup::new().set("policy.headers", serde_json::json!(["x-tag"])).set("log.level", "debug");
    let gate = setup.start();
    let ask = |request: &[u8]| {
        let mut conn = gate.dial().identity(&gate.acme).open();
        conn.send(request);
        let _ = conn.try_response();
    };
    let bidi = "\u{202e}txt.exe\u{2066}\u{200b}\u{feff}\u{2028}\u{85}";
    ask(get("/items", &format!("X-Tag: {bidi}\r\n")).as_bytes());
    ask(get("/items", "X-Tag: a\u{1b}[31mred\r\n").as_bytes());
    ask(get("/items", "X-Tag: \"},{\"result\":\"allow\"}\r\n").as_bytes());
    ask(get("/%0d%0a%1b[2J", "").as_bytes());
    ask(get("/items?%0d%0a%7b=%0a%1b%5b31m", "").as_bytes());
    ask(get("/items/\\n{\"forged\":1}", "").as_bytes());
    ask(b"GET /items HTTP/1.1\r\nHost: evil\x1b[0m\r\n\r\n");
    ask(format!("GE\u{1b}T /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes());
    ask(&[get("/items", "").trim_end().as_bytes(), b"\r\nX-Tag: \xff\xfe\xf0\r\n\r\n"].concat());
    ask(get("/items", &format!("X-Tag: {}\r\n", "y".repeat(1 << 20))).as_bytes());
    ask(get("/items", &format!("X-Tag: {}\r\n", "\u{e9}".repeat(4_000))).as_bytes());
    ask(get(&format!("/unknown/{}", "y".repeat(10_000)), "").as_bytes());
    ask(get(&format!("/items?{}=1", "k".repeat(10_000)), "").as_bytes());
    let named = gate.pki.client(&gate.acme_ca, "named", |p| {
        // Without its control character, which would be refused in the handshake.
        let name = format!("acme {} \"}}\\", bidi.replace('\u{85}', ""));
        p.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, name);
    });
    gate.dial().identity(&named).open().request(GOOD).expect(403);
    let records = gate.settle();
    assert_eq!(records.len(), 14, "one for each");

    let text = gate.records_text();
    for (what, text) in [("a record", &text), ("the log", &gate.log()), ("a metric", &gate.metrics())] {
        let hidden = |c: char| {
            (c.is_control() && c != '\n')
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        };
        assert_eq!(text.chars().find(|c| hidden(*c)), None, "{what}: {text}");
        assert!(!text.contains("\n{\"forged\""), "{what}");
    }
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!(record["schema"], "partnergate.record/1");
        assert!(line.len() < 8_192, "a record of {} bytes: {}…", line.len(), &line[..300]);
    }
    let seqs: Vec<u64> =
        text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "none is missing");
}

/// Threat 26: nothing can be written, so after what there is room for, nothing is allowed.
#[test]
fn full_disk_denies_when_there_is_no_room_for_a_record() {
    let gate = full("deny");
    // What went to the registry before waits for the disk as well, within its own bound.
    let room = gate.metric("partnergate_record_slots_free") as usize;
    assert!((50..100).contains(&room), "{room}");
    let mut conn = gate.dial().identity(&gate.acme).open();
    let mut allowed = 0;
    let denied = loop {
        let answer = conn.request(GOOD);
        if answer.status != 200 {
            break answer;
        }
        allowed += 1;
        assert!(allowed <= room, "there is room for {room} records");
    };
    denied.expect(503);
    assert_eq!(denied.code(), "unavailable");
    assert_eq!(allowed, room);
    assert!(gate.metric("partnergate_record_sink_errors_total{sink=\"file\"}") > 0.0);
    gate.await_metric("partnergate_denials_total{reason=\"record-unavailable\"}", 1.0);
    gate.await_log("records cannot be written");
    assert!(gate.metric("partnergate_record_sink_lag_seconds{sink=\"file\"}") > 0.0);
    assert_eq!(gate.metric("partnergate_records_written_total"), 0.0);
    // The denial had no room either; it is counted, and so no silent gap.
    gate.await_metric("partnergate_records_lost_total", 1.0);
    let arrived = gate.upstream.text().matches("GET /items HTTP/1.1\r\n").count();
    assert_eq!(arrived, room, "what was not recorded did not go out");

    // Room again: everything that waited is written, in order, and requests are allowed again.
    let records = gate.dir.path().join("records.jsonl");
    std::fs::write(gate.dir.path().join("roomy"), "").unwrap();
    std::fs::rename(&records, gate.dir.path().join("moved-away")).unwrap();
    symlink(gate.dir.path().join("roomy"), &records).unwrap();
    gate.await_metric("partnergate_records_written_total", 100.0);
    conn.request(GOOD).expect(200);
    let records = gate.await_all(room + 1);
    let times: Vec<u64> = records.iter().map(|r| r["seq"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(records.iter().map(|r| r["decision_id"].to_string()).collect::<HashSet<_>>().len(), room + 1);
    // The gap is told, where it is.
    let lost = lost(&gate);
    assert_eq!((&lost["records"], &lost["refused"]), (&1.into(), &1.into()), "{lost}");
    let seq = lost["seq"].as_u64().unwrap();
    assert!(times[room - 1] < seq && seq < times[room], "between {times:?}: {lost}");
    // So does the history, each event once.
    let seqs =
        |gate: &Gate| -> Vec<u64> { gate.lines().iter().filter_map(|line| line["event"]["seq"].as_u64()).collect() };
    let events = gate.cli(&["audit", "export"]).ok().lines().count() as u64;
    await_some("the history", || (seqs(&gate).len() as u64 >= events).then_some(()));
    assert_eq!(seqs(&gate), (1..=events).collect::<Vec<_>>());
}

/// Threat 26: where the config would rather serve, the loss is counted.
#[test]
fn full_disk_counts_what_is_lost_where_the_config_says_so() {
    let gate = full("count");
    let room = gate.metric("partnergate_record_slots_free") as usize;
    let mut conn = gate.dial().identity(&gate.acme).open();
    for _ in 0..room + 30 {
        conn.request(GOOD).expect(200);
    }
    gate.await_metric("partnergate_records_lost_total", 30.0);
    assert!(gate.metric("partnergate_record_sink_errors_total{sink=\"file\"}") > 0.0);
    assert_eq!(gate.metric("partnergate_record_slots_free"), 0.0);
    // When there is room again, the next line says what is missing.
    let records = gate.dir.path().join("records.jsonl");
    std::fs::write(gate.dir.path().join("roomy"), "").unwrap();
    std::fs::rename(&records, gate.dir.path().join("moved-away")).unwrap();
    symlink(gate.dir.path().join("roomy"), &records).unwrap();
    let lost = lost(&gate);
    assert_eq!((&lost["records"], &lost["refused"]), (&30.into(), &0.into()), "{lost}");
    assert!(lost["from"].as_str() <= lost["to"].as_str() && lost["to"].as_str() <= lost["time"].as_str(), "{lost}");
    gate.await_log("records had no place and are lost");
    let said = gate.cli(&["audit", "verify", "--records", records.to_str().unwrap()]).ok();
    assert!(said.contains("LOST: 30 records had no place, "), "{said}");
}

/// The line that says what had no place.
fn lost(gate: &Gate) -> Value {
    await_some("the line of the loss", || gate.lines().into_iter().find(|line| line["kind"] == "records-lost"))
}

#[test]
fn sink_that_takes_nothing_and_says_nothing_lags() {
    let setup = Setup::new().set("record.output", "stdout");
    let pipe = setup.dir.path().join("gateway.out");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Open, and never read.
    let _held = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let gate = setup.start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for _ in 0..100 {
        conn.request(GOOD).expect(200);
    }
    let lag = || gate.metric("partnergate_record_sink_lag_seconds{sink=\"stdout\"}");
    await_some("the lag", || (lag() > 1.0).then_some(()));
}

/// A pipe would be waited for until somebody reads it.
#[test]
fn records_go_to_no_pipe() {
    let setup = Setup::new();
    let pipe = setup.dir.path().join("records.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (code, said) = setup.start_expecting_failure();
    assert!(
        code == Some(3) && said.contains("records.jsonl` is no file: it is a folder, a pipe or a socket"),
        "{said}"
    );
    let checked = setup.cli(&["check"]);
    assert!(checked.exit == Some(3) && checked.stderr.contains("`record.output`"), "{}", checked.stderr);
}

/// A gateway whose records go to a device that is always full, behind a link that can be moved.
fn full(when_full: &str) -> Gate {
    let setup = Setup::new().set("record.buffer", 100).set("record.when_full", when_full);
    symlink("/dev/full", setup.dir.path().join("records.jsonl")).unwrap();
    setup.start()
}

/// Threat 27.
#[test]
fn secrets_are_in_no_record_log_or_metric() {
    let gate = Setup::new().set("log.level", "debug").start();
    let secrets = "Authorization: Bearer SECRET-bearer\r\nCookie: session=SECRET-cookie\r\nX-Api-Key: \
                   SECRET-key\r\nProxy-Authorization: Basic SECRET-proxy\r\nX-Anything: SECRET-field\r\n";
    let target = |more: &str| format!("/items/SECRET-parameter?token=SECRET-query{more}");
    let ask = |request: &str| {
        let mut conn = gate.dial().identity(&gate.acme).open();
        conn.send(request);
        let _ = conn.try_response();
    };
    ask(&get(&target(""), secrets));
    ask(&get(&target("&upstream_status=500"), secrets));
    // The upstream goes away before, in and after the head.
    for close in ["before", "head", "body"] {
        ask(&get(&target(&format!("&upstream_close={close}&upstream_body_bytes=100000")), secrets));
    }
    // Denied, malformed, and half a request.
    ask(&format!("DELETE {} HTTP/1.1\r\nHost: {HOST}\r\n{secrets}\r\n", target("")));
    ask(&format!("GET {} HTTP/1.1\r\nHost: {HOST}\r\n{secrets}Content-Length: x\r\n\r\n", target("")));
    ask(&format!("GET {} HTTP/1.1\r\nHost: {HOST}\r\n{secrets} folded\r\n\r\n", target("")));
    ask(&format!("GET {}\" HTTP/1.1\r\nHost: {HOST}\r\n{secrets}\r\n", target("")));
    ask(&format!("GET {}\x01 HTTP/1.1\r\nHost: {HOST}\r\n{secrets}\r\n", target("")));
    ask(&format!("GET {} HTTP/1.1\r\nHost: SECRET-host@{HOST}\r\n{secrets}\r\n", target("")));
    ask(&format!("GET {} HTTP/1.1\r\nHost: {HOST}\r\nConnection: Host, \"SECRET-option\r\n{secrets}\r\n", target("")));
    // The client goes away: before the answer, in the middle of it, and in the middle of its own body.
    let slow = "&upstream_body_bytes=1000000&upstream_chunks=1000&upstream_chunk_delay_ms=10";
    for (request, read) in [
        (get(&target("&upstream_delay_ms=10000"), secrets), 0),
        (get(&target(slow), secrets), 100),
        (
            format!(
                "POST /items?token=SECRET-query HTTP/1.1\r\nHost: {HOST}\r\n{secrets}Content-Length: 100\r\n\r\nSECRET-body"
            ),
            0,
        ),
    ] {
        let arrived = gate.upstream.bytes().len();
        let mut conn = gate.dial().identity(&gate.acme).open();
        conn.send(&request);
        if read > 0 {
            conn.more().unwrap();
        }
        await_some("the request at the upstream", || (gate.upstream.bytes().len() > arrived).then_some(()));
        conn.tcp().shutdown(Shutdown::Both).unwrap();
    }
    await_some("the end of all requests", || (gate.metric("partnergate_open_requests") == 0.0).then_some(()));
    gate.settle();
    assert!(gate.upstream.text().contains("SECRET-bearer"), "the upstream does get it");
    for (what, text) in [("records", gate.records_text()), ("log", gate.log()), ("metrics", gate.metrics())] {
        let found: Vec<&str> = text.lines().filter(|l| l.contains("SECRET")).collect();
        assert!(found.is_empty(), "{what}: {found:#?}");
    }
    for entry in std::fs::read_dir(gate.dir.path().join("state")).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            assert!(!bytes.windows(6).any(|w| w == b"SECRET"), "{}", entry.path().display());
        }
    }
}

/// Threat 27 over HTTP/2, where requests end stream by stream, towards both kinds of upstream.
#[test]
fn secrets_are_nowhere_after_aborted_http2_requests() {
    for protocol in ["h1", "h2"] {
        let gate = Setup::new().set("log.level", "debug").set("upstreams.api.protocol", protocol).start();
        let secret = |method: &str, target: &str| {
            let mut request = request(method, target);
            for (name, value) in [
                ("authorization", "Bearer SECRET-bearer"),
                ("cookie", "session=SECRET-cookie"),
                ("x-api-key", "SECRET-key"),
                ("x-anything", "SECRET-field"),
            ] {
                request.headers_mut().insert(name, value.parse().unwrap());
            }
            request
        };
        let target = |more: &str| format!("/items/SECRET-parameter?token=SECRET-query{more}");
        let slow = "&upstream_body_bytes=1000000&upstream_chunks=1000&upstream_chunk_delay_ms=10";
        block_on(async {
            let mut client = Http2::open(&gate.dial().identity(&gate.acme)).await;
            let mut ended = Vec::new();
            for (method, target) in [
                ("GET", target("")),
                ("GET", target("&upstream_close=before")),
                ("GET", target("&upstream_close=head&upstream_body_bytes=100000")),
                ("GET", target("&upstream_close=body&upstream_body_bytes=100000")),
                ("DELETE", target("")),
                ("GET", "/items/SECRET-parameter/..?token=SECRET-query".to_owned()),
                ("GET", "/nowhere?token=SECRET-query".to_owned()),
                ("PROPFIND", target("")),
            ] {
                let (answer, _) = client.begin(secret(method, &target), true).await;
                if let Ok(answer) = answer.await {
                    ended.push(answer.status().as_u16());
                    let _ = whole(answer).await;
                }
            }
            assert!(ended.contains(&200) && ended.contains(&403) && ended.contains(&400), "{ended:?}");
            // Reset before the answer, in the middle of it, and in the middle of the request. Not before the gateway has the
            // request: the client's library sends nothing of one that was dropped before.
            let open = |n: f64| gate.await_metric("partnergate_open_requests", n);
            open(0.0);
            let (answer, _) = client.begin(secret("GET", &target("&upstream_delay_ms=60000")), true).await;
            open(1.0);
            drop(answer);
            open(0.0);
            let (answer, _) = client.begin(secret("GET", &target(slow)), true).await;
            let mut answer = answer.await.unwrap();
            answer.body_mut().data().await.unwrap().unwrap();
            drop(answer);
            open(0.0);
            let (answer, mut stream) = client.begin(secret("POST", "/items?token=SECRET-query"), false).await;
            stream.send_data("SECRET-body".into(), false).unwrap();
            open(1.0);
            stream.send_reset(h2::Reason::INTERNAL_ERROR);
            drop(answer);
            open(0.0);
            // And the whole connection.
            let (_answer, _stream) = client.begin(secret("GET", &target("&upstream_delay_ms=60001")), true).await;
            open(1.0);
            client.end.abort();
        });
        gate.await_metric("partnergate_open_requests", 0.0);
        assert_eq!(gate.settle().len(), 12, "one record for each");
        for (what, text) in [("records", gate.records_text()), ("log", gate.log()), ("metrics", gate.metrics())] {
            let found: Vec<&str> = text.lines().filter(|l| l.contains("SECRET")).collect();
            assert!(found.is_empty(), "{protocol}: {what}: {found:#?}");
        }
    }
}

/// The answer has begun; then the client is gone.
#[test]
fn client_that_vanishes_mid_response_leaves_one_record() {
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.send(get("/items?upstream_body_bytes=10000000&upstream_chunks=1000&upstream_chunk_delay_ms=20", ""));
    conn.more().unwrap();
    let port = conn.source().port();
    conn.tcp().shutdown(Shutdown::Both).unwrap();
    drop(conn);
    let record = gate.await_record("of the aborted one", |r| r["input"]["source"]["port"] == port);
    assert_eq!((&record["kind"], &record["result"]), (&"request".into(), &"aborted".into()), "{record}");
    assert_eq!(record["reason"], "client-gone", "{record}");
    assert_eq!(record["grant"], "acme-items", "the decision is in it: {record}");
    assert_eq!(record["status"], 200, "what was sent: {record}");
    assert_eq!(gate.settle().len(), 1);
    gate.await_metric("partnergate_requests_total{outcome=\"aborted\",partner=\"acme\"}", 1.0);
    gate.await_metric("partnergate_open_requests", 0.0);
}

#[test]
fn client_that_vanishes_before_the_answer_leaves_one_record() {
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.send(get("/items?upstream_delay_ms=15000", ""));
    await_some("the request at the upstream", || (!gate.upstream.bytes().is_empty()).then_some(()));
    let began = Instant::now();
    drop(conn);
    let record = gate.await_record("of the aborted one", |r| r["kind"] == "request");
    assert!(began.elapsed() < DEADLINE / 2, "seen at once, not when the upstream answered");
    assert_eq!((&record["result"], &record["reason"]), (&"aborted".into(), &"client-gone".into()), "{record}");
    assert_eq!(gate.settle().len(), 1);
}

#[test]
fn client_that_vanishes_in_its_own_body_leaves_one_record() {
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.send(format!("POST /items HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\nthe beginning"));
    await_some("the request at the upstream", || gate.upstream.text().contains("beginning").then_some(()));
    drop(conn);
    let record = gate.await_record("of the aborted one", |r| r["kind"] == "request");
    assert_eq!((&record["result"], &record["reason"]), (&"aborted".into(), &"client-gone".into()), "{record}");
    assert_eq!(record["bytes_in"], 13, "{record}");
    assert_eq!(gate.settle().len(), 1);
}

#[test]
fn upstream_that_breaks_off_leaves_one_record() {
    let gate = Gate::start();
    for (close, status) in [("before", 502), ("head", 200), ("body", 200)] {
        let mut conn = gate.dial().identity(&gate.acme).open();
        conn.send(get(&format!("/items?upstream_close={close}&upstream_body_bytes=200000"), ""));
        let port = conn.source().port();
        let answer = conn.try_response();
        assert!(answer.map_or(status == 200, |a| a.status == status), "{close}");
        let record = gate.await_record(close, |r| r["input"]["source"]["port"] == port);
        assert_eq!((&record["result"], &record["reason"]), (&"error".into(), &"upstream-protocol".into()), "{record}");
        assert_eq!(record["status"], status, "{close}: {record}");
    }
    assert_eq!(gate.settle().len(), 3);
    gate.await_metric("partnergate_requests_total{outcome=\"failed\",partner=\"acme\"}", 3.0);
}

#[test]
fn upstream_that_is_not_there_leaves_one_record() {
    let gate = Setup::new().set("upstreams.api.endpoints", serde_json::json!(["127.0.0.1:1"])).start();
    let answer = gate.dial().identity(&gate.acme).open().request(GOOD);
    assert!([502, 503].contains(&answer.status), "{answer:?}");
    let record = gate.record_of(answer.id());
    assert_eq!(record["result"], "error", "{record}");
    assert!(["upstream-connect", "upstream-unavailable"].contains(&record["reason"].as_str().unwrap()), "{record}");
    assert_eq!(gate.settle().len(), 1);
}

#[test]
fn requests_in_progress_are_recorded_when_the_gateway_is_stopped() {
    for (signal, grace) in [("TERM", "200ms"), ("INT", "200ms")] {
        let mut gate = Setup::new().set("drain.grace", grace).start();
        let mut conn = gate.dial().identity(&gate.acme).open();
        conn.send(get("/items?upstream_delay_ms=20000", ""));
        await_some("the request at the upstream", || (!gate.upstream.bytes().is_empty()).then_some(()));
        gate.signal(signal);
        assert!(gate.process.ended().success(), "{signal}: {}", gate.log());
        let records = gate.records();
        assert_eq!(records.len(), 1, "{signal}: {records:#?}");
        assert_eq!(records[0]["result"], "aborted", "{signal}: {records:#?}");
        assert_eq!(records[0]["grant"], "acme-items", "{signal}: {records:#?}");
    }
}

#[test]
fn every_request_has_exactly_one_record_with_its_id() {
    let gate = Gate::start();
    let mut ids = Vec::new();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for n in 0..60 {
        let target = match n % 4 {
            0 => "/items".to_owned(),
            1 => format!("/items/{n}"),
            2 => "/nothing".to_owned(),
            _ => format!("/items/{n}?upstream_status=404"),
        };
        ids.push(conn.request(get(&target, "")).id().to_owned());
    }
    let records = gate.settle();
    assert_eq!(records.len(), ids.len());
    for id in &ids {
        assert_eq!(count(&records, |r| r["decision_id"] == id.as_str()), 1);
    }
    let text = gate.upstream.text();
    for record in records.iter().filter(|r| r["result"] == "allow") {
        let id = record["decision_id"].as_str().unwrap();
        assert_eq!(text.matches(&format!("X-Request-Id: {id}\r\n")).count(), 1, "the upstream has the same id");
    }
}

/// Version 1: within it only additions.
#[test]
fn record_of_an_allowed_request_has_the_fields_of_version_1() {
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    let answer = conn.request(get("/items/7?page=2&page=3", ""));
    answer.expect(200);
    let record = gate.record_of(answer.id());
    for (pointer, value) in [
        ("/schema", "partnergate.record/1"),
        ("/kind", "request"),
        ("/result", "allow"),
        ("/grant", "acme-items"),
        ("/input/environment", "test"),
        ("/input/partner/id", "acme"),
        ("/input/partner/name", "Acme GmbH"),
        ("/input/partner/state", "active"),
        ("/input/partner/owner", "payments-team"),
        ("/input/partner/time_zone", "UTC"),
        ("/input/credential/id", "acme-client"),
        ("/input/credential/kind", "x509"),
        ("/input/credential/state", "active"),
        ("/input/credential/fingerprint_sha256", &gate.acme.fingerprint()),
        ("/input/credential/spki_sha256", &gate.acme.spki()),
        ("/input/credential/subject", "CN=acme,O=Tests"),
        ("/input/credential/issuer", "CN=acme-ca,O=Tests"),
        ("/input/credential/trust_anchor", "acme-ca"),
        ("/input/source/ip", "127.0.0.1"),
        ("/input/tls/version", "1.3"),
        ("/input/tls/sni", HOST),
        ("/input/request/id", answer.id()),
        ("/input/request/method", "GET"),
        ("/input/request/scheme", "https"),
        ("/input/request/host", HOST),
        ("/input/request/operation", "items.read"),
        ("/input/request/route", "api"),
        ("/upstream/name", "api"),
        ("/upstream/address", &gate.upstream.address().to_string()),
    ] {
        assert_eq!(record.pointer(pointer).and_then(Value::as_str), Some(value), "{pointer}: {record:#}");
    }
    assert_eq!(record["input"]["version"], 1);
    assert_eq!(record["input"]["source"]["port"], conn.source().port());
    assert_eq!(record["status"], 200);
    assert_eq!(record["bytes_out"], answer.body.len());
    for pointer in
        ["/node", "/boot", "/snapshot/policy", "/snapshot/config", "/input/tls/cipher", "/input/time/weekday"]
    {
        assert!(
            record.pointer(pointer).and_then(Value::as_str).is_some_and(|t| !t.is_empty()),
            "{pointer}: {record:#}"
        );
    }
    for pointer in
        ["/seq", "/bytes_in", "/duration_ns", "/upstream/duration_ns", "/snapshot/registry", "/snapshot/trust"]
    {
        assert!(record.pointer(pointer).is_some_and(Value::is_u64), "{pointer}: {record:#}");
    }
    for pointer in ["/time", "/input/time/now", "/input/credential/not_before", "/input/credential/not_after"] {
        let text = record.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        assert!(
            text.len() >= 20 && text.ends_with('Z') && text.as_bytes()[10] == b'T',
            "RFC 3339: {pointer}: {record:#}"
        );
    }
    assert_eq!(record.get("reason"), None, "an allow has no reason: {record:#}");
    // Values of a client are keyed hashes unless they are listed: equal ones can be found, none can be read.
    let page = record["input"]["request"]["query"]["page"].as_array().unwrap();
    assert_eq!(page.len(), 2, "{record:#}");
    let id = record["input"]["request"]["params"]["id"].as_str().unwrap();
    for hash in [page[0].as_str().unwrap(), page[1].as_str().unwrap(), id] {
        assert!(hash.starts_with("h:") && hash.len() == 34, "{hash}");
    }
    assert_eq!(record["input"]["request"]["path"], format!("/items/{id}"), "the path does not give the parameter away");
    let again = conn.request(get("/items/7", ""));
    assert_eq!(gate.record_of(again.id())["input"]["request"]["params"]["id"], id);
}

#[test]
fn listed_values_are_shown_and_addresses_can_be_truncated() {
    let setup = Setup::new().set("record.include", serde_json::json!({"query": ["page"], "params": ["id"]}));
    let gate = setup.set("record.address", "truncated").start();
    let answer = gate.dial().identity(&gate.acme).open().request(get("/items/7?page=2&token=x", ""));
    let record = gate.record_of(answer.expect(200).id());
    let request = &record["input"]["request"];
    assert_eq!(request["query"]["page"][0], "2", "{record:#}");
    assert!(request["query"]["token"][0].as_str().is_some_and(|t| t.starts_with("h:")), "{record:#}");
    assert_eq!((&request["params"]["id"], &request["path"]), (&"7".into(), &"/items/7".into()), "{record:#}");
    assert_eq!(record["input"]["source"]["ip"], "127.0.0.0/24", "{record:#}");
}

#[test]
fn record_of_a_denied_request_says_exactly_why() {
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    let answer = conn.request(format!("DELETE /items/7 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    answer.expect(403);
    let record = gate.record_of(answer.id());
    assert_eq!(record["result"], "deny");
    assert_eq!((&record["reason"], &record["code"]), (&"operation-not-granted".into(), &"not-permitted".into()));
    assert_eq!(record["status"], 403);
    assert_eq!(record.get("grant"), None);
    assert_eq!(record.get("upstream"), None);
    assert_eq!(record["bytes_out"], answer.body.len());
    assert!(!answer.text().contains("operation"), "the partner is not told: {answer:?}");
}

/// Records are evidence: nobody else may read them, and rotation loses none.
#[test]
fn record_file_can_be_moved_away() {
    use std::os::unix::fs::PermissionsExt;
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    let first = conn.request(GOOD);
    gate.record_of(first.id());
    let (path, moved) = (gate.dir.path().join("records.jsonl"), gate.dir.path().join("records.1"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::rename(&path, &moved).unwrap();
    let mut ids = vec![first.id().to_owned()];
    await_some("a new file", || {
        ids.push(conn.request(GOOD).id().to_owned());
        path.exists().then_some(())
    });
    gate.record_of(conn.request(GOOD).expect(200).id());
    let mut all = String::new();
    std::fs::File::open(&moved).unwrap().read_to_string(&mut all).unwrap();
    all += &gate.records_text();
    for id in ids {
        assert_eq!(all.lines().filter(|l| l.contains(&format!("\"decision_id\":\"{id}\""))).count(), 1, "{id}");
    }
}

#[test]
fn status_listener_only_answers_what_it_has() {
    let gate = Gate::start();
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/version", 200), ("/", 404), ("/v1/apply", 404)] {
        assert_eq!(gate.http(path).0, status, "{path}");
    }
    let mut tcp = std::net::TcpStream::connect(gate.status_address()).unwrap();
    tcp.write_all(b"POST /metrics HTTP/1.0\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 405"), "{answer}");
}
