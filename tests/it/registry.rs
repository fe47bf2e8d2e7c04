//! The registry through its commands: plans, all or nothing, live at once, and still there after the end of a process.
//! Threats 4 and 5, as far as registration refuses them.

use crate::grants::refused;
use crate::harness::http2::block_on;
use crate::harness::{Authority, DEADLINE, Finished, Gate, HOST, Response, Setup, TlsConn, await_some, run, this_user};
use partnergate::clock::Clock;
use partnergate::history::{Actor, Cause, Way};
use partnergate::name::PartnerId;
use partnergate::registry::Change;
use partnergate::store::Store;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const REVISION: &str = "partnergate_snapshot_registry_revision";
const ACME_ITEMS: &str = "[items.read, items.list, items.create, pairs.read]";

fn get(conn: &mut TlsConn, path: &str) -> Response {
    conn.request(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
}

/// The text with its first `from` replaced; fails when there is none, because the test would then show nothing.
#[track_caller]
fn edited(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no `{from}` in\n{text}");
    text.replacen(from, to, 1)
}

#[track_caller]
fn line_of(text: &str, what: &str) -> usize {
    text.lines().position(|l| l.contains(what)).unwrap_or_else(|| panic!("no `{what}` in\n{text}")) + 1
}

fn apply(gate: &Gate, folder: &Path, more: &[&str]) -> Finished {
    gate.cli(&[&["apply", "-f", folder.to_str().unwrap()], more].concat())
}

/// One call of the admin API without the CLI: status and body.
fn admin(socket: &Path, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let body = body.to_string();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

fn socket(gate: &Gate) -> PathBuf {
    gate.dir.path().join("state/admin.sock")
}

/// Files of a folder as the admin API takes them.
fn files(folder: &Path) -> Vec<Value> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let one = |path: PathBuf| json!({"name": path.file_name().unwrap().to_str(), "text": std::fs::read_to_string(&path).unwrap()});
    entries.map(|e| one(e.path())).collect()
}

#[test]
fn apply_shows_a_plan_and_does_nothing_before_a_yes() {
    let gate = Gate::start();
    let narrowed = edited(gate.registry_text(), ACME_ITEMS, "[items.read]");
    let folder = gate.write_registry(&narrowed);
    let revision = gate.metric(REVISION);

    // Nobody can be asked: stdin is no terminal.
    for (more, exit) in [(&[][..], Some(3)), (&["--dry-run"][..], Some(0))] {
        let planned = apply(&gate, &folder, more);
        let out = planned.text();
        assert_eq!(planned.exit, exit, "{more:?}: {out}{}", planned.stderr);
        let line = out.lines().find(|l| l.contains("acme")).unwrap_or_else(|| panic!("no line on acme: {out}"));
        assert!(line.starts_with("change") && line.contains("partner"), "{line}");
        assert!(line.contains("acme-items") && line.contains("items.list") && line.contains("items.create"), "{line}");
        assert!(!out.contains("globex"), "nothing of globex changes: {out}");
        assert_eq!(gate.metric(REVISION), revision);
    }
    let refused = apply(&gate, &folder, &[]);
    assert!(refused.stderr.contains("--yes"), "{}", refused.stderr);
    let mut conn = gate.dial().identity(&gate.acme).open();
    get(&mut conn, "/items").expect(200);

    let done = apply(&gate, &folder, &["--yes"]).ok();
    assert!(done.contains("revision 2"), "{done}");
    assert_eq!(gate.metric(REVISION), revision + 1.0);
    get(&mut conn, "/items").expect(403);

    let again = apply(&gate, &folder, &["--yes"]).ok();
    assert!(again.contains("nothing to change"), "{again}");
    assert_eq!(gate.metric(REVISION), revision + 1.0, "what changes nothing is no revision");
}

#[test]
fn a_plan_can_be_read_by_programs() {
    let gate = Gate::start();
    let folder = gate.write_registry(&edited(gate.registry_text(), "name: Acme GmbH", "name: Acme SE"));
    let planned: Value = serde_json::from_str(&apply(&gate, &folder, &["--dry-run", "--output", "json"]).ok()).unwrap();
    assert_eq!(planned["lines"][0]["action"], "change");
    assert_eq!(planned["lines"][0]["noun"], "partner");
    assert_eq!(planned["lines"][0]["id"], "acme");
    let applied: Value = serde_json::from_str(&apply(&gate, &folder, &["--yes", "--output", "json"]).ok()).unwrap();
    assert_eq!((&applied["changed"], &applied["revision"]), (&json!(true), &json!(2)));
}

#[test]
fn one_bad_file_of_a_folder_changes_nothing() {
    let gate = Gate::start();
    let folder = gate.write_registry(&edited(gate.registry_text(), "owner: payments-team", "owner: another-team"));
    let bad = "environment: test\nnetworks:\n  office: {cidrs: [10.0.0.0/8]}\npartners:\n  initech:\n    name: Initech\n    nmae: twice\n";
    std::fs::write(folder.join("zz-bad.yaml"), bad).unwrap();
    let export = || gate.cli(&["export"]).ok();
    let (before, revision) = (export(), gate.metric(REVISION));

    let refused = apply(&gate, &folder, &["--yes", "--prune"]);
    assert_eq!(refused.exit, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("zz-bad.yaml:7"), "{}", refused.stderr);
    assert!(refused.stderr.contains("nothing was changed"), "{}", refused.stderr);
    assert_eq!((export(), gate.metric(REVISION)), (before, revision));
    gate.dial().identity(&gate.acme).open().request(format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).expect(200);

    std::fs::remove_file(folder.join("zz-bad.yaml")).unwrap();
    apply(&gate, &folder, &["--yes", "--prune"]).ok();
}

#[test]
fn errors_of_all_files_are_named_at_once_with_file_line_and_field() {
    let gate = Gate::start();
    let mut text = gate.registry_text().to_owned();
    // (what is written instead, the field, what is said)
    let wrong = [
        ("owner: payments-team", "ownr: payments-team", "partners.acme.ownr", "unknown key"),
        ("networks: [loopback]", "networks: loopback", "partners.acme.networks", "expected a list"),
        ("acme.example/client", "acme.example/a b", "partners.acme.credentials.acme-client.match", "SPIFFE"),
        ("2100-01-01T00:00:00Z}", "2100-01-01}", "partners.acme.engagement.ends", "date without a time"),
        (
            "operations: [items.events], ends: 2100",
            "operations: [items.events], starts: x, ends: 2100",
            "partners.acme.grants.acme-socket.starts",
            "RFC 3339",
        ),
    ];
    let mut expected = Vec::new();
    for (from, to, field, said) in wrong {
        text = edited(&text, from, to);
        expected.push((format!("registry.yaml:{}:", line_of(&text, to)), field, said));
    }
    let folder = gate.write_registry(&text);
    std::fs::write(folder.join("more.yaml"), "environment: test\nnetworks:\n  office: {cidrs: [10.0.0.1/8]}\n")
        .unwrap();
    expected.push(("more.yaml:3:".into(), "networks.office.cidrs", "10.0.0.0/8"));
    let refused = apply(&gate, &folder, &["--yes"]);
    assert_eq!(refused.exit, Some(3));
    for (place, field, said) in expected {
        let found = refused.stderr.lines().any(|l| l.contains(&place) && l.contains(field) && l.contains(said));
        assert!(found, "no line with `{place}`, `{field}` and `{said}` in\n{}", refused.stderr);
    }
    assert_eq!(gate.metric(REVISION), 1.0);
}

#[test]
fn references_that_lead_nowhere_are_named_with_file_line_and_field() {
    let gate = Gate::start();
    let wrong = [
        ("networks: [loopback]", "networks: [loopbakc]", "partners.acme.networks", "loopbakc"),
        ("{anchor: acme-ca,", "{anchor: acme-co,", "partners.acme.credentials.acme-client.anchor", "acme-co"),
        ("[items.events], ends", "[items.evnets], ends", "partners.acme.grants.acme-socket.operations", "items.events"),
        (
            "[items.events], ends",
            "[items.events], credentials: [acme-clinet], ends",
            "partners.acme.grants.acme-socket.credentials",
            "acme-clinet",
        ),
        ("certificate: acme-ca.pem", "certificate: acme-co.pem", "anchors.acme-ca.certificate", "acme-co.pem"),
    ];
    for (from, to, field, said) in wrong {
        let text = edited(gate.registry_text(), from, to);
        let refused = apply(&gate, &gate.write_registry(&text), &["--yes"]);
        assert_eq!(refused.exit, Some(3), "{to}: {}", refused.stderr);
        let place = format!("registry.yaml:{}:", line_of(&text, to));
        let found = refused.stderr.lines().any(|l| l.contains(&place) && l.contains(field) && l.contains(said));
        assert!(found, "no line with `{place}`, `{field}` and `{said}` in\n{}", refused.stderr);
    }
    assert_eq!(gate.metric(REVISION), 1.0);
}

#[test]
fn a_folder_for_another_environment_is_refused() {
    let gate = Gate::start();
    let text = edited(gate.registry_text(), "environment: test", "environment: production");
    for more in [&["--yes"][..], &["--dry-run"][..]] {
        let refused = apply(&gate, &gate.write_registry(&text), more);
        assert_eq!(refused.exit, Some(3));
        let place = format!("registry.yaml:{}:", line_of(&text, "environment:"));
        let said = &refused.stderr;
        assert!(said.contains(&place) && said.contains("`production`") && said.contains("`test`"), "{said}");
    }
    // Neither may anything be without an environment.
    let text = edited(gate.registry_text(), "environment: test", "");
    let refused = apply(&gate, &gate.write_registry(&text), &["--yes"]);
    assert_eq!(refused.exit, Some(3));
    assert!(refused.stderr.contains("no environment is named"), "{}", refused.stderr);
    assert_eq!(gate.metric(REVISION), 1.0);
}

#[test]
fn a_change_is_decided_on_by_the_next_request_of_an_open_connection() {
    let gate = Gate::start();
    let text = gate.registry_text().to_owned();
    let mut conn = gate.dial().identity(&gate.acme).open();
    get(&mut conn, "/items").expect(200);
    get(&mut conn, "/items").expect(200);

    let acme = "networks: [loopback]\n    credentials:\n      acme-client";
    let engaged = "engagement: {starts: 2020-01-01T00:00:00Z, ends: 2100";
    let changes = [
        ("grant narrowed", ACME_ITEMS, "[items.read]", "operation-not-granted", "not-permitted"),
        (
            "partner suspended",
            "name: Acme GmbH",
            "name: Acme GmbH\n    state: suspended",
            "partner-not-active",
            "engagement-not-active",
        ),
        (
            "engagement ended",
            engaged,
            "engagement: {starts: 2020-01-01T00:00:00Z, ends: 2021",
            "engagement-ended",
            "engagement-not-active",
        ),
        (
            "credential revoked",
            "{anchor: acme-ca, ",
            "{state: revoked, anchor: acme-ca, ",
            "credential-not-active",
            "credential-not-valid",
        ),
        (
            "network removed",
            acme,
            "networks: []\n    credentials:\n      acme-client",
            "network-not-allowed",
            "source-not-permitted",
        ),
        (
            "network moved",
            "[127.0.0.1/32, \"::1/128\"]",
            "[203.0.113.0/24]",
            "network-not-allowed",
            "source-not-permitted",
        ),
    ];
    let mut revision = 1;
    for (what, from, to, reason, code) in changes {
        gate.apply(&edited(&text, from, to));
        let refused = get(&mut conn, "/items");
        refused.expect(403);
        revision += 1;
        let record = gate.record_of(refused.id());
        assert_eq!((record["reason"].as_str(), refused.code().as_str()), (Some(reason), code), "{what}");
        assert_eq!(record["snapshot"]["registry"], revision, "{what}");
        if reason == "credential-not-active" {
            let back = gate.try_apply(&text);
            assert!(back.stderr.contains("`acme-client` was revoked, and never comes back"), "{}", back.text());
            gate.apply_anew(&text);
            revision += 1;
        } else {
            gate.apply(&text);
        }
        revision += 1;
        // A connection on which its identity lost every right ends with the answer that says so.
        if refused.header("connection") == Some("close") {
            assert!(!what.starts_with("grant") && !what.starts_with("network"), "{what}");
            conn.assert_closed();
            conn = gate.dial().identity(&gate.acme).open();
        }
        let allowed = get(&mut conn, "/items");
        allowed.expect(200);
        assert_eq!(gate.record_of(allowed.id())["snapshot"]["registry"], revision, "back after: {what}");
    }

    // The other way round: what was denied is allowed once it is granted.
    let delete = format!("DELETE /items/7 HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    conn.request(&delete).expect(403);
    gate.apply(&edited(&text, ACME_ITEMS, "[items.list, items.delete]"));
    conn.request(&delete).expect(200);
    get(&mut conn, "/items/7").expect(403);

    // The partner is gone; the other one is not.
    let globex_only = &text[text.find("  globex:\n").unwrap()..];
    let gone = format!("{}{globex_only}", &text[..text.find("  acme:\n").unwrap()]);
    gate.apply(&gone);
    let refused = get(&mut conn, "/items");
    refused.expect(403);
    assert_eq!(refused.code(), "identity-unknown");
    get(&mut gate.dial().identity(&gate.globex).open(), "/items").expect(200);
    // Nobody had to send a signal for any of it.
    assert!(!gate.metrics().contains("partnergate_reloads_total{"), "{}", gate.metrics());
}

#[test]
fn a_change_is_live_within_200_ms() {
    let gate = Gate::start();
    let allowed = gate.write_registry(gate.registry_text());
    let call = |folder: &Path| json!({"files": files(folder)});
    let allow = call(&allowed);
    let deny = call(&gate.write_registry(&edited(gate.registry_text(), ACME_ITEMS, "[items.read]")));
    let mut conn = gate.dial().identity(&gate.acme).open();
    get(&mut conn, "/items").expect(200);
    // From the call to the first answer that is decided anew. Other tests run beside this one and take the processor
    // away at times; the quickest of a few shows what the gateway itself needs.
    let socket = socket(&gate);
    let mut took = Vec::new();
    for (change, status) in [(&deny, 403), (&allow, 200)].into_iter().cycle().take(8) {
        let started = Instant::now();
        std::thread::scope(|s| {
            s.spawn(|| assert_eq!(admin(&socket, "POST", "/v1/apply", change).0, 200));
            await_some("the change", || (get(&mut conn, "/items").status == status).then_some(()));
            took.push(started.elapsed());
        });
    }
    assert!(took.iter().min() < Some(&Duration::from_millis(200)), "{took:?}");
}

#[test]
fn an_operation_that_appears_later_is_not_covered_before_somebody_widens() {
    let registry = edited(Setup::new().registry_text(), "[items.list], ends", "[\"items.*\"], ends");
    let gate = Setup::new().registry(&registry).start();
    let mut conn = gate.dial().identity(&gate.globex).open();
    get(&mut conn, "/items/7").expect(200);
    get(&mut conn, "/exports").expect(403);

    let mut config = gate.config().clone();
    let operations = config["routes"]["api"]["operations"].as_array_mut().unwrap();
    operations.push(json!({"id": "items.export", "method": "GET", "path": "/exports"}));
    std::fs::write(gate.config_file(), config.to_string()).unwrap();
    gate.reload();
    get(&mut conn, "/exports").expect(403);

    let folder = gate.write_registry(&registry);
    let plan = apply(&gate, &folder, &["--yes"]).ok();
    let line = plan.lines().find(|l| l.starts_with("would-widen")).unwrap_or_else(|| panic!("{plan}"));
    assert!(line.contains("globex-items") && line.contains("items.export") && line.contains("--widen"), "{line}");
    get(&mut conn, "/exports").expect(403);
    // Another change of the same partner does not widen by the way.
    let renamed = gate.write_registry(&edited(&registry, "name: Globex Corporation", "name: Globex"));
    apply(&gate, &renamed, &["--yes"]).ok();
    get(&mut conn, "/exports").expect(403);

    let plan = apply(&gate, &renamed, &["--yes", "--widen"]).ok();
    assert!(plan.contains("items.export") && !plan.contains("would-widen"), "{plan}");
    get(&mut conn, "/exports").expect(200);
    let plan = apply(&gate, &renamed, &["--yes"]).ok();
    assert!(plan.contains("nothing to change"), "{plan}");
}

#[test]
fn what_is_not_declared_goes_only_with_prune() {
    let gate = Gate::start();
    let text = gate.registry_text().to_owned();
    let (acme, globex) = (text.find("  acme:\n").unwrap(), text.find("  globex:\n").unwrap());
    let only_acme = format!("{}{}", &text[..acme], &text[acme..globex]);
    let without = edited(&only_acme, "  globex-ca: {certificate: globex-ca.pem, partners: [globex]}\n", "");
    let folder = gate.write_registry(&without);
    let globex = || gate.dial().identity(&gate.globex).open();
    let mut open = globex();
    get(&mut open, "/items").expect(200);

    let plan = apply(&gate, &folder, &["--yes"]).ok();
    assert!(plan.contains("nothing to change"), "{plan}");
    get(&mut open, "/items").expect(200);

    let plan = apply(&gate, &folder, &["--yes", "--prune"]).ok();
    for gone in ["partner", "anchor"] {
        assert!(plan.lines().any(|l| l.starts_with("remove") && l.contains(gone) && l.contains("globex")), "{plan}");
    }
    get(&mut open, "/items").expect(403);
    // Nobody vouches for its certificates any more.
    gate.dial().identity(&gate.globex).refused();
    get(&mut gate.dial().identity(&gate.acme).open(), "/items").expect(200);
    let list = gate.cli(&["partner", "list"]).ok();
    assert!(list.contains("acme") && !list.contains("globex"), "{list}");

    // What others still refer to cannot be pruned.
    let text = edited(&without, "networks:\n  loopback: {cidrs: [127.0.0.1/32, \"::1/128\"]}\n", "");
    let refused = apply(&gate, &gate.write_registry(&text), &["--yes", "--prune"]);
    assert_eq!(refused.exit, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("loopback") && refused.stderr.contains("acme"), "{}", refused.stderr);
    get(&mut gate.dial().identity(&gate.acme).open(), "/items").expect(200);
}

/// Who gets which answer to what.
fn answers(gate: &Gate, from: &Gate) -> Vec<(String, &'static str, u16, String)> {
    let mut out = Vec::new();
    for who in [&from.acme, &from.globex] {
        let mut conn = gate.dial().identity(who).open();
        for path in ["/items", "/items/7", "/pairs/1/2", "/exports", "/none"] {
            let answer = get(&mut conn, path);
            let grant = gate.record_of(answer.id())["grant"].as_str().unwrap_or("none").to_owned();
            out.push((who.name.clone(), path, answer.status, grant));
        }
    }
    out
}

#[test]
fn an_export_applied_to_an_empty_gateway_gives_the_same_answers() {
    let plain = Setup::new();
    let text = edited(
        plain.registry_text(),
        "name: Acme GmbH",
        "name: \"Acme: \\\"GmbH\\\" – ü\"\n    labels: {tier: gold}\n    time_zone: Europe/Berlin",
    );
    let text = edited(
        &text,
        "[items.list], ends",
        "[\"items.*\"], starts: 2020-02-29T23:30:00.123456789+05:30, networks: [loopback], credentials: [globex-client], ends",
    );
    let gate = plain.registry(&text).start();
    let empty = Setup::new().registry("").start();
    let folder = gate.dir.path().join("export");
    let said = gate.cli(&["export", "--directory", folder.to_str().unwrap()]).ok();
    assert!(said.contains("3 files"), "{said}");

    // Applied where it came from, it changes nothing.
    let plan = apply(&gate, &folder, &["--yes", "--prune"]).ok();
    assert!(plan.contains("nothing to change"), "{plan}");
    // Before, nobody there knew these authorities.
    empty.dial().identity(&gate.acme).refused();
    apply(&empty, &folder, &["--yes"]).ok();
    assert_eq!(answers(&empty, &gate), answers(&gate, &gate));
    assert_eq!(empty.cli(&["export"]).ok(), gate.cli(&["export"]).ok());
}

#[test]
fn an_export_does_not_widen_a_grant_where_it_is_applied() {
    let text = edited(Setup::new().registry_text(), "[items.list], ends", "[\"items.*\"], ends");
    let gate = Setup::new().registry(&text).start();
    // An operation appears that the grant's pattern would cover, and nobody has widened the grant.
    let with_export = |gate: &Gate| {
        let mut config = gate.config().clone();
        let operations = config["routes"]["api"]["operations"].as_array_mut().unwrap();
        operations.push(json!({"id": "items.export", "method": "GET", "path": "/exports"}));
        std::fs::write(gate.config_file(), config.to_string()).unwrap();
        gate.reload();
    };
    with_export(&gate);
    let folder = gate.dir.path().join("export");
    gate.cli(&["export", "--directory", folder.to_str().unwrap()]).ok();
    let empty = Setup::new().registry("").start();
    with_export(&empty);
    apply(&empty, &folder, &["--yes"]).ok();
    assert_eq!(answers(&empty, &gate), answers(&gate, &gate));
}

#[test]
fn partners_are_listed_and_shown_in_utc_and_in_their_own_zone() {
    let text = edited(Setup::new().registry_text(), "name: Acme GmbH", "name: Acme GmbH\n    time_zone: Europe/Berlin");
    let text = edited(
        &text,
        "items.read, items.list, items.create, pairs.read], ends: 2100-01-01T00:00:00Z",
        "items.read], starts: 2026-07-01T00:00:00+02:00, ends: 2099-12-31T23:00:00Z",
    );
    let text = edited(&text, "name: Globex Corporation", "name: Globex Corporation\n    state: suspended");
    let gate = Setup::new().registry(&text).start();
    let list = gate.cli(&["partner", "list"]).ok();
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].contains("UTC") && lines.len() == 3, "{list}");
    let acme: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(acme, ["acme", "active", "1", "2", "2100-01-01T00:00:00Z", "Acme", "GmbH"]);
    assert!(lines[2].starts_with("globex ") && lines[2].contains(" suspended "), "{list}");
    let list: Value = serde_json::from_str(&gate.cli(&["partner", "list", "--output", "json"]).ok()).unwrap();
    assert_eq!(list["partners"][1]["state"], "suspended");

    let shown = gate.cli(&["partner", "show", "acme"]).ok();
    for part in [
        "acme — Acme GmbH",
        "owner       payments-team",
        // Winter and summer, as the zone has it.
        "2020-01-01T00:00:00Z (2020-01-01T01:00:00 Europe/Berlin)",
        "2026-06-30T22:00:00Z (2026-07-01T00:00:00 Europe/Berlin)",
        "2099-12-31T23:00:00Z (2100-01-01T00:00:00 Europe/Berlin)",
        "networks    loopback",
        "acme-client (active, under acme-ca)",
        "spiffe://acme.example/client",
        "acme-items (active, owner items-team)",
        "items.read",
    ] {
        assert!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    let globex = gate.cli(&["partner", "show", "globex"]).ok();
    assert!(globex.contains("2100-01-01T00:00:00Z"), "{globex}");
    assert!(!globex.contains("2100-01-01T00:00:00Z ("), "UTC is not shown twice: {globex}");
    let nobody = gate.cli(&["partner", "show", "nobody"]);
    assert_eq!(nobody.exit, Some(3));
    assert!(nobody.stderr.contains("no such partner"), "{}", nobody.stderr);
}

/// How often `partner show` says that acme has used an operation, and its whole line.
fn used(gate: &Gate, operation: &str) -> Option<(u64, String)> {
    let shown = gate.cli(&["partner", "show", "acme"]).ok();
    let line = shown.lines().find(|l| l.trim_start().starts_with("used") && l.contains(operation))?;
    Some((line.split_whitespace().nth(1)?.parse().unwrap(), line.to_owned()))
}

#[test]
fn use_is_counted_while_the_gateway_runs() {
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for _ in 0..3 {
        get(&mut conn, "/items/7").expect(200);
    }
    conn.request(format!("DELETE /items/7 HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).expect(403);
    let (count, line) = await_some("the use in `partner show`", || used(&gate, "items.read"));
    assert_eq!(count, 3);
    assert!(line.contains("acme-client") && line.contains("loopback") && line.contains("last 20"), "{line}");
    assert_eq!(used(&gate, "items.delete"), None, "what was denied was not used");
}

#[test]
fn use_survives_a_restart_and_goes_on() {
    let mut gate = Gate::start();
    let call = |gate: &Gate| {
        let mut conn = gate.dial().identity(&gate.acme).open();
        get(&mut conn, "/items/7").expect(200);
        let answer = get(&mut conn, "/items/8");
        gate.record_of(answer.expect(200).id());
    };
    call(&gate);
    gate.restart("TERM");
    let (count, first) = used(&gate, "items.read").expect("use from before the restart");
    assert_eq!(count, 2);
    call(&gate);
    gate.restart("TERM");
    let (count, second) = used(&gate, "items.read").unwrap();
    assert_eq!(count, 4);
    let last = |line: &str| line.rsplit_once("last ").unwrap().1.to_owned();
    assert!(last(&second) > last(&first), "{first}\n{second}");
}

/// What changes in a registry, operators ask for; who has the machine fills an empty one.
#[test]
fn empty_database_is_filled_offline_and_no_other() {
    let setup = Setup::new();
    fs::write(setup.config_file(), setup.config().to_string()).unwrap();
    let folder = setup.write_registry(setup.registry_text());
    let import = |setup: &Setup, more: &[&str]| {
        setup.cli(&[&["db", "import", "-f", folder.to_str().unwrap(), "--reason", "moved here"], more].concat())
    };
    // The same errors as of an apply.
    fs::write(folder.join("more.yaml"), "environment: test\nnetworks: {a: {cidr: [10.0.0.0/8]}}\n").unwrap();
    let refused = import(&setup, &[]);
    assert_eq!(refused.exit, Some(3));
    assert!(refused.stderr.contains("more.yaml:2:16: `networks.a.cidr`: unknown key"), "{}", refused.stderr);
    fs::remove_file(folder.join("more.yaml")).unwrap();
    let planned = import(&setup, &["--dry-run"]).ok();
    assert!(planned.contains("create       partner    acme") && !planned.contains("imported"), "{planned}");
    let done = import(&setup, &[]).ok();
    assert!(done.ends_with("imported; registry revision 1\n"), "{done}");
    let again = import(&setup, &[]);
    assert_eq!(again.exit, Some(3), "{}", again.text());
    assert!(again.stderr.contains("there is a registry already"), "{}", again.stderr);

    let gate = setup.registry("").start();
    let running = import(&gate, &[]);
    assert_eq!(running.exit, Some(1), "{}", running.text());
    assert!(running.stderr.contains("another partnergate"), "{}", running.stderr);
    assert_eq!(gate.metric(REVISION), 1.0);
    get(&mut gate.dial().identity(&gate.acme).open(), "/items").expect(200);
    let shown = gate.cli(&["history", "partner", "acme"]).ok();
    assert!(shown.contains(&format!("by {} (offline): moved here", this_user())), "{shown}");
}

#[test]
fn without_a_gateway_the_registry_is_read_offline() {
    let mut gate = Gate::start();
    let export = gate.cli(&["export"]).ok();
    let show = gate.cli(&["partner", "show", "acme"]).ok();
    gate.signal("TERM");
    gate.process.ended();
    assert_eq!(gate.cli(&["export", "--offline"]).ok(), export);
    assert!(gate.cli(&["partner", "list", "--offline"]).ok().contains("acme"));
    assert_eq!(gate.cli(&["partner", "show", "acme", "--offline"]).ok(), show);
}

#[test]
fn a_bare_date_is_refused_with_both_readings() {
    let gate = Gate::start();
    let text =
        edited(gate.registry_text(), "ends: 2100-01-01T00:00:00Z}\n    networks", "ends: 2027-03-31}\n    networks");
    let refused = apply(&gate, &gate.write_registry(&text), &["--yes"]);
    assert_eq!(refused.exit, Some(3));
    let said = &refused.stderr;
    assert!(said.contains(&format!("registry.yaml:{}:", line_of(&text, "2027-03-31"))), "{said}");
    // In UTC and with an offset, and what an end means.
    assert!(said.contains("`2027-03-31T00:00:00Z`") && said.contains("`2027-03-31T00:00:00+01:00`"), "{said}");
    assert!(said.contains("exclusive") && said.contains("next day"), "{said}");
    for bad in ["2027-03-31T00:00:00", "tomorrow"] {
        let text = edited(
            gate.registry_text(),
            "ends: 2100-01-01T00:00:00Z}\n    networks",
            &format!("ends: {bad}}}\n    networks"),
        );
        let refused = apply(&gate, &gate.write_registry(&text), &["--yes"]);
        assert!(refused.stderr.contains("offset"), "{bad}: {}", refused.stderr);
    }
}

#[test]
fn networks_are_compared_on_every_kind_of_listener() {
    let setup = Setup::new().set("partner.listen", json!(["127.0.0.1:0", "[::1]:0", "[::]:0"]));
    let gate = setup.start();
    let [v4, v6, dual] = gate.addresses() else { panic!("{:?}", gate.addresses()) };
    let named = "networks:\n  four: {cidrs: [127.0.0.1]}\n  second: {cidrs: [127.0.0.2/32]}\n  six: {cidrs: [\"::1\"]}\n  wide: {cidrs: [127.0.0.0/8]}";
    let base = edited(gate.registry_text(), "networks:\n  loopback: {cidrs: [127.0.0.1/32, \"::1/128\"]}", named);
    let base = base.replace("[loopback]", "[wide]");
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    // Where from and to, and the address that a record names.
    let ways: [(&str, IpAddr, SocketAddr); 5] = [
        ("127.0.0.1", loopback, *v4),
        ("127.0.0.2", ip("127.0.0.2"), *v4),
        ("::1", ip("::1"), *v6),
        ("127.0.0.1", loopback, SocketAddr::new(loopback, dual.port())),
        ("::1", ip("::1"), SocketAddr::new(ip("::1"), dual.port())),
    ];
    let yes = [true; 5];
    // The partner's list, the grant's, and who may call.
    let cases = [
        ("[four]", None, [true, false, false, true, false]),
        ("[six]", None, [false, false, true, false, true]),
        ("[four, six]", None, [true, false, true, true, true]),
        ("[wide]", Some("[second]"), [false, true, false, false, false]),
        ("[second]", Some("[wide]"), [false, true, false, false, false]),
        ("[four]", Some("[second]"), [false; 5]),
        ("[four]", Some("[]"), [false; 5]),
        ("[]", None, [false; 5]),
        ("[]", Some("[any]"), [false; 5]),
        ("[any]", None, yes),
        ("[any]", Some("[six]"), [false, false, true, false, true]),
    ];
    for (partner, grant, expected) in cases {
        let text = edited(&base, "networks: [wide]", &format!("networks: {partner}"));
        let grant_networks = grant.map_or(String::new(), |g| format!(", networks: {g}"));
        let text = edited(&text, ACME_ITEMS, &format!("{ACME_ITEMS}{grant_networks}"));
        gate.apply(&text);
        for ((shown, from, to), allowed) in ways.iter().zip(expected) {
            let answer = get(&mut gate.dial().identity(&gate.acme).from(*from).to(*to).open(), "/items");
            let what = format!("partner {partner}, grant {grant:?}, from {from} to {to}");
            assert_eq!(answer.status, if allowed { 200 } else { 403 }, "{what}: {}", answer.text());
            let record = gate.record_of(answer.id());
            assert_eq!(record["input"]["source"]["ip"], *shown, "{what}");
            if !allowed {
                assert_eq!(record["reason"], "network-not-allowed", "{what}");
            }
        }
    }
}

#[test]
fn networks_are_written_exactly() {
    let gate = Gate::start();
    let cidrs = "[127.0.0.1/32, \"::1/128\"]";
    for (written, said) in [
        ("[\"fe80::1%eth0\"]", "zone"),
        ("[\"::ffff:127.0.0.1\"]", "127.0.0.1/32"),
        ("[127.0.0.1/8]", "127.0.0.0/8"),
        ("[localhost]", "not a network"),
        ("[\"\"]", "not a network"),
    ] {
        let text = edited(gate.registry_text(), cidrs, written);
        let refused = apply(&gate, &gate.write_registry(&text), &["--yes"]);
        assert_eq!(refused.exit, Some(3), "{written}");
        let place = format!("registry.yaml:{}:", line_of(&text, "loopback: {cidrs"));
        assert!(refused.stderr.contains(&place) && refused.stderr.contains(said), "{written}: {}", refused.stderr);
    }
    // `any` is written where it is meant, and cannot be made to mean anything else; nor is a missing list `any`.
    let text =
        edited(gate.registry_text(), "networks:\n  loopback", "networks:\n  any: {cidrs: [10.0.0.0/8]}\n  loopback");
    let refused = apply(&gate, &gate.write_registry(&text), &["--yes"]);
    assert!(refused.exit == Some(3) && refused.stderr.contains("cannot be defined"), "{}", refused.stderr);
    let text = edited(gate.registry_text(), "    networks: [loopback]\n", "");
    let refused = apply(&gate, &gate.write_registry(&text), &["--yes"]);
    assert!(refused.exit == Some(3) && refused.stderr.contains("partners.acme.networks"), "{}", refused.stderr);
}

#[test]
fn what_was_applied_survives_a_restart_and_a_kill() {
    let mut gate = Gate::start();
    let narrowed = edited(gate.registry_text(), ACME_ITEMS, "[items.read]");
    gate.apply(&narrowed);
    let export = gate.cli(&["export"]).ok();
    for signal in ["KILL", "TERM", "KILL"] {
        gate.restart(signal);
        assert_eq!(gate.cli(&["export"]).ok(), export, "after {signal}");
        assert_eq!(gate.metric(REVISION), 2.0, "after {signal}");
        let mut conn = gate.dial().identity(&gate.acme).open();
        get(&mut conn, "/items").expect(403);
        get(&mut conn, "/items/7").expect(200);
    }
    // It can still be changed.
    gate.apply(gate.registry_text());
    get(&mut gate.dial().identity(&gate.acme).open(), "/items").expect(200);
}

#[test]
fn a_kill_at_any_moment_of_an_apply_leaves_the_old_or_the_new_registry() {
    let mut gate = Gate::start();
    let first = json!({"files": files(&gate.write_registry(gate.registry_text()))});
    let both = edited(gate.registry_text(), ACME_ITEMS, "[items.read]");
    let both = edited(&both, "name: Globex Corporation", "name: Globex\n    state: suspended");
    let second = json!({"files": files(&gate.write_registry(&both))});
    let old = gate.cli(&["export"]).ok();
    admin(&socket(&gate), "POST", "/v1/apply", &second);
    let new = gate.cli(&["export"]).ok();
    let state = gate.dir.path().join("state");
    let written = || std::fs::metadata(state.join("registry.db-wal")).map_or(0, |m| m.len());
    for round in 0..6 {
        admin(&socket(&gate), "POST", "/v1/apply", &first);
        let before = written();
        let mut stream = UnixStream::connect(socket(&gate)).unwrap();
        let body = second.to_string();
        let head = format!(
            "POST /v1/apply HTTP/1.1\r\nHost: admin\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        // At once, or as soon as something is in the database's log.
        if round % 2 == 1 {
            await_some("a write", || (written() != before).then_some(()));
        }
        gate.restart("KILL");
        let found = gate.cli(&["export"]).ok();
        assert!(found == old || found == new, "round {round}: neither the old nor the new registry:\n{found}");
    }
}

/// The revision that the database holds, whatever requests are decided on.
fn stored_revision(gate: &Gate) -> f64 {
    let path = gate.dir.path().join("state/registry.db");
    block_on(async {
        let store = Store::open_to_read(&path).await.unwrap().unwrap();
        let revision = store.revision().await.unwrap();
        store.close().await;
        revision as f64
    })
}

#[test]
fn an_apply_whose_caller_goes_away_leaves_database_and_requests_of_one_mind() {
    // Nothing but the change itself can make it live: nobody looks for what an interrupted one has left behind.
    let gate = Setup::new().set("reload.interval", "1h").start();
    let open = json!({"files": files(&gate.write_registry(gate.registry_text()))});
    let narrow = edited(gate.registry_text(), ACME_ITEMS, "[items.read]");
    let closed = json!({"files": files(&gate.write_registry(&narrow))});
    let log = gate.dir.path().join("state/registry.db-wal");
    let written = || std::fs::metadata(&log).map_or((0, None), |m| (m.len(), m.modified().ok()));
    let mut conn = gate.dial().identity(&gate.acme).open();
    for round in 0..12 {
        admin(&socket(&gate), "POST", "/v1/apply", &open);
        get(&mut conn, "/items").expect(200);
        // What was used is written first, so that what is written then is the change.
        admin(&socket(&gate), "GET", "/v1/credentials?partner=acme", &json!({}));
        let (revision, before) = (gate.metric(REVISION), written());
        let mut stream = UnixStream::connect(socket(&gate)).unwrap();
        let body = closed.to_string();
        let head = format!(
            "POST /v1/apply HTTP/1.1\r\nHost: admin\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        // At once, or in the middle of the commit: as soon as something is in the database's log.
        let committing = round % 4 != 0;
        while committing && written() == before && stored_revision(&gate) == revision {}
        drop(stream);
        await_some("one revision", || (stored_revision(&gate) == gate.metric(REVISION)).then_some(()));
        if committing {
            await_some("the change", || (gate.metric(REVISION) == revision + 1.0).then_some(()));
            get(&mut conn, "/items").expect(403);
        }
        // The next change is possible, from either.
        let (status, said) = admin(&socket(&gate), "POST", "/v1/apply", &closed);
        assert_eq!(status, 200, "round {round}: {said}");
        get(&mut conn, "/items").expect(403);
        assert_eq!(stored_revision(&gate), gate.metric(REVISION));
        assert_eq!(gate.metric("partnergate_registry_last_update_successful"), 1.0);
    }
}

/// However it came about that the database is ahead, requests are not decided on the old registry for long: each way
/// in which the gateway looks at it catches up.
#[test]
fn a_database_that_is_ahead_of_what_is_live_is_caught_up_with() {
    for (way, interval) in [("the next look", "100ms"), ("a reload", "1h"), ("the next apply", "1h")] {
        let gate = Setup::new().set("reload.interval", interval).start();
        let mut conn = gate.dial().identity(&gate.acme).open();
        get(&mut conn, "/items").expect(200);
        // What a commit that was not published leaves.
        block_on(async {
            let now = Clock::new().now();
            let store = Store::open(&gate.dir.path().join("state/registry.db"), now).await.unwrap();
            let acme = PartnerId::parse("acme").unwrap();
            let actor = Actor::user("test", None, Way::Offline);
            let cause = Cause::new(actor, None, None);
            assert_eq!(store.commit(1, &[Change::Partner(acme, None)], &cause, now).await.unwrap(), 2);
            store.close().await;
        });
        match way {
            "a reload" => gate.reload(),
            "the next apply" => drop(apply(&gate, &gate.write_registry(gate.registry_text()), &["--dry-run"])),
            _ => gate.await_metric(REVISION, 2.0),
        }
        assert_eq!(get(&mut conn, "/items").expect(403).code(), "identity-unknown", "{way}");
        gate.await_log("the database is ahead of what is live");
        get(&mut gate.dial().identity(&gate.globex).open(), "/items").expect(200);
        gate.apply(gate.registry_text());
        get(&mut gate.dial().identity(&gate.acme).open(), "/items").expect(200);
        assert_eq!(gate.metric(REVISION), 3.0, "{way}");
    }
}

#[test]
fn one_certificate_or_key_cannot_be_registered_for_two_partners() {
    let gate = Gate::start();
    let acme = "{uri: \"spiffe://acme.example/client\"}";
    let globex = "{uri: \"spiffe://globex.example/client\"}";
    let fingerprint = format!("{{fingerprint_sha256: \"{}\"}}", gate.acme.fingerprint());
    let spki = format!("{{spki_sha256: \"{}\"}}", gate.acme.spki());
    let uri = acme.to_owned();
    let shared = gate.registry_text().replace("partners: [acme]", "partners: [acme, globex]");
    let shared = shared.replace("anchor: globex-ca", "anchor: acme-ca");
    let refused = |what: &str, text: &str| {
        let refused = apply(&gate, &gate.write_registry(text), &["--yes"]);
        assert_eq!(refused.exit, Some(3), "{what}: was accepted\n{}", refused.text());
        let said = &refused.stderr;
        assert!(said.contains("acme-client") && said.contains("globex-client"), "{what}: {said}");
        assert_eq!(gate.metric(REVISION), 1.0);
    };
    for matching in [&fingerprint, &spki, &uri] {
        // Under one authority that may speak for both.
        let text = edited(&edited(&shared, acme, matching), globex, matching);
        refused(&format!("same anchor, {matching}"), &text);
    }
    for matching in [&fingerprint, &spki] {
        // Under two: still the same certificate and the same key, and so the same client.
        let text = edited(&edited(gate.registry_text(), acme, matching), globex, matching);
        refused(&format!("two anchors, {matching}"), &text);
    }
}

#[test]
fn an_authority_cannot_be_made_to_speak_for_a_partner_it_is_not_bound_to() {
    let gate = Gate::start();
    let text = edited(gate.registry_text(), "{anchor: acme-ca, match", "{anchor: globex-ca, match");
    let refused = apply(&gate, &gate.write_registry(&text), &["--yes"]);
    assert_eq!(refused.exit, Some(3), "{}", refused.text());
    assert!(refused.stderr.contains("acme-client") && refused.stderr.contains("not bound"), "{}", refused.stderr);
    // Taking the binding away while a credential relies on it is the same thing.
    let text = edited(gate.registry_text(), "partners: [acme]}", "partners: []}");
    let refused = apply(&gate, &gate.write_registry(&text), &["--yes"]);
    assert_eq!(refused.exit, Some(3), "{}", refused.text());
    // Two anchors with one key would be two bindings of one authority.
    let text = edited(gate.registry_text(), "certificate: globex-ca.pem", "certificate: acme-ca.pem");
    let refused = apply(&gate, &gate.write_registry(&text), &["--yes"]);
    assert_eq!(refused.exit, Some(3), "{}", refused.text());
    let said = "`anchors.globex-ca`: has the same public key as the anchor `acme-ca`";
    // At its line: the registry starts with an empty one.
    assert!(refused.stderr.contains(".yaml:7:") && refused.stderr.contains(said), "{}", refused.stderr);
    // A certificate that is no authority is no anchor.
    let folder = gate.write_registry(gate.registry_text());
    std::fs::copy(&gate.acme.chain_file, folder.join("acme-ca.pem")).unwrap();
    let refused = apply(&gate, &folder, &["--yes"]);
    let said = "`anchors.acme-ca`: not a CA certificate";
    assert!(refused.exit == Some(3) && refused.stderr.contains(said), "{}{}", refused.text(), refused.stderr);
    assert!(refused.stderr.contains(".yaml:6:"), "{}", refused.stderr);
    assert_eq!(gate.metric(REVISION), 1.0);
    get(&mut gate.dial().identity(&gate.acme).open(), "/items").expect(200);
}

#[test]
fn a_private_key_has_no_place_in_a_registry_folder() {
    let gate = Gate::start();
    let folder = gate.write_registry(gate.registry_text());
    std::fs::copy(&gate.acme_ca.key_file, folder.join("acme-key.pem")).unwrap();
    let refused = apply(&gate, &folder, &["--yes"]);
    assert!(refused.exit == Some(3) && refused.stderr.contains("acme-key.pem"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("BEGIN"), "{}", refused.stderr);
}

/// Who has to revoke a credential now is not kept from it by a mistake elsewhere.
#[test]
fn registry_is_changed_also_while_the_config_on_disk_is_wrong() {
    let gate = Setup::new().start();
    let config = gate.config_file();
    let text = std::fs::read_to_string(&config).unwrap();
    for broken in [text.replace("endpoints", "endpint"), text.replace(".key", ".gone")] {
        assert_ne!(broken, text);
        std::fs::write(&config, broken).unwrap();
        get(&mut gate.dial().identity(&gate.acme).open(), "/items").expect(200);
        let revoked = edited(gate.registry_text(), "acme.example/client\"}", "acme.example/client\"}, state: revoked");
        gate.apply(&revoked);
        get(&mut gate.dial().identity(&gate.acme).open(), "/items").expect(403);
        gate.apply_anew(gate.registry_text());
    }
}

/// Callers that take nothing of what they asked for hold nobody up who changes something, and are let go. As many as the
/// runtime has threads, and more.
#[test]
fn callers_that_do_not_read_their_export_keep_nobody_waiting() {
    let gate = Setup::new().start();
    let label = |n: usize| format!("label-{n}: \"{}\"", "x".repeat(4000));
    let labels = (0..500).map(label).collect::<Vec<_>>().join(", ");
    let long = edited(gate.registry_text(), "name: Acme GmbH", &format!("name: Acme GmbH\n    labels: {{{labels}}}"));
    gate.apply(&long);
    let readers: Vec<UnixStream> = (0..600)
        .map(|_| {
            let mut stream = UnixStream::connect(socket(&gate)).unwrap();
            stream.write_all(b"GET /v1/export HTTP/1.1\r\nHost: admin\r\n\r\n").unwrap();
            stream
        })
        .collect();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for (from, to, status) in [("items.list, ", "", 403), ("", "", 200)] {
        let began = Instant::now();
        gate.apply(&if from.is_empty() { long.clone() } else { edited(&long, from, to) });
        assert!(began.elapsed() < Duration::from_secs(4), "a change waited for readers: {:?}", began.elapsed());
        get(&mut conn, "/items").expect(status);
    }
    // Those who did read wait their turn and have it.
    drop(readers.into_iter().skip(8).collect::<Vec<_>>());
    let export: Value = serde_json::from_str(&gate.cli(&["partner", "list", "--output", "json"]).ok()).unwrap();
    assert_eq!(export["partners"].as_array().unwrap().len(), 2);
}

/// What shells and manuals have comes from the definitions of the commands.
#[test]
fn completions_and_manual_pages_have_every_command() {
    let setup = Setup::new();
    for (shell, said) in
        [("bash", "complete -F _partnergate"), ("zsh", "#compdef partnergate"), ("fish", "complete -c partnergate")]
    {
        let script = setup.cli(&["completions", shell]).ok();
        assert!(script.contains(said) && script.contains("lockdown"), "{shell}: {script}");
    }
    let script = setup.dir.path().join("completions");
    fs::write(&script, setup.cli(&["completions", "bash"]).ok()).unwrap();
    let parsed = run(Command::new("bash").arg("-n").arg(&script), b"");
    assert_eq!(parsed.exit, Some(0), "{}", parsed.stderr);
    let pages = setup.dir.path().join("man");
    setup.cli(&["man", pages.to_str().unwrap()]).ok();
    for page in ["partnergate.1", "partnergate-grant-request.1", "partnergate-lockdown-on.1"] {
        let text = fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(".SH NAME") && text.contains("partnergate"), "{page}: {text}");
    }
}

/// What files and registry differ in is seen without changing anything.
#[test]
fn plan_shows_drift_and_changes_nothing() {
    let gate = Gate::start();
    let folder = gate.write_registry(&edited(gate.registry_text(), ACME_ITEMS, "[items.read, items.delete]"));
    gate.cli(&["partner", "add", "stray", "--name", "Stray", "--owner", "o", "--network", "any"]).ok();
    let plan = |more: &[&str]| gate.cli(&[&["plan", "-f", folder.to_str().unwrap()], more].concat()).ok();
    let shown = plan(&[]);
    assert!(shown.contains("grant acme-items: +[items.delete]") && !shown.contains("stray"), "{shown}");
    let shown = plan(&["--prune"]);
    assert!(shown.lines().any(|l| l.starts_with("remove") && l.contains("stray")), "{shown}");
    assert_eq!(gate.metric(REVISION), 2.0);
}

/// Partners that exist elsewhere today: of a folder of certificates a file is made that `apply` takes.
#[test]
fn certificates_of_elsewhere_become_a_registry_file() {
    let setup = Setup::new();
    let root = setup.pki.authority("old-ca");
    let issuing = setup.pki.intermediate(&root, "old-issuing", |_| {});
    let of = |ca: &Authority, name: &str, organization: &str| {
        setup.pki.client(ca, name, |p| {
            p.distinguished_name = rcgen::DistinguishedName::new();
            p.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
            p.distinguished_name.push(rcgen::DnType::CommonName, name);
        })
    };
    let erp = of(&root, "erp", "Initech & Co");
    let all = [&erp, &of(&issuing, "portal", "Initech & Co"), &of(&root, "robot", "Umbrella")];
    let stranger = of(&setup.acme_ca, "stranger", "Stranger");
    let certs = setup.dir.path().join("certs");
    fs::create_dir(&certs).unwrap();
    for (n, who) in all.iter().chain(&[&stranger]).enumerate() {
        fs::copy(&who.chain_file, certs.join(format!("{n}.pem"))).unwrap();
    }
    // In DER, the CA itself, and what is no certificate.
    fs::write(certs.join("again.der"), erp.leaf()).unwrap();
    fs::copy(&root.pem_file, certs.join("root.pem")).unwrap();
    fs::write(certs.join("notes.txt"), "nothing").unwrap();
    let gate = setup.start();
    let folder = gate.dir.path().join("imported").display().to_string();
    let import = ["import", "--certs", certs.to_str().unwrap(), "--anchor", "old-ca", "--owner", "sales"];
    let import = [&import[..], &["--environment", "test"]].concat();
    let ca = root.pem_file.display().to_string();
    let import = [&import[..], &["--certificate", &ca, "-d", &folder, "--ends", "2099-01-01T00:00:00Z"]].concat();
    let done = gate.cli(&import);
    assert_eq!(done.exit, Some(0), "{}", done.text());
    assert!(done.text().contains("2 partners with 3 credentials; 2 left out"), "{}", done.text());
    for line in ["`CN=stranger,O=Stranger` is not signed by the anchor", "notes.txt: "] {
        assert!(done.stderr.contains(line), "no `{line}` in {}", done.stderr);
    }
    refused(&gate.cli(&import), 3, "is there already");
    let applied = gate.cli(&["apply", "-f", &folder, "--yes"]).ok();
    assert!(applied.contains("initech-co") && applied.contains("umbrella"), "{applied}");
    // They are known, and may do nothing yet.
    let denied = gate.curl(Some(&erp), "/items", &[]);
    denied.expect(403);
    let record = gate.record_of(denied.header("x-request-id").unwrap());
    assert_eq!(record["input"]["credential"]["id"], "initech-co-erp", "{record}");
    let listed = gate.cli(&["credential", "list"]).ok();
    assert!(listed.contains("initech-co-portal") && listed.contains("umbrella-robot"), "{listed}");

    // One key is one partner's.
    let twice = gate.pki.client_with_key(&root, "twice", erp.key_pair(), |p| {
        p.distinguished_name = rcgen::DistinguishedName::new();
        p.distinguished_name.push(rcgen::DnType::CommonName, "Twice");
    });
    fs::copy(&twice.chain_file, certs.join("twice.pem")).unwrap();
    let other = gate.dir.path().join("other").display().to_string();
    let again = ["import", "--certs", certs.to_str().unwrap(), "--anchor", "old-ca", "--owner", "x", "-d", &other];
    let again = [&again[..], &["--environment", "test"]].concat();
    refused(&gate.cli(&again), 3, "is in certificates of initech-co and twice");
    let by_uri = ["--match", "uri", "--certificate", &ca];
    let none = gate.cli(&[&again[..], &by_uri].concat());
    refused(&none, 3, "nothing is written");
}
