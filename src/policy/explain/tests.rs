use super::*;
use crate::policy::tests::shipped;
use serde_json::{Value as Json, json};
use std::time::Duration;

const LIMITS: PolicyLimits = PolicyLimits { time: Duration::from_secs(5), instructions: 1_000_000 };
const RULES: &str = r#"package partnergate.custom

import rego.v1

deny contains {"reason": "x-night"} if {
	input.time.local.hour >= data.custom.night.from
}

deny contains {"reason": "x-night"} if {
	input.time.local.hour < data.custom.night.until
}
"#;

fn source() -> PolicySource {
    shipped(&[
        ("custom/own.rego", RULES),
        ("custom/night.yaml", "night: {from: 22, until: 6}\n"),
        ("reasons.yaml", "reasons: {x-night: at night}\n"),
    ])
}

/// Tuesday, 2027-01-05T10:20:00Z.
const NOW: i64 = 1_799_144_400_000_000_000;

fn facts() -> Json {
    json!({
        "version": 1,
        "environment": "test",
        "partner": {
            "id": "acme", "state": "active", "labels": {}, "networks": ["acme-dc1", "acme-dc2"], "engagement": {},
            "grants": [
                {"id": "g-items", "operations": ["items.list"], "ends_ns": NOW + 86_400_000_000_000_i64, "conditions": {}},
                {"id": "g-dc2", "operations": ["items.read"], "networks": ["acme-dc2"], "conditions": {}},
            ],
        },
        "credential": {"id": "acme-1", "state": "active", "not_before_ns": 0, "not_after_ns": NOW * 2},
        "source": {"ip": "192.0.2.7", "port": 1, "networks": ["acme-dc1", "any"]},
        "tls": {"version": "1.3"},
        "request": {"id": "1", "method": "GET", "path": "/items", "operation": "items.list"},
        "time": {"now_ns": NOW, "weekday": "tuesday", "hour": 10, "minute": 20, "local": {"weekday": "tuesday", "hour": 11, "minute": 20}},
    })
}

#[track_caller]
fn explained(change: impl FnOnce(&mut Json)) -> Explanation {
    let mut facts = facts();
    change(&mut facts);
    explain(&source(), &facts.into(), LIMITS).unwrap_or_else(|p| panic!("{p}"))
}

#[track_caller]
fn reasons(explanation: &Explanation) -> Vec<&str> {
    match &explanation.verdict {
        Verdict::Deny { reasons, .. } => reasons.iter().map(Reason::as_str).collect(),
        Verdict::Allow { grant, .. } => panic!("allowed by {grant}"),
    }
}

/// Every condition that did not hold, at any depth.
fn failures(said: &RuleSaid) -> Vec<(String, Failure)> {
    let mut all = Vec::new();
    for body in &said.bodies {
        all.extend(body.failure.clone().map(|failure| (body.file.clone(), failure)));
        all.extend(body.rules.iter().flat_map(failures));
    }
    all
}

#[test]
fn an_allow_names_the_body_that_held() {
    let said = explained(|_| ());
    assert_eq!(said.verdict, Verdict::Allow { grant: "g-items".into(), observed: Vec::new() });
    let [body] = said.decision.bodies.as_slice() else { panic!("{:?}", said.decision) };
    assert!(body.failure.is_none() && body.file == "partnergate/decision.rego", "{body:?}");
    assert!(said.allowed_if.is_empty() && said.reasons.is_empty());
}

