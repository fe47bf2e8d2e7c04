//! What applying a declaration would change: computed first, shown, then done all or nothing.

use super::Places;
use super::declaration::Declaration;
use super::export::partner_document;
use crate::approval::{key_permits_more, permits_more};
use crate::clock::UnixNanos;
use crate::document::Problems;
use crate::history::middles;
use crate::name::{CredentialId, PartnerId};
use crate::operation::{OperationId, Operations};
use crate::partner::{
    Anchor, ApiKey, Credential, CredentialState, Denied, Grant, Network, Partner, PartnerRecord, Provenance, Retiring,
};
use crate::registry::{Change, Compact, Registry, find_api_key, find_credential, find_grant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Names that a line shows; of more it says how many.
const SHOWN: usize = 20;

/// What may be done beyond adding and changing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PlanOptions {
    /// Remove what the files do not declare.
    #[serde(default)]
    pub prune: bool,
    /// Let unchanged patterns of grants cover operations that have appeared since.
    #[serde(default)]
    pub widen: bool,
    /// A partner was edited as it is, so that what is not written any more is meant to go.
    #[serde(skip)]
    pub edited: bool,
    /// An empty database is filled: what operators have decided elsewhere is taken over.
    #[serde(skip)]
    pub import: bool,
}

/// One line of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanLine {
    /// `create`, `change`, `remove`; `request` and `waits` for what somebody else approves; `would-widen`; `keep` for
    /// what files do not bring back.
    pub action: String,
    /// `partner`, `network`, `anchor` or `grant`.
    pub noun: String,
    pub id: String,
    /// What changes, for people.
    pub detail: String,
}

/// Changes, and what they lead to.
pub struct Plan {
    pub changes: Vec<Change>,
    /// Grants whose patterns mean more than they did, and partners that have ended for good.
    pub notes: Vec<PlanLine>,
    /// The registry with the changes in it, one revision on.
    pub next: Registry,
    /// Where what it came from is written.
    pub places: Places,
}

/// Compares a declaration with the registry and expands its grants with the operations of the live config. Grants that
/// permit more than they did come from `provenance`, where nobody else has to approve them.
///
/// # Errors
/// Grants whose operations do not exist, and everything that would not be consistent, each at the place where it is
/// written.
pub fn plan(
    declaration: Declaration,
    registry: &Registry,
    operations: &Operations,
    options: PlanOptions,
    provenance: Option<&Arc<Provenance>>,
    now: UnixNanos,
) -> Result<Plan, Problems> {
    let mut problems = Problems::new();
    let mut draft = Draft::default();
    if options.prune {
        draft.prune(&declaration, registry, &mut problems);
    }
    for network in declaration.networks {
        let old = registry.network(&network.name);
        if old.map(|o| &**o) != Some(&network) {
            draft.changes.push(Change::Network(network.name.clone(), Some(network)));
        }
    }
    for mut anchor in declaration.anchors {
        let old = registry.anchor(&anchor.name);
        keep_denied(&mut anchor, old.map(|o| &**o));
        if old.map(|o| &**o) != Some(&anchor) {
            draft.changes.push(Change::Anchor(anchor.name.clone(), Some(anchor)));
        }
    }
    let mut compact = Compact::default();
    for mut record in declaration.partners {
        let id = record.partner.id.clone();
        let old = registry.partner(&id);
        if let Some(old) = old.filter(|old| old.partner.is_closed()) {
            let at = old.partner.engaged().ends.map(|at| at.to_string()).unwrap_or_default();
            if options.edited {
                let fix = "a new engagement is a new partner, with an id of its own";
                problems.registry(format!("partners.{id}"), format!("has ended at {at} for good"), Some(fix));
            } else if partner_document(old) != partner_document(&record) {
                let detail = format!("has ended at {at}, and files do not bring it back; take it out of them");
                draft.notes.push(PlanLine {
                    action: "keep".into(),
                    noun: "partner".into(),
                    id: id.to_string(),
                    detail,
                });
            }
            continue;
        }
        if let Some(old) = old {
            keep_own(&mut record, old, options);
            keep_grants(&mut record, old, now);
        }
        if !options.import {
            for (keys, command) in decided_elsewhere(&record, old.map(|old| &**old)) {
                let reason = format!("says what `{command}` decides, and nobody has decided so here");
                let fix = format!("take it out of the file, and use `{command}`");
                problems.registry(format!("partners.{id}.{keys}"), reason, Some(&fix));
            }
        }
        for reason in keep_credentials(&mut record, old.map(|old| &**old), options, now) {
            problems.registry(format!("partners.{id}.credentials"), reason, None);
        }
        for reason in keep_api_keys(&mut record, old.map(|old| &**old), options, now) {
            problems.registry(format!("partners.{id}.api_keys"), reason, None);
        }
        for key in &mut record.api_keys {
            key.approval = match old.and_then(|old| find_api_key(old, &key.id)) {
                Some(before) if !key_permits_more(before, key) => before.approval.clone(),
                _ => provenance.cloned(),
            };
        }
        let credentials = record.credentials.clone();
        for grant in &mut record.grants {
            let before = old.and_then(|r| r.grants.iter().find(|g| g.id == grant.id));
            if let Err(reasons) = expand(grant, before, operations, options, &mut draft) {
                for reason in reasons {
                    problems.registry(format!("partners.{id}.grants.{}.operations", grant.id), reason, None);
                }
            }
            grant.approval = match before {
                Some(before) if !permits_more(before, grant) || before.is_handed_on(grant, &credentials) => {
                    before.approval.clone()
                }
                _ => provenance.cloned(),
            };
        }
        if old.map(|o| &**o) != Some(&record) {
            draft.changes.push(Change::Partner(id.clone(), Some(Arc::new(compact.record(record)))));
        }
    }
    let places = declaration.places;
    let next = registry.with(registry.revision() + 1, &draft.changes).map_err(|found| {
        found.into_iter().for_each(|wrong| problems.registry(wrong.key(), wrong.reason, None));
    });
    match next {
        Ok(next) if !problems.has_errors() => Ok(Plan { changes: draft.changes, notes: draft.notes, next, places }),
        _ => Err(places.locate(problems)),
    }
}

