//! The candidate of the policy over the admin API: what it would change, and putting it in the place of the configured policy.

use super::answer::{Answer, Change, done, failed, live, sent, undone, wrong};
use super::caller::Caller;
use super::{Shared, WhyCall};
use crate::reload::CandidateState;
use axum::extract::State;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of `POST /v1/policy/candidate/promote`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromoteCall {
    /// Of the candidate that was looked at, or its first 8 digits or more: another one is not promoted.
    pub revision: String,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

pub(super) async fn show(State(shared): State<Shared>) -> Answer<CandidateState> {
    live(&shared)?;
    shared.publisher.candidate().map_or_else(|| Err(failed("no snapshot is live")), sent)
}

pub(super) async fn promote(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Json(call): Json<PromoteCall>,
) -> Change<CandidateState> {
    if call.reason.trim().is_empty() {
        return Err(wrong("a reason is needed: it is kept in the history"));
    }
    let cause = caller.cause(Some(&call.reason), call.ticket.as_ref());
    shared.publisher.promote(call.revision, cause).await.map_or_else(undone, done)
}

pub(super) async fn roll_back(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Json(call): Json<WhyCall>,
) -> Change<CandidateState> {
    if call.reason.trim().is_empty() {
        return Err(wrong("a reason is needed: it is kept in the history"));
    }
    let cause = caller.cause(Some(&call.reason), call.ticket.as_ref());
    shared.publisher.roll_back(cause).await.map_or_else(undone, done)
}
