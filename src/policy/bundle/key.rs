//! The two halves of the key that a bundle is signed with, from PEM.

use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::Signer;
use std::fmt;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// How a bundle is signed (RFC 7518, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BundleAlgorithm {
    /// RSA, PKCS #1 version 1.5, SHA-256.
    Rs256,
    /// ECDSA on P-256, SHA-256.
    Es256,
}

impl BundleAlgorithm {
    pub const NAMES: &'static [&'static str] = &["RS256", "ES256"];

    pub fn parse(name: &str) -> Option<Self> {
        [BundleAlgorithm::Rs256, BundleAlgorithm::Es256].into_iter().find(|algorithm| algorithm.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            BundleAlgorithm::Rs256 => "RS256",
            BundleAlgorithm::Es256 => "ES256",
        }
    }
}

/// What a signature is verified with. The algorithm belongs to the key: what a signature says of itself is never
/// believed.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyKey {
    algorithm: BundleAlgorithm,
    /// As ring takes it: an RSA key of PKCS #1, or a point.
    key: Vec<u8>,
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

const ANY_PUBLIC: &str = "holds no public key in PEM (`PUBLIC KEY`, `RSA PUBLIC KEY` or `CERTIFICATE`)";
const ANY_PRIVATE: &str = "holds no private key in PEM (PKCS#8, PKCS#1 or SEC1, not encrypted)";

impl VerifyKey {
    /// # Errors
    /// Why this is no key for the algorithm; the file is the subject of the sentence.
    pub fn from_pem(algorithm: BundleAlgorithm, pem: &[u8]) -> Result<Self, String> {
        let mut found = None;
        for block in Pem::iter_from_buffer(pem) {
            let block = block.map_err(|_| ANY_PUBLIC.to_owned())?;
            if !matches!(block.label.as_str(), "PUBLIC KEY" | "RSA PUBLIC KEY" | "CERTIFICATE") {
                return Err(format!("holds a `{}`: only the public key belongs here", block.label.escape_debug()));
            }
            if found.replace(block).is_some() {
                return Err("holds more than one key: give each a file of its own".into());
            }
        }
        let block = found.ok_or(ANY_PUBLIC)?;
        let key = match block.label.as_str() {
            "RSA PUBLIC KEY" if algorithm == BundleAlgorithm::Rs256 => rsa(&block.contents)?,
            "RSA PUBLIC KEY" => return Err(wrong_kind(algorithm)),
            "CERTIFICATE" => match X509Certificate::from_der(&block.contents) {
                Ok(([], certificate)) => public_key(algorithm, certificate.public_key())?,
                _ => return Err("holds a certificate that cannot be read".into()),
            },
            _ => match SubjectPublicKeyInfo::from_der(&block.contents) {
                Ok(([], info)) => public_key(algorithm, &info)?,
                _ => return Err("holds a public key that cannot be read".into()),
            },
        };
        Ok(VerifyKey { algorithm, key })
    }

    pub fn algorithm(&self) -> BundleAlgorithm {
        self.algorithm
    }

    pub(super) fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        match self.algorithm {
            BundleAlgorithm::Rs256 => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.key).verify(signed, signature).is_ok()
            }
            BundleAlgorithm::Es256 => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.key).verify(signed, signature).is_ok()
            }
        }
    }
}

fn public_key(algorithm: BundleAlgorithm, info: &SubjectPublicKeyInfo<'_>) -> Result<Vec<u8>, String> {
    let kind = &info.algorithm.algorithm;
    let curve = info.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    match algorithm {
        BundleAlgorithm::Rs256 if *kind == OID_PKCS1_RSAENCRYPTION => rsa(&info.subject_public_key.data),
        BundleAlgorithm::Es256 if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256) => {
            Ok(info.subject_public_key.data.to_vec())
        }
        _ => Err(wrong_kind(algorithm)),
    }
}

/// A key that ring would refuse only when a bundle has come is refused now.
fn rsa(key: &[u8]) -> Result<Vec<u8>, String> {
    let Ok(([], read)) = RSAPublicKey::from_der(key) else { return Err("holds an RSA key that cannot be read".into()) };
    let bits = read.key_size();
    if !(2048..=8192).contains(&bits) {
        return Err(format!("holds an RSA key of {bits} bits; 2048 to 8192 are taken"));
    }
    Ok(key.to_vec())
}

fn wrong_kind(algorithm: BundleAlgorithm) -> String {
    let wanted = match algorithm {
        BundleAlgorithm::Rs256 => "an RSA key",
        BundleAlgorithm::Es256 => "a P-256 key",
    };
    format!("holds a key of another kind than {} needs: {wanted}", algorithm.name())
}

/// What a bundle is signed with.
pub struct SignKey {
    algorithm: BundleAlgorithm,
    signer: Box<dyn Signer>,
}

impl SignKey {
    /// # Errors
    /// Why this is no key for the algorithm; the file is the subject of the sentence.
    pub fn from_pem(algorithm: BundleAlgorithm, pem: &[u8]) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| ANY_PRIVATE.to_owned())?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|_| "holds a key that cannot be used: RSA of 2048 bits or more, or P-256".to_owned())?;
        let scheme = match algorithm {
            BundleAlgorithm::Rs256 => SignatureScheme::RSA_PKCS1_SHA256,
            BundleAlgorithm::Es256 => SignatureScheme::ECDSA_NISTP256_SHA256,
        };
        let signer = key.choose_scheme(&[scheme]).ok_or_else(|| wrong_kind(algorithm))?;
        Ok(SignKey { algorithm, signer })
    }

    pub fn algorithm(&self) -> BundleAlgorithm {
        self.algorithm
    }

    /// As JWS has signatures: of ECDSA the two numbers side by side (RFC 7518, section 3.4).
    pub(super) fn sign(&self, text: &[u8]) -> Result<Vec<u8>, String> {
        let signature = self.signer.sign(text).map_err(|e| format!("the key does not sign: {e}"))?;
        match self.algorithm {
            BundleAlgorithm::Rs256 => Ok(signature),
            BundleAlgorithm::Es256 => side_by_side(&signature).ok_or_else(|| "the key does not sign".to_owned()),
        }
    }
}

fn side_by_side(der: &[u8]) -> Option<Vec<u8>> {
    let numbers = yasna::parse_der(der, |reader| {
        reader.read_sequence(|reader| Ok([reader.next().read_bigint_bytes()?.0, reader.next().read_bigint_bytes()?.0]))
    });
    let mut out = Vec::with_capacity(64);
    for number in numbers.ok()? {
        let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
        let digits = number.get(first..)?;
        out.resize(out.len() + 32_usize.checked_sub(digits.len())?, 0);
        out.extend_from_slice(digits);
    }
    Some(out)
}
