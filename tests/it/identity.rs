//! Who is who: threats 4, 5, 6 and 32, and each way to recognise a certificate.

use crate::harness::{Gate, HOST, Identity, Pki, Response, Setup, count};
use rcgen::{CertificateParams, DnType, DnValue, SanType};
use serde_json::Value;

fn ask(gate: &Gate, who: &Identity) -> Response {
    let request = format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    gate.dial().identity(who).open().request(request)
}

/// Asks as somebody, and returns the record of the answer, which must have this status.
#[track_caller]
fn record(gate: &Gate, who: &Identity, status: u16) -> Value {
    let answer = ask(gate, who);
    answer.expect(status);
    gate.record_of(answer.id())
}

/// The certificate is trusted but belongs to nobody: the answer says no more than that.
#[track_caller]
fn nobody(gate: &Gate, who: &Identity, reason: &str) -> Value {
    let answer = ask(gate, who);
    answer.expect(403);
    assert_eq!(answer.code(), "identity-unknown");
    let record = gate.record_of(answer.id());
    assert_eq!((&record["result"], &record["reason"]), (&"deny".into(), &reason.into()), "{record}");
    assert_eq!(record["input"].get("partner"), None, "{record}");
    assert_eq!(record["input"]["credential"]["fingerprint_sha256"], who.fingerprint(), "{record}");
    // Over HTTP/2 just so.
    let other = gate.curl(Some(who), "/items", &["--http2"]);
    assert_eq!(other.version, "2");
    let told: Value = serde_json::from_str(&other.expect(403).text()).unwrap();
    assert_eq!(told["code"], "identity-unknown");
    assert_eq!(gate.record_of(told["request_id"].as_str().unwrap())["reason"], reason);
    gate.upstream.assert_untouched();
    record
}

fn uri(params: &mut CertificateParams, names: &[&str]) {
    params.subject_alt_names = names.iter().map(|n| SanType::URI((*n).try_into().unwrap())).collect();
}

fn dns(params: &mut CertificateParams, names: &[&str]) {
    params.subject_alt_names = names.iter().map(|n| SanType::DnsName((*n).try_into().unwrap())).collect();
}

/// A registry of the partners `acme` and `globex`; both anchors are as they say, and each credential is a line of YAML.
fn registry(anchors: &str, acme: &[String], globex: &[String]) -> String {
    let partner = |id: &str, credentials: &[String]| {
        let lines: String = credentials.iter().map(|c| format!("      {c}\n")).collect();
        let credentials = if lines.is_empty() { String::new() } else { format!("    credentials:\n{lines}") };
        format!(
            "  {id}:\n    name: {id}\n    owner: team\n    engagement: {{starts: 2020-01-01T00:00:00Z, ends: \
             2100-01-01T00:00:00Z}}\n    networks: [any]\n{credentials}    grants:\n      {id}-items: {{owner: team, \
             operations: [items.list, items.read], ends: 2100-01-01T00:00:00Z}}\n"
        )
    };
    format!("environment: test\nanchors:\n{anchors}partners:\n{}{}", partner("acme", acme), partner("globex", globex))
}

const SEPARATE: &str = "  acme-ca: {certificate: acme-ca.pem, partners: [acme]}\n  globex-ca: {certificate: \
                        globex-ca.pem, partners: [globex]}\n";
const SHARED: &str = "  acme-ca: {certificate: acme-ca.pem, partners: [acme, globex]}\n  globex-ca: {certificate: \
                      globex-ca.pem, partners: [globex]}\n";

fn credential(id: &str, anchor: &str, matching: &str) -> String {
    format!("{id}: {{anchor: {anchor}, match: {{{matching}}}}}")
}

