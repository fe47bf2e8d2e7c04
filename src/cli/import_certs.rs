//! `import`: a registry file for partners that exist elsewhere today, of their certificates.

use super::{Exit, Form, complain, say_lines};
use crate::clock::{Clock, UnixNanos};
use crate::disk;
use crate::document::{parse_id, parse_time};
use crate::identity::{Certificate, Fingerprint, certificate_pem, is_signed_by};
use crate::name::AnchorName;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Largest file that is read.
const MAX_FILE: usize = 1024 * 1024;
/// Most files of a folder.
const MAX_FILES: usize = 100_000;
/// Longest id.
const MAX_ID: usize = 64;
const COMMON_NAME: &str = "2.5.4.3";
const ORGANIZATION: &str = "2.5.4.10";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder with the partners' client certificates, each a file in PEM or DER; chains have the client's first.
    #[arg(long, value_name = "DIR")]
    certs: PathBuf,
    /// The trust anchor that they are under.
    #[arg(long, value_name = "NAME")]
    anchor: String,
    /// The anchor's certificate, in PEM, where it is to be registered too: what it has not signed is left out.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// What a credential is recognised by; a name is only taken where the certificate has exactly one of the kind.
    #[arg(long = "match", value_enum, default_value = "fingerprint")]
    by: By,
    /// The environment of the gateway that they are for.
    #[arg(long, value_name = "NAME")]
    environment: String,
    /// Who is responsible for these partners.
    #[arg(long)]
    owner: String,
    /// When their engagement ends.
    #[arg(long, value_name = "TIME", value_parser = super::edit::time)]
    ends: Option<String>,
    /// Folder to write to; it is created.
    #[arg(short, long, value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum By {
    Fingerprint,
    Spki,
    Uri,
    Dns,
    Subject,
}

/// A client certificate that was found.
struct Found {
    file: String,
    facts: Certificate,
}

pub(super) fn run(args: &Args) -> Exit {
    write(args).unwrap_or_else(|exit| exit)
}

fn wrong(reason: impl AsRef<str>) -> Exit {
    complain(reason.as_ref());
    Exit::Problems
}

fn write(args: &Args) -> Result<Exit, Exit> {
    let anchor = AnchorName::parse(&args.anchor).map_err(|reason| wrong(format!("--anchor: {reason}")))?;
    let ends = args.ends.as_deref().map(parse_time).transpose().map_err(|reason| wrong(format!("--ends: {reason}")))?;
    parse_id(&args.environment).map_err(|reason| wrong(format!("--environment: {reason}")))?;
    let now = Clock::new().now();
    if ends.is_some_and(|ends| ends <= now.0) {
        return Err(wrong("--ends: is over already"));
    }
    let ca = args.certificate.as_deref().map(read_ca).transpose()?;
    let (found, mut left_out) = certificates(&args.certs, ca.as_deref(), now)?;
    let partners = by_partner(found, args.by, &mut left_out);
    let shared = shared_keys(&partners);
    for reason in shared.iter().chain(&left_out) {
        complain(reason);
    }
    if !shared.is_empty() {
        complain("nothing is written: no key is two partners'; sort these out first");
        return Err(Exit::Problems);
    }
    if partners.is_empty() {
        return Err(wrong(format!(
            "nothing is written: `{}` has no client certificate to import",
            args.certs.display()
        )));
    }
    let file = args.directory.join("partners.yaml");
    if file.exists() {
        return Err(wrong(format!("`{}` is there already: what somebody may have edited is kept", file.display())));
    }
    let failed = |e: &std::io::Error| {
        complain(&format!("`{}`: {}", args.directory.display(), disk::plain(e)));
        Exit::Failed
    };
    std::fs::create_dir_all(&args.directory).map_err(|e| failed(&e))?;
    if let Some(ca) = &ca {
        let pem = certificate_pem(ca);
        disk::replace(&args.directory.join(format!("{anchor}.pem")), pem.as_bytes()).map_err(|e| failed(&e))?;
    }
    let text = yaml(args, &anchor, ca.is_some(), &partners);
    disk::replace(&file, text.as_bytes()).map_err(|e| failed(&e))?;
    let credentials: usize = partners.values().map(|partner| partner.credentials.len()).sum();
    let wrote = json!({
        "file": file, "partners": partners.len(), "credentials": credentials, "left_out": left_out,
    });
    Ok(args.form.show(Ok(wrote), |_| {
        say_lines(&format!(
            "{}: {} partners with {credentials} credentials; {} left out\nRead it, add networks and grants, and then: \
         partnergate plan -f {}",
            file.display(),
            partners.len(),
            left_out.len(),
            args.directory.display()
        ));
    }))
}

