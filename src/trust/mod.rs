//! Which chains are believed, now: trust anchors, their revocation lists and their denials.
//!
//! In: anchors of the registry and the [`Material`] that was read for them, a chain as received, the time. Out: a
//! [`Peer`] whose path has been verified (RFC 5280 section 6, by webpki) and which is stricter than that: named reasons
//! for weak keys and signatures. Must never: compare issuer names to find an anchor; do I/O.

mod bundle;
mod crl;
mod fault;
mod revocation;
mod serials;

pub use bundle::{MAX_BUNDLE_BYTES, TrustBundle};
pub use crl::{CrlFault, CrlNumber, Holds, IssuerKey, MAX_CRL_BYTES, RevocationList, Scope};
pub use revocation::{AnchorLists, AnchorRevocation, Checked, Wanted};

use crate::clock::UnixNanos;
use crate::identity::{
    Certificate, DistinguishedName, Fault, Fingerprint, Issuer, Peer, SerialKey, SignatureStrength, SpiffeId, Svid,
    is_signed_by,
};
use crate::name::{AnchorName, Environment};
use crate::partner::{Anchor, ClientAuthUsage, DeniedCertificate, Revocation, Root};
use crate::reason::Reason;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage};

/// Certificates in a client's chain, leaf included.
const MAX_CHAIN: usize = 8;
/// Bytes of a client's chain together.
const MAX_CHAIN_BYTES: usize = 64 * 1024;

/// What anchors need that is no part of the registry, as it was last read and found good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Material {
    /// Of the anchors that are a SPIFFE trust domain.
    pub bundles: HashMap<AnchorName, Arc<TrustBundle>>,
    /// Of the anchors whose revocation lists are looked at.
    pub lists: HashMap<AnchorName, AnchorLists>,
}

/// One immutable trust state.
pub struct Trust {
    generation: u64,
    /// Each CA certificate; those of one bundle follow each other.
    anchors: Vec<Trusted>,
    /// For webpki: those of them that are CA certificates.
    webpki: Vec<TrustAnchor<'static>>,
    /// Place in `anchors` by public key.
    by_key: HashMap<Fingerprint, usize>,
    /// Place in `anchors` of client certificates that are their own anchors, by fingerprint.
    pinned: HashMap<Fingerprint, usize>,
    /// Which anchor's bundle vouches for a SPIFFE trust domain.
    domains: HashMap<String, AnchorName>,
}

/// A CA certificate in use.
pub struct Trusted {
    /// The anchor that it belongs to; several of one bundle share it.
    pub name: AnchorName,
    /// Every leaf under it is an X.509-SVID of this trust domain.
    pub trust_domain: Option<Arc<str>>,
    pub subject: DistinguishedName,
    pub spki_sha256: Fingerprint,
    pub fingerprint: Fingerprint,
    pub not_before: UnixNanos,
    /// First instant at which it is no longer valid.
    pub not_after: UnixNanos,
    pub environments: Vec<Environment>,
    client_auth: ClientAuthUsage,
    max_lifetime: Option<Duration>,
    /// Shared by the certificates of one bundle.
    rules: Arc<Rules>,
    /// It is a client certificate, and the only one under itself.
    pub is_pinned: bool,
}

/// Which certificates under an anchor are not believed whatever their path says.
struct Rules {
    revocation: AnchorRevocation,
    wanted: Option<Arc<Wanted>>,
    denied_serials: HashSet<SerialKey>,
    denied_fingerprints: HashSet<Fingerprint>,
}

/// Why an anchor cannot be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongAnchor {
    pub anchor: AnchorName,
    pub reason: String,
}

impl fmt::Display for WrongAnchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "anchor `{}`: {}", self.anchor, self.reason)
    }
}

