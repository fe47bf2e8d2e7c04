//! Ending a request before its own end, and how long that took since the change that ends it.
//!
//! In: why, and what was decided on. Out: a [`Cut`] that whoever serves the request waits for; the time until the last
//! request that a change ended is gone. Must never: end what has ended.

use super::Live;
use crate::clock::UnixNanos;
use crate::decision::Refused;
use crate::reason::Reason;
use crate::record::Metrics;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A flag that can be waited for. Once up it stays up.
#[derive(Debug, Default)]
pub struct Signal {
    up: AtomicBool,
    told: Notify,
}

impl Signal {
    pub(super) fn raise(&self) {
        self.up.store(true, Ordering::Release);
        self.told.notify_waiters();
    }

    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Returns once it is up.
    pub async fn raised(&self) {
        loop {
            // Counts from here on, so that nothing is missed between the look and the wait.
            let told = self.told.notified();
            if self.is_up() {
                return;
            }
            told.await;
        }
    }
}

/// The end of an open request before its own.
#[derive(Default)]
pub struct Cut {
    ending: OnceLock<Ending>,
    signal: Signal,
}

/// Why a request was cut, and the state that it was decided on.
pub(super) struct Ending {
    /// Never empty.
    pub reasons: Vec<Reason>,
    pub detail: Option<String>,
    pub live: Arc<Live>,
    /// When it was decided.
    pub now: UnixNanos,
    /// Goes when the request has ended, so that the time is measured to there.
    end: Mutex<Option<End>>,
}

impl Ending {
    pub fn new((reasons, detail): Refused, live: Arc<Live>, now: UnixNanos, cause: &Arc<Enforcement>) -> Self {
        Ending { reasons, detail, live, now, end: Mutex::new(Some(End::of(cause))) }
    }

    /// The request has ended.
    pub fn over(&self) {
        drop(self.end.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Cut {
    /// Returns once the request is to end.
    pub async fn made(&self) {
        self.signal.raised().await;
    }

    pub fn is_made(&self) -> bool {
        self.signal.is_up()
    }

    pub(super) fn ending(&self) -> Option<&Ending> {
        self.ending.get()
    }

    pub(super) fn make(&self, ending: Ending) {
        if self.ending.set(ending).is_ok() {
            self.signal.raise();
        }
    }
}

impl fmt::Debug for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cut").field(&self.ending.get().map(|e| &e.reasons)).finish()
    }
}

/// A change that may end requests. Its time is measured until the last request that it ended is gone.
pub(super) struct Enforcement {
    since: Instant,
    /// Requests that are being ended.
    ending: AtomicUsize,
    /// There is none of them any more.
    ended: Notify,
    /// Nanoseconds after `since` at which the last one was gone; 0 while there is none.
    last: AtomicU64,
    metrics: Arc<Metrics>,
}

/// One request that is being ended.
struct End(Arc<Enforcement>);

impl End {
    fn of(cause: &Arc<Enforcement>) -> Self {
        cause.ending.fetch_add(1, Ordering::AcqRel);
        End(cause.clone())
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let took = u64::try_from(self.0.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.last.fetch_max(took, Ordering::AcqRel);
        if self.0.ending.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}

impl Enforcement {
    /// `since` is when what ends rights became true.
    pub fn new(since: Instant, metrics: Arc<Metrics>) -> Arc<Self> {
        let (ending, ended) = (AtomicUsize::new(0), Notify::new());
        Arc::new(Enforcement { since, ending, ended, last: AtomicU64::new(0), metrics })
    }

    /// Returns once nothing is being ended.
    pub async fn over(&self) {
        loop {
            // Counts from here on, so that nothing is missed between the look and the wait.
            let ended = self.ended.notified();
            if self.ending.load(Ordering::Acquire) == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Enforcement {
    fn drop(&mut self) {
        let last = self.last.load(Ordering::Acquire);
        if last > 0 {
            self.metrics.enforcement_seconds.observe(Duration::from_nanos(last).as_secs_f64());
        }
    }
}
