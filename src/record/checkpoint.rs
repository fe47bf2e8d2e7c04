//! Signed checkpoints: what was written between two of them, in which order, and what came before.
//!
//! In: the bytes of a batch of lines. Out: the line that ends it, and where the chain stands, kept in a small file, so that
//! the next start goes on from there and knows whether this one ended in order. Must never: sign for a line that it did
//! not write.
//!
//! A signature is over the bytes of its own line from the first to the one before `,"signature":`; no form has to be agreed
//! on beyond that.

use super::RECORD_SCHEMA;
use crate::clock::UnixNanos;
use crate::history::{Signer, is_signed};
use ring::digest;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What is signed begins with this, so that a signature is good for nothing else.
const CONTEXT: &[u8] = b"partnergate.record-checkpoint/1\n";
/// Before the signature in a line.
const SIGNATURE: &str = ",\"signature\":\"";
/// Digits of a signature.
const SIGNATURE_HEX: usize = 128;
/// Hash before the first checkpoint.
pub(super) const START: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Bytes of a line's hash in a checkpoint: enough to say which line was altered, where the hash of all says that one was.
pub(super) const MARK: usize = 4;
/// Bytes at the end of a file that are looked through for the last checkpoint; and where there is none in them, in how many.
const LOOKED_AT: u64 = 4 << 20;
const MAX_LOOKED_AT: u64 = 64 << 20;
/// Room for the text in the file that keeps the end; one length, so that a shorter text leaves nothing of a longer one.
const KEPT: usize = 512;

/// The fields of a checkpoint's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordCheckpoint {
    pub node: String,
    pub boot: String,
    /// Of the line itself.
    pub seq: u64,
    /// RFC 3339.
    pub time: String,
    /// 1, 2, 3, … on one node, over all its starts.
    pub number: u64,
    /// The lines that it is for. `last` is `seq - 1`; where it is for none, `first` is `seq`.
    pub first: u64,
    pub last: u64,
    /// SHA-256 of these lines, each with its line feed, hex.
    pub sha256: String,
    /// Of each of these lines the first 4 bytes of its SHA-256, hex, in their order.
    pub marks: String,
    /// SHA-256 of the line of the checkpoint before, with its line feed, hex.
    pub previous: String,
    /// The Ed25519 public key, hex.
    pub key: String,
    /// The gateway ended in order, and nothing of this boot follows.
    #[serde(default)]
    pub end: bool,
    /// Hex.
    pub signature: String,
}

/// How far the chain of a node has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RecordEnd {
    /// Of the last checkpoint; 0 before the first.
    pub number: u64,
    /// Of its line, hex.
    pub hash: String,
    pub node: String,
    pub boot: String,
    pub seq: u64,
    /// The gateway ended in order.
    pub end: bool,
}

impl RecordEnd {
    pub(super) fn of(checkpoint: &RecordCheckpoint, line: &[u8]) -> Self {
        RecordEnd {
            number: checkpoint.number,
            hash: sha256(line),
            node: checkpoint.node.clone(),
            boot: checkpoint.boot.clone(),
            seq: checkpoint.seq,
            end: checkpoint.end,
        }
    }

    /// Reads the file that keeps it. `None` where there is none, or none that can be read.
    pub fn read(path: &Path) -> Option<RecordEnd> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }
}

/// What was lost, or may be, in the gateway's own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordsLost {
    /// The last checkpoint that is there.
    pub since: Since,
    /// The last checkpoint that was signed, where that one is not there any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<u64>,
    /// Whether the gateway had ended in order: then something was taken away from the file.
    pub ended: bool,
    /// What stands behind it, unsigned. Absent where there is no file to look into, or another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Tail>,
}

/// Records that had no place while the gateway ran: what a line `records-lost` that is not of a start says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Unrecorded {
    pub records: u64,
    /// Of these, requests that were refused because there was no place; the others went on.
    pub refused: u64,
    /// RFC 3339.
    pub from: String,
    pub to: String,
}

/// A place in the records of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    pub boot: String,
    pub seq: u64,
    pub checkpoint: u64,
}

