//! OPA's own engine as the third voice: it decides as the two engines of the gateway do, runs the same tests, and takes the
//! schemas of the contract.
//!
//! `scripts/test` gets it; without it these tests fail, or are left out where `PARTNERGATE_TEST_SKIP=1` permits that.

use super::library::{EXAMPLES, with_examples};
use super::oracle::{Case, PATIENT, case, runner};
use super::*;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The folder of the engine. `None` only where it may be missing.
fn unpacked() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = target.join("test-tools/opa");
    if folder.join("opa_bindings/libopabridge.so").exists() {
        return Some(folder);
    }
    if std::env::var("PARTNERGATE_TEST_SKIP").is_ok_and(|v| v == "1") {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: no OPA engine");
        return None;
    }
    panic!("no OPA engine: scripts/test gets it; PARTNERGATE_TEST_SKIP=1 leaves out what needs it");
}

/// Policy files as OPA takes them.
struct Modules {
    files: BTreeMap<String, String>,
    data: Json,
}

impl Modules {
    fn of(source: &PolicySource) -> Self {
        let rego = source.files.iter().filter(|(path, _)| path.ends_with(".rego")).cloned();
        let data = read_data(source, &mut Problems::new());
        Modules { files: rego.collect(), data: serde_json::from_str(&data.to_json_str().unwrap()).unwrap() }
    }

    fn one(text: &str) -> Self {
        Modules { files: [("p.rego".to_owned(), text.to_owned())].into(), data: json!({}) }
    }

    /// What `x` of the query is for each input; or why OPA refuses the modules.
    fn ask(&self, query: &str, inputs: &[Json]) -> Option<Result<Vec<Vec<Json>>, String>> {
        let asked = json!({"modules": self.files, "data": self.data, "query": query, "inputs": inputs});
        let mut stdin = tempfile::tempfile().unwrap();
        stdin.write_all(asked.to_string().as_bytes()).unwrap();
        stdin.rewind().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/opa.py");
        let mut python = Command::new("python3");
        let python = python.arg(script).arg(unpacked()?).stdin(stdin).stderr(Stdio::inherit());
        let out = python.output().unwrap();
        let mut said: Json = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
        Some(match said.get("refused") {
            Some(why) => Err(why.as_str().unwrap().to_owned()),
            None => Ok(serde_json::from_value(said["found"].take()).unwrap()),
        })
    }
}

/// Whether each document fits a schema, by OPA's validator.
pub(crate) fn fit(schema: &Json, documents: &[Json]) -> Option<Vec<bool>> {
    let text = "package s\n\nfits := ok if [ok, _] := json.match_schema(json.marshal(input.document), input.schema)\n";
    let inputs: Vec<Json> = documents.iter().map(|document| json!({"schema": schema, "document": document})).collect();
    let found = Modules::one(text).ask("x := data.s.fits", &inputs)?.unwrap_or_else(|e| panic!("{e}"));
    let fits = found.into_iter().map(|found| match found.as_slice() {
        [Json::Bool(fits)] => *fits,
        other => panic!("the schema is none: {other:?}"),
    });
    Some(fits.collect())
}

/// A case of the oracle, with what the examples look at beside it.
fn situation() -> impl Strategy<Value = Json> {
    const TAGS: [&str; 6] = [
        "payments",
        "experimental",
        "read-only",
        "tenant-scoped",
        "psd2-payment-initiation",
        "psd2-account-information",
    ];
    let own = (
        select(vec!["production", "staging", "elsewhere"]),
        proptest::option::weighted(0.9, subsequence(&TAGS[..], 0..=3)),
        proptest::option::of(select(vec!["t1", "t2", ""])),
        (proptest::option::of(select(vec!["yes", "no"])), proptest::option::of(select(vec!["t1", "t2 t3", ""]))),
        (
            proptest::option::of(select(vec!["PSP_PI PSP_AI", "PSP_AI", ""])),
            proptest::option::of(select(vec!["PSDDE-1", "PSDDE-2", ""])),
            select(vec![
                "CN=a,organizationIdentifier=PSDDE-1,C=DE",
                "organizationIdentifier=PSDDE-2",
                "CN=a\\,organizationIdentifier=PSDDE-1",
                "CN=a",
            ]),
        ),
        any::<bool>(),
    );
    (case(), own).prop_map(|(case, (environment, tags, tenant, (certified, tenants), (roles, id, subject), days))| {
        let mut input = Case::json(&case);
        input["environment"] = json!(environment);
        let mut put = |place: &[&str], value: Option<Json>| {
            let Some(value) = value else { return };
            place.iter().fold(&mut input, |at, key| &mut at[*key]).clone_from(&value);
        };
        put(&["partner", "labels"], Some(json!({})));
        put(&["partner", "labels", "certified"], certified.map(Json::from));
        put(&["partner", "labels", "tenants"], tenants.map(Json::from));
        put(&["credential", "labels"], Some(json!({})));
        put(&["credential", "labels", "psd2_roles"], roles.map(Json::from));
        put(&["credential", "labels", "psd2_id"], id.map(Json::from));
        put(&["credential", "subject"], Some(json!(subject)));
        put(&["request", "params"], Some(json!({})));
        put(&["request", "params", "tenant"], tenant.map(Json::from));
        put(&["request", "tags"], tags.map(|tags| json!(tags)));
        if days {
            in_days(&mut input);
        }
        input
    })
}

