//! Conditions of grants, from the file that says them to the request that meets them.

use crate::harness::http2::{Http2, block_on, request, whole};
use crate::harness::{Gate, HOST, Setup};
use bytes::Bytes;
use serde_json::Value;

/// The registry where acme's first grant has these conditions.
fn with(text: &str, conditions: &str) -> String {
    let grant = "pairs.read], ends: 2100-01-01T00:00:00Z";
    assert!(text.contains(grant), "{text}");
    text.replacen(grant, &format!("{grant}, conditions: {conditions}"), 1)
}

fn gate(conditions: &str) -> Gate {
    let setup = Setup::new();
    let registry = with(setup.registry_text(), conditions);
    setup.registry(&registry).start()
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /items HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n{body}")
}

/// Windows of every day but the one before, that, and the one after: never now, in whichever zone.
fn other_days() -> String {
    const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let today = jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::now()).weekday().to_monday_zero_offset();
    let day = |ahead: i8| DAYS[usize::try_from((today + ahead) % 7).unwrap()];
    format!("{}-{} 00:00-24:00", day(2), day(5))
}

#[test]
fn values_that_mean_nothing_are_refused_with_their_place() {
    let gate = gate("{}");
    let line = gate.registry_text().lines().position(|l| l.contains("acme-items:")).unwrap() + 1;
    for (conditions, said, fix) in [
        ("{schedule: [\"mon-fry 08:00-18:00\"]}", "`fry` is none of mon, tue", "write it like `mon-fri 08:00-18:00`"),
        ("{schedule: []}", "an empty one would never permit anything", "or leave the condition out"),
        ("{tls_min: 1.3}", "must be text", "write \"1.2\" or \"1.3\", in quotes"),
        ("{tls_ciphers: [RC4]}", "names no cipher suite that is served: `RC4`", "TLS_AES_256_GCM_SHA384"),
        ("{methods: [GTE]}", "names no method that is served: `GTE`", "did you mean `GET`?"),
        ("{max_content_length: -1}", "a whole number of bytes, 0 or more", ""),
        ("{shedule: [\"mon 08:00-18:00\"]}", "the condition `shedule` is not declared", "did you mean `schedule`?"),
    ] {
        let text = gate.registry_text().replacen("conditions: {}", &format!("conditions: {conditions}"), 1);
        let refused = gate.try_apply(&text);
        assert_ne!(refused.exit, Some(0), "{conditions}");
        for expected in [said, fix, &format!("registry.yaml:{line}:"), "partners.acme.grants.acme-items.conditions"] {
            assert!(refused.stderr.contains(expected), "{conditions}: {expected}: {}", refused.stderr);
        }
    }
    let ask = ["grant", "request", "acme", "acme-late", "--operation", "items.delete", "--owner", "o", "--ends"];
    let condition = ["2090-01-01T00:00:00Z", "--condition", "schedule=[\"mon 25:00-26:00\"]"];
    let refused = gate.cli(&[&ask[..], &condition[..]].concat());
    assert_ne!(refused.exit, Some(0));
    assert!(refused.stderr.contains("times are from 00:00 to 24:00"), "{}", refused.stderr);
    // What was there goes on.
    gate.dial().identity(&gate.acme).open().request(get("/items")).expect(200);
}

#[test]
fn conditions_narrow_a_grant_and_the_record_says_which_did() {
    let gate = gate("{methods: [GET]}");
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.request(get("/items")).expect(200);
    let answer = conn.request(post("Content-Length: 0\r\n", ""));
    assert_eq!(answer.expect(403).code(), "not-permitted");
    assert_eq!(gate.record_of(answer.id())["reason"], "method-not-granted");

    let registry = gate.registry_text().to_owned();
    let apply = |conditions: &str| gate.apply(&registry.replacen("{methods: [GET]}", conditions, 1));
    apply(&format!("{{schedule: [\"{}\"]}}", other_days()));
    let answer = conn.request(get("/items"));
    assert_eq!(answer.expect(403).code(), "access-not-current");
    assert_eq!(gate.record_of(answer.id())["reason"], "outside-schedule");
    apply("{schedule: [\"mon-sun 00:00-24:00\"]}");
    conn.request(get("/items")).expect(200);

    apply("{tls_min: \"1.3\"}");
    conn.request(get("/items")).expect(200);
    let answer = gate.dial().identity(&gate.acme).tls12().open().request(get("/items"));
    assert_eq!(answer.expect(403).code(), "not-permitted");
    assert_eq!(gate.record_of(answer.id())["reason"], "tls-too-weak");

    // The names of IANA, which every other tool has.
    let record: Value = gate.record_of(conn.request(get("/items")).expect(200).id());
    let cipher = record["input"]["tls"]["cipher"].as_str().unwrap().to_owned();
    assert!(cipher.starts_with("TLS_AES_") || cipher.starts_with("TLS_CHACHA20_"), "{cipher}");
    apply(&format!("{{tls_ciphers: [{cipher}]}}"));
    conn.request(get("/items")).expect(200);
    apply("{tls_ciphers: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]}");
    let answer = conn.request(get("/items"));
    assert_eq!(gate.record_of(answer.expect(403).id())["reason"], "tls-too-weak");
}

