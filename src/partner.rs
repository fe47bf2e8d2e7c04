//! The nouns of the registry: partner, credential, grant, network, trust anchor — and what follows from time.
//!
//! In: values that were validated at the edge. Out: pure answers such as [`Period::phase`]. Must never: do I/O or
//! read a clock.

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            pub const NAMES: &'static [&'static str] = &[$($text,)*];

            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some($name::$variant),)* _ => None }
            }
        }
    };
}

mod anchor;

pub use anchor::{
    Anchor, Bundle, ClientAuthUsage, CrlSource, Denied, DeniedCertificate, Der, Revocation, RevocationMode, Root,
};

use crate::clock::{UnixNanos, Zone};
use crate::identity::Match;
use crate::name::{AnchorName, ApprovalId, CredentialId, Environment, GrantId, NetworkName, PartnerId};
use crate::operation::OperationId;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// From `starts` (inclusive) to `ends` (exclusive); an absent bound is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<UnixNanos>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<UnixNanos>,
}

/// Where a time lies in a [`Period`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    NotStarted,
    Live,
    Ended,
}

impl Period {
    pub fn phase(&self, now: UnixNanos) -> Phase {
        if self.ends.is_some_and(|end| now >= end) {
            Phase::Ended
        } else if self.starts.is_some_and(|start| now < start) {
            Phase::NotStarted
        } else {
            Phase::Live
        }
    }
}

states! {
    /// Where a partner stands. Only an active partner is served.
    PartnerState {
        Draft "draft",
        Active "active",
        /// Stopped, reversibly.
        Suspended "suspended",
        /// The end.
        Ended "ended",
    }
}

states! {
    /// Where a credential stands. Only an active credential is accepted.
    CredentialState {
        Pending "pending",
        Active "active",
        Revoked "revoked",
    }
}

/// The outside organisation's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partner {
    pub id: PartnerId,
    pub name: String,
    /// Who answers for this partner on our side.
    pub owner: String,
    pub state: PartnerState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspension: Option<Suspension>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub time_zone: Zone,
    pub engagement: Period,
    /// Where the partner may call from. Empty denies every address; `any` must be written.
    pub networks: Vec<NetworkName>,
}

/// An operator has stopped a partner. It lasts until an operator lets the partner go on, whatever files are applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    pub reason: String,
    pub author: String,
    pub at: UnixNanos,
}

impl Partner {
    /// What it counts as: its state, and `suspended` where an operator has stopped it.
    pub fn standing(&self) -> PartnerState {
        match self.suspension {
            Some(_) if self.state != PartnerState::Ended => PartnerState::Suspended,
            _ => self.state,
        }
    }

    /// Stops it, reversibly. Returns whether it was not stopped already.
    ///
    /// # Errors
    /// Why that is not legal now.
    pub fn suspend(&mut self, suspension: Suspension) -> Result<bool, String> {
        match (&self.suspension, self.state) {
            (_, PartnerState::Ended) => Err(format!("`{}` has ended: there is nothing to suspend", self.id)),
            (Some(_), _) => Ok(false),
            (None, PartnerState::Draft | PartnerState::Active | PartnerState::Suspended) => {
                self.suspension = Some(suspension);
                Ok(true)
            }
        }
    }

    /// Takes a suspension back; the partner is then what it was before. Returns whether there was one.
    ///
    /// # Errors
    /// Why that is not legal now, and what is.
    pub fn resume(&mut self) -> Result<bool, String> {
        match (self.suspension.take(), self.state) {
            (Some(_), _) => Ok(true),
            (None, PartnerState::Suspended) => Err(format!(
                "`{}` is suspended by the file that was applied: write another `state` there and apply it",
                self.id
            )),
            (None, PartnerState::Draft | PartnerState::Active | PartnerState::Ended) => Ok(false),
        }
    }
}

/// What a partner proves itself with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    pub id: CredentialId,
    pub anchor: AnchorName,
    #[serde(rename = "match")]
    pub matching: Match,
    pub state: CredentialState,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub environments: Vec<Environment>,
}

/// Permission for one partner to call named operations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub id: GrantId,
    /// Who answers for this grant on our side.
    pub owner: String,
    /// As its author wrote it: ids, `prefix.*`, `tag:name`.
    pub written: Vec<String>,
    /// What that meant when the grant was made; sorted. An operation that appears later is not covered.
    pub operations: Vec<OperationId>,
    /// Absent: the partner's. Present: only where the partner's list allows it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<NetworkName>>,
    /// Absent: any credential of the partner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Vec<CredentialId>>,
    pub period: Period,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, serde_json::Value>,
    pub environments: Vec<Environment>,
    /// Who asked for it and who approved it; absent for one that is older than approvals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Arc<Provenance>>,
    /// An operator has ended it. It never comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Box<Revoked>>,
    /// An operator has made it alone, for an incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emergency: Option<Box<Emergency>>,
}

