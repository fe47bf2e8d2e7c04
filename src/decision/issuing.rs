//! What of a partner's live grants an access token is issued for, and which token a partner may revoke.
//!
//! Policy is not asked: a token opens nothing. It is asked on every request that comes with one, and there the floor and
//! the grants are looked at again.

use super::presented::{Narrowed, Presented, key_of_token, key_with};
use super::suppose::registered_floor;
use super::{Denial, Refused, Slot, Slots, Standing, standing};
use crate::clock::UnixNanos;
use crate::identity::Peer;
use crate::name::{CredentialId, GrantId, PartnerId, UpstreamName};
use crate::operation::OperationId;
use crate::partner::{CredentialStage, Denied, DeniedCertificate, Grant};
use crate::reason::Reason;
use crate::registry::{find_api_key, find_credential};
use crate::request::{Host, RequestFacts};
use crate::snapshot::Snapshot;
use crate::token::{Access, AccessToken, Form, Issued, NotIssued, Order, RevokedToken, find_key, spaced};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Operations that one token is for at most.
const MOST_OPERATIONS: usize = 500;
/// How often a token is exchanged for another at most.
const DEEPEST: usize = 3;
/// RFC 8693 section 2.1.
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// RFC 8693 section 3.
pub const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// An API key, as the type of a token (RFC 8693 section 3 leaves that to whoever issues one).
pub const API_KEY: &str = "urn:partnergate:token-type:api-key";
/// Tokens of one partner that are revoked and have not expired.
pub const MOST_REVOKED: usize = 100;

/// A token, and what it is for.
#[derive(Debug)]
pub struct Granted {
    pub token: Issued,
    /// Separated by spaces, as `scope` has it.
    pub scope: String,
    pub upstream: UpstreamName,
    pub grants: Vec<GrantId>,
    /// `jti` of the token, or the id of the API key, that it was exchanged from.
    pub from: Option<Arc<str>>,
    /// The API key that it was given for.
    pub api_key: Option<CredentialId>,
}

/// Why a request to the authorization server is refused.
#[derive(Debug)]
pub struct NotGranted {
    pub denial: Box<Denial>,
    /// For the client's developer, where there is more to say than the error itself does.
    pub said: Option<&'static str>,
}

impl NotGranted {
    /// For one reason, of an identity that stands.
    pub fn of(reason: Reason, detail: Option<String>, slots: &Slots) -> Self {
        NotGranted { denial: Box::new(Denial::of(reason, detail, slots)), said: None }
    }
}

struct No {
    refused: Refused,
    said: Option<&'static str>,
    stands: bool,
}

fn no(reason: Reason, said: &'static str) -> No {
    No { refused: (vec![reason], Some(said.to_owned())), said: Some(said), stands: true }
}

/// Whether who is there may ask for anything at all, so that nothing of what it sends needs to be read otherwise; `authorization`
/// where it says in that field who it is as well. With it comes the place for a record.
///
/// # Errors
/// What of the floor does not hold.
pub fn may_ask(
    snapshot: &Snapshot,
    peer: &Peer,
    request: &RequestFacts,
    authorization: bool,
    slots: &Slots,
) -> Result<Slot, NotGranted> {
    let asked = asking(snapshot, peer, (request.source, request.now)).and_then(|(who, _)| {
        if authorization {
            // More than one way to authenticate is none (RFC 6749 section 2.3).
            return Err(no(Reason::TokenClientNotAuthentic, ONE_WAY));
        }
        slots.reserve_for(who.partner()).ok_or_else(unrecorded)
    });
    asked.map_err(|no| refusal(no, slots))
}

const ONE_WAY: &str = "the client certificate is what authenticates, and nothing else";

