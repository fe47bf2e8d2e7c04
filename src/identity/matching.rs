//! How a registered credential and a presented certificate find each other in O(1).
//!
//! Both sides reduce what they match on to a [`MatchKey`]: a digest over kind, anchor and value. The anchor is always
//! part of it, so that one CA can never speak in the names of another's partners. The common name is no kind.

use super::certificate::{Certificate, Fingerprint, Serial};
use super::dn::{DistinguishedName, parse_dn};
use super::spiffe::{SpiffeId, Svid, claims_spiffe};
use crate::name::AnchorName;
use ring::digest::{Context, SHA256};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The ways to match, most specific first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MatchKind {
    Fingerprint,
    Spki,
    IssuerSerial,
    Uri,
    Dns,
    Subject,
    OrganizationId,
}

impl MatchKind {
    pub fn as_str(self) -> &'static str {
        match self {
            MatchKind::Fingerprint => "fingerprint_sha256",
            MatchKind::Spki => "spki_sha256",
            MatchKind::IssuerSerial => "issuer_serial",
            MatchKind::Uri => "uri",
            MatchKind::Dns => "dns",
            MatchKind::Subject => "subject",
            MatchKind::OrganizationId => "organization_id",
        }
    }
}

/// What a registered credential is recognised by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    /// SHA-256 of the certificate.
    FingerprintSha256(Fingerprint),
    /// SHA-256 of the SubjectPublicKeyInfo: survives a renewal with the same key.
    SpkiSha256(Fingerprint),
    IssuerSerial {
        issuer: DistinguishedName,
        serial: Serial,
    },
    /// URI SAN, compared byte by byte; the certificate must have exactly one.
    Uri(String),
    /// DNS SAN, in lower case; wildcards never match.
    Dns(String),
    Subject(DistinguishedName),
    /// organizationIdentifier (2.5.4.97); the subject must have exactly one.
    OrganizationId(String),
}

/// A digest over kind, anchor and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatchKey {
    pub kind: MatchKind,
    digest: [u8; 32],
}

impl Match {
    /// One line: `uri=…`, `dns=…`, `subject=…`, `spki_sha256=…` or `fingerprint_sha256=…`.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(line: &str) -> Result<Self, String> {
        match line.split_once('=') {
            Some(("uri", text)) => Match::uri(text),
            Some(("dns", text)) => Match::dns(text),
            Some(("subject", text)) => Match::subject(text),
            Some(("spki_sha256", text)) => Fingerprint::parse(text).map(Match::SpkiSha256),
            Some(("fingerprint_sha256", text)) => Fingerprint::parse(text).map(Match::FingerprintSha256),
            _ => Err(format!(
                "`{}` is none of uri=…, dns=…, subject=…, spki_sha256=…, fingerprint_sha256=…",
                line.escape_debug()
            )),
        }
    }

    /// # Errors
    /// A sentence: a URI that is not a valid SPIFFE ID although it says so, or not a URI; a DNS name with a wildcard.
    pub fn uri(text: &str) -> Result<Self, String> {
        if claims_spiffe(text) {
            SpiffeId::parse(text)?;
        } else if !text.contains(':') || text.len() > 2048 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(format!("`{}` is not an absolute URI of printable ASCII", text.escape_default()));
        }
        Ok(Match::Uri(text.to_owned()))
    }

    /// # Errors
    /// A sentence that says what is wrong.
    pub fn dns(text: &str) -> Result<Self, String> {
        let name = text.to_ascii_lowercase();
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(format!("`{}` is not a DNS name; wildcards are not matched", text.escape_default()));
        }
        Ok(Match::Dns(name))
    }

    /// # Errors
    /// A sentence that says what is wrong.
    pub fn subject(text: &str) -> Result<Self, String> {
        let name = parse_dn(text)?;
        if name.to_string().split(['+', ',']).all(|part| part.starts_with("CN=")) {
            return Err(
                "a subject of a common name alone identifies nobody: match by fingerprint, URI or DNS name".into()
            );
        }
        Ok(Match::Subject(name))
    }

    pub fn kind(&self) -> MatchKind {
        match self {
            Match::FingerprintSha256(_) => MatchKind::Fingerprint,
            Match::SpkiSha256(_) => MatchKind::Spki,
            Match::IssuerSerial { .. } => MatchKind::IssuerSerial,
            Match::Uri(_) => MatchKind::Uri,
            Match::Dns(_) => MatchKind::Dns,
            Match::Subject(_) => MatchKind::Subject,
            Match::OrganizationId(_) => MatchKind::OrganizationId,
        }
    }

    /// The digest of the very certificate or key that is meant, where this names one whoever has issued it.
    pub fn bytes_of_client(&self) -> Option<(MatchKind, Fingerprint)> {
        match self {
            Match::FingerprintSha256(hash) | Match::SpkiSha256(hash) => Some((self.kind(), *hash)),
            _ => None,
        }
    }

    /// Whether a certificate is recognised by it, whatever its chain ends in.
    pub fn is_met_by(&self, leaf: &Certificate) -> bool {
        // Keys differ by anchor: any one will do.
        AnchorName::parse("any").is_ok_and(|anchor| keys_of(leaf, &anchor).contains(&self.key(&anchor)))
    }

    /// The key under which a credential of this anchor is found.
    pub fn key(&self, anchor: &AnchorName) -> MatchKey {
        let kind = self.kind();
        match self {
            Match::FingerprintSha256(hash) | Match::SpkiSha256(hash) => key(kind, anchor, &[&hash.0]),
            Match::IssuerSerial { issuer, serial } => {
                key(kind, anchor, &[&issuer.comparable().unwrap_or_default(), serial.as_str().as_bytes()])
            }
            Match::Uri(text) | Match::Dns(text) | Match::OrganizationId(text) => key(kind, anchor, &[text.as_bytes()]),
            Match::Subject(name) => key(kind, anchor, &[&name.comparable().unwrap_or_default()]),
        }
    }
}

