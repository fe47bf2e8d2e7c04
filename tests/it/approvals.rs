//! What would permit more waits for a second pair of eyes; what permits less does not.

use crate::harness::{Finished, Gate, HOST, Setup, await_some, this_user};
use serde_json::{Value, json};
use std::fs;

const ACME_ITEMS: &str = "operations: [items.read, items.list, items.create, pairs.read]";
const REVISION: &str = "partnergate_snapshot_registry_revision";

/// A gate whose registry is live, and where from now on nobody approves what they have asked for.
fn gate(more: impl FnOnce(Setup) -> Setup) -> Gate {
    let gate = more(Setup::new()).start();
    let text = fs::read_to_string(gate.config_file()).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["approval"]["four_eyes"] = "required".into();
    fs::write(gate.config_file(), config.to_string()).unwrap();
    gate.cli(&["reload"]).ok();
    gate
}

fn second(gate: &Gate) -> String {
    format!("file:{}", gate.dir.path().join("second.token").display())
}

#[track_caller]
fn by_second(gate: &Gate, arguments: &[&str]) -> Finished {
    gate.cli(&[&["--token", &second(gate)], arguments].concat())
}

#[track_caller]
fn refused(finished: &Finished, exit: i32, said: &str) {
    assert_eq!(finished.exit, Some(exit), "{}{}", finished.text(), finished.stderr);
    assert!(finished.stderr.contains(said), "no `{said}` in {}", finished.stderr);
}

fn edited(gate: &Gate, from: &str, to: &str) -> String {
    let text = gate.registry_text();
    assert!(text.contains(from), "no `{from}` in\n{text}");
    text.replacen(from, to, 1)
}

#[track_caller]
fn apply(gate: &Gate, text: &str, more: &[&str]) -> Finished {
    let folder = gate.write_registry(text);
    gate.cli(&[&["apply", "--yes", "-f", folder.to_str().unwrap()], more].concat())
}

/// The id of what waits by what was just said.
#[track_caller]
fn asked(said: &str) -> String {
    let line =
        said.lines().find(|line| line.contains(" waits for another operator")).unwrap_or_else(|| panic!("{said}"));
    line.split(' ').next().unwrap().to_owned()
}

fn status(gate: &Gate, method: &str, path: &str) -> u16 {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n");
    gate.dial().identity(&gate.acme).open().request(request).status
}

