use super::*;
use crate::identity::Serial;
use crate::reason::Reason;
use made::{Ca, Draft, ca, ca_with, extension, tlv};
use proptest::prelude::*;
use rcgen::{KeyUsagePurpose, SigningKey};
use std::collections::HashSet;

pub(in crate::trust) mod made;

/// In the validity of every list that is made here.
pub(in crate::trust) const NOW: UnixNanos = UnixNanos(1_780_000_000_000_000_000);

fn read(bytes: &[u8], issuers: &[&Ca]) -> Result<RevocationList, CrlFault> {
    let issuers: Vec<IssuerKey> = issuers.iter().map(|ca| ca.issuer()).collect();
    RevocationList::read(bytes, &issuers, NOW)
}

fn serial(text: &str) -> SerialKey {
    Serial::parse(text).unwrap().key()
}

/// The fault of a list that differs from a good one in one thing.
fn fault(ca: &Ca, change: impl FnOnce(&mut Draft)) -> CrlFault {
    let mut draft = Draft::of(ca);
    change(&mut draft);
    read(&draft.signed(ca), &[ca]).unwrap_err()
}

fn with_extension(oid: &'static [u8], critical: bool, value: Vec<u8>) -> impl FnOnce(&mut Draft) {
    move |draft| draft.extensions.push(extension(oid, critical, &value))
}

const IDP: &[u8] = &[0x55, 0x1d, 0x1c];

#[test]
fn a_list_says_what_was_revoked_and_for_how_long_it_holds() {
    let ca = ca("CA");
    let list = read(&ca.list(7, &["0a", "ff01", "7b"]), &[&ca]).unwrap();
    for revoked in ["a", "0A", "ff01", "7b"] {
        assert!(list.is_revoked(serial(revoked)), "{revoked}");
    }
    for good in ["0", "1", "ff", "ff0100", "7c"] {
        assert!(!list.is_revoked(serial(good)), "{good}");
    }
    assert_eq!((list.revoked(), list.number().unwrap().to_string()), (3, "7".into()));
    assert_eq!(list.this_update().to_string(), "2026-01-01T00:00:00Z");
    assert_eq!(list.next_update().to_string(), "2027-01-01T00:00:00Z");
    assert_eq!(list.scope().issuer_spki, ca.issuer().spki_sha256);
    assert!(list.covers(true, &[]) && list.covers(false, &[]));
}

#[test]
fn a_stale_list_is_still_read() {
    let ca = ca("CA");
    let later = UnixNanos(NOW.0 * 2);
    let list = RevocationList::read(&ca.list(1, &["5"]), &[ca.issuer()], later).unwrap();
    assert!(list.next_update() < later && list.is_revoked(serial("5")));
}

#[test]
fn times_of_either_form_may_stand_side_by_side() {
    let ca = ca("CA");
    let mut list = ca.list_params(1, &["5"], None);
    list.next_update = rcgen::date_time_ymd(2100, 1, 1);
    let list = read(list.signed_by(&ca.signer).unwrap().der(), &[&ca]).unwrap();
    assert_eq!(list.this_update().to_string(), "2026-01-01T00:00:00Z");
    assert_eq!(list.next_update().to_string(), "2100-01-01T00:00:00Z");
}

#[test]
fn pem_is_one_block_and_nothing_after() {
    let ca = ca("CA");
    let der = ca.list(1, &["5"]);
    let block = made::pem(&der);
    for good in [
        block.clone(),
        format!("Certificate Revocation List (CRL):\n    Version 2\n{block}\n\n"),
        block.replace('\n', "\r\n"),
    ] {
        assert_eq!(read(good.as_bytes(), &[&ca]).unwrap().fingerprint(), Fingerprint::of(&der), "{good}");
    }
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let end = block.find("-----END").unwrap();
    for (bad, fault) in [
        (format!("{block}{block}"), CrlFault::SeveralBlocks),
        (format!("{certificate}{block}"), CrlFault::SeveralBlocks),
        (format!("{block}{certificate}"), CrlFault::SeveralBlocks),
        (certificate.to_owned(), CrlFault::NotACrl),
        (String::new(), CrlFault::NotACrl),
        ("<html>404</html>".into(), CrlFault::NotACrl),
        ("0 entries".into(), CrlFault::Truncated),
        (format!("{block}trailing"), CrlFault::TrailingBytes),
        (block[..end].to_owned(), CrlFault::Truncated),
        (format!("{}*{}", &block[..end], &block[end..]), CrlFault::NotBase64),
    ] {
        assert_eq!(read(bad.as_bytes(), &[&ca]).unwrap_err(), fault, "{bad}");
    }
}

