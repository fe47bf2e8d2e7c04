//! Rego files → a compiled program, and one request's facts → a [`Verdict`], within limits.
//!
//! In: the text of the policy folder ([`PolicySource`]) and, per request, [`Facts`] in the form of contract version 1.
//! Out: a [`Verdict`]. Whatever goes wrong (undefined, wrong type, error, time, instructions) is a denial with its own
//! reason. Must never: open anything by itself; `decision` checks each allow against the grant it names. Must never
//! do I/O, read a clock, or let policy do so: builtins are an allow-list.

mod bounds;
mod builtins;
pub mod bundle;
mod conditions;
mod contract;
mod declared;
mod evaluate;
pub mod explain;
mod given;
mod input;
mod lint;
mod log;
mod looks;
mod probe;
mod program;
mod promotion;
mod readable;
mod schema;
mod syntax;
pub mod testing;
mod wanted;

pub use conditions::{ConditionType, WrongCondition};
pub use contract::{CONTRACT_VERSION, Line, Listed, facts, lines};
pub use given::check_input;
pub use input::{Facts, InputPlan, ValueCache, weekday_name};
pub use lint::Mention;
pub use log::{LogMachine, LogRules, MaskFailure, MaskOp, MaskRule, Masking};
pub use probe::{Failure, Seen};
pub use promotion::Promotion;
pub use schema::{DECISION, decision_schema, input_schema};
pub(crate) use syntax::overlap;
pub use wanted::Wanted;

use crate::document::{self, Node, Problem, Problems, Severity, Value as Doc};
use crate::reason::Reason;
use conditions::Conditions;
use declared::Declarations;
use lint::For;
use regorus::rvm::program::Program;
use regorus::{Engine, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The entry point of contract version 1.
pub const ENTRYPOINT: &str = "data.partnergate.decision";

/// The policy folder, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySource {
    /// Path relative to the folder (with `/`) and text, sorted by path.
    pub files: Vec<(String, String)>,
}

impl PolicySource {
    /// Without tests, which are never served.
    pub fn served(&self) -> PolicySource {
        let files = self.files.iter().filter(|(path, _)| !matches!(file_kind(path), FileKind::Test));
        PolicySource { files: files.cloned().collect() }
    }
}

/// Bounds on one evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyLimits {
    pub time: Duration,
    pub instructions: usize,
}

/// Stack of threads that evaluate, of which only what is used is taken: a policy is refused where it needs more than a small
/// part of it, and this is for what nobody has thought of.
pub const STACK: usize = 16 * 1024 * 1024;

/// Stack of the thread that compiles.
const COMPILING: usize = 256 * 1024 * 1024;

/// Runs work that goes as deep as what it is given.
fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Problems> {
    std::thread::scope(|scope| {
        let working = std::thread::Builder::new().name("policy".into()).stack_size(COMPILING).spawn_scoped(scope, work);
        let failed = |reason: String| {
            let mut problems = Problems::new();
            problems.file("policies", reason, None);
            problems
        };
        match working.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(failed("the policy compiler has panicked: this is a bug".into())),
            Err(e) => Err(failed(format!("no thread to compile on: {e}"))),
        }
    })
}

/// Which of regorus' engines serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    Rvm,
    Interpreter,
}

impl EngineKind {
    /// As `policy.engine` writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            EngineKind::Rvm => "rvm",
            EngineKind::Interpreter => "interpreter",
        }
    }
}

/// What policy said. Neither form opens anything before `decision` has checked it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The id of the grant that permits the request, as policy named it.
    Allow {
        grant: Arc<str>,
        /// Custom denials that do not count, because the partner is only observed.
        observed: Vec<Reason>,
    },
    /// At least one reason, the first by precedence first.
    Deny { reasons: Vec<Reason>, detail: Option<String> },
}

/// What a policy said last, and on what. For looking at many open requests one after another: most of them differ in
/// nothing that policy can see.
#[derive(Default)]
pub struct LastVerdict(Option<(Arc<()>, Value, Verdict)>);

