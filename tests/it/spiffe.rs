//! SPIFFE: trust bundles as anchors, X.509-SVID rules, and who may speak for a trust domain.

use crate::harness::{Authority, Gate, HOST, Identity, Setup, await_some};
use data_encoding::BASE64;
use rcgen::{CertificateParams, KeyUsagePurpose, SanType};
use rustls::AlertDescription as Alert;
use serde_json::{Value, json};
use std::path::Path;

const GOOD: &str = "GET /items HTTP/1.1\r\nHost: api.partner.test\r\n\r\n";
const FILE: &str = "bundles/acme.jwks";
const BUNDLE: &str = "bundle: {trust_domain: acme.example, file: bundles/acme.jwks}";

/// A bundle of these CAs, as SPIRE writes it: a key for tokens is there too.
fn bundle(sequence: u64, cas: &[&Authority]) -> Value {
    let mut keys = vec![json!({"use": "jwt-svid", "kty": "EC", "kid": "a", "crv": "P-256", "x": "AA", "y": "AA"})];
    keys.extend(cas.iter().map(|ca| json!({"use": "x509-svid", "kty": "EC", "x5c": [BASE64.encode(&ca.der)]})));
    json!({"spiffe_sequence": sequence, "spiffe_refresh_hint": 300, "keys": keys})
}

/// As a publisher does it: the whole file at once.
fn publish(dir: &Path, document: &Value) {
    publish_text(dir, &document.to_string());
}

fn publish_text(dir: &Path, text: &str) {
    std::fs::create_dir_all(dir.join("bundles")).unwrap();
    std::fs::write(dir.join("bundles/new"), text).unwrap();
    std::fs::rename(dir.join("bundles/new"), dir.join(FILE)).unwrap();
}

/// `acme` proves itself under a bundle that holds its CA.
fn setup() -> Setup {
    let setup = Setup::new().set("reload.interval", "100ms");
    publish(setup.dir.path(), &bundle(1, &[&setup.acme_ca]));
    let registry = setup.registry_text().replace("certificate: acme-ca.pem", BUNDLE);
    setup.registry(&registry)
}

fn uri(names: &[&str]) -> impl Fn(&mut CertificateParams) {
    let names: Vec<SanType> = names.iter().map(|n| SanType::URI((*n).try_into().unwrap())).collect();
    move |params| params.subject_alt_names = names.clone()
}

/// The certificate is refused in the handshake for this reason.
#[track_caller]
fn refused(gate: &Gate, who: &Identity, alert: Alert, reason: &str) -> Value {
    let before = gate.records().len();
    assert_eq!(gate.dial().identity(who).refused(), Some(alert), "{}", who.name);
    await_some(reason, || {
        gate.records().into_iter().skip(before).find(|r| {
            r["kind"] == "handshake"
                && r["reason"] == reason
                && r["input"]["credential"]["fingerprint_sha256"] == who.fingerprint()
        })
    })
}

#[track_caller]
fn served(gate: &Gate, who: &Identity) -> Value {
    let answer = gate.dial().identity(who).open().request(GOOD);
    gate.record_of(answer.expect(200).id())
}

fn certificates(gate: &Gate) -> f64 {
    gate.metric("partnergate_trust_bundle_certificates{anchor=\"acme-ca\"}")
}

const OK: &str = "partnergate_trust_bundle_last_read_successful{anchor=\"acme-ca\"}";

#[test]
fn svid_of_the_trust_domain_is_served_and_nothing_else_of_its_ca() {
    let gate = setup().start();
    let record = served(&gate, &gate.acme);
    assert_eq!(record["input"]["credential"]["trust_anchor"], "acme-ca", "{record}");
    let issuing = gate.pki.intermediate(&gate.acme_ca, "issuing", |_| {});
    served(&gate, &gate.pki.client(&issuing, "below", uri(&["spiffe://acme.example/client"])));
    let issue = |name: &str, names: &[&str]| gate.pki.client(&gate.acme_ca, name, uri(names));
    let but = |name: &str, usages: Vec<KeyUsagePurpose>| {
        gate.pki.client(&gate.acme_ca, name, |p| {
            uri(&["spiffe://acme.example/client"])(p);
            p.key_usages = usages;
        })
    };
    for who in [
        issue("no-name", &[]),
        issue("no-svid", &["https://acme.example/client"]),
        issue("other-domain", &["spiffe://globex.example/client"]),
        issue("domain-below", &["spiffe://a.acme.example/client"]),
        issue("no-path", &["spiffe://acme.example"]),
        issue("two-names", &["spiffe://acme.example/client", "spiffe://acme.example/other"]),
        issue("a-name-beside", &["spiffe://acme.example/client", "https://acme.example/"]),
        issue("letter-case", &["SPIFFE://acme.example/client"]),
        but("no-usage", vec![]),
        but("signs-lists", vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign]),
    ] {
        refused(&gate, &who, Alert::BadCertificate, "certificate-not-svid");
    }
    let signs = but("signs-certificates", vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign]);
    refused(&gate, &signs, Alert::BadCertificate, "certificate-constraint");
    let status: Value = serde_json::from_str(&gate.cli(&["status", "--output", "json"]).text()).unwrap();
    let shown = &status["bundles"][0];
    assert_eq!((&shown["anchor"], &shown["trust_domain"]), (&"acme-ca".into(), &"acme.example".into()), "{status}");
    assert_eq!((&shown["sequence"], &shown["certificates"]), (&1.into(), &1.into()), "{status}");
}

