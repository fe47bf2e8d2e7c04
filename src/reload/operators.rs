//! Operators: the first ones, and every change of them; the next call is judged by it.

use super::{ChangeError, Publisher, aside, interrupted, not_live};
use crate::approval::{FourEyes, Item};
use crate::document::Problems;
use crate::history::{Cause, Off};
use crate::name::ApprovalId;
use crate::operator::{Operator, Operators};
use crate::store::Commit;
use std::sync::Arc;

/// What is said against a change of operators.
pub type Objection = String;

/// What came of a change of an operator.
#[derive(Clone, Debug)]
pub struct Governed {
    /// As it is, or is to be.
    pub operator: Operator,
    /// What waits for somebody else.
    pub approval: Option<ApprovalId>,
}

impl Publisher {
    pub fn operators(&self) -> Arc<Operators> {
        self.operators.load_full()
    }

    /// Names the first operators, once.
    ///
    /// # Errors
    /// There are operators already, two are shown by the same thing, or the database failed; nothing was changed.
    pub async fn bootstrap(self: &Arc<Self>, first: Vec<Operator>, cause: Cause) -> Result<(), ChangeError> {
        let this = self.clone();
        let work = async move {
            let _changing = this.state.lock().await;
            let next = Operators::new(first.iter().cloned()).map_err(objection)?;
            this.store.bootstrap(&first, &cause, this.clock.now()).await?;
            this.operated(next);
            Ok(())
        };
        aside(work).await.unwrap_or_else(|e| Err(interrupted("operators", &e)))
    }

    /// Puts an operator in its place. `change` makes it of what there is; where it makes the same, nothing is written.
    /// Where it may more than before, or is shown by more, another operator has to approve it: who could make operators
    /// alone would be as many as they like. A token for oneself is no more.
    ///
    /// # Errors
    /// What `change` says against it, that nobody would be left who may, or the database failed; nothing was changed.
    pub async fn govern(
        self: &Arc<Self>,
        change: impl FnOnce(&Operators) -> Result<Operator, Objection> + Send + 'static,
        cause: Cause,
    ) -> Result<Governed, ChangeError> {
        let this = self.clone();
        aside(async move { this.govern_now(change, cause).await })
            .await
            .unwrap_or_else(|e| Err(interrupted("operators", &e)))
    }

    async fn govern_now(
        &self,
        change: impl FnOnce(&Operators) -> Result<Operator, Objection>,
        mut cause: Cause,
    ) -> Result<Governed, ChangeError> {
        let running = self.state.lock().await;
        self.catch_up(&running).await?;
        let Some(live) = self.live.load_full() else { return Err(not_live().into()) };
        let operators = self.operators();
        let operator = change(&operators).map_err(objection)?;
        let before = operators.get(operator.name.as_str());
        if before.is_some_and(|before| **before == operator) {
            return Ok(Governed { operator, approval: None });
        }
        operators.changed(operator.clone(), self.clock.now()).map_err(objection)?;
        // What of it is nothing but a token of who asks does not count.
        let own = operator.name.as_str() == cause.actor.name;
        let counted =
            before.filter(|_| own).map(|b| Operator { tokens: operator.tokens.clone(), ..Operator::clone(b) });
        let widens = !operator.widens(counted.as_ref().or(before.map(|b| &**b))).is_empty();
        if widens && running.approval.four_eyes == FourEyes::Required {
            let items = vec![Item::operator(&operators, operator.clone())];
            let approval = self.asked(items, &running.approval, &cause)?;
            self.commit_and_publish(
                &live,
                None,
                Commit { approvals: approval.as_slice(), ..Commit::default() },
                &cause,
            )
            .await?;
            return Ok(Governed { operator, approval: approval.map(|a| a.id) });
        }
        cause.four_eyes = widens.then_some(Off::Off);
        self.commit_and_publish(
            &live,
            None,
            Commit { operators: std::slice::from_ref(&operator), ..Commit::default() },
            &cause,
        )
        .await?;
        Ok(Governed { operator, approval: None })
    }

    pub(super) fn operated(&self, next: Operators) {
        self.operators.store(Arc::new(next));
        self.committed.notify_one();
    }
}

pub(super) fn objection(reason: Objection) -> Problems {
    let mut problems = Problems::new();
    problems.registry("operators", reason, None);
    problems
}
