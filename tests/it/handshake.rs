//! The TLS handshake: threats 3, 8 and 9. A refusal is an alert for the client and one record for us.

use crate::harness::http2::{Http2, block_on};
use crate::harness::{
    Authority, DEADLINE, Dial, Gate, HOST, Identity, Pki, Setup, TlsConn, await_some, count, openssl_key, valid,
};
use rcgen::{BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::AlertDescription as Alert;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const GOOD: &str = "GET /items HTTP/1.1\r\nHost: api.partner.test\r\n\r\n";

/// Offers a chain in TLS 1.3 and 1.2 and expects the refusals and their evidence. Returns one of the two records.
#[track_caller]
fn refused(gate: &Gate, who: &Identity, alert: Alert, reason: &str) -> Value {
    let dial = gate.dial().identity(who);
    assert_eq!(dial.refused(), Some(alert), "{reason} in TLS 1.3");
    assert_eq!(dial.clone().tls12().refused(), Some(alert), "{reason} in TLS 1.2");
    let record = evidence(gate, reason, 2);
    alerts_sent(gate, alert);
    let readable = x509_parser::parse_x509_certificate(who.leaf()).is_ok();
    if readable && reason != "certificate-malformed" && reason != "certificate-chain-too-long" {
        let credential = &record["input"]["credential"];
        assert_eq!(credential["fingerprint_sha256"], who.fingerprint(), "{record}");
        assert!(credential["subject"].as_str().is_some_and(|s| s.contains(&who.name)), "{record}");
    }
    record
}

/// Every record says that this alert was sent, by its name in RFC 8446.
#[track_caller]
fn alerts_sent(gate: &Gate, alert: Alert) {
    let name = match alert {
        Alert::UnknownCA => "unknown_ca",
        Alert::AccessDenied => "access_denied",
        Alert::BadCertificate => "bad_certificate",
        Alert::CertificateExpired => "certificate_expired",
        Alert::CertificateRequired => "certificate_required",
        Alert::DecryptError => "decrypt_error",
        Alert::NoApplicationProtocol => "no_application_protocol",
        Alert::ProtocolVersion => "protocol_version",
        Alert::UnsupportedCertificate => "unsupported_certificate",
        other => panic!("{other:?} has no name here"),
    };
    for record in gate.settle() {
        assert_eq!(record["alert"], serde_json::json!({"sent": name}), "{record}");
    }
}

/// Exactly `n` handshakes were refused, all for this reason, and nothing else happened.
#[track_caller]
fn evidence(gate: &Gate, reason: &str, n: usize) -> Value {
    let records = gate.settle();
    assert_eq!(records.len(), n, "one record for each refused handshake: {records:#?}");
    for record in &records {
        assert_eq!(record["kind"], "handshake", "{record}");
        assert_eq!(record["result"], "deny", "{record}");
        assert_eq!(record["reason"], reason, "{record}");
        assert!(record["detail"].as_str().is_some_and(|d| !d.is_empty()), "{record}");
        assert_eq!(record["input"]["source"]["ip"], "127.0.0.1", "{record}");
        assert!(record["input"]["source"]["port"].as_u64().is_some_and(|p| p > 0), "{record}");
        assert_eq!(record["input"]["tls"]["sni"], HOST, "{record}");
    }
    let counted = gate.metric(&format!("partnergate_handshakes_total{{outcome=\"{reason}\"}}"));
    assert_eq!(counted, n as f64, "the counter of {reason}");
    gate.upstream.assert_untouched();
    records[0].clone()
}

/// A leaf as `acme` has it, with one thing changed.
fn acme_but(setup: &Setup, name: &str, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Identity {
    setup.pki.client(&setup.acme_ca, name, change)
}

#[test]
fn no_certificate_is_refused() {
    let gate = Gate::start();
    assert_eq!(gate.dial().refused(), Some(Alert::CertificateRequired), "in TLS 1.3");
    // RFC 5246 section 7.4.6 suggests handshake_failure; rustls says more precisely what is missing.
    assert_eq!(gate.dial().tls12().refused(), Some(Alert::CertificateRequired), "in TLS 1.2");
    let record = evidence(&gate, "certificate-missing", 2);
    assert_eq!(record["input"].get("credential"), None, "{record}");
    alerts_sent(&gate, Alert::CertificateRequired);
}

#[test]
fn self_signed_certificate_is_refused() {
    let gate = Gate::start();
    let who = gate.pki.self_signed("nobody", |_| {});
    refused(&gate, &who, Alert::UnknownCA, "certificate-unknown-issuer");
}

#[test]
fn certificate_of_an_unknown_ca_is_refused() {
    let gate = Gate::start();
    let unknown = gate.pki.authority("unknown-ca");
    let who = gate.pki.client(&unknown, "stranger", |_| {});
    refused(&gate, &who, Alert::UnknownCA, "certificate-unknown-issuer");
}

/// The name of an issuer proves nothing: here a stranger's CA has the subject of acme's.
#[test]
fn certificate_of_a_ca_that_only_has_the_name_of_an_anchor_is_refused() {
    let setup = Setup::new();
    let elsewhere = Pki::new(&setup.dir.path().join("elsewhere"));
    let impostor = elsewhere.authority("acme-ca");
    let who = elsewhere.client(&impostor, "forged", |_| {});
    let gate = setup.start();
    let tried = gate.dial().identity(&who).refused();
    assert!(matches!(tried, Some(Alert::UnknownCA | Alert::DecryptError)), "{tried:?}");
    let records = gate.settle();
    assert_eq!(records.len(), 1, "{records:#?}");
    let reason = records[0]["reason"].as_str().unwrap();
    assert!(["certificate-unknown-issuer", "certificate-bad-signature"].contains(&reason), "{reason}");
}

#[test]
fn expired_certificate_is_refused() {
    let gate = Gate::start();
    let who = acme_but(&gate, "late", |p| valid(p, -30, -1));
    refused(&gate, &who, Alert::CertificateExpired, "certificate-expired");
}

#[test]
fn certificate_that_is_not_yet_valid_is_refused() {
    let gate = Gate::start();
    let who = acme_but(&gate, "early", |p| valid(p, 1, 30));
    refused(&gate, &who, Alert::CertificateExpired, "certificate-not-yet-valid");
}

#[test]
fn certificate_below_an_expired_intermediate_is_refused() {
    let gate = Gate::start();
    let issuing = gate.pki.intermediate(&gate.acme_ca, "acme-issuing", |p| valid(p, -30, -1));
    let who = gate.pki.client(&issuing, "below", |_| {});
    refused(&gate, &who, Alert::CertificateExpired, "certificate-expired");
}

#[test]
fn certificate_for_servers_only_is_refused() {
    let gate = Gate::start();
    let who = acme_but(&gate, "server-only", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    refused(&gate, &who, Alert::UnsupportedCertificate, "certificate-wrong-usage");
}

#[test]
fn certificate_without_client_auth_usage_is_refused_unless_its_anchor_does_not_ask_for_it() {
    let gate = Gate::start();
    let who = acme_but(&gate, "no-usage", |p| {
        p.extended_key_usages.clear();
        p.subject_alt_names = vec![rcgen::SanType::URI("spiffe://acme.example/client".try_into().unwrap())];
    });
    refused(&gate, &who, Alert::UnsupportedCertificate, "certificate-wrong-usage");
    let registry = gate.registry_text().replace("partners: [acme]}", "partners: [acme], client_auth: optional}");
    gate.apply(&registry);
    gate.dial().identity(&who).open().request(GOOD).expect(200);
}

#[test]
fn certificate_whose_key_may_not_sign_is_refused() {
    let gate = Gate::start();
    let who = acme_but(&gate, "encipher", |p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    refused(&gate, &who, Alert::UnsupportedCertificate, "certificate-wrong-usage");
}

#[test]
fn ca_certificate_is_not_a_client() {
    let gate = Gate::start();
    let who = acme_but(&gate, "a-ca", |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    });
    refused(&gate, &who, Alert::BadCertificate, "certificate-constraint");
}

#[test]
fn unknown_critical_extension_is_refused() {
    let gate = Gate::start();
    let who = acme_but(&gate, "critical", |p| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55555, 1], vec![0x05, 0x00]);
        extension.set_criticality(true);
        p.custom_extensions.push(extension);
    });
    refused(&gate, &who, Alert::BadCertificate, "certificate-constraint");
}