/// A compiled policy. Evaluation works on many threads at once; each keeps its own machine.
pub struct Policy {
    program: Arc<Program>,
    engine: Engine,
    data: Value,
    kind: EngineKind,
    limits: PolicyLimits,
    input: InputPlan,
    /// Facts that rules look at, as dotted paths.
    looks_at: Vec<String>,
    /// Of what it was compiled from, as hex: what a record names.
    revision: Arc<str>,
    /// Declared custom reasons and what they mean.
    reasons: BTreeMap<Arc<str>, String>,
    /// Declared condition keys of grants, and their types.
    conditions: Conditions,
    /// What is masked in records, where there are rules for that.
    log: Option<Arc<LogRules>>,
    mentions: Vec<Mention>,
    warnings: Problems,
    /// Makes a thread's cached machine of an earlier policy recognisable.
    identity: Arc<()>,
}

impl Policy {
    /// Compiles the folder's Rego, reads its data, and checks everything that can be known before a request.
    ///
    /// # Errors
    /// All problems with file and line: syntax, missing entry point, refused builtins, recursion, undeclared or
    /// malformed reasons, data that conflicts with rules.
    pub fn compile(source: &PolicySource, kind: EngineKind, limits: PolicyLimits) -> Result<Policy, Problems> {
        // The parser and the tree go as deep as a term is long, and a file may be one term.
        on_large_stack(|| Self::compile_here(source, kind, limits))?
    }

    fn compile_here(source: &PolicySource, kind: EngineKind, limits: PolicyLimits) -> Result<Policy, Problems> {
        let mut problems = Problems::new();
        let revision = source.revision();
        for (path, text) in source.files.iter().filter(|(path, _)| path.ends_with(".rego")) {
            readable::look(path, text, &mut problems);
        }
        if problems.has_errors() {
            return Err(problems);
        }
        missing_of_library(source, &mut problems);
        let data = read_data(source, &mut problems);
        // They are compiled by themselves: their input is another one.
        let (logs, source) = (log::of_log(source, true), &log::of_log(source, false));
        let mut engine = program::engine();
        let mut reasons = Declarations::default();
        let mut conditions = Conditions::default();
        // What is shipped first, so that a name that clashes with it is found where it can be changed.
        let (shipped, own): (Vec<_>, Vec<_>) =
            source.files.iter().partition(|(path, _)| path.starts_with("partnergate/"));
        for (path, text) in shipped.into_iter().chain(own) {
            match file_kind(path) {
                FileKind::Rego => program::add(&mut engine, path, text, &mut problems),
                FileKind::Reasons => read_reasons(&mut reasons, path, text, &mut problems),
                FileKind::Conditions => conditions.read(path, text, &mut problems),
                FileKind::Data | FileKind::Test | FileKind::Other => {}
            }
        }
        if problems.has_errors() {
            return Err(problems);
        }
        let reasons = reasons.into_values();
        let files = syntax::files(&mut engine);
        if !bounds::branches(&files, &mut problems) {
            return Err(problems);
        }
        let of = |wanted: fn(&FileKind) -> bool| {
            source.files.iter().map(|(path, _)| path.as_str()).filter(move |path| wanted(&file_kind(path)))
        };
        let declared_in: Vec<&str> = of(|kind| matches!(kind, FileKind::Reasons)).collect();
        let library = of(|kind| matches!(kind, FileKind::Rego)).any(|path| path.starts_with("partnergate/"));
        lint::packages(&files, library, &mut problems);
        let of = For::Decisions { reasons: &reasons, declared_in: &declared_in, library };
        let mentions = lint::look(&files, &data, &of, &mut problems);
        bounds::look(&files, &data, &mut problems);
        log::named_otherwise(&files, &mut problems);
        if problems.has_errors() {
            problems.sort();
            return Err(problems);
        }
        if let Some(texts) = syntax::spelled_out(&files) {
            engine = program::engine();
            for (path, text) in &texts {
                program::add(&mut engine, path, text, &mut problems);
            }
        }
        if let Err(e) = engine.add_data(data.clone()) {
            problems.file("policy data", format!("cannot be used: {e}"), None);
        }
        let compiled = program::compile(&mut engine, source, &data, &[ENTRYPOINT], &mut problems);
        let log = LogRules::compile(&logs, &data, kind, limits, &mut problems).map(Arc::new);
        problems.sort();
        let Some(program) = compiled.filter(|_| !problems.has_errors()) else { return Err(problems) };
        Ok(Policy {
            program,
            engine,
            data,
            kind,
            limits,
            input: InputPlan::of(&Wanted::by(source)),
            looks_at: looks::at(&files),
            revision,
            log,
            reasons,
            conditions,
            mentions,
            warnings: problems,
            identity: Arc::new(()),
        })
    }

