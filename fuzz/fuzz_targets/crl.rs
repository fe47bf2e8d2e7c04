//! Any bytes that a CRL server may send; and any list that a trusted CA may sign, for what is read after the signature.
#![no_main]
use libfuzzer_sys::fuzz_target;
use partnergate::clock::UnixNanos;
use partnergate::identity::SerialKey;
use partnergate::trust::{IssuerKey, RevocationList};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, PKCS_ED25519, SigningKey};
use std::sync::LazyLock;

static CA: LazyLock<(KeyPair, [IssuerKey; 1])> = LazyLock::new(|| {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let issuer = IssuerKey::from_certificate(params.self_signed(&key).expect("a certificate").der());
    (key, [issuer.expect("a CA")])
});

const ED25519: &[u8] = b"\x30\x05\x06\x03\x2b\x65\x70";
/// Version 2, the algorithm, `CN=CA`: what comes before the times. The fuzzer writes the rest.
const START: &[u8] = b"\x02\x01\x01\x30\x05\x06\x03\x2b\x65\x70\x30\x0d\x31\x0b\x30\x09\x06\x03\x55\x04\x03\x0c\x02CA";

fuzz_target!(|data: &[u8]| {
    let (key, issuers) = &*CA;
    let now = UnixNanos(1_780_000_000_000_000_000);
    let _ = RevocationList::read(data, issuers, now);

    let body = sequence(&[START, data].concat());
    let signature = key.sign(&body).expect("a signature");
    let list = sequence(&[&body, ED25519, &[0x03, 65, 0], &signature].concat());
    if let Ok(list) = RevocationList::read(&list, issuers, now) {
        assert!(list.this_update() <= now && list.this_update() < list.next_update());
        assert_eq!(list.may_replace(&list), Ok(()));
        let _ = list.is_revoked(SerialKey::of_integer(data));
    }
});

fn sequence(content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let digits: Vec<u8> = length.into_iter().skip_while(|digit| *digit == 0).collect();
    let mut out = vec![0x30];
    if content.len() < 0x80 {
        out.push(content.len() as u8);
    } else {
        out.push(0x80 | digits.len() as u8);
        out.extend(digits);
    }
    out.extend_from_slice(content);
    out
}
