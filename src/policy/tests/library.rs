//! The shipped rules and examples: their own tests, what they declare, and that they compile as they are copied.

use super::*;
use std::path::{Path, PathBuf};

pub(super) const EXAMPLES: &[&str] =
    &["maintenance_freeze", "per_environment", "psd2_roles", "read_only_first_week", "tenant_paths"];

fn policies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("policies")
}

/// What is read of a folder, by path below it.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".md") {
            files.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    files
}

/// The shipped policy with examples copied into `custom/`.
pub(super) fn with_examples(names: &[&str]) -> PolicySource {
    let mut source = shipped(&[]);
    for name in names {
        let copied = files(&policies().join("examples").join(name)).into_iter();
        source.files.extend(copied.map(|(path, text)| (format!("custom/{name}/{path}"), text)));
    }
    source.files.sort();
    source
}

/// Runs the tests of files at which `wanted` holds, each on the interpreter, and returns how many there were.
fn run_tests(source: &PolicySource, wanted: impl Fn(&str) -> bool) -> usize {
    let mut engine = Engine::new();
    engine.set_strict_builtin_errors(false);
    let (mut tests, mut data, mut problems) = (Vec::new(), serde_json::Map::new(), Problems::new());
    for (path, text) in &source.files {
        match file_kind(path) {
            FileKind::Rego | FileKind::Test => {
                let package = engine.add_policy(path.clone(), text.clone()).unwrap_or_else(|e| panic!("{path}: {e}"));
                if wanted(path) {
                    let words = text.lines().filter_map(|line| line.split_whitespace().next());
                    tests.extend(words.filter(|w| w.starts_with("test_")).map(|test| format!("{package}.{test}")));
                }
            }
            FileKind::Data => {
                merge_data(&mut data, path, &document::parse(path, text).unwrap(), &mut problems);
            }
            FileKind::Reasons | FileKind::Conditions | FileKind::Other => {}
        }
    }
    assert!(problems.is_empty(), "{problems}");
    engine.add_data(serde_json::Value::Object(data).into()).unwrap();
    let mut names = tests.clone();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), tests.len(), "a name is used twice");
    for test in &tests {
        let value = engine.eval_rule(test.clone()).unwrap_or_else(|e| panic!("{test}: {e}"));
        assert_eq!(value, Value::Bool(true), "{test}");
    }
    tests.len()
}

#[test]
fn every_rego_test_of_the_library_passes() {
    let count = run_tests(&shipped(&[]), |_| true);
    assert!(count > 150, "only {count} tests found");
}

#[test]
fn every_rego_test_of_an_example_passes_alone_and_among_the_others() {
    for name in EXAMPLES {
        let own = |path: &str| path.starts_with(&format!("custom/{name}/"));
        let alone = run_tests(&with_examples(&[name]), own);
        assert!(alone > 10, "{name} has only {alone} tests");
        assert_eq!(run_tests(&with_examples(EXAMPLES), own), alone, "{name}");
    }
}

