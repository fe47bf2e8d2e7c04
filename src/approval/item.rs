//! Parts of the registry that are approved as a whole, taken out of changes and put back into them.

use super::widening;
use crate::clock::UnixNanos;
use crate::history::document_sha256;
use crate::name::{AnchorName, CredentialId, GrantId, NetworkName, OperatorName, PartnerId};
use crate::operator::{Operator, Operators};
use crate::partner::{Anchor, ApiKey, Credential, Grant, Network, Partner, PartnerRecord, Provenance, Retiring};
use crate::registry::{Change, Registry, find_api_key, find_credential, find_grant};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// One part as it is to be, or gone, and a digest of what it takes the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "noun", rename_all = "kebab-case")]
pub enum Item {
    /// Without its credentials and grants.
    Partner {
        id: PartnerId,
        before_sha256: Option<String>,
        after: Option<Box<Partner>>,
    },
    Credential {
        partner: PartnerId,
        id: CredentialId,
        before_sha256: Option<String>,
        after: Option<Box<Credential>>,
    },
    Grant {
        partner: PartnerId,
        id: GrantId,
        before_sha256: Option<String>,
        after: Option<Box<Grant>>,
    },
    ApiKey {
        partner: PartnerId,
        id: CredentialId,
        before_sha256: Option<String>,
        after: Option<Box<ApiKey>>,
    },
    Network {
        id: NetworkName,
        before_sha256: Option<String>,
        after: Option<Network>,
    },
    Anchor {
        id: AnchorName,
        before_sha256: Option<String>,
        after: Option<Box<Anchor>>,
    },
    Operator {
        id: OperatorName,
        before_sha256: Option<String>,
        after: Box<Operator>,
    },
}

/// What there is now.
#[derive(Clone, Copy)]
pub struct Present<'a> {
    pub registry: &'a Registry,
    pub operators: &'a Operators,
}

/// What becomes of it.
#[derive(Clone, Debug, Default)]
pub struct Becomes {
    pub changes: Vec<Change>,
    pub operators: Vec<Operator>,
}

impl Item {
    /// An operator as it is to be.
    pub fn operator(operators: &Operators, after: Operator) -> Self {
        let before_sha256 = operators.get(after.name.as_str()).and_then(|before| digest(&**before));
        Item::Operator { id: after.name.clone(), before_sha256, after: Box::new(after) }
    }

    pub fn noun(&self) -> &'static str {
        match self {
            Item::Partner { .. } => "partner",
            Item::Credential { .. } => "credential",
            Item::Grant { .. } => "grant",
            Item::ApiKey { .. } => "api-key",
            Item::Network { .. } => "network",
            Item::Anchor { .. } => "anchor",
            Item::Operator { .. } => "operator",
        }
    }

    pub fn id(&self) -> &str {
        match self {
            Item::Partner { id, .. } => id.as_str(),
            Item::Credential { id, .. } => id.as_str(),
            Item::Grant { id, .. } => id.as_str(),
            Item::ApiKey { id, .. } => id.as_str(),
            Item::Network { id, .. } => id.as_str(),
            Item::Anchor { id, .. } => id.as_str(),
            Item::Operator { id, .. } => id.as_str(),
        }
    }

    /// The partner that it is a part of.
    pub fn partner(&self) -> Option<&PartnerId> {
        match self {
            Item::Partner { id, .. } => Some(id),
            Item::Credential { partner, .. } | Item::Grant { partner, .. } | Item::ApiKey { partner, .. } => {
                Some(partner)
            }
            Item::Network { .. } | Item::Anchor { .. } | Item::Operator { .. } => None,
        }
    }

    /// Whether it refers to this network.
    pub(super) fn names(&self, network: &NetworkName) -> bool {
        match self {
            Item::Partner { after: Some(partner), .. } => partner.networks.contains(network),
            Item::Grant { after: Some(grant), .. } => grant.networks.as_ref().is_some_and(|n| n.contains(network)),
            Item::ApiKey { after: Some(key), .. } => key.networks.as_ref().is_some_and(|n| n.contains(network)),
            Item::Network { id, .. } => id == network,
            _ => false,
        }
    }

    /// What it permits that is not permitted now.
    pub fn widens(&self, Present { registry, operators }: Present<'_>) -> Vec<String> {
        let record = self.partner().and_then(|id| registry.partner(id));
        match self {
            Item::Partner { after: Some(after), .. } => widening::of_partner(record.map(|r| &r.partner), after),
            Item::Credential { id, after: Some(after), .. } => {
                let granted = record.is_some_and(|r| !r.grants.is_empty());
                widening::of_credential(record.and_then(|r| find_credential(r, id)), after, granted)
            }
            Item::Grant { id, after: Some(after), .. } => {
                widening::of_grant(record.and_then(|r| find_grant(r, id.as_str())), after)
            }
            Item::ApiKey { id, after: Some(after), .. } => {
                widening::of_api_key(record.and_then(|r| find_api_key(r, id)), after)
            }
            Item::Network { id, after: Some(after), .. } => {
                widening::of_network(registry.network(id).map(|n| &**n), after)
            }
            Item::Anchor { id, after: Some(after), .. } => {
                widening::of_anchor(registry.anchor(id).map(|a| &**a), after)
            }
            Item::Operator { id, after, .. } => after.widens(operators.get(id.as_str()).map(|o| &**o)),
            _ => Vec::new(),
        }
    }

    /// Whether what it takes the place of is still there as it was.
    fn is_current(&self, Present { registry, operators }: Present<'_>) -> bool {
        let record = self.partner().and_then(|id| registry.partner(id));
        let (now, before) = match self {
            Item::Partner { before_sha256, .. } => (record.and_then(|r| digest(&r.partner)), before_sha256),
            Item::Credential { id, before_sha256, .. } => {
                (record.and_then(|r| find_credential(r, id)).and_then(digest), before_sha256)
            }
            Item::Grant { id, before_sha256, .. } => {
                (record.and_then(|r| find_grant(r, id.as_str())).and_then(digest), before_sha256)
            }
            Item::ApiKey { id, before_sha256, .. } => {
                (record.and_then(|r| find_api_key(r, id)).and_then(digest), before_sha256)
            }
            Item::Network { id, before_sha256, .. } => (registry.network(id).and_then(|n| digest(&**n)), before_sha256),
            Item::Anchor { id, before_sha256, .. } => (registry.anchor(id).and_then(|a| digest(&**a)), before_sha256),
            Item::Operator { id, before_sha256, .. } => {
                (operators.get(id.as_str()).and_then(|o| digest(&**o)), before_sha256)
            }
        };
        now == *before
    }
}

