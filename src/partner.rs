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
use crate::name::{AnchorName, CredentialId, Environment, GrantId, NetworkName, PartnerId};
use crate::operation::OperationId;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub time_zone: Zone,
    pub engagement: Period,
    /// Where the partner may call from. Empty denies every address; `any` must be written.
    pub networks: Vec<NetworkName>,
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
}

impl Grant {
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