#[test]
fn each_kind_of_match_recognises_its_certificate() {
    let setup = Setup::new();
    let issue = |name: &str, change: &dyn Fn(&mut CertificateParams)| setup.pki.client(&setup.acme_ca, name, change);
    let organization = DnType::CustomDnType(vec![2, 5, 4, 97]);
    let cases: Vec<(&str, Identity, String)> = vec![
        ("fingerprint", issue("by-fingerprint", &|_| {}), String::new()),
        ("spki", issue("by-spki", &|_| {}), String::new()),
        ("issuer-serial", issue("by-serial", &|_| {}), String::new()),
        (
            "uri",
            issue("by-uri", &|p| uri(p, &["https://acme.example/client?a=b"])),
            "uri: \"https://acme.example/client?a=b\"".into(),
        ),
        (
            "spiffe",
            issue("by-spiffe", &|p| uri(p, &["spiffe://acme.example/x"])),
            "uri: \"spiffe://acme.example/x\"".into(),
        ),
        (
            "dns",
            issue("by-dns", &|p| dns(p, &["other.acme.example", "Client.ACME.example"])),
            "dns: client.acme.example".into(),
        ),
        ("subject", issue("by-subject", &|_| {}), "subject: \"CN=by-subject,O=Tests\"".into()),
        (
            "organization-id",
            issue("by-organization", &|p| p.distinguished_name.push(organization.clone(), "PSDDE-BAFIN-123456")),
            "organization_id: PSDDE-BAFIN-123456".into(),
        ),
    ];
    let credentials: Vec<String> = cases
        .iter()
        .map(|(kind, who, matching)| {
            let matching = match *kind {
                "fingerprint" => format!("fingerprint_sha256: \"{}\"", who.fingerprint()),
                "spki" => format!("spki_sha256: \"{}\"", who.spki()),
                "issuer-serial" => format!("issuer: \"CN=acme-ca,O=Tests\", serial: \"{}\"", who.serial()),
                _ => matching.clone(),
            };
            credential(kind, "acme-ca", &matching)
        })
        .collect();
    let gate = setup.registry(&registry(SEPARATE, &credentials, &[])).start();
    for (kind, who, _) in &cases {
        let record = record(&gate, who, 200);
        assert_eq!(record["input"]["partner"]["id"], "acme", "{record}");
        assert_eq!(record["input"]["credential"]["id"], *kind, "{record}");
        assert_eq!(record["input"]["credential"]["trust_anchor"], "acme-ca", "{record}");
    }
    assert_eq!(gate.upstream.text().matches("X-Partner-Id: acme\r\n").count(), cases.len());
    let stranger = gate.pki.client(&gate.acme_ca, "stranger", |_| {});
    let record = record(&gate, &stranger, 403);
    assert_eq!(record["reason"], "identity-unknown", "{record}");
}

#[test]
fn valid_chain_without_a_credential_is_nobody() {
    let gate = Gate::start();
    let who = gate.pki.client(&gate.acme_ca, "stranger", |p| uri(p, &["spiffe://acme.example/other"]));
    nobody(&gate, &who, "identity-unknown");
    gate.await_metric("partnergate_denials_total{reason=\"identity-unknown\"}", 2.0);
    gate.await_metric("partnergate_requests_total{outcome=\"denied\",partner=\"unknown\"}", 2.0);
}

/// Threat 4.
#[test]
fn same_certificate_or_key_or_name_for_two_partners_is_refused_at_registration() {
    let setup = Setup::new();
    let acme = setup.acme.clone();
    let gate = setup.start();
    for matching in [
        format!("fingerprint_sha256: \"{}\"", acme.fingerprint()),
        format!("spki_sha256: \"{}\"", acme.spki()),
        "uri: \"spiffe://acme.example/client\"".to_owned(),
    ] {
        let both = registry(
            SHARED,
            &[credential("acme-client", "acme-ca", &matching)],
            &[credential("globex-client", "acme-ca", &matching)],
        );
        let finished = gate.try_apply(&both);
        assert_eq!(finished.exit, Some(3), "{matching}: {}", finished.stderr);
        for word in ["acme-client", "globex-client", "acme-ca"] {
            assert!(finished.stderr.contains(word), "{word}: {}", finished.stderr);
        }
        // All or nothing: what was there is still there.
        assert_eq!(record(&gate, &gate.acme, 200)["input"]["partner"]["id"], "acme");
        assert_eq!(record(&gate, &gate.globex, 200)["input"]["partner"]["id"], "globex");
    }
}

