//! The policy as an adversary or as an accident: threats 20 and 31. What Rust checks, no policy can open.

use crate::harness::{Gate, HOST, Setup, await_some, count};
use serde_json::{Value, json};
use std::path::Path;

const GRANTED: &str = "GET /items HTTP/1.1\r\nHost: api.partner.test\r\n\r\n";
const UNGRANTED: &str = "DELETE /items/7 HTTP/1.1\r\nHost: api.partner.test\r\n\r\n";

/// Replaces the whole policy folder by this one file.
fn only_policy(folder: &Path, rego: &str) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            std::fs::remove_dir_all(entry.path()).unwrap();
        } else {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    std::fs::create_dir(folder.join("partnergate")).unwrap();
    std::fs::write(folder.join("partnergate/decision.rego"), rego).unwrap();
    std::fs::write(folder.join("reasons.yaml"), "reasons: {}\n").unwrap();
}

fn gate_with(rego: &str) -> Gate {
    let (setup, folder) = Setup::new().own_policies();
    only_policy(&folder, rego);
    setup.start()
}

/// Threat 31.
#[test]
fn policy_that_only_says_allow_opens_nothing_that_is_not_granted() {
    for (rego, of_granted) in [
        // Beside something that is defined, because a policy without a decision is refused at the start.
        ("package partnergate\n\nallow := true\n\ndecision := allow\n", 403),
        ("package partnergate\n\nimport rego.v1\n\ndecision := {\"allow\": true}\n", 403),
        ("package partnergate\n\nimport rego.v1\n\ndecision := true\n", 403),
        ("package partnergate\n\nimport rego.v1\n\ndecision := {\"allow\": true, \"grant\": \"\"}\n", 403),
        ("package partnergate\n\nimport rego.v1\n\ndecision := {\"allow\": true, \"grant\": \"globex-items\"}\n", 403),
        ("package partnergate\n\nimport rego.v1\n\ndecision := {\"allow\": true, \"grant\": \"no-such-grant\"}\n", 403),
        (
            "package partnergate\n\nimport rego.v1\n\ndecision := {\"allow\": \"true\", \"grant\": \"acme-items\"}\n",
            403,
        ),
        ("package partnergate\n\nimport rego.v1\n\ndecision := {\"allow\": 1, \"grant\": \"acme-items\"}\n", 403),
        // What it does name and what is granted, it may allow.
        ("package partnergate\n\nimport rego.v1\n\ndecision := {\"allow\": true, \"grant\": \"acme-items\"}\n", 200),
        (
            "package partnergate\n\nimport rego.v1\n\ndecision := {\"allow\": true, \"reasons\": [], \"grant\": \
             \"acme-items\"}\n",
            200,
        ),
    ] {
        let gate = gate_with(rego);
        let mut conn = gate.dial().identity(&gate.acme).open();
        let answer = conn.request(UNGRANTED);
        assert_eq!(answer.status, 403, "{rego}: {answer:?}");
        assert_eq!(answer.code(), "not-permitted", "{rego}");
        assert_eq!(gate.record_of(answer.id())["result"], "deny", "{rego}");
        for (method, target) in [("GET", "/nothing"), ("PATCH", "/items/7"), ("GET", "/healthz"), ("OPTIONS", "/items")]
        {
            conn.request(format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).expect(403);
        }
        gate.upstream.assert_untouched();
        let answer = conn.request(GRANTED);
        assert_eq!(answer.status, of_granted, "{rego}: {answer:?}");
        let stranger = gate.pki.client(&gate.acme_ca, "stranger", |_| {});
        gate.dial().identity(&stranger).open().request(GRANTED).expect(403);
    }
}