/// How changes of a registry look.
pub fn lines(registry: &Registry, changes: &[Change]) -> Vec<PlanLine> {
    let one = |change: &Change| match change {
        Change::Partner(id, after) => {
            let old = registry.partner(id).map(|o| &**o);
            let detail = after.as_ref().map(|after| difference(old, after));
            PlanLine::of(old.is_some(), "partner", id.as_str(), detail)
        }
        Change::Network(name, after) => {
            let cidrs = |n: &Network| n.cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            PlanLine::of(registry.network(name).is_some(), "network", name.as_str(), after.as_ref().map(cidrs))
        }
        Change::Anchor(name, after) => {
            let old = registry.anchor(name).map(|o| &**o);
            PlanLine::of(old.is_some(), "anchor", name.as_str(), after.as_ref().map(|after| rebound(old, after)))
        }
        Change::Lockdown(locked, after) => {
            let old = registry.lockdowns().any(|l| l.locked == *locked);
            PlanLine::of(old, "lockdown", locked.as_str(), after.as_ref().map(|l| l.reason.clone()))
        }
    };
    changes.iter().map(one).collect()
}

impl PlanLine {
    /// `detail` is absent of what goes.
    fn of(exists: bool, noun: &str, id: &str, detail: Option<String>) -> Self {
        let action = match (exists, &detail) {
            (_, None) => "remove",
            (true, Some(_)) => "change",
            (false, Some(_)) => "create",
        };
        let detail = detail.unwrap_or_else(|| "not declared".into());
        PlanLine { action: action.into(), noun: noun.into(), id: id.into(), detail }
    }
}

#[derive(Default)]
struct Draft {
    changes: Vec<Change>,
    notes: Vec<PlanLine>,
}

impl Draft {
    fn prune(&mut self, declaration: &Declaration, registry: &Registry, problems: &mut Problems) {
        let kept: HashSet<_> = declaration.partners.iter().map(|r| &r.partner.id).collect();
        // Who has ended for good stays, so that nobody else becomes of it.
        let gone = registry.partners().filter(|r| !kept.contains(&r.partner.id) && !r.partner.is_closed());
        for record in gone {
            let id = &record.partner.id;
            let open = record.grants.iter().any(|g| g.emergency.as_deref().is_some_and(|e| e.reviewed.is_none()));
            let stopped = [
                record.partner.suspension.as_ref().map(|_| ("it is suspended", "`partner resume` it first")),
                record
                    .partner
                    .offboarding
                    .as_ref()
                    .map(|_| ("its end is set", "wait for it, or `partner offboard` it now")),
                open.then_some(("it has emergency grants that nobody has reviewed", "`grant review` them first")),
            ];
            for (why, fix) in stopped.into_iter().flatten() {
                let reason = format!("{why}, and with it that would be forgotten");
                problems.registry(format!("partners.{id}"), reason, Some(&format!("declare the partner, or {fix}")));
            }
            self.changes.push(Change::Partner(id.clone(), None));
        }
        let kept: HashSet<_> = declaration.networks.iter().map(|n| &n.name).collect();
        for network in registry.networks().filter(|n| !kept.contains(&n.name)) {
            self.changes.push(Change::Network(network.name.clone(), None));
        }
        let kept: HashSet<_> = declaration.anchors.iter().map(|a| &a.name).collect();
        for anchor in registry.anchors().filter(|a| !kept.contains(&a.name)) {
            if !anchor.denied.is_empty() {
                let reason = format!(
                    "certificates under the anchor are denied ({}), and with it that would be forgotten",
                    anchor.denied.len()
                );
                let fix =
                    format!("see `partnergate anchor show {}`; declare the anchor, or undeny them first", anchor.name);
                problems.registry(format!("anchors.{}", anchor.name), reason, Some(&fix));
            }
            self.changes.push(Change::Anchor(anchor.name.clone(), None));
        }
    }
}

