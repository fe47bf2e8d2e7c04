//! Which chains are believed, now: trust anchors, and later their revocation lists and denials.
//!
//! In: anchors of the registry, a chain as received, the time. Out: a [`Peer`] whose path has been verified
//! (RFC 5280 section 6, by webpki) and which is stricter than that: named reasons for weak keys and signatures. Must
//! never: compare issuer names to find an anchor; do I/O.

mod crl;
mod fault;
mod revocation;
mod serials;

pub use crl::{CrlFault, CrlNumber, Holds, IssuerKey, MAX_CRL_BYTES, RevocationList, Scope};
pub use revocation::{AnchorLists, AnchorRevocation, Checked, Wanted};

use crate::clock::UnixNanos;
use crate::identity::{
    Certificate, DistinguishedName, Fault, Fingerprint, Issuer, KeyAlgorithm, Peer, SignatureStrength,
};
use crate::name::{AnchorName, Environment};
use crate::partner::{Anchor, ClientAuthUsage, Root};
use crate::reason::Reason;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage};

/// Certificates in a client's chain, leaf included.
const MAX_CHAIN: usize = 8;
/// Bytes of a client's chain together.
const MAX_CHAIN_BYTES: usize = 64 * 1024;

/// One immutable trust state.
pub struct Trust {
    generation: u64,
    anchors: Vec<Trusted>,
    /// For webpki, in the order of `anchors`.
    webpki: Vec<TrustAnchor<'static>>,
}

/// An anchor in use.
pub struct Trusted {
    pub name: AnchorName,
    pub subject: DistinguishedName,
    pub spki_sha256: Fingerprint,
    pub fingerprint: Fingerprint,
    pub not_before: UnixNanos,
    /// First instant at which it is no longer valid.
    pub not_after: UnixNanos,
    pub environments: Vec<Environment>,
    client_auth: ClientAuthUsage,
}

impl Trust {
    /// # Errors
    /// Every anchor that is not a usable CA certificate, and every pair of anchors with equal keys.
    pub fn build<'a>(generation: u64, anchors: impl Iterator<Item = &'a Arc<Anchor>>) -> Result<Trust, Vec<String>> {
        let mut trust = Trust { generation, anchors: Vec::new(), webpki: Vec::new() };
        let mut problems = Vec::new();
        let mut keys: HashMap<Fingerprint, AnchorName> = HashMap::new();
        for anchor in anchors {
            let name = &anchor.name;
            let Root::Certificate { certificate } = &anchor.root else {
                problems.push(format!("anchor `{name}`: its trust bundle has not been read"));
                continue;
            };
            let facts = match check_anchor(&certificate.0) {
                Ok(facts) => facts,
                Err(why) => {
                    problems.push(format!("anchor `{name}`: {why}"));
                    continue;
                }
            };
            if let Some(other) = keys.insert(facts.spki_sha256, name.clone()) {
                problems.push(format!(
                    "anchors `{other}` and `{name}` have the same public key, so that one could speak for the other's \
                     partners: keep one and bind it to both lists of partners"
                ));
            }
            let der = CertificateDer::from(certificate.0.as_slice());
            match webpki::anchor_from_trusted_cert(&der) {
                Ok(trusted) => trust.webpki.push(trusted.to_owned()),
                Err(e) => {
                    problems.push(format!("anchor `{name}`: cannot be used as a trust anchor ({e})"));
                    continue;
                }
            }
            trust.anchors.push(Trusted {
                name: name.clone(),
                subject: facts.subject,
                spki_sha256: facts.spki_sha256,
                fingerprint: facts.fingerprint,
                not_before: facts.not_before,
                not_after: facts.not_after,
                environments: anchor.environments.clone(),
                client_auth: anchor.client_auth,
            });
        }
        if problems.is_empty() { Ok(trust) } else { Err(problems) }
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn anchors(&self) -> &[Trusted] {
        &self.anchors
    }

    /// Verifies a chain as received, leaf first, for TLS client authentication at `now`.
    ///
    /// # Errors
    /// The reason that a record of the refused handshake carries.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixNanos) -> Result<Peer, Fault> {
        let Some((leaf_der, rest)) = chain.split_first() else {
            return Err(Fault::new(Reason::CertificateMissing, "no certificate was sent"));
        };
        let bytes: usize = chain.iter().map(|c| c.len()).sum();
        if chain.len() > MAX_CHAIN || bytes > MAX_CHAIN_BYTES {
            return Err(Fault::new(
                Reason::CertificateChainTooLong,
                format!("{} certificates of {bytes} bytes; {MAX_CHAIN} of {MAX_CHAIN_BYTES} are read", chain.len()),
            ));
        }
        let leaf = Certificate::from_der(leaf_der)?;
        let mut issuers = Vec::with_capacity(rest.len());
        for der in rest {
            issuers.push(Certificate::from_der(der)?);
        }
        check_strength(&leaf, "the client certificate")?;
        if leaf.is_ca || leaf.cert_sign {
            return Err(Fault::new(Reason::CertificateConstraint, "the client certificate is a CA certificate"));
        }
        if !leaf.digital_signature {
            return Err(Fault::new(Reason::CertificateWrongUsage, "keyUsage does not permit digitalSignature"));
        }

        let end_entity = EndEntityCert::try_from(leaf_der).map_err(|e| fault::of(&e))?;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now.seconds()));
        let path = end_entity
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &self.webpki,
                rest,
                time,
                // Binding on every certificate of the path that has the extension; whether the leaf must have it is the
                // anchor's setting, below.
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(|e| fault::of(&e))?;

        // The anchor is the one the path ended in, recognised by its key.
        let spki = Fingerprint::of(webpki::spki_for_anchor(path.anchor()).as_ref());
        let Some(anchor) = self.anchors.iter().find(|a| a.spki_sha256 == spki) else {
            return Err(Fault::new(Reason::CertificateUnknownIssuer, "the path ended in no registered anchor"));
        };
        check_anchor_validity(anchor, now)?;
        if !permits_client_auth(&leaf, anchor) {
            return Err(Fault::new(
                Reason::CertificateWrongUsage,
                "extendedKeyUsage does not name clientAuth (an anchor can be set to `client_auth: optional`)",
            ));
        }
        let mut intermediates = Vec::new();
        for cert in path.intermediate_certificates() {
            let fingerprint = Fingerprint::of(cert.der().as_ref());
            let Some(facts) = issuers.iter().find(|c| c.fingerprint == fingerprint) else { continue };
            check_strength(facts, "an intermediate certificate")?;
            intermediates.push(Issuer {
                issuer: facts.issuer.clone(),
                serial: facts.serial.clone(),
                serial_key: facts.serial_key,
                fingerprint: facts.fingerprint,
                crl_urls: facts.crl_urls.clone(),
                spki_sha256: facts.spki_sha256,
                not_after: facts.not_after,
            });
        }
        Ok(Peer::new(leaf, intermediates, anchor.name.clone(), anchor.spki_sha256, self.generation))
    }

    /// Whether a peer that was verified earlier would still be trusted: for every request.
    ///
    /// # Errors
    /// [`Reason::TrustChanged`] when its anchor is gone or was replaced, [`Reason::CertificateExpired`] when the anchor
    /// or a certificate between it and the leaf has expired, [`Reason::CertificateWrongUsage`] when the anchor has begun
    /// to demand a usage that the leaf does not state.
    pub fn still_good(&self, peer: &Peer, now: UnixNanos) -> Result<&Trusted, Reason> {
        let anchor = self.anchors.iter().find(|a| a.spki_sha256 == peer.anchor_spki && a.name == peer.anchor);
        let Some(anchor) = anchor else { return Err(Reason::TrustChanged) };
        check_anchor_validity(anchor, now).map_err(|f| f.reason)?;
        if peer.intermediates.iter().any(|issuer| now >= issuer.not_after) {
            return Err(Reason::CertificateExpired);
        }
        if !permits_client_auth(&peer.leaf, anchor) {
            return Err(Reason::CertificateWrongUsage);
        }
        Ok(anchor)
    }

    /// When the clock alone will end what [`Trust::still_good`] says of a peer that is good now.
    pub fn good_until(&self, peer: &Peer, anchor: &Trusted) -> UnixNanos {
        let below = peer.intermediates.iter().map(|issuer| issuer.not_after);
        below.fold(anchor.not_after.min(peer.leaf.not_after), UnixNanos::min)
    }
}

