//! What rules of `package system.log` take out of records, before anything of those is written or signed.
//!
//! In: the lines of one batch, on the thread that writes them. Out: the lines as they are written, and those that wait for an
//! upload. A mask of `/input` holds in both; one of `/result`, and a drop, only for the upload: what was decided is evidence, and
//! a line that is missing would be a hole in it. Where nobody can say what is to be masked, a line has none of its facts. Must
//! never: leave out a line of the sinks; let one through that was to be masked; hold up a request.

use super::event::{Labels, event_of, has_facts};
use super::metrics::Metrics;
use crate::policy::{LogMachine, LogRules, MaskFailure, MaskOp, MaskRule, Masking};
use arc_swap::ArcSwapOption;
use serde_json::{Map, Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Lines of one batch that may use up their time; those after them are not asked about.
const MOST_LATE: usize = 8;
/// What a line has of masks of `/result`, until it is an event. A text, so that nothing in it is taken for a field of the line.
const LATER: &str = "result_masks";

/// The rules that are live; `None` where there are none.
pub(super) type LiveRules = Arc<ArcSwapOption<LogRules>>;

/// See the module.
pub(super) struct Masker {
    live: LiveRules,
    /// Of the upload.
    labels: Labels,
    machine: Option<LogMachine>,
    metrics: Arc<Metrics>,
    failing: bool,
}

/// The lines of a batch.
pub(super) struct Masked {
    pub lines: Vec<u8>,
    /// As they wait for the upload.
    pub upload: Vec<u8>,
}

impl Masker {
    pub fn new(live: LiveRules, labels: Labels, metrics: Arc<Metrics>) -> Masker {
        for outcome in ["masked", "dropped", "failed"] {
            metrics.record_masks.with_label_values(&[outcome]).inc_by(0);
        }
        Masker { live, labels, machine: None, metrics, failing: false }
    }

    /// `None` where there are no rules.
    pub fn masked(&mut self, batch: &[u8]) -> Option<Masked> {
        let Some(rules) = self.live.load_full() else {
            self.machine = None;
            return None;
        };
        let mut masked = Masked { lines: Vec::with_capacity(batch.len()), upload: Vec::new() };
        let mut late = 0;
        for line in batch.split_inclusive(|b| *b == b'\n') {
            if !has_facts(line) {
                masked.lines.extend_from_slice(line);
                masked.upload.extend_from_slice(line);
                continue;
            }
            let asked = if late < MOST_LATE { self.ask(&rules, line) } else { Err(MaskFailure::Time) };
            late += usize::from(asked == Err(MaskFailure::Time));
            self.put(line, asked, &mut masked);
        }
        Some(masked)
    }

    fn ask(&mut self, rules: &Arc<LogRules>, line: &[u8]) -> Result<Masking, MaskFailure> {
        let error = |text: &str| MaskFailure::Error(text.to_owned());
        let event = serde_json::from_slice(line).ok().and_then(|record| event_of(record, &self.labels));
        let event = event.ok_or_else(|| error("the line is no record: this is a bug"))?;
        let machine = self.machine.take().filter(|machine| machine.is_of(rules));
        let mut machine = machine.unwrap_or_else(|| rules.machine());
        // A panic ends the machine, and not the thread that writes.
        let asked = catch_unwind(AssertUnwindSafe(|| (machine.ask(&event), machine)));
        let (asked, machine) = asked.map_err(|_| {
            self.metrics.panics.inc();
            error("the rules have panicked: this is a bug")
        })?;
        self.machine = Some(machine);
        asked
    }

    fn put(&mut self, line: &[u8], asked: Result<Masking, MaskFailure>, masked: &mut Masked) {
        let count = |outcome: &str| self.metrics.record_masks.with_label_values(&[outcome]).inc();
        let masking = match asked {
            Ok(masking) => masking,
            Err(failure) => {
                count("failed");
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(reason = %failure, "rules of `package system.log` fail: records have no facts");
                }
                let stub = stub(line, &failure);
                masked.lines.extend_from_slice(&stub);
                masked.upload.extend_from_slice(&stub);
                return;
            }
        };
        if std::mem::take(&mut self.failing) {
            tracing::info!("rules of `package system.log` do not fail any more");
        }
        let of = |part: &str| masking.rules.iter().filter(|rule| is_below(&rule.path, part)).cloned().collect();
        let (input, later): (Vec<MaskRule>, Vec<MaskRule>) = (of("input"), of("result"));
        if !(input.is_empty() && later.is_empty()) {
            count("masked");
        }
        let line = applied(line, &input);
        masked.lines.extend_from_slice(&line);
        if masking.drop {
            count("dropped");
        } else if later.is_empty() {
            masked.upload.extend_from_slice(&line);
        } else {
            masked.upload.extend(with_later(&line, &later));
        }
    }
}

