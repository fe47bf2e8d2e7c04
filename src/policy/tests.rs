use super::*;

mod checks;
mod library;
pub(crate) mod opa;
mod oracle;

const LIMITS: PolicyLimits = PolicyLimits { time: Duration::from_millis(50), instructions: 25_000 };

pub(super) fn shipped(extra: &[(&str, &str)]) -> PolicySource {
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
        Verdict::Allow { grant, .. } => panic!("allowed by {grant}"),
        Verdict::Deny { reasons, .. } => reasons.iter().map(ToString::to_string).collect(),
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
    // What is written out is found before it is served; what is put together is not, and is not believed then.
    assert!(refused(&shipped(&[("custom/night.rego", rule)])).contains("the reason `x-night` is not declared"));
    let hidden = rule.replace("\"x-night\"", "concat(\"-\", [\"x\", \"night\"])");
    let undeclared = compile(&shipped(&[("custom/night.rego", &hidden)])).unwrap();
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

/// So many rules, each of which leads to the next.
fn chain(length: usize) -> String {
    let rules: String = (0..length).map(|n| format!("r{n} if not r{}\n", n + 1)).collect();
    format!("decision := {{\"allow\": false}} if not r0\n{rules}r{length} if input.partner\n")
}

#[test]
fn what_a_machine_would_not_survive_is_refused_at_load_with_its_place() {
    for (text, expected) in [
        ("decision := {", "p.rego:"),
        ("decision if a\na if b\nb if a", "recursion"),
        ("decision if f(1)\nf(x) if f(x + 1)", "recursion"),
        (&*chain(101), "rules lead to each other more than 100 deep"),
        ("decision := count(json.marshal(input))", "the builtin `json.marshal` is refused"),
        ("decision := count(1, 2, 3)", "takes 1 arguments, not 3"),
        (
            "decision := numbers.range(1, input.request.content_length)",
            "p.rego:3:13: the builtin `numbers.range` is refused",
        ),
        ("decision := time.now_ns()", "`time.now_ns` is refused: use `input.time.now_ns`"),
        ("decision := rand.intn(\"a\", 3)", "`rand.intn` is refused"),
        ("decision := bits.lsh(1, input.request.content_length)", "`bits.lsh` is refused"),
        ("decision := http.send({})", "p.rego:3"),
        ("decision := opa.runtime()", "p.rego:3"),
        (
            "decision if { some k in [\"a\"]; data.partnergate[k] }\na := 1",
            "p.rego:3:32: `data.partnergate[…]` asks for a rule",
        ),
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
        ("decision := {\"allow\": true} if input.request.params.never", "policy-undefined"),
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
        // What is the gateway's own to say, some of it with status 500 or 503.
        (
            "decision := {\"allow\": false, \"reasons\": [concat(\"\", [\"inter\", \"nal\"])]}",
            "policy-reason-undeclared",
        ),
        ("decision := {\"allow\": false, \"reasons\": [\"policy-timeout\"]}", "policy-reason-undeclared"),
        ("decision := {\"allow\": false, \"reasons\": [\"lockdown\"]}", "policy-reason-undeclared"),
    ] {
        let policy = compile(&only(text)).unwrap();
        assert_eq!(reasons(policy.evaluate(input("{}"))), [reason], "{text}");
    }
}

#[test]
fn a_policy_without_end_is_stopped_by_its_limits() {
    let text = "decision if { some a in input.request.tags; some b in input.request.tags; some c in input.request.tags; a + b + c == -1 }";
    let list: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    let big = input(&format!("{{\"request\": {{\"tags\": [{}]}}}}", list.join(",")));
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

/// Evaluates on a stack as threads that serve have it.
fn on_a_request(policy: &Policy, input: &Value) -> Vec<String> {
    std::thread::scope(|scope| {
        let serving = std::thread::Builder::new().stack_size(2 << 20);
        serving.spawn_scoped(scope, || reasons(policy.evaluate(input.clone()))).unwrap().join().unwrap()
    })
}

#[test]
fn rules_as_deep_as_they_may_be_have_the_stack_for_it() {
    for kind in [EngineKind::Rvm, EngineKind::Interpreter] {
        let policy = Policy::compile(&only(&chain(99)), kind, LIMITS).unwrap_or_else(|p| panic!("{p}"));
        let said = on_a_request(&policy, &input("{}"));
        assert!(said == ["policy-denied"] || said == ["policy-undefined"], "{kind:?}: {said:?}");
    }
}

/// Each would take far longer, or far more memory, than it is given.
#[test]
fn a_policy_that_asks_for_too_much_is_denied_within_its_limits() {
    let rows: Vec<String> = (0..50_000).map(|n| format!("{{\"n\": {n}}}")).collect();
    let data = format!("{{\"rows\": [{}], \"few\": [{}]}}", rows.join(","), rows[..17_000].join(","));
    let facts = input(&format!("{{\"request\": {{\"path\": \"{}\"}}}}", "a".repeat(60_000)));
    let budget = ["policy-instruction-limit", "policy-timeout"];
    for (what, text, expected) in [
        (
            "huge data",
            "decision := {\"allow\": false} if { some a in data.rows; some b in data.rows; a.n + b.n == -1 }",
            &budget[..],
        ),
        (
            "a result of many values",
            "decision := {\"allow\": false, \"reasons\": [r.n | some r in data.few]}",
            &["policy-result-too-large"],
        ),
        (
            "a result of much text",
            "decision := {\"allow\": false, \"reasons\": [input.request.path]}",
            &["policy-result-too-large"],
        ),
        (
            "a result that has itself in it twice, fourteen times over",
            &*format!(
                "decision := {{\"allow\": false, \"reasons\": x14}} if {{\n\tx0 := [input.request.path]\n{}}}",
                (1..=14).map(|n| format!("\tx{n} := [x{0}, x{0}]\n", n - 1)).collect::<String>()
            ),
            &["policy-result-too-large"],
        ),
        (
            "a regex that is larger than the text it is written in",
            "decision := {\"allow\": false} if regex.match(`(((a{1,200}){1,200}){1,200}){1,200}`, input.request.path)",
            &["policy-error", "policy-undefined", "policy-timeout"],
        ),
        (
            "a regex that others take exponential time for",
            "decision := {\"allow\": false} if regex.match(`^(a+a+)+$`, concat(\"\", [input.request.path, \"b\"]))",
            &["policy-undefined"],
        ),
        (
            "a text that is doubled over and over",
            &*format!(
                "decision := {{\"allow\": false}} if {{\n\tx0 := input.request.path\n{}\tx14 != \"\"\n}}",
                (1..=14).map(|n| format!("\tx{n} := concat(\"\", [x{0}, x{0}])\n", n - 1)).collect::<String>()
            ),
            &["policy-timeout"],
        ),
    ] {
        let mut source = only(text);
        source.files.push(("data.json".into(), data.clone()));
        for kind in [EngineKind::Rvm, EngineKind::Interpreter] {
            // Enough for what ends by its own means on a busy machine; what doubles has gigabytes after a second.
            let time = Duration::from_millis(if what.contains("doubled") { 20 } else { 1_000 });
            let limits = PolicyLimits { time, instructions: 100_000 };
            let policy = Policy::compile(&source, kind, limits).unwrap_or_else(|p| panic!("{what}: {p}"));
            let said = on_a_request(&policy, &facts);
            assert!(said.len() == 1 && expected.contains(&said[0].as_str()), "{what}, {kind:?}: {said:?}");
        }
    }
}

#[test]
fn a_new_policy_takes_the_place_of_the_old_one_on_the_same_thread() {
    let allow = compile(&only("decision := {\"allow\": true, \"grant\": \"g\"}")).unwrap();
    let deny = compile(&only("decision := {\"allow\": false, \"reasons\": [\"grant-expired\"]}")).unwrap();
    for _ in 0..3 {
        assert_eq!(allow.evaluate(input("{}")), Verdict::Allow { grant: "g".into(), observed: Vec::new() });
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
    assert!(check(serde_json::json!({"max_amont": 5}))[0].reason.contains("not declared"));
}

/// What is wrong with one custom rule; its package and imports come before it.
fn lint(rule: &str) -> String {
    let text = format!("package partnergate.custom\n\nimport rego.v1\n\n{rule}\n");
    let found = refused(&shipped(&[("custom/own.rego", &text), ("reasons.yaml", "reasons: {x-late: too late}")]));
    assert!(found.contains("custom/own.rego:"), "{found}");
    found
}

#[test]
fn facts_that_are_not_in_the_contract_are_refused_with_what_was_meant() {
    for (condition, place, said) in [
        (
            "input.partner.stat == \"x\"",
            "6:16",
            "there is no fact `input.partner.stat` in the contract\n    fix: did you mean `state`?",
        ),
        ("\tinput.partner[\"labls\"].tier == 1", "6:16", "`input.partner.labls`"),
        ("input.token.scpe == 1", "6:14", "did you mean `scope`?"),
        (
            "input.request.method.name == 1",
            "6:23",
            "no fact `input.request.method.name` in the contract\n    fix: it has no keys",
        ),
        ("p := input.partner\n\tp.ownr == \"x\"", "7:4", "`p.ownr` in the contract\n    fix: did you mean `owner`?"),
        ("some g in input.partner.grants\n\tg.operation == \"x\"", "7:4", "`g.operation`"),
        ("some i\n\tinput.partner.grants[i].ends == 1", "7:26", "`input.partner.grants[…].ends`"),
        ("count([g | some g in input.partner.grants; g.star == 1]) > 0", "", "`g.star`"),
        ("every g in input.partner.grants { input.source.ipp == g.id }", "", "`input.source.ipp`"),
        ("input.partner.labels[input.request.methd] == 1", "", "`input.request.methd`"),
        ("input.request.headers[\"X-Tenant\"][0] == \"a\"", "6:24", "fix: write `x-tenant`"),
    ] {
        let found = lint(&format!("deny contains {{\"reason\": \"x-late\"}} if {{\n\t{}\n}}", condition.trim_start()));
        let at = if place.is_empty() { String::new() } else { format!("own.rego:{place}: ") };
        assert!(found.contains(said) && found.contains(&at), "{condition}: {found}");
    }
    let fine = "package partnergate.custom\n\nimport rego.v1\n\nimport input.request as r\n\ndeny contains {\"reason\": \"x-late\"} if {\n\
                \tr.headers[\"x-tenant\"][0] != r.params.tenant\n\tinput.partner.labels.tier == \"gold\"\n\tinput.time.local.hour > 18\n\
                \tsome g in input.partner.grants\n\tg.conditions.limit > 3\n\tinput.credential.san.uri[0] != input.partner.networks[_]\n}\n";
    let source = shipped(&[("custom/own.rego", fine), ("reasons.yaml", "reasons: {x-late: too late}")]);
    assert_eq!(compile(&source).err(), None);
}

#[test]
fn absent_facts_that_the_machine_would_carry_on_with_are_refused() {
    for body in [
        "x := input.request.route",
        "x := input.request.route\n\tnot x == \"a\"",
        "x := input.request.route\n\ty := x\n\tnot y in {\"a\"}",
        "x := input.request.route\n\tcount([1 | x == 1]) == 0",
        "count([1 | x := input.request.route]) == 0",
    ] {
        let found = lint(&format!("deny contains {{\"reason\": \"x-late\"}} if {{\n\t{body}\n}}"));
        assert!(found.contains("`x` may be undefined") && found.contains("`x != null`"), "{body}: {found}");
    }
    for body in [
        "x := input.request.route\n\tx != \"a\"",
        "x := input.request.route\n\tx != null\n\tnot x == \"a\"",
        "x := input.request.route\n\ty := x\n\ty in {\"a\"}",
        "x := input.request.route\n\tstartswith(x, \"a\")",
        "x := 7\n\tnot input.request.content_length == x",
        "x := [g | some g in input.partner.grants]\n\tnot x == []",
        "some x in [input.partner.id]\n\tnot x == \"a\"",
        "x = input.request.route\n\tnot x == \"a\"",
    ] {
        let text = format!(
            "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {{\"reason\": \"x-late\"}} if {{\n\t{body}\n}}\n"
        );
        let source = shipped(&[("custom/own.rego", &text), ("reasons.yaml", "reasons: {x-late: too late}")]);
        assert_eq!(compile(&source).err(), None, "{body}");
    }
    // The value that is given counts as a use: the denial is not there without it.
    let text = "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {\"reason\": \"x-late\", \"detail\": x} if {\n\
                \tx := input.request.route\n}\n";
    let source = shipped(&[("custom/own.rego", text), ("reasons.yaml", "reasons: {x-late: too late}")]);
    assert_eq!(compile(&source).err(), None);
}

#[test]
fn rules_that_would_never_do_what_they_say_are_refused() {
    for (rule, said) in [
        (
            "deny contains {\"reason\": \"x-lat\"} if input.time.hour > 3",
            "the reason `x-lat` is not declared\n    fix: did you mean `x-late`?",
        ),
        ("deny contains \"x-late\" if input.time.hour > 3", "a custom denial is an object with its reason"),
        (
            "deny contains {\"reason\": \"x-late\"} if not late\n\nlate contains 1 if input.time.hour > 3",
            "`not late` never holds",
        ),
        ("nobody_asks if http.send({})", "the builtin `http.send` is refused"),
        ("nobody_asks if startwith(input.request.path, \"a\")", "fix: did you mean `startswith`?"),
        ("f(x) := 1 if x > 3\n\ndefault f(x) := 2", "a default of a function is not supported"),
        ("default all := [x | some x in [1]]\n\nall := [] if input.time.hour > 3", "a comprehension as a default"),
        ("first := x if some x in input.request.segments", "has `x` in it, which a loop gives"),
        (
            "first := {\"a\": y} if {\n\tx = input.request.segments[_]\n\ty := lower(x)\n}",
            "has `y` in it, which a loop gives",
        ),
        ("f(list) := list[i] if {\n\tsome i\n\tlist[i] == \"a\"\n}", "has `i` in it, which a loop gives"),
        ("all.of[x] := 1 if some x in input.request.segments", "a variable beside other parts"),
        (
            "labelled if {\n\tevery k in [\"a\", \"b\"] {\n\t\tinput.partner.labels[k] == \"1\"\n\t}\n}",
            "own.rego:7:3: a value is looked up by a key of the loop inside `every`",
        ),
        (
            "bare if {\n\tevery k in [\"a\"] {\n\t\tnot input.partner.labels[k]\n\t}\n}",
            "a value is looked up by a key of the loop inside `every`",
        ),
        (
            "clean if not input.source.networks[_] == \"tor\"",
            "`[_]` below `not` does not say whether one or all are meant",
        ),
    ] {
        let found = lint(rule);
        assert!(found.contains(said), "{rule}: {found}");
    }
}

/// The machine's own file names are wrong as soon as rules are compiled in another order than their files are loaded.
#[test]
fn what_is_refused_is_where_it_is_written() {
    let head = "package partnergate.custom\n\nimport rego.v1\n\n";
    for (rules, line, said) in [
        ("circle if round\n\nround if circle\n", "own.rego:", "recursion"),
        ("two := 1 if input.time.hour > 3\n\ntwo := 2 if input.time.hour > 4\n", "own.rego:9: ", "several definitions"),
        ("two := count(1, 2, 3)\n", "own.rego:7:", "takes 1 arguments"),
    ] {
        let name = rules.split(' ').next().unwrap();
        let text = format!("{head}deny contains {{\"reason\": \"x-late\"}} if {name}\n\n{rules}");
        let found = refused(&shipped(&[("custom/own.rego", &text), ("reasons.yaml", "reasons: {x-late: too late}")]));
        assert!(found.contains(line) && found.contains(said), "{rules}: {found}");
    }
}

#[test]
fn values_that_no_loop_gives_are_fine() {
    for rules in [
        "first := min(all)\n\nall contains x if some x in input.request.segments",
        "n := count([x | some x in input.request.segments])",
        "by_name[x] := 1 if some x in input.request.segments",
        "good if {\n\tevery k, v in input.partner.labels {\n\t\tk != v\n\t\tinput.partner[\"id\"] != v\n\t}\n}",
        "none if count([x | some x in input.source.networks]) == 0",
        "f(list, n) := list[n]",
        "seen := true if {\n\tsome x in input.request.segments\n\tx == \"a\"\n}",
        "last := input.request.segments[n] if n := count(input.request.segments) - 1",
    ] {
        fine(rules);
    }
}

/// As `lint`, where nothing is wrong.
#[track_caller]
fn fine(rules: &str) {
    let text = format!("package partnergate.custom\n\nimport rego.v1\n\n{rules}\n");
    let source = shipped(&[("custom/own.rego", &text), ("reasons.yaml", "reasons: {x-late: too late}")]);
    assert_eq!(compile(&source).err(), None, "{rules}");
}

#[test]
fn rules_that_are_right_are_not_refused() {
    const HEAD: &str = "deny contains {\"reason\": \"x-late\"} if ";
    for rule in [
        // A name of one scope is another in the next.
        "q if {\n\tcount({g.id | some g in input.partner.grants}) > 1\n\tevery g in [{\"zone\": 1}] { g.zone == 1 }\n}",
        "f(partner) if partner.zone == 1\n\nq if {\n\tpartner := input.partner\n\tpartner.state == \"active\"\n\tf({\"zone\": 1})\n}",
        // What is always there.
        "limit := 3 * 2",
        "q if {\n\tlimit := 3 * 2\n\tnot input.time.hour == limit\n}",
        "q if {\n\tallowed := {\"a\"} | {\"b\"}\n\tnot input.request.method in allowed\n}",
        "ids contains id if some id in input.partner.networks\n\nq if {\n\tall := ids | {\"x\"}\n\tnot \"y\" in all\n}",
        "q if {\n\tsome i, _ in input.partner.grants\n\tj := i + 1\n\tnot j == 3\n}",
        "f(x) if {\n\ty := x\n\tnot y == 3\n}",
        "q if {\n\ttier := object.get(input.partner.labels, \"tier\", \"none\")\n\tnot tier in {\"gold\"}\n}",
    ] {
        fine(rule);
    }
    for condition in
        ["input.partner.grants[0].conditions.headers.Foo == 1", "input.request.headers[lower(\"X-A\")][0] == \"a\""]
    {
        fine(&format!("{HEAD}{condition}"));
    }
}

#[test]
fn what_no_parser_should_be_given_is_refused_first() {
    let deep = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    for (rule, said) in [
        ("# a\0b\nthis is not rego", "own.rego:5:4: holds a NUL"),
        (&*format!("q if {} == 1", deep(30)), "own.rego:5:18: brackets lie too deep"),
        ("import input.partnr as p\n\nq if p.state == \"a\"", "there is no fact `input.partnr`"),
        ("default all := [[x | some x in [1]]]\n\nall := [] if input.time.hour > 3", "a comprehension as a default"),
        ("q if input[\"par\\ntner\"].state == 1", "`input.par\\ntner`"),
    ] {
        let found = lint(rule);
        assert!(found.contains(said), "{rule}: {found}");
    }
    fine(&format!("q if {} == \"[[[[[[[[[[[[[[[[[[[[[[[[[[[[\" # {{{{{{{{{{{{{{{{{{{{{{{{", deep(8)));
    assert!(refused(&shipped(&[("custom/own.rego", "\u{feff}package a\n")])).contains("byte order mark"));
}

/// On the stack that a reload has, the parser alone would end the process.
#[test]
fn terms_as_long_as_a_file_end_no_process() {
    let terms = vec!["1"; 20_000].join(" +\n\t");
    let found = lint(&format!("q if {{\n\t{terms} == 1\n}}"));
    assert!(!found.is_empty());
    // Linear in the number of names: each is asked for by the next.
    let names: String = (1..2_000).map(|n| format!("\tx{n} := x{}\n", n - 1)).collect();
    let found = lint(&format!("q if {{\n\tx0 := input.partner.id\n{names}\tnot x1999 == 1\n}}"));
    assert!(found.contains("`x0` may be undefined"), "{}", &found[..300]);
}

/// A replay asks the candidate about denials that policy gave, and about no others.
#[test]
fn what_the_library_says_is_known_to_be_said_by_policy() {
    // The floor sees to these before policy is asked.
    let floor = [
        "credential-expired",
        "credential-not-active",
        "credential-not-yet-valid",
        "engagement-ended",
        "engagement-not-started",
        "partner-not-active",
        "api-key-expired",
        "token-expired",
    ];
    let mut count = 0;
    for (path, text) in &shipped(&[]).files {
        for name in text.lines().filter_map(|line| line.strip_prefix("denials contains \"")?.split('"').next()) {
            let reason = Reason::parse(name).unwrap_or_else(|| panic!("{path}: {name}"));
            assert!(reason.is_of_policy() != floor.contains(&name), "{path}: {name}");
            count += 1;
        }
    }
    assert!(count > 12, "only {count}");
}
