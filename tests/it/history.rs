//! The history: who changed what and why, and that nobody can alter what it says unseen. Threats 29 and 30.

use crate::harness::http2::block_on;
use crate::harness::{Finished, Gate, await_some, this_user};
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use std::path::PathBuf;

const ACME_ITEMS: &str = "[items.read, items.list, items.create, pairs.read]";

fn apply(gate: &Gate, yaml: &str, why: &[&str]) {
    let folder = gate.write_registry(yaml);
    gate.cli(&[&["apply", "--yes", "-f", folder.to_str().unwrap()], why].concat()).ok();
}

/// Narrows a grant of acme, for a reason.
fn narrow(gate: &Gate) {
    let narrowed = gate.registry_text().replace(ACME_ITEMS, "[items.read]");
    assert_ne!(narrowed, gate.registry_text());
    apply(gate, &narrowed, &["--reason", "audit finding 7", "--ticket", "SEC-12"]);
}

/// What somebody can do who has the database, and no way into the gateway.
pub fn tamper(gate: &Gate, statements: &str) {
    block_on(async {
        let options = SqliteConnectOptions::new().filename(gate.dir.path().join("state/registry.db"));
        let mut database = options.connect().await.unwrap();
        let untie = "DROP TRIGGER IF EXISTS event_is_not_altered; DROP TRIGGER IF EXISTS event_is_not_removed; ";
        for statement in format!("{untie}{statements}").split("; ") {
            sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut database).await.unwrap();
        }
        database.close().await.unwrap();
    });
}

fn verify(gate: &Gate, more: &[&str]) -> Finished {
    gate.cli(&[&["audit", "verify"], more].concat())
}

fn records(gate: &Gate) -> PathBuf {
    gate.dir.path().join("records.jsonl")
}

/// The copies of events among the records.
fn copies(gate: &Gate) -> Vec<Value> {
    let lines = gate.lines().into_iter();
    lines.filter(|l| l["kind"] == "history").filter_map(|l| l.get("event").cloned()).collect()
}

#[test]
fn history_says_who_changed_what_when_and_why() {
    let gate = Gate::start();
    narrow(&gate);
    let shown = gate.cli(&["history", "partner", "acme"]).ok();
    for word in [
        "create partner acme  (registry revision 1)",
        "change partner acme  (registry revision 2)",
        &format!("by {} (admin-socket) [SEC-12]: audit finding 7", this_user()),
        "grants.acme-items.operations:",
    ] {
        assert!(shown.contains(word), "no `{word}` in\n{shown}");
    }
    assert!(!shown.contains("partner globex"), "{shown}");

    let json = gate.cli(&["history", "--output", "json", "partner", "acme"]).ok();
    let events: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let operations = |document: &Value| document["grants"][0]["operations"].as_array().unwrap().len();
    assert_eq!((events.len(), operations(&events[1]["before"]), operations(&events[1]["after"])), (2, 4, 1), "{json}");
    assert_eq!((&events[1]["verb"], &events[1]["actor"]["name"]), (&"change".into(), &this_user().into()));

    // A grant has a history of its own within its partner's.
    let grant = gate.cli(&["history", "grant", "acme-items"]).ok();
    assert!(grant.contains("grant acme-items was made") && grant.contains("items.create"), "{grant}");
    let others = gate.cli(&["history", "grant", "acme-socket"]).ok();
    assert_eq!(others.matches("registry revision").count(), 1, "nothing was changed in it: {others}");
    assert_eq!(gate.cli(&["history", "partner", "nobody"]).ok().trim(), "no events");
}

#[test]
fn denial_of_a_certificate_is_in_the_history_with_its_reason() {
    let gate = Gate::start();
    let serial = gate.acme.serial();
    gate.cli(&["anchor", "deny", "acme-ca", "--serial", &serial, "--reason", "key leaked", "--ticket", "INC-1"]).ok();
    let shown = gate.cli(&["history", "anchor", "acme-ca"]).ok();
    assert!(shown.contains("[INC-1]: key leaked") && shown.contains("denied"), "{shown}");
    assert!(verify(&gate, &[]).ok().starts_with("good: "));
}

#[test]
fn history_is_whole_after_changes_restarts_and_kills_and_the_records_have_a_copy_of_all_of_it() {
    let mut gate = Gate::start();
    for signal in ["KILL", "TERM", "KILL"] {
        narrow(&gate);
        gate.restart(signal);
        gate.apply(gate.registry_text());
    }
    let answer: Value = serde_json::from_str(&verify(&gate, &["--output", "json"]).ok()).unwrap();
    assert_eq!(answer["ok"], true, "{answer}");
    let events = answer["events"].as_u64().unwrap();
    // A kill may come between a commit and its copy; then the next start copies it, and one may be there twice.
    let seqs = await_some("the copies", || {
        let mut seqs: Vec<u64> = copies(&gate).iter().map(|e| e["seq"].as_u64().unwrap()).collect();
        seqs.dedup();
        (seqs.last() == Some(&events)).then_some(seqs)
    });
    assert_eq!(seqs, (1..=events).collect::<Vec<_>>());
    let said = verify(&gate, &["--records", records(&gate).to_str().unwrap()]).ok();
    assert!(said.contains(" checkpoints in the records vouch for it"), "{said}");

    // What is exported gives the hash that was shown, by anybody's means.
    let export = gate.dir.path().join("history.jsonl");
    std::fs::write(&export, gate.cli(&["audit", "export"]).ok()).unwrap();
    let script = "import hashlib, sys\nh = bytes(32)\nfor line in open(sys.argv[1], 'rb'):\n    h = hashlib.sha256(h + line.rstrip(b'\\n')).digest()\nprint(h.hex())";
    let python = std::process::Command::new("python3").args(["-c", script]).arg(&export).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&python.stdout).trim(), answer["hash"], "{python:?}");
}