/// Threat 4, where registration cannot see it: two ways to match that meet in one certificate.
#[test]
fn certificate_that_matches_two_partners_is_ambiguous_and_denied() {
    let setup = Setup::new();
    let both = registry(
        SHARED,
        &[credential("acme-by-uri", "acme-ca", "uri: \"spiffe://acme.example/client\"")],
        &[credential("globex-by-key", "acme-ca", &format!("fingerprint_sha256: \"{}\"", setup.acme.fingerprint()))],
    );
    let gate = setup.registry(&both).start();
    let record = nobody(&gate, &gate.acme, "identity-ambiguous");
    assert_eq!(
        record["detail"], "it is `globex-by-key` of `globex` by fingerprint_sha256 and `acme-by-uri` of `acme` by uri",
        "whoever has to sort it out is told"
    );
    gate.await_metric("partnergate_denials_total{reason=\"identity-ambiguous\"}", 2.0);
}

#[test]
fn two_certificates_with_the_same_name_are_a_rotation() {
    let gate = Gate::start();
    let next = gate.pki.client(&gate.acme_ca, "acme-next", |p| uri(p, &["spiffe://acme.example/client"]));
    let (mut old, mut new) = (gate.dial().identity(&gate.acme).open(), gate.dial().identity(&next).open());
    for _ in 0..3 {
        for conn in [&mut old, &mut new] {
            conn.request(format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).expect(200);
        }
    }
    let records = gate.settle();
    assert_eq!(count(&records, |r| r["result"] == "allow"), 6, "{records:#?}");
    assert_eq!(records.len(), 6, "no denial, and nothing else");
}

#[test]
fn certificates_with_the_same_name_may_be_listed_one_by_one() {
    let setup = Setup::new();
    let next = setup.pki.client(&setup.acme_ca, "acme-next", |p| uri(p, &["spiffe://acme.example/client"]));
    let listed = registry(
        SEPARATE,
        &[
            credential("old", "acme-ca", &format!("fingerprint_sha256: \"{}\"", setup.acme.fingerprint())),
            credential("new", "acme-ca", &format!("fingerprint_sha256: \"{}\"", next.fingerprint())),
            credential("any", "acme-ca", "uri: \"spiffe://acme.example/client\""),
        ],
        &[],
    );
    let gate = setup.registry(&listed).start();
    // The most specific match wins.
    assert_eq!(record(&gate, &gate.acme, 200)["input"]["credential"]["id"], "old");
    assert_eq!(record(&gate, &next, 200)["input"]["credential"]["id"], "new");
    let third = gate.pki.client(&gate.acme_ca, "acme-third", |p| uri(p, &["spiffe://acme.example/client"]));
    assert_eq!(record(&gate, &third, 200)["input"]["credential"]["id"], "any");
}

#[test]
fn renewed_certificate_with_the_same_key_is_known_by_its_key() {
    let setup = Setup::new();
    let by_key = credential("key", "acme-ca", &format!("spki_sha256: \"{}\"", setup.acme.spki()));
    let gate = setup.registry(&registry(SEPARATE, &[by_key], &[])).start();
    let renewed = gate.pki.client_with_key(&gate.acme_ca, "renewed", gate.acme.key_pair(), |_| {});
    assert_ne!(renewed.fingerprint(), gate.acme.fingerprint());
    assert_eq!(record(&gate, &renewed, 200)["input"]["credential"]["id"], "key");
    let elsewhere = gate.pki.client_with_key(&gate.globex_ca, "elsewhere", gate.acme.key_pair(), |_| {});
    let denied = record(&gate, &elsewhere, 403);
    assert_eq!(denied["reason"], "identity-unknown", "the same key under another anchor: {denied}");
}