/// What a certificate must be to serve as an anchor.
fn check_anchor(der: &[u8]) -> Result<Certificate, String> {
    let facts = Certificate::from_der(der).map_err(|f| f.detail)?;
    if !facts.is_ca {
        return Err("not a CA certificate (basicConstraints cA is not true)".into());
    }
    check_strength(&facts, "the CA certificate").map_err(|f| f.detail)?;
    if facts.subject.is_empty() {
        return Err("the CA certificate has no subject".into());
    }
    Ok(facts)
}

fn check_anchor_validity(anchor: &Trusted, now: UnixNanos) -> Result<(), Fault> {
    if now >= anchor.not_after {
        return Err(Fault::new(Reason::CertificateExpired, format!("the anchor `{}` has expired", anchor.name)));
    }
    if now < anchor.not_before {
        return Err(Fault::new(
            Reason::CertificateNotYetValid,
            format!("the anchor `{}` is not valid yet", anchor.name),
        ));
    }
    Ok(())
}

fn permits_client_auth(leaf: &Certificate, anchor: &Trusted) -> bool {
    leaf.client_auth.unwrap_or(anchor.client_auth == ClientAuthUsage::Optional)
}

fn check_strength(cert: &Certificate, what: &str) -> Result<(), Fault> {
    let weak = |detail: String| Err(Fault::new(Reason::CertificateWeakKey, detail));
    match cert.key.algorithm {
        KeyAlgorithm::Rsa if cert.key.bits < 2048 => weak(format!("{what} has an RSA key of {} bits", cert.key.bits)),
        KeyAlgorithm::Dsa => weak(format!("{what} has a DSA key")),
        KeyAlgorithm::Other => weak(format!("{what} has a key of an unknown kind or on a curve below P-256")),
        KeyAlgorithm::EcP521 => {
            Err(Fault::new(Reason::CertificateUnsupportedKey, format!("{what} has a P-521 key; use P-256 or P-384")))
        }
        _ if cert.signature == SignatureStrength::Weak && what != "the CA certificate" => {
            Err(Fault::new(Reason::CertificateWeakSignature, format!("{what} is signed with SHA-1 or MD5")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
