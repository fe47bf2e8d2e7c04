//! The nouns of the registry: partner, credential, grant, network, trust anchor — and what follows from time.
//!
//! In: values that were validated at the edge. Out: pure answers such as [`Period::phase`]. Must never: do I/O or
//! read a clock.

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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
mod api_key;
mod credential;
mod grant;
mod offboarding;
mod transition;

pub use anchor::{
    Anchor, Bundle, ClientAuthUsage, CrlSource, Denied, DeniedCertificate, Der, Revocation, RevocationMode, Root,
};
pub use api_key::{ApiKey, BoundTo, KeyHash};
pub use credential::{Credential, CredentialKind, CredentialStage, CredentialState, OVERLAP, Retiring};
pub use grant::{Emergency, Grant, GrantState, MAX_EMERGENCY, Provenance, REVIEW_DUE};
pub use offboarding::{Closed, Enforced, Offboarding, Report};
pub use transition::{Illegal, illegal, illegal_at_first};

use crate::clock::{UnixNanos, Zone};
use crate::name::{AnchorName, Environment, NetworkName, PartnerId};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// Where a partner was put. Only an active partner is served.
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
    /// Where a partner stands, with all that operators and time have made of it.
    PartnerStage {
        Draft "draft",
        Active "active",
        Suspended "suspended",
        /// Served until a time that is set, and then no more.
        Offboarding "offboarding",
        Ended "ended",
    }
}

/// The outside organisation's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partner {
    pub id: PartnerId,
    pub name: String,
    /// Who answers for this partner on our side.
    pub owner: String,
    /// How the partner reaches them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    pub state: PartnerState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspension: Option<Suspension>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub time_zone: Zone,
    pub engagement: Period,
    /// Where the partner may call from. Empty denies every address; `any` must be written.
    pub networks: Vec<NetworkName>,
    /// Reasons of custom rules that are only observed, and until when. What they would deny is recorded and not denied.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub observe: BTreeMap<String, UnixNanos>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proofing: Option<Box<Proofing>>,
    /// How sensitive what it sees is, in the words of our side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_classification: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<Box<Review>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offboarding: Option<Box<Offboarding>>,
}

/// How it was found out that the organisation is who it says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proofing {
    /// Such as `commercial register HRB 4711, call back to the number there`.
    pub method: String,
    /// Who on our side has looked.
    pub by: String,
    pub at: UnixNanos,
}

/// How often somebody has to look whether all of a partner is still needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    pub every: Duration,
    /// What was found last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Reviewed>,
}

/// Why something was ended before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    pub reason: String,
    pub author: String,
    pub at: UnixNanos,
}

/// What somebody else made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reviewed {
    pub finding: String,
    pub author: String,
    pub at: UnixNanos,
}

/// An operator has stopped a partner. It lasts until an operator lets the partner go on, whatever files are applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Suspension {
    pub reason: String,
    pub author: String,
    pub at: UnixNanos,
}

impl Partner {
    /// What it counts as where requests are decided: its state, `suspended` where an operator has stopped it, and `ended`
    /// where one has closed it.
    pub fn standing(&self) -> PartnerState {
        match self.suspension {
            _ if self.is_closed() => PartnerState::Ended,
            Some(_) if self.state != PartnerState::Ended => PartnerState::Suspended,
            _ => self.state,
        }
    }

    /// Where it stands, for people.
    pub fn stage(&self, now: UnixNanos) -> PartnerStage {
        match self.standing() {
            PartnerState::Ended => PartnerStage::Ended,
            _ if self.engaged().phase(now) == Phase::Ended => PartnerStage::Ended,
            PartnerState::Suspended => PartnerStage::Suspended,
            PartnerState::Draft => PartnerStage::Draft,
            PartnerState::Active if self.offboarding.is_some() => PartnerStage::Offboarding,
            PartnerState::Active => PartnerStage::Active,
        }
    }

    /// The engagement, up to where an operator has ended it.
    pub fn engaged(&self) -> Period {
        let ends = self.offboarding.as_ref().map(|o| o.ends);
        let ends = ends.into_iter().chain(self.engagement.ends).min();
        Period { starts: self.engagement.starts, ends }
    }

    /// Whether an operator has closed it. It never comes back.
    pub fn is_closed(&self) -> bool {
        self.offboarding.as_ref().is_some_and(|o| o.closed.is_some())
    }

    /// Ends the engagement at a time. Returns whether that is another one than was set.
    ///
    /// # Errors
    /// Why that is not legal now, and what is.
    pub fn offboard(&mut self, offboarding: Offboarding) -> Result<bool, String> {
        match &self.offboarding {
            Some(before) if before.closed.is_some() || before.ends == offboarding.ends => Ok(false),
            Some(before) if offboarding.ends > before.ends => Err(format!(
                "`{}` ends at {} already: a later end is asked for with `partner offboard --cancel`, and then set anew",
                self.id, before.ends
            )),
            _ => {
                self.offboarding = Some(Box::new(offboarding));
                Ok(true)
            }
        }
    }

