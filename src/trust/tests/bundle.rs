//! Trust bundles: how they are read, and what they mean for paths.

use super::*;
use crate::partner::Bundle;
use data_encoding::BASE64;
use proptest::prelude::*;
use rcgen::SanType;
use serde_json::{Value, json};

const DOMAIN: &str = "acme.example";

fn key(der: &[u8]) -> Value {
    json!({"use": "x509-svid", "kty": "EC", "x5c": [BASE64.encode(der)]})
}

fn parse(document: &Value) -> Result<TrustBundle, String> {
    TrustBundle::parse(DOMAIN, document.to_string().as_bytes())
}

fn bundle_anchor(name: &str, trust_domain: &str) -> Arc<Anchor> {
    let root = Root::Bundle { bundle: Bundle { trust_domain: trust_domain.into(), file: "unused".into() } };
    Arc::new(Anchor { root, ..(*anchor(name, &ca("unused", |_| {}))).clone() })
}

fn material(bundles: &[(&str, &str, &[&Ca])]) -> Material {
    let one = |(name, domain, cas): &(&str, &str, &[&Ca])| {
        let keys: Vec<Value> = cas.iter().map(|ca| key(&ca.der)).collect();
        let bundle = TrustBundle::parse(domain, json!({"keys": keys}).to_string().as_bytes()).unwrap();
        (AnchorName::parse(name).unwrap(), Arc::new(bundle))
    };
    Material { bundles: bundles.iter().map(one).collect(), ..Material::default() }
}

fn svid(ca: &Ca, id: &str) -> Vec<u8> {
    leaf(ca, |p| {
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        p.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    })
}

#[test]
fn keys_for_other_uses_and_unknown_parameters_are_passed_over() {
    let one = ca("One", |_| {});
    let bundle = parse(&json!({
        "spiffe_sequence": 18_446_744_073_709_551_615_u64, "spiffe_refresh_hint": 600, "x-other": {"a": []},
        "keys": [
            {"use": "jwt-svid", "kty": "EC", "kid": "a", "crv": "P-256", "x": "AA", "y": "AA"},
            {"use": "x509-svid", "kty": "of-tomorrow", "x5c": ["AA"]},
            {"use": "X509-SVID", "kty": "EC", "x5c": ["AA"]},
            {"use": "x509-svid", "kty": "EC", "crv": "P-256", "x": "AA", "x5c": [BASE64.encode(&one.der)]},
        ],
    }))
    .unwrap();
    assert_eq!(bundle.certificates, [Der(one.der)]);
    assert_eq!((bundle.sequence, bundle.refresh_hint), (Some(u64::MAX), Some(Duration::from_secs(600))));
    assert!(parse(&json!({"keys": []})).unwrap().certificates.is_empty());
}

