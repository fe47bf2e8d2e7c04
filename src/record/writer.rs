//! The thread that writes records: requests append to a buffer, the thread swaps it every few milliseconds.
//!
//! Waking a thread for each record costs more than the record; a buffer that is looked at every [`INTERVAL`] costs a
//! lock and a copy. kill -9 loses at most one interval. What the thread takes at once ends with a signed checkpoint, so that
//! nothing stands unsigned for longer than that either; signing is the thread's work and no request's.

use super::checkpoint::{Chain, RecordEnd, RecordsLost, end_line};
use super::metrics::Metrics;
use crate::clock::Clock;
use crate::decision::Slot;
use crate::history::Signer;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(20);
/// Room that is kept from one batch to the next.
const KEPT_BUFFER: usize = 1 << 20;
/// Pause after a failed write.
const RETRY: Duration = Duration::from_millis(250);
/// Time for the last checkpoint, when all the rest has taken the time that there was.
const LAST: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    Stdout,
    /// Opened for appending, mode 0600; opened again when it was moved or removed, so that logrotate works.
    File(PathBuf),
}

pub struct WriterOptions {
    pub sink: Sink,
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
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(options: WriterOptions, metrics: Arc<Metrics>) -> io::Result<Writer> {
        let quoted = |s: &str| serde_json::Value::from(s).to_string();
        let head = format!(
            "{{\"schema\":{},\"node\":{},\"boot\":{},\"seq\":",
            quoted(super::RECORD_SCHEMA),
            quoted(&options.node),
            quoted(&options.boot)
        );
        let file = match &options.sink {
            Sink::File(path) => Some(path.as_path()),
            Sink::Stdout => None,
        };
        let WriterOptions { signer, clock, node, boot, end, .. } = options;
        let (chain, lost) = Chain::open(signer, (&node, &boot), &end, file)?;
        let output = Output::open(options.sink)?;
        let shared = Arc::new(Shared {
            pending: Mutex::new(Pending::default()),
            changed: Condvar::new(),
            head,
            end: Mutex::new(chain.end().clone()),
        });
        metrics.records_unclean_start.set(i64::from(lost.is_some()));
        if let Some(lost) = &lost {
            tracing::warn!(
                boot = lost.since.boot,
                seq = lost.since.seq,
                "the gateway did not end in order, or its records are not what they were then: some may be lost since"
            );
            shared.append(&lost_line(lost, &clock), None);
        }
        let mut thread_of = Thread { shared: shared.clone(), output, chain, clock, metrics };
        let thread = std::thread::Builder::new().name("record-writer".into()).spawn(move || thread_of.run())?;
        Ok(Writer { shared, thread: Mutex::new(Some(thread)) })
    }

    /// `rest` is a JSON object; schema, node, boot and seq are put before its fields. Returns whether it will be written.
    pub(super) fn append(&self, rest: &[u8], mut slot: Slot) -> bool {
        slot.fill(self.shared.head.len() + rest.len());
        self.shared.append(rest, Some(slot))
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

    fn append(&self, rest: &[u8], slot: Option<Slot>) -> bool {
        let mut pending = self.pending();
        if pending.closed {
            return false;
        }
        pending.seq += 1;
        let seq = pending.seq;
        pending.bytes.extend_from_slice(self.head.as_bytes());
        // Writing to a Vec does not fail.
        let _ = write!(pending.bytes, "{seq},");
        pending.bytes.extend_from_slice(rest.strip_prefix(b"{").unwrap_or(rest));
        pending.bytes.push(b'\n');
        pending.appended += u64::from(slot.is_some());
        pending.slots.extend(slot);
        true
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

fn lost_line(lost: &RecordsLost, clock: &Clock) -> Vec<u8> {
    let mut line = json!({"time": clock.now().to_string(), "kind": "records-lost"});
    if let (Some(line), Ok(serde_json::Value::Object(lost))) = (line.as_object_mut(), serde_json::to_value(lost)) {
        line.extend(lost);
    }
    line.to_string().into_bytes()
}

/// What the thread works with.
struct Thread {
    shared: Arc<Shared>,
    output: Output,
    chain: Chain,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
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
    fn next(&self, spare: &mut Vec<u8>) -> Option<Batch> {
        let pending = self.shared.pending();
        let waited = self.shared.changed.wait_timeout(pending, INTERVAL);
        let mut pending = waited.unwrap_or_else(PoisonError::into_inner).0;
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

    /// Tries until everything is written, or the gateway stops. Returns whether it is.
    fn write(&mut self, batch: &Batch) -> bool {
        let Thread { shared, output, metrics, .. } = self;
        let mut rest = batch.bytes.as_slice();
        while !rest.is_empty() {
            match output.write(rest) {
                Ok(0) => {}
                Ok(n) => {
                    rest = rest.get(n..).unwrap_or_default();
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    metrics.record_sink_errors.inc();
                    if !output.failing {
                        output.failing = true;
                        tracing::error!(error = %e, "records cannot be written; they are kept while there is room");
                    }
                }
            }
            let pending = shared.pending();
            if pending.stop {
                return false;
            }
            drop(shared.changed.wait_timeout(pending, RETRY).unwrap_or_else(PoisonError::into_inner));
        }
        if output.failing {
            output.failing = false;
            tracing::info!("records are written again");
        }
        true
    }
}

struct Output {
    sink: Sink,
    file: Option<File>,
    failing: bool,
    looked: Instant,
}

impl Output {
    fn open(sink: Sink) -> io::Result<Output> {
        let file = match &sink {
            Sink::Stdout => None,
            Sink::File(path) => Some(open(path)?),
        };
        Ok(Output { sink, file, failing: false, looked: Instant::now() })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Sink::File(path) = &self.sink else {
            let mut out = io::stdout().lock();
            let n = out.write(bytes)?;
            out.flush()?;
            return Ok(n);
        };
        if self.looked.elapsed() > Duration::from_secs(1) || self.file.is_none() {
            self.looked = Instant::now();
            let moved = match (&self.file, std::fs::metadata(path)) {
                (Some(file), Ok(there)) => {
                    file.metadata()?.ino() != there.ino() || file.metadata()?.dev() != there.dev()
                }
                _ => true,
            };
            if moved {
                self.file = None;
                self.file = Some(open(path)?);
            }
        }
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => Ok(0),
        }
    }
}

fn open(path: &std::path::Path) -> io::Result<File> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    end_line(&mut file, path)?;
    Ok(file)
}
