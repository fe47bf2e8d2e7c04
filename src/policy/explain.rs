//! Why the policy decided as it did on one input, and what else would have been allowed.
//!
//! In: the folder's files and an input of contract version 1. Out: the decision, the rules that led to it with the conditions that
//! did not hold and what those saw, and changes of single facts under which it would be an allow. Each of these was tried: what is
//! said of it is what the policy said. Must never: decide anything; what serves is not touched.

mod told;

pub use told::{BodyTold, ConditionTold, FailureTold, GiverTold, ReasonTold, RuleTold, SeenTold, Told, VerdictTold};

use super::probe::{self, Failure, Seen};
use super::syntax::{self, File, expressions, name, place, reference, text};
use super::{ENTRYPOINT, EngineKind, Policy, PolicyLimits, PolicySource, Verdict, on_large_stack, program};
use crate::clock::UnixNanos;
use crate::document::Problems;
use crate::reason::Reason;
use regorus::unstable::{Expr, Literal, Rule, RuleHead};
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// Rules below rules that are followed.
const DEPTH: usize = 4;
/// In nanoseconds.
const HOUR: i64 = 3_600_000_000_000;
/// How long one rule may be looked into, and how often it is asked whether that is over.
const RULE_LIMIT: ExecutionTimerConfig =
    ExecutionTimerConfig { limit: Duration::from_secs(1), check_interval: NonZeroU32::MIN.saturating_add(63) };

/// Why a decision is what it is.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub verdict: Verdict,
    /// What the interpreter, which the rules are followed on, says instead, where that is something else.
    pub interpreter: Option<Verdict>,
    /// What decided, and what it depends on.
    pub decision: RuleSaid,
    /// For a denial: where each of its reasons comes from.
    pub reasons: Vec<(Reason, Vec<Held>)>,
    /// For a denial: single changes, or two together where no single one is enough, under which the policy allows.
    pub allowed_if: Vec<Vec<String>>,
    /// Whether there was time for all of it.
    pub complete: bool,
}

/// A rule, and how far its bodies came.
#[derive(Clone, Debug)]
pub struct RuleSaid {
    /// `data.a.b`.
    pub name: String,
    /// What it is, as Rego writes it; `None` where it is undefined.
    pub value: Option<String>,
    pub bodies: Vec<BodySaid>,
}

/// One body of a rule.
#[derive(Clone, Debug)]
pub struct BodySaid {
    pub file: String,
    pub line: u32,
    /// The condition that did not hold; `None` where all did.
    pub failure: Option<Failure>,
    /// The rules that the condition looks at.
    pub rules: Vec<RuleSaid>,
}

/// A body that held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub file: String,
    pub line: u32,
    /// Its conditions, as written, with what they saw.
    pub conditions: Vec<(String, Seen)>,
}

/// Explains the decision of a folder's policy on an input.
///
/// # Errors
/// The policy is not good, or cannot be looked into.
pub fn explain(source: &PolicySource, input: &Value, limits: PolicyLimits) -> Result<Explanation, Problems> {
    Policy::compile(source, EngineKind::Rvm, limits)?.explain(input, None)
}

impl Policy {
    /// Explains what this policy decides on an input. Nothing further is looked into after `until`, so that it ends not much
    /// later.
    ///
    /// # Errors
    /// The policy cannot be looked into.
    pub fn explain(&self, input: &Value, until: Option<Instant>) -> Result<Explanation, Problems> {
        on_large_stack(|| explain_here(self, input, until))?
    }
}

