//! Who may call: an immutable index from a certificate to exactly one partner.
//!
//! In: partner records, networks and anchors as the store holds them. Out: [`Registry::resolve`] in O(1) of the number
//! of partners, and [`Registry::networks_of`]. A change makes a new registry that shares all that did not change.
//! Must never: choose between partners.

mod compact;
mod derived;

pub use compact::Compact;
pub use derived::Derived;

use crate::history::middles;
use crate::identity::{Fingerprint, MatchKey, MatchKind, Peer};
use crate::name::{AnchorName, CredentialId, GrantId, NetworkName, PartnerId};
use crate::partner::{
    ANY_NETWORK, Anchor, ApiKey, Credential, CredentialState, Grant, KeyHash, Lockdown, Locked, Network, PartnerRecord,
};
use ip_network::IpNetwork;
use ip_network_table::IpNetworkTable;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

/// One change of the registry: a noun as it is now, or gone.
#[derive(Clone, Debug)]
pub enum Change {
    Partner(PartnerId, Option<Arc<PartnerRecord>>),
    Network(NetworkName, Option<Network>),
    Anchor(AnchorName, Option<Anchor>),
    Lockdown(Locked, Option<Lockdown>),
}

/// Why a registry would not be consistent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inconsistent {
    pub partner: PartnerId,
    /// Where in the partner's document: keys, the last possibly an item of a list.
    pub keys: Vec<String>,
    pub reason: String,
}

impl Inconsistent {
    fn new(partner: &PartnerId, keys: &[&str], reason: String) -> Self {
        Inconsistent { partner: partner.clone(), keys: keys.iter().map(|k| (*k).to_owned()).collect(), reason }
    }
}

impl Inconsistent {
    /// Where in the registry.
    pub fn key(&self) -> String {
        format!("partners.{}.{}", self.partner, self.keys.join("."))
    }
}

impl fmt::Display for Inconsistent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.key(), self.reason)
    }
}

/// The index. Cloning is cheap.
///
/// What requests look up is a hash map; what only changes look up is ordered, because that takes a third of the memory.
#[derive(Clone)]
pub struct Registry {
    /// Grows with every change; stored with the changes.
    revision: u64,
    partners: imbl::OrdMap<PartnerId, Arc<PartnerRecord>>,
    matches: imbl::HashMap<MatchKey, Holder>,
    /// Certificates and keys that are registered, under whatever anchor: none is for two partners.
    clients: imbl::OrdMap<(MatchKind, Fingerprint), Holder>,
    /// And API keys: no two have one id.
    credentials: imbl::OrdMap<CredentialId, Arc<PartnerRecord>>,
    api_keys: imbl::OrdMap<KeyHash, (Arc<PartnerRecord>, u32)>,
    grants: imbl::OrdMap<GrantId, Arc<PartnerRecord>>,
    anchors: imbl::OrdMap<AnchorName, Arc<Anchor>>,
    /// The partners that each anchor may speak for.
    bound: imbl::OrdMap<AnchorName, Arc<HashSet<PartnerId>>>,
    networks: imbl::OrdMap<NetworkName, Arc<Network>>,
    by_address: Arc<IpNetworkTable<Vec<NetworkName>>>,
    /// Hardly ever any.
    lockdowns: Arc<BTreeMap<Locked, Lockdown>>,
}

/// A credential, as its place in the record that has it.
#[derive(Clone)]
struct Holder {
    record: Arc<PartnerRecord>,
    place: u32,
}

impl Holder {
    fn credential(&self) -> Option<&Credential> {
        usize::try_from(self.place).ok().and_then(|place| self.record.credentials.get(place))
    }
}

/// What the registry says of a peer.
#[derive(Clone, Copy, Debug)]
pub enum Resolution<'a> {
    Known {
        record: &'a Arc<PartnerRecord>,
        credential: &'a Credential,
        matched_by: MatchKind,
    },
    Unknown,
    /// Credentials of more than one partner match.
    Ambiguous,
    /// A credential matches, but its anchor may not speak for the partner.
    AnchorNotBound,
}

