//! Who may call: an immutable index from a certificate to exactly one partner.
//!
//! In: partner records, networks and anchors as the store holds them. Out: [`Registry::resolve`] in O(1) of the number
//! of partners, and [`Registry::networks_of`]. A change makes a new registry that shares all that did not change.
//! Must never: choose between partners.

mod derived;

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
    Partner(PartnerId, Option<PartnerRecord>),
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
#[derive(Clone)]
pub struct Registry {
    /// Grows with every change; stored with the changes.
    revision: u64,
    partners: imbl::HashMap<PartnerId, Arc<PartnerRecord>>,
    matches: imbl::HashMap<MatchKey, (PartnerId, CredentialId)>,
    /// Certificates and keys that are registered, under whatever anchor: none is for two partners.
    clients: imbl::HashMap<(MatchKind, Fingerprint), (PartnerId, CredentialId)>,
    credentials: imbl::HashMap<CredentialId, PartnerId>,
    grants: imbl::HashMap<GrantId, PartnerId>,
    anchors: imbl::OrdMap<AnchorName, Arc<Anchor>>,
    /// The partners that each anchor may speak for.
    bound: imbl::HashMap<AnchorName, Arc<HashSet<PartnerId>>>,
    networks: imbl::OrdMap<NetworkName, Arc<Network>>,
    by_address: Arc<IpNetworkTable<Vec<NetworkName>>>,
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
            partners: imbl::HashMap::new(),
            matches: imbl::HashMap::new(),
            clients: imbl::HashMap::new(),
            credentials: imbl::HashMap::new(),
            grants: imbl::HashMap::new(),
            anchors: imbl::OrdMap::new(),
            bound: imbl::HashMap::new(),
            networks: imbl::OrdMap::new(),
            by_address: Arc::new(IpNetworkTable::new()),
        }
    }
}

