//! One change, live at once, past every plan: what denying a certificate and stopping a partner come to.

use super::{ChangeError, Live, Publisher, concerned};
use crate::document::Problems;
use crate::history::Cause;
use crate::registry::Change;
use std::time::Instant;

impl Publisher {
    /// Makes one change live that was not planned, and that nothing else may hold up: whatever else is wrong with what it
    /// touches, it was so before. Returns the registry's revision.
    pub(super) async fn switch(&self, live: &Live, change: Change, cause: &Cause) -> Result<u64, ChangeError> {
        let registry = &live.snapshot.registry;
        let material = matches!(change, Change::Anchor(..)).then(|| live.snapshot.material.clone());
        let changes = [change];
        let built = registry.with(registry.revision() + 1, &changes).map_err(|found| {
            let mut problems = Problems::new();
            found.into_iter().for_each(|wrong| problems.registry(wrong.key(), wrong.reason, None));
            problems
        })?;
        let snapshot = live.snapshot.with_registry(built, &[], material, self.clock.now())?;
        let revision = self.store.commit(registry.revision(), &changes, cause, self.clock.now()).await?;
        let committed = Instant::now();
        self.publish(snapshot, None, concerned(&changes), committed).await?;
        self.metrics.registry_ok.set(1);
        self.committed.notify_one();
        Ok(revision)
    }
}
