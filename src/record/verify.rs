//! Whether files of records are as the gateway has written them: the first line that is not, and what no checkpoint is for.
//!
//! In: lines, in the order in which they were written, and the public keys that may have signed. Out: a fault, or what was
//! found. What is kept is what stands between two checkpoints, so that files may be of any size. Must never: take a line
//! for good that no checkpoint is for.

use super::checkpoint::{MARK, RecordCheckpoint, RecordEnd, RecordsLost, START, Tail, Unrecorded, is_good, mark, read};
use ring::digest::{Context, SHA256};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// Lines between two checkpoints whose places are kept. Of more than these it is only said that one of them was altered.
const MAX_PLACES: usize = 1 << 20;
/// Starts of the gateway between two checkpoints.
const MAX_STARTS: usize = 16;
/// Lines one behind another that are remembered as a whole, to say of a copy where the first one stands.
const MAX_STRETCHES: usize = 10_000;

/// Looks at the lines of any number of nodes.
pub struct RecordVerifier {
    /// Public keys, hex.
    keys: Vec<String>,
    nodes: BTreeMap<String, NodeChain>,
    /// Whose line was the last.
    current: String,
}

/// Where a line stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinePlace {
    pub file: Arc<str>,
    pub line: u64,
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RecordFaultKind {
    Altered,
    Missing,
    /// It stands where another one belongs.
    Moved,
    /// The gateway did not write it there.
    Inserted,
    /// Nothing is signed, or not by a key that counts.
    Unsigned,
}

/// The first thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecordFault {
    pub kind: RecordFaultKind,
    pub file: String,
    /// From 1; 0 where it is about all of the files.
    pub line: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    pub detail: String,
}

impl fmt::Display for RecordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.file, self.line)?;
        }
        match (&self.boot, self.seq) {
            (Some(boot), Some(seq)) => write!(f, "boot {boot}, seq {seq}: {}", self.detail),
            _ => f.write_str(&self.detail),
        }
    }
}

/// What was found of one node, without a fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeRecords {
    pub node: String,
    /// Lines that a checkpoint is for.
    pub lines: u64,
    pub checkpoints: u64,
    /// The number of the first checkpoint: with 1 the records of the node begin, and with more there were others before.
    pub first: u64,
    /// The last checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<RecordEnd>,
    /// Lines at the beginning that no checkpoint is for: of before there were any, or of a batch that begins in an earlier
    /// file.
    pub before: u64,
    /// Lines behind the last checkpoint: of a gateway that is writing, or was killed.
    pub unfinished: u64,
    /// What was lost at ends that were not in order.
    pub lost: Vec<LostRecords>,
    /// What had no place while the gateway ran.
    #[serde(default)]
    pub unrecorded: Vec<Unrecorded>,
}

/// What the gateway said at a start of the end before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LostRecords {
    /// The last line that a checkpoint is for: what came behind it may be lost.
    pub boot: String,
    pub seq: u64,
    /// Lines that stand behind it.
    pub unsigned: u64,
    /// Checkpoints that were signed and are not there any more.
    pub checkpoints: u64,
}

impl RecordVerifier {
    pub fn new(keys: Vec<String>) -> Self {
        RecordVerifier { keys, nodes: BTreeMap::new(), current: String::new() }
    }

    /// The next line, with its line feed unless it is cut off.
    ///
    /// # Errors
    /// What is wrong with it, or with one before; then nothing further can be said.
    pub fn line(&mut self, place: &LinePlace, bytes: &[u8]) -> Result<(), RecordFault> {
        let head: Option<Head<'_>> = serde_json::from_slice(bytes).ok();
        let Some(head) = head else {
            // Of whose lines it is, nothing says; which checkpoint it has to be in is found by where it stands.
            let chain = self.nodes.entry(self.current.clone()).or_default();
            return chain.add(place, None, bytes);
        };
        if self.current != *head.node {
            self.current = head.node.clone().into_owned();
        }
        if !self.nodes.contains_key(&self.current) {
            self.nodes.insert(self.current.clone(), NodeChain::default());
        }
        let Some(chain) = self.nodes.get_mut(&self.current) else { return Ok(()) };
        if head.kind == "checkpoint" {
            return chain.checkpoint(place, &head, bytes, &self.keys);
        }
        if head.kind == "records-lost" {
            match serde_json::from_slice(bytes) {
                Ok(lost) => chain.lost = Some((head.boot.clone().into_owned(), lost)),
                Err(_) => chain.unrecorded.extend(serde_json::from_slice::<Unrecorded>(bytes).ok()),
            }
        }
        chain.add(place, Some(&head), bytes)
    }