impl Default for Registry {
    fn default() -> Self {
        Registry {
            revision: 0,
            partners: imbl::OrdMap::new(),
            matches: imbl::HashMap::new(),
            clients: imbl::OrdMap::new(),
            credentials: imbl::OrdMap::new(),
            api_keys: imbl::OrdMap::new(),
            grants: imbl::OrdMap::new(),
            anchors: imbl::OrdMap::new(),
            bound: imbl::OrdMap::new(),
            networks: imbl::OrdMap::new(),
            by_address: Arc::new(IpNetworkTable::new()),
            lockdowns: Arc::default(),
        }
    }
}

impl Registry {
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The same at another revision.
    #[must_use]
    pub fn at(&self, revision: u64) -> Registry {
        Registry { revision, ..self.clone() }
    }

    /// The registry after `changes`, which belong together. What it costs grows with the changes and with the lists of
    /// the anchors among them; only where a network goes is every partner looked at.
    ///
    /// # Errors
    /// Every reason why the result would not be consistent; then nothing changes.
    pub fn with(&self, revision: u64, changes: &[Change]) -> Result<Registry, Vec<Inconsistent>> {
        let mut next = self.clone();
        next.revision = revision;
        let mut problems = Vec::new();
        // What goes is taken out first, so that a credential can move from one partner to another in one change.
        for change in changes {
            match change {
                Change::Partner(id, _) => next.remove_partner(id),
                Change::Network(name, None) => {
                    next.networks.remove(name);
                }
                Change::Anchor(name, None) => {
                    next.anchors.remove(name);
                    next.bound.remove(name);
                }
                Change::Network(name, Some(network)) => {
                    next.networks.insert(name.clone(), Arc::new(network.clone()));
                }
                Change::Anchor(name, Some(anchor)) => next.insert_anchor(name, anchor.clone()),
                Change::Lockdown(locked, lockdown) => {
                    let all = Arc::make_mut(&mut next.lockdowns);
                    match lockdown {
                        Some(lockdown) => drop(all.insert(locked.clone(), lockdown.clone())),
                        None => drop(all.remove(locked)),
                    }
                }
            }
        }
        for change in changes {
            if let Change::Partner(_, Some(record)) = change {
                next.insert_partner(record, &mut problems);
            }
        }
        if changes.iter().any(|c| matches!(c, Change::Network(_, None))) {
            for record in next.partners.values() {
                next.check_references(record, &mut problems);
            }
        } else {
            let changed = changes.iter().filter_map(|c| match c {
                Change::Partner(id, Some(_)) => Some(id),
                _ => None,
            });
            for record in changed.chain(self.unbound(&next, changes)).filter_map(|id| next.partners.get(id)) {
                next.check_references(record, &mut problems);
            }
        }
        if changes.iter().any(|c| matches!(c, Change::Network(..))) {
            next.by_address = Arc::new(address_table(next.networks.values()));
        }
        next.unless(problems)
    }

