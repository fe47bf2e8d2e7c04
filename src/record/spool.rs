//! Records that wait on the disk for somebody elsewhere, within a bound, and over restarts.
//!
//! In: lines, from the thread that writes records. Out: the same in their order, until they are said to have arrived. What
//! is over the bound is dropped, oldest first, and counted. Must never: hold up the other sinks; forget what has not
//! arrived.
//!
//! A spool is a folder of files `N.jsonl`, each taken from the front once all of it has arrived, and a file that says how
//! far the first of them has.

use super::event::{is_decision, is_denial};
use super::metrics::Metrics;
use crate::decision::{Slots, WhenFull};
use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Largest file, and the smallest part of the bound that is dropped at once.
const MAX_SEGMENT: u64 = 4 << 20;
const CURSOR: &str = "cursor";
const NAME: &str = "upload";

/// Where records wait, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolOptions {
    pub folder: PathBuf,
    /// Bytes.
    pub max_size: u64,
    /// With [`WhenFull::Deny`] nothing is allowed while less than an eighth is free, and what is denied then is dropped:
    /// that eighth is for requests that were allowed before.
    pub when_full: WhenFull,
}

/// See the module.
pub struct Spool {
    options: SpoolOptions,
    state: Mutex<State>,
    came: Notify,
    slots: Slots,
    metrics: Arc<Metrics>,
}

struct State {
    segments: VecDeque<Segment>,
    /// Of the last segment, while it is written to.
    file: Option<File>,
    next: u64,
    /// Bytes of the first segment that have arrived.
    position: u64,
    cursor: File,
    failing: bool,
}

struct Segment {
    number: u64,
    size: u64,
}

/// Lines that wait, from the front.
#[derive(Debug, PartialEq, Eq)]
pub struct Waiting {
    pub lines: Vec<u8>,
    segment: u64,
    end: u64,
}

impl Spool {
    /// Goes on with what is in the folder.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub(super) fn open(options: SpoolOptions, slots: Slots, metrics: Arc<Metrics>) -> io::Result<Spool> {
        DirBuilder::new().recursive(true).mode(0o700).create(&options.folder)?;
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&options.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            numbers.extend(name.strip_suffix(".jsonl").and_then(|n| n.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        let mut segments = VecDeque::new();
        for number in &numbers {
            let path = segment_path(&options.folder, *number);
            let text = std::fs::read(&path)?;
            let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            if whole < text.len() {
                // A kill has cut it off.
                metrics.record_sink_dropped.with_label_values(&[NAME]).inc();
                OpenOptions::new().write(true).open(&path)?.set_len(whole as u64)?;
            }
            segments.push_back(Segment { number: *number, size: whole as u64 });
        }
        let cursor = options.folder.join(CURSOR);
        let position = std::fs::read_to_string(&cursor).ok().and_then(|text| {
            let (number, at) = text.trim().split_once(' ')?;
            let front: &Segment = segments.front()?;
            (number.parse() == Ok(front.number)).then(|| at.parse::<u64>().ok())?.filter(|at| *at <= front.size)
        });
        let state = State {
            next: numbers.last().map_or(1, |last| last + 1),
            segments,
            file: None,
            position: position.unwrap_or(0),
            cursor: OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(cursor)?,
            failing: false,
        };
        metrics.record_sink_dropped.with_label_values(&[NAME]).inc_by(0);
        metrics.record_sink_errors.with_label_values(&[NAME]).inc_by(0);
        let spool = Spool { options, state: Mutex::new(state), came: Notify::new(), slots, metrics };
        spool.told(&spool.state());
        Ok(spool)
    }

    /// Puts the decisions among these lines behind all others.
    pub(super) fn append(&self, lines: &[u8]) {
        let mut bytes = Vec::new();
        let (mut count, mut dropped) = (0_u64, 0_u64);
        let mut state = self.state();
        let closed = self.options.when_full == WhenFull::Deny && self.is_nearly_full(&state);
        for line in lines.split_inclusive(|b| *b == b'\n').filter(|line| is_decision(line)) {
            if closed && is_denial(line) {
                dropped += 1;
            } else {
                bytes.extend_from_slice(line);
                count += 1;
            }
        }
        self.metrics.record_sink_dropped.with_label_values(&[NAME]).inc_by(dropped);
        if count == 0 {
            return;
        }
        while !state.segments.is_empty() && state.used() + bytes.len() as u64 > self.options.max_size {
            self.drop_oldest(&mut state);
        }
        match self.write(&mut state, &bytes) {
            Ok(()) => state.failing = false,
            Err(e) => {
                self.metrics.record_sink_errors.with_label_values(&[NAME]).inc();
                self.metrics.record_sink_dropped.with_label_values(&[NAME]).inc_by(count);
                if !state.failing {
                    tracing::error!(error = %e, "records cannot be kept for the upload: they are dropped");
                }
                state.failing = true;
            }
        }
        self.told(&state);
        drop(state);
        self.came.notify_one();
    }

    /// Waits until something does.
    pub async fn wait(&self) {
        loop {
            let came = self.came.notified();
            if self.used() > 0 {
                return;
            }
            came.await;
        }
    }

    /// Bytes that wait.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Whole lines from the front, about `max` bytes of them and at least one. `None` when nothing waits.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn next(&self, max: usize) -> io::Result<Option<Waiting>> {
        let mut state = self.state();
        loop {
            let Some(front) = state.segments.front() else { return Ok(None) };
            let (number, left) = (front.number, front.size - state.position.min(front.size));
            if left == 0 {
                if state.segments.len() == 1 {
                    return Ok(None);
                }
                self.remove_front(&mut state);
                continue;
            }
            let file = File::open(segment_path(&self.options.folder, number))?;
            let mut want = u64::try_from(max).unwrap_or(u64::MAX).max(1);
            loop {
                let mut lines = vec![0; usize::try_from(want.min(left)).unwrap_or(usize::MAX)];
                file.read_exact_at(&mut lines, state.position)?;
                if let Some(end) = lines.iter().rposition(|b| *b == b'\n') {
                    lines.truncate(end + 1);
                    let end = state.position + lines.len() as u64;
                    return Ok(Some(Waiting { lines, segment: number, end }));
                }
                if want >= left {
                    // Only whole lines are written: somebody has been at it.
                    self.drop_oldest(&mut state);
                    break;
                }
                want = want.saturating_mul(2);
            }
        }
    }

