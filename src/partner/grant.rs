//! Grants: permission to call named operations, and what becomes of it.

use super::{Credential, Period, Phase, Reviewed, Revoked};
use crate::clock::UnixNanos;
use crate::name::{ApprovalId, CredentialId, Environment, GrantId, NetworkName};
use crate::operation::OperationId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

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

    /// Whether `after` is the same, but for credentials that take the place of its own: who approved it approved that.
    pub fn is_handed_on(&self, after: &Grant, credentials: &[Credential]) -> bool {
        let plain = |grant: &Grant| Grant { credentials: None, approval: None, ..grant.clone() };
        let (Some(before), Some(those)) = (&self.credentials, &after.credentials) else { return false };
        let succeeds = |id: &CredentialId| {
            let retiring = credentials.iter().filter_map(|c| Some((&c.id, c.retiring.as_ref()?)));
            retiring.into_iter().any(|(old, retiring)| before.contains(old) && retiring.successor == *id)
        };
        plain(self) == plain(after) && those.iter().all(|id| before.contains(id) || succeeds(id))
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

    /// Whether it is in force for this credential.
    pub fn is_live_for(&self, credential: &CredentialId, now: UnixNanos) -> bool {
        self.state(now) == GrantState::Active && self.credentials.as_ref().is_none_or(|all| all.contains(credential))
    }

    pub fn covers(&self, operation: &OperationId) -> bool {
        self.operations.binary_search(operation).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