#[test]
fn chain_that_breaks_a_path_length_is_refused() {
    let gate = Gate::start();
    let narrow = |p: &mut rcgen::CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let first = gate.pki.intermediate(&gate.acme_ca, "first", narrow);
    let second = gate.pki.intermediate(&first, "second", |_| {});
    let who = gate.pki.client(&second, "deep", |_| {});
    refused(&gate, &who, Alert::BadCertificate, "certificate-constraint");
}

fn weak_key(gate: &Gate, name: &str, arguments: &[&str]) -> Identity {
    let key = openssl_key(&gate.pki, name, arguments);
    // TLS libraries refuse such keys themselves, so another one signs; the chain is judged before the signature.
    gate.pki.client_by_openssl(&gate.acme_ca, name, &key, &[]).signing_as(&gate.acme)
}

#[test]
fn rsa_key_of_1024_bits_is_refused() {
    let gate = Gate::start();
    let who = weak_key(&gate, "rsa-1024", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    let record = refused(&gate, &who, Alert::BadCertificate, "certificate-weak-key");
    assert_eq!(record["input"]["credential"]["key"]["bits"], 1024, "{record}");
}

#[test]
fn key_on_the_curve_p_192_is_refused() {
    let gate = Gate::start();
    let who = weak_key(&gate, "p-192", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime192v1"]);
    refused(&gate, &who, Alert::BadCertificate, "certificate-weak-key");
}

#[test]
fn dsa_key_is_refused() {
    let gate = Gate::start();
    let parameters = openssl_key(&gate.pki, "dsa-parameters", &["-genparam", "-algorithm", "DSA"]);
    let who = weak_key(&gate, "dsa", &["-paramfile", parameters.to_str().unwrap()]);
    refused(&gate, &who, Alert::BadCertificate, "certificate-weak-key");
}

#[test]
fn key_on_the_curve_p_521_is_refused_with_a_reason_of_its_own() {
    let gate = Gate::start();
    let who = weak_key(&gate, "p-521", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"]);
    refused(&gate, &who, Alert::BadCertificate, "certificate-unsupported-key");
}

#[test]
fn certificate_signed_with_sha_1_is_refused() {
    let gate = Gate::start();
    let key = openssl_key(&gate.pki, "sha-1", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let who = gate.pki.client_by_openssl(&gate.acme_ca, "sha-1", &key, &["-sha1"]);
    refused(&gate, &who, Alert::BadCertificate, "certificate-weak-signature");
}

const RSA_1024: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"];
const RSA_2048: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const P_256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

#[test]
fn certificate_signed_with_md5_is_refused() {
    let gate = Gate::start();
    // There is no MD5 for elliptic curves, so the issuer is an intermediate with RSA.
    let issuing = openssl_key(&gate.pki, "md5-ca", RSA_2048);
    let who = gate.pki.client_below_openssl(&gate.acme_ca, "md5", (&issuing, &[]), &["-md5"]);
    refused(&gate, &who, Alert::BadCertificate, "certificate-weak-signature");
}

#[test]
fn certificate_signed_with_sha_1_in_rsassa_pss_is_refused_and_with_sha_256_it_is_not() {
    let gate = Gate::start();
    let issuing = openssl_key(&gate.pki, "pss-ca", RSA_2048);
    let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"];
    let below = |name: &str, digest: &str| {
        gate.pki.client_below_openssl(&gate.acme_ca, name, (&issuing, &[]), &[&[digest], &pss[..]].concat())
    };
    refused(&gate, &below("weak", "-sha1"), Alert::BadCertificate, "certificate-weak-signature");
    gate.dial().identity(&below("acme", "-sha256")).open().request(GOOD).expect(200);
}

#[test]
fn intermediate_that_is_signed_with_sha_1_is_refused() {
    let gate = Gate::start();
    let issuing = openssl_key(&gate.pki, "issuing", P_256);
    let who = gate.pki.client_below_openssl(&gate.acme_ca, "below-sha-1", (&issuing, &["-sha1"]), &[]);
    let tried = gate.dial().identity(&who).refused();
    assert_eq!(tried, Some(Alert::BadCertificate));
    evidence(&gate, "certificate-weak-signature", 1);
}

#[test]
fn intermediate_with_an_rsa_key_of_1024_bits_is_refused() {
    let gate = Gate::start();
    let issuing = openssl_key(&gate.pki, "issuing", RSA_1024);
    let who = gate.pki.client_below_openssl(&gate.acme_ca, "below-weak", (&issuing, &[]), &[]);
    refused(&gate, &who, Alert::BadCertificate, "certificate-weak-key");
}

#[test]
fn intermediate_with_an_unknown_critical_extension_is_refused() {
    let gate = Gate::start();
    let issuing = gate.pki.intermediate(&gate.acme_ca, "critical-ca", |p| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55555, 1], vec![0x05, 0x00]);
        extension.set_criticality(true);
        p.custom_extensions.push(extension);
    });
    let who = gate.pki.client(&issuing, "below-critical", |_| {});
    refused(&gate, &who, Alert::BadCertificate, "certificate-constraint");
}

#[test]
fn certificate_with_a_serial_number_that_is_none_is_refused() {
    let gate = Gate::start();
    let key = openssl_key(&gate.pki, "serial", P_256);
    let long = format!("0x01{}", "ab".repeat(20));
    for (n, serial) in ["0", "-1", "-129", &long].into_iter().enumerate() {
        let name = format!("serial-{n}");
        let who = gate.pki.client_by_openssl(&gate.acme_ca, &name, &key, &["-set_serial", serial]);
        let dial = gate.dial().identity(&who);
        assert_eq!(dial.refused(), Some(Alert::BadCertificate), "{serial} in TLS 1.3");
        assert_eq!(dial.clone().tls12().refused(), Some(Alert::BadCertificate), "{serial} in TLS 1.2");
        let record = gate.await_record(&name, |r| {
            r["kind"] == "handshake" && r["input"]["credential"]["fingerprint_sha256"] == *who.fingerprint()
        });
        assert_eq!(record["reason"], "certificate-serial", "{serial}");
        let subject = record["input"]["credential"]["subject"].as_str();
        assert!(subject.is_some_and(|s| s.contains(&name)), "{record}");
    }
}

#[test]
fn intermediate_with_a_serial_number_that_is_none_is_refused() {
    let gate = Gate::start();
    let issuing = openssl_key(&gate.pki, "issuing", P_256);
    let who = gate.pki.client_below_openssl(&gate.acme_ca, "below", (&issuing, &["-set_serial", "0"]), &[]);
    refused(&gate, &who, Alert::BadCertificate, "certificate-serial");
}

#[test]
fn certificate_that_may_sign_certificates_is_not_a_client() {
    let gate = Gate::start();
    let who = acme_but(&gate, "signs", |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign));
    refused(&gate, &who, Alert::BadCertificate, "certificate-constraint");
}