/// Threat 31: the floor holds where the policy would not.
#[test]
fn policy_that_only_says_allow_does_not_revive_what_has_ended() {
    let rego = "package partnergate\n\nimport rego.v1\n\ndecision := {\"allow\": true, \"grant\": \"acme-items\"}\n";
    let gate = gate_with(rego);
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.request(GRANTED).expect(200);
    let arrived = gate.upstream.bytes().len();
    let registry = gate.registry_text().to_owned();
    let acme = "owner: payments-team\n    engagement: {starts: 2020-01-01T00:00:00Z, ends: 2100-01-01T00:00:00Z}\n";
    let credential = "acme-client: {anchor: acme-ca, match: {uri: \"spiffe://acme.example/client\"}}";
    let grant = "pairs.read], ends: 2100-01-01T00:00:00Z}";
    for (from, to, reason) in [
        (acme, acme.replace("2100", "2021"), "engagement-ended"),
        (acme, acme.replace("2020", "2099"), "engagement-not-started"),
        (acme, acme.replace("owner:", "state: suspended\n    owner:"), "partner-not-active"),
        (credential, credential.replace("match:", "state: revoked, match:"), "credential-not-active"),
        (grant, grant.replace("2100", "2021"), "grant-not-valid"),
        (grant, grant.replace("ends:", "environments: [production], ends:"), "wrong-environment"),
        ("items.list, ", String::new(), "grant-not-valid"),
    ] {
        let changed = registry.replacen(from, &to, 1);
        assert_ne!(changed, registry, "{reason}");
        gate.apply_anew(&registry);
        let mut conn = gate.dial().identity(&gate.acme).open();
        gate.apply(&changed);
        let answer = conn.request(GRANTED);
        assert_eq!(answer.status, 403, "{reason}: {answer:?}");
        assert_eq!(gate.record_of(answer.id())["reason"], reason);
    }
    gate.apply_anew(&registry);
    let mut conn = gate.dial().identity(&gate.acme).open();
    assert_eq!(gate.upstream.bytes().len(), arrived, "nothing of it went out");
    conn.request(GRANTED).expect(200);
}

/// Threat 31, while the gateway runs: the policy is swapped under it.
#[test]
fn allow_everything_by_reload_opens_nothing() {
    let (setup, folder) = Setup::new().own_policies();
    let gate = setup.start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.request(GRANTED).expect(200);
    only_policy(&folder, "package partnergate\n\nallow := true\n\ndecision := {\"allow\": allow}\n");
    gate.reload();
    let answer = await_some("the other policy", || Some(conn.request(GRANTED)).filter(|a| a.status != 200));
    assert_eq!(gate.record_of(answer.expect(403).id())["reason"], "grant-not-valid");
    conn.request(UNGRANTED).expect(403);
}

/// Threat 20: refused at the start, with the place.
#[test]
fn hostile_policies_are_refused_at_the_start() {
    let builtin = |call: &str| {
        format!(
            "package partnergate\n\nimport rego.v1\n\ndecision := {{\"allow\": false, \"reasons\": [\"policy-denied\"]}} \
             if {{\n\tx := {call}\n\tx != null\n}}\n"
        )
    };
    let header = "package partnergate\n\nimport rego.v1\n\n";
    for (name, rego, line) in [
        ("only `allow := true`", "package partnergate\n\nallow := true\n".to_owned(), None),
        ("numbers.range", builtin("numbers.range(1, input.request.content_length)"), Some(6)),
        ("numbers.range_step", builtin("numbers.range_step(1, 1000000000, 1)"), Some(6)),
        ("http.send", builtin("http.send({\"method\": \"GET\", \"url\": \"http://127.0.0.1/\"})"), Some(6)),
        ("opa.runtime", builtin("opa.runtime()"), Some(6)),
        ("time.now_ns", builtin("time.now_ns()"), Some(6)),
        ("rand.intn", builtin("rand.intn(\"a\", 5)"), Some(6)),
        ("uuid.rfc4122", builtin("uuid.rfc4122(\"a\")"), Some(6)),
        ("bits.lsh", builtin("bits.lsh(1, 1000000000)"), Some(6)),
        ("an unknown builtin", builtin("no.such.thing(1)"), Some(6)),
        ("a syntax error", format!("{header}decision := {{\"allow\": \n"), None),
        ("an unsafe variable", format!("{header}decision := {{\"allow\": x}}\n"), Some(5)),
        ("recursion", format!("{header}decision := a\n\na := b\n\nb := a\n"), None),
        (
            "two values for one rule",
            format!(
                "{header}decision := {{\"allow\": true}} if input.version == 1\n\ndecision := {{\"allow\": false}}\n"
            ),
            None,
        ),
        ("no decision", format!("{header}something := 1\n"), None),
        ("another package", "package elsewhere\n\ndecision := {\"allow\": true}\n".to_owned(), None),
        ("not Rego", "\u{0}\u{1}\u{2}".to_owned(), None),
        ("nothing", String::new(), None),
    ] {
        let (setup, folder) = Setup::new().own_policies();
        only_policy(&folder, &rego);
        let (exit, said) = setup.start_expecting_failure();
        assert_eq!(exit, Some(3), "{name}: {said}");
        let place = line.map_or("decision.rego:".to_owned(), |line| format!("decision.rego:{line}"));
        assert!(said.contains(&place), "{name}: {place} is not in: {said}");
        let checked = setup.cli(&["check"]);
        assert_eq!(checked.exit, Some(3), "{name}: {}", checked.stderr);
        assert!(checked.stderr.contains(&place), "{name}: `check` says the same: {}", checked.stderr);
    }
}

