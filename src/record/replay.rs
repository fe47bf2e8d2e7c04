//! Recorded decisions, decided again by another policy: what would have been different.
//!
//! In: lines of records, and a policy. Out: how many decisions stay and which change, by partner, operation and reason. What policy
//! was not asked about stays what it was: the floor denies whatever a policy says. A decision of which the policy looks at something
//! that the record has only as a hash is not judged, and counted with why.

use super::recorded;
use crate::policy::{Policy, Verdict, overlap};
use crate::reason::Reason;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
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
    /// Lines that cannot be read.
    pub unreadable: u64,
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
    pub fn add(&mut self, id: &str) {
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
        self.unreadable += other.unreadable;
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
    #[serde(borrow, default)]
    kind: Cow<'l, str>,
    #[serde(borrow, default)]
    decision_id: Cow<'l, str>,
    #[serde(borrow, default)]
    result: Cow<'l, str>,
    #[serde(borrow, default)]
    reason: Option<Cow<'l, str>>,
    #[serde(default)]
    reasons: Vec<String>,
    #[serde(borrow, default)]
    input: Option<&'l RawValue>,
    /// By rules of `package system.log`.
    #[serde(default)]
    erased: Vec<String>,
    #[serde(default)]
    masked: Vec<String>,
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
            found.unreadable += 1;
            return;
        };
        if !matches!(&*line.kind, "request" | "stream-cut") {
            found.others += 1;
            return;
        }
        found.decisions += 1;
        let Some(input) = line.input else {
            found.not_replayable.entry("it has no `input`".into()).or_default().add(&line.decision_id);
            return;
        };
        let before = match was(&line) {
            Ok(before) => before,
            Err(Untouched::Floor) => {
                found.same += 1;
                return;
            }
            Err(Untouched::Unclear(why)) => {
                found.not_replayable.entry(why).or_default().add(&line.decision_id);
                return;
            }
        };
        let record = serde_json::from_str::<Value>(input.get()).map_err(|e| format!("its input is not JSON: {e}"));
        let input = record.and_then(recorded::facts);
        let facts = match input {
            Ok(facts) => facts,
            Err(why) => {
                found.not_replayable.entry(why).or_default().add(&line.decision_id);
                return;
            }
        };
        let hidden =
            recorded::masked(&facts).into_iter().find(|path| self.looks_at.iter().any(|fact| overlap(fact, path)));
        if let Some(path) = hidden {
            let why = format!("the policy looks at `{path}`, which is a hash in the record");
            found.not_replayable.entry(why).or_default().add(&line.decision_id);
            return;
        }
        let hidden = recorded::hidden(line.erased.iter().chain(&line.masked).map(String::as_str));
        if let Some(path) = hidden.iter().find(|path| self.looks_at.iter().any(|fact| overlap(fact, path))) {
            let why = format!("the policy looks at `{path}`, which is masked in the record");
            found.not_replayable.entry(why).or_default().add(&line.decision_id);
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
        let Some((kind, reason)) = compared(before.as_deref(), after.as_deref()) else {
            found.same += 1;
            return;
        };
        let change = Change { kind, partner, operation, reason };
        found.changes.entry(change).or_default().add(&line.decision_id);
    }
}

/// In which way two decisions differ, and by which reason; each is the first reason of a denial, or nothing of an allow.
pub fn compared(before: Option<&str>, after: Option<&str>) -> Option<(Kind, String)> {
    match (before, after) {
        (before, after) if before == after => None,
        (Some(before), Some(after)) => Some((Kind::OtherReason, format!("{before} → {after}"))),
        (Some(before), None) => Some((Kind::NewlyAllowed, before.to_owned())),
        (None, after) => Some((Kind::NewlyDenied, after.unwrap_or_default().to_owned())),
    }
}

/// Why a policy has no say in a decision.
enum Untouched {
    Floor,
    Unclear(String),
}

/// What policy said in a record: the first reason of its denial, or none where it allowed.
fn was(line: &Line<'_>) -> Result<Option<String>, Untouched> {
    let unclear = |why: String| Err(Untouched::Unclear(why));
    match &*line.result {
        "allow" | "aborted" | "error" if line.kind == "request" => return Ok(None),
        "deny" => {}
        other => return unclear(format!("its result is `{}`", other.escape_debug())),
    }
    let first = line.reason.iter().map(|reason| &**reason);
    // That a grant was revoked is added to what policy says.
    let mut all =
        line.reasons.iter().map(String::as_str).chain(first).filter(|name| *name != Reason::GrantRevoked.as_str());
    let Some(name) = all.next() else { return unclear("it is denied without a reason".into()) };
    match Reason::parse(name) {
        Some(Reason::PolicyTimeout | Reason::PolicyInstructionLimit) => unclear(format!("it was denied as `{name}`")),
        Some(reason) if !reason.is_of_policy() => Err(Untouched::Floor),
        _ => Ok(Some(name.to_owned())),
    }
}