#[test]
fn wider_grant_is_live_when_another_operator_has_approved_it() {
    let gate = gate(|setup| setup);
    let wider =
        edited(&gate, ACME_ITEMS, "operations: [items.read, items.list, items.create, items.delete, pairs.read]");
    let planned = apply(&gate, &wider, &["--dry-run"]).ok();
    assert!(planned.contains("request") && planned.contains("covers items.delete"), "{planned}");
    assert_eq!(gate.cli(&["approval", "list"]).ok(), "nothing waits\n");

    let said = apply(&gate, &wider, &["--reason", "they clean up now", "--ticket", "CTR-4"]).ok();
    let id = asked(&said);
    assert!(!said.contains("applied; registry revision"), "{said}");
    assert_eq!((status(&gate, "DELETE", "/items/1"), gate.metric(REVISION)), (403, 1.0));
    assert_eq!(gate.metric("partnergate_approvals_waiting"), 1.0);
    // Said again, it waits, and is not asked for twice.
    let again = apply(&gate, &wider, &[]).ok();
    assert!(again.contains("waits") && again.contains(&format!("{id}: covers items.delete")), "{again}");
    assert_eq!(gate.metric("partnergate_approvals_waiting"), 1.0);

    let me = this_user();
    let listed = by_second(&gate, &["approval", "list"]).ok();
    assert!(listed.contains(&format!("{id}  requested  asked for by {me} at ")), "{listed}");
    assert!(listed.contains("[CTR-4]: they clean up now"), "{listed}");
    let shown = by_second(&gate, &["approval", "show", &id]).ok();
    assert!(shown.contains("grant acme-items of acme: covers items.delete"), "{shown}");
    assert!(shown.contains("covers items.create, items.delete, items.list, items.read, pairs.read"), "{shown}");
    assert!(gate.cli(&["status"]).ok().contains(&format!("approval     {id} of {me} waits since ")));

    refused(&gate.cli(&["approval", "approve", &id]), 3, "another operator with the role `approver` approves it");
    assert_eq!(status(&gate, "DELETE", "/items/1"), 403);
    let said = by_second(&gate, &["approval", "approve", &id, "--reason", "contract seen"]).ok();
    assert_eq!(said, format!("`{id}` is approved (registry revision 2)\n"));
    assert_eq!(status(&gate, "DELETE", "/items/1"), 200);
    assert_eq!(gate.metric("partnergate_approvals_waiting"), 0.0);
    refused(&by_second(&gate, &["approval", "approve", &id]), 3, "is approved already");

    // Who asked, who approved and why stay with the grant and in the history.
    let shown = gate.cli(&["partner", "show", "acme"]).ok();
    assert!(shown.contains(&format!("asked for by {me}, approved by second as {id} at ")), "{shown}");
    let shown = gate.cli(&["history", "grant", "acme-items"]).ok();
    assert!(shown.contains(&format!("approval {id}")) && shown.contains(": contract seen"), "{shown}");
    let shown = gate.cli(&["history", "approval", &id]).ok();
    assert!(
        shown.contains("[CTR-4]: they clean up now") && shown.contains("by second (admin-socket, token "),
        "{shown}"
    );
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
    // The same files change nothing any more, and the provenance stays.
    assert!(apply(&gate, &wider, &[]).ok().contains("nothing to change"));
    let renamed =
        wider.replace("owner: items-team, operations: [items.read, ", "owner: goods-team, operations: [items.read, ");
    assert!(apply(&gate, &renamed, &[]).ok().contains("registry revision 3"));
    assert!(gate.cli(&["partner", "show", "acme"]).ok().contains(&format!("approved by second as {id} at ")));
}

#[test]
fn less_is_live_at_once_and_more_beside_it_waits() {
    let gate = gate(|setup| setup);
    // acme loses an operation; globex gains one; acme's name changes.
    let text = edited(&gate, ACME_ITEMS, "operations: [items.read]")
        .replace("operations: [items.list], ends", "operations: [items.list, items.read], ends")
        .replace("name: Globex Corporation", "name: Globex Inc");
    let said = apply(&gate, &text, &[]).ok();
    let id = asked(&said);
    assert!(said.contains("applied; registry revision 2"), "{said}");
    assert_eq!((status(&gate, "GET", "/items"), status(&gate, "GET", "/items/1")), (403, 200));
    let list = gate.cli(&["partner", "list"]).ok();
    assert!(list.contains("Globex Inc"), "{list}");
    let globex = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        gate.dial().identity(&gate.globex).open().request(request).status
    };
    assert_eq!((globex("/items"), globex("/items/1")), (200, 403));
    by_second(&gate, &["approval", "approve", &id]).ok();
    assert_eq!((globex("/items"), globex("/items/1")), (200, 200));
    assert_eq!(status(&gate, "GET", "/items"), 403, "what was narrowed stays so");
}

