//! The built-in CA at work: certificates in approved names, orders for a CA whose key is elsewhere, enrolment codes.

use super::list::{SignedList, over};
use super::{ChangeError, Publisher, aside, interrupted, not_live};
use crate::approval::Item;
use crate::clock::UnixNanos;
use crate::config::{EnrolConfig, IssueConfig};
use crate::document::Problems;
use crate::gateway::Live;
use crate::history::{Actor, Cause, Signer, Verb, document_sha256};
use crate::identity::{Certificate, Csr, Fingerprint, Peer};
use crate::issue::{Enrolment, Issued, Names, Order, Terms, Used, Wanted, WantedCertificate, Withdrawn, WrongCode};
use crate::name::{CredentialId, PartnerId};
use crate::partner::{Credential, CredentialStage, PartnerRecord, PartnerStage, Root};
use crate::registry::{Registry, Resolution, find_credential};
use crate::store::{Commit, Passed, StoreError, key_file};
use rustls::pki_types::CertificateDer;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// In the state folder: what orders are signed with.
const ORDER_KEY: &str = "order.key";
/// How long the database may take before a partner is told to ask again.
const PATIENCE: Duration = Duration::from_millis(500);
/// Certificates of one credential that are valid at the same time where partners renew by themselves, and how many of them
/// in how short a time.
const MAX_VALID: usize = 50;
const RECENT: Duration = Duration::from_secs(60);
const MAX_RECENT: usize = 5;

/// Who asks for a certificate.
#[derive(Clone, Debug)]
pub enum Asks {
    /// An operator, for a partner.
    Operator(PartnerId, CredentialId),
    /// A partner that has an enrolment code, as it was shown.
    Code(String),
    /// A partner that has a certificate already.
    Renewal(Box<Peer>),
}

/// What the certificate comes from.
#[derive(Clone, Debug)]
pub enum Source {
    Request(Box<Csr>),
    /// It was signed elsewhere, of an order. In DER.
    Signed(Vec<u8>),
}

