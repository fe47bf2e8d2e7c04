//! Allow or deny for one request: the floor, then policy, then the check that policy only narrowed.
//!
//! In: a snapshot, a peer, a request's facts, a place for the record. Out: a [`Decision`]. Must never: allow without a
//! grant, a live identity and a place for the record; block, lock or do I/O. [`Permit`] has no public constructor.

mod bearer;
mod issuing;
mod presented;
mod slots;
mod suppose;

pub use issuing::{
    ACCESS_TOKEN, Good, Granted, MOST_REVOKED, NotGranted, decide_revocation, decide_token, introspect, may_ask,
};
pub use presented::Narrowed;
pub use slots::{Slot, Slots, WhenFull};
pub use suppose::{Supposed, Supposition, suppose};

use crate::clock::UnixNanos;
use crate::identity::{MatchKind, Peer, Svid};
use crate::name::{GrantId, PartnerId, UpstreamName};
use crate::operation::{Operation, OperationId, Resolved, RouteId};
use crate::partner::{Credential, CredentialState, Grant, PartnerRecord, PartnerState, Phase};
use crate::policy::{Facts, LastVerdict, Policy, Verdict};
use crate::reason::Reason;
use crate::registry::{Resolution, find_grant};
use crate::request::{CanonicalRequest, RequestFacts, UpgradeWanted};
use crate::route::{Found, Route};
use crate::snapshot::Snapshot;
use presented::{Presented, presented};
use std::sync::Arc;

/// The outcome, with the place for its record.
#[derive(Debug)]
pub enum Decision {
    Allow(Permit),
    Deny(Denial),
}

/// The proof of an allowed decision: what alone opens the way to the upstream.
#[derive(Debug)]
pub struct Permit {
    partner: PartnerId,
    grant: GrantId,
    operation: OperationId,
    upstream: UpstreamName,
    until: UnixNanos,
    observed: Vec<Reason>,
    narrowed: Narrowed,
    slot: Slot,
}

impl Permit {
    pub fn partner(&self) -> &PartnerId {
        &self.partner
    }

    pub fn grant(&self) -> &GrantId {
        &self.grant
    }

    pub fn operation(&self) -> &OperationId {
        &self.operation
    }

    pub fn upstream(&self) -> &UpstreamName {
        &self.upstream
    }

    /// When the clock alone ends what was allowed: certificate, engagement, grant, access token or API key, whichever is
    /// first.
    pub fn until(&self) -> UnixNanos {
        self.until
    }

    /// Custom denials that do not count, because the partner is only observed.
    pub fn observed(&self) -> &[Reason] {
        &self.observed
    }

    /// The access token and the API key that it rests on as well.
    pub fn narrowed(&self) -> &Narrowed {
        &self.narrowed
    }

    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Ends the permit and gives its place to the record.
    pub fn into_slot(self) -> Slot {
        self.slot
    }
}

/// A refusal with its reasons.
#[derive(Debug)]
pub struct Denial {
    /// By precedence, never empty; the first decides what the partner is told.
    pub reasons: Vec<Reason>,
    /// For the operator.
    pub detail: Option<String>,
    /// `None` when there was no place: the loss is counted by whoever hands out places.
    pub slot: Option<Slot>,
    /// Whether the floor carries the identity, so that another request of it could be allowed.
    pub identity_stands: bool,
    /// The access token and the API key that it came with, where they are good.
    pub narrowed: Narrowed,
}

impl Denial {
    /// For one reason, of an identity that stands.
    fn of(reason: Reason, detail: Option<String>, slots: &Slots) -> Self {
        Denial {
            reasons: vec![reason],
            detail,
            slot: slots.reserve(),
            identity_stands: true,
            narrowed: Narrowed::default(),
        }
    }

    pub fn reason(&self) -> &Reason {
        self.reasons.first().unwrap_or(&Reason::Internal)
    }
}

/// What a snapshot says about who and what a request is, before anything is decided. The same snapshot and request
/// always give the same situation, so it is worked out once more for the record and not kept.
pub struct Situation<'a> {
    pub resolution: Resolution<'a>,
    /// Names of the networks that hold the source address, sorted.
    pub networks: Vec<&'a str>,
    pub route: Found<'a>,
    pub operation: Option<Resolved<'a, 'a>>,
}

