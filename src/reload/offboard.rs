//! The end of a partner: at once, or at a time that is set. All that is left of it is closed in one transaction, and a
//! report says what was there, what was closed, and what is left to do elsewhere.

use super::{ChangeError, Publisher, aside, interrupted, not_live};
use crate::approval::{Approval, Outcome, Verdict};
use crate::clock::UnixNanos;
use crate::document::Problems;
use crate::gateway::Live;
use crate::history::{Actor, Cause, Way};
use crate::issue::{Enrolment, Issued, Used};
use crate::name::{NetworkName, PartnerId};
use crate::partner::{Enforced, Offboarding, PartnerRecord, Report, Revoked};
use crate::registry::Change;
use crate::store::{Certificate, Commit, FirstDenied, StoreError, UsageRow, partner_document};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long it is waited for the last connection of a partner to be closed before the report goes out without that.
const LOOK: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How long after a partner was closed its report takes up who was refused.
const COMPLETED: Duration = Duration::from_secs(400 * 86_400);

/// What came of it.
#[derive(Clone, Debug)]
pub struct Offboarded {
    /// Of what was set or done; the first reason stays.
    pub offboarding: Offboarding,
    /// Registry revision that is live now.
    pub revision: u64,
    pub changed: bool,
}

/// A partner that was closed a moment ago.
pub(super) struct Closing {
    report: Report,
    revision: u64,
    /// Connections that were open.
    open: usize,
    live_at: UnixNanos,
}

/// A report, and what is known since.
#[derive(Clone, Debug)]
pub struct Reported {
    pub report: Report,
    /// The last request that was allowed.
    pub last_allowed: Option<UsageRow>,
    /// The first that was refused since.
    pub first_denied: Option<FirstDenied>,
}

impl Publisher {
    /// Ends a partner, now or at a time. Twice is harmless.
    ///
    /// # Errors
    /// There is no such partner, the time is over or later than one that was set, or the database failed; nothing was
    /// changed.
    pub async fn offboard(
        self: &Arc<Self>,
        id: PartnerId,
        ends: Option<UnixNanos>,
        cause: Cause,
    ) -> Result<Offboarded, ChangeError> {
        let this = self.clone();
        aside(async move { this.offboard_now(&id, ends, &cause).await })
            .await
            .unwrap_or_else(|e| Err(interrupted("registry", &e)))
    }

    async fn offboard_now(
        &self,
        id: &PartnerId,
        ends: Option<UnixNanos>,
        cause: &Cause,
    ) -> Result<Offboarded, ChangeError> {
        let running = self.state.lock().await;
        self.catch_up(&running).await?;
        let Some(live) = self.live.load_full() else { return Err(not_live().into()) };
        let Some(record) = live.snapshot.registry.partner(id) else {
            return Err(not_legal(id, "there is no such partner").into());
        };
        let at = self.clock.now();
        if let Some(over) = ends.filter(|ends| *ends < at) {
            return Err(not_legal(id, &format!("{over} is over already; without a time it ends now")).into());
        }
        let mut next = PartnerRecord::clone(record);
        let reason = cause.reason.clone().unwrap_or_default();
        let author = cause.actor.name.clone();
        let wanted = Offboarding { reason, author, at, ends: ends.unwrap_or(at), closed: None };
        let changed = next.partner.offboard(wanted.clone()).map_err(|reason| not_legal(id, &reason))?;
        let offboarding = next.partner.offboarding.as_deref().cloned().unwrap_or(wanted);
        let revision = if !changed {
            live.snapshot.registry.revision()
        } else if offboarding.ends <= at {
            let closing = self.close(&live, next, cause).await?;
            drop(running);
            self.see_enforced(closing, cause).await
        } else {
            let changes = vec![Change::Partner(id.clone(), Some(Arc::new(next)))];
            let ready = self.ready(&live, changes)?;
            let revision = self.commit_and_publish(&live, ready, Commit::default(), cause).await?;
            tracing::warn!(partner = %id, ends = %offboarding.ends, revision, "a partner ends at a time");
            revision
        };
        Ok(Offboarded { offboarding, revision, changed })
    }

