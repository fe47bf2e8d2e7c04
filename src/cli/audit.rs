//! `audit`: whether somebody has altered what is said of changes, and of decisions.

use super::client::Gateway;
use super::history::{each, parse, typed};
use super::offline::{Wanted, look};
use super::records::RecordFiles;
use super::{Exit, Form, Output, complain, print, say};
use crate::admin::{AuditAnswer, HistoryCall};
use crate::disk;
use crate::history::{Checkpoint, End, Event, Verb, vouches};
use crate::record::{LinePlace, LostRecords, NodeRecords, RecordEnd, RecordFault, RecordVerifier, Unrecorded};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Largest file of public keys.
const MAX_KEYS: usize = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
    /// Read the database directly; refused while a gateway runs.
    #[arg(long, global = true)]
    offline: bool,
}

#[derive(Debug, clap::Subcommand)]
enum AuditCommand {
    /// Look at the chain of events from its beginning, its signed checkpoints, and whether the registry is what the events
    /// made it; with `--records` also at the records. Names the first event, or record, that was altered, taken out or moved.
    Verify {
        /// Files of records, or folders of them, in any order, also packed with gzip: none of their lines was altered, moved,
        /// put there or taken away, and the copies of events in them are those of the database.
        #[arg(long, value_name = "FILE", num_args = 1..)]
        records: Vec<PathBuf>,
        /// Files of public keys, one a line, as `audit key` prints them: the records are verified by themselves, with no
        /// gateway and no database.
        #[arg(long, value_name = "FILE", num_args = 1.., requires = "records")]
        key: Vec<PathBuf>,
        /// These are only some of the records: they may end before the last checkpoint.
        #[arg(long, requires = "records")]
        part: bool,
        #[command(flatten)]
        form: Form,
    },
    /// The public key that checkpoints of the history and of the records are signed with.
    Key,
    /// Every event as it is chained, one a line: the SHA-256 of 32 zero bytes and the first line, and so on with that hash
    /// and the next line, ends in the hash that `verify` shows.
    Export,
}

pub(super) async fn audit(gateway: &Gateway, args: &AuditArgs) -> Exit {
    match &args.command {
        AuditCommand::Export => {
            let print = |text: &str| {
                print(text);
                Ok(())
            };
            each(gateway, args.offline, HistoryCall::default(), print).await.err().unwrap_or(Exit::Done)
        }
        AuditCommand::Key => match look(gateway, args.offline, "/v1/audit", Wanted::Audit).await.and_then(typed) {
            Ok(AuditAnswer { key: Some(key), .. }) => {
                say(&key);
                Exit::Done
            }
            Ok(_) => {
                complain("the gateway names no key: it is of an older version");
                Exit::Failed
            }
            Err(exit) => exit,
        },
        AuditCommand::Verify { records, key, part, form } => {
            let verified = if key.is_empty() {
                verify(gateway, args.offline, records, *part).await
            } else {
                verify_alone(records, key)
            };
            match verified {
                Ok(answer) => {
                    report(&answer, key.is_empty(), form.output);
                    if answer.ok { Exit::Done } else { Exit::Problems }
                }
                Err(exit) => exit,
            }
        }
    }
}

/// The records and nothing else. Whether there were more of them behind the last, they cannot tell.
fn verify_alone(records: &[PathBuf], keys: &[PathBuf]) -> Result<AuditAnswer, Exit> {
    let mut known = Vec::new();
    for path in keys {
        let fail = |reason: &str| {
            complain(&format!("{}: {reason}", path.display()));
            Exit::Failed
        };
        let text = disk::read(path, MAX_KEYS).map_err(|reason| fail(&reason))?;
        for line in String::from_utf8_lossy(&text).split_whitespace() {
            if line.len() != 64 || hex::decode(line).is_err() {
                return Err(fail("is no file of public keys: 64 hex digits a line, as `audit key` prints them"));
            }
            known.push(line.to_ascii_lowercase());
        }
    }
    let answer = AuditAnswer { ok: true, ..AuditAnswer::default() };
    verified_records(answer, &RecordFiles::find(records)?, known, None)
}

fn unreadable(path: &Path, e: &std::io::Error) -> Exit {
    complain(&format!("{}: {e}", path.display()));
    Exit::Failed
}

/// Adds what was found of the records themselves.
fn verified_records(
    answer: AuditAnswer,
    files: &RecordFiles,
    keys: Vec<String>,
    known: Option<&RecordEnd>,
) -> Result<AuditAnswer, Exit> {
    enum Stop {
        Fault(RecordFault),
        Exit(Exit),
    }
    let mut verifier = RecordVerifier::new(keys);
    let looked = files
        .each(|place, line| verifier.line(place, line).map_err(Stop::Fault), |path, e| Stop::Exit(unreadable(path, e)));
    match looked.and_then(|()| verifier.finish(known).map_err(Stop::Fault)) {
        Ok(records) => Ok(AuditAnswer { records, ..answer }),
        Err(Stop::Fault(fault)) => {
            let text = fault.to_string();
            Ok(AuditAnswer { ok: false, fault: Some(text), record_fault: Some(fault), ..AuditAnswer::default() })
        }
        Err(Stop::Exit(exit)) => Err(exit),
    }
}

