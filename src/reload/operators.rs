//! Operators: the first ones, and every change of them; the next call is judged by it.

use super::{ChangeError, Publisher, aside, interrupted};
use crate::document::Problems;
use crate::history::Cause;
use crate::operator::{Operator, Operators};
use std::sync::Arc;

/// What is said against a change of operators.
pub type Objection = String;

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
    ///
    /// # Errors
    /// What `change` says against it, that nobody would be left who may, or the database failed; nothing was changed.
    pub async fn govern(
        self: &Arc<Self>,
        change: impl FnOnce(&Operators) -> Result<Operator, Objection> + Send + 'static,
        cause: Cause,
    ) -> Result<Operator, ChangeError> {
        let this = self.clone();
        let work = async move {
            let _changing = this.state.lock().await;
            let operators = this.operators();
            let operator = change(&operators).map_err(objection)?;
            if operators.get(operator.name.as_str()).is_some_and(|before| **before == operator) {
                return Ok(operator);
            }
            let next = operators.changed(operator.clone()).map_err(objection)?;
            this.store.commit_operators(std::slice::from_ref(&operator), &cause, this.clock.now()).await?;
            this.operated(next);
            Ok(operator)
        };
        aside(work).await.unwrap_or_else(|e| Err(interrupted("operators", &e)))
    }

    fn operated(&self, next: Operators) {
        self.operators.store(Arc::new(next));
        self.committed.notify_one();
    }
}

fn objection(reason: Objection) -> Problems {
    let mut problems = Problems::new();
    problems.registry("operators", reason, None);
    problems
}
