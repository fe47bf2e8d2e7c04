//! Rego as OPA defines it: its conformance cases on both engines of the gateway, as they serve.
//!
//! In: `../shared/data/opa-conformance.json`, the cases of OPA's own suite; without it the test is left out, visibly. Out: what
//! `docs/rego-conformance.md` says: what passes, what is refused, and every case on which the engines differ. The test fails when a case
//! comes to something else than is written there. `PARTNERGATE_TEST_WRITE=1` writes it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends there")]
#![allow(clippy::print_stderr, reason = "what is left out is said")]

use partnergate::policy::{EngineKind, Policy, PolicyLimits, PolicySource};
use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::RegoVM;
use regorus::{Engine, Value};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

/// The cases go as deep as theirs do.
const STACK: usize = 256 << 20;

/// What an engine makes of a case.
#[derive(Clone, Debug, PartialEq)]
enum Made {
    /// What the case asks for.
    Right,
    /// It asks for an error, and there is no value either: as the gateway serves, an error in a body is a body that does not hold.
    NoError,
    /// Another value.
    Wrong(Value),
    /// An error, where there should be a value; or no way to ask.
    Error(String),
    /// The engine does not take the policy, and says so before it serves.
    Refused(String),
}

struct Asked {
    engine: Engine,
    input: Value,
    data: Value,
}

fn value(json: &Json) -> Value {
    Value::from_json_str(&json.to_string()).unwrap()
}

/// An engine with a case's modules, data and input, and what `more` is.
fn asked(case: &Json, more: Option<&str>) -> Result<Asked, String> {
    let mut engine = Engine::new();
    engine.set_strict_builtin_errors(false);
    engine.set_gather_prints(true);
    let data = if case["data"].is_object() { value(&case["data"]) } else { Value::new_object() };
    engine.add_data(data.clone()).map_err(|e| e.to_string())?;
    let mut input = case.get("input").map_or(Value::Undefined, value);
    if let Some(term) = case["input_term"].as_str() {
        let found = engine.eval_query(term.into(), false).map_err(|e| e.to_string())?;
        let last = found.result.last().and_then(|result| result.expressions.last());
        input = last.map_or(Value::Undefined, |expression| expression.value.clone());
    }
    engine.set_input(input.clone());
    for (n, module) in case["modules"].as_array().into_iter().flatten().enumerate() {
        engine.add_policy(format!("m{n}.rego"), module.as_str().unwrap().into()).map_err(|e| e.to_string())?;
    }
    if let Some(more) = more {
        engine.add_policy("asked.rego".into(), more.into()).map_err(|e| e.to_string())?;
    }
    Ok(Asked { engine, input, data })
}

/// The rule or document that a case asks for, and the name that it is bound to.
fn wanted(case: &Json) -> Option<(&str, &str)> {
    let (path, name) = case["query"].as_str()?.split_once(" = ")?;
    (path.starts_with("data") && name.chars().all(char::is_alphanumeric)).then_some((path, name))
}

fn judged(case: &Json, made: Result<Value, String>) -> Made {
    let sort = case["sort_bindings"] == Json::Bool(true);
    let asks_for_error = case.get("want_error").is_some() || case.get("want_error_code").is_some();
    let want = case["want_result"].is_array().then(|| sorted(value(&case["want_result"]), sort));
    match made {
        Ok(found) if want.as_ref() == Some(&sorted(found.clone(), sort)) => Made::Right,
        Ok(found) if want.is_none() && found == Value::new_array() => {
            if asks_for_error {
                Made::NoError
            } else {
                Made::Right
            }
        }
        Ok(found) => Made::Wrong(found),
        Err(_) if asks_for_error => Made::Right,
        Err(e) => Made::Error(e),
    }
}

/// Bindings whose arrays are in one order, where the case says that theirs does not count.
fn sorted(mut bindings: Value, sort: bool) -> Value {
    if !sort {
        return bindings;
    }
    for binding in bindings.as_array_mut().into_iter().flat_map(|list| list.iter_mut()) {
        for (_, value) in binding.as_object_mut().into_iter().flat_map(|object| object.iter_mut()) {
            if let Ok(list) = value.as_array_mut() {
                list.sort();
            }
        }
    }
    bindings
}

