//! Rights that end while something is open: what runs on them is cut, everything else goes on. Threats 1, 2 and 23.

use crate::harness::http2::{
    DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, Http2, RST_STREAM, block, block_on, get_fields, request,
};
use crate::harness::{Gate, HOST, Identity, Setup, TlsConn, await_some};
use crate::{grpc, websocket};
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A download that goes on for a minute.
const LONG: &str = "upstream_chunks=600&upstream_chunk_delay_ms=100";
const CANCEL: u32 = 8;

/// acme's network, apart from globex'.
fn setup() -> Setup {
    let setup = Setup::new();
    let registry = setup
        .registry_text()
        .replace("networks:\n  loopback", "networks:\n  acme-net: {cidrs: [127.0.0.0/8]}\n  loopback")
        .replacen("networks: [loopback]\n", "networks: [acme-net]\n", 1)
        .replace("[items.list], ends", "[items.list, items.events], ends");
    setup.registry(&registry)
}

fn socket(gate: &Gate, who: &Identity) -> TlsConn {
    let mut conn = gate.dial().identity(who).open();
    conn.request(websocket::handshake("/events")).expect(101);
    conn
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

/// Seconds since 1970, some from now.
fn from_now(seconds: f64) -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() + seconds
}

fn rfc3339(seconds: f64) -> String {
    jiff::Timestamp::from_microsecond((seconds * 1e6) as i64).unwrap().to_string()
}

#[track_caller]
fn edited(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no `{from}` in\n{text}");
    text.replacen(from, to, 1)
}

fn cut(gate: &Gate) -> Value {
    gate.await_record("the cut", |r| r["kind"] == "stream-cut")
}

/// What acme can lose, and what the record then says.
fn losses(text: &str) -> Vec<(&'static str, String)> {
    let acme = |from: &str, to: &str| edited(text, from, to);
    vec![
        ("operation-not-granted", acme("[items.events]", "[items.list]")),
        ("partner-not-active", acme("name: Acme GmbH", "name: Acme GmbH\n    state: suspended")),
        ("engagement-ended", acme("2020-01-01T00:00:00Z, ends: 2100", "2020-01-01T00:00:00Z, ends: 2021")),
        ("grant-expired", acme("[items.events], ends: 2100", "[items.events], ends: 2021")),
        ("credential-not-active", acme("{anchor: acme-ca, ", "{state: revoked, anchor: acme-ca, ")),
        ("identity-unknown", acme("acme.example/client", "acme.example/other")),
        ("wrong-environment", acme("{anchor: acme-ca, ", "{environments: [elsewhere], anchor: acme-ca, ")),
        ("network-not-allowed", acme("[127.0.0.0/8]", "[203.0.113.0/24]")),
        ("network-not-allowed", acme("networks: [acme-net]", "networks: []")),
        ("certificate-wrong-usage", text.to_owned()),
    ]
}

#[test]
fn silent_websocket_is_cut_by_every_change_that_takes_its_right_and_no_other_connection_is() {
    let gate = setup().start();
    let text = gate.registry_text().to_owned();
    let mut globex = socket(&gate, &gate.globex);
    let mut other = gate.dial().identity(&gate.globex).open();
    for (n, (reason, changed)) in losses(&text).into_iter().enumerate() {
        if reason == "certificate-wrong-usage" {
            continue;
        }
        gate.apply_anew(&text);
        let mut acme = socket(&gate, &gate.acme);
        websocket::echoes(&mut acme, "hello");
        gate.apply(&changed);
        acme.assert_closed();
        let record =
            await_some("the record", || gate.records().into_iter().filter(|r| r["kind"] == "stream-cut").nth(n));
        assert_eq!((&record["reason"], &record["result"]), (&reason.into(), &"deny".into()), "{record}");
        assert_eq!((&record["grant"], &record["status"]), (&"acme-socket".into(), &101.into()), "{record}");
        assert_eq!(record["snapshot"]["registry"], gate.metric("partnergate_snapshot_registry_revision"), "{record}");
        websocket::echoes(&mut globex, "still here");
        other.request(get("/items")).expect(200);
    }
    let cuts = gate.metric("partnergate_revocation_enforcement_seconds_count");
    assert_eq!(cuts, 9.0);
    gate.await_metric("partnergate_requests_total{outcome=\"cut\",partner=\"acme\"}", 9.0);
    gate.await_metric("partnergate_streams_cut_total{reason=\"engagement-ended\"}", 1.0);
}