/// Threat 20: what cannot be seen beforehand is denied within the limits, and the process lives.
#[test]
fn hostile_policies_are_denied_within_their_limits() {
    let header = "package partnergate\n\nimport rego.v1\n\n";
    let numbers = "n := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n\n";
    let nested = "some a in n\n\tsome b in n\n\tsome c in n\n\tsome d in n\n\tsome e in n\n\tsome f in n\n\tsome g in n\n\ta + b + c + d + e + f + g > 1000";
    let loops =
        format!("{header}{numbers}decision := {{\"allow\": true, \"grant\": \"acme-items\"}} if {{\n\t{nested}\n}}\n");
    let collects = format!(
        "{header}{numbers}decision := {{\"allow\": true, \"grant\": \"acme-items\"}} if {{\n\tcount([[a, b, c, d, e, f] | some a in \
         n; some b in n; some c in n; some d in n; some e in n; some f in n]) > 0\n}}\n"
    );
    for (name, rego, reasons) in [
        ("loops", loops, &["policy-instruction-limit", "policy-timeout"][..]),
        ("collects", collects, &["policy-instruction-limit", "policy-timeout"]),
        (
            "is undefined",
            format!("{header}decision := {{\"allow\": true}} if input.version == 2\n"),
            &["policy-undefined"],
        ),
        ("is no object", format!("{header}decision := [true]\n"), &["policy-error"]),
        (
            "allows with a text",
            format!("{header}decision := {{\"allow\": \"yes\", \"grant\": \"acme-items\"}}\n"),
            &["policy-error"],
        ),
        (
            "reasons with a number",
            format!("{header}decision := {{\"allow\": false, \"reasons\": [1]}}\n"),
            &["policy-reason-undeclared"],
        ),
        (
            "denies for a reason nobody has declared",
            format!("{header}decision := {{\"allow\": false, \"reasons\": [\"x-whatever\"]}}\n"),
            &["policy-reason-undeclared"],
        ),
        (
            "a decision that is too large",
            format!(
                "{header}big := [{}]\n\ndecision := {{\"allow\": true, \"grant\": \"acme-items\", \"x\": big}}\n",
                vec!["1, 1, 1, 1"; 5_000].join(",\n")
            ),
            &["policy-result-too-large"],
        ),
        ("denies without a reason", format!("{header}decision := {{\"allow\": false}}\n"), &["policy-denied"]),
    ] {
        let (setup, folder) = Setup::new().own_policies();
        only_policy(&folder, &rego);
        let mut gate = setup.set("policy.time_limit", "200ms").start();
        let mut conn = gate.dial().identity(&gate.acme).open();
        for _ in 0..2 {
            let answer = conn.request(GRANTED);
            assert!([403, 503].contains(&answer.status), "{name}: {answer:?}");
            let record = gate.record_of(answer.id());
            let reason = record["reason"].as_str().unwrap().to_owned();
            assert!(reasons.contains(&reason.as_str()), "{name}: {reason}: {record}");
            assert!(
                gate.metric(&format!("partnergate_denials_total{{reason=\"{reason}\"}}")) >= 1.0,
                "{name}: own counter"
            );
        }
        assert!(gate.process.lives(), "{name}: {}", gate.log());
        assert_eq!(gate.metric("partnergate_panics_total"), 0.0, "{name}");
        gate.upstream.assert_untouched();
    }
}