fn digest<T: Serialize>(part: &T) -> Option<String> {
    serde_json::to_string(part).ok().map(|text| document_sha256(&text))
}

/// What of changes may be done now, and what waits for somebody else.
#[derive(Clone, Debug, Default)]
pub struct Split {
    pub now: Vec<Change>,
    pub waiting: Vec<Item>,
}

/// Takes out of `changes` every part that permits more than there was. Where the rest cannot stand without it, all of it
/// waits.
///
/// `asked` are the partners that grants wait for: what they prove themselves with is no small matter any more.
pub fn split(registry: &Registry, changes: Vec<Change>, asked: &HashSet<PartnerId>) -> Split {
    let widened = parts(registry, &changes, asked, false);
    if widened.waiting.is_empty() {
        return Split { now: changes, waiting: Vec::new() };
    }
    if registry.with(registry.revision() + 1, &widened.now).is_ok() {
        widened
    } else {
        parts(registry, &changes, asked, true)
    }
}

fn parts(registry: &Registry, changes: &[Change], asked: &HashSet<PartnerId>, all: bool) -> Split {
    let mut split = Split::default();
    for change in changes {
        match change {
            Change::Partner(id, after) => {
                let granted = asked.contains(id);
                of_record(registry.partner(id), (id, granted), after.as_deref(), all, &mut split);
            }
            Change::Network(id, after) => {
                let before = registry.network(id).map(|n| &**n);
                if all || after.as_ref().is_some_and(|after| !widening::of_network(before, after).is_empty()) {
                    let (id, before_sha256) = (id.clone(), before.and_then(digest));
                    split.waiting.push(Item::Network { id, before_sha256, after: after.clone() });
                } else {
                    split.now.push(change.clone());
                }
            }
            Change::Anchor(id, after) => {
                let before = registry.anchor(id).map(|a| &**a);
                if all || after.as_ref().is_some_and(|after| !widening::of_anchor(before, after).is_empty()) {
                    let (id, before_sha256) = (id.clone(), before.and_then(digest));
                    split.waiting.push(Item::Anchor { id, before_sha256, after: after.clone().map(Box::new) });
                } else {
                    split.now.push(change.clone());
                }
            }
            // An operator's own, and never asked for.
            Change::Lockdown(..) => split.now.push(change.clone()),
        }
    }
    split
}

