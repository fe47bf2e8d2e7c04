//! Handshakes per source and second, in a fixed amount of memory whatever the number of sources.
//!
//! A source is an IPv4 address or an IPv6 /64. Each is counted in one cell of each of two tables, chosen by two hashes
//! with keys of this process, and has used what the *smaller* of its two counts says (a count-min sketch). So a count
//! may be too high, and too low only by as many threads as count at this moment: a source that shares a cell is refused for another's flood only when *both* its
//! cells are hot. To heat a cell, an attacker must send more than the limit through it in that second, and cannot know
//! whose it is: with 4,096 cells a table and the limit at 100, heating a hundredth of each table takes some 4,000
//! connections a second, and then one source in 10,000 is refused. Whoever can do more fills
//! [`super::ListenLimits::max_handshakes`] anyway. Counts begin anew with every second of the process, so up to twice
//! the limit may fall into a second that lies across two of them.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// In each table; 64 KiB in all.
const CELLS: usize = 4096;

/// See the module.
pub struct SourceRate {
    tables: [Table; 2],
    began: Instant,
}

struct Table {
    key: RandomState,
    /// The second in the upper half, its count in the lower.
    cells: Vec<AtomicU64>,
}

impl SourceRate {
    #[expect(clippy::new_without_default, reason = "it begins with its process")]
    pub fn new() -> Self {
        let table = || Table { key: RandomState::new(), cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect() };
        SourceRate { tables: [table(), table()], began: Instant::now() }
    }

    /// Counts one handshake; whether it is among the first `limit` of this source in this second. 0 is no limit.
    pub fn admit(&self, source: IpAddr, limit: u32, now: Instant) -> bool {
        if limit == 0 {
            return true;
        }
        let second = u32::try_from(now.saturating_duration_since(self.began).as_secs()).unwrap_or(u32::MAX);
        let source = source_of(source);
        self.tables.iter().map(|table| table.count(source, second)).min().is_none_or(|count| count <= limit)
    }
}

impl Table {
    /// Counts one more; how many that makes.
    fn count(&self, source: u128, second: u32) -> u32 {
        let at = usize::try_from(self.key.hash_one(source) % CELLS as u64).unwrap_or_default();
        let Some(cell) = self.cells.get(at) else { return 0 };
        let next = |old: u64| {
            let (then, count) = ((old >> 32) as u32, old as u32);
            // Another thread may be ahead of this one by a second.
            let count = if then >= second { count.saturating_add(1) } else { 1 };
            u64::from(then.max(second)) << 32 | u64::from(count)
        };
        let old = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(next(old)));
        next(old.unwrap_or_else(|old| old)) as u32
    }
}

/// What counts as one: an IPv4 address, or the network that an IPv6 host chooses its addresses from.
fn source_of(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        // With a bit that no IPv4 address has.
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64 | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn source_has_its_limit_in_each_second() {
        let rate = SourceRate::new();
        let at = |ms| rate.began + Duration::from_millis(ms);
        let admitted = |ms| (0..10).filter(|_| rate.admit(ip("198.51.100.7"), 3, at(ms))).count();
        assert_eq!([admitted(0), admitted(999), admitted(1000), admitted(1001), admitted(7000)], [3, 0, 3, 0, 3]);
    }

    #[test]
    fn no_limit_is_none() {
        let rate = SourceRate::new();
        assert!((0..100_000).all(|_| rate.admit(ip("198.51.100.7"), 0, rate.began)));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        let rate = SourceRate::new();
        assert!(rate.admit(ip("2001:db8:0:1::1"), 1, rate.began));
        assert!(!rate.admit(ip("2001:db8:0:1:ffff::2"), 1, rate.began));
        assert!(rate.admit(ip("2001:db8:0:2::1"), 1, rate.began));
        assert!(rate.admit(ip("198.51.100.7"), 1, rate.began));
        assert!(!rate.admit(ip("::ffff:198.51.100.7"), 1, rate.began), "IPv4, however it is written");
    }

    /// The bound that the module promises: 40 sources flood, ten thousand others are asked for.
    #[test]
    fn flood_of_some_sources_refuses_hardly_any_other() {
        let rate = SourceRate::new();
        for n in 0..40u32 {
            for _ in 0..1000 {
                rate.admit(Ipv4Addr::from(0x0a00_0000 + n).into(), 100, rate.began);
            }
        }
        let refused =
            (0..10_000u32).filter(|n| !rate.admit(Ipv4Addr::from(0xc633_0000 + n).into(), 100, rate.began)).count();
        // One is expected; thirty never.
        assert!(refused < 30, "{refused}");
        assert!(!rate.admit(ip("10.0.0.1"), 100, rate.began));
    }

    #[test]
    fn threads_together_have_one_limit() {
        let rate = SourceRate::new();
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        admitted.fetch_add(u64::from(rate.admit(ip("::1"), 500, rate.began)), Ordering::Relaxed);
                    }
                });
            }
        });
        // One that is between its two tables may let another one past it.
        let admitted = admitted.load(Ordering::Relaxed);
        assert!((500..=503).contains(&admitted), "{admitted}");
    }
}