/// Threat 5.
#[test]
fn ca_of_one_partner_cannot_speak_for_another() {
    let setup = Setup::new();
    let target = setup.pki.client(&setup.acme_ca, "target", |p| {
        p.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 97]), "PSDDE-BAFIN-1");
        dns(p, &["client.acme.example"]);
    });
    let credentials = [
        credential("uri", "acme-ca", "uri: \"spiffe://acme.example/client\""),
        credential("dns", "acme-ca", "dns: client.acme.example"),
        credential("subject", "acme-ca", "subject: \"CN=victim,O=Tests\""),
        credential("organization", "acme-ca", "organization_id: PSDDE-BAFIN-1"),
        credential("serial", "acme-ca", &format!("issuer: \"CN=acme-ca,O=Tests\", serial: \"{}\"", target.serial())),
    ];
    let gate = setup.registry(&registry(SEPARATE, &credentials, &[])).start();
    // globex' CA names a certificate just as acme's are named, down to the issuer, which is an intermediate of its own.
    let elsewhere = Pki::new(&gate.dir.path().join("elsewhere"));
    let lookalike = elsewhere.intermediate(&gate.globex_ca, "acme-ca", |_| {});
    let serial = hex::decode(target.serial()).unwrap();
    for (name, ca) in [("directly", &gate.globex_ca), ("below-a-lookalike", &lookalike)] {
        let forged = elsewhere.client(ca, "victim", |p| {
            p.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 97]), "PSDDE-BAFIN-1");
            p.subject_alt_names = vec![
                SanType::URI("spiffe://acme.example/client".try_into().unwrap()),
                SanType::DnsName("client.acme.example".try_into().unwrap()),
            ];
            p.serial_number = Some(serial.clone().into());
        });
        let record = nobody(&gate, &forged, "identity-unknown");
        assert_eq!(record["input"]["credential"]["trust_anchor"], "globex-ca", "{name}: {record}");
    }
}

#[test]
fn credential_under_an_anchor_that_is_not_bound_to_its_partner_is_refused_at_registration() {
    let gate = Gate::start();
    let unbound = registry(SEPARATE, &[credential("x", "globex-ca", "uri: \"spiffe://acme.example/client\"")], &[]);
    let finished = gate.try_apply(&unbound);
    assert_eq!(finished.exit, Some(3), "{}", finished.stderr);
    assert!(finished.stderr.contains("globex-ca") && finished.stderr.contains("not bound"), "{}", finished.stderr);
}

/// Threat 6. A certificate with such a name is not let in at all.
#[test]
fn names_that_programs_read_differently_are_refused_in_the_handshake() {
    let gate = Gate::start();
    let certificates = [
        (
            "nul-in-uri",
            gate.pki.client(&gate.acme_ca, "nul-in-uri", |p| uri(p, &["spiffe://acme.example/client\0.evil"])),
        ),
        ("nul-in-dns", gate.pki.client(&gate.acme_ca, "nul-in-dns", |p| dns(p, &["acme.example\0.evil.example"]))),
        (
            "space-in-uri",
            gate.pki.client(&gate.acme_ca, "space-in-uri", |p| uri(p, &["spiffe://acme.example/client "])),
        ),
        ("line-in-dns", gate.pki.client(&gate.acme_ca, "line-in-dns", |p| dns(p, &["acme.example\nevil.example"]))),
        (
            "nul-in-subject",
            gate.pki.client(&gate.acme_ca, "nul-in-subject", |p| {
                p.distinguished_name.push(DnType::CommonName, DnValue::Utf8String("acme\0evil".into()));
            }),
        ),
    ];
    for (n, (name, who)) in certificates.iter().enumerate() {
        let alert = gate.dial().identity(who).refused();
        assert_eq!(alert, Some(rustls::AlertDescription::BadCertificate), "{name}");
        let records = gate.settle();
        assert_eq!(records.len(), n + 1, "{name}: {records:#?}");
        assert_eq!(records[n]["reason"], "certificate-malformed", "{name}: {records:#?}");
        assert!(!gate.records_text().contains('\0'), "{name}");
    }
}

