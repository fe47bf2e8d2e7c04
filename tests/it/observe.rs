//! A custom rule that is only observed with a partner: it is recorded, and does not count, until it does.

use crate::harness::{Finished, Gate, HOST, Setup, await_some, copy_folder};
use serde_json::{Value, json};
use std::fs;

const RULE: &str = "package partnergate.custom\n\nimport rego.v1\n\n\
                    deny contains {\"reason\": \"x-weekend\"} if input.request.operation == \"items.list\"\n\n\
                    deny contains {\"reason\": \"x-create\"} if input.request.operation == \"items.create\"\n";

fn gate(four_eyes: &str) -> Gate {
    let (setup, policies) = Setup::new().own_policies();
    fs::write(policies.join("reasons.yaml"), "reasons:\n  x-weekend: \"Not today\"\n  x-create: \"Create nothing\"\n")
        .unwrap();
    fs::write(policies.join("custom/rule.rego"), RULE).unwrap();
    let gate = setup.start();
    let mut config: Value = serde_json::from_str(&fs::read_to_string(gate.config_file()).unwrap()).unwrap();
    config["approval"]["four_eyes"] = four_eyes.into();
    fs::write(gate.config_file(), config.to_string()).unwrap();
    gate.cli(&["reload"]).ok();
    gate
}

/// Status and id.
fn call(gate: &Gate, who: &crate::harness::Identity, method: &str, path: &str) -> (u16, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n");
    let answer = gate.dial().identity(who).open().request(request);
    (answer.status, answer.id().to_owned())
}

fn observe(gate: &Gate, rule: &str, until: &str) -> Finished {
    gate.cli(&["policy", "observe", "acme", rule, "--until", until, "--reason", "they adapt until then"])
}

#[test]
fn observed_rule_is_recorded_and_counts_again_when_it_is_enforced() {
    let gate = gate("off");
    let acme = |method: &str, path: &str| call(&gate, &gate.acme, method, path);
    assert_eq!((acme("GET", "/items").0, acme("POST", "/items").0), (403, 403));
    observe(&gate, "x-weekend", "2099-01-01T00:00:00Z").ok();
    let (status, id) = acme("GET", "/items");
    assert_eq!(status, 200);
    let record = gate.record_of(&id);
    assert_eq!((&record["result"], &record["observed"]), (&json!("allow"), &json!(["x-weekend"])), "{record}");
    let observed = json!([{"reason": "x-weekend", "until": "2099-01-01T00:00:00Z"}]);
    assert_eq!(record["input"]["partner"]["observe"], observed, "{record}");
    gate.await_metric("partnergate_observed_denials_total{partner=\"acme\",reason=\"x-weekend\"}", 1.0);
    // Nobody else is observed, no other rule is, and what no grant or state permits never is.
    assert_eq!(call(&gate, &gate.globex, "GET", "/items").0, 403);
    assert_eq!(acme("POST", "/items").0, 403);
    assert_eq!(acme("DELETE", "/items/7").0, 403);
    gate.cli(&["partner", "suspend", "acme", "--reason", "odd"]).ok();
    assert_eq!(acme("GET", "/items").0, 403);
    gate.cli(&["partner", "resume", "acme", "--reason", "not odd"]).ok();
    // A second one beside it.
    observe(&gate, "x-create", "2099-01-01T00:00:00Z").ok();
    assert_eq!((acme("GET", "/items").0, acme("POST", "/items").0), (200, 200));
    let (shown, status) = (gate.cli(&["partner", "show", "acme"]).ok(), gate.cli(&["status"]).ok());
    assert!(shown.contains("observed    x-create does not count until 2099-01-01T00:00:00Z"), "{shown}");
    assert!(status.contains("observed     x-weekend does not count for acme until 2099-01-01T00:00:00Z"), "{status}");
    let explained =
        gate.cli(&["policy", "explain", "--partner", "acme", "--path", "/items", "--from", "127.0.0.1"]).ok();
    assert!(explained.contains("x-weekend is only observed with this partner"), "{explained}");
    // On what is open too.
    let mut conn = gate.dial().identity(&gate.acme).open();
    let request = format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    conn.request(&request).expect(200);
    gate.cli(&["policy", "enforce", "acme", "x-weekend", "--reason", "they have adapted"]).ok();
    conn.request(&request).expect(403);
    assert_eq!(acme("POST", "/items").0, 200, "the other one goes on");
    let again = gate.cli(&["policy", "enforce", "acme", "x-weekend"]);
    assert!(again.ok().contains("nothing to change"));
    gate.cli(&["policy", "enforce", "acme", "x-create"]).ok();
    assert_eq!(acme("POST", "/items").0, 403);
    assert!(!gate.cli(&["partner", "show", "acme"]).ok().contains("observed"));
    // What was recorded is decided alike when it is replayed: the records say what was observed.
    let replayed = gate.cli(&[
        "policy",
        "replay",
        "--log",
        gate.dir.path().join("records.jsonl").to_str().unwrap(),
        "--candidate",
        gate.dir.path().join("policies").to_str().unwrap(),
    ]);
    assert!(replayed.exit == Some(0), "{}{}", replayed.text(), replayed.stderr);
}