/// In new handshakes and on what is open.
#[test]
fn certificate_that_is_valid_for_longer_than_its_anchor_permits_is_refused() {
    let gate = Gate::start();
    let mut open = gate.dial().identity(&gate.acme).open();
    open.request(GOOD).expect(200);
    let limited = |days: u32| {
        let anchor = format!("partners: [acme], max_lifetime: {days}d}}");
        gate.apply(&gate.registry_text().replace("partners: [acme]}", &anchor));
    };
    // Those of the harness are for 31 days: exactly so many are permitted.
    limited(31);
    open.request(GOOD).expect(200);
    gate.dial().identity(&gate.acme).open().request(GOOD).expect(200);
    limited(30);
    let answer = open.request(GOOD);
    assert_eq!(answer.expect(403).code(), "credential-not-valid");
    assert_eq!(gate.record_of(answer.id())["reason"], "certificate-lifetime");
    assert_eq!(gate.dial().identity(&gate.acme).refused(), Some(Alert::BadCertificate));
    let record = gate.await_record("the refusal", |r| r["kind"] == "handshake");
    assert_eq!(record["reason"], "certificate-lifetime", "{record}");
    assert_eq!(gate.metric("partnergate_handshakes_total{outcome=\"certificate-lifetime\"}"), 1.0);
    let brief = acme_but(&gate, "brief", |p| {
        valid(p, -1, 7);
        p.subject_alt_names = vec![rcgen::SanType::URI("spiffe://acme.example/client".try_into().unwrap())];
    });
    gate.dial().identity(&brief).open().request(GOOD).expect(200);
}

