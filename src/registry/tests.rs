use super::*;
use crate::clock::{UnixNanos, Zone};
use crate::identity::{Certificate, Fingerprint, Match};
use crate::partner::{
    ClientAuthUsage, CredentialKind, CredentialState, Der, Lockdown, Locked, Partner, PartnerState, Period, Revocation,
    Root,
};
use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, SanType};
use std::collections::BTreeMap;

fn leaf(uri: &str) -> Certificate {
    let mut params = CertificateParams::default();
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
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
            root: Root::Certificate { certificate: Der(vec![]) },
            partners: partners.iter().map(|p| PartnerId::parse(p).unwrap()).collect(),
            environments: vec![],
            client_auth: ClientAuthUsage::Required,
            max_lifetime: None,
            revocation: Revocation::default(),
            denied: Vec::new(),
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
            ends: None,
            retiring: None,
            revoked: None,
        })
        .collect();
    credentials.sort_by(|a, b| a.id.cmp(&b.id));
    let partner = Partner {
        observe: Default::default(),
        id: id.clone(),
        name: "n".into(),
        owner: "o".into(),
        state: PartnerState::Active,
        suspension: None,
        labels: Default::default(),
        time_zone: Zone::parse("UTC").unwrap(),
        engagement: Period { starts: Some(UnixNanos(0)), ends: None },
        networks: vec![],
        contact: None,
        proofing: None,
        data_classification: None,
        review: None,
        offboarding: None,
    };
    Change::Partner(id, Some(Arc::new(PartnerRecord { partner, credentials, grants: vec![], api_keys: vec![] })))
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
        derived.credential(record, credential, (&peer(&cert, anchor), CredentialKind::X509), || {
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
    lockdowns: BTreeMap<Locked, Lockdown>,
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
            Change::Lockdown(locked, Some(lockdown)) => drop(next.lockdowns.insert(locked, lockdown)),
            Change::Lockdown(locked, None) => drop(next.lockdowns.remove(&locked)),
        }
        next
    }

    fn changes(&self) -> Vec<Change> {
        let mut all: Vec<Change> = Vec::new();
        all.extend(self.anchors.iter().map(|(name, a)| Change::Anchor(name.clone(), Some(a.clone()))));
        all.extend(self.networks.iter().map(|(name, n)| Change::Network(name.clone(), Some(n.clone()))));
        all.extend(self.partners.iter().map(|(id, r)| Change::Partner(id.clone(), Some(r.clone()))));
        all.extend(self.lockdowns.iter().map(|(locked, l)| Change::Lockdown(locked.clone(), Some(l.clone()))));
        all
    }

    fn read(&self) -> Result<Registry, Vec<Inconsistent>> {
        let (anchors, networks) = (self.anchors.values().cloned(), self.networks.values().cloned());
        let mut reading =
            Reading::new(7, anchors.collect(), networks.collect(), self.lockdowns.values().cloned().collect());
        self.partners.values().for_each(|record| reading.partner(PartnerRecord::clone(record)));
        reading.finish()
    }
}

fn lockdown(of: Option<&str>) -> Change {
    let locked = of.map_or(Locked::Everybody, |anchor| Locked::Under(AnchorName::parse(anchor).unwrap()));
    let (reason, author, at) = ("r".into(), "a".into(), UnixNanos(1));
    Change::Lockdown(locked.clone(), Some(Lockdown { locked, reason, author, at }))
}

#[test]
fn lockdown_is_of_everybody_or_of_those_under_one_anchor() {
    let locked = |registry: &Registry| ["ca", "cb"].map(|name| registry.is_locked(&AnchorName::parse(name).unwrap()));
    let none = Registry::default();
    let one = none.with(1, &[lockdown(Some("ca"))]).unwrap();
    let both = one.with(2, &[lockdown(None)]).unwrap();
    let rest = both.with(3, &[Change::Lockdown(Locked::Everybody, None)]).unwrap();
    assert_eq!(
        [locked(&none), locked(&one), locked(&both), locked(&rest)],
        [[false, false], [true, false], [true, true], [true, false]]
    );
}

/// One change out of four bytes: of two anchors, one network, lockdowns and four partners with one credential each.
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
        (3, true) => Change::Lockdown(Locked::Under(AnchorName::parse(ca).unwrap()), None),
        (3, false) => lockdown(who.is_multiple_of(2).then_some(ca)),
        (_, true) => Change::Partner(PartnerId::parse(&id).unwrap(), None),
        _ => {
            let matching = Match::FingerprintSha256(certs[usize::from(which / 2 % 4)].fingerprint);
            let Change::Partner(id, Some(record)) = partner(&id, &[(&format!("c{}", which % 4), ca, matching)]) else {
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
            prop_assert!(delta.lockdowns().eq(full.lockdowns()) && delta.lockdowns().eq(read.lockdowns()));
            prop_assert!(delta.partners().eq(full.partners()) && delta.partners().eq(read.partners()));
            (nouns, registry) = (candidate, delta);
        }
    }
}