fn interpreted(case: &Json) -> Made {
    let mut asked = match asked(case, None) {
        Ok(asked) => asked,
        Err(e) => return refused_or_right(case, e),
    };
    let query = case["query"].as_str().unwrap();
    let found = asked.engine.eval_query(query.into(), false).map_err(|e| e.to_string()).and_then(|results| {
        let mut all = Vec::new();
        for result in results.result {
            let bound = result.bindings.as_object().is_ok_and(|object| !object.is_empty());
            let last = result.expressions.last().map_or(Value::Undefined, |expression| expression.value.clone());
            all.push(if bound { result.bindings } else { last });
        }
        // Sets become lists, as in the cases.
        Value::from_json_str(&Value::from(all).to_string()).map_err(|e| e.to_string())
    });
    judged(case, found)
}

fn refused_or_right(case: &Json, e: String) -> Made {
    let asks_for_error = case.get("want_error").is_some() || case.get("want_error_code").is_some();
    if asks_for_error { Made::Right } else { Made::Refused(e) }
}

fn served(case: &Json) -> Made {
    let Some((path, name)) = wanted(case) else { return Made::Refused("the query is no path of a rule".into()) };
    let asked = asked(case, Some(&format!("package pgq\nr := {path}")));
    let compiled = asked.and_then(|mut asked| {
        let compiled = asked.engine.compile_with_entrypoint(&"data.pgq.r".into()).map_err(|e| e.to_string())?;
        let program = Compiler::compile_from_policy(&compiled, &["data.pgq.r"]).map_err(|e| e.error.to_string())?;
        Ok((asked, program))
    });
    let (asked, program) = match compiled {
        Ok(compiled) => compiled,
        Err(e) => return refused_or_right(case, e),
    };
    let mut vm = RegoVM::new();
    vm.load_program(program);
    vm.set_max_instructions(2_000_000);
    if let Err(e) = vm.set_data(asked.data) {
        return refused_or_right(case, e.to_string());
    }
    vm.set_input(asked.input);
    let found = vm.execute_entry_point_by_name("data.pgq.r").map_err(|e| e.to_string()).and_then(|found| {
        if found == Value::Undefined {
            return Ok(Value::new_array());
        }
        let found = Value::from_json_str(&found.to_string()).map_err(|e| e.to_string())?;
        let mut binding = Value::new_object();
        binding.as_object_mut().map_err(|e| e.to_string())?.insert(Value::from(name), found);
        Ok(Value::from(vec![binding]))
    });
    judged(case, found)
}

/// Why `policy check` refuses the modules of a case, leaving aside that they look at facts which the gateway does not have.
fn refusal(case: &Json) -> Option<String> {
    let path = wanted(case).map_or("data.nothing", |(path, _)| path);
    let mut files = vec![(
        "partnergate/decision.rego".to_owned(),
        format!(
            "package partnergate\n\nimport rego.v1\n\ndefault decision := {{\"allow\": false, \"reasons\": []}}\n\ndecision := {{\"allow\": false, \"reasons\": [\"policy-denied\"]}} if {path}\n"
        ),
    )];
    for (n, module) in case["modules"].as_array().into_iter().flatten().enumerate() {
        // As if every fact were one of those that may be of any form.
        let text = module
            .as_str()
            .unwrap()
            .replace("input.", "input.request.params.")
            .replace("input[", "input.request.params[");
        files.push((format!("partnergate/m{n}.rego"), text));
    }
    let limits = PolicyLimits { time: Duration::from_secs(1), instructions: 1 };
    let problems = Policy::compile(&PolicySource { files }, EngineKind::Rvm, limits).err()?;
    let mut reasons = problems.iter().map(|problem| problem.reason.as_str());
    // Which of its facts and data there are is no question here.
    let of_case =
        ["there is no fact", "there is neither a rule", "there is nothing in", "cannot be compared", "takes a "];
    let reason = reasons.find(|reason| !of_case.iter().any(|said| reason.contains(said)))?;
    Some(reason.to_owned())
}

fn safely(work: impl FnOnce() -> Made) -> Made {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Made::Error("panics".into()))
}

/// How many cases of a folder came to what.
#[derive(Default)]
struct Row {
    cases: usize,
    interpreter: usize,
    served: usize,
    refused: usize,
}

/// A case on which the engines differ.
struct Different {
    note: String,
    why: String,
    refused: Option<String>,
}