impl Registry {
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The registry after `changes`, which belong together.
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
                Change::Anchor(name, Some(anchor)) => {
                    next.anchors.insert(name.clone(), Arc::new(anchor.clone()));
                    next.bound.insert(name.clone(), Arc::new(anchor.partners.iter().cloned().collect()));
                }
            }
        }
        for change in changes {
            if let Change::Partner(_, Some(record)) = change {
                next.insert_partner(record, &mut problems);
            }
        }
        let whole = changes.iter().any(|c| matches!(c, Change::Network(_, None) | Change::Anchor(..)));
        let touched: Vec<Arc<PartnerRecord>> = if whole {
            // A network or anchor that others refer to has changed: every reference is looked at again.
            next.partners.values().cloned().collect()
        } else {
            changes
                .iter()
                .filter_map(|c| match c {
                    Change::Partner(id, Some(_)) => next.partners.get(id).cloned(),
                    _ => None,
                })
                .collect()
        };
        for record in &touched {
            next.check_references(record, &mut problems);
        }
        if changes.iter().any(|c| matches!(c, Change::Network(..))) {
            next.by_address = Arc::new(address_table(next.networks.values()));
        }
        if problems.is_empty() {
            Ok(next)
        } else {
            problems.sort();
            problems.dedup();
            Err(problems)
        }
    }

    /// Finds the one partner that the peer is.
    pub fn resolve(&self, peer: &Peer) -> Resolution<'_> {
        let mut found: Option<(&PartnerId, &CredentialId, MatchKind)> = None;
        for key in &peer.match_keys {
            let Some((partner, credential)) = self.matches.get(key) else { continue };
            match found {
                None => found = Some((partner, credential, key.kind)),
                Some((first, ..)) if first != partner => return Resolution::Ambiguous,
                Some(_) => {}
            }
        }
        let Some((partner, credential, matched_by)) = found else { return Resolution::Unknown };
        let bound = self.may_speak_for(&peer.anchor, partner);
        let Some(record) = self.partners.get(partner) else { return Resolution::Unknown };
        let Some(credential) = find_credential(record, credential) else { return Resolution::Unknown };
        if !bound {
            return Resolution::AnchorNotBound;
        }
        Resolution::Known { record, credential, matched_by }
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

    /// In no particular order.
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

    fn insert_partner(&mut self, record: &PartnerRecord, problems: &mut Vec<Inconsistent>) {
        let id = &record.partner.id;
        for credential in &record.credentials {
            let at = ["credentials", credential.id.as_str(), "match"];
            let kind = credential.matching.kind().as_str();
            if let Some(other) = self.credentials.insert(credential.id.clone(), id.clone()) {
                let reason = format!("the credential id `{}` is also one of `{other}`", credential.id);
                problems.push(Inconsistent::new(id, &at[..2], reason));
            }
            if let Some(bytes) = credential.matching.bytes_of_client() {
                match self.clients.insert(bytes, (id.clone(), credential.id.clone())) {
                    Some((other, theirs)) if other != *id => {
                        let reason = format!(
                            "`{theirs}` of `{other}` is the same {kind}: one client cannot be two partners, whichever \
                             anchor vouches for it"
                        );
                        problems.push(Inconsistent::new(id, &at, reason));
                    }
                    _ => {}
                }
            }
            let key = credential.matching.key(&credential.anchor);
            if let Some((other, theirs)) = self.matches.insert(key, (id.clone(), credential.id.clone())) {
                let reason =
                    format!("`{theirs}` of `{other}` matches the same {kind} under the anchor `{}`", credential.anchor);
                problems.push(Inconsistent::new(id, &at, reason));
            }
        }
        for grant in &record.grants {
            if let Some(other) = self.grants.insert(grant.id.clone(), id.clone()) {
                let reason = format!("the grant id `{}` is also one of `{other}`", grant.id);
                problems.push(Inconsistent::new(id, &["grants", grant.id.as_str()], reason));
            }
        }
        self.partners.insert(id.clone(), Arc::new(record.clone()));
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
        Change::Partner(id, Some(PartnerRecord { partner, credentials, grants: vec![] }))
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
        let again = registry.with(2, &changes[2..]).unwrap();
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
    fn mapped_addresses_are_ipv4() {
        let registry =
            Registry::default().with(1, &[network("dc1", "192.0.2.0/24"), network("all4", "0.0.0.0/0")]).unwrap();
        assert_eq!(registry.networks_of("::ffff:192.0.2.7".parse().unwrap()), ["all4", "any", "dc1"]);
        assert_eq!(registry.networks_of("::1".parse().unwrap()), ["any"]);
    }

    proptest! {
        /// Whatever the order of changes, the index is the one that a full build makes.
        #[test]
        fn deltas_and_a_full_build_agree(steps in proptest::collection::vec((0u8..4, 0u8..4, any::<bool>()), 1..30)) {
            let certs: Vec<Certificate> = (0..4).map(|n| leaf(&format!("spiffe://a/{n}"))).collect();
            let mut registry = Registry::default().with(0, &[anchor("ca", &["p0", "p1", "p2", "p3"])]).unwrap();
            for (n, (who, which, gone)) in steps.iter().enumerate() {
                let id = format!("p{who}");
                let change = if *gone {
                    Change::Partner(PartnerId::parse(&id).unwrap(), None)
                } else {
                    partner(&id, &[(&format!("c{which}"), "ca", Match::FingerprintSha256(certs[usize::from(*which)].fingerprint))])
                };
                if let Ok(next) = registry.with(n as u64 + 1, &[change]) {
                    registry = next;
                }
                let mut all = vec![anchor("ca", &["p0", "p1", "p2", "p3"])];
                all.extend(registry.partners().map(|r| Change::Partner(r.partner.id.clone(), Some((**r).clone()))));
                let full = Registry::default().with(registry.revision(), &all).unwrap();
                for cert in &certs {
                    prop_assert_eq!(known(registry.resolve(&peer(cert, "ca"))), known(full.resolve(&peer(cert, "ca"))));
                }
            }
        }
    }
}