/// Lines that no checkpoint is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    pub lines: u64,
    /// Of all their bytes, hex.
    pub sha256: String,
    /// The last one is cut off.
    pub partial: bool,
}

/// The chain as it grows.
pub(super) struct Chain {
    signer: Signer,
    head: String,
    node: String,
    boot: String,
    /// Of the next line that a checkpoint is for.
    first: u64,
    end: RecordEnd,
    kept: File,
    failing: bool,
}

impl Chain {
    /// Goes on from where the last start has left it. `file` is the file that records go to, where they go to one. Returns
    /// what to say of records that are lost since.
    ///
    /// # Errors
    /// One of the files cannot be used.
    pub(super) fn open(
        signer: Signer,
        (node, boot): (&str, &str),
        kept: &Path,
        file: Option<&Path>,
    ) -> io::Result<(Chain, Option<RecordsLost>)> {
        let known = RecordEnd::read(kept);
        let found = match file {
            Some(file) => look(file, &signer.key())?,
            None => Found::default(),
        };
        let (end, lost) = go_on(known, found);
        let kept = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(kept)?;
        let quoted = |s: &str| serde_json::Value::from(s).to_string();
        let head =
            format!("{{\"schema\":\"{RECORD_SCHEMA}\",\"node\":{},\"boot\":{},\"seq\":", quoted(node), quoted(boot));
        let (node, boot) = (node.to_owned(), boot.to_owned());
        Ok((Chain { signer, head, node, boot, first: 1, end, kept, failing: false }, lost))
    }

    /// The line that ends a batch; its own `seq` is the one behind the batch's.
    pub(super) fn close(&mut self, batch: &[u8], seq: u64, now: UnixNanos, last_of_all: bool) -> Vec<u8> {
        let mut marks = String::new();
        for line in batch.split_inclusive(|b| *b == b'\n') {
            marks.push_str(&hex::encode(mark(line)));
        }
        let Chain { head, first, end, .. } = self;
        let mut line = format!(
            "{head}{seq},\"time\":\"{now}\",\"kind\":\"checkpoint\",\"number\":{},\"first\":{first},\"last\":{},\
             \"sha256\":\"{}\",\"marks\":\"{marks}\",\"previous\":\"{}\",\"key\":\"{}\"{}",
            end.number + 1,
            seq - 1,
            sha256(batch),
            end.hash,
            self.signer.key(),
            if last_of_all { ",\"end\":true" } else { "" },
        );
        let signature = self.signer.sign_text(CONTEXT, &line);
        line.push_str(SIGNATURE);
        line.push_str(&signature);
        line.push_str("\"}\n");
        self.first = seq + 1;
        self.end = RecordEnd {
            number: self.end.number + 1,
            hash: sha256(line.as_bytes()),
            node: self.node.clone(),
            boot: self.boot.clone(),
            seq,
            end: last_of_all,
        };
        line.into_bytes()
    }

    /// Keeps the end for the next start, once the line is written.
    pub(super) fn keep(&mut self) {
        let mut text = serde_json::to_vec(&self.end).unwrap_or_default();
        text.resize(KEPT.max(text.len()), b' ');
        let written = self.kept.write_all_at(&text, 0);
        let written = if self.end.end { written.and_then(|()| self.kept.sync_all()) } else { written };
        match written {
            Ok(()) => self.failing = false,
            Err(e) if !self.failing => {
                self.failing = true;
                tracing::error!(error = %e, "where the records end cannot be kept: the next start may say that some are lost");
            }
            Err(_) => {}
        }
    }

    pub(super) fn end(&self) -> &RecordEnd {
        &self.end
    }
}

/// What a file ends with.
#[derive(Debug, Default)]
struct Found {
    /// The last good checkpoint of this node's key.
    checkpoint: Option<RecordEnd>,
    tail: Option<Tail>,
}

