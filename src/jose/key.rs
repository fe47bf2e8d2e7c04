//! The two halves of a key, from PEM, DER or numbers.

use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, UnparsedPublicKey, VerificationAlgorithm};
use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use std::fmt;
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// How a signature is made (RFC 7518 section 3.1, RFC 8037 section 3.1). Neither `none` nor anything symmetric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    /// Of Ed25519 alone.
    EdDsa,
}

/// What kind of key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asymmetric {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Asymmetric {
    pub fn as_str(self) -> &'static str {
        match self {
            Asymmetric::Rsa => "an RSA key",
            Asymmetric::P256 => "a P-256 key",
            Asymmetric::P384 => "a P-384 key",
            Asymmetric::Ed25519 => "an Ed25519 key",
        }
    }
}

impl Algorithm {
    pub const ALL: &'static [Algorithm] = &[
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
    ];
    pub const NAMES: &'static [&'static str] =
        &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|algorithm| algorithm.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    /// The kind of key that it needs.
    pub fn key(self) -> Asymmetric {
        match self {
            Algorithm::Es256 => Asymmetric::P256,
            Algorithm::Es384 => Asymmetric::P384,
            Algorithm::EdDsa => Asymmetric::Ed25519,
            _ => Asymmetric::Rsa,
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Algorithm::EdDsa => &signature::ED25519,
        }
    }

    fn scheme(self) -> SignatureScheme {
        match self {
            Algorithm::Rs256 => SignatureScheme::RSA_PKCS1_SHA256,
            Algorithm::Rs384 => SignatureScheme::RSA_PKCS1_SHA384,
            Algorithm::Rs512 => SignatureScheme::RSA_PKCS1_SHA512,
            Algorithm::Ps256 => SignatureScheme::RSA_PSS_SHA256,
            Algorithm::Ps384 => SignatureScheme::RSA_PSS_SHA384,
            Algorithm::Ps512 => SignatureScheme::RSA_PSS_SHA512,
            Algorithm::Es256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Algorithm::Es384 => SignatureScheme::ECDSA_NISTP384_SHA384,
            Algorithm::EdDsa => SignatureScheme::ED25519,
        }
    }
}

/// What a signature is verified with.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    kind: Asymmetric,
    /// As ring takes it: an RSA key of PKCS #1, an uncompressed point, or 32 bytes of Ed25519.
    key: Vec<u8>,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicKey").field("kind", &self.kind).finish_non_exhaustive()
    }
}

const ANY_PUBLIC: &str = "holds no public key in PEM (`PUBLIC KEY`, `RSA PUBLIC KEY` or `CERTIFICATE`)";
const ANY_PRIVATE: &str = "holds no private key in PEM (PKCS#8, PKCS#1 or SEC1, not encrypted)";

impl PublicKey {
    /// # Errors
    /// Why there is no key in it that is taken; the file is the subject of the sentence.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
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
        match block.label.as_str() {
            "RSA PUBLIC KEY" => rsa(&block.contents),
            "CERTIFICATE" => match X509Certificate::from_der(&block.contents) {
                Ok(([], certificate)) => of(certificate.public_key()),
                _ => Err("holds a certificate that cannot be read".into()),
            },
            _ => Self::from_spki(&block.contents),
        }
    }

    /// From a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// Why that is no key that is taken; what holds it is the subject of the sentence.
    pub fn from_spki(der: &[u8]) -> Result<Self, String> {
        match SubjectPublicKeyInfo::from_der(der) {
            Ok(([], info)) => of(&info),
            _ => Err("holds a public key that cannot be read".into()),
        }
    }

    /// From the numbers of an RSA key, big-endian.
    pub(super) fn from_rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, String> {
        let der = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_bigint_bytes(modulus, true);
                writer.next().write_bigint_bytes(exponent, true);
            });
        });
        rsa(&der)
    }

    /// From what a JWK has of another key: a point's two numbers, or the bytes of Ed25519.
    pub(super) fn from_parts(kind: Asymmetric, parts: &[&[u8]]) -> Result<Self, String> {
        let (size, prefix) = match kind {
            Asymmetric::P256 => (32, &[4_u8][..]),
            Asymmetric::P384 => (48, &[4_u8][..]),
            Asymmetric::Ed25519 => (32, &[][..]),
            Asymmetric::Rsa => return Err("holds an RSA key that cannot be read".into()),
        };
        if parts.iter().any(|part| part.len() != size) {
            return Err(format!("holds {} with a number that is not {size} bytes long", kind.as_str()));
        }
        Ok(PublicKey { kind, key: [prefix, &parts.concat()].concat() })
    }

    pub fn kind(&self) -> Asymmetric {
        self.kind
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.key
    }

    /// Whether the key has signed this, in this way. A key of another kind has not.
    pub fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        algorithm.key() == self.kind
            && UnparsedPublicKey::new(algorithm.verification(), &self.key).verify(signed, signature).is_ok()
    }

    /// # Errors
    /// The key is of another kind than the algorithm needs; what holds it is the subject of the sentence.
    pub fn fits(&self, algorithm: Algorithm) -> Result<(), String> {
        if self.kind == algorithm.key() { Ok(()) } else { Err(wrong_kind(algorithm)) }
    }
}

/// A public key for one algorithm: what a signature says of itself is never believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyKey {
    pub algorithm: Algorithm,
    pub key: PublicKey,
}

impl VerifyKey {
    /// # Errors
    /// Why this is no key for the algorithm; the file is the subject of the sentence.
    pub fn from_pem(algorithm: Algorithm, pem: &[u8]) -> Result<Self, String> {
        let key = PublicKey::from_pem(pem)?;
        key.fits(algorithm)?;
        Ok(VerifyKey { algorithm, key })
    }
}

