//! One certificate's facts (RFC 5280), read strictly: what is malformed or could be read in two ways is refused.

use super::dn::DistinguishedName;
use crate::clock::UnixNanos;
use crate::reason::Reason;
use ring::digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::signature_algorithm::SignatureAlgorithm;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

/// Largest certificate that is looked at, in bytes.
const MAX_DER: usize = 64 * 1024;
/// Most names in a subjectAltName extension.
const MAX_NAMES: usize = 200;
/// Most places for revocation lists that a certificate may name.
pub const MAX_CRL_URLS: usize = 16;
/// Extensions whose meaning is applied, here or by webpki.
const UNDERSTOOD: [Oid<'static>; 5] = [
    oid!(2.5.29.15), // keyUsage
    oid!(2.5.29.17), // subjectAltName
    oid!(2.5.29.19), // basicConstraints
    oid!(2.5.29.30), // nameConstraints
    oid!(2.5.29.37), // extKeyUsage
];

/// SHA-256 of a certificate (fingerprint) or of its SubjectPublicKeyInfo. Shown as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
pub struct Fingerprint(#[schemars(with = "String")] pub [u8; 32]);

impl Fingerprint {
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Fingerprint(out)
    }

    /// 64 hex digits, with or without colons, in either case.
    ///
    /// # Errors
    /// A sentence that says what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let mut out = [0; 32];
        hex::decode_to_slice(&digits, &mut out).map_err(|_| {
            "not a SHA-256 in hex: 64 digits, as printed by `openssl x509 -noout -fingerprint -sha256`".to_owned()
        })?;
        Ok(Fingerprint(out))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A serial number as lower-case hex in whole octets, without leading ones of zero.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(String);

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.0
    }
}

impl TryFrom<String> for Serial {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl Serial {
    /// From the content octets of the DER INTEGER.
    fn from_bytes(bytes: &[u8]) -> Self {
        Serial(normal_hex(&hex::encode(bytes)))
    }

    /// Hex digits, with or without colons, in either case.
    ///
    /// # Errors
    /// A sentence that says what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
        if digits.is_empty() || digits.len() > 42 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("not a serial number in hex, as printed by `openssl x509 -noout -serial`".into());
        }
        Ok(Serial(normal_hex(&digits)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a revocation list is asked for.
    pub fn key(&self) -> SerialKey {
        match hex::decode(&self.0) {
            // A serial is never negative, so its first content octet has no sign bit.
            Ok(bytes) => SerialKey::of_integer(&[&[0], bytes.as_slice()].concat()),
            // Unreachable for what was read or parsed; such a text equals no serial of a list.
            Err(_) => SerialKey::of(self.0.as_bytes()),
        }
    }
}

/// A serial number in 128 bits, for sets of a million of them: the start of SHA-256 over the minimal content octets of
/// its DER INTEGER.
///
/// Equal serials have equal keys, so a revoked serial is always found. Two serials with one key would make a good
/// certificate look revoked, never the other way round; the first such pair is expected after 2^64 serials, and a CA
/// that searched for one could only harm a certificate of its own, which it can revoke anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SerialKey(pub u128);

impl SerialKey {
    /// Of the content octets of a DER INTEGER. Octets that only repeat the sign are left out: some CAs write them in
    /// one place and not in the other.
    pub fn of_integer(mut octets: &[u8]) -> Self {
        while let [first, rest @ ..] = octets
            && let [second, ..] = rest
            && ((*first == 0 && second & 0x80 == 0) || (*first == 0xff && second & 0x80 != 0))
        {
            octets = rest;
        }
        Self::of(octets)
    }

    fn of(bytes: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, bytes);
        let mut first = [0; 16];
        first.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
        SerialKey(u128::from_be_bytes(first))
    }
}

/// Whole octets, as `openssl x509 -noout -serial` prints them, so that one can be searched for as it is.
fn normal_hex(digits: &str) -> String {
    let trimmed = digits.trim_start_matches('0');
    let zeros = if trimmed.is_empty() { "00" } else { &"0"[..trimmed.len() % 2] };
    format!("{zeros}{trimmed}")
}

/// A certificate in PEM (RFC 7468).
pub fn certificate_pem(der: &[u8]) -> String {
    let body = data_encoding::BASE64.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Whether a certificate names this CA as its issuer and is signed by its key; nothing else is looked at.
pub fn is_signed_by(der: &[u8], ca: &[u8]) -> bool {
    let (Ok((_, certificate)), Ok((_, ca))) = (X509Certificate::from_der(der), X509Certificate::from_der(ca)) else {
        return false;
    };
    certificate.issuer().as_raw() == ca.subject().as_raw()
        && certificate.verify_signature(Some(ca.public_key())).is_ok()
}

/// Why a certificate is not accepted: the reason, and the detail for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub reason: Reason,
    pub detail: String,
}

impl Fault {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Fault { reason, detail: detail.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

impl std::error::Error for Fault {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAlgorithm {
    Rsa,
    EcP256,
    EcP384,
    EcP521,
    Ed25519,
    Dsa,
    /// Anything else, curves below P-256 included.
    Other,
}

impl KeyAlgorithm {
    pub const NAMES: &'static [&'static str] = &["rsa", "ec-p256", "ec-p384", "ec-p521", "ed25519", "dsa", "other"];

