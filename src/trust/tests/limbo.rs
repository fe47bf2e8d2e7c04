//! x509-limbo: path validation cases that other implementations got wrong, re-issued for client authentication.

use super::*;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::mpsc;

/// For one case in a debug build on a busy machine.
const LIMIT: Duration = Duration::from_secs(2);

fn certificates(list: &Value) -> Vec<Vec<u8>> {
    let texts = list.as_array().map_or_else(|| vec![list], |l| l.iter().collect());
    texts
        .into_iter()
        .filter_map(Value::as_str)
        .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec())
        .collect()
}

fn outcome(case: &Value) -> Result<(), Fault> {
    let now = match case["validation_time"].as_str() {
        Some(text) => UnixNanos(crate::document::parse_time(text).unwrap()),
        None => now(),
    };
    let lists: Vec<&str> = case["crls"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let required = Revocation { mode: RevocationMode::Required, ..Revocation::default() };
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
                revocation: if lists.is_empty() { Revocation::default() } else { required.clone() },
                denied: Vec::new(),
            })
        })
        // What cannot be registered is not; the others stay as they are.
        .filter(|anchor| Trust::build(1, [anchor].into_iter(), &Material::default()).is_ok())
        .collect();
    // As it is read for an anchor: what does not verify with its key is not taken.
    let read = |anchor: &Arc<Anchor>| {
        let Root::Certificate { certificate } = &anchor.root else { panic!("a bundle") };
        let issuers = [IssuerKey::from_certificate(&certificate.0).unwrap()];
        let good = lists.iter().filter_map(|pem| RevocationList::read(pem.as_bytes(), &issuers, now).ok());
        (anchor.name.clone(), AnchorLists { lists: good.map(Arc::new).collect(), wanted: None })
    };
    let material = Material { lists: anchors.iter().map(read).collect(), ..Material::default() };
    let trust = Trust::build(1, anchors.iter(), &material)
        .map_err(|problems| Fault::new(Reason::CertificateUnknownIssuer, format!("{problems:?}")))?;
    let mut chain = certificates(&case["peer_certificate"]);
    chain.extend(certificates(&case["untrusted_intermediates"]));
    let chain: Vec<CertificateDer<'_>> = chain.into_iter().map(CertificateDer::from).collect();
    trust.verify(&chain, now).map(drop)
}

/// The verdict, and that it came in time, whatever the chain asks of whoever builds paths.
fn outcome_in_time(case: &Value) -> Result<(), Fault> {
    let (id, case) = (case["id"].as_str().unwrap().to_owned(), case.clone());
    let (sender, receiver) = mpsc::channel();
    let judging = std::thread::spawn(move || sender.send(outcome(&case)));
    match receiver.recv_timeout(LIMIT) {
        Ok(verdict) => {
            judging.join().unwrap().unwrap();
            verdict
        }
        Err(_) if judging.is_finished() => panic!("{id}: panicked"),
        Err(_) => panic!("{id}: no verdict after {LIMIT:?}"),
    }
}

