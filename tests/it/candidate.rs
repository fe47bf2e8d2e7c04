//! A second policy on live traffic: what it would change is told, and changes nothing before somebody promotes it.

use crate::harness::{Gate, HOST, Setup, await_some};
use crate::status::documented;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

const NEXT: &str = "package partnergate.custom\n\nimport rego.v1\n\n\
                    deny contains {\"reason\": \"x-next\"} if input.request.operation == \"items.read\"\n";

/// A gateway whose candidate denies what acme may do, and allows what the custom rule of its policy denies.
fn setup() -> (Setup, PathBuf, PathBuf) {
    let (setup, policies) = Setup::new().set("reload.interval", "1h").own_policies();
    fs::write(policies.join("reasons.yaml"), "reasons:\n  x-next: \"Read no items\"\n  x-now: \"Delete no items\"\n")
        .unwrap();
    let next = setup.dir.path().join("next");
    crate::harness::copy_folder(&policies, &next);
    fs::write(policies.join("custom/now.rego"), NEXT.replace("x-next", "x-now").replace("items.read", "items.create"))
        .unwrap();
    fs::write(next.join("custom/next.rego"), NEXT).unwrap();
    let setup = setup.set("policy.candidate", json!({"dir": next, "cpu_percent": 100}));
    (setup, policies, next)
}

fn call(gate: &Gate, method: &str, path: &str) -> (u16, String) {
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.send(format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
    let answer = conn.response();
    (answer.status, answer.id().to_owned())
}

fn state(gate: &Gate) -> Value {
    serde_json::from_str(&gate.cli(&["policy", "candidate", "status", "--output", "json"]).ok()).unwrap()
}

/// Waits until this many decisions have been looked at.
fn looked_at(gate: &Gate, count: u64) -> Value {
    await_some("decisions to be looked at", || {
        let state = state(gate);
        let seen = &state["candidate"];
        let sum: u64 = ["same", "newly_allowed", "newly_denied", "other_reason", "failed"]
            .iter()
            .map(|key| seen[*key].as_u64().unwrap())
            .sum();
        (sum == count).then(|| seen.clone())
    })
}

fn lines(gate: &Gate, kind: &str) -> Vec<Value> {
    let all = gate.records_text();
    let all = all.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|line| line["kind"] == kind).collect()
}

#[test]
fn what_the_candidate_would_change_is_told_and_changes_nothing() {
    let (setup, ..) = setup();
    let gate = setup.start();
    let (status, read) = call(&gate, "GET", "/items/7");
    assert_eq!(status, 200, "the candidate denies it, and has no say");
    let (status, deleted) = call(&gate, "POST", "/items");
    assert_eq!(status, 403, "the candidate allows it, and has no say");
    assert_eq!(call(&gate, "GET", "/items").0, 200);
    // Nobody opens what the floor closes: it is not asked.
    gate.cli(&["partner", "suspend", "acme", "--reason", "odd"]).ok();
    assert_eq!(call(&gate, "GET", "/items").0, 403);
    gate.cli(&["partner", "resume", "acme", "--reason", "not odd"]).ok();
    let seen = looked_at(&gate, 3);
    assert_eq!(
        (&seen["same"], &seen["newly_denied"], &seen["newly_allowed"]),
        (&json!(1), &json!(1), &json!(1)),
        "{seen}"
    );
    let row = |change: &str| {
        let rows = seen["changes"].as_array().unwrap();
        let found = rows.iter().find(|row| row["change"] == change).unwrap().clone();
        assert_eq!((&found["count"], &found["partner"]), (&json!(1), &json!("acme")));
        found
    };
    let denied = row("newly-denied");
    assert_eq!(
        (&denied["operation"], &denied["reason"], &denied["examples"]),
        (&json!("items.read"), &json!("x-next"), &json!([read]))
    );
    let allowed = row("newly-allowed");
    assert_eq!((&allowed["operation"], &allowed["reason"]), (&json!("items.create"), &json!("x-now")));
    let shown = gate.cli(&["policy", "candidate", "status"]).ok();
    assert!(shown.contains("newly-denied          1  acme                 items.read"), "{shown}");
    assert!(shown.contains("1 the same, 1 newly denied, 1 newly allowed"), "{shown}");
    let pair = |operation: &str| format!("{{operation=\"{operation}\",partner=\"acme\"}}");
    assert_eq!(gate.metric(&format!("partnergate_policy_candidate_would_deny_total{}", pair("items.read"))), 1.0);
    assert_eq!(gate.metric(&format!("partnergate_policy_candidate_would_allow_total{}", pair("items.create"))), 1.0);
    assert_eq!(gate.metric("partnergate_policy_candidate_decisions_total{outcome=\"same\"}"), 1.0);
    assert_eq!(gate.metric("partnergate_policy_candidate_good"), 1.0);
    let (there, documented) = (gate.metrics(), documented());
    for name in documented.keys().filter(|name| name.starts_with("partnergate_policy_candidate_")) {
        assert!(there.contains(&format!("# TYPE {name} ")), "`{name}` is documented, and is not there");
    }
    // Each difference has a record beside that of its decision, and the chain is whole.
    let differences = await_some("two records", || Some(lines(&gate, "candidate")).filter(|lines| lines.len() == 2));
    let one = differences.iter().find(|line| line["decision_id"] == json!(read)).unwrap();
    assert_eq!((&one["result"], &one["change"]), (&json!("allow"), &json!("newly-denied")), "{one}");
    assert_eq!((&one["candidate"]["result"], &one["candidate"]["reasons"]), (&json!("deny"), &json!(["x-next"])));
    assert!(one["candidate"]["policy"] != one["snapshot"]["policy"] && one.get("input").is_none());
    let other = differences.iter().find(|line| line["decision_id"] == json!(deleted)).unwrap();
    assert_eq!((&other["reason"], &other["candidate"]["result"]), (&json!("x-now"), &json!("allow")), "{other}");
    assert!(other["candidate"]["grant"].is_string(), "{other}");
}

