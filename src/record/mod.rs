//! The only exit for evidence: one JSON line per decision and per refused handshake, and the metrics.
//!
//! In: [`Entry`] values with the [`crate::decision::Slot`] that was reserved for them. Out: lines in a file or on
//! stdout, in order, written by one thread every few milliseconds, each batch with a signed checkpoint behind it; a slot is
//! free again once its line is written. Decisions also go into a [`Spool`], for an upload. [`RecordVerifier`] looks at them later. Must never: block the request path on a sink, lose a line without counting it, or write a secret.

mod bound;
mod checkpoint;
mod entry;
mod event;
mod mask;
mod masking;
mod metrics;
mod output;
pub mod recorded;
pub mod replay;
mod rotate;
mod spool;
mod usage;
mod verify;
mod writer;

pub use checkpoint::{RecordCheckpoint, RecordEnd, RecordsLost, Unrecorded};
pub use entry::{
    Alert, CandidateEntry, Entry, HandshakeEntry, HistoryEntry, InputCache, Kind, MalformedEntry, OauthEntry,
    Presented, RequestEntry, SuppressedEntry, UpstreamEntry,
};
pub use event::{Labels, opa_event};
pub use mask::{Include, Mask, printable};
pub use metrics::{Metrics, Outcome, PreviewOutcome, metrics_reference};
pub use output::Sink;
pub use rotate::Rotation;
pub use spool::{Spool, SpoolOptions, Waiting, backoff};
pub use usage::{Batch, ClosedPartner, FirstDenied, Seen, Usage, UsageKey, UsageLog};
pub use verify::{LinePlace, LostRecords, NodeRecords, RecordFault, RecordFaultKind, RecordVerifier};
pub use writer::WriterOptions;

use crate::clock::UnixNanos;
use crate::decision::{Slot, Slots, WhenFull};
use crate::history::Checkpoint;
use crate::policy::LogRules;
use bound::Bound;
use masking::{LiveRules, Masker};
use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use writer::Writer;

/// Form and version of a record.
pub const RECORD_SCHEMA: &str = "partnergate.record/1";

/// Partners, and certificates, whose part of a record is kept ready.
const PREBUILT: usize = 10_000;
/// Records whose number somebody else sets.
const SUPPRESSIBLE: [Kind; 3] = [Kind::Handshake, Kind::Malformed, Kind::Candidate];
/// How often it is looked whether there is room for what can wait.
const ROOM_INTERVAL: Duration = Duration::from_millis(5);

