//! Lockdowns over the admin API.

use super::Shared;
use super::answer::{Switch, switched, undone, wrong};
use super::caller::Caller;
use crate::partner::{Lockdown, Locked};
use axum::extract::State;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of `POST /v1/lockdown/on` and `…/off`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LockdownCall {
    /// Everybody when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<String>,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// Whether something is locked down, and what all is.
#[derive(Serialize, JsonSchema)]
pub(super) struct LockedDown {
    on: bool,
    /// Names of anchors, and `*` for everybody.
    left: Vec<String>,
}

pub(super) async fn on(
    state: State<Shared>,
    caller: Extension<Caller>,
    call: Json<LockdownCall>,
) -> Switch<LockedDown> {
    change(state, caller, call, true).await
}

pub(super) async fn off(
    state: State<Shared>,
    caller: Extension<Caller>,
    call: Json<LockdownCall>,
) -> Switch<LockedDown> {
    change(state, caller, call, false).await
}

async fn change(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Json(call): Json<LockdownCall>,
    on: bool,
) -> Switch<LockedDown> {
    let locked = match call.anchor.as_deref().map(Locked::parse) {
        None => Locked::Everybody,
        Some(Ok(under @ Locked::Under(_))) => under,
        Some(Ok(Locked::Everybody)) => return Err(wrong("leave `anchor` out for everybody")),
        Some(Err(reason)) => return Err(wrong(&reason)),
    };
    if call.reason.trim().is_empty() {
        return Err(wrong("a reason is needed: it is kept"));
    }
    let (author, at) = (caller.actor.name.clone(), shared.publisher.now());
    let lockdown =
        on.then(|| Lockdown { locked: locked.clone(), reason: call.reason.clone(), author: author.clone(), at });
    let cause = caller.cause(Some(&call.reason), call.ticket.as_ref());
    match shared.publisher.lock_down(locked.clone(), lockdown, cause).await {
        Ok((done, changed)) => {
            if changed {
                let what = if on { "locked down" } else { "no longer locked down" };
                tracing::warn!(
                    locked = locked.as_str(),
                    author,
                    reason = call.reason,
                    revision = done.revision,
                    "{what}"
                );
            }
            let live = shared.publisher.live();
            let left = live.iter().flat_map(|live| live.snapshot.registry.lockdowns());
            let left = left.map(|l| l.locked.as_str().to_owned()).collect();
            switched(LockedDown { on, left }, done, changed)
        }
        Err(e) => undone(e),
    }
}
