use super::super::crl::tests::NOW;
use super::super::crl::tests::made::{Ca, ca};
use super::*;
use crate::name::AnchorName;
use crate::partner::{Anchor, ClientAuthUsage, Der, Revocation, Root};
use crate::trust::Material;
use crate::trust::Trust;
use rcgen::{CertificateParams, CrlDistributionPoint, CrlScope, ExtendedKeyUsagePurpose, IsCa, KeyPair, SerialNumber};
use rustls::pki_types::CertificateDer;

const DAY: Duration = Duration::from_secs(86_400);
/// When the lists end.
const END: UnixNanos = UnixNanos(1_798_761_600_000_000_000);

/// Root, an issuing CA below it with serial 07, and a client of that with serial 09 that names two places.
struct World {
    root: Ca,
    issuing: Ca,
    peer: Peer,
}

fn world() -> World {
    let root = ca("Root");
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Issuing");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.serial_number = Some(SerialNumber::from(7));
    let key = KeyPair::generate().unwrap();
    let der = params.signed_by(&key, &root.signer).unwrap().der().to_vec();
    let issuing = Ca { der, signer: rcgen::Issuer::new(params, key) };

    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from(9));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let uris = vec!["http://crl.example/a".to_owned(), "http://crl.example/b".to_owned()];
    params.crl_distribution_points = vec![CrlDistributionPoint { uris }];
    let leaf = params.signed_by(&KeyPair::generate().unwrap(), &issuing.signer).unwrap().der().to_vec();

    let anchor = Arc::new(Anchor {
        name: AnchorName::parse("root").unwrap(),
        root: Root::Certificate { certificate: Der(root.der.clone()) },
        partners: vec![],
        environments: vec![],
        client_auth: ClientAuthUsage::Required,
        max_lifetime: None,
        revocation: Revocation::default(),
        denied: vec![],
    });
    let trust = Trust::build(1, [anchor].iter(), &Material::default()).unwrap_or_else(|p| panic!("{p:?}"));
    let chain = [CertificateDer::from(leaf), CertificateDer::from(issuing.der.clone())];
    let peer = trust.verify(&chain, NOW).unwrap();
    World { root, issuing, peer }
}

fn read(ca: &Ca, bytes: &[u8]) -> Arc<RevocationList> {
    Arc::new(RevocationList::read(bytes, &[ca.issuer()], NOW).unwrap())
}

fn required(lists: &[&Arc<RevocationList>]) -> AnchorRevocation {
    AnchorRevocation::new(RevocationMode::Required, DAY, lists.iter().map(|list| Arc::clone(list)).collect())
}

impl World {
    fn lists(&self) -> [Arc<RevocationList>; 2] {
        [self.list(&self.root, &[]), self.list(&self.issuing, &["08"])]
    }

    fn list(&self, ca: &Ca, serials: &[&str]) -> Arc<RevocationList> {
        read(ca, &ca.list(1, serials))
    }

    fn check(&self, revocation: &AnchorRevocation, now: UnixNanos) -> Result<(), Reason> {
        revocation.check(Checked::path(&self.peer), now).map_err(|fault| fault.reason)
    }
}

#[test]
fn a_path_that_current_lists_cover_is_good() {
    let world = world();
    let [root, issuing] = world.lists();
    assert_eq!(world.check(&required(&[&root, &issuing]), NOW), Ok(()));
}

#[test]
fn a_revoked_leaf_and_a_revoked_intermediate_are_named() {
    let world = world();
    let [root, issuing] = world.lists();
    for (lists, serial) in [
        ([root, world.list(&world.issuing, &["08", "09"])], "`09`"),
        ([world.list(&world.root, &["07"]), issuing.clone()], "`07`"),
    ] {
        let fault = required(&lists.each_ref()).check(Checked::path(&world.peer), NOW).unwrap_err();
        assert_eq!(fault.reason, Reason::CertificateRevoked);
        assert!(fault.detail.contains(serial), "{fault}");
    }
    // Serials are an issuer's own: the root's list of 9 says nothing about the issuing CA's 9.
    assert_eq!(world.check(&required(&[&world.list(&world.root, &["09"]), &issuing]), NOW), Ok(()));
    // What is revoked further up comes before what is unknown further down.
    assert_eq!(world.check(&required(&[&world.list(&world.root, &["07"])]), NOW), Err(Reason::CertificateRevoked));
}

#[test]
fn a_certificate_that_no_list_covers_is_unknown_where_lists_are_required() {
    let world = world();
    let [root, issuing] = world.lists();
    for (lists, issuer) in [(vec![], "Issuing"), (vec![&root], "Issuing"), (vec![&issuing], "Root")] {
        let fault = required(&lists).check(Checked::path(&world.peer), NOW).unwrap_err();
        assert_eq!(fault.reason, Reason::RevocationUnknown);
        assert!(fault.detail.contains(&format!("no revocation list of `CN={issuer}` covers")), "{fault}");
    }
}