fn of_record(
    before: Option<&Arc<PartnerRecord>>,
    (id, asked): (&PartnerId, bool),
    after: Option<&PartnerRecord>,
    all: bool,
    split: &mut Split,
) {
    let waiting = split.waiting.len();
    let old = before.map(|b| &**b);
    let own = (old.map(|r| &r.partner), after.map(|r| &r.partner));
    // Of a partner that waits itself and is new, nothing can be there before.
    let all = all || (old.is_none() && after.is_some_and(|after| !after.partner.observe.is_empty()));
    let waits = |widens: Vec<String>, changed: bool| changed && (all || !widens.is_empty());
    if waits(own.1.map(|after| widening::of_partner(own.0, after)).unwrap_or_default(), own.0 != own.1) {
        let (id, before_sha256) = (id.clone(), own.0.and_then(digest));
        split.waiting.push(Item::Partner { id, before_sha256, after: own.1.cloned().map(Box::new) });
    }
    let granted = asked || old.is_some_and(|r| !r.grants.is_empty());
    let ((credentials, grants, api_keys), now) = (lists_of(old), lists_of(after));
    let widens = |was: Option<&Credential>, is: &Credential| widening::of_credential(was, is, granted);
    for part in waiting_of((credentials, now.0), |c| &c.id, widens, all) {
        let Part { id: own, before_sha256, after } = part;
        split.waiting.push(Item::Credential { partner: id.clone(), id: own, before_sha256, after });
    }
    for part in waiting_of((grants, now.1), |g| &g.id, widening::of_grant, all) {
        let Part { id: own, before_sha256, after } = part;
        split.waiting.push(Item::Grant { partner: id.clone(), id: own, before_sha256, after });
    }
    for part in waiting_of((api_keys, now.2), |k| &k.id, widening::of_api_key, all) {
        let Part { id: own, before_sha256, after } = part;
        split.waiting.push(Item::ApiKey { partner: id.clone(), id: own, before_sha256, after });
    }
    let items = split.waiting.get(waiting..).unwrap_or_default();
    if items.is_empty() {
        split.now.push(Change::Partner(id.clone(), after.cloned().map(Arc::new)));
        return;
    }
    // What waits is as it was; the rest is as it is to be.
    let Some(mut rest) = after.cloned() else { return };
    for item in items {
        match item {
            Item::Partner { .. } => match old {
                Some(old) => rest.partner = old.partner.clone(),
                None => return,
            },
            Item::Credential { id, .. } => {
                put(&mut rest.credentials, id, old.and_then(|r| find_credential(r, id)).cloned(), |c| &c.id);
            }
            Item::Grant { id, .. } => {
                put(&mut rest.grants, id, old.and_then(|r| find_grant(r, id.as_str())).cloned(), |g| &g.id);
            }
            Item::ApiKey { id, .. } => {
                put(&mut rest.api_keys, id, old.and_then(|r| find_api_key(r, id)).cloned(), |k| &k.id);
            }
            Item::Network { .. } | Item::Anchor { .. } | Item::Operator { .. } => {}
        }
    }
    if old != Some(&rest) {
        split.now.push(Change::Partner(id.clone(), Some(Arc::new(rest))));
    }
}

fn lists_of(record: Option<&PartnerRecord>) -> (&[Credential], &[Grant], &[ApiKey]) {
    record.map_or((&[], &[], &[]), |r| (&r.credentials, &r.grants, &r.api_keys))
}

/// One thing of a list that waits.
struct Part<K, T> {
    id: K,
    before_sha256: Option<String>,
    after: Option<Box<T>>,
}

/// What of two lists that are sorted by id is different and permits more; with `all`, whatever is different.
fn waiting_of<T: Clone + PartialEq + Serialize, K: Ord + Clone>(
    (old, new): (&[T], &[T]),
    id: fn(&T) -> &K,
    widens: impl Fn(Option<&T>, &T) -> Vec<String>,
    all: bool,
) -> Vec<Part<K, T>> {
    let find = |list: &'_ [T], own: &K| list.binary_search_by(|one| id(one).cmp(own)).ok();
    let mut ids: Vec<&K> = old.iter().chain(new).map(id).collect();
    ids.sort();
    ids.dedup();
    let different = ids.into_iter().filter_map(|own| {
        let was = find(old, own).and_then(|n| old.get(n));
        let is = find(new, own).and_then(|n| new.get(n));
        let waits = was != is && (all || is.is_some_and(|is| !widens(was, is).is_empty()));
        waits.then(|| Part { id: own.clone(), before_sha256: was.and_then(digest), after: is.cloned().map(Box::new) })
    });
    different.collect()
}