/// Fills in the operations. A grant that is written as before keeps what it meant, so that an operation which appeared
/// since is not covered by accident.
fn expand(
    grant: &mut Grant,
    before: Option<&Grant>,
    operations: &Operations,
    options: PlanOptions,
    draft: &mut Draft,
) -> Result<(), Vec<String>> {
    let mut wanted: BTreeSet<OperationId> = BTreeSet::new();
    let mut problems = Vec::new();
    for pattern in &grant.written {
        match operations.expand(pattern) {
            Ok(ids) => wanted.extend(ids),
            Err(reason) => problems.push(reason),
        }
    }
    match before {
        Some(old) if old.written == grant.written && !options.widen => {
            let new: Vec<&str> = wanted.iter().filter(|o| !old.covers(o)).map(OperationId::as_str).collect();
            if !new.is_empty() {
                let detail = format!(
                    "`{}` would now also cover {}; apply with --widen to accept",
                    grant.written.join(", "),
                    new.join(", ")
                );
                let (action, noun, id) = ("would-widen".into(), "grant".into(), grant.id.to_string());
                draft.notes.push(PlanLine { action, noun, id, detail });
            }
            grant.operations = old.operations.clone();
            Ok(())
        }
        _ if problems.is_empty() => {
            grant.operations = wanted.into_iter().collect();
            Ok(())
        }
        _ => Err(problems),
    }
}

/// A file that does not know what operators have made of a partner does not take it back.
fn keep_own(record: &mut PartnerRecord, old: &PartnerRecord, options: PlanOptions) {
    let (partner, before) = (&mut record.partner, &old.partner);
    if let Some(suspension) = &before.suspension {
        partner.suspension = Some(suspension.clone());
    }
    if let (Some(review), Some(last)) = (&mut partner.review, before.review.as_ref().and_then(|r| r.last.as_ref())) {
        review.last = Some(last.clone());
    }
    if partner.offboarding.is_none() && !options.edited {
        partner.offboarding = before.offboarding.clone();
    }
    // What a partner had is closed by the gateway, with a report.
    if let Some(offboarding) = &mut partner.offboarding {
        offboarding.closed = None;
    }
}

/// What a record has that only commands decide, where that is not what is there already: keys, and the command. A file may
/// stop a partner; what it says of who has stopped it, the history does not say.
fn decided_elsewhere(record: &PartnerRecord, old: Option<&PartnerRecord>) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    let (partner, before) = (&record.partner, old.map(|old| &old.partner));
    let mut differ = |is: bool, keys: String, command: &'static str| {
        if is {
            found.push((keys, command));
        }
    };
    let offboarding = before.and_then(|before| before.offboarding.as_ref());
    let is = partner.offboarding.is_some() && partner.offboarding.as_ref() != offboarding;
    differ(is, "offboarding".into(), "partner offboard");
    let last = |partner: &Partner| partner.review.as_ref().and_then(|review| review.last.clone());
    let is = last(partner).is_some() && last(partner) != before.and_then(last);
    differ(is, "reviewed".into(), "partner review");
    for credential in &record.credentials {
        let before = old.and_then(|old| find_credential(old, &credential.id)).and_then(|c| c.revoked.as_ref());
        let is = credential.revoked.is_some() && credential.revoked.as_ref() != before;
        differ(is, format!("credentials.{}.revoked", credential.id), "credential revoke");
    }
    for key in &record.api_keys {
        let before = old.and_then(|old| find_api_key(old, &key.id)).and_then(|k| k.revoked.as_ref());
        let is = key.revoked.is_some() && key.revoked.as_ref() != before;
        differ(is, format!("api_keys.{}.revoked", key.id), "credential revoke");
    }
    for grant in &record.grants {
        let before = old.and_then(|old| find_grant(old, grant.id.as_str()));
        let revoked = before.and_then(|grant| grant.revoked.as_ref());
        let is = grant.revoked.is_some() && grant.revoked.as_ref() != revoked;
        differ(is, format!("grants.{}.revoked", grant.id), "grant revoke");
    }
    found
}

