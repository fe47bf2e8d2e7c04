//! API keys: what a partner shows beside its certificate where it cannot do OAuth. One narrows what the certificate may do.

use super::{CredentialStage, Provenance, Retiring, Revoked};
use crate::clock::UnixNanos;
use crate::identity::{Certificate, Fingerprint};
use crate::name::{CredentialId, Environment, GrantId, NetworkName};
use crate::operation::OperationId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// What is kept of a key: HMAC-SHA256 under a key of the gateway's own, so that who reads it here can neither use it nor
/// try which key it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyHash(pub Fingerprint);

/// The certificate that a key is good with, and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoundTo {
    FingerprintSha256(Fingerprint),
    /// Of the certificate's public key: a renewal with the same key is the same.
    SpkiSha256(Fingerprint),
}

impl BoundTo {
    pub fn is(&self, leaf: &Certificate) -> bool {
        match self {
            BoundTo::FingerprintSha256(fingerprint) => leaf.fingerprint == *fingerprint,
            BoundTo::SpkiSha256(spki) => leaf.spki_sha256 == *spki,
        }
    }

    /// As registry files name it, and the hash.
    pub fn parts(&self) -> (&'static str, Fingerprint) {
        match self {
            BoundTo::FingerprintSha256(hash) => ("fingerprint_sha256", *hash),
            BoundTo::SpkiSha256(hash) => ("spki_sha256", *hash),
        }
    }
}

impl fmt::Display for BoundTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, hash) = self.parts();
        write!(f, "{kind} {hash}")
    }
}

/// A key, without the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// No credential of anybody has the same.
    pub id: CredentialId,
    /// Who answers for it on our side.
    pub owner: String,
    pub hash: KeyHash,
    pub bound_to: BoundTo,
    /// What it may be used by; sorted.
    pub grants: Vec<GrantId>,
    /// What it is for; sorted. Absent: all that its grants cover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Vec<OperationId>>,
    /// Absent: where the grant and the partner allow it. Present: only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<NetworkName>>,
    pub environments: Vec<Environment>,
    /// From then on it is not accepted.
    pub ends: UnixNanos,
    /// Who asked for it and who approved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Arc<Provenance>>,
    /// Another one is taking its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring: Option<Box<Retiring>>,
    /// Who has revoked it and why, for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Box<Revoked>>,
}

impl ApiKey {
    pub fn stage(&self, now: UnixNanos) -> CredentialStage {
        match (&self.revoked, &self.retiring) {
            (Some(_), _) => CredentialStage::Revoked,
            _ if now >= self.ends => CredentialStage::Expired,
            (None, Some(_)) => CredentialStage::Retiring,
            (None, None) => CredentialStage::Active,
        }
    }

    /// Whether it is for an operation by a grant.
    pub fn covers(&self, operation: &OperationId, grant: &GrantId) -> bool {
        self.grants.binary_search(grant).is_ok()
            && self.operations.as_ref().is_none_or(|all| all.binary_search(operation).is_ok())
    }

    /// Whether it may come from an address that these networks hold.
    pub fn admits(&self, networks: &[&str]) -> bool {
        self.networks.as_ref().is_none_or(|own| own.iter().any(|name| networks.contains(&name.as_str())))
    }

    /// Ends it for good. Returns whether it had not been revoked already.
    pub fn revoke(&mut self, revoked: Revoked) -> bool {
        let first = self.revoked.is_none();
        self.revoked.get_or_insert_with(|| Box::new(revoked));
        first
    }

    /// Lets another one of the partner take its place.
    ///
    /// # Errors
    /// Why that is not legal now, and what is.
    pub fn retire(&mut self, retiring: Retiring) -> Result<(), String> {
        let said = ("key", "credential add --api-key");
        retiring.may_begin(&self.id, self.stage(retiring.since), self.retiring.as_deref(), said)?;
        self.retiring = Some(Box::new(retiring));
        Ok(())
    }

    /// Whether nothing needs it any more, as with [`super::Credential::is_succeeded`].
    pub fn is_succeeded(&self, seen: Option<UnixNanos>, now: UnixNanos) -> bool {
        self.revoked.is_none() && self.retiring.as_ref().is_some_and(|retiring| retiring.is_over(seen, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key() -> ApiKey {
        ApiKey {
            id: CredentialId::parse("old").unwrap(),
            owner: "o".into(),
            hash: KeyHash(Fingerprint::of(b"k")),
            bound_to: BoundTo::SpkiSha256(Fingerprint::of(b"spki")),
            grants: vec![GrantId::parse("g").unwrap()],
            operations: None,
            networks: None,
            environments: Vec::new(),
            ends: UnixNanos(1_000),
            approval: None,
            retiring: None,
            revoked: None,
        }
    }

    #[test]
    fn key_covers_what_it_names_of_its_grants_alone() {
        let (read, write) = (OperationId::parse("a.read").unwrap(), OperationId::parse("a.write").unwrap());
        let (own, other) = (GrantId::parse("g").unwrap(), GrantId::parse("h").unwrap());
        assert!(key().covers(&read, &own) && !key().covers(&read, &other));
        let narrow = ApiKey { operations: Some(vec![read.clone()]), ..key() };
        assert!(narrow.covers(&read, &own) && !narrow.covers(&write, &own) && !narrow.covers(&read, &other));
        let nothing = ApiKey { operations: Some(Vec::new()), ..key() };
        assert!(!nothing.covers(&read, &own));
        assert!(key().admits(&["any"]));
        let here = ApiKey { networks: Some(vec![NetworkName::parse("dc").unwrap()]), ..key() };
        assert!(here.admits(&["any", "dc"]) && !here.admits(&["any"]));
        assert!(!ApiKey { networks: Some(Vec::new()), ..key() }.admits(&["any"]));
    }

    #[test]
    fn key_ends_retires_and_is_revoked_for_good() {
        let (mut one, revoked) = (key(), Revoked { reason: "r".into(), author: "a".into(), at: UnixNanos(5) });
        assert_eq!(one.stage(UnixNanos(999)), CredentialStage::Active);
        assert_eq!(one.stage(UnixNanos(1_000)), CredentialStage::Expired);
        let (successor, overlap) = (CredentialId::parse("new").unwrap(), Duration::from_nanos(10));
        let retiring = |since: i64| Retiring { successor: successor.clone(), since: UnixNanos(since), overlap };
        let circle = Retiring { successor: one.id.clone(), ..retiring(100) };
        assert!(one.retire(circle).unwrap_err().contains("succeed itself"));
        assert!(one.retire(retiring(1_000)).unwrap_err().contains("expired"));
        assert_eq!(one.retire(retiring(100)), Ok(()));
        assert_eq!(one.stage(UnixNanos(100)), CredentialStage::Retiring);
        assert!(one.retire(retiring(100)).unwrap_err().contains("by `new` already"));
        for (seen, now, over) in
            [(None, 200, false), (Some(99), 200, false), (Some(100), 109, false), (Some(100), 110, true)]
        {
            assert_eq!(one.is_succeeded(seen.map(UnixNanos), UnixNanos(now)), over, "{seen:?} {now}");
        }
        assert!(one.revoke(revoked.clone()) && !one.revoke(revoked));
        assert_eq!(one.stage(UnixNanos(6)), CredentialStage::Revoked);
        assert!(!one.is_succeeded(Some(UnixNanos(100)), UnixNanos(200)));
    }
}