#[test]
fn a_stale_list_is_good_for_its_grace_and_denies_for_ever() {
    let world = world();
    let [root, issuing] = world.lists();
    let revocation = required(&[&root, &issuing]);
    let end = END.saturating_add(DAY);
    assert_eq!(world.check(&revocation, UnixNanos(end.0 - 1)), Ok(()));
    let fault = revocation.check(Checked::path(&world.peer), end).unwrap_err();
    assert_eq!(fault.reason, Reason::RevocationUnknown);
    assert!(fault.detail.contains("stale since 2027-01-01T00:00:00Z"), "{fault}");
    assert_eq!(revocation.good_until(Checked::path(&world.peer)), Some(end));
    for mode in [RevocationMode::Required, RevocationMode::IfAvailable] {
        let lists = vec![root.clone(), world.list(&world.issuing, &["09"])];
        let revocation = AnchorRevocation::new(mode, DAY, lists);
        assert_eq!(world.check(&revocation, UnixNanos(i64::MAX)), Err(Reason::CertificateRevoked), "{mode:?}");
    }
}

#[test]
fn if_available_passes_what_is_unknown_and_off_passes_all() {
    let world = world();
    let [root, issuing] = world.lists();
    let path = || Checked::path(&world.peer);
    let with = |mode, lists| AnchorRevocation::new(mode, DAY, lists);
    let lenient = with(RevocationMode::IfAvailable, vec![]);
    assert_eq!(world.check(&lenient, NOW), Ok(()));
    let stale = with(RevocationMode::IfAvailable, vec![root, issuing]);
    assert_eq!(world.check(&stale, UnixNanos(i64::MAX)), Ok(()));
    assert_eq!((lenient.good_until(path()), stale.good_until(path())), (None, None));
    let off = with(RevocationMode::Off, vec![world.list(&world.root, &["07"])]);
    assert_eq!((world.check(&off, NOW), off.good_until(path())), (Ok(()), None));
}

#[test]
fn parts_of_a_list_cover_the_certificates_that_name_them() {
    let world = world();
    let root = world.list(&world.root, &[]);
    let part =
        |url: &str, serials: &[&str], scope| read(&world.issuing, &world.issuing.list_in_scope(1, serials, url, scope));
    let users = Some(CrlScope::UserCertsOnly);
    for url in ["http://crl.example/a", "http://crl.example/b"] {
        assert_eq!(world.check(&required(&[&root, &part(url, &[], users)]), NOW), Ok(()));
        assert_eq!(world.check(&required(&[&root, &part(url, &["09"], users)]), NOW), Err(Reason::CertificateRevoked));
    }
    for other in [
        part("http://crl.example/c", &["09"], users),
        part("http://crl.example/a", &["09"], Some(CrlScope::CaCertsOnly)),
    ] {
        assert_eq!(world.check(&required(&[&root, &other]), NOW), Err(Reason::RevocationUnknown));
    }
    // Two lists cover it: one that names it is enough.
    let both = required(&[&root, &world.list(&world.issuing, &[]), &part("http://crl.example/b", &["09"], None)]);
    assert_eq!(world.check(&both, NOW), Err(Reason::CertificateRevoked));
}

#[test]
fn a_path_is_good_until_the_best_list_of_its_worst_certificate_ends() {
    let world = world();
    let [root, issuing] = world.lists();
    let mut draft = super::super::crl::tests::made::Draft::of(&world.root);
    draft.next = Some("260701000000Z");
    let short = read(&world.root, &draft.signed(&world.root));
    let path = || Checked::path(&world.peer);
    assert_eq!(required(&[&root, &short, &issuing]).good_until(path()), Some(END.saturating_add(DAY)));
    let july = short.next_update().saturating_add(DAY);
    assert_eq!(required(&[&short, &issuing]).good_until(path()), Some(july));
    assert!(required(&[&issuing]).good_until(path()).unwrap() < NOW);
}

#[test]
fn a_ca_with_the_same_name_and_another_key_says_nothing() {
    let world = world();
    let [root, issuing] = world.lists();
    let impostor = ca("Issuing");
    let theirs = world.list(&impostor, &["09"]);
    assert_eq!(world.check(&required(&[&root, &theirs]), NOW), Err(Reason::RevocationUnknown));
    assert_eq!(world.check(&required(&[&root, &issuing, &theirs]), NOW), Ok(()));
}

#[test]
fn a_ca_with_the_same_key_and_another_name_says_nothing() {
    let world = world();
    let [root, _] = world.lists();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Renamed");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::try_from(world.issuing.signer.key().serialize_der().as_slice()).unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    let renamed = Ca { der, signer: rcgen::Issuer::new(params, key) };
    let theirs = world.list(&renamed, &["09"]);
    assert_eq!(theirs.scope().issuer_spki, world.issuing.issuer().spki_sha256);
    assert_eq!(world.check(&required(&[&root, &theirs]), NOW), Err(Reason::RevocationUnknown));
}

#[test]
fn an_intermediate_keeps_what_revocation_asks_for() {
    let world = world();
    let [intermediate] = world.peer.intermediates.as_slice() else { panic!("one intermediate") };
    assert_eq!(intermediate.fingerprint, Fingerprint::of(&world.issuing.der));
    assert_eq!(intermediate.serial_key, Serial::parse("7").unwrap().key());
    let path: Vec<_> = Checked::path(&world.peer).map(|c| (c.issuer_spki, c.is_ca, c.crl_urls.len())).collect();
    assert_eq!(path, [(intermediate.spki_sha256, false, 2), (world.peer.anchor_spki, true, 0)]);
}