fn of(info: &SubjectPublicKeyInfo<'_>) -> Result<PublicKey, String> {
    let kind = &info.algorithm.algorithm;
    let curve = info.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    let data = info.subject_public_key.data.to_vec();
    let point = |kind, size: usize| match data.first() {
        Some(4) if data.len() == 1 + 2 * size => Ok(PublicKey { kind, key: data.clone() }),
        _ => Err("holds a point that is not written out".into()),
    };
    if *kind == OID_PKCS1_RSAENCRYPTION {
        rsa(&data)
    } else if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256) {
        point(Asymmetric::P256, 32)
    } else if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_NIST_EC_P384) {
        point(Asymmetric::P384, 48)
    } else if *kind == OID_SIG_ED25519 && data.len() == 32 {
        Ok(PublicKey { kind: Asymmetric::Ed25519, key: data })
    } else {
        Err("holds a key of a kind that is not taken: RSA, P-256, P-384 or Ed25519".into())
    }
}

/// A key that ring would refuse only when something was signed is refused now.
fn rsa(key: &[u8]) -> Result<PublicKey, String> {
    let Ok(([], read)) = RSAPublicKey::from_der(key) else { return Err("holds an RSA key that cannot be read".into()) };
    let bits = read.key_size();
    if !(2048..=8192).contains(&bits) {
        return Err(format!("holds an RSA key of {bits} bits; 2048 to 8192 are taken"));
    }
    Ok(PublicKey { kind: Asymmetric::Rsa, key: key.to_vec() })
}

fn wrong_kind(algorithm: Algorithm) -> String {
    format!("holds a key of another kind than {} needs: {}", algorithm.name(), algorithm.key().as_str())
}

/// What signs, in one way.
#[derive(Clone)]
pub struct SignKey {
    algorithm: Algorithm,
    key: Arc<dyn SigningKey>,
    public: PublicKey,
}

impl fmt::Debug for SignKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl SignKey {
    /// # Errors
    /// Why this is no key for the algorithm; the file is the subject of the sentence.
    pub fn from_pem(algorithm: Algorithm, pem: &[u8]) -> Result<Self, String> {
        Self::new(algorithm, &PrivateKeyDer::from_pem_slice(pem).map_err(|_| ANY_PRIVATE.to_owned())?)
    }

    /// # Errors
    /// Why this is no key for the algorithm; what holds it is the subject of the sentence.
    pub fn from_pkcs8(algorithm: Algorithm, der: &[u8]) -> Result<Self, String> {
        Self::new(algorithm, &PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der)))
    }

    fn new(algorithm: Algorithm, key: &PrivateKeyDer<'_>) -> Result<Self, String> {
        let key = rustls::crypto::ring::sign::any_supported_type(key).map_err(|_| {
            "holds a key that cannot be used: RSA of 2048 bits or more, P-256, P-384 or Ed25519".to_owned()
        })?;
        key.choose_scheme(&[algorithm.scheme()]).ok_or_else(|| wrong_kind(algorithm))?;
        let spki = key.public_key().ok_or("holds a key without its public half")?;
        let public = PublicKey::from_spki(&spki)?;
        Ok(SignKey { algorithm, key, public })
    }

    /// A new key, as PKCS #8 in DER. For ES256, ES384 and EdDSA.
    ///
    /// # Errors
    /// The system has no random numbers, or the algorithm is RSA's.
    pub fn generate(algorithm: Algorithm) -> Result<Vec<u8>, String> {
        let random = SystemRandom::new();
        let failed = |_| "the system gave no random numbers".to_owned();
        let ecdsa = |how| EcdsaKeyPair::generate_pkcs8(how, &random).map(|der| der.as_ref().to_vec()).map_err(failed);
        match algorithm {
            Algorithm::Es256 => ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::Es384 => ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::EdDsa => {
                Ed25519KeyPair::generate_pkcs8(&random).map(|der| der.as_ref().to_vec()).map_err(failed)
            }
            _ => Err(format!("keys of {} are not made here", algorithm.name())),
        }
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The public half as SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> Vec<u8> {
        self.key.public_key().map(|spki| spki.to_vec()).unwrap_or_default()
    }

    /// As JWS has signatures: of ECDSA the two numbers side by side (RFC 7518 section 3.4).
    ///
    /// # Errors
    /// The key does not sign.
    pub fn sign(&self, text: &[u8]) -> Result<Vec<u8>, String> {
        let failed = || "the key does not sign".to_owned();
        let signer = self.key.choose_scheme(&[self.algorithm.scheme()]).ok_or_else(failed)?;
        let signature = signer.sign(text).map_err(|e| format!("the key does not sign: {e}"))?;
        match self.algorithm {
            Algorithm::Es256 => side_by_side(&signature, 32).ok_or_else(failed),
            Algorithm::Es384 => side_by_side(&signature, 48).ok_or_else(failed),
            _ => Ok(signature),
        }
    }
}

fn side_by_side(der: &[u8], size: usize) -> Option<Vec<u8>> {
    let numbers = yasna::parse_der(der, |reader| {
        reader.read_sequence(|reader| Ok([reader.next().read_bigint_bytes()?.0, reader.next().read_bigint_bytes()?.0]))
    });
    let mut out = Vec::with_capacity(2 * size);
    for number in numbers.ok()? {
        let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
        let digits = number.get(first..)?;
        out.resize(out.len() + size.checked_sub(digits.len())?, 0);
        out.extend_from_slice(digits);
    }
    Some(out)
}