    /// They have arrived.
    pub fn arrived(&self, waiting: &Waiting) {
        let mut state = self.state();
        // It may have been dropped meanwhile.
        let Some(front) = state.segments.front().filter(|front| front.number == waiting.segment) else { return };
        let whole = waiting.end >= front.size && state.segments.len() > 1;
        state.position = waiting.end;
        if whole {
            self.remove_front(&mut state);
        }
        let (number, position) = (state.segments.front().map_or(0, |front| front.number), state.position);
        if let Err(e) = state.cursor.write_all_at(format!("{number:020} {position:020}\n").as_bytes(), 0) {
            tracing::error!(error = %e, "how far the upload has come cannot be kept: after a restart some is sent again");
        }
        self.told(&state);
    }

    /// What waits at the front is dropped: nobody takes it.
    pub fn refuse(&self, waiting: &Waiting) {
        let lines = waiting.lines.iter().filter(|b| **b == b'\n').count();
        self.metrics.record_sink_dropped.with_label_values(&[NAME]).inc_by(lines as u64);
        self.arrived(waiting);
    }

    fn write(&self, state: &mut State, bytes: &[u8]) -> io::Result<()> {
        let segment = MAX_SEGMENT.min(self.options.max_size / 8);
        if state.file.is_none() || state.segments.back().is_none_or(|last| last.size >= segment) {
            let path = segment_path(&self.options.folder, state.next);
            state.file = Some(OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?);
            state.segments.push_back(Segment { number: state.next, size: 0 });
            state.next += 1;
        }
        let (Some(file), Some(last)) = (&mut state.file, state.segments.back_mut()) else { return Ok(()) };
        if let Err(e) = file.write_all(bytes) {
            // What there is of it goes again.
            file.set_len(last.size)?;
            return Err(e);
        }
        last.size += bytes.len() as u64;
        Ok(())
    }

    fn drop_oldest(&self, state: &mut State) {
        let Some(front) = state.segments.front() else { return };
        let path = segment_path(&self.options.folder, front.number);
        let text = std::fs::read(path).unwrap_or_default();
        let from = usize::try_from(state.position).unwrap_or(usize::MAX);
        let lines = text.get(from..).unwrap_or_default().iter().filter(|b| **b == b'\n').count();
        tracing::error!(records = lines, "the spool of the upload is full: the oldest records in it are dropped");
        self.metrics.record_sink_dropped.with_label_values(&[NAME]).inc_by(lines as u64);
        self.remove_front(state);
    }

    fn remove_front(&self, state: &mut State) {
        let Some(front) = state.segments.pop_front() else { return };
        if state.segments.is_empty() {
            state.file = None;
        }
        state.position = 0;
        if let Err(e) = std::fs::remove_file(segment_path(&self.options.folder, front.number)) {
            tracing::warn!(error = %e, "a file of the spool cannot be removed");
        }
    }