    /// Closes what is left of a partner whose end has come and has its mark, in one transaction with the report.
    pub(super) async fn close(
        &self,
        live: &Live,
        mut next: PartnerRecord,
        cause: &Cause,
    ) -> Result<Closing, ChangeError> {
        let (id, at) = (next.partner.id.clone(), self.clock.now());
        let registry = &live.snapshot.registry;
        let existed = registry.partner(&id).map(|record| partner_document(record)).unwrap_or_default();
        let offboarding = next.partner.offboarding.as_deref().cloned();
        let Some(offboarding) = offboarding else { return Err(not_legal(&id, "does not end").into()) };
        let Offboarding { reason, author, at: asked, .. } = offboarding;
        let revoked = Revoked { reason: format!("offboarding: {reason}"), author: author.clone(), at };
        let mut closed = next.close(&revoked);
        let void = self.void_of(&id, cause, at).await?;
        closed.approvals = void.iter().map(|approval| approval.id.clone()).collect();
        let codes: Vec<Enrolment> = self.store.open_enrolments(&id, at).await?;
        closed.enrolments = codes.iter().map(|code| code.id.clone()).collect();
        let codes: Vec<Enrolment> =
            codes.into_iter().map(|code| Enrolment { used: Some(Used { at, serial: None }), ..code }).collect();
        let last_allowed = self.last_allowed(&id).await?;
        let mut certificates = Vec::new();
        for credential in &next.credentials {
            certificates.extend(self.store.certificates_of(&credential.id).await?);
        }
        let issued = self.store.certificates_issued(&id, None).await?;
        let report = Report {
            partner: id.clone(),
            name: next.partner.name.clone(),
            owner: next.partner.owner.clone(),
            reason,
            ticket: cause.ticket.clone(),
            author,
            asked: asked.to_string(),
            closed_at: at.to_string(),
            existed,
            left_to_do: left_to_do(live, &next, &certificates, &issued, at),
            certificates: certificates
                .iter()
                .map(|certificate| json!(certificate))
                .chain(issued.iter().filter(|one| never_seen(one, &certificates)).map(|one| {
                    json!({
                        "credential": one.credential, "fingerprint_sha256": one.fingerprint, "serial": one.serial,
                        "not_after": one.not_after.to_string(), "last_seen": "never",
                    })
                }))
                .collect(),
            closed,
            enforced: None,
            last_allowed: last_allowed.map(|row| json!(row)),
            first_denied: None,
        };
        let open = self.open.count_of(&id);
        let changes = vec![Change::Partner(id.clone(), Some(Arc::new(next)))];
        let ready = self.ready(live, changes)?;
        let reports = std::slice::from_ref(&report);
        let commit = Commit { approvals: &void, enrolments: &codes, reports, ..Commit::default() };
        let revision = self.commit_and_publish(live, ready, commit, cause).await?;
        tracing::warn!(partner = %id, revision, open_connections = open, "a partner is closed");
        Ok(Closing { report, revision, open, live_at: self.clock.now() })
    }

