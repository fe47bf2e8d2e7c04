//! Who used what: last use and count per credential and per grant × operation, with the source's networks. Counted on
//! the request path in memory, flushed to the database off it.

use crate::clock::UnixNanos;
use crate::name::{CredentialId, GrantId, PartnerId};
use crate::operation::OperationId;
use std::collections::HashMap;
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub count: u64,
    pub first: UnixNanos,
    pub last: UnixNanos,
}

/// Most keys that wait for the database; over it a use is not counted.
const MAX_KEYS: usize = 200_000;

/// Counts that are not yet in the database.
#[derive(Default)]
pub struct UsageLog {
    pending: Mutex<HashMap<UsageKey, Usage>>,
}

impl UsageLog {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn count(&self, key: UsageKey, now: UnixNanos) {
        self.add(key, Usage { count: 1, first: now, last: now });
    }

    /// Takes everything that was counted.
    pub fn take(&self) -> Vec<(UsageKey, Usage)> {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }

    /// Gives back what could not be written.
    pub fn give_back(&self, usage: Vec<(UsageKey, Usage)>) {
        for (key, used) in usage {
            self.add(key, used);
        }
    }

    fn add(&self, key: UsageKey, used: Usage) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = pending.get_mut(&key) {
            known.count = known.count.saturating_add(used.count);
            known.first = known.first.min(used.first);
            known.last = known.last.max(used.last);
        } else if pending.len() < MAX_KEYS {
            pending.insert(key, used);
        }
    }
}