#[test]
fn paths_are_judged_as_limbo_does_but_for_the_committed_differences() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = root.join("../shared/data/limbo-clientauth.json");
    let Ok(text) = std::fs::read_to_string(&file) else {
        // Where it is seen, whatever becomes of the test's own output.
        let said = format!("SKIPPED: x509-limbo: no {}\n", file.display());
        let _ = std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes());
        return;
    };
    let cases: Value = serde_json::from_str(&text).unwrap();
    let cases = cases["testcases"].as_array().unwrap();
    let (mut known, mut unexpected) = (BTreeSet::new(), Vec::new());
    let (mut accepted, mut refused) = (String::new(), String::new());
    for case in cases {
        let id = case["id"].as_str().unwrap();
        let got = outcome_in_time(case);
        let (differences, rows) = match (&got, case["expected_result"] == "SUCCESS") {
            (Ok(()), false) => (ACCEPTED, &mut accepted),
            (Err(_), true) => (REFUSED, &mut refused),
            _ => continue,
        };
        let Some((prefix, why)) = differences.iter().find(|(prefix, _)| id.starts_with(prefix)) else {
            unexpected.push(format!("{id}: {got:?}"));
            continue;
        };
        known.insert(*prefix);
        let verdict = got.map_or_else(|fault| format!(" `{}` |", fault.reason), |()| String::new());
        let _ = writeln!(rows, "| `{id}` |{verdict} {why} |");
    }
    assert!(unexpected.is_empty(), "{}", unexpected.join("\n"));
    for (prefix, why) in ACCEPTED.iter().chain(REFUSED) {
        assert!(known.contains(prefix), "{prefix} is no difference any more ({why}): take it off the list");
    }
    let page = format!(
        "# x509-limbo\n\nWritten by a test (`PARTNERGATE_WRITE_LIMBO=1 cargo test --lib limbo` writes it anew). \
         [x509-limbo](https://x509-limbo.com) collects certificate paths that implementations got wrong. Its cases, \
         issued anew for client authentication, run against the verifier that the listener uses, each within {} s in a \
         debug build. Of {} cases these are judged otherwise than limbo expects; every other one as expected. Expected \
         peer names do not apply: no server is verified here.\n\n## Accepted although limbo refuses\n\n| case | why \
         that is right or safe here |\n| --- | --- |\n{accepted}\n## Refused although limbo accepts\n\n| case | \
         reason | why |\n| --- | --- | --- |\n{refused}",
        LIMIT.as_secs(),
        cases.len()
    );
    let committed = root.join("docs/limbo.md");
    if std::env::var_os("PARTNERGATE_WRITE_LIMBO").is_some() {
        std::fs::write(&committed, &page).unwrap();
    }
    let committed = std::fs::read_to_string(committed).unwrap_or_default();
    assert!(committed == page, "docs/limbo.md is old: PARTNERGATE_WRITE_LIMBO=1 writes it anew");
}

/// What limbo wants refused and we take, by beginnings of names, and why that is right or harmless here.
const ACCEPTED: &[(&str, &str)] = &[
    ("crl::crlnumber-missing", "without a number, thisUpdate never goes back; CAs without one are in use"),
    ("crl::crlnumber-critical", "the number is understood, critical or not"),
    ("pathlen::max-chain-depth-", "the greatest depth is ours and fixed"),
    ("pathological::nc-dos-3", "is answered within webpki's budget"),
    ("rfc5280::aki::", "key identifiers help to find a path; the signature is what counts"),
    ("rfc5280::ski::", "key identifiers help to find a path; the signature is what counts"),
    ("webpki::aki::", "key identifiers help to find a path; the signature is what counts"),
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
    ("rfc5280::root-", "an operator has registered this certificate: how it marks its extensions makes no difference"),
    ("webpki::forbidden-rsa-", "2048 bits and more are enough, whatever they are divisible by"),
];

/// What limbo wants accepted and we refuse.
const REFUSED: &[(&str, &str)] = &[
    ("cve::cve-2024-0567", "at most 8 certificates are read"),
    ("pathlen::validation-ignores-pathlen-in-leaf", "a CA certificate is no client's"),
    ("rfc5280::ca-as-leaf", "a CA certificate is no client's"),
    (
        "pathlen::self-issued-certs-pathlen",
        "webpki does not find the path through certificates that a CA issued to itself",
    ),
    (
        "rfc5280::nc::permitted-self-issued",
        "webpki does not find the path through certificates that a CA issued to itself",
    ),
    ("rfc5280::eku::ee-without-eku", "clientAuth must be there, unless the anchor says otherwise"),
    ("rfc5280::nc::permitted-dn-match", "webpki refuses what it cannot apply"),
    ("rfc5280::nc::nc-permits-email-", "webpki refuses what it cannot apply"),
    ("online::", "certificates of web servers, for serverAuth alone"),
];