#[test]
fn websocket_is_cut_when_its_anchor_goes_or_gets_another_key() {
    let gate = setup().start();
    let text = gate.registry_text().to_owned();
    let mut globex = socket(&gate, &gate.globex);
    let mut acme = socket(&gate, &gate.acme);
    // The same name, another CA.
    let other = gate.pki.authority("another-ca");
    assert!(other.pem_file.exists());
    gate.apply(&edited(&text, "acme-ca: {certificate: acme-ca.pem", "acme-ca: {certificate: another-ca.pem"));
    acme.assert_closed();
    assert_eq!(cut(&gate)["reason"], "trust-changed");
    gate.dial().identity(&gate.acme).refused();
    websocket::echoes(&mut globex, "still here");
}

#[test]
fn download_and_upload_are_cut_in_the_middle() {
    let gate = setup().start();
    let text = gate.registry_text().to_owned();
    for (name, head) in [
        ("download", get(&format!("/items?{LONG}"))),
        ("upload", format!("POST /items HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\nbegun")),
    ] {
        let mut conn = gate.dial().identity(&gate.acme).open();
        conn.send(head);
        if name == "download" {
            conn.response_head().expect(200);
            conn.more().unwrap();
        }
        gate.await_metric("partnergate_open_requests", 1.0);
        gate.apply(&edited(&text, "name: Acme GmbH", "name: Acme GmbH\n    state: suspended"));
        while conn.more().is_ok() {}
        gate.await_metric("partnergate_open_requests", 0.0);
        gate.apply(&text);
    }
    let records = gate.settle();
    let cuts: Vec<&Value> = records.iter().filter(|r| r["kind"] == "stream-cut").collect();
    assert_eq!(cuts.len(), 2, "{records:#?}");
    assert_eq!((&cuts[0]["status"], &cuts[1]["status"]), (&200.into(), &0.into()));
    assert!(cuts[0]["bytes_out"].as_u64() > Some(0) && cuts[1]["bytes_in"].as_u64() > Some(0), "{cuts:#?}");
    assert!(records.iter().all(|r| r["kind"] == "stream-cut"), "one record for each request: {records:#?}");
}

#[test]
fn one_h2_stream_is_cut_while_its_siblings_live() {
    let gate = setup().start();
    block_on(async {
        let mut conn = Http2::open(&gate.dial().identity(&gate.acme)).await;
        let (list, _) = conn.begin(request("GET", &format!("/items?{LONG}")), true).await;
        let short = "upstream_chunks=20&upstream_chunk_delay_ms=100";
        let (read, _) = conn.begin(request("GET", &format!("/items/7?{short}")), true).await;
        let (mut list, read) = (list.await.unwrap().into_body(), read.await.unwrap());
        list.data().await.unwrap().unwrap();
        gate.apply(&edited(gate.registry_text(), "[items.read, items.list, ", "[items.read, "));
        let error = loop {
            match list.data().await {
                Some(Ok(_)) => {}
                Some(Err(e)) => break e,
                None => panic!("it ended as if it were whole"),
            }
        };
        assert!(error.is_reset() && error.reason() == Some(h2::Reason::CANCEL), "{error:?}");
        crate::harness::http2::whole(read).await.unwrap();
        // And the connection takes new ones.
        conn.get("/items/8").await.expect(200);
        conn.get("/items").await.expect(403);
    });
    let record = cut(&gate);
    assert_eq!((&record["reason"], &record["grant"]), (&"operation-not-granted".into(), &"acme-items".into()));
}

#[test]
fn h2_connection_of_an_identity_that_lost_its_right_gets_a_goaway_and_its_streams_are_cut() {
    let gate = setup().start();
    let mut conn = Frames::open(&gate.dial().identity(&gate.acme), &[]);
    let target = format!("/items?{LONG}");
    let streams = [conn.headers(&get_fields(&target), true), conn.headers(&get_fields(&target), true)];
    for id in streams {
        conn.await_frame("data", |f| f.kind == DATA && f.stream == id);
    }
    gate.apply(&edited(gate.registry_text(), "name: Acme GmbH", "name: Acme GmbH\n    state: suspended"));
    let (mut goaway, mut reset) = (false, Vec::new());
    while !goaway || reset.len() < 2 {
        let frame = conn.await_frame("the end", |f| f.kind == GOAWAY || f.kind == RST_STREAM);
        match frame.kind {
            GOAWAY => goaway = true,
            _ => {
                assert_eq!(frame.error(), CANCEL);
                reset.push(frame.stream);
            }
        }
    }
    reset.sort_unstable();
    assert_eq!(reset, streams);
    conn.ended();
    gate.await_metric("partnergate_open_connections{protocol=\"h2\"}", 0.0);
}