    pub fn as_str(self) -> &'static str {
        match self {
            KeyAlgorithm::Rsa => "rsa",
            KeyAlgorithm::EcP256 => "ec-p256",
            KeyAlgorithm::EcP384 => "ec-p384",
            KeyAlgorithm::EcP521 => "ec-p521",
            KeyAlgorithm::Ed25519 => "ed25519",
            KeyAlgorithm::Dsa => "dsa",
            KeyAlgorithm::Other => "other",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    pub algorithm: KeyAlgorithm,
    /// Modulus or field size.
    pub bits: u32,
}

impl KeyFacts {
    /// Why nobody is believed who has such a key. `what` has it.
    pub fn fault(&self, what: &str) -> Option<Fault> {
        let weak = |detail: String| Some(Fault::new(Reason::CertificateWeakKey, detail));
        match self.algorithm {
            KeyAlgorithm::Rsa if self.bits < 2048 => weak(format!("{what} has an RSA key of {} bits", self.bits)),
            KeyAlgorithm::Dsa => weak(format!("{what} has a DSA key")),
            KeyAlgorithm::Other => weak(format!("{what} has a key of an unknown kind or on a curve below P-256")),
            KeyAlgorithm::EcP521 => Some(Fault::new(
                Reason::CertificateUnsupportedKey,
                format!("{what} has a P-521 key; use P-256 or P-384"),
            )),
            KeyAlgorithm::Rsa | KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384 | KeyAlgorithm::Ed25519 => None,
        }
    }
}

/// What the signature on a certificate is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureStrength {
    /// SHA-1 or MD5.
    Weak,
    /// Not known to be weak; whether it is supported is for `trust` to say.
    NotKnownWeak,
}

impl SignatureStrength {
    /// Of a signature algorithm without parameters, given as the content octets of its OID.
    pub fn of_oid(octets: &[u8]) -> Self {
        Self::new(is_weak(&Oid::new(octets.into())))
    }

    pub(super) fn of(algorithm: &AlgorithmIdentifier<'_>) -> Self {
        const WEAK_DIGESTS: [Oid<'static>; 3] = [
            oid!(1.2.840.113549.2.2), // MD2
            oid!(1.2.840.113549.2.5), // MD5
            oid!(1.3.14.3.2.26),      // SHA-1
        ];
        Self::new(match SignatureAlgorithm::try_from(algorithm) {
            // Where it names no digest, it means SHA-1 (RFC 4055 section 3.1).
            Ok(SignatureAlgorithm::RSASSA_PSS(how)) => WEAK_DIGESTS.contains(how.hash_algorithm_oid()),
            _ => is_weak(&algorithm.algorithm),
        })
    }

