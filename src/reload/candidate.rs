//! The candidate of the policy: what it would change, putting it in the place of the configured policy, and taking that back.
//!
//! In: what operators want. Out: a snapshot with another policy, published like any other change, and an event of it. Must
//! never: promote another candidate than the one that was looked at; keep a promotion against a configured policy that has
//! changed since.

use super::{ChangeError, Publisher, aside, interrupted, log_warnings, not_live};
use crate::config::Config;
use crate::document::Problems;
use crate::gateway::{Concerns, Tally};
use crate::history::{Actor, Cause, Way};
use crate::policy::{Policy, PolicySource, Promotion};
use crate::record::replay::{Change, Kind};
use crate::snapshot::{Snapshot, Sources};
use crate::store::{Commit, Promoted};
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// Digits by which a revision may be named.
const SHORTEST: usize = 8;
/// Largest policy that is promoted.
const MAX_BYTES: usize = 1024 * 1024;

/// The policy that decides, the candidate, and what that would change.
#[derive(Serialize, JsonSchema)]
pub struct CandidateState {
    /// The revision of the policy that decides.
    policy: String,
    /// Null where that is the configured one.
    promotion: Option<PromotionState>,
    /// Null where the config has none.
    candidate: Option<CandidateSeen>,
}

/// A candidate that decides in the place of the configured policy.
#[derive(Serialize, JsonSchema)]
pub struct PromotionState {
    revision: String,
    /// Of the configured policy.
    over: String,
    author: String,
    at: String,
    reason: String,
}

/// The candidate, and what it came to.
#[derive(Serialize, JsonSchema)]
struct CandidateSeen {
    /// Its folder.
    place: String,
    /// Null where something is wrong with it.
    revision: Option<String>,
    /// What is wrong with it.
    problems: Vec<String>,
    /// It is what decides already, so that there is nothing to preview.
    decides: bool,
    /// Its rules of `package system.log` are others than those that mask records now.
    masks_differ: bool,
    sample_percent: u8,
    cpu_percent: u8,
    /// Since when it has been evaluated beside this policy; null where it has not been yet.
    since: Option<String>,
    same: u64,
    newly_allowed: u64,
    newly_denied: u64,
    other_reason: u64,
    /// Decisions that it could not make within its limits.
    failed: u64,
    /// Decisions that there was no time left for.
    skipped: u64,
    changes: Vec<ChangeRow>,
    /// Decisions that change in a way of which `changes` has no row: it has 10,000.
    untold: u64,
}

/// Decisions that change in one way.
#[derive(Serialize, JsonSchema)]
struct ChangeRow {
    /// `newly-allowed`, `newly-denied` or `other-reason`.
    change: &'static str,
    count: u64,
    partner: String,
    operation: String,
    /// The first reason of the denial, or both where both are one.
    reason: String,
    /// Ids of decisions.
    examples: Vec<String>,
}

impl CandidateSeen {
    fn of(snapshot: &Snapshot, tally: Tally) -> Option<CandidateSeen> {
        let candidate = snapshot.candidate.as_ref()?;
        let revision = candidate.good().map(|policy| policy.revision().clone());
        // What was seen of another one says nothing of this.
        let of = revision.clone().map(|revision| (snapshot.revision.policy.clone(), revision));
        let tally = if tally.of == of && of.is_some() { tally } else { Tally::default() };
        let count = |kind: Kind| {
            let of_kind = tally.changes.iter().filter(|(change, _)| change.kind == kind);
            of_kind.map(|(_, examples)| examples.count).sum()
        };
        Some(CandidateSeen {
            place: candidate.place.clone(),
            revision: revision.map(|revision| revision.to_string()),
            problems: candidate.policy.as_ref().err().map(lines).unwrap_or_default(),
            decides: candidate.decides,
            masks_differ: candidate.good().is_some_and(|policy| masks(policy) != masks(&snapshot.policy)),
            sample_percent: candidate.sample_percent,
            cpu_percent: candidate.cpu_percent,
            since: tally.of.as_ref().map(|_| tally.since.to_string()),
            same: tally.same,
            newly_allowed: count(Kind::NewlyAllowed),
            newly_denied: count(Kind::NewlyDenied),
            other_reason: count(Kind::OtherReason),
            failed: tally.failed,
            skipped: tally.skipped,
            untold: tally.untold,
            changes: tally
                .changes
                .into_iter()
                .map(|(change, examples)| row(change, examples.count, examples.ids))
                .collect(),
        })
    }
}