#[test]
fn cut_at_any_length_it_is_refused() {
    let ca = ca("CA");
    let der = Draft::of(&ca).signed(&ca);
    assert!(read(&der, &[&ca]).is_ok());
    for length in 1..der.len() {
        assert_eq!(read(&der[..length], &[&ca]).unwrap_err(), CrlFault::Truncated, "at {length}");
    }
    let block = made::pem(&der);
    for length in 0..block.trim_end().len() {
        assert!(read(&block.as_bytes()[..length], &[&ca]).is_err(), "at {length}");
    }
    let mut longer = der;
    longer.push(0);
    assert_eq!(read(&longer, &[&ca]).unwrap_err(), CrlFault::TrailingBytes);
}

#[test]
fn what_is_signed_and_cut_inside_is_refused_and_never_panics() {
    let ca = ca("CA");
    let issuers = [ca.issuer()];
    let mut draft = Draft::of(&ca);
    draft.extensions.push(extension(IDP, true, &made::idp_url("http://a.example/1")));
    draft.entries = made::entries(&["05", "06"], &[extension(&[0x55, 0x1d, 0x15], false, &[0x0a, 1, 4])]);
    let whole = draft.body();
    let read = |body: &[u8]| RevocationList::read(&made::sign(&tlv(0x30, body), &ca), &issuers, NOW);
    let good: Vec<usize> =
        (0..whole.len()).filter_map(|length| read(&whole[..length]).ok()).map(|l| l.revoked()).collect();
    assert_eq!(good, [0, 2], "a body is whole again where only entries or extensions are left out");
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            let _ = read(&damaged);
        }
    }
}

#[test]
fn only_a_known_ca_with_crl_sign_may_sign() {
    let (one, two, other) = (ca("CA"), ca("CA"), ca("Other"));
    let der = one.list(1, &["5"]);
    // The same name, another key: the key that signed is found, and no other does.
    let list = read(&der, &[&two, &one]).unwrap();
    assert_eq!(list.scope().issuer_spki, one.issuer().spki_sha256);
    assert_eq!(read(&der, &[&two]).unwrap_err(), CrlFault::BadSignature { issuer: "CN=CA".into() });
    assert_eq!(read(&der, &[&other]).unwrap_err(), CrlFault::UnknownIssuer { issuer: "CN=CA".into() });
    assert_eq!(read(&der, &[]).unwrap_err(), CrlFault::UnknownIssuer { issuer: "CN=CA".into() });

    let certificates_only =
        ca_with("CA", &rcgen::PKCS_ECDSA_P256_SHA256, |p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    let der = Draft::of(&certificates_only).signed(&certificates_only);
    let refused = CrlFault::IssuerMayNotSign { issuer: "CN=CA".into() };
    assert_eq!(read(&der, &[&certificates_only]).unwrap_err(), refused);
    let silent = ca_with("CA", &rcgen::PKCS_ECDSA_P256_SHA256, |p| p.key_usages = vec![]);
    assert!(read(&Draft::of(&silent).signed(&silent), &[&silent]).is_ok(), "without keyUsage it may");
}

#[test]
fn what_was_changed_after_signing_is_refused() {
    let ca = ca("CA");
    let der = ca.list(1, &["5511"]);
    let at = der.windows(2).position(|two| two == [0x55, 0x11]).unwrap();
    let mut changed = der;
    changed[at + 1] = 0x12;
    assert_eq!(read(&changed, &[&ca]).unwrap_err(), CrlFault::BadSignature { issuer: "CN=CA".into() });
}

#[test]
fn signatures_of_every_kind_that_rcgen_makes_verify() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let ca = ca_with("CA", algorithm, |_| {});
        assert!(read(&ca.list(1, &["5"]), &[&ca]).unwrap().is_revoked(serial("5")), "{algorithm:?}");
    }
}