    /// There are no more lines. `known` is how far a gateway has come by its own account, from before the files were read.
    ///
    /// # Errors
    /// Something is missing at the end, or stands behind it.
    pub fn finish(mut self, known: Option<&RecordEnd>) -> Result<Vec<NodeRecords>, RecordFault> {
        // Lines before any that could be read.
        let unread = self.nodes.remove("").filter(|chain| !chain.places.is_empty());
        if let Some(fault) = unread.and_then(|chain| chain.places.first().map(|p| p.fault(NOT_A_RECORD))) {
            return Err(RecordFault { kind: RecordFaultKind::Inserted, ..fault });
        }
        if let Some(known) = known.filter(|known| known.number > 0 && !self.nodes.contains_key(&known.node)) {
            return Err(missing_end(known, "these files have no record of this node"));
        }
        self.nodes.into_iter().map(|(node, chain)| chain.finish(node, known)).collect()
    }
}

const NOT_A_RECORD: &str = "is no record";

/// What is read of every line.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    node: Cow<'a, str>,
    #[serde(borrow)]
    boot: Cow<'a, str>,
    seq: u64,
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

/// One line since the last checkpoint.
struct Placed {
    place: LinePlace,
    boot: Option<Arc<str>>,
    seq: Option<u64>,
    mark: [u8; MARK],
}

impl Placed {
    fn fault(&self, detail: impl Into<String>) -> RecordFault {
        RecordFault {
            kind: RecordFaultKind::Altered,
            file: self.place.file.to_string(),
            line: self.place.line,
            boot: self.boot.as_ref().map(|b| b.to_string()),
            seq: self.seq,
            detail: detail.into(),
        }
    }
}

/// Lines of one start in one file, one behind another, that a checkpoint is for.
struct Stretch {
    boot: Arc<str>,
    file: Arc<str>,
    seq: u64,
    line: u64,
    count: u64,
}

/// Lines since the first of one start of the gateway.
struct Run {
    boot: Arc<str>,
    /// How many lines stand before it.
    start: u64,
    /// Over all lines since then but the last.
    hash: Context,
    /// What stands before it: the hash of all, and the same without the last line feed.
    before: Option<(String, String)>,
}

/// The records of one node.
#[derive(Default)]
struct NodeChain {
    last: Option<RecordEnd>,
    found: NodeRecords,
    /// Since the last checkpoint.
    count: u64,
    places: Vec<Placed>,
    runs: Vec<Run>,
    /// What checkpoints are for.
    before: Vec<Stretch>,
    /// The last line, which is in no hash yet.
    line: Vec<u8>,
    /// What was said to be lost, and at which start.
    lost: Option<(String, RecordsLost)>,
    /// What was said to have had no place, since the last checkpoint.
    unrecorded: Vec<Unrecorded>,
}