fn explain_here(policy: &Policy, input: &Value, until: Option<Instant>) -> Result<Explanation, Problems> {
    let mut problems = Problems::new();
    let mut engine = policy.engine.clone();
    let files = syntax::files(&mut engine);
    let until = Until { until, passed: false };
    let mut looking = Looking::new(&files, policy, input, until).map_err(|e| {
        problems.file("policies", format!("the rules cannot be looked into: {e}"), None);
        problems
    })?;
    let verdict = policy.evaluate(input.clone());
    let mut explanation = Explanation {
        decision: looking.rule(ENTRYPOINT, DEPTH, &mut BTreeSet::new()),
        reasons: Vec::new(),
        allowed_if: Vec::new(),
        interpreter: match looking.engine.eval_rule(ENTRYPOINT.to_owned()) {
            Ok(value) => Some(policy.read(&value)).filter(|said| *said != verdict),
            Err(_) => None,
        },
        verdict,
        complete: true,
    };
    if let Verdict::Deny { reasons, .. } = &explanation.verdict {
        explanation.reasons = reasons.iter().map(|reason| (reason.clone(), looking.denials(reason))).collect();
        explanation.allowed_if = changes(policy, input, &mut looking.until);
    }
    explanation.complete = !looking.until.passed;
    Ok(explanation)
}

/// When somebody does not wait any longer.
struct Until {
    until: Option<Instant>,
    /// Something was left out for it.
    passed: bool,
}

impl Until {
    fn is_over(&mut self) -> bool {
        self.passed |= self.until.is_some_and(|until| Instant::now() >= until);
        self.passed
    }
}

/// The bodies of all rules, with an engine that has a rule for each of their statements.
struct Looking<'f> {
    files: &'f [File],
    engine: Engine,
    until: Until,
}