/// Decides a request for an access token at this time (RFC 6749 section 4.4, RFC 8693). With it comes the place for its record.
///
/// # Errors
/// Why there is none.
pub fn decide_token(
    snapshot: &Snapshot,
    peer: &Peer,
    (request, now): (&RequestFacts, UnixNanos),
    form: Result<&Form, &'static str>,
    slots: &Slots,
) -> Result<(Granted, Slot), NotGranted> {
    let decided = asking(snapshot, peer, (request.source, now)).and_then(|(who, access)| {
        let form = authentic(&who, request, form)?;
        let subject = match form.get("grant_type") {
            Some("client_credentials") => Presented::default(),
            Some(EXCHANGE) => subject(snapshot, access, &who, form, request.source)?,
            Some(_) => return Err(no(Reason::TokenGrantTypeNotServed, "this grant_type is not served")),
            None => return Err(no(Reason::TokenRequestMalformed, "grant_type is missing")),
        };
        let wanted = wanted(snapshot, &who, form, &subject)?;
        // Before anything is signed, so that nothing is that no record could be kept of.
        let slot = slots.reserve_for(who.partner()).ok_or_else(unrecorded)?;
        Ok((signed(access, &who, wanted, &subject)?, slot))
    });
    decided.map_err(|no| refusal(no, slots))
}

/// Decides a request to revoke a token at this time (RFC 7009 section 2). There is none where what was sent is no token, or
/// not good any more: then there is nothing to do.
///
/// # Errors
/// Why it is refused.
pub fn decide_revocation(
    snapshot: &Snapshot,
    peer: &Peer,
    (request, now): (&RequestFacts, UnixNanos),
    form: Result<&Form, &'static str>,
    slots: &Slots,
) -> Result<(Option<RevokedToken>, Slot), NotGranted> {
    let decided = asking(snapshot, peer, (request.source, now)).and_then(|(who, access)| {
        let form = authentic(&who, request, form)?;
        let text = form.get("token").ok_or_else(|| no(Reason::TokenRequestMalformed, "token is missing"))?;
        if find_key(text).is_some() {
            return Err(no(Reason::TokenTypeNotRevoked, "an API key is revoked by your contact"));
        }
        let slot = slots.reserve_for(who.partner()).ok_or_else(unrecorded)?;
        // What is no token, or not good any more, is no error (section 2.2).
        let Ok(token) = access.verified(text, who.now) else { return Ok((None, slot)) };
        if token.partner != *who.partner() {
            let detail = format!("it is `{}` of `{}`", token.id, token.partner);
            let said = Some("the token is of another client");
            return Err(No { refused: (vec![Reason::TokenWrongPartner], Some(detail)), said, stands: true });
        }
        if access.revoked_of(who.partner(), who.now) >= MOST_REVOKED {
            let detail = format!("{MOST_REVOKED} of its tokens are revoked and have not expired");
            let refused = (vec![Reason::TokenRevocationLimit], Some(detail));
            return Err(No { refused, said: Some("too many tokens are revoked; try again later"), stands: true });
        }
        let (id, partner) = (token.id.to_string(), token.partner.clone());
        Ok((Some(RevokedToken { id, partner, expires: token.expires, revoked: who.now }), slot))
    });
    decided.map_err(|no| refusal(no, slots))
}

/// What an upstream is told of a token that is good now (RFC 7662 section 2.2).
pub struct Good {
    pub token: Arc<AccessToken>,
    /// What of its scope is still granted.
    pub scope: String,
}

/// A token as it stands, whoever has it: with what the registry says of its partner, credential and grants. Whether it comes
/// with the certificate that it is bound to, only who sees that one knows.
pub fn introspect(snapshot: &Snapshot, text: &str, now: UnixNanos) -> Option<Good> {
    let access = snapshot.tokens.as_ref()?.access.as_ref()?;
    let token = access.verified(text, now).ok()?;
    let registry = &snapshot.registry;
    let record = registry.partner(&token.partner)?;
    let credential = find_credential(record, &token.credential)?;
    registered_floor(snapshot, record, credential, now).ok()?;
    let key = match &token.api_key {
        Some(id) => {
            let key = find_api_key(record, id).filter(|key| key.environments.contains(&snapshot.environment))?;
            matches!(key.stage(now), CredentialStage::Active | CredentialStage::Retiring).then_some(Some(key))?
        }
        None => None,
    };
    let names_it = |denied: &Denied| match &denied.certificate {
        DeniedCertificate::Fingerprint(fingerprint) => *fingerprint == token.certificate,
        DeniedCertificate::Serial(serial) => *serial == token.serial,
    };
    if registry.anchor(&credential.anchor)?.denied.iter().any(names_it) {
        return None;
    }
    let presented = Presented { token: Some(token.clone()), key };
    let is_live = |grant: &&Grant| grant.is_live_for(&credential.id, now) && presented.has_grant(&grant.id);
    let live: Vec<&Grant> = record.grants_in(&snapshot.environment).filter(is_live).collect();
    let scope = token.scope.iter().filter(|operation| presented.has_operation(operation));
    let scope: Vec<&OperationId> = scope.filter(|o| live.iter().any(|grant| grant.covers(o))).collect();
    let scope = (!scope.is_empty()).then(|| spaced(&scope))?;
    Some(Good { token, scope })
}