async fn verify(gateway: &Gateway, offline: bool, records: &[PathBuf], part: bool) -> Result<AuditAnswer, Exit> {
    let answer: AuditAnswer = typed(look(gateway, offline, "/v1/audit", Wanted::Audit).await?)?;
    if !answer.ok || records.is_empty() {
        return Ok(answer);
    }
    let files = RecordFiles::find(records)?;
    let compared = compare(gateway, offline, &files, answer).await?;
    if !compared.ok {
        return Ok(compared);
    }
    let keys = compared.key.clone().into_iter().collect();
    let end = compared.records_end.clone().filter(|_| !part);
    verified_records(compared, &files, keys, end.as_ref())
}

/// Compares the copies of events in records with the database.
async fn compare(
    gateway: &Gateway,
    offline: bool,
    files: &RecordFiles,
    answer: AuditAnswer,
) -> Result<AuditAnswer, Exit> {
    let mut copies = Copies::read(files)?;
    let (mut there, mut restored, mut uncopied) = (HashSet::new(), None, Vec::new());
    let known = copies.range();
    let signed = std::mem::take(&mut copies.checkpoints);
    let (mut end, mut vouched, mut rewritten) = (End::START, 0_usize, Vec::new());
    let compare = |text: &str| {
        let event = parse(text)?;
        end = End { seq: event.seq, hash: end.hash.then(text) };
        for checkpoint in signed.get(&end.seq).into_iter().flatten() {
            if vouches(checkpoint, &end, &checkpoint.key) {
                vouched += 1;
            } else {
                rewritten.push((end.seq, checkpoint.time.clone()));
            }
        }
        if !copies.found(event.seq, text) {
            uncopied.push(event.seq);
        }
        there.insert(event.seq);
        if event.verb == Verb::Restore {
            restored.get_or_insert(event.seq);
        }
        Ok(())
    };
    each(gateway, offline, HistoryCall::default(), compare).await?;
    let between = uncopied.iter().filter(|seq| known.as_ref().is_some_and(|known| known.contains(seq)));
    // A restore begins anew behind what it took back.
    if let Some(seq) = between.filter(|_| restored.is_none()).min() {
        let fault = if copies.has(*seq) {
            format!("event {seq} is another one in the records than in the database")
        } else {
            format!("event {seq} is in the database and not in the records, which have earlier and later ones")
        };
        return Ok(AuditAnswer { ok: false, fault: Some(fault), ..AuditAnswer::default() });
    }
    let behind = uncopied.iter().filter(|seq| known.as_ref().is_none_or(|known| *seq > known.end())).count();
    // What a restore took back is in the records alone, from the place of its event on.
    let (taken_back, unknown): (Vec<u64>, Vec<u64>) =
        copies.left().partition(|seq| restored.is_some_and(|restored| *seq >= restored));
    // What a restore took back had its checkpoints too.
    let rewritten = rewritten.iter().find(|(seq, _)| restored.is_none_or(|restored| *seq < restored));
    let beyond = signed.keys().filter(|seq| **seq > end.seq && restored.is_none()).min();
    match (unknown.iter().min(), rewritten) {
        (None, None) if beyond.is_some() => {
            let (seq, last) = (beyond.copied().unwrap_or_default(), end.seq);
            let fault = format!(
                "event {seq}, which a checkpoint in the records is for, is not there: event {last} is the last"
            );
            Ok(AuditAnswer { ok: false, fault: Some(fault), ..AuditAnswer::default() })
        }
        (None, Some((seq, time))) => {
            let fault =
                format!("event {seq} is not the one of the checkpoint in the records that was signed at {time}");
            Ok(AuditAnswer { ok: false, fault: Some(fault), ..AuditAnswer::default() })
        }
        (None, None) => {
            let copied_checkpoints = vouched;
            Ok(AuditAnswer { taken_back: taken_back.len(), uncopied: behind, copied_checkpoints, ..answer })
        }
        (Some(seq), _) => {
            let fault = if there.contains(seq) {
                format!("event {seq} is another one in the records than in the database")
            } else {
                format!("event {seq} is in the records and not in the database")
            };
            Ok(AuditAnswer { ok: false, fault: Some(fault), ..AuditAnswer::default() })
        }
    }
}