#[test]
fn every_example_compiles_as_it_is_copied_alone_and_with_the_others() {
    let mut present: Vec<String> = std::fs::read_dir(policies().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    present.sort();
    assert_eq!(present, EXAMPLES);
    let alone = EXAMPLES.iter().map(std::slice::from_ref);
    for kind in [EngineKind::Rvm, EngineKind::Interpreter] {
        for names in alone.clone().chain([EXAMPLES]) {
            let policy = Policy::compile(&with_examples(names), kind, LIMITS).unwrap_or_else(|p| panic!("{p}"));
            // It says something, with reasons that it has declared itself.
            assert!(policy.custom_reasons().count() >= names.len());
            let found = reasons(policy.evaluate(input("{}")));
            assert!(!found.iter().any(|reason| reason == "policy-reason-undeclared"), "{names:?}: {found:?}");
        }
    }
}

#[test]
fn every_example_says_when_to_use_it_and_what_it_denies() {
    let overview = std::fs::read_to_string(policies().join("examples/README.md")).unwrap();
    for name in EXAMPLES {
        let folder = policies().join("examples").join(name);
        let said = std::fs::read_to_string(folder.join("README.md")).unwrap();
        for part in ["**When.**", "**Parameters.**", "**What it denies**"] {
            assert!(said.contains(part), "{name}: {part}");
        }
        assert!(overview.contains(&format!("({name}/README.md)")), "{name} is not in the overview");
        let mut reasons = Declarations::default();
        read_reasons(
            &mut reasons,
            "reasons.yaml",
            &std::fs::read_to_string(folder.join("reasons.yaml")).unwrap(),
            &mut Problems::new(),
        );
        for reason in reasons.names() {
            assert!(said.contains(&format!("| `{reason}` |")), "{name}: {reason} is not explained");
        }
    }
}

/// Items that a rule may say it helps to fulfil.
const ITEMS: &[&str] = &[
    "NHI1:2025",
    "NHI2:2025",
    "NHI3:2025",
    "NHI4:2025",
    "NHI5:2025",
    "NHI6:2025",
    "NHI7:2025",
    "NHI8:2025",
    "NHI9:2025",
    "NHI10:2025",
    "PR.AA-01",
    "PR.AA-02",
    "PR.AA-03",
    "PR.AA-04",
    "PR.AA-05",
];

#[test]
fn every_rule_says_what_it_is_and_every_denial_what_it_helps_to_fulfil() {
    let source = with_examples(EXAMPLES);
    let served = source.files.iter().filter(|(path, _)| matches!(file_kind(path), FileKind::Rego));
    for (path, text) in served {
        let tests = path.replace(".rego", "_test.rego");
        let tested = source.files.iter().any(|(other, _)| *other == tests);
        assert!(tested || path == "partnergate/custom_default.rego", "{path} has no tests of its own");
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let begins = line.starts_with(|c: char| c.is_ascii_lowercase());
            if !begins || ["package ", "import "].iter().any(|word| line.starts_with(word)) {
                continue;
            }
            let place = format!("{path}:{}: {line}", n + 1);
            let comment = lines[..n].iter().rev().take_while(|line| line.starts_with('#')).count();
            let block: Vec<&str> = lines[n - comment..n].to_vec();
            assert_eq!(block.first(), Some(&"# METADATA"), "{place}");
            let yaml: String =
                block[1..].iter().map(|l| l.strip_prefix("# ").unwrap_or("").to_owned() + "\n").collect();
            let metadata = document::parse(path, &yaml).unwrap_or_else(|p| panic!("{place}: {p}"));
            for key in ["title", "description"] {
                assert!(metadata.get(key).and_then(Node::text).is_some_and(|t| !t.is_empty()), "{place}: {key}");
            }
            let related = metadata.get("custom").and_then(|custom| custom.get("related")).map(Node::items);
            let judges = ["deny ", "denials ", "decision ", "usable_grants ", "default decision", "fulfilled"];
            if judges.iter().any(|rule| line.starts_with(rule)) {
                assert!(related.is_some_and(|items| !items.is_empty()), "{place}: related");
            }
            for item in related.unwrap_or_default() {
                assert!(item.text().is_some_and(|item| ITEMS.contains(&item)), "{place}: {item:?}");
            }
        }
    }
}

#[test]
fn every_denial_of_the_library_has_a_reason_that_operators_can_look_up() {
    for (path, text) in shipped(&[]).files.iter().filter(|(path, _)| matches!(file_kind(path), FileKind::Rego)) {
        for line in text.lines().filter_map(|line| line.strip_prefix("denials contains \"")) {
            let reason = line.split('"').next().unwrap();
            assert!(Reason::parse(reason).is_some(), "{path}: {reason}");
        }
    }
}

#[test]
fn conditions_of_the_library_need_no_declaration_and_clash_with_none() {
    let check = |policy: &Policy, json: serde_json::Value| -> Vec<String> {
        let wrong = policy.check_conditions(&serde_json::from_value(json).unwrap());
        wrong.into_iter().map(|wrong| wrong.reason).collect()
    };
    let all = serde_json::json!({
        "schedule": ["mon-fri 08:00-18:00", "sat 22:00-02:00"],
        "tls_min": "1.3",
        "tls_ciphers": ["TLS_AES_256_GCM_SHA384"],
        "methods": ["GET", "HEAD"],
        "max_content_length": 1_048_576,
    });
    let policy = compile(&shipped(&[])).unwrap();
    assert_eq!(check(&policy, all.clone()), [""; 0]);
    assert!(check(&policy, serde_json::json!({"schedule": ["mon-fri 8-18"]}))[0].contains("cannot be read"));

    // One's own stand beside them, at the top and beside the rules that look at them.
    let own = shipped(&[
        ("conditions.yaml", "conditions: {max_amount: integer}\n"),
        ("custom/tenants/conditions.yaml", "conditions: {tenants: text-list, night: schedule}\n"),
    ]);
    let policy = compile(&own).unwrap();
    assert_eq!(check(&policy, all), [""; 0]);
    assert_eq!(
        check(&policy, serde_json::json!({"max_amount": 5, "tenants": [], "night": ["mon 20:00-06:00"]})),
        [""; 0]
    );
    assert!(check(&policy, serde_json::json!({"night": ["by night"]}))[0].contains("cannot be read"));

    // A clash is found in the file that can be changed.
    for (file, text, place) in [
        ("conditions.yaml", "conditions:\n  max_amount: integer\n  methods: text-list\n", "conditions.yaml:3:3: "),
        ("custom/a/conditions.yaml", "conditions: {methods: methods}\n", "custom/a/conditions.yaml:1:14: "),
    ] {
        let said = refused(&shipped(&[(file, text)]));
        let declared = "`conditions.methods`: is declared in `partnergate/conditions.yaml`, line ";
        assert!(said.contains(&format!("error: {place}{declared}")), "{said}");
    }
    let twice = shipped(&[
        ("conditions.yaml", "conditions: {max_amount: integer}\n"),
        ("custom/a/conditions.yaml", "conditions: {max_amount: integer}\n"),
    ]);
    assert!(
        refused(&twice).contains(
            "custom/a/conditions.yaml:1:14: `conditions.max_amount`: is declared in `conditions.yaml`, line 1"
        )
    );
}