    /// Decides on these facts. Never fails: what goes wrong is a denial.
    pub fn decide(&self, facts: &Facts<'_>, cache: &ValueCache) -> Verdict {
        self.evaluate(facts.value(&self.input, cache))
    }

    /// The same where policy sees just what it saw the last time: what it said then is what it says.
    pub fn decide_unless_same(&self, facts: &Facts<'_>, cache: &ValueCache, last: &mut LastVerdict) -> Verdict {
        let input = facts.value(&self.input, cache);
        if let Some((policy, seen, verdict)) = &last.0 {
            if Arc::ptr_eq(policy, &self.identity) && *seen == input {
                return verdict.clone();
            }
        }
        let verdict = self.evaluate(input.clone());
        // How long it took is not in the input.
        let late = matches!(&verdict, Verdict::Deny { reasons, .. } if reasons.contains(&Reason::PolicyTimeout));
        last.0 = (!late).then(|| (self.identity.clone(), input, verdict.clone()));
        verdict
    }

    pub fn revision(&self) -> &Arc<str> {
        &self.revision
    }

    /// Facts that its rules look at, as dotted paths from `input`; a path stands for all that is below it.
    pub fn looks_at(&self) -> &[String] {
        &self.looks_at
    }

    /// What is masked in records, where the folder has rules for that.
    pub fn log(&self) -> Option<&Arc<LogRules>> {
        self.log.as_ref()
    }

    /// How it was compiled.
    pub fn how(&self) -> (EngineKind, PolicyLimits) {
        (self.kind, self.limits)
    }

    /// What somebody should look at, and what does not stop it from being served.
    pub fn warnings(&self) -> &Problems {
        &self.warnings
    }

    /// Names of operations, networks and header fields that its rules look for.
    pub fn mentions(&self) -> &[Mention] {
        &self.mentions
    }

    pub fn engine_kind(&self) -> EngineKind {
        self.kind
    }

    /// Declared custom reasons and what they mean: with the built-in ones, all that may become a metric label.
    pub fn custom_reasons(&self) -> impl Iterator<Item = (&Arc<str>, &str)> {
        self.reasons.iter().map(|(name, meaning)| (name, meaning.as_str()))
    }

    /// Whether this is a declared custom reason.
    pub fn declares(&self, name: &str) -> bool {
        self.reasons.contains_key(name)
    }

    /// Checks the conditions of a grant against what the policy folder declares: its keys, and that each value means
    /// something.
    pub fn check_conditions(&self, conditions: &BTreeMap<String, serde_json::Value>) -> Vec<WrongCondition> {
        self.conditions.check(conditions)
    }

    /// The reason of this name, when it is one of the library's rules or declared. What is the gateway's own to say is not.
    fn reason(&self, name: &str) -> Option<Reason> {
        Reason::parse(name)
            .filter(Reason::is_for_rules)
            .or_else(|| self.reasons.get_key_value(name).map(|(n, _)| Reason::Custom(n.clone())))
    }
}

/// The library names its files in one of them: one that is only half there is no library.
fn missing_of_library(source: &PolicySource, problems: &mut Problems) {
    const NAMES: &str = "partnergate/decision.rego";
    let named = source.files.iter().find(|(path, _)| path == NAMES);
    let named = named.and_then(|(_, text)| text.lines().find_map(|line| line.strip_prefix("# library: ")));
    for name in named.unwrap_or_default().split_whitespace() {
        let is_it = |path: &str| path.strip_prefix("partnergate/") == Some(name);
        if !source.files.iter().any(|(path, _)| is_it(path)) {
            let reason = format!("the library's `{name}` is missing: it is only half there");
            problems.file(NAMES, reason, Some("copy the whole folder `partnergate`"));
        }
    }
}

