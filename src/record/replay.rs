//! Recorded decisions, decided again by another policy: what would have been different.
//!
//! In: lines of records, and a policy. Out: how many decisions stay and which change, by partner, operation and reason. What policy
//! was not asked about stays what it was: the floor denies whatever a policy says. A decision of which the policy looks at something
//! that the record has only as a hash is not judged, and counted with why.

use super::recorded;
use crate::policy::{Policy, Verdict};
use crate::reason::Reason;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Decision ids that are kept of each change.
const EXAMPLES: usize = 3;

/// What became of decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Decisions that were looked at.
    pub decisions: u64,
    /// Those that are the same, with those that policy was not asked about.
    pub same: u64,
    pub changes: BTreeMap<Change, Examples>,
    /// Those that cannot be judged, by why.
    pub not_replayable: BTreeMap<String, Examples>,
    /// Lines that are no decisions: handshakes, requests that could not be read, copies of the history, and such.
    pub others: u64,
}

/// How many, and a few by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examples {
    pub count: u64,
    pub ids: Vec<String>,
}

/// Decisions that change in one way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    pub kind: Kind,
    pub partner: String,
    pub operation: String,
    /// The first reason of the denial, or both where both are one.
    pub reason: String,
}

/// In which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    NewlyAllowed,
    NewlyDenied,
    /// Denied both times, for another reason.
    OtherReason,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::NewlyAllowed => "newly-allowed",
            Kind::NewlyDenied => "newly-denied",
            Kind::OtherReason => "other-reason",
        }
    }
}

impl Examples {
    fn add(&mut self, id: &str) {
        self.count += 1;
        if self.ids.len() < EXAMPLES {
            self.ids.push(id.to_owned());
        }
    }

    fn merge(&mut self, other: Examples) {
        self.count += other.count;
        self.ids.extend(other.ids);
        self.ids.truncate(EXAMPLES);
    }
}

impl Replayed {
    pub fn merge(&mut self, other: Replayed) {
        self.decisions += other.decisions;
        self.same += other.same;
        self.others += other.others;
        for (change, examples) in other.changes {
            self.changes.entry(change).or_default().merge(examples);
        }
        for (why, examples) in other.not_replayable {
            self.not_replayable.entry(why).or_default().merge(examples);
        }
    }

    /// Decisions that change in this way.
    pub fn count(&self, kind: Kind) -> u64 {
        self.changes.iter().filter(|(change, _)| change.kind == kind).map(|(_, examples)| examples.count).sum()
    }
}

/// What of a line is needed to tell what it is.
#[derive(Deserialize)]
struct Line<'l> {
    #[serde(default)]
    kind: &'l str,
    #[serde(default)]
    decision_id: &'l str,
    #[serde(default)]
    result: &'l str,
    #[serde(default)]
    reason: Option<&'l str>,
    #[serde(default)]
    reasons: Vec<&'l str>,
    #[serde(borrow, default)]
    input: Option<&'l RawValue>,
}

/// A policy that decisions are replayed under.
pub struct Replay<'p> {
    policy: &'p Policy,
    /// Facts that its rules look at, as dotted paths.
    looks_at: Vec<String>,
    /// A policy whose word stands in the place of what was recorded.
    base: Option<&'p Policy>,
}

impl<'p> Replay<'p> {
    pub fn new(policy: &'p Policy, base: Option<&'p Policy>) -> Replay<'p> {
        let mut looks_at = policy.looks_at().to_vec();
        looks_at.extend(base.map(|base| base.looks_at().to_vec()).unwrap_or_default());
        looks_at.sort();
        looks_at.dedup();
        Replay { policy, looks_at, base }
    }

    /// Decides what is recorded in a line again, and notes what came of it.
    pub fn line(&self, line: &[u8], found: &mut Replayed) {
        let Ok(line) = serde_json::from_slice::<Line<'_>>(line) else {
            found.others += 1;
            return;
        };
        let (Some(input), "request" | "stream-cut") = (line.input, line.kind) else {
            found.others += 1;
            return;
        };
        found.decisions += 1;
        let before = match was(&line) {
            Ok(before) => before,
            Err(Untouched::Floor) => {
                found.same += 1;
                return;
            }
            Err(Untouched::Unclear(why)) => {
                found.not_replayable.entry(why).or_default().add(line.decision_id);
                return;
            }
        };
        let record = serde_json::from_str::<Value>(input.get()).map_err(|e| format!("its input is not JSON: {e}"));
        let input = record.and_then(recorded::facts);
        let facts = match input {
            Ok(facts) => facts,
            Err(why) => {
                found.not_replayable.entry(why).or_default().add(line.decision_id);
                return;
            }
        };
        let hidden =
            recorded::masked(&facts).into_iter().find(|path| self.looks_at.iter().any(|fact| overlap(fact, path)));
        if let Some(path) = hidden {
            let why = format!("the policy looks at `{path}`, which is a hash in the record");
            found.not_replayable.entry(why).or_default().add(line.decision_id);
            return;
        }
        let text = |pointer: &str| facts.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
        let (partner, operation) = (text("/partner/id"), text("/request/operation"));
        let facts = regorus::Value::from(facts);
        let before = match self.base {
            Some(base) => first(base.evaluate(facts.clone())),
            None => before,
        };
        let after = first(self.policy.evaluate(facts));
        let (kind, reason) = match (before, after) {
            (None, None) => {
                found.same += 1;
                return;
            }
            (Some(before), Some(after)) if before == after => {
                found.same += 1;
                return;
            }
            (Some(before), None) => (Kind::NewlyAllowed, before),
            (None, Some(after)) => (Kind::NewlyDenied, after),
            (Some(before), Some(after)) => (Kind::OtherReason, format!("{before} → {after}")),
        };
        let change = Change { kind, partner, operation, reason };
        found.changes.entry(change).or_default().add(line.decision_id);
    }
}

/// Why a policy has no say in a decision.
enum Untouched {
    Floor,
    Unclear(String),
}

/// What policy said in a record: the first reason of its denial, or none where it allowed.
fn was(line: &Line<'_>) -> Result<Option<String>, Untouched> {
    // A stream that was cut had been allowed; what ended it may be policy or not.
    match (line.result, line.reason) {
        ("allow" | "aborted" | "error", _) if line.kind == "request" => Ok(None),
        ("deny", Some(first)) => {
            let all = if line.reasons.is_empty() { vec![first] } else { line.reasons.clone() };
            // That a grant was revoked is added to what policy says.
            let said = all.into_iter().find(|name| *name != Reason::GrantRevoked.as_str());
            match said.map(|name| (name, Reason::parse(name))) {
                Some((name, None)) => Ok(Some(name.to_owned())),
                Some((name, Some(reason))) if reason.is_of_policy() => match reason {
                    Reason::PolicyTimeout | Reason::PolicyInstructionLimit => {
                        Err(Untouched::Unclear(format!("it was denied as `{name}`")))
                    }
                    _ => Ok(Some(name.to_owned())),
                },
                _ => Err(Untouched::Floor),
            }
        }
        _ => Err(Untouched::Floor),
    }
}

fn first(verdict: Verdict) -> Option<String> {
    match verdict {
        Verdict::Allow { .. } => None,
        Verdict::Deny { reasons, .. } => Some(reasons.first().unwrap_or(&Reason::PolicyDenied).to_string()),
    }
}

/// Whether one of two paths lies on the other.
fn overlap(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