#[test]
fn bodies_are_bounded_by_the_length_that_they_state() {
    let gate = gate("{max_content_length: 5}");
    let open = || gate.dial().identity(&gate.acme).open();
    open().request(get("/items")).expect(200);
    open().request(post("Content-Length: 5\r\n", "12345")).expect(200);
    let arrived = gate.upstream.bytes().len();
    let answer = open().request(post("Content-Length: 6\r\n", "123456"));
    assert_eq!(answer.expect(413).code(), "body-too-large");
    assert_eq!(gate.record_of(answer.id())["reason"], "content-too-large");
    let answer = open().request(post("Transfer-Encoding: chunked\r\n", "1\r\nx\r\n0\r\n\r\n"));
    assert_eq!(answer.expect(411).code(), "length-required");
    assert_eq!(gate.record_of(answer.id())["reason"], "content-length-missing");
    assert_eq!(gate.upstream.bytes().len(), arrived, "nothing of them went out");
}

#[test]
fn bodies_are_bounded_over_http2_as_well() {
    let gate = gate("{max_content_length: 5}");
    block_on(async {
        let mut client = Http2::open(&gate.dial().identity(&gate.acme)).await;
        client.get("/items").await.expect(200);
        let stating = |length: &str| {
            let mut request = request("POST", "/items");
            request.headers_mut().insert("content-length", length.parse().unwrap());
            request
        };
        client.request(stating("5"), b"12345").await.expect(200);
        let answer = client.request(request("POST", "/items"), b"").await;
        assert_eq!(answer.status, 200, "the head ends the stream: there is no body");

        let arrived = gate.upstream.bytes().len();
        let (answer, _body) = client.begin(stating("6"), false).await;
        let answer = whole(answer.await.unwrap()).await.unwrap();
        assert_eq!(answer.expect(413).code(), "body-too-large");
        let (answer, _body) = client.begin(request("POST", "/items"), false).await;
        let answer = whole(answer.await.unwrap()).await.unwrap();
        assert_eq!(answer.expect(411).code(), "length-required");
        assert_eq!(gate.record_of(answer.id())["reason"], "content-length-missing");
        assert_eq!(gate.upstream.bytes().len(), arrived, "nothing of them went out");

        // More than was stated is no way around it.
        let (answer, mut body) = client.begin(stating("5"), false).await;
        let _ = body.send_data(Bytes::from_static(b"123456789"), true);
        let answer = answer.await.map(|answer| answer.status().as_u16());
        assert!(!matches!(answer, Ok(200)), "{answer:?}");
        assert!(!gate.upstream.text().contains("6789"), "{}", gate.upstream.text());
    });
}

#[test]
fn example_is_served_from_where_it_is_copied_to_and_not_from_where_it_lies() {
    let (setup, folder) = Setup::new().own_policies();
    let gate = setup.start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.request(get("/items")).expect(200);
    let copied = folder.join("custom/per_environment");
    std::fs::create_dir_all(&copied).unwrap();
    for name in ["per_environment.rego", "per_environment_test.rego", "per_environment.yaml", "reasons.yaml"] {
        std::fs::copy(folder.join("examples/per_environment").join(name), copied.join(name)).unwrap();
    }
    gate.cli(&["policy", "check"]).ok();
    gate.reload();
    // The gateway's environment is `test`, of which the example's data says nothing.
    let answer =
        crate::harness::await_some("the example", || Some(conn.request(get("/items"))).filter(|a| a.status != 200));
    assert_eq!(answer.expect(403).code(), "not-permitted");
    assert_eq!(gate.record_of(answer.id())["reason"], "x-environment-not-described");
}
