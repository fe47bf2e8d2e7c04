//! What a request would come to that nobody has sent: for whoever asks why.
//!
//! In: a snapshot, who would come, what would be asked. Out: a [`Supposition`]. Must never: open anything, take a place for a
//! record, or leave anything in what real requests use.

use super::presented::{Presented, presented};
use super::{Refused, Situation, facts_of, judge_facts, registered, standing};
use crate::clock::UnixNanos;
use crate::identity::Peer;
use crate::name::GrantId;
use crate::partner::{Credential, PartnerRecord};
use crate::policy::{InputPlan, ValueCache, Wanted};
use crate::reason::Reason;
use crate::registry::Resolution;
use crate::request::RequestFacts;
use crate::snapshot::Snapshot;
use regorus::Value;
use std::sync::Arc;

/// Who would come.
#[derive(Clone, Copy)]
pub enum Supposed<'a> {
    /// With this certificate.
    Peer(&'a Peer),
    /// With a certificate of this credential, whichever: what the floor asks of certificates is left out.
    Credential(&'a Arc<PartnerRecord>, &'a Credential),
}

/// What it would come to.
pub struct Supposition {
    /// What of the floor does not hold: then nothing else is asked.
    pub floor: Result<(), Refused>,
    /// What comes after the floor, whether that holds or not; `None` where nobody knows who it is.
    pub rest: Option<Result<GrantId, Refused>>,
    /// All facts, as policy would see them.
    pub input: Option<Value>,
}

impl Supposition {
    /// Why a real request would be denied.
    pub fn denial(&self) -> Option<&Refused> {
        self.floor.as_ref().err().or_else(|| self.rest.as_ref()?.as_ref().err())
    }

    /// What a real request would be allowed by.
    pub fn grant(&self) -> Option<&GrantId> {
        self.floor.as_ref().ok().and_then(|()| self.rest.as_ref()?.as_ref().ok())
    }
}

/// Supposes that somebody sends a request.
pub fn suppose(snapshot: &Snapshot, who: Supposed<'_>, request: &RequestFacts) -> Supposition {
    let now = request.now;
    let (situation, floor, known, peer) = match who {
        Supposed::Peer(peer) => {
            let situation = Situation::of(snapshot, peer, request);
            let floor = standing(snapshot, peer, now).map(|_| ());
            let known = situation.partner();
            (situation, floor, known, Some(peer))
        }
        Supposed::Credential(record, credential) => {
            let floor = registered_floor(snapshot, record, credential, now).map_err(|reason| (vec![reason], None));
            (Situation::as_of(snapshot, Resolution::Unknown, request), floor, Some((record, credential)), None)
        }
    };
    let Some(known) = known else { return Supposition { floor, rest: None, input: None } };
    let (presented, floor) = match presented(snapshot, known.0, peer, (request, &situation), now) {
        Ok(presented) => (presented, floor),
        Err(refused) => (Presented::default(), floor.and(Err(refused))),
    };
    let facts = facts_of(snapshot, known, peer, (request, &presented), &situation, now);
    // Its own, so that nothing of this is found by real requests.
    let cache = ValueCache::new(snapshot.environment.clone(), 1);
    let input = facts.value(&InputPlan::of(&Wanted::everything()), &cache);
    let rest = judge_facts(snapshot, &facts, &situation, |_| snapshot.policy.evaluate(input.clone()));
    let rest = rest.map(|allowed| allowed.grant);
    Supposition { floor, rest: Some(rest), input: Some(input) }
}

/// The floor without what it asks of a certificate, in the same order.
pub(super) fn registered_floor(
    snapshot: &Snapshot,
    record: &PartnerRecord,
    credential: &Credential,
    now: UnixNanos,
) -> Result<(), Reason> {
    let registry = &snapshot.registry;
    if registry.is_locked(&credential.anchor) {
        return Err(Reason::Lockdown);
    }
    if !registry.may_speak_for(&credential.anchor, &record.partner.id) {
        return Err(Reason::AnchorNotBound);
    }
    let anchor = registry.anchor(&credential.anchor);
    let here = anchor.is_some_and(|anchor| anchor.environments.contains(&snapshot.environment));
    if !here || !credential.environments.contains(&snapshot.environment) {
        return Err(Reason::WrongEnvironment);
    }
    registered(record, credential, now).map(|_| ())
}
