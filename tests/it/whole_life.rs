//! One partner from the first operators to the tampered row that tells on whoever touched it: every step as an operator and
//! a partner take it, with the CLI, curl and openssl.

use crate::grants::{by_second, refused, waits};
use crate::harness::{Gate, HOST, Identity, await_some, this_user};
use crate::history::tamper;
use crate::issue::{Client, openssl, with_ca};
use crate::websocket;
use serde_json::Value;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What a client has, for the test's own client.
fn identity(gate: &Gate, client: &Client, cert: &str, key: &str) -> Identity {
    let (der, p8) = (client.path(&format!("{cert}.der")), client.path(&format!("{key}.p8")));
    openssl(&["x509", "-in", &client.path(cert), "-outform", "DER", "-out", &der]);
    openssl(&["pkcs8", "-topk8", "-nocrypt", "-in", &client.path(key), "-outform", "DER", "-out", &p8]);
    gate.pki.identity(&format!("life-{cert}"), vec![fs::read(der).unwrap()], fs::read(p8).unwrap())
}

fn get(gate: &Gate, who: &Identity, method: &str, path: &str) -> (u16, String) {
    let answer = gate.dial().identity(who).open().request(format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let code = if answer.status == 200 { String::new() } else { answer.code() };
    (answer.status, code)
}

/// What is asked for and approved by somebody else.
#[track_caller]
fn asked(gate: &Gate, arguments: &[&str]) -> String {
    let id = waits(&gate.cli(arguments).ok());
    refused(&gate.cli(&["approval", "approve", &id]), 3, "another operator with the role `approver`");
    by_second(gate, &["approval", "approve", &id, "--reason", "contract seen"]).ok();
    id
}

#[test]
fn partner_s_whole_life() {
    let mut gate = with_ca(false).without_operators().set("approval.four_eyes", "required").start();
    let ca = gate.dir.path().join("ca/partners-ca.pem").display().to_string();

    // Bootstrap: nobody may do anything before, and it is event 1.
    let add = ["partner", "add", "initech", "--name", "Initech", "--owner", "sales", "--contact", "sales@example.com"];
    refused(&gate.cli(&add), 4, "bootstrap");
    let token = gate.dir.path().join("second.token");
    let me = format!("{0}=user:{0}", this_user());
    gate.cli(&["admin", "bootstrap", &me, &format!("second=token:{}", token.display())]).ok();

    // Onboard.
    gate.cli(&["network", "add", "office", "--cidr", "127.0.0.1/32", "--reason", "CTR-1"]).ok();
    let about = ["--network", "office", "--starts", "2026-01-01T00:00:00Z", "--ends", "2099-01-01T00:00:00Z"];
    let more = ["--proofing", "commercial register", "--proofed-by", "vendor-office", "--review-every", "90d"];
    gate.cli(&[&add[..], &about, &more, &["--ticket", "CTR-1"]].concat()).ok();
    let crl = format!("file:{}", gate.dir.path().join("state/issue/partners-ca.crl").display());
    asked(&gate, &["anchor", "add", "partners-ca", "--certificate", &ca, "--partner", "initech", "--crl", &crl]);
    let name = "uri=spiffe://initech.example/erp";
    asked(&gate, &["credential", "add", "initech", "initech-1", "--anchor", "partners-ca", "--match", name]);

    // Request, and approval by another.
    let grant = ["grant", "request", "initech", "initech-items", "--operation", "items.list", "--owner", "items-team"];
    let ends = ["--ends", "2098-01-01T00:00:00Z", "--reason", "contract 4711", "--ticket", "CTR-2"];
    asked(&gate, &[&grant[..], &["--operation", "items.events"], &ends].concat());

    // Enrol: the code goes to the partner, the key never leaves it.
    let client = Client::new(&gate, "initech");
    refused(
        &gate.cli(&["--token", "env:NOBODY", "credential", "enrol", "initech", "initech-1", "--reason", "CTR-2"]),
        3,
        "the environment variable `NOBODY` is not set",
    );
    let code = by_second(&gate, &["credential", "enrol", "initech", "initech-1", "--reason", "CTR-2"]).ok();
    let csr = client.csr("key.pem", "/CN=erp", "");
    let (status, _, body) = client.enroll(&gate, code.lines().next().unwrap(), &csr);
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    client.keep(&body, "cert.pem");

    // Call.
    let first = identity(&gate, &client, "cert.pem", "key.pem");
    assert_eq!(get(&gate, &first, "GET", "/items").0, 200);
    assert_eq!(get(&gate, &first, "DELETE", "/items/1"), (403, "not-permitted".into()));

    // Rotate under load: a new name and a new key, and not one request fails.
    let client = client.with_key("key2.pem");
    let to = ["credential", "rotate", "initech", "initech-1", "--to", "initech-2", "--overlap", "0s"];
    let name = ["--match", "uri=spiffe://initech.example/erp2", "--reason", "yearly"];
    asked(&gate, &[&to[..], &name].concat());
    let code = by_second(&gate, &["credential", "enrol", "initech", "initech-2", "--reason", "yearly"]).ok();
    let csr = client.csr("key2.pem", "/CN=erp", "");
    let (_, _, body) = client.enroll(&gate, code.lines().next().unwrap(), &csr);
    client.keep(&body, "cert2.pem");
    let second = identity(&gate, &client, "cert2.pem", "key2.pem");
    let (moved, over, served) = (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(0));
    let failed: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // A connection takes the certificate that its client has at the time, and serves some requests.
                    let who = if moved.load(Ordering::Relaxed) { &second } else { &first };
                    let mut connection = gate.dial().identity(who).open();
                    for _ in 0..20 {
                        let answer = connection.request(format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
                        if answer.status != 200 {
                            failed.lock().unwrap().push(answer.text());
                        }
                        served.fetch_add(1, Ordering::Relaxed);
                        if answer.header("connection") == Some("close") {
                            break;
                        }
                    }
                }
            });
        }
        await_some("load under the old one", || (served.load(Ordering::Relaxed) > 200).then_some(()));
        moved.store(true, Ordering::Relaxed);
        let listed = |gate: &Gate| gate.cli(&["credential", "list", "--partner", "initech"]).ok();
        await_some("the old one to go", || listed(&gate).contains("succeeded by `initech-2`").then_some(()));
        let then = served.load(Ordering::Relaxed);
        await_some("load under the new one", || (served.load(Ordering::Relaxed) > then + 200).then_some(()));
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(*failed.lock().unwrap(), Vec::<String>::new(), "of {}", served.load(Ordering::Relaxed));
    let gone = client.call(&gate, ("cert.pem", "key.pem"), "/items").status;
    assert!(matches!(gone, 0 | 403), "in its handshake or after it: {gone}");
    assert_eq!(get(&gate, &second, "GET", "/items").0, 200);

    // The scope changes: more waits, less is at once.
    let more = ["grant", "request", "initech", "initech-more", "--operation", "items.delete", "--owner", "items-team"];
    asked(&gate, &[&more[..], &ends].concat());
    assert_eq!(get(&gate, &second, "DELETE", "/items/1").0, 200);
    gate.cli(&["grant", "revoke", "initech-more", "--yes", "--reason", "not needed"]).ok();
    assert_eq!(get(&gate, &second, "DELETE", "/items/1"), (403, "access-not-current".into()));

    // Incident: suspended and let go on; everybody locked down and let go on.
    let mut socket = gate.dial().identity(&second).open();
    socket.request(websocket::handshake("/events")).expect(101);
    gate.cli(&["partner", "suspend", "initech", "--reason", "odd traffic"]).ok();
    socket.assert_closed();
    assert_eq!(get(&gate, &second, "GET", "/items"), (403, "engagement-not-active".into()));
    gate.cli(&["partner", "resume", "initech", "--reason", "explained"]).ok();
    gate.cli(&["lockdown", "on", "--reason", "zero day"]).ok();
    assert_eq!(get(&gate, &second, "GET", "/items").0, 503);
    gate.cli(&["lockdown", "off", "--reason", "patched"]).ok();
    assert_eq!(get(&gate, &second, "GET", "/items").0, 200);

    // The end: at once, on what is open too, with a report; and it lasts.
    let mut socket = gate.dial().identity(&second).open();
    socket.request(websocket::handshake("/events")).expect(101);
    gate.cli(&["partner", "offboard", "initech", "--yes", "--reason", "contract ended", "--ticket", "CTR-9"]).ok();
    socket.assert_closed();
    // Refused by what the partner is, or already by the revocation list: whichever a client meets first.
    let denied = client.call(&gate, ("cert2.pem", "key2.pem"), "/items");
    assert!(matches!(denied.status, 0 | 403), "{}", denied.status);
    let report: Value =
        serde_json::from_str(&gate.cli(&["partner", "report", "initech", "--output", "json"]).ok()).unwrap();
    let closed = &report["closed"];
    assert_eq!(closed["credentials"], serde_json::json!(["initech-2"]), "{report}");
    assert_eq!(closed["grants"], serde_json::json!(["initech-items"]), "{report}");
    assert_eq!(report["certificates"].as_array().unwrap().len(), 2, "both were seen: {report}");
    assert!(report["enforced"]["all_closed_at"].is_string(), "{report}");
    assert_eq!(report["last_allowed"]["operation"], "items.events", "{report}");
    assert!(report["left_to_do"].as_array().is_some_and(|list| !list.is_empty()), "{report}");
    let (reason, request) = (&report["first_denied"]["reason"], &report["first_denied"]["request"]);
    match denied.status {
        403 => assert_eq!((reason, request), (&"engagement-ended".into(), &denied.json()["request_id"]), "{report}"),
        _ => assert_eq!((reason, request), (&"certificate-revoked".into(), &Value::Null), "{report}"),
    }
    let revoked = await_some("the list", || {
        let issued = gate.cli(&["credential", "issued", "initech"]).ok();
        (issued.lines().filter(|line| line.contains("revoked at")).count() == 2).then_some(issued)
    });
    assert!(revoked.contains(": superseded") && revoked.contains(": cessation-of-operation"), "{revoked}");
    gate.restart("KILL");
    assert_eq!(gate.dial().identity(&second).refused(), Some(rustls::AlertDescription::CertificateRevoked));

    // The history has all of it, in order, and by whom.
    let events = gate.cli(&["history", "all", "--output", "json"]).ok();
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&events[0]["seq"], &events[0]["verb"]), (&1.into(), &"bootstrap".into()));
    let mut from = 0;
    for (what, fits) in [
        ("onboarded", ("partner", "create", "", "commercial register")),
        ("anchor approved", ("anchor", "create", "second", "contract seen")),
        ("credential approved", ("partner", "change", "second", "spiffe://initech.example/erp")),
        ("grant asked for", ("approval", "create", "", "initech-items")),
        ("grant approved", ("partner", "change", "second", "initech-items")),
        ("code made", ("enrolment", "create", "second", "CTR-2")),
        ("enrolled", ("certificate", "create", "initech-1", "spiffe://initech.example/erp")),
        ("rotation asked for", ("approval", "create", "", "initech-2")),
        ("rotated", ("partner", "change", "second", "\"retiring\"")),
        ("enrolled again", ("certificate", "create", "initech-2", "spiffe://initech.example/erp2")),
        ("old one revoked", ("partner", "change", "partnergate", "succeeded by `initech-2`")),
        ("scope widened", ("partner", "change", "second", "initech-more")),
        ("grant revoked", ("partner", "change", "", "not needed")),
        ("suspended", ("partner", "change", "", "odd traffic")),
        ("resumed", ("partner", "change", "", "explained")),
        ("locked down", ("lockdown", "create", "", "zero day")),
        ("let go on", ("lockdown", "remove", "", "patched")),
        ("offboarded", ("partner", "change", "", "CTR-9")),
        ("reported", ("report", "create", "", "contract ended")),
    ] {
        let (noun, verb, actor, says) = fits;
        let actor = if actor.is_empty() { this_user() } else { actor.to_owned() };
        let found = events[from..].iter().position(|e| {
            let said = e.to_string();
            e["noun"] == noun && e["verb"] == verb && e["actor"]["name"] == actor.as_str() && said.contains(says)
        });
        from += found.unwrap_or_else(|| panic!("{what} is not in {events:#?}")) + 1;
    }
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
    let records = gate.dir.path().join("records.jsonl").display().to_string();
    await_some("copies of it", || {
        let said = gate.cli(&["audit", "verify", "--records", &records]).ok();
        (said.starts_with("good: ") && !said.contains("are not in these records")).then_some(())
    });

    // And whoever has the database alone is found out.
    gate.stop("TERM");
    tamper(&gate, "UPDATE event SET event = replace(event, 'contract ended', 'all is well') WHERE id = 'initech'");
    let found = gate.cli(&["audit", "--offline", "verify"]);
    assert_eq!(found.exit, Some(3), "{}", found.text());
    assert!(found.text().contains("was altered"), "{}", found.text());
}