#[test]
fn idle_connection_of_an_identity_that_lost_its_right_is_told_so_once_and_ends() {
    let gate = setup().start();
    let suspended = edited(gate.registry_text(), "name: Acme GmbH", "name: Acme GmbH\n    state: suspended");
    let mut asking = gate.dial().identity(&gate.acme).open();
    let mut silent = gate.dial().identity(&gate.acme).open();
    let mut h2 = Frames::open(&gate.dial().identity(&gate.acme), &[]);
    for conn in [&mut asking, &mut silent] {
        conn.request(get("/items")).expect(200);
    }
    let id = h2.headers(&get_fields("/items"), true);
    h2.await_frame("the answer", |f| f.stream == id && f.flags & 1 == 1);
    let mut globex = gate.dial().identity(&gate.globex).open();
    gate.apply(&suspended);
    let refused = asking.request(get("/items"));
    assert_eq!((refused.status, refused.header("connection")), (403, Some("close")), "{refused:?}");
    assert_eq!(refused.code(), "engagement-not-active");
    asking.assert_closed();
    silent.assert_closed();
    h2.await_frame("a GOAWAY", |f| f.kind == GOAWAY);
    h2.ended();
    globex.request(get("/items")).expect(200);
    gate.await_metric("partnergate_open_connections{protocol=\"http/1.1\"}", 1.0);
}

#[test]
fn grant_that_ends_by_the_clock_cuts_what_runs_on_it_at_that_instant() {
    let setup = setup();
    let ends = from_now(4.0);
    let text = edited(
        setup.registry_text(),
        "[items.events], ends: 2100-01-01T00:00:00Z",
        &format!("[items.events], ends: \"{}\"", rfc3339(ends)),
    );
    let gate = setup.registry(&text).start();
    let mut acme = socket(&gate, &gate.acme);
    acme.assert_closed();
    let late = from_now(0.0) - ends;
    assert!((0.0..1.0).contains(&late), "{late} s after its end");
    let record = cut(&gate);
    assert_eq!(record["reason"], "grant-expired");
    // What it says can be decided again by whoever reads it: at that time the grant had ended, as it had not at first.
    let at = |text: &Value| text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let [denied, ended] = [at(&record["input"]["time"]["now"]), rfc3339(ends).parse().unwrap()];
    assert!(denied >= ended && at(&record["time"]) == denied, "{record}");
    let opened = gate.await_record("its opening", |r| r["kind"] == "stream-open");
    assert!(at(&opened["input"]["time"]["now"]) < ended, "{opened}");
    let quick = gate.metric("partnergate_revocation_enforcement_seconds_bucket{le=\"0.1\"}");
    assert!(quick <= 1.0 && gate.metric("partnergate_revocation_enforcement_seconds_count") == 1.0);
}

/// Over HTTP/2, where a stream alone can end, and of everything that the clock can end.
#[test]
fn end_of_an_engagement_or_of_a_grant_cuts_h2_streams_at_that_instant() {
    for (reason, whole) in [("engagement-ended", true), ("grant-expired", false)] {
        let setup = setup();
        let ends = from_now(4.0);
        let at = format!("ends: \"{}\"", rfc3339(ends));
        let text = setup.registry_text();
        let from = if whole { "ends: 2100-01-01T00:00:00Z" } else { "[items.events], ends: 2100-01-01T00:00:00Z" };
        let to = if whole { at } else { format!("[items.events], {at}") };
        // Nothing that acme is granted may outlive its engagement.
        let mut edit = if whole { text.replacen(from, &to, 3) } else { edited(text, from, &to) };
        assert_ne!(edit, text);
        if !whole {
            // What is downloaded belongs to the grant that ends.
            edit = edited(&edit, "[items.events]", "[items.events, items.list]");
            edit = edited(&edit, "items.list, items.create", "items.create");
        }
        let gate = setup.registry(&edit).start();
        block_on(async {
            let mut conn = Http2::open(&gate.dial().identity(&gate.acme)).await;
            let (answer, _) = conn.begin(request("GET", &format!("/items?{LONG}")), true).await;
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 200);
            let error = crate::harness::http2::whole(answer).await.unwrap_err();
            let late = from_now(0.0) - ends;
            assert!((0.0..1.0).contains(&late), "{reason}: {late} s after its end");
            assert!(error.is_reset() || error.is_go_away() || error.is_io(), "{reason}: {error:?}");
            if whole {
                // Nothing is left of the identity's right: the connection goes as well.
                conn.end.await.unwrap().ok();
            } else {
                assert_eq!(conn.request(request("POST", "/items"), b"x").await.status, 200);
            }
        });
        assert_eq!(cut(&gate)["reason"], reason);
    }
}

