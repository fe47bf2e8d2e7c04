//! Stopping a partner at once, letting it go on, and saying what somebody found who has looked at it.

use super::{ChangeError, Publisher, Switched, aside, interrupted, not_live};
use crate::clock::UnixNanos;
use crate::document::Problems;
use crate::history::Cause;
use crate::name::PartnerId;
use crate::partner::{Partner, PartnerRecord, Reviewed, Suspension};
use crate::registry::Change;
use std::sync::Arc;

/// What is to become of a partner.
#[derive(Clone, Debug)]
pub enum Stop {
    Suspend(Suspension),
    Resume,
    Review(Reviewed),
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// As it is now.
    pub partner: Partner,
    pub switched: Switched,
    pub changed: bool,
}

impl Publisher {
    /// Stops a partner, or lets it go on; live at once, and on what is open.
    ///
    /// # Errors
    /// There is no such partner, what is wanted is not legal now, or the database failed; nothing was changed.
    pub async fn stop(self: &Arc<Self>, id: PartnerId, stop: Stop, cause: Cause) -> Result<Stopped, ChangeError> {
        let this = self.clone();
        aside(async move { this.stop_now(&id, stop, &cause).await })
            .await
            .unwrap_or_else(|e| Err(interrupted("registry", &e)))
    }

    async fn stop_now(&self, id: &PartnerId, stop: Stop, cause: &Cause) -> Result<Stopped, ChangeError> {
        let running = self.state.lock().await;
        self.catch_up_if_it_can(&running).await?;
        let Some(live) = self.live.load_full() else { return Err(not_live().into()) };
        let Some(record) = live.snapshot.registry.partner(id) else {
            return Err(not_legal(id, "there is no such partner").into());
        };
        let mut next = PartnerRecord::clone(record);
        let done = match stop {
            Stop::Suspend(suspension) => next.partner.suspend(suspension),
            Stop::Resume => next.partner.resume(),
            Stop::Review(reviewed) => next.partner.reviewed(reviewed).map(|()| true),
        };
        let changed = done.map_err(|reason| not_legal(id, &reason))?;
        let partner = next.partner.clone();
        let switched = if changed {
            self.switch(&live, Change::Partner(id.clone(), Some(Arc::new(next))), cause).await?
        } else {
            self.unchanged(&live).await
        };
        Ok(Stopped { partner, switched, changed })
    }

    /// Partners that somebody should have looked at by `now`, and since when. Every partner is looked at.
    pub fn reviews(&self, now: UnixNanos) -> Vec<(Arc<PartnerRecord>, UnixNanos)> {
        let Some(live) = self.live.load_full() else { return Vec::new() };
        let due = live.snapshot.registry.partners().filter_map(|r| Some((r.clone(), r.partner.review_due()?)));
        let due: Vec<_> = due.filter(|(_, due)| *due <= now).collect();
        self.metrics.reviews_due.set(i64::try_from(due.len()).unwrap_or(i64::MAX));
        due
    }
}

fn not_legal(id: &PartnerId, reason: &str) -> Problems {
    let mut problems = Problems::new();
    problems.registry(format!("partners.{id}"), reason, None);
    problems
}