    /// The partners that an anchor among `changes` could speak for here and cannot in `next`: nobody else can have a
    /// credential under it, because this registry is consistent.
    fn unbound<'a>(&'a self, next: &'a Registry, changes: &'a [Change]) -> impl Iterator<Item = &'a PartnerId> {
        changes
            .iter()
            .filter_map(|c| match c {
                Change::Anchor(name, _) => self.bound.get(name).map(|partners| (name, partners)),
                _ => None,
            })
            .flat_map(|(name, partners)| partners.iter().filter(|id| !next.may_speak_for(name, id)))
    }

    fn unless(self, mut problems: Vec<Inconsistent>) -> Result<Registry, Vec<Inconsistent>> {
        if problems.is_empty() {
            Ok(self)
        } else {
            problems.sort();
            problems.dedup();
            Err(problems)
        }
    }

    /// Finds the one partner that the peer is.
    pub fn resolve(&self, peer: &Peer) -> Resolution<'_> {
        let mut found: Option<(&Holder, MatchKind)> = None;
        for key in &peer.match_keys {
            let Some(holder) = self.matches.get(key) else { continue };
            match found {
                None => found = Some((holder, key.kind)),
                Some((first, _)) if first.record.partner.id != holder.record.partner.id => {
                    return Resolution::Ambiguous;
                }
                Some(_) => {}
            }
        }
        let Some((holder, matched_by)) = found else { return Resolution::Unknown };
        let Some(credential) = holder.credential() else { return Resolution::Unknown };
        if !self.may_speak_for(&peer.anchor, &holder.record.partner.id) {
            return Resolution::AnchorNotBound;
        }
        Resolution::Known { record: &holder.record, credential, matched_by }
    }

    /// Every credential that matches the peer, of whichever partner, and by what; the most specific first.
    pub fn matching(&self, peer: &Peer) -> Vec<(&Arc<PartnerRecord>, &Credential, MatchKind)> {
        let found = peer.match_keys.iter().filter_map(|key| Some((self.matches.get(key)?, key.kind)));
        found.filter_map(|(holder, kind)| Some((&holder.record, holder.credential()?, kind))).collect()
    }

    /// Names of the networks that hold the address, sorted, [`ANY_NETWORK`] among them.
    pub fn networks_of(&self, address: IpAddr) -> Vec<&str> {
        let mut names: Vec<&str> = vec![ANY_NETWORK];
        for (_, list) in self.by_address.matches(address.to_canonical()) {
            names.extend(list.iter().map(NetworkName::as_str));
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    pub fn partner(&self, id: &PartnerId) -> Option<&Arc<PartnerRecord>> {
        self.partners.get(id)
    }

    /// Sorted by id.
    pub fn partners(&self) -> impl Iterator<Item = &Arc<PartnerRecord>> {
        self.partners.values()
    }

    /// Those behind an id, sorted by id.
    pub fn partners_after(&self, after: Option<&PartnerId>) -> impl Iterator<Item = &Arc<PartnerRecord>> {
        self.partners.range::<_, PartnerId>(behind(after)).map(|(_, record)| record)
    }

    /// Grants behind an id, sorted by id, with the partner that has each.
    pub fn grants_after(&self, after: Option<&GrantId>) -> impl Iterator<Item = (&Arc<PartnerRecord>, &Grant)> {
        let all = self.grants.range::<_, GrantId>(behind(after));
        all.filter_map(|(id, record)| Some((record, find_grant(record, id.as_str())?)))
    }

    /// Credentials behind an id, sorted by id, with the partner that has each.
    pub fn credentials_after(
        &self,
        after: Option<&CredentialId>,
    ) -> impl Iterator<Item = (&Arc<PartnerRecord>, &Credential)> {
        let all = self.credentials.range::<_, CredentialId>(behind(after));
        all.filter_map(|(id, record)| Some((record, find_credential(record, id)?)))
    }

    pub fn partner_count(&self) -> usize {
        self.partners.len()
    }

    /// Whether nobody under this anchor is served.
    pub fn is_locked(&self, anchor: &AnchorName) -> bool {
        let it_is =
            |locked: &Locked| matches!(locked, Locked::Everybody) || matches!(locked, Locked::Under(a) if a == anchor);
        self.lockdowns.keys().any(it_is)
    }

    pub fn lockdowns(&self) -> impl Iterator<Item = &Lockdown> {
        self.lockdowns.values()
    }

    /// The API key of which this is kept, and the partner that has it.
    pub fn api_key(&self, hash: &KeyHash) -> Option<(&Arc<PartnerRecord>, &ApiKey)> {
        let (record, place) = self.api_keys.get(hash)?;
        Some((record, usize::try_from(*place).ok().and_then(|place| record.api_keys.get(place))?))
    }

    /// API keys behind an id, sorted by id, with the partner that has each.
    pub fn api_keys_after(&self, after: Option<&CredentialId>) -> impl Iterator<Item = (&Arc<PartnerRecord>, &ApiKey)> {
        let all = self.credentials.range::<_, CredentialId>(behind(after));
        all.filter_map(|(id, record)| Some((record, find_api_key(record, id)?)))
    }

    /// The partner that has this credential, or this API key.
    pub fn with_credential(&self, id: &CredentialId) -> Option<&Arc<PartnerRecord>> {
        self.credentials.get(id)
    }

    /// The partner that has this grant.
    pub fn with_grant(&self, id: &GrantId) -> Option<&Arc<PartnerRecord>> {
        self.grants.get(id)
    }

    pub fn anchor(&self, name: &AnchorName) -> Option<&Arc<Anchor>> {
        self.anchors.get(name)
    }

    pub fn anchors(&self) -> impl Iterator<Item = &Arc<Anchor>> {
        self.anchors.values()
    }

    pub fn network(&self, name: &NetworkName) -> Option<&Arc<Network>> {
        self.networks.get(name)
    }

    pub fn networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.networks.values()
    }

    /// Whether an anchor is bound to a partner.
    pub fn may_speak_for(&self, anchor: &AnchorName, partner: &PartnerId) -> bool {
        self.bound.get(anchor).is_some_and(|partners| partners.contains(partner))
    }

    fn remove_partner(&mut self, id: &PartnerId) {
        let Some(record) = self.partners.remove(id) else { return };
        for credential in &record.credentials {
            self.matches.remove(&credential.matching.key(&credential.anchor));
            if let Some(bytes) = credential.matching.bytes_of_client() {
                self.clients.remove(&bytes);
            }
            self.credentials.remove(&credential.id);
        }
        for key in &record.api_keys {
            self.api_keys.remove(&key.hash);
            self.credentials.remove(&key.id);
        }
        for grant in &record.grants {
            self.grants.remove(&grant.id);
        }
    }

    fn insert_anchor(&mut self, name: &AnchorName, anchor: Anchor) {
        let before = self.anchors.get(name).zip(self.bound.get(name));
        let bound = match before.filter(|(old, bound)| old.partners.len() == bound.len()) {
            // One name more on a list of a hundred thousand: the others are not looked at again.
            Some((old, bound)) => {
                let (gone, come) = middles(&old.partners, &anchor.partners);
                let mut bound = HashSet::clone(bound);
                for id in gone {
                    bound.remove(id);
                }
                bound.extend(come.iter().cloned());
                bound
            }
            None => anchor.partners.iter().cloned().collect(),
        };
        self.bound.insert(name.clone(), Arc::new(bound));
        self.anchors.insert(name.clone(), Arc::new(anchor));
    }

    fn insert_partner(&mut self, record: &Arc<PartnerRecord>, problems: &mut Vec<Inconsistent>) {
        let id = &record.partner.id;
        for (place, credential) in (0..).zip(&record.credentials) {
            let at = ["credentials", credential.id.as_str(), "match"];
            let kind = credential.matching.kind().as_str();
            let holder = Holder { record: record.clone(), place };
            if let Some(other) = self.credentials.insert(credential.id.clone(), record.clone()) {
                let reason = format!("the credential id `{}` is also one of `{}`", credential.id, other.partner.id);
                problems.push(Inconsistent::new(id, &at[..2], reason));
            }
            if let Some(bytes) = credential.matching.bytes_of_client() {
                let other = self.clients.insert(bytes, holder.clone());
                if let Some((other, theirs)) = other.as_ref().and_then(named).filter(|(other, _)| *other != id) {
                    let reason = format!(
                        "`{theirs}` of `{other}` is the same {kind}: one client cannot be two partners, whichever \
                         anchor vouches for it"
                    );
                    problems.push(Inconsistent::new(id, &at, reason));
                }
            }
            let other = self.matches.insert(credential.matching.key(&credential.anchor), holder);
            let other_state = other.as_ref().and_then(Holder::credential).map(|c| c.state);
            if let Some((other, theirs)) = other.as_ref().and_then(named) {
                let revoked =
                    other_state.filter(|state| *state == CredentialState::Revoked).map_or("", |_| ", and is revoked");
                let reason = format!(
                    "`{theirs}` of `{other}` matches the same {kind} under the anchor `{}`{revoked}",
                    credential.anchor
                );
                problems.push(Inconsistent::new(id, &at, reason));
            }
        }
        for (place, key) in (0..).zip(&record.api_keys) {
            let at = ["api_keys", key.id.as_str(), "hash"];
            if let Some(other) = self.credentials.insert(key.id.clone(), record.clone()) {
                let reason = format!("the id `{}` is also one of `{}`", key.id, other.partner.id);
                problems.push(Inconsistent::new(id, &at[..2], reason));
            }
            if let Some((other, _)) = self.api_keys.insert(key.hash, (record.clone(), place)) {
                let reason = format!("is that of another key, of `{}`", other.partner.id);
                problems.push(Inconsistent::new(id, &at, reason));
            }
        }
        for grant in &record.grants {
            if let Some(other) = self.grants.insert(grant.id.clone(), record.clone()) {
                let reason = format!("the grant id `{}` is also one of `{}`", grant.id, other.partner.id);
                problems.push(Inconsistent::new(id, &["grants", grant.id.as_str()], reason));
            }
        }
        self.partners.insert(id.clone(), record.clone());
    }

    fn check_references(&self, record: &PartnerRecord, problems: &mut Vec<Inconsistent>) {
        let id = &record.partner.id;
        let mut wrong = |keys: &[&str], reason: String| problems.push(Inconsistent::new(id, keys, reason));
        // What has ended is kept for what it says; what it refers to may go.
        if record.partner.is_closed() {
            return;
        }
        let unknown = |name: &NetworkName| name.as_str() != ANY_NETWORK && !self.networks.contains_key(name);
        for name in record.partner.networks.iter().filter(|n| unknown(n)) {
            wrong(&["networks", name.as_str()], format!("there is no network `{name}`"));
        }
        for credential in &record.credentials {
            let (at, anchor) = (["credentials", credential.id.as_str(), "anchor"], &credential.anchor);
            // What was revoked is kept for what it says; its anchor may go.
            if credential.revoked.is_some() {
                continue;
            }
            if !self.anchors.contains_key(anchor) {
                wrong(&at, format!("there is no anchor `{anchor}`"));
            } else if !self.may_speak_for(anchor, id) {
                wrong(&at, format!("the anchor `{anchor}` is not bound to `{id}`: add it to the anchor's partners"));
            }
            if let Some(retiring) = &credential.retiring {
                let at = ["credentials", credential.id.as_str(), "retiring", "successor"];
                if find_credential(record, &retiring.successor).is_none() {
                    wrong(&at, format!("`{id}` has no credential `{}`", retiring.successor));
                } else if succeeds_itself(record, credential) {
                    wrong(&at, "credentials would succeed each other in a circle".into());
                }
            }
        }
        for grant in &record.grants {
            for name in grant.networks.iter().flatten().filter(|n| unknown(n)) {
                let at = ["grants", grant.id.as_str(), "networks", name.as_str()];
                wrong(&at, format!("there is no network `{name}`"));
            }
            for name in grant.credentials.iter().flatten().filter(|c| find_credential(record, c).is_none()) {
                let at = ["grants", grant.id.as_str(), "credentials", name.as_str()];
                wrong(&at, format!("`{id}` has no credential `{name}`"));
            }
        }
        for key in record.api_keys.iter().filter(|key| key.revoked.is_none()) {
            for name in key.networks.iter().flatten().filter(|n| unknown(n)) {
                let at = ["api_keys", key.id.as_str(), "networks", name.as_str()];
                wrong(&at, format!("there is no network `{name}`"));
            }
            let successor = key.retiring.as_ref().map(|retiring| &retiring.successor);
            if let Some(successor) = successor.filter(|successor| find_api_key(record, successor).is_none()) {
                let at = ["api_keys", key.id.as_str(), "retiring", "successor"];
                wrong(&at, format!("`{id}` has no API key `{successor}`"));
            }
        }
    }
}