impl<'a> Situation<'a> {
    pub fn of(snapshot: &'a Snapshot, peer: &Peer, request: &'a RequestFacts) -> Self {
        Self::as_of(snapshot, snapshot.registry.resolve(peer), request)
    }

    fn as_of(snapshot: &'a Snapshot, resolution: Resolution<'a>, request: &'a RequestFacts) -> Self {
        let route = snapshot.routes.find(&request.canonical.host, &request.canonical.path);
        let operation = match route {
            Found::Route(route) => route.operations.and_then(|id| operation_of(snapshot, id, &request.canonical)),
            Found::NoPath | Found::NoHost => None,
        };
        Situation { resolution, networks: snapshot.registry.networks_of(request.source.ip()), route, operation }
    }

    pub fn partner(&self) -> Option<(&'a Arc<PartnerRecord>, &'a Credential)> {
        match self.resolution {
            Resolution::Known { record, credential, .. } => Some((record, credential)),
            _ => None,
        }
    }
}

/// The operation of a request. Where the path has another spelling (`%3A` for `:`) and a server that reads it so would
/// run another operation, it is none.
fn operation_of<'a>(
    snapshot: &'a Snapshot,
    route: RouteId,
    canonical: &'a CanonicalRequest,
) -> Option<Resolved<'a, 'a>> {
    let method = canonical.method.as_str();
    let resolved = snapshot.operations.resolve(route, method, &canonical.path)?;
    if let Some(other) = canonical.other_spelling() {
        let same =
            snapshot.operations.resolve(route, method, &other).is_some_and(|o| o.operation.id == resolved.operation.id);
        if !same {
            return None;
        }
    }
    Some(resolved)
}

/// Decides one request.
pub fn decide(snapshot: &Snapshot, peer: &Peer, request: &RequestFacts, slots: &Slots) -> Decision {
    let situation = Situation::of(snapshot, peer, request);
    let deny = |(reasons, detail): Refused, identity_stands, narrowed| {
        Decision::Deny(Denial { reasons, detail, slot: slots.reserve(), identity_stands, narrowed })
    };
    let who = match standing_as(snapshot, peer, request.now, &situation.resolution) {
        Ok(who) => who,
        Err(refused) => return deny(refused, false, Narrowed::default()),
    };
    let presented = match who.presented(request, &situation) {
        Ok(presented) => presented,
        Err(refused) => return deny(refused, true, Narrowed::default()),
    };
    let decided = |facts: &Facts<'_>| snapshot.policy.decide(facts, &snapshot.values);
    match judge(&who, request, &situation, &presented, decided) {
        Err(refused) => deny(refused, true, presented.narrowed()),
        Ok(allowed) => match slots.reserve_for(&allowed.partner) {
            Some(slot) => Decision::Allow(Permit {
                partner: allowed.partner,
                grant: allowed.grant,
                operation: allowed.operation,
                upstream: allowed.upstream,
                until: allowed.until,
                observed: allowed.observed,
                narrowed: presented.narrowed(),
                slot,
            }),
            None => deny((vec![Reason::RecordUnavailable], None), true, presented.narrowed()),
        },
    }
}

/// What would be decided were this the policy, on the same snapshot otherwise. Opens nothing, and keeps no place for a record.
///
/// # Errors
/// The reasons for which it would be denied, and the detail for the operator.
pub fn decide_under(
    policy: &Policy,
    snapshot: &Snapshot,
    peer: &Peer,
    request: &RequestFacts,
) -> Result<GrantId, Refused> {
    let situation = Situation::of(snapshot, peer, request);
    let who = standing_as(snapshot, peer, request.now, &situation.resolution)?;
    let presented = who.presented(request, &situation)?;
    let decided = |facts: &Facts<'_>| policy.decide(facts, &snapshot.values);
    judge(&who, request, &situation, &presented, decided).map(|allowed| allowed.grant)
}

