//! Locking down everybody, or everybody under one anchor, and taking that back.

use super::{ChangeError, Publisher, Switched, aside, interrupted, no_anchor, not_live};
use crate::history::Cause;
use crate::partner::{Lockdown, Locked};
use crate::registry::Change;
use std::sync::Arc;

impl Publisher {
    /// Locks down, or takes that back; live at once, on what is open too. Returns what the switch came to and whether
    /// anything has changed.
    ///
    /// # Errors
    /// There is no such anchor; nothing was changed.
    pub async fn lock_down(
        self: &Arc<Self>,
        locked: Locked,
        lockdown: Option<Lockdown>,
        cause: Cause,
    ) -> Result<(Switched, bool), ChangeError> {
        let this = self.clone();
        aside(async move { this.lock_down_now(locked, lockdown, &cause).await })
            .await
            .unwrap_or_else(|e| Err(interrupted("registry", &e)))
    }

    async fn lock_down_now(
        &self,
        locked: Locked,
        lockdown: Option<Lockdown>,
        cause: &Cause,
    ) -> Result<(Switched, bool), ChangeError> {
        let running = self.state.lock().await;
        self.catch_up_if_it_can(&running).await?;
        let Some(live) = self.live.load_full() else { return Err(not_live().into()) };
        let registry = &live.snapshot.registry;
        if let (Locked::Under(anchor), true) = (&locked, lockdown.is_some()) {
            if registry.anchor(anchor).is_none() {
                return Err(no_anchor(anchor, registry).into());
            }
        }
        // The first reason stays.
        if registry.lockdowns().any(|l| l.locked == locked) == lockdown.is_some() {
            return Ok((self.unchanged(&live).await, false));
        }
        Ok((self.switch(&live, Change::Lockdown(locked, lockdown), cause).await?, true))
    }
}