/// Each of what the four eyes are for.
#[test]
fn whatever_permits_more_waits() {
    let gate = gate(|setup| setup);
    gate.pki.authority("third-ca");
    for (from, to, said) in [
        (ACME_ITEMS, "networks: [loopback], operations: [items.read, items.delete]", "grant      acme-items"),
        (
            "127.0.0.1/32, \"::1/128\"",
            "127.0.0.0/8, \"::1/128\"",
            "network    loopback                 holds 127.0.0.0/8",
        ),
        (
            "acme-ca.pem, partners: [acme]",
            "acme-ca.pem, partners: [acme, globex]",
            "anchor     acme-ca                  may speak for globex",
        ),
        (
            "globex-ca: {certificate: globex-ca.pem",
            "globex-ca: {certificate: third-ca.pem",
            "is another CA: CN=third-ca,O=Tests until ",
        ),
        (
            "anchors:\n",
            "anchors:\n  third-ca: {certificate: third-ca.pem, partners: [acme]}\n",
            "anchor     third-ca                 is new: CN=third-ca,O=Tests until ",
        ),
        (
            "acme-client: {",
            "acme-other: {anchor: acme-ca, match: {dns: other.acme.example}}\n      acme-client: {",
            "credential acme-other               is new, recognised by dns",
        ),
        (
            "acme-client: {",
            "acme-other: {anchor: acme-ca, match: {spki_sha256: 0000000000000000000000000000000000000000000000000000000000000000}}\n      acme-client: {",
            "credential acme-other               is new, recognised by spki_sha256",
        ),
        (
            "acme-items: {",
            "acme-new: {owner: o, operations: [items.read], ends: 2099-01-01T00:00:00Z}\n      acme-items: {",
            "grant      acme-new                 is new",
        ),
    ] {
        let before = gate.cli(&["export"]).ok();
        let text = apply(&gate, &edited(&gate, from, to), &[]).ok();
        assert!(text.lines().any(|line| line.starts_with("request ") && line.contains(said)), "no `{said}` in {text}");
        assert_eq!(gate.cli(&["export"]).ok(), before, "{text}");
        gate.cli(&["approval", "withdraw", &asked(&text)]).ok();
    }
    assert_eq!(gate.metric(REVISION), 1.0);
}

#[test]
fn rejected_and_withdrawn_are_never_live() {
    let gate = gate(|setup| setup);
    let wider = edited(&gate, ACME_ITEMS, "operations: [items.read, items.delete]");
    let id = asked(&apply(&gate, &wider, &[]).ok());
    refused(&by_second(&gate, &["approval", "reject", &id]), 3, "a reason is needed");
    refused(&by_second(&gate, &["approval", "withdraw", &id]), 3, "you may reject it");
    by_second(&gate, &["approval", "reject", &id, "--reason", "no contract"]).ok();
    for verb in ["approve", "reject"] {
        refused(&by_second(&gate, &["approval", verb, &id, "--reason", "x"]), 3, "is rejected already");
    }
    let shown = gate.cli(&["approval", "show", &id]).ok();
    assert!(shown.contains("rejected     by second at ") && shown.contains(": no contract"), "{shown}");
    let id = asked(&apply(&gate, &wider, &[]).ok());
    gate.cli(&["approval", "withdraw", &id]).ok();
    refused(&by_second(&gate, &["approval", "approve", &id]), 3, "is withdrawn already");
    let all = gate.cli(&["approval", "list", "--all"]).ok();
    assert!(all.contains("  rejected  ") && all.contains("  withdrawn  "), "{all}");
    assert_eq!(gate.cli(&["approval", "list"]).ok(), "nothing waits\n");
    refused(&by_second(&gate, &["approval", "approve", "a-aaaaaaaa"]), 3, "there is no such approval");
    refused(&by_second(&gate, &["approval", "show", "A/B"]), 3, "there is no such approval");
    assert_eq!((status(&gate, "DELETE", "/items/1"), gate.metric(REVISION)), (403, 1.0));
}

/// What is approved is what was looked at.
#[test]
fn what_has_changed_since_it_was_asked_for_is_asked_for_again() {
    let gate = gate(|setup| setup);
    let id = asked(&apply(&gate, &edited(&gate, ACME_ITEMS, "operations: [items.read, items.delete]"), &[]).ok());
    apply(&gate, &edited(&gate, ACME_ITEMS, "operations: [items.read]"), &[]).ok();
    let stale = by_second(&gate, &["approval", "approve", &id]);
    refused(&stale, 3, "the grant `acme-items` has changed since this was asked for: ask again");
    assert_eq!(status(&gate, "DELETE", "/items/1"), 403);
    // Other parts of the partner may change meanwhile, and a suspension does not go with it.
    let id = asked(&apply(&gate, &edited(&gate, ACME_ITEMS, "operations: [items.read, items.delete]"), &[]).ok());
    gate.cli(&["partner", "suspend", "acme", "--reason", "odd"]).ok();
    by_second(&gate, &["approval", "approve", &id]).ok();
    assert_eq!(status(&gate, "DELETE", "/items/1"), 403, "suspended");
    gate.cli(&["partner", "resume", "acme", "--reason", "was nothing"]).ok();
    assert_eq!(status(&gate, "DELETE", "/items/1"), 200);
}