impl<'f> Looking<'f> {
    fn new(files: &'f [File], policy: &Policy, input: &Value, until: Until) -> Result<Looking<'f>, String> {
        let made = |with_values: &dyn Fn(&File) -> bool| -> Result<Engine, String> {
            let mut engine = program::engine();
            engine.set_gather_prints(true);
            if until.until.is_some() {
                engine.set_execution_timer_config(RULE_LIMIT);
            }
            for (nth, file) in files.iter().enumerate() {
                let mut text = file.module.package.span.source.get_contents().clone();
                for (mark, body) in bodies(nth, file) {
                    let probes = probe::probes(&mark, body);
                    text.push_str(&probes.holds);
                    if with_values(file) {
                        text.push_str(&probes.values);
                    }
                }
                engine.add_policy(file.path.clone(), text).map_err(|e| e.to_string())?;
            }
            engine.add_data(policy.data.clone()).map_err(|e| e.to_string())?;
            engine.set_input(input.clone());
            engine.eval_rule(ENTRYPOINT.to_owned()).map_err(|e| e.to_string())?;
            Ok(engine)
        };
        // Parts of a condition that do not stand by themselves are not shown, for the files that have such.
        let engine = made(&|_| true).or_else(|_| {
            let good: BTreeSet<&str> = files
                .iter()
                .filter(|one| made(&|file| std::ptr::eq(file, *one)).is_ok())
                .map(|file| file.path.as_str())
                .collect();
            made(&|file| good.contains(file.path.as_str()))
        })?;
        Ok(Looking { files, engine, until })
    }

    /// The definitions of a rule, with their files and their places in those.
    fn definitions(&self, wanted: &str) -> Vec<(usize, &'f File, usize, &'f Rule)> {
        let all = self.files.iter().enumerate().flat_map(|(nth, file)| {
            let rules = file.module.policy.iter().enumerate();
            rules.map(move |(at, rule)| (nth, file, at, &**rule))
        });
        all.filter(|(_, file, _, rule)| name(file, rule).as_deref() == Some(wanted))
            .filter(|(.., rule)| matches!(rule, Rule::Spec { head: RuleHead::Compr { .. } | RuleHead::Set { .. }, .. }))
            .collect()
    }

    fn rule(&mut self, wanted: &str, depth: usize, seen: &mut BTreeSet<String>) -> RuleSaid {
        seen.insert(wanted.to_owned());
        let value = match self.engine.eval_rule(wanted.to_owned()) {
            Ok(Value::Undefined) | Err(_) => None,
            Ok(value) => Some(probe::shown(&value)),
        };
        let mut said = RuleSaid { name: wanted.to_owned(), value, bodies: Vec::new() };
        for (nth, file, at, rule) in self.definitions(wanted) {
            let Rule::Spec { bodies, head, .. } = rule else { continue };
            let complete = matches!(head, RuleHead::Compr { .. });
            for (n, body) in bodies.iter().enumerate() {
                if self.until.is_over() {
                    return said;
                }
                let mark = mark(nth, at, n);
                let failure = probe::failure(&mut self.engine, &file.package, &mark, body);
                let (line, _) = place(if n == 0 { rule_span(rule) } else { &body.span });
                let mut rules = Vec::new();
                if let (Some((statement, _)), true) = (&failure, depth > 0) {
                    let exprs = body.query.stmts.get(*statement).map(expressions).unwrap_or_default();
                    let named: Vec<String> = exprs.into_iter().flat_map(|expr| self.named(file, expr)).collect();
                    for below in named {
                        if !seen.contains(&below) {
                            rules.push(self.rule(&below, depth - 1, seen));
                        }
                    }
                }
                let held = failure.is_none();
                let failure = failure.map(|(_, failure)| failure);
                said.bodies.push(BodySaid { file: file.path.clone(), line, failure, rules });
                // What comes after it with `else` is not asked.
                if held && complete {
                    break;
                }
            }
        }
        said
    }

    /// Names of rules that an expression looks at.
    fn named(&self, file: &File, expr: &Expr) -> Vec<String> {
        let mut found = Vec::new();
        syntax::walk(expr, &mut |expr| {
            let Some((root, keys)) = reference(expr) else { return true };
            let mut path = root.to_owned();
            let mut names = vec![file.absolute(&path)];
            for key in &keys {
                let syntax::Key::Name(name, _) = key else { break };
                path = format!("{path}.{name}");
                names.push(file.absolute(&path));
            }
            found.extend(names.into_iter().find(|name| !self.definitions(name).is_empty()));
            true
        });
        found.sort();
        found.dedup();
        found
    }

    /// The bodies that gave a reason.
    fn denials(&mut self, reason: &Reason) -> Vec<Held> {
        let mut held = Vec::new();
        for rule in ["data.partnergate.denials", "data.partnergate.custom.deny"] {
            for (nth, file, at, rule) in self.definitions(rule) {
                let Rule::Spec { head: RuleHead::Set { key: Some(key), .. }, bodies, .. } = rule else { continue };
                let said = match &**key {
                    Expr::Object { fields, .. } => fields
                        .iter()
                        .find(|(_, key, _)| text(key) == Some("reason"))
                        .and_then(|(.., value)| text(value)),
                    other => text(other),
                };
                if said != Some(reason.as_str()) {
                    continue;
                }
                for (n, body) in bodies.iter().enumerate() {
                    let mark = mark(nth, at, n);
                    if self.until.is_over() {
                        return held;
                    }
                    if probe::failure(&mut self.engine, &file.package, &mark, body).is_some() {
                        continue;
                    }
                    let conditions = body.query.stmts.iter().enumerate();
                    let conditions =
                        conditions.filter(|(_, statement)| !matches!(statement.literal, Literal::SomeVars { .. }));
                    let conditions = conditions.map(|(k, statement)| {
                        let seen = probe::seen(&mut self.engine, &file.package, &mark, k, statement);
                        (syntax::written(&statement.span).to_owned(), seen)
                    });
                    let conditions = conditions.collect();
                    held.push(Held { file: file.path.clone(), line: place(rule_span(rule)).0, conditions });
                }
            }
        }
        held
    }
}

fn rule_span(rule: &Rule) -> &regorus::unstable::Span {
    match rule {
        Rule::Spec { span, .. } | Rule::Default { span, .. } => span,
    }
}

/// Every body of a file with a mark of its own among those of all files: several may be of one package.
fn bodies(nth: usize, file: &File) -> Vec<(String, &regorus::unstable::RuleBody)> {
    let mut all = Vec::new();
    for (at, rule) in file.module.policy.iter().enumerate() {
        if let Rule::Spec { head: RuleHead::Compr { .. } | RuleHead::Set { .. }, bodies, .. } = &**rule {
            all.extend(bodies.iter().enumerate().map(|(n, body)| (mark(nth, at, n), body)));
        }
    }
    all
}

/// Of a body, by its file, rule and place in that.
fn mark(file: usize, rule: usize, body: usize) -> String {
    format!("{file}_{rule}_{body}")
}

/// A change of an input, and what it means.
struct Change {
    text: String,
    /// One of many hours, of which the first that is good says enough.
    hour: bool,
    make: Box<dyn Fn(&mut Value)>,
}

impl Change {
    fn new(text: String, make: impl Fn(&mut Value) + 'static) -> Change {
        Change { text, hour: false, make: Box::new(make) }
    }
}

/// Single changes under which the policy allows; two together where there is none.
fn changes(policy: &Policy, input: &Value, until: &mut Until) -> Vec<Vec<String>> {
    let candidates = candidates(input);
    let allows = |changes: &[&Change]| {
        let mut changed = input.clone();
        changes.iter().for_each(|change| (change.make)(&mut changed));
        matches!(policy.evaluate(changed), Verdict::Allow { .. })
    };
    // Those after `from` that are enough, with what is changed already.
    let mut enough = |with: Option<&Change>, from: usize| {
        let (mut found, mut hour) = (Vec::new(), false);
        for change in candidates.iter().skip(from) {
            if until.is_over() {
                break;
            }
            let both: Vec<&Change> = with.into_iter().chain([change]).collect();
            if !(change.hour && hour) && allows(&both) {
                hour |= change.hour;
                found.push(both.iter().map(|change| change.text.clone()).collect());
            }
        }
        found
    };
    let single: Vec<Vec<String>> = enough(None, 0);
    if !single.is_empty() {
        return single;
    }
    let mut found = Vec::new();
    for (n, one) in candidates.iter().enumerate().take_while(|(_, change)| !change.hour) {
        found.extend(enough(Some(one), n + 1));
    }
    found
}

/// What could be different, by what the input itself names.
fn candidates(input: &Value) -> Vec<Change> {
    let mut all: Vec<Change> = Vec::new();
    let grants = list(at(input, &["partner", "grants"]));
    let networks: BTreeSet<Value> = list(at(input, &["partner", "networks"]))
        .into_iter()
        .chain(grants.iter().flat_map(|grant| list(at(grant, &["networks"]))))
        .collect();
    let has: BTreeSet<Value> = list(at(input, &["source", "networks"])).into_iter().collect();
    for network in networks.difference(&has) {
        let Value::String(name) = network else { continue };
        let (text, network) = (format!("the call came from the network `{name}`"), network.clone());
        all.push(Change::new(text, move |input| edit(input, &["source", "networks"], |value| push(value, &network))));
    }
    for what in ["partner", "credential"] {
        if at(input, &[what, "state"]) != &Value::from("active") {
            let text = format!("the {what} were active");
            all.push(Change::new(text, move |input| edit(input, &[what, "state"], |value| *value = "active".into())));
        }
    }
    if at(input, &["tls", "version"]) == &Value::from("1.2") {
        let change = |input: &mut Value| edit(input, &["tls", "version"], |value| *value = "1.3".into());
        all.push(Change::new("the call came over TLS 1.3".into(), change));
    }
    let operation = at(input, &["request", "operation"]).clone();
    for (n, grant) in grants.iter().enumerate() {
        let Value::String(id) = at(grant, &["id"]) else { continue };
        if let Value::String(name) = &operation {
            if !list(at(grant, &["operations"])).contains(&operation) {
                let (text, operation) = (format!("the grant `{id}` had the operation `{name}`"), operation.clone());
                all.push(Change::new(text, move |input| {
                    of_grant(input, n, "operations", |value| push(value, &operation))
                }));
            }
        }
        let credential = at(input, &["credential", "id"]).clone();
        if let (Value::Array(_), Value::String(name)) = (at(grant, &["credentials"]), &credential) {
            if !list(at(grant, &["credentials"])).contains(&credential) {
                let (text, credential) =
                    (format!("the grant `{id}` were for the credential `{name}`"), credential.clone());
                all.push(Change::new(text, move |input| {
                    of_grant(input, n, "credentials", |value| push(value, &credential))
                }));
            }
        }
    }
    let Some(now) = number(at(input, &["time", "now_ns"])) else { return all };
    let mut instants: BTreeSet<(i64, i64)> = BTreeSet::new();
    for period in grants.iter().chain([at(input, &["partner", "engagement"])]) {
        instants.extend(number(at(period, &["starts_ns"])).filter(|start| *start > now).map(|start| (start, 0)));
        instants.extend(number(at(period, &["ends_ns"])).filter(|end| *end <= now).map(|end| (end, 1)));
    }
    let credential = at(input, &["credential"]);
    instants.extend(number(at(credential, &["not_before_ns"])).filter(|start| *start > now).map(|start| (start, 0)));
    instants.extend(number(at(credential, &["not_after_ns"])).filter(|end| *end <= now).map(|end| (end, 1)));
    for (instant, before) in instants {
        let to = instant.saturating_sub(before);
        let said = UnixNanos(instant);
        let text = format!("the call came {} {said}", if before == 1 { "before" } else { "from" });
        all.push(Change::new(text, move |input| shift(input, to.saturating_sub(now))));
    }
    // Hours of the week: the first of them that is good says enough.
    for hours in 1..168 {
        let mut moved = input.clone();
        shift(&mut moved, hours * HOUR);
        let when = |value: &Value| match (at(value, &["weekday"]), number(at(value, &["hour"]))) {
            (Value::String(day), Some(hour)) => Some(format!("on {day} at {hour:02} o'clock")),
            _ => None,
        };
        let Some(text) = when(at(&moved, &["time", "local"])).or_else(|| when(at(&moved, &["time"]))) else { break };
        let change = Change::new(format!("the call came {text}"), move |input| shift(input, hours * HOUR));
        all.push(Change { hour: true, ..change });
    }
    all
}

/// Moves the time of an input, and what the clock on the wall shows with it.
fn shift(input: &mut Value, by: i64) {
    const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    let wall = |value: &mut Value| {
        let (Value::String(day), Some(hour), Some(minute)) =
            (at(value, &["weekday"]).clone(), number(at(value, &["hour"])), number(at(value, &["minute"])))
        else {
            return;
        };
        let Some(day) = DAYS.iter().position(|name| **name == *day).and_then(|day| i64::try_from(day).ok()) else {
            return;
        };
        let minutes = (day * 24 + hour) * 60 + minute + by.div_euclid(60_000_000_000);
        let minutes = minutes.rem_euclid(7 * 24 * 60);
        let day = usize::try_from(minutes / (24 * 60)).ok().and_then(|day| DAYS.get(day)).copied().unwrap_or_default();
        edit(value, &["weekday"], |value| *value = day.into());
        edit(value, &["hour"], |value| *value = (minutes / 60 % 24).into());
        edit(value, &["minute"], |value| *value = (minutes % 60).into());
    };
    edit(input, &["time", "now_ns"], |value| {
        if let Some(now) = number(value) {
            *value = now.saturating_add(by).into();
        }
    });
    edit(input, &["time", "local"], wall);
    edit(input, &["time"], wall);
}

fn at<'v>(value: &'v Value, path: &[&str]) -> &'v Value {
    path.iter().fold(value, |value, step| match value {
        Value::Object(object) => object.get(&Value::from(*step)).unwrap_or(&Value::Undefined),
        _ => &Value::Undefined,
    })
}

/// Changes what is at a place, where there is something.
fn edit(value: &mut Value, path: &[&str], change: impl FnOnce(&mut Value)) {
    let mut at = value;
    for step in path {
        let Some(next) = at.as_object_mut().ok().and_then(|object| object.get_mut(&Value::from(*step))) else { return };
        at = next;
    }
    change(at);
}

/// The same for a part of a grant.
fn of_grant(input: &mut Value, n: usize, part: &str, change: impl FnOnce(&mut Value)) {
    edit(input, &["partner", "grants"], |grants| {
        if let Some(grant) = grants.as_array_mut().ok().and_then(|grants| grants.get_mut(n)) {
            edit(grant, &[part], change);
        }
    });
}

fn push(value: &mut Value, item: &Value) {
    if let Ok(list) = value.as_array_mut() {
        list.push(item.clone());
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().map(|list| list.iter().cloned().collect()).unwrap_or_default()
}

fn number(value: &Value) -> Option<i64> {
    value.as_i64().ok()
}

#[cfg(test)]
mod tests;