/// Threat 6: letters that look alike, and bytes that are no ASCII where only ASCII may be.
#[test]
fn look_alike_letters_do_not_match() {
    let setup = Setup::new();
    let credentials = [
        credential("subject", "acme-ca", "subject: \"CN=acme,O=Acme\""),
        credential("organization", "acme-ca", "organization_id: PSDDE-BAFIN-1"),
        credential("uri", "acme-ca", "uri: \"spiffe://acme.example/client\""),
    ];
    let gate = setup.registry(&registry(SEPARATE, &credentials, &[])).start();
    let subject = |common: DnValue, organization: DnValue| {
        move |p: &mut CertificateParams| {
            p.distinguished_name = rcgen::DistinguishedName::new();
            p.distinguished_name.push(DnType::OrganizationName, organization.clone());
            p.distinguished_name.push(DnType::CommonName, common.clone());
        }
    };
    let utf8 = |text: &str| DnValue::Utf8String(text.into());
    let plain = gate.pki.client(&gate.acme_ca, "plain", subject(utf8("acme"), utf8("Acme")));
    assert_eq!(record(&gate, &plain, 200)["input"]["credential"]["id"], "subject");
    let served = gate.upstream.bytes().len();
    for (name, common, organization) in [
        ("cyrillic", utf8("\u{430}cme"), utf8("Acme")),
        ("full-width", utf8("acme"), utf8("\u{ff21}cme")),
        ("zero-width", utf8("acme\u{200b}"), utf8("Acme")),
        ("letter-case", utf8("ACME"), utf8("Acme")),
        ("space", utf8("acme "), utf8("Acme")),
        ("teletex", DnValue::TeletexString("acme".try_into().unwrap()), utf8("Acme")),
        ("bmp", DnValue::BmpString("acme".try_into().unwrap()), utf8("Acme")),
        ("universal", DnValue::UniversalString("acme".try_into().unwrap()), utf8("Acme")),
    ] {
        let who = gate.pki.client(&gate.acme_ca, name, subject(common, organization));
        assert_eq!(record(&gate, &who, 403)["reason"], "identity-unknown", "{name}");
    }
    // The text is the same, and so is the name: PrintableString and UTF8String are not told apart.
    let printable = |text: &str| DnValue::PrintableString(text.try_into().unwrap());
    let mixed = gate.pki.client(&gate.acme_ca, "printable", subject(printable("acme"), utf8("Acme")));
    assert_eq!(record(&gate, &mixed, 200)["input"]["credential"]["id"], "subject");
    assert!(gate.upstream.bytes().len() > served);
}

/// A leaf that says `spiffe:` is an X.509-SVID or nothing at all: somebody might believe the name.
#[test]
fn several_uris_with_a_spiffe_id_among_them_are_refused() {
    let gate = Gate::start();
    for names in [
        ["spiffe://acme.example/client", "spiffe://globex.example/client"],
        ["spiffe://acme.example/client", "https://acme.example/"],
        ["spiffe://acme.example/client", "spiffe://acme.example/client"],
    ] {
        let who = gate.pki.client(&gate.acme_ca, "several", |p| uri(p, &names));
        no_svid(&gate, &who);
    }
    gate.upstream.assert_untouched();
}

#[track_caller]
fn no_svid(gate: &Gate, who: &Identity) {
    assert_eq!(gate.dial().identity(who).refused(), Some(rustls::AlertDescription::BadCertificate));
    let record =
        gate.await_record("the refusal", |r| r["input"]["credential"]["fingerprint_sha256"] == who.fingerprint());
    assert_eq!((&record["kind"], &record["reason"]), (&"handshake".into(), &"certificate-not-svid".into()), "{record}");
}

#[test]
fn several_uris_are_no_identity() {
    let setup = Setup::new();
    let by_uri = credential("uri", "acme-ca", "uri: \"https://acme.example/client\"");
    let gate = setup.registry(&registry(SEPARATE, &[by_uri], &[])).start();
    for names in [
        ["https://acme.example/client", "https://globex.example/client"],
        ["https://acme.example/client", "https://acme.example/client"],
    ] {
        let who = gate.pki.client(&gate.acme_ca, "several", |p| uri(p, &names));
        nobody(&gate, &who, "identity-unknown");
    }
}