    fn new(weak: bool) -> Self {
        if weak { SignatureStrength::Weak } else { SignatureStrength::NotKnownWeak }
    }
}

/// Subject alternative names, by kind, in the order of the certificate. DNS names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SanFacts {
    pub uri: Vec<String>,
    pub dns: Vec<String>,
    pub email: Vec<String>,
    pub ip: Vec<IpAddr>,
}

/// The facts of one certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub fingerprint: Fingerprint,
    pub spki_sha256: Fingerprint,
    pub serial: Serial,
    pub serial_key: SerialKey,
    /// Above zero and of at most 20 octets, as RFC 5280 section 4.1.2.2 wants it.
    pub sound_serial: bool,
    pub issuer: DistinguishedName,
    pub subject: DistinguishedName,
    pub san: SanFacts,
    /// organizationIdentifier (2.5.4.97) values of the subject.
    pub organization_ids: Vec<String>,
    pub not_before: UnixNanos,
    /// The first instant at which the certificate is no longer valid (RFC 5280 4.1.2.5 names the last valid second).
    pub not_after: UnixNanos,
    pub key: KeyFacts,
    pub signature: SignatureStrength,
    pub is_ca: bool,
    /// extendedKeyUsage permits TLS client authentication; `None` when the extension is absent.
    pub client_auth: Option<bool>,
    /// keyUsage permits digitalSignature, or is absent.
    pub digital_signature: bool,
    /// The extension keyUsage is there.
    pub states_usage: bool,
    /// keyUsage has keyCertSign.
    pub cert_sign: bool,
    /// keyUsage permits cRLSign, or is absent.
    pub crl_sign: bool,
    /// Where its revocation lists are, as cRLDistributionPoints says: see [`crl_url`]. Points for some reasons only, and
    /// those whose list another CA signs, are left out.
    pub crl_urls: Vec<String>,
    /// OIDs of the critical extensions that nobody here understands.
    pub unknown_critical: Vec<String>,
}

impl Certificate {
    /// # Errors
    /// [`Reason::CertificateMalformed`] with the detail: not DER, trailing bytes, duplicate extensions, names with
    /// control characters or of unreadable encoding, more than [`MAX_CRL_URLS`] places for revocation lists.
    pub fn from_der(der: &[u8]) -> Result<Self, Fault> {
        let malformed = |detail: String| Fault::new(Reason::CertificateMalformed, detail);
        if der.len() > MAX_DER {
            return Err(malformed(format!("the certificate has {} bytes; {MAX_DER} are read", der.len())));
        }
        let (rest, cert) =
            X509Certificate::from_der(der).map_err(|e| malformed(format!("not a certificate in DER: {e}")))?;
        if !rest.is_empty() {
            return Err(malformed("bytes follow the certificate".into()));
        }
        // A certificate that names an extension twice can be read in two ways.
        cert.extensions_map().map_err(|_| malformed("an extension appears twice".into()))?;

        let raw_serial = cert.raw_serial();
        let subject = DistinguishedName::read(cert.subject()).map_err(|e| malformed(format!("subject: {e}")))?;
        let issuer = DistinguishedName::read(cert.issuer()).map_err(|e| malformed(format!("issuer: {e}")))?;

        let mut facts = Certificate {
            fingerprint: Fingerprint::of(der),
            spki_sha256: Fingerprint::of(cert.public_key().raw),
            serial: Serial::from_bytes(raw_serial),
            serial_key: SerialKey::of_integer(raw_serial),
            sound_serial: raw_serial.first().is_some_and(|b| b & 0x80 == 0)
                && raw_serial.len() <= 20
                && raw_serial.iter().any(|b| *b != 0),
            organization_ids: subject.values_of("2.5.4.97"),
            issuer,
            subject,
            san: SanFacts::default(),
            not_before: seconds(cert.validity().not_before.timestamp()),
            not_after: seconds(cert.validity().not_after.timestamp().saturating_add(1)),
            key: key_facts(cert.public_key()),
            signature: SignatureStrength::of(&cert.signature_algorithm),
            is_ca: false,
            client_auth: None,
            digital_signature: true,
            states_usage: false,
            cert_sign: false,
            crl_sign: true,
            crl_urls: Vec::new(),
            unknown_critical: Vec::new(),
        };
        for extension in cert.extensions() {
            if extension.critical && !UNDERSTOOD.contains(&extension.oid) {
                facts.unknown_critical.push(extension.oid.to_id_string());
            }
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(san) => facts.san = san_facts(&san.general_names)?,
                ParsedExtension::BasicConstraints(bc) => facts.is_ca = bc.ca,
                ParsedExtension::KeyUsage(usage) => {
                    facts.digital_signature = usage.digital_signature();
                    facts.states_usage = true;
                    facts.cert_sign = usage.key_cert_sign();
                    facts.crl_sign = usage.crl_sign();
                }
                ParsedExtension::CRLDistributionPoints(points) => {
                    for point in points.iter().filter(|p| p.reasons.is_none() && p.crl_issuer.is_none()) {
                        let Some(DistributionPointName::FullName(names)) = &point.distribution_point else { continue };
                        facts.crl_urls.extend(names.iter().filter_map(|name| match name {
                            GeneralName::URI(uri) => crl_url(uri).map(str::to_owned),
                            _ => None,
                        }));
                    }
                    // One too many is not cut off: the list that covers the certificate could be the one it names.
                    if facts.crl_urls.len() > MAX_CRL_URLS {
                        return Err(malformed(format!("more than {MAX_CRL_URLS} URIs in cRLDistributionPoints")));
                    }
                }
                ParsedExtension::ExtendedKeyUsage(usage) => facts.client_auth = Some(usage.client_auth),
                ParsedExtension::ParseError { .. } => {
                    return Err(malformed(format!("extension {} cannot be read", extension.oid)));
                }
                _ => {}
            }
        }
        Ok(facts)
    }
}