/// The same of credentials: what was revoked stays so, and what is being succeeded is. Returns what is not legal.
fn keep_credentials(
    record: &mut PartnerRecord,
    old: Option<&PartnerRecord>,
    options: PlanOptions,
    now: UnixNanos,
) -> Vec<String> {
    let mut wrong = Vec::new();
    // What was revoked is not forgotten by leaving it out: it would come back as new.
    let gone = old.map(|old| old.credentials.as_slice()).unwrap_or_default().iter();
    let gone = gone.filter(|c| c.revoked.is_some() && find_credential(record, &c.id).is_none());
    record.credentials.extend(gone.cloned().collect::<Vec<_>>());
    record.credentials.sort_by(|a, b| a.id.cmp(&b.id));
    let ids: HashSet<_> = record.credentials.iter().map(|c| c.id.clone()).collect();
    for credential in &mut record.credentials {
        let before = old.and_then(|old| find_credential(old, &credential.id));
        if let Some(before) = before.filter(|before| before.revoked.is_some()) {
            credential.revoked = before.revoked.clone();
        }
        if credential.revoked.is_some() {
            credential.state = CredentialState::Revoked;
        }
        let was = before.and_then(|before| before.retiring.as_deref());
        if let Some(is) = keep_succession(&mut credential.retiring, was, &ids, options, now) {
            let legal = before.map(|before| Credential { retiring: None, ..before.clone() }.retire(is));
            wrong.extend(legal.and_then(Result::err));
        }
    }
    wrong
}

/// What is being succeeded is so still. Returns a succession that is new.
fn keep_succession(
    retiring: &mut Option<Box<Retiring>>,
    was: Option<&Retiring>,
    ids: &HashSet<CredentialId>,
    options: PlanOptions,
    now: UnixNanos,
) -> Option<Retiring> {
    match (&mut *retiring, was) {
        (None, Some(was)) if !options.edited && ids.contains(&was.successor) => {
            *retiring = Some(Box::new(was.clone()));
            None
        }
        (Some(is), Some(was)) if is.successor == was.successor => {
            is.since = was.since;
            None
        }
        (Some(is), _) => {
            // When it begins is not for files to say.
            if !options.import || is.since == UnixNanos(0) {
                is.since = now;
            }
            Some(Retiring::clone(is))
        }
        (None, _) => None,
    }
}

/// Keys are made by a command, so that a file which does not list one does not take it away.
fn keep_api_keys(
    record: &mut PartnerRecord,
    old: Option<&PartnerRecord>,
    options: PlanOptions,
    now: UnixNanos,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let gone = old.map(|old| old.api_keys.as_slice()).unwrap_or_default().iter();
    let gone: Vec<ApiKey> = gone.filter(|k| find_api_key(record, &k.id).is_none()).cloned().collect();
    record.api_keys.extend(gone);
    record.api_keys.sort_by(|a, b| a.id.cmp(&b.id));
    let ids: HashSet<_> = record.api_keys.iter().map(|k| k.id.clone()).collect();
    for key in &mut record.api_keys {
        let before = old.and_then(|old| find_api_key(old, &key.id));
        if let Some(revoked) = before.and_then(|before| before.revoked.clone()) {
            key.revoked = Some(revoked);
        }
        let was = before.and_then(|before| before.retiring.as_deref());
        if let Some(is) = keep_succession(&mut key.retiring, was, &ids, options, now) {
            let legal = before.map(|before| ApiKey { retiring: None, ..before.clone() }.retire(is));
            wrong.extend(legal.and_then(Result::err));
        }
    }
    wrong
}

/// A file that does not know of a revocation does not take it back, and one that does not know of an emergency does not
/// end it.
fn keep_grants(record: &mut PartnerRecord, old: &PartnerRecord, now: UnixNanos) {
    for before in &old.grants {
        match record.grants.iter_mut().find(|g| g.id == before.id) {
            Some(grant) => {
                grant.revoked = before.revoked.clone().or(grant.revoked.take());
                // Who made what alone is not for files to say of what is there already.
                grant.emergency = before.emergency.clone();
            }
            None if before.is_pending_emergency(now) => record.grants.push(before.clone()),
            None => {}
        }
    }
    record.grants.sort_by(|a, b| a.id.cmp(&b.id));
}

