//! The thread that writes records: requests append to a buffer, the thread swaps it every few milliseconds.
//!
//! Waking a thread for each record costs more than the record; a buffer that is looked at every [`INTERVAL`] costs a
//! lock and a copy. kill -9 loses at most one interval. What the thread takes at once ends with a signed checkpoint, so that
//! nothing stands unsigned for longer than that either; signing is the thread's work and no request's.

use super::checkpoint::{Chain, RecordEnd, Unrecorded};
use super::masking::Masker;
use super::metrics::Metrics;
use super::output::{Output, Sink};
use super::rotate::Rotation;
use super::spool::Spool;
use crate::clock::Clock;
use crate::decision::Slot;
use crate::history::Signer;
use serde::Serialize;
use serde_json::json;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(20);
/// Room that is kept from one batch to the next.
const KEPT_BUFFER: usize = 1 << 20;
/// Pause after a failed write.
const RETRY: Duration = Duration::from_millis(250);
/// A write that takes longer is a sink that lags.
const STUCK: Duration = Duration::from_secs(1);
/// How often the log says that records are lost.
const LOST_INTERVAL: Duration = Duration::from_secs(10);
/// Time for the last checkpoint, when all the rest has taken the time that there was.
const LAST: Duration = Duration::from_secs(1);

pub struct WriterOptions {
    /// Each gets every line.
    pub sinks: Vec<Sink>,
    /// Of the one that is a file.
    pub rotation: Option<Rotation>,
    /// Name of this node.
    pub node: String,
    /// One per process start.
    pub boot: String,
    /// Signs checkpoints.
    pub signer: Signer,
    /// The file that keeps where the records end.
    pub end: PathBuf,
    pub clock: Arc<Clock>,
}

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    seq: u64,
    /// Records appended and written since the start, for [`Writer::flush`].
    appended: u64,
    written: u64,
    /// What had no place since the last line that told of it, and what the log has not said yet.
    lost: Option<Unrecorded>,
    unsaid: u64,
    stop: bool,
    /// The last batch was taken: nothing more is written.
    closed: bool,
    /// The thread is gone.
    ended: bool,
}

struct Shared {
    pending: Mutex<Pending>,
    /// Told when a batch is written, and when the writer is to stop.
    changed: Condvar,
    head: String,
    /// The last checkpoint that was written.
    end: Mutex<RecordEnd>,
    /// The sink that is written to, and since when: one that takes nothing holds the thread up.
    writing: Mutex<Option<(&'static str, Instant)>>,
    clock: Arc<Clock>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(
        options: WriterOptions,
        spool: Option<Arc<Spool>>,
        masker: Masker,
        metrics: Arc<Metrics>,
    ) -> io::Result<Writer> {
        let quoted = |s: &str| serde_json::Value::from(s).to_string();
        let head = format!(
            "{{\"schema\":{},\"node\":{},\"boot\":{},\"seq\":",
            quoted(super::RECORD_SCHEMA),
            quoted(&options.node),
            quoted(&options.boot)
        );
        let WriterOptions { sinks, rotation, signer, clock, node, boot, end } = options;
        let file = sinks.iter().find_map(|sink| match sink {
            Sink::File(path) => Some(path.as_path()),
            Sink::Stdout => None,
        });
        let (chain, lost) = Chain::open(signer, (&node, &boot), &end, file)?;
        let mut outputs = Vec::new();
        for sink in sinks {
            outputs.push(Output::open(sink, rotation.clone())?);
        }
        for output in &outputs {
            // There from the start, so that an alert sees the first rise.
            metrics.record_sink_errors.with_label_values(&[output.name()]).inc_by(0);
            metrics.record_sink_dropped.with_label_values(&[output.name()]).inc_by(0);
        }
        let shared = Arc::new(Shared {
            pending: Mutex::new(Pending::default()),
            changed: Condvar::new(),
            head,
            end: Mutex::new(chain.end().clone()),
            writing: Mutex::default(),
            clock: clock.clone(),
        });
        metrics.records_unclean_start.set(i64::from(lost.is_some()));
        if let Some(lost) = &lost {
            tracing::warn!(
                boot = lost.since.boot,
                seq = lost.since.seq,
                "the gateway did not end in order, or its records are not what they were then: some may be lost since"
            );
            shared.put(&mut shared.pending(), &lost_line(lost, &clock));
        }
        let shared_too = shared.clone();
        let mut thread_of = Thread { shared: shared_too, outputs, spool, masker, chain, clock, metrics, said: None };
        let thread = std::thread::Builder::new()
            .name("record-writer".into())
            .stack_size(crate::policy::STACK)
            .spawn(move || thread_of.run())?;
        Ok(Writer { shared, thread: Mutex::new(Some(thread)) })
    }

    /// `rest` is a JSON object; schema, node, boot and seq are put before its fields. Returns whether it will be written.
    pub(super) fn append(&self, rest: &[u8], mut slot: Slot) -> bool {
        slot.fill(self.shared.head.len() + rest.len());
        self.shared.append(rest, slot)
    }

    /// A record had no place: the next line that is written is one that says so. `refused` says that the request was, for
    /// want of that place.
    pub(super) fn lose(&self, refused: bool) {
        let now = self.shared.clock.now().to_string();
        let mut pending = self.shared.pending();
        pending.unsaid += 1;
        let first = Unrecorded { records: 0, refused: 0, from: now.clone(), to: String::new() };
        let lost = pending.lost.get_or_insert(first);
        lost.records += 1;
        lost.refused += u64::from(refused);
        lost.to = now;
    }

    pub(super) fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let target = self.shared.pending().appended;
        self.shared.wait(deadline, |pending| pending.written >= target)
    }