/// Instants of the oracle as days in which a freeze of the example begins: on the minute, at the fourth.
fn in_days(input: &mut Json) {
    const DAY: i64 = 86_400_000_000_000;
    let base = "2026-12-14T17:00:00Z".parse::<jiff::Timestamp>().unwrap().as_nanosecond();
    let base = i64::try_from(base).unwrap();
    match input {
        Json::Array(items) => items.iter_mut().for_each(in_days),
        Json::Object(keys) => {
            for (key, value) in keys {
                match value.as_i64() {
                    Some(n) if key.ends_with("_ns") => *value = json!(base + n * DAY),
                    _ => in_days(value),
                }
            }
        }
        _ => {}
    }
}

/// Always the same inputs.
fn generated(count: u32) -> Vec<Json> {
    let inputs = std::cell::RefCell::new(Vec::new());
    let kept = runner(count).run(&situation(), |input| {
        inputs.borrow_mut().push(input);
        Ok(())
    });
    kept.unwrap_or_else(|e| panic!("{e}"));
    inputs.into_inner()
}

/// Library and examples, alone and together.
fn sources() -> impl Iterator<Item = (String, PolicySource)> {
    let alone = EXAMPLES.iter().map(|name| ((*name).to_owned(), with_examples(&[name])));
    [("the library".to_owned(), shipped(&[]))]
        .into_iter()
        .chain(alone)
        .chain([("all examples".to_owned(), with_examples(EXAMPLES))])
}

#[test]
fn opa_decides_as_both_engines_do() {
    let inputs = generated(400);
    let (mut seen, mut decisions) = (BTreeMap::<String, usize>::new(), Vec::new());
    for (name, source) in sources() {
        let Some(found) = Modules::of(&source).ask("x := data.partnergate.decision", &inputs) else { return };
        let found = found.unwrap_or_else(|e| panic!("{name}: {e}"));
        for kind in [EngineKind::Rvm, EngineKind::Interpreter] {
            let policy = Policy::compile(&source, kind, PATIENT).unwrap_or_else(|p| panic!("{p}"));
            for (input, said) in inputs.iter().zip(&found) {
                let [decision] = said.as_slice() else { panic!("{name}: OPA says {said:?} of {input}") };
                let theirs = policy.read(&Value::from(decision.clone()));
                let ours = policy.evaluate(Value::from(input.clone()));
                assert_eq!(ours, theirs, "{name}, {kind:?}: OPA says {decision} of {input}");
            }
        }
        decisions.extend(found.into_iter().flatten());
    }
    for decision in &decisions {
        let reasons = decision["reasons"].as_array().unwrap();
        let outcomes = reasons.iter().map(|reason| reason.as_str().unwrap().to_owned());
        outcomes.chain((decision["allow"] == true).then(|| "allowed".to_owned())).for_each(|outcome| {
            *seen.entry(outcome).or_default() += 1;
        });
    }
    // Each rule of the examples has been heard, and so has an allow.
    let policy = compile(&with_examples(EXAMPLES)).unwrap();
    for outcome in policy.custom_reasons().map(|(name, _)| &**name).chain(["allowed"]) {
        assert!(seen.get(outcome).is_some_and(|n| *n >= 15), "{outcome}: {seen:?}");
    }
    let fits = fit(&decision_schema(), &decisions).unwrap();
    for (decision, fits) in decisions.iter().zip(fits) {
        assert!(fits, "not of the schema: {decision}");
    }
}

#[test]
fn opa_passes_the_tests_of_library_and_examples() {
    for (source, folder, least) in [(shipped(&[]), "partnergate/", 150), (with_examples(EXAMPLES), "custom/", 60)] {
        let mut modules = Modules::of(&source);
        let mut tests = Vec::new();
        for (_, text) in
            modules.files.iter().filter(|(path, _)| path.starts_with(folder) && path.ends_with("_test.rego"))
        {
            let package = text.lines().find_map(|line| line.strip_prefix("package ")).unwrap();
            let words = text.lines().filter_map(|line| line.split_whitespace().next());
            tests.extend(words.filter(|word| word.starts_with("test_")).map(|test| format!("data.{package}.{test}")));
        }
        assert!(tests.len() > least, "only {} tests", tests.len());
        // They are compiled once, and each is asked for by itself.
        let asked = tests.iter().map(|test| format!("one := v if {{\n\tinput.test == \"{test}\"\n\tv := {test}\n}}\n"));
        modules.files.insert("asked.rego".into(), format!("package asked\n\n{}", asked.collect::<String>()));
        let inputs: Vec<Json> = tests.iter().map(|test| json!({"test": test})).collect();
        let Some(found) = modules.ask("x := data.asked.one", &inputs) else { return };
        for (test, found) in tests.iter().zip(found.unwrap_or_else(|e| panic!("{e}"))) {
            // As this engine is built, an error of a builtin is an error and not undefined.
            let error = found.first().and_then(|found| found["error"].as_str()).unwrap_or_default();
            let strict = test.ends_with(".test_times_that_cannot_be_read") && error.contains("time.parse_rfc3339_ns");
            assert!(found == [json!(true)] || strict, "{test}: {found:?}");
        }
    }
}