/// What is masked in an event that has not been yet, and what was.
pub(super) struct Marks {
    erased: Vec<String>,
    masked: Vec<String>,
    later: Vec<MaskRule>,
}

impl Marks {
    /// Takes what is said of it out of a record.
    pub fn taken(record: &mut Map<String, Value>) -> Marks {
        let mut paths = |key: &str| -> Vec<String> {
            record.shift_remove(key).and_then(|list| serde_json::from_value(list).ok()).unwrap_or_default()
        };
        let (erased, masked) = (paths("erased"), paths("masked"));
        let later = record.shift_remove(LATER);
        let later = later.as_ref().and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
        let later: Vec<(String, Option<Value>)> = later.unwrap_or_default();
        let rule = |(path, value): (String, Option<Value>)| MaskRule {
            op: value.map_or(MaskOp::Remove, MaskOp::Upsert),
            path,
        };
        Marks { erased, masked, later: later.into_iter().map(rule).collect() }
    }

    /// Masks what is left, and says what was: paths that are gone, and paths of what is another value, with `hashes` before them.
    pub fn applied(self, event: &mut Value, hashes: Vec<String>) -> (Vec<String>, Vec<String>) {
        let Marks { mut erased, masked, later } = self;
        let mut all = hashes;
        all.extend(masked);
        mask(event, &later, &mut erased, &mut all);
        all.dedup();
        (erased, all)
    }
}

/// A record without what is masked in its facts; it says of itself what that is.
fn applied(line: &[u8], rules: &[MaskRule]) -> Vec<u8> {
    let record = (!rules.is_empty()).then(|| serde_json::from_slice::<Map<String, Value>>(line).ok());
    let Some(record) = record.flatten() else { return line.to_vec() };
    let (mut erased, mut masked) = (Vec::new(), Vec::new());
    let mut record = Value::Object(record);
    mask(&mut record, rules, &mut erased, &mut masked);
    for (key, paths) in [("erased", erased), ("masked", masked)] {
        if let (Some(record), false) = (record.as_object_mut(), paths.is_empty()) {
            record.insert(key.into(), json!(paths));
        }
    }
    line_of(&record)
}

fn with_later(line: &[u8], rules: &[MaskRule]) -> Vec<u8> {
    let Ok(mut record) = serde_json::from_slice::<Map<String, Value>>(line) else { return line.to_vec() };
    let rules: Vec<(&str, Option<&Value>)> = rules
        .iter()
        .map(|rule| match &rule.op {
            MaskOp::Remove => (rule.path.as_str(), None),
            MaskOp::Upsert(value) => (rule.path.as_str(), Some(value)),
        })
        .collect();
    record.insert(LATER.into(), json!(rules).to_string().into());
    line_of(&record.into())
}

/// All of a record but what came from outside: who, when, what was decided and why, and what has failed.
fn stub(line: &[u8], failure: &MaskFailure) -> Vec<u8> {
    let Ok(mut record) = serde_json::from_slice::<Map<String, Value>>(line) else { return line.to_vec() };
    let input = record.shift_remove("input").unwrap_or_default();
    record.shift_remove("detail");
    let id = |pointer: &str| input.pointer(pointer).cloned();
    let mut failed = Map::from_iter([("failure".to_owned(), json!(failure.as_str()))]);
    failed.extend(id("/partner/id").map(|id| ("partner".to_owned(), id)));
    failed.extend(id("/credential/id").map(|id| ("credential".to_owned(), id)));
    record.insert("mask_failed".into(), failed.into());
    line_of(&record.into())
}

fn line_of(record: &Value) -> Vec<u8> {
    let mut line = record.to_string().into_bytes();
    line.push(b'\n');
    line
}

fn is_below(path: &str, part: &str) -> bool {
    path.strip_prefix('/').and_then(|path| path.strip_prefix(part)).is_some_and(|r| r.is_empty() || r.starts_with('/'))
}

/// One part of a path, as the document has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Key(String),
    Item(usize),
}