#[test]
fn reasons_are_declared_at_the_top_and_beside_the_rules_that_give_them() {
    let rule =
        "package partnergate.custom\nimport rego.v1\ndeny contains {\"reason\": \"x-night\"} if input.time.hour > 20\n";
    let source =
        shipped(&[("custom/night/night.rego", rule), ("custom/night/reasons.yaml", "reasons: {x-night: n}\n")]);
    let policy = compile(&source).unwrap();
    assert_eq!(policy.custom_reasons().map(|(name, _)| &**name).collect::<Vec<_>>(), ["x-night"]);
    let twice = shipped(&[
        ("custom/night/night.rego", rule),
        ("custom/night/reasons.yaml", "reasons: {x-night: n}\n"),
        ("reasons.yaml", "reasons: {x-night: m}\n"),
    ]);
    assert!(refused(&twice).contains("is declared in `custom/night/reasons.yaml`, line 1, already"));
    // Elsewhere such a file is data.
    let data = shipped(&[("own/reasons.yaml", "x: 1\n")]);
    assert_eq!(compile(&data).err(), None);
}

/// On the interpreter as well, which takes such denials for an error.
#[test]
fn library_that_is_only_half_there_is_refused() {
    let whole = shipped(&[]);
    let own = |path: &str| path.starts_with("partnergate/") && !matches!(file_kind(path), FileKind::Test);
    for missing in whole.files.iter().map(|(path, _)| path).filter(|path| own(path)) {
        let mut source = whole.clone();
        source.files.retain(|(path, _)| path != missing);
        let refused = Policy::compile(&source, EngineKind::Rvm, LIMITS).err().unwrap_or_default().to_string();
        let name = missing.trim_start_matches("partnergate/");
        assert!(refused.contains(&format!("`{name}` is missing")) || name == "decision.rego", "{missing}: {refused}");
        assert!(!refused.is_empty(), "{missing}");
    }
}

#[test]
fn denial_without_a_reason_is_enforced_beside_one_that_is_only_observed() {
    let rules = "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {\"reason\": \"x-a\"} if input.version == 1\n\n\
                 deny contains malformed if malformed := input.custom_denial\n";
    let mut source = shipped(&[]);
    source.files.retain(|(path, _)| path != "reasons.yaml");
    source.files.push(("reasons.yaml".into(), "reasons: {x-a: a}\n".into()));
    source.files.push(("custom/rule.rego".into(), rules.replace("input.custom_denial", "input.partner.labels")));
    source.files.sort();
    for kind in [EngineKind::Rvm, EngineKind::Interpreter] {
        let policy = Policy::compile(&source, kind, LIMITS).unwrap_or_else(|p| panic!("{p}"));
        let mut input = serde_json::json!({
            "version": 1,
            "partner": {
                "id": "acme", "state": "active", "engagement": {}, "networks": ["any"],
                "grants": [{"id": "g", "operations": ["o"], "conditions": {}}],
                "observe": [{"reason": "x-a", "until_ns": 9}],
            },
            "credential": {"id": "c", "state": "active", "not_before_ns": 1, "not_after_ns": 9},
            "source": {"networks": ["any"]},
            "request": {"operation": "o"},
            "time": {"now_ns": 5},
        });
        let verdict = policy.evaluate(input.clone().into());
        assert!(matches!(&verdict, Verdict::Allow { observed, .. } if observed.len() == 1), "{kind:?}: {verdict:?}");
        input["partner"]["labels"] = serde_json::json!({"code": "x-a"});
        let verdict = policy.evaluate(input.into());
        assert!(matches!(verdict, Verdict::Deny { .. }), "{kind:?}: {verdict:?}");
    }
}