impl Trust {
    /// # Errors
    /// Every anchor that is not a usable CA certificate or has no bundle in `material`, every pair of anchors with equal
    /// keys or for the same trust domain.
    pub fn build<'a>(
        generation: u64,
        anchors: impl Iterator<Item = &'a Arc<Anchor>>,
        material: &Material,
    ) -> Result<Trust, Vec<WrongAnchor>> {
        let mut trust = Trust {
            generation,
            anchors: Vec::new(),
            webpki: Vec::new(),
            by_key: HashMap::new(),
            pinned: HashMap::new(),
            domains: HashMap::new(),
        };
        let mut problems = Vec::new();
        for anchor in anchors {
            let name = &anchor.name;
            let (certificates, trust_domain) = match &anchor.root {
                Root::Certificate { certificate } => (std::slice::from_ref(certificate), None),
                Root::SelfSigned { self_signed } => {
                    if let Err(reason) = trust.pin(anchor, &self_signed.0) {
                        problems.push(WrongAnchor { anchor: name.clone(), reason });
                    }
                    continue;
                }
                Root::Bundle { bundle } => {
                    if let Some(other) = trust.domains.insert(bundle.trust_domain.clone(), name.clone()) {
                        let reason = format!(
                            "is of the trust domain `{}`, as the anchor `{other}` is: keep one",
                            bundle.trust_domain
                        );
                        problems.push(WrongAnchor { anchor: name.clone(), reason });
                    }
                    let read = material.bundles.get(name).filter(|read| read.trust_domain == bundle.trust_domain);
                    let Some(read) = read else {
                        let reason = "its trust bundle has not been read".to_owned();
                        problems.push(WrongAnchor { anchor: name.clone(), reason });
                        continue;
                    };
                    (read.certificates.as_slice(), Some(Arc::from(bundle.trust_domain.as_str())))
                }
            };
            let rules = Arc::new(Rules::of(anchor, material.lists.get(name)));
            for certificate in certificates {
                if let Err(reason) = trust.add(anchor, &certificate.0, trust_domain.clone(), rules.clone()) {
                    problems.push(WrongAnchor { anchor: name.clone(), reason });
                }
            }
        }
        if problems.is_empty() { Ok(trust) } else { Err(problems) }
    }

    fn add(
        &mut self,
        anchor: &Anchor,
        der: &[u8],
        trust_domain: Option<Arc<str>>,
        rules: Arc<Rules>,
    ) -> Result<(), String> {
        let facts = check_anchor(der)?;
        self.is_new_key(&facts)?;
        let der = CertificateDer::from(der);
        let trusted =
            webpki::anchor_from_trusted_cert(&der).map_err(|e| format!("cannot be used as a trust anchor ({e})"))?;
        self.webpki.push(trusted.to_owned());
        self.put(anchor, facts, trust_domain, rules, false);
        Ok(())
    }

    /// A client certificate that is its own anchor.
    fn pin(&mut self, anchor: &Anchor, der: &[u8]) -> Result<(), String> {
        let facts = check_pinned(der)?;
        self.is_new_key(&facts)?;
        if anchor.partners.len() > 1 {
            return Err("is a self-signed client certificate, which is of one partner: bind it to no other".into());
        }
        if anchor.revocation != Revocation::default() {
            return Err(
                "is a self-signed client certificate, which no revocation list covers: take `revocation` out; \
                        `anchor deny` refuses it at once"
                    .into(),
            );
        }
        self.pinned.insert(facts.fingerprint, self.anchors.len());
        self.put(anchor, facts, None, Arc::new(Rules::of(anchor, None)), true);
        Ok(())
    }

    fn is_new_key(&self, facts: &Certificate) -> Result<(), String> {
        if let Some(other) = self.by_key.get(&facts.spki_sha256).and_then(|place| self.anchors.get(*place)) {
            return Err(format!(
                "has the same public key as the anchor `{}`, so that one could speak for the other's partners: keep one",
                other.name
            ));
        }
        Ok(())
    }

    fn put(
        &mut self,
        anchor: &Anchor,
        facts: Certificate,
        trust_domain: Option<Arc<str>>,
        rules: Arc<Rules>,
        is_pinned: bool,
    ) {
        self.by_key.insert(facts.spki_sha256, self.anchors.len());
        self.anchors.push(Trusted {
            name: anchor.name.clone(),
            trust_domain,
            subject: facts.subject,
            spki_sha256: facts.spki_sha256,
            fingerprint: facts.fingerprint,
            not_before: facts.not_before,
            not_after: facts.not_after,
            environments: anchor.environments.clone(),
            // Whoever makes a certificate for itself rarely says what it is for.
            client_auth: if is_pinned { ClientAuthUsage::Optional } else { anchor.client_auth },
            max_lifetime: anchor.max_lifetime,
            rules,
            is_pinned,
        });
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Every CA certificate, in the order of the anchors' names.
    pub fn anchors(&self) -> &[Trusted] {
        &self.anchors
    }

    /// The anchor whose bundle alone vouches for a SPIFFE trust domain, where there is one.
    pub fn anchor_of_domain(&self, trust_domain: &str) -> Option<&AnchorName> {
        self.domains.get(trust_domain)
    }

    fn by_key(&self, spki: &Fingerprint) -> Option<&Trusted> {
        self.anchors.get(*self.by_key.get(spki)?)
    }

    /// Verifies a chain as received, leaf first, for TLS client authentication at `now`.
    ///
    /// # Errors
    /// The reason that a record of the refused handshake carries.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixNanos) -> Result<Peer, Fault> {
        let (peer, anchor) = self.path(chain, now)?;
        anchor.rules.note_places(&peer);
        anchor.rules.check(&peer, now)?;
        Ok(peer)
    }

    /// The same for a chain that nobody has come with: it is not asked where its revocation lists are.
    ///
    /// # Errors
    /// As [`Trust::verify`].
    pub fn suppose(&self, chain: &[CertificateDer<'_>], now: UnixNanos) -> Result<Peer, Fault> {
        let (peer, anchor) = self.path(chain, now)?;
        anchor.rules.check(&peer, now)?;
        Ok(peer)
    }

    /// The peer, and the anchor that its path ends in, whatever the anchor has against it.
    fn path(&self, chain: &[CertificateDer<'_>], now: UnixNanos) -> Result<(Peer, &Trusted), Fault> {
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
        if let Some(anchor) = self.pinned.get(&leaf.fingerprint).and_then(|place| self.anchors.get(*place)) {
            // Byte by byte what was registered, and its key has signed the handshake: there is no path to look at.
            check_anchor_validity(anchor, now)?;
            check_leaf(&leaf, anchor)?;
            let peer = Peer::new(leaf, Vec::new(), anchor.name.clone(), anchor.spki_sha256, self.generation);
            return Ok((peer, anchor));
        }
        if leaf.is_ca {
            return Err(Fault::new(Reason::CertificateConstraint, "the client certificate is a CA certificate"));
        }
        if leaf.cert_sign {
            let detail = "keyUsage of the client certificate permits keyCertSign";
            return Err(Fault::new(Reason::CertificateConstraint, detail));
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
            .map_err(|e| weak_issuer(&leaf, &issuers).unwrap_or_else(|| fault::of(&e)))?;

        // The anchor is the one the path ended in, recognised by its key.
        let spki = Fingerprint::of(webpki::spki_for_anchor(path.anchor()).as_ref());
        let Some(anchor) = self.by_key(&spki) else {
            return Err(Fault::new(Reason::CertificateUnknownIssuer, "the path ended in no registered anchor"));
        };
        check_anchor_validity(anchor, now)?;
        check_leaf(&leaf, anchor)?;
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
        let peer = Peer::new(leaf, intermediates, anchor.name.clone(), anchor.spki_sha256, self.generation);
        Ok((peer, anchor))
    }

    /// Whether a peer that was verified earlier would still be trusted: for every request.
    ///
    /// # Errors
    /// [`Reason::TrustChanged`] when its anchor is gone or was replaced, [`Reason::CertificateExpired`] when the anchor
    /// or a certificate between it and the leaf has expired; what the anchor has begun to demand of leaves:
    /// [`Reason::CertificateWrongUsage`], [`Reason::CertificateLifetime`], [`Reason::CertificateNotSvid`];
    /// [`Reason::CertificateRevoked`] and [`Reason::RevocationUnknown`].
    pub fn still_good(&self, peer: &Peer, now: UnixNanos) -> Result<&Trusted, Reason> {
        let anchor = self.by_key(&peer.anchor_spki).filter(|a| a.name == peer.anchor);
        // A key that is pinned is so with this certificate alone, and no CA is a client.
        let anchor = anchor.filter(|a| a.is_pinned == (a.fingerprint == peer.leaf.fingerprint));
        let Some(anchor) = anchor else { return Err(Reason::TrustChanged) };
        check_anchor_validity(anchor, now).map_err(|f| f.reason)?;
        if peer.intermediates.iter().any(|issuer| now >= issuer.not_after) {
            return Err(Reason::CertificateExpired);
        }
        // The same trust has found nothing against it.
        if peer.trust_generation != self.generation {
            check_leaf(&peer.leaf, anchor).map_err(|f| f.reason)?;
        }
        anchor.rules.check(peer, now).map_err(|f| f.reason)?;
        Ok(anchor)
    }

    /// When the clock alone will end what [`Trust::still_good`] says of a peer that is good now.
    pub fn good_until(&self, peer: &Peer, anchor: &Trusted) -> UnixNanos {
        let below = peer.intermediates.iter().map(|issuer| issuer.not_after);
        let until = below.fold(anchor.not_after.min(peer.leaf.not_after), UnixNanos::min);
        anchor.rules.revocation.good_until(Checked::path(peer)).map_or(until, |stale| stale.min(until))
    }
}

impl Rules {
    fn of(anchor: &Anchor, lists: Option<&AnchorLists>) -> Self {
        let lists = lists.cloned().unwrap_or_default();
        let (mut denied_serials, mut denied_fingerprints) = (HashSet::new(), HashSet::new());
        for denied in &anchor.denied {
            match &denied.certificate {
                DeniedCertificate::Serial(serial) => {
                    denied_serials.insert(serial.key());
                }
                DeniedCertificate::Fingerprint(fingerprint) => {
                    denied_fingerprints.insert(*fingerprint);
                }
            }
        }
        Rules {
            revocation: AnchorRevocation::new(anchor.revocation.mode, anchor.revocation.grace, lists.lists),
            wanted: lists.wanted,
            denied_serials,
            denied_fingerprints,
        }
    }

    fn check(&self, peer: &Peer, now: UnixNanos) -> Result<(), Fault> {
        if !self.denied_fingerprints.is_empty() || !self.denied_serials.is_empty() {
            let below = peer.intermediates.iter().map(|issuer| (issuer.serial_key, issuer.fingerprint));
            let own = std::iter::once((peer.leaf.serial_key, peer.leaf.fingerprint));
            let denied = |(serial, fingerprint)| {
                self.denied_serials.contains(&serial) || self.denied_fingerprints.contains(&fingerprint)
            };
            if own.chain(below).any(denied) {
                let detail = format!("a certificate of the path is denied under `{}`", peer.anchor);
                return Err(Fault::new(Reason::CertificateRevoked, detail));
            }
        }
        self.revocation.check(Checked::path(peer), now)
    }

    /// Certificates of a verified path may say where their lists are.
    fn note_places(&self, peer: &Peer) {
        let Some(wanted) = &self.wanted else { return };
        Checked::path(peer).flat_map(|certificate| certificate.crl_urls).for_each(|url| wanted.note(url));
    }
}

/// What a certificate must be to serve as an anchor.
fn check_anchor(der: &[u8]) -> Result<Certificate, String> {
    let facts = Certificate::from_der(der).map_err(|f| f.detail)?;
    if !facts.is_ca {
        return Err("not a CA certificate (basicConstraints cA is not true)".into());
    }
    if facts.states_usage && !facts.cert_sign {
        return Err("the CA certificate may not sign certificates (keyUsage without keyCertSign)".into());
    }
    if let Some(oid) = facts.unknown_critical.first() {
        return Err(format!("the CA certificate has a critical extension that is not understood ({oid})"));
    }
    check_strength(&facts, "the CA certificate").map_err(|f| f.detail)?;
    if facts.subject.is_empty() {
        return Err("the CA certificate has no subject".into());
    }
    Ok(facts)
}

/// What a client certificate must be that is its own anchor. Whether it is a CA certificate does not matter, as `openssl req -x509`
/// makes them so: nothing under it is believed.
fn check_pinned(der: &[u8]) -> Result<Certificate, String> {
    let facts = Certificate::from_der(der).map_err(|f| f.detail)?;
    check_strength(&facts, "the client certificate").map_err(|f| f.detail)?;
    if !is_signed_by(der, der) {
        return Err("is not self-signed: register the CA that has issued it, and match the certificate".into());
    }
    if let Some(oid) = facts.unknown_critical.first() {
        return Err(format!("the certificate has a critical extension that is not understood ({oid})"));
    }
    if !facts.digital_signature {
        return Err("keyUsage of the certificate does not permit digitalSignature, which TLS needs".into());
    }
    if facts.client_auth == Some(false) {
        return Err("extendedKeyUsage of the certificate does not name clientAuth".into());
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

/// What the anchor asks of leaves: settings that can change while a connection is open.
fn check_leaf(leaf: &Certificate, anchor: &Trusted) -> Result<(), Fault> {
    if !leaf.client_auth.unwrap_or(anchor.client_auth == ClientAuthUsage::Optional) {
        return Err(Fault::new(
            Reason::CertificateWrongUsage,
            "extendedKeyUsage does not name clientAuth (an anchor can be set to `client_auth: optional`)",
        ));
    }
    if let Some(longest) = anchor.max_lifetime {
        let lifetime = leaf.lifetime();
        if lifetime > longest {
            let detail = format!(
                "the client certificate is valid for {} s; the anchor `{}` has max_lifetime {} s",
                lifetime.as_secs(),
                anchor.name,
                longest.as_secs()
            );
            return Err(Fault::new(Reason::CertificateLifetime, detail));
        }
    }
    let broken = |why: String| Err(Fault::new(Reason::CertificateNotSvid, why));
    match (leaf.svid(), &anchor.trust_domain) {
        (Svid::Broken(why), _) => broken(format!("no X.509-SVID: {why}")),
        (Svid::No, Some(domain)) => broken(format!("no X.509-SVID of `{domain}`: it has no SPIFFE ID")),
        (Svid::Of(SpiffeId { trust_domain, .. }), Some(domain)) if trust_domain != &**domain => {
            broken(format!("its SPIFFE ID is of `{trust_domain}`, and the anchor `{}` is of `{domain}`", anchor.name))
        }
        _ => Ok(()),
    }
}

/// Why a path through these was not found, when that is what an issuer is worth: webpki only says that it does not know
/// an algorithm, or that a signature by such a key does not verify.
fn weak_issuer(leaf: &Certificate, issuers: &[Certificate]) -> Option<Fault> {
    let mut at = leaf;
    for _ in issuers {
        at = issuers.iter().find(|c| c.subject == at.issuer && c.fingerprint != at.fingerprint)?;
        if let Err(fault) = check_strength(at, "an intermediate certificate") {
            return Some(fault);
        }
    }
    None
}

fn check_strength(cert: &Certificate, what: &str) -> Result<(), Fault> {
    if !cert.sound_serial {
        let detail = format!("the serial number of {what} is zero, negative or longer than 20 octets");
        return Err(Fault::new(Reason::CertificateSerial, detail));
    }
    if let Some(fault) = cert.key.fault(what) {
        return Err(fault);
    }
    if cert.signature == SignatureStrength::Weak && what != "the CA certificate" {
        return Err(Fault::new(Reason::CertificateWeakSignature, format!("{what} is signed with SHA-1 or MD5")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