impl NodeChain {
    fn add(&mut self, place: &LinePlace, head: Option<&Head<'_>>, bytes: &[u8]) -> Result<(), RecordFault> {
        let before = (!self.line.is_empty()).then(|| self.hashes_before());
        for run in &mut self.runs {
            run.hash.update(&self.line);
        }
        self.line.clear();
        self.line.extend_from_slice(bytes);
        // What cannot be read belongs to what stands before it.
        let name = match (head, self.runs.last(), &self.last) {
            (Some(head), ..) => head.boot.as_ref(),
            (None, Some(run), _) => &run.boot,
            (None, None, Some(last)) => &last.boot,
            (None, None, None) => "",
        };
        let boot = match self.runs.iter().find(|run| *run.boot == *name) {
            Some(run) => run.boot.clone(),
            None => {
                let boot: Arc<str> = name.into();
                let (start, hash) = (self.count, Context::new(&SHA256));
                self.runs.push(Run { boot: boot.clone(), start, hash, before: before.flatten() });
                boot
            }
        };
        let placed = Placed {
            place: place.clone(),
            boot: head.map(|_| boot),
            seq: head.map(|head| head.seq),
            mark: mark(bytes),
        };
        self.count += 1;
        if self.runs.len() > MAX_STARTS {
            let detail = format!("records of more than {MAX_STARTS} starts stand behind one checkpoint");
            return Err(RecordFault { kind: RecordFaultKind::Inserted, ..placed.fault(detail) });
        }
        if self.places.len() < MAX_PLACES {
            self.places.push(placed);
        }
        Ok(())
    }

    /// Of all lines since the last checkpoint.
    fn hashes_before(&self) -> Option<(String, String)> {
        let first = self.runs.first()?;
        let with = |bytes: &[u8]| {
            let mut hash = first.hash.clone();
            hash.update(bytes);
            hex::encode(hash.finish())
        };
        Some((with(&self.line), with(self.line.strip_suffix(b"\n").unwrap_or(&self.line))))
    }

    fn checkpoint(
        &mut self,
        place: &LinePlace,
        head: &Head<'_>,
        bytes: &[u8],
        keys: &[String],
    ) -> Result<(), RecordFault> {
        let here = |kind, detail: String| RecordFault {
            kind,
            file: place.file.to_string(),
            line: place.line,
            boot: Some(head.boot.to_string()),
            seq: Some(head.seq),
            detail,
        };
        let Some(checkpoint) = read(bytes).filter(|c| is_good(c, bytes)) else {
            return Err(here(RecordFaultKind::Altered, "the checkpoint's signature is not one of this line".into()));
        };
        if !keys.contains(&checkpoint.key) {
            let detail =
                format!("the checkpoint is signed with the key {}, which is none of those given", checkpoint.key);
            return Err(here(RecordFaultKind::Unsigned, detail));
        }
        for run in &mut self.runs {
            run.hash.update(&self.line);
        }
        self.line.clear();
        let lost = self.lost.take().filter(|(boot, _)| *boot == checkpoint.boot).map(|(_, lost)| lost);
        self.follows(&checkpoint, lost.as_ref()).map_err(|(kind, detail, since)| RecordFault {
            boot: since.as_ref().map_or(Some(checkpoint.boot.clone()), |(boot, _)| Some(boot.clone())),
            seq: since.map_or(Some(checkpoint.seq), |(_, seq)| Some(seq)),
            ..here(kind, detail)
        })?;
        let run = self.runs.iter().find(|run| *run.boot == checkpoint.boot);
        let start = run.map_or(self.count, |run| run.start);
        let unsigned = self.tail(&checkpoint, start, lost.as_ref(), &here)?;
        self.batch(&checkpoint, start, &here)?;
        if let (Some(lost), Some(last)) = (lost, &self.last) {
            self.found.lost.push(LostRecords {
                boot: lost.since.boot,
                seq: lost.since.seq,
                unsigned,
                checkpoints: checkpoint.number - 1 - last.number,
            });
        }
        if self.last.is_none() {
            self.found.first = checkpoint.number;
        }
        self.found.checkpoints += 1;
        self.found.unrecorded.append(&mut self.unrecorded);
        self.remember();
        self.last = Some(RecordEnd::of(&checkpoint, bytes));
        self.count = 0;
        self.places.clear();
        self.runs.clear();
        Ok(())
    }

