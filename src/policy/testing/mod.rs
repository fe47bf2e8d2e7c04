//! Rego tests of a policy folder, on both engines.
//!
//! In: the folder's files. Out: what came of each test. The interpreter knows all of Rego, and its word is the verdict. What
//! serves is the virtual machine, which has no `with`: as far as a test can be turned into documents it is run there as well, with
//! the decision of the whole policy on the same documents, and any difference fails the test. Must never: run what the process
//! would not survive, which is looked for in every program beforehand.

mod bench;
mod cover;
mod turn;

pub use cover::{Coverage, FileCoverage};

use super::probe::Failure;
use super::syntax::{self, File, place};
use super::{
    ENTRYPOINT, FileKind, Policy, PolicyLimits, PolicySource, at, file_kind, lint, on_large_stack, program, readable,
};
use crate::document::Problems;
use bench::{Bench, variants};
use regorus::Engine;
use regorus::unstable::{Rule, RuleHead};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;
use turn::Names;

/// How to run tests.
pub struct Options<'a> {
    /// Which, by their full names such as `data.partnergate.test_x`.
    pub wanted: &'a (dyn Fn(&str) -> bool + Sync),
    /// Longest time of one.
    pub timeout: Duration,
    pub threads: NonZeroUsize,
    /// Whether it is counted which lines they reach.
    pub coverage: bool,
}

/// What came of the tests, in the order of files and lines.
pub struct Tested {
    pub tests: Vec<Test>,
    pub coverage: Option<Coverage>,
}

/// One test.
#[derive(Debug)]
pub struct Test {
    pub file: String,
    pub line: u32,
    pub column: u32,
    /// `data.a.b`.
    pub package: String,
    pub name: String,
    pub outcome: Outcome,
    pub engines: Engines,
    /// What the engines do not agree on, which fails a test.
    pub differences: Vec<String>,
    pub took: Duration,
    /// What `print` said, with its places.
    pub prints: Vec<String>,
    /// The condition that did not hold.
    pub failure: Option<Failure>,
}

/// What the interpreter says of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed,
    Error(String),
    /// Its name begins with `todo_`.
    Skipped,
}

/// Which engines a test was run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engines {
    Both,
    /// And why it cannot be turned.
    Interpreter(String),
}

impl Test {
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.package, self.name)
    }

    /// Whether nothing stands against it. Skipped ones count as neither.
    pub fn passed(&self) -> bool {
        self.outcome == Outcome::Passed && self.differences.is_empty()
    }

    pub fn failed(&self) -> bool {
        self.outcome != Outcome::Skipped && !self.passed()
    }
}

/// Runs the tests of a folder.
///
/// # Errors
/// The policy itself is not good, or a test file does not parse, names a test twice, or has one of a form that is not run.
pub fn run(source: &PolicySource, options: &Options<'_>) -> Result<Tested, Problems> {
    // Its limits are those of a request; here nothing is decided with it.
    Policy::compile(source, super::EngineKind::Rvm, PolicyLimits { time: options.timeout, instructions: 1 })?;
    on_large_stack(|| run_here(source, options))?
}