#[test]
fn certificate_that_expires_takes_its_open_connection_with_it() {
    let setup = setup();
    let ends = from_now(4.0).floor();
    let acme = setup.pki.client(&setup.acme_ca, "short", |p| {
        p.subject_alt_names = vec![rcgen::SanType::URI("spiffe://acme.example/client".try_into().unwrap())];
        p.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs_f64(ends);
    });
    let gate = setup.start();
    let mut socket = socket(&gate, &acme);
    let mut idle = gate.dial().identity(&acme).open();
    idle.request(get("/items")).expect(200);
    socket.assert_closed();
    // The last second of its validity is the one that it names.
    let late = from_now(0.0) - (ends + 1.0);
    assert!((0.0..1.0).contains(&late), "{late} s after its end");
    assert_eq!(cut(&gate)["reason"], "credential-expired");
    let refused = idle.request(get("/items"));
    assert_eq!((refused.status, refused.header("connection")), (403, Some("close")), "{refused:?}");
}

/// The gateway knows of no end here: only policy does.
#[test]
fn time_window_that_policy_closes_cuts_what_is_open_within_ten_seconds() {
    let (setup, folder) = setup().own_policies();
    std::fs::write(folder.join("reasons.yaml"), "reasons:\n  x-late: \"Closed at this time\"\n").unwrap();
    let rule = |closes: f64| {
        format!(
            "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {{\"reason\": \"x-late\"}} if input.time.now_ns \
             >= {}\n",
            (closes * 1e9) as i64
        )
    };
    let closes = from_now(4.0);
    std::fs::write(folder.join("custom/late.rego"), rule(closes)).unwrap();
    let gate = setup.start();
    let mut acme = socket(&gate, &gate.acme);
    acme.assert_closed();
    let late = from_now(0.0) - closes;
    assert!((0.0..11.0).contains(&late), "{late} s after the window closed");
    assert_eq!(cut(&gate)["reason"], "x-late");
}

#[test]
fn changed_policy_is_asked_about_everything_that_is_open() {
    let (setup, folder) = setup().own_policies();
    std::fs::write(folder.join("reasons.yaml"), "reasons:\n  x-closed: \"Closed\"\n").unwrap();
    let gate = setup.set("reload.interval", "1h").start();
    let (mut acme, mut globex) = (socket(&gate, &gate.acme), socket(&gate, &gate.globex));
    let rule = "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {\"reason\": \"x-closed\"} if \
                input.partner.id == \"acme\"\n";
    std::fs::write(folder.join("custom/closed.rego"), rule).unwrap();
    gate.reload();
    acme.assert_closed();
    let record = cut(&gate);
    assert_eq!(record["reason"], "x-closed");
    websocket::echoes(&mut globex, "still here");
    let open = gate.await_record("its opening", |r| r["kind"] == "stream-open");
    assert_ne!(record["snapshot"]["policy"], open["snapshot"]["policy"]);
}

