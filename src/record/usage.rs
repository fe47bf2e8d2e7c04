//! Who used what: last use and count per credential and per grant × operation, with the source's networks, and which
//! certificates were seen of a credential. Counted on the request path in memory, flushed to the database off it.

use crate::clock::UnixNanos;
use crate::identity::{Certificate, Fingerprint, Serial};
use crate::name::{CredentialId, GrantId, PartnerId};
use crate::operation::OperationId;
use crate::reason::Reason;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// What is counted apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UsageKey {
    pub partner: PartnerId,
    pub credential: CredentialId,
    pub grant: GrantId,
    pub operation: OperationId,
    /// Names of the networks that held the source address, joined by `,`.
    pub network: String,
}

/// How often and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub count: u64,
    pub first: UnixNanos,
    pub last: UnixNanos,
}

/// One certificate under which a credential was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub credential: CredentialId,
    pub fingerprint: Fingerprint,
    pub spki: Fingerprint,
    pub serial: Serial,
    pub issuer: String,
    /// End of the certificate's validity.
    pub not_after: UnixNanos,
    pub first: UnixNanos,
    pub last: UnixNanos,
    /// The first request with it that was allowed.
    pub allowed: Option<UnixNanos>,
}

/// The first request of a partner that was refused after it had been closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstDenied {
    pub at: UnixNanos,
    /// Its id, as the record has it.
    pub request: String,
    pub reason: Reason,
}

/// An API key, and the names of the networks that held the source address, joined by `,`.
pub type KeyPlace = (CredentialId, String);

/// A partner, and when it was closed.
pub type ClosedPartner = (PartnerId, UnixNanos);

/// Most keys of each kind that wait for the database; over it a use is not counted.
const MAX_KEYS: usize = 200_000;

/// What is not yet in the database.
#[derive(Debug, Default)]
pub struct Batch {
    pub usage: Vec<(UsageKey, Usage)>,
    pub seen: Vec<Seen>,
    /// Use of API keys, by id and names of networks.
    pub keys: Vec<(KeyPlace, Usage)>,
    pub refused: Vec<(ClosedPartner, FirstDenied)>,
    /// Revoked certificates that were shown, and when first.
    pub refused_handshakes: Vec<(Fingerprint, UnixNanos)>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.usage.is_empty()
            && self.seen.is_empty()
            && self.keys.is_empty()
            && self.refused.is_empty()
            && self.refused_handshakes.is_empty()
    }
}

#[derive(Default)]
struct Pending {
    usage: HashMap<UsageKey, Usage>,
    seen: HashMap<(CredentialId, Fingerprint), Seen>,
    keys: HashMap<KeyPlace, Usage>,
    refused: HashMap<ClosedPartner, FirstDenied>,
    refused_handshakes: HashMap<Fingerprint, UnixNanos>,
}

/// Counts since the last flush.
#[derive(Default)]
pub struct UsageLog {
    pending: Mutex<Pending>,
}

impl UsageLog {
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one allowed request.
    pub fn count(&self, key: UsageKey, now: UnixNanos) {
        add(&mut self.lock().usage, key, Usage { count: 1, first: now, last: now });
    }

    /// Counts one use of an API key.
    pub fn key_used(&self, key: &CredentialId, networks: String, now: UnixNanos) {
        add(&mut self.lock().keys, (key.clone(), networks), Usage { count: 1, first: now, last: now });
    }

    /// Notes that a credential was presented, allowed or not.
    pub fn saw(&self, credential: &CredentialId, leaf: &Certificate, allowed: bool, now: UnixNanos) {
        let allowed = allowed.then_some(now);
        let mut pending = self.lock();
        if let Some(known) = pending.seen.get_mut(&(credential.clone(), leaf.fingerprint)) {
            known.last = known.last.max(now);
            known.allowed = known.allowed.or(allowed);
            return;
        }
        pending.see(Seen {
            credential: credential.clone(),
            fingerprint: leaf.fingerprint,
            spki: leaf.spki_sha256,
            serial: leaf.serial.clone(),
            issuer: leaf.issuer.to_string(),
            not_after: leaf.not_after,
            first: now,
            last: now,
            allowed,
        });
    }

    /// Notes that a request of a partner was refused that had been closed; the first of them counts.
    pub fn refused(&self, partner: &PartnerId, closed: UnixNanos, refused: impl FnOnce() -> FirstDenied) {
        let mut pending = self.lock();
        if pending.refused.len() < MAX_KEYS {
            pending.refused.entry((partner.clone(), closed)).or_insert_with(refused);
        }
    }

    /// Notes that a certificate was shown that is revoked; the first time counts.
    pub fn refused_handshake(&self, certificate: Fingerprint, now: UnixNanos) {
        let mut pending = self.lock();
        if pending.refused_handshakes.len() < MAX_KEYS {
            pending.refused_handshakes.entry(certificate).or_insert(now);
        }
    }

    /// Takes everything that was counted.
    pub fn take(&self) -> Batch {
        let pending = std::mem::take(&mut *self.lock());
        Batch {
            usage: pending.usage.into_iter().collect(),
            seen: pending.seen.into_values().collect(),
            keys: pending.keys.into_iter().collect(),
            refused: pending.refused.into_iter().collect(),
            refused_handshakes: pending.refused_handshakes.into_iter().collect(),
        }
    }

    /// Gives back what could not be written.
    pub fn give_back(&self, batch: Batch) {
        let mut pending = self.lock();
        for (key, used) in batch.usage {
            add(&mut pending.usage, key, used);
        }
        for (key, used) in batch.keys {
            add(&mut pending.keys, key, used);
        }
        for seen in batch.seen {
            pending.see(seen);
        }
        // What was noted before is the first.
        pending.refused.extend(batch.refused);
        pending.refused_handshakes.extend(batch.refused_handshakes);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add<K: Eq + Hash>(all: &mut HashMap<K, Usage>, key: K, used: Usage) {
    if let Some(known) = all.get_mut(&key) {
        known.count = known.count.saturating_add(used.count);
        known.first = known.first.min(used.first);
        known.last = known.last.max(used.last);
    } else if all.len() < MAX_KEYS {
        all.insert(key, used);
    }
}

impl Pending {
    fn see(&mut self, seen: Seen) {
        let key = (seen.credential.clone(), seen.fingerprint);
        if let Some(known) = self.seen.get_mut(&key) {
            known.first = known.first.min(seen.first);
            known.last = known.last.max(seen.last);
            known.allowed = known.allowed.into_iter().chain(seen.allowed).min();
        } else if self.seen.len() < MAX_KEYS {
            self.seen.insert(key, seen);
        }
    }
}