    /// Where the lines since the last checkpoint stand.
    fn remember(&mut self) {
        for Placed { place, boot, seq, .. } in &self.places {
            let (Some(boot), Some(seq)) = (boot, *seq) else { continue };
            let full = self.before.len() >= MAX_STRETCHES;
            match self.before.last_mut() {
                Some(last)
                    if last.boot == *boot
                        && last.file == place.file
                        && (last.seq + last.count, last.line + last.count) == (seq, place.line) =>
                {
                    last.count += 1;
                }
                _ if full => {}
                _ => {
                    let (boot, file) = (boot.clone(), place.file.clone());
                    self.before.push(Stretch { boot, file, seq, line: place.line, count: 1 });
                }
            }
        }
    }

    /// Where the line stands that this is a copy of, by its number.
    fn first_of(&self, copy: &Placed) -> Option<LinePlace> {
        let (boot, seq) = (copy.boot.as_ref()?, copy.seq?);
        let signed = self.before.iter().find_map(|stretch| {
            let nth = seq.checked_sub(stretch.seq).filter(|nth| *nth < stretch.count && stretch.boot == *boot)?;
            Some(LinePlace { file: stretch.file.clone(), line: stretch.line + nth })
        });
        let until = self.places.iter().take_while(|placed| placed.place != copy.place);
        let later = || until.into_iter().find(|one| one.boot.as_ref() == Some(boot) && one.seq == Some(seq));
        signed.or_else(|| later().map(|one| one.place.clone()))
    }

    /// Whether the checkpoint is the next one.
    fn follows(&self, next: &RecordCheckpoint, lost: Option<&RecordsLost>) -> Result<(), NotNext> {
        let Some(last) = &self.last else {
            return if next.number == 1 && next.previous != START {
                Err((RecordFaultKind::Altered, "the first checkpoint names one before it".into(), None))
            } else {
                Ok(())
            };
        };
        if next.number == last.number + 1 && next.previous == last.hash {
            return Ok(());
        }
        if next.number <= last.number {
            let detail = format!("checkpoint {} stands behind checkpoint {}", next.number, last.number);
            return Err((RecordFaultKind::Moved, detail, None));
        }
        if next.number == last.number + 1 {
            let detail = format!("checkpoint {} does not follow the one before it, which is another one", next.number);
            return Err((RecordFaultKind::Altered, detail, None));
        }
        let told = |lost: &&RecordsLost| {
            lost.since.checkpoint == last.number && lost.signed.is_some_and(|signed| signed + 1 == next.number)
        };
        match lost.filter(told) {
            Some(lost) if lost.ended => {
                let detail = format!(
                    "missing, and what follows up to checkpoint {}: the gateway had ended in order, and its next start did \
                     not find them any more",
                    next.number - 1
                );
                Err((RecordFaultKind::Missing, detail, Some((last.boot.clone(), last.seq + 1))))
            }
            Some(_) => Ok(()),
            None => {
                // The first that is not among what stands between them.
                let mut expected = last.seq + 1;
                for placed in &self.places {
                    if placed.boot.as_deref() == Some(&*last.boot) && placed.seq == Some(expected) {
                        expected += 1;
                    }
                }
                let detail =
                    format!("missing: checkpoint {} stands where {} is expected", next.number, last.number + 1);
                Err((RecordFaultKind::Missing, detail, Some((last.boot.clone(), expected))))
            }
        }
    }