#[test]
fn what_is_no_bundle_is_refused_with_its_place() {
    let (one, two) = (ca("One", |_| {}), ca("Two", |_| {}));
    let weak = ca("No signer", |p| p.key_usages = vec![KeyUsagePurpose::CrlSign]);
    let stranger = ca("Stranger", |p| {
        p.subject_alt_names = vec![SanType::URI("spiffe://other.example".try_into().unwrap())];
    });
    let x5c = |list: Value| json!({"keys": [key(&one.der), {"use": "x509-svid", "kty": "EC", "x5c": list}]});
    let many: Vec<Value> = (0..65).map(|n| key(&ca(&format!("{n}"), |_| {}).der)).collect();
    for (document, said) in [
        (json!([]), "not a SPIFFE bundle"),
        (json!({}), "keys"),
        (json!({"keys": null}), "not a SPIFFE bundle"),
        (json!({"keys": [], "spiffe_sequence": 1.5}), "not a SPIFFE bundle"),
        (json!({"keys": [], "spiffe_sequence": "1"}), "not a SPIFFE bundle"),
        (json!({"keys": [{"kty": "EC", "x5c": []}]}), "use"),
        (json!({"keys": [{"use": "x509-svid", "x5c": []}]}), "kty"),
        (json!({"keys": [key(&one.der), {"use": "x509-svid", "kty": "EC"}]}), "`keys[1]`: has 0 certificates"),
        (x5c(json!([BASE64.encode(&two.der), BASE64.encode(&one.der)])), "`keys[1]`: has 2 certificates"),
        (x5c(json!(["%%%"])), "`keys[1]`: `x5c` is not base64"),
        (x5c(json!(["AAAA"])), "`keys[1]`: not a certificate"),
        (x5c(json!([BASE64.encode(&one.der)])), "`keys[1]`: has the same public key as `keys[0]`"),
        (x5c(json!([BASE64.encode(&leaf(&one, |_| {}))])), "`keys[1]`: not a CA certificate"),
        (x5c(json!([BASE64.encode(&weak.der)])), "keyCertSign"),
        (x5c(json!([BASE64.encode(&stranger.der)])), "`spiffe://other.example`"),
        (json!({"keys": many}), "more than 64"),
    ] {
        let why = parse(&document).unwrap_err();
        assert!(why.contains(said), "{said}: {why}");
    }
    let twice = br#"{"keys": [], "spiffe_sequence": 1, "spiffe_sequence": 2}"#;
    assert!(TrustBundle::parse(DOMAIN, twice).unwrap_err().contains("duplicate"));
    let long = vec![b' '; MAX_BUNDLE_BYTES + 1];
    assert!(TrustBundle::parse(DOMAIN, &long).unwrap_err().contains("bytes"));
}

#[test]
fn a_sequence_never_goes_back() {
    let at = |sequence: Option<u64>| TrustBundle { sequence, ..TrustBundle::none_of(DOMAIN) };
    for (before, now) in [(None, None), (None, Some(0)), (Some(3), Some(3)), (Some(3), Some(4))] {
        assert!(at(now).follows(&at(before)).is_ok(), "{before:?} then {now:?}");
    }
    for (before, now) in [(Some(3), Some(2)), (Some(0), None)] {
        assert!(at(now).follows(&at(before)).is_err(), "{before:?} then {now:?}");
    }
}

#[test]
fn a_leaf_under_a_bundle_is_an_svid_of_its_trust_domain() {
    let (one, two, other) = (ca("One", |_| {}), ca("Two", |_| {}), ca("Other", |_| {}));
    let anchors = [bundle_anchor("acme", DOMAIN), bundle_anchor("other", "other.example")];
    let material = material(&[("acme", DOMAIN, &[&one, &two]), ("other", "other.example", &[&other])]);
    let trust = Trust::build(1, anchors.iter(), &material).unwrap_or_else(|p| panic!("{p:?}"));
    for ca in [&one, &two] {
        let peer = verify(&trust, &[&svid(ca, "spiffe://acme.example/a")]).unwrap();
        assert_eq!(peer.anchor.as_str(), "acme");
        assert!(trust.still_good(&peer, now()).is_ok());
    }
    for der in [svid(&other, "spiffe://acme.example/a"), svid(&one, "spiffe://other.example/a"), leaf(&one, |_| {})] {
        assert_eq!(verify(&trust, &[&der]).map(drop), Err(Reason::CertificateNotSvid));
    }
    assert_eq!(trust.anchor_of_domain("other.example").map(AnchorName::as_str), Some("other"));
}

