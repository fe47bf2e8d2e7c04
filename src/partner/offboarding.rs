//! The end of a partner: when it is, what was closed, and what is left to do elsewhere.

use super::{GrantState, PartnerRecord, Revoked};
use crate::clock::UnixNanos;
use crate::name::{ApprovalId, CredentialId, GrantId, PartnerId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An operator has ended a partner, or will have at a time that was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offboarding {
    pub reason: String,
    pub author: String,
    pub at: UnixNanos,
    /// From then on the partner is not served.
    pub ends: UnixNanos,
    /// When all that was left of it was closed; absent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<UnixNanos>,
}

/// What was closed with a partner; what had ended before is not among it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Closed {
    pub credentials: Vec<CredentialId>,
    pub grants: Vec<GrantId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_keys: Vec<CredentialId>,
    /// What waited for approval, and is void.
    pub approvals: Vec<ApprovalId>,
    /// Ids of enrolment codes that are void.
    #[serde(default)]
    pub enrolments: Vec<String>,
}

/// The evidence that a partner is gone, as it was when it was closed. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    pub partner: PartnerId,
    pub name: String,
    pub owner: String,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    pub author: String,
    pub asked: String,
    pub closed_at: String,
    /// The partner as it was before, in the form of a registry file.
    #[schemars(with = "Map<String, Value>")]
    pub existed: Value,
    /// Certificates that were seen under its credentials.
    #[schemars(with = "Vec<Map<String, Value>>")]
    pub certificates: Vec<Value>,
    pub closed: Closed,
    /// When and how it was enforced; absent until it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<Enforced>,
    /// What the gateway cannot do.
    pub left_to_do: Vec<String>,
    /// The last request that was allowed; absent where none ever was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub last_allowed: Option<Value>,
    /// The first request, or handshake, that was refused since; absent until there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub first_denied: Option<Value>,
}

/// When an end was enforced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Enforced {
    /// No request that came later was allowed.
    pub at: String,
    /// Connections of the partner that were open then.
    pub open_connections: usize,
    /// When the last of them was closed; absent where some were still open when the gateway stopped looking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_closed_at: Option<String>,
}

impl PartnerRecord {
    /// Revokes every credential, every API key, and every grant that has not ended. Returns which.
    pub fn close(&mut self, revoked: &Revoked) -> Closed {
        let mut closed = Closed::default();
        for credential in &mut self.credentials {
            if credential.revoke(revoked.clone()) {
                closed.credentials.push(credential.id.clone());
            }
        }
        for grant in &mut self.grants {
            if matches!(grant.state(revoked.at), GrantState::Approved | GrantState::Active)
                && grant.revoke(revoked.clone()) == Ok(true)
            {
                closed.grants.push(grant.id.clone());
            }
        }
        for key in &mut self.api_keys {
            if key.revoke(revoked.clone()) {
                closed.api_keys.push(key.id.clone());
            }
        }
        if let Some(offboarding) = &mut self.partner.offboarding {
            offboarding.closed = Some(revoked.at);
        }
        closed
    }
}