fn row(Change { kind, partner, operation, reason }: Change, count: u64, examples: Vec<String>) -> ChangeRow {
    ChangeRow { change: kind.as_str(), count, partner, operation, reason, examples }
}

/// Which rules mask records.
fn masks(policy: &Policy) -> Option<&Arc<str>> {
    policy.log().map(|rules| rules.revision())
}

fn lines(problems: &Problems) -> Vec<String> {
    problems.errors().map(ToString::to_string).collect()
}

/// Problems of a policy whose files are not where they seem to be.
#[must_use]
pub fn of_promotion(mut problems: Problems, standing: Option<&Promotion>) -> Problems {
    if let Some(promotion) = standing {
        let reason = format!(
            "the policy is not the configured one: {} is, which {} has promoted at {}",
            promotion.revision, promotion.author, promotion.at
        );
        let fix = "`partnergate db end-promotion` takes that back with the gateway stopped, and any change of the configured \
                   policy ends it";
        problems.file("policy", reason, Some(fix));
    }
    problems
}

impl Publisher {
    /// The candidate, and what has been seen of it.
    pub fn candidate(&self) -> Option<CandidateState> {
        let live = self.live.load_full()?;
        let candidate = CandidateSeen::of(&live.snapshot, self.open.preview.seen());
        let policy = live.snapshot.revision.policy.to_string();
        Some(CandidateState { policy, promotion: self.promotion(), candidate })
    }

    /// What decides in the place of the configured policy.
    pub fn promotion(&self) -> Option<PromotionState> {
        self.promotion.load().as_ref().map(|promotion| PromotionState {
            revision: promotion.revision.to_string(),
            over: promotion.over.to_string(),
            author: promotion.author.clone(),
            at: promotion.at.to_string(),
            reason: promotion.reason.clone(),
        })
    }

    /// Puts the candidate in the place of the policy that decides. `revision` is of the one that was looked at, or
    /// what it begins with.
    ///
    /// # Errors
    /// There is none, it is another one, or it does not fit the registry; nothing was changed.
    pub async fn promote(self: &Arc<Self>, revision: String, cause: Cause) -> Result<CandidateState, ChangeError> {
        let this = self.clone();
        aside(async move { this.promote_now(&revision, &cause).await })
            .await
            .unwrap_or_else(|e| Err(interrupted("policy", &e)))
    }

    async fn promote_now(&self, revision: &str, cause: &Cause) -> Result<CandidateState, ChangeError> {
        let running = self.state.lock().await;
        self.catch_up(&running).await?;
        let Some(live) = self.live.load_full() else { return Err(not_live().into()) };
        let Some(candidate) = &live.snapshot.candidate else {
            return Err(not_so("there is no candidate", Some("name its folder in `policy.candidate.dir`")).into());
        };
        let policy = candidate.policy.as_ref().map_err(|problems| ChangeError::Invalid(problems.clone()))?;
        if !policy.revision().starts_with(revision) {
            return Err(ChangeError::Stale);
        }
        if revision.len() < SHORTEST {
            let reason = format!("`{revision}` is too short for a revision: name {SHORTEST} of its digits at least");
            return Err(not_so(&reason, None).into());
        }
        if candidate.decides {
            return Err(not_so("the candidate is what decides already", None).into());
        }
        let Some(source) = running.candidate_source() else { return Err(ChangeError::Stale) };
        if source.revision() != *policy.revision() {
            return Err(ChangeError::Stale);
        }
        let served = source.served();
        let bytes: usize = served.files.iter().map(|(path, text)| path.len() + text.len()).sum();
        if bytes > MAX_BYTES {
            let reason = format!(
                "the candidate has {bytes} bytes, and what is promoted is kept in the database: {MAX_BYTES} at most"
            );
            return Err(not_so(&reason, Some("put it into the place of the configured policy")).into());
        }
        let promotion = Promotion {
            revision: source.revision(),
            over: running.policy().revision(),
            author: cause.actor.name.clone(),
            at: self.clock.now(),
            reason: cause.reason.clone().unwrap_or_default(),
            files: served.files.into_iter().collect(),
        };
        self.decide_by(&running, Some(promotion), cause).await
    }

