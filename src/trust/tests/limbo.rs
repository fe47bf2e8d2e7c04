//! x509-limbo: path validation cases that other implementations got wrong, re-issued for client authentication.

use super::*;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use std::collections::BTreeSet;

fn certificates(list: &Value) -> Vec<Vec<u8>> {
    let texts = list.as_array().map_or_else(|| vec![list], |l| l.iter().collect());
    texts
        .into_iter()
        .filter_map(Value::as_str)
        .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec())
        .collect()
}

fn outcome(case: &Value) -> Result<(), String> {
    let anchors: Vec<Arc<Anchor>> = certificates(&case["trusted_certs"])
        .into_iter()
        .enumerate()
        .map(|(n, certificate)| {
            Arc::new(Anchor {
                name: AnchorName::parse(&format!("a{n}")).unwrap(),
                root: Root::Certificate { certificate: Der(certificate) },
                partners: vec![],
                environments: vec![],
                client_auth: ClientAuthUsage::Required,
                max_lifetime: None,
                revocation: Revocation::default(),
                denied: Vec::new(),
            })
        })
        .collect();
    let trust = Trust::build(1, anchors.iter(), &Material::default()).map_err(|problems| problems.join("; "))?;
    let mut chain = certificates(&case["peer_certificate"]);
    chain.extend(certificates(&case["untrusted_intermediates"]));
    let chain: Vec<CertificateDer<'_>> = chain.into_iter().map(CertificateDer::from).collect();
    let now = match case["validation_time"].as_str() {
        Some(text) => UnixNanos(crate::document::parse_time(text).unwrap()),
        None => now(),
    };
    trust.verify(&chain, now).map(drop).map_err(|f| format!("{:?}: {}", f.reason, f.detail))
}

#[test]
#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn paths_are_judged_as_limbo_does_but_for_known_differences() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/limbo-clientauth.json");
    let Ok(text) = std::fs::read_to_string(&file) else {
        eprintln!("SKIPPED: {} is not there", file.display());
        return;
    };
    let cases: Value = serde_json::from_str(&text).unwrap();
    let (mut known, mut unexpected) = (BTreeSet::new(), Vec::new());
    for case in cases["testcases"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let got = outcome(case);
        let differences = match (&got, case["expected_result"] == "SUCCESS") {
            (Ok(()), false) => ACCEPTED,
            (Err(_), true) => REFUSED,
            _ => continue,
        };
        match differences.iter().find(|(prefix, _)| id.starts_with(prefix)) {
            Some((prefix, _)) => drop(known.insert(*prefix)),
            None => unexpected.push(format!("{id}: {got:?}")),
        }
    }
    assert!(unexpected.is_empty(), "{}", unexpected.join("\n"));
    for (prefix, why) in ACCEPTED.iter().chain(REFUSED) {
        assert!(known.contains(prefix), "{prefix} is no difference any more ({why}): take it off the list");
    }
}

/// What limbo wants refused and we take, by beginnings of names, and why that is right or harmless here.
const ACCEPTED: &[(&str, &str)] = &[
    ("crl::", "revocation lists are not read yet"),
    ("pathlen::max-chain-depth-", "the greatest depth is ours and fixed"),
    ("pathological::nc-dos-3", "is answered within webpki's budget"),
    ("rfc5280::aki::", "key identifiers help to find a path; the signature is what counts"),
    ("rfc5280::ski::", "as above"),
    ("webpki::aki::", "as above"),
    ("rfc5280::eku::ee-wrong-eku", "was issued anew for client authentication, which is the right use here"),
    ("webpki::eku::", "uses beside clientAuth take nothing away"),
    ("rfc5280::nc::permitted-dns-match-noncritical", "a constraint holds also where it is not marked critical"),
    ("rfc5280::nc::invalid-dnsname-leading-period", "the name is within the constraint"),
    ("rfc5280::nc::not-allowed-in-ee-", "a constraint in a leaf constrains nobody"),
    ("webpki::nc::intermediate-permitted-excluded-subtrees-both-", "a constraint that says nothing"),
    ("rfc5280::pc::", "certificate policies are not used"),
    ("rfc5280::san::", "forms of names: a name counts only where a credential has exactly it"),
    ("webpki::san::", "no server is verified: a name counts only where a credential has exactly it"),
    ("webpki::cn::", "a common name identifies nobody"),
    ("rfc5280::unknown-critical-extension-root", "an anchor is trusted as it was registered"),
    ("rfc5280::root-", "as above"),
    ("webpki::forbidden-rsa-", "2048 bits and more are enough, whatever they are divisible by"),
];

/// What limbo wants accepted and we refuse.
const REFUSED: &[(&str, &str)] = &[
    ("cve::cve-2024-0567", "at most 8 certificates are read"),
    ("pathlen::validation-ignores-pathlen-in-leaf", "a CA certificate is no client's"),
    ("rfc5280::ca-as-leaf", "as above"),
    (
        "pathlen::self-issued-certs-pathlen",
        "webpki does not find the path through certificates that a CA issued to itself",
    ),
    ("rfc5280::nc::permitted-self-issued", "as above"),
    ("rfc5280::eku::ee-without-eku", "clientAuth must be there, unless the anchor says otherwise"),
    ("rfc5280::nc::permitted-dn-match", "webpki refuses what it cannot apply"),
    ("rfc5280::nc::nc-permits-email-", "as above"),
    ("online::", "certificates of web servers, for serverAuth alone"),
];
