use super::*;

const LIMITS: PolicyLimits = PolicyLimits { time: Duration::from_millis(50), instructions: 25_000 };

fn shipped(extra: &[(&str, &str)]) -> PolicySource {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root.join("partnergate")).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("partnergate/{}", path.file_name().unwrap().to_str().unwrap());
        files.push((name, std::fs::read_to_string(&path).unwrap()));
    }
    files.push(("reasons.yaml".into(), std::fs::read_to_string(root.join("reasons.yaml")).unwrap()));
    files.retain(|(path, _)| !extra.iter().any(|(other, _)| other == path));
    files.extend(extra.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned())));
    files.sort();
    PolicySource { files }
}

fn only(text: &str) -> PolicySource {
    PolicySource { files: vec![("p.rego".into(), format!("package partnergate\nimport rego.v1\n{text}"))] }
}

fn compile(source: &PolicySource) -> Result<Policy, String> {
    Policy::compile(source, EngineKind::Rvm, LIMITS).map_err(|p| p.to_string())
}

fn refused(source: &PolicySource) -> String {
    compile(source).err().unwrap_or_else(|| panic!("{source:?} was accepted"))
}

fn input(json: &str) -> Value {
    Value::from_json_str(json).unwrap()
}

fn reasons(verdict: Verdict) -> Vec<String> {
    match verdict {
        Verdict::Allow { grant } => panic!("allowed by {grant}"),
        Verdict::Deny { reasons, .. } => reasons.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn every_rego_test_of_the_shipped_policy_passes() {
    let source = shipped(&[]);
    let mut engine = Engine::new();
    let mut tests = Vec::new();
    for (path, text) in source.files.iter().filter(|(p, _)| p.ends_with(".rego")) {
        let package = engine.add_policy(path.clone(), text.clone()).unwrap();
        tests.extend(
            text.lines()
                .filter_map(|l| l.split_whitespace().next())
                .filter(|w| w.starts_with("test_"))
                .map(|t| format!("{package}.{t}")),
        );
    }
    assert!(tests.len() > 80, "only {} tests found", tests.len());
    for test in tests {
        let value = engine.eval_rule(test.clone()).unwrap_or_else(|e| panic!("{test}: {e}"));
        assert_eq!(value, Value::Bool(true), "{test}");
    }
}

#[test]
fn an_empty_input_is_denied_with_reasons_on_both_engines() {
    for kind in [EngineKind::Rvm, EngineKind::Interpreter] {
        let policy = Policy::compile(&shipped(&[]), kind, LIMITS).unwrap_or_else(|p| panic!("{p}"));
        let found = reasons(policy.evaluate(input("{}")));
        assert!(
            found.contains(&"partner-not-active".to_owned()) && found.contains(&"operation-not-granted".to_owned()),
            "{found:?}"
        );
    }
}

#[test]
fn custom_rules_deny_with_declared_reasons_only() {
    let rule =
        "package partnergate.custom\nimport rego.v1\ndeny contains {\"reason\": \"x-night\"} if input.time.hour > 20\n";
    let declared = "reasons:\n  x-night: calls at night\n";
    let at_night = input(r#"{"time": {"hour": 23, "now_ns": 1}}"#);
    let policy = compile(&shipped(&[("custom/night.rego", rule), ("reasons.yaml", declared)])).unwrap();
    assert!(reasons(policy.evaluate(at_night.clone())).contains(&"x-night".to_owned()));
    let undeclared = compile(&shipped(&[("custom/night.rego", rule)])).unwrap();
    let found = reasons(undeclared.evaluate(at_night));
    assert!(
        found.contains(&"policy-reason-undeclared".to_owned()) && !found.contains(&"x-night".to_owned()),
        "{found:?}"
    );
}

#[test]
fn data_files_appear_under_their_folder() {
    let rule = "package partnergate.custom\nimport rego.v1\ndeny contains {\"reason\": \"x-night\"} if input.time.hour > data.custom.limits.latest\n";
    let policy = compile(&shipped(&[
        ("custom/night.rego", rule),
        ("custom/limits.yaml", "limits: {latest: 20}\n"),
        ("reasons.yaml", "reasons: {x-night: n}\n"),
    ]))
    .unwrap();
    assert!(reasons(policy.evaluate(input(r#"{"time": {"hour": 21, "now_ns": 1}}"#))).contains(&"x-night".to_owned()));
    assert!(!reasons(policy.evaluate(input(r#"{"time": {"hour": 20, "now_ns": 1}}"#))).contains(&"x-night".to_owned()));
}

#[test]
fn what_a_machine_would_not_survive_is_refused_at_load_with_its_place() {
    for (text, expected) in [
        ("decision := {", "p.rego:"),
        ("decision if a\na if b\nb if a", "recursion"),
        ("decision if f(1)\nf(x) if f(x + 1)", "recursion"),
        ("decision := count(1, 2, 3)", "takes 1 arguments, not 3"),
        (
            "decision := numbers.range(1, input.request.content_length)",
            "p.rego:3:26: the builtin `numbers.range` is refused",
        ),
        ("decision := time.now_ns()", "`time.now_ns` is refused: use `input.time.now_ns`"),
        ("decision := rand.intn(\"a\", 3)", "`rand.intn` is refused"),
        ("decision := bits.lsh(1, input.n)", "`bits.lsh` is refused"),
        ("decision := http.send({})", "p.rego:3"),
        ("decision := opa.runtime()", "p.rego:3"),
        ("decision if { some k in [\"a\"]; data.partnergate[k] }\na := 1", "recursion"),
        ("other := 1", "no file has the rule `data.partnergate.decision`"),
    ] {
        let said = refused(&only(text));
        assert!(said.contains(expected), "{text:?} gave {said:?}");
    }
}

#[test]
fn custom_files_cannot_reach_into_the_shipped_package() {
    let said = refused(&shipped(&[(
        "custom/evil.rego",
        "package partnergate\nimport rego.v1\nusable_grants contains \"g\"\n",
    )]));
    assert!(said.contains("custom/evil.rego") && said.contains("package partnergate.custom"), "{said}");
}

#[test]
fn data_that_stands_where_a_rule_stands_is_refused() {
    let said = refused(&shipped(&[("partnergate/x.json", "{\"decision\": {\"allow\": true}}")]));
    assert!(said.contains("where a rule stands") || said.contains("data"), "{said}");
}

#[test]
fn whatever_is_not_a_proper_decision_denies_with_its_own_reason() {
    for (text, reason) in [
        ("decision := {\"allow\": true} if input.never", "policy-undefined"),
        ("decision := true", "policy-error"),
        ("decision := {\"allow\": \"true\", \"grant\": \"g\"}", "policy-error"),
        ("decision := {\"allow\": 1, \"grant\": \"g\"}", "policy-error"),
        ("decision := {\"grant\": \"g\"}", "policy-error"),
        ("decision := {\"allow\": true}", "grant-not-valid"),
        ("decision := {\"allow\": true, \"grant\": 7}", "grant-not-valid"),
        ("decision := {\"allow\": true, \"grant\": \"g\", \"reasons\": [\"grant-expired\"]}", "policy-error"),
        ("decision := {\"allow\": false}", "policy-denied"),
        ("decision := {\"allow\": false, \"reasons\": [\"made-up\"]}", "policy-reason-undeclared"),
        ("decision := {\"allow\": false, \"reasons\": {\"grant-expired\"}}", "grant-expired"),
    ] {
        let policy = compile(&only(text)).unwrap();
        assert_eq!(reasons(policy.evaluate(input("{}"))), [reason], "{text}");
    }
}

#[test]
fn a_policy_without_end_is_stopped_by_its_limits() {
    let text = "decision if { some a in input.l; some b in input.l; some c in input.l; a + b + c == -1 }";
    let list: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    let big = input(&format!("{{\"l\": [{}]}}", list.join(",")));
    let few = Policy::compile(
        &only(text),
        EngineKind::Rvm,
        PolicyLimits { time: Duration::from_secs(60), instructions: 25_000 },
    )
    .unwrap();
    assert_eq!(reasons(few.evaluate(big.clone())), ["policy-instruction-limit"]);
    let quick = PolicyLimits { time: Duration::from_millis(5), instructions: usize::MAX };
    for kind in [EngineKind::Rvm, EngineKind::Interpreter] {
        let short = Policy::compile(&only(text), kind, quick).unwrap();
        assert_eq!(reasons(short.evaluate(big.clone())), ["policy-timeout"], "{kind:?}");
    }
    // The thread's machine is usable afterwards.
    assert_eq!(reasons(few.evaluate(input("{}"))), ["policy-undefined"]);
}

#[test]
fn a_new_policy_takes_the_place_of_the_old_one_on_the_same_thread() {
    let allow = compile(&only("decision := {\"allow\": true, \"grant\": \"g\"}")).unwrap();
    let deny = compile(&only("decision := {\"allow\": false, \"reasons\": [\"grant-expired\"]}")).unwrap();
    for _ in 0..3 {
        assert_eq!(allow.evaluate(input("{}")), Verdict::Allow { grant: "g".into() });
        assert_eq!(reasons(deny.evaluate(input("{}"))), ["grant-expired"]);
    }
}

#[test]
fn conditions_are_declared_with_types() {
    let policy =
        compile(&shipped(&[("conditions.yaml", "conditions: {max_amount: integer, tenants: text-list}\n")])).unwrap();
    let check = |json: serde_json::Value| policy.check_conditions(&serde_json::from_value(json).unwrap());
    assert!(check(serde_json::json!({"max_amount": 5, "tenants": ["a"]})).is_empty());
    assert_eq!(check(serde_json::json!({"max_amount": "5"})).len(), 1);
    assert!(check(serde_json::json!({"max_amont": 5}))[0].contains("not declared"));
}