/// A URI that can name a place for revocation lists: http, https or ldap, printable ASCII of at most 2048 octets. One
/// filter for the names in certificates and in lists, so that what is compared was read alike.
pub fn crl_url(uri: &str) -> Option<&str> {
    let known = ["http://", "https://", "ldap://"]
        .iter()
        .any(|scheme| uri.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    (known && uri.len() <= 2048 && uri.bytes().all(|b| matches!(b, b' '..=b'~'))).then_some(uri)
}

impl Certificate {
    /// notAfter minus notBefore.
    pub fn lifetime(&self) -> Duration {
        let nanos = self.not_after.0.saturating_sub(self.not_before.0).saturating_sub(1_000_000_000);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }
}

fn seconds(s: i64) -> UnixNanos {
    UnixNanos(s.saturating_mul(1_000_000_000))
}

pub(super) fn san_facts(names: &[GeneralName<'_>]) -> Result<SanFacts, Fault> {
    let malformed = |detail: &str| Fault::new(Reason::CertificateMalformed, detail);
    if names.len() > MAX_NAMES {
        return Err(malformed("more than 200 subject alternative names"));
    }
    let mut san = SanFacts::default();
    for name in names {
        match name {
            GeneralName::URI(uri) => san.uri.push(clean(uri)?),
            GeneralName::DNSName(dns) => san.dns.push(clean(dns)?.to_ascii_lowercase()),
            GeneralName::RFC822Name(email) => san.email.push(clean(email)?),
            GeneralName::IPAddress(bytes) => {
                san.ip.push(match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                    (Ok(v4), _) => IpAddr::from(v4),
                    (_, Ok(v6)) => IpAddr::from(v6),
                    _ => return Err(malformed("an IP address in subjectAltName has neither 4 nor 16 octets")),
                })
            }
            GeneralName::Invalid(..) => return Err(malformed("a name in subjectAltName cannot be read")),
            _ => {}
        }
    }
    Ok(san)
}

/// A name of printable ASCII. Anything else (a NUL that a C program stops at, a look-alike letter) is refused.
fn clean(name: &str) -> Result<String, Fault> {
    if !name.is_empty() && name.len() <= 2048 && name.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(name.to_owned());
    }
    Err(Fault::new(
        Reason::CertificateMalformed,
        format!("the subject alternative name `{}` is empty, too long or not printable ASCII", name.escape_default()),
    ))
}

