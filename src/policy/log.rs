//! `package system.log`: which values a record of a decision must not have, and which decisions are not uploaded, as OPA asks its
//! policy for its decision log.
//!
//! In: files of that package, and an event of OPA's decision log. Out: what to remove or replace in it, and whether it is dropped;
//! or why nobody can say. Must never: see a request, or decide anything.

mod event;
mod forms;

use super::evaluate::{MAX_RESULT, Machine, Stopped, is_larger_than};
use super::syntax::{self, File};
use super::{EngineKind, FileKind, PolicyLimits, PolicySource, at, bounds, file_kind, lint, program};
use crate::document::Problems;
use lint::For;
use regorus::rvm::program::Program;
use regorus::{Engine, Value};
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

const PACKAGE: &str = "data.system.log";
const MASK: &str = "data.system.log.mask";
const DROP: &str = "data.system.log.drop";
/// What the path of a mask may begin with.
const MASKED: [&str; 3] = ["input", "result", "nd_builtin_cache"];

/// Compiled rules of `package system.log`.
pub struct LogRules {
    program: Arc<Program>,
    engine: Engine,
    data: Value,
    kind: EngineKind,
    limits: PolicyLimits,
    revision: Arc<str>,
    /// Of the two that are asked, those that there are.
    rules: Vec<&'static str>,
}

/// What is to be done with the record of one decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Masking {
    pub rules: Vec<MaskRule>,
    /// It is not uploaded.
    pub drop: bool,
}

/// One thing that is masked.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskRule {
    pub op: MaskOp,
    /// As it is written: `/input/…`, `/result/…`.
    pub path: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum MaskOp {
    Remove,
    /// Put in its place, or where there is nothing.
    Upsert(Json),
}

/// Why nobody can say what is masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaskFailure {
    /// There was no time for it.
    Time,
    Instructions,
    Error(String),
    /// The rules gave something that is no mask.
    Form(String),
}

impl MaskFailure {
    /// One word for programs.
    pub fn as_str(&self) -> &'static str {
        match self {
            MaskFailure::Time => "timeout",
            MaskFailure::Instructions => "instruction-limit",
            MaskFailure::Error(_) => "error",
            MaskFailure::Form(_) => "wrong-form",
        }
    }
}

impl fmt::Display for MaskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaskFailure::Time => f.write_str("the rules took longer than `policy.time_limit`"),
            MaskFailure::Instructions => f.write_str("the rules took more than `policy.instruction_limit`"),
            MaskFailure::Error(e) | MaskFailure::Form(e) => f.write_str(e),
        }
    }
}

impl LogRules {
    /// `None` where there are no files, or they are not good.
    pub(super) fn compile(
        source: &PolicySource,
        data: &Value,
        kind: EngineKind,
        limits: PolicyLimits,
        problems: &mut Problems,
    ) -> Option<LogRules> {
        let (first, _) = source.files.first()?;
        let mut found = Problems::new();
        let mut engine = program::engine();
        for (path, text) in &source.files {
            program::add(&mut engine, path, text, &mut found);
        }
        let compiled = Self::compiled(engine, source, data, &mut found);
        let good = !found.has_errors();
        problems.extend(found);
        let (program, engine, rules) = compiled.filter(|_| good)?;
        if rules.is_empty() {
            let reason = "`package system.log` has neither `mask` nor `drop`, which are all that it is asked for";
            let fix = Some("write `mask contains \"/input/request/query/…\"`, or `drop if { … }`");
            problems.push(at(first, 0, 0, reason.into(), fix));
            return None;
        }
        Some(LogRules { program, engine, data: data.clone(), kind, limits, revision: source.revision(), rules })
    }

    /// SHA-256 over their files, as hex.
    pub fn revision(&self) -> &Arc<str> {
        &self.revision
    }

    fn compiled(
        mut engine: Engine,
        source: &PolicySource,
        data: &Value,
        problems: &mut Problems,
    ) -> Option<(Arc<Program>, Engine, Vec<&'static str>)> {
        if problems.has_errors() {
            return None;
        }
        let files = syntax::files(&mut engine);
        if !bounds::branches(&files, problems) {
            return None;
        }
        lint::packages(&files, false, problems);
        lint::look(&files, data, &For::Records(&event::EVENT), problems);
        forms::look(&files, problems);
        bounds::look(&files, data, problems);
        if problems.has_errors() {
            return None;
        }
        if let Some(texts) = syntax::spelled_out(&files) {
            engine = program::engine();
            for (path, text) in &texts {
                program::add(&mut engine, path, text, problems);
            }
        }
        if let Err(e) = engine.add_data(data.clone()) {
            problems.file("policy data", format!("cannot be used: {e}"), None);
        }
        let names: BTreeSet<String> = files
            .iter()
            .flat_map(|file| file.module.policy.iter().filter_map(|rule| syntax::name(file, rule)))
            .collect();
        let rules: Vec<&'static str> = [MASK, DROP].into_iter().filter(|rule| names.contains(*rule)).collect();
        if rules.is_empty() {
            return Some((Arc::new(Program::new()), engine, rules));
        }
        let program = program::compile(&mut engine, source, data, &rules, problems)?;
        Some((program, engine, rules))
    }

