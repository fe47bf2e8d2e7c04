//! The policy workbench: what a security team does with the policy folder by itself, on the command line.

use crate::harness::{Finished, HOST, Process, Setup, TlsConn, await_some, copy_folder, program, python, run};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const RULE: &str = r#"package partnergate.custom

import rego.v1

deny contains {"reason": "x-night"} if {
	input.time.hour >= 22
}

deny contains {"reason": "x-noon"} if {
	input.time.hour == 12
}
"#;
const TESTS: &str = r#"package partnergate.custom_test

import data.partnergate.custom
import rego.v1

test_night if custom.deny == {{"reason": "x-night"}} with input.time.hour as 22

test_day if custom.deny == set() with input.time.hour as 13
"#;

/// A copy of the shipped folder with a rule and its tests in it.
fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("policies");
    copy_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("policies"), &folder);
    std::fs::write(folder.join("custom/own.rego"), RULE).unwrap();
    std::fs::write(folder.join("custom/own_test.rego"), TESTS).unwrap();
    std::fs::write(folder.join("reasons.yaml"), "reasons: {x-night: at night, x-noon: at noon}\n").unwrap();
    (dir, folder)
}

fn test(folder: &Path, more: &[&str]) -> Finished {
    run(Command::new(program()).args(["policy", "test"]).arg(folder).args(more).env_remove("PARTNERGATE_CONFIG"), b"")
}

#[test]
fn tests_of_a_folder_are_run_and_counted() {
    let (_dir, folder) = folder();
    let said = test(&folder, &["--strict", "--coverage", "--run", "custom_test"]).ok();
    assert!(said.contains("PASS: 2/2  (2 on both engines, 0 on the interpreter only"), "{said}");
    assert!(said.contains("  custom/own.rego: 75.00 %, not reached: 9\n"), "{said}");
    let all = test(&folder, &["--strict", "-v"]).ok();
    assert!(all.contains("  data.partnergate.custom_test.test_night: PASS ("), "{all}");
    assert!(all.contains("  data.partnergate_test.test_no_partner: PASS ("), "{all}");

    // Of a part only.
    let part = test(&folder, &["--run", "custom_test", "--coverage-of", "custom/", "--threshold", "75"]).ok();
    assert!(part.contains("coverage: 75.00 % (3 of 4 lines)\n") && !part.contains("  partnergate/"), "{part}");
    let nowhere = test(&folder, &["--coverage-of", "cust"]);
    assert!(
        nowhere.exit == Some(1) && nowhere.stderr.contains("error: no file of rules is in `cust`"),
        "{}",
        nowhere.stderr
    );
    let never = test(&folder, &["--timeout", "0"]);
    assert!(never.exit == Some(2) && never.stderr.contains("0 is not in 1.."), "{:?} {}", never.exit, never.stderr);

    // Too little is covered, nothing is found, and what runs on the interpreter only.
    let finished = test(&folder, &["--threshold", "100"]);
    assert_eq!(finished.exit, Some(1));
    assert!(finished.stderr.contains("error: coverage is 99."), "{}", finished.stderr);
    let finished = test(&folder, &["--run", "nothing_like_it"]);
    assert!(finished.exit == Some(1) && finished.stderr.contains("no test has `nothing_like_it` in its name"));
    let mocked = format!("{TESTS}\ntest_mock if count([1, 2]) == 1 with count as 1\n");
    std::fs::write(folder.join("custom/own_test.rego"), mocked).unwrap();
    assert!(test(&folder, &[]).ok().contains(", 1 on the interpreter only"));
    let finished = test(&folder, &["--strict"]);
    assert!(
        finished.exit == Some(1)
            && finished.text().contains("on the interpreter only: `with count` replaces a builtin")
    );
}