    /// Waits until the last connection of a partner that was closed is so too, and notes that in its report. Nothing else
    /// waits for it but the revocation list. Returns the revision at which the partner was closed.
    pub(super) async fn see_enforced(&self, closing: Closing, cause: &Cause) -> u64 {
        let Closing { mut report, revision, open, live_at } = closing;
        if let Err(e) = self.sign_list().await {
            tracing::error!(error = %e, "the revocation list is not signed; it is tried again");
        }
        let began = Instant::now();
        while self.open.count_of(&report.partner) > 0 && began.elapsed() < LOOK {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let all_closed_at = (self.open.count_of(&report.partner) == 0).then(|| self.clock.now().to_string());
        // What was open until a moment ago is counted by now.
        let last_allowed = self.last_allowed(&report.partner).await;
        let _changing = self.state.lock().await;
        // Somebody may have been refused meanwhile.
        if let Ok(Some(kept)) = self.store.report(&report.partner).await {
            report = kept;
        }
        match last_allowed {
            Ok(last) => report.last_allowed = last.map(|row| json!(row)),
            Err(e) => tracing::error!(error = %e, "the report does not say what was open at the end"),
        }
        report.enforced = Some(Enforced { at: live_at.to_string(), open_connections: open, all_closed_at });
        let now = self.live.load_full().map_or(revision, |live| live.snapshot.registry.revision());
        let commit = Commit { reports: std::slice::from_ref(&report), ..Commit::default() };
        // When it was enforced, the records say as well.
        if let Err(e) = self.store.commit_all(now, commit, cause, self.clock.now()).await {
            tracing::error!(partner = %report.partner, error = %e, "the report does not say when the end was enforced");
        }
        self.committed.notify_one();
        revision
    }

    async fn last_allowed(&self, id: &PartnerId) -> Result<Option<UsageRow>, StoreError> {
        self.write_usage().await?;
        Ok(self.store.usage(Some(id)).await?.into_iter().max_by_key(|row| row.last_at))
    }

    /// Takes up into the reports what was refused first of partners that were closed.
    pub(super) async fn complete_reports(&self) -> Result<(), ChangeError> {
        if !self.somebody_was_refused.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let completed = self.complete_each_report().await;
        if completed.is_err() {
            self.somebody_was_refused.store(true, Ordering::Relaxed);
        }
        completed
    }

    async fn complete_each_report(&self) -> Result<(), ChangeError> {
        let since = UnixNanos(self.clock.now().0.saturating_sub(i64::try_from(COMPLETED.as_nanos()).unwrap_or(0)));
        let Some(live) = self.live.load_full() else { return Ok(()) };
        let recently = |record: &Arc<PartnerRecord>| {
            let closed = record.partner.offboarding.as_ref().and_then(|offboarding| offboarding.closed);
            closed.filter(|closed| *closed > since).map(|closed| (record.partner.id.clone(), closed))
        };
        let closed: Vec<(PartnerId, UnixNanos)> = live.snapshot.registry.partners().filter_map(recently).collect();
        for (id, closed) in closed {
            if self.store.report(&id).await?.is_none_or(|report| report.first_denied.is_some()) {
                continue;
            }
            let Some(denied) = self.store.refused(&id, closed).await? else { continue };
            let _changing = self.state.lock().await;
            // It may have been written meanwhile when the end was enforced.
            let Some(report) = self.store.report(&id).await? else { continue };
            let report = Report { first_denied: Some(json!(denied)), ..report };
            let Some(live) = self.live.load_full() else { return Ok(()) };
            let revision = live.snapshot.registry.revision();
            let commit = Commit { reports: std::slice::from_ref(&report), ..Commit::default() };
            let actor = Actor::user("partnergate", None, Way::Gateway);
            let cause = Cause::new(actor, Some("it was refused for the first time".into()), None);
            self.store.commit_all(revision, commit, &cause, self.clock.now()).await?;
            self.committed.notify_one();
        }
        Ok(())
    }

    /// What waits for approval and is of a partner, as void.
    async fn void_of(&self, id: &PartnerId, cause: &Cause, at: UnixNanos) -> Result<Vec<Approval>, StoreError> {
        let outcome = Outcome {
            verdict: Verdict::Void,
            author: cause.actor.name.clone(),
            at,
            reason: Some(format!("`{id}` has ended")),
        };
        let open = self.waiting().await?.into_iter();
        let of = open.filter(|approval| approval.items.iter().any(|item| item.partner() == Some(id)));
        Ok(of.map(|approval| Approval { outcome: Some(outcome.clone()), ..approval }).collect())
    }

    /// The report of a partner that was closed, and what is known since.
    ///
    /// # Errors
    /// The database failed.
    pub async fn report(&self, id: &PartnerId) -> Result<Option<Reported>, StoreError> {
        let Some(report) = self.store.report(id).await? else { return Ok(None) };
        let last_allowed = self.last_allowed(id).await?;
        let live = self.live.load_full();
        let closed = live
            .as_ref()
            .and_then(|live| live.snapshot.registry.partner(id))
            .and_then(|record| record.partner.offboarding.as_ref()?.closed);
        let first_denied = match closed {
            Some(closed) => self.store.refused(id, closed).await?,
            None => None,
        };
        Ok(Some(Reported { report, last_allowed, first_denied }))
    }

    /// Puts into the database what was counted since the last time.
    ///
    /// # Errors
    /// The database failed; the counts are kept and tried again.
    pub async fn write_usage(&self) -> Result<(), StoreError> {
        let usage = self.open.recorder.usage();
        let counted = usage.take();
        if counted.is_empty() {
            return Ok(());
        }
        let somebody = !(counted.refused.is_empty() && counted.refused_handshakes.is_empty());
        let written = self.store.add_usage(&counted).await;
        match &written {
            Ok(()) if somebody => self.somebody_was_refused.store(true, Ordering::Relaxed),
            Ok(()) => {}
            Err(_) => usage.give_back(counted),
        }
        written
    }
}

/// Whether nobody has come with a certificate that was issued.
fn never_seen(issued: &Issued, certificates: &[Certificate]) -> bool {
    let own = issued.fingerprint.to_string();
    certificates.iter().all(|seen| seen.fingerprint_sha256 != own)
}

/// What nobody but the operators can do, elsewhere. The built-in CA revokes what it has issued by itself.
fn left_to_do(
    live: &Live,
    record: &PartnerRecord,
    certificates: &[Certificate],
    issued: &[Issued],
    now: UnixNanos,
) -> Vec<String> {
    let own: Vec<String> = issued.iter().map(|one| one.fingerprint.to_string()).collect();
    let registry = &live.snapshot.registry;
    let id = &record.partner.id;
    let mut left = Vec::new();
    for anchor in registry.anchors().filter(|anchor| anchor.partners.contains(id)) {
        let name = &anchor.name;
        left.push(if anchor.partners.len() == 1 {
            format!("the anchor `{name}` speaks for `{id}` alone: remove it")
        } else {
            format!("the anchor `{name}` may still speak for `{id}`: take it out of the anchor's partners")
        });
    }
    let foreign = certificates.iter().filter(|seen| !own.contains(&seen.fingerprint_sha256));
    for certificate in foreign.filter(|certificate| certificate.valid_until > now) {
        let serial = certificate.serial.as_deref().unwrap_or("?");
        let Certificate { credential, not_after, .. } = certificate;
        left.push(format!(
            "the certificate with serial {serial}, seen under `{credential}`, is valid until {not_after}: have its CA \
             revoke it, if it is used elsewhere"
        ));
    }
    let own = |record: &PartnerRecord| -> Vec<NetworkName> {
        let of_grants = record.grants.iter().filter_map(|grant| grant.networks.as_ref()).flatten();
        record.partner.networks.iter().chain(of_grants).cloned().collect()
    };
    let mut networks = own(record);
    networks.sort();
    networks.dedup();
    networks.retain(|name| registry.network(name).is_some());
    for other in registry.partners().filter(|other| other.partner.id != *id) {
        if networks.is_empty() {
            break;
        }
        let theirs = own(other);
        networks.retain(|name| !theirs.contains(name));
    }
    left.extend(networks.iter().map(|name| format!("the network `{name}` is nobody else's: remove it")));
    left.push(format!("registry files that declare `{id}`: take it out of them, or take over `partnergate export`"));
    left.push(format!("whatever knows `{id}` behind the gateway: accounts, subscriptions, callbacks, data"));
    left
}

fn not_legal(id: &PartnerId, reason: &str) -> Problems {
    let mut problems = Problems::new();
    problems.registry(format!("partners.{id}"), reason, None);
    problems
}