#[test]
fn a_denial_is_followed_to_the_condition_and_what_it_saw() {
    let said = explained(|facts| facts["source"]["networks"] = json!(["other", "any"]));
    assert_eq!(reasons(&said), ["network-not-allowed"]);
    // The decision needs a usable grant, and that needs a network.
    let failures = failures(&said.decision);
    let (file, failure) = failures.iter().find(|(file, _)| file == "partnergate/scope.rego").unwrap();
    assert_eq!(
        (file.as_str(), failure.statement.as_str()),
        ("partnergate/scope.rego", "partner_network in partner_networks")
    );
    assert!(
        failure.seen.contains(&("partner_networks".into(), vec!["[\"acme-dc1\", \"acme-dc2\"]".into()])),
        "{failure:?}"
    );
    let [(_, places)] = said.reasons.as_slice() else { panic!("{:?}", said.reasons) };
    assert!(places.iter().any(|held| held.file == "partnergate/network.rego"), "{places:?}");
    // Either of its networks, and nothing else.
    assert_eq!(
        said.allowed_if,
        [["the call came from the network `acme-dc1`"], ["the call came from the network `acme-dc2`"]]
    );
}

#[test]
fn a_custom_rule_is_shown_with_its_conditions() {
    let said = explained(|facts| facts["time"]["local"] = json!({"weekday": "tuesday", "hour": 23, "minute": 20}));
    assert_eq!(reasons(&said), ["x-night"]);
    let [(_, places)] = said.reasons.as_slice() else { panic!("{:?}", said.reasons) };
    let [held] = places.as_slice() else { panic!("{places:?}") };
    assert_eq!((held.file.as_str(), held.line), ("custom/own.rego", 5));
    assert_eq!(
        held.conditions[0].1,
        [("input.time.local.hour".into(), vec!["23".into()]), ("data.custom.night.from".into(), vec!["22".into()])]
    );
    // The first hour that is good: at six it is no longer night.
    assert_eq!(said.allowed_if, [["the call came on wednesday at 06 o'clock"]]);
}

#[test]
fn what_would_be_allowed_was_tried() {
    let said = explained(|facts| facts["request"]["operation"] = json!("items.delete"));
    assert_eq!(reasons(&said), ["operation-not-granted"]);
    assert_eq!(
        said.allowed_if,
        [["the grant `g-items` had the operation `items.delete`"]],
        "the other is for another network"
    );
    let said = explained(|facts| facts["partner"]["grants"][0]["ends_ns"] = json!(NOW));
    assert_eq!(reasons(&said), ["grant-expired"]);
    assert!(
        said.allowed_if.contains(&vec!["the call came before 2027-01-05T10:20:00Z".to_owned()]),
        "{:?}",
        said.allowed_if
    );
    let said = explained(|facts| facts["partner"]["state"] = json!("suspended"));
    assert_eq!(said.allowed_if, [["the partner were active"]]);
    // Two at once, where one is not enough.
    let said = explained(|facts| {
        facts["partner"]["state"] = json!("suspended");
        facts["source"]["networks"] = json!(["any"]);
    });
    assert_eq!(
        said.allowed_if,
        [
            ["the call came from the network `acme-dc1`", "the partner were active"],
            ["the call came from the network `acme-dc2`", "the partner were active"]
        ]
    );
    let said = explained(|facts| facts["credential"]["not_after_ns"] = json!("text"));
    assert!(matches!(said.verdict, Verdict::Deny { .. } | Verdict::Allow { .. }));
}

#[test]
fn an_input_without_anything_is_explained_too() {
    let said = explain(&source(), &json!({}).into(), LIMITS).unwrap_or_else(|p| panic!("{p}"));
    assert!(reasons(&said).contains(&"partner-not-active"), "{said:?}");
    let failures = failures(&said.decision);
    assert!(failures.iter().any(|(_, failure)| failure.seen == [("input.time.now_ns".into(), vec![])]), "{failures:?}");
}

#[test]
fn a_policy_that_is_not_good_is_not_explained() {
    let mut source = source();
    source.files.push(("custom/z.rego".into(), "package partnergate.custom\ndeny contains 1 if inptu.x\n".into()));
    assert!(explain(&source, &json!({}).into(), LIMITS).is_err());
}

