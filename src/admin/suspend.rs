//! Partners over the admin API: stopped at once, and let go on.

use super::answer::{problem, refused, switched, wrong};
use super::caller::Caller;
use super::{Shared, WhyCall};
use crate::name::PartnerId;
use crate::partner::Suspension;
use crate::reload::Stop;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use serde_json::json;

pub(super) async fn suspend(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(call): Json<WhyCall>,
) -> Response {
    let at = shared.publisher.now();
    let suspension = Suspension { reason: call.reason.clone(), author: caller.actor.name.clone(), at };
    change(shared, caller, &id, call, Stop::Suspend(suspension)).await
}

pub(super) async fn resume(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(call): Json<WhyCall>,
) -> Response {
    change(shared, caller, &id, call, Stop::Resume).await
}

pub(super) async fn change(shared: Shared, caller: Caller, id: &str, call: WhyCall, stop: Stop) -> Response {
    let Ok(id) = PartnerId::parse(id) else {
        return problem(StatusCode::NOT_FOUND, "there is no such partner", Vec::new());
    };
    if call.reason.trim().is_empty() {
        return wrong("a reason is needed: it is kept");
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
            let what = json!({
                "partner": partner.id, "state": partner.standing().as_str(), "suspension": partner.suspension,
                "review_due": partner.review_due().map(|due| due.to_string()),
            });
            switched(what, done.switched, done.changed)
        }
        Err(e) => refused(e),
    }
}
