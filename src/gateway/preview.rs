//! The candidate on live traffic: what another policy would have said to what was decided.
//!
//! In: decisions, after they were made. Out: counts by partner, operation and reason, and a record of each difference.
//! Must never: change a response or keep one waiting; take more of a processor than the config gives it; call what was
//! not judged the same.

use super::inflight::Connection;
use super::open::Stream;
use crate::clock::UnixNanos;
use crate::decision::{self, Situation};
use crate::policy;
use crate::reason::Reason;
use crate::record::replay::{Change, Examples, compared};
use crate::record::{CandidateEntry, Entry, PreviewOutcome, Recorder};
use crate::snapshot::{Candidate, Snapshot};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Decisions that may wait to be looked at.
const WAITING: usize = 1024;
/// Changes that are told apart; what is over that is only counted.
const MOST: usize = 10_000;
/// The thread rests once it owes this much.
const NAP: Duration = Duration::from_millis(5);
/// Naps without a decision after which it waits to be woken.
const PATIENCE: u32 = 200;

/// A decision that policy had a say in.
struct Decided {
    snapshot: Arc<Snapshot>,
    connection: Arc<Connection>,
    stream: Arc<Stream>,
    /// The first reason of the denial; nothing where it was allowed.
    before: Option<Reason>,
}

/// What has been seen of one candidate beside one policy.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Revisions of the policy that decides, and of the candidate.
    pub of: Option<(Arc<str>, Arc<str>)>,
    /// When it was begun.
    pub since: UnixNanos,
    /// When the last snapshot that it is of was built.
    built: UnixNanos,
    pub same: u64,
    pub changes: BTreeMap<Change, Examples>,
    /// Changes that are in none of these.
    pub untold: u64,
    /// Decisions that the candidate could not make within its limits.
    pub failed: u64,
    /// Decisions that there was no time left for.
    pub skipped: u64,
}

/// What requests and the thread share. No request waits for the tally.
#[derive(Default)]
struct Shared {
    tally: Mutex<Tally>,
    /// Since the tally was begun.
    skipped: AtomicU64,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what became of a decision on a snapshot.
    fn note(&self, snapshot: &Snapshot, candidate: &Arc<str>, now: UnixNanos, note: impl FnOnce(&mut Tally)) {
        let mut tally = self.tally();
        if !tally.is_of(snapshot, candidate) {
            if snapshot.built < tally.built {
                // Of before: it is told nothing more.
                return;
            }
            let of = Some((snapshot.revision.policy.clone(), candidate.clone()));
            *tally = Tally { of, since: now, ..Tally::default() };
            self.skipped.store(0, Ordering::Relaxed);
        }
        tally.built = tally.built.max(snapshot.built);
        note(&mut tally);
    }
}

impl Tally {
    fn is_of(&self, snapshot: &Snapshot, candidate: &Arc<str>) -> bool {
        self.of.as_ref().is_some_and(|(policy, of)| *policy == snapshot.revision.policy && of == candidate)
    }
}

/// See the module.
pub struct Preview {
    waiting: SyncSender<Decided>,
    shared: Arc<Shared>,
    recorder: Recorder,
}

/// Whether a decision is one of those that are looked at: always the same answer for the same one.
fn is_sampled(candidate: &Candidate, id: &str) -> bool {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(id);
    candidate.sample_percent >= 100 || hash % 100 < u64::from(candidate.sample_percent)
}

/// The first reason of a denial that policy gave; that a grant was revoked is added to what policy says.
fn first(reasons: &[Reason]) -> &Reason {
    reasons.iter().find(|reason| **reason != Reason::GrantRevoked).unwrap_or(&Reason::PolicyDenied)
}

fn is_late(reason: &Reason) -> bool {
    matches!(reason, Reason::PolicyTimeout | Reason::PolicyInstructionLimit)
}

impl Preview {
    /// Starts the thread that candidates are evaluated on.
    pub fn start(recorder: Recorder) -> Preview {
        let (waiting, next) = sync_channel(WAITING);
        let shared = Arc::new(Shared::default());
        let (seen, writes) = (shared.clone(), recorder.clone());
        // Without it, all is skipped and counted.
        if let Err(e) = std::thread::Builder::new()
            .name("candidate".into())
            .stack_size(policy::STACK)
            .spawn(move || work(&next, &seen, &writes))
        {
            tracing::error!(error = %e, "no thread for candidates of the policy");
        }
        Preview { waiting, shared, recorder }
    }

    /// What has been seen so far.
    pub fn seen(&self) -> Tally {
        let tally = self.shared.tally().clone();
        Tally { skipped: self.shared.skipped.load(Ordering::Relaxed), ..tally }
    }