/// Threat 20: few instructions, each of which doubles what there is. Fourteen of them are more than 600 MB, and more are not
/// permitted; the limit must hold before.
#[test]
fn policy_that_doubles_its_memory_is_stopped_by_its_time_limit() {
    let steps: String = (1..=14)
        .map(|n| {
            let before = if n == 1 { "a".to_owned() } else { format!("x{}", n - 1) };
            format!("\tx{n} := concat(\"\", [{before}, {before}])\n")
        })
        .collect();
    let rego = format!(
        "package partnergate\n\nimport rego.v1\n\ndecision := {{\"allow\": true, \"grant\": \"acme-items\"}} if {{\n\ta := \
         data.text\n{steps}\tcount(x14) > 0\n}}\n"
    );
    let (setup, folder) = Setup::new().own_policies();
    only_policy(&folder, &rego);
    std::fs::write(folder.join("data.json"), format!("{{\"text\": \"{}\"}}", "a".repeat(40_000))).unwrap();
    let mut gate = setup.set("policy.time_limit", "10ms").start();
    let answer = gate.dial().identity(&gate.acme).open().request(GRANTED);
    assert_eq!(answer.expect(503).code(), "unavailable");
    assert_eq!(gate.record_of(answer.id())["reason"], "policy-timeout");
    assert!(gate.process.lives(), "{}", gate.log());
    // Nor does it get further when somebody asks why.
    let told = ["policy", "explain", "--partner", "acme", "--path", "/items/7", "--output", "json"];
    let told: Value = serde_json::from_str(&gate.cli(&told).ok()).unwrap();
    assert_eq!((&told["reasons"], &told["policy"]["complete"]), (&json!(["policy-timeout"]), &json!(false)), "{told}");
    // What it had at its peak, in KiB: nowhere near the end.
    let status = std::fs::read_to_string(format!("/proc/{}/status", gate.process.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 512 << 10, "{peak} KiB");
    gate.upstream.assert_untouched();
}

/// Rules of the security team only ever add denials.
#[test]
fn custom_rules_only_deny() {
    let (setup, folder) = Setup::new().own_policies();
    std::fs::write(folder.join("reasons.yaml"), "reasons:\n  x-no-reading: \"Nobody reads items today.\"\n").unwrap();
    let rules = "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {\"reason\": \"x-no-reading\"} if \
                 input.request.operation == \"items.read\"\n\nallow := true\n\ndecision := {\"allow\": true, \"grant\": \
                 \"acme-items\"}\n";
    std::fs::write(folder.join("custom/rules.rego"), rules).unwrap();
    let gate = setup.start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.request(GRANTED).expect(200);
    let answer = conn.request(format!("GET /items/7 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    assert_eq!(answer.expect(403).code(), "not-permitted");
    assert!(!answer.text().contains("x-no-reading"), "the partner is not told: {answer:?}");
    assert_eq!(gate.record_of(answer.id())["reason"], "x-no-reading");
    assert_eq!(gate.metric("partnergate_denials_total{reason=\"x-no-reading\"}"), 1.0);
    conn.request(UNGRANTED).expect(403);
}

/// Threat 20 and 21: a hostile policy does not get in by reload either.
#[test]
fn hostile_policy_by_reload_keeps_the_last_good_one() {
    let (setup, folder) = Setup::new().own_policies();
    let gate = setup.start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    conn.request(GRANTED).expect(200);
    let file = folder.join("custom/hostile.rego");
    std::fs::write(
        &file,
        "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {\"reason\": \"x-a\"} if \
         count(numbers.range(1, 1000000000)) > 0\n",
    )
    .unwrap();
    gate.reload();
    gate.await_metric("partnergate_config_last_reload_successful", 0.0);
    gate.await_log("hostile.rego:5");
    conn.request(GRANTED).expect(200);
    conn.request(UNGRANTED).expect(403);
    assert_eq!(gate.http("/readyz").0, 200, "what is live is still good");
    std::fs::remove_file(&file).unwrap();
    gate.reload();
    gate.await_metric("partnergate_config_last_reload_successful", 1.0);
    assert_eq!(count(&gate.settle(), |r| r["kind"] == "request"), 3);
}

#[test]
fn policy_folder_is_checked_by_itself_with_each_place_shown() {
    let (setup, folder) = Setup::new().own_policies();
    let gate = setup.start();
    let check = |more: &[&str]| gate.cli(&[&["policy", "check", folder.to_str().unwrap()], more].concat());
    let said = check(&[]).ok();
    assert!(said.starts_with("good: ") && said.contains(" Rego files, revision "), "{said}");
    // That of the config, and for programs.
    let said = gate.cli(&["policy", "check", "--output", "json"]).ok();
    let parsed: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&parsed["ok"], &parsed["problems"]), (&true.into(), &serde_json::json!([])), "{said}");
    let rule = "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {\"reason\": \"x-b\"} if {\n\
                \tinput.partner.stat == \"closed\"\n}\n";
    std::fs::write(folder.join("custom/own.rego"), rule).unwrap();
    let refused = check(&[]);
    assert_eq!(refused.exit, Some(3));
    for shown in [
        "error: custom/own.rego:6:16: there is no fact `input.partner.stat` in the contract\n",
        "    6 | \tinput.partner.stat == \"closed\"\n      | \t              ^\n    fix: did you mean `state`?\n",
        "error: custom/own.rego:5:26: the reason `x-b` is not declared\n",
        "2 errors\n",
    ] {
        assert!(refused.stderr.contains(shown), "no {shown:?} in {}", refused.stderr);
    }
    let parsed: serde_json::Value = serde_json::from_str(&check(&["--output", "json"]).text()).unwrap();
    assert_eq!((&parsed["ok"], parsed["problems"].as_array().unwrap().len()), (&false.into(), 2), "{parsed}");
    let nowhere = gate.cli(&["policy", "check", "/nonexistent"]);
    assert!(nowhere.exit == Some(3) && nowhere.stderr.contains("does not exist"), "{}", nowhere.stderr);
}