#[test]
fn a_bundle_that_loses_a_certificate_ends_what_it_verified() {
    let (one, two) = (ca("One", |_| {}), ca("Two", |_| {}));
    let anchors = [bundle_anchor("acme", DOMAIN)];
    let trust = |cas: &[&Ca]| {
        Trust::build(1, anchors.iter(), &material(&[("acme", DOMAIN, cas)])).unwrap_or_else(|p| panic!("{p:?}"))
    };
    let peer = verify(&trust(&[&one, &two]), &[&svid(&one, "spiffe://acme.example/a")]).unwrap();
    assert!(trust(&[&two, &one]).still_good(&peer, now()).is_ok());
    for left in [&[&two][..], &[]] {
        assert_eq!(trust(left).still_good(&peer, now()).err(), Some(Reason::TrustChanged));
    }
    assert_eq!(
        verify(&trust(&[]), &[&svid(&one, "spiffe://acme.example/a")]).map(drop),
        Err(Reason::CertificateUnknownIssuer)
    );
}

#[test]
fn keys_and_trust_domains_belong_to_one_anchor() {
    let (one, two) = (ca("One", |_| {}), ca("Two", |_| {}));
    let refused = |anchors: &[Arc<Anchor>], material: &Material, said: &str| {
        let problems = Trust::build(1, anchors.iter(), material).err().unwrap();
        assert!(problems.iter().any(|p| p.to_string().contains(said)), "{said}: {problems:?}");
    };
    let both = [bundle_anchor("a", DOMAIN), bundle_anchor("b", "other.example")];
    refused(&both, &material(&[("a", DOMAIN, &[&one]), ("b", "other.example", &[&two, &one])]), "same public key");
    let beside = [anchor("a", &one), bundle_anchor("b", DOMAIN)];
    refused(&beside, &material(&[("b", DOMAIN, &[&one])]), "same public key");
    let twice = [bundle_anchor("a", DOMAIN), bundle_anchor("b", DOMAIN)];
    refused(&twice, &material(&[("a", DOMAIN, &[&one]), ("b", DOMAIN, &[&two])]), "is of the trust domain");
    // What was read for another trust domain is not what this one's anchor names.
    refused(&both[..1], &material(&[("a", "other.example", &[&one])]), "has not been read");
    refused(&both[..1], &Material::default(), "has not been read");
}

#[test]
fn a_certificate_may_be_valid_for_as_long_as_its_anchor_permits() {
    let one = ca("One", |_| {});
    let limited = |limit: u64| {
        let max_lifetime = Some(Duration::from_secs(limit));
        let anchor = Arc::new(Anchor { max_lifetime, ..(*anchor("one", &one)).clone() });
        // Each is a trust state of its own.
        Trust::build(limit, [&anchor].into_iter(), &Material::default()).unwrap_or_else(|p| panic!("{p:?}"))
    };
    let start = rcgen::date_time_ymd(2020, 1, 1);
    let der = leaf(&one, |p| (p.not_before, p.not_after) = (start, rcgen::date_time_ymd(2190, 1, 1)));
    let lifetime = Certificate::from_der(&der).unwrap().lifetime().as_secs();
    assert_eq!(lifetime, 170 * 365 * 86_400 + 42 * 86_400, "170 years, 42 of them leap years");
    let peer = verify(&limited(lifetime), &[&der]).unwrap();
    assert_eq!(verify(&limited(lifetime - 1), &[&der]).map(drop), Err(Reason::CertificateLifetime));
    assert!(limited(lifetime).still_good(&peer, now()).is_ok());
    // Another generation than the one that has verified it.
    let anchors =
        [Arc::new(Anchor { max_lifetime: Some(Duration::from_secs(lifetime - 1)), ..(*anchor("one", &one)).clone() })];
    let next = Trust::build(2, anchors.iter(), &Material::default()).unwrap();
    assert_eq!(next.still_good(&peer, now()).err(), Some(Reason::CertificateLifetime));
}

proptest! {
    #[test]
    fn damaged_bundles_never_panic(at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut document = json!({"spiffe_sequence": 1, "keys": [key(&ca("One", |_| {}).der)]}).to_string().into_bytes();
        let at = at.index(document.len());
        document[at] = to;
        let _ = TrustBundle::parse(DOMAIN, &document);
        document.truncate(cut.index(document.len()));
        let _ = TrustBundle::parse(DOMAIN, &document);
    }
}