#[test]
fn anchors_that_are_no_sound_ca_certificates_are_refused_at_registration() {
    let setup = Setup::new();
    let (p_256, weak) = (openssl_key(&setup.pki, "p-256", P_256), openssl_key(&setup.pki, "weak", RSA_1024));
    let p_521 = openssl_key(&setup.pki, "p-521", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"]);
    let p_192 = openssl_key(&setup.pki, "p-192", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime192v1"]);
    let ca = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";
    let critical = format!("{ca}1.3.6.1.4.1.55555.1=critical,DER:0500\n");
    let serial = ["-set_serial", "0"];
    type Case<'a> = (&'a str, &'a std::path::Path, Option<&'a str>, &'a [&'a str], &'a str);
    let cases: [Case<'_>; 9] = [
        ("weak-rsa", &weak, Some(ca), &[], "1024 bits"),
        ("small-curve", &p_192, Some(ca), &[], "below P-256"),
        ("large-curve", &p_521, Some(ca), &[], "P-521"),
        ("version-1", &p_256, None, &[], "not a CA certificate"),
        ("no-constraints", &p_256, Some("keyUsage=critical,keyCertSign\n"), &[], "not a CA certificate"),
        ("no-ca", &p_256, Some("basicConstraints=critical,CA:FALSE\n"), &[], "not a CA certificate"),
        (
            "no-cert-sign",
            &p_256,
            Some("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,cRLSign\n"),
            &[],
            "keyCertSign",
        ),
        ("critical", &p_256, Some(&critical), &[], "1.3.6.1.4.1.55555.1"),
        ("serial-zero", &p_256, Some(ca), &serial, "serial number"),
    ];
    for (name, key, extensions, extra, _) in &cases {
        setup.pki.root_by_openssl(name, key, *extensions, extra);
    }
    let gate = setup.start();
    for (name, .., said) in &cases {
        let file = format!("certificate: {name}.pem, partners: [acme]");
        let finished =
            gate.try_apply(&gate.registry_text().replace("certificate: acme-ca.pem, partners: [acme]", &file));
        assert_eq!(finished.exit, Some(3), "{name}: {}", finished.stderr);
        assert!(finished.stderr.contains("acme-ca") && finished.stderr.contains(said), "{name}: {}", finished.stderr);
    }
    gate.dial().identity(&gate.acme).open().request(GOOD).expect(200);
}

/// What a root says about itself proves nothing, so that its own signature is of no matter.
#[test]
fn anchor_that_is_signed_by_itself_with_sha_1_is_an_anchor() {
    let setup = Setup::new();
    let key = openssl_key(&setup.pki, "root-key", P_256);
    let ca = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";
    setup.pki.root_by_openssl("sha-1-root", &key, Some(ca), &["-sha1"]);
    let who = setup.pki.client_of_openssl_root("sha-1-root", "acme");
    let registry = setup.registry_text().replace("certificate: acme-ca.pem", "certificate: sha-1-root.pem");
    let gate = setup.registry(&registry).start();
    gate.dial().identity(&who).open().request(GOOD).expect(200);
}

#[test]
fn expired_anchor_lets_nobody_in() {
    let setup = Setup::new();
    let old = setup.pki.authority_with("old-ca", |p| valid(p, -60, -1));
    let who = setup.pki.client(&old, "late", |p| {
        p.subject_alt_names = vec![rcgen::SanType::URI("spiffe://acme.example/client".try_into().unwrap())];
    });
    let gate = setup.start();
    let registry =
        gate.registry_text().replace("anchors:\n", "anchors:\n  old-ca: {certificate: old-ca.pem, partners: [acme]}\n");
    gate.apply(&registry);
    refused(&gate, &who, Alert::CertificateExpired, "certificate-expired");
}

/// Not only a library that we have bent: OpenSSL, told to let everything pass, with the weak key itself.
#[test]
fn openssl_with_a_weak_key_gets_the_alert() {
    let gate = Gate::start();
    let key = openssl_key(&gate.pki, "weak", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    let who = gate.pki.client_by_openssl(&gate.acme_ca, "weak", &key, &[]);
    let finished = gate.s_client(Some(&who), &["-cipher", "DEFAULT@SECLEVEL=0", "-ign_eof"], b"");
    assert!(finished.stderr.contains("bad certificate"), "{}\n{}", finished.text(), finished.stderr);
    evidence(&gate, "certificate-weak-key", 1);
}

#[test]
fn chain_of_more_certificates_than_are_read_is_refused() {
    let gate = Gate::start();
    let mut above: Option<Authority> = None;
    for n in 0..8 {
        let next = gate.pki.intermediate(above.as_ref().unwrap_or(&gate.acme_ca), &format!("step-{n}"), |_| {});
        above = Some(next);
    }
    let who = gate.pki.client(&above.unwrap(), "far-away", |_| {});
    assert_eq!(who.chain.len(), 9);
    refused(&gate, &who, Alert::BadCertificate, "certificate-chain-too-long");
}

#[test]
fn chain_of_as_many_certificates_as_are_read_is_served() {
    let gate = Gate::start();
    // Those that lead nowhere count too.
    let mut chain = gate.acme.chain.clone();
    chain.extend((0..7).map(|n| gate.pki.authority(&format!("beside-{n}")).der));
    let who = gate.pki.identity("acme-and-more", chain, gate.acme.key.clone());
    assert_eq!(who.chain.len(), 8);
    gate.dial().identity(&who).open().request(GOOD).expect(200);
}

#[test]
fn chain_of_more_bytes_than_are_read_is_refused() {
    let gate = Gate::start();
    let fill = vec![0x04, 0x83, 0x00, 0x80, 0x00].into_iter().chain(vec![0; 0x8000]).collect::<Vec<u8>>();
    let fat = |p: &mut rcgen::CertificateParams| {
        p.custom_extensions.push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55555, 2], fill.clone()));
    };
    let issuing = gate.pki.intermediate(&gate.acme_ca, "fat-ca", fat);
    let who = gate.pki.client(&issuing, "fat", fat);
    // Two certificates, each within its own bound. rustls reads no handshake message over 64 KiB, and so no certificate.
    let _ = gate.dial().identity(&who).refused();
    let record = evidence(&gate, "handshake-protocol", 1);
    assert_eq!(record["input"].get("credential"), None, "{record}");
}