#[test]
fn weak_unknown_and_differing_signature_algorithms_are_refused_by_name() {
    let ca = ca("CA");
    let sha1 = tlv(0x06, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1]);
    let md5 = [tlv(0x06, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4]), vec![5, 0]].concat();
    for weak in [sha1, md5] {
        assert_eq!(fault(&ca, |d| d.algorithm = weak), CrlFault::WeakSignature);
    }
    let sha512 = tlv(0x06, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4]);
    assert_eq!(
        fault(&ca, |d| d.algorithm = sha512.clone()),
        CrlFault::UnsupportedSignature { oid: "1.2.840.10045.4.3.4".into(), issuer: "CN=CA".into() }
    );
    assert_eq!(fault(&ca, |d| d.inner_algorithm = Some(sha512)), CrlFault::AlgorithmsDiffer);
}

#[test]
fn a_key_that_is_no_cas_or_too_weak_signs_nothing() {
    let leaf = ca_with("Leaf", &rcgen::PKCS_ECDSA_P256_SHA256, |p| p.is_ca = rcgen::IsCa::NoCa);
    assert_eq!(IssuerKey::from_certificate(&leaf.der).unwrap_err().reason, Reason::CertificateConstraint);
    assert_eq!(IssuerKey::from_certificate(b"junk").unwrap_err().reason, Reason::CertificateMalformed);
}

#[test]
fn times_that_make_no_sense_are_refused() {
    let ca = ca("CA");
    assert_eq!(
        fault(&ca, |d| (d.this, d.next) = ("261231000000Z", Some("270101000000Z"))),
        CrlFault::NotYetValid { this_update: UnixNanos(1_798_675_200_000_000_000) }
    );
    assert_eq!(fault(&ca, |d| d.next = None), CrlFault::NoNextUpdate);
    for next in ["260101000000Z", "250101000000Z"] {
        assert!(matches!(fault(&ca, |d| d.next = Some(next)), CrlFault::EndsBeforeItStarts { .. }), "{next}");
    }
    for bad in ["2601010000Z", "260101000000+0100", "261301000000Z", "26010100000Z", "260101 00000Z", ""] {
        assert_eq!(fault(&ca, |d| d.this = bad), CrlFault::Malformed("thisUpdate"), "{bad}");
        assert_eq!(fault(&ca, |d| d.next = Some(bad)), CrlFault::Malformed("nextUpdate"), "{bad}");
    }
}