/// An order for the CA's own host.
#[derive(Clone, Debug)]
pub struct Ordered {
    /// The file.
    pub order: String,
    /// The gateway's public key, hex, with which it is signed.
    pub key: String,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Given {
    /// In DER.
    pub certificate: Vec<u8>,
    pub issued: Issued,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum NotGiven {
    #[error("there is no built-in CA: the config has no `issue`")]
    NoCa,
    /// Nobody knows who asks.
    #[error("{0}")]
    Code(#[from] WrongCode),
    /// What it is asked for waits for approval, or is pending.
    #[error("the credential is not approved yet: ask again later")]
    Waits,
    /// Others ask at the same moment, the database does not answer, or nobody is served now.
    #[error("no certificate can be given now: ask again later")]
    Busy,
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Change(#[from] ChangeError),
}

impl From<StoreError> for NotGiven {
    fn from(e: StoreError) -> Self {
        NotGiven::Change(e.into())
    }
}

pub(super) fn refused(reason: impl Into<String>) -> NotGiven {
    NotGiven::Refused(reason.into())
}

/// The built-in CA as it stands.
#[derive(Clone, Debug)]
pub struct CaState {
    pub config: IssueConfig,
    /// The gateway's public key, hex, with which orders are signed.
    pub key: String,
    pub list: Option<Arc<SignedList>>,
    /// Another list is to be signed now.
    pub list_is_due: bool,
    /// What keeps certificates from being issued.
    pub fault: Option<String>,
}

impl Publisher {
    /// Gives a certificate in the names that are approved for a credential.
    ///
    /// # Errors
    /// Why not; nothing was changed.
    pub async fn issue(self: &Arc<Self>, asks: Asks, source: Source, cause: Cause) -> Result<Given, NotGiven> {
        // Partners ask one after another, so that all of them together never stand before an operator's switch.
        // What is begun goes on when its client has gone, and so does its turn.
        let turn = match asks {
            Asks::Operator(..) => None,
            Asks::Code(_) | Asks::Renewal(_) => {
                Some(self.enrolment.clone().try_acquire_owned().map_err(|_| NotGiven::Busy)?)
            }
        };
        let this = self.clone();
        let given = aside(async move {
            let given = this.issue_now(asks, &source, cause).await;
            drop(turn);
            given
        });
        given.await.unwrap_or_else(|e| Err(interrupted("registry", &e).into()))
    }

    /// Whether a code is good, before anything else is done for who shows it.
    ///
    /// # Errors
    /// It is not, or the database failed.
    pub async fn knows_code(&self, shown: &str) -> Result<(), NotGiven> {
        let found = self.store.enrolment(Enrolment::id_in(shown)?).await?.ok_or(WrongCode)?;
        Ok(found.open(shown, self.clock.now())?)
    }

    async fn issue_now(&self, asks: Asks, source: &Source, cause: Cause) -> Result<Given, NotGiven> {
        let running = self.state.lock().await;
        let config = running.issue.clone().ok_or(NotGiven::NoCa)?;
        self.catch_up(&running).await?;
        let Some(live) = self.live.load_full() else { return Err(ChangeError::from(not_live()).into()) };
        let (registry, now) = (&live.snapshot.registry, self.clock.now());
        its_anchor(&config, registry)?;
        if registry.is_locked(&config.anchor) {
            return Err(NotGiven::Busy);
        }
        let by_itself = !matches!(asks, Asks::Operator(..));
        let (mut enrolment, mut renews) = (None, None);
        let (partner, id, cause) = match asks {
            Asks::Operator(partner, id) => (partner, id, cause),
            Asks::Code(shown) => {
                let found = self.store.enrolment(Enrolment::id_in(&shown)?).await?.ok_or(WrongCode)?;
                found.open(&shown, now)?;
                let (partner, id) = (found.partner.clone(), found.credential.clone());
                let cause = Cause { reason: Some(format!("enrolment code {}", found.id)), ..named(cause, &id) };
                enrolment = Some(found);
                (partner, id, cause)
            }
            Asks::Renewal(peer) => {
                let (partner, id) = self.renewing(&live, &config, &peer, source, now).await?;
                renews = Some(peer.leaf.serial.clone());
                (partner, id.clone(), named(cause, &id))
            }
        };
        let there = || {
            let record: &PartnerRecord = registry.partner(&partner)?;
            Some((record, find_credential(record, &id)?))
        };
        let is_over = |(record, credential): &(&PartnerRecord, &Credential)| {
            record.partner.is_closed() || credential.stage(now) == CredentialStage::Revoked
        };
        let (record, credential) = match (self.standing(&live, &config, &partner, &id, now).await, source) {
            (Ok(found), _) => found,
            // What was signed before all of it was over is out there: it is filed as revoked, and so on the list.
            (Err(NotGiven::Refused(reason)), Source::Signed(_)) => {
                there().filter(is_over).ok_or(NotGiven::Refused(reason))?
            }
            (Err(e), _) => return Err(e),
        };
        if enrolment.as_ref().is_some_and(|code| code.names_sha256 != names_digest(credential)) {
            return Err(refused(format!("the credential `{id}` has other names than when this code was made")));
        }
        if by_itself {
            self.not_too_many(&partner, &id, now).await?;
        }
        let names = Names::of(&record.partner, credential).map_err(NotGiven::Refused)?;
        let certificate = match source {
            Source::Request(csr) => {
                config.ca.issue(csr, &names, &terms(&config, record, credential), now).map_err(NotGiven::Refused)?
            }
            Source::Signed(der) => der.clone(),
        };
        let facts = self.accepted(&live, &certificate, &partner, &id, now)?;
        names.are_those_of(&facts).map_err(NotGiven::Refused)?;
        self.nobody_else_has(registry, &facts.spki_sha256, &partner).await?;
        if let Some(before) = self.store.certificate(&facts.serial).await? {
            return known(before, facts.fingerprint, certificate);
        }
        let mut issued = Issued {
            serial: facts.serial.clone(),
            anchor: config.anchor.clone(),
            partner,
            credential: id,
            fingerprint: facts.fingerprint,
            spki: facts.spki_sha256,
            subject: facts.subject.to_string(),
            uri: facts.san.uri.clone(),
            dns: facts.san.dns.clone(),
            not_before: facts.not_before,
            not_after: facts.not_after,
            renews,
            revoked: None,
        };
        issued.revoked = over(&issued, registry).map(|why| Withdrawn { at: now, why });
        let used = enrolment.map(|enrolment| Enrolment {
            used: Some(Used { at: now, serial: Some(issued.serial.clone()) }),
            ..enrolment
        });
        let commit =
            Commit { certificates: std::slice::from_ref(&issued), enrolments: used.as_slice(), ..Commit::default() };
        // Nobody's switch waits for the database on a partner's behalf. What it takes late all the same was given to nobody.
        match timeout(PATIENCE, self.commit_and_publish(&live, None, commit, &cause)).await {
            Ok(committed) => committed?,
            Err(_) => return Err(NotGiven::Busy),
        };
        if issued.revoked.is_some() {
            self.look_at_list_again();
        }
        self.metrics.certificates_issued.inc();
        let Issued { serial, partner, credential, not_after, .. } = &issued;
        tracing::info!(%partner, %credential, serial = serial.as_str(), until = %not_after, "a certificate is issued");
        Ok(Given { certificate, issued })
    }

    /// Whose certificate it is that is to be renewed, where that may be.
    async fn renewing(
        &self,
        live: &Live,
        config: &IssueConfig,
        peer: &Peer,
        source: &Source,
        now: UnixNanos,
    ) -> Result<(PartnerId, CredentialId), NotGiven> {
        let Resolution::Known { record, credential, .. } = live.snapshot.registry.resolve(peer) else {
            return Err(refused("this certificate is not one of a registered credential"));
        };
        if peer.anchor != config.anchor {
            return Err(refused("this certificate is not one of the built-in CA: its own CA renews it"));
        }
        // It may have been revoked while this waited, and the list need not be a source of the anchor.
        let own = self.store.certificate(&peer.leaf.serial).await?;
        let good = own.is_some_and(|own| own.revoked.is_none());
        if !good || live.snapshot.trust.still_good(peer, now).is_err() {
            return Err(refused("this certificate is revoked, or was not given by this CA"));
        }
        let Source::Request(csr) = source else { return Err(refused("a renewal wants a request")) };
        if !csr.renews(&peer.leaf) {
            let (subject, san) = (&peer.leaf.subject, &peer.leaf.san);
            let names: Vec<&str> = san.uri.iter().chain(&san.dns).map(String::as_str).collect();
            return Err(refused(format!(
                "a renewal asks for the very subject and names of the certificate it renews: `{subject}` with {}",
                if names.is_empty() { "no subjectAltName".to_owned() } else { names.join(", ") }
            )));
        }
        Ok((record.partner.id.clone(), credential.id.clone()))
    }

    /// A partner and its credential that a certificate may be given for now.
    async fn standing<'a>(
        &self,
        live: &'a Live,
        config: &IssueConfig,
        partner: &PartnerId,
        id: &CredentialId,
        now: UnixNanos,
    ) -> Result<(&'a PartnerRecord, &'a Credential), NotGiven> {
        let found =
            live.snapshot.registry.partner(partner).and_then(|record| Some((record, find_credential(record, id)?)));
        let Some((record, credential)) = found else {
            let asked = self.asked_for(partner, id).await?;
            return Err(asked.map_or_else(|| gone(partner, id), |_| NotGiven::Waits));
        };
        match record.partner.stage(now) {
            PartnerStage::Active | PartnerStage::Offboarding => {}
            stage => return Err(refused(format!("`{partner}` is {}", stage.as_str()))),
        }
        match credential.stage(now) {
            CredentialStage::Active | CredentialStage::Retiring => {}
            CredentialStage::Pending => return Err(NotGiven::Waits),
            stage => return Err(refused(format!("the credential `{id}` is {}", stage.as_str()))),
        }
        if credential.anchor != config.anchor {
            return Err(refused(format!(
                "the credential `{id}` is under the anchor `{}`, and the built-in CA is `{}`",
                credential.anchor, config.anchor
            )));
        }
        Ok((record, credential))
    }

    async fn nobody_else_has(
        &self,
        registry: &Registry,
        spki: &Fingerprint,
        partner: &PartnerId,
    ) -> Result<(), NotGiven> {
        let key_of = self.partners_of(registry, spki).await?;
        if key_of.iter().any(|other| other != partner) {
            return Err(refused("this key is another partner's: make one of your own"));
        }
        Ok(())
    }

    /// What the CA is to sign for a request, where its key is on another host. It is in the history: a certificate that
    /// comes of it is good whether or not it is brought back here.
    ///
    /// # Errors
    /// As [`Publisher::issue`].
    pub async fn order(
        self: &Arc<Self>,
        partner: PartnerId,
        credential: CredentialId,
        csr: Csr,
        cause: Cause,
    ) -> Result<Ordered, NotGiven> {
        let this = self.clone();
        let ordered = aside(async move { this.order_now(partner, credential, &csr, cause).await });
        ordered.await.unwrap_or_else(|e| Err(interrupted("registry", &e).into()))
    }

    async fn order_now(
        &self,
        partner: PartnerId,
        credential: CredentialId,
        csr: &Csr,
        cause: Cause,
    ) -> Result<Ordered, NotGiven> {
        let running = self.state.lock().await;
        let config = elsewhere(running.issue.clone())?;
        self.catch_up(&running).await?;
        let Some(live) = self.live.load_full() else { return Err(ChangeError::from(not_live()).into()) };
        let (registry, now) = (&live.snapshot.registry, self.clock.now());
        its_anchor(&config, registry)?;
        let (record, found) = self.standing(&live, &config, &partner, &credential, now).await?;
        let names = Names::of(&record.partner, found).map_err(NotGiven::Refused)?;
        names.permit(csr).map_err(NotGiven::Refused)?;
        self.nobody_else_has(registry, &csr.spki_sha256, &partner).await?;
        let terms = terms(&config, record, found);
        let wanted = WantedCertificate::new(partner.clone(), credential.clone(), csr, names, terms);
        let what = json!({"credential": credential, "anchor": config.anchor, "spki_sha256": csr.spki_sha256});
        let passed = [Passed { partner, verb: Verb::Order, at: now, what }];
        let by = cause.actor.name.clone();
        self.commit_and_publish(&live, None, Commit { passed: &passed, ..Commit::default() }, &cause).await?;
        self.sealed(&config, by, now, Wanted::Certificate(Box::new(wanted)))
    }

    pub(super) fn sealed(
        &self,
        config: &IssueConfig,
        by: String,
        now: UnixNanos,
        wanted: Wanted,
    ) -> Result<Ordered, NotGiven> {
        let signer = self.order_signer()?;
        let order = Order::new(&config.ca, config.anchor.clone(), by, now, wanted);
        Ok(Ordered { order: order.sealed(&signer), key: signer.key() })
    }

    /// A key of its own, which is in no backup: who has a copy of the database orders nothing.
    fn order_signer(&self) -> Result<Signer, StoreError> {
        key_file(&self.started.state_dir.join(ORDER_KEY))
    }

    /// The built-in CA, where there is one.
    pub async fn ca_state(&self) -> Result<Option<CaState>, StoreError> {
        // Whoever looks at the state does not wait for who changes something.
        let Some(config) = self.issuing.load_full() else { return Ok(None) };
        let config = IssueConfig::clone(&config);
        let key = self.order_signer()?.key();
        let list = self.list.load_full().filter(|list| list.anchor == config.anchor);
        let now = self.clock.now();
        let list_is_due = !config.ca.can_sign()
            && list.as_ref().is_none_or(|list| list.lacks > 0 || list.is_due(config.list_lifetime, now));
        let live = self.live.load_full();
        let fault = live.and_then(|live| its_anchor(&config, &live.snapshot.registry).err()).map(|e| e.to_string());
        Ok(Some(CaState { config, key, list, list_is_due, fault }))
    }

    /// The credential that waits for approval.
    async fn asked_for(
        &self,
        partner: &PartnerId,
        credential: &CredentialId,
    ) -> Result<Option<Box<Credential>>, StoreError> {
        let waiting = self.waiting().await?;
        let items = waiting.into_iter().flat_map(|approval| approval.items);
        let mut found = items.filter_map(|item| match item {
            Item::Credential { partner: of, id, after: Some(after), .. } if of == *partner && id == *credential => {
                Some(after)
            }
            _ => None,
        });
        Ok(found.next())
    }

    /// Renewing is no way to keep the gateway busy.
    async fn not_too_many(&self, partner: &PartnerId, id: &CredentialId, now: UnixNanos) -> Result<(), NotGiven> {
        let mut valid = self.store.certificates_issued(partner, Some(id)).await?;
        valid.retain(|issued| issued.revoked.is_none() && issued.not_after > now);
        let since = UnixNanos(now.0.saturating_sub(i64::try_from(RECENT.as_nanos()).unwrap_or(0)));
        if valid.iter().filter(|issued| issued.given_at() > since).count() >= MAX_RECENT {
            return Err(NotGiven::Busy);
        }
        if valid.len() >= MAX_VALID {
            return Err(refused(format!(
                "`{id}` has {} certificates that are valid: use them, or have some denied",
                valid.len()
            )));
        }
        Ok(())
    }

    /// What the gateway itself makes of a certificate that is to be given: it would be this partner's, and no other's.
    fn accepted(
        &self,
        live: &Live,
        der: &[u8],
        partner: &PartnerId,
        credential: &CredentialId,
        now: UnixNanos,
    ) -> Result<Certificate, NotGiven> {
        let chain = [CertificateDer::from(der)];
        let peer = live
            .snapshot
            .trust
            .verify(&chain, now)
            .map_err(|fault| refused(format!("this gateway would not accept the certificate: {}", fault.detail)))?;
        match live.snapshot.registry.resolve(&peer) {
            Resolution::Known { record, credential: found, .. }
                if record.partner.id == *partner && found.id == *credential =>
            {
                Ok(peer.leaf)
            }
            _ => Err(refused("the certificate would not be recognised as this credential")),
        }
    }

    /// A code with which a partner enrols by itself, once. It is told now and never again.
    ///
    /// # Errors
    /// Neither is there such a credential, nor does it wait for approval; or the database failed.
    pub async fn enrolment_code(
        self: &Arc<Self>,
        partner: PartnerId,
        credential: CredentialId,
        life: Duration,
        cause: Cause,
    ) -> Result<(Enrolment, String), NotGiven> {
        let running = self.state.lock().await;
        let config = running.issue.clone().ok_or(NotGiven::NoCa)?;
        self.catch_up(&running).await?;
        let Some(live) = self.live.load_full() else { return Err(ChangeError::from(not_live()).into()) };
        let (registry, now) = (&live.snapshot.registry, self.clock.now());
        its_anchor(&config, registry)?;
        let record = registry.partner(&partner);
        let there = record.and_then(|record| find_credential(record, &credential)).cloned();
        let asked = self.asked_for(&partner, &credential).await?;
        let digest = there.as_ref().or(asked.as_deref()).map(names_digest);
        match &there {
            Some(found) if found.anchor != config.anchor => {
                let (own, ca) = (&found.anchor, &config.anchor);
                return Err(refused(format!(
                    "`{credential}` is under the anchor `{own}`, and the built-in CA is `{ca}`"
                )));
            }
            Some(found) => {
                if let Some(record) = record {
                    Names::of(&record.partner, found).map_err(NotGiven::Refused)?;
                }
            }
            None if asked.is_some() => {}
            None => return Err(gone(&partner, &credential)),
        }
        let Some(digest) = digest else { return Err(gone(&partner, &credential)) };
        // The last one counts.
        let mut codes = self.void_codes_of(&partner, &credential, now).await?;
        let author = cause.actor.name.clone();
        let (enrolment, code) =
            Enrolment::generate((partner, credential, digest), author, now, now.saturating_add(life))
                .map_err(NotGiven::Refused)?;
        codes.push(enrolment.clone());
        let commit = Commit { enrolments: &codes, ..Commit::default() };
        self.commit_and_publish(&live, None, commit, &cause).await?;
        Ok((enrolment, code))
    }

    /// The codes of a credential that could be used, as they are when they no longer can.
    async fn void_codes_of(
        &self,
        partner: &PartnerId,
        credential: &CredentialId,
        now: UnixNanos,
    ) -> Result<Vec<Enrolment>, StoreError> {
        let open = self.store.open_enrolments(partner, now).await?.into_iter();
        let of_it = open.filter(|one| one.credential == *credential);
        Ok(of_it.map(|one| Enrolment { used: Some(Used { at: now, serial: None }), ..one }).collect())
    }

    /// Takes back what could be used of a credential's codes. Returns how many there were.
    ///
    /// # Errors
    /// The database failed.
    pub async fn void_codes(
        self: &Arc<Self>,
        partner: PartnerId,
        credential: CredentialId,
        cause: Cause,
    ) -> Result<usize, NotGiven> {
        let this = self.clone();
        let voided = aside(async move { this.void_codes_now(&partner, &credential, cause).await });
        voided.await.unwrap_or_else(|e| Err(interrupted("registry", &e).into()))
    }

    async fn void_codes_now(
        &self,
        partner: &PartnerId,
        credential: &CredentialId,
        cause: Cause,
    ) -> Result<usize, NotGiven> {
        let running = self.state.lock().await;
        self.catch_up(&running).await?;
        let Some(live) = self.live.load_full() else { return Err(ChangeError::from(not_live()).into()) };
        let codes = self.void_codes_of(partner, credential, self.clock.now()).await?;
        if !codes.is_empty() {
            let commit = Commit { enrolments: &codes, ..Commit::default() };
            self.commit_and_publish(&live, None, commit, &cause).await?;
        }
        Ok(codes.len())
    }

    /// Where partners enrol, as the config says it now.
    pub fn enrol(&self) -> Arc<EnrolConfig> {
        self.enrolling.load_full()
    }

    /// The certificate of the built-in CA, in DER.
    pub fn ca_certificate(&self) -> Option<Vec<u8>> {
        self.enrolling.load().ca.as_ref().map(|ca| ca.certificate().to_vec())
    }
}

/// For this credential: nothing outlives the engagement.
fn terms(config: &IssueConfig, record: &PartnerRecord, credential: &Credential) -> Terms {
    let until = credential.ends.into_iter().chain(record.partner.engaged().ends).min();
    Terms { until, ..config.terms.clone() }
}

/// The CA whose key is on another host.
pub(super) fn elsewhere(config: Option<IssueConfig>) -> Result<IssueConfig, NotGiven> {
    let config = config.ok_or(NotGiven::NoCa)?;
    if config.ca.can_sign() {
        return Err(refused("the gateway has the key of the CA, and signs by itself: nothing is to be ordered"));
    }
    Ok(config)
}

/// A certificate that is brought a second time changes nothing.
fn known(before: Issued, fingerprint: Fingerprint, certificate: Vec<u8>) -> Result<Given, NotGiven> {
    if before.fingerprint == fingerprint {
        return Ok(Given { certificate, issued: before });
    }
    Err(refused(format!("another certificate with the serial number {} was given", before.serial.as_str())))
}

/// Of what a credential is recognised by.
fn names_digest(credential: &Credential) -> String {
    let text = serde_json::to_string(&(&credential.anchor, &credential.matching)).unwrap_or_default();
    document_sha256(&text)
}

/// The anchor that the built-in CA is: what it signs is only worth something where that is so.
fn its_anchor(config: &IssueConfig, registry: &Registry) -> Result<(), NotGiven> {
    let name = &config.anchor;
    let fix = format!("`partnergate anchor add {name} --certificate …`, and another operator approves it");
    match registry.anchor(name).map(|anchor| &anchor.root) {
        None => Err(refused(format!("the built-in CA is not registered as the anchor `{name}`: {fix}"))),
        Some(Root::Certificate { certificate }) if certificate.0 == config.ca.certificate() => Ok(()),
        Some(_) => Err(refused(format!("the anchor `{name}` is another CA than the one of `issue.certificate`"))),
    }
}

fn gone(partner: &PartnerId, credential: &CredentialId) -> NotGiven {
    let mut problems = Problems::new();
    problems.registry(format!("partners.{partner}.credentials.{credential}"), "there is no such credential", None);
    NotGiven::Change(problems.into())
}

/// Who asked was shown to be this credential.
fn named(cause: Cause, credential: &CredentialId) -> Cause {
    Cause { actor: Actor { name: credential.to_string(), ..cause.actor }, ..cause }
}
