//! Places for records: nothing is allowed that no record could be kept of.
//!
//! In: requests that want to be recorded. Out: a [`Slot`] for each, until its record is written. Must never: let one
//! partner take the places of all.

use crate::name::PartnerId;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What happens when no record can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Deny, with [`crate::reason::Reason::RecordUnavailable`].
    Deny,
    /// Allow, and count the record that is lost.
    Count,
}

/// Places for records that are not yet written, bounded in number and in bytes. Cloning shares them.
///
/// An allowed request holds its place until it has ended, and a client may make that last: so the requests of one
/// partner that have not ended have at most a quarter of the places. What is over when it is recorded, such as a denial,
/// counts against no partner.
#[derive(Clone, Debug)]
pub struct Slots {
    places: Arc<Places>,
    when_full: WhenFull,
}

struct Places {
    capacity: usize,
    /// Nothing is to be allowed.
    closed: AtomicBool,
    free: AtomicUsize,
    /// Size of the records that wait in their places.
    bytes: AtomicUsize,
    max_bytes: usize,
    /// Places of requests that have not ended, by partner. Partners share a counter by chance, which no partner can bring about, since
    /// the hash has a secret.
    taken: Box<[AtomicUsize]>,
    max_share: usize,
    hash: RandomState,
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("capacity", &self.capacity).field("free", &self.free).finish_non_exhaustive()
    }
}

/// Counters of such places: 128 KiB, and one chance in 16,384 to share one with a certain other partner.
const SHARES: usize = 1 << 14;

impl Slots {
    /// `capacity` places, none of them to be had while `max_bytes` or more are waiting.
    pub fn new(capacity: usize, max_bytes: usize, when_full: WhenFull) -> Self {
        let places = Places {
            capacity,
            closed: AtomicBool::new(false),
            free: AtomicUsize::new(capacity),
            bytes: AtomicUsize::new(0),
            max_bytes,
            taken: (0..SHARES).map(|_| AtomicUsize::new(0)).collect(),
            max_share: (capacity / 4).max(1),
            hash: RandomState::new(),
        };
        Slots { places: Arc::new(places), when_full }
    }

    /// A place for the record of what is over, such as a denial; held until it is dropped. `None` when there is none and
    /// that means denial.
    pub fn reserve(&self) -> Option<Slot> {
        match (self.places.take(), self.when_full) {
            (true, _) => Some(Slot { places: Some(self.places.clone()), share: None, bytes: 0 }),
            (false, WhenFull::Count) => Some(Slot { places: None, share: None, bytes: 0 }),
            (false, WhenFull::Deny) => None,
        }
    }

    /// A place for a request of this partner that goes on. `None` also when the partner has as many as it may have, and
    /// while it is [closed](Slots::close), whatever is to happen when the sink is down.
    pub fn reserve_for(&self, partner: &PartnerId) -> Option<Slot> {
        if self.places.closed.load(Ordering::Acquire) {
            return None;
        }
        let share = self.places.begin(partner)?;
        let Some(mut slot) = self.reserve() else {
            self.places.end(Some(share));
            return None;
        };
        if slot.is_real() {
            slot.share = Some(share);
        } else {
            self.places.end(Some(share));
        }
        Some(slot)
    }

    /// Whether nothing is to be allowed because a record of it could not be kept for all who are to have it. What is denied
    /// goes on being recorded.
    pub fn close(&self, closed: bool) {
        self.places.closed.store(closed, Ordering::Release);
    }

    pub fn free(&self) -> usize {
        self.places.free.load(Ordering::Acquire)
    }

    /// Whether less than half of the places and bytes are taken: what can wait does so otherwise.
    pub fn is_quiet(&self) -> bool {
        let places = &self.places;
        self.free() >= places.capacity.div_ceil(2) && self.waiting_bytes() < places.max_bytes.div_ceil(2)
    }

    /// Bytes of the records that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.places.bytes.load(Ordering::Acquire)
    }
}

impl Places {
    fn take(&self) -> bool {
        self.bytes.load(Ordering::Acquire) < self.max_bytes
            && self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok()
    }

    /// Counts a request that begins, and returns where it is counted.
    fn begin(&self, partner: &PartnerId) -> Option<usize> {
        let share = usize::try_from(self.hash.hash_one(partner)).unwrap_or(usize::MAX) % SHARES;
        let below = |n: usize| (n < self.max_share).then_some(n + 1);
        self.taken.get(share)?.fetch_update(Ordering::AcqRel, Ordering::Acquire, below).ok()?;
        Some(share)
    }

    fn end(&self, share: Option<usize>) {
        if let Some(taken) = share.and_then(|share| self.taken.get(share)) {
            taken.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The place of one record.
#[derive(Debug)]
pub struct Slot {
    places: Option<Arc<Places>>,
    /// The counter of its partner, until the request has ended.
    share: Option<usize>,
    bytes: usize,
}

impl Slot {
    /// False when the record that belongs here is to be counted as lost.
    pub fn is_real(&self) -> bool {
        self.places.is_some()
    }

    /// The request has ended; its record is there and has this size.
    pub fn fill(&mut self, bytes: usize) {
        if let Some(places) = &self.places {
            places.end(self.share.take());
            self.bytes += bytes;
            places.bytes.fetch_add(bytes, Ordering::AcqRel);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(places) = &self.places {
            places.end(self.share.take());
            places.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
            places.free.fetch_add(1, Ordering::AcqRel);
        }
    }
}