#[test]
fn names_that_are_nearly_right_do_not_match() {
    let gate = Gate::start();
    for name in [
        "spiffe://acme.example/Client",
        "spiffe://acme.example/client/more",
        "spiffe://acme.example/clien",
        "spiffe://acme.example.org/client",
        "https://acme.example/client",
    ] {
        let who = gate.pki.client(&gate.acme_ca, "nearly", |p| uri(p, &[name]));
        nobody(&gate, &who, "identity-unknown");
    }
    for name in [
        "spiffe://acme.example/client/",
        "spiffe://ACME.example/client",
        "SPIFFE://acme.example/client",
        "spiffe://acme.example//client",
        "spiffe://acme.example/%63lient",
        "spiffe://acme.example:443/client",
        "spiffe://acme.example/client?x",
        "spiffe://acme.example/client#x",
        "spiffe://acme.example",
    ] {
        let who = gate.pki.client(&gate.acme_ca, "broken", |p| uri(p, &[name]));
        no_svid(&gate, &who);
    }
    gate.upstream.assert_untouched();
}

#[test]
fn wildcard_in_a_certificate_matches_nothing() {
    let setup = Setup::new();
    let by_dns = credential("dns", "acme-ca", "dns: client.acme.example");
    let gate = setup.registry(&registry(SEPARATE, &[by_dns], &[])).start();
    let who = gate.pki.client(&gate.acme_ca, "wildcard", |p| dns(p, &["*.acme.example"]));
    nobody(&gate, &who, "identity-unknown");
    let wild = registry(SEPARATE, &[credential("dns", "acme-ca", "dns: \"*.acme.example\"")], &[]);
    let finished = gate.try_apply(&wild);
    assert_eq!(finished.exit, Some(3), "{}", finished.stderr);
    assert!(finished.stderr.contains("registry.yaml:"), "file and line: {}", finished.stderr);
}

#[test]
fn common_name_alone_identifies_nobody() {
    let gate = Gate::start();
    for name in ["acme", "acme-client", "spiffe://acme.example/client", "client.acme.example"] {
        let who = gate.pki.client(&gate.acme_ca, "by-name", |p| {
            p.distinguished_name = rcgen::DistinguishedName::new();
            p.distinguished_name.push(DnType::CommonName, name);
        });
        nobody(&gate, &who, "identity-unknown");
    }
    let by_name = registry(SEPARATE, &[credential("cn", "acme-ca", "subject: \"CN=acme\"")], &[]);
    let finished = gate.try_apply(&by_name);
    assert_eq!(finished.exit, Some(3), "{}", finished.stderr);
    assert!(finished.stderr.contains("common name"), "{}", finished.stderr);
}

/// Threat 32.
#[test]
fn anchors_with_the_same_subject_are_told_apart() {
    let setup = Setup::new();
    let same = |p: &mut CertificateParams| {
        p.distinguished_name = rcgen::DistinguishedName::new();
        p.distinguished_name.push(DnType::CommonName, "The CA");
    };
    let one = setup.pki.authority_with("one-ca", same);
    let two = setup.pki.authority_with("two-ca", same);
    // Without key identifiers, nothing but the signature tells the two apart.
    let named = |p: &mut CertificateParams| {
        uri(p, &["spiffe://client.example/x"]);
        p.use_authority_key_identifier_extension = false;
    };
    let anchors = "  one-ca: {certificate: one-ca.pem, partners: [acme]}\n  two-ca: {certificate: two-ca.pem, \
                   partners: [globex]}\n";
    let matching = "uri: \"spiffe://client.example/x\"";
    let both = registry(anchors, &[credential("one", "one-ca", matching)], &[credential("two", "two-ca", matching)]);
    let gate = setup.registry(&both).start();
    let (of_one, of_two) = (gate.pki.client(&one, "of-one", named), gate.pki.client(&two, "of-two", named));
    for (who, partner, anchor) in
        [(&of_one, "acme", "one-ca"), (&of_two, "globex", "two-ca"), (&of_one, "acme", "one-ca")]
    {
        let record = record(&gate, who, 200);
        assert_eq!(record["input"]["partner"]["id"], partner, "{record}");
        assert_eq!(record["input"]["credential"]["trust_anchor"], anchor, "{record}");
    }
}