fn report(answer: &AuditAnswer, history: bool, output: Output) {
    match (output, &answer.fault, &answer.hash) {
        (Output::Json, ..) => print(&serde_json::json!(answer).to_string()),
        (Output::Text, Some(fault), _) => say(&format!("NOT GOOD: {fault}")),
        (Output::Text, None, hash) => {
            if history {
                say(&format!("good: {} events, {} signed checkpoints", answer.events, answer.checkpoints));
                say(&format!("ends in {}", hash.as_deref().unwrap_or("nothing")));
            }
            if answer.copied_checkpoints > 0 {
                say(&format!("{} checkpoints in the records vouch for it", answer.copied_checkpoints));
            }
            if answer.uncopied > 0 {
                say(&format!("{} of the last events are not in these records", answer.uncopied));
            }
            if answer.taken_back > 0 {
                say(&format!("{} events in the records were taken back by a restore", answer.taken_back));
            }
            answer.records.iter().for_each(report_node);
        }
    }
}

fn report_node(records: &NodeRecords) {
    let NodeRecords { node, lines, checkpoints, first, end, before, unfinished, lost, unrecorded } = records;
    say(&format!("good: {lines} lines of the node `{node}` under {checkpoints} signed checkpoints"));
    if *first > 1 {
        say(&format!("  they begin with checkpoint {first}: what was before is not in these files"));
    }
    if *before > 0 {
        say(&format!("  the first {before} lines are under none of them"));
    }
    for LostRecords { boot, seq, unsigned, checkpoints } in lost {
        let stand = if *unsigned == 0 { String::new() } else { format!("; {unsigned} unsigned lines stand there") };
        let gone =
            if *checkpoints == 0 { String::new() } else { format!("; {checkpoints} signed checkpoints are gone") };
        say(&format!("  LOST: the gateway did not end in order after boot {boot}, seq {seq}{stand}{gone}"));
    }
    for Unrecorded { records, refused, from, to } in unrecorded {
        say(&format!(
            "  LOST: {records} records had no place, {from} to {to}; {refused} of their requests were refused for it"
        ));
    }
    if *unfinished > 0 {
        say(&format!("  the last {unfinished} lines stand behind the last checkpoint: nothing vouches for them yet"));
    }
    if let Some(end) = end {
        say(&format!("  ends with checkpoint {}, at boot {}, seq {}: {}", end.number, end.boot, end.seq, end.hash));
    }
}

/// Copies of events in files of records.
struct Copies {
    /// By seq; more than one where a restore has taken some back.
    events: HashMap<u64, Vec<String>>,
    /// By seq.
    checkpoints: HashMap<u64, Vec<Checkpoint>>,
}

impl Copies {
    fn read(files: &RecordFiles) -> Result<Copies, Exit> {
        let (mut events, mut checkpoints): (HashMap<u64, Vec<String>>, HashMap<u64, Vec<Checkpoint>>) =
            Default::default();
        let take = |_: &LinePlace, line: &[u8]| {
            let Ok(line) = std::str::from_utf8(line) else { return Ok(()) };
            let line = line.strip_suffix('\n').unwrap_or(line);
            if let Some((seq, text)) = copy(line) {
                let known = events.entry(seq).or_default();
                if known.iter().all(|other| other != text) {
                    known.push(text.to_owned());
                }
            } else if let Some(checkpoint) = copied_checkpoint(line) {
                checkpoints.entry(checkpoint.seq).or_default().push(checkpoint);
            }
            Ok(())
        };
        files.each(take, unreadable)?;
        Ok(Copies { events, checkpoints })
    }

    /// The first and the last event that there is a copy of.
    fn range(&self) -> Option<RangeInclusive<u64>> {
        Some(*self.events.keys().min()?..=*self.events.keys().max()?)
    }

    fn has(&self, seq: u64) -> bool {
        self.events.get(&seq).is_some_and(|copies| !copies.is_empty())
    }

    /// The database has this event. Returns whether there was a copy of it.
    fn found(&mut self, seq: u64, text: &str) -> bool {
        let Some(copies) = self.events.get_mut(&seq) else { return false };
        let before = copies.len();
        copies.retain(|copy| copy != text);
        copies.len() < before
    }

    /// The places of events that the database has not.
    fn left(self) -> impl Iterator<Item = u64> {
        self.events.into_iter().flat_map(|(seq, texts)| texts.into_iter().map(move |_| seq))
    }
}

fn copied_checkpoint(line: &str) -> Option<Checkpoint> {
    if !line.contains("\"kind\":\"history\"") {
        return None;
    }
    serde_json::from_value(serde_json::from_str::<Value>(line).ok()?.get_mut("checkpoint")?.take()).ok()
}

/// The event of a line of records, byte for byte.
fn copy(line: &str) -> Option<(u64, &str)> {
    let (_, text) = line.split_once("\"kind\":\"history\",\"event\":")?;
    let text = text.strip_suffix('}')?;
    Some((serde_json::from_str::<Event>(text).ok()?.seq, text))
}