/// Threat 30.
#[test]
fn whoever_alters_the_database_is_found_out() {
    for (statements, said) in [
        ("UPDATE event SET event = replace(event, 'audit finding 7', 'as agreed')", "was altered"),
        ("DELETE FROM event WHERE seq = 2", "event 2 is missing"),
        (
            "UPDATE event SET seq = -1 WHERE seq = 2; UPDATE event SET seq = 2 WHERE seq = 3; \
             UPDATE event SET seq = 3 WHERE seq = -1",
            "event 2 is not in its place",
        ),
        ("DELETE FROM event WHERE noun = 'partner' AND seq > 5", "is missing"),
        (
            "UPDATE partner SET doc = replace(doc, 'Acme GmbH', 'Acme Ltd') WHERE id = 'acme'",
            "the partner `acme` is not what",
        ),
    ] {
        let gate = Gate::start();
        narrow(&gate);
        verify(&gate, &[]).ok();
        tamper(&gate, statements);
        let found = verify(&gate, &[]);
        assert_eq!(found.exit, Some(3), "{statements}: {}", found.text());
        assert!(found.text().contains("NOT GOOD: ") && found.text().contains(said), "{statements}: {}", found.text());
    }
}

/// Threat 30, by somebody who works the hash out and has no key.
#[test]
fn event_that_is_put_behind_the_chain_is_found_out_and_never_signed() {
    use ring::digest::{Context, SHA256};
    let gate = Gate::start();
    let json = gate.cli(&["history", "--output", "json", "all"]).ok();
    let last = json.lines().last().unwrap();
    let seq = serde_json::from_str::<Value>(last).unwrap()["seq"].as_u64().unwrap();
    let answer: Value = serde_json::from_str(&verify(&gate, &["--output", "json"]).ok()).unwrap();
    let forged = last.replacen(&format!("{{\"seq\":{seq},"), &format!("{{\"seq\":{},", seq + 1), 1);
    let mut context = Context::new(&SHA256);
    context.update(&hex::decode(answer["hash"].as_str().unwrap()).unwrap());
    context.update(forged.as_bytes());
    let hash = hex::encode(context.finish());
    let noun = serde_json::from_str::<Value>(last).unwrap();
    tamper(
        &gate,
        &format!(
            "INSERT INTO event VALUES ({}, '{}', '{}', '{forged}', '{hash}')",
            seq + 1,
            noun["noun"].as_str().unwrap(),
            noun["id"].as_str().unwrap()
        ),
    );
    let found = verify(&gate, &[]);
    assert_eq!(found.exit, Some(3), "{}", found.text());
    assert!(found.text().contains(&format!("event {} and what follows is not signed", seq + 1)), "{}", found.text());
    // The next change would sign for it: it is refused.
    let refused = gate.try_apply(&gate.registry_text().replace("Acme GmbH", "Acme AG"));
    assert_eq!(refused.exit, Some(1), "{}", refused.text());
    assert!(refused.stderr.contains("is not signed by this node"), "{}", refused.stderr);
    // It may have been copied meanwhile.
    let back = format!("DELETE FROM event WHERE seq = {}; UPDATE meta SET value = {seq} WHERE key = 'copied'", seq + 1);
    tamper(&gate, &back);
    gate.apply(&gate.registry_text().replace("Acme GmbH", "Acme AG"));
    // Nor is one found elsewhere than where it belongs.
    tamper(&gate, "UPDATE event SET noun = 'network', id = 'zzz' WHERE noun = 'partner' AND id = 'acme'");
    let found = verify(&gate, &[]);
    assert!(found.text().contains("is filed under the network `zzz`, which it is not about"), "{}", found.text());
}