    /// Says how full it is.
    fn told(&self, state: &State) {
        let used = state.used();
        self.metrics.record_spool_bytes.set(i64::try_from(used).unwrap_or(i64::MAX));
        let full = self.is_nearly_full(state) || state.failing;
        self.slots.close(full && self.options.when_full == WhenFull::Deny);
    }

    fn is_nearly_full(&self, state: &State) -> bool {
        state.used() > self.options.max_size / 8 * 7
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn used(&self) -> u64 {
        self.segments.iter().map(|s| s.size).sum::<u64>() - self.position
    }
}

/// Longest wait between two tries, and the first.
pub fn backoff(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(30);
    FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST)
}

fn segment_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}.jsonl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path, max_size: u64, when_full: WhenFull) -> (Spool, Slots, Arc<Metrics>) {
        let slots = Slots::new(100, 1 << 20, WhenFull::Deny);
        let metrics = Arc::new(Metrics::new(100, false).unwrap());
        let options = SpoolOptions { folder: folder.to_owned(), max_size, when_full };
        (Spool::open(options, slots.clone(), metrics.clone()).unwrap(), slots, metrics)
    }

    fn line(n: usize) -> String {
        format!("{{\"n\":{n:04},\"kind\":\"request\"}}\n")
    }

    fn dropped(metrics: &Metrics) -> u64 {
        metrics.record_sink_dropped.with_label_values(&[NAME]).get()
    }

    fn all(spool: &Spool) -> String {
        let mut out = Vec::new();
        while let Some(waiting) = spool.next(100).unwrap() {
            out.extend_from_slice(&waiting.lines);
            spool.arrived(&waiting);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_has_not_arrived_is_there_after_a_restart_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, ..) = open(folder.path(), 1 << 20, WhenFull::Count);
        spool.append((line(1) + "{\"kind\":\"history\"}\n" + &line(2) + &line(3)).as_bytes());
        let first = spool.next(line(1).len() + 5).unwrap().unwrap();
        assert_eq!(first.lines, line(1).as_bytes());
        assert_eq!(spool.next(1).unwrap().unwrap(), first, "it waits until it has arrived");
        spool.arrived(&first);
        drop(spool);
        // A kill in the middle of a line.
        let segment = segment_path(folder.path(), 1);
        OpenOptions::new().append(true).open(segment).unwrap().write_all(b"{\"n\":").unwrap();
        let (spool, _, metrics) = open(folder.path(), 1 << 20, WhenFull::Count);
        assert_eq!(dropped(&metrics), 1);
        spool.append(line(4).as_bytes());
        assert_eq!(all(&spool), line(2) + &line(3) + &line(4));
        assert_eq!(spool.used(), 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "the last segment and the cursor");
    }

    #[test]
    fn over_the_bound_the_oldest_is_dropped_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _, metrics) = open(folder.path(), 1_000, WhenFull::Count);
        for n in 0..200 {
            spool.append(line(n).as_bytes());
            assert!(spool.used() <= 1_000);
        }
        let left = all(&spool);
        let kept = left.lines().count();
        assert!(kept >= 20, "{kept}");
        assert_eq!(left, (200 - kept..200).map(line).collect::<String>());
        assert_eq!(dropped(&metrics) as usize, 200 - kept);
    }

    #[test]
    fn full_spool_closes_the_places_of_what_would_be_allowed_until_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, slots, metrics) = open(folder.path(), 1_000, WhenFull::Deny);
        let partner = crate::name::PartnerId::parse("acme").unwrap();
        assert!(slots.reserve_for(&partner).is_some());
        for n in 0..33 {
            spool.append(line(n).as_bytes());
        }
        assert!(slots.reserve_for(&partner).is_none());
        assert!(slots.reserve().is_some(), "a denial is still recorded");
        // However many denials come, they take no room from what was allowed.
        for _ in 0..100 {
            spool.append(b"{\"kind\":\"request\",\"input\":{},\"result\":\"deny\",\"reason\":\"x\"}\n");
        }
        assert_eq!(dropped(&metrics), 100);
        assert!(spool.used() < 1_000);
        // Full from the start, too.
        drop(spool);
        let (spool, slots, _) = open(folder.path(), 1_000, WhenFull::Deny);
        assert!(slots.reserve_for(&partner).is_none());
        assert_eq!(all(&spool), (0..33).map(line).collect::<String>());
        assert!(slots.reserve_for(&partner).is_some());
    }
}