    /// Looks at what stands before the batch: lines of a start that did not end in order. Returns how many there are.
    fn tail(
        &mut self,
        next: &RecordCheckpoint,
        start: u64,
        lost: Option<&RecordsLost>,
        here: &dyn Fn(RecordFaultKind, String) -> RecordFault,
    ) -> Result<u64, RecordFault> {
        if self.last.is_none() {
            self.found.before += start;
            return Ok(start);
        }
        let told = lost.and_then(|lost| lost.found.as_ref());
        if start == 0 {
            return match told {
                Some(Tail { lines, .. }) => {
                    let (boot, seq) = lost.map(|l| (l.since.boot.clone(), l.since.seq + 1)).unwrap_or_default();
                    let detail = format!("missing: {lines} lines stood there when the gateway started again");
                    let fault = here(RecordFaultKind::Missing, detail);
                    Err(RecordFault { boot: Some(boot), seq: Some(seq), ..fault })
                }
                None => Ok(0),
            };
        }
        let Some(first) = self.places.first() else { return Ok(start) };
        if lost.is_none() {
            let detail = format!("no checkpoint is for it, and the start with boot {} does not tell of it", next.boot);
            return Err(RecordFault { kind: RecordFaultKind::Inserted, ..first.fault(detail) });
        }
        let Some(told) = told else { return Ok(start) };
        let run = self.runs.iter().find(|run| *run.boot == next.boot);
        let before = run.and_then(|run| run.before.clone());
        let same = before.is_some_and(|(whole, cut)| told.sha256 == if told.partial { cut } else { whole });
        if !same || told.lines != start {
            let detail = format!(
                "one of the {start} lines from here on was altered, moved, put there or taken away: the gateway found {} \
                 of them when it started again, with another hash",
                told.lines
            );
            return Err(first.fault(detail));
        }
        Ok(start)
    }

    /// Looks at the lines that the checkpoint is for.
    fn batch(
        &mut self,
        next: &RecordCheckpoint,
        start: u64,
        here: &dyn Fn(RecordFaultKind, String) -> RecordFault,
    ) -> Result<(), RecordFault> {
        let run = self.runs.iter_mut().find(|run| *run.boot == next.boot);
        let hash = run.map_or_else(|| Context::new(&SHA256), |run| run.hash.clone());
        let (count, signed) = (self.count - start, signed_lines(next));
        if hex::encode(hash.finish()) == next.sha256 && count == signed {
            self.found.lines += count;
            return Ok(());
        }
        let marks: Vec<[u8; MARK]> = hex::decode(&next.marks)
            .unwrap_or_default()
            .chunks_exact(MARK)
            .filter_map(|mark| mark.try_into().ok())
            .collect();
        let batch = self.places.get(usize::try_from(start).unwrap_or(usize::MAX)..).unwrap_or_default();
        if self.last.is_none() && batch.len() < marks.len() {
            let (_, rest) = marks.split_at(marks.len() - batch.len());
            if batch.iter().map(|placed| &placed.mark).eq(rest) {
                self.found.before += count;
                return Ok(());
            }
        }
        let at = |n: usize| next.first + u64::try_from(n).unwrap_or(u64::MAX);
        let missing = |n: usize, place: Option<&Placed>| {
            let fault = place.map_or_else(|| here(RecordFaultKind::Missing, String::new()), |p| p.fault(""));
            let detail = "missing: it stood before this line".to_owned();
            let (boot, seq) = (Some(next.boot.clone()), Some(at(n)));
            RecordFault { kind: RecordFaultKind::Missing, boot, seq, detail, ..fault }
        };
        let (there, signed): (HashSet<_>, HashSet<_>) =
            (batch.iter().map(|p| p.mark).collect(), marks.iter().collect());
        for (n, placed) in batch.iter().enumerate() {
            let Some(expected) = marks.get(n) else {
                let detail = "inserted: its checkpoint is for fewer lines";
                return Err(RecordFault { kind: RecordFaultKind::Inserted, ..placed.fault(detail) });
            };
            if placed.mark == *expected {
                continue;
            }
            return Err(match (signed.contains(&placed.mark), there.contains(expected)) {
                (true, true) => {
                    let detail = format!("moved: seq {} stood there", at(n));
                    RecordFault { kind: RecordFaultKind::Moved, ..placed.fault(detail) }
                }
                (true, false) => missing(n, Some(placed)),
                (false, true) => {
                    let detail = format!("inserted: seq {} stood there", at(n));
                    RecordFault { kind: RecordFaultKind::Inserted, ..placed.fault(detail) }
                }
                (false, false) => {
                    let fault = placed.fault("altered");
                    RecordFault { boot: Some(next.boot.clone()), seq: Some(at(n)), ..fault }
                }
            });
        }
        if batch.len() < marks.len() && count < signed_lines(next) {
            return Err(missing(batch.len(), None));
        }
        let detail = format!("one of the records from seq {} to here was altered", next.first);
        Err(here(RecordFaultKind::Altered, detail))
    }

