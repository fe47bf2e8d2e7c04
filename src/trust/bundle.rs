//! SPIFFE trust bundles (SPIFFE Trust Domain and Bundle, section 4): a JWKS document → the CA certificates that vouch
//! for one trust domain.
//!
//! In: the bytes of a document, and the trust domain that the registry says it is of. Out: a [`TrustBundle`], each of
//! whose certificates would do as an anchor, or a sentence. Must never: guess; the document does not name its trust
//! domain, so that this comes from the registry alone.

use super::check_anchor;
use crate::identity::{Certificate, Fingerprint, check_trust_domain, claims_spiffe};
use crate::partner::Der;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Duration;

/// Largest document, in bytes.
pub const MAX_BUNDLE_BYTES: usize = 1024 * 1024;
/// Most certificates of one bundle.
const MAX_CERTIFICATES: usize = 64;

/// The X.509 part of a trust bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustBundle {
    pub trust_domain: String,
    /// Grows with every change of the bundle.
    pub sequence: Option<u64>,
    /// How often its publisher would have it read.
    pub refresh_hint: Option<Duration>,
    /// None: the trust domain has revoked every key.
    pub certificates: Vec<Der>,
}

/// Named twice in the document, a parameter is an error; what is not named here is ignored (section 4.1).
#[derive(Deserialize)]
struct KeySet {
    /// Absent is malformed, and empty says that all is revoked.
    keys: Vec<Key>,
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Deserialize)]
struct Key {
    /// Both must be set (sections 4.2.1 and 4.2.2).
    kty: String,
    r#use: String,
    #[serde(default)]
    x5c: Vec<String>,
}

impl TrustBundle {
    /// # Errors
    /// A sentence that says what is wrong, with the place in `keys`.
    pub fn parse(trust_domain: &str, document: &[u8]) -> Result<Self, String> {
        check_trust_domain(trust_domain)?;
        if document.len() > MAX_BUNDLE_BYTES {
            return Err(format!("the bundle has {} bytes; {MAX_BUNDLE_BYTES} are read", document.len()));
        }
        let set: KeySet = serde_json::from_slice(document).map_err(|e| not_a_bundle(&e))?;
        let mut bundle = TrustBundle {
            trust_domain: trust_domain.to_owned(),
            sequence: set.spiffe_sequence,
            refresh_hint: set.spiffe_refresh_hint.map(Duration::from_secs),
            certificates: Vec::new(),
        };
        let mut known: HashMap<Fingerprint, usize> = HashMap::new();
        for (n, key) in set.keys.iter().enumerate() {
            // Keys of other kinds and for other uses, such as `jwt-svid`, are for others to read.
            if key.r#use != "x509-svid" || !matches!(key.kty.as_str(), "RSA" | "EC" | "OKP") {
                continue;
            }
            let (der, facts) = certificate(key, trust_domain).map_err(|why| format!("`keys[{n}]`: {why}"))?;
            if let Some(other) = known.insert(facts.spki_sha256, n) {
                return Err(format!("`keys[{n}]`: has the same public key as `keys[{other}]`; keep one of them"));
            }
            if bundle.certificates.len() == MAX_CERTIFICATES {
                return Err(format!("more than {MAX_CERTIFICATES} certificates; a bundle has a few"));
            }
            bundle.certificates.push(Der(der));
        }
        Ok(bundle)
    }

    /// One without certificates, for a trust domain whose bundle has never been read.
    pub fn none_of(trust_domain: &str) -> Self {
        TrustBundle {
            trust_domain: trust_domain.to_owned(),
            sequence: None,
            refresh_hint: None,
            certificates: Vec::new(),
        }
    }

    /// Whether every certificate still does, for a bundle that was kept by another version.
    ///
    /// # Errors
    /// A sentence about the first that does not.
    pub fn check(&self) -> Result<(), String> {
        self.certificates.iter().try_for_each(|der| check_anchor(&der.0).map(drop))
    }

    /// Whether this may take the place of `previous`.
    ///
    /// # Errors
    /// It is older, or does not say any more how old it is.
    pub fn follows(&self, previous: &TrustBundle) -> Result<(), String> {
        match (previous.sequence, self.sequence) {
            (Some(before), Some(now)) if now < before => {
                Err(format!("its spiffe_sequence {now} is lower than {before}, which was in use before"))
            }
            (Some(before), None) => Err(format!("it has no spiffe_sequence; {before} was in use before")),
            _ => Ok(()),
        }
    }
}

/// The message repeats what it found, which may be long.
fn not_a_bundle(error: &serde_json::Error) -> String {
    format!("not a SPIFFE bundle in JSON: {}", error.to_string().chars().take(200).collect::<String>())
}

/// The one certificate of an entry (X.509-SVID section 6.2), which must do as an anchor of this trust domain.
fn certificate(key: &Key, trust_domain: &str) -> Result<(Vec<u8>, Certificate), String> {
    let [text] = key.x5c.as_slice() else {
        return Err(format!("has {} certificates in `x5c`; one is expected", key.x5c.len()));
    };
    let der = BASE64.decode(text.as_bytes()).map_err(|_| "`x5c` is not base64 (the standard alphabet, padded)")?;
    let facts = check_anchor(&der)?;
    for uri in facts.san.uri.iter().filter(|uri| claims_spiffe(uri)) {
        // X.509-SVID section 4.2: a signing certificate may name its trust domain, without a path.
        if uri.strip_prefix("spiffe://").map(|rest| rest.trim_end_matches('/')) != Some(trust_domain) {
            return Err(format!("the CA certificate is of `{uri}`, not of `spiffe://{trust_domain}`"));
        }
    }
    Ok((der, facts))
}