#[test]
fn a_failing_test_is_shown_with_its_condition_in_three_forms() {
    let (_dir, folder) = folder();
    let tests = TESTS.replace("as 13", "as 12")
        + "\ntest_print if {\n\tprint(\"hour\", 5)\n\tfalse\n}\n\ntodo_test_x if true\n";
    std::fs::write(folder.join("custom/own_test.rego"), tests).unwrap();
    let finished = test(&folder, &["--run", "custom_test"]);
    assert_eq!(finished.exit, Some(1));
    let said = finished.text();
    for shown in [
        "custom/own_test.rego:\n  data.partnergate.custom_test.test_day: FAIL (",
        "      line 8: does not hold: custom.deny == set() with input.time.hour as 12\n          custom.deny is {{\"reason\": \"x-noon\"}}\n",
        "      printed custom/own_test.rego:11: hour 5\n",
        "PASS: 1/4  FAIL: 2/4  SKIPPED: 1/4  ",
    ] {
        assert!(said.contains(shown), "no {shown:?} in {said}");
    }
    assert!(finished.stderr.contains("error: 2 tests failed"), "{}", finished.stderr);

    // As `opa test --format json` says it.
    let finished = test(&folder, &["--run", "custom_test", "--format", "json"]);
    assert_eq!(finished.exit, Some(1));
    let results: Value = serde_json::from_str(&finished.text()).unwrap();
    let day = &results.as_array().unwrap()[1];
    assert_eq!(day["location"], json!({"file": "custom/own_test.rego", "row": 8, "col": 1}), "{day}");
    assert_eq!(
        (&day["package"], &day["name"], &day["fail"]),
        (&json!("data.partnergate.custom_test"), &json!("test_day"), &json!(true))
    );
    assert!(day["duration"].as_u64() > Some(0), "{day}");
    assert_eq!(
        day["partnergate"]["failed_at"]["seen"],
        json!([{"expression": "custom.deny", "values": ["{{\"reason\": \"x-noon\"}}"]}])
    );
    assert_eq!(results[0].get("fail"), None, "{results}");
    assert_eq!(results[3]["skip"], json!(true), "{results}");

    // As build servers read it.
    let finished = test(&folder, &["--run", "custom_test", "--output", "junit"]);
    assert_eq!(finished.exit, Some(1));
    let Some(python) = python(&["json"]) else { return };
    let script = "import sys, xml.etree.ElementTree as E\nroot = E.fromstring(sys.stdin.buffer.read())\n\
                  print(root.tag, root.get('tests'), root.get('failures'))\n\
                  for case in root.iter('testcase'): print(case.get('classname'), case.get('name'), [c.tag for c in case])";
    let read = run(Command::new(python).args(["-c", script]), finished.text().as_bytes()).ok();
    let expected = "testsuites 4 2\n\
        data.partnergate.custom_test test_night []\n\
        data.partnergate.custom_test test_day ['failure']\n\
        data.partnergate.custom_test test_print ['failure', 'system-out']\n\
        data.partnergate.custom_test todo_test_x ['skipped']\n";
    assert_eq!(read, expected);
}

#[test]
fn coverage_is_told_as_opa_tells_it() {
    let (_dir, folder) = folder();
    let said = test(&folder, &["--coverage", "--format", "json"]).ok();
    let report: Value = serde_json::from_str(&said).unwrap();
    let own = &report["files"]["custom/own.rego"];
    assert_eq!(own["not_covered"], json!([{"start": {"row": 9}, "end": {"row": 9}}]), "{own}");
    assert_eq!(
        (&own["covered_lines"], &own["not_covered_lines"], &own["coverage"]),
        (&json!(3), &json!(1), &json!(75.0))
    );
    assert!(report["coverage"].as_f64() > Some(90.0), "{report}");
}

/// What somebody should look at does not stop a policy from being served, and is said where it is checked.
#[test]
fn what_is_doubtful_is_said_with_its_place() {
    let (setup, folder) = Setup::new().own_policies();
    std::fs::write(folder.join("reasons.yaml"), "reasons: {x-own: ours}\n").unwrap();
    let rule = "package partnergate.custom\n\nimport rego.v1\n\nallow if input.version == 1\n\n\
                deny contains {\"reason\": \"x-own\"} if {\n\tinput.request.operation == \"items.lst\"\n\t\
                input.request.headers[\"x-api\"][0] == \"a\"\n\t\"lopback\" in input.source.networks\n}\n";
    std::fs::write(folder.join("custom/own.rego"), rule).unwrap();
    let gate = setup.start();
    let own = "warning: custom/own.rego:5:1: `allow` opens nothing";
    let checked = gate.cli(&["policy", "check", folder.to_str().unwrap()]);
    assert!(checked.exit == Some(0) && checked.stderr.contains(own), "{}", checked.stderr);
    let checked = gate.cli(&["check"]);
    for said in [
        own,
        "warning: custom/own.rego:8:29: no route has the operation `items.lst`\n    fix: did you mean `items.list`?",
        "warning: custom/own.rego:9:24: policy does not see the header field `x-api`",
        "warning: custom/own.rego:10:2: there is no network `lopback`",
    ] {
        assert!(checked.stderr.contains(said), "no {said:?} in {}", checked.stderr);
    }
    assert_eq!((checked.exit, gate.cli(&["check", "--strict"]).exit), (Some(0), Some(3)));
}

