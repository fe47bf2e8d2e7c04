//! What is worked out from partners and credentials once and used for many requests.

use crate::identity::{Fingerprint, Peer};
use crate::name::{AnchorName, CredentialId, PartnerId};
use crate::partner::{Credential, CredentialKind, PartnerRecord};
use quick_cache::sync::Cache;
use std::sync::Arc;

/// A form of partners and of credentials (as policy sees them, as a record shows them), kept within a bound. An entry
/// is used only while it belongs to the very record, credential and anchor that the request resolved to: it never
/// outlives a change.
pub struct Derived<P, C> {
    partners: Cache<PartnerId, (Arc<PartnerRecord>, P)>,
    credentials: Cache<(Fingerprint, CredentialKind), (CredentialKey, C)>,
}

#[derive(Clone)]
struct CredentialKey {
    record: Arc<PartnerRecord>,
    credential: CredentialId,
    anchor: AnchorName,
}

impl<P: Clone, C: Clone> Derived<P, C> {
    /// Room for `capacity` partners and as many certificates.
    pub fn new(capacity: usize) -> Self {
        Derived { partners: Cache::new(capacity), credentials: Cache::new(capacity) }
    }

    /// The partner's form, made when there is none yet.
    pub fn partner(&self, record: &Arc<PartnerRecord>, make: impl FnOnce() -> P) -> P {
        let id = &record.partner.id;
        if let Some((owner, value)) = self.partners.get(id) {
            if Arc::ptr_eq(&owner, record) {
                return value;
            }
        }
        let value = make();
        self.partners.insert(id.clone(), (record.clone(), value.clone()));
        value
    }

    /// The form of the peer's certificate under this credential, as one of this kind, made when there is none yet.
    pub fn credential(
        &self,
        record: &Arc<PartnerRecord>,
        credential: &Credential,
        (peer, kind): (&Peer, CredentialKind),
        make: impl FnOnce() -> C,
    ) -> C {
        let place = (peer.leaf.fingerprint, kind);
        if let Some((key, value)) = self.credentials.get(&place) {
            if Arc::ptr_eq(&key.record, record) && key.credential == credential.id && key.anchor == peer.anchor {
                return value;
            }
        }
        let value = make();
        let key =
            CredentialKey { record: record.clone(), credential: credential.id.clone(), anchor: peer.anchor.clone() };
        self.credentials.insert(place, (key, value.clone()));
        value
    }
}