#[test]
fn malformed_certificates_are_refused() {
    let gate = Gate::start();
    let good = gate.acme.leaf().to_vec();
    let mut truncated = good.clone();
    truncated.truncate(good.len() / 2);
    let mut trailing = good.clone();
    trailing.extend([0x05, 0x00]);
    let mut long_form = good.clone();
    // 0x30 0x82 len: the outer length says more than there is.
    long_form[3] = long_form[3].wrapping_add(1);
    let forms: [(&str, Vec<u8>); 6] = [
        ("garbage", b"not a certificate".to_vec()),
        ("one-byte", vec![0x30]),
        ("truncated", truncated),
        ("trailing", trailing),
        ("wrong-length", long_form),
        ("nested", [0x30, 0x80].repeat(500)),
    ];
    let mut sent = BTreeSet::new();
    for (name, der) in &forms {
        let who = gate.pki.identity(name, vec![der.clone()], gate.acme.key.clone());
        sent.insert(who.fingerprint());
        assert_eq!(gate.dial().identity(&who).refused(), Some(Alert::BadCertificate), "{name} in TLS 1.3");
        assert_eq!(gate.dial().identity(&who).tls12().refused(), Some(Alert::BadCertificate), "{name} in TLS 1.2");
    }
    evidence(&gate, "certificate-malformed", 2 * forms.len());
    // What cannot be read can still be found again by the digest of its bytes.
    let recorded: BTreeSet<String> = gate
        .settle()
        .iter()
        .map(|r| r["input"]["credential"]["fingerprint_sha256"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(recorded, sent);
    assert_eq!(gate.metric("partnergate_panics_total"), 0.0);
}

#[test]
fn malformed_intermediate_is_refused() {
    let gate = Gate::start();
    let chain = vec![gate.acme.leaf().to_vec(), b"not a certificate".to_vec()];
    let who = gate.pki.identity("acme-and-garbage", chain, gate.acme.key.clone());
    assert_eq!(gate.dial().identity(&who).refused(), Some(Alert::BadCertificate));
    let record = evidence(&gate, "certificate-malformed", 1);
    assert_eq!(record["input"]["credential"]["fingerprint_sha256"], gate.acme.fingerprint(), "{record}");
}

#[test]
fn certificate_of_somebody_else_without_its_key_is_refused() {
    let gate = Gate::start();
    let thief = gate.acme.signing_as(&gate.globex);
    assert_eq!(gate.dial().identity(&thief).refused(), Some(Alert::DecryptError));
    let records = gate.settle();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["kind"], "handshake");
    // Whose it is said to be is evidence too.
    assert_eq!(records[0]["input"]["credential"]["fingerprint_sha256"], thief.fingerprint(), "{records:#?}");
    alerts_sent(&gate, Alert::DecryptError);
    gate.upstream.assert_untouched();
}

#[test]
fn chain_through_an_intermediate_is_accepted() {
    let gate = Gate::start();
    let issuing = gate.pki.intermediate(&gate.acme_ca, "acme-issuing", |_| {});
    let who = gate.pki.client(&issuing, "acme-below", |p| {
        p.subject_alt_names = vec![rcgen::SanType::URI("spiffe://acme.example/client".try_into().unwrap())];
    });
    gate.dial().identity(&who).open().request(GOOD).expect(200);
    gate.curl(Some(&who), "/items", &[]).expect(200);
}

#[test]
fn tls_1_2_and_1_3_are_both_spoken() {
    let gate = Gate::start();
    for (dial, version) in [(gate.dial(), "1.3"), (gate.dial().tls12(), "1.2")] {
        let answer = dial.identity(&gate.acme).open().request(GOOD);
        answer.expect(200);
        assert_eq!(gate.record_of(answer.id())["input"]["tls"]["version"], version);
    }
}

#[test]
fn tls_1_2_is_refused_where_the_config_says_1_3() {
    let gate = Setup::new().set("partner.tls.min_version", "1.3").start();
    assert_eq!(gate.dial().identity(&gate.acme).tls12().refused(), Some(Alert::ProtocolVersion));
    evidence(&gate, "handshake-protocol", 1);
    alerts_sent(&gate, Alert::ProtocolVersion);
}

#[test]
fn tls_1_1_is_refused() {
    let gate = Gate::start();
    let finished = gate.s_client(Some(&gate.acme), &["-tls1_1", "-cipher", "ALL@SECLEVEL=0"], b"");
    assert_ne!(finished.exit, Some(0), "{}", finished.text());
    assert!(finished.stderr.contains("SSL alert number"), "{}", finished.stderr);
    let records = gate.settle();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["reason"], "handshake-protocol");
}

#[test]
fn alpn_chooses_between_http_2_and_1() {
    let gate = Gate::start();
    let chosen = |protocols: &[&str]| {
        let conn = gate.dial().identity(&gate.acme).alpn(protocols).open();
        conn.state().alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned())
    };
    assert_eq!(chosen(&["h2", "http/1.1"]).as_deref(), Some("h2"));
    assert_eq!(chosen(&["http/1.1", "h2"]).as_deref(), Some("h2"), "the gateway's order counts");
    assert_eq!(chosen(&["http/1.1"]).as_deref(), Some("http/1.1"));
    assert_eq!(chosen(&[]), None);
    gate.curl(Some(&gate.acme), "/items", &["--http2"]).expect(200);
    assert_eq!(gate.curl(Some(&gate.acme), "/items", &["--http2"]).version, "2");
    assert_eq!(gate.curl(Some(&gate.acme), "/items", &["--http1.1"]).version, "1.1");
}

#[test]
fn alpn_without_a_protocol_of_ours_is_refused() {
    let gate = Gate::start();
    let tried = gate.dial().identity(&gate.acme).alpn(&["spdy/3"]).refused();
    assert_eq!(tried, Some(Alert::NoApplicationProtocol));
    evidence(&gate, "handshake-protocol", 1);
    alerts_sent(&gate, Alert::NoApplicationProtocol);
}

