//! Partners over the admin API: stopped at once, and let go on.

use super::answer::{Switch, switched, undone, unknown, wrong};
use super::caller::Caller;
use super::{Shared, WhyCall};
use crate::name::PartnerId;
use crate::partner::{PartnerState, Suspension};
use crate::reload::Stop;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Serialize;

/// Where a partner stands now.
#[derive(Serialize, JsonSchema)]
pub(super) struct Standing {
    partner: PartnerId,
    state: PartnerState,
    /// Null where no operator has stopped it.
    suspension: Option<Suspension>,
    /// When somebody has to look at it again, RFC 3339; null where nobody has to.
    review_due: Option<String>,
}

pub(super) async fn suspend(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(call): Json<WhyCall>,
) -> Switch<Standing> {
    let at = shared.publisher.now();
    let suspension = Suspension { reason: call.reason.clone(), author: caller.actor.name.clone(), at };
    change(shared, caller, &id, call, Stop::Suspend(suspension)).await
}

pub(super) async fn resume(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(call): Json<WhyCall>,
) -> Switch<Standing> {
    change(shared, caller, &id, call, Stop::Resume).await
}

pub(super) async fn change(shared: Shared, caller: Caller, id: &str, call: WhyCall, stop: Stop) -> Switch<Standing> {
    let id = PartnerId::parse(id).map_err(|_| unknown("partner"))?;
    if call.reason.trim().is_empty() {
        return Err(wrong("a reason is needed: it is kept"));
    }
    let verb = match stop {
        Stop::Suspend(_) => "suspended",
        Stop::Resume => "resumed",
        Stop::Review(_) => "reviewed",
    };
    let author = caller.actor.name.clone();
    let cause = caller.cause(Some(&call.reason), call.ticket.as_ref());
    match shared.publisher.stop(id, stop, cause).await {
        Ok(done) => {
            let partner = &done.partner;
            if done.changed {
                let (reason, revision) = (call.reason, done.switched.revision);
                tracing::warn!(partner = %partner.id, author, reason, revision, "a partner is {verb}");
            }
            let what = Standing {
                partner: partner.id.clone(),
                state: partner.standing(),
                suspension: partner.suspension.clone(),
                review_due: partner.review_due().map(|due| due.to_string()),
            };
            switched(what, done.switched, done.changed)
        }
        Err(e) => undone(e),
    }
}
