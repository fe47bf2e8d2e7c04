//! What becomes of partners by itself: an end that was set comes, a credential that was succeeded is revoked, and what
//! time has begun or ended is told once.
//!
//! Nothing that requests are decided by waits for it: what follows from time, they see in timestamps.

use super::{ChangeError, Publisher, aside, told};
use crate::clock::UnixNanos;
use crate::gateway::Live;
use crate::history::{Actor, Cause, Verb, Way};
use crate::identity::Fingerprint;
use crate::name::{CredentialId, PartnerId};
use crate::partner::{CredentialStage, PartnerRecord, Period, Revoked};
use crate::registry::{Change, Registry, find_api_key, find_credential};
use crate::store::{Passed, StoreError};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long it is slept at most, so that a step of the clock and a use of a credential are not slept through.
const NAP: Duration = Duration::from_secs(10);
/// How long at least: every partner is looked at.
const REST: Duration = Duration::from_secs(1);

/// A credential, or an API key, whose place another one is taking.
#[derive(Clone, Debug)]
pub struct Rotation {
    pub partner: PartnerId,
    pub credential: CredentialId,
    pub successor: CredentialId,
    pub since: UnixNanos,
    pub until: UnixNanos,
    /// When its successor was used last.
    pub used: Option<UnixNanos>,
    /// Why it does not come to its end; absent while it is on its way.
    pub stuck: Option<&'static str>,
}

fn cause(reason: &str) -> Cause {
    Cause::new(Actor::user("partnergate", None, Way::Gateway), Some(reason.to_owned()), None)
}