#[test]
fn a_policy_that_is_not_good_is_not_tested() {
    let (_dir, folder) = folder();
    std::fs::write(folder.join("custom/own.rego"), RULE.replace("input.time.hour ==", "input.time.hours ==")).unwrap();
    for form in [&[][..], &["--output", "json"]] {
        let finished = test(&folder, form);
        assert_eq!(finished.exit, Some(3));
        let said = finished.text() + &finished.stderr;
        assert!(said.contains("there is no fact `input.time.hours`"), "{said}");
    }
}

#[test]
fn tests_run_again_when_a_file_has_changed() {
    let (dir, folder) = folder();
    let mut command = Command::new(program());
    command.args(["policy", "test", "--watch", "--run", "custom_test"]).arg(&folder).env_remove("PARTNERGATE_CONFIG");
    let process = Process::start(&mut command, dir.path(), "watch");
    let said = |what: &str| await_some(what, || (process.out() + &process.log()).contains(what).then_some(()));
    said("PASS: 2/2");
    std::fs::write(folder.join("custom/own_test.rego"), TESTS.replace("as 13", "as 12")).unwrap();
    said("PASS: 1/2  FAIL: 1/2");
    std::fs::write(folder.join("custom/own_test.rego"), "package x\ntest_x if {").unwrap();
    said("this `{` is not closed");
    std::fs::write(folder.join("custom/own_test.rego"), format!("{TESTS}\ntest_more if true\n")).unwrap();
    said("PASS: 3/3");
}