/// Threat 30, by somebody who gets a history made anew, under a new key: what went to the records is not his.
#[test]
fn history_that_was_made_anew_is_not_the_one_of_the_records() {
    let mut gate = Gate::start();
    narrow(&gate);
    let answer: Value = serde_json::from_str(&verify(&gate, &["--output", "json"]).ok()).unwrap();
    await_some("the copies", || (copies(&gate).len() as u64 == answer["events"].as_u64().unwrap()).then_some(()));
    let kept = gate.dir.path().join("kept.jsonl");
    std::fs::copy(records(&gate), &kept).unwrap();
    gate.stop("TERM");
    tamper(
        &gate,
        "DROP TABLE event; DROP TABLE checkpoint; UPDATE meta SET value = 1 WHERE key = 'schema'; \
         DELETE FROM meta WHERE key = 'copied'",
    );
    std::fs::remove_file(gate.dir.path().join("state/history.key")).unwrap();
    gate.begin();
    assert!(verify(&gate, &[]).ok().starts_with("good: "), "by itself it looks well");
    let found = verify(&gate, &["--records", kept.to_str().unwrap()]);
    assert_eq!(found.exit, Some(3), "{}", found.text());
    assert!(found.text().contains("event 1 is another one in the records than in the database"), "{}", found.text());
    // A checkpoint alone is enough.
    let lines = std::fs::read_to_string(&kept).unwrap();
    let checkpoints: Vec<&str> = lines.lines().filter(|line| line.contains("\"checkpoint\":{")).collect();
    assert!(!checkpoints.is_empty(), "{lines}");
    std::fs::write(&kept, checkpoints.join("\n")).unwrap();
    let found = verify(&gate, &["--records", kept.to_str().unwrap()]);
    assert_eq!(found.exit, Some(3), "{}", found.text());
    assert!(
        found.text().contains("is not the one of the checkpoint in the records that was signed at"),
        "{}",
        found.text()
    );
}

#[test]
fn history_is_read_and_verified_without_a_gateway_as_well() {
    let mut gate = Gate::start();
    narrow(&gate);
    let running = gate.cli(&["history", "--offline", "all"]);
    assert_eq!(running.exit, Some(1), "a gateway is running: {}", running.text());
    let all = gate.cli(&["history", "all"]).ok();
    gate.signal("TERM");
    gate.process.ended();
    assert_eq!(gate.cli(&["history", "--offline", "all"]).ok(), all);
    assert!(gate.cli(&["audit", "--offline", "verify"]).ok().starts_with("good: "));
}

/// Who writes into the database does not get it signed by whoever changes the noun next.
#[test]
fn what_somebody_else_wrote_is_not_taken_over_by_the_next_change() {
    let gate = Gate::start();
    narrow(&gate);
    tamper(&gate, "UPDATE partner SET doc = replace(doc, 'Globex Corporation', 'Globex Inc') WHERE id = 'globex'");
    let edit = gate.cli(&["partner", "edit", "globex", "--owner", "sales", "--reason", "x"]);
    assert_eq!(edit.exit, Some(1), "{}", edit.text());
    assert!(edit.stderr.contains("the partner `globex` is not what the history made it"), "{}", edit.stderr);
    assert!(
        gate.cli(&["partner", "edit", "acme", "--owner", "sales"]).ok().contains("applied"),
        "others are as they were"
    );
    let said = verify(&gate, &[]);
    assert_eq!(said.exit, Some(3), "{}", said.text());
    assert!(said.text().contains("the partner `globex` is not what the history made it"), "{}", said.text());
    // Nor is a row out of nothing.
    let gate = Gate::start();
    tamper(&gate, "INSERT INTO network VALUES ('mine', '{\"name\":\"mine\",\"cidrs\":[\"10.0.0.0/8\"]}', 1)");
    let edit = gate.admin("PUT", "/v1/networks/mine", "{\"set\": {\"cidrs\": [\"10.0.0.0/8\"]}}");
    assert!(edit.0 >= 400 && edit.1.contains("the network `mine` is not what the history made it"), "{edit:?}");
}

/// Threat 30: a history that was emptied is not begun anew, whoever looks at it, and looking alters nothing.
#[test]
fn emptied_history_is_not_begun_anew() {
    let mut gate = Gate::start();
    narrow(&gate);
    gate.stop("TERM");
    tamper(
        &gate,
        "UPDATE partner SET doc = replace(doc, 'Acme GmbH', 'Acme Ltd') WHERE id = 'acme'; DELETE FROM event; \
         DELETE FROM checkpoint",
    );
    let database = gate.dir.path().join("state/registry.db");
    let before = std::fs::read(&database).unwrap();
    for _ in 0..2 {
        let found = gate.cli(&["audit", "verify", "--offline"]);
        assert_eq!(found.exit, Some(3), "{}", found.text());
        assert!(
            found.text().contains("NOT GOOD: ") && found.text().contains("no event left it there"),
            "{}",
            found.text()
        );
    }
    assert!(std::fs::read(&database).unwrap() == before, "what is only looked at was altered");
    gate.begin();
    gate.await_log("the history ends with event 0, and there were more");
    assert_eq!(gate.metric("partnergate_history_ok"), 0.0);
    let refused = gate.try_apply(&gate.registry_text().replace("Globex Corporation", "Globex Inc"));
    assert_eq!(refused.exit, Some(1), "{}", refused.text());
    assert_eq!(verify(&gate, &[]).exit, Some(3));
    assert_eq!(Gate::start().metric("partnergate_history_ok"), 1.0);
}