impl Publisher {
    /// Does it until it is stopped.
    pub async fn watch_partners(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let this = self.clone();
            let rest = match aside(async move { this.look_at_partners().await }).await {
                Ok(Ok(rest)) => {
                    self.metrics.database_ok.set(1);
                    rest
                }
                Ok(Err(e)) => {
                    if matches!(&e, ChangeError::Store(reason) if !matches!(reason, StoreError::Conflict { .. })) {
                        self.metrics.database_ok.set(0);
                    }
                    e.log();
                    NAP
                }
                Err(e) => {
                    tracing::error!(error = %e, "partners were not looked at");
                    NAP
                }
            };
            tokio::select! {
                () = told(&mut stop) => return,
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    /// Returns how long there is nothing to do.
    async fn look_at_partners(&self) -> Result<Duration, ChangeError> {
        let Some(live) = self.live.load_full() else { return Ok(NAP) };
        let now = self.clock.now();
        let due = live.snapshot.registry.partners().filter(|record| is_due(record, now));
        let due: Vec<PartnerId> = due.map(|record| record.partner.id.clone()).collect();
        for id in due {
            self.end(&id).await?;
        }
        self.rotate().await?;
        self.tell_of_time().await?;
        self.complete_reports().await?;
        let next = live.snapshot.registry.partners().filter_map(|record| next_of(record, now)).min();
        let until = next.map_or(NAP, |at| Duration::from_nanos(u64::try_from(at.0.saturating_sub(now.0)).unwrap_or(0)));
        Ok(until.clamp(REST, NAP))
    }

    /// Closes a partner whose end has come.
    async fn end(&self, id: &PartnerId) -> Result<(), ChangeError> {
        let running = self.state.lock().await;
        self.catch_up(&running).await?;
        let Some(live) = self.live.load_full() else { return Ok(()) };
        let record = live.snapshot.registry.partner(id);
        if let Some(record) = record.filter(|record| is_due(record, self.clock.now())) {
            let next = PartnerRecord::clone(record);
            let cause = cause("the time that was set has come");
            let closing = self.close(&live, next, &cause).await?;
            drop(running);
            self.see_enforced(closing, &cause).await;
        }
        Ok(())
    }

    /// Revokes every credential that nothing needs any more.
    async fn rotate(&self) -> Result<(), ChangeError> {
        for rotation in self.rotations().await? {
            // Only where there may be something to do, it is looked at once more while nothing else changes.
            if rotation.stuck.is_some() || rotation.used.is_none() || self.clock.now() < rotation.until {
                continue;
            }
            let Rotation { partner, credential, successor, .. } = rotation;
            let running = self.state.lock().await;
            self.catch_up(&running).await?;
            let Some(live) = self.live.load_full() else { return Ok(()) };
            let now = self.clock.now();
            let Some(record) = live.snapshot.registry.partner(&partner) else { continue };
            let used = self.successor_used(record, &successor).await?;
            let mut next = PartnerRecord::clone(record);
            if !stands(record, &successor, now) {
                continue;
            }
            let reason = format!("succeeded by `{successor}`, which is in use");
            let revoked = Revoked { reason: reason.clone(), author: "partnergate".into(), at: now };
            let old = next.credentials.iter_mut().find(|c| c.id == credential && c.is_succeeded(used, now));
            let key = next.api_keys.iter_mut().find(|k| k.id == credential && k.is_succeeded(used, now));
            match (old, key) {
                (Some(old), _) => old.revoke(revoked),
                (None, Some(key)) => key.revoke(revoked),
                (None, None) => continue,
            };
            let changes = vec![Change::Partner(partner.clone(), Some(Arc::new(next)))];
            let ready = self.ready(&live, changes)?;
            let revision = self.commit_and_publish(&live, ready, Default::default(), &cause(&reason)).await?;
            tracing::info!(%partner, %credential, %successor, revision, "a credential was succeeded and is revoked");
        }
        Ok(())
    }

    /// Every rotation that goes on.
    ///
    /// # Errors
    /// The database failed.
    pub async fn rotations(&self) -> Result<Vec<Rotation>, StoreError> {
        let Some(live) = self.live.load_full() else { return Ok(Vec::new()) };
        let now = self.clock.now();
        let mut found = Vec::new();
        for record in live.snapshot.registry.partners() {
            let credentials = record.credentials.iter().map(|c| (&c.id, c.stage(now), &c.retiring));
            let keys = record.api_keys.iter().map(|k| (&k.id, k.stage(now), &k.retiring));
            for (credential, stage, retiring) in credentials.chain(keys) {
                let Some(retiring) = retiring.as_ref().filter(|_| stage == CredentialStage::Retiring) else { continue };
                let (partner, successor) = (record.partner.id.clone(), retiring.successor.clone());
                let used = self.successor_used(record, &successor).await?.filter(|used| *used >= retiring.since);
                let stuck = match used {
                    _ if !stands(record, &successor, now) => Some("its successor is not accepted"),
                    None if now >= retiring.until() => Some("its successor is not in use"),
                    _ => None,
                };
                let (since, until, credential) = (retiring.since, retiring.until(), credential.clone());
                found.push(Rotation { partner, credential, successor, since, until, used, stuck });
            }
        }
        let gauge = |state: &str, of: fn(&Rotation) -> bool| {
            let count = found.iter().filter(|one| of(one)).count();
            self.metrics.rotations.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        gauge("in-progress", |one| one.stuck.is_none());
        gauge("stuck", |one| one.stuck.is_some());
        Ok(found)
    }

    /// When a credential, or an API key, was used last.
    async fn successor_used(&self, record: &PartnerRecord, id: &CredentialId) -> Result<Option<UnixNanos>, StoreError> {
        match find_api_key(record, id) {
            Some(key) => Ok(self.store.key_usage(&key.id).await?.first().map(|used| used.last_at)),
            None => self.store.last_used(&record.partner.id, id).await,
        }
    }

    /// Keys that were seen under credentials of more than one partner: their SHA-256, and whose credentials.
    ///
    /// # Errors
    /// The database failed.
    pub async fn shared_keys(&self) -> Result<Vec<(String, Vec<CredentialId>)>, StoreError> {
        let Some(live) = self.live.load_full() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (spki, ids) in self.store.shared_keys().await? {
            let ids: Vec<CredentialId> = ids.iter().filter_map(|id| CredentialId::parse(id).ok()).collect();
            let of = ids.iter().filter_map(|id| live.snapshot.registry.with_credential(id));
            let partners: BTreeSet<&PartnerId> = of.map(|record| &record.partner.id).collect();
            if partners.len() > 1 {
                found.push((spki, ids));
            }
        }
        self.metrics.shared_keys.set(i64::try_from(found.len()).unwrap_or(i64::MAX));
        Ok(found)
    }

    /// Partners that a certificate or a key was seen of, or given to, by its SHA-256.
    pub(super) async fn partners_of(
        &self,
        registry: &Registry,
        sha256: &Fingerprint,
    ) -> Result<BTreeSet<PartnerId>, StoreError> {
        let sha256 = sha256.to_string();
        let mut found = BTreeSet::new();
        for seen in self.store.certificates_with(&sha256).await? {
            let record = CredentialId::parse(&seen.credential).ok().and_then(|id| registry.with_credential(&id));
            found.extend(record.map(|record| record.partner.id.clone()));
        }
        found.extend(self.store.certificates_of_key(&sha256).await?.into_iter().map(|given| given.partner));
        Ok(found)
    }

    async fn tell_of_time(&self) -> Result<(), ChangeError> {
        let now = self.clock.now();
        let from = self.store.told(now).await?;
        // Behind every change that is being made, so that what it makes of a time is what is told.
        let _changing = self.state.lock().await;
        let Some(live) = self.live.load_full() else { return Ok(()) };
        let passed: Vec<Passed> = passed(&live, from, now);
        if passed.is_empty() {
            return Ok(());
        }
        self.store.tell(&passed, now, &cause("its time has come")).await?;
        self.committed.notify_one();
        tracing::info!(events = passed.len(), "what time has begun and ended is in the history");
        Ok(())
    }
}

fn is_due(record: &PartnerRecord, now: UnixNanos) -> bool {
    record.partner.offboarding.as_ref().is_some_and(|o| o.closed.is_none() && o.ends <= now)
}

/// Whether a credential can take the place of another one.
fn stands(record: &PartnerRecord, id: &CredentialId, now: UnixNanos) -> bool {
    let key = find_api_key(record, id).map(|k| k.stage(now));
    let stage = find_credential(record, id).map(|c| c.stage(now)).or(key);
    matches!(stage, Some(CredentialStage::Active | CredentialStage::Retiring))
}

/// What of a partner begins or ends at a time.
struct Time<'a> {
    at: UnixNanos,
    verb: Verb,
    /// What it is, and its id.
    what: (&'static str, &'a str),
}

/// Of every partner, ever again: nothing is made here but what is needed.
fn times(record: &PartnerRecord) -> impl Iterator<Item = Time<'_>> {
    fn both<'a>(period: &Period, what: (&'static str, &'a str)) -> impl Iterator<Item = Time<'a>> + use<'a> {
        let starts = period.starts.map(|at| Time { at, verb: Verb::Start, what });
        starts.into_iter().chain(period.ends.map(|at| Time { at, verb: Verb::End, what }))
    }
    let partner = Some(&record.partner).filter(|partner| !partner.is_closed());
    let of_partner = partner.into_iter().flat_map(|p| both(&p.engaged(), ("engagement", p.id.as_str())));
    let credentials = record.credentials.iter().filter(|c| c.revoked.is_none());
    let of_credentials = credentials.filter_map(|credential| {
        let what = ("credential", credential.id.as_str());
        credential.ends.map(|at| Time { at, verb: Verb::End, what })
    });
    let grants = record.grants.iter().filter(|g| g.revoked.is_none());
    let of_grants = grants.flat_map(|grant| both(&grant.period, ("grant", grant.id.as_str())));
    let keys = record.api_keys.iter().filter(|k| k.revoked.is_none());
    let of_keys = keys.map(|key| Time { at: key.ends, verb: Verb::End, what: ("api_key", key.id.as_str()) });
    let of_others = of_credentials.chain(of_grants).chain(of_keys).filter(move |_| partner.is_some());
    of_partner.chain(of_others)
}

/// What has begun or ended since `from`, by its time.
fn passed(live: &Live, from: UnixNanos, now: UnixNanos) -> Vec<Passed> {
    let mut passed = Vec::new();
    for record in live.snapshot.registry.partners() {
        for Time { at, verb, what: (noun, id) } in times(record).filter(|time| from < time.at && time.at <= now) {
            let what = json!({noun: id, "at": at.to_string()});
            passed.push(Passed { partner: record.partner.id.clone(), verb, at, what });
        }
    }
    passed.sort_by(|a, b| a.at.cmp(&b.at).then_with(|| a.partner.cmp(&b.partner)));
    passed
}

/// When there is something to do of a partner next.
fn next_of(record: &PartnerRecord, now: UnixNanos) -> Option<UnixNanos> {
    let ends = record.partner.offboarding.as_ref().filter(|o| o.closed.is_none()).map(|o| o.ends);
    let retiring = record.credentials.iter().map(|c| &c.retiring).chain(record.api_keys.iter().map(|k| &k.retiring));
    let until = retiring.filter_map(|retiring| retiring.as_ref().map(|r| r.until()));
    let times = times(record).map(|time| time.at);
    times.chain(until).chain(ends).filter(|at| *at > now).min()
}
