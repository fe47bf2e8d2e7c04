//! Why the policy decided as it did on one input, and what else would have been allowed.
//!
//! In: the folder's files and an input of contract version 1. Out: the decision, the rules that led to it with the conditions that
//! did not hold and what those saw, and changes of single facts under which it would be an allow. Each of these was tried: what is
//! said of it is what the policy said. Must never: decide anything; what serves is not touched.

mod told;

pub use told::{BodyTold, ConditionTold, FailureTold, GiverTold, ReasonTold, RuleTold, SeenTold, Told, VerdictTold};

use super::probe::{self, Failure, NoTime, Seen};
use super::syntax::{self, File, expressions, name, place, reference, text};
use super::{ENTRYPOINT, EngineKind, Policy, PolicyLimits, PolicySource, Verdict, evaluate, on_large_stack, program};
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
/// How long one rule may be looked into where somebody waits: this long, and no longer than so many evaluations, of which each
/// could be one that grows. The interpreter takes more time than the engine that serves.
const RULE_LIMIT: Duration = Duration::from_secs(1);
const RULE_EVALUATIONS: u32 = 4;
/// A rule that does nothing, whose file has a package of its own.
const READY: (&str, &str, &str) = ("pgx_ready.rego", "package pgx_ready\n\nready := true\n", "data.pgx_ready.ready");

/// What is known of the certificate in an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    Given,
    /// Nobody has one: whenever the call came, it would come with one that is valid then.
    Supposed,
}

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
    /// Whether all of it was looked at.
    pub complete: bool,
}

/// A rule, and how far its bodies came.
#[derive(Clone, Debug)]
pub struct RuleSaid {
    /// `data.a.b`.
    pub name: String,
    /// What it is, as Rego writes it; `None` where it is undefined, or, without bodies, where nobody knows.
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
/// The policy is not good.
pub fn explain(source: &PolicySource, input: &Value, limits: PolicyLimits) -> Result<Explanation, Problems> {
    Ok(Policy::compile(source, EngineKind::Rvm, limits)?.explain(input, Certificate::Given, None))
}

impl Policy {
    /// Explains what this policy decides on an input. Nothing further is looked into after `until`, so that it ends not much
    /// later. Where its rules cannot be looked into, what it decides is all that is said.
    pub fn explain(&self, input: &Value, certificate: Certificate, until: Option<Instant>) -> Explanation {
        let verdict = self.evaluate(input.clone());
        on_large_stack(|| explain_here(self, input, certificate, &verdict, until)).unwrap_or_else(|problems| {
            tracing::error!(%problems, "an explanation has failed");
            Explanation::of(verdict)
        })
    }
}

impl Explanation {
    /// One that says no more than what was decided.
    fn of(verdict: Verdict) -> Explanation {
        let decision = RuleSaid { name: ENTRYPOINT.to_owned(), value: None, bodies: Vec::new() };
        let reasons = match &verdict {
            Verdict::Deny { reasons, .. } => reasons.iter().map(|reason| (reason.clone(), Vec::new())).collect(),
            Verdict::Allow { .. } => Vec::new(),
        };
        Explanation { verdict, interpreter: None, decision, reasons, allowed_if: Vec::new(), complete: false }
    }
}

fn explain_here(
    policy: &Policy,
    input: &Value,
    certificate: Certificate,
    verdict: &Verdict,
    until: Option<Instant>,
) -> Explanation {
    let mut explanation = Explanation::of(verdict.clone());
    let mut engine = policy.engine.clone();
    let files = syntax::files(&mut engine);
    let mut looking = match Looking::new(&files, policy, input, Until { until, passed: false }) {
        Ok(looking) => looking,
        Err(reason) => {
            tracing::warn!(reason, "the rules of the policy cannot be looked into");
            return explanation;
        }
    };
    explanation.decision = looking.rule(ENTRYPOINT, DEPTH, &mut BTreeSet::new());
    if let Ok(value @ (Value::Object(_) | Value::Undefined)) = looking.ask(ENTRYPOINT.to_owned()) {
        explanation.interpreter = Some(policy.read(&value)).filter(|said| said != verdict);
    }
    if let Verdict::Deny { reasons, .. } = verdict {
        explanation.reasons = reasons.iter().map(|reason| (reason.clone(), looking.denials(reason))).collect();
        explanation.allowed_if = changes(policy, input, certificate, &mut looking.until);
    }
    explanation.complete = !looking.until.passed;
    explanation
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

    /// How long there is for one thing that may take no longer than `most`; `None` where nobody waits.
    fn left(&self, most: Duration) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()).min(most))
    }
}

/// The bodies of all rules, with an engine that has a rule for each of their statements.
struct Looking<'f> {
    files: &'f [File],
    engine: Engine,
    until: Until,
    rule_limit: Duration,
}