/// From what was kept and what is there: where the chain goes on, and what is lost.
fn go_on(known: Option<RecordEnd>, found: Found) -> (RecordEnd, Option<RecordsLost>) {
    let since = |end: &RecordEnd| Since { boot: end.boot.clone(), seq: end.seq, checkpoint: end.number };
    match (known, found.checkpoint) {
        (None, None) => {
            let (hash, text) = (START.to_owned(), String::new());
            (RecordEnd { number: 0, hash, node: text.clone(), boot: text, seq: 0, end: true }, None)
        }
        // Nothing to look into, or a file that was begun anew.
        (Some(known), None) => {
            let lost = RecordsLost { since: since(&known), signed: None, ended: false, found: None };
            let lost = (!known.end).then_some(lost);
            (known, lost)
        }
        (known, Some(there)) => {
            let tail = found.tail.filter(|tail| tail.lines > 0);
            let signed = known.as_ref().map(|known| known.number).filter(|number| *number > there.number);
            // What was kept may be one behind: the line is written first.
            let last = known.filter(|known| known.number > there.number).unwrap_or_else(|| there.clone());
            let whole = last.end && signed.is_none() && tail.is_none();
            let lost = RecordsLost { since: since(&there), signed, ended: last.end, found: tail };
            (last, (!whole).then_some(lost))
        }
    }
}

/// Looks for the last checkpoint of a file, from its end.
fn look(path: &Path, key: &str) -> io::Result<Found> {
    // A device or a pipe has no end, and opening one may take for ever.
    let len = match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => meta.len(),
        Ok(_) => return Ok(Found::default()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
        Err(e) => return Err(e),
    };
    let mut file = File::open(path)?;
    for size in [LOOKED_AT, MAX_LOOKED_AT] {
        let from = len.saturating_sub(size);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        Read::take(&mut file, len - from).read_to_end(&mut bytes)?;
        let found = last_checkpoint(&bytes, key);
        if found.checkpoint.is_some() || from == 0 {
            return Ok(found);
        }
    }
    Ok(Found::default())
}

fn last_checkpoint(bytes: &[u8], key: &str) -> Found {
    let mut end = bytes.len();
    let mut lines: u64 = 0;
    while end > 0 {
        let before = bytes.get(..end - 1).unwrap_or_default();
        let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let line = bytes.get(start..end).unwrap_or_default();
        if let Some(checkpoint) = read(line).filter(|c| c.key == key && is_good(c, line)) {
            let rest = bytes.get(end..).unwrap_or_default();
            let partial = rest.last().is_some_and(|last| *last != b'\n');
            let tail = Tail { lines, sha256: sha256(rest), partial };
            return Found { checkpoint: Some(RecordEnd::of(&checkpoint, line)), tail: Some(tail) };
        }
        lines += 1;
        end = start;
    }
    Found::default()
}

/// The checkpoint that a line is, if it is one; its signature is not looked at.
pub(super) fn read(line: &[u8]) -> Option<RecordCheckpoint> {
    #[derive(Deserialize)]
    struct Line {
        kind: String,
        #[serde(flatten)]
        checkpoint: RecordCheckpoint,
    }
    // The signature has one length, so that other lines are told by a look at one place.
    let at = line.len().checked_sub(SIGNATURE.len() + SIGNATURE_HEX + 3)?;
    if !line.get(at..)?.starts_with(SIGNATURE.as_bytes()) {
        return None;
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    (line.kind == "checkpoint").then_some(line.checkpoint)
}

/// Whether a line is signed by the key that it names.
pub(super) fn is_good(checkpoint: &RecordCheckpoint, line: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(line) else { return false };
    let Some((signed, rest)) = text.rsplit_once(SIGNATURE) else { return false };
    rest == format!("{}\"}}\n", checkpoint.signature)
        && is_signed(&checkpoint.key, CONTEXT, signed, &checkpoint.signature)
}

/// Hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// Of one line.
pub(super) fn mark(line: &[u8]) -> [u8; MARK] {
    let mut mark = [0; MARK];
    for (to, from) in mark.iter_mut().zip(digest::digest(&digest::SHA256, line).as_ref()) {
        *to = *from;
    }
    mark
}

/// Ends a line that a crash has cut off, so that the next one begins on its own.
pub(super) fn end_line(file: &mut File, path: &Path) -> io::Result<()> {
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() == 0 {
        return Ok(());
    }
    let mut last = [0];
    File::open(path)?.read_exact_at(&mut last, meta.len() - 1)?;
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}