/// The keys under which a certificate may be found, most specific first.
pub(super) fn keys_of(leaf: &Certificate, anchor: &AnchorName) -> Vec<MatchKey> {
    let mut keys = vec![
        key(MatchKind::Fingerprint, anchor, &[&leaf.fingerprint.0]),
        key(MatchKind::Spki, anchor, &[&leaf.spki_sha256.0]),
    ];
    if let Some(issuer) = leaf.issuer.comparable() {
        keys.push(key(MatchKind::IssuerSerial, anchor, &[&issuer, leaf.serial.as_str().as_bytes()]));
    }
    // With several URIs none is *the* identity (SPIFFE X.509-SVID section 2 demands exactly one), so none is used.
    if let [uri] = leaf.san.uri.as_slice() {
        if !claims_spiffe(uri) || matches!(leaf.svid(), Svid::Of(_)) {
            keys.push(key(MatchKind::Uri, anchor, &[uri.as_bytes()]));
        }
    }
    for dns in leaf.san.dns.iter().filter(|d| !d.contains('*')) {
        keys.push(key(MatchKind::Dns, anchor, &[dns.as_bytes()]));
    }
    if let Some(subject) = leaf.subject.comparable() {
        keys.push(key(MatchKind::Subject, anchor, &[&subject]));
    }
    if let [id] = leaf.organization_ids.as_slice() {
        keys.push(key(MatchKind::OrganizationId, anchor, &[id.as_bytes()]));
    }
    keys
}

fn key(kind: MatchKind, anchor: &AnchorName, parts: &[&[u8]]) -> MatchKey {
    let mut context = Context::new(&SHA256);
    context.update(&[kind as u8]);
    for part in std::iter::once(anchor.as_str().as_bytes()).chain(parts.iter().copied()) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    MatchKey { kind, digest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, KeyUsagePurpose, SanType};

    fn leaf(change: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        Certificate::from_der(&der).unwrap()
    }

    fn anchor(name: &str) -> AnchorName {
        AnchorName::parse(name).unwrap()
    }

    #[test]
    fn each_kind_of_match_finds_its_certificate_under_its_anchor_only() {
        let cert = leaf(|p| {
            p.distinguished_name.push(DnType::OrganizationName, "Acme");
            p.distinguished_name.push(DnType::CommonName, "client");
            p.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 97]), "PSDDE-BAFIN-123456");
            p.subject_alt_names = vec![
                SanType::URI("spiffe://acme.example/a".try_into().unwrap()),
                SanType::DnsName("a.acme.example".try_into().unwrap()),
            ];
        });
        let keys = keys_of(&cert, &anchor("acme-ca"));
        assert!(keys.is_sorted_by_key(|k| k.kind));
        for matching in [
            Match::FingerprintSha256(cert.fingerprint),
            Match::SpkiSha256(cert.spki_sha256),
            Match::IssuerSerial { issuer: cert.issuer.clone(), serial: cert.serial.clone() },
            Match::uri("spiffe://acme.example/a").unwrap(),
            Match::dns("A.acme.example").unwrap(),
            Match::subject("organizationIdentifier=PSDDE-BAFIN-123456,CN=client,O=Acme").unwrap(),
            Match::OrganizationId("PSDDE-BAFIN-123456".into()),
        ] {
            assert!(keys.contains(&matching.key(&anchor("acme-ca"))), "{matching:?}");
            assert!(!keys.contains(&matching.key(&anchor("other-ca"))), "{matching:?} under another anchor");
        }
    }

    #[test]
    fn a_common_name_alone_is_not_a_match() {
        assert!(Match::subject("CN=acme").is_err());
    }

    #[test]
    fn several_uris_are_no_identity() {
        let cert = leaf(|p| {
            p.subject_alt_names = vec![
                SanType::URI("spiffe://acme.example/a".try_into().unwrap()),
                SanType::URI("spiffe://acme.example/b".try_into().unwrap()),
            ];
        });
        assert!(keys_of(&cert, &anchor("acme-ca")).iter().all(|k| k.kind != MatchKind::Uri));
    }

    #[test]
    fn wildcards_are_not_dns_matches() {
        assert!(Match::dns("*.acme.example").is_err());
    }
}
