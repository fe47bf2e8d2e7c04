//! Ending a grant or a credential at once, and saying what somebody made of an emergency.

use super::{ChangeError, Publisher, Switched, aside, interrupted, not_live};
use crate::clock::UnixNanos;
use crate::document::Problems;
use crate::history::Cause;
use crate::name::{CredentialId, GrantId, PartnerId};
use crate::partner::{Grant, GrantState, PartnerRecord, REVIEW_DUE, Reviewed, Revoked};
use crate::registry::Change;
use std::sync::Arc;

/// What is to become of a grant.
#[derive(Clone, Debug)]
pub enum Mark {
    Revoked(Revoked),
    Reviewed(Reviewed),
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Marked {
    pub record: Arc<PartnerRecord>,
    pub switched: Switched,
    pub changed: bool,
}

impl Publisher {
    /// Ends a grant, live at once and on what is open; or notes what somebody made of one.
    ///
    /// # Errors
    /// There is no such grant, what is wanted is not legal now, or the database failed; nothing was changed.
    pub async fn mark_grant(self: &Arc<Self>, id: GrantId, mark: Mark, cause: Cause) -> Result<Marked, ChangeError> {
        let this = self.clone();
        aside(async move { this.mark_grant_now(&id, mark, &cause).await })
            .await
            .unwrap_or_else(|e| Err(interrupted("registry", &e)))
    }

    async fn mark_grant_now(&self, id: &GrantId, mark: Mark, cause: &Cause) -> Result<Marked, ChangeError> {
        let running = self.state.lock().await;
        self.catch_up_if_it_can(&running).await?;
        let Some(live) = self.live.load_full() else { return Err(not_live().into()) };
        let registry = &live.snapshot.registry;
        let found = registry.with_grant(id);
        let Some(record) = found else { return Err(not_legal(id, "there is no such grant").into()) };
        let mut next = PartnerRecord::clone(record);
        let Some(grant) = next.grants.iter_mut().find(|g| g.id == *id) else {
            return Err(not_legal(id, "there is no such grant").into());
        };
        let done = match mark {
            Mark::Revoked(revoked) => grant.revoke(revoked),
            Mark::Reviewed(reviewed) => grant.review(reviewed),
        };
        let changed = done.map_err(|reason| not_legal(id, &reason))?;
        let record = Arc::new(next);
        let switched = if changed {
            self.switch(&live, Change::Partner(record.partner.id.clone(), Some(record.clone())), cause).await?
        } else {
            self.unchanged(&live).await
        };
        Ok(Marked { record, switched, changed })
    }

    /// Ends a credential or an API key, live at once and on what is open.
    ///
    /// # Errors
    /// There is neither; nothing was changed.
    pub async fn revoke_credential(
        self: &Arc<Self>,
        partner: PartnerId,
        id: CredentialId,
        revoked: Revoked,
        cause: Cause,
    ) -> Result<(Switched, bool), ChangeError> {
        let this = self.clone();
        aside(async move { this.revoke_credential_now(&partner, &id, revoked, &cause).await })
            .await
            .unwrap_or_else(|e| Err(interrupted("registry", &e)))
    }

    async fn revoke_credential_now(
        &self,
        partner: &PartnerId,
        id: &CredentialId,
        revoked: Revoked,
        cause: &Cause,
    ) -> Result<(Switched, bool), ChangeError> {
        let running = self.state.lock().await;
        self.catch_up_if_it_can(&running).await?;
        let Some(live) = self.live.load_full() else { return Err(not_live().into()) };
        let record = live.snapshot.registry.partner(partner);
        let mut next = record.map(|record| PartnerRecord::clone(record));
        let first = next.as_mut().and_then(|next| {
            let credential = next.credentials.iter_mut().find(|c| c.id == *id).map(|c| c.revoke(revoked.clone()));
            credential.or_else(|| next.api_keys.iter_mut().find(|k| k.id == *id).map(|k| k.revoke(revoked)))
        });
        let Some(first) = first else {
            let mut problems = Problems::new();
            let ids = |r: &PartnerRecord| -> Vec<String> {
                let keys = r.api_keys.iter().map(|k| &k.id);
                r.credentials.iter().map(|c| &c.id).chain(keys).map(ToString::to_string).collect()
            };
            let fix = record.map(|record| format!("its credentials and API keys: {}", ids(record).join(", ")));
            let reason = if record.is_some() { "there is no such credential" } else { "there is no such partner" };
            problems.registry(format!("partners.{partner}.credentials.{id}"), reason, fix.as_deref());
            return Err(problems.into());
        };
        if !first {
            return Ok((self.unchanged(&live).await, false));
        }
        let change = Change::Partner(partner.clone(), next.map(Arc::new));
        Ok((self.switch(&live, change, cause).await?, true))
    }

    /// Emergencies that go on, or that nobody has reviewed yet. Every grant is looked at.
    pub fn emergencies(&self, now: UnixNanos) -> Vec<(Arc<PartnerRecord>, Grant)> {
        let Some(live) = self.live.load_full() else { return Vec::new() };
        let found = live.snapshot.registry.partners().flat_map(|record| {
            let pending = record.grants.iter().filter(|grant| grant.is_pending_emergency(now));
            pending.map(|grant| (record.clone(), grant.clone())).collect::<Vec<_>>()
        });
        let found: Vec<(Arc<PartnerRecord>, Grant)> = found.collect();
        let gauge = |state: &str, of: &dyn Fn(&Grant) -> bool| {
            let count = found.iter().filter(|(_, grant)| of(grant)).count();
            self.metrics.emergency_grants.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        let made = |g: &Grant| g.emergency.as_deref().filter(|e| e.reviewed.is_none()).map(|e| e.at);
        gauge("live", &|g| g.state(now) == GrantState::Active);
        gauge("unreviewed", &|g| made(g).is_some());
        gauge("overdue", &|g| made(g).is_some_and(|at| now >= at.saturating_add(REVIEW_DUE)));
        found
    }
}

fn not_legal(id: &GrantId, reason: &str) -> Problems {
    let mut problems = Problems::new();
    problems.registry(format!("grants.{id}"), reason, None);
    problems
}
