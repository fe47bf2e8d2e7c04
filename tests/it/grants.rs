//! Partners, credentials and grants, one at a time: asked for, approved, extended, ended.

use crate::harness::{Finished, Gate, HOST, Setup, await_some, this_user};
use crate::websocket;
use serde_json::Value;
use std::fs;

/// A gate where nobody approves what they have asked for.
pub fn gate() -> Gate {
    let gate = Setup::new().start();
    let mut config: Value = serde_json::from_str(&fs::read_to_string(gate.config_file()).unwrap()).unwrap();
    config["approval"]["four_eyes"] = "required".into();
    fs::write(gate.config_file(), config.to_string()).unwrap();
    gate.cli(&["reload"]).ok();
    gate
}

#[track_caller]
pub fn by_second(gate: &Gate, arguments: &[&str]) -> Finished {
    let token = format!("file:{}", gate.dir.path().join("second.token").display());
    gate.cli(&[&["--token", &token], arguments].concat())
}

#[track_caller]
pub fn refused(finished: &Finished, exit: i32, said: &str) {
    assert_eq!(finished.exit, Some(exit), "{}{}", finished.text(), finished.stderr);
    assert!(finished.stderr.contains(said), "no `{said}` in {}", finished.stderr);
}

#[track_caller]
pub fn waits(said: &str) -> String {
    let line =
        said.lines().find(|line| line.contains(" waits for another operator")).unwrap_or_else(|| panic!("{said}"));
    line.split(' ').next().unwrap().to_owned()
}

pub fn answer(gate: &Gate, method: &str, path: &str) -> crate::harness::Response {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n");
    gate.dial().identity(&gate.acme).open().request(request)
}

const REQUEST: &[&str] =
    &["grant", "request", "acme", "acme-cleanup", "--operation", "items.delete", "--owner", "items-team"];