/// In place of the one of this id; the list stays sorted.
fn put<T, K: Ord>(list: &mut Vec<T>, key: &K, one: Option<T>, id: fn(&T) -> &K) {
    list.retain(|other| id(other) != key);
    list.extend(one);
    list.sort_by(|a, b| id(a).cmp(id(b)));
}

/// The changes that these parts come to now. Grants among them have where they come from.
///
/// # Errors
/// What takes the place of something that is not what it was when it was asked for.
pub fn changes(present: Present<'_>, items: &[Item], provenance: &Arc<Provenance>) -> Result<Becomes, Vec<String>> {
    let stale: Vec<String> = items
        .iter()
        .filter(|item| !item.is_current(present))
        .map(|item| format!("the {} `{}` has changed since this was asked for: ask again", item.noun(), item.id()))
        .collect();
    if !stale.is_empty() {
        return Err(stale);
    }
    let registry = present.registry;
    let Becomes { mut changes, mut operators } = Becomes::default();
    let mut records: BTreeMap<&PartnerId, Option<PartnerRecord>> = BTreeMap::new();
    for item in items {
        if let Some(id) = item.partner() {
            let record = records.entry(id).or_insert_with(|| registry.partner(id).map(|r| PartnerRecord::clone(r)));
            within(record, item, provenance)?;
        }
        match item {
            Item::Network { id, after, .. } => changes.push(Change::Network(id.clone(), after.clone())),
            Item::Anchor { id, after, .. } => changes.push(Change::Anchor(id.clone(), after.as_deref().cloned())),
            Item::Operator { after, .. } => operators.push(Operator::clone(after)),
            Item::Partner { .. } | Item::Credential { .. } | Item::Grant { .. } | Item::ApiKey { .. } => {}
        }
    }
    changes.extend(records.into_iter().map(|(id, record)| Change::Partner(id.clone(), record.map(Arc::new))));
    Ok(Becomes { changes, operators })
}

fn within(record: &mut Option<PartnerRecord>, item: &Item, provenance: &Arc<Provenance>) -> Result<(), Vec<String>> {
    if let Item::Partner { after, .. } = item {
        match (record.as_mut(), after) {
            (Some(record), Some(partner)) => record.partner = Partner::clone(partner),
            (None, Some(partner)) => {
                let partner = Partner::clone(partner);
                *record =
                    Some(PartnerRecord { partner, credentials: Vec::new(), grants: Vec::new(), api_keys: Vec::new() });
            }
            (_, None) => *record = None,
        }
        return Ok(());
    }
    let Some(record) = record else {
        // A partner that goes takes all of its own along.
        let goes = matches!(
            item,
            Item::Credential { after: None, .. } | Item::Grant { after: None, .. } | Item::ApiKey { after: None, .. }
        );
        let partner = item.partner().map(ToString::to_string).unwrap_or_default();
        return if goes { Ok(()) } else { Err(vec![format!("there is no partner `{partner}` any more")]) };
    };
    match item {
        Item::Credential { id, after, .. } => {
            let mut after = after.as_deref().cloned();
            let before = find_credential(record, id).and_then(|before| before.retiring.as_deref());
            begin(after.as_mut().and_then(|after| after.retiring.as_deref_mut()), before, provenance.at);
            put(&mut record.credentials, id, after, |c| &c.id);
        }
        Item::Grant { id, after, .. } => {
            let before = find_grant(record, id.as_str());
            let handed_on =
                |b: &&Grant| after.as_deref().is_some_and(|after| b.is_handed_on(after, &record.credentials));
            let before = before.filter(handed_on);
            let after = after.as_deref().cloned().map(|grant| match before {
                Some(before) if before.approval.is_some() => Grant { approval: before.approval.clone(), ..grant },
                _ => Grant { approval: Some(provenance.clone()), ..grant },
            });
            put(&mut record.grants, id, after, |g| &g.id);
        }
        Item::ApiKey { id, after, .. } => {
            let mut after = after.as_deref().cloned().map(|key| ApiKey { approval: Some(provenance.clone()), ..key });
            let before = find_api_key(record, id).and_then(|before| before.retiring.as_deref());
            begin(after.as_mut().and_then(|after| after.retiring.as_deref_mut()), before, provenance.at);
            put(&mut record.api_keys, id, after, |k| &k.id);
        }
        Item::Partner { .. } | Item::Network { .. } | Item::Anchor { .. } | Item::Operator { .. } => {}
    }
    Ok(())
}

/// Of a succession that is new, both are good together from when it was approved.
fn begin(after: Option<&mut Retiring>, before: Option<&Retiring>, at: UnixNanos) {
    if let (Some(retiring), None) = (after, before) {
        retiring.since = at;
    }
}
