//! The only exit for evidence: one JSON line per decision and per refused handshake, and the metrics.
//!
//! In: [`Entry`] values with the [`crate::decision::Slot`] that was reserved for them. Out: lines in a file or on
//! stdout, in order, written by one thread every few milliseconds; a slot is free again once its line is written.
//! Must never: block the request path on a sink, lose a line without counting it, or write a secret.

mod entry;
mod mask;
mod metrics;
mod usage;
mod writer;

pub use entry::{Entry, HandshakeEntry, InputCache, Kind, MalformedEntry, Presented, RequestEntry, UpstreamEntry};
pub use mask::{Include, Mask, printable};
pub use metrics::{Metrics, Outcome, metrics_reference};
pub use usage::{Batch, Seen, Usage, UsageKey, UsageLog};
pub use writer::{Sink, WriterOptions};

use crate::decision::{Slot, Slots, WhenFull};
use std::cell::Cell;
use std::sync::Arc;
use writer::Writer;

/// Form and version of a record.
pub const RECORD_SCHEMA: &str = "partnergate.record/1";

/// Partners, and certificates, whose part of a record is kept ready.
const PREBUILT: usize = 10_000;

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
}

/// How records are kept.
pub struct RecordOptions {
    /// Records that may wait to be written.
    pub capacity: usize,
    /// Bytes that may wait, about: what is in flight comes on top.
    pub max_bytes: usize,
    pub when_full: WhenFull,
    pub mask: Mask,
    pub writer: WriterOptions,
}

impl Recorder {
    /// Opens the sink and starts the writer.
    ///
    /// # Errors
    /// The sink cannot be opened.
    pub fn start(options: RecordOptions, metrics: Arc<Metrics>) -> std::io::Result<Recorder> {
        let slots = Slots::new(options.capacity, options.max_bytes, options.when_full);
        let writer = Writer::start(options.writer, metrics.clone())?;
        Ok(Recorder {
            slots,
            writer: Arc::new(writer),
            mask: Arc::new(options.mask),
            inputs: Arc::new(InputCache::new(PREBUILT)),
            metrics,
            usage: Arc::new(UsageLog::new()),
        })
    }

    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Use of credentials and grants, counted here and flushed to the database by others.
    pub fn usage(&self) -> &Arc<UsageLog> {
        &self.usage
    }

    /// Writes one entry into the place that was kept for it. Without a place the loss is counted.
    pub fn write(&self, entry: &Entry<'_>, slot: Option<Slot>) {
        match slot.filter(Slot::is_real) {
            Some(slot) => {
                let mut line = LINE.take();
                line.clear();
                entry.write_json(&self.mask, &self.inputs, &mut line);
                self.writer.append(&line, slot);
                LINE.set(line);
            }
            None => self.metrics.records_lost.inc(),
        }
    }

    /// An entry that nobody reserved a place for, such as a refused handshake.
    pub fn write_unreserved(&self, entry: &Entry<'_>) {
        self.write(entry, self.slots.reserve());
    }

    /// Waits until everything appended so far is written, at most `limit`. Returns whether it is.
    pub fn flush(&self, limit: std::time::Duration) -> bool {
        self.writer.flush(limit)
    }
}
