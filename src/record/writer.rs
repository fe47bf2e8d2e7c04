//! The thread that writes records: requests append to a buffer, the thread swaps it every few milliseconds.
//!
//! Waking a thread for each record costs more than the record; a buffer that is looked at every [`INTERVAL`] costs a
//! lock and a copy. kill -9 loses at most one interval.

use super::metrics::Metrics;
use crate::decision::Slot;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(20);
/// Room that is kept from one batch to the next.
const KEPT_BUFFER: usize = 1 << 20;
/// Pause after a failed write.
const RETRY: Duration = Duration::from_millis(250);

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
}

struct Shared {
    pending: Mutex<Pending>,
    /// Told when a batch is written, and when the writer is to stop.
    changed: Condvar,
    head: String,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
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
        let shared = Arc::new(Shared { pending: Mutex::new(Pending::default()), changed: Condvar::new(), head });
        let mut output = Output::open(options.sink)?;
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("record-writer".into())
            .spawn(move || run(&for_thread, &mut output, &metrics))?;
        Ok(Writer { shared, thread: Some(thread) })
    }

    /// `rest` is a JSON object; schema, node, boot and seq are put before its fields.
    pub(super) fn append(&self, rest: &[u8], mut slot: Slot) {
        slot.fill(self.shared.head.len() + rest.len());
        let mut pending = self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.seq += 1;
        pending.appended += 1;
        let seq = pending.seq;
        pending.bytes.extend_from_slice(self.shared.head.as_bytes());
        // Writing to a Vec does not fail.
        let _ = write!(pending.bytes, "{seq},");
        pending.bytes.extend_from_slice(rest.strip_prefix(b"{").unwrap_or(rest));
        pending.bytes.push(b'\n');
        pending.slots.push(slot);
    }

    pub(super) fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut pending = self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let target = pending.appended;
        while pending.written < target {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            pending = self.shared.changed.wait_timeout(pending, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for Writer {
    /// Writes what is there, if the sink takes it, and ends the thread.
    fn drop(&mut self) {
        self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, output: &mut Output, metrics: &Metrics) {
    let mut spare: Vec<u8> = Vec::new();
    loop {
        let (bytes, slots, stop) = {
            let pending = shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
            let mut pending = shared.changed.wait_timeout(pending, INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
            (
                std::mem::replace(&mut pending.bytes, std::mem::take(&mut spare)),
                std::mem::take(&mut pending.slots),
                pending.stop,
            )
        };
        if bytes.is_empty() {
            if stop {
                return;
            }
            continue;
        }
        let mut rest = bytes.as_slice();
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
            let pending = shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if pending.stop {
                metrics.records_lost.inc_by(slots.len() as u64);
                return;
            }
            drop(shared.changed.wait_timeout(pending, RETRY).unwrap_or_else(PoisonError::into_inner));
        }
        if output.failing {
            output.failing = false;
            tracing::info!("records are written again");
        }
        metrics.records_written.inc_by(slots.len() as u64);
        let written = slots.len() as u64;
        drop(slots);
        spare = bytes;
        spare.clear();
        spare.shrink_to(KEPT_BUFFER);
        let mut pending = shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.written += written;
        drop(pending);
        shared.changed.notify_all();
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
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}