fn unrecorded() -> No {
    No { refused: (vec![Reason::RecordUnavailable], None), said: None, stands: true }
}

fn refusal(no: No, slots: &Slots) -> NotGranted {
    let No { refused: (reasons, detail), said, stands: identity_stands } = no;
    NotGranted {
        denial: Box::new(Denial {
            reasons,
            detail,
            slot: slots.reserve(),
            identity_stands,
            narrowed: Narrowed::default(),
        }),
        said,
    }
}

fn asking<'a>(
    snapshot: &'a Snapshot,
    peer: &'a Peer,
    (source, now): (SocketAddr, UnixNanos),
) -> Result<(Standing<'a>, &'a Access), No> {
    let who = standing(snapshot, peer, now).map_err(|refused| No { refused, said: None, stands: false })?;
    // As for every call: what a stolen key is worth elsewhere is nothing.
    let networks = snapshot.registry.networks_of(source.ip());
    if !who.record.partner.networks.iter().any(|name| networks.contains(&name.as_str())) {
        return Err(No { refused: (vec![Reason::NetworkNotAllowed], None), said: None, stands: true });
    }
    let access = snapshot.tokens.as_ref().and_then(|tokens| tokens.access.as_ref());
    let gone = || No { refused: (vec![Reason::RouteUnknown], None), said: None, stands: true };
    Ok((who, access.ok_or_else(gone)?))
}

/// The certificate has authenticated the client; what else the request says of who it is must not say otherwise (RFC 8705
/// section 2).
fn authentic<'f>(
    who: &Standing<'_>,
    request: &RequestFacts,
    form: Result<&'f Form, &'static str>,
) -> Result<&'f Form, No> {
    let form = form.map_err(|said| no(Reason::TokenRequestMalformed, said))?;
    if request.canonical.query_pairs().next().is_some() {
        return Err(no(Reason::TokenRequestMalformed, "parameters are in the body, and not in the URL"));
    }
    let others = ["client_secret", "client_assertion", "client_assertion_type"];
    if others.iter().any(|name| form.get(name).is_some()) {
        return Err(no(Reason::TokenClientNotAuthentic, ONE_WAY));
    }
    match form.get("client_id") {
        None => Err(no(Reason::TokenRequestMalformed, "client_id is missing")),
        Some(id) if id != who.partner().as_str() => {
            Err(no(Reason::TokenClientNotAuthentic, "client_id is not the client of the certificate"))
        }
        Some(_) => Ok(form),
    }
}