    /// What evaluates them, for one thread.
    pub fn machine(self: &Arc<Self>) -> LogMachine {
        let machine = Machine::new(self.kind, (&self.program, &self.engine), &self.data, self.limits);
        LogMachine { rules: self.clone(), machine }
    }
}

/// See [`LogRules::machine`].
pub struct LogMachine {
    rules: Arc<LogRules>,
    machine: Machine,
}

impl LogMachine {
    /// Of these rules, and no others.
    pub fn is_of(&self, rules: &Arc<LogRules>) -> bool {
        Arc::ptr_eq(&self.rules, rules)
    }

    /// What is to be done with the record of an event.
    ///
    /// # Errors
    /// Nobody can say: then all of it is taken for what must not be shown.
    pub fn ask(&mut self, event: &Json) -> Result<Masking, MaskFailure> {
        let input = Value::from(event.clone());
        let mut masking = Masking::default();
        for rule in self.rules.rules.clone() {
            let value = match self.once(rule, input.clone()) {
                // On a busy machine the thread may have been without a processor for all that time.
                Err(MaskFailure::Time) => self.once(rule, input.clone()),
                other => other,
            }?;
            match (rule, value) {
                (_, Value::Undefined) => {}
                (DROP, Value::Bool(drop)) => masking.drop = drop,
                (DROP, _) => return Err(MaskFailure::Form("`drop` is not a boolean".into())),
                (_, value) => masking.rules = masks(&value)?,
            }
        }
        Ok(masking)
    }

    fn once(&mut self, rule: &str, input: Value) -> Result<Value, MaskFailure> {
        let started = Instant::now();
        let outcome = self.machine.ask(rule, input);
        // The machine looks at the clock between instructions, and so not after a long last one.
        if started.elapsed() > self.rules.limits.time {
            return Err(MaskFailure::Time);
        }
        outcome.map_err(|stopped| match stopped {
            Stopped::Time => MaskFailure::Time,
            Stopped::Instructions => MaskFailure::Instructions,
            // What the engine says has what it was given in it, and that is what may have to be masked.
            Stopped::Error(_) => MaskFailure::Error("a rule stopped at a value that it does not take".into()),
        })
    }
}

/// Reads what `mask` gave: paths that are removed, and objects that say what is done.
fn masks(value: &Value) -> Result<Vec<MaskRule>, MaskFailure> {
    let wrong = |what: &str| MaskFailure::Form(format!("`mask` {what}"));
    if is_larger_than(value, MAX_RESULT) {
        return Err(wrong("gave too much"));
    }
    let all: Vec<&Value> = match value {
        Value::Set(set) => set.iter_sorted().collect(),
        Value::Array(list) => list.iter().collect(),
        _ => return Err(wrong("is neither a set nor a list")),
    };
    all.into_iter().map(mask).collect()
}

fn mask(value: &Value) -> Result<MaskRule, MaskFailure> {
    let wrong = |what: String| MaskFailure::Form(format!("`mask` {what}"));
    let (op, path) = match value {
        Value::String(path) => (MaskOp::Remove, path.to_string()),
        Value::Object(_) => {
            let rule = serde_json::to_value(value).map_err(|e| wrong(format!("has what is no JSON: {e}")))?;
            let op = match rule.get("op").and_then(Json::as_str) {
                Some("remove") => MaskOp::Remove,
                Some("upsert") => MaskOp::Upsert(rule.get("value").cloned().unwrap_or(Json::Null)),
                _ => return Err(wrong("has an `op` that is neither `remove` nor `upsert`".into())),
            };
            let path = rule.get("path").and_then(Json::as_str);
            (op, path.ok_or_else(|| wrong("has an object without a `path`".into()))?.to_owned())
        }
        _ => return Err(wrong("has what is neither a path nor an object".into())),
    };
    let part = path.strip_prefix('/').and_then(|path| path.split('/').next());
    if part.is_some_and(|part| MASKED.contains(&part)) {
        return Ok(MaskRule { op, path });
    }
    let shown: String = path.chars().take(80).collect();
    Err(wrong(format!("has the path `{}`, which is below neither `/input` nor `/result`", shown.escape_debug())))
}

/// The files of a folder that are of the package, or all others.
pub(super) fn of_log(source: &PolicySource, is: bool) -> PolicySource {
    let is_log = |path: &str, text: &str| matches!(file_kind(path), FileKind::Rego) && is_of_log(text);
    let files = source.files.iter().filter(|(path, text)| is_log(path, text) == is).cloned();
    PolicySource { files: files.collect() }
}

/// Whether a file begins with the package; comments may stand before it.
fn is_of_log(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let name = first.and_then(|line| line.strip_prefix("package")).filter(|rest| rest.starts_with([' ', '\t']));
    let name = name.and_then(|rest| rest.trim_start().split([' ', '\t', '#', ';']).next());
    name.and_then(|name| name.strip_prefix("system.log")).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Rules that nobody would ask, because their package is written in another way.
pub(super) fn named_otherwise(files: &[File], problems: &mut Problems) {
    for file in files {
        if file.package == PACKAGE || file.package.starts_with("data.system.log.") {
            let reason = "is of the package `system.log` and does not say so on one line";
            problems.push(at(&file.path, 1, 0, reason.into(), Some("write `package system.log`")));
        }
    }
}

#[cfg(test)]
mod tests;