#[test]
fn lists_that_speak_of_less_than_they_seem_to_are_refused_by_name() {
    let ca = ca("CA");
    let idp = |fields: &[&[u8]]| with_extension(IDP, true, tlv(0x30, &fields.concat()));
    assert_eq!(fault(&ca, with_extension(&[0x55, 0x1d, 0x1b], true, vec![2, 1, 1])), CrlFault::Delta);
    assert_eq!(fault(&ca, with_extension(&[0x55, 0x1d, 0x1b], false, vec![2, 1, 1])), CrlFault::Delta);
    assert_eq!(fault(&ca, idp(&[&[0x84, 1, 0xff]])), CrlFault::Indirect);
    assert_eq!(fault(&ca, idp(&[&[0x83, 2, 1, 2]])), CrlFault::SomeReasons);
    assert_eq!(fault(&ca, idp(&[&[0x85, 1, 0xff]])), CrlFault::AttributeCertificates);
    assert_eq!(fault(&ca, idp(&[&[0xa0, 4, 0xa1, 2, 0x31, 0]])), CrlFault::RelativeName);
    // A directory name alone, and a URI that no certificate is compared by.
    assert_eq!(fault(&ca, idp(&[&[0xa0, 6, 0xa0, 4, 0xa4, 2, 0x30, 0]])), CrlFault::ScopeWithoutUrl);
    assert_eq!(fault(&ca, idp(&[&[0xa0, 7, 0xa0, 5, 0x86, 3, b'f', b':', b'x']])), CrlFault::ScopeWithoutUrl);
    assert_eq!(fault(&ca, with_extension(IDP, false, vec![0x30, 3, 0x81, 1, 0xff])), CrlFault::ScopeNotCritical);
    let malformed: &[&[&[u8]]] = &[
        &[],
        &[&[0x81, 1, 0xff], &[0x82, 1, 0xff]],
        &[&[0x82, 1, 0xff], &[0x81, 1, 0xff]],
        &[&[0x81, 1, 0xff], &[0x81, 1, 0xff]],
        &[&[0x81, 1, 0x01]],
        &[&[0x86, 1, 0xff]],
        &[&[0x81, 1, 0xff], &[0xa0, 2, 0xa0, 0]],
        &[&[0xa0, 2, 0xa2, 0]],
        &[&[0xa0, 3, 0xa0, 0]],
    ];
    for bad in malformed {
        assert!(matches!(fault(&ca, idp(bad)), CrlFault::ScopeMalformed(_)), "{bad:x?}");
    }
}

#[test]
fn extensions_that_are_critical_and_unknown_or_there_twice_are_refused() {
    let ca = ca("CA");
    let unknown: &[u8] = &[0x2a, 3, 4];
    let refused = |place| CrlFault::UnknownCritical { oid: "1.2.3.4".into(), place };
    let twice = |place| CrlFault::DuplicateExtension { oid: "1.2.3.4".into(), place };
    assert_eq!(fault(&ca, with_extension(unknown, true, vec![5, 0])), refused("list"));
    assert_eq!(
        fault(&ca, |d| d.extensions.extend([extension(unknown, false, &[]), extension(unknown, false, &[])])),
        twice("list")
    );
    let entry = |extensions: &[Vec<u8>]| {
        let entries = made::entries(&["05"], extensions);
        move |d: &mut Draft| d.entries = entries
    };
    assert_eq!(fault(&ca, entry(&[extension(unknown, true, &[])])), refused("entry"));
    assert_eq!(fault(&ca, entry(&[extension(unknown, false, &[]), extension(unknown, false, &[])])), twice("entry"));
    assert_eq!(fault(&ca, entry(&[extension(&[0x55, 0x1d, 0x1d], true, &[0x30, 0])])), CrlFault::Indirect);
    assert_eq!(fault(&ca, entry(&[extension(&[0x55, 0x1d, 0x15], false, &[0x0a, 1, 8])])), CrlFault::RemoveFromCrl);
    assert!(matches!(fault(&ca, entry(&[extension(&[0x55, 0x1d, 0x15], false, &[0x0a, 1])])), CrlFault::Malformed(_)));
    let mut draft = Draft::of(&ca);
    draft.extensions.push(extension(unknown, false, &[]));
    draft.entries = [
        made::entries(&["05"], &[extension(unknown, false, &[])]),
        made::entries(&["06"], &[extension(&[0x55, 0x1d, 0x15], false, &[0x0a, 1, 6])]),
    ]
    .concat();
    let list = read(&draft.signed(&ca), &[&ca]).unwrap();
    assert!(list.is_revoked(serial("5")) && list.is_revoked(serial("6")), "certificateHold counts");
}