/// Threat 32.
#[test]
fn anchors_with_the_same_key_are_refused_at_registration() {
    let setup = Setup::new();
    let again = setup.pki.reissued(&setup.acme_ca, "acme-again");
    assert_ne!(again.der, setup.acme_ca.der);
    let gate = setup.start();
    let anchors = "  acme-ca: {certificate: acme-ca.pem, partners: [acme]}\n  acme-again: {certificate: \
                   acme-again.pem, partners: [globex]}\n";
    let finished = gate.try_apply(&registry(anchors, &[], &[]));
    assert_eq!(finished.exit, Some(3), "{}", finished.stderr);
    assert!(finished.stderr.contains("same public key"), "{}", finished.stderr);
    assert_eq!(record(&gate, &gate.acme, 200)["input"]["partner"]["id"], "acme", "what was there still holds");
}

/// A credential that moves from one partner to another in a single change belongs to the other at once, and to nobody
/// else, in either direction.
#[test]
fn credential_can_move_between_partners_in_one_change() {
    let setup = Setup::new();
    let mine = |id: &str| vec![credential(id, "acme-ca", "uri: \"spiffe://acme.example/client\"")];
    let gate = setup.registry(&registry(SHARED, &mine("moving"), &[])).start();
    let request = format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut open = gate.dial().identity(&gate.acme).open();
    for partner in ["acme", "globex", "acme", "globex"] {
        let theirs = mine("moving");
        let (acme, globex) = if partner == "acme" { (theirs, vec![]) } else { (vec![], theirs) };
        gate.apply(&registry(SHARED, &acme, &globex));
        let answer = open.request(&request);
        answer.expect(200);
        let record = gate.record_of(answer.id());
        assert_eq!(record["input"]["partner"]["id"], partner, "{record}");
    }
}

/// Rights belong to requests, not to connections.
#[test]
fn open_connection_loses_its_identity_with_the_credential() {
    let gate = Gate::start();
    let request = format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut open = gate.dial().identity(&gate.acme).open();
    open.request(&request).expect(200);
    gate.apply(&registry(SEPARATE, &[], &[]));
    let answer = open.request(&request);
    answer.expect(403);
    assert_eq!(answer.code(), "identity-unknown");
}

/// Two CAs side by side until nobody comes with the old one.
#[test]
fn anchor_on_its_way_out_is_named_until_nothing_is_open_under_it() {
    let setup = Setup::new();
    let next_ca = setup.pki.authority("acme-next-ca");
    let next = setup.pki.client(&next_ca, "next", |p| uri(p, &["spiffe://acme.example/client"]));
    let both = setup.registry_text().replace(
        "  acme-ca: {certificate: acme-ca.pem, partners: [acme]}\n",
        "  acme-ca: {certificate: acme-ca.pem, partners: [acme]}\n  acme-next: {certificate: acme-next-ca.pem, partners: [acme]}\n",
    );
    let twin = "      acme-twin: {anchor: acme-next, match: {uri: \"spiffe://acme.example/client\"}}\n";
    let line = both.lines().find(|line| line.contains("anchor: acme-ca, match")).unwrap().to_owned();
    let both = both.replace(&format!("{line}\n"), &format!("{line}\n{twin}"));
    let gate = setup.start();
    let status = || gate.cli(&["status"]).text();
    let out = "everybody under the anchor `acme-ca` has a credential under another one as well";
    assert!(!status().contains(out));
    let old = gate.dial().identity(&gate.acme).open();
    gate.await_metric("partnergate_anchor_open_connections{anchor=\"acme-ca\"}", 1.0);
    gate.apply(&both);
    let said = status();
    assert!(said.contains(out) && said.contains("1 connections are open under it"), "{said}");
    assert!(gate.cli(&["check"]).stderr.contains(out));
    drop(old);
    gate.await_metric("partnergate_anchor_open_connections{anchor=\"acme-ca\"}", 0.0);
    gate.dial().identity(&next).open().request(format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).expect(200);
    assert!(status().contains("nothing is open under it"));
    // The old one goes, and nobody is missed.
    let (anchor, credential) = ("  acme-ca: {certificate: acme-ca.pem, partners: [acme]}\n", format!("{line}\n"));
    gate.apply(&both.replace(anchor, "").replace(&credential, ""));
    assert!(!status().contains(out));
    gate.dial().identity(&next).open().request(format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).expect(200);
    gate.dial().identity(&gate.acme).refused();
}