/// Masks all that is to be masked, and notes what there was to do. Each path means the document as it came, in which nothing
/// has moved. What one rule removes and another replaces is removed.
fn mask(document: &mut Value, rules: &[MaskRule], erased: &mut Vec<String>, masked: &mut Vec<String>) {
    let places: Vec<(&MaskRule, Vec<Step>, bool)> = rules
        .iter()
        .map(|rule| {
            let (steps, is_there) = place_of(document, &rule.path);
            (rule, steps, is_there)
        })
        .collect();
    // The last item of a list comes first, and what is in an item before the item, so that those that wait do not move; what
    // two rules name is removed once.
    let mut gone: Vec<&[Step]> = Vec::new();
    for (rule, steps, is_there) in &places {
        if matches!(rule.op, MaskOp::Remove) && *is_there {
            gone.push(steps);
            erased.push(rule.path.clone());
        }
    }
    gone.sort_unstable_by(|one, other| other.cmp(one));
    gone.dedup();
    // These move nothing.
    for (rule, steps, _) in &places {
        let MaskOp::Upsert(value) = &rule.op else { continue };
        let parts: Vec<&str> = rule.path.split('/').skip(1).collect();
        if !gone.iter().any(|gone| steps.starts_with(gone)) && upsert(document, &parts, value) {
            masked.push(rule.path.clone());
        }
    }
    for steps in gone {
        remove(document, steps);
    }
}

/// Where a path leads, and whether there is something. What is missing is taken for keys.
fn place_of(document: &Value, path: &str) -> (Vec<Step>, bool) {
    let (mut place, mut steps) = (Some(document), Vec::new());
    for part in path.split('/').skip(1) {
        let (step, next) = match place {
            Some(Value::Object(object)) => {
                let key = key_in(object, part);
                let next = key.as_ref().and_then(|key| object.get(key));
                (Step::Key(key.unwrap_or_else(|| part.to_owned())), next)
            }
            Some(Value::Array(list)) => match part.parse() {
                Ok(n) => (Step::Item(n), list.get(n)),
                Err(_) => (Step::Key(part.to_owned()), None),
            },
            _ => (Step::Key(part.to_owned()), None),
        };
        steps.push(step);
        place = next;
    }
    (steps, place.is_some())
}

/// Takes away what is at a place, where it still is.
fn remove(document: &mut Value, steps: &[Step]) {
    let Some((last, above)) = steps.split_last() else { return };
    let mut place = document;
    for step in above {
        let next = match (place, step) {
            (Value::Object(object), Step::Key(key)) => object.get_mut(key),
            (Value::Array(list), Step::Item(n)) => list.get_mut(*n),
            _ => None,
        };
        let Some(next) = next else { return };
        place = next;
    }
    match (place, last) {
        (Value::Object(object), Step::Key(key)) => drop(object.shift_remove(key)),
        (Value::Array(list), Step::Item(n)) if *n < list.len() => drop(list.remove(*n)),
        _ => {}
    }
}

/// Puts a value at a path, with what is missing above it. Returns whether there was a place for it.
fn upsert(document: &mut Value, path: &[&str], value: &Value) -> bool {
    let Some((last, above)) = path.split_last() else { return false };
    let mut place = document;
    for step in above {
        if let Value::Object(object) = &mut *place {
            if key_in(object, step).is_none() {
                object.insert((*step).to_owned(), json!({}));
            }
        }
        let Some(next) = below(place, step) else { return false };
        place = next;
    }
    match place {
        Value::Object(object) => {
            let key = key_in(object, last).unwrap_or_else(|| (*last).to_owned());
            object.insert(key, value.clone());
            true
        }
        Value::Array(list) => match last.parse::<usize>().ok().and_then(|n| list.get_mut(n)) {
            Some(slot) => {
                *slot = value.clone();
                true
            }
            None => false,
        },
        _ => false,
    }
}

fn below<'v>(value: &'v mut Value, step: &str) -> Option<&'v mut Value> {
    match value {
        Value::Object(object) => {
            let key = key_in(object, step)?;
            object.get_mut(&key)
        }
        Value::Array(list) => list.get_mut(step.parse::<usize>().ok()?),
        _ => None,
    }
}

/// A key as OPA reads it, which is as it is written; or else as a JSON pointer has it (RFC 6901).
fn key_in(object: &Map<String, Value>, step: &str) -> Option<String> {
    if object.contains_key(step) {
        return Some(step.to_owned());
    }
    let pointed = step.replace("~1", "/").replace("~0", "~");
    object.contains_key(&pointed).then_some(pointed)
}

#[cfg(test)]
mod tests;