#[test]
fn serials_that_no_certificate_may_have_cost_nobody_the_list() {
    let ca = ca("CA");
    let long = "7f".repeat(32);
    let mut draft = Draft::of(&ca);
    draft.entries = made::entries(&["00", "ff", &long, "05", "05"], &[]);
    let list = read(&draft.signed(&ca), &[&ca]).unwrap();
    assert_eq!(list.revoked(), 4);
    assert!(list.is_revoked(serial("5")) && !list.is_revoked(serial("ff")), "-1 is not 255");
    for bad in ["", &"7f".repeat(33)] {
        assert!(matches!(fault(&ca, |d| d.entries = made::entries(&[bad], &[])), CrlFault::Malformed(_)), "{bad}");
    }
}

#[test]
fn lists_of_version_1_are_read_when_they_have_no_extensions() {
    let ca = ca("CA");
    let mut draft = Draft::of(&ca);
    (draft.version, draft.extensions) = (None, vec![]);
    let list = read(&draft.signed(&ca), &[&ca]).unwrap();
    assert_eq!(list.number(), None);
    assert!(matches!(fault(&ca, |d| d.version = None), CrlFault::Malformed(_)));
    assert!(matches!(fault(&ca, |d| d.version = Some(2)), CrlFault::Malformed(_)));
}

#[test]
fn a_number_has_20_octets_at_most_and_is_not_negative() {
    let ca = ca("CA");
    let number = |octets: &[u8]| {
        let value = tlv(2, octets);
        move |d: &mut Draft| d.extensions = vec![extension(&[0x55, 0x1d, 0x14], false, &value)]
    };
    let largest = [&[0][..], &[0xff; 20]].concat();
    let mut draft = Draft::of(&ca);
    number(&largest)(&mut draft);
    assert_eq!(read(&draft.signed(&ca), &[&ca]).unwrap().number().unwrap().to_string(), "f".repeat(40));
    for bad in [&[][..], &[0xff], &[1; 21]] {
        assert!(matches!(fault(&ca, number(bad)), CrlFault::Malformed(_)), "{bad:x?}");
    }
}

#[test]
fn a_list_that_is_too_large_is_not_looked_at() {
    let ca = ca("CA");
    let mut bytes = vec![0u8; MAX_CRL_BYTES + 1];
    bytes[..2].copy_from_slice(&[0x30, 0x84]);
    assert_eq!(read(&bytes, &[&ca]).unwrap_err(), CrlFault::TooLarge { bytes: MAX_CRL_BYTES + 1 });
}

#[test]
fn a_list_covers_what_its_distribution_point_says() {
    let ca = ca("CA");
    let url = |n: u8| format!("http://crl.example/{n}");
    let with = |value: Vec<u8>| {
        let mut draft = Draft::of(&ca);
        draft.extensions.push(extension(IDP, true, &value));
        read(&draft.signed(&ca), &[&ca]).unwrap()
    };
    let users = with(tlv(0x30, &[0x81, 1, 0xff]));
    assert!(users.covers(false, &[]) && !users.covers(true, &[]));
    let cas = with(tlv(0x30, &[0x81, 1, 0, 0x82, 1, 0xff]));
    assert!(!cas.covers(false, &[]) && cas.covers(true, &[]));
    let part = with(made::idp_url(&url(1)));
    assert!(part.covers(false, &[url(2), url(1)]) && part.covers(true, &[url(1)]));
    assert!(
        !part.covers(false, &[]) && !part.covers(false, &[url(2)]) && !part.covers(false, &[url(1).to_uppercase()])
    );
    let scopes: HashSet<&Scope> = [&users, &cas, &part].map(RevocationList::scope).into();
    assert_eq!(scopes.len(), 3);

    // As rcgen writes it.
    let list = read(&ca.list_in_scope(1, &["5"], &url(1), Some(rcgen::CrlScope::UserCertsOnly)), &[&ca]).unwrap();
    assert_eq!((list.scope().holds, &list.scope().urls), (Holds::UserCertificates, &vec![url(1)]));
}

