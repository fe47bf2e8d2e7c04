//! The one source of wall time. It never runs back within the life of the process, so that a right that has
//! expired stays expired when somebody sets the system clock back.
//!
//! In: the system's wall clock and its monotonic clock. Out: [`UnixNanos`]. Must never: return a smaller value than
//! it returned before. There is no switch that tests could use; they step the system clock from outside.

use jiff::tz::TimeZone;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct UnixNanos(pub i64);

impl UnixNanos {
    pub fn saturating_add(self, d: Duration) -> Self {
        UnixNanos(self.0.saturating_add(i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// Whole seconds since 1970, rounded down; 0 before 1970.
    pub fn seconds(self) -> u64 {
        u64::try_from(self.0.div_euclid(1_000_000_000)).unwrap_or(0)
    }
}

impl std::fmt::Display for UnixNanos {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::document::format_time(self.0))
    }
}

/// A time zone of the IANA database, looked up once: the lookup may read files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    name: Arc<str>,
    rules: TimeZone,
}

impl Zone {
    /// # Errors
    /// Unknown names.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rules = crate::document::parse_zone(text)?;
        Ok(Zone { name: rules.iana_name().unwrap_or(text).into(), rules })
    }

    /// The name as the database spells it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What local time is there.
    pub fn rules(&self) -> &TimeZone {
        &self.rules
    }
}

impl Serialize for Zone {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Zone::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A step of the wall clock against the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Forward(Duration),
    Back(Duration),
}

/// Wall time with a high-water mark.
#[derive(Debug)]
pub struct Clock {
    high_water: AtomicI64,
    /// Nanoseconds added to the system's time: what it has lost in steps back.
    correction: AtomicI64,
    /// Monotonic and wall time at the last step.
    reference: Mutex<(Instant, i64)>,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    pub fn new() -> Self {
        let wall = system_nanos();
        Clock {
            high_water: AtomicI64::new(wall),
            correction: AtomicI64::new(0),
            reference: Mutex::new((Instant::now(), wall)),
        }
    }

    /// The time now, never before a time that was returned earlier. After a step back, time stands still until
    /// [`Clock::check_step`] has seen the step, and then goes on from where it was.
    pub fn now(&self) -> UnixNanos {
        let now = system_nanos().saturating_add(self.correction.load(Ordering::Acquire));
        UnixNanos(self.high_water.fetch_max(now, Ordering::AcqRel).max(now))
    }

    /// Compares the wall clock with the monotonic clock since the last step; to be called about once a second.
    /// A difference above `tolerance` is a step, and is returned so that it can be logged and counted. Smaller ones add
    /// up, so that nobody gains time by many of them; what slows both clocks down makes none.
    pub fn check_step(&self, tolerance: Duration) -> Option<Step> {
        self.seen(Instant::now(), system_nanos(), tolerance)
    }

    fn seen(&self, instant: Instant, wall: i64, tolerance: Duration) -> Option<Step> {
        let Ok(mut reference) = self.reference.lock() else { return None };
        let elapsed = i64::try_from(instant.duration_since(reference.0).as_nanos()).unwrap_or(i64::MAX);
        let difference = wall.saturating_sub(reference.1.saturating_add(elapsed));
        let size = Duration::from_nanos(difference.unsigned_abs());
        if size <= tolerance {
            return None;
        }
        *reference = (instant, wall);
        // A step back is added to what we correct; a step forward first takes back earlier corrections.
        let correction = self.correction.load(Ordering::Acquire).saturating_sub(difference).max(0);
        self.correction.store(correction, Ordering::Release);
        Some(if difference > 0 { Step::Forward(size) } else { Step::Back(size) })
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.now().seconds())))
    }
}

fn system_nanos() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(d) => i64::try_from(d.as_nanos()).unwrap_or(i64::MAX),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Duration = Duration::from_millis(500);
    const SECOND: i64 = 1_000_000_000;

    /// What is seen of a wall clock that is so many milliseconds off after each second.
    fn seen(off: &[i64]) -> (Vec<Option<Step>>, i64) {
        let clock = Clock::new();
        let (start, wall) = *clock.reference.lock().unwrap();
        let steps = (1..).zip(off).map(|(n, off)| {
            clock.seen(
                start + Duration::from_secs(n),
                wall + i64::try_from(n).unwrap() * SECOND + off * 1_000_000,
                TOLERANCE,
            )
        });
        let steps = steps.collect();
        (steps, clock.correction.load(Ordering::Acquire) / 1_000_000)
    }

    #[test]
    fn small_steps_back_add_up_to_one_that_is_made_good() {
        let back = |ms| Some(Step::Back(Duration::from_millis(ms)));
        assert_eq!(seen(&[0, -400, -800, -1200, -1600, -2000]).0, [None, None, back(800), None, back(800), None]);
        assert_eq!(seen(&[0, -400, -800, -1200, -1600]).1, 1600);
        assert_eq!(seen(&[-400, 0, -400, 0]), (vec![None; 4], 0));
    }

    #[test]
    fn step_forward_takes_back_what_was_made_good() {
        let (steps, correction) = seen(&[-3000, -3000, 0, 2000]);
        let forward = |ms| Some(Step::Forward(Duration::from_millis(ms)));
        assert_eq!(steps, [Some(Step::Back(Duration::from_secs(3))), None, forward(3000), forward(2000)]);
        assert_eq!(correction, 0);
    }
}
