//! Who may call: an immutable index from a certificate to exactly one partner.
//!
//! In: partner records, networks and anchors as the store holds them. Out: [`Registry::resolve`] in O(1) of the number
//! of partners, and [`Registry::networks_of`]. A change makes a new registry that shares all that did not change.
//! Must never: choose between partners.

mod compact;
mod derived;

pub use compact::Compact;
pub use derived::Derived;

use crate::identity::{Fingerprint, MatchKey, MatchKind, Peer};
use crate::name::{AnchorName, CredentialId, GrantId, NetworkName, PartnerId};
use crate::partner::{ANY_NETWORK, Anchor, Credential, Grant, Network, PartnerRecord};
use ip_network::IpNetwork;
use ip_network_table::IpNetworkTable;
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// One change of the registry: a noun as it is now, or gone.
#[derive(Clone, Debug)]
pub enum Change {
    Partner(PartnerId, Option<Arc<PartnerRecord>>),
    Network(NetworkName, Option<Network>),
    Anchor(AnchorName, Option<Anchor>),
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

impl fmt::Display for Inconsistent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`partners.{}.{}`: {}", self.partner, self.keys.join("."), self.reason)
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
    credentials: imbl::OrdMap<CredentialId, Arc<PartnerRecord>>,
    grants: imbl::OrdMap<GrantId, Arc<PartnerRecord>>,
    anchors: imbl::OrdMap<AnchorName, Arc<Anchor>>,
    /// The partners that each anchor may speak for.
    bound: imbl::OrdMap<AnchorName, Arc<HashSet<PartnerId>>>,
    networks: imbl::OrdMap<NetworkName, Arc<Network>>,
    by_address: Arc<IpNetworkTable<Vec<NetworkName>>>,
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
            grants: imbl::OrdMap::new(),
            anchors: imbl::OrdMap::new(),
            bound: imbl::OrdMap::new(),
            networks: imbl::OrdMap::new(),
            by_address: Arc::new(IpNetworkTable::new()),
        }
    }
}

impl Registry {
    pub fn revision(&self) -> u64 {
        self.revision
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

    pub fn partner_count(&self) -> usize {
        self.partners.len()
    }

    pub fn anchor(&self, name: &AnchorName) -> Option<&Arc<Anchor>> {
        self.anchors.get(name)
    }

    pub fn anchors(&self) -> impl Iterator<Item = &Arc<Anchor>> {
        self.anchors.values()
    }

    pub fn networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.networks.values()
    }

    fn may_speak_for(&self, anchor: &AnchorName, partner: &PartnerId) -> bool {
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
        for grant in &record.grants {
            self.grants.remove(&grant.id);
        }
    }