/// Whom the floor carries at `now`, whatever is asked for.
///
/// # Errors
/// What of the floor does not hold, and the detail for the operator.
pub fn standing<'a>(snapshot: &'a Snapshot, peer: &'a Peer, now: UnixNanos) -> Result<Standing<'a>, Refused> {
    standing_as(snapshot, peer, now, &snapshot.registry.resolve(peer))
}

fn standing_as<'a>(
    snapshot: &'a Snapshot,
    peer: &'a Peer,
    now: UnixNanos,
    resolution: &Resolution<'a>,
) -> Result<Standing<'a>, Refused> {
    floor(snapshot, peer, now, resolution).map_err(|reason| {
        let detail = match reason {
            Reason::IdentityAmbiguous => Some(format!("it is {}", matching(snapshot, peer))),
            Reason::AnchorNotBound => {
                Some(format!("it is {}, and comes under the anchor `{}`", matching(snapshot, peer), peer.anchor))
            }
            _ => None,
        };
        (vec![reason], detail)
    })
}

/// Whose certificate this is, for the operator who has to sort it out.
fn matching(snapshot: &Snapshot, peer: &Peer) -> String {
    let all = snapshot.registry.matching(peer);
    let shown = all.iter().map(|(record, credential, kind)| {
        format!("`{}` of `{}` by {}", credential.id, record.partner.id, kind.as_str())
    });
    shown.collect::<Vec<_>>().join(" and ")
}

/// Somebody whom the floor carries at one moment.
pub struct Standing<'a> {
    snapshot: &'a Snapshot,
    peer: &'a Peer,
    now: UnixNanos,
    record: &'a Arc<PartnerRecord>,
    credential: &'a Credential,
    until: UnixNanos,
}

impl<'a> Standing<'a> {
    pub fn partner(&self) -> &PartnerId {
        &self.record.partner.id
    }

    /// When the clock ends it.
    pub fn until(&self) -> UnixNanos {
        self.until
    }

    /// Decides a request that was allowed and still goes on as it would be decided now. Returns until when the clock
    /// lets it go on. `last` spares policy what it was asked just before.
    ///
    /// # Errors
    /// The reasons for which it would be denied, and the detail for the operator.
    pub fn decide_again(&self, request: &RequestFacts, last: &mut LastVerdict) -> Result<UnixNanos, Refused> {
        let situation = Situation::of(self.snapshot, self.peer, request);
        let Snapshot { policy, values, .. } = self.snapshot;
        let presented = self.presented(request, &situation)?;
        let decided = |facts: &Facts<'_>| policy.decide_unless_same(facts, values, last);
        judge(self, request, &situation, &presented, decided).map(|a| a.until)
    }