thread_local! {
    /// Room for one line, kept so that a record costs no allocation of its own.
    static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Hands out slots, takes entries, writes lines. Cloning shares it.
#[derive(Clone)]
pub struct Recorder {
    slots: Slots,
    writer: Arc<Writer>,
    mask: Arc<Mask>,
    inputs: Arc<InputCache>,
    metrics: Arc<Metrics>,
    usage: Arc<UsageLog>,
    bounds: Arc<Bounds>,
    spool: Option<Arc<Spool>>,
    rules: LiveRules,
}

/// A flood of strangers must not suppress what is known of partners, nor a candidate either.
struct Bounds {
    handshakes: Bound,
    malformed: Bound,
    candidate: Bound,
}

/// How records are kept.
pub struct RecordOptions {
    /// Records that may wait to be written.
    pub capacity: usize,
    /// Bytes that may wait, about: what is in flight comes on top.
    pub max_bytes: usize,
    pub when_full: WhenFull,
    /// Records of refused handshakes per second, as many of malformed requests, and as many of what a candidate would change;
    /// ten times that at once.
    pub per_second: u32,
    pub mask: Mask,
    pub writer: WriterOptions,
    /// Where decisions wait for an upload, if there is one.
    pub spool: Option<SpoolOptions>,
    /// What the events of an upload have besides; rules of `package system.log` see it too.
    pub labels: Labels,
}

impl Recorder {
    /// Opens the sink and starts the writer.
    ///
    /// # Errors
    /// The sink cannot be opened.
    pub fn start(options: RecordOptions, metrics: Arc<Metrics>) -> std::io::Result<Recorder> {
        let slots = Slots::new(options.capacity, options.max_bytes, options.when_full);
        let spool = options.spool.map(|spool| Spool::open(spool, slots.clone(), metrics.clone()));
        let spool = spool.transpose()?.map(Arc::new);
        let rules = LiveRules::default();
        let masker = Masker::new(rules.clone(), options.labels, metrics.clone());
        let writer = Writer::start(options.writer, spool.clone(), masker, metrics.clone())?;
        let bound = || Bound::new(options.per_second, Instant::now());
        let bounds = Bounds { handshakes: bound(), malformed: bound(), candidate: bound() };
        for kind in SUPPRESSIBLE {
            // There from the start, so that an alert sees the first rise.
            metrics.records_suppressed.with_label_values(&[kind.as_str()]).inc_by(0);
        }
        Ok(Recorder {
            bounds: Arc::new(bounds),
            slots,
            writer: Arc::new(writer),
            mask: Arc::new(options.mask),
            inputs: Arc::new(InputCache::new(PREBUILT)),
            metrics,
            usage: Arc::new(UsageLog::new()),
            spool,
            rules,
        })
    }

    /// From now on, lines are written as these rules say.
    pub fn mask_by(&self, rules: Option<Arc<LogRules>>) {
        self.rules.store(rules);
    }

    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What waits for an upload.
    pub fn spool(&self) -> Option<&Arc<Spool>> {
        self.spool.as_ref()
    }

    /// Use of credentials and grants, counted here and flushed to the database by others.
    pub fn usage(&self) -> &Arc<UsageLog> {
        &self.usage
    }

    /// Writes one entry into the place that was kept for it. Without a place the loss is counted.
    pub fn write(&self, entry: &Entry<'_>, slot: Option<Slot>) {
        if !self.write_after(entry, slot, 0) {
            self.lose(entry);
        }
    }

    fn lose(&self, entry: &Entry<'_>) {
        self.metrics.records_lost.inc();
        self.writer.lose(entry.is_refused_for_want_of_it());
    }

    /// An entry that nobody reserved a place for, such as a refused handshake. Anybody can cause those, so that they
    /// are bounded in rate; what is not written is counted, and told by the next one that is.
    pub fn write_unreserved(&self, entry: &Entry<'_>) {
        let Some(bound) = self.bounds.of(entry.kind()) else { return self.write(entry, self.slots.reserve()) };
        match bound.admit(Instant::now()) {
            None => self.metrics.records_suppressed.with_label_values(&[entry.kind().as_str()]).inc(),
            Some(suppressed) => {
                if !self.write_after(entry, self.slots.reserve(), suppressed) {
                    self.lose(entry);
                    bound.give_back(suppressed);
                }
            }
        }
    }

    /// Writes how many records were suppressed since the last one that was written, if any: when a flood ends, no
    /// further one may come for long.
    pub fn tell_suppressed(&self, now: UnixNanos) {
        for of in SUPPRESSIBLE {
            let Some(bound) = self.bounds.of(of) else { continue };
            let suppressed = bound.take_suppressed();
            let entry = Entry::Suppressed(SuppressedEntry { time: now, of });
            if suppressed > 0 && !self.write_after(&entry, self.slots.reserve(), suppressed) {
                bound.give_back(suppressed);
            }
        }
    }

    /// Returns whether there was a place.
    fn write_after(&self, entry: &Entry<'_>, slot: Option<Slot>, suppressed: u64) -> bool {
        let Some(slot) = slot.filter(Slot::is_real) else { return false };
        let mut line = LINE.take();
        line.clear();
        entry.write_json(&self.mask, &self.inputs, &mut line);
        if suppressed > 0 && line.pop_if(|last| *last == b'}').is_some() {
            // Writing to a Vec does not fail.
            let _ = write!(line, ",\"suppressed\":{suppressed}}}");
        }
        let placed = self.writer.append(&line, slot);
        LINE.set(line);
        placed
    }

    /// Writes copies of events and of the checkpoint behind them. They let records of requests go first and wait for
    /// room. Returns how many of the events found some within `limit`. To be called where nobody is served.
    pub fn write_history(&self, events: &[String], checkpoint: Option<&Checkpoint>, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        let entries =
            events.iter().map(|text| HistoryEntry::Event(text)).chain(checkpoint.map(HistoryEntry::Checkpoint));
        let mut placed = 0;
        for entry in entries {
            while !self.slots.is_quiet() {
                if Instant::now() >= deadline {
                    return placed;
                }
                std::thread::sleep(ROOM_INTERVAL);
            }
            if !self.write_after(&Entry::History(entry), self.slots.reserve(), 0) {
                return placed;
            }
            placed = (placed + 1).min(events.len());
        }
        placed
    }

    /// Waits until everything appended so far is written, at most `limit`. Returns whether it is.
    pub fn flush(&self, limit: Duration) -> bool {
        self.writer.flush(limit)
    }

    /// Writes what is there and the last checkpoint; nothing is written after it. Returns whether all of it was written
    /// within `limit`.
    pub fn close(&self, limit: Duration) -> bool {
        self.writer.close(limit)
    }

    /// Shows the lag of a sink that does not even refuse what it is given, such as a full pipe.
    pub fn show_stuck(&self) {
        if let Some((sink, time)) = self.writer.stuck() {
            self.metrics.record_sink_lag.with_label_values(&[sink]).set(time.as_secs_f64());
        }
    }

    /// How far the checkpoints that are written have come.
    pub fn end(&self) -> RecordEnd {
        self.writer.end()
    }
}

impl Bounds {
    /// What bounds the records of a kind; nothing for those that belong to a decision.
    fn of(&self, kind: Kind) -> Option<&Bound> {
        match kind {
            Kind::Handshake => Some(&self.handshakes),
            Kind::Malformed => Some(&self.malformed),
            Kind::Candidate => Some(&self.candidate),
            Kind::Request | Kind::StreamOpen | Kind::StreamCut | Kind::Suppressed | Kind::History | Kind::Oauth => None,
        }
    }
}