#[test]
fn what_waits_survives_a_kill_and_lapses_in_its_time() {
    let mut gate = gate(|setup| setup.set("approval.lapse_after", "1m"));
    let id = asked(&apply(&gate, &edited(&gate, ACME_ITEMS, "operations: [items.read, items.delete]"), &[]).ok());
    gate.restart("KILL");
    assert!(gate.cli(&["approval", "list"]).ok().starts_with(&id));
    await_some("the gauge", || (gate.metric("partnergate_approvals_waiting") == 1.0).then_some(()));
    // A minute is long for a test; what is stored says when it is over, and the database is ours.
    gate.stop("TERM");
    crate::harness::http2::block_on(async {
        use sqlx::{ConnectOptions, Connection};
        let file = gate.dir.path().join("state/registry.db");
        let mut database = sqlx::sqlite::SqliteConnectOptions::new().filename(file).connect().await.unwrap();
        let past = "UPDATE approval SET doc = json_set(doc, '$.lapses', 1)";
        sqlx::query(past).execute(&mut database).await.unwrap();
        database.close().await.unwrap();
    });
    gate.begin();
    assert_eq!(gate.cli(&["approval", "list"]).ok(), "nothing waits\n");
    refused(&by_second(&gate, &["approval", "approve", &id]), 3, "has lapsed");
    assert!(gate.cli(&["approval", "list", "--all"]).ok().contains("  lapsed  "));
    // And that somebody has been there shows.
    let found = gate.cli(&["audit", "verify"]);
    assert_eq!(found.exit, Some(3));
    assert!(found.text().contains(&format!("the approval `{id}` is not what the history made it")), "{}", found.text());
}

#[test]
fn limits_of_the_config_hold_for_what_is_asked_for() {
    let gate = gate(|setup| setup.set("approval.require_ticket", true).set("approval.max_grant_days", 90).registry(""));
    let text = Setup::new().registry_text().to_owned();
    let refused_apply = |text: &str, more: &[&str], said: &str| refused(&apply(&gate, text, more), 3, said);
    refused_apply(&text, &[], "`approval.require_ticket` asks for a ticket");
    refused_apply(&text, &["--ticket", "T-1"], "is more than 90 days ahead (`approval.max_grant_days`)");
    let soon = jiff::Timestamp::now() + jiff::Span::new().hours(24 * 80);
    let text =
        text.replace("ends: 2100-01-01T00:00:00Z}\n      acme-socket", &format!("ends: {soon}}}\n      acme-socket"));
    let finished = apply(&gate, &text, &["--ticket", "T-1"]);
    let lines = finished.stderr.lines().filter(|line| line.contains("more than 90 days")).count();
    assert_eq!((finished.exit, lines), (Some(3), 2), "{}", finished.stderr);
    let text = text.replace("ends: 2100-01-01T00:00:00Z}\n", &format!("ends: {soon}}}\n")).replace(
        &format!("engagement: {{starts: 2020-01-01T00:00:00Z, ends: {soon}}}"),
        "engagement: {starts: 2020-01-01T00:00:00Z, ends: 2100-01-01T00:00:00Z}",
    );
    asked(&apply(&gate, &text, &["--ticket", "T-1"]).ok());
    // Nothing outlives the engagement.
    let short = text.replacen("ends: 2100-01-01T00:00:00Z}", "ends: 2020-06-01T00:00:00Z}", 1);
    refused_apply(&short, &["--ticket", "T-1"], "is after the engagement of `acme` has ended");
}

