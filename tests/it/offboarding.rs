//! The end of a partner, at once and at a time that was set, and what is kept of it.

use crate::grants::{answer, by_second, gate, refused, waits};
use crate::harness::{Gate, HOST, await_some, this_user};
use crate::websocket;
use serde_json::Value;

fn soon(seconds: i64) -> String {
    (jiff::Timestamp::now() + jiff::Span::new().milliseconds(seconds * 1_000)).to_string()
}

fn report(gate: &Gate, partner: &str) -> Option<Value> {
    let shown = gate.cli(&["partner", "report", partner, "--output", "json"]);
    (shown.exit == Some(0)).then(|| serde_json::from_str(&shown.ok()).unwrap())
}

fn state(gate: &Gate, partner: &str) -> String {
    let list = gate.cli(&["partner", "list"]).ok();
    let line = list.lines().find(|line| line.starts_with(&format!("{partner} "))).unwrap_or_default().to_owned();
    line.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

const OFFBOARD: &[&str] =
    &["partner", "offboard", "acme", "--reason", "contract <4711> has ended", "--ticket", "CTR-99"];

#[test]
fn partner_ends_at_once_with_all_that_it_had_and_a_report_says_so() {
    let mut gate = gate();
    answer(&gate, "GET", "/items").expect(200);
    let mut socket = gate.dial().identity(&gate.acme).open();
    socket.request(websocket::handshake("/events")).expect(101);
    let ask = ["grant", "request", "acme", "acme-more", "--operation", "items.delete", "--owner", "o"];
    let waiting = waits(&gate.cli(&[&ask[..], &["--ends", "2099-01-01T00:00:00Z"]].concat()).ok());

    refused(&gate.cli(OFFBOARD), 3, "say --yes where nobody can be asked");
    refused(&by_second(&gate, &["partner", "offboard", "nobody", "--reason", "x", "--yes"]), 3, "no such partner");
    answer(&gate, "GET", "/items").expect(200);
    let page = gate.dir.path().join("report.html");
    let said = gate.cli(&[OFFBOARD, &["--yes", "--page", page.to_str().unwrap()]].concat()).ok();
    for line in [
        "`acme` has ended (registry revision 2)",
        "credential acme-client: revoked",
        "grant acme-items: revoked",
        "grant acme-socket: revoked",
        &format!("approval {waiting}: void"),
        "1 connections were open; the last was closed at ",
        "by acme-client under acme-items",
        "no request has been denied since",
        "the anchor `acme-ca` speaks for `acme` alone: remove it",
        "seen under `acme-client`, is valid until",
    ] {
        assert!(said.contains(line), "no `{line}` in {said}");
    }
    assert!(!said.contains("the network `loopback`"), "globex calls from it too: {said}");
    socket.assert_closed();
    let denied = answer(&gate, "GET", "/items");
    assert_eq!((denied.status, denied.code()), (403, "engagement-not-active".into()));
    let id = denied.header("x-request-id").unwrap().to_owned();
    assert_eq!(gate.record_of(&id)["reason"], "engagement-ended");
    answer(&gate, "GET", "/items").expect(403);

    // The report knows the first one that came since, and a page says what the terminal says.
    let shown = report(&gate, "acme").unwrap();
    assert_eq!(shown["first_denied"]["request"], Value::from(id), "{shown}");
    assert_eq!(
        (&shown["first_denied"]["reason"], &shown["last_allowed"]["operation"]),
        (&"engagement-ended".into(), &"items.list".into())
    );
    assert_eq!((&shown["author"], &shown["ticket"]), (&this_user().into(), &"CTR-99".into()));
    assert_eq!(shown["existed"]["grants"]["acme-items"]["operations"][0], "items.read");
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(
        page.contains("contract &lt;4711&gt; has ended") && page.contains("<li>grant acme-socket: revoked</li>"),
        "{page}"
    );

    // Nothing is left of it, and nothing brings it back.
    assert_eq!(state(&gate, "acme"), "ended");
    let approval = gate.cli(&["approval", "show", &waiting]).ok();
    assert!(approval.contains("void") && approval.contains("`acme` has ended"), "{approval}");
    let twice = gate.cli(&[OFFBOARD, &["--yes"]].concat()).ok();
    assert!(twice.starts_with("`acme` has ended already"), "{twice}");
    let folder = gate.write_registry(gate.registry_text());
    let applied = gate.cli(&["apply", "--yes", "-f", folder.to_str().unwrap()]).ok();
    assert!(applied.contains("keep         partner    acme") && !applied.contains("applied"), "{applied}");
    refused(&gate.cli(&["partner", "edit", "acme", "--name", "A"]), 3, "for good");
    refused(&gate.cli(&["partner", "suspend", "acme", "--reason", "x"]), 3, "has ended");
    refused(&gate.cli(&[&ask[..], &["--ends", "2099-01-01T00:00:00Z"]].concat()), 3, "for good");
    let globex = gate.dial().identity(&gate.globex).open();
    assert_eq!(
        { globex }.request(format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).status,
        200,
        "others are as they were"
    );
    refused(&gate.cli(&["partner", "resume", "acme", "--reason", "x"]), 3, "has ended for good");
    refused(&gate.cli(&["partner", "kit", "acme", "-d", "x"]), 3, "has ended");
    // One transaction, in the history, over a kill, and in what is exported.
    let events = gate.cli(&["history", "all", "--output", "json"]).ok();
    let of = |noun: &str| {
        let mut all = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        all.rfind(|e| e["noun"] == noun && e["ticket"] == "CTR-99").unwrap_or_else(|| panic!("no {noun} in {events}"))
    };
    assert_eq!(of("partner")["revision"], 2);
    assert_eq!(
        (of("approval")["time"].clone(), of("partner")["id"].clone()),
        (of("partner")["time"].clone(), "acme".into())
    );
    assert_eq!(of("report")["id"], "acme");
    // What came since is in the report that is chained, not only in what is shown.
    await_some("the report to take it up", || {
        gate.cli(&["history", "report", "acme"]).ok().contains("it was refused for the first time").then_some(())
    });
    let chained = gate.cli(&["history", "report", "acme", "--output", "json"]).ok();
    let last: Value = serde_json::from_str(chained.lines().last().unwrap()).unwrap();
    assert_eq!(last["after"]["first_denied"]["reason"], "engagement-ended", "{last}");
    let first: Value = serde_json::from_str(chained.lines().next().unwrap()).unwrap();
    assert_eq!(first["after"]["last_allowed"]["operation"], "items.list", "{first}");
    gate.restart("KILL");
    assert_eq!((answer(&gate, "GET", "/items").status, state(&gate, "acme")), (403, "ended".into()));
    let out = gate.dir.path().join("exported");
    gate.cli(&["export", "-d", out.to_str().unwrap()]).ok();
    assert!(std::fs::read_to_string(out.join("registry.json")).unwrap().contains("\"closed\""));
    assert!(gate.cli(&["apply", "--yes", "-f", out.to_str().unwrap()]).ok().contains("nothing to change"));
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

#[test]
fn partner_ends_by_itself_at_the_time_that_was_set_and_may_stay_if_somebody_else_agrees() {
    let gate = gate();
    let at = |time: &str| gate.cli(&[OFFBOARD, &["--at", time]].concat());
    refused(&at("2020-01-01T00:00:00Z"), 3, "is over already");
    assert!(at("2098-01-01T00:00:00Z").ok().starts_with("`acme` ends at 2098-01-01T00:00:00Z (registry revision 2)"));
    assert!(at("2098-01-01T00:00:00Z").ok().contains("already"));
    assert!(at("2097-01-01T00:00:00Z").ok().contains("registry revision 3"), "sooner is less");
    refused(&at("2099-01-01T00:00:00Z"), 3, "--cancel");
    assert_eq!((state(&gate, "acme"), answer(&gate, "GET", "/items").status), ("offboarding".into(), 200));
    // Files do not take it back; what is asked for does not outlive it.
    gate.apply(gate.registry_text());
    let status = gate.cli(&["status"]).ok();
    assert!(status.contains("offboarding  acme by ") && status.contains("ends at 2097-01-01T00:00:00Z"), "{status}");
    let ask = ["grant", "request", "acme", "acme-more", "--operation", "items.delete", "--owner", "o"];
    refused(
        &gate.cli(&[&ask[..], &["--ends", "2098-01-01T00:00:00Z"]].concat()),
        3,
        "is after the engagement of `acme`",
    );
    // To stay is more, and so it waits.
    let id = waits(&gate.cli(&["partner", "offboard", "acme", "--cancel", "--reason", "they stay"]).ok());
    assert!(gate.cli(&["approval", "show", &id]).ok().contains("stays, and was to end at 2097-01-01T00:00:00Z"));
    assert_eq!(state(&gate, "acme"), "offboarding");
    by_second(&gate, &["approval", "approve", &id]).ok();
    assert_eq!(state(&gate, "acme"), "active");

    at(&soon(2)).ok();
    answer(&gate, "GET", "/items").expect(200);
    let mut socket = gate.dial().identity(&gate.acme).open();
    socket.request(websocket::handshake("/events")).expect(101);
    socket.assert_closed();
    assert_eq!(answer(&gate, "GET", "/items").code(), "engagement-not-active");
    let report = await_some("the report", || report(&gate, "acme"));
    assert_eq!(report["closed"]["grants"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!((state(&gate, "acme"), report["author"].clone()), ("ended".into(), this_user().into()));
    let shown = gate.cli(&["history", "partner", "acme"]).ok();
    assert!(shown.contains("by partnergate (gateway): the time that was set has come"), "{shown}");
}

/// What ends by its time is decided by the time and told once.
#[test]
fn history_has_one_event_of_what_time_has_begun_and_ended() {
    let mut gate = gate();
    let (starts, ends) = (soon(1), soon(2));
    let ask = ["grant", "request", "acme", "acme-short", "--operation", "items.delete", "--owner", "o"];
    waits(&gate.cli(&[&ask[..], &["--starts", &starts, "--ends", &ends]].concat()).ok());
    by_second(&gate, &["grant", "approve", "acme-short"]).ok();
    let events = |gate: &Gate, verb: &str| {
        let all = gate.cli(&["history", "all", "--output", "json"]).ok();
        all.lines().filter(|line| line.contains(&format!("\"verb\":\"{verb}\""))).map(str::to_owned).collect::<Vec<_>>()
    };
    let ended = await_some("the end", || Some(events(&gate, "end")).filter(|found| !found.is_empty()));
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert!(
        ended[0].contains("\"grant\":\"acme-short\"") && ended[0].contains("\"name\":\"partnergate\""),
        "{ended:?}"
    );
    gate.restart("KILL");
    // Something else that is told after it.
    let ask = ["grant", "request", "acme", "acme-next", "--operation", "items.delete", "--owner", "o"];
    waits(&gate.cli(&[&ask[..], &["--ends", &soon(2)]].concat()).ok());
    by_second(&gate, &["grant", "approve", "acme-next"]).ok();
    let told = await_some("the next end", || Some(events(&gate, "end")).filter(|found| found.len() > 1));
    assert_eq!((told.len(), events(&gate, "start").len()), (2, 1), "{told:?}");
    let shown = gate.cli(&["history", "grant", "acme-short"]).ok();
    assert!(
        shown.contains("grant acme-short has begun at ") && shown.contains("grant acme-short has ended at "),
        "{shown}"
    );
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

#[test]
fn partner_that_is_to_be_reviewed_shows_until_somebody_has_looked() {
    let gate = gate();
    let edit = ["partner", "edit", "acme", "--review-every", "30d", "--contact", "payments@example.com"];
    let proofed =
        ["--proofing", "commercial register", "--proofed-by", "vendor-office", "--data-classification", "confidential"];
    gate.cli(&edit).ok();
    let status = gate.cli(&["status"]).ok();
    assert!(status.contains("REVIEW DUE   of acme (owner payments-team) since 2020-01-31T00:00:00Z"), "{status}");
    assert_eq!(gate.metric("partnergate_partner_reviews_due"), 1.0);
    refused(&gate.cli(&["partner", "review", "globex", "--reason", "x"]), 3, "has no `review_every`");
    let said = by_second(&gate, &["partner", "review", "acme", "--reason", "all of it is needed"]).ok();
    assert!(said.starts_with("`acme` is reviewed; next by 2"), "{said}");
    assert!(!gate.cli(&["status"]).ok().contains("REVIEW DUE"));
    assert_eq!(gate.metric("partnergate_partner_reviews_due"), 0.0);
    gate.cli(&[&["partner", "edit", "acme"][..], &proofed].concat()).ok();
    let shown = gate.cli(&["partner", "show", "acme"]).ok();
    for line in [
        "owner       payments-team (payments@example.com)",
        "data        confidential",
        "proofing    commercial register, by vendor-office at 2",
        "review      every 30 days; last by second at 2",
    ] {
        assert!(shown.contains(line), "no `{line}` in {shown}");
    }
    // Files that do not know of the review do not take it back.
    let text = gate.registry_text().replace("  acme:\n    name:", "  acme:\n    review_every: 30d\n    name:");
    gate.apply(&text);
    assert!(gate.cli(&["partner", "show", "acme"]).ok().contains("all of it is needed"));
}

/// What an attacker with the role `requester` tried with files and calls.
#[test]
fn files_neither_decide_what_commands_decide_nor_forget_it() {
    let gate = gate();
    let apply = |text: &str, more: &[&str]| {
        let folder = gate.write_registry(text);
        gate.cli(&[&["apply", "--yes", "-f", folder.to_str().unwrap()], more].concat())
    };
    let acme =
        |keys: &str| gate.registry_text().replace("  acme:\n    name:", &format!("  acme:\n    {keys}\n    name:"));
    let by = "author: bob, at: 2026-01-01T00:00:00Z";
    for (keys, said) in [
        (format!("offboarding: {{reason: x, {by}, ends: 2026-01-02T00:00:00Z}}"), "what `partner offboard` decides"),
        (format!("review_every: 30d\n    reviewed: {{finding: x, {by}}}"), "what `partner review` decides"),
    ] {
        refused(&apply(&acme(&keys), &[]), 3, said);
    }
    let revoked = gate.registry_text().replace(
        "acme-client: {anchor: acme-ca,",
        &format!("acme-client: {{revoked: {{reason: x, {by}}}, anchor: acme-ca,"),
    );
    refused(&apply(&revoked, &[]), 3, "what `credential revoke` decides");
    // A revoked credential that is left out stays what it is, and does not come back as new.
    gate.cli(&["credential", "revoke", "globex", "globex-client", "--yes", "--reason", "leaked"]).ok();
    let gone = "{\"set\": {\"credentials\": {\"globex-client\": null}}}";
    assert_eq!(gate.admin("PATCH", "/v1/partners/globex", gone).0, 200);
    let listed = gate.cli(&["credential", "list", "--partner", "globex"]).ok();
    assert!(listed.contains("globex-client") && listed.contains("revoked"), "{listed}");
    let again = ["credential", "add", "globex", "globex-new", "--anchor", "globex-ca"];
    let again = gate.cli(&[&again[..], &["--match", "uri=spiffe://globex.example/client"]].concat());
    refused(&again, 3, "and is revoked");
    // What ends does not go by a prune, and what has ended stays.
    let only_globex = gate.registry_text();
    let (head, tail) = (only_globex.find("  acme:\n").unwrap(), only_globex.find("  globex:\n").unwrap());
    let only_globex = format!("{}{}", &only_globex[..head], &only_globex[tail..]);
    gate.cli(&[OFFBOARD, &["--at", "2097-01-01T00:00:00Z"]].concat()).ok();
    refused(&apply(&only_globex, &["--prune"]), 3, "its end is set");
    gate.cli(&[OFFBOARD, &["--yes"]].concat()).ok();
    apply(&only_globex, &["--prune"]).ok();
    assert_eq!(state(&gate, "acme"), "ended");
    assert!(report(&gate, "acme").is_some());
}