/// The CA changes as its trust domain says, with an overlap, and every step is in force on what is open.
#[test]
fn bundle_rotates_and_no_keys_means_revoked() {
    let gate = setup().start();
    let next_ca = gate.pki.authority("acme-next-ca");
    let next = gate.pki.client(&next_ca, "acme-next", uri(&["spiffe://acme.example/client"]));
    refused(&gate, &next, Alert::UnknownCA, "certificate-unknown-issuer");
    let mut old = gate.dial().identity(&gate.acme).open();
    old.request(GOOD).expect(200);

    publish(gate.dir.path(), &bundle(2, &[&gate.acme_ca, &next_ca]));
    await_some("two certificates", || (certificates(&gate) == 2.0).then_some(()));
    served(&gate, &next);
    old.request(GOOD).expect(200);
    let expiry = gate.metric("partnergate_anchor_expiry_timestamp_seconds{anchor=\"acme-ca\"}");
    assert!(expiry > 0.0, "the first of them to expire");

    let mut new = gate.dial().identity(&next).open();
    new.request(GOOD).expect(200);
    publish(gate.dir.path(), &bundle(3, &[&next_ca]));
    await_some("one certificate", || (certificates(&gate) == 1.0).then_some(()));
    let denied = old.request(GOOD);
    assert_eq!(gate.record_of(denied.expect(403).id())["reason"], "trust-changed");
    new.request(GOOD).expect(200);
    refused(&gate, &gate.acme, Alert::UnknownCA, "certificate-unknown-issuer");

    publish(gate.dir.path(), &json!({"spiffe_sequence": 4, "keys": []}));
    await_some("no certificate", || (certificates(&gate) == 0.0).then_some(()));
    assert_eq!(gate.metric(OK), 1.0, "an empty bundle is a good one");
    let denied = new.request(GOOD);
    assert_eq!(gate.record_of(denied.expect(403).id())["reason"], "trust-changed");
    refused(&gate, &next, Alert::UnknownCA, "certificate-unknown-issuer");
    served(&gate, &gate.globex);
}

#[test]
fn bad_or_older_bundle_never_replaces_a_good_one_even_over_a_restart() {
    let mut gate = setup().start();
    publish(gate.dir.path(), &bundle(7, &[&gate.acme_ca]));
    let shown = |gate: &Gate| -> Value {
        let status: Value = serde_json::from_str(&gate.cli(&["status", "--output", "json"]).text()).unwrap();
        status["bundles"][0]["sequence"].clone()
    };
    await_some("sequence 7", || (shown(&gate) == 7).then_some(()));
    let weak = BASE64.encode(&gate.acme.chain[0]);
    for (text, said) in [
        ("{".to_owned(), "not a SPIFFE bundle"),
        (json!({"spiffe_sequence": 8}).to_string(), "keys"),
        (json!({"spiffe_sequence": -1, "keys": []}).to_string(), "not a SPIFFE bundle"),
        (json!({"keys": []}).to_string(), "no spiffe_sequence"),
        (bundle(6, &[]).to_string(), "lower than 7"),
        (json!({"spiffe_sequence": 8, "keys": [{"kty": "EC", "x5c": []}]}).to_string(), "use"),
        (json!({"spiffe_sequence": 8, "keys": [{"kty": "EC", "use": "x509-svid"}]}).to_string(), "keys[0]"),
        (
            json!({"spiffe_sequence": 8, "keys": [{"kty": "EC", "use": "x509-svid", "x5c": [weak]}]}).to_string(),
            "not a CA certificate",
        ),
        (format!("{}{}", bundle(8, &[]), " ".repeat(1024 * 1024)), "bytes"),
        // A public certificate of somebody else in the bundle: it would speak for them.
        (bundle(8, &[&gate.globex_ca]).to_string(), "same public key"),
    ] {
        publish(gate.dir.path(), &bundle(7, &[&gate.acme_ca]));
        gate.await_metric(OK, 1.0);
        publish_text(gate.dir.path(), &text);
        gate.await_metric(OK, 0.0);
        gate.await_log(said);
        served(&gate, &gate.acme);
        served(&gate, &gate.globex);
        assert_eq!(gate.cli(&["check"]).exit, Some(3), "{said}");
    }
    std::fs::remove_file(gate.dir.path().join(FILE)).unwrap();
    await_some("the file to be missed", || gate.log().contains("does not exist").then_some(()));
    served(&gate, &gate.acme);
    publish(gate.dir.path(), &bundle(6, &[&gate.globex_ca]));
    gate.restart("TERM");
    assert_eq!(shown(&gate), 7, "the last good one was kept");
    gate.await_metric(OK, 0.0);
    served(&gate, &gate.acme);
}