#[test]
fn certificate_that_nobody_has_is_valid_whenever_the_call_came() {
    let policy = Policy::compile(&source(), EngineKind::Rvm, LIMITS).unwrap_or_else(|p| panic!("{p}"));
    const YEAR: i64 = 366 * 86_400_000_000_000;
    let mut facts = facts();
    facts["partner"]["engagement"] = json!({"ends_ns": NOW - 2 * YEAR});
    facts["partner"]["grants"][0].as_object_mut().unwrap().remove("ends_ns");
    facts["credential"]["not_before_ns"] = json!(NOW - YEAR);
    facts["credential"]["not_after_ns"] = json!(NOW + YEAR);
    let facts = Value::from(facts);
    let allowed_if = |certificate| policy.explain(&facts, certificate, None).allowed_if;
    assert_eq!(allowed_if(Certificate::Supposed), [["the call came before 2025-01-03T10:20:00Z"]]);
    assert_eq!(allowed_if(Certificate::Given), Vec::<Vec<String>>::new(), "one that there is was not valid then");
}

/// What one rule of a hostile policy takes is bounded by what a request may take, all of them by when nobody waits any longer; and
/// there is a verdict all the same.
#[test]
fn a_policy_that_takes_too_much_is_explained_as_far_as_there_is_time() {
    let loops =
        "decision := {\"allow\": false} if {\n\tsome a in n\n\tsome b in n\n\tsome c in n\n\ta + b + c == -1\n}\n";
    let numbers: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    let loops = format!("n := [{}]\n\n{loops}", numbers.join(",\n"));
    let doubles: String = (1..=14).map(|n| format!("\tx{n} := concat(\"\", [x{0}, x{0}])\n", n - 1)).collect();
    let doubles = format!("decision := {{\"allow\": false}} if {{\n\tx0 := data.text\n{doubles}\tx14 != \"\"\n}}\n");
    for (what, text) in [("loops", loops), ("doubles", doubles)] {
        let text = format!("package partnergate\n\nimport rego.v1\n\n{text}");
        let data = format!("{{\"text\": \"{}\"}}", "a".repeat(60_000));
        let source = PolicySource { files: vec![("data.json".into(), data), ("partnergate/p.rego".into(), text)] };
        let limits = PolicyLimits { time: Duration::from_millis(10), instructions: 10_000_000 };
        let policy = Policy::compile(&source, EngineKind::Rvm, limits).unwrap_or_else(|p| panic!("{what}: {p}"));
        let asked = Instant::now();
        let said = policy.explain(&facts().into(), Certificate::Given, Some(asked + Duration::from_secs(10)));
        assert!(asked.elapsed() < Duration::from_secs(5), "{what}: {:?}", asked.elapsed());
        assert_eq!((reasons(&said), said.complete), (vec!["policy-timeout"], false), "{what}: {said:?}");
        assert_eq!(said.reasons, [(Reason::PolicyTimeout, Vec::new())], "{what}");
        assert!(said.allowed_if.is_empty() && said.interpreter.is_none(), "{what}: {said:?}");
        assert_eq!((said.decision.value, said.decision.bodies.len()), (None, 0), "{what}");
    }
}

/// As if the rules could not be looked into at all.
#[test]
fn without_time_the_verdict_is_all_that_is_said() {
    let policy = Policy::compile(&source(), EngineKind::Rvm, LIMITS).unwrap_or_else(|p| panic!("{p}"));
    let mut facts = facts();
    facts["partner"]["state"] = json!("suspended");
    let said = policy.explain(&facts.into(), Certificate::Given, Some(Instant::now()));
    assert_eq!((reasons(&said), said.complete), (vec!["partner-not-active"], false));
    let [(reason, rules)] = said.reasons.as_slice() else { panic!("{:?}", said.reasons) };
    assert!(reason.as_str() == "partner-not-active" && rules.is_empty() && said.decision.bodies.is_empty(), "{said:?}");
}
