//! `partnergate policy test`: the Rego tests of a policy folder, and what they cover.

use super::super::{Exit, complain, print};
use super::{read, refused, tell};
use crate::policy::PolicySource;
use crate::policy::testing::{self, Coverage, Engines, Options, Outcome, Test, Tested};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use regex::Regex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two looks at the folder.
const WATCH: Duration = Duration::from_millis(300);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder that holds `partnergate/`; that of the config when absent.
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Only tests whose full name, such as `data.partnergate.custom.test_night`, has this regular expression in it.
    #[arg(long, short, value_name = "REGEX")]
    run: Option<Regex>,
    /// Show every test, with what it printed, and why some run on the interpreter only.
    #[arg(long, short)]
    verbose: bool,
    /// Say which lines of the rules no test reaches.
    #[arg(long)]
    coverage: bool,
    /// Count only lines of this file or folder of the policy folder, such as `custom`; may be given more than once; implies
    /// `--coverage`.
    #[arg(long, value_name = "PATH")]
    coverage_of: Vec<String>,
    /// Fail where fewer lines are covered than this; implies `--coverage`.
    #[arg(long, value_name = "PERCENT")]
    threshold: Option<f64>,
    /// Fail where a test cannot be run on the engine that serves.
    #[arg(long)]
    strict: bool,
    /// For people, in the form of `opa test`, or for a build server.
    #[arg(long, visible_alias = "format", value_enum, default_value = "pretty")]
    output: Form,
    /// Run again whenever a file has changed, until interrupted.
    #[arg(long, short)]
    watch: bool,
    /// Seconds that a test may take.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Tests that run at once; as many as there are processors when absent.
    #[arg(long, short, value_name = "N")]
    parallel: Option<NonZeroUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Pretty,
    Json,
    Junit,
}

pub(super) fn run(config: &Path, args: &Args) -> Exit {
    let mut last: Option<PolicySource> = None;
    loop {
        match read(config, args.folder.as_deref()) {
            Ok(source) if last.as_ref() == Some(&source) => {}
            Ok(source) => {
                let exit = once(&source, args);
                if !args.watch {
                    return exit;
                }
                complain("waiting for changes; end with ctrl-c");
                last = Some(source);
            }
            Err(problems) => {
                if !args.watch {
                    refused(&problems, &PolicySource::default(), args.output == Form::Json);
                    return Exit::Problems;
                }
            }
        }
        std::thread::sleep(WATCH);
    }
}

fn once(source: &PolicySource, args: &Args) -> Exit {
    let started = Instant::now();
    let options = Options {
        wanted: &|name| args.run.as_ref().is_none_or(|run| run.is_match(name)),
        timeout: Duration::from_secs(args.timeout),
        threads: args.parallel.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN),
        coverage: args.coverage || args.threshold.is_some() || !args.coverage_of.is_empty(),
    };
    let tested = match testing::run(source, &options) {
        Ok(mut tested) => {
            if let Some(coverage) = tested.coverage.as_mut().filter(|_| !args.coverage_of.is_empty()) {
                coverage.files.retain(|file| args.coverage_of.iter().any(|part| is_in(&file.path, part)));
            }
            tested
        }
        Err(problems) => {
            refused(&problems, source, args.output == Form::Json);
            return Exit::Problems;
        }
    };
    match args.output {
        Form::Pretty => pretty(&tested, args, started.elapsed()),
        Form::Json => {
            let failed = tested.tests.iter().any(Test::failed);
            let document = match &tested.coverage {
                Some(coverage) if !failed => covered(coverage),
                _ => Value::Array(tested.tests.iter().map(|test| result(test, args.strict)).collect()),
            };
            print(&document.to_string());
        }
        Form::Junit => match junit(&tested, args, started.elapsed()).to_string() {
            Ok(text) => print(text.trim_end()),
            Err(e) => {
                complain(&format!("error: the report cannot be written: {e}"));
                return Exit::Failed;
            }
        },
    }
    let good = held(&tested, args);
    for said in &good {
        complain(said);
    }
    if good.is_empty() { Exit::Done } else { Exit::Failed }
}

