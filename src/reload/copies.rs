//! Copies of the history for the record sink, where whoever has the database alone cannot alter them.
//!
//! A task of its own: a sink that is down holds up no change, and least of all a denial.

use super::Publisher;
use crate::record::RecordEnd;
use crate::store::{HistoryQuery, StoreError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::block_in_place;

/// How long the record sink may take to take copies before it is tried again.
const LIMIT: Duration = Duration::from_secs(2);
/// Events that are copied at once. An import of a hundred thousand partners leaves as many; requests come first.
const AT_ONCE: u32 = 100;
/// How much longer than it took to copy some it is waited before more are.
const PAUSE: u32 = 3;
/// How often it is tried again what the sink or the database did not take.
const AGAIN: Duration = Duration::from_secs(1);

impl Publisher {
    /// Copies what was there at the start, and then what is committed, until it is dropped.
    pub async fn copy_history(self: Arc<Self>) {
        // The last event that the sink was given in this life of the process: it has them waiting while it is down, and
        // they are not given to it once more.
        let mut given = 0;
        loop {
            match self.copy_events(&mut given).await {
                Ok(true) => self.committed.notified().await,
                Ok(false) => tokio::time::sleep(AGAIN).await,
                Err(e) => {
                    tracing::error!(error = %e, "the history cannot be copied to the record sink");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// How far the checkpoints of the records have come.
    pub fn records_end(&self) -> RecordEnd {
        self.open.recorder.end()
    }

    /// Returns whether the sink has a copy of everything.
    async fn copy_events(&self, given: &mut u64) -> Result<bool, StoreError> {
        let recorder = &self.open.recorder;
        let mut began = Instant::now();
        loop {
            let copied = self.store.copied().await?;
            if *given > copied {
                if !block_in_place(|| recorder.flush(LIMIT)) {
                    return Ok(false);
                }
                self.store.set_copied(*given).await?;
                tokio::time::sleep(began.elapsed() * PAUSE).await;
                began = Instant::now();
                continue;
            }
            let wanted = HistoryQuery { after: copied, limit: AT_ONCE, ..HistoryQuery::default() };
            let texts = self.store.history(&wanted).await?;
            if texts.is_empty() {
                return Ok(true);
            }
            let all = texts.len() < AT_ONCE as usize;
            let checkpoint = if all { self.store.last_checkpoint().await? } else { None };
            let taken = block_in_place(|| recorder.write_history(&texts, checkpoint.as_ref(), LIMIT));
            if taken == 0 {
                return Ok(false);
            }
            *given = copied + u64::try_from(taken).unwrap_or(0);
        }
    }
}
