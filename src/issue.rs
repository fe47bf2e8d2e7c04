//! The built-in CA: whom it gives certificates, and what it says is revoked.
//!
//! In: a request whose signature is good, the credential that was approved, the CA's certificate and key. Out: a
//! certificate in the approved names and no others; a signed revocation list; enrolment codes. Must never: give a name that
//! was not approved, whatever a request asks for; do I/O or read a clock.

mod code;
mod key;
mod order;
mod pkcs7;

pub use code::{Enrolment, Used, WrongCode};
pub use key::{open_key, seal_key};
pub use order::{MAX_ORDER, Order, Revoked, Wanted, WantedCertificate, WantedList};
pub use pkcs7::{certs_only, csr_attributes};

use crate::clock::UnixNanos;
use crate::identity::{Certificate, Csr, Fingerprint, Match, Serial};
use crate::name::{AnchorName, CredentialId, PartnerId};
use crate::partner::{Credential, Partner};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, CrlDistributionPoint, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams,
    SanType, SerialNumber, SubjectPublicKeyInfo,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use time::OffsetDateTime;

/// Random octets of a serial number (RFC 5280 section 4.1.2.2 permits 20).
const SERIAL: usize = 16;
/// How long before now a certificate is good: clocks differ.
const BEFORE: Duration = Duration::from_secs(300);
/// Most characters of an attribute of a subject (RFC 5280 appendix A, ub-common-name and ub-organization-name).
const MAX_ATTRIBUTE: usize = 64;

/// A CA certificate and, where it is here, its key.
pub struct Ca {
    certificate: Vec<u8>,
    pub facts: Certificate,
    issuer: Option<Issuer<'static, KeyPair>>,
}

impl fmt::Debug for Ca {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ca({})", self.facts.subject)
    }
}

/// A certificate that was given to a partner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    pub serial: Serial,
    pub anchor: AnchorName,
    pub partner: PartnerId,
    pub credential: CredentialId,
    pub fingerprint: Fingerprint,
    pub spki: Fingerprint,
    pub subject: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uri: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    pub not_before: UnixNanos,
    pub not_after: UnixNanos,
    /// The one that its partner had before, and has renewed by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renews: Option<Serial>,
    /// Since when the revocation list has it, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Withdrawn>,
}

impl Issued {
    /// When it was given: it is good from a little before.
    pub fn given_at(&self) -> UnixNanos {
        self.not_before.saturating_add(BEFORE)
    }
}

/// Why a certificate is on the revocation list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    pub at: UnixNanos,
    pub why: Why,
}

/// As a revocation list says it (RFC 5280 section 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Its credential was revoked, or the certificate was denied.
    PrivilegeWithdrawn,
    /// Its credential is gone, or its partner has ended.
    CessationOfOperation,
    /// Another credential, or a renewed certificate that is in use, has taken its place.
    Superseded,
}

/// What is approved for a credential, as a certificate says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Types (dotted OIDs) and texts, most significant first.
    subject: Vec<(String, String)>,
    pub uri: Vec<String>,
    pub dns: Vec<String>,
    /// The only key that may have it; any where absent.
    spki: Option<Fingerprint>,
    /// The subject is what the credential is recognised by.
    by_subject: Option<crate::identity::DistinguishedName>,
}

impl Names {
    /// # Errors
    /// The credential is recognised by one certificate that is there already.
    pub fn of(partner: &Partner, credential: &Credential) -> Result<Names, String> {
        let cut = |text: &str| text.chars().take(MAX_ATTRIBUTE).collect::<String>();
        let subject =
            vec![("2.5.4.10".to_owned(), cut(&partner.name)), ("2.5.4.3".to_owned(), cut(credential.id.as_str()))];
        let mut names = Names { subject, uri: Vec::new(), dns: Vec::new(), spki: None, by_subject: None };
        match &credential.matching {
            Match::Uri(uri) => names.uri.push(uri.clone()),
            Match::Dns(dns) => names.dns.push(dns.clone()),
            Match::SpkiSha256(hash) => names.spki = Some(*hash),
            Match::OrganizationId(id) => names.subject.insert(1, ("2.5.4.97".into(), id.clone())),
            Match::Subject(subject) => {
                let attributes = subject.attributes().ok_or_else(|| {
                    format!("`{subject}` has a part with several attributes: the built-in CA writes one in each")
                })?;
                names.subject = attributes.into_iter().map(|(oid, text)| (oid.to_owned(), text.to_owned())).collect();
                names.by_subject = Some(subject.clone());
            }
            Match::FingerprintSha256(_) | Match::IssuerSerial { .. } => {
                return Err(format!(
                    "`{}` is recognised by one certificate that is there already: register a credential with uri, dns, \
                     subject, organization_id or spki_sha256",
                    credential.id
                ));
            }
        }
        Ok(names)
    }

