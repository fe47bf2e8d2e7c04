//! One file or URL: what is known of it, when it is asked again, and whether it fails.

use crate::clock::UnixNanos;
use crate::disk::Stamp;
use crate::partner::CrlSource;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// After the first failure; doubled with each.
const FIRST_RETRY: Duration = Duration::from_secs(10);
/// No list is asked for more often, however soon it ends.
pub(super) const SHORTEST: Duration = Duration::from_secs(10);
/// The same for places that only certificates have named: a CA must not keep the gateway busy.
pub(super) const SHORTEST_POINT: Duration = Duration::from_secs(300);

#[derive(Clone)]
pub(super) struct Item {
    /// The source as the anchor names it: a folder, for a file in it.
    pub origin: CrlSource,
    /// Of a file, as it was read.
    pub stamp: Option<Stamp>,
    /// Of a file whose list is of the future: when to read it again though it has not changed.
    pub begins: Option<UnixNanos>,
    pub etag: Option<String>,
    pub modified: Option<String>,
    /// Of a URL.
    pub due: Instant,
    pub succeeded: Option<UnixNanos>,
    pub error: Option<String>,
    failures: u32,
}

impl Item {
    pub fn new(origin: CrlSource) -> Self {
        Item {
            origin,
            stamp: None,
            begins: None,
            etag: None,
            modified: None,
            due: Instant::now(),
            succeeded: None,
            error: None,
            failures: 0,
        }
    }

    /// Whether a file has to be read: it has changed, or what was refused as of the future is not any more.
    pub fn is_due(&self, stamp: Stamp, now: UnixNanos) -> bool {
        self.stamp != Some(stamp) || self.begins.is_some_and(|begins| now >= begins)
    }

    /// What makes a question conditional.
    pub fn label(&self) -> (Option<String>, Option<String>) {
        (self.etag.clone(), self.modified.clone())
    }

    pub fn well(&mut self, now: UnixNanos) {
        self.succeeded = Some(now);
        self.error = None;
        self.failures = 0;
    }

    /// Returns whether that is news.
    pub fn ill(&mut self, reason: &str) -> bool {
        // What was refused is asked for again, whole.
        (self.etag, self.modified) = (None, None);
        self.failures = self.failures.saturating_add(1);
        let news = self.error.as_deref() != Some(reason);
        self.error = Some(reason.to_owned());
        news
    }

    /// Sets when the URL is asked next: every `refresh`, more often towards the end of a list, and soon after a failure,
    /// each with some chance in it, so that gateways and anchors do not ask all at once. Never sooner than `shortest`
    /// when all is well.
    pub fn again(&mut self, refresh: Duration, shortest: Duration, next_update: Option<UnixNanos>, now: UnixNanos) {
        let left = next_update.map_or(i64::MAX, |next| next.0.saturating_sub(now.0));
        let half = Duration::from_nanos(u64::try_from(left / 2).unwrap_or(0));
        let well = refresh.min(half.max(shortest));
        let least = if self.failures > 0 { Duration::ZERO } else { shortest.min(refresh) };
        self.due = Instant::now() + wait(self.failures, refresh, well).max(least);
    }
}

/// How long until a URL is asked again that has failed so often: `well` where it has not, and soon, doubled with each, up
/// to `refresh` where it has; with some chance in it, so that gateways do not ask all at once.
pub(super) fn wait(failures: u32, refresh: Duration, well: Duration) -> Duration {
    let wait = match failures.checked_sub(1) {
        Some(more) => FIRST_RETRY.saturating_mul(1 << more.min(16)).min(refresh),
        None => well,
    };
    let chance = RandomState::new().hash_one(0) % 41;
    let percent = 80 + u32::try_from(chance).unwrap_or(20);
    wait.saturating_mul(percent) / 100
}

/// The files of a folder that could be lists, sorted; hidden ones are not, since tools write there before they rename.
pub(super) fn files(folder: &Path, most: usize) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter(|e| !e.file_name().to_string_lossy().starts_with('.'))
        .map(|e| e.path())
        .filter(|path| path.is_file() && path.extension().is_some_and(|e| e == "crl" || e == "pem" || e == "der"))
        .collect();
    files.sort();
    files.truncate(most);
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_fails_is_asked_less_and_less_often_and_never_less_than_usual() {
        let mut item = Item::new(CrlSource::Url("http://crl.example/a".into()));
        let refresh = Duration::from_secs(900);
        let mut last = Duration::ZERO;
        for n in 0..12 {
            assert!(item.ill("broken") == (n == 0), "the same failure is no news");
            item.again(refresh, SHORTEST, None, UnixNanos(0));
            let wait = item.due.saturating_duration_since(Instant::now());
            assert!(wait <= refresh.mul_f64(1.21), "{n}: {wait:?}");
            assert!(wait >= last.mul_f64(0.6), "{n}: {wait:?} after {last:?}");
            last = wait;
        }
        item.again(Duration::from_secs(1), SHORTEST, None, UnixNanos(0));
        let wait = item.due.saturating_duration_since(Instant::now());
        assert!(wait < Duration::from_secs(2), "no less often than when all is well: {wait:?}");
        item.well(UnixNanos(0));
        item.again(refresh, SHORTEST, Some(UnixNanos(100_000_000_000)), UnixNanos(0));
        let wait = item.due.saturating_duration_since(Instant::now());
        assert!((39..=61).contains(&wait.as_secs()), "half of what is left: {wait:?}");
    }
}