fn with_two_names() -> (Gate, Identity) {
    let setup = Setup::new();
    let second = setup.pki.server(&setup.server_ca, "second", &["second.partner.test"]);
    let certificates = setup.config()["partner"]["certificates"].clone();
    let mut certificates = certificates.as_array().unwrap().clone();
    let key = format!("file:{}", second.key_file.display());
    certificates.push(serde_json::json!({"chain": second.chain_file, "key": key}));
    (setup.set("partner.certificates", certificates).start(), second)
}

#[test]
fn server_certificate_is_chosen_by_name() {
    let (gate, second) = with_two_names();
    let shown = |dial: Dial| dial.identity(&gate.acme).open().server_certificate();
    let first = shown(gate.dial());
    assert_ne!(first, second.leaf());
    assert_eq!(shown(gate.dial().sni(Some("second.partner.test"))), second.leaf());
    assert_eq!(shown(gate.dial().sni(Some("SECOND.partner.test"))), second.leaf(), "letter case makes no difference");
    assert_eq!(shown(gate.dial().sni(None)), first, "the first serves clients that send no name");
}

#[test]
fn unknown_server_name_is_refused() {
    let (gate, _) = with_two_names();
    for dial in [gate.dial(), gate.dial().tls12()] {
        let tried = dial.sni(Some("elsewhere.partner.test")).identity(&gate.acme).refused();
        assert_eq!(tried, Some(Alert::AccessDenied), "an alert says so");
    }
    alerts_sent(&gate, Alert::AccessDenied);
    let records = gate.settle();
    assert_eq!(records.len(), 2, "{records:#?}");
    for record in records {
        assert_eq!(record["kind"], "handshake");
        assert_eq!(record["reason"], "server-name-unknown");
        assert!(record["detail"].as_str().unwrap().contains("`elsewhere.partner.test`"), "{record}");
        assert_eq!(record["input"]["tls"]["sni"], "elsewhere.partner.test");
    }
}

/// Where a refused client came from, as it would be said of one that is served.
#[test]
fn refused_handshake_is_recorded_with_its_address_on_every_kind_of_listener() {
    let gate = Setup::new().set("partner.listen", serde_json::json!(["127.0.0.1:0", "[::1]:0", "[::]:0"])).start();
    let [v4, v6, dual] = gate.addresses() else { panic!("{:?}", gate.addresses()) };
    let (four, six) = (std::net::IpAddr::from([127, 0, 0, 1]), std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST));
    for (to, shown) in [
        (*v4, "127.0.0.1"),
        (*v6, "::1"),
        (std::net::SocketAddr::new(four, dual.port()), "127.0.0.1"),
        (std::net::SocketAddr::new(six, dual.port()), "::1"),
    ] {
        let who = gate.pki.self_signed("nobody", |_| {});
        let before = gate.settle().len();
        gate.dial().to(to).identity(&who).refused();
        let records = gate.settle();
        let [record] = &records[before..] else { panic!("{to}: {records:#?}") };
        assert_eq!(record["reason"], "certificate-unknown-issuer", "{to}: {record}");
        assert_eq!(record["input"]["source"]["ip"], shown, "{to}: {record}");
    }
    gate.upstream.assert_untouched();
}