    /// When somebody has to look at it next.
    pub fn review_due(&self) -> Option<UnixNanos> {
        let review = self.review.as_ref().filter(|_| self.standing() != PartnerState::Ended)?;
        let last = review.last.as_ref().map(|last| last.at);
        let from = last.or(self.engagement.starts.max(self.proofing.as_ref().map(|p| p.at)));
        Some(from.map_or(UnixNanos(0), |from| from.saturating_add(review.every)))
    }

    /// Notes what somebody found.
    ///
    /// # Errors
    /// Nobody has to look at it.
    pub fn reviewed(&mut self, reviewed: Reviewed) -> Result<(), String> {
        match (&mut self.review, &self.offboarding) {
            (_, Some(o)) if o.closed.is_some() => Err(format!("`{}` has ended: there is nothing to review", self.id)),
            (Some(review), _) => {
                review.last = Some(reviewed);
                Ok(())
            }
            (None, _) => Err(format!("`{}` has no `review_every`: set how often it is looked at first", self.id)),
        }
    }

    /// Stops it, reversibly. Returns whether it was not stopped already.
    ///
    /// # Errors
    /// Why that is not legal now.
    pub fn suspend(&mut self, suspension: Suspension) -> Result<bool, String> {
        match (&self.suspension, self.standing()) {
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
        if self.is_closed() {
            return Err(format!("`{}` has ended for good", self.id));
        }
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

/// A partner with all that belongs to it: the unit in which the registry is stored and changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartnerRecord {
    pub partner: Partner,
    /// Sorted by id.
    pub credentials: Vec<Credential>,
    /// Sorted by id.
    pub grants: Vec<Grant>,
    /// Sorted by id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_keys: Vec<ApiKey>,
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
            contact: None,
            proofing: None,
            observe: BTreeMap::new(),
            data_classification: None,
            review: None,
            offboarding: None,
        }
    }

    #[test]
    fn offboarding_ends_the_engagement_at_its_time_and_only_earlier() {
        let at = |ends: i64| Offboarding {
            reason: "r".into(),
            author: "a".into(),
            at: UnixNanos(1),
            ends: UnixNanos(ends),
            closed: None,
        };
        let mut acme =
            Partner { engagement: Period { starts: None, ends: Some(UnixNanos(50)) }, ..partner(PartnerState::Active) };
        assert_eq!(acme.stage(UnixNanos(9)), PartnerStage::Active);
        assert_eq!(acme.offboard(at(20)), Ok(true));
        assert_eq!((acme.offboard(at(20)), acme.engaged().ends), (Ok(false), Some(UnixNanos(20))));
        assert!(acme.offboard(at(30)).unwrap_err().contains("--cancel"));
        assert_eq!((acme.offboard(at(10)), acme.engagement.ends), (Ok(true), Some(UnixNanos(50))));
        assert_eq!((acme.standing(), acme.stage(UnixNanos(9))), (PartnerState::Active, PartnerStage::Offboarding));
        assert_eq!(acme.stage(UnixNanos(10)), PartnerStage::Ended);
        let mut record =
            PartnerRecord { partner: acme, credentials: Vec::new(), grants: Vec::new(), api_keys: Vec::new() };
        record.close(&Revoked { reason: "r".into(), author: "a".into(), at: UnixNanos(11) });
        let mut acme = record.partner;
        assert_eq!((acme.standing(), acme.stage(UnixNanos(9))), (PartnerState::Ended, PartnerStage::Ended));
        assert_eq!(acme.offboard(at(5)), Ok(false), "twice is harmless");
        let suspension = Suspension { reason: "r".into(), author: "a".into(), at: UnixNanos(12) };
        assert!(acme.suspend(suspension).unwrap_err().contains("has ended"));
        // An engagement that ends sooner by itself does.
        let mut sooner =
            Partner { engagement: Period { starts: None, ends: Some(UnixNanos(5)) }, ..partner(PartnerState::Active) };
        sooner.offboard(at(20)).unwrap();
        assert_eq!(sooner.engaged().ends, Some(UnixNanos(5)));
    }

    #[test]
    fn review_is_due_from_the_last_one_or_from_the_begin() {
        let mut acme = partner(PartnerState::Active);
        let found = || Reviewed { finding: "needed".into(), author: "a".into(), at: UnixNanos(70) };
        assert_eq!((acme.review_due(), acme.reviewed(found()).is_err()), (None, true));
        acme.review = Some(Box::new(Review { every: Duration::from_nanos(5), last: None }));
        assert_eq!(acme.review_due(), Some(UnixNanos(0)), "nobody knows since when: now");
        acme.proofing = Some(Box::new(Proofing { method: "m".into(), by: "b".into(), at: UnixNanos(20) }));
        assert_eq!(acme.review_due(), Some(UnixNanos(25)));
        acme.engagement.starts = Some(UnixNanos(40));
        assert_eq!(acme.review_due(), Some(UnixNanos(45)));
        acme.reviewed(found()).unwrap();
        assert_eq!(acme.review_due(), Some(UnixNanos(75)));
        acme.state = PartnerState::Ended;
        assert_eq!(acme.review_due(), None);
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