    fn insert_anchor(&mut self, name: &AnchorName, anchor: Anchor) {
        self.bound.insert(name.clone(), Arc::new(anchor.partners.iter().cloned().collect()));
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
            if let Some((other, theirs)) = other.as_ref().and_then(named) {
                let reason =
                    format!("`{theirs}` of `{other}` matches the same {kind} under the anchor `{}`", credential.anchor);
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
        let unknown = |name: &NetworkName| name.as_str() != ANY_NETWORK && !self.networks.contains_key(name);
        for name in record.partner.networks.iter().filter(|n| unknown(n)) {
            wrong(&["networks", name.as_str()], format!("there is no network `{name}`"));
        }
        for credential in &record.credentials {
            let (at, anchor) = (["credentials", credential.id.as_str(), "anchor"], &credential.anchor);
            if !self.anchors.contains_key(anchor) {
                wrong(&at, format!("there is no anchor `{anchor}`"));
            } else if !self.may_speak_for(anchor, id) {
                wrong(&at, format!("the anchor `{anchor}` is not bound to `{id}`: add it to the anchor's partners"));
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
    }
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
    pub fn new(revision: u64, anchors: Vec<Anchor>, networks: Vec<Network>) -> Self {
        let mut registry = Registry { revision, ..Registry::default() };
        for anchor in anchors {
            registry.insert_anchor(&anchor.name.clone(), anchor);
        }
        registry.networks = networks.into_iter().map(|n| (n.name.clone(), Arc::new(n))).collect();
        registry.by_address = Arc::new(address_table(registry.networks.values()));
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
mod tests {
    use super::*;
    use crate::clock::{UnixNanos, Zone};
    use crate::identity::{Certificate, Fingerprint, Match};
    use crate::partner::{ClientAuthUsage, CredentialState, Partner, PartnerState, Period};
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, SanType};
    use std::collections::BTreeMap;

    fn leaf(uri: &str) -> Certificate {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        Certificate::from_der(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der()).unwrap()
    }

    fn peer(leaf: &Certificate, anchor: &str) -> Peer {
        Peer::new(leaf.clone(), vec![], AnchorName::parse(anchor).unwrap(), Fingerprint([0; 32]), 1)
    }

    fn anchor(name: &str, partners: &[&str]) -> Change {
        let name = AnchorName::parse(name).unwrap();
        Change::Anchor(
            name.clone(),
            Some(Anchor {
                name,
                certificate: vec![],
                partners: partners.iter().map(|p| PartnerId::parse(p).unwrap()).collect(),
                environments: vec![],
                client_auth: ClientAuthUsage::Required,
            }),
        )
    }

    fn network(name: &str, cidr: &str) -> Change {
        let name = NetworkName::parse(name).unwrap();
        Change::Network(name.clone(), Some(Network { name, cidrs: vec![cidr.parse().unwrap()] }))
    }

    fn partner(id: &str, credentials: &[(&str, &str, Match)]) -> Change {
        let id = PartnerId::parse(id).unwrap();
        let mut credentials: Vec<Credential> = credentials
            .iter()
            .map(|(id, anchor, matching)| Credential {
                id: CredentialId::parse(id).unwrap(),
                anchor: AnchorName::parse(anchor).unwrap(),
                matching: matching.clone(),
                state: CredentialState::Active,
                labels: Default::default(),
                environments: vec![],
            })
            .collect();
        credentials.sort_by(|a, b| a.id.cmp(&b.id));
        let partner = Partner {
            id: id.clone(),
            name: "n".into(),
            owner: "o".into(),
            state: PartnerState::Active,
            labels: Default::default(),
            time_zone: Zone::parse("UTC").unwrap(),
            engagement: Period { starts: Some(UnixNanos(0)), ends: None },
            networks: vec![],
        };
        Change::Partner(id, Some(Arc::new(PartnerRecord { partner, credentials, grants: vec![] })))
    }

    fn known(resolution: Resolution<'_>) -> Option<(String, String)> {
        match resolution {
            Resolution::Known { record, credential, .. } => {
                Some((record.partner.id.to_string(), credential.id.to_string()))
            }
            _ => None,
        }
    }

    #[test]
    fn two_certificates_of_one_partner_with_the_same_san_are_a_rotation() {
        let uri = "spiffe://acme.example/billing";
        let (old, new) = (leaf(uri), leaf(uri));
        let registry = Registry::default()
            .with(
                1,
                &[
                    anchor("ca", &["acme"]),
                    partner(
                        "acme",
                        &[
                            ("old", "ca", Match::FingerprintSha256(old.fingerprint)),
                            ("name", "ca", Match::uri(uri).unwrap()),
                        ],
                    ),
                ],
            )
            .unwrap();
        assert_eq!(known(registry.resolve(&peer(&old, "ca"))), Some(("acme".into(), "old".into())), "most specific");
        assert_eq!(known(registry.resolve(&peer(&new, "ca"))), Some(("acme".into(), "name".into())));
    }

    #[test]
    fn what_was_derived_is_used_for_the_same_record_credential_and_anchor_only() {
        let uri = "spiffe://acme.example/billing";
        let cert = leaf(uri);
        let credentials = [
            ("exact", "ca", Match::FingerprintSha256(cert.fingerprint)),
            ("name", "ca", Match::uri(uri).unwrap()),
            ("other-ca", "ca2", Match::uri(uri).unwrap()),
        ];
        let changes = [anchor("ca", &["acme"]), anchor("ca2", &["acme"]), partner("acme", &credentials)];
        let registry = Registry::default().with(1, &changes).unwrap();
        let again = registry.with(2, &[partner("acme", &credentials)]).unwrap();
        let derived = Derived::<usize, usize>::new(10);
        let mut made = 0;
        let mut credential = |registry: &Registry, id: &str, anchor: &str| {
            let record = registry.partner(&PartnerId::parse("acme").unwrap()).unwrap();
            let credential = find_credential(record, &CredentialId::parse(id).unwrap()).unwrap();
            derived.credential(record, credential, &peer(&cert, anchor), || {
                made += 1;
                made
            })
        };
        let uses = [
            (&registry, "exact", "ca", 1),
            (&registry, "exact", "ca", 1),
            (&registry, "name", "ca", 2),
            (&registry, "name", "ca2", 3),
            (&registry, "name", "ca2", 3),
            (&again, "name", "ca2", 4),
        ];
        for (registry, id, anchor, expected) in uses {
            assert_eq!(credential(registry, id, anchor), expected, "{id} {anchor}");
        }
        let record = |registry: &Registry| registry.partner(&PartnerId::parse("acme").unwrap()).unwrap().clone();
        assert_eq!(derived.partner(&record(&registry), || 1), 1);
        assert_eq!(derived.partner(&record(&registry), || 2), 1);
        assert_eq!(derived.partner(&record(&again), || 3), 3);
    }

    #[test]
    fn credentials_of_two_partners_are_ambiguous() {
        let cert = leaf("spiffe://acme.example/billing");
        let registry = Registry::default()
            .with(
                1,
                &[
                    anchor("ca", &["acme", "globex"]),
                    partner("acme", &[("a", "ca", Match::FingerprintSha256(cert.fingerprint))]),
                    partner("globex", &[("b", "ca", Match::uri("spiffe://acme.example/billing").unwrap())]),
                ],
            )
            .unwrap();
        assert!(matches!(registry.resolve(&peer(&cert, "ca")), Resolution::Ambiguous));
    }

    #[test]
    fn the_same_key_for_two_partners_is_refused() {
        let cert = leaf("spiffe://acme.example/billing");
        let problems = Registry::default()
            .with(
                1,
                &[
                    anchor("ca", &["acme", "globex"]),
                    partner("acme", &[("a", "ca", Match::SpkiSha256(cert.spki_sha256))]),
                    partner("globex", &[("b", "ca", Match::SpkiSha256(cert.spki_sha256))]),
                ],
            )
            .err()
            .unwrap();
        assert!(
            problems.iter().any(|p| {
                let said = p.to_string();
                said.contains(".b.match") && said.contains("`a`") && said.contains("spki")
            }),
            "{problems:?}"
        );
    }

    #[test]
    fn an_anchor_speaks_only_for_its_partners() {
        let cert = leaf("spiffe://acme.example/billing");
        let acme = partner("acme", &[("a", "ca", Match::FingerprintSha256(cert.fingerprint))]);
        let problems = Registry::default().with(1, &[anchor("ca", &["globex"]), acme.clone()]).err().unwrap();
        assert!(problems[0].reason.contains("not bound to `acme`"), "{problems:?}");
        let registry = Registry::default().with(1, &[anchor("ca", &["acme"]), acme]).unwrap();
        assert!(matches!(registry.resolve(&peer(&cert, "other")), Resolution::Unknown));
    }

    #[test]
    fn removing_what_is_still_named_is_refused() {
        let cert = leaf("spiffe://acme.example/billing");
        let acme = partner("acme", &[("a", "ca", Match::FingerprintSha256(cert.fingerprint))]);
        let registry = Registry::default().with(1, &[anchor("ca", &["acme"]), acme]).unwrap();
        assert!(registry.with(2, &[Change::Anchor(AnchorName::parse("ca").unwrap(), None)]).is_err());
    }

    #[test]
    fn a_network_that_is_still_named_is_not_removed() {
        let named = |change: fn(&mut PartnerRecord)| match partner("acme", &[]) {
            Change::Partner(id, Some(record)) => {
                let mut record = PartnerRecord::clone(&record);
                change(&mut record);
                Change::Partner(id, Some(Arc::new(record)))
            }
            other => other,
        };
        let acme = named(|r| r.partner.networks.push(NetworkName::parse("dc1").unwrap()));
        let registry = Registry::default().with(1, &[network("dc1", "192.0.2.0/24"), acme]).unwrap();
        let gone = Change::Network(NetworkName::parse("dc1").unwrap(), None);
        let problems = registry.with(2, std::slice::from_ref(&gone)).err().unwrap();
        assert!(problems[0].reason.contains("there is no network `dc1`"), "{problems:?}");
        assert!(registry.with(2, &[gone, named(|_| {})]).is_ok());
    }

    #[test]
    fn an_anchor_is_not_narrowed_while_a_partner_has_a_credential_under_it() {
        let cert = leaf("spiffe://acme.example/billing");
        let under = |name: &str| partner("acme", &[("a", name, Match::FingerprintSha256(cert.fingerprint))]);
        let registry = Registry::default()
            .with(1, &[anchor("ca", &["acme", "globex"]), anchor("other", &["acme"]), under("ca")])
            .unwrap();
        let narrow = anchor("ca", &["globex"]);
        let gone = Change::Anchor(AnchorName::parse("ca").unwrap(), None);
        for (change, said) in [(&narrow, "not bound to `acme`"), (&gone, "there is no anchor `ca`")] {
            let problems = registry.with(2, std::slice::from_ref(change)).err().unwrap();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].reason.contains(said), "{problems:?}");
            // Where the partner goes at the same time, or its credential moves, nothing is in the way.
            let leaves = Change::Partner(PartnerId::parse("acme").unwrap(), None);
            assert!(registry.with(2, &[change.clone(), leaves]).is_ok());
            assert!(registry.with(2, &[change.clone(), under("other")]).is_ok());
        }
        // Who has no credential there is no reason to keep the list as it is.
        let narrowed = registry.with(2, &[anchor("ca", &["acme"])]).unwrap();
        assert!(matches!(narrowed.resolve(&peer(&cert, "ca")), Resolution::Known { .. }));
        assert!(narrowed.with(3, &[anchor("ca", &["acme", "initech"])]).is_ok());
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let registry =
            Registry::default().with(1, &[network("dc1", "192.0.2.0/24"), network("all4", "0.0.0.0/0")]).unwrap();
        assert_eq!(registry.networks_of("::ffff:192.0.2.7".parse().unwrap()), ["all4", "any", "dc1"]);
        assert_eq!(registry.networks_of("::1".parse().unwrap()), ["any"]);
    }

    /// What a registry is made of, as a full build is given it.
    #[derive(Clone, Default)]
    struct Nouns {
        anchors: BTreeMap<AnchorName, Anchor>,
        networks: BTreeMap<NetworkName, Network>,
        partners: BTreeMap<PartnerId, Arc<PartnerRecord>>,
    }

    impl Nouns {
        fn after(&self, change: &Change) -> Nouns {
            let mut next = self.clone();
            match change.clone() {
                Change::Anchor(name, Some(anchor)) => drop(next.anchors.insert(name, anchor)),
                Change::Anchor(name, None) => drop(next.anchors.remove(&name)),
                Change::Network(name, Some(network)) => drop(next.networks.insert(name, network)),
                Change::Network(name, None) => drop(next.networks.remove(&name)),
                Change::Partner(id, Some(record)) => drop(next.partners.insert(id, record)),
                Change::Partner(id, None) => drop(next.partners.remove(&id)),
            }
            next
        }

        fn changes(&self) -> Vec<Change> {
            let mut all: Vec<Change> = Vec::new();
            all.extend(self.anchors.iter().map(|(name, a)| Change::Anchor(name.clone(), Some(a.clone()))));
            all.extend(self.networks.iter().map(|(name, n)| Change::Network(name.clone(), Some(n.clone()))));
            all.extend(self.partners.iter().map(|(id, r)| Change::Partner(id.clone(), Some(r.clone()))));
            all
        }

        fn read(&self) -> Result<Registry, Vec<Inconsistent>> {
            let (anchors, networks) = (self.anchors.values().cloned(), self.networks.values().cloned());
            let mut reading = Reading::new(7, anchors.collect(), networks.collect());
            self.partners.values().for_each(|record| reading.partner(PartnerRecord::clone(record)));
            reading.finish()
        }
    }

    /// One change out of four bytes: of two anchors, one network and four partners with one credential each.
    fn change(kind: u8, who: u8, which: u8, gone: bool, certs: &[Certificate]) -> Change {
        let ca = if which.is_multiple_of(2) { "ca" } else { "cb" };
        let id = format!("p{}", who % 4);
        match (kind % 8, gone) {
            (0, true) => Change::Anchor(AnchorName::parse(ca).unwrap(), None),
            (0 | 1, _) => {
                // The bits of a byte are the partners that it may speak for.
                let bound: Vec<String> = (0..4).filter(|n| who >> n & 1 == 1).map(|n| format!("p{n}")).collect();
                anchor(ca, &bound.iter().map(String::as_str).collect::<Vec<_>>())
            }
            (2, true) => Change::Network(NetworkName::parse("dc1").unwrap(), None),
            (2, false) => network("dc1", if who.is_multiple_of(2) { "192.0.2.0/24" } else { "198.51.100.0/24" }),
            (_, true) => Change::Partner(PartnerId::parse(&id).unwrap(), None),
            _ => {
                let matching = Match::FingerprintSha256(certs[usize::from(which / 2 % 4)].fingerprint);
                let Change::Partner(id, Some(record)) = partner(&id, &[(&format!("c{}", which % 4), ca, matching)])
                else {
                    unreachable!()
                };
                let mut record = PartnerRecord::clone(&record);
                if who.is_multiple_of(3) {
                    record.partner.networks.push(NetworkName::parse("dc1").unwrap());
                }
                Change::Partner(id, Some(Arc::new(record)))
            }
        }
    }

    proptest! {
        /// Whatever the order of changes, a change is accepted where a full build accepts what it leads to, and the
        /// index is the one that a full build makes.
        #[test]
        fn deltas_and_a_full_build_agree(
            steps in proptest::collection::vec((any::<u8>(), any::<u8>(), any::<u8>(), any::<bool>()), 1..60),
        ) {
            let certs: Vec<Certificate> = (0..4).map(|n| leaf(&format!("spiffe://a/{n}"))).collect();
            let (mut nouns, mut registry) = (Nouns::default(), Registry::default());
            let first = [anchor("ca", &["p0", "p1", "p2", "p3"]), anchor("cb", &["p1"]), network("dc1", "192.0.2.0/24")];
            for change in &first {
                nouns = nouns.after(change);
                registry = registry.with(0, std::slice::from_ref(change)).unwrap();
            }
            for (n, (kind, who, which, gone)) in steps.into_iter().enumerate() {
                let change = change(kind, who, which, gone, &certs);
                let candidate = nouns.after(&change);
                let full = Registry::default().with(n as u64 + 1, &candidate.changes());
                let read = candidate.read();
                let delta = registry.with(n as u64 + 1, &[change]);
                prop_assert_eq!(delta.as_ref().err().is_some(), full.as_ref().err().is_some());
                prop_assert_eq!(read.as_ref().err().is_some(), full.as_ref().err().is_some());
                let (Ok(delta), Ok(full), Ok(read)) = (delta, full, read) else { continue };
                for (cert, ca) in certs.iter().flat_map(|cert| [(cert, "ca"), (cert, "cb")]) {
                    let peer = peer(cert, ca);
                    prop_assert_eq!(known(delta.resolve(&peer)), known(full.resolve(&peer)));
                    prop_assert_eq!(known(delta.resolve(&peer)), known(read.resolve(&peer)));
                }
                let address = "192.0.2.7".parse().unwrap();
                prop_assert_eq!(delta.networks_of(address), full.networks_of(address));
                prop_assert_eq!(delta.networks_of(address), read.networks_of(address));
                prop_assert!(delta.partners().eq(full.partners()) && delta.partners().eq(read.partners()));
                (nouns, registry) = (candidate, delta);
            }
        }
    }
}
