//! Credentials: what a partner proves itself with, and how one takes the place of another.

use super::Revoked;
use crate::clock::UnixNanos;
use crate::identity::Match;
use crate::name::{AnchorName, CredentialId, Environment};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long two credentials are good together where nobody says otherwise.
pub const OVERLAP: Duration = Duration::from_secs(7 * 86_400);

states! {
    /// What a request proves itself with.
    CredentialKind {
        /// A client certificate.
        X509 "x509",
        /// A client certificate, and an access token that is bound to it.
        Token "token",
        /// A client certificate, and an API key that is bound to it.
        ApiKey "api-key",
    }
}

impl CredentialKind {
    /// Of a request with a certificate and what it brings besides. A token that was given for a key is a token.
    pub fn of(token: bool, key: bool) -> Self {
        match (token, key) {
            (true, _) => CredentialKind::Token,
            (false, true) => CredentialKind::ApiKey,
            (false, false) => CredentialKind::X509,
        }
    }
}

states! {
    /// Where a credential was put. Only an active credential is accepted.
    CredentialState {
        Pending "pending",
        Active "active",
        Revoked "revoked",
    }
}

states! {
    /// Where a credential stands, with all that follows from rotation and time.
    CredentialStage {
        Pending "pending",
        Active "active",
        /// Accepted until its successor has taken over.
        Retiring "retiring",
        Expired "expired",
        Revoked "revoked",
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
    /// It is not accepted from then on, whatever its certificates say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<UnixNanos>,
    /// Another one is taking its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring: Option<Box<Retiring>>,
    /// Who has revoked it and why, for good; absent for one that a file says to be revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Box<Revoked>>,
}

/// A credential on its way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retiring {
    /// Of the same partner.
    pub successor: CredentialId,
    pub since: UnixNanos,
    /// How long both are good at least.
    pub overlap: Duration,
}

impl Retiring {
    /// When both have been good for long enough.
    pub fn until(&self) -> UnixNanos {
        self.since.saturating_add(self.overlap)
    }

    /// Whether one that stands so, and is of this id, may be succeeded.
    ///
    /// # Errors
    /// Why not, and what is legal.
    pub(super) fn may_begin(
        &self,
        id: &CredentialId,
        stage: CredentialStage,
        before: Option<&Retiring>,
        (noun, command): (&str, &str),
    ) -> Result<(), String> {
        match (stage, before) {
            _ if self.successor == *id => Err(format!("`{id}` cannot succeed itself")),
            (CredentialStage::Active, _) => Ok(()),
            (CredentialStage::Retiring | CredentialStage::Expired, Some(before)) => {
                Err(format!("`{id}` is being succeeded by `{}` already", before.successor))
            }
            (stage, _) => Err(format!(
                "`{id}` is {}, and only an active {noun} is succeeded by another: `{command}`",
                stage.as_str()
            )),
        }
    }

    /// Whether both were good for long enough and the successor, which `seen` says when it was used last, is in use.
    pub fn is_over(&self, seen: Option<UnixNanos>, now: UnixNanos) -> bool {
        now >= self.until() && seen.is_some_and(|seen| seen >= self.since)
    }
}

impl Credential {
    pub fn stage(&self, now: UnixNanos) -> CredentialStage {
        match self.state {
            CredentialState::Revoked => CredentialStage::Revoked,
            _ if self.ends.is_some_and(|ends| now >= ends) => CredentialStage::Expired,
            CredentialState::Pending => CredentialStage::Pending,
            CredentialState::Active if self.retiring.is_some() => CredentialStage::Retiring,
            CredentialState::Active => CredentialStage::Active,
        }
    }

    /// Ends it for good. Returns whether it had not been revoked already.
    pub fn revoke(&mut self, revoked: Revoked) -> bool {
        if self.state == CredentialState::Revoked {
            return false;
        }
        self.state = CredentialState::Revoked;
        self.revoked = Some(Box::new(revoked));
        true
    }

    /// Lets another one of the partner take its place.
    ///
    /// # Errors
    /// Why that is not legal now, and what is.
    pub fn retire(&mut self, retiring: Retiring) -> Result<(), String> {
        let said = ("credential", "credential add");
        retiring.may_begin(&self.id, self.stage(retiring.since), self.retiring.as_deref(), said)?;
        self.retiring = Some(Box::new(retiring));
        Ok(())
    }

    /// Whether nothing needs it any more: both were good for long enough, and its successor, which `seen` says when it was
    /// used last, is in use.
    pub fn is_succeeded(&self, seen: Option<UnixNanos>, now: UnixNanos) -> bool {
        self.state == CredentialState::Active && self.retiring.as_ref().is_some_and(|r| r.is_over(seen, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Fingerprint;

    fn credential(state: CredentialState) -> Credential {
        Credential {
            id: CredentialId::parse("old").unwrap(),
            anchor: AnchorName::parse("ca").unwrap(),
            matching: Match::FingerprintSha256(Fingerprint::of(b"x")),
            state,
            labels: BTreeMap::new(),
            environments: Vec::new(),
            ends: None,
            retiring: None,
            revoked: None,
        }
    }

    fn retiring(successor: &str) -> Retiring {
        let (successor, overlap) = (CredentialId::parse(successor).unwrap(), Duration::from_nanos(10));
        Retiring { successor, since: UnixNanos(100), overlap }
    }

    #[test]
    fn only_an_active_credential_is_succeeded_and_only_once() {
        for state in [CredentialState::Pending, CredentialState::Revoked] {
            let why = credential(state).retire(retiring("new")).unwrap_err();
            assert!(why.contains(state.as_str()) && why.contains("only an active"), "{why}");
        }
        let mut old = credential(CredentialState::Active);
        assert!(old.retire(retiring("old")).unwrap_err().contains("succeed itself"));
        assert_eq!(old.retire(retiring("new")), Ok(()));
        assert_eq!(old.stage(UnixNanos(100)), CredentialStage::Retiring);
        assert!(old.retire(retiring("newer")).unwrap_err().contains("by `new` already"));
        let mut over = Credential { ends: Some(UnixNanos(100)), ..credential(CredentialState::Active) };
        assert_eq!(
            (over.stage(UnixNanos(99)), over.stage(UnixNanos(100))),
            (CredentialStage::Active, CredentialStage::Expired)
        );
        assert!(over.retire(retiring("new")).unwrap_err().contains("expired"));
    }

    #[test]
    fn predecessor_goes_when_both_were_good_long_enough_and_the_successor_is_in_use() {
        let mut old = credential(CredentialState::Active);
        assert!(!old.is_succeeded(Some(UnixNanos(200)), UnixNanos(200)), "nothing takes its place");
        old.retire(retiring("new")).unwrap();
        for (seen, now, gone) in [
            (None, 200, false),
            (Some(99), 200, false),
            (Some(100), 109, false),
            (Some(100), 110, true),
            (Some(105), 300, true),
        ] {
            assert_eq!(old.is_succeeded(seen.map(UnixNanos), UnixNanos(now)), gone, "{seen:?} {now}");
        }
        let revoked = |at: i64| Revoked { reason: "r".into(), author: "a".into(), at: UnixNanos(at) };
        assert!(old.revoke(revoked(300)) && !old.revoke(revoked(400)));
        assert_eq!(
            (old.stage(UnixNanos(300)), old.revoked.as_ref().unwrap().at),
            (CredentialStage::Revoked, UnixNanos(300))
        );
        assert!(!old.is_succeeded(Some(UnixNanos(100)), UnixNanos(300)));
    }
}