fn first(verdict: Verdict) -> Option<String> {
    match verdict {
        Verdict::Allow { .. } => None,
        Verdict::Deny { reasons, .. } => Some(reasons.first().unwrap_or(&Reason::PolicyDenied).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{EngineKind, PolicyLimits, PolicySource};
    use std::time::Duration;

    const RULES: &str = "package partnergate\n\nimport rego.v1\n\ndefault decision := {\"allow\": true, \"reasons\": [], \"grant\": \"g\"}\n\n\
                         decision := {\"allow\": false, \"reasons\": [\"grant-expired\"]} if";

    fn replayed(rule: &str, lines: &[&str]) -> Replayed {
        let files = vec![("partnergate/d.rego".to_owned(), format!("{RULES} {rule}\n"))];
        let limits = PolicyLimits { time: Duration::from_secs(5), instructions: 100_000 };
        let policy =
            Policy::compile(&PolicySource { files }, EngineKind::Rvm, limits).unwrap_or_else(|p| panic!("{p}"));
        let (replay, mut found) = (Replay::new(&policy, None), Replayed::default());
        lines.iter().for_each(|line| replay.line(line.as_bytes(), &mut found));
        found
    }

    fn line(result: &str, input: &str) -> String {
        format!("{{\"kind\":\"request\",\"decision_id\":\"1\",{result},\"input\":{{\"version\":1,{input}}}}}")
    }

    #[test]
    fn what_is_not_known_is_not_called_the_same() {
        let hash = "h:0123456789abcdef0123456789abcdef";
        let allow = "\"result\":\"allow\"";
        for (rule, line, why) in [
            (
                "startswith(input.request.path, \"/x/7\")",
                line(allow, &format!("\"request\":{{\"path\":\"/x/{hash}\"}}")),
                "input.request.path",
            ),
            (
                "input.source.ip == \"192.0.2.7\"",
                line(allow, "\"source\":{\"ip\":\"192.0.2.0/24\"}"),
                "input.source.ip",
            ),
            ("count(input.request.host) > 600", line(allow, "\"request\":{\"host\":\"aaa…\"}"), "input.request.host"),
            (
                "count(input.request.host) > 6",
                line(allow, "\"request\":{\"host\":\"a\\\\u{1b}\"}"),
                "input.request.host",
            ),
            ("input.version == 2", line("\"result\":\"frobnicate\"", "\"source\":{}"), "its result is `frobnicate`"),
            ("input.version == 2", line("\"result\":\"deny\"", "\"source\":{}"), "without a reason"),
            ("input.version == 2", "{\"kind\":\"request\",\"result\":\"allow\"}".to_owned(), "it has no `input`"),
            ("input.version == 2", line(allow, "\"time\":{\"now\":\"yesterday\"}"), "its `now` is not a time"),
        ] {
            let found = replayed(rule, &[&line]);
            let whys: Vec<&String> = found.not_replayable.keys().collect();
            assert!(
                found.same == 0 && found.decisions == 1 && whys.len() == 1 && whys[0].contains(why),
                "{line}: {found:?}"
            );
        }
    }

    #[test]
    fn decisions_are_compared_by_their_outcome_and_first_reason() {
        let denied = |reason: &str| line(&format!("\"result\":\"deny\",\"reason\":\"{reason}\""), "\"source\":{}");
        let lines = [
            line("\"result\":\"allow\"", "\"source\":{}"),
            denied("grant-expired"),
            denied("network-not-allowed"),
            denied("x-own"),
            denied("lockdown"),
            // Escapes in what is taken from the line.
            line("\"result\":\"allow\"", "\"source\":{}").replace("\"1\"", "\"\\u0031\""),
            "{\"kind\":\"handshake\"}".to_owned(),
            "no JSON".to_owned(),
        ];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let found = replayed("input.version == 1", &lines);
        assert_eq!((found.decisions, found.same, found.others, found.unreadable), (6, 2, 1, 1), "{found:?}");
        assert_eq!((found.count(Kind::NewlyDenied), found.count(Kind::OtherReason)), (2, 2), "{found:?}");
        let found = replayed("input.version == 2", &lines);
        assert_eq!((found.same, found.count(Kind::NewlyAllowed)), (3, 3), "{found:?}");
    }
}