#[test]
fn candidate_is_promoted_and_rolled_back_with_one_command_each_and_stays_over_a_kill() {
    let (setup, policies, next) = setup();
    let mut gate = setup.start();
    let outcome = |gate: &Gate| (call(gate, "GET", "/items/7").0, call(gate, "POST", "/items").0);
    assert_eq!(outcome(&gate), (200, 403));
    let before = state(&gate);
    let revision = before["candidate"]["revision"].as_str().unwrap().to_owned();
    // Another one than was looked at is not promoted, and nobody is who does not say why.
    let promote = |gate: &Gate, more: &[&str]| gate.cli(&[&["policy", "candidate", "promote", "--yes"], more].concat());
    let wrong = promote(&gate, &["--reason", "x", "--revision", "0123456789abcdef"]);
    assert!(
        wrong.exit != Some(0) && wrong.stderr.contains("it has changed since it was looked at"),
        "{}",
        wrong.stderr
    );
    let empty = promote(&gate, &["--reason", " "]);
    assert!(empty.exit == Some(3) && empty.stderr.contains("a reason is needed"), "{}", empty.stderr);
    let dry = promote(&gate, &["--reason", "x", "--dry-run"]).ok();
    let line = format!("policy                   {revision} in the place of {}", before["policy"].as_str().unwrap());
    assert!(dry.contains(&line) && outcome(&gate) == (200, 403), "{dry}");
    let short = promote(&gate, &["--reason", "x", "--revision", &revision[..7]]);
    assert!(short.exit == Some(3) && short.stderr.contains("name 8 of its digits at least"), "{}", short.stderr);
    let shown = gate.cli(&["policy", "candidate", "status"]).ok();
    let shown = shown.lines().find_map(|line| line.strip_prefix("candidate  ")).unwrap();
    let more = ["--reason", "two weeks without a surprise", "--ticket", "SEC-7", "--revision", shown];
    let said = promote(&gate, &more).ok();
    assert!(said.contains(&format!("the candidate {} decides in the place of", &revision[..12])), "{said}");
    assert_eq!(outcome(&gate), (403, 200), "at once");
    assert_eq!(gate.metric("partnergate_policy_promoted"), 1.0);
    let after = state(&gate);
    assert_eq!((&after["policy"], &after["candidate"]["decides"]), (&json!(revision), &json!(true)), "{after}");
    let shown = gate.cli(&["status"]).ok();
    assert!(
        shown.contains("PROMOTED     it is the candidate, by ") && shown.contains("two weeks without a surprise"),
        "{shown}"
    );
    assert!(promote(&gate, &["--reason", "x"]).stderr.contains("is what decides already"));
    let history = gate.cli(&["history", "all"]).ok();
    let event = format!("policy {revision} in the place of {}", before["policy"].as_str().unwrap());
    assert!(history.contains("create promotion policy") && history.contains(&event), "{history}");
    // It is in the database, and in a copy of it.
    gate.restart("KILL");
    assert_eq!(outcome(&gate), (403, 200), "after a kill");
    // What is not served is no part of the policy.
    fs::write(policies.join("custom/now_test.rego"), "package own_test\n\n# Nothing yet.\n").unwrap();
    gate.reload();
    assert_eq!(outcome(&gate), (403, 200), "it stands");
    // The folder of the config explains what it did not decide, and says so.
    let (_, id) = call(&gate, "GET", "/items/7");
    gate.record_of(&id);
    let said = gate.cli(&["policy", "explain", "--decision", &id]).ok();
    assert!(said.contains(&format!(", policy {revision}\n")), "{said}");
    assert!(said.contains(&format!("by:       the policy {}\n", before["policy"].as_str().unwrap())), "{said}");
    let hint = format!(
        "not the one that decided, which was the candidate, promoted: `partnergate policy explain --decision {id} {}`",
        next.display()
    );
    assert!(said.contains(&hint), "{said}");
    let said = gate.cli(&["policy", "explain", "--decision", &id, next.to_str().unwrap()]).ok();
    assert!(said.contains(&format!("by:       the policy {revision}\n")) && !said.contains("not the one"), "{said}");
    let rolled = gate.cli(&["policy", "candidate", "rollback", "--reason", "a partner complains"]).ok();
    assert!(rolled.contains("the configured policy"), "{rolled}");
    assert_eq!(outcome(&gate), (200, 403), "as before");
    assert_eq!(gate.metric("partnergate_policy_promoted"), 0.0);
    let again = gate.cli(&["policy", "candidate", "rollback", "--reason", "x"]);
    assert!(again.exit == Some(3) && again.stderr.contains("no candidate is promoted"), "{}", again.stderr);
    // A copy of before does not bring it back by itself.
    let copy = gate.dir.path().join("copy");
    promote(&gate, &["--reason", "again"]).ok();
    gate.cli(&["db", "backup", copy.to_str().unwrap()]).ok();
    gate.cli(&["policy", "candidate", "rollback", "--reason", "too wide"]).ok();
    gate.stop("TERM");
    let restore = ["db", "restore", copy.to_str().unwrap(), "--replace", "--reason", "drill"];
    let refused = gate.cli(&restore);
    let said = format!("what the promoted policy {revision} permits");
    assert!(refused.exit == Some(3) && refused.stderr.contains(&said), "{}", refused.stderr);
    gate.cli(&[&restore[..], &["--forget-denials"]].concat()).ok();
    // And it is ended without a gateway, should none start with it.
    gate.cli(&["db", "end-promotion", "--reason", "not that one"]).ok();
    let again = gate.cli(&["db", "end-promotion", "--reason", "twice"]);
    assert!(again.exit == Some(3) && again.stderr.contains("no candidate is promoted"), "{}", again.stderr);
    gate.begin();
    assert_eq!(outcome(&gate), (200, 403), "the configured policy");
    // Whoever changes the configured policy afterwards means it.
    promote(&gate, &["--reason", "again"]).ok();
    assert_eq!(outcome(&gate), (403, 200));
    fs::remove_file(policies.join("custom/now.rego")).unwrap();
    gate.reload();
    assert_eq!(outcome(&gate), (200, 200), "the configured policy, as it is now");
    assert!(gate.log().contains("the promotion is over: the configured policy has changed"), "{}", gate.log());
    assert!(gate.cli(&["history", "all"]).ok().contains("remove promotion policy"));
    // While the gateway is down as well.
    promote(&gate, &["--reason", "a third time"]).ok();
    gate.stop("TERM");
    fs::write(policies.join("custom/now.rego"), NEXT.replace("x-next", "x-now").replace("items.read", "items.list"))
        .unwrap();
    gate.begin();
    assert_eq!(call(&gate, "GET", "/items").0, 403);
    assert_eq!(outcome(&gate), (200, 200));
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

#[test]
fn what_is_wrong_with_a_candidate_keeps_nobody_from_being_served() {
    let (setup, _, next) = setup();
    fs::write(next.join("custom/next.rego"), "package partnergate.custom\n\ndeny contains x if {\n").unwrap();
    let gate = setup.start();
    assert_eq!(call(&gate, "GET", "/items/7").0, 200);
    assert_eq!(gate.metric("partnergate_policy_candidate_good"), 0.0);
    let seen = state(&gate);
    assert!(seen["candidate"]["problems"][0].as_str().unwrap().contains("custom/next.rego:"), "{seen}");
    assert!(gate.cli(&["policy", "candidate", "status"]).ok().contains("NOT GOOD"));
    let refused = gate.cli(&["policy", "candidate", "promote", "--yes", "--reason", "x"]);
    assert!(refused.exit == Some(3) && refused.stderr.contains("the candidate is not good"), "{}", refused.stderr);
    let checked = gate.cli(&["check"]);
    assert!(checked.exit == Some(0), "{}", checked.stderr);
    assert!(
        checked.stderr.contains("the candidate is not previewed") && checked.stderr.contains("next/custom/next.rego:"),
        "{}",
        checked.stderr
    );
    // It is mended, and previewed with the next reload.
    fs::write(next.join("custom/next.rego"), NEXT).unwrap();
    gate.reload();
    assert_eq!(call(&gate, "GET", "/items/7").0, 200);
    assert_eq!(looked_at(&gate, 1)["newly_denied"], 1);
    // A folder that is not there is one more thing that is wrong with it alone.
    fs::remove_dir_all(&next).unwrap();
    gate.reload();
    assert!(state(&gate)["candidate"]["problems"][0].as_str().unwrap().contains("does not exist"));
    assert_eq!(call(&gate, "GET", "/items/7").0, 200);
}

#[test]
fn candidate_that_burns_its_budget_slows_nobody_down() {
    let (setup, _, next) = setup();
    // More than its instructions permit, on every request.
    let many: Vec<u32> = (0..200).collect();
    let hostile = format!(
        "package partnergate.custom\n\nimport rego.v1\n\nmany := {many:?}\n\n\
         deny contains {{\"reason\": \"x-next\"}} if count([1 | some a in many; some b in many; a == b]) == 1\n"
    );
    fs::write(next.join("custom/next.rego"), hostile).unwrap();
    let gate = setup.set("policy.candidate.cpu_percent", 5).start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    const CALLS: u64 = 2_000;
    for _ in 0..CALLS {
        conn.send(format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        conn.response().expect(200);
    }
    let seen = await_some("all of them to be told", || {
        let seen = state(&gate)["candidate"].clone();
        let sum = seen["failed"].as_u64().unwrap() + seen["skipped"].as_u64().unwrap();
        (seen["skipped"].as_u64().unwrap() > 0 && sum + 1024 >= CALLS).then_some(seen)
    });
    assert!(seen["failed"].as_u64().unwrap() > 0 && seen["newly_denied"] == 0, "{seen}");
}

#[test]
fn of_a_sample_each_decision_is_one_or_is_not() {
    let (setup, ..) = setup();
    let gate = setup.set("policy.candidate.sample_percent", 20).start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for _ in 0..500 {
        conn.send(format!("GET /items/7 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        conn.response().expect(200);
    }
    // Five standard deviations to either side.
    let sampled = await_some("a part of them", || {
        let state = state(&gate);
        let seen = state["candidate"]["newly_denied"].as_u64().unwrap();
        (55..=145).contains(&seen).then_some(seen)
    });
    assert!(sampled < 500);
}

#[test]
fn nobody_promotes_without_the_role_for_it() {
    let (setup, ..) = setup();
    let gate = setup.set("approval.four_eyes", "off").start();
    let second = gate.dir.path().join("second.token");
    gate.cli(&["operator", "roles", "second", "--role", "operator", "--reason", "x"]).ok();
    let token = format!("file:{}", second.display());
    let promote = gate.cli(&["--token", &token, "policy", "candidate", "promote", "--yes", "--reason", "x"]);
    assert_eq!(promote.exit, Some(4), "{}", promote.stderr);
    gate.cli(&["policy", "candidate", "promote", "--yes", "--reason", "x"]).ok();
    // Who takes back needs to be no more than who stops.
    gate.cli(&["--token", &token, "policy", "candidate", "rollback", "--reason", "x"]).ok();
}

#[test]
fn candidate_that_masks_records_otherwise_says_so_before_it_is_promoted() {
    let (setup, _, next) = setup();
    let gate = setup.start();
    let differs = |gate: &Gate| gate.cli(&["policy", "candidate", "status"]).ok().contains("RECORDS    its rules");
    assert!(!differs(&gate));
    fs::create_dir(next.join("system")).unwrap();
    let rules = "package system.log\n\nimport rego.v1\n\nmask contains \"/input/request/path\"\n";
    fs::write(next.join("system/log.rego"), rules).unwrap();
    gate.reload();
    assert!(differs(&gate), "{}", state(&gate));
}