/// Records are turned back into what policy saw: decided again, they come to what they came to.
#[test]
fn recorded_decisions_are_explained_and_replayed() {
    let (setup, folder) = Setup::new().own_policies();
    let gate = setup.start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    let call = |conn: &mut TlsConn, method: &str, target: &str| {
        conn.request(format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n"))
    };
    let allowed = call(&mut conn, "GET", "/items");
    let secret = call(&mut conn, "GET", "/items/4711?page=2");
    let denied = call(&mut conn, "DELETE", "/items/7");
    let nothing = call(&mut conn, "GET", "/nothing");
    assert_eq!([&allowed, &secret, &denied, &nothing].map(|answer| answer.status), [200, 200, 403, 403]);
    gate.settle();

    // As it is, nothing changes.
    let log = gate.dir.path().join("records.jsonl");
    let log = log.to_str().unwrap();
    let replay = |candidate: &Path, more: &[&str]| {
        gate.cli(&[&["policy", "replay", "--log", log, "--candidate", candidate.to_str().unwrap()], more].concat())
    };
    let said = replay(&folder, &[]).ok();
    assert!(
        said.contains(" the same, 0 newly denied, 0 newly allowed, 0 denied for another reason, 0 not replayable;"),
        "{said}"
    );

    // Why the one was denied, and the other not.
    let said = gate.cli(&["policy", "explain", "--decision", denied.id()]).ok();
    for shown in [
        "asks:     DELETE /items/{id}".replace("{id}", "h:").as_str(),
        "recorded: deny, operation-not-granted at ",
        "hashes in the record, and so here: input.request.params.",
        "policy:   denied: operation-not-granted\n",
        "  operation-not-granted  partnergate/scope.rego:",
        "  the grant `acme-items` had the operation `items.delete`",
    ] {
        assert!(said.contains(shown), "no {shown:?} in {said}");
    }
    let said = gate.cli(&["policy", "explain", "--decision", allowed.id(), "--output", "json"]).ok();
    let told: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(told["decision"], json!({"result": "allow", "grant": "acme-items"}), "{told}");
    assert_eq!(told["trace"]["bodies"][0]["holds"], json!(true), "{told}");
    let unknown = gate.cli(&["policy", "explain", "--decision", "01a20a4b-87e6-720a-ba1e-904e12f940c6"]);
    assert!(unknown.exit == Some(3) && unknown.stderr.contains("has no decision `01a20a4b"), "{}", unknown.stderr);

    // An input that is none of a request, and one that is.
    let written = gate.dir.path().join("input.json");
    let given = |text: &str| {
        std::fs::write(&written, text).unwrap();
        gate.cli(&["policy", "explain", folder.to_str().unwrap(), "--input", written.to_str().unwrap()])
    };
    let wrong = given(r#"{"version": 2, "request": {"methd": "GET"}, "partner": {"state": "actve"}}"#);
    assert_eq!(wrong.exit, Some(3));
    for said in
        ["`input.version`: is `2`, and must be `1`", "did you mean `method`?", "did you mean `active`?", "3 errors"]
    {
        assert!(wrong.stderr.contains(said), "no {said:?} in {}", wrong.stderr);
    }
    let of_record = given(&gate.record_of(allowed.id())["input"].to_string());
    assert!(of_record.exit == Some(3) && of_record.stderr.contains("is the input of a record"), "{}", of_record.stderr);
    assert!(given(&told["input"].to_string()).ok().contains("policy:   allowed by the grant acme-items\n"));
    assert!(given(r#"{"version": 1}"#).ok().contains("partner-not-active"));

    // A candidate that denies more, on facts that are there and on one that is not.
    let other = gate.dir.path().join("candidate");
    copy_folder(&folder, &other);
    let rule = |text: &str| {
        let head = "package partnergate.custom\n\nimport rego.v1\n\n";
        std::fs::write(
            other.join("custom/own.rego"),
            format!("{head}deny contains {{\"reason\": \"x-own\"}} if {text}\n"),
        )
        .unwrap();
        std::fs::write(other.join("reasons.yaml"), "reasons: {x-own: ours}\n").unwrap();
    };
    rule("input.request.operation == \"items.list\"");
    let finished = replay(&other, &["--output", "json"]);
    assert_eq!(finished.exit, Some(10));
    let told: Value = serde_json::from_str(&finished.text()).unwrap();
    let change = json!({"change": "newly-denied", "count": 1, "partner": "acme", "operation": "items.list", "reason": "x-own", "examples": [allowed.id()]});
    assert_eq!(told["changes"], json!([change]), "{told}");
    let shown = replay(&other, &[]).text();
    assert!(shown.contains("newly-denied          1  acme                 items.list"), "{shown}");
    rule("input.request.params.id == \"4711\"");
    let finished = replay(&other, &[]);
    assert_eq!(finished.exit, Some(12));
    assert!(
        finished.text().contains("the policy looks at `input.request.params.id`, which is a hash in the record"),
        "{}",
        finished.text()
    );

    // What decides says so of a decision of another one, and lines that are none are counted by themselves.
    let said = gate.cli(&["policy", "explain", "--decision", allowed.id(), other.to_str().unwrap()]).ok();
    assert!(said.contains("it is not the one that decided: what follows is what it would say now"), "{said}");
    let with_garbage = gate.dir.path().join("garbage.jsonl");
    std::fs::write(&with_garbage, gate.records_text() + "garbage\n").unwrap();
    let arguments = ["policy", "replay", "--candidate", folder.to_str().unwrap(), "--log"];
    let said = gate.cli(&[&arguments[..], &[with_garbage.to_str().unwrap()]].concat()).ok();
    assert!(said.ends_with(" other lines, and 1 that cannot be read\n"), "{said}");
    assert!(gate.cli(&["policy", "replay", "--help"]).ok().contains("10 some are newly denied"));

    // One that allows more has to be accepted.
    std::fs::remove_file(other.join("custom/own.rego")).unwrap();
    let scope = std::fs::read_to_string(other.join("partnergate/scope.rego")).unwrap();
    let wider = scope
        .replace("operation in grant.operations", "operation != \"\"")
        .replace("input.request.operation in grant.operations", "input.request.operation != \"\"");
    std::fs::write(other.join("partnergate/scope.rego"), wider).unwrap();
    let finished = replay(&other, &[]);
    assert!(
        finished.exit == Some(11) && finished.stderr.contains("newly allowed: look at them"),
        "{} {}",
        finished.text(),
        finished.stderr
    );
    assert!(
        finished.text().contains("newly-allowed         1  acme                 items.delete"),
        "{}",
        finished.text()
    );
    replay(&other, &["--accept"]).ok();
    // And by the word of another policy instead of the record's.
    let finished = replay(&folder, &["--base", other.to_str().unwrap()]);
    assert_eq!(finished.exit, Some(10));
    let finished = gate.cli(&["policy", "replay", "--log", "/nonexistent", "--candidate", folder.to_str().unwrap()]);
    assert!(finished.exit == Some(1) && finished.stderr.contains("/nonexistent"), "{}", finished.stderr);
}

/// What would come of it is said by the gateway, on what is live, and leaves nothing behind.
#[test]
fn a_request_that_nobody_has_sent_is_explained_on_what_is_live() {
    let gate = Setup::new().set("policy.headers", vec!["x-case"]).start();
    gate.settle();
    let decided = "partnergate_decision_duration_seconds_count";
    let (records, decisions, asked) = (gate.records().len(), gate.metric(decided), gate.upstream.connections().len());
    let explain = |more: &[&str]| gate.cli(&[&["policy", "explain"], more].concat());
    let told = |more: &[&str]| -> Value {
        serde_json::from_str(&explain(&[more, &["--output", "json"]].concat()).ok()).unwrap()
    };
    let acme = ["--partner", "acme", "--from", "127.0.0.1", "--path"];
    let cert = gate.acme.chain_file.to_str().unwrap();

    // Allowed, by the credential and by a certificate.
    let answer = told(&[&acme[..], &["/items/7?page=2", "--header", "X-Case: a", "--header", "X-Other: b"]].concat());
    assert_eq!((&answer["result"], &answer["grant"]), (&json!("allow"), &json!("acme-items")), "{answer}");
    assert_eq!(answer["policy"]["decision"], json!({"result": "allow", "grant": "acme-items"}));
    let request = &answer["input"]["request"];
    assert_eq!((&request["operation"], &request["params"]), (&json!("items.read"), &json!({"id": "7"})));
    assert_eq!((&request["query"], &request["headers"]), (&json!({"page": ["2"]}), &json!({"x-case": ["a"]})));
    let credential = &answer["input"]["credential"];
    assert_eq!(credential["san"], json!({"uri": ["spiffe://acme.example/client"]}));
    assert_eq!(credential["fingerprint_sha256"], Value::Null);
    assert!(answer["left_out"][0].as_str().unwrap().starts_with("whether a certificate of `acme-client` is believed"));
    assert_eq!(answer["assumed"][0], json!(format!("host {HOST}")), "{answer}");
    let answer = told(&["--cert", cert, "--from", "127.0.0.1", "--path", "/items"]);
    assert_eq!((&answer["result"], &answer["left_out"]), (&json!("allow"), &json!([])), "{answer}");
    assert_eq!(answer["input"]["credential"]["fingerprint_sha256"], json!(gate.acme.fingerprint()));

    // Denied, and why, in words.
    let said = explain(&[&acme[..], &["/items/7", "--method", "DELETE"]].concat()).ok();
    for shown in [
        "asks:     DELETE /items/7, operation items.delete\n",
        "verdict:  denied by the policy: operation-not-granted\n",
        "the partner is told `not-permitted`\n",
        "  operation-not-granted  partnergate/scope.rego:",
        "  the grant `acme-items` had the operation `items.delete`\n",
    ] {
        assert!(said.contains(shown), "no {shown:?} in {said}");
    }
    let denied = |more: &[&str], by: &str, reason: &str| {
        let answer = told(more);
        assert_eq!((&answer["decided_by"], &answer["reasons"][0]), (&json!(by), &json!(reason)), "{answer}");
        answer
    };
    let answer = denied(&["--partner", "acme", "--path", "/items"], "policy", "network-not-allowed");
    assert!(answer["policy"]["allowed_if"] == json!([["the call came from the network `loopback`"]]), "{answer}");
    let answer = denied(&[&acme[..], &["/items/7", "--method", "PATCH"]].concat(), "route", "operation-unknown");
    assert_eq!(answer["detail"], json!("the route `api` has operations of this path for GET, DELETE only"));
    denied(&[&acme[..], &["/nothing"]].concat(), "route", "operation-unknown");
    denied(&[&acme[..], &["/items", "--host", "other.test"]].concat(), "route", "host-mismatch");
    denied(&[&acme[..], &["/items//7"]].concat(), "head", "target-not-canonical");
    denied(&[&acme[..], &["/items", "--at", "2100-01-01T00:00:00Z"]].concat(), "floor", "engagement-ended");
    let answer =
        denied(&[&acme[..], &["/items", "--at", "2150-01-01T00:00:00Z"]].concat(), "floor", "engagement-ended");
    assert_eq!(answer["policy"]["allowed_if"], json!([["the call came before 2100-01-01T00:00:00Z"]]), "{answer}");
    let expired = ["--cert", cert, "--path", "/items", "--at", "2100-01-01T00:00:00Z"];
    let answer = denied(&expired, "handshake", "certificate-expired");
    let detail = answer["detail"].as_str().unwrap();
    assert!(detail.contains(" was valid until ") && detail.ends_with("and it is 2100-01-01T00:00:00Z"), "{detail}");
    let stranger = gate.pki.client(&gate.acme_ca, "stranger", |_| ());
    let stranger = stranger.chain_file.to_str().unwrap();
    let answer = denied(&["--cert", stranger, "--path", "/items"], "floor", "identity-unknown");
    assert_eq!((&answer["input"], &answer["policy"]), (&Value::Null, &Value::Null));
    gate.cli(&["partner", "suspend", "acme", "--reason", "test"]).ok();
    let answer = denied(&[&acme[..], &["/items"]].concat(), "floor", "partner-not-active");
    assert_eq!(answer["policy"]["allowed_if"], json!([["the partner were active"]]), "{answer}");

    // What cannot be asked.
    for (more, wrong) in [
        (&["--partner", "nobody", "--path", "/"][..], "partner: there is no `nobody`"),
        (&["--path", "/items"], "partner: say who sends it"),
        (&["--partner", "acme", "--path", "/", "--credential", "c"], "has no `c`, but `acme-client` (active)"),
        (&["--partner", "acme", "--path", "/", "--at", "2030-01-01"], "is a date without a time"),
        (&["--partner", "acme", "--path", "/", "--cipher", "X"], "cipher: `X` is none of TLS 1.3: TLS_AES_"),
        (&["--partner", "globex", "--cert", cert, "--path", "/"], "it is `acme-client` of `acme`"),
        (&["--cert", "/nonexistent", "--path", "/"], "--cert: `/nonexistent`"),
    ] {
        let finished = explain(more);
        assert!(finished.exit == Some(3) && finished.stderr.contains(wrong), "{more:?}: {}", finished.stderr);
    }
    // All of it at once.
    let finished = explain(&["--partner", "nobody", "--path", "/", "--at", "soon", "--tls", "1.3", "--cipher", "X"]);
    for wrong in ["at: ", "cipher: `X`", "partner: there is no `nobody`"] {
        assert!(finished.stderr.contains(wrong), "no {wrong:?} in {}", finished.stderr);
    }
    // A key beside the certificate stays here.
    let both = gate.dir.path().join("both.pem");
    let text = |file: &Path| std::fs::read_to_string(file).unwrap();
    std::fs::write(&both, text(&gate.acme.key_file) + &text(&gate.acme.chain_file)).unwrap();
    told(&["--cert", both.to_str().unwrap(), "--path", "/items"]);

    // Nothing of all this was a request.
    assert_eq!(gate.records().len(), records);
    assert_eq!((gate.metric(decided), gate.upstream.connections().len()), (decisions, asked));
    assert!(!gate.cli(&["history", "calls", "--output", "json"]).ok().contains("policy/explain"));
}