/// A file that does not know of a denied certificate does not let it in again.
fn keep_denied(anchor: &mut Anchor, old: Option<&Anchor>) {
    let before = old.map_or(&[][..], |o| &o.denied);
    anchor.denied.retain(|d| before.iter().all(|b| b.certificate != d.certificate));
    anchor.denied.extend(before.iter().cloned());
    anchor.denied.sort_by(|a, b| a.certificate.cmp(&b.certificate));
}

/// What becomes different for an anchor. It may speak for very many partners: the difference is shown, not the list.
fn rebound(old: Option<&Anchor>, new: &Anchor) -> String {
    let Some(old) = old else {
        return format!("may speak for {}", listed(new.partners.iter().map(ToString::to_string)));
    };
    let (before, after) = middles(&old.partners, &new.partners);
    let (was, is): (HashSet<&PartnerId>, HashSet<&PartnerId>) = (before.iter().collect(), after.iter().collect());
    let added = after.iter().filter(|id| !was.contains(id)).map(|id| format!("+{id}"));
    let removed = before.iter().filter(|id| !is.contains(id)).map(|id| format!("-{id}"));
    let mut out = Vec::new();
    let change = listed(added.chain(removed));
    if !change.is_empty() {
        out.push(format!("may speak for {} partners: {change}", new.partners.len()));
    }
    for (key, same) in [
        ("certificate", old.root == new.root),
        ("environments", old.environments == new.environments),
        ("client_auth", old.client_auth == new.client_auth),
        ("max_lifetime", old.max_lifetime == new.max_lifetime),
        ("revocation", old.revocation == new.revocation),
    ] {
        if !same {
            out.push(format!("another {key}"));
        }
    }
    let denied: Vec<&Denied> = new.denied.iter().filter(|d| !old.denied.contains(d)).collect();
    if !denied.is_empty() {
        out.push(format!("denies {}", listed(denied.iter().map(|d| d.certificate.to_string()))));
    }
    if out.is_empty() { "`partners` in another order".into() } else { out.join("; ") }
}

/// The first of the names, and how many more there are.
fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names = names;
    let shown: Vec<String> = names.by_ref().take(SHOWN).collect();
    match names.count() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The keys that differ, as dotted paths with old and new value.
fn difference(old: Option<&PartnerRecord>, new: &PartnerRecord) -> String {
    let Some(old) = old else {
        return format!("{} credentials, {} grants", new.credentials.len(), new.grants.len());
    };
    let mut out = differences(&partner_document(old), &partner_document(new));
    for grant in &new.grants {
        if let Some(before) = old.grants.iter().find(|g| g.id == grant.id) {
            let added: Vec<&str> =
                grant.operations.iter().filter(|o| !before.covers(o)).map(OperationId::as_str).collect();
            let removed: Vec<&str> =
                before.operations.iter().filter(|o| !grant.covers(o)).map(OperationId::as_str).collect();
            if !added.is_empty() || !removed.is_empty() {
                out.push(format!("grant {}: +[{}] -[{}]", grant.id, added.join(", "), removed.join(", ")));
            }
        }
    }
    out.join("; ")
}

/// The keys that differ between two documents of one noun, as dotted paths with old and new value.
pub fn differences(old: &serde_json::Value, new: &serde_json::Value) -> Vec<String> {
    let mut out = Vec::new();
    compare("", old, new, &mut out);
    out
}

fn compare(path: &str, old: &serde_json::Value, new: &serde_json::Value, out: &mut Vec<String>) {
    use serde_json::Value::{Array, Object};
    if old == new {
        return;
    }
    let nothing = Object(serde_json::Map::new());
    match (old, new) {
        // No list of things that have ids is shown by their ids as well.
        (Array(none), Object(_)) if none.is_empty() => compare(path, &nothing, new, out),
        (Object(_), Array(none)) if none.is_empty() => compare(path, old, &nothing, out),
        (Object(a), Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match (a.get(key), b.get(key)) {
                    (Some(x), Some(y)) => compare(&at, x, y, out),
                    // A table of things is not one of them.
                    (None, Some(Object(things))) if things.values().all(|thing| thing.is_object()) => {
                        out.extend(things.keys().map(|id| format!("{at}.{id} added")));
                    }
                    (None, Some(_)) => out.push(format!("{at} added")),
                    (Some(_), None) => out.push(format!("{at} removed")),
                    (None, None) => {}
                }
            }
        }
        _ => out.push(format!("{path}: {old} → {new}")),
    }
}