#[test]
fn a_list_is_replaced_by_a_later_one_of_its_scope_only() {
    let (ca, other) = (ca("CA"), ca("CA"));
    let list = |by: &Ca, number: Option<u16>, this: &'static str, serial: &str, point: Option<&str>| {
        let mut draft = Draft::of(by);
        draft.this = this;
        draft.entries = made::entries(&[serial], &[]);
        draft.extensions = number.iter().map(|n| made::number(*n)).collect();
        draft.extensions.extend(point.map(|url| extension(IDP, true, &made::idp_url(url))));
        read(&draft.signed(by), &[by]).unwrap()
    };
    let (january, february) = ("260101000000Z", "260201000000Z");
    let old = list(&ca, Some(300), january, "05", None);
    let ok = |new: &RevocationList| new.may_replace(&old);
    assert_eq!(ok(&list(&ca, Some(301), january, "05", None)), Ok(()));
    assert_eq!(ok(&list(&ca, Some(300), january, "06", None)), Ok(()));
    assert_eq!(old.may_replace(&old), Ok(()));
    assert_eq!(
        ok(&list(&ca, Some(4), february, "05", None)),
        Err(CrlFault::NumberWentBack { new: "4".into(), old: "12c".into() })
    );
    assert_eq!(ok(&list(&ca, None, february, "05", None)), Err(CrlFault::NumberGone { old: "12c".into() }));
    assert_eq!(ok(&list(&other, Some(301), february, "05", None)), Err(CrlFault::OtherScope));
    assert_eq!(ok(&list(&ca, Some(301), february, "05", Some("http://a.example/"))), Err(CrlFault::OtherScope));

    let later = list(&ca, Some(300), february, "05", None);
    assert!(matches!(old.may_replace(&later), Err(CrlFault::WentBack { .. })));
    let (first, second) = (list(&ca, None, january, "05", None), list(&ca, None, february, "05", None));
    assert_eq!(second.may_replace(&first), Ok(()));
    assert!(matches!(first.may_replace(&second), Err(CrlFault::WentBack { .. })));
    // A CA that begins to number does not open the way back either.
    assert!(matches!(old.may_replace(&second), Err(CrlFault::WentBack { .. })));
}

#[test]
fn of_a_million_entries_each_is_found() {
    const ENTRIES: u32 = 1_000_000;
    let ca = ca("CA");
    let mut draft = Draft::of(&ca);
    draft.entries.clear();
    for n in 0..ENTRIES {
        draft.entries.extend([0x30, 24, 0x02, 7, 0x11, 0x22, 0x33]);
        draft.entries.extend(n.to_be_bytes());
        draft.entries.extend(b"\x17\x0d260101000000Z");
    }
    let list = read(&draft.signed(&ca), &[&ca]).unwrap();
    assert_eq!(list.revoked(), ENTRIES as usize);
    for n in (0..ENTRIES + 50_000).step_by(37) {
        let octets = [&[0x11, 0x22, 0x33][..], &n.to_be_bytes()].concat();
        assert_eq!(list.is_revoked(SerialKey::of_integer(&octets)), n < ENTRIES, "{n}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_listed_is_found_and_nothing_else(
        listed in prop::collection::hash_set(prop::collection::vec(any::<u8>(), 1..20), 0..60),
        asked in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..60),
    ) {
        let ca = ca("CA");
        let hex = |octets: &Vec<u8>| format!("00{}", hex::encode(octets));
        let texts: Vec<String> = listed.iter().map(hex).collect();
        let mut draft = Draft::of(&ca);
        draft.entries = made::entries(&texts.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        let list = read(&draft.signed(&ca), &[&ca]).unwrap();
        let known: HashSet<Serial> = texts.iter().map(|text| Serial::parse(text).unwrap()).collect();
        prop_assert_eq!(list.revoked(), known.len());
        for octets in listed.iter().chain(&asked) {
            let serial = Serial::parse(&hex(octets)).unwrap();
            prop_assert_eq!(list.is_revoked(serial.key()), known.contains(&serial), "{:?}", serial);
        }
    }
}
