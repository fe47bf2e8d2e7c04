//! DER bytes of a client's certificate chain → facts that a decision can rest on.
//!
//! In: certificates as the TLS layer received them. Out: [`Certificate`] facts and, once a path to an anchor has been
//! verified by `trust`, a [`Peer`]. Must never: panic on any bytes, pick one of several readings, or say anything
//! about trust.

mod certificate;
mod dn;
mod matching;
mod request;
mod spiffe;

pub use certificate::{
    Certificate, Fault, Fingerprint, KeyAlgorithm, KeyFacts, MAX_CRL_URLS, SanFacts, Serial, SerialKey,
    SignatureStrength, certificate_pem, crl_url, is_signed_by,
};
pub use dn::{DistinguishedName, parse_dn};
pub use matching::{Match, MatchKey, MatchKind};
pub use request::{Csr, MAX_REQUEST};
pub use spiffe::{SpiffeId, Svid, check_trust_domain, claims_spiffe};

use crate::clock::UnixNanos;
use crate::name::AnchorName;

/// A client whose chain leads to a trust anchor. Made once per connection by `trust`.
#[derive(Clone, Debug)]
pub struct Peer {
    pub leaf: Certificate,
    /// The certificates between the leaf and the anchor on the verified path, leaf's issuer first.
    pub intermediates: Vec<Issuer>,
    /// The anchor the verified path ended in.
    pub anchor: AnchorName,
    /// The anchor's public key, so that a later anchor of the same name is not taken for it.
    pub anchor_spki: Fingerprint,
    /// Generation of the trust state that verified the path.
    pub trust_generation: u64,
    /// What the registry is asked for, most specific first.
    pub match_keys: Vec<MatchKey>,
}

/// An intermediate certificate of a verified path: what expiry and revocation need to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    pub issuer: DistinguishedName,
    pub serial: Serial,
    pub serial_key: SerialKey,
    pub fingerprint: Fingerprint,
    pub spki_sha256: Fingerprint,
    /// As [`Certificate::crl_urls`].
    pub crl_urls: Vec<String>,
    /// The first instant at which it is no longer valid.
    pub not_after: UnixNanos,
}

impl Peer {
    pub fn new(
        leaf: Certificate,
        intermediates: Vec<Issuer>,
        anchor: AnchorName,
        anchor_spki: Fingerprint,
        trust_generation: u64,
    ) -> Self {
        let match_keys = matching::keys_of(&leaf, &anchor);
        Peer { leaf, intermediates, anchor, anchor_spki, trust_generation, match_keys }
    }
}
