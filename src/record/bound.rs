//! A token bucket for records that anybody can cause without being a partner, so that a flood cannot fill the disk.
//!
//! In: the wish to write one. Out: leave to, with how many were suppressed since the last leave, so that the evidence
//! itself says what is missing in it. Must never: lose count.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What may come at once, in seconds of the rate.
const BURST: f64 = 10.0;

/// See the module.
pub(super) struct Bound {
    /// Per second.
    rate: f64,
    state: Mutex<State>,
}

struct State {
    tokens: f64,
    filled: Instant,
    suppressed: u64,
}

impl Bound {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let rate = f64::from(per_second);
        Bound { rate, state: Mutex::new(State { tokens: rate * BURST, filled: now, suppressed: 0 }) }
    }

    /// Leave to write one record that says how many were suppressed before it. `None` suppresses this one.
    pub(super) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(state.filled).as_secs_f64();
        state.tokens = (state.tokens + passed * self.rate).min(self.rate * BURST);
        state.filled = state.filled.max(now);
        if state.tokens < 1.0 {
            state.suppressed += 1;
            return None;
        }
        state.tokens -= 1.0;
        Some(std::mem::take(&mut state.suppressed))
    }

    /// What was suppressed since the last leave, for a record that says only that.
    pub(super) fn take_suppressed(&self) -> u64 {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).suppressed)
    }

    /// No record could say it: the next one will.
    pub(super) fn give_back(&self, suppressed: u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).suppressed += suppressed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn burst_is_ten_seconds_of_the_rate_and_the_rest_is_counted() {
        let start = Instant::now();
        let bound = Bound::new(5, start);
        let admitted: Vec<Option<u64>> = (0..80).map(|_| bound.admit(start)).collect();
        assert_eq!(admitted.iter().flatten().count(), 50);
        assert_eq!(bound.admit(start + Duration::from_millis(199)), None, "a fifth of a second makes one");
        assert_eq!(bound.admit(start + Duration::from_millis(201)), Some(31));
        assert_eq!(bound.admit(start + Duration::from_millis(402)), Some(0));
    }

    #[test]
    fn bucket_fills_no_higher_than_the_burst() {
        let start = Instant::now();
        let bound = Bound::new(1, start);
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter_map(|_| bound.admit(later)).count(), 10);
    }

    #[test]
    fn suppressed_records_are_told_once() {
        let start = Instant::now();
        let bound = Bound::new(1, start);
        for _ in 0..15 {
            let _ = bound.admit(start);
        }
        assert_eq!(bound.take_suppressed(), 5);
        assert_eq!(bound.take_suppressed(), 0);
        bound.give_back(5);
        assert_eq!(bound.admit(start + Duration::from_secs(1)), Some(5));
    }

    #[test]
    fn time_that_runs_back_gives_nothing() {
        let start = Instant::now() + Duration::from_secs(10);
        let bound = Bound::new(1, start);
        assert_eq!((0..20).filter_map(|_| bound.admit(start)).count(), 10);
        assert_eq!(bound.admit(start.checked_sub(Duration::from_secs(5)).unwrap()), None);
        assert_eq!(bound.admit(start), None);
    }
}