fn run_here(source: &PolicySource, options: &Options<'_>) -> Result<Tested, Problems> {
    let mut problems = Problems::new();
    let data = super::read_data(source, &mut problems);
    let rego: Vec<(&str, &str)> = source
        .files
        .iter()
        .filter(|(path, _)| matches!(file_kind(path), FileKind::Rego | FileKind::Test))
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    let mut engine = program::engine();
    for (path, text) in &rego {
        readable::look(path, text, &mut problems);
        if !problems.has_errors() {
            program::add(&mut engine, path, text, &mut problems);
        }
    }
    if problems.has_errors() {
        return Err(problems);
    }
    if let Err(e) = engine.add_data(data.clone()) {
        problems.file("policy data", format!("cannot be used: {e}"), None);
        return Err(problems);
    }
    let files = syntax::files(&mut engine);
    let found = find(&files, options.wanted, &mut problems);
    lint::wildcards(&files, &mut problems);
    let names = Names::of(&files);
    if let Some(function) = names.endless() {
        problems.file(
            "policies",
            format!("the function `{function}` comes back to itself: recursion is not supported"),
            None,
        );
        return Err(problems);
    }
    if let Err(e) = names_hold(&mut engine) {
        problems.push(program::located("policies", &e));
    }
    if problems.has_errors() {
        return Err(problems);
    }

    let (mut tests, mut plans) = (Vec::new(), Vec::new());
    let mut count = 0;
    for Found { at, rule, test } in found {
        let turned = match test.outcome {
            Outcome::Skipped => Err("it is skipped".to_owned()),
            _ => turn::turn(&names, &files, at, rule, &mut count),
        };
        tests.push(test);
        plans.push(turned);
    }
    let variants = variants(&files, &mut plans, &data, options.timeout);

    if options.coverage {
        engine = program::engine();
        for file in &files {
            let text = cover::with_values(file);
            program::add(&mut engine, &file.path, &text, &mut problems);
        }
        if problems.has_errors() || engine.add_data(data.clone()).is_err() {
            return Err(problems);
        }
    }
    let bench = Bench { engine, variants, data, files: &files, rego: &rego, plans: &plans, options };
    let covered = bench.run_all(&mut tests);
    for (test, plan) in tests.iter_mut().zip(plans) {
        if let (Err(why), Outcome::Passed | Outcome::Failed | Outcome::Error(_)) = (plan, &test.outcome) {
            test.engines = Engines::Interpreter(why);
        }
    }
    let coverage = options.coverage.then(|| cover::report(&files, &covered));
    Ok(Tested { tests, coverage })
}

/// Makes regorus look at all rules, which it does before it evaluates the first.
fn names_hold(engine: &mut Engine) -> Result<(), String> {
    engine.eval_rule(ENTRYPOINT.to_owned()).map(drop).map_err(|e| e.to_string())
}

struct Found<'f> {
    at: usize,
    rule: &'f Rule,
    test: Test,
}

/// The tests of the files, those that are wanted.
fn find<'f>(files: &'f [File], wanted: &dyn Fn(&str) -> bool, problems: &mut Problems) -> Vec<Found<'f>> {
    let mut found: Vec<Found<'f>> = Vec::new();
    let mut names: BTreeMap<String, (String, u32)> = BTreeMap::new();
    let rules =
        files.iter().enumerate().flat_map(|(at, file)| file.module.policy.iter().map(move |rule| (at, file, rule)));
    for (at_file, file, rule) in rules {
        let Rule::Spec { span, head, .. } = &**rule else { continue };
        let refr = match head {
            RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. } => refr,
        };
        let root = syntax::reference(refr).map(|(root, _)| root).unwrap_or_default();
        if !root.strip_prefix("todo_").unwrap_or(root).starts_with("test_") {
            continue;
        }
        let (line, column) = place(span);
        let mut refuse = |reason: String, fix: &str| problems.push(at(&file.path, line, column, reason, Some(fix)));
        let Some(name) = syntax::dotted(refr).filter(|_| matches!(head, RuleHead::Compr { .. })) else {
            refuse(
                format!("`{root}` is not one condition that holds or not"),
                "write `test_… if { … }`; for a table of cases use `every case in cases { … }`",
            );
            continue;
        };
        let full = format!("{}.{name}", file.package);
        if let Some((other, before)) = names.insert(full.clone(), (file.path.clone(), line)) {
            // Either of the two would pass for both.
            refuse(format!("the test `{name}` is there already, at {other}:{before}"), "give each test its own name");
            continue;
        }
        if !wanted(&full) {
            continue;
        }
        let skipped = name.starts_with("todo_");
        let test = Test {
            file: file.path.clone(),
            line,
            column,
            package: file.package.clone(),
            name,
            outcome: if skipped { Outcome::Skipped } else { Outcome::Failed },
            engines: Engines::Both,
            differences: Vec::new(),
            took: Duration::ZERO,
            prints: Vec::new(),
            failure: None,
        };
        found.push(Found { at: at_file, rule, test });
    }
    found
}

#[cfg(test)]
mod tests;