/// How long an emergency may last.
pub const MAX_EMERGENCY: Duration = Duration::from_secs(4 * 3_600);

/// How long after an emergency has begun it is late when nobody else has looked at it.
pub const REVIEW_DUE: Duration = Duration::from_secs(3 * 86_400);

/// Why a grant was ended before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    pub reason: String,
    pub author: String,
    pub at: UnixNanos,
}

/// Who made a grant alone, and who has looked at that since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emergency {
    pub reason: String,
    pub ticket: String,
    pub author: String,
    pub at: UnixNanos,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reviewed: Option<Reviewed>,
}

/// What somebody else made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reviewed {
    pub finding: String,
    pub author: String,
    pub at: UnixNanos,
}

states! {
    /// Where a grant stands; what waits for approval is no grant yet.
    GrantState {
        /// It has not started.
        Approved "approved",
        Active "active",
        Ended "ended",
        Revoked "revoked",
    }
}

/// Where a grant comes from, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Provenance {
    /// Absent where nobody else had to approve it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ApprovalId>,
    pub requester: String,
    pub approver: String,
    pub at: UnixNanos,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub justification: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

impl Grant {
    /// Where it stands; its partner may be stopped all the same.
    pub fn state(&self, now: UnixNanos) -> GrantState {
        match (&self.revoked, self.period.phase(now)) {
            (Some(_), _) => GrantState::Revoked,
            (None, Phase::NotStarted) => GrantState::Approved,
            (None, Phase::Live) => GrantState::Active,
            (None, Phase::Ended) => GrantState::Ended,
        }
    }

    /// Ends it for good. Returns whether it had not been revoked already.
    ///
    /// # Errors
    /// Why that is not legal now.
    pub fn revoke(&mut self, revoked: Revoked) -> Result<bool, String> {
        match self.state(revoked.at) {
            GrantState::Revoked => Ok(false),
            GrantState::Ended => {
                let ends = self.period.ends.map(|ends| ends.to_string()).unwrap_or_default();
                Err(format!("`{}` has ended at {ends}: there is nothing to revoke", self.id))
            }
            GrantState::Approved | GrantState::Active => {
                self.revoked = Some(Box::new(revoked));
                Ok(true)
            }
        }
    }

    /// Says what somebody else made of an emergency.
    ///
    /// # Errors
    /// It is none, or who looks has made it.
    pub fn review(&mut self, reviewed: Reviewed) -> Result<bool, String> {
        let Some(emergency) = &mut self.emergency else {
            return Err(format!("`{}` is no emergency grant: there is nothing to review", self.id));
        };
        if emergency.author == reviewed.author {
            return Err(format!("`{}` has made `{}`: another operator reviews it", emergency.author, self.id));
        }
        let first = emergency.reviewed.is_none();
        emergency.reviewed.get_or_insert(reviewed);
        Ok(first)
    }

    /// Whether an emergency goes on, or nobody else has looked at it yet.
    pub fn is_pending_emergency(&self, now: UnixNanos) -> bool {
        let pending = |e: &Emergency| e.reviewed.is_none() || self.state(now) == GrantState::Active;
        self.emergency.as_deref().is_some_and(pending)
    }

    pub fn covers(&self, operation: &OperationId) -> bool {
        self.operations.binary_search(operation).is_ok()
    }
}

/// A partner with all that belongs to it: the unit in which the registry is stored and changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartnerRecord {
    pub partner: Partner,
    /// Sorted by id.
    pub credentials: Vec<Credential>,
    /// Sorted by id.
    pub grants: Vec<Grant>,
}

/// What is locked down: nobody is served, or nobody under one anchor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Locked {
    Everybody,
    Under(AnchorName),
}

impl Locked {
    /// No anchor has this name.
    const EVERYBODY: &'static str = "*";

    /// As it is kept.
    pub fn as_str(&self) -> &str {
        match self {
            Locked::Everybody => Locked::EVERYBODY,
            Locked::Under(anchor) => anchor.as_str(),
        }
    }

    /// # Errors
    /// It is neither `*` nor the name of an anchor.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == Locked::EVERYBODY { Ok(Locked::Everybody) } else { AnchorName::parse(text).map(Locked::Under) }
    }
}

/// Why nobody is served. It lasts until an operator takes it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lockdown {
    pub locked: Locked,
    pub reason: String,
    pub author: String,
    pub at: UnixNanos,
}

impl PartnerRecord {
    /// The grants that count in an environment: those of others, and those that were revoked, are not seen by anybody.
    pub fn grants_in(&self, environment: &Environment) -> impl Iterator<Item = &Grant> {
        self.grants.iter().filter(move |g| g.revoked.is_none() && g.environments.contains(environment))
    }
}

/// A named list of CIDRs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub name: NetworkName,
    pub cidrs: Vec<IpNet>,
}