    /// The access token and the API key that a request of it comes with.
    fn presented(&self, request: &RequestFacts, situation: &Situation<'_>) -> Result<Presented<'a>, Refused> {
        presented(self.snapshot, self.record, Some(self.peer), (request, situation), self.now)
    }
}

struct Allowed {
    partner: PartnerId,
    grant: GrantId,
    operation: OperationId,
    upstream: UpstreamName,
    until: UnixNanos,
    observed: Vec<Reason>,
}

/// Reasons by precedence, and the detail for the operator.
pub type Refused = (Vec<Reason>, Option<String>);

/// What comes after the floor.
fn judge(
    who: &Standing<'_>,
    request: &RequestFacts,
    situation: &Situation<'_>,
    presented: &Presented<'_>,
    policy: impl FnOnce(&Facts<'_>) -> Verdict,
) -> Result<Allowed, Refused> {
    let Standing { snapshot, peer, now, record, credential, until } = *who;
    let facts = facts_of(snapshot, (record, credential), Some(peer), (request, presented), situation, now);
    let mut allowed = judge_facts(snapshot, &facts, situation, policy)?;
    allowed.until = allowed.until.min(until);
    Ok(allowed)
}

fn facts_of<'a>(
    snapshot: &'a Snapshot,
    (record, credential): (&'a Arc<PartnerRecord>, &'a Credential),
    peer: Option<&'a Peer>,
    (request, presented): (&'a RequestFacts, &'a Presented<'a>),
    situation: &'a Situation<'a>,
    now: UnixNanos,
) -> Facts<'a> {
    Facts {
        environment: &snapshot.environment,
        record,
        credential,
        peer,
        networks: &situation.networks,
        operation: situation.operation.as_ref(),
        route: situation.route.route().map(|r| r.name.as_str()),
        request,
        token: presented.token.as_deref(),
        api_key: presented.key,
        now,
    }
}

fn judge_facts(
    snapshot: &Snapshot,
    facts: &Facts<'_>,
    situation: &Situation<'_>,
    policy: impl FnOnce(&Facts<'_>) -> Verdict,
) -> Result<Allowed, Refused> {
    let Facts { record, credential, request, token, api_key, now, .. } = *facts;
    let one = |reason: Reason| (vec![reason], None);
    if situation.route == Found::NoHost {
        return Err(one(Reason::HostMismatch));
    }
    let (Some(route), Some(resolved)) = (situation.route.route(), &situation.operation) else {
        // Policy is asked all the same, so that the time of the answer does not tell which operations there are.
        let _ = policy(facts);
        let reason = if situation.route == Found::NoPath { Reason::RouteUnknown } else { Reason::OperationUnknown };
        return Err(one(reason));
    };
    let operation = resolved.operation;
    upgrade_is_served(operation, &request.upgrade).map_err(one)?;
    match policy(facts) {
        Verdict::Allow { grant, observed } => {
            let allowed = check_grant(snapshot, record, credential, operation, route, &grant, now)?;
            if token.is_some_and(|token| !token.covers(&allowed.operation, &allowed.grant)) {
                return Err(one(Reason::TokenScopeExceeded));
            }
            if api_key.is_some_and(|key| !key.covers(&allowed.operation, &allowed.grant)) {
                return Err(one(Reason::ApiKeyScopeExceeded));
            }
            if api_key.is_some_and(|key| !key.admits(&situation.networks)) {
                return Err(one(Reason::NetworkNotAllowed));
            }
            let ends = token.map(|token| token.expires).into_iter().chain(api_key.map(|key| key.ends));
            Ok(Allowed { until: ends.fold(allowed.until, UnixNanos::min), observed, ..allowed })
        }
        Verdict::Deny { mut reasons, detail } => {
            if reasons.contains(&Reason::OperationNotGranted) {
                reasons.extend(granted_otherwise(snapshot, record, operation));
                reasons.sort();
            }
            Err((reasons, detail))
        }
    }
}

/// The checks that no policy can open.
fn floor<'a>(
    snapshot: &'a Snapshot,
    peer: &'a Peer,
    now: UnixNanos,
    resolution: &Resolution<'a>,
) -> Result<Standing<'a>, Reason> {
    if snapshot.registry.is_locked(&peer.anchor) {
        return Err(Reason::Lockdown);
    }
    let anchor = snapshot.trust.still_good(peer, now)?;
    let (record, credential) = match resolution {
        Resolution::Known { record, credential, matched_by } => {
            check_trust_domain(snapshot, peer, *matched_by)?;
            (*record, *credential)
        }
        Resolution::Unknown => return Err(Reason::IdentityUnknown),
        Resolution::Ambiguous => return Err(Reason::IdentityAmbiguous),
        Resolution::AnchorNotBound => return Err(Reason::AnchorNotBound),
    };
    if !anchor.environments.contains(&snapshot.environment) || !credential.environments.contains(&snapshot.environment)
    {
        return Err(Reason::WrongEnvironment);
    }
    if now < peer.leaf.not_before {
        return Err(Reason::CredentialNotYetValid);
    }
    if now >= peer.leaf.not_after {
        return Err(Reason::CredentialExpired);
    }
    let until = registered(record, credential, now)?;
    let until = until.into_iter().fold(snapshot.trust.good_until(peer, anchor), UnixNanos::min);
    Ok(Standing { snapshot, peer, now, record, credential, until })
}