/// For teams of one: a switch that shows in every event.
#[test]
fn one_person_approves_alone_where_the_config_says_so_and_it_shows() {
    let gate = Gate::start();
    let all = gate.cli(&["history", "--output", "json", "partner", "acme"]).ok();
    let first: Value = serde_json::from_str(all.lines().next().unwrap()).unwrap();
    assert_eq!(first["four_eyes"], "off", "{first}");
    let wider = edited(&gate, ACME_ITEMS, "operations: [items.read, items.delete]");
    assert!(apply(&gate, &wider, &[]).ok().contains("registry revision 2"));
    assert_eq!(status(&gate, "DELETE", "/items/1"), 200);
    let shown = gate.cli(&["history", "grant", "acme-items"]).ok();
    assert_eq!(shown.matches("four eyes: off").count(), 2, "{shown}");
    // What permits no more says nothing of it.
    apply(&gate, &edited(&gate, ACME_ITEMS, "operations: [items.read]"), &[]).ok();
    let shown = gate.cli(&["history", "grant", "acme-items"]).ok();
    assert_eq!(shown.matches("four eyes: off").count(), 2, "{shown}");
    // It takes both roles; who may only ask, asks.
    let token = gate.dir.path().join("requester.token");
    let add = ["operator", "add", "pipeline", "--role", "requester", "--with-token", "--token-file"];
    gate.cli(&[&add[..], &[token.to_str().unwrap()]].concat()).ok();
    let folder = gate.write_registry(&wider);
    let token = format!("file:{}", token.display());
    let said = gate.cli(&["--token", &token, "apply", "--yes", "-f", folder.to_str().unwrap()]).ok();
    let id = asked(&said);
    refused(&gate.cli(&["--token", &token, "approval", "approve", &id]), 4, "this takes one of: approver");
    assert_eq!(status(&gate, "DELETE", "/items/1"), 403);
    gate.cli(&["approval", "approve", &id]).ok();
    assert_eq!(status(&gate, "DELETE", "/items/1"), 200);
}

/// An approval that is not consistent any more is refused whole.
#[test]
fn approval_of_what_cannot_be_any_more_changes_nothing() {
    let gate = gate(|setup| setup);
    let text = edited(
        &gate,
        "acme-items: {",
        "acme-new: {owner: o, operations: [items.delete], networks: [loopback], ends: 2099-01-01T00:00:00Z}\n      acme-items: {",
    );
    let id = asked(&apply(&gate, &text, &[]).ok());
    // globex takes the id of the grant, in the database of a team of one.
    let mut config: Value = serde_json::from_str(&fs::read_to_string(gate.config_file()).unwrap()).unwrap();
    config["approval"] = json!({"four_eyes": "off"});
    fs::write(gate.config_file(), config.to_string()).unwrap();
    gate.cli(&["reload"]).ok();
    let taken = edited(&gate, "globex-items: {", "acme-new: {");
    apply(&gate, &taken, &[]).ok();
    refused(&by_second(&gate, &["approval", "approve", &id]), 3, "the grant id `acme-new` is also one of `globex`");
    assert_eq!(status(&gate, "DELETE", "/items/1"), 403);
    assert!(gate.cli(&["approval", "list"]).ok().starts_with(&id), "it still waits");
}

