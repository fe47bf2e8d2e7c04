//! A set of serial numbers that is built once and asked often.

use crate::identity::SerialKey;

/// Serials in about one bucket: with a start of four bytes for each bucket, an entry takes 16.5 bytes, 17 at most.
const IN_A_BUCKET: usize = 8;

/// Keys are the outcome of a hash, so they fall evenly into buckets by their first bits, and a look-up compares about
/// three of them. A CA that searched for serials to fill one bucket would get a binary search in its own list.
pub(super) struct SerialSet {
    /// Sorted.
    keys: Box<[SerialKey]>,
    /// Where in `keys` each bucket starts, and at the end where the last one ends.
    starts: Box<[u32]>,
    /// Of a key, to the right, for its bucket.
    shift: u32,
}

impl SerialSet {
    /// Sorts in place: beside `keys` only the buckets are allocated. Doubles are one.
    pub fn new(mut keys: Vec<SerialKey>) -> Self {
        keys.sort_unstable();
        keys.dedup();
        let buckets = (keys.len() / IN_A_BUCKET).next_power_of_two().clamp(2, 1 << 24);
        let shift = 128 - buckets.trailing_zeros();
        let mut starts = Vec::with_capacity(buckets + 1);
        for (at, key) in keys.iter().enumerate() {
            let bucket = bucket(*key, shift);
            while starts.len() <= bucket {
                starts.push(u32::try_from(at).unwrap_or(u32::MAX));
            }
        }
        starts.resize(buckets + 1, u32::try_from(keys.len()).unwrap_or(u32::MAX));
        SerialSet { keys: keys.into_boxed_slice(), starts: starts.into_boxed_slice(), shift }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn contains(&self, key: SerialKey) -> bool {
        let at = bucket(key, self.shift);
        let start = |at: usize| self.starts.get(at).map(|start| *start as usize);
        let bucket = match (start(at), start(at + 1)) {
            (Some(from), Some(to)) => self.keys.get(from..to),
            _ => None,
        };
        // Without the bucket, which cannot be, the answer is still right.
        bucket.unwrap_or(&self.keys).binary_search(&key).is_ok()
    }
}

fn bucket(key: SerialKey, shift: u32) -> usize {
    usize::try_from(key.0 >> shift).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn what_was_put_in_is_found_and_nothing_else(
            keys in prop::collection::vec(prop_oneof![any::<u128>(), 0u128..200, (u128::MAX - 200)..=u128::MAX], 0..400),
            others in prop::collection::vec(prop_oneof![any::<u128>(), 0u128..200, (u128::MAX - 200)..=u128::MAX], 0..400),
        ) {
            let set = SerialSet::new(keys.iter().copied().map(SerialKey).collect());
            let known: HashSet<u128> = keys.into_iter().collect();
            prop_assert_eq!(set.len(), known.len());
            for key in known.iter().chain(&others) {
                prop_assert_eq!(set.contains(SerialKey(*key)), known.contains(key));
            }
        }
    }

    #[test]
    fn an_entry_takes_17_bytes_at_most() {
        for n in [1_000u64, 9_000, 131_072, 200_000] {
            let keys = (0..n).map(|n| SerialKey::of_integer(&n.to_be_bytes())).collect();
            let set = SerialSet::new(keys);
            let bytes = size_of_val(&*set.keys) + size_of_val(&*set.starts);
            assert!(bytes as u64 <= n * 17 + 64, "{n}: {bytes}");
            assert_eq!(set.len() as u64, n);
        }
    }
}