fn kind(made: &Made) -> &'static str {
    match made {
        Made::Right => "right",
        Made::NoError => "undefined instead of an error",
        Made::Wrong(_) => "another value",
        Made::Error(_) => "an error",
        Made::Refused(_) => "refused",
    }
}

/// The page, from the cases.
fn page(cases: &[Json]) -> String {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let mut different: Vec<Different> = Vec::new();
    let mut all = Row::default();
    for case in cases {
        let (one, other) = (safely(|| interpreted(case)), safely(|| served(case)));
        let note = case["note"].as_str().unwrap_or_default();
        let folder = note.split('/').next().unwrap_or_default().to_owned();
        let row = rows.entry(folder).or_default();
        for row in [row, &mut all] {
            row.cases += 1;
            row.interpreter += usize::from(one == Made::Right);
            row.served += usize::from(other == Made::Right);
            row.refused += usize::from(matches!(other, Made::Refused(_)));
        }
        // What the serving engine does not take cannot differ from what it serves.
        let same = one == other
            || matches!(other, Made::Refused(_))
            || matches!((&one, &other), (Made::Error(_), Made::Error(_)));
        if !same {
            let why = format!("{} on the interpreter, {} on the machine", kind(&one), kind(&other));
            different.push(Different { note: note.to_owned(), why, refused: refusal(case) });
        }
    }
    let mut out = String::from(HEAD);
    let _ = writeln!(
        out,
        "| folder | cases | interpreter | serving engine | refused by the serving engine |\n| --- | --- | --- | --- | --- |"
    );
    for (folder, row) in &rows {
        let _ = writeln!(out, "| {folder} | {} | {} | {} | {} |", row.cases, row.interpreter, row.served, row.refused);
    }
    let _ = writeln!(
        out,
        "| **all** | **{}** | **{}** | **{}** | **{}** |",
        all.cases, all.interpreter, all.served, all.refused
    );
    let (refused, accepted): (Vec<_>, Vec<_>) = different.iter().partition(|one| one.refused.is_some());
    let _ =
        write!(out, "\n## Where they differ, and `policy check` refuses the policy\n\n{} cases.\n\n", refused.len());
    let _ = writeln!(out, "| case | how | why it is refused |\n| --- | --- | --- |");
    for one in refused {
        let reason = one.refused.as_deref().unwrap_or_default().replace('|', "\\|");
        let _ = writeln!(out, "| {} | {} | {reason} |", one.note.replace('|', "\\|"), one.why);
    }
    let _ = write!(out, "\n## Where they differ, and a policy like it is served\n\n{} cases.\n\n", accepted.len());
    let _ = writeln!(out, "| case | how |\n| --- | --- |");
    for one in accepted {
        let _ = writeln!(out, "| {} | {} |", one.note.replace('|', "\\|"), one.why);
    }
    out
}

const HEAD: &str = "# Rego: what of OPA's conformance suite holds

Made by `tests/rego.rs` from the cases of OPA's own suite (version 1 of the language), on both engines, as they serve: errors of
builtins are undefined. What is refused is refused before anything is served: builtins that the gateway does not have, `with`, keys of
partial objects, and what does not parse. A case that asks for an error is right when there is one, or when the policy is refused.

";

#[test]
fn opa_conformance_cases_come_to_what_is_written_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Ok(text) = std::fs::read_to_string(root.join("../shared/data/opa-conformance.json")) else {
        eprintln!(
            "SKIPPED: opa_conformance_cases_come_to_what_is_written_down: no ../shared/data/opa-conformance.json"
        );
        return;
    };
    let cases: Vec<Json> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 2_000, "only {} cases", cases.len());
    let page = std::thread::Builder::new().stack_size(STACK).spawn(move || page(&cases)).unwrap().join().unwrap();
    let file = root.join("docs/rego-conformance.md");
    if std::env::var_os("PARTNERGATE_TEST_WRITE").is_some() {
        std::fs::write(&file, page).unwrap();
        return;
    }
    let written = std::fs::read_to_string(&file).unwrap();
    for (n, (is, was)) in page.lines().zip(written.lines()).enumerate() {
        assert_eq!(is, was, "docs/rego-conformance.md:{}: a case comes to something else", n + 1);
    }
    assert_eq!(page.lines().count(), written.lines().count(), "docs/rego-conformance.md has another length");
}
