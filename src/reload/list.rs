//! The revocation list of the built-in CA: what is over is put on it, and it is signed here, or on the host of the CA's key,
//! before it is late.

use super::issue::{NotGiven, Ordered, elsewhere, refused};
use super::{Publisher, aside, interrupted, told};
use crate::clock::UnixNanos;
use crate::config::IssueConfig;
use crate::disk;
use crate::history::{Actor, Cause, Way};
use crate::identity::Serial;
use crate::issue::{Issued, Revoked, Wanted, WantedList, Why, Withdrawn};
use crate::name::AnchorName;
use crate::partner::{CredentialStage, DeniedCertificate, PartnerRecord};
use crate::registry::{Registry, find_credential};
use crate::store::Commit;
use crate::trust::{IssuerKey, MAX_CRL_BYTES, RevocationList};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// In the state folder: revocation lists of the built-in CA.
const FOLDER: &str = "issue";
/// Certificates that one transaction puts on the list.
const AT_ONCE: usize = 100;
/// How often it is looked at the longest which certificates were renewed, and are no longer needed.
const LOOK_AT_RENEWALS: Duration = Duration::from_secs(60);
/// How often it is looked whether the revocation list is still what it should be.
const LOOK: Duration = Duration::from_secs(1);

/// What was looked at of issued certificates.
#[derive(Debug)]
pub(super) struct LookedAt {
    /// When it was looked last which were renewed.
    renewals: UnixNanos,
    /// The registry at which there was no list that was signed elsewhere.
    none_at: Option<u64>,
}

impl Default for LookedAt {
    fn default() -> Self {
        LookedAt { renewals: UnixNanos(0), none_at: None }
    }
}

/// The revocation list of the built-in CA, as it is now.
#[derive(Clone, Debug)]
pub struct SignedList {
    pub anchor: AnchorName,
    pub number: u64,
    /// In DER.
    pub der: Vec<u8>,
    pub next_update: UnixNanos,
    /// The registry that it is of.
    revision: u64,
    signed: UnixNanos,
    pub revoked: usize,
    /// Certificates that are revoked and not on it, since it is signed on another host.
    pub lacks: usize,
}

impl SignedList {
    pub(super) fn is_due(&self, lifetime: Duration, now: UnixNanos) -> bool {
        now >= self.signed.saturating_add(lifetime / 2)
    }
}

impl Publisher {
    /// The revocation list as it should be, to be signed on another host.
    ///
    /// # Errors
    /// There is no CA, or the database failed.
    pub async fn order_list(self: &Arc<Self>, by: String) -> Result<Ordered, NotGiven> {
        let this = self.clone();
        let ordered = aside(async move { this.order_list_now(by).await });
        ordered.await.unwrap_or_else(|e| Err(interrupted("revocation list", &e).into()))
    }

    async fn order_list_now(&self, by: String) -> Result<Ordered, NotGiven> {
        let config = elsewhere(self.state.lock().await.issue.clone())?;
        self.sign_list().await?;
        let now = self.clock.now();
        let mut valid = self.store.valid_certificates(now).await?;
        valid.retain(|issued| issued.anchor == config.anchor);
        let (number, lifetime_s) = (self.store.next_list_number(now).await?, config.list_lifetime.as_secs());
        let wanted = WantedList { number, lifetime_s, revoked: Revoked::among(valid.iter()) };
        self.sealed(&config, by, now, Wanted::List(wanted))
    }

    /// Takes over a revocation list that was signed on another host.
    ///
    /// # Errors
    /// It is none of this CA, stale, or not newer than the one that is there.
    pub async fn publish_list(self: &Arc<Self>, der: Vec<u8>) -> Result<Arc<SignedList>, NotGiven> {
        let this = self.clone();
        let published = aside(async move { this.publish_list_now(&der).await });
        published.await.unwrap_or_else(|e| Err(interrupted("revocation list", &e).into()))
    }

    async fn publish_list_now(&self, der: &[u8]) -> Result<Arc<SignedList>, NotGiven> {
        {
            let config = elsewhere(self.state.lock().await.issue.clone())?;
            let mut looked = self.signing.lock().await;
            let now = self.clock.now();
            let (list, _) = read_list(&config, der, now)?;
            if list.next_update <= now {
                return Err(refused(format!("the revocation list is stale: its nextUpdate was {}", list.next_update)));
            }
            let last = self.list.load_full().filter(|last| last.anchor == config.anchor);
            if let Some(last) = last.filter(|last| last.number >= list.number && last.der != list.der) {
                return Err(refused(format!(
                    "the revocation list has the number {}, and the one that is published {}",
                    list.number, last.number
                )));
            }
            self.keep_list(&config.anchor, der)?;
            tracing::info!(anchor = %config.anchor, number = list.number, revoked = list.revoked, "the revocation list is published");
            self.list.store(None);
            looked.none_at = None;
        }
        self.sign_list().await?;
        self.list.load_full().ok_or_else(|| refused("the revocation list was not kept"))
    }