/// The token, or the API key, that is exchanged for a token.
fn subject<'a>(
    snapshot: &Snapshot,
    access: &Access,
    who: &Standing<'a>,
    form: &Form,
    source: SocketAddr,
) -> Result<Presented<'a>, No> {
    let malformed = |said| no(Reason::TokenRequestMalformed, said);
    if ["actor_token", "actor_token_type"].iter().any(|name| form.get(name).is_some()) {
        return Err(malformed("actor_token is not served"));
    }
    if form.get("requested_token_type").is_some_and(|kind| kind != ACCESS_TOKEN) {
        return Err(malformed("requested_token_type is none that is issued"));
    }
    let text = form.get("subject_token").ok_or_else(|| malformed("subject_token is missing"))?;
    let keys = snapshot.tokens.as_ref().and_then(|tokens| tokens.api_keys.as_ref());
    match (form.get("subject_token_type"), keys) {
        (Some(ACCESS_TOKEN), _) => {}
        (Some(API_KEY), Some(keys)) => {
            let key = key_with(snapshot, keys, who.record, Some(who.peer), text, who.now).and_then(|key| {
                let networks = snapshot.registry.networks_of(source.ip());
                key.admits(&networks).then_some(key).ok_or((vec![Reason::NetworkNotAllowed], None))
            });
            let said = Some("the API key is not good with this certificate from here");
            let key = key.map_err(|refused| No { refused, said, stands: true })?;
            return Ok(Presented { token: None, key: Some(key) });
        }
        (Some(_), _) => return Err(malformed("subject_token_type is none that is exchanged")),
        (None, _) => return Err(malformed("subject_token_type is missing")),
    }
    let not_good = |reason: Reason, detail: String| No {
        refused: (vec![reason], Some(detail)),
        said: Some(NOT_GOOD),
        stands: true,
    };
    let token = access.verified(text, who.now).map_err(|(reason, detail)| not_good(reason, detail.to_owned()))?;
    if token.partner != *who.partner() {
        return Err(not_good(Reason::TokenWrongPartner, format!("it is `{}` of `{}`", token.id, token.partner)));
    }
    if token.certificate != who.peer.leaf.fingerprint {
        let detail = format!("it is `{}`, bound to {}", token.id, token.certificate);
        return Err(not_good(Reason::TokenWrongCertificate, detail));
    }
    if token.from.len() >= DEEPEST {
        return Err(malformed("the subject_token was exchanged too often"));
    }
    let key = match &token.api_key {
        Some(id) => Some(key_of_token(snapshot, who.record, Some(who.peer), id, who.now).map_err(|refused| No {
            refused,
            said: Some(NOT_GOOD),
            stands: true,
        })?),
        None => None,
    };
    Ok(Presented { token: Some(token), key })
}

const NOT_GOOD: &str = "the subject_token is not good with this certificate";

/// What a token is to be for.
struct Wanted<'a> {
    upstream: &'a UpstreamName,
    scope: Vec<&'a OperationId>,
    grants: Vec<&'a Grant>,
}

/// Never more than `subject` is for.
fn wanted<'a>(
    snapshot: &'a Snapshot,
    who: &Standing<'a>,
    form: &Form,
    subject: &Presented<'_>,
) -> Result<Wanted<'a>, No> {
    let is_live = |grant: &&Grant| subject.has_grant(&grant.id) && grant.is_live_for(&who.credential.id, who.now);
    let live: Vec<&Grant> = who.record.grants_in(&snapshot.environment).filter(is_live).collect();
    let mut by_upstream: BTreeMap<&UpstreamName, BTreeSet<&OperationId>> = BTreeMap::new();
    for operation in live.iter().flat_map(|grant| &grant.operations) {
        // One that is in no document any more is nothing that could be called.
        if let (Some((id, upstream)), true) = (upstream_of(snapshot, operation), subject.has_operation(operation)) {
            by_upstream.entry(upstream).or_default().insert(id);
        }
    }
    // A subject's scope was of one upstream; its operations may be of another by now.
    if let Some(token) = &subject.token {
        by_upstream.retain(|upstream, _| **upstream == token.upstream);
    }
    let target = target(snapshot, form)?;
    // Not granted and not there are told alike.
    if target.is_some_and(|target| !by_upstream.keys().any(|upstream| upstream.as_str() == target)) {
        return Err(no(Reason::TokenTargetUnknown, NO_TARGET));
    }
    let asked: Option<BTreeSet<&str>> =
        form.get("scope").map(|scope| scope.split(' ').filter(|s| !s.is_empty()).collect());
    let empty = || no(Reason::TokenScopeEmpty, "nothing of this scope is granted now");
    if let Some(asked) = &asked {
        for operations in by_upstream.values_mut() {
            operations.retain(|operation| asked.contains(operation.as_str()));
        }
        by_upstream.retain(|_, operations| !operations.is_empty());
    }
    if let Some(target) = target {
        by_upstream.retain(|upstream, _| upstream.as_str() == target);
    }
    if by_upstream.len() > 1 {
        // RFC 9068 section 3.
        return Err(match asked {
            Some(_) => no(Reason::TokenScopeEmpty, "the scope is of several upstreams: ask for one token for each"),
            None => no(Reason::TokenTargetUnknown, "several upstreams are granted: name one in audience"),
        });
    }
    let (upstream, scope) = by_upstream.into_iter().next().ok_or_else(empty)?;
    if scope.len() > MOST_OPERATIONS {
        return Err(no(Reason::TokenScopeEmpty, TOO_MUCH));
    }
    let grants: Vec<&Grant> =
        live.into_iter().filter(|grant| scope.iter().any(|operation| grant.covers(operation))).collect();
    Ok(Wanted { upstream, scope: scope.into_iter().collect(), grants })
}

