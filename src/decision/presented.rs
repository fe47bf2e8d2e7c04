//! What a request brings beside its certificate: an access token, an API key, or a token that was given for a key. Each
//! narrows what the certificate may do, and none stands in its place.

use super::bearer::token_of;
use super::{Refused, Situation};
use crate::clock::UnixNanos;
use crate::identity::Peer;
use crate::name::{CredentialId, GrantId};
use crate::operation::OperationId;
use crate::partner::{ApiKey, CredentialStage, PartnerRecord};
use crate::reason::Reason;
use crate::registry::find_api_key;
use crate::request::{Brought, RequestFacts};
use crate::route::TokenUse;
use crate::snapshot::Snapshot;
use crate::token::{AccessToken, ApiKeys, KeyUse, find_key};
use std::sync::Arc;

/// What of it is good for this partner with this certificate.
#[derive(Default)]
pub(super) struct Presented<'a> {
    pub token: Option<Arc<AccessToken>>,
    /// The key, or that which the token was given for.
    pub key: Option<&'a ApiKey>,
}

/// The same for a record.
#[derive(Clone, Debug, Default)]
pub struct Narrowed {
    pub token: Option<Arc<AccessToken>>,
    pub api_key: Option<CredentialId>,
}

impl Presented<'_> {
    pub(super) fn narrowed(&self) -> Narrowed {
        Narrowed { token: self.token.clone(), api_key: self.key.map(|key| key.id.clone()) }
    }

    pub(super) fn has_grant(&self, grant: &GrantId) -> bool {
        self.token.as_ref().is_none_or(|token| token.grants.binary_search(grant).is_ok())
            && self.key.is_none_or(|key| key.grants.binary_search(grant).is_ok())
    }

    pub(super) fn has_operation(&self, operation: &OperationId) -> bool {
        let of_key = |key: &ApiKey| key.operations.as_ref().is_none_or(|all| all.binary_search(operation).is_ok());
        self.token.as_ref().is_none_or(|token| token.scope.binary_search(operation).is_ok())
            && self.key.is_none_or(of_key)
    }
}

/// Reads what the request brings, with a peer or, where it is only supposed, without.
pub(super) fn presented<'a>(
    snapshot: &Snapshot,
    record: &'a PartnerRecord,
    peer: Option<&Peer>,
    (request, situation): (&RequestFacts, &Situation<'_>),
    now: UnixNanos,
) -> Result<Presented<'a>, Refused> {
    let token = token_of(snapshot, record, peer, (request, situation), now)?;
    let key = key_of(snapshot, record, peer, (request, situation, token.as_deref()), now)?;
    Ok(Presented { token, key })
}

fn key_of<'a>(
    snapshot: &Snapshot,
    record: &'a PartnerRecord,
    peer: Option<&Peer>,
    (request, situation, token): (&RequestFacts, &Situation<'_>, Option<&AccessToken>),
    now: UnixNanos,
) -> Result<Option<&'a ApiKey>, Refused> {
    // What a token was given for counts whether keys are accepted here and now or not.
    let of_token = token.and_then(|token| token.api_key.as_ref());
    let of_token = of_token.map(|id| key_of_token(snapshot, record, peer, id, now)).transpose()?;
    let keys = snapshot.tokens.as_ref().and_then(|tokens| tokens.api_keys.as_ref());
    let wanted = situation.route.route().map_or(TokenUse::Accepted, |route| route.api_key);
    let Some(keys) = keys.filter(|_| wanted != TokenUse::Ignored) else {
        // Somebody who relies on what it narrows is not let through without, and no upstream gets it.
        return match &request.api_key {
            Brought::Text(text) if find_key(text.as_bytes()).is_some() => Err((vec![Reason::ApiKeyNotAccepted], None)),
            _ => Ok(of_token),
        };
    };
    let text = match &request.api_key {
        Brought::Text(_) if token.is_some() => return Err(both()),
        Brought::Text(text) => text,
        Brought::Unclear(why) => return Err(refused(Reason::ApiKeyAmbiguous, (*why).to_owned())),
        Brought::None if of_token.is_some() => return Ok(of_token),
        Brought::None if wanted == TokenUse::Required => return Err((vec![Reason::ApiKeyMissing], None)),
        Brought::None => return Ok(None),
    };
    if keys.settings.accepted_in == KeyUse::Exchange {
        return Err((vec![Reason::ApiKeyNotAccepted], None));
    }
    key_with(snapshot, keys, record, peer, text, now).map(Some)
}

fn both() -> Refused {
    refused(Reason::ApiKeyAmbiguous, "an access token and an API key: one of them is enough".to_owned())
}

/// The key that a token was given for, where it is good now.
pub(super) fn key_of_token<'a>(
    snapshot: &Snapshot,
    record: &'a PartnerRecord,
    peer: Option<&Peer>,
    id: &CredentialId,
    now: UnixNanos,
) -> Result<&'a ApiKey, Refused> {
    let key = find_api_key(record, id);
    let key = key.ok_or_else(|| refused(Reason::ApiKeyUnknown, format!("the token was given for `{id}`")))?;
    good(snapshot, key, peer, now)?;
    Ok(key)
}

/// The key that a text is, where it is good for this partner with this certificate now.
pub(super) fn key_with<'a>(
    snapshot: &Snapshot,
    keys: &ApiKeys,
    record: &'a PartnerRecord,
    peer: Option<&Peer>,
    text: &str,
    now: UnixNanos,
) -> Result<&'a ApiKey, Refused> {
    let hash = keys.read(text);
    let hash = hash.ok_or_else(|| refused(Reason::ApiKeyMalformed, "it is no key, or is mistyped".to_owned()))?;
    // What is looked up is a keyed hash: how long that takes says nothing of any key.
    let Some((owner, found)) = snapshot.registry.api_key(&hash) else {
        return Err(refused(Reason::ApiKeyUnknown, "no partner has this key".to_owned()));
    };
    if owner.partner.id != record.partner.id {
        return Err(refused(Reason::ApiKeyWrongPartner, format!("it is `{}` of `{}`", found.id, owner.partner.id)));
    }
    let own = find_api_key(record, &found.id).filter(|own| keys.is_same(&own.hash, &hash));
    let key = own.ok_or_else(|| refused(Reason::ApiKeyUnknown, "no partner has this key".to_owned()))?;
    good(snapshot, key, peer, now)?;
    Ok(key)
}

fn good(snapshot: &Snapshot, key: &ApiKey, peer: Option<&Peer>, now: UnixNanos) -> Result<(), Refused> {
    match key.stage(now) {
        CredentialStage::Revoked => return Err(refused(Reason::ApiKeyRevoked, format!("it is `{}`", key.id))),
        CredentialStage::Expired => return Err(refused(Reason::ApiKeyExpired, format!("it is `{}`", key.id))),
        CredentialStage::Active | CredentialStage::Retiring | CredentialStage::Pending => {}
    }
    if !key.environments.contains(&snapshot.environment) {
        return Err(refused(Reason::ApiKeyUnknown, format!("`{}` is of another environment", key.id)));
    }
    match peer.filter(|peer| !key.bound_to.is(&peer.leaf)) {
        Some(peer) => {
            let came = peer.leaf.fingerprint;
            let detail = format!("it is `{}`, bound to {}, and came with the certificate {came}", key.id, key.bound_to);
            Err(refused(Reason::ApiKeyWrongCertificate, detail))
        }
        None => Ok(()),
    }
}

fn refused(reason: Reason, detail: String) -> Refused {
    (vec![reason], Some(detail))
}