    fn finish(mut self, node: String, known: Option<&RecordEnd>) -> Result<NodeRecords, RecordFault> {
        let known = known.filter(|known| known.node == node);
        let Some(last) = self.last.take() else {
            if let Some(known) = known.filter(|known| known.number > 0) {
                return Err(missing_end(known, "these files have no checkpoint of it"));
            }
            let first = self.places.first();
            let fault = first.map_or_else(|| missing_end(&none(&node), ""), |first| first.fault(""));
            let detail = format!("no record of the node `{node}` is signed: there is no checkpoint");
            return Err(RecordFault { kind: RecordFaultKind::Unsigned, detail, ..fault });
        };
        if let Some(known) = known {
            let short = last.number < known.number;
            if short || (last.number == known.number && last.hash != known.hash) {
                let detail =
                    format!("these files end with checkpoint {}, at boot {}, seq {}", last.number, last.boot, last.seq);
                return Err(missing_end(known, &detail));
            }
        }
        // What stands behind the last checkpoint can be told to be whole only by its numbers.
        let (mut boot, mut expected) = (last.boot.as_str(), last.seq + 1);
        for (n, placed) in self.places.iter().enumerate() {
            if last.end && placed.boot.as_deref().is_none_or(|boot| boot == last.boot) {
                let detail = "inserted: the gateway had ended in order before it";
                return Err(RecordFault { kind: RecordFaultKind::Inserted, ..placed.fault(detail) });
            }
            let (Some(of), Some(seq)) = (placed.boot.as_deref(), placed.seq) else {
                // A gateway that was killed has left the beginning of a line, behind which its next start began one of its own.
                let cut = match self.places.get(n + 1) {
                    Some(next) => next.seq == Some(1),
                    None => !self.line.ends_with(b"\n"),
                };
                if cut {
                    continue;
                }
                return Err(RecordFault { kind: RecordFaultKind::Inserted, ..placed.fault(NOT_A_RECORD) });
            };
            let as_expected = of == boot && seq == expected;
            if let Some(first) = (!as_expected).then(|| self.first_of(placed)).flatten() {
                let detail = format!("inserted: it stands twice, first in {}:{}", first.file, first.line);
                return Err(RecordFault { kind: RecordFaultKind::Inserted, ..placed.fault(detail) });
            }
            if of != boot {
                (boot, expected) = (of, 1);
            }
            if seq > expected {
                let detail = "missing: it stood before this line".to_owned();
                let fault = placed.fault(detail);
                return Err(RecordFault { kind: RecordFaultKind::Missing, seq: Some(expected), ..fault });
            }
            if seq < expected {
                let detail = format!("moved or inserted: seq {expected} is expected there");
                return Err(RecordFault { kind: RecordFaultKind::Moved, ..placed.fault(detail) });
            }
            expected = seq + 1;
        }
        self.found.unfinished = self.count;
        Ok(NodeRecords { node, end: Some(last), ..self.found })
    }
}

/// What is wrong, and where it began if it is not at the checkpoint itself.
type NotNext = (RecordFaultKind, String, Option<(String, u64)>);

fn signed_lines(checkpoint: &RecordCheckpoint) -> u64 {
    checkpoint.last.saturating_add(1).saturating_sub(checkpoint.first)
}

fn none(node: &str) -> RecordEnd {
    let text = String::new();
    RecordEnd { number: 0, hash: text.clone(), node: node.to_owned(), boot: text, seq: 0, end: false }
}

fn missing_end(known: &RecordEnd, why: &str) -> RecordFault {
    RecordFault {
        kind: RecordFaultKind::Missing,
        file: String::new(),
        line: 0,
        boot: Some(known.boot.clone()),
        seq: Some(known.seq),
        detail: format!("missing: the gateway has signed up to checkpoint {} there; {why}", known.number),
    }
}

#[cfg(test)]
mod tests;