    /// Whether a request asks for nothing else.
    ///
    /// # Errors
    /// The name, or the key, that was not approved.
    pub fn permit(&self, csr: &Csr) -> Result<(), String> {
        let more = |kind: &str, asked: &[String], approved: &[String]| {
            let name = asked.iter().find(|name| !approved.contains(name));
            name.map(|name| format!("the request asks for {kind} `{name}`, which is not approved for this credential"))
        };
        let ip: Vec<String> = csr.san.ip.iter().map(ToString::to_string).collect();
        let unwanted = more("the URI", &csr.san.uri, &self.uri)
            .or_else(|| more("the DNS name", &csr.san.dns, &self.dns))
            .or_else(|| more("the address", &ip, &[]))
            .or_else(|| more("the e-mail address", &csr.san.email, &[]));
        if let Some(reason) = unwanted {
            return Err(reason);
        }
        if self.spki.is_some_and(|hash| hash != csr.spki_sha256) {
            return Err("the request is of another key than the one that is approved for this credential".into());
        }
        match &self.by_subject {
            Some(approved) if !csr.subject.is_empty() && csr.subject != *approved => {
                Err(format!("the request asks for the subject `{}`; approved is `{approved}`", csr.subject))
            }
            _ => Ok(()),
        }
    }

    /// Whether a certificate has these names, all of them and no others.
    ///
    /// # Errors
    /// What of it is not as approved.
    pub fn are_those_of(&self, certificate: &Certificate) -> Result<(), String> {
        let san = &certificate.san;
        let own: Option<Vec<(&str, &str)>> = certificate.subject.attributes();
        let subject = self.subject.iter().map(|(oid, text)| (oid.as_str(), text.as_str()));
        if !own.is_some_and(|own| subject.eq(own)) {
            return Err(format!("the certificate has the subject `{}`, which is not as ordered", certificate.subject));
        }
        let more = !san.email.is_empty() || !san.ip.is_empty();
        if more || san.uri != self.uri || san.dns != self.dns {
            return Err("the certificate has other names in its subjectAltName than those that are approved".into());
        }
        match self.spki {
            Some(hash) if hash != certificate.spki_sha256 => {
                Err("the certificate is of another key than the one that is approved for this credential".into())
            }
            _ => Ok(()),
        }
    }
}

/// How long, and where its revocation list is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    #[serde(rename = "lifetime_s", with = "seconds")]
    pub lifetime: Duration,
    pub list_url: Option<String>,
    /// When the engagement of the partner, or the credential, ends: no certificate is good for longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixNanos>,
}

impl Ca {
    /// `key` in PKCS#8; none where it is on another host.
    ///
    /// # Errors
    /// They do not belong together, or the certificate is none of a CA.
    pub fn new(certificate: &[u8], key: Option<&[u8]>) -> Result<Ca, String> {
        let facts = Certificate::from_der(certificate).map_err(|fault| fault.detail)?;
        if !facts.is_ca || (facts.states_usage && !facts.cert_sign) {
            return Err("is no certificate of a CA".into());
        }
        if !facts.crl_sign {
            return Err("may not sign revocation lists (keyUsage without cRLSign)".into());
        }
        let issuer = key.map(|key| issuer(certificate, &facts, key)).transpose()?;
        Ok(Ca { certificate: certificate.to_vec(), facts, issuer })
    }

    /// Whether its key is here.
    pub fn can_sign(&self) -> bool {
        self.issuer.is_some()
    }