fn read_ca(file: &Path) -> Result<Vec<u8>, Exit> {
    let at = |reason: &str| wrong(format!("--certificate: `{}` {reason}", file.display()));
    let text = disk::read(file, MAX_FILE).map_err(|reason| at(&reason))?;
    let der = CertificateDer::from_pem_slice(&text).map_err(|_| at("contains no certificate in PEM"))?;
    let facts = Certificate::from_der(&der).map_err(|fault| at(&fault.detail))?;
    if facts.is_ca { Ok(der.to_vec()) } else { Err(at("is no certificate of a CA")) }
}

/// The client certificates of a folder, and what of it was left out, with why.
fn certificates(folder: &Path, ca: Option<&[u8]>, now: UnixNanos) -> Result<(Vec<Found>, Vec<String>), Exit> {
    let at = |e: std::io::Error| wrong(format!("--certs: `{}`: {}", folder.display(), disk::plain(&e)));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if path.is_file() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(wrong(format!("--certs: `{}` has more than {MAX_FILES} files", folder.display())));
        }
    }
    files.sort();
    let (mut ders, mut left_out) = (Vec::new(), Vec::new());
    for path in files {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match read(&path) {
            Ok(all) => ders.extend(all.into_iter().map(|der| (name.clone(), der))),
            Err(reason) => left_out.push(format!("{name}: {reason}")),
        }
    }
    let read: Vec<(String, Vec<u8>, Certificate)> = ders
        .into_iter()
        .filter_map(|(name, der)| match Certificate::from_der(&der) {
            Ok(facts) => Some((name, der, facts)),
            Err(fault) => {
                left_out.push(format!("{name}: {}", fault.detail));
                None
            }
        })
        .collect();
    let cas: Vec<&[u8]> = ca.into_iter().chain(read.iter().filter(|c| c.2.is_ca).map(|c| c.1.as_slice())).collect();
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for (name, der, facts) in &read {
        if facts.is_ca {
            continue;
        }
        let said = format!("{name}: `{}`", facts.subject);
        if facts.not_after <= now {
            left_out.push(format!("{said} expired at {}", facts.not_after));
        } else if facts.client_auth == Some(false) {
            left_out.push(format!("{said} is not for clients (extendedKeyUsage without clientAuth)"));
        } else if ca.is_some_and(|ca| !leads_to(der, ca, &cas)) {
            left_out.push(format!("{said} is not signed by the anchor, nor by a CA below it that is in the folder"));
        } else if seen.insert(facts.fingerprint) {
            found.push(Found { file: name.clone(), facts: facts.clone() });
        }
    }
    Ok((found, left_out))
}

fn read(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let bytes = disk::read(path, MAX_FILE)?;
    if !bytes.windows(11).any(|w| w == b"-----BEGIN ") {
        return Ok(vec![bytes]);
    }
    let all: Result<Vec<Vec<u8>>, _> =
        CertificateDer::pem_slice_iter(&bytes).map(|der| der.map(|der| der.to_vec())).collect();
    let all = all.map_err(|e| format!("is no PEM: {e}"))?;
    if all.is_empty() { Err("contains no certificate".into()) } else { Ok(all) }
}

/// Whether signatures lead from a certificate to a CA, over others that are there.
fn leads_to(der: &[u8], ca: &[u8], cas: &[&[u8]]) -> bool {
    let (mut from, mut steps) = (der.to_vec(), 0);
    while steps < 8 {
        match cas.iter().find(|by| is_signed_by(&from, by)) {
            Some(by) if *by == ca => return true,
            Some(by) if *by != from.as_slice() => from = by.to_vec(),
            _ => return false,
        }
        steps += 1;
    }
    false
}

struct Imported {
    name: String,
    /// By id: what each is recognised by, and whence it comes.
    credentials: BTreeMap<String, (String, Value, Found)>,
    /// SHA-256 of the keys of all its certificates.
    keys: BTreeSet<Fingerprint>,
}

/// One partner for each organisation, or each common name where there is none.
fn by_partner(found: Vec<Found>, by: By, left_out: &mut Vec<String>) -> BTreeMap<String, Imported> {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut partners: BTreeMap<String, Imported> = BTreeMap::new();
    for one in found {
        let text = |oid: &str| one.facts.subject.values_of(oid).into_iter().next();
        let name = text(ORGANIZATION).or_else(|| text(COMMON_NAME)).filter(|name| !name.trim().is_empty());
        let Some(name) = name else {
            left_out.push(format!("{}: `{}` names no organisation and no common name", one.file, one.facts.subject));
            continue;
        };
        let Some((key, value)) = recognised(&one.facts, by) else {
            left_out.push(format!(
                "{}: `{}` has not exactly one name of this kind: --match fingerprint takes it",
                one.file, one.facts.subject
            ));
            continue;
        };
        let next = || free(&slug(&name), |id| partners.contains_key(id));
        let id = names.entry(name.clone()).or_insert_with(next).clone();
        let partner = partners.entry(id.clone()).or_insert_with(|| Imported {
            name: name.clone(),
            credentials: BTreeMap::new(),
            keys: BTreeSet::new(),
        });
        partner.keys.insert(one.facts.spki_sha256);
        // A renewed certificate of the same name is the same credential.
        if partner.credentials.values().any(|(k, v, _)| *k == key && *v == value) {
            continue;
        }
        let own = text(COMMON_NAME).map_or_else(|| id.clone(), |cn| format!("{id}-{}", slug(&cn)));
        let credential = free(&own, |id| partner.credentials.contains_key(id));
        partner.credentials.insert(credential, (key, value, one));
    }
    partners
}

