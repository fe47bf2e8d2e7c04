use super::*;
use crate::identity::parse_dn;
use crate::partner::{CredentialState, PartnerRecord};
use serde_json::json;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

const NOW: UnixNanos = UnixNanos(1_800_000_000_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn ca() -> Ca {
    let yesterday = UnixNanos(NOW.0 - 86_400_000_000_000);
    let (certificate, key) = Ca::generate("Partners", Curve::P256, yesterday, DAY * 365).unwrap();
    Ca::new(&certificate, Some(&key)).unwrap()
}

fn names(matching: serde_json::Value) -> Result<Names, String> {
    let record: PartnerRecord = serde_json::from_value(json!({
        "partner": {
            "id": "acme", "name": "Acme GmbH", "owner": "o", "state": "active", "time_zone": "UTC",
            "engagement": {}, "networks": [],
        },
        "credentials": [{
            "id": "acme-1", "anchor": "partners", "match": matching, "state": CredentialState::Active,
            "environments": [],
        }],
        "grants": [],
    }))
    .unwrap();
    Names::of(&record.partner, &record.credentials[0])
}

fn csr(change: impl FnOnce(&mut CertificateParams)) -> Csr {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    Csr::from_der(params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der()).unwrap()
}

fn terms() -> Terms {
    Terms { lifetime: DAY * 90, list_url: Some("http://pki.example/partners.crl".into()), until: None }
}

#[test]
fn certificate_has_the_approved_names_and_no_others() {
    let ca = ca();
    for (matching, subject, uri, dns) in [
        (json!({"uri": "spiffe://acme.example/a"}), "CN=acme-1,O=Acme GmbH", "spiffe://acme.example/a", ""),
        (json!({"dns": "a.acme.example"}), "CN=acme-1,O=Acme GmbH", "", "a.acme.example"),
        (json!({"organization_id": "PSDDE-1"}), "CN=acme-1,organizationIdentifier=PSDDE-1,O=Acme GmbH", "", ""),
        (json!({"subject": parse_dn("CN=billing,OU=x,O=Acme").unwrap()}), "CN=billing,OU=x,O=Acme", "", ""),
    ] {
        let names = names(matching).unwrap();
        // A request may ask for nothing, and gets what is approved.
        let der = ca.issue(&csr(|_| {}), &names, &terms(), NOW).unwrap();
        let facts = Certificate::from_der(&der).unwrap();
        assert_eq!(facts.subject.to_string(), subject);
        assert_eq!((facts.san.uri.join(","), facts.san.dns.join(",")), (uri.to_owned(), dns.to_owned()));
        assert_eq!((facts.is_ca, facts.client_auth, facts.cert_sign), (false, Some(true), false));
        assert_eq!(facts.crl_urls, ["http://pki.example/partners.crl"]);
        assert_eq!(facts.issuer, ca.facts.subject);
        assert!(facts.sound_serial && facts.not_before < NOW && facts.not_after > NOW.saturating_add(DAY * 89));
    }
}

#[test]
fn request_for_anything_else_is_refused_by_its_name() {
    let ca = ca();
    let by_uri = names(json!({"uri": "spiffe://acme.example/a"})).unwrap();
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let asks = |san: SanType| ca.issue(&csr(|p| p.subject_alt_names = vec![san]), &by_uri, &terms(), NOW);
    assert!(asks(SanType::URI("spiffe://acme.example/a".try_into().unwrap())).is_ok());
    assert!(asks(SanType::URI("spiffe://acme.example/b".try_into().unwrap())).unwrap_err().contains("example/b`"));
    assert!(asks(dns("globex.example")).unwrap_err().contains("the DNS name `globex.example`"));
    assert!(asks(SanType::IpAddress([10, 0, 0, 1].into())).unwrap_err().contains("10.0.0.1"));
    let by_subject = names(json!({"subject": parse_dn("CN=billing,O=Acme").unwrap()})).unwrap();
    let other = csr(|p| p.distinguished_name.push(DnType::OrganizationName, "Globex"));
    assert!(ca.issue(&other, &by_subject, &terms(), NOW).unwrap_err().contains("`O=Globex`"));
    // Of another subject than one that was approved, nothing is taken over.
    let der = ca.issue(&other, &by_uri, &terms(), NOW).unwrap();
    assert_eq!(Certificate::from_der(&der).unwrap().subject.to_string(), "CN=acme-1,O=Acme GmbH");
    let pinned = csr(|_| {});
    let by_key = names(json!({"spki_sha256": pinned.spki_sha256})).unwrap();
    assert!(ca.issue(&pinned, &by_key, &terms(), NOW).is_ok());
    assert!(ca.issue(&csr(|_| {}), &by_key, &terms(), NOW).unwrap_err().contains("another key"));
    assert!(names(json!({"fingerprint_sha256": "ab".repeat(32)})).unwrap_err().contains("there already"));
}

#[test]
fn certificate_ends_with_its_ca_and_a_ca_is_of_one_piece() {
    let ca = ca();
    let names = names(json!({"dns": "a.acme.example"})).unwrap();
    let long = Terms { lifetime: DAY * 3_650, list_url: None, until: None };
    let facts = Certificate::from_der(&ca.issue(&csr(|_| {}), &names, &long, NOW).unwrap()).unwrap();
    assert!(facts.not_after <= ca.facts.not_after);
    assert!(ca.issue(&csr(|_| {}), &names, &long, NOW.saturating_add(DAY * 366)).is_err());
    // And with the engagement.
    let end = NOW.saturating_add(DAY * 7);
    let short = Terms { until: Some(end), ..terms() };
    let facts = Certificate::from_der(&ca.issue(&csr(|_| {}), &names, &short, NOW).unwrap()).unwrap();
    assert!(facts.not_after <= end && facts.not_after > NOW.saturating_add(DAY * 6));
    assert!(ca.issue(&csr(|_| {}), &names, &short, end).unwrap_err().contains("the engagement"));
    let (other, _) = Ca::generate("Other", Curve::P384, NOW, DAY).unwrap();
    let (_, key) = Ca::generate("Third", Curve::P384, NOW, DAY).unwrap();
    assert!(Ca::new(&other, Some(&key)).unwrap_err().contains("another key"));
    assert!(
        Ca::new(&ca.issue(&csr(|_| {}), &names, &long, NOW).unwrap(), Some(&key))
            .unwrap_err()
            .contains("no certificate of a CA")
    );
}

#[test]
fn list_names_what_is_revoked_and_why() {
    let ca = ca();
    let issued = |serial: &str, why: Option<Why>| Issued {
        serial: Serial::parse(serial).unwrap(),
        anchor: AnchorName::parse("partners").unwrap(),
        partner: PartnerId::parse("acme").unwrap(),
        credential: CredentialId::parse("acme-1").unwrap(),
        fingerprint: Fingerprint::of(b"x"),
        spki: Fingerprint::of(b"y"),
        subject: "CN=a".into(),
        uri: Vec::new(),
        dns: Vec::new(),
        not_before: NOW,
        not_after: NOW,
        renews: None,
        revoked: why.map(|why| Withdrawn { at: NOW, why }),
    };
    let all =
        [issued("0abc", Some(Why::Superseded)), issued("12", None), issued("7f", Some(Why::CessationOfOperation))];
    let der = ca.list(&Revoked::among(all.iter()), 77, NOW, DAY).unwrap();
    let (rest, list) = CertificateRevocationList::from_der(&der).unwrap();
    let entries: Vec<(String, u8)> = list
        .iter_revoked_certificates()
        .map(|r| (format!("{:x}", r.user_certificate), r.reason_code().unwrap().1.0))
        .collect();
    assert_eq!((rest.len(), entries), (0, vec![("abc".into(), 4), ("7f".into(), 5)]));
    assert_eq!(list.crl_number().map(ToString::to_string), Some("77".into()));
    assert!(
        list.verify_signature(
            &x509_parser::parse_x509_certificate(ca.certificate()).unwrap().1.tbs_certificate.subject_pki
        )
        .is_ok()
    );
}