pub(super) fn key_facts(spki: &SubjectPublicKeyInfo<'_>) -> KeyFacts {
    const EC: Oid<'static> = oid!(1.2.840.10045.2.1);
    const P256: Oid<'static> = oid!(1.2.840.10045.3.1.7);
    const P384: Oid<'static> = oid!(1.3.132.0.34);
    const P521: Oid<'static> = oid!(1.3.132.0.35);
    const ED25519: Oid<'static> = oid!(1.3.101.112);
    if spki.algorithm.algorithm == ED25519 {
        return KeyFacts { algorithm: KeyAlgorithm::Ed25519, bits: 256 };
    }
    if spki.algorithm.algorithm == EC {
        let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
        let (algorithm, bits) = match curve {
            Some(c) if c == P256 => (KeyAlgorithm::EcP256, 256),
            Some(c) if c == P384 => (KeyAlgorithm::EcP384, 384),
            Some(c) if c == P521 => (KeyAlgorithm::EcP521, 521),
            _ => (KeyAlgorithm::Other, 0),
        };
        return KeyFacts { algorithm, bits };
    }
    match spki.parsed() {
        Ok(PublicKey::RSA(rsa)) => {
            // The modulus is a DER INTEGER; its leading zero octet is no part of the size.
            let modulus: &[u8] = rsa.modulus;
            let significant = modulus.iter().skip_while(|b| **b == 0);
            let (mut bits, mut first) = (0u32, true);
            for byte in significant {
                bits = bits.saturating_add(if first { 8 - byte.leading_zeros() } else { 8 });
                first = false;
            }
            KeyFacts { algorithm: KeyAlgorithm::Rsa, bits }
        }
        Ok(PublicKey::DSA(_)) => KeyFacts { algorithm: KeyAlgorithm::Dsa, bits: 0 },
        _ => KeyFacts { algorithm: KeyAlgorithm::Other, bits: 0 },
    }
}

