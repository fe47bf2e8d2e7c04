//! What operators make of what waits for them.

use super::{ChangeError, Publisher, aside, interrupted, not_live};
use crate::approval::{Approval, Outcome, Present, Verdict, changes};
use crate::document::Problems;
use crate::history::{Cause, Off};
use crate::name::ApprovalId;
use crate::partner::Provenance;
use crate::store::{Commit, StoreError};
use std::sync::Arc;

/// A verdict on what waits.
#[derive(Clone, Debug)]
pub struct Verdicted {
    pub id: ApprovalId,
    pub verdict: Verdict,
    pub cause: Cause,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Decided {
    pub approval: Approval,
    /// Registry revision that is live now.
    pub revision: u64,
}

impl Publisher {
    /// Makes live what was asked for, or puts an end to it.
    ///
    /// # Errors
    /// That is not legal now, what it takes the place of has changed, or the result would not be consistent; nothing was
    /// changed.
    pub async fn decide(self: &Arc<Self>, verdict: Verdicted) -> Result<Decided, ChangeError> {
        let this = self.clone();
        aside(async move { this.decide_now(verdict).await }).await.unwrap_or_else(|e| Err(interrupted("registry", &e)))
    }

    async fn decide_now(&self, Verdicted { id, verdict, cause }: Verdicted) -> Result<Decided, ChangeError> {
        let running = self.state.lock().await;
        self.catch_up(&running).await?;
        let Some(live) = self.live.load_full() else { return Err(not_live().into()) };
        let Some(approval) = self.store.approval(&id).await? else {
            return Err(wrong(&id, vec!["there is no such approval".into()]).into());
        };
        let at = self.clock.now();
        let outcome = Outcome { verdict, author: cause.actor.name.clone(), at, reason: cause.reason.clone() };
        let ended = approval.end(outcome, running.approval.four_eyes).map_err(|reason| wrong(&id, vec![reason]))?;
        let alone = verdict == Verdict::Approved && cause.actor.name == approval.requester;
        let cause = Cause { approval: Some(id.clone()), four_eyes: alone.then_some(Off::Off), ..cause };
        let (ready, operators) = if verdict == Verdict::Approved {
            let provenance = Arc::new(Provenance {
                id: Some(id.clone()),
                requester: approval.requester.clone(),
                approver: cause.actor.name.clone(),
                at,
                justification: approval.justification.clone(),
                ticket: approval.ticket.clone(),
            });
            let operators = self.operators();
            let present = Present { registry: &live.snapshot.registry, operators: &operators };
            let becomes = changes(present, &approval.items, &provenance).map_err(|reasons| wrong(&id, reasons))?;
            // Time may have made something of it that is not legal any more.
            self.legal(&becomes.changes, &live.snapshot.registry)?;
            (self.ready(&live, becomes.changes)?, becomes.operators)
        } else {
            (None, Vec::new())
        };
        let mut approvals = self.voided(self.waiting().await?, &live.snapshot.registry, ready.as_ref(), &cause);
        approvals.retain(|other| other.id != id);
        approvals.push(ended.clone());
        let commit = Commit { operators: &operators, approvals: &approvals, ..Commit::default() };
        let revision = self.commit_and_publish(&live, ready, commit, &cause).await?;
        tracing::info!(approval = %id, author = cause.actor.name, "approval is {}", verdict.as_str());
        Ok(Decided { approval: ended, revision })
    }
}

impl Publisher {
    /// What waits for approval now.
    ///
    /// # Errors
    /// The database failed.
    pub async fn waiting(&self) -> Result<Vec<Approval>, StoreError> {
        let now = self.clock.now();
        let mut open = self.store.open_approvals().await?;
        open.retain(|approval| approval.is_open(now));
        self.metrics.approvals_waiting.set(i64::try_from(open.len()).unwrap_or(i64::MAX));
        let oldest = open.iter().map(|approval| approval.requested).min();
        self.metrics.approval_oldest.set(oldest.map_or(0.0, |at| at.seconds() as f64));
        Ok(open)
    }
}

fn wrong(id: &ApprovalId, reasons: Vec<String>) -> Problems {
    let mut problems = Problems::new();
    for reason in reasons {
        problems.registry(format!("approvals.{id}"), reason, None);
    }
    problems
}