fn recognised(facts: &Certificate, by: By) -> Option<(String, Value)> {
    let one = |names: &[String]| match names {
        [name] => Some(name.clone()),
        _ => None,
    };
    let (key, value) = match by {
        By::Fingerprint => ("fingerprint_sha256", facts.fingerprint.to_string()),
        By::Spki => ("spki_sha256", facts.spki_sha256.to_string()),
        By::Uri => ("uri", one(&facts.san.uri)?),
        By::Dns => ("dns", one(&facts.san.dns)?),
        By::Subject => ("subject", facts.subject.to_string()),
    };
    Some((key.to_owned(), value.into()))
}

/// A name as an id.
fn slug(name: &str) -> String {
    let mut id = String::new();
    for c in name.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' => id.push(c),
            _ if !id.is_empty() && !id.ends_with('-') => id.push('-'),
            _ => {}
        }
    }
    id.truncate(MAX_ID / 2);
    let id = id.trim_matches('-');
    if parse_id(id).is_ok() { id.to_owned() } else { format!("partner-{id}").trim_matches('-').to_owned() }
}

fn free(wanted: &str, taken: impl Fn(&str) -> bool) -> String {
    let base: String = wanted.chars().take(MAX_ID - 8).collect();
    let base = base.trim_matches('-');
    let others = (2..).map(|n| format!("{base}-{n}"));
    std::iter::once(base.to_owned()).chain(others).find(|id| !taken(id)).unwrap_or_default()
}

/// Keys that are in certificates of several partners.
fn shared_keys(partners: &BTreeMap<String, Imported>) -> Vec<String> {
    let mut whose: BTreeMap<Fingerprint, BTreeSet<&str>> = BTreeMap::new();
    for (id, partner) in partners {
        for key in &partner.keys {
            whose.entry(*key).or_default().insert(id);
        }
    }
    let shared = whose.into_iter().filter(|(_, ids)| ids.len() > 1);
    shared
        .map(|(key, ids)| {
            let ids: Vec<&str> = ids.into_iter().collect();
            format!("the key with the SHA-256 {key} is in certificates of {}", ids.join(" and "))
        })
        .collect()
}

fn yaml(args: &Args, anchor: &AnchorName, registered: bool, partners: &BTreeMap<String, Imported>) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let mut out = String::from(
        "# Partners by their certificates. None of them may do anything before it has networks and grants:\n#\n\
         #    networks: [NETWORK]\n\
         #    grants:\n\
         #      ID: {operations: [OPERATION], owner: TEAM, ends: TIME, justification: WHY}\n",
    );
    let _ = writeln!(out, "environment: {}", args.environment);
    if registered {
        let ids: Vec<&str> = partners.keys().map(String::as_str).collect();
        let _ =
            write!(out, "anchors:\n  {anchor}:\n    certificate: {anchor}.pem\n    partners: [{}]\n", ids.join(", "));
    } else {
        let _ = writeln!(
            out,
            "# The anchor `{anchor}` has to speak for them: `partnergate anchor bind {anchor} --partner ID`."
        );
    }
    out.push_str("partners:\n");
    for (id, partner) in partners {
        let _ = write!(out, "  {id}:\n    name: {}\n    owner: {}\n", quoted(&partner.name), quoted(&args.owner));
        let ends = args.ends.as_deref().map(|ends| format!("ends: {}", quoted(ends))).unwrap_or_default();
        let _ = writeln!(out, "    engagement: {{{ends}}}");
        out.push_str("    networks: []\n    credentials:\n");
        for (credential, (key, value, found)) in &partner.credentials {
            let _ = write!(
                out,
                "      # {}: {}, serial {}, until {}\n      {credential}:\n        anchor: {anchor}\n        match: {{{key}: {value}}}\n",
                found.file.escape_debug(),
                found.facts.subject.to_string().escape_debug(),
                found.facts.serial.as_str(),
                found.facts.not_after
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_any_alphabet_becomes_an_id() {
        for (name, id) in [
            ("Acme GmbH & Co. KG", "acme-gmbh-co-kg"),
            ("  --Globex--  ", "globex"),
            ("株式会社", "partner"),
            ("1&1", "1-1"),
        ] {
            assert_eq!(slug(name), id, "{name}");
            assert!(parse_id(&slug(name)).is_ok(), "{name}");
        }
        assert_eq!(free("acme", |id| ["acme", "acme-2"].contains(&id)), "acme-3");
        assert!(parse_id(&free(&"x".repeat(200), |_| false)).is_ok());
    }
}