/// An anchor that goes and comes back has not forgotten what its trust domain has withdrawn.
#[test]
fn older_bundle_does_not_come_in_with_an_anchor_that_was_away() {
    let gate = setup().start();
    publish(gate.dir.path(), &bundle(7, &[&gate.acme_ca]));
    await_some("sequence 7", || {
        let status: Value = serde_json::from_str(&gate.cli(&["status", "--output", "json"]).text()).unwrap();
        (status["bundles"][0]["sequence"] == 7).then_some(())
    });
    served(&gate, &gate.acme);
    let with = gate.registry_text().to_owned();
    let (from, to) = (with.find("  acme:\n").unwrap(), with.find("  globex:\n").unwrap());
    let anchor = with.lines().find(|line| line.starts_with("  acme-ca:")).unwrap();
    let without = format!("{}{}", &with[..from], &with[to..]).replace(&format!("{anchor}\n"), "");
    assert!(!without.contains("acme-ca"), "{without}");
    gate.apply(&without);
    publish(gate.dir.path(), &bundle(6, &[&gate.acme_ca]));
    let refused = gate.try_apply(&with);
    assert!(refused.exit == Some(3) && refused.stderr.contains("lower than 7"), "{}", refused.stderr);
    publish(gate.dir.path(), &bundle(8, &[&gate.acme_ca]));
    gate.apply(&with);
    served(&gate, &gate.acme);
}

#[test]
fn apply_that_names_a_bundle_that_cannot_be_read_changes_nothing() {
    let gate = Gate::start();
    let registry = gate.registry_text().replace("certificate: acme-ca.pem", BUNDLE);
    for (text, said) in [(None, "does not exist"), (Some("[]"), "not a SPIFFE bundle"), (Some("{}"), "keys")] {
        if let Some(text) = text {
            publish_text(gate.dir.path(), text);
        }
        let finished = gate.try_apply(&registry);
        assert_eq!(finished.exit, Some(3), "{}", finished.stderr);
        let stderr = finished.stderr;
        assert!(stderr.contains(said) && stderr.contains("acme-ca") && stderr.contains("acme.jwks"), "{stderr}");
        served(&gate, &gate.acme);
    }
    publish(gate.dir.path(), &bundle(1, &[&gate.acme_ca, &gate.globex_ca]));
    let finished = gate.try_apply(&registry);
    assert_eq!(finished.exit, Some(3), "{}", finished.stderr);
    assert!(finished.stderr.contains("same public key"), "{}", finished.stderr);
    publish(gate.dir.path(), &bundle(1, &[&gate.acme_ca]));
    gate.apply(&registry);
    served(&gate, &gate.acme);
}

/// The upstream may believe a SPIFFE ID, so another CA does not get to state it by the way.
#[test]
fn trust_domain_with_a_bundle_is_not_claimed_under_another_anchor() {
    let gate = setup().start();
    let claims = gate.pki.client(&gate.globex_ca, "claims", |p| {
        uri(&["spiffe://acme.example/admin"])(p);
        p.subject_alt_names.push(SanType::DnsName("erp.globex.example".try_into().unwrap()));
    });
    let by = |matching: &str| {
        let from = "match: {uri: \"spiffe://globex.example/client\"}";
        let registry = gate.registry_text().replace(from, &format!("match: {{{matching}}}"));
        assert_ne!(registry, gate.registry_text());
        gate.apply(&registry);
        gate.dial().identity(&claims).open().request(format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
    };
    for matching in ["dns: erp.globex.example".to_owned(), format!("spki_sha256: \"{}\"", claims.spki())] {
        let answer = by(&matching);
        assert_eq!(answer.expect(403).code(), "identity-unknown", "{matching}");
        assert_eq!(gate.record_of(answer.id())["reason"], "trust-domain-not-vouched", "{matching}");
    }
    gate.upstream.assert_untouched();
    // An operator who registers the name, or the very certificate, has said so.
    for matching in
        ["uri: \"spiffe://acme.example/admin\"".to_owned(), format!("fingerprint_sha256: \"{}\"", claims.fingerprint())]
    {
        by(&matching).expect(200);
    }
}