/// Whether a file is this one, or lies in this folder.
fn is_in(file: &str, part: &str) -> bool {
    file.strip_prefix(part.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What makes the run a failure.
fn held(tested: &Tested, args: &Args) -> Vec<String> {
    let mut wrong = Vec::new();
    let count = |n: usize| format!("{n} {}", if n == 1 { "test" } else { "tests" });
    if tested.tests.is_empty() {
        let what = match &args.run {
            Some(run) => format!("no test has `{run}` in its name"),
            None => "there are no tests: a rule that is one has a name that begins with `test_`".into(),
        };
        wrong.push(format!("error: {what}"));
    }
    let failed = tested.tests.iter().filter(|test| test.failed()).count();
    if failed > 0 {
        wrong.push(format!("error: {} failed", count(failed)));
    }
    let alone = tested.tests.iter().filter(|test| matches!(test.engines, Engines::Interpreter(_))).count();
    if args.strict && alone > 0 {
        wrong.push(format!("error: {} not run on the engine that serves, and `--strict` is given", count(alone)));
    }
    if tested.coverage.as_ref().is_some_and(|coverage| coverage.files.is_empty()) {
        wrong.push(format!("error: no file of rules is in `{}`", args.coverage_of.join("`, `")));
    }
    if let (Some(threshold), Some(coverage)) = (args.threshold, &tested.coverage) {
        if coverage.percent() < threshold {
            let got = coverage.percent();
            wrong.push(format!("error: coverage is {got:.2} %, and {threshold:.2} % are asked for"));
        }
    }
    wrong
}

fn pretty(tested: &Tested, args: &Args, took: Duration) {
    let mut file = "";
    for test in &tested.tests {
        let alone = matches!(test.engines, Engines::Interpreter(_));
        if !(args.verbose || test.failed() || test.outcome == Outcome::Skipped || (args.strict && alone)) {
            continue;
        }
        if file != test.file {
            tell(&format!("{}:", test.file));
            file = &test.file;
        }
        let word = match (&test.outcome, test.failed()) {
            (Outcome::Skipped, _) => "SKIPPED",
            (Outcome::Error(_), _) => "ERROR",
            (_, true) => "FAIL",
            (_, false) => "PASS",
        };
        tell(&format!("  {}: {word} ({}) at line {}", test.full_name(), time(test.took), test.line));
        for line in details(test) {
            tell(&format!("      {line}"));
        }
        if args.verbose || test.failed() {
            for print in &test.prints {
                tell(&format!("      printed {print}"));
            }
        }
        if let (true, Engines::Interpreter(why)) = (args.verbose || args.strict, &test.engines) {
            tell(&format!("      on the interpreter only: {why}"));
        }
    }
    let count = |wanted: &dyn Fn(&Test) -> bool| tested.tests.iter().filter(|test| wanted(test)).count();
    let (all, skipped) = (tested.tests.len(), count(&|test| test.outcome == Outcome::Skipped));
    let (passed, alone) = (count(&Test::passed), count(&|test| matches!(test.engines, Engines::Interpreter(_))));
    let mut sum = format!("PASS: {passed}/{all}");
    let errors = count(&|test| matches!(test.outcome, Outcome::Error(_)));
    for (word, n) in [("FAIL", all - passed - skipped - errors), ("ERROR", errors), ("SKIPPED", skipped)] {
        if n > 0 {
            sum.push_str(&format!("  {word}: {n}/{all}"));
        }
    }
    let both = all - alone - skipped;
    sum.push_str(&format!("  ({both} on both engines, {alone} on the interpreter only, {})", time(took)));
    if let Some(coverage) = &tested.coverage {
        let (yes, no) = coverage.lines();
        tell(&format!("coverage: {:.2} % ({yes} of {} lines)", coverage.percent(), yes + no));
        for file in coverage.files.iter().filter(|file| !file.not_covered.is_empty()) {
            let lines: Vec<String> = ranges(&file.not_covered)
                .into_iter()
                .map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") })
                .collect();
            tell(&format!("  {}: {:.2} %, not reached: {}", file.path, file.percent(), lines.join(", ")));
        }
    }
    tell(&sum);
}

/// What there is to say of a test that did not pass.
fn details(test: &Test) -> Vec<String> {
    let mut said = Vec::new();
    if let Outcome::Error(e) = &test.outcome {
        said.push(e.clone());
    }
    if let Some(failure) = &test.failure {
        let first = failure.statement.lines().next().unwrap_or_default();
        said.push(format!("line {}: does not hold: {first}", failure.line));
        for (part, values) in &failure.seen {
            let first = part.lines().next().unwrap_or_default();
            let values = if values.is_empty() { "nothing".to_owned() } else { values.join(", or ") };
            said.push(format!("    {first} is {values}"));
        }
    }
    said.extend(test.differences.iter().map(|difference| format!("the engines differ: {difference}")));
    said
}

fn time(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}

/// One result in the form of `opa test --format json`, and what is ours under a key of its own.
fn result(test: &Test, strict: bool) -> Value {
    let mut result = json!({
        "location": {"file": test.file, "row": test.line, "col": test.column},
        "package": test.package,
        "name": test.name,
        "duration": u64::try_from(test.took.as_nanos()).unwrap_or(u64::MAX),
    });
    let mut own = serde_json::Map::new();
    match &test.engines {
        Engines::Both => drop(own.insert("engines".into(), "both".into())),
        Engines::Interpreter(why) => {
            own.insert("engines".into(), "interpreter".into());
            own.insert("why".into(), why.as_str().into());
        }
    }
    if !test.differences.is_empty() {
        own.insert("differences".into(), json!(test.differences));
    }
    if let Some(failure) = &test.failure {
        let seen: Vec<Value> =
            failure.seen.iter().map(|(part, values)| json!({"expression": part, "values": values})).collect();
        own.insert(
            "failed_at".into(),
            json!({"row": failure.line, "col": failure.column, "text": failure.statement, "seen": seen}),
        );
    }
    let alone = strict && matches!(test.engines, Engines::Interpreter(_));
    let Value::Object(fields) = &mut result else { return result };
    match &test.outcome {
        Outcome::Skipped => drop(fields.insert("skip".into(), true.into())),
        Outcome::Error(e) => drop(fields.insert("error".into(), json!({"message": e}))),
        _ if test.failed() || alone => drop(fields.insert("fail".into(), true.into())),
        _ => {}
    }
    if !test.prints.is_empty() {
        let text: String = test.prints.iter().map(|print| format!("{print}\n")).collect();
        fields.insert("output".into(), data_encoding::BASE64.encode(text.as_bytes()).into());
    }
    fields.insert("partnergate".into(), Value::Object(own));
    result
}

/// Lines in the form of `opa test --coverage`.
fn covered(coverage: &Coverage) -> Value {
    let list = |lines: &BTreeSet<u32>| -> Vec<Value> {
        ranges(lines).into_iter().map(|(from, to)| json!({"start": {"row": from}, "end": {"row": to}})).collect()
    };
    let files: serde_json::Map<String, Value> = coverage
        .files
        .iter()
        .map(|file| {
            let document = json!({
                "covered": list(&file.covered),
                "not_covered": list(&file.not_covered),
                "covered_lines": file.covered.len(),
                "not_covered_lines": file.not_covered.len(),
                "coverage": file.percent(),
            });
            (file.path.clone(), document)
        })
        .collect();
    let (yes, no) = coverage.lines();
    json!({"files": files, "covered_lines": yes, "not_covered_lines": no, "coverage": coverage.percent()})
}

/// First and last of lines that follow one another.
fn ranges(lines: &BTreeSet<u32>) -> Vec<(u32, u32)> {
    let mut found: Vec<(u32, u32)> = Vec::new();
    for line in lines {
        match found.last_mut() {
            Some((_, to)) if to.saturating_add(1) == *line => *to = *line,
            _ => found.push((*line, *line)),
        }
    }
    found
}

/// The form that build servers read: a suite for each file.
fn junit(tested: &Tested, args: &Args, took: Duration) -> Report {
    let mut report = Report::new("partnergate policy test");
    report.set_time(took);
    let mut suites: BTreeMap<&str, TestSuite> = BTreeMap::new();
    for test in &tested.tests {
        let suite = suites.entry(&test.file).or_insert_with(|| TestSuite::new(test.file.as_str()));
        let mut status = match &test.outcome {
            Outcome::Skipped => TestCaseStatus::skipped(),
            Outcome::Error(_) => TestCaseStatus::non_success(NonSuccessKind::Error),
            _ if test.failed() => TestCaseStatus::non_success(NonSuccessKind::Failure),
            _ => TestCaseStatus::success(),
        };
        let mut said = details(test);
        if let (true, Engines::Interpreter(why)) = (args.strict, &test.engines) {
            if test.passed() {
                status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            }
            said.push(format!("on the interpreter only: {why}"));
        }
        if let Some(first) = said.first() {
            status.set_message(first.as_str());
            status.set_description(said.join("\n"));
        }
        let mut case = TestCase::new(test.name.as_str(), status);
        case.set_classname(test.package.as_str()).set_time(test.took);
        case.extra.insert("file".into(), test.file.as_str().into());
        case.extra.insert("line".into(), test.line.to_string().into());
        if !test.prints.is_empty() {
            case.set_system_out(test.prints.join("\n"));
        }
        suite.add_test_case(case);
    }
    report.add_test_suites(suites.into_values());
    report
}