    fn keep_list(&self, anchor: &AnchorName, der: &[u8]) -> Result<(), NotGiven> {
        let file = self.list_file(anchor);
        disk::replace(&file, der).map_err(|e| refused(format!("`{}`: {}", file.display(), disk::plain(&e))))
    }

    /// The revocation list as it is now.
    pub fn signed_list(&self) -> Option<Arc<SignedList>> {
        self.list.load_full()
    }

    /// Keeps the revocation list what it should be until it is stopped: signed anew on every change that concerns it, and
    /// when half of its life is over.
    pub async fn watch_issued(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let this = self.clone();
            match aside(async move { this.sign_list().await }).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => {
                    self.metrics.list_ok.set(0);
                    tracing::error!(error = %e, "the revocation list of the built-in CA is not signed");
                }
                Err(e) => tracing::error!(error = %e, "the revocation list was not looked at"),
            }
            tokio::select! {
                () = told(&mut stop) => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Puts on the list what the registry says is over, and signs it where that, or time, wants it.
    pub(super) async fn sign_list(&self) -> Result<(), NotGiven> {
        // One at a time, and beside every change: what is read and signed may be long.
        let mut looked = self.signing.lock().await;
        let Some(config) = self.state.lock().await.issue.clone() else {
            self.list.store(None);
            return Ok(());
        };
        let Some(live) = self.live.load_full() else { return Ok(()) };
        let (registry, now) = (&live.snapshot.registry, self.clock.now());
        let last = self.list.load_full().filter(|last| last.anchor == config.anchor);
        let is_due = |last: &SignedList| last.is_due(config.list_lifetime, now);
        let remote = !config.ca.can_sign();
        let superseded = if now >= looked.renewals.saturating_add(config.overlap.clamp(LOOK, LOOK_AT_RENEWALS)) {
            looked.renewals = now;
            self.store.superseded_certificates(&config.anchor, config.overlap, now).await?
        } else {
            Vec::new()
        };
        let nothing_new = superseded.is_empty();
        let same = last.as_ref().filter(|last| nothing_new && last.revision == registry.revision());
        match same {
            // Of a list that is signed elsewhere, time alone makes another one due.
            Some(last) if remote => {
                self.metrics.list_ok.set(i64::from(last.lacks == 0 && !is_due(last)));
                return Ok(());
            }
            Some(last) if !is_due(last) => return Ok(()),
            None if remote && nothing_new && last.is_none() && looked.none_at == Some(registry.revision()) => {
                return Ok(());
            }
            _ => {}
        }
        let mut valid = self.store.valid_certificates(now).await?;
        valid.retain(|issued| issued.anchor == config.anchor);
        let fresh = withdraw(&mut valid, registry, &config.anchor, &superseded, now);
        for some in fresh.chunks(AT_ONCE) {
            let cause =
                Cause::new(Actor::user("partnergate", None, Way::Gateway), Some("its credential is over".into()), None);
            let commit = Commit { certificates: some, ..Commit::default() };
            // Between two of them others have their turn.
            let _changing = self.state.lock().await;
            let Some(live) = self.live.load_full() else { return Ok(()) };
            self.commit_and_publish(&live, None, commit, &cause).await?;
        }
        if remote {
            self.hold_list(&config, last, &valid, registry.revision(), now);
            looked.none_at = self.list.load().is_none().then_some(registry.revision());
            return Ok(());
        }
        let revoked = valid.iter().filter(|issued| issued.revoked.is_some()).count();
        let same = last.as_ref().filter(|last| fresh.is_empty() && revoked == last.revoked && !is_due(last));
        let signed = match same {
            // Of another registry that says the same.
            Some(last) => SignedList { revision: registry.revision(), ..SignedList::clone(last) },
            None => {
                let number = self.store.next_list_number(now).await?;
                let entries = Revoked::among(valid.iter());
                let der = config.ca.list(&entries, number, now, config.list_lifetime).map_err(NotGiven::Refused)?;
                self.keep_list(&config.anchor, &der)?;
                tracing::info!(anchor = %config.anchor, number, revoked, "the revocation list is signed");
                let (anchor, next_update) = (config.anchor.clone(), now.saturating_add(config.list_lifetime));
                SignedList {
                    anchor,
                    number,
                    der,
                    next_update,
                    revision: registry.revision(),
                    signed: now,
                    revoked,
                    lacks: 0,
                }
            }
        };
        self.show_list(signed, true);
        Ok(())
    }

    /// Though the registry is the same.
    pub(super) fn look_at_list_again(&self) {
        if let Some(last) = self.list.load_full() {
            self.list.store(Some(Arc::new(SignedList { revision: u64::MAX, ..SignedList::clone(&last) })));
        }
    }

    fn show_list(&self, list: SignedList, ok: bool) {
        self.metrics.list_ok.set(i64::from(ok));
        self.metrics.list_number.set(i64::try_from(list.number).unwrap_or(i64::MAX));
        self.metrics.list_entries.set(i64::try_from(list.revoked).unwrap_or(i64::MAX));
        self.list.store(Some(Arc::new(list)));
    }

    /// The list that was signed elsewhere: what it lacks, and whether another one is due.
    fn hold_list(
        &self,
        config: &IssueConfig,
        last: Option<Arc<SignedList>>,
        valid: &[Issued],
        revision: u64,
        now: UnixNanos,
    ) {
        let file = self.list_file(&config.anchor);
        let der = last.map(|last| last.der.clone()).or_else(|| disk::read(&file, MAX_CRL_BYTES).ok());
        let read = der.ok_or_else(|| refused("there is none yet")).and_then(|der| read_list(config, &der, now));
        match read {
            Ok((list, serials)) => {
                let revoked = valid.iter().filter(|issued| issued.revoked.is_some());
                let lacks = revoked.filter(|issued| !serials.is_revoked(issued.serial.key())).count();
                let list = SignedList { revision, lacks, ..list };
                let ok = lacks == 0 && !list.is_due(config.list_lifetime, now);
                if !ok {
                    tracing::warn!(anchor = %config.anchor, number = list.number, lacks, "another revocation list is to be signed: `partnergate ca order`");
                }
                self.show_list(list, ok);
            }
            Err(e) => {
                tracing::debug!(anchor = %config.anchor, error = %e, "no revocation list of the CA");
                self.metrics.list_ok.set(0);
                self.list.store(None);
            }
        }
    }

    /// Where the revocation list is kept: an anchor may name it as its source.
    fn list_file(&self, anchor: &AnchorName) -> PathBuf {
        self.started.state_dir.join(FOLDER).join(format!("{anchor}.crl"))
    }
}

/// A list that was signed elsewhere.
fn read_list(config: &IssueConfig, der: &[u8], now: UnixNanos) -> Result<(SignedList, RevocationList), NotGiven> {
    let key = IssuerKey::from_certificate(config.ca.certificate()).map_err(|fault| refused(fault.detail))?;
    let list = RevocationList::read(der, &[key], now).map_err(|e| refused(format!("the revocation list: {e}")))?;
    let number = list.number().and_then(|number| u64::from_str_radix(&number.to_string(), 16).ok());
    let number = number.ok_or_else(|| refused("the revocation list has no number that `ca sign` would give it"))?;
    let signed = SignedList {
        anchor: config.anchor.clone(),
        number,
        der: der.to_vec(),
        next_update: list.next_update(),
        revision: 0,
        signed: list.this_update(),
        revoked: list.revoked(),
        lacks: 0,
    };
    Ok((signed, list))
}

/// Whether what a certificate was given for is over, and how.
pub(super) fn over(issued: &Issued, registry: &Registry) -> Option<Why> {
    let Some(record) = registry.partner(&issued.partner) else { return Some(Why::CessationOfOperation) };
    let record: &PartnerRecord = record;
    if record.partner.is_closed() {
        return Some(Why::CessationOfOperation);
    }
    let Some(credential) = find_credential(record, &issued.credential) else { return Some(Why::CessationOfOperation) };
    let succeeded = credential.retiring.is_some();
    (credential.stage(UnixNanos(0)) == CredentialStage::Revoked).then_some(if succeeded {
        Why::Superseded
    } else {
        Why::PrivilegeWithdrawn
    })
}

/// Marks what is over of the certificates of a CA. Returns what was not marked before.
fn withdraw(
    valid: &mut [Issued],
    registry: &Registry,
    anchor: &AnchorName,
    superseded: &[Serial],
    now: UnixNanos,
) -> Vec<Issued> {
    let denied = registry.anchor(anchor).map(|anchor| anchor.denied.as_slice()).unwrap_or_default();
    let denied: BTreeSet<&DeniedCertificate> = denied.iter().map(|denied| &denied.certificate).collect();
    let mut fresh = Vec::new();
    for issued in valid.iter_mut().filter(|issued| issued.revoked.is_none()) {
        let why = if denied.contains(&DeniedCertificate::Serial(issued.serial.clone()))
            || denied.contains(&DeniedCertificate::Fingerprint(issued.fingerprint))
        {
            Some(Why::PrivilegeWithdrawn)
        } else if superseded.contains(&issued.serial) {
            Some(Why::Superseded)
        } else {
            over(issued, registry)
        };
        if let Some(why) = why {
            issued.revoked = Some(Withdrawn { at: now, why });
            fresh.push(issued.clone());
        }
    }
    fresh
}