/// Threat 8: a client that sends no name has only its Host to go by, which must be one that is served.
#[test]
fn client_without_a_server_name_is_judged_by_its_host_alone() {
    let gate = Gate::start();
    let nameless = || gate.dial().sni(None).identity(&gate.acme);
    let ask = |host: &str| nameless().open().request(format!("GET /items HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    ask(HOST).expect(200);
    ask(&format!("{}.:8443", HOST.to_uppercase())).expect(200);
    let authority = |host: &str| http::Request::get(format!("https://{host}/items")).body(()).unwrap();
    let over_h2 = |host: &str| block_on(async { Http2::open(&nameless()).await.request(authority(host), b"").await });
    over_h2(HOST).expect(200);
    let served = gate.upstream.bytes().len();
    for other in ["elsewhere.test", "localhost", "127.0.0.1", "[::1]"] {
        let answer = ask(other);
        assert_eq!(answer.expect(421).code(), "misdirected", "{other}");
        assert_eq!(gate.record_of(answer.id())["reason"], "host-mismatch", "{other}");
        assert_eq!(over_h2(other).expect(421).code(), "misdirected", "{other} over HTTP/2");
    }
    assert_eq!(gate.upstream.bytes().len(), served, "{}", gate.upstream.text());
}

/// Threat 8.
#[test]
fn server_name_and_host_must_agree() {
    let gate = Gate::start();
    let ask = |host: &str| {
        let mut conn = gate.dial().identity(&gate.acme).open();
        conn.request(format!("GET /items HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    };
    for same in
        [HOST.to_owned(), format!("{HOST}."), HOST.to_uppercase(), format!("{HOST}:8443"), format!("{HOST}.:443")]
    {
        ask(&same).expect(200);
    }
    let served = gate.upstream.bytes().len();
    for other in ["localhost", "second.partner.test", "127.0.0.1", "[::1]", "partner.test", &format!("x.{HOST}")] {
        let answer = ask(other);
        answer.expect(421);
        assert_eq!(answer.code(), "misdirected", "{other}");
        assert_eq!(gate.record_of(answer.id())["reason"], "host-mismatch", "{other}");
    }
    gate.settle();
    assert_eq!(gate.upstream.bytes().len(), served, "{}", gate.upstream.text());
}

#[test]
fn host_of_another_served_name_is_refused_on_this_connection() {
    let (gate, _) = with_two_names();
    let mut conn = gate.dial().sni(Some("second.partner.test")).identity(&gate.acme).open();
    conn.request(GOOD).expect(421);
    gate.settle();
    gate.upstream.assert_untouched();
}

#[test]
fn partners_are_not_listed_to_the_world() {
    let gate = Gate::start();
    for version in ["-tls1_2", "-tls1_3"] {
        let finished = gate.s_client(Some(&gate.acme), &[version, "-ign_eof"], b"GET /items HTTP/1.0\r\n\r\n");
        let text = finished.text();
        assert!(text.contains("No client certificate CA names sent"), "{text}\n{}", finished.stderr);
        assert!(!text.contains("CN = globex-ca") && !text.contains("CN=globex-ca"), "{text}");
    }
}

/// A client hello in pieces: one byte to a TCP segment, and one byte to a TLS record.
#[test]
fn client_hello_in_single_bytes_is_served() {
    let gate = Gate::start();
    for by_record in [false, true] {
        let dial = gate.dial().identity(&gate.acme);
        let (mut state, mut tcp) = (dial.state(), dial.tcp());
        let mut hello = Vec::new();
        while state.wants_write() {
            state.write_tls(&mut hello).unwrap();
        }
        let pieces: Vec<Vec<u8>> = if by_record {
            // Type 22, version, length 1, and one byte of the handshake message.
            hello[5..].iter().map(|b| vec![22, 3, 1, 0, 1, *b]).collect()
        } else {
            hello.iter().map(|b| vec![*b]).collect()
        };
        for piece in pieces {
            tcp.write_all(&piece).unwrap();
        }
        let mut stream = rustls::StreamOwned::new(state, tcp);
        stream.write_all(GOOD.as_bytes()).unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap_or_else(|e| panic!("by record: {by_record}: {e}"));
        assert_eq!(&start, b"HTTP/1.1 200", "by record: {by_record}");
    }
}

/// One that says nothing, one that stops in the middle, one that drips: each ends at the deadline.
#[test]
fn handshake_that_never_ends_is_ended_at_the_deadline() {
    let gate = Setup::new().set("partner.timeouts.handshake", "500ms").start();
    let mut hello = Vec::new();
    gate.dial().state().write_tls(&mut hello).unwrap();
    for (form, first) in [("silent", &[][..]), ("half", &hello[..hello.len() / 2]), ("dripping", &hello[..1])] {
        let began = Instant::now();
        let mut tcp = gate.dial().tcp();
        tcp.write_all(first).unwrap();
        let mut rest = hello[first.len()..].iter();
        tcp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        loop {
            match tcp.read(&mut [0; 100]) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock) => {
                    if form == "dripping" {
                        let _ = tcp.write_all(&[*rest.next().unwrap()]);
                    }
                }
                Err(_) => break,
            }
            assert!(began.elapsed() < DEADLINE, "{form}: left open");
        }
        assert!(began.elapsed() >= Duration::from_millis(450), "{form}: ended early, after {:?}", began.elapsed());
    }
    let records = gate.settle();
    assert_eq!(records.len(), 3, "{records:#?}");
    for record in records {
        assert_eq!((&record["kind"], &record["reason"]), (&"handshake".into(), &"handshake-timeout".into()));
        assert_eq!(record["input"]["source"]["ip"], "127.0.0.1");
    }
}

/// A connection that has sent its ClientHello and says no more.
fn stalled(gate: &Gate) -> TcpStream {
    let mut tcp = gate.dial().tcp();
    send_hello(gate, &mut tcp);
    tcp
}

fn send_hello(gate: &Gate, tcp: &mut TcpStream) {
    let mut hello = Vec::new();
    gate.dial().state().write_tls(&mut hello).unwrap();
    tcp.write_all(&hello).unwrap();
}

#[test]
fn half_open_handshakes_are_capped_and_others_are_served() {
    let gate = Setup::new().set("partner.limits.max_handshakes", 4).set("partner.timeouts.handshake", "10m").start();
    let mut served = gate.dial().identity(&gate.acme).open();
    served.request(GOOD).expect(200);
    let silent: Vec<_> = (0..8).map(|_| gate.dial().tcp()).collect();
    gate.dial().identity(&gate.globex).open().request(GOOD).expect(200);
    let half_open: Vec<_> = (0..6).map(|_| stalled(&gate)).collect();
    gate.await_metric("partnergate_handshakes_in_progress", 4.0);
    served.request(GOOD).expect(200);
    drop(half_open);
    gate.dial().identity(&gate.globex).open().request(GOOD).expect(200);
    drop(silent);
    gate.await_metric("partnergate_handshakes_in_progress", 0.0);
    await_some("one record for each that went away", || {
        (count(&gate.records(), |r| r["reason"] == "handshake-aborted") == 14).then_some(())
    });
    assert_eq!(count(&gate.settle(), |r| r["kind"] == "handshake"), 14);
}

#[test]
fn handshake_that_stalls_makes_way_for_one_that_waits() {
    let gate = Setup::new().set("partner.limits.max_handshakes", 1).set("partner.timeouts.handshake", "10s").start();
    let holding = stalled(&gate);
    gate.await_metric("partnergate_handshakes_in_progress", 1.0);
    gate.dial().identity(&gate.globex).open().request(GOOD).expect(200);
    let record = gate.await_record("the refusal", |r| r["reason"] == "handshake-overload");
    assert_eq!(record["input"]["source"]["port"], holding.local_addr().unwrap().port(), "{record}");
    assert_eq!(record["input"]["tls"]["sni"], HOST, "{record}");
    assert_eq!(count(&gate.settle(), |r| r["kind"] == "handshake"), 1);
}

#[test]
fn handshake_that_finds_no_place_until_its_deadline_is_refused() {
    let gate = Setup::new().set("partner.limits.max_handshakes", 1).set("partner.timeouts.handshake", "2s").start();
    // Each holds the one place for a tenth of the deadline, so that it comes to some of them only.
    let stalled: Vec<_> = (0..60).map(|_| stalled(&gate)).collect();
    await_some("the end of all", || (count(&gate.records(), |r| r["kind"] == "handshake") == 60).then_some(()));
    let of = |detail: &str| count(&gate.records(), |r| r["detail"].as_str().is_some_and(|d| d.contains(detail)));
    assert!(of("took long while others waited") > 0, "{:#?}", gate.records());
    assert!(of("too many handshakes are in progress") > 0, "{:#?}", gate.records());
    drop(stalled);
    gate.dial().identity(&gate.globex).open().request(GOOD).expect(200);
}

/// Threat 9, with the bounds that hold by default.
#[test]
fn thousands_of_half_open_handshakes_keep_nobody_out() {
    let gate = Gate::start();
    let mut kept = gate.dial().identity(&gate.acme).open();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let open_files =
        limits.lines().find_map(|l| l.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok());
    let many = open_files.map_or(2000, |n: usize| (n / 2).min(2000));
    let mut half_open = Vec::new();
    for n in 0..many {
        half_open.push(stalled(&gate));
        if n % 100 == 0 {
            kept.request(GOOD).expect(200);
        }
    }
    assert!(gate.metric("partnergate_handshakes_in_progress") <= 500.0);
    gate.dial().identity(&gate.globex).open().request(GOOD).expect(200);
    kept.request(GOOD).expect(200);
    drop(half_open);
    gate.await_metric("partnergate_handshakes_in_progress", 0.0);
}

#[test]
fn open_connections_are_capped_and_others_are_served() {
    let gate = Setup::new().set("partner.limits.max_connections", 3).start();
    let open = |who: &Identity| {
        let mut conn = gate.dial().identity(who).open();
        conn.request(GOOD).expect(200);
        conn
    };
    let mut held: Vec<TlsConn> = vec![open(&gate.acme), open(&gate.globex), open(&gate.acme)];
    let tried = gate.dial().identity(&gate.acme).refused();
    assert_eq!(tried, None, "no place, no handshake");
    gate.await_record("the refusal", |r| r["kind"] == "handshake" && r["reason"] == "connection-limit");
    for conn in &mut held {
        conn.request(GOOD).expect(200);
    }
    held.pop();
    gate.await_metric("partnergate_open_connections{protocol=\"http/1.1\"}", 2.0);
    open(&gate.globex).request(GOOD).expect(200);
}

#[test]
fn client_that_leaves_in_the_handshake_has_one_record() {
    let gate = Gate::start();
    let mut hello = Vec::new();
    gate.dial().state().write_tls(&mut hello).unwrap();
    let mut tcp = gate.dial().tcp();
    tcp.write_all(&hello).unwrap();
    tcp.read_exact(&mut [0; 5]).unwrap();
    drop(tcp);
    gate.await_record("the end", |r| r["kind"] == "handshake");
    evidence(&gate, "handshake-aborted", 1);
}

#[test]
fn plain_http_on_the_tls_port_is_refused() {
    let gate = Gate::start();
    let mut tcp = gate.dial().tcp();
    tcp.write_all(GOOD.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    let records = gate.settle();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["reason"], "handshake-protocol");
    gate.upstream.assert_untouched();
}

/// Threat 10: nobody is trusted to say where a connection comes from, so a PROXY header is bytes that are no handshake.
#[test]
fn proxy_header_is_refused_and_no_source_is_taken_from_it() {
    let gate = Setup::new().set("partner.timeouts.handshake", "2s").start();
    let v2 = |command: u8, family: u8, addresses: &[u8]| {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, family][..], &length, addresses].concat()
    };
    let addresses = [198, 51, 100, 7, 10, 0, 0, 1, 0xd4, 0x31, 0x01, 0xbb];
    let whole = v2(1, 0x11, &addresses);
    let headers: Vec<(&str, Vec<u8>)> = vec![
        ("version 1", b"PROXY TCP4 198.51.100.7 10.0.0.1 54321 443\r\n".to_vec()),
        ("version 1, v6", b"PROXY TCP6 2001:db8::7 2001:db8::1 54321 443\r\n".to_vec()),
        ("version 1, unknown", b"PROXY UNKNOWN\r\n".to_vec()),
        ("version 1, without an end", [b"PROXY TCP4 198.51.100.7 ".to_vec(), vec![b'1'; 4000]].concat()),
        ("version 2", whole.clone()),
        ("version 2, LOCAL", v2(0, 0, &[])),
        ("version 2, truncated", whole[..20].to_vec()),
        ("version 2, oversized", v2(1, 0x11, &[7; 60_000])),
    ];
    for (name, header) in &headers {
        let dial = gate.dial().identity(&gate.acme);
        let mut hello = Vec::new();
        dial.state().write_tls(&mut hello).unwrap();
        let mut tcp = dial.tcp();
        let port = tcp.local_addr().unwrap().port();
        // The gateway may close before it has taken everything.
        let _ = tcp.write_all(&[&header[..], &hello].concat());
        let mut answer = Vec::new();
        let end = tcp.read_to_end(&mut answer);
        let left_open = end.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!left_open, "{name}: left open");
        // At most an alert.
        assert!(answer.first().is_none_or(|kind| *kind == 21), "{name}: {answer:?}");
        let record = gate.await_record(name, |r| r["input"]["source"]["port"] == port);
        assert_eq!((&record["kind"], &record["result"]), (&"handshake".into(), &"deny".into()), "{name}: {record}");
        assert_eq!(record["reason"], "handshake-protocol", "{name}: {record}");
        assert_eq!(record["input"]["source"]["ip"], "127.0.0.1", "{name}: {record}");
    }
    assert_eq!(gate.settle().len(), headers.len());
    assert!(!gate.records_text().contains("198.51.100.7") && !gate.records_text().contains("2001:db8"));
    gate.upstream.assert_untouched();
    gate.dial().identity(&gate.acme).open().request(GOOD).expect(200);
}
