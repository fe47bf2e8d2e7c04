//! A certificate signing request (PKCS#10, RFC 2986), read as strictly as a certificate: whose key it is, and what is
//! asked for.

use super::certificate::{Certificate, Fingerprint, SanFacts, SignatureStrength, key_facts, san_facts};
use super::dn::DistinguishedName;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

/// Largest request that is looked at, in bytes.
pub const MAX_REQUEST: usize = 32 * 1024;

/// A request whose signature is good: who sent it holds the key.
#[derive(Clone, Debug)]
pub struct Csr {
    /// All of it.
    pub der: Vec<u8>,
    /// SubjectPublicKeyInfo in DER.
    pub spki: Vec<u8>,
    pub spki_sha256: Fingerprint,
    pub subject: DistinguishedName,
    pub san: SanFacts,
}

impl Csr {
    /// # Errors
    /// A sentence: not DER, a name that could be read in two ways, a signature that is weak or does not verify, or
    /// something asked for that no client is given.
    pub fn from_der(der: &[u8]) -> Result<Csr, String> {
        if der.len() > MAX_REQUEST {
            return Err(format!("the request has {} bytes; {MAX_REQUEST} are read", der.len()));
        }
        let (rest, request) = X509CertificationRequest::from_der(der)
            .map_err(|e| format!("not a certificate signing request in DER: {e}"))?;
        if !rest.is_empty() {
            return Err("bytes follow the certificate signing request".into());
        }
        let info = &request.certification_request_info;
        if let Some(fault) = key_facts(&info.subject_pki).fault("the request") {
            return Err(fault.detail);
        }
        if SignatureStrength::of(&request.signature_algorithm) == SignatureStrength::Weak {
            return Err("the request is signed with SHA-1 or MD5".into());
        }
        request.verify_signature().map_err(|_| {
            "the signature of the request does not verify, or is of a kind that is not supported".to_owned()
        })?;
        let subject = DistinguishedName::read(&info.subject).map_err(|e| format!("subject: {e}"))?;
        // Of several lists of extensions one would be read and another meant.
        let lists = info
            .iter_attributes()
            .filter(|attribute| matches!(attribute.parsed_attribute(), ParsedCriAttribute::ExtensionRequest(_)));
        if lists.count() > 1 {
            return Err("the request asks for extensions twice".into());
        }
        let mut san = None;
        for extension in request.requested_extensions().into_iter().flatten() {
            match extension {
                ParsedExtension::SubjectAlternativeName(names) if san.is_none() => {
                    san = Some(san_facts(&names.general_names).map_err(|fault| fault.detail)?);
                }
                ParsedExtension::SubjectAlternativeName(_) => return Err("subjectAltName is asked for twice".into()),
                ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                    return Err("a CA certificate is asked for, and clients get none".into());
                }
                ParsedExtension::ParseError { .. } => {
                    return Err("an extension that is asked for cannot be read".into());
                }
                _ => {}
            }
        }
        let spki = info.subject_pki.raw.to_vec();
        Ok(Csr { der: der.to_vec(), spki_sha256: Fingerprint::of(&spki), spki, subject, san: san.unwrap_or_default() })
    }

    /// PEM, with either of its two labels.
    ///
    /// # Errors
    /// As [`Csr::from_der`], or there is no request in it.
    pub fn from_pem(text: &[u8]) -> Result<Csr, String> {
        let text = String::from_utf8_lossy(text).replace("NEW CERTIFICATE REQUEST", "CERTIFICATE REQUEST");
        let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes())
            .map_err(|_| "is no certificate signing request in PEM".to_owned())?;
        Csr::from_der(&der)
    }

    /// Whether it asks for the very names that a certificate has (RFC 7030 section 4.2.2).
    pub fn renews(&self, certificate: &Certificate) -> bool {
        let sorted = |san: &SanFacts| {
            let mut san = san.clone();
            san.uri.sort();
            san.dns.sort();
            san.email.sort();
            san.ip.sort();
            san
        };
        self.subject == certificate.subject && sorted(&self.san) == sorted(&certificate.san)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "acme-1");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn request_says_whose_key_and_which_names() {
        let der = request(|p| p.subject_alt_names = vec![SanType::DnsName("A.acme.example".try_into().unwrap())]);
        let csr = Csr::from_der(&der).unwrap();
        assert_eq!((csr.subject.to_string(), csr.san.dns.clone()), ("CN=acme-1".into(), vec!["a.acme.example".into()]));
        let body = data_encoding::BASE64.encode(&der);
        for label in ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"] {
            let pem = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
            assert_eq!(Csr::from_pem(pem.as_bytes()).unwrap().spki_sha256, csr.spki_sha256, "{label}");
        }
        assert!(Csr::from_pem(b"nothing").is_err());
    }

    #[test]
    fn request_that_was_altered_or_asks_for_a_ca_is_refused() {
        let good = request(|_| {});
        let at = good.windows(6).position(|w| w == b"acme-1").unwrap();
        let mut other = good.clone();
        other[at] = b'b';
        assert!(Csr::from_der(&other).unwrap_err().contains("does not verify"));
        for cut in 0..good.len() {
            assert!(Csr::from_der(&good[..cut]).is_err(), "{cut}");
        }
        let longer = [good.as_slice(), &[0]].concat();
        assert!(Csr::from_der(&longer).unwrap_err().contains("bytes follow"));
        // rcgen does not ask for a CA: the extension by itself.
        let mut ca = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 3, 1, 1, 0xff]);
        ca.set_criticality(true);
        let asks = request(|p| p.custom_extensions.push(ca));
        assert!(Csr::from_der(&asks).unwrap_err().contains("clients get none"));
    }

    proptest::proptest! {
        /// Whatever a client sends is a request or none, and nothing breaks.
        #[test]
        fn damaged_request_is_refused_or_read(at in 0usize..400, byte in proptest::num::u8::ANY, cut in 0usize..400) {
            let mut der = request(|p| {
                p.subject_alt_names = vec![SanType::DnsName("a.acme.example".try_into().unwrap())];
            });
            let index = at % der.len();
            der[index] = byte;
            // Not every byte is signed: parameters of an algorithm are not. What is read does not bring anything down.
            let _ = Csr::from_der(&der);
            der.truncate(cut);
            proptest::prop_assert!(Csr::from_der(&der).is_err() || cut >= der.len());
            let _ = Csr::from_pem(&der);
        }
    }
}
