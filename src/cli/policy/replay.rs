//! `partnergate policy replay`: what a policy would have decided otherwise.

use super::super::records::{RecordFiles, unpacked};
use super::super::{Exit, Form, complain, print};
use super::{ChangeRow, change_table, refused, tell};
use crate::config::read_policy_folder;
use crate::document::Problems;
use crate::policy::{EngineKind, Policy, PolicyLimits, PolicySource};
use crate::record::replay::{Change, Examples, Kind, Replay, Replayed};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// As on a request, but for a machine that has something else to do.
const LIMITS: PolicyLimits = PolicyLimits { time: Duration::from_secs(1), instructions: 1_000_000 };
/// Bytes of lines that one thread takes at a time.
const CHUNK: usize = 1024 * 1024;

const EXIT_CODES: &str = "Exit codes: 0 no decision changes, or what is newly allowed was accepted, 1 a file cannot be read, or has no \
                          decisions, 2 called wrongly, 3 a policy has problems, 10 some are newly denied, 11 some are newly \
                          allowed without --accept, 12 none changes, and some could not be judged";

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    /// Files of records, or folders of them, also packed with gzip; `-` for standard input.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    log: Vec<PathBuf>,
    /// The folder of the policy that decides anew.
    #[arg(long, value_name = "DIR")]
    candidate: PathBuf,
    /// Compare with what this policy says of the same facts, and not with what was recorded.
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// What is newly allowed was looked at and is meant.
    #[arg(long)]
    accept: bool,
    #[command(flatten)]
    form: Form,
}

pub(super) fn run(args: &Args) -> Exit {
    let started = Instant::now();
    let compiled = compiled(&args.candidate).and_then(|candidate| {
        let base = args.base.as_deref().map(compiled).transpose()?;
        Ok((candidate, base))
    });
    let (candidate, base) = match compiled {
        Ok(compiled) => compiled,
        Err((problems, source)) => {
            refused(&problems, &source, args.form.is_json());
            return Exit::Problems;
        }
    };
    let replay = Replay::new(&candidate, base.as_ref());
    let mut found = Replayed::default();
    let mut files = Vec::new();
    for path in &args.log {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        match RecordFiles::find(std::slice::from_ref(path)) {
            Ok(found) => files.extend(found.paths()),
            Err(exit) => return exit,
        }
    }
    for path in &files {
        match one_file(&replay, path) {
            Ok(of_file) => found.merge(of_file),
            Err(e) => {
                complain(&format!("error: {}: cannot be read: {e}", path.display()));
                return Exit::Failed;
            }
        }
    }
    let (allowed, denied) = (found.count(Kind::NewlyAllowed), found.count(Kind::NewlyDenied));
    let unclear: u64 = found.not_replayable.values().map(|examples| examples.count).sum();
    if args.form.is_json() {
        print(&told(&found, &candidate).to_string());
    } else {
        text(&found, started.elapsed());
    }
    match () {
        () if found.decisions == 0 => {
            complain("error: there are no recorded decisions in it");
            Exit::Failed
        }
        () if allowed > 0 && !args.accept => {
            complain(&format!("error: {allowed} newly allowed: look at them, and say `--accept` where that is meant"));
            Exit::NewlyAllowed
        }
        () if denied > 0 => Exit::NewlyDenied,
        () if unclear > 0 => Exit::NotReplayable,
        () => Exit::Done,
    }
}

fn compiled(folder: &Path) -> Result<Policy, (Problems, PolicySource)> {
    let source = read_policy_folder(folder).map_err(|problems| (problems, PolicySource::default()))?;
    Policy::compile(&source, EngineKind::Rvm, LIMITS).map_err(|problems| (problems, source))
}

/// Replays a file on all processors, and keeps no more of it than these work on.
fn one_file(replay: &Replay<'_>, path: &Path) -> std::io::Result<Replayed> {
    let mut lines: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(BufReader::with_capacity(CHUNK, std::io::stdin()))
    } else {
        unpacked(File::open(path)?)?
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (send, receive) = sync_channel::<Vec<u8>>(threads);
    let receive = Mutex::new(receive);
    std::thread::scope(|scope| {
        let working: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(replay, &receive))).collect();
        let mut read = Ok(());
        loop {
            match chunk(&mut lines) {
                Ok(chunk) if chunk.is_empty() => break,
                Ok(chunk) => {
                    if send.send(chunk).is_err() {
                        break;
                    }
                }
                Err(e) => {
                    read = Err(e);
                    break;
                }
            }
        }
        drop(send);
        let mut found = Replayed::default();
        for thread in working {
            found.merge(thread.join().map_err(|_| std::io::Error::other("a thread has panicked: this is a bug"))?);
        }
        read.map(|()| found)
    })
}

fn work(replay: &Replay<'_>, chunks: &Mutex<Receiver<Vec<u8>>>) -> Replayed {
    let mut found = Replayed::default();
    loop {
        let next = chunks.lock().ok().and_then(|chunks| chunks.recv().ok());
        let Some(chunk) = next else { return found };
        for line in chunk.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            replay.line(line, &mut found);
        }
    }
}

/// Some whole lines; none at the end.
fn chunk(lines: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(CHUNK);
    while chunk.len() < CHUNK && lines.read_until(b'\n', &mut chunk)? > 0 {}
    Ok(chunk)
}

fn row<'a>((change, examples): (&'a Change, &'a Examples)) -> ChangeRow<'a> {
    ChangeRow {
        change: change.kind.as_str(),
        count: examples.count,
        partner: &change.partner,
        operation: &change.operation,
        reason: &change.reason,
        example: examples.ids.first().map(String::as_str).unwrap_or_default(),
    }
}

fn text(found: &Replayed, took: Duration) {
    if !found.changes.is_empty() {
        change_table(found.changes.iter().map(row).collect());
    }
    for (why, examples) in &found.not_replayable {
        tell(&format!("not replayable: {} ({}): {why}", examples.count, examples.ids.join(", ")));
    }
    let unclear: u64 = found.not_replayable.values().map(|examples| examples.count).sum();
    let unreadable = match found.unreadable {
        0 => String::new(),
        count => format!(", and {count} that cannot be read"),
    };
    tell(&format!(
        "{} decisions in {:.1} s: {} the same, {} newly denied, {} newly allowed, {} denied for another reason, {unclear} not \
         replayable; {} other lines{unreadable}",
        found.decisions,
        took.as_secs_f64(),
        found.same,
        found.count(Kind::NewlyDenied),
        found.count(Kind::NewlyAllowed),
        found.count(Kind::OtherReason),
        found.others,
    ));
}

fn told(found: &Replayed, candidate: &Policy) -> Value {
    let changes: Vec<Value> = found
        .changes
        .iter()
        .map(|(change, examples)| {
            json!({
                "change": change.kind.as_str(),
                "count": examples.count,
                "partner": change.partner,
                "operation": change.operation,
                "reason": change.reason,
                "examples": examples.ids,
            })
        })
        .collect();
    let unclear: Vec<Value> = found
        .not_replayable
        .iter()
        .map(|(why, examples)| json!({"why": why, "count": examples.count, "examples": examples.ids}))
        .collect();
    json!({
        "candidate": &**candidate.revision(),
        "decisions": found.decisions,
        "same": found.same,
        "newly_denied": found.count(Kind::NewlyDenied),
        "newly_allowed": found.count(Kind::NewlyAllowed),
        "other_reason": found.count(Kind::OtherReason),
        "changes": changes,
        "not_replayable": unclear,
        "other_lines": found.others,
        "unreadable_lines": found.unreadable,
    })
}
