//! Whether a request body still moves. HTTP/1 sessions have a read timeout; HTTP/2 streams have none, so `listen`
//! watches them through this.

use super::cut::Cut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

tokio::task_local! {
    /// Set by `listen` around the handling of one HTTP/2 stream.
    pub static PROGRESS: Arc<Progress>;
}

/// Shared by the stream's handler, which notes what arrives, and its watchdog.
#[derive(Debug)]
pub struct Progress {
    since: Instant,
    /// Milliseconds after `since` at which the body last moved.
    last: AtomicU64,
    /// Milliseconds of silence that are too long.
    limit: AtomicU64,
    open: AtomicBool,
    expired: AtomicBool,
    /// Ends the stream, and not its siblings.
    pub cut: Cut,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            since: Instant::now(),
            last: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            open: AtomicBool::new(false),
            expired: AtomicBool::new(false),
            cut: Cut::default(),
        }
    }
}

impl Progress {
    /// The body is being waited for; it may be silent for `limit`.
    pub(super) fn begin(&self, limit: Duration) {
        self.touch();
        self.limit.store(millis(limit), Ordering::Release);
        self.open.store(true, Ordering::Release);
    }

    /// Something arrived; `end` when it was the last.
    pub(super) fn moved(&self, end: bool) {
        self.touch();
        if end {
            self.open.store(false, Ordering::Release);
        }
    }

    /// Whether the watchdog has ended the stream.
    pub(super) fn has_expired(&self) -> bool {
        self.expired.load(Ordering::Acquire)
    }

    /// Something went the one way or the other.
    pub(super) fn touch(&self) {
        self.last.store(millis(self.since.elapsed()), Ordering::Release);
    }

    /// Returns when a body that is being waited for has been silent for too long; looks at least every `interval`.
    pub async fn stalled(&self, interval: Duration) {
        loop {
            let limit = Duration::from_millis(self.limit.load(Ordering::Acquire));
            let silent = self.since.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Acquire)));
            let open = self.open.load(Ordering::Acquire);
            if open && silent >= limit {
                self.expired.store(true, Ordering::Release);
                return;
            }
            let wait = if open { limit.saturating_sub(silent).min(interval) } else { interval };
            tokio::time::sleep(wait.max(Duration::from_millis(10))).await;
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