    /// A decision was made. `denied` has its reasons.
    pub(super) fn offer(
        &self,
        snapshot: &Arc<Snapshot>,
        connection: &Arc<Connection>,
        stream: &Arc<Stream>,
        denied: Option<&[Reason]>,
    ) {
        let Some(candidate) = snapshot.candidate.as_deref() else { return };
        if candidate.to_preview().is_none() {
            return;
        }
        let before = denied.map(|reasons| first(reasons).clone());
        // What the floor denies no policy opens, and what took too long says nothing of the policy.
        if before.as_ref().is_some_and(|reason| !reason.is_of_policy() || is_late(reason))
            || !is_sampled(candidate, &stream.request.id)
        {
            return;
        }
        let (snapshot, connection, stream) = (snapshot.clone(), connection.clone(), stream.clone());
        let decided = Decided { snapshot, connection, stream, before };
        if self.waiting.try_send(decided).is_err() {
            self.recorder.metrics().previewed(PreviewOutcome::Skipped);
            self.shared.skipped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn work(next: &Receiver<Decided>, shared: &Shared, recorder: &Recorder) {
    let (mut owed, mut idle, mut said) = (Duration::ZERO, 0, false);
    loop {
        // As long as decisions come, it is looked for them: waking a thread would be for the one who decides to pay.
        let decided = match next.try_recv() {
            Ok(decided) => decided,
            Err(TryRecvError::Empty) if idle < PATIENCE => {
                idle += 1;
                std::thread::sleep(NAP);
                continue;
            }
            Err(_) => match next.recv() {
                Ok(decided) => decided,
                Err(_) => return,
            },
        };
        idle = 0;
        let began = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| look_at(&decided, shared, recorder))).is_err() {
            recorder.metrics().panics.inc();
            recorder.metrics().previewed(PreviewOutcome::Failed);
            let snapshot = &decided.snapshot;
            if let Some(policy) = snapshot.candidate.as_ref().and_then(|candidate| candidate.to_preview()) {
                shared.note(snapshot, policy.revision(), decided.stream.request.now, |tally| tally.failed += 1);
            }
            if !std::mem::replace(&mut said, true) {
                tracing::error!("the candidate of the policy has panicked: it would deny such a request");
            }
        }
        let share =
            decided.snapshot.candidate.as_ref().map_or(100, |candidate| u32::from(candidate.cpu_percent.max(1)));
        owed += began.elapsed() * 100_u32.saturating_sub(share) / share;
        // Before the thread rests: what it holds may be the last of a snapshot.
        drop(decided);
        if owed >= NAP {
            std::thread::sleep(std::mem::take(&mut owed));
        }
    }
}

fn look_at(decided: &Decided, shared: &Shared, recorder: &Recorder) {
    let Decided { snapshot, connection, stream, before } = decided;
    let Some(policy) = snapshot.candidate.as_ref().and_then(|candidate| candidate.to_preview()) else { return };
    let request = &stream.request;
    let began = Instant::now();
    let after = decision::decide_under(policy, snapshot, &connection.peer, request);
    let metrics = recorder.metrics();
    metrics.candidate_seconds.observe(began.elapsed().as_secs_f64());
    let would = after.as_ref().err().map(|(reasons, _)| first(reasons));
    if would.is_some_and(is_late) {
        metrics.previewed(PreviewOutcome::Failed);
        shared.note(snapshot, policy.revision(), request.now, |tally| tally.failed += 1);
        return;
    }
    let Some((kind, reason)) = compared(before.as_ref().map(Reason::as_str), would.map(Reason::as_str)) else {
        metrics.previewed(PreviewOutcome::Same);
        shared.note(snapshot, policy.revision(), request.now, |tally| tally.same += 1);
        return;
    };
    let situation = Situation::of(snapshot, &connection.peer, request);
    let partner = situation.partner().map_or("unknown", |(record, _)| record.partner.id.as_str());
    let operation = situation.operation.as_ref().map_or("-", |resolved| resolved.operation.id.as_str());
    metrics.previewed(PreviewOutcome::Change(kind, partner, operation));
    let change = Change { kind, partner: partner.to_owned(), operation: operation.to_owned(), reason };
    recorder.write_unreserved(&Entry::Candidate(CandidateEntry {
        time: request.now,
        decision: &request.id,
        change: &change,
        reason: before.as_ref(),
        would: after.as_ref().map_err(|(reasons, detail)| (reasons.as_slice(), detail.as_deref())),
        policy: policy.revision(),
        revision: &snapshot.revision,
    }));
    shared.note(snapshot, policy.revision(), request.now, |tally| {
        if tally.changes.len() < MOST || tally.changes.contains_key(&change) {
            tally.changes.entry(change).or_default().add(&request.id);
        } else {
            tally.untold += 1;
        }
    });
}