#[test]
fn observing_waits_for_another_operator_and_enforcing_does_not() {
    let gate = gate("required");
    let said = observe(&gate, "x-weekend", "2099-01-01T00:00:00Z").ok();
    assert!(said.contains("is only observed for `x-weekend` until 2099-01-01T00:00:00Z"), "{said}");
    let id = said.lines().find(|line| line.contains(" waits for another operator")).unwrap().split(' ').next().unwrap();
    assert_eq!(call(&gate, &gate.acme, "GET", "/items").0, 403, "not before somebody has approved it");
    let token = format!("file:{}", gate.dir.path().join("second.token").display());
    gate.cli(&["--token", &token, "approval", "approve", id]).ok();
    assert_eq!(call(&gate, &gate.acme, "GET", "/items").0, 200);
    // Longer is more; shorter is not.
    let longer = observe(&gate, "x-weekend", "2099-06-01T00:00:00Z").ok();
    assert!(longer.contains(" waits for another operator"), "{longer}");
    let shorter = observe(&gate, "x-weekend", "2098-01-01T00:00:00Z").ok();
    assert!(shorter.contains("applied; registry revision"), "{shorter}");
    gate.cli(&["policy", "enforce", "acme", "x-weekend", "--reason", "enough"]).ok();
    assert_eq!(call(&gate, &gate.acme, "GET", "/items").0, 403, "at once");
}

/// A partner that is new is no way around it.
#[test]
fn new_partner_that_is_only_observed_waits_as_a_whole() {
    let gate = gate("required");
    let new = "  initech:\n    name: Initech\n    owner: ops\n    engagement: {}\n    networks: [loopback]\n    \
               observe: {x-weekend: 2099-01-01T00:00:00Z}\n    credentials:\n      initech-1: {anchor: acme-ca, match: \
               {spki_sha256: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}}\n";
    let text =
        format!("{}\n{new}", gate.registry_text().trim_end()).replace("partners: [acme]", "partners: [acme, initech]");
    let folder = gate.write_registry(&text);
    let said = gate.cli(&["apply", "--yes", "-f", folder.to_str().unwrap(), "--reason", "new"]).ok();
    assert!(
        said.contains("is only observed for `x-weekend`") && said.contains(" waits for another operator"),
        "{said}"
    );
    assert!(gate.cli(&["partner", "show", "initech"]).exit != Some(0), "nothing of it is there");
    let id = said.lines().find(|line| line.contains(" waits for another operator")).unwrap().split(' ').next().unwrap();
    let token = format!("file:{}", gate.dir.path().join("second.token").display());
    let seen = gate.cli(&["--token", &token, "approval", "show", id]).ok();
    assert!(seen.contains("x-weekend"), "{seen}");
    gate.cli(&["--token", &token, "approval", "approve", id]).ok();
    let shown = gate.cli(&["partner", "show", "initech"]).ok();
    assert!(shown.contains("observed    x-weekend") && shown.contains("initech-1"), "{shown}");
}

#[test]
fn observing_ends_by_itself_and_is_of_custom_rules_alone() {
    let gate = gate("off");
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(4);
    observe(&gate, "x-weekend", &soon.to_string()).ok();
    let (status, id) = call(&gate, &gate.acme, "GET", "/items");
    assert!(status == 200 || jiff::Timestamp::now() >= soon, "{}", gate.record_of(&id));
    await_some("its end", || (call(&gate, &gate.acme, "GET", "/items").0 == 403).then_some(()));
    let wrong = observe(&gate, "operation-not-granted", "2099-01-01T00:00:00Z");
    assert!(wrong.exit == Some(3) && wrong.stderr.contains("is not the reason of a custom rule"), "{}", wrong.stderr);
    // Nor is there a rule that nobody has written, or a time that is over.
    for (arguments, said) in [
        (&["observe", "acme", "x-weeknd", "--until", "2099-01-01T00:00:00Z"][..], "did you mean `x-weekend`?"),
        (&["enforce", "acme", "x-weeknd"], "did you mean `x-weekend`?"),
        (&["enforce", "acme", "operation-not-granted"], "is not the reason of a custom rule"),
        (&["observe", "acme", "x-weekend", "--until", "2020-01-01T00:00:00Z"], "2020-01-01T00:00:00Z is over"),
    ] {
        let wrong = gate.cli(&[&["policy"], arguments].concat());
        assert!(wrong.exit == Some(3) && wrong.stderr.contains(said), "{arguments:?}: {}", wrong.stderr);
    }
    // One of the candidate is observed before that is promoted.
    let next = gate.dir.path().join("next");
    copy_folder(&gate.dir.path().join("policies"), &next);
    fs::write(
        next.join("reasons.yaml"),
        "reasons:\n  x-weekend: \"Not today\"\n  x-create: \"No\"\n  x-next: \"No\"\n",
    )
    .unwrap();
    let mut config: Value = serde_json::from_str(&fs::read_to_string(gate.config_file()).unwrap()).unwrap();
    config["policy"]["candidate"] = json!({"dir": next});
    fs::write(gate.config_file(), config.to_string()).unwrap();
    gate.cli(&["reload"]).ok();
    observe(&gate, "x-next", "2099-01-01T00:00:00Z").ok();
    gate.cli(&["policy", "enforce", "acme", "x-next"]).ok();
    let file = gate.registry_text().replacen(
        "networks: [loopback]",
        "networks: [loopback]\n    observe: {partner-not-active: 2099-01-01T00:00:00Z}",
        1,
    );
    assert!(file.contains("observe:"), "{file}");
    let folder = gate.write_registry(&file);
    let applied = gate.cli(&["apply", "--yes", "-f", folder.to_str().unwrap()]);
    assert!(
        applied.exit == Some(3)
            && applied.stderr.contains("registry.yaml:")
            && applied.stderr.contains("`partner-not-active`"),
        "{}",
        applied.stderr
    );
}