impl<'f> Looking<'f> {
    fn new(files: &'f [File], policy: &Policy, input: &Value, mut until: Until) -> Result<Looking<'f>, String> {
        let mut made = |with_values: &dyn Fn(&File) -> bool| -> Result<Engine, String> {
            if until.is_over() {
                return Err("there was no time for it".into());
            }
            let mut engine = program::engine();
            engine.set_gather_prints(true);
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
            let (path, text, rule) = READY;
            engine.add_policy(path.to_owned(), text.to_owned()).map_err(|e| e.to_string())?;
            engine.add_data(policy.data.clone()).map_err(|e| e.to_string())?;
            engine.set_input(input.clone());
            // All files are made ready before any rule is evaluated. Those of the policy take their time later.
            engine.eval_rule(rule.to_owned()).map_err(|e| e.to_string())?;
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
        let rule_limit = policy.limits.time.saturating_mul(RULE_EVALUATIONS).min(RULE_LIMIT);
        Ok(Looking { files, engine, until, rule_limit })
    }

    /// What a rule is. Nothing is asked after one that there was no time for: it would be in the way of most others.
    fn ask(&mut self, rule: String) -> Result<Value, NoTime> {
        // Once more, since the thread may have been without a processor for all that time.
        for _ in 0..2 {
            if self.until.is_over() {
                return Err(NoTime);
            }
            if let Some(limit) = self.until.left(self.rule_limit) {
                // What grows could double with each step; here it is not known which rules do.
                let check_interval = NonZeroU32::MIN;
                self.engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval });
            }
            let asked = self.engine.eval_rule(rule.clone());
            // Nobody reads them.
            let _ = self.engine.take_prints();
            match asked {
                Ok(value) => return Ok(value),
                Err(e) if evaluate::is_time(&e.to_string()) => {}
                Err(_) => return Ok(Value::Undefined),
            }
        }
        self.until.passed = true;
        Err(NoTime)
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
        let mut said = RuleSaid { name: wanted.to_owned(), value: None, bodies: Vec::new() };
        match self.ask(wanted.to_owned()) {
            Ok(Value::Undefined) => {}
            Ok(value) => said.value = Some(probe::shown(&value)),
            Err(NoTime) => return said,
        }
        for (nth, file, at, rule) in self.definitions(wanted) {
            let Rule::Spec { bodies, head, .. } = rule else { continue };
            let complete = matches!(head, RuleHead::Compr { .. });
            for (n, body) in bodies.iter().enumerate() {
                let mark = mark(nth, at, n);
                let failure = probe::failure(&mut |rule| self.ask(rule), &file.package, &mark, body);
                let Ok(failure) = failure else { return said };
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
                    match probe::failure(&mut |rule| self.ask(rule), &file.package, &mark, body) {
                        Ok(None) => {}
                        Ok(Some(_)) => continue,
                        Err(NoTime) => return held,
                    }
                    let conditions = body.query.stmts.iter().enumerate();
                    let conditions =
                        conditions.filter(|(_, statement)| !matches!(statement.literal, Literal::SomeVars { .. }));
                    let conditions = conditions.map(|(k, statement)| {
                        let seen = probe::seen(&mut |rule| self.ask(rule), &file.package, &mark, k, statement);
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
fn changes(policy: &Policy, input: &Value, certificate: Certificate, until: &mut Until) -> Vec<Vec<String>> {
    let candidates = candidates(input, certificate);
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
fn candidates(input: &Value, certificate: Certificate) -> Vec<Change> {
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
        all.push(Change::new(text, move |input| shift(input, certificate, to.saturating_sub(now))));
    }
    // Hours of the week: the first of them that is good says enough.
    for hours in 1..168 {
        let mut moved = input.clone();
        shift(&mut moved, certificate, hours * HOUR);
        let when = |value: &Value| match (at(value, &["weekday"]), number(at(value, &["hour"]))) {
            (Value::String(day), Some(hour)) => Some(format!("on {day} at {hour:02} o'clock")),
            _ => None,
        };
        let Some(text) = when(at(&moved, &["time", "local"])).or_else(|| when(at(&moved, &["time"]))) else { break };
        let change = Change::new(format!("the call came {text}"), move |input| shift(input, certificate, hours * HOUR));
        all.push(Change { hour: true, ..change });
    }
    all
}

/// Moves the time of an input, what the clock on the wall shows with it, and when a certificate that nobody has is valid.
fn shift(input: &mut Value, certificate: Certificate, by: i64) {
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
    let instant = |value: &mut Value| {
        if let Some(now) = number(value) {
            *value = now.saturating_add(by).into();
        }
    };
    edit(input, &["time", "now_ns"], instant);
    if certificate == Certificate::Supposed {
        edit(input, &["credential", "not_before_ns"], instant);
        edit(input, &["credential", "not_after_ns"], instant);
    }
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