    /// Takes a promotion back: the configured policy decides again.
    ///
    /// # Errors
    /// There is none, or the configured policy does not fit the registry; nothing was changed.
    pub async fn roll_back(self: &Arc<Self>, cause: Cause) -> Result<CandidateState, ChangeError> {
        let this = self.clone();
        let done = aside(async move {
            let running = this.state.lock().await;
            this.catch_up(&running).await?;
            if this.promotion.load().is_none() && this.promotion_ended.load().is_none() {
                return Err(not_so("no candidate is promoted: the configured policy decides", None).into());
            }
            this.decide_by(&running, None, &cause).await
        });
        done.await.unwrap_or_else(|e| Err(interrupted("policy", &e)))
    }

    /// Database first, then requests.
    async fn decide_by(
        &self,
        running: &Config,
        promotion: Option<Promotion>,
        cause: &Cause,
    ) -> Result<CandidateState, ChangeError> {
        let Some(live) = self.live.load_full() else { return Err(not_live().into()) };
        let (registry, material) = (live.snapshot.registry.clone(), live.snapshot.material.clone());
        let tokens = live.snapshot.tokens.clone();
        let sources = Sources { material, tokens, ..running.sources(registry, promotion.as_ref()) };
        let (snapshot, warnings) = Snapshot::build(sources, Some(&live.snapshot), self.clock.now())?;
        let promoted = [Promoted(promotion)];
        let commit = Commit { promotions: &promoted, ..Commit::default() };
        self.commit_and_publish(&live, None, commit, cause).await?;
        self.promotion_ended.store(None);
        let [Promoted(promotion)] = promoted;
        let policy = snapshot.revision.policy.clone();
        let what = if promotion.is_some() { "the candidate is promoted" } else { "the promotion is taken back" };
        self.promotion_is(promotion);
        self.publish(snapshot, None, Concerns::Everybody, Instant::now()).await?;
        log_warnings(&warnings);
        let (author, reason) = (&cause.actor.name, cause.reason.as_deref().unwrap_or_default());
        tracing::warn!(%policy, author, reason, "{what}");
        self.candidate().ok_or_else(|| not_live().into())
    }

    /// Ends a promotion over a configured policy that is another one by now. What is live has it already.
    pub(super) async fn end_promotion(&self, configured: &PolicySource) {
        let Some(promotion) = self.promotion.load_full().filter(|promotion| !promotion.stands(configured)) else {
            return;
        };
        self.promotion_is(None);
        let same = promotion.revision == configured.revision();
        let reason =
            if same { "the configured policy is the promoted one" } else { "the configured policy has changed" };
        tracing::warn!(promoted = %promotion.revision, "the promotion is over: {reason}");
        self.promotion_ended.store(Some(Arc::new(reason.to_owned())));
        self.write_end_of_promotion().await;
    }

    /// Writes that a promotion is over, which came out of the files; it is tried again until the database has it.
    pub(super) async fn write_end_of_promotion(&self) {
        let (Some(reason), Some(live)) = (self.promotion_ended.load_full(), self.live.load_full()) else { return };
        let cause = Cause::new(Actor::user("partnergate", None, Way::Gateway), Some(String::clone(&reason)), None);
        let commit = Commit { promotions: &[Promoted(None)], ..Commit::default() };
        match self.commit_and_publish(&live, None, commit, &cause).await {
            Ok(_) => self.promotion_ended.store(None),
            Err(e) => tracing::error!(error = %e, "the end of a promotion is not in the database; it is tried again"),
        }
    }

    pub(super) fn promotion_is(&self, promotion: Option<Promotion>) {
        self.metrics.promoted.set(i64::from(promotion.is_some()));
        self.promotion.store(promotion.map(Arc::new));
    }
}

fn not_so(reason: &str, fix: Option<&str>) -> Problems {
    let mut problems = Problems::new();
    problems.file("policy", reason, fix);
    problems
}