/// Who could make operators alone would be as many as they like.
#[test]
fn operators_are_made_by_two() {
    let gate = gate(|setup| setup);
    let token = |name: &str| gate.dir.path().join(format!("{name}.token"));
    let file = |name: &str| format!("file:{}", token(name).display());
    let add = |name: &str, role: &str| {
        let path = token(name);
        let add = ["operator", "add", name, "--role", role, "--with-token", "--token-file", path.to_str().unwrap()];
        gate.cli(&add).ok()
    };
    let waits = |said: &str| -> String {
        let line = said.lines().find(|line| line.contains("is not so yet")).unwrap_or_else(|| panic!("{said}"));
        line.split_whitespace().nth(2).unwrap().trim_end_matches(',').to_owned()
    };
    let as_puppet = |arguments: &[&str]| gate.cli(&[&["--token", &file("puppet")], arguments].concat());
    let id = waits(&add("puppet", "approver"));
    refused(&as_puppet(&["status"]), 4, "the token is not good");
    refused(&as_puppet(&["approval", "approve", &id]), 4, "the token is not good");
    refused(&gate.cli(&["approval", "approve", &id]), 3, "another operator with the role `approver` approves it");
    let shown = by_second(&gate, &["approval", "show", &id]).ok();
    assert!(shown.contains("operator puppet: is new, as approver; is shown by the token "), "{shown}");
    assert!(!shown.contains("sha256") && !shown.contains("pgo_"), "{shown}");
    by_second(&gate, &["approval", "approve", &id]).ok();
    as_puppet(&["status"]).ok();

    // More for one who is there already, but for a token of one's own.
    let me = this_user();
    let path = token("second-too");
    let to_second = ["operator", "token", "add", "second", "--token-file", path.to_str().unwrap()];
    let id = waits(&gate.cli(&to_second).ok());
    refused(&gate.cli(&["--token", &file("second-too"), "status"]), 4, "the token is not good");
    gate.cli(&["approval", "withdraw", &id]).ok();
    let path = token("mine");
    gate.cli(&["operator", "token", "add", &me, "--token-file", path.to_str().unwrap()]).ok();
    gate.cli(&["--token", &file("mine"), "status"]).ok();
    let id = waits(&gate.cli(&["operator", "roles", "puppet", "--role", "operator", "--reason", "on call"]).ok());
    refused(&as_puppet(&["reload"]), 4, "has the roles approver");
    by_second(&gate, &["approval", "approve", &id]).ok();
    as_puppet(&["reload"]).ok();
    // Less is at once; back again is more.
    gate.cli(&["operator", "disable", "puppet", "--reason", "left"]).ok();
    refused(&as_puppet(&["status"]), 4, "is disabled");
    let id = waits(&gate.cli(&["operator", "enable", "puppet", "--reason", "is back"]).ok());
    refused(&as_puppet(&["status"]), 4, "is disabled");
    // What has changed meanwhile is asked for again.
    gate.cli(&["operator", "token", "revoke", "puppet", &token_id(&file("puppet")), "--reason", "old"]).ok();
    let stale = by_second(&gate, &["approval", "approve", &id]);
    refused(&stale, 3, "the operator `puppet` has changed since this was asked for");
}

/// The id of a token in a file.
fn token_id(file: &str) -> String {
    let token = fs::read_to_string(file.strip_prefix("file:").unwrap()).unwrap();
    token.split('_').nth(1).unwrap().to_owned()
}