const NO_TARGET: &str = "audience is the name of an upstream that is granted, resource an address of one";
const TOO_MUCH: &str = "more is granted than a token holds: name what is needed in scope";

fn upstream_of<'a>(snapshot: &'a Snapshot, operation: &OperationId) -> Option<(&'a OperationId, &'a UpstreamName)> {
    let (known, route) = (snapshot.operations.get(operation)?, snapshot.operations.route_of(operation)?);
    let route = snapshot.routes.iter().find(|candidate| candidate.operations == Some(route))?;
    Some((&known.id, &route.upstream))
}

/// The upstream that `audience` names (RFC 8693 section 2.1), or the one behind the address in `resource` (RFC 8707
/// section 2).
fn target<'f>(snapshot: &'f Snapshot, form: &'f Form) -> Result<Option<&'f str>, No> {
    let unknown = || no(Reason::TokenTargetUnknown, NO_TARGET);
    let behind = |resource: &str| {
        let rest = resource.strip_prefix("https://")?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let host = Host::parse(host).ok()?;
        if path.contains(['?', '#']) {
            return None;
        }
        Some(snapshot.routes.find(&host, path).route()?.upstream.as_str())
    };
    let mut named = BTreeSet::new();
    for audience in form.all("audience") {
        let known = snapshot.routes.iter().find(|route| route.upstream.as_str() == audience);
        named.insert(known.ok_or_else(unknown)?.upstream.as_str());
    }
    for resource in form.all("resource") {
        named.insert(behind(resource).ok_or_else(unknown)?);
    }
    if named.len() > 1 {
        return Err(no(Reason::TokenTargetUnknown, "a token is for one upstream"));
    }
    Ok(named.into_iter().next())
}

fn signed(access: &Access, who: &Standing<'_>, wanted: Wanted<'_>, subject: &Presented<'_>) -> Result<Granted, No> {
    let Wanted { upstream, scope, mut grants } = wanted;
    grants.sort_by(|a, b| a.id.cmp(&b.id));
    let ids: Vec<&GrantId> = grants.iter().map(|grant| &grant.id).collect();
    let ends = grants.iter().filter_map(|grant| grant.period.ends);
    let ends = ends.chain(subject.token.as_ref().map(|token| token.expires)).chain(subject.key.map(|key| key.ends));
    let until = ends.fold(who.until(), std::cmp::Ord::min);
    let partner: &PartnerId = who.partner();
    let (certificate, credential) = (&who.peer.leaf, &who.credential.id);
    let (from, api_key) = (subject.token.as_deref(), subject.key.map(|key| &key.id));
    let order = Order { partner, upstream, scope: &scope, grants: &ids, certificate, credential, until, from, api_key };
    let token = access.issue(&order, who.now).map_err(|why| match why {
        NotIssued::NoTime => no(Reason::TokenScopeEmpty, "what is granted ends now"),
        NotIssued::TooLong => no(Reason::TokenScopeEmpty, TOO_MUCH),
        NotIssued::Failed(why) => No { refused: (vec![Reason::Internal], Some(why)), said: None, stands: true },
    })?;
    let grants = ids.into_iter().cloned().collect();
    let from = from.map(|token| token.id.clone()).or_else(|| api_key.map(|id| id.as_str().into()));
    Ok(Granted { from, api_key: api_key.cloned(), token, scope: spaced(&scope), upstream: upstream.clone(), grants })
}