/// The network name that holds every address. It cannot be defined, only used.
pub const ANY_NETWORK: &str = "any";

#[cfg(test)]
mod tests {
    use super::*;

    fn partner(state: PartnerState) -> Partner {
        Partner {
            id: PartnerId::parse("acme").unwrap(),
            name: "Acme".into(),
            owner: "o".into(),
            state,
            suspension: None,
            labels: BTreeMap::new(),
            time_zone: Zone::parse("UTC").unwrap(),
            engagement: Period::default(),
            networks: Vec::new(),
        }
    }

    #[test]
    fn suspension_stops_every_state_but_the_end_and_gives_it_back() {
        let suspension = || Suspension { reason: "r".into(), author: "a".into(), at: UnixNanos(1) };
        for state in [PartnerState::Draft, PartnerState::Active, PartnerState::Suspended] {
            let mut acme = partner(state);
            assert_eq!((acme.standing(), acme.suspend(suspension())), (state, Ok(true)));
            assert_eq!(acme.standing(), PartnerState::Suspended);
            // The first reason stays.
            let later = Suspension { reason: "later".into(), ..suspension() };
            assert_eq!((acme.suspend(later), acme.suspension.clone()), (Ok(false), Some(suspension())));
            assert_eq!((acme.resume(), acme.standing()), (Ok(true), state));
        }
        assert!(partner(PartnerState::Ended).suspend(suspension()).is_err());
        assert!(partner(PartnerState::Suspended).resume().is_err(), "the files say so");
        assert_eq!(partner(PartnerState::Active).resume(), Ok(false));
        let mut over = Partner { suspension: Some(suspension()), ..partner(PartnerState::Ended) };
        assert_eq!((over.standing(), over.resume()), (PartnerState::Ended, Ok(true)));
    }

    fn grant() -> Grant {
        Grant {
            id: GrantId::parse("g").unwrap(),
            owner: "o".into(),
            written: Vec::new(),
            operations: Vec::new(),
            networks: None,
            credentials: None,
            period: Period { starts: Some(UnixNanos(10)), ends: Some(UnixNanos(20)) },
            conditions: BTreeMap::new(),
            environments: Vec::new(),
            approval: None,
            revoked: None,
            emergency: None,
        }
    }

    #[test]
    fn grant_goes_from_approved_to_active_to_ended_or_revoked_and_never_back() {
        let revoked = |at: i64| Revoked { reason: "r".into(), author: "a".into(), at: UnixNanos(at) };
        for (at, state) in [(9, GrantState::Approved), (10, GrantState::Active), (20, GrantState::Ended)] {
            let mut one = grant();
            assert_eq!(one.state(UnixNanos(at)), state);
            match one.revoke(revoked(at)) {
                Ok(first) => {
                    assert!(first && state != GrantState::Ended);
                    assert_eq!(one.state(UnixNanos(at)), GrantState::Revoked);
                    // The first reason stays, also when its time is over.
                    assert_eq!((one.revoke(revoked(99)), one.revoked.as_ref().unwrap().at), (Ok(false), UnixNanos(at)));
                    assert_eq!(one.state(UnixNanos(99)), GrantState::Revoked);
                }
                Err(why) => assert!(state == GrantState::Ended && why.contains("has ended"), "{why}"),
            }
        }
    }

    #[test]
    fn emergency_is_reviewed_once_and_by_somebody_else() {
        let by = |author: &str| Reviewed { finding: "f".into(), author: author.into(), at: UnixNanos(30) };
        assert!(grant().review(by("bob")).unwrap_err().contains("is no emergency grant"));
        let emergency = Emergency {
            reason: "r".into(),
            ticket: "t".into(),
            author: "alice".into(),
            at: UnixNanos(10),
            reviewed: None,
        };
        let mut one = Grant { emergency: Some(Box::new(emergency)), ..grant() };
        assert!(one.review(by("alice")).unwrap_err().contains("another operator reviews it"));
        assert!(one.is_pending_emergency(UnixNanos(99)));
        assert_eq!((one.review(by("bob")), one.review(by("carol"))), (Ok(true), Ok(false)));
        assert_eq!(one.emergency.as_ref().unwrap().reviewed, Some(by("bob")));
        assert_eq!((one.is_pending_emergency(UnixNanos(15)), one.is_pending_emergency(UnixNanos(20))), (true, false));
    }

    #[test]
    fn starts_are_inclusive_and_ends_exclusive() {
        let period = Period { starts: Some(UnixNanos(10)), ends: Some(UnixNanos(20)) };
        for (now, phase) in
            [(9, Phase::NotStarted), (10, Phase::Live), (19, Phase::Live), (20, Phase::Ended), (21, Phase::Ended)]
        {
            assert_eq!(period.phase(UnixNanos(now)), phase, "{now}");
        }
        assert_eq!(Period::default().phase(UnixNanos(0)), Phase::Live);
    }
}
