//! Who may sign a list, and whether it did.

use super::CrlFault;
use super::der::{BIT_STRING, DerFault, OID, Reader, SEQUENCE};
use super::extensions::dotted;
use crate::identity::{Certificate, DistinguishedName, Fault, Fingerprint, SignatureStrength};
use crate::reason::Reason;
use crate::trust::check_strength;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm};

/// What a list is verified with: the name and the key of a CA certificate.
#[derive(Clone, Debug)]
pub struct IssuerKey {
    pub subject: DistinguishedName,
    pub spki_sha256: Fingerprint,
    /// keyUsage permits cRLSign, or is absent.
    pub may_sign: bool,
    /// SubjectPublicKeyInfo.
    spki: Vec<u8>,
}

impl IssuerKey {
    /// # Errors
    /// Whatever is no CA certificate with a key that would do in a chain: RSA of 2048 bits or more, P-256, P-384 or
    /// Ed25519. Whether the CA is trusted is for the caller to know.
    pub fn from_certificate(der: &[u8]) -> Result<Self, Fault> {
        let facts = Certificate::from_der(der)?;
        if !facts.is_ca || facts.subject.is_empty() {
            return Err(Fault::new(Reason::CertificateConstraint, "not a CA certificate with a subject"));
        }
        check_strength(&facts, "the CA certificate")?;
        let der = CertificateDer::from(der);
        let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|e| super::super::fault::of(&e))?;
        Ok(IssuerKey {
            subject: facts.subject,
            spki_sha256: facts.spki_sha256,
            may_sign: facts.crl_sign,
            spki: webpki::spki_for_anchor(&anchor).as_ref().to_vec(),
        })
    }
}

/// What the signature of a list is verified over and with.
pub(super) struct Signed<'a> {
    pub issuer: &'a DistinguishedName,
    /// tbsCertList with tag and length.
    pub message: &'a [u8],
    /// Content of the AlgorithmIdentifier.
    pub algorithm: &'a [u8],
    pub signature: &'a [u8],
}

impl Signed<'_> {
    /// The key that signed. Several CAs may have one name, and one CA several certificates.
    pub fn signer<'k>(&self, issuers: &'k [IssuerKey]) -> Result<&'k IssuerKey, CrlFault> {
        let name = || self.issuer.to_string();
        let named = || issuers.iter().filter(|key| key.subject == *self.issuer);
        if named().next().is_none() {
            return Err(CrlFault::UnknownIssuer { issuer: name() });
        }
        let oid = Reader::new(self.algorithm).expect(OID).map_err(|_| CrlFault::Malformed("signatureAlgorithm"))?;
        if SignatureStrength::of_oid(oid.content) == SignatureStrength::Weak {
            return Err(CrlFault::WeakSignature);
        }
        let (mut usable, mut signed) = (false, false);
        for key in named() {
            let Ok((key_algorithm, bits)) = key_parts(&key.spki) else { continue };
            for algorithm in webpki::ALL_VERIFICATION_ALGS {
                if !self.fits(*algorithm, key_algorithm) {
                    continue;
                }
                usable = true;
                if algorithm.verify_signature(bits, self.message, self.signature).is_ok() {
                    if key.may_sign {
                        return Ok(key);
                    }
                    signed = true;
                }
            }
        }
        Err(match (usable, signed) {
            (_, true) => CrlFault::IssuerMayNotSign { issuer: name() },
            (true, false) => CrlFault::BadSignature { issuer: name() },
            (false, false) => CrlFault::UnsupportedSignature { oid: dotted(oid.content), issuer: name() },
        })
    }

    fn fits(&self, algorithm: &dyn SignatureVerificationAlgorithm, key_algorithm: &[u8]) -> bool {
        algorithm.signature_alg_id().as_ref() == self.algorithm
            && algorithm.public_key_alg_id().as_ref() == key_algorithm
    }
}

/// Algorithm and key bits of a SubjectPublicKeyInfo.
fn key_parts(spki: &[u8]) -> Result<(&[u8], &[u8]), DerFault> {
    let mut fields = Reader::new(Reader::new(spki).expect(SEQUENCE)?.content);
    let algorithm = fields.expect(SEQUENCE)?.content;
    let bits = octets(fields.expect(BIT_STRING)?.content)?;
    Ok((algorithm, bits))
}

/// The octets of a BIT STRING that is made of whole ones.
pub(super) fn octets(content: &[u8]) -> Result<&[u8], DerFault> {
    match content {
        [0, octets @ ..] => Ok(octets),
        _ => Err(DerFault::Form),
    }
}
