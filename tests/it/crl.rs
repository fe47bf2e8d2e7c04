//! Revocation lists as a real CA of OpenSSL makes them.

use crate::harness::OpensslCa;
use partnergate::clock::{Clock, UnixNanos};
use partnergate::identity::{Fault, SerialKey};
use partnergate::reason::Reason;
use partnergate::trust::{CrlFault, Holds, IssuerKey, RevocationList};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const RSA: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

fn issuer(ca: &OpensslCa) -> Result<IssuerKey, Fault> {
    IssuerKey::from_certificate(&CertificateDer::from_pem_file(&ca.certificate).unwrap())
}

fn read(ca: &OpensslCa, list: &[u8]) -> Result<RevocationList, CrlFault> {
    RevocationList::read(list, &[issuer(ca).unwrap()], now())
}

fn now() -> UnixNanos {
    Clock::new().now()
}

#[test]
fn lists_of_openssl_are_read_with_keys_of_every_kind() {
    let p384: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
    for (key, digest) in [
        (RSA, " -md sha256"),
        (RSA, " -md sha384"),
        (RSA, " -md sha512"),
        (RSA, " -md sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest"),
        (P256, " -md sha256"),
        (p384, " -md sha384"),
        (&["-algorithm", "ED25519"], ""),
    ] {
        let ca = OpensslCa::new(key);
        ca.revoke_serial("0A", "");
        ca.revoke_serial("00FE4711", ",keyCompromise");
        ca.revoke_serial("7B", ",certificateHold");
        let list = read(&ca, &ca.list(&format!(" -crlexts number{digest}"))).unwrap();
        assert_eq!((list.revoked(), list.number().unwrap().to_string()), (3, "fff".into()), "{key:?} {digest}");
        for serial in [&[0x0a][..], &[0x00, 0xfe, 0x47, 0x11], &[0x7b]] {
            assert!(list.is_revoked(SerialKey::of_integer(serial)), "{key:?} {digest} {serial:x?}");
        }
        assert!(!list.is_revoked(SerialKey::of_integer(&[0x0b])));
        assert!(list.next_update() > now());
    }
}

#[test]
fn a_list_of_openssl_is_followed_by_the_next_and_not_by_the_one_before() {
    let ca = OpensslCa::new(P256);
    let first = read(&ca, &ca.list(" -crlexts number")).unwrap();
    assert_eq!(first.revoked(), 0);
    ca.revoke_serial("0A", "");
    let second = read(&ca, &ca.list(" -crlexts number")).unwrap();
    assert!(second.is_revoked(SerialKey::of_integer(&[0x0a])));
    assert_eq!(second.may_replace(&first), Ok(()));
    let back = CrlFault::NumberWentBack { new: "fff".into(), old: "1000".into() };
    assert_eq!(first.may_replace(&second), Err(back));
}

#[test]
fn der_text_before_pem_scope_and_delta_of_openssl_are_told_apart() {
    let ca = OpensslCa::new(P256);
    ca.revoke_serial("0A", "");
    let pem = ca.list(" -crlexts users");
    let list = read(&ca, &pem).unwrap();
    assert_eq!(list.scope().holds, Holds::UserCertificates);
    assert_eq!(list.scope().urls, ["http://crl.example/users.crl"]);
    let (from, der, text) =
        (ca.pki.dir().join("list.pem"), ca.pki.dir().join("list.der"), ca.pki.dir().join("list.txt"));
    ca.openssl(&format!("crl -in {} -outform DER -out {}", from.display(), der.display()));
    ca.openssl(&format!("crl -in {} -text -out {}", from.display(), text.display()));
    for file in [der, text] {
        assert_eq!(read(&ca, &std::fs::read(file).unwrap()).unwrap().fingerprint(), list.fingerprint());
    }
    assert_eq!(read(&ca, &ca.list(" -crlexts delta")).unwrap_err(), CrlFault::Delta);
}

#[test]
fn weak_digests_and_weak_keys_of_openssl_are_refused() {
    let ca = OpensslCa::new(RSA);
    for digest in ["sha1", "md5"] {
        let list = ca.list(&format!(" -crlexts number -md {digest}"));
        assert_eq!(read(&ca, &list).unwrap_err(), CrlFault::WeakSignature, "{digest}");
    }
    let weak = OpensslCa::new(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    assert_eq!(issuer(&weak).unwrap_err().reason, Reason::CertificateWeakKey);
}
