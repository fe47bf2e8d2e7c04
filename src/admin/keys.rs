//! The keys that tokens are signed with, over the admin API.

use super::answer::{Answer, Change, done, problem, sent, undone, wrong};
use super::caller::Caller;
use super::{Shared, WhyCall};
use crate::reload::{KeyWish, KeysState};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of `POST /v1/token/keys`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NextKeyCall {
    /// It signs now, and not once others had time to learn of it.
    #[serde(default)]
    pub at_once: bool,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

pub(super) async fn list(State(shared): State<Shared>) -> Answer<KeysState> {
    let none = || problem(StatusCode::NOT_FOUND, "the gateway signs nothing: add `tokens` to the config", Vec::new());
    shared.publisher.keys().map_or_else(|| Err(none()), sent)
}

pub(super) async fn next(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Json(call): Json<NextKeyCall>,
) -> Change<KeysState> {
    let wish = KeyWish::Next { at_once: call.at_once };
    change(&shared, &caller, wish, WhyCall { reason: call.reason, ticket: call.ticket }).await
}

pub(super) async fn withdraw(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(call): Json<WhyCall>,
) -> Change<KeysState> {
    change(&shared, &caller, KeyWish::Withdraw(id), call).await
}

async fn change(shared: &Shared, caller: &Caller, wish: KeyWish, call: WhyCall) -> Change<KeysState> {
    if call.reason.trim().is_empty() {
        return Err(wrong("a reason is needed: it is kept in the history"));
    }
    let cause = caller.cause(Some(&call.reason), call.ticket.as_ref());
    shared.publisher.change_keys(wish, cause).await.map_or_else(undone, done)
}