#[test]
fn grant_is_asked_for_approved_extended_and_revoked() {
    let gate = gate();
    let state = |gate: &Gate| -> String {
        let list = gate.cli(&["grant", "list", "--partner", "acme"]).ok();
        let line = list.lines().find(|line| line.starts_with("acme-cleanup ")).unwrap_or("none  none none");
        line.split_whitespace().nth(2).unwrap().to_owned()
    };
    assert_eq!(state(&gate), "none");
    let ends = ["--ends", "2099-01-01T00:00:00Z"];
    let planned = gate.cli(&[REQUEST, &ends, &["--dry-run"]].concat()).ok();
    assert!(
        planned.contains("request      grant      acme-cleanup             is new, and covers items.delete"),
        "{planned}"
    );
    let id = waits(&gate.cli(&[REQUEST, &ends, &["--reason", "they clean up", "--ticket", "CTR-9"]].concat()).ok());
    assert_eq!((state(&gate), answer(&gate, "DELETE", "/items/1").status), ("requested".into(), 403));
    refused(&gate.cli(&["grant", "approve", "acme-cleanup"]), 3, "another operator with the role `approver`");
    let said = by_second(&gate, &["grant", "approve", "acme-cleanup", "--reason", "contract seen"]).ok();
    assert_eq!(said, format!("`acme-cleanup` is approved as {id} (registry revision 2)\n"));
    assert_eq!((state(&gate), answer(&gate, "DELETE", "/items/1").status), ("active".into(), 200));
    refused(&gate.cli(&[REQUEST, &ends].concat()), 3, "is there already: change it, or choose another id");

    // A later end is asked for anew; an earlier one is not.
    let extend = |ends: &str| gate.cli(&["grant", "extend", "acme-cleanup", "--ends", ends]);
    let id = waits(&extend("2099-06-01T00:00:00Z").ok());
    let shown = by_second(&gate, &["approval", "show", &id]).ok();
    assert!(shown.contains("it goes on longer, until 2099-06-01T00:00:00Z"), "{shown}");
    by_second(&gate, &["grant", "reject", "acme-cleanup", "--reason", "not in the contract"]).ok();
    refused(
        &extend("2098-01-01T00:00:00Z"),
        3,
        "this is no later end: it ends at 2099-01-01T00:00:00Z; `grant shorten`",
    );
    let shorten = |ends: &str| gate.cli(&["grant", "shorten", "acme-cleanup", "--ends", ends, "--reason", "less"]);
    refused(
        &shorten("2099-02-01T00:00:00Z"),
        3,
        "this is no earlier end: it ends at 2099-01-01T00:00:00Z; `grant extend`",
    );
    assert!(shorten("2098-01-01T00:00:00Z").ok().contains("registry revision 3"));
    refused(&extend("2101-01-01T00:00:00Z"), 3, "is after the engagement of `acme` has ended");

    let said = gate
        .cli(&["grant", "revoke", "acme-cleanup", "--yes", "--reason", "project is over", "--ticket", "CTR-10"])
        .ok();
    assert_eq!(said, "`acme-cleanup` is revoked from now on (registry revision 4)\n");
    let denied = answer(&gate, "DELETE", "/items/1");
    assert_eq!((state(&gate), denied.status, denied.code()), ("revoked".into(), 403, "access-not-current".into()));
    let record = gate.record_of(denied.header("x-request-id").unwrap());
    assert_eq!(record["reason"], "grant-revoked", "{record}");
    let grants = record["input"]["partner"]["grants"].as_array().unwrap();
    assert!(grants.iter().all(|g| g["id"] != "acme-cleanup"), "policy does not see it: {record}");
    assert!(
        gate.cli(&["grant", "revoke", "acme-cleanup", "--yes", "--reason", "x"]).ok().contains("is revoked already")
    );
    refused(&extend("2099-01-01T00:00:00Z"), 3, "is revoked, and never comes back");
    let past = [
        "grant",
        "request",
        "acme",
        "acme-late",
        "--operation",
        "items.read",
        "--owner",
        "o",
        "--ends",
        "2025-01-01T00:00:00Z",
    ];
    refused(&gate.cli(&past), 3, "is over already");
    let shown = gate.cli(&["partner", "show", "acme"]).ok();
    assert!(
        shown.contains(&format!("REVOKED by {} at ", this_user())) && shown.contains(": project is over"),
        "{shown}"
    );
    assert_eq!(answer(&gate, "GET", "/items").status, 200, "other grants are as they were");
    let shown = gate.cli(&["history", "grant", "acme-cleanup"]).ok();
    for said in ["grant acme-cleanup was made", "[CTR-10]: project is over", "revoked"] {
        assert!(shown.contains(said), "no `{said}` in {shown}");
    }
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

/// What runs on a grant ends with it, and files do not bring it back.
#[test]
fn revoked_grant_cuts_what_runs_on_it_and_stays_revoked() {
    let mut gate = gate();
    let mut socket = gate.dial().identity(&gate.acme).open();
    socket.request(websocket::handshake("/events")).expect(101);
    gate.cli(&["grant", "revoke", "acme-socket", "--yes", "--reason", "leaked"]).ok();
    socket.assert_closed();
    assert_eq!(gate.await_record("the cut", |r| r["kind"] == "stream-cut")["reason"], "grant-revoked");
    gate.apply(gate.registry_text());
    gate.restart("KILL");
    let folder = gate.dir.path().join("exported");
    gate.cli(&["export", "-d", folder.to_str().unwrap()]).ok();
    assert!(gate.cli(&["apply", "--yes", "-f", folder.to_str().unwrap()]).ok().contains("nothing to change"));
    let refused = gate.dial().identity(&gate.acme).open().request(websocket::handshake("/events"));
    assert_eq!((refused.status, refused.code()), (403, "access-not-current".into()));
    // A file without it forgets it, and one that has it again asks for it.
    let without = gate.registry_text().replace(
        "      acme-socket: {owner: items-team, operations: [items.events], ends: 2100-01-01T00:00:00Z}\n",
        "",
    );
    gate.apply(&without);
    let again = gate.write_registry(gate.registry_text());
    waits(&gate.cli(&["apply", "--yes", "-f", again.to_str().unwrap()]).ok());
}

#[test]
fn emergency_is_one_operator_s_for_four_hours_and_is_reviewed_by_another() {
    let gate = gate();
    let emergency = |length: &str, ticket: &str| {
        let make = ["grant", "emergency", "acme", "acme-911", "--operation", "items.delete", "--for", length];
        gate.cli(&[&make[..], &["--reason", "their fallback is down", "--ticket", ticket]].concat())
    };
    refused(&emergency("5h", "INC-1"), 3, "lasts at most 4 h");
    refused(&emergency("1h", " "), 3, "a ticket is needed");
    let said = emergency("1h", "INC-1").ok();
    assert!(said.starts_with("`acme-911` is live until ") && said.contains("another operator reviews it"), "{said}");
    assert_eq!(answer(&gate, "DELETE", "/items/1").status, 200);
    assert_eq!(gate.metric("partnergate_emergency_grants_total"), 1.0);
    let me = this_user();
    let status = gate.cli(&["status"]).ok();
    assert!(
        status.contains(&format!("emergency    acme-911 of acme by {me} [INC-1]: their fallback is down")),
        "{status}"
    );
    assert!(status.contains("to be reviewed"), "{status}");
    assert_eq!(gate.metric("partnergate_emergency_grants{state=\"live\"}"), 1.0);
    assert!(gate.cli(&["grant", "list"]).ok().lines().any(|l| l.starts_with("acme-911 ") && l.contains(" EMERGENCY ")));
    let event = gate.cli(&["history", "--output", "json", "partner", "acme"]).ok().lines().last().unwrap().to_owned();
    assert!(event.contains("\"four_eyes\":\"off\"") && event.contains("\"ticket\":\"INC-1\""), "{event}");
    // It never extends, and the files of a pipeline do not end it.
    let later = gate.cli(&["grant", "extend", "acme-911", "--ends", "2099-01-01T00:00:00Z"]);
    refused(&later, 3, "an emergency grant is never extended");
    gate.apply(gate.registry_text());
    assert_eq!(answer(&gate, "DELETE", "/items/1").status, 200);

    // Nor does another one beside it, before somebody else has looked.
    let second =
        ["grant", "emergency", "acme", "acme-912", "--operation", "items.read", "--reason", "x", "--ticket", "INC-1"];
    let long = gate.cli(&[&second[..], &["--for", "4h"]].concat());
    refused(&long, 3, "that nobody has reviewed: together they last at most 4 h");
    gate.cli(&[&second[..], &["--for", "2h"]].concat()).ok();
    by_second(&gate, &["grant", "review", "acme-912", "--reason", "was needed"]).ok();
    gate.cli(&["grant", "revoke", "acme-912", "--yes", "--reason", "is over"]).ok();

    let review = ["grant", "review", "acme-911", "--reason", "was needed"];
    refused(&gate.cli(&review), 3, "another operator reviews it");
    refused(&by_second(&gate, &["grant", "review", "acme-items", "--reason", "x"]), 3, "is no emergency grant");
    assert!(by_second(&gate, &review).ok().contains("is reviewed"));
    gate.cli(&["grant", "revoke", "acme-911", "--yes", "--reason", "is over"]).ok();
    assert_eq!(answer(&gate, "DELETE", "/items/1").status, 403);
    assert!(!gate.cli(&["status"]).ok().contains("emergency "), "reviewed and over");
    await_some("the gauge", || {
        (gate.metric("partnergate_emergency_grants{state=\"unreviewed\"}") == 0.0).then_some(())
    });
    // Reviewed and over, it goes with the next files.
    gate.apply(gate.registry_text());
    assert!(!gate.cli(&["grant", "list"]).ok().contains("acme-911"));
}

/// A partner's first days without a file.
#[test]
fn partner_is_added_with_its_credential_and_grant_by_commands() {
    let gate = gate();
    let add = ["partner", "add", "initech", "--name", "Initech", "--owner", "sales", "--network", "loopback"];
    refused(&gate.cli(&[&add[..], &["--ends", "2099-01-01"]].concat()), 2, "is a date without a time");
    let said = gate.cli(&[&add[..], &["--ends", "2099-01-01T00:00:00Z", "--reason", "new"]].concat()).ok();
    assert!(said.contains("create       partner    initech") && said.contains("registry revision 2"), "{said}");
    refused(&gate.cli(&add), 3, "there is such a partner already");
    refused(&gate.cli(&["partner", "add", "hooli", "--name", "Hooli"]), 3, "registry: `partners.hooli.owner`");
    refused(&gate.cli(&["partner", "edit", "hooli", "--name", "Hooli"]), 3, "there is no such partner");

    // Its CA is an anchor of the files; the certificate is known by its key.
    let ca = gate.pki.authority("initech-ca");
    let client = gate.pki.client(&ca, "initech", |_| {});
    let anchor = "environment: test\nanchors:\n  initech-ca: {certificate: initech-ca.pem, partners: [initech]}\n";
    let folder = gate.write_registry(anchor);
    let id = waits(&gate.cli(&["apply", "--yes", "-f", folder.to_str().unwrap()]).ok());
    by_second(&gate, &["approval", "approve", &id]).ok();
    let by_key = format!("fingerprint_sha256={}", client.fingerprint());
    let add = ["credential", "add", "initech", "initech-1", "--anchor", "initech-ca", "--match", &by_key];
    assert!(gate.cli(&add).ok().contains("applied"), "one certificate needs nobody else");
    let by_name =
        ["credential", "add", "initech", "initech-2", "--anchor", "initech-ca", "--match", "dns=a.initech.example"];
    waits(&gate.cli(&by_name).ok());
    let status = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        gate.dial().identity(&client).open().request(request).status
    };
    assert_eq!(status("/items"), 403);
    let ask = ["grant", "request", "initech", "initech-items", "--operation", "items.list", "--owner", "sales"];
    waits(&gate.cli(&[&ask[..], &["--ends", "2098-01-01T00:00:00Z", "--credential", "initech-1"]].concat()).ok());
    by_second(&gate, &["grant", "approve", "initech-items"]).ok();
    assert_eq!(status("/items"), 200);
    // Changed, narrowed, and the credential ended.
    assert!(gate.cli(&["partner", "edit", "initech", "--name", "Initech Inc"]).ok().contains("applied"));
    waits(&gate.cli(&["partner", "edit", "initech", "--network", "loopback", "--network", "any"]).ok());
    refused(&gate.cli(&["credential", "revoke", "initech", "initech-1"]), 2, "--reason <REASON>");
    let revoke = ["credential", "revoke", "initech", "initech-1", "--reason", "key leaked"];
    refused(&gate.cli(&revoke), 3, "say --yes where nobody can be asked");
    gate.cli(&["credential", "revoke", "initech", "initech-1", "--yes", "--reason", "key leaked"]).ok();
    assert_eq!(status("/items"), 403);
    assert!(gate.cli(&["history", "partner", "initech"]).ok().contains(": key leaked"));
    // What an operator has stopped is no key to set.
    let set = "{\"set\": {\"suspension\": null}}";
    let (code, said) = gate.admin("PATCH", "/v1/partners/initech", set);
    assert!(code == 422 && said.contains("`suspension` is set by a command of its own"), "{said}");
}
