use super::*;
use crate::name::PartnerId;
use crate::partner::{Der, Revocation, RevocationMode};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer as Signer, KeyPair,
    KeyUsagePurpose,
};

mod bundle;
mod limbo;
mod pinned;

struct Ca {
    signer: Signer<'static, KeyPair>,
    der: Vec<u8>,
}

fn ca(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
    let mut params = ca_params(name);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    Ca { signer: Signer::new(params, key), der }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn intermediate(parent: &Ca, name: &str) -> Ca {
    let params = ca_params(name);
    let key = KeyPair::generate().unwrap();
    let der = params.signed_by(&key, &parent.signer).unwrap().der().to_vec();
    Ca { signer: Signer::new(params, key), der }
}

fn leaf(ca: &Ca, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    params.signed_by(&KeyPair::generate().unwrap(), &ca.signer).unwrap().der().to_vec()
}

fn anchor(name: &str, ca: &Ca) -> Arc<Anchor> {
    Arc::new(Anchor {
        name: AnchorName::parse(name).unwrap(),
        root: Root::Certificate { certificate: Der(ca.der.clone()) },
        partners: vec![PartnerId::parse("acme").unwrap()],
        environments: vec![],
        client_auth: ClientAuthUsage::Required,
        max_lifetime: None,
        revocation: Revocation::default(),
        denied: Vec::new(),
    })
}

fn trust(anchors: &[Arc<Anchor>]) -> Trust {
    Trust::build(1, anchors.iter(), &Material::default()).unwrap_or_else(|p| panic!("{p:?}"))
}

fn verify(trust: &Trust, chain: &[&[u8]]) -> Result<Peer, Reason> {
    let chain: Vec<CertificateDer<'_>> = chain.iter().map(|c| CertificateDer::from(*c)).collect();
    trust.verify(&chain, now()).map_err(|f| f.reason)
}

fn now() -> UnixNanos {
    crate::clock::Clock::new().now()
}

#[test]
fn two_anchors_with_the_same_subject_are_told_apart_by_the_path() {
    let (one, two) = (ca("Partner CA", |_| {}), ca("Partner CA", |_| {}));
    let trust = trust(&[anchor("one", &one), anchor("two", &two)]);
    assert_eq!(verify(&trust, &[&leaf(&one, |_| {})]).unwrap().anchor.as_str(), "one");
    assert_eq!(verify(&trust, &[&leaf(&two, |_| {})]).unwrap().anchor.as_str(), "two");
}

#[test]
fn anchors_with_equal_keys_are_refused_at_load() {
    let one = ca("Partner CA", |_| {});
    let problems =
        Trust::build(1, [anchor("one", &one), anchor("two", &one)].iter(), &Material::default()).err().unwrap();
    assert!(
        problems[0].anchor.as_str() == "two" && problems[0].reason.contains("the same public key as the anchor `one`"),
        "{problems:?}"
    );
}

#[test]
fn a_path_over_an_intermediate_ends_in_its_root() {
    let root = ca("Root", |_| {});
    let issuing = intermediate(&root, "Issuing");
    let trust = trust(&[anchor("root", &root)]);
    let peer = verify(&trust, &[&leaf(&issuing, |_| {}), &issuing.der]).unwrap();
    assert_eq!(peer.anchor.as_str(), "root");
    assert_eq!(peer.intermediates.len(), 1);
    assert_eq!(verify(&trust, &[&leaf(&issuing, |_| {})]).map(|_| ()), Err(Reason::CertificateUnknownIssuer));
}

#[test]
fn chains_that_prove_nothing_are_refused_by_name() {
    let good = ca("Good", |_| {});
    let other = ca("Other", |_| {});
    let trust = trust(&[anchor("good", &good)]);
    let at = |y, m| rcgen::date_time_ymd(y, m, 1);
    for (chain, reason) in [
        (vec![], Reason::CertificateMissing),
        (vec![b"junk".to_vec()], Reason::CertificateMalformed),
        (vec![leaf(&other, |_| {})], Reason::CertificateUnknownIssuer),
        (vec![leaf(&good, |p| (p.not_before, p.not_after) = (at(2020, 1), at(2021, 1)))], Reason::CertificateExpired),
        (
            vec![leaf(&good, |p| (p.not_before, p.not_after) = (at(2190, 1), at(2191, 1)))],
            Reason::CertificateNotYetValid,
        ),
        (
            vec![leaf(&good, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])],
            Reason::CertificateWrongUsage,
        ),
        (vec![leaf(&good, |p| p.extended_key_usages = vec![])], Reason::CertificateWrongUsage),
        (vec![leaf(&good, |p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment])], Reason::CertificateWrongUsage),
        (vec![good.der.clone()], Reason::CertificateConstraint),
        (
            vec![leaf(&good, |p| {
                let mut critical = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
                critical.set_criticality(true);
                p.custom_extensions = vec![critical];
            })],
            Reason::CertificateConstraint,
        ),
        (vec![leaf(&good, |_| {}); 9], Reason::CertificateChainTooLong),
    ] {
        let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
        assert_eq!(verify(&trust, &chain).map(|_| ()), Err(reason.clone()), "expected {reason}");
    }
}

#[test]
fn a_leaf_without_usage_passes_only_where_the_anchor_says_so() {
    let public = ca("Public", |_| {});
    let mut lenient = (*anchor("public", &public)).clone();
    lenient.client_auth = ClientAuthUsage::Optional;
    let trust = trust(&[Arc::new(lenient)]);
    assert!(verify(&trust, &[&leaf(&public, |p| p.extended_key_usages = vec![])]).is_ok());
    let server_only = leaf(&public, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert_eq!(verify(&trust, &[&server_only]).map(|_| ()), Err(Reason::CertificateWrongUsage));
}

#[test]
fn an_expired_anchor_verifies_nothing_and_ends_what_it_verified() {
    let old = ca("Old", |p| {
        (p.not_before, p.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1))
    });
    let trust = trust(&[anchor("old", &old)]);
    assert_eq!(verify(&trust, &[&leaf(&old, |_| {})]).map(|_| ()), Err(Reason::CertificateExpired));
    let in_2020 = UnixNanos(1_590_000_000_000_000_000);
    let der = leaf(&old, |p| {
        (p.not_before, p.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2191, 1, 1))
    });
    let peer = trust.verify(&[CertificateDer::from(der)], in_2020).unwrap();
    assert!(trust.still_good(&peer, in_2020).is_ok());
    assert_eq!(trust.still_good(&peer, now()).err(), Some(Reason::CertificateExpired));
}

#[test]
fn a_replaced_anchor_does_not_inherit_the_trust_of_its_name() {
    let (old, new) = (ca("CA", |_| {}), ca("CA", |_| {}));
    let peer = verify(&trust(&[anchor("ca", &old)]), &[&leaf(&old, |_| {})]).unwrap();
    assert_eq!(trust(&[anchor("ca", &new)]).still_good(&peer, now()).err(), Some(Reason::TrustChanged));
    assert_eq!(trust(&[]).still_good(&peer, now()).err(), Some(Reason::TrustChanged));
}

#[test]
fn an_anchor_must_be_a_ca_certificate() {
    let good = ca("Good", |_| {});
    let mut wrong = (*anchor("wrong", &good)).clone();
    wrong.root = Root::Certificate { certificate: Der(leaf(&good, |_| {})) };
    let problems = Trust::build(1, [Arc::new(wrong)].iter(), &Material::default()).err().unwrap();
    assert!(problems[0].reason.contains("not a CA certificate"), "{problems:?}");
}
