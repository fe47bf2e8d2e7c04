//! Calls of operators that have changed nothing of the registry, and are in its history all the same: who was refused what, and
//! who has the files read again.

use super::{ChangeError, Publisher, aside, interrupted};
use crate::history::Cause;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Calls of one operator that are written in one minute. Who calls more often fills no disk with that.
const A_MINUTE: u32 = 30;

/// How many calls of each operator have been written in the minute that it is.
#[derive(Default)]
pub(super) struct Calls(Mutex<HashMap<String, Written>>);

#[derive(Clone, Copy, Default)]
struct Written {
    minute: u64,
    calls: u32,
    /// More than were written, since one was.
    left_out: u64,
}

impl Calls {
    /// Whether one more of this operator is written, and how many were left out before it.
    fn admit(&self, operator: &str, minute: u64) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = all.entry(operator.to_owned()).or_default();
        if written.minute != minute {
            (written.minute, written.calls) = (minute, 0);
        }
        if written.calls >= A_MINUTE {
            written.left_out += 1;
            return None;
        }
        written.calls += 1;
        Some(std::mem::take(&mut written.left_out))
    }
}

impl Publisher {
    /// Writes into the history that somebody has called, and what came of it. More than thirty of one operator in a minute are
    /// only counted, and the next that is written says how many they were.
    ///
    /// # Errors
    /// The database failed.
    pub async fn note_call(
        self: &Arc<Self>,
        call: String,
        mut outcome: Value,
        cause: Cause,
    ) -> Result<(), ChangeError> {
        let now = self.clock.now();
        let Some(left_out) = self.calls.admit(&cause.actor.name, now.seconds() / 60) else { return Ok(()) };
        if let Some(object) = outcome.as_object_mut().filter(|_| left_out > 0) {
            object.insert("left_out_before".into(), json!(left_out));
        }
        let this = self.clone();
        let written = aside(async move { this.store.tell_of_call(&call, outcome, &cause, now).await });
        written.await.map_err(|e| interrupted("history", &e))??;
        self.committed.notify_one();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_thirty_calls_a_minute_are_counted_and_said_with_the_next() {
        let calls = Calls::default();
        assert!((0..A_MINUTE).all(|_| calls.admit("mallory", 7) == Some(0)));
        assert!((0..5).all(|_| calls.admit("mallory", 7).is_none()));
        assert_eq!(calls.admit("alice", 7), Some(0), "others are written as before");
        assert_eq!((calls.admit("mallory", 8), calls.admit("mallory", 8)), (Some(5), Some(0)));
    }
}