/// What of the floor is about the registry alone. Returns when the clock ends it.
fn registered(record: &PartnerRecord, credential: &Credential, now: UnixNanos) -> Result<Option<UnixNanos>, Reason> {
    // Its credentials are revoked as well; that it is over says more.
    if record.partner.is_closed() {
        return Err(Reason::EngagementEnded);
    }
    if credential.state != CredentialState::Active {
        return Err(Reason::CredentialNotActive);
    }
    if credential.ends.is_some_and(|ends| now >= ends) {
        return Err(Reason::CredentialEnded);
    }
    if record.partner.standing() != PartnerState::Active {
        return Err(Reason::PartnerNotActive);
    }
    let engagement = record.partner.engaged();
    match engagement.phase(now) {
        Phase::Live => Ok([engagement.ends, credential.ends].into_iter().flatten().min()),
        Phase::NotStarted => Err(Reason::EngagementNotStarted),
        Phase::Ended => Err(Reason::EngagementEnded),
    }
}

/// A SPIFFE ID is passed on and believed. Where a bundle vouches for its trust domain, another CA may issue it only
/// for a credential that was registered with this ID or for this very certificate.
fn check_trust_domain(snapshot: &Snapshot, peer: &Peer, matched_by: MatchKind) -> Result<(), Reason> {
    let Svid::Of(id) = peer.leaf.svid() else { return Ok(()) };
    match snapshot.trust.anchor_of_domain(id.trust_domain) {
        Some(anchor) if *anchor != peer.anchor && !matches!(matched_by, MatchKind::Uri | MatchKind::Fingerprint) => {
            Err(Reason::TrustDomainNotVouched)
        }
        _ => Ok(()),
    }
}

fn upgrade_is_served(operation: &Operation, wanted: &UpgradeWanted) -> Result<(), Reason> {
    match (wanted, &operation.upgrade) {
        (UpgradeWanted::No, _) => Ok(()),
        (UpgradeWanted::To(wanted), Some(served)) if wanted == served => Ok(()),
        (UpgradeWanted::To(_) | UpgradeWanted::Unclear, _) => Err(Reason::UpgradeNotAllowed),
    }
}

/// Policy can only narrow: the grant that it names must be this partner's, of this environment, live, for this
/// operation, and for this credential or any.
fn check_grant(
    snapshot: &Snapshot,
    record: &PartnerRecord,
    credential: &Credential,
    operation: &Operation,
    route: &Route,
    named: &str,
    now: UnixNanos,
) -> Result<Allowed, Refused> {
    let refuse = |why: &str| {
        let detail = format!(
            "policy named the grant `{}`, which {why}",
            named.chars().take(64).collect::<String>().escape_debug()
        );
        Err((vec![Reason::GrantNotValid], Some(detail)))
    };
    let Some(grant) = find_grant(record, named) else { return refuse("is not a grant of this partner") };
    if !grant.environments.contains(&snapshot.environment) {
        return Err((vec![Reason::WrongEnvironment], None));
    }
    if grant.revoked.is_some() {
        return refuse("was revoked");
    }
    if !grant.covers(&operation.id) {
        return refuse("does not cover this operation");
    }
    if grant.period.phase(now) != Phase::Live {
        return refuse("is not live");
    }
    if grant.credentials.as_ref().is_some_and(|list| !list.contains(&credential.id)) {
        return refuse("is for other credentials");
    }
    Ok(Allowed {
        partner: record.partner.id.clone(),
        grant: grant.id.clone(),
        operation: operation.id.clone(),
        upstream: route.upstream.clone(),
        until: grant.period.ends.unwrap_or(UnixNanos(i64::MAX)),
        observed: Vec::new(),
    })
}

/// Why a grant that covers the operation is none here and now.
fn granted_otherwise(snapshot: &Snapshot, record: &PartnerRecord, operation: &Operation) -> Option<Reason> {
    let mut covering = record.grants.iter().filter(|g| g.covers(&operation.id));
    let here = |g: &Grant| g.environments.contains(&snapshot.environment);
    covering
        .clone()
        .any(|g| here(g) && g.revoked.is_some())
        .then_some(Reason::GrantRevoked)
        .or_else(|| covering.any(|g| !here(g)).then_some(Reason::WrongEnvironment))
}

#[cfg(test)]
mod tests;