fn behind<T>(after: Option<&T>) -> (Bound<&T>, Bound<&T>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

/// Whether a credential is its own successor, over whatever others.
fn succeeds_itself(record: &PartnerRecord, credential: &Credential) -> bool {
    let next = |c: &Credential| c.retiring.as_ref().and_then(|r| find_credential(record, &r.successor));
    let mut chain = std::iter::successors(next(credential), |c| next(c)).take(record.credentials.len());
    chain.any(|c| c.id == credential.id)
}

/// Whose credential it is, and which.
fn named(holder: &Holder) -> Option<(&PartnerId, &CredentialId)> {
    holder.credential().map(|credential| (&holder.record.partner.id, &credential.id))
}

/// A registry that is read from where it is kept, one partner at a time, so that none is in memory twice.
pub struct Reading {
    registry: Registry,
    compact: Compact,
    problems: Vec<Inconsistent>,
}

impl Reading {
    /// Begins with what partners refer to.
    pub fn new(revision: u64, anchors: Vec<Anchor>, networks: Vec<Network>, lockdowns: Vec<Lockdown>) -> Self {
        let mut registry = Registry { revision, ..Registry::default() };
        for anchor in anchors {
            registry.insert_anchor(&anchor.name.clone(), anchor);
        }
        registry.networks = networks.into_iter().map(|n| (n.name.clone(), Arc::new(n))).collect();
        registry.by_address = Arc::new(address_table(registry.networks.values()));
        registry.lockdowns = Arc::new(lockdowns.into_iter().map(|l| (l.locked.clone(), l)).collect());
        Reading { registry, compact: Compact::default(), problems: Vec::new() }
    }

    pub fn partner(&mut self, record: PartnerRecord) {
        let record = Arc::new(self.compact.record(record));
        self.registry.insert_partner(&record, &mut self.problems);
        self.registry.check_references(&record, &mut self.problems);
    }

    /// # Errors
    /// Every reason why what was read is not consistent.
    pub fn finish(self) -> Result<Registry, Vec<Inconsistent>> {
        self.registry.unless(self.problems)
    }
}

/// The credential of this id; `credentials` are sorted.
pub fn find_credential<'a>(record: &'a PartnerRecord, id: &CredentialId) -> Option<&'a Credential> {
    record.credentials.binary_search_by(|c| c.id.cmp(id)).ok().and_then(|n| record.credentials.get(n))
}

/// The API key of this id; `api_keys` are sorted.
pub fn find_api_key<'a>(record: &'a PartnerRecord, id: &CredentialId) -> Option<&'a ApiKey> {
    record.api_keys.binary_search_by(|k| k.id.cmp(id)).ok().and_then(|n| record.api_keys.get(n))
}

/// The grant of this id; `grants` are sorted.
pub fn find_grant<'a>(record: &'a PartnerRecord, id: &str) -> Option<&'a Grant> {
    record.grants.binary_search_by(|g| g.id.as_str().cmp(id)).ok().and_then(|n| record.grants.get(n))
}

fn address_table<'a>(networks: impl Iterator<Item = &'a Arc<Network>>) -> IpNetworkTable<Vec<NetworkName>> {
    let mut table: IpNetworkTable<Vec<NetworkName>> = IpNetworkTable::new();
    for network in networks {
        for cidr in &network.cidrs {
            let Ok(key) = IpNetwork::new(cidr.network(), cidr.prefix_len()) else { continue };
            match table.exact_match_mut(key) {
                Some(names) => names.push(network.name.clone()),
                None => {
                    table.insert(key, vec![network.name.clone()]);
                }
            }
        }
    }
    table
}

#[cfg(test)]
mod tests;
