//! Client certificates that are their own anchors.

use super::*;
use crate::partner::Denied;

fn pinned(name: &str, der: &[u8]) -> Arc<Anchor> {
    let any = ca("any", |_| {});
    Arc::new(Anchor { root: Root::SelfSigned { self_signed: Der(der.to_vec()) }, ..Anchor::clone(&anchor(name, &any)) })
}

/// As `openssl req -x509` makes them: cA is true, and nothing is said of usage.
fn own(change: impl FnOnce(&mut CertificateParams)) -> (Vec<u8>, KeyPair) {
    let key = KeyPair::generate().unwrap();
    (own_of(&key, change), key)
}

fn own_of(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = ca_params("acme client");
    params.key_usages = Vec::new();
    change(&mut params);
    params.self_signed(key).unwrap().der().to_vec()
}

fn refused(anchors: &[Arc<Anchor>]) -> String {
    let problems = Trust::build(1, anchors.iter(), &Material::default()).err().unwrap();
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn certificate_that_was_registered_is_believed_and_no_other() {
    let (mine, key) = own(|_| {});
    let root = ca("Root", |_| {});
    let trust = trust(&[anchor("root", &root), pinned("acme-own", &mine)]);
    let peer = verify(&trust, &[&mine]).unwrap();
    assert_eq!((peer.anchor.as_str(), peer.intermediates.len()), ("acme-own", 0));
    assert!(trust.still_good(&peer, now()).is_ok());
    assert_eq!(verify(&trust, &[&leaf(&root, |_| {})]).unwrap().anchor.as_str(), "root");
    // The same name from another key, and another certificate of the same key.
    assert!(verify(&trust, &[&own(|_| {}).0]).is_err());
    let again = own_of(&key, |params| params.serial_number = Some(7_u64.into()));
    assert!(verify(&trust, &[&again]).is_err());
    // What it has signed is nothing.
    let signer = Ca { signer: Signer::new(ca_params("acme client"), key), der: mine.clone() };
    let below = leaf(&signer, |_| {});
    assert_eq!(verify(&trust, &[&below, &mine]).err(), Some(Reason::CertificateUnknownIssuer));
    // What else is sent with it changes nothing.
    assert_eq!(verify(&trust, &[&mine, &root.der]).unwrap().anchor.as_str(), "acme-own");
}

#[test]
fn certificate_that_took_the_place_of_another_with_its_key_is_another() {
    let (first, key) = own(|_| {});
    let second = own_of(&key, |params| params.serial_number = Some(7_u64.into()));
    let before = trust(&[pinned("acme-own", &first)]);
    let peer = verify(&before, &[&first]).unwrap();
    let after = Trust::build(2, [pinned("acme-own", &second)].iter(), &Material::default()).unwrap();
    assert_eq!(after.still_good(&peer, now()).err(), Some(Reason::TrustChanged));
    assert!(verify(&after, &[&second]).is_ok());
}

#[test]
fn certificate_that_is_over_or_denied_is_not_believed() {
    let day = |year| move |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let (old, _) = own(day(2020));
    assert_eq!(verify(&trust(&[pinned("acme-own", &old)]), &[&old]).err(), Some(Reason::CertificateExpired));
    let (mine, _) = own(day(2040));
    let open = trust(&[pinned("acme-own", &mine)]);
    let peer = verify(&open, &[&mine]).unwrap();
    assert_eq!(open.good_until(&peer, open.still_good(&peer, now()).unwrap()), peer.leaf.not_after);
    let denied = Denied {
        certificate: DeniedCertificate::Fingerprint(Fingerprint::of(&mine)),
        reason: "stolen".into(),
        author: "alice".into(),
        at: now(),
    };
    let anchor = Arc::new(Anchor { denied: vec![denied], ..Anchor::clone(&pinned("acme-own", &mine)) });
    let shut = trust(std::slice::from_ref(&anchor));
    assert_eq!(verify(&shut, &[&mine]).err(), Some(Reason::CertificateRevoked));
    assert_eq!(shut.still_good(&peer, now()).err(), Some(Reason::CertificateRevoked));
}

#[test]
fn what_cannot_be_its_own_anchor_is_refused_at_load() {
    let root = ca("Root", |params| params.key_usages.push(KeyUsagePurpose::DigitalSignature));
    let issued = leaf(&root, |_| {});
    assert!(refused(&[pinned("own", &issued)]).contains("not self-signed"));
    let (usage, _) = own(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert!(refused(&[pinned("own", &usage)]).contains("clientAuth"));
    let (signs, _) = own(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    assert!(refused(&[pinned("own", &signs)]).contains("digitalSignature"));
    assert!(refused(&[anchor("root", &root), pinned("own", &root.der)]).contains("same public key"));
    let (mine, _) = own(|_| {});
    let two = vec![PartnerId::parse("acme").unwrap(), PartnerId::parse("globex").unwrap()];
    let shared = Arc::new(Anchor { partners: two, ..Anchor::clone(&pinned("own", &mine)) });
    assert!(refused(&[shared]).contains("of one partner"));
    let revocation = Revocation { mode: RevocationMode::Required, ..Revocation::default() };
    let listed = Arc::new(Anchor { revocation, ..Anchor::clone(&pinned("own", &mine)) });
    assert!(refused(&[listed]).contains("anchor deny"));
    let twice = [pinned("a", &mine), pinned("b", &mine)];
    assert!(refused(&twice).contains("same public key"));
}