/// What an approval refers to is part of what was looked at.
#[test]
fn approval_is_void_once_what_it_refers_to_is_exchanged() {
    let gate = gate(|setup| setup);
    let listed = |gate: &Gate| gate.cli(&["approval", "list", "--all"]).ok();
    // A network that goes, and comes back as something else.
    let with = |networks: &str, own: &str| {
        gate.registry_text().replace("networks:\n  loopback", &format!("networks:\n{networks}  loopback")).replacen(
            "networks: [loopback]",
            own,
            1,
        )
    };
    apply(&gate, &with("  dc1: {cidrs: [203.0.113.7/32]}\n", "networks: [loopback]"), &[]).ok();
    let asks = with("  dc1: {cidrs: [203.0.113.7/32]}\n", "networks: [loopback, dc1]");
    let id = asked(&apply(&gate, &asks, &[]).ok());
    gate.apply(gate.registry_text());
    assert!(listed(&gate).contains(&format!("{id}  void")), "{}", listed(&gate));
    apply(&gate, &with("  dc1: {cidrs: [0.0.0.0/0]}\n", "networks: [loopback]"), &[]).ok();
    refused(&by_second(&gate, &["approval", "approve", &id]), 3, "is void already");
    // A partner that goes, and comes back as somebody else.
    gate.cli(&[
        "partner",
        "add",
        "newco",
        "--name",
        "N",
        "--owner",
        "o",
        "--network",
        "loopback",
        "--ends",
        "2090-01-01T00:00:00Z",
    ])
    .ok();
    let ask = [
        "grant",
        "request",
        "newco",
        "newco-items",
        "--operation",
        "items.read",
        "--owner",
        "o",
        "--ends",
        "2089-01-01T00:00:00Z",
    ];
    let id = asked(&gate.cli(&ask).ok());
    gate.apply(gate.registry_text());
    gate.cli(&["partner", "add", "newco", "--name", "N", "--owner", "o", "--network", "any"]).ok();
    refused(&by_second(&gate, &["grant", "approve", "newco-items"]), 3, "nothing waits for the grant");
    refused(&by_second(&gate, &["approval", "approve", &id]), 3, "is void already");
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

/// A partner that may do something does so with whatever key it has.
#[test]
fn key_of_a_partner_with_grants_is_exchanged_by_two() {
    let gate = gate(|setup| setup);
    let stranger = gate.pki.client(&gate.acme_ca, "stranger", |_| {});
    let by_key = format!("fingerprint_sha256={}", stranger.fingerprint());
    let status = || {
        let request = format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        gate.dial().identity(&stranger).open().request(request).status
    };
    waits_for(&gate.cli(&["credential", "add", "acme", "evil", "--anchor", "acme-ca", "--match", &by_key]).ok());
    let (code, said) = gate.admin(
        "PATCH",
        "/v1/partners/acme/credentials/acme-client",
        &json!({"set": {"match": {"uri": null, "fingerprint_sha256": stranger.fingerprint()}}}).to_string(),
    );
    assert!(code == 200 && said.contains("\"approval\""), "{said}");
    assert_eq!(status(), 403);
    // Back from pending, too.
    let pending = edited(
        &gate,
        "acme-client: {",
        "acme-two: {anchor: acme-ca, state: pending, match: {dns: two.acme.example}}\n      acme-client: {",
    );
    let id = asked(&apply(&gate, &pending, &[]).ok());
    by_second(&gate, &["approval", "approve", &id]).ok();
    let (_, said) = gate.admin("PATCH", "/v1/partners/acme/credentials/acme-two", "{\"set\": {\"state\": \"active\"}}");
    assert!(said.contains("\"approval\"") && said.contains("is active, and was pending"), "{said}");
    // What an operator says alone is not for others to say, at whatever depth.
    let forged = json!({"set": {"grants": {"acme-items": {"emergency": {"author": "second"}}}}});
    let (code, said) = gate.admin("PATCH", "/v1/partners/acme", &forged.to_string());
    assert!(code == 422 && said.contains("`emergency` is set by a command of its own"), "{said}");
    // And a stop is not forgotten by taking the partner away.
    gate.cli(&["partner", "suspend", "globex", "--reason", "odd"]).ok();
    let without = gate.registry_text().split("  globex:\n").next().unwrap().to_owned();
    let folder = gate.write_registry(&without);
    let pruned = gate.cli(&["apply", "--yes", "--prune", "-f", folder.to_str().unwrap()]);
    refused(&pruned, 3, "`partners.globex`: it is suspended, and with it that would be forgotten");
}

#[track_caller]
fn waits_for(said: &str) {
    asked(said);
}

/// Who approves reads what somebody else wrote, and nothing that it makes of the terminal.
#[test]
fn text_of_an_operator_is_nothing_that_a_terminal_obeys() {
    let gate = gate(|setup| setup);
    let why = "ok\u{1b}[2K\u{1b}[1A\nchange: nothing\u{202e}";
    let wider =
        edited(&gate, ACME_ITEMS, "operations: [items.read, items.list, items.create, items.delete, pairs.read]");
    let asked = asked(&apply(&gate, &wider, &["--reason", why]).ok());
    let shown = gate.cli(&["approval", "show", &asked]).ok();
    let listed = gate.cli(&["approval", "list"]).ok();
    let told = gate.cli(&["history", "approval", &asked]).ok();
    for shown in [shown, listed, told] {
        assert!(shown.contains("ok\\u{1b}[2K\\u{1b}[1A\\u{a}change: nothing\\u{202e}"), "{shown}");
        assert!(shown.chars().all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}')), "{shown:?}");
    }
    let json = gate.cli(&["approval", "show", &asked, "--output", "json"]).ok();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json.to_string().contains(&serde_json::to_string(why).unwrap()), "programs get it as it is: {json}");
    // Nor does what a policy has in it.
    let folder = gate.dir.path().join("p\u{1b}[2Kq");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.rego"), "package a\n\nimport rego.v1\n\nx := \"\u{1b}[2K\u{9b}\" y\n").unwrap();
    let checked = gate.cli(&["policy", "check", folder.to_str().unwrap()]);
    assert_eq!(checked.exit, Some(3), "{}", checked.stderr);
    assert!(checked.stderr.chars().all(|c| c == '\n' || !c.is_control()), "{:?}", checked.stderr);
}