fn is_weak(algorithm: &Oid<'_>) -> bool {
    const WEAK: [Oid<'static>; 6] = [
        oid!(1.2.840.113549.1.1.2), // md2WithRSAEncryption
        oid!(1.2.840.113549.1.1.4), // md5WithRSAEncryption
        oid!(1.2.840.113549.1.1.5), // sha1WithRSAEncryption
        oid!(1.3.14.3.2.29),        // sha1WithRSASignature
        oid!(1.2.840.10040.4.3),    // dsa-with-sha1
        oid!(1.2.840.10045.4.1),    // ecdsa-with-SHA1
    ];
    WEAK.contains(algorithm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    fn issue(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn facts_are_what_was_issued() {
        let der = issue(|p| {
            p.distinguished_name.push(DnType::CommonName, "acme client");
            p.subject_alt_names = vec![
                SanType::URI("spiffe://acme.example/billing".try_into().unwrap()),
                SanType::DnsName("Client.ACME.example".try_into().unwrap()),
                SanType::IpAddress("192.0.2.1".parse().unwrap()),
            ];
            p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        });
        let cert = Certificate::from_der(&der).unwrap();
        assert_eq!(cert.fingerprint, Fingerprint::of(&der));
        assert_eq!(cert.san.uri, ["spiffe://acme.example/billing"]);
        assert_eq!(cert.san.dns, ["client.acme.example"]);
        assert_eq!(cert.client_auth, Some(true));
        assert_eq!(cert.key, KeyFacts { algorithm: KeyAlgorithm::EcP256, bits: 256 });
        assert!(cert.not_after > cert.not_before && !cert.is_ca);
    }

    #[test]
    fn a_nul_byte_in_a_name_is_refused() {
        let der = issue(|p| p.distinguished_name.push(DnType::CommonName, DnValue::Utf8String("acme\0.evil".into())));
        assert_eq!(Certificate::from_der(&der).unwrap_err().reason, Reason::CertificateMalformed);
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut der = issue(|_| {});
        der.push(0);
        assert_eq!(Certificate::from_der(&der).unwrap_err().reason, Reason::CertificateMalformed);
    }

    #[test]
    fn fingerprints_and_serials_are_read_as_openssl_prints_them() {
        let printed = "AB:".repeat(31) + "AB";
        assert_eq!(Fingerprint::parse(&printed).unwrap().to_string(), "ab".repeat(32));
        assert!(Fingerprint::parse("abcd").is_err());
        assert_eq!(Serial::parse("00:0A:FF").unwrap(), Serial::parse("aff").unwrap());
        assert_eq!(["0", "a", "00:00ff"].map(|text| Serial::parse(text).unwrap().0), ["00", "0a", "ff"]);
    }

    #[test]
    fn a_serial_has_one_key_however_it_is_written() {
        for (octets, text) in [
            (&[0x01][..], "1"),
            (&[0x00, 0x00, 0x01], "01"),
            (&[0x7f], "7F"),
            (&[0x00, 0xff], "ff"),
            (&[0x00], "0"),
            (&[0x0a, 0xbc], "abc"),
        ] {
            assert_eq!(SerialKey::of_integer(octets), Serial::parse(text).unwrap().key(), "{text}");
            assert_eq!(Serial::from_bytes(octets).key(), SerialKey::of_integer(octets), "{text}");
        }
        assert_ne!(SerialKey::of_integer(&[0xff]), Serial::parse("ff").unwrap().key(), "-1 is not 255");
        assert_eq!(SerialKey::of_integer(&[0xff, 0xff]), SerialKey::of_integer(&[0xff]));
        let der = issue(|p| p.serial_number = Some(vec![0x9a, 0x01].into()));
        let cert = Certificate::from_der(&der).unwrap();
        assert_eq!((cert.serial_key, cert.serial.as_str()), (cert.serial.key(), "9a01"));
    }

    #[test]
    fn places_for_revocation_lists_are_kept_where_they_can_be_compared() {
        let with = |uris: &[&str]| {
            let point = rcgen::CrlDistributionPoint { uris: uris.iter().map(|u| (*u).to_owned()).collect() };
            Certificate::from_der(&issue(|p| p.crl_distribution_points = vec![point]))
        };
        let cert = with(&["http://a.example/my ca.crl", "ftp://a.example/x", "LDAP:///cn=a", "http://a.example/\u{7}"]);
        assert_eq!(cert.unwrap().crl_urls, ["http://a.example/my ca.crl", "LDAP:///cn=a"]);
        assert!(with(&["http://a"; 16]).is_ok());
        assert_eq!(with(&["http://a"; 17]).unwrap_err().reason, Reason::CertificateMalformed);
    }

    proptest! {
        #[test]
        fn damaged_certificates_never_panic(at in 0usize..600, to in any::<u8>(), cut in 0usize..600) {
            let mut der = issue(|p| p.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())]);
            let at = at % der.len();
            der[at] = to;
            let _ = Certificate::from_der(&der);
            der.truncate(cut % der.len());
            let _ = Certificate::from_der(&der);
        }
    }
}