    fn issuer(&self) -> Result<&Issuer<'static, KeyPair>, String> {
        self.issuer.as_ref().ok_or_else(|| "the key of the CA is not on this host".to_owned())
    }

    /// A new CA for so long: its certificate and its key, in PKCS#8.
    ///
    /// # Errors
    /// The system gives no random numbers, or the name cannot be written.
    pub fn generate(
        name: &str,
        curve: Curve,
        now: UnixNanos,
        lifetime: Duration,
    ) -> Result<(Vec<u8>, Vec<u8>), String> {
        let algorithm = match curve {
            Curve::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Curve::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        };
        let key = KeyPair::generate_for(algorithm).map_err(|e| e.to_string())?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from_slice(&serial()?));
        params.not_before = time_of(now)?;
        params.not_after = time_of(now.saturating_add(lifetime))?;
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(|e| e.to_string())?;
        Ok((certificate.der().to_vec(), key.serialize_der()))
    }

    /// The certificate, in DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Gives a request what is approved for its credential, from a little before now on and no longer than the CA itself.
    ///
    /// # Errors
    /// The request asks for something else, or the certificate cannot be made.
    pub fn issue(&self, csr: &Csr, names: &Names, terms: &Terms, now: UnixNanos) -> Result<Vec<u8>, String> {
        names.permit(csr)?;
        let key = SubjectPublicKeyInfo::from_der(&csr.spki)
            .map_err(|_| "the key is of a kind that is not supported: use RSA, P-256, P-384 or Ed25519".to_owned())?;
        let starts = UnixNanos(now.0.saturating_sub(i64::try_from(BEFORE.as_nanos()).unwrap_or(0)));
        // A certificate's own end is the first instant at which it is over; what it says is the last second before.
        let last = |ends: UnixNanos| UnixNanos(ends.0.saturating_sub(1_000_000_000));
        let ends = now.saturating_add(terms.lifetime).min(last(self.facts.not_after));
        if ends <= now {
            return Err("the CA itself has ended".into());
        }
        let ends = terms.until.map_or(ends, |until| ends.min(last(until)));
        if ends <= now {
            return Err("the engagement of the partner, or the credential, has ended".into());
        }
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&serial()?));
        params.not_before = time_of(starts.max(self.facts.not_before))?;
        params.not_after = time_of(ends)?;
        params.distinguished_name = DistinguishedName::new();
        for (oid, text) in &names.subject {
            params.distinguished_name.push(kind_of(oid)?, text.as_str());
        }
        let ia5 = |text: &String| text.as_str().try_into().map_err(|_| format!("`{text}` is not ASCII"));
        for uri in &names.uri {
            params.subject_alt_names.push(SanType::URI(ia5(uri)?));
        }
        for dns in &names.dns {
            params.subject_alt_names.push(SanType::DnsName(ia5(dns)?));
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.crl_distribution_points =
            terms.list_url.iter().map(|url| CrlDistributionPoint { uris: vec![url.clone()] }).collect();
        let certificate = params.signed_by(&key, self.issuer()?).map_err(|e| format!("cannot be issued: {e}"))?;
        Ok(certificate.der().to_vec())
    }

    /// A revocation list, in DER. What has ended by itself is left out by who asks.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn list(
        &self,
        revoked: &[Revoked],
        number: u64,
        now: UnixNanos,
        lifetime: Duration,
    ) -> Result<Vec<u8>, String> {
        let mut entries = Vec::new();
        for one in revoked {
            let octets = hex::decode(one.serial.as_str()).map_err(|e| e.to_string())?;
            entries.push(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&octets),
                revocation_time: time_of(one.at)?,
                reason_code: Some(match one.why {
                    Why::PrivilegeWithdrawn => RevocationReason::PrivilegeWithdrawn,
                    Why::CessationOfOperation => RevocationReason::CessationOfOperation,
                    Why::Superseded => RevocationReason::Superseded,
                }),
                invalidity_date: None,
            });
        }
        let list = CertificateRevocationListParams {
            this_update: time_of(now)?,
            next_update: time_of(now.saturating_add(lifetime))?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: entries,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(self.issuer()?).map_err(|e| e.to_string())?.der().to_vec())
    }
}

/// Of the key of a new CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    P256,
    P384,
}

/// What signs with the key of a CA's certificate.
fn issuer(certificate: &[u8], facts: &Certificate, key: &[u8]) -> Result<Issuer<'static, KeyPair>, String> {
    use rcgen::PublicKeyData;
    let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key)).map_err(|e| format!("the key cannot be used: {e}"))?;
    if Fingerprint::of(&key.subject_public_key_info()) != facts.spki_sha256 {
        return Err("has another key than the one that is named".into());
    }
    Issuer::from_ca_cert_der(&CertificateDer::from(certificate), key).map_err(|e| format!("cannot be used: {e}"))
}

/// A duration in whole seconds.
mod seconds {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

/// Of enough random bits that nobody guesses it, and positive.
fn serial() -> Result<[u8; SERIAL], String> {
    let mut octets = [0; SERIAL];
    SystemRandom::new().fill(&mut octets).map_err(|_| "the system gives no random numbers".to_owned())?;
    let [first, ..] = &mut octets;
    *first = *first & 0x3f | 0x40;
    Ok(octets)
}

fn time_of(at: UnixNanos) -> Result<OffsetDateTime, String> {
    OffsetDateTime::from_unix_timestamp(at.0.div_euclid(1_000_000_000)).map_err(|e| e.to_string())
}

fn kind_of(oid: &str) -> Result<DnType, String> {
    let arcs: Result<Vec<u64>, _> = oid.split('.').map(str::parse).collect();
    arcs.map(|arcs| DnType::from_oid(&arcs)).map_err(|_| format!("`{oid}` is no object identifier"))
}

#[cfg(test)]
mod tests;