/// What `opa check --schema` does: the schema stands in an annotation, and the checker is on where any rule asks for its own.
#[test]
fn opa_type_checks_policies_by_the_input_schema() {
    let annotated = format!(
        "# METADATA\n# scope: subpackages\n# schemas:\n#   - input: {}\npackage partnergate\n\nannotations := rego.metadata.chain()\n",
        input_schema()
    );
    let checked = |source: &PolicySource| {
        let mut modules = Modules::of(source);
        modules.files.insert("schema.rego".into(), annotated.clone());
        modules.ask("x := data.partnergate.decision", &[json!({})])
    };
    for (name, source) in sources() {
        let Some(found) = checked(&source) else { return };
        assert_eq!(found.err(), None, "{name}");
    }
    let own = |condition: &str| {
        let text = format!(
            "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {{\"reason\": \"x-late\"}} if {condition}\n"
        );
        checked(&shipped(&[("custom/own.rego", &text), ("reasons.yaml", "reasons: {x-late: too late}")])).unwrap()
    };
    for condition in [
        "input.partner.labels.tier == \"gold\"",
        "input.request.headers[\"x-tenant\"][0] == input.request.params.tenant",
        "input.request.query.page[_] == \"2\"",
        "input.partner.grants[_].conditions.limit > 3",
        "input.time.local.weekday == \"sunday\"",
        "input.credential.san.uri[0] == input.tls.sni",
    ] {
        assert_eq!(own(condition).err(), None, "{condition}");
    }
    for (condition, said) in [
        ("input.partnr.id == \"a\"", "undefined ref: input.partnr.id"),
        ("input.partner.stat == \"a\"", "undefined ref: input.partner.stat"),
        ("{\n\tsome g in input.partner.grants\n\tg.star == 1\n}", "undefined ref"),
        ("input.request.method.name == \"a\"", "undefined ref: input.request.method.name"),
        ("input.time.hour == \"12\"", "match error"),
        ("input.token.scpe == 1", "undefined ref: input.token.scpe"),
    ] {
        let refused = own(condition).err().unwrap_or_else(|| panic!("{condition} was accepted"));
        assert!(refused.contains(said), "{condition}: {refused}");
    }
}

/// The schema and the gateway's reading of a decision are of one opinion.
#[test]
fn a_decision_that_fits_the_schema_is_read_and_no_other_is_believed() {
    let source = shipped(&[("reasons.yaml", "reasons: {x-late: too late}")]);
    let policy = compile(&source).unwrap();
    let decisions = [
        (json!({"allow": true, "grant": "g"}), true),
        (json!({"allow": true, "grant": "g", "reasons": []}), true),
        (json!({"allow": false, "reasons": ["grant-expired", "x-late"]}), true),
        (json!({"allow": false}), true),
        (json!({"allow": true}), false),
        (json!({"allow": true, "grant": 7}), false),
        (json!({"allow": true, "grant": "g", "reasons": ["grant-expired"]}), false),
        (json!({"allow": true, "grant": "g", "reasons": "grant-expired"}), false),
        (json!({"allow": "true", "grant": "g"}), false),
        (json!({"allow": 1, "grant": "g"}), false),
        (json!({"grant": "g"}), false),
        (json!({"allow": false, "reasons": ["made-up"]}), false),
        (json!({"allow": false, "reasons": [7]}), false),
        (json!(true), false),
        (json!(null), false),
    ];
    let wrong = |verdict: &Verdict| match verdict {
        Verdict::Allow { .. } => false,
        Verdict::Deny { reasons, .. } => {
            let wrong = [Reason::PolicyError, Reason::GrantNotValid, Reason::PolicyReasonUndeclared];
            reasons.iter().any(|reason| wrong.contains(reason))
        }
    };
    for (decision, right) in &decisions {
        assert_eq!(!wrong(&policy.read(&Value::from(decision.clone()))), *right, "{decision}");
    }
    let (documents, expected): (Vec<Json>, Vec<bool>) = decisions.into_iter().unzip();
    let Some(fits) = fit(&decision_schema(), &documents) else { return };
    for (document, (fits, expected)) in documents.iter().zip(fits.into_iter().zip(expected)) {
        assert_eq!(fits, expected, "{document}");
    }
}