enum FileKind {
    Rego,
    Test,
    Reasons,
    Conditions,
    Data,
    Other,
}

/// Declarations lie at the top, and beside the rules that they belong to: a folder with rules of its own is complete.
fn file_kind(path: &str) -> FileKind {
    let declares = |name: &str| {
        path.strip_suffix(name).is_some_and(|folder| {
            folder.is_empty() || folder == "partnergate/" || (folder.starts_with("custom/") && folder.ends_with('/'))
        })
    };
    match path {
        _ if declares("reasons.yaml") => FileKind::Reasons,
        _ if declares("conditions.yaml") => FileKind::Conditions,
        _ if path.ends_with("_test.rego") => FileKind::Test,
        _ if path.ends_with(".rego") => FileKind::Rego,
        _ if path.ends_with(".json") || path.ends_with(".yaml") || path.ends_with(".yml") => FileKind::Data,
        _ => FileKind::Other,
    }
}

/// The data files of a folder, as one document.
fn read_data(source: &PolicySource, problems: &mut Problems) -> Value {
    let mut data = serde_json::Map::new();
    for (path, text) in source.files.iter().filter(|(path, _)| matches!(file_kind(path), FileKind::Data)) {
        match document::parse(path, text) {
            Ok(node) => merge_data(&mut data, path, &node, problems),
            Err(found) => problems.extend(found),
        }
    }
    serde_json::Value::Object(data).into()
}

/// Puts a data file under the names of the folders it lies in, as OPA does: `custom/limits.yaml` is merged into
/// `data.custom`.
fn merge_data(data: &mut serde_json::Map<String, serde_json::Value>, path: &str, node: &Node, problems: &mut Problems) {
    if !matches!(node.value, Doc::Table(_)) {
        problems.push(node.error("", "a data file must be a table, so that its keys can be named under `data`", None));
        return;
    }
    let mut target = data;
    let folders: Vec<&str> = path.split('/').collect();
    for folder in folders.iter().take(folders.len().saturating_sub(1)) {
        let slot = target.entry((*folder).to_owned()).or_insert_with(|| serde_json::json!({}));
        let Some(next) = slot.as_object_mut() else {
            problems.push(node.error("", format!("`data.{folder}` is written as a value in another file"), None));
            return;
        };
        target = next;
    }
    for (key, value) in node.entries() {
        let name = key.text().unwrap_or_default().to_owned();
        if target.contains_key(&name) {
            problems.push(key.error(name, "another data file writes the same key", Some("keep one of them")));
            continue;
        }
        target.insert(name, value.to_json());
    }
}

fn read_reasons(reasons: &mut Declarations<String>, path: &str, text: &str, problems: &mut Problems) {
    reasons.read(path, text, "reasons", problems, |(key, value), problems| {
        let name = key.text().unwrap_or_default();
        let kebab = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !name.starts_with("x-") || name.len() < 3 || name.len() > 64 || !kebab {
            let fix =
                Some("write it like `x-outside-business-hours`: `x-` and then a-z, 0-9, `-`, at most 64 together");
            problems.push(key.error(format!("reasons.{name}"), "not the name of a custom reason", fix));
            return None;
        }
        if value.text().is_none() {
            problems.push(value.error(format!("reasons.{name}"), "must be text that says what the reason means", None));
        }
        value.text().map(str::to_owned)
    });
}

/// A problem at a line of a policy file.
fn at(file: &str, line: u32, column: u32, reason: String, fix: Option<&str>) -> Problem {
    Problem {
        severity: Severity::Error,
        file: file.into(),
        line,
        column,
        key: String::new(),
        reason,
        fix: fix.map(str::to_owned),
    }
}

#[cfg(test)]
pub(crate) mod tests;