    /// Writes what is there and the last checkpoint, and ends the thread. Returns whether all of it was written within
    /// `limit`.
    pub(super) fn close(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let whole = self.flush(limit);
        self.stop();
        let ended = self.shared.wait(deadline.max(Instant::now() + LAST), |pending| pending.ended);
        whole && ended
    }

    /// How far the checkpoints that are written have come.
    pub(super) fn end(&self) -> RecordEnd {
        self.shared.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long a sink has not taken what is given to it.
    pub(super) fn stuck(&self) -> Option<(&'static str, Duration)> {
        let writing = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.map(|(sink, since)| (sink, since.elapsed())).filter(|(_, time)| *time > STUCK)
    }

    fn stop(&self) {
        self.shared.pending().stop = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Writer {
    /// Writes what is there, if the sink takes it, and ends the thread.
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, rest: &[u8], slot: Slot) -> bool {
        let mut pending = self.pending();
        if pending.closed {
            return false;
        }
        self.tell_lost(&mut pending);
        self.put(&mut pending, rest);
        pending.appended += 1;
        pending.slots.push(slot);
        true
    }

    /// Puts the line that says what had no place before what follows.
    fn tell_lost(&self, pending: &mut Pending) {
        if let Some(lost) = pending.lost.take() {
            self.put(pending, &lost_line(&lost, &self.clock));
        }
    }

    fn put(&self, pending: &mut Pending, rest: &[u8]) {
        pending.seq += 1;
        let seq = pending.seq;
        pending.bytes.extend_from_slice(self.head.as_bytes());
        // Writing to a Vec does not fail.
        let _ = write!(pending.bytes, "{seq},");
        pending.bytes.extend_from_slice(rest.strip_prefix(b"{").unwrap_or(rest));
        pending.bytes.push(b'\n');
    }

    /// Waits until something is so, at most until `deadline`. Returns whether it is.
    fn wait(&self, deadline: Instant, so: impl Fn(&Pending) -> bool) -> bool {
        let mut pending = self.pending();
        while !so(&pending) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            pending = self.changed.wait_timeout(pending, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

fn lost_line(lost: &impl Serialize, clock: &Clock) -> Vec<u8> {
    let mut line = json!({"time": clock.now().to_string(), "kind": "records-lost"});
    if let (Some(line), Ok(serde_json::Value::Object(lost))) = (line.as_object_mut(), serde_json::to_value(lost)) {
        line.extend(lost);
    }
    line.to_string().into_bytes()
}

/// What the thread works with.
struct Thread {
    shared: Arc<Shared>,
    outputs: Vec<Output>,
    spool: Option<Arc<Spool>>,
    masker: Masker,
    chain: Chain,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    /// When the log said last that records are lost.
    said: Option<Instant>,
}

/// What was taken from the buffer at once.
struct Batch {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    /// Of the checkpoint.
    seq: u64,
    /// Nothing follows.
    last: bool,
}

impl Thread {
    fn run(&mut self) {
        let mut spare: Vec<u8> = Vec::new();
        loop {
            let Some(mut batch) = self.next(&mut spare) else { continue };
            let masked = self.masker.masked(&batch.bytes);
            // First: it takes what there is at once, and another sink may have to be waited for.
            if let Some(spool) = &self.spool {
                spool.append(masked.as_ref().map_or(&batch.bytes, |masked| &masked.upload));
            }
            if let Some(masked) = masked {
                batch.bytes = masked.lines;
            }
            let checkpoint = self.chain.close(&batch.bytes, batch.seq, self.clock.now(), batch.last);
            batch.bytes.extend(checkpoint);
            let whole = self.write(&batch);
            if whole {
                self.chain.keep();
                *self.shared.end.lock().unwrap_or_else(PoisonError::into_inner) = self.chain.end().clone();
                self.metrics.records_written.inc_by(batch.slots.len() as u64);
            } else {
                self.metrics.records_lost.inc_by(batch.slots.len() as u64);
            }
            let written = batch.slots.len() as u64;
            drop(batch.slots);
            spare = batch.bytes;
            spare.clear();
            spare.shrink_to(KEPT_BUFFER);
            let ended = batch.last || !whole;
            let mut pending = self.shared.pending();
            pending.written += if whole { written } else { 0 };
            pending.closed |= ended;
            pending.ended = ended;
            // Only where the sink fails in the end.
            self.metrics.records_lost.inc_by(if ended { pending.slots.len() as u64 } else { 0 });
            drop(pending);
            self.shared.changed.notify_all();
            if ended {
                return;
            }
        }
    }

    /// Takes what is there; `None` when there is nothing after an interval.
    fn next(&mut self, spare: &mut Vec<u8>) -> Option<Batch> {
        let pending = self.shared.pending();
        let waited = self.shared.changed.wait_timeout(pending, INTERVAL);
        let mut pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        if pending.unsaid > 0 && self.said.is_none_or(|said| said.elapsed() >= LOST_INTERVAL) {
            self.said = Some(Instant::now());
            let lost = std::mem::take(&mut pending.unsaid);
            tracing::warn!(lost, "records had no place and are lost; a line `records-lost` says from when to when");
        }
        self.shared.tell_lost(&mut pending);
        if pending.bytes.is_empty() && !pending.stop {
            return None;
        }
        pending.seq += 1;
        pending.closed = pending.stop;
        Some(Batch {
            bytes: std::mem::replace(&mut pending.bytes, std::mem::take(spare)),
            slots: std::mem::take(&mut pending.slots),
            seq: pending.seq,
            last: pending.stop,
        })
    }

    /// Tries until every sink has all of it, or the gateway stops. Returns whether each has.
    fn write(&mut self, batch: &Batch) -> bool {
        let Thread { shared, outputs, chain, clock, metrics, .. } = self;
        let began = Instant::now();
        for output in outputs.iter_mut() {
            if let Err(e) = output.begin(batch.bytes.len(), chain.end().number - 1, clock.now()) {
                metrics.record_sink_errors.with_label_values(&[output.name()]).inc();
                tracing::error!(error = %e, "the file of records cannot be begun anew: it goes on");
            }
        }
        loop {
            let mut left = false;
            for output in outputs.iter_mut() {
                let whole = write_to(output, &batch.bytes, metrics, &shared.writing);
                let lag = if whole { Duration::ZERO } else { began.elapsed() };
                metrics.record_sink_lag.with_label_values(&[output.name()]).set(lag.as_secs_f64());
                left |= !whole;
            }
            if !left {
                return true;
            }
            let pending = shared.pending();
            if pending.stop {
                let count = batch.slots.len() as u64;
                for output in outputs.iter().filter(|output| output.done < batch.bytes.len()) {
                    metrics.record_sink_dropped.with_label_values(&[output.name()]).inc_by(count);
                }
                return false;
            }
            drop(shared.changed.wait_timeout(pending, RETRY).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// Returns whether the sink has all of the batch.
fn write_to(
    output: &mut Output,
    batch: &[u8],
    metrics: &Metrics,
    writing: &Mutex<Option<(&'static str, Instant)>>,
) -> bool {
    let note = |what| *writing.lock().unwrap_or_else(PoisonError::into_inner) = what;
    while output.done < batch.len() {
        note(Some((output.name(), Instant::now())));
        let written = output.write(batch);
        note(None);
        match written {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                let sink = output.name();
                metrics.record_sink_errors.with_label_values(&[sink]).inc();
                if !output.failing {
                    output.failing = true;
                    tracing::error!(error = %e, sink, "records cannot be written; they are kept while there is room");
                }
                return false;
            }
        }
    }
    if std::mem::take(&mut output.failing) {
        tracing::info!(sink = output.name(), "records are written again");
    }
    true
}