#[test]
fn grpc_stream_is_cut_by_a_narrower_grant_another_policy_a_network_that_is_gone_and_a_window_that_closes() {
    let setup = grpc::setup();
    let registry = setup
        .registry_text()
        .replace("networks:\n  loopback", "networks:\n  acme-net: {cidrs: [127.0.0.0/8]}\n  loopback")
        .replacen("networks: [loopback]\n", "networks: [acme-net]\n", 1);
    let (setup, folder) = setup.registry(&registry).own_policies();
    std::fs::write(folder.join("reasons.yaml"), "reasons:\n  x-closed: \"Closed\"\n  x-late: \"Late\"\n").unwrap();
    let rule = folder.join("custom/closed.rego");
    let denies = |reason: &str, when: &str| {
        let head = "package partnergate.custom\n\nimport rego.v1\n\ndeny contains";
        std::fs::write(&rule, format!("{head} {{\"reason\": \"{reason}\"}}{when}\n")).unwrap();
    };
    let gate = setup.set("reload.interval", "1h").start();
    let script = r#"
stop = threading.Event()
def messages():
    yield b"and no more"
    stop.wait(30)
call = channel.stream_stream("/shop.v1.Orders/Chat")(messages(), timeout=30)
try:
    for answer in call:
        pass
    print("ended")
except grpc.RpcError as error:
    print(error.code().name)
stop.set()
"#;
    for (n, (what, reason)) in [
        ("grant", "operation-not-granted"),
        ("policy", "x-closed"),
        ("network", "network-not-allowed"),
        ("window", "x-late"),
    ]
    .into_iter()
    .enumerate()
    {
        let closes = from_now(8.0);
        if what == "window" {
            denies("x-late", &format!(" if input.time.now_ns >= {}", (closes * 1e9) as i64));
            gate.reload();
        }
        let out = std::thread::scope(|s| {
            let call = s.spawn(|| grpc::client(&gate, &gate.acme, script));
            if call.is_finished() {
                return call.join().unwrap();
            }
            let skipped = await_some("the call", || {
                (call.is_finished() || gate.metric("partnergate_open_requests") >= 1.0).then(|| call.is_finished())
            });
            if !skipped {
                match what {
                    "grant" => gate.apply(&edited(&registry, "shop.v1.Orders/Chat, ", "")),
                    "network" => gate.apply(&edited(&registry, "[127.0.0.0/8]", "[203.0.113.0/24]")),
                    "policy" => {
                        denies("x-closed", "");
                        gate.reload();
                    }
                    _ => {}
                }
            }
            call.join().unwrap()
        });
        let Some(out) = out else { return };
        assert_eq!(out, "CANCELLED", "{what}");
        let record =
            await_some("the record", || gate.records().into_iter().filter(|r| r["kind"] == "stream-cut").nth(n));
        assert_eq!(record["reason"], reason, "{record}");
        gate.apply(&registry);
        if rule.exists() {
            std::fs::remove_file(&rule).unwrap();
            gate.reload();
        }
    }
}

/// A crash must not lose what was open.
#[test]
fn long_request_has_a_record_that_it_is_open() {
    let gate = setup().start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.send(get("/items?upstream_chunks=110&upstream_chunk_delay_ms=100"));
    let open = gate.await_record("the opening", |r| r["kind"] == "stream-open");
    assert_eq!((&open["result"], &open["grant"]), (&"allow".into(), &"acme-items".into()), "{open}");
    let age = Duration::from_nanos(open["duration_ns"].as_u64().unwrap());
    assert!((Duration::from_secs(10)..Duration::from_secs(11)).contains(&age), "{age:?}");
    conn.response().expect(200);
    let end = gate.await_record("the end", |r| r["kind"] == "request");
    assert_eq!(end["decision_id"], open["decision_id"]);
    assert_eq!(gate.settle().len(), 2);
}

/// A body that is sent slowly keeps its right only as long as the grant.
#[test]
fn h2_upload_is_cut_when_its_grant_is_narrowed() {
    let gate = setup().start();
    block_on(async {
        let mut conn = Http2::open(&gate.dial().identity(&gate.acme)).await;
        let (answer, mut body) = conn.begin(request("POST", "/items"), false).await;
        body.send_data("begun".into(), false).unwrap();
        gate.await_metric("partnergate_open_requests", 1.0);
        gate.apply(&edited(gate.registry_text(), "items.create, ", ""));
        let error = answer.await.unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL), "{error:?}");
        conn.get("/items").await.expect(200);
    });
    assert_eq!(cut(&gate)["reason"], "operation-not-granted");
}

/// A GOAWAY is an announcement, and not a request.
#[test]
fn h2_client_that_takes_no_notice_of_the_goaway_is_closed_all_the_same() {
    let gate = setup().start();
    let mut conn = Frames::open(&gate.dial().identity(&gate.acme), &[]);
    let id = conn.headers(&get_fields("/items"), true);
    conn.await_frame("the answer", |f| f.stream == id && f.flags & END_STREAM != 0);
    gate.apply(&edited(gate.registry_text(), "name: Acme GmbH", "name: Acme GmbH\n    state: suspended"));
    let began = Instant::now();
    // It acknowledges nothing, and opens another stream as soon as the last one is over.
    let open = |conn: &mut Frames| {
        let id = conn.stream();
        conn.try_send(HEADERS, END_HEADERS | END_STREAM, id, &block(&get_fields("/items"))).is_ok()
            && std::iter::from_fn(|| conn.next().ok())
                .any(|f| f.stream == id && (f.kind == RST_STREAM || f.flags & END_STREAM != 0))
    };
    while open(&mut conn) {
        assert!(began.elapsed() < Duration::from_secs(10), "left open");
    }
    gate.await_metric("partnergate_open_connections{protocol=\"h2\"}", 0.0);
}
